// Package greet is a function of a user's own, as small as one can be.
package greet

import (
	"context"

	"cloud.google.com/go/firestore"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/process"
)

func init() {
	functions.HTTP("greet", process.Handler(process.Config{Name: "greet"}, greet))
}

// greet keeps a greeting for each message.
func greet(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
	return tx.Create(process.Client(ctx).Collection("greetings").Doc(m.ID), map[string]any{"hello": string(m.Data)})
}
