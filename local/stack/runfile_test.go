package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestFind finds a run by its data directory and from a directory below, and no
// more once it has ended.
func TestFind(t *testing.T) {
	o := options(t)
	top := t.TempDir()
	o.Data = filepath.Join(top, DefaultData)
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Data, runFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want mode 0600", info.Mode(), err)
	}
	below := filepath.Join(top, "a", "b")
	// One of a run that has no local.json is passed by.
	if err := os.MkdirAll(filepath.Join(top, "a", DefaultData), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(below, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(below)
	for _, data := range []string{o.Data, ""} {
		r, err := Find(t.Context(), data)
		if err != nil || !cmp.Equal(r.Addresses, s.Addresses()) || r.PID != os.Getpid() || time.Since(r.StartedAt) > time.Minute {
			t.Errorf("by %q: %+v, %v; want %+v", data, r, err, s.Addresses())
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a clean end: %v", err)
	}
	for _, data := range []string{o.Data, ""} {
		if _, err := Find(t.Context(), data); !errors.Is(err, ErrNotFound) {
			t.Errorf("by %q after the end: %v", data, err)
		}
	}
}

// TestFindRefuses changes one thing of a good local.json, or of where it is.
func TestFindRefuses(t *testing.T) {
	t.Parallel()
	o := options(t)
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	another := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(another.Close)
	mute := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(mute.Close)
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(o.Data, runFile))
	if err != nil {
		t.Fatal(err)
	}
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = zombie.Wait() })
	suspended := exec.Command("sh", "-c", "kill -STOP $$")
	if err := suspended.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = suspended.Process.Kill(); _ = suspended.Wait() })
	for runtime.GOOS == "linux" && (processState(suspended.Process.Pid) != "T" || processState(zombie.Process.Pid) != "Z") {
		if t.Context().Err() != nil {
			t.Fatal("the processes are not stopped")
		}
		runtime.Gosched()
	}
	onLinux := func(there, elsewhere string) string {
		if runtime.GOOS == "linux" {
			return there
		}
		return elsewhere
	}
	for name, c := range map[string]struct {
		change func(*Run)
		spoil  func(t *testing.T, path string) error
		want   string
		stale  bool
	}{
		"process_gone":    {func(r *Run) { r.PID, r.URL = ended.Process.Pid, "http://127.0.0.1:1" }, nil, "that has ended", true},
		"not_reaped":      {func(r *Run) { r.PID, r.URL = zombie.Process.Pid, "http://127.0.0.1:1" }, nil, onLinux("that has ended", "does not answer"), true},
		"suspended":       {func(r *Run) { r.PID, r.URL = suspended.Process.Pid, mute.URL }, nil, onLinux(fmt.Sprintf("kill -CONT %d", suspended.Process.Pid), "does not answer"), runtime.GOOS != "linux"},
		"nothing_answers": {func(r *Run) { r.URL = "http://127.0.0.1:1" }, nil, "does not answer", true},
		"no_answer":       {func(r *Run) { r.URL = mute.URL }, nil, "does not answer", true},
		"another_program": {func(r *Run) { r.URL = another.URL }, nil, "another program answers there", true},
		"another_run":     {func(r *Run) { r.StartedAt = r.StartedAt.Add(-time.Second) }, nil, "is there, started", true},
		"another_machine": {func(r *Run) { r.URL = strings.Replace(s.URL, "127.0.0.1", "0.0.0.0", 1) }, nil, "not this machine", true},
		"no_port_of_http": {func(r *Run) { r.URL = "https" + strings.TrimPrefix(s.URL, "http") }, nil, "not this machine", true},
		"no_address":      {func(r *Run) { r.URL = "" }, nil, "delete it", true},
		"no_json":         {nil, func(_ *testing.T, path string) error { return os.WriteFile(path, []byte("x"), 0o600) }, "delete it", true},
		"large":           {nil, func(_ *testing.T, path string) error { return os.WriteFile(path, make([]byte, maxRunFile+1), 0o600) }, "is over", false},
		"others_write":    {nil, func(_ *testing.T, path string) error { return os.Chmod(path, 0o666) }, "can be written to by others", false},
		"open_directory":  {nil, func(_ *testing.T, path string) error { return os.Chmod(filepath.Dir(path), 0o777) }, "can be written to by others", false},
		"link": {nil, func(_ *testing.T, path string) error {
			return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		}, "symbolic link", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := new(Run)
			if err := json.Unmarshal(b, r); err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				c.change(r)
			}
			content, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), runFile)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				if err := c.spoil(t, path); err != nil {
					t.Fatal(err)
				}
			}
			_, err = Find(t.Context(), filepath.Dir(path))
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrStale) != c.stale || !strings.Contains(err.Error(), filepath.Dir(path)) {
				t.Errorf("the error is %v; want %q, stale %t", err, c.want, c.stale)
			}
			if err != nil && strings.Contains(err.Error(), "does not answer") && strings.Contains(err.Error(), "delete") {
				t.Errorf("the file of a process that is there is not to be deleted: %v", err)
			}
		})
	}
	t.Run("files_elsewhere", func(t *testing.T) {
		r := new(Run)
		if err := json.Unmarshal(b, r); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		r.Data, r.KeyFile = "/of/somebody", "/of/somebody/secret"
		content, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, runFile), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := Find(t.Context(), dir); err != nil || r.Data != dir || r.KeyFile != filepath.Join(dir, "secret") {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("unspoiled", func(t *testing.T) {
		if _, err := Find(t.Context(), o.Data); err != nil {
			t.Error(err)
		}
	})
}
