package pubsubtest

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var publishRows = []Row{
	{
		Name: "publish_limits", Behaviour: "messages over a limit", Want: "all INVALID_ARGUMENT",
		Documented: "refused: neither data nor attributes, 0 or over 1,000 messages, over 10 MB, over 100 attributes, key over 256 bytes or empty, value over 1,024, ordering key over 1,024",
		observe: func(w *world) string {
			o, topic := &outcomes{want: codes.InvalidArgument}, w.topic()
			attributes := func(key, value string) *pubsubpb.PubsubMessage {
				return &pubsubpb.PubsubMessage{Data: []byte("x"), Attributes: map[string]string{key: value}}
			}
			many := make(map[string]string)
			for i := range 101 {
				many[fmt.Sprint(i)] = ""
			}
			for _, c := range []struct {
				name     string
				messages []*pubsubpb.PubsubMessage
			}{
				{"no_messages", nil},
				{"empty_message", []*pubsubpb.PubsubMessage{{}}},
				{"second_is_empty", []*pubsubpb.PubsubMessage{text("x"), {}}},
				{"1001_messages", slices.Repeat([]*pubsubpb.PubsubMessage{text("x")}, 1001)},
				{"over_10_megabytes", []*pubsubpb.PubsubMessage{{Data: bytes.Repeat([]byte("x"), 10_000_001)}}},
				{"101_attributes", []*pubsubpb.PubsubMessage{{Attributes: many}}},
				{"key_of_257", []*pubsubpb.PubsubMessage{attributes(strings.Repeat("k", 257), "v")}},
				{"empty_key", []*pubsubpb.PubsubMessage{attributes("", "v")}},
				{"value_of_1025", []*pubsubpb.PubsubMessage{attributes("k", strings.Repeat("v", 1025))}},
				{"ordering_key_of_1025", []*pubsubpb.PubsubMessage{keyed(strings.Repeat("k", 1025), "x")}},
			} {
				_, err := w.tryPublish(topic, c.messages...)
				o.add(c.name, err)
			}
			return o.String()
		},
	},
	{
		Name: "publish_goog_attributes", Behaviour: "attributes whose key begins with goog", Documented: "refused, but for googclient_, which Google's clients write", Want: "googx INVALID_ARGUMENT, googclient_traceparent OK",
		observe: func(w *world) string {
			topic := w.topic()
			try := func(key string) error {
				_, err := w.tryPublish(topic, &pubsubpb.PubsubMessage{Attributes: map[string]string{key: "v"}})
				return err
			}
			return fmt.Sprintf("googx %s, googclient_traceparent %s", codeOf(try("googx")), codeOf(try("googclient_traceparent")))
		},
	},
	{
		Name: "publish_mixed_keys", Behaviour: "two ordering keys in one request", Documented: "all messages of a request must have the same", Want: "INVALID_ARGUMENT",
		observe: func(w *world) string {
			_, err := w.tryPublish(w.topic(), keyed("a", "1"), keyed("b", "1"))
			return codeOf(err)
		},
	},
	{
		Name: "publish_largest", Behaviour: "messages at the limits", Documented: "taken: 1,000 messages; 100 attributes; keys of 256 and values of 1,024 bytes; 9.9 MB", Want: "all OK",
		observe: func(w *world) string {
			o, topic := &outcomes{want: codes.OK}, w.topic()
			hundred := make(map[string]string)
			for i := range 100 {
				hundred[strings.Repeat("k", 253)+fmt.Sprintf("%03d", i)] = strings.Repeat("v", 1024)
			}
			_, err := w.tryPublish(topic, slices.Repeat([]*pubsubpb.PubsubMessage{text("x")}, 1000)...)
			o.add("1000_messages", err)
			_, err = w.tryPublish(topic, &pubsubpb.PubsubMessage{Attributes: hundred})
			o.add("100_attributes", err)
			_, err = w.tryPublish(topic, keyed(strings.Repeat("k", 1024), "x"))
			o.add("ordering_key", err)
			_, err = w.tryPublish(topic, &pubsubpb.PubsubMessage{Data: bytes.Repeat([]byte("x"), 9_900_000)})
			o.add("9.9_megabytes", err)
			return o.String()
		},
	},
	{
		Name: "publish_sets_id_and_time", Behaviour: "message_id and publish_time", Documented: "set by Pub/Sub, whatever the publisher gives; IDs are unique in the topic",
		Want: "two IDs, as answered, not the publisher's; time now, in milliseconds",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			given := &pubsubpb.PubsubMessage{Data: []byte("a"), MessageId: "mine", PublishTime: timestamppb.New(time.Unix(1, 0))}
			ids := w.publish(topic, given, text("b"))
			got := w.pull(sub, 2, patience)
			seen := []string{got[0].Message.MessageId, got[len(got)-1].Message.MessageId}
			slices.Sort(ids)
			slices.Sort(seen)
			at := got[0].Message.PublishTime.AsTime()
			return fmt.Sprintf("%s IDs, %s, %s; time %s, %s", yes(len(slices.Compact(slices.Clone(ids))) == 2, "two", "one"),
				yes(slices.Equal(ids, seen), "as answered", "others than answered"), yes(slices.Contains(seen, "mine"), "the publisher's", "not the publisher's"),
				yes(w.now().Sub(at).Abs() < time.Hour, "now", "another"), yes(at.Nanosecond()%1e6 == 0, "in milliseconds", "finer"))
		},
	},
	{
		Name: "publish_keeps_content", Behaviour: "data, attributes and ordering key", Documented: "arrive as published", Want: "the same",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			sent := &pubsubpb.PubsubMessage{Data: []byte{0, 255, 10}, Attributes: map[string]string{"ключ": "🙂", "empty": ""}, OrderingKey: "a/b"}
			w.publish(topic, sent)
			got := w.one(sub).Message
			return yes(bytes.Equal(got.Data, sent.Data) && maps.Equal(got.Attributes, sent.Attributes) && got.OrderingKey == sent.OrderingKey, "the same", got.String())
		},
	},
	{
		Name: "subscription_starts_now", Behaviour: "what was published before the subscription", Documented: "is not delivered", Want: "after",
		observe: func(w *world) string {
			topic := w.topic()
			w.texts(topic, "before")
			sub := w.subscribe(topic)
			w.texts(topic, "after")
			return dataOf(w.pull(sub, 2, pause))
		},
	},
}

