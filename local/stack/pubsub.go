package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pubsubserver/rest"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/publisher"
)

const (
	// PubSubPort is the port of Pub/Sub by default, that of Google's emulator.
	PubSubPort = 8085
	pubSubFile = "pubsub.db"
	// deadLetterSuffix makes the name of a topic that of the topic of its dead letters,
	// and of the subscription that keeps them.
	deadLetterSuffix = "-dead-letter"
	// beforehand is how long the Pub/Sub at PUBSUB_EMULATOR_HOST may take to say that
	// it is another run's, before it is connected to.
	beforehand = 300 * time.Millisecond
	// pushGrace is how long Close waits for pushes that are under way.
	pushGrace = time.Second
)

// Subscription is the full name of the inbox's push subscription.
func (s Settings) Subscription() string {
	return "projects/" + s.Project + "/subscriptions/" + s.Topic + "-push"
}

// ownPubSub is the Pub/Sub in this process.
type ownPubSub struct {
	store   *pubsubserver.Server
	client  *pubsub.Client
	push    func(*pubsubpb.Subscription, *pubsubserver.Queue) (stop func()) // from startPushing on
	records delivery.Records
	warn    func(message string)
	// dataFlag has a command find this run.
	dataFlag string
	// published counts what is published.
	published publications
}

// openPubSub opens the Pub/Sub of this process and serves it to every client. It
// pushes once startPushing is called.
func (s *Stack) openPubSub(ctx context.Context) error {
	listeners, err := s.listenPubSub(ctx)
	if listeners == nil {
		return err // with nil: an emulator is used
	}
	o := s.options
	dispatchers := pushfake.NewDispatchers(&pushfake.Options{
		Issuer:     s.issuer,
		OnDelivery: s.delivered,
		OnDial:     s.deliveries.own.dialed,
		OnError:    func(err error) { s.log("pubsub").Error(err.Error()) },
	})
	own := &ownPubSub{
		push:    dispatchers.Start,
		records: s.deliveries.records, warn: func(message string) { s.log("pubsub").Warn(message) },
		dataFlag:  s.DataFlag(),
		published: publications{topics: make(map[string]*TopicFacts)},
	}
	path := filepath.Join(o.Data, pubSubFile)
	own.store, err = pubsubserver.Open(pubsubserver.Options{Path: path, Logger: s.log("pubsub")})
	if err != nil {
		closeAll(listeners)
		return dataError(o.Data, err)
	}
	s.onClose(pubSubFile, own.store.Close)
	services := rest.Services{Publisher: countedPublisher{own.store, &own.published}, Subscriber: own.store, Policies: own.store}
	if s.Key != nil {
		services.Subscriber = own.store.ActAs(s.mayActAs)
	}
	options := &rest.Options{Hosts: o.HostNames, OwnAddress: s.door.OwnAddress}
	s.onClose("--pubsub-port", rest.Start(listeners, services, options, func(err error) { s.failed <- err }))
	s.PubSubAddr = fmt.Sprintf("127.0.0.1:%d", portOf(listeners))
	s.PubSub = fmt.Sprintf("at %s, kept in %s", s.PubSubAddr, path)

	if own.client, err = pushfake.Dial(ctx, s.PubSubAddr, o.Project, grpc.WithUnaryInterceptor(own.publish)); err != nil {
		return err
	}
	s.onClose("the client of Pub/Sub", own.client.Close)
	s.onClose("the pushing", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), pushGrace)
		defer cancel()
		dispatchers.Shutdown(ctx)
		s.Undelivered = own.store.Undelivered()
		return nil
	})
	s.own = own
	return nil
}

// publish publishes without the way through the network, which takes a fifth of the
// processor time of a message from the function publish to the inbox.
func (p *ownPubSub) publish(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	r, ok := request.(*pubsubpb.PublishRequest)
	if !ok {
		return invoke(ctx, method, request, answer, conn, o...)
	}
	published, err := countedPublisher{p.store, &p.published}.Publish(ctx, r)
	if err == nil {
		proto.Merge(answer.(*pubsubpb.PublishResponse), published)
	}
	if s := status.Convert(err); s.Code() == codes.Unavailable { // which the client would try for as long as it may
		return &problem.Error{Status: http.StatusServiceUnavailable, Detail: s.Message() + " Nothing was published; see pushinbox doctor --local", Cause: publisher.ErrUnavailable}
	}
	return err
}

