// Package inbox says what a message is, what makes it the same message again,
// and what a place that keeps messages promises. The places themselves are
// firestoreinbox and boltinbox; inboxtest holds the promises they are held to.
//
// An inbox keeps every message exactly once: the identity of a message is its
// source, subscription and message ID, and a second Put of the same identity
// changes nothing and succeeds.
package inbox

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
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

const (
	// PreviewSize is how many bytes of data List and Watch return of each
	// message. Get returns all of it.
	PreviewSize = 4 << 10
	// MaxDataSize is the largest data an inbox keeps, in bytes: Pub/Sub's own
	// limit for a message.
	MaxDataSize = 10_000_000
	// DefaultPageSize is the page size of a Query that names none.
	DefaultPageSize = 50
	// MaxPageSize is the largest page; larger requests are lowered to it.
	MaxPageSize = 500
)

// Message is one message as it was pushed and kept. Its JSON form is the one
// the console's API serves.
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
	// PublishTime is when the provider took the message; zero when unknown.
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
	// Verified is who was proven to have sent the push.
	Verified Verified `json:"verified,omitzero"`
}

// MarshalJSON writes absent data and attributes as empty ones, so that readers
// need not tell null apart.
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

// Verified holds the claims of the token that came with a push. The token
// itself is never kept.
type Verified struct {
	Issuer        string    `json:"issuer"`
	Audience      string    `json:"audience"`
	Email         string    `json:"email"`
	EmailVerified bool      `json:"emailVerified"`
	Subject       string    `json:"subject"`
	IssuedAt      time.Time `json:"issuedAt,omitzero"`
	ExpiresAt     time.Time `json:"expiresAt,omitzero"`
}

// ID returns the ID under which an inbox keeps the message with this
// identity: 40 hex digits of a SHA-256, so that IDs that providers count up
// spread evenly over the key space. Each part is hashed with its length, so
// no two identities run together.
func ID(source, subscription, messageID string) string {
	b := make([]byte, 0, 256)
	for _, part := range [...]string{source, subscription, messageID} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:20])
}

// Validate reports, as an error that is ErrInvalid, why no inbox could keep m:
// an identity is missing, data is over MaxDataSize, a string is not UTF-8, or a
// time has no RFC 3339 form. Firestore would refuse such a message together
// with all that share its commit, and the JSON of a list with one in it would
// fail as a whole.
func (m *Message) Validate() error {
	switch {
	case m.Source == "":
		return fmt.Errorf("%w: no source", ErrInvalid)
	case m.MessageID == "":
		return fmt.Errorf("%w: no message ID", ErrInvalid)
	case len(m.Data) > MaxDataSize:
		return fmt.Errorf("%w: data is %d bytes, the limit is %d", ErrInvalid, len(m.Data), MaxDataSize)
	}
	v := &m.Verified
	for _, s := range [...]string{
		m.Source, m.Subscription, m.MessageID, m.OrderingKey, v.Issuer, v.Audience, v.Email, v.Subject,
	} {
		if len(s) > maxStringSize || !utf8.ValidString(s) {
			return fmt.Errorf("%w: a name is over %d bytes or not UTF-8", ErrInvalid, maxStringSize)
		}
	}
	for _, t := range [...]time.Time{m.PublishTime, v.IssuedAt, v.ExpiresAt} {
		if year := t.UTC().Year(); year < 1 || year > 9999 {
			return fmt.Errorf("%w: a time is not in the years 1 to 9999", ErrInvalid)
		}
	}
	size := 0
	for k, v := range m.Attributes {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: an attribute is not UTF-8", ErrInvalid)
		}
	}
	if size > maxAttributesSize {
		return fmt.Errorf("%w: attributes are %d bytes, the limit is %d", ErrInvalid, size, maxAttributesSize)
	}
	return nil
}

// Pub/Sub allows 100 attributes of 256 + 1,024 bytes, and ordering keys of
// 1,024; both caps leave room and still fit a Firestore document.
const (
	maxStringSize     = 2 << 10
	maxAttributesSize = 256 << 10
)

// Query selects messages. The zero Query is the first page of everything.
type Query struct {
	// Source and Subscription, when set, must be equal to the message's.
	Source       string
	Subscription string
	// PageSize is how many messages to return: 0 means DefaultPageSize, more
	// than MaxPageSize means MaxPageSize. Watch ignores it.
	PageSize int
	// PageToken continues after an earlier page, message or event.
	PageToken string
}

// Limit returns the page size that q asks for, within the bounds.
func (q Query) Limit() int {
	if q.PageSize <= 0 {
		return DefaultPageSize
	}
	return min(q.PageSize, MaxPageSize)
}

// Page is one page of a list, newest first.
type Page struct {
	// Events are the messages, each with the token that continues right after
	// it: List goes on with what is older, Watch with what was stored later.
	Events []Event
	// NextPageToken leads to the next, older page; empty on the last.
	NextPageToken string
	// WatchToken starts a Watch that yields exactly what was stored after
	// this page was read: no gap and no duplicate.
	WatchToken string
}

// Messages returns the page's messages, newest first; never nil.
func (p *Page) Messages() []Message {
	messages := make([]Message, len(p.Events))
	for i, e := range p.Events {
		messages[i] = e.Message
	}
	return messages
}

// Event is a message where it stands in the inbox.
type Event struct {
	// Token resumes a Watch or a List right after the message.
	Token   string
	Message Message
}

// Inbox is a place that keeps messages. All methods are safe for concurrent
// use and honour their context. Errors are told apart with errors.Is and the
// Err variables of this package; a context's own error comes back as itself.
type Inbox interface {
	// Put stores m and returns once it is durable. It reports whether this
	// call stored it: false with no error means that the message was there
	// already. Put does not keep or change m, and fails with ErrInvalid or
	// ErrUnavailable.
	Put(ctx context.Context, m *Message) (stored bool, err error)
	// Get returns the message with this ID, its data whole, or ErrNotFound.
	Get(ctx context.Context, id string) (*Message, error)
	// List returns a page of messages, newest first. A page token stays right
	// while new messages arrive. A token that no inbox made is ErrPageToken.
	List(ctx context.Context, q Query) (*Page, error)
	// Watch yields messages as they are stored, from the query's page token
	// on, or from now when there is none. It ends when ctx does, without an
	// error, or by yielding one error; resuming after the last token yielded
	// loses nothing and repeats nothing.
	Watch(ctx context.Context, q Query) iter.Seq2[Event, error]
	// Close finishes what was begun and releases what the inbox holds.
	Close() error
}

// The errors of an Inbox.
var (
	ErrInvalid     = problem.New(http.StatusBadRequest, "the message cannot be stored as it is")
	ErrPageToken   = problem.New(http.StatusBadRequest, "the page token is not one that this inbox issued")
	ErrNotFound    = problem.New(http.StatusNotFound, "no message has this ID")
	ErrUnavailable = problem.New(http.StatusServiceUnavailable, "the inbox cannot be reached")
)

// IsContext reports whether err is a context's own error.
func IsContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
