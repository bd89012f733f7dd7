package port_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"example.com/pushinbox/testkit/port"
)

func TestReservedPortCanBeListenedOn(t *testing.T) {
	t.Parallel()
	reserved := port.Reserve(t)
	for _, host := range []string{"127.0.0.1", ""} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, reserved))
		if err != nil {
			t.Fatal(err)
		}
		if err := port.Listening(t.Context(), reserved); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReservedPortsDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		p := port.Reserve(t)
		if seen[p] {
			t.Errorf("port %s was reserved twice", p)
		}
		seen[p] = true
	}
}

func TestListeningEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := port.Listening(ctx, port.Reserve(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody listens, and the error is %v", err)
	}
}
