package pushfake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/pushinbox/local/pushfake"
)

func TestPushBackoff(t *testing.T) {
	t.Parallel()
	var doubling []time.Duration
	for ms := 100; ms < 60_000; ms *= 2 {
		doubling = append(doubling, time.Duration(ms)*time.Millisecond)
	}
	t.Run("doubles_to_a_minute", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			w.dispatch(&pubsubpb.Subscription{}, inTurn(500), pushfake.Options{})
			w.publish(text("a"))
			time.Sleep(5 * time.Minute)
			want := append(slices.Clone(doubling), time.Minute, time.Minute, time.Minute)
			if diff := cmp.Diff(want, w.gaps(len(want))); diff != "" {
				w.Errorf("time between attempts (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("stops_the_whole_subscription", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			w.dispatch(&pubsubpb.Subscription{}, inTurn(500), pushfake.Options{})
			w.publish(text("a"), text("b"), text("c"))
			time.Sleep(time.Minute)
			// All three are tried at once; their failures count as one, and
			// leave a window of one request.
			want := append([]time.Duration{0, 0}, doubling[:9]...)
			if diff := cmp.Diff(want, w.gaps(100)); diff != "" {
				w.Errorf("time between attempts (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("goes_back_with_acknowledgements", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			// Three failures make the next pause 800 ms; an acknowledgement
			// takes it to 400 ms.
			w.dispatch(&pubsubpb.Subscription{}, inTurn(500, 500, 500, 204, 500, 204), pushfake.Options{MaxOutstanding: 1})
			w.publish(text("a"), text("b"))
			time.Sleep(10 * time.Second)
			var pauses []time.Duration
			for _, d := range w.delivered() {
				pauses = append(pauses, d.RetryIn)
			}
			want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 0, 400 * time.Millisecond, 0}
			if diff := cmp.Diff(want, pauses); diff != "" {
				w.Errorf("RetryIn (-want +got):\n%s", diff)
			}
		})
	})
}

func TestRetryPolicy(t *testing.T) {
	t.Parallel()
	policy := func(least, most time.Duration) *pubsubpb.RetryPolicy {
		return &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(least), MaximumBackoff: durationpb.New(most)}
	}
	ms := func(list ...int) (durations []time.Duration) {
		for _, n := range list {
			durations = append(durations, time.Duration(n)*time.Millisecond)
		}
		return durations
	}
	for name, tc := range map[string]struct {
		policy *pubsubpb.RetryPolicy
		want   []time.Duration
	}{
		"doubles_to_the_maximum":          {policy(10*time.Second, 35*time.Second), ms(10_000, 20_000, 35_000, 35_000)},
		"defaults_to_10s":                 {&pubsubpb.RetryPolicy{}, ms(10_000, 20_000, 40_000)},
		"the_longer_delay_counts":         {policy(150*time.Millisecond, 150*time.Millisecond), ms(150, 200, 400)},
		"a_minimum_of_0_retries_at_once":  {policy(0, time.Minute), ms(100, 200, 400)},
		"none_leaves_it_to_push_backoff":  {nil, ms(100, 200, 400)},
		"a_minimum_above_the_maximum_too": {policy(20*time.Second, 10*time.Second), ms(10_000, 10_000)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(w *world) {
				w.dispatch(&pubsubpb.Subscription{RetryPolicy: tc.policy}, inTurn(500), pushfake.Options{})
				w.publish(text("a"))
				for _, delay := range tc.want {
					time.Sleep(delay + time.Second)
				}
				if diff := cmp.Diff(tc.want, w.gaps(len(tc.want))); diff != "" {
					w.Errorf("time between attempts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestRetryPolicyLetsOthersPass(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world) {
		w.dispatch(&pubsubpb.Subscription{RetryPolicy: &pubsubpb.RetryPolicy{}}, inTurn(500, 204), pushfake.Options{MaxOutstanding: 1})
		w.publish(text("a"), text("b"))
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]time.Duration{100 * time.Millisecond, 9900 * time.Millisecond}, w.gaps(100)); diff != "" {
			w.Errorf("time between attempts (-want +got):\n%s", diff)
		}
	})
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status int
		acked  bool
	}{
		{200, true}, {201, true}, {202, true}, {204, true},
		{203, false}, {205, false}, {206, false}, {301, false}, {302, false}, {304, false}, {307, false},
		{400, false}, {401, false}, {403, false}, {404, false}, {429, false}, {500, false}, {503, false},
	} {
		t.Run(fmt.Sprint(tc.status), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(w *world) {
				d := w.dispatch(&pubsubpb.Subscription{}, func(rw http.ResponseWriter, _ *http.Request) {
					rw.Header().Set("Location", "http://elsewhere.test/")
					rw.WriteHeader(tc.status)
				}, pushfake.Options{})
				w.publish(text("a"))
				time.Sleep(2 * time.Second)
				d.Close()
				got := w.delivered()[0]
				if got.Status != tc.status || got.Acked != tc.acked || got.Err != nil {
					w.Errorf("got %+v, want status %d, acked %t", got, tc.status, tc.acked)
				}
				if left := len(w.pull(subName)) == 0; left != tc.acked {
					w.Errorf("gone from the subscription: %t, want %t", left, tc.acked)
				}
				if again := len(w.seen()) > 1; again == tc.acked {
					w.Errorf("delivered again: %t, want %t", again, !tc.acked)
				}
			})
		})
	}
}

