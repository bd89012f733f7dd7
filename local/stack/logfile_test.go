package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestLogIsBounded writes a hundred times what a log may have, by several goroutines:
// it and the one before it hold whole lines, and the last ones.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.log")
	const most = 1000
	l, err := openLog(path, most)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 500 {
				if _, err := fmt.Fprintf(l, "%049d\n", i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".1"} {
		b, err := os.ReadFile(name)
		if err != nil || len(b) == 0 || len(b) > most || len(b)%50 != 0 || strings.Count(string(b), "\n") != len(b)/50 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if b, _ := os.ReadFile(path); !strings.HasSuffix(string(b), "499\n") {
		t.Errorf("the last line is not there: %q", b)
	}
	// A directory in the way of the one before loses lines, and nothing else.
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path+".1", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if l, err = openLog(path, most); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", most)
	if _, err := l.Write([]byte(line)); err == nil {
		t.Error("a line that has no room was written")
	}
	if err := os.RemoveAll(path + ".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte(line)); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != line {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
