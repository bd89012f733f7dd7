package stack

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/local/keyproxy"
	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/pushfake"
)

// The files of the proxy in the data directory: its certificate and key, its port, and
// its password. Programs that were started before a restart have all of them.
const (
	proxyKey      = "proxy.key"
	proxyPort     = "proxy.port"
	proxyPassword = "proxy.password"
)

// Program is what a program needs, besides Addresses, to verify this run's tokens as
// Google's.
type Program struct {
	// Password goes with keyproxy.User to the proxy, where other machines reach it; it
	// then connects to the hosts of Google's keys alone.
	Password string `json:"password,omitempty"`
	// Certificate is to be trusted for those hosts, in PEM.
	Certificate string `json:"certificate"`
	// Former is the proxy, without its password, that is behind this one.
	Former string `json:"former,omitempty"`
}

// Program returns what a program needs to verify this run's tokens as Google's.
func (s *Stack) Program() Program { return s.program }

// startProxy starts the proxy in front of programs that verify the issuer's tokens.
func (s *Stack) startProxy(context.Context) error {
	listeners, err := s.listenProxy()
	if err != nil {
		return err
	}
	port := portOf(listeners)
	s.ProxyURL = fmt.Sprintf("http://127.0.0.1:%d", port)
	o := keyproxy.Options{Answers: make(map[string]http.Handler), Log: s.log("proxy")}
	if s.Key != nil {
		password, err := datadir.ReadOrCreate(filepath.Join(s.options.Data, proxyPassword), func() ([]byte, error) { return []byte(random(16)), nil })
		if err != nil {
			return dataError(s.options.Data, err)
		}
		o.Password = string(password)
	}
	for _, address := range pushfake.KeyAddresses() {
		o.Answers[strings.TrimPrefix(address, "https://")] = answerOf(s.issuer.Transport(), address)
	}
	// A host that does not exist.
	o.Answers[strings.TrimPrefix(mnsfake.CertificateURL, "https://")] = answerOf(s.mnsSigner.Transport(), mnsfake.CertificateURL)
	if o.Certificate, err = keyproxy.OpenCertificate(filepath.Join(s.options.Data, proxyKey), keyproxy.Hosts(o.Answers)); err != nil {
		return dataError(s.options.Data, err)
	}
	s.program = Program{Password: o.Password, Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate.Certificate[0]}))}
	o.Former, s.program.Former = formerProxy(port)
	proxy, err := keyproxy.New(o)
	if err != nil {
		return err
	}
	s.onClose("the proxy", proxy.Close)
	for _, l := range listeners {
		go func() {
			if err := proxy.Serve(l); err != nil {
				s.failed <- err
			}
		}()
	}
	return nil
}

// listenProxy listens on the port that was chosen, or else on that of the run before
// where it is free, since the programs of that run have it in their environment.
func (s *Stack) listenProxy() ([]net.Listener, error) {
	path := filepath.Join(s.options.Data, proxyPort)
	b, _ := datadir.ReadFile(path, 16)
	former, _ := strconv.ParseUint(string(b), 10, 16) // 0 where there is none
	if s.options.ProxyPort == 0 && former != 0 {
		if listeners, err := s.listen("proxy-port", int(former)); err == nil {
			return listeners, nil
		}
	}
	listeners, err := s.listen("proxy-port", s.options.ProxyPort)
	if err != nil {
		return nil, err
	}
	port := portOf(listeners)
	switch {
	case port == int(former):
		return listeners, nil
	case former != 0:
		s.log("proxy").Warn(fmt.Sprintf("the proxy is on port %d, and was on port %d: programs that pushinbox run started before look for keys there, and refuse every push; start them again", port, former))
	}
	if err := datadir.Replace(path, []byte(strconv.Itoa(port))); err != nil {
		return nil, dataError(s.options.Data, err)
	}
	return listeners, nil
}

// formerProxy returns what chooses the proxy that the environment names for a URL,
// and the name of that proxy. It is none where the environment is the one that a
// program gets from pushinbox run, and names the proxy on this port.
func formerProxy(port int) (choose func(*url.URL) (*url.URL, error), name string) {
	c := httpproxy.FromEnvironment()
	c.HTTPSProxy = cmp.Or(c.HTTPSProxy, os.Getenv("ALL_PROXY"), os.Getenv("all_proxy"))
	if c.HTTPSProxy == "" {
		return nil, ""
	}
	via, err := ParseProxy(c.HTTPSProxy)
	if err != nil {
		return func(*url.URL) (*url.URL, error) { return nil, err }, ""
	}
	if IsLoopback(via.Host) && via.Port() == fmt.Sprint(port) {
		return nil, ""
	}
	c.HTTPSProxy = via.String()
	return c.ProxyFunc(), via.Scheme + "://" + via.Host
}

// ParseProxy returns the address of a proxy as a URL. Its error does not have the
// address, which may have a password.
func ParseProxy(address string) (*url.URL, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err == nil && u.Hostname() != "" {
		switch u.Scheme {
		case "http", "https", "socks5", "socks5h":
			return u, nil
		}
	}
	return nil, errors.New("HTTPS_PROXY or ALL_PROXY is not the address of a proxy, such as http://proxy.example.com:3128")
}
