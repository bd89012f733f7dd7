package pushfake_test

import (
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/roundtrip"
)

// TestUnknownCertificate has an endpoint whose certificate nobody vouches for get
// nothing.
func TestUnknownCertificate(t *testing.T) {
	t.Parallel()
	requests := make(chan struct{}, 10)
	endpoint := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests <- struct{}{} }))
	endpoint.Config.ErrorLog = log.New(io.Discard, "", 0)
	endpoint.StartTLS()
	defer endpoint.Close()
	deliveries := make(chan pushfake.Delivery, 100)
	server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{Dispatcher: pushfake.Options{
		OnDelivery: func(d pushfake.Delivery) { deliveries <- d },
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
	d := receive(t, deliveries)
	if unknown := (x509.UnknownAuthorityError{}); d.Acked || !errors.As(d.Err, &unknown) || len(requests) > 0 {
		t.Errorf("delivery: %+v, %d requests", d, len(requests))
	}
}

// TestRestartBetweenAttempts closes and opens the Pub/Sub after each refused push:
// attempts go on being counted, the retry policy's delay goes on, and the last
// attempt makes a dead letter.
func TestRestartBetweenAttempts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pubsub.db")
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		type attempt struct {
			Number int
			At     time.Duration
		}
		var attempts []attempt
		o := pushfake.Options{
			Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 500, Body: http.NoBody}, nil
			}),
			OnDelivery: func(d pushfake.Delivery) {
				attempts = append(attempts, attempt{d.Attempt, time.Since(begun).Round(time.Second)})
			},
		}
		run := func(f func(*pubsubserver.Server)) {
			t.Helper()
			dispatchers := pushfake.NewDispatchers(&o)
			server, err := pubsubserver.Open(pubsubserver.Options{Path: path, NoSync: true, Push: dispatchers.Start})
			if err != nil {
				t.Fatal(err)
			}
			f(server)
			synctest.Wait()
			dispatchers.Shutdown(t.Context())
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
		}
		run(func(s *pubsubserver.Server) {
			for _, name := range []string{topicName, deadTopic} {
				if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: name}); err != nil {
					t.Fatal(err)
				}
			}
			for _, sub := range []*pubsubpb.Subscription{{Name: deadSub, Topic: deadTopic}, {
				Name: subName, Topic: topicName, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint},
				RetryPolicy:      &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(10 * time.Second)},
				DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: deadTopic, MaxDeliveryAttempts: 5},
			}} {
				if _, err := s.CreateSubscription(t.Context(), sub); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: []*pubsubpb.PubsubMessage{text("a")}}); err != nil {
				t.Fatal(err)
			}
		})
		for _, wait := range []time.Duration{10, 20, 40, 80} {
			time.Sleep(wait*time.Second/2 - time.Second)
			run(func(*pubsubserver.Server) {}) // too early
			time.Sleep(wait * time.Second / 2)
			run(func(*pubsubserver.Server) { time.Sleep(time.Second) })
		}
		want := []attempt{{1, 0}, {2, 10 * time.Second}, {3, 30 * time.Second}, {4, 70 * time.Second}, {5, 150 * time.Second}}
		if diff := cmp.Diff(want, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		run(func(s *pubsubserver.Server) {
			if n, _, err := s.Backlog(deadSub); n != 1 || err != nil {
				t.Errorf("%d dead letters, %v", n, err)
			}
		})
	})
}

// TestRestartCountsOn has the attempts of a subscription without any policy count on
// after each restart.
func TestRestartCountsOn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pubsub.db")
	synctest.Test(t, func(t *testing.T) {
		var attempts []int
		o := pushfake.Options{
			Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 500, Body: http.NoBody}, nil
			}),
			OnDelivery: func(d pushfake.Delivery) { attempts = append(attempts, d.Attempt) },
		}
		for n := range 3 {
			dispatchers := pushfake.NewDispatchers(&o)
			server, err := pubsubserver.Open(pubsubserver.Options{Path: path, NoSync: true, Push: dispatchers.Start})
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				_, err1 := server.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicName})
				_, err2 := server.CreateSubscription(t.Context(), &pubsubpb.Subscription{
					Name: subName, Topic: topicName, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint},
				})
				_, err3 := server.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: []*pubsubpb.PubsubMessage{text("a")}})
				if err := errors.Join(err1, err2, err3); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(50 * time.Millisecond) // less than the first backoff
			synctest.Wait()
			dispatchers.Shutdown(t.Context())
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if want := []int{1, 2, 3}; !slices.Equal(attempts, want) {
			t.Errorf("attempts %v, want %v", attempts, want)
		}
	})
}

// TestRequestsAtATime has as many as are of use: all that the window allows where
// each answer takes a second, and few where one is answered at a time.
func TestRequestsAtATime(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer      func(turn chan struct{})
		least, most int
	}{
		"slow": {func(chan struct{}) { time.Sleep(time.Second) }, 3000, 4000},
		"busy": {func(turn chan struct{}) { turn <- struct{}{}; time.Sleep(time.Millisecond); <-turn }, 100, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "pubsub.db")
			synctest.Test(t, func(t *testing.T) {
				var underWay, most atomic.Int64
				turn := make(chan struct{}, 1)
				dispatchers := pushfake.NewDispatchers(&pushfake.Options{Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) {
					most.Store(max(most.Load(), underWay.Add(1)))
					tc.answer(turn)
					underWay.Add(-1)
					return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
				})})
				server, err := pubsubserver.Open(pubsubserver.Options{Path: path, NoSync: true, Push: dispatchers.Start})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := server.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicName}); err != nil {
					t.Fatal(err)
				}
				if _, err := server.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: subName, Topic: topicName, AckDeadlineSeconds: 600, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint}}); err != nil {
					t.Fatal(err)
				}
				batch := slices.Repeat([]*pubsubpb.PubsubMessage{text("a")}, 1000)
				for range 20 {
					if _, err := server.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: batch}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(15 * time.Second)
				if n := int(most.Load()); n < tc.least || n > tc.most {
					t.Errorf("%d requests at a time, want %d to %d", n, tc.least, tc.most)
				}
				dispatchers.Shutdown(t.Context())
				if err := server.Close(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestChangeHoldsFromItsAnswer changes the endpoint again and again: what is published
// after the answer goes to the new one alone.
func TestChangeHoldsFromItsAnswer(t *testing.T) {
	t.Parallel()
	var endpoints [2]string
	got := make(chan int, 100)
	for i := range endpoints {
		e := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got <- i }))
		defer e.Close()
		endpoints[i] = e.URL
	}
	server, err := pushfake.Start(t.Context(), endpoints[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	publisher := server.Client.Publisher(server.Topic)
	publisher.PublishSettings.CountThreshold = 1
	for i := range 300 {
		err := server.Client.SubscriptionAdminClient.ModifyPushConfig(t.Context(), &pubsubpb.ModifyPushConfigRequest{
			Subscription: server.Subscription, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoints[i%2]},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := publisher.Publish(t.Context(), &pubsub.Message{Data: []byte("a")}).Get(t.Context()); err != nil {
			t.Fatal(err)
		}
		if to := receive(t, got); to != i%2 {
			t.Fatalf("after change %d it is pushed to endpoint %d", i, to)
		}
	}
}
