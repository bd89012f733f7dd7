package pubsubserver

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// snapshot is which messages of a topic are acknowledged. It keeps the others.
type snapshot struct {
	record
	pb    *pubsubpb.Snapshot
	topic *topic
	acked []uint64 // from the floor on, by seq
}

const (
	maxSnapshotAge = 7 * day
	minSnapshotAge = time.Hour
)

func (s *Server) addSnapshot(r record, pb *pubsubpb.Snapshot, acked []uint64) *snapshot {
	snap := &snapshot{record: r, pb: pb, topic: s.topicByID(r.Topic), acked: acked}
	s.snapshots[pb.Name] = snap
	snap.topic.snaps[snap] = struct{}{}
	return snap
}

func (snap *snapshot) holds(e *entry) bool {
	_, acked := slices.BinarySearch(snap.acked, e.seq)
	return e.seq >= snap.Floor && !acked
}

func (snap *snapshot) expired(now time.Time) bool { return !now.Before(snap.pb.ExpireTime.AsTime()) }

func (snap *snapshot) store(tx *transaction, pb *pubsubpb.Snapshot) error {
	return tx.Bucket(bucketSnapshots).Put([]byte(pb.Name), encodeRecord(snap.record, pb))
}

// snapshot returns a snapshot.
func (s *Server) snapshot(name string) (*snapshot, error) {
	if err := checkName(kindSnapshot, name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap := s.snapshots[name]; snap != nil && !snap.expired(s.expiryTime()) {
		return snap, nil
	}
	return nil, notFound(name)
}

// newID returns a new ID for a record.
func (s *Server) newID() (id uint32, err error) {
	err = s.change(&write{apply: func(tx *transaction) (err error) {
		id, err = nextID(tx.Tx)
		return err
	}})
	return id, err
}

// CreateSnapshot keeps which messages of a subscription are not acknowledged.
func (s *Server) CreateSnapshot(ctx context.Context, r *pubsubpb.CreateSnapshotRequest) (*pubsubpb.Snapshot, error) {
	name := r.Name
	if name == "" {
		name = randomName(kindSnapshot, r.Subscription)
	}
	if err := checkName(kindSnapshot, name); err != nil {
		return nil, err
	}
	if err := checkLabels(r.Labels); err != nil {
		return nil, err
	}
	if len(r.Tags) > 0 {
		return nil, unimplemented("CreateSnapshotRequest.tags")
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	if _, err := s.snapshot(name); err == nil {
		return nil, alreadyExists(name)
	}
	if old := s.snapshots[name]; old != nil {
		if err := s.deleteSnapshot(old); err != nil {
			return nil, err
		}
	}
	if sub.pb.Detached {
		return nil, errDetached(sub.pb.Name)
	}

	s.mu.Lock()
	now := s.clock.Now()
	expire := now.Add(maxSnapshotAge)
	floor := s.seq + 1
	var acked []uint64
	if unacked := sub.unacked(); len(unacked) > 0 {
		floor = unacked[0]
		if e := sub.topic.find(floor); e != nil {
			expire = time.Unix(0, e.time).Add(maxSnapshotAge)
		}
		acked = sub.topic.except(floor, unacked)
	}
	s.mu.Unlock()
	if expire.Before(now.Add(minSnapshotAge)) {
		return nil, failedPrecondition("The snapshot would expire at %s, in less than an hour: the oldest unacknowledged message of %s is too old.", expire.Format(time.RFC3339), sub.pb.Name)
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	if err := s.putMarks(ctx, sub.topic, id, acked); err != nil {
		return nil, err
	}
	snap := &snapshot{record: record{ID: id, Topic: sub.topic.ID, Floor: floor}}
	pb := &pubsubpb.Snapshot{Name: name, Topic: sub.pb.Topic, ExpireTime: timestamppb.New(expire), Labels: r.Labels}
	return pb, s.change(&write{
		apply: func(tx *transaction) error { return snap.store(tx, pb) },
		committed: func() {
			snap = s.addSnapshot(snap.record, pb, acked)
			for i := range snap.topic.entries {
				if e := &snap.topic.entries[i]; e.refs >= 0 && snap.holds(e) {
					e.refs++
				}
			}
		},
	})
}

// except returns the messages from floor on that are not among seqs.
func (t *topic) except(floor uint64, seqs []uint64) (others []uint64) {
	for i := range t.entries {
		e := &t.entries[i]
		if e.seq < floor || e.refs < 0 {
			continue
		}
		for len(seqs) > 0 && seqs[0] < e.seq {
			seqs = seqs[1:]
		}
		if len(seqs) == 0 || seqs[0] != e.seq {
			others = append(others, e.seq)
		}
	}
	return others
}

// GetSnapshot returns a snapshot.
func (s *Server) GetSnapshot(_ context.Context, r *pubsubpb.GetSnapshotRequest) (*pubsubpb.Snapshot, error) {
	snap, err := s.snapshot(r.Snapshot)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return snap.pb, nil
}

// ListSnapshots lists the snapshots of a project by name.
func (s *Server) ListSnapshots(_ context.Context, r *pubsubpb.ListSnapshotsRequest) (*pubsubpb.ListSnapshotsResponse, error) {
	if err := checkProject(r.Project); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names, next, err := page(inProject(s.snapshots, r.Project), r.PageSize, r.PageToken)
	answer := &pubsubpb.ListSnapshotsResponse{NextPageToken: next}
	for _, name := range names {
		if snap := s.snapshots[name]; !snap.expired(s.expiryTime()) {
			answer.Snapshots = append(answer.Snapshots, snap.pb)
		}
	}
	return answer, err
}

// UpdateSnapshot changes the labels or the expire time of a snapshot.
func (s *Server) UpdateSnapshot(_ context.Context, r *pubsubpb.UpdateSnapshotRequest) (*pubsubpb.Snapshot, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	snap, err := s.snapshot(r.Snapshot.GetName())
	if err != nil {
		return nil, err
	}
	pb, err := update(snap.pb, r.Snapshot, r.UpdateMask, mutableSnapshot)
	if err == nil {
		err = checkLabels(pb.Labels)
	}
	if err != nil {
		return nil, err
	}
	if expire := pb.ExpireTime; !expire.IsValid() || expire.AsTime().After(s.clock.Now().Add(maxSnapshotAge)) {
		return nil, invalid("Invalid expire_time given (value=%s): it must be at most 7 days away.", expire.AsTime().Format(time.RFC3339))
	}
	return pb, s.change(&write{
		apply: func(tx *transaction) error { return snap.store(tx, pb) },
		committed: func() {
			snap.pb = pb
		},
	})
}

// DeleteSnapshot deletes a snapshot.
func (s *Server) DeleteSnapshot(_ context.Context, r *pubsubpb.DeleteSnapshotRequest) (*emptypb.Empty, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	snap, err := s.snapshot(r.Snapshot)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.deleteSnapshot(snap)
}

func (s *Server) deleteSnapshot(snap *snapshot) error {
	return s.change(&write{
		apply: func(tx *transaction) error {
			return errors.Join(tx.deletePolicy(snap.pb.Name), tx.Bucket(bucketSnapshots).Delete([]byte(snap.pb.Name)))
		},
		committed: func() {
			delete(s.snapshots, snap.pb.Name)
			delete(snap.topic.snaps, snap)
			for i := range snap.topic.entries {
				if e := &snap.topic.entries[i]; e.refs > 0 && snap.holds(e) {
					e.refs--
				}
			}
			s.sweep(snap.topic)
		},
	})
}

// Seek makes the messages from a time on unacknowledged, as far as they are
// retained, and the earlier ones acknowledged, or takes both from a snapshot.
func (s *Server) Seek(ctx context.Context, r *pubsubpb.SeekRequest) (*pubsubpb.SeekResponse, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	if sub.pb.Detached {
		return nil, errDetached(sub.pb.Name)
	}
	to := sub.record
	var unacked func(e *entry) bool
	switch target := r.Target.(type) {
	case *pubsubpb.SeekRequest_Time:
		if !target.Time.IsValid() {
			return nil, invalid("Invalid time given: it is not a valid timestamp.")
		}
		to.Until = target.Time.AsTime().UnixNano()
		if sub.topic.pb.GetMessageRetentionDuration() != nil {
			to.Floor = 0 // what was published before the subscription was created is there, too
		}
		unacked = s.seekable(sub, to.Until)
	case *pubsubpb.SeekRequest_Snapshot:
		snap, err := s.snapshot(target.Snapshot)
		if err != nil {
			return nil, err
		}
		if snap.topic != sub.topic {
			return nil, failedPrecondition("The snapshot %s is of topic %s, the subscription %s of %s: both must be of the same topic.", snap.pb.Name, snap.pb.Topic, sub.pb.Name, sub.pb.Topic)
		}
		to.Floor, to.Until = snap.Floor, 0
		unacked = snap.holds
	default:
		return nil, invalid("No seek target was given: a time or a snapshot is required.")
	}
	return &pubsubpb.SeekResponse{}, s.rebase(ctx, sub, to, unacked)
}

// seekable returns which messages a seek to a time makes unacknowledged: those
// that are so already, and those that are retained for it.
func (s *Server) seekable(sub *subscription, from int64) func(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := sub.topic.pb.GetMessageRetentionDuration().AsDuration()
	if sub.pb.RetainAckedMessages {
		keep = max(keep, sub.pb.MessageRetentionDuration.AsDuration())
	}
	retained := s.clock.Now().Add(-keep).UnixNano()
	unacked := sub.unacked()
	return func(e *entry) bool {
		if e.time < from {
			return false
		}
		_, is := slices.BinarySearch(unacked, e.seq)
		return is || e.time > retained
	}
}

// rebase gives a subscription a new record, with a new ID, from which on the
// messages for which unacked says so are unacknowledged, and later ones.
func (s *Server) rebase(ctx context.Context, sub *subscription, to record, unacked func(e *entry) bool) error {
	t := sub.topic
	s.mu.Lock()
	last := s.seq
	var chosen, acked []uint64
	for i := range t.entries {
		e := &t.entries[i]
		switch {
		case e.refs < 0 || e.seq < to.Floor || e.time < to.Until:
		case unacked(e):
			chosen = append(chosen, e.seq)
		default:
			acked = append(acked, e.seq)
		}
	}
	s.mu.Unlock()
	if sub.filter != nil {
		var err error
		if chosen, err = s.matching(sub, chosen); err != nil {
			return err
		}
	}
	var err error
	if to.ID, err = s.newID(); err != nil {
		return err
	}
	if err := s.putMarks(ctx, t, to.ID, acked); err != nil {
		return err
	}
	return s.change(&write{
		apply: func(tx *transaction) error { return sub.store(tx, to, sub.pb) },
		committed: func() {
			for _, seq := range sub.unacked() {
				e := t.find(seq)
				e.refs--
				if seq > last && e.time >= to.Until {
					chosen = append(chosen, seq)
				}
			}
			sub.record = to
			sub.clear()
			for _, seq := range chosen {
				if e := t.find(seq); e != nil {
					e.refs++
					sub.fresh.push(seq)
				}
			}
			sub.notify()
			s.sweep(t)
		},
	})
}

// matching returns those messages that match the filter of a subscription.
func (s *Server) matching(sub *subscription, seqs []uint64) ([]uint64, error) {
	var matching []uint64
	for piece := range slices.Chunk(seqs, maxPull) {
		messages, err := s.read(piece)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if m != nil && sub.filter(m.Attributes) {
				seq, err := strconv.ParseUint(m.MessageId, 10, 64)
				if err != nil {
					return nil, err
				}
				matching = append(matching, seq)
			}
		}
	}
	return matching, nil
}
