package calendar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"github.com/google/go-cmp/cmp"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"
)

// notifications collects what Google sends, for tests to hand on.
func (w *world) notifications() *[]calendar.Notification {
	var all []calendar.Notification
	w.notify = func(n calendar.Notification) int {
		all = append(all, n)
		return http.StatusNoContent
	}
	return &all
}

// watched returns a world with a watched, synced calendar, an engine in it and
// the notifications to come.
func watched(t *testing.T) (*world, *life, *[]calendar.Notification) {
	t.Helper()
	w := newWorld(t, demo)
	notes := w.notifications()
	l := w.newLife()
	if _, err := l.Watch(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	w.google.Deliver(t.Context())
	for _, n := range *notes {
		if _, changed, err := l.Notify(t.Context(), n); !changed || err != nil {
			t.Fatal(changed, err)
		}
	}
	*notes = nil
	if _, err := l.CatchUp(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	return w, l, notes
}

// changes returns what went to the inbox, as "kind ID fields".
func (w *world) changes() (all []string) {
	messages, _ := w.inbox.from(0)
	for _, m := range messages {
		var c change
		if err := json.Unmarshal(m.Data, &c); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(fmt.Sprint(c.Change, " ", m.Attributes["eventId"], " ", strings.Join(c.Fields, ","))))
	}
	return all
}

func (w *world) record(id string) (found calendar.Calendar) {
	w.t.Helper()
	all, err := w.state.Calendars(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range all {
		if c.ID == id {
			found = c
		}
	}
	return found
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	_, err := calendar.New(calendar.Options{Address: "http://example.com/", PageSize: 2501})
	for _, missing := range []string{"Service", "State", "Inbox", "https", "2501"} {
		if err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("%v does not name %s", err, missing)
		}
	}
}

// Each forged notification is refused and changes nothing.
func TestNotify(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*calendar.Notification)
		later  time.Duration
		want   error
	}{
		{name: "genuine"},
		{name: "unknown_channel", change: func(n *calendar.Notification) { n.ChannelID = "00000000-0000-4000-8000-000000000000" }, want: calendar.ErrUnknownChannel},
		{name: "no_uuid", change: func(n *calendar.Notification) { n.ChannelID = "../../" + demo }, want: calendar.ErrUnknownChannel},
		{name: "no_channel", change: func(n *calendar.Notification) { n.ChannelID = "" }, want: calendar.ErrUnknownChannel},
		{name: "wrong_token", change: func(n *calendar.Notification) { n.Token += "x" }, want: calendar.ErrForged},
		{name: "no_token", change: func(n *calendar.Notification) { n.Token = "" }, want: calendar.ErrForged},
		{name: "wrong_resource", change: func(n *calendar.Notification) { n.ResourceID += "x" }, want: calendar.ErrForged},
		{name: "no_resource", change: func(n *calendar.Notification) { n.ResourceID = "" }, want: calendar.ErrForged},
		{name: "expired", later: 8 * 24 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w, l, notes := watched(t)
			w.insert(demo, timed("new"))
			w.google.Deliver(t.Context())
			n := (*notes)[0]
			if test.change != nil {
				test.change(&n)
			}
			w.clock.advance(test.later)
			before, google := w.record(demo), 0
			w.fault = func(calendarfake.Call) (f calendarfake.Fault) { google++; return f }
			id, changed, err := l.Notify(t.Context(), n)
			if !errors.Is(err, test.want) {
				t.Errorf("err = %v, want %v", err, test.want)
			}
			genuine := test.want == nil && test.later == 0
			if changed != genuine || (id == demo) != (test.want == nil) {
				t.Errorf("Notify = %q, %v", id, changed)
			}
			if genuine {
				before.Wanted++
			}
			equal(t, "the record", before, w.record(demo))
			if google > 0 {
				t.Errorf("Google was called %d times", google)
			}
		})
	}
}

// The token is kept nowhere, only its hash.
func TestTokenIsNotKept(t *testing.T) {
	t.Parallel()
	w, l, _ := watched(t)
	token := w.google.Channels(demo)[0].Token
	channels, err := l.Channels(t.Context())
	if err != nil || len(channels) != 1 {
		t.Fatal(channels, err)
	}
	b, _ := json.Marshal(channels)
	if len(token) != 43 || bytes.Contains(b, []byte(token)) || bytes.Contains(channels[0].TokenHash, []byte(token)) || strings.Contains(string(b), "okenHash") {
		t.Errorf("token %q, channels %s", token, b)
	}
}

