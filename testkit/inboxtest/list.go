package inboxtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func listEmpty(t *testing.T, p Place) {
	in := open(t, p)
	for _, q := range []inbox.Query{{}, {Source: inbox.SourcePubSub}, {Subscription: subscription}} {
		page := list(t, in, q)
		if len(page.Events) > 0 || page.NextPageToken != "" || page.WatchToken == "" {
			t.Errorf("List of nothing = %+v, want no messages, no next page and a token to watch from", page)
		}
	}
}

func listNewestFirst(t *testing.T, p Place) {
	in := open(t, p)
	ms := numbered("m", 5)
	put(t, in, ms...)
	all := listAll(t, in, inbox.Query{})
	if len(all) != len(ms) {
		t.Fatalf("%d messages are listed, want %d", len(all), len(ms))
	}
	byID := map[string]*inbox.Message{}
	for i := range all {
		byID[all[i].MessageID] = &all[i]
	}
	for i, m := range ms {
		sameMessage(t, preview(m), byID[m.MessageID])
		if i > 0 && byID[m.MessageID].ReceivedAt.Before(byID[ms[i-1].MessageID].ReceivedAt) {
			t.Errorf("%q was put after %q and is said to be older", m.MessageID, ms[i-1].MessageID)
		}
		if got := get(t, in, m); !got.ReceivedAt.Equal(byID[m.MessageID].ReceivedAt) {
			t.Errorf("%q: Get says %v, List says %v", m.MessageID, got.ReceivedAt, byID[m.MessageID].ReceivedAt)
		}
	}
}

func listPages(t *testing.T, p Place) {
	in := open(t, p)
	ms := numbered("m", 60)
	putAll(t, in, ms...) // at once, so that some may share a timestamp
	whole := messageIDs(listAll(t, in, inbox.Query{PageSize: 100}))
	sameIDs(t, ms, whole)
	// 20 and 60 divide the number of messages: the last page is full then.
	for _, size := range []int{7, 20, 59, 60, 61} {
		if diff := cmp.Diff(whole, messageIDs(listAll(t, in, inbox.Query{PageSize: size}))); diff != "" {
			t.Errorf("pages of %d (-one page +pages):\n%s", size, diff)
		}
	}
	// Ten pages of one message, and the last one.
	q := inbox.Query{PageSize: 1}
	for i := range 10 {
		page := list(t, in, q)
		if got := messageIDs(page.Messages()); len(got) != 1 || got[0] != whole[i] || page.NextPageToken == "" {
			t.Fatalf("page %d of one message has %q and the token %q, want %q", i, got, page.NextPageToken, whole[i])
		}
		q.PageToken = page.NextPageToken
	}
	page := list(t, in, inbox.Query{PageSize: 59})
	page = list(t, in, inbox.Query{PageSize: 1, PageToken: page.NextPageToken})
	if got := messageIDs(page.Messages()); len(got) != 1 || got[0] != whole[59] || page.NextPageToken != "" {
		t.Errorf("the last page of one message has %q and the token %q, want %q", got, page.NextPageToken, whole[59])
	}
}

func listWhileNewOnesArrive(t *testing.T, p Place) {
	in := open(t, p)
	old := numbered("old", 40)
	putAll(t, in, old...)
	q := inbox.Query{PageSize: 6}
	var got []inbox.Message
	for n := 0; ; n++ {
		page := list(t, in, q)
		got = append(got, page.Messages()...)
		if page.NextPageToken == "" {
			break
		}
		q.PageToken = page.NextPageToken
		putAll(t, in, numbered(fmt.Sprint("new-", n), 5)...)
	}
	sameIDs(t, old, messageIDs(got))
	if !slices.IsSortedFunc(got, newestFirst) {
		t.Error("the pages are not newest first")
	}
}

