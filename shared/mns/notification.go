package mns

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/pushinbox/shared/inbox"
)

// Encoding is how a publisher encoded a message's body. MNS does not tell.
type Encoding string

const (
	// Raw bodies are not encoded. The empty Encoding means the same.
	Raw Encoding = "raw"
	// Base64 bodies are in base64, as several SDKs send them.
	Base64 Encoding = "base64"
)

// Encodings says what the publishers of each topic do to bodies: its keys are
// "TOPIC/SUBSCRIPTION", "TOPIC" and, for all others, "". Nil means Raw.
type Encodings map[string]Encoding

// UnmarshalText reads a setting such as "raw,TOPIC=base64,TOPIC/SUBSCRIPTION=raw":
// an encoding for each name, and one without a name for all others.
func (e *Encodings) UnmarshalText(setting []byte) error {
	all := make(Encodings)
	for item := range strings.SplitSeq(string(setting), ",") {
		name, encoding, named := strings.Cut(item, "=")
		if !named {
			name, encoding = "", item
		}
		if named && !topicForm.MatchString(name) {
			return fmt.Errorf("mns: %q is not a TOPIC or a TOPIC/SUBSCRIPTION", name)
		}
		if encoding != string(Raw) && encoding != string(Base64) {
			return fmt.Errorf("mns: %q is neither %s nor %s", encoding, Raw, Base64)
		}
		if _, twice := all[name]; twice {
			return fmt.Errorf("mns: %q comes twice", item)
		}
		all[name] = Encoding(encoding)
	}
	*e = all
	return nil
}

