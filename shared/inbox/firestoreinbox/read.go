package firestoreinbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// Get implements inbox.Inbox. It needs memory for the data and one chunk.
func (in *Inbox) Get(ctx context.Context, id string) (*inbox.Message, error) {
	end, err := in.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	d, m, err := in.find(ctx, id, nil)
	if err != nil {
		return nil, err
	}
	if rest := d.GetFields()[fieldDataRest].GetBytesValue(); len(rest) > 0 {
		m.Data = slices.Concat(m.Data, rest)
	} else if m.Truncated {
		if err := in.readChunks(ctx, d, m); err != nil {
			return nil, err
		}
	}
	if m.Truncated = false; len(m.Data) != m.Size {
		return nil, unavailable(errCorrupt)
	}
	return m, nil
}

// Peek implements inbox.Inbox.
func (in *Inbox) Peek(ctx context.Context, id string) (*inbox.Message, error) {
	end, err := in.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	_, m, err := in.find(ctx, id, listed)
	return m, err
}

// find returns the document with this ID, of which it reads fields or, when that is
// nil, all, and its message with the data cut to the preview.
func (in *Inbox) find(ctx context.Context, id string, fields []string) (d *pb.Document, _ *inbox.Message, err error) {
	if !inbox.ValidID(id) {
		return nil, nil, inbox.ErrNotFound
	}
	err = in.getDocuments(ctx, []string{in.name(id)}, fields, func(found *pb.Document) error { d = found; return nil })
	if err != nil {
		return nil, nil, err
	}
	if d == nil || in.expired(d) {
		return nil, nil, inbox.ErrNotFound
	}
	m := message(d)
	if m.Size < len(m.Data) || m.Size > inbox.MaxQuarantinedSize {
		return nil, nil, unavailable(errCorrupt)
	}
	return d, &m, nil
}

// readChunks completes m's data.
func (in *Inbox) readChunks(ctx context.Context, d *pb.Document, m *inbox.Message) error {
	sum := d.GetFields()[fieldDigest].GetBytesValue()
	if len(sum) < digestSize || len(m.Data) != inbox.PreviewSize {
		return unavailable(errCorrupt)
	}
	chunks := in.chunksOf(m.ID, sum, m.Size)
	named := make(map[string]chunk, len(chunks))
	missing := make(map[string]bool, len(chunks))
	names := make([]string, len(chunks))
	for i, c := range chunks {
		names[i], named[c.name], missing[c.name] = c.name, c, true
	}
	data := make([]byte, m.Size)
	copy(data, m.Data)
	err := in.getDocuments(ctx, names, nil, func(found *pb.Document) error {
		c, part := named[found.GetName()], found.GetFields()[fieldData].GetBytesValue()
		if len(part) != c.end-c.start {
			return errCorrupt
		}
		copy(data[c.start:c.end], part)
		delete(missing, c.name)
		return nil
	})
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if timeOf(d.GetFields()[fieldExpireAt]).Before(in.now()) {
			return inbox.ErrNotFound // expired and partly deleted
		}
		return unavailable(fmt.Errorf("%w: %d of %d chunks are missing", errCorrupt, len(missing), len(chunks)))
	}
	m.Data = data
	return nil
}

// getDocuments calls found for each document that exists, in any order, and again
// when an attempt failed. It reads only the named fields, or all when fields is
// nil.
func (in *Inbox) getDocuments(ctx context.Context, names, fields []string, found func(*pb.Document) error) error {
	// GetDocument does not distinguish a missing document from a missing database.
	req := &pb.BatchGetDocumentsRequest{Database: in.database, Documents: names}
	if fields != nil {
		req.Mask = &pb.DocumentMask{FieldPaths: fields}
	}
	return in.retry(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := in.client.BatchGetDocuments(ctx, req)
		if err != nil {
			return err
		}
		return receive(stream, func(res *pb.BatchGetDocumentsResponse) error {
			if d := res.GetFound(); d != nil {
				return found(d)
			}
			return nil
		})
	})
}

// receive calls each for every response of a stream, to its end.
func receive[R any](stream interface{ Recv() (R, error) }, each func(R) error) error {
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(res); err != nil {
			return err
		}
	}
}

