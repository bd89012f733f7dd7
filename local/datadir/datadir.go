// Package datadir opens the data directory of a local run and the files in it,
// so that nobody else on the machine can read them or choose where they lie, and
// so that what was written is known to be in a file that is still there.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Create creates the directory with mode 0700 where it is missing, and refuses
// one that somebody else owns or can write to. A directory above it that
// everybody can write to is refused too, since its entries can be swapped; where
// it is sticky, such as a folder for temporary files, it is accepted if chosen
// says that somebody gave the path, and did not just start there.
func Create(dir string, chosen bool) error {
	path, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return Check(dir, chosen)
}

// Check refuses an existing directory that Create refuses.
func Check(dir string, chosen bool) error {
	path, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if path, err = followOwn(path); err != nil {
		return fmt.Errorf("the data directory %s %w", dir, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	if err := private(info); err != nil {
		return fmt.Errorf("the data directory %s %w", dir, err)
	}
	own := false // whether a directory of this user is between path and at
	for at := filepath.Dir(path); ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		switch {
		case !othersWrite(info):
		case info.Mode()&os.ModeSticky == 0:
			return fmt.Errorf("the data directory %s is in %s, in which others can replace it; choose another directory with --data, or take their right to write away (chmod go-w %[2]s)", dir, at)
		case !chosen && !own:
			return fmt.Errorf("the data directory %s is in %s, in which others can create files; start in a directory of your own, or name this one with --data", dir, at)
		}
		own = own || trusted(info) && !othersWrite(info)
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// followOwn returns path without symbolic links, and refuses one that somebody
// else placed.
func followOwn(path string) (string, error) {
	for at := path; at != filepath.Dir(at); at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		if info.Mode()&os.ModeSymlink != 0 && !trusted(info) {
			return "", fmt.Errorf("goes through %s, a symbolic link of another user; choose another directory with --data", at)
		}
	}
	return filepath.EvalSymlinks(path)
}

// ReadFile returns the content of a file of a data directory, of at most limit
// bytes. It refuses what OpenFile does, and a file that others can write to.
func ReadFile(path string, limit int64) ([]byte, error) {
	file, err := OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case hasModes && info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s can be written to by others; take that right away (chmod go-w)", path)
	}
	return readAtMost(file, path, limit)
}

// readAtMost reads the whole file at path, of at most limit bytes.
func readAtMost(file *os.File, path string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is over %d bytes; move it away", path, limit)
	}
	return b, err
}

// OpenFile opens a file of a data directory as os.OpenFile does, and creates a
// missing one with mode 0600. It does not follow a symbolic link, and refuses what
// is not a regular file of this user. A file that others could read or write
// becomes private.
func OpenFile(path string, flag int) (*os.File, error) {
	// A file is not cut before it is known what it is. Opening a pipe waits for
	// its other end unless told otherwise.
	file, err := os.OpenFile(path, flag&^os.O_TRUNC|noFollow, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link, which is not followed; move it away", path)
	}
	if err != nil {
		return nil, err
	}
	if err := secure(file, path, flag); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func secure(file *os.File, path string, flag int) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file; move it away", path)
	case !trusted(info):
		return fmt.Errorf("%s belongs to another user; move it away", path)
	}
	if writable := flag&(os.O_WRONLY|os.O_RDWR) != 0; writable && info.Mode().Perm()&0o077 != 0 && hasModes {
		if err := file.Chmod(0o600); err != nil {
			return err
		}
	}
	if flag&os.O_TRUNC != 0 {
		return file.Truncate(0)
	}
	return nil
}

// ErrGone says that the file that is open is not the one at its path any more, so
// that what is written to it is lost when it is closed.
var ErrGone = errors.New("the open file is no longer at its path")

// CheckPlace returns an error that is ErrGone when file is not at path: it was
// deleted, moved or replaced, or its directory was. It returns another one when
// the file has less than size bytes: it was cut.
func CheckPlace(file *os.File, path string, size int64) error {
	open, err := file.Stat()
	if err != nil {
		return err
	}
	at, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %s was deleted or moved", ErrGone, path)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrGone, err)
	case !os.SameFile(open, at):
		return fmt.Errorf("%w: %s was replaced by another file", ErrGone, path)
	case open.Size() < size:
		return fmt.Errorf("%s was cut: it has %d bytes in place of at least %d", path, open.Size(), size)
	}
	return nil
}

// SyncDir makes the entries of path's directory durable.
func SyncDir(path string) error {
	if !hasModes { // Windows neither needs nor has such a call
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// PartSuffix ends the names of the files that Replace, ReplaceReadable and ReplaceDurably
// write first. A process that is killed leaves one.
const PartSuffix = ".part"

// Replace writes a file of mode 0600 that readers see whole, as it was or as it is now,
// and creates a missing one. It does not wait until the file is durable.
func Replace(path string, content []byte) error { return replace(path, content, 0o600, false) }

// ReplaceReadable is Replace with mode 0644, for a file without a secret.
func ReplaceReadable(path string, content []byte) error { return replace(path, content, 0o644, false) }

// ReplaceDurably is Replace, and waits until the file is durable.
func ReplaceDurably(path string, content []byte) error {
	if err := replace(path, content, 0o600, true); err != nil {
		return err
	}
	return SyncDir(path)
}

func replace(path string, content []byte, mode fs.FileMode, durable bool) error {
	part, err := writePart(path, content, mode, durable)
	if err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return nil
}

// writePart writes a new file beside path, and returns its path.
func writePart(path string, content []byte, mode fs.FileMode, durable bool) (string, error) {
	part, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+PartSuffix)
	if err != nil {
		return "", err
	}
	_, err = part.Write(content)
	if err == nil && mode != 0o600 { // CreateTemp's own
		err = part.Chmod(mode)
	}
	if err == nil && durable {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return "", errors.Join(err, os.Remove(part.Name()))
	}
	return part.Name(), nil
}

// Copy copies a file to a new one, which is whole and durable or absent.
func Copy(from *os.File, path string) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	part := path + ".part"
	to, err := OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.NewSectionReader(from, 0, info.Size()))
	if err = errors.Join(err, to.Sync(), to.Close()); err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return SyncDir(path)
}

// Lock opens the file at path as bbolt does for writing, without reading it: it
// fails with ErrLocked when another process has it open, and waits as long as OpenBolt
// for one that is ending.
func Lock(path string) (file *os.File, err error) {
	if file, err = OpenFile(path, os.O_RDWR); err != nil {
		return nil, err
	}
	start := time.Now()
	err = lock(file)
	for ; errors.Is(err, syscall.EWOULDBLOCK) && time.Since(start) < lockWait-lockRetry; err = lock(file) {
		time.Sleep(lockRetry)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", err, path), file.Close())
	}
	return file, nil
}
