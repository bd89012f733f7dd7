package boltinbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/inboxtest"
	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		child(os.Getenv(childTask), path)
		return
	}
	os.Exit(m.Run())
}

func TestInbox(t *testing.T) {
	t.Parallel()
	inboxtest.Run(t, func(t *testing.T) inboxtest.Place {
		path := filepath.Join(t.TempDir(), "inbox.db")
		return inboxtest.Place{
			Open: func(t *testing.T) inbox.Inbox { return mustOpen(t, path, nil) },
			OpenAt: func(t *testing.T, now func() time.Time) inbox.Inbox {
				return mustOpen(t, path, &Options{TTL: inboxtest.TTL, Now: now})
			},
			Exclusive: true,
		}
	})
}

func mustOpen(t testing.TB, path string, o *Options) *Inbox {
	t.Helper()
	in, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// openNew opens a new inbox and closes it when the test ends.
func openNew(t testing.TB, o *Options) *Inbox {
	t.Helper()
	in := mustOpen(t, filepath.Join(t.TempDir(), "inbox.db"), o)
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return in
}

func message(id string, size int) *inbox.Message {
	return &inbox.Message{
		Source:       inbox.SourcePubSub,
		Subscription: "projects/p/subscriptions/s",
		MessageID:    id,
		PublishTime:  time.Date(2026, 11, 23, 7, 8, 9, 0, time.UTC),
		Data:         []byte(strings.Repeat("x", size)),
		Attributes:   map[string]string{"k": "v"},
		Verified:     inbox.Verified{Issuer: "https://accounts.google.com", Email: "push@p.iam.gserviceaccount.com"},
	}
}

func put(t testing.TB, in inbox.Inbox, m *inbox.Message) {
	t.Helper()
	if stored, err := in.Put(t.Context(), m); err != nil || !stored {
		t.Fatalf("Put(%q) = %v, %v, want true", m.MessageID, stored, err)
	}
}

// list returns all messages, oldest first.
func list(t testing.TB, in inbox.Inbox) []inbox.Message {
	t.Helper()
	all, err := listAll(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func listAll(ctx context.Context, in inbox.Inbox) ([]inbox.Message, error) {
	var all []inbox.Message
	for q := (inbox.Query{PageSize: inbox.MaxPageSize}); ; {
		page, err := in.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, m := range page.Messages() {
			all = append([]inbox.Message{m}, all...)
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			return all, nil
		}
	}
}

// TestTimesRise has a clock that stands still and steps back, also while the
// inbox is closed: list and feed keep the order of the Puts, and times rise unless
// the clock is far behind.
func TestTimesRise(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	clock := start
	in := mustOpen(t, path, &Options{Now: func() time.Time { return clock }})
	var token string
	for i := range 60 {
		switch i {
		case 20:
			clock = start.Add(-4 * time.Minute)
		case 30:
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			in = mustOpen(t, path, &Options{Now: func() time.Time { return clock }})
			page, err := in.List(t.Context(), inbox.Query{})
			if err != nil {
				t.Fatal(err)
			}
			token = page.WatchToken
		case 40:
			clock = time.Time{}
		case 50:
			clock = start.Add(time.Hour)
		}
		put(t, in, message(fmt.Sprintf("%02d", i), 10))
	}
	defer in.Close()

	all := list(t, in)
	if len(all) != 60 {
		t.Fatalf("%d messages are listed, want 60", len(all))
	}
	for i, m := range all {
		if want := fmt.Sprintf("%02d", i); m.MessageID != want {
			t.Errorf("message %d is %q, want %q", i, m.MessageID, want)
		}
		if far := i >= 40 && i < 50; far && !m.ReceivedAt.Equal(time.Unix(0, 0)) {
			t.Errorf("message %d was received at %v, want the clock's time", i, m.ReceivedAt)
		} else if i > 0 && !far && !m.ReceivedAt.After(all[i-1].ReceivedAt) {
			t.Errorf("message %d was received at %v, the one before at %v", i, m.ReceivedAt, all[i-1].ReceivedAt)
		}
	}
	if got := all[0].ReceivedAt; !got.Equal(start) {
		t.Errorf("the first message was received at %v, want %v", got, start)
	}
	if got := all[50].ReceivedAt; !got.Equal(clock) {
		t.Errorf("the first message at the right time again was received at %v, want %v", got, clock)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	i := 30
	for e, err := range in.Watch(ctx, inbox.Query{PageToken: token}) {
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[i], e.Message); diff != "" {
			t.Errorf("event %d (-want +got):\n%s", i, diff)
		}
		if i++; i == len(all) {
			break
		}
	}
	if i < len(all) {
		t.Errorf("the feed ended before message %d", i)
	}
}

// TestDuplicatesInOneCommit puts the same messages again within one commit.
func TestDuplicatesInOneCommit(t *testing.T) {
	t.Parallel()
	in := openNew(t, nil)
	ps := make([]*pendingPut, 6)
	for i := range ps {
		ps[i] = &pendingPut{message: message(fmt.Sprint(i%2), 10_000)}
	}
	if errs := in.commit(t.Context(), ps); errs != nil {
		t.Fatal(errs)
	}
	for i, p := range ps {
		if p.stored != (i < 2) {
			t.Errorf("message %d: stored %v, want %v", i, p.stored, i < 2)
		}
	}
	if n := len(list(t, in)); n != 2 {
		t.Errorf("%d messages are listed, want 2", n)
	}
}

// TestSweep lets messages expire: all that is kept of them goes, in the order
// of their age, and nothing else does.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "inbox.db")
		in := mustOpen(t, path, &Options{TTL: time.Hour})
		first, err := in.List(t.Context(), inbox.Query{})
		if err != nil {
			t.Fatal(err)
		}
		const n = 1500
		for i := range n {
			m := message(fmt.Sprintf("old-%04d", i), 10)
			switch i {
			case 7:
				m.Data = make([]byte, 3_000_000)
			case 8:
				m.Subscription = ""
			}
			// Most go past the group, which would commit each for itself.
			if i < 10 {
				put(t, in, m)
				continue
			}
			ps := []*pendingPut{{message: m}}
			if i%100 != 10 {
				continue
			}
			for j := 1; j < 90; j++ {
				ps = append(ps, &pendingPut{message: message(fmt.Sprintf("old-%04d", i+j), 10)})
			}
			in.commit(t.Context(), ps)
		}
		before := len(list(t, in))
		time.Sleep(30 * time.Minute)
		put(t, in, message("young", 200_000))
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		if got := len(list(t, in)); got != before+1 {
			t.Errorf("%d messages are listed before any expired, want %d", got, before+1)
		}

		time.Sleep(3 * time.Minute)
		synctest.Wait()
		rest := list(t, in)
		if len(rest) != 1 || rest[0].MessageID != "young" {
			t.Fatalf("%d messages are listed after the others expired, want only the young one", len(rest))
		}
		old := message("old-0007", 0)
		if _, err := in.Get(t.Context(), inbox.ID(old.Source, old.Subscription, old.MessageID)); !errors.Is(err, inbox.ErrNotFound) {
			t.Errorf("Get of an expired message = %v, want ErrNotFound", err)
		}
		if m, err := in.Get(t.Context(), rest[0].ID); err != nil || len(m.Data) != 200_000 {
			t.Errorf("Get of the young message = %v", err)
		}
		for _, q := range []inbox.Query{{Source: old.Source}, {Subscription: old.Subscription}, {Source: old.Source, Subscription: old.Subscription}} {
			if page, err := in.List(t.Context(), q); err != nil || len(page.Events) != 1 {
				t.Errorf("List(%+v) = %v, %v, want the young message", q, page, err)
			}
		}

		// When all are gone the next one still comes after them, whatever the
		// clock says, so that feeds that wait behind them see it.
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(list(t, in)); n != 0 {
			t.Errorf("%d messages are listed, want none", n)
		}
		page, err := in.List(t.Context(), inbox.Query{})
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		if size := leftovers(t, path); size > 0 {
			t.Errorf("%d keys are left of expired messages", size)
		}
		in = mustOpen(t, path, &Options{Now: func() time.Time { return time.Unix(1, 0) }})
		defer in.Close()
		put(t, in, message("after", 1))
		for _, token := range []string{page.WatchToken, first.WatchToken} {
			for e, err := range in.Watch(t.Context(), inbox.Query{PageToken: token}) {
				if err != nil || e.Message.MessageID != "after" {
					t.Errorf("the feed yields %q, %v, want the message after the expired ones", e.Message.MessageID, err)
				}
				break
			}
		}
		// An expired message may come again: it is a new one then.
		put(t, in, message("old-0007", 1))
	})
}

