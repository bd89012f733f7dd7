package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
)

// TestBannerTellsTheSettingsInForce compares with README too, which shows a run
// without flags.
func TestBannerTellsTheSettingsInForce(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	const defaults = "  pushes   ack deadline 60s, retries after 10s to 10m, dead letters after 100 attempts, ordering off"
	if got := start(t, t.TempDir()).pushes; got != defaults || !strings.Contains(string(readme), "\n"+defaults+"\n") {
		t.Errorf("without flags: %q, which README must show", got)
	}
	got := start(t, t.TempDir(), "--ack-deadline=90s", "--retry-backoff=0s,1m30s", "--max-attempts=5", "--ordering").pushes
	if want := "  pushes   ack deadline 90s, retries after 0s to 1m30s, dead letters after 5 attempts, ordering on"; got != want {
		t.Errorf("with flags: %q, want %q", got, want)
	}
}

// forTests starts pushinbox local as another program's tests do, and returns its
// addresses once it is ready. The function ends it by closing its standard input.
func forTests(t testing.TB) (a stack.Addresses, end func() (code int, errs string)) {
	t.Helper()
	cmd := exec.Command(command, "local", "--port", "0", "--pubsub-port", "0", "--data", t.TempDir(), "--format", "json", "--exit-with-stdin")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Scan()
	if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
		t.Fatalf("%v: %q, %s", err, lines.Text(), errs.String())
	}
	return a, func() (int, string) {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode(), errs.String()
	}
}

// TestEndsWithItsStarter closes standard input, as the end of the program that
// started it does.
func TestEndsWithItsStarter(t *testing.T) {
	t.Parallel()
	a, end := forTests(t)
	resp, err := http.Get(a.URL + "/messages")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if code, errs := end(); code != 0 || errs != "" {
		t.Errorf("exit %d, %s", code, errs)
	}
	if _, err := os.Stat(filepath.Join(a.Data, "local.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("local.json: %v", err)
	}
}

// TestEndsWithoutAStarter has a standard input that is closed from the beginning.
func TestEndsWithoutAStarter(t *testing.T) {
	t.Parallel()
	out, errs, code := run(t, "", "local", "--port=0", "--pubsub-port=0", "--data", t.TempDir(), "--format=json", "--exit-with-stdin")
	if code != 0 || errs != "" || strings.Count(out, "\n") != 1 {
		t.Errorf("exit %d, %q, %s", code, out, errs)
	}
}

// BenchmarkReady is the time from the start of the process, with a new data
// directory, to the line with its addresses.
func BenchmarkReady(b *testing.B) {
	for b.Loop() {
		_, end := forTests(b)
		b.StopTimer()
		if code, errs := end(); code != 0 {
			b.Fatalf("exit %d, %s", code, errs)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/start")
}

// TestDeadLettersAfterMaxAttempts runs on a Firestore that refuses every call,
// so that each push fails at once.
func TestDeadLettersAfterMaxAttempts(t *testing.T) {
	t.Parallel()
	firestore := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	firestore.Config.Protocols = new(http.Protocols)
	firestore.Config.Protocols.SetUnencryptedHTTP2(true)
	firestore.Start()
	t.Cleanup(firestore.Close)
	r := start(t, t.TempDir(), "FIRESTORE_EMULATOR_HOST="+firestore.Listener.Addr().String(), "--max-attempts=5", "--retry-backoff=10ms,20ms")
	r.publish(t, "", "text/plain", "never stored")
	for attempt := 1; attempt <= 5; attempt++ {
		want := fmt.Sprintf(", attempt %d, again in ", attempt)
		if attempt == 5 {
			want = ", attempt 5 was the last: sent to the dead-letter topic"
		}
		if line := r.line(t, func(s string) bool { return strings.HasPrefix(s, "<-- ") }); !strings.HasPrefix(line, "<-- 503 ") || !strings.Contains(line, want) {
			t.Errorf("attempt %d: %s", attempt, line)
		}
	}
}

// TestQuiet says what is wrong, and nothing of what goes well.
func TestQuiet(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), "--quiet")
	r.publish(t, "", "text/plain", "hello")
	resp, err := http.Post(r.base+"/receive", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	r.says(t, 30*time.Second, "refusal=no_token")
	for {
		select {
		case line := <-r.lines:
			if strings.HasPrefix(line, "<-- ") {
				t.Errorf("it printed %q", line)
			}
			continue
		default:
		}
		return
	}
}
