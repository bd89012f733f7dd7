package boltinbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

// start is the token of a feed of everything.
var start = inbox.Position{ReceivedAt: time.UnixMicro(0), Commit: time.UnixMicro(0)}.Token()

// feed returns the message IDs of a feed up to the one called last.
func feed(t *testing.T, in *Inbox, q inbox.Query, last string) (ids []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for e, err := range in.Watch(ctx, q) {
		if err != nil {
			t.Fatal(err)
		}
		if ids = append(ids, e.Message.MessageID); e.Message.MessageID == last {
			return ids
		}
	}
	t.Fatalf("the feed ended after %q", ids)
	return nil
}

// pages returns the message IDs of all pages, oldest first. No page is empty that
// has a next one.
func pages(t *testing.T, in *Inbox, q inbox.Query) (ids []string) {
	t.Helper()
	for {
		page, err := in.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) == 0 && (page.NextPageToken != "" || q.PageToken != "") {
			t.Errorf("%+v: an empty page, and the token %q", q, page.NextPageToken)
		}
		for _, m := range page.Messages() {
			ids = append(ids, m.MessageID)
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			slices.Reverse(ids)
			return ids
		}
	}
}

// boundedQueries select everything, in pages that end early.
var boundedQueries = []inbox.Query{
	{}, {PageSize: 1}, {PageSize: 3}, {PageBytes: 1}, {PageBytes: 5000},
	{Source: inbox.SourcePubSub, PageSize: 2}, {Subscription: "projects/p/subscriptions/s", PageBytes: 5000},
}

// TestExpiryAfterClockAhead lets messages expire that were stored after the clock
// had been five years ahead, so that their order says nothing of their time. None
// of them is deleted yet.
func TestExpiryAfterClockAhead(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	now := first
	in := mustOpen(t, filepath.Join(t.TempDir(), "inbox.db"), &Options{Now: func() time.Time { return now }})
	defer in.Close()
	in.db.NoSync = true
	in.ttl = 24 * time.Hour // and no sweep
	put(t, in, message("before", 10))
	now = first.AddDate(5, 0, 0)
	put(t, in, message("ahead", 10))
	now = first
	for i := range 2*feedMessages + 50 {
		put(t, in, message(fmt.Sprint("old", i), 10))
	}
	now = first.Add(time.Hour)
	put(t, in, message("new", 10))
	put(t, in, message("newest", 10))
	if n := len(list(t, in)); n != 2*feedMessages+54 {
		t.Errorf("%d messages are listed before any expires", n)
	}

	now = first.Add(24*time.Hour + time.Microsecond)
	want := []string{"ahead", "new", "newest"}
	for _, q := range boundedQueries {
		if diff := cmp.Diff(want, pages(t, in, q)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", q, diff)
		}
		q.PageToken = start
		if diff := cmp.Diff(want, feed(t, in, q, "newest")); diff != "" {
			t.Errorf("the feed of %+v (-want +got):\n%s", q, diff)
		}
	}
	for id, found := range map[string]bool{"before": false, "ahead": true, "old0": false, "old249": false, "new": true} {
		m := message(id, 10)
		for name, read := range map[string]func(context.Context, string) (*inbox.Message, error){"Get": in.Get, "Peek": in.Peek} {
			got, err := read(t.Context(), inbox.ID(m.Source, m.Subscription, id))
			if found != (err == nil) || found != (got != nil) || !found && !errors.Is(err, inbox.ErrNotFound) {
				t.Errorf("%s(%q) = %v, %v", name, id, got, err)
			}
		}
		if stored, err := in.Put(t.Context(), m); stored || err != nil {
			t.Errorf("Put(%q) again = %v, %v, want false", id, stored, err)
		}
	}
}

