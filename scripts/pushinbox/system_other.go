//go:build !unix

package main

import "os"

// columnsOf returns 0, as nothing is known of the width, or false when f is not a
// terminal.
func columnsOf(f *os.File) (int, bool) {
	info, err := f.Stat()
	return 0, err == nil && info.Mode()&os.ModeCharDevice != 0
}
