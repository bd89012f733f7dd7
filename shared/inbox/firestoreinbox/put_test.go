package firestoreinbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// intercept returns an option that puts f in front of every call.
func intercept(f grpc.UnaryClientInterceptor) option.ClientOption {
	return option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(f))
}

// payload returns n random bytes.
func payload(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
	return b
}

func TestOneBadWriteFailsAlone(t *testing.T) {
	t.Parallel()
	_, opts := newModel(t, 0)
	var largest atomic.Int64
	in := open(t, "", "p", append(opts, intercept(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if r, ok := req.(*pb.BatchWriteRequest); ok {
				largest.Store(max(largest.Load(), int64(len(r.Writes))))
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}))...)
	defer in.Close()
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			m := &inbox.Message{Source: "s", MessageID: fmt.Sprint("good-", i)}
			if i%50 == 0 {
				m.MessageID = fmt.Sprint(poison, i)
			}
			switch stored, err := in.Put(t.Context(), m); {
			case i%50 == 0 && (stored || !errors.Is(err, inbox.ErrInvalid)):
				t.Errorf("Put of a bad write = %v, %v, want ErrInvalid", stored, err)
			case i%50 != 0 && (!stored || err != nil):
				t.Errorf("Put beside bad writes = %v, %v, want true", stored, err)
			}
		})
	}
	wg.Wait()
	if largest.Load() < 10 {
		t.Errorf("the largest batch had %d writes: nothing was shared", largest.Load())
	}
}

// TestErrors has Firestore refuse a write for good or for a while.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		name  string
		code  codes.Code
		times int // how often it fails; 0 means always
		want  error
		calls int64 // 0 means several
	}{
		{"unavailable_at_first", codes.Unavailable, 2, nil, 3},
		{"aborted_at_first", codes.Aborted, 2, nil, 3},
		{"resource_exhausted_at_first", codes.ResourceExhausted, 2, nil, 3},
		{"deadline_exceeded_at_first", codes.DeadlineExceeded, 2, nil, 3},
		{"internal_at_first", codes.Internal, 2, nil, 3},
		{"unavailable", codes.Unavailable, 0, inbox.ErrUnavailable, 0},
		{"permission_denied", codes.PermissionDenied, 0, inbox.ErrUnavailable, 1},
		{"unauthenticated", codes.Unauthenticated, 0, inbox.ErrUnavailable, 1},
		{"no_such_database", codes.NotFound, 0, inbox.ErrUnavailable, 1},
		{"precondition", codes.FailedPrecondition, 0, inbox.ErrUnavailable, 1},
		{"invalid", codes.InvalidArgument, 0, inbox.ErrInvalid, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, opts := newModel(t, 0)
			var calls atomic.Int64
			in := open(t, "", "p", append(opts, intercept(
				func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					if n := calls.Add(1); test.times == 0 || n <= int64(test.times) {
						return status.Error(test.code, "the cause")
					}
					return invoker(ctx, method, req, reply, cc, opts...)
				}))...)
			defer in.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			stored, err := in.Put(ctx, &inbox.Message{Source: "s", MessageID: "m"})
			if stored != (test.want == nil) || !errors.Is(err, test.want) {
				t.Errorf("Put = %v, %v, want %v", stored, err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), "the cause") {
				t.Errorf("the error %q hides its cause", err)
			}
			if n := calls.Load(); test.calls != n && (test.calls != 0 || n < 3) {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
			if ctx.Err() != nil {
				t.Error("the whole deadline was used up")
			}
		})
	}
}

// TestRepliesLost has every write's first reply get lost: the second try meets
// the first's document, and Put still knows that it stored it.
func TestRepliesLost(t *testing.T) {
	t.Parallel()
	_, opts := newModel(t, 0)
	var calls atomic.Int64
	in := open(t, "", "p", append(opts, intercept(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if calls.Add(1)%2 == 1 {
				return status.Error(codes.Unavailable, "the reply is lost")
			}
			return err
		}))...)
	defer in.Close()
	m := &inbox.Message{Source: "s", MessageID: "m"}
	if stored, err := in.Put(t.Context(), m); !stored || err != nil {
		t.Errorf("Put = %v, %v, want true", stored, err)
	}
	if stored, err := in.Put(t.Context(), m); stored || err != nil {
		t.Errorf("Put again = %v, %v, want false", stored, err)
	}
}

