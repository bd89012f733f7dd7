// Command pollfirestore follows an inbox and writes what it finds to Firestore, each
// message once.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := firestore.NewClient(ctx, os.Getenv("GOOGLE_CLOUD_PROJECT"))
	if err != nil {
		log.Fatal(err)
	}
	// A deployed inbox wants inboxclient.Options.Tokens.
	console, err := inboxclient.New(os.Getenv("INBOX_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	for ctx.Err() == nil {
		if err := follow(ctx, console, client); err != nil {
			fmt.Println(err) // the inbox is being restarted, or the network is away
			time.Sleep(time.Second)
		}
	}
}

// progress is where the program stands: the token, and when it was written, which is
// never for a token that no message was processed for.
type progress struct {
	token string
	at    time.Time
}

// follow processes messages until there is an error.
func follow(ctx context.Context, console *inboxclient.Client, client *firestore.Client) error {
	var p progress
	if d, err := client.Doc("progress/pollfirestore").Get(ctx); err == nil {
		p.token, _ = d.Data()["token"].(string)
		p.at = d.UpdateTime
	} else if status.Code(err) != codes.NotFound {
		return err
	}
	for e, err := range console.Follow(ctx, inbox.Query{PageToken: p.token, Source: inbox.SourcePubSub}) {
		if err != nil {
			return err
		}
		if p, err = process(ctx, client, p, e); err != nil {
			return err
		}
		fmt.Println("processed", e.Message.MessageID)
	}
	return nil
}

// process writes the effect of a message and the token after it in one transaction,
// which fails where another program has moved the token.
func process(ctx context.Context, client *firestore.Client, p progress, e inboxclient.Event) (progress, error) {
	at := client.Doc("progress/pollfirestore")
	var committed firestore.CommitResponse
	err := client.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) error {
		effect := map[string]any{"message": e.Message.ID, "data": e.Message.Data}
		if err := tx.Create(client.Collection("effects").NewDoc(), effect); err != nil {
			return err
		}
		if p.at.IsZero() {
			return tx.Create(at, map[string]any{"token": e.Token})
		}
		return tx.Update(at, []firestore.Update{{Path: "token", Value: e.Token}}, firestore.LastUpdateTime(p.at))
	}, firestore.WithCommitResponseTo(&committed))
	if err != nil {
		return p, err
	}
	return progress{e.Token, committed.CommitTime()}, nil
}
