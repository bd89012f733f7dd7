package pushfake_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/emulator"
)

// BenchmarkDelivery compares signed pushes by this package with the unsigned
// ones of Google's emulator. Both begin with the whole backlog published, and
// push it over loopback HTTP to a handler that answers 204. The emulator has
// compiled its code before: a backlog of its own goes first.
func BenchmarkDelivery(b *testing.B) {
	const backlog = 10_000
	b.Run("pushfake", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			count := newCounter(b, backlog)
			server, err := pushfake.Start(b.Context(), "http://127.0.0.1:1/", nil)
			if err != nil {
				b.Fatal(err)
			}
			// Neither its key nor the emulator's start is what is measured.
			if _, err := server.Issuer.IDToken(nil); err != nil {
				b.Fatal(err)
			}
			// What is published while it pushes would not be a backlog.
			modify := func(to *pubsubpb.PushConfig) {
				err := server.Client.SubscriptionAdminClient.ModifyPushConfig(b.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: server.Subscription, PushConfig: to})
				if err != nil {
					b.Fatal(err)
				}
			}
			modify(nil)
			publish(b, server.Client, server.Topic, backlog)
			b.StartTimer()
			modify(&pubsubpb.PushConfig{PushEndpoint: count.URL, AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
				OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: pushfake.DefaultEmail},
			}})
			<-count.full
			b.StopTimer()
			if n := count.signed.Load(); n < backlog {
				b.Fatalf("%d of %d pushes were signed", n, backlog)
			}
			if err := server.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(backlog*b.N)/b.Elapsed().Seconds(), "msgs/s")
	})
	b.Run("emulator", func(b *testing.B) {
		client := dial(b, emulator.PubSub(b), emulator.Project())
		var subscriptions int
		deliver := func() {
			b.StopTimer()
			subscriptions++
			count := newCounter(b, backlog)
			topic := fmt.Sprintf("projects/%s/topics/bench-%d", client.Project(), subscriptions)
			sub := fmt.Sprintf("projects/%s/subscriptions/bench-%d", client.Project(), subscriptions)
			if _, err := client.TopicAdminClient.CreateTopic(b.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
				b.Fatal(err)
			}
			if _, err := client.SubscriptionAdminClient.CreateSubscription(b.Context(), &pubsubpb.Subscription{Name: sub, Topic: topic}); err != nil {
				b.Fatal(err)
			}
			publish(b, client, topic, backlog)
			b.StartTimer()
			err := client.SubscriptionAdminClient.ModifyPushConfig(b.Context(), &pubsubpb.ModifyPushConfigRequest{
				Subscription: sub, PushConfig: &pubsubpb.PushConfig{PushEndpoint: count.URL},
			})
			if err != nil {
				b.Fatal(err)
			}
			<-count.full
			b.StopTimer()
			if err := client.SubscriptionAdminClient.DeleteSubscription(b.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: sub}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		deliver()
		for b.Loop() {
			deliver()
		}
		b.ReportMetric(float64(backlog*b.N)/b.Elapsed().Seconds(), "msgs/s")
	})
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
	b.Cleanup(c.Close)
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
	conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	client, err := pubsub.NewClient(tb.Context(), project, option.WithGRPCConn(conn))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	return client
}
