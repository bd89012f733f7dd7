package pushfake

import "time"

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
)

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

// pushBackoff stops all delivery of the subscription after failures.
type pushBackoff struct {
	// stops counts how often delivery was stopped. A request remembers the
	// count at its start, so that one that was already under way then is not
	// taken for another failure.
	stops int
	step  int
	until time.Time
}

func (b *pushBackoff) acked(stops int) {
	if b.step > 0 && stops == b.stops {
		b.step--
	}
}

func (b *pushBackoff) failed(stops int, now time.Time) {
	if stops != b.stops {
		return
	}
	b.stops++
	b.until = now.Add(doubled(minPushBackoff, b.step, maxPushBackoff))
	if b.until.Sub(now) < maxPushBackoff {
		b.step++
	}
}

// doubled returns d doubled n times, and no more than most.
func doubled(d time.Duration, n int, most time.Duration) time.Duration {
	for ; n > 0 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}