func TestAckDeadline(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		seconds int32
		takes   time.Duration
		acked   bool
	}{
		"default_just_in_time": {0, 10*time.Second - time.Millisecond, true},
		"default_too_late":     {0, 10*time.Second + time.Millisecond, false},
		"longest_just_in_time": {600, 10*time.Minute - time.Millisecond, true},
		"longest_too_late":     {600, 10*time.Minute + time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(w *world) {
				slow := func(rw http.ResponseWriter, r *http.Request) {
					select {
					case <-time.After(tc.takes):
					case <-r.Context().Done():
					}
					rw.WriteHeader(204)
				}
				w.dispatch(&pubsubpb.Subscription{AckDeadlineSeconds: tc.seconds}, slow, pushfake.Options{})
				w.publish(text("a"))
				time.Sleep(tc.takes + 2*time.Second)
				got := w.delivered()[0]
				if got.Acked != tc.acked {
					w.Errorf("acked: %t, want %t", got.Acked, tc.acked)
				}
				if late := errors.Is(got.Err, context.DeadlineExceeded); late == tc.acked {
					w.Errorf("error: %v", got.Err)
				}
				if seconds := got.AckDeadline / time.Second; seconds != time.Duration(max(tc.seconds, 10)) {
					w.Errorf("the ack deadline is %v", got.AckDeadline)
				}
				want := tc.takes
				if !tc.acked {
					want -= time.Millisecond
				}
				if got.Duration != want {
					w.Errorf("took %s, want %s", got.Duration, want)
				}
			})
		})
	}
}

