package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/port"
)

// slow is how long an emulator may take from its start to its first answer.
const slow = 30 * time.Second

// TestPubSubEmulatorRestarts restarts Google's emulator, which then numbers from 1
// again, under a local run and between two.
func TestPubSubEmulatorRestarts(t *testing.T) {
	t.Parallel()
	e := emulator.ForgetfulPubSub(t)
	data := t.TempDir()
	more := []string{"PUBSUB_EMULATOR_HOST=" + e.Host(), "GOOGLE_CLOUD_PROJECT=restarts"}
	r := start(t, data, more...)
	publish := func(text string) {
		t.Helper()
		r.publish(t, "", "text/plain", text)
		r.acknowledged(t, 1)
	}
	publish("first run")
	e.Stop()
	r.says(t, soon, "Pub/Sub's emulator at "+e.Host()+" does not answer")
	e.Start()
	r.says(t, slow, "was restarted: its topics and subscriptions are created again")
	publish("second run")
	// A program that knows nothing of this connection.
	client, err := pushfake.Dial(t.Context(), e.Host(), "restarts")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.TopicAdminClient.Publish(t.Context(), &pubsubpb.PublishRequest{
		Topic: "projects/restarts/topics/inbox", Messages: []*pubsubpb.PubsubMessage{{Data: []byte("by another program")}},
	}); err != nil {
		t.Fatal(err)
	}
	r.acknowledged(t, 1)
	if err := client.SubscriptionAdminClient.DeleteSubscription(t.Context(), &pubsubpb.DeleteSubscriptionRequest{
		Subscription: "projects/restarts/subscriptions/inbox-push",
	}); err != nil {
		t.Fatal(err)
	}
	r.says(t, soon, "has lost a subscription: ")
	publish("after a deletion")
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.done
	e.Stop()
	e.Start()
	r = start(t, data, more...)
	publish("third run")
	// How delivery goes is known, but for what waits.
	var report delivery.Report
	if err := json.Unmarshal(r.get(t, "/delivery"), &report); err != nil {
		t.Fatal(err)
	}
	if sub := report.Subscriptions[0]; sub.Name != "projects/restarts/subscriptions/inbox-push" || sub.State != delivery.Delivering || sub.Backlog != nil || *sub.LastHour.Pushes != 1 ||
		len(report.Subscriptions) != 3 || len(report.Unknown) != 1 || report.Unknown[0].What != "numbers" {
		t.Errorf("GET /delivery: %+v", report)
	}
	if all := r.messages(t); len(all) != 5 {
		t.Errorf("%d messages were kept of 5: %+v", len(all), all)
	}
}

func TestFirestoreEmulatorRestarts(t *testing.T) {
	t.Parallel()
	e := emulator.ForgetfulFirestore(t)
	r := start(t, t.TempDir(), "FIRESTORE_EMULATOR_HOST="+e.Host(), "GOOGLE_CLOUD_PROJECT=restarts", "--retry-backoff=0s,1s")
	r.publish(t, "", "text/plain", "before")
	r.acknowledged(t, 1)
	e.Stop()
	r.says(t, soon, "Firestore's emulator at "+e.Host()+" does not answer")
	e.Start()
	r.says(t, slow, "was restarted: what it had stored is gone")
	r.publish(t, "", "text/plain", "after")
	r.acknowledged(t, 1)
	if all := r.messages(t); len(all) != 1 || string(all[0].Data) != "after" {
		t.Errorf("stored are %+v", all)
	}
}

// TestEmulatorThatIsNotThere holds the start to one line, soon.
func TestEmulatorThatIsNotThere(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	plain := other.Listener.Addr().String()
	down := "127.0.0.1:" + port.Reserve(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for _, variable := range []string{"PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST"} {
		for name, test := range map[string]struct{ value, want string }{
			"down":         {down, "does not answer at " + variable + "=" + down},
			"not_grpc":     {plain, "does not answer at " + variable + "=" + plain},
			"silent":       {silent.Addr().String(), "does not answer yet; waiting 30s"},
			"http":         {"http://" + down, "is not HOST:PORT; write " + variable + "=" + down + ", without http://"},
			"https":        {"https://localhost:8085/", "is not HOST:PORT; write " + variable + "=localhost:8085, without"},
			"path":         {down + "/", "is not HOST:PORT; write " + variable + "=" + down},
			"only_a_name":  {"localhost", "is not HOST:PORT; write " + variable + "=localhost:8085"},
			"no_brackets":  {"::1:8085", "is not HOST:PORT"},
			"unknown_name": {"emulator.invalid:8085", "does not answer at " + variable},
		} {
			t.Run(strings.ToLower(variable)+"_"+name, func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), command, "local", "--port", "0", "--pubsub-port", "0", "--data", t.TempDir())
				cmd.Env = append(cmd.Environ(), variable+"="+test.value)
				said := make(saying, 100)
				cmd.Stderr = said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
				select {
				case line := <-said:
					if !strings.Contains(line, test.want) || strings.Count(line, "\n") != 1 {
						t.Errorf("said %q, want %q", line, test.want)
					}
				case <-time.After(soon):
					t.Error("said nothing")
				}
				switch {
				case name == "silent":
					return // and waits on
				case variable == "FIRESTORE_EMULATOR_HOST" && strings.HasPrefix(test.want, "does not answer"):
					return // and runs on
				}
				if err := cmd.Wait(); err == nil || len(said) > 0 {
					t.Errorf("%v, and said %d lines more", err, len(said))
				}
			})
		}
	}
}
