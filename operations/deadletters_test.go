package operations

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/local/records"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

// deadAttributes are those that Pub/Sub gives a dead letter.
func deadAttributes(project string) func(int) map[string]string {
	return func(i int) map[string]string {
		return map[string]string{
			"CloudPubSubDeadLetterSourceDeliveryCount":       "5",
			"CloudPubSubDeadLetterSourceSubscription":        "inbox",
			"CloudPubSubDeadLetterSourceSubscriptionProject": project,
			"CloudPubSubDeadLetterSourceTopicPublishTime":    "2026-11-26T03:00:00.123+00:00",
			"number": fmt.Sprint(i),
		}
	}
}

// deadLetters creates the inbox's subscription and one with n dead letters, and a
// bystander on the inbox's topic. It returns the names of the first two.
func deadLetters(w *world, n int) (source, dead string) {
	source = w.subscribe("inbox", &pubsubpb.PushConfig{PushEndpoint: w.receiver.url})
	_, err := w.client.SubscriptionAdminClient.CreateSubscription(w.t.Context(), &pubsubpb.Subscription{
		Name: w.name("subscriptions", "bystander"), Topic: w.name("topics", "inbox"), PushConfig: &pubsubpb.PushConfig{PushEndpoint: w.receiver.url},
	})
	w.check(err)
	dead = w.subscribe("dead", nil)
	w.publish("dead", n, deadAttributes(w.project))
	return source, dead
}

// TestListLeavesWhatWaits lists twice, and finds the same each time.
func TestListLeavesWhatWaits(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		_, dead := deadLetters(w, 7)
		for range 2 {
			letters, more, err := w.operator(nil).List(t.Context(), dead, 50)
			w.check(err)
			if len(letters) != 7 || more {
				t.Fatalf("%d letters, more: %t", len(letters), more)
			}
			l := letters[3]
			want := DeadLetter{
				MessageID: l.MessageID, GivenUp: l.GivenUp, Subscription: w.name("subscriptions", "inbox"), Attempts: 5,
				PublishTime: time.Date(2026, 11, 26, 3, 0, 0, 123e6, time.UTC), Attributes: map[string]string{"number": string(l.Data)}, Data: l.Data, Size: 1,
			}
			if diff := cmp.Diff(want, l, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		letters, more, err := w.operator(nil).List(t.Context(), dead, 3)
		w.check(err)
		if len(letters) != 3 || !more {
			t.Errorf("with a limit: %d letters, more: %t", len(letters), more)
		}
		if n := w.waiting(dead, 7); n != 7 {
			t.Errorf("%d of 7 wait after the lists", n)
		}
	})
}

// TestHostileDeadLetter lists what claims nonsense.
func TestHostileDeadLetter(t *testing.T) {
	t.Parallel()
	l := deadLetter(&pubsubpb.PubsubMessage{MessageId: "1", Data: make([]byte, 9000), Attributes: map[string]string{
		inbox.DeadLetterSource + "DeliveryCount": "many", inbox.DeadLetterSource + "Subscription": "y", inbox.DeadLetterSource + "SubscriptionProject": "x", inbox.DeadLetterSource + "TopicPublishTime": "yesterday",
	}}, "projects/p/subscriptions/dead")
	if l.Attempts != 0 || !l.PublishTime.IsZero() || l.Subscription != "projects/x/subscriptions/y" || len(l.Data) != 4096 || l.Size != 9000 {
		t.Errorf("it is read as %+v", l)
	}
}

// TestPurgeIsUndone purges, and brings it back.
func TestPurgeIsUndone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		_, dead := deadLetters(w, 20)
		if n := w.waiting(dead, 20); n != 20 {
			t.Fatalf("%d wait of 20", n)
		}
		p, err := w.operator(nil).Purge(t.Context(), dead)
		w.check(err)
		letters, _, err := w.operator(nil).List(t.Context(), dead, 50)
		w.check(err)
		if len(letters) != 0 {
			t.Errorf("%d are left after the purge", len(letters))
		}
		w.check(w.operator(nil).UndoPurge(t.Context(), dead, p.Snapshot))
		if n := w.waiting(dead, 20); n != 20 {
			t.Errorf("%d of 20 are back", n)
		}
	})
}

