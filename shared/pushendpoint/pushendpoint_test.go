package pushendpoint

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
	"example.com/pushinbox/testkit/failingstore"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/pushattack"
	"example.com/pushinbox/testkit/roundtrip"
)

const (
	audience    = "https://receive-1.europe-west1.run.app"
	pushAccount = "push@p.iam.gserviceaccount.com"
	secret      = "s3cr&t+/ %"
)

var quiet = slog.New(slog.DiscardHandler)

// endpoint is the handler with real verification and a real inbox.
type endpoint struct {
	http.Handler
	issuer *pushfake.Issuer
	store  *boltinbox.Inbox
}

func newEndpoint(tb testing.TB, cfg Config) *endpoint {
	tb.Helper()
	issuer, verifier := google.Issuer(tb)
	store, err := boltinbox.Open(filepath.Join(tb.TempDir(), "inbox.db"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = store.Close() })
	cfg.Audience, cfg.ServiceAccount = audience, pushAccount
	h, err := New(cfg, verifier, store, quiet)
	if err != nil {
		tb.Fatal(err)
	}
	return &endpoint{h, issuer, store}
}

// target is the endpoint as package hostile wants it.
func target(tb testing.TB, issuer *pushfake.Issuer, address string) pushattack.Target {
	tb.Helper()
	return pushattack.Target{URL: address, Keys: google.Keys(tb, issuer), Mint: google.Mint(issuer, audience, pushAccount)}
}

func (e *endpoint) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

func (e *endpoint) stored(tb testing.TB) []inbox.Message {
	tb.Helper()
	page, err := e.store.List(context.Background(), inbox.Query{})
	if err != nil {
		tb.Fatal(err)
	}
	return page.Messages()
}

func TestRefusesWithNothingStored(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{VerificationToken: secret})
	cases, err := pushattack.Cases(target(t, e.issuer, "http://receive/?"+url.Values{"token": {secret}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			w := e.serve(c.Request)
			if w.Code != c.Status {
				t.Errorf("answered %d, want %d: %s", w.Code, c.Status, w.Body)
			}
			if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type %q", got)
			}
			if strings.Contains(w.Body.String(), secret) {
				t.Errorf("the secret is in the answer: %s", w.Body)
			}
			if n := len(e.stored(t)); n != 0 {
				t.Fatalf("%d messages were stored", n)
			}
		})
	}
}

func TestStoresOnceAndAcknowledges(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{VerificationToken: secret})
	to := target(t, e.issuer, "http://receive/?"+url.Values{"token": {secret}}.Encode())
	for range 3 {
		r, err := pushattack.Good(to)
		if err != nil {
			t.Fatal(err)
		}
		if w := e.serve(r); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
			t.Fatalf("answered %d %s", w.Code, w.Body)
		}
	}
	got := e.stored(t)
	want := []inbox.Message{{
		ID: inbox.ID("pubsub", pushattack.Subscription, pushattack.MessageID), Source: "pubsub",
		Subscription: pushattack.Subscription, MessageID: pushattack.MessageID, Data: []byte("hostile"), Size: 7,
		Verified: inbox.Verified{Issuer: "https://accounts.google.com", Audience: audience, Email: pushAccount, EmailVerified: true},
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(inbox.Message{}, "PublishTime", "ReceivedAt", "Attributes"),
		cmpopts.IgnoreFields(inbox.Verified{}, "Subject", "IssuedAt", "ExpiresAt")); diff != "" {
		t.Error(diff)
	}
}

func TestUnwrappedPush(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{})
	r, err := pushattack.Good(target(t, e.issuer, "http://receive/any/path"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body = io.NopCloser(strings.NewReader("\x00bare"))
	r.ContentLength = 5
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set("x-goog-pubsub-message-id", "7")
	r.Header.Set("x-goog-pubsub-subscription-name", "projects/p/subscriptions/s")
	r.Header.Set("kind", "test")
	if w := e.serve(r); w.Code != http.StatusNoContent {
		t.Fatalf("answered %d %s", w.Code, w.Body)
	}
	m := e.stored(t)[0]
	if m.MessageID != "7" || string(m.Data) != "\x00bare" || m.Attributes["kind"] != "test" {
		t.Errorf("stored %+v", m)
	}
	if _, ok := m.Attributes["authorization"]; ok {
		t.Error("the token was stored")
	}
}

func TestStoreFailureIsNeverAnAck(t *testing.T) {
	t.Parallel()
	for name, test := range failingstore.Cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, Config{})
			verifier := google.Verifier(t, e.issuer.Transport())
			h, err := New(Config{Audience: audience, ServiceAccount: pushAccount}, verifier, failingstore.Store{Err: test.Err}, quiet)
			if err != nil {
				t.Fatal(err)
			}
			r, err := pushattack.Good(target(t, e.issuer, "http://receive/"))
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != test.Status || strings.Contains(w.Body.String(), failingstore.Secret) {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			if test.Status == 503 && w.Header().Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		})
	}
}

