// Package keyproxy is a proxy in front of a program that verifies Google's tokens:
// it answers for the addresses of Google's keys itself, so that the program, not
// changed in any way, accepts what a local issuer signs and nothing else.
//
// It takes CONNECT to port 443 alone. For the hosts of the keys it ends TLS with a
// certificate that the program has to trust; all that is no key goes on to the real
// host over verified TLS, and none of it is logged. Every other host gets a tunnel,
// in which this proxy sees nothing. It is for one machine.
package keyproxy

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"example.com/pushinbox/local/handover"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// What a proxy does at most.
const (
	// maxTunnels is how many connections to other hosts, and to those of the keys,
	// there are at a time; one more is answered 503.
	maxTunnels = 512
	// maxAsking is how many connections there are that have not said yet where to; one
	// more is closed.
	maxAsking = 512
	// maxHeader bounds a request's header, in bytes, and an answer's of another proxy.
	maxHeader = 64 << 10
	// headerTime is how long a client may take to send a header, or to agree on TLS.
	headerTime = 10 * time.Second
	// dialTime is how long a connection to another host may take.
	dialTime = 20 * time.Second
	// idleTime is how long a connection may be silent.
	idleTime = time.Hour
	// keptTime is how long a connection to a host of the keys waits for another request.
	keptTime = 2 * time.Minute
	// requestTime is how long a request to such a host may take, with its answer.
	requestTime = time.Hour
)

// User is the name that goes with Options.Password.
const User = "pushinbox"

// Options are what a Proxy needs.
type Options struct {
	// Answers has the handler of each address that is answered here, by host and path,
	// such as www.googleapis.com/oauth2/v3/certs.
	Answers map[string]http.Handler
	// Certificate is for the hosts of Answers.
	Certificate tls.Certificate
	// Former names the proxy through which a URL was reached so far, if any; nil means
	// that there was none.
	Former func(*url.URL) (*url.URL, error)
	// Roots are trusted for the hosts of Answers; nil means the system's.
	Roots *x509.CertPool
	// Password, if not empty, must be in Proxy-Authorization, with User as the name,
	// and the proxy then answers for the hosts of Answers alone: it is reached by
	// other machines, for which it is not to be a way to all hosts.
	Password string
	// Log gets a warning when a program does not trust the certificate.
	Log *slog.Logger
}

// Hosts returns the hosts of these addresses, sorted.
func Hosts(answers map[string]http.Handler) []string {
	var hosts []string
	for address := range answers {
		host, _, _ := strings.Cut(address, "/")
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Proxy is a proxy. Its zero value is not valid; use New.
type Proxy struct {
	options  Options
	hosts    map[string]bool
	outer    *http.Server
	inner    *http.Server
	tls      *tls.Config
	accepted *handover.Listener
	tunnels  chan struct{} // has an item for each
	warning  rate.Sometimes

	running context.Context // until Close
	stop    context.CancelFunc
	inside  sync.Once // starts inner
	open    atomic.Int64
}

// New returns a Proxy, which works once Serve is called.
func New(o Options) (*Proxy, error) {
	if len(o.Answers) == 0 || len(o.Certificate.Certificate) == 0 || o.Log == nil {
		return nil, errors.New("keyproxy: Answers, Certificate or Log is missing")
	}
	if o.Former == nil {
		o.Former = func(*url.URL) (*url.URL, error) { return nil, nil }
	}
	p := &Proxy{
		options: o, hosts: make(map[string]bool), tunnels: make(chan struct{}, maxTunnels),
		tls: &tls.Config{NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			hello.Conn.(*shownConn).chosen = true
			return &o.Certificate, nil
		}},
		warning: rate.Sometimes{First: 3, Interval: 10 * time.Second},
	}
	for _, host := range Hosts(o.Answers) {
		p.hosts[host] = true
	}
	p.running, p.stop = context.WithCancel(context.Background())
	silent := log.New(io.Discard, "", 0)
	p.outer = &http.Server{
		Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, IdleTimeout: headerTime,
		MaxHeaderBytes: maxHeader, DisableGeneralOptionsHandler: true, ErrorLog: silent, ConnState: p.count,
	}
	p.inner = &http.Server{
		Handler: p.keyHost(), ReadHeaderTimeout: headerTime, IdleTimeout: keptTime, MaxHeaderBytes: maxHeader,
		DisableGeneralOptionsHandler: true, ErrorLog: silent,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, hostKey{}, c.(*keyConn).host)
		},
	}
	p.accepted = handover.Listen(p.running.Done(), &net.TCPAddr{}, func() {})
	return p, nil
}

