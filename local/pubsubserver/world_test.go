package pubsubserver

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	topicT    = "projects/p/topics/topic"
	topicDead = "projects/p/topics/dead"
	subS      = "projects/p/subscriptions/sub"
	subDead   = "projects/p/subscriptions/dead"
	subOther  = "projects/p/subscriptions/other"
	snapA     = "projects/p/snapshots/snap"
)

// world is a server whose time is a bubble's.
type world struct {
	*testing.T
	*Server
	options Options
}

// inWorld runs a test with a server in a file, at a time that stands still
// while the test runs.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, options: Options{Path: filepath.Join(t.TempDir(), "pubsub.db"), NoSync: true, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}}
		w.open()
		defer func() { w.must(w.Server.Close()) }()
		test(w)
	})
}

func (w *world) open() {
	w.Helper()
	var err error
	w.Server, err = Open(w.options)
	w.must(err)
}

// reopen closes the server and opens it again.
func (w *world) reopen() {
	w.Helper()
	w.must(w.Server.Close())
	w.open()
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) createTopic(pb *pubsubpb.Topic) {
	w.Helper()
	_, err := w.CreateTopic(w.Context(), pb)
	w.must(err)
}

// createSub creates the subscription subS to topicT, with the topics it needs.
func (w *world) createSub(pb *pubsubpb.Subscription) {
	w.Helper()
	if pb.Name == "" {
		pb.Name = subS
	}
	if pb.Topic == "" {
		pb.Topic = topicT
	}
	topics := []string{pb.Topic}
	if p := pb.DeadLetterPolicy; p != nil {
		topics = append(topics, p.DeadLetterTopic)
	}
	for _, name := range topics {
		if _, err := w.CreateTopic(w.Context(), &pubsubpb.Topic{Name: name}); err != nil && status.Code(err) != codes.AlreadyExists {
			w.Fatal(err)
		}
	}
	_, err := w.CreateSubscription(w.Context(), pb)
	w.must(err)
}

// publish publishes one message for each of the data, "key:data" with an
// ordering key, and returns their IDs.
func (w *world) publish(data ...string) []string {
	w.Helper()
	var ids []string
	for _, d := range data {
		m := &pubsubpb.PubsubMessage{Data: []byte(d)}
		if len(d) > 1 && d[1] == ':' {
			m.OrderingKey = d[:1]
		}
		r, err := w.Publish(w.Context(), &pubsubpb.PublishRequest{Topic: topicT, Messages: []*pubsubpb.PubsubMessage{m}})
		w.must(err)
		ids = append(ids, r.MessageIds...)
	}
	return ids
}

// pullNow returns a request for what is due now.
func pullNow(sub string, n int32) *pubsubpb.PullRequest {
	//lint:ignore SA1019 deprecated for callers of Pub/Sub
	return &pubsubpb.PullRequest{Subscription: sub, MaxMessages: n, ReturnImmediately: true}
}

// pull pulls what is due now.
func (w *world) pull(sub string) []*pubsubpb.ReceivedMessage {
	w.Helper()
	synctest.Wait()
	r, err := w.Pull(w.Context(), pullNow(sub, 1000))
	w.must(err)
	return r.ReceivedMessages
}

// expect pulls and compares the data of what comes.
func (w *world) expect(sub string, want ...string) []*pubsubpb.ReceivedMessage {
	w.Helper()
	got := w.pull(sub)
	if data := dataOf(got); !slices.Equal(data, want) {
		w.Fatalf("pulled %q from %s, want %q", data, sub, want)
	}
	return got
}

func dataOf(received []*pubsubpb.ReceivedMessage) (data []string) {
	for _, r := range received {
		data = append(data, string(r.Message.Data))
	}
	return data
}

func ackIDs(received []*pubsubpb.ReceivedMessage) (ids []string) {
	for _, r := range received {
		ids = append(ids, r.AckId)
	}
	return ids
}

func (w *world) ack(sub string, received []*pubsubpb.ReceivedMessage) {
	w.Helper()
	if len(received) == 0 {
		return
	}
	_, err := w.Acknowledge(w.Context(), &pubsubpb.AcknowledgeRequest{Subscription: sub, AckIds: ackIDs(received)})
	w.must(err)
}

// deadline makes leases end after seconds from now.
func (w *world) deadline(sub string, received []*pubsubpb.ReceivedMessage, seconds int32) {
	w.Helper()
	if len(received) == 0 {
		return
	}
	_, err := w.ModifyAckDeadline(w.Context(), &pubsubpb.ModifyAckDeadlineRequest{Subscription: sub, AckIds: ackIDs(received), AckDeadlineSeconds: seconds})
	w.must(err)
	synctest.Wait()
}

func (w *world) nack(sub string, received []*pubsubpb.ReceivedMessage) {
	w.Helper()
	w.deadline(sub, received, 0)
}

// inFile returns how many messages and marks the file has.
func (w *world) inFile() (messages, marks int) {
	w.Helper()
	synctest.Wait()
	w.must(w.db.View(func(tx *bbolt.Tx) error {
		messages = tx.Bucket(bucketMessages).Stats().KeyN
		marks = tx.Bucket(bucketMarks).Stats().KeyN
		return nil
	}))
	return messages, marks
}

func (w *world) expectInFile(messages, marks int) {
	w.Helper()
	if m, k := w.inFile(); m != messages || k != marks {
		w.Fatalf("the file has %d messages and %d marks, want %d and %d", m, k, messages, marks)
	}
}

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func numbers(n int) (data []string) {
	for i := range n {
		data = append(data, fmt.Sprint(i))
	}
	return data
}
