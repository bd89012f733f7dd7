// Package calendarfake is a stand-in for Google Calendar, for local runs and
// tests only: calendars whose events can be edited, listed by sync token and
// watched. On request it injects the faults of production.
//
// A Server is an http.Handler with the paths of the REST API v3 that follow a client's
// endpoint, and requires no credential:
//
//   - events: list, get, insert, import, update, patch, delete, move, quickAdd,
//     instances, watch
//   - calendars: get; calendarList: list, get, watch
//   - channels: stop
//
// What else Google has is answered 404, and a parameter that is not known 400, each by
// name.
//
// # What it does as documented
//
// Lists: the sync token is on the last page only. An expired token is 410. Parameters
// that are not allowed with a token, or differ from those of the list that returned
// it, are 400. Deleted events are listed as "cancelled", in an incremental list
// always and in a full list with showDeleted. A moved or cancelled instance of a
// series is an event of its own. A cancelled one has only id, recurringEventId,
// originalStartTime and status, and is in every list while the series exists.
// singleEvents expands series, and timeMin, timeMax, updatedMin, q, iCalUID,
// eventTypes and extended properties choose events. orderBy=startTime requires
// singleEvents. A list that is ordered, or chooses by more than time, has no sync token.
//
// Edits: If-Match is obeyed. A series that is changed loses the instances that its new
// recurrence does not have, and an incremental list with singleEvents says so.
//
// Channels: IDs are unique, the resource ID of a calendar is stable, the earlier of
// the requested and the server's own expiry applies, and the token is returned.
//
// Notifications: they have no body. The first is "sync" with number 1, the others have
// larger but not consecutive numbers. Only 500, 502, 503 and 504 are retried, with
// exponential backoff.
//
// # What is decided here, because the documentation is silent
//
//   - Lists are in the order of the last change. An event that changes while pages
//     are read moves to the end, so it may be listed twice, and once more in the next
//     incremental list, but is never missed.
//   - A deleted event that is not an instance has only id, status, etag, updated
//     and kind. Deleting a series also cancels its stored instances.
//   - Every edit changes etag and updated, even one that changes nothing else.
//   - A series without an end is expanded for two years from now, or from timeMin, and
//     a series for at most 10,000 instances.
//   - quickAdd makes the text the summary of an event of the next whole hour: it does
//     not read times in it.
//   - A notification is retried after 1 s, then after twice the time before, at most
//     8 times and while its channel is live; no answer counts as 503.
//   - A channel expires after a week unless Options say otherwise.
//
// # Limits
//
// Every calendar belongs to one user, in UTC. Nobody is sent mail. Colours, settings,
// access lists and free/busy are missing, and calendars are created by AddCalendar only.
package calendarfake

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a machine may have no time zones

	"google.golang.org/api/googleapi"

	"example.com/pushinbox/local/timedqueue"
)

// Event is an event as the API's JSON has it. The objects and lists in it are shared
// with the Server and must not be changed.
type Event map[string]any

// Options holds the optional settings of New and Open.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Primary is the ID of the calendar that clients may call "primary"; empty means
	// that there is none.
	Primary string
	// Transport sends the notifications; nil means one that uses no proxy. It
	// may call the Server.
	Transport http.RoundTripper
	// ChannelTTL is the longest time to a channel's expiry; 0 means a week.
	ChannelTTL time.Duration
	// Fault returns what goes wrong with an API call. The zero Fault is nothing.
	Fault func(Call) Fault
	// NotificationFault returns what goes wrong with a notification. The zero
	// NotificationFault is nothing.
	NotificationFault func(Notification) NotificationFault
}

// Call describes a call of the API before it is executed.
type Call struct {
	// Method is the name in Google's documentation, such as events.list.
	Method string
	// CalendarID is as in the path, and empty for channels.stop and for lists of
	// calendars.
	CalendarID string
	// Page counts the pages of a list from 1; 0 for other methods.
	Page int
	// Incremental is true for a list with a sync token.
	Incremental bool
}

