package calendar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
)

// TestSimulation lives through 12 days, 30 with -full, of three calendars with everything that
// goes wrong in them, and compares the changes in the inbox with the truth
// after every sync. -seed N repeats what a failure printed.
func TestSimulation(t *testing.T) {
	t.Parallel()
	measure.SkipRace(t, "nothing in it is concurrent, and it takes minutes")
	for _, n := range measure.Seeds(20) {
		t.Run(fmt.Sprint("seed_", n), func(t *testing.T) {
			if !measure.Full() {
				t.Parallel()
			}
			s := newSimulation(t, n)
			s.run(measure.Size(12, 30))
			t.Logf("seed %d: %+v", n, s.counts)
			s.enough()
		})
	}
}

// counts is what happened in a simulation.
type counts struct {
	Edits, Restores, Instances, Bursts       int
	Notified, Dropped, Doubled, Delayed      int
	Gone, GoneMidway, PageErrors, Throttled  int
	Deaths, Failures, TakenOver, EditsInList int
	Syncs, Failed, Busy, Full, Changes       int
	Compared, Channels                       int
	Hidden, Told                             int
}

type simulation struct {
	*world
	rand      *rand.Rand
	seed      uint64
	calendars []string
	lives     []*life
	mirrors   map[string]*mirror
	// history has the versions of each event that Google could ever list, by
	// etag.
	history map[string]map[string]json.RawMessage
	// edited counts the edits of a calendar; truths are what is in it since
	// that was known.
	edited, known map[string]int
	truths        map[string]map[string]json.RawMessage
	// instances are those that were ever edited, by calendar.
	instances map[string]map[string]bool
	series    map[string][]string
	read      int // of the inbox
	queue     []push
	made      int // events
	nested    bool
	calm      bool // nothing goes wrong any more
	// hidden is the calendar that Google does not show now, and since hiddenAt.
	hidden     string
	hiddenAt   time.Time
	toldBefore int // that it is gone
	tries      map[string]int
	counts     counts
}

// push is a message of the topic on which a notification asks for a sync.
type push struct {
	calendarID string
	due        time.Time
	pause      time.Duration
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{
		world: newWorld(t, "work@example.com", "home@example.com", "team@group.calendar.google.com"),
		rand:  rand.New(rand.NewPCG(seed, 0)), seed: seed,
		calendars: []string{"work@example.com", "home@example.com", "team@group.calendar.google.com"},
		mirrors:   map[string]*mirror{}, history: map[string]map[string]json.RawMessage{}, truths: map[string]map[string]json.RawMessage{}, instances: map[string]map[string]bool{},
		series: map[string][]string{}, edited: map[string]int{}, known: map[string]int{}, tries: map[string]int{},
	}
	s.pageSize = 7
	s.world.notify, s.world.fault, s.world.disturb = s.notified, s.faulty, s.disturbed
	for _, id := range s.calendars {
		s.mirrors[id] = newMirror()
		s.instances[id] = map[string]bool{}
	}
	s.lives = []*life{s.start(), s.start()}
	return s
}

// odds reports true one time in n.
func (s *simulation) odds(n int) bool { return !s.calm && s.rand.IntN(n) == 0 }

// start starts an instance that fails, dies and is overtaken at random.
func (s *simulation) start() *life {
	l := s.newLife()
	l.step = func(name string, done bool) error {
		if id, ok := strings.CutPrefix(name, "Put "); ok {
			// Puts run at once, in no order: what happens to one hangs on its ID,
			// so that a simulation can be repeated. TestDeath dies among them.
			return s.putStep(l, id, done)
		}
		list := strings.HasPrefix(name, "google /calendars/") && strings.HasSuffix(name, "/events")
		switch {
		case s.odds(700):
			s.counts.Deaths++
			l.die()
			return errDead
		case s.odds(500):
			s.counts.Failures++
			if strings.HasPrefix(name, "google") {
				return errors.New("connection reset")
			}
			return calendar.ErrState
		case s.nested || !list:
		case s.odds(30):
			// The calendar changes while it is listed.
			s.counts.EditsInList++
			for range 1 + s.rand.IntN(3) {
				s.edit(s.calendars[s.rand.IntN(len(s.calendars))])
			}
		case s.odds(150):
			// The instance stands still for longer than its lease, and the other
			// one takes over.
			s.nested = true
			s.clock.advance(2 * time.Minute)
			for i, other := range s.lives {
				if other != l {
					s.sync(i, strings.TrimSuffix(strings.TrimPrefix(name, "google /calendars/"), "/events"), (*calendar.Engine).Sync)
					s.counts.TakenOver++
				}
			}
			s.nested = false
		}
		return nil
	}
	return l
}

