package stack

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/delivery"
)

// TestPausedOverARestart pauses in three ways, starts another run, on another port,
// and restores what is recorded there: what was published in between arrives.
func TestPausedOverARestart(t *testing.T) {
	t.Parallel()
	const inbox, orders, forgotten = "projects/p/subscriptions/inbox-push", "projects/p/subscriptions/orders-push-1", "projects/p/subscriptions/orders-push-2"
	o := options(t)
	o.VerificationToken = "a+b/marker" // is escaped in the endpoint
	delivered := make(chan string, 100)
	endpoint := newEndpoint(t, func(r *http.Request) { delivered <- r.URL.Path })
	o.Endpoints = []Endpoint{{Topic: "orders", URL: endpoint + "/a?token=plainmarker", Audience: "aud"}, {Topic: "orders", URL: endpoint + "/b"}}
	w := startWatched(t, o)
	was := proto.CloneOf(w.Pushes.PushConfig)
	clearPush := func(w *watched, name string) {
		t.Helper()
		if _, err := w.own.store.ModifyPushConfig(t.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: name, PushConfig: &pubsubpb.PushConfig{}}); err != nil {
			t.Fatal(err)
		}
	}
	records := w.Stack.deliveries.records
	begun := time.Now().UTC().Truncate(time.Second)
	for _, name := range []string{inbox, orders} {
		// As pushinbox delivery pause writes it, with an attribute.
		config := proto.CloneOf(was)
		config.PushEndpoint, config.Attributes = "http://127.0.0.1:1/of/before", map[string]string{"x-goog-version": "v1"}
		recorded, err := proto.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		operation := &delivery.Operation{Kind: delivery.Pause, Subscription: name, Principal: "someone@example.com", At: begun, PushConfig: recorded}
		if err := records.Put(t.Context(), operation); err != nil {
			t.Fatal(err)
		}
	}
	clearPush(w, inbox)
	clearPush(w, orders)
	w.publish("orders", "one")
	<-delivered // by /b alone
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	w = startWatched(t, o)
	if !w.IsPaused(w.Pushes) || !w.IsPaused(w.Endpoints[0]) || w.IsPaused(w.Endpoints[1]) {
		t.Errorf("%v, %v", w.Pushes, w.Endpoints)
	}
	w.publish("inbox", "two")
	r := w.until(time.Now(), func(r *delivery.Report) bool { return *find(r, inbox).Backlog == 1 })
	if sub := find(r, inbox); sub.State != delivery.Paused || sub.Operation == nil || sub.Operation.Principal != "someone@example.com" || !sub.Operation.At.Equal(begun) {
		t.Errorf("%+v", sub)
	}
	if sub := find(r, orders); sub.State != delivery.Paused || *sub.Backlog != 1 {
		t.Errorf("%+v", sub)
	}
	if !strings.Contains(log.String(), "pushinbox delivery resume --subscription orders-push-1 --data "+o.Data) {
		t.Errorf("the log: %s", log.String())
	}
	for name, want := range map[string]string{
		inbox:  w.URL + "/receive/wrapped?token=TOKEN%2DIS%2DNOT%2DRECORDED",
		orders: endpoint + "/a?token=" + delivery.TokenMarker,
	} {
		record, err := records.Get(t.Context(), name)
		if err != nil || record == nil {
			t.Fatalf("%s: %v, %v", name, record, err)
		}
		if bytes.Contains(record.PushConfig, []byte("marker")) {
			t.Errorf("%s: the token is recorded", name)
		}
		config := new(pubsubpb.PushConfig)
		if err := proto.Unmarshal(record.PushConfig, config); err != nil || config.PushEndpoint != want || config.Attributes["x-goog-version"] != "v1" {
			t.Errorf("%s is restored as %v, %v", name, config, err)
		}
		// As pushinbox delivery resume does it.
		config.PushEndpoint = strings.NewReplacer(delivery.TokenMarker, "plainmarker", "TOKEN%2DIS%2DNOT%2DRECORDED", "a%2Bb%2Fmarker").Replace(config.PushEndpoint)
		if _, err := w.own.store.ModifyPushConfig(t.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: name, PushConfig: config}); err != nil {
			t.Fatal(err)
		}
		if err := records.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for acked := 0; acked < 2; {
		if d := w.wait(); d.Acked && (d.Subscription == inbox || d.Subscription == orders) {
			acked++
		} else {
			t.Errorf("%+v", d)
		}
	}

	// Whoever takes the endpoint away with another tool has paused it too.
	clearPush(w, inbox)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	o.Endpoints = o.Endpoints[1:]
	w = startWatched(t, o)
	r = w.until(time.Now(), func(r *delivery.Report) bool { return find(r, inbox).Operation != nil })
	if sub := find(r, inbox); sub.State != delivery.Paused || sub.Operation.Principal != unknownPrincipal || time.Until(sub.Operation.LostFrom) < 6*24*time.Hour {
		t.Errorf("%+v", sub)
	}
	if find(r, forgotten) != nil {
		t.Error("a --push that was left out is there")
	}
}

// TestRewriteLeavesWhatCannotBeRestored has tokens that resume could not put back: a
// record stays as it is, and a new one is refused.
func TestRewriteLeavesWhatCannotBeRestored(t *testing.T) {
	t.Parallel()
	recorded, err := proto.Marshal(&pubsubpb.PushConfig{PushEndpoint: "http://127.0.0.1:1/before"})
	if err != nil {
		t.Fatal(err)
	}
	for name, push := range map[string]*pubsubpb.PushConfig{
		"odd_escapes": signedPush("http://127.0.0.1:2/?token=%41marker", "aud"),
		"two_tokens":  signedPush("http://127.0.0.1:2/?token=marker", "http://127.0.0.1:2/?token=other"),
		"elsewhere":   signedPush("http://127.0.0.1:2/plainmarker?token=plainmarker", "aud"),
	} {
		record := &delivery.Operation{Kind: delivery.Pause, Subscription: "projects/p/subscriptions/s", PushConfig: recorded}
		if err := rewrite(record, push); err != nil || !bytes.Equal(record.PushConfig, recorded) {
			t.Errorf("%s: the record has %q, %v", name, record.PushConfig, err)
		}
		record.PushConfig = nil
		if err := rewrite(record, push); err == nil || strings.Contains(err.Error(), "marker") || record.PushConfig != nil {
			t.Errorf("%s: a new record has %q, %v", name, record.PushConfig, err)
		}
	}
}

// newEndpoint returns the address of a program that acknowledges all.
func newEndpoint(t *testing.T, got func(*http.Request)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got(r) }))
	t.Cleanup(server.Close)
	return server.URL
}
