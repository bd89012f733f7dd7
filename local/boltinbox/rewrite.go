package boltinbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/local/wallclock"
	"example.com/pushinbox/shared/inbox"
	"go.etcd.io/bbolt"
)

// The file is written anew, and never changed in place, to upgrade and to repair
// it: whatever ends that early leaves the old file as it was, at its path.

// newSuffix is what the name of a new file ends with until it is whole.
const newSuffix = ".new"

// beforeStep is called before each step of a rewrite, for tests.
var beforeStep = func(step string) {}

// upgrade turns a file of version 1 into one of this version. The old one is kept.
func (in *Inbox) upgrade(found *content) error {
	// The lock of the old file keeps other processes away until the new one is
	// at its path.
	db, file, err := datadir.OpenBolt(in.path, 0)
	if err != nil {
		return err
	}
	defer db.Close()
	in.log.Warn(fmt.Sprintf("%s: upgrading %d messages from format 1 to %s", in.path, found.records, version))
	r := &rewriting{in: in, from: file, found: found, old: true}
	kept, err := r.run(".v1")
	if err == nil {
		in.log.Warn(fmt.Sprintf("%s: upgraded %d messages; the old file is kept as %s and can be deleted", in.path, r.stored, kept))
	}
	return err
}

// Repair writes a new file at path with every message that can be read in the
// damaged one there, which is kept under the returned name. Indexes are built
// again. The options' log gets what is missing. A file in which nothing is damaged stays
// as it is, and kept is empty. It fails with datadir.ErrLocked when the
// inbox is open.
func Repair(path string, o *Options) (kept string, messages int, err error) {
	in, err := newInbox(path, o)
	if err != nil {
		return "", 0, err
	}
	err = in.guard(func() error {
		found, damage, err := in.read()
		if err != nil {
			return err
		}
		if found.isNew {
			return &fs.PathError{Op: "repair", Path: path, Err: fs.ErrNotExist}
		}
		file, err := datadir.Lock(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if messages = found.records; found.version != "" && len(damage) == 0 && found.isWhole() {
			return nil
		}
		r := &rewriting{in: in, from: file, found: found, old: found.version == "1"}
		kept, err = r.run(".damaged")
		messages = r.stored
		return err
	})
	if err != nil {
		return "", 0, openError(path, err)
	}
	return kept, messages, nil
}

// rewriting is the copying of what a file has to a new one.
type rewriting struct {
	in    *Inbox
	from  *os.File
	found *content
	old   bool // the records have no checksums

	db     *bbolt.DB
	tx     *bbolt.Tx
	t      tables
	err    error
	bytes  int
	stored int
	told   time.Time
}

// run writes the new file, keeps the old one under a name with suffix, which it
// returns, and has the new one take its place.
func (r *rewriting) run(suffix string) (kept string, err error) {
	path := r.in.path + newSuffix
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	beforeStep("write")
	if err := r.write(path); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	beforeStep("keep")
	if kept, err = r.keep(suffix); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	beforeStep("rename")
	if err := errors.Join(datadir.SyncDir(path), os.Rename(path, r.in.path)); err != nil {
		return "", err
	}
	beforeStep("sync")
	return kept, datadir.SyncDir(path)
}

// keep gives the old file a second name, or copies it where it cannot have one.
func (r *rewriting) keep(suffix string) (name string, err error) {
	for i := 0; ; i++ {
		name = r.in.path + suffix
		if i > 0 {
			name += fmt.Sprint("-", i+1)
		}
		err = os.Link(r.in.path, name)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
		// An upgrade that was interrupted has kept it already.
		old, err1 := os.Lstat(name)
		now, err2 := r.from.Stat()
		if err1 == nil && err2 == nil && os.SameFile(old, now) {
			return name, nil
		}
	}
	if err != nil {
		err = datadir.Copy(r.from, name)
	}
	return name, err
}

// write writes the new file at path. Chunks come first in the old file: they are
// read again once the records that they belong to are written.
func (r *rewriting) write(path string) (err error) {
	r.told = time.Now()
	db, _, err := datadir.OpenBolt(path, firstMap)
	if err != nil {
		return err
	}
	defer func() {
		if r.tx != nil {
			_ = r.tx.Rollback()
		}
		err = errors.Join(err, db.Close())
	}()
	r.db = db
	// Nobody relies on the new file before all of it is synced.
	r.db.NoSync = true
	if err := r.db.Update(r.in.createInbox); err != nil {
		return err
	}
	info, err := r.from.Stat()
	if err != nil {
		return err
	}
	for _, bucket := range [][]byte{bucketMessages, bucketChunks} {
		visit := r.record
		if string(bucket) == string(bucketChunks) {
			visit = r.chunk
		}
		damage := datadir.Walk(r.from, info.Size(), datadir.Visitor{Entry: func(path []string, key, value []byte) {
			if len(path) == 1 && path[0] == string(bucket) {
				visit(key, value)
			}
		}})
		// What nothing leads to any more is known by its checksum. In a sound file
		// that is only what was deleted.
		if !r.old && len(damage) > 0 {
			datadir.Salvage(r.from, info.Size(), visit)
		}
	}
	if r.begin(); r.err == nil {
		last := r.found.last
		if k, _ := r.t.messages.Cursor().Last(); k != nil {
			last = max(last, uint64(parseOrder(k).time().UnixMicro()))
		}
		r.err = r.t.messages.SetSequence(min(last, lastTime))
	}
	if seen := r.found.seen; r.err == nil && !seen.IsZero() {
		in := &Inbox{clock: wallclock.New(func() time.Time { return seen })}
		r.err = in.saveClock(r.tx)
	}
	r.commit()
	if r.err == nil && r.stored == 0 && r.found.version == "" {
		r.err = errors.New("has nothing that can be read")
	}
	return errors.Join(r.err, db.Sync())
}

// begin begins a transaction where none is under way.
func (r *rewriting) begin() {
	if r.tx == nil && r.err == nil {
		if r.tx, r.err = r.db.Begin(true); r.err == nil {
			r.t = r.in.tables(r.tx)
		}
	}
}

// commit ends the transaction, and tells every other second how far it is.
func (r *rewriting) commit() {
	if r.tx == nil || r.err != nil {
		return
	}
	r.err, r.tx, r.bytes = r.tx.Commit(), nil, 0
	beforeStep("copied")
	if time.Since(r.told) > 2*time.Second {
		r.told = time.Now()
		r.in.log.Warn(fmt.Sprintf("%s: %d of %d messages are copied", r.in.path, r.stored, r.found.records))
	}
}

// record stores a record of the old file in the new one, unless it is damaged or
// there already.
func (r *rewriting) record(key, value []byte) {
	if len(key) != len(order{}) {
		return
	}
	at, ok := parseOrder(key), true
	if !r.old {
		value, _, ok = unsealRecord(key, value)
	}
	var m *inbox.Message
	if ok {
		var err error
		m, err = decode(at, value)
		ok = err == nil && isOwn(value, m) && m.Size >= 0 && m.Size <= inbox.MaxQuarantinedSize
	}
	if !ok {
		if r.old {
			r.in.name(at)
		}
		return
	}
	if r.begin(); r.err != nil {
		return
	}
	id := value[:idSize]
	if r.t.messages.Get(key) != nil || r.t.ids.Get(id) != nil {
		return
	}
	r.err = r.t.putRecord(at, id, value, m, m.Size, at.isLate(m))
	r.stored++
	r.wrote(len(value))
}

// chunk stores a chunk of the old file in the new one.
func (r *rewriting) chunk(key, value []byte) {
	ok := len(key) == chunkKeySize
	if !r.old {
		key, ok = unsealChunk(key, value)
	}
	if !ok {
		return
	}
	if r.begin(); r.err != nil || r.t.messages.Get(key[:len(order{})]) == nil {
		return
	}
	if there, _ := r.t.chunks.Cursor().Seek(key); bytes.HasPrefix(there, key) {
		return
	}
	// The value is valid during this call only, and needed until the commit.
	r.err = r.t.chunks.Put(sealChunk(key, value), bytes.Clone(value))
	r.wrote(len(value))
}

// wrote commits now and then.
func (r *rewriting) wrote(n int) {
	if r.bytes += n + 1000; r.bytes > maxCommitBytes {
		r.commit()
	}
}

// reindex builds the keys that lead to messages again, from the records that can
// be read. It returns the IDs that led to a record that is not there.
func (in *Inbox) reindex() (missing [][]byte, err error) {
	err = in.db.Update(func(tx *bbolt.Tx) error {
		t := in.tables(tx)
		var gone [][]byte
		_ = t.ids.ForEach(func(id, at []byte) error {
			if t.messages.Get(at) == nil {
				gone = append(gone, bytes.Clone(id))
			}
			return nil
		})
		for _, name := range [...][]byte{bucketIDs, bucketIndex} {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		if err := createBuckets(tx); err != nil {
			return err
		}
		t = in.tables(tx)
		err := t.messages.ForEach(func(k, _ []byte) error {
			at := parseOrder(k)
			m, err := t.message(at)
			if err != nil {
				return nil // it is named already
			}
			if err := t.ids.Put(rawID(m), at[:]); err != nil {
				return err
			}
			for _, key := range indexKeys(m, at) {
				if err := t.index.Put(key, nil); err != nil {
					return err
				}
			}
			return nil
		})
		for _, id := range gone {
			if t.ids.Get(id) == nil {
				missing = append(missing, id)
			}
		}
		return err
	})
	return missing, err
}
