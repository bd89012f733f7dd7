package console

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/functions/console"
	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

// teller is a source that tells what a test sets.
type teller struct {
	mu     sync.Mutex
	report *delivery.Report
}

func (s *teller) Report(context.Context) (*delivery.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := *s.report
	r.At = time.Now().UTC()
	return &r, nil
}

func (s *teller) tell(r *delivery.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = r
}

const (
	mainSub   = "projects/shop/subscriptions/inbox-push"
	secondSub = "projects/shop/subscriptions/inbox-push-orders"
	deadSub   = "projects/shop/subscriptions/inbox-dead-letters"
)

// telling starts a console of which the delivery is told by the returned source, with
// a message and a dead letter in its inbox.
func telling(t *testing.T, cfg console.Config, first *delivery.Report) (base string, s *teller) {
	t.Helper()
	store, err := boltinbox.Open(filepath.Join(t.TempDir(), "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	for i, m := range []*inbox.Message{
		{Subscription: mainSub, Data: []byte(`{"order":"A-10441","total":"31.80"}`)},
		{Subscription: deadSub, Data: []byte(`{"invoice":"2026-1180","state":"paid"}`), Attributes: map[string]string{
			"CloudPubSubDeadLetterSourceDeliveryCount": "100", "CloudPubSubDeadLetterSourceSubscription": "inbox-push-orders",
			"CloudPubSubDeadLetterSourceSubscriptionProject": "shop", "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-26T02:10:00.123+00:00",
		}},
	} {
		m.Source, m.MessageID = inbox.SourcePubSub, fmt.Sprint(1795420345123456+i)
		m.Verified = inbox.Verified{Issuer: "https://accounts.google.com", Email: "push@shop.iam.gserviceaccount.com", EmailVerified: true}
		if _, err := store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Project, cfg.Topic, cfg.Audience, cfg.Readers, cfg.DeadLetters = "shop", "inbox", "a", []string{"r@example.com"}, deadSub
	s = &teller{report: first}
	h, err := console.New(cfg, anyone{}, store, anyone{}, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL, s
}

func ptr[T any](v T) *T { return &v }

// course returns a window of n parts, of which the parts from bad on are refused.
func course(n, bad int, step time.Duration) delivery.Window {
	now := time.Now().UTC().Truncate(time.Minute)
	var w delivery.Window
	var acked, refused, waiting int64
	for i := range n {
		p := delivery.Point{At: now.Add(step * time.Duration(i-n+1))}
		pushes := int64(20 + 14*math.Sin(float64(i)/5) + 5*math.Sin(float64(i)*1.7))
		if i < bad {
			p.Acked = pushes
		} else {
			p.Acked, p.Refused = pushes/4, pushes/2
			waiting += pushes / 2
		}
		p.Backlog = ptr(waiting)
		acked, refused = acked+p.Acked, refused+p.Refused
		w.Points = append(w.Points, p)
	}
	w.Pushes, w.AckedShare = ptr(acked+refused), ptr(float64(acked)/float64(acked+refused))
	w.P50Millis, w.P99Millis, w.DeadLettered = ptr(7.4), ptr(182.0), ptr[int64](0)
	return w
}

func healthy() *delivery.Report {
	return &delivery.Report{
		Subscriptions: []delivery.Subscription{
			{Name: mainSub, Topic: "projects/shop/topics/inbox", State: delivery.Delivering, Endpoint: "https://receive-x.run.app/wrapped?token=MARKER",
				Backlog: ptr[int64](0), OldestSeconds: ptr(0.0), LastHour: course(60, 60, time.Minute), LastDay: course(96, 96, 15*time.Minute)},
			{Name: deadSub, Topic: "projects/shop/topics/inbox-dead-letters", DeadLetters: true, State: delivery.Waiting, Backlog: ptr[int64](0), OldestSeconds: ptr(0.0)},
		},
		RefusalsFrom: time.Now().UTC().Add(-24 * time.Hour),
	}
}

// wrong is healthy with a wrong audience, a paused subscription, dead letters, and
// numbers that are not known.
func wrong() *delivery.Report {
	now := time.Now().UTC()
	r := healthy()
	main := &r.Subscriptions[0]
	main.Backlog, main.OldestSeconds = ptr[int64](214), ptr(1510.0)
	main.LastHour, main.LastDay = course(60, 35, time.Minute), course(96, 94, 15*time.Minute)
	main.LastHour.DeadLettered, main.LastDay.DeadLettered = ptr[int64](3), ptr[int64](3)
	dead := &r.Subscriptions[1]
	dead.Backlog, dead.OldestSeconds = ptr[int64](3), ptr(912.0)
	r.Subscriptions = append(r.Subscriptions[:1], delivery.Subscription{
		Name: secondSub, Topic: "projects/shop/topics/orders", State: delivery.Paused, Backlog: ptr[int64](1204), OldestSeconds: ptr(8130.0),
		Operation: &delivery.Operation{Kind: delivery.Pause, Subscription: secondSub, Principal: "colleague@example.com", At: now.Add(-2 * time.Hour), LostFrom: now.Add(167 * time.Hour), PushConfig: []byte("MARKER")},
	}, *dead)
	r.Refusals = []delivery.Refusal{
		{Last: now.Add(-20 * time.Second), Status: 403, Reason: "audience", Detail: "the token's audience (aud) is not this service", Count: 240, LastHour: 12},
		{Last: now.Add(-3 * time.Minute), Status: 503, Reason: "inbox_unavailable", Detail: `the inbox cannot be reached: Post "https://x.example/?token=MARKER": no route to host`, Subscription: mainSub, Count: 31, LastHour: 2},
		{Last: now.Add(-9 * time.Hour), Status: 0, Reason: "timeout", Subscription: secondSub, Count: 1},
	}
	r.Unknown = []delivery.Unknown{{What: "numbers", Why: "Cloud Monitoring does not answer for " + secondSub + "; without roles/monitoring.viewer on projects/shop it never does"}}
	return r
}

// TestDeliveryShots takes pictures of the pages of the delivery.
func TestDeliveryShots(t *testing.T) {
	t.Parallel()
	base, _ := telling(t, console.Config{}, wrong())
	for _, name := range []string{"light", "dark"} {
		w := openAt(t, base, size{1280, 1500}, theme(name))
		w.visit("/delivery")
		w.shoot("delivery-" + name)
		w.visit("/dead-letters")
		w.shoot("dead-letters-" + name)
		w.visit("/")
		w.live()
		w.until(`document.querySelectorAll(".banner").length === 2`)
		w.shoot("trouble-" + name)
	}
	w := openAt(t, base, size{360, 2600}, theme("light"))
	w.visit("/delivery")
	w.shoot("delivery-phone")
	w.visit("/dead-letters")
	w.shoot("dead-letters-phone")
	w.visit("/")
	w.live()
	w.until(`document.querySelectorAll(".banner").length === 2`)
	w.shoot("trouble-phone")
}
