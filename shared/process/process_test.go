package process

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/pushattack"
)

const (
	audience = "https://orders-1.europe-west1.run.app"
	account  = "push@p.iam.gserviceaccount.com"
)

// site is an endpoint on Firestore's emulator.
type site struct {
	http.Handler
	store  *Store
	issuer *pushfake.Issuer
	log    *strings.Builder
}

func config(host, project string) firestoreinbox.Config {
	return firestoreinbox.Config{Project: project, Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour, EmulatorHost: host}
}

func newSite(t *testing.T, cfg Config, f Func) *site {
	t.Helper()
	store, err := Open(t.Context(), config(emulator.Firestore(t), emulator.Project()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	issuer, verifier := google.Issuer(t)
	s := &site{store: store, issuer: issuer, log: new(strings.Builder)}
	cfg.Name = "orders"
	s.Handler, err = New(cfg, pushendpoint.Config{Audience: audience, ServiceAccount: account, AckDeadline: 60 * time.Second}, verifier, store, f,
		slog.New(slog.NewTextHandler(&locked{w: s.log}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// push pushes a message with this ID and data, and returns the answer's status.
func (s *site) push(t *testing.T, id, data string) int {
	t.Helper()
	body := fmt.Sprintf(`{"message":{"messageId":%q,"data":%q,"attributes":{"kind":"order"}},"subscription":"projects/p/subscriptions/s"}`, id, data)
	r := httptest.NewRequest(http.MethodPost, "/wrapped", strings.NewReader(body)).WithContext(t.Context())
	r.Header.Set("Authorization", "Bearer "+google.Token(t, s.issuer, audience, account))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code
}

// count returns how many documents a collection has.
func (s *site) count(t *testing.T, collection string) int {
	t.Helper()
	all, err := s.store.client.Collection(collection).Documents(t.Context()).GetAll()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func (s *site) messages(t *testing.T) []inbox.Message {
	t.Helper()
	page, err := s.store.inbox.List(t.Context(), inbox.Query{})
	if err != nil {
		t.Fatal(err)
	}
	return page.Messages()
}

// effect creates one document in the collection effects with an ID of its own, so that
// each run leaves one, if it leaves any.
func effect(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
	return tx.Create(Client(ctx).Collection("effects").NewDoc(), map[string]any{"message": m.ID})
}

func TestEffectAndMessageTogether(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	var seen inbox.Message
	s := newSite(t, Config{}, func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
		runs.Add(1)
		seen = *m
		return effect(ctx, tx, m)
	})
	for range 3 {
		if status := s.push(t, "1", "aGVsbG8="); status != http.StatusNoContent {
			t.Fatalf("answered %d", status)
		}
	}
	stored := s.messages(t)
	if len(stored) != 1 || s.count(t, "effects") != 1 || runs.Load() != 1 {
		t.Fatalf("%d messages, %d effects, %d runs; want one of each", len(stored), s.count(t, "effects"), runs.Load())
	}
	m := stored[0]
	if string(m.Data) != "hello" || m.Attributes["kind"] != "order" || m.ReceivedAt.IsZero() || m.Verified.Email != account || m.Source != inbox.SourcePubSub {
		t.Errorf("stored %+v", m)
	}
	if seen.ID != m.ID || string(seen.Data) != "hello" || seen.Size != 5 || seen.Verified.Email != account {
		t.Errorf("the function got %+v", seen)
	}
}

// TestSameDocument compares what a transaction stores with what the inbox stores.
func TestSameDocument(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{}, effect)
	m := func() *inbox.Message {
		return &inbox.Message{
			Source: inbox.SourcePubSub, Subscription: "projects/p/subscriptions/s", MessageID: "1", PublishTime: time.Unix(1, 2000).UTC(), OrderingKey: "k", DeliveryAttempt: 3,
			Attributes: map[string]string{"a": "b", "": "empty", "__x__": "reserved", "a.b`c": "path", strings.Repeat("k", 1600): "long"},
			Data:       []byte(strings.Repeat("\x00\xff", 5000)),
			Verified:   inbox.Verified{Issuer: "i", Audience: "a", Email: "e", EmailVerified: true, Subject: "s", IssuedAt: time.Unix(5, 0).UTC(), ExpiresAt: time.Unix(6, 0).UTC()},
		}
	}
	p := &processing{Store: s.store, f: effect, limit: time.Minute}
	if stored, err := p.Put(t.Context(), m()); err != nil || !stored {
		t.Fatal(stored, err)
	}
	plain, err := Open(t.Context(), config(emulator.Firestore(t), emulator.Project()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if stored, err := plain.inbox.Put(t.Context(), m()); err != nil || !stored {
		t.Fatal(stored, err)
	}
	fields := func(s *Store) map[string]any {
		all, err := s.client.Collection("messages").Documents(t.Context()).GetAll()
		if err != nil || len(all) != 1 {
			t.Fatal(len(all), err)
		}
		f := all[0].Data()
		for _, name := range []string{"receivedAt", "expireAt"} {
			if at, ok := f[name].(time.Time); !ok || time.Since(at).Abs() > 2*time.Hour {
				t.Errorf("%s is %v", name, f[name])
			}
			delete(f, name)
		}
		slices.SortFunc(f["otherAttributes"].([]any), func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		return f
	}
	if got, want := fmt.Sprintf("%q", fields(s.store)), fmt.Sprintf("%q", fields(plain)); got != want {
		t.Errorf("a transaction stores\n%.2000s\nthe inbox\n%.2000s", got, want)
	}
}

// TestFailuresLeaveNothing has the function fail in each way that it can.
func TestFailuresLeaveNothing(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	for name, test := range map[string]struct {
		fail   func() error
		reason string
	}{
		"error":      {func() error { return errors.New("no stock") }, "handler"},
		"panic":      {func() error { panic("nil map") }, "handler"},
		"hang":       {func() error { <-released; return nil }, "handler_timeout"},
		"not_found":  {func() error { return status.Error(codes.NotFound, "the order") }, "handler"},
		"bad_write":  {func() error { return nil }, "inbox_unavailable"},
		"exhausting": {func() error { return context.DeadlineExceeded }, "handler"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := atomic.Bool{}
			broken.Store(true)
			cfg := Config{}
			if name == "hang" {
				cfg.Limit = 2 * time.Second
			}
			s := newSite(t, cfg, func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
				if err := effect(ctx, tx, m); err != nil || !broken.Load() {
					return err
				}
				if name == "bad_write" { // of a document that does not exist
					return tx.Update(Client(ctx).Doc("orders/none"), []firestore.Update{{Path: "a", Value: 1}})
				}
				return test.fail()
			})
			if got := s.push(t, "1", ""); got != http.StatusServiceUnavailable {
				t.Errorf("answered %d", got)
			}
			if !strings.Contains(s.log.String(), "refusal="+test.reason+" ") && !strings.HasSuffix(strings.TrimSpace(s.log.String()), "refusal="+test.reason) {
				t.Errorf("the log has not %s: %s", test.reason, s.log)
			}
			if n := len(s.messages(t)) + s.count(t, "effects"); n != 0 {
				t.Errorf("%d documents were left", n)
			}
			broken.Store(false)
			if got := s.push(t, "1", ""); got != http.StatusNoContent || len(s.messages(t)) != 1 || s.count(t, "effects") != 1 {
				t.Errorf("a redelivery is answered %d", got)
			}
		})
	}
}

func TestReject(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{}, func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
		if err := effect(ctx, tx, m); err != nil {
			return err
		}
		return fmt.Errorf("order 7: %w", Reject(errors.New("the currency does not exist")))
	})
	for range 2 {
		if got := s.push(t, "1", "aGVsbG8="); got != http.StatusNoContent {
			t.Errorf("answered %d", got)
		}
	}
	if stored := s.messages(t); len(stored) != 1 || stored[0].Quarantined != inbox.ReasonRejected || string(stored[0].Data) != "hello" || s.count(t, "effects") != 0 {
		t.Errorf("stored %+v, and %d effects", stored, s.count(t, "effects"))
	}
	if !strings.Contains(s.log.String(), "the currency does not exist") || !strings.Contains(s.log.String(), "msg=quarantined") {
		t.Errorf("the log does not say why: %s", s.log)
	}
}

// place is the function in docs/consume.md.
func place(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
	order := map[string]any{"message": m.ID, "kind": m.Attributes["kind"]}
	return tx.Create(Client(ctx).Collection("orders").NewDoc(), order)
}

// TestDocumentedFunction runs the function in docs/consume.md for the smallest and the largest
// message.
func TestDocumentedFunction(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/consume.md")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("process_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, function, _ := strings.Cut(string(page), "\nfunc place(")
	function, _, found := strings.Cut(function, "```")
	if !found || !strings.Contains(string(own), "\nfunc place("+strings.ReplaceAll(function, "process.", "")) {
		t.Errorf("the function in docs/consume.md is another one: func place(%s", function)
	}
	s := newSite(t, Config{}, place)
	for id, size := range map[string]int{"smallest": 0, "largest": inbox.MaxDataSize} {
		if got := s.push(t, id, base64.StdEncoding.EncodeToString(make([]byte, size))); got != http.StatusNoContent {
			t.Errorf("%s: answered %d", id, got)
		}
	}
	if s.count(t, "orders") != 2 || len(s.messages(t)) != 2 {
		t.Errorf("%d orders of %d messages, want 2 of 2: %s", s.count(t, "orders"), len(s.messages(t)), s.log)
	}
}

// TestLargeMessage stores a message that does not fit a document, with its effect.
func TestLargeMessage(t *testing.T) {
	t.Parallel()
	fail := true
	s := newSite(t, Config{}, func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
		if len(m.Data) != 3_000_000 {
			return Reject(fmt.Errorf("%d bytes", len(m.Data)))
		}
		if fail {
			return errors.New("not yet")
		}
		return effect(ctx, tx, m)
	})
	data := strings.Repeat("QUJD", 1_000_000)
	if got := s.push(t, "1", data); got != http.StatusServiceUnavailable || len(s.messages(t)) != 0 {
		t.Errorf("answered %d with %d messages", got, len(s.messages(t)))
	}
	fail = false
	for range 2 {
		if got := s.push(t, "1", data); got != http.StatusNoContent {
			t.Errorf("answered %d", got)
		}
	}
	stored := s.messages(t)
	if len(stored) != 1 || s.count(t, "effects") != 1 {
		t.Fatalf("%d messages, %d effects", len(stored), s.count(t, "effects"))
	}
	m, err := s.store.inbox.Get(t.Context(), stored[0].ID)
	if err != nil || len(m.Data) != 3_000_000 {
		t.Errorf("read back %v", err)
	}
}

// TestContention has messages that write the same document pushed at the same time,
// each twice.
func TestContention(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{}, func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
		ref := Client(ctx).Doc("orders/total")
		n := int64(0)
		if d, err := tx.Get(ref); err == nil {
			n = d.Data()["n"].(int64)
		} else if status.Code(err) != codes.NotFound {
			return err
		}
		return tx.Set(ref, map[string]any{"n": n + 1})
	})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for got := 0; got != http.StatusNoContent; { // as Pub/Sub does
				got = s.push(t, fmt.Sprint(i/2), "")
			}
		})
	}
	wg.Wait()
	d, err := s.store.client.Doc("orders/total").Get(t.Context())
	if err != nil || d.Data()["n"] != int64(8) || len(s.messages(t)) != 8 {
		t.Errorf("counted %v of 8 messages, %d stored: %v", d.Data()["n"], len(s.messages(t)), err)
	}
}

