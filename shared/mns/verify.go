package mns

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// MaxAge is how far a push's Date may be from now, either way.
const MaxAge = 15 * time.Minute

// Headers of a push that this package reads by name.
const (
	headerPrefix         = "X-Mns-"
	headerCertificateURL = "X-Mns-Signing-Cert-Url"
	headerRequestID      = "X-Mns-Request-Id"
)

// maxSignature is the length in base64 of a signature with a key of maxKeyBits.
const maxSignature = (maxKeyBits/8 + 2) / 3 * 4

// VerifierOptions holds NewVerifier's optional settings.
type VerifierOptions struct {
	// Transport fetches certificates; nil means http.DefaultTransport. Redirects are
	// never followed.
	Transport http.RoundTripper
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Pins are SHA-256 digests, in hex, of the certificates (as DER) that are
	// trusted. Empty means every certificate at one of MNS's addresses.
	Pins []string
}

// Verifier verifies that MNS signed a request. It is safe for concurrent use. Use one
// for the life of the process, because it caches the certificates.
type Verifier struct {
	now          func() time.Time
	certificates *certificates
}

// NewVerifier returns a Verifier, or an error that names the option that is wrong.
// A nil o means no options.
func NewVerifier(o *VerifierOptions) (*Verifier, error) {
	if o == nil {
		o = &VerifierOptions{}
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	certificates, err := newCertificates(o.Transport, now, o.Pins)
	if err != nil {
		return nil, err
	}
	return &Verifier{now, certificates}, nil
}

// Signer describes the signature of a verified request.
type Signer struct {
	// CertificateURL is the address of the certificate, always https.
	CertificateURL string
	// Date is the time of the signature.
	Date time.Time
	// RequestID is MNS's ID of this push, or empty.
	RequestID string
}

// Verify returns who signed r, without a look at its body: the signature covers the
// request target as sent (r.RequestURI, so r must be as a server received it), every
// x-mns-* header, Date, Content-Type and Content-MD5. The body is proven by
// CheckBody, once it was worth reading. The cheap checks come first, and no
// certificate is fetched for a request that fails one of them.
//
// A request that MNS did not sign in this form at this time fails with an Err
// variable of this package whose status is 403. It fails with ErrUnavailable, a 503,
// when the certificate cannot be fetched. Verify waits for a certificate for at most
// two seconds.
func (v *Verifier) Verify(r *http.Request) (Signer, error) {
	p, err := parsePush(r)
	if err != nil {
		return Signer{}, err
	}
	if age := v.now().Sub(p.date); age > MaxAge || age < -MaxAge {
		return Signer{}, fmt.Errorf("%w: it is %v old", ErrDate, age.Round(time.Second))
	}
	certificate, err := v.certificates.get(r.Context(), p.certificateURL)
	if err != nil {
		return Signer{}, err
	}
	if !certificate.signed(SignedText(r.Method, r.Header, r.RequestURI), p.signature) {
		return Signer{}, ErrSignature
	}
	return Signer{
		CertificateURL: p.certificateURL,
		Date:           p.date,
		RequestID:      r.Header.Get(headerRequestID),
	}, nil
}

// push is the part of a push's headers that is about its signature.
type push struct {
	signature      []byte
	certificateURL string
	date           time.Time
}

// parsePush parses the headers. It does nothing expensive.
func parsePush(r *http.Request) (push, error) {
	var p push
	for name, values := range r.Header {
		if len(values) > 1 && strings.HasPrefix(name, headerPrefix) {
			return p, fmt.Errorf("%w: an x-mns-* header is repeated %d times", ErrHeaders, len(values))
		}
	}
	if len(r.Header["Content-Type"]) > 1 {
		return p, fmt.Errorf("%w: Content-Type is repeated", ErrHeaders)
	}
	var authorization, address, date, digest string
	for _, h := range [...]struct {
		name  string
		value *string
	}{
		{"Authorization", &authorization},
		{headerCertificateURL, &address},
		{"Date", &date},
		{"Content-Md5", &digest},
	} {
		values := r.Header[h.name]
		if len(values) != 1 || values[0] == "" {
			return p, fmt.Errorf("%w: it has %d %s headers, or an empty one", ErrHeaders, len(values), h.name)
		}
		*h.value = values[0]
	}
	var err error
	if p.date, err = http.ParseTime(date); err != nil {
		return p, fmt.Errorf("%w: Date is not a valid HTTP date", ErrHeaders)
	}
	if len(authorization) > maxSignature {
		return p, fmt.Errorf("%w: Authorization is too long for a signature", ErrHeaders)
	}
	if p.signature, err = base64.StdEncoding.Strict().DecodeString(authorization); err != nil || len(p.signature) < minKeyBits/8 {
		return p, fmt.Errorf("%w: Authorization is not the base64 of a signature", ErrHeaders)
	}
	p.certificateURL, err = parseCertificateURL(address)
	return p, err
}

// CheckBody returns ErrDigest unless body is the one whose Content-MD5 Verify has
// found signed. MNS writes that in three ways: as 32 hex digits, as base64 of those,
// and as base64 of the 16 bytes.
func CheckBody(r *http.Request, body []byte) error {
	header := r.Header.Get("Content-Md5")
	digits := header
	if b, err := base64.StdEncoding.Strict().DecodeString(header); err == nil {
		switch len(b) {
		case md5.Size:
			digits = hex.EncodeToString(b)
		case md5.Size * 2:
			digits = string(b)
		}
	}
	sum := md5.Sum(body)
	if !strings.EqualFold(digits, hex.EncodeToString(sum[:])) {
		return ErrDigest
	}
	return nil
}

// SignedText returns the text that the signature of a call or of a push covers:
// the method, Content-MD5, Content-Type and Date, the x-mns-* headers sorted by
// line, and the request target as sent, one line each. A missing header is an empty
// line.
func SignedText(method string, h http.Header, target string) string {
	var lines []string
	for name, values := range h {
		if strings.HasPrefix(name, headerPrefix) {
			lines = append(lines, strings.ToLower(name)+":"+values[0])
		}
	}
	slices.Sort(lines)
	lines = append([]string{method, h.Get("Content-Md5"), h.Get("Content-Type"), h.Get("Date")}, lines...)
	return strings.Join(append(lines, target), "\n")
}
