package inbox_test

import (
	"errors"
	"fmt"

	"example.com/pushinbox/shared/inbox"
)

// A redelivery has the ID of the first delivery. The same message ID of another
// subscription is another message.
func ExampleID() {
	first := inbox.ID(inbox.SourcePubSub, "projects/p/subscriptions/orders", "2070443601311540")
	again := inbox.ID(inbox.SourcePubSub, "projects/p/subscriptions/orders", "2070443601311540")
	other := inbox.ID(inbox.SourcePubSub, "projects/p/subscriptions/audit", "2070443601311540")
	fmt.Println(len(first), first == again, first == other)
	// Output: 40 true false
}

func ExampleMessage_Validate() {
	m := inbox.Message{Source: inbox.SourcePubSub, Data: []byte("Hello, World!")}
	err := m.Validate()
	fmt.Println(errors.Is(err, inbox.ErrInvalid))
	m.MessageID = "2070443601311540"
	fmt.Println(m.Validate())
	// Output:
	// true
	// <nil>
}
