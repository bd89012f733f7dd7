// Package deploy tests what a user runs to get the inbox to Google Cloud:
// scripts/deploy with the real gcloud against a stub of Google's APIs, the
// Terraform module, and each function as it is deployed, from its staged source
// and with the settings that Terraform gives it.
package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/testkit/tfmodule"
)

// root is the root of the checkout.
const root = "../.."

// scratch lives as long as the process: what several tests share is there.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		// What is staged is built without its folder's name, so that the functions, and
		// runs of the tests, share what is built of shared/.
		err := os.Setenv("GOFLAGS", os.Getenv("GOFLAGS")+" -trimpath")
		if err == nil {
			scratch, err = os.MkdirTemp("", "deploytest")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() {
			endGcloud()
			_ = os.RemoveAll(scratch)
		}()
		return m.Run()
	}())
}

// output runs a command and returns what it prints to its standard output. The
// error holds all that it prints.
func output(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	if env != nil {
		cmd.Env = append(os.Environ(), env...)
	}
	var stdout bytes.Buffer
	var all transcript
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &all), &all
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, all.text.String())
	}
	return stdout.String(), nil
}

// transcript takes both of a command's streams, which come at the same time.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

// functionNames returns the folders of functions/ that are functions.
func functionNames(tb testing.TB) []string {
	tb.Helper()
	names, err := tfmodule.Functions()
	if err != nil {
		tb.Fatal(err)
	}
	if len(names) < 3 {
		tb.Fatalf("functions %v, want publish, receive and console at least", names)
	}
	return names
}
