package calendar_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
)

const half = 30 * time.Minute

// hide makes Google answer every call about a calendar with a status and a reason,
// until it is shown again, and counts the calls.
func (w *world) hide(status int, reason string) (calls *int) {
	calls = new(int)
	w.fault = func(c calendarfake.Call) (f calendarfake.Fault) {
		if c.CalendarID == demo {
			*calls++
			f = calendarfake.Fault{Status: status, Reason: reason}
		}
		return f
	}
	return calls
}

func (w *world) show() {
	w.fault = func(calendarfake.Call) calendarfake.Fault { return calendarfake.Fault{} }
}

// tellings returns the messages that a calendar is gone.
func (w *world) tellings() (told []inbox.Message) {
	messages, _ := w.inbox.from(0)
	for _, m := range messages {
		if m.Attributes["change"] == calendar.Gone {
			told = append(told, m)
		}
	}
	return told
}

// A calendar that is not shown for a day is told, once, and left alone.
func TestGone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		reason string
		gone   bool
	}{
		"deleted":           {404, "notFound", true},
		"not_shared":        {403, "forbidden", true},
		"access_denied":     {403, "requiredAccessLevel", true},
		"no_reason":         {403, "", true},
		"server_down":       {503, "backendError", false},
		"rate_limit":        {403, "rateLimitExceeded", false},
		"daily_limit":       {403, "dailyLimitExceeded", false},
		"usage_limits":      {403, "quotaExceeded", false},
		"api_off":           {403, "accessNotConfigured", false},
		"scope_missing":     {403, "insufficientPermissions", false},
		"bad_credentials":   {401, "authError", false},
		"too_many_requests": {429, "rateLimitExceeded", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, l, _ := watched(t)
			w.google.AddCalendar("other@example.com")
			_, err := l.Watch(t.Context(), "other@example.com")
			must(t, err)
			calls := w.hide(test.status, test.reason)
			// Half-hourly, as Cloud Scheduler does it, for a day.
			start := w.clock.Now()
			for w.clock.Now().Sub(start) < 24*time.Hour {
				if _, err := l.SyncAll(t.Context()); err == nil {
					t.Fatalf("no error after %v", w.clock.Now().Sub(start))
				}
				w.clock.advance(half)
			}
			if n := len(w.tellings()); n != 0 || w.record(demo).Gone != "" {
				t.Fatalf("told %d times before a day is over", n)
			}
			_, err = l.SyncAll(t.Context())
			if (err == nil) != test.gone {
				t.Fatalf("after a day: %v", err)
			}
			if !test.gone {
				if n := len(w.tellings()); n != 0 || !w.record(demo).MissingSince.IsZero() {
					t.Errorf("told %d times, %+v", n, w.record(demo))
				}
				return
			}
			*calls = 0
			for range 48 * 14 { // two weeks
				w.clock.advance(half)
				results, err := l.SyncAll(t.Context())
				if err != nil || len(results) != 1 {
					t.Fatalf("SyncAll = %+v, %v", results, err)
				}
				_, err = l.Renew(t.Context())
				must(t, err)
				_, err = l.CatchUp(t.Context(), demo)
				must(t, err)
			}
			if _, err := l.Sync(t.Context(), demo); !errors.Is(err, calendar.ErrGone) {
				t.Errorf("Sync: %v", err)
			}
			if *calls != 0 {
				t.Errorf("Google was called %d times", *calls)
			}
			told := w.tellings()
			if len(told) != 1 {
				t.Fatalf("told %d times", len(told))
			}
			m := told[0]
			var data struct {
				Change, Reason string
				Since          time.Time
				Fields         []string
			}
			must(t, json.Unmarshal(m.Data, &data))
			record := w.record(demo)
			if m.Source != inbox.SourceCalendar || m.Subscription != demo || m.Attributes["calendarId"] != demo ||
				data.Change != "gone" || data.Reason == "" || data.Reason != record.Gone || data.Fields == nil || !data.Since.Equal(record.MissingSince) {
				t.Errorf("told %+v %s, recorded %+v", m, m.Data, record)
			}
		})
	}
}

