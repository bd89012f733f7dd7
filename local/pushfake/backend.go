package pushfake

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/local/pubsubserver"
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

	pullTimeout = time.Minute
	callTimeout = 10 * time.Second
	// defaultMaxAttempts are those of a dead-letter policy that leaves them out.
	defaultMaxAttempts = 5

	minCallRetry = 100 * time.Millisecond
	maxCallRetry = 10 * time.Second
)

// New returns a Dispatcher that pulls the messages of the subscription with this
// full name, by gRPC, and delivers them until it is closed. Ack deadline,
// ordering, retry and dead-letter policy are the subscription's, as they are
// now. It fails when the subscription cannot be read or nothing says where to
// push.
func New(ctx context.Context, client *pubsub.Client, subscription string, o *Options) (*Dispatcher, error) {
	if client == nil {
		return nil, errors.New("pushfake: no client")
	}
	if o == nil {
		o = &Options{}
	}
	s, err := client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: subscription})
	if err != nil {
		return nil, fmt.Errorf("pushfake: reading the subscription: %w", err)
	}
	if o.Push != nil {
		s.PushConfig = o.Push
	}
	s.Name = subscription
	d, err := newDispatcher(s, o)
	if err != nil {
		return nil, err
	}
	b := &backend{
		d:         d,
		client:    client,
		name:      subscription,
		poll:      o.Poll,
		ordered:   s.EnableMessageOrdering,
		retry:     s.RetryPolicy,
		published: make(chan struct{}, 1),
		held:      make(map[string]*message),
		keys:      make(map[string][]*message),
	}
	b.pullContext, b.stopPulling = context.WithCancel(context.Background())
	if p := s.DeadLetterPolicy; p != nil {
		b.deadLetterTopic = p.DeadLetterTopic
		b.maxAttempts = cmp.Or(int(p.MaxDeliveryAttempts), defaultMaxAttempts)
	}
	d.source = b
	go d.run()
	return d, nil
}

// backend is a Pub/Sub that messages are pulled from. Ordering keys, retry
// delays and dead letters are dealt with here, since a lease has to be held in
// the meantime.
type backend struct {
	d               *Dispatcher
	client          *pubsub.Client
	name            string // of the subscription
	deadLetterTopic string
	poll            time.Duration
	ordered         bool
	retry           *pubsubpb.RetryPolicy
	maxAttempts     int // 0: no dead-letter policy
	// published is signalled when there may be messages that were not there
	// before.
	published chan struct{}
	// pullContext ends when no more messages are wanted.
	pullContext context.Context
	stopPulling context.CancelFunc

	// The rest belongs to the goroutine of d.
	held     map[string]*message // by ID: all that is leased to us
	heldSize int
	ready    []*message
	waiting  waiting
	keys     map[string][]*message // per ordering key under way, what comes after it
	leases   []*lease
	acks     []*message
	dead     []*message
	pulling  call
	acking   call
	renewing call
	burying  call
}

// pulledState is what a backend knows of a message.
type pulledState struct {
	ackID string
	key   string // of an ordered subscription
	size  int
	lease *lease // the latest
	acked bool   // by the endpoint, or by way of the dead-letter topic
}

func (b *backend) work(now time.Time) {
	for m := b.waiting.popDue(now); m != nil; m = b.waiting.popDue(now) {
		b.ready = append(b.ready, m)
	}
	b.pullMore(now)
	b.acknowledgeMore(now)
	b.bury(now)
	b.renewLeases(now)
}

func (b *backend) next(int) *message {
	if len(b.ready) == 0 {
		return nil
	}
	m := b.ready[0]
	b.ready = b.ready[1:]
	return m
}

func (b *backend) refused(m *message, now time.Time) (deadLettered bool, again time.Time) {
	if b.maxAttempts > 0 && m.attempt >= b.maxAttempts {
		b.dead = append(b.dead, m)
		return true, time.Time{}
	}
	m.at = now.Add(pubsubserver.RetryDelay(b.retry, m.attempt))
	m.attempt++
	if m.at.After(now) {
		heap.Push(&b.waiting, m)
	} else {
		b.ready = append(b.ready, m)
	}
	return false, m.at
}

