package pubsubserver

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"google.golang.org/protobuf/types/known/durationpb"
)

// TestLease is what becomes of one message after it was pulled.
func TestLease(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		do func(w *world, got []*pubsubpb.ReceivedMessage)
		// due is when the message comes again; 0: never.
		due time.Duration
	}{
		"lease_ends":        {func(*world, []*pubsubpb.ReceivedMessage) {}, 20 * time.Second},
		"nack":              {func(w *world, got []*pubsubpb.ReceivedMessage) { w.nack(subS, got) }, time.Nanosecond},
		"ack":               {func(w *world, got []*pubsubpb.ReceivedMessage) { w.ack(subS, got) }, 0},
		"ack_and_restart":   {func(w *world, got []*pubsubpb.ReceivedMessage) { w.ack(subS, got); w.reopen() }, 0},
		"extended":          {func(w *world, got []*pubsubpb.ReceivedMessage) { w.deadline(subS, got, 60) }, time.Minute},
		"shortened":         {func(w *world, got []*pubsubpb.ReceivedMessage) { w.deadline(subS, got, 1) }, time.Second},
		"restart":           {func(w *world, got []*pubsubpb.ReceivedMessage) { w.reopen() }, time.Nanosecond},
		"restart_then_ack":  {func(w *world, got []*pubsubpb.ReceivedMessage) { w.reopen(); w.ack(subS, got) }, 0},
		"ack_after_the_end": {func(w *world, got []*pubsubpb.ReceivedMessage) { time.Sleep(21 * time.Second); w.ack(subS, got) }, 0},
		"nack_after_ack":    {func(w *world, got []*pubsubpb.ReceivedMessage) { w.ack(subS, got); w.nack(subS, got) }, 0},
		"extended_too_late": {func(w *world, got []*pubsubpb.ReceivedMessage) {
			time.Sleep(21 * time.Second)
			w.deadline(subS, got, 600)
		}, time.Nanosecond},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.createSub(&pubsubpb.Subscription{AckDeadlineSeconds: 20})
				w.publish("m")
				test.do(w, w.expect(subS, "m"))
				if test.due == 0 {
					time.Sleep(time.Hour)
					w.expect(subS)
					w.expectInFile(0, 0)
					return
				}
				time.Sleep(test.due - time.Nanosecond)
				if test.due > time.Nanosecond {
					w.expect(subS)
				}
				time.Sleep(time.Nanosecond)
				w.expect(subS, "m")
			})
		})
	}
}

func TestSubscriptionsAreIndependent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		w.createSub(&pubsubpb.Subscription{Name: subOther})
		w.publish("a", "b")
		w.ack(subS, w.expect(subS, "a", "b"))
		w.expectInFile(2, 2)
		w.reopen()
		w.expect(subS)
		w.ack(subOther, w.expect(subOther, "a", "b"))
		w.expectInFile(0, 0)
		w.reopen()
		w.expect(subOther)
	})
}

func TestPublishGivesIDsAndTimes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		time.Sleep(1234567 * time.Nanosecond)
		ids := w.publish("a")
		w.reopen()
		ids = append(ids, w.publish("b")...)
		got := w.expect(subS, "a", "b")
		for i, r := range got {
			if r.Message.MessageId != ids[i] {
				w.Errorf("the ID is %s, Publish answered %s", r.Message.MessageId, ids[i])
			}
			if at := r.Message.PublishTime.AsTime(); at.Nanosecond() != 1_000_000 {
				w.Errorf("the publish time is %s, want milliseconds", at)
			}
		}
		if ids[0] == ids[1] {
			w.Error("an ID was given again after a restart")
		}
	})
}

// TestRetryPolicy has each delay from the last attempt's end, across a restart.
func TestRetryPolicy(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart_%v", restart), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.createSub(&pubsubpb.Subscription{RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(10 * time.Second), MaximumBackoff: duration(30 * time.Second)}})
				w.publish("m")
				w.nack(subS, w.expect(subS, "m"))
				for _, delay := range []time.Duration{10, 20, 30, 30} {
					if restart {
						w.reopen()
					}
					time.Sleep(delay*time.Second - time.Nanosecond)
					w.expect(subS)
					time.Sleep(time.Nanosecond)
					w.nack(subS, w.expect(subS, "m"))
				}
			})
		})
	}
}

