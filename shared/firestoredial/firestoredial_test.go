package firestoredial

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
)

// TestReconnectDelay counts the attempts to connect during an outage of five
// minutes: with gRPC's own limit of two minutes they would be a handful.
func TestReconnectDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []time.Time
		options := append(dialOptions("emulator"), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			attempts = append(attempts, time.Now())
			return nil, errors.New("the outage")
		}))
		conn, err := grpc.NewClient("passthrough:///firestore", options...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Connect()
		const outage = 5 * time.Minute
		time.Sleep(outage)
		synctest.Wait()
		if least := int(outage/MaxReconnectDelay) / 2; len(attempts) < least {
			t.Errorf("%d attempts to connect in %v, want at least %d", len(attempts), outage, least)
		}
		for i := 1; i < len(attempts); i++ {
			// gRPC varies the delay by a fifth.
			if delay := attempts[i].Sub(attempts[i-1]); delay > MaxReconnectDelay*6/5 {
				t.Errorf("%v between attempts %d and %d, want at most %v", delay, i-1, i, MaxReconnectDelay)
			}
		}
	})
}
