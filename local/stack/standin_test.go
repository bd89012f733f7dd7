package stack

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// TestStandInPorts sends to the ports of the stand-ins what programs send, and what
// web pages and proxies' clients do.
func TestStandInPorts(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for endpoint, target := range map[string]string{s.MNSEndpoint: "/x509_public_certificate.pem", s.CalendarEndpoint: "/calendars/demo/events"} {
		here := strings.TrimPrefix(endpoint, "http://")
		_, port, _ := net.SplitHostPort(here)
		for name, c := range map[string]struct {
			target, host, header string
			status               int
		}{
			"program":      {target, here, "", http.StatusOK},
			"localhost":    {target, "localhost:" + port, "", http.StatusOK},
			"mapped_port":  {target, "127.0.0.1:1", "", http.StatusOK},
			"rebound_name": {target, "evil.example:" + port, "", http.StatusForbidden},
			"own_origin":   {target, here, "Origin: " + endpoint + "\r\n", http.StatusForbidden},
			"origin":       {target, here, "Origin: https://evil.example\r\n", http.StatusForbidden},
			"cross_site":   {target, here, "Sec-Fetch-Site: cross-site\r\n", http.StatusForbidden},
			"proxied":      {"http://evil.example" + target, here, "", http.StatusForbidden},
		} {
			for _, address := range []string{here, "[::1]:" + port} {
				if status := rawStatus(t, address, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", c.target, c.host, c.header)); status != c.status {
					t.Errorf("%s at %s: %d, want %d", name, address, status, c.status)
				}
			}
		}
	}
	form := "POST /calendar/v3/calendars/demo/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"
	if status := rawStatus(t, strings.TrimPrefix(s.CalendarEndpoint, "http://"), form); status != http.StatusUnsupportedMediaType {
		t.Errorf("a body that any page can send: %d", status)
	}

	taken := options(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.MNSEndpoint, "http://"))
	if taken.CalendarPort, err = net.LookupPort("tcp", port); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), taken); err == nil || !strings.Contains(err.Error(), "choose another with --calendar-port") {
		t.Errorf("on a taken port: %v", err)
	}
}

// TestOpenStandInPorts is a run that other machines can reach: the calendars want
// the key, where Google's libraries have the access token.
func TestOpenStandInPorts(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Host = netip.IPv4Unspecified()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	key, err := os.ReadFile(s.Key.File)
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]int{"": http.StatusUnauthorized, "Authorization: Bearer x\r\n": http.StatusUnauthorized, strings.TrimSpace(string(key)) + "\r\n": http.StatusOK} {
		request := "GET /calendar/v3/calendars/demo/events HTTP/1.1\r\nHost: localhost\r\n" + header + "\r\n"
		if status := rawStatus(t, strings.TrimPrefix(s.CalendarEndpoint, "http://"), request); status != want {
			t.Errorf("with %q: %d, want %d", header, status, want)
		}
	}
	if status := rawStatus(t, strings.TrimPrefix(s.MNSEndpoint, "http://"), "GET /topics HTTP/1.1\r\nHost: localhost\r\n\r\n"); status != http.StatusBadRequest {
		t.Errorf("MNS without a signature: %d", status)
	}
}
