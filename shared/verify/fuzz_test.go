package verify

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/problem"
)

// live puts the segments of a valid token where a fuzzed credential says
// {header}, {payload} and {signature}. Keys are made anew in every process, so
// this is how a corpus on disk gets near a valid token.
func live(valid string) func(string) string {
	parts := strings.Split(valid, ".")
	return strings.NewReplacer("{header}", parts[0], "{payload}", parts[1], "{signature}", parts[2]).Replace
}

// lasting makes a draft outlive a long fuzzing run.
func lasting(d *draft) *draft {
	d.claims["exp"] = time.Now().Add(24 * time.Hour).Unix()
	return d
}

func checkRefusal(t *testing.T, err error) {
	t.Helper()
	if status, _ := problem.Of(err); status != 401 && status != 403 {
		t.Errorf("refused with %v, want a 401 or 403 of this package", err)
	}
}

// FuzzIDToken: whatever the Authorization header holds, nothing panics, and
// nothing but the one valid token is accepted.
func FuzzIDToken(f *testing.F) {
	v := newVerifier(f, nil)
	valid := lasting(idToken()).token()
	expand := live(valid)
	f.Fuzz(func(t *testing.T, authorization string) {
		authorization = expand(authorization)
		_, err := v.IDToken(push(authorization), policy)
		scheme, token, _ := strings.Cut(authorization, " ")
		if strings.EqualFold(scheme, "bearer") && strings.TrimLeft(token, " ") == valid {
			if err != nil {
				t.Errorf("the valid token was refused: %v", err)
			}
			return
		}
		if err == nil {
			t.Fatalf("accepted %q", authorization)
		}
		checkRefusal(t, err)
	})
}

// FuzzIAP is the same for IAP's header.
func FuzzIAP(f *testing.F) {
	v := newVerifier(f, nil)
	valid := lasting(assertion()).token()
	expand := live(valid)
	f.Fuzz(func(t *testing.T, value string) {
		value = expand(value)
		_, err := v.IAP(throughIAP(value), iapAudience)
		if value == valid {
			if err != nil {
				t.Errorf("the valid assertion was refused: %v", err)
			}
			return
		}
		if err == nil {
			t.Fatalf("accepted %q", value)
		}
		checkRefusal(t, err)
	})
}

// FuzzClaims signs whatever payload it is given, so that it gets past the
// signature: what is accepted must then say so in plain, unambiguous JSON.
func FuzzClaims(f *testing.F) {
	v := newVerifier(f, nil)
	f.Fuzz(func(t *testing.T, payload string) {
		if payload == "" {
			t.Skip("the draft would fill it in")
		}
		d := assertion()
		d.rawPayload = payload
		got, err := v.IAP(throughIAP(d.token()), iapAudience)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		var claims map[string]any
		if err := json.Unmarshal([]byte(payload), &claims); err != nil {
			t.Fatalf("accepted %q: %v", payload, err)
		}
		if claims["iss"] != "https://cloud.google.com/iap" || claims["aud"] != iapAudience || got.Audience != iapAudience {
			t.Errorf("accepted %q as %+v", payload, got)
		}
		if now := time.Now(); !got.ExpiresAt.After(now.Add(-IAPSkew)) || got.IssuedAt.After(now.Add(IAPSkew)) || got.ExpiresAt.Sub(got.IssuedAt) > MaxLife {
			t.Errorf("accepted %q as %+v", payload, got)
		}
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("the claims of %q cannot be stored: %v", payload, err)
		}
	})
}
