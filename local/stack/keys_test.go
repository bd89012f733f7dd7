package stack

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
)

// read returns what is at an address, and v filled with it as JSON.
func read(t *testing.T, address string, v any) string {
	t.Helper()
	answer, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", address, answer.Status, err)
	}
	if v != nil {
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatalf("%s: %v in %s", address, err, b)
		}
	}
	return string(b)
}

// TestKeysSurviveRestart follows the discovery document to the keys, and has those
// of a second run verify a token of the first, in both forms.
func TestKeysSurviveRestart(t *testing.T) {
	t.Parallel()
	o := options(t)
	var token, keys string
	for range 2 {
		s, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			Issuer  string
			JWKSURI string `json:"jwks_uri"`
		}
		read(t, s.URL+"/local/.well-known/openid-configuration", &document)
		if document.Issuer != "https://accounts.google.com" || document.JWKSURI != s.URL+"/local/oauth2/v3/certs" {
			t.Errorf("discovery: %+v", document)
		}
		got := read(t, document.JWKSURI, nil)
		if keys != "" && got != keys {
			t.Errorf("the keys changed from %s to %s", keys, got)
		}
		keys = got
		if token == "" {
			token = strings.TrimSpace(read(t, s.URL+"/local/token", nil))
		}
		var certificates map[string]string
		read(t, s.URL+"/local/oauth2/v1/certs", &certificates)
		if _, err := jwt.Parse(token, func(parsed *jwt.Token) (any, error) {
			block, _ := pem.Decode([]byte(certificates[parsed.Header["kid"].(string)]))
			if block == nil {
				return nil, jwt.ErrTokenUnverifiable
			}
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			return certificate.PublicKey, nil
		}); err != nil {
			t.Errorf("the token of the first run: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	damaged := filepath.Join(o.Data, "tokens.key")
	if err := os.WriteFile(damaged, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("with a damaged key: %v", err)
		if err == nil {
			_ = s.Close()
		}
	}
}
