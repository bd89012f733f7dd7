package pushfake_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"example.com/pushinbox/local/pushfake"
)

// keysByID returns what an issuer has at an address with an object of PEM blocks.
func keysByID(t *testing.T, issuer *pushfake.Issuer, address string) map[string]string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := issuer.Transport().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]string
	if err := json.Unmarshal(b, &keys); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return keys
}

// TestKeysByID verifies with the forms of the keys that Python and Node read.
func TestKeysByID(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t, nil)
	token, err := issuer.IDToken(nil)
	if err != nil {
		t.Fatal(err)
	}
	assertion, err := issuer.IAPAssertion(nil)
	if err != nil {
		t.Fatal(err)
	}
	certificates, keys := keysByID(t, issuer, pushfake.CertsV1), keysByID(t, issuer, pushfake.IAPKeys)
	for _, signed := range []string{token, assertion} {
		_, err := jwt.Parse(signed, func(parsed *jwt.Token) (any, error) {
			id := parsed.Header["kid"].(string)
			if block, _ := pem.Decode([]byte(certificates[id])); block != nil {
				certificate, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					return nil, err
				}
				return certificate.PublicKey, nil
			}
			block, _ := pem.Decode([]byte(keys[id]))
			if block == nil {
				return nil, jwt.ErrTokenUnverifiable
			}
			return x509.ParsePKIXPublicKey(block.Bytes)
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestKeysOfADirectory has a second issuer verify what the first one signed.
func TestKeysOfADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := newIssuer(t, &pushfake.IssuerOptions{Dir: dir})
	token, err := first.IDToken(nil)
	if err != nil {
		t.Fatal(err)
	}
	second := newIssuer(t, &pushfake.IssuerOptions{Dir: dir})
	for _, address := range []string{pushfake.CertsV1, pushfake.IAPKeys} {
		a, b := keysByID(t, first, address), keysByID(t, second, address)
		for id := range a {
			if b[id] == "" {
				t.Errorf("%s: the key %s is gone", address, id)
			}
		}
	}
	header, _ := parts(t, token)
	if keysByID(t, second, pushfake.CertsV1)[header["kid"].(string)] == "" {
		t.Error("the token's key is not there")
	}
	for _, name := range []string{"tokens.key", "iap.key"} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
		if err := os.WriteFile(path, []byte("cut"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pushfake.NewIssuer(&pushfake.IssuerOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("with a damaged %s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := newIssuer(t, &pushfake.IssuerOptions{Dir: dir}).IDToken(nil); err != nil {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
