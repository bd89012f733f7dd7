package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/need"
)

// command runs pushinbox messages against r, and returns what it prints.
func (r *running) command(t *testing.T, stdin string, args ...string) (out, errs string, code int) {
	t.Helper()
	return runIn(t, []string{"PUSHINBOX_URL=" + r.base, "XDG_CACHE_HOME=" + t.TempDir()}, stdin, append([]string{"messages"}, args...)...)
}

// fill stores messages in the data directory of a pushinbox local before it starts.
func fill(t *testing.T, data string, messages ...*inbox.Message) {
	t.Helper()
	in, err := boltinbox.Open(filepath.Join(data, "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if _, err := in.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFindIt publishes a message and finds it by the ID that publishing printed.
func TestFindIt(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	out, errs, code := r.command(t, "Zo\u00eb \x1b[2J\n", "publish", "--attribute", "kind=order", "--attribute", "n=1", "--ordering-key", "a", "--wait")
	if code != 0 {
		t.Fatalf("publish: exit %d, %s", code, errs)
	}
	messageID, id, _ := strings.Cut(strings.TrimSpace(out), "\t")
	for range 3 {
		if _, errs, code := r.command(t, "other", "publish", "--wait=20s", "--format", "json"); code != 0 {
			t.Fatalf("publish: %s", errs)
		}
	}
	for _, by := range []string{messageID, id} {
		if out, errs, code := r.command(t, "", "get", by); code != 0 || !strings.Contains(out, "\nmessage ID     "+messageID+"\n") || !strings.HasSuffix(out, "\n\nZo\u00eb \\x1b[2J\n") {
			t.Errorf("get %s: exit %d, %q, %s", by, code, out, errs)
		}
		if out, errs, code := r.command(t, "", "get", by, "--data"); code != 0 || out != "Zo\u00eb \x1b[2J\n" {
			t.Errorf("get --data: exit %d, %q, %s", code, out, errs)
		}
	}
	if out, errs, code := r.command(t, "", "get", "9"+messageID); code != 4 || out != "" || !strings.Contains(errs, "no message") {
		t.Errorf("get of no message: exit %d, %q, %q", code, out, errs)
	}
	for name, filter := range map[string][]string{
		"message_id":   {"--message-id", messageID},
		"attributes":   {"--attribute", "kind=order", "--attribute", "n=1"},
		"ordering_key": {"--ordering-key", "a"},
		"text":         {"--text", "ZOË"},
		"all_of_them":  {"--source", "pubsub", "--subscription", "inbox-push", "--since", "1h", "--text", "zo", "--attribute", "n=1"},
	} {
		out, errs, code := r.command(t, "", append([]string{"list", "--format", "json"}, filter...)...)
		var m inbox.Message
		if err := json.Unmarshal([]byte(out), &m); code != 0 || err != nil || m.ID != id || string(m.Data) != "Zo\u00eb \x1b[2J\n" {
			t.Errorf("%s: exit %d, %v, %q, %s", name, code, err, out, errs)
		}
	}
	if out, _, code := r.command(t, "", "list", "--until", "1h"); code != 0 || out != "" {
		t.Errorf("nothing: exit %d, %q", code, out)
	}
	out, errs, code = r.command(t, "", "list", "--limit", "2")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(lines) != 2 || len(strings.Split(lines[0], "\t")) != 9 {
		t.Errorf("without a terminal: exit %d, %q, %s", code, out, errs)
	}
}

// TestWrongCallsOfMessages makes calls that are refused before anything is asked, with what to do.
func TestWrongCallsOfMessages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		want string
	}{
		{"list --since yesterday", "such as 90m"},
		{"list --source foo", "pubsub"},
		{"list --attribute kind", "KEY=VALUE"},
		{"list --attribute kind=a --attribute kind=b", "gives the key kind twice"},
		{"list --limit -1", "--limit"},
		{"lists", `did you mean "list"?`},
		{"lst", `did you mean "list"?`},
		{"tail --until 1h", "--until"},
		{"get", "ID is missing"},
		{"get x --data --format json", "--data"},
		{"publish a b", "one argument too many"},
		{"publish --wait 10s", "--wait=10s"},
		{"export --resume x", "--output"},
		{"export --output a --directory b", "one of"},
		{"export --output " + dir + "/there", "exists"},
		{"replay", "say which"},
		{"replay a --since 1h", "either"},
		{"replay a --set replay-of=x", "replay-of"},
		{"replay a --rate NaN", "--rate must be"},
		{"replay a --rate Inf", "--rate must be"},
		{"replay a --audience x", "--to URL"},
		{"replay a --to here", "neither topic nor a URL"},
		{"replay a --to https://example.com/push", "--force"},
		{"replay a --dry-run --resume x", "--dry-run"},
		{"list --url https://example.com", "--account, --token-file or --terraform"},
		{"list --url http://example.com --account a@b", "not an https address"},
		{"list --url http://127.0.0.1:1 --account nobody", "not the e-mail address"},
		{"list --account a@b --token-file x", "one of --account and --token-file"},
	} {
		_, errs, code := runIn(t, []string{"PUSHINBOX_URL=http://127.0.0.1:1"}, "", append([]string{"messages"}, strings.Fields(test.args)...)...)
		if code != exitUsage || !strings.Contains(errs, test.want) || strings.Contains(errs, "nothing answers") {
			t.Errorf("%s: exit %d, %s", test.args, code, errs)
		}
	}
	if _, errs, code := runIn(t, []string{"PUSHINBOX_URL=http://127.0.0.1:1"}, "", "messages", "list"); code != exitFailed || !strings.Contains(errs, "nothing answers at http://127.0.0.1:1; start it with") {
		t.Errorf("nothing listens: exit %d, %s", code, errs)
	}
}

// TestTable prints to a terminal.
func TestTable(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	hostile := "\u202e\x1b]0;owned\a"
	fill(t, data,
		&inbox.Message{Source: "pubsub", Subscription: "projects/p/subscriptions/a-rather-long-name-of-a-subscription", MessageID: "1", Data: []byte(strings.Repeat("日本語 ", 100))},
		&inbox.Message{Source: "pubsub", Subscription: "s" + hostile, MessageID: "2" + hostile, Data: []byte(hostile), Attributes: map[string]string{"k" + hostile: hostile}, OrderingKey: hostile},
		&inbox.Message{Source: "pubsub", Subscription: "s", MessageID: "3", Data: []byte{0, 1, 2}},
		inbox.Quarantine("pubsub", "", inbox.ReasonData, []byte("{}")),
	)
	r := start(t, data)
	for name, test := range map[string]struct {
		columns   int
		variables []string
		hasColor  bool
	}{
		"wide":     {120, nil, true},
		"narrow":   {72, nil, true},
		"no_color": {100, []string{"NO_COLOR=1"}, false},
		"dumb":     {100, []string{"TERM=dumb"}, false},
	} {
		out := onTerminal(t, test.columns, append(test.variables, "PUSHINBOX_URL="+r.base, "TZ=Asia/Kolkata"), "messages", "list")
		lines := strings.Split(strings.TrimSpace(out), "\r\n")
		if len(lines) != 5 || !strings.Contains(lines[0], "RECEIVED IST") || strings.Contains(out, "\x1b[") != test.hasColor {
			t.Errorf("%s: %q", name, out)
		}
		plain := regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(out, "")
		if strings.ContainsAny(plain, "\x1b\a\u202e") || !strings.Contains(plain, `\x1b]0;`) || !strings.Contains(plain, "quarantined: ") {
			t.Errorf("%s: %q", name, plain)
		}
		for _, line := range strings.Split(strings.TrimSpace(plain), "\r\n") {
			if n := cellsOf(line); n > test.columns {
				t.Errorf("%s: %d cells in %q", name, n, line)
			}
		}
		if utc := onTerminal(t, test.columns, append(test.variables, "PUSHINBOX_URL="+r.base, "TZ=Asia/Kolkata"), "messages", "list", "--utc"); !strings.Contains(utc, "RECEIVED UTC") {
			t.Errorf("--utc: %q", utc)
		}
	}
	id := inbox.ID("pubsub", "s"+hostile, "2"+hostile)
	for _, args := range [][]string{{"get", id}, {"get", id, "--data"}, {"get", id, "--format", "json"}, {"export"}} {
		out := onTerminal(t, 100, []string{"PUSHINBOX_URL=" + r.base, "NO_COLOR=1"}, append([]string{"messages"}, args...)...)
		if strings.ContainsAny(out, "\x1b\a\u202e") || !strings.Contains(out, "owned") {
			t.Errorf("%v: %q", args, out)
		}
	}
}

// TestTail follows an inbox whose pushinbox local is killed and started again.
func TestTail(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data)
	publish := func(data string) {
		t.Helper()
		if _, errs, code := r.command(t, data, "publish", "--attribute", "kind=order", "--wait"); code != 0 {
			t.Fatal(errs)
		}
		if _, errs, code := r.command(t, "not this", "publish"); code != 0 {
			t.Fatal(errs)
		}
	}
	publish("one")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, "messages", "tail", "--url", r.base, "--since", "1h", "--attribute", "kind=order", "--format", "json")
	out, said := make(chan string, 100), make(chan string, 100)
	cmd.Stdout, cmd.Stderr = lineWriter(out), lineWriter(said)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	next := func(from chan string, want string) {
		t.Helper()
		select {
		case line := <-from:
			var m inbox.Message
			if _ = json.Unmarshal([]byte(line), &m); string(m.Data) != want && !strings.Contains(line, want) {
				t.Fatalf("printed %s, want %s", line, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing was printed, want %s", want)
		}
	}
	next(out, "one")
	publish("two")
	next(out, "two")
	_ = r.cmd.Process.Kill()
	<-r.done
	next(said, "the connection was lost at ")
	r = startAt(t, strings.TrimPrefix(r.base, "http://127.0.0.1:"), data)
	publish("three")
	next(said, "connected again after ")
	next(out, "three")
	_ = cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
	if len(out) > 0 {
		t.Errorf("more was printed: %s", <-out)
	}
}

// lineWriter passes on whole lines.
type lineWriter chan string

func (w lineWriter) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		w <- strings.TrimSpace(line)
	}
	return len(b), nil
}

