package mnsattack

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/googleapis/gax-go/v2"

	"example.com/pushinbox/local/mnskey"
	"example.com/pushinbox/testkit/pushattack"
)

// GoodURL is the address of an Origin's good certificate.
const GoodURL = "https://mnstest.oss-cn-hangzhou.aliyuncs.com/x509_public_certificate.pem"

// dsaCertificate was created with openssl, because Go cannot create one.
//
//go:embed testdata/dsa.pem
var dsaCertificate []byte

// Origin is a stand-in for the hosts of MNS's certificates: give it to an endpoint as
// the transport that fetches certificates. It has a good certificate at GoodURL. Each
// of its cases has a valid address of its own, with a bad certificate or a host that
// misbehaves. It opens no connection.
type Origin struct {
	// Key is the key of the good certificate.
	Key *mnskey.Key

	mu     sync.Mutex
	pages  map[string]page
	asked  map[string]int
	strays []string
}

// page answers a request for one address.
type page func(*http.Request) (*http.Response, error)

// NewOrigin returns an Origin whose good certificate has a key of this many bits.
func NewOrigin(bits int) (*Origin, error) {
	key, err := mnskey.New(bits, 65537)
	if err != nil {
		return nil, err
	}
	return &Origin{
		Key:   key,
		pages: map[string]page{GoodURL: file(key.Certificate)},
		asked: make(map[string]int),
	}, nil
}

// Target returns a Target with the good certificate.
func (o *Origin) Target(url, owner string) Target {
	return Target{URL: url, Owner: owner, CertificateURL: GoodURL, Sign: o.Key.Sign}
}

// RoundTrip answers for the Origin's addresses, and records any other one.
func (o *Origin) RoundTrip(r *http.Request) (*http.Response, error) {
	address := r.URL.String()
	o.mu.Lock()
	p := o.pages[address]
	if p == nil || r.Method != http.MethodGet {
		o.strays = append(o.strays, r.Method+" "+address)
	} else {
		o.asked[address]++
	}
	o.mu.Unlock()
	if p == nil {
		return nil, errors.New("mnsattack: this address must not be fetched")
	}
	return p(r)
}

// Strays returns the requests to other addresses than the Origin's. Each would have
// been a connection to a host that the attacker chose.
func (o *Origin) Strays() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.strays)
}

// Asked returns how often the good certificate was fetched.
func (o *Origin) Asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked[GoodURL]
}

