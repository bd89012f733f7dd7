// Package inboxtest is the conformance suite of inboxes. Every inbox runs it from
// its own tests, so that a caller may replace one by another. With -short the
// largest data is left out.
package inboxtest

import (
	"bytes"
	compare "cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A Place is where inboxes are opened, empty at first.
type Place struct {
	// Open opens an inbox on the place, which shows what earlier ones stored
	// there. The suite closes it.
	Open func(t *testing.T) inbox.Inbox
	// OpenAt opens an inbox on the place that stores messages for TTL and whose
	// clock is now. It deletes nothing while now jumps ahead.
	OpenAt func(t *testing.T, now func() time.Time) inbox.Inbox
	// Exclusive says that only one inbox at a time can be open on the place.
	Exclusive bool
}

// Run tests that the inboxes of a driver fulfil the contract. It calls place once
// for each of its subtests, which run in parallel.
func Run(t *testing.T, place func(t *testing.T) Place) { run(t, "", place) }

// RunWatch is Run with the subtests of Watch alone.
func RunWatch(t *testing.T, place func(t *testing.T) Place) { run(t, "watch_", place) }

func run(t *testing.T, prefix string, place func(t *testing.T) Place) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Place)
	}{
		{"put_and_get", putAndGet},
		{"data_sizes", dataSizes},
		{"attributes", attributes},
		{"put_sets_its_own_fields", putSetsItsOwnFields},
		{"put_keeps_no_reference", putKeepsNoReference},
		{"put_refuses_what_cannot_be_kept", putRefuses},
		{"duplicates_in_turn", duplicatesInTurn},
		{"duplicates_at_once", duplicatesAtOnce},
		{"identity", identity},
		{"get_unknown", getUnknown},
		{"reopen", reopen},
		{"context_ended", contextEnded},
		{"context_ends_during_put", contextEndsDuringPut},
		{"close_keeps_what_was_put", closeKeeps},
		{"closed", closed},
		{"expiry", expiry},
		{"peek", peek},
		{"quarantined", quarantined},
		{"list_empty", listEmpty},
		{"list_bytes", listBytes},
		{"list_newest_first", listNewestFirst},
		{"list_pages", listPages},
		{"list_while_new_ones_arrive", listWhileNewOnesArrive},
		{"list_filters", listFilters},
		{"list_search", listSearch},
		{"list_token_of_another_filter", listTokenOfAnotherFilter},
		{"list_page_size", listPageSize},
		{"list_preview", listPreview},
		{"list_page_token", listPageToken},
		{"list_event_tokens", listEventTokens},
		{"watch_from_now", watchFromNow},
		{"watch_from_page", watchFromPage},
		{"watch_from_page_under_load", watchFromPageUnderLoad},
		{"watch_resumes_after_any_event", watchResumes},
		{"watch_wakes_for_each", watchWakesForEach},
		{"watch_across_reconnects", watchAcrossReconnects},
		{"watch_slow_reader", watchSlowReader},
		{"watch_filters", watchFilters},
		{"watch_progress", watchProgress},
		{"watch_search", watchSearch},
		{"watch_preview", watchPreview},
		{"watch_page_token", watchPageToken},
		{"watch_ends_with_context", watchEndsWithContext},
		{"watch_ends_with_close", watchEndsWithClose},
	} {
		if !strings.HasPrefix(test.name, prefix) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, place(t))
		})
	}
}

// patience is how long the suite waits before it fails.
const patience = time.Minute

// open opens an inbox on p and closes it when the test ends.
func open(t *testing.T, p Place) inbox.Inbox {
	t.Helper()
	in := p.Open(t)
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return in
}

// handles opens n inboxes on p, or returns one n times where p is exclusive.
func handles(t *testing.T, p Place, n int) []inbox.Inbox {
	t.Helper()
	ins := make([]inbox.Inbox, n)
	for i := range ins {
		if i > 0 && p.Exclusive {
			ins[i] = ins[0]
		} else {
			ins[i] = open(t, p)
		}
	}
	return ins
}

const (
	subscription      = "projects/p/subscriptions/s"
	otherSubscription = "projects/p/subscriptions/s2"
)

// message returns a message with every field set that Put reads.
func message(id string) *inbox.Message {
	return &inbox.Message{
		Source:          inbox.SourcePubSub,
		Subscription:    subscription,
		MessageID:       id,
		PublishTime:     time.Date(2026, 11, 23, 7, 8, 9, 123456000, time.UTC),
		Data:            []byte("Hello, World! \x00\xff " + id),
		Attributes:      map[string]string{"k": "v", "ключ": "значение 🙂", "empty": ""},
		OrderingKey:     "key/1",
		DeliveryAttempt: 3,
		Verified: inbox.Verified{
			Issuer:        "https://accounts.google.com",
			Audience:      "https://receive-1.europe-west1.run.app",
			Email:         "push@p.iam.gserviceaccount.com",
			EmailVerified: true,
			Subject:       "113774264463038321964",
			IssuedAt:      time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC),
			ExpiresAt:     time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC),
		},
	}
}

// from returns a message of a source and a subscription.
func from(source, subscription, id string) *inbox.Message {
	m := message(id)
	m.Source, m.Subscription = source, subscription
	return m
}

// clone returns a deep copy of m.
func clone(m *inbox.Message) *inbox.Message {
	c := *m
	c.Data = bytes.Clone(m.Data)
	c.Attributes = maps.Clone(m.Attributes)
	return &c
}

