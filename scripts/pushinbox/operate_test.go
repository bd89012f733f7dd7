package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/doctor/doctortest"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/records"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/delivery/firestorerecords"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/testkit/emulator"
)

// tokenMarker is a shared token that nothing that is printed or written may have.
const tokenMarker = "marker-token-Zq7-that-nobody-may-see"

// said runs commands, and holds that none prints the token.
type said struct {
	environment []string
	flags       []string
}

func (s *said) run(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	out, errs, code = runIn(t, s.environment, "", append(args, s.flags...)...)
	if strings.Contains(out+errs, tokenMarker) {
		t.Errorf("%q prints the token: %s%s", args, out, errs)
	}
	return out, errs, code
}

// must runs a command that succeeds, and reads its JSON lines.
func (s *said) must(t *testing.T, args ...string) (lines []map[string]any) {
	t.Helper()
	out, errs, code := s.run(t, append(args, "--format", "json")...)
	if code != 0 {
		t.Fatalf("%q: exit %d, %s%s", args, code, out, errs)
	}
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var line map[string]any
		if err := decoder.Decode(&line); err == io.EOF {
			return lines
		} else if err != nil {
			t.Fatalf("%q printed %q: %v", args, out, err)
		}
		lines = append(lines, line)
	}
}

// TestPauseWithHost pauses and resumes a run that other machines can reach, found by its data
// and, as from a container, by its addresses: both send its key.
func TestPauseWithHost(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	start(t, data, "--host=0.0.0.0")
	b, err := os.ReadFile(filepath.Join(data, "local.json"))
	if err != nil {
		t.Fatal(err)
	}
	var at stack.Addresses
	if err := json.Unmarshal(b, &at); err != nil {
		t.Fatal(err)
	}
	elsewhere := []string{"PUBSUB_EMULATOR_HOST=" + at.PubSubEmulatorHost, envKeyFile + "=" + filepath.Join(data, "console.key")}
	for name, s := range map[string]*said{
		"by its data":      {nil, []string{"--data", data}},
		"by its addresses": {elsewhere, []string{"--project", "local", "--subscription", "inbox-push", "--data", t.TempDir()}},
	} {
		for _, verb := range []string{"pause", "resume"} {
			if _, errs, code := s.run(t, "delivery", verb); code != 0 {
				t.Errorf("%s %s: exit %d, %s", verb, name, code, errs)
			}
		}
	}
}

