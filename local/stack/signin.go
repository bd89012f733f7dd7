package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	Developer   = "developer@localhost"
	iapAudience = "/projects/0/global/backendServices/local"
	iapHeader   = "X-Goog-Iap-Jwt-Assertion"
)

// signIn does what the Identity-Aware Proxy does in production: it signs the
// developer in. A request that brings its own ID token goes through as it is, so
// that the console's other way in can be tried.
func (s *Stack) signIn(console http.Handler) http.Handler {
	signed := s.keyed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assertion, err := s.issuer.IAPAssertion(map[string]any{"aud": iapAudience, "email": Developer, "sub": "accounts.google.com:1"})
		if err != nil {
			httpapi.WriteError(w, err)
			return
		}
		r.Header.Set(iapHeader, assertion)
		console.ServeHTTP(w, r)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del(iapHeader)
		if r.Header.Get("Authorization") != "" && (s.Key == nil || !s.Key.hasHeader(r)) {
			console.ServeHTTP(w, r)
		} else {
			signed.ServeHTTP(w, r)
		}
	})
}

// mayActAs refuses a caller of Pub/Sub's port, which wants no key, that would have pushes
// signed in the name of an account that this run trusts, or the programs of its --push. A
// push is an ID token for any audience: it would open the console.
func (s *Stack) mayActAs(ctx context.Context, account string) error {
	if !s.isOwn(account) || s.Key.hasCall(ctx) {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "Permission 'iam.serviceAccounts.actAs' denied on service account %s: with --host, only who sends the header in %s may have pushes signed in this name; name another service account.", account, filepath.Base(s.Key.File))
}

// isOwn reports whether this run, or a program that it pushes to, trusts tokens of an account.
func (s *Stack) isOwn(account string) bool {
	return account != "" && (slices.ContainsFunc([]string{PushAccount, publishCaller, Developer}, func(own string) bool { return strings.EqualFold(own, account) }) ||
		slices.ContainsFunc(s.options.Endpoints, func(e Endpoint) bool { return strings.EqualFold(e.Email, account) }))
}

// keyed has h want the key where there is one.
func (s *Stack) keyed(h http.Handler) http.Handler {
	if s.Key == nil {
		return h
	}
	return s.Key.Require(h)
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
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	})
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
