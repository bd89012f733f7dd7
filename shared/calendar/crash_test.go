package calendar_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/boltstate"
	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
	"github.com/google/go-cmp/cmp"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"
)

// story is what happens to one calendar from its first watch to its last stop,
// lived by instances that die at given steps.
type story struct {
	*world
	// deaths are the steps at which the first, second, ... instance dies: an odd
	// number before something is done, an even one after it.
	deaths []int
	life   *life
	steps  int // of the present instance
	calls  []string
	died   []string // where they did
}

const (
	demo = "demo@example.com"
	// restless is an event that changes whenever an instance dies.
	restless = "event0"
)

func newStory(t *testing.T, deaths ...int) *story {
	s := &story{world: newWorld(t, demo), deaths: deaths}
	s.pageSize = 2
	s.world.notify = func(n calendar.Notification) int {
		_, changed, err := s.instance().Notify(context.Background(), n)
		switch {
		case errors.Is(err, calendar.ErrUnknownChannel):
			return http.StatusNoContent
		case err != nil:
			return http.StatusServiceUnavailable
		}
		if changed {
			s.calls = append(s.calls, demo)
		}
		return http.StatusNoContent
	}
	return s
}

// instance returns the living instance.
func (s *story) instance() *life {
	if s.life != nil && !s.life.isDead() {
		return s.life
	}
	if s.life != nil {
		s.deaths = s.deaths[min(1, len(s.deaths)):]
		// The calendar does not wait: what was on its way to the inbox changes.
		s.patch(demo, restless, calendarfake.Event{"summary": fmt.Sprint("while dead ", s.clock.Now())})
	}
	s.steps = 0
	l := s.newLife()
	l.step = func(name string, done bool) error {
		// Puts run at once, each in its own goroutine.
		l.mu.Lock()
		defer l.mu.Unlock()
		s.steps++
		if l.dead || len(s.deaths) > 0 && s.steps == s.deaths[0] {
			if !l.dead {
				s.died = append(s.died, fmt.Sprintf("%s done=%v", name, done))
			}
			l.dead = true
			return errDead
		}
		return nil
	}
	s.life = l
	return l
}

// until does something again and again, as who wants it done would, until it
// succeeds.
func (s *story) until(what string, do func(*calendar.Engine) error) {
	s.t.Helper()
	var err error
	for range 40 {
		l := s.instance()
		if err = do(l.Engine); err == nil && !l.isDead() { // a dead one gives no answer
			return
		}
		s.clock.advance(30 * time.Second)
	}
	s.t.Fatalf("%s, after the deaths at %q: %v", what, s.died, err)
}

// settle delivers notifications, and what they ask for, until all is quiet.
func (s *story) settle() {
	s.t.Helper()
	for range 100 {
		next, more := s.google.Deliver(context.Background())
		calls := s.calls
		s.calls = nil
		for range calls {
			s.until("CatchUp", func(e *calendar.Engine) error {
				_, err := e.CatchUp(context.Background(), demo)
				return err
			})
		}
		if !more && len(calls) == 0 {
			return
		}
		if more {
			s.clock.advance(max(0, next.Sub(s.clock.Now())))
		}
	}
	s.t.Fatal("it never gets quiet")
}

