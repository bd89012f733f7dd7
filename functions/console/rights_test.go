package console

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/delivery"
)

const (
	publisherEmail = "publisher@example.com"
	visitor        = "visitor@example.com"
)

// TestRights holds every route against every right. Without publishers the
// readers may publish and IAP's visitors only read; with some, only those.
func TestRights(t *testing.T) {
	t.Parallel()
	listed := both
	listed.Readers = []string{reader, publisherEmail}
	listed.Publishers = []string{publisherEmail}
	onlyIAP := Config{IAPAudience: iapAudience}
	iapListed := Config{IAPAudience: iapAudience, Publishers: []string{publisherEmail}}
	token := func(email string) map[string]any { return map[string]any{"aud": audience, "email": email} }
	assertion := func(email string) map[string]any { return map[string]any{"aud": iapAudience, "email": email} }
	from := func(email, subject string) map[string]any {
		return map[string]any{"aud": iapAudience, "email": email, "sub": subject}
	}
	const nobody, reads, publishes = 401, 403, 200
	for name, test := range map[string]struct {
		cfg     Config
		id, iap map[string]any
		right   int // the status of publishing
	}{
		"nobody":                          {listed, nil, nil, nobody},
		"nobody_by_iap":                   {iapListed, nil, nil, nobody},
		"reader_by_default":               {both, token(reader), nil, publishes},
		"reader_only":                     {listed, token(reader), nil, reads},
		"publisher":                       {listed, token(publisherEmail), nil, publishes},
		"iap_visitor_by_default":          {both, nil, assertion(visitor), reads},
		"iap_reader_by_default":           {both, nil, assertion(reader), reads},
		"iap_alone_visitor":               {onlyIAP, nil, assertion(visitor), reads},
		"iap_visitor":                     {listed, nil, assertion(visitor), reads},
		"iap_publisher":                   {listed, nil, assertion(publisherEmail), publishes},
		"iap_alone_publisher":             {iapListed, nil, assertion(publisherEmail), publishes},
		"iap_publisher_of_other_case":     {iapListed, nil, assertion("Publisher@example.com"), reads},
		"iap_publisher_with_a_prefix":     {iapListed, nil, assertion("accounts.google.com:" + publisherEmail), reads},
		"iap_without_email":               {iapListed, nil, from("", "accounts.google.com:1"), reads},
		"iap_email_of_another_provider":   {iapListed, nil, from(publisherEmail, "securetoken.google.com/p/t:1"), reads},
		"iap_email_without_a_provider":    {iapListed, nil, from(publisherEmail, "1"), reads},
		"iap_visitor_with_a_token_beside": {listed, token(publisherEmail), assertion(visitor), reads},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, test.cfg)
			id := s.put(t, "1", "s", []byte("x"))
			for _, path := range []string{"/", "/messages", "/messages/" + id, "/messages/" + id + "/data", "/events", "/rows", "/assets/console.js"} {
				r := s.request(t, http.MethodGet, path, "")
				s.as(t, r, test.id, test.iap)
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if want := map[bool]int{true: 200, false: 401}[test.right != nobody]; resp.StatusCode != want {
					t.Errorf("GET %s: answered %d, want %d", path, resp.StatusCode, want)
				}
			}
			for _, path := range []string{"/messages", "/messages/" + id + ":replay"} {
				for _, accept := range []string{"", "text/html"} {
					r := s.request(t, http.MethodPost, path, "payload=hi")
					s.as(t, r, test.id, test.iap)
					r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					r.Header.Set("Accept", accept)
					before := len(s.topic.sent)
					resp, b := s.do(t, r)
					done := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusSeeOther
					if done != (test.right == publishes) || !done && resp.StatusCode != test.right || len(s.topic.sent)-before != map[bool]int{true: 1}[done] {
						t.Errorf("POST %s for %q: answered %d %s", path, accept, resp.StatusCode, b)
					}
					if test.right == reads && !bytes.Contains(b, []byte("CONSOLE_PUBLISHERS")) {
						t.Errorf("the refusal does not say what to do: %s", b)
					}
					if kind := resp.Header.Get("Content-Type"); !done && accept == "" && kind != "application/problem+json" {
						t.Errorf("refused as %s", kind)
					}
				}
			}
		})
	}
}