// TestPurgeWithoutSnapshotPurgesNothing has the snapshot fail.
func TestPurgeWithoutSnapshotPurgesNothing(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	_, dead := deadLetters(w, 3)
	_, err := w.operator(func(o *Options) { o.PubSub = noSnapshots{o.PubSub} }).Purge(t.Context(), dead)
	if !errors.Is(err, ErrRefused) {
		t.Errorf("the error is %v", err)
	}
	if n := w.waiting(dead, 3); n != 3 {
		t.Errorf("%d of 3 wait", n)
	}
}

type noSnapshots struct{ PubSub }

func (noSnapshots) CreateSnapshot(context.Context, *pubsubpb.CreateSnapshotRequest, ...gax.CallOption) (*pubsubpb.Snapshot, error) {
	return nil, status.Error(codes.FailedPrecondition, "the oldest message is 6 days and 23 hours old")
}

// redriven checks that a redrive is over: everything is where it belongs.
func redriven(t *testing.T, w *world, dead string, n int) {
	t.Helper()
	w.receiver.wait(t, dead, n)
	if c := w.push(dead); c.GetPushEndpoint() != "" {
		t.Errorf("the dead letters are still pushed to %s", c.PushEndpoint)
	}
	if o := w.record(dead); o != nil {
		t.Errorf("the record is left: %+v", o)
	}
	if all, there := w.receiver.all(), w.receiver.count(dead); all != there {
		t.Errorf("%d pushes reached other subscriptions", all-there)
	}
}

// all returns how many different messages of any subscription have arrived.
func (r *receiver) all() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

func TestRedrive(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		source, dead := deadLetters(w, 50)
		r, err := w.operator(nil).Redrive(t.Context(), dead, RedriveOptions{Source: source, Interval: 50 * time.Millisecond})
		w.check(err)
		if r.Stalled || len(r.Left) != 0 || r.Continued {
			t.Errorf("it ended with %+v", r)
		}
		redriven(t, w, dead, 50)
	})
}

// TestRedriveKilledAtEachStep kills it before and after each step, and again, and
// then lets it end.
func TestRedriveKilledAtEachStep(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		source, dead := deadLetters(w, 20)
		w.backlog = func(context.Context, string) (*Backlog, error) {
			return &Backlog{At: time.Now(), Messages: int64(20 - w.receiver.count(dead))}, nil
		}
		o := RedriveOptions{Source: source, Interval: 20 * time.Millisecond, Probe: 20 * time.Millisecond}
		tried := 0
		for at := 1; at <= 12; at++ {
			for i := range 2 {
				k := &knife{at: at, after: i == 1}
				if k.run(t, func() error { _, err := k.operator(w).Redrive(t.Context(), dead, o); return err }) {
					continue
				}
				tried++
				// What was left attached is seen: the record is never gone before the pushing.
				if w.push(dead).GetPushEndpoint() != "" && w.record(dead) == nil {
					t.Fatalf("killed at step %d it is pushed without a record", at)
				}
			}
		}
		t.Logf("%d interruptions", tried)
		if tried < 10 {
			t.Errorf("only %d interruptions were tried", tried)
		}
		_, err := w.operator(nil).Redrive(t.Context(), dead, o)
		w.check(err)
		redriven(t, w, dead, 20)
	})
}

// TestRedriveEndsWhenNothingMoves has three of ten refused for ever.
func TestRedriveEndsWhenNothingMoves(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		source, dead := deadLetters(w, 10)
		poison := func(data string) bool { return data == "2" || data == "5" || data == "8" }
		w.receiver.refuse = poison
		var last Progress
		r, err := w.operator(nil).Redrive(t.Context(), dead, RedriveOptions{
			Source: source, Interval: 50 * time.Millisecond, Patience: 8 * time.Second, OnProgress: func(p Progress) { last = p },
		})
		w.check(err)
		if !r.Stalled || last.Waiting == nil || *last.Waiting != 3 {
			t.Errorf("it ended with %+v, progress %+v", r, last)
		}
		// Those that fail again are named, as soon as their leases are over.
		left := make(map[string]bool)
		for _, l := range r.Left {
			left[string(l.Data)] = true
			if !poison(string(l.Data)) {
				t.Errorf("%s is left", l.Data)
			}
		}
		if len(left) == 0 {
			t.Error("nothing that fails again is named")
		}
		if n := w.waiting(dead, 3); n != 3 {
			t.Errorf("%d of 3 wait", n)
		}
		redriven(t, w, dead, 7)
	})
}

