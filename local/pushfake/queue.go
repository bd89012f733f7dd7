package pushfake

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/pubsubserver"
)

// Dispatchers deliver the messages of all push subscriptions of one
// pubsubserver.Server, whose Options.Push is their Start.
type Dispatchers struct {
	options Options
	mu      sync.Mutex
	running map[*Dispatcher]struct{}
}

// NewDispatchers returns Dispatchers that have nothing to deliver yet. Each
// subscription that is signed needs the Issuer of the options.
func NewDispatchers(o *Options) *Dispatchers {
	return &Dispatchers{options: *o, running: make(map[*Dispatcher]struct{})}
}

// Start delivers the messages of a queue until stop is called, which does not
// wait: requests under way may still finish. What cannot be delivered by these
// settings is told to OnError and stays in the queue.
func (ds *Dispatchers) Start(settings *pubsubpb.Subscription, q *pubsubserver.Queue) (stop func()) {
	d, err := newDispatcher(settings, &ds.options)
	if err != nil {
		if ds.options.OnError != nil {
			ds.options.OnError(err)
		}
		return func() {}
	}
	d.source = &queue{d: d, q: q, stopped: make(chan struct{})}
	ds.mu.Lock()
	ds.running[d] = struct{}{}
	ds.mu.Unlock()
	go func() {
		d.run()
		ds.mu.Lock()
		delete(ds.running, d)
		ds.mu.Unlock()
	}()
	return d.finish
}

// Shutdown starts no more requests, and gives those under way until ctx ends.
func (ds *Dispatchers) Shutdown(ctx context.Context) {
	ds.mu.Lock()
	running := slices.Collect(maps.Keys(ds.running))
	ds.mu.Unlock()
	var all sync.WaitGroup
	for _, d := range running {
		all.Go(func() { _ = d.Shutdown(ctx) }) // a queue takes everything back
	}
	all.Wait()
}

// queue is a subscription of a pubsubserver.Server, which orders, delays and
// buries its messages itself.
type queue struct {
	d *Dispatcher
	q *pubsubserver.Queue
	// leased are messages for which no request was started yet.
	leased []*pubsubserver.Lease
	// changed is not nil while there is nothing more to lease; it is closed when
	// there may be.
	changed <-chan struct{}
	retryAt time.Time // after an error
	stopped chan struct{}
}

// leaseRetry is how long the file is left alone that could not be read.
const leaseRetry = time.Second

func (q *queue) work(time.Time) {}

func (q *queue) next(n int) *message {
	if len(q.leased) == 0 && !q.lease(n) {
		return nil
	}
	l := q.leased[0]
	q.leased = q.leased[1:]
	return &message{PubsubMessage: l.Message, attempt: l.Attempt, lease: l}
}

// lease reports whether it leased something.
func (q *queue) lease(n int) bool {
	now := q.d.clock.Now()
	if now.Before(q.retryAt) {
		return false
	}
	if q.changed != nil {
		select {
		case <-q.changed:
		default:
			return false
		}
	}
	leased, changed, err := q.q.Lease(n)
	if err != nil {
		q.retryAt = now.Add(leaseRetry)
		if q.d.onError != nil {
			q.d.onError(err)
		}
	}
	q.leased, q.changed = leased, changed
	if changed != nil {
		go func() {
			select {
			case <-changed:
				q.d.signal()
			case <-q.stopped:
			}
		}()
	}
	return len(leased) > 0
}

func (q *queue) acked(m *message) { q.q.Ack(m.lease) }

func (q *queue) refused(m *message, _ time.Time) (deadLettered bool, again time.Time) {
	n := q.q.Nack(m.lease)
	if n.DeadLettered {
		return true, time.Time{}
	}
	return false, n.RetryAt
}

func (q *queue) released(m *message) { q.q.Release(m.lease) }

func (q *queue) due(now time.Time, at func(time.Time)) {
	if now.Before(q.retryAt) {
		at(q.retryAt)
	}
}

func (q *queue) stop() {
	select {
	case <-q.stopped:
	default:
		close(q.stopped)
	}
}

func (q *queue) busy() bool { return false }

func (q *queue) close() error {
	for _, l := range q.leased {
		q.q.Release(l)
	}
	q.leased = nil
	return nil
}
