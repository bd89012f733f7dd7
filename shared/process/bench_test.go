package process

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
)

// seenBeside is what people write by hand: a transaction with the effect and a document
// that says that it has happened. It does not store the message.
type seenBeside struct{ *Store }

func (s seenBeside) Put(ctx context.Context, m *inbox.Message) (stored bool, err error) {
	seen := s.client.Collection("seen").Doc(m.MessageID)
	err = s.client.RunTransaction(context.WithValue(ctx, clientKey{}, s.client), func(ctx context.Context, tx *firestore.Transaction) error {
		stored = false
		if _, err := tx.Get(seen); status.Code(err) != codes.NotFound {
			return err
		}
		if err := effect(ctx, tx, m); err != nil {
			return err
		}
		stored = true
		return tx.Create(seen, map[string]any{"at": firestore.ServerTimestamp})
	})
	return stored, err
}

// BenchmarkPush pushes messages, 16 at a time, to an endpoint that runs a function of
// one write in the message's transaction (handler), to one that only stores, as receive
// does (store), and to one that keeps a hand-written "seen" document beside the effect
// and no message (seen). They alternate, so that what else the machine does slows each
// of them as much.
func BenchmarkPush(b *testing.B) {
	push := pushendpoint.Config{Audience: audience, ServiceAccount: account}
	quiet := slog.New(slog.DiscardHandler)
	issuer, verifier := google.Issuer(b)
	token := "Bearer " + google.Token(b, issuer, audience, account)
	type way struct {
		name    string
		new     func(*Store) (http.Handler, error)
		handler http.Handler
		elapsed time.Duration
		took    []time.Duration
	}
	ways := []*way{
		{name: "handler", new: func(s *Store) (http.Handler, error) {
			return New(Config{Name: "orders"}, push, verifier, s, effect, quiet)
		}},
		{name: "store", new: func(s *Store) (http.Handler, error) { return pushendpoint.New(push, verifier, s.inbox, quiet) }},
		{name: "seen", new: func(s *Store) (http.Handler, error) { return pushendpoint.New(push, verifier, seenBeside{s}, quiet) }},
	}
	for _, w := range ways {
		store, err := Open(b.Context(), config(emulator.Firestore(b), emulator.Project()))
		if err != nil {
			b.Fatal(err)
		}
		defer store.Close()
		if w.handler, err = w.new(store); err != nil {
			b.Fatal(err)
		}
	}
	var id atomic.Int64
	post := func(h http.Handler) time.Duration {
		body := fmt.Sprintf(`{"message":{"messageId":"%d","data":"%s"},"subscription":"projects/p/subscriptions/s"}`, id.Add(1), strings.Repeat("QUJD", 100))
		r := httptest.NewRequest(http.MethodPost, "/wrapped", strings.NewReader(body))
		r.Header.Set("Authorization", token)
		answer := httptest.NewRecorder()
		began := time.Now()
		h.ServeHTTP(answer, r)
		if answer.Code != http.StatusNoContent {
			b.Errorf("answered %d", answer.Code)
		}
		return time.Since(began)
	}
	some := func(w *way, n int) {
		took := make([]time.Duration, n)
		var next atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for range 16 {
			all.Go(func() {
				for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
					took[i] = post(w.handler)
				}
			})
		}
		all.Wait()
		w.elapsed += time.Since(began)
		w.took = append(w.took, took...)
	}
	const block = 100
	for _, w := range ways { // the emulator compiles itself while it runs
		some(w, 2*block)
		w.elapsed, w.took = 0, nil
	}
	b.ResetTimer()
	for done := 0; done < b.N; done += block {
		for _, w := range ways {
			some(w, min(block, b.N-done))
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, w := range ways {
		slices.Sort(w.took)
		b.ReportMetric(float64(b.N)/w.elapsed.Seconds(), w.name+"/s")
		b.ReportMetric(float64(w.took[b.N/2])/1e6, w.name+"-p50-ms")
		b.ReportMetric(float64(w.took[b.N*99/100])/1e6, w.name+"-p99-ms")
	}
}
