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
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"example.com/pushinbox/shared/expiry"
)

const (
	// minKeyBits and maxKeyBits are the limits of an RSA key. The key of the known
	// certificate has minKeyBits.
	minKeyBits = 512
	maxKeyBits = 4096
	// maxCertificateSize is the largest certificate file, in bytes. MNS's has about 800.
	maxCertificateSize = 10 << 10
	// maxAddressSize is the longest base64 of a certificate's address, in bytes.
	maxAddressSize = 256
)

const (
	// fetchTimeout is the longest that one fetch may take, with its body: MNS waits
	// five seconds for an answer, and the message must be stored after the fetch.
	fetchTimeout = 2 * time.Second
	// freshFor is how long a certificate is used before it is fetched again, and
	// staleFor how much longer it is used while that fails.
	freshFor = 6 * time.Hour
	staleFor = 7 * 24 * time.Hour
	// retryPause is how long an address is not fetched again after it did not
	// answer, and refusalPause after its answer was not a usable certificate.
	retryPause   = 5 * time.Second
	refusalPause = time.Minute
	// maxAddresses is how many certificates are cached, and how many failures each
	// lane remembers.
	maxAddresses = 64
	// maxHosts is how many hosts are known at most, and maxLanes more than there can
	// be lanes: two of each known host, one of each certificate that is cached, and
	// that of the strangers.
	maxHosts = 64
	maxLanes = 256
)

// usualFile is the name of the certificate's file in every push known so far.
// Alibaba says that the name changes from time to time.
const usualFile = "/x509_public_certificate.pem"

// mainHost is the host in every push known so far.
const mainHost = "mnstest.oss-cn-hangzhou.aliyuncs.com"

// regions are Alibaba Cloud's regions in China, without "cn-". Another region is
// accepted too, but its first fetch shares a lane with those that strangers make
// up.
var regions = []string{
	"beijing", "beijing-finance-1", "chengdu", "fuzhou", "guangzhou", "hangzhou", "hangzhou-finance", "heyuan",
	"hongkong", "huhehaote", "nanjing", "north-2-gov-1", "qingdao", "shanghai", "shanghai-finance-1", "shenzhen",
	"shenzhen-finance-1", "wuhan-lr", "wulanchabu", "zhangjiakou", "zhengzhou-jva", "zhongwei",
}

// address matches the two documented forms of MNS's addresses as a whole, with the
// one spelling that each has, and any file name at the root. Old pushes say http,
// which is read as https.
var address = regexp.MustCompile(`^https?(://(?:mnstest\.oss-cn-hangzhou|mns-cert\.oss-cn-[a-z0-9]+(?:-[a-z0-9]+)*)\.aliyuncs\.com/[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.pem)$`)

// parseCertificateURL returns the address that a push's header has in base64.
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

// parseCertificate reads a certificate in PEM. It ignores the certificate's dates
// and signature: MNS's has expired and is self-signed. The certificate is trusted
// because of the address that it was fetched from.
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
		return nil, errors.New("its exponent is not an odd number from 3 to 2^31-1")
	}
	sum := sha256.Sum256(c.Raw)
	return &certificate{key.N, big.NewInt(int64(key.E)), hex.EncodeToString(sum[:])}, nil
}

// sha1Prefix is the DER encoding of a SHA-1 digest, up to the digest (RFC 8017,
// section 9.2).
var sha1Prefix = []byte{0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14}

// signed reports whether signature is c's over message: RSA PKCS #1 v1.5 with
// SHA-1. crypto/rsa refuses keys as small as MNS's, and the setting that allows
// them applies to the whole process. Verifying needs no secret and is short: it
// builds the only valid encoding of the digest and compares all of it, so no forged
// padding is ever parsed.
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

// certificates fetches the certificates at MNS's addresses and caches them.
type certificates struct {
	transport http.RoundTripper
	now       func() time.Time
	pins      map[string]bool
	known     *lru.Cache[string, cached]
	flight    singleflight.Group

	mu    sync.Mutex
	hosts map[string]bool // that are known to be MNS's
	lanes *lru.Cache[string, *lane]
}

// cached is a certificate with when to fetch it again and when to forget it.
type cached struct {
	*certificate
	freshUntil, staleUntil time.Time
}

