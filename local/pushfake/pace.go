package pushfake

import (
	"math"
	"time"
)

const (
	startWindow = 4
	// linearWindow is where growth turns linear, and what a larger window
	// falls back to.
	linearWindow = 3000
	// sampleSize is over how many results the share of acknowledgements and
	// the mean latency are taken: 99 % needs at least a hundred.
	sampleSize = 100
	// slowLatency is the mean latency that a window past linearWindow does
	// not survive.
	slowLatency = time.Second

	minPushBackoff = 100 * time.Millisecond
	maxPushBackoff = time.Minute
	// paceMemory is how long a stop of delivery counts for its pace.
	paceMemory = 8 * time.Second
)

// ramp goes beyond a hundred requests at a time only where that brings more
// answers: each takes a connection and its memory, and an endpoint that is busy
// gains nothing by them. It doubles the number and takes it back if the next round
// of answers was hardly faster.
type ramp struct {
	size   int // how many there may be
	before int // the size to go back to, or 0
	rate   float64
	begun  time.Time // the round of answers that is counted
	acks   int
	hold   time.Time // no other try before
}

const (
	rampStart = 100
	// A round lasts until as many as may be under way were answered, and at least
	// so long.
	minRound = 250 * time.Millisecond
	// rampGain is how much faster a round has to be.
	rampGain = 1.2
	// rampHold is how long a size stays that was not worth doubling.
	rampHold = 5 * time.Second
)

// open returns how many requests there may be; so many are under way.
func (r *ramp) open(underWay int, now time.Time) int {
	r.size = max(r.size, rampStart)
	if underWay < r.size {
		return r.size
	}
	if r.begun.IsZero() {
		r.begun, r.acks = now, 0
	}
	took := now.Sub(r.begun)
	if took < minRound || r.acks < r.size {
		return r.size
	}
	rate := float64(r.acks) / took.Seconds()
	switch {
	case r.before > 0 && rate < rampGain*r.rate:
		r.size, r.before, r.hold = r.before, 0, now.Add(rampHold)
	case !now.Before(r.hold):
		r.before, r.rate = r.size, rate
		r.size *= 2
	}
	r.begun = time.Time{}
	return r.size
}

// window is the push window: how many requests may be under way at once.
type window struct {
	size    float64
	limit   float64
	results int
	acks    int
	latency time.Duration
}

func (w *window) open() int { return int(w.size) }

func (w *window) acked(latency time.Duration) {
	if w.size < linearWindow {
		w.size++
	} else {
		w.size += 1 / w.size
	}
	w.size = min(w.size, w.limit)
	w.acks++
	w.sample(latency)
}

func (w *window) failed(latency time.Duration) {
	floor := 1.0
	if w.size > linearWindow {
		floor = linearWindow
	}
	w.size = max(w.size/2, floor)
	w.sample(latency)
}

func (w *window) sample(latency time.Duration) {
	w.results++
	w.latency += latency
	if w.results < sampleSize {
		return
	}
	if w.acks*100 < w.results*99 || w.latency > time.Duration(w.results)*slowLatency {
		w.size = min(w.size, linearWindow)
	}
	w.results, w.acks, w.latency = 0, 0, 0
}

// pushBackoff stops all delivery of the subscription after failures, and paces it
// while failures go on.
type pushBackoff struct {
	// stops counts how often delivery was stopped. A request remembers the
	// count at its start, so that one that was already under way then is not
	// taken for another failure.
	stops int
	step  int
	until time.Time

	started time.Time // the last request
	// recent and results count the stops and the results of the last seconds,
	// older ones less and less, as of counted.
	recent, results float64
	counted         time.Time
}

func (b *pushBackoff) acked(stops int, now time.Time) {
	b.forget(now)
	b.results++
	if b.step > 0 && stops == b.stops {
		b.step--
	}
}

func (b *pushBackoff) failed(stops int, now time.Time) {
	b.forget(now)
	b.results++
	if stops != b.stops {
		return
	}
	b.stops++
	b.recent++
	b.until = now.Add(doubled(minPushBackoff, b.step, maxPushBackoff))
	if b.until.Sub(now) < maxPushBackoff {
		b.step++
	}
}

// forget makes what is counted that much older.
func (b *pushBackoff) forget(now time.Time) {
	if b.results > 0 {
		left := math.Exp(-now.Sub(b.counted).Seconds() / paceMemory.Seconds())
		b.recent *= left
		b.results *= left
	}
	b.counted = now
}

// start returns when the next request may start.
//
// Delivery that is stopped again and again, by at least every tenth result, is
// paced too: a request follows another after 100 ms, doubled by each recent stop
// but the first. With every fifth message refused once, that makes one delivery
// in about 500 ms, as Pub/Sub's documentation has it.
func (b *pushBackoff) start(now time.Time) time.Time {
	start := b.until
	b.forget(now)
	if b.recent > 1 && b.recent*10 >= b.results {
		gap := min(time.Duration(float64(minPushBackoff)*math.Exp2(b.recent-1)), maxPushBackoff)
		if paced := b.started.Add(gap); paced.After(start) {
			start = paced
		}
	}
	return start
}

// doubled returns d doubled n times, and no more than most.
func doubled(d time.Duration, n int, most time.Duration) time.Duration {
	for ; n > 0 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}