// TestRoutesAndRights asks for every route there is as everybody there is, and holds
// the answers against the table in docs/api.md. What is not written there, nobody may.
func TestRoutesAndRights(t *testing.T) {
	t.Parallel()
	listed := both
	listed.Readers = []string{reader, publisherEmail}
	listed.Publishers = []string{publisherEmail}
	listed.DeadLetters = "projects/p/subscriptions/dead"
	s := newSite(t, listed)
	s.handler.reports = newReports(told(func(context.Context) (*delivery.Report, error) { return inTrouble(), nil }), slog.New(slog.DiscardHandler))
	id := s.put(t, "1", "s", []byte("x"))
	who := []struct {
		name    string
		id, iap map[string]any
	}{
		{"nobody", nil, nil},
		{"another account", map[string]any{"aud": audience, "email": visitor}, nil},
		{"reader", map[string]any{"aud": audience, "email": reader}, nil},
		{"IAP visitor", nil, map[string]any{"aud": iapAudience, "email": visitor}},
		{"publisher", map[string]any{"aud": audience, "email": publisherEmail}, nil},
		{"IAP publisher", nil, map[string]any{"aud": iapAudience, "email": publisherEmail}},
	}
	ask := func(method, path string, as int) (status, sent int) {
		before := len(s.topic.sent)
		r := s.request(t, method, path, "payload=hi")
		s.as(t, r, who[as].id, who[as].iap)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // a feed has no end
		return resp.StatusCode, len(s.topic.sent) - before
	}
	address := strings.NewReplacer("{$}", "", "{id}", id, "{idReplay}", id+":replay", "{name}", "console.css")
	table := "| route |"
	for _, w := range who {
		table += " " + w.name + " |"
	}
	table += "\n| --- |" + strings.Repeat(" --- |", len(who)) + "\n"
	patterns := s.handler.patterns()
	for _, pattern := range slices.SortedFunc(maps.Keys(patterns), func(a, b string) int {
		_, x, _ := strings.Cut(a, " ")
		_, y, _ := strings.Cut(b, " ")
		return cmp.Or(strings.Compare(x, y), strings.Compare(a, b))
	}) {
		method, path, _ := strings.Cut(pattern, " ")
		table += "| `" + method + " " + strings.NewReplacer("{$}", "", "{idReplay}", "{id}:replay").Replace(path) + "` |"
		for as := range who {
			status, sent := ask(method, address.Replace(path), as)
			table += fmt.Sprintf(" %d |", status)
			if may := method == "POST" && status < 300; (sent == 1) != may || sent > 1 {
				t.Errorf("%s as %s: answered %d, and %d messages were published", pattern, who[as].name, status, sent)
			}
			// No other method does anything there.
			for _, other := range []string{"HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				if patterns[other+" "+path] != nil || other == "POST" && path == "/messages/{id}" {
					continue
				}
				if status, sent := ask(other, address.Replace(path), as); sent > 0 || other != "HEAD" && status < 400 {
					t.Errorf("%s %s as %s: answered %d, and %d messages were published", other, path, who[as].name, status, sent)
				}
			}
		}
		table += "\n"
	}
	doc, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), table) {
		t.Errorf("docs/api.md has another table than this one:\n%s", table)
	}
}

