package mns

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/testkit/failingstore"
	"example.com/pushinbox/testkit/roundtrip"
)

const secret = "0123456789abcdef-secret"

var quiet = slog.New(slog.DiscardHandler)

// endpoint is the handler with real verification and a real inbox.
type endpoint struct {
	http.Handler
	signer *mnsfake.Signer
	store  *boltinbox.Inbox
}

func newSigner(tb testing.TB, bits int) *mnsfake.Signer {
	tb.Helper()
	signer, err := mnsfake.NewSigner(bits)
	if err != nil {
		tb.Fatal(err)
	}
	return signer
}

func newVerifier(tb testing.TB, t http.RoundTripper) *mns.Verifier {
	tb.Helper()
	verifier, err := mns.NewVerifier(&mns.VerifierOptions{Transport: t})
	if err != nil {
		tb.Fatal(err)
	}
	return verifier
}

func newEndpoint(tb testing.TB, cfg Config, log *slog.Logger) *endpoint {
	tb.Helper()
	store, err := boltinbox.Open(filepath.Join(tb.TempDir(), "inbox.db"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = store.Close() })
	e := &endpoint{signer: newSigner(tb, 512), store: store}
	if cfg.Owners == nil {
		cfg.Owners = []string{mnsfake.Owner}
	}
	e.Handler, err = New(cfg, newVerifier(tb, e.signer.Transport()), store, log)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func (e *endpoint) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

func (e *endpoint) stored(tb testing.TB) []inbox.Message {
	tb.Helper()
	page, err := e.store.List(context.Background(), inbox.Query{PageSize: inbox.MaxPageSize})
	if err != nil {
		tb.Fatal(err)
	}
	return page.Messages()
}

// sample is a notification that every endpoint here takes.
func sample() mnsfake.Notification {
	const body = "I am test message 0."
	return mnsfake.Notification{
		TopicOwner: mnsfake.Owner, TopicName: "MySampleTopic", Subscriber: "2000000000000000", SubscriptionName: "MySampleTopic-Sub",
		MessageID: "F6EA56633844DBFC-1-154BDFB8059-200000004", MessageMD5: fmt.Sprintf("%X", md5.Sum([]byte(body))),
		MessageTag: "red", Message: body, PublishTime: time.UnixMilli(1463500256345),
	}
}

// push returns the push of n as a server gets it.
func push(tb testing.TB, signer *mnsfake.Signer, target, format string, n mnsfake.Notification) *http.Request {
	tb.Helper()
	address, err := url.Parse("http://inbox.example" + target)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := signer.Push(address, format, &n, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	r.RequestURI, r.Host = r.URL.RequestURI(), "inbox.example"
	return r
}

var formats = []string{mnsfake.FormatXML, mnsfake.FormatJSON, mnsfake.FormatSimplified}

func TestStoresOnceInEveryFormat(t *testing.T) {
	t.Parallel()
	for _, format := range formats {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, Config{}, quiet)
			n := sample()
			for range 3 {
				if w := e.serve(push(t, e.signer, "/any/path?x=y", format, n)); w.Code != http.StatusCreated || w.Body.Len() != 0 {
					t.Fatalf("answered %d %s", w.Code, w.Body)
				}
			}
			subscription := "accounts/" + mnsfake.Owner + "/topics/MySampleTopic/subscriptions/MySampleTopic-Sub"
			want := []inbox.Message{{
				ID: inbox.ID("mns", subscription, n.MessageID), Source: "mns", Subscription: subscription, MessageID: n.MessageID,
				PublishTime: n.PublishTime.UTC(), Data: []byte(n.Message), Size: len(n.Message),
				Verified: inbox.Verified{Issuer: mnsfake.CertificateURL, Subject: mnsfake.Owner, Audience: "MySampleTopic-Sub"},
			}}
			got := e.stored(t)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(inbox.Message{}, "ReceivedAt", "Attributes"),
				cmpopts.IgnoreFields(inbox.Verified{}, "IssuedAt")); diff != "" {
				t.Error(diff)
			}
			if a := got[0].Attributes; a["message-tag"] != "red" || time.Since(got[0].Verified.IssuedAt) > time.Minute {
				t.Errorf("stored %+v", got[0])
			}
		})
	}
}

