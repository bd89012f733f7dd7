package calendarfake_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"

	"example.com/pushinbox/local/calendarfake"
)

func dateTime(s string) *gcal.EventDateTime {
	return &gcal.EventDateTime{DateTime: s, TimeZone: "Europe/Zurich"}
}

// weekly is a series on Mondays in Zurich, over the change to summer time.
func weekly() *gcal.Event {
	return &gcal.Event{
		Id: "standup", Summary: "Weekly", Start: dateTime("2027-03-15T09:00:00+01:00"), End: dateTime("2027-03-15T10:00:00+01:00"),
		Recurrence: []string{"RRULE:FREQ=WEEKLY;COUNT=4", "EXDATE;TZID=Europe/Zurich:20270322T090000"},
	}
}

// starts returns the starts of the events of a list, those that are cancelled with a
// minus and the original start.
func (l listed) starts() []string {
	var s []string
	for _, e := range l.items {
		switch {
		case e.Status == "cancelled" && e.OriginalStartTime == nil:
			s = append(s, "-"+e.Id)
		case e.Status == "cancelled":
			s = append(s, "-"+e.OriginalStartTime.DateTime)
		default:
			s = append(s, e.Start.DateTime+e.Start.Date)
		}
	}
	return s
}

// all is list for lists that have no sync token.
func (w *world) all(t *testing.T, call *gcal.EventsListCall) listed {
	t.Helper()
	var l listed
	if err := call.Pages(t.Context(), func(page *gcal.Events) error {
		l.pages++
		l.items = append(l.items, page.Items...)
		l.syncToken = page.NextSyncToken
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSingleEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	w.insert(t, weekly())
	w.insert(t, &gcal.Event{Summary: "Once", Start: dateTime("2027-03-29T08:00:00+02:00"), End: dateTime("2027-03-29T08:30:00+02:00")})
	w.insert(t, &gcal.Event{Summary: "Days", Start: &gcal.EventDateTime{Date: "2027-03-15"}, End: &gcal.EventDateTime{Date: "2027-03-16"}, Recurrence: []string{"RRULE:FREQ=DAILY;UNTIL=20270316"}})
	list := func() *gcal.EventsListCall { return w.client.Events.List("demo").SingleEvents(true) }
	byStart := w.all(t, list().OrderBy("startTime").MaxResults(2))
	if diff := cmp.Diff([]string{
		"2027-03-15", "2027-03-15T09:00:00+01:00", "2027-03-16", "2027-03-29T08:00:00+02:00", "2027-03-29T09:00:00+02:00", "2027-04-05T09:00:00+02:00",
	}, byStart.starts()); diff != "" || byStart.pages != 3 || byStart.syncToken != "" {
		t.Errorf("by start, on %d pages, with the sync token %q: %s", byStart.pages, byStart.syncToken, diff)
	}
	for _, e := range byStart.items {
		if e.RecurringEventId == "standup" && (e.Recurrence != nil || e.Id != "standup_"+e.Id[8:] || e.OriginalStartTime == nil || !strings.HasSuffix(e.Id, "Z")) {
			t.Errorf("an instance is %+v", e)
		}
	}
	for name, c := range map[string]struct {
		call *gcal.EventsListCall
		want []string
	}{
		// An end at timeMin, and a start at timeMax, are outside.
		"window":         {list().OrderBy("startTime").TimeMin("2027-03-29T08:30:00+02:00").TimeMax("2027-04-05T07:00:00Z"), []string{"2027-03-29T09:00:00+02:00"}},
		"under_way":      {list().OrderBy("startTime").TimeMin("2027-03-29T09:59:59+02:00"), []string{"2027-03-29T09:00:00+02:00", "2027-04-05T09:00:00+02:00"}},
		"ended":          {list().OrderBy("startTime").TimeMin("2027-03-29T10:00:00+02:00"), []string{"2027-04-05T09:00:00+02:00"}},
		"masters":        {w.client.Events.List("demo").TimeMin("2027-04-05T00:00:00Z"), []string{"2027-03-15T09:00:00+01:00"}},
		"no_masters":     {w.client.Events.List("demo").TimeMin("2027-04-06T00:00:00Z"), nil},
		"not_yet":        {w.client.Events.List("demo").TimeMax("2027-03-15T00:00:00Z"), nil},
		"words":          {w.client.Events.List("demo").Q("oNCE"), []string{"2027-03-29T08:00:00+02:00"}},
		"other_zone":     {w.client.Events.List("demo").Q("once").TimeZone("UTC"), []string{"2027-03-29T06:00:00Z"}},
		"of_no_type":     {w.client.Events.List("demo").EventTypes("focusTime"), nil},
		"updated_later":  {w.client.Events.List("demo").UpdatedMin("2027-01-01T00:00:00Z"), nil},
		"by_last_change": {w.client.Events.List("demo").OrderBy("updated").Q("s"), []string{"2027-03-15"}},
	} {
		if diff := cmp.Diff(c.want, w.all(t, c.call).starts()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name, call := range map[string]*gcal.EventsListCall{
		"order_of_series": w.client.Events.List("demo").OrderBy("startTime"),
		"unknown_order":   list().OrderBy("summary"),
		"empty_range":     list().TimeMin("2027-01-01T00:00:00Z").TimeMax("2027-01-01T00:00:00Z"),
		"no_offset":       list().TimeMin("2027-01-01T00:00:00"),
		"unknown_zone":    list().TimeZone("Mars"),
	} {
		if _, err := call.Do(); code(err) != http.StatusBadRequest {
			t.Errorf("%s: answered %v", name, err)
		}
	}
}

// TestSyncOfInstances has a mirror of single instances follow what happens to a series.
func TestSyncOfInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	w.insert(t, weekly())
	list := func() *gcal.EventsListCall { return w.client.Events.List("demo").SingleEvents(true) }
	mirror := make(map[string]string)
	token := ""
	sync := func() {
		t.Helper()
		call := list().SyncToken(token)
		if token == "" {
			call = list().TimeMin("2027-03-16T00:00:00Z")
		}
		l := w.list(t, call)
		for _, e := range l.items {
			delete(mirror, e.Id)
			if e.Status != "cancelled" {
				mirror[e.Id] = e.Summary + " " + e.Start.DateTime
			}
		}
		token = l.syncToken
	}
	same := func(what string) {
		t.Helper()
		sync()
		want := make(map[string]string)
		for _, e := range w.all(t, list().TimeMin("2027-03-16T00:00:00Z")).items {
			want[e.Id] = e.Summary + " " + e.Start.DateTime
		}
		if diff := cmp.Diff(want, mirror); diff != "" {
			t.Errorf("after %s: %s", what, diff)
		}
	}
	same("the first sync")
	edit := func(id string, e *gcal.Event) {
		t.Helper()
		if _, err := w.client.Events.Patch("demo", id, e).Do(); err != nil {
			t.Fatal(err)
		}
	}
	edit("standup", &gcal.Event{Summary: "Renamed"})
	same("a new name")
	edit("standup_20270329T070000Z", &gcal.Event{Start: dateTime("2027-03-30T09:00:00+02:00"), End: dateTime("2027-03-30T10:00:00+02:00")})
	same("a moved instance")
	edit("standup_20270405T070000Z", &gcal.Event{Status: "cancelled"})
	same("a cancelled instance")
	edit("standup", &gcal.Event{Recurrence: []string{"RRULE:FREQ=WEEKLY;BYDAY=TU;COUNT=3"}})
	same("another weekday")
	if mirror["standup_20270329T070000Z"] != "Renamed 2027-03-30T09:00:00+02:00" || len(mirror) < 3 {
		t.Errorf("the mirror is %v", mirror)
	}
	edit("standup", &gcal.Event{Recurrence: []string{"RRULE:FREQ=WEEKLY;COUNT=2"}})
	same("fewer instances")
	if err := w.client.Events.Delete("demo", "standup").Do(); err != nil {
		t.Fatal(err)
	}
	same("the end")
	if len(mirror) != 0 {
		t.Errorf("the mirror has %v", mirror)
	}
	added := w.insert(t, &gcal.Event{Start: dateTime("2027-03-29T08:00:00+02:00"), End: dateTime("2027-03-29T08:30:00+02:00")})
	same("a single event")
	edit(added.Id, &gcal.Event{Recurrence: []string{"RRULE:FREQ=DAILY;COUNT=2"}})
	same("a series of a single event")
	edit(added.Id, &gcal.Event{NullFields: []string{"Recurrence"}})
	same("a single event of a series")
}

func TestInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	w.insert(t, weekly())
	if _, err := w.client.Events.Patch("demo", "standup_20270329T070000Z", &gcal.Event{Summary: "Moved", Start: dateTime("2027-03-30T09:00:00+02:00"), End: dateTime("2027-03-30T10:00:00+02:00")}).Do(); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Events.Delete("demo", "standup_20270405T070000Z").Do(); err != nil {
		t.Fatal(err)
	}
	read := func(call *gcal.EventsInstancesCall) (l listed) {
		t.Helper()
		if err := call.Pages(t.Context(), func(page *gcal.Events) error { l.items = append(l.items, page.Items...); return nil }); err != nil {
			t.Fatal(err)
		}
		return l
	}
	instances := func() *gcal.EventsInstancesCall { return w.client.Events.Instances("demo", "standup") }
	for name, c := range map[string]struct {
		call *gcal.EventsInstancesCall
		want []string
	}{
		"all":      {instances().MaxResults(1), []string{"2027-03-15T09:00:00+01:00", "2027-03-30T09:00:00+02:00"}},
		"deleted":  {instances().ShowDeleted(true), []string{"2027-03-15T09:00:00+01:00", "2027-03-30T09:00:00+02:00", "-2027-04-05T09:00:00+02:00"}},
		"original": {instances().OriginalStart("2027-03-29T07:00:00Z"), []string{"2027-03-30T09:00:00+02:00"}},
		"window":   {instances().TimeMax("2027-03-16T00:00:00Z"), []string{"2027-03-15T09:00:00+01:00"}},
	} {
		if diff := cmp.Diff(c.want, read(c.call).starts()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	single := w.insert(t, &gcal.Event{})
	if _, err := w.client.Events.Instances("demo", single.Id).Do(); code(err) != 400 {
		t.Errorf("of a single event: %v", err)
	}
	if _, err := w.client.Events.Get("demo", "standup_20270322T080000Z").Do(); code(err) != 404 {
		t.Errorf("an instance that is left out: %v", err)
	}
	if _, err := w.client.Events.Get("demo", "standup_20270316T080000Z").Do(); code(err) != 404 {
		t.Errorf("an instance of no day of the series: %v", err)
	}
}

func TestRecurrences(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	for rule, want := range map[string]int{
		"RRULE:FREQ=DAILY": 732, "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30": -1, "RDATE;VALUE=DATE:20270101,20270105": 2,
		"RRULE:FREQ=HOURLY": -1, "RRULE:FREQ=DAILY;COUNT=x": -1, "EXRULE:FREQ=DAILY": -1, "DTSTART:20260101T000000Z": -1, "daily": -1, "": -1,
	} {
		e := &gcal.Event{Start: &gcal.EventDateTime{Date: "2026-11-23"}, End: &gcal.EventDateTime{Date: "2026-11-24"}, Recurrence: []string{rule}}
		added, err := w.client.Events.Insert("demo", e).Do()
		if want < 0 {
			if code(err) != 400 {
				t.Errorf("%s: %v", rule, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", rule, err)
		}
		page, err := w.client.Events.Instances("demo", added.Id).MaxResults(2500).Do()
		if err != nil || len(page.Items) != want {
			t.Errorf("%s: %d instances, %v; want %d", rule, len(page.Items), err, want)
		}
	}
	_, err := w.client.Events.Insert("demo", &gcal.Event{Start: &gcal.EventDateTime{Date: "2026-11-23"}, End: &gcal.EventDateTime{Date: "2026-11-24"}, Recurrence: []string{"RRULE:FREQ=DAILY", "RRULE:FREQ=WEEKLY"}}).Do()
	if code(err) != 400 {
		t.Errorf("two rules: %v", err)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	added := w.insert(t, &gcal.Event{Summary: "a", Location: "here"})
	changed := &gcal.Event{Summary: "b", Start: added.Start, End: added.End, Etag: "mine"}
	updated, err := w.client.Events.Update("demo", added.Id, changed).Do()
	if err != nil || updated.Summary != "b" || updated.Location != "" || updated.ICalUID != added.ICalUID || updated.Created != added.Created || updated.Etag == added.Etag || updated.Etag == "mine" {
		t.Errorf("updated %+v, %v", updated, err)
	}
	stale := w.client.Events.Update("demo", added.Id, changed)
	stale.Header().Set("If-Match", added.Etag)
	if _, err := stale.Do(); code(err) != http.StatusPreconditionFailed || !googleapi.IsNotModified(err) && reason(err) != "conditionNotMet" {
		t.Errorf("of an older one: %v", err)
	}
	fresh := w.client.Events.Update("demo", added.Id, &gcal.Event{Summary: "c", Start: dateTime("2027-01-01T09:00:00+01:00"), End: dateTime("2027-01-01T10:00:00+01:00")})
	fresh.Header().Set("If-Match", updated.Etag)
	moved, err := fresh.Do()
	if err != nil || moved.Sequence != 1 {
		t.Errorf("of the current one: %+v, %v", moved, err)
	}
	for name, e := range map[string]*gcal.Event{
		"no_times":     {Summary: "x"},
		"old_sequence": {Start: added.Start, End: added.End, ForceSendFields: []string{"Sequence"}},
	} {
		if _, err := w.client.Events.Update("demo", added.Id, e).Do(); code(err) != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.client.Events.Update("demo", "nowhere", changed).Do(); code(err) != 404 {
		t.Errorf("of none: %v", err)
	}
	if err := w.client.Events.Delete("demo", added.Id).Do(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Events.Update("demo", added.Id, changed).Do(); code(err) != http.StatusGone {
		t.Errorf("of a deleted one: %v", err)
	}
	changed.Status = "confirmed"
	if again, err := w.client.Events.Update("demo", added.Id, changed).Do(); err != nil || again.Status != "confirmed" {
		t.Errorf("brought back as %+v, %v", again, err)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	e := &gcal.Event{
		Id: "ignored1", ICalUID: "x@example.com", Summary: "a", Start: dateTime("2027-01-01T09:00:00+01:00"), End: dateTime("2027-01-01T10:00:00+01:00"),
		Organizer: &gcal.EventOrganizer{Email: "somebody@example.com"},
	}
	first, err := w.client.Events.Import("demo", e).Do()
	if err != nil || first.ICalUID != e.ICalUID || first.Organizer.Email != "somebody@example.com" || first.Id == e.Id {
		t.Fatalf("imported %+v, %v", first, err)
	}
	e.Summary = "b"
	second, err := w.client.Events.Import("demo", e).Do()
	if err != nil || second.Id != first.Id || second.Summary != "b" {
		t.Errorf("imported again: %+v, %v", second, err)
	}
	if l := w.all(t, w.client.Events.List("demo").ICalUID("x@example.com")); len(l.items) != 1 {
		t.Errorf("by its UID: %v", l.items)
	}
	e.ICalUID = ""
	if _, err := w.client.Events.Import("demo", e).Do(); code(err) != 400 {
		t.Errorf("without a UID: %v", err)
	}
}

func TestMoveAndQuickAdd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	w.AddCalendar("other")
	w.insert(t, weekly())
	if _, err := w.client.Events.Patch("demo", "standup_20270329T070000Z", &gcal.Event{Summary: "x"}).Do(); err != nil {
		t.Fatal(err)
	}
	token := w.list(t, w.client.Events.List("demo")).syncToken
	moved, err := w.client.Events.Move("demo", "standup", "other").Do()
	if err != nil || moved.Id != "standup" || moved.Organizer.Email != "other" {
		t.Fatalf("moved %+v, %v", moved, err)
	}
	if diff := cmp.Diff([]string{"-standup", "-2027-03-29T09:00:00+02:00"}, w.list(t, w.client.Events.List("demo").SyncToken(token)).starts()); diff != "" {
		t.Error(diff)
	}
	if l := w.list(t, w.client.Events.List("other")); len(l.items) != 2 || len(w.Events("demo")) != 0 {
		t.Errorf("moved %v", l.items)
	}
	for name, err := range map[string]error{
		"instance": func() error {
			_, err := w.client.Events.Move("other", "standup_20270329T070000Z", "demo").Do()
			return err
		}(),
		"same": func() error { _, err := w.client.Events.Move("other", "standup", "other").Do(); return err }(),
	} {
		if code(err) != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.client.Events.Move("other", "standup", "nowhere").Do(); code(err) != 404 {
		t.Errorf("to nowhere: %v", err)
	}
	added, err := w.client.Events.QuickAdd("demo", "Lunch with Ann").Do()
	if err != nil || added.Summary != "Lunch with Ann" || added.Start.DateTime != "2026-11-23T10:00:00Z" || added.End.DateTime != "2026-11-23T11:00:00Z" {
		t.Errorf("added %+v, %v", added, err)
	}
	if _, err := w.client.Events.QuickAdd("demo", "").Do(); code(err) != 400 {
		t.Errorf("nothing added: %v", err)
	}
}

func TestCalendars(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{Primary: "me@example.com"})
	w.AddCalendar("primary")
	c, err := w.client.Calendars.Get("primary").Do()
	if err != nil || c.Id != "me@example.com" || c.Summary == "" || c.TimeZone != "UTC" {
		t.Errorf("%+v, %v", c, err)
	}
	entry, err := w.client.CalendarList.Get("primary").Do()
	if err != nil || !entry.Primary || entry.AccessRole != "owner" {
		t.Errorf("%+v, %v", entry, err)
	}
	if _, err := w.client.CalendarList.Get("nobody").Do(); code(err) != 404 {
		t.Errorf("of nobody: %v", err)
	}
	if _, err := w.client.Events.Insert("primary", &gcal.Event{Id: "event1", Start: dateTime("2027-01-01T09:00:00+01:00"), End: dateTime("2027-01-01T10:00:00+01:00")}).Do(); err != nil {
		t.Fatal(err)
	}
	if e, err := w.client.Events.Get("me@example.com", "event1").Do(); err != nil || e.Organizer.Email != "me@example.com" {
		t.Errorf("%+v, %v", e, err)
	}
	// A token of "primary" is one of the calendar.
	if _, err := w.client.Events.List("me@example.com").SyncToken(w.list(t, w.client.Events.List("primary")).syncToken).Do(); err != nil {
		t.Error(err)
	}
	var ids []string
	watched, err := w.client.CalendarList.Watch(watchable()).Do()
	if err != nil || watched.ResourceUri != "https://www.googleapis.com/calendar/v3/users/me/calendarList?alt=json" {
		t.Fatalf("%+v, %v", watched, err)
	}
	w.AddCalendar("another")
	w.settle()
	if len(w.got) != 2 || !strings.HasPrefix(w.states()[1], "exists ") {
		t.Errorf("notified of %v", w.states())
	}
	if err := w.client.CalendarList.List().MaxResults(2).Pages(t.Context(), func(page *gcal.CalendarList) error {
		for _, c := range page.Items {
			ids = append(ids, fmt.Sprint(c.Id, c.Primary))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"anotherfalse", "demofalse", "me@example.comtrue"}, ids); diff != "" {
		t.Error(diff)
	}
	if err := w.client.Channels.Stop(watched).Do(); err != nil {
		t.Error(err)
	}
}

// TestNamesWhatIsMissing calls what Google has and the stand-in does not.
func TestNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	_, missing := w.client.Freebusy.Query(&gcal.FreeBusyRequest{}).Do()
	if code(missing) != 404 || !strings.Contains(missing.Error(), "does not have POST /freeBusy") {
		t.Errorf("free/busy: %v", missing)
	}
	for query, want := range map[string]string{
		"maxAttendees=1": "does not know maxAttendees", "alt=media": "does not know alt=media", "conferenceDataVersion=1": "does not make conferences", "callback=f": "does not know callback",
	} {
		r := httptest.NewRequest("GET", "/calendars/demo/events?"+query, nil)
		rec := httptest.NewRecorder()
		if w.ServeHTTP(rec, r); rec.Code != 400 || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: answered %d %s", query, rec.Code, rec.Body)
		}
	}
}

// TestWithheldBody has a client begin a call and send no body: nobody else waits for it.
func TestWithheldBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	body, more := io.Pipe()
	read := make(chan struct{})
	withheld := make(chan int)
	go func() {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest("POST", "/calendars/demo/events", io.MultiReader(&reads{read}, body)))
		withheld <- rec.Code
	}()
	<-read
	if _, err := w.client.Events.List("demo").Context(t.Context()).Do(); err != nil {
		t.Error(err)
	}
	more.CloseWithError(io.ErrUnexpectedEOF)
	if code := <-withheld; code != 400 {
		t.Errorf("a body that ends early is answered %d", code)
	}
}

// reads is empty, and says when it is read.
type reads struct{ read chan struct{} }

func (r *reads) Read([]byte) (int, error) {
	close(r.read)
	return 0, io.EOF
}

func TestFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	w.insert(t, &gcal.Event{Summary: "a", Location: "here"})
	for fields, want := range map[string]string{
		"items(summary,start/dateTime),timeZone": `{"items":[{"start":{"dateTime":"2026-12-01T09:00:00Z"},"summary":"a"}],"timeZone":"UTC"}`,
		"items/summary,items/location":           `{"items":[{"location":"here","summary":"a"}]}`,
		"items(start(*),summary)":                `{"items":[{"start":{"dateTime":"2026-12-01T09:00:00Z"},"summary":"a"}]}`,
		"*/summary":                              `{"items":[{"summary":"a"}]}`,
		"items(":                                 "", "items)": "", ",": "", "items//a": "", strings.Repeat("a/", 100): "", "a(b)c": "",
	} {
		page, err := w.client.Events.List("demo").Fields(googleapi.Field(fields)).Do()
		if want == "" {
			if code(err) != 400 {
				t.Errorf("%s: %v", fields, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(page)
		if diff := cmp.Diff(want, string(got)); diff != "" && fields != "*/summary" {
			t.Errorf("%s: %s", fields, diff)
		}
	}
}

// TestHostileRules has rules that are costly to expand.
func TestHostileRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, calendarfake.Options{})
	for rule, first := range map[string]string{
		"RRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=31": "2026-01-01",
		"RRULE:FREQ=DAILY":                         "0001-01-01",
		"RRULE:FREQ=DAILY;BYHOUR=0,1,2,3;BYMINUTE=0,1,2,3,4,5,6,7,8,9;BYSECOND=1,2,3,4,5,6,7,8,9;COUNT=999999999": "2026-11-01",
	} {
		at := map[string]any{"date": first}
		if _, err := w.Insert("demo", calendarfake.Event{"start": at, "end": at, "recurrence": []string{rule}}); (code(err) == 400) != strings.Contains(rule, "31") {
			t.Errorf("%s: %v", rule, err)
		}
	}
	page, err := w.client.Events.List("demo").SingleEvents(true).MaxResults(2500).Do()
	if err != nil || len(page.Items) != 2500 {
		t.Fatalf("%d items, %v", len(page.Items), err)
	}
}
