package pushfake_test

import (
	"slices"
	"sync"
	"time"
)

// manualClock is a pushfake.Clock that stands still until Advance moves it: a backoff
// of a minute passes in no time. It is safe for concurrent use.
type manualClock struct {
	mu     sync.Mutex
	now    time.Time
	timers []*manualTimer
}

type manualTimer struct {
	at time.Time
	f  func()
}

// newManualClock returns a clock that stands at now. Where tokens are verified
// by code that reads the system's clock, start it at time.Now().
func newManualClock(now time.Time) *manualClock {
	return &manualClock{now: now}
}

// Now returns where the clock stands.
func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// At calls f when the clock has been advanced to t, or soon if it is there.
func (c *manualClock) At(t time.Time, f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.now.Before(t) {
		go f()
		return func() bool { return false }
	}
	timer := &manualTimer{t, f}
	c.timers = append(c.timers, timer)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.timers, timer)
		if i < 0 {
			return false
		}
		c.timers = slices.Delete(c.timers, i, i+1)
		return true
	}
}

// Advance moves the clock forward by d and calls what is due, earliest first.
func (c *manualClock) Advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []*manualTimer
	c.timers = slices.DeleteFunc(c.timers, func(t *manualTimer) bool {
		if t.at.After(c.now) {
			return false
		}
		due = append(due, t)
		return true
	})
	c.mu.Unlock()
	slices.SortStableFunc(due, func(a, b *manualTimer) int { return a.at.Compare(b.at) })
	for _, t := range due {
		t.f()
	}
}
