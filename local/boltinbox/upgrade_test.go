package boltinbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

func init() {
	for _, step := range []string{"write", "copied", "keep", "rename", "sync", "index", "indexed"} {
		beforeOpen["end_before_"+step] = func() {
			beforeStep = func(at string) {
				if at == step {
					os.Exit(3)
				}
			}
		}
	}
}

// wanted is what the version that wrote testdata said about its messages.
type wanted struct {
	WatchToken string
	Feed       struct {
		Before998 string
		Events    []string
	}
	PageTokens []struct {
		Token string
		After int
	}
	Messages []struct {
		ID, Source, MessageID string
		Size                  int
	}
}

// version1 returns the path of an inbox that format 1's last version wrote, with
// 1,000 messages.
func version1(t *testing.T) (path string, want wanted) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-xzf", "../stack/testdata/v1.tgz", "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := readFile(t, filepath.Join(dir, "want.json"))
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data", "inbox.db"), want
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// buffer is a log that tests read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) log() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// TestUpgrade opens a file of format 1: the messages, their order and all tokens
// stay, and so does the file.
func TestUpgrade(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	t.Parallel()
	path, want := version1(t)
	before := readFile(t, path)
	var log buffer
	in := mustOpen(t, path, &Options{Log: log.log()})
	for _, says := range []string{"upgrading 1000 messages from format 1 to 3", "the old file is kept as " + path + ".v1"} {
		if !strings.Contains(log.String(), says) {
			t.Errorf("the log does not say %q:\n%s", says, log.String())
		}
	}
	if !bytes.Equal(readFile(t, path+".v1"), before) {
		t.Error("the old file is not kept as it was")
	}
	sameAs(t, in, want)
	put(t, in, message("new", 100_000))
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	log = buffer{}
	in = mustOpen(t, path, &Options{Log: log.log()})
	if log.String() != "" {
		t.Errorf("opened again, the log says:\n%s", log.String())
	}
	if n := len(list(t, in)); n != 1001 {
		t.Errorf("%d messages are listed, want 1001", n)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
}

// sameAs compares all that an inbox returns with what the earlier version did.
func sameAs(t *testing.T, in *Inbox, want wanted) {
	t.Helper()
	page := func(token string) (got []string) {
		for q := (inbox.Query{PageToken: token, PageSize: inbox.MaxPageSize}); ; {
			page, err := in.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range page.Messages() {
				got = append(got, fmt.Sprint(m.ID, m.Source, m.MessageID, m.Size))
			}
			if q.PageToken = page.NextPageToken; q.PageToken == "" {
				return got
			}
		}
	}
	all := make([]string, len(want.Messages))
	for i, m := range want.Messages {
		all[i] = fmt.Sprint(m.ID, m.Source, m.MessageID, m.Size)
		if got, err := in.Get(t.Context(), m.ID); err != nil || len(got.Data) != m.Size || got.Truncated {
			t.Errorf("Get of message %d: %v", i, err)
		}
	}
	if diff := cmp.Diff(all, page("")); diff != "" {
		t.Errorf("the list (-want +got):\n%s", diff)
	}
	for _, p := range want.PageTokens {
		if diff := cmp.Diff(all[p.After:], page(p.Token)); diff != "" {
			t.Errorf("the page after %d (-want +got):\n%s", p.After, diff)
		}
	}
	if first, err := in.List(t.Context(), inbox.Query{}); err != nil || bare(t, first.WatchToken) != want.WatchToken {
		t.Errorf("the token of the feed is %q, %v, want the position of %q", first.WatchToken, err, want.WatchToken)
	}
	tokens := []string{want.Feed.Before998}
	for e, err := range in.Watch(t.Context(), inbox.Query{PageToken: want.Feed.Before998}) {
		if err != nil {
			t.Fatal(err)
		}
		if tokens = append(tokens, bare(t, e.Token)); len(tokens) == len(want.Feed.Events) {
			break
		}
	}
	if diff := cmp.Diff(want.Feed.Events, tokens); diff != "" {
		t.Errorf("the feed (-want +got):\n%s", diff)
	}
}

// bare returns a token's position as tokens were before they had a filter.
func bare(t *testing.T, token string) string {
	t.Helper()
	p, err := inbox.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return p.Token()
}

// TestUpgradeInterrupted ends the process before each step of an upgrade: the next
// one does it again, and keeps one copy of the old file.
func TestUpgradeInterrupted(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	t.Parallel()
	for _, step := range []string{"write", "copied", "keep", "rename", "sync"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			path, want := version1(t)
			before := readFile(t, path)
			for range 2 {
				endsBefore(t, path, step)
				if step == "sync" { // the new file is in its place
					break
				}
			}
			in := mustOpen(t, path, nil)
			sameAs(t, in, want)
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			found, err := filepath.Glob(path + "*")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{path, path + ".v1"}, found); diff != "" {
				t.Errorf("the files (-want +got):\n%s", diff)
			}
			if !bytes.Equal(readFile(t, path+".v1"), before) {
				t.Error("the old file is not kept as it was")
			}
		})
	}
}

// endsBefore opens an inbox in a process that ends before a step.
func endsBefore(t *testing.T, path, step string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childPath+"="+path, childTask+"=end_before_"+step)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("the child: %v\n%s", err, out)
	}
}

// TestLaterVersion refuses a file of a later version by name, and leaves it alone.
func TestLaterVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	in := mustOpen(t, path, nil)
	put(t, in, message("m", 10))
	err := in.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketFormat).Put(keyVersion, []byte("12")) })
	if err := errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	before := readFile(t, path)
	_, err = Open(path, nil)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), `format "12"`) || !strings.Contains(err.Error(), "reads up to "+version) {
		t.Errorf("Open = %v, want an error that names the path and both formats", err)
	}
	if !bytes.Equal(readFile(t, path), before) {
		t.Error("the file was changed")
	}
}