// tell lives the story.
func (s *story) tell() {
	t, g := s.t, s.google
	t.Helper()
	var ids []string
	for i := range 4 {
		e := timed(fmt.Sprint("event ", i))
		if i == 3 {
			e = recurring("series")
		}
		e["id"] = fmt.Sprint("event", i)
		ids = append(ids, s.insert(demo, e))
	}
	day := func(n int) string { return fmt.Sprintf("%s_202612%02dT090000Z", ids[3], n) }
	s.patch(demo, day(2), calendarfake.Event{"location": "elsewhere"})
	s.patch(demo, day(3), calendarfake.Event{"status": "cancelled"})
	s.until("Watch", func(e *calendar.Engine) error {
		_, err := e.Watch(context.Background(), demo)
		return err
	})
	s.settle()
	s.until("first sync", func(e *calendar.Engine) error {
		_, err := e.CatchUp(context.Background(), demo)
		return err
	})
	s.check("at first")

	s.patch(demo, ids[0], calendarfake.Event{"summary": "changed"})
	s.patch(demo, day(2), calendarfake.Event{"status": "cancelled"})
	s.patch(demo, day(3), calendarfake.Event{"status": "confirmed"})
	if err := g.Delete(demo, ids[1]); err != nil {
		t.Fatal(err)
	}
	s.check("after a change, two cancellations and a comeback")

	s.patch(demo, ids[0], calendarfake.Event{"summary": "changed again"})
	s.patch(demo, ids[3], calendarfake.Event{"status": "cancelled"})
	if err := g.Delete(demo, ids[2]); err != nil {
		t.Fatal(err)
	}
	ids = append(ids, s.insert(demo, timed("new")))
	g.Invalidate(demo)
	s.check("after 410")

	s.clock.advance(4 * 24 * time.Hour)
	s.until("Renew", func(e *calendar.Engine) error {
		_, err := e.Renew(context.Background())
		return err
	})
	s.settle()
	s.patch(demo, ids[4], calendarfake.Event{"summary": "for the last time"})
	s.until("SyncAll", func(e *calendar.Engine) error {
		_, err := e.SyncAll(context.Background())
		if err == nil && !bytes.Contains(s.mirror().live[ids[4]], []byte("last time")) {
			err = errors.New("another has the lease")
		}
		return err
	})
	s.check("at last")
	if live := g.Channels(demo); len(live) != 1 || live[0].Expires.Sub(s.clock.Now()) < 6*24*time.Hour {
		t.Errorf("after the renewal and a sync, with the deaths at %q: channels %+v", s.died, live)
	}

	s.until("Stop", func(e *calendar.Engine) error {
		if err := e.Stop(context.Background(), demo); !errors.Is(err, calendar.ErrNotWatched) {
			return err
		}
		return nil // it died when all was done
	})
	s.settle()
	calendars, err1 := s.state.Calendars(context.Background())
	channels, err2 := s.state.Channels(context.Background(), "")
	live, err3 := s.state.Live(context.Background(), demo)
	if err := errors.Join(err1, err2, err3); err != nil || len(calendars)+len(channels)+len(live)+len(g.Channels(demo)) > 0 {
		t.Errorf("after Stop, with the deaths at %q: calendars %v, channels %v, events %v, at Google %v: %v",
			s.died, calendars, channels, live, g.Channels(demo), err)
	}
}

// mirror returns the calendar as all changes make it.
func (s *story) mirror() *mirror {
	s.t.Helper()
	m := newMirror()
	messages, _ := s.inbox.from(0)
	for _, message := range messages {
		if _, err := m.apply(&message); err != nil {
			s.t.Fatalf("after the deaths at %q: %v", s.died, err)
		}
	}
	if s.inbox.err != nil {
		s.t.Fatalf("after the deaths at %q: %v", s.died, s.inbox.err)
	}
	return m
}

// check compares the calendar with its changes once all is quiet.
func (s *story) check(when string) {
	s.t.Helper()
	s.settle()
	truth := map[string]string{}
	for id, e := range s.google.Events(demo) {
		truth[id] = string(asGoogle(s.t, e))
	}
	got := map[string]string{}
	for id, e := range s.mirror().live {
		got[id] = string(e)
	}
	if diff := cmp.Diff(truth, got); diff != "" {
		s.t.Fatalf("%s, after the deaths at %q, the calendar and its changes differ (-calendar +changes):\n%s", when, s.died, diff)
	}
}

// told returns what was reported of each event, in order; of the restless one
// the mirror tells whether it is right.
func (s *story) told() map[string][]string {
	told := map[string][]string{}
	messages, _ := s.inbox.from(0)
	for _, m := range messages {
		var c change
		if err := json.Unmarshal(m.Data, &c); err != nil {
			s.t.Fatal(err)
		}
		id := m.Attributes["eventId"]
		if len(id) == 26 {
			id = "new" // made by the stand-in
		}
		if id == restless {
			continue
		}
		told[id] = append(told[id], fmt.Sprintln(c.Change, c.Fields))
	}
	return told
}

// TestDeath lets an instance die before and after each of its steps, and one in
// its place go on: what is reported is what is reported when nobody dies.
func TestDeath(t *testing.T) {
	t.Parallel()
	measure.SkipRace(t, "nothing in it is concurrent, and it takes long")
	undisturbed := newStory(t)
	undisturbed.tell()
	want := undisturbed.told()
	if t.Failed() {
		return
	}
	points := 0
	try := func(t *testing.T, deaths ...int) (died []string) {
		s := newStory(t, deaths...)
		s.tell()
		if diff := cmp.Diff(want, s.told()); diff != "" {
			t.Errorf("after the deaths at %q (-undisturbed +got):\n%s", s.died, diff)
		}
		return s.died
	}
	for n := 1; ; n++ {
		if len(try(t, n)) == 0 {
			break
		}
		if points = n; t.Failed() {
			t.FailNow()
		}
	}
	if points < 200 {
		t.Errorf("only %d places to die at", points)
	}
	random := measure.Rand()
	thrice := measure.Size(20, 2000)
	for range thrice {
		if first, second := 1+random.IntN(points), 1+random.IntN(40); t.Failed() {
			t.Fatal("died at ", first, second)
		} else {
			try(t, first, second, second/2+1)
		}
	}
	t.Logf("died at each of %d places, and %d times thrice", points, thrice)
}

