package inbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/problem"
	"github.com/google/go-cmp/cmp"
)

var queryNow = time.Date(2026, 11, 26, 12, 0, 0, 1500, time.UTC)

func TestMatches(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 10, 0, 0, 1000, time.UTC)
	m := Message{
		Source: SourcePubSub, Subscription: "projects/p/subscriptions/orders", MessageID: "7", OrderingKey: "k", ReceivedAt: at,
		Attributes: map[string]string{"Tenant": "Zoë", "empty": "", "a": "b"},
		Data:       []byte("Straße \xff " + strings.Repeat("-", 4000) + strings.Repeat(" ", 80) + "within" + "beyond"),
	}
	m.Data = m.Data[:len(m.Data)-len("beyond")]
	m.Data = append(m.Data[:PreviewSize-6:PreviewSize-6], "withinbeyond"...)
	for name, test := range map[string]struct {
		q    Query
		want bool
	}{
		"nothing":                   {Query{}, true},
		"source":                    {Query{Source: SourcePubSub}, true},
		"another_source":            {Query{Source: "pubsu"}, false},
		"full_name":                 {Query{Subscription: "projects/p/subscriptions/orders"}, true},
		"short_name":                {Query{Subscription: "orders"}, true},
		"part_of_short_name":        {Query{Subscription: "order"}, false},
		"part_of_full_name":         {Query{Subscription: "subscriptions/orders"}, false},
		"slash_and_short_name":      {Query{Subscription: "/orders"}, false},
		"message_id":                {Query{MessageID: "7"}, true},
		"another_message_id":        {Query{MessageID: "77"}, false},
		"ordering_key":              {Query{OrderingKey: "k"}, true},
		"another_ordering_key":      {Query{OrderingKey: "K"}, false},
		"since_then":                {Query{Since: at}, true},
		"since_later":               {Query{Since: at.Add(1)}, false},
		"until_then":                {Query{Until: at}, false},
		"until_later":               {Query{Until: at.Add(1)}, true},
		"attributes":                {Query{Attributes: map[string]string{"a": "b", "empty": ""}}, true},
		"attribute_of_another_case": {Query{Attributes: map[string]string{"a": "B"}}, false},
		"absent_attribute":          {Query{Attributes: map[string]string{"absent": ""}}, false},
		"one_of_two_attributes":     {Query{Attributes: map[string]string{"a": "b", "empty": "x"}}, false},
		"not_quarantined":           {Query{Quarantined: true}, false},
		"text":                      {Query{Text: "STRASSE"}, false},
		"text_in_another_case":      {Query{Text: "STRAẞE"}, true},
		"text_of_bad_utf8":          {Query{Text: "\ufffd -"}, true},
		"text_in_a_key":             {Query{Text: "tENANT"}, true},
		"text_in_a_value":           {Query{Text: "OË"}, true},
		"text_across_key_and_value": {Query{Text: "tenantz"}, false},
		"text_at_the_end":           {Query{Text: "WITHIN"}, true},
		"text_beyond":               {Query{Text: "withinb"}, false},
		"all":                       {Query{Source: SourcePubSub, Subscription: "orders", MessageID: "7", OrderingKey: "k", Since: at, Until: at.Add(1), Attributes: map[string]string{"a": "b"}, Text: "zoë"}, true},
		"all_but_one":               {Query{Source: SourcePubSub, Subscription: "orders", MessageID: "7", OrderingKey: "k", Since: at, Until: at.Add(1), Attributes: map[string]string{"a": "b"}, Text: "zoé"}, false},
	} {
		if got := test.q.Matches(&m); got != test.want {
			t.Errorf("%s: Matches = %v, want %v", name, got, test.want)
		}
		since, until := test.q.Bounds()
		rounded := test.q
		rounded.Since, rounded.Until = since, until
		if got := rounded.Matches(&m); got != test.want {
			t.Errorf("%s: Matches with its bounds = %v, want %v", name, got, test.want)
		}
	}
}

