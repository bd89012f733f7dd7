package publisher

import (
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
)

// MaxBodySize is the size of the largest HTTP body that is read, in bytes:
// MaxRequestSize in base64 and JSON.
const MaxBodySize = 16 << 20

// BodyWeight is the memory that publishing takes for each byte of a request's
// body: the body, its messages, and the request to Pub/Sub, encoded.
const BodyWeight = 5

// Reply is the answer to a publish request, as in Pub/Sub's REST API.
type Reply struct {
	MessageIDs []string `json:"messageIds"`
}

// unreadable is the error of a publish request that cannot be read.
func unreadable(detail string, cause error) error {
	return &problem.Error{Status: http.StatusBadRequest, Detail: detail, Cause: cause}
}

// Parse reads the messages of an HTTP publish request with header h and the
// given query, as it stands in the URL, and body:
//
//   - application/json is the body of Pub/Sub's REST method topics.publish,
//     read as strictly as Google's own JSON parser does;
//   - application/x-www-form-urlencoded is one message: payload, attributes
//     (key=value lines) and orderingKey;
//   - any other type is one message whose data is the body; the content type
//     becomes the attribute content-type, query parameters attribute.KEY=VALUE
//     become the others.
//
// A request that cannot be read is an error with status 400 that says what is
// wrong and where, one in an encoding or character set that is not read here one
// with status 415.
func Parse(h http.Header, rawQuery string, body []byte) ([]*pubsubpb.PubsubMessage, error) {
	mediaType, err := mediaTypeOf(h)
	if err != nil {
		return nil, err
	}
	switch mediaType {
	case "application/json":
		if err := checkQuery(rawQuery, "a JSON body has no parameters: attributes belong into its messages"); err != nil {
			return nil, err
		}
		return parseJSON(body)
	case "application/x-www-form-urlencoded":
		if err := checkQuery(rawQuery, "a form has no parameters: attributes belong into its field attributes"); err != nil {
			return nil, err
		}
		return parseForm(body)
	default:
		return parseRaw(h.Get("Content-Type"), rawQuery, body)
	}
}

// systemParameters are those of Google's APIs that change nothing here. Those that
// would change the answer's form (callback, alt other than json) or carry a
// credential in the address (access_token) are not among them.
var systemParameters = []string{
	"alt", "$alt", "fields", "$fields", "key", "$key", "prettyPrint", "$prettyPrint", "quotaUser", "$quotaUser",
	"userProject", "$userProject", "$.xgafv", "$apiVersion",
}

// ParseREST reads the messages of a request to Pub/Sub's REST method
// topics.publish, whose body is always JSON and whose query may hold the system
// parameters of Google's APIs. It fails as Parse does.
func ParseREST(h http.Header, rawQuery string, body []byte) ([]*pubsubpb.PubsubMessage, error) {
	mediaType, err := mediaTypeOf(h)
	if err != nil {
		return nil, err
	}
	if mediaType != "application/json" && mediaType != "" {
		return nil, problem.New(http.StatusUnsupportedMediaType, "the body of topics.publish is JSON; send it with the Content-Type application/json")
	}
	if err := checkQuery(rawQuery, "allowed here are "+strings.Join(systemParameters, ", ")+"; attributes belong into the messages", systemParameters...); err != nil {
		return nil, err
	}
	query, _ := url.ParseQuery(rawQuery)
	for _, alt := range slices.Concat(query["alt"], query["$alt"]) {
		if alt != "json" && !strings.HasPrefix(alt, "json;") {
			return nil, unreadable("the answer is JSON; leave alt out, or send alt=json", nil)
		}
	}
	return parseJSON(body)
}

// mediaTypeOf returns the media type of the body, "" when none is stated.
func mediaTypeOf(h http.Header) (string, error) {
	for _, encoding := range h["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return "", problem.New(http.StatusUnsupportedMediaType, "the body is compressed (Content-Encoding), which is not supported; send it uncompressed")
		}
	}
	values := h["Content-Type"]
	if len(values) > 1 {
		return "", unreadable("the request has more than one Content-Type; send it exactly once", nil)
	}
	if len(values) == 0 || values[0] == "" {
		return "", nil
	}
	mediaType, parameters, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", unreadable("the Content-Type cannot be read; send one such as text/plain", err)
	}
	if charset, ok := parameters["charset"]; ok && mediaType == "application/json" && !strings.EqualFold(charset, "utf-8") {
		return "", problem.New(http.StatusUnsupportedMediaType, "JSON is read as UTF-8 only; send it so, without another charset")
	}
	return mediaType, nil
}