var pullRows = []Row{
	{
		Name: "pull_max_messages", Behaviour: "max_messages of Pull", Documented: "must be positive; at most so many come", Want: "0 INVALID_ARGUMENT, -1 INVALID_ARGUMENT, 2 of 5: 2",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a", "b", "c", "d", "e")
			_, zero := w.poll(sub, 0)
			_, negative := w.poll(sub, -1)
			got, err := w.poll(sub, 2)
			must("Pull", err)
			return fmt.Sprintf("0 %s, -1 %s, 2 of 5: %d", codeOf(zero), codeOf(negative), len(got))
		},
	},
	{
		Name: "pull_of_push_subscription", Behaviour: "Pull from a subscription with a push endpoint", Documented: "FAILED_PRECONDITION", Want: "FAILED_PRECONDITION",
		observe: func(w *world) string {
			_, err := w.poll(w.subscribe(w.topic(), pushTo("https://push.invalid/")), 1)
			return codeOf(err)
		},
	},
	{
		Name: "ack", Behaviour: "an acknowledged message", Documented: "does not come again; to acknowledge twice is no error", Want: "again OK, after the deadline nothing",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a")
			m := w.one(sub)
			w.ack(sub, m)
			_, again := w.subscriber.Acknowledge(w.ctx, &pubsubpb.AcknowledgeRequest{Subscription: sub, AckIds: []string{m.AckId}})
			w.expire()
			return fmt.Sprintf("again %s, after the deadline %s", codeOf(again), yes(len(w.pull(sub, 1, pause)) == 0, "nothing", "again"))
		},
	},
	{
		Name: "ack_ids", Behaviour: "acknowledgement IDs that are not valid", Documented: "INVALID_ARGUMENT", Want: "all INVALID_ARGUMENT",
		observe: func(w *world) string {
			o, sub := &outcomes{want: codes.InvalidArgument}, w.subscribe(w.topic())
			for name, ids := range map[string][]string{"none": nil, "malformed": {"not an ack ID"}} {
				_, err := w.subscriber.Acknowledge(w.ctx, &pubsubpb.AcknowledgeRequest{Subscription: sub, AckIds: ids})
				o.add("acknowledge_"+name, err)
				o.add("modify_"+name, w.modify(sub, 10, ids...))
			}
			slices.Sort(o.odd)
			return o.String()
		},
	},
	{
		Name: "nack", Behaviour: "a deadline of 0, without a retry policy", Documented: "the message comes again as soon as possible", Want: "a again within 5 s",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic, func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds = 600 })
			w.texts(topic, "a")
			w.nack(sub, w.one(sub))
			return dataOf(w.pull(sub, 1, 5*time.Second)) + " again within 5 s"
		},
	},
	{
		Name: "lease_expires", Behaviour: "a message that nobody acknowledges", Documented: "comes again after the deadline, not before", Want: "at first nothing, then a",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a")
			first := w.one(sub)
			early := w.pull(sub, 1, 5*time.Second)
			w.expire()
			again := w.pull(sub, 1, patience)
			return yes(len(early) == 0, "at first nothing", "at once again") + ", then " + dataOf(again) +
				yes(len(again) == 0 || again[0].Message.MessageId == first.Message.MessageId, "", " with another ID")
		},
	},
	{
		Name: "modify_deadline", Behaviour: "ModifyAckDeadline with 20 seconds on a lease of 10", Documented: "counts from now", Want: "after 11 s nothing, later a",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a")
			must("ModifyAckDeadline", w.modify(sub, 20, w.one(sub).AckId))
			w.expire()
			early := w.pull(sub, 1, 200*time.Millisecond)
			w.expire()
			return "after 11 s " + yes(len(early) == 0, "nothing", "again") + ", later " + dataOf(w.pull(sub, 1, patience))
		},
	},
	{
		Name: "modify_deadline_limits", Behaviour: "the deadline in ModifyAckDeadline", Documented: "0 to 600 seconds", Want: "-1 INVALID_ARGUMENT, 5 OK, 600 OK, 601 INVALID_ARGUMENT",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a")
			m, all := w.one(sub), make([]string, 0, 4)
			for _, n := range []int32{-1, 5, 600, 601} {
				all = append(all, fmt.Sprintf("%d %s", n, codeOf(w.modify(sub, n, m.AckId))))
			}
			return strings.Join(all, ", ")
		},
	},
	{
		Name: "delivery_attempt", Behaviour: "delivery_attempt of a pulled message", Documented: "1, 2, 3 … with a dead-letter policy; 0 without one", Want: "with 1 2 3, without 0 0 0",
		observe: func(w *world) string {
			attempts := func(with ...func(*pubsubpb.Subscription)) string {
				topic := w.topic()
				sub := w.subscribe(topic, with...)
				w.texts(topic, "a")
				var all []string
				for range 3 {
					m := w.one(sub)
					all = append(all, fmt.Sprint(m.DeliveryAttempt))
					w.nack(sub, m)
				}
				return strings.Join(all, " ")
			}
			dead := w.topic()
			return "with " + attempts(func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 10) }) + ", without " + attempts()
		},
	},
	{
		Name: "delivery_attempt_by_expiry", Behaviour: "delivery_attempt after a deadline that passed", Documented: "counts it, as a refusal", Want: "1 2",
		observe: func(w *world) string {
			topic, dead := w.topic(), w.topic()
			sub := w.subscribe(topic, func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 10) })
			w.texts(topic, "a")
			first := w.one(sub)
			w.expire()
			return fmt.Sprintf("%d %d", first.DeliveryAttempt, w.one(sub).DeliveryAttempt)
		},
	},
	{
		Name: "delivery_attempts_apart", Behaviour: "attempts of two subscriptions of a topic", Documented: "are counted for each subscription", Want: "1 2, other 1",
		observe: func(w *world) string {
			topic, dead := w.topic(), w.topic()
			policy := func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 10) }
			sub, other := w.subscribe(topic, policy), w.subscribe(topic, policy)
			w.texts(topic, "a")
			first := w.one(sub)
			w.nack(sub, first)
			return fmt.Sprintf("%d %d, other %d", first.DeliveryAttempt, w.one(sub).DeliveryAttempt, w.one(other).DeliveryAttempt)
		},
	},
	{
		Name: "dead_letter", Behaviour: "a message refused maxDeliveryAttempts times", Want: "5 deliveries, then on the dead-letter topic with new ID, data, attributes and ordering key",
		Documented: "is published to the dead-letter topic, with a new ID",
		observe: func(w *world) string {
			n, dead, ids := w.deadLetter()
			m := dead.Message
			return fmt.Sprintf("%d deliveries, then on the dead-letter topic with %s ID%s%s%s", n, yes(m.MessageId != ids[0], "new", "the same"),
				yes(string(m.Data) == "a", ", data", ""), yes(m.Attributes["k"] == "v", ", attributes", ""), yes(m.OrderingKey == "key", " and ordering key", " and no ordering key"))
		},
	},
	{
		Name: "dead_letter_attributes", Behaviour: "attributes of a dead letter", Want: "DeliveryCount 5, Subscription the ID, SubscriptionProject, TopicPublishTime RFC 3339 with +00:00",
		Documented: "CloudPubSubDeadLetterSource and DeliveryCount, Subscription, SubscriptionProject, TopicPublishTime",
		observe: func(w *world) string {
			_, dead, _ := w.deadLetter()
			get := func(name string) string { return dead.Message.Attributes["CloudPubSubDeadLetterSource"+name] }
			published := get("TopicPublishTime")
			_, err := time.Parse(time.RFC3339, published)
			return fmt.Sprintf("DeliveryCount %s, Subscription %s, SubscriptionProject%s, TopicPublishTime %s", get("DeliveryCount"),
				yes(strings.HasPrefix(get("Subscription"), w.row), "the ID", get("Subscription")), yes(get("SubscriptionProject") == w.Project, "", " "+get("SubscriptionProject")),
				yes(err == nil, "RFC 3339", "of another form")+yes(strings.HasSuffix(published, "+00:00"), " with +00:00", " with Z"))
		},
	},
	{
		Name: "retry_policy", Behaviour: "times between deliveries with a retry policy of 1 to 4 seconds", Want: "none before the minimum, growing, none after the maximum",
		Documented: "exponential, from the minimum to the maximum",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic, func(s *pubsubpb.Subscription) {
				s.RetryPolicy = &pubsubpb.RetryPolicy{MinimumBackoff: seconds(1), MaximumBackoff: seconds(4)}
			})
			w.texts(topic, "a")
			w.nack(sub, w.one(sub))
			var gaps []time.Duration
			for range 4 {
				begun := time.Now()
				w.nack(sub, w.one(sub))
				gaps = append(gaps, time.Since(begun).Round(time.Second/2))
			}
			return fmt.Sprintf("%s, %s, %s", yes(slices.Min(gaps) >= time.Second, "none before the minimum", "some before the minimum"),
				yes(gaps[3] > gaps[0], "growing", "not growing"), yes(slices.Max(gaps) <= 5*time.Second, "none after the maximum", "some after the maximum"))
		},
	},
	{
		Name: "ordering", Behaviour: "messages of one ordering key", Documented: "come in the order in which they were published", Want: "1 2 3 4 5 6",
		observe: func(w *world) string {
			topic, sub := w.ordered()
			for i := range 6 {
				w.publish(topic, keyed("k", fmt.Sprint(i+1)))
			}
			var got []string
			for len(got) < 6 {
				batch := w.pull(sub, 1, patience)
				if len(batch) == 0 {
					break
				}
				got = append(got, dataOf(batch))
				w.ack(sub, batch...)
			}
			return strings.Join(got, " ")
		},
	},
	{
		Name: "ordering_batch", Behaviour: "Pull of several messages of one ordering key", Documented: "gets them together; one batch of a key at a time", Want: "1 2 3, and while they are out nothing, then 4 5",
		observe: func(w *world) string {
			topic, sub := w.ordered()
			w.publish(topic, keyed("k", "1"), keyed("k", "2"), keyed("k", "3"))
			batch := w.pull(sub, 3, patience)
			w.publish(topic, keyed("k", "4"), keyed("k", "5"))
			meanwhile := dataOf(w.pull(sub, 2, pause))
			w.ack(sub, batch...)
			return fmt.Sprintf("%s, and while they are out %s, then %s", dataOf(batch), cmp.Or(meanwhile, "nothing"), dataOf(w.pull(sub, 2, patience)))
		},
	},
	{
		Name: "ordering_batch_nack", Behaviour: "of a batch of one ordering key, the last is acknowledged and the first refused", Documented: "the later ones come again after it, also those that are acknowledged", Want: "1 2 3, then 1 2 3",
		observe: func(w *world) string {
			return w.batchAgain(patience, func(sub string, batch []*pubsubpb.ReceivedMessage) {
				w.ack(sub, batch[2])
				w.nack(sub, batch[0])
			})
		},
	},
	{
		Name: "ordering_batch_middle", Behaviour: "of a batch of one ordering key, the last is acknowledged, the second refused, the first acknowledged", Documented: "as before", Want: "1 2 3, then 2 3",
		observe: func(w *world) string {
			return w.batchAgain(pause, func(sub string, batch []*pubsubpb.ReceivedMessage) {
				w.ack(sub, batch[2])
				w.nack(sub, batch[1])
				w.ack(sub, batch[0])
			})
		},
	},
	{
		Name: "ordering_nack", Behaviour: "a refused message of an ordering key", Documented: "comes again before the later ones of its key, and those come again after it", Want: "a1, then a1 a2 a3",
		observe: func(w *world) string {
			topic, sub := w.ordered()
			w.publish(topic, keyed("a", "a1"), keyed("a", "a2"), keyed("a", "a3"))
			first := w.one(sub)
			w.nack(sub, first)
			var got []string
			for len(got) < 3 {
				batch := w.pull(sub, 1, patience)
				if len(batch) == 0 {
					break
				}
				got = append(got, dataOf(batch))
				w.ack(sub, batch...)
			}
			return dataOf([]*pubsubpb.ReceivedMessage{first}) + ", then " + strings.Join(got, " ")
		},
	},
	{
		Name: "ordering_keys_apart", Behaviour: "another key while one is refused", Documented: "is delivered", Want: "b1",
		observe: func(w *world) string {
			topic, sub := w.ordered()
			w.publish(topic, keyed("a", "a1"))
			w.one(sub) // and nobody acknowledges it
			w.publish(topic, keyed("b", "b1"))
			return dataOf(w.pull(sub, 1, 5*time.Second))
		},
	},
	{
		Name: "retention_drops", Behaviour: "messages older than the retention", Documented: "are dropped", Want: "first old, later nothing", NeedsClock: true,
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic, func(s *pubsubpb.Subscription) { s.MessageRetentionDuration = seconds(600) })
			w.texts(topic, "old")
			m := w.one(sub)
			w.nack(sub, m)
			w.advance(11 * time.Minute)
			return "first " + dataOf([]*pubsubpb.ReceivedMessage{m}) + ", later " + yes(len(w.pull(sub, 1, pause)) == 0, "nothing", "again")
		},
	},
	{
		Name: "kept_seven_days", Behaviour: "messages that nobody fetched for six days", Documented: "are kept for the retention, 7 days unless set", Want: "a b c", NeedsClock: true,
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a", "b", "c")
			w.advance(6 * day)
			got := strings.Fields(dataOf(w.pull(sub, 3, patience)))
			slices.Sort(got)
			return strings.Join(got, " ")
		},
	},
}