// leftovers returns how many keys the closed inbox at path holds.
func leftovers(t *testing.T, path string) int {
	t.Helper()
	in := mustOpen(t, path, nil)
	defer in.Close()
	n := 0
	err := in.view(t.Context(), func(t tables) error {
		n = t.ids.Stats().KeyN + t.messages.Stats().KeyN + t.chunks.Stats().KeyN + t.index.Stats().KeyN
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSweepReusesSpace fills and empties the inbox again and again: the file
// stops growing.
func TestSweepReusesSpace(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	in := openNew(t, &Options{TTL: 1000 * time.Hour, Now: func() time.Time { return time.Unix(clock.Load(), 0) }})
	var sizes []int64
	for round := range 8 {
		for i := range 5 {
			put(t, in, message(fmt.Sprint(round, "-", i), 700_000))
		}
		clock.Add(int64(1001 * time.Hour / time.Second))
		for more := true; more; {
			var err error
			if more, err = in.sweepStep(in.clock.Now()); err != nil {
				t.Fatal(err)
			}
		}
		info, err := os.Stat(in.path)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, info.Size())
	}
	if sizes[7] > sizes[2] {
		t.Errorf("the file grew on and on though nothing stayed in it: %d", sizes)
	}
}

// TestReaderHoldsNothing has a reader of a feed put more, between two events,
// than the file's map has room for: it grows only when nobody reads the file.
func TestReaderHoldsNothing(t *testing.T) {
	t.Parallel()
	in := openNew(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	feed := in.Watch(ctx, inbox.Query{})
	put(t, in, message("first", 1))
	events := 0
	for _, err := range feed {
		if err != nil {
			t.Fatal(err)
		}
		if events++; events == 1 {
			for i := range firstMap/inbox.MaxDataSize + 2 {
				if _, err := in.Put(ctx, message(fmt.Sprint(i), inbox.MaxDataSize)); err != nil {
					t.Fatalf("Put while a feed is read: %v", err)
				}
			}
			continue
		}
		break
	}
	if events != 2 {
		t.Errorf("the feed ended after %d events", events)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("not an inbox"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("\xde\xad\xbe\xef garbage", 100_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		opts       *Options
		want       error
	}{
		{name: "no_path", want: fs.ErrNotExist},
		{name: "no_directory", path: filepath.Join(dir, "no", "inbox.db"), want: fs.ErrNotExist},
		{name: "directory_is_a_file", path: filepath.Join(file, "inbox.db"), want: syscall.ENOTDIR},
		{name: "path_is_a_directory", path: dir, want: syscall.EISDIR},
		{name: "nul_in_path", path: filepath.Join(dir, "a\x00b"), want: syscall.EINVAL},
		{name: "short_other_file", path: file},
		{name: "long_other_file", path: garbage},
		{name: "negative_ttl", path: filepath.Join(dir, "new"), opts: &Options{TTL: -1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in, err := Open(test.path, test.opts)
			if err == nil {
				in.Close()
				t.Fatal("Open succeeded")
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("Open: %v, want %v", err, test.want)
			}
			if test.opts == nil && !strings.Contains(err.Error(), test.path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Open: %q, want one line that names the path", err)
			}
		})
	}
}

func TestOpenLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	in := mustOpen(t, path, nil)
	put(t, in, message("m", 1))
	if second, err := Open(path, nil); !errors.Is(err, datadir.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open of an open inbox = %v, %v, want ErrLocked with the path", second, err)
	}
	put(t, in, message("n", 1))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	in = mustOpen(t, path, nil)
	defer in.Close()
	if n := len(list(t, in)); n != 2 {
		t.Errorf("%d messages are listed, want 2", n)
	}
}

// TestIOError takes the file away from under the inbox: Puts fail with the
// cause, what is in memory stays readable, and nothing hangs.
func TestIOError(t *testing.T) {
	t.Parallel()
	in := mustOpen(t, filepath.Join(t.TempDir(), "inbox.db"), nil)
	m := message("m", 10)
	put(t, in, m)
	if err := in.file.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if stored, err := in.Put(t.Context(), message("n", 10)); stored || !errors.Is(err, inbox.ErrUnavailable) || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Put = %v, %v, want ErrUnavailable and the cause", stored, err)
		}
	}
	if all := list(t, in); len(all) != 1 || all[0].MessageID != "m" {
		t.Errorf("%d messages are listed, want the one that was acknowledged", len(all))
	}
	if err := in.Close(); err == nil {
		t.Error("Close of a file that is gone succeeded")
	}
}