// serve puts a page at the address with this region, or for one that begins with
// "name_" with that file name at the usual host, and returns the address.
func (o *Origin) serve(region string, p page) string {
	address := "https://mns-cert.oss-cn-" + strings.ReplaceAll(region, "_", "-") + ".aliyuncs.com/x509_public_certificate.pem"
	if strings.HasPrefix(region, "name_") {
		address = "https://mnstest.oss-cn-hangzhou.aliyuncs.com/" + region + ".pem"
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pages[address] = p
	return address
}

func file(content []byte) page { return status(http.StatusOK, content) }

func status(code int, content []byte) page {
	return func(r *http.Request) (*http.Response, error) {
		return response(r, code, bytes.NewReader(content)), nil
	}
}

func response(r *http.Request, code int, body io.Reader) *http.Response {
	return &http.Response{
		Status: fmt.Sprint(code, " ", http.StatusText(code)), StatusCode: code,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Location": {"https://evil.example/x509_public_certificate.pem"}},
		Body:          io.NopCloser(body),
		ContentLength: -1,
		Request:       r,
	}
}

// hang does not answer before the request is cancelled.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// dripper returns one byte every tenth of a second.
type dripper struct {
	request *http.Request
	rest    []byte
}

func (d *dripper) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	if err := gax.Sleep(d.request.Context(), 100*time.Millisecond); err != nil {
		return 0, err
	}
	n := copy(p[:1], d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Cases returns requests whose certificate cannot be fetched or must not be trusted,
// and forged signatures that a careless check accepts. Send them one after the other:
// an endpoint limits how many new certificates it fetches at the same time and in a
// minute, so with a real clock each needs a new endpoint. A request that names a slow
// host takes until the endpoint's time-out.
func (o *Origin) Cases(t Target) ([]Case, error) {
	a := attack{origin: o, target: t}
	for _, add := range []func() error{a.hosts, a.files, a.keys, a.forgeries} {
		if err := add(); err != nil {
			return nil, err
		}
	}
	return a.cases, nil
}

// attack collects cases.
type attack struct {
	origin *Origin
	target Target
	cases  []Case
}

// add adds a push with the address of this page and a signature of sign.
func (a *attack) add(name string, code int, p page, sign func(text string) string) {
	t := a.target
	t.CertificateURL, t.Sign = a.origin.serve(name, p), sign
	a.cases = append(a.cases, Case{"certificate_" + name, code, t.draft().sign().request()})
}

// hosts adds hosts that do not answer with a certificate.
func (a *attack) hosts() error {
	good, sign := a.origin.Key.Certificate, a.origin.Key.Sign
	for name, code := range map[string]int{
		"redirect_301": 301, "redirect_302": 302, "redirect_307": 307, "redirect_308": 308,
		"status_204": 204, "status_206": 206, "status_403": 403, "status_404": 404,
	} {
		a.add(name, http.StatusForbidden, status(code, good), sign)
		a.add("name_"+name, http.StatusForbidden, status(code, good), sign)
	}
	for name, p := range map[string]page{
		"status_500": status(500, good),
		"status_503": status(503, good),
		"refuses":    func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") },
		"hangs":      hang,
		"drips": func(r *http.Request) (*http.Response, error) {
			return response(r, http.StatusOK, &dripper{r, good}), nil
		},
		"breaks_off": func(r *http.Request) (*http.Response, error) {
			return response(r, http.StatusOK, io.MultiReader(bytes.NewReader(good[:100]), broken{})), nil
		},
	} {
		a.add(name, http.StatusServiceUnavailable, p, sign)
	}
	a.add("endless", http.StatusForbidden, func(r *http.Request) (*http.Response, error) {
		return response(r, http.StatusOK, pushattack.Spaces{}), nil
	}, sign)
	return nil
}

// files adds files that are not a certificate in PEM, or are one of another key.
func (a *attack) files() error {
	key := a.origin.Key
	block, _ := pem.Decode(key.Certificate)
	public, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: key.N, E: 65537})
	if err != nil {
		return err
	}
	stranger, err := mnskey.New(key.N.BitLen(), 65537)
	if err != nil {
		return err
	}
	pemOf := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	for name, content := range map[string][]byte{
		"empty":           nil,
		"html":            []byte("<html>captive portal</html>"),
		"oversized":       append(bytes.Clone(key.Certificate), bytes.Repeat([]byte("\n"), 10<<10)...),
		"der":             block.Bytes,
		"cut":             key.Certificate[:len(key.Certificate)/2],
		"not_der":         pemOf("CERTIFICATE", []byte("x")),
		"der_cut":         pemOf("CERTIFICATE", block.Bytes[:len(block.Bytes)-1]),
		"der_longer":      pemOf("CERTIFICATE", append(bytes.Clone(block.Bytes), 0)),
		"of_another_type": pemOf("TRUSTED CERTIFICATE", block.Bytes),
		"only_a_key":      pemOf("PUBLIC KEY", public),
		"of_another_key":  stranger.Certificate,
	} {
		a.add(name, http.StatusForbidden, file(content), key.Sign)
	}
	return nil
}

