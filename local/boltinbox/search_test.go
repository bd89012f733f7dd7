package boltinbox

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/inboxtest"
	"example.com/pushinbox/testkit/measure"
	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

// putMany stores messages, many in a commit.
func putMany(t testing.TB, in *Inbox, ms []*inbox.Message) {
	t.Helper()
	for some := range slices.Chunk(ms, 5000) {
		ps := make([]*pendingPut, len(some))
		for i, m := range some {
			ps[i] = &pendingPut{message: m}
		}
		if errs := in.commit(t.Context(), ps); errs != nil {
			t.Fatal(errs[0])
		}
	}
}

// TestSearch asks for random filters over random messages, those of earlier formats
// among them, some of which were received before their order says.
func TestSearch(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	t.Parallel()
	path, _ := version1(t)
	var ahead atomic.Int64
	o := &Options{SearchAttributes: inboxtest.SearchAttributes, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}
	r := measure.Rand()
	ms := inboxtest.RandomMessages(r, measure.Size(2000, 100_000))
	in := mustOpen(t, path, nil)
	putMany(t, in, ms[:len(ms)/4])
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	format2(t, path)
	in = mustOpen(t, path, o)
	putMany(t, in, ms[len(ms)/4:len(ms)/2])
	ahead.Store(int64(time.Hour))
	putMany(t, in, ms[len(ms)/2:len(ms)*3/4])
	ahead.Store(0)
	putMany(t, in, ms[len(ms)*3/4:])
	inboxtest.Search(t, r, in, measure.Size(100, 2000))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	sound(t, path, inboxtest.SearchAttributes)
}

// format2 turns a file into one of format 2, which has no search index.
func format2(t *testing.T, path string) {
	t.Helper()
	change(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketFormat)
		return errors.Join(tx.DeleteBucket(bucketSearch), b.Delete(keySearch), b.Put(keyVersion, []byte("2")))
	})
}

