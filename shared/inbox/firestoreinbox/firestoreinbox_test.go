package firestoreinbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/inboxtest"
	"example.com/pushinbox/testkit/measure"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// config returns the settings that functions have by default.
func config(host, project string) Config {
	return Config{
		Project: project, Database: "(default)", Collection: "messages", Shards: 16, TTL: 720 * time.Hour, EmulatorHost: host,
	}
}

// open opens an inbox on the emulator at host, or where opts say.
func open(t testing.TB, host, project string, opts ...option.ClientOption) *Inbox {
	t.Helper()
	in, err := Open(t.Context(), config(host, project), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// place is where open opens inboxes.
func place(open func(t *testing.T) *Inbox) inboxtest.Place {
	return inboxtest.Place{
		Open: func(t *testing.T) inbox.Inbox { return open(t) },
		OpenAt: func(t *testing.T, now func() time.Time) inbox.Inbox {
			in := open(t)
			in.ttl, in.now = inboxtest.TTL, now
			return in
		},
	}
}

// TestEmulator runs the conformance suite on Google's emulator.
func TestEmulator(t *testing.T) {
	measure.SkipRace(t, "TestModel runs the same with it")
	host := emulator.Firestore(t)
	inboxtest.Run(t, func(t *testing.T) inboxtest.Place {
		project := emulator.Project()
		return place(func(t *testing.T) *Inbox { return open(t, host, project) })
	})
}

// TestModel runs it on a model of Firestore, where the feed is the one of
// production, and calls and streams fail. Feeds are read without room for a
// backlog too.
func TestModel(t *testing.T) {
	model := func(faults float64, backlog int) func(t *testing.T) inboxtest.Place {
		return func(t *testing.T) inboxtest.Place {
			rate := faults
			if strings.HasSuffix(t.Name(), "/context_ends_during_put") {
				rate = 0 // it wants no error but its context's
			}
			_, opts := newModel(t, rate)
			return place(func(t *testing.T) *Inbox {
				in := open(t, "", "p", opts...)
				in.backlog = backlog
				return in
			})
		}
	}
	t.Run("faults", func(t *testing.T) {
		t.Parallel()
		inboxtest.Run(t, model(0.02, maxBacklog))
	})
	t.Run("no_room_for_a_backlog", func(t *testing.T) {
		t.Parallel()
		inboxtest.RunWatch(t, model(0, 3000))
	})
}

// TestTTLShortened lists messages that live on behind newer ones that have expired,
// because the TTL was longer when they were stored: no page is empty before the last.
func TestTTLShortened(t *testing.T) {
	t.Parallel()
	_, opts := newModel(t, 0)
	in := open(t, "", "p", opts...)
	defer in.Close()
	put := func(prefix string, n int) {
		for i := range n {
			m := &inbox.Message{Source: "s", Subscription: "s", MessageID: fmt.Sprint(prefix, i)}
			if stored, err := in.Put(t.Context(), m); !stored || err != nil {
				t.Fatal(stored, err)
			}
		}
	}
	in.ttl = 10 * time.Hour
	put("long", 5)
	in.ttl = time.Hour
	put("short", 20)
	in.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	for _, size := range []int{1, 2, 5, 6} {
		q, n := inbox.Query{PageSize: size}, 0
		for {
			page, err := in.List(t.Context(), q)
			if err != nil || len(page.Events) != min(size, 5-n) {
				t.Fatalf("pages of %d: %d messages after %d of 5, %v", size, len(page.Events), n, err)
			}
			n += len(page.Events)
			if q.PageToken = page.NextPageToken; q.PageToken == "" {
				break
			}
		}
		if n != 5 {
			t.Errorf("pages of %d list %d messages, want 5", size, n)
		}
	}
}

// TestPatience reads with and without a patience from a Firestore that fails or is slow: only
// failures are counted against it.
func TestPatience(t *testing.T) {
	t.Parallel()
	const short, long = 300 * time.Millisecond, time.Second
	for name, test := range map[string]struct {
		patience time.Duration // 0 means none is set
		failing  time.Duration // for how long calls fail
		slow     time.Duration // how long each call takes
		want     error
		calls    int64 // 0 means several
	}{
		"fails":                    {short, time.Hour, 0, inbox.ErrUnavailable, 0},
		"fails_for_less":           {long, short, 0, nil, 0},
		"is_slow":                  {short, 0, long, nil, 1},
		"is_slow_and_fails":        {short, time.Hour, long, inbox.ErrUnavailable, 1},
		"fails_without_a_patience": {0, long, 0, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, opts := newModel(t, 0)
			var calls atomic.Int64
			begun := time.Now()
			in := open(t, "", "p", append(opts, option.WithGRPCDialOption(grpc.WithStreamInterceptor(
				func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
					calls.Add(1)
					time.Sleep(test.slow)
					if time.Since(begun) < test.failing {
						return nil, status.Error(codes.Unavailable, "the cause")
					}
					return open(ctx, desc, conn, method, o...)
				})))...)
			defer in.Close()
			ctx := t.Context()
			if test.patience > 0 {
				ctx = inbox.WithPatience(ctx, test.patience)
			}
			_, err := in.List(ctx, inbox.Query{})
			if took := time.Since(begun); !errors.Is(err, test.want) || took > 10*time.Second {
				t.Errorf("after %v List = %v, want %v", took, err, test.want)
			}
			if n := calls.Load(); test.calls != n && (test.calls != 0 || n < 2) {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
		})
	}
}
