// Package loopback tells which Host of a request names this machine, and which
// request a browser sent for another site, for every port of a local run.
package loopback

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Names are what the Host of a request to a port may be, besides localhost and the
// addresses of loopback.
type Names struct {
	// Hosts are names and addresses, without a port.
	Hosts []string
	// OwnAddress lets a Host be the address that the connection was made to, for a
	// port that is open to other machines. No web page can have an address for its
	// name.
	OwnAddress bool
}

// Include reports whether a Host header names this machine. local is the address
// here of its connection, or nil. The port is not compared: tunnels and containers
// map ports.
func (n Names) Include(hostport string, local net.Addr) bool {
	host, ok := Host(hostport)
	if !ok {
		return false
	}
	if Is(host) || slices.ContainsFunc(n.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		return true
	}
	here, _ := local.(*net.TCPAddr)
	addr, err := netip.ParseAddr(host)
	return n.OwnAddress && err == nil && here != nil && addr.Unmap() == here.AddrPort().Addr().Unmap()
}

// LocalAddr returns the address here of a request's connection, or nil.
func LocalAddr(r *http.Request) net.Addr {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return local
}

// ForProxy reports whether a request is meant for a proxy.
func ForProxy(r *http.Request) bool {
	return !strings.HasPrefix(r.RequestURI, "/") && r.RequestURI != "*"
}

// OtherSite returns the first of a request's Sec-Fetch-Site headers that says that a
// browser sent it for another site, an empty one included.
func OtherSite(sites []string) (site string, found bool) {
	i := slices.IndexFunc(sites, func(s string) bool { return s != "same-origin" && s != "none" })
	if i < 0 {
		return "", false
	}
	return sites[i], true
}

// Host returns the name or address of a Host header, in lower case and without
// port, brackets and the dot that may end a name, or false when it is malformed.
func Host(hostport string) (string, bool) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]"), "80"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", false
	}
	if strings.HasPrefix(hostport, "[") {
		addr, err := netip.ParseAddr(host)
		return host, err == nil && addr.Is6() && addr.Zone() == ""
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host, host != "" && !strings.ContainsAny(host, ":[]")
}

// Is reports whether a host, as Host returns it, is localhost or an address of
// loopback. Names below localhost are not: each belongs to who made it up, and a
// resolver may look elsewhere for them.
func Is(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
