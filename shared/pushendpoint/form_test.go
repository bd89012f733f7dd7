package pushendpoint

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/pushattack"
)

// TestPathSaysTheForm sends a push of each form, genuine as to its sender, to
// each path. want is what the message is stored under, empty where it is
// quarantined.
func TestPathSaysTheForm(t *testing.T) {
	t.Parallel()
	metadata := map[string]string{"x-goog-pubsub-message-id": "7", "x-goog-pubsub-subscription-name": "projects/p/subscriptions/s"}
	const sub = "projects/p/subscriptions/s"
	envelope := inbox.ID("pubsub", pushattack.Subscription, pushattack.MessageID)
	ofHeaders := inbox.ID("pubsub", sub, "7")
	bareBody := inbox.ID("pubsub", "", fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(pushattack.Body))))
	const hashOfHello = "sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for name, test := range map[string]struct {
		path    string
		headers map[string]string
		body    string
		want    string
	}{
		"wrapped":                    {"/wrapped", nil, pushattack.Body, envelope},
		"wrapped_bare":               {"/wrapped", nil, `{"status":"hi"}`, ""},
		"wrapped_text":               {"/wrapped", map[string]string{"Content-Type": "text/plain"}, "hello", ""},
		"wrapped_unwrapped":          {"/wrapped", metadata, "hello", ""},
		"unwrapped":                  {"/unwrapped", metadata, "hello", ofHeaders},
		"unwrapped_envelope":         {"/unwrapped", metadata, pushattack.Body, ofHeaders},
		"unwrapped_without_metadata": {"/unwrapped", nil, pushattack.Body, ""},
		"bare":                       {"/bare", nil, "hello", inbox.ID("pubsub", "", hashOfHello)},
		"bare_with_metadata":         {"/bare", metadata, "hello", inbox.ID("pubsub", "", hashOfHello)},
		"guessed_envelope":           {"/", nil, pushattack.Body, envelope},
		"guessed_metadata":           {"/any/path", metadata, pushattack.Body, ofHeaders},
		"guessed_no_path":            {"", nil, pushattack.Body, envelope},
		"slash_at_the_end":           {"/bare/", nil, pushattack.Body, bareBody},
		"guessed_capitals":           {"/BARE", nil, pushattack.Body, envelope},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, Config{})
			r, err := pushattack.Good(target(t, e.issuer, "http://receive"+test.path))
			if err != nil {
				t.Fatal(err)
			}
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(test.body)), int64(len(test.body))
			for k, v := range test.headers {
				r.Header.Set(k, v)
			}
			w := e.serve(r)
			stored := e.stored(t)
			isQuarantined := test.want == ""
			if isQuarantined {
				test.want = inbox.ID("pubsub", "", fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(test.body))))
			}
			if w.Code != http.StatusNoContent || len(stored) != 1 || stored[0].ID != test.want || (stored[0].Quarantined != "") != isQuarantined {
				t.Fatalf("answered %d %s, stored %v", w.Code, w.Body, stored)
			}
		})
	}
}

// TestBareEnvelopeIsItsHash pushes an envelope as the data of a bare push: its
// message ID and subscription are not those that it names.
func TestBareEnvelopeIsItsHash(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{})
	r, err := pushattack.Good(target(t, e.issuer, "http://receive/bare"))
	if err != nil {
		t.Fatal(err)
	}
	if w := e.serve(r); w.Code != http.StatusNoContent {
		t.Fatalf("answered %d %s", w.Code, w.Body)
	}
	if m := e.stored(t)[0]; m.Subscription != "" || !strings.HasPrefix(m.MessageID, "sha256-") || string(m.Data) != pushattack.Body {
		t.Errorf("stored %+v", m)
	}
}

// TestEveryPathVerifies attacks the paths of the forms as the endpoint's root
// is attacked. The body is right for the form, so that only the credential can
// be the reason of a refusal.
func TestEveryPathVerifies(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/wrapped", "/unwrapped", "/bare"} {
		t.Run(path[1:], func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, Config{VerificationToken: secret})
			cases, err := pushattack.Cases(target(t, e.issuer, "http://receive"+path+"?"+url.Values{"token": {secret}}.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			tried := 0
			for _, c := range cases {
				tried++
				c.Request.Header.Set("x-goog-pubsub-message-id", "7")
				c.Request.Header.Set("x-goog-pubsub-subscription-name", "s")
				if w := e.serve(c.Request); w.Code != c.Status {
					t.Errorf("%s: answered %d, want %d: %s", c.Name, w.Code, c.Status, w.Body)
				}
			}
			if n := len(e.stored(t)); n != 0 || tried < 50 {
				t.Errorf("%d messages were stored by %d attacks", n, tried)
			}
		})
	}
}
