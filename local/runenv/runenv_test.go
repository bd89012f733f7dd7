package runenv_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/keyproxy"
	"example.com/pushinbox/local/runenv"
)

// certificate returns a new certificate in PEM.
func certificate(t *testing.T, host string) []byte {
	t.Helper()
	pair, err := keyproxy.OpenCertificate(filepath.Join(t.TempDir(), "key"), []string{host})
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
}

func settings(t *testing.T) runenv.Settings {
	t.Helper()
	return runenv.Settings{
		PubSub: "127.0.0.1:8085", Project: "p", URL: "http://127.0.0.1:8080", Proxy: &url.URL{Scheme: "http", Host: "127.0.0.1:9"},
		Certificate: certificate(t, "www.googleapis.com"), Hosts: []string{"www.googleapis.com", "www.gstatic.com"},
		Dir: filepath.Join(t.TempDir(), "trust"), GOOS: "linux",
	}
}

// environment returns the variables that a program gets.
func environment(t *testing.T, s runenv.Settings, environ ...string) (map[string]string, []string) {
	t.Helper()
	e, err := runenv.New(environ, s)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, v := range e.Apply(environ) {
		name, value, _ := strings.Cut(v, "=")
		if _, twice := all[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		all[name] = value
	}
	return all, e.Notes
}

// trusts returns the first host of each certificate in a file.
func trusts(t *testing.T, file string) (hosts []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.DNSNames) > 0 {
			hosts = append(hosts, c.DNSNames[0])
		} else {
			hosts = append(hosts, "a root")
		}
	}
	return hosts
}

// TestTrust has every variable name the certificates that it named before, and the
// proxy's.
func TestTrust(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := make(map[string]string)
	for _, host := range []string{"go.example", "python.example", "node.example"} {
		files[host] = filepath.Join(dir, host)
		if err := os.WriteFile(files[host], certificate(t, host), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := settings(t)
	got, _ := environment(t, s, "SSL_CERT_FILE="+files["go.example"], "REQUESTS_CA_BUNDLE="+files["python.example"],
		"NODE_EXTRA_CA_CERTS="+files["node.example"], "HTTPLIB2_CA_CERTS="+files["python.example"])
	for name, before := range map[string]string{
		"SSL_CERT_FILE": "go.example", "CURL_CA_BUNDLE": "go.example", "REQUESTS_CA_BUNDLE": "python.example",
		"HTTPLIB2_CA_CERTS": "python.example", "NODE_EXTRA_CA_CERTS": "node.example",
	} {
		if diff := cmp.Diff([]string{before, "www.googleapis.com"}, trusts(t, got[name])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// A program that such a program starts gets the same.
	var inner []string
	for name, value := range got {
		inner = append(inner, name+"="+value)
	}
	again, notes := environment(t, s, inner...)
	if diff := cmp.Diff(got, again); diff != "" || len(notes) > 0 {
		t.Errorf("below it (-want +got):\n%s\n%q", diff, notes)
	}
	if _, err := runenv.New([]string{"REQUESTS_CA_BUNDLE=" + dir + "/none"}, s); err == nil || !strings.Contains(err.Error(), "REQUESTS_CA_BUNDLE") {
		t.Errorf("with a missing file: %v", err)
	}
	if _, err := runenv.New([]string{"SSL_CERT_FILE=" + os.DevNull}, s); err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
		t.Errorf("with an empty file: %v", err)
	}
}

// TestSystemRoots keeps the system's certificates where the user named none.
func TestSystemRoots(t *testing.T) {
	t.Parallel()
	got, notes := environment(t, settings(t))
	if file := got["SSL_CERT_FILE"]; file == "" && len(notes) == 0 || file != "" && len(trusts(t, file)) < 20 {
		t.Errorf("SSL_CERT_FILE is %q, and what is said %q", file, notes)
	}
	if diff := cmp.Diff([]string{"www.googleapis.com"}, trusts(t, got["NODE_EXTRA_CA_CERTS"])); diff != "" {
		t.Errorf("NODE_EXTRA_CA_CERTS (-want +got):\n%s", diff)
	}
}

// always is what is reached without a proxy in any case.
const always = "127.0.0.1,localhost,::1,169.254.169.254,metadata.google.internal"

func TestNoProxy(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ []string
		want    string
		notes   int
	}{
		"none":          {nil, always, 0},
		"merged":        {[]string{"NO_PROXY=a.example, b.example", "no_proxy=b.example,localhost,c.example"}, always + ",a.example,b.example,c.example", 0},
		"all":           {[]string{"NO_PROXY=*"}, always, 1},
		"the_keys":      {[]string{"NO_PROXY=.googleapis.com,x.example"}, always + ",x.example", 1},
		"with_a_port":   {[]string{"no_proxy=www.gstatic.com:443,www.gstatic.com:80"}, always + ",www.gstatic.com:80", 1},
		"said_once":     {[]string{"NO_PROXY=*", "no_proxy=*"}, always, 1},
		"another_name":  {[]string{"NO_PROXY=pubsub.googleapis.com"}, always + ",pubsub.googleapis.com", 0},
		"address_range": {[]string{"NO_PROXY=10.0.0.0/8"}, always + ",10.0.0.0/8", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, notes := environment(t, settings(t), test.environ...)
			if got["NO_PROXY"] != test.want || got["no_proxy"] != test.want || len(notes) != test.notes {
				t.Errorf("NO_PROXY=%s no_proxy=%s, notes %q", got["NO_PROXY"], got["no_proxy"], notes)
			}
		})
	}
}

// TestSystems says on each system what cannot work there.
func TestSystems(t *testing.T) {
	t.Parallel()
	for goos, want := range map[string]string{"linux": "", "freebsd": "", "darwin": "add-trusted-cert", "windows": "certutil"} {
		s := settings(t)
		s.GOOS = goos
		_, notes := environment(t, s)
		said := slices.ContainsFunc(notes, func(note string) bool { return strings.Contains(note, "Go programs") && strings.Contains(note, want) })
		if said != (want != "") {
			t.Errorf("%s: %q", goos, notes)
		}
	}
	s := settings(t)
	s.Proxy.User = url.UserPassword("pushinbox", "secret")
	got, notes := environment(t, s)
	if got["HTTPS_PROXY"] != "http://pushinbox:secret@127.0.0.1:9" || got["JAVA_TOOL_OPTIONS"] != "" || len(notes) != 1 || strings.Contains(notes[0], "secret") {
		t.Errorf("with a password: %v, %q", got, notes)
	}
}

func TestExports(t *testing.T) {
	t.Parallel()
	e := runenv.Environment{Variables: []runenv.Variable{{"A", "it's $HOME"}, {"B", ""}}}
	if got := e.Exports(); got != "export A='it'\\''s $HOME'\nexport B=''\n" {
		t.Error(got)
	}
}