// A watch whose answer is lost, or whose instance dies, is known by its first
// notification.
func TestWatchAnswerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, demo)
	notes := w.notifications()
	l := w.newLife()
	l.step = func(name string, done bool) error {
		if done && strings.HasSuffix(name, "/watch") {
			l.dead = true
			return errDead
		}
		return nil
	}
	if _, err := l.Watch(t.Context(), demo); err == nil {
		t.Fatal("a dead instance answered")
	}
	l = w.newLife()
	channels, err := l.Channels(t.Context())
	if err != nil || len(channels) != 1 || channels[0].ResourceID != "" || channels[0].Notified {
		t.Fatal(channels, err)
	}
	w.google.Deliver(t.Context())
	n := (*notes)[0]
	forged := n
	forged.Token = "x"
	if _, _, err := l.Notify(t.Context(), forged); !errors.Is(err, calendar.ErrForged) {
		t.Errorf("a forged sync of a pending channel: %v", err)
	}
	if _, _, err := l.Notify(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	other := n
	other.ResourceID = "another"
	if _, _, err := l.Notify(t.Context(), other); !errors.Is(err, calendar.ErrForged) {
		t.Errorf("another resource later: %v", err)
	}
	channel, err := l.Watch(t.Context(), demo)
	if err != nil || channel.ID != channels[0].ID || !channel.Expiration.Equal(n.Expiration) {
		t.Errorf("Watch = %+v, %v; want the channel that is there", channel, err)
	}
	if got := w.google.Channels(demo); len(got) != 1 {
		t.Errorf("Google has %+v", got)
	}
}

// The sync notification may come before the answer to the watch.
func TestSyncBeforeAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, demo)
	l := w.newLife()
	var errs []error
	w.notify = func(n calendar.Notification) int {
		_, _, err := l.Notify(t.Context(), n)
		errs = append(errs, err)
		return http.StatusNoContent
	}
	w.fault = func(calendarfake.Call) calendarfake.Fault { return calendarfake.Fault{SyncFirst: true} }
	channel, err := l.Watch(t.Context(), demo)
	if err != nil || !channel.Notified || channel.ResourceID == "" || channel.Expiration.IsZero() {
		t.Errorf("Watch = %+v, %v", channel, err)
	}
	if len(errs) != 1 || errs[0] != nil {
		t.Errorf("Notify: %v", errs)
	}
}

func TestWatchAgain(t *testing.T) {
	t.Parallel()
	w, l, _ := watched(t)
	first := w.google.Channels(demo)[0].ID
	if c, err := l.Watch(t.Context(), demo); err != nil || c.ID != first || len(w.google.Channels(demo)) != 1 {
		t.Errorf("Watch = %+v, %v", c, err)
	}
	for _, id := range []string{"", "primary", "\xff", strings.Repeat("a", 1001)} {
		if _, err := l.Watch(t.Context(), id); !errors.Is(err, calendar.ErrCalendarID) {
			t.Errorf("Watch(%.10q): %v", id, err)
		}
	}
}

