package operations

import (
	"context"
	"errors"
	"testing"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/records"
	"example.com/pushinbox/shared/delivery"
)

// TestPauseWhileSomebodyResumes pauses just before a resume deletes the record: what is
// paused has one.
func TestPauseWhileSomebodyResumes(t *testing.T) {
	t.Parallel()
	for name, pausedBefore := range map[string]bool{"what_is_paused": true, "what_is_about_to_be_paused": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ownWorld(t)
			subscription := w.subscribe("inbox", shapes(w.receiver.url)["token_in_everything"])
			before := bits(t, w.push(subscription))
			pause := func() {
				_, err := w.operator(nil).Pause(t.Context(), subscription)
				w.check(err)
			}
			if pausedBefore {
				pause()
			} else {
				recorded, _, err := Conceal(w.push(subscription))
				w.check(err)
				w.check(records.Open(w.data).Put(t.Context(), &delivery.Operation{Kind: delivery.Pause, Subscription: subscription, PushConfig: recorded}))
			}
			_, err := meanwhile{forget: pause}.operator(w).Resume(t.Context(), subscription, nil)
			w.check(err)
			if w.push(subscription).GetPushEndpoint() != "" || w.record(subscription) == nil {
				t.Fatalf("it is pushed to %q with the record %+v", w.push(subscription).GetPushEndpoint(), w.record(subscription))
			}
			_, err = w.operator(nil).Resume(t.Context(), subscription, nil)
			w.check(err)
			if bits(t, w.push(subscription)) != before {
				t.Errorf("it came back as %v", w.push(subscription))
			}
		})
	}
}

// TestPauseOfWhatChanges has terraform apply change a push configuration while pause
// asks for permissions: the old one is not what resume restores.
func TestPauseOfWhatChanges(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	subscription := w.subscribe("inbox", &pubsubpb.PushConfig{PushEndpoint: w.receiver.url, AuthenticationMethod: oidc("before")})
	changed := &pubsubpb.PushConfig{PushEndpoint: w.receiver.url, AuthenticationMethod: oidc("after"), Attributes: map[string]string{"x-goog-version": "v1"}}
	_, err := w.operator(func(o *Options) {
		o.ActAs = func(ctx context.Context, _ string) error { return w.operator(nil).setPush(ctx, subscription, changed) }
	}).Pause(t.Context(), subscription)
	if !errors.Is(err, ErrRefused) || w.record(subscription) != nil || bits(t, w.push(subscription)) != bits(t, changed) {
		t.Errorf("%v, with the record %+v and %v", err, w.record(subscription), w.push(subscription))
	}
}
