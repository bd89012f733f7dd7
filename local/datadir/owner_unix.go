//go:build unix

package datadir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const (
	noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	hasModes = true
)

func owner(info os.FileInfo) (uid, gid int) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, -1
	}
	return int(s.Uid), int(s.Gid)
}

// trusted reports whether this user or root owns the file.
func trusted(info os.FileInfo) bool {
	uid, _ := owner(info)
	return uid == os.Geteuid() || uid == 0
}

// private returns what is wrong with a directory that should be this user's only.
func private(info os.FileInfo) error {
	if uid, _ := owner(info); uid != os.Geteuid() {
		return fmt.Errorf("belongs to user %d and you are user %d; run as its owner, or choose another directory with --data", uid, os.Geteuid())
	}
	if info.Mode()&0o022 != 0 {
		return errors.New("can be written to by others; take that right away (chmod go-w), or choose another directory with --data")
	}
	return nil
}

// othersWrite reports whether users other than this one and root can create and
// replace files in the directory. The user's own group counts as the user: many
// systems give everybody a group of their own, and its right to write.
func othersWrite(info os.FileInfo) bool {
	_, gid := owner(info)
	return info.Mode()&0o002 != 0 || info.Mode()&0o020 != 0 && gid != os.Getegid() && gid != 0
}

// lock takes the lock that bbolt takes, until the file is closed.
func lock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
