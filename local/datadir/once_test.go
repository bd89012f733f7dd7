package datadir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"example.com/pushinbox/local/datadir"
)

// TestReadOrCreate has many create one file at a time: all get the same content.
func TestReadOrCreate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	var all sync.Map
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			b, err := datadir.ReadOrCreate(path, func() ([]byte, error) { return fmt.Appendf(nil, "key %d", i), nil })
			if err != nil {
				t.Error(err)
			}
			all.Store(string(b), nil)
		})
	}
	group.Wait()
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for got := range all.Range {
		if got != string(kept) {
			t.Errorf("somebody got %q, the file has %q", got, kept)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if b, err := datadir.ReadOrCreate(path, func() ([]byte, error) { return []byte("again"), nil }); err != nil || string(b) != "again" {
		t.Errorf("after a power failure: %q, %v", b, err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := datadir.ReadOrCreate(path, nil); err == nil {
		t.Error("a file of 1 MiB was read")
	}
}
