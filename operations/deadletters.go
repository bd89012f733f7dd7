package operations

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

const (
	// pullSize is how many messages are pulled at a time, each of up to 10 MB.
	pullSize = 100
	// ackSize is how many leases are given back at a time.
	ackSize = 1000
	// lookPatience is how long the first of what waits is waited for, and pullTimeout
	// bounds a pull that does not wait.
	lookPatience = 5 * time.Second
	pullTimeout  = 30 * time.Second
	// emptyPulls is how often in a row nothing must come until that is all.
	emptyPulls = 2
	// undoTimeout bounds what has to be undone after its context ended.
	undoTimeout = 30 * time.Second
)

// DeadLetter is a message that was given up, as far as its attributes say.
type DeadLetter struct {
	// MessageID is its own, not that of the message it was.
	MessageID string `json:"messageId"`
	// GivenUp is when it became a dead letter.
	GivenUp time.Time `json:"givenUp"`
	// Subscription is the full name of the one that gave it up, after Attempts.
	Subscription string `json:"subscription,omitempty"`
	Attempts     int    `json:"attempts,omitempty"`
	// PublishTime is when the message it was had been published.
	PublishTime time.Time `json:"publishTime,omitzero"`
	OrderingKey string    `json:"orderingKey,omitempty"`
	// Attributes are its publisher's, and Data at most inbox.PreviewSize of the Size
	// bytes that it has.
	Attributes map[string]string `json:"attributes,omitempty"`
	Data       []byte            `json:"data"`
	Size       int               `json:"size"`
}

// deadLetter returns what a message says of itself. Whoever may publish to the
// dead-letter topic can claim it.
func deadLetter(m *pubsubpb.PubsubMessage, subscription string) DeadLetter {
	l := DeadLetter{
		MessageID: m.MessageId, GivenUp: m.PublishTime.AsTime(), OrderingKey: m.OrderingKey, Attributes: maps.Clone(m.Attributes),
		Data: append([]byte{}, m.Data[:min(len(m.Data), inbox.PreviewSize)]...), Size: len(m.Data),
	}
	was := inbox.DeadLetterOf(&inbox.Message{Source: inbox.SourcePubSub, Subscription: subscription, Attributes: m.Attributes}, subscription)
	if was != nil {
		l.Subscription, l.Attempts, l.PublishTime = was.Subscription, was.Attempts, was.PublishTime
		maps.DeleteFunc(l.Attributes, func(name, _ string) bool { return strings.HasPrefix(name, inbox.DeadLetterSource) })
	}
	return l
}

// List returns at most limit of the dead letters that wait in a subscription, the
// oldest first, and whether there are more. It gives the leases back, so that they
// wait on.
func (op *Operator) List(ctx context.Context, subscription string, limit int) (letters []DeadLetter, more bool, err error) {
	if err := op.checkWaits(ctx, subscription); err != nil {
		return nil, false, err
	}
	return op.look(ctx, subscription, limit, op.o.LookPatience)
}

// DeadLetterTopic returns the topic that the dead letters of a subscription go to.
func (op *Operator) DeadLetterTopic(ctx context.Context, subscription string) (string, error) {
	sub, err := op.get(ctx, subscription)
	if err != nil {
		return "", err
	}
	topic := sub.GetDeadLetterPolicy().GetDeadLetterTopic()
	if topic == "" {
		return "", refused("%s has no dead letters: it has no dead-letter policy", subscription)
	}
	return topic, nil
}

// Topic returns the topic of a subscription.
func (op *Operator) Topic(ctx context.Context, subscription string) (string, error) {
	sub, err := op.get(ctx, subscription)
	return sub.GetTopic(), err
}

// Keeps returns an error unless a subscription is on the topic that the dead letters of
// source go to.
func (op *Operator) Keeps(ctx context.Context, subscription, topic, source string) error {
	sub, err := op.get(ctx, subscription)
	if err == nil && sub.Topic != topic {
		err = refused("%s does not keep the dead letters of %s: those go to %s, and it is a subscription of %s", subscription, source, topic, sub.Topic)
	}
	return err
}

// checkWaits returns an error unless a subscription is there and not pushed.
func (op *Operator) checkWaits(ctx context.Context, subscription string) error {
	sub, err := op.get(ctx, subscription)
	if err != nil || !isPushed(sub) {
		return err
	}
	record, err := op.o.Records.Get(ctx, subscription)
	if err != nil {
		return err
	}
	return inTheWay(sub, record)
}

// inTheWay says why the dead letters in a subscription are not to be had, by its record,
// or nil: it is pushed, or has a record.
func inTheWay(sub *pubsubpb.Subscription, record *delivery.Operation) error {
	endpoint := delivery.HideToken(sub.GetPushConfig().GetPushEndpoint())
	switch {
	case record != nil && record.Kind == delivery.Redrive:
		return refused("the dead letters of %s are being redriven to %s (%s); let that end, or end it: %s", sub.Name, endpoint, began(record), stop(sub.Name))
	case !isPushed(sub):
		return refused("%s is paused (%s); resume it first: pushinbox delivery resume --subscription %[1]s", sub.Name, began(record))
	default:
		return refused("%s is pushed to %s, and no redrive is recorded: it is not a subscription that keeps dead letters, or its redrive was begun by other means", sub.Name, endpoint)
	}
}

