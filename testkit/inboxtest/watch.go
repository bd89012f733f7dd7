package inboxtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
	"github.com/google/go-cmp/cmp"
)

// take returns the first n events of a feed.
func take(t *testing.T, in inbox.Inbox, q inbox.Query, n int) []inbox.Event {
	t.Helper()
	events, err := collect(patient(t), in, q, n)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// collect is take for goroutines other than the test's own.
func collect(ctx context.Context, in inbox.Inbox, q inbox.Query, n int) ([]inbox.Event, error) {
	events := make([]inbox.Event, 0, n)
	if n == 0 {
		return events, nil
	}
	for e, err := range in.Watch(ctx, q) {
		if err != nil {
			return events, fmt.Errorf("feed after %d of %d events: %w", len(events), n, err)
		}
		if events = append(events, e); len(events) == n {
			return events, nil
		}
	}
	return events, fmt.Errorf("the feed ended after %d of %d events", len(events), n)
}

// follow sends the events of a feed until ctx ends, and then closes the channel.
func follow(ctx context.Context, t *testing.T, in inbox.Inbox, q inbox.Query) <-chan inbox.Event {
	events := make(chan inbox.Event)
	go func() {
		defer close(events)
		for e, err := range in.Watch(ctx, q) {
			if err != nil {
				t.Errorf("Watch: %v", err)
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events
}

// takeUntil returns the events of a feed up to the one of last.
func takeUntil(t *testing.T, in inbox.Inbox, q inbox.Query, last *inbox.Message) []inbox.Event {
	t.Helper()
	var events []inbox.Event
	for e, err := range in.Watch(patient(t), q) {
		if err != nil {
			t.Fatalf("Watch after %d events: %v", len(events), err)
		}
		if events = append(events, e); e.Message.ID == id(last) {
			return events
		}
	}
	t.Fatalf("the feed ended after %d events without %q", len(events), last.MessageID)
	return nil
}

// watchProgress follows the feed with a filter that nothing meets, and then goes on
// from its last token.
func watchProgress(t *testing.T, p Place) {
	in := open(t, p)
	start := list(t, in, inbox.Query{}).WatchToken
	other := message("other")
	put(t, in, other)
	q := inbox.Query{MessageID: "wanted", Progress: true}
	began, err := inbox.ParseToken(start)
	if err != nil {
		t.Fatal(err)
	}
	q.PageToken = q.Token(began)
	everything := inbox.Query{Ascending: true}
	for e, err := range in.Watch(patient(t), q) {
		if err != nil || e.Message.ID != "" {
			t.Fatalf("yielded %q, %v", e.Message.MessageID, err)
		}
		at, err := inbox.ParseToken(e.Token)
		if err != nil {
			t.Fatal(err)
		}
		// Until it is behind the message that is not wanted.
		everything.PageToken = everything.Token(at)
		if len(list(t, in, everything).Events) > 0 {
			continue
		}
		q.PageToken = e.Token
		break
	}
	at, err := inbox.ParseToken(q.PageToken)
	if err != nil {
		t.Fatal(err)
	}
	next := message("next")
	put(t, in, next)
	everything.PageToken = everything.Token(at)
	if got := eventIDs(t, take(t, in, everything, 1)); got[0] != "next" {
		t.Errorf("after the token comes %s", got)
	}
	// With messages, a point of progress comes after them.
	all := inbox.Query{PageToken: start, Progress: true}
	var got []string
	for e, err := range in.Watch(patient(t), all) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.Message.MessageID); e.Message.ID == "" && len(got) > 2 {
			break
		}
	}
	if got = slices.DeleteFunc(got, func(id string) bool { return id == "" }); !slices.Equal(got, []string{"other", "next"}) {
		t.Errorf("the feed yields %q", got)
	}
}

// eventIDs returns the message IDs of events and fails the test when their
// tokens are not in the feed's order.
func eventIDs(t *testing.T, events []inbox.Event) []string {
	t.Helper()
	ids := make([]string, len(events))
	var last inbox.Position
	for i, e := range events {
		ids[i] = e.Message.MessageID
		at, err := inbox.ParseToken(e.Token)
		if err != nil {
			t.Errorf("token of event %d: %v", i, err)
		}
		if i > 0 && !(at.Commit.After(last.Commit) || at.Commit.Equal(last.Commit) && at.ID > last.ID) {
			t.Errorf("event %d is at %v, after one at %v", i, at, last)
		}
		last = at
	}
	return ids
}

// startOf returns a token from which a feed of any filter yields all that is stored
// later.
func startOf(t *testing.T, in inbox.Inbox) string {
	t.Helper()
	return anyFilter(t, list(t, in, inbox.Query{PageSize: 1}).WatchToken)
}

// anyFilter returns the token of the same position that fits every filter.
func anyFilter(t *testing.T, token string) string {
	t.Helper()
	p, err := inbox.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return p.Token()
}

// writers puts each of ms from one of several goroutines, some of them twice.
func writers(t *testing.T, ins []inbox.Inbox, ms []*inbox.Message) (wait func()) {
	var wg sync.WaitGroup
	const n = 6
	for w := range n {
		wg.Go(func() {
			for i := w; i < len(ms); i += n {
				for range 1 + i%2 {
					if _, err := ins[w%len(ins)].Put(t.Context(), ms[i]); err != nil {
						t.Errorf("Put(%q): %v", ms[i].MessageID, err)
						return
					}
				}
			}
		})
	}
	return wg.Wait
}

func watchFromNow(t *testing.T, p Place) {
	in := open(t, p)
	put(t, in, numbered("before", 10)...)
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	events := follow(ctx, t, in, inbox.Query{})
	// Nothing tells when the feed has begun, so put until it says something:
	// from that message on it must yield all.
	var first inbox.Event
	n := 0
	for first.Token == "" {
		put(t, in, message(fmt.Sprintf("after-%06d", n)))
		n++
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the feed yielded nothing in %v and %d messages", patience, n)
			}
			first = e
		case <-time.After(10 * time.Millisecond):
		}
	}
	var from int
	if _, err := fmt.Sscanf(first.Message.MessageID, "after-%d", &from); err != nil {
		t.Fatalf("the feed from now began with %q", first.Message.MessageID)
	}
	for i := from + 1; i < n; i++ {
		e, ok := <-events
		if want := fmt.Sprintf("after-%06d", i); !ok || e.Message.MessageID != want {
			t.Fatalf("the feed continued with %q, want %q", e.Message.MessageID, want)
		}
	}
	last := message("last")
	put(t, in, last)
	if e := <-events; e.Message.MessageID != last.MessageID {
		t.Errorf("the feed continued with %q, want %q", e.Message.MessageID, last.MessageID)
	}
}

