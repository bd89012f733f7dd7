// Package port gives tests a port for a server that runs in another process, or
// that does not say where it listens, and waits for that server.
package port

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/googleapis/gax-go/v2"
)

// Reserve returns a free port of 127.0.0.1, which no other program gets from
// the system until the test ends. A server may listen on it, more than once.
func Reserve(tb testing.TB) string {
	tb.Helper()
	n, release, err := Hold()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(release)
	return strconv.Itoa(n)
}

// Until calls done until it returns nil, first after a millisecond, then less
// and less often. It returns the last error when ctx ends.
func Until(ctx context.Context, done func() error) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := done()
		if err == nil {
			return nil
		}
		if gax.Sleep(ctx, pause) != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// Listening returns when a server on a port of 127.0.0.1 accepts connections,
// or an error when ctx ends before.
func Listening(ctx context.Context, port string) error {
	return Until(ctx, func() error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
