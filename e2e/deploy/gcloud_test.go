package deploy

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/need"
)

// oneGcloud is the environment in which gcloud, which takes a second to load, is loaded
// once for all tests, see testdata/gcloud.py. Where that does not work it is empty, and
// gcloud runs as usual.
var oneGcloud = sync.OnceValue(func() []string {
	env, err := startGcloud()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gcloud is loaded for each call:", err)
	}
	return env
})

func startGcloud() ([]string, error) {
	sdk, err := emulator.SDKRoot()
	if err != nil {
		return nil, err
	}
	program, err := filepath.Abs("testdata/gcloud.py")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(scratch, "gcloud.sock")
	server := exec.Command("python3", "-S", program, "serve", filepath.Join(sdk, "lib"), path)
	server.Env = append(os.Environ(), "CLOUDSDK_CONFIG="+scratch)
	server.Stderr = os.Stderr
	stdin, err := server.StdinPipe() // ends with this process, and with it the server
	if err != nil {
		return nil, err
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, err
	}
	endGcloud = func() {
		_ = stdin.Close()
		_ = server.Wait()
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return nil, err
	}
	python := filepath.Join(scratch, "python")
	if err := os.WriteFile(python, fmt.Appendf(nil, "#!/bin/sh\nexec python3 -SE '%s' call '%s' \"$@\"\n", program, path), 0o755); err != nil {
		return nil, err
	}
	return []string{"CLOUDSDK_PYTHON=" + python}, nil
}

// endGcloud ends what startGcloud started.
var endGcloud = func() {}

// TestOneGcloud checks that the gcloud that is loaded once prints and ends as another does,
// with the settings of its caller.
func TestOneGcloud(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	if len(oneGcloud()) == 0 {
		need.Missing(t, "gcloud cannot be loaded with python3: install the version of Python that it wants")
	}
	env := newCloud(t).environment(t)
	config := t.TempDir()
	write(t, filepath.Join(config, "configurations", "config_default"), "[core]\nproject = demo-project\n")
	write(t, filepath.Join(config, "active_config"), "default")
	env = append(append(os.Environ(), env...), "CLOUDSDK_CONFIG="+config)
	for _, test := range []struct{ command, want string }{
		{"config get-value project", "demo-project\n"},
		{"functions describe receive --gen2 --region=europe-west1 --quiet", "exit status 1"},
		{"functions deploy receive --no-such-flag", "exit status 2"},
	} {
		var said [2]string
		for i, python := range []string{"CLOUDSDK_PYTHON=", oneGcloud()[0]} {
			cmd := exec.CommandContext(t.Context(), "gcloud", strings.Fields(test.command)...)
			cmd.Env = append(slices.Clip(env), python)
			out, err := cmd.CombinedOutput()
			said[i] = string(out)
			if err != nil {
				said[i] += err.Error()
			}
		}
		if said[0] != said[1] || !strings.Contains(said[1], test.want) {
			t.Errorf("gcloud %s says\n%s\nand when it is loaded already\n%s\nwant %q", test.command, said[0], said[1], test.want)
		}
	}
}
