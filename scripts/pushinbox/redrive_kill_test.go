package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/records"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/measure"
)

// faulty stands between Pub/Sub and receive. It refuses the first push of one in ten
// messages, and signs what comes from Google's emulator, which does not.
type faulty struct {
	url    string
	bearer string // empty: pushes are signed already

	mu      sync.Mutex
	pushes  int
	failed  map[string]bool
	acked   map[string]bool
	reached chan int // the number of pushes so far, for whoever listens
}

func newFaulty(t *testing.T, r *running, bearer string) *faulty {
	t.Helper()
	target, err := url.Parse(r.base)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{bearer: bearer, failed: make(map[string]bool), acked: make(map[string]bool), reached: make(chan int, 1)}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.URL.Path = "/receive/wrapped"
			if f.bearer != "" {
				p.Out.Header.Set("Authorization", "Bearer "+f.bearer)
			}
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if f.refuses(string(b)) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(b))), int64(len(b))
		answered := httptest.NewRecorder()
		proxy.ServeHTTP(answered, r)
		if answered.Code == http.StatusNoContent {
			f.mu.Lock()
			f.acked[numberOf(string(b))] = true
			f.mu.Unlock()
		}
		w.WriteHeader(answered.Code)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL + "/wrapped"
	return f
}

// refuses counts a push, and reports whether it is refused.
func (f *faulty) refuses(body string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pushes++
	select {
	case <-f.reached:
	default:
	}
	f.reached <- f.pushes
	number := numberOf(body)
	if !strings.HasSuffix(number, "3") || f.failed[number] {
		return false
	}
	f.failed[number] = true
	return true
}

// numberOf returns the attribute number of a push.
func numberOf(body string) string {
	_, number, _ := strings.Cut(body, `"number":"`)
	number, _, _ = strings.Cut(number, `"`)
	return number
}

// wait returns once there were so many pushes, or done is closed.
func (f *faulty) wait(n int, done <-chan struct{}) {
	for {
		select {
		case at := <-f.reached:
			if at >= n {
				return
			}
		case <-done:
			return
		}
	}
}

// manyDead is a Pub/Sub with many dead letters.
type manyDead struct {
	client       *pubsub.Client
	source, dead string // subscriptions
	topic        string // of the inbox
	environment  []string
	flags        []string
}

// TestRedriveKilled redrives many dead letters with the command killed twenty times,
// while receive fails one in ten: each is stored once, and none goes elsewhere.
func TestRedriveKilled(t *testing.T) {
	t.Parallel()
	n := measure.Size(1000, 10_000)
	t.Run("pubsubserver", func(t *testing.T) {
		t.Parallel()
		// Of one in ten refused Pub/Sub makes four a second, as documented; here its
		// clock is fast.
		data, r := t.TempDir(), start(t, t.TempDir(), "--quiet")
		f := newFaulty(t, r, r.token(t, "?for=receive"))
		server, err := pushfake.Start(t.Context(), f.url, &pushfake.ServerOptions{
			Subscription: &pubsubpb.Subscription{PushConfig: new(pubsubpb.PushConfig), DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: 5}},
			Dispatcher:   pushfake.Options{Clock: fastClock(time.Now())},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		m := &manyDead{client: server.Client, source: server.Subscription, dead: server.DeadLetterSubscription, topic: server.Topic, flags: []string{"--data", data}}
		if _, err := m.client.SubscriptionAdminClient.UpdateSubscription(t.Context(), &pubsubpb.UpdateSubscriptionRequest{
			Subscription: &pubsubpb.Subscription{Name: m.dead, AckDeadlineSeconds: 600}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"ack_deadline_seconds"}},
		}); err != nil {
			t.Fatal(err)
		}
		announce(t, data, server.Addr, m, func() int { return n - f.acknowledged() })
		m.redriveKilled(t, r, f, data, n)
	})
	t.Run("emulator", func(t *testing.T) {
		t.Parallel()
		data := t.TempDir()
		r := start(t, t.TempDir(), "--quiet")
		f := newFaulty(t, r, r.token(t, "?for=receive"))
		host, project := emulator.PubSub(t), emulator.Project()
		m := &manyDead{
			client: pubSubAt(t, host, project), source: "projects/" + project + "/subscriptions/inbox", dead: "projects/" + project + "/subscriptions/inbox-dead-letter",
			topic: "projects/" + project + "/topics/inbox", environment: []string{"PUBSUB_EMULATOR_HOST=" + host},
			flags: []string{"--project", project, "--subscription", "inbox", "--dead-letter-subscription", "inbox-dead-letter", "--data", data},
		}
		m.create(t, m.topic+"-dead-letter", m.dead, nil, "")
		m.create(t, m.topic, m.source, &pubsubpb.PushConfig{PushEndpoint: f.url}, m.topic+"-dead-letter")
		m.redriveKilled(t, r, f, data, n)
	})
}