// TestTakesEveryTag has tags that could not be names.
func TestTakesEveryTag(t *testing.T) {
	t.Parallel()
	for _, format := range formats {
		for _, tag := range []string{"a/b", "中文"} {
			e := newEndpoint(t, Config{}, quiet)
			n := sample()
			n.MessageTag = tag
			if w := e.serve(push(t, e.signer, "/", format, n)); w.Code != http.StatusCreated {
				t.Errorf("%s with %s: answered %d %s", format, tag, w.Code, w.Body)
				continue
			}
			if got := e.stored(t)[0].Attributes["message-tag"]; got != tag {
				t.Errorf("%s: stored the tag %q, want %q", format, got, tag)
			}
		}
	}
}

func TestKeysOfEverySize(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{512, 1024, 2048} {
		e := newEndpoint(t, Config{}, quiet)
		signer := newSigner(t, bits)
		var err error
		if e.Handler, err = New(Config{Owners: []string{mnsfake.Owner}}, newVerifier(t, signer.Transport()), e.store, quiet); err != nil {
			t.Fatal(err)
		}
		if w := e.serve(push(t, signer, "/", mnsfake.FormatXML, sample())); w.Code != http.StatusCreated {
			t.Errorf("%d bits: answered %d %s", bits, w.Code, w.Body)
		}
	}
}

// TestBase64Bodies has one publisher that sends plain text, and a subscription whose
// bodies are all plain.
func TestBase64Bodies(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		body         mns.Encodings
		message      string
		stored, mark string
	}{
		"base64":                {mns.Encodings{"": mns.Base64}, "AP8=", "\x00\xff", "base64"},
		"not_base64":            {mns.Encodings{"": mns.Base64}, "not base64!", "not base64!", "raw"},
		"raw_topic":             {mns.Encodings{"": mns.Base64, "MySampleTopic": mns.Raw}, "test", "test", ""},
		"base64_topic":          {mns.Encodings{"MySampleTopic": mns.Base64}, "AP8=", "\x00\xff", "base64"},
		"raw_subscription":      {mns.Encodings{"MySampleTopic": mns.Base64, "MySampleTopic/MySampleTopic-Sub": mns.Raw}, "test", "test", ""},
		"base64_of_other_topic": {mns.Encodings{"Other": mns.Base64}, "test", "test", ""},
	} {
		for _, format := range formats {
			t.Run(name+"_"+format, func(t *testing.T) {
				t.Parallel()
				e := newEndpoint(t, Config{Body: tt.body}, quiet)
				n := sample()
				n.Message, n.MessageMD5 = tt.message, fmt.Sprintf("%X", md5.Sum([]byte(tt.message)))
				if w := e.serve(push(t, e.signer, "/", format, n)); w.Code != http.StatusCreated {
					t.Fatalf("answered %d %s", w.Code, w.Body)
				}
				if m := e.stored(t)[0]; string(m.Data) != tt.stored || m.Attributes["mns-encoding"] != tt.mark {
					t.Errorf("stored %q with %v, want %q and %q", m.Data, m.Attributes, tt.stored, tt.mark)
				}
			})
		}
	}
}

