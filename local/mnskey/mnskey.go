// Package mnskey creates RSA keys of any size with certificates, and signs with
// them as MNS does: PKCS #1 v1.5 with SHA-1. It is for the stand-in and for tests
// only. crypto/rsa creates and uses no keys below 1024 bits, and the only known key
// of MNS has 512.
package mnskey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Key is an RSA key with a certificate.
type Key struct {
	N, E, D *big.Int
	// Certificate is in PEM, and has expired, as MNS's has.
	Certificate []byte
}

// New returns a new key with this many bits and this exponent, an odd prime. A
// large key has more than two factors, because small primes are found sooner.
func New(bits int, exponent int64) (*Key, error) {
	e, one, half := big.NewInt(exponent), big.NewInt(1), min(bits/2, 512)
	for {
		n, phi := new(big.Int), big.NewInt(1)
		for left := bits; left > 0; left = bits - n.BitLen() {
			last := left < 2*half
			size := half
			if last {
				size = left
			}
			p, err := rand.Prime(rand.Reader, size)
			if err != nil {
				return nil, err
			}
			if new(big.Int).Mod(p, e).Cmp(one) == 0 {
				continue // there is no D
			}
			if phi.Mul(phi, new(big.Int).Sub(p, one)); n.Sign() == 0 {
				n.Set(p)
			} else {
				n.Mul(n, p)
			}
			if last {
				break
			}
		}
		if n.BitLen() != bits {
			continue
		}
		d := new(big.Int).ModInverse(e, phi)
		certificate, err := Certificate(&rsa.PublicKey{N: n, E: int(exponent)})
		return &Key{n, e, d, certificate}, err
	}
}

// Certificate returns a certificate of a public key, in PEM. Another key signs it,
// because crypto/x509 does not sign with RSA keys below 1024 bits.
func Certificate(public any) ([]byte, error) {
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "notify", OrganizationalUnit: []string{"Mns"}, Organization: []string{"Aliyun"}},
		NotBefore:    time.Date(2015, 7, 2, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2016, 7, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, issuer)
	if err != nil {
		return nil, fmt.Errorf("mnskey: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Size returns the length of the key's signatures, in bytes.
func (k *Key) Size() int { return (k.N.BitLen() + 7) / 8 }

// Sign returns the signature of text, in base64.
func (k *Key) Sign(text string) string {
	return base64.StdEncoding.EncodeToString(k.Raw(k.Encoded(text)))
}

// Raw returns the private operation on an encoded message.
func (k *Key) Raw(encoded []byte) []byte {
	m := new(big.Int).SetBytes(encoded)
	return m.Exp(m, k.D, k.N).FillBytes(make([]byte, k.Size()))
}

// DigestInfo returns the ASN.1 of the SHA-1 of text.
func DigestInfo(text string) []byte {
	sum := sha1.Sum([]byte(text))
	return append([]byte("\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"), sum[:]...)
}

// Encoded returns the encoded message of text, which Sign passes to Raw.
func (k *Key) Encoded(text string) []byte { return Pad(k.Size(), 1, 0xff, DigestInfo(text)) }

// Pad returns content as the end of a block of this size, type and padding.
func Pad(size int, kind, filler byte, content []byte) []byte {
	block := bytes.Repeat([]byte{filler}, size)
	block[0], block[1], block[size-len(content)-1] = 0, kind, 0
	copy(block[size-len(content):], content)
	return block
}
