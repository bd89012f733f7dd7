package stack

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"example.com/pushinbox/local/datadir"
)

// logFile is a log in the data directory that begins anew when it is too long. The
// one before it is kept, with .1 at the end of its name.
type logFile struct {
	path string
	most int64 // bytes

	mu   sync.Mutex
	file *os.File
	size int64
}

// openLog opens a log to be appended to, a new one where the one that is there is too
// long.
func openLog(path string, most int64) (*logFile, error) {
	l := &logFile{path: path, most: most}
	if err := l.open(); err != nil {
		return nil, err
	}
	if l.size > most {
		if err := l.beginAnew(); err != nil {
			return nil, errors.Join(err, l.file.Close())
		}
	}
	return l, nil
}

func (l *logFile) open() error {
	file, err := datadir.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	l.file, l.size = file, info.Size()
	return nil
}

// beginAnew moves the log away and opens a new one. After an error it can be called
// again.
func (l *logFile) beginAnew() error {
	before := l.file
	if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.open(); err != nil {
		return err
	}
	return before.Close()
}

// Write appends a line. While the log is too long and cannot begin anew, lines are
// lost.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(line)) > l.most {
		if err := l.beginAnew(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return n, err
}

// Close closes the log.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
