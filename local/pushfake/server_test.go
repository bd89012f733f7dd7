package pushfake_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pubsubpush"
	"example.com/pushinbox/shared/verify"
	"example.com/pushinbox/testkit/emulator"
)

// wait is how long a test waits for what ought to come at once.
const wait = 30 * time.Second

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(wait):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// service is a push endpoint that is written as a real one: it verifies who
// sent the push, decodes it, and answers 204.
type service struct {
	*httptest.Server
	server   *pushfake.Server
	verifier *verify.Verifier
	messages chan *inbox.Message
	refusals chan error
}

func startService(t *testing.T, o *pushfake.ServerOptions) *service {
	t.Helper()
	s := &service{messages: make(chan *inbox.Message, 100), refusals: make(chan error, 100)}
	ready := make(chan struct{})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-ready
		claims, err := s.verifier.IDToken(r, verify.Policy{Audience: s.URL + "/push", Emails: []string{s.server.Email}})
		if err != nil {
			s.refusals <- err
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		m, err := pubsubpush.Decode(r.Header, body)
		if err != nil {
			t.Error(err)
			return
		}
		m.Verified.Email = claims.Email
		s.messages <- m
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(s.Close)
	var err error
	if s.server, err = pushfake.Start(t.Context(), s.URL+"/push", o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.server.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.verifier, err = verify.New(&verify.Options{Transport: s.server.Issuer.Transport()}); err != nil {
		t.Fatal(err)
	}
	close(ready)
	return s
}

func (s *service) publish(t *testing.T, messages ...*pubsubpb.PubsubMessage) []string {
	t.Helper()
	answer, err := s.server.Client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: s.server.Topic, Messages: messages})
	if err != nil {
		t.Fatal(err)
	}
	return answer.MessageIds
}

