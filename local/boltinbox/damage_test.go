package boltinbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"go.etcd.io/bbolt"
)

// wholeFile returns the bytes of an inbox with messages of several sizes.
func wholeFile(t *testing.T) (file []byte, messages int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inbox.db")
	in := mustOpen(t, path, nil)
	const n = 20
	for i := range n {
		put(t, in, message(fmt.Sprint(i), []int{10, 1000, 9000}[i%3]))
	}
	put(t, in, message("big", 100_000))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// What follows the last page in use is room to grow.
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		file = file[:tx.Size()]
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return file, n + 1
}

// use does everything with the inbox at path that can be done. Whatever is
// wrong with the file, all it may do is return errors, and soon.
func use(t *testing.T, path string) (read int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	in, err := Open(path, &Options{TTL: 24 * time.Hour})
	if err != nil {
		if !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Open: %q, want one line that names the path", err)
		}
		return 0, err
	}
	var errs []error
	all, err := listAll(ctx, in)
	errs = append(errs, err)
	for _, m := range all {
		got, err := in.Get(ctx, m.ID)
		if err == nil && len(got.Data) == m.Size {
			read++
		}
		errs = append(errs, err)
	}
	_, err = in.List(ctx, inbox.Query{Source: inbox.SourcePubSub})
	errs = append(errs, err)
	seen := 0
	start := inbox.Position{ReceivedAt: time.UnixMicro(0), Commit: time.UnixMicro(0)}.Token()
	for _, err := range in.Watch(ctx, inbox.Query{PageToken: start}) {
		errs = append(errs, err)
		if seen++; seen >= len(all) {
			break
		}
	}
	for i := range 3 {
		_, err := in.Put(ctx, message(fmt.Sprint("new-", i), 5000))
		errs = append(errs, err)
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, inbox.ErrUnavailable) && !errors.Is(err, inbox.ErrNotFound) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
	}
	_ = in.Close() // may complain as well
	return read, errors.Join(errs...)
}

func TestTruncatedFile(t *testing.T) {
	t.Parallel()
	file, messages := wholeFile(t)
	page := os.Getpagesize()
	for _, size := range []int{1, 63, 64, 100, page - 1, page, page + 1, 2*page - 1, 2 * page, 3 * page, 4 * page, 5*page + 7, len(file) / 2, len(file) - page, len(file) - 1} {
		path := filepath.Join(t.TempDir(), "inbox.db")
		if err := os.WriteFile(path, file[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := use(t, path); err == nil {
			t.Errorf("a file of which %d of %d bytes are left was opened and used without an error", size, len(file))
		}
		// It must not be kept locked either: the user moves it away.
		if _, err := Open(path, nil); errors.Is(err, ErrLocked) {
			t.Errorf("after a failure with %d of %d bytes: %v", size, len(file), err)
		}
	}
	path := filepath.Join(t.TempDir(), "inbox.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := use(t, path); err != nil || n != messages {
		t.Errorf("the whole file: %d messages, %v, want %d", n, err, messages)
	}
}

// TestDamagedPages overwrites each page of a file in turn.
func TestDamagedPages(t *testing.T) {
	t.Parallel()
	file, messages := wholeFile(t)
	page := os.Getpagesize()
	for name, fill := range map[string]byte{"zeros": 0, "ones": 0xff, "letters": 'x'} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "inbox.db")
			noticed := 0
			for at := 0; at < len(file); at += page {
				damaged := append([]byte(nil), file...)
				for i := range page {
					damaged[at+i] = fill
				}
				if err := os.WriteFile(path, damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				n, err := use(t, path)
				if n < messages && err != nil {
					noticed++
				}
			}
			t.Logf("%d of %d damaged pages were noticed", noticed, len(file)/page)
			if noticed == 0 {
				t.Error("no damage was noticed")
			}
		})
	}
}

// TestFileCutWhileOpen cuts the file of an inbox in use: reading what is gone
// faults, and a fault must end in an error.
func TestFileCutWhileOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	in := mustOpen(t, path, nil)
	for i := range 50 {
		put(t, in, message(fmt.Sprint(i), 5000))
	}
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := in.List(t.Context(), inbox.Query{}); !errors.Is(err, inbox.ErrUnavailable) || !strings.Contains(err.Error(), path) {
		t.Errorf("List = %v, want ErrUnavailable with the path", err)
	}
	if stored, err := in.Put(t.Context(), message("m", 1)); stored || !errors.Is(err, inbox.ErrUnavailable) {
		t.Errorf("Put = %v, %v, want ErrUnavailable", stored, err)
	}
	if err := in.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// TestOtherDatabase opens a sound bbolt file that is not an inbox.
func TestOtherDatabase(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(*bbolt.Tx) error{
		"other_program": func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("other"))
			return err
		},
		"later_version": func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(bucketFormat)
			if err != nil {
				return err
			}
			return b.Put(keyVersion, []byte("3"))
		},
	} {
		path := filepath.Join(t.TempDir(), "other.db")
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Update(fill), db.Close()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if in, err := Open(path, nil); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: Open = %v, %v, want an error with the path", name, in, err)
			}
		}
	}
}
