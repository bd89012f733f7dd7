package mns

import (
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	// minKeyBits and maxKeyBits bound the RSA key. The known certificate has the
	// smallest.
	minKeyBits = 512
	maxKeyBits = 4096
	// maxCertificateSize bounds a certificate's file, in bytes. MNS's has about 800.
	maxCertificateSize = 10 << 10
	// maxAddressSize bounds a certificate's address, in bytes.
	maxAddressSize = 256
)

const (
	// fetchTimeout bounds one fetch, body included: MNS waits five seconds for an
	// answer, and the message is still to be stored then.
	fetchTimeout = 2 * time.Second
	// freshFor is how long a certificate is used without a look for a newer one,
	// and staleFor how much longer when that cannot be had.
	freshFor = 6 * time.Hour
	staleFor = 7 * 24 * time.Hour
	// retryPause is how long nothing is fetched after an address did not answer,
	// and refusalPause after it answered with something else than a certificate.
	retryPause   = 5 * time.Second
	refusalPause = time.Minute
	// maxAddresses is how many addresses something is known about. Those with a
	// certificate and those without are kept apart, so that the second, which
	// anyone can make up, drive out none of the first.
	maxAddresses = 64
	// The region is free text to whoever sends a request, so all addresses that
	// were never good share this many fetches at once and a minute.
	maxFetches         = 4
	maxFetchesInMinute = 30
)

// mainAddress is the address that every push known so far has named. It does not
// share the regions' budget, so that made up regions do not keep it from being
// fetched.
const mainAddress = "https://mnstest.oss-cn-hangzhou.aliyuncs.com/x509_public_certificate.pem"

// address matches MNS's addresses as a whole, with the one spelling that each has.
// Old pushes say http, which is read as https.
var address = regexp.MustCompile(`^https?(://(?:mnstest\.oss-cn-hangzhou|mns-cert\.oss-cn-[a-z0-9]+(?:-[a-z0-9]+)*)\.aliyuncs\.com/x509_public_certificate\.pem)$`)

// parseCertificateURL returns the address that a push's header holds in base64.
func parseCertificateURL(header string) (string, error) {
	if len(header) > maxAddressSize {
		return "", fmt.Errorf("%w: it is too long", ErrCertificateURL)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(header)
	if err != nil {
		return "", fmt.Errorf("%w: it is not base64", ErrCertificateURL)
	}
	m := address.FindSubmatch(b)
	if m == nil {
		return "", ErrCertificateURL
	}
	return "https" + string(m[1]), nil
}

// certificate is a public key that MNS signs with.
type certificate struct {
	n           *big.Int
	e           *big.Int
	fingerprint string
}

// parseCertificate reads a certificate in PEM. Its dates and its own signature do
// not count: MNS's has expired long ago and is signed by itself. What it is
// trusted for is where it came from.
func parseCertificate(file []byte) (*certificate, error) {
	block, _ := pem.Decode(file)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it is not a certificate in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("its key is %v, not RSA", c.PublicKeyAlgorithm)
	}
	if bits := key.N.BitLen(); bits < minKeyBits || bits > maxKeyBits {
		return nil, fmt.Errorf("its key has %d bits, not %d to %d", bits, minKeyBits, maxKeyBits)
	}
	if key.E < 3 || key.E > 1<<31-1 || key.E%2 == 0 {
		return nil, errors.New("its exponent is even, or not one of 3 to 2^31-1")
	}
	sum := sha256.Sum256(c.Raw)
	return &certificate{key.N, big.NewInt(int64(key.E)), hex.EncodeToString(sum[:])}, nil
}

// sha1Prefix is the DER encoding of a SHA-1 digest, up to the digest (RFC 8017,
// section 9.2).
var sha1Prefix = []byte{0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14}

// signed reports whether signature is one of c over message: RSA PKCS #1 v1.5 with
// SHA-1. crypto/rsa refuses keys as small as MNS's, and the switch that lets it
// take them is for the whole process. Verifying needs no secrets, and is short:
// the one encoding that the digest has is made here and compared as a whole, so
// there is no padding to be parsed and to be fooled by.
func (c *certificate) signed(message string, signature []byte) bool {
	size := (c.n.BitLen() + 7) / 8
	s := new(big.Int).SetBytes(signature)
	if len(signature) != size || s.Cmp(c.n) >= 0 {
		return false
	}
	digest := sha1.Sum([]byte(message))
	want := make([]byte, size)
	want[1] = 1
	end := size - len(sha1Prefix) - len(digest)
	for i := 2; i < end-1; i++ {
		want[i] = 0xff
	}
	copy(want[end:], sha1Prefix)
	copy(want[end+len(sha1Prefix):], digest[:])
	got := s.Exp(s, c.e, c.n).FillBytes(make([]byte, size))
	return subtle.ConstantTimeCompare(got, want) == 1
}

