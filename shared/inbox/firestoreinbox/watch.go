package firestoreinbox

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// A feed's order is (commit time, ID). Firestore's reads are consistent: at read
// time T they show everything that was committed until T and nothing else. So a
// feed that yields, at each consistent point, what is new in that order can be
// resumed after any event.
//
// Commit times cannot be queried, but receivedAt can: it is at most watchSlack
// before the commit, and never after it.
const (
	// watchSlack is how much earlier than its commit a message's receivedAt may
	// be: the time of one attempt of a write, and some for a server that notices
	// late. A resumed feed reads this much again and drops it.
	watchSlack = attemptTimeout + 5*time.Second
	// maxBacklog is how many bytes of messages a feed buffers to order them.
	// A longer backlog it reads in windows instead. A console may have 80 feeds.
	maxBacklog = 256 << 10
	// Google's emulator (1.19.9) is not consistent: it stamps documents before
	// it commits them. emulatorLateness is how much later they may become
	// visible to queries; 7 ms were seen. Its listeners show old content as new,
	// report a change before it is visible and not again, block every writer
	// while one of them is not read, and fail a write when one of them ends. So
	// feeds from the emulator poll every emulatorPoll, emulatorLateness behind.
	emulatorLateness = 100 * time.Millisecond
	emulatorPoll     = 100 * time.Millisecond
	// windowItems and windowBytes are how many messages a window should not exceed,
	// and how many bytes of them.
	windowItems = 200
	windowBytes = 256 << 10
)

var (
	errStopped = errors.New("firestoreinbox: the reader of the feed stopped")
	errBacklog = errors.New("firestoreinbox: the backlog is too long to buffer")
)

// Watch implements inbox.Inbox with Firestore's listener. It reconnects by itself,
// and fails with ErrUnavailable after a minute without success.
func (in *Inbox) Watch(ctx context.Context, q inbox.Query) iter.Seq2[inbox.Event, error] {
	return func(yield func(inbox.Event, error) bool) {
		if ctx.Err() != nil {
			return
		}
		within, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(in.closing, cancel)()
		f := &feed{in: in, q: &q, yield: yield}
		f.use, _ = in.choose(&q, nil)
		if err := f.run(within); ended(ctx) == nil && !errors.Is(err, errStopped) {
			if in.closing.Err() != nil {
				err = errClosed
			}
			yield(inbox.Event{}, err)
		}
	}
}

// feed is one Watch under way.
type feed struct {
	in    *Inbox
	q     *inbox.Query
	use   condition // see Inbox.choose
	yield func(inbox.Event, error) bool
	at    inbox.Position // everything up to here is yielded
}

// run returns the error that the feed ends with.
func (f *feed) run(ctx context.Context) error {
	from, err := f.q.Position()
	if err != nil {
		return err
	}
	if from != nil {
		f.at = *from
	} else {
		// From now on, by Firestore's clock.
		now, err := f.in.readTime(ctx)
		if err != nil {
			return err
		}
		f.at = after(now)
	}
	pause, since := pauses(), time.Now()
	for {
		reached := f.at
		var err error
		if f.in.late > 0 {
			if err = f.catchUp(ctx); err == nil {
				err = gax.Sleep(ctx, emulatorPoll)
			}
		} else if err = f.listen(ctx); errors.Is(err, errBacklog) {
			err = f.catchUp(ctx)
		}
		if f.at != reached {
			pause, since = pauses(), time.Now()
		}
		switch {
		case err == nil || errors.Is(err, io.EOF):
		case f.use != nil && lacksIndex(err):
			f.use = nil
			continue
		case errors.Is(err, errStopped) || errors.Is(err, inbox.ErrUnavailable):
			return err
		case !transient(err) || time.Since(since) > giveUp:
			return queryError(unavailable(err))
		}
		if err := gax.Sleep(ctx, pause.Pause()); err != nil {
			return err
		}
	}
}