func (s *simulation) putStep(l *life, id string, done bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := fmt.Sprint(id, done)
	s.tries[key]++
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, key, s.tries[key])
	r := rand.New(rand.NewPCG(s.seed, h.Sum64()))
	if !s.calm && r.IntN(200) == 0 {
		return inbox.ErrUnavailable
	}
	return nil
}

// instance returns a living instance, with its number.
func (s *simulation) instance(i int) *life {
	if s.lives[i].isDead() {
		s.lives[i] = s.start()
	}
	return s.lives[i]
}

func (s *simulation) notified(n calendar.Notification) int {
	s.counts.Notified++
	calendarID, changed, err := s.instance(s.rand.IntN(2)).Notify(context.Background(), n)
	switch {
	case errors.Is(err, calendar.ErrUnknownChannel):
		return http.StatusNoContent
	case errors.Is(err, calendar.ErrForged):
		s.t.Errorf("Google's own notification is refused: %+v", n)
		return http.StatusForbidden
	case err != nil:
		return http.StatusServiceUnavailable
	}
	if changed {
		s.queue = append(s.queue, push{calendarID: calendarID, due: s.clock.Now(), pause: 10 * time.Second})
	}
	return http.StatusNoContent
}

func (s *simulation) disturbed(calendarfake.Notification) (d calendarfake.NotificationFault) {
	switch {
	case s.odds(10):
		s.counts.Dropped++
		d.Drop = true
	case s.odds(9):
		s.counts.Doubled++
		d.Duplicate = true
	case s.odds(10):
		s.counts.Delayed++
		d.Delay = time.Duration(s.rand.IntN(3600)) * time.Second
	}
	return d
}

func (s *simulation) faulty(c calendarfake.Call) (f calendarfake.Fault) {
	if c.Method == "events.list" {
		s.refresh(c.CalendarID)
	}
	refusals := []calendarfake.Fault{
		{Status: 403, Reason: "rateLimitExceeded"}, {Status: 403, Reason: "userRateLimitExceeded"}, {Status: 403, Reason: "quotaExceeded"},
		{Status: 429, Reason: "rateLimitExceeded"}, {Status: 500, Reason: "backendError"}, {Status: 503, Reason: "backendError"},
	}
	f.SyncFirst = c.Method == "events.watch" && s.odds(3)
	f.Lost = s.odds(2) // if it is refused at all
	switch {
	case s.odds(60):
		s.counts.Throttled++
		r := refusals[s.rand.IntN(len(refusals))]
		f.Status, f.Reason = r.Status, r.Reason
		f.Lost = f.Lost && r.Status >= 500
	case c.Method != "events.list":
	case c.Page > 1 && s.odds(15):
		s.counts.PageErrors++
		f.Status, f.Reason, f.Lost = 400, "invalid", false
	case c.Page > 1 && s.odds(60):
		s.counts.GoneMidway++
		f.Status, f.Reason, f.Lost = 410, "fullSyncRequired", false
	case s.odds(6):
		f.Limit = []int{-1, 1, 2, 3}[s.rand.IntN(4)]
		if f.Limit < 0 && c.Page > 3 {
			f.Limit = 1 // empty pages do not go on for ever
		}
	}
	if c.CalendarID != "" && c.CalendarID == s.hidden {
		s.counts.Hidden++
		return calendarfake.Fault{Status: 404, Reason: "notFound"}
	}
	return f
}

// hide hides a calendar from one step to another, and shows it again: hidden for
// more than a day it is gone, told once, and back when it is watched again.
func (s *simulation) hide(step, from, to int, id string) {
	switch step {
	case from:
		s.hidden, s.hiddenAt = id, s.clock.Now()
	case to:
		told := 0
		if s.record(id).Gone != "" {
			told = 1
		}
		// Waiting for a retry takes time as well: a step can be longer than it says.
		after := s.clock.Now().Sub(s.hiddenAt)
		if tooSoon, tooLate := after < 24*time.Hour && told == 1, to-from > 24*12 && told == 0; tooSoon || tooLate {
			s.t.Errorf("seed %d: after %v gone is %v", s.seed, after, told == 1)
		}
		s.readInbox("")
		if s.counts.Told-s.toldBefore != told {
			s.t.Errorf("seed %d: told %d times that %s is gone, want %d", s.seed, s.counts.Told-s.toldBefore, id, told)
		}
		s.toldBefore = s.counts.Told
		s.hidden = ""
		for told == 1 {
			if _, err := s.instance(0).Watch(context.Background(), id); err == nil {
				break
			}
		}
	}
}