// TestPauseLocal pauses a local run as a user does, with a shared token.
func TestPauseLocal(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data, "PUBSUB_VERIFICATION_TOKEN="+tokenMarker)
	s := &said{[]string{"PUBSUB_VERIFICATION_TOKEN=" + tokenMarker}, []string{"--data", data}}
	without := &said{nil, s.flags}
	if _, errs, code := without.run(t, "delivery", "pause"); code != exitFailed || !strings.Contains(errs, "--token-file") || !strings.Contains(errs, "nothing was changed") {
		t.Errorf("without the token: exit %d, %s", code, errs)
	}
	paused := s.must(t, "delivery", "pause")[0]
	if paused["state"] != "paused" || paused["changed"] != true || paused["lostFrom"] == nil || paused["endpoint"] != r.base+"/receive/wrapped?token=…" {
		t.Errorf("it says %v", paused)
	}
	for i := range 100 {
		r.publish(t, "", "text/plain", fmt.Sprintf("while it is paused %d", i))
	}
	if all := r.messages(t); len(all) != 0 {
		t.Errorf("%d messages arrived while it was paused", len(all))
	}
	status := &said{nil, []string{"--url", r.base}}
	for deadline := time.Now().Add(soon); !strings.Contains(fmt.Sprint(status.must(t, "delivery", "status")), "lostFrom"); {
		if time.Now().After(deadline) {
			t.Fatalf("the status does not tell of the pause within %v", soon)
		}
	}
	if page := string(r.get(t, "/delivery")); strings.Contains(page, tokenMarker) {
		t.Error("the token is on the page")
	}
	if out, _, code := s.run(t, "delivery", "pause"); code != 0 || !strings.Contains(out, "is paused already, by ") || !strings.Contains(out, "pushinbox delivery resume --data "+data) {
		t.Errorf("a second pause: exit %d, %s", code, out)
	}
	if _, errs, code := without.run(t, "delivery", "resume"); code != exitFailed || !strings.Contains(errs, "--token-file") {
		t.Errorf("resume without the token: exit %d, %s", code, errs)
	}
	if resumed := s.must(t, "delivery", "resume")[0]; resumed["state"] != "delivering" || resumed["changed"] != true {
		t.Errorf("it says %v", resumed)
	}
	r.acknowledged(t, 100)
	for _, name := range []string{operationsLog, "operations"} {
		if found := grep(t, filepath.Join(data, name), tokenMarker); found != "" {
			t.Errorf("the token is in %s", found)
		}
	}
	log, err := os.ReadFile(filepath.Join(data, operationsLog))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"action":"delivery.pause","target":"projects/local/subscriptions/inbox-push","outcome":"refused"`,
		`"action":"delivery.pause","target":"projects/local/subscriptions/inbox-push","outcome":"done"`,
		`"action":"delivery.resume","target":"projects/local/subscriptions/inbox-push","outcome":"begun"`,
		`"action":"delivery.resume","target":"projects/local/subscriptions/inbox-push","outcome":"done"`,
	} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
}

// grep returns the names of the files below path that have a text.
func grep(t *testing.T, path, text string) (names string) {
	t.Helper()
	err := filepath.WalkDir(path, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			names += " " + path
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return names
}

// TestDeadLettersLocal has a message given up although it was stored, since its
// acknowledgement is lost each time; purges it, brings it back, and redrives it twice.
func TestDeadLettersLocal(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data, "PUBSUB_VERIFICATION_TOKEN="+tokenMarker, "--max-attempts=5", "--retry-backoff=0s,0s")
	s := &said{nil, []string{"--data", data}}
	client := pubSubAt(t, r.pubsub, "local")
	const source, dead = "projects/local/subscriptions/inbox-push", "projects/local/subscriptions/inbox-dead-letter"
	sub, err := client.SubscriptionAdminClient.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: source})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := sub.PushConfig.PushEndpoint
	push := func(to string) {
		t.Helper()
		changed := proto.CloneOf(sub)
		changed.PushConfig.PushEndpoint = to
		if _, err := client.SubscriptionAdminClient.UpdateSubscription(t.Context(), &pubsubpb.UpdateSubscriptionRequest{
			Subscription: changed, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"push_config"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	lost := make(chan int, 100)
	deaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		again, err := http.NewRequestWithContext(request.Context(), request.Method, endpoint, request.Body)
		if err != nil {
			return
		}
		again.Header = request.Header
		if resp, err := http.DefaultClient.Do(again); err == nil {
			lost <- resp.StatusCode
			_ = resp.Body.Close()
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer deaf.Close()
	push(deaf.URL)
	r.publish(t, "", "text/plain", "given up although it was stored")
	for range 5 {
		if status := <-lost; status != http.StatusNoContent {
			t.Fatalf("receive answered %d", status)
		}
	}
	original := r.messages(t)[0]

	list := func(want int) []map[string]any {
		t.Helper()
		listed := s.must(t, "dead-letters", "list")
		if len(listed) != want {
			t.Fatalf("%d dead letters are listed, not %d: %v", len(listed), want, listed)
		}
		return listed
	}
	letter := list(1)[0]
	if letter["attempts"] != 5.0 || letter["subscription"] != source || letter["inInbox"] != "" || fmt.Sprint(letter["originals"]) != "["+original.ID+"]" {
		t.Errorf("the dead letter is listed as %v, its original is %s", letter, original.ID)
	}
	if refusals := fmt.Sprint(letter["refusals"]); !strings.Contains(refusals, "503") {
		t.Errorf("why it was given up: %s", refusals)
	}
	if _, errs, code := s.run(t, "dead-letters", "purge"); code != exitUsage || !strings.Contains(errs, "--yes") {
		t.Errorf("a purge without a terminal: exit %d, %s", code, errs)
	}
	list(1)
	purged := s.must(t, "dead-letters", "purge", "--yes")[0]
	list(0)
	undo := strings.Fields(fmt.Sprint(purged["undo"]))[1:]
	restored := func() {
		t.Helper()
		if out, errs, code := runIn(t, nil, "", undo...); code != 0 {
			t.Fatalf("%q: exit %d, %s%s", undo, code, out, errs)
		}
	}
	restored()
	list(1)
	push(endpoint)
	redriven := s.must(t, "dead-letters", "redrive")[0]
	if redriven["stalled"] != false || redriven["began"] != 1.0 || len(redriven["left"].([]any)) != 0 {
		t.Errorf("the redrive says %v", redriven)
	}
	list(0)
	restored() // what was redriven waits again
	if letter := list(1)[0]; letter["inInbox"] == "" || letter["inInbox"] == nil {
		t.Errorf("what was redriven is listed as %v", letter)
	}
	s.must(t, "dead-letters", "redrive")
	all := r.messages(t)
	if len(all) != 2 || all[0].Subscription != dead || all[1].ID != original.ID {
		t.Errorf("the inbox has %+v", all)
	}
	if found := grep(t, data+"/operations", tokenMarker) + grep(t, filepath.Join(data, operationsLog), tokenMarker); found != "" {
		t.Errorf("the token is in %s", found)
	}
}

// TestOperateCall tries calls that are wrong.
func TestOperateCall(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for args, want := range map[string]string{
		"delivery pause --terraform a --project p":                                    "give one of --terraform, --project and --data",
		"dead-letters list --project p --subscription s --dead-letter-subscription d": "set FIRESTORE_EMULATOR_HOST too",
		"dead-letters redrive --patience -1s":                                         "--patience must be more than 0",
		"dead-letters list --limit 0":                                                 "--limit must be 1 to",
	} {
		_, errs, code := runIn(t, []string{"PUBSUB_EMULATOR_HOST=127.0.0.1:1", "FIRESTORE_EMULATOR_HOST="}, "", strings.Fields(args)...)
		if code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
	if _, errs, code := run(t, "", "delivery", "pause", "--data", empty); code != exitFailed || !strings.Contains(errs, "pushinbox local --data") {
		t.Errorf("nothing runs: exit %d, %s", code, errs)
	}
}

// TestInterruptedEarly ends commands before they have done anything, at a Pub/Sub that
// does not answer.
func TestInterruptedEarly(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"delivery pause", "delivery resume", "dead-letters list", "dead-letters redrive", "dead-letters purge --yes"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cmd := exec.CommandContext(t.Context(), command, append(strings.Fields(args), "--project", "local", "--data", t.TempDir())...)
		cmd.Env = append(os.Environ(), "PUBSUB_EMULATOR_HOST="+l.Addr().String())
		errs := new(strings.Builder)
		cmd.Stderr = errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept() // it asks now
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		_ = conn.Close()
		if said := errs.String(); cmd.ProcessState.ExitCode() != exitFailed || !strings.HasPrefix(said, "pushinbox: interrupted") || strings.Contains(said, "context canceled") {
			t.Errorf("%s: %v, %s", args, cmd.ProcessState, said)
		}
	}
}

// TestFindDeadLetters names a project's push subscription alone, as doctor does.
func TestFindDeadLetters(t *testing.T) {
	t.Parallel()
	server, err := pushfake.Start(t.Context(), "http://127.0.0.1:1/", &pushfake.ServerOptions{
		Subscription: &pubsubpb.Subscription{DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: 5}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if _, err := server.Client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{
		Topic: server.DeadLetterTopic, Messages: []*pubsubpb.PubsubMessage{{Data: []byte("dead")}},
	}); err != nil {
		t.Fatal(err)
	}
	s := &said{[]string{"PUBSUB_EMULATOR_HOST=" + server.Addr}, []string{"--project", "local", "--data", t.TempDir(), "--subscription", server.Subscription}}
	if listed := s.must(t, "dead-letters", "list"); len(listed) != 1 || listed[0]["data"] != "ZGVhZA==" {
		t.Errorf("listed %v", listed)
	}
	if _, err := server.Client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: server.DeadLetterSubscription + "-2", Topic: server.DeadLetterTopic,
	}); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := s.run(t, "dead-letters", "list"); code != exitUsage || !strings.Contains(errs, "--dead-letter-subscription: "+server.DeadLetterSubscription) {
		t.Errorf("with two: exit %d, %s", code, errs)
	}
}

// TestDeadLettersOfNamed operates the dead letters of the subscription that is named and
// of no other, on a local run whose inbox has dead letters too.
func TestDeadLettersOfNamed(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data, "--quiet")
	client := pubSubAt(t, r.pubsub, "local")
	var got atomic.Int32
	orders := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) }))
	defer orders.Close()
	m := &manyDead{client: client}
	const topics, subs = "projects/local/topics/", "projects/local/subscriptions/"
	m.create(t, topics+"orders-dead-letter", subs+"orders-dead-letter", nil, "")
	m.create(t, topics+"orders", subs+"orders-push-1", &pubsubpb.PushConfig{PushEndpoint: orders.URL}, topics+"orders-dead-letter")
	m.create(t, topics+"plain", subs+"plain", nil, "")
	publish := func(topic, text string) {
		t.Helper()
		if _, err := client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topics + topic, Messages: []*pubsubpb.PubsubMessage{{Data: []byte(text), Attributes: map[string]string{"a": "b"}}}}); err != nil {
			t.Fatal(err)
		}
	}
	if out, errs, code := runIn(t, nil, "", "dead-letters", "purge", "--data", data); code != 0 || !strings.Contains(out, "no dead letter waits") {
		t.Errorf("a purge of nothing: exit %d, %s%s", code, out, errs)
	}
	publish("inbox-dead-letter", "the inbox's")
	publish("orders-dead-letter", "that of orders")
	s := &said{nil, []string{"--data", data}}
	named := &said{[]string{"PUBSUB_EMULATOR_HOST=" + r.pubsub}, []string{"--project", "local", "--data", t.TempDir()}}
	whole := func() {
		t.Helper()
		if listed := s.must(t, "dead-letters", "list"); len(listed) != 1 || listed[0]["data"] != "dGhlIGluYm94J3M=" {
			t.Fatalf("the inbox's dead letters are %v", listed)
		}
	}
	for _, from := range []*said{s, named} {
		for args, want := range map[string]string{
			"--subscription nonexistent": "does not exist",
			"--subscription plain":       "no dead-letter policy",
			"--subscription orders-push-1 --dead-letter-subscription inbox-dead-letter": "does not keep the dead letters of",
			"--subscription inbox-push --dead-letter-subscription orders-dead-letter":   "does not keep the dead letters of",
			"--subscription inbox-push --dead-letter-subscription inbox-push":           "does not keep the dead letters of",
		} {
			for _, do := range []string{"list", "redrive --yes", "redrive --stop", "purge --yes"} {
				all := append([]string{"dead-letters"}, strings.Fields(do+" "+args)...)
				if out, errs, code := from.run(t, all...); code != exitFailed || !strings.Contains(errs, want) {
					t.Errorf("%s %v: exit %d, %s%s", do, from.flags[:1], code, out, errs)
				}
			}
		}
		if listed := from.must(t, "dead-letters", "list", "--subscription", "orders-push-1"); len(listed) != 1 || listed[0]["data"] != "dGhhdCBvZiBvcmRlcnM=" {
			t.Errorf("the dead letters of orders are %v", listed)
		}
	}
	whole()
	if redriven := s.must(t, "dead-letters", "redrive", "--subscription", "orders-push-1", "--yes")[0]; redriven["subscription"] != subs+"orders-dead-letter" || got.Load() != 1 {
		t.Errorf("the redrive says %v, and orders got %d", redriven, got.Load())
	}
	publish("orders-dead-letter", "")
	if listed := s.must(t, "dead-letters", "list", "--subscription", "orders-push-1"); len(listed) != 1 || listed[0]["data"] != "" {
		t.Errorf("one without data is %v", listed)
	}
	s.must(t, "dead-letters", "purge", "--subscription", "orders-push-1", "--yes")
	if listed := s.must(t, "dead-letters", "list", "--subscription", "orders-push-1"); len(listed) != 0 {
		t.Errorf("after a purge orders has %v", listed)
	}
	whole()
}

// TestDeadLettersShared names one of two subscriptions with one dead-letter topic, as all
// of Terraform's have: what the other gave up is neither listed, pushed nor discarded.
func TestDeadLettersShared(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data, "--quiet")
	client := pubSubAt(t, r.pubsub, "local")
	var got atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) }))
	defer receiver.Close()
	const topics, subs = "projects/local/topics/", "projects/local/subscriptions/"
	m := &manyDead{client: client}
	m.create(t, topics+"dead", subs+"dead", nil, "")
	publish := func(by string) {
		t.Helper()
		if _, err := client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topics + "dead", Messages: []*pubsubpb.PubsubMessage{{Data: []byte(by), Attributes: map[string]string{
			"CloudPubSubDeadLetterSourceDeliveryCount": "5", "CloudPubSubDeadLetterSourceSubscription": by,
			"CloudPubSubDeadLetterSourceSubscriptionProject": "local", "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-26T03:00:00.123+00:00",
		}}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"orders", "bills"} {
		m.create(t, topics+name, subs+name, &pubsubpb.PushConfig{PushEndpoint: receiver.URL}, topics+"dead")
		publish(name)
	}
	if _, errs, code := runIn(t, nil, "", "dead-letters", "list", "--data", data); code != 0 || !strings.Contains(errs, "2 dead letters in dead; see --dead-letter-subscription") {
		t.Errorf("of the inbox, which has none: exit %d, %s", code, errs)
	}
	s := &said{nil, []string{"--data", data, "--subscription", "orders"}}
	for _, do := range []string{"redrive", "purge --yes"} {
		if out, errs, code := s.run(t, append([]string{"dead-letters"}, strings.Fields(do)...)...); code != exitFailed || !strings.Contains(errs, subs+"bills too") {
			t.Errorf("%s: exit %d, %s%s", do, code, out, errs)
		}
	}
	for _, name := range []string{"orders", "bills"} {
		out, errs, code := runIn(t, nil, "", "dead-letters", "list", "--data", data, "--subscription", name)
		if code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, subs+name) || !strings.Contains(errs, "1 dead letter of other subscriptions") {
			t.Errorf("of %s: exit %d, %s%s", name, code, out, errs)
		}
	}
	if n := got.Load(); n != 0 {
		t.Errorf("%d were pushed", n)
	}

	// Named alone, the subscription that keeps them is asked for all, whosoever they are.
	all := &said{nil, []string{"--data", data, "--dead-letter-subscription", "dead"}}
	if listed := all.must(t, "dead-letters", "list"); len(listed) != 2 {
		t.Errorf("of both: %v", listed)
	}
	if out, errs, code := all.run(t, "dead-letters", "redrive"); code != exitUsage || !strings.Contains(errs, subs+"bills, "+subs+"orders") || !strings.Contains(errs, "--all") {
		t.Errorf("to the endpoint of either: exit %d, %s%s", code, out, errs)
	}
	s.must(t, "dead-letters", "redrive", "--all")
	if n := got.Load(); n != 2 {
		t.Errorf("with --all %d were pushed, want 2", n)
	}
	remove := func(name string) {
		t.Helper()
		if err := client.SubscriptionAdminClient.DeleteSubscription(t.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: subs + name}); err != nil {
			t.Fatal(err)
		}
	}
	remove("orders")
	publish("orders")
	all.must(t, "dead-letters", "redrive")
	if n := got.Load(); n != 3 {
		t.Errorf("to the endpoint of the one that is left %d were pushed, want 1", n-2)
	}

	// Nobody gives up messages to their topic any more.
	remove("bills")
	publish("orders")
	publish("bills")
	for _, do := range []string{"list", "redrive", "purge --yes"} {
		if out, errs, code := all.run(t, append([]string{"dead-letters"}, strings.Fields(do)...)...); code != exitFailed || !strings.Contains(errs, "give --all") {
			t.Errorf("%s of subscriptions that are no more: exit %d, %s%s", do, code, out, errs)
		}
	}
	all.flags = append(all.flags, "--all")
	if listed := all.must(t, "dead-letters", "list"); len(listed) != 2 {
		t.Errorf("of subscriptions that are no more: %v", listed)
	}
	if out, errs, code := all.run(t, "dead-letters", "redrive"); code != exitUsage || !strings.Contains(errs, "no subscription has") || !strings.Contains(errs, "--subscription, and give --all") {
		t.Errorf("to the endpoint of nobody: exit %d, %s%s", code, out, errs)
	}
	if redriven := all.must(t, "dead-letters", "redrive", "--subscription", "inbox-push")[0]; !strings.Contains(redriven["endpoint"].(string), "/receive") || len(redriven["left"].([]any)) != 0 {
		t.Errorf("to the inbox: %v", redriven)
	}
	publish("bills")
	undo := all.must(t, "dead-letters", "purge", "--yes")[0]["undo"].(string)
	if listed := all.must(t, "dead-letters", "list"); len(listed) != 0 {
		t.Errorf("after a purge: %v", listed)
	}
	if out, errs, code := runIn(t, nil, "", strings.Fields(undo)[1:]...); code != 0 || len(all.must(t, "dead-letters", "list")) != 1 {
		t.Errorf("%s: exit %d, %s%s", undo, code, out, errs)
	}

	// One who redrove them was killed.
	err := records.Open(data).Put(t.Context(), &delivery.Operation{Kind: delivery.Redrive, Subscription: subs + "dead", Principal: "x", At: time.Now()})
	if err == nil {
		_, err = client.SubscriptionAdminClient.UpdateSubscription(t.Context(), &pubsubpb.UpdateSubscriptionRequest{
			Subscription: &pubsubpb.Subscription{Name: subs + "dead", PushConfig: &pubsubpb.PushConfig{PushEndpoint: receiver.URL}},
			UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"push_config"}},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	stop := []string{"dead-letters", "redrive", "--stop", "--data", data, "--dead-letter-subscription", "dead"}
	if out, errs, code := runIn(t, nil, "", "delivery", "status", "--data", data, "--format", "json"); code != 0 || !strings.Contains(out, `"redriving"`) {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
	if out, errs, code := runIn(t, nil, "", stop...); code != 0 || !strings.Contains(out, "is ended") {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}

	// What keeps no dead letters is let alone.
	m.create(t, topics+"plain", subs+"plain", nil, "")
	other := &said{nil, []string{"--data", data, "--dead-letter-subscription", "plain"}}
	for _, do := range []string{"list", "redrive", "purge --yes"} {
		if out, errs, code := other.run(t, append([]string{"dead-letters"}, strings.Fields(do)...)...); code != exitFailed || !strings.Contains(errs, topics+"plain is no subscription's dead-letter topic") {
			t.Errorf("%s: exit %d, %s%s", do, code, out, errs)
		}
	}
}

// TestRedriveLosesItsTerminal ends redrives in which nothing moves as a closed terminal,
// a lost connection and another command do: none is left attached, and each says so.
func TestRedriveLosesItsTerminal(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data, "--quiet")
	client := pubSubAt(t, r.pubsub, "local")
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer refusing.Close()
	const topics, subs = "projects/local/topics/", "projects/local/subscriptions/"
	m := &manyDead{client: client}
	m.create(t, topics+"orders-dead-letter", subs+"orders-dead-letter", nil, "")
	m.create(t, topics+"orders", subs+"orders", &pubsubpb.PushConfig{PushEndpoint: refusing.URL}, topics+"orders-dead-letter")
	if _, err := client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topics + "orders-dead-letter", Messages: []*pubsubpb.PubsubMessage{{Data: []byte("refused")}}}); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--subscription", "orders", "--data", data}
	// Where this test runs under nohup the command would ignore a hang-up, as it should:
	// what a process handles is not ignored in those that it starts.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	for name, c := range map[string]struct {
		end  func(t *testing.T, cmd *exec.Cmd, errs *os.File)
		says string
	}{
		"hangup": {func(t *testing.T, cmd *exec.Cmd, _ *os.File) { _ = cmd.Process.Signal(syscall.SIGHUP) }, "interrupted"},
		"pipe":   {func(t *testing.T, _ *exec.Cmd, errs *os.File) { _ = errs.Close() }, ""},
		"stop": {func(t *testing.T, _ *exec.Cmd, _ *os.File) {
			(&said{nil, flags}).must(t, "dead-letters", "redrive", "--stop")
		}, "somebody else has ended this redrive"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, command, append([]string{"dead-letters", "redrive"}, flags...)...)
			errs, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			began := time.Now()
			line, err := bufio.NewReader(errs).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "redriving ") || time.Since(began) > 5*time.Second {
				t.Errorf("after %v it says %q, %v", time.Since(began), line, err)
			}
			c.end(t, cmd, errs)
			rest, _ := io.ReadAll(errs) // it may be closed
			_ = cmd.Wait()
			if !strings.Contains(string(rest), c.says) || cmd.ProcessState.Success() {
				t.Errorf("it ended as %v, %s", cmd.ProcessState, rest)
			}
			sub, err := client.SubscriptionAdminClient.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: subs + "orders-dead-letter"})
			if err != nil || sub.GetPushConfig().GetPushEndpoint() != "" {
				t.Errorf("it is still pushed to %q, %v", sub.GetPushConfig().GetPushEndpoint(), err)
			}
			if o, err := records.Open(data).Get(t.Context(), subs+"orders-dead-letter"); o != nil || err != nil {
				t.Errorf("the record is left: %+v, %v", o, err)
			}
		})
	}
}

// fakeGoogle answers as the REST APIs document it. It is a stand-in: the command and
// its clients are real, and so are Pub/Sub and Firestore as far as their emulators are.
type fakeGoogle struct {
	denied  map[string]bool // by the end of the path
	entries []string
}

func (g *fakeGoogle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	b, _ := io.ReadAll(r.Body)
	for end := range g.denied {
		if strings.HasSuffix(r.URL.Path, end) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"error": {"code": 403, "message": "The caller does not have permission"}}`)
			return
		}
	}
	switch {
	case strings.HasSuffix(r.URL.Path, ":testIamPermissions"):
		_, _ = io.WriteString(w, `{"permissions": ["iam.serviceAccounts.actAs"]}`)
	case strings.HasSuffix(r.URL.Path, "/userinfo/v2/me"):
		_, _ = io.WriteString(w, `{"email": "operator@example.com"}`)
	case strings.HasSuffix(r.URL.Path, "/versions/1:access"):
		answer, _ := json.Marshal(map[string]any{"payload": map[string]any{"data": []byte(tokenMarker)}})
		_, _ = w.Write(answer)
	case strings.HasSuffix(r.URL.Path, "/entries:write"):
		g.entries = append(g.entries, string(b))
		_, _ = io.WriteString(w, `{}`)
	default:
		_, _ = io.WriteString(w, `{}`)
	}
}

