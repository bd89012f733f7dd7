package pubsubserver

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// state returns what the server knows, but for what a restart changes.
func (w *world) state() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	text := ""
	var topics []*topic
	for _, t := range w.topicIDs {
		if len(t.entries)-t.deleted > 0 || t.pb != nil {
			topics = append(topics, t)
		}
	}
	slices.SortFunc(topics, func(a, b *topic) int { return int(a.ID) - int(b.ID) })
	for _, t := range topics {
		text += fmt.Sprintf("topic %d %v:", t.ID, t.keep)
		for _, e := range t.entries {
			if e.refs >= 0 {
				text += fmt.Sprintf(" %d(%d)", e.seq, e.refs)
			}
		}
		text += "\n"
	}
	for _, name := range []string{subS, subOther, subDead} {
		if sub := w.subscriptions[name]; sub != nil {
			seqs := sub.unacked()
			text += fmt.Sprintf("%s %d: %v\n", name, sub.ID, seqs)
			var oldest time.Time
			if len(seqs) > 0 {
				oldest = time.Unix(0, sub.topic.find(seqs[0]).time)
			}
			owned := map[*stream]int64{}
			for _, d := range sub.deliveries {
				owned[d.owner]++
			}
			delete(owned, nil)
			for st, n := range owned {
				if st.messages != n {
					w.Errorf("%s: a stream counts %d messages and has %d", name, st.messages, n)
				}
			}
			if len(sub.timed) > 0 && (sub.alarm.IsZero() || sub.alarm.After(time.Unix(0, sub.timed[0].at))) {
				w.Errorf("%s: nothing wakes it at %v", name, time.Unix(0, sub.timed[0].at))
			}
			if n := sub.backlog(); n != len(seqs) || !sub.oldest().Equal(oldest) {
				w.Errorf("%s: the backlog is %d, the oldest of %v; want %d of %v", name, n, sub.oldest(), len(seqs), oldest)
			}
		}
	}
	return text
}

// ordered returns what can come of each ordering key, in order: what is not acknowledged,
// but for what st has and what is becoming a dead letter. It is nil where the subscription
// has no ordering.
func (w *world) ordered(name string, st *stream) map[uint64][]string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	sub := w.subscriptions[name]
	if !sub.pb.EnableMessageOrdering {
		return nil
	}
	keys := map[uint64][]string{}
	for _, seq := range sub.unacked() {
		d := sub.deliveries[seq]
		if d == nil || d.state != stateDead && d.state != stateAcked && (d.state != stateLeased || d.owner != st || st == nil) {
			key := sub.topic.find(seq).key
			keys[key] = append(keys[key], fmt.Sprint(seq))
		}
	}
	return keys
}

// TestAnyHistory does anything in any order: each message is in one place of
// each subscription that needs it, a pull gets the first ones of an ordering key in order,
// and a restart finds what was there before.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, func(w *world) {
				random := rand.New(rand.NewPCG(seed, 0))
				w.createSub(&pubsubpb.Subscription{EnableMessageOrdering: seed%2 == 0, RetainAckedMessages: seed%3 == 0,
					RetryPolicy:      &pubsubpb.RetryPolicy{MinimumBackoff: duration(time.Duration(seed%5) * time.Second)},
					DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topicDead}})
				w.createSub(&pubsubpb.Subscription{Name: subOther, Filter: "NOT attributes:a"})
				w.createSub(&pubsubpb.Subscription{Name: subDead, Topic: topicDead})
				leased := map[string][]*pubsubpb.ReceivedMessage{}
				subs := []string{subS, subOther, subDead}
				streams := map[string][]*stream{}
				connect := func() {
					for _, name := range subs {
						streams[name] = []*stream{nil, {}, {maxMessages: 3}}
					}
				}
				connect()
				for step := range 300 {
					name := subs[random.IntN(len(subs))]
					some := leased[name]
					if n := len(some); n > 0 {
						some = slices.Clone(some[random.IntN(n):])
						random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
					}
					what := random.IntN(20)
					switch what {
					case 0, 1, 2, 3, 4:
						w.publish(fmt.Sprintf("%c:%d", 'a'+random.IntN(3), step))
					case 5, 6, 7, 8:
						st := streams[name][random.IntN(3)]
						keys := w.ordered(name, st)
						received, _, err := w.subscriptions[name].pull(1+random.IntN(6), 10*time.Second, st)
						w.must(err)
						for _, m := range received {
							for key, ids := range keys {
								switch i := slices.Index(ids, m.Message.MessageId); {
								case i == 0:
									keys[key] = ids[1:]
								case i > 0:
									w.Fatalf("step %d: pulled %s of %v", step, ids[i], ids)
								}
							}
						}
						leased[name] = append(leased[name], received...)
					case 9, 10, 11:
						w.ack(name, some)
					case 12, 13, 14:
						w.nack(name, some)
					case 15:
						time.Sleep(time.Duration(random.IntN(15)) * time.Second)
					case 16:
						_, err := w.Seek(w.Context(), &pubsubpb.SeekRequest{Subscription: name, Target: &pubsubpb.SeekRequest_Time{
							Time: timestamppb.New(time.Now().Add(time.Duration(random.IntN(30)-25) * time.Second))}})
						w.must(err)
					case 17:
						_, _ = w.DeleteSnapshot(w.Context(), &pubsubpb.DeleteSnapshotRequest{Snapshot: snapA})
						w.snap()
					case 18:
						_, _ = w.Seek(w.Context(), &pubsubpb.SeekRequest{Subscription: subS, Target: &pubsubpb.SeekRequest_Snapshot{Snapshot: snapA}})
					case 19:
						before := w.state()
						w.reopen()
						connect()
						if after := w.state(); after != before {
							w.Fatalf("step %d: before the restart\n%sand after it\n%s", step, before, after)
						}
					}
				}
				before := w.state()
				w.reopen()
				if after := w.state(); after != before {
					w.Fatalf("before the last restart\n%sand after it\n%s", before, after)
				}
				_, _ = w.DeleteSnapshot(w.Context(), &pubsubpb.DeleteSnapshotRequest{Snapshot: snapA})
				for _, name := range subs {
					_, err := w.DeleteSubscription(w.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: name})
					w.must(err)
				}
				w.expectInFile(0, 0)
			})
		})
	}
}