func TestSlowStart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world) {
		answers := make(chan int)
		d := w.dispatch(&pubsubpb.Subscription{AckDeadlineSeconds: 600}, func(rw http.ResponseWriter, r *http.Request) {
			select {
			case status := <-answers:
				rw.WriteHeader(status)
			case <-r.Context().Done():
			}
		}, pushfake.Options{MaxOutstanding: 40})
		w.publish(slices.Repeat([]*pubsubpb.PubsubMessage{text("a")}, 300)...)
		time.Sleep(2 * time.Second)
		underWay := func() int {
			synctest.Wait()
			return len(w.seen()) - len(w.delivered())
		}
		answer := func(n, status int) {
			for range n {
				answers <- status
				synctest.Wait()
			}
		}
		var got []int
		got = append(got, underWay())
		for range 5 {
			answer(underWay(), 204)
			got = append(got, underWay())
		}
		answer(1, 500)
		answer(10, 204)
		got = append(got, underWay())
		answer(29, 204)
		time.Sleep(100 * time.Millisecond)
		got = append(got, underWay())
		if diff := cmp.Diff([]int{4, 8, 16, 32, 40, 40, 29, 40}, got); diff != "" {
			w.Errorf("requests under way (-want +got):\n%s", diff)
		}
		// Each failure halves the window, whether or not it stops delivery
		// once more.
		answer(3, 500)
		answer(37, 204)
		answered := len(w.seen())
		time.Sleep(200 * time.Millisecond)
		answer(underWay(), 500)
		time.Sleep(400 * time.Millisecond)
		if n := underWay(); n != 1 || answered == len(w.seen()) {
			w.Errorf("%d requests under way after a round of failures, want 1", n)
		}
		d.Close()
	})
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	var failures atomic.Int32
	failures.Store(3)
	var acked atomic.Bool
	var early atomic.Bool
	inBubble(t, func(w *world) {
		w.subscribe(&pubsubpb.Subscription{Name: deadSub, Topic: deadTopic})
		w.dispatch(&pubsubpb.Subscription{
			DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: deadTopic, MaxDeliveryAttempts: 6},
		}, inTurn(500), pushfake.Options{})
		w.publish(&pubsubpb.PubsubMessage{Data: []byte("poison"), Attributes: map[string]string{"a": "b"}, OrderingKey: "k"})
		published := time.Now()
		time.Sleep(30 * time.Second)

		var attempts []int
		for _, p := range w.seen() {
			var body struct{ DeliveryAttempt int }
			if err := json.Unmarshal([]byte(p.body), &body); err != nil {
				w.Fatal(err)
			}
			attempts = append(attempts, body.DeliveryAttempt)
		}
		if diff := cmp.Diff([]int{1, 2, 3, 4, 5, 6}, attempts); diff != "" {
			w.Errorf("deliveryAttempt (-want +got):\n%s", diff)
		}
		last := w.delivered()[5]
		if !last.DeadLettered || last.Acked || last.RetryIn != 0 {
			w.Errorf("last delivery: %+v", last)
		}
		dead := w.pull(deadSub)
		if len(dead) != 1 {
			w.Fatalf("%d dead letters, want 1", len(dead))
		}
		want := map[string]string{
			"a": "b",
			"CloudPubSubDeadLetterSourceDeliveryCount":       "6",
			"CloudPubSubDeadLetterSourceSubscription":        "orders-push",
			"CloudPubSubDeadLetterSourceSubscriptionProject": "p",
			"CloudPubSubDeadLetterSourceTopicPublishTime":    published.UTC().Format("2006-01-02T15:04:05.000+00:00"),
		}
		if diff := cmp.Diff(want, dead[0].Attributes); diff != "" {
			w.Errorf("attributes (-want +got):\n%s", diff)
		}
		if string(dead[0].Data) != "poison" || dead[0].OrderingKey != "k" || dead[0].MessageId == last.MessageID {
			w.Errorf("dead letter: %v", dead[0])
		}
		if left := w.pull(subName); len(left) != 0 || !acked.Load() {
			w.Errorf("left in the subscription: %v", left)
		}
		if early.Load() {
			w.Error("acknowledged before the dead letter was published")
		}
		if n := len(w.reported()); n != 3 {
			w.Errorf("%d errors reported, want the 3 failures to publish", n)
		}
	}, reactor("Publish", func(request any) (bool, any, error) {
		if request.(*pubsubpb.PublishRequest).Topic == deadTopic && failures.Add(-1) >= 0 {
			return true, &pubsubpb.PublishResponse{}, status.Error(codes.Unavailable, "not now")
		}
		return false, nil, nil
	}), reactor("Acknowledge", func(any) (bool, any, error) {
		acked.Store(true)
		if failures.Load() >= 0 {
			early.Store(true)
		}
		return false, nil, nil
	}))
}

