// Package process runs a user's function for each message that Pub/Sub pushes, in the
// Firestore transaction that stores the message. The message and what the function
// writes through the transaction are there together, once, or not at all. Pub/Sub
// keeps what was not acknowledged, delivers it again, orders and dead-letters it:
// this package has no queue.
//
// Once gives the same to those who process on a Firestore trigger.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/shared/firestoredial"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
)

// Func processes a message. It may read and write through tx, reads first, as
// Firestore wants it. What it writes through tx happens exactly once, although Func may
// run several times: after an error of its own, when the transaction met another one, or
// when an acknowledgement was lost. For effects elsewhere, such as a payment, m.ID is
// the idempotency key: it is the same in every run, and no other message has it.
//
// An error, a panic and a ctx that ends leave nothing behind; Pub/Sub delivers the
// message again. An error of Reject is final. m must not be changed; it has no
// ReceivedAt yet. A Func that ignores the end of ctx goes on in vain.
type Func func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error

const (
	// MaxLimit bounds a run of a Func, with its transaction. Firestore ends a
	// transaction that was idle for 60 seconds.
	MaxLimit = 50 * time.Second
	// commitTimeout bounds a commit. The feed of the inbox relies on it: it looks back
	// so far for messages that became visible late.
	commitTimeout = 10 * time.Second
	// attempts is how often the client tries a transaction again that others were in the
	// way of, each time with more right of way and after a random pause of up to 1, 2
	// and 4 seconds. Of more, the pauses would grow beyond an ack deadline.
	attempts = 4
)

// Config is what the environment does not say about a function.
type Config struct {
	// Name is the name that the function is registered and deployed with.
	Name string
	// Limit bounds one run of the Func with its transaction. 0 means the longest: the
	// ack deadline (PUSH_ACK_DEADLINE) less 2 seconds, or MaxLimit where that is less.
	// A longer one is refused.
	Limit time.Duration
}

// Handler returns the Cloud Function that runs f, for functions.HTTP. Its settings are
// those of the function receive. When the process was started to serve this function,
// it is created at once, so that a bad setting fails the deployment.
func Handler(cfg Config, f Func) http.HandlerFunc {
	log := httpapi.NewLogger(os.Stderr)
	return httpapi.Function(cfg.Name, os.Getenv("FUNCTION_TARGET"), log, func(ctx context.Context) (http.Handler, error) {
		e, err := settings.Parse[pushendpoint.Environment](nil)
		if err != nil {
			return nil, err
		}
		verifier, err := verify.New(nil)
		if err != nil {
			return nil, err
		}
		store, err := Open(ctx, e.Config)
		if err != nil {
			return nil, err
		}
		return New(cfg, e.Push, verifier, store, f, log)
	})
}

// Store is an inbox in Firestore, with transactions.
type Store struct {
	inbox      *firestoreinbox.Inbox
	client     *firestore.Client
	collection string
}

// Open returns the store in Firestore, or in its emulator, that c describes.
func Open(ctx context.Context, c firestoreinbox.Config) (*Store, error) {
	in, err := firestoreinbox.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	client, err := firestoredial.Client(ctx, c.Project, c.Database, c.EmulatorHost, []grpc.DialOption{grpc.WithUnaryInterceptor(boundCommit)})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process: %w", err), in.Close())
	}
	return &Store{in, client, c.Collection}, nil
}

// boundCommit bounds each attempt of a commit.
func boundCommit(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	if method == "/google.firestore.v1.Firestore/Commit" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, commitTimeout)
		defer cancel()
	}
	return invoke(ctx, method, request, answer, conn, o...)
}

// Close closes the connections.
func (s *Store) Close() error { return errors.Join(s.inbox.Close(), s.client.Close()) }

// New returns the endpoint that runs f. It is pushendpoint.New's, which does all but
// the storing.
func New(cfg Config, push pushendpoint.Config, v pushendpoint.Verifier, s *Store, f Func, log *slog.Logger) (http.Handler, error) {
	if s == nil || f == nil {
		return nil, errors.New("process: a store and a function are required")
	}
	limit := min(cmp.Or(push.AckDeadline, pushendpoint.DefaultAckDeadline)-pushendpoint.AnswerTime, MaxLimit)
	if cfg.Limit < 0 || cfg.Limit > limit {
		return nil, fmt.Errorf("process: the limit of %s is %v; it must be %v at most, which PUSH_ACK_DEADLINE and Firestore's transactions leave", cfg.Name, cfg.Limit, limit)
	}
	return pushendpoint.New(push, v, &processing{Store: s, f: f, limit: cmp.Or(cfg.Limit, limit), again: make(chan struct{}, 1)}, log)
}

