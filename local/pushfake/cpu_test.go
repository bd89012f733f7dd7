package pushfake_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/measure"
)

// TestSink serves, in a process of its own, an endpoint that answers 204.
func TestSink(t *testing.T) {
	if measure.ChildOf() != "sink" {
		t.Skip("it is what the benchmarks push to")
	}
	measure.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
}

// BenchmarkCPU compares the processor time of signed pushes from a durable
// Pub/Sub, 1 KiB each, with that of a bare http.Transport that sends the same
// bodies, 100 at a time. The endpoint is another process.
func BenchmarkCPU(b *testing.B) {
	n := measure.Size(10_000, 50_000)
	_, url, _ := measure.Child(b, "TestSink", "sink")
	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := issuer.IDToken(nil); err != nil {
		b.Fatal(err)
	}
	var bodies recorder
	var pushed, bare []float64
	round := func() {
		pushed = append(pushed, perMessage(b, n, func() func() { return pushAll(b, url, issuer, n, &bodies) }))
		bare = append(bare, perMessage(b, n, func() func() { return sendAll(b, url, n, &bodies) }))
	}
	round()
	pushed, bare = nil, nil
	for b.Loop() {
		for range 5 {
			round()
		}
	}
	ratios := make([]float64, len(pushed))
	for i := range pushed {
		ratios[i] = pushed[i] / bare[i]
	}
	for name, of := range map[string][]float64{"µs-pushed": pushed, "µs-bare": bare, "ratio": ratios} {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], name)
	}
}

// perMessage returns this process's time, in µs, for each of n messages that what
// prepare returns sends.
func perMessage(b *testing.B, n int, prepare func() func()) float64 {
	run := prepare()
	before, err := measure.CPU(os.Getpid())
	if err != nil {
		b.Skip(err)
	}
	run()
	after, err := measure.CPU(os.Getpid())
	if err != nil {
		b.Skip(err)
	}
	return float64((after - before).Microseconds()) / float64(n)
}

// recorder has the body and the headers of a push.
type recorder struct {
	once   sync.Once
	header http.Header
	body   []byte
}

// pushAll publishes n messages, and returns what pushes them.
func pushAll(b *testing.B, url string, issuer *pushfake.Issuer, n int, r *recorder) func() {
	var left sync.WaitGroup
	left.Add(n)
	dispatchers := pushfake.NewDispatchers(&pushfake.Options{Issuer: issuer, OnDelivery: func(d pushfake.Delivery) {
		if !d.Acked {
			b.Error(d.Err)
		}
		left.Done()
	}})
	server, err := pubsubserver.Open(pubsubserver.Options{Path: filepath.Join(b.TempDir(), "pubsub.db"), Push: dispatchers.Start})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := server.CreateTopic(b.Context(), &pubsubpb.Topic{Name: topicName}); err != nil {
		b.Fatal(err)
	}
	if _, err := server.CreateSubscription(b.Context(), &pubsubpb.Subscription{Name: subName, Topic: topicName}); err != nil {
		b.Fatal(err)
	}
	batch := slices.Repeat([]*pubsubpb.PubsubMessage{{Data: bytes.Repeat([]byte("0123456789abcdef"), 64)}}, 1000)
	for range n / len(batch) {
		if _, err := server.Publish(b.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: batch}); err != nil {
			b.Fatal(err)
		}
	}
	r.once.Do(func() {
		token, err := issuer.IDToken(nil)
		if err != nil {
			b.Fatal(err)
		}
		r.header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}, "User-Agent": {"CloudPubSub-Google"},
			"Accept": {"application/json"}, "Accept-Encoding": {"gzip, deflate, br"}, "From": {"noreply@google.com"}}
		r.body = fmt.Appendf(nil, `{"message":{"data":"%s","messageId":"1234567890123456","message_id":"1234567890123456","publishTime":"2026-01-02T03:04:05.678Z","publish_time":"2026-01-02T03:04:05.678Z"},"subscription":"%s"}`,
			bytes.Repeat([]byte("0123456789abcdef"), 64*4/3/16*16), subName)
	})
	return func() {
		_, err := server.ModifyPushConfig(b.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: subName, PushConfig: &pubsubpb.PushConfig{
			PushEndpoint: url, AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: pushfake.DefaultEmail}},
		}})
		if err != nil {
			b.Fatal(err)
		}
		left.Wait()
		dispatchers.Shutdown(b.Context())
		if err := server.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// sendAll returns what sends n requests with a bare transport.
func sendAll(b *testing.B, url string, n int, r *recorder) func() {
	const callers = 100
	transport := &http.Transport{MaxIdleConnsPerHost: callers, DisableCompression: true, IdleConnTimeout: time.Minute}
	return func() {
		defer transport.CloseIdleConnections()
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range n / callers {
					request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(r.body))
					if err != nil {
						b.Error(err)
						return
					}
					request.Header = r.header.Clone()
					answer, err := transport.RoundTrip(request)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
				}
			})
		}
		all.Wait()
	}
}

// BenchmarkLatency sends one message of 1 KiB at a time by gRPC and waits until it
// is at the endpoint, and compares that with a durable commit of the same bytes to
// a file of bbolt. Both take turns.
func BenchmarkLatency(b *testing.B) {
	arrived := make(chan struct{}, 1)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer endpoint.Close()
	dispatchers := pushfake.NewDispatchers(&pushfake.Options{})
	server, err := pubsubserver.Open(pubsubserver.Options{Path: filepath.Join(b.TempDir(), "pubsub.db"), Push: dispatchers.Start})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dispatchers.Shutdown(context.Background()); server.Close() })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	serving := grpc.NewServer()
	pubsubpb.RegisterPublisherServer(serving, server)
	pubsubpb.RegisterSubscriberServer(serving, server)
	go func() { _ = serving.Serve(listener) }()
	b.Cleanup(serving.Stop)
	client := dial(b, listener.Addr().String(), "p").TopicAdminClient
	if _, err := server.CreateTopic(b.Context(), &pubsubpb.Topic{Name: topicName}); err != nil {
		b.Fatal(err)
	}
	if _, err := server.CreateSubscription(b.Context(), &pubsubpb.Subscription{Name: subName, Topic: topicName, PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint.URL}}); err != nil {
		b.Fatal(err)
	}
	bare, err := bbolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	data := make([]byte, 1024)
	var pushed, committed, ratios []float64
	for b.Loop() {
		begun := time.Now()
		if _, err := client.Publish(b.Context(), &pubsubpb.PublishRequest{Topic: topicName, Messages: []*pubsubpb.PubsubMessage{{Data: data}}}); err != nil {
			b.Fatal(err)
		}
		<-arrived
		pushed = append(pushed, float64(time.Since(begun).Microseconds()))
		begun = time.Now()
		err := bare.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("messages"))
			if err != nil {
				return err
			}
			n, err := bucket.NextSequence()
			if err != nil {
				return err
			}
			return bucket.Put(binary.BigEndian.AppendUint64(nil, n), data)
		})
		if err != nil {
			b.Fatal(err)
		}
		committed = append(committed, float64(time.Since(begun).Microseconds()))
		ratios = append(ratios, pushed[len(pushed)-1]/committed[len(committed)-1])
	}
	for name, of := range map[string][]float64{"µs-pushed": pushed, "µs-commit": committed, "ratio": ratios} {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], name)
	}
}
