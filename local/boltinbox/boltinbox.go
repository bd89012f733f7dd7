// Package boltinbox keeps an inbox in one file of one machine, with bbolt. It
// is the default of a local run and passes the same suite as production's.
//
// Concurrent Puts share a commit and its fsyncs. Messages lie in the file in
// the order in which they were stored, so a page of the list is read from one
// place of it, however many messages there are, and a feed is the same walk in
// the other direction. One process at a time has the file open.
//
// A message older than the TTL is deleted in the background within about a
// minute, or a tenth of the TTL if that is less. As with Firestore's TTL it
// still makes a redelivery a duplicate until then.
//
// The file is read when it is opened, and every record has a checksum: a damaged
// one is left out of lists and feeds and named in the log. A file of an earlier
// version is upgraded, and kept beside the new one.
//
// Tokens follow the order in which messages were stored, whatever the clock does.
// See [Options.Now] for what a wrong clock does to times.
package boltinbox

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/local/wallclock"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/groupcommit"
	"example.com/pushinbox/shared/problem"
	"go.etcd.io/bbolt"
)

// Options holds Open's optional settings.
type Options struct {
	// TTL is how long messages are stored. Zero stores them for ever.
	TTL time.Duration
	// Now is the clock; nil means time.Now. Messages get its time, or one just
	// after the last message's where it stood still or went back by up to five
	// minutes. When it leaps ahead of where it was, reads leave out at once what
	// has expired by it, and messages are deleted by the old time for an hour.
	Now func() time.Time
	// Log gets what is wrong with the file or the clock, and the progress of an
	// upgrade; nil discards it.
	Log *slog.Logger
	// SearchAttributes are the names of the attributes that lists find messages by
	// through an index. Open builds it again when they are others than before, which
	// takes some seconds for a million messages.
	SearchAttributes []string
}

// Inbox is an inbox in a file. Open returns one.
type Inbox struct {
	db    *bbolt.DB
	file  *os.File
	path  string
	ttl   time.Duration
	clock *wallclock.Clock
	// attributes are those of the search index, sorted.
	attributes []string
	log        *slog.Logger
	puts       *groupcommit.Group[*pendingPut]

	// changed is closed and replaced after every commit.
	changedMu sync.Mutex
	changed   chan struct{}

	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	sweeping  sync.WaitGroup
	// damaged holds why the file can no longer be used.
	damaged atomic.Pointer[error]
	// named has the orders of the damaged records that were logged.
	named sync.Map
	// size is how many bytes the file has at least. The one who commits uses it.
	size int64
}

var _ inbox.Inbox = (*Inbox)(nil)

const (
	// firstMap is how much of the file is mapped at least. Growing the map
	// stops readers and writers and copies what is being written, so that a
	// new file starts with room for a few messages of the largest size. On
	// Windows it is also the size of a new file.
	firstMap = 64 << 20
	// A commit holds its messages in memory twice, as they came and as pages.
	maxCommitItems = 1000
	maxCommitBytes = 8 << 20
)

// Open opens the inbox in the file at path, and creates a missing file. The
// directory must exist. Open fails with datadir.ErrLocked when another process has the
// inbox open, and with an error that names the path when the file cannot be read
// and written, is not an inbox, is of a later version, or is damaged so that lists
// could be wrong. It reads the whole file, which has a gigabyte in about a second.
func Open(path string, o *Options) (*Inbox, error) {
	in, err := newInbox(path, o)
	if err != nil {
		return nil, err
	}
	if err := in.guard(in.open); err != nil {
		return nil, openError(path, err)
	}
	if in.ttl > 0 {
		in.sweeping.Go(in.sweep)
	}
	return in, nil
}

// newInbox returns an inbox whose file is not open yet.
func newInbox(path string, o *Options) (*Inbox, error) {
	if o == nil {
		o = &Options{}
	}
	if o.TTL < 0 {
		return nil, fmt.Errorf("boltinbox: TTL %v is negative", o.TTL)
	}
	in := &Inbox{
		path:       path,
		ttl:        o.TTL,
		clock:      wallclock.New(o.Now),
		log:        o.Log,
		attributes: inbox.IndexedAttributes(o.SearchAttributes),
		changed:    make(chan struct{}),
		closing:    make(chan struct{}),
	}
	if in.log == nil {
		in.log = slog.New(slog.DiscardHandler)
	}
	var err error
	in.puts, err = groupcommit.New(in.commit, groupcommit.Options{
		MaxItems: maxCommitItems,
		MaxBytes: maxCommitBytes,
		// bbolt has one writer at a time.
		InFlight: 1,
		Finish:   true,
	})
	return in, err
}