// TestDeployedConsole reads a console that wants a Google ID token, named in every
// way.
func TestDeployedConsole(t *testing.T) {
	t.Parallel()
	l := start(t, t.TempDir())
	if _, errs, code := l.command(t, "hello", "publish", "--wait"); code != 0 {
		t.Fatal(errs)
	}
	google := googleFor(t, l)
	dir := t.TempDir()
	token := strings.TrimSpace(string(l.get(t, "/local/token?"+url.Values{"for": {"console"}, "email": {stack.Developer}}.Encode())))
	wrong := strings.TrimSpace(string(l.get(t, "/local/token?"+url.Values{"for": {"console"}, "email": {"stranger@p"}}.Encode())))
	for name, content := range map[string]string{
		"token": token, "wrong": wrong, "terraform": fmt.Sprintf("#!/bin/sh\n[ \"$*\" = '-chdir=tf output -json -no-color' ] || exit 3\n"+
			`echo '{"api_url":{"value":"%s"},"console_url":{"value":"https://behind.iap"},"tester_account":{"value":"%s"}}'`, l.base, stack.Developer),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	path := "PATH=" + dir + ":" + os.Getenv("PATH")
	for name, test := range map[string]struct {
		args      string
		variables []string
		want      string // "" is success
	}{
		"account":          {"--url " + l.base + " --account " + stack.Developer, google, ""},
		"stranger":         {"--url " + l.base + " --account stranger@p", google, "no permission for stranger@p; you need the role"},
		"token_file":       {"--url " + l.base + " --token-file " + dir + "/token", nil, ""},
		"wrong_token":      {"--url " + l.base + " --token-file " + dir + "/wrong", nil, "403 Forbidden"},
		"terraform":        {"--terraform tf", append([]string{path}, google...), ""},
		"terraform_failed": {"--terraform other", []string{path}, "terraform -chdir=other output"},
		"no_credentials":   {"--url " + l.base + " --account " + stack.Developer, []string{"GOOGLE_APPLICATION_CREDENTIALS=" + dir + "/none"}, "gcloud auth application-default login"},
		"not_for_loopback": {"--url " + l.base, []string{envIDToken + "=" + wrong, envAccount + "=stranger@p"}, ""},
	} {
		out, errs, code := runIn(t, test.variables, "", append([]string{"messages", "list"}, strings.Fields(test.args)...)...)
		if (code == 0) != (test.want == "") || !strings.Contains(errs, test.want) || code == 0 && !strings.HasSuffix(out, "\thello\n") {
			t.Errorf("%s: exit %d, %q, %s", name, code, out, errs)
		}
		if strings.Contains(errs, token) || strings.Contains(errs, wrong) {
			t.Errorf("%s: a token is printed", name)
		}
	}
	if resp, err := http.Get(l.base + "/messages?colour=red"); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown parameter: %v, %v", resp, err)
	}
}

