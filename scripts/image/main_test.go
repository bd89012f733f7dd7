//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestImageRuns unpacks an image as an engine does, and runs its command with its
// user and its environment, and where this process may, with its files alone.
func TestImageRuns(t *testing.T) {
	t.Parallel()
	certificates, err := readRoots("")
	if err != nil {
		t.Fatal(err)
	}
	image, err := newImage(runtime.GOARCH, static(t), certificates)
	if err != nil {
		t.Fatal(err)
	}
	again, err := newImage(runtime.GOARCH, []byte("program"), certificates)
	if err != nil {
		t.Fatal(err)
	}
	same, err := newImage(runtime.GOARCH, []byte("program"), certificates)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, again), digest(t, same); a != b {
		t.Errorf("equal contents give %s and %s", a, b)
	}
	// By the file, as an engine loads it.
	file, tag := filepath.Join(t.TempDir(), "image.tar"), name.MustParseReference("pushinbox:local").(name.Tag)
	if err := tarball.WriteToFile(file, tag, image); err != nil {
		t.Fatal(err)
	}
	if image, err = tarball.ImageFromPath(file, &tag); err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	unpack(t, image, root)
	pem, err := os.ReadFile(filepath.Join(root, roots))
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
		t.Errorf("no roots: %v", err)
	}

	run := config.Config
	args := append(append(run.Entrypoint[1:], run.Cmd...), "--port=0", "--pubsub-port=0", "--format=json", "--exit-with-stdin")
	cmd := exec.Command(run.Entrypoint[0], args...)
	cmd.Env, cmd.Dir = run.Env, run.WorkingDir
	within := root // where the paths of the process lie
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	} else {
		t.Log("only root may change the root: the program runs with this machine's files")
		cmd = exec.Command(filepath.Join(root, program), strings.Split(strings.ReplaceAll(strings.Join(args, "\n"), "/data", root+"/data"), "\n")...)
		within = ""
	}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Scan()
	var at struct{ URL, PubSubEmulatorHost, KeyFile string }
	if err := json.Unmarshal(lines.Bytes(), &at); err != nil {
		t.Fatalf("%v: %q, %s", err, lines.Text(), errs.String())
	}
	key, err := os.ReadFile(filepath.Join(within, at.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{at.URL + "/messages", "http://" + at.PubSubEmulatorHost + "/v1/projects/local/topics"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := strings.Cut(strings.TrimSpace(string(key)), ": ")
		r.Header.Set("Authorization", value)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answered %s", address, resp.Status)
		}
	}
	_ = in.Close()
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, errs.String())
	}
}

// static builds pushinbox so that it needs no file of this machine, out of what other
// tests have compiled already: the command itself compiles all of it without cgo.
func static(t *testing.T) []byte {
	t.Helper()
	built := filepath.Join(t.TempDir(), program)
	build := func(flags string, environment ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags="+flags, "-o", built, "example.com/pushinbox/scripts/pushinbox")
		cmd.Env = append(os.Environ(), environment...)
		return cmd.CombinedOutput()
	}
	out, err := build("-s -w -linkmode=external -extldflags=-static")
	if err != nil { // without a compiler for C
		out, err = build("-s -w", "CGO_ENABLED=0")
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func digest(t *testing.T, image v1.Image) string {
	t.Helper()
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// unpack writes the files of an image below root, with their owners where this
// process may.
func unpack(t *testing.T, image v1.Image, root string) {
	t.Helper()
	content := mutate.Extract(image)
	defer content.Close()
	for files := tar.NewReader(content); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var b []byte
			if b, err = io.ReadAll(files); err == nil {
				err = os.WriteFile(path, b, 0o600)
			}
		}
		if err == nil && os.Geteuid() == 0 {
			err = os.Chown(path, h.Uid, h.Gid)
		}
		if err == nil {
			err = os.Chmod(path, h.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