// openError returns err as Open says it.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, datadir.ErrLocked), strings.Contains(err.Error(), path+":"), strings.Contains(err.Error(), path+" "):
		return fmt.Errorf("boltinbox: %w", err)
	}
	return fmt.Errorf("boltinbox: %s %w", path, err)
}

// repairHint says what to do about a damaged file.
const repairHint = `"pushinbox local --repair" moves what can be read to a new file and keeps this one`

// open opens the file, turns a new one into an inbox, and upgrades an old one.
func (in *Inbox) open() error {
	found, err := in.check()
	if err != nil {
		return err
	}
	if found.version == "1" {
		if err := in.upgrade(found); err != nil {
			return fmt.Errorf("cannot be upgraded from format 1 to %s, and is as it was: %w", version, err)
		}
		if found, err = in.check(); err != nil {
			return err
		}
	}
	in.db, in.file, err = datadir.OpenBolt(in.path, firstMap)
	if err != nil {
		return err
	}
	if found.isNew {
		err = in.initFile()
	} else {
		err = in.start(found)
	}
	if err != nil {
		_ = in.db.Close()
	}
	return err
}

// start makes ready a file that is an inbox, in which found was found.
func (in *Inbox) start(found *content) error {
	if len(found.damaged) > 0 {
		in.log.Error(fmt.Sprintf("%s: %d of %d records are damaged and left out; %s", in.path, len(found.damaged), found.records, repairHint))
		for i, at := range found.damaged {
			if i == maxNamed {
				in.log.Error(fmt.Sprintf("%s: %d more damaged records are not named here", in.path, len(found.damaged)-i))
				break
			}
			in.name(at)
		}
	}
	if found.badChunks > 0 {
		in.log.Error(fmt.Sprintf("%s: %d parts of large messages are damaged; these messages are listed and cannot be read whole", in.path, found.badChunks))
	}
	in.clock.Start(found.seen)
	isDamaged := found.want != found.have
	if isDamaged {
		missing, err := in.reindex()
		if err != nil {
			return err
		}
		in.log.Error(fmt.Sprintf("%s: the index was damaged and was built again from the %d records that can be read", in.path, found.records-len(found.damaged)))
		for _, id := range missing {
			in.log.Error(fmt.Sprintf("%s: message %x is missing", in.path, id))
		}
	}
	return in.openSearch(found, isDamaged)
}

// maxNamed is how many damaged records are named when the file is opened.
const maxNamed = 20

// name logs a damaged record, once.
func (in *Inbox) name(at order) {
	if _, done := in.named.LoadOrStore(at, nil); !done {
		in.log.Error(fmt.Sprintf("%s: the record of the message received at %s is damaged and left out", in.path, at.time().Format(time.RFC3339Nano)))
	}
}

// content is what check found in a file.
type content struct {
	isNew   bool
	version string
	seen    time.Time // zero when unknown
	// records is how many messages there are, damaged the orders of those that
	// cannot be read, and badChunks how many chunks cannot.
	records, badChunks int
	damaged            []order
	// last is the last order that was assigned.
	last uint64
	// want is the digest of the keys that the records want, have that of those
	// that are there.
	want, have uint64
	// hasSearch says that there is a search index. searchState is what the file says
	// of it, searchWant the digest of the keys that it should have, and searchHave
	// that of those that are there.
	hasSearch              bool
	searchState            []byte
	searchWant, searchHave uint64
}

// isWhole reports whether all records and parts of messages can be read, and the index
// leads to them.
func (c *content) isWhole() bool {
	return len(c.damaged) == 0 && c.badChunks == 0 && c.want == c.have
}

// check reads the file, and refuses one that is not an inbox or whose pages are
// damaged. What it finds of a missing or empty file is that it is new.
func (in *Inbox) check() (*content, error) {
	found, damage, err := in.read()
	switch {
	case err != nil:
		return nil, err
	case found.isNew && len(damage) == 0:
		return found, nil
	case found.version != "" && found.version != version && found.version != "2" && found.version != "1":
		return nil, fmt.Errorf("has format %q and this pushinbox reads up to %s; use the pushinbox that wrote it, or another directory with --data", found.version, version)
	}
	// One of two heads may be damaged: the other one has all but the last commit.
	if len(damage) > 0 && errors.Is(damage[0], datadir.ErrHead) {
		in.log.Warn(fmt.Sprintf("%s: %v", in.path, damage[0]))
		damage = damage[1:]
	}
	switch {
	case len(damage) > 1:
		return nil, fmt.Errorf("is damaged or not an inbox: %w, and %d more faults; %s", damage[0], len(damage)-1, repairHint)
	case len(damage) > 0:
		return nil, fmt.Errorf("is damaged or not an inbox: %w; %s", damage[0], repairHint)
	case found.version == "":
		return nil, fmt.Errorf("is not an inbox; move it away, or choose another directory with --data")
	}
	return found, nil
}

