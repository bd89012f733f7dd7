package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/pushinbox/shared/inbox"
)

// program is somebody's endpoint.
type program struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   []envelope
	answer   func(n int, id string) int
}

type envelope struct {
	Message struct {
		Data        []byte
		Attributes  map[string]string
		MessageID   string `json:"messageId"`
		OrderingKey string `json:"orderingKey"`
		PublishTime time.Time
	}
	Subscription    string
	DeliveryAttempt int
}

func newProgram(t *testing.T, answer func(n int, id string) int) *program {
	p := &program{answer: answer}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e envelope
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		p.requests, p.bodies = append(p.requests, r), append(p.bodies, e)
		n := len(p.bodies)
		p.mu.Unlock()
		w.WriteHeader(p.answer(n, e.Message.MessageID))
	}))
	t.Cleanup(p.Close)
	return p
}

func newForwarder(t *testing.T, address string, o Options) *Forwarder {
	t.Helper()
	var err error
	if o.Target, err = url.Parse(address); err != nil {
		t.Fatal(err)
	}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func message(n int, key string) *inbox.Message {
	return &inbox.Message{ID: strconv.Itoa(n), Subscription: "projects/p/subscriptions/s", MessageID: strconv.Itoa(n), OrderingKey: key, Data: []byte("hello"), Attributes: map[string]string{"kind": "order"}, DeliveryAttempt: 3, PublishTime: time.Unix(1, 0)}
}

// TestAsThePushThatItWas compares a request with the push of the message.
func TestAsThePushThatItWas(t *testing.T) {
	t.Parallel()
	p := newProgram(t, func(int, string) int { return http.StatusNoContent })
	var results []Result
	f := newForwarder(t, p.URL+"/push?token=s", Options{
		Tokens:   oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "t"}),
		OnResult: func(r Result) { results = append(results, r) },
	})
	if err := f.Forward(t.Context(), "1", message(7, "k")); err != nil {
		t.Fatal(err)
	}
	f.Wait()
	r, e := p.requests[0], p.bodies[0]
	if r.URL.String() != "/push?token=s" || r.Header.Get("Authorization") != "Bearer t" || r.Header.Get("Content-Type") != "application/json" || r.UserAgent() != "CloudPubSub-Google" {
		t.Errorf("%s %v", r.URL, r.Header)
	}
	if e.Message.MessageID != "7" || string(e.Message.Data) != "hello" || e.Message.Attributes["kind"] != "order" || e.Message.OrderingKey != "k" ||
		e.Subscription != "projects/p/subscriptions/s" || e.DeliveryAttempt != 3 || !e.Message.PublishTime.Equal(time.Unix(1, 0)) {
		t.Errorf("%+v", e)
	}
	if len(results) != 1 || !results[0].Acked || results[0].Status != 204 || results[0].RetryIn != 0 {
		t.Errorf("%+v", results)
	}
}

// TestTokensAreNotKept holds that a token that its source has renewed is sent at once: the
// source returns one until it ends, which may be soon.
func TestTokensAreNotKept(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	n := 0
	p := newProgram(t, func(int, string) int { return http.StatusNoContent })
	ctx, cancel := context.WithCancel(t.Context())
	var failed error
	f := newForwarder(t, p.URL, Options{
		Tokens: tokenSource(func() (*oauth2.Token, error) {
			if n++; n > 2 {
				return nil, refused
			}
			return &oauth2.Token{AccessToken: fmt.Sprint("token-", n)}, nil
		}),
		OnResult: func(r Result) {
			if r.Err != nil {
				failed = r.Err
				cancel()
			}
		},
	})
	for i := range 3 {
		if err := f.Forward(ctx, "", message(i, "")); err != nil {
			t.Fatal(err)
		}
		f.Wait()
	}
	if !errors.Is(failed, refused) || len(p.requests) != 2 {
		t.Fatalf("without a token: %v, after %d requests", failed, len(p.requests))
	}
	for i, want := range []string{"Bearer token-1", "Bearer token-2"} {
		if got := p.requests[i].Header.Get("Authorization"); got != want {
			t.Errorf("the header is %q, want %q", got, want)
		}
	}
}

