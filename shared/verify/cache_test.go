package verify

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestKnownToken_is_proven_once(t *testing.T) {
	t.Parallel()
	var fetches atomic.Int32
	v := newVerifier(t, &Options{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		fetches.Add(1)
		// Nothing keeps these keys, so that every proof fetches them.
		return answer(http.StatusOK, http.Header{"Cache-Control": {"no-store"}}, keySetOf(rsaKeyID, googleKey()))
	})})
	authorization := "Bearer " + idToken().token()
	first, err := v.IDToken(push(authorization), policy)
	if err != nil {
		t.Fatal(err)
	}
	second, err := v.IDToken(push(authorization), policy)
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Errorf("claims changed from %+v to %+v", first, second)
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d proofs of one token", n)
	}
}

func TestKnownToken_meets_every_policy(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, nil)
	r := push("Bearer " + idToken().token())
	for _, tt := range []struct {
		name   string
		policy Policy
		want   error
	}{
		{"first", policy, nil},
		{"other_audience", Policy{Audience: audience + "x", Emails: policy.Emails}, ErrAudience},
		{"other_email", Policy{Audience: audience, Emails: []string{"other@example.com"}}, ErrEmail},
		{"empty", Policy{}, ErrPolicy},
		{"again", policy, nil},
	} {
		if _, err := v.IDToken(r, tt.policy); !errors.Is(err, tt.want) {
			t.Errorf("%s: error is %v, want %v", tt.name, err, tt.want)
		}
	}
}

// The same token is tried as the other kind, before and after it is known.
func TestKnownToken_stays_on_its_route(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, nil)
	google, iap := idToken(), assertion()
	iap.claims["aud"], iap.claims["email"], iap.claims["email_verified"] = audience, email, true
	googleToken, iapToken := google.token(), iap.token()
	for range 2 {
		if _, err := v.IDToken(push("Bearer "+googleToken), policy); err != nil {
			t.Fatal(err)
		}
		if _, err := v.IAP(throughIAP(iapToken), audience); err != nil {
			t.Fatal(err)
		}
		if _, err := v.IAP(throughIAP(googleToken), audience); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("an ID token as an assertion: %v", err)
		}
		if _, err := v.IDToken(push("Bearer "+iapToken), policy); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("an assertion as an ID token: %v", err)
		}
	}
}

func TestKnownToken_expires_on_the_second(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, nil)
		d := idToken()
		r := push("Bearer " + d.token())
		if _, err := v.IDToken(r, policy); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(time.Unix(d.claims["exp"].(int64), 0)) - time.Nanosecond)
		if _, err := v.IDToken(r, policy); err != nil {
			t.Errorf("a nanosecond before it expires: %v", err)
		}
		time.Sleep(time.Nanosecond)
		for range 2 {
			got, err := v.IDToken(r, policy)
			wantRefusal(t, got, err, ErrExpired, 401)
		}
	})
}

// Anyone can have Google sign a token for an audience of their own.
func TestForeignTokens_are_not_remembered(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, nil)
	for _, claim := range []string{"aud", "email"} {
		d := idToken()
		d.claims[claim] = "evil"
		if _, err := v.IDToken(push("Bearer "+d.token()), policy); err == nil {
			t.Errorf("a foreign %s was accepted", claim)
		}
	}
	if n := v.google.known.Len(); n != 0 {
		t.Errorf("%d foreign tokens take room in the cache", n)
	}
}

func TestOptions_Now(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ahead time.Duration
		want  error
	}{
		"same":          {0, nil},
		"an_hour_later": {time.Hour, ErrExpired},
		"an_hour_ago":   {-time.Hour, ErrNotYetValid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, &Options{Now: func() time.Time { return time.Now().Add(tt.ahead) }})
			if _, err := v.IDToken(push("Bearer "+idToken().token()), policy); !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
}
