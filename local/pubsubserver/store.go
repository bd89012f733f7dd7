package pubsubserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"example.com/pushinbox/local/datadir"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The file has these buckets:
//
//	format         version
//	topics         name -> record, proto
//	subscriptions  name -> record, proto
//	snapshots      name -> record, proto
//	messages       sequence number -> topic, time, hash of ordering key, proto
//	marks          sequence number, ID of a subscription or snapshot -> mark
//	policies       name of any of them -> proto
//
// Records, messages and marks end with a checksum of their key and themselves. What
// version 1 stored has none, and stays as it is.
//
// A message is there as long as somebody needs it. A subscription needs those
// of its topic from its floor on that match its filter and have no mark of
// acknowledgement, so that publishing writes nothing for subscriptions, and the
// last acknowledgement only deletes the message.
var (
	bucketFormat        = []byte("format")
	bucketTopics        = []byte("topics")
	bucketSubscriptions = []byte("subscriptions")
	bucketSnapshots     = []byte("snapshots")
	bucketMessages      = []byte("messages")
	bucketMarks         = []byte("marks")
	keyVersion          = []byte("version")
)

const (
	version  = "pushinbox-pubsub-2"
	version1 = "pushinbox-pubsub-1"
)

// transaction is one that writes.
type transaction struct {
	*bbolt.Tx
	messages, marks *bbolt.Bucket
}

// write is a change of the file, and of what is in memory of it.
type write struct {
	// apply changes the file. Its error refuses this write alone; it must then
	// have changed nothing.
	apply func(*transaction) error
	// committed is called after the commit where neither it nor apply failed, and done in
	// any case, with the error of one. Either may be nil.
	committed func()
	done      func(error)
}

