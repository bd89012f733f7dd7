// Package calendar is the Cloud Function that Google Calendar notifies. It
// records that a calendar has changed, has Pub/Sub push the sync that finds out
// what, and lets operators and Cloud Scheduler watch, renew, sync and stop.
package calendar

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"cloud.google.com/go/compute/metadata"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	"golang.org/x/oauth2"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/impersonate"
	"google.golang.org/api/option"

	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/calendar/firestorestate"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
)

func init() {
	log := httpapi.NewLogger(os.Stderr)
	functions.HTTP("calendar", httpapi.Function("calendar", os.Getenv("FUNCTION_TARGET"), log, func(ctx context.Context) (http.Handler, error) {
		e, err := settings.Parse[environment](nil)
		if err != nil {
			return nil, err
		}
		verifier, err := verify.New(nil)
		if err != nil {
			return nil, err
		}
		store, err := firestoreinbox.Open(ctx, e.Config)
		if err != nil {
			return nil, err
		}
		topic, err := publisher.Open(ctx, e.Calendar.Project, e.Calendar.SyncTopic)
		if err != nil {
			return nil, err
		}
		state, err := firestorestate.Open(ctx, e.State)
		if err != nil {
			return nil, err
		}
		service, err := googleCalendar(ctx, e.Calendar.Subject)
		if err != nil {
			return nil, err
		}
		engine, err := calendar.New(calendar.Options{
			Service: service, State: state, Inbox: store, Address: e.Calendar.Address, Log: log,
		})
		if err != nil {
			return nil, err
		}
		return New(e.Calendar, verifier, engine, topic, log)
	}))
}

// googleCalendar returns Google Calendar as the function's own account sees it, or as
// subject does where that is set. Acting for a user takes no key: the account
// signs for itself, which it must be allowed to.
func googleCalendar(ctx context.Context, subject string) (*gcal.Service, error) {
	credentials := option.WithScopes(gcal.CalendarEventsReadonlyScope)
	if subject != "" {
		account, err := metadata.EmailWithContext(ctx, "default")
		if err != nil {
			return nil, fmt.Errorf("calendar: the function's own account is unknown: %w", err)
		}
		tokens, err := impersonate.CredentialsTokenSource(ctx, impersonate.CredentialsConfig{
			TargetPrincipal: account, Subject: subject, Scopes: []string{gcal.CalendarEventsReadonlyScope},
		})
		if err != nil {
			return nil, fmt.Errorf("calendar: acting for CALENDAR_SUBJECT: %w", err)
		}
		credentials = option.WithTokenSource(delegated{tokens})
	}
	service, err := gcal.NewService(ctx, credentials)
	if err != nil {
		return nil, fmt.Errorf("calendar: cannot connect to Google Calendar: %w", err)
	}
	return service, nil
}

// delegated tells a refusal of the delegation from an outage. impersonate has no
// type for it, only its text.
type delegated struct{ oauth2.TokenSource }

func (d delegated) Token() (*oauth2.Token, error) {
	token, err := d.TokenSource.Token()
	if err != nil && strings.HasPrefix(err.Error(), "impersonate: status code 4") {
		err = &googleapi.Error{Code: http.StatusUnauthorized, Message: err.Error()}
	}
	return token, err
}
