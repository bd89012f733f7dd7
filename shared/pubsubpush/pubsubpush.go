// Package pubsubpush reads what Pub/Sub pushed: wrapped requests (a JSON
// envelope) and unwrapped ones (the bare data, with or without metadata in
// headers). The path of the endpoint says which of them a request is; on
// other paths it is guessed from the request, which a publisher can imitate.
package pubsubpush

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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

// ErrMalformed is the error of a request that is not a push. Its status is 400 for a
// stranger; a verified sender's is stored as it came, see Quarantine.
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
// body, or an error that is ErrMalformed. An inbox stores what Decode returns. On
// success Decode may overwrite the body with the decoded data; on an error the body
// is as it was.
//
// Wrapped: both spellings of the twin fields are understood; camelCase wins. Names
// match exactly, "DATA" is not "data". Of a name that an object has twice, the last
// value counts, as in JavaScript's JSON.parse.
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
func (f Form) Decode(h http.Header, body []byte) (m *inbox.Message, err error) {
	switch f {
	case Wrapped:
		if m, err = decodeEnvelope(body, true); err != nil {
			return nil, wrongForm(err, `this endpoint's path says that pushes are wrapped, and the body is not: send {"message": {"messageId": ..., "data": "<base64>"}, `+
				`"subscription": ...}, or let a subscription with payload unwrapping push to /unwrapped or /bare`)
		}
	case Unwrapped:
		if m, err = decodeMetadata(h, body); err != nil {
			return nil, wrongForm(err, "this endpoint's path says that pushes are unwrapped with metadata, and the headers x-goog-pubsub-* are missing, doubled or malformed: "+
				"set writeMetadata on the subscription, or let it push to /wrapped or /bare")
		}
	case Bare:
		m = bare(body)
	default:
		if m, err = guess(h, body); err != nil {
			return nil, err
		}
	}
	if err := storable(m); err != nil {
		return nil, err
	}
	return m, nil
}

// storable refuses a message that no inbox would store.
func storable(m *inbox.Message) error {
	if err := m.Validate(); err != nil {
		return malformed(inbox.ReasonLimits, err)
	}
	return nil
}

// wrongForm is the error of a request that is not a push of the form that its
// endpoint takes.
func wrongForm(cause error, detail string) error {
	return &problem.Error{Status: http.StatusBadRequest, Detail: detail, Cause: cause}
}

// malformed is the ErrMalformed of a push that cannot be decoded for a reason.
func malformed(reason inbox.Reason, cause error) error { return &undecodable{reason, cause} }

type undecodable struct {
	reason inbox.Reason
	cause  error
}

func (e *undecodable) Error() string   { return ErrMalformed.Error() + ": " + e.cause.Error() }
func (e *undecodable) Unwrap() []error { return []error{ErrMalformed, e.cause} }

// Quarantine returns the message in which a push is stored that Decode refused with
// cause: the body as it came, and why. Where headers were to describe the message,
// they are its attributes, if an inbox can store them.
func Quarantine(h http.Header, body []byte, cause error) *inbox.Message {
	reason := inbox.ReasonEnvelope
	if e := (*undecodable)(nil); errors.As(cause, &e) {
		reason = e.reason
	}
	m := inbox.Quarantine(inbox.SourcePubSub, "", reason, body)
	if reason == inbox.ReasonMetadata {
		m.Attributes = attributes(h)
		if m.Validate() != nil {
			m.Attributes = nil
		}
	}
	return m
}

// Decode is the Decode of Guessed.
func Decode(h http.Header, body []byte) (*inbox.Message, error) { return Guessed.Decode(h, body) }

func guess(h http.Header, body []byte) (*inbox.Message, error) {
	if _, ok := h[headerMessageID]; ok || h.Get(headerSubscription) != "" {
		return decodeMetadata(h, body)
	}
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) > 0 && first[0] == '{' {
		m, err := decodeEnvelope(body, isJSON(h))
		if !errors.Is(err, errNoEnvelope) || isJSON(h) && err != errNoEnvelope {
			return m, err
		}
	} else if len(first) == 0 || isJSON(h) {
		return nil, malformed(inbox.ReasonUnknownForm, errors.New("the body is not a JSON object"))
	}
	return bare(body), nil
}

func bare(body []byte) *inbox.Message {
	return &inbox.Message{Source: inbox.SourcePubSub, MessageID: inbox.ContentID(body), Data: body}
}

// errNoEnvelope says that a body is not an envelope but may be data. It is wrapped
// where the body is not data either if its content type is JSON.
var errNoEnvelope = fmt.Errorf("%w: the body is not an envelope", ErrMalformed)

// decodeEnvelope decodes a wrapped push. When the body says that it is JSON, a usual
// one is read in one pass. Almost all of a large one is the base64 text of its data,
// over which encoding/json goes byte by byte, and twice, so that text is cut out of
// others and the rest is parsed. Whatever is unusual about a body is left to
// parseEnvelope, which gives the same for every body.
func decodeEnvelope(body []byte, isJSON bool) (*inbox.Message, error) {
	if isJSON {
		if m, text, ok := usual(body); ok {
			return withData(m, text)
		}
		if rest, text, ok := cutData(body); ok {
			if m, isCut, err := parseEnvelope(rest); err == nil && isCut {
				return withData(m, text)
			}
		}
	}
	m, isCut, err := parseEnvelope(body)
	if err == nil && isCut {
		return nil, malformed(inbox.ReasonData, errors.New("the data is not base64"))
	}
	return m, err
}