// The test binary runs itself as a child that syncs until it is killed.
const (
	childDir    = "CALENDAR_TEST_CHILD_DIR"
	childGoogle = "CALENDAR_TEST_CHILD_GOOGLE"
	childLater  = "CALENDAR_TEST_CHILD_LATER"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir, os.Getenv(childGoogle), os.Getenv(childLater)); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child watches and syncs the calendar, saying each step.
func child(dir, google, later string) error {
	state, err := boltstate.Open(filepath.Join(dir, "calendar.db"))
	if err != nil {
		return err
	}
	in, err := boltinbox.Open(filepath.Join(dir, "inbox.db"), nil)
	if err != nil {
		return err
	}
	service, err := gcal.NewService(context.Background(), option.WithEndpoint(google), option.WithoutAuthentication())
	if err != nil {
		return err
	}
	lead, err := time.ParseDuration(later)
	if err != nil {
		return err
	}
	l := &life{step: func(name string, done bool) error {
		_, err := fmt.Println(name, done) // one write a line
		return err
	}}
	e, err := calendar.New(calendar.Options{
		Service: service, State: steppedState{state, l}, Inbox: steppedInbox{in, l}, Address: address, PageSize: 5,
		Now: func() time.Time { return time.Now().Add(lead) }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if _, err := e.Watch(context.Background(), demo); err != nil {
		return err
	}
	if _, err := e.Sync(context.Background(), demo); err != nil {
		return err
	}
	return errors.Join(state.Close(), in.Close())
}

// TestKill kills processes that sync with -9, between any two of their steps or
// in the midst of one.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds, random := measure.Size(25, 300), measure.Rand()
	if testing.Short() && !measure.Full() {
		rounds = 8
	}
	google := calendarfake.New(nil)
	google.AddCalendar(demo)
	server := httptest.NewServer(google)
	defer server.Close()
	dir := t.TempDir()
	later := 0
	run := func(lines int) (killed bool) {
		later++ // than the lease of the last one
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, childGoogle+"="+server.URL, fmt.Sprintf("%s=%dm", childLater, 2*later))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n, last := 0, ""
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			last = scanner.Text()
			if n++; n == lines {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				killed = true
			}
		}
		if err := cmd.Wait(); err != nil && !killed {
			t.Fatalf("the child ended with %v, saying %q", err, last)
		}
		return killed
	}
	ids := []string{}
	kills := 0
	for round := range rounds {
		for range 20 {
			e := timed(fmt.Sprint("round ", round))
			added, err := google.Insert(demo, e)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, added["id"].(string))
		}
		for range 10 {
			if _, err := google.Patch(demo, ids[random.IntN(len(ids))], calendarfake.Event{"location": fmt.Sprint("round ", round)}); err != nil {
				t.Fatal(err)
			}
			at := random.IntN(len(ids))
			if err := google.Delete(demo, ids[at]); err != nil {
				t.Fatal(err)
			}
			ids = slices.Delete(ids, at, at+1)
		}
		if round%4 == 3 {
			google.Invalidate(demo)
		}
		if run(1 + random.IntN(120)) {
			kills++
		}
	}
	run(0)

	in, err := boltinbox.Open(filepath.Join(dir, "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var messages []inbox.Message
	for q := (inbox.Query{PageSize: inbox.MaxPageSize}); ; {
		page, err := in.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, page.Messages()...)
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			break
		}
	}
	slices.Reverse(messages)
	m := newMirror()
	for _, message := range messages {
		if _, err := m.apply(&message); err != nil {
			t.Fatal(err)
		}
	}
	truth := google.Events(demo)
	if len(truth) != len(m.live) {
		t.Errorf("the calendar has %d events, its changes make %d", len(truth), len(m.live))
	}
	for id, e := range truth {
		if !bytes.Equal(asGoogle(t, e), m.live[id]) {
			t.Errorf("event %s is\n%s\nthe changes make it\n%s", id, asGoogle(t, e), m.live[id])
		}
	}
	if kills < rounds/2 {
		t.Errorf("only %d of %d were killed", kills, rounds)
	}
	t.Logf("%d of %d killed, %d changes, %d events", kills, rounds, len(messages), len(truth))
}
