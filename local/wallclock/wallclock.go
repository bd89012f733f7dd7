// Package wallclock tells when the system's clock was set, so that nothing is deleted too
// early, or waited for too long. Go's timers go by another clock, which nobody sets; but that
// one stands still, on Linux, while the machine sleeps, and ends with the process.
package wallclock

import (
	"sync"
	"time"
)

const (
	// leap is how far the clock may go ahead of the time that has passed before it
	// is doubted, and doubt how long it is.
	leap  = 5 * time.Minute
	doubt = time.Hour
	// slack is how far it may fall behind: it is corrected by less all the time.
	slack = time.Second
)

// Clock is the system's clock, and the latest time that it can be: that of Start, and what
// has passed since then. New returns one. It is safe for concurrent use.
type Clock struct {
	now func() time.Time

	mu sync.Mutex
	// base was the time when mono was read. doubted is when the clock was found to be
	// ahead; zero when it is not.
	base          time.Time
	mono, doubted time.Time
	warned        bool
	// last was the last reading, and lastMono when that was. back is what Back returns.
	last, lastMono time.Time
	back           time.Duration
}

// New returns the clock that now reads; nil means time.Now.
func New(now func() time.Time) *Clock {
	if now == nil {
		now = time.Now
	}
	c := &Clock{now: now}
	c.Start(time.Time{})
	return c
}

// Now returns the clock's time.
func (c *Clock) Now() time.Time { return c.now() }

// Start begins with a time that was right; zero is the clock's own.
func (c *Clock) Start(right time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base, c.mono = right.Round(0), time.Now(); right.IsZero() {
		c.base = c.now().Round(0)
	}
}

// Read returns the clock's time, and the time by which something may expire: the same,
// unless the clock went ahead by more than 5 minutes, and that for less than an hour. The
// machine's sleep is such a leap on Linux; another leap within the hour begins no new one.
func (c *Clock) Read() (now, believed time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mono := time.Now()
	now = c.now().Round(0) // or the clock that nobody sets would be compared with itself
	if back := c.last.Add(mono.Sub(c.lastMono)).Sub(now); !c.last.IsZero() && back > slack {
		c.back += back
	}
	c.last, c.lastMono = now, mono
	expected := c.base.Add(mono.Sub(c.mono))
	if now.After(expected.Add(leap)) {
		if c.doubted.IsZero() {
			c.doubted = mono
		}
		if mono.Sub(c.doubted) < doubt {
			return now, expected
		}
	}
	c.base, c.mono, c.doubted, c.warned = now, mono, time.Time{}, false
	return now, now
}

// Back returns how far the clock was set back since the last call.
func (c *Clock) Back() time.Duration {
	c.Read()
	c.mu.Lock()
	defer c.mu.Unlock()
	back := c.back
	c.back = 0
	return back
}

// Warn reports whether to tell that the clock is not believed, once.
func (c *Clock) Warn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.warned
	c.warned = true
	return first
}