// keys adds certificates whose keys are not RSA, or RSA keys without security.
func (a *attack) keys() error {
	good := a.origin.Key
	forbid := func(name string, public any, sign func(string) string) error {
		certificate, err := mnskey.Certificate(public)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		a.add(name, http.StatusForbidden, file(certificate), sign)
		return nil
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	err = forbid("ecdsa", &curve.PublicKey, func(text string) string {
		sum := sha1.Sum([]byte(text))
		signature, err := ecdsa.SignASN1(rand.Reader, curve, sum[:])
		if err != nil {
			panic(err)
		}
		return encode(string(signature))
	})
	if err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	err = forbid("ed25519", public, func(text string) string { return encode(string(ed25519.Sign(private, []byte(text)))) })
	if err != nil {
		return err
	}
	a.add("dsa", http.StatusForbidden, file(dsaCertificate), good.Sign)

	for _, bits := range []int{384, 511, 4097} {
		key, err := mnskey.New(bits, 65537)
		if err != nil {
			return err
		}
		a.add(fmt.Sprintf("%d_bits", bits), http.StatusForbidden, file(key.Certificate), key.Sign)
	}
	huge := new(big.Int).SetBit(big.NewInt(1), 50_000, 1)
	for name, key := range map[string]*rsa.PublicKey{
		"50001_bits":            {N: huge, E: 65537},
		"exponent_1":            {N: good.N, E: 1},
		"exponent_2":            {N: good.N, E: 2},
		"exponent_65536":        {N: good.N, E: 65536},
		"exponent_over_31_bits": {N: good.N, E: 1<<31 + 1},
	} {
		sign := good.Sign
		if key.E == 1 { // then the encoded message is its own signature
			sign = func(text string) string { return encode(string(good.Encoded(text))) }
		}
		if err := forbid(name, key, sign); err != nil {
			return err
		}
	}
	return nil
}

// forgeries adds signatures that a check accepts when it parses the padding instead of
// comparing it, and signatures of the right key in another form than MNS's.
func (a *attack) forgeries() error {
	small, err := mnskey.New(2048, 3)
	if err != nil {
		return err
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	certificate, err := mnskey.Certificate(&large.PublicKey)
	if err != nil {
		return err
	}
	forge := func(name string, certificate []byte, sign func(text string) []byte) {
		a.add("forged_"+name, http.StatusForbidden, file(certificate), func(text string) string {
			return encode(string(sign(text)))
		})
	}
	// Bleichenbacher, 2006: with the exponent 3 a cube root is a valid signature, if
	// the check ignores the bytes after the digest or the length of the padding.
	for name, padding := range map[string]int{"trailing_garbage": 8, "one_byte_of_padding": 1, "no_padding": 0, "long_padding": 64} {
		forge(name, small.Certificate, func(text string) []byte {
			start := append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, padding)...)
			return cubeRoot(append(append(start, 0), mnskey.DigestInfo(text)...), small.Size())
		})
	}
	forge("nothing", small.Certificate, func(string) []byte { return make([]byte, small.Size()) })
	forge("pss", certificate, func(text string) []byte {
		sum := sha1.Sum([]byte(text))
		signature, err := rsa.SignPSS(rand.Reader, large, crypto.SHA1, sum[:], nil)
		if err != nil {
			panic(err)
		}
		return signature
	})

	key := a.origin.Key
	for name, encoded := range map[string]func(text string) []byte{
		"block_type_0":     func(text string) []byte { return mnskey.Pad(key.Size(), 0, 0xff, mnskey.DigestInfo(text)) },
		"block_type_2":     func(text string) []byte { return mnskey.Pad(key.Size(), 2, 0xff, mnskey.DigestInfo(text)) },
		"padding_of_zeros": func(text string) []byte { return mnskey.Pad(key.Size(), 1, 0, mnskey.DigestInfo(text)) },
		"padding_of_fe":    func(text string) []byte { return mnskey.Pad(key.Size(), 1, 0xfe, mnskey.DigestInfo(text)) },
		"digest_without_info": func(text string) []byte {
			sum := sha1.Sum([]byte(text))
			return mnskey.Pad(key.Size(), 1, 0xff, sum[:])
		},
		"info_without_null": func(text string) []byte {
			sum := sha1.Sum([]byte(text))
			return mnskey.Pad(key.Size(), 1, 0xff, append([]byte("\x30\x1f\x30\x07\x06\x05\x2b\x0e\x03\x02\x1a\x04\x14"), sum[:]...))
		},
		"info_with_long_length": func(text string) []byte {
			sum := sha1.Sum([]byte(text))
			return mnskey.Pad(key.Size(), 1, 0xff, append([]byte("\x30\x81\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"), sum[:]...))
		},
		"md5": func(text string) []byte {
			sum := md5.Sum([]byte(text))
			return mnskey.Pad(key.Size(), 1, 0xff, append([]byte("\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10"), sum[:]...))
		},
		"sha256": func(text string) []byte {
			sum := sha256.Sum256([]byte(text))
			return mnskey.Pad(key.Size(), 1, 0xff, append([]byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), sum[:]...))
		},
	} {
		forge(name, key.Certificate, func(text string) []byte { return key.Raw(encoded(text)) })
	}
	forge("plus_modulus", key.Certificate, func(text string) []byte {
		s := new(big.Int).SetBytes(key.Raw(key.Encoded(text)))
		return s.Add(s, key.N).Bytes()
	})
	forge("leading_zero", key.Certificate, func(text string) []byte {
		return append([]byte{0}, key.Raw(key.Encoded(text))...)
	})
	return nil
}

// cubeRoot returns a number of this many bytes whose cube begins with start.
func cubeRoot(start []byte, size int) []byte {
	low := new(big.Int).Lsh(new(big.Int).SetBytes(start), uint(8*(size-len(start))))
	three := big.NewInt(3)
	root, next := new(big.Int), new(big.Int)
	for bit := low.BitLen()/3 + 1; bit >= 0; bit-- {
		if new(big.Int).Exp(next.SetBit(root, bit, 1), three, nil).Cmp(low) < 0 {
			root.Set(next)
		}
	}
	return root.Add(root, big.NewInt(1)).FillBytes(make([]byte, size))
}