// What Google refuses is told in words that say what to do, and leaves nothing.
func TestWatchRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason string
		code   int
		status int
		detail string
		tries  int
	}{
		{"notFound", 404, 404, "share it", 1},
		{"forbidden", 403, 403, "share it", 1},
		{"insufficientPermissions", 403, 403, "calendar.events.readonly", 1},
		{"accessNotConfigured", 403, 403, "calendar-json.googleapis.com", 1},
		{"authError", 401, 503, "credentials", 1},
		{"push.webhookUrlUnauthorized", 401, 400, "CALENDAR_SITE_VERIFICATION", 1},
		{"push.webhookUrlNotHttps", 400, 400, "CALENDAR_ADDRESS", 1},
		{"pushNotSupportedForRequestedResource", 400, 400, "holiday", 1},
		{"channelIdNotUnique", 400, 503, "again", 1},
		{"invalid", 400, 502, "log", 1},
		{"rateLimitExceeded", 403, 503, "reached", 9},
		{"userRateLimitExceeded", 403, 503, "reached", 9},
		{"quotaExceeded", 403, 503, "reached", 9},
		{"rateLimitExceeded", 429, 503, "reached", 9},
		{"backendError", 500, 503, "reached", 9},
	} {
		t.Run(fmt.Sprint(test.code, "_", test.reason), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, demo)
			tries := 0
			w.fault = func(calendarfake.Call) calendarfake.Fault {
				tries++
				return calendarfake.Fault{Status: test.code, Reason: test.reason}
			}
			l := w.newLife()
			_, err := l.Watch(t.Context(), demo)
			status, detail := problem.Of(err)
			if status != test.status || !strings.Contains(detail, test.detail) || tries != test.tries {
				t.Errorf("%d %q after %d tries", status, detail, tries)
			}
			if !strings.Contains(err.Error(), test.reason) {
				t.Errorf("the log does not have the reason: %v", err)
			}
			channels, err := l.Channels(t.Context())
			if err != nil || len(channels) > 0 && test.code < 500 || w.record(demo).ID != "" {
				t.Errorf("left: %v %+v %v", channels, w.record(demo), err)
			}
		})
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	w, l, notes := watched(t)
	w.google.AddCalendar("second@example.com")
	if _, err := l.Watch(t.Context(), "second@example.com"); err != nil {
		t.Fatal(err)
	}
	w.google.Deliver(t.Context())
	*notes = nil
	first := w.google.Channels(demo)[0].ID

	w.clock.advance(3*24*time.Hour + 11*time.Hour)
	if renewed, err := l.Renew(t.Context()); err != nil || len(renewed) != 0 {
		t.Fatalf("renewed in its first half: %+v, %v", renewed, err)
	}
	w.clock.advance(2 * time.Hour)
	w.fault = func(c calendarfake.Call) (f calendarfake.Fault) {
		if c.CalendarID == demo {
			f = calendarfake.Fault{Status: 403, Reason: "forbidden"}
		}
		return f
	}
	renewed, err := l.Renew(t.Context())
	if !errors.Is(err, calendar.ErrRefused) || !strings.Contains(err.Error(), demo) || len(renewed) != 1 || renewed[0].CalendarID != "second@example.com" {
		t.Errorf("with one that fails: %+v, %v", renewed, err)
	}
	w.fault = func(calendarfake.Call) (f calendarfake.Fault) { return f }
	if renewed, err := l.Renew(t.Context()); err != nil || len(renewed) != 1 || renewed[0].CalendarID != demo {
		t.Errorf("once it works: %+v, %v", renewed, err)
	}
	if _, err := l.Sync(t.Context(), demo); err != nil || len(w.google.Channels(demo)) != 2 {
		t.Errorf("before a notification on the new one: %v, %+v", err, w.google.Channels(demo))
	}
	w.google.Deliver(t.Context())
	for _, n := range *notes {
		if _, _, err := l.Notify(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.CatchUp(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	if left := w.google.Channels(demo); len(left) != 1 || left[0].ID == first {
		t.Errorf("after it: %+v", left)
	}
	channels, err := l.Channels(t.Context())
	if err != nil || slices.ContainsFunc(channels, func(c calendar.Channel) bool { return c.ID == first }) {
		t.Errorf("the old one is known: %+v, %v", channels, err)
	}
	w.clock.advance(9 * 24 * time.Hour)
	if _, err := l.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if channels, err = l.Channels(t.Context()); err != nil || len(channels) != 2 {
		t.Errorf("those that expired are known: %+v, %v", channels, err)
	}
}

// A channel of a watch that was never finished does not live on.
func TestRenewForgetsLeftovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, demo)
	w.notifications()
	l := w.newLife()
	l.step = func(name string, done bool) error {
		if name == "UpdateCalendar" && done {
			return calendar.ErrState
		}
		if name == "UpdateCalendar" && len(w.google.Channels(demo)) > 0 {
			return calendar.ErrState
		}
		return nil
	}
	if _, err := l.Watch(t.Context(), demo); err == nil {
		t.Fatal("the state failed")
	}
	// One that Google opened, and one of which it never told.
	l = w.newLife()
	w.clock.advance(11 * time.Minute)
	if err := w.state.UpdateChannel(t.Context(), "pending", func(*calendar.Channel) (*calendar.Channel, error) {
		return &calendar.Channel{ID: "pending", CalendarID: demo, Created: w.clock.Now()}, nil
	}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 1, 0} {
		if _, err := l.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if channels, err := l.Channels(t.Context()); err != nil || len(channels) != want {
			t.Errorf("after Renew %d: %+v, %v", i, channels, err)
		}
		w.clock.advance(13 * time.Hour)
	}
	if left := w.google.Channels(demo); len(left) != 0 {
		t.Errorf("Google has %+v", left)
	}
}

