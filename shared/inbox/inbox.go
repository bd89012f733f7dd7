// Package inbox defines what a message is, which messages are the same, and what
// an inbox promises. Packages firestoreinbox and boltinbox are inboxes; package
// inboxtest is their conformance suite.
//
// An inbox stores every message exactly once: the identity of a message is its
// source, subscription and message ID, and a second Put of the same identity
// succeeds and changes nothing.
package inbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"net/http"
	"time"
	"unicode/utf8"

	"example.com/pushinbox/shared/problem"
)

// The sources a message can come from.
const (
	SourcePubSub   = "pubsub"
	SourceCalendar = "calendar"
	SourceMNS      = "mns"
)

// Sources are all of them.
var Sources = []string{SourcePubSub, SourceCalendar, SourceMNS}

const (
	// PreviewSize is how many bytes of data List and Watch return of each
	// message. Get returns all of it.
	PreviewSize = 4 << 10
	// MaxDataSize is the largest data that an inbox stores, in bytes: Pub/Sub's
	// limit for a message.
	MaxDataSize = 10_000_000
	// DefaultPageSize is the page size of a Query that names none.
	DefaultPageSize = 50
	// MaxPageSize is the largest page size; a larger one means MaxPageSize.
	MaxPageSize = 500
	// MaxPageBytes is how much memory the messages of a page take together, in
	// bytes, unless a single one takes more.
	MaxPageBytes = 8 << 20
)

// Message is one message as it was pushed and stored. Its JSON form is the one
// that the console's API serves.
type Message struct {
	// ID is ID(Source, Subscription, MessageID). Inboxes set it on what they
	// return and ignore it on Put.
	ID string `json:"id"`
	// Source is one of the Source constants.
	Source string `json:"source"`
	// Subscription is the full name of what delivered the message, such as
	// projects/P/subscriptions/S.
	Subscription string `json:"subscription"`
	// MessageID is the provider's ID, the same on every redelivery.
	MessageID string `json:"messageId"`
	// PublishTime is when the provider accepted the message; zero when unknown.
	PublishTime time.Time `json:"publishTime,omitzero"`
	// ReceivedAt is when the inbox stored the message. Inboxes set it and
	// ignore it on Put.
	ReceivedAt time.Time `json:"receivedAt,omitzero"`
	// Data is the payload: whole from Get, at most PreviewSize bytes from
	// List and Watch.
	Data []byte `json:"data"`
	// Size is the length of the whole payload in bytes. Inboxes set it.
	Size int `json:"size"`
	// Truncated says that Data is only the start of the payload.
	Truncated bool `json:"truncated,omitempty"`
	// Attributes are the publisher's key-value pairs.
	Attributes map[string]string `json:"attributes"`
	// OrderingKey is the publisher's ordering key, or empty.
	OrderingKey string `json:"orderingKey"`
	// DeliveryAttempt is the attempt that was stored, counted from 1, or 0
	// when the provider does not count.
	DeliveryAttempt int `json:"deliveryAttempt,omitempty"`
	// Quarantined is why the push could not be decoded, empty when it could. Data is
	// then the body as it came. Such a message is never given to a handler.
	Quarantined Reason `json:"quarantined,omitzero"`
	// DeadLetter is what the message was before it became a dead letter, nil if it is
	// none. Who serves messages sets it, see DeadLetterOf; inboxes do not store it.
	DeadLetter *DeadLetter `json:"deadLetter,omitempty"`
	// Verified is the verified sender of the push.
	Verified Verified `json:"verified,omitzero"`
}

// MarshalJSON encodes absent data and attributes as empty ones, so that readers
// need not handle null.
func (m Message) MarshalJSON() ([]byte, error) {
	type plain Message
	if m.Data == nil {
		m.Data = []byte{}
	}
	if m.Attributes == nil {
		m.Attributes = map[string]string{}
	}
	return json.Marshal(plain(m))
}

// Outcome is, for a log, what became of m in a Put that has returned stored.
func (m *Message) Outcome(stored bool) string {
	switch {
	case !stored:
		return "stored before"
	case m.Quarantined != "":
		return "quarantined"
	}
	return "stored"
}

// Text returns data as text, and whether it is text. Where data is cut, a character that
// its end divides is left out.
func Text(data []byte, isCut bool) (string, bool) {
	for i := 1; isCut && i < utf8.UTFMax && i <= len(data); i++ {
		if last := data[len(data)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				data = data[:len(data)-i]
			}
			break
		}
	}
	return string(data), utf8.Valid(data) && bytes.IndexByte(data, 0) < 0
}

// Footprint estimates the memory that m takes, in bytes.
func (m *Message) Footprint() int {
	v := &m.Verified
	n := 512 + len(m.Data) + len(m.Subscription) + len(m.MessageID) + len(m.OrderingKey) +
		len(v.Issuer) + len(v.Audience) + len(v.Email) + len(v.Subject)
	for k, v := range m.Attributes {
		n += 64 + len(k) + len(v)
	}
	return n
}

// Verified holds the claims of a push's token. The token itself is never stored.
type Verified struct {
	Issuer        string    `json:"issuer"`
	Audience      string    `json:"audience"`
	Email         string    `json:"email"`
	EmailVerified bool      `json:"emailVerified"`
	Subject       string    `json:"subject"`
	IssuedAt      time.Time `json:"issuedAt,omitzero"`
	ExpiresAt     time.Time `json:"expiresAt,omitzero"`
}

// ID returns the ID of the message with this identity: 40 hex digits of a SHA-256,
// so that IDs that providers count up spread evenly over the key space. Each part
// is hashed with its length, so that different identities stay different.
func ID(source, subscription, messageID string) string {
	b := make([]byte, 0, 256)
	for _, part := range [...]string{source, subscription, messageID} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:20])
}

