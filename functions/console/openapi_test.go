package console

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"example.com/pushinbox/shared/inbox"
)

// contract is openapi.yaml, which every answer that a test of this package records is
// held against.
var contract = sync.OnceValue(func() *openapi3.T {
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		panic(err)
	}
	return doc
})

// operation returns what openapi.yaml has for a request, or nil.
func operationOf(method, path string) *routers.Route {
	for template, item := range contract().Paths.Map() {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(template), regexp.QuoteMeta("{id}"), "[^/:]+")
		if op := item.GetOperation(method); op != nil && regexp.MustCompile("^"+pattern+"$").MatchString(path) {
			return &routers.Route{Spec: contract(), Path: template, PathItem: item, Method: method, Operation: op}
		}
	}
	return nil
}

// checkContract holds an answer against the description. Pages and paths that are not
// described are left out; those must not succeed.
func checkContract(t *testing.T, r *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	kind := resp.Header.Get("Content-Type")
	if strings.HasPrefix(kind, "text/html") || strings.HasPrefix(r.URL.Path, "/assets/") || r.URL.Path == "/" || r.URL.Path == "/rows" ||
		resp.StatusCode == http.StatusSeeOther {
		return
	}
	route := operationOf(r.Method, r.URL.Path)
	if route == nil {
		if resp.StatusCode < 400 || kind != "application/problem+json" {
			t.Errorf("%s %s is not described, and answers %d %s", r.Method, r.URL.Path, resp.StatusCode, kind)
		}
		return
	}
	err := openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: resp.StatusCode < 400 && kind != "application/json"},
	})
	if err != nil {
		t.Errorf("%s %s: the answer %d is not as openapi.yaml says: %.1000v", r.Method, r.URL.Path, resp.StatusCode, err)
	}
	described := route.Operation.Responses.Status(resp.StatusCode)
	if described == nil {
		described = route.Operation.Responses.Default()
	}
	if described.Value.Content.Get(kind) == nil {
		t.Errorf("%s %s: answers %d as %s", r.Method, r.URL.Path, resp.StatusCode, kind)
	}
}

// checkEvent holds an event of the live feed against the description.
func checkEvent(t *testing.T, data string) {
	t.Helper()
	var event any
	if err := json.Unmarshal([]byte(data), &event); err != nil {
		t.Fatal(err)
	}
	if err := contract().Components.Schemas["Message"].Value.VisitJSON(event, openapi3.EnableJSONSchema2020()); err != nil {
		t.Errorf("the event is not as openapi.yaml says: %.1000v", err)
	}
}

// TestOpenAPI holds the description against the specification, and its parameters
// against those that lists take.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	resp, b := s.do(t, s.request(t, http.MethodGet, "/openapi.yaml", ""))
	if resp.StatusCode != http.StatusOK || !bytes.Equal(b, openAPI) {
		t.Fatalf("answered %d %s", resp.StatusCode, b)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	names := func(path string) (names []string) {
		for _, p := range doc.Paths.Value(path).Get.Parameters {
			if p.Value.In == "query" && p.Value.Name != "attributes" {
				names = append(names, p.Value.Name)
			}
		}
		slices.Sort(names)
		return names
	}
	want := slices.Sorted(slices.Values(inbox.Parameters))
	if got := names("/messages"); !slices.Equal(got, want) {
		t.Errorf("a list has %q, described are %q", want, got)
	}
	want = slices.DeleteFunc(want, func(name string) bool { return name == "order" || name == "pageSize" })
	if got := names("/events"); !slices.Equal(got, want) {
		t.Errorf("a feed has %q, described are %q", want, got)
	}
	// The description is not one that everything fits.
	for name, bad := range map[string]string{
		"unknown_member": `{"messages":[],"next":"x"}`, "no_messages": `{}`, "empty_token": `{"messages":[],"nextPageToken":""}`,
		"not_a_message": `{"messages":[{"id":"x"}]}`, "local_time": `{"messages":[],"examinedUntil":"2026-11-26T02:10:00+01:00"}`,
	} {
		var v any
		if err := json.Unmarshal([]byte(bad), &v); err != nil {
			t.Fatal(err)
		}
		if doc.Components.Schemas["Page"].Value.VisitJSON(v, openapi3.EnableJSONSchema2020()) == nil {
			t.Errorf("%s: %s fits", name, bad)
		}
	}
}

