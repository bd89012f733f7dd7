package stack

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"

	"example.com/pushinbox/testkit/need"
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

// TestGoogleLibraries calls the calendars with Google's own libraries, unmodified: for
// Go, and for Node where npm can bring it. Some begin with Google's path, and some do
// not.
func TestGoogleLibraries(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for _, endpoint := range []string{s.CalendarEndpoint, s.CalendarEndpoint + "/calendar/v3/"} {
		service, err := gcal.NewService(t.Context(), option.WithEndpoint(endpoint), option.WithoutAuthentication())
		if err != nil {
			t.Fatal(err)
		}
		if c, err := service.CalendarList.Get("primary").Do(); err != nil || c.Id != Developer || !c.Primary {
			t.Errorf("%s: %+v, %v", endpoint, c, err)
		}
		added, err := service.Events.QuickAdd("primary", "Lunch").Do()
		if err != nil {
			t.Fatal(err)
		}
		if err := service.Events.Delete(Developer, added.Id).Do(); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
		if _, err := service.Events.List("nowhere").Do(); err == nil {
			t.Errorf("%s: a calendar that is not there was listed", endpoint)
		}
	}
	if testing.Short() {
		return
	}
	need.Program(t, "npm")
	dir := t.TempDir()
	npm := exec.CommandContext(t.Context(), "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "@googleapis/calendar@14.2.0")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Logf("npm install: %v\n%s", err, out)
		need.Missing(t, "npm cannot get @googleapis/calendar: let it reach its registry")
	}
	node := exec.CommandContext(t.Context(), "node", "-e", `
const assert = require('node:assert');
const {calendar} = require('@googleapis/calendar');
(async () => {
  const {calendarList, calendars, channels, events} = calendar({version: 'v3', rootUrl: process.argv[1] + '/'});
  assert.deepEqual((await calendarList.list()).data.items.map(c => c.id), ['demo', 'developer@localhost']);
  assert.equal((await calendars.get({calendarId: 'primary'})).data.id, 'developer@localhost');
  const watched = (await events.watch({calendarId: 'demo', requestBody: {id: 'node', type: 'web_hook', address: 'https://127.0.0.1:1/'}})).data;
  await channels.stop({requestBody: {id: 'node', resourceId: watched.resourceId}});
  const at = day => ({dateTime: '2027-01-' + day + 'T09:00:00', timeZone: 'UTC'});
  const made = (await events.insert({calendarId: 'demo', requestBody: {summary: 'a', start: at('04'), end: at('04'), recurrence: ['RRULE:FREQ=DAILY;COUNT=3']}})).data;
  const listed = (await events.list({calendarId: 'demo', singleEvents: true, orderBy: 'startTime', timeMin: '2027-01-05T00:00:00Z'})).data;
  assert.deepEqual(listed.items.map(e => e.start.dateTime), ['2027-01-05T09:00:00Z', '2027-01-06T09:00:00Z']);
  assert.equal((await events.instances({calendarId: 'demo', eventId: made.id})).data.items.length, 3);
  const updated = (await events.update({calendarId: 'demo', eventId: made.id, requestBody: {...made, summary: 'b'}})).data;
  assert.equal(updated.summary, 'b');
  await events.move({calendarId: 'demo', eventId: made.id, destination: 'primary'});
  assert.equal((await events.get({calendarId: 'primary', eventId: made.id})).data.organizer.email, 'developer@localhost');
  await assert.rejects(events.list({calendarId: 'nowhere'}), {code: 404});
})();`, s.CalendarEndpoint)
	node.Dir = dir
	if out, err := node.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