// Fault is what goes wrong with one call.
type Fault struct {
	// Status, if not 0, is the answer's status, with this Reason, such as 403 and
	// rateLimitExceeded or 410 and fullSyncRequired. The call has no effect.
	Status int
	Reason string
	// Lost executes the call before it answers Status.
	Lost bool
	// Limit, if not 0, is the largest number of events on a page of a list,
	// whatever the request says; below 0 the page is empty, though more pages follow.
	Limit int
	// SyncFirst sends the sync notification before events.watch is answered.
	SyncFirst bool
}

// Server is the stand-in. It is safe for concurrent use.
type Server struct {
	now               func() time.Time
	primary           string
	transport         http.RoundTripper
	channelTTL        time.Duration
	fault             func(Call) Fault
	notificationFault func(Notification) NotificationFault
	mux               *http.ServeMux
	file              string // holds the calendars and channels; empty means memory only
	queue             *timedqueue.Queue[*pending]

	mu        sync.Mutex
	calendars map[string]*calendar
	channels  map[string]*channel // by ID, including those that have ended
}

// calendar is one calendar. Every change has a version of its own, which is at least
// the time of the change in Unix milliseconds.
type calendar struct {
	ID      string
	Version int64
	// Oldest is the version of the oldest sync token that is valid.
	Oldest int64
	Made   int // number of generated event IDs
	Events map[string]*event
}

// event is an event with all its fields; a cancelled one shows only some of them.
// Objects and lists in Body are never changed in place.
type event struct {
	Body    Event
	Version int64
	// Lost has the instances that a series had before it was changed, by ID.
	Lost map[string]*event `json:",omitempty"`
}

