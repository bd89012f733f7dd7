package pushfake

import (
	"net/http"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
)

// Push is one push of a message, for a program that sends it itself.
type Push struct {
	Message *pubsubpb.PubsubMessage
	// Subscription is the full name.
	Subscription string
	// Attempt is the delivery attempt; 0 leaves it out, as Pub/Sub does where there
	// is no dead-letter policy.
	Attempt int
	// Unwrapped has the body be the message's data, and Metadata the rest be in
	// headers.
	Unwrapped, Metadata bool
}

// Request returns the headers of p, but for the credential, and its body.
func (p Push) Request() (http.Header, []byte) {
	e := encoding{subscription: p.Subscription, userAgent: defaultAgent, unwrapped: p.Unwrapped, metadata: p.Metadata, attempts: p.Attempt > 0}
	return e.header(p.Message, ""), e.body(p.Message, p.Attempt)
}
