// Package pubsubpush reads what Pub/Sub pushed: wrapped requests (a JSON
// envelope) and unwrapped ones (the bare data, with or without metadata in
// headers). The path of the endpoint says which of them a request is; on
// other paths it is guessed from the request, which a publisher can imitate.
package pubsubpush

import (
	"bytes"
	"cmp"
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
	"example.com/pushinbox/shared/problem"
)

// MaxBodySize is the size of the largest body of a push, in bytes: 10 MB of data in
// base64, a hundred attributes of the largest size with every byte escaped,
// and the envelope around them.
const MaxBodySize = 15 << 20

// ErrMalformed is the error of a request that is not a push. Its status is 400:
// Pub/Sub delivers the message again, and to the dead-letter topic in the end.
var ErrMalformed = problem.New(http.StatusBadRequest,
	`the body is not a Pub/Sub push: send {"message": {"messageId": ..., "data": "<base64>"}, "subscription": ...} `+
		"as application/json, or unwrapped data with x-goog-pubsub-* headers")

// Headers of an unwrapped push with metadata.
const (
	headerPrefix       = "X-Goog-Pubsub-"
	headerSubscription = headerPrefix + "Subscription-Name"
	headerMessageID    = headerPrefix + "Message-Id"
	headerPublishTime  = headerPrefix + "Publish-Time"
	headerOrderingKey  = headerPrefix + "Ordering-Key"
)

// Form says where a push carries its message. The settings of the subscription
// decide it, so an endpoint that belongs to subscriptions of one form knows it
// and need not guess: a message whose data looks like another form is then data,
// and cannot name a message ID or a subscription of its own.
type Form int

const (
	// Guessed tells the form from what the push looks like. A publisher to a subscription
	// without metadata can write data that looks like a wrapped push.
	Guessed Form = iota
	// Wrapped is Pub/Sub's JSON, its default form. Headers are ignored.
	Wrapped
	// Unwrapped is the data as the body and the rest in headers: a subscription
	// with payload unwrapping that writes metadata.
	Unwrapped
	// Bare is the data as the body and nothing else: a subscription with payload
	// unwrapping that writes no metadata.
	Bare
)

// FormOf returns the form that the path of an endpoint stands for: "/wrapped",
// "/unwrapped" or "/bare", with or without a slash at the end. Any other path is
// Guessed.
func FormOf(path string) Form {
	switch strings.TrimRight(path, "/") {
	case "/wrapped":
		return Wrapped
	case "/unwrapped":
		return Unwrapped
	case "/bare":
		return Bare
	}
	return Guessed
}

// Decode returns the message of a push of this form with header h and the given
// body, or an error that is ErrMalformed. Decode may overwrite the body
// with the decoded data.
//
// Wrapped: both spellings of the twin fields are understood; camelCase wins.
//
// Unwrapped: the headers but for those that HTTP itself needs are the
// attributes, their names in lower case since HTTP does not keep case. The
// publisher chooses them; they prove nothing.
//
// Bare: such a push carries no message ID and names no subscription. It is
// identified by the SHA-256 of its body: a redelivery is recognised, and so,
// wrongly, is another message with the same bytes. Set writeMetadata on the
// subscription to keep them apart.
//
// Guessed: a request with x-goog-pubsub-* headers is Unwrapped, a JSON object
// with an object "message" is Wrapped, and anything else is Bare, unless it says
// that it is JSON and is not an object with a member.
func (f Form) Decode(h http.Header, body []byte) (*inbox.Message, error) {
	switch f {
	case Wrapped:
		m, err := decodeEnvelope(body, true)
		if err != nil {
			return nil, wrongForm(err, `this endpoint's path says that pushes are wrapped, and the body is not: send {"message": {"messageId": ..., "data": "<base64>"}, `+
				`"subscription": ...}, or let a subscription with payload unwrapping push to /unwrapped or /bare`)
		}
		return m, nil
	case Unwrapped:
		m, err := decodeMetadata(h, body)
		if err != nil {
			return nil, wrongForm(err, "this endpoint's path says that pushes are unwrapped with metadata, and the headers x-goog-pubsub-* are missing, doubled or malformed: "+
				"set writeMetadata on the subscription, or let it push to /wrapped or /bare")
		}
		return m, nil
	case Bare:
		return bare(body), nil
	}
	return Decode(h, body)
}

