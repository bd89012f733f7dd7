// Package httpapi holds the HTTP code that all functions share: bounded bodies,
// errors as problem+json with the right status, and one access log line per request
// in Cloud Logging's form. Of this project it knows only shared/problem.
package httpapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"example.com/pushinbox/shared/problem"
)

// HandlerFunc answers a request or returns an error, which Handle answers with
// unless the answer has begun.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// retryAfter is how long a caller should wait after a 503, in seconds.
const retryAfter = 5

// WriteError answers with err as application/problem+json (RFC 9457), with its
// reason, see problem.Reason, as an extension. A 401 carries WWW-Authenticate and a 503 Retry-After.
func WriteError(w http.ResponseWriter, err error) {
	status, detail := problem.Of(err)
	SetErrorHeaders(w.Header(), status)
	writeJSON(w, status, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Reason string `json:"reason"`
	}{http.StatusText(status), status, detail, problem.Reason(err)})
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
	// It fails when the caller is gone; nobody is left to answer.
	_ = json.NewEncoder(w).Encode(v)
}

// AllowMethods returns an error with status 405, and sets the header Allow, unless
// r has one of the methods.
func AllowMethods(w http.ResponseWriter, r *http.Request, methods ...string) error {
	if slices.Contains(methods, r.Method) {
		return nil
	}
	allowed := strings.Join(methods, ", ")
	w.Header().Set("Allow", allowed)
	return problem.New(http.StatusMethodNotAllowed, "use "+allowed)
}

// AllowParameters returns an error with status 400 if the query of r has another parameter
// than these.
func AllowParameters(r *http.Request, names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(r.URL.Query())) {
		if !slices.Contains(names, name) {
			return problem.New(http.StatusBadRequest, fmt.Sprintf("the parameter %.100q does not exist here; the parameters are: %s", name, cmp.Or(strings.Join(names, ", "), "none")))
		}
	}
	return nil
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