// commit makes several changes in one transaction. Server.mu is held for apply,
// committed and done.
func (s *Server) commit(_ context.Context, writes []*write) []error {
	s.mu.Lock()
	own := len(writes)
	writes = append(writes, s.takeUnsettled()...)
	s.mu.Unlock()
	errs := make([]error, len(writes))
	err := s.transact(writes, errs)
	if err != nil {
		err = status.Errorf(codes.Unavailable, "The file of this Pub/Sub cannot be written: %v.", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range writes {
		if err != nil {
			errs[i] = err
		}
		if w.committed != nil && errs[i] == nil {
			w.committed()
		}
		if w.done != nil {
			w.done(errs[i])
		}
	}
	return errs[:own]
}

func (s *Server) transact(writes []*write, errs []error) error {
	// What is acknowledged is in a file that is there, before and after.
	if err := s.place(); err != nil {
		return err
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	t := &transaction{tx, tx.Bucket(bucketMessages), tx.Bucket(bucketMarks)}
	// Messages are appended: full pages are not written again.
	t.messages.FillPercent = 0.95
	s.mu.Lock()
	for i, w := range writes {
		errs[i] = w.apply(t)
	}
	last := s.seq
	s.mu.Unlock()
	// It is also ahead after a commit that failed.
	if last != t.messages.Sequence() {
		if err := t.messages.SetSequence(last); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return s.place()
}

// place returns an error when the file is not at its path.
func (s *Server) place() error {
	if s.temporary != "" {
		return nil
	}
	if err := datadir.CheckPlace(s.file, s.path, s.size); err != nil {
		return err
	}
	info, err := s.file.Stat()
	if err == nil {
		s.size = info.Size()
	}
	return err
}

// record is what the file has of a topic, a subscription or a snapshot besides
// its message.
type record struct {
	// ID is unique. That of a subscription changes with a seek, so that its
	// marks count no more.
	ID    uint32
	Topic uint32
	// Floor is the first message that can be unacknowledged, and Until when it
	// was published at the earliest, in Unix nanoseconds.
	Floor uint64
	Until int64
}

const recordSize = 24

// sealed is set in the first number of a record or a message that has a checksum: no ID
// is that large.
const sealed = 1 << 31

var errDamaged = errors.New("it is damaged")

// unseal returns a record or a message without its checksum, and its first number.
func unseal(key, value []byte) (uint32, []byte, error) {
	if len(value) < 4 {
		return 0, nil, errDamaged
	}
	id, ok := binary.BigEndian.Uint32(value), true
	if id >= sealed {
		value, ok = datadir.Unseal(key, value)
	}
	if id &^= sealed; !ok || id == 0 {
		return 0, nil, errDamaged
	}
	return id, value, nil
}

func encodeRecord(r record, m interface {
	proto.Message
	GetName() string
}) []byte {
	r.ID |= sealed
	b, _ := binary.Append(make([]byte, 0, recordSize+proto.Size(m)+datadir.SumSize), binary.BigEndian, r)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		panic(err) // strings were checked for UTF-8 when they came in
	}
	return datadir.Seal([]byte(m.GetName()), b)
}

func decodeRecord(name, value []byte, m proto.Message) (r record, err error) {
	id, value, err := unseal(name, value)
	if err == nil {
		_, err = binary.Decode(value, binary.BigEndian, &r)
	}
	if err == nil {
		r.ID, err = id, proto.Unmarshal(value[recordSize:], m)
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// nextID returns a new ID for a record.
func nextID(tx *bbolt.Tx) (uint32, error) {
	id, err := tx.Bucket(bucketFormat).NextSequence()
	return uint32(id), err
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), seq) }

// headerSize is the size of what precedes a message in the file: topic, time and
// what stands for the ordering key.
const headerSize = 20

// encodeMessage returns a message as the file has it, but for what seal adds.
func encodeMessage(m *pubsubpb.PubsubMessage) ([]byte, error) {
	m = &pubsubpb.PubsubMessage{Data: m.Data, Attributes: m.Attributes, OrderingKey: m.OrderingKey}
	return proto.MarshalOptions{}.MarshalAppend(make([]byte, headerSize, headerSize+proto.Size(m)+datadir.SumSize), m)
}

// seal adds what precedes a message and what follows it.
func seal(key, value []byte, topic uint32, e *entry) []byte {
	binary.BigEndian.PutUint32(value, topic|sealed)
	binary.BigEndian.PutUint64(value[4:], uint64(e.time))
	binary.BigEndian.PutUint64(value[12:], e.key)
	return datadir.Seal(key, value)
}

// openMessage returns what is in memory of a message, and its proto.
func openMessage(seq uint64, value []byte) (topic uint32, e entry, body []byte, err error) {
	size := len(value)
	topic, value, err = unseal(seqKey(seq), value)
	if err == nil && len(value) < headerSize {
		err = errDamaged
	}
	if err != nil {
		return 0, entry{}, nil, fmt.Errorf("message %d: %w", seq, err)
	}
	return topic, entry{
		seq:  seq,
		time: int64(binary.BigEndian.Uint64(value[4:])),
		key:  binary.BigEndian.Uint64(value[12:]),
		size: int32(size),
	}, value[headerSize:], nil
}

func decodeMessage(seq uint64, value []byte) (*pubsubpb.PubsubMessage, error) {
	m := &pubsubpb.PubsubMessage{}
	_, e, body, err := openMessage(seq, value)
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("message %d: %w", seq, err)
	}
	m.MessageId = strconv.FormatUint(seq, 10)
	m.PublishTime = timestamppb.New(time.Unix(0, e.time))
	return m, nil
}

// read returns messages, nil for those that are no longer there or damaged.
func (s *Server) read(seqs []uint64) ([]*pubsubpb.PubsubMessage, error) {
	messages := make([]*pubsubpb.PubsubMessage, len(seqs))
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMessages)
		for i, seq := range seqs {
			if v := b.Get(seqKey(seq)); v != nil {
				var err error
				if messages[i], err = decodeMessage(seq, v); err != nil {
					s.leaveOut(err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "The file of this Pub/Sub cannot be read: %v.", err)
	}
	return messages, nil
}

// leaveOut tells of a message that cannot be read. It stays in the file.
func (s *Server) leaveOut(err error) {
	s.log.Error(fmt.Sprintf("%s: %v, and is not delivered; the others are", s.path, err))
}

// hashKey returns what stands for an ordering key in memory: 0 for none.
func hashKey(key string) uint64 {
	if key == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(key))
	return max(h.Sum64(), 1)
}

// A mark says that a message is acknowledged, or how often it was delivered and
// when it is delivered next.

func markKey(seq uint64, id uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(make([]byte, 0, 12), seq), id)
}

const (
	ackedSize    = 1
	attemptsSize = 12
)

// markAcked marks a message as acknowledged to a subscription or snapshot with this ID.
func (tx *transaction) markAcked(seq uint64, id uint32) error {
	key := markKey(seq, id)
	return tx.marks.Put(key, datadir.Seal(key, []byte{1}))
}

func (tx *transaction) markAttempts(seq uint64, id uint32, attempts int32, next int64) error {
	key, b := markKey(seq, id), make([]byte, 0, attemptsSize+datadir.SumSize)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, uint32(attempts)), uint64(next))
	return tx.marks.Put(key, datadir.Seal(key, b))
}

// unsealMark returns a mark without its checksum, or nil for a damaged one: the message is
// then delivered once more.
func unsealMark(key, value []byte) []byte {
	if n := len(value); n == ackedSize || n == attemptsSize {
		return value // of version 1
	}
	value, _ = datadir.Unseal(key, value)
	return value
}

// deleteMessage deletes a message and its marks.
func (tx *transaction) deleteMessage(e *entry) error {
	key := seqKey(e.seq)
	if e.marked {
		c := tx.marks.Cursor()
		for k, _ := c.Seek(key); k != nil && bytes.HasPrefix(k, key); k, _ = c.Seek(key) {
			if err := tx.marks.Delete(k); err != nil {
				return err
			}
		}
	}
	return tx.messages.Delete(key)
}

