// Package asleep has a test's clock be that of a machine that slept: on Linux the clock
// that nobody sets, by which Go compares times, stands still meanwhile.
package asleep

import (
	"time"
	"unsafe"
)

// After returns the time now on a machine that slept so long: the clock on the wall went
// on, and the other one did not. In a bubble of testing/synctest there is no other one.
//
// There is no other way to such a time than into the struct time.Time, whose second word
// is the reading of that clock, in nanoseconds.
func After(slept time.Duration) time.Time {
	now := time.Now().Add(slept)
	if now == now.Round(0) {
		return now
	}
	*(*int64)(unsafe.Add(unsafe.Pointer(&now), unsafe.Sizeof(uint64(0)))) -= int64(slept)
	return now
}