// ordered creates a topic and a subscription with message ordering.
func (w *world) ordered() (topic, sub string) {
	topic = w.topic()
	return topic, w.subscribe(topic, func(s *pubsubpb.Subscription) { s.EnableMessageOrdering = true })
}

// batchAgain pulls three messages of an ordering key together, and returns them, and what
// comes within wait after settle.
func (w *world) batchAgain(wait time.Duration, settle func(sub string, batch []*pubsubpb.ReceivedMessage)) string {
	topic, sub := w.ordered()
	w.publish(topic, keyed("k", "1"), keyed("k", "2"), keyed("k", "3"))
	batch := w.pull(sub, 3, patience)
	if len(batch) == 3 {
		settle(sub, batch)
	}
	return dataOf(batch) + ", then " + cmp.Or(dataOf(w.pull(sub, 3, wait)), "nothing")
}

// deadLetter refuses a message until it is a dead letter, and returns how often
// that was, the dead letter, and the message's IDs.
func (w *world) deadLetter() (int, *pubsubpb.ReceivedMessage, []string) {
	topic, dead := w.topic(), w.topic()
	graveyard := w.subscribe(dead)
	sub := w.subscribe(topic, func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 5) })
	ids := w.publish(topic, &pubsubpb.PubsubMessage{Data: []byte("a"), Attributes: map[string]string{"k": "v"}, OrderingKey: "key"})
	n := 0
	for {
		if got := w.pull(sub, 1, pause); len(got) > 0 {
			n++
			w.nack(sub, got...)
			continue
		}
		return n, w.one(graveyard), ids
	}
}

