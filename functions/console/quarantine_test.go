package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/verify"

	"log/slog"
)

func TestQuarantined(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	s.put(t, "good", "s", []byte("hi"))
	m := inbox.Quarantine("pubsub", "", inbox.ReasonData, []byte("<body>"))
	m.Attributes = map[string]string{"x-goog-pubsub-message-id": "7"}
	if _, err := s.store.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	id := inbox.ID("pubsub", "", m.MessageID)
	const member = `"quarantined":{"reason":"not-base64"}`

	for query, want := range map[string]int{"": 2, "?quarantined=true": 1, "?quarantined=true&source=pubsub": 1, "?quarantined=true&subscription=s": 0} {
		_, b := s.do(t, s.request(t, http.MethodGet, "/messages"+query, ""))
		var list struct{ Messages []inbox.Message }
		if err := json.Unmarshal(b, &list); err != nil || len(list.Messages) != want || strings.Contains(string(b), member) != (want > 0) {
			t.Errorf("%s lists %d messages, want %d: %s", query, len(list.Messages), want, b)
		}
	}
	for _, value := range []string{"false", "1", "TRUE", "x"} {
		if resp, b := s.do(t, s.request(t, http.MethodGet, "/messages?quarantined="+value, "")); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("quarantined=%s: answered %d %s", value, resp.StatusCode, b)
		}
	}
	if _, b := s.do(t, s.request(t, http.MethodGet, "/messages/"+id, "")); !strings.Contains(string(b), member) {
		t.Errorf("the message does not say that it is quarantined: %s", b)
	}
	page := func(path string) string {
		r := s.request(t, http.MethodGet, path, "")
		r.Header.Set("Accept", "text/html")
		_, b := s.do(t, r)
		return string(b)
	}
	const tag = `class="tag quarantined"`
	if n := strings.Count(page("/"), tag); n != 1 {
		t.Errorf("%d rows are marked, want 1", n)
	}
	if p := page("/?quarantined=true"); strings.Count(p, "<tr role=\"row\" id=") != 1 || !strings.Contains(p, "checked") || !strings.Contains(p, "data-feed=\"/rows?quarantined=true\"") {
		t.Errorf("the filtered page: %s", p)
	}
	if p := page("/messages/" + id); !strings.Contains(p, `id="quarantined"`) || !strings.Contains(p, inbox.ReasonData.Words()) || !strings.Contains(p, "?quarantined=true") {
		t.Errorf("the message's page: %s", p)
	}

	tail := s.tailOf(t, "/events?quarantined=true", "")
	s.put(t, "another", "s", nil)
	other := inbox.Quarantine("pubsub", "", inbox.ReasonEnvelope, []byte("x"))
	if _, err := s.store.Put(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if got := tail.id(t); got != other.MessageID {
		t.Errorf("the filtered tail yields %q", got)
	}

	if resp, b := s.do(t, s.request(t, http.MethodPost, "/messages/"+id+":replay", "")); resp.StatusCode != http.StatusConflict || !strings.Contains(string(b), "quarantined=true") || len(s.topic.sent) != 0 {
		t.Errorf("replay without its name: answered %d %s, published %v", resp.StatusCode, b, s.topic.sent)
	}
	if resp, b := s.do(t, s.request(t, http.MethodPost, "/messages/"+id+":replay?quarantined=true", "")); resp.StatusCode != http.StatusOK {
		t.Fatalf("replay: answered %d %s", resp.StatusCode, b)
	}
	if sent := s.topic.sent[0]; string(sent.Data) != "<body>" || !cmp.Equal(sent.Attributes, map[string]string{"replay-of": id}) {
		t.Errorf("published %v", sent)
	}
}

// TestReplayOfManyAttributes replays messages with as many attributes as Pub/Sub
// takes, replay-of among them or not.
func TestReplayOfManyAttributes(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	for name, test := range map[string]struct {
		own      int
		more     map[string]string
		replayOf bool
	}{
		"none":                {0, nil, true},
		"99":                  {99, nil, true},
		"100":                 {100, nil, false},
		"100_with_replay_of":  {99, map[string]string{"replay-of": "x"}, true},
		"100_with_googclient": {98, map[string]string{"googclient_x": "x", "replay-of": "x"}, true},
	} {
		m := &inbox.Message{Source: "pubsub", Subscription: "s", MessageID: name, Attributes: map[string]string{}}
		for k, v := range test.more {
			m.Attributes[k] = v
		}
		for i := range test.own {
			m.Attributes[fmt.Sprint(i)] = "v"
		}
		if _, err := s.store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		id := inbox.ID("pubsub", "s", name)
		if resp, b := s.do(t, s.request(t, http.MethodPost, "/messages/"+id+":replay", "")); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: answered %d %s", name, resp.StatusCode, b)
		}
		sent := s.topic.sent[len(s.topic.sent)-1].Attributes
		want := test.own
		if test.more["googclient_x"] != "" {
			want++
		}
		if test.replayOf {
			want++
		}
		if len(sent) != want || (sent["replay-of"] == id) != test.replayOf {
			t.Errorf("%s: published %d attributes, replay-of %q", name, len(sent), sent["replay-of"])
		}
	}
}