// wrongForm is the error of a request that is not a push of the form that its
// endpoint takes.
func wrongForm(cause error, detail string) error {
	return &problem.Error{Status: http.StatusBadRequest, Detail: detail, Cause: cause}
}

// Decode is the Decode of Guessed.
func Decode(h http.Header, body []byte) (*inbox.Message, error) {
	if _, ok := h[headerMessageID]; ok || h.Get(headerSubscription) != "" {
		return decodeMetadata(h, body)
	}
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) > 0 && first[0] == '{' {
		m, err := decodeEnvelope(body, isJSON(h))
		if !errors.Is(err, errNoEnvelope) || isJSON(h) && err != errNoEnvelope {
			return m, err
		}
	} else if len(first) == 0 || isJSON(h) {
		return nil, fmt.Errorf("%w: the body is not a JSON object", ErrMalformed)
	}
	return bare(body), nil
}

func bare(body []byte) *inbox.Message {
	sum := sha256.Sum256(body)
	return &inbox.Message{
		Source:    inbox.SourcePubSub,
		MessageID: "sha256-" + hex.EncodeToString(sum[:]),
		Data:      body,
	}
}

// errNoEnvelope says that a body is not an envelope but may be data. It is wrapped
// where the body is not data either if its content type is JSON.
var errNoEnvelope = fmt.Errorf("%w: the body is not an envelope", ErrMalformed)

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

// decodeEnvelope decodes a wrapped push. Almost all of a large one is the
// base64 text of its data, over which encoding/json goes byte by byte, and
// twice; so when the body says that it is JSON, that text is cut out and the
// rest is parsed. Whatever is unusual about a body is left to parseEnvelope,
// which gives the same for every body.
func decodeEnvelope(body []byte, isJSON bool) (*inbox.Message, error) {
	if isJSON {
		if rest, text, ok := cutData(body); ok {
			m, isCut, err := parseEnvelope(rest)
			if err == nil && isCut {
				// The decoder writes three bytes for every four that it has
				// read, so that the data can take the place of its text.
				n, err := base64.StdEncoding.Decode(text, text)
				if err != nil {
					return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
				}
				if n > 0 {
					m.Data = text[:n:n]
				}
				return m, nil
			}
		}
	}
	m, isCut, err := parseEnvelope(body)
	if err == nil && isCut {
		return nil, fmt.Errorf("%w: the data is not base64", ErrMalformed)
	}
	return m, err
}

// cutMark stands in JSON for data that was cut out. It is not base64.
const cutMark = `"*cut*"`

// cutData returns body with cutMark in place of the first string that is the
// value of a name "data", and that string's text. Escapes and line breaks in
// the text, and marks that were in the body before, are too unusual for it.
//
// The rest is JSON only where body has a string at that place: a quote that
// ended one would leave the mark, which is nothing else, outside of any.
func cutData(body []byte) (rest, text []byte, ok bool) {
	const name = `"data"`
	i := bytes.Index(body, []byte(name))
	if i < 0 {
		return nil, nil, false
	}
	const space = " \t\r\n"
	after, isMember := bytes.CutPrefix(bytes.TrimLeft(body[i+len(name):], space), []byte(":"))
	after, isString := bytes.CutPrefix(bytes.TrimLeft(after, space), []byte(`"`))
	n := bytes.IndexByte(after, '"')
	if !isMember || !isString || n < 0 {
		return nil, nil, false
	}
	text = after[:n:n]
	for _, c := range [...]byte{'\\', '\r', '\n'} {
		if bytes.IndexByte(text, c) >= 0 {
			return nil, nil, false
		}
	}
	start := len(body) - len(after) - 1 // of the opening quote
	rest = make([]byte, 0, len(body)-n+len(cutMark))
	rest = append(rest, body[:start]...)
	rest = append(rest, cutMark...)
	rest = append(rest, after[n+1:]...)
	return rest, text, bytes.Count(rest, []byte(cutMark)) == 1
}

