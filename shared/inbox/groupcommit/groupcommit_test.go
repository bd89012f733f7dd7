package groupcommit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// roomy are options that cap nothing in a test but InFlight.
func roomy(inFlight int) Options {
	return Options{MaxItems: 1000, MaxBytes: 1 << 30, InFlight: inFlight}
}

// store is a commit function under the test's control.
type store struct {
	mu      sync.Mutex
	batches [][]int
	// gate, when not nil, is what each commit waits to receive from.
	gate chan struct{}
	// fail decides the outcome of an item; nil means that all succeed.
	fail func(item int) error
	ctxs []context.Context
}

func (s *store) commit(ctx context.Context, items []int) []error {
	s.mu.Lock()
	s.batches = append(s.batches, append([]int(nil), items...))
	s.ctxs = append(s.ctxs, ctx)
	s.mu.Unlock()
	if s.gate != nil {
		<-s.gate
	}
	if s.fail == nil {
		return nil
	}
	errs := make([]error, len(items))
	for i, item := range items {
		errs[i] = s.fail(item)
	}
	return errs
}

func newGroup(t *testing.T, s *store, o Options) *Group[int] {
	t.Helper()
	g, err := New(s.commit, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// do calls Do in a goroutine and returns once it waits.
func do(ctx context.Context, g *Group[int], item, size int) <-chan error {
	result := make(chan error, 1)
	go func() { result <- g.Do(ctx, item, size) }()
	synctest.Wait()
	return result
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	commit := new(store).commit
	for _, test := range []struct {
		name   string
		commit CommitFunc[int]
		opts   Options
	}{
		{"no_commit_function", nil, roomy(1)},
		{"no_limits", commit, Options{}},
		{"no_items", commit, Options{MaxBytes: 1, InFlight: 1}},
		{"no_bytes", commit, Options{MaxItems: 1, InFlight: 1}},
		{"none_in_flight", commit, Options{MaxItems: 1, MaxBytes: 1}},
		{"negative", commit, Options{MaxItems: -1, MaxBytes: 1, InFlight: 1}},
	} {
		if g, err := New(test.commit, test.opts); g != nil || err == nil {
			t.Errorf("%s: New = %v, %v, want an error", test.name, g, err)
		}
	}
}

func TestIdleGroupCommitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		g := newGroup(t, s, roomy(4))
		start := time.Now()
		for i := range 3 {
			if err := g.Do(t.Context(), i, 1); err != nil {
				t.Errorf("Do: %v", err)
			}
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("an idle group let its callers wait %v", waited)
		}
		if diff := cmp.Diff([][]int{{0}, {1}, {2}}, s.batches); diff != "" {
			t.Errorf("commits (-want +got):\n%s", diff)
		}
		g.Close()
	})
}

func TestBusyGroupSharesCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{gate: make(chan struct{})}
		g := newGroup(t, s, roomy(1))
		var results []<-chan error
		for i := range 5 {
			results = append(results, do(t.Context(), g, i, 1))
		}
		s.gate <- struct{}{}
		synctest.Wait()
		results = append(results, do(t.Context(), g, 5, 1))
		s.gate <- struct{}{}
		s.gate <- struct{}{}
		for i, result := range results {
			if err := <-result; err != nil {
				t.Errorf("item %d: %v", i, err)
			}
		}
		if diff := cmp.Diff([][]int{{0}, {1, 2, 3, 4}, {5}}, s.batches); diff != "" {
			t.Errorf("commits (-want +got):\n%s", diff)
		}
	})
}