// pulls makes pstest hand out this batch in the first Pull, whatever order it
// would have chosen itself.
func pulls(batches ...[]*pubsubpb.ReceivedMessage) pstest.ServerReactorOption {
	var mu sync.Mutex
	return reactor("Pull", func(any) (bool, any, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(batches) == 0 {
			return false, nil, nil
		}
		batch := batches[0]
		batches = batches[1:]
		return true, &pubsubpb.PullResponse{ReceivedMessages: batch}, nil
	})
}

func received(id, key string, nanos int32) *pubsubpb.ReceivedMessage {
	m := text(id)
	m.MessageId, m.OrderingKey = id, key
	m.PublishTime = &timestamppb.Timestamp{Seconds: 946684800, Nanos: nanos}
	return &pubsubpb.ReceivedMessage{AckId: id + ":1", Message: m}
}

func TestOrdering(t *testing.T) {
	t.Parallel()
	// Google's emulator gives the messages of a key out of order when they
	// were handed back before.
	batches := [][]*pubsubpb.ReceivedMessage{
		{received("m3", "a", 3), received("m9", "a", 9), received("m10", "a", 9), received("m1", "a", 1), received("x1", "b", 4), received("y", "", 5)},
		{received("m4", "a", 4), received("m2", "a", 2), received("x2", "b", 6)},
	}
	run := func(t *testing.T, ordered bool, fails string) (order []string, most map[string]int) {
		most = make(map[string]int)
		inBubble(t, func(w *world) {
			var mu sync.Mutex
			failed := false
			flying := make(map[string]int)
			w.dispatch(&pubsubpb.Subscription{EnableMessageOrdering: ordered}, func(rw http.ResponseWriter, r *http.Request) {
				var body struct {
					Message struct{ MessageID, OrderingKey string }
				}
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
					w.Error(err)
				}
				mu.Lock()
				m := body.Message
				order = append(order, m.MessageID)
				flying[m.OrderingKey]++
				most[m.OrderingKey] = max(most[m.OrderingKey], flying[m.OrderingKey])
				refuse := m.MessageID == fails && !failed
				failed = failed || refuse
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
				mu.Lock()
				flying[m.OrderingKey]--
				mu.Unlock()
				if refuse {
					rw.WriteHeader(500)
				}
			}, pushfake.Options{})
			time.Sleep(time.Minute)
		}, pulls(batches...))
		return order, most
	}
	only := func(order []string, first byte) (ids []string) {
		for _, id := range order {
			if id[0] == first {
				ids = append(ids, id)
			}
		}
		return ids
	}
	t.Run("one_at_a_time_in_order", func(t *testing.T) {
		t.Parallel()
		order, most := run(t, true, "")
		if diff := cmp.Diff([]string{"m1", "m2", "m3", "m4", "m9", "m10"}, only(order, 'm')); diff != "" {
			t.Errorf("key a (-want +got):\n%s", diff)
		}
		if most["a"] != 1 || most["b"] != 1 {
			t.Errorf("outstanding at once: %v, want 1 for each key", most)
		}
	})
	t.Run("a_refused_one_blocks_its_key_only", func(t *testing.T) {
		t.Parallel()
		order, _ := run(t, true, "m2")
		if diff := cmp.Diff([]string{"m1", "m2", "m2", "m3", "m4", "m9", "m10"}, only(order, 'm')); diff != "" {
			t.Errorf("key a (-want +got):\n%s", diff)
		}
		if slices.Index(order, "x2") > slices.Index(order, "m3") || slices.Index(order, "y") > slices.Index(order, "m3") {
			t.Errorf("key a held others up: %v", order)
		}
	})
	t.Run("not_on_an_unordered_subscription", func(t *testing.T) {
		t.Parallel()
		if _, most := run(t, false, ""); most["a"] < 2 {
			t.Errorf("outstanding at once: %v, want several of key a", most)
		}
	})
}