func TestDeadLetter(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart_%v", restart), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.createSub(&pubsubpb.Subscription{DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topicDead}})
				// Another subscription counts for itself.
				w.createSub(&pubsubpb.Subscription{Name: subOther, DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topicDead, MaxDeliveryAttempts: 6}})
				w.createSub(&pubsubpb.Subscription{Name: subDead, Topic: topicDead})
				w.publish("a:m")
				var id string
				for attempt := range 5 {
					got := w.expect(subS, "a:m")
					if got[0].DeliveryAttempt != int32(attempt+1) {
						w.Fatalf("attempt %d is delivered as %d", attempt+1, got[0].DeliveryAttempt)
					}
					id = got[0].Message.MessageId
					if attempt%2 == 0 {
						w.nack(subS, got)
					} else {
						time.Sleep(10 * time.Second)
					}
					if restart {
						synctest.Wait()
						w.reopen()
					}
				}
				w.expect(subS)
				dead := w.expect(subDead, "a:m")[0].Message
				want := map[string]string{
					"CloudPubSubDeadLetterSourceDeliveryCount":       "5",
					"CloudPubSubDeadLetterSourceSubscription":        "sub",
					"CloudPubSubDeadLetterSourceSubscriptionProject": "p",
					"CloudPubSubDeadLetterSourceTopicPublishTime":    "2000-01-01T00:00:00.000+00:00",
				}
				if fmt.Sprint(dead.Attributes) != fmt.Sprint(want) || dead.OrderingKey != "a" || dead.MessageId == id {
					w.Errorf("the dead letter is %v, want a new ID, key a and attributes %v", dead, want)
				}
				if got := w.expect(subOther, "a:m"); got[0].DeliveryAttempt != 1 {
					w.Errorf("the other subscription's first attempt is %d", got[0].DeliveryAttempt)
				}
			})
		})
	}
}

func TestDeadLetterTopicIsMissing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topicDead}})
		w.publish("m")
		_, err := w.DeleteTopic(w.Context(), &pubsubpb.DeleteTopicRequest{Topic: topicDead})
		w.must(err)
		for range 4 {
			w.nack(subS, w.expect(subS, "m"))
		}
		queue := &Queue{w.subscriptions[subS]}
		leases, _, err := queue.Lease(1)
		w.must(err)
		if n := queue.Nack(leases[0]); n.DeadLettered || !n.RetryAt.Equal(time.Now().Add(burialRetry)) {
			w.Errorf("after the last attempt it is %+v", n)
		}
		time.Sleep(burialRetry)
		got := w.expect(subS, "m")
		w.createSub(&pubsubpb.Subscription{Name: subDead, Topic: topicDead})
		w.nack(subS, got)
		w.expect(subS)
		w.expect(subDead, "m")
	})
}

func TestOrdering(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart_%v", restart), func(t *testing.T) {
			inWorld(t, func(w *world) {
				again := func() {
					if restart {
						synctest.Wait()
						w.reopen()
					}
				}
				w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true, RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(10 * time.Second)}})
				w.publish("a:1", "a:2", "b:1", "x", "a:3", "b:2")
				got := w.expect(subS, "a:1", "a:2", "b:1", "x", "a:3", "b:2")
				w.publish("a:4")
				w.expect(subS) // one batch of a key at a time
				w.ack(subS, got[4:5])
				w.nack(subS, got[:1])
				w.ack(subS, got[1:4]) // a:2 and a:3 come again after a:1
				w.ack(subS, got[5:])
				again()
				w.expect(subS)
				time.Sleep(10 * time.Second)
				got = w.expect(subS, "a:1", "a:2", "a:3", "a:4")
				w.ack(subS, got[2:])
				w.nack(subS, got[1:2]) // a:1 can still be acknowledged
				w.expect(subS)
				w.ack(subS, got[:1])
				again()
				time.Sleep(10 * time.Second)
				got = w.expect(subS, "a:2", "a:3", "a:4")
				w.ack(subS, got[1:])
				w.ack(subS, got[:1])
				w.publish("a:5")
				w.ack(subS, w.expect(subS, "a:5"))
				w.expectInFile(0, 0)
			})
		})
	}
}

