package pubsubserver

import (
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (w *world) seek(at time.Time) {
	w.Helper()
	_, err := w.Seek(w.Context(), &pubsubpb.SeekRequest{Subscription: subS, Target: &pubsubpb.SeekRequest_Time{Time: timestamppb.New(at)}})
	w.must(err)
}

func (w *world) snap() {
	w.Helper()
	_, err := w.CreateSnapshot(w.Context(), &pubsubpb.CreateSnapshotRequest{Name: snapA, Subscription: subS})
	w.must(err)
}

func (w *world) seekSnapshot() {
	w.Helper()
	_, err := w.Seek(w.Context(), &pubsubpb.SeekRequest{Subscription: subS, Target: &pubsubpb.SeekRequest_Snapshot{Snapshot: snapA}})
	w.must(err)
}

// TestSeek publishes 1 to 4, a minute apart, and acknowledges 1 and 3.
func TestSeek(t *testing.T) {
	t.Parallel()
	retain := &pubsubpb.Subscription{RetainAckedMessages: true}
	for name, test := range map[string]struct {
		sub   *pubsubpb.Subscription
		topic *pubsubpb.Topic
		do    func(w *world, start time.Time)
		want  []string
	}{
		"retained": {sub: retain, do: func(w *world, start time.Time) { w.seek(start) }, want: []string{"1", "2", "3", "4"}},
		"retained_by_topic": {topic: &pubsubpb.Topic{MessageRetentionDuration: duration(time.Hour)},
			do: func(w *world, start time.Time) { w.seek(start) }, want: []string{"1", "2", "3", "4"}},
		"before_creation": {topic: &pubsubpb.Topic{MessageRetentionDuration: duration(time.Hour)},
			do: func(w *world, start time.Time) { w.seek(start.Add(-time.Minute)) }, want: []string{"0", "1", "2", "3", "4"}},
		"retained_no_longer": {sub: &pubsubpb.Subscription{RetainAckedMessages: true, MessageRetentionDuration: duration(10 * time.Minute)},
			do: func(w *world, start time.Time) { time.Sleep(7*time.Minute + 30*time.Second); w.seek(start) }, want: []string{"3", "4"}},
		"not_retained":      {do: func(w *world, start time.Time) { w.seek(start) }, want: []string{"2", "4"}},
		"to_the_middle":     {sub: retain, do: func(w *world, start time.Time) { w.seek(start.Add(2 * time.Minute)) }, want: []string{"3", "4"}},
		"between":           {sub: retain, do: func(w *world, start time.Time) { w.seek(start.Add(2*time.Minute + 1)) }, want: []string{"4"}},
		"purge":             {do: func(w *world, _ time.Time) { w.seek(time.Now().Add(time.Nanosecond)) }},
		"purge_the_future":  {do: func(w *world, _ time.Time) { w.seek(time.Now().Add(time.Hour)); w.publish("5") }},
		"after_a_purge":     {do: func(w *world, _ time.Time) { w.seek(time.Now().Add(time.Hour)); time.Sleep(time.Hour); w.publish("5") }, want: []string{"5"}},
		"purge_and_back":    {sub: retain, do: func(w *world, start time.Time) { w.seek(time.Now().Add(time.Hour)); w.seek(start) }, want: []string{"1", "2", "3", "4"}},
		"later_ones_too":    {sub: retain, do: func(w *world, start time.Time) { w.seek(start); w.publish("5") }, want: []string{"1", "2", "3", "4", "5"}},
		"with_filter":       {sub: &pubsubpb.Subscription{RetainAckedMessages: true, Filter: "NOT attributes:a"}, do: func(w *world, start time.Time) { w.seek(start) }, want: []string{"1", "2", "3", "4"}},
		"leased_is_dropped": {do: func(w *world, _ time.Time) { w.expect(subS, "2", "4"); w.seek(time.Now().Add(time.Hour)) }},
		"snapshot":          {do: func(w *world, _ time.Time) { w.snap(); w.ack(subS, w.expect(subS, "2", "4")); w.seekSnapshot() }, want: []string{"2", "4"}},
		"snapshot_and_later": {do: func(w *world, _ time.Time) {
			w.snap()
			w.publish("5")
			w.ack(subS, w.expect(subS, "5", "2", "4")) // by since when they are due
			w.reopen()
			w.seekSnapshot()
		}, want: []string{"2", "4", "5"}},
		"snapshot_of_nothing": {do: func(w *world, _ time.Time) {
			w.ack(subS, w.expect(subS, "2", "4"))
			w.snap()
			w.publish("5")
			w.seekSnapshot()
		}, want: []string{"5"}},
		"snapshot_before_leased": {do: func(w *world, _ time.Time) {
			got := w.expect(subS, "2", "4")
			w.snap()
			w.seekSnapshot()
			w.ack(subS, got) // whose leases the seek has ended
		}, want: []string{"2", "4"}},
		"snapshot_twice": {sub: retain, do: func(w *world, start time.Time) {
			w.snap()
			w.seek(start)
			w.expect(subS, "1", "2", "3", "4")
			w.seekSnapshot()
		}, want: []string{"2", "4"}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				topic := &pubsubpb.Topic{Name: topicT}
				if test.topic != nil {
					topic.MessageRetentionDuration = test.topic.MessageRetentionDuration
				}
				w.createTopic(topic)
				w.publish("0")
				time.Sleep(time.Minute)
				sub := &pubsubpb.Subscription{}
				if test.sub != nil {
					sub = &pubsubpb.Subscription{RetainAckedMessages: test.sub.RetainAckedMessages, MessageRetentionDuration: test.sub.MessageRetentionDuration, Filter: test.sub.Filter}
				}
				w.createSub(sub)
				start := time.Now()
				for _, m := range []string{"1", "2", "3", "4"} {
					w.publish(m)
					time.Sleep(time.Minute)
				}
				got := w.expect(subS, "1", "2", "3", "4")
				w.ack(subS, []*pubsubpb.ReceivedMessage{got[0], got[2]})
				w.nack(subS, []*pubsubpb.ReceivedMessage{got[1], got[3]})
				test.do(w, start)
				got = w.expect(subS, test.want...)
				w.nack(subS, got)
				synctest.Wait()
				w.reopen()
				got = w.expect(subS, test.want...)
				w.ack(subS, got)
				// What nobody needs any more is deleted.
				time.Sleep(8 * day)
				w.expectInFile(0, 0)
			})
		})
	}
}