func TestKeysDownIs503(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{})
	down := roundtrip.Func(func(*http.Request) (*http.Response, error) { return nil, errors.New("no route") })
	verifier := google.Verifier(t, down)
	h, err := New(Config{Audience: audience, ServiceAccount: pushAccount}, verifier, e.store, quiet)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pushattack.Good(target(t, e.issuer, "http://receive/"))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}

// blocking is a store that keeps its callers until it is told.
type blocking struct{ in, out chan struct{} }

func (b blocking) Put(context.Context, *inbox.Message) (bool, error) {
	b.in <- struct{}{}
	<-b.out
	return true, nil
}

// TestLargePushesWaitForRoom holds as many large bodies as there is room for:
// the next one waits without being read, and goes ahead when one is done.
func TestLargePushesWaitForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issuer, verifier := google.Issuer(t)
		store := blocking{make(chan struct{}), make(chan struct{})}
		h, err := New(Config{Audience: audience, ServiceAccount: pushAccount}, verifier, store, quiet)
		if err != nil {
			t.Fatal(err)
		}
		to := target(t, issuer, "http://receive/")
		const length, room = 12 << 20, 4
		budget := httpapi.NewBudget(room * length * bodyWeight / 2 * 3)
		body := strings.Replace(pushattack.Body, "{", "{"+strings.Repeat(" ", length-len(pushattack.Body)), 1)
		answers := make(chan int, room+2)
		push := func() *atomic.Bool {
			r, err := pushattack.Good(to)
			if err != nil {
				t.Fatal(err)
			}
			read := new(atomic.Bool)
			r.Body = io.NopCloser(&noting{strings.NewReader(body), read})
			r.ContentLength = length
			go func() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r.WithContext(httpapi.WithBudget(r.Context(), budget)))
				answers <- w.Code
			}()
			return read
		}
		for range room {
			push()
			<-store.in
		}
		patient := push()
		synctest.Wait()
		if patient.Load() {
			t.Fatal("a body was read that there is no room for")
		}
		store.out <- struct{}{}
		<-store.in
		if code := <-answers; code != http.StatusNoContent || !patient.Load() {
			t.Errorf("answered %d, the next one was read: %v", code, patient.Load())
		}
		late := push()
		time.Sleep(8 * time.Second) // the bubble's clock; an ack deadline of 10 s leaves as much
		if code := <-answers; code != http.StatusServiceUnavailable || late.Load() {
			t.Errorf("without room for 8 s: answered %d, read: %v", code, late.Load())
		}
		for range room {
			store.out <- struct{}{}
			if code := <-answers; code != http.StatusNoContent {
				t.Errorf("answered %d", code)
			}
		}
	})
}

// noting notes that it was read.
type noting struct {
	io.Reader
	read *atomic.Bool
}

