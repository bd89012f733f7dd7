package operations

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/records"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/localpubsub"
)

// marker is a shared token that nothing that is produced may have.
const marker = "marker-token-Zq7-that-nobody-may-see"

// onEach runs a test on each Pub/Sub that pushes: Google's emulator, and ours.
func onEach(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Run("emulator", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(t, emulator.PubSub(t)))
	})
	t.Run("pubsubserver", func(t *testing.T) {
		t.Parallel()
		test(t, ownWorld(t))
	})
}

// ownWorld is a world on a Pub/Sub of ours, which says what waits.
func ownWorld(t *testing.T) *world {
	t.Helper()
	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		t.Fatal(err)
	}
	server, host, _ := localpubsub.Serve(t, pubsubserver.Options{}, pushfake.NewDispatchers(&pushfake.Options{Issuer: issuer}))
	w := newWorld(t, host)
	w.backlog = func(_ context.Context, name string) (*Backlog, error) {
		n, _, err := server.Backlog(name)
		return &Backlog{At: time.Now(), Messages: int64(n)}, err
	}
	return w
}

// world is a project on a Pub/Sub, with a receiver of pushes.
type world struct {
	t        *testing.T
	client   *pubsub.Client
	project  string
	data     string // the directory of the records
	receiver *receiver
	backlog  func(context.Context, string) (*Backlog, error) // nil: not known
}

func newWorld(t *testing.T, host string) *world {
	t.Helper()
	w := &world{t: t, project: emulator.Project(), data: t.TempDir(), receiver: newReceiver(t)}
	var err error
	if w.client, err = pushfake.Dial(t.Context(), host, w.project); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.client.Close() })
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) name(kind, id string) string { return "projects/" + w.project + "/" + kind + "/" + id }

// subscribe creates a topic and a subscription with the same ID, and returns the
// subscription's full name.
func (w *world) subscribe(id string, push *pubsubpb.PushConfig) string {
	w.t.Helper()
	topic := w.name("topics", id)
	_, err := w.client.TopicAdminClient.CreateTopic(w.t.Context(), &pubsubpb.Topic{Name: topic})
	w.check(err)
	_, err = w.client.SubscriptionAdminClient.CreateSubscription(w.t.Context(), &pubsubpb.Subscription{
		Name: w.name("subscriptions", id), Topic: topic, PushConfig: push,
	})
	w.check(err)
	return w.name("subscriptions", id)
}

// publish publishes messages of 1000 at most, with these attributes.
func (w *world) publish(id string, n int, attributes func(i int) map[string]string) {
	w.t.Helper()
	for from := 0; from < n; from += 1000 {
		r := &pubsubpb.PublishRequest{Topic: w.name("topics", id)}
		for i := from; i < min(n, from+1000); i++ {
			m := &pubsubpb.PubsubMessage{Data: fmt.Appendf(nil, "%d", i)}
			if attributes != nil {
				m.Attributes = attributes(i)
			}
			r.Messages = append(r.Messages, m)
		}
		_, err := w.client.TopicAdminClient.Publish(w.t.Context(), r)
		w.check(err)
	}
}

func (w *world) push(subscription string) *pubsubpb.PushConfig {
	w.t.Helper()
	sub, err := w.client.SubscriptionAdminClient.GetSubscription(w.t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: subscription})
	w.check(err)
	return sub.PushConfig
}

func (w *world) record(subscription string) *delivery.Operation {
	w.t.Helper()
	o, err := records.Open(w.data).Get(w.t.Context(), subscription)
	w.check(err)
	return o
}

// options are those of an operator who may everything.
func (w *world) options() Options {
	return Options{
		PubSub: w.client.SubscriptionAdminClient, Records: records.Open(w.data), Principal: "operator@example.com",
		Token: func(context.Context) (string, error) { return marker, nil }, TokenSource: "the test",
		Backlog: w.backlog, LookPatience: time.Second,
	}
}

func (w *world) operator(change func(*Options)) *Operator {
	w.t.Helper()
	o := w.options()
	if change != nil {
		change(&o)
	}
	op, err := New(o)
	w.check(err)
	return op
}

