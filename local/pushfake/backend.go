package pushfake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// batchSize is how many messages one call names: what Pull gives at most,
	// and few enough for the longest ack IDs to fit a request.
	batchSize = 1000
	// maxHeld and maxHeldSize bound what is leased at once, in messages and
	// bytes: past them nothing more is pulled until something is settled.
	maxHeld     = 20_000
	maxHeldSize = 256 << 20
	// messageOverhead stands for what a message takes besides its data.
	messageOverhead = 512

	pullTimeout  = time.Minute
	callTimeout  = 10 * time.Second
	minCallRetry = 100 * time.Millisecond
	maxCallRetry = 10 * time.Second
)

// backend is the Pub/Sub that messages come from.
type backend struct {
	client          *pubsub.Client
	name            string // of the subscription
	deadLetterTopic string
	poll            time.Duration
	published       chan struct{}
	// pullContext ends when no more messages are wanted.
	pullContext context.Context
	stopPulling context.CancelFunc
}

func newBackend(client *pubsub.Client, subscription string, o *Options) backend {
	b := backend{client: client, name: subscription, poll: o.Poll, published: o.published}
	if b.published == nil {
		b.published = make(chan struct{}, 1)
	}
	b.pullContext, b.stopPulling = context.WithCancel(context.Background())
	return b
}

// once takes the client's own retries away, which are silent and last for
// minutes.
var once = gax.WithRetry(func() gax.Retryer { return nil })

// wanted says that the backend may have messages that it had not before.
func (b *backend) wanted() {
	select {
	case b.published <- struct{}{}:
	default:
	}
}

// pull returns up to n messages once there is one, or none when no more are
// wanted.
func (b *backend) pull(n int) ([]*pubsubpb.ReceivedMessage, error) {
	for b.pullContext.Err() == nil {
		// A call that is cut off may leave messages leased to nobody. One that
		// does not wait is not worth that.
		parent := b.pullContext
		if b.poll > 0 {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, pullTimeout)
		answer, err := b.client.SubscriptionAdminClient.Pull(ctx, &pubsubpb.PullRequest{
			Subscription: b.name,
			MaxMessages:  int32(n),
			//lint:ignore SA1019 deprecated for Pub/Sub itself, where it is not used
			ReturnImmediately: b.poll > 0,
		}, once)
		cancel()
		switch {
		case len(answer.GetReceivedMessages()) > 0:
			return answer.ReceivedMessages, nil
		case b.pullContext.Err() != nil:
			return nil, nil
		case err != nil && status.Code(err) != codes.DeadlineExceeded:
			return nil, fmt.Errorf("pushfake: pulling: %w", err)
		case b.poll > 0:
			again := time.NewTimer(b.poll)
			select {
			case <-b.published:
			case <-again.C:
			case <-b.pullContext.Done():
			}
			again.Stop()
		}
	}
	return nil, nil
}

func (b *backend) acknowledge(ids []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := b.client.SubscriptionAdminClient.Acknowledge(ctx, &pubsubpb.AcknowledgeRequest{Subscription: b.name, AckIds: ids}, once)
	if err != nil {
		return fmt.Errorf("pushfake: acknowledging: %w", err)
	}
	return nil
}

// extend makes leases last for d from now; 0 gives them up.
func (b *backend) extend(ids []string, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := b.client.SubscriptionAdminClient.ModifyAckDeadline(ctx, &pubsubpb.ModifyAckDeadlineRequest{
		Subscription: b.name, AckIds: ids, AckDeadlineSeconds: int32(d / time.Second),
	}, once)
	if err != nil {
		return fmt.Errorf("pushfake: changing the ack deadline: %w", err)
	}
	return nil
}

// forward publishes a message to the dead-letter topic.
func (b *backend) forward(m *pubsubpb.PubsubMessage, attempts int) error {
	project, subscription := "", b.name
	if parts := strings.Split(b.name, "/"); len(parts) == 4 {
		project, subscription = parts[1], parts[3]
	}
	attributes := maps.Clone(m.Attributes)
	if attributes == nil {
		attributes = make(map[string]string)
	}
	attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = strconv.Itoa(attempts)
	attributes["CloudPubSubDeadLetterSourceSubscription"] = subscription
	attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
	attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = m.PublishTime.AsTime().Format("2006-01-02T15:04:05.000+00:00")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_, err := b.client.TopicAdminClient.Publish(ctx, &pubsubpb.PublishRequest{
		Topic:    b.deadLetterTopic,
		Messages: []*pubsubpb.PubsubMessage{{Data: m.Data, Attributes: attributes, OrderingKey: m.OrderingKey}},
	}, once)
	if err != nil {
		return fmt.Errorf("pushfake: publishing to the dead-letter topic: %w", err)
	}
	return nil
}