// TestOrderingDoesNotWait has pstest, which gives out one message of a key and
// the next when that is acknowledged, asked again at that moment.
func TestOrderingDoesNotWait(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world) {
		w.subscribe(&pubsubpb.Subscription{Name: subName, Topic: topicName, EnableMessageOrdering: true, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint}})
		for _, data := range []string{"a", "b", "c"} {
			w.publish(&pubsubpb.PubsubMessage{Data: []byte(data), OrderingKey: "k"})
			time.Sleep(time.Millisecond) // pstest goes by the time of publishing alone
		}
		w.resume(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) }, pushfake.Options{Poll: time.Hour})
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]time.Duration{time.Second, time.Second}, w.gaps(100)); diff != "" {
			w.Errorf("time between attempts (-want +got):\n%s", diff)
		}
	})
}

func TestDeadLetterFreesItsKey(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world) {
		w.dispatch(&pubsubpb.Subscription{
			EnableMessageOrdering: true,
			DeadLetterPolicy:      &pubsubpb.DeadLetterPolicy{DeadLetterTopic: deadTopic},
		}, inTurn(500, 500, 500, 500, 500, 204), pushfake.Options{})
		time.Sleep(time.Minute)
		var got []string
		for _, d := range w.delivered() {
			got = append(got, fmt.Sprint(d.MessageID, " ", d.Attempt, " ", d.Acked, " ", d.DeadLettered))
		}
		want := []string{
			"m1 1 false false", "m1 2 false false", "m1 3 false false", "m1 4 false false", "m1 5 false true",
			"m2 1 true false",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			w.Errorf("deliveries (-want +got):\n%s", diff)
		}
	}, pulls([]*pubsubpb.ReceivedMessage{received("m1", "a", 1), received("m2", "a", 2)}))
}

func TestLeases(t *testing.T) {
	t.Parallel()
	t.Run("are_kept_while_a_message_waits", func(t *testing.T) {
		t.Parallel()
		var pulled atomic.Int32
		inBubble(t, func(w *world) {
			// pstest gives a message out again as soon as its lease ends, ten
			// seconds after the last extension.
			w.dispatch(&pubsubpb.Subscription{
				RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(600 * time.Second)},
			}, inTurn(500, 204), pushfake.Options{})
			w.publish(text("a"))
			time.Sleep(9 * time.Minute)
			if left := w.pull(subName); len(left) != 0 {
				w.Error("the lease was lost")
			}
			time.Sleep(2 * time.Minute)
			if diff := cmp.Diff([]time.Duration{10 * time.Minute}, w.gaps(100)); diff != "" {
				w.Errorf("time between attempts (-want +got):\n%s", diff)
			}
			if n := pulled.Load(); n == 0 || n > 130 {
				w.Errorf("%d extensions in ten minutes, want one every five seconds", n)
			}
		}, reactor("ModifyAckDeadline", func(any) (bool, any, error) { pulled.Add(1); return false, nil, nil }))
	})
	t.Run("are_kept_although_extensions_fail", func(t *testing.T) {
		t.Parallel()
		var calls atomic.Int32
		inBubble(t, func(w *world) {
			w.dispatch(&pubsubpb.Subscription{
				RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(600 * time.Second)},
			}, inTurn(500), pushfake.Options{})
			w.publish(text("a"))
			time.Sleep(4500 * time.Millisecond)
			w.publish(text("b"))
			for range 60 {
				time.Sleep(1700 * time.Millisecond)
				if left := w.pull(subName); len(left) != 0 {
					w.Fatal("a lease was lost")
				}
			}
			if len(w.reported()) == 0 {
				w.Error("failed extensions were not reported")
			}
		}, reactor("ModifyAckDeadline", func(any) (bool, any, error) {
			if calls.Add(1)%3 != 0 {
				return true, &emptypb.Empty{}, status.Error(codes.Unavailable, "not now")
			}
			return false, nil, nil
		}))
	})
	t.Run("a_lost_one_is_taken_up_again", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			w.dispatch(&pubsubpb.Subscription{
				RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(time.Minute)},
			}, inTurn(500, 204), pushfake.Options{})
			w.publish(text("a"))
			time.Sleep(5 * time.Minute)
			var attempts []int
			for _, d := range w.delivered() {
				attempts = append(attempts, d.Attempt)
			}
			if diff := cmp.Diff([]int{1, 2}, attempts); diff != "" {
				w.Errorf("attempts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]time.Duration{time.Minute}, w.gaps(100)); diff != "" {
				w.Errorf("time between attempts (-want +got):\n%s", diff)
			}
			// pstest takes no acknowledgement by an old ack ID.
			if left := w.pull(subName); len(left) != 0 {
				w.Error("acknowledged by an ack ID that was no longer valid")
			}
			if len(w.reported()) == 0 {
				w.Error("failed extensions were not reported")
			}
		}, reactor("ModifyAckDeadline", func(any) (bool, any, error) {
			return true, &emptypb.Empty{}, status.Error(codes.Unavailable, "no extensions")
		}))
	})
}

