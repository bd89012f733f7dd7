package runenv

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"example.com/pushinbox/local/datadir"
)

const (
	// maxRoots is how much of the files with certificates is read, in bytes.
	maxRoots = 16 << 20
	// storePassword is Java's own default: a store of certificates is no secret.
	storePassword = pkcs12.DefaultPassword
)

// SystemFiles are where systems have the certificates that they trust, the first
// that is there. Windows has no such file.
var SystemFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Arch, Gentoo
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, Red Hat
	"/etc/pki/tls/certs/ca-bundle.crt",                  // older ones
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/ssl/cert.pem",                                 // Alpine, macOS, OpenBSD
	"/usr/local/etc/ssl/cert.pem",                       // FreeBSD
}

// trusting are the variables that name a file with all certificates to trust, each
// with those that say which these are so far.
var trusting = []struct {
	name   string
	before []string
}{
	{"SSL_CERT_FILE", []string{"SSL_CERT_FILE"}},                             // Go on Linux and BSD, OpenSSL, .NET, Ruby
	{"REQUESTS_CA_BUNDLE", []string{"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}}, // Python's requests
	{"CURL_CA_BUNDLE", []string{"CURL_CA_BUNDLE", "SSL_CERT_FILE"}},          // curl
	{"HTTPLIB2_CA_CERTS", []string{"HTTPLIB2_CA_CERTS"}},                     // Python's httplib2
}

// leafFile is the file with the proxy's certificate alone.
func leafFile(dir string) string { return filepath.Join(dir, "proxy.pem") }

// trust sets the variables that name files with certificates, and writes these.
func (e *Environment) trust(given variables, s Settings) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	leaf := certificates(s.Certificate)
	if len(leaf) != 1 {
		return errors.New("runenv: Certificate is not one certificate")
	}
	if err := write(leafFile(s.Dir), encode(leaf)); err != nil {
		return err
	}
	system, err := systemRoots()
	if err != nil {
		return err
	}
	var missing []string
	for _, v := range trusting {
		roots, err := given.certificates(v.before, system)
		if err != nil {
			return err
		}
		if len(roots) == 0 {
			missing = append(missing, v.name)
			continue
		}
		file, err := bundle(s.Dir, append(roots, leaf...))
		if err != nil {
			return err
		}
		e.set(v.name, file)
	}
	// Node adds these to the ones that it has.
	extra, err := given.certificates([]string{"NODE_EXTRA_CA_CERTS"}, nil)
	if err != nil {
		return err
	}
	file, err := bundle(s.Dir, append(extra, leaf...))
	if err != nil {
		return err
	}
	e.set("NODE_EXTRA_CA_CERTS", file)
	roots, err := given.certificates([]string{"SSL_CERT_FILE"}, system)
	switch {
	case err != nil:
		return err
	case len(roots) == 0:
		missing = append(missing, "JAVA_TOOL_OPTIONS")
	case s.Proxy.User == nil:
		store, err := javaStore(s.Dir, append(roots, leaf...))
		if err != nil {
			return err
		}
		e.set("JAVA_TOOL_OPTIONS", e.java(given, s.Proxy, store))
	}
	if len(missing) > 0 {
		e.Notes = append(e.Notes, "this system has no file with the certificates that it trusts, so that "+strings.Join(missing, ", ")+
			" are not set: set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to such a file, as python -m certifi prints one, and start again")
	}
	return nil
}

// certificates returns the certificates of the file that the first of the variables
// names, or else those of the system.
func (v variables) certificates(names []string, system [][]byte) ([][]byte, error) {
	path, name := v.first(names...)
	if path == "" {
		return append([][]byte(nil), system...), nil
	}
	all, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("%s names certificates that cannot be read: %w; correct it, or unset it", name, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s names %s, in which there is no certificate; correct it, or unset it", name, path)
	}
	return all, nil
}

// systemRoots returns what the system trusts, or nothing where it has no file of it.
func systemRoots() ([][]byte, error) {
	for _, path := range SystemFiles {
		all, err := read(path)
		if len(all) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			return all, err
		}
	}
	return nil, nil
}

// read returns the certificates of a file, or of the files of a directory.
func read(path string) (all [][]byte, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		files = nil
		for _, entry := range entries {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	left := int64(maxRoots)
	for _, name := range files {
		if info, err := os.Stat(name); len(files) > 1 && (err != nil || !info.Mode().IsRegular()) {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(f, left+1))
		_ = f.Close()
		if left -= int64(len(b)); err == nil && left < 0 {
			err = fmt.Errorf("%s has over %d bytes", path, maxRoots)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, certificates(b)...)
	}
	return all, nil
}

// certificates returns the certificates in PEM.
func certificates(b []byte) (all [][]byte) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			all = append(all, block.Bytes)
		}
	}
	return all
}

// encode returns certificates in PEM, each once.
func encode(all [][]byte) []byte {
	var b bytes.Buffer
	seen := make(map[string]bool)
	for _, der := range all {
		if !seen[string(der)] {
			seen[string(der)] = true
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // to memory
		}
	}
	return b.Bytes()
}

// bundle returns a file with these certificates. It is named by its content: what
// one program was told does not change under another.
func bundle(dir string, all [][]byte) (string, error) {
	b := encode(all)
	path := name(dir, b) + ".pem"
	return path, write(path, b)
}

// javaStore returns a file with these certificates in Java's form.
func javaStore(dir string, all [][]byte) (string, error) {
	b := encode(all)
	path := name(dir, b) + ".p12"
	if _, err := os.Stat(path); err == nil {
		return path, nil // every encoding of it has a salt of its own
	}
	var parsed []*x509.Certificate
	for _, der := range certificates(b) {
		if c, err := x509.ParseCertificate(der); err == nil { // Java could not read it either
			parsed = append(parsed, c)
		}
	}
	store, err := pkcs12.Modern.EncodeTrustStore(parsed, storePassword)
	if err != nil {
		return "", fmt.Errorf("the certificates for Java: %w", err)
	}
	return path, write(path, store)
}

// write writes a file that others may read, whole or not at all, unless it has this
// content.
func write(path string, content []byte) error {
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, content) {
		return nil
	}
	return datadir.ReplaceReadable(path, content)
}

// name returns the path, without an extension, of what has these certificates.
func name(dir string, content []byte) string {
	sum := sha256.Sum256(content)
	return filepath.Join(dir, fmt.Sprintf("roots-%x", sum[:8]))
}
