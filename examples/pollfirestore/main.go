// Command pollfirestore follows an inbox and writes what it finds to Firestore, each
// message once.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
)

// maxPart is how many bytes of data are in one document, which Firestore limits to 1 MiB.
const maxPart = 1_000_000

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
			if refused := (*inboxclient.Error)(nil); errors.As(err, &refused) && refused.Status < 500 && refused.Status != http.StatusTooManyRequests {
				log.Fatal(err) // asking again cannot help
			}
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
		if e.Message.Quarantined != "" { // its data are a push that could not be decoded
			fmt.Println("skipped", e.Message.MessageID, "quarantined:", string(e.Message.Quarantined))
			continue
		}
		if e.Message.Truncated { // Follow yields the first 4 KiB
			all, err := console.Get(ctx, e.Message.ID)
			if inboxclient.IsNotFound(err) {
				fmt.Println("skipped", e.Message.MessageID, "expired")
				continue
			}
			if err != nil {
				return err
			}
			e.Message = all
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
	// Parts go before the transaction, which has 10 MiB at most; again, they are the same.
	data, parts := e.Message.Data, 0
	for ; len(data) > maxPart; parts++ {
		part := client.Doc(fmt.Sprintf("parts/%s-%d", e.Message.ID, parts))
		if _, err := part.Set(ctx, map[string]any{"data": data[:maxPart]}); err != nil {
			return p, err
		}
		data = data[maxPart:]
	}
	var committed firestore.CommitResponse
	err := client.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) error {
		effect := map[string]any{"message": e.Message.ID, "parts": parts, "data": data}
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
