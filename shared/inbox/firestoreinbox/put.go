package firestoreinbox

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/groupcommit"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	people "cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// chunksInFlight caps the chunk writes of all calls together: each takes about
// three megabytes of memory.
const chunksInFlight = 8

// errExists is the error of a write whose document exists.
var errExists = errors.New("firestoreinbox: the document exists")

// Put implements inbox.Inbox.
func (in *Inbox) Put(ctx context.Context, m *inbox.Message) (stored bool, err error) {
	end, err := in.begin(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	d, size, exists, err := in.whole(ctx, m)
	if err != nil || exists {
		return false, err
	}
	w := &pb.Write{
		Operation:       &pb.Write_Update{Update: d},
		CurrentDocument: &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: false}},
		UpdateTransforms: []*pb.DocumentTransform_FieldTransform{{
			FieldPath: fieldReceivedAt,
			TransformType: &pb.DocumentTransform_FieldTransform_SetToServerValue{
				SetToServerValue: pb.DocumentTransform_FieldTransform_REQUEST_TIME,
			},
		}},
	}
	switch err := in.group.Do(ctx, w, min(size, maxDocument)); {
	case err == nil:
		return true, nil
	case errors.Is(err, errExists):
		return false, nil
	case errors.Is(err, groupcommit.ErrClosed):
		return false, errClosed
	default:
		return false, cmp.Or(ended(ctx), err)
	}
}

// whole returns the document that stores m, but for receivedAt, with its size in
// bytes. What does not fit it, it stores in chunks, unless the document exists.
func (in *Inbox) whole(ctx context.Context, m *inbox.Message) (d *pb.Document, size int, exists bool, err error) {
	if err := m.Validate(); err != nil {
		return nil, 0, false, err
	}
	d = in.document(m)
	if size = proto.Size(d) + len(m.Data); size > maxDocument && len(m.Data) > inbox.PreviewSize {
		exists, err = in.putChunks(ctx, d, m.Data)
		return d, size, exists, err
	}
	// Copied, because the caller may return and reuse it while the batch is
	// still being written.
	data := bytes.Clone(m.Data)
	d.Fields[fieldData] = bytesValue(data[:min(len(data), inbox.PreviewSize)])
	if len(data) > inbox.PreviewSize {
		d.Fields[fieldDataRest] = bytesValue(data[inbox.PreviewSize:])
	}
	return d, size, false, nil
}

// Draft returns what stores m when a transaction of the client for people,
// cloud.google.com/go/firestore, creates it: the ID of the document in Collection,
// and its fields. What is larger than a document is stored beside it first, by this
// call. exists says that it found the document; that it did not does not mean that
// there is none. The fields refer to m's data.
func (in *Inbox) Draft(ctx context.Context, m *inbox.Message) (id string, fields map[string]any, exists bool, err error) {
	end, err := in.begin(ctx)
	if err != nil {
		return "", nil, false, err
	}
	defer end()
	d, _, exists, err := in.whole(ctx, m)
	if err != nil || exists {
		return "", nil, exists, err
	}
	fields = make(map[string]any, len(d.Fields)+1)
	for k, v := range d.Fields {
		fields[k] = plain(v)
	}
	fields[fieldReceivedAt] = people.ServerTimestamp
	return documentID(d), fields, false, nil
}

// plain returns a value as the client for people takes it.
func plain(v *pb.Value) any {
	switch v := v.GetValueType().(type) {
	case *pb.Value_StringValue:
		return v.StringValue
	case *pb.Value_IntegerValue:
		return v.IntegerValue
	case *pb.Value_BooleanValue:
		return v.BooleanValue
	case *pb.Value_BytesValue:
		return v.BytesValue
	case *pb.Value_TimestampValue:
		return v.TimestampValue.AsTime()
	case *pb.Value_ArrayValue:
		all := make([]any, 0, len(v.ArrayValue.GetValues()))
		for _, v := range v.ArrayValue.GetValues() {
			all = append(all, plain(v))
		}
		return all
	case *pb.Value_MapValue:
		all := make(map[string]any, len(v.MapValue.GetFields()))
		for k, v := range v.MapValue.GetFields() {
			all[k] = plain(v)
		}
		return all
	}
	return nil // a document of this package has no other
}

// commit writes a batch and returns an error for each write: nil, errExists,
// ErrInvalid or ErrUnavailable. It retries the writes that failed for a temporary
// reason.
func (in *Inbox) commit(ctx context.Context, writes []*pb.Write) []error {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	errs := make([]error, len(writes))
	todo := make([]int, 0, len(writes))
	// Firestore refuses a request that names a document twice.
	first := make(map[string]int, len(writes))
	for i, w := range writes {
		name := w.GetUpdate().GetName()
		if _, ok := first[name]; !ok {
			first[name] = i
			todo = append(todo, i)
		}
	}
	retried := make(map[int]bool)
	for pause := pauses(); ; {
		in.attempt(ctx, writes, todo, errs)
		for _, i := range todo {
			if retried[i] && status.Code(errs[i]) == codes.AlreadyExists && in.wrote(ctx, writes[i].GetUpdate()) {
				errs[i] = nil
			}
			retried[i] = true
		}
		todo = slices.DeleteFunc(todo, func(i int) bool { return !transient(errs[i]) })
		if len(todo) == 0 || !wait(ctx, pause.Pause()) {
			break
		}
	}
	for i, w := range writes {
		if f := first[w.GetUpdate().GetName()]; f == i {
			errs[i] = writeError(errs[i])
		} else if errs[i] = errs[f]; errs[i] == nil {
			errs[i] = errExists
		}
	}
	return errs
}

