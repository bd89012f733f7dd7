package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/port"
)

// page asks for an address as a browser does.
func (s *site) page(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	r := s.request(t, http.MethodGet, path, "")
	r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	resp, b := s.do(t, r)
	return resp, string(b)
}

func TestPagesAreConfined(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("data"))
	for path, status := range map[string]int{"/": 200, "/messages/" + id: 200, "/messages/none": 404, "/?pageToken=x": 400, "/nothing": 404} {
		resp, body := s.page(t, path)
		if resp.StatusCode != status || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: answered %d %s", path, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":  "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "same-origin", "Vary": "Accept",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if bad := regexp.MustCompile(`(?i)<script[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|https?://`).FindString(body); bad != "" {
			t.Errorf("%s: the page holds %q", path, bad)
		}
	}
	// Programs get what they always got.
	if resp, b := s.do(t, s.request(t, http.MethodGet, "/messages/none", "")); resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("a program is answered %s", b)
	}
}

func TestNobodySeesThePage(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("secret data"))
	for _, path := range []string{"/", "/messages/" + id, "/rows", "/assets/console.js"} {
		r := s.request(t, http.MethodGet, path, "")
		r.Header.Del("Authorization")
		r.Header.Set("Accept", "text/html")
		resp, b := s.do(t, r)
		if resp.StatusCode != http.StatusUnauthorized || bytes.Contains(b, []byte("secret")) || bytes.Contains(b, []byte(id)) {
			t.Errorf("%s: answered %d %s", path, resp.StatusCode, b)
		}
	}
}

func TestFormOfAnotherSite(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	for name, header := range map[string][2]string{"origin": {"Origin", "https://evil.example"}, "fetch_site": {"Sec-Fetch-Site", "cross-site"}} {
		r := s.request(t, http.MethodPost, "/messages", "payload=x")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Accept", "text/html")
		r.Header.Set(header[0], header[1])
		if resp, b := s.do(t, r); resp.StatusCode != http.StatusForbidden || len(s.topic.sent) > 0 {
			t.Errorf("%s: answered %d %s", name, resp.StatusCode, b)
		}
	}
}

func TestFormWithoutScript(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	send := func(form url.Values) (*http.Response, string) {
		r := s.request(t, http.MethodPost, "/messages", form.Encode())
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Accept", "text/html")
		resp, b := s.do(t, r)
		return resp, string(b)
	}
	resp, body := send(url.Values{"payload": {"hi"}, "attributes": {"a=b\r\nc=d\r\n"}})
	if resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(resp.Header.Get("Location"), "/?published=") || len(s.topic.sent) != 1 || s.topic.sent[0].Attributes["c"] != "d" {
		t.Errorf("answered %d %s, sent %v", resp.StatusCode, body, s.topic.sent)
	}
	resp, body = send(url.Values{"payload": {"<hi>"}, "attributes": {"broken"}})
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "line 1 of attributes is not key=value") || !strings.Contains(body, "&lt;hi&gt;</textarea>") || strings.Count(body, "<!DOCTYPE") != 1 {
		t.Errorf("a refusal: %d %s", resp.StatusCode, body)
	}
	resp, body = send(url.Values{"payload": {strings.Repeat("x", 10_000_001)}})
	if resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d %.200s", resp.StatusCode, body)
	}
	if len(s.topic.sent) != 1 {
		t.Errorf("%d messages were sent", len(s.topic.sent))
	}
}