// read reads the file from start to end. It returns what is in it and what is wrong
// with its pages.
func (in *Inbox) read() (*content, []error, error) {
	found := &content{}
	buckets := 0
	isNew, damage, err := datadir.CheckBolt(in.path, datadir.Visitor{
		Bucket: func(path []string, sequence uint64) {
			buckets++
			switch path[0] {
			case string(bucketMessages):
				found.last = sequence
			case string(bucketSearch):
				found.hasSearch, found.searchWant = true, sequence
			}
		},
		Entry: found.add,
	})
	if err != nil {
		return nil, nil, err
	}
	// bbolt creates a file, and the buckets come with the first commit.
	found.isNew = isNew || buckets == 0 && len(damage) == 0
	want := 6
	if !found.hasSearch && (found.version == "1" || found.version == "2") {
		want--
	}
	if !found.isNew && len(damage) == 0 && found.version != "" && buckets != want {
		damage = append(damage, fmt.Errorf("it has %d of %d buckets", buckets, want))
	}
	return found, damage, nil
}

// add takes in an entry of a file.
func (c *content) add(path []string, key, value []byte) {
	if len(path) != 1 {
		return
	}
	switch bucket := []byte(path[0]); string(bucket) {
	case string(bucketIDs):
		c.have += hashKey(bucket, key, value)
	case string(bucketIndex):
		c.have += hashKey(bucket, key, nil)
	case string(bucketSearch):
		c.searchHave += hashKey(bucket, key, nil)
	case string(bucketChunks):
		key, ok := unsealChunk(key, value)
		if c.have += hashKey(bucket, key, nil); !ok {
			c.badChunks++
		}
	case string(bucketMessages):
		c.records++
		_, digest, ok := unsealRecord(key, value)
		if c.want += digest; !ok {
			c.damaged = append(c.damaged, parseOrder(key))
		}
	case string(bucketFormat):
		b, ok := datadir.Unseal(key, value)
		switch {
		case string(key) == string(keyVersion):
			c.version = string(value)
		case string(key) == string(keySearch):
			c.searchState = bytes.Clone(b)
		case ok && len(b) == 8:
			c.seen = parseOrder(b).time()
		}
	}
}

// initFile turns a new file into an inbox.
func (in *Inbox) initFile() error {
	in.clock.Start(time.Time{})
	if err := in.db.Update(in.createInbox); err != nil {
		return err
	}
	// A new file is durable once its directory is synced.
	return datadir.SyncDir(in.path)
}

// createInbox makes an empty file an inbox.
func (in *Inbox) createInbox(tx *bbolt.Tx) error {
	if err := createBuckets(tx); err != nil {
		return err
	}
	return in.saveSearch(tx)
}

// createBuckets creates the buckets that are missing.
func createBuckets(tx *bbolt.Tx) error {
	for _, name := range [...][]byte{bucketFormat, bucketIDs, bucketMessages, bucketChunks, bucketIndex, bucketSearch} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketFormat).Put(keyVersion, []byte(version))
}

// Close finishes the Puts, ends the feeds and closes the file. Another Close does
// nothing and returns the same.
func (in *Inbox) Close() error {
	in.closeOnce.Do(func() {
		close(in.closing)
		in.puts.Close()
		in.sweeping.Wait()
		if in.damaged.Load() != nil {
			// bbolt may have panicked while it held its locks, and would wait for
			// them. The file stays locked until the process ends.
			in.closeErr = in.file.Close()
			return
		}
		saveErr := in.guard(func() error { return in.db.Update(in.saveClock) })
		if in.damaged.Load() != nil {
			in.closeErr = in.file.Close()
			return
		}
		in.closeErr = errors.Join(saveErr, in.db.Close())
	})
	return in.closeErr
}

// guard runs fn, which reads or writes the file, and turns a panic into an error:
// bbolt panics on damage, and reading mapped pages that the file no longer has
// faults. A damaged inbox fails until it is opened again.
func (in *Inbox) guard(fn func() error) (err error) {
	if damaged := in.damaged.Load(); damaged != nil {
		return *damaged
	}
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			err = fmt.Errorf("boltinbox: %s is damaged: %v", in.path, p)
			in.damaged.Store(&err)
		}
	}()
	return fn()
}

