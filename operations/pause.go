package operations

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/delivery"
)

// defaultRetention is how long a subscription keeps a message that nobody
// acknowledges, unless it says otherwise.
const defaultRetention = 7 * 24 * time.Hour

// Paused is what Pause did.
type Paused struct {
	// Operation is the record. Its PushConfig is as it was, but for the shared token.
	Operation *delivery.Operation
	// Already says that the subscription was paused before.
	Already bool
	// Endpoint is where it was pushed to, without the value of a shared token.
	Endpoint string
}

// Pause stops the pushing of a subscription, whose messages then wait. It writes the
// push configuration down first, and refuses unless Resume can restore it: the
// principal may act as the push account, and the shared token can be read.
func (op *Operator) Pause(ctx context.Context, subscription string) (*Paused, error) {
	sub, record, err := op.find(ctx, subscription)
	if err != nil {
		return nil, err
	}
	if record != nil && record.Kind == delivery.Redrive {
		return nil, duringRedrive(subscription, record)
	}
	if !isPushed(sub) {
		return alreadyPaused(sub, record)
	}
	recorded, token, err := Conceal(sub.PushConfig)
	if err == nil && token != "" {
		err = op.checkToken(ctx, token)
	}
	if err == nil {
		err = op.checkActAs(ctx, sub.PushConfig)
	}
	if err != nil {
		return nil, refused("%s could not be resumed: %w", subscription, err)
	}
	now := op.o.Now().UTC().Truncate(time.Microsecond)
	record = &delivery.Operation{
		Kind: delivery.Pause, Subscription: subscription, Principal: op.o.Principal, At: now,
		LostFrom: op.lostFrom(ctx, sub, now), PushConfig: recorded,
	}
	if err := op.o.Records.Put(ctx, record); err != nil {
		return nil, refused("%w", err)
	}
	// What was asked so far took seconds, in which the configuration may have changed.
	if there, err := op.get(ctx, subscription); err != nil || isPushed(there) && !proto.Equal(there.PushConfig, sub.PushConfig) {
		if err == nil {
			err = refused("the push configuration of %s was changed at the same time; look at it, and pause again", subscription)
		}
		return nil, errors.Join(err, op.forget(ctx, subscription))
	}
	if err := op.setPush(ctx, subscription, new(pubsubpb.PushConfig)); err != nil {
		return nil, err
	}
	// Somebody who resumed it meanwhile has deleted the record.
	if there, err := op.o.Records.Get(ctx, subscription); err != nil {
		return nil, err
	} else if there == nil {
		if err := op.o.Records.Put(ctx, record); err != nil {
			return nil, err
		}
	}
	return &Paused{Operation: record, Endpoint: delivery.HideToken(sub.PushConfig.PushEndpoint)}, nil
}

// duringRedrive refuses to pause or resume what is redriven.
func duringRedrive(subscription string, record *delivery.Operation) error {
	return refused("the dead letters of %s are being redriven (%s); end that first: %s", subscription, began(record), stop(subscription))
}

// alreadyPaused says what a subscription without push endpoint is.
func alreadyPaused(sub *pubsubpb.Subscription, record *delivery.Operation) (*Paused, error) {
	switch {
	case sub.BigqueryConfig.GetTable() != "" || sub.CloudStorageConfig.GetBucket() != "":
		return nil, refused("the subscription %s does not push, it writes to BigQuery or Cloud Storage", sub.Name)
	case record == nil:
		return nil, refused("the subscription %s has no push endpoint, and no record of what it had: it is paused by other means, or programs pull from it", sub.Name)
	}
	c, _, err := recordedConfig(record.PushConfig)
	if err != nil {
		return nil, err
	}
	return &Paused{Operation: record, Already: true, Endpoint: delivery.HideToken(c.PushEndpoint)}, nil
}

// checkActAs returns an error when the principal may not restore c.
func (op *Operator) checkActAs(ctx context.Context, c *pubsubpb.PushConfig) error {
	account := c.GetOidcToken().GetServiceAccountEmail()
	if account == "" || op.o.ActAs == nil {
		return nil
	}
	return op.o.ActAs(ctx, account)
}

