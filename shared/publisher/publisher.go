// Package publisher sends messages to one Pub/Sub topic. It checks Pub/Sub's
// limits before the call, so that nothing is published when one message is
// bad, and it reads the three forms of an HTTP request to publish.
package publisher

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
)

// Pub/Sub's limits for one publish request, in messages and bytes.
const (
	MaxMessages         = 1000
	MaxRequestSize      = 10_000_000
	MaxAttributes       = 100
	MaxAttributeKeySize = 256
	MaxAttributeSize    = 1024
	MaxOrderingKeySize  = 1024
)

// ErrUnavailable is the error of a topic that cannot be reached.
var ErrUnavailable = problem.New(http.StatusServiceUnavailable, "Pub/Sub does not accept the message now; try again")

// ErrNoTopic is the error of a topic that does not exist: to try again is of no
// use before somebody creates it.
var ErrNoTopic = problem.New(http.StatusNotFound, "the topic of this service does not exist in Pub/Sub, so nothing was published; ask who runs this service to create it (terraform apply, or gcloud pubsub topics create)")

// errForbidden is the error of a topic that this service may not publish to.
var errForbidden = problem.New(http.StatusInternalServerError, "Pub/Sub does not let this service publish to its topic, so nothing was published; ask who runs this service to grant its account roles/pubsub.publisher on the topic")

// errRefused is the error of messages that passed Check and that Pub/Sub refuses.
var errRefused = problem.New(http.StatusBadRequest, "Pub/Sub refused the messages as invalid; the log has the reason")

// Repeatable returns the attributes of a stored message that Pub/Sub accepts again, in a map
// of their own: of those that begin with goog what Google's clients set, and none of a
// quarantined message, which are headers that could not be read.
func Repeatable(m *inbox.Message) map[string]string {
	attributes := make(map[string]string)
	if m.Quarantined == "" {
		maps.Copy(attributes, m.Attributes)
	}
	maps.DeleteFunc(attributes, func(k, _ string) bool {
		return strings.HasPrefix(k, "goog") && !strings.HasPrefix(k, "googclient_")
	})
	return attributes
}

// Check returns an error with status 400 that names the first message that
// Pub/Sub would refuse, the limit and what the message has instead, or nil.
func Check(messages []*pubsubpb.PubsubMessage) error {
	if n := len(messages); n == 0 || n > MaxMessages {
		return limitError("the request", fmt.Sprintf("%d messages", n), fmt.Sprintf("1 to %d", MaxMessages))
	}
	for i, m := range messages {
		if err := check(i, m); err != nil {
			return err
		}
		if m.OrderingKey != messages[0].OrderingKey {
			return limitError(nth(i), "another ordering key than message 0", "one ordering key for each request")
		}
	}
	if n := RequestSize(messages); n > MaxRequestSize {
		largest := 0
		for i, m := range messages {
			if len(m.Data) > len(messages[largest].Data) {
				largest = i
			}
		}
		return limitError("the request", fmt.Sprintf("%d bytes, %d of them in message %d", n, len(messages[largest].Data), largest), MaxRequestSize)
	}
	return nil
}

// RequestSize returns how many bytes a request with these messages has, of which
// Pub/Sub accepts MaxRequestSize.
func RequestSize(messages []*pubsubpb.PubsubMessage) int {
	return proto.Size(&pubsubpb.PublishRequest{Messages: messages})
}

func nth(i int) string { return fmt.Sprintf("message %d", i) }

// limitError says what has which value, and what Pub/Sub's limit is.
func limitError(what, value string, limit any) error {
	return problem.New(http.StatusBadRequest, fmt.Sprintf("%s has %s; the limit is %v", what, value, limit))
}

