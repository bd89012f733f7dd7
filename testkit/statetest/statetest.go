// Package statetest is the conformance suite of calendar.State. Every state runs it
// from its own tests.
package statetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/problem"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A Place is where states are opened, empty at first.
type Place struct {
	// Open opens a state on the place, which has what earlier ones stored there.
	// The suite closes it.
	Open func(t *testing.T) calendar.State
	// Exclusive says that only one state at a time can be open on the place.
	Exclusive bool
}

// Run tests that the states of a driver fulfil the contract. It calls place once
// for each of its subtests, which run in parallel.
func Run(t *testing.T, place func(t *testing.T) Place) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Place)
	}{
		{"calendars", calendars},
		{"a_failed_change_keeps_nothing", failedChange},
		{"changes_at_once", changesAtOnce},
		{"want", want},
		{"channels", channels},
		{"events", events},
		{"ids_of_any_form", ids},
		{"largest_batch", largestBatch},
		{"largest_event", largestEvent},
		{"more_pending_than_a_batch", morePending},
		{"lease_lost", leaseLost},
		{"leases_taken_over_under_load", takenOver},
		{"forget", forget},
		{"reopen", reopen},
		{"context_ended", contextEnded},
		{"closed", closed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, place(t))
		})
	}
}

func open(t *testing.T, p Place) calendar.State {
	t.Helper()
	s := p.Open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

var epoch = time.Date(2026, 11, 23, 9, 0, 0, 123456000, time.UTC)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// setCalendar stores c in place of any record with its ID.
func setCalendar(t *testing.T, s calendar.State, c calendar.Calendar) {
	t.Helper()
	check(t, s.UpdateCalendar(t.Context(), c.ID, func(*calendar.Calendar) (*calendar.Calendar, error) { return &c, nil }))
}

func getCalendar(t *testing.T, s calendar.State, id string) *calendar.Calendar {
	t.Helper()
	found, err := s.Calendar(t.Context(), id)
	check(t, err)
	return found
}

// leased creates a calendar's record and returns its lease.
func leased(t *testing.T, s calendar.State, id string) calendar.Lease {
	t.Helper()
	setCalendar(t, s, calendar.Calendar{ID: id, Fence: 1})
	return calendar.Lease{CalendarID: id, Fence: 1}
}

func calendars(t *testing.T, p Place) {
	s := open(t, p)
	if got := getCalendar(t, s, "b"); got != nil {
		t.Errorf("a calendar that was never kept is %+v", got)
	}
	b := calendar.Calendar{
		ID: "b", SyncToken: "token", SyncedAt: epoch, Wanted: 3, Done: 2, Fence: 7, LeaseUntil: epoch.Add(time.Minute), Stopping: true,
		MissingSince: epoch.Add(time.Hour), Gone: "not shared",
	}
	setCalendar(t, s, b)
	setCalendar(t, s, calendar.Calendar{ID: "a"})
	setCalendar(t, s, calendar.Calendar{ID: "c"})
	same(t, "the record", &b, getCalendar(t, s, "b"))
	for _, id := range []string{"d", "../b", "b/a", ""} {
		if got := getCalendar(t, s, id); got != nil {
			t.Errorf("Calendar(%q) = %+v", id, got)
		}
	}
	all, err := s.Calendars(t.Context())
	check(t, err)
	same(t, "all", []calendar.Calendar{{ID: "a"}, b, {ID: "c"}}, all)
	for range 2 {
		check(t, s.UpdateCalendar(t.Context(), "b", func(*calendar.Calendar) (*calendar.Calendar, error) { return nil, nil }))
	}
	if got := getCalendar(t, s, "b"); got != nil {
		t.Errorf("a deleted calendar is %+v", got)
	}
}

func failedChange(t *testing.T, p Place) {
	failed := errors.New("failed")
	s := open(t, p)
	setCalendar(t, s, calendar.Calendar{ID: "c", Fence: 1})
	err := s.UpdateCalendar(t.Context(), "c", func(c *calendar.Calendar) (*calendar.Calendar, error) {
		c.Fence = 2
		return c, failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("the error came back as %v", err)
	}
	same(t, "the record", int64(1), getCalendar(t, s, "c").Fence)
}

func changesAtOnce(t *testing.T, p Place) {
	s := open(t, p)
	setCalendar(t, s, calendar.Calendar{ID: "c"})
	const each, writers = 5, 4
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := s.UpdateCalendar(t.Context(), "c", func(c *calendar.Calendar) (*calendar.Calendar, error) {
					c.Done++
					return c, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range each {
				if err := s.Want(t.Context(), "c"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := getCalendar(t, s, "c")
	same(t, "done and wanted", []int64{each * writers, each * writers}, []int64{got.Done, got.Wanted})
}

func want(t *testing.T, p Place) {
	s := open(t, p)
	check(t, s.Want(t.Context(), "c"))
	if got := getCalendar(t, s, "c"); got != nil {
		t.Errorf("Want made %+v", got)
	}
	setCalendar(t, s, calendar.Calendar{ID: "c", SyncToken: "token", Wanted: 1})
	check(t, s.Want(t.Context(), "c"))
	same(t, "the record", &calendar.Calendar{ID: "c", SyncToken: "token", Wanted: 2}, getCalendar(t, s, "c"))
}

func channels(t *testing.T, p Place) {
	s := open(t, p)
	set := func(c calendar.Channel) {
		t.Helper()
		check(t, s.UpdateChannel(t.Context(), c.ID, func(old *calendar.Channel) (*calendar.Channel, error) {
			if old != nil {
				t.Errorf("%q was there: %+v", c.ID, old)
			}
			return &c, nil
		}))
	}
	newer := calendar.Channel{
		ID: "newer", CalendarID: "c", ResourceID: "r", Address: "https://example.com/", TokenHash: []byte{0, 1, 255},
		Created: epoch.Add(time.Microsecond), Expiration: epoch.Add(time.Hour), Notified: true,
	}
	older := calendar.Channel{ID: "older", CalendarID: "c", TokenHash: []byte("hash"), Created: epoch}
	other := calendar.Channel{ID: "other", CalendarID: "c2", Created: epoch.Add(time.Second)}
	for _, c := range []calendar.Channel{newer, other, older} {
		set(c)
	}
	got, err := s.Channel(t.Context(), "newer")
	check(t, err)
	same(t, "a channel", &newer, got)
	of, err := s.Channels(t.Context(), "c")
	check(t, err)
	same(t, "those of a calendar", []calendar.Channel{older, newer}, of)
	all, err := s.Channels(t.Context(), "")
	check(t, err)
	same(t, "all", []calendar.Channel{older, newer, other}, all)

	check(t, s.UpdateChannel(t.Context(), "older", func(c *calendar.Channel) (*calendar.Channel, error) {
		c.Notified = true
		return c, nil
	}))
	older.Notified = true
	check(t, s.UpdateChannel(t.Context(), "newer", func(*calendar.Channel) (*calendar.Channel, error) { return nil, nil }))
	of, err = s.Channels(t.Context(), "c")
	check(t, err)
	same(t, "after a change and a deletion", []calendar.Channel{older}, of)
	for _, id := range []string{"newer", "../c", "a/b", ""} {
		if got, err := s.Channel(t.Context(), id); got != nil || err != nil {
			t.Errorf("Channel(%q) = %+v, %v", id, got, err)
		}
	}
}

// event returns an event with everything set.
func event(id string) calendar.Event {
	return calendar.Event{
		ID: id, Etag: `"3181161784712000"`, Updated: epoch, Sequence: 4, Master: "master", Series: true, Revived: 2,
		JSON: json.RawMessage(`{"id":"` + id + `","summary":"\u003cé\u003e","n":1.50}`),
		Pending: &calendar.Change{
			Kind: calendar.Updated, MessageID: id + "@1", Time: epoch, Before: json.RawMessage(`{"a":"b"}`),
			Fields: []string{"summary"}, Omitted: []string{"attendees"},
		},
	}
}

func getEvents(t *testing.T, s calendar.State, calendarID string, ids ...string) map[string]calendar.Event {
	t.Helper()
	found, err := s.Events(t.Context(), calendarID, ids)
	check(t, err)
	return found
}

// queries returns what the queries for a calendar find, sorted.
func queries(t *testing.T, s calendar.State, calendarID string) map[string][]string {
	t.Helper()
	live, err := s.Live(t.Context(), calendarID)
	check(t, err)
	exceptions, err := s.Exceptions(t.Context(), calendarID, "master")
	check(t, err)
	pending, err := s.Pending(t.Context(), calendarID)
	check(t, err)
	found := map[string][]string{"live": live, "exceptions": exceptions}
	for _, e := range pending {
		if e.Pending == nil {
			t.Errorf("%q is pending without a change", e.ID)
		}
		found["pending"] = append(found["pending"], e.ID)
	}
	for _, ids := range found {
		slices.Sort(ids)
	}
	return found
}

func events(t *testing.T, p Place) {
	s := open(t, p)
	l := leased(t, s, "c")
	leased(t, s, "other")
	same(t, "nothing", map[string]calendar.Event{}, getEvents(t, s, "c", "a", "b"))

	a, b, c := event("a"), event("b"), event("c")
	b.Pending, b.Master = nil, ""
	c.Deleted, c.Inferred, c.Expires = true, true, epoch.Add(365*24*time.Hour)
	check(t, s.Save(t.Context(), l, []calendar.Event{a, b, c}))
	all := map[string]calendar.Event{"a": a, "b": b, "c": c}
	same(t, "the events", all, getEvents(t, s, "c", "a", "b", "c", "d"))
	same(t, "those of another calendar", map[string]calendar.Event{}, getEvents(t, s, "other", "a"))
	same(t, "the queries", map[string][]string{"live": {"a", "b"}, "exceptions": {"a", "c"}, "pending": {"a", "c"}}, queries(t, s, "c"))
	same(t, "those of another", map[string][]string{}, dropEmpty(queries(t, s, "other")))

	check(t, s.Delivered(t.Context(), l, []string{"a", "b"}))
	a.Pending = nil
	all["a"] = a
	same(t, "what was delivered", all, getEvents(t, s, "c", "a", "b", "c"))
	same(t, "the queries", map[string][]string{"live": {"a", "b"}, "exceptions": {"a", "c"}, "pending": {"c"}}, queries(t, s, "c"))

	// Saved again, an event is what it is then, and nothing of what it was.
	b = calendar.Event{ID: "b", Deleted: true, JSON: json.RawMessage(`{}`), Master: "master", Pending: c.Pending}
	c = calendar.Event{ID: "c", JSON: json.RawMessage(`{}`)}
	check(t, s.Save(t.Context(), l, []calendar.Event{b, c}))
	same(t, "saved again", map[string]calendar.Event{"b": b, "c": c}, getEvents(t, s, "c", "b", "c"))
	same(t, "the queries", map[string][]string{"live": {"a", "c"}, "exceptions": {"a", "b"}, "pending": {"b"}}, queries(t, s, "c"))
}

func dropEmpty(m map[string][]string) map[string][]string {
	for k, v := range m {
		if len(v) == 0 {
			delete(m, k)
		}
	}
	return m
}

func ids(t *testing.T, p Place) {
	s := open(t, p)
	var list []string
	for _, id := range []string{"a/b", ".", "..", "__a__", "a", "A", "ä", "a b", "a%2Fb", "team@group.calendar.google.com", strings.Repeat("x", 1000)} {
		list = append(list, id)
		l := leased(t, s, id)
		check(t, s.Save(t.Context(), l, []calendar.Event{{ID: id, JSON: json.RawMessage(`{}`)}, {ID: id + "/", JSON: json.RawMessage(`{}`)}}))
	}
	for _, id := range list {
		live, err := s.Live(t.Context(), id)
		check(t, err)
		slices.Sort(live)
		same(t, "the events of "+id, []string{id, id + "/"}, live)
		same(t, "an event", 1, len(getEvents(t, s, id, id)))
	}
	all, err := s.Calendars(t.Context())
	check(t, err)
	slices.Sort(list)
	var got []string
	for _, c := range all {
		got = append(got, c.ID)
	}
	same(t, "the calendars", list, got)
}

func largestBatch(t *testing.T, p Place) {
	s := open(t, p)
	l := leased(t, s, "c")
	var batch []calendar.Event
	var names []string
	size := 0
	for i := range calendar.MaxBatch {
		e := event(fmt.Sprint(i))
		e.JSON = padded(calendar.MaxBatchBytes/calendar.MaxBatch - e.Size() + len(e.JSON))
		size += e.Size()
		batch = append(batch, e)
		names = append(names, e.ID)
	}
	if size > calendar.MaxBatchBytes || size < calendar.MaxBatchBytes-calendar.MaxBatch {
		t.Fatalf("the batch has %d bytes", size)
	}
	check(t, s.Save(t.Context(), l, batch))
	got := getEvents(t, s, "c", names...)
	for _, e := range batch {
		if !bytes.Equal(e.JSON, got[e.ID].JSON) {
			t.Errorf("event %s came back as another", e.ID)
		}
	}
	check(t, s.Delivered(t.Context(), l, names))
	same(t, "pending", 0, len(queries(t, s, "c")["pending"]))
}

// padded returns JSON of this size.
func padded(size int) json.RawMessage {
	return json.RawMessage(`{"a":"` + strings.Repeat("x", size-8) + `"}`)
}

func largestEvent(t *testing.T, p Place) {
	s := open(t, p)
	l := leased(t, s, "c")
	e := event("e")
	rest := calendar.MaxEventSize - e.Size()
	e.JSON = padded(len(e.JSON) + rest/2)
	e.Pending.Before = padded(len(e.Pending.Before) + rest - rest/2)
	same(t, "the size", calendar.MaxEventSize, e.Size())
	check(t, s.Save(t.Context(), l, []calendar.Event{e}))
	got := getEvents(t, s, "c", "e")["e"]
	if got.Pending == nil || !bytes.Equal(got.JSON, e.JSON) || !bytes.Equal(got.Pending.Before, e.Pending.Before) {
		t.Error("it came back as another")
	}
}

func morePending(t *testing.T, p Place) {
	s := open(t, p)
	l := leased(t, s, "c")
	left := map[string]bool{}
	for part := range 2 {
		var batch []calendar.Event
		for i := range calendar.MaxBatch/2 + 1 {
			e := event(fmt.Sprint(part, "-", i))
			left[e.ID] = true
			batch = append(batch, e)
		}
		check(t, s.Save(t.Context(), l, batch))
	}
	for range 2 {
		some, err := s.Pending(t.Context(), "c")
		check(t, err)
		if len(some) == 0 || len(some) > calendar.MaxBatch {
			t.Fatalf("%d pending", len(some))
		}
		var names []string
		for _, e := range some {
			if !left[e.ID] {
				t.Errorf("%q was delivered before", e.ID)
			}
			delete(left, e.ID)
			names = append(names, e.ID)
		}
		check(t, s.Delivered(t.Context(), l, names))
	}
	if len(left) > 0 {
		t.Errorf("%d were never pending", len(left))
	}
}

func leaseLost(t *testing.T, p Place) {
	s := open(t, p)
	l := leased(t, s, "c")
	before := event("a")
	check(t, s.Save(t.Context(), l, []calendar.Event{before}))
	setCalendar(t, s, calendar.Calendar{ID: "c", Fence: 2})
	refused := func(l calendar.Lease) {
		t.Helper()
		after := event("a")
		after.Sequence++
		if err := s.Save(t.Context(), l, []calendar.Event{event("b"), after}); !errors.Is(err, calendar.ErrLeaseLost) {
			t.Errorf("Save under %+v: %v", l, err)
		}
		if err := s.Delivered(t.Context(), l, []string{"a"}); !errors.Is(err, calendar.ErrLeaseLost) {
			t.Errorf("Delivered under %+v: %v", l, err)
		}
	}
	refused(l)
	refused(calendar.Lease{CalendarID: "c", Fence: 3})
	refused(calendar.Lease{CalendarID: "never watched", Fence: 0})
	same(t, "the events", map[string]calendar.Event{"a": before}, getEvents(t, s, "c", "a", "b"))
	check(t, s.UpdateCalendar(t.Context(), "c", func(*calendar.Calendar) (*calendar.Calendar, error) { return nil, nil }))
	refused(calendar.Lease{CalendarID: "c", Fence: 2})
	same(t, "the events", map[string]calendar.Event{"a": before}, getEvents(t, s, "c", "a", "b"))
}

// takenOver lets runners take the lease from each other while they write, and
// watches that no write of a former holder ever shows.
func takenOver(t *testing.T, p Place) {
	s := open(t, p)
	states := []calendar.State{s, s}
	if !p.Exclusive {
		states[1] = open(t, p)
	}
	setCalendar(t, s, calendar.Calendar{ID: "c"})
	const runners, leases = 4, 5
	var wg sync.WaitGroup
	var mu sync.Mutex
	saved := 0
	for i := range runners {
		s := states[i%len(states)]
		wg.Go(func() {
			for range leases {
				l := calendar.Lease{CalendarID: "c"}
				err := s.UpdateCalendar(t.Context(), "c", func(c *calendar.Calendar) (*calendar.Calendar, error) {
					c.Fence++
					l.Fence = c.Fence
					return c, nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				for err == nil {
					found, readErr := s.Events(t.Context(), "c", []string{"a", "b"})
					if readErr != nil {
						t.Error(readErr)
						return
					}
					a, b := found["a"].Sequence, found["b"].Sequence
					// The two are always saved together, and read together by
					// one who cannot be overtaken only when his save succeeds.
					err = s.Save(t.Context(), l, []calendar.Event{
						{ID: "a", Sequence: l.Fence, Revived: found["a"].Revived + 1, JSON: json.RawMessage(`{}`)},
						{ID: "b", Sequence: l.Fence, JSON: json.RawMessage(`{}`)},
					})
					if err == nil {
						if a != b || a > l.Fence {
							t.Errorf("fence %d found %d and %d", l.Fence, a, b)
						}
						mu.Lock()
						saved++
						mu.Unlock()
						if a == l.Fence {
							break // twice is enough
						}
					}
				}
				if err != nil && !errors.Is(err, calendar.ErrLeaseLost) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// Each saved on top of what it had read: had a former holder come between,
	// one would be missing.
	if got := getEvents(t, s, "c", "a")["a"].Revived; got != saved {
		t.Errorf("%d saves succeeded and %d show", saved, got)
	}
}

func forget(t *testing.T, p Place) {
	s := open(t, p)
	for _, id := range []string{"c", "d"} {
		l := leased(t, s, id)
		for part := range 2 {
			var batch []calendar.Event
			for i := range calendar.MaxBatch {
				batch = append(batch, event(fmt.Sprint(part, "-", i)))
			}
			check(t, s.Save(t.Context(), l, batch))
		}
	}
	if err := s.Forget(t.Context(), calendar.Lease{CalendarID: "c", Fence: 7}); !errors.Is(err, calendar.ErrLeaseLost) {
		t.Errorf("Forget without the lease: %v", err)
	}
	same(t, "before", 2*calendar.MaxBatch, len(queries(t, s, "c")["live"]))
	check(t, s.Forget(t.Context(), calendar.Lease{CalendarID: "c", Fence: 1}))
	check(t, s.Forget(t.Context(), calendar.Lease{CalendarID: "c", Fence: 1}))
	same(t, "what is left", map[string][]string{}, dropEmpty(queries(t, s, "c")))
	same(t, "an event", map[string]calendar.Event{}, getEvents(t, s, "c", "0-1"))
	same(t, "the others", 2*calendar.MaxBatch, len(queries(t, s, "d")["live"]))
	if getCalendar(t, s, "c") == nil {
		t.Error("the record is gone, too")
	}
}

func reopen(t *testing.T, p Place) {
	s := p.Open(t)
	l := leased(t, s, "c")
	e := event("e")
	check(t, s.Save(t.Context(), l, []calendar.Event{e}))
	ch := calendar.Channel{ID: "ch", CalendarID: "c", TokenHash: []byte("hash"), Created: epoch}
	check(t, s.UpdateChannel(t.Context(), "ch", func(*calendar.Channel) (*calendar.Channel, error) { return &ch, nil }))
	check(t, s.Close())
	s = open(t, p)
	same(t, "the record", &calendar.Calendar{ID: "c", Fence: 1}, getCalendar(t, s, "c"))
	same(t, "the event", map[string]calendar.Event{"e": e}, getEvents(t, s, "c", "e"))
	got, err := s.Channel(t.Context(), "ch")
	check(t, err)
	same(t, "the channel", &ch, got)
}

// calls returns the error of each method that can fail, called on a calendar c
// whose lease is l.
func calls(ctx context.Context, s calendar.State, l calendar.Lease) map[string]error {
	_, calendarErr := s.Calendar(ctx, "c")
	_, calendarsErr := s.Calendars(ctx)
	_, channelErr := s.Channel(ctx, "ch")
	_, channelsErr := s.Channels(ctx, "c")
	_, eventsErr := s.Events(ctx, "c", []string{"e"})
	_, liveErr := s.Live(ctx, "c")
	_, exceptionsErr := s.Exceptions(ctx, "c", "e")
	_, pendingErr := s.Pending(ctx, "c")
	return map[string]error{
		"UpdateCalendar": s.UpdateCalendar(ctx, "c", func(*calendar.Calendar) (*calendar.Calendar, error) { return nil, nil }),
		"UpdateChannel":  s.UpdateChannel(ctx, "ch", func(*calendar.Channel) (*calendar.Channel, error) { return nil, nil }),
		"Want":           s.Want(ctx, "c"),
		"Save":           s.Save(ctx, l, []calendar.Event{event("f")}),
		"Delivered":      s.Delivered(ctx, l, []string{"e"}),
		"Forget":         s.Forget(ctx, l),
		"Calendar":       calendarErr,
		"Calendars":      calendarsErr,
		"Channel":        channelErr,
		"Channels":       channelsErr,
		"Events":         eventsErr,
		"Live":           liveErr,
		"Exceptions":     exceptionsErr,
		"Pending":        pendingErr,
	}
}

func contextEnded(t *testing.T, p Place) {
	s := open(t, p)
	l := leased(t, s, "c")
	check(t, s.Save(t.Context(), l, []calendar.Event{event("e")}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range calls(ctx, s, l) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	same(t, "the record", &calendar.Calendar{ID: "c", Fence: 1}, getCalendar(t, s, "c"))
	same(t, "the queries", map[string][]string{"live": {"e"}, "exceptions": {"e"}, "pending": {"e"}}, queries(t, s, "c"))
}

// closed stands for every reason why a state cannot reach its place.
func closed(t *testing.T, p Place) {
	s := p.Open(t)
	l := leased(t, s, "c")
	check(t, s.Close())
	for name, err := range calls(t.Context(), s, l) {
		if status, _ := problem.Of(err); !errors.Is(err, calendar.ErrState) || status != http.StatusServiceUnavailable {
			t.Errorf("%s: %v has status %d", name, err, status)
		}
	}
}
