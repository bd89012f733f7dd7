// Package orders is a Cloud Function of a user: it keeps the orders that a shop
// publishes, and each customer's total, in the transaction that stores the message.
// README.md explains it.
package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"

	"cloud.google.com/go/firestore"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/process"
)

func init() {
	functions.HTTP("orders", process.Handler(process.Config{Name: "orders"}, place))
}

// order is the data of a message. The shop publishes it with the customer as the
// ordering key, so that the orders of one customer arrive one after another.
type order struct {
	Number string `json:"number"`
	Cents  int64  `json:"cents"`
}

// name is what a number and a customer look like: a document can be named so.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,99}$`)

// place keeps an order and adds it to its customer's total.
func place(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
	var o order
	if err := json.Unmarshal(m.Data, &o); err != nil {
		return process.Reject(fmt.Errorf("not an order: %w", err))
	}
	if !name.MatchString(o.Number) || !name.MatchString(m.OrderingKey) || o.Cents <= 0 {
		return process.Reject(fmt.Errorf("order %.100q of %.100q over %d cents is not complete", o.Number, m.OrderingKey, o.Cents))
	}

	// All reads come before the first write: Firestore wants it so.
	client := process.Client(ctx)
	placed := client.Collection("orders").Doc(o.Number)
	customer := client.Collection("customers").Doc(m.OrderingKey)
	docs, err := tx.GetAll([]*firestore.DocumentRef{placed, customer})
	if err != nil {
		return err // Pub/Sub delivers the message again
	}
	if docs[0].Exists() {
		return nil // the shop published it twice: another message, the same order
	}
	var c struct {
		Orders int64  `firestore:"orders"`
		Cents  int64  `firestore:"cents"`
		Last   string `firestore:"last"`
	}
	if docs[1].Exists() {
		if err := docs[1].DataTo(&c); err != nil {
			return err
		}
	}

	// An effect that is not in Firestore happens in each run of this function, and it
	// may run several times for a message. m.ID is the same in all of them, and payment
	// services have an idempotency key for just that. (A dead letter that is redriven has
	// another ID. Where that can happen, a name of your own is the better key, such as
	// o.Number.) With Stripe's client:
	//
	//	charge := &stripe.PaymentIntentParams{Amount: &o.Cents, Currency: stripe.String("eur"), Customer: &m.OrderingKey}
	//	charge.SetIdempotencyKey(m.ID)
	//	if _, err := paymentintent.New(charge); err != nil {
	//		return err
	//	}

	c.Orders, c.Cents, c.Last = c.Orders+1, c.Cents+o.Cents, o.Number
	if err := tx.Create(placed, map[string]any{"customer": m.OrderingKey, "cents": o.Cents, "message": m.ID}); err != nil {
		return err
	}
	return tx.Set(customer, c)
}
