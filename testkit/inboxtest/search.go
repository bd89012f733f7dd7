package inboxtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// SearchAttributes are the attributes that an inbox has an index of in tests of
// searching. RandomMessages and RandomQuery use others, too.
var SearchAttributes = []string{"tenant", "ce-type", "a.b"}

var (
	randomSources       = []string{inbox.SourcePubSub, inbox.SourcePubSub, inbox.SourcePubSub, inbox.SourceMNS, inbox.SourceCalendar}
	randomSubscriptions = []string{
		"projects/p/subscriptions/orders", "projects/q/subscriptions/orders", "projects/p/subscriptions/audit",
		"acs:mns:eu:1:topics/t/subscriptions/mail", "team@example.com", "orders", "",
	}
	randomKeys  = []string{"tenant", "ce-type", "a.b", inbox.AttributeReplayOf, "note", "__k__", "", "ключ"}
	randomWords = []string{
		"", "1", "order", "Order", "ORDER paid", "заказ", "ЗАКАЗ", "Zoë", "zoË", "straße", "a=b", "x`y", "50%", "\u212a", "k", "ſ", "S", "🙂",
		strings.Repeat("long", 400),
	}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// RandomMessages returns n messages that differ, and share, what people search by.
func RandomMessages(r *rand.Rand, n int) []*inbox.Message {
	ms := make([]*inbox.Message, n)
	for i := range ms {
		m := &inbox.Message{
			Source: pick(r, randomSources), Subscription: pick(r, randomSubscriptions),
			MessageID: fmt.Sprint(2_070_443_601_311_540 + i - i%3), Attributes: map[string]string{},
		}
		// Three in a row share their message ID where they are of different
		// subscriptions.
		m.MessageID += strings.Repeat("+", slices.IndexFunc(ms[i-i%3:i+1], func(o *inbox.Message) bool {
			return o == nil || o.Subscription == m.Subscription
		}))
		if r.IntN(2) == 0 {
			m.OrderingKey = pick(r, randomWords)
		}
		for range r.IntN(5) {
			m.Attributes[pick(r, randomKeys)] = pick(r, randomWords)
		}
		text := strings.Repeat(".", r.IntN(20)*r.IntN(2)) + pick(r, randomWords) + " \xff" + pick(r, randomWords)
		if r.IntN(20) == 0 { // across the end of what is searched
			text = strings.Repeat("-", inbox.PreviewSize-r.IntN(10)) + text
		}
		if m.Data = []byte(text); r.IntN(50) == 0 {
			m.Quarantined = inbox.ReasonData
		}
		ms[i] = m
	}
	return ms
}

// RandomQuery returns a filter with several conditions at most, most of which some of
// the messages meet.
func RandomQuery(r *rand.Rand, ms []inbox.Message) (q inbox.Query) {
	like := func() *inbox.Message { return &ms[r.IntN(len(ms))] }
	m := like()
	if r.IntN(4) == 0 {
		m = &inbox.Message{Source: "none", Subscription: "none", MessageID: "none", OrderingKey: "none", ReceivedAt: m.ReceivedAt, Attributes: m.Attributes}
	}
	for range 1 + r.IntN(3) {
		switch r.IntN(10) {
		case 0:
			q.Source = m.Source
		case 1:
			q.Subscription = m.Subscription
		case 2:
			q.Subscription = inbox.ShortName(m.Subscription)
		case 3:
			q.MessageID = m.MessageID
		case 4:
			q.OrderingKey = m.OrderingKey
		case 5:
			q.Since = like().ReceivedAt.Add(time.Duration(r.IntN(3)-1) * time.Nanosecond)
		case 6:
			q.Until = like().ReceivedAt.Add(time.Duration(r.IntN(3)-1) * time.Nanosecond)
		case 7:
			q.Attributes = map[string]string{}
			for key, value := range m.Attributes {
				if q.Attributes[key] = value; r.IntN(2) == 0 {
					break
				}
			}
			if len(q.Attributes) == 0 || r.IntN(5) == 0 {
				q.Attributes[pick(r, randomKeys)] = pick(r, randomWords)
			}
		case 8:
			q.Text = pick(r, randomWords)
		case 9:
			q.Quarantined = r.IntN(3) == 0
		}
	}
	q.Ascending = r.IntN(2) == 0
	return q
}

// Search asks an inbox for n random filters and compares its answers with a plain
// loop over what it lists without one. It goes on with a list for three pages and
// 3 x inbox.MaxExamined messages at most.
func Search(t *testing.T, r *rand.Rand, in inbox.Inbox, n int) {
	t.Helper()
	var all []inbox.Message
	for q := (inbox.Query{PageSize: inbox.MaxPageSize}); ; {
		page := list(t, in, q)
		all = append(all, page.Messages()...)
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			break
		}
	}
	for range n {
		q := RandomQuery(r, all)
		q.PageSize = pick(r, []int{7, 50, 500})
		if !searchOne(t, in, all, q) {
			return
		}
	}
}