// TestOrderingOfRefused refuses the last of a batch twice as often as the second: each comes
// after its own delay, and never before those that were published before it.
func TestOrderingOfRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true, RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(10 * time.Second)}})
		w.publish("a:1", "a:2", "a:3")
		w.nack(subS, w.expect(subS, "a:1", "a:2", "a:3")[1:2])
		w.reopen() // a:1 is not acknowledged
		got := w.expect(subS, "a:1", "a:2", "a:3")
		w.nack(subS, got[2:])
		w.nack(subS, got[:1])
		time.Sleep(10 * time.Second)
		got = w.expect(subS, "a:1", "a:2", "a:3")
		w.nack(subS, got[2:])  // 20 s from now
		w.nack(subS, got[1:2]) // 10 s
		w.ack(subS, got[:1])
		time.Sleep(10 * time.Second)
		w.ack(subS, w.expect(subS, "a:2"))
		w.expect(subS)
		time.Sleep(10 * time.Second)
		w.ack(subS, w.expect(subS, "a:3"))
		w.expectInFile(0, 0)
	})
}

// TestOrderingWakes has a message become due that was refused behind another one, while
// nothing but a pull that waits would notice.
func TestOrderingWakes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true, AckDeadlineSeconds: 600, RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(10 * time.Second)}})
		w.publish("a:1", "a:2")
		got := w.expect(subS, "a:1", "a:2")
		begun := time.Now()
		next := make(chan *pubsubpb.PullResponse)
		go func() {
			r, err := w.Pull(w.Context(), &pubsubpb.PullRequest{Subscription: subS, MaxMessages: 10})
			w.must(err)
			next <- r
		}()
		synctest.Wait()
		w.nack(subS, got[1:])
		w.ack(subS, got[:1])
		if r := <-next; time.Since(begun) != 10*time.Second || len(r.ReceivedMessages) != 1 {
			t.Errorf("after %v came %q", time.Since(begun), dataOf(r.ReceivedMessages))
		}
		w.reopen() // which the attempt outlasts
		w.nack(subS, w.expect(subS, "a:2"))
		time.Sleep(19 * time.Second)
		w.expect(subS)
		time.Sleep(time.Second)
		w.expect(subS, "a:2")
	})
}

// TestOrderingOfStream gives a stream what is published while it has the messages before,
// also what it had no room for, and nothing of it to others.
func TestOrderingOfStream(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true})
		sub, one, other := w.subscriptions[subS], &stream{maxMessages: 3}, &stream{}
		expect := func(st *stream, want ...string) []*pubsubpb.ReceivedMessage {
			t.Helper()
			got, _, err := sub.pull(10, 10*time.Second, st)
			w.must(err)
			if !slices.Equal(dataOf(got), want) {
				t.Fatalf("it got %q, want %q", dataOf(got), want)
			}
			return got
		}
		w.publish("a:1")
		got := expect(one, "a:1")
		w.publish("a:2", "a:3", "a:4", "b:1", "a:5")
		expect(other, "b:1")
		got = append(got, expect(one, "a:2", "a:3")...)
		w.ack(subS, got[1:3])
		got = append(got[:1], expect(one, "a:4", "a:5")...)
		w.publish("a:6")
		expect(one)
		expect(other)
		w.ack(subS, got)
		w.ack(subS, expect(other, "a:6"))
		// What waits longer comes before what there was no room for.
		w.publish("x")
		queue := &Queue{sub}
		x, _, err := queue.Lease(1)
		w.must(err)
		time.Sleep(time.Second)
		w.publish("a:7", "a:8", "a:9")
		got = expect(one, "a:7", "a:8", "a:9")
		w.publish("a:10")
		expect(other)
		w.ack(subS, got[2:])
		queue.Release(x[0])
		w.ack(subS, expect(one, "x"))
		w.nack(subS, got[:1])
		got = expect(one, "a:7", "a:8", "a:9")
		w.ack(subS, got[2:])
		expect(one, "a:10")
	})
}

