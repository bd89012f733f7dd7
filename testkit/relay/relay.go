// Package relay stands between a client and a server, so that a test can cut
// their connections.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/testkit/port"
)

// Relay passes TCP connections on, until it is cut. Restore may be called
// from the test's goroutine only.
type Relay struct {
	tb   testing.TB
	host string

	mu       sync.Mutex
	target   string
	listener net.Listener
	conns    map[net.Conn]struct{}
}

// New returns a relay to the server at target (host:port), on a port that is its
// own until the test ends.
func New(tb testing.TB, target string) *Relay {
	tb.Helper()
	r := &Relay{tb: tb, host: net.JoinHostPort("127.0.0.1", port.Reserve(tb)), conns: make(map[net.Conn]struct{})}
	tb.Cleanup(r.Cut)
	r.Restore(target)
	return r
}

// Host returns host:port of the relay, which stays the same.
func (r *Relay) Host() string { return r.host }

// Restore ends a Cut; from now on connections go to target.
func (r *Relay) Restore(target string) {
	r.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var l net.Listener
	// The last listener's socket closes when its Accept has returned.
	err := port.Until(ctx, func() (err error) {
		l, err = net.Listen("tcp", r.host)
		return err
	})
	if err != nil {
		r.tb.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.listener = target, l
	go r.accept(l)
}

// Cut closes every connection and refuses new ones.
func (r *Relay) Cut() {
	r.mu.Lock()
	if r.listener != nil {
		_ = r.listener.Close()
		r.listener = nil
	}
	r.mu.Unlock()
	r.Drop()
}

// Drop ends every connection and accepts new ones. It resets them, as a dying
// server does, which leaves no socket behind that would keep the port busy.
func (r *Relay) Drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(r.conns)
}

// Lose passes nothing more on over the connections there are, and does not end them: so
// it is with those that a router has forgotten. New ones are passed on.
func (r *Relay) Lose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.SetDeadline(time.Unix(1, 0))
	}
}

func (r *Relay) accept(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go r.pass(l, in)
	}
}

func (r *Relay) pass(l net.Listener, in net.Conn) {
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	out, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		_ = in.Close()
		return
	}
	r.mu.Lock()
	if r.listener != l { // cut while dialling
		r.mu.Unlock()
		_, _ = in.Close(), out.Close()
		return
	}
	r.conns[in], r.conns[out] = struct{}{}, struct{}{}
	r.mu.Unlock()
	var once sync.Once
	end := func() {
		_, _ = in.Close(), out.Close()
		r.mu.Lock()
		delete(r.conns, in)
		delete(r.conns, out)
		r.mu.Unlock()
	}
	pass := func(to, from net.Conn) {
		if _, err := io.Copy(to, from); !errors.Is(err, os.ErrDeadlineExceeded) {
			once.Do(end)
		}
	}
	go pass(out, in)
	go pass(in, out)
}
