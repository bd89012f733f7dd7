package inboxtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TTL is that of the inboxes that Place.OpenAt opens.
const TTL = time.Hour

// expiry lets messages pass their expiry and looks for them everywhere before the
// place has deleted them.
func expiry(t *testing.T, p Place) {
	if p.OpenAt == nil {
		t.Skip("this place has no clock")
	}
	var ahead atomic.Int64
	in := p.OpenAt(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	t.Cleanup(func() { _ = in.Close() })
	start := startOf(t, in)
	old := numbered("old", 8)
	for i, m := range old {
		m.Data = payload([]int{10, 10_000}[i%2])
		if i%4 == 0 {
			m.Quarantined = inbox.ReasonData
		}
	}
	put(t, in, old...)
	page := list(t, in, inbox.Query{PageSize: 2})
	ahead.Store(int64(TTL - time.Minute))
	if n := len(listAll(t, in, inbox.Query{PageSize: 3})); n != len(old) {
		t.Errorf("%d messages are listed before they expire, want %d", n, len(old))
	}

	ahead.Store(int64(TTL + time.Second))
	filters := []inbox.Query{{}, {Source: inbox.SourcePubSub}, {Subscription: subscription}, {Source: inbox.SourcePubSub, Subscription: subscription}, {Quarantined: true}}
	for _, q := range filters {
		for _, token := range []string{"", anyFilter(t, page.NextPageToken), anyFilter(t, page.Events[0].Token)} {
			q.PageToken, q.PageSize = token, 3
			if got := list(t, in, q); len(got.Events) > 0 || got.NextPageToken != "" {
				t.Errorf("%+v lists %d expired messages and the token %q", q, len(got.Events), got.NextPageToken)
			}
		}
	}
	for _, m := range old {
		for name, read := range reads(in) {
			if got, err := read(t.Context(), id(m)); got != nil || !errors.Is(err, inbox.ErrNotFound) {
				t.Errorf("%s of the expired %q = %v, %v, want ErrNotFound", name, m.MessageID, got, err)
			}
		}
		if stored, err := in.Put(t.Context(), m); stored || err != nil {
			t.Errorf("Put of the expired %q again = %v, %v, want false", m.MessageID, stored, err)
		}
	}
	fresh := numbered("fresh", 4)
	put(t, in, fresh...)
	for _, size := range []int{1, 2, 3, 4, 5} {
		sameIDs(t, fresh, messageIDs(listAll(t, in, inbox.Query{PageSize: size})))
	}
	sameIDs(t, fresh, eventIDs(t, takeUntil(t, in, inbox.Query{PageToken: start}, fresh[3])))
}

// listBytes lists messages that take much memory: a page ends early, goes on where
// it ended, and is never empty while there is more.
func listBytes(t *testing.T, p Place) {
	in := open(t, p)
	large := map[string]string{}
	for i := range 60 {
		large[fmt.Sprint(i)] = strings.Repeat("v", 4000)
	}
	ms := numbered("m", 12)
	for i, m := range ms {
		if i%3 > 0 {
			m.Attributes = maps.Clone(large)
		}
	}
	putAll(t, in, ms...)
	each := ms[1].Footprint()
	for _, test := range []struct{ bytes, size int }{
		{1, 100}, {each, 100}, {3 * each, 100}, {3 * each, 2}, {0, 100}, {12 * each, 5},
	} {
		for _, q := range []inbox.Query{{}, {Source: inbox.SourcePubSub}} {
			q.PageBytes, q.PageSize = test.bytes, test.size
			most := test.bytes
			if most == 0 {
				most = inbox.MaxPageBytes
			}
			var got []string
			for n, bytes := 0, 0; ; {
				page := list(t, in, q)
				if len(page.Events) == 0 {
					t.Fatalf("%+v: an empty page", q)
				}
				if first := page.Messages()[0].Footprint(); n > 0 && n < test.size && bytes+first <= most {
					t.Fatalf("%+v: a page ended after %d messages of %d bytes, though the next takes %d", q, n, bytes, first)
				}
				n, bytes = len(page.Events), 0
				for _, m := range page.Messages() {
					bytes += m.Footprint()
					got = append(got, m.MessageID)
				}
				if n > test.size || n > 1 && bytes > most {
					t.Fatalf("%+v: a page has %d messages of %d bytes", q, n, bytes)
				}
				if q.PageToken = page.NextPageToken; q.PageToken == "" {
					break
				}
			}
			sameIDs(t, ms, got)
		}
	}
	// A page that names no bound has one.
	if testing.Short() {
		return
	}
	many := numbered("many", 60)
	for _, m := range many {
		m.Attributes = large
	}
	putAll(t, in, many...)
	page := list(t, in, inbox.Query{PageSize: 500})
	if n := len(page.Events); n != inbox.MaxPageBytes/each || page.NextPageToken == "" {
		t.Errorf("a page has %d messages of %d bytes and the token %q, want %d", n, each, page.NextPageToken, inbox.MaxPageBytes/each)
	}
}

// quarantined stores what could not be decoded among other messages.
func quarantined(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	others := numbered("m", 10)
	var bad []*inbox.Message
	for i, size := range []int{0, 10, inbox.PreviewSize + 1, 1_200_000, inbox.MaxDataSize + 1, inbox.MaxQuarantinedSize} {
		if testing.Short() && size > 2<<20 {
			continue
		}
		m := inbox.Quarantine([]string{inbox.SourcePubSub, inbox.SourceMNS}[i%2], []string{"", subscription}[i%3%2], inbox.ReasonData, payload(size))
		m.Verified = others[0].Verified
		bad = append(bad, m)
	}
	for i, m := range bad {
		put(t, in, others[i])
		put(t, in, m)
		if stored, err := in.Put(t.Context(), m); stored || err != nil {
			t.Errorf("Put of %d bytes again = %v, %v, want false", len(m.Data), stored, err)
		}
	}
	last := inbox.Quarantine(inbox.SourcePubSub, "", inbox.ReasonEnvelope, []byte("last"))
	bad = append(bad, last)
	put(t, in, last)
	for _, m := range bad {
		sameMessage(t, kept(m), get(t, in, m))
		peeked, err := in.Peek(t.Context(), id(m))
		if err != nil {
			t.Fatal(err)
		}
		sameMessage(t, preview(m), peeked)
	}
	for _, q := range filters {
		q.Quarantined, q.PageSize = true, 2
		want := slices.DeleteFunc(slices.Clone(bad), func(m *inbox.Message) bool { return !selects(q, m) })
		got := listAll(t, in, q)
		sameIDs(t, want, messageIDs(got))
		for i := range got {
			m := want[slices.IndexFunc(want, func(m *inbox.Message) bool { return m.MessageID == got[i].MessageID })]
			sameMessage(t, preview(m), &got[i])
		}
	}
	q := inbox.Query{Quarantined: true, PageToken: start}
	sameIDs(t, bad, eventIDs(t, takeUntil(t, in, q, last)))
	all := messageIDs(listAll(t, in, inbox.Query{}))
	if len(all) != 2*len(bad)-1 {
		t.Errorf("%d messages are listed, want %d", len(all), 2*len(bad)-1)
	}

	for name, m := range map[string]*inbox.Message{
		"unknown_reason": inbox.Quarantine(inbox.SourcePubSub, "", "because", nil),
		"too_large":      inbox.Quarantine(inbox.SourcePubSub, "", inbox.ReasonData, make([]byte, inbox.MaxQuarantinedSize+1)),
	} {
		if stored, err := in.Put(t.Context(), m); stored || !errors.Is(err, inbox.ErrInvalid) {
			t.Errorf("%s: Put = %v, %v, want ErrInvalid", name, stored, err)
		}
	}
}

// peek reads messages of all sizes without the rest of their data.
func peek(t *testing.T, p Place) {
	in := open(t, p)
	for _, m := range previewed() {
		put(t, in, m)
		got, err := in.Peek(t.Context(), id(m))
		if err != nil {
			t.Fatalf("Peek(%q): %v", m.MessageID, err)
		}
		sameMessage(t, preview(m), got)
		if diff := cmp.Diff(get(t, in, m), got, cmpopts.IgnoreFields(inbox.Message{}, "Data", "Truncated"), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("Peek(%q) (-Get +Peek):\n%s", m.MessageID, diff)
		}
	}
}
