package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Kind is what an operator does with a subscription.
type Kind string

// The kinds of operations that are recorded while they are under way.
const (
	Pause   Kind = "pause"
	Redrive Kind = "redrive"
)

// Operation is the record of an operation under way. It is written before the
// subscription is changed and deleted once that is undone, so that whoever goes on
// after an interruption knows how the subscription was.
type Operation struct {
	Kind Kind `json:"kind"`
	// Subscription is the full name.
	Subscription string `json:"subscription"`
	// Principal is who began it, and At when.
	Principal string    `json:"principal"`
	At        time.Time `json:"at"`
	// LostFrom is when the first message that waits will be lost, if nothing is done.
	LostFrom time.Time `json:"lostFrom,omitzero"`
	// PushConfig is the configuration to restore: a pubsub.v1.PushConfig, serialized,
	// the value of its shared token replaced by TokenMarker. Only operators need it;
	// it is shown nowhere.
	PushConfig []byte `json:"-"`
}

// TokenMarker stands in a recorded push configuration for the shared token.
const TokenMarker = "TOKEN-IS-NOT-RECORDED"

// Records keeps the operations under way, at most one for each subscription.
type Records interface {
	// Get returns the operation of a subscription, or nil.
	Get(ctx context.Context, subscription string) (*Operation, error)
	// Put writes an operation in place of the one of its subscription, if any.
	Put(ctx context.Context, o *Operation) error
	// Delete deletes the operation of a subscription; that there is none is no error.
	Delete(ctx context.Context, subscription string) error
}

// RecordID returns the name of a subscription's record: a hash of its full name.
func RecordID(subscription string) string {
	sum := sha256.Sum256([]byte(subscription))
	return hex.EncodeToString(sum[:])[:40]
}
