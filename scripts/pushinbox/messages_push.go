package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	pubsub "cloud.google.com/go/pubsub/v2/apiv1"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"golang.org/x/oauth2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/inboxclient/replay"
	"example.com/pushinbox/local/forward"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/inbox"
)

const (
	// pushTimeout is the longest ack deadline that Pub/Sub has.
	pushTimeout = 10 * time.Minute
	// knowTimeout bounds the question who else gets a message.
	knowTimeout = 10 * time.Second
)

// checkPushURL refuses what nothing is pushed to.
func checkPushURL(to string, force bool) error {
	u, err := url.Parse(to)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return usageError{fmt.Errorf("--to %q is neither topic nor a URL such as http://127.0.0.1:3000/push", to)}
	case !stack.IsLoopback(u.Host) && !force:
		return usageError{fmt.Errorf("--to %s is not this machine; add --force to push there", to)}
	}
	return nil
}

// pusher posts messages as the pushes they were.
type pusher struct {
	forward.Endpoint
	local    *client // signs
	audience string
	email    string // "" is the one of each message
	http     *http.Client

	mu     sync.Mutex
	tokens map[string]oauth2.TokenSource // by e-mail address
}

// newPusher returns a pusher to an address. Where it is of a pushinbox local, that
// one signs what its function receive accepts.
func newPusher(ctx context.Context, from *server, to, audience string) (*pusher, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	// The console may be a deployed one; what signs is on this machine.
	at := target{}
	if c, err := from.at.client(ctx); err == nil && c.isLocal() {
		at = from.at
	}
	c, err := at.client(ctx)
	if err == nil && !c.isLocal() { // PUSHINBOX_URL
		c, err = newClient("url", defaultAddress)
	}
	if err != nil {
		return nil, err
	}
	p := &pusher{
		Endpoint: forward.Endpoint{Target: u, Unwrapped: strings.HasSuffix(u.Path, "/unwrapped"), Bare: strings.HasSuffix(u.Path, "/bare")},
		local:    c.local(), audience: audience, tokens: make(map[string]oauth2.TokenSource),
		http: &http.Client{Timeout: pushTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	isReceive := u.Host == p.local.base.Host && (u.Path == "/receive" || strings.HasPrefix(u.Path, "/receive/"))
	if p.audience == "" && !isReceive {
		p.audience = to
	}
	if isReceive {
		p.email = stack.PushAccount
	}
	// Without a local run nothing can be signed, which is told now.
	_, err = p.token(ctx, stack.PushAccount)
	return p, err
}

// token returns a token with an e-mail address.
func (p *pusher) token(ctx context.Context, email string) (*oauth2.Token, error) {
	p.mu.Lock()
	tokens := p.tokens[email]
	if tokens == nil {
		tokens = p.local.pushTokens(context.WithoutCancel(ctx), email, p.audience)
		p.tokens[email] = tokens
	}
	p.mu.Unlock()
	token, err := tokens.Token()
	if err != nil {
		return nil, fmt.Errorf("the pushes are signed by the running pushinbox local: %w", err)
	}
	return token, nil
}

// push posts one message, as replay.Run wants it.
func (p *pusher) push(ctx context.Context, m *inbox.Message) error {
	token, err := p.token(ctx, cmp.Or(p.email, m.Verified.Email, stack.PushAccount))
	if err != nil {
		return fmt.Errorf("%w: %w", replay.ErrNotSent, err)
	}
	status, err := p.Post(ctx, p.http, token, m)
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %s cannot be reached: %v", replay.ErrNotSent, p.Target.Host, err) // it is not the console
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s cannot be reached: %w", p.Target.Host, err)
	case !pushfake.Acknowledges(status):
		return fmt.Errorf("%w: answered %d %s", replay.ErrRefused, status, http.StatusText(status))
	}
	return nil
}

// others says who else gets what is published to the topic of a console.
func others(ctx context.Context, from *server, console string) string {
	ctx, cancel := context.WithTimeout(ctx, knowTimeout)
	defer cancel()
	const unknown = "every other subscription of the topic gets the messages, too; how many there are is not known here"
	topic, own, o, err := topicOf(ctx, from, console)
	if err != nil {
		return unknown + ": " + err.Error()
	}
	if topic == "" {
		return unknown
	}
	client, err := pubsub.NewTopicAdminClient(ctx, o...)
	if err != nil {
		return unknown + ": " + err.Error()
	}
	defer client.Close()
	var names []string
	for name, err := range client.ListTopicSubscriptions(ctx, &pubsubpb.ListTopicSubscriptionsRequest{Topic: topic}).All() {
		if err != nil {
			return unknown + ": " + err.Error()
		}
		if name != own {
			names = append(names, name)
		}
	}
	text := fmt.Sprintf("%s has %s", topic, many(len(names), "subscription"))
	if own != "" {
		text = fmt.Sprintf("%s has %s beside %s", topic, many(len(names), "subscription"), own)
	}
	if len(names) > 0 {
		text += ": " + strings.Join(names[:min(len(names), 10)], ", ")
		if len(names) > 10 {
			text += ", ..."
		}
		text += "; every one gets the messages"
	}
	return text
}

// topicOf returns the topic that a console publishes to and the inbox's own
// subscription, where they are known, and how to reach Pub/Sub.
func topicOf(ctx context.Context, from *server, console string) (topic, own string, o []option.ClientOption, err error) {
	if from.terraform != "" {
		out, err := readOutputs(ctx, from.terraform)
		if err != nil {
			return "", "", nil, err
		}
		topic = out.Functions.Value["console"].Environment["PUBSUB_TOPIC"]
		if topic != "" && !strings.Contains(topic, "/") {
			topic = "projects/" + out.Deployment.Value.Project + "/topics/" + topic
		}
		return topic, "", nil, nil
	}
	run, err := stack.Find(ctx, from.at.data)
	if err != nil || run.URL != console || run.PubSubEmulatorHost == "" {
		return "", "", nil, nil // another one, of which nothing is known
	}
	return run.Topic, run.Subscription, []option.ClientOption{
		option.WithEndpoint(run.PubSubEmulatorHost), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}, nil
}
