package console

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/chromedp/chromedp"

	"example.com/pushinbox/functions/console"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/verify"
)

// anyone lets everybody in.
type anyone struct{}

func (anyone) IDToken(*http.Request, verify.Policy) (verify.Claims, error) {
	return verify.Claims{}, nil
}

func (anyone) IAP(*http.Request, string) (verify.Claims, error) { return verify.Claims{}, nil }

func (anyone) Publish(context.Context, []*pubsubpb.PubsubMessage) ([]string, error) { return nil, nil }

// outOfOrder is an inbox as Firestore can be: two messages were committed in
// another order than they were received in. Its list is empty at first, and
// its feed has them all.
type outOfOrder struct{ messages []inbox.Message }

func newOutOfOrder(n, late int) outOfOrder {
	start := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	var o outOfOrder
	for i := range n {
		o.messages = append(o.messages, inbox.Message{
			ID: inbox.ID("pubsub", "s", fmt.Sprint(i)), Source: "pubsub", MessageID: fmt.Sprint(i),
			Data: fmt.Append(nil, i), Size: 1, ReceivedAt: start.Add(time.Duration(i) * time.Second),
		})
	}
	m := o.messages
	m[late].ReceivedAt, m[late+1].ReceivedAt = m[late+1].ReceivedAt, m[late].ReceivedAt
	return o
}

func (outOfOrder) Peek(context.Context, string) (*inbox.Message, error) {
	return nil, inbox.ErrNotFound
}

func (outOfOrder) Get(context.Context, string) (*inbox.Message, error) {
	return nil, inbox.ErrNotFound
}

func (o outOfOrder) List(_ context.Context, q inbox.Query) (*inbox.Page, error) {
	page := &inbox.Page{WatchToken: inbox.Position{ReceivedAt: time.Unix(0, 0), Commit: time.Unix(0, 0)}.Token()}
	if q.PageToken == "" {
		return page, nil
	}
	after, err := inbox.ParseToken(q.PageToken)
	for _, m := range o.messages {
		if m.ReceivedAt.Before(after.ReceivedAt) {
			token := inbox.Position{ReceivedAt: m.ReceivedAt, Commit: m.ReceivedAt, ID: m.ID}.Token()
			page.Events = append(page.Events, inbox.Event{Token: token, Message: m})
		}
	}
	slices.SortFunc(page.Events, func(a, b inbox.Event) int { return b.Message.ReceivedAt.Compare(a.Message.ReceivedAt) })
	return page, err
}

func (o outOfOrder) Watch(ctx context.Context, _ inbox.Query) iter.Seq2[inbox.Event, error] {
	return func(yield func(inbox.Event, error) bool) {
		for _, m := range o.messages {
			token := inbox.Position{ReceivedAt: m.ReceivedAt, Commit: m.ReceivedAt, ID: m.ID}.Token()
			if !yield(inbox.Event{Token: token, Message: m}, nil) {
				return
			}
		}
		<-ctx.Done()
	}
}

// TestOrderOfListAndFeed lets messages arrive in another order than pages have
// them, where the window's rows end: each is in the window or on the next page.
func TestOrderOfListAndFeed(t *testing.T) {
	t.Parallel()
	store := newOutOfOrder(302, 1)
	h, err := console.New(console.Config{Project: "p", Audience: "a", Readers: []string{"r@example.com"}}, anyone{}, store, anyone{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	w := openAt(t, server.URL, desk)
	w.until(`document.querySelector("#rows td.c-data")?.innerText === "301" && document.querySelectorAll("#rows tr").length === 300`)
	seen := w.rows()
	w.do(chromedp.Click("#older"))
	w.until(`location.search.includes("pageToken") && document.readyState === "complete"`)
	seen = append(seen, w.rows()...)
	var want []string
	for _, m := range slices.Backward(store.messages) {
		want = append(want, m.ID)
	}
	want[299], want[300] = want[300], want[299]
	if !slices.Equal(seen, want) {
		t.Errorf("%d of %d messages, ending in %.8q, want %.8q", len(seen), len(want), seen[len(seen)-4:], want[len(want)-4:])
	}
	w.visit("/nothing")
}
