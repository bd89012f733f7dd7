package boltinbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/groupcommit"
)

// BenchmarkPut compares Puts that share commits with a commit for each, for
// messages of 1 KiB, fsync included.
func BenchmarkPut(b *testing.B) {
	for _, callers := range []int{1, 64, 500} {
		for _, test := range []struct {
			name     string
			maxItems int
		}{{"alone", 1}, {"shared", maxCommitItems}} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, test.name), func(b *testing.B) {
				in := openNew(b, nil)
				var err error
				in.puts, err = groupcommit.New(in.commit, groupcommit.Options{
					MaxItems: test.maxItems, MaxBytes: maxCommitBytes, InFlight: 1,
				})
				if err != nil {
					b.Fatal(err)
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ReportAllocs()
				b.ResetTimer()
				for range callers {
					wg.Go(func() {
						for {
							i := next.Add(1)
							if i > int64(b.N) {
								return
							}
							if _, err := in.Put(b.Context(), message(fmt.Sprint(i), 1<<10)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
			})
		}
	}
}

// BenchmarkPutAgain is a redelivery, which writes nothing.
func BenchmarkPutAgain(b *testing.B) {
	in := openNew(b, nil)
	m := message("m", 1<<10)
	put(b, in, m)
	b.ReportAllocs()
	for b.Loop() {
		if stored, err := in.Put(b.Context(), m); stored || err != nil {
			b.Fatal(stored, err)
		}
	}
}

// BenchmarkPutLarge is one message of the largest size at a time.
func BenchmarkPutLarge(b *testing.B) {
	in := openNew(b, nil)
	m := message("m", inbox.MaxDataSize)
	b.SetBytes(inbox.MaxDataSize)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.MessageID = fmt.Sprint(i)
		put(b, in, m)
	}
}

// sizes are the numbers of messages over which lists and Open must take the
// same time.
var sizes = []int{1_000, 100_000, 1_000_000}

// filled are the paths of inboxes with so many messages, each filled once.
var filled = map[int]string{}

var benchOptions = &Options{SearchAttributes: []string{"tenant"}}

// fillTo returns the path of an inbox with n messages of 200 bytes, 100 of each
// tenant.
func fillTo(b *testing.B, dir string, n int) string {
	b.Helper()
	if path, ok := filled[n]; ok {
		return path
	}
	path := filepath.Join(dir, fmt.Sprint(n, ".db"))
	in := mustOpen(b, path, benchOptions)
	in.db.NoSync = true // nobody relies on these
	for at := 0; at < n; {
		ps := make([]*pendingPut, 0, 10_000)
		for ; len(ps) < cap(ps) && at < n; at++ {
			m := message(fmt.Sprint(at), 200)
			m.OrderingKey, m.Attributes = fmt.Sprint(at%(n/100)), map[string]string{"tenant": fmt.Sprint(at % (n / 100))}
			if at%3 == 0 {
				m.Subscription = "projects/p/subscriptions/s3"
			}
			ps = append(ps, &pendingPut{message: m})
		}
		errs := in.commit(b.Context(), ps)
		for _, p := range ps {
			if !p.stored {
				b.Fatal(errs)
			}
		}
	}
	// Written back now, or the kernel does it while others are measured.
	if err := errors.Join(in.db.Sync(), in.Close()); err != nil {
		b.Fatal(err)
	}
	filled[n] = path
	return path
}

// BenchmarkFirstPage reads the first page of 50, with and without a filter,
// and a page from the middle.
func BenchmarkFirstPage(b *testing.B) {
	dir := b.TempDir()
	clear(filled)
	for _, n := range sizes {
		for _, q := range []struct {
			name  string
			query inbox.Query
		}{
			{"all", inbox.Query{}},
			{"subscription", inbox.Query{Subscription: "projects/p/subscriptions/s3"}},
			{"both", inbox.Query{Source: inbox.SourcePubSub, Subscription: "projects/p/subscriptions/s3"}},
		} {
			b.Run(fmt.Sprint(n, "/", q.name), func(b *testing.B) {
				in := mustOpen(b, fillTo(b, dir, n), benchOptions)
				defer in.Close()
				for b.Loop() {
					page, err := in.List(b.Context(), q.query)
					if err != nil || len(page.Events) != inbox.DefaultPageSize {
						b.Fatal(len(page.Events), err)
					}
				}
			})
		}
	}
}

// BenchmarkFirstPageRatio reads first pages of the sizes in turn, so that what
// else the machine does slows all of them, and reports the median of each and
// the largest of them as a multiple of the smallest.
func BenchmarkFirstPageRatio(b *testing.B) {
	dir := b.TempDir()
	clear(filled)
	ins := make([]*Inbox, len(sizes))
	for i, n := range sizes {
		ins[i] = mustOpen(b, fillTo(b, dir, n), benchOptions)
		defer ins[i].Close()
	}
	took := make([][]time.Duration, len(sizes))
	for b.Loop() {
		for i, in := range ins {
			begin := time.Now()
			if _, err := in.List(b.Context(), inbox.Query{}); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(begin))
		}
	}
	var medians []time.Duration
	for i, n := range sizes {
		slices.Sort(took[i])
		medians = append(medians, took[i][len(took[i])/2])
		b.ReportMetric(float64(medians[i].Nanoseconds()), fmt.Sprint("ns-of-", n))
	}
	b.ReportMetric(float64(slices.Max(medians))/float64(slices.Min(medians)), "ratio")
}

// BenchmarkSearch reads first pages of what an index finds, of the smallest and the
// largest number of messages in turn. It reports the 95th percentile of each filter
// and how many times as long the largest takes.
func BenchmarkSearch(b *testing.B) {
	dir := b.TempDir()
	clear(filled)
	ends := []int{sizes[0], sizes[len(sizes)-1]}
	ins := make([]*Inbox, len(ends))
	for i, n := range ends {
		ins[i] = mustOpen(b, fillTo(b, dir, n), benchOptions)
		defer ins[i].Close()
	}
	for name, q := range map[string]inbox.Query{
		"message_id":   {MessageID: "700"},
		"ordering_key": {OrderingKey: "7"},
		"attribute":    {Attributes: map[string]string{"tenant": "7"}},
		"full_name":    {Subscription: "projects/p/subscriptions/s3"},
		"short_name":   {Subscription: "s3"},
		"and_time":     {Subscription: "s3", Until: time.Now().Add(time.Hour)},
		"ascending":    {Attributes: map[string]string{"tenant": "7"}, Ascending: true},
	} {
		b.Run(name, func(b *testing.B) {
			took := make([][]time.Duration, len(ends))
			for b.Loop() {
				for i, in := range ins {
					begin := time.Now()
					if page, err := in.List(b.Context(), q); err != nil || len(page.Events) == 0 {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(begin))
				}
			}
			var p95 []float64
			for i, n := range ends {
				slices.Sort(took[i])
				p95 = append(p95, float64(took[i][len(took[i])*95/100].Nanoseconds()))
				b.ReportMetric(p95[i], fmt.Sprint("p95-ns-of-", n))
			}
			b.ReportMetric(p95[1]/p95[0], "ratio")
		})
	}
}

// BenchmarkOpen opens and closes an inbox that exists.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	clear(filled)
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := fillTo(b, dir, n)
			for b.Loop() {
				if err := mustOpen(b, path, benchOptions).Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWatch is the time from the start of a Put to its event, the commit
// included, and beside it the part of it after Put has returned.
func BenchmarkWatch(b *testing.B) {
	for _, watchers := range []int{1, 50} {
		b.Run(fmt.Sprint("watchers=", watchers), func(b *testing.B) {
			in := openNew(b, nil)
			ctx, cancel := context.WithCancel(b.Context())
			events := make(chan time.Time, watchers)
			var wg sync.WaitGroup
			for range watchers {
				feed := in.Watch(ctx, inbox.Query{})
				wg.Go(func() {
					for _, err := range feed {
						if err != nil {
							b.Error(err)
						}
						events <- time.Now()
					}
				})
			}
			m := message("m", 1<<10)
			var after time.Duration
			for i := 0; b.Loop(); i++ {
				m.MessageID = fmt.Sprint(i)
				put(b, in, m)
				returned := time.Now()
				for range watchers {
					after += max((<-events).Sub(returned), 0)
				}
			}
			b.ReportMetric(float64(after.Nanoseconds())/float64(b.N*watchers), "ns-after-put/op")
			cancel()
			wg.Wait()
		})
	}
}