// searchOne reports whether the answers for a filter are right.
func searchOne(t *testing.T, in inbox.Inbox, all []inbox.Message, q inbox.Query) bool {
	t.Helper()
	if q.Ascending {
		all = slices.Clone(all)
		slices.Reverse(all)
	}
	var got []inbox.Message
	name := q.Values().Encode()
	for pages := 0; ; pages++ {
		start := time.Now()
		page, err := in.List(t.Context(), q)
		if err != nil {
			t.Errorf("%.300s: %v", name, err)
			return false
		}
		// A slow store may end a page before it is full.
		if n := len(page.Events); page.NextPageToken != "" && !page.ExaminedUntil.IsZero() && time.Since(start) > inbox.MaxExamineTime {
			t.Logf("%.300s: %d messages, %d examined in %v", name, n, page.Examined, time.Since(start))
		} else if n := len(page.Events); page.Examined > inbox.MaxExamined || page.Examined > 0 && page.Examined < n ||
			n > q.Limit() || page.NextPageToken == "" != (page.Examined < inbox.MaxExamined && n < q.Limit()) && n < q.Limit() {
			t.Errorf("%.300s: %d messages of %d, examined %d until %v, token %q", name, n, q.Limit(), page.Examined, page.ExaminedUntil, page.NextPageToken)
			return false
		}
		if got = append(got, page.Messages()...); page.NextPageToken == "" {
			break
		}
		if q.PageToken = page.NextPageToken; pages == 2 {
			at, err := inbox.ParseToken(q.PageToken)
			if err != nil {
				t.Fatal(err)
			}
			// What follows was not examined yet.
			all = all[:1+slices.IndexFunc(all, func(m inbox.Message) bool { return m.ID == at.ID })]
			break
		}
	}
	want := slices.DeleteFunc(slices.Clone(all), func(m inbox.Message) bool { return !q.Matches(&m) })
	if diff := cmp.Diff(identities(want), identities(got), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%.300s: (-a plain loop +the inbox):\n%.2000s", name, diff)
		return false
	}
	return true
}

func identities(ms []inbox.Message) (all []string) {
	for _, m := range ms {
		all = append(all, m.ReceivedAt.Format(time.RFC3339Nano)+" "+m.ID)
	}
	return all
}

// listSearch finds messages by each condition and by some together, in both orders.
func listSearch(t *testing.T, p Place) {
	in := open(t, p)
	var ms []*inbox.Message
	for i := range 12 {
		m := message(fmt.Sprint("id-", i/2))
		m.Subscription = []string{subscription, "projects/other/subscriptions/s", otherSubscription}[i%3]
		m.OrderingKey = fmt.Sprint(i % 4)
		m.Attributes = map[string]string{"tenant": fmt.Sprint(i % 2), "note": "Größe " + strings.Repeat("x", i), inbox.AttributeReplayOf: fmt.Sprint(i)}
		m.Data = []byte(fmt.Sprint("Payload ", i, " \xff"))
		ms = append(ms, m)
	}
	long := message("long")
	long.Data = append(bytes.Repeat([]byte("-"), inbox.PreviewSize-3), "needle"...)
	long.Attributes, long.OrderingKey = nil, strings.Repeat("k", 1800)
	bad := inbox.Quarantine(inbox.SourcePubSub, subscription, inbox.ReasonData, []byte("BAD"))
	ms = append(ms, long, bad)
	put(t, in, ms...)
	all := listAll(t, in, inbox.Query{})
	at := all[5].ReceivedAt
	for i, q := range []inbox.Query{
		{},
		{MessageID: "id-1"},
		{MessageID: "id-1", Subscription: otherSubscription},
		{MessageID: "nobody's"},
		{MessageID: "\xff"},
		{OrderingKey: "1"},
		{OrderingKey: strings.Repeat("k", 1800)},
		{OrderingKey: "1", Attributes: map[string]string{"tenant": "1"}},
		{Subscription: "s"},
		{Subscription: "s2", Source: inbox.SourcePubSub},
		{Subscription: "none"},
		{Since: at},
		{Until: at},
		{Since: at.Add(1)},
		{Until: at.Add(1)},
		{Since: all[9].ReceivedAt, Until: at, Attributes: map[string]string{"tenant": "0"}},
		{Attributes: map[string]string{"tenant": "1"}},
		{Attributes: map[string]string{"tenant": "1", "note": "Größe x"}},
		{Attributes: map[string]string{"note": "Größe xx"}},
		{Attributes: map[string]string{inbox.AttributeReplayOf: "7"}},
		{Attributes: map[string]string{"absent": ""}},
		{Text: "payload 1"},
		{Text: "GRÖSSE X"},
		{Text: "GRÖßE XX"},
		{Text: "TENANT"},
		{Text: "nee"},
		{Text: "needle"},
		{Text: "\ufffd"},
		{Quarantined: true},
		{Quarantined: true, Text: "bad"},
		{Quarantined: true, Subscription: "s", Source: inbox.SourceMNS},
	} {
		q.PageSize, q.Ascending = 100, i%2 == 0
		searchOne(t, in, all, q)
		if i%3 == 0 {
			q.PageSize, q.Ascending = 4, !q.Ascending
			searchOne(t, in, all, q)
		}
	}
	if n := len(list(t, in, inbox.Query{MessageID: "id-1"}).Events); n != 2 {
		t.Errorf("%d messages have the message ID, want 2", n)
	}
}

