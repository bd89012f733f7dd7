package firestoreinbox

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		name, project, database string
		options                 Options
	}{
		{"no_project", "", "", Options{}},
		{"project_with_slash", "p/q", "", Options{}},
		{"database_with_slash", "p", "d/e", Options{}},
		{"collection_with_slash", "p", "", Options{Collection: "a/b"}},
		{"collection_dot", "p", "", Options{Collection: "."}},
		{"collection_dots", "p", "", Options{Collection: ".."}},
		{"collection_reserved", "p", "", Options{Collection: "__messages__"}},
		{"collection_not_utf8", "p", "", Options{Collection: "\xff"}},
		{"collection_too_long", "p", "", Options{Collection: strings.Repeat("c", 2000)}},
		{"negative_shards", "p", "", Options{Shards: -1}},
		{"too_many_shards", "p", "", Options{Shards: MaxShards + 1}},
		{"negative_ttl", "p", "", Options{TTL: -time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.options.EmulatorHost = "127.0.0.1:1"
			if in, err := New(t.Context(), test.project, test.database, &test.options); err == nil {
				in.Close()
				t.Error("New succeeded")
			}
		})
	}
}

// TestDocumentSize computes the example of Firestore's documentation.
func TestDocumentSize(t *testing.T) {
	d := &pb.Document{
		Name: "projects/p/databases/(default)/documents/users/jeff/tasks/my_task_id",
		Fields: map[string]*pb.Value{
			"type": stringValue("Personal"), "done": boolValue(false), "priority": intValue(1),
			"description": stringValue("Learn Cloud Firestore"),
		},
	}
	if got := documentSize(d); got != 147 {
		t.Errorf("documentSize() = %d, want 147", got)
	}
}

// TestShardsAreEven spreads IDs as Pub/Sub counts them over the shards.
func TestShardsAreEven(t *testing.T) {
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
		in := open(t, host, project, &Options{Shards: shards})
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
				for _, m := range page.Messages {
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
