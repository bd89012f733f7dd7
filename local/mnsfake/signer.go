package mnsfake

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"
)

// CertificateURL is where the certificate of a Signer is, unless its options
// say otherwise: an address of the documented form, of a region that does not
// exist. Nothing listens there, see Signer.Transport.
const CertificateURL = "https://mns-cert.oss-cn-local.aliyuncs.com/x509_public_certificate.pem"

// Digest is how Content-MD5 is written in a push.
type Digest int

const (
	// DigestAsSeen is DigestHex in SIMPLIFIED pushes and DigestBase64Hex in the
	// others, as recorded pushes have it.
	DigestAsSeen Digest = iota
	// DigestHex is the digest's 32 hex digits in upper case.
	DigestHex
	// DigestBase64Hex is the base64 of the hex digits in lower case.
	DigestBase64Hex
	// DigestBase64 is the base64 of the digest's 16 bytes, as RFC 1864 has it.
	DigestBase64
)

// SignerOptions holds what is optional for NewSigner.
type SignerOptions struct {
	// KeyBits is the length of the key: 512, that of the only certificate of MNS
	// that is known, 1024 or 2048; 0 means 512.
	KeyBits int
	// CertificateURL is the address that pushes name; empty means
	// CertificateURL.
	CertificateURL string
	// Digest is how Content-MD5 is written.
	Digest Digest
}

// Signer signs pushes as MNS does, with a key of its own. It is safe for
// concurrent use.
type Signer struct {
	url         string
	digest      Digest
	n, d        *big.Int
	certificate []byte // PEM
}

// NewSigner makes a key and its certificate. As the known one of MNS it is
// expired, and no chain leads to a root; crypto/x509 does not sign with keys
// below 1024 bits, so that it is not signed by itself as that is.
func NewSigner(o *SignerOptions) (*Signer, error) {
	if o == nil {
		o = &SignerOptions{}
	}
	s := &Signer{url: cmp.Or(o.CertificateURL, CertificateURL), digest: o.Digest}
	bits := cmp.Or(o.KeyBits, 512)
	if bits != 512 && bits != 1024 && bits != 2048 {
		return nil, fmt.Errorf("mnsfake: a key of %d bits; it must be 512, 1024 or 2048", bits)
	}
	var err error
	if s.n, s.d, err = newKey(bits); err != nil {
		return nil, fmt.Errorf("mnsfake: %w", err)
	}
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("mnsfake: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "notify", OrganizationalUnit: []string{"Mns"}, Organization: []string{"Local"}},
		NotBefore:    time.Date(2015, 7, 2, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2016, 7, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &rsa.PublicKey{N: s.n, E: publicExponent}, issuer)
	if err != nil {
		return nil, fmt.Errorf("mnsfake: %w", err)
	}
	s.certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return s, nil
}

const publicExponent = 65537

// newKey returns the modulus and the private exponent of an RSA key; crypto/rsa
// makes none below 1024 bits.
func newKey(bits int) (n, d *big.Int, err error) {
	one, e := big.NewInt(1), big.NewInt(publicExponent)
	for {
		p, err := rand.Prime(rand.Reader, bits/2)
		if err != nil {
			return nil, nil, err
		}
		q, err := rand.Prime(rand.Reader, bits/2)
		if err != nil {
			return nil, nil, err
		}
		n := new(big.Int).Mul(p, q)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d := new(big.Int).ModInverse(e, phi)
		if d != nil && n.BitLen() == bits && p.Cmp(q) != 0 {
			return n, d, nil
		}
	}
}

// CertificateURL returns the address of the certificate.
func (s *Signer) CertificateURL() string { return s.url }

// Certificate returns the certificate as PEM.
func (s *Signer) Certificate() []byte { return slices.Clone(s.certificate) }

// Transport answers GET of the certificate's address with the certificate, and
// fails for everything else: no connection is ever opened.
func (s *Signer) Transport() http.RoundTripper { return certificateHost{s} }

type certificateHost struct{ signer *Signer }

func (c certificateHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet || r.URL.String() != c.signer.url {
		return nil, fmt.Errorf("mnsfake: %s %s is not the address of the certificate", r.Method, r.URL)
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"application/x-x509-ca-cert"}},
		Body:          io.NopCloser(bytes.NewReader(c.signer.certificate)),
		ContentLength: int64(len(c.signer.certificate)),
		Request:       r,
	}, nil
}

// Sign makes h the headers of a push of body to target, the path and query as
// they are sent, at a time: it sets Date, the certificate's address,
// Content-MD5 and Authorization, and leaves the others as they are.
func (s *Signer) Sign(h http.Header, method, target string, body []byte, at time.Time) {
	h.Set("Date", at.UTC().Format(http.TimeFormat))
	h.Set("X-Mns-Signing-Cert-Url", base64.StdEncoding.EncodeToString([]byte(s.url)))
	h.Set("Content-Md5", contentMD5(s.digest, h.Get("X-Mns-Message-Id") != "", body))
	h.Set("Authorization", s.signature(pushText(h, method, target)))
}

func contentMD5(d Digest, simplified bool, body []byte) string {
	if d == DigestAsSeen {
		d = DigestBase64Hex
		if simplified {
			d = DigestHex
		}
	}
	sum := md5.Sum(body)
	switch d {
	case DigestHex:
		return strings.ToUpper(hex.EncodeToString(sum[:]))
	case DigestBase64Hex:
		return base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:])))
	}
	return base64.StdEncoding.EncodeToString(sum[:])
}

// pushText returns what is signed of a push.
func pushText(h http.Header, method, target string) string {
	lines := []string{method, h.Get("Content-Md5"), h.Get("Content-Type"), h.Get("Date")}
	return strings.Join(append(append(lines, mnsHeaders(h)...), target), "\n")
}

// mnsHeaders returns the headers of MNS in lower case and in order.
func mnsHeaders(h http.Header) []string {
	var lines []string
	for name, values := range h {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-mns-") {
			lines = append(lines, name+":"+strings.Join(values, ","))
		}
	}
	slices.Sort(lines)
	return lines
}

// sha1Info is what PKCS #1 puts in front of a SHA-1 digest.
var sha1Info = []byte{0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14}

// signature returns the PKCS #1 v1.5 signature of text with SHA-1, in base64.
func (s *Signer) signature(text string) string {
	digest := sha1.Sum([]byte(text))
	size := s.n.BitLen() / 8
	padded := bytes.Repeat([]byte{0xff}, size)
	padded[0], padded[1] = 0, 1
	end := padded[size-len(sha1Info)-crypto.SHA1.Size()-1:]
	end[0] = 0
	copy(end[1:], sha1Info)
	copy(end[1+len(sha1Info):], digest[:])
	m := new(big.Int).SetBytes(padded)
	return base64.StdEncoding.EncodeToString(m.Exp(m, s.d, s.n).FillBytes(padded))
}
