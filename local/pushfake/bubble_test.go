package pushfake_test

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/roundtrip"
)

const (
	topicName = "projects/p/topics/orders"
	subName   = "projects/p/subscriptions/orders-push"
	deadTopic = "projects/p/topics/dead"
	deadSub   = "projects/p/subscriptions/dead"
	endpoint  = "http://push.test/push?token=1"
)

// world is pstest and a push endpoint inside a synctest bubble, where time
// passes at once when nothing else is left to do: pstest is reached through
// memory and so is the endpoint.
type world struct {
	*testing.T
	client *pubsub.Client
	start  time.Time

	mu         sync.Mutex
	pushes     []push
	deliveries []pushfake.Delivery
	errs       []error
}

// push is one request as the endpoint saw it.
type push struct {
	at     time.Duration // since the start
	header http.Header
	body   string
}

// inBubble runs f in a bubble with a pstest that has these reactors.
func inBubble(t *testing.T, f func(*world), reactors ...pstest.ServerReactorOption) {
	t.Helper()
	// Its listener must stay outside: a goroutine that waits for the network
	// would keep the bubble's time from passing.
	fake := pstest.NewServerWithAddress("127.0.0.1:0", reactors...)
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { fake.Close() })
		listener := bufconn.Listen(1 << 20)
		server := grpc.NewServer()
		pubsubpb.RegisterPublisherServer(server, &fake.GServer)
		pubsubpb.RegisterSubscriberServer(server, &fake.GServer)
		go server.Serve(listener)
		t.Cleanup(server.Stop)
		conn, err := grpc.NewClient("passthrough:pstest", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		w := &world{T: t, start: time.Now()}
		if w.client, err = pubsub.NewClient(t.Context(), "p", option.WithGRPCConn(conn)); err != nil {
			t.Fatal(err)
		}
		for _, topic := range []string{topicName, deadTopic} {
			if _, err := w.client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
				t.Fatal(err)
			}
		}
		f(w)
	})
}

func (w *world) subscribe(s *pubsubpb.Subscription) {
	w.Helper()
	if _, err := w.client.SubscriptionAdminClient.CreateSubscription(w.Context(), s); err != nil {
		w.Fatal(err)
	}
}

// dispatch creates the subscription and starts a dispatcher that pushes to
// handler, with o completed.
func (w *world) dispatch(s *pubsubpb.Subscription, handler http.HandlerFunc, o pushfake.Options) *pushfake.Dispatcher {
	w.Helper()
	s.Name, s.Topic = subName, topicName
	if s.PushConfig == nil {
		s.PushConfig = &pubsubpb.PushConfig{PushEndpoint: endpoint}
	}
	w.subscribe(s)
	return w.resume(handler, o)
}

// resume is dispatch for a subscription that is there.
func (w *world) resume(handler http.HandlerFunc, o pushfake.Options) *pushfake.Dispatcher {
	w.Helper()
	o.Transport = roundtrip.Func(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		w.pushes = append(w.pushes, push{time.Since(w.start), r.Header, string(body)})
		w.mu.Unlock()
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		done := make(chan error, 1)
		go func() {
			defer func() {
				if recover() != nil {
					done <- io.ErrUnexpectedEOF // as if the connection broke
				}
				close(done)
			}()
			handler(answer, r)
		}()
		select {
		case err := <-done:
			return answer.Result(), err
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	})
	o.Poll = cmp.Or(o.Poll, time.Second)
	o.OnDelivery = func(d pushfake.Delivery) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.deliveries = append(w.deliveries, d)
	}
	o.OnError = func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.errs = append(w.errs, err)
	}
	d, err := pushfake.New(w.Context(), w.client, subName, &o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { d.Close() })
	return d
}

// publish sends all the messages in one request, so that they are pulled
// together.
func (w *world) publish(messages ...*pubsubpb.PubsubMessage) {
	w.Helper()
	if _, err := w.client.TopicAdminClient.Publish(w.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: messages}); err != nil {
		w.Fatal(err)
	}
}

// pull returns what a subscription has to give right now.
func (w *world) pull(sub string) []*pubsubpb.PubsubMessage {
	w.Helper()
	//lint:ignore SA1019 what is not there now is not waited for
	answer, err := w.client.SubscriptionAdminClient.Pull(w.Context(), &pubsubpb.PullRequest{Subscription: sub, MaxMessages: 1000, ReturnImmediately: true})
	if err != nil {
		w.Fatal(err)
	}
	var messages []*pubsubpb.PubsubMessage
	for _, m := range answer.ReceivedMessages {
		messages = append(messages, m.Message)
	}
	return messages
}

// seen returns the requests so far.
func (w *world) seen() []push {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pushes)
}

func (w *world) delivered() []pushfake.Delivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.deliveries)
}

func (w *world) reported() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

// gaps returns the first n times between requests, to the millisecond.
func (w *world) gaps(n int) []time.Duration {
	var gaps []time.Duration
	seen := w.seen()
	for i := 1; i < len(seen) && i <= n; i++ {
		gaps = append(gaps, (seen[i].at - seen[i-1].at).Round(time.Millisecond))
	}
	return gaps
}

// reactor makes a pstest reactor of a function.
func reactor(name string, f func(any) (bool, any, error)) pstest.ServerReactorOption {
	return pstest.ServerReactorOption{FuncName: name, Reactor: react(f)}
}

type react func(any) (bool, any, error)

func (f react) React(request any) (bool, any, error) { return f(request) }

// inTurn answers with these statuses, and with the last one from then on.
func inTurn(statuses ...int) http.HandlerFunc {
	var mu sync.Mutex
	return func(rw http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		rw.WriteHeader(statuses[0])
		if len(statuses) > 1 {
			statuses = statuses[1:]
		}
	}
}

func text(data string) *pubsubpb.PubsubMessage {
	return &pubsubpb.PubsubMessage{Data: []byte(data)}
}
