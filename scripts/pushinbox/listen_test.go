package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/forward"
	"example.com/pushinbox/shared/inbox"
)

// awayFor is a console that answers the data of its one message, which has expired, only
// after some time without a network.
type awayFor struct {
	event string
	until time.Time
}

func (a awayFor) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}}
	switch {
	case strings.HasSuffix(r.URL.Path, "/events"):
		in, out := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = out.CloseWithError(r.Context().Err()) })
		go func() { _, _ = io.WriteString(out, a.event) }()
		answer.Body = in
		return answer, nil
	case time.Now().Before(a.until):
		return nil, errors.New("the network is unreachable")
	}
	answer.StatusCode, answer.Body = http.StatusNotFound, http.NoBody
	return answer, nil
}

// TestListenOutlastsTheNetwork has the network away for an hour, as after a night's sleep,
// while the data of a large message is read, and the message expire meanwhile.
func TestListenOutlastsTheNetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m, err := json.Marshal(inbox.Message{ID: inbox.ID("pubsub", "s", "1"), Source: "pubsub", Subscription: "s", MessageID: "1", Size: 1 << 20, Truncated: true})
		if err != nil {
			t.Fatal(err)
		}
		p := newProgress(io.Discard)
		o := lasting(p)
		o.Transport = awayFor{fmt.Sprintf("id: behind\ndata: %s\n\n", m), time.Now().Add(time.Hour)}
		c, err := inboxclient.New("http://console.example", &o)
		if err != nil {
			t.Fatal(err)
		}
		done := ""
		f, err := forward.New(forward.Options{Endpoint: forward.Endpoint{Target: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}, OnDone: func(token string) { done = token; cancel() }})
		if err != nil {
			t.Fatal(err)
		}
		if err := new(listening).follow(ctx, c, inbox.Query{}, f, p); err != nil || done != "behind" {
			t.Errorf("it is done up to %q, %v", done, err)
		}
	})
}