func TestBackendErrors(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Pull", "Acknowledge"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			failures := new(atomic.Int32)
			failures.Store(9)
			var mu sync.Mutex
			var times []time.Time
			inBubble(t, func(w *world) {
				w.subscribe(&pubsubpb.Subscription{Name: subName, Topic: topicName, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint}})
				w.publish(text("a"))
				w.resume(inTurn(204), pushfake.Options{})
				time.Sleep(2 * time.Minute)
				if got := w.delivered(); len(got) != 1 || !got[0].Acked {
					w.Errorf("deliveries: %+v, want one", got)
				}
				if left := w.pull(subName); len(left) != 0 {
					w.Error("never acknowledged")
				}
				errs := w.reported()
				if len(errs) != 9 || status.Code(errs[0]) != codes.PermissionDenied {
					w.Errorf("reported: %v", errs)
				}
				mu.Lock()
				defer mu.Unlock()
				var gaps []time.Duration
				for i := range len(times) - 1 {
					gaps = append(gaps, times[i+1].Sub(times[i]).Round(time.Millisecond))
				}
				want := []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000}
				for i := range want {
					want[i] *= time.Millisecond
				}
				if diff := cmp.Diff(want, gaps[:min(len(want), len(gaps))]); diff != "" {
					w.Errorf("time between calls (-want +got):\n%s", diff)
				}
			}, reactor(call, func(any) (bool, any, error) {
				mu.Lock()
				defer mu.Unlock()
				times = append(times, time.Now())
				if failures.Add(-1) >= 0 {
					return true, map[string]any{"Pull": &pubsubpb.PullResponse{}, "Acknowledge": &emptypb.Empty{}}[call], status.Error(codes.PermissionDenied, "not you")
				}
				return false, nil, nil
			}))
		})
	}
}

func TestAcknowledgedOnlyAfterTheEndpoint(t *testing.T) {
	t.Parallel()
	var answered, early atomic.Bool
	inBubble(t, func(w *world) {
		w.dispatch(&pubsubpb.Subscription{}, func(http.ResponseWriter, *http.Request) {
			time.Sleep(5 * time.Second)
			answered.Store(true)
		}, pushfake.Options{})
		w.publish(text("a"))
		time.Sleep(20 * time.Second)
		if early.Load() || !answered.Load() {
			w.Error("acknowledged to the backend before the endpoint had answered")
		}
	}, reactor("Acknowledge", func(any) (bool, any, error) {
		if !answered.Load() {
			early.Store(true)
		}
		return false, nil, nil
	}))
}