var streamRows = []Row{
	{
		Name: "stream", Behaviour: "StreamingPull", Documented: "delivers what was and what is published; acknowledges and refuses on the stream", Want: "a b, c refused and again, acknowledged ones not again",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			s := w.stream(&pubsubpb.StreamingPullRequest{Subscription: sub, StreamAckDeadlineSeconds: 10})
			w.texts(topic, "a")
			a := s.receive(1)
			w.texts(topic, "b")
			b := s.receive(1)
			s.send(&pubsubpb.StreamingPullRequest{AckIds: ackIDs(append(a, b...))})
			w.texts(topic, "c")
			c := s.receive(1)
			s.send(&pubsubpb.StreamingPullRequest{ModifyDeadlineAckIds: ackIDs(c), ModifyDeadlineSeconds: []int32{0}})
			again := s.receive(1)
			s.send(&pubsubpb.StreamingPullRequest{AckIds: ackIDs(again)})
			w.expire()
			return fmt.Sprintf("%s %s, %s refused and %s, acknowledged ones %s", dataOf(a), dataOf(b), dataOf(c),
				yes(dataOf(again) == "c", "again", "then "+dataOf(again)), yes(len(w.pull(sub, 1, pause)) == 0, "not again", "again"))
		},
	},
	{
		Name: "stream_ordering", Behaviour: "StreamingPull of messages of one ordering key while it has earlier ones", Documented: "one stream gets all of a key", Want: "1 2, then 3 4",
		observe: func(w *world) string {
			topic, sub := w.ordered()
			s := w.stream(&pubsubpb.StreamingPullRequest{Subscription: sub, StreamAckDeadlineSeconds: 10})
			w.publish(topic, keyed("k", "1"), keyed("k", "2"))
			first := s.receive(2)
			w.publish(topic, keyed("k", "3"), keyed("k", "4"))
			return dataOf(first) + ", then " + cmp.Or(dataOf(s.receiveFor(2, pause)), "nothing")
		},
	},
	{
		Name: "stream_requests", Behaviour: "requests of StreamingPull that are not valid", Want: "all INVALID_ARGUMENT; no such subscription NOT_FOUND",
		Documented: "end the stream with INVALID_ARGUMENT: deadline not 10 to 600, a subscription in a later request, lists of different length, IDs that are malformed",
		observe: func(w *world) string {
			o, sub := &outcomes{want: codes.InvalidArgument}, w.subscribe(w.topic())
			first := &pubsubpb.StreamingPullRequest{Subscription: sub, StreamAckDeadlineSeconds: 10}
			for _, c := range []struct {
				name     string
				requests []*pubsubpb.StreamingPullRequest
			}{
				{"no_subscription", []*pubsubpb.StreamingPullRequest{{StreamAckDeadlineSeconds: 10}}},
				{"deadline_9", []*pubsubpb.StreamingPullRequest{{Subscription: sub, StreamAckDeadlineSeconds: 9}}},
				{"deadline_601", []*pubsubpb.StreamingPullRequest{{Subscription: sub, StreamAckDeadlineSeconds: 601}}},
				{"subscription_twice", []*pubsubpb.StreamingPullRequest{first, {Subscription: sub}}},
				{"lengths", []*pubsubpb.StreamingPullRequest{first, {ModifyDeadlineAckIds: []string{"x"}}}},
				{"malformed_id", []*pubsubpb.StreamingPullRequest{first, {AckIds: []string{"not an ack ID"}}}},
			} {
				o.add(c.name, w.stream(c.requests...).end())
			}
			none := w.stream(&pubsubpb.StreamingPullRequest{Subscription: w.name("subscriptions"), StreamAckDeadlineSeconds: 10}).end()
			return o.String() + "; no such subscription " + codeOf(none)
		},
	},
	{
		Name: "stream_flow_control", Behaviour: "max_outstanding_messages of a stream", Documented: "no more come than so many that are not acknowledged", Want: "2, after an acknowledgement 1 more",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a", "b", "c", "d", "e")
			s := w.stream(&pubsubpb.StreamingPullRequest{Subscription: sub, StreamAckDeadlineSeconds: 60, MaxOutstandingMessages: 2})
			first := append(s.receive(2), s.receiveFor(3, pause)...)
			if len(first) == 0 {
				return "nothing"
			}
			s.send(&pubsubpb.StreamingPullRequest{AckIds: ackIDs(first[:1])})
			more := append(s.receiveFor(1, patience/3), s.receiveFor(4, pause)...)
			return fmt.Sprintf("%d, after an acknowledgement %d more", len(first), len(more))
		},
	},
	{
		Name: "stream_of_deleted_subscription", Behaviour: "a stream whose subscription is deleted", Documented: "ends with NOT_FOUND", Want: "NOT_FOUND",
		observe: func(w *world) string {
			sub := w.subscribe(w.topic())
			s := w.stream(&pubsubpb.StreamingPullRequest{Subscription: sub, StreamAckDeadlineSeconds: 10})
			s.receiveFor(1, 200*time.Millisecond)
			_, err := w.subscriber.DeleteSubscription(w.ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: sub})
			must("DeleteSubscription", err)
			return codeOf(s.end())
		},
	},
}