// New returns a Server without calendars, in memory. Nothing is sent before Run
// or Deliver is called.
func New(o *Options) *Server {
	if o == nil {
		o = &Options{}
	}
	s := &Server{
		now:               o.Now,
		primary:           o.Primary,
		transport:         o.Transport,
		channelTTL:        o.ChannelTTL,
		fault:             o.Fault,
		notificationFault: o.NotificationFault,
		calendars:         make(map[string]*calendar),
		channels:          make(map[string]*channel),
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.transport == nil {
		s.transport = &http.Transport{}
	}
	if s.channelTTL == 0 {
		s.channelTTL = 7 * 24 * time.Hour
	}
	if s.fault == nil {
		s.fault = func(Call) Fault { return Fault{} }
	}
	if s.notificationFault == nil {
		s.notificationFault = func(Notification) NotificationFault { return NotificationFault{} }
	}
	s.queue = timedqueue.New[*pending](s.now)
	s.routes()
	return s
}

// AddCalendar creates an empty calendar, unless one with this ID exists.
func (s *Server) AddCalendar(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id = s.resolve(id); s.calendars[id] != nil {
		return
	}
	s.calendars[id] = &calendar{ID: id, Events: make(map[string]*event)}
	s.notify("", s.now().UnixMilli())
}

// resolve returns the ID of a calendar that may be called "primary".
func (s *Server) resolve(id string) string {
	if id == "primary" && s.primary != "" {
		return s.primary
	}
	return id
}

func resourceID(id string) string {
	sum := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(sum[:20])
}

// Insert adds an event to a calendar and notifies its channels. It sets the fields that
// only Google sets, and an ID when e has none. It fails with a *googleapi.Error, as do
// Patch and Delete.
func (s *Server) Insert(calendarID string, e Event) (Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.calendar(calendarID)
	if err != nil {
		return nil, err
	}
	return s.insert(c, e)
}

// insert is Insert. It keeps the fields named by keep too. The caller holds s.mu.
func (s *Server) insert(c *calendar, e Event, keep ...string) (Event, error) {
	body, err := normal(e)
	if err != nil {
		return nil, err
	}
	id, _ := body["id"].(string)
	if id == "" {
		c.Made++
		sum := sha256.Sum256(fmt.Append(nil, c.ID, c.Made, s.now().UnixNano()))
		id = strings.ToLower(base32.HexEncoding.EncodeToString(sum[:])[:26])
	}
	switch {
	case len(id) > maxEventID || !eventID.MatchString(id):
		return nil, invalid("Invalid resource id value.")
	case c.Events[id] != nil:
		return nil, apiError(http.StatusConflict, "duplicate", "The requested identifier already exists.")
	}
	for _, name := range readOnly {
		if !slices.Contains(keep, name) {
			delete(body, name)
		}
	}
	if err := check(body); err != nil {
		return nil, err
	}
	added := &event{Body: Event{
		"kind":      "calendar#event",
		"id":        id,
		"status":    "confirmed",
		"created":   s.now().UTC().Format(timestamp),
		"iCalUID":   id + "@google.com",
		"htmlLink":  "https://www.google.com/calendar/event?eid=" + id,
		"creator":   self(c),
		"organizer": self(c),
		"sequence":  0.0,
		"eventType": "default",
	}}
	maps.Copy(added.Body, body)
	added.Body["id"] = id
	c.Events[id] = added
	s.changed(c, added)
	s.notify(c.ID, c.Version)
	return added.item(), s.save()
}

// self is the owner of a calendar.
func self(c *calendar) map[string]any { return map[string]any{"email": c.ID, "self": true} }

// imports adds a private copy of an event, or changes the one that is there. The
// caller holds s.mu.
func (s *Server) imports(c *calendar, e Event) (Event, error) {
	uid, _ := e["iCalUID"].(string)
	if uid == "" {
		return nil, apiError(http.StatusBadRequest, "required", "Missing iCalUID.")
	}
	for id, old := range c.Events {
		if old.Body["iCalUID"] == uid && old.master() == "" {
			return s.edit(c.ID, id, "", func(before Event) (Event, error) { return replaced(before, e, "organizer") })
		}
	}
	delete(e, "id")
	return s.insert(c, e, "iCalUID", "organizer", "sequence")
}

// Patch merges fields into an event and notifies the calendar's channels: a
// nil value removes a field, objects are merged, lists are replaced, and fields that
// only Google sets are ignored. The ID of a series followed by an original start
// (ID_20261123T090000Z or ID_20261123) names one instance, which becomes an event of
// its own. {"status": "cancelled"} deletes an event, and {"status": "confirmed"}
// restores it.
func (s *Server) Patch(calendarID, id string, fields Event) (Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.edit(calendarID, id, "", func(old Event) (Event, error) { return patched(old, fields) })
}

func patched(old, fields Event) (Event, error) {
	fields, err := normal(fields)
	if err != nil {
		return nil, err
	}
	for _, name := range append(readOnly, "id") {
		delete(fields, name)
	}
	status, _ := fields["status"].(string)
	if old["status"] == cancelled && status == "" {
		return nil, errDeleted()
	}
	return merge(old, fields), nil
}

// replaced returns fields as the new body of an event. What only Google sets stays as
// it is, but for the fields named by keep.
func replaced(old, fields Event, keep ...string) (Event, error) {
	body, err := normal(fields)
	if err != nil {
		return nil, err
	}
	sequence, _ := old["sequence"].(float64)
	if given, ok := body["sequence"].(float64); ok && given < sequence {
		return nil, invalid("Invalid sequence value. The specified sequence number is below the current sequence number of the resource. Re-fetch the resource and use its sequence number on the following request.")
	}
	for _, name := range append(readOnly, "id", "eventType") {
		if body[name] != nil && slices.Contains(keep, name) {
			continue
		}
		delete(body, name)
		if old[name] != nil {
			body[name] = old[name]
		}
	}
	if body["status"] == nil {
		body["status"] = "confirmed"
		if old["status"] == cancelled {
			return nil, errDeleted()
		}
	}
	return body, nil
}

// edit has an event have the body that change returns for the old one, and notifies.
// match, unless empty, is what If-Match says. The caller holds s.mu.
func (s *Server) edit(calendarID, id, match string, change func(Event) (Event, error)) (Event, error) {
	c, e, err := s.find(calendarID, id)
	if err != nil {
		return nil, err
	}
	if match != "" && match != "*" && match != e.Body["etag"] {
		return nil, apiError(http.StatusPreconditionFailed, "conditionNotMet", "Precondition Failed")
	}
	body, err := change(e.Body)
	if err != nil {
		return nil, err
	}
	master := c.Events[e.master()]
	if e.cancelled() && (body["status"] == cancelled || master != nil && master.cancelled()) {
		return nil, errDeleted()
	}
	if err := check(body); err != nil {
		return nil, err
	}
	for _, name := range []string{"start", "end", "recurrence"} {
		if fmt.Sprint(body[name]) != fmt.Sprint(e.Body[name]) {
			sequence, _ := body["sequence"].(float64)
			body["sequence"] = sequence + 1
			break
		}
	}
	after := &event{Body: body, Lost: e.Lost}
	s.store(c, after)
	s.lose(c, e, after)
	return after.item(), s.save()
}

// lose remembers the instances of a series that a change of it has ended. The caller
// holds s.mu.
func (s *Server) lose(c *calendar, before, after *event) {
	if after.cancelled() || before.Body["recurrence"] == nil && after.Body["recurrence"] == nil || fmt.Sprint(before.Body["recurrence"], before.Body["start"]) == fmt.Sprint(after.Body["recurrence"], after.Body["start"]) {
		return
	}
	after.Lost = maps.Clone(after.Lost)
	if after.Lost == nil {
		after.Lost = make(map[string]*event)
	}
	end := s.now().AddDate(horizon, 0, 0)
	has := make(map[string]bool)
	for _, at := range after.starts(time.Time{}, end, maxInstances) {
		id := after.instanceID(at)
		has[id] = true
		delete(after.Lost, id)
	}
	for _, at := range before.starts(time.Time{}, end, maxInstances) {
		if id := before.instanceID(at); !has[id] && c.Events[id] == nil {
			after.lose(before.at(at))
		}
	}
	// An event that does not recur is its own single instance.
	if id := after.Body["id"].(string); after.Body["recurrence"] == nil {
		delete(after.Lost, id)
	} else if before.Body["recurrence"] == nil {
		after.lose(before)
	}
}

// lose remembers an instance, as it is listed from now on.
func (e *event) lose(i *event) {
	body := Event{"status": cancelled}
	for _, name := range []string{"kind", "etag", "id", "updated", "recurringEventId", "originalStartTime", "eventType"} {
		if i.Body[name] != nil {
			body[name] = i.Body[name]
		}
	}
	e.Lost[i.Body["id"].(string)] = &event{Version: e.Version, Body: body}
}

// move moves an event, with the instances of it that are events of their own, to
// another calendar. The caller holds s.mu.
func (s *Server) move(calendarID, id, destination string) (Event, error) {
	from, e, err := s.find(calendarID, id)
	if err != nil {
		return nil, err
	}
	to, err := s.calendar(destination)
	switch {
	case err != nil:
		return nil, err
	case e.cancelled():
		return nil, errDeleted()
	case e.master() != "":
		return nil, apiError(http.StatusBadRequest, "cannotChangeOrganizerOfInstance", "Cannot change the organizer of an instance.")
	case e.Body["eventType"] != "default":
		return nil, invalid("Only events of the type default can be moved.")
	case from == to:
		return nil, apiError(http.StatusBadRequest, "cannotChangeOrganizer", "The event is in this calendar already.")
	case to.Events[id] != nil && !to.Events[id].cancelled():
		return nil, apiError(http.StatusConflict, "duplicate", "The requested identifier already exists.")
	}
	for _, other := range slices.Sorted(maps.Keys(from.Events)) {
		if o := from.Events[other]; o == e || o.master() == id {
			moved := &event{Body: maps.Clone(o.Body)}
			moved.Body["organizer"] = self(to)
			to.Events[other] = moved
			s.changed(to, moved)
		}
	}
	s.notify(to.ID, to.Version)
	gone := &event{Body: maps.Clone(e.Body), Lost: e.Lost}
	gone.Body["status"] = cancelled
	s.store(from, gone)
	return to.Events[id].item(), s.save()
}

// Delete cancels an event, or one instance as Patch names it, and notifies the
// calendar's channels.
func (s *Server) Delete(calendarID, id string) error {
	_, err := s.Patch(calendarID, id, Event{"status": cancelled})
	return err
}

// Event returns an event as events.get does, even a deleted one.
func (s *Server) Event(calendarID, id string) (Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, e, err := s.find(calendarID, id)
	if err != nil {
		return nil, err
	}
	return e.item(), nil
}

// Events returns every event of a calendar that is not deleted, by ID, including the
// instances that are events of their own.
func (s *Server) Events(calendarID string) map[string]Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Event)
	if c := s.calendars[s.resolve(calendarID)]; c != nil {
		for id, e := range c.Events {
			if !e.cancelled() {
				all[id] = e.item()
			}
		}
	}
	return all
}

