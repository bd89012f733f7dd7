package console

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
)

type polled struct {
	Messages []struct {
		inbox.Message
		Token string
	}
	Next string
}

func (p polled) ids() (all string) {
	for _, m := range p.Messages {
		all += m.MessageID + " "
	}
	return strings.TrimSpace(all)
}

func (s *site) poll(t *testing.T, parameters ...string) polled {
	t.Helper()
	v := url.Values{}
	for i := 0; i < len(parameters); i += 2 {
		v.Set(parameters[i], parameters[i+1])
	}
	resp, b := s.do(t, s.request(t, http.MethodGet, "/messages:poll?"+v.Encode(), ""))
	var p polled
	if err := json.Unmarshal(b, &p); err != nil || resp.StatusCode != http.StatusOK || p.Next == "" {
		t.Fatalf("answered %d %.300s: %v", resp.StatusCode, b, err)
	}
	return p
}

func (s *site) keep(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		m := &inbox.Message{Source: "pubsub", Subscription: "projects/p/subscriptions/s", MessageID: id, Data: []byte(id), Attributes: map[string]string{"odd": fmt.Sprint(len(id)%2 == 1)}}
		if _, err := s.store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPoll(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	if p := s.poll(t); len(p.Messages) != 0 {
		t.Errorf("an empty inbox answers %s", p.ids())
	}
	s.keep(t, "1", "22", "333", "4444")
	all := s.poll(t)
	if all.ids() != "1 22 333 4444" || string(all.Messages[0].Data) != "1" {
		t.Errorf("from the beginning: %s", all.ids())
	}
	if p := s.poll(t, "after", all.Next); len(p.Messages) != 0 {
		t.Errorf("after all: %s", p.ids())
	}
	if p := s.poll(t, "after", all.Messages[1].Token); p.ids() != "333 4444" {
		t.Errorf("after the second message: %s", p.ids())
	}
	// In pieces, without a gap and without a repetition.
	var got []string
	for p := s.poll(t, "pageSize", "3"); len(p.Messages) > 0; p = s.poll(t, "pageSize", "3", "after", p.Next) {
		got = append(got, p.ids())
	}
	if fmt.Sprint(got) != "[1 22 333 4444]" {
		t.Errorf("in pieces of 3: %q", got)
	}
	odd := s.poll(t, "attribute.odd", "true")
	if odd.ids() != "1 333" {
		t.Errorf("with a filter: %s", odd.ids())
	}
	// The token comes forward although nothing matches.
	s.keep(t, "55555_")
	next := s.poll(t, "attribute.odd", "true", "after", odd.Next)
	if len(next.Messages) != 0 || next.Next == odd.Next {
		t.Errorf("nothing matches: %s, token %s", next.ids(), next.Next)
	}
}

// TestPollWaits has a poll wait for a message, and end without one.
func TestPollWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	p := s.poll(t)
	answers := make(chan polled, 1)
	go func() { answers <- s.poll(t, "after", p.Next, "wait", "1m") }()
	select {
	case a := <-answers:
		t.Fatalf("did not wait: %s", a.ids())
	case <-time.After(300 * time.Millisecond):
	}
	s.keep(t, "1")
	select {
	case a := <-answers:
		if a.ids() != "1" {
			t.Errorf("answered %s", a.ids())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a message does not end the wait")
	}
	start := time.Now()
	if a := s.poll(t, "after", s.poll(t).Next, "wait", "1s"); len(a.Messages) != 0 || time.Since(start) < time.Second {
		t.Errorf("answered %s after %v", a.ids(), time.Since(start))
	}
}

// TestPollReaderLeaves ends a request that waits: the log has no error.
func TestPollReaderLeaves(t *testing.T) {
	t.Parallel()
	lines := make(chan string, 10)
	s := newLoggedSite(t, both, slog.New(slog.NewTextHandler(lineWriter(lines), nil)))
	token := s.poll(t).Next
	<-lines
	s.handler.store = leaving{s.store}
	r := s.request(t, http.MethodGet, "/messages:poll?wait=1m&after="+url.QueryEscape(token), "")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := http.DefaultClient.Do(r.WithContext(ctx)); err == nil {
		t.Fatal("the request does not wait")
	}
	if line := <-lines; strings.Contains(line, "ERROR") || strings.Contains(line, "refusal") {
		t.Errorf("the log has %s", line)
	}
}

// leaving is a store whose feed ends with the error of its context.
type leaving struct{ Store }

func (leaving) Watch(ctx context.Context, _ inbox.Query) iter.Seq2[inbox.Event, error] {
	return func(yield func(inbox.Event, error) bool) {
		<-ctx.Done()
		yield(inbox.Event{}, ctx.Err())
	}
}

type lineWriter chan<- string

func (l lineWriter) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }

func TestPollRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	s.keep(t, "1")
	token := s.poll(t).Next
	for query, want := range map[string]string{
		"wait=61s":                   "at most 1m0s",
		"wait=-1s":                   "wait",
		"wait=soon":                  "wait",
		"wait=1s&wait=2s":            "2 times",
		"after=x":                    "token",
		"after=%ff":                  `the parameter \"after\" is longer`,
		"after=x&after=x":            `the parameter \"after\" is there 2 times`,
		"after=&pageToken=x":         "no pageToken",
		"order=desc":                 "no order",
		"limit=1":                    "does not exist; the parameters are source, subscription, messageId, orderingKey, since, until, text, quarantined, pageSize, after, attribute.KEY, wait",
		"after=" + token + "&text=a": "another filter",
	} {
		resp, b := s.do(t, s.request(t, http.MethodGet, "/messages:poll?"+query, ""))
		if query == "after="+token+"&text=a" && resp.StatusCode == http.StatusOK {
			continue // a token of everything fits every filter, as in a list
		}
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), want) {
			t.Errorf("%s: answered %d %s", query, resp.StatusCode, b)
		}
	}
	r := s.request(t, http.MethodPost, "/messages:poll", "")
	if resp, _ := s.do(t, r); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a POST is answered %d", resp.StatusCode)
	}
	r = s.request(t, http.MethodGet, "/messages:poll", "")
	r.Header.Del("Authorization")
	if resp, _ := s.do(t, r); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %d", resp.StatusCode)
	}
}
