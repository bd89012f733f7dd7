package inboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/google/go-cmp/cmp"
)

func putAndGet(t *testing.T, p Place) {
	in := open(t, p)
	bare := func(m inbox.Message) *inbox.Message {
		m.Source, m.Subscription = inbox.SourceCalendar, subscription
		return &m
	}
	nanos := message("nanoseconds")
	nanos.PublishTime = time.Date(2026, 11, 23, 7, 8, 9, 123456789, time.FixedZone("", 3600))
	noSubscription := message("no-subscription")
	noSubscription.Subscription = ""
	for _, m := range []*inbox.Message{
		message("all-fields"),
		nanos,
		noSubscription,
		bare(inbox.Message{MessageID: "identity-only"}),
		bare(inbox.Message{MessageID: "attributes-only", Attributes: map[string]string{"a": "b"}}),
		bare(inbox.Message{MessageID: "data-only", Data: []byte{0}}),
		bare(inbox.Message{MessageID: "empty-not-nil", Data: []byte{}, Attributes: map[string]string{}}),
		bare(inbox.Message{MessageID: "before-1970", PublishTime: time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC)}),
		bare(inbox.Message{MessageID: "far-future", PublishTime: time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)}),
		bare(inbox.Message{MessageID: "epoch", PublishTime: time.Unix(0, 0).UTC()}),
		bare(inbox.Message{MessageID: strings.Repeat("i", 2<<10), OrderingKey: strings.Repeat("o", 1<<10)}),
		bare(inbox.Message{MessageID: "../a/b?c=d#e\x00\n\"'`\\ 🙂"}),
		bare(inbox.Message{MessageID: "__id__"}),
		bare(inbox.Message{MessageID: "."}),
	} {
		put(t, in, m)
		sameMessage(t, kept(m), get(t, in, m))
	}
}

func dataSizes(t *testing.T, p Place) {
	in := open(t, p)
	for _, size := range []int{
		0, 1, inbox.PreviewSize - 1, inbox.PreviewSize, inbox.PreviewSize + 1, 60_000, 65_535, 65_536, 65_537, 900_000,
		1<<20 - 1, 1 << 20, 1<<20 + 1, 2 << 20, 5_000_000, 9_998_000, inbox.MaxDataSize,
	} {
		if testing.Short() && size > 2<<20 {
			continue
		}
		m := message(fmt.Sprint("size-", size))
		m.Data = payload(size)
		put(t, in, m)
		sameMessage(t, kept(m), get(t, in, m))
		if stored, err := in.Put(t.Context(), m); stored || err != nil {
			t.Errorf("Put of %d bytes again = %v, %v, want false", size, stored, err)
		}
	}
}

