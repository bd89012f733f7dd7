package pushfake

import (
	"context"
	"errors"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/testkit/port"
	"example.com/pushinbox/testkit/relay"
)

// TestEmulatorNumbersAgain has pstest, which numbers from 0 in every run, in the
// place of Google's emulator.
func TestEmulatorNumbersAgain(t *testing.T) {
	t.Parallel()
	server := pstest.NewServer()
	way := relay.New(t, server.Addr)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e, err := DialEmulator(ctx, way.Host(), "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	const topic, subscription = "projects/p/topics/t", "projects/p/subscriptions/s"
	seen := make(map[string]bool)
	// send publishes a message and pulls it.
	send := func() {
		t.Helper()
		published, err := e.Client.TopicAdminClient.Publish(ctx, &pubsubpb.PublishRequest{Topic: topic, Messages: []*pubsubpb.PubsubMessage{{Data: []byte("x")}}})
		if err != nil {
			t.Fatal(err)
		}
		pulled, err := e.Client.SubscriptionAdminClient.Pull(ctx, &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: 10})
		if err != nil || len(pulled.ReceivedMessages) != 1 {
			t.Fatal(pulled, err)
		}
		id := pulled.ReceivedMessages[0].Message.MessageId
		if published.MessageIds[0] != id || seen[id] {
			t.Errorf("published as %v, pulled as %s, which was seen before: %v", published.MessageIds, id, seen[id])
		}
		seen[id] = true
		if err := e.Client.SubscriptionAdminClient.Acknowledge(ctx, &pubsubpb.AcknowledgeRequest{
			Subscription: subscription, AckIds: []string{pulled.ReceivedMessages[0].AckId},
		}); err != nil {
			t.Fatal(err)
		}

	}
	create := func() {
		t.Helper()
		_, err1 := e.Client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: topic})
		_, err2 := e.Client.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{Name: subscription, Topic: topic})
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
	}
	create()
	send()
	first, err := e.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	way.Drop() // which is no restart
	if err := port.Until(ctx, func() error {
		run, err := e.Run(ctx)
		if err == nil && run != first {
			t.Errorf("after a lost connection the run is %d, not %d", run, first)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	send()
	way.Cut()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := port.Until(ctx, func() error {
		if _, err := e.Run(ctx); status.Code(err) != codes.Unavailable {
			return errors.New("not yet down")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	server = pstest.NewServer()
	t.Cleanup(func() { _ = server.Close() })
	way.Restore(server.Addr)
	if err := port.Until(ctx, func() error { _, err := e.Run(ctx); return err }); err != nil {
		t.Fatal(err)
	}
	create()
	send()
	send()
	if again, err := e.Run(ctx); err != nil || again == first {
		t.Errorf("after a restart the run is %d, %v", again, err)
	}
	if exists, err := e.Has(ctx, subscription+"-2"); err != nil || exists {
		t.Errorf("has what it has not: %v, %v", exists, err)
	}
}
