//go:build unix

package export

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestReplaceFileFollowsNoLink has somebody place a link where a file is written first, in
// a directory that both can write to.
func TestReplaceFileFollowsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name, theirs := filepath.Join(dir, "export.state"), filepath.Join(dir, "of-somebody-else")
	for range 2 { // and what a kill left is no matter
		if err := os.Symlink(theirs, filepath.Join(dir, ".export.state.part")); err != nil {
			t.Fatal(err)
		}
		if err := replaceFile(name, []byte("content")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); string(b) != "content" {
			t.Errorf("%q, %v", b, err)
		}
		if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%v, %v", info, err)
		}
	}
	if _, err := os.Lstat(theirs); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("their file: %v", err)
	}
}