func (n *noting) Read(p []byte) (int, error) {
	n.read.Store(true)
	return n.Reader.Read(p)
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{})
	verifier := google.Verifier(t, e.issuer.Transport())
	good := Config{Audience: audience, ServiceAccount: pushAccount}
	for name, build := range map[string]func() (http.Handler, error){
		"no_audience": func() (http.Handler, error) {
			return New(Config{ServiceAccount: pushAccount}, verifier, e.store, quiet)
		},
		"no_account": func() (http.Handler, error) { return New(Config{Audience: audience}, verifier, e.store, quiet) },
		"ack_deadline": func() (http.Handler, error) {
			return New(Config{Audience: audience, ServiceAccount: pushAccount, AckDeadline: time.Second}, verifier, e.store, quiet)
		},
		"no_verifier": func() (http.Handler, error) { return New(good, nil, e.store, quiet) },
		"no_store":    func() (http.Handler, error) { return New(good, verifier, nil, quiet) },
		"no_logger":   func() (http.Handler, error) { return New(good, verifier, e.store, nil) },
	} {
		if h, err := build(); err == nil {
			t.Errorf("%s: made %v", name, h)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"GOOGLE_CLOUD_PROJECT": "p", "PUSH_AUDIENCE": audience, "PUSH_SERVICE_ACCOUNT": pushAccount,
	}
	e, err := settings.Parse[Environment](good)
	if err != nil {
		t.Fatal(err)
	}
	if e.Database != "(default)" || e.Collection != "messages" || e.Shards != 16 || e.TTL.Hours() != 720 || e.Push.Project != "p" || e.Push.AckDeadline != DefaultAckDeadline {
		t.Errorf("defaults: %+v", e)
	}
	t.Run("every_missing_variable_is_named", func(t *testing.T) {
		t.Parallel()
		_, err := settings.Parse[Environment](map[string]string{"INBOX_SHARDS": "many", "INBOX_TTL": "30 days", "PUSH_ACK_DEADLINE": "60"})
		for _, name := range []string{"GOOGLE_CLOUD_PROJECT", "PUSH_AUDIENCE", "PUSH_SERVICE_ACCOUNT", "INBOX_SHARDS", "INBOX_TTL", "PUSH_ACK_DEADLINE"} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s is not named: %v", name, err)
			}
		}
	})
	t.Run("every_wrong_value_is_named", func(t *testing.T) {
		t.Parallel()
		_, err := settings.Parse[Environment](map[string]string{
			"GOOGLE_CLOUD_PROJECT": "p", "PUSH_AUDIENCE": audience, "PUSH_SERVICE_ACCOUNT": "push", "INBOX_SHARDS": "31", "INBOX_TTL": "-1h",
			"PUSH_ACK_DEADLINE": "9s",
		})
		for _, name := range []string{"PUSH_SERVICE_ACCOUNT", "INBOX_SHARDS", "INBOX_TTL", "PUSH_ACK_DEADLINE is 9s; it must be 10s to 600s"} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s is not named: %v", name, err)
			}
		}
	})
	t.Run("what_can_never_match_is_refused", func(t *testing.T) {
		t.Parallel()
		good := maps.Clone(good)
		maps.Copy(good, map[string]string{"FIRESTORE_DATABASE": "d", "INBOX_COLLECTION": "c", "PUBSUB_VERIFICATION_TOKEN": "hush"})
		for variable, value := range good {
			for _, bad := range []string{" " + value, value + " ", value + "\n", `"` + value + `"`, "'" + value + "'"} {
				vars := maps.Clone(good)
				vars[variable] = bad
				_, err := settings.Parse[Environment](vars)
				if err == nil || strings.Count(err.Error(), variable+" ") != 1 || strings.Contains(err.Error(), "hush") {
					t.Errorf("%s=%q: %v", variable, bad, err)
				}
			}
		}
		for _, account := range []string{"serviceAccount:" + pushAccount, "user:" + pushAccount, "P" + pushAccount, pushAccount + "@p", "push"} {
			vars := maps.Clone(good)
			vars["PUSH_SERVICE_ACCOUNT"] = account
			if _, err := settings.Parse[Environment](vars); err == nil || !strings.HasPrefix(err.Error(), "PUSH_SERVICE_ACCOUNT ") {
				t.Errorf("PUSH_SERVICE_ACCOUNT=%s: %v", account, err)
			}
		}
	})
	t.Run("one_start_names_all", func(t *testing.T) {
		t.Parallel()
		_, err := settings.Parse[Environment](map[string]string{
			"PUSH_AUDIENCE": "", "PUSH_SERVICE_ACCOUNT": "user:" + pushAccount, "INBOX_TTL": "30 days", "INBOX_SHARDS": "31", "PUBSUB_VERIFICATION_TOKEN": "hush ",
		})
		const want = "GOOGLE_CLOUD_PROJECT is not set, or is empty: set it to the ID of the Google Cloud project; INBOX_SHARDS is 31; it must be 1 to 30; " +
			"INBOX_TTL is not a valid duration, such as 10s, 5m or 720h; PUBSUB_VERIFICATION_TOKEN has a space before or after it: remove it; " +
			"PUSH_AUDIENCE is not set, or is empty: set it to the audience of the push subscription; " +
			`PUSH_SERVICE_ACCOUNT lists "user:` + pushAccount + `", which has the prefix "user:": write "` + pushAccount + `"`
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

func TestAckDeadlineOfTheEnvironment(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"": 10 * time.Second, "10s": 10 * time.Second, "1m": time.Minute, "600s": 600 * time.Second,
		"9.999s": 0, "600.001s": 0, "0s": 0, "-60s": 0, "60": 0, "ten": 0,
	} {
		e, err := settings.Parse[Environment](map[string]string{
			"GOOGLE_CLOUD_PROJECT": "p", "PUSH_AUDIENCE": audience, "PUSH_SERVICE_ACCOUNT": pushAccount, "PUSH_ACK_DEADLINE": value,
		})
		switch {
		case want != 0 && (err != nil || e.Push.AckDeadline != want):
			t.Errorf("%q: %v, %v, want %v", value, e.Push.AckDeadline, err, want)
		case want == 0 && (err == nil || !strings.HasPrefix(err.Error(), "PUSH_ACK_DEADLINE is ") || strings.Contains(err.Error(), "\n")):
			t.Errorf("%q: got %v, want one line that names the variable", value, err)
		}
	}
}

// waiting is a store that does not answer, and notes how long it was given.
type waiting struct{ given time.Duration }

func (w *waiting) Put(ctx context.Context, _ *inbox.Message) (bool, error) {
	start := time.Now()
	<-ctx.Done()
	w.given = time.Since(start)
	return false, ctx.Err()
}

func TestAnswersBeforeTheAckDeadline(t *testing.T) {
	t.Parallel()
	for deadline, budget := range map[time.Duration]time.Duration{
		0: 8 * time.Second, 10 * time.Second: 8 * time.Second, time.Minute: 58 * time.Second, 600 * time.Second: 598 * time.Second,
	} {
		t.Run(deadline.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				issuer, verifier := google.Issuer(t)
				store := new(waiting)
				h, err := New(Config{Audience: audience, ServiceAccount: pushAccount, AckDeadline: deadline}, verifier, store, quiet)
				if err != nil {
					t.Fatal(err)
				}
				r, err := pushattack.Good(target(t, issuer, "http://receive/"))
				if err != nil {
					t.Fatal(err)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if store.given != budget || w.Code != http.StatusServiceUnavailable {
					t.Errorf("the store was given %v, want %v; answered %d", store.given, budget, w.Code)
				}
			})
		})
	}
}