func TestAssets(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	_, page := s.page(t, "/")
	weight := len(page)
	links := regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`).FindAllStringSubmatch(page, -1)
	seen := map[string]bool{}
	for _, link := range links {
		if seen[link[1]] {
			continue
		}
		seen[link[1]] = true
		resp, b := s.do(t, s.request(t, http.MethodGet, link[1], ""))
		if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: answered %d %v", link[1], resp.StatusCode, resp.Header)
		}
		weight += len(b)
	}
	if len(seen) != 3 || weight >= 60_000 {
		t.Errorf("the page and its %d files weigh %d bytes; less than 60,000 is promised", len(seen), weight)
	}
	t.Logf("an empty page and its files weigh %d bytes", weight)
	if resp, _ := s.do(t, s.request(t, http.MethodGet, "/assets/console.js?v=old", "")); strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Error("a file of another version may be kept")
	}
	for _, path := range []string{"/assets/", "/assets/none", "/assets/..%2fpages%2flist.html"} {
		if resp, _ := s.do(t, s.request(t, http.MethodGet, path, "")); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: answered %d", path, resp.StatusCode)
		}
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		data      string
		truncated bool
		want      string
		note      bool
	}{
		"nothing":                {"", false, "no data", true},
		"one_line":               {"hello", false, "hello", false},
		"lines_are_joined":       {"{\n  \"a\": 1\n}", false, `{ "a": 1 }`, false},
		"white_space":            {" \n\t", false, "only white space", true},
		"long":                   {strings.Repeat("é", 300), false, strings.Repeat("é", 200) + "…", false},
		"binary":                 {"\x89PNG\r\n", false, "binary: 89 50 4e 47 0d 0a", true},
		"zero_byte":              {"a\x00b", false, "binary: 61 00 62", true},
		"cut_inside_a_character": {"abc\xe2\x82", true, "abc…", false},
		"white_at_first":         {"   ", true, "begins with white space", true},
		"filler":                 {"\u3164\u2800", false, `\u{3164}\u{2800}`, false},
		"broken_at_the_end":      {"abc\xe2\x82", false, "binary: 61 62 63 e2 82", true},
		"turned_around":          {"\u202egnp.exe", false, `\u{202E}gnp.exe`, false},
		"terminal_escape":        {"\x1b[31m", false, `\u{1B}[31m`, false},
		"joined_emoji":           {"👩‍💻", false, "👩‍💻", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &inbox.Message{Data: []byte(test.data), Size: len(test.data), Truncated: test.truncated}
			if got := previewOf(m); got != (preview{test.want, test.note}) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestViewOfData(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		data, kind string
		want       view
	}{
		"json":                {`{"a":[1,"x"]}`, "", view{Kind: "json", Text: "{\n  \"a\": [\n    1,\n    \"x\"\n  ]\n}"}},
		"as_it_is_meant":      {`{"name":"Zo\u00eb \ud83d\ude00","path":"a\/b","n\u0061me":1}`, "", view{Kind: "json", Text: "{\n  \"name\": \"Zoë 😀\",\n  \"path\": \"a/b\",\n  \"name\": 1\n}"}},
		"escapes_that_stay":   {`["\u0022\u005c\u000a\ud800\ud800\u0041\u202e\t\\u0041"]`, "", view{Kind: "json", Text: `[` + "\n  " + `"\u0022\u005c\u000a\ud800\ud800A\u202e\t\\u0041"` + "\n]"}},
		"hidden_in_json":      {"[\"\u202e\"]", "", view{Kind: "json", Text: "[\n  \"\\u{202E}\"\n]", Escaped: true}},
		"markup_in_json":      {`{"<img src=x>":["</pre>&amp;\u003cscript\u003e"]}`, "", view{Kind: "json", Text: "{\n  \"<img src=x>\": [\n    \"</pre>&amp;<script>\"\n  ]\n}"}},
		"nothing_in_it":       {`{"a":{},"b":[ ],"c":[{}]}`, "", view{Kind: "json", Text: "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    {}\n  ]\n}"}},
		"numbers_stay":        {`[1e999,12345678901234567890]`, "", view{Kind: "json", Text: "[\n  1e999,\n  12345678901234567890\n]"}},
		"json_as_text":        {`{"a":1}`, "text", view{Kind: "text", Text: `{"a":1}`}},
		"a_bare_number":       {`12`, "", view{Kind: "text", Text: "12"}},
		"broken_json":         {`{"a":`, "json", view{Kind: "text", Text: `{"a":`}},
		"json_not_utf8":       {"{\"a\":\"\xff\"}", "", view{Kind: "hex", Text: "00000000  7b 22 61 22 3a 22 ff 22  7d                       |{\"a\":\".\"}|\n"}},
		"binary_as_text":      {"\xff", "text", view{Kind: "hex", Text: "00000000  ff                                                |.|\n"}},
		"unknown_kind":        {"x", "<script>", view{Kind: "text", Text: "x"}},
		"hidden_characters":   {"a\u200bb", "", view{Kind: "text", Text: `a\u{200B}b`, Escaped: true}},
		"windows_lines":       {"a\r\nb\rc", "", view{Kind: "text", Text: "a\nb\\u{D}c", Escaped: true}},
		"bracket_in_a_string": {`["` + strings.Repeat("[", 100) + `\"]"]`, "", view{Kind: "json", Text: "[\n  \"" + strings.Repeat("[", 100) + "\\\"]\"\n]"}},
		"too_deep":            {strings.Repeat("[", 65) + strings.Repeat("]", 65), "", view{Kind: "text", Text: strings.Repeat("[", 65) + strings.Repeat("]", 65)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := payloadOf([]byte(test.data)).view(test.kind)
			if got.Kind == "json" {
				got.Text = strings.TrimSuffix(html.UnescapeString(regexp.MustCompile("<[^>]*>").ReplaceAllString(string(got.Tree), "")), "\n")
				got.Tree = ""
			}
			if got != test.want {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestPreviewOfACalendarChange(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`{"change":"added","event":{"summary":"Lunch"},"before":null,"fields":[]}`:                                  "added: Lunch",
		`{"change":"updated","event":{"summary":"Late"},"before":{"summary":"Lunch"},"fields":["start","summary"]}`: "updated: Late (start, summary)",
		`{"change":"deleted","event":{"id":"1"},"before":{"summary":"Late\u202e"},"fields":[]}`:                     `deleted: Late\u{202E}`,
		`{"change":"added","event":{"id":"1"}}`:                                                                     "added: an event without a title",
		`{"change":"added","event":{"summary":`:                                                                     `{"change":"added","event":{"summary":`,
		`[]`:                                                                                                        "[]",
	} {
		if got := previewOf(&inbox.Message{Source: inbox.SourceCalendar, Data: []byte(data), Size: len(data)}); got.Text != want || got.Note {
			t.Errorf("%s: got %+v", data, got)
		}
	}
	// Of anybody else's message the data is shown as it is.
	m := &inbox.Message{Source: inbox.SourcePubSub, Data: []byte(`{"change":"x"}`), Size: 14}
	if got := previewOf(m).Text; got != `{"change":"x"}` {
		t.Errorf("a push is shown as %s", got)
	}
}

// TestViewIsBounded shows ten megabytes of what grows most.
func TestViewIsBounded(t *testing.T) {
	t.Parallel()
	measure.SkipRace(t, "nothing in it is concurrent, and it takes long")
	for _, unit := range []string{"x", "é", "\u202e", "[", "[[],", "\xff", "\n", `{"a":`, "1,"} {
		for _, kind := range []string{"", "text", "hex", "json"} {
			for _, size := range []int{maxTextView, 4 * maxTextView, inbox.MaxDataSize} {
				v := payloadOf(bytes.Repeat([]byte(unit), size/len(unit)+1)).view(kind)
				if !v.Cut || len(v.Text) > 8*maxTextView {
					t.Errorf("%q as %q, %d bytes: %d bytes are shown, cut %v", unit, kind, size, len(v.Text), v.Cut)
				}
			}
		}
	}
	for name, json := range map[string]string{
		"deep":    strings.Repeat("[", maxTreeDepth-1) + strings.Repeat("1,", 100_000) + "1" + strings.Repeat("]", maxTreeDepth-1),
		"empty":   "[" + strings.Repeat("[],", 3_000_000) + "1]",
		"lists":   "[" + strings.Repeat("[1],", 2_000_000) + "1]",
		"names":   "{" + strings.Repeat(`"":1,`, 1_000_000) + `"":1}`,
		"quotes":  `["` + strings.Repeat(`\"`, 4_000_000) + `"]`,
		"escapes": `["` + strings.Repeat(`\u0041`, 1_000_000) + `"]`,
		"markup":  `["` + strings.Repeat(`<`, 9_000_000) + `"]`,
		"number":  "[" + strings.Repeat("1", 9_000_000) + "]",
	} {
		// What is reserved for the page is enough for it, and for a copy.
		p := payloadOf([]byte(json))
		v := p.view("")
		if reserved := p.shownSize() * viewWeight; v.Kind != "json" || !v.Cut || 2*len(v.Tree) > reserved {
			t.Errorf("%s: %d bytes are shown as %s, cut %v, and memory reserved for %d", name, len(v.Tree), v.Kind, v.Cut, reserved)
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	issued := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	signed := inbox.Verified{Issuer: "https://accounts.google.com", Audience: "https://receive", Email: "push@p", EmailVerified: true, Subject: "7", IssuedAt: issued, ExpiresAt: issued.Add(time.Hour)}
	v := verdictOf(&inbox.Message{Source: inbox.SourcePubSub, Verified: signed}, false)
	if !v.Proven || v.Words != "Google signed this push as push@p, for https://receive." {
		t.Errorf("got %+v", v)
	}
	var names []string
	for _, c := range v.Claims {
		names = append(names, c.Name)
	}
	if want := []string{"Issuer", "Audience", "E-mail", "E-mail verified", "Subject", "Issued", "Expires"}; !slices.Equal(names, want) {
		t.Errorf("claims %q", names)
	}
	if v := verdictOf(&inbox.Message{Source: inbox.SourceMNS, Verified: inbox.Verified{Issuer: "https://mns", Subject: "123"}}, false); !v.Proven || v.Words != "Alibaba MNS signed this push of a topic of account 123." || len(v.Claims) != 2 {
		t.Errorf("mns: %+v", v)
	}
	for source, want := range map[string]string{
		inbox.SourcePubSub:   "The sender of this message is not recorded.",
		inbox.SourceCalendar: "Nobody pushed this: the inbox read it from Google Calendar itself.",
	} {
		if v := verdictOf(&inbox.Message{Source: source}, false); v.Proven || v.Words != want || len(v.Claims) > 0 {
			t.Errorf("%s: %+v", source, v)
		}
	}
}

// TestColumns has a column for each of the first search attributes, and a link in it.
func TestColumns(t *testing.T) {
	t.Parallel()
	for attributes, want := range map[string]int{"": 0, "kind": 1, "kind,b,c,d": 3} {
		cfg := both
		cfg.SearchAttributes = strings.Split(attributes, ",")
		s := newSite(t, cfg)
		if _, err := s.store.Put(t.Context(), &inbox.Message{Source: "pubsub", MessageID: "1", Attributes: map[string]string{"kind": "a&b"}}); err != nil {
			t.Fatal(err)
		}
		_, page := s.page(t, "/?since=2h")
		if n, m := strings.Count(page, `<th role="columnheader" scope="col" class="c-attribute">`), strings.Count(page, `<td role="cell" class="c-attribute">`); n != want || m != want {
			t.Errorf("%s: %d columns in the head, %d in the row, want %d", attributes, n, m, want)
		}
		if link := `href="/?attribute.kind=a%26b&amp;since=2h"`; strings.Contains(page, link) != (want > 0) {
			t.Errorf("%s: the value leads elsewhere: %s", attributes, page)
		}
	}
}

// TestUnusualSender names the sender where it is not the one of most pushes in the
// list, and in the feed that follows it.
func TestUnusualSender(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	put := func(id, email string) {
		m := &inbox.Message{Source: "pubsub", MessageID: id, Verified: inbox.Verified{Email: email}, DeliveryAttempt: len(email)}
		if _, err := s.store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for i, email := range []string{"a", "b", "a", ""} {
		put(fmt.Sprint(i), email)
	}
	names := func(html string) (names []string) {
		for _, m := range regexp.MustCompile(`by <bdi>([^<]*)</bdi>`).FindAllStringSubmatch(html, -1) {
			names = append(names, m[1])
		}
		return names
	}
	_, page := s.page(t, "/")
	if got := names(page); !slices.Equal(got, []string{"nobody", "b"}) {
		t.Errorf("the list names %q", got)
	}
	feed := html.UnescapeString(regexp.MustCompile(`data-feed="([^"]*)"`).FindStringSubmatch(page)[1])
	tl := s.tailOf(t, feed, "")
	put("5", "a")
	put("6", "cc")
	if first, second := tl.read(t), tl.read(t); len(names(first)) > 0 || !slices.Equal(names(second), []string{"cc"}) || !strings.Contains(second, "attempt 2") || strings.Contains(first, "attempt") {
		t.Errorf("the feed names %q and %q", names(first), names(second))
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	for at, want := range map[time.Time]string{
		now.Add(-time.Minute + 7*time.Millisecond): "Nov 26, 02:59:00.007 UTC",
		now.AddDate(0, -10, 0):                     "Jan 26, 03:00:00.000 UTC",
		now.AddDate(-1, 0, 0):                      "2025-11-26 03:00:00 UTC",
		now.AddDate(1, 0, 0):                       "2027-11-26 03:00:00 UTC",
	} {
		if got := clockAt(at, now); got != want {
			t.Errorf("%v is shown as %s, want %s", at, got, want)
		}
	}
	for age, want := range map[time.Duration]string{
		5 * time.Millisecond: "5ms", -2 * time.Second: "-2s", 90*time.Minute + time.Millisecond: "1h30m0s", 24 * time.Hour: "", 15863 * time.Hour: "",
	} {
		if got := delayText(&inbox.Message{PublishTime: now.Add(-age), ReceivedAt: now}); got != want {
			t.Errorf("a delay of %v is shown as %q, want %q", age, got, want)
		}
	}
}

// TestTrace links the trace of a message where there is one, and where it can be.
func TestTrace(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	local := both
	local.IsLocal = true
	for name, test := range map[string]struct {
		cfg           Config
		traceparent   string
		shown, linked bool
	}{
		"deployed":  {both, "00-" + id + "-b7ad6b7169203331-01", true, true},
		"local":     {local, "00-" + id + "-b7ad6b7169203331-01", true, false},
		"not_hex":   {both, "00-" + strings.Repeat("x", 32) + "-b7ad6b7169203331-01", false, false},
		"a_script":  {both, `00-"><script>alert(1)</script>-1-1`, false, false},
		"too_short": {both, "00-1-2-01", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, test.cfg)
			m := &inbox.Message{Source: "pubsub", MessageID: "1", Attributes: map[string]string{"googclient_traceparent": test.traceparent}}
			if _, err := s.store.Put(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			_, page := s.page(t, "/messages/"+inbox.ID("pubsub", "", "1"))
			link := `href="https://console.cloud.google.com/traces/list?project=p&amp;tid=` + id + `"`
			if strings.Contains(page, "<dt>Trace</dt>") != test.shown || strings.Contains(page, link) != test.linked {
				t.Errorf("shown %v, linked %v", strings.Contains(page, "<dt>Trace</dt>"), strings.Contains(page, link))
			}
		})
	}
}

// failing is a store that has a fixed error, or panics.
type failing struct {
	Store
	err error
}

func (f failing) Peek(context.Context, string) (*inbox.Message, error) { return nil, f.err }

func (f failing) List(context.Context, inbox.Query) (*inbox.Page, error) { return nil, f.err }

// TestErrorPages holds each error to what is true of it.
func TestErrorPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("x"))
	broken := newSite(t, both)
	broken.handler.store = failing{err: inbox.ErrUnavailable}
	full := newSite(t, both)
	full.handler.scans <- struct{}{}
	full.handler.scans <- struct{}{}
	reads := newSite(t, Config{Audience: audience, Readers: []string{reader}, Publishers: []string{publisherEmail}})
	stuck := newSite(t, both)
	stuck.topic.err = publisher.ErrUnavailable
	stuckID := stuck.put(t, "1", "s", []byte("x"))
	const (
		retention = "deleted after the retention period"
		lost      = "Nothing is lost"
		unknown   = "It is not known whether"
		nothing   = "Nothing was published"
	)
	for name, test := range map[string]struct {
		site         *site
		method, path string
		status       int
		says         string
	}{
		"no_message":        {s, "GET", "/messages/none", 404, retention},
		"no_such_address":   {s, "GET", "/nothing", 404, "may be mistyped"},
		"store_unavailable": {broken, "GET", "/", 503, lost},
		"message_not_read":  {broken, "GET", "/messages/" + id, 503, lost},
		"too_many_searches": {full, "GET", "/?text=x", 503, "Try again in a few seconds"},
		"page_token":        {s, "GET", "/?pageToken=x", 400, "cut off or was changed"},
		"wrong_method":      {s, "DELETE", "/messages/" + id, 405, "Use GET"},
		"replay_of_nothing": {s, "POST", "/messages/none:replay", 404, nothing},
		"replay_forbidden":  {reads, "POST", "/messages/" + id + ":replay", 403, "CONSOLE_PUBLISHERS"},
		"replay_uncertain":  {stuck, "POST", "/messages/" + stuckID + ":replay", 503, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := test.site.request(t, test.method, test.path, "")
			r.Header.Set("Accept", "text/html")
			resp, b := test.site.do(t, r)
			if resp.StatusCode != test.status || !bytes.Contains(b, []byte(test.says)) {
				t.Errorf("answered %d, without %q: %s", resp.StatusCode, test.says, b)
			}
			for _, other := range []string{retention, lost, unknown, nothing} {
				if other != test.says && bytes.Contains(b, []byte(other)) && test.says != "CONSOLE_PUBLISHERS" {
					t.Errorf("says %q", other)
				}
			}
		})
	}
}

// TestStoreIsDown opens pages while Firestore cannot be reached: each says so soon. A program,
// and a page of a store that is only slow, wait.
func TestStoreIsDown(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte("x"))
	down, err := firestoreinbox.Open(t.Context(), firestoreinbox.Config{
		Project: "p", Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour, EmulatorHost: "127.0.0.1:" + port.Reserve(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = down.Close() })
	if s.handler.patience > 3*time.Second {
		t.Errorf("a person waits for %v", s.handler.patience)
	}
	const patience = 300 * time.Millisecond
	up := s.handler.store
	s.handler.store, s.handler.patience = down, patience
	t.Run("down", func(t *testing.T) {
		for _, path := range []string{"/", "/?subscription=s", "/?q=" + id, "/messages/" + id, "/messages/" + id + "/older", "/messages/" + id + "/data"} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				start := time.Now()
				resp, page := s.page(t, path)
				if took := time.Since(start); took > patience+5*time.Second {
					t.Errorf("it takes %v", took)
				}
				if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(page, "The inbox cannot be reached") || !strings.Contains(page, ">Try again<") {
					t.Errorf("answered %d, Retry-After %q: %s", resp.StatusCode, resp.Header.Get("Retry-After"), page)
				}
			})
		}
		t.Run("program", func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
			defer cancel()
			if resp, err := http.DefaultClient.Do(s.request(t, http.MethodGet, "/messages", "").WithContext(ctx)); err == nil {
				t.Errorf("a program is answered %s", resp.Status)
			}
		})
	})
	s.handler.store = slow{up, 2 * patience}
	if resp, page := s.page(t, "/"); resp.StatusCode != http.StatusOK {
		t.Errorf("a slow store: answered %d %s", resp.StatusCode, page)
	}
}

