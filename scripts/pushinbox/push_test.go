package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/shared/pubsubpush"
	"example.com/pushinbox/shared/verify"
)

// received is a push with its body.
type received struct {
	*http.Request
	body []byte
}

// program is somebody's push endpoint, which answers with a status.
func program(t *testing.T, status int) (address string, pushes chan received) {
	t.Helper()
	pushes = make(chan received, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		pushes <- received{r, body}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return server.URL, pushes
}

func await(t *testing.T, pushes chan received) received {
	t.Helper()
	select {
	case r := <-pushes:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was pushed")
		return received{}
	}
}

// TestPushToAnyProgram pushes a message to three programs, in the ways that --push
// has, and to other addresses after the next start.
func TestPushToAnyProgram(t *testing.T) {
	t.Parallel()
	const topic, sub = "projects/local/topics/orders", "projects/local/subscriptions/orders-push-"
	data := t.TempDir()
	signed, toSigned := program(t, 204)
	named, toNamed := program(t, 204)
	bare, toBare := program(t, 503)
	r := start(t, data, "--topic=empty", "--push=orders="+signed+"/a?b=c", "--push=orders="+named+",audience=me,email=me@example.com",
		"--push=orders="+bare+",unwrapped,unsigned", "--retry-backoff=0s,1s")
	publisher, _ := clients(t, r.pubsub)
	if _, err := publisher.GetTopic(t.Context(), &pubsubpb.GetTopicRequest{Topic: "projects/local/topics/empty"}); err != nil {
		t.Error(err)
	}
	published, err := publisher.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topic, Messages: []*pubsubpb.PubsubMessage{{Data: []byte("a"), Attributes: map[string]string{"k": "v"}}}})
	if err != nil {
		t.Fatal(err)
	}
	id := published.MessageIds[0]
	verifier, err := verify.New(&verify.Options{Transport: keyTransport(r.base + "/local/certs")})
	if err != nil {
		t.Fatal(err)
	}
	for n, c := range []struct {
		pushes          chan received
		uri             string
		audience, email string
	}{
		{toSigned, "/a?b=c", signed + "/a?b=c", "push@local.iam.gserviceaccount.com"},
		{toNamed, "/", "me", "me@example.com"},
	} {
		push := await(t, c.pushes)
		m, err := pubsubpush.Decode(push.Header, push.body)
		if err != nil || m.MessageID != id || string(m.Data) != "a" || m.Subscription != sub+string(rune('1'+n)) || push.RequestURI != c.uri {
			t.Errorf("%s: %v: %+v", push.RequestURI, err, m)
		}
		if _, err := verifier.IDToken(push.WithContext(t.Context()), verify.Policy{Audience: c.audience, Emails: []string{c.email}}); err != nil {
			t.Error(err)
		}
	}
	push := await(t, toBare)
	if string(push.body) != "a" || push.Header.Get("X-Goog-Pubsub-Message-Id") != id || push.Header.Get("Authorization") != "" {
		t.Errorf("unwrapped: %q, %v", push.body, push.Header)
	}
	seen := make(map[string]bool)
	for len(seen) < 3 { // the refused one comes again
		seen[r.line(t, func(s string) bool { return strings.HasPrefix(s, "--> "+id+" of "+sub) })] = true
	}

	// What was refused goes to the new address; the other two end.
	stop := func() {
		t.Helper()
		if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		<-r.done
	}
	stop()
	moved, toMoved := program(t, 503)
	r = start(t, data, "--push=orders="+signed, "--push=orders="+named, "--push=orders="+moved, "--retry-backoff=0s,1s")
	if push := await(t, toMoved); !strings.Contains(string(push.body), id) || push.Header.Get("Authorization") == "" {
		t.Errorf("after a change: %q", push.body)
	}
	stop()
	// A run that nobody gave --push is not told to end it.
	if got := runProgramIn(t, t.TempDir(), "run", "--data", data, "--", "true"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	r = start(t, data, "--retry-backoff=0s,1s")
	r.says(t, soon, sub+"3 of an earlier --push is not pushed any more; its 1 message is kept")
	_, subscriber := clients(t, r.pubsub)
	list, err := subscriber.ListSubscriptions(t.Context(), &pubsubpb.ListSubscriptionsRequest{Project: "projects/local"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Subscriptions {
		if s.Name == sub+"1" || s.Name == sub+"2" || s.Name == sub+"3" && s.PushConfig.GetPushEndpoint() != "" {
			t.Errorf("%s is still there, with %v", path.Base(s.Name), s.PushConfig)
		}
	}
	stop()
	for len(toMoved) > 0 {
		<-toMoved
	}
	r = start(t, data, "--push=orders="+signed, "--push=orders="+named, "--push=orders="+moved, "--retry-backoff=0s,1s")
	if push := await(t, toMoved); !strings.Contains(string(push.body), id) {
		t.Errorf("given again: %q", push.body)
	}
}
