//go:build unix

package datadir

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// TestLockWait holds that a lock which somebody has for a moment is waited for: a
// program that is being started has the files of the process that starts it until it
// runs. A file that is in use is refused soon.
func TestLockWait(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(path string) error{
		"check": func(path string) error {
			_, damage, err := CheckBolt(path, Visitor{})
			return errors.Join(err, errors.Join(damage...))
		},
		"open": func(path string) error {
			db, _, err := OpenBolt(path, 0)
			if err == nil {
				err = db.Close()
			}
			return err
		},
		"lock": func(path string) error {
			file, err := Lock(path)
			if err == nil {
				err = file.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "x.db")
			db, _, err := OpenBolt(path, 0)
			must(t, err, db.Close())
			held, err := Lock(path)
			must(t, err)
			start := time.Now()
			if err := open(path); !errors.Is(err, ErrLocked) {
				t.Errorf("a file in use: %v, want ErrLocked", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("a file in use is refused after %v", d)
			}
			time.AfterFunc(300*time.Millisecond, func() { _ = held.Close() })
			if err := open(path); err != nil {
				t.Errorf("a file that is closed meanwhile: %v", err)
			}
		})
	}
}
