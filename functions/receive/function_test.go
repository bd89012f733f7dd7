package receive

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/fresh"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/port"
	"example.com/pushinbox/testkit/pushattack"
)

const (
	audience    = "https://receive-1.europe-west1.run.app"
	pushAccount = "push@p.iam.gserviceaccount.com"
	secret      = "s3cr&t+/ %"
)

// TestRegisteredFunction sends hostile and good requests to the function as
// the functions framework serves it, wired from the environment. Only the
// network is not the real one: Google's keys come from a local issuer, and
// Firestore is the emulator.
func TestRegisteredFunction(t *testing.T) {
	firestore := emulator.Firestore(t)
	t.Setenv("FIRESTORE_EMULATOR_HOST", firestore)
	if !fresh.Process(t) {
		return
	}
	project := emulator.Project()
	t.Setenv("GOOGLE_CLOUD_PROJECT", project)
	t.Setenv("PUSH_AUDIENCE", audience)
	t.Setenv("PUSH_SERVICE_ACCOUNT", pushAccount)
	t.Setenv("PUBSUB_VERIFICATION_TOKEN", secret)
	issuer, _ := google.Issuer(t)
	google.Serve(t, google.Relay(issuer.Transport()))

	reserved := port.Reserve(t)
	go func() { _ = funcframework.StartHostPort("127.0.0.1", reserved) }()
	base := "http://127.0.0.1:" + reserved
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := port.Listening(ctx, reserved); err != nil {
		t.Fatal(err)
	}

	store, err := firestoreinbox.Open(t.Context(), firestoreinbox.Config{
		Project: project, Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour,
		EmulatorHost: firestore,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	stored := func() []inbox.Message {
		page, err := store.List(context.Background(), inbox.Query{})
		if err != nil {
			t.Fatal(err)
		}
		return page.Messages()
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	send := func(t *testing.T, r *http.Request, want int) {
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("answered %d, want %d: %s", resp.StatusCode, want, body)
		}
	}

	to := pushattack.Target{
		URL:  base + "/receive?" + url.Values{"token": {secret}}.Encode(),
		Keys: google.Keys(t, issuer), Mint: google.Mint(issuer, audience, pushAccount),
	}
	cases, err := pushattack.Cases(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			send(t, c.Request, c.Status)
		})
	}
	if n := len(stored()); n != 0 {
		t.Fatalf("%d messages were stored", n)
	}
	for range 2 {
		r, err := pushattack.Good(to)
		if err != nil {
			t.Fatal(err)
		}
		send(t, r, http.StatusNoContent)
	}
	if got := stored(); len(got) != 1 || string(got[0].Data) != "hostile" || got[0].Verified.Email != pushAccount {
		t.Errorf("stored %+v", got)
	}
}
