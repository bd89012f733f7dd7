package pubsubtest_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/pubsubtest"
)

func TestEmulator(t *testing.T) {
	t.Parallel()
	conn, err := grpc.NewClient(emulator.PubSub(t), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	target := pubsubtest.Target{Conn: conn, Project: emulator.Project(), Differences: pubsubtest.Emulator}
	pubsubtest.Run(t, func(*testing.T) pubsubtest.Target { return target })
}
