package delivery

import (
	"math"
	"strconv"
)

// Percent writes a share, 0 to 1, for people. What is not all is never written as 100 %,
// and what is not nothing never as 0 %.
func Percent(share float64) string {
	tenths := math.Round(share * 1000)
	switch {
	case share > 0 && share < 0.001:
		return "under 0.1 %"
	case share < 1:
		tenths = min(tenths, 999)
	}
	return strconv.FormatFloat(tenths/10, 'f', -1, 64) + " %"
}

// Count writes a number of things for people, with commas.
func Count[N int | int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Plural writes a number of things for people, as Count does, with their name.
func Plural[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}