// wrote reports whether the existing document is d itself, written by an earlier
// attempt whose answer was lost. Its expiry, to the microsecond, is this call's and
// hardly another's.
func (in *Inbox) wrote(ctx context.Context, d *pb.Document) (mine bool) {
	// On an error the document counts as an earlier one, which is safe.
	_ = in.getDocuments(ctx, []string{d.GetName()}, []string{fieldExpireAt}, func(found *pb.Document) error {
		mine = timeOf(found.GetFields()[fieldExpireAt]).Equal(timeOf(d.GetFields()[fieldExpireAt]))
		return nil
	})
	return mine
}

// attempt sends the writes of todo once and stores Firestore's errors in errs.
func (in *Inbox) attempt(ctx context.Context, writes []*pb.Write, todo []int, errs []error) {
	if len(todo) == 1 {
		errs[todo[0]] = in.write(ctx, writes[todo[0]])
		return
	}
	req := &pb.BatchWriteRequest{Database: in.database, Writes: make([]*pb.Write, len(todo))}
	for k, i := range todo {
		req.Writes[k] = writes[i]
	}
	within, cancel := context.WithTimeout(in.outgoing(ctx), attemptTimeout)
	res, err := in.client.BatchWrite(within, req)
	cancel()
	switch {
	case status.Code(err) == codes.InvalidArgument:
		// One invalid write fails the request: halve until it is alone.
		in.attempt(ctx, writes, todo[:len(todo)/2], errs)
		in.attempt(ctx, writes, todo[len(todo)/2:], errs)
	case err == nil && len(res.GetStatus()) != len(todo):
		err = status.Errorf(codes.DataLoss, "%d writes were answered with %d statuses", len(todo), len(res.GetStatus()))
		fallthrough
	case err != nil:
		for _, i := range todo {
			errs[i] = err
		}
	default:
		for k, i := range todo {
			errs[i] = status.ErrorProto(res.GetStatus()[k])
		}
	}
}

// write sends one write alone.
func (in *Inbox) write(ctx context.Context, w *pb.Write) error {
	ctx, cancel := context.WithTimeout(in.outgoing(ctx), attemptTimeout)
	defer cancel()
	_, err := in.client.Commit(ctx, &pb.CommitRequest{Database: in.database, Writes: []*pb.Write{w}})
	return err
}

// writeError turns Firestore's error for a write into the inbox's.
func writeError(err error) error {
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.AlreadyExists:
		return errExists
	case codes.InvalidArgument:
		return fmt.Errorf("%w: %w", inbox.ErrInvalid, err)
	}
	return unavailable(err)
}

// putChunks writes the chunks of data and lets d refer to them, unless d's
// document exists. Every delivery overwrites them with the same bytes, so the next
// one completes what one that died left.
func (in *Inbox) putChunks(ctx context.Context, d *pb.Document, data []byte) (exists bool, err error) {
	err = in.getDocuments(ctx, []string{d.GetName()}, []string{fieldSize}, func(found *pb.Document) error {
		exists = true
		return nil
	})
	if err != nil || exists {
		return exists, err
	}
	sum := digest(data)
	chunks := in.chunksOf(documentID(d), sum, len(data))
	expire := timeOf(d.GetFields()[fieldExpireAt]).Add(chunkGrace)
	group, within := errgroup.WithContext(ctx)
	for _, c := range chunks {
		group.Go(func() error {
			select {
			case in.chunks <- struct{}{}:
			case <-within.Done():
				return within.Err()
			}
			defer func() { <-in.chunks }()
			w := &pb.Write{Operation: &pb.Write_Update{Update: &pb.Document{
				Name:   c.name,
				Fields: map[string]*pb.Value{fieldData: bytesValue(data[c.start:c.end]), fieldExpireAt: timeValue(expire)},
			}}}
			return in.retry(within, func(ctx context.Context) error { return in.write(ctx, w) })
		})
	}
	if err := group.Wait(); err != nil {
		return false, cmp.Or(ended(ctx), err)
	}
	d.Fields[fieldData] = bytesValue(bytes.Clone(data[:inbox.PreviewSize]))
	d.Fields[fieldChunks] = intValue(len(chunks))
	d.Fields[fieldDigest] = bytesValue(sum)
	return false, nil
}
