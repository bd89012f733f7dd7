package pubsubserver

import (
	"bytes"
	"testing"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/google/go-cmp/cmp"
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
			p, err := w.GetIamPolicy(w.Context(), &iampb.GetIamPolicyRequest{Resource: resource})
			w.must(err)
			if len(p.Bindings) == 0 {
				return ""
			}
			return p.Bindings[0].Role
		}
		create()
		all := []string{topic, sub, snap}
		for _, resource := range all {
			if got := role(resource); got != "" {
				t.Errorf("%s has %q from the beginning", resource, got)
			}
			_, err := w.SetIamPolicy(w.Context(), &iampb.SetIamPolicyRequest{Resource: resource, Policy: &iampb.Policy{Bindings: []*iampb.Binding{{Role: "roles/" + resource}}}})
			w.must(err)
		}
		_, err := w.SetIamPolicy(w.Context(), &iampb.SetIamPolicyRequest{Resource: topic, Policy: &iampb.Policy{Etag: []byte("old")}})
		if status.Code(err) != codes.Aborted {
			t.Errorf("refused: %v", err)
		}
		w.reopen()
		for _, resource := range all {
			if got := role(resource); got != "roles/"+resource {
				t.Errorf("%s has %q after a restart", resource, got)
			}
		}
		_, err = w.DeleteSnapshot(w.Context(), &pubsubpb.DeleteSnapshotRequest{Snapshot: snap})
		w.must(err)
		_, err = w.DeleteSubscription(w.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: sub})
		w.must(err)
		_, err = w.DeleteTopic(w.Context(), &pubsubpb.DeleteTopicRequest{Topic: topic})
		w.must(err)
		for _, resource := range all {
			if _, err := w.GetIamPolicy(w.Context(), &iampb.GetIamPolicyRequest{Resource: resource}); status.Code(err) != codes.NotFound {
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

func TestPolicies(t *testing.T) {
	t.Parallel()
	policies := open(t)
	ctx := t.Context()
	const topic = "projects/p/topics/there"
	if _, err := policies.CreateTopic(ctx, &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	set := func(p *iampb.Policy) (*iampb.Policy, error) {
		return policies.SetIamPolicy(ctx, &iampb.SetIamPolicyRequest{Resource: topic, Policy: p})
	}
	bindings := []*iampb.Binding{{Role: "roles/pubsub.publisher", Members: []string{"user:a@example.com", "allUsers"}}}

	first, err := policies.GetIamPolicy(ctx, &iampb.GetIamPolicyRequest{Resource: topic})
	if err != nil || len(first.Bindings) != 0 || len(first.Etag) == 0 {
		t.Fatalf("a new topic has the policy %v, %v; want one with an etag alone", first, err)
	}
	second, err := set(&iampb.Policy{Bindings: bindings, Etag: first.Etag})
	if err != nil || bytes.Equal(second.Etag, first.Etag) {
		t.Fatalf("set: %v, %v; want another etag", second, err)
	}
	if _, err := set(&iampb.Policy{Etag: first.Etag}); status.Code(err) != codes.Aborted {
		t.Errorf("set with an old etag: %v, want ABORTED", err)
	}
	got, err := policies.GetIamPolicy(ctx, &iampb.GetIamPolicyRequest{Resource: topic})
	if err != nil || got.Bindings[0].Role != bindings[0].Role || !bytes.Equal(got.Etag, second.Etag) {
		t.Errorf("get: %v, %v; want what was set", got, err)
	}
	if _, err := set(&iampb.Policy{}); err != nil {
		t.Errorf("set without an etag: %v", err)
	}
	for name, test := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"no_policy": {func() error { _, err := set(nil); return err }, codes.InvalidArgument},
		"bad_role": {func() error {
			_, err := set(&iampb.Policy{Bindings: []*iampb.Binding{{Role: "publisher"}}})
			return err
		}, codes.InvalidArgument},
		"bad_member": {func() error {
			_, err := set(&iampb.Policy{Bindings: []*iampb.Binding{{Role: "roles/x", Members: []string{"a"}}}})
			return err
		}, codes.InvalidArgument},
		"get_of_nothing": {func() error {
			_, err := policies.GetIamPolicy(ctx, &iampb.GetIamPolicyRequest{Resource: topic + "2"})
			return err
		}, codes.NotFound},
		"set_on_nothing": {func() error {
			_, err := policies.SetIamPolicy(ctx, &iampb.SetIamPolicyRequest{Resource: "projects/p/subscriptions/s", Policy: &iampb.Policy{}})
			return err
		}, codes.NotFound},
		"bad_resource": {func() error {
			_, err := policies.GetIamPolicy(ctx, &iampb.GetIamPolicyRequest{Resource: "t"})
			return err
		}, codes.InvalidArgument},
		"bad_permission": {func() error {
			_, err := policies.TestIamPermissions(ctx, &iampb.TestIamPermissionsRequest{Resource: topic, Permissions: []string{"pubsub.*"}})
			return err
		}, codes.InvalidArgument},
	} {
		if err := test.call(); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	for resource, want := range map[string][]string{topic: {"pubsub.topics.publish"}, topic + "2": nil} {
		got, err := policies.TestIamPermissions(ctx, &iampb.TestIamPermissionsRequest{Resource: resource, Permissions: []string{"pubsub.topics.publish"}})
		if err != nil || !cmp.Equal(got.Permissions, want) {
			t.Errorf("permissions on %s: %v, %v; want %v", resource, got, err, want)
		}
	}
}
