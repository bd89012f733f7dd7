package calendar

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/fresh"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/port"
)

// TestRegisteredFunction watches and syncs through the function as the
// functions framework serves it, wired from the environment, with Firestore's
// emulator behind it and a Pub/Sub that pushes. Of Google's only the addresses
// are the real ones: keys, tokens and Calendar are stood in for.
func TestRegisteredFunction(t *testing.T) {
	firestore := emulator.Firestore(t)
	t.Setenv("FIRESTORE_EMULATOR_HOST", firestore)
	if !fresh.Process(t) {
		return
	}
	project := emulator.Project()
	reserved := port.Reserve(t)
	function := "http://127.0.0.1:" + reserved

	issuer, _ := google.Issuer(t)
	pubSub, err := pushfake.Start(t.Context(), function+"/sync", &pushfake.ServerOptions{
		Subscription: &pubsubpb.Subscription{
			Topic: "projects/" + project + "/topics/calendar-sync",
			PushConfig: &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
				OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: operator, Audience: audience},
			}},
		},
		Dispatcher: pushfake.Options{Issuer: issuer},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pubSub.Close()
	for name, value := range map[string]string{
		"FUNCTION_TARGET":                "calendar",
		"PUBSUB_EMULATOR_HOST":           pubSub.Addr,
		"GOOGLE_CLOUD_PROJECT":           project,
		"GOOGLE_APPLICATION_CREDENTIALS": google.AccountKey(t),
		"CALENDAR_ADDRESS":               audience + pathNotifications,
		"CALENDAR_AUDIENCE":              audience,
		"CALENDAR_OPERATORS":             operator,
		"CALENDAR_SYNC_TOPIC":            "calendar-sync",
	} {
		t.Setenv(name, value)
	}
	cloud := serveGoogle(t, issuer, "127.0.0.1:"+reserved)
	cloud.AddCalendar(demo)
	event := calendarfake.Event{"summary": "Lunch", "start": map[string]any{"date": "2026-12-01"}, "end": map[string]any{"date": "2026-12-02"}}
	added, err := cloud.Insert(demo, event)
	if err != nil {
		t.Fatal(err)
	}

	go func() { _ = funcframework.StartHostPort("127.0.0.1", reserved) }()
	start, cancelStart := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancelStart()
	if err := port.Listening(start, reserved); err != nil {
		t.Fatal(err)
	}
	store, err := firestoreinbox.Open(t.Context(), firestoreinbox.Config{
		Project: project, Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour, EmulatorHost: firestore,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	page, err := store.List(t.Context(), inbox.Query{})
	if err != nil {
		t.Fatal(err)
	}

	token := google.Token(t, issuer, audience, operator)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, function+"/watch?calendar="+demo, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || !strings.Contains(string(b), `"calendarId":"`+demo+`"`) {
		t.Fatalf("watch answered %d %s", resp.StatusCode, b)
	}

	// What was there, a change, and a deletion, each after the one before it.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	edits := []func() error{
		func() error {
			_, err := cloud.Patch(demo, added["id"].(string), calendarfake.Event{"summary": "Late lunch"})
			return err
		},
		func() error { return cloud.Delete(demo, added["id"].(string)) },
		func() error { cancel(); return nil },
	}
	var got []string
	for e, err := range store.Watch(ctx, inbox.Query{PageToken: page.WatchToken}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == len(edits) {
			break // the watch has not seen yet that it is over
		}
		got = append(got, fmt.Sprint(e.Message.Subscription, " ", e.Message.Attributes["change"]))
		if err := edits[len(got)-1](); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{demo + " added", demo + " updated", demo + " deleted"}, got); diff != "" {
		t.Errorf("the inbox (-want +got)\n%s", diff)
	}
}

// toFunction carries notifications to the function, wherever they are addressed.
type toFunction struct{ host string }

func (f toFunction) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", f.host
	return http.DefaultTransport.RoundTrip(r)
}

// serveGoogle makes every connection that http.DefaultTransport, or a clone of
// it, opens for https lead to a server that stands in for Google: for the keys,
// for tokens, and for Calendar, which it returns.
func serveGoogle(t *testing.T, issuer *pushfake.Issuer, host string) *calendarfake.Server {
	cloud := calendarfake.New(&calendarfake.Options{Transport: toFunction{host}})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { cloud.Run(ctx) })
	keys := google.Relay(issuer.Transport())
	google.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host == "oauth2.googleapis.com":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"made-up","token_type":"Bearer","expires_in":3600}`)
		case r.Host == "www.googleapis.com" && strings.HasPrefix(r.URL.Path, "/calendar/v3/"):
			if r.Header.Get("Authorization") != "Bearer made-up" {
				http.Error(w, "no token", http.StatusUnauthorized)
				return
			}
			http.StripPrefix("/calendar/v3", cloud).ServeHTTP(w, r)
		default:
			keys.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return cloud
}
