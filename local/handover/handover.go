// Package handover gives a server connections that were accepted, and read from, before:
// by what looked at their first bytes.
package handover

import (
	"bytes"
	"net"
)

// Listener is a net.Listener whose connections are handed to it. Create one with Listen.
type Listener struct {
	conns chan net.Conn
	done  <-chan struct{}
	addr  net.Addr
	end   func()
}

// Listen returns a Listener that accepts until done is closed. Its Close calls end.
func Listen(done <-chan struct{}, addr net.Addr, end func()) *Listener {
	return &Listener{make(chan net.Conn), done, addr, end}
}

// Hand waits until c is accepted, or closes it when done is closed.
func (l *Listener) Hand(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	}
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close calls what Listen was given.
func (l *Listener) Close() error {
	l.end()
	return nil
}

// Addr returns what Listen was given.
func (l *Listener) Addr() net.Addr { return l.addr }

// WithAhead returns c as if the bytes in ahead, which were read from it, were not.
func WithAhead(c net.Conn, ahead []byte) net.Conn {
	if len(ahead) == 0 {
		return c
	}
	return &aheadConn{c, bytes.NewReader(bytes.Clone(ahead))}
}

type aheadConn struct {
	net.Conn
	ahead *bytes.Reader
}

// Read reads the bytes that were read already first.
func (c *aheadConn) Read(b []byte) (int, error) {
	if c.ahead.Len() > 0 {
		return c.ahead.Read(b)
	}
	return c.Conn.Read(b)
}

// CloseWrite says that nothing more is sent.
func (c *aheadConn) CloseWrite() error { return CloseWrite(c.Conn) }

// CloseWrite says on c that nothing more is sent. It closes what cannot say that.
func CloseWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