// topicForm matches a topic's name, alone or with a subscription's.
var topicForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,256}(?:/[A-Za-z0-9_-]{1,256})?$`)

// decode sets n's Body to what the publisher had before encoding body, or to body
// where that was not encoded.
func (e Encodings) decode(n *Notification, body []byte) {
	n.Body = body
	encoding := e[""]
	for _, name := range [...]string{n.TopicName, n.TopicName + "/" + n.SubscriptionName} {
		if named, ok := e[name]; ok {
			encoding = named
		}
	}
	if encoding != Base64 {
		return
	}
	n.Encoding = Raw
	if decoded, err := base64.StdEncoding.AppendDecode(nil, body); err == nil {
		n.Body, n.Encoding = decoded, Base64
	}
}

// Format is the form of a subscription's pushes.
type Format string

// The formats.
const (
	XML        Format = "XML"
	JSON       Format = "JSON"
	Simplified Format = "SIMPLIFIED"
)

// Notification is the content of a push. The names are empty where a SIMPLIFIED push
// does not have them.
type Notification struct {
	Format           Format
	TopicOwner       string
	TopicName        string
	Subscriber       string
	SubscriptionName string
	// MessageID is unique within the topic, and stays the same when MNS retries.
	MessageID string
	// MessageMD5 is the MD5 of the body as published, in upper-case hex.
	MessageMD5 string
	// MessageTag is the tag that subscriptions filter by, or empty.
	MessageTag string
	// PublishTime has milliseconds; it is zero where the push does not have it.
	PublishTime time.Time
	// Body is the message's body, decoded where that is expected and it can be.
	Body []byte
	// Encoding is what Body was: Base64 where it was decoded, Raw where that was
	// expected and it is as it came. It is empty where nothing was expected.
	Encoding Encoding
}

// Headers of a SIMPLIFIED push, which always has the first.
const (
	headerMessageID        = "X-Mns-Message-Id"
	headerMessageTag       = "X-Mns-Message-Tag"
	headerTopicOwner       = "X-Mns-Topic-Owner"
	headerTopicName        = "X-Mns-Topic-Name"
	headerSubscriber       = "X-Mns-Subscriber"
	headerSubscriptionName = "X-Mns-Subscription-Name"
	headerPublishTime      = "X-Mns-Publish-Time"
)

// Decode decodes a push whose signature was verified, or fails with ErrMalformed.
//
// A push with an x-mns-message-id header is SIMPLIFIED, whatever its body looks
// like: the body is then its publisher's, who must not pass for another by writing
// a notification into it. Any other push is XML or JSON by its first character:
// which Content-Type JSON comes with is not documented.
//
// A body is read strictly first. What has no place in XML or JSON, such as control
// characters, is accepted where MessageMD5 proves how it is meant.
func Decode(h http.Header, body []byte, e Encodings) (*Notification, error) {
	var fields map[string]string
	var n Notification
	var err error
	if _, ok := h[headerMessageID]; ok {
		return decodeSimplified(h, body, e)
	}
	body = withoutMark(body)
	switch n.Format = formatOf(body); n.Format {
	case XML:
		fields, err = readXML(body)
	case JSON:
		fields, err = readJSON(body)
	default:
		return nil, malformed("it is neither XML nor JSON and has no x-mns-message-id")
	}
	message, ok := fields["Message"]
	if err != nil || !ok || !strings.EqualFold(fields["MessageMD5"], md5Hex(message)) {
		proven, text, ok := readLenient(n.Format, h, body)
		switch {
		case ok:
			fields, message = proven, text
		case err != nil:
			return nil, err
		default:
			return nil, malformed("there is no Message, or MessageMD5 is not its MD5")
		}
	}
	n.TopicOwner, n.TopicName = fields["TopicOwner"], fields["TopicName"]
	n.Subscriber, n.SubscriptionName = fields["Subscriber"], fields["SubscriptionName"]
	n.MessageID, n.MessageMD5, n.MessageTag = fields["MessageId"], fields["MessageMD5"], fields["MessageTag"]
	for _, s := range [...]string{n.TopicOwner, n.TopicName, n.Subscriber, n.SubscriptionName, n.MessageID, n.MessageMD5, fields["PublishTime"]} {
		if s == "" {
			return nil, malformed("a name, the ID, the MD5 or the time is missing")
		}
	}
	n.MessageMD5 = strings.ToUpper(n.MessageMD5)
	return n.finish(fields["PublishTime"], []byte(message), e)
}

func decodeSimplified(h http.Header, body []byte, e Encodings) (*Notification, error) {
	n := &Notification{
		Format:           Simplified,
		TopicOwner:       h.Get(headerTopicOwner),
		TopicName:        h.Get(headerTopicName),
		Subscriber:       h.Get(headerSubscriber),
		SubscriptionName: h.Get(headerSubscriptionName),
		MessageID:        h.Get(headerMessageID),
		MessageMD5:       md5Hex(string(body)),
		MessageTag:       h.Get(headerMessageTag),
	}
	return n.finish(h.Get(headerPublishTime), body, e)
}

// finish checks what all formats have in common and sets the time and the body.
func (n *Notification) finish(publishTime string, body []byte, e Encodings) (*Notification, error) {
	n.MessageTag = strings.ToValidUTF8(n.MessageTag, "\ufffd")
	if len(n.MessageTag) > maxName {
		return nil, malformed("the tag is too long")
	}
	for _, name := range [...]string{n.TopicOwner, n.TopicName, n.Subscriber, n.SubscriptionName, n.MessageID} {
		if len(name) > maxName || strings.ContainsFunc(name, isNoName) {
			return nil, malformed("a name cannot be one")
		}
	}
	if n.MessageID == "" {
		return nil, malformed("there is no message ID")
	}
	if publishTime != "" {
		ms, err := strconv.ParseInt(publishTime, 10, 64)
		if err != nil || ms < 0 || ms > maxPublishTime {
			return nil, malformed("the publish time is not in milliseconds")
		}
		n.PublishTime = time.UnixMilli(ms).UTC()
	}
	e.decode(n, body)
	return n, nil
}

const (
	// maxName is the longest name of MNS, in bytes.
	maxName = 256
	// maxPublishTime is the end of the year 9999 in Unix milliseconds.
	maxPublishTime = 253402300799999
)

// isNoName finds what is in no name of MNS and would confuse one subscription's
// full name with another's, or a line of a log with the next. U+FFFD stands for
// anything that is not text.
func isNoName(r rune) bool { return r == '/' || r < ' ' || r == 0x7f || r == utf8.RuneError }

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

func md5Hex(s string) string {
	sum := md5.Sum([]byte(s))
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// formatOf returns the format of a push that is not SIMPLIFIED, or nothing.
func formatOf(body []byte) Format {
	switch body = bytes.TrimLeft(body, " \t\r\n"); {
	case bytes.HasPrefix(body, []byte("<")):
		return XML
	case bytes.HasPrefix(body, []byte("{")):
		return JSON
	}
	return ""
}

// fieldNames are the names of a notification's XML elements or JSON members.
var fieldNames = []string{
	"TopicOwner", "TopicName", "Subscriber", "SubscriptionName",
	"MessageId", "MessageMD5", "MessageTag", "Message", "PublishTime",
}

// maxDepth is the deepest nesting of a notification's XML elements. Known
// notifications have two levels.
const maxDepth = 16

// readXML returns the text of the fields that are children of a Notification, in
// any namespace, and ignores other elements. Repeated fields are an error because
// two decoders could disagree, and document types because they can expand.
func readXML(body []byte) (map[string]string, error) {
	fields := make(map[string]string)
	d := xml.NewDecoder(bytes.NewReader(body))
	var path []string
	var text strings.Builder
	ended := false
	for {
		token, err := d.Token()
		if err == io.EOF && ended {
			return fields, nil
		}
		if err != nil {
			return nil, malformed("it is not XML")
		}
		switch t := token.(type) {
		case xml.Directive:
			return nil, malformed("it has a document type")
		case xml.StartElement:
			path = append(path, t.Name.Local)
			switch {
			case ended || len(path) == 1 && t.Name.Local != "Notification":
				return nil, malformed("it is not one Notification")
			case len(path) > maxDepth:
				return nil, malformed("its elements are nested too deep")
			case len(path) == 2:
				text.Reset()
			case len(path) == 3 && slices.Contains(fieldNames, path[1]):
				return nil, malformed("a field has elements")
			}
		case xml.CharData:
			switch {
			case len(path) == 2:
				text.Write(t)
			case len(path) < 2 && len(bytes.TrimSpace(t)) > 0:
				return nil, malformed("there is text between its elements")
			}
		case xml.EndElement:
			if len(path) == 2 && slices.Contains(fieldNames, path[1]) {
				if _, ok := fields[path[1]]; ok {
					return nil, malformed("a field comes twice")
				}
				fields[path[1]] = text.String()
			}
			path = path[:len(path)-1]
			ended = len(path) == 0
		}
	}
}

// readJSON returns the fields of a notification that is a JSON object. Other
// members are ignored. Unlike encoding/json, it compares names case-sensitively and
// refuses repeated ones.
func readJSON(body []byte) (map[string]string, error) {
	// The decoder would replace bytes that are not UTF-8.
	if !json.Valid(body) || !utf8.Valid(body) {
		return nil, malformed("it is not JSON")
	}
	fields := make(map[string]string)
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed("it is not a JSON object")
	}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		var value json.RawMessage
		if err == nil && ok {
			err = d.Decode(&value)
		}
		if err != nil || !ok {
			return nil, malformed("it is not JSON")
		}
		if !slices.Contains(fieldNames, name) {
			continue
		}
		if _, ok := fields[name]; ok {
			return nil, malformed("a field comes twice")
		}
		if fields[name], err = jsonText(name, value); err != nil {
			return nil, err
		}
	}
	return fields, nil
}

// jsonText returns the text of a field: a string or, for the time, a number.
func jsonText(name string, value json.RawMessage) (string, error) {
	if name == "PublishTime" && value[0] != '"' {
		return string(value), nil
	}
	var s *string
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return "", malformed("a field is not text")
	}
	return *s, nil
}

// Subscription returns the full name of the subscription that pushed n:
// accounts/OWNER/topics/TOPIC/subscriptions/NAME. Older SIMPLIFIED pushes do not have
// these names; then it returns the endpoint's path, which should be a different one
// for each subscription.
func (n *Notification) Subscription(path string) string {
	if n.TopicOwner == "" || n.TopicName == "" || n.SubscriptionName == "" {
		return path
	}
	return "accounts/" + n.TopicOwner + "/topics/" + n.TopicName + "/subscriptions/" + n.SubscriptionName
}

// Message returns n as a message for the inbox, with the signature's claims. path is
// the endpoint's, without a secret, as Endpoint returns it.
func (n *Notification) Message(s Signer, path string) *inbox.Message {
	attributes := make(map[string]string)
	for name, value := range map[string]string{
		"topic-owner":       n.TopicOwner,
		"topic-name":        n.TopicName,
		"subscriber":        n.Subscriber,
		"subscription-name": n.SubscriptionName,
		"message-tag":       n.MessageTag,
		"mns-encoding":      string(n.Encoding),
	} {
		if value != "" {
			attributes[name] = value
		}
	}
	audience := n.SubscriptionName
	if audience == "" {
		audience = path
	}
	return &inbox.Message{
		Source:       inbox.SourceMNS,
		Subscription: n.Subscription(path),
		MessageID:    n.MessageID,
		PublishTime:  n.PublishTime,
		Data:         n.Body,
		Attributes:   attributes,
		Verified: inbox.Verified{
			Issuer:   s.CertificateURL,
			Subject:  n.TopicOwner,
			Audience: audience,
			IssuedAt: s.Date.UTC(),
		},
	}
}

// Quarantine returns the message in which the body of a push that cannot be read is
// stored as it came. Nothing in it says whose it is: the endpoint's path stands for
// the subscription.
func Quarantine(s Signer, path string, body []byte) *inbox.Message {
	m := inbox.Quarantine(inbox.SourceMNS, path, inbox.ReasonUnknownForm, body)
	m.Verified = inbox.Verified{Issuer: s.CertificateURL, Audience: path, IssuedAt: s.Date.UTC()}
	return m
}

// Policy says whose pushes are accepted. MNS signs those of every account.
type Policy struct {
	// Owners are the account IDs whose topics may push; at least one.
	Owners []string
	// Topics and Subscriptions are the names that may push; empty means all names
	// of the owners.
	Topics        []string
	Subscriptions []string
	// Unnamed accepts pushes that name no owner, as older SIMPLIFIED ones do. Set it
	// only where Endpoint has checked a secret, which is then the only protection.
	Unnamed bool
}

// Validate fails with ErrPolicy when p names no owner.
func (p Policy) Validate() error {
	if len(p.Owners) == 0 || slices.Contains(p.Owners, "") {
		return ErrPolicy
	}
	return nil
}

// Check fails with ErrForeign when p does not accept n. A list of topics or
// subscriptions accepts no push without that name.
func (p Policy) Check(n *Notification) error {
	if err := p.Validate(); err != nil {
		return err
	}
	switch {
	case n.TopicOwner == "" && !p.Unnamed:
		return fmt.Errorf("%w: the push names no owner, which needs a secret to be accepted", ErrForeign)
	case n.TopicOwner != "" && !slices.Contains(p.Owners, n.TopicOwner):
		return fmt.Errorf("%w: the topic's owner is not allowed", ErrForeign)
	case len(p.Topics) > 0 && !slices.Contains(p.Topics, n.TopicName):
		return fmt.Errorf("%w: the topic is not allowed", ErrForeign)
	case len(p.Subscriptions) > 0 && !slices.Contains(p.Subscriptions, n.SubscriptionName):
		return fmt.Errorf("%w: the subscription is not allowed", ErrForeign)
	}
	return nil
}
