package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/testkit/google"
)

const (
	audience    = "https://console-1.europe-west1.run.app"
	reader      = "reader@example.com"
	iapAudience = "/projects/1/global/backendServices/2"
)

// topic remembers what was published, after Pub/Sub's own checks.
type topic struct {
	sent []*pubsubpb.PubsubMessage
	err  error
}

func (t *topic) Publish(_ context.Context, messages []*pubsubpb.PubsubMessage) ([]string, error) {
	if err := publisher.Check(messages); err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	ids := make([]string, len(messages))
	for i, m := range messages {
		t.sent = append(t.sent, m)
		ids[i] = fmt.Sprint(len(t.sent))
	}
	return ids, nil
}

// site is a running console over a real inbox.
type site struct {
	*httptest.Server
	issuer *pushfake.Issuer
	store  *boltinbox.Inbox
	topic  *topic
	// handler is what serves.
	handler *handler
	// signed are the credentials that requests had, by their claims. Signing takes longer
	// than most requests.
	signed sync.Map
}

func newSite(t *testing.T, cfg Config) *site {
	t.Helper()
	return newLoggedSite(t, cfg, slog.New(slog.DiscardHandler))
}

func newLoggedSite(t *testing.T, cfg Config, log *slog.Logger) *site {
	t.Helper()
	issuer, verifier := google.Issuer(t)
	store, err := boltinbox.Open(filepath.Join(t.TempDir(), "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{issuer: issuer, store: store, topic: &topic{}}
	if s.handler, err = newHandler(cfg, verifier, store, s.topic, nil, log); err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(s.handler.routes(log))
	t.Cleanup(func() {
		s.Close()
		_ = store.Close()
	})
	return s
}

var both = Config{Project: "p", Audience: audience, Readers: []string{reader}, IAPAudience: iapAudience, SearchAttributes: []string{"indexed"}}

func (s *site) request(t *testing.T, method, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	s.as(t, r, map[string]any{"aud": audience, "email": reader}, nil)
	return r
}

// as gives r the credentials with these claims in place of those that it has; nil is none.
func (s *site) as(t *testing.T, r *http.Request, idToken, assertion map[string]any) {
	t.Helper()
	r.Header.Del("Authorization")
	if idToken != nil {
		r.Header.Set("Authorization", "Bearer "+s.sign(t, s.issuer.IDToken, "ID token", idToken))
	}
	if assertion != nil {
		r.Header.Set("x-goog-iap-jwt-assertion", s.sign(t, s.issuer.IAPAssertion, "assertion", assertion))
	}
}

// sign returns the credential of a kind with these claims, which it signs once.
func (s *site) sign(t *testing.T, sign func(map[string]any) (string, error), kind string, claims map[string]any) string {
	t.Helper()
	key := fmt.Sprintf("%s %#v", kind, claims) // in the order of the names
	if signed, ok := s.signed.Load(key); ok {
		return signed.(string)
	}
	signed, err := sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	s.signed.Store(key, signed)
	return signed
}

func (s *site) do(t *testing.T, r *http.Request) (*http.Response, []byte) {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	checkContract(t, r, resp, b)
	return resp, b
}

func (s *site) put(t *testing.T, id, subscription string, data []byte) string {
	t.Helper()
	m := &inbox.Message{Source: "pubsub", Subscription: subscription, MessageID: id, Data: data, Attributes: map[string]string{"k": "v", "replay-of": "older", "googclient_schemaencoding": "JSON"}, OrderingKey: "o"}
	if _, err := s.store.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return inbox.ID(m.Source, m.Subscription, m.MessageID)
}

func TestWhoMayRead(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	onlyIAP := newSite(t, Config{IAPAudience: iapAudience})
	onlyToken := newSite(t, Config{Audience: audience, Readers: []string{reader}})
	for name, test := range map[string]struct {
		site   *site
		id     map[string]any
		iap    map[string]any
		status int
	}{
		"nobody":                    {s, nil, nil, 401},
		"reader":                    {s, map[string]any{"aud": audience, "email": reader}, nil, 200},
		"reader_of_short_issuer":    {s, map[string]any{"aud": audience, "email": reader, "iss": "accounts.google.com"}, nil, 200},
		"reader_of_other_issuer":    {s, map[string]any{"aud": audience, "email": reader, "iss": "accounts.google.com.evil.example"}, nil, 403},
		"other_account":             {s, map[string]any{"aud": audience, "email": "x@example.com"}, nil, 403},
		"other_audience":            {s, map[string]any{"aud": "https://receive", "email": reader}, nil, 403},
		"through_iap":               {s, nil, map[string]any{"aud": iapAudience, "email": "anyone@example.com"}, 200},
		"iap_of_another_service":    {s, nil, map[string]any{"aud": iapAudience + "3", "email": reader}, 403},
		"iap_where_it_is_not_set":   {onlyToken, nil, map[string]any{"aud": iapAudience, "email": reader}, 401},
		"token_where_iap_is_needed": {onlyIAP, map[string]any{"aud": audience, "email": reader}, nil, 401},
		"iap_alone":                 {onlyIAP, nil, map[string]any{"aud": iapAudience, "email": reader}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/messages", "/messages/x", "/messages/x/data", "/events", "/", "/nothing"} {
				r := test.site.request(t, http.MethodGet, path, "")
				test.site.as(t, r, test.id, test.iap)
				ctx, cancel := context.WithCancel(t.Context())
				resp, err := http.DefaultTransport.RoundTrip(r.WithContext(ctx))
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				let := resp.StatusCode != 401 && resp.StatusCode != 403
				if let != (test.status == 200) || !let && resp.StatusCode != test.status {
					t.Errorf("%s: answered %d, want %d", path, resp.StatusCode, test.status)
				}
				_ = resp.Body.Close()
			}
		})
	}
}

func TestListAndPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	for i := range 5 {
		s.put(t, fmt.Sprint(i), fmt.Sprint("sub-", i%2), []byte("data"))
	}
	type page struct {
		Messages                  []inbox.Message
		NextPageToken, WatchToken string
	}
	list := func(query string) page {
		resp, b := s.do(t, s.request(t, http.MethodGet, "/messages?"+query, ""))
		var p page
		if err := json.Unmarshal(b, &p); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: answered %d %s", query, resp.StatusCode, b)
		}
		return p
	}
	ids := func(messages []inbox.Message) (ids []string) {
		for _, m := range messages {
			ids = append(ids, m.MessageID)
		}
		return ids
	}
	first := list("pageSize=3")
	if diff := cmp.Diff([]string{"4", "3", "2"}, ids(first.Messages)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1", "0"}, ids(list("pageSize=3&pageToken="+first.NextPageToken).Messages)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"3", "1"}, ids(list("source=pubsub&subscription=sub-1").Messages)); diff != "" {
		t.Error(diff)
	}
	resp, b := s.do(t, s.request(t, http.MethodGet, "/messages?source=mns", ""))
	if resp.StatusCode != 200 || !strings.HasPrefix(string(b), `{"messages":[]`) {
		t.Errorf("nothing found: %d %s", resp.StatusCode, b)
	}
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	for path, want := range map[string]int{
		"/messages?pageSize=x":                   400,
		"/messages?pageSize=-1":                  400,
		"/messages?pageToken=x":                  400,
		"/events?pageToken=x":                    400,
		"/messages/unknown":                      404,
		"/messages/unknown/data":                 404,
		"/messages/%2e%2e":                       404,
		"/messages/" + strings.Repeat("a", 4000): 404,
		"/nothing":                               404,
	} {
		if resp, b := s.do(t, s.request(t, http.MethodGet, path, "")); resp.StatusCode != want {
			t.Errorf("%.40s: answered %d %s, want %d", path, resp.StatusCode, b, want)
		}
	}
	// A success would say that something was published.
	for path, want := range map[string]int{"/messages/a/b:replay": 404, "/messages/x:replay/": 404, "/messages/": 404, "/messages/x/data": 405, "/messages/x": 405} {
		if resp, b := s.do(t, s.request(t, http.MethodPost, path, "")); resp.StatusCode != want {
			t.Errorf("POST %s: answered %d %s, want %d", path, resp.StatusCode, b, want)
		}
	}
	for _, path := range []string{"/events", "/rows"} {
		if resp, _ := s.do(t, s.request(t, http.MethodHead, path, "")); resp.StatusCode != 405 {
			t.Errorf("HEAD %s: answered %d", path, resp.StatusCode)
		}
	}
	for path, method := range map[string]string{"/messages": "PUT", "/": "POST", "/events": "POST", "/messages/x": "DELETE"} {
		if resp, b := s.do(t, s.request(t, method, path, "")); resp.StatusCode != 405 || resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: answered %d %s", method, path, resp.StatusCode, b)
		}
	}
}