// List implements inbox.Inbox with one query over all shards. It reads one
// document more than it returns and skips, to find out whether a next page exists.
func (in *Inbox) List(ctx context.Context, q inbox.Query) (*inbox.Page, error) {
	end, err := in.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	from, err := q.Position()
	if err != nil {
		return nil, err
	}
	at, err := in.pageTime(ctx)
	if err != nil {
		return nil, err
	}
	names, asOf, err := in.subscriptionsNamed(ctx, &q)
	if err != nil {
		return nil, err
	}
	if at.IsZero() {
		at = asOf
	}
	use, isExact := in.choose(&q, names)
	page := q.Fill(isExact)
	at, err = in.fill(ctx, &q, page, use, from, at)
	if use != nil && lacksIndex(err) {
		page = q.Fill(false)
		at, err = in.fill(ctx, &q, page, nil, from, at)
	}
	if err != nil {
		return nil, queryError(err)
	}
	page.WatchToken = q.Token(after(at))
	return &page.Page, nil
}

// fill fills a page with what stands after a position and was committed at a time or
// before, which is that of the first result when it is zero. It returns that time.
func (in *Inbox) fill(ctx context.Context, q *inbox.Query, page *inbox.Filling, use condition, from *inbox.Position, at time.Time) (time.Time, error) {
	want, skipped := q.Limit()+1, 0
	// Documents become messages one by one, and the query ends with the page: its
	// memory is the page's. An attempt that fails halfway goes on where it was.
	err := in.retry(ctx, func(ctx context.Context) error {
		for {
			found, isFull := 0, false
			err := in.stream(ctx, in.listQuery(q, use, from, want), func(d *pb.Document, readTime time.Time) error {
				// The page shows the time of the first result. A message that
				// arrived while the others were read belongs to the feed that starts
				// here.
				if at.IsZero() {
					at = readTime
				}
				if d == nil {
					return nil
				}
				found++
				last, listed := position(d), len(page.Events)
				from = &last
				var m *inbox.Message
				if !last.Commit.After(at) && !in.expired(d) {
					found := message(d)
					m = &found
				}
				if isFull = !page.Add(last, m); isFull {
					return errEnough
				}
				if len(page.Events) == listed {
					skipped++
				}
				return nil
			})
			if err != nil || isFull || found < want {
				return err
			}
			// After many that were skipped it asks for as many again, so that what
			// Firestore reads for nothing stays in proportion.
			want = max(q.Limit()+1-len(page.Events), min(skipped, inbox.MaxPageSize))
		}
	})
	return at, err
}

// pageTime returns the time that a page shows, zero for the time of its query. In
// the emulator it is a moment before the query; see emulatorLateness.
func (in *Inbox) pageTime(ctx context.Context) (time.Time, error) {
	if in.late == 0 {
		return time.Time{}, nil
	}
	at, err := in.readTime(ctx)
	if err == nil {
		err = gax.Sleep(ctx, in.late)
	}
	return at, err
}

// after returns the position behind everything that was committed at t.
func after(t time.Time) inbox.Position {
	t = t.Add(time.Microsecond)
	return inbox.Position{ReceivedAt: t, Commit: t}
}

// readTime returns the time at which a query reads now, by Firestore's clock.
func (in *Inbox) readTime(ctx context.Context) (at time.Time, err error) {
	err = in.retry(ctx, func(ctx context.Context) error {
		return in.stream(ctx, in.listQuery(&inbox.Query{}, nil, nil, 1), func(_ *pb.Document, readTime time.Time) error {
			at = readTime
			return errEnough
		})
	})
	return at, err
}

// errEnough ends a stream whose other documents are not needed.
var errEnough = errors.New("firestoreinbox: enough was read")

// stream runs a query once and calls each for its documents, in order, with the
// time at which they were read, and with nil where an answer has only the time. It
// ends at each's first error, and without one at errEnough.
func (in *Inbox) stream(ctx context.Context, query *pb.StructuredQuery, each func(d *pb.Document, readTime time.Time) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := in.client.RunQuery(ctx, &pb.RunQueryRequest{
		Parent:    in.documents,
		QueryType: &pb.RunQueryRequest_StructuredQuery{StructuredQuery: query},
	})
	if err != nil {
		return err
	}
	isTimed := false
	err = receive(stream, func(res *pb.RunQueryResponse) error {
		isTimed = isTimed || res.GetReadTime() != nil
		return each(res.GetDocument(), micros(res.GetReadTime()))
	})
	switch {
	case errors.Is(err, errEnough):
		return nil
	case err == nil && !isTimed:
		return unavailable(errors.New("firestoreinbox: the answer to a query has no read time"))
	}
	return err
}

