package publisher

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/encoding/protojson"

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
// given query and body:
//
//   - application/json is the body of Pub/Sub's REST method topics.publish,
//     read as strictly as Google's own JSON parser does;
//   - application/x-www-form-urlencoded is one message: payload, attributes
//     (key=value lines) and orderingKey;
//   - any other type is one message whose data is the body; the content type
//     becomes the attribute content-type, query parameters attribute.KEY=VALUE
//     become the others.
//
// A request that cannot be read is an error with status 400.
func Parse(h http.Header, query url.Values, body []byte) ([]*pubsubpb.PubsubMessage, error) {
	contentType := h.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, unreadable("the Content-Type cannot be read", err)
	}
	switch mediaType {
	case "application/json":
		return parseJSON(body)
	case "application/x-www-form-urlencoded":
		return parseForm(body)
	default:
		return parseRaw(contentType, query, body)
	}
}

func parseJSON(body []byte) ([]*pubsubpb.PubsubMessage, error) {
	var req pubsubpb.PublishRequest
	if err := protojson.Unmarshal(body, &req); err != nil {
		return nil, unreadable(`the body is not a topics.publish request: send {"messages": [{"data": "<base64>", "attributes": {}, "orderingKey": ""}]}`, err)
	}
	for _, m := range req.GetMessages() {
		// Output only; Pub/Sub sets both.
		m.MessageId, m.PublishTime = "", nil
	}
	return req.GetMessages(), nil
}

func parseForm(body []byte) ([]*pubsubpb.PubsubMessage, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, unreadable("the form cannot be read", err)
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

func parseRaw(contentType string, query url.Values, body []byte) ([]*pubsubpb.PubsubMessage, error) {
	m := &pubsubpb.PubsubMessage{Data: body}
	for name, values := range query {
		if k, ok := strings.CutPrefix(name, "attribute."); ok {
			for _, v := range values {
				if err := setAttribute(m, k, v); err != nil {
					return nil, err
				}
			}
		}
	}
	if _, ok := m.Attributes["content-type"]; !ok && contentType != "" {
		_ = setAttribute(m, "content-type", contentType)
	}
	return []*pubsubpb.PubsubMessage{m}, nil
}

// setAttribute refuses a second value for a key: one of the two would be lost.
func setAttribute(m *pubsubpb.PubsubMessage, k, v string) error {
	if _, ok := m.Attributes[k]; ok {
		return unreadable("an attribute occurs twice", nil)
	}
	if m.Attributes == nil {
		m.Attributes = make(map[string]string)
	}
	m.Attributes[k] = v
	return nil
}