func TestClosing(t *testing.T) {
	t.Parallel()
	answerAfter := func(d time.Duration) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}
	}
	t.Run("close_hands_back_at_once", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			d := w.dispatch(&pubsubpb.Subscription{}, answerAfter(5*time.Second), pushfake.Options{MaxOutstanding: 1})
			w.publish(text("a"), text("b"), text("c"))
			time.Sleep(7 * time.Second) // the first is done, the second under way
			before := time.Now()
			if err := d.Close(); err != nil {
				w.Fatal(err)
			}
			if took := time.Since(before); took > 100*time.Millisecond {
				w.Errorf("Close took %s", took)
			}
			if left := w.pull(subName); len(left) != 2 {
				w.Errorf("%d messages handed back, want 2", len(left))
			}
			// A request that was cut off is no failed attempt.
			if n := len(w.seen()); n != 2 || len(w.delivered()) != 1 {
				w.Errorf("%d requests, want 2; deliveries %+v, want 1", n, w.delivered())
			}
		})
	})
	t.Run("shutdown_lets_requests_finish", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			d := w.dispatch(&pubsubpb.Subscription{}, answerAfter(5*time.Second), pushfake.Options{MaxOutstanding: 1})
			w.publish(text("a"), text("b"), text("c"))
			time.Sleep(7 * time.Second)
			if err := d.Shutdown(w.Context()); err != nil {
				w.Fatal(err)
			}
			if left := w.pull(subName); len(left) != 1 {
				w.Errorf("%d messages handed back, want 1", len(left))
			}
			if n := len(w.seen()); n != 2 {
				w.Errorf("%d requests, want 2", n)
			}
		})
	})
	t.Run("what_waits_is_handed_back", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			d := w.dispatch(&pubsubpb.Subscription{RetryPolicy: &pubsubpb.RetryPolicy{}}, inTurn(500), pushfake.Options{})
			w.publish(text("a"))
			time.Sleep(5 * time.Second)
			if err := d.Close(); err != nil {
				w.Fatal(err)
			}
			if left := w.pull(subName); len(left) != 1 {
				w.Errorf("%d messages handed back, want 1", len(left))
			}
		})
	})
	t.Run("a_deaf_backend_is_an_error", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(w *world) {
			d := w.dispatch(&pubsubpb.Subscription{}, inTurn(500), pushfake.Options{})
			w.publish(text("a"))
			time.Sleep(2 * time.Second)
			if err := d.Close(); status.Code(err) != codes.Unavailable {
				w.Errorf("Close: %v, want the backend's error", err)
			}
		}, reactor("ModifyAckDeadline", func(any) (bool, any, error) {
			return true, &emptypb.Empty{}, status.Error(codes.Unavailable, "gone")
		}))
	})
}