func TestEndToEnd(t *testing.T) {
	t.Parallel()
	unwrapped := func(metadata bool) *pubsubpb.PushConfig {
		return &pubsubpb.PushConfig{
			Wrapper: &pubsubpb.PushConfig_NoWrapper_{NoWrapper: &pubsubpb.PushConfig_NoWrapper{WriteMetadata: metadata}},
			AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{
				ServiceAccountEmail: pushfake.DefaultEmail,
			}},
		}
	}
	const subscription = "projects/local/subscriptions/messages-push"
	for name, tc := range map[string]struct {
		sub     *pubsubpb.Subscription
		message *pubsubpb.PubsubMessage
		want    *inbox.Message
	}{
		"wrapped": {
			&pubsubpb.Subscription{DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{}},
			&pubsubpb.PubsubMessage{Data: []byte("a\xff"), Attributes: map[string]string{"k": `"v"`}, OrderingKey: "o"},
			&inbox.Message{Subscription: subscription, Data: []byte("a\xff"), Attributes: map[string]string{"k": `"v"`}, OrderingKey: "o", DeliveryAttempt: 1},
		},
		"attributes_only": {
			nil,
			&pubsubpb.PubsubMessage{Attributes: map[string]string{"k": "v"}},
			&inbox.Message{Subscription: subscription, Attributes: map[string]string{"k": "v"}},
		},
		"unwrapped_with_metadata": {
			&pubsubpb.Subscription{PushConfig: unwrapped(true)},
			&pubsubpb.PubsubMessage{Data: []byte("a\xff"), Attributes: map[string]string{"k": "v", "content-type": "text/csv"}, OrderingKey: "o"},
			&inbox.Message{Subscription: subscription, Data: []byte("a\xff"), Attributes: map[string]string{"k": "v", "content-type": "text/csv"}, OrderingKey: "o"},
		},
		"unwrapped_without_content_type": {
			&pubsubpb.Subscription{PushConfig: unwrapped(true)}, text("a"),
			&inbox.Message{Subscription: subscription, Data: []byte("a")},
		},
		"unwrapped": {
			&pubsubpb.Subscription{PushConfig: unwrapped(false)},
			&pubsubpb.PubsubMessage{Data: []byte("a"), Attributes: map[string]string{"k": "v"}},
			&inbox.Message{Data: []byte("a"), MessageID: "sha256-ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
		},
		"authorization_attribute": {
			&pubsubpb.Subscription{PushConfig: unwrapped(true)},
			&pubsubpb.PubsubMessage{Data: []byte("a"), Attributes: map[string]string{"authorization": "Bearer x"}},
			&inbox.Message{Subscription: subscription, Data: []byte("a")},
		},
		"ten_megabytes": {
			nil, &pubsubpb.PubsubMessage{Data: bytes.Repeat([]byte("0123456789"), 999_900)},
			&inbox.Message{Subscription: subscription, Data: bytes.Repeat([]byte("0123456789"), 999_900)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startService(t, &pushfake.ServerOptions{Subscription: tc.sub})
			before := time.Now().Add(-time.Second)
			ids := s.publish(t, tc.message)
			got := receive(t, s.messages)
			want := tc.want
			want.Source, want.Verified.Email = inbox.SourcePubSub, pushfake.DefaultEmail
			if want.MessageID == "" {
				want.MessageID = ids[0]
				if got.PublishTime.Before(before) || got.PublishTime.After(time.Now()) {
					t.Errorf("publish time: %s", got.PublishTime)
				}
			}
			if !bytes.Equal(want.Data, got.Data) {
				t.Errorf("%d bytes of data are not the %d that were published", len(got.Data), len(want.Data))
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(inbox.Message{}, "PublishTime", "Data"), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

// TestManualClock has an hour pass, and a backoff of ten minutes, in no time.
func TestManualClock(t *testing.T) {
	t.Parallel()
	clock := newManualClock(time.Now())
	deliveries := make(chan pushfake.Delivery, 10)
	var tokens []string
	var status atomic.Int64
	status.Store(204)
	hang, hanging := make(chan struct{}), make(chan struct{})
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status.Load() == 0 {
			hanging <- struct{}{}
			<-hang
			return
		}
		tokens = append(tokens, r.Header.Get("Authorization"))
		w.WriteHeader(int(status.Load()))
	}))
	defer endpoint.Close()
	defer close(hang)
	server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{
		Subscription: &pubsubpb.Subscription{
			RetryPolicy:        &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(10 * time.Minute)},
			AckDeadlineSeconds: 600,
		},
		Dispatcher: pushfake.Options{Clock: clock, OnDelivery: func(d pushfake.Delivery) { deliveries <- d }},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	push := func() pushfake.Delivery {
		server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
		return receive(t, deliveries)
	}

	push()
	clock.Advance(58 * time.Minute)
	push()
	clock.Advance(2 * time.Minute)
	push()
	if tokens[0] != tokens[1] || tokens[1] == tokens[2] {
		t.Error("a token is not sent until shortly before it expires, or after that")
	}
	_, claims := parts(t, strings.TrimPrefix(tokens[2], "Bearer "))
	if claims["iat"] != float64(clock.Now().Unix()) || claims["aud"] != endpoint.URL {
		t.Errorf("claims: %v", claims)
	}

	status.Store(500)
	if d := push(); d.RetryIn != 10*time.Minute || d.Acked {
		t.Errorf("delivery: %+v", d)
	}
	status.Store(204)
	clock.Advance(10 * time.Minute)
	if d := receive(t, deliveries); d.Attempt != 2 || !d.Acked {
		t.Errorf("delivery: %+v", d)
	}

	status.Store(0)
	server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
	receive(t, hanging)
	clock.Advance(10 * time.Minute)
	if d := receive(t, deliveries); !errors.Is(d.Err, context.DeadlineExceeded) {
		t.Errorf("delivery: %+v", d)
	}
}

// TestAnswers has endpoints answer in ways that a test server does not.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer string
		status int
		acked  bool
	}{
		"102_and_no_more":     {"HTTP/1.1 102 Processing\r\n\r\n", 102, true},
		"102_then_204":        {"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, true},
		"102_then_500":        {"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n", 500, false},
		"103_and_no_more":     {"HTTP/1.1 103 Early Hints\r\n\r\n", 0, false},
		"no_answer":           {"", 0, false},
		"not_http":            {"SSH-2.0-OpenSSH\r\n\r\n", 0, false},
		"answer_broken_off":   {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 0, false},
		"unknown_2xx":         {"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n", 299, false},
		"a_long_answer":       {"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1_000_000), 200, true},
		"redirect_to_itself":  {"HTTP/1.1 307 Temporary Redirect\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 307, false},
		"redirect_to_another": {"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 301, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var requests atomic.Int64
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						io.Copy(io.Discard, r.Body)
						requests.Add(1)
						io.WriteString(conn, tc.answer)
					}
					conn.Close()
				}
			}()
			deliveries := make(chan pushfake.Delivery, 1)
			server, err := pushfake.Start(t.Context(), "http://"+listener.Addr().String(), &pushfake.ServerOptions{Dispatcher: pushfake.Options{
				// The clock stands still, so that there is no second attempt.
				Clock:      newManualClock(time.Now()),
				OnDelivery: func(d pushfake.Delivery) { deliveries <- d },
			}})
			if err != nil {
				t.Fatal(err)
			}
			server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
			d := receive(t, deliveries)
			listener.Close()
			server.Close()
			if d.Status != tc.status || d.Acked != tc.acked || (d.Err == nil) != (tc.status != 0) {
				t.Errorf("delivery: %+v", d)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

// TestKeptConnectionClosed has an endpoint close a connection between two
// pushes, which is not a failure to deliver.
func TestKeptConnectionClosed(t *testing.T) {
	t.Parallel()
	deliveries := make(chan pushfake.Delivery, 1)
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer endpoint.Close()
	server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{Dispatcher: pushfake.Options{
		OnDelivery: func(d pushfake.Delivery) { deliveries <- d },
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for range 20 {
		server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
		if d := receive(t, deliveries); !d.Acked {
			t.Errorf("delivery: %+v", d)
		}
		endpoint.CloseClientConnections()
	}
}

// TestOrderedInProcess has many messages of one key arrive in order.
func TestOrderedInProcess(t *testing.T) {
	t.Parallel()
	s := startService(t, &pushfake.ServerOptions{Subscription: &pubsubpb.Subscription{EnableMessageOrdering: true}})
	var want, got []string
	for i := range 100 {
		m := text(fmt.Sprint(i))
		m.OrderingKey = "k"
		s.publish(t, m)
		want = append(want, fmt.Sprint(i))
	}
	for range want {
		got = append(got, string(receive(t, s.messages).Data))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	t.Run("names_and_dead_letters", func(t *testing.T) {
		t.Parallel()
		settings := &pubsubpb.Subscription{
			Name: "projects/other/subscriptions/sub", Topic: "projects/other/topics/top",
			DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: 7},
		}
		server, err := pushfake.Start(t.Context(), "http://127.0.0.1:1/", &pushfake.ServerOptions{Subscription: settings})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		got := []string{server.Topic, server.Subscription, server.DeadLetterTopic, server.DeadLetterSubscription, server.Audience, server.Email}
		want := []string{
			"projects/other/topics/top", "projects/other/subscriptions/sub",
			"projects/other/topics/top-dead-letter", "projects/other/subscriptions/top-dead-letter",
			"http://127.0.0.1:1/", pushfake.DefaultEmail,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
		for _, name := range []string{server.Subscription, server.DeadLetterSubscription} {
			if _, err := server.Client.SubscriptionAdminClient.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: name}); err != nil {
				t.Error(err)
			}
		}
		if settings.PushConfig != nil || settings.DeadLetterPolicy.DeadLetterTopic != "" {
			t.Error("the given subscription was changed")
		}
		// Its address serves other clients too.
		if _, err := dial(t, server.Addr, "other").TopicAdminClient.GetTopic(t.Context(), &pubsubpb.GetTopicRequest{Topic: server.Topic}); err != nil {
			t.Error(err)
		}
	})
	t.Run("unsigned", func(t *testing.T) {
		t.Parallel()
		authorization := make(chan []string, 1)
		endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { authorization <- r.Header["Authorization"] }))
		defer endpoint.Close()
		server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{Subscription: &pubsubpb.Subscription{PushConfig: &pubsubpb.PushConfig{}}})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
		if got := receive(t, authorization); got != nil || server.Audience != "" || server.Email != "" {
			t.Errorf("Authorization %q, audience %q, e-mail %q", got, server.Audience, server.Email)
		}
	})
	// Headers that a fault changes are not those that all pushes have.
	t.Run("faults", func(t *testing.T) {
		t.Parallel()
		authorization := make(chan string, 10)
		endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			authorization <- r.Header.Get("Authorization") + " " + r.Header.Get("Content-Type")
		}))
		defer endpoint.Close()
		faults := map[string]pushfake.Fault{
			"replaced": {Header: http.Header{"authorization": {"Bearer x"}}}, "removed": {Header: http.Header{"Authorization": nil}}, "twice": {Duplicate: true},
		}
		server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{Dispatcher: pushfake.Options{
			Faults: func(m *pubsubpb.PubsubMessage, _ int) pushfake.Fault { return faults[string(m.Data)] },
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		for _, test := range []struct {
			data, want string
			times      int
		}{{"replaced", "Bearer x application/json", 1}, {"removed", " application/json", 1}, {"twice", "Bearer ey", 2}, {"none", "Bearer ey", 1}} {
			server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte(test.data)})
			for range test.times {
				if got := receive(t, authorization); !strings.HasPrefix(got, test.want) || !strings.HasSuffix(got, " application/json") {
					t.Errorf("%s: %q, want %q", test.data, got, test.want)
				}
			}
		}
	})
	t.Run("configured_audience", func(t *testing.T) {
		t.Parallel()
		authorization := make(chan string, 1)
		endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			authorization <- r.Header.Get("Authorization")
		}))
		defer endpoint.Close()
		server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{Subscription: &pubsubpb.Subscription{PushConfig: &pubsubpb.PushConfig{
			AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{Audience: "inbox", ServiceAccountEmail: "a@b.c"}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
		_, claims := parts(t, strings.TrimPrefix(receive(t, authorization), "Bearer "))
		if claims["aud"] != "inbox" || claims["email"] != "a@b.c" || server.Audience != "inbox" || server.Email != "a@b.c" {
			t.Errorf("claims %v, audience %q, e-mail %q", claims, server.Audience, server.Email)
		}
	})
	t.Run("message_ids_are_new_in_each_run", func(t *testing.T) {
		t.Parallel()
		var ids []string
		for range 2 {
			s := startService(t, nil)
			ids = append(ids, s.publish(t, text("a"))...)
			if m := receive(t, s.messages); m.MessageID != ids[len(ids)-1] {
				t.Errorf("published as %s, pushed as %s", ids[len(ids)-1], m.MessageID)
			}
		}
		if ids[0] == ids[1] {
			t.Errorf("both runs called their first message %s", ids[0])
		}
	})
	t.Run("existing_pubsub_is_used_and_left", func(t *testing.T) {
		t.Parallel()
		first := startService(t, nil)
		second := startService(t, &pushfake.ServerOptions{Client: first.server.Client, Subscription: &pubsubpb.Subscription{Name: "projects/local/subscriptions/another"}})
		first.publish(t, text("a"))
		receive(t, first.messages)
		if m := receive(t, second.messages); m.Subscription != "projects/local/subscriptions/another" {
			t.Errorf("message: %+v", m)
		}
		if err := second.server.Close(); err != nil {
			t.Error(err)
		}
		first.publish(t, text("b"))
		receive(t, first.messages)
	})
	t.Run("refuses", func(t *testing.T) {
		t.Parallel()
		for name, endpoint := range map[string]string{"no_endpoint": "", "not_http": "ftp://example.com/", "relative": "/push"} {
			if server, err := pushfake.Start(t.Context(), endpoint, nil); err == nil {
				server.Close()
				t.Errorf("%s: no error", name)
			}
		}
	})
}

