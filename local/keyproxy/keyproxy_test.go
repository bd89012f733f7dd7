package keyproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/keyproxy"
	"example.com/pushinbox/testkit/port"
)

const (
	keyHost = "www.googleapis.com"
	keyPath = "/oauth2/v3/certs"
)

// world is a proxy, behind a former one that leads every host to a fake origin.
type world struct {
	proxy *url.URL
	file  string         // of the certificate
	leaf  *x509.CertPool // it alone
	log   *logged

	origin *httptest.Server // answers for every host, with a certificate of its own
	mu     sync.Mutex
	seen   []string // by the origin
	former []string // what was asked of the former proxy
}

// logged is a log that tests read while it is written.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t *testing.T, scheme, password string) *world {
	t.Helper()
	w := &world{file: filepath.Join(t.TempDir(), "proxy.key"), log: &logged{}}
	w.origin = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		w.seen = append(w.seen, fmt.Sprintf("%s https://%s%s %v %s", r.Method, r.Host, r.RequestURI, r.Header["Authorization"], b))
		w.mu.Unlock()
		rw.Header().Set("X-Origin", "yes")
		rw.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(rw, "from the origin")
	}))
	w.origin.Config.ErrorLog = log.New(io.Discard, "", 0)
	real, err := keyproxy.OpenCertificate(filepath.Join(t.TempDir(), "origin.key"), []string{keyHost, "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	w.origin.TLS = &tls.Config{Certificates: []tls.Certificate{real}}
	w.origin.StartTLS()
	t.Cleanup(w.origin.Close)
	roots := x509.NewCertPool()
	roots.AddCert(real.Leaf)
	former := w.startFormer(t, scheme, roots)
	pair, err := keyproxy.OpenCertificate(w.file, []string{keyHost, "www.gstatic.com"})
	if err != nil {
		t.Fatal(err)
	}
	w.leaf = x509.NewCertPool()
	w.leaf.AddCert(pair.Leaf)
	p, err := keyproxy.New(keyproxy.Options{
		Answers:     map[string]http.Handler{keyHost + keyPath: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the keys") })},
		Certificate: pair, Former: func(*url.URL) (*url.URL, error) { return former, nil }, Roots: roots, Password: password,
		Log: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	w.proxy = &url.URL{Scheme: "http", Host: l.Addr().String()}
	if password != "" {
		w.proxy.User = url.UserPassword(keyproxy.User, password)
	}
	return w
}

// startFormer starts the proxy of this scheme through which the user goes so far, and
// adds its certificate to roots.
func (w *world) startFormer(t *testing.T, scheme string, roots *x509.CertPool) *url.URL {
	t.Helper()
	if scheme == "socks5" {
		return w.startSOCKS(t)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.former = append(w.former, r.Method+" "+r.Host)
		w.mu.Unlock()
		if r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("me:secret")) {
			http.Error(rw, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		out, err := net.Dial("tcp", w.origin.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		in, buffered, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(out, buffered); _ = out.Close() }()
		_, _ = io.Copy(in, out)
		_ = in.Close()
	}))
	if scheme == "https" {
		server.StartTLS()
		roots.AddCert(server.Certificate())
	} else {
		server.Start()
	}
	t.Cleanup(server.CloseClientConnections)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "secret")
	return u
}

// startSOCKS starts a SOCKS5 proxy without authentication.
func (w *world) startSOCKS(t *testing.T) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				head := make([]byte, 2)
				_, _ = io.ReadFull(in, head)
				_, _ = io.CopyN(io.Discard, in, int64(head[1]))
				_, _ = in.Write([]byte{5, 0})
				ask := make([]byte, 5)
				_, _ = io.ReadFull(in, ask)
				name := make([]byte, int(ask[4])+2)
				_, _ = io.ReadFull(in, name)
				w.mu.Lock()
				w.former = append(w.former, fmt.Sprintf("SOCKS %s", name[:len(name)-2]))
				w.mu.Unlock()
				out, err := net.Dial("tcp", w.origin.Listener.Addr().String())
				if err != nil {
					return
				}
				defer out.Close()
				_, _ = in.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				go func() { _, _ = io.Copy(out, in) }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return &url.URL{Scheme: "socks5", Host: l.Addr().String()}
}

// client is a program that trusts these roots.
func (w *world) client(t *testing.T, roots *x509.CertPool) *http.Client {
	t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(w.proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// soon ends long after what a test waits for.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func answer(t *testing.T, c *http.Client, method, address, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s %s", resp.StatusCode, b, resp.Header.Get("X-Origin"))
}

// TestKeysAndTheRest has a program read the keys, call another API of their host,
// and another host, through each kind of proxy that the user may have.
func TestKeysAndTheRest(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, scheme, "")
			program := w.client(t, w.leaf)
			if got := answer(t, program, http.MethodGet, "https://"+keyHost+keyPath, ""); got != "200 the keys " {
				t.Errorf("the keys: %s", got)
			}
			const calendar = "/calendar/v3/calendars/a%2Fb/events?x=%20;y&z=1"
			if got := answer(t, program, http.MethodPost, "https://"+keyHost+calendar, `{"a":1}`); got != "418 from the origin yes" {
				t.Errorf("Calendar: %s", got)
			}
			answer(t, program, http.MethodGet, "https://"+keyHost+keyPath+"/", "")
			// The tunnel ends TLS at the origin: its certificate is not ours.
			roots := x509.NewCertPool()
			roots.AddCert(w.origin.Certificate())
			if got := answer(t, w.client(t, roots), http.MethodPut, "https://example.com/x", "b"); got != "418 from the origin yes" {
				t.Errorf("another host: %s", got)
			}
			want := []string{
				"POST https://" + keyHost + calendar + ` [Bearer secret] {"a":1}`,
				"GET https://" + keyHost + keyPath + "/ [Bearer secret] ",
				"PUT https://example.com/x [Bearer secret] b",
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if diff := cmp.Diff(want, w.seen); diff != "" {
				t.Errorf("the origin saw (-want +got):\n%s", diff)
			}
			if len(w.former) < 2 {
				t.Errorf("the former proxy was asked for %q", w.former)
			}
			if w.log.String() != "" {
				t.Errorf("logged: %s", w.log)
			}
		})
	}
}

