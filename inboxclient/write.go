package inboxclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"example.com/pushinbox/shared/inbox"
)

// Publication is a message to be published.
type Publication struct {
	Data        []byte            `json:"data,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	OrderingKey string            `json:"orderingKey,omitempty"`
}

// Publish publishes messages to the console's topic, all of them or none, and
// returns the provider's message IDs. NotSent tells that nothing was published; after
// other errors it may have been.
func (c *Client) Publish(ctx context.Context, messages ...Publication) ([]string, error) {
	body, err := json.Marshal(map[string]any{"messages": messages})
	if err != nil {
		return nil, err
	}
	return c.write(ctx, request{path: "messages", header: http.Header{"Content-Type": {"application/json"}}, body: body}, len(messages))
}

// Replay publishes the message with an ID of the inbox again, with the attribute
// replay-of and these attributes set besides, and returns the new message ID. A
// quarantined message is replayed only where isQuarantined says so. NotSent tells
// that nothing was published; after other errors it may have been.
func (c *Client) Replay(ctx context.Context, id string, attributes map[string]string, isQuarantined bool) (string, error) {
	if !inbox.ValidID(id) {
		return "", fmt.Errorf("inboxclient: %q is not an ID of the inbox", id)
	}
	v := make(url.Values)
	for key, value := range attributes {
		v.Set("attribute."+key, value)
	}
	if isQuarantined {
		v.Set("quarantined", "true")
	}
	ids, err := c.write(ctx, request{path: "messages/" + id + ":replay", query: v}, 1)
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// write sends a request that publishes so many messages, once.
func (c *Client) write(ctx context.Context, call request, messages int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	call.method = http.MethodPost
	resp, err := c.send(ctx, call)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := all(resp, 0)
	if err != nil {
		return nil, err
	}
	var reply struct {
		MessageIDs []string `json:"messageIds"`
	}
	if err := decode(b, &reply); err != nil {
		return nil, err
	}
	if len(reply.MessageIDs) != messages {
		return nil, fmt.Errorf("%w: %d message IDs for %d messages", errAnswer, len(reply.MessageIDs), messages)
	}
	return reply.MessageIDs, nil
}
