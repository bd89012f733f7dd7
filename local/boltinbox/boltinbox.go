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
package boltinbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/groupcommit"
	"example.com/pushinbox/shared/problem"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrLocked is returned by Open when another process, or this one, has the
// inbox open already.
var ErrLocked = errors.New("boltinbox: the inbox is in use by another process")

// Options holds Open's optional settings.
type Options struct {
	// TTL is how long messages are stored. Zero stores them for ever.
	TTL time.Duration
	// Now is the clock; nil means time.Now. It may stand still or step back: the
	// messages' times rise all the same.
	Now func() time.Time
}

// Inbox is an inbox in a file. Open returns one.
type Inbox struct {
	db   *bbolt.DB
	file *os.File
	path string
	ttl  time.Duration
	now  func() time.Time
	puts *groupcommit.Group[*pendingPut]

	// changed is closed and replaced after every commit.
	changedMu sync.Mutex
	changed   chan struct{}

	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	sweeping  sync.WaitGroup
	// damaged holds why the file can no longer be used.
	damaged atomic.Pointer[error]
}

var _ inbox.Inbox = (*Inbox)(nil)

const (
	// lockWait is how long Open waits for the lock of a process that is ending.
	lockWait = 100 * time.Millisecond
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
// directory must exist. Open fails with ErrLocked when another process has the
// inbox open, and with an error that names the path when the file cannot be read
// and written, is not an inbox, or is damaged. It reads only the list of the
// file's free pages: milliseconds, also with a million messages.
func Open(path string, o *Options) (*Inbox, error) {
	if o == nil {
		o = &Options{}
	}
	if o.TTL < 0 {
		return nil, fmt.Errorf("boltinbox: TTL %v is negative", o.TTL)
	}
	in := &Inbox{
		path:    path,
		ttl:     o.TTL,
		now:     o.Now,
		changed: make(chan struct{}),
		closing: make(chan struct{}),
	}
	if in.now == nil {
		in.now = time.Now
	}
	var err error
	in.puts, err = groupcommit.New(in.commit, groupcommit.Options{
		MaxItems: maxCommitItems,
		MaxBytes: maxCommitBytes,
		// bbolt has one writer at a time.
		InFlight: 1,
		Finish:   true,
	})
	if err != nil {
		return nil, err
	}
	if err := in.guard(in.open); err != nil {
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return nil, fmt.Errorf("%w: %s", ErrLocked, path)
		case errors.As(err, new(*fs.PathError)):
			return nil, fmt.Errorf("boltinbox: %w", err)
		case in.damaged.Load() != nil:
			return nil, err
		}
		return nil, fmt.Errorf("boltinbox: %s is not an inbox, or is damaged: %w", path, err)
	}
	if in.ttl > 0 {
		in.sweeping.Go(in.sweep)
	}
	return in, nil
}

// open opens the file, and turns a new one into an inbox.
func (in *Inbox) open() error {
	isNew, err := in.check()
	if err != nil {
		return err
	}
	in.db, err = bbolt.Open(in.path, 0o600, &bbolt.Options{
		Timeout: lockWait,
		// Storing the free list in the file (NoFreelistSync false) costs a few
		// pages a commit, and Open need not read the whole file.
		NoFreelistSync: false,
		// The hashmap finds free pages at once in a file with many holes, which
		// the TTL leaves; the array searches them.
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: firstMap,
		NoStatistics:    true,
		OpenFile: func(name string, flag int, perm os.FileMode) (_ *os.File, err error) {
			in.file, err = os.OpenFile(name, flag, perm)
			return in.file, err
		},
	})
	if err != nil || !isNew {
		return err
	}
	if err := in.initFile(); err != nil {
		_ = in.db.Close()
		return err
	}
	return nil
}

// check refuses a file that is not an inbox or is cut short, and reports whether
// the file is missing or empty. It opens the file for reading: bbolt then reads
// only the file's head. Opened for writing, it would read pages that may lie past
// the end, and fault with the file locked.
func (in *Inbox) check() (isNew bool, err error) {
	info, err := os.Stat(in.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() == 0) {
		return true, nil // what is not a file is refused when it is written
	}
	if err != nil {
		return false, err
	}
	db, err := bbolt.Open(in.path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockWait, NoStatistics: true})
	if err != nil {
		return false, err
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("it is cut short: it has %d of %d bytes", info.Size(), tx.Size())
		}
		if k, _ := tx.Cursor().First(); k == nil {
			isNew = true
			return nil
		}
		if b := tx.Bucket(bucketFormat); b == nil || string(b.Get(keyVersion)) != version {
			return fmt.Errorf("its format is not %s", version)
		}
		return nil
	})
	return isNew, err
}