// stream is a StreamingPull whose answers are read as they come.
type stream struct {
	client   pubsubpb.Subscriber_StreamingPullClient
	messages chan *pubsubpb.ReceivedMessage
	ended    chan error
}

func (w *world) stream(requests ...*pubsubpb.StreamingPullRequest) *stream {
	client, err := w.subscriber.StreamingPull(w.ctx)
	must("StreamingPull", err)
	s := &stream{client: client, messages: make(chan *pubsubpb.ReceivedMessage, 1000), ended: make(chan error, 1)}
	for _, r := range requests {
		s.send(r)
	}
	go func() {
		for {
			answer, err := client.Recv()
			if err != nil {
				s.ended <- err
				return
			}
			for _, m := range answer.ReceivedMessages {
				s.messages <- m
			}
		}
	}()
	return s
}

func (s *stream) send(r *pubsubpb.StreamingPullRequest) {
	_ = s.client.Send(r) // what is wrong with the stream is what receiving returns
}

func (s *stream) receive(n int) []*pubsubpb.ReceivedMessage { return s.receiveFor(n, patience) }

// receiveFor returns n messages, or as many as came within wait.
func (s *stream) receiveFor(n int, wait time.Duration) []*pubsubpb.ReceivedMessage {
	var got []*pubsubpb.ReceivedMessage
	late := time.After(wait)
	for len(got) < n {
		select {
		case m := <-s.messages:
			got = append(got, m)
		case <-late:
			return got
		}
	}
	return got
}

