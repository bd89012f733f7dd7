package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pubsubpush"
	"example.com/pushinbox/shared/verify"
)

// stored is a push of a subscription that is not the local one.
func stored(id string, attributes map[string]string) *inbox.Message {
	return &inbox.Message{
		Source: "pubsub", Subscription: "projects/prod/subscriptions/orders", MessageID: id, PublishTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Data: []byte("data of " + id), Attributes: attributes, DeliveryAttempt: 3,
		Verified: inbox.Verified{Issuer: "https://accounts.google.com", Email: "push@prod.iam.gserviceaccount.com", Audience: "https://receive.example"},
	}
}

func TestReplayToTopic(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), ".local")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	many := make(map[string]string)
	for i := range 100 {
		many[fmt.Sprint(i)] = "v"
	}
	fill(t, data, stored("1", map[string]string{"kind": "order", "replay-run": "earlier"}), stored("2", nil), stored("full", many),
		&inbox.Message{Source: "mns", Subscription: "s", MessageID: "m", Data: []byte("mns")}, inbox.Quarantine("pubsub", "", inbox.ReasonData, []byte("{bad")))
	r := start(t, data, "--quiet", "--push=inbox=http://127.0.0.1:1/other")
	// In the directory of the pushinbox local, which is then known to be this one.
	in := func(args ...string) (out, errs string, code int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, command, append([]string{"messages", "replay"}, args...)...)
		var stdout, stderr bytes.Buffer
		cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Dir(data), &stdout, &stderr
		cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(data, "cache"))
		_ = cmd.Run()
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	out, errs, code := in("--since", "1h", "--dry-run", "--format", "json")
	var dry struct {
		Count   int
		First   []inbox.Message
		LeftOut map[string]int
	}
	if err := json.Unmarshal([]byte(out), &dry); code != 0 || err != nil || dry.Count != 4 || len(dry.First) != 4 || dry.First[0].MessageID != "1" || dry.LeftOut["quarantined"] != 1 {
		t.Errorf("--dry-run: exit %d, %v, %s, %s", code, err, out, errs)
	}
	if out, _, code := in("--message-id", "none", "--dry-run", "--format", "json"); code != 0 || out != `{"count":0,"first":[]}`+"\n" {
		t.Errorf("--dry-run of nothing: exit %d, %s", code, out)
	}
	if !strings.Contains(errs, "has 1 subscription beside projects/local/subscriptions/inbox-push: projects/local/subscriptions/inbox-push-1; every one gets the messages") {
		t.Errorf("who else gets them: %s", errs)
	}
	if out, errs, code := in("--since", "1h", "--set", "again=yes"); code != 1 || !strings.HasPrefix(out, "3 messages sent, run ") || !strings.Contains(errs, "101 attributes") || !strings.Contains(errs, "--resume "+data+"/cache/pushinbox/replay-") {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
	if out, errs, code := in("--message-id", "full"); code != 0 || !strings.HasPrefix(out, "1 message sent") {
		t.Errorf("a full one: exit %d, %s, %s", code, out, errs)
	}
	if out, errs, code := in(inbox.Quarantine("pubsub", "", inbox.ReasonData, []byte("{bad")).MessageID, "--quarantined"); code != 0 || !strings.HasPrefix(out, "1 message sent") {
		t.Errorf("a quarantined one: exit %d, %s, %s", code, out, errs)
	}
	if left, err := filepath.Glob(filepath.Join(data, "cache", "pushinbox", "*")); err != nil || len(left) != 1 {
		t.Errorf("records are left: %v, %v", left, err)
	}
	var copies []inbox.Message
	for deadline := time.Now().Add(20 * time.Second); len(copies) < 3 && time.Now().Before(deadline); {
		out, errs, code := r.command(t, "", "list", "--attribute", "again=yes", "--format", "json")
		if code != 0 {
			t.Fatal(errs)
		}
		copies = nil
		for line := range strings.Lines(out) {
			var m inbox.Message
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			copies = append(copies, m)
		}
	}
	for _, m := range copies {
		if run := m.Attributes["replay-run"]; len(copies) != 3 || run == "" || run == "earlier" || m.Attributes["replay-of"] == "" {
			t.Errorf("%d copies, with %v", len(copies), m.Attributes)
		}
	}
}