// view reads the file in its own transaction. fn must be short: while a
// transaction is open, pages are not reused and the file's map does not grow.
func (in *Inbox) view(ctx context.Context, fn func(tables) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := in.guard(func() error {
		return in.db.View(func(tx *bbolt.Tx) error { return fn(in.tables(tx)) })
	})
	return publicError(err)
}

// publicError returns err as callers of an inbox may see it.
func publicError(err error) error {
	if err == nil || errors.As(err, new(*problem.Error)) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", inbox.ErrUnavailable, err)
}

// pendingPut is a message on its way into a commit, which reports whether it
// stored it.
type pendingPut struct {
	message *inbox.Message
	stored  bool
}

// Put stores m unless a message with the same identity exists. When ctx ends
// while m is being written, Put returns after that, since m must not change
// until then.
func (in *Inbox) Put(ctx context.Context, m *inbox.Message) (stored bool, err error) {
	if err := m.Validate(); err != nil {
		return false, err
	}
	p := &pendingPut{message: m}
	if err := in.puts.Do(ctx, p, len(m.Data)); err != nil {
		return false, publicError(err)
	}
	return p.stored, nil
}

// errNothingNew ends a transaction that has nothing to write.
var errNothingNew = errors.New("nothing new")

// commit stores those of ps that are new, all or none. What it reports as stored
// is in a file that is at its path.
func (in *Inbox) commit(_ context.Context, ps []*pendingPut) []error {
	err := in.guard(func() error {
		if err := in.checkFile(); err != nil {
			return err
		}
		err := in.db.Update(func(tx *bbolt.Tx) error {
			t, now, anyNew := in.tables(tx), in.clock.Now(), false
			for _, p := range ps {
				var err error
				if p.stored, err = t.put(p.message, now); err != nil {
					return err
				}
				anyNew = anyNew || p.stored
			}
			if !anyNew {
				return errNothingNew
			}
			return in.saveClock(tx)
		})
		if err != nil && !errors.Is(err, errNothingNew) {
			return err
		}
		if lost := in.checkFile(); lost != nil {
			return lost
		}
		return err
	})
	switch {
	case errors.Is(err, errNothingNew):
		return nil
	case err != nil:
		return slices.Repeat([]error{err}, len(ps))
	}
	in.changedMu.Lock()
	close(in.changed)
	in.changed = make(chan struct{})
	in.changedMu.Unlock()
	return nil
}

// checkFile returns an error that callers may see when the open file is not the one
// at its path, or was cut. A cut file cannot be used any more.
func (in *Inbox) checkFile() error {
	size := in.size
	if err := in.db.View(func(tx *bbolt.Tx) error { in.size = tx.Size(); return nil }); err != nil {
		return err
	}
	err := datadir.CheckPlace(in.file, in.path, max(size, in.size))
	switch {
	case err == nil || errors.Is(err, fs.ErrClosed):
		return err
	case !errors.Is(err, datadir.ErrGone):
		err = fmt.Errorf("boltinbox: %w", err)
		in.damaged.Store(&err)
	}
	return &problem.Error{
		Status: http.StatusServiceUnavailable,
		Detail: "the inbox's file was deleted, moved, replaced or cut while it was in use, so nothing can be stored; start pushinbox local again",
		Cause:  fmt.Errorf("%w: %w", inbox.ErrUnavailable, err),
	}
}

// damagedMessage returns the error for a message that cannot be read.
func damagedMessage(err error) error {
	return &problem.Error{
		Status: http.StatusInternalServerError,
		Detail: "this message is damaged in the inbox's file and cannot be read",
		Cause:  fmt.Errorf("%w: %w", inbox.ErrUnavailable, err),
	}
}

// nextCommit returns a channel that is closed after the next commit.
func (in *Inbox) nextCommit() <-chan struct{} {
	in.changedMu.Lock()
	defer in.changedMu.Unlock()
	return in.changed
}

// Get returns the message with this ID.
func (in *Inbox) Get(ctx context.Context, id string) (*inbox.Message, error) {
	return in.find(ctx, id, tables.whole)
}

// Peek returns the message with this ID, its data cut.
func (in *Inbox) Peek(ctx context.Context, id string) (*inbox.Message, error) {
	return in.find(ctx, id, tables.message)
}