func watchFromPage(t *testing.T, p Place) {
	in := open(t, p)
	empty := startOf(t, in)
	before := numbered("before", 10)
	put(t, in, before...)
	page := list(t, in, inbox.Query{PageSize: 3})
	// A later page's token means that page, not the first.
	older := list(t, in, inbox.Query{PageSize: 3, PageToken: page.NextPageToken})
	after := numbered("after", 10)
	put(t, in, after...)
	for name, token := range map[string]string{"first": page.WatchToken, "second": older.WatchToken} {
		got := takeUntil(t, in, inbox.Query{PageToken: token}, after[len(after)-1])
		t.Log(name)
		sameIDs(t, after, eventIDs(t, got))
	}
	got := takeUntil(t, in, inbox.Query{PageToken: empty}, after[len(after)-1])
	sameIDs(t, append(before, after...), eventIDs(t, got))
}

// watchFromPageUnderLoad lists while messages arrive: each must be on the list
// or in the feed from that list, and never in both.
func watchFromPageUnderLoad(t *testing.T, p Place) {
	ins := handles(t, p, 3)
	const n, step = 240, 20
	ms := numbered("m", n)
	wait := writers(t, ins, ms)
	var pages []*inbox.Page
	for reads, ctx := 0, patient(t); len(pages) < n/step; reads++ {
		page, err := ins[reads%len(ins)].List(ctx, inbox.Query{PageSize: inbox.MaxPageSize})
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		// Pages that are alike prove nothing: keep some from all the way.
		if len(page.Events) >= len(pages)*step {
			pages = append(pages, page)
		}
	}
	wait()
	last := message("last")
	put(t, ins[0], last)
	ctx := patient(t)
	var feeds sync.WaitGroup
	for i, page := range pages {
		feeds.Go(func() {
			want := n + 1 - len(page.Events)
			got, err := collect(ctx, ins[i%len(ins)], inbox.Query{PageToken: page.WatchToken}, want)
			if err != nil {
				t.Errorf("page %d lists %d messages: %v", i, len(page.Events), err)
			}
			sameIDs(t, append(slices.Clone(ms), last), append(messageIDs(page.Messages()), eventIDs(t, got)...))
		})
	}
	feeds.Wait()
}

