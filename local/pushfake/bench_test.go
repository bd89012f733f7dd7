package pushfake_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/measure"
)

// BenchmarkDelivery compares signed pushes by this package with the unsigned ones
// of Google's emulator. Both begin with the whole backlog published, push it over
// loopback HTTP to a handler that answers 204, and take turns. The emulator has
// compiled its code before: a backlog of its own goes first.
func BenchmarkDelivery(b *testing.B) {
	backlog := measure.Size(2_000, 10_000)
	server, err := pushfake.Start(b.Context(), "http://127.0.0.1:1/", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Close() })
	if _, err := server.Issuer.IDToken(nil); err != nil { // its key is ready
		b.Fatal(err)
	}
	google := dial(b, emulator.PubSub(b), emulator.Project())
	subscriptions := 0
	// deliver returns how many messages a second are pushed.
	deliver := func(client *pubsub.Client, push *pubsubpb.PushConfig) float64 {
		subscriptions++
		count := newCounter(b, int64(backlog))
		defer count.Close()
		topic := fmt.Sprintf("projects/%s/topics/bench-%d", client.Project(), subscriptions)
		sub := fmt.Sprintf("projects/%s/subscriptions/bench-%d", client.Project(), subscriptions)
		if _, err := client.TopicAdminClient.CreateTopic(b.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
			b.Fatal(err)
		}
		if _, err := client.SubscriptionAdminClient.CreateSubscription(b.Context(), &pubsubpb.Subscription{Name: sub, Topic: topic}); err != nil {
			b.Fatal(err)
		}
		publish(b, client, topic, backlog)
		push.PushEndpoint = count.URL
		begun := time.Now()
		if err := client.SubscriptionAdminClient.ModifyPushConfig(b.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: sub, PushConfig: push}); err != nil {
			b.Fatal(err)
		}
		<-count.full
		rate := float64(backlog) / time.Since(begun).Seconds()
		if push.GetOidcToken() != nil && count.signed.Load() < int64(backlog) {
			b.Fatalf("%d of %d pushes were signed", count.signed.Load(), backlog)
		}
		if err := client.SubscriptionAdminClient.DeleteSubscription(b.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: sub}); err != nil {
			b.Fatal(err)
		}
		return rate
	}
	deliver(google, &pubsubpb.PushConfig{})
	var ours, theirs, ratios []float64
	for b.Loop() {
		for range 5 {
			ours = append(ours, deliver(server.Client, &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
				OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: pushfake.DefaultEmail},
			}}))
			theirs = append(theirs, deliver(google, &pubsubpb.PushConfig{}))
			ratios = append(ratios, ours[len(ours)-1]/theirs[len(theirs)-1])
		}
	}
	for name, of := range map[string][]float64{"ours/s": ours, "emulator/s": theirs, "ratio": ratios} {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], name)
	}
}

// counter is an endpoint that answers 204 and says when it has had so many.
type counter struct {
	*httptest.Server
	signed atomic.Int64
	full   chan struct{}
}

func newCounter(b *testing.B, want int64) *counter {
	c := &counter{full: make(chan struct{})}
	var n atomic.Int64
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			c.signed.Add(1)
		}
		w.WriteHeader(http.StatusNoContent)
		if n.Add(1) == want {
			close(c.full)
		}
	}))
	return c
}

func publish(b *testing.B, client *pubsub.Client, topic string, n int) {
	b.Helper()
	data := make([]byte, 256)
	for left := n; left > 0; left -= 1000 {
		request := &pubsubpb.PublishRequest{Topic: topic}
		for range min(left, 1000) {
			request.Messages = append(request.Messages, &pubsubpb.PubsubMessage{Data: data, Attributes: map[string]string{"kind": "bench"}})
		}
		if _, err := client.TopicAdminClient.Publish(context.Background(), request); err != nil {
			b.Fatal(err)
		}
	}
}

func dial(tb testing.TB, host, project string) *pubsub.Client {
	tb.Helper()
	client, err := pushfake.Dial(tb.Context(), host, project)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	return client
}
