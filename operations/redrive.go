package operations

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/delivery"
)

// maxLeft is how many of what is left are named at the end of a redrive.
const maxLeft = 1000

// RedriveOptions are how a redrive goes. Source is required.
type RedriveOptions struct {
	// Source is the full name of the push subscription whose push configuration is
	// copied.
	Source string
	// Interval is the time between two looks at the backlog, 0 half a second.
	Interval time.Duration
	// Patience is how long nothing may move until it ends; 0 means 3 minutes. Delivery
	// that fails often pauses for up to a minute.
	Patience time.Duration
	// Probe is how long the backlog may be unknown until the pushing stops for a look
	// at what is left; 0 means 2 seconds. It is doubled each time.
	Probe time.Duration
	// OnContinue is called where somebody began it earlier, with the record; nil means
	// that nobody wants to know.
	OnContinue func(*delivery.Operation)
	// OnProgress is called at each look; nil means that nobody wants to know.
	OnProgress func(Progress)
}

// Progress is how far a redrive is.
type Progress struct {
	// Waiting is how many wait, of the Began that did at first; nil is not known.
	Waiting, Began *int64
	// Still is how long nothing has moved.
	Still time.Duration
}

// Redriven is what a redrive did.
type Redriven struct {
	// Operation is its record, and Continued says that somebody began it earlier.
	Operation *delivery.Operation
	Continued bool
	// Endpoint is where it was pushed to, without the value of a shared token.
	Endpoint string
	// Began is how many waited at first; nil is not known.
	Began *int64
	// Stalled says that it ended since nothing moved any more.
	Stalled bool
	// Left is what waits still, at most a thousand of it, and More whether there is
	// more.
	Left []DeadLetter
	More bool
}

