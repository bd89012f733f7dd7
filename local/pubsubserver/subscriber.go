package pubsubserver

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

func errDetached(name string) error {
	return failedPrecondition("The subscription is detached from its topic (resource=%s).", name)
}

// findSubscription returns a subscription. s.mu must be held.
func (s *Server) findSubscription(name string) (*subscription, error) {
	if err := checkName(kindSubscription, name); err != nil {
		return nil, err
	}
	if sub := s.subscriptions[name]; sub != nil && !sub.expired(s.expiryTime()) {
		return sub, nil
	}
	return nil, notFound(name)
}

// subscription returns a subscription.
func (s *Server) subscription(name string) (*subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := s.findSubscription(name)
	if err == nil {
		sub.active = s.clock.Now()
	}
	return sub, err
}

// store writes the settings of a subscription.
func (sub *subscription) store(tx *transaction, r record, pb *pubsubpb.Subscription) error {
	return tx.Bucket(bucketSubscriptions).Put([]byte(pb.Name), encodeRecord(r, pb))
}

// public returns a subscription as callers see it.
func (sub *subscription) public() *pubsubpb.Subscription {
	pb := proto.CloneOf(sub.pb)
	pb.TopicMessageRetentionDuration = sub.topic.pb.GetMessageRetentionDuration()
	return pb
}

// drop forgets all messages and takes the subscription from its topic.
func (sub *subscription) drop(err error) {
	for _, seq := range sub.unacked() {
		if e := sub.topic.find(seq); e != nil {
			e.refs--
		}
	}
	sub.end(err)
	sub.clear()
	delete(sub.topic.subs, sub)
	sub.topic.setKeep()
	sub.s.sweep(sub.topic)
}

// restartPush starts, changes or stops the delivery to an endpoint as the
// settings say. The caller holds s.settings.
func (s *Server) restartPush(sub *subscription) {
	if sub.stopPush != nil {
		sub.stopPush()
		sub.stopPush = nil
	}
	s.mu.Lock()
	pb := sub.public()
	ended := sub.ended
	s.mu.Unlock()
	select {
	case <-s.closing:
		return
	default:
	}
	if s.push != nil && ended == nil && !pb.Detached && pb.GetPushConfig().GetPushEndpoint() != "" {
		sub.stopPush = s.push(pb, &Queue{sub})
	}
}

// randomName returns a name for a resource that was given none.
func randomName(kind, beside string) string {
	project, _, _ := strings.Cut(strings.TrimPrefix(beside, "projects/"), "/")
	return "projects/" + project + "/" + kind + "/local-" + strings.ToLower(rand.Text())
}

// CreateSubscription creates a subscription, which gets what is published from
// now on.
func (s *Server) CreateSubscription(ctx context.Context, in *pubsubpb.Subscription) (*pubsubpb.Subscription, error) {
	pb := proto.CloneOf(in)
	if pb.Name == "" {
		pb.Name = randomName(kindSubscription, pb.Topic)
	}
	pb.Detached = false
	if err := checkSubscription(pb); err != nil {
		return nil, err
	}
	if err := checkActAs(ctx, nil, pb.PushConfig); err != nil {
		return nil, err
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	t, err := s.topic(pb.Topic)
	if err != nil {
		return nil, err
	}
	if _, err := s.subscription(pb.Name); err == nil {
		return nil, alreadyExists(pb.Name)
	}
	if err := s.checkDeadLetterTopic(pb); err != nil {
		return nil, err
	}
	if old := s.subscriptions[pb.Name]; old != nil { // it has expired
		if err := s.deleteSubscription(old); err != nil {
			return nil, err
		}
	}
	var sub *subscription
	r := record{Topic: t.ID}
	err = s.change(&write{
		apply: func(tx *transaction) (err error) {
			if r.ID, err = nextID(tx.Tx); err != nil {
				return err
			}
			r.Floor = s.seq + 1
			return sub.store(tx, r, pb)
		},
		committed: func() {
			sub = s.addSubscription(r, pb)
		},
	})
	if err != nil {
		return nil, err
	}
	s.restartPush(sub)
	return s.public(sub), nil
}

func (s *Server) public(sub *subscription) *pubsubpb.Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sub.public()
}

func (s *Server) checkDeadLetterTopic(pb *pubsubpb.Subscription) error {
	if pb.DeadLetterPolicy == nil {
		return nil
	}
	_, err := s.topic(pb.DeadLetterPolicy.DeadLetterTopic)
	return err
}

// GetSubscription returns a subscription.
func (s *Server) GetSubscription(_ context.Context, r *pubsubpb.GetSubscriptionRequest) (*pubsubpb.Subscription, error) {
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	return s.public(sub), nil
}