func TestOneMessage(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	data := []byte(strings.Repeat("<script>\x00\xff", 1000))
	id := s.put(t, "1", "s", data)

	_, b := s.do(t, s.request(t, http.MethodGet, "/messages", ""))
	var list struct{ Messages []inbox.Message }
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if m := list.Messages[0]; len(m.Data) != 4096 || !m.Truncated || m.Size != len(data) {
		t.Errorf("in the list: %d bytes of %d, truncated %v", len(m.Data), m.Size, m.Truncated)
	}
	_, b = s.do(t, s.request(t, http.MethodGet, "/messages/"+id, ""))
	var m inbox.Message
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if string(m.Data) != string(data) || m.Truncated {
		t.Errorf("alone: %d bytes, truncated %v", len(m.Data), m.Truncated)
	}
	resp, b := s.do(t, s.request(t, http.MethodGet, "/messages/"+id+"/data", ""))
	if string(b) != string(data) {
		t.Errorf("download: %d bytes", len(b))
	}
	for name, want := range map[string]string{
		"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff",
		"Content-Disposition": `attachment; filename="` + id + `.bin"`, "Content-Security-Policy": "sandbox; default-src 'none'",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestPublishAndReplay(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("again"))
	r := s.request(t, http.MethodPost, "/messages", "payload=hi")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if resp, b := s.do(t, r); resp.StatusCode != 200 {
		t.Fatalf("publish: %d %s", resp.StatusCode, b)
	}
	if resp, b := s.do(t, s.request(t, http.MethodPost, "/messages/"+id+":replay", "")); resp.StatusCode != 200 {
		t.Fatalf("replay: %d %s", resp.StatusCode, b)
	}
	replayed := s.topic.sent[1]
	if string(s.topic.sent[0].Data) != "hi" || string(replayed.Data) != "again" || replayed.OrderingKey != "o" {
		t.Errorf("published %v", s.topic.sent)
	}
	if diff := cmp.Diff(map[string]string{"k": "v", "replay-of": id, "googclient_schemaencoding": "JSON"}, replayed.Attributes); diff != "" {
		t.Error(diff)
	}
	if resp, _ := s.do(t, s.request(t, http.MethodPost, "/messages/unknown:replay", "")); resp.StatusCode != 404 {
		t.Errorf("replay of nothing: %d", resp.StatusCode)
	}
}

func TestOtherSitesCannotWrite(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("x"))
	for _, path := range []string{"/messages", "/messages/" + id + ":replay"} {
		for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
			r := s.request(t, http.MethodPost, path, "payload=hi")
			r.Header.Set(name, value)
			if resp, b := s.do(t, r); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s with %s: answered %d %s", path, name, resp.StatusCode, b)
			}
		}
	}
	if len(s.topic.sent) != 0 {
		t.Errorf("published %v", s.topic.sent)
	}
}

