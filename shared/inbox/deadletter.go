package inbox

import (
	"strconv"
	"time"
)

// DeadLetter is what is left of the message that a dead letter was: Pub/Sub gave it
// another message ID, so that the two cannot be told to be the same by it.
type DeadLetter struct {
	// Subscription is the full name of the subscription that gave the message up.
	Subscription string `json:"subscription"`
	// Attempts is how often it was delivered before, about; 0 when that is unknown.
	Attempts int `json:"attempts"`
	// PublishTime is when the message was published first; zero when unknown.
	PublishTime time.Time `json:"publishTime,omitzero"`
}

// DeadLetterSource begins the names of the attributes that Pub/Sub adds to a message
// when it moves it to a dead-letter topic.
const DeadLetterSource = "CloudPubSubDeadLetterSource"

// DeadLetterOf returns what m was before it died, or nil if m is no dead letter.
// subscription is the full name of the subscription that has the dead letters, and only
// what came by it is believed: everybody who may publish can set these attributes.
func DeadLetterOf(m *Message, subscription string) *DeadLetter {
	a := m.Attributes
	project, id := a[DeadLetterSource+"SubscriptionProject"], a[DeadLetterSource+"Subscription"]
	if subscription == "" || m.Source != SourcePubSub || m.Subscription != subscription || !isName(project) || !isName(id) {
		return nil
	}
	d := DeadLetter{Subscription: "projects/" + project + "/subscriptions/" + id}
	if n, err := strconv.ParseInt(a[DeadLetterSource+"DeliveryCount"], 10, 32); err == nil && n > 0 {
		d.Attempts = int(n)
	}
	// Observed: 2026-11-26T02:10:00.123+00:00.
	if t, err := time.Parse(time.RFC3339Nano, a[DeadLetterSource+"TopicPublishTime"]); err == nil && t.UTC().Year() >= 1 && t.UTC().Year() <= 9999 {
		d.PublishTime = t.UTC()
	}
	return &d
}

// isName reports whether s can be the ID of a project or of a subscription.
func isName(s string) bool {
	for _, r := range s {
		isLetter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !isLetter && r != '-' && r != '_' && r != '.' && r != '~' && r != '+' && r != '%' && r != ':' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}