// checkQuery refuses every parameter but the allowed ones, which hint explains.
func checkQuery(rawQuery, hint string, allowed ...string) error {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return unreadable("the query cannot be read: "+err.Error(), err)
	}
	for _, name := range sortedNames(query) {
		if !slices.Contains(allowed, name) {
			return unreadable(fmt.Sprintf("the query has the unknown parameter %.64q; %s", name, hint), nil)
		}
	}
	return nil
}

func parseJSON(body []byte) ([]*pubsubpb.PubsubMessage, error) {
	var req pubsubpb.PublishRequest
	// protojson knows the field topic, too, which REST has in the path. Its error is
	// not kept: it quotes the data, which must not get into the log.
	if err := protojson.Unmarshal(body, &req); err != nil || req.GetTopic() != "" {
		return nil, unreadable(fmt.Sprintf(`the body is not a topics.publish request: %s; send {"messages": [{"data": "<base64>", "attributes": {}, "orderingKey": ""}]}`, explain(body)), nil)
	}
	for _, m := range req.GetMessages() {
		// Output only; Pub/Sub sets both.
		m.MessageId, m.PublishTime = "", nil
	}
	return req.GetMessages(), nil
}

var formFields = []string{"payload", "attributes", "orderingKey"}

func parseForm(body []byte) ([]*pubsubpb.PubsubMessage, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, unreadable("the form cannot be read: "+err.Error(), err)
	}
	for _, name := range sortedNames(form) {
		switch {
		case !slices.Contains(formFields, name):
			return nil, unreadable(fmt.Sprintf("the form has the unknown field %.64q; its fields are %s (for JSON send the Content-Type application/json)", name, strings.Join(formFields, ", ")), nil)
		case len(form[name]) > 1:
			return nil, unreadable("the form has the field "+name+" more than once", nil)
		}
	}
	m := &pubsubpb.PubsubMessage{Data: []byte(form.Get("payload")), OrderingKey: form.Get("orderingKey")}
	for i, line := range strings.Split(form.Get("attributes"), "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok {
			return nil, unreadable(fmt.Sprintf("line %d of attributes is not key=value", i+1), nil)
		}
		if err := setAttribute(m, strings.TrimSpace(k), strings.TrimSpace(v)); err != nil {
			return nil, err
		}
	}
	return []*pubsubpb.PubsubMessage{m}, nil
}

func parseRaw(contentType, rawQuery string, body []byte) ([]*pubsubpb.PubsubMessage, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, unreadable("the query cannot be read: "+err.Error(), err)
	}
	m := &pubsubpb.PubsubMessage{Data: body}
	for _, name := range sortedNames(query) {
		k, ok := strings.CutPrefix(name, "attribute.")
		if !ok {
			return nil, unreadable(fmt.Sprintf("the query has the unknown parameter %.64q; allowed is attribute.KEY=VALUE, once for each attribute", name), nil)
		}
		for _, v := range query[name] {
			if err := setAttribute(m, k, v); err != nil {
				return nil, err
			}
		}
	}
	if _, ok := m.Attributes["content-type"]; !ok && contentType != "" {
		_ = setAttribute(m, "content-type", contentType)
	}
	return []*pubsubpb.PubsubMessage{m}, nil
}

// SetTrace writes the trace of a publish request with header h down in its messages, as
// Google's clients do, so that what receives them can name it. A message that has one
// keeps it, and one without room, or with nothing else in it, is left as it is.
func SetTrace(messages []*pubsubpb.PubsubMessage, h http.Header) {
	parent := h.Get("Traceparent")
	const room = 128 // of the attribute in one message, in bytes
	if _, _, _, ok := httpapi.Traceparent(parent); !ok || proto.Size(&pubsubpb.PublishRequest{Messages: messages})+room*len(messages) > MaxRequestSize {
		return
	}
	for _, m := range messages {
		if _, there := m.Attributes[inbox.AttributeTraceparent]; there || len(m.Attributes) >= MaxAttributes || len(m.Data)+len(m.Attributes) == 0 {
			continue
		}
		if m.Attributes == nil {
			m.Attributes = map[string]string{}
		}
		m.Attributes[inbox.AttributeTraceparent] = parent
	}
}

// sortedNames makes the same request fail with the same words.
func sortedNames(v url.Values) []string { return slices.Sorted(maps.Keys(v)) }

// setAttribute refuses a second value for a key: one of the two would be lost.
func setAttribute(m *pubsubpb.PubsubMessage, k, v string) error {
	if _, ok := m.Attributes[k]; ok {
		return unreadable(fmt.Sprintf("the attribute %.64q occurs twice", k), nil)
	}
	if m.Attributes == nil {
		m.Attributes = make(map[string]string)
	}
	m.Attributes[k] = v
	return nil
}