// TestStrangers has nobody reach the function who is not Pub/Sub, and nothing that
// cannot be decoded.
func TestStrangers(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	s := newSite(t, Config{}, func(context.Context, *firestore.Transaction, *inbox.Message) error { runs.Add(1); return nil })
	target := pushattack.Target{URL: "http://orders/wrapped", Keys: google.Keys(t, s.issuer), Mint: google.Mint(s.issuer, audience, account)}
	cases, err := pushattack.Cases(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, c.Request); w.Code != c.Status {
			t.Errorf("%s: answered %d, want %d", c.Name, w.Code, c.Status)
		}
	}
	if n := runs.Load(); n != 0 || len(s.messages(t)) != 0 {
		t.Errorf("the function ran %d times for strangers", n)
	}
	r := httptest.NewRequest(http.MethodPost, "/wrapped", strings.NewReader("no envelope"))
	r.Header.Set("Authorization", "Bearer "+google.Token(t, s.issuer, audience, account))
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, r); w.Code != http.StatusNoContent || runs.Load() != 0 || s.messages(t)[0].Quarantined != inbox.ReasonEnvelope {
		t.Errorf("what cannot be decoded is answered %d, and the function ran %d times", w.Code, runs.Load())
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	_, verifier := google.Issuer(t)
	good := pushendpoint.Config{Audience: audience, ServiceAccount: account}
	store := new(Store)
	quiet := slog.New(slog.DiscardHandler)
	for name, make := range map[string]func() (http.Handler, error){
		"no_store":    func() (http.Handler, error) { return New(Config{}, good, verifier, nil, effect, quiet) },
		"no_function": func() (http.Handler, error) { return New(Config{}, good, verifier, store, nil, quiet) },
		"no_audience": func() (http.Handler, error) {
			return New(Config{}, pushendpoint.Config{ServiceAccount: account}, verifier, store, effect, quiet)
		},
		"over_the_deadline": func() (http.Handler, error) {
			return New(Config{Limit: 8*time.Second + 1}, good, verifier, store, effect, quiet)
		},
		"negative": func() (http.Handler, error) { return New(Config{Limit: -1}, good, verifier, store, effect, quiet) },
		"over_a_transaction": func() (http.Handler, error) {
			long := good
			long.AckDeadline = 10 * time.Minute
			return New(Config{Limit: MaxLimit + 1}, long, verifier, store, effect, quiet)
		},
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s: nothing is refused", name)
		}
	}
	if _, err := New(Config{Limit: 8 * time.Second}, good, verifier, store, effect, quiet); err != nil {
		t.Error(err)
	}
}

func TestOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{}, effect)
	client := s.store.client
	var runs, effects atomic.Int64
	deliver := func(id string, fail bool) (ran bool, err error) {
		err = client.RunTransaction(t.Context(), func(ctx context.Context, tx *firestore.Transaction) (err error) {
			ran, err = Once(ctx, tx, client.Collection("mails"), id, func(context.Context) error {
				runs.Add(1)
				if fail {
					return errors.New("no mail")
				}
				return tx.Create(client.Collection("sent").NewDoc(), map[string]any{"id": id})
			})
			return err
		}, firestore.MaxAttempts(20))
		return ran, err
	}
	if _, err := deliver("a", true); err == nil || s.count(t, "mails")+s.count(t, "sent") != 0 {
		t.Errorf("a failure is answered %v, and leaves something", err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			ran, err := deliver([]string{"a", "b/c", ""}[i%3], false)
			if err != nil {
				t.Error(err)
			}
			if ran {
				effects.Add(1)
			}
		})
	}
	wg.Wait()
	if s.count(t, "sent") != 3 || s.count(t, "mails") != 3 || effects.Load() != 3 {
		t.Errorf("%d effects, %d markers, %d say that they ran; want 3", s.count(t, "sent"), s.count(t, "mails"), effects.Load())
	}
	all, err := client.Collection("mails").Documents(t.Context()).GetAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if at, _ := d.Data()["expireAt"].(time.Time); time.Until(at).Round(time.Hour) != MarkerLife {
			t.Errorf("a marker ends at %v", at)
		}
	}
}
