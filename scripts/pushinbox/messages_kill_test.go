package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/inboxclient/replay"
	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
)

// killer stands between a command and a pushinbox local, and kills the command at a
// request that it is told: before the request goes on, or after its answer came and
// before the command gets it.
type killer struct {
	url string

	mu      sync.Mutex
	process *os.Process
	counts  func(*http.Request) bool
	at      int // requests until the kill; negative: none
	after   bool
	peak    int // of the process's memory, in bytes
}

func newKiller(t *testing.T, base string, counts func(*http.Request) bool) *killer {
	t.Helper()
	k := &killer{counts: counts, at: -1}
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: log.New(io.Discard, "", 0), // who was killed does not read on
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isLast := k.count(r)
		if isLast && !k.after {
			k.kill()
			panic(http.ErrAbortHandler)
		}
		if !isLast {
			proxy.ServeHTTP(w, r)
			return
		}
		answered := httptest.NewRecorder()
		proxy.ServeHTTP(answered, r.WithContext(context.WithoutCancel(r.Context())))
		k.kill()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	k.url = server.URL
	return k
}

// count reports whether the command is killed at this request.
func (k *killer) count(r *http.Request) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.process != nil {
		if n, err := measure.PeakMemory(k.process.Pid); err == nil {
			k.peak = max(k.peak, n)
		}
	}
	if !k.counts(r) || k.at < 0 {
		return false
	}
	k.at--
	return k.at < 0
}

func (k *killer) kill() {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.process.Kill()
	_, _ = k.process.Wait()
}