// TestPageOffersWhatIsAllowed looks for the form and the button in the pages of
// one who may only read, and of one who may publish.
func TestPageOffersWhatIsAllowed(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{IAPAudience: iapAudience, Publishers: []string{publisherEmail}})
	page := func(email, path string) string {
		r := s.request(t, http.MethodGet, path, "")
		r.Header.Set("Accept", "text/html")
		s.as(t, r, nil, map[string]any{"aud": iapAudience, "email": email})
		resp, b := s.do(t, r)
		if resp.StatusCode != http.StatusOK || !bytes.Contains(b, []byte("<bdi>"+email+"</bdi>")) {
			t.Errorf("%s of %s: answered %d, without the name", path, email, resp.StatusCode)
		}
		return string(b)
	}
	check := func(path string, marks ...string) {
		for _, mark := range marks {
			if strings.Contains(page(visitor, path), mark) || !strings.Contains(page(publisherEmail, path), mark) {
				t.Errorf("%s: %s is not for publishers alone", path, mark)
			}
		}
	}
	check("/?published=1", `id="publish-form"`, "Publish one above", `Published as message <a href="/?messageId=1">1`)
	check("/messages/"+s.put(t, "1", "s", []byte("x")), `id="replay"`, `id="replay-dialog"`, `id="replay-result"`)
}

// logLines passes on each line of a log.
type logLines chan []byte

func (l logLines) Write(line []byte) (int, error) {
	l <- bytes.Clone(line)
	return len(line), nil
}

// TestLogSaysWhoPublished holds the log to one line for each publish and
// replay, with who did it, on what, and how it ended.
func TestLogSaysWhoPublished(t *testing.T) {
	t.Parallel()
	type line struct{ Principal, Action, Target, Outcome string }
	cfg := Config{Project: "p", Topic: "inbox", IAPAudience: iapAudience, Publishers: []string{publisherEmail}}
	lines := make(logLines, 10)
	s := newLoggedSite(t, cfg, slog.New(slog.NewJSONHandler(lines, nil)))
	id := s.put(t, "1", "s", []byte("x"))
	for name, test := range map[string]struct {
		email, method, path, body string
		want                      line
	}{
		"read":               {visitor, "GET", "/messages", "", line{Principal: visitor}},
		"publish":            {publisherEmail, "POST", "/messages", "payload=secret", line{publisherEmail, "publish", "inbox", "published"}},
		"publish_malformed":  {publisherEmail, "POST", "/messages", "attributes=x", line{publisherEmail, "publish", "inbox", "refused"}},
		"publish_refused":    {visitor, "POST", "/messages", "payload=secret", line{visitor, "publish", "inbox", "refused"}},
		"replay":             {publisherEmail, "POST", "/messages/" + id + ":replay", "", line{publisherEmail, "replay", id, "published"}},
		"replay_of_nothing":  {publisherEmail, "POST", "/messages/none:replay", "", line{publisherEmail, "replay", "none", "refused"}},
		"replay_refused":     {visitor, "POST", "/messages/" + id + ":replay", "", line{visitor, "replay", id, "refused"}},
		"nothing_to_publish": {publisherEmail, "POST", "/messages/" + id, "", line{Principal: publisherEmail}},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.request(t, test.method, test.path, test.body)
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			s.as(t, r, nil, map[string]any{"aud": iapAudience, "email": test.email})
			s.do(t, r)
			raw := <-lines
			var got line
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if bytes.Contains(raw, []byte("secret")) {
				t.Errorf("the payload is in the log: %s", raw)
			}
		})
	}
	// What fails on our side is told apart from what is refused.
	s.topic.err = io.ErrUnexpectedEOF
	r := s.request(t, "POST", "/messages", "payload=hi")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	s.as(t, r, nil, map[string]any{"aud": iapAudience, "email": publisherEmail})
	s.do(t, r)
	var got line
	if err := json.Unmarshal(<-lines, &got); err != nil || got.Outcome != "failed" {
		t.Errorf("a failure is logged as %+v, %v", got, err)
	}
	if len(lines) > 0 {
		t.Errorf("one line too many: %s", <-lines)
	}
}
