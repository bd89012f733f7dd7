package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
)

// TestDeployedConsoleInABrowser puts pushinbox console in front of a console
// that wants an ID token. In gcloud's place is a script that makes a local one.
func TestDeployedConsoleInABrowser(t *testing.T) {
	t.Parallel()
	l := start(t, t.TempDir())
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in\n*impersonate-service-account=stranger@p*) echo 'no permission' >&2; exit 1;;\n"+
		"'auth print-identity-token --include-email --impersonate-service-account=%s --audiences=%s') exec curl -s '%s/local/token?for=console&aud=%s/';;\n"+
		"*) echo \"called with $*\" >&2; exit 2;;\nesac\n", stack.Developer, l.base, l.base, l.base)
	if err := os.WriteFile(filepath.Join(bin, "gcloud"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	console := func(account string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), command, "console", "--url", l.base, "--account", account, "--port", "0")
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		return cmd
	}
	if out, err := console("stranger@p").CombinedOutput(); err == nil || !strings.Contains(string(out), "no permission") {
		t.Errorf("without a token: %v %s", err, out)
	}

	cmd := console(stack.Developer)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(line, " is at ")
	base, _, _ := strings.Cut(rest, "/,")
	ask := func(method, path, body string, header ...string) (int, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Host" {
				r.Host = header[i+1]
			}
			r.Header.Set(header[i], header[i+1])
		}
		status, b := do(t, r)
		return status, string(b)
	}
	if status, body := ask(http.MethodGet, "/", "", "Accept", "text/html"); status != 200 || !strings.Contains(body, "Signed in as</span> <bdi>"+stack.Developer) {
		t.Errorf("the page: %d %s", status, body)
	}
	if status, body := ask(http.MethodPost, "/messages", "payload=hi", "Content-Type", "application/x-www-form-urlencoded", "Origin", base, "Sec-Fetch-Site", "same-origin"); status != 200 {
		t.Errorf("publishing from the page: %d %s", status, body)
	}
	for name, header := range map[string][]string{
		"another_site":   {"Origin", "https://evil.example"},
		"another_site_2": {"Sec-Fetch-Site", "cross-site"},
		"rebound_name":   {"Host", "evil.example"},
	} {
		if status, body := ask(http.MethodGet, "/messages", "", header...); status != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	resp, err := http.Get(base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAtLeast(resp.Body, make([]byte, 20), 20); err != nil {
		t.Errorf("the live feed: %v", err)
	}
}
