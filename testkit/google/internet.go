package google

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// Internet is the only way out that a program under test has: a proxy behind
// which some hosts, such as those of Google's keys, are stood in for, and no
// other is reached. The programs are the deployed ones, which trust Google alone.
type Internet struct {
	// Environment has the variables that lead a program there.
	Environment []string

	mu      sync.Mutex
	refused []string
}

// Refused returns what was asked for and is not stood in for.
func (in *Internet) Refused() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.refused)
}

// NewInternet returns an Internet with these hosts, each of which answers over
// https as its transport does, until the test ends.
func NewInternet(tb testing.TB, hosts map[string]http.RoundTripper) *Internet {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "testkit"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              slices.Collect(maps.Keys(hosts)),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}

	server := httptest.NewUnstartedServer(Relay(byHost(hosts)))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	tb.Cleanup(server.Close)

	in := new(Internet)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, port, _ := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || port != "443" || hosts[host] == nil {
			in.mu.Lock()
			in.refused = append(in.refused, r.Method+" "+r.Host)
			in.mu.Unlock()
			http.Error(w, "no way there", http.StatusForbidden)
			return
		}
		out, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = out.Close()
			return
		}
		go func() { _, _ = io.Copy(out, buffered); _ = out.Close() }()
		_, _ = io.Copy(conn, out)
		_ = conn.Close()
	}))
	tb.Cleanup(proxy.Close)
	in.Environment = []string{"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + roots, "SSL_CERT_DIR=" + dir}
	return in
}

// byHost answers a request as the transport of its host does.
type byHost map[string]http.RoundTripper

func (b byHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if t := b[r.Host]; t != nil {
		return t.RoundTrip(r)
	}
	return nil, errors.New("testkit: " + r.Host + " is not stood in for")
}
