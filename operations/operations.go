// Package operations changes how Pub/Sub delivers to the inbox, for operators: it
// pauses and resumes a subscription, and lists, redrives and purges dead letters.
// The command line uses it, and a local run where it writes a record anew; no function
// does, since no function may change anything.
//
// Everything is done by the operator's own right, in steps of which any can be the
// last: whoever is interrupted, or killed, calls the same or the opposite operation
// again. What is taken away is written down first, see delivery.Records.
package operations

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"example.com/pushinbox/shared/delivery"
)

// PubSub is what is called of Pub/Sub's API. The client of its admin API is one.
type PubSub interface {
	GetSubscription(context.Context, *pubsubpb.GetSubscriptionRequest, ...gax.CallOption) (*pubsubpb.Subscription, error)
	UpdateSubscription(context.Context, *pubsubpb.UpdateSubscriptionRequest, ...gax.CallOption) (*pubsubpb.Subscription, error)
	Pull(context.Context, *pubsubpb.PullRequest, ...gax.CallOption) (*pubsubpb.PullResponse, error)
	ModifyAckDeadline(context.Context, *pubsubpb.ModifyAckDeadlineRequest, ...gax.CallOption) error
	CreateSnapshot(context.Context, *pubsubpb.CreateSnapshotRequest, ...gax.CallOption) (*pubsubpb.Snapshot, error)
	Seek(context.Context, *pubsubpb.SeekRequest, ...gax.CallOption) (*pubsubpb.SeekResponse, error)
}

// Options are what an Operator works with. PubSub and Records are required.
type Options struct {
	PubSub  PubSub
	Records delivery.Records
	// Principal is who operates, for the records.
	Principal string
	// Token returns the shared token that push endpoints end with; nil means that it
	// is known from nowhere. TokenSource says where it comes from.
	Token       func(context.Context) (string, error)
	TokenSource string
	// ActAs returns an error when the principal may not have Pub/Sub sign as a service
	// account; nil means that nobody is asked, as with a Pub/Sub without IAM.
	ActAs func(ctx context.Context, account string) error
	// Backlog returns what waits in a subscription; nil means that it is not known.
	Backlog func(ctx context.Context, subscription string) (*Backlog, error)
	// LookPatience is how long a look at dead letters waits for the first; 0 means 5 s.
	LookPatience time.Duration
	// Now is the clock, that of Pub/Sub as far as it is known; nil means the system's.
	Now func() time.Time
}

// Backlog is what waited in a subscription at a time.
type Backlog struct {
	At       time.Time
	Messages int64
	// Oldest is the age of the oldest message, where it is known.
	Oldest time.Duration
}

// Operator operates subscriptions. New returns one.
type Operator struct{ o Options }

// New returns an Operator.
func New(o Options) (*Operator, error) {
	if o.PubSub == nil || o.Records == nil {
		return nil, errors.New("operations: Options need PubSub and Records")
	}
	if o.LookPatience <= 0 {
		o.LookPatience = lookPatience
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Operator{o}, nil
}

// ErrRefused is the cause of every error that means: nothing was changed, since it
// could not be undone or is not what the subscription is for.
var ErrRefused = errors.New("nothing was changed")

// refused returns an error that says why nothing was changed.
func refused(format string, args ...any) error {
	return refusal{fmt.Errorf(format, args...)}
}

// refusal is an ErrRefused with its reason.
type refusal struct{ error }

func (r refusal) Error() string   { return r.error.Error() + "; nothing was changed" }
func (r refusal) Unwrap() []error { return []error{r.error, ErrRefused} }

// get returns a subscription that a topic still feeds.
func (op *Operator) get(ctx context.Context, name string) (*pubsubpb.Subscription, error) {
	sub, err := op.o.PubSub.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: name})
	switch {
	case status.Code(err) == codes.NotFound:
		return nil, refused("the subscription %s does not exist: it was deleted, has expired, or the name is wrong", name)
	case err != nil:
		return nil, explain(err, "read the subscription "+name, "pubsub.subscriptions.get")
	case sub.Detached:
		return nil, refused("the subscription %s is detached: its topic does not feed it any more, and only a new subscription helps", name)
	}
	return sub, nil
}

// find returns a subscription, and the record of what is under way with it, or nil.
func (op *Operator) find(ctx context.Context, name string) (*pubsubpb.Subscription, *delivery.Operation, error) {
	sub, err := op.get(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	record, err := op.o.Records.Get(ctx, name)
	return sub, record, err
}

// isPushed reports whether a subscription has a push endpoint.
func isPushed(sub *pubsubpb.Subscription) bool { return sub.GetPushConfig().GetPushEndpoint() != "" }

// setPush gives a subscription a push configuration, an empty one to stop the
// pushing, and reads it back.
func (op *Operator) setPush(ctx context.Context, name string, c *pubsubpb.PushConfig) error {
	_, err := op.o.PubSub.UpdateSubscription(ctx, &pubsubpb.UpdateSubscriptionRequest{
		Subscription: &pubsubpb.Subscription{Name: name, PushConfig: c},
		UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"push_config"}},
	})
	if err != nil {
		need := "pubsub.subscriptions.update"
		if account := c.GetOidcToken().GetServiceAccountEmail(); account != "" {
			need += " on the subscription, and iam.serviceAccounts.actAs on " + account
		}
		return withoutTokens(explain(err, "change how "+name+" is pushed", need), c)
	}
	sub, err := op.get(ctx, name)
	if err != nil {
		return err
	}
	if there := sub.GetPushConfig(); !samePush(there, c) {
		return fmt.Errorf("the subscription %s was changed, and is not as it was told to be: somebody else changes it too; it is pushed to %q", name, delivery.HideToken(there.GetPushEndpoint()))
	}
	return nil
}

// samePush reports whether two push configurations mean the same. Some Pub/Subs
// write out what they take when nothing is said.
func samePush(a, b *pubsubpb.PushConfig) bool {
	if a.GetPushEndpoint() == "" && b.GetPushEndpoint() == "" {
		return true
	}
	return proto.Equal(withoutDefaults(a), withoutDefaults(b))
}

func withoutDefaults(c *pubsubpb.PushConfig) *pubsubpb.PushConfig {
	c = proto.CloneOf(c)
	if version := c.GetAttributes()["x-goog-version"]; version == "v1" || version == "v1beta2" {
		delete(c.Attributes, "x-goog-version")
	}
	if c.GetPubsubWrapper() != nil {
		c.Wrapper = nil
	}
	return c
}

// explain returns err of a call with what was tried, and the permission that lacks.
func explain(err error, tried, permission string) error {
	switch status.Code(err) {
	case codes.PermissionDenied:
		return fmt.Errorf("cannot %s: you need %s: %w", tried, permission, err)
	}
	return fmt.Errorf("cannot %s: %w", tried, err)
}

// began says who began an operation, and when.
func began(o *delivery.Operation) string {
	return fmt.Sprintf("by %s, %s", o.Principal, o.At.UTC().Format(time.RFC3339))
}
