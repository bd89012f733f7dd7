//go:build !linux && !darwin

package stack

// freeBytes returns that the room on the disk is not known.
func freeBytes(string) (free uint64, known bool) { return 0, false }
