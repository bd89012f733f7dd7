// Command readfirestore reads an inbox with Firestore's own client: it prints the
// newest messages with all their data, then each new message until Ctrl-C.
// docs/firestore.md describes the documents that it reads.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"cloud.google.com/go/firestore"
)

const (
	collection = "messages" // INBOX_COLLECTION
	shards     = 16         // INBOX_SHARDS
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
	newest := client.Collection(collection).
		Where("shard", "in", all).
		OrderBy("receivedAt", firestore.Desc).
		Limit(10)

	// A listener gives what the query finds now, and then what changes.
	snapshots := newest.Snapshots(ctx)
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