// change changes a closed file.
func change(t *testing.T, path string, fn func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// sound fails the test when the search index of a closed file does not have exactly
// the keys of its messages.
func sound(t *testing.T, path string, attributes []string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		in := &Inbox{attributes: inbox.IndexedAttributes(attributes)}
		tables := in.tables(tx)
		var want, got []string
		_ = tables.messages.ForEach(func(k, _ []byte) error {
			m, err := tables.message(parseOrder(k))
			if err != nil {
				t.Error(err)
				return nil
			}
			for _, key := range tables.searchKeys(m, parseOrder(k), parseOrder(k).isLate(m)) {
				want = append(want, string(key))
			}
			return nil
		})
		sum := uint64(0)
		_ = tables.search.ForEach(func(k, _ []byte) error {
			got = append(got, string(k))
			sum += hashKey(bucketSearch, k, nil)
			return nil
		})
		slices.Sort(want)
		if !slices.Equal(want, got) || sum != tables.search.Sequence() {
			t.Errorf("%s: the search index has %d keys, want %d; sum %x, want %x", path, len(got), len(want), sum, tables.search.Sequence())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestSearchIndex keeps the index in step with what is stored, deleted, repaired and
// declared, and builds it again where it is damaged or missing.
func TestSearchIndex(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	var clock atomic.Int64
	var log buffer
	options := func(attributes ...string) *Options {
		return &Options{SearchAttributes: attributes, TTL: 1000 * time.Hour, Log: log.log(), Now: func() time.Time { return time.Unix(clock.Load(), 0) }}
	}
	clock.Store(1_000_000_000)
	ms := inboxtest.RandomMessages(measure.Rand(), 300)
	in := mustOpen(t, path, options("tenant"))
	putMany(t, in, ms[:100])
	clock.Add(int64(900 * time.Hour / time.Second))
	putMany(t, in, ms[100:200])
	clock.Add(-int64(100 * time.Hour / time.Second)) // what follows is received before its order says
	putMany(t, in, ms[200:250])
	step := func(name string, says string, attributes ...string) {
		t.Helper()
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		sound(t, path, attributes)
		if got := log.String(); says != "any" && (says == "" && got != "" || !strings.Contains(got, says)) {
			t.Errorf("%s: the log says %q, want %q", name, got, says)
		}
		log = buffer{}
	}
	step("stored", "", "tenant")

	in = mustOpen(t, path, options("tenant", "note"))
	putMany(t, in, ms[250:])
	step("another attribute", "", "tenant", "note")
	in = mustOpen(t, path, options())
	step("no attribute", "")
	in = mustOpen(t, path, options("tenant"))
	before := search(t, in)
	step("one again", "", "tenant")

	change(t, path, func(tx *bbolt.Tx) error {
		k, _ := tx.Bucket(bucketSearch).Cursor().First()
		return tx.Bucket(bucketSearch).Delete(slices.Clone(k))
	})
	in = mustOpen(t, path, options("tenant"))
	if diff := cmp.Diff(before, search(t, in)); diff != "" {
		t.Errorf("after a key was lost (-want +got):\n%s", diff)
	}
	step("a lost key", "the search index was damaged and is built again", "tenant")

	// An earlier version wrote twelve bytes of the values, and no layout.
	change(t, path, func(tx *bbolt.Tx) error {
		var keys [][]byte
		b := tx.Bucket(bucketSearch)
		_ = b.ForEach(func(k, _ []byte) error {
			keys = append(keys, append(slices.Clone(k[:13]), k[21:]...))
			return nil
		})
		if err := errors.Join(tx.DeleteBucket(bucketSearch), createBuckets(tx)); err != nil {
			return err
		}
		err := tables{search: tx.Bucket(bucketSearch)}.addSearch(keys)
		_, attributes, _ := bytes.Cut(in.searchState(), []byte{0, searchLayout})
		return errors.Join(err, tx.Bucket(bucketFormat).Put(keySearch, datadir.Seal(keySearch, attributes)))
	})
	in = mustOpen(t, path, options("tenant"))
	if diff := cmp.Diff(before, search(t, in)); diff != "" {
		t.Errorf("after an index of layout 1 (-want +got):\n%s", diff)
	}
	step("layout 1", "", "tenant")

	// A build that was interrupted left no state.
	change(t, path, func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(bucketFormat).Delete(keySearch), tx.DeleteBucket(bucketSearch), createBuckets(tx))
	})
	in = mustOpen(t, path, options("tenant"))
	step("interrupted", "", "tenant")

	change(t, path, func(tx *bbolt.Tx) error {
		id, _ := tx.Bucket(bucketIDs).Cursor().First()
		return tx.Bucket(bucketIDs).Delete(id)
	})
	if kept, _, err := Repair(path, options("tenant")); err != nil || kept == "" {
		t.Fatal(kept, err)
	}
	log = buffer{}
	in = mustOpen(t, path, options("tenant"))
	if diff := cmp.Diff(before, search(t, in)); diff != "" {
		t.Errorf("after the repair (-want +got):\n%s", diff)
	}
	step("repaired", "", "tenant")

	in = mustOpen(t, path, options("tenant"))
	clock.Add(int64(300 * time.Hour / time.Second))
	for more := true; more; {
		var err error
		if more, err = in.sweepStep(in.clock.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(list(t, in)); n == 0 || n >= len(ms) {
		t.Errorf("%d of %d messages are left, want some", n, len(ms))
	}
	step("swept", "any", "tenant") // the clock's leap may be told
}

// search returns the IDs that each of some filters finds.
func search(t *testing.T, in *Inbox) (found [][]string) {
	t.Helper()
	for _, q := range []inbox.Query{
		{Subscription: "orders"}, {Attributes: map[string]string{"tenant": "order"}}, {OrderingKey: "1"}, {MessageID: "2070443601311543"},
		{Until: time.Unix(1_000_000_000, 0).Add(900 * time.Hour)}, {Text: "zoë"},
	} {
		found = append(found, pages(t, in, q))
	}
	return found
}

// TestSearchIndexInterrupted ends the process while the index of a file of format 2
// is built: the next one builds it whole.
func TestSearchIndexInterrupted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	in := mustOpen(t, path, nil)
	putMany(t, in, inboxtest.RandomMessages(measure.Rand(), 50))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"index", "indexed"} {
		format2(t, path)
		endsBefore(t, path, step)
		mustOpen(t, path, nil).Close()
		sound(t, path, nil)
	}
}

// TestRowsOfAList counts the keys that an indexed list goes over: those of the
// messages that it selects, however many others there are.
func TestRowsOfAList(t *testing.T) {
	t.Parallel()
	in := openNew(t, &Options{SearchAttributes: []string{"tenant"}})
	var ms []*inbox.Message
	for i := range 1000 {
		m := message(fmt.Sprint("m", i), 10)
		m.OrderingKey, m.Attributes = fmt.Sprint(i/5), map[string]string{"tenant": fmt.Sprint(i % 200), "note": "n"}
		m.Subscription = "projects/p/subscriptions/" + fmt.Sprint(i%20)
		ms = append(ms, m)
	}
	putMany(t, in, ms)
	all := list(t, in)
	slices.Reverse(all) // newest first
	at := func(i int) time.Time { return all[i].ReceivedAt }
	for name, test := range map[string]struct {
		q     inbox.Query
		exact bool
		rows  int
	}{
		"message_id":     {inbox.Query{MessageID: "m432"}, true, 1},
		"ordering_key":   {inbox.Query{OrderingKey: "77"}, true, 5},
		"attribute":      {inbox.Query{Attributes: map[string]string{"tenant": "17"}}, true, 5},
		"and_another":    {inbox.Query{Attributes: map[string]string{"tenant": "17", "note": "x"}}, false, 5},
		"full_name":      {inbox.Query{Subscription: "projects/p/subscriptions/4"}, true, 50},
		"short_name":     {inbox.Query{Subscription: "4"}, true, 50},
		"and_source":     {inbox.Query{Subscription: "4", Source: "pubsub"}, false, 50},
		"time":           {inbox.Query{Since: at(29), Until: at(9)}, true, 20},
		"time_and_index": {inbox.Query{Since: at(199), Subscription: "4"}, true, 10},
	} {
		for _, test.q.Ascending = range []bool{false, true} {
			rows := 0
			err := in.view(t.Context(), func(t tables) error {
				w, isExact := t.list(&test.q, time.Time{})
				first, next := w.before, w.previous
				if test.q.Ascending {
					first, next = w.first, w.next
				}
				for _, ok := first(nil); ok; _, ok = next() {
					rows++
				}
				if isExact != test.exact {
					return fmt.Errorf("exact is %v", isExact)
				}
				return nil
			})
			if err != nil || rows != test.rows {
				t.Errorf("%s: %d rows, want %d, %v", name, rows, test.rows, err)
			}
		}
	}
}

// TestScanEnds has a list that no index answers end after inbox.MaxExamined messages,
// and go on from there.
func TestScanEnds(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	t.Parallel()
	in := openNew(t, nil)
	ms := make([]*inbox.Message, inbox.MaxExamined+10)
	for i := range ms {
		ms[i] = message(fmt.Sprint("m", i), 10)
	}
	ms[3].Attributes = map[string]string{"the": "one"}
	putMany(t, in, ms)
	q := inbox.Query{Text: "THE", Attributes: map[string]string{"the": "one"}}
	first, err := in.List(t.Context(), q)
	if err != nil || len(first.Events) != 0 || first.NextPageToken == "" || first.Examined != inbox.MaxExamined || first.ExaminedUntil.IsZero() {
		t.Fatalf("the first page: %+v, %v", first, err)
	}
	q.PageToken = first.NextPageToken
	next, err := in.List(t.Context(), q)
	if err != nil || len(next.Events) != 1 || next.NextPageToken != "" || next.Examined != 10 || !next.ExaminedUntil.IsZero() {
		t.Errorf("the next page: %+v, %v", next, err)
	}
	if got := feed(t, in, inbox.Query{PageToken: start, Text: "the"}, "m3"); len(got) != 1 {
		t.Errorf("the feed yields %q", got)
	}
}