// slow is a store whose lists take some time more.
type slow struct {
	Store
	by time.Duration
}

func (s slow) List(ctx context.Context, q inbox.Query) (*inbox.Page, error) {
	select {
	case <-time.After(s.by):
		return s.Store.List(ctx, q)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestRowsFollowThePage resumes the feed of rows from a page, and from a row.
func TestRowsFollowThePage(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	s.put(t, "1", "s", []byte("before"))
	_, page := s.page(t, "/?subscription=s")
	attribute := func(name string) string {
		found := regexp.MustCompile(name + `="([^"]*)"`).FindStringSubmatch(page)
		if found == nil {
			t.Fatalf("the page has no %s", name)
		}
		return strings.ReplaceAll(found[1], "&amp;", "&")
	}
	a := s.put(t, "2", "s", []byte("line\n\nevent: row\ndata: forged"))
	s.put(t, "3", "other", []byte("elsewhere"))
	b := s.put(t, "4\r\revent: row\n\ndata: forged\r\n", "s", []byte("<b>\r"))
	read := func(token string, n int) (ids []string, last string) {
		r := s.request(t, http.MethodGet, attribute("data-feed")+"&pageToken="+token, "")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var text strings.Builder
		buf := make([]byte, 1)
		for strings.Count(text.String(), "</tr>\n\n") < n {
			if _, err := io.ReadFull(resp.Body, buf); err != nil {
				t.Fatal(err, text.String())
			}
			text.Write(buf)
		}
		// As browsers read it: each of CR and LF ends a line, an empty one an
		// event.
		dispatched := 0
		for _, block := range regexp.MustCompile(`(?:\r\n|\r|\n){2}`).Split(text.String(), -1) {
			if strings.Contains(block, "data: ") {
				dispatched++
			}
			if strings.Contains(block, "data: ") && !strings.Contains(block, "event: row\ndata: <tr") {
				t.Errorf("an event of its own: %q", block)
			}
		}
		if dispatched != n || strings.Contains(text.String(), "<b>") {
			t.Errorf("%d events for %d messages: %q", dispatched, n, text.String())
		}
		for _, m := range regexp.MustCompile(`id="m-([0-9a-f]{40})"`).FindAllStringSubmatch(text.String(), -1) {
			ids = append(ids, m[1])
		}
		tokens := regexp.MustCompile(`(?m)^id: (.+)$`).FindAllStringSubmatch(text.String(), -1)
		return ids, tokens[1][1]
	}
	ids, afterA := read(attribute("data-token"), 2)
	if !slices.Equal(ids, []string{a, b}) {
		t.Errorf("the feed from the page has %q", ids)
	}
	if ids, _ = read(afterA, 1); !slices.Equal(ids, []string{b}) {
		t.Errorf("the feed after a row has %q", ids)
	}
}

// BenchmarkFirstPage measures the server's time for the page of the newest
// messages among 100,000 in the embedded inbox.
func BenchmarkFirstPage(b *testing.B) {
	store, err := boltinbox.Open(filepath.Join(b.TempDir(), "inbox.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	data, err := json.Marshal(map[string]any{"order": "A-10441", "items": []string{"mug-blue", "tea-earl-grey"}, "note": strings.Repeat("please ", 100)})
	if err != nil {
		b.Fatal(err)
	}
	const messages, writers = 100_000, 500
	failed := make(chan error, writers)
	for i := range writers {
		go func() {
			for j := i; j < messages; j += writers {
				if _, err := store.Put(b.Context(), &inbox.Message{
					Source: inbox.SourcePubSub, Subscription: "projects/p/subscriptions/s", MessageID: fmt.Sprint(j), Data: data,
					Attributes: map[string]string{"kind": "order"}, Verified: inbox.Verified{Email: "push@p.iam.gserviceaccount.com"},
				}); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range writers {
		if err := <-failed; err != nil {
			b.Fatal(err)
		}
	}
	issuer, verifier := google.Issuer(b)
	h, err := New(both, verifier, store, &topic{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	token := google.Token(b, issuer, audience, reader)
	var took []time.Duration
	var size int
	for b.Loop() {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		start := time.Now()
		h.ServeHTTP(w, r)
		took = append(took, time.Since(start))
		if size = w.Body.Len(); w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
	b.ReportMetric(float64(size), "page-bytes")
}