func TestSnapshotLifetime(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{MessageRetentionDuration: duration(31 * day), ExpirationPolicy: &pubsubpb.ExpirationPolicy{}})
		w.publish("m")
		time.Sleep(3 * day)
		w.snap()
		if _, err := w.CreateSnapshot(w.Context(), &pubsubpb.CreateSnapshotRequest{Name: snapA, Subscription: subS}); status.Code(err) != codes.AlreadyExists {
			w.Errorf("creating it again: %v, want AlreadyExists", err)
		}
		time.Sleep(4*day - time.Nanosecond)
		if _, err := w.GetSnapshot(w.Context(), &pubsubpb.GetSnapshotRequest{Snapshot: snapA}); err != nil {
			w.Errorf("after almost 4 days: %v", err)
		}
		if _, err := w.CreateSnapshot(w.Context(), &pubsubpb.CreateSnapshotRequest{Subscription: subS}); status.Code(err) != codes.FailedPrecondition {
			w.Errorf("a snapshot that expires at once: %v, want FailedPrecondition", err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := w.GetSnapshot(w.Context(), &pubsubpb.GetSnapshotRequest{Snapshot: snapA}); status.Code(err) != codes.NotFound {
			w.Errorf("after 4 days: %v, want NotFound", err)
		}
		w.ack(subS, w.expect(subS, "m"))
		w.snap() // the name is free
		time.Sleep(7*day + houseworkEvery)
		w.expectInFile(0, 0)
	})
}
