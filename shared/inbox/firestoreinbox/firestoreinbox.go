// Package firestoreinbox stores messages in Firestore: the inbox of production.
//
// A message is one document, whose ID is the hash of the message's identity, so
// that a redelivery finds the existing document and IDs that a provider counts up
// spread over the key space. It is created with the precondition that it must
// not exist. Data that does not fit a document (1 MiB with all fields) is stored
// in further documents of the collection COLLECTION-chunks, written before the
// message's own, so that a reader never sees half a message.
//
// # Group commit
//
// Concurrent Puts share a BatchWrite, see package groupcommit; a single one is a
// Commit, as a document's Create is. The client library's BulkWriter was measured
// and rejected: it sends at most 20 writes a call, waits up to a second for more
// unless it is flushed for all callers, fails the neighbours of an invalid write,
// and keeps every document that it ever wrote in memory. BenchmarkPut compares all
// three. The handwritten client (cloud.google.com/go/firestore) does not offer
// BatchWrite, so this package uses the one generated for the API.
//
// # Limits
//
// Lists order by receivedAt, which only grows: on one index range that allows
// about 500 writes a second. The field shard, from the ID's hash, divides it into
// Config.Shards ranges, which every list reads in one query; all other fields with
// rising values must be exempt from indexes. firestore.indexes.json in this folder
// declares all that, in the form that Firebase's tools read.
//
// Every other index has the shard in front of, or after, a field with few values, for
// the same reason. A list uses one index, for the most selective of its conditions,
// and reads and drops what the others leave out; where the index is not there yet, it
// uses the one of all messages.
//
// Firestore's TTL policy on expireAt deletes expired messages, usually within a day.
// Until then reads skip them, one document read each: a list that goes on to its
// end reads what expired within that day.
package firestoreinbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	firestore "cloud.google.com/go/firestore/apiv1"
	"example.com/pushinbox/shared/firestoredial"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/groupcommit"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

const (
	// attemptTimeout bounds one attempt of a write. The server knows it too, so
	// that it bounds the time from a write's receivedAt until it is visible;
	// watchSlack relies on that.
	attemptTimeout = 10 * time.Second
	// giveUp bounds all attempts of one call whose caller set no deadline.
	giveUp = 60 * time.Second
	// lastAttempt is the time that must be left for another attempt.
	lastAttempt = 100 * time.Millisecond

	// Four in flight were fastest with 500 concurrent Puts to the emulator. The
	// bytes are well below the 10 MiB of a request, and below the 4 MiB from
	// which failures were seen.
	batchItems    = 200
	batchBytes    = 2 << 20
	batchInFlight = 4
)

// Inbox is an inbox.Inbox in a Firestore database. Open returns one.
type Inbox struct {
	client     *firestore.Client
	database   string // projects/P/databases/D
	documents  string // database/documents
	collection string
	shards     int
	ttl        time.Duration
	attributes []string         // those that have an index
	now        func() time.Time // the clock for expiry
	header     metadata.MD
	backlog    int           // bytes; see maxBacklog
	late       time.Duration // see emulatorLateness

	group  *groupcommit.Group[*pb.Write]
	chunks chan struct{} // slots for chunk writes

	mu      sync.RWMutex
	calls   sync.WaitGroup
	closing context.Context
	close   context.CancelFunc
}

var _ inbox.Inbox = (*Inbox)(nil)

// Open returns the inbox in Firestore, or in its emulator, that c describes. The
// connection is created on first use, with the application default credentials
// unless options say otherwise. Close closes it.
func Open(ctx context.Context, c Config, options ...option.ClientOption) (*Inbox, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("firestoreinbox: %w", err)
	}
	in := &Inbox{
		database:   "projects/" + c.Project + "/databases/" + c.Database,
		collection: c.Collection,
		shards:     c.Shards,
		ttl:        c.TTL,
		attributes: inbox.IndexedAttributes(c.SearchAttributes),
		now:        time.Now,
		backlog:    maxBacklog,
		chunks:     make(chan struct{}, chunksInFlight),
	}
	in.documents = in.database + "/documents"
	// Databases other than the default one are found by these headers only.
	in.header = metadata.Pairs(
		"google-cloud-resource-prefix", in.database,
		"x-goog-request-params", "project_id="+c.Project+"&database_id="+c.Database)
	if c.EmulatorHost != "" {
		in.late = emulatorLateness
	}
	var err error
	if in.group, err = groupcommit.New(in.commit, groupcommit.Options{
		MaxItems: batchItems, MaxBytes: batchBytes, InFlight: batchInFlight,
	}); err != nil {
		return nil, err
	}
	if in.client, err = firestore.NewClient(ctx, append(firestoredial.Options(c.EmulatorHost), options...)...); err != nil {
		return nil, fmt.Errorf("firestoreinbox: %w", err)
	}
	// This package retries by itself: the generated retries know neither which
	// writes of a batch failed nor when no time is left for another try.
	in.client.CallOptions = &firestore.CallOptions{}
	in.closing, in.close = context.WithCancel(context.Background())
	return in, nil
}

// Close refuses new calls, ends watches, finishes the other calls and closes
// the connection.
func (in *Inbox) Close() error {
	in.mu.Lock()
	closed := in.closing.Err() != nil
	in.close()
	in.mu.Unlock()
	in.calls.Wait()
	in.group.Close() // callers whose context ended do not wait for their write
	if closed {
		return nil
	}
	return in.client.Close()
}

var errClosed = fmt.Errorf("%w: the inbox is closed", inbox.ErrUnavailable)

// begin registers a call that Close waits for.
func (in *Inbox) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.closing.Err() != nil {
		return nil, errClosed
	}
	in.calls.Add(1)
	return in.calls.Done, nil
}

// outgoing returns ctx with the headers that every call needs.
func (in *Inbox) outgoing(ctx context.Context) context.Context {
	return metadata.NewOutgoingContext(ctx, in.header.Copy())
}

// retry calls call until it succeeds, fails for good, or ctx leaves no time or no
// inbox.Patience for another attempt. The error is ctx's own, or ErrUnavailable with
// the cause.
func (in *Inbox) retry(ctx context.Context, call func(ctx context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for pause := pauses(); ; {
		err := call(in.outgoing(within))
		if err == nil {
			return nil
		}
		patience := inbox.Patience(ctx)
		if !transient(err) || patience <= 0 || !wait(within, min(pause.Pause(), patience)) {
			return cmp.Or(ended(ctx), unavailable(err))
		}
	}
}

// ended returns ctx's error when ctx has ended, also when its deadline has passed
// and ctx has not noticed yet: a call may notice first.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && time.Until(deadline) <= 0 {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// pauses returns the pauses between attempts: random, so that instances that
// failed at the same time do not retry at the same time.
func pauses() gax.Backoff {
	return gax.Backoff{Initial: 50 * time.Millisecond, Max: 2 * time.Second, Multiplier: 2}
}

// wait waits, or reports false when ctx leaves no time for another attempt. Near
// the deadline it waits less, so that a late recovery is still used.
func wait(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if left < lastAttempt {
			return false
		}
		d = min(d, left/2)
	}
	return gax.Sleep(ctx, d) == nil
}

// transient reports whether another attempt may succeed. Canceled is included,
// because it is called only for calls that this package did not cancel.
func transient(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Internal,
		codes.Canceled, codes.Unknown:
		return true
	}
	return false
}

// unavailable returns ErrUnavailable with its cause for the log.
func unavailable(cause error) error {
	if errors.Is(cause, inbox.ErrUnavailable) {
		return cause
	}
	return fmt.Errorf("%w: %w", inbox.ErrUnavailable, cause)
}