// call is a kind of call to the backend, of which there is one at a time.
type call struct {
	busy     bool
	failures int
	next     time.Time // not before
}

func (c *call) may(now time.Time) bool { return !c.busy && !now.Before(c.next) }

// ended deals with the end of a call and reports whether it succeeded.
func (d *Dispatcher) ended(c *call, err error) bool {
	c.busy = false
	if err == nil {
		c.failures, c.next = 0, time.Time{}
		return true
	}
	c.next = d.clock.Now().Add(doubled(minCallRetry, c.failures, maxCallRetry))
	c.failures++
	if d.onError != nil {
		d.onError(err)
	}
	return false
}

// pullMore keeps a batch at hand.
func (d *Dispatcher) pullMore(now time.Time) {
	if d.stopping || !d.pulling.may(now) || d.ready.len() >= batchSize || len(d.held) >= maxHeld || d.heldSize >= maxHeldSize {
		return
	}
	n := min(batchSize, maxHeld-len(d.held))
	if len(d.held) > 0 {
		n = max(1, min(n, (maxHeldSize-d.heldSize)/(d.heldSize/len(d.held))))
	}
	d.pulling.busy = true
	go func() {
		batch, err := d.pull(n)
		d.post(func() {
			d.ended(&d.pulling, err)
			d.accept(batch)
		})
	}()
}

// acknowledge tells the backend what the endpoint has acknowledged.
func (d *Dispatcher) acknowledge(now time.Time) {
	if len(d.acks) == 0 || !d.acking.may(now) {
		return
	}
	batch, ids := take(&d.acks)
	d.acking.busy = true
	go func() {
		err := d.backend.acknowledge(ids)
		d.post(func() {
			if !d.ended(&d.acking, err) {
				d.acks = append(d.acks, batch...)
				return
			}
			for _, m := range batch {
				d.forget(m)
			}
			if d.ordered {
				d.wanted()
			}
		})
	}()
}

func (d *Dispatcher) forget(m *message) {
	if d.held[m.MessageId] == m {
		delete(d.held, m.MessageId)
		d.heldSize -= m.size
	}
}

// take removes the first batch of messages and returns it with its ack IDs.
func take(from *[]*message) ([]*message, []string) {
	n := min(len(*from), batchSize)
	batch := (*from)[:n:n]
	*from = (*from)[n:]
	return batch, ackIDs(batch)
}

func ackIDs(batch []*message) []string {
	ids := make([]string, len(batch))
	for i, m := range batch {
		ids[i] = m.ackID
	}
	return ids
}

// bury forwards dead letters and then has them acknowledged, so that they are
// in one place or the other, or for a moment in both.
func (d *Dispatcher) bury(now time.Time) {
	if len(d.dead) == 0 || !d.burying.may(now) {
		return
	}
	m := d.dead[0]
	d.burying.busy = true
	go func() {
		err := d.forward(m.PubsubMessage, m.attempt)
		d.post(func() {
			if d.ended(&d.burying, err) {
				d.dead = d.dead[1:]
				d.settle(m)
			}
		})
	}()
}

// lease is a batch of messages that were leased together.
type lease struct {
	renewAt  time.Time
	messages []*message
}

func (l *lease) add(m *message) {
	l.messages = append(l.messages, m)
	m.lease = l
}

// renewLeases extends, at half-time, the leases of what is still held.
func (d *Dispatcher) renewLeases(now time.Time) {
	for d.leases.len() > 0 && !now.Before(d.leases.front().renewAt) && d.renewing.may(now) {
		l := d.leases.front()
		l.messages = slices.DeleteFunc(l.messages, func(m *message) bool {
			return d.held[m.MessageId] != m || m.lease != l
		})
		if len(l.messages) == 0 {
			d.leases.pop()
			continue
		}
		ids := ackIDs(l.messages)
		d.renewing.busy = true
		go func() {
			err := d.extend(ids, d.ackDeadline)
			d.post(func() {
				if d.ended(&d.renewing, err) {
					d.leases.pop()
					l.renewAt = now.Add(d.ackDeadline / 2)
					d.leases.push(l)
				}
			})
		}()
	}
}

// handBack ends the Dispatcher's hold on all messages.
func (d *Dispatcher) handBack() error {
	var errs []error
	for len(d.acks) > 0 {
		batch, ids := take(&d.acks)
		errs = append(errs, d.backend.acknowledge(ids))
		for _, m := range batch {
			d.forget(m)
		}
	}
	var rest []*message
	for _, m := range d.held {
		rest = append(rest, m)
	}
	for len(rest) > 0 {
		_, ids := take(&rest)
		errs = append(errs, d.extend(ids, 0))
	}
	return errors.Join(errs...)
}
