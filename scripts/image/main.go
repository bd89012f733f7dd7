// Command image makes a container image of pushinbox without a container engine: a
// tarball for docker load, podman load or a registry's tool. The image holds the
// program, the roots that TLS needs, a user, /tmp and /data, and nothing else: no
// shell, no libraries.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"example.com/pushinbox/local/runenv"
)

const (
	// uid is the user and the group that the program runs as, "nonroot" of other
	// small images.
	uid = 65532
	// program and roots are paths in the image.
	program = "pushinbox"
	roots   = "etc/ssl/certs/ca-certificates.crt"
)

func main() {
	var o options
	flag.StringVar(&o.out, "o", "pushinbox.tar", "the tarball to write")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "the architecture: amd64 or arm64")
	flag.StringVar(&o.tag, "tag", "pushinbox:local", "the name that the image has once it is loaded")
	flag.StringVar(&o.roots, "roots", "", "a file with the roots for TLS, as PEM; this machine's by default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "image: %q is one argument too many; see go run ./scripts/image -h\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := o.write(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Printf("%s has %s for linux/%s; load it with: docker load -i %[1]s\n", o.out, o.tag, o.arch)
}

type options struct{ out, arch, tag, roots string }

// write builds the program and writes the image.
func (o options) write(ctx context.Context) error {
	tag, err := name.NewTag(o.tag)
	if err != nil {
		return fmt.Errorf("-tag: %w", err)
	}
	certificates, err := readRoots(o.roots)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pushinbox-image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	built := filepath.Join(dir, program)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", built, "example.com/pushinbox/scripts/pushinbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building pushinbox for linux/%s: %w\n%s", o.arch, err, bytes.TrimSpace(out))
	}
	binary, err := os.ReadFile(built)
	if err != nil {
		return err
	}
	image, err := newImage(o.arch, binary, certificates)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(o.out, tag, image)
}

func readRoots(file string) ([]byte, error) {
	files := runenv.SystemFiles
	if file != "" {
		files = []string{file}
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte("BEGIN CERTIFICATE")) {
			return b, nil
		}
	}
	return nil, fmt.Errorf("no roots for TLS in %s; give a PEM file with -roots", strings.Join(files, ", "))
}

// newImage returns the image. Equal contents give an equal image.
func newImage(arch string, binary, certificates []byte) (v1.Image, error) {
	content, err := layer(binary, certificates)
	if err != nil {
		return nil, err
	}
	opened, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, opened)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		User:         fmt.Sprintf("%d:%[1]d", uid),
		Env:          []string{"PATH=/", "HOME=/data", "SSL_CERT_FILE=/" + roots},
		Entrypoint:   []string{"/" + program},
		Cmd:          []string{"local", "--host", "0.0.0.0", "--data", "/data"},
		WorkingDir:   "/data",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "8085/tcp": {}},
		Volumes:      map[string]struct{}{"/data": {}},
	}
	return mutate.ConfigFile(image, config)
}

// layer returns the files of the image as a tar archive.
func layer(binary, certificates []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name    string
		mode    int64
		owner   int
		content []byte
	}{
		{"data/", 0o700, uid, nil},
		{"etc/", 0o755, 0, nil},
		{"etc/group", 0o644, 0, fmt.Appendf(nil, "root:x:0:\n%s:x:%d:\n", program, uid)},
		{"etc/passwd", 0o644, 0, fmt.Appendf(nil, "root:x:0:0:root:/:/nologin\n%s:x:%d:%[2]d:%[1]s:/data:/nologin\n", program, uid)},
		{"etc/ssl/", 0o755, 0, nil},
		{"etc/ssl/certs/", 0o755, 0, nil},
		{roots, 0o644, 0, certificates},
		{program, 0o755, 0, binary},
		{"tmp/", 0o1777, 0, nil},
	} {
		h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.content)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