// listQuery returns the query of a page that starts after a position, by the index
// that choose chose.
func (in *Inbox) listQuery(q *inbox.Query, use condition, from *inbox.Position, limit int) *pb.StructuredQuery {
	var filters []condition
	since, until := q.Bounds()
	if !since.IsZero() {
		filters = append(filters, compare(fieldReceivedAt, pb.StructuredQuery_FieldFilter_GREATER_THAN_OR_EQUAL, timeValue(since)))
	}
	if !until.IsZero() {
		filters = append(filters, compare(fieldReceivedAt, pb.StructuredQuery_FieldFilter_LESS_THAN, timeValue(until)))
	}
	query := in.query(q.Ascending, use, filters...)
	in.cut(query, limit)
	if from != nil {
		query.StartAt = &pb.Cursor{Values: []*pb.Value{timeValue(from.ReceivedAt)}, Before: true}
		if from.ID != "" {
			query.StartAt.Values = append(query.StartAt.Values,
				&pb.Value{ValueType: &pb.Value_ReferenceValue{ReferenceValue: in.name(from.ID)}})
			query.StartAt.Before = false
		}
	}
	return query
}

// cut lets a query return what lists read of at most limit documents.
func (in *Inbox) cut(query *pb.StructuredQuery, limit int) {
	query.Select = &pb.StructuredQuery_Projection{}
	for _, name := range listed {
		query.Select.Fields = append(query.Select.Fields, field(name))
	}
	query.Limit = wrapperspb.Int32(int32(limit))
}

// windowQuery returns the query of what was received after one time and, when
// until is not zero, not after another, by the index that choose chose.
func (in *Inbox) windowQuery(use condition, since, until time.Time) *pb.StructuredQuery {
	filters := []condition{
		compare(fieldReceivedAt, pb.StructuredQuery_FieldFilter_GREATER_THAN, timeValue(since)),
	}
	if !until.IsZero() {
		filters = append(filters, compare(fieldReceivedAt, pb.StructuredQuery_FieldFilter_LESS_THAN_OR_EQUAL, timeValue(until)))
	}
	return in.query(false, use, filters...)
}

// query returns what every query for messages is made from: the condition that choose
// chose, if any, and others over all shards, newest or oldest first.
// firestore.indexes.json declares its indexes.
func (in *Inbox) query(ascending bool, use condition, others ...condition) *pb.StructuredQuery {
	shards := make([]*pb.Value, in.shards)
	for i := range shards {
		shards[i] = intValue(i)
	}
	filters := []condition{compare(fieldShard, pb.StructuredQuery_FieldFilter_IN, arrayValue(shards))}
	if use != nil {
		filters = append(filters, use)
	}
	direction := pb.StructuredQuery_DESCENDING
	if ascending {
		direction = pb.StructuredQuery_ASCENDING
	}
	return &pb.StructuredQuery{
		From: []*pb.StructuredQuery_CollectionSelector{{CollectionId: in.collection}},
		Where: &pb.StructuredQuery_Filter{FilterType: &pb.StructuredQuery_Filter_CompositeFilter{
			CompositeFilter: &pb.StructuredQuery_CompositeFilter{
				Op:      pb.StructuredQuery_CompositeFilter_AND,
				Filters: append(filters, others...),
			},
		}},
		OrderBy: []*pb.StructuredQuery_Order{
			{Field: field(fieldReceivedAt), Direction: direction},
			{Field: field("__name__"), Direction: direction},
		},
	}
}

func compare(name string, op pb.StructuredQuery_FieldFilter_Operator, v *pb.Value) *pb.StructuredQuery_Filter {
	return &pb.StructuredQuery_Filter{FilterType: &pb.StructuredQuery_Filter_FieldFilter{
		FieldFilter: &pb.StructuredQuery_FieldFilter{Field: field(name), Op: op, Value: v},
	}}
}

func field(name string) *pb.StructuredQuery_FieldReference {
	return &pb.StructuredQuery_FieldReference{FieldPath: name}
}