// load reads the file, and makes a new one what it has to be.
func (s *Server) load() error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		first, _ := tx.Cursor().First()
		for _, name := range [][]byte{bucketFormat, bucketTopics, bucketSubscriptions, bucketSnapshots, bucketMessages, bucketMarks} {
			if first == nil {
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			} else if tx.Bucket(name) == nil {
				return errors.New("it is not a Pub/Sub file")
			}
		}
		format, messages := tx.Bucket(bucketFormat), tx.Bucket(bucketMessages)
		if first != nil {
			switch v := format.Get(keyVersion); string(v) {
			case version:
				return nil
			case version1:
				return format.Put(keyVersion, []byte(version))
			default:
				return fmt.Errorf("its format is %q, not %q", v, version)
			}
		}
		// IDs are numbers as Pub/Sub's, that no other file repeats: to an inbox
		// that outlives this file, a message with the same ID is a redelivery.
		if err := messages.SetSequence(uint64(s.clock.Now().UnixMicro())); err != nil {
			return err
		}
		return format.Put(keyVersion, []byte(version))
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.db.View(s.loadAll)
}

func (s *Server) loadAll(tx *bbolt.Tx) error {
	s.seq = tx.Bucket(bucketMessages).Sequence()
	err := tx.Bucket(bucketTopics).ForEach(func(k, v []byte) error {
		pb := &pubsubpb.Topic{}
		r, err := decodeRecord(k, v, pb)
		s.addTopic(r, pb)
		return err
	})
	if err != nil {
		return err
	}
	err = tx.Bucket(bucketSubscriptions).ForEach(func(k, v []byte) error {
		pb := &pubsubpb.Subscription{}
		r, err := decodeRecord(k, v, pb)
		if err != nil {
			return err
		}
		s.addSubscription(r, pb)
		return nil
	})
	if err != nil {
		return err
	}
	err = tx.Bucket(bucketSnapshots).ForEach(func(k, v []byte) error {
		pb := &pubsubpb.Snapshot{}
		r, err := decodeRecord(k, v, pb)
		s.addSnapshot(r, pb, nil)
		return err
	})
	if err != nil {
		return err
	}
	return s.loadMessages(tx)
}

// topicByID returns a topic, or what is left of one that was deleted.
func (s *Server) topicByID(id uint32) *topic {
	if t := s.topicIDs[id]; t != nil {
		return t
	}
	t := &topic{record: record{ID: id}, subs: make(map[*subscription]struct{}), snaps: make(map[*snapshot]struct{})}
	s.topicIDs[id] = t
	return t
}

func (s *Server) loadMessages(tx *bbolt.Tx) error {
	now := s.expiryTime()
	marks := tx.Bucket(bucketMarks).Cursor()
	mark, state := marks.First()
	mine := make(map[uint32][]byte)
	err := tx.Bucket(bucketMessages).ForEach(func(k, v []byte) error {
		seq := binary.BigEndian.Uint64(k)
		id, e, body, err := openMessage(seq, v)
		if err != nil {
			s.leaveOut(err)
			return nil
		}
		t := s.topicByID(id)
		var attributes map[string]string
		if t.filtered() {
			var m pubsubpb.PubsubMessage
			if err := proto.Unmarshal(body, &m); err != nil {
				s.leaveOut(fmt.Errorf("message %d: %w", seq, err))
				return nil
			}
			attributes = m.Attributes
		}
		s.lastPublish = max(s.lastPublish, e.time)
		clear(mine)
		for ; mark != nil && bytes.Compare(mark[:8], k) <= 0; mark, state = marks.Next() {
			if bytes.Equal(mark[:8], k) {
				e.marked = true
				mine[binary.BigEndian.Uint32(mark[8:])] = unsealMark(mark, state)
			}
		}
		for sub := range t.subs {
			state := mine[sub.ID]
			if seq < sub.Floor || len(state) == ackedSize || !sub.wants(attributes, e.time) || sub.outdated(&e) {
				continue
			}
			e.refs++
			if len(state) == attemptsSize {
				sub.restore(&e, int32(binary.BigEndian.Uint32(state)), int64(binary.BigEndian.Uint64(state[4:])))
			} else {
				sub.fresh.push(seq)
			}
		}
		for snap := range t.snaps {
			if len(mine[snap.ID]) == ackedSize {
				snap.acked = append(snap.acked, seq)
			} else if seq >= snap.Floor {
				e.refs++
			}
		}
		t.entries = append(t.entries, e)
		return nil
	})
	if err != nil {
		return err
	}
	for _, sub := range s.subscriptions {
		sub.arm()
	}
	for _, t := range s.topicIDs {
		if t.sweepable(now) {
			s.sweep(t)
		}
	}
	return nil
}

// putMarks marks messages as acknowledged to a subscription or snapshot that is
// about to be stored.
func (s *Server) putMarks(ctx context.Context, t *topic, id uint32, acked []uint64) error {
	for piece := range slices.Chunk(acked, maxDeletes) {
		err := s.write(ctx, &write{apply: func(tx *transaction) error {
			for _, seq := range piece {
				if e := t.find(seq); e != nil {
					e.marked = true
					if err := tx.markAcked(seq, id); err != nil {
						return err
					}
				}
			}
			return nil
		}}, alone)
		if err != nil {
			return err
		}
	}
	return nil
}
