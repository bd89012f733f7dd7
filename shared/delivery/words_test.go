package delivery

import (
	"math"
	"testing"
)

func TestPercent(t *testing.T) {
	t.Parallel()
	for share, want := range map[float64]string{
		0: "0 %", 0.0001: "under 0.1 %", 0.0004: "under 0.1 %", 0.0009999: "under 0.1 %", 0.001: "0.1 %", 0.1236: "12.4 %", 0.29: "29 %", 0.5: "50 %",
		0.88: "88 %", 0.999: "99.9 %", 0.9995: "99.9 %", 0.99996: "99.9 %", math.Nextafter(1, 0): "99.9 %", 1: "100 %",
	} {
		if got := Percent(share); got != want {
			t.Errorf("Percent(%v) = %q, want %q", share, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1: "-1", -123: "-123", -1234: "-1,234", math.MaxInt64: "9,223,372,036,854,775,807",
	} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0 pushes", 1: "1 push", 2: "2 pushes", 1000: "1,000 pushes"} {
		if got := Plural(n, "push", "pushes"); got != want {
			t.Errorf("Plural(%d) = %q, want %q", n, got, want)
		}
	}
}
