package pushendpoint

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/google"
)

// TestPublishersTrace publishes with Google's client, its tracing on: the log line of
// the push names that trace.
func TestPublishersTrace(t *testing.T) {
	provider := trace.NewTracerProvider(trace.WithSampler(trace.AlwaysSample()))
	otel.SetTracerProvider(provider)
	issuer, verifier := google.Issuer(t)
	store, err := boltinbox.Open(filepath.Join(t.TempDir(), "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var mu sync.Mutex
	var log bytes.Buffer
	h, err := New(Config{Project: "p", Audience: audience, ServiceAccount: pushAccount}, verifier, store, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		h.ServeHTTP(w, r)
		close(done)
	}))
	defer server.Close()
	pushes, err := pushfake.Start(t.Context(), server.URL, &pushfake.ServerOptions{
		Dispatcher: pushfake.Options{Issuer: issuer},
		Subscription: &pubsubpb.Subscription{PushConfig: &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
			OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: pushAccount, Audience: audience},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pushes.Close()
	client, err := pubsub.NewClientWithConfig(t.Context(), "local", &pubsub.ClientConfig{EnableOpenTelemetryTracing: true},
		option.WithEndpoint(pushes.Addr), option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, span := provider.Tracer("test").Start(t.Context(), "order")
	if _, err := client.Publisher(pushes.Topic).Publish(ctx, &pubsub.Message{Data: []byte("hello")}).Get(ctx); err != nil {
		t.Fatal(err)
	}
	span.End()
	<-done
	var line struct{ PublisherTrace string }
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("%s: %v", log.Bytes(), err)
	}
	if want := "projects/p/traces/" + span.SpanContext().TraceID().String(); line.PublisherTrace != want || strings.Count(want, "0") == 32 {
		t.Errorf("the log names the trace %q, want %q", line.PublisherTrace, want)
	}
}
