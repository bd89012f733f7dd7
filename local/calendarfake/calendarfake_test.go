package calendarfake_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	"example.com/pushinbox/local/calendarfake"
)

// world is a stand-in on a clock of its own, with a client of Google's.
type world struct {
	*calendarfake.Server
	client *gcal.Service

	mu  sync.Mutex
	now time.Time
	got []received
	// answer is what the receiver of notifications says.
	answer func(received) int
}

// received is a notification as its receiver saw it.
type received struct {
	at     time.Duration // since the start
	header http.Header
	length int64
}

func (r received) String() string {
	return r.header.Get("X-Goog-Resource-State") + " " + r.header.Get("X-Goog-Message-Number")
}

var epoch = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, o calendarfake.Options) *world {
	w := &world{now: epoch, answer: func(received) int { return http.StatusNoContent }}
	o.Now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	o.Transport = w
	w.Server = calendarfake.New(&o)
	w.AddCalendar("demo")
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	var err error
	w.client, err = gcal.NewService(t.Context(), option.WithEndpoint(server.URL), option.WithHTTPClient(server.Client()))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// RoundTrip receives a notification.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	got := received{w.now.Sub(epoch), r.Header, r.ContentLength}
	w.got = append(w.got, got)
	w.mu.Unlock()
	rec := httptest.NewRecorder()
	rec.WriteHeader(w.answer(got))
	return rec.Result(), nil
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// settle sends all notifications, however late they are due.
func (w *world) settle() {
	for {
		next, ok := w.Deliver(context.Background())
		if !ok {
			return
		}
		w.mu.Lock()
		w.now = next
		w.mu.Unlock()
	}
}

func (w *world) states() []string {
	var s []string
	for _, r := range w.got {
		s = append(s, r.String())
	}
	return s
}

func (w *world) insert(t *testing.T, e *gcal.Event) *gcal.Event {
	t.Helper()
	if e.Start == nil {
		e.Start = &gcal.EventDateTime{DateTime: "2026-12-01T09:00:00Z"}
		e.End = &gcal.EventDateTime{DateTime: "2026-12-01T10:00:00Z"}
	}
	added, err := w.client.Events.Insert("demo", e).Do()
	if err != nil {
		t.Fatal(err)
	}
	return added
}

// listed is what all pages of one list say.
type listed struct {
	items     []*gcal.Event
	pages     int
	syncToken string
}

func (w *world) list(t *testing.T, call *gcal.EventsListCall) listed {
	t.Helper()
	var l listed
	err := call.Pages(t.Context(), func(page *gcal.Events) error {
		l.pages++
		l.items = append(l.items, page.Items...)
		if (page.NextPageToken == "") == (page.NextSyncToken == "") {
			t.Errorf("page %d has the tokens %q and %q", l.pages, page.NextPageToken, page.NextSyncToken)
		}
		l.syncToken = page.NextSyncToken
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l listed) summaries() []string {
	var s []string
	for _, e := range l.items {
		if e.Status == "cancelled" {
			s = append(s, "-"+e.Id)
		} else {
			s = append(s, e.Summary)
		}
	}
	return s
}

func code(err error) int {
	if e := (*googleapi.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func reason(err error) string {
	if e := (*googleapi.Error)(nil); errors.As(err, &e) && len(e.Errors) > 0 {
		return e.Errors[0].Reason
	}
	return ""
}

func TestListPagesAndTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	for i := range 5 {
		w.insert(t, &gcal.Event{Id: fmt.Sprintf("event%d", i), Summary: strconv.Itoa(i)})
	}
	full := w.list(t, w.client.Events.List("demo").MaxResults(2))
	if diff := cmp.Diff([]string{"0", "1", "2", "3", "4"}, full.summaries()); diff != "" || full.pages != 3 {
		t.Errorf("%d pages, (-want +got)\n%s", full.pages, diff)
	}
	if none := w.list(t, w.client.Events.List("demo").SyncToken(full.syncToken)); len(none.items) != 0 {
		t.Errorf("nothing has changed, but the list says %v", none.summaries())
	}
	if _, err := w.client.Events.Patch("demo", "event1", &gcal.Event{Summary: "1b"}).Do(); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Events.Delete("demo", "event0").Do(); err != nil {
		t.Fatal(err)
	}
	changed := w.list(t, w.client.Events.List("demo").SyncToken(full.syncToken).MaxResults(1))
	if diff := cmp.Diff([]string{"1b", "-event0"}, changed.summaries()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	deleted := changed.items[1]
	if deleted.Summary != "" || deleted.Start != nil || deleted.Etag == "" || deleted.Updated == "" {
		t.Errorf("a deleted event is %+v", deleted)
	}
	hidden := w.list(t, w.client.Events.List("demo"))
	shown := w.list(t, w.client.Events.List("demo").ShowDeleted(true))
	if len(hidden.items) != 4 || len(shown.items) != 5 {
		t.Errorf("%d events, with deleted ones %d", len(hidden.items), len(shown.items))
	}
	w.Invalidate("demo")
	_, err := w.client.Events.List("demo").SyncToken(changed.syncToken).Do()
	if code(err) != http.StatusGone || reason(err) != "fullSyncRequired" {
		t.Errorf("an invalidated token: %v", err)
	}
	if shown := w.list(t, w.client.Events.List("demo").ShowDeleted(true)); len(shown.items) != 4 {
		t.Errorf("%d events after the deleted one was forgotten", len(shown.items))
	}
}

// What changes while pages are read is in them or in the next list.
func TestListMissesNothingBetweenPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	for i := range 6 {
		w.insert(t, &gcal.Event{Id: fmt.Sprintf("event%d", i), Summary: "old"})
	}
	seen := make(map[string]string)
	call := w.client.Events.List("demo").MaxResults(2)
	var token string
	pages := 0
	err := call.Pages(t.Context(), func(page *gcal.Events) error {
		for _, e := range page.Items {
			seen[e.Id] = e.Summary
		}
		if pages++; pages == 1 {
			for _, id := range []string{"event0", "event4"} {
				if _, err := w.Patch("demo", id, calendarfake.Event{"summary": "new"}); err != nil {
					return err
				}
			}
			if err := w.Delete("demo", "event1"); err != nil {
				return err
			}
			w.insert(t, &gcal.Event{Id: "event6", Summary: "new"})
		}
		token = page.NextSyncToken
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	again := w.list(t, w.client.Events.List("demo").SyncToken(token))
	for _, e := range again.items {
		seen[e.Id] = e.Summary
		if e.Status == "cancelled" {
			delete(seen, e.Id)
		}
	}
	want := map[string]string{"event0": "new", "event2": "old", "event3": "old", "event4": "new", "event5": "old", "event6": "new"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(again.items) != 4 {
		t.Errorf("the next list has %v", again.summaries())
	}
}

func TestListRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	w.AddCalendar("other")
	w.insert(t, &gcal.Event{})
	w.insert(t, &gcal.Event{})
	token := w.list(t, w.client.Events.List("demo")).syncToken
	foreign := w.list(t, w.client.Events.List("other")).syncToken
	page, err := w.client.Events.List("demo").MaxResults(1).Do()
	if err != nil {
		t.Fatal(err)
	}
	list := func() *gcal.EventsListCall { return w.client.Events.List("demo").SyncToken(token) }
	for name, c := range map[string]struct {
		call *gcal.EventsListCall
		code int
	}{
		"unknown_calendar":      {w.client.Events.List("nobody"), 404},
		"token_of_another":      {w.client.Events.List("demo").SyncToken(foreign), 410},
		"token_made_up":         {w.client.Events.List("demo").SyncToken("made up"), 410},
		"page_token_for_token":  {w.client.Events.List("demo").SyncToken(page.NextPageToken), 410},
		"page_token_made_up":    {w.client.Events.List("demo").PageToken("made up"), 400},
		"page_token_with_token": {list().PageToken(page.NextPageToken), 400},
		"other_parameters":      {list().ShowDeleted(true), 400},
		"without_deleted":       {list().ShowDeleted(false), 400},
		"expanded":              {list().SingleEvents(true), 400},
		"order":                 {list().OrderBy("updated"), 400},
		"query":                 {list().Q("x"), 400},
		"time_min":              {list().TimeMin("2026-01-01T00:00:00Z"), 400},
		"updated_min":           {list().UpdatedMin("2026-01-01T00:00:00Z"), 400},
		"ical_uid":              {list().ICalUID("x"), 400},
		"no_results":            {list().MaxResults(-1), 400},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.call.Do(); code(err) != c.code {
				t.Errorf("answered %v, want %d", err, c.code)
			}
		})
	}
}

func TestSeries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	w.insert(t, &gcal.Event{Id: "standup", Summary: "Weekly", Recurrence: []string{"RRULE:FREQ=WEEKLY"}})
	token := w.list(t, w.client.Events.List("demo").ShowDeleted(true)).syncToken
	moved, err := w.client.Events.Patch("demo", "standup_20261208T090000Z", &gcal.Event{
		Start: &gcal.EventDateTime{DateTime: "2026-12-08T15:00:00Z"}, End: &gcal.EventDateTime{DateTime: "2026-12-08T16:00:00Z"},
	}).Do()
	if err != nil {
		t.Fatal(err)
	}
	if moved.RecurringEventId != "standup" || moved.OriginalStartTime.DateTime != "2026-12-08T09:00:00Z" || moved.Summary != "Weekly" || moved.Recurrence != nil {
		t.Errorf("a moved instance is %+v", moved)
	}
	if err := w.client.Events.Delete("demo", "standup_20261215T090000Z").Do(); err != nil {
		t.Fatal(err)
	}
	changed := w.list(t, w.client.Events.List("demo").ShowDeleted(true).SyncToken(token))
	if diff := cmp.Diff([]string{"Weekly", "-standup_20261215T090000Z"}, changed.summaries()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	b, err := changed.items[1].MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"standup_20261215T090000Z","originalStartTime":{"dateTime":"2026-12-15T09:00:00Z"},"recurringEventId":"standup","status":"cancelled"}`
	if string(b) != want {
		t.Errorf("a cancelled instance is\n%s, want\n%s", b, want)
	}
	if full := w.list(t, w.client.Events.List("demo")); len(full.items) != 3 {
		t.Errorf("a full list without deleted events has %v", full.summaries())
	}
	if got := w.Events("demo"); len(got) != 2 {
		t.Errorf("the truth has %d events", len(got))
	}
	if err := w.client.Events.Delete("demo", "standup").Do(); err != nil {
		t.Fatal(err)
	}
	gone := w.list(t, w.client.Events.List("demo").ShowDeleted(true).SyncToken(changed.syncToken)).summaries()
	if diff := cmp.Diff([]string{"-standup", "-standup_20261208T090000Z"}, gone); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if full := w.list(t, w.client.Events.List("demo")); len(full.items) != 0 {
		t.Errorf("a full list has %v", full.summaries())
	}
	if _, err := w.client.Events.Patch("demo", "standup_20261222T090000Z", &gcal.Event{Summary: "x"}).Do(); code(err) != 404 {
		t.Errorf("an instance of a deleted series: %v", err)
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	added := w.insert(t, &gcal.Event{Summary: "a", Location: "here", Id: "event1"})
	if added.Etag == "" || added.ICalUID == "" || added.Status != "confirmed" {
		t.Errorf("added %+v", added)
	}
	patched, err := w.client.Events.Patch("demo", "event1", &gcal.Event{
		Start: &gcal.EventDateTime{DateTime: "2026-12-01T09:30:00Z"}, NullFields: []string{"Location"},
	}).Do()
	if err != nil {
		t.Fatal(err)
	}
	if patched.Location != "" || patched.Summary != "a" || patched.Sequence != 1 || patched.Etag == added.Etag || patched.Updated <= added.Updated {
		t.Errorf("patched %+v", patched)
	}
	touched, err := w.Patch("demo", "event1", calendarfake.Event{"etag": "mine", "id": "event2"})
	if err != nil || touched["etag"] == patched.Etag || touched["etag"] == "mine" || touched["id"] != "event1" {
		t.Errorf("touched %v %v", touched, err)
	}
	for name, e := range map[string]calendarfake.Event{
		"no_start":   {"end": map[string]any{"date": "2026-12-01"}},
		"no_end":     {"start": map[string]any{"date": "2026-12-01"}},
		"both_times": {"start": map[string]any{"date": "2026-12-01", "dateTime": "2026-12-01T09:00:00Z"}, "end": map[string]any{"date": "2026-12-01"}},
		"no_time":    {"start": map[string]any{"date": "tomorrow"}, "end": map[string]any{"date": "2026-12-01"}},
		"bad_id":     {"id": "ABC", "start": map[string]any{"date": "2026-12-01"}, "end": map[string]any{"date": "2026-12-01"}},
	} {
		if _, err := w.Insert("demo", e); code(err) != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.Delete("demo", "event1"); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Events.Delete("demo", "event1").Do(); code(err) != http.StatusGone {
		t.Errorf("deleting twice: %v", err)
	}
	if e, err := w.client.Events.Get("demo", "event1").Do(); err != nil || e.Status != "cancelled" {
		t.Errorf("a deleted event reads %+v %v", e, err)
	}
	if e, err := w.client.Events.Patch("demo", "event1", &gcal.Event{Status: "confirmed"}).Do(); err != nil || e.Summary != "a" {
		t.Errorf("brought back as %+v %v", e, err)
	}
	if _, err := w.client.Events.Insert("demo", &gcal.Event{Id: "event1", Start: added.Start, End: added.End}).Do(); code(err) != http.StatusConflict {
		t.Errorf("the same ID again: %v", err)
	}
}

func watchable() *gcal.Channel {
	return &gcal.Channel{Id: "channel-1", Type: "web_hook", Address: "https://example.com/notifications", Token: "secret"}
}

// A dateTime without an offset is one of its timeZone.
func TestTimeZones(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	for name, test := range map[string]struct {
		start m
		want  string // dateTime, or what Google says
	}{
		"winter":            {m{"dateTime": "2026-12-01T09:00:00", "timeZone": "Europe/Zurich"}, "2026-12-01T09:00:00+01:00"},
		"summer":            {m{"dateTime": "2026-07-01T09:00:00", "timeZone": "Europe/Zurich"}, "2026-07-01T09:00:00+02:00"},
		"utc":               {m{"dateTime": "2026-12-01T09:00:00", "timeZone": "UTC"}, "2026-12-01T09:00:00Z"},
		"half_an_hour":      {m{"dateTime": "2026-12-01T09:00:00", "timeZone": "Asia/Kolkata"}, "2026-12-01T09:00:00+05:30"},
		"fraction":          {m{"dateTime": "2026-12-01T09:00:00.000", "timeZone": "America/New_York"}, "2026-12-01T09:00:00-05:00"},
		"offset_and_zone":   {m{"dateTime": "2026-12-01T09:00:00+03:00", "timeZone": "Europe/Zurich"}, "2026-12-01T09:00:00+03:00"},
		"offset_only":       {m{"dateTime": "2026-12-01T09:00:00-08:00"}, "2026-12-01T09:00:00-08:00"},
		"neither":           {m{"dateTime": "2026-12-01T09:00:00"}, "Missing time zone definition for start time."},
		"zone_null":         {m{"dateTime": "2026-12-01T09:00:00", "timeZone": nil}, "Missing time zone definition for start time."},
		"unknown_zone":      {m{"dateTime": "2026-12-01T09:00:00", "timeZone": "Europe/Nowhere"}, "Invalid time zone definition for start time."},
		"unknown_of_offset": {m{"dateTime": "2026-12-01T09:00:00Z", "timeZone": "Nowhere"}, "Invalid time zone definition for start time."},
		"empty_zone":        {m{"dateTime": "2026-12-01T09:00:00", "timeZone": ""}, "Invalid time zone definition for start time."},
		"zone_of_machine":   {m{"dateTime": "2026-12-01T09:00:00", "timeZone": "Local"}, "Invalid time zone definition for start time."},
		"zone_a_number":     {m{"dateTime": "2026-12-01T09:00:00", "timeZone": 1}, "Invalid time zone definition for start time."},
		"zone_a_path":       {m{"dateTime": "2026-12-01T09:00:00", "timeZone": "../../etc/passwd"}, "Invalid time zone definition for start time."},
		"not_a_time":        {m{"dateTime": "tomorrow", "timeZone": "UTC"}, "Invalid start time."},
		"date_with_zone":    {m{"date": "2026-12-01", "timeZone": "Europe/Zurich"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, calendarfake.Options{})
			end := m{"dateTime": "2026-12-02T10:00:00Z"}
			e, err := w.Insert("demo", calendarfake.Event{"start": test.start, "end": end})
			if apiError := (*googleapi.Error)(nil); errors.As(err, &apiError) {
				if apiError.Code != http.StatusBadRequest || apiError.Message != test.want {
					t.Errorf("answered %v, want %q", err, test.want)
				}
				return
			}
			// As Google's client sends it, and by a change of the times alone.
			for _, got := range []any{e["start"], patched(t, w, test.start)} {
				start := got.(m)
				if dateTime, _ := start["dateTime"].(string); dateTime != test.want || start["timeZone"] != test.start["timeZone"] {
					t.Errorf("starts %v, want %q", start, test.want)
				}
			}
		})
	}
}

func patched(t *testing.T, w *world, start map[string]any) any {
	t.Helper()
	e, err := w.Insert("demo", calendarfake.Event{"start": map[string]any{"dateTime": "2026-11-01T10:00:00Z"}, "end": map[string]any{"dateTime": "2026-12-02T10:00:00Z"}})
	if err != nil {
		t.Fatal(err)
	}
	change := map[string]any{"dateTime": nil, "date": nil}
	for name, value := range start {
		change[name] = value
	}
	if e, err = w.Patch("demo", e["id"].(string), calendarfake.Event{"start": change}); err != nil {
		t.Fatal(err)
	}
	return e["start"]
}

func TestWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	ch, err := w.client.Events.Watch("demo", watchable()).Do()
	if err != nil {
		t.Fatal(err)
	}
	if ch.Token != "secret" || ch.ResourceId == "" || ch.Expiration != epoch.Add(7*24*time.Hour).UnixMilli() {
		t.Errorf("opened %+v", ch)
	}
	for range 3 {
		w.insert(t, &gcal.Event{})
	}
	w.settle()
	if w.got[0].String() != "sync 1" || len(w.got) != 4 {
		t.Fatalf("notified of %v", w.states())
	}
	last := int64(0)
	consecutive := true
	for _, r := range w.got {
		n, _ := strconv.ParseInt(r.header.Get("X-Goog-Message-Number"), 10, 64)
		if n <= last {
			t.Errorf("numbers %v", w.states())
		}
		consecutive = consecutive && n == last+1
		last = n
	}
	if consecutive {
		t.Errorf("the numbers are consecutive: %v", w.states())
	}
	want := map[string]string{
		"X-Goog-Channel-Id":         "channel-1",
		"X-Goog-Channel-Token":      "secret",
		"X-Goog-Channel-Expiration": "Mon, 30 Nov 2026 09:00:00 GMT",
		"X-Goog-Resource-Id":        ch.ResourceId,
		"X-Goog-Resource-State":     "exists",
		"X-Goog-Resource-Uri":       "https://www.googleapis.com/calendar/v3/calendars/demo/events?alt=json",
	}
	for name, value := range want {
		if got := w.got[3].header.Get(name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	if w.got[3].length != 0 || !strings.HasPrefix(w.got[3].header.Get("User-Agent"), "APIs-Google") {
		t.Errorf("the notification is %+v", w.got[3])
	}

	second := watchable()
	second.Id = "channel-2"
	second.Expiration = epoch.Add(time.Hour).UnixMilli()
	other, err := w.client.Events.Watch("demo", second).Do()
	if err != nil {
		t.Fatal(err)
	}
	if other.ResourceId != ch.ResourceId || other.Expiration != second.Expiration {
		t.Errorf("the second channel is %+v", other)
	}
	if got := w.Channels("demo"); len(got) != 2 || got[0].ID != "channel-2" {
		t.Errorf("channels %+v", got)
	}
	w.advance(time.Hour)
	if got := w.Channels("demo"); len(got) != 1 {
		t.Errorf("channels %+v", got)
	}
	if err := w.client.Channels.Stop(&gcal.Channel{Id: "channel-1", ResourceId: "wrong"}).Do(); code(err) != 404 {
		t.Errorf("stopping with the wrong resource ID: %v", err)
	}
	if err := w.client.Channels.Stop(&gcal.Channel{Id: "channel-1", ResourceId: ch.ResourceId}).Do(); err != nil {
		t.Error(err)
	}
	w.settle()
	before := len(w.got)
	w.insert(t, &gcal.Event{})
	w.settle()
	if len(w.got) != before {
		t.Errorf("a stopped or expired channel was notified: %v", w.states())
	}
}

func TestWatchRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	if _, err := w.client.Events.Watch("demo", watchable()).Do(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*gcal.Channel)
		reason string
	}{
		"same_id":       {func(*gcal.Channel) {}, "channelIdNotUnique"},
		"no_id":         {func(c *gcal.Channel) { c.Id = "" }, "required"},
		"long_id":       {func(c *gcal.Channel) { c.Id = strings.Repeat("a", 65) }, "channelIdInvalid"},
		"type":          {func(c *gcal.Channel) { c.Id, c.Type = "new", "email" }, "channelUnknown"},
		"http":          {func(c *gcal.Channel) { c.Id, c.Address = "new", "http://example.com/" }, "push.webhookUrlNotHttps"},
		"no_address":    {func(c *gcal.Channel) { c.Id, c.Address = "new", "" }, "push.webhookUrlNotHttps"},
		"long_token":    {func(c *gcal.Channel) { c.Id, c.Token = "new", strings.Repeat("a", 257) }, "channelTokenTooLong"},
		"expired":       {func(c *gcal.Channel) { c.Id, c.Expiration = "new", epoch.UnixMilli() }, "channelExpirationInPast"},
		"ttl_no_number": {func(c *gcal.Channel) { c.Id, c.Params = "new", map[string]string{"ttl": "soon"} }, "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := watchable()
			c.change(ch)
			if _, err := w.client.Events.Watch("demo", ch).Do(); code(err) != 400 || reason(err) != c.reason {
				t.Errorf("answered %v, want %s", err, c.reason)
			}
		})
	}
	ch := watchable()
	ch.Id, ch.Params = "short", map[string]string{"ttl": "60"}
	if got, err := w.client.Events.Watch("demo", ch).Do(); err != nil || got.Expiration != epoch.Add(time.Minute).UnixMilli() {
		t.Errorf("with a ttl: %+v %v", got, err)
	}
	if _, err := w.client.Events.Watch("nobody", ch).Do(); code(err) != 404 {
		t.Errorf("an unknown calendar: %v", err)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{
		500: "[0s 1s 3s]", 502: "[0s 1s 3s]", 503: "[0s 1s 3s]", 504: "[0s 1s 3s]",
		400: "[0s]", 403: "[0s]", 404: "[0s]", 429: "[0s]", 204: "[0s]", 301: "[0s]", 501: "[0s]",
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, calendarfake.Options{})
			w.answer = func(r received) int {
				if r.at < 3*time.Second {
					return status
				}
				return http.StatusOK
			}
			if _, err := w.client.Events.Watch("demo", watchable()).Do(); err != nil {
				t.Fatal(err)
			}
			w.settle()
			var at []time.Duration
			for _, r := range w.got {
				at = append(at, r.at)
			}
			if fmt.Sprint(at) != want {
				t.Errorf("attempts at %v, want %s", at, want)
			}
		})
	}
	t.Run("for_ever", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, calendarfake.Options{})
		w.answer = func(received) int { return 503 }
		if _, err := w.client.Events.Watch("demo", watchable()).Do(); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if len(w.got) != 9 {
			t.Errorf("%d attempts", len(w.got))
		}
	})
}

func TestDisturbances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{NotificationFault: func(n calendarfake.Notification) calendarfake.NotificationFault {
		switch n.State {
		case "sync":
			return calendarfake.NotificationFault{Duplicate: true}
		}
		if n.Number < 4 {
			return calendarfake.NotificationFault{Delay: time.Minute}
		}
		return calendarfake.NotificationFault{Drop: n.Number > 6}
	}})
	if _, err := w.client.Events.Watch("demo", watchable()).Do(); err != nil {
		t.Fatal(err)
	}
	for range 9 {
		w.insert(t, &gcal.Event{})
	}
	w.settle()
	got := w.states()
	if got[0] != "sync 1" || got[1] != "sync 1" || slices.IsSorted(got[1:]) || len(got) >= 11 {
		t.Errorf("notified of %v", got)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	var fault func(calendarfake.Call) calendarfake.Fault
	w := newWorld(t, calendarfake.Options{Fault: func(c calendarfake.Call) calendarfake.Fault { return fault(c) }})
	fault = func(calendarfake.Call) calendarfake.Fault { return calendarfake.Fault{} }
	for range 4 {
		w.insert(t, &gcal.Event{})
	}
	fault = func(c calendarfake.Call) calendarfake.Fault {
		return calendarfake.Fault{Limit: []int{0, -1, 1, -1}[min(c.Page, 3)%4+0]}
	}
	pages := 0
	err := w.client.Events.List("demo").Pages(t.Context(), func(p *gcal.Events) error {
		if pages++; pages > 4 {
			return errors.New("enough")
		}
		if want := []int{0, 0, 1, 0, 0}[pages]; len(p.Items) != want {
			t.Errorf("page %d has %d events, want %d", pages, len(p.Items), want)
		}
		return nil
	})
	if err == nil || pages != 5 {
		t.Errorf("%d pages: %v", pages, err)
	}
	fault = func(c calendarfake.Call) calendarfake.Fault {
		if c.Method == "events.list" && c.Page == 2 {
			return calendarfake.Fault{Status: 403, Reason: "rateLimitExceeded"}
		}
		return calendarfake.Fault{}
	}
	pages = 0
	err = w.client.Events.List("demo").MaxResults(1).Pages(t.Context(), func(*gcal.Events) error { pages++; return nil })
	if code(err) != 403 || reason(err) != "rateLimitExceeded" || pages != 1 {
		t.Errorf("after %d pages: %v", pages, err)
	}
	fault = func(c calendarfake.Call) calendarfake.Fault {
		if c.Method == "events.watch" {
			return calendarfake.Fault{Status: 500, Lost: true, SyncFirst: true}
		}
		return calendarfake.Fault{}
	}
	if _, err := w.client.Events.Watch("demo", watchable()).Do(); code(err) != 500 {
		t.Errorf("a lost answer: %v", err)
	}
	if diff := cmp.Diff([]string{"sync 1"}, w.states()); diff != "" || len(w.Channels("demo")) != 1 {
		t.Errorf("(-want +got)\n%s, channels %v", diff, w.Channels("demo"))
	}
}

// Run sends what is queued while it runs.
func TestRun(t *testing.T) {
	t.Parallel()
	got := make(chan string, 8)
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("X-Goog-Resource-State")
	}))
	defer receiver.Close()
	s := calendarfake.New(&calendarfake.Options{Transport: receiver.Client().Transport})
	s.AddCalendar("demo")
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { s.Run(ctx); close(ran) }()
	server := httptest.NewServer(s)
	defer server.Close()
	client, err := gcal.NewService(ctx, option.WithEndpoint(server.URL), option.WithHTTPClient(server.Client()))
	if err != nil {
		t.Fatal(err)
	}
	ch := watchable()
	ch.Address = receiver.URL
	if _, err := client.Events.Watch("demo", ch).Do(); err != nil {
		t.Fatal(err)
	}
	if first := <-got; first != "sync" {
		t.Errorf("the first is %q", first)
	}
	if _, err := s.Insert("demo", calendarfake.Event{
		"start": map[string]any{"date": "2026-12-01"}, "end": map[string]any{"date": "2026-12-02"},
	}); err != nil {
		t.Fatal(err)
	}
	if second := <-got; second != "exists" {
		t.Errorf("the second is %q", second)
	}
	cancel()
	<-ran
}

// TestOpen restarts a stand-in that keeps what it has in a file.
func TestOpen(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "google.json")
	open := func() (*calendarfake.Server, *gcal.Service) {
		s, err := calendarfake.Open(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		client, err := gcal.NewService(t.Context(), option.WithEndpoint(server.URL), option.WithHTTPClient(server.Client()))
		if err != nil {
			t.Fatal(err)
		}
		return s, client
	}
	s, client := open()
	s.AddCalendar("demo")
	e := calendarfake.Event{"summary": "kept", "start": map[string]any{"date": "2026-12-01"}, "end": map[string]any{"date": "2026-12-02"}}
	added, err := s.Insert("demo", e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Events.Watch("demo", watchable()).Do(); err != nil {
		t.Fatal(err)
	}
	list, err := client.Events.List("demo").Do()
	if err != nil {
		t.Fatal(err)
	}

	s, client = open()
	if got, err := s.Event("demo", added["id"].(string)); err != nil || !cmp.Equal(got, added) {
		t.Errorf("kept %v %v", got, err)
	}
	if got := s.Channels("demo"); len(got) != 1 || got[0].Token != "secret" {
		t.Errorf("channels %+v", got)
	}
	if _, err := client.Events.Watch("demo", watchable()).Do(); reason(err) != "channelIdNotUnique" {
		t.Errorf("the same channel again: %v", err)
	}
	if again, err := client.Events.List("demo").SyncToken(list.NextSyncToken).Do(); err != nil || len(again.Items) != 0 {
		t.Errorf("the list after the restart has %+v %v", again, err)
	}
	if err := s.Delete("demo", added["id"].(string)); err != nil {
		t.Fatal(err)
	}
	if s, _ = open(); len(s.Events("demo")) != 0 {
		t.Error("a deletion was not kept")
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := calendarfake.Open(file, nil); err == nil {
		t.Error("a damaged file was opened")
	}
}
