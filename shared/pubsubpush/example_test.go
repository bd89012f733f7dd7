package pubsubpush_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"

	"example.com/pushinbox/shared/pubsubpush"
)

// A wrapped push, the form that Pub/Sub sends by default.
func ExampleForm_Decode() {
	header := http.Header{"Content-Type": {"application/json"}}
	body := `{"message": {"data": "SGVsbG8sIFdvcmxkIQ==", "messageId": "2070443601311540"},
		"subscription": "projects/p/subscriptions/s"}`
	m, err := pubsubpush.Wrapped.Decode(header, []byte(body))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", m.MessageID, m.Data)

	_, err = pubsubpush.Wrapped.Decode(header, []byte("Hello, World!"))
	fmt.Println(errors.Is(err, pubsubpush.ErrMalformed))
	// Output:
	// 2070443601311540: Hello, World!
	// true
}

// On the path of an endpoint for bare pushes an envelope is data: a publisher
// cannot choose the message ID or the subscription.
func ExampleFormOf() {
	body := []byte(`{"message": {"messageId": "1"}, "subscription": "projects/p/subscriptions/other"}`)
	m, err := pubsubpush.FormOf("/bare").Decode(http.Header{}, body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.MessageID == "1", m.Subscription == "", len(m.Data) == len(body))
	// Output: false true true
}