// Invalidate ends the validity of every token of a calendar, so that the next list with
// one is answered 410. It also removes deleted events, which no full list has any more.
func (s *Server) Invalidate(calendarID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calendars[s.resolve(calendarID)]
	if c == nil {
		return
	}
	maps.DeleteFunc(c.Events, func(_ string, e *event) bool {
		return e.cancelled() && !c.inSeries(e)
	})
	c.Version = max(c.Version+1, s.now().UnixMilli())
	c.Oldest = c.Version
}

// calendar returns the calendar with this ID. The caller holds s.mu.
func (s *Server) calendar(id string) (*calendar, error) {
	if c := s.calendars[s.resolve(id)]; c != nil {
		return c, nil
	}
	return nil, errNotFound()
}

// find returns a stored event, or an instance that is not stored yet. The caller holds
// s.mu.
func (s *Server) find(calendarID, id string) (*calendar, *event, error) {
	c, err := s.calendar(calendarID)
	if err != nil {
		return nil, nil, err
	}
	if e := c.Events[id]; e != nil {
		return c, e, nil
	}
	masterID, start, ok := strings.Cut(id, "_")
	master := c.Events[masterID]
	if !ok || master == nil || master.cancelled() {
		return nil, nil, errNotFound()
	}
	e := master.instance(start)
	if e == nil {
		return nil, nil, errNotFound()
	}
	return c, e, nil
}

