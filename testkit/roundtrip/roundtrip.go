// Package roundtrip answers the requests of an HTTP client under test without a server.
package roundtrip

import "net/http"

// Func is a function as an http.RoundTripper.
type Func func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f Func) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Hangs answers nothing until the request's context ends.
var Hangs Func = func(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