// parseEnvelope decodes a wrapped push, or says that its data is cutMark.
func parseEnvelope(body []byte) (m *inbox.Message, isCut bool, err error) {
	var e envelope
	e.Message = &pushed{}
	if err := json.Unmarshal(body, &e); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) && wrongType.Field == "message" {
			return nil, false, errNoEnvelope
		}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, false, fmt.Errorf("%w: %w", errNoEnvelope, err)
		}
		return nil, false, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	p := e.Message
	if p == nil {
		return nil, false, errNoEnvelope
	}
	id := cmp.Or(p.MessageID, p.MessageIDSnake)
	if id == "" {
		return nil, false, withoutID(body)
	}
	if e.DeliveryAttempt < 0 {
		return nil, false, fmt.Errorf("%w: the delivery attempt is negative", ErrMalformed)
	}
	published, err := parseTime(cmp.Or(p.PublishTime, p.PublishTimeSnake))
	if err != nil {
		return nil, false, err
	}
	return &inbox.Message{
		Source:          inbox.SourcePubSub,
		Subscription:    e.Subscription,
		MessageID:       id,
		PublishTime:     published,
		Data:            p.Data.data,
		Attributes:      p.Attributes,
		OrderingKey:     p.OrderingKey,
		DeliveryAttempt: e.DeliveryAttempt,
	}, p.Data.isCut, nil
}

func decodeMetadata(h http.Header, body []byte) (*inbox.Message, error) {
	for _, name := range [...]string{headerMessageID, headerSubscription} {
		// A second header is a publisher's attribute that imitates Pub/Sub's.
		if v := h[name]; len(v) != 1 || v[0] == "" {
			return nil, fmt.Errorf("%w: the header %s does not occur exactly once", ErrMalformed, name)
		}
	}
	for _, name := range [...]string{headerPublishTime, headerOrderingKey} {
		if len(h[name]) > 1 {
			return nil, fmt.Errorf("%w: the header %s occurs more than once", ErrMalformed, name)
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
		if isTransport(name) || strings.HasPrefix(name, headerPrefix) {
			continue
		}
		if m.Attributes == nil {
			m.Attributes = make(map[string]string)
		}
		m.Attributes[strings.ToLower(name)] = strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD")
	}
	return m, nil
}

// isTransport reports whether a header belongs to HTTP, Google's front end or
// the credential, and is not an attribute.
func isTransport(name string) bool {
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Connection", "Content-Length", "Cookie",
		"Forwarded", "From", "Te", "Transfer-Encoding", "User-Agent", "Via",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
		"Authorization", "X-Goog-Iap-Jwt-Assertion", "X-Serverless-Authorization",
		"Function-Execution-Id", "Traceparent", "Tracestate", "X-Client-Data", "X-Cloud-Trace-Context",
		"X-Appengine-Citylatlong", "X-Appengine-Country", "X-Appengine-Default-Version-Hostname", "X-Appengine-Https",
		"X-Appengine-Request-Log-Id", "X-Appengine-Timeout-Ms", "X-Appengine-User-Ip":
		return true
	}
	return false
}

// payload is base64 data in a JSON string, or cutMark in its place.
// encoding/json alone would also accept an array of numbers.
type payload struct {
	data  []byte
	isCut bool
}

// UnmarshalJSON decodes standard, padded base64. No data is nil.
func (p *payload) UnmarshalJSON(b []byte) error {
	*p = payload{isCut: string(b) == cutMark}
	if p.isCut || string(b) == "null" {
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
	}
	data := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(data, text)
	if n > 0 {
		p.data = data[:n:n]
	}
	return err
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

// withoutID returns why an object without a message ID is refused, or errNoEnvelope
// when it has no message at all.
func withoutID(object []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(members) == 0 {
		return fmt.Errorf("%w: the object is empty", errNoEnvelope)
	}
	if _, ok := members["message"]; ok {
		return fmt.Errorf("%w: the message has no ID", ErrMalformed)
	}
	return errNoEnvelope
}

func isJSON(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
}
