package pubsubserver_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pubsubserver/rest"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/pubsubtest"
)

// TestConformance holds the server to what Google documents. See
// docs/fidelity.md.
func TestConformance(t *testing.T) {
	t.Parallel()
	// One for all: its key costs more than everything else here.
	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		t.Fatal(err)
	}
	pubsubtest.Run(t, func(t *testing.T) pubsubtest.Target {
		clock := new(pubsubtest.Clock)
		dispatchers := pushfake.NewDispatchers(&pushfake.Options{Issuer: issuer, Clock: clock})
		server, err := pubsubserver.Open(pubsubserver.Options{Clock: clock, Push: dispatchers.Start})
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- rest.Serve(ctx, l, rest.Services{Publisher: server, Subscriber: server, Policies: server}, nil)
		}()
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			conn.Close()
			cancel()
			cut, cutNow := context.WithCancel(context.Background())
			cutNow()
			dispatchers.Shutdown(cut)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
		return pubsubtest.Target{Conn: conn, Project: "local-project", Advance: clock.Advance}
	})
}