// lostFrom returns when the oldest message that waits is deleted. Where its age is
// not known, that of the first one to wait from now on.
func (op *Operator) lostFrom(ctx context.Context, sub *pubsubpb.Subscription, now time.Time) time.Time {
	retention := defaultRetention
	if d := sub.MessageRetentionDuration.AsDuration(); d > 0 {
		retention = d
	}
	if op.o.Backlog != nil {
		if b, err := op.o.Backlog(ctx, sub.Name); err == nil && b != nil && b.Messages > 0 {
			retention -= min(b.Oldest+now.Sub(b.At), retention)
		}
	}
	return now.Add(retention)
}

// Resumed is what Resume did.
type Resumed struct {
	// Operation is the pause that ended; nil where there was no record of it.
	Operation *delivery.Operation
	// Endpoint is where it is pushed to, without the value of a shared token.
	Endpoint string
	// Already says that it was pushed before. Differs says that it is pushed otherwise
	// than was written down, and was left so.
	Already, Differs bool
	// Rebuilt says that there was no record, and that the configuration is Terraform's.
	Rebuilt bool
}

// Resume restores the push configuration that Pause wrote down, to the bit. Where
// there is no record, it takes what rebuild returns; nil means that nothing else is
// known.
func (op *Operator) Resume(ctx context.Context, subscription string, rebuild func(context.Context) (*pubsubpb.PushConfig, error)) (*Resumed, error) {
	sub, record, err := op.find(ctx, subscription)
	if err != nil {
		return nil, err
	}
	if record != nil && record.Kind != delivery.Pause {
		return nil, duringRedrive(subscription, record)
	}
	if isPushed(sub) {
		return op.alreadyResumed(ctx, sub, record)
	}
	config, err := op.restored(ctx, subscription, record, rebuild)
	if err != nil {
		return nil, err
	}
	if err := op.checkActAs(ctx, config); err != nil {
		return nil, refused("%s cannot be resumed: %w", subscription, err)
	}
	if err := op.setPush(ctx, subscription, config); err != nil {
		return nil, err
	}
	if err := op.forget(ctx, subscription); err != nil {
		return nil, fmt.Errorf("%s is pushed again, but the record of the pause is still there: %w", subscription, err)
	}
	return &Resumed{Operation: record, Endpoint: delivery.HideToken(config.PushEndpoint), Rebuilt: record == nil}, nil
}

// restored returns the push configuration to restore.
func (op *Operator) restored(ctx context.Context, subscription string, record *delivery.Operation, rebuild func(context.Context) (*pubsubpb.PushConfig, error)) (*pubsubpb.PushConfig, error) {
	if record == nil {
		if rebuild == nil {
			return nil, refused("%s has no push endpoint, and no record of what it had; with --terraform DIR it is rebuilt from Terraform's outputs", subscription)
		}
		config, err := rebuild(ctx)
		if err == nil && config.GetPushEndpoint() == "" {
			err = errors.New("no endpoint for it is there")
		}
		if err != nil {
			return nil, refused("%s cannot be rebuilt from Terraform's outputs: %w", subscription, err)
		}
		return config, nil
	}
	config, hasToken, err := recordedConfig(record.PushConfig)
	if err != nil {
		return nil, refused("%w", err)
	}
	if !hasToken {
		return config, nil
	}
	token, err := op.token(ctx)
	if err != nil {
		return nil, refused("%w", err)
	}
	return reveal(config, token)
}

// alreadyResumed ends what is left of a pause of a subscription that is pushed: one
// that was interrupted, or that Terraform or another tool has ended.
func (op *Operator) alreadyResumed(ctx context.Context, sub *pubsubpb.Subscription, record *delivery.Operation) (*Resumed, error) {
	r := &Resumed{Operation: record, Endpoint: delivery.HideToken(sub.PushConfig.PushEndpoint), Already: true}
	if record == nil {
		return r, nil
	}
	inForce, _, err := Conceal(sub.PushConfig)
	r.Differs = err != nil || !bytes.Equal(inForce, record.PushConfig)
	return r, op.forget(ctx, sub.Name)
}

// forget deletes the record of a pause that is over. Where somebody else pauses at the
// same time, either Pause sees that the record is gone, or this that the endpoint is:
// one of them writes the record again.
func (op *Operator) forget(ctx context.Context, subscription string) error {
	record, err := op.o.Records.Get(ctx, subscription)
	if err != nil || record == nil {
		return err
	}
	if err := op.o.Records.Delete(ctx, subscription); err != nil {
		return err
	}
	if sub, err := op.get(ctx, subscription); err == nil && !isPushed(sub) {
		return op.o.Records.Put(ctx, record)
	}
	return nil
}
