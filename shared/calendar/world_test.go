package calendar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/local/boltstate"
	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"
)

// world is Google Calendar, a state, an inbox and a clock for the engines of a
// test.
type world struct {
	t      *testing.T
	google *calendarfake.Server
	state  calendar.State
	inbox  *memory
	clock  *clock
	// notify receives Google's notifications and returns the answer's status.
	notify func(calendar.Notification) int
	// fault is asked before each call of the API.
	fault func(calendarfake.Call) calendarfake.Fault
	// disturb is asked before each notification.
	disturb func(calendarfake.Notification) calendarfake.NotificationFault
	// pageSize is that of the engines.
	pageSize int64
	// logs is where engines log to.
	logs io.Writer
}

type clock struct {
	mu    sync.Mutex
	now   time.Time
	after func() // called whenever time has passed, if not nil
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
	if c.after != nil {
		c.after()
	}
}

var epoch = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

const address = "https://calendar.example.com/notifications"

func newWorld(t *testing.T, calendars ...string) *world {
	t.Helper()
	state, err := boltstate.Open(filepath.Join(memoryDir(t), "calendar.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	w := &world{
		t: t, state: state, inbox: &memory{byID: map[string]int{}}, clock: &clock{now: epoch}, logs: io.Discard,
		notify: func(calendar.Notification) int { return http.StatusNoContent },
		fault:  func(calendarfake.Call) calendarfake.Fault { return calendarfake.Fault{} },
		disturb: func(calendarfake.Notification) calendarfake.NotificationFault {
			return calendarfake.NotificationFault{}
		},
	}
	w.google = calendarfake.New(&calendarfake.Options{
		Now: w.clock.Now, Transport: receiver{w},
		Fault:             func(c calendarfake.Call) calendarfake.Fault { return w.fault(c) },
		NotificationFault: func(n calendarfake.Notification) calendarfake.NotificationFault { return w.disturb(n) },
	})
	for _, id := range calendars {
		w.google.AddCalendar(id)
	}
	return w
}

// memoryDir returns a directory that is in memory where there is one: thousands
// of syncs need not wait for a disk. TestKill does.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "calendar")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// receiver takes Google's notifications as functions/calendar does.
type receiver struct{ w *world }

func (r receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	h := req.Header
	n := calendar.Notification{
		ChannelID: h.Get("X-Goog-Channel-ID"), ResourceID: h.Get("X-Goog-Resource-ID"), Token: h.Get("X-Goog-Channel-Token"),
	}
	if s := h.Get("X-Goog-Channel-Expiration"); s != "" {
		var err error
		if n.Expiration, err = http.ParseTime(s); err != nil {
			r.w.t.Errorf("expiration %q: %v", s, err)
		}
	}
	rec := httptest.NewRecorder()
	rec.WriteHeader(r.w.notify(n))
	return rec.Result(), nil
}

// life is an instance of the function: an engine whose every step can be
// watched, and that can die at any of them.
type life struct {
	*calendar.Engine
	w *world
	// step is called before and after each step; when it returns an error the
	// step fails with it, after it was carried out when done is true.
	step func(name string, done bool) error

	mu   sync.Mutex
	dead bool
}

var errDead = errors.New("the process is dead")

// newLife starts an instance.
func (w *world) newLife() *life {
	w.t.Helper()
	l := &life{w: w, step: func(string, bool) error { return nil }}
	service, err := gcal.NewService(context.Background(),
		option.WithEndpoint("https://google.example.com/"), option.WithHTTPClient(&http.Client{Transport: api{l}}))
	if err != nil {
		w.t.Fatal(err)
	}
	l.Engine, err = calendar.New(calendar.Options{
		Service: service, State: steppedState{w.state, l}, Inbox: steppedInbox{w.inbox, l}, Address: address, PageSize: w.pageSize,
		Now: w.clock.Now,
		// Google's own pauses are random; here they are not, so that a
		// simulation can be repeated.
		Sleep: func(ctx context.Context, _ time.Duration) error {
			if l.isDead() {
				return errDead
			}
			w.clock.advance(2 * time.Second)
			return ctx.Err()
		},
		Log: slog.New(slog.NewTextHandler(w.logs, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (l *life) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// die ends the instance: nothing that it does from here on has an effect.
func (l *life) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

// do carries out a step.
func (l *life) do(name string, work func() error) error {
	if l.isDead() {
		return errDead
	}
	if err := l.step(name, false); err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	return l.step(name, true)
}

// api carries calls of the API to the stand-in.
type api struct{ l *life }

func (a api) RoundTrip(r *http.Request) (res *http.Response, err error) {
	if r.Body == nil { // a server's never is
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	err = a.l.do("google "+r.URL.Path, func() error {
		rec := httptest.NewRecorder()
		a.l.w.google.ServeHTTP(rec, r)
		res = rec.Result()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

type steppedInbox struct {
	calendar.Putter
	l *life
}

func (s steppedInbox) Put(ctx context.Context, m *inbox.Message) (stored bool, err error) {
	err = s.l.do("Put "+m.MessageID, func() error {
		stored, err = s.Putter.Put(ctx, m)
		return err
	})
	return stored, err
}

type steppedState struct {
	calendar.State
	l *life
}

func (s steppedState) UpdateCalendar(ctx context.Context, id string, change func(*calendar.Calendar) (*calendar.Calendar, error)) error {
	return s.l.do("UpdateCalendar", func() error { return s.State.UpdateCalendar(ctx, id, change) })
}

func (s steppedState) UpdateChannel(ctx context.Context, id string, change func(*calendar.Channel) (*calendar.Channel, error)) error {
	return s.l.do("UpdateChannel", func() error { return s.State.UpdateChannel(ctx, id, change) })
}

func (s steppedState) Want(ctx context.Context, id string) error {
	return s.l.do("Want", func() error { return s.State.Want(ctx, id) })
}

func (s steppedState) Calendar(ctx context.Context, id string) (c *calendar.Calendar, err error) {
	err = s.l.do("Calendar", func() error { c, err = s.State.Calendar(ctx, id); return err })
	return c, err
}

func (s steppedState) Calendars(ctx context.Context) (all []calendar.Calendar, err error) {
	err = s.l.do("Calendars", func() error { all, err = s.State.Calendars(ctx); return err })
	return all, err
}

func (s steppedState) Channel(ctx context.Context, id string) (c *calendar.Channel, err error) {
	err = s.l.do("Channel", func() error { c, err = s.State.Channel(ctx, id); return err })
	return c, err
}

func (s steppedState) Channels(ctx context.Context, id string) (all []calendar.Channel, err error) {
	err = s.l.do("Channels", func() error { all, err = s.State.Channels(ctx, id); return err })
	return all, err
}

func (s steppedState) Events(ctx context.Context, id string, ids []string) (found map[string]calendar.Event, err error) {
	err = s.l.do("Events", func() error { found, err = s.State.Events(ctx, id, ids); return err })
	return found, err
}

func (s steppedState) Live(ctx context.Context, id string) (ids []string, err error) {
	err = s.l.do("Live", func() error { ids, err = s.State.Live(ctx, id); return err })
	return ids, err
}

func (s steppedState) Exceptions(ctx context.Context, id, master string) (ids []string, err error) {
	err = s.l.do("Exceptions", func() error { ids, err = s.State.Exceptions(ctx, id, master); return err })
	return ids, err
}

func (s steppedState) Pending(ctx context.Context, id string) (found []calendar.Event, err error) {
	err = s.l.do("Pending", func() error { found, err = s.State.Pending(ctx, id); return err })
	return found, err
}

func (s steppedState) Save(ctx context.Context, l calendar.Lease, events []calendar.Event) error {
	return s.l.do("Save", func() error { return s.State.Save(ctx, l, events) })
}

func (s steppedState) Delivered(ctx context.Context, l calendar.Lease, ids []string) error {
	return s.l.do("Delivered", func() error { return s.State.Delivered(ctx, l, ids) })
}

func (s steppedState) Forget(ctx context.Context, l calendar.Lease) error {
	return s.l.do("Forget", func() error { return s.State.Forget(ctx, l) })
}

// memory is an inbox that keeps messages in the order in which they came.
type memory struct {
	mu       sync.Mutex
	messages []inbox.Message
	byID     map[string]int
	err      error // of a message that came twice with other data
}

func (m *memory) Put(_ context.Context, message *inbox.Message) (stored bool, err error) {
	if err := message.Validate(); err != nil {
		return false, err
	}
	id := inbox.ID(message.Source, message.Subscription, message.MessageID)
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.byID[id]; ok {
		if before := m.messages[at]; !bytes.Equal(before.Data, message.Data) {
			m.err = fmt.Errorf("%s came as\n%s\nand as\n%s", message.MessageID, before.Data, message.Data)
		}
		return false, nil
	}
	m.byID[id] = len(m.messages)
	m.messages = append(m.messages, *message)
	return true, nil
}

// from returns the messages from the n-th on, and how many there are in all.
func (m *memory) from(n int) ([]inbox.Message, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.messages[n:]), len(m.messages)
}

// change is a change message's data.
type change struct {
	Change  string          `json:"change"`
	Event   json.RawMessage `json:"event"`
	Before  json.RawMessage `json:"before"`
	Fields  []string        `json:"fields"`
	Omitted []string        `json:"omitted"`
}

// mirror is a calendar rebuilt from its changes alone, which it checks.
type mirror struct {
	live map[string]json.RawMessage // what is there
	// last is the last event of each that a change told of.
	last map[string]change
	// etags are those reported for each event, and version the last of them.
	etags map[string]map[string]bool
}

func newMirror() *mirror {
	return &mirror{live: map[string]json.RawMessage{}, last: map[string]change{}, etags: map[string]map[string]bool{}}
}

type eventHead struct {
	ID     string `json:"id"`
	Etag   string `json:"etag"`
	Status string `json:"status"`
	Master string `json:"recurringEventId"`
}

// apply takes the next message and returns what is wrong with it.
func (m *mirror) apply(message *inbox.Message) (c change, err error) {
	fail := func(format string, args ...any) (change, error) {
		return c, fmt.Errorf("%s: %s\n%s", message.MessageID, fmt.Sprintf(format, args...), message.Data)
	}
	if err := json.Unmarshal(message.Data, &c); err != nil {
		return fail("%v", err)
	}
	var head eventHead
	if err := json.Unmarshal(c.Event, &head); err != nil {
		return fail("%v", err)
	}
	attributes := message.Attributes
	if message.Source != inbox.SourceCalendar || attributes["calendarId"] != message.Subscription ||
		attributes["change"] != c.Change || attributes["eventId"] != head.ID || c.Fields == nil {
		return fail("the message is not as documented: %+v", message)
	}
	live, isLive := m.live[head.ID]
	if c.Change == calendar.Added && isLive || c.Change == calendar.Updated && !isLive {
		return fail("%s, and the event is there: %v", c.Change, isLive)
	}
	switch c.Change {
	case calendar.Added, calendar.Updated:
		if head.Status == "cancelled" {
			return fail("the event is cancelled")
		}
		if m.etags[head.ID] == nil {
			m.etags[head.ID] = map[string]bool{}
		}
		if head.Etag != "" && m.etags[head.ID][head.Etag] {
			return fail("this version was reported before")
		}
		m.etags[head.ID][head.Etag] = true
		m.live[head.ID] = c.Event
	case calendar.Deleted:
		if head.Status != "cancelled" {
			return fail("the event is not cancelled")
		}
		if !isLive && head.Master == "" {
			return fail("deleted, and it was not there")
		}
		if !isLive && m.last[head.ID].Change == calendar.Deleted {
			return fail("deleted twice")
		}
		delete(m.live, head.ID)
	default:
		return fail("what change?")
	}
	if isLive && !bytes.Equal(c.Before, live) || !isLive && string(c.Before) != "null" {
		return fail("before is not the event of the last change, which was\n%s", live)
	}
	if want := differing(c); !slices.Equal(c.Fields, want) {
		return fail("the fields are %q, want %q", c.Fields, want)
	}
	m.last[head.ID] = c
	return c, nil
}

// differing returns what c.Fields should be, written another way than the
// engine's.
func differing(c change) []string {
	if c.Change != calendar.Updated {
		return nil
	}
	var before, after map[string]any
	_ = json.Unmarshal(c.Before, &before)
	_ = json.Unmarshal(c.Event, &after)
	names := map[string]bool{}
	for _, m := range []map[string]any{before, after} {
		for name := range m {
			a, _ := json.Marshal(before[name])
			b, _ := json.Marshal(after[name])
			names[name] = !bytes.Equal(a, b)
		}
	}
	var all []string
	for name, differs := range names {
		if differs && name != "etag" && name != "updated" && name != "sequence" {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// asGoogle returns an event of the stand-in as Google's client sees it.
func asGoogle(t *testing.T, e calendarfake.Event) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var typed gcal.Event
	if err := json.Unmarshal(b, &typed); err != nil {
		t.Fatal(err)
	}
	if b, err = json.Marshal(&typed); err != nil {
		t.Fatal(err)
	}
	return b
}

// timed is an event of an hour.
func timed(summary string) calendarfake.Event {
	return calendarfake.Event{
		"summary": summary,
		"start":   map[string]any{"dateTime": "2026-12-01T09:00:00Z"},
		"end":     map[string]any{"dateTime": "2026-12-01T10:00:00Z"},
	}
}

func recurring(summary string) calendarfake.Event {
	e := timed(summary)
	e["recurrence"] = []string{"RRULE:FREQ=DAILY"}
	return e
}

func (w *world) insert(calendarID string, e calendarfake.Event) string {
	w.t.Helper()
	added, err := w.google.Insert(calendarID, e)
	if err != nil {
		w.t.Fatal(err)
	}
	return added["id"].(string)
}

func (w *world) patch(calendarID, id string, fields calendarfake.Event) {
	w.t.Helper()
	if _, err := w.google.Patch(calendarID, id, fields); err != nil {
		w.t.Fatal(err)
	}
}
