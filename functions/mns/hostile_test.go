package mns

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/mnsattack"
)

// TestRefusesWithNothingStored sends hostile requests to a real server.
func TestRefusesWithNothingStored(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{}, quiet)
	origin, err := mnsattack.NewOrigin(512)
	if err != nil {
		t.Fatal(err)
	}
	// serve returns the address of an endpoint that knows no certificate yet.
	serve := func(t *testing.T) string {
		h, err := New(Config{Owners: []string{mnsfake.Owner}, Secret: secret}, newVerifier(t, origin), e.store, quiet)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.URL
	}
	send := func(t *testing.T, c mnsattack.Case) {
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		began := time.Now()
		resp, err := client.Do(c.Request)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		// What MNS has signed and cannot be read is quarantined.
		want, contentType := c.Status, "application/problem+json"
		if want == http.StatusBadRequest {
			want, contentType = http.StatusCreated, ""
		}
		if took := time.Since(began); resp.StatusCode != want || took > 5*time.Second {
			t.Errorf("answered %d after %v, want %d: %s", resp.StatusCode, took, want, body)
		}
		if strings.Contains(string(body), secret) || resp.Header.Get("Content-Type") != contentType {
			t.Errorf("the answer is %v %s", resp.Header, body)
		}
	}
	target := origin.Target(serve(t)+"/"+secret, mnsfake.Owner)
	target.Secret = secret
	t.Run("cases", func(t *testing.T) {
		cases := mnsattack.Cases(target)
		for _, c := range cases {
			t.Run(c.Name, func(t *testing.T) { send(t, c) })
		}
		certificates, err := origin.Cases(target)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range certificates {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				c.Request.URL.Host = strings.TrimPrefix(serve(t), "http://")
				send(t, c)
			})
		}
		if n := len(cases) + len(certificates); n < 40 {
			t.Errorf("%d cases, want 40 at least", n)
		}
	})
	quarantined := e.stored(t)
	for _, m := range quarantined {
		if m.Quarantined != inbox.ReasonUnknownForm || !strings.HasPrefix(m.MessageID, "sha256-") || strings.Contains(m.Subscription, secret) {
			t.Errorf("stored %+v", m)
		}
	}
	if len(quarantined) < 20 {
		t.Errorf("%d bodies are in quarantine", len(quarantined))
	}
	if strays := origin.Strays(); len(strays) > 0 {
		t.Errorf("the endpoint asked for %v", strays)
	}
	for _, format := range []string{mnsattack.XML, mnsattack.JSON, mnsattack.Simplified} {
		resp, err := http.DefaultClient.Do(mnsattack.Good(target, format))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Errorf("a good push as %s: answered %d", format, resp.StatusCode)
		}
	}
	if n := len(e.stored(t)) - len(quarantined); n != 1 {
		t.Errorf("%d messages were stored of one", n)
	}
}

// TestStoresUnusualBodies sends to a real server what is not XML or JSON to the
// letter, twice.
func TestStoresUnusualBodies(t *testing.T) {
	t.Parallel()
	origin, err := mnsattack.NewOrigin(512)
	if err != nil {
		t.Fatal(err)
	}
	e := newEndpoint(t, Config{}, quiet)
	h, err := New(Config{Owners: []string{mnsfake.Owner}}, newVerifier(t, origin), e.store, quiet)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	want := make(map[string]mnsattack.Accepted)
	for range 2 {
		for _, push := range mnsattack.Unusual(origin.Target(server.URL, mnsfake.Owner)) {
			want[push.MessageID] = push
			resp, err := http.DefaultClient.Do(push.Request)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				t.Errorf("%s: answered %d", push.Name, resp.StatusCode)
			}
		}
	}
	page, err := e.store.List(t.Context(), inbox.Query{PageSize: inbox.MaxPageSize})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range page.Messages() {
		push := want[m.MessageID]
		if string(m.Data) != push.Data || m.Attributes["message-tag"] != push.Tag {
			t.Errorf("%s: stored %q with %q, want %q with tag %q", m.MessageID, m.Data, m.Attributes, push.Data, push.Tag)
		}
		if full := "accounts/" + mnsfake.Owner + "/topics/" + mnsattack.Topic + "/subscriptions/" + mnsattack.Subscription; m.Subscription != full {
			t.Errorf("%s: stored as of %s", m.MessageID, m.Subscription)
		}
	}
	if n := len(page.Messages()); n != len(want) || n < 70 {
		t.Errorf("%d messages were stored of %d, want at least 70", n, len(want))
	}
}
