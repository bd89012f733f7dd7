package records

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/testkit/recordstest"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	recordstest.Run(t, func(t *testing.T) func() delivery.Records {
		dir := t.TempDir()
		return func() delivery.Records { return Open(dir) }
	})
}

// TestFiles holds that nobody else reads a record, and that nothing else is left.
func TestFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const name = "projects/p/subscriptions/s"
	for range 2 {
		if err := Open(dir).Put(t.Context(), &delivery.Operation{Kind: delivery.Pause, Subscription: name}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "operations"))
	if err != nil || len(entries) != 1 || entries[0].Name() != delivery.RecordID(name)+".json" {
		t.Fatal(entries, err)
	}
	info, err := entries[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the record has mode %v", info.Mode())
	}
}

func TestGetRefusesWhatIsNoRecord(t *testing.T) {
	t.Parallel()
	r := Open(t.TempDir())
	const name = "projects/p/subscriptions/s"
	if err := r.Put(t.Context(), &delivery.Operation{Subscription: name}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err := r.Get(t.Context(), name); err == nil {
		t.Errorf("half a record is read as %+v", o)
	}
}