// processing is a pushendpoint.Store.
type processing struct {
	*Store
	f     Func
	limit time.Duration
	// again has room for the one transaction that is tried again. Many that wait for
	// each other's locks, and are tried again all at once, would do so for ever.
	again chan struct{}
}

// Put runs the function and stores m in one transaction, unless m was stored before.
func (p *processing) Put(ctx context.Context, m *inbox.Message) (stored bool, err error) {
	if m.Quarantined != "" {
		return p.inbox.Put(ctx, m)
	}
	id, fields, exists, err := p.inbox.Draft(ctx, m)
	if err != nil || exists {
		return false, err
	}
	ref := p.client.Collection(p.collection).Doc(id)
	run := *m
	run.ID, run.Size = id, len(m.Data)
	stored, err = p.transaction(ctx, ref, fields, &run)
	var final *rejection
	if errors.As(err, &final) {
		httpapi.Log(ctx, slog.String("cause", final.Error()))
		m.Quarantined = inbox.ReasonRejected
		return p.inbox.Put(ctx, m)
	}
	return stored, err
}

// transaction runs the function and creates the message's document, again as long as
// other transactions are in the way.
func (p *processing) transaction(ctx context.Context, ref *firestore.DocumentRef, fields map[string]any, m *inbox.Message) (stored bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	ctx = context.WithValue(ctx, clientKey{}, p.client)
	for tries := 1; ; tries = attempts {
		err := p.client.RunTransaction(ctx, func(ctx context.Context, tx *firestore.Transaction) error {
			stored = false
			if _, err := tx.Get(ref); status.Code(err) != codes.NotFound {
				return err // with nil: it was stored before
			}
			if err := p.call(ctx, tx, m); err != nil {
				return err
			}
			stored = true
			return tx.Create(ref, fields)
		}, firestore.MaxAttempts(tries))
		if !isInTheWay(err) || ctx.Err() != nil {
			return stored && err == nil, p.answer(ctx, err)
		}
		if tries > 1 {
			continue // it is the one
		}
		select {
		case p.again <- struct{}{}:
			defer func() { <-p.again }()
		case <-ctx.Done():
			return false, p.answer(ctx, err)
		}
	}
}

// isInTheWay reports whether a transaction failed because of others: Firestore ended it, or
// its commit waited for their locks for too long. It may have been committed all the same,
// which the next try sees.
func isInTheWay(err error) bool {
	switch status.Code(err) {
	case codes.Aborted:
		return true
	case codes.DeadlineExceeded: // of the commit, not of what the function waited for
		return !errors.As(err, new(*failure))
	}
	return false
}

// call runs the function. It returns when ctx ends, even where the function does not:
// the transaction is not committed then, whatever that writes through it.
func (p *processing) call(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				done <- &failure{fmt.Errorf("panic: %v\n%s", cause, debug.Stack())}
			}
		}()
		if err := p.f(ctx, tx, m); err != nil {
			done <- &failure{err}
			return
		}
		done <- nil
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failure is an error of the function.
type failure struct{ cause error }

func (f *failure) Error() string { return f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// answer returns the error of a transaction as Pub/Sub and the log get it.
func (p *processing) answer(ctx context.Context, err error) error {
	var own *failure
	switch {
	case err == nil || errors.As(err, new(*rejection)):
		return err
	case ctx.Err() != nil:
		return &problem.Error{Status: http.StatusServiceUnavailable, Reason: "handler_timeout",
			Detail: fmt.Sprintf("the message was not processed within %v; it is to be delivered again", p.limit), Cause: err}
	case errors.As(err, &own):
		return &problem.Error{Status: http.StatusServiceUnavailable, Reason: "handler",
			Detail: "the function failed; the message is to be delivered again", Cause: own.cause}
	}
	return fmt.Errorf("%w: %w", inbox.ErrUnavailable, err)
}

// Reject returns an error that makes a Func's refusal final: the message is stored,
// marked as quarantined, and acknowledged, and what the Func has written is dropped.
// cause goes to the log.
func Reject(cause error) error { return &rejection{cause} }

type rejection struct{ cause error }

func (r *rejection) Error() string {
	if r.cause == nil {
		return "rejected"
	}
	return r.cause.Error()
}
func (r *rejection) Unwrap() error { return r.cause }

type clientKey struct{}

// Client returns the client of the transaction that a Func runs in, for references to
// documents; ctx is that of the Func.
func Client(ctx context.Context) *firestore.Client {
	client, _ := ctx.Value(clientKey{}).(*firestore.Client)
	return client
}