// watched checks that each calendar has a live channel, at every moment.
func (s *simulation) watched() {
	for _, id := range s.calendars {
		live := len(s.google.Channels(id))
		if live == 0 {
			s.t.Fatalf("seed %d, %v: nobody watches %s", s.seed, s.clock.Now(), id)
		}
		s.counts.Channels = max(s.counts.Channels, live)
	}
}

// sync calls one of an instance's syncs and, when nothing was edited meanwhile,
// compares what it reported with the truth.
func (s *simulation) sync(i int, calendarID string, call func(*calendar.Engine, context.Context, string) (calendar.Result, error)) error {
	s.readInbox(calendarID)
	edited := s.edited[calendarID]
	before := maps.Clone(s.mirrors[calendarID].live)
	pending, err := s.state.Pending(context.Background(), calendarID)
	if err != nil {
		s.t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, e := range pending {
		allowed[e.ID] = true
	}
	overtaken := s.counts.TakenOver
	result, err := call(s.instance(i).Engine, context.Background(), calendarID)
	fresh := s.readInbox(calendarID)
	switch {
	case errors.Is(err, calendar.ErrBusy):
		s.counts.Busy++
		return err
	case err != nil:
		s.counts.Failed++
		return err
	case result.Runs == 0:
		return nil
	}
	s.counts.Syncs++
	if result.Full {
		s.counts.Full++
	}
	if s.edited[calendarID] != edited || s.counts.TakenOver != overtaken {
		return nil
	}
	s.counts.Compared++
	s.compare(calendarID)
	// Each difference was reported once, and nothing else.
	truth := s.truth(calendarID)
	reported := map[string]int{}
	for _, id := range fresh {
		reported[id]++
		master := ""
		if e, err := s.google.Event(calendarID, id); err == nil {
			master, _ = e["recurringEventId"].(string)
		}
		if !allowed[id] && (reported[id] > 1 || bytes.Equal(before[id], truth[id]) && (master == "" || !s.instances[calendarID][id])) {
			s.t.Errorf("seed %d, %v: %s of %s was reported %d times without a difference",
				s.seed, s.clock.Now(), id, calendarID, reported[id])
		}
	}
	return nil
}

// readInbox applies what is new in the inbox and returns the IDs of the events
// of this calendar among it.
func (s *simulation) readInbox(calendarID string) (fresh []string) {
	messages, read := s.inbox.from(s.read)
	s.read = read
	for _, m := range messages {
		if m.Attributes["change"] == calendar.Gone {
			s.counts.Told++
			continue
		}
		s.counts.Changes++
		id := m.Attributes["eventId"]
		c, err := s.mirrors[m.Subscription].apply(&m)
		if err != nil {
			s.t.Fatalf("seed %d, %v: %v", s.seed, s.clock.Now(), err)
		}
		var head eventHead
		_ = json.Unmarshal(c.Event, &head)
		if c.Change != calendar.Deleted && !bytes.Equal(s.history[m.Subscription+"/"+id][head.Etag], c.Event) {
			s.t.Fatalf("seed %d: %s never was\n%s", s.seed, id, c.Event)
		}
		if m.Subscription == calendarID {
			fresh = append(fresh, id)
		}
	}
	if s.inbox.err != nil {
		s.t.Fatalf("seed %d: %v", s.seed, s.inbox.err)
	}
	return fresh
}

// compare holds a calendar, rebuilt from its changes, against the truth.
func (s *simulation) compare(calendarID string) {
	s.t.Helper()
	truth, got := s.truth(calendarID), s.mirrors[calendarID].live
	for _, id := range slices.Sorted(maps.Keys(truth)) {
		if !bytes.Equal(truth[id], got[id]) {
			s.t.Fatalf("seed %d, %v: %s of %s is\n%s\nthe changes make it\n%s", s.seed, s.clock.Now(), id, calendarID, truth[id], got[id])
		}
	}
	for id := range got {
		if truth[id] == nil {
			s.t.Fatalf("seed %d, %v: %s of %s is gone, and was not reported", s.seed, s.clock.Now(), id, calendarID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.instances[calendarID])) {
		e, err := s.google.Event(calendarID, id)
		if err != nil || e["status"] != "cancelled" {
			continue
		}
		master, _ := e["recurringEventId"].(string)
		if _, lives := truth[master]; lives && s.mirrors[calendarID].last[id].Change != calendar.Deleted {
			s.t.Fatalf("seed %d, %v: the cancelled instance %s of %s was not reported", s.seed, s.clock.Now(), id, calendarID)
		}
	}
}

// refresh remembers the versions that the events of a calendar have now.
func (s *simulation) refresh(calendarID string) {
	if s.known[calendarID] == s.edited[calendarID] {
		return
	}
	s.known[calendarID] = s.edited[calendarID]
	truth := map[string]json.RawMessage{}
	for id, e := range s.google.Events(calendarID) {
		versions := s.history[calendarID+"/"+id]
		if versions == nil {
			versions = map[string]json.RawMessage{}
			s.history[calendarID+"/"+id] = versions
		}
		etag := e["etag"].(string)
		if versions[etag] == nil {
			versions[etag] = asGoogle(s.t, e)
		}
		truth[id] = versions[etag]
	}
	s.truths[calendarID] = truth
}

// truth returns what is in a calendar.
func (s *simulation) truth(calendarID string) map[string]json.RawMessage {
	s.refresh(calendarID)
	return s.truths[calendarID]
}

// edit does something to a calendar that a user could.
func (s *simulation) edit(calendarID string) {
	s.edited[calendarID]++
	s.counts.Edits++
	s.made++
	r := s.rand
	live := slices.Sorted(maps.Keys(s.google.Events(calendarID)))
	summary := []string{"stand-up", "lunch <&>", "Besprechung \u00fcber \u00c4pfel", "1:1"}[r.IntN(4)]
	day := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC).AddDate(0, 0, r.IntN(40))
	times := calendarfake.Event{
		"start": map[string]any{"dateTime": day.Format(time.RFC3339)},
		"end":   map[string]any{"dateTime": day.Add(time.Hour).Format(time.RFC3339)},
	}
	insert := func(e calendarfake.Event) {
		e["id"] = fmt.Sprintf("e%05d%05d", s.seed, s.made)
		id := s.insert(calendarID, e)
		if e["recurrence"] != nil {
			s.series[calendarID] = append(s.series[calendarID], id)
		}
	}
	anySeries := func() (string, bool) {
		all := s.series[calendarID]
		if len(all) == 0 {
			return "", false
		}
		id := all[r.IntN(len(all))]
		e, err := s.google.Event(calendarID, id)
		return id, err == nil && e["status"] != "cancelled"
	}
	switch n := r.IntN(20); {
	case n < 3 && len(live) < 80 || len(live) < 5:
		e := timed(summary)
		if r.IntN(3) == 0 {
			e = recurring(summary)
		}
		insert(e)
	case n < 9:
		id := live[r.IntN(len(live))]
		fields := []calendarfake.Event{
			{"summary": fmt.Sprint(summary, r.IntN(100))}, {"location": "room " + fmt.Sprint(r.IntN(9))}, {"location": nil},
			{"description": strings.Repeat("x", r.IntN(300))}, times, {}, {"colorId": fmt.Sprint(r.IntN(11))},
			{"attendees": []any{map[string]any{"email": "a@example.com", "responseStatus": []string{"accepted", "declined"}[r.IntN(2)]}}},
			{"transparency": "transparent"}, {"reminders": map[string]any{"useDefault": r.IntN(2) == 0}},
		}[r.IntN(10)]
		s.patch(calendarID, id, fields)
	case n < 15:
		// An instance is moved, cancelled, or brought back.
		id, ok := anySeries()
		if !ok {
			return
		}
		s.counts.Instances++
		id += "_" + time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC).AddDate(0, 0, r.IntN(12)).Format("20060102T150405Z")
		e, err := s.google.Event(calendarID, id)
		if err != nil {
			return // the series was moved, and has no instance then
		}
		s.instances[calendarID][id] = true
		switch {
		case e["status"] == "cancelled":
			s.counts.Restores++
			s.patch(calendarID, id, calendarfake.Event{"status": "confirmed"})
		case r.IntN(2) == 0:
			s.patch(calendarID, id, times)
		default:
			s.patch(calendarID, id, calendarfake.Event{"status": "cancelled"})
		}
	case n < 18:
		id := live[r.IntN(len(live))]
		s.patch(calendarID, id, calendarfake.Event{"status": "cancelled"})
		if r.IntN(4) == 0 {
			s.counts.Restores++
			s.patch(calendarID, id, calendarfake.Event{"status": "confirmed"})
		}
	case n < 19:
		// It comes and goes.
		insert(timed(summary))
		id := fmt.Sprintf("e%05d%05d", s.seed, s.made)
		s.patch(calendarID, id, calendarfake.Event{"status": "cancelled"})
	default:
		if id, ok := anySeries(); ok && r.IntN(3) == 0 {
			s.patch(calendarID, id, calendarfake.Event{"status": "cancelled"})
		}
	}
}

