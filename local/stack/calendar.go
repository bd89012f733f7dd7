package stack

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"

	calendarfunction "example.com/pushinbox/functions/calendar"
	"example.com/pushinbox/local/boltstate"
	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/calendar/firestorestate"
)

const (
	// demoCalendar exists from the beginning, as does the developer's own.
	demoCalendar = "demo"
	// googlePath is where the stand-in for Google Calendar is.
	googlePath = "/local/calendar"
	syncTopic  = "inbox-calendar-sync"
	// safetyInterval is how often channels are renewed and calendars synced
	// without a notification, as Cloud Scheduler does.
	safetyInterval = 30 * time.Minute
)

// startCalendar mounts the function calendar with all that it needs: its state, a
// stand-in for Google, and the topic through which notifications ask for syncs.
func (s *Stack) startCalendar(ctx context.Context) error {
	o := s.options
	google, err := calendarfake.Open(filepath.Join(o.Data, "google-calendar.json"), &calendarfake.Options{Primary: Developer, Transport: plain{&http.Transport{}}})
	if err != nil {
		return dataError(o.Data, err)
	}
	google.AddCalendar(demoCalendar)
	google.AddCalendar("primary")
	var state calendar.State
	if o.FirestoreEmulator != "" {
		state, err = firestorestate.Open(ctx, firestorestate.Config{
			Project: o.Project, Database: o.Database, Collection: "calendars", EmulatorHost: o.FirestoreEmulator,
		})
	} else {
		state, err = boltstate.Open(filepath.Join(o.Data, calendarFile))
	}
	if err != nil {
		return dataError(o.Data, err)
	}
	s.onClose("the calendars' state", state.Close)
	client := &http.Client{}
	if s.Key != nil {
		client.Transport = keyTransport{s.Key}
	}
	service, err := gcal.NewService(ctx, option.WithEndpoint(s.URL+googlePath+"/"), option.WithHTTPClient(client))
	if err != nil {
		return err
	}
	engine, err := calendar.New(calendar.Options{
		Service: service, State: state, Inbox: s.store, Address: notificationAddress(s.URL), Log: s.log("calendar"),
	})
	if err != nil {
		return err
	}
	pushes := calendarSync()
	if o.PubSubEmulator != "" {
		// Google's emulator gives a message that an ended run had pulled to nobody
		// else until the ack deadline.
		pushes.AckDeadlineSeconds = 20
	}
	pushes.PushConfig = signedPush(s.URL+"/calendar/sync", s.URL+"/calendar")
	topic, _, err := s.startPubSub(ctx, syncTopic, syncTopic, pushes)
	if err != nil {
		return err
	}
	function, err := calendarfunction.New(calendarfunction.Config{
		Project: o.Project, Address: notificationAddress(s.URL), Audience: s.URL + "/calendar",
		Operators: []string{Developer, PushAccount}, SyncTopic: syncTopic,
	}, s.verifier, engine, topic, s.log("calendar"))
	if err != nil {
		return err
	}
	s.mount("/calendar", function)
	if err := s.mountGoogle(google); err != nil {
		return err
	}
	s.background("the notifications of calendars", google.Run)
	s.background("the syncing of calendars", func(ctx context.Context) { s.syncCalendars(ctx, engine, state) })
	return nil
}

// syncCalendars renews channels and syncs now and then, until ctx ends.
func (s *Stack) syncCalendars(ctx context.Context, engine *calendar.Engine, state calendar.State) {
	err := endLeases(ctx, state)
	for tick := time.Tick(safetyInterval); ; {
		_, renewErr := engine.Renew(ctx)
		_, syncErr := engine.SyncAll(ctx)
		if err := errors.Join(err, renewErr, syncErr); err != nil && ctx.Err() == nil {
			s.log("calendar").Error(err.Error())
		}
		err = nil
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// endLeases ends the leases of a run that was killed during a sync, which would
// keep its calendar waiting for a minute. There is no other run now.
func endLeases(ctx context.Context, state calendar.State) error {
	calendars, err := state.Calendars(ctx)
	for _, c := range calendars {
		err = errors.Join(err, state.UpdateCalendar(ctx, c.ID, func(stored *calendar.Calendar) (*calendar.Calendar, error) {
			if stored != nil {
				stored.LeaseUntil = time.Time{}
			}
			return stored, nil
		}))
	}
	return err
}

// mountGoogle serves the stand-in, below googlePath and at the root of its port,
// there with Google's own path in front too. The first event creates its calendar.
func (s *Stack) mountGoogle(google *calendarfake.Server) (err error) {
	api := http.NewServeMux()
	api.Handle("/", google)
	api.HandleFunc("POST /calendars/{calendar}/events", func(w http.ResponseWriter, r *http.Request) {
		google.AddCalendar(r.PathValue("calendar"))
		google.ServeHTTP(w, r)
	})
	root := http.NewServeMux()
	root.Handle("/", api)
	root.Handle("/calendar/v3/", http.StripPrefix("/calendar/v3", api))
	s.handle(googlePath+"/", s.keyed(jsonBodies(http.StripPrefix(googlePath, api))))
	// For short, the events of the demo calendar.
	s.handle(googlePath+"/events", s.keyed(jsonBodies(inDemo(google))))
	s.handle(googlePath+"/events/", s.keyed(jsonBodies(inDemo(google))))
	s.CalendarEndpoint, err = s.serveAlone("calendar-port", s.options.CalendarPort, s.keyed(jsonBodies(root)))
	return err
}

// inDemo serves the events of the demo calendar.
func inDemo(google http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath = "/calendars/"+demoCalendar+strings.TrimPrefix(r.URL.Path, googlePath), ""
		google.ServeHTTP(w, r)
	})
}

// notificationAddress is where the stand-in notifies, which like Google takes
// https addresses only.
func notificationAddress(base string) string {
	return "https" + strings.TrimPrefix(base, "http") + "/calendar/notifications"
}

// plain sends requests to https addresses of this machine over http: programs in
// development have no certificate.
type plain struct{ next http.RoundTripper }

func (p plain) RoundTrip(r *http.Request) (*http.Response, error) {
	if IsLoopback(r.URL.Host) {
		r = r.Clone(r.Context())
		r.URL.Scheme = "http"
	}
	return p.next.RoundTrip(r)
}
