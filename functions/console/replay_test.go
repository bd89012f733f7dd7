package console

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
