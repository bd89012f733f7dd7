package rest

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"

	"cloud.google.com/go/iam/apiv1/iampb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Policies keeps the IAM policies of topics, subscriptions and snapshots, which
// nothing enforces. A resource is a full name. Both methods fail with NOT_FOUND
// for a resource that does not exist.
type Policies interface {
	// Policy returns a resource's policy, or nil when none was set.
	Policy(ctx context.Context, resource string) (*iampb.Policy, error)
	// UpdatePolicy replaces a resource's policy, nil when none was set, by what
	// replace makes of it, at once with regard to other updates. An error of
	// replace is returned and changes nothing.
	UpdatePolicy(ctx context.Context, resource string, replace func(*iampb.Policy) (*iampb.Policy, error)) error
}

// policyServer is IAM's service over Policies.
type policyServer struct {
	policies Policies
}

// noPolicy is the policy of a resource for which none was set, with the etag
// that it has in production.
func noPolicy() *iampb.Policy { return &iampb.Policy{Etag: []byte{0x00, 0x20, 0x01}} }

// GetIamPolicy returns the policy.
func (s policyServer) GetIamPolicy(ctx context.Context, r *iampb.GetIamPolicyRequest) (*iampb.Policy, error) {
	switch v := r.GetOptions().GetRequestedPolicyVersion(); v {
	case 0, 1, 3:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "the policy version %d is not valid; it is 0, 1 or 3", v)
	}
	policy, err := s.policies.Policy(ctx, r.Resource)
	if policy == nil && err == nil {
		policy = noPolicy()
	}
	return policy, err
}

// SetIamPolicy replaces the policy. It fails with ABORTED when the request's
// etag is there and not the present one.
func (s policyServer) SetIamPolicy(ctx context.Context, r *iampb.SetIamPolicyRequest) (*iampb.Policy, error) {
	if err := checkPolicy(r.GetPolicy()); err != nil {
		return nil, err
	}
	for _, path := range r.GetUpdateMask().GetPaths() {
		if path != "bindings" && path != "etag" && path != "version" {
			return nil, status.Errorf(codes.InvalidArgument, "the update mask has %q; a policy has bindings, etag and version", path)
		}
	}
	next := &iampb.Policy{Version: r.Policy.Version, Bindings: r.Policy.Bindings, Etag: []byte(rand.Text())}
	err := s.policies.UpdatePolicy(ctx, r.Resource, func(present *iampb.Policy) (*iampb.Policy, error) {
		if present == nil {
			present = noPolicy()
		}
		if etag := r.Policy.Etag; len(etag) > 0 && !bytes.Equal(etag, present.Etag) {
			return nil, status.Error(codes.Aborted, "the policy was changed by somebody else; read it, change it and set it again")
		}
		return next, nil
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// TestIamPermissions returns all that was asked for, since nothing is enforced,
// and as in production nothing for a resource that does not exist.
func (s policyServer) TestIamPermissions(ctx context.Context, r *iampb.TestIamPermissionsRequest) (*iampb.TestIamPermissionsResponse, error) {
	for _, permission := range r.Permissions {
		if !strings.HasPrefix(permission, "pubsub.") || strings.Contains(permission, "*") {
			return nil, status.Errorf(codes.InvalidArgument, "%q is not a valid permission of Pub/Sub", permission)
		}
	}
	switch _, err := s.policies.Policy(ctx, r.Resource); status.Code(err) {
	case codes.OK:
		return &iampb.TestIamPermissionsResponse{Permissions: r.Permissions}, nil
	case codes.NotFound:
		return &iampb.TestIamPermissionsResponse{}, nil
	default:
		return nil, err
	}
}

func checkPolicy(policy *iampb.Policy) error {
	switch {
	case policy == nil:
		return status.Error(codes.InvalidArgument, "a policy is required")
	case policy.Version != 0 && policy.Version != 1 && policy.Version != 3:
		return status.Errorf(codes.InvalidArgument, "the policy version %d is not valid; it is 0, 1 or 3", policy.Version)
	case len(policy.AuditConfigs) > 0:
		return status.Error(codes.InvalidArgument, "Pub/Sub has no audit configurations of single resources")
	}
	for i, binding := range policy.Bindings {
		if !strings.Contains(binding.Role, "roles/") {
			return status.Errorf(codes.InvalidArgument, "binding %d: %q is not a valid role", i, binding.Role)
		}
		if binding.Condition != nil && policy.Version != 3 {
			return status.Errorf(codes.InvalidArgument, "binding %d has a condition, which only a policy of version 3 may have", i)
		}
		for _, member := range binding.Members {
			if member != "allUsers" && member != "allAuthenticatedUsers" && !strings.Contains(member, ":") {
				return status.Errorf(codes.InvalidArgument, "binding %d: %q is not a valid member", i, member)
			}
		}
	}
	return nil
}