// fastClock is a clock that began at a time and is a hundred times as fast as the system's.
type fastClock time.Time

const speed = 100

func (c fastClock) Now() time.Time {
	began := time.Time(c)
	return began.Add(speed * time.Since(began))
}

func (c fastClock) At(t time.Time, f func()) func() bool {
	return time.AfterFunc(t.Sub(c.Now())/speed, f).Stop
}

// announce has commands find a local run whose Pub/Sub is at host, and which says how
// many dead letters wait.
func announce(t *testing.T, data, host string, m *manyDead, waiting func() int) {
	t.Helper()
	run := stack.Run{PID: os.Getpid(), StartedAt: time.Now().UTC()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/local/run":
			httpapi.WriteJSON(w, http.StatusOK, run)
		case "/delivery":
			n := int64(waiting())
			httpapi.WriteJSON(w, http.StatusOK, delivery.Report{At: time.Now(), Subscriptions: []delivery.Subscription{{Name: m.dead, Backlog: &n}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	run.Addresses = stack.Addresses{URL: server.URL, PubSubEmulatorHost: host, Project: "local", Topic: m.topic, Subscription: m.source, Data: data}
	b, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "local.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pubSubAt returns a client of the Pub/Sub at host.
func pubSubAt(t *testing.T, host, project string) *pubsub.Client {
	t.Helper()
	client, err := pushfake.Dial(t.Context(), host, project)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func (m *manyDead) create(t *testing.T, topic, subscription string, push *pubsubpb.PushConfig, deadLetterTopic string) {
	t.Helper()
	if _, err := m.client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	sub := &pubsubpb.Subscription{Name: subscription, Topic: topic, PushConfig: push}
	if deadLetterTopic != "" {
		sub.DeadLetterPolicy = &pubsubpb.DeadLetterPolicy{DeadLetterTopic: deadLetterTopic, MaxDeliveryAttempts: 5}
	}
	if _, err := m.client.SubscriptionAdminClient.CreateSubscription(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
}

// fill publishes n dead letters, as Pub/Sub does.
func (m *manyDead) fill(t *testing.T, n int) {
	t.Helper()
	for from := 0; from < n; from += 1000 {
		r := &pubsubpb.PublishRequest{Topic: m.topic + "-dead-letter"}
		for i := from; i < min(n, from+1000); i++ {
			r.Messages = append(r.Messages, &pubsubpb.PubsubMessage{Data: fmt.Appendf(nil, "dead %d", i), Attributes: map[string]string{
				"CloudPubSubDeadLetterSourceDeliveryCount": "5", "CloudPubSubDeadLetterSourceSubscription": "inbox-push",
				"CloudPubSubDeadLetterSourceSubscriptionProject": "local", "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-26T03:00:00.123+00:00",
				"number": fmt.Sprint(i),
			}})
		}
		if _, err := m.client.TopicAdminClient.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *manyDead) redriveKilled(t *testing.T, r *running, f *faulty, data string, n int) {
	const kills = 20
	if _, err := m.client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: m.source + "-bystander", Topic: m.topic,
	}); err != nil {
		t.Fatal(err)
	}
	m.fill(t, n)
	began := time.Now()
	random := measure.Rand()
	killed := 0
	for i := range kills {
		cmd, done := m.start(t)
		if i%2 == 0 { // at one of its first steps
			select {
			case <-time.After(time.Duration(random.IntN(400)) * time.Millisecond):
			case <-done:
			}
		} else { // somewhere on its way
			f.wait((i*n+random.IntN(n))/(kills+5), done)
		}
		_ = cmd.Process.Kill()
		<-done
		if cmd.ProcessState.ExitCode() == -1 {
			killed++
		} else if out := cmd.Stderr.(fmt.Stringer).String(); cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("it ended before it was killed: exit %d, %s", cmd.ProcessState.ExitCode(), out)
		}
	}
	cmd, done := m.start(t)
	<-done
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("the last redrive: exit %d, %s%s", code, cmd.Stdout, cmd.Stderr)
	}
	t.Logf("%d dead letters, %d pushes, %d kills, %v: %s", n, f.count(), killed, time.Since(began).Round(time.Second), cmd.Stdout)
	if killed < kills-2 {
		t.Errorf("only %d of %d were killed on their way", killed, kills)
	}
	m.checkRedriven(t, r, data, n)
}

func (f *faulty) acknowledged() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.acked)
}

func (f *faulty) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pushes
}

// start starts a redrive.
func (m *manyDead) start(t *testing.T) (*exec.Cmd, <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	cmd := exec.CommandContext(ctx, command, append([]string{"dead-letters", "redrive"}, m.flags...)...)
	cmd.Env = append(os.Environ(), m.environment...)
	cmd.Stdout, cmd.Stderr = new(strings.Builder), new(strings.Builder)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its state tells
		cancel()
		close(done)
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return cmd, done
}

// checkRedriven holds that each dead letter is in the inbox once, and nothing is left
// behind.
func (m *manyDead) checkRedriven(t *testing.T, r *running, data string, n int) {
	t.Helper()
	c, err := inboxclient.New(r.base, nil)
	if err != nil {
		t.Fatal(err)
	}
	stored := make(map[string]int)
	for message, err := range c.List(t.Context(), inbox.Query{PageSize: inbox.MaxPageSize}) {
		if err != nil {
			t.Fatal(err)
		}
		if message.Subscription != m.dead {
			t.Errorf("%s reached %s", message.MessageID, message.Subscription)
		}
		stored[string(message.Data)]++
	}
	for i := range n {
		if times := stored[fmt.Sprintf("dead %d", i)]; times != 1 {
			t.Errorf("dead letter %d is stored %d times", i, times)
		}
	}
	if len(stored) != n {
		t.Errorf("%d messages are stored of %d", len(stored), n)
	}
	sub, err := m.client.SubscriptionAdminClient.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: m.dead})
	if err != nil || sub.GetPushConfig().GetPushEndpoint() != "" {
		t.Errorf("it is still pushed to %q, %v", sub.GetPushConfig().GetPushEndpoint(), err)
	}
	if o, err := records.Open(data).Get(t.Context(), m.dead); o != nil || err != nil {
		t.Errorf("the record is left: %+v, %v", o, err)
	}
	for _, name := range []string{m.dead, m.source + "-bystander"} {
		//lint:ignore SA1019 what is not there now is not waited for
		request := &pubsubpb.PullRequest{Subscription: name, MaxMessages: 10, ReturnImmediately: true}
		answer, err := m.client.SubscriptionAdminClient.Pull(t.Context(), request)
		if err != nil || len(answer.ReceivedMessages) > 0 {
			t.Errorf("%s has messages: %v, %v", name, answer, err)
		}
	}
	log, err := os.ReadFile(filepath.Join(data, operationsLog))
	if err != nil || strings.Count(string(log), `"outcome":"begun"`) < 2 || !strings.Contains(string(log), `"outcome":"done"`) {
		t.Errorf("the log of operations: %s, %v", log, err)
	}
}