func TestFold(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"Kk\u212a", "Ssſ", "ΣσςΣ", "ÅåÅ", "ǅǆǄ", "Жж", "ᲀв"} {
		for _, r := range s {
			if fold(string(r)) != fold(s[:1]) && fold(string(r)) != fold(string([]rune(s)[0])) {
				t.Errorf("%q and %q of one letter fold to %q and %q", s, r, fold(s), fold(string(r)))
			}
		}
	}
	if fold("aZ[`{ \x00é") != fold("AZ[`{ \x00É") || fold("[") == fold("{") {
		t.Error("fold mixes up characters that are no letters")
	}
}

func TestParseQuery(t *testing.T) {
	t.Parallel()
	day := queryNow.Add(-24 * time.Hour).Add(500) // rounded up
	for raw, want := range map[string]Query{
		"": {},
		"source=mns&subscription=s&messageId=1&orderingKey=k&text=a+b&quarantined=true&order=asc&pageSize=7": {
			Source: "mns", Subscription: "s", MessageID: "1", OrderingKey: "k", Text: "a b", Quarantined: true, Ascending: true, PageSize: 7,
		},
		"source=&subscription=&since=&until=&text=&quarantined=&order=&pageSize=&pageToken=": {},
		"attribute.a=1&attribute.b=&attribute.c.d=%3D":                                       {Attributes: map[string]string{"a": "1", "b": "", "c.d": "="}},
		"order=desc&own=1&own=2":             {},
		"since=2026-11-26T02:10:00Z":         {Since: time.Date(2026, 11, 26, 2, 10, 0, 0, time.UTC)},
		"since=2026-11-26T02:10:00%2B02:00":  {Since: time.Date(2026, 11, 26, 0, 10, 0, 0, time.UTC)},
		"until=2026-11-26T02:10:00.0000001Z": {Until: time.Date(2026, 11, 26, 2, 10, 0, 1000, time.UTC)},
		"since=24h":                          {Since: day, sinceAgo: 24 * time.Hour},
		"since=1d":                           {Since: day, sinceAgo: 24 * time.Hour},
		"since=1d12h&until=1h30m":            {Since: day.Add(-12 * time.Hour), sinceAgo: 36 * time.Hour, Until: day.Add(22*time.Hour + 30*time.Minute), untilAgo: 90 * time.Minute},
		"since=90m":                          {Since: day.Add(22*time.Hour + 30*time.Minute), sinceAgo: 90 * time.Minute},
	} {
		values, err := url.ParseQuery(raw)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseQuery(values, queryNow, "own")
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Query{})); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", raw, err, diff)
		}
	}
}

