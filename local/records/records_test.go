package records

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

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

// TestOpenTakesLeftoversAway has what a killed Put left, and what one is writing now.
func TestOpenTakesLeftoversAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const name = "projects/p/subscriptions/s"
	if err := Open(dir).Put(t.Context(), &delivery.Operation{Kind: delivery.Pause, Subscription: name}); err != nil {
		t.Fatal(err)
	}
	for file, age := range map[string]time.Duration{"1.part": time.Minute, "2.part": 0} {
		path := filepath.Join(dir, "operations", file)
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if at := time.Now().Add(-age); os.Chtimes(path, at, at) != nil {
			t.Fatal("its time cannot be set")
		}
	}
	o, err := Open(dir).Get(t.Context(), name)
	if err != nil || o == nil {
		t.Errorf("the record is %+v, %v", o, err)
	}
	parts, err := filepath.Glob(filepath.Join(dir, "operations", "*.part"))
	if err != nil || len(parts) != 1 || filepath.Base(parts[0]) != "2.part" {
		t.Errorf("left are %v, %v", parts, err)
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
