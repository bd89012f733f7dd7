package pubsubserver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
)

func openWith(t *testing.T, sub *pubsubpb.Subscription) *Server {
	t.Helper()
	s := open(t)
	if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicT}); err != nil {
		t.Fatal(err)
	}
	sub.Name, sub.Topic = subS, topicT
	if _, err := s.CreateSubscription(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestClient has Google's client publish and receive, by StreamingPull.
func TestClient(t *testing.T) {
	t.Parallel()
	s := openWith(t, &pubsubpb.Subscription{EnableMessageOrdering: true})
	client := newClient(t, s)
	topic := client.Publisher(topicT)
	topic.EnableMessageOrdering = true
	const keys, each = 5, 100
	var results []*pubsub.PublishResult
	for i := range each {
		for k := range keys {
			results = append(results, topic.Publish(t.Context(), &pubsub.Message{Data: fmt.Append(nil, i), OrderingKey: fmt.Sprint(k)}))
		}
	}
	for _, r := range results {
		if _, err := r.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	got := map[string][]string{}
	n := 0
	err := client.Subscriber(subS).Receive(ctx, func(_ context.Context, m *pubsub.Message) {
		mu.Lock()
		defer mu.Unlock()
		got[m.OrderingKey] = append(got[m.OrderingKey], string(m.Data))
		m.Ack()
		if n++; n == keys*each {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for k := range keys {
		if !slices.Equal(got[fmt.Sprint(k)], numbers(each)) {
			t.Errorf("key %d came as %v", k, got[fmt.Sprint(k)])
		}
	}
	if n, _, err := s.Backlog(subS); n != 0 || err != nil {
		t.Errorf("%d messages are left (%v)", n, err)
	}
}

func startStream(t *testing.T, s *Server, first *pubsubpb.StreamingPullRequest) pubsubpb.Subscriber_StreamingPullClient {
	t.Helper()
	stream, err := pubsubpb.NewSubscriberClient(dial(t, s)).StreamingPull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first.Subscription == "" {
		first.Subscription = subS
	}
	if err := stream.Send(first); err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestStreamFlowControl(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]*pubsubpb.StreamingPullRequest{
		"messages": {StreamAckDeadlineSeconds: 10, MaxOutstandingMessages: 3},
		"bytes":    {StreamAckDeadlineSeconds: 10, MaxOutstandingBytes: 2500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openWith(t, &pubsubpb.Subscription{})
			m := slicesRepeat([]*pubsubpb.PubsubMessage{{Data: make([]byte, 1000)}}, 20)
			if _, err := s.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicT, Messages: m}); err != nil {
				t.Fatal(err)
			}
			stream := startStream(t, s, first)
			for left := 20; left > 0; {
				r, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				n := len(r.ReceivedMessages)
				if n == 0 || n > 3 {
					t.Fatalf("%d messages at once, want 1 to 3", n)
				}
				left -= n
				again := &pubsubpb.StreamingPullRequest{AckIds: ackIDs(r.ReceivedMessages)}
				if left > 10 { // nacked ones make room too
					again = &pubsubpb.StreamingPullRequest{ModifyDeadlineAckIds: ackIDs(r.ReceivedMessages), ModifyDeadlineSeconds: make([]int32, n)}
					left += n - 1
				}
				if err := stream.Send(again); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestStreamRefusals(t *testing.T) {
	t.Parallel()
	s := openWith(t, &pubsubpb.Subscription{})
	first := &pubsubpb.StreamingPullRequest{StreamAckDeadlineSeconds: 10}
	for name, test := range map[string]struct {
		requests []*pubsubpb.StreamingPullRequest
		code     codes.Code
		why      string
	}{
		"no_deadline":   {[]*pubsubpb.StreamingPullRequest{{}}, codes.InvalidArgument, "stream_ack_deadline_seconds given (value=0)"},
		"long_deadline": {[]*pubsubpb.StreamingPullRequest{{StreamAckDeadlineSeconds: 601}}, codes.InvalidArgument, "between 10 and 600"},
		"missing":       {[]*pubsubpb.StreamingPullRequest{{Subscription: subOther, StreamAckDeadlineSeconds: 10}}, codes.NotFound, subOther},
		"name_again":    {[]*pubsubpb.StreamingPullRequest{first, {Subscription: subS}}, codes.InvalidArgument, subS},
		"flow_again":    {[]*pubsubpb.StreamingPullRequest{first, {MaxOutstandingMessages: 1}}, codes.InvalidArgument, "first request"},
		"ack_id":        {[]*pubsubpb.StreamingPullRequest{first, {AckIds: []string{"nonsense"}}}, codes.InvalidArgument, "(ack_id=nonsense)"},
		"lists":         {[]*pubsubpb.StreamingPullRequest{first, {ModifyDeadlineSeconds: []int32{1}}}, codes.InvalidArgument, "0 modify_deadline_ack_ids and 1 modify_deadline_seconds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := startStream(t, s, test.requests[0])
			for _, r := range test.requests[1:] {
				if err := stream.Send(r); err != nil {
					t.Fatal(err)
				}
			}
			_, err := stream.Recv()
			refused(t, err, test.code, test.why)
		})
	}
}

// TestPushHook has the hook told of every push subscription, and its stop
// called when the settings change.
func TestPushHook(t *testing.T) {
	inWorld(t, func(w *world) {
		var events []string
		var queue *Queue
		w.options.Push = func(sub *pubsubpb.Subscription, q *Queue) func() {
			queue = q
			event := sub.PushConfig.PushEndpoint[len("http://"):]
			events = append(events, "+"+event)
			return func() { events = append(events, "-"+event) }
		}
		w.reopen()
		modify := func(endpoint string) {
			_, err := w.ModifyPushConfig(w.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: subS, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint}})
			w.must(err)
		}
		w.createSub(&pubsubpb.Subscription{
			PushConfig:       &pubsubpb.PushConfig{PushEndpoint: "http://a"},
			RetryPolicy:      &pubsubpb.RetryPolicy{},
			DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topicDead},
		})
		w.createSub(&pubsubpb.Subscription{Name: subDead, Topic: topicDead})
		w.publish("1", "2", "3")
		take := func(attempt int, want ...string) []*Lease {
			w.Helper()
			synctest.Wait()
			leases, _, err := queue.Lease(10)
			w.must(err)
			var got []string
			for _, l := range leases {
				got = append(got, string(l.Message.Data))
				if l.Attempt != attempt {
					w.Errorf("%s is attempt %d, want %d", l.Message.Data, l.Attempt, attempt)
				}
			}
			if !slices.Equal(got, want) {
				w.Fatalf("leased %q, want %q", got, want)
			}
			return leases
		}
		leases := take(1, "1", "2", "3")
		queue.Ack(leases[0])
		queue.Release(leases[2])
		if n := queue.Nack(leases[1]); n.RetryAt != time.Now().Add(10*time.Second) || n.DeadLettered {
			w.Errorf("the refused message is %+v", n)
		}
		take(1, "3") // and keeps it, for longer than any deadline
		time.Sleep(time.Hour)
		modify("http://b")
		take(2, "2")
		w.reopen() // ends leases
		leases, _, err := queue.Lease(1)
		w.must(err)
		queue.Ack(leases[0])
		for attempt := 2; attempt <= 5; attempt++ {
			leases, changed, err := queue.Lease(1)
			w.must(err)
			if len(leases) == 0 {
				<-changed
				leases, _, err = queue.Lease(1)
				w.must(err)
			}
			if n := queue.Nack(leases[0]); leases[0].Attempt != attempt || n.DeadLettered != (attempt == 5) {
				w.Errorf("attempt %d, want %d: %+v", leases[0].Attempt, attempt, n)
			}
		}
		w.expect(subDead, "2")
		modify("")
		w.reopen()
		modify("http://c")
		_, err = w.DetachSubscription(w.Context(), &pubsubpb.DetachSubscriptionRequest{Subscription: subS})
		w.must(err)
		if want := []string{"+a", "-a", "+b", "-b", "+b", "-b", "+c", "-c"}; !slices.Equal(events, want) {
			w.Errorf("the hook was told %q, want %q", events, want)
		}
	})
}