// tokenSource makes a function an oauth2.TokenSource.
type tokenSource func() (*oauth2.Token, error)

func (f tokenSource) Token() (*oauth2.Token, error) { return f() }

// TestOrderAndProgress has a program refuse at random: the messages of a key arrive in
// order, everything arrives, and no token is told before all up to it are done.
func TestOrderAndProgress(t *testing.T) {
	t.Parallel()
	const n = 300
	var mu sync.Mutex
	acked := map[string]bool{}
	p := newProgram(t, func(_ int, id string) int {
		if rand.IntN(20) == 0 {
			return []int{http.StatusServiceUnavailable, http.StatusMultipleChoices, http.StatusNonAuthoritativeInfo}[rand.IntN(3)]
		}
		mu.Lock()
		defer mu.Unlock()
		acked[id] = true
		return http.StatusOK
	})
	last := 0
	var f *Forwarder
	f = newForwarder(t, p.URL, Options{OnDone: func() {
		mu.Lock()
		defer mu.Unlock()
		token, ahead := f.Done()
		at, _ := strconv.Atoi(token)
		for _, token := range ahead {
			if n, _ := strconv.Atoi(token); n <= at || n%50 != 0 && !acked[strconv.Itoa(n-1)] {
				t.Errorf("token %s is told as done, after %d", token, at)
			}
		}
		for i := range at {
			if i%50 != 49 && !acked[strconv.Itoa(i)] {
				t.Errorf("token %d is told before message %d is done", at, i)
			}
		}
		if at < last {
			t.Errorf("token %d comes after %d", at, last)
		}
		last = at
	}})
	for i := range n {
		if i%50 == 49 {
			f.Skip(strconv.Itoa(i + 1))
			continue
		}
		if err := f.Forward(t.Context(), strconv.Itoa(i+1), message(i, []string{"", "a", "b", "c"}[i%4])); err != nil {
			t.Fatal(err)
		}
	}
	f.Wait()
	if last != n {
		t.Errorf("the last token is %d of %d", last, n)
	}
	before := map[string]int{}
	for _, e := range p.bodies {
		id, _ := strconv.Atoi(e.Message.MessageID)
		if key := e.Message.OrderingKey; key != "" && id < before[key] {
			t.Errorf("key %s: %d comes after %d", key, id, before[key])
		} else {
			before[key] = id
		}
	}
}

// TestEndsWithItsContext has a program that is down: nothing is done, and the end of
// the context ends the trying.
func TestEndsWithItsContext(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	ctx, cancel := context.WithCancel(t.Context())
	f := newForwarder(t, gone.URL+"/?token=secret", Options{
		OnDone: func() { t.Error("something is done") },
		OnResult: func(r Result) {
			if r.Acked || r.Err == nil || r.Status != 0 || r.RetryIn <= 0 {
				t.Errorf("%+v", r)
			}
			if strings.Contains(fmt.Sprint(r.Err), "secret") {
				t.Errorf("the error has the address: %v", r.Err)
			}
			cancel()
		},
	})
	if err := f.Forward(ctx, "1", message(1, "")); err != nil {
		t.Fatal(err)
	}
	f.Wait()
	if f.Again(ctx); ctx.Err() == nil {
		t.Error("the context goes on")
	}
	f.Wait()
}

func TestAgain(t *testing.T) {
	t.Parallel()
	p := newProgram(t, func(n int, _ string) int { return []int{204, 500, 204}[n-1] })
	f := newForwarder(t, p.URL, Options{OnResult: func(r Result) {
		if r.Again && r.RetryIn != 0 {
			t.Errorf("%+v", r)
		}
	}})
	if f.Again(t.Context()) {
		t.Error("something is sent again before anything was sent")
	}
	if err := f.Forward(t.Context(), "1", message(1, "")); err != nil {
		t.Fatal(err)
	}
	f.Wait()
	if !f.Again(t.Context()) {
		t.Error("nothing is sent again")
	}
	f.Wait()
	if len(p.bodies) != 2 || p.bodies[1].Message.MessageID != "1" {
		t.Errorf("%d requests", len(p.bodies))
	}
}