// run runs a command through the killer, which kills it at its request n (none when
// n is negative), and returns what it printed, its exit code (-1 when it was killed).
func (k *killer) run(t *testing.T, n int, after bool, args ...string) (out, errs string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, append([]string{"messages"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "PUSHINBOX_URL="+k.url)
	k.mu.Lock()
	err := cmd.Start()
	k.process, k.at, k.after = cmd.Process, n, after
	k.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the code tells; the killer may have waited before
	if code = -1; cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return stdout.String(), stderr.String(), code
}

// fillMany stores n messages, one of which has so many bytes.
func fillMany(t *testing.T, data string, n, largest int) {
	t.Helper()
	in, err := boltinbox.Open(filepath.Join(data, "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	random := measure.Rand()
	content := rand.NewChaCha8([32]byte{byte(measure.Seed())})
	var wait sync.WaitGroup
	next := make(chan *inbox.Message)
	for range 64 {
		wait.Go(func() {
			for m := range next {
				if _, err := in.Put(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		size := random.IntN(300)
		switch {
		case i == n/2:
			size = largest
		case i%200 == 0:
			size = 20_000
		}
		data := make([]byte, size)
		_, _ = content.Read(data) // never fails
		m := &inbox.Message{Source: "pubsub", Subscription: "projects/p/subscriptions/s", MessageID: fmt.Sprint(i), Data: data, Attributes: map[string]string{"n": fmt.Sprint(i)}}
		if i%10 == 0 {
			m.OrderingKey = fmt.Sprint(i % 7)
		}
		next <- m
	}
	close(next)
	wait.Wait()
}

// TestKilledExport kills exports, and compares what they end with to one that was
// not killed.
func TestKilledExport(t *testing.T) {
	t.Parallel()
	n, kills := measure.Size(3_000, 100_000), measure.Size(3, 5)
	data, dir := t.TempDir(), t.TempDir()
	fillMany(t, data, n, inbox.MaxDataSize)
	r := start(t, data)
	once := filepath.Join(dir, "once.ndjson")
	k := newKiller(t, r.base, func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/messages") })
	began := time.Now()
	if _, errs, code := k.run(t, -1, false, "export", "--output", once); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	t.Logf("%d messages in %v, at most %d MiB", n, time.Since(began).Round(time.Millisecond), k.peak>>20)
	want, err := os.ReadFile(once)
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(want, []byte("\n")); lines != n {
		t.Errorf("%d lines of %d messages", lines, n)
	}
	checkLines(t, want)
	requests := n/inbox.MaxPageSize + n/200 // the large ones are got one by one
	random := measure.Rand()
	output, state := filepath.Join(dir, "killed.ndjson"), filepath.Join(dir, "state")
	for i := range kills + 1 {
		at := random.IntN(requests / (kills + 1))
		if i == kills {
			at = -1
		}
		_, errs, code := k.run(t, at, random.IntN(2) == 0, "export", "--output", output, "--resume", state)
		if at >= 0 && code != -1 || at < 0 && code != 0 {
			t.Fatalf("run %d: exit %d, %s", i, code, errs)
		}
	}
	got, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("killed %d times: %d bytes, and %d at once", kills, len(got), len(want))
	}
	if peak := k.peak; peak > 100<<20 {
		t.Errorf("the export took %d MiB", peak>>20)
	}
	if _, errs, code := k.run(t, -1, false, "export", "--output", output, "--resume", state); code != 0 || !strings.Contains(errs, "is complete") {
		t.Errorf("once more: exit %d, %s", code, errs)
	}
	if _, errs, code := k.run(t, -1, false, "export", "--output", output, "--resume", state, "--since", "1h"); code != exitUsage || !strings.Contains(errs, "another export") {
		t.Errorf("with another filter: exit %d, %s", code, errs)
	}
	for _, spoil := range []func() error{func() error { return os.Truncate(output, 100) }, func() error { return os.Remove(output) }} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := k.run(t, -1, false, "export", "--output", output, "--resume", state); code != exitFailed || !strings.Contains(errs, "delete both to export again") {
			t.Errorf("without its output: exit %d, %s", code, errs)
		}
	}
	files := filepath.Join(dir, "files")
	if _, errs, code := k.run(t, -1, false, "export", "--directory", files, "--attribute", "n=7"); code != 0 {
		t.Fatalf("one file a message: exit %d, %s", code, errs)
	}
	line, err := os.ReadFile(filepath.Join(files, inbox.ID("pubsub", "projects/p/subscriptions/s", "7")+".json"))
	if err != nil || !bytes.Contains(want, line) {
		t.Errorf("one file a message: %q, %v", line, err)
	}
}

// checkLines checks that an export has every message whole.
func checkLines(t *testing.T, export []byte) {
	t.Helper()
	var last time.Time
	for line := range bytes.Lines(export) {
		var m inbox.Message
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%.100q: %v", line, err)
		}
		if len(m.Data) != m.Size || m.Truncated || m.ReceivedAt.Before(last) {
			t.Fatalf("%s: %d bytes of %d, at %v after %v", m.MessageID, len(m.Data), m.Size, m.ReceivedAt, last)
		}
		last = m.ReceivedAt
	}
}

// TestKilledReplay kills replays into the inbox that they are of, and looks for every
// message in it: once, or named as doubtful.
func TestKilledReplay(t *testing.T) {
	t.Parallel()
	n, kills := measure.Size(300, 10_000), measure.Size(2, 10)
	data := t.TempDir()
	fillMany(t, data, n, 1<<20)
	r := start(t, data, "--quiet")
	k := newKiller(t, r.base, func(r *http.Request) bool { return r.Method == http.MethodPost })
	record := filepath.Join(t.TempDir(), "record")
	random := measure.Rand()
	var out string
	for i := range kills + 1 {
		at := random.IntN(n / (kills + 1))
		if i == kills {
			at = -1
		}
		args := []string{"replay", "--resume", record, "--format", "json"}
		if i == 0 {
			args = append(args, "--since", "1h", "--rate", "0", "--set", "again=yes")
		} else {
			args = append(args, "--rate", "0")
		}
		began := time.Now()
		var errs string
		var code int
		out, errs, code = k.run(t, at, i > 0, args...) // the first kill loses a request
		if at >= 0 && code != -1 || at < 0 && code == exitUsage {
			t.Fatalf("run %d: exit %d, %s", i, code, errs)
		}
		t.Logf("run %d took %v", i, time.Since(began).Round(time.Millisecond))
	}
	var o replay.Outcome
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	doubtful := make(map[string]bool)
	for _, id := range o.Doubtful {
		doubtful[id] = true
	}
	if len(o.Refused) > 0 || o.Sent+len(doubtful) != n || len(doubtful) > kills*replay.AtOnce {
		t.Errorf("%d sent, %d doubtful, refused %v", o.Sent, len(doubtful), o.Refused)
	}
	// The last ones are still on their way.
	copies := make(map[string]int)
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, errs, code := r.command(t, "", "list", "--attribute", "again=yes", "--attribute", "replay-run="+o.Run, "--limit", "0", "--format", "json")
		if code != 0 {
			t.Fatal(errs)
		}
		clear(copies)
		for line := range strings.Lines(out) {
			var m inbox.Message
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			copies[m.Attributes["replay-of"]]++
		}
		if len(copies) >= o.Sent || time.Now().After(deadline) {
			break
		}
	}
	for i := range n {
		id := inbox.ID("pubsub", "projects/p/subscriptions/s", fmt.Sprint(i))
		if got := copies[id]; got > 1 || got == 0 && !doubtful[id] {
			t.Errorf("message %d arrived %d times; doubtful: %v", i, got, doubtful[id])
		}
	}
	if _, errs, code := k.run(t, -1, false, "replay", "--resume", record); code == exitUsage || !strings.Contains(errs, "is complete") {
		t.Errorf("once more: exit %d, %s", code, errs)
	}
	if _, errs, code := k.run(t, -1, false, "replay", "--resume", record, "--set", "again=no"); code != exitUsage || !strings.Contains(errs, "different --set") {
		t.Errorf("with another --set: exit %d, %s", code, errs)
	}
}
