package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/measure"
)

// unreliable has a function fail, panic and hang now and then.
func unreliable(f Func) Func {
	return func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
		if err := f(ctx, tx, m); err != nil {
			return err
		}
		switch rand.IntN(100) {
		case 0, 1, 2:
			return errors.New("failed at random")
		case 3, 4, 5:
			panic("panicked at random")
		case 6:
			<-ctx.Done()
			<-context.WithoutCancel(ctx).Done() // for ever
		}
		return nil
	}
}

// inOrder adds the number in a message to the list of its ordering key.
func inOrder(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
	ref := Client(ctx).Collection("lists").Doc("key-" + m.OrderingKey)
	d, err := tx.Get(ref)
	if err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	var list []any
	if err == nil {
		list = d.Data()["list"].([]any)
	}
	return tx.Set(ref, map[string]any{"list": append(list, string(m.Data))})
}

// instances are processes with the function, which are killed at random and started
// again.
type instances struct {
	t       *testing.T
	test    string
	project string
	mu      sync.Mutex
	all     []instance
	kills   int
}

type instance struct {
	pid            int
	address, token string
}

func startInstances(t *testing.T, test string, n int) *instances {
	in := &instances{t: t, test: test, project: emulator.Project()}
	for range n {
		in.all = append(in.all, in.start())
	}
	return in
}

func (in *instances) start() instance {
	pid, address, words := measure.Child(in.t, in.test, in.test, "FIRESTORE_EMULATOR_HOST="+emulator.Firestore(in.t), "PROCESS_PROJECT="+in.project)
	return instance{pid, address, words[0]}
}

// serveInstance is an instance, until it is killed.
func serveInstance(t *testing.T, f Func) {
	store, err := Open(t.Context(), config(os.Getenv("FIRESTORE_EMULATOR_HOST"), os.Getenv("PROCESS_PROJECT")))
	if err != nil {
		t.Fatal(err)
	}
	issuer, verifier := google.Issuer(t)
	h, err := New(Config{Name: "orders", Limit: 4 * time.Second}, pushendpoint.Config{Audience: audience, ServiceAccount: account}, verifier, store, unreliable(f),
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	measure.Serve(t, h, google.Token(t, issuer, audience, account))
}

// any returns an instance that was alive a moment ago.
func (in *instances) any() instance {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.all[rand.IntN(len(in.all))]
}

// kill kills one and puts another in its place, until stop is closed.
func (in *instances) kill(stop <-chan struct{}, every time.Duration) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(every):
		}
		in.mu.Lock()
		i := rand.IntN(len(in.all))
		pid := in.all[i].pid
		in.mu.Unlock()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			in.t.Error(err)
		}
		fresh := in.start()
		in.mu.Lock()
		in.all[i], in.kills = fresh, in.kills+1
		in.mu.Unlock()
	}
}

// post pushes a body to an instance and returns its status, 502 without an answer.
func (in *instances) post(ctx context.Context, body []byte) int {
	to := in.any()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.address+"wrapped", bytes.NewReader(body))
	if err != nil {
		in.t.Error(err)
		return 0
	}
	r.Header.Set("Authorization", "Bearer "+to.token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return http.StatusBadGateway
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// open returns the store that the instances write to.
func (in *instances) open() *site {
	store, err := Open(in.t.Context(), config(emulator.Firestore(in.t), in.project))
	if err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { _ = store.Close() })
	return &site{store: store}
}

