package pubsubserver

import (
	"context"
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

// Policy returns the IAM policy of a topic, subscription or snapshot, or nil when
// none was set.
func (s *Server) Policy(_ context.Context, resource string) (policy *iampb.Policy, err error) {
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

// UpdatePolicy replaces a resource's policy, nil when none was set, by what replace
// makes of it, in one transaction. An error of replace is returned and changes
// nothing.
func (s *Server) UpdatePolicy(_ context.Context, resource string, replace func(*iampb.Policy) (*iampb.Policy, error)) error {
	return s.change(&write{apply: func(tx *transaction) error {
		if err := s.checkResource(resource); err != nil {
			return err
		}
		policy, err := readPolicy(tx.Tx, resource)
		if err != nil {
			return err
		}
		if policy, err = replace(policy); err != nil {
			return err
		}
		value, err := proto.Marshal(policy)
		if err != nil {
			return err
		}
		policies, err := tx.CreateBucketIfNotExists(bucketPolicies)
		if err != nil {
			return err
		}
		return policies.Put([]byte(resource), value)
	}})
}

func readPolicy(tx *bbolt.Tx, resource string) (*iampb.Policy, error) {
	policies := tx.Bucket(bucketPolicies)
	if policies == nil {
		return nil, nil
	}
	value := policies.Get([]byte(resource))
	if value == nil {
		return nil, nil
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
