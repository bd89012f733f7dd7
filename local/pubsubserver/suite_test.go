package pubsubserver_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/localpubsub"
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
		_, address, _ := localpubsub.Serve(t, pubsubserver.Options{Clock: clock}, dispatchers)
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return pubsubtest.Target{Conn: conn, Project: "local-project", Advance: clock.Advance}
	})
}
