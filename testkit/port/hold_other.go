//go:build !linux

package port

import "net"

// Hold returns a free port of 127.0.0.1. Only Linux can keep it from others.
func Hold() (port int, release func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, err
	}
	return l.Addr().(*net.TCPAddr).Port, func() {}, l.Close()
}
