package pushfake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
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
	// Dir is a directory of the user's own in which the keys are kept, in tokens.key
	// and iap.key with mode 0600, which are created where they are missing. Empty
	// means keys that live as long as the Issuer. A new RSA key that cannot be kept is
	// told by the first ID token.
	Dir string
}

// Issuer signs tokens as Google does, with keys of its own. It is safe for
// concurrent use.
type Issuer struct {
	now    func() time.Time
	google func() (signer, error)
	iap    signer
}

// signer is a private key with its public half as a JSON Web Key.
type signer struct {
	method jwt.SigningMethod
	key    crypto.Signer
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

// NewIssuer returns an Issuer. It does not wait for a new RSA key, which takes about
// 80 ms: the first ID token does.
func NewIssuer(o *IssuerOptions) (*Issuer, error) {
	if o == nil {
		o = &IssuerOptions{}
	}
	i := &Issuer{now: o.Now, google: sync.OnceValues(func() (signer, error) { return openKey(o.Dir, tokensKey, newRSAKey, rsaSigner) })}
	if i.now == nil {
		i.now = time.Now
	}
	var err error
	if i.iap, err = openKey(o.Dir, iapKey, newECDSAKey, ecdsaSigner); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(o.Dir, tokensKey)); err == nil && o.Dir != "" {
		_, err := i.google()
		return i, err
	}
	go i.google()
	return i, nil
}

// The files of the keys.
const (
	tokensKey = "tokens.key"
	iapKey    = "iap.key"
)

func newRSAKey() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func newECDSAKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func rsaSigner(key crypto.Signer) (signer, bool) {
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return signer{}, false
	}
	modulus := private.N.Bytes()
	return signer{jwt.SigningMethodRS256, key, jwk{
		Algorithm: "RS256",
		Exponent:  base64.RawURLEncoding.EncodeToString(big.NewInt(int64(private.E)).Bytes()),
		ID:        keyID(modulus),
		Type:      "RSA",
		Modulus:   base64.RawURLEncoding.EncodeToString(modulus),
		Use:       "sig",
	}}, true
}

func ecdsaSigner(key crypto.Signer) (signer, bool) {
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return signer{}, false
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return signer{}, false
	}
	return signer{jwt.SigningMethodES256, key, jwk{
		Algorithm: "ES256",
		Curve:     "P-256",
		ID:        keyID(point),
		Type:      "EC",
		Use:       "sig",
		X:         base64.RawURLEncoding.EncodeToString(point[1:33]),
		Y:         base64.RawURLEncoding.EncodeToString(point[33:]),
	}}, true
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
