//go:build unix

package examples

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
)

// wrapper is a pushinbox that is told where its data is, as DATA.
const wrapper = `#!/bin/bash
case $1 in
mns) exec COMMAND mns "$2" --data DATA "${@:3}" ;;
*) exec COMMAND "$1" --data DATA "${@:2}" ;;
esac
`

// documented returns the scripts of docs/local.md for each function: what starts it,
// and what tries it. Each is a block of its own, which people paste into a terminal.
func documented(t *testing.T) (start, try map[string]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "local.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n### The functions as they are deployed\n")
	section, _, found := strings.Cut(section, "\n## ")
	if !found {
		t.Fatal("docs/local.md has no section on the functions as they are deployed")
	}
	start, try = make(map[string]string), make(map[string]string)
	name := ""
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)\n```").FindAllStringSubmatch(section, -1) {
		script := block[1]
		into := try
		if _, after, ok := strings.Cut(script, "FUNCTION_TARGET="); ok {
			name, into = strings.Fields(after)[0], start
		} else if strings.Contains(script, "pushinbox local --push") {
			name, into = "local", start
		}
		if into[name] != "" {
			t.Fatalf("docs/local.md has two scripts for %q:\n%s\n%s", name, into[name], script)
		}
		into[name] = script
	}
	return start, try
}

// script is a script of the document that runs here.
func (w *walk) script(t *testing.T, text string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", "curl() { command curl -fsS --max-time 20 \"$@\"; }\n"+w.here.Replace(text))
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOOGLE_CLOUD_PROJECT="+w.project, "GOOGLE_APPLICATION_CREDENTIALS="+w.credentials)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// walk is a walk through the document.
type walk struct {
	here                 *strings.Replacer
	project, credentials string
}

// background runs a script until the test ends.
func (w *walk) background(t *testing.T, text string) *program {
	t.Helper()
	p := new(program)
	cmd := w.script(t, text)
	cmd.Stdout, cmd.Stderr = p, p
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", text, p.printed())
		}
	})
	return p
}

// TestFunctions walks through docs/local.md: every function runs as it is deployed,
// and takes what the local Pub/Sub, the stand-in for MNS and a person send it.
func TestFunctions(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	start, try := documented(t)
	w := &walk{project: emulator.Project(), credentials: google.AccountKey(t)}
	dir := t.TempDir()
	data, pushinbox := filepath.Join(dir, "data"), filepath.Join(dir, "pushinbox")
	script := strings.NewReplacer("COMMAND", thisMachine.command, "DATA", data).Replace(wrapper)
	if err := os.WriteFile(pushinbox, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	ports := map[string]string{"receive": "8081", "publish": "8082", "console": "8083", "calendar": "8084", "mns": "8086"}
	replace := []string{"127.0.0.1:8090", emulator.Firestore(t), "go run ./scripts/pushinbox local", pushinbox + " local --port 0 --pubsub-port 0 --format json --quiet",
		"go run ./scripts/pushinbox", pushinbox, "projects/local/", "projects/" + w.project + "/"}
	for name, written := range ports {
		ports[name] = port.Reserve(t)
		replace = append(replace, ":"+written, ":"+ports[name], "PORT="+written, "PORT="+ports[name])
	}
	w.here = strings.NewReplacer(replace...)
	running := w.background(t, start["local"])
	running.prints(t, "\n")
	var here stack.Addresses
	if err := json.Unmarshal([]byte(strings.SplitN(running.printed(), "\n", 2)[0]), &here); err != nil {
		t.Fatal(err)
	}
	w.here = strings.NewReplacer(append(replace, "127.0.0.1:8085", here.PubSubEmulatorHost)...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for name := range ports {
		w.background(t, start[name])
	}
	for name, at := range ports {
		if err := port.Listening(ctx, at); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "console" {
			continue
		}
		if out, err := w.script(t, try[name]).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		} else if want := map[string]string{"publish": "messageIds", "calendar": `"channels"`}[name]; !strings.Contains(string(out), want) {
			t.Errorf("%s: %s", name, out)
		}
	}
	if t.Failed() {
		return
	}
	if err := port.Until(ctx, func() error {
		out, err := w.script(t, try["console"]).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"SGVsbG8="`) || !strings.Contains(string(out), "/subscriptions/orders-push-1") || !strings.Contains(string(out), `"source":"mns"`) {
			return fmt.Errorf("console: %v: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := port.Until(ctx, func() error {
		out, err := exec.CommandContext(ctx, "curl", "-fsS", here.URL+"/messages").CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"SGVsbG8="`) {
			return fmt.Errorf("what publish published: %v: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	for name, path := range map[string]string{"receive": "/wrapped", "publish": "/", "console": "/messages", "calendar": "/channels", "mns": "/orders"} {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:"+ports[name]+path, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer a.b.c")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%s answers a forged token with %s", name, resp.Status)
		}
	}
}
