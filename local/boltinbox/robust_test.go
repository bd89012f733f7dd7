package boltinbox

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
)

// TestFileGone takes the file of an inbox in use away in every way: nothing is
// acknowledged, also not as a duplicate, and the answer says why.
func TestFileGone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		take func(path string) error
		back func(path string) error // nil: it stays gone
	}{
		"deleted": {take: os.Remove},
		"moved": {
			func(path string) error { return os.Rename(path, path+".old") },
			func(path string) error { return os.Rename(path+".old", path) },
		},
		"replaced": {take: func(path string) error {
			return errors.Join(os.WriteFile(path+".other", []byte("other"), 0o600), os.Rename(path+".other", path))
		}},
		"deleted_and_created": {take: func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
		}},
		"a_directory": {take: func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }},
		"a_link": {take: func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.Symlink(path+".old", path))
		}},
		"cut":               {take: func(path string) error { return os.Truncate(path, 3*int64(os.Getpagesize())) }},
		"emptied":           {take: func(path string) error { return os.Truncate(path, 0) }},
		"directory_deleted": {take: func(path string) error { return os.RemoveAll(filepath.Dir(path)) }},
		"directory_moved": {
			func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".old") },
			func(path string) error { return os.Rename(filepath.Dir(path)+".old", filepath.Dir(path)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "inbox.db")
			in := mustOpen(t, path, nil)
			defer in.Close()
			for i := range 20 {
				put(t, in, message(fmt.Sprint(i), 5000))
			}
			if err := test.take(path); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"new", "new", "0"} {
				stored, err := in.Put(t.Context(), message(id, 10))
				status, detail := problem.Of(err)
				if stored || status != http.StatusServiceUnavailable || !errors.Is(err, inbox.ErrUnavailable) {
					t.Errorf("Put(%q) = %v, %v, want ErrUnavailable", id, stored, err)
				}
				if id != "0" && !strings.Contains(detail, "start pushinbox local again") && in.damaged.Load() == nil {
					t.Errorf("Put(%q) says %q", id, detail)
				}
			}
			if test.back == nil {
				return
			}
			if err := test.back(path); err != nil {
				t.Fatal(err)
			}
			put(t, in, message("after", 10))
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			in = mustOpen(t, path, nil)
			defer in.Close()
			if got := len(list(t, in)); got < 21 {
				t.Errorf("%d messages are listed, want at least 21", got)
			}
		})
	}
}

// TestClockAhead stores a message while the clock is five years ahead: those after
// it have the right time, come after it in lists and feeds, and expire in time,
// which it does with them.
func TestClockAhead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var now atomic.Pointer[time.Time]
	set := func(at time.Time) { now.Store(&at) }
	set(start)
	in := mustOpen(t, path, &Options{Now: func() time.Time { return *now.Load() }})
	put(t, in, message("before", 10))
	set(start.AddDate(5, 0, 0))
	put(t, in, message("ahead", 10))
	first, err := in.List(t.Context(), inbox.Query{})
	if err != nil {
		t.Fatal(err)
	}
	set(start.Add(time.Hour))
	put(t, in, message("after", 10))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	in = mustOpen(t, path, &Options{TTL: 24 * time.Hour * 365 * 100, Now: func() time.Time { return *now.Load() }})
	defer in.Close()
	set(start.Add(2 * time.Hour))
	put(t, in, message("last", 10))
	all := list(t, in)
	for i, want := range []struct {
		id string
		at time.Time
	}{{"before", start}, {"ahead", start.AddDate(5, 0, 0)}, {"after", start.Add(time.Hour)}, {"last", start.Add(2 * time.Hour)}} {
		if m := all[i]; m.MessageID != want.id || !m.ReceivedAt.Equal(want.at) {
			t.Errorf("message %d is %q of %v, want %q of %v", i, m.MessageID, m.ReceivedAt, want.id, want.at)
		}
	}
	var fed []string
	for e, err := range in.Watch(t.Context(), inbox.Query{PageToken: first.WatchToken}) {
		if err != nil {
			t.Fatal(err)
		}
		older, err := in.List(t.Context(), inbox.Query{PageToken: e.Token})
		if err != nil || len(older.Events) != 2+len(fed) {
			t.Errorf("%d messages are older than %q, %v", len(older.Events), e.Message.MessageID, err)
		}
		if fed = append(fed, e.Message.MessageID); len(fed) == 2 {
			break
		}
	}
	if fmt.Sprint(fed) != "[after last]" {
		t.Errorf("the feed has %v", fed)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	in = mustOpen(t, path, &Options{TTL: 24 * time.Hour, Now: func() time.Time { return *now.Load() }})
	defer in.Close()
	for _, test := range []struct {
		now  time.Time
		left int
	}{{start.Add(24*time.Hour + time.Second), 3}, {start.Add(25*time.Hour + time.Second), 1}, {start.Add(27 * time.Hour), 0}} {
		for more := true; more; {
			if more, err = in.sweepStep(test.now); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(list(t, in)); got != test.left {
			t.Errorf("at %v %d messages are left, want %d", test.now, got, test.left)
		}
	}
}

// TestClockLeaps starts with the clock a month ahead, and lets it leap while the
// inbox is open: what has expired by the clock is left out, and comes back when it is
// set right, since nothing that was not due is deleted within an hour. The log says
// so. After that the clock is believed.
func TestClockLeaps(t *testing.T) {
	for name, restart := range map[string]bool{"at_start": true, "while_open": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "inbox.db")
				var ahead atomic.Int64 // a time.Duration
				var log buffer
				o := &Options{TTL: 7 * 24 * time.Hour, Log: log.log(), Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}
				in := mustOpen(t, path, o)
				defer func() { in.Close() }()
				put(t, in, message("old", 10))
				time.Sleep(7*24*time.Hour - 30*time.Minute)
				put(t, in, message("young", 10))
				if restart {
					if err := in.Close(); err != nil {
						t.Fatal(err)
					}
				}
				ahead.Store(int64(30 * 24 * time.Hour))
				if restart {
					in = mustOpen(t, path, o)
				}
				for _, test := range []struct {
					wait time.Duration
					left int
				}{{10 * time.Minute, 2}, {30 * time.Minute, 1}, {10 * time.Minute, 1}, {15 * time.Minute, 0}} {
					time.Sleep(test.wait)
					synctest.Wait()
					if got := len(list(t, in)); got != 0 {
						t.Errorf("%d messages are listed that have expired by the clock", got)
					}
					ahead.Store(0) // nobody but List sees it
					if got := len(list(t, in)); got != test.left {
						t.Errorf("%d messages are left, want %d", got, test.left)
					}
					ahead.Store(int64(30 * 24 * time.Hour))
					if n := strings.Count(log.String(), "deleted in an hour"); n != 1 {
						t.Errorf("the clock is told %d times, want 1:\n%s", n, log.String())
					}
				}
			})
		})
	}
}