// store stores a changed event, cancels the instances of a cancelled series, and
// notifies. The caller holds s.mu.
func (s *Server) store(c *calendar, e *event) {
	id := e.Body["id"].(string)
	c.Events[id] = e
	s.changed(c, e)
	if e.cancelled() {
		// In a fixed order, so that simulations can be repeated.
		for _, other := range slices.Sorted(maps.Keys(c.Events)) {
			if o := c.Events[other]; o.master() == id && !o.cancelled() {
				o.Body["status"] = cancelled
				s.changed(c, o)
			}
		}
	}
	s.notify(c.ID, c.Version)
}

// changed gives an event its new version. The caller holds s.mu.
func (s *Server) changed(c *calendar, e *event) {
	c.Version = max(c.Version+1, s.now().UnixMilli())
	e.Version = c.Version
	e.Body["updated"] = time.UnixMilli(e.Version).UTC().Format(timestamp)
	e.Body["etag"] = fmt.Sprintf("%q", fmt.Sprint(e.Version*2))
}

// inSeries reports whether e is an instance of a series that is not deleted.
func (c *calendar) inSeries(e *event) bool {
	master := c.Events[e.master()]
	return master != nil && !master.cancelled()
}

const (
	cancelled = "cancelled"
	// timestamp is the layout of Google's created and updated.
	timestamp = "2006-01-02T15:04:05.000Z"
)

// readOnly has the fields that only Google sets, except the ID.
var readOnly = []string{
	"created", "creator", "etag", "htmlLink", "iCalUID", "kind", "organizer",
	"originalStartTime", "recurringEventId", "sequence", "updated",
}

// eventID matches a caller's event ID, which has at most maxEventID characters.
var eventID = regexp.MustCompile(`^[a-v0-9]{5,}$`)

const maxEventID = 1024

func (e *event) cancelled() bool { return e.Body["status"] == cancelled }

// master returns the ID of the series that e is an instance of, or "".
func (e *event) master() string {
	id, _ := e.Body["recurringEventId"].(string)
	return id
}

