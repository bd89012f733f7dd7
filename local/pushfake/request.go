package pushfake

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"golang.org/x/net/http/httpguts"
)

// Headers of an unwrapped push with metadata.
const (
	headerSubscription = "X-Goog-Pubsub-Subscription-Name"
	headerMessageID    = "X-Goog-Pubsub-Message-Id"
	headerPublishTime  = "X-Goog-Pubsub-Publish-Time"
	headerOrderingKey  = "X-Goog-Pubsub-Ordering-Key"
)

// User agents of Pub/Sub: what its documentation and App Engine show, and what
// Cloud Run sees.
const (
	defaultAgent    = "CloudPubSub-Google"
	AgentOfCloudRun = "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)"
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

// encoding is the form that the requests of a subscription have.
type encoding struct {
	subscription string // full name
	userAgent    string
	unwrapped    bool
	metadata     bool // of unwrapped requests, in headers
	attempts     bool // there is a dead-letter policy
}

// body returns the body of a push.
func (e *encoding) body(m *pubsubpb.PubsubMessage, attempt int) []byte {
	if e.unwrapped {
		return m.Data
	}
	return e.envelope(m, attempt)
}

// header returns the headers of a push, with the credential unless that is empty. Those
// of a wrapped one do not depend on the message.
func (e *encoding) header(m *pubsubpb.PubsubMessage, authorization string) http.Header {
	h := make(http.Header, 8)
	if e.metadata && e.unwrapped {
		for _, k := range slices.Sorted(maps.Keys(m.Attributes)) {
			// Of attributes that differ in case alone, the first one counts.
			if v := m.Attributes[k]; carries(k, v) && h.Get(k) == "" {
				h.Set(k, v)
			}
		}
		h[headerSubscription] = []string{carried(e.subscription)}
		h[headerMessageID] = []string{carried(m.MessageId)}
		h[headerPublishTime] = []string{publishTime(m)}
		delete(h, headerOrderingKey)
		if m.OrderingKey != "" && httpguts.ValidHeaderFieldValue(m.OrderingKey) {
			h[headerOrderingKey] = []string{m.OrderingKey}
		}
	}
	e.own(h)
	if !e.unwrapped {
		h["Content-Type"] = []string{"application/json"}
	}
	if authorization != "" {
		h["Authorization"] = []string{authorization}
	}
	return h
}

// own sets the headers that Pub/Sub's requests were seen to have.
func (e *encoding) own(h http.Header) {
	h["Accept"] = []string{"application/json"}
	h["Accept-Encoding"] = []string{"gzip, deflate, br"}
	h["From"] = []string{"noreply@google.com"}
	h["User-Agent"] = []string{e.userAgent}
}

// framing are the headers that HTTP itself sets for each connection.
var framing = map[string]bool{
	"Connection":        true,
	"Content-Length":    true,
	"Expect":            true,
	"Host":              true,
	"Keep-Alive":        true,
	"Proxy-Connection":  true,
	"Te":                true,
	"Trailer":           true,
	"Transfer-Encoding": true,
	"Upgrade":           true,
}

// carries says whether a header can carry the attribute.
func carries(key, value string) bool {
	return httpguts.ValidHeaderFieldName(key) && httpguts.ValidHeaderFieldValue(value) &&
		!framing[http.CanonicalHeaderKey(key)]
}

// carried returns a value with ? in place of what no header can carry. Pub/Sub's IDs have
// nothing of that, but a publisher may have chosen the one that a message was stored under,
// and a request with it would never be sent.
func carried(value string) string {
	if httpguts.ValidHeaderFieldValue(value) {
		return value
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return '?'
		}
		return r
	}, value)
}

// envelope returns the JSON of a wrapped push, in one allocation for most
// messages.
func (e *encoding) envelope(m *pubsubpb.PubsubMessage, attempt int) []byte {
	size := 256 + len(e.subscription) + 2*len(m.MessageId) + len(m.OrderingKey) + base64.StdEncoding.EncodedLen(len(m.Data))
	for k, v := range m.Attributes {
		size += len(k) + len(v) + 6
	}
	b := append(make([]byte, 0, size), `{"message":{`...)
	if len(m.Attributes) > 0 {
		b = append(b, `"attributes":{`...)
		for i, k := range slices.Sorted(maps.Keys(m.Attributes)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, k)
			b = append(b, ':')
			b = appendString(b, m.Attributes[k])
		}
		b = append(b, `},`...)
	}
	if len(m.Data) > 0 {
		b = append(b, `"data":"`...)
		b = base64.StdEncoding.AppendEncode(b, m.Data)
		b = append(b, `",`...)
	}
	for _, name := range [...]string{`"messageId":`, `,"message_id":`} {
		b = append(b, name...)
		b = appendString(b, m.MessageId)
	}
	if m.OrderingKey != "" {
		b = append(b, `,"orderingKey":`...)
		b = appendString(b, m.OrderingKey)
	}
	published := publishTime(m)
	for _, name := range [...]string{`,"publishTime":"`, `,"publish_time":"`} {
		b = append(b, name...)
		b = append(b, published...)
		b = append(b, '"')
	}
	b = append(b, `},"subscription":`...)
	b = appendString(b, e.subscription)
	if e.attempts {
		b = append(b, `,"deliveryAttempt":`...)
		b = strconv.AppendInt(b, int64(attempt), 10)
	}
	return append(b, '}')
}

// appendString appends s as a JSON string. Most need no escape, and those are
// copied.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string always has a JSON form
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// publishTime returns the time as Pub/Sub writes it, with three digits of a
// second.
func publishTime(m *pubsubpb.PubsubMessage) string {
	return m.PublishTime.AsTime().Format("2006-01-02T15:04:05.000Z")
}
