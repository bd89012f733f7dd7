package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/roundtrip"
)

// ran is what a program did that pushinbox run ran.
type ran struct {
	out, errs string
	code      int
	signal    syscall.Signal // that ended it, or 0
}

// runProgramIn runs pushinbox run with arguments in a directory. Those before "run" are
// variables.
func runProgramIn(t *testing.T, dir string, args ...string) ran {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command)
	cmd.Dir, cmd.Env = dir, withoutTrust()
	for args[0] != "run" {
		cmd.Env, args = append(cmd.Env, args[0]), args[1:]
	}
	cmd.Args = append(cmd.Args, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	r := ran{out: out.String(), errs: errs.String(), code: cmd.ProcessState.ExitCode()}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		r.signal = status.Signal()
	}
	return r
}

// withoutTrust is this environment without what it says of certificates and proxies.
func withoutTrust() (environ []string) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(strings.ToUpper(v), "=")
		if !strings.Contains(name, "CERT") && !strings.HasSuffix(name, "_CA_BUNDLE") && !strings.HasSuffix(name, "_PROXY") {
			environ = append(environ, v)
		}
	}
	return environ
}

// TestRunReadsTheKeys has a program read the keys at Google's addresses, call
// Calendar, and another host, in each of the ways of running it.
func TestRunReadsTheKeys(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	var mu sync.Mutex
	var asked []string
	origin := roundtrip.Func(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization"))
		return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: io.NopCloser(strings.NewReader("from the internet\n"))}, nil
	})
	// The way out of this machine is a proxy whose certificate the user trusts.
	internet := google.NewInternet(t, map[string]http.RoundTripper{"www.googleapis.com": origin, "www.example.com": origin})
	dir := t.TempDir()
	r := start(t, filepath.Join(dir, ".local"), internet.Environment...)
	script := `set -e
		curl -fsS https://www.googleapis.com/oauth2/v3/certs; echo
		curl -fsS -H 'Authorization: Bearer ya29.secret' 'https://www.googleapis.com/calendar/v3/users/me/calendarList?x=1'
		curl -fsS https://www.example.com/
		curl -fsS "http://$PUBSUB_EMULATOR_HOST/v1/projects/$GOOGLE_CLOUD_PROJECT/topics"`
	want := strings.TrimSpace(string(r.get(t, "/local/oauth2/v3/certs"))) + "\nfrom the internet\nfrom the internet\n"
	variables := append(internet.Environment, "run")
	for name, args := range map[string][]string{
		"found":     {"--", "sh", "-c", script},
		"by_data":   {"--data", filepath.Join(dir, ".local"), "--", "sh", "-c", script},
		"no_dashes": {"sh", "-c", script},
	} {
		got := runProgramIn(t, dir, append(variables[:len(variables):len(variables)], args...)...)
		if got.code != 0 || got.errs != "" || !strings.HasPrefix(got.out, want) || !strings.Contains(got.out, "projects/local/topics/inbox") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	printed := runProgramIn(t, dir, append(variables[:len(variables):len(variables)], "--print-env")...)
	shell := exec.CommandContext(t.Context(), "sh", "-c", printed.out+script)
	shell.Env = withoutTrust()
	if out, err := shell.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("by --print-env: %v, %s, from %s", err, out, printed.out)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 8 || asked[0] != "GET https://www.googleapis.com/calendar/v3/users/me/calendarList?x=1 Bearer ya29.secret" {
		t.Errorf("the internet was asked for %q", asked)
	}
	if refused := internet.Refused(); len(refused) > 0 {
		t.Errorf("and for %q", refused)
	}
	select {
	case line := <-r.said:
		t.Errorf("pushinbox local said %q", line)
	default:
	}
}