// released leaves it to close to hand the message back.
func (b *backend) released(*message) {}

func (b *backend) due(now time.Time, at func(time.Time)) {
	if len(b.waiting) > 0 {
		at(b.waiting[0].at)
	}
	if len(b.leases) > 0 && b.renewing.may(now) {
		at(b.leases[0].renewAt)
	}
	for _, c := range [...]*call{&b.pulling, &b.acking, &b.burying, &b.renewing} {
		if !c.busy && now.Before(c.next) {
			at(c.next)
		}
	}
}

func (b *backend) stop() { b.stopPulling() }

func (b *backend) busy() bool {
	return b.pulling.busy || b.burying.busy || b.acking.busy || b.renewing.busy
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
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_, err := b.client.TopicAdminClient.Publish(ctx, &pubsubpb.PublishRequest{
		Topic:    b.deadLetterTopic,
		Messages: []*pubsubpb.PubsubMessage{pubsubserver.DeadLetter(m, b.name, attempts)},
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
func (b *backend) ended(c *call, err error) bool {
	c.busy = false
	if err == nil {
		c.failures, c.next = 0, time.Time{}
		return true
	}
	c.next = b.d.clock.Now().Add(doubled(minCallRetry, c.failures, maxCallRetry))
	c.failures++
	if b.d.onError != nil {
		b.d.onError(err)
	}
	return false
}

// pullMore keeps a batch at hand.
func (b *backend) pullMore(now time.Time) {
	if b.d.stopping || !b.pulling.may(now) || len(b.ready) >= batchSize || len(b.held) >= maxHeld || b.heldSize >= maxHeldSize {
		return
	}
	n := min(batchSize, maxHeld-len(b.held))
	if len(b.held) > 0 {
		n = max(1, min(n, (maxHeldSize-b.heldSize)/(b.heldSize/len(b.held))))
	}
	b.pulling.busy = true
	go func() {
		batch, err := b.pull(n)
		b.d.post(func() {
			b.ended(&b.pulling, err)
			b.accept(batch)
		})
	}()
}

// acknowledgeMore tells the backend what the endpoint has acknowledged.
func (b *backend) acknowledgeMore(now time.Time) {
	if len(b.acks) == 0 || !b.acking.may(now) {
		return
	}
	batch, ids := take(&b.acks)
	b.acking.busy = true
	go func() {
		err := b.acknowledge(ids)
		b.d.post(func() {
			if !b.ended(&b.acking, err) {
				b.acks = append(b.acks, batch...)
				return
			}
			for _, m := range batch {
				b.forget(m)
			}
			if b.ordered {
				b.wanted()
			}
		})
	}()
}

func (b *backend) forget(m *message) {
	if b.held[m.MessageId] == m {
		delete(b.held, m.MessageId)
		b.heldSize -= m.pulled.size
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
		ids[i] = m.pulled.ackID
	}
	return ids
}

// bury forwards dead letters and then has them acknowledged, so that they are
// in one place or the other, or for a moment in both.
func (b *backend) bury(now time.Time) {
	if len(b.dead) == 0 || !b.burying.may(now) {
		return
	}
	m := b.dead[0]
	b.burying.busy = true
	go func() {
		err := b.forward(m.PubsubMessage, m.attempt)
		b.d.post(func() {
			if b.ended(&b.burying, err) {
				b.dead = b.dead[1:]
				b.acked(m)
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
	m.pulled.lease = l
}

// renewLeases extends, at half-time, the leases of what is still held.
func (b *backend) renewLeases(now time.Time) {
	for len(b.leases) > 0 && !now.Before(b.leases[0].renewAt) && b.renewing.may(now) {
		l := b.leases[0]
		l.messages = slices.DeleteFunc(l.messages, func(m *message) bool {
			return b.held[m.MessageId] != m || m.pulled.lease != l
		})
		if len(l.messages) == 0 {
			b.leases = b.leases[1:]
			continue
		}
		ids := ackIDs(l.messages)
		b.renewing.busy = true
		go func() {
			err := b.extend(ids, b.d.ackDeadline)
			b.d.post(func() {
				if b.ended(&b.renewing, err) {
					b.leases = b.leases[1:]
					l.renewAt = now.Add(b.d.ackDeadline / 2)
					b.leases = append(b.leases, l)
				}
			})
		}()
	}
}

// close ends the hold on all messages.
func (b *backend) close() error {
	var errs []error
	for len(b.acks) > 0 {
		batch, ids := take(&b.acks)
		errs = append(errs, b.acknowledge(ids))
		for _, m := range batch {
			b.forget(m)
		}
	}
	var rest []*message
	for _, m := range b.held {
		rest = append(rest, m)
	}
	for len(rest) > 0 {
		_, ids := take(&rest)
		errs = append(errs, b.extend(ids, 0))
	}
	return errors.Join(errs...)
}

// accept takes in what was pulled.
func (b *backend) accept(batch []*pubsubpb.ReceivedMessage) {
	// Backends give no order, or only one for each key and not after messages
	// were handed back.
	slices.SortFunc(batch, func(a, b *pubsubpb.ReceivedMessage) int { return byPublishing(a.Message, b.Message) })
	leased := &lease{renewAt: b.d.clock.Now().Add(b.d.ackDeadline / 2)}
	for _, r := range batch {
		m := b.held[r.Message.MessageId]
		if m != nil {
			// Our lease was lost. The message stays where it is, under its new
			// ack ID; what was acknowledged by the old one is again.
			m.pulled.ackID = r.AckId
			if m.pulled.acked {
				b.acks = append(b.acks, m)
			}
			leased.add(m)
			continue
		}
		m = &message{
			PubsubMessage: r.Message, attempt: max(1, int(r.DeliveryAttempt)),
			pulled: pulledState{ackID: r.AckId, size: len(r.Message.Data) + messageOverhead},
		}
		b.held[m.MessageId] = m
		b.heldSize += m.pulled.size
		leased.add(m)
		if b.ordered && m.OrderingKey != "" {
			m.pulled.key = m.OrderingKey
			if after, underWay := b.keys[m.pulled.key]; underWay {
				i, _ := slices.BinarySearchFunc(after, m, func(a, b *message) int { return byPublishing(a.PubsubMessage, b.PubsubMessage) })
				b.keys[m.pulled.key] = slices.Insert(after, i, m)
				continue
			}
			b.keys[m.pulled.key] = nil
		}
		b.ready = append(b.ready, m)
	}
	if len(leased.messages) > 0 {
		b.leases = append(b.leases, leased)
	}
}

// byPublishing compares messages by when they were published. IDs that are
// numbers of different length compare as numbers.
func byPublishing(a, b *pubsubpb.PubsubMessage) int {
	return cmp.Or(
		cmp.Compare(a.PublishTime.GetSeconds(), b.PublishTime.GetSeconds()),
		cmp.Compare(a.PublishTime.GetNanos(), b.PublishTime.GetNanos()),
		cmp.Compare(len(a.MessageId), len(b.MessageId)),
		cmp.Compare(a.MessageId, b.MessageId),
	)
}

// acked has a message acknowledged to the backend and lets the next one of its
// key go ahead.
func (b *backend) acked(m *message) {
	m.pulled.acked = true
	b.acks = append(b.acks, m)
	if m.pulled.key == "" {
		return
	}
	if after := b.keys[m.pulled.key]; len(after) > 0 {
		b.keys[m.pulled.key] = after[1:]
		b.ready = append(b.ready, after[0])
	} else {
		delete(b.keys, m.pulled.key)
	}
}