// TestCertificate has the certificate trusted, and nothing more than its hosts be
// believed by that.
func TestCertificate(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "proxy.key")
	hosts := []string{keyHost, "www.gstatic.com"}
	pair, err := keyproxy.OpenCertificate(file, hosts)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	for host, want := range map[string]bool{keyHost: true, "www.gstatic.com": true, "gmail.googleapis.com": false, "a.www.googleapis.com": false, "127.0.0.1": false} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pool}); (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
	if pair.Leaf.IsCA || !pair.Leaf.BasicConstraintsValid || pair.Leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("the certificate may sign others")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, err := keyproxy.OpenCertificate(file, hosts)
	if err != nil || !again.Leaf.Equal(pair.Leaf) {
		t.Errorf("a second run has another certificate, %v", err)
	}
	other, err := keyproxy.OpenCertificate(file, hosts[:1])
	if err != nil || other.Leaf.Equal(pair.Leaf) {
		t.Errorf("the certificate of other hosts was taken, %v", err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyproxy.OpenCertificate(file, hosts); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("with a damaged file: %v", err)
	}
}

// TestCertificateOfSomebody has a data directory come with a certificate for the very
// hosts that can sign for every other one: programs are not told to trust that.
func TestCertificateOfSomebody(t *testing.T) {
	t.Parallel()
	hosts := []string{keyHost, "www.gstatic.com"}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, theirs := range map[string]*x509.Certificate{
		"authority":     {BasicConstraintsValid: true, IsCA: true},
		"says_not_what": {},
	} {
		theirs.SerialNumber, theirs.DNSNames = big.NewInt(1), hosts
		theirs.NotBefore, theirs.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(365*24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, theirs, theirs, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "proxy.key")
		b := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if pair, err := keyproxy.OpenCertificate(file, hosts); err != nil || bytes.Equal(pair.Certificate[0], der) || pair.Leaf.IsCA || !pair.Leaf.BasicConstraintsValid {
			t.Errorf("%s: it is taken, %v", name, err)
		}
	}
}

// send sends text to the proxy and returns the first line of its answer.
func (w *world) send(t *testing.T, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", w.proxy.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, text)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%v after %q", err, line)
	}
	return strings.TrimSpace(line)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	open, closed := newWorld(t, "http", ""), newWorld(t, "http", "correct")
	basic := func(password string) string {
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("pushinbox:"+password)) + "\r\n"
	}
	for name, test := range map[string]struct {
		w    *world
		text string
		want string
	}{
		"get":                {open, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "405"},
		"get_of_a_host":      {open, "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "405"},
		"other_port":         {open, "CONNECT example.com:25 HTTP/1.1\r\nHost: x\r\n\r\n", "403"},
		"other_port_of_keys": {open, "CONNECT " + keyHost + ":80 HTTP/1.1\r\nHost: x\r\n\r\n", "403"},
		"no_port":            {open, "CONNECT example.com HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		"no_host":            {open, "CONNECT :443 HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		"web_page":           {open, "CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n\r\n", "403"},
		"long_header":        {open, "CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 128<<10) + "\r\n\r\n", "431"},
		"no_password":        {closed, "CONNECT " + keyHost + ":443 HTTP/1.1\r\nHost: x\r\n\r\n", "407"},
		"wrong_password":     {closed, "CONNECT " + keyHost + ":443 HTTP/1.1\r\nHost: x\r\n" + basic("wrong") + "\r\n", "407"},
		"two_passwords":      {closed, "CONNECT " + keyHost + ":443 HTTP/1.1\r\nHost: x\r\n" + basic("wrong") + basic("correct") + "\r\n", "407"},
		"closed_other_host":  {closed, "CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n" + basic("correct") + "\r\n", "403"},
		"closed_key_host":    {closed, "CONNECT " + keyHost + ":443 HTTP/1.1\r\nHost: x\r\n" + basic("correct") + "\r\n", "200"},
		"key_host_with_dot":  {closed, "CONNECT WWW.googleapis.com.:443 HTTP/1.1\r\nHost: x\r\n" + basic("correct") + "\r\n", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := test.w.send(t, test.text); !strings.HasPrefix(got, "HTTP/1.1 "+test.want) {
				t.Errorf("answered %s, want %s", got, test.want)
			}
		})
	}
}

// TestOtherHostInside asks for another host on a connection to that of the keys.
func TestOtherHostInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "http", "correct")
	program := w.client(t, w.leaf)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+keyHost+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "example.com"
	resp, err := program.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest || len(w.seen) > 0 {
		t.Errorf("answered %s, and the origin saw %q", resp.Status, w.seen)
	}
}