func listFilters(t *testing.T, p Place) {
	in := open(t, p)
	var ms []*inbox.Message
	for i := range 40 {
		ms = append(ms, from(inbox.SourcePubSub, subscription, fmt.Sprint("a", i)))
		if i%4 == 0 {
			ms = append(ms,
				from(inbox.SourcePubSub, otherSubscription, fmt.Sprint("b", i)),
				from(inbox.SourceMNS, subscription, fmt.Sprint("c", i)))
		}
		if i%20 == 0 {
			ms = append(ms, from(inbox.SourceMNS, otherSubscription, fmt.Sprint("d", i)))
		}
	}
	putAll(t, in, ms...)
	for _, q := range filters {
		for _, size := range []int{7, 100} {
			q.PageSize = size
			got := messageIDs(listAll(t, in, q))
			sameIDs(t, slices.DeleteFunc(slices.Clone(ms), func(m *inbox.Message) bool { return !selects(q, m) }), got)
		}
	}
}

// reads returns the methods that read one message, by their names.
func reads(in inbox.Inbox) map[string]func(context.Context, string) (*inbox.Message, error) {
	return map[string]func(context.Context, string) (*inbox.Message, error){"Get": in.Get, "Peek": in.Peek}
}

// filters are queries by source, by subscription, by both, and by what there
// is not.
var filters = []inbox.Query{
	{},
	{Source: inbox.SourcePubSub},
	{Source: inbox.SourceMNS},
	{Source: inbox.SourceCalendar},
	{Subscription: subscription},
	{Subscription: otherSubscription},
	{Subscription: subscription[:len(subscription)-1]},
	{Source: inbox.SourcePubSub, Subscription: subscription},
	{Source: inbox.SourceMNS, Subscription: subscription},
	{Source: inbox.SourceMNS, Subscription: otherSubscription},
	{Source: inbox.SourceCalendar, Subscription: subscription},
	{Source: "'; DROP TABLE messages; --", Subscription: "\x00\xff"},
}

// selects reports whether q's filters let m through.
func selects(q inbox.Query, m *inbox.Message) bool {
	return (!q.Quarantined || m.Quarantined != "") && (q.Source == "" || q.Source == m.Source) && (q.Subscription == "" || q.Subscription == m.Subscription)
}

func listPageSize(t *testing.T, p Place) {
	in := open(t, p)
	const n = inbox.MaxPageSize + 10
	putAll(t, in, numbered("m", n)...)
	for size, want := range map[int]int{
		0: inbox.DefaultPageSize, -1: inbox.DefaultPageSize, math.MinInt: inbox.DefaultPageSize,
		1: 1, 499: 499, 500: 500, 501: 500, math.MaxInt: 500,
	} {
		page := list(t, in, inbox.Query{PageSize: size})
		if len(page.Events) != want || page.NextPageToken == "" {
			t.Errorf("page size %d gave %d messages and token %q, want %d and a token", size, len(page.Events), page.NextPageToken, want)
		}
	}
}

func listPreview(t *testing.T, p Place) {
	in := open(t, p)
	for _, m := range previewed() {
		put(t, in, m)
		page := list(t, in, inbox.Query{PageSize: 1})
		sameMessage(t, preview(m), &page.Events[0].Message)
	}
}

// previewed returns messages around the sizes at which previews are cut.
func previewed() []*inbox.Message {
	var ms []*inbox.Message
	for _, size := range []int{0, 1, inbox.PreviewSize - 1, inbox.PreviewSize, inbox.PreviewSize + 1, 900_000, 1_200_000} {
		m := message(fmt.Sprint("size-", size))
		m.Data = payload(size)
		ms = append(ms, m)
	}
	return ms
}

// badTokens are page tokens that no inbox made.
func badTokens() []string {
	good := inbox.Position{ReceivedAt: time.Unix(1, 0), Commit: time.Unix(1, 0), ID: strings.Repeat("0a", 20)}.Token()
	return []string{
		"x", "!", " ", "..", "\x00", "\xff", "null", "0", "AAAA", good[1:], good[:len(good)-1], good + "A", good + "=", good + " ",
		"B" + good[1:], "_" + good[1:], strings.Repeat("A", len(good)), strings.Repeat("/", len(good)), strings.Repeat("A", 1<<20),
	}
}

