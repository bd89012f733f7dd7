package wallclock

import (
	"testing"
	"time"

	"example.com/pushinbox/testkit/asleep"
)

// TestSet sets the clock on the wall; that which nobody sets goes on as it did.
func TestSet(t *testing.T) {
	t.Parallel()
	var ahead time.Duration
	c := New(func() time.Time { return asleep.After(ahead) })
	expect := func(name string, wantNow, wantBelieved, wantBack time.Duration) {
		t.Helper()
		back := c.Back()
		now, believed := c.Read()
		for what, d := range map[string]time.Duration{
			"now": time.Until(now) - wantNow, "believed": time.Until(believed) - wantBelieved, "back": back - wantBack,
		} {
			if d.Abs() > time.Minute {
				t.Errorf("%s: %s is off by %v", name, what, d)
			}
		}
	}
	expect("at first", 0, 0, 0)
	ahead = 4 * time.Minute
	expect("ahead a little", 4*time.Minute, 4*time.Minute, 0)
	ahead = 720 * time.Hour
	expect("ahead a month", 720*time.Hour, 4*time.Minute, 0)
	if !c.Warn() || c.Warn() {
		t.Error("it does not warn once")
	}
	ahead = 0
	expect("set right", 0, 0, 720*time.Hour)
	expect("again", 0, 0, 0)
	ahead = -time.Hour
	expect("back an hour", -time.Hour, -time.Hour, time.Hour)
	ahead = 0
	expect("ahead of that", 0, -time.Hour, 0)
	c.doubted = c.doubted.Add(-doubt)
	expect("an hour later", 0, 0, 0)
}
