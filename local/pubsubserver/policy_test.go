package pubsubserver

import (
	"errors"
	"testing"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestPolicy keeps a policy over a restart, and until its resource is deleted.
func TestPolicy(t *testing.T) {
	const topic, sub, snap = "projects/p/topics/policy", "projects/p/subscriptions/policy", "projects/p/snapshots/policy"
	inWorld(t, func(w *world) {
		create := func() {
			w.createTopic(&pubsubpb.Topic{Name: topic})
			w.createSub(&pubsubpb.Subscription{Name: sub, Topic: topic})
			_, err := w.CreateSnapshot(w.Context(), &pubsubpb.CreateSnapshotRequest{Name: snap, Subscription: sub})
			w.must(err)
		}
		role := func(resource string) string {
			t.Helper()
			p, err := w.Policy(w.Context(), resource)
			w.must(err)
			if p == nil {
				return ""
			}
			return p.Bindings[0].Role
		}
		create()
		all := []string{topic, sub, snap}
		for _, resource := range all {
			w.must(w.UpdatePolicy(w.Context(), resource, func(p *iampb.Policy) (*iampb.Policy, error) {
				if p != nil {
					t.Errorf("%s has %v from the beginning", resource, p)
				}
				return &iampb.Policy{Bindings: []*iampb.Binding{{Role: "roles/" + resource}}}, nil
			}))
		}
		refused := errors.New("refused")
		if err := w.UpdatePolicy(w.Context(), topic, func(*iampb.Policy) (*iampb.Policy, error) { return nil, refused }); !errors.Is(err, refused) {
			t.Errorf("refused: %v", err)
		}
		w.reopen()
		for _, resource := range all {
			if got := role(resource); got != "roles/"+resource {
				t.Errorf("%s has %q after a restart", resource, got)
			}
		}
		_, err := w.DeleteSnapshot(w.Context(), &pubsubpb.DeleteSnapshotRequest{Snapshot: snap})
		w.must(err)
		_, err = w.DeleteSubscription(w.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: sub})
		w.must(err)
		_, err = w.DeleteTopic(w.Context(), &pubsubpb.DeleteTopicRequest{Topic: topic})
		w.must(err)
		for _, resource := range all {
			if _, err := w.Policy(w.Context(), resource); status.Code(err) != codes.NotFound {
				t.Errorf("%s, deleted: %v", resource, err)
			}
		}
		create()
		for _, resource := range all {
			if got := role(resource); got != "" {
				t.Errorf("%s, created again, has %q", resource, got)
			}
		}
	})
}