// outcomes returns those of the lines in the log of operations.
func (g *fakeGoogle) outcomes() (all []string) {
	for _, e := range g.entries {
		var body struct {
			Entries []struct {
				LogName     string
				JSONPayload struct{ Principal, Action, Outcome string }
			}
		}
		_ = json.Unmarshal([]byte(e), &body) // an empty one is a wrong one
		for _, e := range body.Entries {
			all = append(all, strings.Join([]string{e.LogName, e.JSONPayload.Principal, e.JSONPayload.Action, e.JSONPayload.Outcome}, " "))
		}
	}
	return all
}

// TestOperateCloud operates what Terraform's outputs name, as in the cloud.
func TestOperateCloud(t *testing.T) {
	firestore := emulator.Firestore(t)
	google := &fakeGoogle{denied: make(map[string]bool)}
	apis := httptest.NewServer(google)
	defer apis.Close()
	pubSub, err := pushfake.Start(t.Context(), "http://127.0.0.1:1/wrapped?token="+tokenMarker, &pushfake.ServerOptions{Subscription: &pubsubpb.Subscription{
		PushConfig: &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
			OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: "push@p.iam.gserviceaccount.com", Audience: "http://127.0.0.1:1"},
		}},
		DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: 5},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer pubSub.Close()
	project := emulator.Project()
	dir := t.TempDir()
	outputs, err := json.Marshal(map[string]any{"delivery": map[string]any{"value": map[string]any{
		"project": project, "push_account": "push@p.iam.gserviceaccount.com",
		"subscriptions": map[string]any{
			"main":   map[string]any{"name": pubSub.Subscription, "function": "receive", "endpoint": "http://127.0.0.1:1/wrapped", "audience": "http://127.0.0.1:1", "form": "wrapped"},
			"orders": map[string]any{"name": pubSub.Subscription, "function": "orders", "endpoint": "http://127.0.0.1:2/wrapped", "audience": "http://127.0.0.1:2", "form": "wrapped"},
		},
		"dead_letter_subscription": pubSub.DeadLetterSubscription, "token_secret": "projects/p/secrets/s/versions/1",
		"database": "projects/" + project + "/databases/(default)", "collection": "messages", "operations_log": "projects/p/logs/pushinbox-operations",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "terraform"), fmt.Appendf(nil, "#!/bin/sh\ncat <<'END'\n%s\nEND\n", outputs), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("FIRESTORE_EMULATOR_HOST", firestore)
	t.Setenv("PUBSUB_EMULATOR_HOST", "")
	t.Setenv(envPushToken, "")
	googleClients.rest = []option.ClientOption{option.WithEndpoint(apis.URL), option.WithoutAuthentication()}
	defer func() { googleClients.pubsub, googleClients.rest = nil, nil }()
	call := func(args ...string) (string, error) {
		t.Helper()
		conn, err := grpc.NewClient(pubSub.Addr, grpc.WithTransportCredentials(insecure.NewCredentials())) // which the command closes
		if err != nil {
			t.Fatal(err)
		}
		googleClients.pubsub = []option.ClientOption{option.WithGRPCConn(conn)}
		var out bytes.Buffer
		root := newRoot()
		root.SetArgs(append(args, "--terraform", "tf"))
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetIn(strings.NewReader(""))
		err = execute(t.Context(), root)
		if text := out.String() + fmt.Sprint(err) + strings.Join(google.entries, "\n"); strings.Contains(text, tokenMarker) {
			t.Errorf("%q: the token is in %s", args, text)
		}
		return out.String(), err
	}
	config := func() *pubsubpb.PushConfig {
		t.Helper()
		sub, err := pubSub.Client.SubscriptionAdminClient.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: pubSub.Subscription})
		if err != nil {
			t.Fatal(err)
		}
		return sub.PushConfig
	}
	before := config()

	// The dead-letter subscription of the outputs is used only for what it keeps.
	foreign := pubSub.Subscription + "-foreign"
	if _, err := pubSub.Client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: foreign, Topic: pubSub.Topic}); err != nil {
		t.Fatal(err)
	}
	for _, do := range []string{"list", "redrive", "purge --yes"} {
		if out, err := call(append([]string{"dead-letters"}, strings.Fields(do+" --dead-letter-subscription "+foreign)...)...); err == nil || !strings.Contains(err.Error(), "does not keep the dead letters of") {
			t.Errorf("%s of a foreign subscription: %v, %s", do, err, out)
		}
		if out, err := call(append([]string{"dead-letters"}, strings.Fields(do+" --subscription nonexistent")...)...); err == nil || !strings.Contains(err.Error(), "there is no subscription") {
			t.Errorf("%s of no subscription: %v, %s", do, err, out)
		}
	}

	google.denied[":testIamPermissions"] = true
	if _, err := call("delivery", "pause"); err == nil || !proto.Equal(config(), before) {
		t.Errorf("without actAs: %v", err)
	}
	delete(google.denied, ":testIamPermissions")

	google.denied["/entries:write"] = true
	if out, err := call("delivery", "pause"); err == nil || !strings.Contains(out, "logging.logEntries.create") || !strings.Contains(out, "[y/N]") || !proto.Equal(config(), before) {
		t.Errorf("without the right to log: %v, %s", err, out)
	}
	if out, err := call("delivery", "pause", "--yes"); err != nil || !strings.Contains(out, "logging.logEntries.create") || config().GetPushEndpoint() != "" {
		t.Errorf("with --yes: %v, %s", err, out)
	}
	delete(google.denied, "/entries:write")

	google.denied["/versions/1:access"] = true
	if _, err := call("delivery", "resume"); err == nil || !strings.Contains(err.Error(), "secretmanager.versions.access") {
		t.Errorf("without the secret: %v", err)
	}
	delete(google.denied, "/versions/1:access")
	google.entries = nil
	if out, err := call("delivery", "resume"); err != nil || !strings.Contains(out, "operator@example.com") || !proto.Equal(config(), before) {
		t.Errorf("resumed: %v, %s, %v", err, out, config())
	}
	want := []string{
		"projects/p/logs/pushinbox-operations operator@example.com delivery.resume begun", "projects/p/logs/pushinbox-operations operator@example.com delivery.resume done",
	}
	if got := google.outcomes(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log of operations has %q", got)
	}
	// Without a record it is what Terraform says.
	detach := func() {
		t.Helper()
		if _, err := pubSub.Client.SubscriptionAdminClient.UpdateSubscription(t.Context(), &pubsubpb.UpdateSubscriptionRequest{
			Subscription: &pubsubpb.Subscription{Name: pubSub.Subscription, PushConfig: new(pubsubpb.PushConfig)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"push_config"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	detach()
	if out, err := call("delivery", "resume", "--subscription", "orders"); err != nil || config().GetPushEndpoint() != "http://127.0.0.1:2/wrapped" {
		t.Errorf("a function that is not receive: %v, %s, it is pushed to %s", err, out, config().GetPushEndpoint())
	}
	detach()
	if out, err := call("delivery", "resume"); err != nil || !strings.Contains(out, "Terraform's outputs") || !proto.Equal(config(), before) {
		t.Errorf("rebuilt: %v, %s, %v, was %v", err, out, config(), before)
	}
	if out, err := call("delivery", "pause"); err != nil || !strings.Contains(out, `paused = ["main"]`) || !strings.Contains(out, time.Now().AddDate(0, 0, 7).Format("2006-01-02")) {
		t.Errorf("paused: %v, %s", err, out)
	}
	kept, err := firestorerecords.Open(t.Context(), firestoreinbox.Config{Project: project, Database: "(default)", Collection: "messages", EmulatorHost: firestore})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	o, err := kept.Get(t.Context(), pubSub.Subscription)
	if err != nil || o == nil || o.Principal != "operator@example.com" || bytes.Contains(o.PushConfig, []byte(tokenMarker)) || !bytes.Contains(o.PushConfig, []byte("/wrapped?token=")) {
		t.Errorf("the record is %+v, %v", o, err)
	}
}

// TestRebuiltAsApplied compares what resume rebuilds from Terraform's outputs with what
// an apply of the module gives each subscription, in each form and with a token.
func TestRebuiltAsApplied(t *testing.T) {
	t.Parallel()
	const more = `more_subscriptions = { inbox-unwrapped = { form = "unwrapped" }, inbox-bare = { form = "bare" } }`
	for name, c := range map[string]struct{ settings, token string }{
		"without_token": {more, ""},
		"with_token":    {more + "\nverification_token = \"" + tokenMarker + "\"", tokenMarker},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := doctortest.New(t, c.settings)
			o, err := doctor.ReadOutputs(world.Outputs)
			if err != nil || o.Delivery.Value == nil {
				t.Fatal(err, string(world.Outputs))
			}
			d := o.Delivery.Value
			if hasSecret := d.TokenSecret != ""; hasSecret != (c.token != "") || len(d.Subscriptions) != 3 || d.DeadLetterSubscription == "" || d.Collection == "" {
				t.Errorf("the output is %+v", d)
			}
			for key, s := range d.Subscriptions {
				b, err := json.Marshal(world.Objects["pubsub/"+s.Name]["pushConfig"])
				if err != nil {
					t.Fatal(err)
				}
				applied := new(pubsubpb.PushConfig)
				if err := protojson.Unmarshal(b, applied); err != nil || applied.PushEndpoint == "" {
					t.Fatalf("%s is applied as %s: %v", key, b, err)
				}
				// Google writes its default out.
				if applied.Attributes["x-goog-version"] == "v1" {
					applied.Attributes = nil
				}
				rebuilt, err := pushConfig(&s.Wanted, d.PushAccount, c.token)
				if err != nil || !proto.Equal(rebuilt, applied) {
					t.Errorf("%s is rebuilt as %v, applied as %v, %v", key, rebuilt, applied, err)
				}
			}
		})
	}
}
