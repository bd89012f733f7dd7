package verify

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/testkit/roundtrip"
)

func TestKnownToken_is_proven_once(t *testing.T) {
	t.Parallel()
	var fetches atomic.Int32
	v := newVerifier(t, &Options{Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) {
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

// A leaked key that Google takes back proves nothing more, however long the tokens
// live that were proven with it before.
func TestKnownToken_of_a_revoked_key(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		maxAge string
		// learn has the verifier fetch the set again.
		learn func(v *Verifier)
	}{
		"when_the_set_expires": {"max-age=21600", func(*Verifier) { time.Sleep(6*time.Hour + time.Second) }},
		"at_an_early_fetch": {"max-age=21600", func(v *Verifier) {
			_, _ = v.IDToken(signedWith("rsa-2", foreignKey()), policy)
		}},
		"after_a_minute_of_a_set_that_is_not_kept": {"no-store", func(*Verifier) { time.Sleep(provenFor) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: goodKeys("Cache-Control", tt.maxAge)}
				v := newVerifier(t, &Options{Transport: google})
				d := idToken()
				d.claims["exp"] = time.Now().Add(MaxLife - time.Hour).Unix()
				r := push("Bearer " + d.token())
				for range 2 {
					if _, err := v.IDToken(r, policy); err != nil {
						t.Fatal(err)
					}
				}
				google.becomes(answers(http.StatusOK, keySetOf("rsa-2", foreignKey()), "Cache-Control", tt.maxAge))
				tt.learn(v)
				for range 2 {
					got, err := v.IDToken(r, policy)
					wantRefusal(t, got, err, ErrKeyID, 401)
				}
			})
		})
	}
}

// A key may also come back under the ID of another one.
func TestKnownToken_of_a_replaced_key(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		google := &endpoint{answer: goodKeys("Cache-Control", "max-age=600")}
		v := newVerifier(t, &Options{Transport: google})
		r := push("Bearer " + idToken().token())
		if _, err := v.IDToken(r, policy); err != nil {
			t.Fatal(err)
		}
		google.becomes(answers(http.StatusOK, keySetOf(rsaKeyID, foreignKey()), "Cache-Control", "max-age=600"))
		time.Sleep(10*time.Minute + time.Second)
		got, err := v.IDToken(r, policy)
		wantRefusal(t, got, err, ErrSignature, 401)
	})
}

// What is known outlasts an outage of Google's key address as long as its keys do.
func TestKnownToken_in_an_outage(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]roundtrip.Func{"refuses": broken, "hangs": roundtrip.Hangs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: goodKeys("Cache-Control", "max-age=3600")}
				v := newVerifier(t, &Options{Transport: google})
				d := idToken()
				d.claims["exp"] = time.Now().Add(24 * time.Hour).Unix()
				r := push("Bearer " + d.token())
				if _, err := v.IDToken(r, policy); err != nil {
					t.Fatal(err)
				}
				google.becomes(failure)
				time.Sleep(time.Hour)
				waited := 0
				for range 60 { // a minute of one push a second
					start := time.Now()
					if _, err := v.IDToken(r, policy); err != nil {
						t.Fatalf("in the outage: %v", err)
					}
					if time.Since(start) > 0 {
						waited++
					}
					time.Sleep(time.Second - time.Since(start))
				}
				if waited > 1 {
					t.Errorf("%d pushes of a minute waited for keys, want one at most", waited)
				}
				time.Sleep(staleFor - 2*time.Minute)
				if _, err := v.IDToken(r, policy); err != nil {
					t.Errorf("just inside the bound: %v", err)
				}
				time.Sleep(time.Minute)
				got, err := v.IDToken(r, policy)
				wantRefusal(t, got, err, ErrKeysUnavailable, 503)
				time.Sleep(fetchTimeout)
			})
		})
	}
}

// While keys are being fetched, it is not known which set has proven a token.
func TestProvenBy(t *testing.T) {
	t.Parallel()
	now := time.Now()
	set := func(number uint64, fresh time.Duration, keys ...key) keySet {
		return keySet{number: number, keys: keys, freshUntil: now.Add(fresh), staleUntil: now.Add(fresh + staleFor)}
	}
	old, other := key{ID: "k", N: "old"}, key{ID: "k", N: "other"}
	for name, tt := range map[string]struct {
		before, after keySet
		number        uint64
		until         time.Duration // 0: it is not remembered
	}{
		"first_set":            {keySet{}, set(1, time.Hour, old), 1, time.Hour},
		"same_set":             {set(1, time.Hour, old), set(1, time.Hour, old), 1, time.Hour},
		"next_set_has_it":      {set(1, 0, old), set(2, time.Hour, old), 2, time.Hour},
		"only_next_set_has_it": {set(1, 0), set(2, time.Hour, old), 2, time.Hour},
		"next_set_lacks_it":    {set(1, 0, old), set(2, time.Hour), 0, 0},
		"next_set_has_another": {set(1, 0, old), set(2, time.Hour, other), 0, 0},
		"not_kept":             {keySet{}, set(1, 0, old), 1, provenFor},
		"nearly_unusable":      {set(1, time.Second-staleFor, old), set(1, time.Second-staleFor, old), 1, time.Second},
	} {
		number, until := provenBy(tt.before, tt.after, "k", now)
		if number != tt.number || until.IsZero() != (tt.until == 0) || !until.IsZero() && until.Sub(now) != tt.until {
			t.Errorf("%s: set %d until %v, want %d and %v", name, number, until.Sub(now), tt.number, tt.until)
		}
	}
}
