package pubsubserver

import (
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/wallclock"
	"example.com/pushinbox/testkit/asleep"
)

// setClock is the system's clock, set ahead by a time.Duration.
type setClock struct{ ahead atomic.Int64 }

func (c *setClock) Now() time.Time { return asleep.After(time.Duration(c.ahead.Load())) }

func (c *setClock) At(t time.Time, f func()) func() bool {
	return time.AfterFunc(t.Sub(c.Now()), f).Stop
}

// openAt opens a server that goes by c as by the system's clock.
func openAt(t *testing.T, c *setClock, settings *pubsubpb.Subscription) *world {
	w := &world{T: t, options: Options{Clock: c}}
	w.open()
	w.wall = wallclock.New(c.Now)
	t.Cleanup(func() { w.must(w.Server.Close()) })
	w.createSub(settings)
	return w
}

// TestClockIsSetBack has a refused message come again after its time when the clock was
// set back by an hour meanwhile, and another one after that.
func TestClockIsSetBack(t *testing.T) {
	t.Parallel()
	c := &setClock{}
	w := openAt(t, c, &pubsubpb.Subscription{RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(time.Second)}})
	w.publish("m")
	for range 3 {
		begun := time.Now()
		r, err := w.Pull(w.Context(), &pubsubpb.PullRequest{Subscription: subS, MaxMessages: 1})
		w.must(err)
		if len(r.ReceivedMessages) != 1 || time.Since(begun) > time.Minute {
			t.Fatalf("after %v came %v", time.Since(begun), r.ReceivedMessages)
		}
		_, err = w.ModifyAckDeadline(w.Context(), &pubsubpb.ModifyAckDeadlineRequest{Subscription: subS, AckIds: ackIDs(r.ReceivedMessages)})
		w.must(err)
		c.ahead.Add(-int64(time.Hour))
	}
}

// TestClockIsSet sets the clock while something is leased or waits, which goes on as it was.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	pull := func(w *world) []*pubsubpb.ReceivedMessage {
		w.Helper()
		r, err := w.Pull(w.Context(), pullNow(subS, 1))
		w.must(err)
		return r.ReceivedMessages
	}
	extend := func(w *world, got []*pubsubpb.ReceivedMessage, seconds int32) {
		w.Helper()
		_, err := w.ModifyAckDeadline(w.Context(), &pubsubpb.ModifyAckDeadlineRequest{Subscription: subS, AckIds: ackIDs(got), AckDeadlineSeconds: seconds})
		w.must(err)
	}
	for name, test := range map[string]func(w *world, set func(time.Duration)){
		"leased after it was set back": func(w *world, set func(time.Duration)) {
			set(-time.Minute)
			pull(w)
		},
		"extended after it was set back": func(w *world, set func(time.Duration)) {
			got := pull(w)
			set(-time.Minute)
			extend(w, got, 20)
		},
		"leased before it was ahead": func(w *world, set func(time.Duration)) {
			extend(w, pull(w), 600)
			set(time.Hour)
			w.housework()
			set(0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &setClock{}
			w := openAt(t, c, &pubsubpb.Subscription{})
			w.publish("m")
			w.housework()
			test(w, func(ahead time.Duration) { c.ahead.Store(int64(ahead)) })
			w.housework()
			time.Sleep(100 * time.Millisecond)
			if got := pull(w); len(got) > 0 {
				t.Errorf("it comes again at once: %q", dataOf(got))
			}
		})
	}
}

// TestTurnsAfterTheClockWasSetBack has a message that is refused, or given back, take turns
// with those that have the time of an earlier one.
func TestTurnsAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	c := &setClock{}
	w := openAt(t, c, &pubsubpb.Subscription{})
	w.publish("0")
	c.ahead.Store(-int64(time.Hour))
	w.housework()
	queue := &Queue{w.subscriptions[subS]}
	leases, _, err := queue.Lease(1)
	w.must(err)
	queue.Release(leases[0])
	w.publish("1", "2", "3")
	came := map[string]int{}
	for range 8 {
		leases, _, err := queue.Lease(1)
		w.must(err)
		for _, l := range leases {
			came[string(l.Message.Data)]++
			queue.Nack(l)
		}
	}
	if len(came) != 4 {
		t.Errorf("so many times came %v, want all four", came)
	}
}

// TestClockLeaps keeps what would be too old by a clock that is eight days ahead, until it
// is so for an hour.
func TestClockLeaps(t *testing.T) {
	t.Parallel()
	c := &setClock{}
	w := openAt(t, c, &pubsubpb.Subscription{})
	w.publish("m")
	c.ahead.Store(int64(8 * day))
	w.housework()
	if n, _, err := w.Backlog(subS); n != 1 || err != nil {
		t.Errorf("%d messages are left, %v", n, err)
	}
	if r, err := w.Pull(w.Context(), pullNow(subS, 1)); err != nil || len(r.ReceivedMessages) != 1 {
		t.Errorf("pulled %v, %v", r, err)
	}
}

// TestRestartAfterTheClockWasSetBack has a message come again after the delay of its
// attempts at most.
func TestRestartAfterTheClockWasSetBack(t *testing.T) {
	inWorld(t, func(w *world) {
		c := &setClock{}
		c.ahead.Store(int64(time.Hour))
		w.must(w.Server.Close())
		w.options.Clock = c
		w.open()
		w.createSub(&pubsubpb.Subscription{RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(20 * time.Second)}})
		w.publish("m")
		w.nack(subS, w.expect(subS, "m"))
		c.ahead.Store(0)
		w.reopen()
		w.expect(subS)
		time.Sleep(20 * time.Second)
		w.expect(subS, "m")
	})
}