func attributes(t *testing.T, p Place) {
	in := open(t, p)
	odd := map[string]string{}
	for _, k := range []string{
		"", " ", ".", "..", "a.b", ".a", "a.", "`", "a`b", "``", `\`, `a\b`, `\\`, "__reserved__", "__name__", "__type__",
		"/", "a/b", "*", "~", "[", "]", "0", "true", "null", "\x00", "\n", "ü", "\u00a0", "\U0010ffff", "\ufffd",
		strings.Repeat("k", 256), strings.Repeat("k", 4000), "googclient_x", "content-type", "$", "#", "{}",
	} {
		odd[k] = "value of " + k
		odd["x"+k] = k
	}
	many := map[string]string{}
	for i := range 100 {
		many[fmt.Sprintf("%0256d", i)] = strings.Repeat("v", 1024)
	}
	for name, attrs := range map[string]map[string]string{
		"odd":       odd,
		"pubsub":    many,
		"at_limit":  {"k": strings.Repeat("v", 256<<10-1)},
		"countless": countless(),
	} {
		m := message(name)
		m.Attributes = attrs
		put(t, in, m)
		sameMessage(t, kept(m), get(t, in, m))
	}
}

// countless returns more attributes than any provider allows and Validate
// still does.
func countless() map[string]string {
	attrs := map[string]string{}
	for i := range 5000 {
		attrs[fmt.Sprint(i)] = "v"
	}
	return attrs
}

func putSetsItsOwnFields(t *testing.T, p Place) {
	in := open(t, p)
	m := message("m")
	m.ID = "not-the-id"
	m.ReceivedAt = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	m.Size = 7
	m.Truncated = true
	before := clone(m)
	put(t, in, m)
	if diff := cmp.Diff(before, m); diff != "" {
		t.Errorf("Put changed its argument (-before +after):\n%s", diff)
	}
	sameMessage(t, kept(m), get(t, in, m))
}

func putKeepsNoReference(t *testing.T, p Place) {
	in := open(t, p)
	for _, size := range []int{10, 10_000, 200_000} {
		m := message(fmt.Sprint(size))
		m.Data = payload(size)
		want := kept(m)
		put(t, in, m)
		clear(m.Data)
		clear(m.Attributes)
		got := get(t, in, want)
		sameMessage(t, want, got)
		clear(got.Data)
		clear(got.Attributes)
		sameMessage(t, want, get(t, in, want))
	}
}

func putRefuses(t *testing.T, p Place) {
	in := open(t, p)
	for _, test := range []struct {
		name   string
		change func(*inbox.Message)
	}{
		{"no_source", func(m *inbox.Message) { m.Source = "" }},
		{"no_message_id", func(m *inbox.Message) { m.MessageID = "" }},
		{"too_much_data", func(m *inbox.Message) { m.Data = make([]byte, inbox.MaxDataSize+1) }},
		{"message_id_not_utf8", func(m *inbox.Message) { m.MessageID = "\xff" }},
		{"email_not_utf8", func(m *inbox.Message) { m.Verified.Email = "\xff" }},
		{"long_subscription", func(m *inbox.Message) { m.Subscription = strings.Repeat("s", 2<<10+1) }},
		{"published_in_year_0", func(m *inbox.Message) { m.PublishTime = time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC) }},
		{"published_in_year_10000", func(m *inbox.Message) {
			m.PublishTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -3600))
		}},
		{"expires_in_year_292277026596", func(m *inbox.Message) { m.Verified.ExpiresAt = time.Unix(1<<62, 0) }},
		{"attribute_key_not_utf8", func(m *inbox.Message) { m.Attributes = map[string]string{"\xc3": ""} }},
		{"attribute_value_not_utf8", func(m *inbox.Message) { m.Attributes = map[string]string{"": "\xc3"} }},
		{"too_many_attributes", func(m *inbox.Message) {
			m.Attributes = map[string]string{"k": strings.Repeat("v", 1<<20)}
		}},
	} {
		m := message(test.name)
		test.change(m)
		if stored, err := in.Put(t.Context(), m); stored || !errors.Is(err, inbox.ErrInvalid) {
			t.Errorf("%s: Put = %v, %v, want ErrInvalid", test.name, stored, err)
		}
		if _, err := in.Get(t.Context(), id(m)); !errors.Is(err, inbox.ErrNotFound) {
			t.Errorf("%s: Get = %v, want ErrNotFound", test.name, err)
		}
	}
	// One bad message among good ones must not spoil them.
	good := numbered("good", 30)
	var wg sync.WaitGroup
	for i, m := range good {
		wg.Go(func() {
			if stored, err := in.Put(t.Context(), m); !stored || err != nil {
				t.Errorf("Put(%q) = %v, %v, want true", m.MessageID, stored, err)
			}
		})
		wg.Go(func() {
			bad := message(fmt.Sprintf("bad-%d\xff", i))
			if _, err := in.Put(t.Context(), bad); !errors.Is(err, inbox.ErrInvalid) {
				t.Errorf("Put of a bad message = %v, want ErrInvalid", err)
			}
		})
	}
	wg.Wait()
	sameIDs(t, good, messageIDs(listAll(t, in, inbox.Query{})))
}

func duplicatesInTurn(t *testing.T, p Place) {
	in := open(t, p)
	first := message("m")
	put(t, in, first)
	want := get(t, in, first)
	again := message("m")
	again.Data = []byte("other")
	again.Attributes = map[string]string{"other": "1"}
	again.DeliveryAttempt = 4
	for range 3 {
		if stored, err := in.Put(t.Context(), again); stored || err != nil {
			t.Fatalf("Put again = %v, %v, want false", stored, err)
		}
	}
	if diff := cmp.Diff(want, get(t, in, first)); diff != "" {
		t.Errorf("a second Put changed the message (-first +second):\n%s", diff)
	}
	if n := len(listAll(t, in, inbox.Query{})); n != 1 {
		t.Errorf("%d messages are listed, want 1", n)
	}
}

func duplicatesAtOnce(t *testing.T, p Place) {
	ins := handles(t, p, 4)
	const deliveries = 16
	ms := numbered("m", 25)
	for i, m := range ms {
		// Small ones, some past the preview and some that other inboxes chunk.
		m.Data = payload([]int{100, 5_000, 100_000, 1_200_000}[i%4] + i)
	}
	stored := make([]atomic.Int64, len(ms))
	var wg sync.WaitGroup
	for i, m := range ms {
		for d := range deliveries {
			wg.Go(func() {
				ok, err := ins[d%len(ins)].Put(t.Context(), m)
				if err != nil {
					t.Errorf("Put(%q): %v", m.MessageID, err)
				}
				if ok {
					stored[i].Add(1)
				}
			})
		}
	}
	wg.Wait()
	for i, m := range ms {
		if n := stored[i].Load(); n != 1 {
			t.Errorf("%d of %d deliveries of %q were told that they stored it, want 1", n, deliveries, m.MessageID)
		}
		sameMessage(t, kept(m), get(t, ins[i%len(ins)], m))
	}
	sameIDs(t, ms, messageIDs(listAll(t, ins[0], inbox.Query{PageSize: 10})))
}

func identity(t *testing.T, p Place) {
	in := open(t, p)
	ms := []*inbox.Message{
		from(inbox.SourcePubSub, "s", "1"),
		from(inbox.SourcePubSub, "s2", "1"),
		from(inbox.SourcePubSub, "", "1"),
		from(inbox.SourceMNS, "s", "1"),
		from(inbox.SourceCalendar, "s", "1"),
		from(inbox.SourcePubSub, "s", "2"),
		from(inbox.SourcePubSub, "s1", "2"),
		from(inbox.SourcePubSub, "s", "12"),
		from(inbox.SourcePubSub, "S", "1"),
	}
	put(t, in, ms...)
	for _, m := range ms {
		sameMessage(t, kept(m), get(t, in, m))
	}
	if n := len(listAll(t, in, inbox.Query{})); n != len(ms) {
		t.Errorf("%d messages are listed, want %d", n, len(ms))
	}
}

func getUnknown(t *testing.T, p Place) {
	in := open(t, p)
	m := message("m")
	put(t, in, m)
	real := id(m)
	for _, id := range []string{
		"", ".", "..", "/", "a/b", "../../etc/passwd", "__id__", "\x00", "\xff\xfe", "🙂",
		strings.Repeat("0", 40), strings.Repeat("a", 4<<10), strings.Repeat("/", 4<<10), strings.Repeat("f", 1<<20),
		real[:39], real + "0", real + "/", real + "\x00", " " + real, strings.ToUpper(real), real[:2], real + real,
		inbox.ID(m.Source, m.Subscription, "other"),
	} {
		for name, read := range reads(in) {
			if got, err := read(t.Context(), id); got != nil || !errors.Is(err, inbox.ErrNotFound) {
				t.Errorf("%s(%.50q) = %v, %v, want ErrNotFound", name, id, got, err)
			}
		}
	}
}

func reopen(t *testing.T, p Place) {
	in := p.Open(t)
	ms := numbered("m", 10)
	ms[3].Data = payload(300_000)
	put(t, in, ms...)
	before := listAll(t, in, inbox.Query{PageSize: 4})
	page := list(t, in, inbox.Query{PageSize: 4})
	if err := in.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}

	in = open(t, p)
	for _, m := range ms {
		sameMessage(t, kept(m), get(t, in, m))
		if stored, err := in.Put(t.Context(), m); stored || err != nil {
			t.Errorf("Put again = %v, %v, want false", stored, err)
		}
	}
	if diff := cmp.Diff(before, listAll(t, in, inbox.Query{PageSize: 4})); diff != "" {
		t.Errorf("list after opening again (-before +after):\n%s", diff)
	}
	// Tokens outlive the inbox that made them.
	next := list(t, in, inbox.Query{PageSize: 4, PageToken: page.NextPageToken})
	if diff := cmp.Diff(before[4:8], next.Messages()); diff != "" {
		t.Errorf("second page after opening again (-want +got):\n%s", diff)
	}
	later := message("later")
	put(t, in, later)
	events := take(t, in, inbox.Query{PageToken: page.WatchToken}, 1)
	sameMessage(t, preview(later), &events[0].Message)
}

func contextEnded(t *testing.T, p Place) {
	in := open(t, p)
	m := message("m")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if stored, err := in.Put(ended, m); stored || !errors.Is(err, context.Canceled) {
		t.Errorf("Put = %v, %v, want context.Canceled", stored, err)
	}
	for name, read := range reads(in) {
		if _, err := read(ended, id(m)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want context.Canceled", name, err)
		}
	}
	if _, err := in.List(ended, inbox.Query{}); !errors.Is(err, context.Canceled) {
		t.Errorf("List = %v, want context.Canceled", err)
	}
	for _, err := range in.Watch(ended, inbox.Query{}) {
		t.Errorf("Watch yielded (error %v), want nothing", err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if stored, err := in.Put(late, m); stored || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put = %v, %v, want context.DeadlineExceeded", stored, err)
	}
	put(t, in, m)
}

// contextEndsDuringPut ends callers' contexts at any moment of their Puts and
// reuses their buffers at once: what is kept is whole or absent, and neighbours
// notice nothing.
func contextEndsDuringPut(t *testing.T, p Place) {
	in := open(t, p)
	first := message("first")
	first.Data = payload(1 << 20)
	begin := time.Now()
	put(t, in, first)
	took := time.Since(begin)

	const n = 80
	ms := numbered("m", n)
	wants := make([]*inbox.Message, n)
	for i, m := range ms {
		m.Data = payload([]int{100, 5_000, 150_000, 1 << 20}[i%4] + i)
		wants[i] = kept(m)
	}
	// A few at a time, so that ends fall before, into and after the commits.
	for batch := range n / 8 {
		var wg sync.WaitGroup
		for i := batch * 8; i < batch*8+8; i++ {
			m := ms[i]
			if i%8 == 0 {
				wg.Go(func() {
					if _, err := in.Put(t.Context(), m); err != nil {
						t.Errorf("Put(%q) beside callers that give up: %v", m.MessageID, err)
					}
				})
				continue
			}
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), took*time.Duration(i)/(n/3))
				defer cancel()
				if _, err := in.Put(ctx, m); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Put(%q) = %v, want context.DeadlineExceeded or success", m.MessageID, err)
				}
				clear(m.Data)
			})
		}
		wg.Wait()
	}
	for i, want := range wants {
		got, err := in.Get(t.Context(), want.ID)
		if errors.Is(err, inbox.ErrNotFound) && i%8 != 0 {
			continue
		}
		if err != nil {
			t.Errorf("Get(%q): %v", want.MessageID, err)
		} else if !bytes.Equal(got.Data, want.Data) {
			t.Errorf("Get(%q) returned bytes that were not put", want.MessageID)
		}
	}
}

func closeKeeps(t *testing.T, p Place) {
	in := p.Open(t)
	ms := numbered("m", 40)
	acknowledged := make([]bool, len(ms))
	var started, wg sync.WaitGroup
	started.Add(len(ms))
	for i, m := range ms {
		wg.Go(func() {
			started.Done()
			_, err := in.Put(t.Context(), m)
			if err != nil && !errors.Is(err, inbox.ErrUnavailable) {
				t.Errorf("Put(%q) while closing = %v, want success or ErrUnavailable", m.MessageID, err)
			}
			acknowledged[i] = err == nil
		})
	}
	started.Wait()
	if err := in.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wg.Wait()
	in = open(t, p)
	for i, m := range ms {
		if acknowledged[i] {
			sameMessage(t, kept(m), get(t, in, m))
		}
	}
}

func closed(t *testing.T, p Place) {
	in := p.Open(t)
	m := message("m")
	put(t, in, m)
	if err := in.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if stored, err := in.Put(t.Context(), message("n")); stored || !errors.Is(err, inbox.ErrUnavailable) {
		t.Errorf("Put after Close = %v, %v, want ErrUnavailable", stored, err)
	}
	for name, read := range reads(in) {
		if _, err := read(t.Context(), id(m)); !errors.Is(err, inbox.ErrUnavailable) {
			t.Errorf("%s after Close = %v, want ErrUnavailable", name, err)
		}
	}
	if _, err := in.List(t.Context(), inbox.Query{}); !errors.Is(err, inbox.ErrUnavailable) {
		t.Errorf("List after Close = %v, want ErrUnavailable", err)
	}
	n := 0
	for _, err := range in.Watch(patient(t), inbox.Query{}) {
		if n++; !errors.Is(err, inbox.ErrUnavailable) {
			t.Errorf("Watch after Close yielded %v, want ErrUnavailable", err)
		}
	}
	if n != 1 {
		t.Errorf("Watch after Close yielded %d times, want one error", n)
	}
	if err := in.Close(); err != nil {
		t.Errorf("Close after Close: %v", err)
	}
}