// settle lets the topic and Google deliver what is due.
func (s *simulation) settle() {
	s.google.Deliver(context.Background())
	for more := true; more; {
		more = false
		queue := s.queue
		s.queue = nil
		for _, p := range queue {
			if p.due.After(s.clock.Now()) {
				s.queue = append(s.queue, p)
				continue
			}
			more = true
			if err := s.sync(s.rand.IntN(2), p.calendarID, (*calendar.Engine).CatchUp); err != nil {
				p.due, p.pause = s.clock.Now().Add(p.pause), min(2*p.pause, 10*time.Minute)
				s.queue = append(s.queue, p)
			}
		}
		s.google.Deliver(context.Background())
	}
}

func (s *simulation) run(days int) {
	const step = 5 * time.Minute
	for _, id := range s.calendars {
		for range 20 {
			s.edit(id)
		}
		for {
			if _, err := s.instance(0).Watch(context.Background(), id); err == nil {
				break
			}
		}
	}
	s.clock.after = s.watched
	steps := days * int(24*time.Hour/step)
	gone := map[int]bool{}
	for len(gone) < 20 {
		gone[s.rand.IntN(steps)] = true
	}
	brief, long := 12*(6+s.rand.IntN(17)), 12*(27+s.rand.IntN(44))
	leaver := s.calendars[s.rand.IntN(len(s.calendars))]
	for i := range steps {
		s.hide(i, steps/5, steps/5+brief, leaver)
		s.hide(i, steps/2, steps/2+long, leaver)
		s.clock.advance(step)
		some := s.calendars[s.rand.IntN(len(s.calendars))]
		if gone[i] {
			// Google forgets, in the midst of changes that nobody was told of.
			s.counts.Gone++
			for range 3 {
				s.edit(some)
			}
			s.google.Invalidate(some)
			for range 3 {
				s.edit(some)
			}
		}
		switch {
		case s.odds(150):
			s.counts.Bursts++
			for range 10 + s.rand.IntN(50) {
				s.edit(some)
				if s.odds(10) {
					s.clock.advance(time.Second)
					s.settle()
				}
			}
		case s.odds(3):
			s.edit(some)
		}
		s.settle()
		if i%12 == 0 {
			for _, id := range s.calendars { // as SyncAll does, and compares
				_ = s.sync(s.rand.IntN(2), id, (*calendar.Engine).Sync)
			}
		}
		if i%72 == 0 {
			_, _ = s.instance(s.rand.IntN(2)).Renew(context.Background())
		}
	}
	s.calm = true
	s.clock.advance(time.Hour)
	s.settle()
	if _, err := s.instance(0).SyncAll(context.Background()); err != nil {
		s.t.Error(err)
	}
	s.readInbox("")
	for _, id := range s.calendars {
		s.compare(id)
		if pending, err := s.state.Pending(context.Background(), id); err != nil || len(pending) > 0 {
			s.t.Errorf("%s: %d changes are pending: %v", id, len(pending), err)
		}
	}
}

// enough checks that what a simulation is for has happened.
func (s *simulation) enough() {
	c := s.counts
	share := func(n int) float64 { return float64(n) / float64(c.Notified+c.Dropped) }
	if c.Edits < measure.Size(1500, 4000) || c.Gone != 20 || c.Full < measure.Size(8, 20) || c.Deaths < 20 || c.TakenOver < 10 || c.PageErrors < measure.Size(10, 20) || c.GoneMidway < 1 ||
		c.EditsInList < 20 || c.Instances < measure.Size(100, 300) || c.Restores < measure.Size(40, 100) || c.Compared < c.Syncs/2 ||
		share(c.Dropped) < measure.Size(0.07, 0.08) || share(c.Doubled) < measure.Size(0.06, 0.07) {
		s.t.Errorf("seed %d: too little happened for the simulation to prove much", s.seed)
	}
	if c.Channels > 6 {
		s.t.Errorf("a calendar had %d channels at once", c.Channels)
	}
}