// TestOrderingOfOldLease acknowledges what had come before it came to somebody else, too.
func TestOrderingOfOldLease(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true})
		w.publish("a:1", "a:2", "a:3")
		before := w.expect(subS, "a:1", "a:2", "a:3")
		w.nack(subS, before[:1])
		got := w.expect(subS, "a:1", "a:2", "a:3")
		w.ack(subS, before[2:])
		w.ack(subS, got[:2])
		time.Sleep(10 * time.Second)
		w.expect(subS, "a:3")
	})
}

// TestOrderingTakesTurns has a refused batch not come before what waits longer.
func TestOrderingTakesTurns(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true})
		w.publish("a:1", "a:2")
		got := w.expect(subS, "a:1", "a:2")
		time.Sleep(time.Second)
		w.publish("b:1")
		time.Sleep(time.Second)
		w.nack(subS, got[:1])
		w.ack(subS, got[:1])
		for _, want := range []string{"b:1", "a:2"} {
			r, err := w.Pull(w.Context(), pullNow(subS, 1))
			w.must(err)
			if !slices.Equal(dataOf(r.ReceivedMessages), []string{want}) {
				t.Errorf("pulled %q, want %q", dataOf(r.ReceivedMessages), want)
			}
			w.ack(subS, r.ReceivedMessages)
		}
	})
}

// fail makes a commit of writes that fails.
func (w *world) fail(writes ...*write) {
	w.Helper()
	errs := w.commit(w.Context(), append(writes, &write{apply: func(tx *transaction) error { return tx.Rollback() }}))
	if errs[0] == nil {
		w.Fatal("the commit did not fail")
	}
}

// TestAcknowledgementIsNotWritten has messages come again in order whose
// acknowledgements could not be written, before and after a restart.
func TestAcknowledgementIsNotWritten(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"all leased", "none leased since a restart", "the first leased since a restart"} {
		t.Run(state, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true})
				w.publish("a:1", "x", "a:2", "a:3")
				got := w.expect(subS, "a:1", "x", "a:2", "a:3")
				acked := got[:3]
				if state != "all leased" {
					w.reopen()
				}
				if state == "the first leased since a restart" {
					_, err := w.Pull(w.Context(), pullNow(subS, 1))
					w.must(err)
					w.expect(subS, "x")
					acked = got[3:] // a:2 is not acknowledged
				}
				ids, err := parseAckIDs(ackIDs(acked))
				w.must(err)
				slices.Reverse(ids)
				sub := w.subscriptions[subS]
				w.mu.Lock()
				settling := sub.settling(sub.acknowledgeAll(ids), sub.ID)
				w.mu.Unlock()
				w.fail(settling)
				time.Sleep(10 * time.Second) // until nothing is leased
				again := w.pull(subS)
				data := slices.DeleteFunc(dataOf(again), func(s string) bool { return s == "x" })
				if !slices.Equal(data, []string{"a:1", "a:2", "a:3"}) || len(again) != 4 {
					t.Errorf("then came %q", dataOf(again))
				}
				w.ack(subS, again)
				w.expectInFile(0, 0)
			})
		})
	}
}

// TestAcknowledgementIsNotWrittenAndTheNextRefused keeps the order over a restart.
func TestAcknowledgementIsNotWrittenAndTheNextRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true, RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(time.Second)}})
		w.publish("a:1", "a:2")
		got := w.expect(subS, "a:1", "a:2")
		sub := w.subscriptions[subS]
		w.must(sub.answer(&pubsubpb.StreamingPullRequest{AckIds: ackIDs(got[:1])}))
		w.mu.Lock()
		writes := w.takeUnsettled()
		for _, d := range sub.deliveries {
			sub.nack(d, w.clock.Now())
		}
		for _, settling := range writes {
			settling.done(errClosing)
		}
		w.mu.Unlock()
		synctest.Wait()
		w.reopen()
		time.Sleep(time.Second)
		w.expect(subS, "a:1", "a:2")
	})
}

