package boltinbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
	"go.etcd.io/bbolt"
)

// The bucket search has the keys of what people look messages up by. Which
// attributes it has is a setting, so it belongs to no record's digest: its sequence
// is the sum of its keys' hashes, and shows whether one is missing. It is built again
// when a file is opened whose index is of another setting, of an earlier version, or
// damaged.

// What a key of the search index is of. Keys with the same begin lie together, and
// those of message IDs that a provider counts up in their order, so that a commit of
// many messages changes few pages.
const (
	searchMessageID   = 'm'
	searchOrderingKey = 'o'
	searchAttribute   = 'a'
	searchShortName   = 's' // of the subscription
	// searchLate is of messages whose order is after the time at which they were
	// received: see tables.put.
	searchLate = 'l'
)

// searchLayout counts up when searchPrefix changes.
const searchLayout = 2

// searchPrefix returns what the search keys of these values begin with: their first
// bytes, which are the whole of most message IDs, and a hash of all.
func searchPrefix(kind byte, values ...string) []byte {
	const shown, hashed = 20, 8
	var all []byte
	for _, v := range values {
		all = binary.AppendUvarint(all, uint64(len(v)))
		all = append(all, v...)
	}
	sum := sha256.Sum256(all)
	key := make([]byte, 1+shown, 1+shown+hashed+len(order{}))
	key[0] = kind
	copy(key[1:], strings.Join(values, "="))
	return append(key, sum[:hashed]...)
}

// searchKeys returns the keys of m, which was received when its order says unless
// isLate.
func (t tables) searchKeys(m *inbox.Message, at order, isLate bool) (keys [][]byte) {
	add := func(isSet bool, kind byte, values ...string) {
		if isSet {
			keys = append(keys, append(searchPrefix(kind, values...), at[:]...))
		}
	}
	add(true, searchMessageID, m.MessageID)
	add(m.OrderingKey != "", searchOrderingKey, m.OrderingKey)
	add(m.Subscription != "", searchShortName, inbox.ShortName(m.Subscription))
	add(isLate, searchLate)
	for _, name := range t.attributes {
		value, ok := m.Attributes[name]
		add(ok, searchAttribute, name, value)
	}
	return keys
}

// addSearch stores search keys that are not there yet, and deleteSearch deletes
// them.
func (t tables) addSearch(keys [][]byte) error {
	sum := t.search.Sequence()
	for _, key := range keys {
		sum += hashKey(bucketSearch, key, nil)
		if err := t.search.Put(key, nil); err != nil {
			return err
		}
	}
	return t.search.SetSequence(sum)
}

func (t tables) deleteSearch(keys [][]byte) error {
	sum := t.search.Sequence()
	for _, key := range keys {
		sum -= hashKey(bucketSearch, key, nil)
		if err := t.search.Delete(key); err != nil {
			return err
		}
	}
	return t.search.SetSequence(sum)
}

// searchState returns what the file says of an index that is whole: its layout, which
// that of layout 1 does not begin with, and its attributes.
func (in *Inbox) searchState() []byte {
	b := []byte{0, searchLayout}
	for _, name := range in.attributes {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
	}
	return b
}

// saveSearch writes down that the index is whole.
func (in *Inbox) saveSearch(tx *bbolt.Tx) error {
	return tx.Bucket(bucketFormat).Put(keySearch, datadir.Seal(keySearch, in.searchState()))
}

// openSearch builds the search index where it is missing, damaged or of other
// attributes.
func (in *Inbox) openSearch(found *content, isDamaged bool) error {
	isDamaged = isDamaged || found.hasSearch && found.searchWant != found.searchHave
	if found.hasSearch && bytes.Equal(found.searchState, in.searchState()) && !isDamaged {
		return nil
	}
	if isDamaged {
		in.log.Error(fmt.Sprintf("%s: the search index was damaged and is built again", in.path))
	}
	if err := in.db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketSearch) != nil {
			if err := tx.DeleteBucket(bucketSearch); err != nil {
				return err
			}
		}
		if err := tx.Bucket(bucketFormat).Delete(keySearch); err != nil {
			return err
		}
		return createBuckets(tx)
	}); err != nil {
		return err
	}
	beforeStep("index")
	told := time.Now()
	for done, next, whole := 0, (order{}), false; !whole; done += searchBatch {
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			in.log.Warn(fmt.Sprintf("%s: the search index has %d of %d messages", in.path, done, found.records))
		}
		err := in.db.Update(func(tx *bbolt.Tx) (err error) {
			if next, whole, err = in.tables(tx).buildSearch(next); whole && err == nil {
				err = in.saveSearch(tx)
			}
			return err
		})
		if err != nil {
			return err
		}
		beforeStep("indexed")
	}
	return nil
}

// searchBatch is of how many messages one transaction builds the index. Its memory
// is some kilobytes for each.
const searchBatch = 20_000

