package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
)

// TestRandomFilters holds what list and export print against a loop over the
// messages.
func TestRandomFilters(t *testing.T) {
	t.Parallel()
	random := measure.Rand()
	pick := func(all ...string) string { return all[random.IntN(len(all))] }
	n, filters := measure.Size(300, 5_000), measure.Size(8, 100)
	var messages []*inbox.Message
	for i := range n {
		m := &inbox.Message{
			Source: pick("pubsub", "mns", "calendar"), Subscription: "projects/p/subscriptions/" + pick("a", "b", "ab"), MessageID: fmt.Sprint(i / 2),
			Data: []byte(pick("order 17", "Zo\u00eb", "ORDER", "\x00\x01", "")), OrderingKey: pick("", "", "k", "l"), Attributes: map[string]string{},
		}
		for _, key := range []string{"kind", "n", "t\u00e9l"} {
			if random.IntN(2) == 0 {
				m.Attributes[key] = pick("1", "2", "order=x", "")
			}
		}
		messages = append(messages, m)
	}
	data := t.TempDir()
	fill(t, data, messages...)
	r := start(t, data)
	// As they were stored, whoever came first with an identity.
	var stored []inbox.Message
	out, errs, code := r.command(t, "", "list", "--limit", "0", "--format", "json")
	for line := range strings.Lines(out) {
		var m inbox.Message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		stored = append(stored, m)
	}
	if code != 0 || len(stored) == 0 {
		t.Fatal(errs)
	}
	for range filters {
		q, args := randomFilter(random, stored)
		var want []string
		for _, m := range stored {
			if q.Matches(&m) {
				want = append(want, m.ID)
			}
		}
		ids := func(command ...string) (got []string) {
			t.Helper()
			out, errs, code := r.command(t, "", append(command, args...)...)
			if code != 0 {
				t.Fatalf("%q: %s", args, errs)
			}
			for line := range strings.Lines(out) {
				var m inbox.Message
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					t.Fatal(err)
				}
				got = append(got, m.ID)
			}
			return got
		}
		if diff := cmp.Diff(want, ids("list", "--limit", "0", "--format", "json")); diff != "" {
			t.Errorf("list %q: %s", args, diff)
		}
		exported := ids("export")
		slices.Reverse(exported)
		if diff := cmp.Diff(want, exported); diff != "" {
			t.Errorf("export %q: %s", args, diff)
		}
	}
}

// randomFilter returns a filter, and its flags.
func randomFilter(random *rand.Rand, stored []inbox.Message) (q inbox.Query, args []string) {
	has := func() bool { return random.IntN(4) == 0 }
	one := func() inbox.Message { return stored[random.IntN(len(stored))] }
	add := func(flag, value string) { args = append(args, "--"+flag, value) }
	if has() {
		q.Source = one().Source
		add("source", q.Source)
	}
	if has() {
		q.Subscription = one().Subscription
		if random.IntN(2) == 0 {
			q.Subscription = inbox.ShortName(q.Subscription)
		}
		add("subscription", q.Subscription)
	}
	if has() {
		q.MessageID = one().MessageID
		add("message-id", q.MessageID)
	}
	if has() {
		if q.OrderingKey = one().OrderingKey; q.OrderingKey != "" {
			add("ordering-key", q.OrderingKey)
		}
	}
	if has() {
		q.Text = []string{"order", "ZOË", "17", "=X", "nothing"}[random.IntN(5)]
		add("text", q.Text)
	}
	if has() {
		q.Since = one().ReceivedAt
		add("since", q.Since.Format(time.RFC3339Nano))
	}
	if has() {
		if q.Until = one().ReceivedAt; q.Since.Before(q.Until) {
			add("until", q.Until.Format(time.RFC3339Nano))
		} else {
			q.Until = time.Time{}
		}
	}
	if has() {
		q.Attributes = one().Attributes
		for k, v := range q.Attributes {
			add("attribute", k+"="+v)
		}
	}
	return q, args
}