// listenPubSub listens on Pub/Sub's port, or returns no listener when an emulator
// is to be used. That may have the very address which an earlier run told the
// shell: it is an emulator's only where somebody listens, and not another run.
func (s *Stack) listenPubSub(ctx context.Context) ([]net.Listener, error) {
	o := &s.options
	host, port, _ := net.SplitHostPort(o.PubSubEmulator)
	if o.PubSubEmulator != "" && (!IsLoopback(host) || port != fmt.Sprint(o.PubSubPort)) {
		return nil, notOurOwn(ctx, o.PubSubEmulator, beforehand)
	}
	listeners, err := Listen(o.Host, o.PubSubPort)
	switch {
	case err == nil:
		o.PubSubEmulator = ""
	case o.PubSubEmulator != "":
		return nil, notOurOwn(ctx, o.PubSubEmulator, beforehand)
	case !errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("cannot listen on port %d: %w; choose another with --pubsub-port", o.PubSubPort, err)
	case o.PubSubPortOnly:
		return nil, fmt.Errorf("port %d is taken; stop what listens there, or choose another with --pubsub-port", o.PubSubPort)
	default:
		if listeners, err = Listen(o.Host, 0); err == nil {
			s.log("pubsub").Warn(fmt.Sprintf("port %d is taken; Pub/Sub is at 127.0.0.1:%d", o.PubSubPort, portOf(listeners)))
		}
	}
	return listeners, err
}

// notOurOwn returns an error when the Pub/Sub at an address is another run's, which
// pushes by itself: nothing would be left for this one.
func notOurOwn(ctx context.Context, host string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	response, err := Get(ctx, "http://"+host+"/", "")
	if err != nil {
		return nil // connectPubSub tells
	}
	defer response.Body.Close()
	if response.Header.Get("Server") == rest.Server {
		return fmt.Errorf("PUBSUB_EMULATOR_HOST=%s is another pushinbox local, not Google's emulator; unset it and start again: each run has a Pub/Sub of its own", host)
	}
	return nil
}

// KeepsDeadLetters reports whether a subscription of a topic is, by their names, one that a
// run creates for dead letters.
func KeepsDeadLetters(subscription, topic string) bool {
	return strings.HasSuffix(topic, deadLetterSuffix) && subscription == pushfake.DeadLetterSubscription(topic)
}

// lacks reports whether this run's Pub/Sub has no topic with this full name.
func (p *ownPubSub) lacks(ctx context.Context, topic string) bool {
	_, err := p.store.GetTopic(ctx, &pubsubpb.GetTopicRequest{Topic: topic})
	return err != nil
}

// startPushing starts the pushing to every endpoint, once the subscriptions of this run
// have its addresses in place of those of the run before.
func (s *Stack) startPushing(ctx context.Context) error {
	if s.own == nil {
		return nil
	}
	if s.Key != nil {
		if err := s.endForeign(ctx); err != nil {
			return err
		}
	}
	s.own.store.StartPushing(s.own.push)
	return nil
}

// endForeign ends the pushing of subscriptions that an earlier run let anybody create, in the
// name of an account that is this one's: see mayActAs.
func (s *Stack) endForeign(ctx context.Context) error {
	own := []string{s.options.Subscription(), "projects/" + s.options.Project + "/subscriptions/" + syncTopic}
	for _, e := range s.Endpoints {
		own = append(own, e.Name)
	}
	for _, there := range s.own.store.Statuses() {
		sub := there.Subscription
		account := sub.PushConfig.GetOidcToken().GetServiceAccountEmail()
		if slices.Contains(own, sub.Name) || !s.isOwn(account) {
			continue
		}
		s.own.warn(fmt.Sprintf("%s is not pushed any more: its pushes to %s were signed as %s, which with --host is for who has the key. Its messages are kept; have it pushed again with the header in %s, or as another account",
			sub.Name, delivery.HideToken(sub.PushConfig.PushEndpoint), account, filepath.Base(s.Key.File)))
		if err := s.own.endPush(ctx, sub.Name); err != nil {
			return err
		}
	}
	return nil
}

