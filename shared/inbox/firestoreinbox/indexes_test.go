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
	"example.com/pushinbox/testkit/measure"

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

// queries returns every query for messages that this package can send, made by the
// functions that make what is sent, for each combination of conditions.
func queries(in *Inbox) []*pb.StructuredQuery {
	var all []*pb.StructuredQuery
	conditions := []func(q *inbox.Query){
		func(q *inbox.Query) { q.Source = "s" },
		func(q *inbox.Query) { q.Source = "\xff" },
		func(q *inbox.Query) { q.Subscription = "p/s" },
		func(q *inbox.Query) { q.Subscription = "short" },
		func(q *inbox.Query) { q.MessageID = "1" },
		func(q *inbox.Query) { q.OrderingKey = "k" },
		func(q *inbox.Query) { q.Since, q.Until = time.Now(), time.Now() },
		func(q *inbox.Query) { q.Attributes = map[string]string{inbox.AttributeReplayOf: "1", "other": "v"} },
		func(q *inbox.Query) { q.Attributes = map[string]string{"other": "v"} },
		func(q *inbox.Query) { q.Text = "t" },
		func(q *inbox.Query) { q.Quarantined = true },
		func(q *inbox.Query) { q.Ascending = true },
	}
	for set := range 1 << len(conditions) {
		var q inbox.Query
		for i, add := range conditions {
			if set>>i&1 == 1 {
				add(&q)
			}
		}
		for _, names := range [][]string{nil, {}, {"p/short"}, {"p/short", "q/short"}} {
			use, _ := in.choose(&q, names)
			all = append(all,
				in.listQuery(&q, use, nil, 50),
				in.listQuery(&q, use, &inbox.Position{ReceivedAt: time.Now(), ID: inbox.ID("s", "s", "1")}, 50),
				in.listQuery(&q, nil, &inbox.Position{ReceivedAt: time.Now()}, 50),
				in.windowQuery(use, time.Now(), time.Time{}),
				in.windowQuery(nil, time.Now(), time.Now()))
		}
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
		case pb.StructuredQuery_FieldFilter_GREATER_THAN, pb.StructuredQuery_FieldFilter_GREATER_THAN_OR_EQUAL,
			pb.StructuredQuery_FieldFilter_LESS_THAN, pb.StructuredQuery_FieldFilter_LESS_THAN_OR_EQUAL:
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

// TestIndexesAreDeclared has every query answered by exactly one declared index, and
// every declared index answer a query.
func TestIndexesAreDeclared(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	t.Parallel()
	in := open(t, "127.0.0.1:1", "p")
	defer in.Close()
	needed := map[string]bool{}
	for _, q := range queries(in) {
		needed[wants(t, q)] = true
	}
	have := map[string]int{}
	for _, index := range readDeclared(t).Indexes {
		if index.QueryScope != "COLLECTION" {
			t.Errorf("index %+v has another scope than the queries", index)
		}
		last := index.Fields[len(index.Fields)-1]
		var equal []string
		for _, f := range index.Fields[:len(index.Fields)-1] {
			// What follows the shard may grow. What is before it has few values.
			few := []string{fieldShard, fieldSource, fieldSubscription, fieldIsQuarantined}
			if !slices.Contains(equal, fieldShard) && !slices.Contains(few, f.FieldPath) {
				t.Errorf("index %+v has the values of %s, which may only grow, at one end", index, f.FieldPath)
			}
			equal = append(equal, f.FieldPath)
		}
		slices.Sort(equal)
		// The document's name follows in the direction of the last field.
		have[index.CollectionGroup+": "+strings.Join(append(equal, last.FieldPath+" "+last.Order, "__name__ "+last.Order), ", ")]++
	}
	for index := range needed {
		if have[index] != 1 {
			t.Errorf("a query needs the index %q, which is declared %d times", index, have[index])
		}
	}
	for index := range have {
		if !needed[index] {
			t.Errorf("no query needs the index %q, which every write pays for", index)
		}
	}
}

// TestAttributeIndexes has the index of each attribute of INBOX_SEARCH_ATTRIBUTES,
// which Terraform creates, in the form of the declared one of replay-of.
func TestAttributeIndexes(t *testing.T) {
	t.Parallel()
	c := config("127.0.0.1:1", "p")
	for name, path := range map[string]string{
		"tenant": "attributes.tenant", "_x9": "attributes._x9", "9x": "attributes.`9x`", "ce-type": "attributes.`ce-type`",
		"a.b": "attributes.`a.b`", "q`\\": "attributes.`q\\`\\\\`", "ключ": "attributes.`ключ`",
	} {
		c.SearchAttributes = []string{name}
		in, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for _, ascending := range []bool{false, true} {
			ofReplay := inbox.Query{Attributes: map[string]string{inbox.AttributeReplayOf: "v"}, Ascending: ascending}
			ofName := inbox.Query{Attributes: map[string]string{name: "v"}, Ascending: ascending}
			use, isExact := in.choose(&ofName, nil)
			declared, _ := in.choose(&ofReplay, nil)
			got, want := wants(t, in.listQuery(&ofName, use, nil, 1)), wants(t, in.listQuery(&ofReplay, declared, nil, 1))
			if want := strings.ReplaceAll(want, "attributes.`replay-of`", path); got != want || !isExact {
				t.Errorf("a query for %q needs the index %q, want %q", name, got, want)
			}
		}
		in.Close()
	}
}

// TestChoice has the most selective condition answered by an index, and the others
// left over.
func TestChoice(t *testing.T) {
	t.Parallel()
	c := config("127.0.0.1:1", "p")
	c.SearchAttributes = []string{"tenant"}
	in, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	long := strings.Repeat("x", maxIndexed+1)
	for name, test := range map[string]struct {
		q     inbox.Query
		names []string
		path  string
		exact bool
	}{
		"nothing":            {inbox.Query{}, nil, "", true},
		"time":               {inbox.Query{Since: time.Now(), Until: time.Now()}, nil, "", true},
		"source":             {inbox.Query{Source: "s"}, nil, "source", true},
		"full_name":          {inbox.Query{Source: "s", Subscription: "p/s"}, nil, "subscription", false},
		"short_name_unknown": {inbox.Query{Source: "s", Subscription: "s"}, nil, "source", false},
		"short_name":         {inbox.Query{Subscription: "s"}, []string{"p/s"}, "subscription", true},
		"short_name_of_two":  {inbox.Query{Subscription: "s"}, []string{"p/s", "q/s"}, "", false},
		"short_name_of_none": {inbox.Query{Subscription: "s"}, []string{}, "subscription", true},
		"quarantined":        {inbox.Query{Quarantined: true, Subscription: "p/s"}, nil, "quarantined.is", false},
		"attribute":          {inbox.Query{Quarantined: true, Attributes: map[string]string{"tenant": "1"}}, nil, "attributes.tenant", false},
		"attribute_alone":    {inbox.Query{Attributes: map[string]string{"tenant": ""}}, nil, "attributes.tenant", true},
		"two_attributes":     {inbox.Query{Attributes: map[string]string{"a": "1", "tenant": "1"}}, nil, "attributes.tenant", false},
		"undeclared":         {inbox.Query{Attributes: map[string]string{"a": "1"}}, nil, "", false},
		"long_value":         {inbox.Query{Attributes: map[string]string{"tenant": long}}, nil, "", false},
		"ordering_key":       {inbox.Query{OrderingKey: "k", Attributes: map[string]string{"tenant": "1"}}, nil, "orderingKey", false},
		"message_id":         {inbox.Query{OrderingKey: "k", MessageID: "1", Source: "s"}, nil, "messageId", false},
		"long_message_id":    {inbox.Query{MessageID: long, Source: "s"}, nil, "source", false},
		"text":               {inbox.Query{Text: "t"}, nil, "", false},
	} {
		use, isExact := in.choose(&test.q, test.names)
		if path := use.GetFieldFilter().GetField().GetFieldPath(); path != test.path || isExact != test.exact {
			t.Errorf("%s: the index of %q, exact %v; want %q, %v", name, path, isExact, test.path, test.exact)
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
