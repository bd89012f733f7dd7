package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"

	calendarfunction "example.com/pushinbox/functions/calendar"
	"example.com/pushinbox/local/boltstate"
	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/calendar/firestorestate"
	"example.com/pushinbox/shared/inbox"
)

const (
	// demoCalendar is there without being made.
	demoCalendar = "demo"
	// googlePath is where the stand-in for Google Calendar is.
	googlePath = "/local/calendar"
	syncTopic  = "inbox-calendar-sync"
	// safetyInterval is how often channels are renewed and calendars synced
	// without a notification, as Cloud Scheduler does.
	safetyInterval = 30 * time.Minute
)

// localCalendar is the function calendar with all that it needs: its state, a
// stand-in for Google, and the topic through which notifications ask for syncs.
type localCalendar struct {
	google *calendarfake.Server
	state  calendar.State
	engine *calendar.Engine
	// pubSub pushes what asks for a sync.
	pubSub *localPubSub
}

// openCalendar opens the state and the stand-in, and starts the pushing of
// syncs. Whoever calls it ends the pushing and closes the state.
func (l *local) openCalendar(ctx context.Context, base string, issuer *pushfake.Issuer, store inbox.Inbox) (_ *localCalendar, err error) {
	if err := os.MkdirAll(l.data, 0o700); err != nil {
		return nil, dataError(l.data, err)
	}
	c := &localCalendar{}
	c.google, err = calendarfake.Open(filepath.Join(l.data, "google-calendar.json"), &calendarfake.Options{Transport: plain{&http.Transport{}}})
	if err != nil {
		return nil, dataError(l.data, err)
	}
	c.google.AddCalendar(demoCalendar)
	if c.state, err = l.openCalendarState(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.state.Close())
		}
	}()
	service, err := gcal.NewService(ctx, option.WithEndpoint(base+googlePath+"/"), option.WithHTTPClient(&http.Client{}))
	if err != nil {
		return nil, err
	}
	c.engine, err = calendar.New(calendar.Options{
		Service: service, State: c.state, Inbox: store, Address: notificationAddress(base), Log: l.log("calendar"),
	})
	if err != nil {
		return nil, err
	}
	project := "projects/" + l.settings.Project
	pushes := calendarSync
	if l.settings.PubSubEmulator != "" {
		// For as long, a run that has ended keeps what it was about to pull from
		// Google's emulator.
		pushes.AckDeadline = 20 * time.Second
	}
	c.pubSub, err = l.startPubSub(ctx, base+"/calendar/sync", issuer, nil,
		pushes.subscription(project+"/topics/"+syncTopic, project+"/subscriptions/"+syncTopic, signedPush(base+"/calendar")))
	return c, err
}

func (l *local) openCalendarState(ctx context.Context) (calendar.State, error) {
	s := l.settings
	if s.FirestoreEmulator != "" {
		return firestorestate.Open(ctx, firestorestate.Config{
			Project: s.Project, Database: s.Database, Collection: "calendars", EmulatorHost: s.FirestoreEmulator,
		})
	}
	state, err := boltstate.Open(filepath.Join(l.data, "calendar.db"))
	if err != nil {
		return nil, dataError(l.data, err)
	}
	return state, nil
}

// run sends what the stand-in has to send, and renews and syncs now and then,
// until ctx ends.
func (c *localCalendar) run(ctx context.Context, l *local) {
	var running sync.WaitGroup
	running.Go(func() { c.google.Run(ctx) })
	running.Go(func() {
		err := c.endLeases(ctx)
		for tick := time.Tick(safetyInterval); ; {
			_, renewErr := c.engine.Renew(ctx)
			_, syncErr := c.engine.SyncAll(ctx)
			if err := errors.Join(err, renewErr, syncErr); err != nil && ctx.Err() == nil {
				l.log("calendar").Error(err.Error())
			}
			err = nil
			select {
			case <-ctx.Done():
				return
			case <-tick:
			}
		}
	})
	running.Wait()
}

// endLeases ends the leases of a run that was killed during a sync, which would
// keep its calendar waiting for a minute. There is no other run now.
func (c *localCalendar) endLeases(ctx context.Context) error {
	calendars, err := c.state.Calendars(ctx)
	for _, found := range calendars {
		err = errors.Join(err, c.state.UpdateCalendar(ctx, found.ID, func(kept *calendar.Calendar) (*calendar.Calendar, error) {
			if kept != nil {
				kept.LeaseUntil = time.Time{}
			}
			return kept, nil
		}))
	}
	return err
}

// mount serves the function and the stand-in.
func (c *localCalendar) mount(mux *http.ServeMux, l *local, base string, v calendarfunction.Verifier) error {
	function, err := calendarfunction.New(calendarfunction.Config{
		Project: l.settings.Project, Address: notificationAddress(base), Audience: base + "/calendar",
		Operators: []string{developer, pushAccount}, SyncTopic: syncTopic,
	}, v, c.engine, c.pubSub.topic, l.log("calendar"))
	if err != nil {
		return err
	}
	mux.Handle("/calendar", http.StripPrefix("/calendar", function))
	mux.Handle("/calendar/", http.StripPrefix("/calendar", function))

	google := func(prefix, path string) http.Handler {
		return guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if id := r.PathValue("calendar"); id != "" {
				c.google.AddCalendar(id)
			}
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = path+strings.TrimPrefix(r.URL.Path, prefix), ""
			c.google.ServeHTTP(w, r)
		}))
	}
	mux.Handle(googlePath+"/", google(googlePath, ""))
	// The first event makes its calendar.
	mux.Handle("POST "+googlePath+"/calendars/{calendar}/events", google(googlePath, ""))
	// For short, the events of the demo calendar.
	mux.Handle(googlePath+"/events", google(googlePath, "/calendars/"+demoCalendar))
	mux.Handle(googlePath+"/events/", google(googlePath, "/calendars/"+demoCalendar))
	return nil
}

// notificationAddress is where the stand-in notifies, which like Google takes
// https addresses only.
func notificationAddress(base string) string {
	return "https" + strings.TrimPrefix(base, "http") + "/calendar/notifications"
}

// plain sends requests to https addresses over http.
type plain struct{ next http.RoundTripper }

func (p plain) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "http"
	return p.next.RoundTrip(r)
}