// delivered remembers and reports a push. Those that only say that a calendar is to be synced
// are nobody's messages.
func (s *Stack) delivered(d pushfake.Delivery) {
	s.deliveries.delivered(d)
	if s.options.OnDelivery != nil && !strings.HasSuffix(d.Subscription, "/subscriptions/"+syncTopic) {
		s.options.OnDelivery(d)
	}
}

// create makes the topics and the subscription what sub says, and returns what is
// in force. Messages of an earlier run are kept, and a paused subscription stays so.
func (p *ownPubSub) create(ctx context.Context, sub *pubsubpb.Subscription) (*pubsubpb.Subscription, error) {
	if err := p.createTopic(ctx, sub.Topic); err != nil {
		return nil, err
	}
	if policy := sub.DeadLetterPolicy; policy != nil {
		policy.DeadLetterTopic = sub.Topic + deadLetterSuffix
		if err := p.createTopic(ctx, policy.DeadLetterTopic); err != nil {
			return nil, err
		}
		name := pushfake.DeadLetterSubscription(policy.DeadLetterTopic)
		_, err := p.store.CreateSubscription(ctx, &pubsubpb.Subscription{Name: name, Topic: policy.DeadLetterTopic})
		if err != nil && status.Code(err) != codes.AlreadyExists {
			return nil, err
		}
	}
	there, err := p.store.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: sub.Name})
	if err == nil && (there.Topic != sub.Topic || there.EnableMessageOrdering != sub.EnableMessageOrdering) {
		if err := p.deleteUnused(ctx, there, sub); err != nil {
			return nil, err
		}
		there = nil
	}
	paused, err := p.keepPaused(ctx, there, sub)
	if err != nil {
		return nil, err
	}
	if paused {
		sub = proto.CloneOf(sub)
		sub.PushConfig = nil
	}
	if there == nil {
		return p.store.CreateSubscription(ctx, sub)
	}
	// The settings that cannot be changed are the same, or not ours.
	wanted := proto.CloneOf(there)
	wanted.AckDeadlineSeconds, wanted.RetryPolicy, wanted.DeadLetterPolicy = sub.AckDeadlineSeconds, sub.RetryPolicy, sub.DeadLetterPolicy
	if wanted.PushConfig = proto.CloneOf(sub.PushConfig); !paused {
		wanted.PushConfig.Attributes = there.PushConfig.GetAttributes()
	}
	if proto.Equal(there, wanted) {
		return there, nil
	}
	return p.store.UpdateSubscription(ctx, &pubsubpb.UpdateSubscriptionRequest{
		Subscription: sub,
		UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"ack_deadline_seconds", "push_config", "retry_policy", "dead_letter_policy"}},
	})
}

func (p *ownPubSub) createTopic(ctx context.Context, name string) error {
	_, err := p.store.CreateTopic(ctx, &pubsubpb.Topic{Name: name})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

// deleteUnused deletes a subscription whose settings cannot be changed to what is
// wanted, if it has no messages.
func (p *ownPubSub) deleteUnused(ctx context.Context, there, wanted *pubsubpb.Subscription) error {
	messages, _, err := p.store.Backlog(there.Name)
	switch {
	case err != nil:
		return err
	case messages == 0:
		_, err := p.store.DeleteSubscription(ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: there.Name})
		return err
	case there.Topic != wanted.Topic:
		return fmt.Errorf("the subscription %s in --data is of the topic %s and has %d messages; choose another PUBSUB_TOPIC or --data", there.Name, there.Topic, messages)
	}
	return fmt.Errorf("the subscription %s in --data has %d messages and --ordering=%t; it cannot be changed before they are delivered: run with that once more, or choose another --data",
		there.Name, messages, there.EnableMessageOrdering)
}
