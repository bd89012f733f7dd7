package operations

import (
	"context"
	"errors"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"

	"example.com/pushinbox/shared/delivery"
)

// meanwhile is a Pub/Sub and the records of one operator, in which somebody else does
// something just before a call.
type meanwhile struct {
	PubSub
	delivery.Records
	pull, update, forget func()
}

func (m meanwhile) Pull(ctx context.Context, r *pubsubpb.PullRequest, o ...gax.CallOption) (*pubsubpb.PullResponse, error) {
	if m.pull != nil {
		m.pull()
	}
	return m.PubSub.Pull(ctx, r, o...)
}

// UpdateSubscription has update called where a push endpoint is set.
func (m meanwhile) UpdateSubscription(ctx context.Context, r *pubsubpb.UpdateSubscriptionRequest, o ...gax.CallOption) (*pubsubpb.Subscription, error) {
	if m.update != nil && isPushed(r.Subscription) {
		m.update()
	}
	return m.PubSub.UpdateSubscription(ctx, r, o...)
}

func (m meanwhile) Delete(ctx context.Context, name string) error {
	if m.forget != nil {
		m.forget()
	}
	return m.Records.Delete(ctx, name)
}

// operator returns an operator to whose calls somebody is faster.
func (m meanwhile) operator(w *world) *Operator {
	return w.operator(func(o *Options) {
		m.PubSub, m.Records = o.PubSub, o.Records
		o.PubSub, o.Records = m, m
	})
}

// atTheNth returns a function that calls f when it is called for the nth time.
func atTheNth(n int, f func()) func() {
	calls := 0
	return func() {
		if calls++; calls == n {
			f()
		}
	}
}

// TestRedriveStoppedAtTheWorstTime ends a redrive that looks at what is left: it does
// not push again, for nobody would end that.
func TestRedriveStoppedAtTheWorstTime(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(stop func()) meanwhile{
		"during_a_look":       func(stop func()) meanwhile { return meanwhile{pull: atTheNth(1, stop)} },
		"before_the_next_try": func(stop func()) meanwhile { return meanwhile{update: atTheNth(2, stop)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ownWorld(t)
			w.backlog = nil
			source, dead := deadLetters(w, 3)
			w.receiver.refuse = func(string) bool { return true }
			stopped := false
			_, err := at(func() {
				stopped = true
				_, err := w.operator(nil).StopRedrive(t.Context(), dead)
				w.check(err)
			}).operator(w).Redrive(t.Context(), dead, RedriveOptions{Source: source, Interval: 20 * time.Millisecond, Probe: 20 * time.Millisecond, Patience: time.Minute})
			if !stopped || !errors.Is(err, ErrEnded) {
				t.Errorf("stopped: %v, the error: %v", stopped, err)
			}
			if w.push(dead).GetPushEndpoint() != "" || w.record(dead) != nil {
				t.Errorf("it is pushed to %q with the record %+v", w.push(dead).GetPushEndpoint(), w.record(dead))
			}
		})
	}
}

// TestRedriveContinuedWhileItEnds has a second operator go on with a redrive whose first
// one is about to delete the record.
func TestRedriveContinuedWhileItEnds(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	source, dead := deadLetters(w, 3)
	second := make(chan error, 1)
	begun := make(chan struct{})
	first := meanwhile{forget: func() {
		go func() {
			looks := 0
			_, err := w.operator(nil).Redrive(t.Context(), dead, RedriveOptions{Source: source, Interval: 200 * time.Millisecond, OnProgress: func(Progress) {
				if looks++; looks == 1 {
					close(begun)
				}
			}})
			second <- err
		}()
		<-begun
	}}
	// It may find that what it looks at is pushed again.
	_, _ = first.operator(w).Redrive(t.Context(), dead, RedriveOptions{Source: source, Interval: 20 * time.Millisecond})
	if err := <-second; !errors.Is(err, ErrEnded) {
		t.Errorf("the second ended with %v", err)
	}
	if w.push(dead).GetPushEndpoint() != "" || w.record(dead) != nil {
		t.Errorf("it is pushed to %q with the record %+v", w.push(dead).GetPushEndpoint(), w.record(dead))
	}
}

// TestStopRedriveOfWhatIsPushedOtherwise does not say that nothing is pushed.
func TestStopRedriveOfWhatIsPushedOtherwise(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	name := w.subscribe("dead", &pubsubpb.PushConfig{PushEndpoint: w.receiver.url})
	if record, err := w.operator(nil).StopRedrive(t.Context(), name); !errors.Is(err, ErrRefused) || record != nil {
		t.Errorf("%+v, %v", record, err)
	}
}
