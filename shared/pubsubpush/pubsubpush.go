// Package pubsubpush reads what Pub/Sub pushed: wrapped requests (a JSON
// envelope) and unwrapped ones (the bare data, with or without metadata in
// headers), told apart by what they look like.
package pubsubpush

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"example.com/pushinbox/shared/inbox"
)

// MaxBodySize is the largest body a push can have, in bytes: 10 MB of data in
// base64, a hundred attributes of the largest size with every byte escaped,
// and the envelope around them.
const MaxBodySize = 15 << 20

// ErrMalformed is the error of a request that is no push. Its status is 400:
// Pub/Sub delivers it again, and to the dead-letter topic in the end.
var ErrMalformed error = malformed{}

type malformed struct{}

func (malformed) Error() string { return "pubsubpush: not a Pub/Sub push" }

func (malformed) HTTPStatus() (int, string) {
	return http.StatusBadRequest, `the body is not a Pub/Sub push: send {"message": {"messageId": ..., "data": "<base64>"}, "subscription": ...} ` +
		"as application/json, or unwrapped data with x-goog-pubsub-* headers"
}

// Headers of an unwrapped push with metadata.
const (
	headerPrefix       = "X-Goog-Pubsub-"
	headerSubscription = headerPrefix + "Subscription-Name"
	headerMessageID    = headerPrefix + "Message-Id"
	headerPublishTime  = headerPrefix + "Publish-Time"
	headerOrderingKey  = headerPrefix + "Ordering-Key"
)

// Decode returns the message of a push with header h and the given body, or an
// error that is ErrMalformed. The body becomes Decode's: the message's data is
// decoded in its place.
//
// A request with x-goog-pubsub-* headers is unwrapped with metadata: the body
// is the data and the other headers, but for those that HTTP itself needs, are
// the attributes, their names in lower case since HTTP does not keep case.
// Such headers are the publisher's words; nothing in them proves anything.
//
// A JSON object with an object "message" is wrapped. Both spellings of its
// twin fields are understood; camelCase wins.
//
// Anything else is unwrapped without metadata, unless it says that it is JSON
// and is no object with a member at all. Such a push carries no message ID and
// names no subscription. It is identified by the SHA-256 of its body: a
// redelivery is recognised, and so, wrongly, is another message with the same
// bytes. Set writeMetadata on the subscription to keep them apart.
func Decode(h http.Header, body []byte) (*inbox.Message, error) {
	if _, ok := h[headerMessageID]; ok || h.Get(headerSubscription) != "" {
		return decodeMetadata(h, body)
	}
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) > 0 && first[0] == '{' {
		m, err := decodeEnvelope(body)
		if !errors.Is(err, errNoEnvelope) || isJSON(h) && err != errNoEnvelope {
			return m, err
		}
	} else if len(first) == 0 || isJSON(h) {
		return nil, fmt.Errorf("%w: no JSON object", ErrMalformed)
	}
	sum := sha256.Sum256(body)
	return &inbox.Message{
		Source:    inbox.SourcePubSub,
		MessageID: "sha256-" + hex.EncodeToString(sum[:]),
		Data:      body,
	}, nil
}

// errNoEnvelope says that a body is no envelope but may be data. It comes
// wrapped where the body may not be data either when it claims to be JSON.
var errNoEnvelope = fmt.Errorf("%w: no envelope", ErrMalformed)

type envelope struct {
	Message         *pushed `json:"message"`
	Subscription    string  `json:"subscription"`
	DeliveryAttempt int     `json:"deliveryAttempt"`
}

type pushed struct {
	Data             payload           `json:"data"`
	Attributes       map[string]string `json:"attributes"`
	MessageID        string            `json:"messageId"`
	MessageIDSnake   string            `json:"message_id"`
	PublishTime      string            `json:"publishTime"`
	PublishTimeSnake string            `json:"publish_time"`
	OrderingKey      string            `json:"orderingKey"`
}

func decodeEnvelope(body []byte) (*inbox.Message, error) {
	e := envelope{Message: &pushed{Data: payload{envelope: body}}}
	if err := json.Unmarshal(body, &e); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) && wrongType.Field == "message" {
			return nil, errNoEnvelope
		}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("%w: %w", errNoEnvelope, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	m := e.Message
	if m == nil {
		return nil, errNoEnvelope
	}
	id := firstOf(m.MessageID, m.MessageIDSnake)
	if id == "" {
		return nil, withoutID(body)
	}
	if e.DeliveryAttempt < 0 {
		return nil, fmt.Errorf("%w: a negative delivery attempt", ErrMalformed)
	}
	published, err := parseTime(firstOf(m.PublishTime, m.PublishTimeSnake))
	if err != nil {
		return nil, err
	}
	data, err := m.Data.bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return &inbox.Message{
		Source:          inbox.SourcePubSub,
		Subscription:    e.Subscription,
		MessageID:       id,
		PublishTime:     published,
		Data:            data,
		Attributes:      m.Attributes,
		OrderingKey:     m.OrderingKey,
		DeliveryAttempt: e.DeliveryAttempt,
	}, nil
}