// TestStatuses changes one thing in a push that is taken.
func TestStatuses(t *testing.T) {
	t.Parallel()
	type edit func(tb testing.TB, e *endpoint) *http.Request
	change := func(f func(*mnsfake.Notification)) edit {
		return func(tb testing.TB, e *endpoint) *http.Request {
			n := sample()
			f(&n)
			return push(tb, e.signer, "/", mnsfake.FormatXML, n)
		}
	}
	request := func(f func(*http.Request)) edit {
		return func(tb testing.TB, e *endpoint) *http.Request {
			r := push(tb, e.signer, "/", mnsfake.FormatXML, sample())
			f(r)
			return r
		}
	}
	// signed has the body and headers signed as they are then.
	signed := func(body string, f func(http.Header)) edit {
		return func(tb testing.TB, e *endpoint) *http.Request {
			r := push(tb, e.signer, "/", mnsfake.FormatSimplified, sample())
			f(r.Header)
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
			e.signer.Sign(r.Header, r.Method, r.RequestURI, []byte(body), time.Now())
			return r
		}
	}
	nameless := signed("old form", func(h http.Header) {
		for _, name := range []string{"Topic-Owner", "Topic-Name", "Subscriber", "Subscription-Name", "Publish-Time"} {
			h.Del("X-Mns-" + name)
		}
	})
	for name, c := range map[string]struct {
		cfg    Config
		edit   edit
		status int
	}{
		"good":                  {Config{}, change(func(*mnsfake.Notification) {}), 201},
		"allowed_by_all":        {Config{Topics: []string{"A", "MySampleTopic"}, Subscriptions: []string{"MySampleTopic-Sub"}}, change(func(*mnsfake.Notification) {}), 201},
		"other_owner":           {Config{}, change(func(n *mnsfake.Notification) { n.TopicOwner = "2000000000000000" }), 403},
		"other_topic":           {Config{Topics: []string{"A"}}, change(func(*mnsfake.Notification) {}), 403},
		"other_subscription":    {Config{Subscriptions: []string{"A"}}, change(func(*mnsfake.Notification) {}), 403},
		"nameless":              {Config{}, nameless, 403},
		"get":                   {Config{}, request(func(r *http.Request) { r.Method = http.MethodGet }), 405},
		"put":                   {Config{}, request(func(r *http.Request) { r.Method = http.MethodPut }), 405},
		"announced_too_large":   {Config{}, request(func(r *http.Request) { r.ContentLength = mns.MaxBodySize + 1 }), 413},
		"too_large":             {Config{}, request(func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(endless{}), -1 }), 413},
		"broken_off":            {Config{}, request(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("<")) }), 400},
		"not_signed":            {Config{}, request(func(r *http.Request) { r.Header.Del("Authorization") }), 403},
		"other_path":            {Config{}, request(func(r *http.Request) { r.RequestURI = "/other" }), 403},
		"swapped_body":          {Config{}, request(func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1 }), 403},
		"stale":                 {Config{}, request(func(r *http.Request) { r.Header.Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)) }), 403},
		"message_of_other_md5":  {Config{}, change(func(n *mnsfake.Notification) { n.MessageMD5 = strings.Repeat("0", 32) }), 400},
		"signed_without_a_body": {Config{}, signed("", func(h http.Header) { h.Del("X-Mns-Message-Id"); h.Set("Content-Type", "text/xml") }), 400},
		"signed_garbage":        {Config{}, signed("<Notification", func(h http.Header) { h.Del("X-Mns-Message-Id"); h.Set("Content-Type", "text/xml") }), 400},
		"signed_unknown_form":   {Config{}, signed("a=b", func(h http.Header) { h.Del("X-Mns-Message-Id"); h.Set("Content-Type", "text/plain") }), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, c.cfg, quiet)
			w := e.serve(c.edit(t, e))
			if w.Code != c.status {
				t.Errorf("answered %d %s, want %d", w.Code, w.Body, c.status)
			}
			if n := len(e.stored(t)); (n == 1) != (c.status == 201) {
				t.Errorf("%d messages were stored", n)
			}
			if c.status == 405 && w.Header().Get("Allow") != "POST" {
				t.Errorf("Allow %q", w.Header().Get("Allow"))
			}
		})
	}
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestSecret(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		target string
		status int
		logged string
	}{
		"in_path":          {"/" + secret, 201, "/***"},
		"in_longer_path":   {"/mns/" + secret, 201, "/mns/***"},
		"in_query":         {"/mns/sub?token=" + secret, 201, "/mns/sub"},
		"none":             {"/", 403, "/***"},
		"wrong_in_path":    {"/mns/" + secret + "x", 403, "/***"},
		"cut_in_path":      {"/mns/" + secret[1:], 403, "/***"},
		"slash_after":      {"/mns/" + secret + "/", 403, "/***"},
		"in_the_middle":    {"/" + secret + "/mns", 403, "/***"},
		"wrong_in_query":   {"/?token=" + secret + "x", 403, "/***"},
		"twice_in_query":   {"/?token=" + secret + "&token=" + secret, 403, "/***"},
		"as_other_name":    {"/?secret=" + secret, 403, "/***"},
		"broken_query":     {"/?token=%zz" + secret, 403, "/***"},
		"cased":            {"/" + strings.ToUpper(secret), 403, "/***"},
		"escaped_as_fully": {"/%30" + secret[1:], 201, "/***"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			e := newEndpoint(t, Config{Secret: secret}, httpapi.NewLogger(&log))
			dialled := false
			h, err := New(Config{Secret: secret, Owners: []string{mnsfake.Owner}}, newVerifier(t, roundtrip.Func(func(r *http.Request) (*http.Response, error) {
				dialled = true
				return e.signer.Transport().RoundTrip(r)
			})), e.store, httpapi.NewLogger(&log))
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, push(t, e.signer, c.target, mnsfake.FormatXML, sample()))
			if w.Code != c.status || dialled != (c.status == 201) || len(e.stored(t)) == 1 != (c.status == 201) {
				t.Errorf("answered %d %s, want %d; the certificate was fetched: %v", w.Code, w.Body, c.status, dialled)
			}
			if s := log.String() + w.Body.String(); strings.Contains(strings.ToLower(s), secret[1:]) {
				t.Errorf("the secret is in %s", s)
			}
			if !strings.Contains(log.String(), `"requestUrl":"`+c.logged+`"`) {
				t.Errorf("the log has %s, want the path %s", log.String(), c.logged)
			}
			for _, m := range e.stored(t) {
				if b, _ := json.Marshal(m); strings.Contains(string(b), secret[1:]) {
					t.Errorf("the secret is stored: %s", b)
				}
			}
		})
	}
}

