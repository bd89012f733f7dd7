package mnsfake

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.com/pushinbox/local/mnskey"
)

// CertificateURL is the address of a Signer's certificate: one of the documented
// form, in a region that does not exist. Nothing listens there, see
// Signer.Transport.
const CertificateURL = "https://mns-cert.oss-cn-local.aliyuncs.com" + CertificatePath

// CertificatePath is where a Server has the certificate for programs that verify
// pushes and cannot use Signer.Transport. No signature is wanted there.
const CertificatePath = "/x509_public_certificate.pem"

const certificateType = "application/x-x509-ca-cert"

// Signer signs pushes as MNS does, with a key of its own. It is safe for
// concurrent use.
type Signer struct{ key *mnskey.Key }

// NewSigner returns a Signer with a new key of this many bits. The only known key
// of MNS has 512.
func NewSigner(bits int) (*Signer, error) {
	key, err := mnskey.New(bits, 65537)
	if err != nil {
		return nil, fmt.Errorf("mnsfake: %w", err)
	}
	return &Signer{key}, nil
}

// Transport returns a transport that answers GET CertificateURL with the
// certificate and fails every other request. It opens no connection.
func (s *Signer) Transport() http.RoundTripper { return certificateHost{s} }

type certificateHost struct{ signer *Signer }

func (c certificateHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet || r.URL.String() != CertificateURL {
		return nil, fmt.Errorf("mnsfake: %s %s is not the address of the certificate", r.Method, r.URL)
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {certificateType}},
		Body:          io.NopCloser(bytes.NewReader(c.signer.key.Certificate)),
		ContentLength: int64(len(c.signer.key.Certificate)),
		Request:       r,
	}, nil
}

// Sign sets the headers in h that a push of body to target has at a time: Date,
// the certificate's address, Content-MD5 and Authorization. target is the path and
// query as they are sent. As in recorded pushes, Content-MD5 is in upper-case hex in
// SIMPLIFIED pushes and base64 of lower-case hex in the others.
func (s *Signer) Sign(h http.Header, method, target string, body []byte, at time.Time) {
	sum := md5.Sum(body)
	digest := hex.EncodeToString(sum[:])
	if h.Get("X-Mns-Message-Id") != "" {
		digest = strings.ToUpper(digest)
	} else {
		digest = base64.StdEncoding.EncodeToString([]byte(digest))
	}
	h.Set("Date", at.UTC().Format(http.TimeFormat))
	h.Set("X-Mns-Signing-Cert-Url", base64.StdEncoding.EncodeToString([]byte(CertificateURL)))
	h.Set("Content-Md5", digest)
	h.Set("Authorization", s.key.Sign(signedText(h, method, target)))
}

// signedText returns the text that the signature of a call or of a push covers.
func signedText(h http.Header, method, target string) string {
	var lines []string
	for name, values := range h {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-mns-") {
			lines = append(lines, name+":"+strings.Join(values, ","))
		}
	}
	slices.Sort(lines)
	lines = append([]string{method, h.Get("Content-Md5"), h.Get("Content-Type"), h.Get("Date")}, lines...)
	return strings.Join(append(lines, target), "\n")
}
