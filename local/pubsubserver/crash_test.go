package pubsubserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/testkit/measure"
)

// child says on a line each what was published, what it is about to
// acknowledge, and what was acknowledged.
func child(path string) {
	s, err := Open(Options{Path: path})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	for range 8 {
		go func() {
			for {
				m := []*pubsubpb.PubsubMessage{{Data: make([]byte, rand.IntN(5000)), Attributes: map[string]string{"a": "b"}}, {Data: []byte("second")}}
				r, err := s.Publish(ctx, &pubsubpb.PublishRequest{Topic: topicT, Messages: m})
				if err != nil {
					panic(err)
				}
				for _, id := range r.MessageIds {
					fmt.Printf("published %s\n", id)
				}
			}
		}()
	}
	for {
		r, err := s.Pull(ctx, &pubsubpb.PullRequest{Subscription: subS, MaxMessages: 10})
		if err != nil {
			panic(err)
		}
		acked := r.ReceivedMessages[:len(r.ReceivedMessages)/2] // the others stay leased
		if len(acked) == 0 {
			continue
		}
		for _, m := range acked {
			fmt.Printf("acking %s\n", m.Message.MessageId)
		}
		if _, err := s.Acknowledge(ctx, &pubsubpb.AcknowledgeRequest{Subscription: subS, AckIds: ackIDs(acked)}); err != nil {
			panic(err)
		}
		for _, m := range acked {
			fmt.Printf("acked %s\n", m.Message.MessageId)
		}
	}
}

// TestKill kills a server again and again at any moment: what was published is
// there, once, and what was acknowledged is not delivered again.
func TestKill(t *testing.T) {
	if path := measure.ChildOf(); path != "" {
		child(path)
	}
	t.Parallel()
	random := measure.Rand()
	rounds := measure.Size(5, 50)
	path := filepath.Join(t.TempDir(), "pubsub.db")
	s, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicT}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{subS, subOther} {
		if _, err := s.CreateSubscription(t.Context(), &pubsubpb.Subscription{
			Name: name, Topic: topicT, AckDeadlineSeconds: maxAckDeadline, // no lease ends while the messages are counted, on whatever machine
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	published, acking, acked := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for round := range rounds {
		for _, line := range measure.Killed(t, "TestKill", path, 1+random.IntN(3000)) {
			what, id, _ := strings.Cut(line, " ")
			switch what {
			case "acking":
				acking[id] = true
			case "acked":
				acked[id] = true
			case "published":
				if published[id] {
					t.Fatalf("the ID %s was given twice", id)
				}
				published[id] = true
			}
		}
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{subS, subOther} {
			there := map[string]bool{}
			for {
				r, err := s.Pull(t.Context(), pullNow(name, 1000))
				if err != nil {
					t.Fatal(err)
				}
				if len(r.ReceivedMessages) == 0 {
					break
				}
				for _, m := range r.ReceivedMessages {
					if there[m.Message.MessageId] {
						t.Errorf("%s is there twice", m.Message.MessageId)
					}
					there[m.Message.MessageId] = true
				}
			}
			for id := range published {
				switch {
				case name == subS && acked[id] && there[id]:
					t.Errorf("%s was acknowledged and is there", id)
				case !there[id] && (name != subS || !acking[id]):
					t.Errorf("%s was published and is gone from %s", id, name)
				}
			}
		}
		t.Logf("round %d: %d published, %d acknowledged", round, len(published), len(acked))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
