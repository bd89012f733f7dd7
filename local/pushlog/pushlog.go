// Package pushlog remembers in bounded memory how the pushes of a local run went:
// per subscription and minute of the last day what was acknowledged, how fast and
// what waited, and the last refusals. It knows nothing from before its beginning, and
// forgets all of it at its end.
package pushlog

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"example.com/pushinbox/shared/delivery"
)

const (
	// day and hour are what is told of, in minutes, and dayPart and hourPart the
	// distances of their points.
	day, dayPart   = 24 * 60, 15
	hour, hourPart = 60, 1
	// maxSeries is how many subscriptions are remembered, of 100 kB each or, where
	// hardly two pushes took the same time, 4 MB, and maxKinds how many kinds of
	// refusals. What was quiet longest makes room.
	maxSeries = 100
	maxKinds  = 200
)

// Push is one finished push of a subscription.
type Push struct {
	Subscription        string // the full name
	Acked, DeadLettered bool
	Took                time.Duration
	// Refusal says why the push was not acknowledged; its Status, Reason and Detail
	// count.
	Refusal delivery.Refusal
}

// Log remembers pushes. It is safe for concurrent use.
type Log struct {
	mu       sync.Mutex
	began    time.Time
	series   map[string]*series
	evicted  bool // a series was, to make room
	kinds    map[kind]*refusals
	complete time.Time // since when all refusals are counted
}

// New returns a Log that begins at a time.
func New(began time.Time) *Log {
	return &Log{began: began, complete: began, series: make(map[string]*series), kinds: make(map[kind]*refusals)}
}

// series is what happened to a subscription, by minute.
type series struct {
	began   time.Time
	last    int64 // the last minute with something
	pushed  bool
	acked   time.Time
	minutes [day]minute
}

// minute is a minute of a series, in the place that its number has modulo a day.
type minute struct {
	number               int64 // since 1970
	acked, refused, dead uint32
	sampled              bool
	backlog              int64
	took                 []bin
}

// bin counts durations that are about the same.
type bin struct {
	scale int16
	n     uint32
}

// Durations of one bin differ by a sixteenth of an octave, 4.4 %.
const (
	perOctave = 16
	shortest  = 100 * time.Microsecond
)

// scaleOf returns the bin of a duration, and durationOf what it stands for.
func scaleOf(d time.Duration) int16 {
	return int16(perOctave * math.Log2(float64(max(d, shortest))/float64(shortest)))
}

func durationOf(scale int16) time.Duration {
	return time.Duration(float64(shortest) * math.Exp2((float64(scale)+0.5)/perOctave))
}

// kind is what refusals in one line have in common.
type kind struct {
	status               int
	reason, subscription string
}

// refusals are those of a kind, by minute, the latest at the end.
type refusals struct {
	last    time.Time
	detail  string
	minutes []tally
}

type tally struct{ number, n int64 }

func numberOf(at time.Time) int64 { return at.Unix() / 60 }

// Add remembers a push that ended at a time.
func (l *Log) Add(at time.Time, p Push) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.of(at, p.Subscription)
	s.pushed = true
	m := s.at(numberOf(at))
	if p.Acked {
		m.acked++
		s.acked = at
	} else {
		m.refused++
		p.Refusal.Subscription = p.Subscription
		l.refused(at, p.Refusal)
	}
	if p.DeadLettered {
		m.dead++
	}
	scale := scaleOf(p.Took)
	i, found := slices.BinarySearchFunc(m.took, scale, func(b bin, scale int16) int { return cmp.Compare(b.scale, scale) })
	if !found {
		m.took = slices.Insert(m.took, i, bin{scale: scale})
	}
	m.took[i].n++
}

// Refused remembers a refused request that was not one of Add's.
func (l *Log) Refused(at time.Time, r delivery.Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused(at, r)
}

func (l *Log) refused(at time.Time, r delivery.Refusal) {
	k := kind{r.Status, r.Reason, r.Subscription}
	all := l.kinds[k]
	if all == nil {
		l.makeRoom()
		all = new(refusals)
		l.kinds[k] = all
	}
	all.last, all.detail = at, r.Detail
	n := numberOf(at)
	if last := len(all.minutes) - 1; last >= 0 && all.minutes[last].number >= n {
		all.minutes[last].n++
		return
	}
	all.minutes = append(all.minutes, tally{n, 1})
	for all.minutes[0].number <= n-day {
		all.minutes = all.minutes[1:]
	}
}

// makeRoom forgets the kind of refusal that there was not for the longest time, if
// there are too many.
func (l *Log) makeRoom() {
	if len(l.kinds) < maxKinds {
		return
	}
	oldest := slices.MinFunc(slices.Collect(maps.Keys(l.kinds)), func(a, b kind) int { return l.kinds[a].last.Compare(l.kinds[b].last) })
	l.complete = l.kinds[oldest].last
	delete(l.kinds, oldest)
}

