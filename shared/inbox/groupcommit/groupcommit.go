// Package groupcommit lets concurrent writers share commits. An idle group
// commits a single item at once; a busy one collects the items that arrive while
// earlier commits are in flight. There is no timer: an item waits for others only as long
// as their callers are ready to run.
package groupcommit

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"
)

// ErrClosed is returned by Do after Close.
var ErrClosed = errors.New("groupcommit: closed")

// Options configure a group. Every number must be positive.
type Options struct {
	// MaxItems and MaxBytes cap one commit. An item larger than MaxBytes is
	// committed alone.
	MaxItems int
	MaxBytes int
	// InFlight caps the commits that run at the same time.
	InFlight int
	// Finish makes Do wait for the end of a commit that has begun, also when its
	// context ends: for items that must not change while a commit reads them.
	Finish bool
}

// CommitFunc makes items durable. It returns one error per item, or nil when
// all succeeded. Its context ends at the latest
// deadline among the items' callers.
type CommitFunc[T any] func(ctx context.Context, items []T) []error

// Group collects items into commits. New returns one.
type Group[T any] struct {
	commit CommitFunc[T]
	opts   Options

	mu     sync.Mutex
	queue  []*call[T]
	active int
	closed bool
	idle   sync.Cond
}

type call[T any] struct {
	ctx  context.Context
	item T
	size int
	done chan error
	// begun says that a commit has the item; Group.mu guards it.
	begun bool
}

// New returns a group that commits with commit.
func New[T any](commit CommitFunc[T], opts Options) (*Group[T], error) {
	if commit == nil || opts.MaxItems <= 0 || opts.MaxBytes <= 0 || opts.InFlight <= 0 {
		return nil, errors.New("groupcommit: a commit function and positive limits are required")
	}
	g := &Group[T]{commit: commit, opts: opts}
	g.idle.L = &g.mu
	return g, nil
}

// Do commits item, which counts as size bytes, and returns its error. When ctx
// ends first Do returns ctx's error at once, unless Options.Finish makes it wait:
// the item may or may not be committed, the others of its batch are not affected.
func (g *Group[T]) Do(ctx context.Context, item T, size int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &call[T]{ctx: ctx, item: item, size: size, done: make(chan error, 1)}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	g.queue = append(g.queue, c)
	if g.active < g.opts.InFlight {
		g.active++
		go g.run()
	}
	g.mu.Unlock()
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
	}
	g.mu.Lock()
	begun := c.begun
	g.mu.Unlock()
	if begun && g.opts.Finish {
		return <-c.done
	}
	return ctx.Err()
}

// Close refuses new items and returns when all earlier ones are committed.
func (g *Group[T]) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for g.active > 0 {
		g.idle.Wait()
	}
}

// run commits batches until the queue is empty.
func (g *Group[T]) run() {
	for {
		g.gather()
		batch := g.next()
		if batch == nil {
			return
		}
		items := make([]T, len(batch))
		for i, c := range batch {
			items[i] = c.item
		}
		ctx, cancel := batchContext(batch)
		errs := g.commit(ctx, items)
		cancel()
		for i, c := range batch {
			var err error
			if errs != nil {
				err = errs[i]
			}
			c.done <- err
		}
	}
}

// gather lets callers join the next batch that are ready to run. Without it, those that
// an earlier commit has just answered find the next one begun, and under load batches stay
// a fraction of what is in flight.
func (g *Group[T]) gather() {
	for before, now := -1, g.waiting(); before < now && now < g.opts.MaxItems; {
		runtime.Gosched()
		before, now = now, g.waiting()
	}
}

func (g *Group[T]) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.queue)
}

// next removes the next batch from the queue; nil ends the runner.
func (g *Group[T]) next() []*call[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var batch []*call[T]
	size, taken := 0, 0
	for _, c := range g.queue {
		if c.ctx.Err() == nil {
			if len(batch) == g.opts.MaxItems || len(batch) > 0 && size+c.size > g.opts.MaxBytes {
				break
			}
			c.begun = true
			batch, size = append(batch, c), size+c.size
		}
		taken++
	}
	clear(g.queue[:taken])
	if g.queue = g.queue[taken:]; len(g.queue) == 0 {
		g.queue = nil
	}
	if batch == nil {
		g.active--
		g.idle.Broadcast()
	}
	return batch
}

// batchContext returns a context that lives as long as one of the batch's
// callers may still be waiting.
func batchContext[T any](batch []*call[T]) (context.Context, context.CancelFunc) {
	var last time.Time
	for _, c := range batch {
		deadline, ok := c.ctx.Deadline()
		if !ok {
			return context.WithCancel(context.WithoutCancel(c.ctx))
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return context.WithDeadline(context.WithoutCancel(batch[0].ctx), last)
}
