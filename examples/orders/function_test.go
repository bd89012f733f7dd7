package orders

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/process"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
)

// TestOrders publishes the orders of some customers to a Pub/Sub that pushes twice and
// loses acknowledgements: each order counts once, and each customer's last order is
// the last one published.
func TestOrders(t *testing.T) {
	t.Setenv("FIRESTORE_EMULATOR_HOST", emulator.Firestore(t))
	project := emulator.Project()
	store, err := process.Open(t.Context(), firestoreinbox.Config{
		Project: project, Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour, EmulatorHost: emulator.Firestore(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	client, err := firestore.NewClient(t.Context(), project)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	issuer, verifier := google.Issuer(t)
	const audience = "https://orders-1.europe-west1.run.app"
	h, err := process.New(process.Config{Name: "orders"}, pushendpoint.Config{Audience: audience, ServiceAccount: pushfake.DefaultEmail},
		verifier, store, place, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	endpoint := httptest.NewServer(h)
	defer endpoint.Close()

	const customers, each = 4, 6
	messages := []*pubsubpb.PubsubMessage{
		{Data: []byte("no JSON"), OrderingKey: "c-0"},
		{Data: []byte(`{"number": "a/b", "cents": 1}`), OrderingKey: "c-0"},
		{Data: []byte(`{"number": "free", "cents": 0}`), OrderingKey: "c-0"},
		{Data: []byte(`{"number": "nobody", "cents": 1}`)},
	}
	rejected := len(messages)
	for i := range customers * each {
		order := &pubsubpb.PubsubMessage{Data: fmt.Appendf(nil, `{"number": "o-%d", "cents": %d}`, i, 100+i), OrderingKey: fmt.Sprint("c-", i%customers)}
		messages = append(messages, order)
		if i == customers {
			messages = append(messages, order) // the shop publishes it once more
		}
	}
	var acked atomic.Int64
	all := make(chan struct{})
	server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{
		Subscription: &pubsubpb.Subscription{
			EnableMessageOrdering: true, AckDeadlineSeconds: 10,
			RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(10 * time.Millisecond), MaximumBackoff: durationpb.New(100 * time.Millisecond)},
			PushConfig: &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
				OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: pushfake.DefaultEmail, Audience: audience},
			}},
		},
		Dispatcher: pushfake.Options{
			Issuer: issuer,
			Faults: func(*pubsubpb.PubsubMessage, int) pushfake.Fault {
				return pushfake.Fault{Duplicate: rand.IntN(3) == 0, LoseAck: rand.IntN(10) == 0}
			},
			OnDelivery: func(d pushfake.Delivery) {
				if d.Acked && acked.Add(1) == int64(len(messages)) {
					close(all)
				}
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, m := range messages { // a request has one ordering key
		_, err := server.Client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: server.Topic, Messages: []*pubsubpb.PubsubMessage{m}})
		if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-all:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%d of %d messages were acknowledged", acked.Load(), len(messages))
	}

	for i := range customers {
		d, err := client.Doc(fmt.Sprint("customers/c-", i)).Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cents := 0
		for n := i; n < customers*each; n += customers {
			cents += 100 + n
		}
		got, want := fmt.Sprint(d.Data()), fmt.Sprint(map[string]any{"orders": each, "cents": cents, "last": fmt.Sprint("o-", customers*(each-1)+i)})
		if got != want {
			t.Errorf("customer %d has %s, want %s", i, got, want)
		}
	}
	if docs, err := client.Collection("orders").Documents(t.Context()).GetAll(); err != nil || len(docs) != customers*each {
		t.Errorf("%d orders of %d: %v", len(docs), customers*each, err)
	}
	quarantined, err := client.Collection("messages").Where("quarantined.reason", "==", "rejected").Documents(t.Context()).GetAll()
	if err != nil || len(quarantined) != rejected {
		t.Errorf("%d messages are rejected, want %d: %v", len(quarantined), rejected, err)
	}
}
