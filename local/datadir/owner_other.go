//go:build !unix

package datadir

import "os"

// Windows has neither modes nor numbered owners: a user's folders are private to
// begin with.
const (
	noFollow = 0
	hasModes = false
)

func trusted(os.FileInfo) bool     { return true }
func private(os.FileInfo) error    { return nil }
func othersWrite(os.FileInfo) bool { return false }

// lock does nothing: Windows does not let a file be renamed that is open.
func lock(*os.File) error { return nil }
