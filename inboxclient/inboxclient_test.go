package inboxclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"example.com/pushinbox/shared/inbox"
)

// message returns the JSON of a message in a list.
func message(n int, attributes map[string]string) string {
	b, err := json.Marshal(inbox.Message{
		ID: inbox.ID("pubsub", "s", fmt.Sprint(n)), Source: "pubsub", Subscription: "s", MessageID: fmt.Sprint(n), Attributes: attributes,
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func newClient(t *testing.T, h http.HandlerFunc, o *Options) (*Client, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := New(server.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	return c, server
}

func TestListGoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	calls := 0
	var told []string
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		switch calls++; {
		case calls == 2: // in the middle of an answer
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"messages":[`))
		case calls == 3:
			http.Error(w, `{"detail":"busy"}`, http.StatusServiceUnavailable)
		case r.URL.Query().Get("pageToken") == "":
			fmt.Fprintf(w, `{"messages":[%s],"nextPageToken":"2","examined":7}`, message(1, nil))
		default:
			fmt.Fprintf(w, `{"messages":[%s]}`, message(2, nil))
		}
	}, &Options{OnRetry: func(err error, _ time.Duration) { told = append(told, err.Error()) }})
	var got []string
	for m, err := range c.List(t.Context(), inbox.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.MessageID)
	}
	if strings.Join(got, " ") != "1 2" || len(told) != 2 || !strings.Contains(told[1], "503 Service Unavailable: busy") {
		t.Errorf("listed %v, told %q", got, told)
	}
}

func TestConsoleThatIgnoresTheFilter(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "id: a\n\nid: b\ndata: %s\n\n", message(1, nil))
			return
		}
		fmt.Fprintf(w, `{"messages":[%s,%s]}`, message(1, map[string]string{"k": "v"}), message(2, nil))
	}, nil)
	q := inbox.Query{Attributes: map[string]string{"k": "v"}}
	if _, err := c.Page(t.Context(), q); !errors.Is(err, ErrFilter) {
		t.Errorf("a list: %v", err)
	}
	for _, err := range c.Tail(t.Context(), q, nil) {
		if !errors.Is(err, ErrFilter) {
			t.Errorf("a tail: %v", err)
		}
	}
}

// TestRefusals are not repeated.
func TestRefusals(t *testing.T) {
	t.Parallel()
	id := inbox.ID("pubsub", "s", "1")
	elsewhere, _ := newClient(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }, nil)
	for name, test := range map[string]struct {
		status  int
		body    string
		want    string
		notSent bool
	}{
		"problem":  {403, `{"title":"Forbidden","status":403,"detail":"not a reader"}`, "403 Forbidden: not a reader", true},
		"no_json":  {404, "nothing here", "404 Not Found: nothing here", true},
		"redirect": {302, "", "302 Found", false},
		"own":      {500, "", "500 Internal Server Error", false},
	} {
		calls := 0
		c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			calls++
			if r.Header.Get("Authorization") != "Bearer secret" {
				t.Errorf("%s: the token is %q", name, r.Header.Get("Authorization"))
			}
			w.Header().Set("Location", elsewhere.Address())
			w.WriteHeader(test.status)
			_, _ = w.Write([]byte(test.body))
		}, &Options{Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "secret"})})
		_, err := c.Get(t.Context(), id)
		if err == nil || err.Error() != test.want || calls != 1 || IsNotFound(err) != (test.status == 404) {
			t.Errorf("%s: %v after %d calls", name, err, calls)
		}
		if _, err := c.Replay(t.Context(), id, nil, false); err == nil || NotSent(err) != test.notSent || calls != 2 {
			t.Errorf("%s: replay: %v, %d calls", name, err, calls)
		}
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestOutputThatFails asks the console once: it can do nothing for the caller's disk.
func TestOutputThatFails(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	c, _ := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, "data")
	}, &Options{Patience: time.Minute, OnRetry: func(err error, _ time.Duration) { t.Errorf("again after %v", err) }})
	if err := c.Data(t.Context(), inbox.ID("pubsub", "s", "1"), full{}); !errors.Is(err, syscall.ENOSPC) || asked.Load() != 1 {
		t.Errorf("asked %d times, %v", asked.Load(), err)
	}
}

func TestNothingListens(t *testing.T) {
	t.Parallel()
	c, server := newClient(t, nil, &Options{OnRetry: func(error, time.Duration) { t.Error("a console that never answered is waited for") }})
	server.Close()
	if _, err := c.Page(t.Context(), inbox.Query{}); err == nil {
		t.Error("there is a page")
	}
	if _, err := c.Publish(t.Context(), Publication{}); err == nil || !NotSent(err) {
		t.Errorf("publishing: %v", err)
	}
	for _, err := range c.Tail(t.Context(), inbox.Query{}, &TailOptions{OnLost: func(error) { t.Error("lost") }}) {
		if err == nil {
			t.Error("there is an event")
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	huge := bytes.Repeat([]byte{' '}, 1<<20)
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		for r.Context().Err() == nil {
			if _, err := w.Write(huge); err != nil {
				return
			}
		}
	}, nil)
	if _, err := c.Page(t.Context(), inbox.Query{}); !errors.Is(err, errAnswer) {
		t.Errorf("a page: %v", err)
	}
	for _, err := range c.Tail(t.Context(), inbox.Query{}, nil) {
		if !errors.Is(err, errAnswer) {
			t.Errorf("a tail: %v", err)
		}
	}
}

// feed is a live tail of numbered events, which ends its connections as it is told.
type feed struct {
	mu     sync.Mutex
	ends   []string // what each connection does after three events
	silent atomic.Int32
}

func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	var n int
	_, _ = fmt.Sscan(r.Header.Get("Last-Event-ID"), &n)
	fmt.Fprintf(w, ": heartbeat 100ms\nretry: 1000\nid: %d\n\n", n)
	out := http.NewResponseController(w)
	for range 3 {
		n++
		fmt.Fprintf(w, "id: %d\nevent: message\ndata: %s\n\n", n, message(n, nil))
	}
	_ = out.Flush()
	f.mu.Lock()
	end := "end"
	if len(f.ends) > 0 {
		end, f.ends = f.ends[0], f.ends[1:]
	}
	f.mu.Unlock()
	switch end {
	case "cut": // within an event
		fmt.Fprintf(w, "id: %d\ndata: {\"id", n+1)
		_ = out.Flush()
		panic(http.ErrAbortHandler)
	case "silence":
		f.silent.Add(1)
		<-r.Context().Done()
	case "refuse":
		return
	}
}

func TestTailSurvivesLostConnections(t *testing.T) {
	t.Parallel()
	f := &feed{ends: []string{"cut", "silence", "end"}}
	var refused atomic.Bool
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-ID") == "3" && refused.CompareAndSwap(false, true) {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		f.serve(w, r)
	}, nil)
	var lost []error
	back, next := 0, 1
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for e, err := range c.Tail(ctx, inbox.Query{}, &TailOptions{
		OnLost: func(err error) { lost = append(lost, err) }, OnBack: func() { back++ },
	}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Message.MessageID != fmt.Sprint(next) || e.Token != e.Message.MessageID {
			t.Fatalf("event %d is %s", next, e.Message.MessageID)
		}
		if next++; next > 10 {
			break
		}
	}
	if next != 11 || len(lost) != 3 || back != 3 || !errors.Is(lost[1], errSilence) {
		t.Errorf("%d events, lost %v, %d times back", next-1, lost, back)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "127.0.0.1:8080", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http://h#x"} {
		if _, err := New(bad, nil); err == nil {
			t.Errorf("%q is taken for an address", bad)
		}
	}
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"messages":[]}`)) }, nil)
	for _, bad := range []string{"", "..", "a/b", strings.Repeat("A", 40)} {
		if _, err := c.Get(t.Context(), bad); err == nil {
			t.Errorf("%q is taken for an ID", bad)
		}
	}
}

// TestSizeOfTheServer has a server say that a message has a size that none has.
func TestSizeOfTheServer(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, message(1, nil)) }, nil)
	for _, size := range []int{math.MinInt, -1 << 20, -1, 0, math.MaxInt} {
		if b, err := c.JSON(t.Context(), inbox.ID("pubsub", "s", "1"), size); err != nil || len(b) == 0 {
			t.Errorf("with the size %d: %v", size, err)
		}
	}
}

// FuzzMessage reads what any server may answer as a message.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(message(1, map[string]string{"a": "b\r\n"})))
	f.Add([]byte("{\"id\":\n\"x\",\"size\":-1,\"quarantined\":{\"reason\":\"data\"},\"deadLetter\":{},\"token\":\"t\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m polled
		if json.Unmarshal(b, &m) != nil {
			return
		}
		if again, err := json.Marshal(m.Message); err != nil || bytes.ContainsAny(again, "\r\n") || !json.Valid(again) {
			t.Fatalf("%q is printed as %q, %v", b, again, err)
		}
	})
}

// TestFindNothing has an inbox with one message: an empty ID does not name it.
func TestFindNothing(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"messages":[%s]}`, message(1, nil))
	}, nil)
	if m, err := c.Find(t.Context(), "", inbox.Query{}); !errors.Is(err, ErrNoMessage) {
		t.Errorf("%v, %v", m, err)
	}
}