// Serve serves a listener until Close, and returns its error, if it is not that.
func (p *Proxy) Serve(l net.Listener) error {
	p.inside.Do(func() { go func() { _ = p.inner.Serve(p.accepted) }() })
	err := p.outer.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close ends the proxy and all of its connections.
func (p *Proxy) Close() error {
	p.stop()
	return errors.Join(p.outer.Close(), p.inner.Close())
}

// count closes a connection that is one too many.
func (p *Proxy) count(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if p.open.Add(1) > maxAsking {
			_ = c.Close()
		}
	case http.StateHijacked, http.StateClosed:
		p.open.Add(-1)
	}
}

// serve answers what comes to the proxy's own port.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	host, refusal := p.check(w, r)
	if refusal != nil {
		w.Header().Set("Connection", "close")
		httpapi.WriteError(w, refusal)
		return
	}
	select {
	case p.tunnels <- struct{}{}:
	default:
		httpapi.WriteError(w, problem.New(http.StatusServiceUnavailable, fmt.Sprintf("there are %d connections already", maxTunnels)))
		return
	}
	release := sync.OnceFunc(func() { <-p.tunnels })
	if p.hosts[host] {
		p.intercept(w, host, release)
		return
	}
	defer release()
	ctx, cancel := context.WithTimeout(p.running, dialTime)
	defer cancel()
	out, err := p.dial(ctx, host)
	if err != nil {
		httpapi.WriteError(w, &problem.Error{Status: http.StatusBadGateway, Detail: host + " cannot be reached: " + err.Error(), Cause: err})
		return
	}
	in, err := established(w)
	if err != nil {
		_ = out.Close()
		return
	}
	join(p.running, in, out)
}

// check returns the host to connect to, or why not.
func (p *Proxy) check(w http.ResponseWriter, r *http.Request) (host string, _ error) {
	if r.Method != http.MethodConnect {
		w.Header().Set("Allow", http.MethodConnect)
		return "", problem.New(http.StatusMethodNotAllowed, "this is the proxy for programs that pushinbox run starts, and takes CONNECT alone")
	}
	if len(r.Header["Origin"])+len(r.Header["Sec-Fetch-Site"]) > 0 {
		return "", problem.New(http.StatusForbidden, "this proxy is for programs, and the request comes from a web page")
	}
	if p.options.Password != "" && !p.authorized(r) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="pushinbox local"`)
		return "", problem.New(http.StatusProxyAuthRequired, "the address of this proxy has a password, which pushinbox run knows")
	}
	host, port, err := net.SplitHostPort(r.Host)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case err != nil || host == "":
		return "", problem.New(http.StatusBadRequest, "CONNECT needs a host and a port")
	case port != "443":
		return "", problem.New(http.StatusForbidden, "this proxy connects to port 443 alone; add the host to NO_PROXY to have programs reach it directly")
	case p.options.Password != "" && !p.hosts[host]:
		return "", problem.New(http.StatusForbidden, "with --host this proxy answers for the hosts of Google's keys alone; add the host to NO_PROXY to have programs reach it directly")
	}
	return host, nil
}

func (p *Proxy) authorized(r *http.Request) bool {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(User+":"+p.options.Password))
	given := r.Header.Values("Proxy-Authorization")
	return len(given) == 1 && subtle.ConstantTimeCompare([]byte(given[0]), []byte(want)) == 1
}

// intercept hands the connection to the server of the keys. release is called when
// it has ended.
func (p *Proxy) intercept(w http.ResponseWriter, host string, release func()) {
	raw, err := established(w)
	if err != nil {
		release()
		return
	}
	shown := &shownConn{Conn: raw}
	conn := &keyConn{Conn: tls.Server(shown, p.tls), host: host, release: release}
	ctx, cancel := context.WithTimeout(p.running, headerTime)
	defer cancel()
	if err := conn.Conn.(*tls.Conn).HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		// Not every program says so by an alert that can be read: OpenSSL's comes without the
		// encryption that is expected, and others just leave.
		if shown.shown && ctx.Err() == nil {
			p.warning.Do(func() {
				p.options.Log.Warn(fmt.Sprintf("a program does not trust the certificate for %s (%v); start it with pushinbox run", host, err))
			})
		}
		return
	}
	p.accepted.Hand(conn)
}

// shownConn is a connection that knows whether its client was shown the certificate: what
// is read after it was chosen answers to it. A hello that cannot be agreed on is refused
// before.
type shownConn struct {
	net.Conn
	chosen, shown bool
}

// Read notes what the client was shown.
func (c *shownConn) Read(p []byte) (int, error) {
	c.shown = c.shown || c.chosen
	return c.Conn.Read(p)
}

// established answers to a CONNECT that the connection is there, and returns it.
func established(w http.ResponseWriter) (net.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	ahead, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	return handover.WithAhead(conn, ahead), nil
}
