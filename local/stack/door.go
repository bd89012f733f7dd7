package stack

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"google.golang.org/grpc/metadata"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/local/loopback"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// Door decides which requests a port of this machine answers. Any web page can
// have a browser send requests to loopback, with a name of its own that it points
// there (DNS rebinding) as well as without, so that a request is refused that
//
//   - names another host than this machine or one of Hosts,
//   - is meant for a proxy,
//   - has an Origin other than the very address that it is sent to,
//   - or was sent by a browser for another site.
//
// Hosts and OwnAddress say by what other names the machine may be called.
type Door loopback.Names

// Guard returns next as a handler that answers 403 to what the door refuses.
func (d Door) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := d.check(r); err != nil {
			httpapi.WriteError(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (d Door) check(r *http.Request) error {
	if loopback.ForProxy(r) {
		return problem.New(http.StatusForbidden, "this is not a proxy; send the path alone in the request line")
	}
	if !loopback.Names(d).Include(r.Host, loopback.LocalAddr(r)) {
		return problem.New(http.StatusForbidden, "open this address as 127.0.0.1 or localhost; another name must be given to pushinbox local with --host-name")
	}
	if _, found := loopback.OtherSite(r.Header.Values("Sec-Fetch-Site")); found {
		return problem.New(http.StatusForbidden, "the request comes from another site; if you followed a link, type its address instead")
	}
	for _, origin := range r.Header.Values("Origin") {
		if origin != "http://"+r.Host {
			return problem.New(http.StatusForbidden, "the request comes from another site")
		}
	}
	return nil
}

// IsLoopback reports whether host, with or without a port, is this machine.
func IsLoopback(host string) bool {
	name, ok := loopback.Host(host)
	return ok && loopback.Is(name)
}

// programs refuses what a web page sends, this port's own included: only programs
// have business with next.
func programs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Origin"]) > 0 {
			httpapi.WriteError(w, problem.New(http.StatusForbidden, "this address is for programs, and the request has the Origin of a web page"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// jsonBodies refuses with 415 a body that is not declared to be JSON: a web page
// can have a browser send other ones without asking first.
func jsonBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if r.ContentLength != 0 && (err != nil || kind != "application/json") {
			httpapi.WriteError(w, problem.New(http.StatusUnsupportedMediaType, "the body must be JSON, with the header Content-Type: application/json"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

const (
	loginPath     = "/login"
	sessionCookie = "pushinbox-session"
	bearer        = "Authorization: Bearer "
)

// Key lets in who has it: programs by a header, which they read from a file that
// only this account can read, and browsers by a cookie, for which Login's address
// exchanges it. It is valid for as long as the process runs.
type Key struct {
	// File holds the header, fit for curl -H @FILE.
	File string
	// Name is the host, random and below localhost, that browsers send the cookie
	// to. They resolve such names to loopback. Cookies ignore ports: that of
	// "localhost" would reach every server of this machine.
	Name string

	secret, session string
}

// NewKey returns a new key whose file is in dir, called name, or at random when
// name is empty.
func NewKey(dir, name string) (*Key, error) {
	k := &Key{Name: random(8) + ".localhost", secret: random(32), session: random(32)}
	k.File = filepath.Join(dir, cmp.Or(name, "pushinbox-"+random(8)+".key"))
	// The file has mode 0600, and a symbolic link in its place is not followed.
	if err := datadir.Replace(k.File, []byte(bearer+k.secret+"\n")); err != nil {
		return nil, err
	}
	return k, nil
}

func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Close removes the file.
func (k *Key) Close() error { return os.Remove(k.File) }

// Login returns the address to open in a browser, for the port of host, which is
// an address with a port.
func (k *Key) Login(host string) string {
	_, port, _ := net.SplitHostPort(host)
	return "http://" + net.JoinHostPort(k.Name, port) + loginPath + "?key=" + k.secret
}

// Require returns next as a handler that answers 401 to requests without the key,
// and takes the key off the others. At /login browsers get their cookie.
func (k *Key) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == loginPath:
			if err := k.login(w, r); err != nil {
				httpapi.WriteError(w, err)
			}
		case k.hasHeader(r):
			r.Header.Del("Authorization")
			next.ServeHTTP(w, r)
		case k.hasCookie(r):
			next.ServeHTTP(w, r)
		default:
			httpapi.WriteError(w, problem.New(http.StatusUnauthorized,
				"the key is missing: open the address that was printed at the start, or send the header in "+filepath.Base(k.File)+"; a command of pushinbox finds it by PUSHINBOX_KEY_FILE"))
		}
	})
}

// login sets the cookie.
func (k *Key) login(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Cache-Control", "no-store")
	if err := httpapi.AllowMethods(w, r, http.MethodGet); err != nil {
		return err
	}
	if !k.cookieHost(r) {
		return problem.New(http.StatusForbidden, "open the address as it was printed")
	}
	if !same(r.URL.Query().Get("key"), k.secret) {
		return problem.New(http.StatusUnauthorized, "this is not the key of this run; open the address that was printed at its start")
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: k.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// cookieHost reports whether a cookie may be used: the other names of loopback
// belong to every server of this machine.
func (k *Key) cookieHost(r *http.Request) bool { return !IsLoopback(r.Host) }

func (k *Key) hasCookie(r *http.Request) bool {
	return k.cookieHost(r) && slices.ContainsFunc(r.CookiesNamed(sessionCookie), func(c *http.Cookie) bool { return same(c.Value, k.session) })
}

func (k *Key) hasHeader(r *http.Request) bool { return k.is(r.Header.Values("Authorization")) }

// hasCall reports whether a call of Pub/Sub, by gRPC or REST, carries the key.
func (k *Key) hasCall(ctx context.Context) bool {
	return k.is(metadata.ValueFromIncomingContext(ctx, "authorization"))
}

func (k *Key) is(authorization []string) bool {
	return len(authorization) == 1 && same(authorization[0], "Bearer "+k.secret)
}

// same compares in a time that tells only the length.
func same(given, want string) bool {
	return subtle.ConstantTimeCompare([]byte(given), []byte(want)) == 1
}

// keyTransport has every request carry the key.
type keyTransport struct{ key *Key }

func (t keyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.key.secret)
	return http.DefaultTransport.RoundTrip(r)
}

// Listen listens on port, 0 for a free one, at both addresses of loopback, or at
// host besides. Browsers look for names below localhost at both, and the other one
// would belong to whoever is first to listen there. The first listener is that of
// 127.0.0.1, or of what includes it.
func Listen(host netip.Addr, port int) ([]net.Listener, error) {
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	switch {
	case host == netip.IPv6Unspecified():
		addresses = []netip.Addr{host} // and all of IPv4
	case host.IsUnspecified() && host.IsValid():
		addresses[0] = host
	case host.IsValid() && !slices.Contains(addresses, host):
		addresses = append(addresses, host)
	}
	for tries := 0; ; tries++ {
		listeners, err := listenAll(addresses, port)
		if err == nil || port != 0 || tries == 10 {
			return listeners, err
		}
		// The free port of one address was taken on the other.
	}
}

func listenAll(addresses []netip.Addr, port int) (all []net.Listener, err error) {
	for i, address := range addresses {
		network := "tcp4"
		if address.Is6() {
			network = "tcp" // [::] is both
		}
		l, err := net.Listen(network, netip.AddrPortFrom(address, uint16(port)).String())
		if address == netip.IPv6Loopback() && i > 0 && err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			continue // a machine without IPv6
		}
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("cannot listen at %s: %w", address, err)
		}
		all, port = append(all, l), l.Addr().(*net.TCPAddr).Port
	}
	return all, nil
}

// portOf returns the port of what Listen returned.
func portOf(listeners []net.Listener) int { return listeners[0].Addr().(*net.TCPAddr).Port }

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // its server may have closed it
	}
}
