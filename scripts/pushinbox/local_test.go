package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
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
