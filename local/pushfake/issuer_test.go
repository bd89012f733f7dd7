package pushfake_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/verify"
	"example.com/pushinbox/testkit/roundtrip"
)

const (
	googleKeys = "https://www.googleapis.com/oauth2/v3/certs"
	iapKeys    = "https://www.gstatic.com/iap/verify/public_key-jwk"
)

func newIssuer(t *testing.T, o *pushfake.IssuerOptions) *pushfake.Issuer {
	t.Helper()
	issuer, err := pushfake.NewIssuer(o)
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

// parts returns the header and the claims of a token, unverified.
func parts(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	c := jwt.MapClaims{}
	parsed, _, err := jwt.NewParser().ParseUnverified(token, c)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Header, c
}

func TestIDToken(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 123)
	issuer := newIssuer(t, &pushfake.IssuerOptions{Now: func() time.Time { return now }})
	// The claims of a token of which nothing is asked.
	usual := func() map[string]any {
		return map[string]any{
			"iss": "https://accounts.google.com", "aud": pushfake.DefaultAudience,
			"email": pushfake.DefaultEmail, "email_verified": true,
			"sub": "111690491677130810627", "azp": "111690491677130810627",
			"iat": 1.8e9, "exp": 1.8e9 + 3600,
		}
	}
	for name, tc := range map[string]struct {
		claims map[string]any
		change func(want map[string]any)
	}{
		"defaults": {nil, func(map[string]any) {}},
		"overridden": {
			map[string]any{"iss": "x", "aud": []string{"a", "b"}, "email_verified": "true", "sub": 7, "exp": nil},
			func(want map[string]any) {
				want["iss"], want["aud"], want["email_verified"], want["sub"] = "x", []any{"a", "b"}, "true", 7.0
				delete(want, "exp")
			},
		},
		"added":                 {map[string]any{"nbf": 1, "hd": "example.com"}, func(want map[string]any) { want["nbf"], want["hd"] = 1.0, "example.com" }},
		"all_removed":           {map[string]any{"iss": nil, "aud": nil, "email": nil, "email_verified": nil, "sub": nil, "azp": nil, "iat": nil, "exp": nil}, func(want map[string]any) { clear(want) }},
		"an_hour_from_int":      {map[string]any{"iat": 1000}, func(want map[string]any) { want["iat"], want["exp"] = 1000.0, 4600.0 }},
		"an_hour_from_int64":    {map[string]any{"iat": int64(1000)}, func(want map[string]any) { want["iat"], want["exp"] = 1000.0, 4600.0 }},
		"an_hour_from_float":    {map[string]any{"iat": 1000.0}, func(want map[string]any) { want["iat"], want["exp"] = 1000.0, 4600.0 }},
		"iat_that_is_no_number": {map[string]any{"iat": "soon"}, func(want map[string]any) { want["iat"] = "soon" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token, err := issuer.IDToken(tc.claims)
			if err != nil {
				t.Fatal(err)
			}
			header, claims := parts(t, token)
			want := usual()
			tc.change(want)
			if diff := cmp.Diff(want, claims); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
			if kid, _ := header["kid"].(string); header["alg"] != "RS256" || header["typ"] != "JWT" || len(header) != 3 || !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(kid) {
				t.Errorf("header: %v", header)
			}
		})
	}
	t.Run("accounts_differ", func(t *testing.T) {
		t.Parallel()
		token, err := issuer.IDToken(map[string]any{"email": "other@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		_, claims := parts(t, token)
		if claims["sub"] == usual()["sub"] || claims["sub"] != claims["azp"] || !regexp.MustCompile(`^1\d{20}$`).MatchString(claims["sub"].(string)) {
			t.Errorf("claims: %v", claims)
		}
	})
	t.Run("not_json", func(t *testing.T) {
		t.Parallel()
		if _, err := issuer.IDToken(map[string]any{"aud": make(chan int)}); err == nil {
			t.Error("no error")
		}
		if _, err := issuer.IAPAssertion(map[string]any{"aud": make(chan int)}); err == nil {
			t.Error("no error for the assertion")
		}
	})
}

// TestVerified has the real verifiers check what an Issuer signs, with nothing
// changed in them but the transport.
func TestVerified(t *testing.T) {
	t.Parallel()
	issuer, other := newIssuer(t, nil), newIssuer(t, nil)
	idToken, err := issuer.IDToken(map[string]any{"aud": "inbox", "email": "push@p.iam.gserviceaccount.com"})
	if err != nil {
		t.Fatal(err)
	}
	assertion, err := issuer.IAPAssertion(map[string]any{"aud": "/projects/1/apps/p", "email": "reader@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("idtoken", func(t *testing.T) {
		t.Parallel()
		for _, tc := range []struct{ token, audience string }{{idToken, "inbox"}, {assertion, "/projects/1/apps/p"}} {
			validator := newValidator(t, issuer.Transport())
			if _, err := validator.Validate(t.Context(), tc.token, tc.audience); err != nil {
				t.Errorf("own keys: %v", err)
			}
			if _, err := newValidator(t, other.Transport()).Validate(t.Context(), tc.token, tc.audience); err == nil {
				t.Error("another issuer's keys: no error")
			}
		}
	})
	t.Run("verify", func(t *testing.T) {
		t.Parallel()
		verifier, err := verify.New(&verify.Options{Transport: issuer.Transport()})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("Authorization", "Bearer "+idToken)
		r.Header.Set("X-Goog-Iap-Jwt-Assertion", assertion)
		claims, err := verifier.IDToken(r, verify.Policy{Audience: "inbox", Emails: []string{"push@p.iam.gserviceaccount.com"}})
		if err != nil || claims.ExpiresAt.Sub(claims.IssuedAt) != time.Hour {
			t.Errorf("ID token: %+v, %v", claims, err)
		}
		claims, err = verifier.IAP(r, "/projects/1/apps/p")
		if err != nil || claims.Email != "reader@example.com" || claims.ExpiresAt.Sub(claims.IssuedAt) != 10*time.Minute {
			t.Errorf("IAP assertion: %+v, %v", claims, err)
		}
	})
}

func newValidator(t *testing.T, rt http.RoundTripper) *idtoken.Validator {
	t.Helper()
	validator, err := idtoken.NewValidator(t.Context(), option.WithHTTPClient(&http.Client{Transport: rt}))
	if err != nil {
		t.Fatal(err)
	}
	return validator
}

func TestTransport(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t, nil)
	for name, tc := range map[string]struct {
		method, url string
		members     []string
	}{
		"google":         {"GET", googleKeys, []string{"alg", "e", "kid", "kty", "n", "use"}},
		"iap":            {"GET", iapKeys, []string{"alg", "crv", "kid", "kty", "use", "x", "y"}},
		"another_host":   {"GET", "https://example.com/oauth2/v3/certs", nil},
		"another_path":   {"GET", googleKeys + "/x", nil},
		"another_scheme": {"GET", strings.Replace(googleKeys, "https", "http", 1), nil},
		"a_query":        {"GET", googleKeys + "?x", nil},
		"post":           {"POST", googleKeys, nil},
		"metadata":       {"GET", "http://169.254.169.254/computeMetadata/v1/", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := &closing{Reader: strings.NewReader("x")}
			r, err := http.NewRequest(tc.method, tc.url, body)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := issuer.Transport().RoundTrip(r)
			if !body.closed.Load() {
				t.Error("the request's body was not closed")
			}
			if tc.members == nil {
				if err == nil {
					t.Errorf("answered with %s", answer.Status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var set struct{ Keys []map[string]string }
			if err := json.NewDecoder(answer.Body).Decode(&set); err != nil || len(set.Keys) != 1 {
				t.Fatalf("%v, %d keys", err, len(set.Keys))
			}
			for _, m := range tc.members {
				if set.Keys[0][m] == "" {
					t.Errorf("no %s in %v", m, set.Keys[0])
				}
			}
		})
	}
}

type closing struct {
	io.Reader
	closed atomic.Bool
}

func (c *closing) Close() error { c.closed.Store(true); return nil }

// TestKeysAreKept tells by idtoken's own cache that the lifetime of the keys
// is given as it wants it.
func TestKeysAreKept(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t, nil)
	var fetches atomic.Int32
	validator := newValidator(t, roundtrip.Func(func(r *http.Request) (*http.Response, error) {
		if fetches.Add(1) > 1 {
			return nil, errors.New("fetched again")
		}
		return issuer.Transport().RoundTrip(r)
	}))
	for range 3 {
		token, err := issuer.IDToken(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := validator.Validate(t.Context(), token, pushfake.DefaultAudience); err != nil {
			t.Fatal(err)
		}
	}
}
