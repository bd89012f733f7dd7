package pushlog

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/delivery"
)

const sub = "projects/p/subscriptions/s"

var began = time.Date(2026, 11, 25, 3, 0, 30, 0, time.UTC)

// TestSeries injects pushes at known times over more than a day, and adds them up
// without minutes and bins.
func TestSeries(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	type injected struct {
		at time.Time
		Push
	}
	var all []injected
	l := New(began)
	now := began.Add(30 * time.Hour)
	for at := began; at.Before(now); at = at.Add(time.Duration(random.IntN(20_000)) * time.Millisecond) {
		p := Push{
			Subscription: sub, Acked: random.IntN(10) > 0,
			Took: time.Duration(math.Exp(random.NormFloat64()) * 20 * float64(time.Millisecond)),
		}
		if !p.Acked {
			p.Refusal, p.DeadLettered = delivery.Refusal{Status: 503, Reason: "unavailable"}, random.IntN(5) == 0
		}
		all = append(all, injected{at, p})
		l.Add(at, p)
		l.Sample(at, sub, int64(len(all)))
		l.Add(at, Push{Subscription: "projects/p/subscriptions/other", Took: time.Hour}) // is another's
	}
	hour, day := l.Windows(now, sub)
	for name, test := range map[string]struct {
		got    delivery.Window
		length time.Duration
		points int
	}{"hour": {hour, time.Hour, 60}, "day": {day, 24 * time.Hour, 96}} {
		end := now.Truncate(time.Minute).Add(time.Minute)
		var took []time.Duration
		var acked, dead int64
		points := make([]delivery.Point, test.points)
		for i := range points {
			points[i].At = end.Add(-test.length / time.Duration(test.points) * time.Duration(test.points-1-i))
		}
		for i, p := range all {
			if p.at.Before(end.Add(-test.length)) {
				continue
			}
			at, _ := slices.BinarySearchFunc(points, p.at, func(point delivery.Point, at time.Time) int {
				if point.At.After(at) {
					return 1
				}
				return -1
			})
			point := &points[at]
			took = append(took, p.Took)
			if p.Acked {
				acked++
				point.Acked++
			} else {
				point.Refused++
			}
			if p.DeadLettered {
				dead++
			}
			point.Backlog = new(int64(i + 1))
		}
		slices.Sort(took)
		if *test.got.Pushes != int64(len(took)) || *test.got.DeadLettered != dead || *test.got.AckedShare != float64(acked)/float64(len(took)) {
			t.Errorf("%s: %d pushes, %v acknowledged, %d dead letters; want %d, %v, %d", name,
				*test.got.Pushes, *test.got.AckedShare, *test.got.DeadLettered, len(took), float64(acked)/float64(len(took)), dead)
		}
		if diff := cmp.Diff(points, test.got.Points); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for share, got := range map[float64]*float64{0.5: test.got.P50Millis, 0.99: test.got.P99Millis} {
			want := float64(took[int(math.Ceil(share*float64(len(took))))-1]) / float64(time.Millisecond)
			if got == nil || math.Abs(*got-want) > want*0.03 {
				t.Errorf("%s: %v of them took %v ms, want %v", name, share, *got, want)
			}
		}
	}
}

// TestNothingIsNotZero tells what was not pushed from what cannot be known.
func TestNothingIsNotZero(t *testing.T) {
	t.Parallel()
	l := New(began)
	hour, day := l.Windows(began.Add(150*time.Second), sub)
	for name, w := range map[string]delivery.Window{"hour": hour, "day": day} {
		if *w.Pushes != 0 || *w.DeadLettered != 0 || w.AckedShare != nil || w.P50Millis != nil || w.P99Millis != nil {
			t.Errorf("%s: %+v", name, w)
		}
	}
	if n := len(hour.Points); n != 4 || hour.Points[0].Backlog != nil {
		t.Errorf("%d points of the hour in which it began: %+v", n, hour.Points)
	}
	if n := len(day.Points); n != 1 {
		t.Errorf("%d points of the day on which it began", n)
	}
	if _, since := l.Refusals(began.Add(time.Minute)); !since.Equal(began) {
		t.Errorf("refusals are counted since %v", since)
	}
	if _, since := l.Refusals(began.Add(48 * time.Hour)); !since.Equal(began.Add(24 * time.Hour)) {
		t.Errorf("refusals are counted since %v", since)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	l := New(began)
	audience := delivery.Refusal{Status: 403, Reason: "audience", Detail: "the latest sentence"}
	for i := range 100 { // one a minute
		l.Add(began.Add(time.Duration(i)*time.Minute), Push{Subscription: sub, Refusal: audience})
	}
	now := began.Add(99 * time.Minute)
	l.Refused(now.Add(-time.Second), delivery.Refusal{Status: 401, Reason: "no_token"})
	got, _ := l.Refusals(now)
	want := []delivery.Refusal{
		{Last: now, Status: 403, Reason: "audience", Detail: "the latest sentence", Subscription: sub, Count: 100, LastHour: 60},
		{Last: now.Add(-time.Second), Status: 401, Reason: "no_token", Count: 1, LastHour: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// A day later the first ones are forgotten, and in two days all.
	if got, _ := l.Refusals(began.Add(24*time.Hour + 9*time.Minute)); len(got) != 2 || got[0].Count != 90 || got[0].LastHour != 0 {
		t.Errorf("a day later: %+v", got)
	}
	if got, _ := l.Refusals(began.Add(49 * time.Hour)); len(got) != 0 {
		t.Errorf("two days later: %+v", got)
	}
}

// TestBounds has more subscriptions and refusals than are remembered.
func TestBounds(t *testing.T) {
	t.Parallel()
	l := New(began)
	at := began
	for i := range 10 * maxSeries {
		at = at.Add(time.Minute)
		l.Add(at, Push{Subscription: fmt.Sprint(i), Refusal: delivery.Refusal{Reason: fmt.Sprint(i)}})
		l.Add(at, Push{Subscription: sub, Acked: true})
	}
	if len(l.series) > maxSeries || len(l.kinds) > maxKinds {
		t.Errorf("%d series, %d kinds", len(l.series), len(l.kinds))
	}
	if _, day := l.Windows(at, sub); *day.Pushes != 10*maxSeries {
		t.Errorf("the one that is busy has %d pushes", *day.Pushes)
	}
	all, since := l.Refusals(at)
	if len(all) != delivery.MaxRefusals || all[0].Reason != fmt.Sprint(10*maxSeries-1) {
		t.Errorf("%d lines, first %+v", len(all), all[0])
	}
	if !since.After(began) {
		t.Error("all are said to be counted")
	}
	l.Forget(func(name string) bool { return name == sub })
	l.Sample(at, "pulled", 1)
	if l.WasPushed("999") || !l.WasPushed(sub) || l.WasPushed("pulled") {
		t.Error("a deleted subscription is remembered, or one that was never pushed is said to have been")
	}
}
