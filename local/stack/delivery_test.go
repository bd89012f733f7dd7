package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/delivery"
)

// onPage is how long a refusal may take to be told of.
const onPage = 5 * time.Second

// watched is a run whose deliveries a test waits for.
type watched struct {
	*Stack
	t          *testing.T
	deliveries chan pushfake.Delivery
}

func startWatched(t *testing.T, o Options) *watched {
	t.Helper()
	w := &watched{t: t, deliveries: make(chan pushfake.Delivery, 1000)}
	o.OnDelivery = func(d pushfake.Delivery) { w.deliveries <- d }
	var err error
	if w.Stack, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// body returns what GET /delivery answers.
func (w *watched) body() []byte {
	w.t.Helper()
	resp, err := http.Get(w.URL + "/delivery")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%d: %s, %v", resp.StatusCode, b, err)
	}
	return b
}

// until returns the first report of which ok says so, within onPage of since.
func (w *watched) until(since time.Time, ok func(*delivery.Report) bool) *delivery.Report {
	w.t.Helper()
	var b []byte
	for tick := time.Tick(50 * time.Millisecond); time.Since(since) < onPage; <-tick {
		b = w.body()
		r := new(delivery.Report)
		if err := json.Unmarshal(b, r); err != nil {
			w.t.Fatal(err)
		}
		if ok(r) {
			return r
		}
	}
	w.t.Fatalf("%v later GET /delivery still answers %s", onPage, b)
	return nil
}

func (w *watched) publish(topic string, messages ...string) {
	w.t.Helper()
	r := &pubsubpb.PublishRequest{Topic: "projects/p/topics/" + topic}
	for _, m := range messages {
		r.Messages = append(r.Messages, &pubsubpb.PubsubMessage{Data: []byte(m)})
	}
	if _, err := w.own.store.Publish(w.t.Context(), r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) wait() pushfake.Delivery {
	w.t.Helper()
	select {
	case d := <-w.deliveries:
		return d
	case <-time.After(30 * time.Second):
		w.t.Fatal("nothing was pushed")
		panic("unreachable")
	}
}

// push has the inbox's pushes be other ones.
func (w *watched) push(change func(*pubsubpb.PushConfig)) {
	w.t.Helper()
	config := signedPush(w.URL+"/receive/wrapped", w.URL+"/receive")
	change(config)
	_, err := w.own.store.ModifyPushConfig(w.t.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: w.Pushes.Name, PushConfig: config})
	if err != nil {
		w.t.Fatal(err)
	}
}

// find returns the subscription with a name in a report.
func find(r *delivery.Report, name string) *delivery.Subscription {
	for i := range r.Subscriptions {
		if r.Subscriptions[i].Name == name {
			return &r.Subscriptions[i]
		}
	}
	return nil
}

// noKeys answers for the addresses of keys but that of the keys of pushes.
type noKeys struct{ http.RoundTripper }

func (k noKeys) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.String() == pushfake.CertsV3 {
		return nil, errors.New("no route to host")
	}
	return k.RoundTripper.RoundTrip(r)
}