// TestRedriveInterrupted ends its context, as ^C does.
func TestRedriveInterrupted(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	source, dead := deadLetters(w, 10)
	w.receiver.refuse = func(string) bool { return true }
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.operator(nil).Redrive(ctx, dead, RedriveOptions{Source: source, OnProgress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	redriven(t, w, dead, 0)
	if n := w.waiting(dead, 10); n != 10 {
		t.Errorf("%d of 10 wait", n)
	}
}

// TestRedriveEndedByOthers ends a redrive in which nothing moves by other means. It
// says so at its next look, and leaves what somebody else began meanwhile.
func TestRedriveEndedByOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(w *world, dead string)
		left string // the principal of the record that is left
	}{
		"stop": {func(w *world, dead string) {
			_, err := w.operator(nil).StopRedrive(w.t.Context(), dead)
			w.check(err)
		}, ""},
		"apply": {func(w *world, dead string) {
			w.check(w.operator(nil).setPush(w.t.Context(), dead, new(pubsubpb.PushConfig)))
		}, ""},
		"begun_anew": {func(w *world, dead string) {
			w.check(records.Open(w.data).Put(w.t.Context(), &delivery.Operation{Kind: delivery.Redrive, Subscription: dead, Principal: "other@example.com", At: time.Now()}))
		}, "other@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ownWorld(t)
			source, dead := deadLetters(w, 3)
			w.receiver.refuse = func(string) bool { return true }
			looks := 0
			r, err := w.operator(nil).Redrive(t.Context(), dead, RedriveOptions{Source: source, Interval: 20 * time.Millisecond, Patience: 5 * time.Second, OnProgress: func(Progress) {
				if looks++; looks == 1 {
					c.end(w, dead)
				}
			}})
			if !errors.Is(err, ErrEnded) || r == nil || r.Stalled || looks > 2 {
				t.Errorf("it ended with %+v, %v after %d looks", r, err, looks)
			}
			o := w.record(dead)
			if pushed := w.push(dead).GetPushEndpoint() != ""; pushed != (c.left != "") || (o != nil) != (c.left != "") || o != nil && o.Principal != c.left {
				t.Errorf("pushed: %v, the record: %+v", pushed, o)
			}
		})
	}
}

// TestRedriveRefuses tries what is no dead letters' subscription, or not now.
func TestRedriveRefuses(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	source, dead := deadLetters(w, 1)
	op := w.operator(nil)
	if _, err := op.Redrive(t.Context(), w.name("subscriptions", "bystander"), RedriveOptions{Source: source}); !errors.Is(err, ErrRefused) {
		t.Errorf("a subscription that somebody pushes: %v", err)
	}
	_, err := op.Pause(t.Context(), source)
	w.check(err)
	if _, err := op.Redrive(t.Context(), dead, RedriveOptions{Source: source}); !errors.Is(err, ErrRefused) {
		t.Errorf("while the inbox is paused: %v", err)
	}
	_, err = op.Resume(t.Context(), source, nil)
	w.check(err)
	// One that was left attached: nothing else is done to it.
	k := &knife{at: 6}
	w.receiver.refuse = func(string) bool { return true }
	if k.run(t, func() error {
		_, err := k.operator(w).Redrive(t.Context(), dead, RedriveOptions{Source: source})
		return err
	}) || w.push(dead).GetPushEndpoint() == "" {
		t.Fatal("the redrive was not killed while it was attached")
	}
	_, _, listed := op.List(t.Context(), dead, 10)
	_, purged := op.Purge(t.Context(), dead)
	_, paused := op.Pause(t.Context(), dead)
	_, resumed := op.Resume(t.Context(), dead, nil)
	for what, err := range map[string]error{"list": listed, "purge": purged, "pause": paused, "resume": resumed} {
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "operator@example.com") {
			t.Errorf("%s while it is redriven: %v", what, err)
		}
		if !strings.Contains(err.Error(), "redrive --stop --dead-letter-subscription "+dead) {
			t.Errorf("%s advises a command that ends another redrive, if any: %v", what, err)
		}
	}
	stopped, err := op.StopRedrive(t.Context(), dead)
	w.check(err)
	if stopped.Kind != delivery.Redrive || w.push(dead).GetPushEndpoint() != "" || w.record(dead) != nil {
		t.Errorf("stopped: %+v", stopped)
	}
	if stopped, err = op.StopRedrive(t.Context(), dead); err != nil || stopped != nil {
		t.Errorf("stopped again: %+v, %v", stopped, err)
	}
}

