package verify

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/testkit/asleep"
	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/roundtrip"
)

// Everything here runs in a synctest bubble: time stands still until all wait,
// for idtoken and its own cache of keys too.

// endpoint plays Google's key address; what it answers can be changed.
type endpoint struct {
	mu      sync.Mutex
	fetches int
	answer  roundtrip.Func
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.fetches++
	f := e.answer
	e.mu.Unlock()
	return f(r)
}

func (e *endpoint) becomes(f roundtrip.Func) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = f
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fetches
}

// answers always says the same.
func answers(status int, body string, headers ...string) roundtrip.Func {
	return func(*http.Request) (*http.Response, error) {
		header := http.Header{}
		for i := 0; i < len(headers); i += 2 {
			header.Add(headers[i], headers[i+1])
		}
		return answer(status, header, body)
	}
}

func goodKeys(headers ...string) roundtrip.Func {
	return answers(http.StatusOK, keySetOf(rsaKeyID, googleKey()), headers...)
}

func broken(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

// arrive verifies a push with a token that was never seen before.
func arrive(ctx context.Context, v *Verifier) error {
	d := idToken()
	d.claims["jti"] = nonce()
	_, err := v.IDToken(push("Bearer "+d.token()).WithContext(ctx), policy)
	return err
}

var nonces struct {
	sync.Mutex
	last int
}

func nonce() string {
	nonces.Lock()
	defer nonces.Unlock()
	nonces.last++
	return fmt.Sprint(nonces.last)
}

func wantUnavailable(t *testing.T, err error) {
	t.Helper()
	wantRefusal(t, Claims{}, err, ErrKeysUnavailable, 503)
}

var ctx = context.Background()

// failures is every way in which a fetch fails.
var failures = map[string]roundtrip.Func{
	"connection_refused": broken,
	"never_answers":      roundtrip.Hangs,
	"status_500":         answers(500, `{"error":"x"}`),
	"status_404_but_keys": func(r *http.Request) (*http.Response, error) {
		return answer(404, nil, keySetOf(rsaKeyID, googleKey()))
	},
	"status_206_but_keys": func(r *http.Request) (*http.Response, error) {
		return answer(206, nil, keySetOf(rsaKeyID, googleKey()))
	},
	"redirect":        answers(302, "", "Location", "https://evil.example/keys"),
	"empty":           answers(200, ""),
	"not_json":        answers(200, "<html>captive portal</html>"),
	"null":            answers(200, "null"),
	"list":            answers(200, "[]"),
	"object":          answers(200, "{}"),
	"no_keys":         answers(200, `{"keys":[]}`),
	"null_keys":       answers(200, `{"keys":null}`),
	"null_key":        answers(200, `{"keys":[null]}`),
	"keys_not_a_list": answers(200, `{"keys":{"kid":"`+rsaKeyID+`"}}`),
	"key_without_id":  answers(200, `{"keys":[{"kty":"RSA"}]}`),
	"key_of_numbers":  answers(200, `{"keys":[{"kid":"`+rsaKeyID+`","n":1}]}`),
	"trailing_data": func(*http.Request) (*http.Response, error) {
		return answer(200, nil, keySetOf(rsaKeyID, googleKey())+"x")
	},
	"too_large": func(*http.Request) (*http.Response, error) {
		return answer(200, nil, keySetOf(rsaKeyID, googleKey())+strings.Repeat(" ", maxKeysSize))
	},
	"breaks_off": func(*http.Request) (*http.Response, error) {
		body := io.MultiReader(strings.NewReader(keySetOf(rsaKeyID, googleKey())), failingReader{})
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body)}, nil
	},
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestKeys_failed_fetch_with_nothing_to_fall_back_on(t *testing.T) {
	t.Parallel()
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: failure}
				v := newVerifier(t, &Options{Transport: google})
				start := time.Now()
				wantUnavailable(t, arrive(ctx, v))
				if took := time.Since(start); took > fetchTimeout {
					t.Errorf("took %v, want at most %v", took, fetchTimeout)
				}
				google.becomes(goodKeys())
				time.Sleep(retryPause)
				if err := arrive(ctx, v); err != nil {
					t.Errorf("after the outage: %v", err)
				}
			})
		})
	}
}