// TestNamelessWithSecret takes the old form of SIMPLIFIED, which names nobody,
// where the secret vouches for it, as of the endpoint's path.
func TestNamelessWithSecret(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, Config{Secret: secret}, quiet)
	r := push(t, e.signer, "/orders/"+secret, mnsfake.FormatSimplified, sample())
	for _, name := range []string{"Topic-Owner", "Topic-Name", "Subscriber", "Subscription-Name", "Publish-Time"} {
		r.Header.Del("X-Mns-" + name)
	}
	e.signer.Sign(r.Header, r.Method, r.RequestURI, []byte(sample().Message), time.Now())
	if w := e.serve(r); w.Code != http.StatusCreated {
		t.Fatalf("answered %d %s", w.Code, w.Body)
	}
	if m := e.stored(t)[0]; m.Subscription != "/orders" {
		t.Errorf("stored %+v", m)
	}
}

func TestStoreFailureIsNeverSuccess(t *testing.T) {
	t.Parallel()
	for name, test := range failingstore.Cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signer := newSigner(t, 512)
			var log bytes.Buffer
			h, err := New(Config{Owners: []string{mnsfake.Owner}}, newVerifier(t, signer.Transport()), failingstore.Store{Err: test.Err}, httpapi.NewLogger(&log))
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, push(t, signer, "/", mnsfake.FormatXML, sample()))
			if w.Code != test.Status || strings.Contains(w.Body.String(), failingstore.Secret) {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			if strings.Contains(log.String(), `"notification"`) {
				t.Errorf("a notification that was not kept is recorded: %s", log.String())
			}
		})
	}
}

// hanging is a store that never answers.
type hanging struct{}

func (hanging) Put(ctx context.Context, _ *inbox.Message) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