// end returns the error with which the stream ends, or nil when it does not.
func (s *stream) end() error {
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience / 3):
		_ = s.client.CloseSend()
		return nil
	}
}

var seekRows = []Row{
	{
		Name: "seek_to_future", Behaviour: "Seek to a time to come", Documented: "acknowledges what is there", Want: "nothing, then new",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "old")
			w.seek(seekTo(sub, w.now().Add(time.Minute)))
			gone := w.pull(sub, 1, pause)
			w.seek(seekTo(sub, w.now().Add(-time.Second)))
			w.texts(topic, "new")
			got := strings.Fields(dataOf(w.pull(sub, 2, pause)))
			return yes(len(gone) == 0, "nothing", "old") + ", then " + yes(slices.Contains(got, "new"), "new", "nothing")
		},
	},
	{
		Name: "seek_to_future_after", Behaviour: "a message that is published before the time of such a Seek", Documented: "a seek marks every message received before its time as acknowledged, says the guide; only those retained then, says the reference", Want: "acknowledged",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.seek(seekTo(sub, w.now().Add(time.Minute)))
			w.texts(topic, "new")
			return yes(len(w.pull(sub, 1, pause)) == 0, "acknowledged", "delivered")
		},
	},
	{
		Name: "seek_before_creation", Behaviour: "Seek of a new subscription that retains, on a topic without retention", Documented: "what was published before it was created needs the topic's retention", Want: "nothing",
		observe: func(w *world) string {
			topic := w.topic()
			w.subscribe(topic) // keeps it
			w.texts(topic, "before")
			sub := w.subscribe(topic, func(s *pubsubpb.Subscription) { s.RetainAckedMessages = true })
			w.seek(seekTo(sub, w.now().Add(-10*time.Minute)))
			return yes(len(w.pull(sub, 1, pause)) == 0, "nothing", "before")
		},
	},
	{
		Name: "seek_to_past_retained", Behaviour: "Seek back with retain_acked_messages", Documented: "delivers acknowledged messages again", Want: "a, again a",
		observe: func(w *world) string { return w.seekBack(true) },
	},
	{
		Name: "seek_to_past_not_retained", Behaviour: "Seek back without retain_acked_messages", Documented: "acknowledged messages are gone", Want: "a, again nothing",
		observe: func(w *world) string { return w.seekBack(false) },
	},
	{
		Name: "seek_with_topic_retention", Behaviour: "Seek of a new subscription on a topic with retention", Documented: "delivers what was published before the subscription was created", Want: "before",
		observe: func(w *world) string {
			topic := w.topic(func(t *pubsubpb.Topic) { t.MessageRetentionDuration = durationpb.New(time.Hour) })
			w.texts(topic, "before")
			sub := w.subscribe(topic)
			if _, err := w.subscriber.Seek(w.ctx, seekTo(sub, w.now().Add(-10*time.Minute))); err != nil {
				return codeOf(err)
			}
			return yes(len(w.pull(sub, 1, 3*time.Second)) == 1, "before", "nothing")
		},
	},
	{
		Name: "snapshot", Behaviour: "Seek to a snapshot", Documented: "delivers again what was not acknowledged when it was created, and what came later", Want: "b c",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a")
			w.ack(sub, w.pull(sub, 1, patience)...)
			w.texts(topic, "b")
			snapshot := w.snapshot(sub)
			w.texts(topic, "c")
			w.ack(sub, w.pull(sub, 2, patience)...)
			w.seek(&pubsubpb.SeekRequest{Subscription: sub, Target: &pubsubpb.SeekRequest_Snapshot{Snapshot: snapshot.Name}})
			got := strings.Fields(dataOf(w.pull(sub, 3, pause)))
			slices.Sort(got)
			return strings.Join(got, " ")
		},
	},
	{
		Name: "snapshot_fields", Behaviour: "a snapshot", Documented: "has its topic and expires within 7 days; can be listed, labelled and deleted", Want: "topic kept, expires within 7 days, get OK, listed, of topic listed, labels k=v, delete OK, then NOT_FOUND",
		observe: func(w *world) string {
			topic := w.topic()
			s := w.snapshot(w.subscribe(topic))
			_, get := w.subscriber.GetSnapshot(w.ctx, &pubsubpb.GetSnapshotRequest{Snapshot: s.Name})
			list, err := w.subscriber.ListSnapshots(w.ctx, &pubsubpb.ListSnapshotsRequest{Project: "projects/" + w.Project, PageSize: 1000})
			listed := err == nil && slices.ContainsFunc(list.Snapshots, func(o *pubsubpb.Snapshot) bool { return o.Name == s.Name })
			ofTopic, err := w.publisher.ListTopicSnapshots(w.ctx, &pubsubpb.ListTopicSnapshotsRequest{Topic: topic})
			updated, _ := w.subscriber.UpdateSnapshot(w.ctx, &pubsubpb.UpdateSnapshotRequest{
				Snapshot: &pubsubpb.Snapshot{Name: s.Name, Labels: map[string]string{"k": "v"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
			})
			remove := func() error {
				_, err := w.subscriber.DeleteSnapshot(w.ctx, &pubsubpb.DeleteSnapshotRequest{Snapshot: s.Name})
				return err
			}
			expires := s.ExpireTime.AsTime().Sub(w.now())
			return fmt.Sprintf("topic %s, %s, get %s, %s, of topic %s, labels %s, delete %s, then %s", yes(s.Topic == topic, "kept", s.Topic),
				yes(expires > 6*day && expires <= 7*day+time.Minute, "expires within 7 days", "expires at another time"), codeOf(get), yes(listed, "listed", "not listed"),
				yes(err == nil && slices.Equal(ofTopic.Snapshots, []string{s.Name}), "listed", codeOf(err)), sorted(updated.GetLabels()), codeOf(remove()), codeOf(remove()))
		},
	},
	{
		Name: "snapshot_codes", Behaviour: "errors about snapshots and Seek", Documented: "NOT_FOUND for what does not exist, ALREADY_EXISTS for a second one, INVALID_ARGUMENT for no target; the snapshot must be of the same topic",
		Want: "of no subscription NOT_FOUND, create again ALREADY_EXISTS, seek to none NOT_FOUND, of another topic FAILED_PRECONDITION, no target INVALID_ARGUMENT",
		observe: func(w *world) string {
			sub, other := w.subscribe(w.topic()), w.subscribe(w.topic())
			there := w.snapshot(sub).Name
			create := func(name, sub string) error {
				_, err := w.subscriber.CreateSnapshot(w.ctx, &pubsubpb.CreateSnapshotRequest{Name: name, Subscription: sub})
				return err
			}
			seek := func(sub, snapshot string) error {
				r := &pubsubpb.SeekRequest{Subscription: sub, Target: &pubsubpb.SeekRequest_Snapshot{Snapshot: snapshot}}
				if snapshot == "" {
					r.Target = nil
				}
				_, err := w.subscriber.Seek(w.ctx, r)
				return err
			}
			return fmt.Sprintf("of no subscription %s, create again %s, seek to none %s, of another topic %s, no target %s",
				codeOf(create(w.name("snapshots"), w.name("subscriptions"))), codeOf(create(there, sub)), codeOf(seek(sub, w.name("snapshots"))), codeOf(seek(other, there)), codeOf(seek(sub, "")))
		},
	},
	{
		Name: "snapshot_expires", Behaviour: "a snapshot after its expire_time", Documented: "is deleted", Want: "NOT_FOUND", NeedsClock: true,
		observe: func(w *world) string {
			s := w.snapshot(w.subscribe(w.topic()))
			w.advance(7*day + time.Hour)
			var err error
			w.until(patience, func() bool {
				_, err = w.subscriber.GetSnapshot(w.ctx, &pubsubpb.GetSnapshotRequest{Snapshot: s.Name})
				return err != nil
			})
			return codeOf(err)
		},
	},
}

func seekTo(sub string, at time.Time) *pubsubpb.SeekRequest {
	return &pubsubpb.SeekRequest{Subscription: sub, Target: &pubsubpb.SeekRequest_Time{Time: timestamppb.New(at)}}
}

func (w *world) seek(r *pubsubpb.SeekRequest) {
	_, err := w.subscriber.Seek(w.ctx, r)
	must("Seek", err)
}

func (w *world) snapshot(sub string) *pubsubpb.Snapshot {
	s, err := w.subscriber.CreateSnapshot(w.ctx, &pubsubpb.CreateSnapshotRequest{Name: w.name("snapshots"), Subscription: sub})
	must("CreateSnapshot", err)
	return s
}

// seekBack acknowledges a message, seeks to before it and pulls again.
func (w *world) seekBack(retain bool) string {
	topic := w.topic()
	sub := w.subscribe(topic, func(s *pubsubpb.Subscription) { s.RetainAckedMessages = retain })
	w.texts(topic, "a")
	m := w.one(sub)
	w.ack(sub, m)
	w.seek(seekTo(sub, m.Message.PublishTime.AsTime().Add(-time.Minute)))
	return dataOf([]*pubsubpb.ReceivedMessage{m}) + ", again " + yes(len(w.pull(sub, 1, pause)) == 0, "nothing", "a")
}