// item returns what the API shows of an event.
func (e *event) item() Event {
	shown := []string{"kind", "etag", "id", "status", "updated"}
	switch {
	case !e.cancelled():
		return maps.Clone(e.Body)
	case e.master() != "":
		shown = []string{"id", "status", "recurringEventId", "originalStartTime"}
	}
	item := Event{}
	for _, name := range shown {
		item[name] = e.Body[name]
	}
	return item
}

// check refuses an event without a start and an end, or with a recurrence that is not
// one.
func check(body Event) error {
	if err := checkTimes(body); err != nil {
		return err
	}
	set, err := (&event{Body: body}).series()
	if err != nil || set == nil {
		return err
	}
	// It would be searched for in every list.
	if _, ok := set.Iterator()(); !ok {
		return invalid("Invalid recurrence rule: it has no instance.")
	}
	return nil
}

// checkTimes refuses an event without a start and an end. A dateTime without an
// offset is one of its timeZone, and gets that zone's offset, as Google shows it.
func checkTimes(body Event) error {
	for _, name := range []string{"start", "end"} {
		t, _ := body[name].(map[string]any)
		date, hasDate := t["date"].(string)
		dateTime, hasTime := t["dateTime"].(string)
		zone, err := zoneOf(t)
		if err != nil {
			return apiError(http.StatusBadRequest, "invalid", "Invalid time zone definition for "+name+" time.")
		}
		_, err = time.Parse(time.DateOnly, date)
		if hasTime {
			_, err = time.Parse(time.RFC3339, dateTime)
		}
		switch {
		case !hasDate && !hasTime:
			return apiError(http.StatusBadRequest, "required", "Missing "+name+" time.")
		case hasDate && hasTime:
			return apiError(http.StatusBadRequest, "invalid", "Invalid "+name+" time.")
		case err == nil:
			continue
		}
		local, err := time.ParseInLocation("2006-01-02T15:04:05", dateTime, cmp.Or(zone, time.UTC))
		switch {
		case err != nil:
			return apiError(http.StatusBadRequest, "invalid", "Invalid "+name+" time.")
		case zone == nil:
			return apiError(http.StatusBadRequest, "required", "Missing time zone definition for "+name+" time.")
		}
		t["dateTime"] = local.Format(time.RFC3339)
	}
	return nil
}

// zoneOf returns the time zone of a start or an end, nil when it has none.
func zoneOf(t map[string]any) (*time.Location, error) {
	name, ok := t["timeZone"].(string)
	switch {
	case t["timeZone"] == nil:
		return nil, nil
	case !ok, name == "", name == "Local":
		return nil, errors.New("calendarfake: not the name of a time zone")
	}
	if zone, ok := zones.Load(name); ok {
		return zone.(*time.Location), nil
	}
	zone, err := time.LoadLocation(name)
	if err == nil {
		zones.Store(name, zone)
	}
	return zone, err
}

// zones has the time zones that were asked for: to load one takes longer than to
// expand an instance.
var zones sync.Map

// normal returns a copy of e as decoding JSON makes it.
func normal(e Event) (Event, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "parseError", "Parse Error")
	}
	body := Event{}
	if err := json.Unmarshal(b, &body); err != nil {
		return nil, apiError(http.StatusBadRequest, "parseError", "Parse Error")
	}
	return body, nil
}

// merge returns old with fields merged into it.
func merge[M ~map[string]any](old, fields M) M {
	merged := maps.Clone(old)
	for name, value := range fields {
		before, _ := merged[name].(map[string]any)
		object, isObject := value.(map[string]any)
		switch {
		case value == nil:
			delete(merged, name)
		case isObject:
			if before == nil {
				before = map[string]any{}
			}
			merged[name] = merge(before, object)
		default:
			merged[name] = value
		}
	}
	return merged
}

// apiError returns an error as the API answers it.
func apiError(status int, reason, message string) *googleapi.Error {
	return &googleapi.Error{
		Code: status, Message: message, Errors: []googleapi.ErrorItem{{Reason: reason, Message: message}},
	}
}

func errNotFound() *googleapi.Error {
	return apiError(http.StatusNotFound, "notFound", "Not Found")
}

func errDeleted() *googleapi.Error {
	return apiError(http.StatusGone, "deleted", "Resource has been deleted")
}
