package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"
)

// TestAnswersDoNotReachTheTerminalRaw has a server try to clear the screen, to
// move the cursor and to forge a line.
func TestAnswersDoNotReachTheTerminalRaw(t *testing.T) {
	t.Parallel()
	const escape = `\u001b[2J\r\nforged\u009b1A`
	raw := strings.NewReplacer(`\u001b`, "\x1b", `\r`, "\r", `\n`, "\n", `\u009b`, "\u009b").Replace(escape)
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
		"calendar_as_json": {200, `{"calendars":[{"calendarId":"` + strings.ReplaceAll(escape, `\u009b`, "\u009b") + `"}]}`, []string{"calendar", "list", "--format", "json", "--url"}},
		"watched_calendar": {200, `{"calendarId":"` + escape + `"}`, []string{"calendar", "watch", "c", "--url"}},
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
				if strings.ContainsFunc(line, unicode.IsControl) || strings.HasPrefix(line, "forged") {
					t.Errorf("printed %q", line)
				}
			}
			if !strings.Contains(out+errs, `\nforged`) {
				t.Errorf("what the server said is missing in %q", out+errs)
			}
		})
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