// listEventTokens resumes from every listed message: a feed from its token yields
// exactly what was stored after it, a list what was stored before.
func listEventTokens(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	ms, last := numbered("m", 20), message("last")
	for i := range ms {
		if i%2 == 0 {
			ms[i].Source = inbox.SourceMNS
		}
	}
	putAll(t, in, ms...) // at once, so that commits and timestamps may be shared
	put(t, in, last)
	for _, q := range []inbox.Query{{}, {Source: inbox.SourcePubSub}} {
		q.PageToken = start
		feed := takeUntil(t, in, q, last)
		q.PageToken = ""
		page := list(t, in, q)
		if len(page.Events) != len(feed) {
			t.Fatalf("%d messages are listed and %d in the feed", len(page.Events), len(feed))
		}
		for i, e := range page.Events {
			stored := slices.IndexFunc(feed, func(f inbox.Event) bool { return f.Message.ID == e.Message.ID })
			if stored < 0 {
				t.Fatalf("the feed lacks the listed message %q", e.Message.MessageID)
			}
			q.PageToken = e.Token
			if after := feed[stored+1:]; len(after) > 0 {
				if diff := cmp.Diff(after, takeUntil(t, in, q, last)); diff != "" {
					t.Errorf("feed after the listed message %q (-want +got):\n%s", e.Message.MessageID, diff)
				}
			}
			older := list(t, in, q)
			if diff := cmp.Diff(page.Events[i+1:], older.Events, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("list after the listed message %q (-want +got):\n%s", e.Message.MessageID, diff)
			}
		}
	}
	// Nothing was stored after the last message; what is stored later comes.
	page := list(t, in, inbox.Query{PageSize: 1})
	later := message("later")
	put(t, in, later)
	if got := take(t, in, inbox.Query{PageToken: page.Events[0].Token}, 1); got[0].Message.ID != id(later) {
		t.Errorf("the feed after the newest message yields %q, want %q", got[0].Message.MessageID, later.MessageID)
	}
}

func listPageToken(t *testing.T, p Place) {
	in := open(t, p)
	ms := numbered("m", 12)
	first := list(t, in, inbox.Query{})
	put(t, in, ms...)
	for _, token := range badTokens() {
		if page, err := in.List(t.Context(), inbox.Query{PageToken: token}); page != nil || !errors.Is(err, inbox.ErrPageToken) {
			t.Errorf("List(token %.60q) = %v, %v, want ErrPageToken", token, page, err)
		}
	}

	// An event's token is a page token as well: it leads to what is older.
	all := listAll(t, in, inbox.Query{})
	events := take(t, in, inbox.Query{PageToken: first.WatchToken}, len(ms))
	for _, e := range events {
		i := slices.IndexFunc(all, func(m inbox.Message) bool { return m.ID == e.Message.ID })
		if i < 0 {
			t.Fatalf("event %q is of no listed message", e.Message.MessageID)
		}
		rest := listAll(t, in, inbox.Query{PageToken: e.Token})
		if diff := cmp.Diff(messageIDs(all[i+1:]), messageIDs(rest), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("list after the event of %q (-want +got):\n%s", e.Message.MessageID, diff)
		}
	}

	// Positions that are no message's are valid too, at both ends of time.
	for _, test := range []struct {
		at   time.Time
		want int
	}{{time.UnixMicro(0), 0}, {time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), len(ms)}} {
		for _, id := range []string{"", strings.Repeat("00", 20), strings.Repeat("ff", 20)} {
			token := inbox.Position{ReceivedAt: test.at, Commit: test.at, ID: id}.Token()
			if n := len(listAll(t, in, inbox.Query{PageToken: token})); n != test.want {
				t.Errorf("list from %v lists %d messages, want %d", test.at, n, test.want)
			}
		}
	}

	// Many readers at once see the same.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			page, err := in.List(t.Context(), inbox.Query{PageSize: 5, PageToken: events[0].Token})
			if err != nil || len(page.Events) > 5 {
				t.Errorf("List = %v, %v", page, err)
			}
		})
	}
	wg.Wait()
}
