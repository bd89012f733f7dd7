package pubsubserver

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// dial serves s and returns a connection to it.
func dial(tb testing.TB, s *Server) *grpc.ClientConn {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(20 << 20))
	s.Register(server)
	go server.Serve(listener)
	tb.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

func newClient(tb testing.TB, s *Server) *pubsub.Client {
	tb.Helper()
	client, err := pubsub.NewClient(tb.Context(), "p", option.WithGRPCConn(dial(tb, s)), option.WithTelemetryDisabled())
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

// BenchmarkPublish publishes durably by gRPC, 1 KiB a message, 100 in flight.
func BenchmarkPublish(b *testing.B) {
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "pubsub.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	ctx := context.Background()
	if _, err := s.CreateTopic(ctx, &pubsubpb.Topic{Name: topicT}); err != nil {
		b.Fatal(err)
	}
	if _, err := s.CreateSubscription(ctx, &pubsubpb.Subscription{Name: subS, Topic: topicT}); err != nil {
		b.Fatal(err)
	}
	client := pubsubpb.NewPublisherClient(dial(b, s))
	data := make([]byte, 1024)
	work := make(chan struct{})
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range work {
				_, err := client.Publish(ctx, &pubsubpb.PublishRequest{Topic: topicT, Messages: []*pubsubpb.PubsubMessage{{Data: data}}})
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
}

// BenchmarkConsume pulls and acknowledges without gRPC, 100 at a time.
func BenchmarkConsume(b *testing.B) {
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "pubsub.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	if _, err := s.CreateTopic(b.Context(), &pubsubpb.Topic{Name: topicT}); err != nil {
		b.Fatal(err)
	}
	if _, err := s.CreateSubscription(b.Context(), &pubsubpb.Subscription{Name: subS, Topic: topicT}); err != nil {
		b.Fatal(err)
	}
	m := slicesRepeat([]*pubsubpb.PubsubMessage{{Data: make([]byte, 1024)}}, 1000)
	for left := b.N; left > 0; left -= len(m) {
		if _, err := s.Publish(b.Context(), &pubsubpb.PublishRequest{Topic: topicT, Messages: m[:min(left, len(m))]}); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				r, err := s.Pull(b.Context(), pullNow(subS, 100))
				if err != nil || len(r.ReceivedMessages) == 0 {
					return
				}
				if _, err := s.Acknowledge(b.Context(), &pubsubpb.AcknowledgeRequest{Subscription: subS, AckIds: ackIDs(r.ReceivedMessages)}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