// TestEmulator has Google's emulator keep the messages, which it would push
// unsigned itself.
func TestEmulator(t *testing.T) {
	t.Parallel()
	client := dial(t, emulator.PubSub(t), emulator.Project())
	s := startService(t, &pushfake.ServerOptions{
		Client: client,
		Subscription: &pubsubpb.Subscription{
			EnableMessageOrdering: true,
			DeadLetterPolicy:      &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: 5},
		},
		Dispatcher: pushfake.Options{Faults: func(m *pubsubpb.PubsubMessage, attempt int) pushfake.Fault {
			switch {
			case string(m.Data) == "poison":
				return pushfake.Fault{Status: 500}
			case string(m.Data) == "3" && attempt < 3:
				return pushfake.Fault{LoseAck: true}
			}
			return pushfake.Fault{}
		}},
	})
	var want, got []string
	var messages []*pubsubpb.PubsubMessage
	for i := range 10 {
		m := text(fmt.Sprint(i))
		m.OrderingKey = "k"
		messages = append(messages, m)
		want = append(want, fmt.Sprint(i))
	}
	s.publish(t, messages...)
	s.publish(t, &pubsubpb.PubsubMessage{Data: []byte("poison"), Attributes: map[string]string{"a": "b"}})
	want = append(want[:4], append([]string{"3", "3"}, want[4:]...)...)
	for range want {
		m := receive(t, s.messages)
		got = append(got, string(m.Data))
		if m.OrderingKey != "k" || m.DeliveryAttempt == 0 || m.Subscription != s.server.Subscription {
			t.Errorf("message: %+v", m)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	answer, err := client.SubscriptionAdminClient.Pull(t.Context(), &pubsubpb.PullRequest{Subscription: s.server.DeadLetterSubscription, MaxMessages: 10})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(answer.ReceivedMessages); n != 1 {
		t.Fatalf("%d dead letters, want 1", n)
	}
	dead := answer.ReceivedMessages[0].Message
	if string(dead.Data) != "poison" || dead.Attributes["a"] != "b" || dead.Attributes["CloudPubSubDeadLetterSourceDeliveryCount"] != "5" {
		t.Errorf("dead letter: %v", dead)
	}
	if err := s.server.Close(); err != nil {
		t.Error(err)
	}
	// Everything was acknowledged, so nothing comes any more.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	answer, err = client.SubscriptionAdminClient.Pull(ctx, &pubsubpb.PullRequest{Subscription: s.server.Subscription, MaxMessages: 10})
	if len(answer.GetReceivedMessages()) != 0 {
		t.Errorf("left: %v, %v", answer, err)
	}
}