func TestReplayToURL(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	large := stored("3", nil)
	large.Data = bytes.Repeat([]byte("x"), 100_000)
	fill(t, data, stored("1", map[string]string{"kind": "order"}), stored("2", map[string]string{"kind": "order"}), large,
		&inbox.Message{Source: "mns", Subscription: "s", MessageID: "m", Data: []byte("mns")})
	r := start(t, data)
	verifier, err := verify.New(&verify.Options{Transport: keyTransport(r.base + "/local/certs")})
	if err != nil {
		t.Fatal(err)
	}
	address, pushes := program(t, 204)
	out, errs, code := r.command(t, "", "replay", "--since", "1h", "--to", address+"/push", "--set", "retry=1", "--rate", "0")
	if code != 0 || !strings.HasPrefix(out, "3 messages sent") || !strings.Contains(out, "1 message left out: not pushed by Pub/Sub") {
		t.Fatalf("exit %d, %s, %s", code, out, errs)
	}
	seen := make(map[string]bool)
	for range 3 {
		push := await(t, pushes)
		m, err := pubsubpush.Decode(push.Header, push.body)
		if err != nil {
			t.Fatal(err)
		}
		seen[m.MessageID] = true
		if m.Subscription != "projects/prod/subscriptions/orders" || m.DeliveryAttempt != 3 || m.PublishTime.Year() != 2026 || m.Attributes["retry"] != "1" ||
			m.Attributes["replay-run"] != "" || m.MessageID == "1" && m.Attributes["kind"] != "order" || m.MessageID == "3" && len(m.Data) != 100_000 {
			t.Errorf("pushed %+v", m)
		}
		if _, err := verifier.IDToken(push.WithContext(t.Context()), verify.Policy{Audience: address + "/push", Emails: []string{"push@prod.iam.gserviceaccount.com"}}); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 3 {
		t.Errorf("pushed %v", seen)
	}
	// Every form, and an audience.
	for _, form := range []string{"/unwrapped", "/bare"} {
		if _, errs, code := r.command(t, "", "replay", "1", "--to", address+form, "--audience", "me"); code != 0 {
			t.Fatal(errs)
		}
		push := await(t, pushes)
		if string(push.body) != "data of 1" || (push.Header.Get("X-Goog-Pubsub-Message-Id") == "1") != (form == "/unwrapped") {
			t.Errorf("%s: %q, %v", form, push.body, push.Header)
		}
		if _, err := verifier.IDToken(push.WithContext(t.Context()), verify.Policy{Audience: "me", Emails: []string{"push@prod.iam.gserviceaccount.com"}}); err != nil {
			t.Error(err)
		}
	}
	// Its own function receive, which stored the message before.
	if out, errs, code := r.command(t, "", "replay", "1", "--to", r.base+"/receive"); code != 0 || !strings.HasPrefix(out, "1 message sent") {
		t.Errorf("to receive: exit %d, %s, %s", code, out, errs)
	}
	refusing, _ := program(t, 500)
	if out, errs, code := r.command(t, "", "replay", "1", "--to", refusing); code != 1 || !strings.Contains(out, "refused: "+inbox.ID("pubsub", "projects/prod/subscriptions/orders", "1")) || !strings.Contains(errs, "answered 500") {
		t.Errorf("refused: exit %d, %s, %s", code, out, errs)
	}
	if out, errs, code := r.command(t, "", "replay", "nothing"); code != 4 || !strings.Contains(errs, "no message") {
		t.Errorf("no such message: exit %d, %s, %s", code, out, errs)
	}
}

// TestReplayWithoutATokenSendsNothing has the pushinbox local sign no token for the sender
// of a message: that is not sent, and is when the replay goes on.
func TestReplayWithoutATokenSendsNothing(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	fill(t, data, stored("1", nil))
	r := start(t, data)
	target, err := url.Parse(r.base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	console := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/local/token" && r.URL.Query().Get("email") == "push@prod.iam.gserviceaccount.com" {
			http.Error(w, `{"detail":"not now"}`, http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(console.Close)
	address, pushes := program(t, 204)
	record := filepath.Join(t.TempDir(), "record")
	out, errs, code := runIn(t, nil, "", "messages", "replay", "--url", console.URL, "--since", "1h", "--to", address, "--resume", record)
	if code != 1 || !strings.HasPrefix(out, "0 messages sent") || strings.Contains(out, "doubtful") || !strings.Contains(errs, "not now") {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
	out, errs, code = runIn(t, nil, "", "messages", "replay", "--url", r.base, "--resume", record)
	if code != 0 || !strings.HasPrefix(out, "1 message sent") || len(pushes) != 1 {
		t.Errorf("later: exit %d, %s, %s, %d pushes", code, out, errs, len(pushes))
	}
}

// TestInterruptedReplay ends a replay by Ctrl-C, which leaves nothing doubtful, while
// another one must not go on with its record.
func TestInterruptedReplay(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	var all []*inbox.Message
	for i := range 6 {
		m := stored(fmt.Sprint(i), nil)
		m.OrderingKey = "k"
		all = append(all, m)
	}
	fill(t, data, all...)
	r := start(t, data)
	address, pushes := program(t, 204)
	record := filepath.Join(t.TempDir(), "record")
	cmd := exec.CommandContext(t.Context(), command, "messages", "replay", "--url", r.base, "--since", "1h", "--to", address, "--rate", "1", "--resume", record)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got []string
	decode := func(p received) {
		t.Helper()
		m, err := pubsubpush.Decode(p.Header, p.body)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.MessageID)
	}
	decode(await(t, pushes))
	decode(await(t, pushes))
	if _, errs, code := r.command(t, "", "replay", "--resume", record); code != 1 || !strings.Contains(errs, "in use by another process") {
		t.Errorf("at the same time: exit %d, %s", code, errs)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "pushinbox: interrupted\nthe replay is not complete") {
		t.Errorf("an interrupted replay: %v, %s", err, &said)
	}
	out, errs, code := r.command(t, "", "replay", "--resume", record, "--rate", "0")
	if code != 0 || !strings.HasPrefix(out, "6 messages sent") {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
	for len(pushes) > 0 {
		decode(<-pushes)
	}
	if strings.Join(got, " ") != "0 1 2 3 4 5" {
		t.Errorf("pushed %v", got)
	}
}