// initFile turns a new file into an inbox.
func (in *Inbox) initFile() error {
	err := in.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [...][]byte{bucketFormat, bucketIDs, bucketMessages, bucketChunks, bucketIndex} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketFormat).Put(keyVersion, []byte(version))
	})
	if err != nil || runtime.GOOS == "windows" {
		return err
	}
	// A new file is durable once its directory is synced. Windows neither needs
	// nor has such a call.
	dir, err := os.Open(filepath.Dir(in.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
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
		in.closeErr = in.db.Close()
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
		return in.db.View(func(tx *bbolt.Tx) error { return fn(tablesOf(tx)) })
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

// commit stores those of ps that are new, all or none.
func (in *Inbox) commit(_ context.Context, ps []*pendingPut) []error {
	err := in.guard(func() error {
		return in.db.Update(func(tx *bbolt.Tx) error {
			t, now, anyNew := tablesOf(tx), in.now(), false
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
			return nil
		})
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
		var at order
		if copy(at[:], t.ids.Get(raw)) == 0 || in.expired(at) {
			return inbox.ErrNotFound
		}
		m, err = read(t, at)
		return err
	})
	return m, err
}

// expiry returns the first order that has not expired.
func (in *Inbox) expiry() (limit order) {
	if in.ttl > 0 {
		binary.BigEndian.PutUint64(limit[:], uint64(max(in.now().Add(-in.ttl).UnixMicro(), 0)))
	}
	return limit
}

// expired reports whether the message at an order is past its expiry, deleted or not.
func (in *Inbox) expired(at order) bool {
	limit := in.expiry()
	return bytes.Compare(at[:], limit[:]) < 0
}

// List returns a page of messages, newest first.
func (in *Inbox) List(ctx context.Context, q inbox.Query) (*inbox.Page, error) {
	from, err := q.Position()
	if err != nil {
		return nil, err
	}
	page := &inbox.Page{}
	err = in.view(ctx, func(t tables) error {
		page.WatchToken = t.end().Token()
		w := t.walk(q)
		for at, ok := w.before(from); ok && !in.expired(at); at, ok = w.previous() {
			if e, err := t.event(at); err != nil || !page.Add(q, e) {
				return err
			}
		}
		return nil
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
		from, err = inbox.ParseToken(q.PageToken)
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
			events, err := in.after(ctx, q, at)
			for _, e := range events {
				at = inbox.Position{ReceivedAt: e.Message.ReceivedAt, Commit: e.Message.ReceivedAt, ID: e.Message.ID}
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
			case len(events) > 0:
				continue
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

// after returns the next events after a position, in the order of the feed.
func (in *Inbox) after(ctx context.Context, q inbox.Query, from inbox.Position) (events []inbox.Event, err error) {
	err = in.view(ctx, func(t tables) error {
		w, size := t.walk(q), 0
		limit := in.expiry()
		if unexpired := (inbox.Position{Commit: limit.time()}); unexpired.Commit.After(from.Commit) {
			from = unexpired
		}
		for at, ok := w.after(from); ok && len(events) < feedMessages && size < feedBytes; at, ok = w.next() {
			e, err := t.event(at)
			if err != nil {
				return err
			}
			size += len(t.messages.Get(at[:]))
			events = append(events, e)
		}
		return nil
	})
	return events, err
}

// sweep deletes expired messages periodically until the inbox closes.
func (in *Inbox) sweep() {
	ticker := time.NewTicker(max(min(in.ttl/10, time.Minute), time.Millisecond))
	defer ticker.Stop()
	for {
		for more := true; more; {
			select {
			case <-in.closing:
				return
			default:
			}
			// Put reports a failure such as a full disk as well. The next tick
			// repeats the step.
			more, _ = in.sweepStep()
		}
		select {
		case <-in.closing:
			return
		case <-ticker.C:
		}
	}
}

// sweepKeys is about how many keys one step of the sweep deletes: few enough
// that a Put hardly waits for it.
const sweepKeys = 2000

// sweepStep deletes some expired messages, oldest first, and reports whether
// there may be more.
func (in *Inbox) sweepStep() (more bool, err error) {
	err = in.guard(func() error {
		return in.db.Update(func(tx *bbolt.Tx) error {
			t, keys, limit := tablesOf(tx), 0, in.expiry()
			for keys < sweepKeys {
				at, n, err := t.deleteOldest(limit)
				if err != nil {
					return err
				}
				if keys += n; at == nil {
					if keys == 0 {
						return errNothingNew
					}
					return nil
				}
			}
			more = true
			return nil
		})
	})
	if errors.Is(err, errNothingNew) {
		err = nil
	}
	return more && err == nil, err
}