// payload returns n bytes that depend on n and compress badly.
func payload(n int) []byte {
	var seed [32]byte
	copy(seed[:], fmt.Sprint(n))
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// id returns the ID under which an inbox keeps m.
func id(m *inbox.Message) string { return inbox.ID(m.Source, m.Subscription, m.MessageID) }

// kept returns m the way Get must return it, but for ReceivedAt.
func kept(m *inbox.Message) *inbox.Message {
	k := clone(m)
	k.ID = id(m)
	k.ReceivedAt = time.Time{}
	k.Size = len(m.Data)
	k.Truncated = false
	k.PublishTime = k.PublishTime.Truncate(time.Microsecond)
	return k
}

// preview returns m the way List and Watch must return it, but for ReceivedAt.
func preview(m *inbox.Message) *inbox.Message {
	k := kept(m)
	if k.Truncated = len(k.Data) > inbox.PreviewSize; k.Truncated {
		k.Data = k.Data[:inbox.PreviewSize]
	}
	return k
}

// sameMessage fails the test when got is not want, ReceivedAt apart.
func sameMessage(t *testing.T, want, got *inbox.Message) {
	t.Helper()
	if !bytes.Equal(want.Data, got.Data) {
		t.Errorf("message %.40q: data of %d bytes came back as %d other bytes", want.MessageID, len(want.Data), len(got.Data))
	}
	ignore := cmpopts.IgnoreFields(inbox.Message{}, "Data", "ReceivedAt")
	if diff := cmp.Diff(want, got, ignore, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("message %.40q (-want +got):\n%s", want.MessageID, diff)
	}
	for _, at := range []time.Time{got.PublishTime, got.ReceivedAt, got.Verified.IssuedAt, got.Verified.ExpiresAt} {
		if at.Location() != time.UTC || !at.Equal(at.Truncate(time.Microsecond)) {
			t.Errorf("message %.40q: time %v is not in whole microseconds of UTC", want.MessageID, at)
		}
	}
	if age := time.Since(got.ReceivedAt); age < -time.Minute || age > 10*patience {
		t.Errorf("message %.40q: ReceivedAt = %v, want about now", want.MessageID, got.ReceivedAt)
	}
}

// put stores messages one after the other, all of which must be new.
func put(t *testing.T, in inbox.Inbox, ms ...*inbox.Message) {
	t.Helper()
	for _, m := range ms {
		stored, err := in.Put(t.Context(), m)
		if err != nil || !stored {
			t.Fatalf("Put(%.40q) = %v, %v, want true", m.MessageID, stored, err)
		}
	}
}

// putAll stores messages at once, all of which must be new.
func putAll(t *testing.T, in inbox.Inbox, ms ...*inbox.Message) {
	t.Helper()
	var wg sync.WaitGroup
	for _, m := range ms {
		wg.Go(func() {
			if stored, err := in.Put(t.Context(), m); err != nil || !stored {
				t.Errorf("Put(%.40q) = %v, %v, want true", m.MessageID, stored, err)
			}
		})
	}
	wg.Wait()
}

// get returns the message that m was kept as.
func get(t *testing.T, in inbox.Inbox, m *inbox.Message) *inbox.Message {
	t.Helper()
	got, err := in.Get(t.Context(), id(m))
	if err != nil {
		t.Fatalf("Get(%.40q): %v", m.MessageID, err)
	}
	return got
}

// numbered returns n messages whose IDs begin with prefix.
func numbered(prefix string, n int) []*inbox.Message {
	ms := make([]*inbox.Message, n)
	for i := range ms {
		ms[i] = message(fmt.Sprintf("%s-%04d", prefix, i))
	}
	return ms
}

// list returns one page.
func list(t *testing.T, in inbox.Inbox, q inbox.Query) *inbox.Page {
	t.Helper()
	page, err := in.List(t.Context(), q)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return page
}

// listAll walks all pages of q and fails the test when one but the last is not
// full, or the order is wrong, or a message comes twice.
func listAll(t *testing.T, in inbox.Inbox, q inbox.Query) []inbox.Message {
	t.Helper()
	var all []inbox.Message
	seen := make(map[string]bool)
	for {
		page := list(t, in, q)
		if n := len(page.Events); n > q.Limit() || n < q.Limit() && page.NextPageToken != "" {
			t.Fatalf("page has %d messages and token %q, want %d or a last page", n, page.NextPageToken, q.Limit())
		}
		for _, m := range page.Messages() {
			if seen[m.ID] {
				t.Fatalf("message %q is listed twice", m.MessageID)
			}
			seen[m.ID] = true
			if len(all) > 0 && newestFirst(all[len(all)-1], m) >= 0 {
				t.Fatalf("message %q is listed after one that is older", m.MessageID)
			}
			all = append(all, m)
		}
		if page.NextPageToken == "" {
			return all
		}
		q.PageToken = page.NextPageToken
	}
}

// newestFirst compares messages in the order of lists.
func newestFirst(a, b inbox.Message) int {
	return compare.Or(b.ReceivedAt.Compare(a.ReceivedAt), strings.Compare(b.ID, a.ID))
}

// messageIDs returns the message IDs of ms in their order.
func messageIDs(ms []inbox.Message) []string {
	ids := make([]string, len(ms))
	for i := range ms {
		ids[i] = ms[i].MessageID
	}
	return ids
}

// sameIDs fails the test when got has not exactly the message IDs of want, in
// any order.
func sameIDs(t *testing.T, want []*inbox.Message, got []string) {
	t.Helper()
	ids := make([]string, len(want))
	for i, m := range want {
		ids[i] = m.MessageID
	}
	if diff := cmp.Diff(ids, got, cmpopts.SortSlices(strings.Compare), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// patient returns a context that ends the test's waiting after patience.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