// TestRedriveOfWhatIsPaused has dead letters' subscriptions with the record of a pause:
// nobody redrives them.
func TestRedriveOfWhatIsPaused(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		source, dead := deadLetters(w, 1)
		op := w.operator(nil)
		w.check(records.Open(w.data).Put(t.Context(), &delivery.Operation{Kind: delivery.Pause, Subscription: dead, Principal: "other@example.com"}))
		_, redriven := op.Redrive(t.Context(), dead, RedriveOptions{Source: source})
		w.check(op.setPush(t.Context(), dead, &pubsubpb.PushConfig{PushEndpoint: w.receiver.url}))
		_, pushed := op.Redrive(t.Context(), dead, RedriveOptions{Source: source})
		_, purged := op.Purge(t.Context(), dead)
		for want, errs := range map[string][]error{"is paused (by other@example.com": {redriven}, "no redrive is recorded": {pushed, purged}} {
			for _, err := range errs {
				if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %v, want %q", err, want)
				}
			}
		}
	})
}

// repeating refuses changes as Pub/Sub does: it repeats the endpoint.
type repeating struct{ PubSub }

func (repeating) UpdateSubscription(_ context.Context, r *pubsubpb.UpdateSubscriptionRequest, _ ...gax.CallOption) (*pubsubpb.Subscription, error) {
	return nil, status.Errorf(codes.InvalidArgument, "Invalid push endpoint given (endpoint=%s)", r.Subscription.PushConfig.PushEndpoint)
}

func TestErrorsHaveNoToken(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	source := w.subscribe("inbox", shapes(w.receiver.url)["token"])
	dead := w.subscribe("dead", nil)
	_, err := w.operator(func(o *Options) { o.PubSub = repeating{o.PubSub} }).Redrive(t.Context(), dead, RedriveOptions{Source: source})
	if err == nil || strings.Contains(err.Error(), marker) || !strings.Contains(err.Error(), "Invalid push endpoint") {
		t.Errorf("the error is %v", err)
	}
}

// lines is a Log.
type lines struct {
	all []Entry
	err error
}

func (l *lines) Write(_ context.Context, e Entry) error {
	l.all = append(l.all, e)
	return l.err
}

func TestAudited(t *testing.T) {
	t.Parallel()
	broken, denied := errors.New("broken"), errors.New("logging.logEntries.create is denied")
	for test, c := range map[string]struct {
		log, unlogged, act error
		want               []string
	}{
		"done":           {nil, nil, nil, []string{"begun", "done"}},
		"failed":         {nil, nil, broken, []string{"begun", "failed"}},
		"refused":        {nil, nil, refused("no"), []string{"begun", "refused"}},
		"unlogged":       {denied, nil, nil, []string{"begun", "acted"}},
		"unlogged_not":   {denied, denied, nil, []string{"begun"}},
		"unlogged_fails": {denied, nil, broken, []string{"begun", "acted"}},
	} {
		log := &lines{err: c.log}
		acted := false
		err, _ := Audited(t.Context(), log, Entry{Principal: "a", Action: "pause", Target: "s"}, func(error) error { return c.unlogged }, func(context.Context) (string, error) {
			acted = true
			return "", c.act
		})
		var got []string
		for _, e := range log.all {
			got = append(got, e.Outcome)
		}
		if c.log != nil && acted {
			got = append(got, "acted")
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test, diff)
		}
		if want := errors.Join(c.unlogged, c.act); (err == nil) != (want == nil) {
			t.Errorf("%s: %v", test, err)
		}
	}
}

func TestFileLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "operations.log")
	for _, outcome := range []string{"begun", "done"} {
		if err := (FileLog{path}).Write(t.Context(), Entry{Principal: "a", Action: "pause", Target: "s", Outcome: outcome}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || strings.Count(string(b), "\n") != 2 || !strings.Contains(string(b), `"outcome":"done"`) {
		t.Errorf("%s, %v", b, err)
	}
}
