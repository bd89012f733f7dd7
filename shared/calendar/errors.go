package calendar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/googleapi"
)

// Error is an error with the HTTP status a caller should see.
type Error struct {
	status int
	detail string
}

// Error returns the fixed description.
func (e *Error) Error() string { return "calendar: " + e.detail }

// HTTPStatus returns the status for the caller and a detail that is safe to
// show.
func (e *Error) HTTPStatus() (status int, detail string) { return e.status, e.detail }

// The errors of an Engine, beside those of its Inbox.
var (
	// ErrUnknownChannel is what Notify returns for a channel that nobody here
	// opened, or that was forgotten. Answer it with success: a refusal would
	// change nothing for Google.
	ErrUnknownChannel error = &Error{http.StatusNotFound, "no such channel"}
	// ErrForged is what Notify returns when the token or the resource is not the
	// channel's.
	ErrForged error = &Error{http.StatusForbidden, "this notification is not from Google"}
	// ErrCalendarID is returned for something that cannot be a calendar's ID.
	ErrCalendarID error = &Error{http.StatusBadRequest, "this is not a calendar ID"}
	// ErrNotWatched is returned for a calendar that is not watched.
	ErrNotWatched error = &Error{http.StatusNotFound, "this calendar is not watched; watch it first"}
	// ErrStopping is returned by Watch for a calendar whose Stop did not end.
	ErrStopping error = &Error{http.StatusConflict, "the last stop of this calendar did not end; stop it again first"}
	// ErrBusy says that another sync of the calendar is under way. It runs once
	// more for who got this; asking again finds nothing left to do, or does what
	// it did not live to do.
	ErrBusy error = &Error{http.StatusServiceUnavailable, "another sync of this calendar is under way"}
	// ErrLeaseLost is returned by a State when another runner has taken the
	// calendar's lease, or the calendar is forgotten.
	ErrLeaseLost error = &Error{http.StatusServiceUnavailable, "another sync of this calendar has taken over"}
	// ErrState is returned when the State cannot be reached.
	ErrState error = &Error{http.StatusServiceUnavailable, "what is known of the calendars cannot be reached"}
	// ErrUnavailable is returned when Google Calendar cannot be reached, or has no
	// capacity or quota left after all tries.
	ErrUnavailable error = &Error{http.StatusServiceUnavailable, "Google Calendar cannot be reached"}
	// ErrRefused is returned when Google Calendar refuses a call for good. The
	// error that wraps it has the status and says what to do.
	ErrRefused = errors.New("calendar: Google refuses")
)

// CalendarError is the error of one of several calendars.
type CalendarError struct {
	CalendarID string
	Err        error
}

// Error returns the calendar's ID and its error.
func (e *CalendarError) Error() string { return e.CalendarID + ": " + e.Err.Error() }

// Unwrap returns the calendar's error.
func (e *CalendarError) Unwrap() error { return e.Err }

// refusal is a refusal of Google's with what to do about it.
type refusal struct {
	outward *Error
	cause   error
}

func (r *refusal) Error() string   { return r.outward.Error() + ": " + r.cause.Error() }
func (r *refusal) Unwrap() []error { return []error{ErrRefused, r.outward, r.cause} }

// outward returns the error of a call to Google as callers may see it.
func outward(err error) error {
	var g *googleapi.Error
	if !errors.As(err, &g) || passing(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	reason := func(names ...string) bool { return hasReason(g, names...) }
	switch {
	case reason("push.webhookUrlUnauthorized", "webhookUrlUnauthorized"):
		return refuse(err, http.StatusBadRequest, "Google does not deliver to this address: verify its domain (set CALENDAR_SITE_VERIFICATION and add the site in Search Console), then watch again")
	case reason("push.webhookUrlNotHttps", "webhookUrlNotHttps"):
		return refuse(err, http.StatusBadRequest, "Google delivers to https addresses with a valid certificate only: mend CALENDAR_ADDRESS")
	case reason("pushNotSupportedForRequestedResource"):
		return refuse(err, http.StatusBadRequest, "Google sends no notifications for this calendar, as for public holiday calendars")
	case reason("channelIdNotUnique"):
		return refuse(err, http.StatusServiceUnavailable, "Google has this channel already; try again")
	case reason("insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"):
		return refuse(err, http.StatusForbidden, "the credentials lack the scope https://www.googleapis.com/auth/calendar.events.readonly")
	case reason("accessNotConfigured", "SERVICE_DISABLED"):
		return refuse(err, http.StatusForbidden, "the Google Calendar API is off in this project: enable calendar-json.googleapis.com")
	}
	switch g.Code {
	case http.StatusUnauthorized:
		return refuse(err, http.StatusServiceUnavailable, "Google does not accept the credentials of this function; with CALENDAR_SUBJECT, allow the client ID of its account the scope https://www.googleapis.com/auth/calendar.events.readonly under domain-wide delegation")
	case http.StatusForbidden, http.StatusNotFound:
		return refuse(err, g.Code, "Google shows no such calendar to this function: share it with the function's service account (\"See all event details\"), or set CALENDAR_SUBJECT to a user who can see it")
	}
	return refuse(err, http.StatusBadGateway, "Google Calendar refuses the request; the log has the reason")
}

func refuse(cause error, status int, detail string) error {
	return &refusal{&Error{status, detail}, cause}
}

func hasReason(g *googleapi.Error, names ...string) bool {
	for _, item := range g.Errors {
		for _, name := range names {
			if item.Reason == name {
				return true
			}
		}
	}
	return false
}

// hasCode reports whether Google answered with this status.
func hasCode(err error, code int) bool {
	var g *googleapi.Error
	return errors.As(err, &g) && g.Code == code
}

// passing reports whether a call that failed with err may succeed later.
func passing(err error) bool {
	var g *googleapi.Error
	if !errors.As(err, &g) {
		return true // no answer, or half of one
	}
	switch {
	case g.Code >= 500, g.Code == http.StatusTooManyRequests, g.Code == http.StatusRequestTimeout:
		return true
	case g.Code == http.StatusForbidden:
		return hasReason(g, "rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "RATE_LIMIT_EXCEEDED")
	}
	return false
}

const (
	// maxTries is how often a call is tried: with random pauses that double up to
	// maxPause about a minute and a half, and at most three.
	maxTries = 9
	maxPause = 32 * time.Second
	// callTimeout bounds one try. It is shorter than a lease.
	callTimeout = 30 * time.Second
)

// try makes a call to Google until it succeeds, fails for good, or ctx ends.
// It runs before ahead of each try, unless it is nil, and ends with its error.
func (e *Engine) try(ctx context.Context, before, call func(context.Context) error) error {
	pause := gax.Backoff{Initial: time.Second, Max: maxPause, Multiplier: 2}
	for n := 1; ; n++ {
		if before != nil {
			if err := before(ctx); err != nil {
				return err
			}
		}
		within, cancel := context.WithTimeout(ctx, callTimeout)
		err := call(within)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !passing(err) || n == maxTries:
			return outward(err)
		}
		if err := e.sleep(ctx, pause.Pause()); err != nil {
			return err
		}
	}
}