// receiver takes pushes. It refuses those that refuse selects.
type receiver struct {
	url string
	mu  sync.Mutex
	// got counts, by subscription and data, what was acknowledged.
	got     map[string]int
	arrived chan struct{} // has one when something has
	refuse  func(data string) bool
	pushes  atomic.Int64
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{got: make(map[string]int), arrived: make(chan struct{}, 1)}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL + "/wrapped"
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.pushes.Add(1)
	var body struct {
		Subscription string
		Message      struct{ Data []byte }
	}
	b, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	if err := json.Unmarshal(b, &body); err != nil { // unwrapped
		body.Message.Data = b
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil && r.refuse(string(body.Message.Data)) {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.got[body.Subscription+" "+string(body.Message.Data)]++
	select {
	case r.arrived <- struct{}{}:
	default:
	}
	w.WriteHeader(http.StatusNoContent)
}

// count returns how many different messages of a subscription have arrived.
func (r *receiver) count(subscription string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.got {
		if strings.HasPrefix(key, subscription+" ") {
			n++
		}
	}
	return n
}

// wait waits until n different messages of a subscription have arrived.
func (r *receiver) wait(t *testing.T, subscription string, n int) {
	t.Helper()
	timeout := time.After(time.Minute)
	for r.count(subscription) < n {
		select {
		case <-r.arrived:
		case <-timeout:
			t.Fatalf("%d messages of %d arrived within a minute", r.count(subscription), n)
		}
	}
}

// knife ends an operation at one of its steps, as kill -9 would: from then on
// nothing that it calls is done.
type knife struct {
	at    int // the step, counted from 1; 0 never
	after bool
	steps int
	dead  bool
}

// killed is what a step panics with.
type killed struct{}

func (k *knife) step(do func() error) error {
	if k.dead {
		panic(killed{})
	}
	k.steps++
	if k.steps != k.at {
		return do()
	}
	k.dead = true
	if k.after {
		_ = do()
	}
	panic(killed{})
}

// operator returns an operator whose steps the knife can end.
func (k *knife) operator(w *world) *Operator {
	return w.operator(func(o *Options) {
		o.PubSub, o.Records = cutPubSub{o.PubSub, k}, cutRecords{o.Records, k}
	})
}

// run reports whether the operation ended by itself.
func (k *knife) run(t *testing.T, operation func() error) (whole bool) {
	t.Helper()
	defer func() {
		switch p := recover().(type) {
		case nil, killed:
		default:
			panic(p)
		}
	}()
	if err := operation(); err != nil {
		t.Fatalf("step %d: %v", k.steps, err)
	}
	return true
}

type cutPubSub struct {
	PubSub
	k *knife
}

func (c cutPubSub) GetSubscription(ctx context.Context, r *pubsubpb.GetSubscriptionRequest, o ...gax.CallOption) (sub *pubsubpb.Subscription, err error) {
	err = c.k.step(func() error { sub, err = c.PubSub.GetSubscription(ctx, r, o...); return err })
	return sub, err
}

func (c cutPubSub) Pull(ctx context.Context, r *pubsubpb.PullRequest, o ...gax.CallOption) (answer *pubsubpb.PullResponse, err error) {
	err = c.k.step(func() error { answer, err = c.PubSub.Pull(ctx, r, o...); return err })
	return answer, err
}

func (c cutPubSub) ModifyAckDeadline(ctx context.Context, r *pubsubpb.ModifyAckDeadlineRequest, o ...gax.CallOption) error {
	return c.k.step(func() error { return c.PubSub.ModifyAckDeadline(ctx, r, o...) })
}

func (c cutPubSub) UpdateSubscription(ctx context.Context, r *pubsubpb.UpdateSubscriptionRequest, o ...gax.CallOption) (sub *pubsubpb.Subscription, err error) {
	err = c.k.step(func() error { sub, err = c.PubSub.UpdateSubscription(ctx, r, o...); return err })
	return sub, err
}

type cutRecords struct {
	delivery.Records
	k *knife
}

func (c cutRecords) Get(ctx context.Context, name string) (o *delivery.Operation, err error) {
	err = c.k.step(func() error { o, err = c.Records.Get(ctx, name); return err })
	return o, err
}

func (c cutRecords) Put(ctx context.Context, o *delivery.Operation) error {
	return c.k.step(func() error { return c.Records.Put(ctx, o) })
}

func (c cutRecords) Delete(ctx context.Context, name string) error {
	return c.k.step(func() error { return c.Records.Delete(ctx, name) })
}

// bits returns a push configuration as bytes.
func bits(t *testing.T, c *pubsubpb.PushConfig) string {
	t.Helper()
	b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