func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world) {
		random := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		acked := make(map[string]bool)
		flaky := func(rw http.ResponseWriter, r *http.Request) {
			var body struct{ Message struct{ MessageID string } }
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				w.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			switch random.IntN(8) {
			case 0:
				rw.WriteHeader(503)
			case 1:
				panic(http.ErrAbortHandler)
			default:
				acked[body.Message.MessageID] = true
			}
		}
		faults := func(*pubsubpb.PubsubMessage, int) pushfake.Fault {
			mu.Lock()
			defer mu.Unlock()
			return pushfake.Fault{LoseAck: random.IntN(20) == 0, Duplicate: random.IntN(20) == 0, Delay: time.Duration(random.IntN(30)) * time.Millisecond}
		}
		var messages []*pubsubpb.PubsubMessage
		for i := range 300 {
			messages = append(messages, &pubsubpb.PubsubMessage{Data: []byte("a"), OrderingKey: []string{"", "k", "l"}[i%3]})
		}
		// Started and ended again and again, the last time until all is done.
		w.subscribe(&pubsubpb.Subscription{Name: subName, Topic: topicName, EnableMessageOrdering: true, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint}})
		w.publish(messages...)
		for range 5 {
			d := w.resume(flaky, pushfake.Options{Faults: faults})
			time.Sleep(5 * time.Second)
			if err := d.Close(); err != nil {
				w.Fatal(err)
			}
		}
		w.resume(flaky, pushfake.Options{Faults: faults})
		for range 1000 {
			time.Sleep(time.Second)
			mu.Lock()
			done := len(acked) == len(messages)
			mu.Unlock()
			if done {
				break
			}
		}
		time.Sleep(5 * time.Minute)
		if len(acked) != len(messages) {
			w.Errorf("%d messages arrived, want %d", len(acked), len(messages))
		}
		if left := w.pull(subName); len(left) != 0 {
			w.Errorf("%d messages left", len(left))
		}
	})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	first := func(f pushfake.Fault) func(*pubsubpb.PubsubMessage, int) pushfake.Fault {
		return func(_ *pubsubpb.PubsubMessage, attempt int) pushfake.Fault {
			if attempt == 1 {
				return f
			}
			return pushfake.Fault{}
		}
	}
	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		fault pushfake.Fault
		check func(*world)
	}{
		"none": {pushfake.Fault{}, func(w *world) {
			if len(w.seen()) != 1 {
				w.Errorf("%d requests, want 1", len(w.seen()))
			}
		}},
		"lose_ack": {pushfake.Fault{LoseAck: true}, func(w *world) {
			d := w.delivered()
			if len(w.seen()) != 2 || d[0].Acked || !errors.Is(d[0].Err, pushfake.ErrAckLost) || !d[1].Acked {
				w.Errorf("%d requests, deliveries %+v", len(w.seen()), d)
			}
		}},
		"duplicate": {pushfake.Fault{Duplicate: true}, func(w *world) {
			if seen := w.seen(); len(seen) != 2 || seen[0].body != seen[1].body || len(w.delivered()) != 1 {
				w.Errorf("%d requests, deliveries %+v", len(seen), w.delivered())
			}
		}},
		"delay": {pushfake.Fault{Delay: 30 * time.Second}, func(w *world) {
			if seen := w.seen(); len(seen) != 1 || seen[0].at < 30*time.Second || seen[0].at > 32*time.Second {
				w.Errorf("requests: %v", seen)
			}
		}},
		"status": {pushfake.Fault{Status: 418}, func(w *world) {
			if len(w.seen()) != 1 || w.delivered()[0].Status != 418 || w.delivered()[0].Acked {
				w.Errorf("%d requests, deliveries %+v", len(w.seen()), w.delivered())
			}
		}},
		"header_replaced": {pushfake.Fault{Header: http.Header{"authorization": {"Bearer x"}}}, func(w *world) {
			if got := w.seen()[0].header["Authorization"]; !slices.Equal(got, []string{"Bearer x"}) {
				w.Errorf("Authorization: %q", got)
			}
		}},
		"header_removed": {pushfake.Fault{Header: http.Header{"Authorization": nil}}, func(w *world) {
			if got, ok := w.seen()[0].header["Authorization"]; ok {
				w.Errorf("Authorization: %q", got)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(w *world) {
				w.dispatch(&pubsubpb.Subscription{PushConfig: &pubsubpb.PushConfig{
					PushEndpoint: endpoint, AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{}},
				}}, inTurn(204), pushfake.Options{Faults: first(tc.fault), Issuer: issuer})
				w.publish(text("a"))
				time.Sleep(time.Minute)
				tc.check(w)
				if left := w.pull(subName); len(left) != 0 {
					w.Error("the message was not acknowledged in the end")
				}
			})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world) {
		w.subscribe(&pubsubpb.Subscription{Name: deadSub, Topic: deadTopic})
		for name, tc := range map[string]struct {
			push *pubsubpb.PushConfig
			sub  string
		}{
			"no_subscription": {&pubsubpb.PushConfig{PushEndpoint: endpoint}, "projects/p/subscriptions/none"},
			"no_endpoint":     {nil, deadSub},
			"not_a_url":       {&pubsubpb.PushConfig{PushEndpoint: "http://%zz"}, deadSub},
			"not_http":        {&pubsubpb.PushConfig{PushEndpoint: "ftp://push.test/"}, deadSub},
			"relative":        {&pubsubpb.PushConfig{PushEndpoint: "/push"}, deadSub},
			"no_issuer": {&pubsubpb.PushConfig{PushEndpoint: endpoint, AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
				OidcToken: &pubsubpb.PushConfig_OidcToken{}}}, deadSub},
		} {
			if d, err := pushfake.New(w.Context(), w.client, tc.sub, &pushfake.Options{Push: tc.push}); err == nil {
				d.Close()
				w.Errorf("%s: no error", name)
			}
		}
		if _, err := pushfake.New(w.Context(), nil, deadSub, nil); err == nil {
			w.Error("no client: no error")
		}
	})
}
