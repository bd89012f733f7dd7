package pushfake

import (
	"testing"
	"time"
)

// TestPaceAsDocumented has both examples of Pub/Sub's documentation of push
// backoff: five messages a second, of which one or all are refused.
func TestPaceAsDocumented(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		refused     func(n int) bool // the n-th request
		least, most time.Duration
	}{
		"one_of_five":       {func(n int) bool { return n%5 == 0 }, 400 * time.Millisecond, 650 * time.Millisecond},
		"one_of_six":        {func(n int) bool { return n%6 == 0 }, 350 * time.Millisecond, 650 * time.Millisecond},
		"all":               {func(int) bool { return true }, 30 * time.Second, time.Minute},
		"one_of_a_hundred":  {func(n int) bool { return n%100 == 0 }, 200 * time.Millisecond, 210 * time.Millisecond},
		"none":              {func(int) bool { return false }, 200 * time.Millisecond, 200 * time.Millisecond},
		"one_of_six_at_200": {func(n int) bool { return n > 200 && n%6 == 0 }, 300 * time.Millisecond, 650 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Unix(1_800_000_000, 0)
			now, b := begun, pushBackoff{}
			const requests, counted = 600, 300
			var from time.Time
			for n := 1; n <= requests; n++ {
				if published := begun.Add(time.Duration(n) * 200 * time.Millisecond); now.Before(published) {
					now = published
				}
				for start := b.start(now); now.Before(start); start = b.start(now) {
					now = start
				}
				if n == counted {
					from = now
				}
				b.started = now
				if tc.refused(n) {
					b.failed(b.stops, now)
				} else {
					b.acked(b.stops, now)
				}
			}
			if each := now.Sub(from) / (requests - counted); each < tc.least || each > tc.most {
				t.Errorf("one delivery in %s, want %s to %s", each, tc.least, tc.most)
			}
		})
	}
}