// find returns what read reads of the message with this ID.
func (in *Inbox) find(ctx context.Context, id string, read func(tables, order) (*inbox.Message, error)) (*inbox.Message, error) {
	if !inbox.ValidID(id) {
		return nil, inbox.ErrNotFound
	}
	raw, err := hex.DecodeString(id)
	if err != nil {
		return nil, err
	}
	var m *inbox.Message
	err = in.view(ctx, func(t tables) (err error) {
		v, limit := t.ids.Get(raw), in.expiry()
		at := parseOrder(v)
		if v == nil || at.time().Before(limit) {
			return inbox.ErrNotFound
		}
		switch m, err = read(t, at); {
		case err != nil:
			return damagedMessage(err)
		case m.ReceivedAt.Before(limit):
			return inbox.ErrNotFound
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// expiry returns the time before which messages that were received have expired by
// the clock, deleted or not.
func (in *Inbox) expiry() (limit time.Time) {
	if in.ttl > 0 {
		limit = time.UnixMicro(max(in.clock.Now().Add(-in.ttl).UnixMicro(), 0)).UTC()
	}
	return limit
}

// List returns a page of messages.
func (in *Inbox) List(ctx context.Context, q inbox.Query) (*inbox.Page, error) {
	from, err := q.Position()
	if err != nil {
		return nil, err
	}
	var page *inbox.Page
	err = in.view(ctx, func(t tables) error {
		limit := in.expiry()
		w, isExact := t.list(&q, limit)
		filling := q.Fill(isExact)
		page = &filling.Page
		page.WatchToken = q.Token(t.end())
		first, next := w.before, w.previous
		if q.Ascending {
			first, next = w.first, w.next
		}
		for at, ok := first(from); ok && ctx.Err() == nil; at, ok = next() {
			m, err := t.message(at)
			if err != nil {
				in.name(at)
			} else if m.ReceivedAt.Before(limit) {
				m = nil
			}
			if !filling.Add(at.position(w.id(at)), m) {
				break
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

const (
	// A feed reads this many messages, or little more than this many bytes, in
	// one transaction before it yields them.
	feedMessages = 100
	feedBytes    = 1 << 20
)

// Watch yields messages as they are stored, without a token those stored after
// the call. A slow reader delays nobody and costs the memory of one short read.
func (in *Inbox) Watch(ctx context.Context, q inbox.Query) iter.Seq2[inbox.Event, error] {
	var from inbox.Position
	var err error
	if q.PageToken != "" {
		var token *inbox.Position
		if token, err = q.Position(); err == nil {
			from = *token
		}
	} else {
		err = in.view(ctx, func(t tables) error {
			from = t.end()
			return nil
		})
	}
	return func(yield func(inbox.Event, error) bool) {
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			yield(inbox.Event{}, err)
			return
		}
		for at := from; ; {
			// The channel is read first, so that no commit is missed between the
			// read and the wait.
			committed := in.nextCommit()
			events, next, err := in.after(ctx, &q, at)
			more := next != at
			at = next
			for _, e := range events {
				if ctx.Err() != nil || !yield(e, nil) {
					return
				}
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				yield(inbox.Event{}, err)
				return
			case more:
				continue
			case q.Progress && !yield(inbox.Event{Token: q.Token(at)}, nil):
				return
			}
			select {
			case <-committed:
			case <-ctx.Done():
				return
			case <-in.closing:
				yield(inbox.Event{}, publicError(errClosed))
				return
			}
		}
	}
}

var errClosed = errors.New("boltinbox: the inbox is closed")

// after returns the next events after a position, in the order of the feed, and the
// position after what it read, which is from at the feed's end.
func (in *Inbox) after(ctx context.Context, q *inbox.Query, from inbox.Position) (events []inbox.Event, next inbox.Position, err error) {
	next = from
	err = in.view(ctx, func(t tables) error {
		w, limit := t.walk(q), in.expiry()
		if from.Commit.Before(limit) {
			from = inbox.Position{Commit: limit}
		}
		read, size := 0, 0
		at, ok := w.after(from.Commit, from.ID)
		for ; ok && read < feedMessages && size < feedBytes; at, ok = w.next() {
			m, err := t.message(at)
			switch {
			case err != nil:
				in.name(at)
			case !m.ReceivedAt.Before(limit) && q.Matches(m):
				events = append(events, inbox.Event{Token: q.Token(at.position(m.ID)), Message: *m})
			}
			size += len(t.messages.Get(at[:]))
			next = at.next()
			read++
		}
		if !ok && q.Progress {
			next = t.end() // the index may have left out what is there
		}
		return nil
	})
	return events, next, err
}
