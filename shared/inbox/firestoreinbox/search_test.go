package firestoreinbox

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/inboxtest"
	"example.com/pushinbox/testkit/measure"
	"golang.org/x/sync/errgroup"
	"google.golang.org/api/option"
	"google.golang.org/grpc"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// openSearch opens an inbox whose attributes for tests of searching have an index.
func openSearch(t *testing.T, in *Inbox) *Inbox {
	t.Helper()
	in.attributes = inbox.IndexedAttributes(inboxtest.SearchAttributes)
	return in
}

// putMany stores messages, many at a time.
func putMany(t *testing.T, in *Inbox, ms []*inbox.Message) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(200)
	for _, m := range ms {
		group.Go(func() error {
			_, err := in.Put(ctx, m)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestSearch asks Google's emulator for random filters over random messages, those of
// an earlier revision among them. The emulator has no index: for every query it reads
// every document, and that once for each shard, so that 2,000 filters over 100,000
// messages would take it most of a day. At full size there are as many, in inboxes of
// 1,000 messages that are asked 20 filters each, and one larger inbox with one shard.
func TestSearch(t *testing.T) {
	sizes := []struct{ inboxes, messages, filters, shards int }{{1, 300, 40, 16}}
	if measure.Full() {
		sizes = []struct{ inboxes, messages, filters, shards int }{{100, 1000, 20, 16}, {1, 20_000, 50, 1}}
	}
	for _, size := range sizes {
		t.Run(fmt.Sprintf("%d_messages", size.messages), func(t *testing.T) {
			t.Parallel()
			r := measure.Rand()
			for range size.inboxes {
				cfg := config(emulator.Firestore(t), emulator.Project())
				cfg.Shards, cfg.TTL = size.shards, 24*time.Hour // at full size it takes long
				in, err := Open(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				openSearch(t, in)
				for i := range 20 {
					m := &inbox.Message{Source: "pubsub", Subscription: "projects/p/subscriptions/s", MessageID: fmt.Sprint("old-", i)}
					id := inbox.ID(m.Source, m.Subscription, m.MessageID)
					frozenWrite(t, in, "messages/"+id, frozenDocument(m.MessageID, 10, shard(id, size.shards), []byte("0123456789"), map[string]*pb.Value{
						"attributes": mapValue(map[string]*pb.Value{"tenant": stringValue([]string{"1", "order"}[i%2]), "note": stringValue("Order")}),
					}))
				}
				putMany(t, in, inboxtest.RandomMessages(r, size.messages))
				time.Sleep(in.late)
				in.late = 0 // nothing is written any more: lists need not wait
				inboxtest.Search(t, r, in, size.filters)
				if err := in.Close(); err != nil || t.Failed() {
					t.Fatal("no further inbox is searched: ", err)
				}
			}
		})
	}
}

// TestSearchModel does so in the model, whose calls fail.
func TestSearchModel(t *testing.T) {
	t.Parallel()
	_, opts := newModel(t, 0.02)
	in := openSearch(t, open(t, "", "p", opts...))
	defer in.Close()
	r := measure.Rand()
	putMany(t, in, inboxtest.RandomMessages(r, 300))
	inboxtest.Search(t, r, in, 150)
}

// documents counts the documents that queries return to the client.
type documents struct {
	grpc.ClientStream
	n *atomic.Int64
}

func (d documents) RecvMsg(m any) error {
	err := d.ClientStream.RecvMsg(m)
	if answer, ok := m.(*pb.RunQueryResponse); ok && err == nil && answer.Document != nil {
		d.n.Add(1)
	}
	return err
}

// TestReadsOfAPage counts the documents that a page takes, at the client: one more
// than it returns and skips. The server may have sent some more by then, as many as
// were skipped at most.
func TestReadsOfAPage(t *testing.T) {
	t.Parallel()
	m, opts := newModel(t, 0)
	received := new(atomic.Int64)
	opts = append(opts, option.WithGRPCDialOption(grpc.WithStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := open(ctx, desc, conn, method, o...)
			return documents{stream, received}, err
		})))
	in := openSearch(t, open(t, "", "p", opts...))
	defer in.Close()
	var ms []*inbox.Message
	for i := range 300 {
		ms = append(ms, &inbox.Message{
			Source: "pubsub", Subscription: fmt.Sprint("projects/p/subscriptions/s", i%3), MessageID: fmt.Sprint(i / 2), OrderingKey: fmt.Sprint(i % 10),
			Attributes: map[string]string{"tenant": fmt.Sprint(i % 5), "note": fmt.Sprint(i % 2)},
		})
	}
	putMany(t, in, ms)
	for name, test := range map[string]struct {
		q     inbox.Query
		extra int
	}{
		"everything":   {inbox.Query{}, 0},
		"ascending":    {inbox.Query{Ascending: true}, 0},
		"message_id":   {inbox.Query{MessageID: "7"}, 0},
		"ordering_key": {inbox.Query{OrderingKey: "7"}, 0},
		"attribute":    {inbox.Query{Attributes: map[string]string{"tenant": "3"}}, 0},
		"full_name":    {inbox.Query{Subscription: "projects/p/subscriptions/s1"}, 0},
		"short_name":   {inbox.Query{Subscription: "s1"}, 3}, // one for each subscription
		"scan":         {inbox.Query{Attributes: map[string]string{"note": "1"}}, 0},
		"scan_of_rest": {inbox.Query{Attributes: map[string]string{"tenant": "3", "note": "1"}, Ascending: true}, 0},
		"nothing":      {inbox.Query{Text: "nowhere"}, 0},
	} {
		test.q.PageSize = 20
		for pages := 0; ; pages++ {
			for m.running.Load() > 0 { // of the page before
				time.Sleep(time.Millisecond)
			}
			m.sent.Store(0)
			received.Store(0)
			page, err := in.List(t.Context(), test.q)
			if err != nil {
				t.Fatal(err)
			}
			returned := len(page.Events)
			skipped := max(page.Examined-returned, 0)
			read, sent := int(received.Load())-test.extra, int(m.sent.Load())-test.extra
			if read > returned+skipped+1 || sent > returned+skipped+1+skipped {
				t.Errorf("%s: %d documents were read and %d sent for %d messages and %d skipped", name, read, sent, returned, skipped)
			}
			if returned > 0 && received.Load() == 0 {
				t.Errorf("%s: nothing was counted", name)
			}
			if test.q.PageToken = page.NextPageToken; test.q.PageToken == "" {
				break
			}
		}
	}
}

// TestMissingIndex searches before the indexes are there: the list of all messages is
// filtered, and where that has none, the error says what to do.
func TestMissingIndex(t *testing.T) {
	t.Parallel()
	m, opts := newModel(t, 0)
	in := openSearch(t, open(t, "", "p", opts...))
	defer in.Close()
	putMany(t, in, inboxtest.RandomMessages(measure.Rand(), 100))
	filters := func(q *pb.StructuredQuery) int { return len(q.GetWhere().GetCompositeFilter().GetFilters()) }
	m.lacks = func(q *pb.StructuredQuery) bool {
		only := q.GetWhere().GetFieldFilter() != nil
		for _, f := range q.GetWhere().GetCompositeFilter().GetFilters() {
			only = only || !strings.Contains("shard receivedAt", f.GetFieldFilter().GetField().GetFieldPath())
		}
		return filters(q) == 0 || only
	}
	inboxtest.Search(t, measure.Rand(), in, 50)
	q := inbox.Query{Source: inbox.SourcePubSub, PageToken: inbox.Position{ReceivedAt: time.Unix(0, 0), Commit: time.Unix(0, 0)}.Token()}
	for e, err := range in.Watch(t.Context(), q) {
		if err != nil || e.Message.Source != inbox.SourcePubSub {
			t.Errorf("the feed yields %v, %v", e.Message.Source, err)
		}
		break
	}
	m.lacks = func(*pb.StructuredQuery) bool { return true }
	for _, q := range []inbox.Query{{}, {MessageID: "1"}, {Ascending: true}} {
		_, err := in.List(t.Context(), q)
		if status, detail := problem.Of(err); status != 503 || !strings.Contains(detail, "terraform apply") {
			t.Errorf("without any index: %d %q", status, detail)
		}
	}
}

func TestSearchAttributes(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range maxSearchAttributes + 1 {
		many = append(many, fmt.Sprint("a", i))
	}
	for value, says := range map[string]string{
		"": "", "tenant": "", "tenant,ce-type,a.b,ключ,replay-of": "",
		"a,a": `names "a" twice`, "__a__": `names "__a__", which cannot have an index`, strings.Repeat("x", 257): "cannot have an index",
		"a,,b": "INBOX_SEARCH_ATTRIBUTES", "a, b": "INBOX_SEARCH_ATTRIBUTES", strings.Join(many, ","): "names 21 attributes; name at most 20",
	} {
		c, err := settings.Parse[Config](map[string]string{"GOOGLE_CLOUD_PROJECT": "p", "INBOX_SEARCH_ATTRIBUTES": value})
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%.50q: %v, want %q", value, err, says)
		}
		if names := inbox.IndexedAttributes(c.SearchAttributes); value == "" && len(names) != 1 {
			t.Errorf("without the variable %q have an index", names)
		}
	}
}