// TestCrashBetweenChunks cuts a large Put off after each of its writes in turn,
// with and without the last one applied. Nobody sees a part of it, and the next
// delivery completes it, also one that claims the same identity for other data.
func TestCrashBetweenChunks(t *testing.T) {
	host := emulator.Firestore(t)
	const writes = 1 + 4 // four chunks and the message
	for _, applied := range []bool{false, true} {
		for after := range writes {
			t.Run(fmt.Sprintf("after_%d_applied_%v", after, applied), func(t *testing.T) {
				t.Parallel()
				project := emulator.Project()
				var calls atomic.Int64
				crashing := open(t, host, project, intercept(
					func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
						n := calls.Add(1) - 1
						if n < int64(after) || n == int64(after) && applied {
							if err := invoker(ctx, method, req, reply, cc, opts...); n < int64(after) {
								return err
							}
						}
						return status.Error(codes.PermissionDenied, "crashed") // not tried again
					}))
				defer crashing.Close()
				in := open(t, host, project)
				defer in.Close()

				m := &inbox.Message{Source: "s", Subscription: "s", MessageID: "m", Data: payload(3_500_000)}
				if _, err := crashing.Put(t.Context(), m); !errors.Is(err, inbox.ErrUnavailable) {
					t.Fatalf("the crashing Put = %v, want ErrUnavailable", err)
				}
				id := inbox.ID(m.Source, m.Subscription, m.MessageID)
				whole := applied && after == writes-1
				got, err := in.Get(t.Context(), id)
				if whole && (err != nil || !bytes.Equal(got.Data, m.Data)) || !whole && !errors.Is(err, inbox.ErrNotFound) {
					t.Errorf("after the crash Get = %v, want %v", err, map[bool]string{true: "all of it", false: "ErrNotFound"}[whole])
				}
				page, err := in.List(t.Context(), inbox.Query{})
				if err != nil || (len(page.Events) == 1) != whole {
					t.Errorf("after the crash List = %+v, %v", page, err)
				}

				again := *m
				if after%2 == 1 {
					again.Data = payload(3_400_000)
				}
				if stored, err := in.Put(t.Context(), &again); stored == whole || err != nil {
					t.Errorf("the next delivery = %v, %v, want %v", stored, err, !whole)
				}
				want := again.Data
				if whole {
					want = m.Data
				}
				if got, err = in.Get(t.Context(), id); err != nil || !bytes.Equal(got.Data, want) {
					t.Errorf("after the next delivery Get = %v, or other data", err)
				}
			})
		}
	}
}

// TestTwoContents has another delivery claim the same identity for other data
// and write all of its chunks before the first writes its message: the two must
// not mix.
func TestTwoContents(t *testing.T) {
	t.Parallel()
	_, opts := newModel(t, 0)
	message := func(n int) *inbox.Message {
		return &inbox.Message{Source: "s", MessageID: "m", Data: payload(n)}
	}
	// writes calls f before a write of a message's document.
	writes := func(f func() error) option.ClientOption {
		return intercept(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if r, ok := req.(*pb.CommitRequest); ok && r.Writes[0].GetCurrentDocument() != nil {
				if err := f(); err != nil {
					return err
				}
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		})
	}
	other := open(t, "", "p", append(opts, writes(func() error { return status.Error(codes.PermissionDenied, "crashed") }))...)
	defer other.Close()
	in := open(t, "", "p", append(opts, writes(func() error {
		if _, err := other.Put(t.Context(), message(3_400_000)); !errors.Is(err, inbox.ErrUnavailable) {
			t.Errorf("the other delivery = %v, want a crash", err)
		}
		return nil
	}))...)
	defer in.Close()
	if stored, err := in.Put(t.Context(), message(3_500_000)); !stored || err != nil {
		t.Fatal(stored, err)
	}
	got, err := in.Get(t.Context(), inbox.ID("s", "", "m"))
	if err != nil || !bytes.Equal(got.Data, message(3_500_000).Data) {
		t.Errorf("Get = %v, or a mixture", err)
	}
}

// TestBufferIsTheCallers gives up on a Put whose write has not left yet, and
// uses its buffer for something else.
func TestBufferIsTheCallers(t *testing.T) {
	t.Parallel()
	_, opts := newModel(t, 0)
	held, release := make(chan struct{}), make(chan struct{})
	in := open(t, "", "p", append(opts, intercept(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			close(held)
			<-release
			return invoker(ctx, method, req, reply, cc, opts...)
		}))...)
	ctx, cancel := context.WithCancel(t.Context())
	m := &inbox.Message{Source: "s", MessageID: "m", Data: payload(100_000)}
	want := bytes.Clone(m.Data)
	go func() { <-held; cancel() }()
	if _, err := in.Put(ctx, m); !errors.Is(err, context.Canceled) {
		t.Fatalf("Put = %v, want context.Canceled", err)
	}
	clear(m.Data)
	close(release)
	if err := in.Close(); err != nil { // waits for the write
		t.Fatal(err)
	}
	in = open(t, "", "p", opts...)
	defer in.Close()
	got, err := in.Get(t.Context(), inbox.ID("s", "", "m"))
	if err != nil || !bytes.Equal(got.Data, want) {
		t.Errorf("Get = %v, or what the caller put into its buffer later", err)
	}
}

// TestMissingChunk takes a chunk away: Firestore's TTL may delete it before its
// message, and nothing else should.
func TestMissingChunk(t *testing.T) {
	t.Parallel()
	m, opts := newModel(t, 0)
	now := time.Now()
	in := open(t, "", "p", opts...)
	in.now = func() time.Time { return now }
	defer in.Close()
	message := &inbox.Message{Source: "s", MessageID: "m", Data: payload(2_500_000)}
	if _, err := in.Put(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	for name, d := range m.docs {
		if strings.Contains(name, "-chunks/") {
			if expire := timeOf(d.Fields[fieldExpireAt]); !expire.After(now.Add(in.ttl)) {
				t.Errorf("a chunk expires at %v, before its message", expire)
			}
			delete(m.docs, name)
			break
		}
	}
	id := inbox.ID("s", "", "m")
	if _, err := in.Get(t.Context(), id); !errors.Is(err, inbox.ErrUnavailable) {
		t.Errorf("Get = %v, want ErrUnavailable", err)
	}
	now = now.Add(in.ttl + time.Second)
	if _, err := in.Get(t.Context(), id); !errors.Is(err, inbox.ErrNotFound) {
		t.Errorf("Get after the expiry = %v, want ErrNotFound", err)
	}
}
