package firestoretrigger

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/fresh"
	"example.com/pushinbox/testkit/port"
)

// TestCount sends the events of some messages, each several times and at the same time,
// to the function as the functions framework serves it: each message is counted once.
func TestCount(t *testing.T) {
	t.Setenv("FIRESTORE_EMULATOR_HOST", emulator.Firestore(t))
	if !fresh.Process(t) {
		return
	}
	project := emulator.Project()
	t.Setenv("GOOGLE_CLOUD_PROJECT", project)
	t.Setenv("FUNCTION_TARGET", "count")
	in, err := firestoreinbox.Open(t.Context(), firestoreinbox.Config{
		Project: project, Database: "(default)", Collection: collection, Shards: 16, TTL: time.Hour, EmulatorHost: emulator.Firestore(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	at := port.Reserve(t)
	go func() { _ = funcframework.StartHostPort("127.0.0.1", at) }()
	if err := port.Listening(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	// deliver sends an event as Eventarc does, in CloudEvents' binary form, and returns
	// the answer's status.
	deliver := func(document string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:"+at+"/", strings.NewReader("\n\x00"))
		if err != nil {
			t.Error(err)
			return 0
		}
		for name, value := range map[string]string{
			"Content-Type": "application/protobuf", "ce-specversion": "1.0", "ce-id": "1", "ce-type": "google.cloud.firestore.document.v1.created",
			"ce-source": "//firestore.googleapis.com/projects/" + project + "/databases/(default)", "ce-subject": "documents/" + document,
			"ce-project": project, "ce-database": "(default)", "ce-document": document,
		} {
			r.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}

	const messages = 6
	for i := range messages {
		if _, err := in.Put(t.Context(), &inbox.Message{Source: inbox.SourcePubSub, Subscription: "projects/p/subscriptions/s", MessageID: fmt.Sprint(i), Data: []byte("hello")}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := in.List(t.Context(), inbox.Query{})
	if err != nil || len(page.Messages()) != messages {
		t.Fatal(len(page.Messages()), err)
	}
	var all sync.WaitGroup
	for _, m := range page.Messages() {
		for range 4 {
			all.Go(func() {
				for code := 0; code != http.StatusOK && t.Context().Err() == nil; { // as Eventarc does
					code = deliver(collection + "/" + m.ID)
				}
			})
		}
	}
	all.Wait()
	for _, document := range []string{collection + "/expired", "others/1", collection + "/1/below/2", ""} {
		if code := deliver(document); code != http.StatusOK {
			t.Errorf("the event of %q is answered %d and would come again", document, code)
		}
	}

	client, err := firestore.NewClient(t.Context(), project)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	days, err := client.Collection("days").Documents(t.Context()).GetAll()
	if err != nil {
		t.Fatal(err)
	}
	counted, bytes := int64(0), int64(0)
	for _, d := range days { // two, at midnight
		counted += d.Data()["messages"].(int64)
		bytes += d.Data()["bytes"].(int64)
	}
	if counted != messages || bytes != 5*messages {
		t.Errorf("%d messages with %d bytes are counted, want %d with %d", counted, bytes, messages, 5*messages)
	}
}