func TestKeys_failed_fetch_falls_back_on_the_last_good_set(t *testing.T) {
	t.Parallel()
	for name, failure := range failures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: goodKeys("Cache-Control", "max-age=3600")}
				v := newVerifier(t, &Options{Transport: google})
				if err := arrive(ctx, v); err != nil {
					t.Fatal(err)
				}
				google.becomes(failure)
				time.Sleep(time.Hour + time.Second)
				start := time.Now()
				if err := arrive(ctx, v); err != nil {
					t.Errorf("in the outage: %v", err)
				}
				if took := time.Since(start); took > patience {
					t.Errorf("took %v, want at most %v", took, patience)
				}
				if google.count() != 2 {
					t.Errorf("%d fetches, want a second one that failed", google.count())
				}
				// The bound counts from the end of the max-age.
				time.Sleep(staleFor - 5*time.Second)
				if err := arrive(ctx, v); err != nil {
					t.Errorf("just inside the bound: %v", err)
				}
				time.Sleep(fetchTimeout + retryPause)
				wantUnavailable(t, arrive(ctx, v))
				google.becomes(goodKeys())
				time.Sleep(fetchTimeout + retryPause)
				if err := arrive(ctx, v); err != nil {
					t.Errorf("after the outage: %v", err)
				}
			})
		})
	}
}

func TestKeys_outage_is_no_fetch_storm(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]roundtrip.Func{
		"nothing_to_fall_back_on": broken,
		"last_good_set":           goodKeys("Cache-Control", "max-age=1"),
		"last_good_set_unkept":    goodKeys("Cache-Control", "no-store"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: before}
				v := newVerifier(t, &Options{Transport: google})
				_ = arrive(ctx, v)
				time.Sleep(10 * time.Second)
				google.becomes(broken)
				start := google.count()
				for range 100 { // 10 s of ten pushes a second
					_ = arrive(ctx, v)
					time.Sleep(100 * time.Millisecond)
				}
				if n := google.count() - start; n < 3 || n > 5 {
					t.Errorf("%d fetches in 10 s, want one every %v", n, retryPause)
				}
			})
		})
	}
}

func TestKeys_are_fetched_once_at_a_time(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		google := &endpoint{answer: func(*http.Request) (*http.Response, error) {
			<-release
			return answer(http.StatusOK, nil, keySetOf(rsaKeyID, googleKey()))
		}}
		v := newVerifier(t, &Options{Transport: google})
		errs := make(chan error)
		const pushes = 50
		for range pushes {
			go func() { errs <- arrive(ctx, v) }()
		}
		synctest.Wait()
		if n := google.count(); n != 1 {
			t.Errorf("%d fetches at once", n)
		}
		close(release)
		for range pushes {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := google.count(); n != 1 {
			t.Errorf("%d fetches for %d pushes", n, pushes)
		}
	})
}

