// Package firestoretrigger is a Cloud Function of a user on a Firestore trigger: it
// counts the messages that an inbox stores on each day, each message once.
// README.md explains it.
package firestoretrigger

import (
	"cmp"
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/shared/process"
)

func init() { functions.CloudEvent("count", count) }

// collection is that of the inbox, INBOX_COLLECTION.
const collection = "messages"

var open = sync.OnceValues(func() (*firestore.Client, error) {
	return firestore.NewClientWithDatabase(context.Background(), os.Getenv("GOOGLE_CLOUD_PROJECT"), cmp.Or(os.Getenv("FIRESTORE_DATABASE"), "(default)"))
})

// count counts the message whose document the event is about. The event comes at least
// once: an error, and now and then nothing at all, makes it come again.
func count(ctx context.Context, e event.Event) error {
	name, _ := e.Extensions()["document"].(string) // such as messages/f74e1a39…
	id, ok := strings.CutPrefix(name, collection+"/")
	if !ok || id == "" || strings.Contains(id, "/") {
		return nil // not a message; an error would make it come again for a day
	}
	client, err := open()
	if err != nil {
		return err
	}
	return client.RunTransaction(ctx, func(ctx context.Context, tx *firestore.Transaction) error {
		_, err := process.Once(ctx, tx, client.Collection("counted"), id, func(context.Context) error {
			message, err := tx.Get(client.Collection(collection).Doc(id))
			if status.Code(err) == codes.NotFound {
				return nil // it has expired
			}
			if err != nil {
				return err
			}
			var m struct {
				ReceivedAt time.Time `firestore:"receivedAt"`
				Size       int64     `firestore:"size"`
			}
			if err := message.DataTo(&m); err != nil {
				return err
			}
			day := client.Collection("days").Doc(m.ReceivedAt.UTC().Format(time.DateOnly))
			return tx.Set(day, map[string]any{"messages": firestore.Increment(1), "bytes": firestore.Increment(m.Size)}, firestore.MergeAll)
		})
		return err
	})
}