// listen yields what is new from a listener's stream until that ends.
func (f *feed) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &listener{order: order{q: f.q, at: f.at}, limit: f.in.backlog, more: make(chan struct{}, 1)}
	go l.run(ctx, f.in, f.in.windowQuery(f.use, f.at.Commit.Add(-watchSlack), time.Time{}))
	for range l.more {
		ready, at, err := l.take()
		if !f.send(ready, at) {
			return errStopped
		}
		if err != nil {
			return err
		}
	}
	return nil // never: run ends with an error
}

// send yields messages and then moves to a position behind them. It reports
// whether the reader wants more.
func (f *feed) send(ready []held, at inbox.Position) bool {
	for _, h := range ready {
		f.at = h.at
		if !f.yield(inbox.Event{Token: f.q.Token(h.at), Message: h.message}, nil) {
			return false
		}
	}
	f.at = at
	return !f.q.Progress || f.yield(inbox.Event{Token: f.q.Token(at)}, nil)
}

// endOfTime is the last second that Firestore can hold.
var endOfTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// catchUp yields a backlog that is too long to buffer. It reads windows of
// receivedAt, so wide that each has at most windowItems messages where possible,
// and returns when it reaches the present.
func (f *feed) catchUp(ctx context.Context) error {
	o := order{q: f.q, at: f.at}
	for since, width := f.at.Commit.Add(-watchSlack), time.Minute; ; {
		until := since.Add(width)
		if until.After(endOfTime) { // the position may be anybody's
			until = endOfTime
		}
		query := f.in.windowQuery(f.use, since, until)
		f.in.cut(query, windowItems)
		// Stamps are whole milliseconds, so a window cannot be narrower.
		narrowest := width <= time.Millisecond
		if narrowest {
			query.Limit = nil
		}
		docs, now, full, err := f.window(ctx, query, narrowest)
		if err != nil {
			return err
		}
		if full {
			width = max(width/4, time.Millisecond)
			continue
		}
		for _, d := range docs {
			o.add(f.in, d)
		}
		// What was committed until then was received until then, and is in this
		// window or an earlier one.
		now = now.Add(-f.in.late)
		caughtUp := !until.Before(now)
		if caughtUp {
			until = now
		}
		if ready := o.until(until); !f.send(ready, o.at) {
			return errStopped
		}
		if caughtUp {
			return nil
		}
		if since = until; len(docs) < windowItems/4 {
			width *= 4
		}
	}
}

// window returns the documents of a query and the time at which the first was read.
// It reports a window that is full, of windowItems or windowBytes, unless it is the
// narrowest.
func (f *feed) window(ctx context.Context, query *pb.StructuredQuery, narrowest bool) (docs []*pb.Document, at time.Time, full bool, err error) {
	err = f.in.retry(ctx, func(ctx context.Context) error {
		docs, at, full = nil, time.Time{}, false
		bytes := 0
		return f.in.stream(ctx, query, func(d *pb.Document, readTime time.Time) error {
			if at.IsZero() {
				at = readTime
			}
			if d == nil {
				return nil
			}
			docs = append(docs, d)
			bytes += proto.Size(d)
			if full = !narrowest && (len(docs) == windowItems || bytes > windowBytes); full {
				return errEnough
			}
			return nil
		})
	})
	return docs, at, full, err
}

// listener reads a stream as fast as it arrives, however slow the reader of the
// feed is, until its buffer is full. Unlike the handwritten client it has no copy
// of all documents that match, so that it needs no more memory after a day.
type listener struct {
	order
	limit int           // of bytes, here and in ready
	more  chan struct{} // has an element when take has something to return

	mu         sync.Mutex
	ready      []held
	readyBytes int
	readyAt    inbox.Position // behind ready
	err        error          // why the stream ended
}

// run listens to query until it fails or ctx ends.
func (l *listener) run(ctx context.Context, in *Inbox, query *pb.StructuredQuery) {
	l.readyAt = l.at
	err := l.listen(ctx, in, query)
	l.mu.Lock()
	l.err = err
	l.mu.Unlock()
	l.wake()
}

