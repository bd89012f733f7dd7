package boltinbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
	"github.com/google/go-cmp/cmp"
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
		if _, err := Open(path, nil); errors.Is(err, datadir.ErrLocked) {
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
	measure.SkipRace(t, "nothing in it is concurrent")
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
			return b.Put(keyVersion, []byte("4"))
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

// flip turns over a bit of a file.
func flip(file []byte, bit int64) { file[bit/8] ^= 1 << (bit % 8) }

// thousand returns the bytes of an inbox with 1,000 messages of several sizes, up
// to its last page in use, and the messages by ID.
func thousand(t *testing.T) (file []byte, messages map[string]inbox.Message) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inbox.db")
	in := mustOpen(t, path, nil)
	for i := 0; i < 1000; i += 50 {
		var ps []*pendingPut
		for j := i; j < i+50; j++ {
			m := message(fmt.Sprint("m", j), []int{10, 300, 3000}[j%3])
			if j%100 == 0 {
				m.Data = []byte(strings.Repeat("large", 30_000))
			}
			ps = append(ps, &pendingPut{message: m})
		}
		if errs := in.commit(t.Context(), ps); errs != nil {
			t.Fatal(errs)
		}
	}
	messages = map[string]inbox.Message{}
	for _, m := range list(t, in) {
		whole, err := in.Get(t.Context(), m.ID)
		if err != nil {
			t.Fatal(err)
		}
		messages[m.ID] = *whole
	}
	var used int64
	if err := in.db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	return readFile(t, path)[:used], messages
}

// outcome is what came of a damaged file.
type outcome struct {
	refused bool
	left    int // messages that are listed and can be read whole
	said    string
}

// examine opens a damaged file and reads everything in it in every way: what is
// returned must be true, and what is missing must be named. A file that is refused
// is repaired first.
func examine(t *testing.T, path string, messages map[string]inbox.Message) (got outcome) {
	t.Helper()
	var log buffer
	defer func() { got.said = log.String() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	in, err := Open(path, &Options{Log: log.log()})
	if err != nil {
		got.refused = true
		log.Write([]byte(err.Error() + "\n"))
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--repair") || strings.Contains(err.Error(), "\n") {
			// The version may be what was damaged.
			if !strings.Contains(err.Error(), "has format") {
				t.Errorf("Open: %q, want one line that names the path and the repair", err)
			}
		}
		kept, n, err := Repair(path, &Options{Log: log.log()})
		if err != nil {
			t.Errorf("Repair: %v", err)
			return got
		}
		if err := os.Remove(kept); err != nil {
			t.Error(err)
		}
		if in, err = Open(path, &Options{Log: log.log()}); err != nil {
			t.Errorf("after the repair: %v", err)
			return got
		}
		if n < len(messages) {
			got.said += fmt.Sprint(n, "were repaired")
		}
	}
	defer func() {
		if err := in.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	seen := map[string]bool{}
	same := func(how string, m inbox.Message) {
		want, ok := messages[m.ID]
		if m.Truncated {
			want.Data, want.Truncated = want.Data[:inbox.PreviewSize], true
		}
		if !ok || !reflect.DeepEqual(want, m) {
			t.Errorf("%s has a changed message (-want +got):\n%s", how, cmp.Diff(want, m))
		}
	}
	listed := func(q inbox.Query) (all []inbox.Message) {
		for q.PageSize = inbox.MaxPageSize; ; {
			page, err := in.List(ctx, q)
			if err != nil {
				t.Errorf("List: %v", err)
				return all
			}
			if all = append(all, page.Messages()...); page.NextPageToken == "" {
				return all
			}
			q.PageToken = page.NextPageToken
		}
	}
	all := listed(inbox.Query{})
	in.db.NoSync = true // nobody relies on it
	for _, m := range all {
		same("List", m)
		whole, err := in.Get(ctx, m.ID)
		if err == nil {
			same("Get", *whole)
			got.left++
		} else if m.Size <= inbox.PreviewSize || !errors.Is(err, inbox.ErrUnavailable) {
			t.Errorf("Get of a listed message: %v", err)
		}
		seen[m.ID] = true
	}
	filtered := listed(inbox.Query{Subscription: "projects/p/subscriptions/s"})
	for _, m := range filtered {
		same("List with a filter", m)
	}
	fed := 0
	start := inbox.Position{ReceivedAt: time.UnixMicro(0), Commit: time.UnixMicro(0)}.Token()
	put(t, in, message("last", 1))
	for e, err := range in.Watch(ctx, inbox.Query{PageToken: start}) {
		if err != nil {
			t.Errorf("Watch: %v", err)
			break
		}
		if e.Message.MessageID == "last" {
			break
		}
		same("Watch", e.Message)
		fed++
	}
	if len(filtered) != len(all) || fed != len(all) {
		t.Errorf("%d messages are listed, %d with a filter, and %d fed", len(all), len(filtered), fed)
	}
	return got
}

// TestFlippedBits turns over random bits of a file of 1,000 messages, 40 or with -full 2,000, one in
// each copy of it and all of them in one. Nothing panics or hangs, no message comes
// back changed, and what is missing is told.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	measure.SkipRace(t, "nothing in it is concurrent, and it takes minutes")
	file, messages := thousand(t)
	// Most of the time would go to waiting for a disk.
	dir, err := os.MkdirTemp("/dev/shm", "boltinbox")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	random := rand.New(rand.NewPCG(13, 14))
	bits := make([]int64, measure.Size(40, 2000))
	for i := range bits {
		bits[i] = random.Int64N(int64(len(file)) * 8)
		if i%4 == 0 { // also where it is more than data: heads, roots and keys
			bits[i] = random.Int64N(int64(os.Getpagesize()) * 8 * 8)
		}
	}
	path := filepath.Join(dir, "inbox.db")
	refused, silent, left := 0, 0, 0
	for _, bit := range bits {
		flip(file, bit)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		flip(file, bit)
		got := examine(t, path, messages)
		if got.refused {
			refused++
		}
		if got.left < len(messages) {
			left++
			if got.said == "" {
				silent++
				t.Errorf("bit %d: %d messages are gone without a word", bit, len(messages)-got.left)
			}
		}
		if got.left < len(messages)-60 {
			t.Errorf("bit %d: %d of %d messages are left:\n%s", bit, got.left, len(messages), got.said)
		}
		if t.Failed() {
			t.Fatalf("bit %d", bit)
		}
	}
	t.Logf("%d of %d bits had the file refused and repaired, %d lost messages, %d of them silently", refused, len(bits), left, silent)

	for _, bit := range bits[:min(200, len(bits))] {
		flip(file, bit)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	got := examine(t, path, messages)
	t.Logf("all at once: %d messages are left", got.left)
	if got.left == len(messages) || got.left < 500 || got.said == "" {
		t.Errorf("all at once: %d messages are left, and it says %q", got.left, got.said)
	}
}