// withData gives m the data that text, a part of the body, decodes to. The data takes
// the text's place, unless the push is refused: the body is then as it was.
func withData(m *inbox.Message, text []byte) (*inbox.Message, error) {
	size, err := decodedSize(text)
	if err != nil {
		return nil, malformed(inbox.ReasonData, err)
	}
	if size > inbox.MaxDataSize {
		return nil, malformed(inbox.ReasonLimits, fmt.Errorf("the data has %d bytes, the limit is %d", size, inbox.MaxDataSize))
	}
	if err := storable(m); err != nil {
		return nil, err
	}
	// The decoder writes three bytes for every four that it has read.
	n, err := base64.StdEncoding.Decode(text, text)
	if err != nil {
		return nil, malformed(inbox.ReasonData, err)
	}
	if n > 0 {
		m.Data = text[:n:n]
	}
	return m, nil
}

// decodedSize returns how many bytes text decodes to, if it is standard, padded
// base64 without line breaks.
func decodedSize(text []byte) (n int, err error) {
	var scratch [3 << 10]byte
	for len(text) > 0 {
		piece := text[:min(len(text), 4<<10)]
		text = text[len(piece):]
		size, err := base64.StdEncoding.Decode(scratch[:], piece)
		if err != nil {
			return 0, err
		}
		if n += size; size%3 != 0 && len(text) > 0 {
			return 0, errors.New("there is text after the padding")
		}
	}
	return n, nil
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

// members are the members of a JSON object, by their exact names, of which
// encoding/json ignores the case where it fills a struct.
type members map[string]json.RawMessage

// decode reads the member with this name, if there is one, into v.
func (m members) decode(reason inbox.Reason, name string, v any) error {
	raw, ok := m[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return malformed(reason, fmt.Errorf("%s: %w", name, err))
	}
	return nil
}

// parseEnvelope decodes a wrapped push, or says that its data is cutMark.
func parseEnvelope(body []byte) (_ *inbox.Message, isCut bool, err error) {
	var envelope, message members
	if err := json.Unmarshal(body, &envelope); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errNoEnvelope, err)
	}
	if len(envelope) == 0 {
		return nil, false, fmt.Errorf("%w: the object is empty", errNoEnvelope)
	}
	if json.Unmarshal(envelope["message"], &message) != nil || message == nil {
		return nil, false, errNoEnvelope
	}
	m := &inbox.Message{Source: inbox.SourcePubSub}
	var data payload
	var idSnake, published, publishedSnake string
	for _, field := range []struct {
		of     members
		reason inbox.Reason
		name   string
		value  any
	}{
		{envelope, inbox.ReasonField, "subscription", &m.Subscription},
		{envelope, inbox.ReasonField, "deliveryAttempt", &m.DeliveryAttempt},
		{message, inbox.ReasonMessageID, "messageId", &m.MessageID},
		{message, inbox.ReasonMessageID, "message_id", &idSnake},
		{message, inbox.ReasonField, "publishTime", &published},
		{message, inbox.ReasonField, "publish_time", &publishedSnake},
		{message, inbox.ReasonField, "orderingKey", &m.OrderingKey},
		{message, inbox.ReasonAttributes, "attributes", &m.Attributes},
		{message, inbox.ReasonData, "data", &data},
	} {
		if err := field.of.decode(field.reason, field.name, field.value); err != nil {
			return nil, false, err
		}
	}
	m.MessageID = cmp.Or(m.MessageID, idSnake)
	if m.MessageID == "" {
		return nil, false, malformed(inbox.ReasonMessageID, errors.New("the message has no ID"))
	}
	if m.DeliveryAttempt < 0 {
		return nil, false, malformed(inbox.ReasonField, errors.New("the delivery attempt is negative"))
	}
	if m.PublishTime, err = parseTime(cmp.Or(published, publishedSnake)); err != nil {
		return nil, false, malformed(inbox.ReasonField, err)
	}
	m.Data = data.data
	return m, data.isCut, nil
}

func decodeMetadata(h http.Header, body []byte) (*inbox.Message, error) {
	for _, name := range [...]string{headerMessageID, headerSubscription} {
		// A second header is a publisher's attribute that imitates Pub/Sub's.
		if v := h[name]; len(v) != 1 || v[0] == "" {
			return nil, malformed(inbox.ReasonMetadata, fmt.Errorf("the header %s does not occur exactly once", name))
		}
	}
	for _, name := range [...]string{headerPublishTime, headerOrderingKey} {
		if len(h[name]) > 1 {
			return nil, malformed(inbox.ReasonMetadata, fmt.Errorf("the header %s occurs more than once", name))
		}
	}
	published, err := parseTime(h.Get(headerPublishTime))
	if err != nil {
		return nil, malformed(inbox.ReasonMetadata, err)
	}
	m := &inbox.Message{
		Source:       inbox.SourcePubSub,
		Subscription: strings.ToValidUTF8(h.Get(headerSubscription), "\uFFFD"),
		MessageID:    strings.ToValidUTF8(h.Get(headerMessageID), "\uFFFD"),
		PublishTime:  published,
		Data:         body,
		Attributes:   attributes(h),
		OrderingKey:  strings.ToValidUTF8(h.Get(headerOrderingKey), "\uFFFD"),
	}
	maps.DeleteFunc(m.Attributes, func(name, _ string) bool { return strings.HasPrefix(name, strings.ToLower(headerPrefix)) })
	return m, nil
}

// attributes returns the headers of a push that do not belong to HTTP, or nil.
func attributes(h http.Header) (all map[string]string) {
	for name, values := range h {
		if isTransport(name) {
			continue
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[strings.ToLower(name)] = strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD")
	}
	return all
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
		return time.Time{}, errors.New("the publish time is not RFC 3339")
	}
	return t.UTC(), nil
}

func isJSON(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
}