// TestParameters refuses what does not exist, and says what does.
func TestParameters(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("x"))
	for path, want := range map[string]string{
		"/messages?since_=1":                       "pageToken",
		"/messages?until=tomorrow":                 "until",
		"/messages?since=2h&since=3h":              "since",
		"/messages?order=up":                       "asc",
		"/messages?source=foo":                     "pubsub, calendar, mns",
		"/messages:poll?source=foo":                "pubsub, calendar, mns",
		"/events?order=asc":                        "order",
		"/events?pageSize=5":                       "pageSize",
		"/events?sicne=2h":                         "the parameters are source, subscription, messageId, orderingKey, since, until, text, quarantined, pageToken, attribute.KEY",
		"/rows?x=1":                                "usual",
		"/messages/" + id + "?since=2h":            "none",
		"/messages/" + id + "/data?x":              "none",
		"/openapi.yaml?x=1":                        "none",
		"/messages?attribute.=x":                   "attribute.KEY",
		"/messages?" + strings.Repeat("a", 10_000): "attribute.KEY",
	} {
		resp, b := s.do(t, s.request(t, http.MethodGet, path, ""))
		var p struct{ Detail string }
		if err := json.Unmarshal(b, &p); err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(p.Detail, want) || len(p.Detail) > 1000 {
			t.Errorf("%.60s: answered %d %.300s", path, resp.StatusCode, b)
		}
	}
	r := s.request(t, http.MethodGet, "/events", "")
	r.Header.Set("Last-Event-ID", "\xff")
	if resp, b := s.do(t, r); resp.StatusCode != http.StatusBadRequest || strings.Contains(string(b), "pageToken") {
		t.Errorf("a header that is no token: answered %d %s", resp.StatusCode, b)
	}
	if resp, b := s.do(t, s.request(t, http.MethodPost, "/messages/"+id+":replay?quarantine=true", "")); resp.StatusCode != http.StatusBadRequest || len(s.topic.sent) > 0 {
		t.Errorf("a replay with an unknown parameter: answered %d %s", resp.StatusCode, b)
	}
	resp, b := s.do(t, s.request(t, http.MethodGet, "/messages/1795684508128835", ""))
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(b), "/messages?messageId=") {
		t.Errorf("a provider's ID: answered %d %s", resp.StatusCode, b)
	}
	_, page := s.page(t, "/messages/1795684508128835")
	if !strings.Contains(page, `href="/?messageId=1795684508128835"`) {
		t.Errorf("the page for a provider's ID leads nowhere: %s", page)
	}
}

// TestFilters lists by each condition, on the API and on the page.
func TestFilters(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	for _, m := range []*inbox.Message{
		{Source: "pubsub", Subscription: "projects/p/subscriptions/a", MessageID: "1", Data: []byte("Zoë paid"), Attributes: map[string]string{"kind": "order"}, OrderingKey: "k"},
		{Source: "pubsub", Subscription: "projects/p/subscriptions/b", MessageID: "2", Data: []byte("open"), Attributes: map[string]string{"kind": "a b&c=d", "x": "PAID"}},
		{Source: "mns", Subscription: "s", MessageID: "3", Data: []byte("x")},
	} {
		if _, err := s.store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string]string{
		"source=mns": "3", "subscription=a": "1", "subscription=projects/p/subscriptions/b": "2", "messageId=2": "2", "orderingKey=k": "1",
		"since=1h": "321", "until=1h": "", "text=paid": "21", "text=ZO%C3%8B": "1", "attribute.kind=order": "1", "attribute.kind=a+b%26c%3Dd": "2",
		"order=asc": "123", "order=asc&source=pubsub&text=o": "12",
	} {
		_, b := s.do(t, s.request(t, http.MethodGet, "/messages?"+query, ""))
		var list struct {
			Messages []inbox.Message
			Examined int
		}
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range list.Messages {
			got += m.MessageID
		}
		if got != want || (list.Examined > 0) != (strings.Contains(query, "text") || strings.Contains(query, "attribute")) {
			t.Errorf("%s: %q, examined %d, want %q", query, got, list.Examined, want)
		}
		_, page := s.page(t, "/?"+query)
		if n := strings.Count(page, `<tr role="row" id=`); n != len(want) {
			t.Errorf("the page for %s has %d rows, want %d", query, n, len(want))
		}
	}
	// What the page sends for a filter, the address has once.
	resp, _ := s.page(t, "/?source=&messageId=&since=2h&attributes="+url.QueryEscape(`kind="a b&c=d" x=PAID`)+"&text=")
	if got := resp.Header.Get("Location"); got != "/?attribute.kind=a+b%26c%3Dd&attribute.x=PAID&since=2h" {
		t.Errorf("the form leads to %s", got)
	}
}

