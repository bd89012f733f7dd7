package pushfake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pubsubserver/rest"
)

const (
	// closeGrace is how long Close lets requests finish that are under way.
	closeGrace = time.Second
)

// ServerOptions holds what is optional for Start.
type ServerOptions struct {
	// Client leads to a Pub/Sub that is there already, such as Google's
	// emulator; Close leaves it open. nil starts a pubsubserver inside this
	// process, whose messages are gone when it ends.
	Client *pubsub.Client
	// Subscription is what to create, its settings as Pub/Sub's own: ack
	// deadline, ordering, retry policy and so on. Names that are empty are
	// filled in, the topic of its dead-letter policy and the endpoint of its
	// push configuration too. Without a push configuration pushes are wrapped
	// and signed for DefaultEmail, their audience the endpoint. It is not
	// changed.
	Subscription *pubsubpb.Subscription
	// Dispatcher are the dispatchers' options. Start sets Push, and Issuer when
	// it is nil.
	Dispatcher Options
}

// Server is a Pub/Sub with a topic whose messages are pushed to an endpoint.
type Server struct {
	// Client is a client of this Pub/Sub.
	Client *pubsub.Client
	// Addr is the host:port of the Pub/Sub inside this process, fit for
	// PUBSUB_EMULATOR_HOST, or empty.
	Addr string
	// Topic and Subscription are full names.
	Topic        string
	Subscription string
	// DeadLetterTopic and DeadLetterSubscription, from which dead letters can
	// be pulled, are full names, or empty when there is no dead-letter policy.
	DeadLetterTopic        string
	DeadLetterSubscription string
	// Audience and Email are what the tokens of the pushes say; empty when
	// they are not signed.
	Audience string
	Email    string
	// Issuer signs the tokens; its Transport serves the keys.
	Issuer *Issuer

	stops []func() error // in the order of starting
}

// Start creates a topic and a push subscription, with their dead-letter topic
// and a pull subscription to it if the subscription has a dead-letter policy,
// and pushes what is published to endpoint until the Server is closed. What
// exists already in the Pub/Sub of a given client is used as it is. In a Pub/Sub
// of its own every other subscription with an endpoint is pushed too.
func Start(ctx context.Context, endpoint string, o *ServerOptions) (_ *Server, err error) {
	if o == nil {
		o = &ServerOptions{}
	}
	s := &Server{Client: o.Client, Issuer: o.Dispatcher.Issuer}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	dispatcher := o.Dispatcher
	if s.Issuer == nil {
		var now func() time.Time
		if o.Dispatcher.Clock != nil {
			now = o.Dispatcher.Clock.Now
		}
		if s.Issuer, err = NewIssuer(&IssuerOptions{Now: now}); err != nil {
			return nil, err
		}
		dispatcher.Issuer = s.Issuer
	}
	if s.Client == nil {
		if err = s.startPubSub(ctx, &dispatcher); err != nil {
			return nil, err
		}
	}
	if dispatcher.Push, err = s.create(ctx, endpoint, o.Subscription, o.Client == nil); err != nil {
		return nil, err
	}
	if oidc := dispatcher.Push.GetOidcToken(); oidc != nil {
		s.Email, s.Audience = oidc.ServiceAccountEmail, cmp.Or(oidc.Audience, dispatcher.Push.PushEndpoint)
	}
	if o.Client != nil {
		d, err := New(ctx, s.Client, s.Subscription, &dispatcher)
		if err != nil {
			return nil, err
		}
		s.stops = append(s.stops, func() error { return graceful(d.Shutdown) })
	}
	return s, nil
}

// graceful gives what shuts down its grace.
func graceful(shutdown func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	return shutdown(ctx)
}

// Close gives requests under way a second to finish, and ends the dispatcher
// and what Start started. It does not delete anything.
func (s *Server) Close() error {
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i]())
	}
	s.stops = nil
	return errors.Join(errs...)
}

// startPubSub starts a Pub/Sub and connects the client to it, whatever
// PUBSUB_EMULATOR_HOST says.
func (s *Server) startPubSub(ctx context.Context, o *Options) error {
	dispatchers := NewDispatchers(o)
	store, err := pubsubserver.Open(pubsubserver.Options{Clock: o.Clock, Push: dispatchers.Start})
	if err != nil {
		return err
	}
	s.stops = append(s.stops, store.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("pushfake: listening for Pub/Sub: %w", err)
	}
	s.Addr = listener.Addr().String()
	s.stops = append(s.stops, rest.Start([]net.Listener{listener}, rest.Services{Publisher: store, Subscriber: store, Policies: store}, nil, nil))

	if s.Client, err = Dial(ctx, s.Addr, "local"); err != nil {
		return err
	}
	s.stops = append(s.stops, s.Client.Close, func() error {
		return graceful(func(ctx context.Context) error { dispatchers.Shutdown(ctx); return nil })
	})
	return nil
}

// create makes the topics and subscriptions and returns how to push. Only a
// Pub/Sub that does not push by itself is told the endpoint.
func (s *Server) create(ctx context.Context, endpoint string, settings *pubsubpb.Subscription, tell bool) (*pubsubpb.PushConfig, error) {
	sub := &pubsubpb.Subscription{}
	if settings != nil {
		sub = proto.CloneOf(settings)
	}
	project := "projects/" + s.Client.Project()
	sub.Topic = cmp.Or(sub.Topic, project+"/topics/messages")
	sub.Name = cmp.Or(sub.Name, project+"/subscriptions/messages-push")
	s.Topic, s.Subscription = sub.Topic, sub.Name
	push := sub.PushConfig
	if push == nil {
		push = &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
			OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: DefaultEmail},
		}}
	}
	push.PushEndpoint = cmp.Or(push.PushEndpoint, endpoint)
	if push.PushEndpoint == "" {
		return nil, errors.New("pushfake: no endpoint to push to")
	}
	sub.PushConfig = nil
	if tell {
		sub.PushConfig = proto.CloneOf(push)
	}
	if p := sub.DeadLetterPolicy; p != nil {
		p.DeadLetterTopic = cmp.Or(p.DeadLetterTopic, sub.Topic+"-dead-letter")
		s.DeadLetterTopic = p.DeadLetterTopic
		s.DeadLetterSubscription = DeadLetterSubscription(p.DeadLetterTopic)
		if err := s.createTopic(ctx, s.DeadLetterTopic); err != nil {
			return nil, err
		}
		if err := s.createSubscription(ctx, &pubsubpb.Subscription{Name: s.DeadLetterSubscription, Topic: s.DeadLetterTopic}); err != nil {
			return nil, err
		}
	}
	if err := s.createTopic(ctx, sub.Topic); err != nil {
		return nil, err
	}
	return push, s.createSubscription(ctx, sub)
}

func (s *Server) createTopic(ctx context.Context, name string) error {
	_, err := s.Client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: name})
	return created("topic", name, err)
}

func (s *Server) createSubscription(ctx context.Context, sub *pubsubpb.Subscription) error {
	_, err := s.Client.SubscriptionAdminClient.CreateSubscription(ctx, sub)
	return created("subscription", sub.Name, err)
}

// created lets pass what was there already.
func created(kind, name string, err error) error {
	if err == nil || status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return fmt.Errorf("pushfake: creating %s %s: %w", kind, name, err)
}

// DeadLetterSubscription returns the full name of the subscription that keeps what goes to
// the dead-letter topic with this full name.
func DeadLetterSubscription(topic string) string {
	return strings.Replace(topic, "/topics/", "/subscriptions/", 1)
}
