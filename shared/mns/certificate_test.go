package mns

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"

	"example.com/pushinbox/local/mnskey"
)

// knownModulus is that of the one certificate that MNS is known to have signed
// with. Its exponent is 65537.
const knownModulus = "b5f4b05568c1cb753404230f261251fd2ba75ace1cb933e24a74ccd59c0f25cc5dae4fcec3d453025768bc21bcd0832cb5ae88b2ba3a1e5e9663a62fc1b2ff93"

func TestParseCertificateWithKnownKey(t *testing.T) {
	t.Parallel()
	n, ok := new(big.Int).SetString(knownModulus, 16)
	if !ok {
		t.Fatal("no number")
	}
	file, err := mnskey.Certificate(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCertificate(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(file)
	sum := sha256.Sum256(block.Bytes)
	if c.n.Cmp(n) != 0 || c.n.BitLen() != 512 || c.e.Int64() != 65537 || c.fingerprint != hex.EncodeToString(sum[:]) {
		t.Errorf("got %d bits, exponent %d, fingerprint %s", c.n.BitLen(), c.e, c.fingerprint)
	}
	if c.signed("", make([]byte, 64)) || c.signed("", bytes.Repeat([]byte{0xff}, 64)) {
		t.Error("anything is a signature")
	}
}

func TestParseCertificateRefusesExponents(t *testing.T) {
	t.Parallel()
	n, ok := new(big.Int).SetString(knownModulus, 16)
	if !ok {
		t.Fatal("no number")
	}
	for e, taken := range map[int]bool{
		1: false, 2: false, 3: true, 4: false, 17: true, 65536: false, 65537: true, 1<<31 - 1: true, 1<<31 + 1: false, 1<<62 + 1: false,
	} {
		file, err := mnskey.Certificate(&rsa.PublicKey{N: n, E: e})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseCertificate(file); (err == nil) != taken {
			t.Errorf("exponent %d: %v", e, err)
		}
	}
}

// A number that is the signature plus the modulus is as good to the arithmetic.
func TestSignedTakesOneNumberOnly(t *testing.T) {
	t.Parallel()
	key, err := mnskey.New(512, 65537)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCertificate(key.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		message := fmt.Sprint(i)
		signature, err := base64.StdEncoding.DecodeString(key.Sign(message))
		if err != nil {
			t.Fatal(err)
		}
		if !c.signed(message, signature) {
			t.Fatalf("the signature of %q is refused", message)
		}
		other := new(big.Int).SetBytes(signature)
		if other.Add(other, key.N).BitLen() > 512 {
			continue // it does not fit for this message
		}
		if c.signed(message, other.FillBytes(make([]byte, 64))) {
			t.Error("a second number is a signature, too")
		}
		return
	}
}

// FuzzParseCertificate: whatever a host serves, as it is or in an envelope that is
// right, nothing panics, and an accepted key is within the limits and accepts no
// signature of another key.
func FuzzParseCertificate(f *testing.F) {
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, file := range [][]byte{content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: content})} {
			c, err := parseCertificate(file)
			if err != nil {
				continue
			}
			bits := c.n.BitLen()
			if bits < minKeyBits || bits > maxKeyBits || c.e.Bit(0) == 0 || c.e.Int64() < 3 || c.e.BitLen() > 31 {
				t.Errorf("a key of %d bits with exponent %d was taken", bits, c.e)
			}
			size := (bits + 7) / 8
			for _, signature := range [][]byte{nil, make([]byte, size), append(make([]byte, size-1), 1), content} {
				if c.signed("x", signature) {
					t.Errorf("%x is a signature", signature)
				}
			}
		}
	})
}

// FuzzCertificateAddress: what is taken is one of two hosts and a file of its root,
// always https, and it is what net/url reads.
func FuzzCertificateAddress(f *testing.F) {
	f.Fuzz(func(t *testing.T, address []byte) {
		got, err := parseCertificateURL(base64.StdEncoding.EncodeToString(address))
		if err != nil {
			return
		}
		rest, isHTTPS := strings.CutPrefix(got, "https://")
		host, file, _ := strings.Cut(rest, "/")
		file, isFile := strings.CutSuffix(file, ".pem")
		isFile = isFile && file != "" && len(got) < maxAddressSize && !strings.Contains("."+file+".", "..") &&
			strings.Trim(file, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
		u, err := url.Parse(got)
		if err != nil || u.Host != host || u.Path != "/"+file+".pem" || u.String() != got {
			t.Errorf("%q was taken as %q, which is read as %v, %v", address, got, u, err)
		}
		name, isOSS := strings.CutSuffix(host, ".aliyuncs.com")
		if region, ok := strings.CutPrefix(name, "mns-cert.oss-cn-"); ok {
			isOSS = isOSS && region != "" && strings.Trim(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
		} else {
			isOSS = isOSS && name == "mnstest.oss-cn-hangzhou"
		}
		if !isHTTPS || !isFile || !isOSS {
			t.Errorf("%q was taken as %q", address, got)
		}
	})
}
