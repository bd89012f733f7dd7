// Package loopback tells which Host of a request names this machine, for every port
// of a local run.
package loopback

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

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