// listTokenOfAnotherFilter refuses a token with another filter than its own.
func listTokenOfAnotherFilter(t *testing.T, p Place) {
	in := open(t, p)
	put(t, in, numbered("m", 3)...)
	since := time.Now().Add(-time.Hour)
	own := inbox.Query{Source: inbox.SourcePubSub, Attributes: map[string]string{"k": "v", "empty": ""}, Since: since, PageSize: 1}
	page := list(t, in, own)
	for name, token := range map[string]string{"next": page.NextPageToken, "watch": page.WatchToken, "event": page.Events[0].Token} {
		own.PageToken = token
		same := own
		same.Attributes, same.Ascending, same.PageSize = maps.Clone(own.Attributes), true, 7
		if _, err := in.List(t.Context(), same); err != nil {
			t.Errorf("the token %s in another order: %v", name, err)
		}
		for _, q := range []inbox.Query{
			{}, {Source: inbox.SourcePubSub}, {Source: inbox.SourceMNS, Attributes: own.Attributes, Since: since},
			{Source: inbox.SourcePubSub, Attributes: own.Attributes}, {Source: inbox.SourcePubSub, Attributes: own.Attributes, Since: since.Add(time.Second)},
			{Source: inbox.SourcePubSub, Attributes: own.Attributes, Until: since}, {Source: inbox.SourcePubSub, Attributes: map[string]string{"k": "v"}, Since: since},
			{Source: inbox.SourcePubSub, Attributes: map[string]string{"k": "v2", "empty": ""}, Since: since},
		} {
			q.PageToken = token
			if page, err := in.List(t.Context(), q); !errors.Is(err, inbox.ErrPageFilter) {
				t.Errorf("List of %s with the token %s = %v, %v, want ErrPageFilter", q.Values().Encode(), name, page, err)
			}
			for _, err := range in.Watch(t.Context(), q) {
				if !errors.Is(err, inbox.ErrPageFilter) {
					t.Errorf("Watch of %s with the token %s: %v, want ErrPageFilter", q.Values().Encode(), name, err)
				}
				break
			}
		}
	}
}

// watchSearch has feeds honour every condition.
func watchSearch(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	ms := numbered("m", 12)
	for i, m := range ms {
		m.OrderingKey, m.Attributes = fmt.Sprint(i%2), map[string]string{"tenant": fmt.Sprint(i % 3), "note": fmt.Sprint("Note ", i%4)}
	}
	putAll(t, in, ms...)
	for _, q := range []inbox.Query{
		{MessageID: ms[7].MessageID}, {OrderingKey: "1"}, {Subscription: "s"}, {Attributes: map[string]string{"tenant": "2"}},
		{Attributes: map[string]string{"note": "Note 1"}, OrderingKey: "1"}, {Text: "note 3"}, {Text: "WORLD", Attributes: map[string]string{"tenant": "0"}},
		{Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour), Ascending: true},
	} {
		want := slices.DeleteFunc(slices.Clone(ms), func(m *inbox.Message) bool {
			received := *m
			received.ReceivedAt = time.Now()
			return !q.Matches(&received)
		})
		q.PageToken = start
		got := take(t, in, q, len(want))
		sameIDs(t, want, eventIDs(t, got))
		if len(got) > 1 {
			q.PageToken = got[0].Token
			if next := take(t, in, q, 1); next[0].Message.ID != got[1].Message.ID {
				t.Errorf("%s: the feed after %q yields %q", q.Values().Encode(), got[0].Message.MessageID, next[0].Message.MessageID)
			}
		}
	}
}
