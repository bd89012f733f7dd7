package pushendpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pubsubpush"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/pushattack"
)

// TestUndecodableIsQuarantined pushes bodies that are not pushes, twice each: the
// body is stored once and whole, with the proof of its sender.
func TestUndecodableIsQuarantined(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{})
	to := target(t, e.issuer, "http://receive/wrapped")
	cases, err := pushattack.Undecodable(to)
	if err != nil {
		t.Fatal(err)
	}
	good, err := pushattack.Good(to)
	if err != nil {
		t.Fatal(err)
	}
	envelope := func(data string) string {
		return `{"message":{"messageId":"1","data":"` + data + `"},"subscription":"s"}`
	}
	for name, body := range map[string]string{
		"data_of_10_000_001_bytes": envelope(base64.StdEncoding.EncodeToString(make([]byte, 10_000_001))),
		"large_data_not_base64":    envelope(strings.Repeat("QUJD", 3_000_000) + "*"),
		"largest_body":             strings.Repeat("x", pubsubpush.MaxBodySize),
		"long_message_id":          `{"message":{"messageId":"` + strings.Repeat("1", 3000) + `"}}`,
	} {
		r := good.Clone(t.Context())
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		cases = append(cases, pushattack.Case{Name: name, Status: http.StatusNoContent, Request: r})
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			body, err := io.ReadAll(c.Request.Body)
			if err != nil {
				t.Fatal(err)
			}
			before := len(e.stored(t))
			for range 2 {
				c.Request.Body = io.NopCloser(bytes.NewReader(body))
				if w := e.serve(c.Request); w.Code != c.Status {
					t.Fatalf("answered %d, want %d: %s", w.Code, c.Status, w.Body)
				}
			}
			if n := len(e.stored(t)) - before; n != 1 {
				t.Errorf("%d messages were stored, want 1", n)
			}
			m, err := e.store.Get(t.Context(), inbox.ID("pubsub", "", fmt.Sprintf("sha256-%x", sha256.Sum256(body))))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(m.Data, body) || m.Quarantined.Words() == "" || m.Subscription != "" || m.Verified.Email != pushAccount {
				t.Errorf("stored %d of %d bytes, quarantined %q, subscription %q, sender %q",
					len(m.Data), len(body), m.Quarantined, m.Subscription, m.Verified.Email)
			}
		})
	}
}

// checking is a store that refuses what no inbox stores.
type checking struct{ m *inbox.Message }

func (c *checking) Put(_ context.Context, m *inbox.Message) (bool, error) {
	c.m = m
	return true, m.Validate()
}

// FuzzQuarantine pushes any body with a good token to any path: it is stored,
// decoded or as it came, or too large.
func FuzzQuarantine(f *testing.F) {
	issuer, verifier := google.Issuer(f)
	store := new(checking)
	h, err := New(Config{Audience: audience, ServiceAccount: pushAccount}, verifier, store, quiet)
	if err != nil {
		f.Fatal(err)
	}
	to := target(f, issuer, "http://receive/")
	token, err := to.Mint(nil)
	if err != nil {
		f.Fatal(err)
	}
	cases, err := pushattack.Undecodable(to)
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		body, err := io.ReadAll(c.Request.Body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("wrapped", "application/json", "x-goog-pubsub-message-id", "7", body)
		f.Add("", "text/plain", "", "", body)
	}
	f.Add("unwrapped", "", "x-goog-pubsub-subscription-name", "s", []byte(pushattack.Body))
	f.Add("", "application/json", "", "", []byte(pushattack.Body))
	e := &endpoint{Handler: h}
	f.Fuzz(func(t *testing.T, path, contentType, name, value string, body []byte) {
		r, err := http.NewRequest(http.MethodPost, "http://receive/", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Path += path
		r.Header.Set("Content-Type", contentType)
		r.Header.Add(name, value)
		r.Header["Authorization"] = []string{"Bearer " + token}
		store.m = nil
		w := e.serve(r)
		switch {
		case w.Code == http.StatusRequestEntityTooLarge && len(body) > pubsubpush.MaxBodySize:
			return
		case w.Code != http.StatusNoContent || store.m == nil:
			t.Fatalf("answered %d %s", w.Code, w.Body)
		case store.m.Quarantined != "" && (!bytes.Equal(store.m.Data, body) || store.m.MessageID != fmt.Sprintf("sha256-%x", sha256.Sum256(body))):
			t.Errorf("quarantined %q as %q: %q", body, store.m.MessageID, store.m.Data)
		}
	})
}
