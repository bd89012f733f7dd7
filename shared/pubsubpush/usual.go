package pubsubpush

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"example.com/pushinbox/shared/inbox"
)

// usual reads an envelope as Pub/Sub writes it: known names, each of them once, and
// data without escapes. It returns the message and the text of its data, which is
// not decoded. encoding/json, which reads every form, goes over such a body several
// times. ok is false for whatever else a body may be, a malformed one included:
// parseEnvelope says what that is.
func usual(body []byte) (m *inbox.Message, text []byte, ok bool) {
	e := envelope{reader: reader{rest: body}, m: &inbox.Message{Source: inbox.SourcePubSub}}
	e.object(e.member)
	e.skipSpace()
	id, published := e.values[fieldID], e.values[fieldPublished]
	if len(id) == 0 {
		id = e.values[fieldIDSnake]
	}
	if len(published) == 0 {
		published = e.values[fieldPublishedSnake]
	}
	var err error
	if e.m.PublishTime, err = parseTime(string(published)); err != nil {
		e.isOther = true
	}
	e.m.MessageID = string(id)
	e.m.Subscription, e.m.OrderingKey = string(e.values[fieldSubscription]), string(e.values[fieldOrderingKey])
	return e.m, e.values[fieldData], !e.isOther && len(e.rest) == 0 && len(id) > 0
}

// The members of an envelope and of its message.
const (
	fieldMessage = iota
	fieldSubscription
	fieldAttempt
	fieldID
	fieldIDSnake
	fieldPublished
	fieldPublishedSnake
	fieldOrderingKey
	fieldAttributes
	fieldData
	fields
)

// envelope is one that is being read.
type envelope struct {
	reader
	m      *inbox.Message
	seen   [fields]bool
	values [fields][]byte // the texts of the strings
}

// once notes that a field is read, which may occur once.
func (e *envelope) once(field int) {
	e.isOther = e.isOther || e.seen[field]
	e.seen[field] = true
}

// member reads a member of the envelope.
func (e *envelope) member(name []byte) {
	switch string(name) {
	case "message":
		e.once(fieldMessage)
		e.object(e.messageMember)
	case "subscription":
		e.string(fieldSubscription)
	case "deliveryAttempt":
		e.once(fieldAttempt)
		e.m.DeliveryAttempt = e.number()
	default:
		e.isOther = true
	}
}

// messageMember reads a member of the message.
func (e *envelope) messageMember(name []byte) {
	switch string(name) {
	case "data":
		e.once(fieldData)
		e.values[fieldData] = e.base64()
	case "messageId":
		e.string(fieldID)
	case "message_id":
		e.string(fieldIDSnake)
	case "publishTime":
		e.string(fieldPublished)
	case "publish_time":
		e.string(fieldPublishedSnake)
	case "orderingKey":
		e.string(fieldOrderingKey)
	case "attributes":
		e.once(fieldAttributes)
		e.m.Attributes = make(map[string]string)
		e.object(e.attribute)
	default:
		e.isOther = true
	}
}

// attribute reads an attribute. Of a key that occurs twice the last value counts.
func (e *envelope) attribute(key []byte) { e.m.Attributes[string(key)] = string(e.text()) }

// string reads the string that is the value of a field.
func (e *envelope) string(field int) {
	e.once(field)
	e.values[field] = e.text()
}

// reader reads JSON from the beginning of rest, until isOther says that it has met
// something that it does not read.
type reader struct {
	rest    []byte
	isOther bool
}

func (r *reader) skipSpace() {
	for len(r.rest) > 0 && (r.rest[0] == ' ' || r.rest[0] == '\t' || r.rest[0] == '\r' || r.rest[0] == '\n') {
		r.rest = r.rest[1:]
	}
}

// has reads c, if it comes next.
func (r *reader) has(c byte) bool {
	r.skipSpace()
	if len(r.rest) == 0 || r.rest[0] != c {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

// want reads c, which must come next.
func (r *reader) want(c byte) { r.isOther = !r.has(c) || r.isOther }

// object reads an object. member is called with each name, and reads its value.
func (r *reader) object(member func(name []byte)) {
	r.want('{')
	if r.has('}') {
		return
	}
	for !r.isOther {
		name := r.text()
		r.want(':')
		if r.isOther {
			return
		}
		member(name)
		if r.has('}') {
			return
		}
		r.want(',')
	}
}

// text reads a string. encoding/json decodes one that has escapes or is not UTF-8.
func (r *reader) text() []byte {
	r.skipSpace()
	quoted := r.rest
	if r.want('"'); r.isOther {
		return nil
	}
	isPlain, isASCII := true, true
	for i := 0; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c == '"':
			text := r.rest[:i:i]
			r.rest = r.rest[i+1:]
			if isPlain && (isASCII || utf8.Valid(text)) {
				return text
			}
			var s string
			r.isOther = json.Unmarshal(quoted[:i+2], &s) != nil || r.isOther
			return []byte(s)
		case c == '\\':
			isPlain = false
			i++
		case c >= utf8.RuneSelf:
			isASCII = false
		case c < ' ':
			r.isOther = true
			return nil
		}
	}
	r.isOther = true
	return nil
}

// base64 reads a string that is base64 or, once it is decoded, proves not to be. It
// leaves escapes to others, and line breaks, which the decoder would skip.
func (r *reader) base64() []byte {
	r.want('"')
	n := bytes.IndexByte(r.rest, '"')
	if r.isOther || n < 0 {
		r.isOther = true
		return nil
	}
	text := r.rest[:n:n]
	for _, c := range [...]byte{'\\', '\r', '\n'} {
		r.isOther = r.isOther || bytes.IndexByte(text, c) >= 0
	}
	r.rest = r.rest[n+1:]
	return text
}

// number reads a number of up to nine digits.
func (r *reader) number() int {
	r.skipSpace()
	n := 0
	for n < len(r.rest) && '0' <= r.rest[n] && r.rest[n] <= '9' {
		n++
	}
	if n == 0 || n > 9 || n > 1 && r.rest[0] == '0' {
		r.isOther = true
		return 0
	}
	v, _ := strconv.Atoi(string(r.rest[:n]))
	r.rest = r.rest[n:]
	return v
}