func decodeMetadata(h http.Header, body []byte) (*inbox.Message, error) {
	for _, name := range [...]string{headerMessageID, headerSubscription} {
		// A doubled header is a publisher's attribute that poses as Pub/Sub's.
		if v := h[name]; len(v) != 1 || v[0] == "" {
			return nil, fmt.Errorf("%w: want %s exactly once", ErrMalformed, name)
		}
	}
	published, err := parseTime(h.Get(headerPublishTime))
	if err != nil {
		return nil, err
	}
	m := &inbox.Message{
		Source:       inbox.SourcePubSub,
		Subscription: strings.ToValidUTF8(h.Get(headerSubscription), "\uFFFD"),
		MessageID:    strings.ToValidUTF8(h.Get(headerMessageID), "\uFFFD"),
		PublishTime:  published,
		Data:         body,
		OrderingKey:  strings.ToValidUTF8(h.Get(headerOrderingKey), "\uFFFD"),
	}
	for name, values := range h {
		if transportHeaders[name] || strings.HasPrefix(name, headerPrefix) {
			continue
		}
		if m.Attributes == nil {
			m.Attributes = make(map[string]string)
		}
		m.Attributes[strings.ToLower(name)] = strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD")
	}
	return m, nil
}

// transportHeaders are the headers that HTTP, Google's front end and the
// credential bring along; they are no attributes.
var transportHeaders = map[string]bool{
	"Accept":                               true,
	"Accept-Encoding":                      true,
	"Accept-Language":                      true,
	"Authorization":                        true,
	"Cache-Control":                        true,
	"Connection":                           true,
	"Content-Length":                       true,
	"Cookie":                               true,
	"Forwarded":                            true,
	"From":                                 true,
	"Function-Execution-Id":                true,
	"Te":                                   true,
	"Traceparent":                          true,
	"Tracestate":                           true,
	"Transfer-Encoding":                    true,
	"User-Agent":                           true,
	"Via":                                  true,
	"X-Appengine-Citylatlong":              true,
	"X-Appengine-Country":                  true,
	"X-Appengine-Default-Version-Hostname": true,
	"X-Appengine-Https":                    true,
	"X-Appengine-Request-Log-Id":           true,
	"X-Appengine-Timeout-Ms":               true,
	"X-Appengine-User-Ip":                  true,
	"X-Client-Data":                        true,
	"X-Cloud-Trace-Context":                true,
	"X-Forwarded-For":                      true,
	"X-Forwarded-Host":                     true,
	"X-Forwarded-Proto":                    true,
	"X-Goog-Iap-Jwt-Assertion":             true,
	"X-Serverless-Authorization":           true,
}

// payload is the base64 text of the data. A large one is only found, and later
// decoded in its place in the envelope: at 10 MB a second buffer would count.
type payload struct {
	envelope   []byte
	start, end int // of the text in envelope, without its quotes
	data       []byte
}

// inPlace is from how many bytes of base64 on finding the text is cheaper than
// a buffer for what it holds.
const inPlace = 64 << 10

// UnmarshalJSON finds the text, which must be a string. encoding/json would
// also take an array of numbers for bytes.
func (p *payload) UnmarshalJSON(b []byte) error {
	p.start, p.end, p.data = 0, 0, nil
	if string(b) == "null" {
		return nil
	}
	if len(b) < 2 || b[0] != '"' {
		return errors.New("data is not a string")
	}
	text := b[1 : len(b)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		// Google's emulator writes a slash as \/.
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		text = []byte(s)
	} else if len(text) >= inPlace {
		i := bytes.Index(p.envelope, b)
		if i < 0 {
			return errors.New("data is not in the body")
		}
		p.start, p.end = i+1, i+1+len(text)
		return nil
	}
	return p.decode(make([]byte, base64.StdEncoding.DecodedLen(len(text))), text)
}

func (p *payload) decode(to, text []byte) error {
	n, err := base64.StdEncoding.Decode(to, text)
	if n > 0 {
		p.data = to[:n:n]
	}
	return err
}

// bytes returns the data: nil when there is none. It overwrites the envelope,
// which must have been read.
func (p *payload) bytes() ([]byte, error) {
	if p.end == 0 {
		return p.data, nil
	}
	// The decoder writes three bytes for every four that it has read.
	text := p.envelope[p.start:p.end]
	err := p.decode(text, text)
	return p.data, err
}

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1 {
		return time.Time{}, fmt.Errorf("%w: the publish time is not RFC 3339", ErrMalformed)
	}
	return t.UTC(), nil
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// withoutID says why an object without a message ID is refused, or that it is
// no envelope since it has no message at all.
func withoutID(object []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(members) == 0 {
		return fmt.Errorf("%w: an empty object", errNoEnvelope)
	}
	if _, ok := members["message"]; ok {
		return fmt.Errorf("%w: no message ID", ErrMalformed)
	}
	return errNoEnvelope
}

func isJSON(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
}
