package pubsubtest

import (
	"sync"
	"time"
)

// Clock is a clock that runs as the real one and can be moved forward, for a
// server that takes its time from Now and At. Its zero value is ready.
type Clock struct {
	mu     sync.Mutex
	ahead  time.Duration
	timers map[*clockTimer]bool
}

type clockTimer struct {
	at    time.Time
	timer *time.Timer
}

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// At calls f in a goroutine of its own when the clock is at t or later. stop
// cancels the call and reports whether it did.
func (c *Clock) At(t time.Time, f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timers == nil {
		c.timers = make(map[*clockTimer]bool)
	}
	timer := &clockTimer{at: t}
	c.timers[timer] = true
	timer.timer = time.AfterFunc(time.Until(t)-c.ahead, func() {
		if c.forget(timer) {
			f()
		}
	})
	return func() bool {
		timer.timer.Stop()
		return c.forget(timer)
	}
}

// forget reports whether it was the first to forget the timer.
func (c *Clock) forget(timer *clockTimer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := c.timers[timer]
	delete(c.timers, timer)
	return waiting
}

// Advance moves the clock forward.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
	for timer := range c.timers {
		timer.timer.Reset(time.Until(timer.at) - c.ahead)
	}
}
