package firestorestate

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/statetest"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"
)

func open(t *testing.T, host, project string) *State {
	t.Helper()
	s, err := Open(t.Context(), Config{Project: project, Database: "(default)", Collection: "calendars", EmulatorHost: host})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestState(t *testing.T) {
	t.Parallel()
	host := emulator.Firestore(t)
	statetest.Run(t, func(t *testing.T) statetest.Place {
		project := emulator.Project()
		return statetest.Place{Open: func(t *testing.T) calendar.State { return open(t, host, project) }}
	})
}

// TestSync runs the engine on Firestore: a first sync of more than a page, with
// notifications all the while, then changes, a full comparison and the end.
func TestSync(t *testing.T) {
	t.Parallel()
	const demo, events = "demo@example.com", 2600
	google := calendarfake.New(nil)
	google.AddCalendar(demo)
	for i := range events {
		if _, err := google.Insert(demo, calendarfake.Event{
			"id": fmt.Sprintf("event%05d", i), "summary": "s", "description": strings.Repeat("d", 500),
			"start": map[string]any{"date": "2026-12-01"}, "end": map[string]any{"date": "2026-12-02"},
		}); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(google)
	defer server.Close()
	service, err := gcal.NewService(t.Context(), option.WithEndpoint(server.URL), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	state := open(t, emulator.Firestore(t), emulator.Project())
	defer state.Close()
	in := &counter{seen: map[string]int{}}
	e, err := calendar.New(calendar.Options{
		Service: service, State: state, Inbox: in, Address: "https://example.com/", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Watch(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	token := google.Channels(demo)[0].Token
	channels, err := e.Channels(t.Context())
	if err != nil || len(channels) != 1 {
		t.Fatal(channels, err)
	}
	synced := make(chan struct{})
	var notifying sync.WaitGroup
	notified := 0
	notifying.Go(func() {
		for {
			if _, changed, err := e.Notify(t.Context(), calendar.Notification{
				ChannelID: channels[0].ID, ResourceID: channels[0].ResourceID, Token: token,
			}); err != nil || !changed {
				t.Errorf("Notify: %v, %v", changed, err)
				return
			}
			if notified++; notified == 20 {
				return
			}
			select {
			case <-synced:
				return
			default:
			}
		}
	})
	result, err := e.CatchUp(t.Context(), demo)
	close(synced)
	notifying.Wait()
	if err != nil || result.Added != events {
		t.Fatalf("the first sync: %+v, %v", result, err)
	}
	t.Logf("%+v with %d notifications meanwhile", result, notified)

	for i := range 300 {
		id := fmt.Sprintf("event%05d", i)
		if i%2 == 0 {
			err = google.Delete(demo, id)
		} else {
			_, err = google.Patch(demo, id, calendarfake.Event{"summary": "t"})
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 200 {
			google.Invalidate(demo)
		}
	}
	if result, err = e.Sync(t.Context(), demo); err != nil || !result.Full || result.Updated != 150 || result.Deleted != 150 {
		t.Errorf("the full comparison: %+v, %v", result, err)
	}
	for id, n := range in.seen {
		if n != 1 {
			t.Errorf("%s was put %d times", id, n)
		}
	}
	if err := e.Stop(t.Context(), demo); err != nil {
		t.Error(err)
	}
	if live, err := state.Live(t.Context(), demo); err != nil || len(live) != 0 {
		t.Errorf("%d events are left: %v", len(live), err)
	}
}

// counter counts how often each message was put.
type counter struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *counter) Put(_ context.Context, m *inbox.Message) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[m.MessageID]++
	return c.seen[m.MessageID] == 1, nil
}