// TestKilledInstances delivers each message four times and more, in any order, to
// processes that are killed, whose function fails, panics and hangs: every message has
// its effect, once, and no effect is without its message.
func TestKilledInstances(t *testing.T) {
	if measure.ChildOf() != "" {
		serveInstance(t, effect)
		return
	}
	t.Parallel()
	const times = 4
	n := measure.Size(250, 10_000)
	in := startInstances(t, "TestKilledInstances", 3)
	var deliveries []int
	for i := range n * times {
		deliveries = append(deliveries, i/times)
	}
	measure.Rand().Shuffle(len(deliveries), func(i, j int) { deliveries[i], deliveries[j] = deliveries[j], deliveries[i] })

	stop := make(chan struct{})
	var killing, working sync.WaitGroup
	killing.Go(func() { in.kill(stop, 3*time.Second) })
	var next, refused atomic.Int64
	for range 32 {
		working.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(deliveries) {
					return
				}
				body := fmt.Appendf(nil, `{"message":{"messageId":"%d","data":"aGVsbG8="},"subscription":"projects/p/subscriptions/s"}`, deliveries[i])
				for in.post(t.Context(), body) != http.StatusNoContent {
					refused.Add(1)
					if t.Context().Err() != nil {
						return
					}
				}
			}
		})
	}
	working.Wait()
	close(stop)
	killing.Wait()

	s := in.open()
	effects := map[string]int{}
	docs, err := s.store.client.Collection("effects").Documents(t.Context()).GetAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		effects[d.Data()["message"].(string)]++
	}
	stored := 0
	for q := (inbox.Query{PageSize: inbox.MaxPageSize}); ; {
		page, err := s.store.inbox.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Messages() {
			stored++
			if effects[m.ID] != 1 {
				t.Errorf("message %s has %d effects", m.MessageID, effects[m.ID])
			}
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			break
		}
	}
	if stored != n || len(docs) != n || in.kills == 0 {
		t.Errorf("%d messages and %d effects of %d, after %d kills", stored, len(docs), n, in.kills)
	}
	t.Logf("%d messages, %d deliveries acknowledged and %d refused, %d kills: %d effects", n, len(deliveries), refused.Load(), in.kills, len(docs))
}

// TestOrder publishes with ordering keys to a Pub/Sub that loses acknowledgements and
// pushes twice, to processes that are killed: the effects of each key are in the order
// of publishing, each once.
func TestOrder(t *testing.T) {
	if measure.ChildOf() != "" {
		serveInstance(t, inOrder)
		return
	}
	t.Parallel()
	const keys = 10
	n := measure.Size(40, 2000)
	in := startInstances(t, "TestOrder", 2)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		code := in.post(r.Context(), body)
		for tries := 0; code == http.StatusBadGateway && tries < 5; tries++ { // as the platform finds another instance
			code = in.post(r.Context(), body)
		}
		w.WriteHeader(code)
	}))
	defer proxy.Close()
	var acked atomic.Int64
	all := make(chan struct{})
	server, err := pushfake.Start(t.Context(), proxy.URL, &pushfake.ServerOptions{
		Subscription: &pubsubpb.Subscription{
			EnableMessageOrdering: true, AckDeadlineSeconds: 10,
			RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(10 * time.Millisecond), MaximumBackoff: durationpb.New(100 * time.Millisecond)},
		},
		Dispatcher: pushfake.Options{
			Faults: func(*pubsubpb.PubsubMessage, int) pushfake.Fault {
				return pushfake.Fault{Duplicate: rand.IntN(20) == 0, LoseAck: rand.IntN(20) == 0}
			},
			OnDelivery: func(d pushfake.Delivery) {
				if d.Acked && acked.Add(1) == int64(n) {
					close(all)
				}
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for i := range n {
		_, err := server.Client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: server.Topic, Messages: []*pubsubpb.PubsubMessage{
			{Data: []byte(strconv.Itoa(i / keys)), OrderingKey: strconv.Itoa(i % keys)},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var killing sync.WaitGroup
	killing.Go(func() { in.kill(stop, 3*time.Second) })
	select {
	case <-all:
	case <-time.After(measure.Size(4*time.Minute, 30*time.Minute)):
		t.Errorf("%d of %d were acknowledged in time", acked.Load(), n)
	}
	close(stop)
	killing.Wait()

	s := in.open()
	for key := range keys {
		d, err := s.store.client.Doc(fmt.Sprint("lists/key-", key)).Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list := d.Data()["list"].([]any)
		for i, got := range list {
			if got != strconv.Itoa(i) {
				t.Errorf("key %d: message %v is the effect number %d", key, got, i)
				break
			}
		}
		if len(list) != n/keys {
			t.Errorf("key %d: %d effects of %d messages", key, len(list), n/keys)
		}
	}
	t.Logf("%d messages, %d kills", n, in.kills)
}