// TestListedID has a server list a message whose ID would move the cursor and make a line.
func TestListedID(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"messages":[{"id":"\u001b[2J\nforged"}]}`)
	}))
	t.Cleanup(server.Close)
	if out, errs, code := run(t, "", "messages", "list", "--url", server.URL); code != 0 || !strings.HasPrefix(out, `\x1b[2J\nforged`+"\t") {
		t.Errorf("exit %d, %q, %s", code, out, errs)
	}
}

// TestFullOutput prints where there is no room: each command fails and says so once.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		need.Skip(t, "there is no /dev/full")
	}
	t.Cleanup(func() { _ = full.Close() })
	data := t.TempDir()
	r := start(t, data)
	r.publish(t, "", "text/plain", "hello")
	r.acknowledged(t, 1)
	for _, args := range [][]string{
		{}, {"help"}, {"help", "mns", "publish"}, {"mns"}, {"local", "--help"}, {"version"}, {"completion", "bash"},
		{"messages", "list", "--url", r.base}, {"messages", "export", "--url", r.base}, {"token", "--url", r.base},
	} {
		var errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), command, args...)
		cmd.Stdout, cmd.Stderr = full, &errs
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != exitFailed || strings.Count(errs.String(), "no space left") != 1 || strings.Contains(errs.String(), "exported") {
			t.Errorf("%q: exit %d, %s", args, cmd.ProcessState.ExitCode(), errs.String())
		}
	}
	// What was done is told all the same: it may be how to undo it.
	for _, format := range []string{"text", "json"} {
		var errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), command, "delivery", "pause", "--data", data, "--format", format)
		cmd.Stdout, cmd.Stderr = full, &errs
		_ = cmd.Run()
		if said := errs.String(); cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(said, "no space left") || !strings.Contains(said, "inbox-push") {
			t.Errorf("pause as %s: exit %d, %s", format, cmd.ProcessState.ExitCode(), said)
		}
	}
}