// A request that saw old keys may come to the fetch after another has made it.
func TestKeys_a_late_caller_does_not_fetch_again(t *testing.T) {
	t.Parallel()
	google := &endpoint{answer: goodKeys("Cache-Control", "max-age=600")}
	v := newVerifier(t, &Options{Transport: google})
	for range 2 {
		_ = v.keys.refresh(v.google.keysURL, keySet.due)
	}
	if n := google.count(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestKeys_a_caller_who_leaves_does_not_end_the_fetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		google := &endpoint{answer: func(r *http.Request) (*http.Response, error) {
			select {
			case <-release:
				return answer(http.StatusOK, nil, keySetOf(rsaKeyID, googleKey()))
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}}
		v := newVerifier(t, &Options{Transport: google})
		leaving, leave := context.WithCancel(ctx)
		left, stayed := make(chan error, 1), make(chan error, 1)
		go func() { left <- arrive(leaving, v) }()
		synctest.Wait()
		go func() { stayed <- arrive(ctx, v) }()
		synctest.Wait()
		leave()
		err := <-left
		wantUnavailable(t, err)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v does not say that the context ended", err)
		}
		close(release)
		if err := <-stayed; err != nil {
			t.Errorf("the one who stayed: %v", err)
		}
		if n := google.count(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestKeys_rotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		google := &endpoint{answer: goodKeys("Cache-Control", "max-age=600")}
		v := newVerifier(t, &Options{Transport: google})
		if err := arrive(ctx, v); err != nil {
			t.Fatal(err)
		}
		google.becomes(answers(http.StatusOK, keySetOf("rsa-2", foreignKey()), "Cache-Control", "max-age=600"))
		time.Sleep(10*time.Minute + time.Second)
		wantRefusal(t, Claims{}, arrive(ctx, v), ErrKeyID, 401)
		d := idToken()
		d.header["kid"], d.sign = "rsa-2", signRS256(foreignKey())
		if _, err := v.IDToken(push("Bearer "+d.token()), policy); err != nil {
			t.Errorf("signed with the new key: %v", err)
		}
	})
}

// signedWith returns a token that names and is signed with another key.
func signedWith(keyID string, key *rsa.PrivateKey) *http.Request {
	d := idToken()
	d.header["kid"], d.sign, d.claims["jti"] = keyID, signRS256(key), nonce()
	return push("Bearer " + d.token())
}

// Google may sign with a key before the fetched set is too old.
func TestKeys_used_early(t *testing.T) {
	t.Parallel()
	both := answers(http.StatusOK, strings.Replace(keySetOf(rsaKeyID, googleKey()), "]}", ",", 1)+
		strings.TrimPrefix(keySetOf("rsa-2", foreignKey()), `{"keys":[`), "Cache-Control", "max-age=21600")
	fails := failures["never_answers"]
	for name, tt := range map[string]struct {
		before, after roundtrip.Func
		pause         time.Duration
		want          error
		fetches       int
	}{
		"is_fetched_at_once":           {nil, both, 0, nil, 2},
		"after_made_up_ids":            {goodKeys(), both, lookPause, nil, 3},
		"within_a_minute_of_them":      {goodKeys(), both, lookPause - time.Second, ErrKeyID, 2},
		"after_a_failed_fetch":         {fails, both, lookPause, nil, 3},
		"within_a_minute_of_a_failure": {fails, both, lookPause - fetchTimeout - time.Second, ErrKeyID, 2},
		"while_fetches_fail":           {nil, fails, 0, ErrKeyID, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: goodKeys("Cache-Control", "max-age=21600")}
				v := newVerifier(t, &Options{Transport: google})
				if err := arrive(ctx, v); err != nil {
					t.Fatal(err)
				}
				if tt.before != nil {
					google.becomes(tt.before)
					for range 20 {
						got, err := v.IDToken(signedWith("made-up-"+nonce(), foreignKey()), policy)
						wantRefusal(t, got, err, ErrKeyID, 401)
					}
					time.Sleep(tt.pause)
				}
				google.becomes(tt.after)
				for range 2 {
					start := time.Now()
					if _, err := v.IDToken(signedWith("rsa-2", foreignKey()), policy); !errors.Is(err, tt.want) {
						t.Errorf("signed with the new key: %v, want %v", err, tt.want)
					}
					if took := time.Since(start); took > patience {
						t.Errorf("took %v, want at most %v", took, patience)
					}
				}
				if err := arrive(ctx, v); err != nil {
					t.Errorf("signed with the old key: %v", err)
				}
				synctest.Wait()
				if n := google.count(); n != tt.fetches {
					t.Errorf("%d fetches, want %d", n, tt.fetches)
				}
				time.Sleep(fetchTimeout) // a fetch under way ends within the bubble
			})
		})
	}
}

