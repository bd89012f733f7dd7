package stack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestEmptiedFiles starts where something has emptied the databases.
func TestEmptiedFiles(t *testing.T) {
	t.Parallel()
	o := options(t)
	var log strings.Builder
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	for _, emptied := range []bool{false, true} {
		for _, name := range []string{inboxFile, pubSubFile, calendarFile} {
			if err := os.Truncate(filepath.Join(o.Data, name), 0); (err == nil) != emptied {
				t.Fatal(err)
			}
		}
		s, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for _, name := range []string{inboxFile, pubSubFile, calendarFile} {
			if said := strings.Contains(log.String(), name+" has 0 bytes"); said != emptied {
				t.Errorf("%s: told of is %v, want %v", name, said, emptied)
			}
		}
	}
}

// TestOldDataDirectory runs on a data directory that an earlier version wrote:
// testdata/v1.tgz with 1,000 messages. Its lists and page tokens stay.
func TestOldDataDirectory(t *testing.T) {
	t.Parallel()
	o := options(t)
	if out, err := exec.CommandContext(t.Context(), "tar", "-xzf", "testdata/v1.tgz", "-C", o.Data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var want struct {
		Messages   []struct{ ID string }
		PageTokens []struct {
			Token string
			After int
		}
	}
	b, err := os.ReadFile(filepath.Join(o.Data, "want.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	o.Data, o.TTL = filepath.Join(o.Data, "data"), 100*365*24*time.Hour
	var log strings.Builder
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	page := func(token string, size int) (ids []string, next string) {
		resp, err := http.Get(fmt.Sprintf("%s/messages?pageSize=%d&pageToken=%s", s.URL, size, token))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var list struct {
			Messages      []struct{ ID string }
			NextPageToken string
		}
		if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d, %v", resp.StatusCode, err)
		}
		for _, m := range list.Messages {
			ids = append(ids, m.ID)
		}
		return ids, list.NextPageToken
	}
	var all []string
	for token := ""; ; {
		ids, next := page(token, 300)
		all = append(all, ids...)
		if token = next; token == "" {
			break
		}
	}
	if len(all) != len(want.Messages) {
		t.Fatalf("%d messages are listed, want %d", len(all), len(want.Messages))
	}
	for i, m := range want.Messages {
		if all[i] != m.ID {
			t.Fatalf("message %d is %s, want %s", i, all[i], m.ID)
		}
	}
	for _, p := range want.PageTokens {
		if ids, _ := page(p.Token, 10); fmt.Sprint(ids) != fmt.Sprint(all[p.After:p.After+10]) {
			t.Errorf("the page after %d is %v", p.After, ids)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "upgrading 1000 messages from format 1") {
		t.Errorf("the log is:\n%s", log.String())
	}
	if _, err := os.Stat(filepath.Join(o.Data, "inbox.db.v1")); err != nil {
		t.Error(err)
	}
}

// readable prepares a file as git gives it to who checks out a repository.
func readable(name string) func(dir string) error {
	return func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600), os.Chmod(filepath.Join(dir, name), 0o644))
	}
}

// TestRefusedDataDirectory starts on what others may have prepared.
func TestRefusedDataDirectory(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(dir string) error
		want    string
	}{
		"writable":      {func(dir string) error { return os.Chmod(dir, 0o777) }, "can be written to by others"},
		"tokens_key":    {readable("tokens.key"), "delete it, and a new one is created"},
		"iap_key":       {readable("iap.key"), "delete it, and a new one is created"},
		"proxy_key":     {readable("proxy.key"), "delete it, and a new one is created"},
		"mns_log":       {func(dir string) error { return os.Symlink("../victim", filepath.Join(dir, "mns.log")) }, "symbolic link"},
		"inbox":         {func(dir string) error { return os.Symlink("../victim", filepath.Join(dir, "inbox.db")) }, "symbolic link"},
		"calendar":      {func(dir string) error { return os.Symlink("../victim", filepath.Join(dir, "calendar.db")) }, "symbolic link"},
		"google":        {func(dir string) error { return os.Symlink("../victim", filepath.Join(dir, "google-calendar.json")) }, "symbolic link"},
		"google_as_new": {func(dir string) error { return os.Symlink("../victim", filepath.Join(dir, "google-calendar.json.new")) }, "symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			victim := filepath.Join(o.Data, "victim")
			o.Data = filepath.Join(o.Data, "data")
			for _, err := range []error{os.WriteFile(victim, []byte("precious"), 0o600), os.Mkdir(o.Data, 0o700), test.prepare(o.Data)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			s, err := Start(t.Context(), o)
			if err == nil {
				err = s.Close()
				if name != "google_as_new" { // the stand-in writes when something changes
					t.Errorf("it started: %v", err)
				}
			} else if !strings.Contains(err.Error(), test.want) || test.want == "symbolic link" && strings.Contains(err.Error(), "damaged") {
				t.Errorf("Start = %v, want %q", err, test.want)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
				t.Errorf("another file has %q, %v", b, err)
			}
		})
	}
}

// TestMNSLog keeps the log of the run before, and a long one beside it.
func TestMNSLog(t *testing.T) {
	t.Parallel()
	o := options(t)
	path := filepath.Join(o.Data, MNSLog)
	run := func() {
		t.Helper()
		s, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	size := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return -1
		}
		return info.Size()
	}
	if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if run(); size(path) != 3 || size(path+".1") != -1 {
		t.Errorf("after a start: %d bytes, and %d beside it", size(path), size(path+".1"))
	}
	if err := os.Truncate(path, maxMNSLog+1); err != nil {
		t.Fatal(err)
	}
	if run(); size(path) != 0 || size(path+".1") != maxMNSLog+1 {
		t.Errorf("a long one: %d bytes, and %d beside it", size(path), size(path+".1"))
	}
}

// TestFullDisk says what to do when there is no room for a file of the start.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	err := dataError("/d", &fs.PathError{Op: "write", Path: "/d/local.json.1.part", Err: syscall.ENOSPC})
	if err == nil || !strings.Contains(err.Error(), "make some, and start again") || !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
}

// TestRepairOfAHealthyInbox says that nothing is damaged, and leaves the file as it is.
func TestRepairOfAHealthyInbox(t *testing.T) {
	t.Parallel()
	o := options(t)
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Data, inboxFile)
	before, err := os.Stat(path)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	o.Repair, o.Log = true, slog.New(slog.NewTextHandler(&log, nil))
	if s, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	_, kept := os.Lstat(path + ".damaged")
	if err = errors.Join(err, s.Close()); err != nil || !os.SameFile(before, after) || !errors.Is(kept, fs.ErrNotExist) {
		t.Errorf("%v; the file is another one, or a copy was kept: %v", err, kept)
	}
	if said := log.String(); !strings.Contains(said, "nothing is damaged") || strings.Contains(said, "repaired") {
		t.Errorf("the log: %s", said)
	}
}

// TestPublishToAFullDisk has nothing be written to Pub/Sub's file: who publishes is told at
// once, and why.
func TestPublishToAFullDisk(t *testing.T) {
	t.Parallel()
	o := options(t)
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := os.Rename(filepath.Join(o.Data, pubSubFile), filepath.Join(o.Data, "away")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	resp, err := http.PostForm(s.URL+"/messages", url.Values{"payload": {"hi"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(b), "cannot be written") || !strings.Contains(string(b), "no longer at its path") {
		t.Errorf("%d %s, %v", resp.StatusCode, b, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := s.Close(); !strings.Contains(log.String(), "no longer at its path") {
		t.Errorf("the log: %s, %v", log.String(), err)
	}
}
