package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/testkit/need"
)

// TestDocumentedCommands runs the commands of README and docs for a local run, as
// they stand there, against a pushinbox local on a port and in a directory of its
// own.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	const root = "../.."
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	// e2e/examples runs these, which need the functions.
	elsewhere := regexp.MustCompile("(?s)\n### The functions as they are deployed\n.*?\n## ")
	var text []byte
	for _, page := range append([]string{filepath.Join(root, "README.md")}, pages...) {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, elsewhere.ReplaceAll(b, nil)...)
	}
	data := t.TempDir()
	l := start(t, data)
	port := l.base[strings.LastIndexByte(l.base, ':')+1:]
	here := strings.NewReplacer(
		"go run ./scripts/pushinbox calendar watch --local", command+" calendar watch --local --port "+port,
		"go run ./scripts/pushinbox send", command+" send --url "+l.base+"/receive",
		"go run ./scripts/pushinbox token", command+" token --address "+l.base,
		"go run ./scripts/pushinbox", command,
		"http://127.0.0.1:8080", l.base,
		".local/", data+"/",
	)
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		script := block[1]
		for _, other := range []string{"pushinbox local\n", "go test", "terraform", "gcloud", "scripts/deploy"} {
			if strings.Contains(script, other) {
				script = ""
			}
		}
		for _, line := range commands(script) {
			ran++
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			line = here.Replace(line)
			if strings.Contains(line, "/mns/") {
				line = strings.Replace(line, "/receive", "/mns", 1)
			}
			// Without -f curl takes a refusal for success; the live tail never ends.
			prefix := "curl() { command curl -fsS --max-time 20 \"$@\"; }\n"
			want := 0
			switch {
			case strings.Contains(line, "curl -N"):
				prefix, want = "curl() { command curl -fsS --max-time 1 \"$@\"; }\n", 28
			case strings.Contains(line, "aud=wrong"):
				want = 1
			case strings.Contains(line, " listen "): // until Ctrl-C
				line = "timeout --preserve-status -s INT 2 " + line
			}
			cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", prefix+line)
			cmd.Dir, cmd.Env = root, append(os.Environ(), envURL+"="+l.base, "XDG_CONFIG_HOME="+data)
			out, _ := cmd.CombinedOutput()
			cancel()
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("exit %d, want %d: %s\n%s", got, want, line, out)
			}
		}
	}
	if ran < 15 {
		t.Errorf("only %d commands were found", ran)
	}
}

// commands are the commands of a script, without comments.
func commands(script string) (all []string) {
	for _, line := range strings.Split(strings.ReplaceAll(script, "\\\n", " "), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}