// However many notifications come while a sync runs, it runs once more.
func TestOneMoreRun(t *testing.T) {
	t.Parallel()
	w, l, notes := watched(t)
	w.insert(demo, timed("first"))
	w.google.Deliver(t.Context())
	if _, _, err := l.Notify(t.Context(), (*notes)[0]); err != nil {
		t.Fatal(err)
	}
	other, lists := w.newLife(), 0
	l.step = func(name string, done bool) error {
		if !strings.HasSuffix(name, "/events") || !done {
			return nil
		}
		if lists++; lists > 1 {
			return nil
		}
		for range 5 {
			w.insert(demo, timed("meanwhile"))
		}
		w.google.Deliver(t.Context())
		for _, n := range (*notes)[1:] {
			if _, _, err := other.Notify(t.Context(), n); err != nil {
				t.Error(err)
			}
			if _, err := other.CatchUp(t.Context(), demo); !errors.Is(err, calendar.ErrBusy) {
				t.Errorf("CatchUp meanwhile: %v", err)
			}
		}
		return nil
	}
	result, err := l.CatchUp(t.Context(), demo)
	if err != nil || result.Runs != 2 || lists != 2 || result.Added != 6 || len(*notes) != 6 {
		t.Errorf("result %+v, %d lists, %d notifications, %v", result, lists, len(*notes), err)
	}
	// What comes again after that finds nothing left to do.
	for range 5 {
		if result, err := other.CatchUp(t.Context(), demo); err != nil || result.Runs != 0 {
			t.Errorf("later: %+v, %v", result, err)
		}
	}
	if _, err := l.CatchUp(t.Context(), "unknown@example.com"); err != nil {
		t.Errorf("CatchUp of a calendar that is not watched: %v", err)
	}
	if _, err := l.Sync(t.Context(), "unknown@example.com"); !errors.Is(err, calendar.ErrNotWatched) {
		t.Errorf("Sync of a calendar that is not watched: %v", err)
	}
}

// A runner that stood still for longer than its lease writes nothing any more.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	w, l, _ := watched(t)
	id := w.insert(demo, timed("one"))
	other := w.newLife()
	stood := false
	l.step = func(name string, done bool) error {
		// It has listed, and is about to keep what it found.
		if name == "Save" && !done && !stood {
			stood = true
			w.clock.advance(2 * time.Minute)
			w.patch(demo, id, calendarfake.Event{"summary": "two"})
			if result, err := other.Sync(t.Context(), demo); err != nil || result.Added != 1 {
				t.Errorf("the other: %+v, %v", result, err)
			}
		}
		return nil
	}
	if _, err := l.Sync(t.Context(), demo); !errors.Is(err, calendar.ErrLeaseLost) {
		t.Errorf("the first: %v", err)
	}
	w.patch(demo, id, calendarfake.Event{"summary": "three"})
	if _, err := other.Sync(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	equal(t, "the changes", []string{"added " + id, "updated " + id + " summary"}, w.changes())
	m := newMirror()
	messages, _ := w.inbox.from(0)
	for _, message := range messages {
		if _, err := m.apply(&message); err != nil {
			t.Error(err)
		}
	}
}

func TestSyncAllGoesOn(t *testing.T) {
	t.Parallel()
	w, l, _ := watched(t)
	w.google.AddCalendar("another@example.com")
	if _, err := l.Watch(t.Context(), "another@example.com"); err != nil {
		t.Fatal(err)
	}
	w.insert(demo, timed("new"))
	w.fault = func(c calendarfake.Call) (f calendarfake.Fault) {
		if c.CalendarID == "another@example.com" {
			f = calendarfake.Fault{Status: 404, Reason: "notFound"}
		}
		return f
	}
	results, err := l.SyncAll(t.Context())
	if !errors.Is(err, calendar.ErrRefused) || !strings.Contains(err.Error(), "another@example.com") || len(results) != 1 || results[0].Added != 1 {
		t.Errorf("SyncAll = %+v, %v", results, err)
	}
	if _, err := l.Sync(t.Context(), "another@example.com"); errors.Is(err, calendar.ErrBusy) {
		t.Error("the lease of the one that failed is still held")
	}
}