// TestAgainAtTheEnd has a message sent again while the context ends: the request is done
// whole, and Wait waits for it, or it is not begun.
func TestAgainAtTheEnd(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan bool, 1), make(chan bool)
	p := newProgram(t, func(n int, _ string) int {
		if n == 2 {
			begun <- true
			<-goOn
		}
		return http.StatusNoContent
	})
	var acked atomic.Int64
	f := newForwarder(t, p.URL, Options{OnResult: func(r Result) {
		if r.Acked {
			acked.Add(1)
		}
	}})
	if err := f.Forward(t.Context(), "1", message(1, "")); err != nil {
		t.Fatal(err)
	}
	f.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	f.Again(ctx)
	<-begun
	cancel()
	close(goOn)
	if f.Wait(); acked.Load() != 2 {
		t.Errorf("%d requests are done, want 2", acked.Load())
	}
	for i := range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		var person sync.WaitGroup
		person.Go(func() { f.Again(ctx) })
		for range i {
			runtime.Gosched()
		}
		cancel()
		f.Wait()
		done := acked.Load()
		person.Wait()
		if f.Wait(); acked.Load() != done {
			t.Fatal("a message is sent again after the end")
		}
	}
	if p.mu.Lock(); int64(len(p.bodies)) != acked.Load() {
		t.Errorf("%d requests came, and %d are done", len(p.bodies), acked.Load())
	}
	p.mu.Unlock()
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "ftp://127.0.0.1", "/push", "http://"} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Options{Endpoint: Endpoint{Target: u}}); err == nil {
			t.Errorf("%q is taken", address)
		}
	}
}

// upTo is what a Forwarder's Done returns.
func upTo(token string, ahead ...string) func() (string, []string) {
	return func() (string, []string) { return token, ahead }
}

// TestAheadOfARefusedMessage has one message that is never acknowledged: those after it are
// told, as few as there may be, and one after the other when it is.
func TestAheadOfARefusedMessage(t *testing.T) {
	t.Parallel()
	var mended atomic.Bool
	p := newProgram(t, func(_ int, id string) int {
		if id == "0" && !mended.Load() {
			return http.StatusInternalServerError
		}
		return http.StatusNoContent
	})
	f := newForwarder(t, p.URL, Options{})
	f.Begin("start")
	const n = maxAhead + 100
	for i := range n {
		if i%100 != 0 {
			f.Skip(fmt.Sprint("token-", i))
		} else if err := f.Forward(t.Context(), fmt.Sprint("token-", i), message(i, "")); err != nil {
			t.Fatal(err)
		}
	}
	kept := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.all.Len()
	}
	for begun := time.Now(); kept() > 2; time.Sleep(time.Millisecond) { // the refused one, and all the others as one
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d messages are kept after one that is refused", kept())
		}
	}
	if token, ahead := f.Done(); token != "start" || len(ahead) != maxAhead {
		t.Errorf("it is done up to %s, and %d messages after it", token, len(ahead))
	}
	mended.Store(true)
	f.Wait()
	if token, ahead := f.Done(); token != fmt.Sprint("token-", n-1) || len(ahead) != 0 || f.ahead != 0 {
		t.Errorf("it is done up to %s, and %d messages after it", token, len(ahead))
	}
}