// TestOtherSitesCannotSearch has another site load a search as an image, a script or
// with fetch; a link to it works.
func TestOtherSitesCannotSearch(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	for path, modes := range map[string]map[string]int{
		"/?text=secret":         {"no-cors": 403, "cors": 403, "": 403, "navigate": 200, "navigate iframe": 403, "navigate document": 200},
		"/messages?text=secret": {"no-cors": 403, "cors": 403, "navigate": 200},
	} {
		for mode, want := range modes {
			r := s.request(t, http.MethodGet, path, "")
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			name, dest, _ := strings.Cut(mode, " ")
			r.Header.Set("Sec-Fetch-Mode", name)
			r.Header.Set("Sec-Fetch-Dest", dest)
			if resp, b := s.do(t, r); resp.StatusCode != want {
				t.Errorf("%s by %q: answered %d %.200s", path, mode, resp.StatusCode, b)
			}
		}
	}
}

// tail is a live tail being read.
type tail struct {
	*bufio.Scanner
	last string
	stop context.CancelFunc
}

func (s *site) tail(t *testing.T, lastEventID string) *tail {
	t.Helper()
	return s.tailOf(t, "/events", lastEventID)
}

func (s *site) tailOf(t *testing.T, path, lastEventID string) *tail {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r := s.request(t, http.MethodGet, path, "").WithContext(ctx)
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Fatalf("Content-Type %q", ct)
	}
	tl := &tail{bufio.NewScanner(resp.Body), "", cancel}
	tl.read(t) // the token of the start
	return tl
}

// read returns the data of the next event, as a browser would.
func (tl *tail) read(t *testing.T) string {
	t.Helper()
	data := ""
	for tl.Scan() {
		name, value, _ := strings.Cut(tl.Text(), ": ") // a comment has no name
		switch {
		case name == "id":
			tl.last = value
		case name == "data":
			data += value
		case tl.Text() == "":
			return data
		}
	}
	t.Fatalf("the tail ended: %v", tl.Err())
	return ""
}

func (tl *tail) id(t *testing.T) string {
	t.Helper()
	data := tl.read(t)
	checkEvent(t, data)
	var m inbox.Message
	if err := json.Unmarshal([]byte(data), &m); err != nil {
		t.Fatal(err)
	}
	return m.MessageID
}

