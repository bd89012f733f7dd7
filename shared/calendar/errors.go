package calendar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.com/pushinbox/shared/problem"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/googleapi"
)

// The errors of an Engine, beside those of its Inbox.
var (
	// ErrUnknownChannel is returned by Notify for a channel that was never opened
	// here, or was deleted. Answer it with success: Google would not stop for a
	// refusal.
	ErrUnknownChannel = problem.New(http.StatusNotFound, "this channel is not known")
	// ErrForged is returned by Notify when the token or the resource is not the
	// channel's.
	ErrForged = problem.New(http.StatusForbidden, "this notification is not from Google")
	// ErrCalendarID is returned for what is not a valid calendar ID.
	ErrCalendarID = problem.New(http.StatusBadRequest, "this is not a valid calendar ID, such as an e-mail address; primary is not supported")
	// ErrNotWatched is returned for a calendar that is not watched.
	ErrNotWatched = problem.New(http.StatusNotFound, "this calendar is not watched; watch it first")
	// ErrStopping is returned by Watch for a calendar whose Stop failed half-way.
	ErrStopping = problem.New(http.StatusConflict, "stopping this calendar did not finish; stop it again first")
	// ErrBusy is returned when another sync of the calendar is under way. That one
	// runs once more for this request. A retry finds nothing left to do, or
	// finishes what the other one left when it died.
	ErrBusy = problem.New(http.StatusServiceUnavailable, "another sync of this calendar is under way")
	// ErrLeaseLost is returned by a State when another runner has taken the
	// calendar's lease, or the calendar is forgotten.
	ErrLeaseLost = problem.New(http.StatusServiceUnavailable, "another sync of this calendar has taken over")
	// ErrState is returned when the State cannot be reached.
	ErrState = problem.New(http.StatusServiceUnavailable, "the state of the calendars cannot be reached")
	// ErrUnavailable is returned when Google Calendar cannot be reached, or still
	// lacks capacity or quota after all attempts.
	ErrUnavailable = problem.New(http.StatusServiceUnavailable, "Google Calendar cannot be reached")
	// ErrRefused is wrapped by the error of a call that Google Calendar refuses for
	// good. That error has the status and says what to do.
	ErrRefused = errors.New("calendar: Google refuses the call")
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

// refusals are what Google refuses for a reason that it names, and what to do
// about it.
var refusals = []struct {
	reasons []string
	status  int
	detail  string
}{
	{
		[]string{"push.webhookUrlUnauthorized", "webhookUrlUnauthorized"}, http.StatusBadRequest,
		"Google does not deliver to this address: verify its domain (set CALENDAR_SITE_VERIFICATION and add the site in Search Console), then watch again",
	},
	{
		[]string{"push.webhookUrlNotHttps", "webhookUrlNotHttps"}, http.StatusBadRequest,
		"Google delivers only to https addresses with a valid certificate: correct CALENDAR_ADDRESS",
	},
	{
		[]string{"pushNotSupportedForRequestedResource"}, http.StatusBadRequest,
		"Google sends no notifications for this calendar, as for public holiday calendars",
	},
	{
		[]string{"channelIdNotUnique"}, http.StatusServiceUnavailable,
		"Google has this channel already; try again",
	},
	{
		[]string{"insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}, http.StatusForbidden,
		"the credentials lack the scope https://www.googleapis.com/auth/calendar.events.readonly",
	},
	{
		[]string{"accessNotConfigured", "SERVICE_DISABLED"}, http.StatusForbidden,
		"the Google Calendar API is off in this project: enable calendar-json.googleapis.com",
	},
}

// publicError returns the error of a call to Google as callers may see it.
func publicError(err error) error {
	var g *googleapi.Error
	if !errors.As(err, &g) || temporary(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	refused := &problem.Error{Cause: fmt.Errorf("%w: %w", ErrRefused, err)}
	for _, r := range refusals {
		if hasReason(g, r.reasons...) {
			refused.Status, refused.Detail = r.status, r.detail
			return refused
		}
	}
	switch g.Code {
	case http.StatusUnauthorized:
		refused.Status = http.StatusServiceUnavailable
		refused.Detail = "Google does not accept the credentials of this function; with CALENDAR_SUBJECT, allow the client ID of its account the scope https://www.googleapis.com/auth/calendar.events.readonly under domain-wide delegation"
	case http.StatusForbidden, http.StatusNotFound:
		if g.Code == http.StatusNotFound || !limited(g) {
			refused.Cause = fmt.Errorf("%w: %w", errNotShown, refused.Cause)
		}
		refused.Status = g.Code
		refused.Detail = "Google shows no such calendar to this function: share it with the function's service account (\"See all event details\"), or set CALENDAR_SUBJECT to a user who can see it"
	default:
		refused.Status = http.StatusBadGateway
		refused.Detail = "Google Calendar refuses the request; the log has the reason"
	}
	return refused
}

func hasReason(g *googleapi.Error, names ...string) bool {
	return slices.ContainsFunc(g.Errors, func(item googleapi.ErrorItem) bool { return slices.Contains(names, item.Reason) })
}

// limited reports whether Google refuses because of a limit or quota, of which it
// has more than are documented.
func limited(g *googleapi.Error) bool {
	return slices.ContainsFunc(g.Errors, func(item googleapi.ErrorItem) bool {
		reason := strings.ToLower(item.Reason)
		return strings.Contains(reason, "limit") || strings.Contains(reason, "quota")
	})
}

// hasCode reports whether Google answered with this status.
func hasCode(err error, code int) bool {
	var g *googleapi.Error
	return errors.As(err, &g) && g.Code == code
}

// temporary reports whether a call that failed with err may succeed later.
func temporary(err error) bool {
	var g *googleapi.Error
	if !errors.As(err, &g) {
		return true // no answer, or an incomplete one
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
	// maxAttempts bounds the attempts of one call. With random pauses that double
	// up to maxPause they take a minute and a half on average, three at most.
	maxAttempts = 9
	maxPause    = 32 * time.Second
	// callTimeout bounds one attempt. It is shorter than a lease.
	callTimeout = 30 * time.Second
)

// retry calls Google until the call succeeds, fails for good, or ctx ends. It
// runs before ahead of each attempt, unless before is nil, and ends with its
// error.
func (e *Engine) retry(ctx context.Context, before, call func(context.Context) error) error {
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
		case !temporary(err) || n == maxAttempts:
			return publicError(err)
		}
		if err := e.o.Sleep(ctx, pause.Pause()); err != nil {
			return err
		}
	}
}
