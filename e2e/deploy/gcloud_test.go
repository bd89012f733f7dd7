package deploy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/need"
)

// oneGcloud is the environment in which gcloud, which takes a second to load, is loaded
// once for all tests, see testdata/gcloud.py. It is empty where that does not work:
// gcloud then runs as ever.
var oneGcloud = sync.OnceValue(func() []string {
	sdk, err := emulator.SDKRoot()
	if err != nil {
		return nil
	}
	program, err := filepath.Abs("testdata/gcloud.py")
	if err != nil {
		return nil
	}
	path := filepath.Join(scratch, "gcloud.sock")
	server := exec.Command("python3", "-S", program, "serve", filepath.Join(sdk, "lib"), path)
	server.Env = append(os.Environ(), "CLOUDSDK_CONFIG="+scratch)
	stdin, err := server.StdinPipe() // ends with this process, and with it the server
	if err != nil {
		return nil
	}
	stdout, err := server.StdoutPipe()
	if err != nil || server.Start() != nil {
		return nil
	}
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		_ = stdin.Close()
		_ = server.Wait()
		return nil
	}
	endGcloud = func() {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		_ = server.Wait()
	}
	python := filepath.Join(scratch, "python")
	if err := os.WriteFile(python, fmt.Appendf(nil, "#!/bin/sh\nexec python3 -SE '%s' call '%s' \"$@\"\n", program, path), 0o755); err != nil {
		return nil
	}
	return []string{"CLOUDSDK_PYTHON=" + python}
})

// endGcloud ends what oneGcloud started.
var endGcloud = func() {}

// TestOneGcloud holds that a gcloud that is loaded already says what another says.
func TestOneGcloud(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	if len(oneGcloud()) == 0 {
		need.Missing(t, "gcloud cannot be loaded with python3: install the version of Python that it wants")
	}
	c := newCloud(t)
	for _, args := range [][]string{
		{"config", "get-value", "project"},
		{"functions", "describe", "receive", "--gen2", "--region=europe-west1", "--quiet"},
		{"functions", "deploy", "receive", "--no-such-flag"},
	} {
		var said [2]string
		for i, python := range []string{"CLOUDSDK_PYTHON=", oneGcloud()[0]} {
			cmd := exec.CommandContext(t.Context(), "gcloud", args...)
			cmd.Env = append(append(os.Environ(), c.environment(t)...), "CLOUDSDK_CORE_PROJECT=demo-project", python)
			out, err := cmd.CombinedOutput()
			said[i] = fmt.Sprintf("%s%v", out, err)
		}
		if said[0] != said[1] {
			t.Errorf("gcloud %s says\n%s\nand when it is loaded already\n%s", strings.Join(args, " "), said[0], said[1])
		}
	}
}
