package boltinbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.com/pushinbox/shared/inbox"
	"go.etcd.io/bbolt"
)

// order is when a message was stored, in microseconds as eight bytes that sort
// by time. No two messages of an inbox have the same.
type order [8]byte

// time returns o as a time.
func (o order) time() time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64(o[:]))).UTC()
}

// The buckets of the file. Messages are stored by order and not by ID: new ones go
// to the end, where a commit of many changes few pages, old ones are deleted from
// the start, and a list is one range of the file.
var (
	// bucketIDs: ID -> order.
	bucketIDs = []byte("ids")
	// bucketMessages: order -> record, which has the data's first PreviewSize
	// bytes. Its sequence is the last order that was assigned, which outlives its
	// message.
	bucketMessages = []byte("messages")
	// bucketChunks: order and number of the chunk -> the data from PreviewSize
	// on, in pieces. bbolt writes a page of up to four neighbours as a whole: data
	// in one piece would have up to 10 MB of each neighbour written again.
	bucketChunks = []byte("chunks")
	// bucketIndex: filter and order -> nothing.
	bucketIndex = []byte("index")
	// bucketFormat: the version of the file's format.
	bucketFormat = []byte("pushinbox")
	keyVersion   = []byte("version")
)

const (
	version   = "1"
	idSize    = 20
	chunkSize = 64 << 10
)

// tables are the buckets within one transaction.
type tables struct {
	ids, messages, chunks, index *bbolt.Bucket
}

func tablesOf(tx *bbolt.Tx) tables {
	t := tables{
		ids:      tx.Bucket(bucketIDs),
		messages: tx.Bucket(bucketMessages),
		chunks:   tx.Bucket(bucketChunks),
		index:    tx.Bucket(bucketIndex),
	}
	// Keys only rise in these two, so their pages can be filled.
	t.messages.FillPercent, t.chunks.FillPercent = 1, 1
	return t
}

// record is a message without its ID, order and data. It has its own field names,
// so that the file does not change with the API.
type record struct {
	Source          string            `json:"source"`
	Subscription    string            `json:"subscription,omitempty"`
	MessageID       string            `json:"messageId"`
	PublishTime     time.Time         `json:"publishTime,omitzero"`
	Size            int               `json:"size"`
	Attributes      map[string]string `json:"attributes,omitempty"`
	OrderingKey     string            `json:"orderingKey,omitempty"`
	DeliveryAttempt int               `json:"deliveryAttempt,omitempty"`
	Quarantined     string            `json:"quarantined,omitempty"`
	Verified        verified          `json:"verified,omitzero"`
}

// verified is inbox.Verified with the names of the file.
type verified struct {
	Issuer        string    `json:"iss,omitempty"`
	Audience      string    `json:"aud,omitempty"`
	Email         string    `json:"email,omitempty"`
	EmailVerified bool      `json:"emailVerified,omitempty"`
	Subject       string    `json:"sub,omitempty"`
	IssuedAt      time.Time `json:"iat,omitzero"`
	ExpiresAt     time.Time `json:"exp,omitzero"`
}

// encode returns a record's bytes: ID, length of the JSON, JSON, data.
func encode(id []byte, m *inbox.Message) ([]byte, error) {
	v := verified(m.Verified)
	v.IssuedAt, v.ExpiresAt = stamp(v.IssuedAt), stamp(v.ExpiresAt)
	r, err := json.Marshal(&record{
		Source:          m.Source,
		Subscription:    m.Subscription,
		MessageID:       m.MessageID,
		PublishTime:     stamp(m.PublishTime),
		Size:            len(m.Data),
		Attributes:      m.Attributes,
		OrderingKey:     m.OrderingKey,
		DeliveryAttempt: m.DeliveryAttempt,
		Quarantined:     string(m.Quarantined),
		Verified:        v,
	})
	if err != nil {
		return nil, err
	}
	data := m.Data[:min(len(m.Data), inbox.PreviewSize)]
	b := make([]byte, 0, idSize+binary.MaxVarintLen32+len(r)+len(data))
	b = append(b, id...)
	b = binary.AppendUvarint(b, uint64(len(r)))
	b = append(b, r...)
	return append(b, data...), nil
}

// stamp returns t in microseconds, as precisely as every inbox stores it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

var errRecord = errors.New("boltinbox: a record cannot be read")