func (l *listener) wake() {
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// take returns what is ready, the position after it, and the error that ended the
// stream, if it has ended.
func (l *listener) take() ([]held, inbox.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ready := l.ready
	l.ready, l.readyBytes = nil, 0
	return ready, l.readyAt, l.err
}

// put makes everything ready that was committed until t, a consistent point.
func (l *listener) put(t time.Time) {
	ready := l.until(t)
	l.mu.Lock()
	for _, h := range ready {
		l.readyBytes += h.bytes
	}
	l.ready, l.readyAt = append(l.ready, ready...), l.at
	l.mu.Unlock()
	l.wake()
}

// full reports whether the buffer is full.
func (l *listener) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes+l.readyBytes > l.limit
}

func (l *listener) listen(ctx context.Context, in *Inbox, query *pb.StructuredQuery) error {
	stream, err := in.client.Listen(in.outgoing(ctx)) // run's caller ends it
	if err != nil {
		return err
	}
	// When Send fails, Recv says why.
	_ = stream.Send(&pb.ListenRequest{
		Database: in.database,
		TargetChange: &pb.ListenRequest_AddTarget{AddTarget: &pb.Target{
			TargetId: 1,
			TargetType: &pb.Target_Query{Query: &pb.Target_QueryTarget{
				Parent:    in.documents,
				QueryType: &pb.Target_QueryTarget_StructuredQuery{StructuredQuery: query},
			}},
		}},
	})
	current := false
	for {
		res, err := stream.Recv()
		if err != nil {
			return err
		}
		switch r := res.GetResponseType().(type) {
		case *pb.ListenResponse_DocumentChange:
			// Without a target it is a removal. A feed ignores removals, and the
			// filters that announce them.
			if len(r.DocumentChange.GetTargetIds()) > 0 {
				l.add(in, r.DocumentChange.GetDocument())
			}
			if l.full() {
				return errBacklog
			}
		case *pb.ListenResponse_TargetChange:
			c := r.TargetChange
			switch c.GetTargetChangeType() {
			case pb.TargetChange_CURRENT:
				current = true
			case pb.TargetChange_RESET: // it begins from its start again
				current = false
				l.drop()
			case pb.TargetChange_REMOVE:
				if c.GetCause() == nil {
					return status.Error(codes.Aborted, "the server removed the target")
				}
				return status.ErrorProto(c.GetCause())
			case pb.TargetChange_NO_CHANGE:
				// A read time for all targets is a consistent point.
				if current && len(c.GetTargetIds()) == 0 && c.GetReadTime() != nil {
					l.put(micros(c.GetReadTime()))
				}
			}
		}
	}
}

// order puts messages into the order of feeds.
type order struct {
	q     *inbox.Query
	at    inbox.Position // messages up to here are yielded
	held  map[string]held
	bytes int // of held
}

// held is a message that waits for a consistent point.
type held struct {
	at      inbox.Position
	message inbox.Message
	bytes   int
}

// add buffers d's message, unless it was yielded, has expired or is not selected.
func (o *order) add(in *Inbox, d *pb.Document) {
	h := held{at: position(d)}
	if !precedes(o.at, h.at) || in.expired(d) {
		return
	}
	if h.message = message(d); !o.q.Matches(&h.message) {
		return
	}
	h.message.Data = bytes.Clone(h.message.Data) // not the whole response's memory
	h.bytes = h.message.Footprint()
	if o.held == nil {
		o.held = make(map[string]held)
	}
	o.bytes += h.bytes - o.held[h.at.ID].bytes
	o.held[h.at.ID] = h
}

// drop empties the buffer.
func (o *order) drop() { o.held, o.bytes = nil, 0 }

// until returns, in order, the buffered messages that were committed until t, and
// moves at behind t.
func (o *order) until(t time.Time) []held {
	var ready []held
	for id, h := range o.held {
		if !h.at.Commit.After(t) {
			ready = append(ready, h)
			delete(o.held, id)
			o.bytes -= h.bytes
		}
	}
	slices.SortFunc(ready, func(a, b held) int { return comparePositions(a.at, b.at) })
	if next := after(t); precedes(o.at, next) {
		o.at = next
	}
	return ready
}

// precedes reports whether a stands before b in a feed.
func precedes(a, b inbox.Position) bool { return comparePositions(a, b) < 0 }

func comparePositions(a, b inbox.Position) int {
	return cmp.Or(a.Commit.Compare(b.Commit), cmp.Compare(a.ID, b.ID))
}