// lane is what may be fetched of the addresses that share it, and how their last
// fetches failed. Whoever sends a request makes up its address, so addresses that
// a stranger can make up share no lane with those that are known:
//
//   - the usual file of a known host, and each address that has had a certificate,
//     has a lane of its own;
//   - other files of a known host share one lane for each host;
//   - all other hosts share one lane.
type lane struct {
	failures  *lru.Cache[string, failure]
	fetches   chan struct{} // holds one for each fetch
	perMinute *rate.Limiter
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
		hosts:     map[string]bool{mainHost: true},
	}
	for _, region := range regions {
		c.hosts["mns-cert.oss-cn-"+region+".aliyuncs.com"] = true
	}
	for _, pin := range pins {
		if b, err := hex.DecodeString(pin); err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("mns: the pin %q is not a valid SHA-256, which has 64 hex digits", pin)
		}
		c.pins[strings.ToLower(pin)] = true
	}
	if c.transport == nil {
		c.transport = http.DefaultTransport
	}
	var err1, err2 error
	c.known, err1 = lru.New[string, cached](maxAddresses)
	c.lanes, err2 = lru.New[string, *lane](maxLanes)
	return c, errors.Join(err1, err2)
}

// lane returns the lane of an address.
func (c *certificates) lane(address string) *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	host := hostOf(address)
	// A known host's other files get more than the strangers' hosts: one of them
	// may be the file's new name.
	name, fetches, perMinute := host, 16, 60
	switch {
	case c.hosts[host] && strings.HasSuffix(address, usualFile), c.known.Contains(address):
		name = address
	case !c.hosts[host]:
		name, fetches, perMinute = "", 4, 30
	}
	if l, ok := c.lanes.Get(name); ok {
		return l
	}
	failures, err := lru.New[string, failure](maxAddresses)
	if err != nil {
		panic(err) // only of a size that is not positive
	}
	l := &lane{
		failures:  failures,
		fetches:   make(chan struct{}, fetches),
		perMinute: rate.NewLimiter(rate.Every(time.Minute/time.Duration(perMinute)), perMinute),
	}
	c.lanes.Add(name, l)
	return l
}

// learn makes the host of an address, which has a certificate, a known one.
func (c *certificates) learn(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.hosts) < maxHosts {
		c.hosts[hostOf(address)] = true
	}
}

// hostOf returns the host of an address that parseCertificateURL returned.
func hostOf(address string) string {
	host, _, _ := strings.Cut(strings.TrimPrefix(address, "https://"), "/")
	return host
}

// get returns the certificate at address, after a fetch when there is no fresh one.
// A stale one does when that fails. It fails with ErrCertificate or ErrUnavailable.
func (c *certificates) get(ctx context.Context, address string) (*certificate, error) {
	now := c.now()
	last, _ := c.known.Get(address)
	if !expiry.IsOver(now, last.freshUntil) {
		return last.certificate, nil
	}
	cert, err := c.refreshed(ctx, address)
	if err != nil && !expiry.IsOver(now, last.staleUntil) {
		return last.certificate, nil
	}
	return cert, err
}

// refreshed returns the result of a fetch that all concurrent requests for the
// address share.
func (c *certificates) refreshed(ctx context.Context, address string) (*certificate, error) {
	l := c.lane(address)
	if f, ok := l.failures.Get(address); ok && c.now().Before(f.retryAt) {
		return nil, f.err
	}
	done := c.flight.DoChan(address, func() (any, error) { return c.refresh(address, l) })
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

// refresh fetches the certificate at address, in its lane, and remembers how that
// went.
func (c *certificates) refresh(address string, l *lane) (*certificate, error) {
	last, _ := c.known.Get(address)
	if !expiry.IsOver(c.now(), last.freshUntil) {
		return last.certificate, nil // another fetch ended just now
	}
	select {
	case l.fetches <- struct{}{}:
		defer func() { <-l.fetches }()
	default:
		return nil, fmt.Errorf("%w: too many are being fetched", ErrUnavailable)
	}
	if !l.perMinute.AllowN(c.now(), 1) {
		return nil, fmt.Errorf("%w: too many were fetched in this minute", ErrUnavailable)
	}
	// Not the context of the first request: others wait for the same fetch.
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	cert, err := c.fetch(ctx, address)
	now := c.now()
	if err != nil {
		pause := retryPause
		if errors.Is(err, ErrCertificate) {
			pause = refusalPause
		}
		l.failures.Add(address, failure{err, now.Add(pause)})
		return nil, err
	}
	l.failures.Remove(address)
	c.learn(address)
	c.known.Add(address, cached{cert, now.Add(freshFor), now.Add(freshFor + staleFor)})
	return cert, nil
}

// fetch returns the certificate at address, or fails with ErrCertificate or
// ErrUnavailable.
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
		return nil, fmt.Errorf("%w: the file at %s is over %d bytes", ErrCertificate, address, maxCertificateSize)
	}
	cert, err := parseCertificate(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCertificate, address, err)
	}
	if len(c.pins) > 0 && !c.pins[cert.fingerprint] {
		return nil, fmt.Errorf("%w: the certificate at %s has the SHA-256 %s, which is not pinned", ErrCertificate, address, cert.fingerprint)
	}
	return cert, nil
}