// decode returns the message in b, whose data are the first PreviewSize bytes.
func decode(at order, b []byte) (*inbox.Message, error) {
	if len(b) < idSize {
		return nil, errRecord
	}
	id, b := b[:idSize], b[idSize:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, errRecord
	}
	var r record
	if err := json.Unmarshal(b[n:n+int(size)], &r); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	return &inbox.Message{
		ID:              hex.EncodeToString(id),
		Source:          r.Source,
		Subscription:    r.Subscription,
		MessageID:       r.MessageID,
		PublishTime:     r.PublishTime,
		ReceivedAt:      at.time(),
		Data:            bytes.Clone(b[n+int(size):]), // b is the file's
		Size:            r.Size,
		Truncated:       r.Size > inbox.PreviewSize,
		Attributes:      r.Attributes,
		OrderingKey:     r.OrderingKey,
		DeliveryAttempt: r.DeliveryAttempt,
		Quarantined:     inbox.Reason(r.Quarantined),
		Verified:        inbox.Verified(r.Verified),
	}, nil
}

// put stores m as received at now, or just after the last message if that is
// later. It reports false when a message with the same identity exists.
func (t tables) put(m *inbox.Message, now time.Time) (stored bool, err error) {
	id, err := hex.DecodeString(inbox.ID(m.Source, m.Subscription, m.MessageID))
	if err != nil {
		return false, err
	}
	if t.ids.Get(id) != nil {
		return false, nil
	}
	micros := max(uint64(max(now.UnixMicro(), 0)), t.messages.Sequence()+1)
	if err := t.messages.SetSequence(micros); err != nil {
		return false, err
	}
	var at order
	binary.BigEndian.PutUint64(at[:], micros)
	r, err := encode(id, m)
	if err != nil {
		return false, err
	}
	if err := t.messages.Put(at[:], r); err != nil {
		return false, err
	}
	if err := t.ids.Put(id, at[:]); err != nil {
		return false, err
	}
	for _, key := range indexKeys(m, at) {
		if err := t.index.Put(key, nil); err != nil {
			return false, err
		}
	}
	rest := m.Data[min(len(m.Data), inbox.PreviewSize):]
	for i := 0; len(rest) > 0; i++ {
		n := min(len(rest), chunkSize)
		if err := t.chunks.Put(chunkKey(at, i), rest[:n]); err != nil {
			return false, err
		}
		rest = rest[n:]
	}
	return true, nil
}

func chunkKey(at order, i int) []byte {
	return binary.BigEndian.AppendUint32(at[:len(at):len(at)], uint32(i))
}

// indexKeys returns the keys under which queries with a filter find m: one for
// each combination of filters, so that a query reads only messages that match.
func indexKeys(m *inbox.Message, at order) [][]byte {
	queries := []inbox.Query{{Source: m.Source}}
	if m.Subscription != "" {
		queries = append(queries, inbox.Query{Subscription: m.Subscription}, inbox.Query{Source: m.Source, Subscription: m.Subscription})
	}
	if m.Quarantined != "" {
		for _, q := range append(queries, inbox.Query{}) {
			q.Quarantined = true
			queries = append(queries, q)
		}
	}
	keys := make([][]byte, len(queries))
	for i, q := range queries {
		keys[i] = append(filter(q), at[:]...)
	}
	return keys
}

// filter returns what the index keys begin with of messages that q selects.
func filter(q inbox.Query) []byte {
	b := binary.AppendUvarint(nil, uint64(len(q.Source)))
	b = append(append(b, q.Source...), q.Subscription...)
	if q.Quarantined {
		b = append([]byte("\xff\xff\xff\xffquarantined"), b...) // no length begins so
	}
	sum := sha256.Sum256(b)
	return sum[:16]
}

// event returns the message at an order as lists and feeds show it. A message is
// visible from the time at which it is received, since there is one writer.
func (t tables) event(at order) (inbox.Event, error) {
	m, err := t.message(at)
	if err != nil {
		return inbox.Event{}, err
	}
	token := inbox.Position{ReceivedAt: m.ReceivedAt, Commit: m.ReceivedAt, ID: m.ID}.Token()
	return inbox.Event{Token: token, Message: *m}, nil
}

// message returns the message at an order, its data cut.
func (t tables) message(at order) (*inbox.Message, error) {
	return decode(at, t.messages.Get(at[:]))
}

