package timedqueue_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/timedqueue"
)

func TestDeliver(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	q := timedqueue.New[string](func() time.Time { return now })
	var got []string
	deliver := func() (time.Time, bool) {
		return q.Deliver(t.Context(), func(s string) {
			got = append(got, s)
			if s == "repeats" {
				q.Add("repeated", now)
			}
		})
	}
	if next, ok := deliver(); ok {
		t.Errorf("an empty queue has an item due at %v", next)
	}
	q.Add("late", now.Add(2*time.Second))
	q.Add("first", now)
	q.Add("removed", now)
	q.Add("repeats", now)
	q.Add("later", now.Add(time.Minute))
	if removed := q.Remove(func(s string) bool { return s == "removed" }); !slices.Equal(removed, []string{"removed"}) {
		t.Errorf("removed %q", removed)
	}
	if next, ok := deliver(); !ok || !next.Equal(now.Add(2*time.Second)) {
		t.Errorf("the next item is due at %v, %v", next, ok)
	}
	now = now.Add(time.Minute)
	if next, ok := deliver(); ok {
		t.Errorf("another item is due at %v", next)
	}
	if diff := cmp.Diff([]string{"first", "repeats", "repeated", "late", "later"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestRun fails when an item waits for another one's call, when a call is
// forgotten, or when more run at the same time than the limit allows.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		q := timedqueue.New[int](time.Now)
		started := make(chan time.Duration, 10)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			q.Run(ctx, 2, func(int) {
				started <- time.Since(began)
				time.Sleep(10 * time.Second)
			})
			close(ended)
		}()
		synctest.Wait() // it waits for an item
		for i := range 3 {
			q.Add(i, began.Add(time.Duration(i)*time.Second))
		}
		var got []time.Duration
		for range 3 {
			got = append(got, <-started)
		}
		if diff := cmp.Diff([]time.Duration{0, time.Second, 10 * time.Second}, got); diff != "" {
			t.Error(diff)
		}
		cancel()
		<-ended
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("Run returned after %v, before its calls", took)
		}
	})
}
