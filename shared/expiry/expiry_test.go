package expiry_test

import (
	"testing"
	"time"

	"example.com/pushinbox/shared/expiry"
	"example.com/pushinbox/testkit/asleep"
)

func TestIsOver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		now, end time.Time
		want     bool
	}{
		"before":                     {now, now.Add(time.Minute), false},
		"at_its_end":                 {now, now, true},
		"after":                      {now, now.Add(-time.Minute), true},
		"after_sleep":                {asleep.After(time.Hour), now.Add(time.Minute), true},
		"after_a_sleep_too_short":    {asleep.After(time.Second), now.Add(time.Minute), false},
		"clock_on_the_wall_set_back": {asleep.After(-time.Hour), now.Add(-time.Nanosecond), true},
	} {
		if got := expiry.IsOver(c.now, c.end); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
