package firestoreinbox

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/measure"
	"google.golang.org/protobuf/proto"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

func TestOpenRefuses(t *testing.T) {
	for _, test := range []struct {
		name     string
		change   func(*Config)
		variable string
	}{
		{"no_project", func(c *Config) { c.Project = "" }, "GOOGLE_CLOUD_PROJECT"},
		{"project_with_slash", func(c *Config) { c.Project = "p/q" }, "GOOGLE_CLOUD_PROJECT"},
		{"no_database", func(c *Config) { c.Database = "" }, "FIRESTORE_DATABASE"},
		{"database_with_slash", func(c *Config) { c.Database = "d/e" }, "FIRESTORE_DATABASE"},
		{"no_collection", func(c *Config) { c.Collection = "" }, "INBOX_COLLECTION"},
		{"collection_with_slash", func(c *Config) { c.Collection = "a/b" }, "INBOX_COLLECTION"},
		{"collection_dot", func(c *Config) { c.Collection = "." }, "INBOX_COLLECTION"},
		{"collection_dots", func(c *Config) { c.Collection = ".." }, "INBOX_COLLECTION"},
		{"collection_reserved", func(c *Config) { c.Collection = "__messages__" }, "INBOX_COLLECTION"},
		{"collection_not_utf8", func(c *Config) { c.Collection = "\xff" }, "INBOX_COLLECTION"},
		{"collection_too_long", func(c *Config) { c.Collection = strings.Repeat("c", 2000) }, "INBOX_COLLECTION"},
		{"no_shards", func(c *Config) { c.Shards = 0 }, "INBOX_SHARDS"},
		{"negative_shards", func(c *Config) { c.Shards = -1 }, "INBOX_SHARDS"},
		{"too_many_shards", func(c *Config) { c.Shards = MaxShards + 1 }, "INBOX_SHARDS"},
		{"no_ttl", func(c *Config) { c.TTL = 0 }, "INBOX_TTL"},
		{"negative_ttl", func(c *Config) { c.TTL = -time.Second }, "INBOX_TTL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := config("127.0.0.1:1", "p")
			test.change(&c)
			in, err := Open(t.Context(), c)
			if err == nil {
				in.Close()
				t.Fatal("Open succeeded")
			}
			if !strings.Contains(err.Error(), test.variable) {
				t.Errorf("%v does not name %s", err, test.variable)
			}
		})
	}
}

// TestDocumentSize holds that the size of a document as a protocol buffer is no
// less than Firestore's formula gives, here for its documentation's own example.
func TestDocumentSize(t *testing.T) {
	d := &pb.Document{
		Name: "projects/p/databases/(default)/documents/users/jeff/tasks/my_task_id",
		Fields: map[string]*pb.Value{
			"type": stringValue("Personal"), "done": boolValue(false), "priority": intValue(1),
			"description": stringValue("Learn Cloud Firestore"),
		},
	}
	if got := proto.Size(d); got < 147 {
		t.Errorf("the document has %d bytes, and 147 for Firestore", got)
	}
}

// TestShardsAreEven spreads IDs as Pub/Sub counts them over the shards.
func TestShardsAreEven(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	// The values that chi-square exceeds with a probability of 0.01.
	for shards, limit := range map[int]float64{2: 6.635, 16: 30.578, 30: 49.588} {
		const n = 100_000
		counts := make([]int, shards)
		for i := range n {
			counts[shard(inbox.ID(inbox.SourcePubSub, "projects/p/subscriptions/s", fmt.Sprint(2070443601311540+i)), shards)]++
		}
		expected, chi := float64(n)/float64(shards), 0.0
		for _, c := range counts {
			chi += (float64(c) - expected) * (float64(c) - expected) / expected
		}
		t.Logf("%d shards: chi-square %.1f, limit %.1f", shards, chi, limit)
		if chi > limit {
			t.Errorf("%d shards: chi-square %.1f, want at most %.1f", shards, chi, limit)
		}
	}
}

// TestShardsRaised lists messages of before and after.
func TestShardsRaised(t *testing.T) {
	host, project := emulator.Firestore(t), emulator.Project()
	var want []string
	for n, shards := range []int{1, 4, MaxShards} {
		c := config(host, project)
		c.Shards = shards
		in, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		var wg sync.WaitGroup
		for i := range 40 {
			m := &inbox.Message{Source: "s", Subscription: "s", MessageID: fmt.Sprint(n, "-", i)}
			want = append(want, m.MessageID)
			wg.Go(func() {
				if _, err := in.Put(t.Context(), m); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, q := range []inbox.Query{{PageSize: 35}, {PageSize: 35, Source: "s"}, {PageSize: 500, Source: "s", Subscription: "s"}} {
			seen := map[string]bool{}
			for {
				page, err := in.List(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range page.Messages() {
					seen[m.MessageID] = true
				}
				if q.PageToken = page.NextPageToken; q.PageToken == "" {
					break
				}
			}
			for _, id := range want {
				if !seen[id] {
					t.Errorf("with %d shards message %s is not listed", shards, id)
				}
			}
		}
	}
}
