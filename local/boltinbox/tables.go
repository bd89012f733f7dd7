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

	"example.com/pushinbox/local/datadir"
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
	// bucketChunks: order, number of the chunk, checksum -> the data from PreviewSize
	// on, in pieces. bbolt writes a page of up to four neighbours as a whole: data
	// in one piece would have up to 10 MB of each neighbour written again.
	bucketChunks = []byte("chunks")
	// bucketIndex: filter and order -> nothing.
	bucketIndex = []byte("index")
	// bucketSearch: what people look messages up by and order -> nothing.
	bucketSearch = []byte("search")
	// bucketFormat: the version of the file's format, when the inbox was last in use,
	// in microseconds, and of which attributes the search index is.
	bucketFormat = []byte("pushinbox")
	keyVersion   = []byte("version")
	keySeen      = []byte("seen")
	keySearch    = []byte("search")
)

const (
	// version is the format of the file. In version 1 nothing had a checksum, and
	// before version 3 there was no search index.
	version   = "3"
	idSize    = 20
	chunkSize = 64 << 10
)

// tables are the buckets within one transaction.
type tables struct {
	ids, messages, chunks, index, search *bbolt.Bucket

	attributes []string // of the search index
}

// tables returns the buckets of tx.
func (in *Inbox) tables(tx *bbolt.Tx) tables {
	t := tables{
		ids:      tx.Bucket(bucketIDs),
		messages: tx.Bucket(bucketMessages),
		chunks:   tx.Bucket(bucketChunks),
		index:    tx.Bucket(bucketIndex),
		search:   tx.Bucket(bucketSearch),

		attributes: in.attributes,
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
	// ReceivedAt is set where the order is not the time, see tables.put.
	ReceivedAt time.Time `json:"receivedAt,omitzero"`
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

// encode returns a record's bytes: ID, length of the JSON, JSON, data. receivedAt
// is zero where it is the order.
func encode(id []byte, m *inbox.Message, receivedAt time.Time) ([]byte, error) {
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
		ReceivedAt:      receivedAt,
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
	if r.ReceivedAt.IsZero() {
		r.ReceivedAt = at.time()
	}
	return &inbox.Message{
		ID:              hex.EncodeToString(id),
		Source:          r.Source,
		Subscription:    r.Subscription,
		MessageID:       r.MessageID,
		PublishTime:     r.PublishTime,
		ReceivedAt:      r.ReceivedAt,
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

const (
	// maxAhead is how far the order of a message may be ahead of the clock and
	// still be the time at which it was received.
	maxAhead = 5 * time.Minute
	// lastTime is the latest time that a clock is believed to have, so that times
	// can rise after it.
	lastTime = 220_000_000_000_000_000 // in microseconds, the year 8941
)

// put stores m as received at now. Its order is the same time, or just after the
// last message if that is later: order, and with it every token, rises whatever
// the clock does. Where the two differ by more than maxAhead, because the clock
// was ahead before, m has both. It reports false when a message with the same
// identity exists.
func (t tables) put(m *inbox.Message, now time.Time) (stored bool, err error) {
	id := rawID(m)
	if t.ids.Get(id) != nil {
		return false, nil
	}
	clock := min(uint64(max(now.UnixMicro(), 0)), lastTime)
	micros := max(clock, t.messages.Sequence()+1)
	// Only damage puts the last message after the sequence.
	if last, _ := t.messages.Cursor().Last(); last != nil {
		micros = max(micros, binary.BigEndian.Uint64(last)+1)
	}
	if err := t.messages.SetSequence(micros); err != nil {
		return false, err
	}
	var at order
	binary.BigEndian.PutUint64(at[:], micros)
	var receivedAt time.Time
	if micros-clock > uint64(maxAhead/time.Microsecond) {
		receivedAt = time.UnixMicro(int64(clock)).UTC()
	}
	r, err := encode(id, m, receivedAt)
	if err != nil {
		return false, err
	}
	if err := t.putRecord(at, id, r, m, len(m.Data), !receivedAt.IsZero()); err != nil {
		return false, err
	}
	rest := m.Data[min(len(m.Data), inbox.PreviewSize):]
	for i := 0; len(rest) > 0; i++ {
		n := min(len(rest), chunkSize)
		key := chunkKey(at, i)
		if err := t.chunks.Put(sealChunk(key, rest[:n]), rest[:n]); err != nil {
			return false, err
		}
		rest = rest[n:]
	}
	return true, nil
}

// putRecord stores the record of m, whose data has size bytes, and the keys that
// lead to it. isLate says that m was received before its order.
func (t tables) putRecord(at order, id, record []byte, m *inbox.Message, size int, isLate bool) error {
	if err := t.addSearch(t.searchKeys(m, at, isLate)); err != nil {
		return err
	}
	index := indexKeys(m, at)
	record = binary.BigEndian.AppendUint64(record, digest(id, at, index, size))
	if err := errors.Join(t.messages.Put(at[:], datadir.Seal(at[:], record)), t.ids.Put(id, at[:])); err != nil {
		return err
	}
	for _, key := range index {
		if err := t.index.Put(key, nil); err != nil {
			return err
		}
	}
	return nil
}

// rawID returns the ID of m in bytes.
func rawID(m *inbox.Message) []byte {
	id, _ := hex.DecodeString(inbox.ID(m.Source, m.Subscription, m.MessageID))
	return id
}

const chunkKeySize = len(order{}) + 4

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

// message returns the message at an order, whose data are the first PreviewSize
// bytes. It fails with errRecord.
func (t tables) message(at order) (*inbox.Message, error) {
	r, _, ok := unsealRecord(at[:], t.messages.Get(at[:]))
	if !ok {
		return nil, errRecord
	}
	return decode(at, r)
}

// position returns the position of the message with this order and ID. A message is
// visible from the time at which it is received, since there is one writer.
func (o order) position(id string) inbox.Position {
	return inbox.Position{ReceivedAt: o.time(), Commit: o.time(), ID: id}
}

// next returns the position right after the message with this order.
func (o order) next() inbox.Position {
	after := o.time().Add(time.Microsecond)
	return inbox.Position{ReceivedAt: after, Commit: after}
}

// whole returns the message at an order and all its data. It fails with errRecord.
func (t tables) whole(at order) (*inbox.Message, error) {
	m, err := t.message(at)
	if err == nil && m.Truncated {
		err = t.readChunks(at, m)
	}
	return m, err
}

// readChunks makes the data of m whole.
func (t tables) readChunks(at order, m *inbox.Message) error {
	if m.Size > inbox.MaxQuarantinedSize {
		return errRecord
	}
	data := append(make([]byte, 0, m.Size), m.Data...)
	for i := range chunks(m.Size) {
		want := chunkKey(at, i)
		sealed, chunk := t.chunks.Cursor().Seek(want)
		if key, ok := unsealChunk(sealed, chunk); !ok || !bytes.Equal(key, want) {
			return fmt.Errorf("%w: part %d of its data", errRecord, i)
		}
		data = append(data, chunk...)
	}
	if len(data) != m.Size {
		return errRecord
	}
	m.Data, m.Truncated = data, false
	return nil
}

// expired returns the orders of the oldest messages that were received before
// limit, at most n. A message that was received after soon, which the clock has
// not reached, expires with the next one that expires.
func (t tables) expired(limit, soon time.Time, n int) (found []order) {
	sure := 0
	c := t.messages.Cursor()
	for k, _ := c.First(); k != nil && sure < n; k, _ = c.Next() {
		at := parseOrder(k)
		received := at.time()
		if m, err := t.message(at); err == nil {
			received = m.ReceivedAt
		}
		if !received.Before(limit) && !received.After(soon) {
			break
		}
		if found = append(found, at); received.Before(limit) {
			sure = len(found)
		}
	}
	return found[:min(sure, n)]
}

// delete deletes the message at an order, and of a damaged one what can be found.
// It returns the number of keys.
func (t tables) delete(at order) (keys int, err error) {
	if m, err := t.message(at); err == nil {
		index := indexKeys(m, at)
		for _, key := range index {
			if err := t.index.Delete(key); err != nil {
				return 0, err
			}
		}
		search := t.searchKeys(m, at, at.isLate(m))
		if err := errors.Join(t.deleteSearch(search), t.ids.Delete(rawID(m))); err != nil {
			return 0, err
		}
		keys = len(index) + len(search) + 1
	}
	var parts [][]byte
	c := t.chunks.Cursor()
	for k, _ := c.Seek(at[:]); bytes.HasPrefix(k, at[:]); k, _ = c.Next() {
		parts = append(parts, bytes.Clone(k))
	}
	for _, key := range parts {
		if err := t.chunks.Delete(key); err != nil {
			return 0, err
		}
	}
	return keys + len(parts) + 1, t.messages.Delete(at[:])
}

// end returns the position after every message that was ever stored.
func (t tables) end() inbox.Position {
	next := time.UnixMicro(int64(t.messages.Sequence()) + 1).UTC()
	return inbox.Position{ReceivedAt: next, Commit: next}
}

// id returns the ID of the message at an order.
func (w walk) id(at order) string {
	r := w.t.messages.Get(at[:])
	return hex.EncodeToString(r[:min(len(r), idSize)])
}
