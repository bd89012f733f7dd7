package pubsubserver

import (
	"cmp"
	"slices"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// topic is a topic with its messages, or what is left of a deleted one that
// subscriptions still have messages of.
type topic struct {
	record
	pb      *pubsubpb.Topic // nil: deleted
	entries []entry         // by seq
	deleted int             // how many entries are
	subs    map[*subscription]struct{}
	snaps   map[*snapshot]struct{}
	// keep is how long messages are kept that nobody needs, for a seek.
	keep time.Duration
}

// entry is what is in memory of a message.
type entry struct {
	seq    uint64
	time   int64  // published, Unix nanoseconds
	key    uint64 // stands for the ordering key
	size   int32
	refs   int16 // subscriptions and snapshots that need it; -1: deleted
	marked bool  // there may be marks
}

// find returns an entry, or nil when the message was deleted. It is valid until
// the next message is published.
func (t *topic) find(seq uint64) *entry {
	i, ok := slices.BinarySearchFunc(t.entries, seq, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if !ok || t.entries[i].refs < 0 {
		return nil
	}
	return &t.entries[i]
}

// forget removes entries of messages that were deleted.
func (t *topic) forget(seqs []uint64) {
	for _, seq := range seqs {
		if e := t.find(seq); e != nil {
			e.refs = -1
			t.deleted++
		}
	}
	head := 0
	for head < len(t.entries) && t.entries[head].refs < 0 {
		head++
	}
	t.entries = t.entries[head:]
	t.deleted -= head
	if t.deleted > 1000 && t.deleted > len(t.entries)/2 {
		t.entries = slices.DeleteFunc(t.entries, func(e entry) bool { return e.refs < 0 })
		t.deleted = 0
	}
	if len(t.entries) == 0 {
		t.entries = nil
	}
}

// unneeded says whether a message can be deleted.
func (t *topic) unneeded(e *entry, now time.Time) bool {
	return e.refs == 0 && (t.keep == 0 || e.time+int64(t.keep) <= now.UnixNano())
}

// sweepable says whether there are messages that can be deleted.
func (t *topic) sweepable(now time.Time) bool {
	return slices.ContainsFunc(t.entries, func(e entry) bool { return t.unneeded(&e, now) })
}

// setKeep is called when a retention has changed.
func (t *topic) setKeep() {
	t.keep = t.pb.GetMessageRetentionDuration().AsDuration()
	for sub := range t.subs {
		if sub.pb.RetainAckedMessages {
			t.keep = max(t.keep, sub.pb.MessageRetentionDuration.AsDuration())
		}
	}
}

// filtered says whether a subscription has a filter.
func (t *topic) filtered() bool {
	for sub := range t.subs {
		if sub.filter != nil {
			return true
		}
	}
	return false
}

// addTopic adds a topic. Server.mu must be held, but by load.
func (s *Server) addTopic(r record, pb *pubsubpb.Topic) {
	t := s.topicByID(r.ID)
	t.record, t.pb = r, pb
	t.setKeep()
	s.topics[pb.Name] = t
}

// sweep deletes, in the background, messages of a topic that nobody needs.
func (s *Server) sweep(t *topic) {
	var gone []uint64
	s.later(&write{
		apply: func(tx *transaction) error {
			now := s.expiryTime()
			for i := range t.entries {
				if e := &t.entries[i]; t.unneeded(e, now) {
					if err := tx.deleteMessage(e); err != nil {
						return err
					}
					if gone = append(gone, e.seq); len(gone) == maxDeletes {
						break
					}
				}
			}
			return nil
		},
		committed: func() {
			t.forget(gone)
			if len(gone) == maxDeletes {
				s.sweep(t)
			} else if t.pb == nil && len(t.entries) == 0 && len(t.subs) == 0 && len(t.snaps) == 0 {
				delete(s.topicIDs, t.ID)
			}
		},
	}, alone)
}

// publishing is a request to publish on its way into a commit.
type publishing struct {
	topic    *topic
	messages []*pubsubpb.PubsubMessage
	values   [][]byte
	seqs     []uint64
	time     int64
	stored   []bool
}

func newPublishing(messages []*pubsubpb.PubsubMessage) (*publishing, error) {
	p := &publishing{
		messages: messages,
		values:   make([][]byte, len(messages)),
		seqs:     make([]uint64, len(messages)),
		stored:   make([]bool, len(messages)),
	}
	for i, m := range messages {
		var err error
		if p.values[i], err = encodeMessage(m); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "Message %d cannot be stored: %v.", i, err)
		}
	}
	return p, nil
}

func (p *publishing) size() (n int) {
	for _, v := range p.values {
		n += len(v)
	}
	return n
}

// apply stores the messages that somebody needs.
func (p *publishing) apply(s *Server, t *topic, tx *transaction) error {
	p.topic = t
	// Pub/Sub's times have milliseconds.
	p.time = max(s.clock.Now().UnixMilli()*int64(time.Millisecond), s.lastPublish)
	s.lastPublish = p.time
	for i, m := range p.messages {
		s.seq++
		p.seqs[i] = s.seq
		p.stored[i] = t.keep > 0 || len(t.snaps) > 0
		for sub := range t.subs {
			p.stored[i] = p.stored[i] || sub.wants(m.Attributes, p.time)
		}
		if !p.stored[i] {
			continue
		}
		key := seqKey(s.seq)
		p.values[i] = seal(key, p.values[i], t.ID, &entry{time: p.time, key: hashKey(m.OrderingKey)})
		if err := tx.messages.Put(key, p.values[i]); err != nil {
			return err
		}
	}
	return nil
}

// done gives the messages to the subscriptions.
func (p *publishing) done(err error) {
	if err != nil {
		return
	}
	t := p.topic
	for i, m := range p.messages {
		if !p.stored[i] {
			continue
		}
		e := entry{
			seq: p.seqs[i], time: p.time, key: hashKey(m.OrderingKey),
			size: int32(len(p.values[i])), refs: int16(len(t.snaps)),
		}
		for sub := range t.subs {
			if sub.wants(m.Attributes, p.time) {
				e.refs++
				sub.fresh.push(e.seq)
			}
		}
		t.entries = append(t.entries, e)
	}
	for sub := range t.subs {
		sub.notify()
	}
}
