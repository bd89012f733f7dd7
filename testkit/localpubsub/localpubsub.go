// Package localpubsub serves the local Pub/Sub to a test at an address of its own, as
// pushinbox local does, without what else that has.
package localpubsub

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pubsubserver/rest"
	"example.com/pushinbox/local/pushfake"
)

// Serve opens and serves a Pub/Sub until stop is called, at the latest when the test
// ends, and returns it and its address, HOST:PORT. It pushes with dispatchers, where
// these are not nil; pushes under way are cut off at the end.
func Serve(tb testing.TB, o pubsubserver.Options, dispatchers *pushfake.Dispatchers) (server *pubsubserver.Server, address string, stop func()) {
	tb.Helper()
	if dispatchers != nil {
		o.Push = dispatchers.Start
	}
	server, err := pubsubserver.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	end := rest.Start([]net.Listener{l}, rest.Services{Publisher: server, Subscriber: server, Policies: server}, nil, nil)
	stop = sync.OnceFunc(func() {
		served := end()
		if dispatchers != nil {
			cut, cutNow := context.WithCancel(context.Background())
			cutNow()
			dispatchers.Shutdown(cut)
		}
		if err := errors.Join(served, server.Close()); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(stop)
	return server, l.Addr().String(), stop
}
