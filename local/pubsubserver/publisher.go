package pubsubserver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"example.com/pushinbox/shared/publisher"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// change makes one change of settings, which shares its commit with nothing.
// The caller holds s.settings.
func (s *Server) change(w *write) error { return s.write(context.Background(), w, alone) }

// findTopic returns a topic. s.mu must be held.
func (s *Server) findTopic(name string) (*topic, error) {
	if err := checkName(kindTopic, name); err != nil {
		return nil, err
	}
	if t := s.topics[name]; t != nil {
		return t, nil
	}
	return nil, notFound(name)
}

// topic returns a topic.
func (s *Server) topic(name string) (*topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findTopic(name)
}

// CreateTopic creates a topic.
func (s *Server) CreateTopic(_ context.Context, in *pubsubpb.Topic) (*pubsubpb.Topic, error) {
	pb := proto.CloneOf(in)
	if err := checkTopic(pb); err != nil {
		return nil, err
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	if _, err := s.topic(pb.Name); err == nil {
		return nil, alreadyExists(pb.Name)
	}
	var r record
	return pb, s.change(&write{
		apply: func(tx *transaction) (err error) {
			if r.ID, err = nextID(tx.Tx); err != nil {
				return err
			}
			return tx.Bucket(bucketTopics).Put([]byte(pb.Name), encodeRecord(r, pb))
		},
		committed: func() {
			s.addTopic(r, pb)
		},
	})
}

// GetTopic returns a topic.
func (s *Server) GetTopic(_ context.Context, r *pubsubpb.GetTopicRequest) (*pubsubpb.Topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.findTopic(r.Topic)
	if err != nil {
		return nil, err
	}
	return t.pb, nil
}

// UpdateTopic changes the settings that the mask names.
func (s *Server) UpdateTopic(_ context.Context, r *pubsubpb.UpdateTopicRequest) (*pubsubpb.Topic, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	t, err := s.topic(r.Topic.GetName())
	if err != nil {
		return nil, err
	}
	pb, err := update(t.pb, r.Topic, r.UpdateMask, mutableTopic)
	if err == nil {
		err = checkTopic(pb)
	}
	if err != nil {
		return nil, err
	}
	return pb, s.change(&write{
		apply: func(tx *transaction) error {
			return tx.Bucket(bucketTopics).Put([]byte(pb.Name), encodeRecord(t.record, pb))
		},
		committed: func() {
			t.pb = pb
			t.setKeep()
			s.sweep(t)
		},
	})
}

// DeleteTopic deletes a topic. Its subscriptions keep their messages.
func (s *Server) DeleteTopic(_ context.Context, r *pubsubpb.DeleteTopicRequest) (*emptypb.Empty, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	t, err := s.topic(r.Topic)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.change(&write{
		apply: func(tx *transaction) error {
			// Those that are detached have the topic's name too.
			for _, sub := range s.subscriptions {
				if sub.topic == t {
					if err := sub.store(tx, sub.record, orphan(sub.pb)); err != nil {
						return err
					}
				}
			}
			for snap := range t.snaps {
				if err := snap.store(tx, orphan(snap.pb)); err != nil {
					return err
				}
			}
			return errors.Join(tx.deletePolicy(r.Topic), tx.Bucket(bucketTopics).Delete([]byte(r.Topic)))
		},
		committed: func() {
			for _, sub := range s.subscriptions {
				if sub.topic == t {
					sub.pb = orphan(sub.pb)
				}
			}
			for snap := range t.snaps {
				snap.pb = orphan(snap.pb)
			}
			delete(s.topics, r.Topic)
			t.pb = nil
			t.setKeep()
			s.sweep(t)
		},
	})
}

// orphan returns a subscription or snapshot whose topic is deleted.
func orphan[M proto.Message](pb M) M {
	pb = proto.CloneOf(pb)
	switch pb := any(pb).(type) {
	case *pubsubpb.Subscription:
		pb.Topic = deletedTopic
	case *pubsubpb.Snapshot:
		pb.Topic = deletedTopic
	}
	return pb
}

// inProject returns those of the names that are in a project.
func inProject[V any](resources map[string]V, project string) []string {
	return slices.DeleteFunc(slices.Collect(maps.Keys(resources)), func(name string) bool {
		return !strings.HasPrefix(name, project+"/")
	})
}

// ListTopics lists the topics of a project by name.
func (s *Server) ListTopics(_ context.Context, r *pubsubpb.ListTopicsRequest) (*pubsubpb.ListTopicsResponse, error) {
	if err := checkProject(r.Project); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names, next, err := page(inProject(s.topics, r.Project), r.PageSize, r.PageToken)
	answer := &pubsubpb.ListTopicsResponse{NextPageToken: next}
	for _, name := range names {
		answer.Topics = append(answer.Topics, s.topics[name].pb)
	}
	return answer, err
}

// ListTopicSubscriptions lists the subscriptions attached to a topic by name.
func (s *Server) ListTopicSubscriptions(_ context.Context, r *pubsubpb.ListTopicSubscriptionsRequest) (*pubsubpb.ListTopicSubscriptionsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.findTopic(r.Topic)
	if err != nil {
		return nil, err
	}
	var names []string
	for sub := range t.subs {
		names = append(names, sub.pb.Name)
	}
	names, next, err := page(names, r.PageSize, r.PageToken)
	return &pubsubpb.ListTopicSubscriptionsResponse{Subscriptions: names, NextPageToken: next}, err
}

// HasSubscription reports whether a subscription gets what is published to a topic.
func (s *Server) HasSubscription(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[topic]
	return t != nil && len(t.subs) > 0
}

// ListTopicSnapshots lists the snapshots of a topic by name.
func (s *Server) ListTopicSnapshots(_ context.Context, r *pubsubpb.ListTopicSnapshotsRequest) (*pubsubpb.ListTopicSnapshotsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.findTopic(r.Topic)
	if err != nil {
		return nil, err
	}
	var names []string
	for snap := range t.snaps {
		if !snap.expired(s.expiryTime()) {
			names = append(names, snap.pb.Name)
		}
	}
	names, next, err := page(names, r.PageSize, r.PageToken)
	return &pubsubpb.ListTopicSnapshotsResponse{Snapshots: names, NextPageToken: next}, err
}

// DetachSubscription drops the messages of a subscription, which gets no more.
func (s *Server) DetachSubscription(_ context.Context, r *pubsubpb.DetachSubscriptionRequest) (*pubsubpb.DetachSubscriptionResponse, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	pb := proto.CloneOf(sub.pb)
	pb.Detached = true
	err = s.change(&write{
		apply: func(tx *transaction) error { return sub.store(tx, sub.record, pb) },
		committed: func() {
			sub.pb = pb
			sub.drop(errDetached(pb.Name))
		},
	})
	s.restartPush(sub)
	return &pubsubpb.DetachSubscriptionResponse{}, err
}

// Publish stores messages, all of them or none, and answers when they are
// durable.
func (s *Server) Publish(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
	if _, err := s.topic(r.Topic); err != nil {
		return nil, err
	}
	if err := publisher.Check(r.Messages); err != nil {
		return nil, invalid("Invalid publish request: %v.", err)
	}
	p, err := newPublishing(r.Messages)
	if err != nil {
		return nil, err
	}
	err = s.write(ctx, &write{
		apply: func(tx *transaction) error {
			t := s.topics[r.Topic]
			if t == nil {
				return notFound(r.Topic)
			}
			return p.apply(s, t, tx)
		},
		done: p.done,
	}, p.size())
	if err != nil {
		return nil, err
	}
	answer := &pubsubpb.PublishResponse{MessageIds: make([]string, len(p.seqs))}
	for i, seq := range p.seqs {
		answer.MessageIds[i] = strconv.FormatUint(seq, 10)
	}
	return answer, nil
}