// connect returns a connection by the proxy, and the first line of its answer.
func (w *world) connect(t *testing.T, to string) (net.Conn, string) {
	t.Helper()
	conn, err := net.Dial("tcp", w.proxy.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", to)
	answer := bufio.NewReader(conn)
	line, err := answer.ReadString('\n')
	if err == nil {
		_, err = answer.ReadString('\n') // nothing comes after it yet
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn, line
}

// TestUntrusting says in the log that a program does not trust the certificate.
func TestUntrusting(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(net.Conn){
		"go":      func(net.Conn) {},                                                  // which sends an encrypted alert
		"openssl": func(c net.Conn) { _, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, 48}) }, // unknown_ca, as it is
		"leaves":  func(c net.Conn) { _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "http", "")
			conn, _ := w.connect(t, keyHost+":443")
			client := tls.Client(conn, &tls.Config{
				InsecureSkipVerify: true,
				VerifyConnection: func(tls.ConnectionState) error {
					leave(conn)
					return errors.New("the certificate is not trusted")
				},
			})
			if client.Handshake() == nil {
				t.Fatal("the program trusts anything")
			}
			_ = conn.Close()
			if err := port.Until(soon(t), func() error {
				if !strings.Contains(w.log.String(), "pushinbox run") {
					return fmt.Errorf("logged: %q", w.log)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestNoHandshake leaves before there was a certificate, which says nothing of trust.
func TestNoHandshake(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "http", "")
	for _, sent := range []string{"", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\x05\x01\x00"} {
		conn, _ := w.connect(t, keyHost+":443")
		_, _ = io.WriteString(conn, sent)
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn) // until the proxy has left too
		_ = conn.Close()
	}
	conn, _ := w.connect(t, keyHost+":443")
	if tls.Client(conn, &tls.Config{ServerName: keyHost, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}).Handshake() == nil {
		t.Error("the proxy has a certificate for RSA")
	}
	if w.log.String() != "" {
		t.Errorf("logged: %q", w.log)
	}
}

// TestTooManyTunnels opens one more than there may be, and has another one let in
// when one ends.
func TestTooManyTunnels(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "http", "")
	var last net.Conn
	for i := range 512 {
		conn, line := w.connect(t, "example.com:443")
		if !strings.Contains(line, " 200 ") {
			t.Fatalf("%d: %s", i, line)
		}
		last = conn
	}
	if _, line := w.connect(t, "example.com:443"); !strings.Contains(line, " 503 ") {
		t.Errorf("one more: %s", line)
	}
	_ = last.Close()
	if err := port.Until(soon(t), func() error {
		if _, line := w.connect(t, "example.com:443"); !strings.Contains(line, " 200 ") {
			return fmt.Errorf("after one ended: %s", line)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