func TestParseQueryRefuses(t *testing.T) {
	t.Parallel()
	token := (&Query{Source: "mns"}).Token(Position{ReceivedAt: queryNow, Commit: queryNow})
	var many []string
	for i := range 21 {
		many = append(many, fmt.Sprint("attribute.", i, "=v"))
	}
	for raw, says := range map[string]string{
		"sinse=2h":                          `the parameter "sinse" does not exist; the parameters are source, subscription, messageId, orderingKey, since, until, text, quarantined, order, pageSize, pageToken, attribute.KEY, own`,
		"attribute=1":                       `the parameter "attribute" does not exist`,
		"attribute.=1":                      `the parameter "attribute." does not exist`,
		"Source=mns":                        `the parameter "Source" does not exist`,
		"source=mns&source=mns":             `the parameter "source" is there 2 times`,
		"attribute.a=1&attribute.a=2":       `the parameter "attribute.a" is there 2 times`,
		strings.Join(many, "&"):             "more than 20 parameters attribute.KEY",
		"text=" + strings.Repeat("x", 2049): `the parameter "text" is longer than 2048 bytes`,
		"text=%FF":                          "not UTF-8",
		"attribute.%FF=1":                   "not UTF-8",
		"quarantined=yes":                   "quarantined is not true",
		"source=foo":                        `source is "foo"; it is one of pubsub, calendar, mns`,
		"order=up":                          `order is "up"; it is asc or desc`,
		"pageSize=x":                        "pageSize is not a valid number",
		"pageSize=-1":                       "pageSize is not a valid number",
		"since=yesterday":                   `since is "yesterday"; it is a time such as`,
		"since=-2h":                         `since is "-2h"`,
		"since=%2B2h":                       `since is "+2h"`,
		"since=0s":                          `since is "0s"`,
		"since=2":                           `since is "2"`,
		"since=d":                           `since is "d"`,
		"since=1.5d":                        `since is "1.5d"`,
		"until=99999999999d":                "until is",
		"until=36500d24h":                   "until is",
		"since=2026-11-26":                  "since is",
		"since=0000-01-01T00:00:00Z":        "since is not in the years 1 to 9999",
		"since=0001-01-01T00:00:00Z":        "since is not in the years 1 to 9999",
		"until=9999-12-31T23:59:59-01:00":   "until is not in the years 1 to 9999",
		"since=1h&until=2h":                 "is not before until",
		"since=1h&until=1h":                 "is not before until",
		"pageToken=x":                       "the page token is not one",
		"pageToken=" + token:                "belongs to another filter",
		"source=pubsub&pageToken=" + token:  "belongs to another filter",
		strings.Repeat("n", 1000) + "=1":    `nnn"… does not exist`,
	} {
		values, err := url.ParseQuery(raw)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseQuery(values, queryNow, "own")
		if status, detail := problem.Of(err); status != 400 || !strings.Contains(detail, says) || len(detail) > 500 || !errors.As(err, new(*problem.Error)) {
			t.Errorf("%.100q: %+v, %d %q, want 400 and %q", raw, q, status, detail, says)
		}
	}
}

// TestTokenFixesTimes goes on, an hour later, with a list of the last two hours.
func TestTokenFixesTimes(t *testing.T) {
	t.Parallel()
	values := url.Values{"since": {"2h"}, "until": {"1m"}, "source": {"mns"}}
	first, err := ParseQuery(values, queryNow)
	if err != nil {
		t.Fatal(err)
	}
	values.Set("pageToken", first.Token(Position{ReceivedAt: queryNow, Commit: queryNow}))
	next, err := ParseQuery(values, queryNow.Add(time.Hour))
	if err != nil || !next.Since.Equal(first.Since) || !next.Until.Equal(first.Until) {
		t.Errorf("since %v and until %v became %v and %v, %v", first.Since, first.Until, next.Since, next.Until, err)
	}
	if third, err := parseToken(next.Token(Position{ReceivedAt: queryNow, Commit: queryNow})); err != nil || !third.since.Equal(first.Since) {
		t.Errorf("the token after it has %v, %v", third.since, err)
	}
	for name, value := range map[string]string{"since": "3h", "until": "2m", "source": "pubsub", "text": "x", "attribute.a": ""} {
		other := maps.Clone(values)
		other.Set(name, value)
		if _, err := ParseQuery(other, queryNow.Add(time.Hour)); !errors.Is(err, ErrPageFilter) {
			t.Errorf("%s=%s with the token: %v, want ErrPageFilter", name, value, err)
		}
	}
	// What an earlier release issued had no filter.
	values.Set("pageToken", Position{ReceivedAt: queryNow, Commit: queryNow}.Token())
	if _, err := ParseQuery(values, queryNow); err != nil {
		t.Errorf("a token without a filter: %v", err)
	}
}