// TestPublishedAfterAFailure loses nothing that is published to a subscription which was
// created after commits had failed.
func TestPublishedAfterAFailure(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{Name: subOther})
		p, err := newPublishing([]*pubsubpb.PubsubMessage{{Data: []byte("1")}, {Data: []byte("2")}})
		w.must(err)
		w.fail(&write{apply: func(tx *transaction) error { return p.apply(w.Server, w.topics[topicT], tx) }, done: p.done})
		w.createSub(&pubsubpb.Subscription{})
		w.reopen()
		w.publish("3", "4")
		w.reopen()
		w.expect(subS, "3", "4")
	})
}

// TestOrderingOfOutdated has a message become too old behind one that somebody has.
func TestOrderingOfOutdated(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: true, MessageRetentionDuration: duration(10 * time.Minute)})
		w.publish("a:1", "a:2", "a:3")
		got := w.expect(subS, "a:1", "a:2", "a:3")
		w.nack(subS, got[1:2])
		w.deadline(subS, got[:1], 600)
		time.Sleep(599 * time.Second)
		w.deadline(subS, got[:1], 600)
		time.Sleep(5 * time.Minute)
		w.expectInFile(1, 0)
		w.ack(subS, got[:1])
		w.expectInFile(0, 0)
	})
}

func TestWithoutOrdering(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		w.publish("a:1", "a:2", "a:3")
		w.expect(subS, "a:1", "a:2", "a:3")
	})
}

// TestRefusedWaitsItsTurn has a message that is always refused not keep back
// the others.
func TestRefusedWaitsItsTurn(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		w.publish("1", "2", "3")
		var got []string
		for range 6 {
			r, err := w.Pull(w.Context(), pullNow(subS, 1))
			w.must(err)
			got = append(got, dataOf(r.ReceivedMessages)...)
			w.nack(subS, r.ReceivedMessages)
			time.Sleep(time.Millisecond)
		}
		if want := []string{"1", "2", "3", "1", "2", "3"}; !slices.Equal(got, want) {
			w.Errorf("delivered %q, want %q", got, want)
		}
	})
}

func TestRetention(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sub  *pubsubpb.Subscription
		keep time.Duration
	}{
		"default":    {&pubsubpb.Subscription{}, 7 * day},
		"shortest":   {&pubsubpb.Subscription{MessageRetentionDuration: duration(10 * time.Minute)}, 10 * time.Minute},
		"longest":    {&pubsubpb.Subscription{MessageRetentionDuration: duration(31 * day), ExpirationPolicy: &pubsubpb.ExpirationPolicy{}}, 31 * day},
		"after_nack": {&pubsubpb.Subscription{MessageRetentionDuration: duration(time.Hour), Labels: map[string]string{"nack": ""}}, time.Hour},
		"ordered":    {&pubsubpb.Subscription{MessageRetentionDuration: duration(time.Hour), EnableMessageOrdering: true, Labels: map[string]string{"nack": ""}}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				_, nack := test.sub.Labels["nack"]
				w.createSub(test.sub)
				w.publish("a:1", "a:2")
				time.Sleep(test.keep - time.Second)
				if nack {
					w.nack(subS, w.pull(subS))
				}
				if n, _, err := w.Backlog(subS); n != 2 || err != nil {
					w.Fatalf("just before the end there are %d messages (%v), want 2", n, err)
				}
				w.reopen()
				time.Sleep(time.Second)
				w.expect(subS)
				time.Sleep(houseworkEvery)
				w.expectInFile(0, 0)
			})
		})
	}
}

