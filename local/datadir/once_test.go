package datadir_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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

// TestKeyOfOthers reads a key that others may know: one that came with a repository has
// the mode that git gives to every file.
func TestKeyOfOthers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("files have no modes")
	}
	create := func() ([]byte, error) { return []byte("new"), nil }
	for mode, content := range map[os.FileMode]string{0o644: "theirs", 0o640: "theirs", 0o604: "theirs", 0o620: "theirs", 0o666: "", 0o600: "own", 0o400: "own"} {
		path := filepath.Join(t.TempDir(), "tokens.key")
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		b, err := datadir.ReadOrCreate(path, create)
		switch {
		case content != "theirs" && (err != nil || string(b) != cmp.Or(content, "new")):
			t.Errorf("%o: %q, %v", mode, b, err)
		case content == "theirs" && (err == nil || !strings.Contains(err.Error(), path+" can be read or changed by others") || !strings.Contains(err.Error(), "delete it")):
			t.Errorf("%o: %q, %v, want an error that says what to do", mode, b, err)
		}
		if err == nil {
			continue
		}
		if err := os.Remove(path); err != nil { // as it says
			t.Fatal(err)
		}
		for range 2 {
			if b, err := datadir.ReadOrCreate(path, create); err != nil || string(b) != "new" {
				t.Errorf("%o: after it was deleted: %q, %v", mode, b, err)
			}
		}
	}
}
