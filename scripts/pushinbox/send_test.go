package main

import (
	"net/http"
	"strings"
	"testing"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/verify"
)

// TestSendToAnyProgram posts a push to a program that is no pushinbox local, signed
// by the one that is.
func TestSendToAnyProgram(t *testing.T) {
	t.Parallel()
	const sample = "../../testdata/pubsub/sample_message.json"
	data := t.TempDir()
	r := start(t, data)
	accepting, pushes := program(t, 204)
	verifier, err := verify.New(&verify.Options{Transport: keyTransport(r.base + "/local/certs")})
	if err != nil {
		t.Fatal(err)
	}
	for audience, args := range map[string][]string{
		accepting + "/push?a=b": nil,
		"123":                   {"--audience", "123"}, // text, not a number
	} {
		out, errs, code := run(t, "", append(args, "send", "--data", data, "--url", accepting+"/push?a=b", sample)...)
		if code != 0 || !strings.HasPrefix(out, "--> sample_message.json\n<-- 204 ") {
			t.Errorf("exit %d, %s%s", code, out, errs)
			continue
		}
		push := await(t, pushes)
		if _, err := verifier.IDToken(push.WithContext(t.Context()), verify.Policy{Audience: audience, Emails: []string{"push@local.iam.gserviceaccount.com"}}); err != nil || push.RequestURI != "/push?a=b" {
			t.Errorf("%s: %v", push.RequestURI, err)
		}
		r.line(t, func(s string) bool { return s == "--> sample_message.json, sent to "+accepting+"/push?a=b" })
		r.line(t, func(s string) bool { return strings.HasPrefix(s, "<-- 204 ") })
		if len(pushes) > 0 { // it is asked for nothing else
			t.Errorf("the program got %s too", (<-pushes).RequestURI)
		}
	}
	refusing, _ := program(t, 401)
	out, errs, code := run(t, "", "send", "--data", data, "--url", refusing, sample)
	if code != exitFailed || !strings.HasPrefix(out, "--> sample_message.json\n<-- 401 ") || !strings.Contains(errs, "its token is of the pushinbox local at "+r.base) {
		t.Errorf("refused: exit %d, %s%s", code, out, errs)
	}
	if _, errs, code := run(t, "", "send", "--data", data, "--url", "http://127.0.0.1:1/push", sample); code != exitFailed || !strings.Contains(errs, "nothing answers at http://127.0.0.1:1/push") || !strings.Contains(errs, "start the program") || strings.Contains(errs, "--data") {
		t.Errorf("no program: exit %d, %s", code, errs)
	}
	// A token that is given needs no pushinbox local.
	out, errs, code = runIn(t, []string{envIDToken + "=x"}, "", "send", "--url", accepting, sample)
	if got := await(t, pushes).Header.Get("Authorization"); code != 0 || got != "Bearer x" {
		t.Errorf("with a token: %q, exit %d, %s%s", got, code, out, errs)
	}
	_, errs, code = runIn(t, []string{envURL + "=http://127.0.0.1:1"}, "", "send", "--url", accepting, sample)
	if want := "nothing answers at http://127.0.0.1:1"; code != exitFailed || !strings.Contains(errs, want) || !strings.Contains(errs, "--token-file") || strings.Count(errs, "\n") != 1 {
		t.Errorf("nothing signs: exit %d, %s", code, errs)
	}
}

// TestSendRefusesFiles says in one line what a file lacks to be a push.
func TestSendRefusesFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ content, want string }{
		"empty":          {" \n", "is empty"},
		"text":           {"hello\nworld", `it begins with "hello\nworld"`},
		"cut_json":       {"{\n\"message\":\n{", "it is not valid JSON, in line 3"},
		"after_the_end":  {"{\"message\":{\"messageId\":\"1\"}}\n}", "it is not valid JSON, in line 2"},
		"list":           {`[{"message":{}}]`, "it is a list; send the pushes one by one"},
		"no_message":     {`{"a":1}`, `it has no "message"`},
		"publish_body":   {`{"messages":[{"data":"YQ=="}]}`, "it is the body of a publish request"},
		"bare_message":   {`{"data":"YQ==","messageId":"1"}`, "it is a message without its push"},
		"no_id":          {`{"message":{"data":"YQ=="}}`, "the message has no ID"},
		"not_base64":     {`{"message":{"data":"?","messageId":"1"}}`, "is not base64"},
		"attributes":     {`{"message":{"attributes":{"a":1},"messageId":"1"}}`, "attributes: "},
		"method":         {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "its method is GET"},
		"response":       {"HTTP/1.1 200 OK\r\n\r\n{}", `it begins with "HTTP/1.1 200 OK`},
		"header_endless": {"POST / HTTP/1.1\r\nHost: a", "no empty line ends the headers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := run(t, c.content, "send", "-")
			if code != exitFailed || !strings.HasPrefix(errs, "pushinbox: - is ") || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 || out != "" {
				t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
}

// TestSentIsForPrograms reports what was never sent, as a web page and as a hostile
// program would.
func TestSentIsForPrograms(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	const report = `{"sent":"a\u001b[2J\u202e","url":"http://a/\n<-- forged","status":204}`
	for name, c := range map[string]struct {
		body, kind, origin string
		want               int
	}{
		"page":    {report, "application/json", "http://evil.test", http.StatusForbidden},
		"console": {report, "application/json", r.base, http.StatusForbidden},
		"form":    {report, "text/plain", "", http.StatusUnsupportedMediaType},
		"no_json": {"x", "application/json", "", http.StatusBadRequest},
		"no_name": {`{"status":204}`, "application/json", "", http.StatusBadRequest},
		"large":   {`{"sent":"` + strings.Repeat("a", 64<<10) + `"}`, "application/json", "", http.StatusRequestEntityTooLarge},
		"program": {report, "application/json", "", http.StatusNoContent},
	} {
		request, err := http.NewRequest(http.MethodPost, r.base+stack.SentPath, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", c.kind)
		if c.origin != "" {
			request.Header.Set("Origin", c.origin)
		}
		if status, b := do(t, request); status != c.want {
			t.Errorf("%s: answered %d %s, want %d", name, status, b, c.want)
		}
	}
	line := r.line(t, func(s string) bool { return strings.HasPrefix(s, "--> ") })
	if want := `--> a\x1b[2J\u202e, sent to http://a/\n<-- forged`; line != want {
		t.Errorf("the terminal shows %q, want %q", line, want)
	}
}