func TestExpiration(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{ExpirationPolicy: &pubsubpb.ExpirationPolicy{Ttl: duration(day)}})
		w.createSub(&pubsubpb.Subscription{Name: subOther, ExpirationPolicy: &pubsubpb.ExpirationPolicy{}})
		w.publish("m")
		time.Sleep(day - time.Nanosecond)
		w.expect(subS, "m") // which is activity
		time.Sleep(day - time.Nanosecond)
		w.publish("m") // which is none
		time.Sleep(time.Nanosecond)
		if _, err := w.GetSubscription(w.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: subS}); status.Code(err) != codes.NotFound {
			w.Errorf("GetSubscription of an expired one: %v, want NotFound", err)
		}
		w.createSub(&pubsubpb.Subscription{}) // the name is free
		w.expect(subS)
		time.Sleep(400 * day)
		if _, err := w.GetSubscription(w.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: subOther}); err != nil {
			w.Errorf("GetSubscription of one that never expires: %v", err)
		}
		w.expectInFile(0, 0)
	})
}

// TestWithoutSubscription has nothing stored that nobody will get.
func TestWithoutSubscription(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createTopic(&pubsubpb.Topic{Name: topicT})
		w.publish("early")
		w.expectInFile(0, 0)
		w.createSub(&pubsubpb.Subscription{Filter: "attributes:a"})
		w.publish("filtered")
		w.expectInFile(0, 0)
		w.expect(subS)
	})
}

func TestEndings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(w *world) error
		code codes.Code // of a pull that waits and of one that comes later
	}{
		"deleted": {func(w *world) error {
			_, err := w.DeleteSubscription(w.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: subS})
			return err
		}, codes.NotFound},
		"detached": {func(w *world) error {
			_, err := w.DetachSubscription(w.Context(), &pubsubpb.DetachSubscriptionRequest{Subscription: subS})
			return err
		}, codes.FailedPrecondition},
		"pushed": {func(w *world) error {
			_, err := w.ModifyPushConfig(w.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: subS, PushConfig: &pubsubpb.PushConfig{PushEndpoint: "http://localhost/"}})
			return err
		}, codes.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.createSub(&pubsubpb.Subscription{})
				w.publish("leased")
				leased := w.expect(subS, "leased")
				ended := make(chan error)
				go func() {
					_, err := w.Pull(w.Context(), &pubsubpb.PullRequest{Subscription: subS, MaxMessages: 1})
					ended <- err
				}()
				synctest.Wait()
				w.must(test.end(w))
				if err := <-ended; status.Code(err) != test.code {
					w.Errorf("the waiting Pull: %v, want %v", err, test.code)
				}
				for range 2 {
					_, err := w.Pull(w.Context(), &pubsubpb.PullRequest{Subscription: subS, MaxMessages: 1})
					if status.Code(err) != test.code {
						w.Errorf("a later Pull: %v, want %v", err, test.code)
					}
					w.reopen()
				}
				_, err := w.Acknowledge(w.Context(), &pubsubpb.AcknowledgeRequest{Subscription: subS, AckIds: ackIDs(leased)})
				if err != nil && status.Code(err) != codes.NotFound {
					w.Errorf("acknowledging what was leased: %v", err)
				}
				w.expectInFile(0, 0)
			})
		})
	}
}

func TestDeletedTopic(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		w.publish("1", "2")
		_, err := w.DeleteTopic(w.Context(), &pubsubpb.DeleteTopicRequest{Topic: topicT})
		w.must(err)
		w.reopen()
		w.createTopic(&pubsubpb.Topic{Name: topicT}) // another topic of this name
		w.publish("3")
		sub, err := w.GetSubscription(w.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: subS})
		w.must(err)
		if sub.Topic != "_deleted-topic_" {
			w.Errorf("the topic is %s", sub.Topic)
		}
		w.ack(subS, w.expect(subS, "1", "2"))
		w.expectInFile(0, 0)
		list, err := w.ListTopicSubscriptions(w.Context(), &pubsubpb.ListTopicSubscriptionsRequest{Topic: topicT})
		if err != nil || len(list.Subscriptions) != 0 {
			w.Errorf("the new topic has subscriptions %v (%v)", list.GetSubscriptions(), err)
		}
	})
}

func TestPullWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		start := time.Now()
		go func() {
			time.Sleep(time.Minute)
			w.publish("m")
		}()
		for range 2 { // published after a minute, due again when its lease ends
			r, err := w.Pull(w.Context(), &pubsubpb.PullRequest{Subscription: subS, MaxMessages: 10})
			if err != nil || len(r.ReceivedMessages) != 1 {
				w.Fatalf("Pull gave %v, %v", r, err)
			}
		}
		if took := time.Since(start); took != 70*time.Second {
			w.Errorf("both came after %s, want 70 s", took)
		}
	})
}

func TestSettingsTakeEffect(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		w.publish("m")
		_, err := w.UpdateSubscription(w.Context(), &pubsubpb.UpdateSubscriptionRequest{
			Subscription: &pubsubpb.Subscription{Name: subS, AckDeadlineSeconds: 30, RetryPolicy: &pubsubpb.RetryPolicy{}},
			UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"ack_deadline_seconds", "retry_policy"}},
		})
		w.must(err)
		w.expect(subS, "m")
		time.Sleep(30*time.Second + 10*time.Second - time.Nanosecond)
		w.expect(subS)
		time.Sleep(time.Nanosecond)
		w.expect(subS, "m")
	})
}

// TestStartPushing: what has an endpoint by then is pushed from then on, to the endpoint
// that it has then.
func TestStartPushing(t *testing.T) {
	inWorld(t, func(w *world) {
		pushed := map[string]string{}
		to := func(endpoint string) *pubsubpb.PushConfig { return &pubsubpb.PushConfig{PushEndpoint: endpoint} }
		w.createSub(&pubsubpb.Subscription{PushConfig: to("http://127.0.0.1:1/earlier")})
		w.createSub(&pubsubpb.Subscription{Name: subOther})
		w.createSub(&pubsubpb.Subscription{Name: subDead, PushConfig: to("http://127.0.0.1:1/deleted")})
		_, err := w.ModifyPushConfig(w.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: subS, PushConfig: to("http://127.0.0.1:1/now")})
		w.must(err)
		_, err = w.DeleteSubscription(w.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: subDead})
		w.must(err)
		w.StartPushing(func(settings *pubsubpb.Subscription, _ *Queue) func() {
			pushed[settings.Name] = settings.PushConfig.PushEndpoint
			return func() { delete(pushed, settings.Name) }
		})
		if diff := cmp.Diff(map[string]string{subS: "http://127.0.0.1:1/now"}, pushed); diff != "" {
			w.Error(diff)
		}
		_, err = w.ModifyPushConfig(w.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: subOther, PushConfig: to("http://127.0.0.1:1/later")})
		w.must(err)
		_, err = w.DeleteSubscription(w.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: subS})
		w.must(err)
		if diff := cmp.Diff(map[string]string{subOther: "http://127.0.0.1:1/later"}, pushed); diff != "" {
			w.Error(diff)
		}
	})
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		policy   *pubsubpb.RetryPolicy
		attempts int
		want     time.Duration
	}{
		"no_policy":         {nil, 9, 0},
		"default_minimum":   {&pubsubpb.RetryPolicy{}, 1, 10 * time.Second},
		"default_maximum":   {&pubsubpb.RetryPolicy{}, 7, 10 * time.Minute},
		"many_attempts":     {&pubsubpb.RetryPolicy{}, 1 << 30, 10 * time.Minute},
		"minimum_of_0":      {&pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(0)}, 9, 0},
		"minimum_only":      {&pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(time.Second)}, 3, 4 * time.Second},
		"maximum_only":      {&pubsubpb.RetryPolicy{MaximumBackoff: durationpb.New(15 * time.Second)}, 2, 15 * time.Second},
		"negative_is_no_go": {&pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(-time.Second)}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := RetryDelay(tc.policy, tc.attempts); got != tc.want {
				t.Errorf("delay after attempt %d: %s, want %s", tc.attempts, got, tc.want)
			}
		})
	}
}