// A calendar that is shown now and then is not gone.
func TestShownAgain(t *testing.T) {
	t.Parallel()
	w, l, _ := watched(t)
	for range 5 {
		w.hide(404, "notFound")
		for range 47 { // 23 and a half hours
			_, err := l.Sync(t.Context(), demo)
			if status, _ := problem.Of(err); status != http.StatusNotFound {
				t.Fatal(err)
			}
			w.clock.advance(half)
		}
		w.show()
		_, err := l.Sync(t.Context(), demo)
		must(t, err)
		if r := w.record(demo); !r.MissingSince.IsZero() || r.Gone != "" {
			t.Fatalf("%+v", r)
		}
	}
	if n := len(w.tellings()); n != 0 {
		t.Errorf("told %d times", n)
	}
}

// gone returns a world whose calendar is gone.
func goneWorld(t *testing.T) (*world, *life) {
	t.Helper()
	w, l, _ := watched(t)
	w.hide(404, "notFound")
	_, err := l.Sync(t.Context(), demo)
	if err == nil {
		t.Fatal("no error")
	}
	w.clock.advance(25 * time.Hour)
	if _, err = l.Sync(t.Context(), demo); !errors.Is(err, calendar.ErrGone) {
		t.Fatal(err)
	}
	return w, l
}

func TestGoneIsWatchedAgain(t *testing.T) {
	t.Parallel()
	w, l := goneWorld(t)
	// Its channel is still in force, but says nothing about now.
	if _, err := l.Watch(t.Context(), demo); !errors.Is(err, calendar.ErrRefused) {
		t.Errorf("Watch while it is gone: %v", err)
	}
	if w.record(demo).Gone == "" {
		t.Fatal("a refused Watch brings it back")
	}
	w.show()
	id := w.insert(demo, timed("meanwhile"))
	_, err := l.Watch(t.Context(), demo)
	must(t, err)
	result, err := l.CatchUp(t.Context(), demo)
	must(t, err)
	if r := w.record(demo); result.Added != 1 || r.Gone != "" || !r.MissingSince.IsZero() || r.Wanted != r.Done {
		t.Errorf("%+v, %+v", result, r)
	}
	if all := w.changes(); all[len(all)-1] != "added "+id {
		t.Errorf("told %v", all)
	}
	// A second time it is told again.
	w.hide(403, "forbidden")
	_, _ = l.Sync(t.Context(), demo)
	w.clock.advance(24 * time.Hour)
	if _, err := l.Sync(t.Context(), demo); !errors.Is(err, calendar.ErrGone) || len(w.tellings()) != 2 {
		t.Errorf("%v, told %d times", err, len(w.tellings()))
	}
}

func TestGoneIsStopped(t *testing.T) {
	t.Parallel()
	w, l := goneWorld(t)
	must(t, l.Stop(t.Context(), demo))
	if r := w.record(demo); r.ID != "" {
		t.Errorf("%+v is left", r)
	}
	if _, err := l.Sync(t.Context(), demo); !errors.Is(err, calendar.ErrNotWatched) {
		t.Error(err)
	}
}

// Renew alone finds out, too: nobody may call SyncAll.
func TestGoneByRenew(t *testing.T) {
	t.Parallel()
	w, l, _ := watched(t)
	w.clock.advance(4 * 24 * time.Hour) // its channel is past half of its life
	w.hide(404, "notFound")
	if _, err := l.Renew(t.Context()); !errors.Is(err, calendar.ErrRefused) {
		t.Fatal(err)
	}
	w.clock.advance(24 * time.Hour)
	for range 3 {
		if _, err := l.Renew(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if w.record(demo).Gone == "" || len(w.tellings()) != 1 {
		t.Errorf("%+v, told %d times", w.record(demo), len(w.tellings()))
	}
}

// The process dies at each step of telling it.
func TestGoneIsToldOnce(t *testing.T) {
	t.Parallel()
	for death := 0; ; death++ {
		w, l, _ := watched(t)
		w.hide(404, "notFound")
		_, _ = l.Sync(t.Context(), demo)
		w.clock.advance(25 * time.Hour)
		steps := 0
		l.step = func(string, bool) error {
			if steps++; steps > death {
				l.die()
				return errDead
			}
			return nil
		}
		_, err := l.Sync(t.Context(), demo)
		again := w.newLife()
		for range 3 {
			w.clock.advance(2 * time.Minute) // the lease of the dead one ends
			_, _ = again.Sync(t.Context(), demo)
		}
		if w.record(demo).Gone == "" || len(w.tellings()) != 1 {
			t.Errorf("died after %d steps: %+v, told %d times", death, w.record(demo), len(w.tellings()))
		}
		if errors.Is(err, calendar.ErrGone) {
			if death < 6 {
				t.Errorf("only %d steps", death)
			}
			return
		}
	}
}