// ValidID reports whether id has the form of what ID returns.
func ValidID(id string) bool {
	b, err := hex.DecodeString(id[:min(len(id), 41)])
	return err == nil && len(b) == 20 && hex.EncodeToString(b) == id
}

// Validate returns an error that is ErrInvalid when no inbox can store m: its
// source or message ID is missing, its data is over MaxDataSize (MaxQuarantinedSize
// for a quarantined message), a string is not UTF-8, or a time has no RFC 3339 form.
// Firestore would refuse such a message with the whole commit, and the JSON of a list
// would fail with it.
func (m *Message) Validate() error {
	limit := MaxDataSize
	if m.Quarantined != "" {
		limit = MaxQuarantinedSize
	}
	switch {
	case m.Source == "":
		return fmt.Errorf("%w: its source is missing", ErrInvalid)
	case m.MessageID == "":
		return fmt.Errorf("%w: its message ID is missing", ErrInvalid)
	case len(m.Data) > limit:
		return fmt.Errorf("%w: its data has %d bytes, the limit is %d", ErrInvalid, len(m.Data), limit)
	case m.Quarantined != "" && m.Quarantined.Words() == "":
		return fmt.Errorf("%w: %q is not a valid reason to quarantine it", ErrInvalid, string(m.Quarantined))
	}
	v := &m.Verified
	for _, s := range [...]string{
		m.Source, m.Subscription, m.MessageID, m.OrderingKey, v.Issuer, v.Audience, v.Email, v.Subject,
	} {
		if len(s) > maxStringSize || !utf8.ValidString(s) {
			return fmt.Errorf("%w: one of its strings is longer than %d bytes or not UTF-8", ErrInvalid, maxStringSize)
		}
	}
	for _, t := range [...]time.Time{m.PublishTime, v.IssuedAt, v.ExpiresAt} {
		if year := t.UTC().Year(); year < 1 || year > 9999 {
			return fmt.Errorf("%w: one of its times is not in the years 1 to 9999", ErrInvalid)
		}
	}
	size := 0
	for k, v := range m.Attributes {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: one of its attributes is not UTF-8", ErrInvalid)
		}
	}
	if size > maxAttributesSize {
		return fmt.Errorf("%w: its attributes have %d bytes, the limit is %d", ErrInvalid, size, maxAttributesSize)
	}
	return nil
}

// Both caps, in bytes, are above Pub/Sub's limits (100 attributes of 256 + 1,024
// bytes, ordering keys of 1,024) and fit a Firestore document.
const (
	maxStringSize     = 2 << 10
	maxAttributesSize = 256 << 10
)

// Event is a message where it stands in the inbox.
type Event struct {
	// Token resumes a Watch or a List right after the message.
	Token string
	// Message has no ID in an event of Query.Progress.
	Message Message
}

// Inbox stores messages. All methods are safe for concurrent use and honour their
// context. Errors are told apart with errors.Is and the Err variables of this
// package; a context's own error is returned as it is.
//
// What is past its expiry is not returned by any method, whether it was deleted
// yet or not; until it is deleted, Put of the same identity stores nothing.
type Inbox interface {
	// Put stores m and returns once it is durable. It reports whether this
	// call stored it: false without an error means that a message with the same
	// identity exists. Put does not change m or refer to it later. It fails with
	// ErrInvalid or ErrUnavailable.
	Put(ctx context.Context, m *Message) (stored bool, err error)
	// Get returns the message with this ID, its data whole, or ErrNotFound.
	Get(ctx context.Context, id string) (*Message, error)
	// Peek is Get with the data cut to PreviewSize: Size says what Get would hold.
	Peek(ctx context.Context, id string) (*Message, error)
	// List returns a page of the messages that q selects, in q's order. A page
	// token stays valid while new messages arrive. A token that no inbox issued is
	// ErrPageToken, one of another filter ErrPageFilter. A page ends before its
	// messages take more than the query's PageBytes. Where no index answers all of
	// q, it also ends when MaxExamined messages were examined, or MaxExamineTime
	// has passed: then it may be empty, and NextPageToken goes on.
	List(ctx context.Context, q Query) (*Page, error)
	// Watch yields the messages that q selects as they are stored, after the
	// query's page token or, without one, from now on. It ends without an error when ctx does, or by
	// yielding one error. Resuming after the last token loses and repeats nothing.
	Watch(ctx context.Context, q Query) iter.Seq2[Event, error]
	// Close finishes the calls under way and releases what the inbox uses.
	Close() error
}

// WithPatience returns a ctx for calls that an Inbox tries again for only so long from now
// on, while its database fails: then they fail with ErrUnavailable. An attempt that is slow
// and does not fail is waited for until ctx ends.
func WithPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, time.Now().Add(d))
}

// Patience returns how long a call with ctx may still try again what fails.
func Patience(ctx context.Context) time.Duration {
	if until, ok := ctx.Value(patienceKey{}).(time.Time); ok {
		return time.Until(until)
	}
	return math.MaxInt64
}

type patienceKey struct{}

// The errors of an Inbox.
var (
	ErrPageFilter  = problem.New(http.StatusBadRequest, "the page token belongs to another filter; send it with the parameters of the request that returned it, or leave it out")
	ErrInvalid     = problem.New(http.StatusBadRequest, "the message cannot be stored as it is")
	ErrPageToken   = problem.New(http.StatusBadRequest, "the page token is not one that this inbox issued")
	ErrNotFound    = problem.New(http.StatusNotFound, "no message has this ID")
	ErrUnavailable = problem.Named("inbox_unavailable", http.StatusServiceUnavailable, "the inbox cannot be reached")
)
