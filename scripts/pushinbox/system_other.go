//go:build !unix

package main

import "os"

// columnsOf returns 0, as nothing is known of the width, or false when f is not a
// terminal.
func columnsOf(f *os.File) (int, bool) {
	info, err := f.Stat()
	return 0, err == nil && info.Mode()&os.ModeCharDevice != 0
}

// lock does nothing: only Unix has a lock that a kill takes away.
func lock(*os.File) error { return nil }
