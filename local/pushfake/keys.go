package pushfake

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"example.com/pushinbox/local/datadir"
)

// The addresses at which Google has the keys of its tokens, which an Issuer's
// transport answers for, each in its own form.
const (
	// CertsV3 has the keys of ID tokens as a JSON Web Key Set: Go, Java.
	CertsV3 = "https://www.googleapis.com/oauth2/v3/certs"
	// CertsV1 has them as an object of X.509 certificates by key ID: Python, Node.
	CertsV1 = "https://www.googleapis.com/oauth2/v1/certs"
	// IAPKeySet has the keys of Identity-Aware Proxy as a JSON Web Key Set.
	IAPKeySet = "https://www.gstatic.com/iap/verify/public_key-jwk"
	// IAPKeys has them as an object of public keys in PEM by key ID.
	IAPKeys = "https://www.gstatic.com/iap/verify/public_key"
)

// KeyAddresses returns all addresses that an Issuer's transport answers for.
func KeyAddresses() []string { return []string{CertsV3, CertsV1, IAPKeySet, IAPKeys} }

// Transport returns a transport that answers for KeyAddresses with the keys of
// this issuer, and for no others: what uses it reaches no network. Hand it to what
// verifies tokens.
func (i *Issuer) Transport() http.RoundTripper { return keyTransport{i} }

type keyTransport struct{ issuer *Issuer }

// RoundTrip serves keys.
func (t keyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body.Close()
	}
	if r.Method != http.MethodGet {
		return nil, fmt.Errorf("pushfake: keys are read with GET, not %s", r.Method)
	}
	keys, err := t.issuer.keys(r.URL.String())
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status:     "200 OK",
		StatusCode: http.StatusOK,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Cache-Control": {"public, max-age=21600, must-revalidate, no-transform"},
			"Content-Type":  {"application/json; charset=UTF-8"},
		},
		Body:          io.NopCloser(strings.NewReader(string(body))),
		ContentLength: int64(len(body)),
		Request:       r,
	}, nil
}

// keys returns what is at one of Google's addresses.
func (i *Issuer) keys(url string) (any, error) {
	switch url {
	case IAPKeySet:
		return map[string][]jwk{"keys": {i.iap.jwk}}, nil
	case IAPKeys:
		der, err := x509.MarshalPKIXPublicKey(i.iap.key.Public())
		return map[string]string{i.iap.jwk.ID: encode("PUBLIC KEY", der)}, err
	case CertsV3, CertsV1:
	default:
		return nil, errors.New("pushfake: " + strings.SplitN(url, "?", 2)[0] + " is not an address of Google's keys")
	}
	s, err := i.google()
	if err != nil {
		return nil, err
	}
	if url == CertsV3 {
		return map[string][]jwk{"keys": {s.jwk}}, nil
	}
	certificate, err := s.certificate(i.now())
	return map[string]string{s.jwk.ID: certificate}, err
}

// certificate returns a certificate of the key, signed by itself. Programs take the
// key out of it, and check its time at most.
func (s *signer) certificate(now time.Time) (string, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "pushinbox local"},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.Add(30 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key)
	if err != nil {
		return "", fmt.Errorf("pushfake: the certificate of the key: %w", err)
	}
	return encode("CERTIFICATE", der), nil
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// openKey returns the key in a file of dir, which is created with a new key where it
// is missing, or a new key where dir is empty.
func openKey(dir, name string, create func() (crypto.Signer, error), read func(crypto.Signer) (signer, bool)) (signer, error) {
	fail := func(err error) (signer, error) {
		return signer{}, fmt.Errorf("pushfake: the key of the tokens: %w", err)
	}
	if dir == "" {
		key, err := create()
		if err != nil {
			return fail(err)
		}
		s, _ := read(key)
		return s, nil
	}
	path := filepath.Join(dir, name)
	b, err := datadir.ReadOrCreate(path, func() ([]byte, error) {
		key, err := create()
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return []byte(encode("PRIVATE KEY", der)), err
	})
	if err != nil {
		return fail(err)
	}
	if block, _ := pem.Decode(b); block != nil {
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if key, ok := key.(crypto.Signer); ok {
				if s, ok := read(key); ok {
					return s, nil
				}
			}
		}
	}
	return fail(fmt.Errorf("%s is damaged; move it away, and a new key is created", path))
}
