// Command readfirestore reads an inbox with Firestore's own client: it prints the ten
// newest messages or some more, with all their data, then each new message until Ctrl-C.
// docs/firestore.md describes the documents that it reads.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"cloud.google.com/go/firestore"
)

const (
	collection = "messages" // INBOX_COLLECTION
	shards     = 16         // INBOX_SHARDS
	// late is how long after its receivedAt a message may become visible.
	late = 15 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Getenv("GOOGLE_CLOUD_PROJECT")); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, project string) error {
	client, err := firestore.NewClient(ctx, project)
	if err != nil {
		return err
	}
	defer client.Close()

	all := make([]int, shards)
	for i := range all {
		all[i] = i
	}
	messages := client.Collection(collection).Where("shard", "in", all)
	newest, err := messages.OrderBy("receivedAt", firestore.Desc).Limit(10).Select("receivedAt").Documents(ctx).GetAll()
	if err != nil {
		return err
	}
	var since time.Time
	if len(newest) > 0 {
		oldest, _ := newest[len(newest)-1].Data()["receivedAt"].(time.Time)
		since = oldest.Add(-late)
	}

	// A listener gives what the query finds now, and then what changes. A limit would
	// leave out messages when more than that arrive at once. The client has in memory what
	// the query finds: a program that runs for days begins again from time to time.
	snapshots := messages.Where("receivedAt", ">=", since).OrderBy("receivedAt", firestore.Asc).Snapshots(ctx)
	defer snapshots.Stop()
	for {
		snapshot, err := snapshots.Next()
		if err != nil {
			return err
		}
		for _, change := range snapshot.Changes {
			if change.Kind != firestore.DocumentAdded {
				continue
			}
			data, err := dataOf(ctx, client, change.Doc)
			if err != nil {
				return err
			}
			fmt.Println(change.Doc.Ref.ID, change.Doc.Data()["messageId"], len(data), "bytes")
		}
	}
}

// dataOf returns all data of a message.
func dataOf(ctx context.Context, client *firestore.Client, doc *firestore.DocumentSnapshot) ([]byte, error) {
	var m struct {
		Data     []byte `firestore:"data"`
		DataRest []byte `firestore:"dataRest"`
		Chunks   int    `firestore:"chunks"`
		SHA256   []byte `firestore:"sha256"`
	}
	if err := doc.DataTo(&m); err != nil {
		return nil, err
	}
	data := append(m.Data, m.DataRest...)
	for i := range m.Chunks {
		name := fmt.Sprintf("%s-%x-%02d", doc.Ref.ID, m.SHA256[:20], i)
		chunk, err := client.Collection(collection + "-chunks").Doc(name).Get(ctx)
		if err != nil {
			return nil, err
		}
		part, _ := chunk.Data()["data"].([]byte)
		data = append(data, part...)
	}
	return data, nil
}