// whole returns the message at an order and all its data.
func (t tables) whole(at order) (*inbox.Message, error) {
	m, err := t.message(at)
	if err != nil || !m.Truncated {
		return m, err
	}
	if m.Size > inbox.MaxQuarantinedSize {
		return nil, errRecord
	}
	m.Data = append(make([]byte, 0, m.Size), m.Data...)
	c := t.chunks.Cursor()
	for k, v := c.Seek(chunkKey(at, 0)); bytes.HasPrefix(k, at[:]); k, v = c.Next() {
		m.Data = append(m.Data, v...)
	}
	if len(m.Data) != m.Size {
		return nil, errRecord
	}
	m.Truncated = false
	return m, nil
}

// deleteOldest deletes the oldest message if it is older than limit. It returns
// its order, nil when there is none, and the number of deleted keys.
func (t tables) deleteOldest(limit order) (*order, int, error) {
	k, v := t.messages.Cursor().First()
	if k == nil || bytes.Compare(k, limit[:]) >= 0 {
		return nil, 0, nil
	}
	var at order
	copy(at[:], k)
	m, err := decode(at, v)
	if err != nil {
		return nil, 0, err
	}
	id := bytes.Clone(v[:idSize])
	keys := indexKeys(m, at)
	n := len(keys) + 2
	for _, key := range keys {
		if err := t.index.Delete(key); err != nil {
			return nil, 0, err
		}
	}
	for i, left := 0, m.Size-len(m.Data); left > 0; i, left = i+1, left-chunkSize {
		if err := t.chunks.Delete(chunkKey(at, i)); err != nil {
			return nil, 0, err
		}
		n++
	}
	if err := errors.Join(t.ids.Delete(id), t.messages.Delete(at[:])); err != nil {
		return nil, 0, err
	}
	return &at, n, nil
}

// end returns the position after every message that was ever stored.
func (t tables) end() inbox.Position {
	next := time.UnixMicro(int64(t.messages.Sequence()) + 1).UTC()
	return inbox.Position{ReceivedAt: next, Commit: next}
}

// walk goes over the messages that a query selects. With a filter it goes
// over the index, without one over the messages themselves.
type walk struct {
	t      tables
	c      *bbolt.Cursor
	prefix []byte
}

func (t tables) walk(q inbox.Query) walk {
	if q.Source == "" && q.Subscription == "" && !q.Quarantined {
		return walk{t, t.messages.Cursor(), nil}
	}
	return walk{t, t.index.Cursor(), filter(q)}
}

// at returns the order in the key k, and whether k is one of the walk's.
func (w walk) at(k, _ []byte) (at order, ok bool) {
	if len(k) != len(w.prefix)+len(at) || !bytes.HasPrefix(k, w.prefix) {
		return at, false
	}
	copy(at[:], k[len(w.prefix):])
	return at, true
}

func (w walk) next() (order, bool)     { return w.at(w.c.Next()) }
func (w walk) previous() (order, bool) { return w.at(w.c.Prev()) }

// seek goes to the first key at or after a time.
func (w walk) seek(at time.Time) (order, bool) {
	key := append([]byte(nil), w.prefix...)
	return w.at(w.c.Seek(binary.BigEndian.AppendUint64(key, uint64(at.UnixMicro()))))
}

// after goes to the first message that a feed yields after from.
func (w walk) after(from inbox.Position) (order, bool) {
	at, ok := w.seek(from.Commit)
	if ok && at.time().Equal(from.Commit) && w.id(at) <= from.ID {
		return w.next()
	}
	return at, ok
}

// before goes to the first message that a list shows after from, or to the
// newest.
func (w walk) before(from *inbox.Position) (order, bool) {
	end := maxTime
	if from != nil {
		end = from.ReceivedAt
	}
	if at, ok := w.seek(end); ok && from != nil && at.time().Equal(end) && w.id(at) < from.ID {
		return at, ok
	}
	// The cursor is on a key at or after the end, or past the last key: the
	// message is the one before.
	return w.previous()
}

// maxTime is after every message: no token and no clock exceeds it.
var maxTime = time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)

// id returns the ID of the message at an order.
func (w walk) id(at order) string {
	r := w.t.messages.Get(at[:])
	return hex.EncodeToString(r[:min(len(r), idSize)])
}