// buildSearch adds the keys of the messages from an order on, as far as a batch
// goes. It returns where the next begins, or that the index is whole.
func (t tables) buildSearch(from order) (next order, whole bool, err error) {
	var keys [][]byte
	n := 0
	c := t.messages.Cursor()
	for k, _ := c.Seek(from[:]); k != nil; k, _ = c.Next() {
		at := parseOrder(k)
		if n++; n > searchBatch {
			next = at
			break
		}
		if m, err := t.message(at); err == nil { // otherwise it is named already
			keys = append(keys, t.searchKeys(m, at, at.isLate(m))...)
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return next, n <= searchBatch, t.addSearch(keys)
}

// isLate reports whether the message with this order was received before it.
func (o order) isLate(m *inbox.Message) bool { return !m.ReceivedAt.Equal(o.time()) }

// choose returns the bucket and the beginning of the keys by which an index finds
// what q selects, the most selective one, and what of q is not answered so. Without
// an index the bucket is that of the messages.
func (t tables) choose(q *inbox.Query) (b *bbolt.Bucket, prefix []byte, rest inbox.Query) {
	rest = *q
	attribute := slices.IndexFunc(t.attributes, func(name string) bool {
		_, ok := q.Attributes[name]
		return ok
	})
	indexed := inbox.Query{Source: q.Source, Quarantined: q.Quarantined}
	isShort := !strings.Contains(q.Subscription, "/")
	if !isShort {
		indexed.Subscription = q.Subscription
	}
	switch {
	case q.MessageID != "":
		rest.MessageID = ""
		return t.search, searchPrefix(searchMessageID, q.MessageID), rest
	case q.OrderingKey != "":
		rest.OrderingKey = ""
		return t.search, searchPrefix(searchOrderingKey, q.OrderingKey), rest
	case attribute >= 0:
		name := t.attributes[attribute]
		rest.Attributes = maps.Clone(q.Attributes)
		delete(rest.Attributes, name)
		return t.search, searchPrefix(searchAttribute, name, q.Attributes[name]), rest
	case isShort && q.Subscription != "" && !q.Quarantined:
		rest.Subscription = ""
		return t.search, searchPrefix(searchShortName, q.Subscription), rest
	case indexed.IsEverything():
		return t.messages, nil, rest
	}
	rest.Source, rest.Quarantined = "", false
	if !isShort {
		rest.Subscription = ""
	}
	return t.index, filter(indexed), rest
}

// walk goes over the keys of a bucket that begin with a prefix and whose orders are
// at least low and less than high.
type walk struct {
	t         tables
	c         *bbolt.Cursor
	prefix    []byte
	low, high time.Time
}

// walk returns the walk of a feed: over what an index finds, of all times.
func (t tables) walk(q *inbox.Query) walk {
	b, prefix, _ := t.choose(q)
	return walk{t, b.Cursor(), prefix, time.UnixMicro(0), maxTime}
}

// list returns the walk of a list, over what was received at limit or later, and
// whether q selects all that it goes over.
func (t tables) list(q *inbox.Query, limit time.Time) (w walk, isExact bool) {
	b, prefix, rest := t.choose(q)
	w = walk{t, b.Cursor(), prefix, time.UnixMicro(0), maxTime}
	since, until := q.Bounds()
	rest.Since, rest.Until = time.Time{}, time.Time{}
	isExact = rest.IsEverything()
	// No message is received after its order says, and few before: those after the
	// clock went back.
	late, hasLate := t.lastLate()
	if !until.IsZero() && until.Before(w.high) {
		if w.high = until; hasLate && !late.Before(until) {
			w.high, isExact = late.Add(time.Microsecond), false
		}
	}
	if since.After(w.low) {
		w.low = since
		isExact = isExact && (!hasLate || late.Before(since))
	}
	if limit.After(w.low) {
		w.low = limit
	}
	return w, isExact
}

// lastLate returns the order of the last message that was received before it.
func (t tables) lastLate() (time.Time, bool) {
	w := walk{t, t.search.Cursor(), searchPrefix(searchLate), time.UnixMicro(0), maxTime}
	at, ok := w.before(nil)
	return at.time(), ok
}

// at returns the order in the key k, and whether k is one of the walk's.
func (w walk) at(k, _ []byte) (at order, ok bool) {
	if len(k) != len(w.prefix)+len(at) || !bytes.HasPrefix(k, w.prefix) {
		return at, false
	}
	at = parseOrder(k[len(w.prefix):])
	return at, !at.time().Before(w.low) && at.time().Before(w.high)
}

func (w walk) next() (order, bool)     { return w.at(w.c.Next()) }
func (w walk) previous() (order, bool) { return w.at(w.c.Prev()) }

// seek goes to the first key at or after a time.
func (w walk) seek(at time.Time) (order, bool) {
	key := append([]byte(nil), w.prefix...)
	return w.at(w.c.Seek(binary.BigEndian.AppendUint64(key, uint64(at.UnixMicro()))))
}

// after goes to the first message after a time and an ID in the order of feeds and
// of ascending lists.
func (w walk) after(from time.Time, id string) (order, bool) {
	if from.Before(w.low) {
		return w.seek(w.low)
	}
	at, ok := w.seek(from)
	if ok && at.time().Equal(from) && w.id(at) <= id {
		return w.next()
	}
	return at, ok
}

// first goes to the first message that an ascending list shows after from, or to
// the oldest.
func (w walk) first(from *inbox.Position) (order, bool) {
	if from == nil {
		return w.seek(w.low)
	}
	return w.after(from.ReceivedAt, from.ID)
}

// before goes to the first message that a list shows after from, or to the
// newest.
func (w walk) before(from *inbox.Position) (order, bool) {
	end := w.high
	if from != nil && from.ReceivedAt.Before(end) {
		end = from.ReceivedAt
		if at, ok := w.seek(end); ok && at.time().Equal(end) && w.id(at) < from.ID {
			return at, ok
		}
	} else {
		w.seek(end)
	}
	// The cursor is on a key at or after the end, or past the last key: the
	// message is the one before.
	return w.previous()
}

// maxTime is after every message: no token and no clock exceeds it.
var maxTime = time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
