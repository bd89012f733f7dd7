package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

// terraformDefault returns what stands after "default =" in the block of a
// variable.
func terraformDefault(t *testing.T, source, variable string) string {
	t.Helper()
	block := regexp.MustCompile(`(?ms)^variable "`+variable+`" \{\n(.*?)^\}`).FindAllStringSubmatch(source, -1)
	if len(block) != 1 {
		t.Fatalf("%d variables are called %s", len(block), variable)
	}
	values := regexp.MustCompile(`(?m)^  default +=(.*)$`).FindAllStringSubmatch(block[0][1], -1)
	if len(values) != 1 {
		t.Fatalf("%s has %d defaults", variable, len(values))
	}
	return strings.TrimSpace(values[0][1])
}

func seconds(t *testing.T, s string) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

func TestLocalDeliversAsTerraformMakesIt(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../terraform/variables.tf")
	if err != nil {
		t.Fatal(err)
	}
	variables := string(b)
	backoff := regexp.MustCompile(`^\{ minimum = (\d+), maximum = (\d+) \}$`).FindStringSubmatch(terraformDefault(t, variables, "retry_backoff_seconds"))
	if backoff == nil {
		t.Fatal("the default of retry_backoff_seconds is not { minimum = N, maximum = N }")
	}
	attempts, err := strconv.Atoi(terraformDefault(t, variables, "max_delivery_attempts"))
	if err != nil {
		t.Fatal(err)
	}
	ordering, err := strconv.ParseBool(terraformDefault(t, variables, "enable_message_ordering"))
	if err != nil {
		t.Fatal(err)
	}
	want := pushSettings{
		AckDeadline: seconds(t, terraformDefault(t, variables, "ack_deadline_seconds")),
		MinBackoff:  seconds(t, backoff[1]),
		MaxBackoff:  seconds(t, backoff[2]),
		MaxAttempts: attempts,
		Ordering:    ordering,
	}
	if diff := cmp.Diff(want, terraformDefaults); diff != "" {
		t.Errorf("terraform/variables.tf and terraformDefaults differ:\n%s", diff)
	}
}

func TestCalendarSyncsAsTerraformMakesIt(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../terraform/calendar.tf")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?ms)^resource "google_pubsub_subscription" "calendar_sync" \{\n(.*?)^\}`).FindStringSubmatch(string(b))
	if block == nil {
		t.Fatal("there is no such subscription in terraform/calendar.tf")
	}
	number := func(pattern string) time.Duration {
		found := regexp.MustCompile(`(?m)^ +`+pattern+`$`).FindAllStringSubmatch(block[1], -1)
		if len(found) != 1 {
			t.Fatalf("%d lines are like %s", len(found), pattern)
		}
		return seconds(t, found[0][1])
	}
	want := pushSettings{
		AckDeadline: number(`ack_deadline_seconds += (\d+)`),
		MinBackoff:  number(`minimum_backoff += "(\d+)s"`),
		MaxBackoff:  number(`maximum_backoff += "(\d+)s"`),
	}
	if strings.Contains(block[1], "dead_letter_policy") || strings.Contains(block[1], "enable_message_ordering") {
		t.Error("terraform/calendar.tf sets what calendarSync leaves out")
	}
	if diff := cmp.Diff(want, calendarSync); diff != "" {
		t.Errorf("terraform/calendar.tf and calendarSync differ:\n%s", diff)
	}
}

func TestSettingsOfASubscription(t *testing.T) {
	t.Parallel()
	for _, p := range []pushSettings{terraformDefaults, calendarSync, {10 * time.Second, 0, time.Second, 5, true}} {
		sub := p.subscription("t", "s", signedPush("a"))
		if diff := cmp.Diff(p, settingsOf(sub)); diff != "" {
			t.Error(diff)
		}
		if again := settingsOf(sub).subscription("t", "s", signedPush("a")); !proto.Equal(sub, again) {
			t.Errorf("%v, and %v", sub, again)
		}
	}
}

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