// certificates fetches and keeps the certificates at MNS's addresses.
type certificates struct {
	transport http.RoundTripper
	now       func() time.Time
	pins      map[string]bool
	known     *lru.Cache[string, kept]
	failures  *lru.Cache[string, failure]
	flight    singleflight.Group
	fetches   chan struct{} // holds one for each fetch of a new address
	perMinute *rate.Limiter
}

// kept is a certificate with when to look for a newer one and when to forget it.
type kept struct {
	*certificate
	freshUntil, staleUntil time.Time
}

// failure is why the last fetch failed, and when the next may be.
type failure struct {
	err     error
	retryAt time.Time
}

func newCertificates(transport http.RoundTripper, now func() time.Time, pins []string) (*certificates, error) {
	c := &certificates{
		transport: transport,
		now:       now,
		pins:      make(map[string]bool),
		fetches:   make(chan struct{}, maxFetches),
		perMinute: rate.NewLimiter(rate.Every(time.Minute/maxFetchesInMinute), maxFetchesInMinute),
	}
	for _, pin := range pins {
		if b, err := hex.DecodeString(pin); err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("mns: the pin %q is not a SHA-256 in hex, which has 64 digits", pin)
		}
		c.pins[strings.ToLower(pin)] = true
	}
	if c.transport == nil {
		c.transport = http.DefaultTransport
	}
	var err1, err2 error
	c.known, err1 = lru.New[string, kept](maxAddresses)
	c.failures, err2 = lru.New[string, failure](maxAddresses)
	return c, errors.Join(err1, err2)
}

// get returns the certificate at address, after a fetch when there is no fresh one.
// A stale one does when that fails. It fails with ErrCertificate or ErrUnavailable.
func (c *certificates) get(ctx context.Context, address string) (*certificate, error) {
	now := c.now()
	last, _ := c.known.Get(address)
	if now.Before(last.freshUntil) {
		return last.certificate, nil
	}
	cert, err := c.refreshed(ctx, address)
	if err != nil && now.Before(last.staleUntil) {
		return last.certificate, nil
	}
	return cert, err
}

// refreshed waits for the one fetch of the address that is under way.
func (c *certificates) refreshed(ctx context.Context, address string) (*certificate, error) {
	if f, ok := c.failures.Get(address); ok && c.now().Before(f.retryAt) {
		return nil, f.err
	}
	done := c.flight.DoChan(address, func() (any, error) { return c.refresh(address) })
	timer := time.NewTimer(fetchTimeout)
	defer timer.Stop()
	select {
	case result := <-done:
		cert, _ := result.Val.(*certificate)
		return cert, result.Err
	case <-timer.C:
		return nil, fmt.Errorf("%w: it took too long", ErrUnavailable)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// refresh fetches the certificate at address and remembers how that went.
func (c *certificates) refresh(address string) (*certificate, error) {
	last, known := c.known.Get(address)
	if c.now().Before(last.freshUntil) {
		return last.certificate, nil // another fetch ended just now
	}
	if !known && address != mainAddress {
		select {
		case c.fetches <- struct{}{}:
			defer func() { <-c.fetches }()
		default:
			return nil, fmt.Errorf("%w: too many are being fetched", ErrUnavailable)
		}
		if !c.perMinute.AllowN(c.now(), 1) {
			return nil, fmt.Errorf("%w: too many were fetched in this minute", ErrUnavailable)
		}
	}
	// Not the context of the request that happened to come first: others wait for
	// the same fetch.
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	cert, err := c.fetch(ctx, address)
	now := c.now()
	if err != nil {
		pause := retryPause
		if errors.Is(err, ErrCertificate) {
			pause = refusalPause
		}
		c.failures.Add(address, failure{err, now.Add(pause)})
		return nil, err
	}
	c.failures.Remove(address)
	c.known.Add(address, kept{cert, now.Add(freshFor), now.Add(freshFor + staleFor)})
	return cert, nil
}

// fetch gets the certificate at address.
func (c *certificates) fetch(ctx context.Context, address string) (*certificate, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	// A RoundTripper follows no redirects.
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return nil, fmt.Errorf("%w: %s answered %d", ErrUnavailable, address, code)
	default:
		return nil, fmt.Errorf("%w: %s answered %d", ErrCertificate, address, code)
	}
	file, err := io.ReadAll(io.LimitReader(resp.Body, maxCertificateSize+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if len(file) > maxCertificateSize {
		return nil, fmt.Errorf("%w: what is at %s is over %d bytes", ErrCertificate, address, maxCertificateSize)
	}
	cert, err := parseCertificate(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCertificate, address, err)
	}
	if len(c.pins) > 0 && !c.pins[cert.fingerprint] {
		return nil, fmt.Errorf("%w: the SHA-256 of the one at %s is %s, which is not pinned", ErrCertificate, address, cert.fingerprint)
	}
	return cert, nil
}