// Made-up key IDs cost one fetch a minute, however many they are, at once or one
// after another, and no valid token is refused meanwhile.
func TestKeys_made_up_ids_are_no_fetch_storm(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]roundtrip.Func{
		"answered": goodKeys("Cache-Control", "max-age=21600"),
		"failing":  broken,
		"hanging":  roundtrip.Hangs,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: goodKeys("Cache-Control", "max-age=21600")}
				v := newVerifier(t, &Options{Transport: google})
				if err := arrive(ctx, v); err != nil {
					t.Fatal(err)
				}
				google.becomes(answer)
				// Its signature is never looked at.
				d := idToken()
				d.sign = fixed(make([]byte, 256))
				requests := make([]*http.Request, measure.Size(1000, 10_000))
				half := len(requests) / 2
				for i := range requests {
					d.header["kid"] = fmt.Sprint("made-up-", i)
					requests[i] = push("Bearer " + d.token())
				}
				var wg sync.WaitGroup
				for _, r := range requests[:half] { // at once
					wg.Go(func() {
						if _, err := v.IDToken(r, policy); !errors.Is(err, ErrKeyID) {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				for _, r := range requests[half:] { // in 100 s
					if _, err := v.IDToken(r, policy); !errors.Is(err, ErrKeyID) {
						t.Fatal(err)
					}
					time.Sleep(100 * time.Second / time.Duration(half))
				}
				if err := arrive(ctx, v); err != nil {
					t.Errorf("a valid token after them: %v", err)
				}
				if n := google.count() - 1; n != 2 {
					t.Errorf("%d fetches in 100 s, want one a minute", n)
				}
				time.Sleep(fetchTimeout)
			})
		})
	}
}

// The two addresses have nothing to do with each other.
func TestKeys_outage_of_one_address(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, &Options{Transport: roundtrip.Func(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "www.gstatic.com" {
				return broken(r)
			}
			return serveKeys(r)
		})})
		got, err := v.IAP(throughIAP(assertion().token()), iapAudience)
		wantRefusal(t, got, err, ErrKeysUnavailable, 503)
		if err := arrive(ctx, v); err != nil {
			t.Error(err)
		}
	})
}

func TestKeys_lifetime(t *testing.T) {
	t.Parallel()
	const cc = "Cache-Control"
	for name, tt := range map[string]struct {
		headers []string
		want    time.Duration
	}{
		"as_google_says_it":    {[]string{cc, "public, max-age=21600, must-revalidate, no-transform"}, 6 * time.Hour},
		"minus_age":            {[]string{cc, "max-age=600", "Age", "540"}, time.Minute},
		"age_over_max_age":     {[]string{cc, "max-age=600", "Age", "900"}, 0},
		"age_unreadable":       {[]string{cc, "max-age=600", "Age", "-5 minutes"}, 10 * time.Minute},
		"capitals":             {[]string{cc, "Public,Max-Age=600"}, 10 * time.Minute},
		"spaces":               {[]string{cc, "public , max-age = 600 ,private"}, 10 * time.Minute},
		"quotes":               {[]string{cc, `max-age="600"`}, 10 * time.Minute},
		"two_headers":          {[]string{cc, "public", cc, "max-age=600"}, 10 * time.Minute},
		"shortest_first":       {[]string{cc, "max-age=60, max-age=600"}, time.Minute},
		"shortest_counts":      {[]string{cc, "max-age=600, max-age=60"}, time.Minute},
		"not_s_maxage":         {[]string{cc, "s-maxage=60, max-age=600"}, 10 * time.Minute},
		"other_similar_words":  {[]string{cc, "x-max-age=1, max-age=600, stale-max-age"}, 10 * time.Minute},
		"zero":                 {[]string{cc, "max-age=0"}, 0},
		"no_store":             {[]string{cc, "max-age=600, no-store"}, 0},
		"no_cache":             {[]string{cc, "no-cache"}, 0},
		"nothing_said":         {nil, usualMaxAge},
		"nothing_readable":     {[]string{cc, "max-age=soon"}, usualMaxAge},
		"negative":             {[]string{cc, "max-age=-1"}, usualMaxAge},
		"for_ever":             {[]string{cc, "max-age=31536000"}, longestMaxAge},
		"more_than_int64":      {[]string{cc, "max-age=99999999999999999999"}, longestMaxAge},
		"more_than_a_duration": {[]string{cc, "max-age=9223372036854775807"}, longestMaxAge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				google := &endpoint{answer: goodKeys(tt.headers...)}
				v := newVerifier(t, &Options{Transport: google})
				if err := arrive(ctx, v); err != nil {
					t.Fatal(err)
				}
				// What idtoken is told it reads without trouble.
				r, err := http.NewRequest(http.MethodGet, v.google.keysURL, nil)
				if err != nil {
					t.Fatal(err)
				}
				if tt.want > 0 {
					resp, err := v.keys.RoundTrip(r)
					if err != nil {
						t.Fatal(err)
					}
					if got, want := resp.Header.Get(cc), fmt.Sprintf("max-age=%d", tt.want/time.Second); got != want || resp.Header.Get("Age") != "" {
						t.Errorf("idtoken is told %q, want %q and no Age", got, want)
					}
					time.Sleep(tt.want - time.Second)
					if err := arrive(ctx, v); err != nil {
						t.Fatal(err)
					}
					if n := google.count(); n != 1 {
						t.Errorf("%d fetches a second before %v", n, tt.want)
					}
				}
				time.Sleep(1001 * time.Millisecond)
				if err := arrive(ctx, v); err != nil {
					t.Fatal(err)
				}
				if n := google.count(); n != 2 {
					t.Errorf("%d fetches after %v, want the second", n, tt.want)
				}
			})
		})
	}
}

