package pubsubserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"

	"cloud.google.com/go/iam/apiv1/iampb"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// bucketPolicies has IAM policies by the full names of their resources. Nothing
// enforces them. A file of an earlier version lacks it until one is set.
var bucketPolicies = []byte("policies")

// GetIamPolicy returns the policy.
func (s *Server) GetIamPolicy(_ context.Context, r *iampb.GetIamPolicyRequest) (*iampb.Policy, error) {
	switch v := r.GetOptions().GetRequestedPolicyVersion(); v {
	case 0, 1, 3:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "the policy version %d is not valid; it is 0, 1 or 3", v)
	}
	return s.policy(r.Resource)
}

// SetIamPolicy replaces the policy. It fails with ABORTED when the request's
// etag is there and not the present one.
func (s *Server) SetIamPolicy(_ context.Context, r *iampb.SetIamPolicyRequest) (*iampb.Policy, error) {
	if err := checkPolicy(r.GetPolicy()); err != nil {
		return nil, err
	}
	for _, path := range r.GetUpdateMask().GetPaths() {
		if path != "bindings" && path != "etag" && path != "version" {
			return nil, status.Errorf(codes.InvalidArgument, "the update mask has %q; a policy has bindings, etag and version", path)
		}
	}
	next := &iampb.Policy{Version: r.Policy.Version, Bindings: r.Policy.Bindings, Etag: []byte(rand.Text())}
	err := s.change(&write{apply: func(tx *transaction) error {
		if err := s.checkResource(r.Resource); err != nil {
			return err
		}
		present, err := readPolicy(tx.Tx, r.Resource)
		if err != nil {
			return err
		}
		if etag := r.Policy.Etag; len(etag) > 0 && !bytes.Equal(etag, present.Etag) {
			return status.Error(codes.Aborted, "the policy was changed by somebody else; read it, change it and set it again")
		}
		value, err := proto.Marshal(next)
		if err != nil {
			return err
		}
		policies, err := tx.CreateBucketIfNotExists(bucketPolicies)
		if err != nil {
			return err
		}
		return policies.Put([]byte(r.Resource), value)
	}})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// TestIamPermissions returns all that was asked for, since nothing is enforced,
// and as in production nothing for a resource that does not exist.
func (s *Server) TestIamPermissions(_ context.Context, r *iampb.TestIamPermissionsRequest) (*iampb.TestIamPermissionsResponse, error) {
	for _, permission := range r.Permissions {
		if !strings.HasPrefix(permission, "pubsub.") || strings.Contains(permission, "*") {
			return nil, status.Errorf(codes.InvalidArgument, "%q is not a valid permission of Pub/Sub", permission)
		}
	}
	switch _, err := s.policy(r.Resource); status.Code(err) {
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

// policy returns the IAM policy of a topic, subscription or snapshot.
func (s *Server) policy(resource string) (policy *iampb.Policy, err error) {
	s.mu.Lock()
	err = s.checkResource(resource)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		policy, err = readPolicy(tx, resource)
		return err
	})
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "The file of this Pub/Sub cannot be read: %v.", err)
	}
	return policy, nil
}

// readPolicy returns the policy of a resource. One for which none was set has the etag that
// it has in production.
func readPolicy(tx *bbolt.Tx, resource string) (*iampb.Policy, error) {
	var value []byte
	if policies := tx.Bucket(bucketPolicies); policies != nil {
		value = policies.Get([]byte(resource))
	}
	if value == nil {
		return &iampb.Policy{Etag: []byte{0x00, 0x20, 0x01}}, nil
	}
	policy := new(iampb.Policy)
	return policy, proto.Unmarshal(value, policy)
}

// deletePolicy deletes the policy of a resource that is deleted.
func (tx *transaction) deletePolicy(resource string) error {
	if policies := tx.Bucket(bucketPolicies); policies != nil {
		return policies.Delete([]byte(resource))
	}
	return nil
}

// checkResource returns an error for the name of a topic, subscription or snapshot
// that does not exist. Server.mu must be held.
func (s *Server) checkResource(name string) error {
	parts := strings.Split(name, "/")
	exists := false
	if len(parts) == 4 && parts[0] == "projects" {
		switch parts[2] {
		case kindTopic:
			exists = s.topics[name] != nil
		case kindSubscription:
			exists = s.subscriptions[name] != nil
		case kindSnapshot:
			exists = s.snapshots[name] != nil
		default:
			parts = nil
		}
	}
	switch {
	case exists:
		return nil
	case len(parts) != 4 || parts[0] != "projects":
		return invalid("Invalid resource name given (name=%s): it must be that of a topic, a subscription or a snapshot.", name)
	}
	return notFound(name)
}
