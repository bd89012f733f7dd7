// Package timedqueue holds items until they are due, for stand-ins that send
// notifications and repeat them. A simulation with a clock of its own calls
// Deliver; a server calls Run.
package timedqueue

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Queue is a queue of items by due time; items due at the same time keep the order
// in which they were added. It is safe for concurrent use.
type Queue[T any] struct {
	now  func() time.Time
	wake chan struct{}

	mu    sync.Mutex
	items []item[T]
}

type item[T any] struct {
	value T
	due   time.Time
}

// New returns an empty Queue with this clock.
func New[T any](now func() time.Time) *Queue[T] {
	return &Queue[T]{now: now, wake: make(chan struct{}, 1)}
}

// Add adds an item that is due at a time.
func (q *Queue[T]) Add(value T, due time.Time) {
	q.mu.Lock()
	at, _ := slices.BinarySearchFunc(q.items, due, func(i item[T], due time.Time) int {
		if i.due.After(due) {
			return 1
		}
		return -1
	})
	q.items = slices.Insert(q.items, at, item[T]{value, due})
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Remove removes the items that match and returns them.
func (q *Queue[T]) Remove(match func(T) bool) (removed []T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = slices.DeleteFunc(q.items, func(i item[T]) bool {
		if match(i.value) {
			removed = append(removed, i.value)
			return true
		}
		return false
	})
	return removed
}

// take removes an item that is due and returns it. Without one it returns when the
// next is due, or the zero time when the queue is empty.
func (q *Queue[T]) take() (value T, next time.Time, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return value, time.Time{}, false
	}
	first := q.items[0]
	if first.due.After(q.now()) {
		return value, first.due, false
	}
	q.items = slices.Delete(q.items, 0, 1)
	return first.value, time.Time{}, true
}

// Deliver calls f with each item that is due, one after another, including those
// that become due meanwhile. It returns when the next item is due; ok is false when
// there is none, or when ctx has ended.
func (q *Queue[T]) Deliver(ctx context.Context, f func(T)) (next time.Time, ok bool) {
	for ctx.Err() == nil {
		value, next, due := q.take()
		if !due {
			return next, !next.IsZero()
		}
		f(value)
	}
	return time.Time{}, false
}

// Run calls f with each item as it becomes due, with at most limit calls at the
// same time, until ctx ends. It returns when all calls have returned.
func (q *Queue[T]) Run(ctx context.Context, limit int, f func(T)) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, limit)
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		value, ok := q.wait(ctx)
		if !ok {
			return
		}
		running.Go(func() {
			f(value)
			<-slots
		})
	}
}

// wait returns an item as soon as one is due; ok is false when ctx ends before.
func (q *Queue[T]) wait(ctx context.Context) (value T, ok bool) {
	for ctx.Err() == nil {
		value, next, ok := q.take()
		if ok {
			return value, true
		}
		var alarm <-chan time.Time // nil never fires
		if !next.IsZero() {
			alarm = time.After(next.Sub(q.now()))
		}
		select {
		case <-ctx.Done():
		case <-q.wake:
		case <-alarm:
		}
	}
	return value, false
}
