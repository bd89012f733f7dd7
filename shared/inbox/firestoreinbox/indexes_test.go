package firestoreinbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// declared is firestore.indexes.json.
type declared struct {
	Indexes []struct {
		CollectionGroup string `json:"collectionGroup"`
		QueryScope      string `json:"queryScope"`
		Fields          []struct {
			FieldPath string `json:"fieldPath"`
			Order     string `json:"order"`
		} `json:"fields"`
	} `json:"indexes"`
	FieldOverrides []struct {
		CollectionGroup string `json:"collectionGroup"`
		FieldPath       string `json:"fieldPath"`
		TTL             bool   `json:"ttl"`
		Indexes         []any  `json:"indexes"`
	} `json:"fieldOverrides"`
}

func readDeclared(t *testing.T) declared {
	t.Helper()
	b, err := os.ReadFile("firestore.indexes.json")
	if err != nil {
		t.Fatal(err)
	}
	var d declared
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// queries returns every shape of query that this package can send, made by the
// functions that make what is sent.
func queries(in *Inbox) []*pb.StructuredQuery {
	var all []*pb.StructuredQuery
	filters := []inbox.Query{{}, {Source: "s"}, {Subscription: "p/s"}, {Source: "s", Subscription: "p/s"}, {Source: "\xff"}}
	for _, q := range filters {
		q.Quarantined = true
		filters = append(filters, q)
	}
	for _, q := range filters {
		use, _ := in.choose(&q)
		all = append(all,
			in.listQuery(&q, use, nil, 50),
			in.listQuery(&q, use, &inbox.Position{ReceivedAt: time.Now()}, 50),
			in.listQuery(&q, use, &inbox.Position{ReceivedAt: time.Now(), ID: inbox.ID("s", "s", "1")}, 50),
			in.windowQuery(use, time.Now(), time.Time{}),
			in.windowQuery(use, time.Now(), time.Now()))
	}
	return all
}

// wants returns the composite index that a query needs, in one spelling: the
// fields it compares for equality, sorted, then its order.
func wants(t *testing.T, q *pb.StructuredQuery) string {
	t.Helper()
	var equal, order []string
	for _, f := range q.Where.GetCompositeFilter().GetFilters() {
		f := f.GetFieldFilter()
		switch f.GetOp() {
		case pb.StructuredQuery_FieldFilter_EQUAL, pb.StructuredQuery_FieldFilter_IN:
			equal = append(equal, f.GetField().GetFieldPath())
		case pb.StructuredQuery_FieldFilter_GREATER_THAN, pb.StructuredQuery_FieldFilter_LESS_THAN_OR_EQUAL:
			if f.GetField().GetFieldPath() != q.OrderBy[0].GetField().GetFieldPath() {
				t.Errorf("a range on %s, which is not the first order", f.GetField().GetFieldPath())
			}
		default:
			t.Errorf("unexpected operator %v", f.GetOp())
		}
	}
	slices.Sort(equal)
	for _, o := range q.OrderBy {
		order = append(order, o.GetField().GetFieldPath()+" "+o.GetDirection().String())
	}
	return q.From[0].GetCollectionId() + ": " + strings.Join(append(slices.Compact(equal), order...), ", ")
}

func TestIndexesAreDeclared(t *testing.T) {
	in := open(t, "127.0.0.1:1", "p")
	defer in.Close()
	needed := map[string]bool{}
	for _, q := range queries(in) {
		needed[wants(t, q)] = true
	}
	have := map[string]bool{}
	for _, index := range readDeclared(t).Indexes {
		if index.QueryScope != "COLLECTION" {
			t.Errorf("scope %q", index.QueryScope)
		}
		last := index.Fields[len(index.Fields)-1]
		var equal []string
		for _, f := range index.Fields[:len(index.Fields)-1] {
			equal = append(equal, f.FieldPath)
		}
		slices.Sort(equal)
		// The document's name follows in the direction of the last field.
		have[index.CollectionGroup+": "+strings.Join(append(equal, last.FieldPath+" "+last.Order, "__name__ "+last.Order), ", ")] = true
	}
	for index := range needed {
		if !have[index] {
			t.Errorf("a query needs the index %q, which is not declared", index)
		}
	}
	for index := range have {
		if !needed[index] {
			t.Errorf("no query needs the index %q, which every write pays for", index)
		}
	}
}

// TestFieldsAreExempt stores messages that fill every field and asks, of each
// field that was really written, whether an index would follow its growth.
func TestFieldsAreExempt(t *testing.T) {
	m, opts := newModel(t, 0)
	in := open(t, "", "p", opts...)
	defer in.Close()
	for _, size := range []int{10, 100_000, 3_000_000} {
		message := &inbox.Message{
			Source: inbox.SourcePubSub, Subscription: "s", MessageID: fmt.Sprint(size),
			PublishTime: time.Now(), Data: make([]byte, size), Attributes: map[string]string{"k": "v", "__k__": "v"},
			OrderingKey: "k", DeliveryAttempt: 1, Quarantined: inbox.ReasonData,
			Verified: inbox.Verified{Issuer: "i", IssuedAt: time.Now(), ExpiresAt: time.Now()},
		}
		if stored, err := in.Put(t.Context(), message); !stored || err != nil {
			t.Fatal(stored, err)
		}
	}
	written := map[string]map[string]bool{}
	for name, d := range m.docs {
		collection := strings.Split(name, "/")[5]
		if written[collection] == nil {
			written[collection] = map[string]bool{}
		}
		for field := range d.Fields {
			written[collection][field] = true
		}
	}
	if len(written) != 2 {
		t.Fatalf("documents in %v, want two collections", slices.Collect(maps.Keys(written)))
	}
	exempt, ttl := map[string]bool{}, map[string]bool{}
	for _, o := range readDeclared(t).FieldOverrides {
		if !written[o.CollectionGroup][o.FieldPath] {
			t.Errorf("%s.%s is declared and never written", o.CollectionGroup, o.FieldPath)
		}
		exempt[o.CollectionGroup+"."+o.FieldPath] = len(o.Indexes) == 0
		if o.TTL {
			ttl[o.CollectionGroup] = o.FieldPath == fieldExpireAt
		}
	}
	for collection, fields := range written {
		for field := range fields {
			// What people filter by has few values, which grow with nothing.
			few := collection == in.collection && (field == fieldSource || field == fieldSubscription)
			if few == exempt[collection+"."+field] {
				t.Errorf("%s.%s: exempt is %v, want %v", collection, field, few, !few)
			}
		}
		if !ttl[collection] {
			t.Errorf("%s has no TTL on %s", collection, fieldExpireAt)
		}
	}
}
