package firestoreinbox

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// model is as much of Firestore as this package needs, with the promises that
// the API documents and Google's emulator does not keep: a create time is the
// time of a commit, and a snapshot of a listener or a query at a read time
// holds all that was committed until then. On top of it, calls fail in the
// ways that a distributed service has: with and without having done their
// work, streams end, listeners start over, and queries see later rows later.
type model struct {
	pb.UnimplementedFirestoreServer
	faults float64 // how likely a call or a snapshot goes wrong
	within func()  // if not nil, is called once within a query
	// lacks, if not nil, says that a query's index is missing.
	lacks func(*pb.StructuredQuery) bool
	sent  atomic.Int64 // documents that queries returned
	// running are the queries under way: one goes on for a moment when its client has
	// enough.
	running atomic.Int64

	mu      sync.Mutex
	docs    map[string]*pb.Document
	now     time.Time
	changed chan struct{} // closed at the next commit
}

// newModel starts a model and returns the options of clients that use it.
func newModel(t testing.TB, faults float64) (*model, []option.ClientOption) {
	t.Helper()
	m := &model{faults: faults, docs: map[string]*pb.Document{}, changed: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer() // with gRPC's limit of 4 MiB for a request
	pb.RegisterFirestoreServer(s, m)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return m, []option.ClientOption{
		option.WithEndpoint(l.Addr().String()),
		option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

func (m *model) fault() bool { return rand.Float64() < m.faults }

// fail returns a passing error, or nil.
func (m *model) fail() error {
	if !m.fault() {
		return nil
	}
	passing := []codes.Code{codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Internal, codes.Canceled}
	return status.Error(passing[rand.IntN(len(passing))], "injected")
}

// tick returns the next time of the database's clock. m.mu must be held.
func (m *model) tick() time.Time {
	now := time.Now().UTC().Truncate(time.Microsecond)
	if !now.After(m.now) {
		now = m.now.Add(time.Microsecond)
	}
	m.now = now
	return now
}

// snapshot returns a time to read at: of a commit, or one after it.
func (m *model) snapshot() *timestamppb.Timestamp {
	if !m.now.IsZero() && rand.IntN(2) == 0 {
		return timestamppb.New(m.now)
	}
	return timestamppb.New(m.tick())
}

func (m *model) Commit(_ context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	errs, err := m.apply(r.Writes)
	if err != nil {
		return nil, err
	}
	return &pb.CommitResponse{}, errs[0]
}

func (m *model) BatchWrite(_ context.Context, r *pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) {
	errs, err := m.apply(r.Writes)
	if err != nil {
		return nil, err
	}
	res := &pb.BatchWriteResponse{}
	for _, err := range errs {
		res.Status = append(res.Status, status.Convert(err).Proto())
		res.WriteResults = append(res.WriteResults, &pb.WriteResult{})
	}
	return res, nil
}

func (m *model) apply(writes []*pb.Write) ([]error, error) {
	if err := m.fail(); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, w := range writes {
		d := w.GetUpdate()
		if seen[d.GetName()] || proto.Size(d) > 1<<20 || strings.Contains(d.GetFields()[fieldMessageID].GetStringValue(), poison) {
			return nil, status.Error(codes.InvalidArgument, "a bad write fails the request")
		}
		seen[d.GetName()] = true
	}
	// The stamp is taken well before the commit.
	stamp := time.Now().Truncate(time.Millisecond)
	time.Sleep(rand.N(5 * time.Millisecond))
	errs := make([]error, len(writes))
	m.mu.Lock()
	at := timestamppb.New(m.tick())
	for i, w := range writes {
		if errs[i] = m.fail(); errs[i] != nil {
			continue
		}
		d := proto.CloneOf(w.GetUpdate())
		if _, ok := m.docs[d.Name]; ok && w.GetCurrentDocument() != nil {
			errs[i] = status.Error(codes.AlreadyExists, d.Name)
			continue
		}
		if len(w.GetUpdateTransforms()) > 0 {
			d.Fields[fieldReceivedAt] = timeValue(stamp)
		}
		d.CreateTime, d.UpdateTime = at, at
		m.docs[d.Name] = d
	}
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	return errs, m.fail() // the reply may get lost
}

// poison in a message ID makes the model refuse the whole request.
const poison = "poison"

func (m *model) BatchGetDocuments(r *pb.BatchGetDocumentsRequest, s pb.Firestore_BatchGetDocumentsServer) error {
	names := slices.Clone(r.Documents)
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		if err := m.fail(); err != nil {
			return err
		}
		m.mu.Lock()
		res := &pb.BatchGetDocumentsResponse{ReadTime: timestamppb.New(m.tick())}
		if d, ok := m.docs[name]; ok {
			if r.Mask != nil {
				d = project(d, r.Mask.FieldPaths)
			}
			res.Result = &pb.BatchGetDocumentsResponse_Found{Found: d}
		} else {
			res.Result = &pb.BatchGetDocumentsResponse_Missing{Missing: name}
		}
		m.mu.Unlock()
		if err := s.Send(res); err != nil {
			return err
		}
	}
	return nil
}

func project(d *pb.Document, fields []string) *pb.Document {
	p := &pb.Document{Name: d.Name, CreateTime: d.CreateTime, UpdateTime: d.UpdateTime, Fields: maps.Clone(d.Fields)}
	maps.DeleteFunc(p.Fields, func(name string, _ *pb.Value) bool { return !slices.Contains(fields, name) })
	return p
}

// RunQuery reads a few rows at a time, each few at a time of their own, as a
// long query may.
func (m *model) RunQuery(r *pb.RunQueryRequest, s pb.Firestore_RunQueryServer) error {
	m.running.Add(1)
	defer m.running.Add(-1)
	q := r.GetStructuredQuery()
	if m.lacks != nil && m.lacks(q) {
		return status.Error(codes.FailedPrecondition, "The query requires an index.")
	}
	newest := orderOf(q)
	var fields []string
	for _, f := range q.GetSelect().GetFields() {
		fields = append(fields, f.FieldPath)
	}
	limit := 1 << 30
	if q.Limit != nil {
		limit = int(q.Limit.Value)
	}
	for last, n := (*pb.Document)(nil), 0; n < limit; {
		if err := m.fail(); err != nil {
			return err
		}
		m.mu.Lock()
		at := m.snapshot()
		var rows []*pb.Document
		for _, d := range m.docs {
			if (last == nil || newest(last, d) < 0) && matches(r.Parent, q, d) {
				rows = append(rows, d)
			}
		}
		m.mu.Unlock()
		if len(rows) == 0 {
			if n == 0 {
				return s.Send(&pb.RunQueryResponse{ReadTime: at})
			}
			return nil
		}
		slices.SortFunc(rows, newest)
		for _, d := range rows[:min(1+rand.IntN(100), len(rows), limit-n)] {
			last = d
			n++
			if q.Select != nil {
				d = project(d, fields)
			}
			if err := s.Send(&pb.RunQueryResponse{Document: d, ReadTime: at}); err != nil {
				return err
			}
			m.sent.Add(1)
		}
		if m.within != nil {
			m.within()
			m.within = nil
		}
	}
	return nil
}

// orderOf returns how a query orders documents: by a field and the name, both in the
// direction of the field.
func orderOf(q *pb.StructuredQuery) func(a, b *pb.Document) int {
	by := q.OrderBy[0]
	return func(a, b *pb.Document) int {
		if by.Direction == pb.StructuredQuery_DESCENDING {
			a, b = b, a
		}
		return cmp.Or(compareValues(a.Fields[by.Field.FieldPath], b.Fields[by.Field.FieldPath]), cmp.Compare(a.Name, b.Name))
	}
}

func compareValues(a, b *pb.Value) int {
	return cmp.Or(timeOf(a).Compare(timeOf(b)), cmp.Compare(a.GetStringValue(), b.GetStringValue()))
}

func matches(parent string, q *pb.StructuredQuery, d *pb.Document) bool {
	if !strings.HasPrefix(d.Name, parent+"/"+q.From[0].CollectionId+"/") {
		return false
	}
	filters := q.Where.GetCompositeFilter().GetFilters()
	if filters == nil {
		filters = []*pb.StructuredQuery_Filter{q.Where}
	}
	for _, f := range filters {
		f := f.GetFieldFilter()
		fields := d.Fields
		name, member, isNested := strings.Cut(f.Field.FieldPath, ".")
		if isNested {
			member = strings.NewReplacer("\\\\", "\\", "\\`", "`", "`", "").Replace(member)
			name, fields = member, fields[name].GetMapValue().GetFields()
		}
		v, ok := fields[name]
		switch {
		case !ok:
			return false
		case f.Op == pb.StructuredQuery_FieldFilter_IN:
			ok = slices.ContainsFunc(f.Value.GetArrayValue().Values, func(x *pb.Value) bool { return x.GetIntegerValue() == v.GetIntegerValue() })
		case f.Op == pb.StructuredQuery_FieldFilter_EQUAL:
			ok = proto.Equal(f.Value, v)
		case f.Op == pb.StructuredQuery_FieldFilter_GREATER_THAN:
			ok = compareValues(v, f.Value) > 0
		case f.Op == pb.StructuredQuery_FieldFilter_GREATER_THAN_OR_EQUAL:
			ok = compareValues(v, f.Value) >= 0
		case f.Op == pb.StructuredQuery_FieldFilter_LESS_THAN:
			ok = compareValues(v, f.Value) < 0
		case f.Op == pb.StructuredQuery_FieldFilter_LESS_THAN_OR_EQUAL:
			ok = compareValues(v, f.Value) <= 0
		default:
			panic("the model does not know " + f.Op.String())
		}
		if !ok {
			return false
		}
	}
	if q.StartAt == nil {
		return true
	}
	c := timeOf(q.StartAt.Values[0]).Compare(timeOf(d.Fields[fieldReceivedAt]))
	if c == 0 && len(q.StartAt.Values) > 1 {
		c = cmp.Compare(q.StartAt.Values[1].GetReferenceValue(), d.Name)
	}
	if q.OrderBy[0].Direction == pb.StructuredQuery_ASCENDING {
		c = -c
	}
	return c > 0 || c == 0 && q.StartAt.Before
}

func (m *model) Listen(s pb.Firestore_ListenServer) error {
	r, err := s.Recv()
	if err != nil {
		return err
	}
	go func() { // until the client goes
		for err == nil {
			_, err = s.Recv()
		}
	}()
	target := r.GetAddTarget().GetQuery()
	change := func(c *pb.TargetChange) error {
		return s.Send(&pb.ListenResponse{ResponseType: &pb.ListenResponse_TargetChange{TargetChange: c}})
	}
	all := []int32{1}
	if err := change(&pb.TargetChange{TargetChangeType: pb.TargetChange_ADD, TargetIds: all}); err != nil {
		return err
	}
	if m.lacks != nil && m.lacks(target.GetStructuredQuery()) {
		return change(&pb.TargetChange{TargetChangeType: pb.TargetChange_REMOVE, TargetIds: all,
			Cause: status.New(codes.FailedPrecondition, "The query requires an index.").Proto()})
	}
	sent := map[string]bool{}
	for first := true; ; first = false {
		if m.fault() {
			switch rand.IntN(3) {
			case 0:
				return nil // the end of the stream
			case 1:
				return change(&pb.TargetChange{TargetChangeType: pb.TargetChange_REMOVE, TargetIds: all,
					Cause: status.New(codes.Unavailable, "injected").Proto()})
			default:
				if err := change(&pb.TargetChange{TargetChangeType: pb.TargetChange_RESET, TargetIds: all}); err != nil {
					return err
				}
				clear(sent)
				first = true
			}
		}
		m.mu.Lock()
		at, changed := m.snapshot(), m.changed
		var docs []*pb.Document
		for _, d := range m.docs { // in the map's random order
			if !sent[d.Name] && matches(target.Parent, target.GetStructuredQuery(), d) {
				docs = append(docs, d)
			}
		}
		m.mu.Unlock()
		if first && rand.IntN(2) == 0 { // nothing is complete before CURRENT
			if err := change(&pb.TargetChange{TargetChangeType: pb.TargetChange_NO_CHANGE, ReadTime: at}); err != nil {
				return err
			}
		}
		end := len(docs)
		if end > 0 && m.fault() {
			end = rand.IntN(end) // only a part of a snapshot
		}
		for _, d := range docs[:end] {
			sent[d.Name] = true
			if err := s.Send(&pb.ListenResponse{ResponseType: &pb.ListenResponse_DocumentChange{
				DocumentChange: &pb.DocumentChange{Document: d, TargetIds: all},
			}}); err != nil {
				return err
			}
		}
		if end < len(docs) {
			return status.Error(codes.Unavailable, "injected")
		}
		if first {
			if err := change(&pb.TargetChange{TargetChangeType: pb.TargetChange_CURRENT, TargetIds: all, ReadTime: at}); err != nil {
				return err
			}
		}
		if err := change(&pb.TargetChange{TargetChangeType: pb.TargetChange_NO_CHANGE, ReadTime: at}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}
