package pubsubserver

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/measure"
)

// dial serves s and returns a connection to it.
func dial(tb testing.TB, s *Server) *grpc.ClientConn {
	tb.Helper()
	return dialTo(tb, func(r grpc.ServiceRegistrar) {
		pubsubpb.RegisterPublisherServer(r, s)
		pubsubpb.RegisterSubscriberServer(r, s)
	})
}

// dialTo serves what register registers and returns a connection to it.
func dialTo(tb testing.TB, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(20 << 20))
	register(server)
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

// forgetful is a publisher that keeps nothing.
type forgetful struct {
	pubsubpb.UnimplementedPublisherServer
}

func (forgetful) Publish(context.Context, *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
	return &pubsubpb.PublishResponse{MessageIds: []string{"1"}}, nil
}

// BenchmarkPublish publishes by gRPC, 1 KiB a message, 100 in flight: durably here,
// in memory in Google's emulator, and to a server that keeps nothing, which is as fast as
// gRPC lets one be. All take turns.
func BenchmarkPublish(b *testing.B) {
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "pubsub.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	theirs, err := grpc.NewClient(emulator.PubSub(b), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { theirs.Close() })
	conns := []*grpc.ClientConn{dial(b, s), theirs}
	project := "projects/" + emulator.Project()
	topic := project + "/topics/publish"
	for _, conn := range conns {
		if _, err := pubsubpb.NewPublisherClient(conn).CreateTopic(b.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
			b.Fatal(err)
		}
		_, err := pubsubpb.NewSubscriberClient(conn).CreateSubscription(b.Context(), &pubsubpb.Subscription{Name: project + "/subscriptions/publish", Topic: topic})
		if err != nil {
			b.Fatal(err)
		}
	}
	// publish returns how many messages a second are published.
	publish := func(conn *grpc.ClientConn, n int) float64 {
		client := pubsubpb.NewPublisherClient(conn)
		messages := []*pubsubpb.PubsubMessage{{Data: make([]byte, 1024)}}
		begun := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range n / 100 {
					if _, err := client.Publish(b.Context(), &pubsubpb.PublishRequest{Topic: topic, Messages: messages}); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return float64(n) / time.Since(begun).Seconds()
	}
	publish(theirs, 5000) // it compiles its code meanwhile
	bare := dialTo(b, func(s grpc.ServiceRegistrar) { pubsubpb.RegisterPublisherServer(s, forgetful{}) })
	var ours, google, empty, ratios []float64
	for b.Loop() {
		for range 5 {
			n := measure.Size(2_000, 20_000)
			ours, google, empty = append(ours, publish(conns[0], n)), append(google, publish(theirs, n)), append(empty, publish(bare, n))
			ratios = append(ratios, ours[len(ours)-1]/google[len(google)-1])
		}
	}
	for name, of := range map[string][]float64{"ours/s": ours, "emulator/s": google, "nothing/s": empty, "ratio": ratios} {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], name)
	}
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
