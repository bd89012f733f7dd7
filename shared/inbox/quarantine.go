package inbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// MaxQuarantinedSize is the largest body that is quarantined, in bytes: as large
// as a push can be.
const MaxQuarantinedSize = 15 << 20

// Reason is why a push of the verified sender could not be decoded. Its JSON form
// is {"reason": "…"}.
type Reason string

// The reasons. Every one is a value that Message.Validate accepts.
const (
	ReasonEnvelope    Reason = "malformed-envelope"
	ReasonMessageID   Reason = "no-message-id"
	ReasonData        Reason = "not-base64"
	ReasonAttributes  Reason = "malformed-attributes"
	ReasonField       Reason = "malformed-field"
	ReasonMetadata    Reason = "malformed-metadata"
	ReasonLimits      Reason = "over-limits"
	ReasonUnknownForm Reason = "unknown-form"
	ReasonRejected    Reason = "rejected"
)

var reasonWords = map[Reason]string{
	ReasonEnvelope:    `The body is not the JSON object with a member "message" that a wrapped push is. If the subscription unwraps payloads, let it push to /unwrapped or /bare.`,
	ReasonMessageID:   "The message in the body has no ID.",
	ReasonData:        "The data in the body is not base64.",
	ReasonAttributes:  "The attributes in the body are not names with texts.",
	ReasonField:       "A field in the body has a value that it cannot have.",
	ReasonMetadata:    "The headers x-goog-pubsub-* are missing, doubled or malformed. Let the subscription write metadata, or push to /wrapped or /bare.",
	ReasonLimits:      "The message is larger than an inbox stores, in its data, its attributes or one of its names, or it has text that is not UTF-8.",
	ReasonRejected:    "The function that processes these messages rejected it for good; its log has the cause.",
	ReasonUnknownForm: "The body has none of the forms that the sender's pushes have.",
}

// Words returns what r means, in sentences for people; empty for what is not one of
// the reasons.
func (r Reason) Words() string { return reasonWords[r] }

type reasonJSON struct {
	Reason string `json:"reason"`
}

// MarshalJSON returns r's JSON form.
func (r Reason) MarshalJSON() ([]byte, error) { return json.Marshal(reasonJSON{string(r)}) }

// UnmarshalJSON reads r's JSON form.
func (r *Reason) UnmarshalJSON(b []byte) error {
	var v reasonJSON
	err := json.Unmarshal(b, &v)
	*r = Reason(v.Reason)
	return err
}

// Quarantine returns the message in which a body that could not be decoded is
// stored as it came. It is identified by its content, so that a redelivery is
// recognised. subscription is empty where nothing proves which one it was. The
// message refers to body.
func Quarantine(source, subscription string, reason Reason, body []byte) *Message {
	return &Message{
		Source:       source,
		Subscription: subscription,
		MessageID:    ContentID(body),
		Data:         body,
		Quarantined:  reason,
	}
}

// ContentID returns the message ID of what has none: "sha256-" and the hash of its
// bytes in hex digits.
func ContentID(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256-" + hex.EncodeToString(sum[:])
}