func check(i int, m *pubsubpb.PubsubMessage) error {
	over := func(what string, n, limit int) error {
		return limitError(nth(i), fmt.Sprintf("%s of %d bytes", what, n), limit)
	}
	switch {
	case len(m.Data) == 0 && len(m.Attributes) == 0:
		return problem.New(http.StatusBadRequest, nth(i)+" has neither data nor attributes; it needs at least one byte of data or one attribute")
	case len(m.Attributes) > MaxAttributes:
		return limitError(nth(i), fmt.Sprintf("%d attributes", len(m.Attributes)), MaxAttributes)
	case len(m.OrderingKey) > MaxOrderingKeySize:
		return over("an ordering key", len(m.OrderingKey), MaxOrderingKeySize)
	case !utf8.ValidString(m.OrderingKey):
		return limitError(nth(i), "an ordering key that is not UTF-8", "UTF-8")
	}
	for k, v := range m.Attributes {
		switch {
		case k == "":
			return limitError(nth(i), "an attribute key of 0 bytes", "at least one byte")
		case len(k) > MaxAttributeKeySize:
			return over("an attribute key", len(k), MaxAttributeKeySize)
		// Google's clients set googclient_ attributes, with tracing for one.
		case strings.HasPrefix(k, "goog") && !strings.HasPrefix(k, "googclient_"):
			return limitError(nth(i), `an attribute key that starts with "goog"`, `any prefix but "goog"`)
		case len(v) > MaxAttributeSize:
			return over("an attribute value", len(v), MaxAttributeSize)
		case !utf8.ValidString(k) || !utf8.ValidString(v):
			return limitError(nth(i), "an attribute that is not UTF-8", "UTF-8")
		}
	}
	return nil
}

// Publisher publishes to one topic.
type Publisher struct {
	client *pubsub.Client
	topic  string
}

// Open connects to Pub/Sub, or to its emulator when PUBSUB_EMULATOR_HOST is
// set, and returns a Publisher as New does. The connection lasts as long as the
// process.
func Open(ctx context.Context, project, topic string) (*Publisher, error) {
	client, err := pubsub.NewClient(ctx, project)
	if err != nil {
		return nil, fmt.Errorf("publisher: cannot connect: %w", err)
	}
	p, err := New(client, topic)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return p, nil
}

// New returns a Publisher for the topic with this ID in the client's project,
// or with this full name. The caller closes the client.
func New(client *pubsub.Client, topic string) (*Publisher, error) {
	if client == nil || topic == "" {
		return nil, errors.New("publisher: a client and a topic are required")
	}
	return &Publisher{client: client, topic: FullName(client.Project(), topic)}, nil
}

// FullName returns the full name of the topic with this ID in the project, and a
// full name as it is.
func FullName(project, topic string) string {
	if strings.Contains(topic, "/") {
		return topic
	}
	return "projects/" + project + "/topics/" + topic
}

// Publish sends messages, all of them or none, in one request and returns
// their IDs in order. It fails as Check does, with ErrUnavailable or ErrNoTopic,
// or with the context's error. Each call is one request, without batching in the
// background: a function has CPU only during a request, and who has many messages
// sends them together.
func (p *Publisher) Publish(ctx context.Context, messages []*pubsubpb.PubsubMessage) ([]string, error) {
	if err := Check(messages); err != nil {
		return nil, err
	}
	retries := &remembering{Retryer: p.retryer()}
	resp, err := p.client.TopicAdminClient.Publish(ctx, &pubsubpb.PublishRequest{Topic: p.topic, Messages: messages}, gax.WithRetry(func() gax.Retryer { return retries }))
	if err == nil {
		return resp.GetMessageIds(), nil
	}
	if errors.As(err, new(*problem.Error)) { // of an interceptor of the client
		return nil, err
	}
	if ctx.Err() != nil {
		if retries.last != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fmt.Errorf("%w: %w, after: %w", ErrUnavailable, ctx.Err(), retries.last)
		}
		return nil, fmt.Errorf("publisher: %w (%w)", ctx.Err(), err)
	}
	reason := ErrUnavailable
	switch status.Code(err) {
	case codes.InvalidArgument:
		reason = errRefused
	case codes.NotFound:
		reason = ErrNoTopic
	case codes.PermissionDenied, codes.Unauthenticated:
		reason = errForbidden
	}
	return nil, fmt.Errorf("%w: %w", reason, err)
}

// remembering decides on a retry as another Retryer does, and remembers why the last one
// was needed: the client returns no more than the context's error where that ends.
type remembering struct {
	gax.Retryer
	last error
}

// Retry implements gax.Retryer.
func (r *remembering) Retry(err error) (pause time.Duration, again bool) {
	pause, again = r.Retryer.Retry(err)
	if again && !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
		r.last = err
	}
	return pause, again
}

// retryer is the client's own for a call of Publish.
func (p *Publisher) retryer() gax.Retryer {
	var settings gax.CallSettings
	for _, o := range p.client.TopicAdminClient.CallOptions.Publish {
		o.Resolve(&settings)
	}
	if settings.Retry == nil {
		return gax.OnCodes(nil, gax.Backoff{})
	}
	return settings.Retry()
}