func TestLiveTailResumes(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	s.put(t, "old", "s", nil)
	tl := s.tail(t, "")
	start := tl.last
	s.put(t, "1", "s", nil)
	if id := tl.id(t); id != "1" {
		t.Errorf("got %q, want the new message", id)
	}
	after := tl.last
	tl.stop()
	s.put(t, "2", "s", nil)
	s.put(t, "3", "s", nil)
	tl = s.tail(t, after)
	if a, b := tl.id(t), tl.id(t); a != "2" || b != "3" {
		t.Errorf("after a break: %q, %q", a, b)
	}
	tl.stop()
	tl = s.tail(t, start)
	if a := tl.id(t); a != "1" {
		t.Errorf("a break before anything arrived lost messages: %q", a)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	base := map[string]string{"GOOGLE_CLOUD_PROJECT": "p", "PUBSUB_TOPIC": "t"}
	for name, test := range map[string]struct {
		vars map[string]string
		want string
	}{
		"iap_alone":     {map[string]string{"IAP_AUDIENCE": iapAudience}, ""},
		"readers_alone": {map[string]string{"CONSOLE_AUDIENCE": audience, "CONSOLE_READERS": reader}, ""},
		"nobody":        {nil, "IAP_AUDIENCE"},
		"audience_only": {map[string]string{"CONSOLE_AUDIENCE": audience}, "CONSOLE_READERS"},
		"readers_only":  {map[string]string{"CONSOLE_READERS": reader, "IAP_AUDIENCE": iapAudience}, "CONSOLE_AUDIENCE"},
		"publishers":    {map[string]string{"IAP_AUDIENCE": iapAudience, "CONSOLE_PUBLISHERS": "a@example.com,b@example.com"}, ""},
		"no_publishers": {map[string]string{"IAP_AUDIENCE": iapAudience, "CONSOLE_PUBLISHERS": ""}, ""},
		"bad_publisher": {map[string]string{"IAP_AUDIENCE": iapAudience, "CONSOLE_PUBLISHERS": "a@example.com, b@example.com"}, "CONSOLE_PUBLISHERS"},
		"a_lone_comma":  {map[string]string{"IAP_AUDIENCE": iapAudience, "CONSOLE_PUBLISHERS": ","}, "CONSOLE_PUBLISHERS"},
		"delivery": {map[string]string{"IAP_AUDIENCE": iapAudience, "DELIVERY_SUBSCRIPTIONS": "projects/p/subscriptions/a,projects/p/subscriptions/b",
			"DEAD_LETTER_SUBSCRIPTION": "projects/p/subscriptions/d", "DELIVERY_LOG_VIEW": "projects/p/locations/l/buckets/b/views/v"}, ""},
		"no_delivery":      {map[string]string{"IAP_AUDIENCE": iapAudience, "DELIVERY_SUBSCRIPTIONS": "", "DEAD_LETTER_SUBSCRIPTION": "", "DELIVERY_LOG_VIEW": ""}, ""},
		"short_name":       {map[string]string{"IAP_AUDIENCE": iapAudience, "DELIVERY_SUBSCRIPTIONS": "inbox-push"}, "DELIVERY_SUBSCRIPTIONS"},
		"a_topic":          {map[string]string{"IAP_AUDIENCE": iapAudience, "DEAD_LETTER_SUBSCRIPTION": "projects/p/topics/d"}, "DEAD_LETTER_SUBSCRIPTION"},
		"another_resource": {map[string]string{"IAP_AUDIENCE": iapAudience, "DELIVERY_LOG_VIEW": "projects/p/locations/l/buckets/b"}, "DELIVERY_LOG_VIEW"},
		"no_topic":         {map[string]string{"PUBSUB_TOPIC": "", "IAP_AUDIENCE": iapAudience}, "PUBSUB_TOPIC"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vars := map[string]string{}
			for _, m := range []map[string]string{base, test.vars} {
				for k, v := range m {
					vars[k] = v
				}
			}
			_, err := settings.Parse[environment](vars)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q named", err, test.want)
			}
		})
	}
	good := map[string]string{
		"GOOGLE_CLOUD_PROJECT": "p", "PUBSUB_TOPIC": "t", "CONSOLE_AUDIENCE": audience, "CONSOLE_READERS": reader,
		"CONSOLE_PUBLISHERS": reader, "IAP_AUDIENCE": iapAudience,
	}
	for variable, value := range good {
		for _, bad := range []string{" " + value, value + " ", value + "\n", `"` + value + `"`, "'" + value + "'"} {
			vars := maps.Clone(good)
			vars[variable] = bad
			if _, err := settings.Parse[environment](vars); err == nil || strings.Count(err.Error(), variable+" ") != 1 {
				t.Errorf("%s=%q: %v", variable, bad, err)
			}
		}
	}

	for _, variable := range []string{"CONSOLE_READERS", "CONSOLE_PUBLISHERS"} {
		for _, address := range []string{"user:" + reader, "group:" + reader, "domain:example.com", "R" + reader, reader + ",", reader + "@p"} {
			vars := maps.Clone(good)
			vars[variable] = address
			if _, err := settings.Parse[environment](vars); err == nil || !strings.HasPrefix(err.Error(), variable+" ") {
				t.Errorf("%s=%s: %v", variable, address, err)
			}
		}
	}
}
