// Package google stands in for the parts of Google that a function asks whom it
// talks to: an issuer of ID tokens whose keys are served as Google's, and the
// key of a service account.
package google

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/verify"
)

// issuer is one for all tests of a process: its RSA key takes longer than most of them.
var issuer = sync.OnceValues(func() (*pushfake.Issuer, error) { return pushfake.NewIssuer(nil) })

// Issuer returns an issuer of tokens, whose keys are the same in all tests of a
// process, and a new verifier that has its keys in place of Google's.
func Issuer(tb testing.TB) (*pushfake.Issuer, *verify.Verifier) {
	tb.Helper()
	issuer, err := issuer()
	if err != nil {
		tb.Fatal(err)
	}
	return issuer, Verifier(tb, issuer.Transport())
}

// Verifier returns a verifier that gets its keys over transport.
func Verifier(tb testing.TB, transport http.RoundTripper) *verify.Verifier {
	tb.Helper()
	verifier, err := verify.New(&verify.Options{Transport: transport})
	if err != nil {
		tb.Fatal(err)
	}
	return verifier
}

// Token returns a token of the issuer with this audience and e-mail address.
func Token(tb testing.TB, issuer *pushfake.Issuer, audience, email string) string {
	tb.Helper()
	token, err := issuer.IDToken(map[string]any{"aud": audience, "email": email})
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// Mint returns what creates ID tokens of the issuer for an audience and an account,
// but for the claims given; nil leaves a claim out.
func Mint(issuer *pushfake.Issuer, audience, email string) func(claims map[string]any) (string, error) {
	return func(claims map[string]any) (string, error) {
		all := map[string]any{"aud": audience, "email": email}
		maps.Copy(all, claims)
		return issuer.IDToken(all)
	}
}

// Keys returns the JSON Web Key Set of the issuer's tokens.
func Keys(tb testing.TB, issuer *pushfake.Issuer) []byte {
	tb.Helper()
	resp, err := issuer.Transport().RoundTrip(httptest.NewRequest(http.MethodGet, "https://www.googleapis.com/oauth2/v3/certs", nil))
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Relay answers each request as transport does, to which it goes as https.
func Relay(transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "https", r.In.Host
	}}
}

// Serve leads every https connection of [http.DefaultTransport], and of a clone
// of it, to the handler, until the test ends.
func Serve(tb testing.TB, handler http.Handler) {
	server := httptest.NewServer(handler)
	transport := http.DefaultTransport.(*http.Transport)
	before := transport.DialTLSContext
	transport.DialTLSContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	tb.Cleanup(func() {
		transport.DialTLSContext = before
		server.Close()
	})
}

// AccountKey returns a file with the key of a service account that exists
// nowhere, as GOOGLE_APPLICATION_CREDENTIALS names it.
func AccountKey(tb testing.TB) string {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "test@example.com", "token_uri": "https://oauth2.googleapis.com/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		tb.Fatal(err)
	}
	file := filepath.Join(tb.TempDir(), "key.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}
