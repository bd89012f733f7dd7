package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/shared/delivery"
)

// CheckTopic returns an error unless Pub/Sub accepts this ID of a topic.
func CheckTopic(id string) error {
	if !pubsubserver.IsID(id) {
		return fmt.Errorf(`%q is not the ID of a topic: it must have 3 to 255 letters, digits and -_.~+%%, begin with a letter and not with "goog"`, id)
	}
	return nil
}

// Endpoint is an address of any program to which the messages of a topic are pushed.
type Endpoint struct {
	// Topic is the topic's ID, and URL where to push.
	Topic, URL string
	// Audience of the tokens is the URL when it is empty, and Email PushAccount.
	Audience, Email string
	// Unwrapped has the data of a message as the body, and its metadata as headers.
	Unwrapped bool
	// Unsigned leaves the token out.
	Unsigned bool
}

// endpointLabels mark the subscriptions of endpoints, so that a later run without
// the endpoint knows them.
var endpointLabels = map[string]string{"pushinbox": "push"}

// push returns how to push to the endpoint.
func (e Endpoint) push() *pubsubpb.PushConfig {
	push := signedPush(e.URL, e.Audience)
	if e.Email != "" {
		push.GetOidcToken().ServiceAccountEmail = e.Email
	}
	if e.Unsigned {
		push.AuthenticationMethod = nil
	}
	if e.Unwrapped {
		push.Wrapper = &pubsubpb.PushConfig_NoWrapper_{NoWrapper: &pubsubpb.PushConfig_NoWrapper{WriteMetadata: true}}
	}
	return push
}

// signedPush is how to push to an endpoint, signed by PushAccount for the audience.
func signedPush(endpoint, audience string) *pubsubpb.PushConfig {
	return &pubsubpb.PushConfig{PushEndpoint: endpoint, AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
		OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: PushAccount, Audience: audience},
	}}
}

// startEndpoints creates the topics that were asked for, and starts the pushing to
// the endpoints of any programs. The n-th endpoint of a topic has the subscription
// TOPIC-push-n, whatever its address, so that a changed one keeps its messages.
func (s *Stack) startEndpoints(ctx context.Context) error {
	o := s.options
	for _, topic := range o.Topics {
		if err := s.createTopic(ctx, "projects/"+o.Project+"/topics/"+topic); err != nil {
			return fmt.Errorf("--topic %s: %w", topic, plainStatus(err))
		}
	}
	count := make(map[string]int)
	for _, e := range o.Endpoints {
		count[e.Topic]++
		sub := proto.CloneOf(o.Pushes)
		sub.Labels = endpointLabels
		sub.PushConfig = e.push()
		_, inForce, err := s.startPubSub(ctx, e.Topic, fmt.Sprintf("%s-push-%d", e.Topic, count[e.Topic]), sub)
		if err != nil {
			return fmt.Errorf("--push %s=%s: %w", e.Topic, delivery.HideToken(e.URL), plainStatus(err))
		}
		s.Endpoints = append(s.Endpoints, inForce)
	}
	if s.own == nil || o.KeepEndpoints {
		return nil
	}
	return s.own.endForgotten(ctx, "projects/"+o.Project, s.Endpoints)
}

func (s *Stack) createTopic(ctx context.Context, name string) error {
	if s.own != nil {
		return s.own.createTopic(ctx, name)
	}
	_, err := s.pubsub.Client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: name})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

// plainStatus returns err, of a call in this process, without the name of its code.
func plainStatus(err error) error {
	if s := (interface{ GRPCStatus() *status.Status })(nil); errors.As(err, &s) {
		return errors.New(s.GRPCStatus().Message())
	}
	return err
}

// endForgotten ends the pushing to endpoints of an earlier run that this one was not
// told. It deletes a subscription without messages, and keeps another one's.
func (p *ownPubSub) endForgotten(ctx context.Context, project string, wanted []*pubsubpb.Subscription) error {
	for _, there := range p.store.Statuses() {
		sub := there.Subscription
		if !strings.HasPrefix(sub.Name, project+"/") || sub.Labels["pushinbox"] != endpointLabels["pushinbox"] || sub.PushConfig.GetPushEndpoint() == "" ||
			slices.ContainsFunc(wanted, func(w *pubsubpb.Subscription) bool { return w.Name == sub.Name }) {
			continue
		}
		if err := p.forget(ctx, sub.Name); err != nil {
			return err
		}
	}
	return nil
}

func (p *ownPubSub) forget(ctx context.Context, subscription string) error {
	messages, _, err := p.store.Backlog(subscription) // now: the port is open, and may bring some
	if err != nil {
		return err
	}
	if messages == 0 {
		_, err := p.store.DeleteSubscription(ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: subscription})
		return err
	}
	kept := "1 message is"
	if messages != 1 {
		kept = fmt.Sprintf("%d messages are", messages)
	}
	p.warn(fmt.Sprintf("%s of an earlier --push is not pushed any more; its %s kept, until it has --push again or is pulled", subscription, kept))
	return p.endPush(ctx, subscription)
}

// endPush ends the pushing of a subscription, which keeps its messages.
func (p *ownPubSub) endPush(ctx context.Context, subscription string) error {
	_, err := p.store.ModifyPushConfig(ctx, &pubsubpb.ModifyPushConfigRequest{Subscription: subscription, PushConfig: &pubsubpb.PushConfig{}})
	return err
}
