package process

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MarkerLife is how long a marker of Once keeps an effect from happening again. It is
// more than the 31 days for which Pub/Sub and a dead-letter subscription can hold a
// message back. The markers have their end in the field expireAt, for a TTL policy of
// their collection.
const MarkerLife = 32 * 24 * time.Hour

// Once runs f in a transaction unless it has run before for this id, and marks in the
// same transaction that it has. Without an error, the effects of f through tx have
// happened exactly once, however often an event is delivered. consumer is the
// collection of the markers, one for each kind of effect; id is the inbox's ID of the
// message, or another that is the same whenever the event comes again.
//
// ran says whether f ran. The marker is read first: tx must not have written yet.
func Once(ctx context.Context, tx *firestore.Transaction, consumer *firestore.CollectionRef, id string, f func(context.Context) error) (ran bool, err error) {
	sum := sha256.Sum256([]byte(id)) // any ID fits, and they spread over the key space
	marker := consumer.Doc(hex.EncodeToString(sum[:])[:40])
	if _, err := tx.Get(marker); status.Code(err) != codes.NotFound {
		return false, err // with nil: it has run before
	}
	if err := f(ctx); err != nil {
		return true, err
	}
	return true, tx.Create(marker, map[string]any{"id": id, "processedAt": firestore.ServerTimestamp, "expireAt": time.Now().Add(MarkerLife)})
}
