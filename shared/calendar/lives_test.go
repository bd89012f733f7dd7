package calendar_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
)

// meanwhile has another instance do something, once, before a step of l, which
// has stood still for longer than its lease.
func meanwhile(t *testing.T, w *world, l *life, step string, do func()) {
	t.Helper()
	done := false
	l.step = func(name string, after bool) error {
		if name == step && !after && !done {
			done = true
			w.clock.advance(2 * time.Minute)
			do()
		}
		return nil
	}
	t.Cleanup(func() {
		if !done {
			t.Errorf("there was no step %s", step)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A lease from before a calendar was stopped and watched again is worth nothing.
func TestLeaseOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t, demo)
	a, b := w.newLife(), w.newLife()
	ctx := t.Context()
	w.insert(demo, timed("one"))
	_, err := a.Watch(ctx, demo)
	must(t, err)
	meanwhile(t, w, a, "Live", func() {
		must(t, b.Stop(ctx, demo))
		_, err := b.Watch(ctx, demo)
		must(t, err)
		w.insert(demo, timed("late"))
		_, err = b.Sync(ctx, demo)
		must(t, err)
	})
	if _, err := a.Sync(ctx, demo); !errors.Is(err, calendar.ErrLeaseLost) {
		t.Errorf("the old sync ended with %v", err)
	}
	messages, _ := w.inbox.from(0)
	for _, m := range messages {
		if m.Attributes["change"] == calendar.Deleted {
			t.Errorf("%s is told as deleted", m.MessageID)
		}
	}
}

// A Stop that stood still leaves alone what was watched again meanwhile.
func TestStopOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t, demo)
	a, b := w.newLife(), w.newLife()
	ctx := t.Context()
	id := w.insert(demo, timed("one"))
	_, err := a.Watch(ctx, demo)
	must(t, err)
	_, err = a.Sync(ctx, demo)
	must(t, err)
	meanwhile(t, w, a, "Forget", func() {
		must(t, b.Stop(ctx, demo))
		_, err := b.Watch(ctx, demo)
		must(t, err)
		for range 2 {
			_, err = b.Sync(ctx, demo)
			must(t, err)
		}
	})
	if err := a.Stop(ctx, demo); !errors.Is(err, calendar.ErrLeaseLost) {
		t.Errorf("the old stop ended with %v", err)
	}
	must(t, w.google.Delete(demo, id))
	if result, err := b.Sync(ctx, demo); err != nil || result.Deleted != 1 {
		t.Errorf("after a deletion: %+v, %v", result, err)
	}
}

// A Watch that finds a channel which a Stop is ending opens another.
func TestWatchDuringStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, demo)
	a, b := w.newLife(), w.newLife()
	ctx := t.Context()
	_, err := a.Watch(ctx, demo)
	must(t, err)
	stopped := false
	a.step = func(name string, after bool) error {
		if name == "Channels" && after && !stopped {
			stopped = true
			return b.Stop(ctx, demo)
		}
		return nil
	}
	channel, err := a.Watch(ctx, demo)
	must(t, err)
	channels, err := a.Channels(ctx)
	must(t, err)
	if !stopped || len(channels) != 1 || channels[0].ID != channel.ID || len(w.google.Channels(demo)) != 1 {
		t.Errorf("watched over %s; known are %+v, Google has %+v", channel.ID, channels, w.google.Channels(demo))
	}
}

// A calendar that fails until its time is over leaves the others theirs.
func TestSyncAllSharesItsTime(t *testing.T) {
	t.Parallel()
	const stuck, fine = "a@example.com", "b@example.com"
	w := newWorld(t, stuck, fine)
	l := w.newLife()
	for _, id := range []string{stuck, fine} {
		_, err := l.Watch(t.Context(), id)
		must(t, err)
		_, err = l.Sync(t.Context(), id)
		must(t, err)
	}
	w.insert(fine, timed("x"))
	w.fault = func(c calendarfake.Call) (f calendarfake.Fault) {
		if c.CalendarID == stuck {
			f = calendarfake.Fault{Status: http.StatusServiceUnavailable, Reason: "backendError"}
		}
		return f
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	results, err := l.SyncAll(ctx)
	var failed *calendar.CalendarError
	if len(results) != 1 || results[0].CalendarID != fine || results[0].Added != 1 || !errors.As(err, &failed) || failed.CalendarID != stuck || !errors.Is(err, calendar.ErrUnavailable) || !strings.HasPrefix(err.Error(), stuck+": ") {
		t.Errorf("SyncAll = %+v, %v", results, err)
	}
}