// Sample remembers how many messages of a subscription wait.
func (l *Log) Sample(at time.Time, subscription string, backlog int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.of(at, subscription).at(numberOf(at))
	m.sampled, m.backlog = true, backlog
}

// Forget forgets a subscription that was deleted. Its refusals stay.
func (l *Log) Forget(isThere func(subscription string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.series {
		if !isThere(name) {
			delete(l.series, name)
		}
	}
}

// of returns the series of a subscription.
func (l *Log) of(at time.Time, subscription string) *series {
	s := l.series[subscription]
	if s != nil {
		return s
	}
	s = &series{began: l.began}
	if l.evicted {
		s.began = at
	}
	if len(l.series) >= maxSeries {
		quietest := slices.MinFunc(slices.Collect(maps.Keys(l.series)), func(a, b string) int { return cmp.Compare(l.series[a].last, l.series[b].last) })
		delete(l.series, quietest)
		l.evicted = true
	}
	l.series[subscription] = s
	return s
}

// at returns the minute with a number, empty if it is a new one.
func (s *series) at(number int64) *minute {
	s.last = max(s.last, number)
	m := &s.minutes[number%day]
	if m.number != number {
		*m = minute{number: number, took: m.took[:0]}
	}
	return m
}

// WasPushed reports whether a push of a subscription is remembered.
func (l *Log) WasPushed(subscription string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.series[subscription]
	return s != nil && s.pushed
}

// LastAcked returns when the last push of a subscription was acknowledged; zero if none
// is remembered.
func (l *Log) LastAcked(subscription string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.series[subscription]; s != nil {
		return s.acked
	}
	return time.Time{}
}

// Windows returns what happened to a subscription in the hour and in the day before a
// time, both with the minute that is under way. Their points begin with the Log.
func (l *Log) Windows(at time.Time, subscription string) (lastHour, lastDay delivery.Window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.series[subscription]
	if s == nil {
		s = &series{began: l.began}
	}
	return s.window(at, hour, hourPart), s.window(at, day, dayPart)
}

// window returns the last minutes of s, with points of so many minutes each.
func (s *series) window(at time.Time, minutes, part int64) delivery.Window {
	var w delivery.Window
	var pushes, acked, dead int64
	took := make(map[int16]int64)
	end := numberOf(at) + 1
	for first := end - minutes; first < end; first += part {
		p := delivery.Point{At: time.Unix((first+part)*60, 0).UTC()}
		for n := first; n < first+part; n++ {
			m := &s.minutes[n%day]
			if m.number != n {
				continue
			}
			p.Acked += int64(m.acked)
			p.Refused += int64(m.refused)
			dead += int64(m.dead)
			if m.sampled {
				p.Backlog = new(m.backlog)
			}
			for _, b := range m.took {
				took[b.scale] += int64(b.n)
			}
		}
		pushes += p.Acked + p.Refused
		acked += p.Acked
		if p.At.After(s.began) {
			w.Points = append(w.Points, p)
		}
	}
	w.Pushes, w.DeadLettered = &pushes, &dead
	if pushes > 0 {
		w.AckedShare = new(float64(acked) / float64(pushes))
		w.P50Millis, w.P99Millis = quantile(took, pushes, 0.5), quantile(took, pushes, 0.99)
	}
	return w
}

// quantile returns about how long a share of all took at most, in milliseconds.
func quantile(took map[int16]int64, all int64, share float64) *float64 {
	rank := int64(math.Ceil(share * float64(all)))
	for _, scale := range slices.Sorted(maps.Keys(took)) {
		if rank -= took[scale]; rank <= 0 {
			ms := float64(durationOf(scale)) / float64(time.Millisecond)
			digits := math.Pow(10, 2-math.Floor(math.Log10(ms))) // three that count
			return new(math.Round(ms*digits) / digits)
		}
	}
	return nil
}

// Refusals returns the kinds of refusals in the day before a time, the latest first,
// at most delivery.MaxRefusals of them, and since when they are counted.
func (l *Log) Refusals(at time.Time) (all []delivery.Refusal, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := numberOf(at) + 1
	for k, of := range l.kinds {
		r := delivery.Refusal{Last: of.last.UTC(), Status: k.status, Reason: k.reason, Detail: of.detail, Subscription: k.subscription}
		for _, m := range of.minutes {
			if m.number >= end-day {
				r.Count += m.n
			}
			if m.number >= end-hour {
				r.LastHour += m.n
			}
		}
		if r.Count > 0 {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b delivery.Refusal) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Subscription, b.Subscription))
	})
	since = at.Add(-day * time.Minute)
	if l.complete.After(since) {
		since = l.complete
	}
	return all[:min(len(all), delivery.MaxRefusals)], since.UTC()
}
