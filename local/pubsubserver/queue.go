package pubsubserver

import (
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
)

// Queue is where a push dispatcher takes the messages of a subscription from.
// Ordering keys, retry delays and dead letters are dealt with by the Queue; the
// pace is the dispatcher's. It is safe for concurrent use.
type Queue struct{ sub *subscription }

// Lease is a message that is the dispatcher's until it calls Ack, Nack or
// Release with it.
type Lease struct {
	Message *pubsubpb.PubsubMessage
	// Attempt counts from 1.
	Attempt int
	d       *delivery
}

// Nacked says what becomes of a message whose delivery failed.
type Nacked struct {
	// DeadLettered says that it goes to the dead-letter topic.
	DeadLettered bool
	// RetryAt is when it is due again otherwise.
	RetryAt time.Time
}

// Lease takes up to n messages that are due. When there are fewer, changed is
// closed as soon as there may be more.
func (q *Queue) Lease(n int) (leases []*Lease, changed <-chan struct{}, err error) {
	s := q.sub.s
	s.mu.Lock()
	leased := q.sub.lease(n, maxPullSize, 0, nil)
	if len(leased) < n {
		changed = q.sub.wait()
	}
	seqs := make([]uint64, len(leased))
	for i, d := range leased {
		seqs[i] = d.seq
	}
	s.mu.Unlock()
	messages, err := s.read(seqs)
	if err != nil {
		for _, d := range leased {
			q.Release(&Lease{d: d})
		}
		return nil, changed, err
	}
	for i, m := range messages {
		if m != nil {
			leases = append(leases, &Lease{m, int(leased[i].attempts) + 1, leased[i]})
		}
	}
	return leases, changed, nil
}

// holds says whether a lease is still one: a seek or the subscription's end
// ends it.
func (q *Queue) holds(l *Lease) bool {
	return q.sub.deliveries[l.d.seq] == l.d && l.d.state == stateLeased
}

// Ack removes a message. It is durable soon after.
func (q *Queue) Ack(l *Lease) {
	q.sub.s.mu.Lock()
	defer q.sub.s.mu.Unlock()
	if q.holds(l) {
		q.sub.settle(q.sub.acknowledge(nil, l.d.seq, l.d.lease, q.sub.s.clock.Now()))
	}
}

// Nack makes a message due again after the delay of the retry policy, or a dead
// letter.
func (q *Queue) Nack(l *Lease) Nacked {
	q.sub.s.mu.Lock()
	defer q.sub.s.mu.Unlock()
	if !q.holds(l) {
		return Nacked{}
	}
	q.sub.s.checkClock()
	q.sub.nack(l.d, q.sub.s.clock.Now())
	return Nacked{DeadLettered: l.d.state == stateDead, RetryAt: time.Unix(0, l.d.at)}
}

// Release makes a message due again as if it had not been leased.
func (q *Queue) Release(l *Lease) {
	q.sub.s.mu.Lock()
	defer q.sub.s.mu.Unlock()
	if q.holds(l) {
		q.sub.s.checkClock()
		now := q.sub.s.clock.Now()
		q.sub.take(l.d)
		q.sub.due(l.d, min(q.sub.topic.find(l.d.seq).time, now.UnixNano()), now)
	}
}