// UpdateSubscription changes the settings that the mask names, at once.
func (s *Server) UpdateSubscription(ctx context.Context, r *pubsubpb.UpdateSubscriptionRequest) (*pubsubpb.Subscription, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	sub, err := s.subscription(r.Subscription.GetName())
	if err != nil {
		return nil, err
	}
	pb, err := update(sub.pb, r.Subscription, r.UpdateMask, mutableSubscription)
	if err != nil {
		return nil, err
	}
	return s.changeSubscription(ctx, sub, pb)
}

// ModifyPushConfig changes how a subscription is pushed, at once. Without an
// endpoint it is pulled.
func (s *Server) ModifyPushConfig(ctx context.Context, r *pubsubpb.ModifyPushConfigRequest) (*emptypb.Empty, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	pb := proto.CloneOf(sub.pb)
	pb.PushConfig = proto.CloneOf(r.PushConfig)
	_, err = s.changeSubscription(ctx, sub, pb)
	return &emptypb.Empty{}, err
}

func (s *Server) changeSubscription(ctx context.Context, sub *subscription, pb *pubsubpb.Subscription) (*pubsubpb.Subscription, error) {
	if err := checkSubscription(pb); err != nil {
		return nil, err
	}
	before := sub.pb
	if err := checkActAs(ctx, before.PushConfig, pb.PushConfig); err != nil {
		return nil, err
	}
	if !proto.Equal(before.DeadLetterPolicy, pb.DeadLetterPolicy) {
		if err := s.checkDeadLetterTopic(pb); err != nil {
			return nil, err
		}
	}
	err := s.change(&write{
		apply: func(tx *transaction) error { return sub.store(tx, sub.record, pb) },
		committed: func() {
			sub.pb = pb
			sub.topic.setKeep()
			sub.notify() // pulls look at what kind it is
			s.sweep(sub.topic)
		},
	})
	if err != nil {
		return nil, err
	}
	// What the queue does itself needs no new dispatcher.
	if !proto.Equal(before.PushConfig, pb.PushConfig) || before.AckDeadlineSeconds != pb.AckDeadlineSeconds ||
		(before.DeadLetterPolicy == nil) != (pb.DeadLetterPolicy == nil) {
		s.restartPush(sub)
	}
	return s.public(sub), nil
}

// ListSubscriptions lists the subscriptions of a project by name.
func (s *Server) ListSubscriptions(_ context.Context, r *pubsubpb.ListSubscriptionsRequest) (*pubsubpb.ListSubscriptionsResponse, error) {
	if err := checkProject(r.Project); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names, next, err := page(inProject(s.subscriptions, r.Project), r.PageSize, r.PageToken)
	answer := &pubsubpb.ListSubscriptionsResponse{NextPageToken: next}
	for _, name := range names {
		if sub, err := s.findSubscription(name); err == nil {
			answer.Subscriptions = append(answer.Subscriptions, sub.public())
		}
	}
	return answer, err
}

// DeleteSubscription deletes a subscription with its messages.
func (s *Server) DeleteSubscription(_ context.Context, r *pubsubpb.DeleteSubscriptionRequest) (*emptypb.Empty, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.deleteSubscription(sub)
}

func (s *Server) deleteSubscription(sub *subscription) error {
	err := s.change(&write{
		apply: func(tx *transaction) error {
			return errors.Join(tx.deletePolicy(sub.pb.Name), tx.Bucket(bucketSubscriptions).Delete([]byte(sub.pb.Name)))
		},
		committed: func() {
			delete(s.subscriptions, sub.pb.Name)
			sub.drop(notFound(sub.pb.Name))
		},
	})
	s.restartPush(sub)
	return err
}

// Acknowledge removes messages from a subscription, and answers when that is
// durable.
func (s *Server) Acknowledge(ctx context.Context, r *pubsubpb.AcknowledgeRequest) (*emptypb.Empty, error) {
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	if len(r.AckIds) == 0 {
		return nil, invalid("No ack_ids were given: at least one is required.")
	}
	ids, err := parseAckIDs(r.AckIds)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	seqs := sub.acknowledgeAll(ids)
	w := sub.settling(seqs, sub.ID)
	s.mu.Unlock()
	if len(seqs) == 0 {
		return &emptypb.Empty{}, nil
	}
	return &emptypb.Empty{}, s.write(ctx, w, settlingSize(seqs))
}

// ModifyAckDeadline makes leases end later, or with 0 now, which counts as a
// failed delivery.
func (s *Server) ModifyAckDeadline(_ context.Context, r *pubsubpb.ModifyAckDeadlineRequest) (*emptypb.Empty, error) {
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	if len(r.AckIds) == 0 {
		return nil, invalid("No ack_ids were given: at least one is required.")
	}
	if n := r.AckDeadlineSeconds; n < 0 || n > maxAckDeadline {
		return nil, invalid("Invalid ack_deadline_seconds given (value=%d): it must be between 0 and %d.", n, maxAckDeadline)
	}
	ids, err := parseAckIDs(r.AckIds)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		sub.extend(id, time.Duration(r.AckDeadlineSeconds)*time.Second)
	}
	return &emptypb.Empty{}, nil
}