// TestStreamedJSON holds what is written piece by piece to what encoding/json writes.
func TestStreamedJSON(t *testing.T) {
	t.Parallel()
	messages := []inbox.Message{
		{},
		{ID: "1", Data: []byte{}, Attributes: map[string]string{}},
		{MessageID: `"data":""`, Subscription: `\"data\":\"\"`, Data: []byte("x"), Attributes: map[string]string{`"data":""`: `"data":""`, "data": ""}},
		{Data: bytes.Repeat([]byte("\x00\xff<"), 40_000), Size: 120_000, Quarantined: inbox.ReasonData, Source: "<script>\u2028"},
	}
	page := &inbox.Page{NextPageToken: inbox.Position{}.Token()}
	for i := range messages {
		want, err := json.Marshal(messages[i])
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		if err := writeMessage(w, &messages[i]); err != nil || strings.TrimSpace(w.Body.String()) != string(want) {
			t.Errorf("message %d: %.300s, %v, want %.300s", i, w.Body, err, want)
		}
		page.Events = append(page.Events, inbox.Event{Message: messages[i]})
	}
	for n := range len(messages) + 1 {
		p := &inbox.Page{Events: page.Events[:n], NextPageToken: page.NextPageToken, WatchToken: "w"}
		want, err := json.Marshal(map[string]any{"messages": p.Messages(), "nextPageToken": p.NextPageToken, "watchToken": "w"})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		if err := writePage(w, p); err != nil || strings.TrimSpace(w.Body.String()) != string(want) {
			t.Errorf("page of %d: %.300s, %v, want %.300s", n, w.Body, err, want)
		}
	}
}

// holding is a store whose large messages are on their way until it is told.
type holding struct {
	size    int // of data, in bytes
	in, out chan struct{}
}

var errSmall = errors.New("read as if it were large")

func (h holding) Peek(_ context.Context, id string) (*inbox.Message, error) {
	if id == "small" {
		return &inbox.Message{Size: 1, Data: []byte("x")}, nil
	}
	return &inbox.Message{Size: h.size, Truncated: true}, nil
}

func (h holding) Get(_ context.Context, id string) (*inbox.Message, error) {
	if id == "small" {
		return nil, errSmall
	}
	h.in <- struct{}{}
	<-h.out
	return &inbox.Message{}, nil
}

func (h holding) List(_ context.Context, q inbox.Query) (*inbox.Page, error) {
	switch {
	case q.Subscription == "small":
		return &inbox.Page{}, nil
	case q.PageBytes > smallPage:
		h.in <- struct{}{}
		<-h.out
	}
	return &inbox.Page{Events: make([]inbox.Event, 1), NextPageToken: "more"}, nil
}

func (h holding) Watch(context.Context, inbox.Query) iter.Seq2[inbox.Event, error] { return nil }

// anybody is a verifier that lets everybody in.
type anybody struct{}

func (anybody) IDToken(*http.Request, verify.Policy) (verify.Claims, error) {
	return verify.Claims{Email: reader}, nil
}
func (anybody) IAP(*http.Request, string) (verify.Claims, error) { return verify.Claims{}, nil }

// TestLargeAnswersWaitForRoom asks for as many large answers as there is room for: the
// next one is not read and, in the end, 503, and a small one does not wait.
func TestLargeAnswersWaitForRoom(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method, large, small string
		size                 int64
	}{
		"message": {http.MethodGet, "/messages/large", "/messages/small", 10_000_000 * dataWeight},
		"data":    {http.MethodGet, "/messages/large/data", "/messages/small/data", 10_000_000 * dataWeight},
		"replay":  {http.MethodPost, "/messages/large:replay", "/messages/small:replay", 10_000_000 * replayWeight},
		"list":    {http.MethodGet, "/messages", "/messages?subscription=small", inbox.MaxPageBytes * pageWeight},
		"rows":    {http.MethodGet, "/", "/?subscription=small", inbox.MaxPageBytes * pageWeight},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := holding{10_000_000, make(chan struct{}), make(chan struct{})}
				h, err := New(both, anybody{}, store, &topic{}, nil, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				const room = 3
				budget := httpapi.NewBudget(room * test.size / 2 * 3)
				ask := func(path string, answers chan<- *httptest.ResponseRecorder) {
					w := httptest.NewRecorder()
					r := httptest.NewRequest(test.method, path, nil)
					h.ServeHTTP(w, r.WithContext(httpapi.WithBudget(t.Context(), budget)))
					answers <- w
				}
				answers := make(chan *httptest.ResponseRecorder, room)
				for range room {
					go ask(test.large, answers)
					<-store.in
				}
				late := make(chan *httptest.ResponseRecorder, 1)
				start := time.Now()
				go ask(test.large, late)
				synctest.Wait()
				small := make(chan *httptest.ResponseRecorder, 1)
				ask(test.small, small)
				if w := <-small; w.Code != http.StatusOK || time.Since(start) > 0 {
					t.Errorf("a small answer after %v: %d %s", time.Since(start), w.Code, w.Body)
				}
				if w := <-late; w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
					t.Errorf("without room: %d %s", w.Code, w.Body)
				}
				for range room {
					store.out <- struct{}{}
					if w := <-answers; w.Code != http.StatusOK {
						t.Errorf("answered %d %s", w.Code, w.Body)
					}
				}
			})
		})
	}
}
