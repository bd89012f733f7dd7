package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
)

// TestCommandsFindTheRun calls a pushinbox local on a free port in each way that
// needs no port, and one that was killed.
func TestCommandsFindTheRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, stack.DefaultData)
	r := start(t, data)
	sample, err := filepath.Abs("../../testdata/pubsub/sample_message.json")
	if err != nil {
		t.Fatal(err)
	}
	// in runs the command in a directory, with a variable.
	in := func(dir, variable string, args ...string) (string, int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, command, args...)
		cmd.Dir, cmd.Env = dir, append(cmd.Environ(), variable)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	elsewhere := t.TempDir()
	fromMNS := filepath.Join(filepath.Dir(filepath.Dir(sample)), "mns", "xml.http")
	for _, args := range [][]string{
		{"send", sample}, {"send", fromMNS}, {"token"}, {"calendar", "list", "--local"}, {"mns", "list"},
	} {
		if out, code := in(dir, "", args...); code != 0 {
			t.Errorf("%q below the data directory: exit %d, %s", args, code, out)
		}
		if out, code := in(elsewhere, "", append(args, "--data", data)...); code != 0 {
			t.Errorf("%q with --data: exit %d, %s", args, code, out)
		}
		if out, code := in(elsewhere, envURL+"="+r.base, args...); code != 0 {
			t.Errorf("%q with %s: exit %d, %s", args, envURL, code, out)
		}
	}
	for name, c := range map[string]struct {
		variable string
		args     []string
		code     int
		want     string
	}{
		"bad_variable":    {envURL + "=localhost:1", []string{"token"}, exitUsage, envURL + ` "localhost:1" is not a URL`},
		"variable_first":  {envURL + "=http://127.0.0.1:1", []string{"token"}, exitFailed, "nothing answers at http://127.0.0.1:1"},
		"flag_first":      {envURL + "=http://127.0.0.1:1", []string{"token", "--data", data}, 0, ""},
		"two_places":      {"", []string{"token", "--data", data, "--url", r.base}, exitUsage, "give one of --url, --port and --data"},
		"nothing_there":   {"", []string{"token", "--data", elsewhere}, exitFailed, "there is no " + filepath.Join(elsewhere, "local.json")},
		"empty_url":       {"", []string{"token", "--url", ""}, exitUsage, `--url is ""; it must be a URL`},
		"endpoint_and_at": {"", []string{"mns", "list", "--endpoint", r.base, "--data", data}, exitUsage, "give either an endpoint or --data"},
	} {
		if out, code := in(dir, c.variable, c.args...); code != c.code || !strings.Contains(out, c.want) || c.code != 0 && strings.Count(out, "\n") != 1 {
			t.Errorf("%s: exit %d, %q", name, code, out)
		}
	}
	if err := r.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if out, code := in(dir, "", "token"); code != exitFailed || !strings.Contains(out, filepath.Join(data, "local.json")) || !strings.Contains(out, "has ended") {
		t.Errorf("after kill -9: exit %d, %q", code, out)
	}
}

// TestCommandsBringTheKey has the commands find the key of a run with --host.
func TestCommandsBringTheKey(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	start(t, data, "--host=0.0.0.0")
	if out, errs, code := run(t, "", "send", "--data", data, "../../testdata/pubsub/sample_message.json"); code != 0 {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
}
