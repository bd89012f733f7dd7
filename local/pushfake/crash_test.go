package pushfake_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/roundtrip"
)

// TestKill kills a Pub/Sub that publishes to two push subscriptions, again and
// again at any moment: what was published arrives at both endpoints, and what an
// endpoint has acknowledged is not pushed again, but for what was in flight.
//
// An acknowledgement is not in flight any more when a message is published, since
// the commit of a message takes along the acknowledgements from before.
func TestKill(t *testing.T) {
	if path := measure.ChildOf(); path != "" {
		publishUntilKilled(t, path)
	}
	t.Parallel()
	random := measure.Rand()
	var mu sync.Mutex
	arrived := map[string]bool{} // "endpoint ID"
	durable := map[string]bool{} // the same
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := strings.TrimPrefix(r.URL.Path, "/") + " " + r.Header.Get("X-Goog-Pubsub-Message-Id")
		mu.Lock()
		defer mu.Unlock()
		if durable[what] {
			t.Errorf("%s was acknowledged, durably, and is pushed again", what)
		}
		arrived[what] = true
		w.WriteHeader(http.StatusNoContent)
	}))
	defer endpoint.Close()
	path := filepath.Join(t.TempDir(), "pubsub.db")
	server, err := pubsubserver.Open(pubsubserver.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	createTopic(t, server)
	subs := []string{"one", "two"}
	for _, name := range subs {
		_, err := server.CreateSubscription(t.Context(), &pubsubpb.Subscription{
			Name: "projects/p/subscriptions/" + name, Topic: topicName, PushConfig: &pubsubpb.PushConfig{
				PushEndpoint: endpoint.URL + "/" + name,
				Wrapper:      &pubsubpb.PushConfig_NoWrapper_{NoWrapper: &pubsubpb.PushConfig_NoWrapper{WriteMetadata: true}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}

	var published []string
	for round := range measure.Size(5, 50) {
		var delivered []string // and not known to be durable
		sure := map[string]int{}
		lines := measure.Killed(t, "TestKill", path, 200+random.IntN(5000))
		mu.Lock()
		for _, line := range lines {
			switch words := strings.Fields(line); words[0] {
			case "delivered":
				delivered = append(delivered, words[1]+" "+words[2])
			case "publishing":
				sure[words[1]] = len(delivered)
			case "published":
				published = append(published, words[2])
				for _, what := range delivered[:sure[words[1]]] {
					durable[what] = true
				}
			}
		}
		t.Logf("round %d: %d published, %d acknowledged durably", round, len(published), len(durable))
		mu.Unlock()
	}

	// What is left arrives.
	dispatchers := pushfake.NewDispatchers(&pushfake.Options{})
	server, err = pubsubserver.Open(pubsubserver.Options{Path: path, Push: dispatchers.Start})
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); server.Undelivered() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 2*time.Minute {
			t.Fatalf("%d messages do not arrive", server.Undelivered())
		}
	}
	dispatchers.Shutdown(t.Context())
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for _, id := range published {
		for _, sub := range subs {
			if !arrived[sub+" "+id] {
				t.Errorf("%s was published and did not arrive at %s", id, sub)
			}
		}
	}
}

func createTopic(t *testing.T, server *pubsubserver.Server) {
	t.Helper()
	if _, err := server.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicName}); err != nil {
		t.Fatal(err)
	}
}

// publishUntilKilled says on a line each what it is about to publish, what was
// published, and what an endpoint has acknowledged.
func publishUntilKilled(t *testing.T, path string) {
	dispatchers := pushfake.NewDispatchers(&pushfake.Options{OnDelivery: func(d pushfake.Delivery) {
		if d.Acked {
			fmt.Printf("delivered %s %s\n", filepath.Base(d.Subscription), d.MessageID)
		}
	}})
	server, err := pubsubserver.Open(pubsubserver.Options{Path: path, Push: dispatchers.Start})
	if err != nil {
		t.Fatal(err)
	}
	for publisher := range 4 {
		go func() {
			for i := 0; ; i++ {
				fmt.Printf("publishing %d-%d\n", publisher, i)
				r, err := server.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: []*pubsubpb.PubsubMessage{text(strings.Repeat("a", 1024))}})
				if err != nil {
					panic(err)
				}
				fmt.Printf("published %d-%d %s\n", publisher, i, r.MessageIds[0])
			}
		}()
	}
	select {}
}

// TestEndpointDown has an endpoint be down for a week of a bubble's time, and with
// -full for 12 minutes of the real one: every message arrives.
func TestEndpointDown(t *testing.T) {
	measure.SkipRace(t, "TestKill pushes with it")
	t.Parallel()
	n := measure.Size(10_000, 100_000)
	// down runs a server whose endpoint refuses everything until it is up.
	down := func(t *testing.T, path string, wait time.Duration) {
		var mu sync.Mutex
		up, arrived := false, 0
		dispatchers := pushfake.NewDispatchers(&pushfake.Options{
			Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				if !up {
					return nil, http.ErrServerClosed
				}
				return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
			}),
			OnDelivery: func(d pushfake.Delivery) {
				mu.Lock()
				defer mu.Unlock()
				if d.Acked {
					arrived++
				}
			},
		})
		server, err := pubsubserver.Open(pubsubserver.Options{Path: path, NoSync: true, Push: dispatchers.Start})
		if err != nil {
			t.Fatal(err)
		}
		createTopic(t, server)
		_, err = server.CreateSubscription(t.Context(), &pubsubpb.Subscription{
			Name: subName, Topic: topicName, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint},
			MessageRetentionDuration: durationpb.New(8 * 24 * time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range n / 1000 {
			batch := make([]*pubsubpb.PubsubMessage, 1000)
			for i := range batch {
				batch[i] = text("a")
			}
			if _, err := server.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: batch}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(wait)
		mu.Lock()
		up = true
		mu.Unlock()
		for limit := time.Now().Add(10 * time.Minute); server.Undelivered() > 0 && time.Now().Before(limit); {
			time.Sleep(time.Second)
		}
		dispatchers.Shutdown(t.Context())
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		if arrived != n {
			t.Errorf("%d of %d messages arrived", arrived, n)
		}
	}
	t.Run("a_week", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "pubsub.db")
		synctest.Test(t, func(t *testing.T) { down(t, path, 7*24*time.Hour) })
	})
	t.Run("12_minutes", func(t *testing.T) {
		if !measure.Full() {
			t.Skip("it takes 12 minutes; run it with -full")
		}
		t.Parallel()
		down(t, filepath.Join(t.TempDir(), "pubsub.db"), 12*time.Minute)
	})
}
