package asleep_test

import (
	"testing"
	"time"

	"example.com/pushinbox/testkit/asleep"
)

// TestAfter holds that both clocks say what they say after sleep.
func TestAfter(t *testing.T) {
	t.Parallel()
	began := time.Now()
	now := asleep.After(time.Hour)
	if passed := now.Sub(began); passed < 0 || passed > time.Minute {
		t.Errorf("%v passed by the clock that stood still", passed)
	}
	if passed := now.Round(0).Sub(began.Round(0)); passed < time.Hour || passed > time.Hour+time.Minute {
		t.Errorf("%v passed by the clock on the wall", passed)
	}
}