// TestAnswersWithinFiveSeconds holds a real server, on connections in memory and
// with the bubble's clock, to an answer whatever hangs.
func TestAnswersWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	signer := newSigner(t, 512)
	deaf := roundtrip.Func(func(r *http.Request) (*http.Response, error) {
		time.Sleep(time.Minute) // heeds no deadline
		return nil, errors.New("at last")
	})
	drips := roundtrip.Func(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(dripping{r.Context()})}, nil
	})
	for name, c := range map[string]struct {
		certificates http.RoundTripper
		store        Store
		slow         bool
		status       int
	}{
		"certificate_host_hangs":           {roundtrip.Hangs, hanging{}, false, 503},
		"certificate_host_is_deaf":         {deaf, hanging{}, false, 503},
		"certificate_host_drips":           {drips, hanging{}, false, 503},
		"store_hangs":                      {signer.Transport(), hanging{}, false, 503},
		"certificate_is_slow_store_hangs":  {slowly{signer.Transport(), 1900 * time.Millisecond}, hanging{}, false, 503},
		"body_drips":                       {signer.Transport(), hanging{}, true, 400},
		"body_drips_and_certificate_hangs": {roundtrip.Hangs, hanging{}, true, 503},
		"body_of_a_refused_push_drips":     {signer.Transport(), hanging{}, true, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{Owners: []string{mnsfake.Owner}}
				if c.status == http.StatusForbidden {
					cfg.Secret = secret
				}
				h, err := New(cfg, newVerifier(t, c.certificates), c.store, quiet)
				if err != nil {
					t.Fatal(err)
				}
				client, served := net.Pipe()
				server := &http.Server{Handler: h}
				ended := make(chan struct{})
				go func() { _ = server.Serve(&oneConn{conn: served, closed: make(chan struct{})}); close(ended) }()
				r := push(t, signer, "/mns", mnsfake.FormatXML, sample())
				var wire bytes.Buffer
				if err := r.Write(&wire); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					b := wire.Bytes()
					if !c.slow {
						_, _ = client.Write(b)
						return
					}
					end := bytes.Index(b, []byte("\r\n\r\n")) + 4
					_, _ = client.Write(b[:end])
					for _, one := range b[end:] {
						if _, err := client.Write([]byte{one}); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond)
					}
				}()
				resp, err := http.ReadResponse(bufio.NewReader(client), r)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); resp.StatusCode != c.status || took >= 5*time.Second {
					t.Errorf("answered %d after %v, want %d", resp.StatusCode, took, c.status)
				}
				_ = client.Close()
				_ = server.Close()
				<-ended
				<-sent
				time.Sleep(time.Minute) // until the deaf host is done
			})
		})
	}
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { close(l.closed); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// dripping is a body of one byte a second.
type dripping struct{ ctx context.Context }

func (d dripping) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return copy(p, "-"), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

// slowly takes a while.
type slowly struct {
	next http.RoundTripper
	by   time.Duration
}

func (s slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(s.by)
	return s.next.RoundTrip(r)
}

func TestLog(t *testing.T) {
	t.Parallel()
	for _, format := range formats {
		var log bytes.Buffer
		e := newEndpoint(t, Config{}, httpapi.NewLogger(&log))
		r := push(t, e.signer, "/notifications", format, sample())
		r.Header.Set("X-Mns-Request-Id", "573AE020B2B71CFC6801A6EF")
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		e.signer.Sign(r.Header, r.Method, r.RequestURI, body, time.Now())
		for _, outcome := range []string{"stored", "stored before"} {
			again := r.Clone(t.Context())
			again.Body = io.NopCloser(bytes.NewReader(body))
			log.Reset()
			if w := e.serve(again); w.Code != 201 {
				t.Fatalf("answered %d %s", w.Code, w.Body)
			}
			var record, access map[string]any
			d := json.NewDecoder(&log)
			if err := errors.Join(d.Decode(&record), d.Decode(&access)); err != nil || d.More() {
				t.Fatal(err)
			}
			for name, line := range map[string]map[string]any{"record": record, "access": access} {
				if line["time"] == nil || line["severity"] != "INFO" {
					t.Errorf("%s: %v", name, line)
				}
				if b, _ := json.Marshal(line); strings.Contains(string(b), "I am test message") {
					t.Errorf("the body is in the %s: %s", name, b)
				}
			}
			if diff := cmp.Diff(map[string]any{
				"topicOwner": mnsfake.Owner, "topicName": "MySampleTopic", "subscriptionName": "MySampleTopic-Sub",
				"subscriber": "2000000000000000", "messageId": "F6EA56633844DBFC-1-154BDFB8059-200000004",
				"messageMd5": "075C3D4AEB2D2F2D6A4C17C9D6DBBEBB", "messageTag": "red", "publishTime": "2016-05-17T15:50:56.345Z",
			}, record["notification"]); diff != "" || record["message"] != "notification "+outcome {
				t.Errorf("%s: %v: %s", format, record["message"], diff)
			}
			if diff := cmp.Diff(map[string]any{
				"protocol": "HTTP/1.1", "length": float64(len(body)), "host": "inbox.example",
				"requestId": "573AE020B2B71CFC6801A6EF", "version": "2015-06-06",
			}, access["access"]); diff != "" {
				t.Errorf("%s: %s", format, diff)
			}
			request, _ := access["httpRequest"].(map[string]any)
			delete(request, "latency")
			if diff := cmp.Diff(map[string]any{
				"requestMethod": "POST", "status": 201.0, "requestUrl": "/notifications", "userAgent": "Aliyun Notification Service Agent",
			}, request); diff != "" || access["message"] != outcome {
				t.Errorf("%s: %v: %s", format, access["message"], diff)
			}
		}
	}
}

// TestLogOfStrangers keeps what anyone may send from filling the log.
func TestLogOfStrangers(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	e := newEndpoint(t, Config{}, httpapi.NewLogger(&log))
	r := httptest.NewRequest(http.MethodPost, "/", endless{})
	r.ContentLength = -1
	r.Header.Set("X-Mns-Request-Id", strings.Repeat("x", 100_000))
	r.Header.Set("X-Mns-Version", strings.Repeat("x", 100_000))
	r.Host = strings.Repeat("x", 100_000)
	if w := e.serve(r); w.Code != http.StatusForbidden || log.Len() > 4<<10 || strings.Contains(log.String(), `"length"`) {
		t.Errorf("answered %d, logged %d bytes: %.1000s", w.Code, log.Len(), log.String())
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	good := Config{Owners: []string{"1"}}
	verifier := newVerifier(t, http.DefaultTransport)
	for name, build := range map[string]func() (http.Handler, error){
		"no_owner":    func() (http.Handler, error) { return New(Config{}, verifier, failingstore.Store{}, quiet) },
		"no_verifier": func() (http.Handler, error) { return New(good, nil, failingstore.Store{}, quiet) },
		"no_store":    func() (http.Handler, error) { return New(good, verifier, nil, quiet) },
		"no_logger":   func() (http.Handler, error) { return New(good, verifier, failingstore.Store{}, nil) },
	} {
		if h, err := build(); err == nil {
			t.Errorf("%s: made %v", name, h)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"GOOGLE_CLOUD_PROJECT": "p", "MNS_TOPIC_OWNERS": "1,2", "MNS_TOPICS": "t", "MNS_SUBSCRIPTIONS": "s",
		"MNS_CERTIFICATE_PINS": strings.Repeat("aB", 32), "MNS_SECRET": secret, "MNS_BODY": "base64,t/s=raw",
	}
	e, err := settings.Parse[environment](good)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Project: "p", Owners: []string{"1", "2"}, Topics: []string{"t"}, Subscriptions: []string{"s"},
		Pins: []string{strings.Repeat("aB", 32)}, Secret: secret, Body: mns.Encodings{"": mns.Base64, "t/s": mns.Raw},
	}
	if diff := cmp.Diff(want, e.MNS); diff != "" || e.Config.Project != "p" {
		t.Errorf("%+v: %s", e.Config, diff)
	}
	for name, test := range map[string]struct{ variable, value, want string }{
		"no_owner":        {"MNS_TOPIC_OWNERS", "", "MNS_TOPIC_OWNERS is not set, or is empty"},
		"spaced_owners":   {"MNS_TOPIC_OWNERS", "1, 2", "MNS_TOPIC_OWNERS has"},
		"empty_owner":     {"MNS_TOPIC_OWNERS", "1,", "MNS_TOPIC_OWNERS has"},
		"full_topic_name": {"MNS_TOPICS", "accounts/1/topics/t", "MNS_TOPICS has"},
		"spaced_name":     {"MNS_SUBSCRIPTIONS", "s ,t", "MNS_SUBSCRIPTIONS has"},
		"short_pin":       {"MNS_CERTIFICATE_PINS", "ab", "MNS_CERTIFICATE_PINS has"},
		"short_secret":    {"MNS_SECRET", "0123456789abcde", "MNS_SECRET is not"},
		"odd_secret":      {"MNS_SECRET", "0123456789abcdef/", "MNS_SECRET is not"},
		"odd_body":        {"MNS_BODY", "hex", "MNS_BODY is not a valid"},
		"twofold_body":    {"MNS_BODY", "raw,base64", "MNS_BODY is not a valid"},
		"odd_body_topic":  {"MNS_BODY", "raw,t=hex", "MNS_BODY is not a valid"},
		"foreign_topic":   {"MNS_BODY", "raw,u=base64", `MNS_BODY names "u"`},
		"foreign_subscr":  {"MNS_BODY", "raw,t/u=base64", `MNS_BODY names "t/u"`},
		"no_project":      {"GOOGLE_CLOUD_PROJECT", "", "GOOGLE_CLOUD_PROJECT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vars := map[string]string{}
			for k, v := range good {
				vars[k] = v
			}
			vars[test.variable] = test.value
			_, err := settings.Parse[environment](vars)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.variable == "MNS_SECRET" && strings.Contains(err.Error(), test.value) {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
	for variable, value := range good {
		for _, bad := range []string{" " + value, value + " ", value + "\n", `"` + value + `"`, "'" + value + "'"} {
			vars := maps.Clone(good)
			vars[variable] = bad
			if _, err := settings.Parse[environment](vars); err == nil || strings.Count(err.Error(), variable+" ") != 1 || strings.Contains(err.Error(), secret) {
				t.Errorf("%s=%q: %v", variable, bad, err)
			}
		}
	}
}