// TestPlaceOfARefusedMessage goes on twice where one message is refused, and ends before all
// that came after it has come again: what is done stays done, until the place is past it. A
// message of another inbox is another one.
func TestPlaceOfARefusedMessage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	token := func(second int64) string {
		at := time.Unix(second, 0)
		return inbox.Position{ReceivedAt: at, Commit: at, ID: inbox.ID("pubsub", "s", strconv.FormatInt(second, 10))}.Token()
	}
	goOn := func(done func() (string, []string)) *Place {
		t.Helper()
		p, err := OpenPlace(dir, "inbox")
		if err == nil {
			err = p.Save(done)
		}
		if err == nil {
			p, err = OpenPlace(dir, "inbox")
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	goOn(upTo(token(1), token(5), token(4)))
	goOn(upTo(token(1)))
	p := goOn(upTo(token(2), token(6)))
	for second, want := range map[int64]bool{3: false, 4: true, 5: true, 6: true} {
		if p.WasDone(token(second)) != want {
			t.Errorf("message %d was done is %v", second, !want)
		}
	}
	if other := (inbox.Position{ReceivedAt: time.Unix(40, 0), Commit: time.Unix(40, 0), ID: inbox.ID("pubsub", "s", "4")}).Token(); p.WasDone(other) {
		t.Error("a message with the same ID, which was stored later, counts as done")
	}
	again, err := OpenPlace(dir, "inbox")
	if err != nil {
		t.Fatal(err)
	}
	if again.Forget(); again.WasDone(token(4)) {
		t.Error("what is to come again counts as done")
	}
	if goOn(upTo(token(6))); len(goOn(upTo(token(7))).ahead) != 0 {
		t.Error("what is before the place is kept")
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	p, err := OpenPlace(dir, "inbox", "http://127.0.0.1/?token=secret", "")
	if err != nil {
		t.Fatal(err)
	}
	if token, _ := p.Token(); token != "" {
		t.Errorf("a new place has %q", token)
	}
	for _, token := range []string{"one", "two", "three"} {
		if err := p.Note(upTo(token)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Save(upTo("three", "b", "a")); err != nil {
		t.Fatal(err)
	}
	again, err := OpenPlace(dir, "inbox", "http://127.0.0.1/?token=secret", "")
	if err != nil {
		t.Fatal(err)
	}
	if token, at := again.Token(); token != "three" || time.Since(at) > time.Minute {
		t.Errorf("%q of %v", token, at)
	}
	if !again.WasDone("a") || !again.WasDone("b") || again.WasDone("c") {
		t.Error("it does not know what was done after the token")
	}
	if other, err := OpenPlace(dir, "inbox", "http://127.0.0.1/", ""); err != nil {
		t.Error(err)
	} else if token, _ := other.Token(); token != "" {
		t.Errorf("another target has %q", token)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if info, err := files[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	path := filepath.Join(dir, files[0].Name())
	for _, content := range []string{"", "{}", "[", string(make([]byte, maxPlace+1))} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenPlace(dir, "inbox", "http://127.0.0.1/?token=secret", ""); err == nil {
			t.Errorf("a file of %d bytes is taken", len(content))
		}
	}
}

// TestPlaceOfAnotherClock has a place that was saved by a clock that has been set back
// since: after a kill, what was acknowledged does not come again.
func TestPlaceOfAnotherClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := OpenPlace(dir, "inbox")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(placeFile{Token: "before", SavedAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err = OpenPlace(dir, "inbox"); err != nil {
		t.Fatal(err)
	}
	if err := p.Note(upTo("behind")); err != nil {
		t.Fatal(err)
	}
	if p, err = OpenPlace(dir, "inbox"); err != nil {
		t.Fatal(err)
	}
	if token, _ := p.Token(); token != "behind" {
		t.Errorf("it goes on at %q", token)
	}
}

// TestMessageIDOfAPublisher forwards a message that was stored under an ID that no header
// can have, in each form: it does not hold up the others.
func TestMessageIDOfAPublisher(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{"wrapped": {}, "unwrapped": {Endpoint: Endpoint{Unwrapped: true}}, "bare": {Endpoint: Endpoint{Bare: true}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header["X-Evil"] != nil {
					t.Error("the ID is a header of its own")
				}
				w.WriteHeader(http.StatusNoContent)
			}))
			t.Cleanup(p.Close)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o.OnResult = func(r Result) {
				if !r.Acked {
					t.Errorf("%d, %v", r.Status, r.Err)
					cancel()
				}
			}
			f := newForwarder(t, p.URL, o)
			m := message(7, "")
			m.MessageID, m.Subscription = "a\r\nX-Evil: \x00b", "projects/p/subscriptions/\x7f"
			if err := f.Forward(ctx, "1", m); err != nil {
				t.Fatal(err)
			}
			f.Wait()
		})
	}
}
