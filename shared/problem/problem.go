// Package problem is the project's one error with an HTTP status. Packages
// declare their errors with it, and httpapi answers with them. It knows nothing
// else of the project.
package problem

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// Error is an error with the HTTP status and the detail that a caller may see.
// The cause is for the log only. An Error declared as a package's variable is
// told apart with errors.Is, wrapped with fmt.Errorf and %w or as the Cause of
// another one.
type Error struct {
	Status int
	// Detail is safe to show: it is fixed, or holds nothing secret, and says
	// what to do next.
	Detail string
	// Reason is a short fixed name of the kind of error, in lower case with
	// underscores, for counting; see Reason. It is empty where the status says enough.
	Reason string
	Cause  error
}

// New returns an Error without a cause.
func New(status int, detail string) *Error { return &Error{Status: status, Detail: detail} }

// Named returns an Error with a reason and without a cause.
func Named(reason string, status int, detail string) *Error {
	return &Error{Status: status, Detail: detail, Reason: reason}
}

// Error returns the detail and the cause, for the log.
func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Detail
	}
	return e.Detail + ": " + e.Cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Of returns the HTTP status of err and a detail that is safe to show: those of
// the first Error that err is or wraps, 503 when a context ended, and 500
// otherwise.
func Of(err error) (status int, detail string) {
	var own *Error
	switch {
	case errors.As(err, &own):
		return own.Status, own.Detail
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "the request took too long; try again"
	default:
		return http.StatusInternalServerError, "an internal error; the log has the cause"
	}
}

// Reason returns the name of the kind of err, for counting: the Reason of the first
// Error with one that err is or wraps, or else one that the status gives.
func Reason(err error) string {
	rest := err
	for own := (*Error)(nil); errors.As(rest, &own); rest = own.Cause {
		if own.Reason != "" {
			return own.Reason
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	switch status, _ := Of(err); status {
	case http.StatusBadRequest:
		return "malformed"
	case http.StatusMethodNotAllowed:
		return "method"
	case http.StatusRequestEntityTooLarge:
		return "too_large"
	case http.StatusServiceUnavailable:
		return "unavailable"
	case http.StatusInternalServerError:
		return "internal"
	default:
		return strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_")
	}
}
