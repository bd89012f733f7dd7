package console

import (
	"net/http"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/publisher"
)

func TestReplaySetsAttributes(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("again"))
	at := "/messages/" + id + ":replay"
	if resp, b := s.do(t, s.request(t, http.MethodPost, at+"?attribute.k=changed&attribute.replay-run=r1&attribute.empty=", "")); resp.StatusCode != http.StatusOK {
		t.Fatalf("answered %d %s", resp.StatusCode, b)
	}
	want := map[string]string{"k": "changed", "replay-run": "r1", "empty": "", "replay-of": id, "googclient_schemaencoding": "JSON"}
	if diff := cmp.Diff(want, s.topic.sent[0].Attributes); diff != "" {
		t.Error(diff)
	}
	for query, named := range map[string]string{
		"attribute.k=1&attribute.k=2": "attribute.k",
		"attribute.a=1&dryRun=true":   "dryRun",
		"attribute.=1":                "attribute.",
		"attribute.replay-of=other":   "attribute.replay-of",
	} {
		resp, b := s.do(t, s.request(t, http.MethodPost, at+"?"+query, ""))
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), `\"`+named+`\"`) {
			t.Errorf("%s: answered %d %s", query, resp.StatusCode, b)
		}
	}
	if len(s.topic.sent) != 1 {
		t.Errorf("%d messages were published", len(s.topic.sent))
	}
}

// TestReplayOfLargestMessage replays messages that fill a request to Pub/Sub, to which
// replay-of is too much.
func TestReplayOfLargestMessage(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	put := func(id string, size int) string {
		t.Helper()
		m := &inbox.Message{Source: "pubsub", Subscription: "s", MessageID: id, Data: make([]byte, size), Attributes: map[string]string{"k": "v"}}
		if _, err := s.store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		return inbox.ID(m.Source, m.Subscription, m.MessageID)
	}
	largest := publisher.MaxRequestSize - 18 // of that the envelope and the attribute
	if m := (&pubsubpb.PubsubMessage{Data: make([]byte, largest), Attributes: map[string]string{"k": "v"}}); proto.Size(&pubsubpb.PublishRequest{Messages: []*pubsubpb.PubsubMessage{m}}) != publisher.MaxRequestSize {
		t.Fatalf("%d bytes are not the largest", largest)
	}
	quarantined := inbox.Quarantine("pubsub", "s", inbox.ReasonLimits, make([]byte, publisher.MaxRequestSize))
	if _, err := s.store.Put(t.Context(), quarantined); err != nil {
		t.Fatal(err)
	}
	full := put("full", largest)
	for name, test := range map[string]struct {
		id, query string
		replayOf  bool
		want      string // of the error
	}{
		"full":        {id: full},
		"room":        {id: put("room", largest-100), replayOf: true},
		"set":         {id: full, query: "?attribute.more=1", want: "with its attributes it has 10000011 bytes, over Pub/Sub's limit of 10000000 for a request; set fewer attributes"},
		"quarantined": {id: inbox.ID("pubsub", "s", quarantined.MessageID), query: "?quarantined=true", want: "with its attributes it has 10000010 bytes, over Pub/Sub's limit of 10000000 for a request; get the data at /messages/" + inbox.ID("pubsub", "s", quarantined.MessageID) + "/data"},
	} {
		s.topic.sent = nil
		resp, b := s.do(t, s.request(t, http.MethodPost, "/messages/"+test.id+":replay"+test.query, ""))
		switch {
		case test.want != "":
			if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), test.want) || len(s.topic.sent) > 0 {
				t.Errorf("%s: answered %d %s", name, resp.StatusCode, b)
			}
		case resp.StatusCode != http.StatusOK || len(s.topic.sent) != 1:
			t.Errorf("%s: answered %d %s", name, resp.StatusCode, b)
		default:
			got := s.topic.sent[0]
			if _, has := got.Attributes["replay-of"]; has != test.replayOf || got.Attributes["k"] != "v" || len(got.Data) < largest-100 {
				t.Errorf("%s: published %d bytes with %v", name, len(got.Data), got.Attributes)
			}
		}
	}
}