func watchResumes(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	ms := numbered("m", 15)
	putAll(t, in, ms...)
	last := message("last")
	put(t, in, last)
	all := takeUntil(t, in, inbox.Query{PageToken: start}, last)
	sameIDs(t, append(slices.Clone(ms), last), eventIDs(t, all))
	for i, e := range all[:len(all)-1] {
		rest := takeUntil(t, in, inbox.Query{PageToken: e.Token}, last)
		if diff := cmp.Diff(all[i+1:], rest); diff != "" {
			t.Errorf("feed after event %d (-want +got):\n%s", i, diff)
		}
	}
	later := message("later")
	put(t, in, later)
	rest := takeUntil(t, in, inbox.Query{PageToken: all[len(all)-1].Token}, later)
	sameIDs(t, []*inbox.Message{later}, eventIDs(t, rest))
}

// watchWakesForEach puts a message when the one before has come out of the
// feed, which is when a reader is about to wait.
func watchWakesForEach(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	ms := numbered("m", 40)
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	events := follow(ctx, t, in, inbox.Query{PageToken: start})
	for _, m := range ms {
		put(t, in, m)
		e, ok := <-events
		if !ok {
			t.Fatalf("the feed did not yield %q in %v", m.MessageID, patience)
		}
		sameMessage(t, preview(m), &e.Message)
	}
	cancel()
	for e := range events {
		t.Errorf("the feed went on with %q", e.Message.MessageID)
	}
}

// watchAcrossReconnects has several readers that go away and come back at any
// moment, in both ways that a reader can, while several writers put.
func watchAcrossReconnects(t *testing.T, p Place) {
	ins := handles(t, p, 3)
	start := startOf(t, ins[0])
	n := measure.Size(120, 400)
	ms, last := numbered("m", n), message("last")
	var readers sync.WaitGroup
	got := make([][]inbox.Event, 3)
	for r := range got {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(r), 1))
			token := start
			for reconnects := 0; ; reconnects++ {
				ctx, cancel := context.WithCancel(patient(t))
				leave := random.IntN(40)
				byContext := random.IntN(2) == 0
				ended := false
				for e, err := range ins[(r+reconnects)%len(ins)].Watch(ctx, inbox.Query{PageToken: token}) {
					if err != nil {
						t.Errorf("reader %d: Watch: %v", r, err)
						cancel()
						return
					}
					if ended {
						break // an event after its context ended is not counted as read
					}
					got[r], token = append(got[r], e), e.Token
					if e.Message.ID == id(last) {
						cancel()
						return
					}
					if leave--; leave < 0 {
						if !byContext {
							break
						}
						cancel()
						ended = true
					}
				}
				cancel()
				if t.Context().Err() != nil || reconnects > 10*n {
					t.Errorf("reader %d: %d events and no end", r, len(got[r]))
					return
				}
			}
		})
	}
	writers(t, ins, ms)()
	put(t, ins[0], last)
	readers.Wait()
	for _, events := range got {
		sameIDs(t, append(slices.Clone(ms), last), eventIDs(t, events))
	}
}

// watchSlowReader has a reader that stops in the middle: nobody else waits for
// it, and it misses nothing.
func watchSlowReader(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	first := message("first")
	put(t, in, first)
	ms, last := numbered("m", 300), message("last")
	var got []inbox.Event
	for e, err := range in.Watch(patient(t), inbox.Query{PageToken: start}) {
		if err != nil {
			t.Fatalf("Watch: %v", err)
		}
		if got = append(got, e); len(got) == 1 {
			putAll(t, in, ms...)
			put(t, in, last)
			if n := len(listAll(t, in, inbox.Query{PageSize: 500})); n != len(ms)+2 {
				t.Errorf("%d messages are listed, want %d", n, len(ms)+2)
			}
		}
		if e.Message.ID == id(last) {
			break
		}
	}
	sameIDs(t, append(append([]*inbox.Message{first}, ms...), last), eventIDs(t, got))
}