// TestFillingEnds has a list end after as many messages, or as much time, as it may
// examine, and go on after the last one.
func TestFillingEnds(t *testing.T) {
	t.Parallel()
	at := func(i int) Position {
		received := queryNow.Add(-time.Duration(i) * time.Second).Truncate(time.Microsecond)
		return Position{ReceivedAt: received, Commit: received, ID: ID("s", "s", fmt.Sprint(i))}
	}
	for name, test := range map[string]struct {
		now      func() time.Time
		match    []int // which match
		size     int
		examined int
		events   int
		stopped  bool
	}{
		"number":          {time.Now, nil, 10, MaxExamined, 0, true},
		"number_and_some": {time.Now, []int{3, 4000, MaxExamined}, 10, MaxExamined, 2, true},
		"time":            {func() time.Time { return time.Now().Add(MaxExamineTime + time.Minute) }, nil, 10, 1, 0, true},
		"full":            {time.Now, []int{3, 7, 5000}, 2, 8, 2, false},
	} {
		q := Query{Text: "x", PageSize: test.size}
		f := q.Fill(false)
		f.now = test.now
		i := 0
		for more := true; more; i++ {
			m := &Message{ID: at(i).ID, ReceivedAt: at(i).ReceivedAt}
			if slices.Contains(test.match, i) {
				m.Data = []byte("X")
			}
			more = f.Add(at(i), m)
		}
		p, err := ParseToken(f.NextPageToken)
		if f.Examined != test.examined || len(f.Events) != test.events || f.ExaminedUntil.IsZero() == test.stopped || err != nil || p != at(f.Examined-1) {
			t.Errorf("%s: examined %d until %v, %d events, the next page after %v, %v", name, f.Examined, f.ExaminedUntil, len(f.Events), p, err)
		}
	}
	q := Query{PageSize: 10}
	f := q.Fill(true)
	for i := range 2 * MaxExamined {
		if !f.Add(at(i), nil) {
			t.Fatalf("what an index answers ends after %d that have expired", i)
		}
	}
	if f.Examined != 0 || f.NextPageToken != "" {
		t.Errorf("examined %d, token %q where an index answers", f.Examined, f.NextPageToken)
	}
}

// FuzzParseQuery parses what anybody may send: a query that is accepted stays the same
// through its parameters and its tokens.
func FuzzParseQuery(f *testing.F) {
	f.Add("source=mns&since=2h&attribute.a=b&text=x&order=asc")
	f.Add("since=2026-11-26T02:10:00.123456789Z&until=7d&pageSize=3&subscription=a/b")
	f.Add("attribute.=&pageToken=AgA&quarantined=true")
	f.Fuzz(func(t *testing.T, raw string) {
		values, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		q, err := ParseQuery(values, queryNow)
		if err != nil {
			if status, _ := problem.Of(err); status != 400 {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		again, err := ParseQuery(q.Values(), queryNow)
		if diff := cmp.Diff(q, again, cmp.AllowUnexported(Query{})); err != nil || diff != "" && q.PageToken == "" {
			t.Fatalf("%q: %v\n%s", raw, err, diff)
		}
		p := Position{ReceivedAt: queryNow.Truncate(time.Microsecond), Commit: queryNow.Truncate(time.Microsecond), ID: ID("a", "b", "c")}
		q.PageToken = q.Token(p)
		next, err := ParseQuery(q.Values(), queryNow.Add(time.Hour))
		if err != nil || !next.Since.Equal(q.Since) || !next.Until.Equal(q.Until) {
			t.Fatalf("%q: its token: %v, since %v and until %v", raw, err, next.Since, next.Until)
		}
		if at, err := next.Position(); err != nil || *at != p {
			t.Fatalf("%q: its token is at %v, %v", raw, at, err)
		}
	})
}

// FuzzParseToken reads what anybody may send as a token.
func FuzzParseToken(f *testing.F) {
	q := Query{Source: "s", Since: queryNow}
	f.Add(q.Token(Position{ReceivedAt: queryNow, Commit: queryNow, ID: ID("a", "b", "c")}))
	f.Add(Position{ReceivedAt: queryNow, Commit: queryNow}.Token())
	f.Fuzz(func(t *testing.T, s string) {
		token, err := parseToken(s)
		if err != nil {
			if !errors.Is(err, ErrPageToken) {
				t.Fatal(err)
			}
			return
		}
		back := token.Position.Token()
		if token.hasFilter {
			more := binary.BigEndian.AppendUint64(token.filter[:], uint64(micros(token.since)))
			back = token.encode(versionFilter, binary.BigEndian.AppendUint64(more, uint64(micros(token.until))))
		}
		if back != s {
			t.Fatalf("%q and %q are the same token", s, back)
		}
	})
}