// Callers that come again as soon as they are answered come together.
func TestAnsweredCallersJoin(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const callers, each = 10, 100
	synctest.Test(t, func(t *testing.T) {
		var commits atomic.Int64
		g, err := New(func(context.Context, []int) []error {
			commits.Add(1)
			time.Sleep(time.Millisecond)
			return nil
		}, roomy(1))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range each {
					if err := g.Do(t.Context(), 1, 1); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := commits.Load(); got > each*3/2 {
			t.Errorf("%d commits for %d items of %d callers, want about %d", got, callers*each, callers, each)
		}
	})
}

func TestCaps(t *testing.T) {
	for _, test := range []struct {
		name  string
		opts  Options
		sizes []int
		want  [][]int
	}{
		{"items", Options{MaxItems: 2, MaxBytes: 100, InFlight: 1}, []int{1, 1, 1, 1, 1, 1}, [][]int{{0}, {1, 2}, {3, 4}, {5}}},
		{"bytes", Options{MaxItems: 9, MaxBytes: 10, InFlight: 1}, []int{1, 5, 5, 5, 4, 2}, [][]int{{0}, {1, 2}, {3, 4}, {5}}},
		{"bytes_exactly", Options{MaxItems: 9, MaxBytes: 10, InFlight: 1}, []int{1, 10, 10}, [][]int{{0}, {1}, {2}}},
		{"oversize_is_alone", Options{MaxItems: 9, MaxBytes: 10, InFlight: 1}, []int{1, 1, 11, 1, 1}, [][]int{{0}, {1}, {2}, {3, 4}}},
		{"oversize_first", Options{MaxItems: 9, MaxBytes: 10, InFlight: 1}, []int{99, 99, 99}, [][]int{{0}, {1}, {2}}},
		{"no_size", Options{MaxItems: 9, MaxBytes: 1, InFlight: 1}, []int{0, 0, 0, 0}, [][]int{{0}, {1, 2, 3}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &store{gate: make(chan struct{})}
				g := newGroup(t, s, test.opts)
				var results []<-chan error
				for i, size := range test.sizes {
					results = append(results, do(t.Context(), g, i, size))
				}
				close(s.gate)
				for i, result := range results {
					if err := <-result; err != nil {
						t.Errorf("item %d: %v", i, err)
					}
				}
				if diff := cmp.Diff(test.want, s.batches); diff != "" {
					t.Errorf("commits (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestInFlight(t *testing.T) {
	for _, inFlight := range []int{1, 3} {
		t.Run(fmt.Sprint(inFlight), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var running, most atomic.Int64
				g, err := New(func(context.Context, []int) []error {
					if n := running.Add(1); n > most.Load() {
						most.Store(n)
					}
					time.Sleep(time.Second)
					running.Add(-1)
					return nil
				}, Options{MaxItems: 2, MaxBytes: 100, InFlight: inFlight})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				var wg sync.WaitGroup
				for i := range 24 {
					wg.Go(func() {
						if err := g.Do(t.Context(), i, 1); err != nil {
							t.Errorf("item %d: %v", i, err)
						}
					})
				}
				wg.Wait()
				if most.Load() != int64(inFlight) {
					t.Errorf("%d commits ran at once, want %d", most.Load(), inFlight)
				}
				// 24 items in pairs, a second each; the first commits may have
				// taken one item only.
				if least, took := 12*time.Second/time.Duration(inFlight), time.Since(start); took < least || took > least+time.Second {
					t.Errorf("24 items took %v, want about %v", took, least)
				}
			})
		})
	}
}

func TestErrorsPerItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		odd := errors.New("odd")
		s := &store{gate: make(chan struct{}), fail: func(item int) error {
			if item%2 == 1 {
				return odd
			}
			return nil
		}}
		g := newGroup(t, s, roomy(1))
		var results []<-chan error
		for i := range 7 {
			results = append(results, do(t.Context(), g, i, 1))
		}
		close(s.gate)
		for i, result := range results {
			var want error
			if i%2 == 1 {
				want = odd
			}
			if err := <-result; !errors.Is(err, want) {
				t.Errorf("item %d: %v, want %v", i, err, want)
			}
		}
	})
}

func TestCancelledCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{gate: make(chan struct{})}
		g := newGroup(t, s, roomy(1))
		inCommit, leaveCommit := context.WithCancel(t.Context())
		first := do(inCommit, g, 0, 1)
		queued, leaveQueue := context.WithCancel(t.Context())
		second := do(queued, g, 1, 1)
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		third := do(late, g, 2, 1)
		fourth := do(t.Context(), g, 3, 1)

		leaveCommit()
		leaveQueue()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while committing: %v, want context.Canceled", err)
		}
		if err := <-second; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while waiting: %v, want context.Canceled", err)
		}
		start := time.Now()
		if err := <-third; !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("late by %v: %v, want context.DeadlineExceeded after 1s", time.Since(start), err)
		}
		if err := s.ctxs[0].Err(); err != nil {
			t.Errorf("the commit's context ended with its caller's: %v", err)
		}
		close(s.gate)
		if err := <-fourth; err != nil {
			t.Errorf("neighbour: %v", err)
		}
		// Who left while waiting is not committed any more.
		if diff := cmp.Diff([][]int{{0}, {3}}, s.batches); diff != "" {
			t.Errorf("commits (-want +got):\n%s", diff)
		}
		if err := g.Do(inCommit, 9, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("Do with an ended context: %v, want context.Canceled", err)
		}
		// All who wait may leave: the group goes on.
		if err := g.Do(t.Context(), 4, 1); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}

// TestFinish: a caller whose item is being committed gets the commit's result,
// one whose item waits leaves at once.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		s := &store{gate: make(chan struct{}), fail: func(int) error { return failed }}
		o := roomy(1)
		o.Finish = true
		g := newGroup(t, s, o)
		ctx, cancel := context.WithCancel(t.Context())
		committing, queued := do(ctx, g, 0, 1), do(ctx, g, 1, 1)
		cancel()
		if err := <-queued; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while waiting: %v, want context.Canceled", err)
		}
		synctest.Wait()
		select {
		case err := <-committing:
			t.Errorf("Do returned %v before its commit", err)
		default:
		}
		close(s.gate)
		if err := <-committing; !errors.Is(err, failed) {
			t.Errorf("cancelled while committing: %v, want the commit's error", err)
		}
	})
}

func TestAllWaitingLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{gate: make(chan struct{})}
		g := newGroup(t, s, roomy(1))
		first := do(t.Context(), g, 0, 1)
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 5 {
			do(ctx, g, 1+i, 1)
		}
		cancel()
		close(s.gate)
		<-first
		synctest.Wait()
		if err := g.Do(t.Context(), 9, 1); err != nil {
			t.Errorf("Do: %v", err)
		}
		g.Close()
		if diff := cmp.Diff([][]int{{0}, {9}}, s.batches); diff != "" {
			t.Errorf("commits (-want +got):\n%s", diff)
		}
	})
}

func TestCommitContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{gate: make(chan struct{})}
		g := newGroup(t, s, roomy(1))
		in := func(d time.Duration) context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			t.Cleanup(cancel)
			return ctx
		}
		do(in(time.Minute), g, 0, 1)
		do(in(time.Hour), g, 1, 1)
		do(in(2*time.Hour), g, 2, 1)
		s.gate <- struct{}{}
		synctest.Wait()
		do(in(time.Hour), g, 3, 1)
		do(t.Context(), g, 4, 1)
		s.gate <- struct{}{}
		synctest.Wait()
		for i, want := range []time.Duration{time.Minute, 2 * time.Hour, 0} {
			deadline, ok := s.ctxs[i].Deadline()
			if ok != (want > 0) || ok && time.Until(deadline) != want {
				t.Errorf("commit of %d has %v left (%v), want %v", s.batches[i], time.Until(deadline), ok, want)
			}
		}
		close(s.gate)
		g.Close()
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{gate: make(chan struct{})}
		g := newGroup(t, s, Options{MaxItems: 2, MaxBytes: 100, InFlight: 2})
		var results []<-chan error
		for i := range 9 {
			results = append(results, do(t.Context(), g, i, 1))
		}
		closed := make(chan struct{})
		go func() { g.Close(); close(closed) }()
		synctest.Wait()
		if err := g.Do(t.Context(), 100, 1); !errors.Is(err, ErrClosed) {
			t.Errorf("Do while closing: %v, want ErrClosed", err)
		}
		select {
		case <-closed:
			t.Error("Close did not wait for what was put")
		default:
		}
		close(s.gate)
		<-closed
		for i, result := range results {
			select {
			case err := <-result:
				if err != nil {
					t.Errorf("item %d: %v", i, err)
				}
			case <-time.After(time.Second):
				t.Errorf("item %d was not committed before Close returned", i)
			}
		}
		if err := g.Do(t.Context(), 101, 1); !errors.Is(err, ErrClosed) {
			t.Errorf("Do after Close: %v, want ErrClosed", err)
		}
		g.Close()
	})
}

// TestRealConcurrency is for the race detector: nothing is lost and nothing
// comes twice with callers that come and go in real time.
func TestRealConcurrency(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[int]int{}
	g, err := New(func(_ context.Context, items []int) []error {
		mu.Lock()
		defer mu.Unlock()
		for _, item := range items {
			seen[item]++
		}
		return nil
	}, Options{MaxItems: 7, MaxBytes: 50, InFlight: 3})
	if err != nil {
		t.Fatal(err)
	}
	const items = 4000
	acknowledged := make([]bool, items)
	var wg sync.WaitGroup
	for w := range 40 {
		wg.Go(func() {
			for i := w; i < items; i += 40 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 0 {
					go cancel()
				}
				err := g.Do(ctx, i, i%11)
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("item %d: %v", i, err)
				}
				acknowledged[i] = err == nil
				cancel()
			}
		})
	}
	wg.Wait()
	g.Close()
	for i, ok := range acknowledged {
		if n := seen[i]; n > 1 || ok && n == 0 {
			t.Errorf("item %d was committed %d times, acknowledged: %v", i, n, ok)
		}
	}
}

// BenchmarkDo compares a commit for each item with shared ones, for a store
// whose commits take a millisecond each, one at a time.
func BenchmarkDo(b *testing.B) {
	for _, test := range []struct {
		name     string
		maxItems int
	}{{"alone", 1}, {"shared", 1000}} {
		for _, callers := range []int{1, 64, 500} {
			b.Run(fmt.Sprintf("%s/callers=%d", test.name, callers), func(b *testing.B) {
				g, err := New(func(context.Context, []int) []error {
					time.Sleep(time.Millisecond)
					return nil
				}, Options{MaxItems: test.maxItems, MaxBytes: 1 << 20, InFlight: 1})
				if err != nil {
					b.Fatal(err)
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range callers {
					wg.Go(func() {
						for next.Add(1) <= int64(b.N) {
							if err := g.Do(b.Context(), 1, 1); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
			})
		}
	}
}

// BenchmarkOverhead is what the group itself costs when commits are free.
func BenchmarkOverhead(b *testing.B) {
	g, err := New(func(context.Context, []int) []error { return nil }, roomy(1))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Do(b.Context(), 1, 1); err != nil {
			b.Fatal(err)
		}
	}
}