func watchFilters(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	var ms []*inbox.Message
	for i := range 10 {
		for j, source := range []string{inbox.SourcePubSub, inbox.SourceMNS} {
			for k, subscription := range []string{subscription, otherSubscription} {
				ms = append(ms, from(source, subscription, fmt.Sprint("m", i, j, k)))
			}
		}
	}
	putAll(t, in, ms[:20]...)
	var wg sync.WaitGroup
	for _, q := range filters {
		want := slices.DeleteFunc(slices.Clone(ms), func(m *inbox.Message) bool { return !selects(q, m) })
		if len(want) == 0 {
			continue
		}
		q.PageToken = start
		ctx := patient(t)
		wg.Go(func() {
			got, err := collect(ctx, in, q, len(want))
			if err != nil {
				t.Error(err)
				return
			}
			sameIDs(t, want, eventIDs(t, got))
			// Resuming with the filter from its middle works too.
			q.PageToken = got[len(got)/2].Token
			rest, err := collect(ctx, in, q, len(got)-len(got)/2-1)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(got[len(got)/2+1:], rest); diff != "" {
				t.Errorf("filtered feed resumed (-want +got):\n%s", diff)
			}
		})
	}
	putAll(t, in, ms[20:]...)
	wg.Wait()
}

func watchPreview(t *testing.T, p Place) {
	in := open(t, p)
	start := startOf(t, in)
	ms := previewed()
	put(t, in, ms...)
	byID := map[string]inbox.Event{}
	for _, e := range take(t, in, inbox.Query{PageToken: start}, len(ms)) {
		byID[e.Message.ID] = e
	}
	for _, m := range ms {
		got := byID[id(m)].Message
		sameMessage(t, preview(m), &got)
	}
}

func watchPageToken(t *testing.T, p Place) {
	in := open(t, p)
	ms := numbered("m", 5)
	put(t, in, ms...)
	for _, token := range badTokens() {
		n := 0
		for _, err := range in.Watch(patient(t), inbox.Query{PageToken: token}) {
			if n++; !errors.Is(err, inbox.ErrPageToken) {
				t.Errorf("Watch(token %.60q) yielded %v, want ErrPageToken", token, err)
			}
		}
		if n != 1 {
			t.Errorf("Watch(token %.60q) yielded %d times, want one error", token, n)
		}
	}
	// The beginning of time is a valid place to start from.
	for _, id := range []string{"", strings.Repeat("00", 20)} {
		token := inbox.Position{ReceivedAt: time.UnixMicro(0), Commit: time.UnixMicro(0), ID: id}.Token()
		sameIDs(t, ms, eventIDs(t, take(t, in, inbox.Query{PageToken: token}, len(ms))))
	}
	// The token of a list's next page starts a feed after that page's last.
	all := listAll(t, in, inbox.Query{})
	page := list(t, in, inbox.Query{PageSize: 3})
	for _, e := range take(t, in, inbox.Query{PageToken: page.NextPageToken}, 2) {
		if newestFirst(e.Message, all[2]) >= 0 {
			t.Errorf("the feed after %q yielded %q", all[2].MessageID, e.Message.MessageID)
		}
	}
}

func watchEndsWithContext(t *testing.T, p Place) {
	in := open(t, p)
	for _, q := range []inbox.Query{{}, {PageToken: startOf(t, in)}, {Source: inbox.SourceMNS}} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for e, err := range in.Watch(ctx, q) {
				t.Errorf("Watch yielded %q, %v, want nothing", e.Message.MessageID, err)
			}
		}()
		cancel()
		select {
		case <-ended:
		case <-patient(t).Done():
			t.Fatal("the feed outlives its context")
		}
	}

	// A deadline is an end like any other, also between two events.
	start := startOf(t, in)
	put(t, in, numbered("m", 3)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n := 0
	for _, err := range in.Watch(ctx, inbox.Query{PageToken: start}) {
		if err != nil {
			t.Errorf("Watch: %v", err)
		}
		if n++; n == 3 {
			cancel()
		}
	}
	if n != 3 {
		t.Errorf("the feed yielded %d events, want 3", n)
	}
}

func watchEndsWithClose(t *testing.T, p Place) {
	in := p.Open(t)
	start := startOf(t, in)
	put(t, in, message("m"))
	began, ended := make(chan struct{}), make(chan error, 2)
	go func() {
		defer close(ended)
		n := 0
		for _, err := range in.Watch(patient(t), inbox.Query{PageToken: start}) {
			if n++; n == 1 {
				close(began)
				continue
			}
			ended <- err
		}
	}()
	<-began
	if err := in.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-ended; !errors.Is(err, inbox.ErrUnavailable) {
		t.Errorf("the feed of a closed inbox ended with %v, want ErrUnavailable", err)
	}
	if err, more := <-ended; more {
		t.Errorf("the feed of a closed inbox went on with %v", err)
	}
}
