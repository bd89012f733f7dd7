//go:build linux || darwin

package stack

import "golang.org/x/sys/unix"

// freeBytes returns how much room this user has on the disk of a directory, or false
// where that is not known.
func freeBytes(dir string) (free uint64, known bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil || s.Bsize <= 0 {
		return 0, false
	}
	return uint64(s.Bavail) * uint64(s.Bsize), true
}
