package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestAnswersDoNotReachTheTerminalRaw has a server try to clear the screen, to
// move the cursor, to turn the text around, to hide some, to forge a line and to
// fill the terminal.
func TestAnswersDoNotReachTheTerminalRaw(t *testing.T) {
	t.Parallel()
	const escape = `\u001b[2J\t\r\nforged\u009b1A\u202e\u2066\u200b\u3164\ufe0f\udb40\udc41\u007f`
	var raw string
	if err := json.Unmarshal([]byte(`"`+escape+`"`), &raw); err != nil {
		t.Fatal(err)
	}
	asJSON := strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(raw, "\x1b", `\u001b`), "\r", `\r`), "\n", `\n`)
	asJSON = strings.ReplaceAll(asJSON, "\t", `\t`)
	long := strings.Repeat(escape, 10_000)
	for name, c := range map[string]struct {
		status int
		body   string
		args   []string
	}{
		"refused_token":    {400, `{"detail":"` + escape + `"}`, []string{"token", "--address"}},
		"refused_as_text":  {400, raw, []string{"token", "--address"}},
		"token":            {200, raw, []string{"token", "--address"}},
		"refused_push":     {403, `{"detail":"` + escape + `"}`, []string{"send", "../../testdata/pubsub/sample_message.json", "--url"}},
		"refused_calendar": {403, `{"detail":"` + escape + `"}`, []string{"calendar", "list", "--url"}},
		"failed_calendar":  {502, `{"failed":[{"calendarId":"` + escape + `","detail":"` + escape + `"}]}`, []string{"calendar", "sync", "--url"}},
		"calendar":         {200, `{"calendars":[{"calendarId":"` + escape + `"}]}`, []string{"calendar", "list", "--url"}},
		"calendar_as_json": {200, `{"calendars":[{"calendarId":"` + asJSON + `"}]}`, []string{"calendar", "list", "--format", "json", "--url"}},
		"watched_calendar": {200, `{"calendarId":"` + escape + `"}`, []string{"calendar", "watch", "c", "--url"}},
		"long_refusal":     {403, `{"detail":"` + long + `"}`, []string{"send", "../../testdata/pubsub/sample_message.json", "--url"}},
		"long_text":        {400, strings.Repeat(raw, 10_000), []string{"token", "--address"}},
		"long_token":       {200, strings.Repeat(raw, 10_000), []string{"token", "--address"}},
		"long_calendar":    {200, `{"calendars":[{"calendarId":"` + long + `"}]}`, []string{"calendar", "list", "--url"}},
		"long_failures":    {502, `{"failed":[` + strings.Repeat(`{"calendarId":"a","detail":"`+escape+`"},`, 1000) + `{}]}`, []string{"calendar", "sync", "--url"}},
		"refused_list":     {400, `{"detail":"` + escape + `"}`, []string{"messages", "list", "--url"}},
		"message_id":       {200, `{"id":"` + escape + `"}`, []string{"messages", "get", strings.Repeat("0", 40), "--url"}},
		"several_ids":      {200, `{"messages":[{"id":"` + escape + `","messageId":"1"},{"id":"a","messageId":"1"}]}`, []string{"messages", "get", "1", "--url"}},
		"refused_status":   {400, `{"detail":"` + escape + `"}`, []string{"delivery", "status", "--url"}},
		"refused_topics":   {403, "<Error><Code>A</Code><Message>&#13;&#10;forged&#155;</Message></Error>", []string{"mns", "list", "--endpoint"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(server.Close)
			out, errs, _ := runIn(t, []string{envIDToken + "=x"}, "", append(c.args, server.URL)...)
			for _, line := range strings.Split(out+errs, "\n") {
				if cells := strings.Split(line, "\t"); c.args[0] == "calendar" && len(cells) == 5 { // of the list
					line = strings.Join(cells, "")
				}
				if strings.ContainsFunc(line, func(r rune) bool {
					return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
				}) || strings.HasPrefix(line, "forged") {
					t.Errorf("printed %q", line)
				}
			}
			if len(out+errs) > 200*maxShown {
				t.Errorf("printed %d bytes", len(out+errs))
			}
			if !strings.Contains(out+errs, `\nforged`) {
				t.Errorf("what the server said is missing in %q", out+errs)
			}
		})
	}
}

// TestFilesDoNotReachTheTerminal sends files that are no pushes.
func TestFilesDoNotReachTheTerminal(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file\x1b[2J\u202e")
	for name, size := range map[string]int64{"huge": 60_000_000, "as_large_as_a_push": maxInput, "escapes": 0} {
		if err := os.WriteFile(file, []byte(strings.Repeat("\x1b[2J\u202e", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if size > 0 {
			if err := errors.Join(os.Truncate(file, 0), os.Truncate(file, size)); err != nil {
				t.Fatal(err)
			}
		}
		for _, args := range [][]string{{"send", file}, {"mns", "publish", "T", "-"}} {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			if args[0] == "mns" && size != 60_000_000 {
				continue
			}
			var out bytes.Buffer
			cmd := exec.CommandContext(t.Context(), command, args...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = f, &out, &out
			err = cmd.Run()
			_ = f.Close()
			if err == nil || out.Len() > 2*maxShown || strings.Count(out.String(), "\n") != 1 || strings.ContainsAny(out.String(), "\x00\x1b\u202e") {
				t.Errorf("%s %v: %v, %d bytes: %.300q", name, args, err, out.Len(), out.String())
			}
			if size == 60_000_000 && !strings.Contains(out.String(), "is over 15 MiB") {
				t.Errorf("%s %v: %q", name, args, out.String())
			}
		}
	}
}

func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
			"307 Temporary Redirect"},
		"endless_answer": {func(w http.ResponseWriter, _ *http.Request) {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, "it is over 16777216 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(c.answer)
			t.Cleanup(server.Close)
			_, errs, code := runIn(t, []string{envIDToken + "=secret"}, "", "calendar", "list", "--url", server.URL)
			if code != exitFailed || !strings.Contains(errs, c.want) || strings.Contains(errs, "secret") {
				t.Errorf("exit %d, %.300q", code, errs)
			}
		})
	}
}

// TestLogsDoNotReachTheTerminalRaw prints a log whose senders chose what is in it.
func TestLogsDoNotReachTheTerminalRaw(t *testing.T) {
	t.Parallel()
	const hostile = "\u009b2J\u202e\u200b\u3164\x7f"
	long := strings.Repeat("é", 30_000)
	log := `{"time":"2026-11-26T10:00:00Z","access":{"protocol":"HTTP/1.1","host":"` + hostile + `"},"httpRequest":{"requestMethod":"GET","requestUrl":"/` + long + `","userAgent":"` + hostile + `"}}` + "\n" +
		`{"time":"2026-11-26T10:00:00Z","notification":{"topicName":"` + hostile + `","messageId":"\u001b[2J\n[forged"}}` + "\n"
	for format, limit := range map[string]int{"classic": 3 * maxShown, "json": len(log) * 2} {
		out, errs, code := run(t, log, "logs", "--format", format)
		if code != 0 || len(out) > limit || len(out) == 0 {
			t.Errorf("%s: exit %d, %d bytes, %s", format, code, len(out), errs)
		}
		for _, line := range strings.Split(out, "\n") {
			if !utf8.ValidString(line) || strings.HasPrefix(line, "[forged") || strings.ContainsFunc(line, func(r rune) bool {
				return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point)
			}) {
				t.Errorf("%s: printed %.200q", format, line)
			}
		}
	}
}
