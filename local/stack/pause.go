package stack

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/operations"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

// unknownPrincipal is who paused a subscription without leaving a record.
const unknownPrincipal = "somebody, without pushinbox"

// keepPaused reports whether a subscription was paused in an earlier run. Its record
// gets the push configuration that this run would give it, whose address may be
// another one, so that resume restores that. there is nil where the subscription is
// still to be created.
//
// A subscription of --push without an endpoint and a record is one of an earlier run
// that was not given again, and is now.
func (p *ownPubSub) keepPaused(ctx context.Context, there, wanted *pubsubpb.Subscription) (bool, error) {
	if there.GetPushConfig().GetPushEndpoint() != "" {
		return false, nil
	}
	record, err := p.records.Get(ctx, wanted.Name)
	if err != nil {
		return false, fmt.Errorf("whether %s is paused cannot be known: %w", wanted.Name, err)
	}
	if record == nil || record.Kind != delivery.Pause {
		if there == nil || there.Labels["pushinbox"] != "" {
			return false, nil
		}
		now := time.Now().UTC()
		record = &delivery.Operation{Kind: delivery.Pause, Subscription: wanted.Name, Principal: unknownPrincipal, At: now, LostFrom: p.lostFrom(there, now)}
	}
	if err := rewrite(record, wanted.PushConfig); err != nil {
		return false, err
	}
	if err := p.records.Put(ctx, record); err != nil {
		return false, err
	}
	p.warn(fmt.Sprintf("%s is paused since %s by %s: nothing is pushed; go on with: pushinbox delivery resume --subscription %s%s",
		wanted.Name, record.At.Format(time.RFC3339), record.Principal, inbox.ShortName(wanted.Name), p.dataFlag))
	return true, nil
}

// lostFrom returns when the first message that waits, or will wait, is lost.
func (p *ownPubSub) lostFrom(sub *pubsubpb.Subscription, now time.Time) time.Time {
	if _, oldest, err := p.store.Backlog(sub.Name); err == nil && !oldest.IsZero() {
		now = oldest.UTC()
	}
	return now.Add(sub.MessageRetentionDuration.AsDuration())
}

// rewrite has a record restore push, with the attributes that it has. What has a token
// that cannot be left out of the record stays as it is.
func rewrite(record *delivery.Operation, push *pubsubpb.PushConfig) error {
	before := new(pubsubpb.PushConfig)
	if err := proto.Unmarshal(record.PushConfig, before); err != nil {
		return fmt.Errorf("the record of the pause of %s cannot be read: %w", record.Subscription, err)
	}
	push = proto.CloneOf(push)
	push.Attributes = before.Attributes
	recorded, _, err := operations.Conceal(push)
	switch {
	case err == nil:
		record.PushConfig = recorded
	case len(record.PushConfig) == 0:
		return fmt.Errorf("the pause of %s cannot be recorded: %w", record.Subscription, err)
	}
	return nil
}

// IsPaused reports whether a subscription of this run, as in Pushes and Endpoints, was
// paused in an earlier one. Google's emulator is not told what is pushed.
func (s *Stack) IsPaused(sub *pubsubpb.Subscription) bool {
	return s.own != nil && sub.PushConfig.GetPushEndpoint() == ""
}
