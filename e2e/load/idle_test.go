package load

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/testkit/measure"
)

// TestIdle measures the processor time of a "pushinbox local" that has nothing to
// do, and of one whose endpoint refuses ordered messages.
func TestIdle(t *testing.T) {
	file, err := pushinbox()
	if err != nil {
		t.Fatal(err)
	}
	l := startLocal(t, file, "--pubsub-port", "0", "--format", "json", "--quiet")
	share := func(name string, most float64) {
		t.Helper()
		length := measure.Size(2*time.Second, 70*time.Second) // all that is done each minute
		time.Sleep(time.Second)                               // what was begun ends
		before := l.cpu()
		time.Sleep(length)
		share := (l.cpu() - before).Seconds() / length.Seconds()
		t.Logf("%s: %.3f %% of a core", name, share*100)
		if share > most {
			t.Errorf("%s takes %.3f %% of a core, want at most %.1f", name, share*100, most*100)
		}
	}
	share("idle", 0.003)

	var addresses struct{ PubSubEmulatorHost string }
	if err := json.Unmarshal([]byte(<-l.first), &addresses); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(addresses.PubSubEmulatorHost, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	defer endpoint.Close()
	const topic = "projects/local/topics/refused"
	publisher := pubsubpb.NewPublisherClient(conn)
	if _, err := publisher.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	_, err = pubsubpb.NewSubscriberClient(conn).CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: "projects/local/subscriptions/refused", Topic: topic, EnableMessageOrdering: true,
		PushConfig: &pubsubpb.PushConfig{PushEndpoint: endpoint.URL},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range measure.Size(100, 1000) {
		r := &pubsubpb.PublishRequest{Topic: topic}
		for range 100 {
			r.Messages = append(r.Messages, &pubsubpb.PubsubMessage{Data: make([]byte, 1024), OrderingKey: fmt.Sprint(i)})
		}
		if _, err := publisher.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	share("a refused backlog", 0.02)
}

// BenchmarkStart measures how long a "pushinbox local" takes from its start until
// it answers, with an empty data directory, and beside it "pushinbox version".
func BenchmarkStart(b *testing.B) {
	file, err := pushinbox()
	if err != nil {
		b.Fatal(err)
	}
	var times, bare []float64
	for b.Loop() {
		l := startLocal(b, file, "--pubsub-port", "0")
		times = append(times, l.started.Seconds()*1000)
		l.stop()
		begun := time.Now()
		if err := exec.Command(file, "version").Run(); err != nil {
			b.Fatal(err)
		}
		bare = append(bare, time.Since(begun).Seconds()*1000)
	}
	b.ReportMetric(median(times), "ms")
	b.ReportMetric(median(bare), "ms-version")
}
