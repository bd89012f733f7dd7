// Package expiry compares the end of something that is kept with the time.
package expiry

import "time"

// IsOver reports whether the end of something that is kept has come, by either of the
// system's clocks: the one that nobody sets stands still, on Linux, while the machine
// sleeps, and the one on the wall can be set back.
func IsOver(now, end time.Time) bool { return !now.Before(end) || !now.Round(0).Before(end.Round(0)) }