// TestScansAreFew has two searches under way that no index answers: the next one is
// 503, and a look-up is not.
func TestScansAreFew(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	h := s.handler
	h.scans <- struct{}{}
	h.scans <- struct{}{}
	for path, want := range map[string]int{
		"/messages?text=x": 503, "/messages?text=x&since=2h&subscription=s": 503, "/messages?attribute.k=v": 503, "/messages?attribute.indexed=v": 200, "/messages?attribute.replay-of=v": 200, "/messages?messageId=1&since=2h": 200, "/messages?quarantined=true": 200,
	} {
		resp, b := s.do(t, s.request(t, http.MethodGet, path, ""))
		isRefused := want == 503
		if resp.StatusCode != want || isRefused && (resp.Header.Get("Retry-After") == "" || !strings.Contains(string(b), "leave out text and the attributes that have no index")) {
			t.Errorf("%s: answered %d %s", path, resp.StatusCode, b)
		}
	}
	<-h.scans
	for range 3 {
		if resp, b := s.do(t, s.request(t, http.MethodGet, "/messages?text=x", "")); resp.StatusCode != http.StatusOK {
			t.Errorf("one after the other: %d %s", resp.StatusCode, b)
		}
	}
}

// scanning is a store whose lists stop before they find anything.
type scanning struct{ Store }

var (
	scanUntil = time.Date(2026, 11, 26, 2, 10, 0, 0, time.UTC)
	scanToken = inbox.Position{ReceivedAt: scanUntil, Commit: scanUntil}.Token()
)

func (s scanning) List(_ context.Context, q inbox.Query) (*inbox.Page, error) {
	if q.Text == "" {
		return s.Store.List(context.Background(), q)
	}
	return &inbox.Page{NextPageToken: scanToken, WatchToken: scanToken, Examined: 5000, ExaminedUntil: scanUntil}, nil
}

// TestHowFarAScanLooked says it in the answer, in the list, and beside a message.
func TestHowFarAScanLooked(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("x"))
	s.handler.store = scanning{s.store}
	_, b := s.do(t, s.request(t, http.MethodGet, "/messages?text=x", ""))
	if want := `{"messages":[],"nextPageToken":"` + scanToken + `","watchToken":"` + scanToken + `","examined":5000,"examinedUntil":"2026-11-26T02:10:00Z"}`; strings.TrimSpace(string(b)) != want {
		t.Errorf("answered %s", b)
	}
	_, page := s.page(t, "/?text=x&since=2026-01-01T00:00:00Z")
	for _, want := range []string{"Examined 5,000 messages, back to", "02:10:00", `<a href="/?pageToken=` + scanToken + `&amp;since=2026-01-01T00%3A00%3A00Z&amp;text=x">Look further</a>`, "No message matches, as far as was looked."} {
		if !strings.Contains(page, want) {
			t.Errorf("the list does not say %q: %s", want, page)
		}
	}
	resp, _ := s.page(t, "/messages/"+id+"/older?text=x")
	_, page = s.page(t, resp.Header.Get("Location"))
	if want := `href="/messages/` + id + `/older?from=` + scanToken + `&amp;text=x">Look further</a>`; !strings.Contains(page, want) {
		t.Errorf("%s: the message does not lead further: %s", resp.Header.Get("Location"), page)
	}
}
