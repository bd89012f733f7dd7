package keyproxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"slices"
	"time"

	"example.com/pushinbox/local/datadir"
)

const (
	// validity is how long a certificate is valid: less than the 825 days that some
	// systems allow.
	validity = 820 * 24 * time.Hour
	// renewal is how long before its end a certificate is replaced.
	renewal = 30 * 24 * time.Hour
)

// OpenCertificate returns the certificate for these hosts with its key, both of
// which file has, with mode 0600. It is created where it is missing, or near its
// end. It signs for itself and is no CA: who gets hold of the key can pass for these
// hosts, before programs that trust it, and for no others.
func OpenCertificate(file string, hosts []string) (tls.Certificate, error) {
	hosts = slices.Sorted(slices.Values(hosts))
	create := func() ([]byte, error) { return newCertificate(hosts) }
	b, err := datadir.ReadOrCreate(file, create)
	if err == nil && !current(b, hosts) {
		if err = os.Remove(file); err == nil || errors.Is(err, fs.ErrNotExist) {
			b, err = datadir.ReadOrCreate(file, create)
		}
	}
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("the certificate of the proxy: %w", err)
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("the certificate of the proxy: %s is damaged; move it away, and a new one is created", file)
	}
	return pair, nil
}

// current reports whether the certificate is for the hosts, can sign for no others, and is
// not near its end. One that cannot be read counts as such, since it is not to be replaced
// unasked.
func current(b []byte, hosts []string) bool {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		now := time.Now()
		return err != nil || slices.Equal(certificate.DNSNames, hosts) && certificate.BasicConstraintsValid && !certificate.IsCA && now.After(certificate.NotBefore) && now.Before(certificate.NotAfter.Add(-renewal))
	}
	return true
}

func newCertificate(hosts []string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"pushinbox local, on this machine only"}, CommonName: hosts[0]},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(validity),
		DNSNames:              hosts,
		BasicConstraintsValid: true, // and IsCA false
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
}
