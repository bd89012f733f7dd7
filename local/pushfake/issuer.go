package pushfake

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Google's addresses of the keys to its tokens, which an Issuer's transport
// answers for.
const (
	googleKeysURL = "https://www.googleapis.com/oauth2/v3/certs"
	iapKeysURL    = "https://www.gstatic.com/iap/verify/public_key-jwk"
)

// What a token says that was asked to say nothing else.
const (
	DefaultAudience    = "https://example.com/push"
	DefaultEmail       = "pushfake@local.iam.gserviceaccount.com"
	DefaultIAPAudience = "/projects/1/global/backendServices/1"
)

// IssuerOptions holds what is optional for NewIssuer.
type IssuerOptions struct {
	// Now is the clock of iat and exp; nil means time.Now.
	Now func() time.Time
}

// Issuer signs tokens as Google does, with keys of its own that live as long
// as it does. It is safe for concurrent use.
type Issuer struct {
	now    func() time.Time
	google func() (signer, error)
	iap    signer
}

// signer is a private key with its public half as a JSON Web Key.
type signer struct {
	method jwt.SigningMethod
	key    any
	jwk    jwk
}

type jwk struct {
	Algorithm string `json:"alg"`
	Curve     string `json:"crv,omitempty"`
	Exponent  string `json:"e,omitempty"`
	ID        string `json:"kid"`
	Type      string `json:"kty"`
	Modulus   string `json:"n,omitempty"`
	Use       string `json:"use"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
}

// NewIssuer returns an Issuer with new keys. It does not wait for the RSA key,
// which takes about 80 ms: the first ID token does.
func NewIssuer(o *IssuerOptions) (*Issuer, error) {
	if o == nil {
		o = &IssuerOptions{}
	}
	i := &Issuer{now: o.Now, google: sync.OnceValues(newRSASigner)}
	if i.now == nil {
		i.now = time.Now
	}
	var err error
	if i.iap, err = newECDSASigner(); err != nil {
		return nil, err
	}
	go i.google()
	return i, nil
}

func newRSASigner() (signer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return signer{}, fmt.Errorf("pushfake: making the RSA key: %w", err)
	}
	modulus := key.N.Bytes()
	return signer{jwt.SigningMethodRS256, key, jwk{
		Algorithm: "RS256",
		Exponent:  base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
		ID:        keyID(modulus),
		Type:      "RSA",
		Modulus:   base64.RawURLEncoding.EncodeToString(modulus),
		Use:       "sig",
	}}, nil
}

func newECDSASigner() (signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signer{}, fmt.Errorf("pushfake: making the ECDSA key: %w", err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return signer{}, fmt.Errorf("pushfake: making the ECDSA key: %w", err)
	}
	return signer{jwt.SigningMethodES256, key, jwk{
		Algorithm: "ES256",
		Curve:     "P-256",
		ID:        keyID(point),
		Type:      "EC",
		Use:       "sig",
		X:         base64.RawURLEncoding.EncodeToString(point[1:33]),
		Y:         base64.RawURLEncoding.EncodeToString(point[33:]),
	}}, nil
}

// keyID names a key by a hash, 40 hex digits like Google's.
func keyID(public []byte) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:20])
}

// IDToken returns a Google ID token, as Pub/Sub sends it. It holds Google's
// claims for a service account: iss, aud, email, email_verified, sub and azp
// (the same number for the same e-mail), iat now and exp an hour later than
// iat. Every given claim takes the place of one of them or joins them; nil
// leaves one out. It fails when a claim is not JSON.
func (i *Issuer) IDToken(claims map[string]any) (string, error) {
	s, err := i.google()
	if err != nil {
		return "", err
	}
	c := i.claims(claims, "https://accounts.google.com", DefaultAudience, time.Hour)
	c.setDefault(claims, "email_verified", true)
	account := accountID(c["email"])
	c.setDefault(claims, "azp", account)
	c.setDefault(claims, "sub", account)
	return s.sign(c)
}

// IAPAssertion returns what Identity-Aware Proxy puts into the
// x-goog-iap-jwt-assertion header: iss, aud, email, sub and azp, iat now and
// exp ten minutes later than iat. Claims are treated as by IDToken.
func (i *Issuer) IAPAssertion(claims map[string]any) (string, error) {
	c := i.claims(claims, "https://cloud.google.com/iap", DefaultIAPAudience, 10*time.Minute)
	c.setDefault(claims, "azp", c["aud"])
	c.setDefault(claims, "sub", "accounts.google.com:"+accountID(c["email"]))
	return i.iap.sign(c)
}

type claimSet map[string]any

// setDefault sets a claim about which nothing was said.
func (c claimSet) setDefault(given map[string]any, name string, value any) {
	if _, ok := given[name]; !ok {
		c[name] = value
	}
}

func (i *Issuer) claims(given map[string]any, issuer, audience string, life time.Duration) claimSet {
	c := claimSet{}
	for name, value := range given {
		if value != nil {
			c[name] = value
		}
	}
	c.setDefault(given, "iss", issuer)
	c.setDefault(given, "aud", audience)
	c.setDefault(given, "email", DefaultEmail)
	c.setDefault(given, "iat", i.now().Unix())
	issued := i.now().Unix()
	switch iat := c["iat"].(type) {
	case int64:
		issued = iat
	case int:
		issued = int64(iat)
	case float64:
		issued = int64(iat)
	}
	c.setDefault(given, "exp", issued+int64(life/time.Second))
	return c
}

// accountID is the number of the account with this e-mail: 21 digits, as
// Google's have.
func accountID(email any) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(email)))
	return fmt.Sprintf("1%020d", binary.BigEndian.Uint64(sum[:]))
}

func (s *signer) sign(c claimSet) (string, error) {
	token := jwt.NewWithClaims(s.method, jwt.MapClaims(c))
	token.Header["kid"] = s.jwk.ID
	signed, err := token.SignedString(s.key)
	if err != nil {
		return "", fmt.Errorf("pushfake: signing: %w", err)
	}
	return signed, nil
}

// Transport returns a transport that answers for Google's two key addresses
// with the keys of this issuer, and for no others: what uses it reaches no
// network. Hand it to what verifies tokens.
func (i *Issuer) Transport() http.RoundTripper { return keyTransport{i} }

type keyTransport struct{ issuer *Issuer }

// RoundTrip serves a key set.
func (t keyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body.Close()
	}
	var s signer
	var err error
	switch url := r.URL.String(); {
	case r.Method != http.MethodGet:
		err = fmt.Errorf("pushfake: keys are read with GET, not %s", r.Method)
	case url == googleKeysURL:
		s, err = t.issuer.google()
	case url == iapKeysURL:
		s = t.issuer.iap
	default:
		err = fmt.Errorf("pushfake: %s is not an address of Google's keys", r.URL.Redacted())
	}
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string][]jwk{"keys": {s.jwk}})
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
