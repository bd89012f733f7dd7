package firestoreinbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestListenerOnEmulator uses production's feed on the emulator, which takes
// its request and answers as the API says. More than that the emulator cannot
// show, see emulatorLateness; the model does.
func TestListenerOnEmulator(t *testing.T) {
	in := open(t, emulator.Firestore(t), emulator.Project())
	defer in.Close()
	page, err := in.List(t.Context(), inbox.Query{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	put := func() {
		m := &inbox.Message{Source: "s", MessageID: fmt.Sprint(n)}
		if _, err := in.Put(t.Context(), m); err != nil {
			t.Error(err)
		}
		n++
	}
	for range 5 {
		put()
	}
	in.late = 0
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events := make(chan inbox.Event, 1000)
	go func() {
		defer close(events)
		for e, err := range in.Watch(ctx, inbox.Query{PageToken: page.WatchToken}) {
			if err != nil {
				t.Error(err)
				return
			}
			events <- e
		}
	}()
	for i := range 5 {
		if e := <-events; e.Message.MessageID != fmt.Sprint(i) {
			t.Fatalf("event %d is of %q", i, e.Message.MessageID)
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for put(); ; {
		select {
		case e, ok := <-events:
			if !ok || e.Message.MessageID < "5" {
				t.Fatalf("event %+v of what is stored while the listener waits", e)
			}
			return
		case <-tick.C:
			put()
		}
	}
}

// TestWatchGivesUp has the listener refused for good.
func TestWatchGivesUp(t *testing.T) {
	for _, code := range []codes.Code{codes.PermissionDenied, codes.FailedPrecondition, codes.InvalidArgument, codes.NotFound} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			_, opts := newModel(t, 0)
			in := open(t, "", "p", append(opts, option.WithGRPCDialOption(grpc.WithChainStreamInterceptor(
				func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, s grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					if method == "/google.firestore.v1.Firestore/Listen" {
						return nil, status.Error(code, "the cause")
					}
					return s(ctx, d, cc, method, opts...)
				})))...)
			defer in.Close()
			n := 0
			for _, err := range in.Watch(t.Context(), inbox.Query{}) {
				if n++; !errors.Is(err, inbox.ErrUnavailable) || !strings.Contains(err.Error(), "the cause") {
					t.Errorf("Watch yielded %v, want ErrUnavailable with its cause", err)
				}
			}
			if n != 1 {
				t.Errorf("Watch yielded %d times, want one error", n)
			}
		})
	}
}

// TestCatchUpFromAnyTime reads backlogs from positions that anybody can make.
func TestCatchUpFromAnyTime(t *testing.T) {
	_, opts := newModel(t, 0)
	in := open(t, "", "p", opts...)
	defer in.Close()
	const messages = 3
	for i := range messages {
		if _, err := in.Put(t.Context(), &inbox.Message{Source: "s", MessageID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		at   time.Time
		want int
	}{
		{time.UnixMicro(0), messages},
		{time.Now().Add(-time.Hour), messages},
		{time.Now().Add(time.Hour), 0},
		{time.UnixMicro(253402300799999999), 0}, // the last that a token can hold
	} {
		n := 0
		f := &feed{in: in, q: &inbox.Query{}, at: inbox.Position{Commit: test.at}, yield: func(inbox.Event, error) bool { n++; return true }}
		if err := f.catchUp(t.Context()); err != nil || n != test.want {
			t.Errorf("from %v: %d messages, %v, want %d", test.at, n, err, test.want)
		}
	}
}

// TestMessageWithinQuery stores a message while a page is being read, among the
// rows that are still to be read. It must not be on the page and in its feed.
func TestMessageWithinQuery(t *testing.T) {
	m, opts := newModel(t, 0)
	in := open(t, "", "p", opts...)
	defer in.Close()
	put := func(id string) {
		if _, err := in.Put(t.Context(), &inbox.Message{Source: "s", MessageID: id}); err != nil {
			t.Error(err)
		}
	}
	for i := range 110 { // the model reads at most 100 at once
		put(fmt.Sprint(i))
	}
	m.within = func() {
		put("within")
		m.mu.Lock()
		defer m.mu.Unlock()
		// It took long from its stamp to its commit.
		d := m.docs[in.name(inbox.ID("s", "", "within"))]
		d.Fields[fieldReceivedAt] = timeValue(time.Now().Add(-10 * time.Second))
	}
	page, err := in.List(t.Context(), inbox.Query{PageSize: inbox.MaxPageSize})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range page.Messages() {
		if m.MessageID == "within" {
			t.Error("a message is on a page that was begun before it came")
		}
	}
	put("after")
	var got []string
	for e, err := range in.Watch(t.Context(), inbox.Query{PageToken: page.WatchToken}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.Message.MessageID); e.Message.MessageID == "after" {
			break
		}
	}
	if want := []string{"within", "after"}; !slices.Equal(got, want) {
		t.Errorf("the feed of the page yielded %q, want %q", got, want)
	}
}
