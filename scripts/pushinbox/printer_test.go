package main

import (
	"bytes"
	"strings"
	"testing"

	"example.com/pushinbox/local/pushfake"
)

// TestAddressesComeFirst delivers what an earlier run kept before this one has said
// where it is.
func TestAddressesComeFirst(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &printer{out: &out}
	p.delivered(pushfake.Delivery{MessageID: "early", Status: 204, Acked: true})
	p.begin("the addresses\n")
	p.delivered(pushfake.Delivery{MessageID: "late", Status: 204, Acked: true})
	first, early, late := strings.Index(out.String(), "the addresses"), strings.Index(out.String(), "early"), strings.Index(out.String(), "late")
	if first != 0 || early < 0 || late < early {
		t.Errorf("printed %q", out.String())
	}
}
