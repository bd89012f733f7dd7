package replay

import (
	"fmt"
	"testing"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/publisher"
)

// TestAttributesFit holds that replay-run makes no message too large for Pub/Sub that was
// not, and is left out of no other one.
func TestAttributesFit(t *testing.T) {
	t.Parallel()
	many := make(map[string]string)
	for i := range publisher.MaxAttributes {
		many[fmt.Sprint(i)] = "v"
	}
	kind := map[string]string{"kind": "order"}
	alone := publisher.RequestSize([]*pubsubpb.PubsubMessage{{Data: make([]byte, 1<<22), Attributes: kind, OrderingKey: "k"}}) - 1<<22
	largest := publisher.MaxRequestSize - alone
	for name, test := range map[string]struct {
		message inbox.Message
		set     map[string]string
		want    bool
	}{
		"small":       {inbox.Message{Size: 1, Attributes: kind}, nil, true},
		"none":        {inbox.Message{Size: 1}, nil, true},
		"not_sent":    {inbox.Message{Size: 1, Attributes: many, Quarantined: inbox.ReasonLimits}, nil, true},
		"full":        {inbox.Message{Size: 1, Attributes: many}, nil, false},
		"largest":     {inbox.Message{Size: largest, Attributes: kind, OrderingKey: "k"}, nil, false},
		"room":        {inbox.Message{Size: largest - 50, Attributes: kind, OrderingKey: "k"}, nil, true},
		"room_is_set": {inbox.Message{Size: largest - 50, Attributes: kind, OrderingKey: "k"}, map[string]string{"again": "yes"}, false},
	} {
		r := &Run{Record: &Record{Settings: Settings{Run: "20260102T150405-01234567", Set: test.set}}}
		got := r.attributes(&inboxclient.Message{Message: test.message})
		if _, has := got[AttributeRun]; has != test.want {
			t.Errorf("%s: %v", name, got)
		}
		for k, v := range test.set {
			if got[k] != v {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}