// TestDamagedRecords damages records of an inbox in use: pages and feeds, however
// short, go on behind them, and each is named once.
func TestDamagedRecords(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	t.Parallel()
	var log buffer
	in := mustOpen(t, filepath.Join(t.TempDir(), "inbox.db"), &Options{Log: log.log()})
	defer in.Close()
	in.db.NoSync = true
	var want []string
	damaged := map[string]bool{}
	for i := range 300 {
		id := fmt.Sprint("m", i)
		put(t, in, message(id, 1000))
		if i < 2 || i == 5 || i > 20 && i < 40+feedMessages || i == 298 {
			damaged[id] = true
		} else {
			want = append(want, id)
		}
	}
	if err := in.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMessages)
		changed := map[string][]byte{}
		_ = b.ForEach(func(k, v []byte) error {
			if m, err := in.tables(tx).message(parseOrder(k)); err == nil && damaged[m.MessageID] {
				v = slices.Clone(v)
				v[len(v)/2] ^= 1
				changed[string(k)] = v
			}
			return nil
		})
		for k, v := range changed {
			if err := b.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, q := range boundedQueries {
		if diff := cmp.Diff(want, pages(t, in, q)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", q, diff)
		}
		q.PageToken = start
		if diff := cmp.Diff(want, feed(t, in, q, "m299")); diff != "" {
			t.Errorf("the feed of %+v (-want +got):\n%s", q, diff)
		}
	}
	for id := range damaged {
		for name, read := range map[string]func(context.Context, string) (*inbox.Message, error){"Get": in.Get, "Peek": in.Peek} {
			if got, err := read(t.Context(), inbox.ID(inbox.SourcePubSub, "projects/p/subscriptions/s", id)); got != nil || !errors.Is(err, inbox.ErrUnavailable) {
				t.Errorf("%s(%q) = %v, %v, want ErrUnavailable", name, id, got, err)
			}
		}
	}
	if n := strings.Count(log.String(), "is damaged and left out"); n != len(damaged) {
		t.Errorf("%d records are named, want %d", n, len(damaged))
	}
}

// TestRewriteQuarantined upgrades and repairs a file with the largest quarantined
// body, which is larger than any message.
func TestRewriteQuarantined(t *testing.T) {
	t.Parallel()
	for name, rewrite := range map[string]func(t *testing.T, path string){
		"upgrade": format1,
		"repair": func(t *testing.T, path string) {
			if _, n, err := Repair(path, nil); err != nil || n != 2 {
				t.Fatalf("Repair = %d, %v, want 2", n, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "inbox.db")
			in := mustOpen(t, path, nil)
			large := inbox.Quarantine(inbox.SourcePubSub, "projects/p/subscriptions/s", inbox.ReasonData, make([]byte, inbox.MaxQuarantinedSize))
			put(t, in, message("m", 10))
			put(t, in, large)
			want, err := in.Get(t.Context(), inbox.ID(large.Source, large.Subscription, large.MessageID))
			if err := errors.Join(err, in.Close()); err != nil {
				t.Fatal(err)
			}
			rewrite(t, path)
			var log buffer
			in = mustOpen(t, path, &Options{Log: log.log()})
			defer in.Close()
			if got, err := in.Get(t.Context(), want.ID); err != nil || !reflect.DeepEqual(want, got) {
				t.Errorf("the quarantined message is changed, %v", err)
			}
			for _, q := range []inbox.Query{{Quarantined: true}, {Quarantined: true, Subscription: large.Subscription}} {
				if got := pages(t, in, q); !slices.Equal(got, []string{large.MessageID}) {
					t.Errorf("%+v lists %q", q, got)
				}
			}
			if n := len(list(t, in)); n != 2 || strings.Contains(log.String(), "damaged") {
				t.Errorf("%d messages are listed, and the log says:\n%s", n, log.String())
			}
		})
	}
}

// format1 turns a file into one of format 1, which has no checksums.
func format1(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(func(tx *bbolt.Tx) error {
		for name, added := range map[string]struct{ key, value int }{
			string(bucketMessages): {0, digestSize + datadir.SumSize}, string(bucketChunks): {datadir.SumSize, 0},
		} {
			b, old := tx.Bucket([]byte(name)), map[string][]byte{}
			_ = b.ForEach(func(k, v []byte) error {
				old[string(k[:len(k)-added.key])] = slices.Clone(v[:len(v)-added.value])
				return nil
			})
			if err := errors.Join(tx.DeleteBucket([]byte(name)), createBuckets(tx)); err != nil {
				return err
			}
			b = tx.Bucket([]byte(name))
			for k, v := range old {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
		}
		b := tx.Bucket(bucketFormat)
		return errors.Join(b.Delete(keySeen), b.Put(keyVersion, []byte("1")))
	}), db.Close()); err != nil {
		t.Fatal(err)
	}
}