// TestRefusalIsTold breaks the way of a push as it breaks in production: within five
// seconds GET /delivery says what is wrong, of which subscription, once for each push.
func TestRefusalIsTold(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the schema\x1b[2J of orders changed\nsee "+r.URL.String(), http.StatusConflict)
	}))
	t.Cleanup(other.Close)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := silent.Addr().String()
	_ = silent.Close()
	const inbox, orders = "projects/p/subscriptions/inbox-push", "projects/p/subscriptions/orders-push-1"
	for name, test := range map[string]struct {
		prepare func(*Options)
		breaks  func(*watched)
		topic   string
		want    delivery.Refusal
		detail  string // is in it
	}{
		"store": {
			breaks: func(w *watched) {
				// What Firestore's outage is in production.
				if err := os.Rename(w.Inbox, w.Inbox+".away"); err != nil {
					w.t.Fatal(err)
				}
			},
			want: delivery.Refusal{Status: 503, Reason: "inbox_unavailable", Subscription: inbox}, detail: "the inbox's file was deleted, moved",
		},
		"keys": {
			prepare: func(o *Options) { o.keys = func(next http.RoundTripper) http.RoundTripper { return noKeys{next} } },
			want:    delivery.Refusal{Status: 503, Reason: "keys_unavailable", Subscription: inbox}, detail: "cannot be fetched",
		},
		"audience": {
			breaks: func(w *watched) {
				w.push(func(c *pubsubpb.PushConfig) { c.GetOidcToken().Audience += "/" })
			},
			want: delivery.Refusal{Status: 403, Reason: "audience", Subscription: inbox}, detail: "audience",
		},
		"no_token": {
			breaks: func(w *watched) { w.push(func(c *pubsubpb.PushConfig) { c.AuthenticationMethod = nil }) },
			want:   delivery.Refusal{Status: 401, Reason: "no_token", Subscription: inbox}, detail: "no token",
		},
		"shared_token": {
			prepare: func(o *Options) { o.VerificationToken = "the-right-one" },
			want:    delivery.Refusal{Status: 403, Reason: "shared_token", Subscription: inbox}, detail: "?token=",
			breaks: func(w *watched) { w.push(func(*pubsubpb.PushConfig) {}) },
		},
		"other_program": {
			prepare: func(o *Options) { o.Endpoints = []Endpoint{{Topic: "orders", URL: other.URL + "/push"}} },
			topic:   "orders",
			want:    delivery.Refusal{Status: 409, Reason: "conflict", Subscription: orders}, detail: "the endpoint says: the schema [2J of orders changed see /push",
		},
		"nobody_listens": {
			prepare: func(o *Options) { o.Endpoints = []Endpoint{{Topic: "orders", URL: "http://" + nobody + "/push"}} },
			topic:   "orders",
			want:    delivery.Refusal{Reason: "unreachable", Subscription: orders}, detail: "nothing listens",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			if test.prepare != nil {
				test.prepare(&o)
			}
			w := startWatched(t, o)
			if test.breaks != nil {
				test.breaks(w)
			}
			topic := test.topic
			if topic == "" {
				topic = "inbox"
			}
			since := time.Now()
			w.publish(topic, "one")
			refusal := func(r *delivery.Report) (found delivery.Refusal) {
				for _, refusal := range r.Refusals {
					if refusal.Subscription == test.want.Subscription {
						found = refusal
					}
				}
				return found
			}
			r := w.until(since, func(r *delivery.Report) bool { return refusal(r).Count > 0 })
			got := refusal(r)
			if got.Status != test.want.Status || got.Reason != test.want.Reason || !strings.Contains(got.Detail, test.detail) || len(r.Refusals) != 1 {
				t.Errorf("got %+v", r.Refusals)
			}
			sub := find(r, test.want.Subscription)
			if sub == nil || *sub.Backlog != 1 || *sub.LastHour.Pushes != got.Count || *sub.LastHour.AckedShare != 0 || sub.State != delivery.Delivering {
				t.Errorf("the subscription: %+v", sub)
			}
		})
	}
}

// TestForeignRequest is refused by receive without being a push of this run: it is
// told of, and of no subscription.
func TestForeignRequest(t *testing.T) {
	t.Parallel()
	w := startWatched(t, options(t))
	w.publish("inbox", "one") // over a connection of the dispatcher
	w.wait()
	since := time.Now()
	for range 3 {
		resp, err := http.Post(w.URL+"/receive/wrapped", "application/json", strings.NewReader("{}"))
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%v, %v", resp, err)
		}
		_ = resp.Body.Close()
	}
	r := w.until(since, func(r *delivery.Report) bool { return len(r.Refusals) > 0 && r.Refusals[0].Count == 3 })
	if got := r.Refusals[0]; len(r.Refusals) != 1 || got.Reason != "no_token" || got.Subscription != "" || got.LastHour != 3 {
		t.Errorf("%+v", r.Refusals)
	}
	if sub := find(r, w.Pushes.Name); *sub.LastHour.Pushes != 1 || *sub.LastHour.AckedShare != 1 || *sub.LastHour.P99Millis <= 0 {
		t.Errorf("%+v", sub)
	}
}

// TestDeadLettersAreTold has a message given up, and says where it waits.
func TestDeadLettersAreTold(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Pushes.DeadLetterPolicy.MaxDeliveryAttempts = 5
	o.Pushes.RetryPolicy = RetryPolicy(0, 0)
	w := startWatched(t, o)
	w.push(func(c *pubsubpb.PushConfig) { c.AuthenticationMethod = nil })
	w.publish("inbox", "one")
	for d := w.wait(); !d.DeadLettered; d = w.wait() {
	}
	dead := "projects/p/subscriptions/inbox-dead-letter"
	r := w.until(time.Now(), func(r *delivery.Report) bool {
		sub := find(r, dead) // its report can be as old as the message
		return *sub.Backlog == 1 && *sub.OldestSeconds > 0
	})
	if sub := find(r, w.Pushes.Name); *sub.LastHour.DeadLettered != 1 || *sub.LastDay.DeadLettered != 1 || *sub.Backlog != 0 || sub.DeadLetters {
		t.Errorf("%+v", sub)
	}
	if sub := find(r, dead); sub.State != delivery.Waiting || !sub.DeadLetters || *sub.OldestSeconds > 60 {
		t.Errorf("%+v", sub)
	}
	// Somebody has it pushed, and goes away.
	_, err := w.own.store.ModifyPushConfig(t.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: dead, PushConfig: signedPush("http://127.0.0.1:1/", "x")})
	if err != nil {
		t.Fatal(err)
	}
	w.until(time.Now(), func(r *delivery.Report) bool { return find(r, dead).State == delivery.Redriving })
}

