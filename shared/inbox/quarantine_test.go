package inbox_test

import (
	"encoding/json"
	"strings"
	"testing"

	"example.com/pushinbox/shared/inbox"
)

func TestQuarantineJSON(t *testing.T) {
	t.Parallel()
	m := inbox.Quarantine(inbox.SourceMNS, "s", inbox.ReasonEnvelope, []byte("abc"))
	if want := "sha256-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; m.MessageID != want {
		t.Errorf("message ID %s, want %s", m.MessageID, want)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), `,"quarantined":{"reason":"malformed-envelope"}`) {
		t.Errorf("JSON %s", b)
	}
	for body, want := range map[string]inbox.Reason{
		string(b): inbox.ReasonEnvelope, `{"id":"1"}`: "", `{"quarantined":null}`: "", `{"quarantined":{"reason":"of-a-later-version"}}`: "of-a-later-version",
	} {
		var got inbox.Message
		if err := json.Unmarshal([]byte(body), &got); err != nil || got.Quarantined != want {
			t.Errorf("%s: reason %q, %v, want %q", body, got.Quarantined, err, want)
		}
	}
	m.Quarantined = ""
	if b, err := json.Marshal(m); err != nil || strings.Contains(string(b), "quarantined") {
		t.Errorf("JSON of another message: %s, %v", b, err)
	}
}

func TestPageIsBounded(t *testing.T) {
	t.Parallel()
	e := inbox.Event{Token: "t", Message: inbox.Message{Data: make([]byte, 3<<20)}}
	for name, test := range map[string]struct {
		q    inbox.Query
		want int
	}{
		"default":    {inbox.Query{}, 2},
		"one":        {inbox.Query{PageBytes: 1}, 1},
		"larger":     {inbox.Query{PageBytes: 16 << 20}, 5},
		"by_number":  {inbox.Query{PageSize: 3, PageBytes: 16 << 20}, 3},
		"both_small": {inbox.Query{PageSize: 1, PageBytes: 1}, 1},
	} {
		page, n := &inbox.Page{}, 0
		for n < 100 && page.Add(&test.q, e) {
			n++
		}
		if n != test.want || len(page.Events) != n || page.NextPageToken != "t" {
			t.Errorf("%s: a page of %d messages and %d events, token %q, want %d", name, n, len(page.Events), page.NextPageToken, test.want)
		}
	}
}
