package firestorestate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/testkit/emulator"
	"github.com/google/go-cmp/cmp"
)

// TestFieldsAreExempt stores documents with every field, and holds what
// firestore.indexes.json says of them against what the queries need.
func TestFieldsAreExempt(t *testing.T) {
	t.Parallel()
	s := open(t, emulator.Firestore(t), emulator.Project())
	defer s.Close()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.UpdateCalendar(ctx, "c", func(*calendar.Calendar) (*calendar.Calendar, error) {
		return &calendar.Calendar{ID: "c", Fence: 1}, nil
	}))
	must(s.UpdateChannel(ctx, "ch", func(*calendar.Channel) (*calendar.Channel, error) {
		return &calendar.Channel{ID: "ch", CalendarID: "c"}, nil
	}))
	must(s.Save(ctx, calendar.Lease{CalendarID: "c", Fence: 1}, []calendar.Event{
		{ID: "e", Master: "m", Expires: time.Now(), Pending: &calendar.Change{}},
	}))
	var got []string
	for name, ref := range map[string]*firestore.DocumentRef{
		"calendars":          s.calendar("c"),
		"calendars-channels": s.channels().Doc(name("ch")),
		"calendars-events":   s.events("c").Doc(name("e")),
	} {
		d, err := ref.Get(ctx)
		must(err)
		for field := range d.Data() {
			got = append(got, fmt.Sprintf("%s %s ttl=%v", name, field, field == fieldExpires))
		}
	}
	// What the queries compare needs its index; see Channels, Live, Exceptions
	// and Pending.
	queried := []string{
		"calendars-channels " + fieldCalendar + " ttl=false", "calendars-events " + fieldLive + " ttl=false",
		"calendars-events " + fieldMaster + " ttl=false", "calendars-events " + fieldOwed + " ttl=false",
	}
	got = slices.DeleteFunc(got, func(field string) bool { return slices.Contains(queried, field) })
	slices.Sort(got)

	b, err := os.ReadFile("firestore.indexes.json")
	must(err)
	var declared struct {
		Indexes        []any `json:"indexes"`
		FieldOverrides []struct {
			CollectionGroup string `json:"collectionGroup"`
			FieldPath       string `json:"fieldPath"`
			TTL             bool   `json:"ttl"`
			Indexes         []any  `json:"indexes"`
		} `json:"fieldOverrides"`
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	must(decoder.Decode(&declared))
	want := map[string]bool{}
	for _, o := range declared.FieldOverrides {
		if len(o.Indexes) > 0 {
			t.Errorf("%s.%s is not exempt", o.CollectionGroup, o.FieldPath)
		}
		want[fmt.Sprintf("%s %s ttl=%v", o.CollectionGroup, o.FieldPath, o.TTL)] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), got); diff != "" {
		t.Errorf("(-declared +written and in no query):\n%s", diff)
	}
}
