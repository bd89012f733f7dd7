package datadir_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"example.com/pushinbox/local/datadir"
)

// TestReplace has several replace a file while others read it: they see a whole one, and
// nothing else is left.
func TestReplace(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		replace func(string, []byte) error
		mode    fs.FileMode
	}{
		"replace":  {datadir.Replace, 0o600},
		"readable": {datadir.ReplaceReadable, 0o644},
		"durably":  {datadir.ReplaceDurably, 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "file")
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					if err := tc.replace(path, bytes.Repeat([]byte{byte('a' + i)}, 10_000)); err != nil {
						t.Error(err)
					}
					if b, err := os.ReadFile(path); err != nil || len(b) != 10_000 || bytes.Count(b, b[:1]) != len(b) {
						t.Errorf("%d bytes are read, %v", len(b), err)
					}
				})
			}
			all.Wait()
			entries, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(entries) != 1 {
				t.Fatalf("left are %v, %v", entries, err)
			}
			if info, err := entries[0].Info(); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != tc.mode {
				t.Errorf("the file has mode %v, %v", info.Mode(), err)
			}
			// A directory cannot be replaced.
			if err := tc.replace(filepath.Dir(path), nil); err == nil {
				t.Error("a directory was replaced")
			}
			if parts, err := filepath.Glob(filepath.Dir(path) + "*" + datadir.PartSuffix); err != nil || len(parts) != 0 {
				t.Errorf("left are %v, %v", parts, err)
			}
		})
	}
}
