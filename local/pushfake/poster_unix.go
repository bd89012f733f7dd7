//go:build unix

package pushfake

import (
	"errors"
	"net"
	"syscall"
)

// knowsClosed is whether closedByPeer can tell.
const knowsClosed = true

// closedByPeer reports whether an idle connection is of no more use: its other
// side has closed it, or has sent what nobody asked for.
func closedByPeer(c net.Conn) bool {
	conn, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		open = errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK)
		return true // do not wait
	})
	return err != nil || !open
}