// look pulls what waits, and gives it back. It waits for the first for as long as
// patience: what is leased to somebody else is not to be had before its lease ends.
func (op *Operator) look(ctx context.Context, subscription string, limit int, patience time.Duration) (letters []DeadLetter, more bool, err error) {
	until := time.Now().Add(patience)
	var leased []string
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		for some := range slices.Chunk(leased, ackSize) {
			if failed := op.o.PubSub.ModifyAckDeadline(ctx, &pubsubpb.ModifyAckDeadlineRequest{Subscription: subscription, AckIds: some}); failed != nil && err == nil {
				err = fmt.Errorf("%s cannot be given back, and come again when their leases end: %w", subscription, failed)
			}
		}
	}()
	seen := make(map[string]bool)
	for empty := 0; empty < emptyPulls && len(letters) <= limit; {
		// One more than is wanted tells whether there are more.
		var wait time.Duration
		if len(leased) == 0 {
			wait = time.Until(until)
		}
		pulled, err := op.pull(ctx, subscription, min(pullSize, limit+1-len(letters)), wait)
		if err != nil {
			return nil, false, explain(err, "look at the dead letters of "+subscription, "pubsub.subscriptions.consume")
		}
		if empty++; len(pulled) > 0 || len(leased) == 0 && time.Now().Before(until) {
			empty = 0
		}
		for _, m := range pulled {
			leased = append(leased, m.AckId)
			if !seen[m.Message.MessageId] {
				seen[m.Message.MessageId] = true
				letters = append(letters, deadLetter(m.Message, subscription))
			}
		}
	}
	slices.SortFunc(letters, func(a, b DeadLetter) int { return a.GivenUp.Compare(b.GivenUp) })
	if more = len(letters) > limit; more {
		letters = letters[:limit]
	}
	return letters, more, nil
}

// pull returns some of what waits, the first of which it waits for.
func (op *Operator) pull(ctx context.Context, subscription string, most int, wait time.Duration) ([]*pubsubpb.ReceivedMessage, error) {
	timeout := wait
	if wait <= 0 {
		timeout = pullTimeout
	}
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	//lint:ignore SA1019 what is not there now is not waited for
	request := &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: int32(most), ReturnImmediately: wait <= 0}
	answer, err := op.o.PubSub.Pull(within, request)
	if ctx.Err() == nil && status.Code(err) == codes.DeadlineExceeded {
		return nil, nil
	}
	return answer.GetReceivedMessages(), err
}

// Purged is what Purge did.
type Purged struct {
	// Snapshot is the full name of what Undo restores, until Expires.
	Snapshot string    `json:"snapshot"`
	Expires  time.Time `json:"expires,omitzero"`
}

// Purge discards the dead letters that wait in a subscription, and takes a snapshot
// of them first.
func (op *Operator) Purge(ctx context.Context, subscription string) (*Purged, error) {
	if err := op.checkWaits(ctx, subscription); err != nil {
		return nil, err
	}
	now := op.o.Now()
	project, id, _ := strings.Cut(subscription, "/subscriptions/")
	name := fmt.Sprintf("%s/snapshots/%s-purge-%s", project, id, now.UTC().Format("20060102t150405"))
	snapshot, err := op.o.PubSub.CreateSnapshot(ctx, &pubsubpb.CreateSnapshotRequest{Name: name, Subscription: subscription})
	if err != nil {
		return nil, refused("without a snapshot a purge could not be undone: %w", explain(err, "create the snapshot "+name, "pubsub.snapshots.create and pubsub.subscriptions.consume"))
	}
	p := &Purged{Snapshot: name}
	if expires := snapshot.GetExpireTime(); expires != nil {
		p.Expires = expires.AsTime()
	}
	_, err = op.o.PubSub.Seek(ctx, &pubsubpb.SeekRequest{Subscription: subscription, Target: &pubsubpb.SeekRequest_Time{Time: timestamppb.New(now)}})
	if err != nil {
		return p, explain(err, "purge "+subscription, "pubsub.subscriptions.consume")
	}
	return p, nil
}

// UndoPurge brings back what waited when a snapshot was taken.
func (op *Operator) UndoPurge(ctx context.Context, subscription, snapshot string) error {
	_, err := op.o.PubSub.Seek(ctx, &pubsubpb.SeekRequest{Subscription: subscription, Target: &pubsubpb.SeekRequest_Snapshot{Snapshot: snapshot}})
	if status.Code(err) == codes.NotFound {
		return refused("there is no snapshot %s for %s: it has expired, or the name is wrong", snapshot, subscription)
	}
	if err != nil {
		return explain(err, "restore "+snapshot, "pubsub.subscriptions.consume and pubsub.snapshots.seek")
	}
	return nil
}
