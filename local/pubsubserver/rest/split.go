package rest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/googleapis/gax-go/v2"

	"example.com/pushinbox/local/handover"
)

const (
	// preface is how every connection of HTTP/2 begins, and no other.
	preface = "PRI * HTTP/2.0"
	// prefaceTimeout is how long a connection may take until its first bytes
	// tell which protocol it is.
	prefaceTimeout = 5 * time.Second
	// maxUndecided is how many connections may be waited for at a time.
	maxUndecided = 1024
)

// splitter hands each connection of a listener to gRPC or to REST by its first
// bytes. A connection that sends none does not hold up the others.
type splitter struct {
	grpc, http *handover.Listener

	listener  net.Listener
	undecided chan struct{} // a token for each connection that waits for its first bytes
	ctx       context.Context
	cancel    context.CancelFunc
}

func newSplitter(l net.Listener) *splitter {
	s := &splitter{listener: l, undecided: make(chan struct{}, maxUndecided)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.grpc = handover.Listen(s.ctx.Done(), l.Addr(), s.close)
	s.http = handover.Listen(s.ctx.Done(), l.Addr(), s.close)
	return s
}

// close closes the listener and every connection that was not passed on.
func (s *splitter) close() {
	s.cancel()
	_ = s.listener.Close() // nothing can be done about it
}

// run accepts connections until the splitter is closed, and then returns nil.
func (s *splitter) run() error {
	for {
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
		case s.ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			_ = gax.Sleep(s.ctx, 50*time.Millisecond) // until some file is closed, or s
			continue
		default:
			return err
		}
		select {
		case s.undecided <- struct{}{}:
			go s.decide(conn)
		default:
			_ = conn.Close() // too many wait already
		}
	}
}

// decide reads a connection's first bytes and passes it on.
func (s *splitter) decide(conn net.Conn) {
	stop := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(prefaceTimeout)) // Read reports what is wrong
	first, err := readFirst(conn)
	<-s.undecided
	if err != nil {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	to := s.http
	if string(first) == preface {
		to = s.grpc
	}
	to.Hand(handover.WithAhead(conn, first))
}

// readFirst reads until the bytes are the preface or cannot become it.
func readFirst(conn net.Conn) ([]byte, error) {
	first := make([]byte, 0, len(preface))
	for bytes.HasPrefix([]byte(preface), first) && len(first) < len(preface) {
		n, err := conn.Read(first[len(first):cap(first)])
		if err != nil {
			return nil, err
		}
		first = first[:len(first)+n]
	}
	return first, nil
}
