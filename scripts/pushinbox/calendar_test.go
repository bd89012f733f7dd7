package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
)

// change is what a message about a calendar says.
type change struct {
	Change        string
	Event, Before map[string]any
	Fields        []string
}

// tail returns the changes of calendars as they come in.
func (r *running) tail(t *testing.T) <-chan change {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/events?source=calendar", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	changes := make(chan change, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			var m inbox.Message
			var c change
			if ok && json.Unmarshal([]byte(data), &m) == nil && json.Unmarshal(m.Data, &c) == nil {
				changes <- c
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = resp.Body.Close()
		<-done
	})
	return changes
}

func next(t *testing.T, changes <-chan change) change {
	t.Helper()
	select {
	case c := <-changes:
		return c
	case <-time.After(time.Minute):
		t.Fatal("no change for a minute")
		return change{}
	}
}

// edit edits an event in the stand-in for Google Calendar.
func (r *running) edit(t *testing.T, method, path, body string, status int) map[string]any {
	t.Helper()
	req, err := http.NewRequest(method, r.base+"/local/calendar"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	got, b := do(t, req)
	if got != status {
		t.Fatalf("%s %s answered %d %s, want %d", method, path, got, b, status)
	}
	var e map[string]any
	_ = json.Unmarshal(b, &e) // a deletion has no answer
	return e
}

const lunch = `{"summary":"Lunch","start":{"date":"2026-12-01"},"end":{"date":"2026-12-02"}}`

// calendarPath watches, edits, is ended by a signal, edits on and stops.
func calendarPath(t *testing.T, end os.Signal, environment ...string) {
	data := t.TempDir()
	r := start(t, data, environment...)
	operate := func(args ...string) string {
		t.Helper()
		u, err := url.Parse(r.base)
		if err != nil {
			t.Fatal(err)
		}
		stdout, stderr, code := run(t, "", append([]string{"calendar", "--local", "--port", u.Port()}, args...)...)
		if code != 0 {
			t.Fatalf("calendar %v: exit code %d: %s", args, code, stderr)
		}
		return stdout
	}
	changes := r.tail(t)
	if out := operate("watch", "demo"); !strings.HasPrefix(out, "demo is watched; its channel ") {
		t.Errorf("watch prints %s", out)
	}
	e := r.edit(t, "POST", "/events", lunch, 200)
	id := e["id"].(string)
	if c := next(t, changes); c.Change != "added" || c.Event["id"] != id || c.Event["summary"] != "Lunch" || c.Before != nil {
		t.Errorf("added: %+v", c)
	}
	r.edit(t, "PATCH", "/events/"+id, `{"summary":"Late lunch","location":"Roof"}`, 200)
	c := next(t, changes)
	if c.Change != "updated" || c.Before["summary"] != "Lunch" || c.Event["location"] != "Roof" {
		t.Errorf("updated: %+v", c)
	}
	if diff := cmp.Diff([]string{"location", "summary"}, c.Fields); diff != "" {
		t.Errorf("fields (-want +got)\n%s", diff)
	}

	if err := r.cmd.Process.Signal(end); err != nil {
		t.Fatal(err)
	}
	<-r.done
	port := strings.TrimPrefix(r.base, "http://127.0.0.1:")
	r = startAt(t, port, data, environment...)
	changes = r.tail(t)
	r.edit(t, "DELETE", "/events/"+id, "", 204)
	if c := next(t, changes); c.Change != "deleted" || c.Before["summary"] != "Late lunch" {
		t.Errorf("deleted: %+v", c)
	}

	// A calendar of another name, by the API's own paths.
	r.edit(t, "POST", "/calendars/team@example.com/events", lunch, 200)
	var channel calendar.Channel
	if out := operate("watch", "--format", "json", "team@example.com"); json.Unmarshal([]byte(out), &channel) != nil || channel.CalendarID != "team@example.com" || channel.Expiration.IsZero() {
		t.Errorf("watch prints %s", out)
	}
	if c := next(t, changes); c.Change != "added" {
		t.Errorf("what was there before: %+v", c)
	}
	if out := operate("list"); strings.Count(out, "\n") != 2 || !strings.Contains(out, "\t"+channel.ID+"\t") {
		t.Errorf("list prints %s", out)
	}
	if out := operate("sync", "team@example.com"); out != "team@example.com: 0 added, 0 updated, 0 deleted\n" {
		t.Errorf("sync prints %s", out)
	}
	if out := operate("sync"); !strings.Contains(out, "demo: 0 added, 0 updated, 0 deleted\n") {
		t.Errorf("sync prints %s", out)
	}
	if out := operate("renew"); out != "no channel had to be renewed\n" {
		t.Errorf("renew prints %s", out)
	}
	if out := operate("stop", "demo"); out != "demo is no longer watched\n" {
		t.Errorf("stop prints %s", out)
	}
	if out := operate("stop", "--format", "json", "team@example.com"); out != `{"stopped":"team@example.com"}`+"\n" {
		t.Errorf("stop prints %s", out)
	}
	if out := operate("list"); out != "no calendar is watched\n" {
		t.Errorf("list prints %s", out)
	}
	var all int
	for _, m := range r.messages(t) {
		if m.Source == inbox.SourceCalendar {
			all++
		}
	}
	if all != 4 {
		t.Errorf("%d changes in the inbox, want 4", all)
	}
}

func TestCalendar(t *testing.T) {
	t.Parallel()
	calendarPath(t, syscall.SIGKILL)
}

// The emulator of Firestore holds on to what a killed process has locked for up
// to a minute, so that this one ends in good order.
func TestCalendarOnGooglesEmulators(t *testing.T) {
	t.Parallel()
	calendarPath(t, os.Interrupt, "PUBSUB_EMULATOR_HOST="+emulator.PubSub(t), "FIRESTORE_EMULATOR_HOST="+emulator.Firestore(t),
		"GOOGLE_CLOUD_PROJECT="+emulator.Project())
}

func TestCalendarWrongCalls(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	port := strings.TrimPrefix(r.base, "http://127.0.0.1:")
	secret, open := filepath.Join(t.TempDir(), "secret"), filepath.Join(t.TempDir(), "open")
	if err := errors.Join(os.WriteFile(secret, []byte("x\n"), 0o600), os.WriteFile(open, []byte("x\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no_calendar":    {[]string{"watch", "--local"}, exitUsage, "CALENDAR is missing"},
		"two_calendars":  {[]string{"sync", "--local", "a", "b"}, exitUsage, `"b" is one argument too many`},
		"nowhere":        {[]string{"list"}, exitUsage, "either --local or --url"},
		"two_places":     {[]string{"list", "--local", "--url", "https://example.com"}, exitUsage, "either --local or --url"},
		"no_url":         {[]string{"list", "--url", "x"}, exitUsage, "is not a URL"},
		"no_token":       {[]string{"list", "--url", "https://example.com"}, exitUsage, "give one with --token-file"},
		"no_such":        {[]string{"bogus"}, exitUsage, `"bogus"`},
		"token_argument": {[]string{"list", "--local", "--token", "s3cret"}, exitUsage, "--token is not taken: every account"},
		"open_token":     {[]string{"list", "--url", r.base, "--token-file", open}, exitFailed, "others may read or change it (644); run: chmod 600 "},
		"format":         {[]string{"list", "--local", "--format", "xml"}, exitUsage, "it must be text or json"},
		"nothing_runs":   {[]string{"list", "--local", "--port", "1"}, exitFailed, "nothing answers at http://127.0.0.1:1"},
		"not_shared":     {[]string{"watch", "--local", "--port", port, "nobody@example.com"}, exitFailed, "404 Not Found: "},
		"not_watched":    {[]string{"stop", "--local", "--port", port, "demo"}, exitFailed, "this calendar is not watched"},
		"wrong_token":    {[]string{"list", "--url", r.base + "/calendar", "--token-file", secret}, exitFailed, "401 Unauthorized: "},
		"wrong_function": {[]string{"list", "--url", r.base + "/publish"}, exitFailed, "405 Method Not Allowed: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, "", append([]string{"calendar"}, c.args...)...)
			if code != c.code || !strings.Contains(stderr, c.want) || stdout != "" || strings.Contains(stderr, "s3cret") {
				t.Errorf("exit code %d, prints %q and %q, want %d and %q", code, stdout, stderr, c.code, c.want)
			}
		})
	}
	if stdout, _, code := run(t, "", "calendar", "list", "--url", r.base+"/calendar"); code != 0 || stdout != "no calendar is watched\n" {
		t.Errorf("with the URL of pushinbox local: exit code %d, prints %q", code, stdout)
	}
}

// No web page may edit the calendars of a local run, or read them.
func TestCalendarStandInIsNotForOtherSites(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	for name, change := range map[string]func(*http.Request){
		"origin":     func(r *http.Request) { r.Header.Set("Origin", "https://example.com") },
		"cross_site": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"other_host": func(r *http.Request) { r.Host = "rebound.example.com" },
	} {
		for _, path := range []string{"/events", "/calendars/demo/events", "/channels/stop"} {
			req, err := http.NewRequest(http.MethodPost, r.base+"/local/calendar"+path, strings.NewReader(lunch))
			if err != nil {
				t.Fatal(err)
			}
			change(req)
			if status, b := do(t, req); status != http.StatusForbidden {
				t.Errorf("%s %s answered %d %s", name, path, status, b)
			}
		}
	}
	if list := r.get(t, "/local/calendar/events"); strings.Contains(string(list), "Lunch") {
		t.Errorf("the calendar has %s", list)
	}
}