// TestDeadLettersOfAProgram are told of as those of the inbox are, also of two programs.
func TestDeadLettersOfAProgram(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Endpoints = []Endpoint{{Topic: "orders", URL: "http://127.0.0.1:1/push"}, {Topic: "bills", URL: "http://127.0.0.1:1/push"}}
	w := startWatched(t, o)
	w.publish("orders-dead-letter", "one", "two")
	w.publish("bills-dead-letter", "three")
	r := w.until(time.Now(), func(r *delivery.Report) bool { return find(r, "projects/p/subscriptions/orders-dead-letter") != nil })
	for name, want := range map[string]int64{"inbox": 0, "orders": 2, "bills": 1} {
		sub := find(r, "projects/p/subscriptions/"+name+"-dead-letter")
		if sub == nil || !sub.DeadLetters || sub.State != delivery.Waiting || *sub.Backlog != want {
			t.Errorf("%s: %+v", name, sub)
		}
	}
}

// TestStates has every state that a subscription of another program can be in.
func TestStates(t *testing.T) {
	t.Parallel()
	w := startWatched(t, options(t))
	ctx := t.Context()
	create := func(topic, name string, change func(*pubsubpb.Subscription)) {
		t.Helper()
		if err := w.own.createTopic(ctx, "projects/p/topics/"+topic); err != nil {
			t.Fatal(err)
		}
		sub := &pubsubpb.Subscription{Topic: "projects/p/topics/" + topic, Name: "projects/p/subscriptions/" + name}
		sub.PushConfig = signedPush("http://127.0.0.1:1/"+name, "a")
		change(sub)
		if _, err := w.own.store.CreateSubscription(ctx, sub); err != nil {
			t.Fatal(err)
		}
	}
	same := func(*pubsubpb.Subscription) {}
	pulled := func(s *pubsubpb.Subscription) { s.PushConfig = nil }
	create("aaa", "pushed", same)
	create("aaa", "pulled", pulled)
	create("aaa", "paused-with-record", pulled)
	create("aaa", "detached", same)
	create("gone", "orphan", same)
	_, err1 := w.own.store.DetachSubscription(ctx, &pubsubpb.DetachSubscriptionRequest{Subscription: "projects/p/subscriptions/detached"})
	_, err2 := w.own.store.DeleteTopic(ctx, &pubsubpb.DeleteTopicRequest{Topic: "projects/p/topics/gone"})
	pause := &delivery.Operation{Kind: delivery.Pause, Subscription: "projects/p/subscriptions/paused-with-record", Principal: "someone@example.com", At: time.Now(), PushConfig: []byte("secret")}
	if err := errors.Join(err1, err2, w.Stack.deliveries.records.Put(ctx, pause)); err != nil {
		t.Fatal(err)
	}
	r := w.until(time.Now(), func(r *delivery.Report) bool { return find(r, pause.Subscription) != nil })
	for name, want := range map[string]delivery.State{
		"pushed": delivery.Delivering, "paused-with-record": delivery.Paused, "detached": delivery.Detached, "orphan": delivery.TopicGone,
		"inbox-push": delivery.Delivering, "inbox-dead-letter": delivery.Waiting, "inbox-calendar-sync": delivery.Delivering,
	} {
		if sub := find(r, "projects/p/subscriptions/"+name); sub == nil || sub.State != want {
			t.Errorf("%s: %+v, want %s", name, sub, want)
		}
	}
	if len(r.Subscriptions) != 7 || r.Subscriptions[0].Name != w.Pushes.Name || r.Subscriptions[1].Name != "projects/p/subscriptions/inbox-dead-letter" {
		t.Errorf("%d subscriptions: %+v", len(r.Subscriptions), r.Subscriptions)
	}
	if op := find(r, pause.Subscription).Operation; op == nil || op.Principal != pause.Principal {
		t.Errorf("the operation: %+v", op)
	}

	// One that only ever was pulled from is told of as long as it keeps dead letters.
	const keeper = "projects/p/subscriptions/keeper"
	create("dead", "keeper", pulled)
	create("aaa", "source", func(s *pubsubpb.Subscription) {
		s.DeadLetterPolicy = &pubsubpb.DeadLetterPolicy{DeadLetterTopic: "projects/p/topics/dead", MaxDeliveryAttempts: 5}
	})
	r = w.until(time.Now(), func(r *delivery.Report) bool { return find(r, keeper) != nil })
	if sub := find(r, keeper); sub.State != delivery.Waiting || !sub.DeadLetters {
		t.Errorf("%+v", sub)
	}
	if _, err := w.own.store.DeleteSubscription(ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: "projects/p/subscriptions/source"}); err != nil {
		t.Fatal(err)
	}
	w.until(time.Now(), func(r *delivery.Report) bool { return find(r, keeper) == nil })
}