// Redrive has Pub/Sub push the dead letters of a subscription again until none waits
// or nothing moves, and then ends the pushing. Their message IDs stay the
// same, so whatever is repeated is stored once. When ctx ends it ends the pushing
// too, and the next Redrive goes on; so it does after it was killed.
func (op *Operator) Redrive(ctx context.Context, subscription string, o RedriveOptions) (*Redriven, error) {
	source, err := op.get(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	if !isPushed(source) {
		return nil, refused("%s is paused, or not a push subscription: there is nothing to push dead letters with; resume it first: pushinbox delivery resume", o.Source)
	}
	sub, record, err := op.find(ctx, subscription)
	if err != nil {
		return nil, err
	}
	if record == nil && isPushed(sub) || record != nil && record.Kind != delivery.Redrive {
		return nil, inTheWay(sub, record)
	}
	r := &Redriven{Operation: record, Continued: record != nil, Endpoint: delivery.HideToken(source.PushConfig.PushEndpoint)}
	if record == nil {
		r.Operation = &delivery.Operation{
			Kind: delivery.Redrive, Subscription: subscription, Principal: op.o.Principal, At: op.o.Now().UTC().Truncate(time.Microsecond),
		}
		if err := op.o.Records.Put(ctx, r.Operation); err != nil {
			return nil, refused("%w", err)
		}
	}
	if r.Continued && o.OnContinue != nil {
		o.OnContinue(record)
	}
	// What was pushed and refused, or was not answered, is leased for so long.
	leased := time.Duration(sub.AckDeadlineSeconds)*time.Second + op.o.LookPatience
	w := &watch{op: op, subscription: subscription, leased: leased, push: proto.CloneOf(source.PushConfig), o: o.withDefaults(), r: r}
	if b := op.backlog(ctx, subscription); b != nil {
		r.Began = &b.Messages
	}
	if err := op.setPush(ctx, subscription, w.push); err != nil {
		// Pub/Sub may have done it all the same.
		return nil, errors.Join(err, op.detach(ctx, subscription))
	}
	ended := w.run(ctx)
	if errors.Is(ended, errOthers) {
		return r, ended // what is there now is somebody else's
	}
	if err := op.detach(ctx, subscription); err != nil {
		return r, errors.Join(ended, err)
	}
	if ended == nil && !w.empty {
		if w.zeros > 0 {
			leased = op.o.LookPatience
		}
		r.Left, r.More, ended = op.look(ctx, subscription, maxLeft, leased)
	}
	return r, ended
}

// StopRedrive ends the pushing of a redrive that was left, and returns its record;
// nil means that there was none.
func (op *Operator) StopRedrive(ctx context.Context, subscription string) (*delivery.Operation, error) {
	record, err := op.o.Records.Get(ctx, subscription)
	if err != nil {
		return nil, err
	}
	if record == nil {
		sub, err := op.get(ctx, subscription)
		if err == nil && isPushed(sub) {
			err = inTheWay(sub, nil)
		}
		return nil, err
	}
	if record.Kind != delivery.Redrive {
		return nil, refused("%s is paused (%s), not redriven", subscription, began(record))
	}
	return record, op.detach(ctx, subscription)
}

// stop is the command that ends the redrive of what a subscription keeps, and of no other.
func stop(subscription string) string {
	return "pushinbox dead-letters redrive --stop --dead-letter-subscription " + subscription + ", with the --data, --project or --terraform of this command"
}

// detach ends the pushing of dead letters and deletes the record, even after ctx
// ended.
func (op *Operator) detach(ctx context.Context, subscription string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := op.setPush(ctx, subscription, new(pubsubpb.PushConfig))
	if err == nil {
		err = op.o.Records.Delete(ctx, subscription)
	}
	if err != nil {
		return fmt.Errorf("%w: end the redrive of %s with: %s: %w", ErrAttached, subscription, stop(subscription), err)
	}
	return nil
}

func (o RedriveOptions) withDefaults() RedriveOptions {
	if o.Interval <= 0 {
		o.Interval = 500 * time.Millisecond
	}
	if o.Patience <= 0 {
		o.Patience = 3 * time.Minute
	}
	if o.Probe <= 0 {
		o.Probe = 2 * time.Second
	}
	return o
}

var (
	// ErrAttached is the cause of the error of a redrive whose pushing could not be ended.
	ErrAttached = errors.New("the dead letters may still be pushed")
	// ErrEnded is the cause of the error of a redrive that somebody else has ended.
	ErrEnded = errors.New("somebody else has ended this redrive, by redrive --stop, a second redrive or terraform apply")
	// errOthers is an ErrEnded after which nothing of the redrive is left to undo.
	errOthers = fmt.Errorf("%w", ErrEnded)
)

// watch follows a redrive.
type watch struct {
	op           *Operator
	subscription string
	leased       time.Duration // how long messages may be leased once the pushing ended
	push         *pubsubpb.PushConfig
	o            RedriveOptions
	r            *Redriven

	waiting *int64
	best    int64 // the fewest that waited
	moved   time.Time
	zeros   int
	empty   bool // that is what the last probe found
}

// run returns when nothing waits, or nothing moves, or ctx ended.
func (w *watch) run(ctx context.Context) error {
	tick := time.NewTicker(w.o.Interval)
	defer tick.Stop()
	began := w.op.o.Now()
	w.moved, w.best = began, -1
	known := began // when the backlog was last known
	if w.o.OnProgress != nil {
		w.o.OnProgress(Progress{Waiting: w.r.Began, Began: w.r.Began})
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := w.under(ctx); err != nil {
			return err
		}
		now := w.op.o.Now()
		done := false
		if b := w.op.backlog(ctx, w.subscription); b != nil && b.At.After(known) {
			known = b.At
			done = w.count(b.Messages, now)
		} else if now.Sub(known) >= w.o.Probe {
			var err error
			if done, err = w.probe(ctx, now); err != nil {
				return err
			}
			known = w.op.o.Now()
			w.o.Probe = min(2*w.o.Probe, w.o.Patience/2)
		}
		if w.o.OnProgress != nil {
			w.o.OnProgress(Progress{Waiting: w.waiting, Began: w.r.Began, Still: now.Sub(w.moved)})
		}
		if done {
			return nil
		}
		if now.Sub(w.moved) >= w.o.Patience {
			w.r.Stalled = true
			return nil
		}
	}
}

// under returns an error unless the redrive is under way still, as far as can be seen.
func (w *watch) under(ctx context.Context) error {
	record, err := w.op.o.Records.Get(ctx, w.subscription)
	if err != nil {
		return nil // the next look may succeed
	}
	if record != nil && !w.isOurs(record) {
		return errOthers
	}
	sub, err := w.op.get(ctx, w.subscription)
	isPushed := err == nil && samePush(sub.GetPushConfig(), w.push)
	switch {
	case record == nil && (isPushed || err != nil && !errors.Is(err, ErrRefused)):
		// Somebody ended it while this redrive was about to push: nobody else would
		// take the endpoint away.
		return ErrEnded
	case record == nil:
		return errOthers
	case errors.Is(err, ErrRefused):
		return err
	case err == nil && !isPushed:
		return ErrEnded
	}
	return nil
}

// isOurs reports whether a record is that of this redrive.
func (w *watch) isOurs(record *delivery.Operation) bool {
	began := w.r.Operation
	return record != nil && record.Kind == began.Kind && record.Principal == began.Principal && record.At.Equal(began.At)
}

// backlog returns what waits, or nil where that is not known.
func (op *Operator) backlog(ctx context.Context, subscription string) *Backlog {
	if op.o.Backlog == nil {
		return nil
	}
	b, err := op.o.Backlog(ctx, subscription)
	if err != nil {
		return nil
	}
	return b
}

// count notes how many wait, and reports whether none does: that was seen twice,
// since what Monitoring says is a sample.
func (w *watch) count(waiting int64, now time.Time) (done bool) {
	w.waiting = &waiting
	if w.r.Began == nil || waiting > *w.r.Began {
		w.r.Began = &waiting
	}
	if w.best < 0 || waiting < w.best {
		w.best, w.moved = waiting, now
	}
	if w.zeros++; waiting > 0 {
		w.zeros = 0
	}
	return w.zeros >= 2
}

// probe stops the pushing, looks at what is left, and goes on unless it is nothing.
// The record stays, so that nobody else begins meanwhile.
func (w *watch) probe(ctx context.Context, now time.Time) (done bool, err error) {
	if err := w.op.setPush(ctx, w.subscription, new(pubsubpb.PushConfig)); err != nil {
		return false, err
	}
	left, more, err := w.op.look(ctx, w.subscription, maxLeft, w.leased)
	if err != nil {
		return false, err
	}
	if w.empty = len(left) == 0; w.empty {
		return true, nil
	}
	if more { // too many to count
		w.moved = now
	} else {
		w.count(int64(len(left)), now)
	}
	// A look takes a while, in which somebody may have ended the redrive.
	if record, err := w.op.o.Records.Get(ctx, w.subscription); err == nil && !w.isOurs(record) {
		return false, errOthers
	}
	return false, w.op.setPush(ctx, w.subscription, w.push)
}
