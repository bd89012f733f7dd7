package stack

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// Who is who in a local run.
const (
	// PushAccount signs the pushes.
	PushAccount   = "push@local.iam.gserviceaccount.com"
	publishCaller = "publisher@local.iam.gserviceaccount.com"
	// Developer reads and operates everything.
	Developer       = "developer@localhost"
	iapAudience     = "/projects/0/global/backendServices/local"
	iapHeader       = "X-Goog-Iap-Jwt-Assertion"
	assertionMargin = time.Minute
	// googleKeys is where Google serves the keys of its ID tokens.
	googleKeys = "https://www.googleapis.com/oauth2/v3/certs"
)

// fromHere refuses a request whose Host is not this machine or that another site
// had the browser send. Any web page could otherwise use what a local run gives
// without a credential.
func fromHere(r *http.Request) error {
	if !IsLoopback(r.Host) {
		return problem.New(http.StatusForbidden, "open this address as 127.0.0.1 or localhost")
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "same-origin", "none":
	default:
		return problem.New(http.StatusForbidden, "the request comes from another site; if you followed a link, type its address instead")
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return problem.New(http.StatusForbidden, "the request comes from another site")
		}
	}
	return nil
}

// Guard refuses requests that do not come from this machine, or that another site
// had the browser send, with 403.
func Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := fromHere(r); err != nil {
			httpapi.WriteError(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// IsLoopback reports whether host, with or without a port, is this machine.
func IsLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// proxy stands where the Identity-Aware Proxy is in production: it signs the
// developer in. A request that brings its own ID token goes through as it is,
// so that the console's other way in can be tried.
type proxy struct {
	issuer *pushfake.Issuer
	next   http.Handler

	mu        sync.Mutex
	assertion string
	expires   time.Time
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Header.Del(iapHeader)
	if r.Header.Get("Authorization") == "" {
		if err := fromHere(r); err != nil {
			httpapi.WriteError(w, err)
			return
		}
		assertion, err := p.current()
		if err != nil {
			httpapi.WriteError(w, err)
			return
		}
		r.Header.Set(iapHeader, assertion)
	}
	p.next.ServeHTTP(w, r)
}

// current returns an assertion that is not about to expire.
func (p *proxy) current() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now().Round(0) // the wall clock, which goes on while a laptop sleeps
	if now.Add(assertionMargin).Before(p.expires) {
		return p.assertion, nil
	}
	expires := now.Add(10 * time.Minute)
	assertion, err := p.issuer.IAPAssertion(map[string]any{
		"aud": iapAudience, "email": Developer, "sub": "accounts.google.com:1", "exp": expires.Unix(),
	})
	if err != nil {
		return "", err
	}
	p.assertion, p.expires = assertion, expires
	return assertion, nil
}

// tokens serves GET /local/token: an ID token for one of the functions, with
// any claim set by the query parameter of its name.
func tokens(issuer *pushfake.Issuer, base string) http.Handler {
	defaults := map[string]map[string]any{
		"receive":  {"aud": base + "/receive", "email": PushAccount},
		"publish":  {"aud": base + "/publish", "email": publishCaller},
		"console":  {"aud": base + "/", "email": Developer},
		"calendar": {"aud": base + "/calendar", "email": Developer},
	}
	return Guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		values := r.URL.Query()
		target := values.Get("for")
		if target == "" {
			target = "receive"
		}
		if defaults[target] == nil {
			httpapi.WriteError(w, problem.New(http.StatusBadRequest, "for must be receive, publish, console or calendar"))
			return
		}
		claims := maps.Clone(defaults[target])
		for name, v := range values {
			if name != "for" {
				claims[name] = claimValue(v[0])
			}
		}
		token, err := issuer.IDToken(claims)
		if err != nil {
			httpapi.WriteError(w, &problem.Error{Status: http.StatusBadRequest, Detail: "these claims cannot be signed", Cause: err})
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprintln(w, token)
	}))
}

// certs serves GET /local/certs: the public keys of the tokens, for code in
// other languages that verifies them.
func certs(issuer *pushfake.Issuer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, googleKeys, nil)
		if err != nil {
			httpapi.WriteError(w, err)
			return
		}
		resp, err := issuer.Transport().RoundTrip(req)
		if err != nil {
			httpapi.WriteError(w, err)
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		_, _ = io.Copy(w, resp.Body)
	}
}

// claimValue reads a claim from a query: JSON counts as such, an empty value
// leaves the claim out, anything else is a string.
func claimValue(s string) any {
	if s == "" {
		return nil
	}
	var v any
	if json.Unmarshal([]byte(s), &v) == nil {
		return v
	}
	return s
}