// TestSyncRequested holds that whoever waits for a sync is told when there is none any more.
func TestSyncRequested(t *testing.T) {
	t.Parallel()
	_, l, _ := watched(t)
	if _, err := l.Sync(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	if r, err := l.SyncRequested(t.Context(), demo); err != nil || r.Runs != 0 {
		t.Errorf("none was requested: %+v, %v", r, err)
	}
	if err := l.Stop(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	if _, err := l.SyncRequested(t.Context(), demo); !errors.Is(err, calendar.ErrNotWatched) {
		t.Errorf("stopped meanwhile: %v", err)
	}
	if _, err := l.CatchUp(t.Context(), demo); err != nil {
		t.Errorf("a notification of before: %v", err)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	w, l, notes := watched(t)
	id := w.insert(demo, timed("one"))
	other := w.newLife()
	l.step = func(name string, done bool) error {
		if strings.HasSuffix(name, "/events") && !done {
			if err := other.Stop(t.Context(), demo); !errors.Is(err, calendar.ErrBusy) {
				t.Errorf("Stop in the midst of a sync: %v", err)
			}
		}
		return nil
	}
	if _, err := l.Sync(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	w.google.Deliver(t.Context())
	// Google is down at first.
	w.fault = func(calendarfake.Call) calendarfake.Fault { return calendarfake.Fault{Status: 500} }
	if err := l.Stop(t.Context(), demo); !errors.Is(err, calendar.ErrUnavailable) {
		t.Errorf("Stop while Google is down: %v", err)
	}
	if _, err := l.Watch(t.Context(), demo); !errors.Is(err, calendar.ErrStopping) {
		t.Errorf("Watch of a calendar that is stopping: %v", err)
	}
	if _, err := l.Sync(t.Context(), demo); !errors.Is(err, calendar.ErrNotWatched) {
		t.Errorf("Sync of a calendar that is stopping: %v", err)
	}
	w.fault = func(calendarfake.Call) (f calendarfake.Fault) { return f }
	if err := l.Stop(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	if err := l.Stop(t.Context(), demo); !errors.Is(err, calendar.ErrNotWatched) {
		t.Errorf("Stop again: %v", err)
	}
	if _, _, err := l.Notify(t.Context(), (*notes)[0]); !errors.Is(err, calendar.ErrUnknownChannel) {
		t.Errorf("a late notification: %v", err)
	}
	if left := w.google.Channels(demo); len(left) != 0 {
		t.Errorf("Google has %+v", left)
	}
	// Watched again, the calendar is told anew, without what the inbox has.
	w.insert(demo, timed("two"))
	if _, err := l.Watch(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	l.step = func(string, bool) error { return nil }
	if result, err := l.Sync(t.Context(), demo); err != nil || result.Added != 2 || !result.Full {
		t.Errorf("watched again: %+v, %v", result, err)
	}
	if got := w.changes(); len(got) != 2 || got[0] != "added "+id {
		t.Errorf("changes %q", got)
	}
}

// script is Google with answers that are written down, page after page.
type script struct {
	t     *testing.T
	pages []page
	asked []string // the page and sync token of each list
}

type page struct {
	items  string // JSON, separated by commas
	next   string
	sync   string
	status int
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	if q.Get("showDeleted") != "true" || q.Get("singleEvents") != "false" || q.Get("maxResults") != "2500" {
		s.t.Errorf("parameters %v", q)
	}
	s.asked = append(s.asked, q.Get("syncToken")+"/"+q.Get("pageToken"))
	rec := httptest.NewRecorder()
	if len(s.pages) == 0 {
		s.t.Error("there is no such page")
		return nil, errDead
	}
	p := s.pages[0]
	s.pages = s.pages[1:]
	if p.status != 0 {
		rec.WriteHeader(p.status)
		_, _ = fmt.Fprintf(rec, `{"error":{"code":%d,"message":"no"}}`, p.status)
		return rec.Result(), nil
	}
	rec.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(rec, `{"items":[%s],"nextPageToken":%q,"nextSyncToken":%q}`, p.items, p.next, p.sync)
	return rec.Result(), nil
}

// ev is an event in JSON, of version n: its etag is n, and its time.
func ev(id string, n int, more string) string {
	if more != "" {
		more = "," + more
	}
	return fmt.Sprintf(`{"id":%q,"etag":"\"%d\"","status":"confirmed","updated":"2026-11-23T10:00:%02d.000Z"%s}`, id, n, n, more)
}

func gone(id string, n int) string {
	return fmt.Sprintf(`{"id":%q,"etag":"\"%d\"","status":"cancelled","updated":"2026-11-23T10:00:%02d.000Z"}`, id, n, n)
}

const (
	series   = `"recurrence":["RRULE:FREQ=DAILY"]`
	instance = `"recurringEventId":"s","originalStartTime":{"date":"2026-12-01"}`
)

// cancelled is a cancelled exception as Google surely sends it.
func cancelled(id string) string {
	return fmt.Sprintf(`{"id":%q,"status":"cancelled",%s}`, id, instance)
}

// TestLists says for lists of Google's what is reported. Each page of a step is
// one sync unless it has a next page.
func TestLists(t *testing.T) {
	t.Parallel()
	list := func(items ...string) page { return page{items: strings.Join(items, ","), sync: "t"} }
	next := func(items ...string) page { return page{items: strings.Join(items, ","), next: "p"} }
	status := func(code int) page { return page{status: code} }
	for _, test := range []struct {
		name  string
		pages []page
		want  []string
		asked []string // not compared when nil
		fails bool     // at the last page
	}{
		{name: "first", pages: []page{next(ev("a", 1, "")), next(), list(ev("b", 1, ""))}, want: []string{"added a", "added b"}, asked: []string{"/", "/p", "/p"}},
		{name: "the_same_again", pages: []page{list(ev("a", 1, "")), list(ev("a", 1, ""))}, want: []string{"added a"}, asked: []string{"/", "t/"}},
		{name: "fields", pages: []page{list(ev("a", 1, `"summary":"x","location":"y"`)), list(ev("a", 2, `"summary":"z","colorId":"1"`))}, want: []string{"added a", "updated a colorId,location,summary"}},
		{name: "nothing_visible", pages: []page{list(ev("a", 1, "")), list(ev("a", 2, `"sequence":1`))}, want: []string{"added a", "updated a"}},
		{name: "stale", pages: []page{list(ev("a", 3, "")), list(ev("a", 2, `"summary":"old"`)), list(gone("a", 1))}, want: []string{"added a"}},
		{name: "stale_by_sequence", pages: []page{list(ev("a", 3, `"sequence":2`)), list(strings.Replace(ev("a", 3, `"sequence":1`), `\"3`, `\"4`, 1))}, want: []string{"added a"}},
		{name: "stale_after_deletion", pages: []page{list(ev("a", 1, "")), list(gone("a", 3)), list(ev("a", 2, "")), list(gone("a", 3))}, want: []string{"added a", "deleted a"}},
		{name: "deleted_and_back", pages: []page{list(ev("a", 1, "")), list(gone("a", 2)), list(ev("a", 3, ""))}, want: []string{"added a", "deleted a", "added a"}},
		{name: "came_and_went", pages: []page{list(), list(gone("a", 1))}, want: nil},
		{name: "deleted_with_nothing_but_an_id", pages: []page{list(ev("a", 1, "")), list(`{"id":"a","status":"cancelled"}`), list(`{"id":"a","status":"cancelled"}`)}, want: []string{"added a", "deleted a"}},
		{name: "twice_on_a_page", pages: []page{list(ev("a", 1, ""), ev("a", 2, ""))}, want: []string{"added a"}},
		{name: "twice_on_a_page_older_last", pages: []page{list(ev("a", 2, ""), ev("a", 1, "")), list(ev("a", 2, ""))}, want: []string{"added a"}},
		{name: "twice_on_two_pages", pages: []page{next(ev("a", 1, "")), list(ev("a", 2, `"summary":"x"`))}, want: []string{"added a", "updated a summary"}},
		{name: "nonsense", pages: []page{list("null", `{}`, `{"id":"a","updated":"yesterday"}`), list(`{"id":"a","updated":"0000-01-01T00:00:00Z"}`)}, want: []string{"added a", "updated a"}},

		{name: "instance_moved_then_cancelled", pages: []page{list(ev("s", 1, series), ev("s_1", 2, instance)), list(cancelled("s_1")), list(cancelled("s_1"))}, want: []string{"added s", "added s_1", "deleted s_1"}},
		{name: "instance_cancelled_at_first", pages: []page{list(ev("s", 1, series), cancelled("s_1"))}, want: []string{"added s", "deleted s_1"}},
		{name: "instance_before_its_series", pages: []page{next(cancelled("s_1")), next(cancelled("s_1")), list(ev("s", 1, series))}, want: []string{"added s", "deleted s_1"}},
		{name: "instance_of_no_series", pages: []page{list(cancelled("s_1"))}, want: nil},
		{name: "instance_of_a_deleted_series", pages: []page{list(ev("s", 1, series)), list(gone("s", 2), cancelled("s_1"))}, want: []string{"added s", "deleted s"}},
		{name: "instance_cancelled_and_back", pages: []page{list(ev("s", 1, series), cancelled("s_1")), list(ev("s_1", 3, instance)), list(cancelled("s_1")), list(ev("s_1", 5, instance))}, want: []string{"added s", "deleted s_1", "added s_1", "deleted s_1", "added s_1"}},
		{name: "instance_cancelled_then_back_on_later_page", pages: []page{next(ev("s", 1, series), cancelled("s_1")), list(ev("s_1", 3, instance))}, want: []string{"added s", "added s_1"}},
		{name: "series_deleted_instances_unlisted", pages: []page{list(ev("s", 1, series), ev("s_1", 2, instance)), list(gone("s", 3)), list(gone("s", 3))}, want: []string{"added s", "added s_1", "deleted s", "deleted s_1"}},
		{name: "series_deleted_instances_listed", pages: []page{list(ev("s", 1, series), ev("s_1", 2, instance)), list(gone("s", 3), cancelled("s_1")), list(cancelled("s_1"))}, want: []string{"added s", "added s_1", "deleted s", "deleted s_1"}},
		{name: "series_deleted_guest_is_left_in_one", pages: []page{list(ev("s", 1, series), ev("s_1", 2, instance)), next(gone("s", 3)), list(ev("s_1", 4, instance+`,"summary":"x"`))}, want: []string{"added s", "added s_1", "deleted s", "updated s_1 summary"}},

		{name: "410", pages: []page{list(ev("a", 1, ""), ev("b", 1, ""), ev("c", 1, "")), status(410), list(ev("a", 1, ""), ev("b", 2, `"summary":"x"`), ev("d", 2, ""))}, want: []string{"added a", "added b", "added c", "updated b summary", "added d", "deleted c"}, asked: []string{"/", "t/", "/"}},
		{name: "410_then_the_deletion_is_listed", pages: []page{list(ev("a", 1, "")), status(410), list(), list(gone("a", 2)), list(ev("a", 1, ""))}, want: []string{"added a", "deleted a"}},
		{name: "410_deleted_in_the_full_list", pages: []page{list(ev("a", 1, "")), status(410), list(gone("a", 2))}, want: []string{"added a", "deleted a"}},
		{name: "410_missing_by_mistake", pages: []page{list(ev("a", 1, "")), status(410), list(), list(ev("a", 1, "")), status(410), list(), list(ev("a", 1, ""))}, want: []string{"added a", "deleted a", "added a", "deleted a", "added a"}},
		{name: "410_in_the_midst", pages: []page{list(ev("a", 1, "")), next(ev("b", 1, "")), status(410), next(ev("b", 1, "")), list()}, want: []string{"added a", "added b", "deleted a"}, asked: []string{"/", "t/", "t/p", "/", "/p"}},
		{name: "full_list_starts_over", pages: []page{list(ev("a", 1, ""), ev("b", 1, "")), status(410), next(ev("a", 1, "")), status(410), next(ev("a", 1, "")), status(400), next(ev("a", 1, "")), list()}, want: []string{"added a", "added b", "deleted b"}},
		{name: "bad_page_token", pages: []page{list(), next(ev("a", 1, "")), status(400), next(ev("a", 1, "")), list(ev("b", 1, ""))}, want: []string{"added a", "added b"}, asked: []string{"/", "t/", "t/p", "t/", "t/p"}},
		{name: "bad_sync_token", pages: []page{list(ev("a", 1, "")), status(400), list()}, want: []string{"added a", "deleted a"}, asked: []string{"/", "t/", "/"}},
		{name: "bad_request", pages: []page{status(400)}, fails: true},
		{name: "for_ever_410", pages: []page{status(410), status(410), status(410), status(410), status(410)}, fails: true},
		{name: "no_sync_token", pages: []page{{items: ev("a", 1, "")}}, want: []string{"added a"}, fails: true},
		{name: "passing", pages: []page{status(500), status(503), status(429), list(ev("a", 1, ""))}, want: []string{"added a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			google := &script{t: t, pages: test.pages}
			e := w.engine(google)
			if err := w.state.UpdateCalendar(t.Context(), demo, func(*calendar.Calendar) (*calendar.Calendar, error) {
				return &calendar.Calendar{ID: demo}, nil
			}); err != nil {
				t.Fatal(err)
			}
			var err error
			for len(google.pages) > 0 && err == nil {
				_, err = e.Sync(t.Context(), demo)
			}
			if (err != nil) != test.fails {
				t.Fatalf("err = %v", err)
			}
			m := newMirror()
			messages, _ := w.inbox.from(0)
			for _, message := range messages {
				if test.name == "410_missing_by_mistake" {
					m.etags = map[string]map[string]bool{} // the same version comes back
				}
				if _, err := m.apply(&message); err != nil {
					t.Error(err)
				}
			}
			// Within a batch the order is that of the goroutines.
			got := w.changes()
			slices.Sort(got)
			slices.Sort(test.want)
			equal(t, "the changes", test.want, got)
			if test.asked != nil {
				equal(t, "the lists asked for", test.asked, google.asked)
			}
		})
	}
}

// engine returns an engine whose Google is a RoundTripper.
func (w *world) engine(google http.RoundTripper) *calendar.Engine {
	w.t.Helper()
	service, err := gcal.NewService(context.Background(), option.WithEndpoint("https://google.example.com/"), option.WithHTTPClient(&http.Client{Transport: google}))
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := calendar.New(calendar.Options{
		Service: service, State: w.state, Inbox: w.inbox, Address: address, Now: w.clock.Now,
		Sleep: func(context.Context, time.Duration) error { return nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// The full before is there when Google sends of an event nothing but its ID.
func TestBlanksDoNotOverwrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	whole := ev("s_1", 2, instance+`,"summary":"moved","location":"room 1"`)
	e := w.engine(&script{t: t, pages: []page{
		{items: ev("s", 1, series) + "," + whole, sync: "t"},
		{items: cancelled("s_1"), sync: "t"},
	}})
	if err := w.state.UpdateCalendar(t.Context(), demo, func(*calendar.Calendar) (*calendar.Calendar, error) {
		return &calendar.Calendar{ID: demo}, nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := e.Sync(t.Context(), demo); err != nil {
			t.Fatal(err)
		}
	}
	messages, _ := w.inbox.from(2)
	var c change
	if err := json.Unmarshal(messages[0].Data, &c); err != nil {
		t.Fatal(err)
	}
	var want, before, event map[string]any
	_ = json.Unmarshal([]byte(whole), &want)
	_ = json.Unmarshal(c.Before, &before)
	_ = json.Unmarshal(c.Event, &event)
	equal(t, "before", want, before)
	equal(t, "event", map[string]any{
		"id": "s_1", "status": "cancelled", "recurringEventId": "s", "originalStartTime": map[string]any{"date": "2026-12-01"},
	}, event)
	equal(t, "the message ID", "s_1@2-deleted", messages[0].MessageID)
}

// An event that is too large is reported without its largest fields, and one
// that the inbox refuses does not hold up the others.
func TestLargeAndInvalid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	big := func(n int, location string) string {
		return ev("big", n, fmt.Sprintf(`"summary":"s","description":"%s","location":"%s"`, strings.Repeat("d", 500<<10), location))
	}
	long := strings.Repeat("x", 3000)
	e := w.engine(&script{t: t, pages: []page{
		{items: big(1, "here") + "," + ev(long, 1, "") + "," + ev("a", 1, ""), sync: "t"},
		{items: big(2, "there"), sync: "t"},
	}})
	if err := w.state.UpdateCalendar(t.Context(), demo, func(*calendar.Calendar) (*calendar.Calendar, error) {
		return &calendar.Calendar{ID: demo}, nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := e.Sync(t.Context(), demo); err != nil {
			t.Fatal(err)
		}
	}
	got := w.changes()
	slices.Sort(got)
	equal(t, "the changes", []string{"added a", "added big", "updated big location"}, got)
	messages, _ := w.inbox.from(0)
	for _, m := range messages {
		var c change
		if err := json.Unmarshal(m.Data, &c); err != nil {
			t.Fatal(err)
		}
		if m.Attributes["eventId"] == "big" && (!slices.Equal(c.Omitted, []string{"description"}) || bytes.Contains(c.Event, []byte("ddd"))) {
			t.Errorf("omitted %q of %d bytes", c.Omitted, len(c.Event))
		}
	}
	if pending, err := w.state.Pending(t.Context(), demo); err != nil || len(pending) != 0 {
		t.Errorf("pending %v, %v", pending, err)
	}
}

// A message says where it is from, and when it changed by Google's clock.
func TestMessage(t *testing.T) {
	t.Parallel()
	w, l, _ := watched(t)
	id := w.insert(demo, timed("one"))
	if _, err := l.Sync(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	messages, _ := w.inbox.from(0)
	e, _ := w.google.Event(demo, id)
	updated, _ := time.Parse(time.RFC3339, e["updated"].(string))
	m := messages[0]
	m.Data = nil
	equal(t, "the message", inbox.Message{
		Source: inbox.SourceCalendar, Subscription: demo, MessageID: id + "@" + strings.Trim(e["etag"].(string), `"`), PublishTime: updated,
		Attributes: map[string]string{"change": "added", "eventId": id, "calendarId": demo},
	}, m)
}