// nothing is a store that costs nothing.
type nothing struct{}

func (nothing) Put(context.Context, *inbox.Message) (bool, error) { return true, nil }

// discard is a response writer that costs little.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkReceive handles a push of 1 KiB without an inbox. µs-beyond-verify
// is what is left of it when the verification, measured in the same run, is
// taken away.
func BenchmarkReceive(b *testing.B) {
	e := newEndpoint(b, Config{})
	verifier := google.Verifier(b, e.issuer.Transport())
	h, err := New(Config{Audience: audience, ServiceAccount: pushAccount}, verifier, nothing{}, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		b.Fatal(err)
	}
	r, err := pushattack.Good(target(b, e.issuer, "http://receive/"))
	if err != nil {
		b.Fatal(err)
	}
	body := strings.Replace(pushattack.Body, "aG9zdGlsZQ==", strings.Repeat("QUJD", 1024/3)+"QQ==", 1)
	r.ContentLength = int64(len(body))
	policy := verify.Policy{Audience: audience, Emails: []string{pushAccount}}
	var verifying float64
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if _, err := verifier.IDToken(r, policy); err != nil {
				b.Fatal(err)
			}
		}
		verifying = float64(b.Elapsed()) / float64(b.N)
	})
	b.Run("receive", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Body = io.NopCloser(strings.NewReader(body))
			h.ServeHTTP(discard{http.Header{}}, r)
		}
		b.ReportMetric((float64(b.Elapsed())/float64(b.N)-verifying)/1000, "µs-beyond-verify")
	})
}