// TestTokenIsToldNowhere: a marker is the shared token of every endpoint, one of which
// repeats all that it is sent.
func TestTokenIsToldNowhere(t *testing.T) {
	t.Parallel()
	const marker = "M4RKER-0f-THE-T0KEN"
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, `{"detail":"no %s","reason":"x"}`, r.URL)
	}))
	t.Cleanup(echo.Close)
	garbled, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = garbled.Close() })
	go func() {
		for {
			c, err := garbled.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			n, _ := c.Read(b)
			_, _ = c.Write(b[:n]) // is not HTTP
			_ = c.Close()
		}
	}()
	var log bytes.Buffer
	o := options(t)
	o.Log = slog.New(slog.NewJSONHandler(&log, nil))
	o.VerificationToken = marker
	o.Endpoints = []Endpoint{
		{Topic: "aaa", URL: echo.URL + "/?token=" + marker},
		{Topic: "aaa", URL: "http://" + garbled.Addr().String() + "/?t%6Fken=" + marker},
		{Topic: "aaa", URL: "http://127.0.0.1:1/?token=" + marker},
		{Topic: "aaa", URL: "http://no-such-host.invalid/?token=" + marker},
	}
	w := startWatched(t, o)
	w.publish("aaa", "one")
	w.push(func(c *pubsubpb.PushConfig) { c.PushEndpoint += "?token=" + marker + "-wrong" })
	w.publish("inbox", "two")
	for seen := make(map[string]bool); len(seen) < 5; {
		seen[w.wait().Subscription] = true
	}
	r := w.until(time.Now(), func(r *delivery.Report) bool { return len(r.Refusals) == 5 })
	if told := fmt.Sprint(r.Refusals); !strings.Contains(told, "lookup no-such-host.invalid") {
		t.Errorf("why there is no such host is not told: %s", told)
	}
	if find(r, "projects/p/subscriptions/aaa-push-1").Endpoint != echo.URL+"/?token=…" {
		t.Errorf("%+v", r.Subscriptions)
	}
	addresses, err := json.Marshal(w.Addresses())
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.ReadFile(filepath.Join(o.Data, runFile))
	if err != nil {
		t.Fatal(err)
	}
	// The console hides tokens too; this is what it is given.
	given, err := w.Stack.deliveries.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{"the report": report, "GET /delivery": w.body(), "the addresses": addresses, "local.json": run}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	all["the log"] = log.Bytes()
	for where, text := range all {
		if bytes.Contains(text, []byte(marker)) {
			t.Errorf("%s has the token: %s", where, text)
		}
	}
}

// TestReportOfABlindPubSub says of Google's emulator what it does not tell.
func TestReportOfABlindPubSub(t *testing.T) {
	t.Parallel()
	d := (&Stack{options: options(t), URL: "http://127.0.0.1:1"}).newDeliveries()
	d.isBlind = true
	d.statuses = func(context.Context) ([]pubsubserver.Status, error) { return nil, errors.New("the emulator is away") }
	r, err := d.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unknown := fmt.Sprint(r.Unknown)
	if !strings.Contains(unknown, "{subscriptions the emulator is away}") || !strings.Contains(unknown, "{numbers ") {
		t.Errorf("unknown: %s", unknown)
	}
}

// TestStateIsNotOfBefore looks, pauses and looks again at once, as a script does.
func TestStateIsNotOfBefore(t *testing.T) {
	t.Parallel()
	w := startWatched(t, options(t))
	for _, want := range []delivery.State{delivery.Delivering, delivery.Paused} {
		r := new(delivery.Report)
		if err := json.Unmarshal(w.body(), r); err != nil {
			t.Fatal(err)
		}
		if got := find(r, w.Pushes.Name).State; got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
		_, err := w.own.store.ModifyPushConfig(t.Context(), &pubsubpb.ModifyPushConfigRequest{Subscription: w.Pushes.Name, PushConfig: &pubsubpb.PushConfig{}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRefusalOfOneAsleep has a machine sleep during a push: the deadline is told, and not
// how long the push took.
func TestRefusalOfOneAsleep(t *testing.T) {
	t.Parallel()
	r := refusalOf(pushfake.Delivery{Err: context.DeadlineExceeded, AckDeadline: 10 * time.Second, Duration: 68 * time.Second}, false)
	if r.Reason != "timeout" || !strings.HasSuffix(r.Detail, " 10s") {
		t.Errorf("%+v", r)
	}
}
