package load

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/firestoredial"
	"example.com/pushinbox/testkit/emulator"
)

// emulators are what one has without pushinbox: Google's two emulators, and a program that
// answers an unsigned push 204 after one Create in Firestore.
type emulators struct {
	testing.TB
	client *pubsub.Client
	topic  string
	stored atomic.Int64
}

func startEmulators(tb testing.TB) *emulators {
	tb.Helper()
	project := emulator.Project()
	documents, err := firestoredial.Client(tb.Context(), project, "", emulator.Firestore(tb), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = documents.Close() })
	g := &emulators{TB: tb, topic: "projects/" + project + "/topics/messages"}
	if g.client, err = pushfake.Dial(tb.Context(), emulator.PubSub(tb), project); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = g.client.Close() })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var push struct {
			Message struct {
				Data        []byte    `json:"data"`
				MessageID   string    `json:"messageId"`
				PublishTime time.Time `json:"publishTime"`
			} `json:"message"`
			Subscription string `json:"subscription"`
		}
		err := json.NewDecoder(r.Body).Decode(&push)
		if err == nil {
			_, err = documents.Collection("messages").Doc(push.Message.MessageID).Create(r.Context(), map[string]any{
				"data": push.Message.Data, "publishTime": push.Message.PublishTime, "subscription": push.Subscription, "receivedAt": firestore.ServerTimestamp,
			})
		}
		if err != nil { // Pub/Sub sends it again
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		g.stored.Add(1)
	}))
	tb.Cleanup(server.Close)
	if _, err = g.client.TopicAdminClient.CreateTopic(tb.Context(), &pubsubpb.Topic{Name: g.topic}); err == nil {
		_, err = g.client.SubscriptionAdminClient.CreateSubscription(tb.Context(), &pubsubpb.Subscription{
			Name: "projects/" + project + "/subscriptions/push", Topic: g.topic, PushConfig: &pubsubpb.PushConfig{PushEndpoint: server.URL},
		})
	}
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// way is local.way with Google's emulators.
func (g *emulators) way(n, batch, callers int) float64 {
	begun, want := time.Now(), g.stored.Load()+int64(n)
	request := &pubsubpb.PublishRequest{Topic: g.topic}
	for range batch {
		request.Messages = append(request.Messages, &pubsubpb.PubsubMessage{Data: bytes.Repeat([]byte("0123456789abcdef"), 64)})
	}
	each(callers, n/batch, func() {
		if _, err := g.client.TopicAdminClient.Publish(context.Background(), request); err != nil {
			g.Error(err)
		}
	})
	for g.stored.Load() < want && !g.Failed() {
		time.Sleep(time.Millisecond)
		if time.Since(begun) > 3*time.Minute {
			g.Fatalf("%d of %d messages did not arrive", want-g.stored.Load(), n)
		}
	}
	return float64(n) / time.Since(begun).Seconds()
}