// TestRunIsTheProgram compares exit codes, signals and input with the program's own,
// with a pushinbox local that runs and with one that run starts.
func TestRunIsTheProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, filepath.Join(dir, ".local"))
	for name, in := range map[string]string{"running": dir, "own": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := runProgramIn(t, in, "run", "--", "sh", "-c", "exit 7"); got.code != 7 {
				t.Errorf("exit 7: %+v", got)
			}
			if got := runProgramIn(t, in, "run", "--", "sh", "-c", "kill -9 $$"); got.code != 137 && got.signal != syscall.SIGKILL {
				t.Errorf("kill -9: %+v", got)
			}
			if got := runProgramIn(t, in, "run", "./no-such-program"); got.code != 127 || strings.Count(got.errs, "\n") != 1 {
				t.Errorf("no program: %+v", got)
			}
			cmd := exec.CommandContext(t.Context(), command, "run", "--", "sh", "-c", `trap 'read -r line; echo "$line"; exit 3' TERM; echo ready; while :; do sleep 0.02; done`)
			cmd.Dir, cmd.Env, cmd.Stdin = in, withoutTrust(), strings.NewReader("input\n")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			lines.Scan()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			lines.Scan()
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 || lines.Text() != "input" {
				t.Errorf("after SIGTERM: %v, and it printed %q", err, lines.Text())
			}
		})
	}
}

// TestRunStartsItsOwn has no pushinbox local run, before and after.
func TestRunStartsItsOwn(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	dir := t.TempDir()
	got := runProgramIn(t, dir, "run", "--", "sh", "-c", `curl -fsS "$PUSHINBOX_URL/messages" && curl -fsS https://www.googleapis.com/oauth2/v1/certs && echo && echo "$PUSHINBOX_URL"`)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	address := lines[len(lines)-1]
	if got.code != 0 || !strings.Contains(got.out, "BEGIN CERTIFICATE") || !strings.Contains(got.errs, address) {
		t.Fatalf("%+v", got)
	}
	if resp, err := http.Get(address); err == nil {
		_ = resp.Body.Close()
		t.Errorf("%s still answers", address)
	}
	if _, err := os.Stat(filepath.Join(dir, ".local", "local.json")); !os.IsNotExist(err) {
		t.Errorf("local.json: %v", err)
	}
	stale := filepath.Join(dir, ".local", "local.json")
	if err := os.WriteFile(stale, []byte(`{"pid": 1999999999, "startedAt": "2026-01-01T00:00:00Z", "url": "`+address+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runProgramIn(t, dir, "run", "sh", "-c", "true"); got.code != 0 {
		t.Errorf("after a kill -9: %+v", got)
	}
	if got := runProgramIn(t, dir, "FUNCTION_TARGET=receive", "PORT=0", "run", "--", "sh", "-c", `echo "$FUNCTION_TARGET"`); got.code != 0 || got.out != "receive\n" {
		t.Errorf("a function to serve: %+v", got)
	}
	if got := runProgramIn(t, t.TempDir(), "run", "--print-env"); got.code != exitFailed || got.out != "" || !strings.Contains(got.errs, "start it with") {
		t.Errorf("no pushinbox local: %+v", got)
	}
	for _, args := range [][]string{{"run", "--print-env"}, {"run"}, {"run", "--print-env", "sh"}, {"run", "--proxy-port", "1"}} {
		if got := runProgramIn(t, dir, args...); got.code == 0 || got.out != "" || got.errs == "" {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// TestRunWithHost has a run that other machines reach: its proxy wants a password.
func TestRunWithHost(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	dir := t.TempDir()
	start(t, filepath.Join(dir, ".local"), "--host=0.0.0.0")
	got := runProgramIn(t, dir, "run", "--", "sh", "-c", `curl -fsS https://www.googleapis.com/oauth2/v3/certs && curl -sS https://www.example.com/; curl -sSx "$(echo "$HTTPS_PROXY" | sed 's,//.*@,//,')" https://www.googleapis.com/oauth2/v3/certs`)
	if !strings.Contains(got.out, `"keys"`) || strings.Count(got.out, `"keys"`) != 1 || !strings.Contains(got.errs, "403") || !strings.Contains(got.errs, "407") {
		t.Errorf("%+v", got)
	}
}
