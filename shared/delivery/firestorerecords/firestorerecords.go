// Package firestorerecords keeps the records of operations under way in Firestore:
// the records of production. The collection is that of the inbox with -operations
// appended, and a document's name is the hash of the subscription's full name. It
// has at most one document for each subscription, so it needs neither index nor TTL.
package firestorerecords

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/firestoredial"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
)

// callTimeout bounds a call whose caller set no sooner deadline.
const callTimeout = 20 * time.Second

// Records are the records in a Firestore database. Open returns them.
type Records struct {
	client     *firestore.Client
	collection string
}

var _ delivery.Records = (*Records)(nil)

// document is the layout of a record.
type document struct {
	Kind         string    `firestore:"kind"`
	Subscription string    `firestore:"subscription"`
	Principal    string    `firestore:"principal"`
	At           time.Time `firestore:"at"`
	LostFrom     time.Time `firestore:"lostFrom,omitempty"`
	PushConfig   []byte    `firestore:"pushConfig"`
}

// Open returns the records beside the inbox that c describes, in Firestore or its
// emulator. How that inbox stores messages does not matter: shards, TTL and search
// attributes may be left out. The connection is created on first use, with the
// application default credentials unless options say otherwise.
func Open(ctx context.Context, c firestoreinbox.Config, options ...option.ClientOption) (*Records, error) {
	c.Shards, c.TTL, c.SearchAttributes = 1, time.Hour, nil
	if err := c.Validate(); err != nil {
		return nil, err
	}
	client, err := firestoredial.Client(ctx, c.Project, c.Database, c.EmulatorHost, nil, options...)
	if err != nil {
		return nil, fmt.Errorf("firestorerecords: %w", err)
	}
	return &Records{client, c.Collection + "-operations"}, nil
}

// Close closes the connection.
func (r *Records) Close() error { return r.client.Close() }

func (r *Records) document(subscription string) *firestore.DocumentRef {
	return r.client.Collection(r.collection).Doc(delivery.RecordID(subscription))
}

// Get implements delivery.Records.
func (r *Records) Get(ctx context.Context, subscription string) (*delivery.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	snapshot, err := r.document(subscription).Get(ctx)
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, r.failed("read", subscription, err)
	}
	var d document
	if err := snapshot.DataTo(&d); err != nil {
		return nil, r.failed("read", subscription, err)
	}
	return &delivery.Operation{
		Kind: delivery.Kind(d.Kind), Subscription: d.Subscription, Principal: d.Principal, At: d.At.UTC(),
		LostFrom: d.LostFrom.UTC(), PushConfig: d.PushConfig,
	}, nil
}

// Put implements delivery.Records.
func (r *Records) Put(ctx context.Context, o *delivery.Operation) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.document(o.Subscription).Set(ctx, document{
		Kind: string(o.Kind), Subscription: o.Subscription, Principal: o.Principal, At: o.At, LostFrom: o.LostFrom, PushConfig: o.PushConfig,
	})
	return r.failed("write", o.Subscription, err)
}

// Delete implements delivery.Records.
func (r *Records) Delete(ctx context.Context, subscription string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.document(subscription).Delete(ctx)
	return r.failed("delete", subscription, err)
}

// failed returns err with what was tried, or nil.
func (r *Records) failed(what, subscription string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot %s the record %s of %s: %w", what, r.document(subscription).Path, subscription, err)
}
