// Package httpapi is what the functions share of HTTP: bounded bodies, errors
// as problem+json with the right status, and one access log line per request
// in Cloud Logging's form. It knows nothing else of the project: an error says
// its own status through the method HTTPStatus.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
)

// HandlerFunc answers a request or returns why it cannot. An error is answered
// for it, unless it has written an answer of its own.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Error is an error with the status and the detail that the caller sees. The
// cause, when there is one, goes to the log only.
type Error struct {
	Status int
	Detail string
	Cause  error
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

// HTTPStatus returns the status and the detail for the caller.
func (e *Error) HTTPStatus() (int, string) { return e.Status, e.Detail }

// Status returns the HTTP status of err and a detail that is safe to show: its
// own when it or an error it wraps has the method HTTPStatus, 503 when a
// context ended, 500 otherwise.
func Status(err error) (status int, detail string) {
	var own interface{ HTTPStatus() (int, string) }
	switch {
	case errors.As(err, &own):
		return own.HTTPStatus()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "the request took too long; try again"
	default:
		return http.StatusInternalServerError, "an internal error; the log has the cause"
	}
}

// retryAfter is how long a caller should wait after a 503, in seconds.
const retryAfter = 5

// WriteError answers with err as application/problem+json (RFC 9457). A 401
// carries WWW-Authenticate and a 503 Retry-After.
func WriteError(w http.ResponseWriter, err error) {
	status, detail := Status(err)
	SetErrorHeaders(w.Header(), status)
	writeJSON(w, status, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
}

// SetErrorHeaders sets the headers that go with a status in every form of an
// error: WWW-Authenticate with a 401, Retry-After with a 503.
func SetErrorHeaders(h http.Header, status int) {
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
}

// WriteJSON answers with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	writeJSON(w, status, "application/json", v)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A failure here is a caller who went away; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}

// AllowMethods returns a 405 unless r has one of the methods, and sets Allow.
func AllowMethods(w http.ResponseWriter, r *http.Request, methods ...string) error {
	for _, m := range methods {
		if r.Method == m {
			return nil
		}
	}
	allowed := strings.Join(methods, ", ")
	w.Header().Set("Allow", allowed)
	return &Error{Status: http.StatusMethodNotAllowed, Detail: "use " + allowed}
}

// CheckSize returns a 413 when r announces a body of more than limit bytes, so
// that an oversized request costs nothing before its sender is known.
func CheckSize(r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	return nil
}

// ReadBody reads the whole body of r, once. More than limit bytes is a 413, a
// body that breaks off a 400.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if err := CheckSize(r, limit); err != nil {
		return nil, err
	}
	body := http.MaxBytesReader(w, r.Body, limit)
	var b []byte
	var err error
	if r.ContentLength > 0 {
		b = make([]byte, r.ContentLength)
		_, err = io.ReadFull(body, b)
	} else {
		b, err = io.ReadAll(body)
	}
	if err != nil {
		if tooMany := (*http.MaxBytesError)(nil); errors.As(err, &tooMany) {
			return nil, tooLarge(limit)
		}
		return nil, &Error{Status: http.StatusBadRequest, Detail: "the body broke off", Cause: err}
	}
	return b, nil
}

func tooLarge(limit int64) error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge,
		Detail: fmt.Sprintf("the body is larger than %d bytes", limit),
	}
}

// call runs next and turns a panic into an error, so that a bug answers 500
// with its stack in the log instead of a broken connection.
func call(next HandlerFunc, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return next(w, r)
}