func TestNew_default_transport_has_timeouts(t *testing.T) {
	t.Parallel()
	v, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	base, ok := v.keys.base.(*http.Transport)
	if !ok || base == http.DefaultTransport {
		t.Fatalf("the transport is %T, want a clone of the default one", v.keys.base)
	}
	if base.ResponseHeaderTimeout == 0 || base.TLSHandshakeTimeout == 0 {
		t.Error("the transport has no time-outs")
	}
}

// TestKeys_after_sleep has the clock on the wall go ahead by more than the max-age, and
// the one by which idtoken keeps its keys stand still, as on a machine that slept: a key
// that was revoked meanwhile proves nothing.
func TestKeys_after_sleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		google := &endpoint{answer: goodKeys("Cache-Control", "max-age=600")}
		var slept time.Duration
		v := newVerifier(t, &Options{Transport: google, Now: func() time.Time { return asleep.After(slept) }})
		if err := arrive(ctx, v); err != nil {
			t.Fatal(err)
		}
		google.becomes(answers(http.StatusOK, keySetOf("rsa-2", foreignKey()), "Cache-Control", "max-age=600"))
		slept = time.Hour
		d := idToken()
		d.claims["iat"], d.claims["exp"] = time.Now().Add(slept).Unix(), time.Now().Add(2*slept).Unix()
		got, err := v.IDToken(push("Bearer "+d.token()), policy)
		wantRefusal(t, got, err, ErrKeyID, 401)
		if n := google.count(); n != 2 {
			t.Errorf("the keys were fetched %d times", n)
		}
	})
}

// TestKnownToken_after_sleep has a token be proven before the machine sleeps, and its key
// be revoked meanwhile: by the clock that stood still the proof would count on.
func TestKnownToken_after_sleep(t *testing.T) {
	t.Parallel()
	google := &endpoint{answer: goodKeys("Cache-Control", "max-age=600")}
	var slept time.Duration
	v := newVerifier(t, &Options{Transport: google, Now: func() time.Time { return asleep.After(slept) }})
	d := idToken()
	d.claims["exp"] = time.Now().Add(2 * time.Hour).Unix()
	r := push("Bearer " + d.token())
	if _, err := v.IDToken(r, policy); err != nil {
		t.Fatal(err)
	}
	google.becomes(answers(http.StatusOK, keySetOf("rsa-2", foreignKey()), "Cache-Control", "max-age=600"))
	slept = time.Hour
	got, err := v.IDToken(r, policy)
	wantRefusal(t, got, err, ErrKeyID, 401)
}
