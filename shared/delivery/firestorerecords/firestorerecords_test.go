package firestorerecords

import (
	"testing"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/recordstest"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	host := emulator.Firestore(t)
	recordstest.Run(t, func(t *testing.T) func() delivery.Records {
		c := firestoreinbox.Config{Project: emulator.Project(), Database: "(default)", Collection: "messages", EmulatorHost: host}
		return func() delivery.Records {
			r, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
			return r
		}
	})
}

func TestOpenRefusesACollectionThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, collection := range []string{"", "a/b", "__x__"} {
		if _, err := Open(t.Context(), firestoreinbox.Config{Project: "p", Database: "(default)", Collection: collection}); err == nil {
			t.Errorf("the collection %q is accepted", collection)
		}
	}
}
