package datadir

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrLocked says that the file is open already, in another process or this one.
var ErrLocked = errors.New("the file is in use by another process")

// lockWait is how long to wait for the lock of a process that is ending. A program that
// it was starting may have the lock after it: it has the files of its parent until it
// runs, which on a busy machine takes a while.
const lockWait = time.Second

// lockRetry is how long to wait before the lock is tried again, as in bbolt.
const lockRetry = 50 * time.Millisecond

// CheckBolt reads the bbolt file at path from start to end, calls v for what is in
// it, and returns what is wrong with its pages. It reports a missing or empty file,
// which is no error. Another process cannot change the file meanwhile.
func CheckBolt(path string, v Visitor) (missing bool, damage []error, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		return true, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	var file *os.File
	db, err := openBolt(path, &bbolt.Options{ReadOnly: true, Timeout: lockWait, NoStatistics: true}, &file)
	switch {
	case err == nil:
		defer db.Close()
	case file == nil, errors.Is(err, ErrLocked), errors.As(err, new(*fs.PathError)): // it is not a file of ours, or cannot be read now
		return false, nil, err
	default:
		return false, []error{err}, nil // bbolt closes the file
	}
	if info, err = file.Stat(); err != nil {
		return false, nil, err
	}
	return false, Walk(file, info.Size(), v), nil
}

// OpenBolt opens the bbolt file at path for writing, which CheckBolt has found to
// be sound, and creates a missing one. firstMap is how much of it is mapped at
// least.
func OpenBolt(path string, firstMap int) (db *bbolt.DB, file *os.File, err error) {
	db, err = openBolt(path, &bbolt.Options{
		Timeout: lockWait,
		// The list of the free pages would be written with every commit, and takes
		// ever longer in a file with many holes. Without it opening reads the file,
		// which CheckBolt does as well, and so does a commit that fails, in a
		// goroutine whose faults nobody can recover: CheckPlace comes first.
		NoFreelistSync: true,
		// The hashmap finds free pages at once in a file with many holes, which
		// deleting leaves; the array searches them.
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: firstMap,
		NoStatistics:    true,
	}, &file)
	if err != nil {
		return nil, nil, err
	}
	// Somebody may have replaced it while this process waited for its lock.
	if err := CheckPlace(file, path, 0); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, file, nil
}

// OpenChecked opens the bbolt file at path as OpenBolt does, after CheckBolt has found
// nothing damaged in it. sound, if not nil, checks each entry as well. One of the two heads
// may be damaged: the other one has all but the last change. The error of a damaged file
// ends with hint.
func OpenChecked(path string, firstMap int, sound func(key, value []byte) error, hint string) (*bbolt.DB, *os.File, error) {
	var entry error
	v := Visitor{}
	if sound != nil {
		v.Entry = func(_ []string, key, value []byte) { entry = cmp.Or(entry, sound(key, value)) }
	}
	_, damage, err := CheckBolt(path, v)
	if err != nil {
		return nil, nil, err
	}
	damage = slices.DeleteFunc(damage, func(err error) bool { return errors.Is(err, ErrHead) })
	if err := cmp.Or(append(damage, entry)...); err != nil {
		return nil, nil, fmt.Errorf("%s is damaged or something else: %w; %s", path, err, hint)
	}
	return OpenBolt(path, firstMap)
}

func openBolt(path string, o *bbolt.Options, file **os.File) (*bbolt.DB, error) {
	o.OpenFile = func(name string, flag int, _ os.FileMode) (_ *os.File, err error) {
		*file, err = OpenFile(name, flag)
		return *file, err
	}
	db, err := bbolt.Open(path, 0o600, o)
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = fmt.Errorf("%w: %s", ErrLocked, path)
	}
	return db, err
}
