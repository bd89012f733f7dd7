package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxOnce is the largest file that ReadOrCreate reads, in bytes.
const maxOnce = 64 << 10

// ReadOrCreate returns the content of a private key, or of another small file that is
// written once and secret. It refuses one that others can read or change: they may know
// the key, as somebody does whose repository it came with. Where it is missing, what
// create returns is written to it with mode 0600, as a whole. When two processes create
// it at the same time, both get the content of the one that was first. It does not wait
// until the file is durable: after a power failure it may be empty, which counts as
// missing.
func ReadOrCreate(path string, create func() ([]byte, error)) ([]byte, error) {
	b, err := readOnce(path)
	if err == nil && len(b) == 0 {
		err = os.Remove(path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if b, err = create(); err != nil {
		return nil, err
	}
	part, err := writePart(path, b, 0o600, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(part) }()
	// A link, and not a rename, is refused where the file exists by now.
	if err := os.Link(part, path); errors.Is(err, fs.ErrExist) {
		return readOnce(path)
	} else if err != nil {
		return nil, err
	}
	return b, nil
}

func readOnce(path string) ([]byte, error) {
	file, err := OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if hasModes && info.Size() > 0 && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read or changed by others (mode %o), who may know the key; delete it, and a new one is created; delete all of %s if it came with somebody else's files; use another --data if every file there has such a mode",
			path, info.Mode().Perm(), filepath.Dir(path))
	}
	return readAtMost(file, path, maxOnce)
}
