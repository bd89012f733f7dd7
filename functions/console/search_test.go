package console

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/inbox"
)

func TestParseSearch(t *testing.T) {
	t.Parallel()
	one := func(name, value string) url.Values { return url.Values{name: {value}} }
	id := strings.Repeat("0f", 20)
	for search, want := range map[string]url.Values{
		"":                                  {},
		"  ":                                {},
		"paid":                              one("text", "paid"),
		"is  paid ":                         one("text", "is paid"),
		`"is  paid"`:                        one("text", "is  paid"),
		"2070443601311540":                  one("messageId", "2070443601311540"),
		`"2070443601311540"`:                one("text", "2070443601311540"),
		"2070443601311540 paid":             one("text", "2070443601311540 paid"),
		"41233":                             one("text", "41233"),
		"id:41233":                          one("messageId", "41233"),
		"messageId:x":                       one("messageId", "x"),
		"sha256-" + strings.Repeat("a", 64): one("messageId", "sha256-"+strings.Repeat("a", 64)),
		id:                                  one("text", id),
		"kind=order":                        one("attribute.kind", "order"),
		"kind=":                             one("attribute.kind", ""),
		"kind=a=b:c":                        one("attribute.kind", "a=b:c"),
		`"a key"="a value"`:                 one("attribute.a key", "a value"),
		`"a:b"=c`:                           one("attribute.a:b", "c"),
		`kind="a \"b\" \\"`:                 one("attribute.kind", `a "b" \`),
		"=x":                                one("text", "=x"),
		"https://example.com/?a=b":          one("text", "https://example.com/?a=b"),
		"10:30":                             one("text", "10:30"),
		"since:":                            one("text", "since:"),
		"since:2h":                          one("since", "2h"),
		"Since:2026-11-26T02:10:00Z":        one("since", "2026-11-26T02:10:00Z"),
		"since:2h since:3h":                 {"since": {"2h", "3h"}},
		"sub:a key:b source:mns until:1h quarantined:true order:asc x": {
			"subscription": {"a"}, "orderingKey": {"b"}, "source": {"mns"}, "until": {"1h"}, "quarantined": {"true"}, "order": {"asc"}, "text": {"x"},
		},
		`"open quote`: one("text", "open quote"),
		"text:kind=x": one("text", "kind=x"),
	} {
		if diff := cmp.Diff(want, parseSearch(search)); diff != "" {
			t.Errorf("%s: %s", search, diff)
		}
	}
}

// FuzzSearch turns parameters into a search and back, and any search into parameters
// and back.
func FuzzSearch(f *testing.F) {
	f.Add(`a "b=c" d:e since:2h`, "kind", "a b", "text", "2070443601311540")
	f.Add(`"`, `k"ey`, `\`, ":=", "sub:x")
	f.Add("\u00a0x\u2028", "a=b", "", `"`, "\t")
	f.Fuzz(func(t *testing.T, search, key, value, text, id string) {
		for _, s := range []*string{&search, &key, &value, &text, &id} {
			*s = strings.ToValidUTF8(*s, "")
		}
		v := url.Values{"text": {text}, "messageId": {id}, "subscription": {value}, "since": {"2h"}}
		if key != "" {
			v.Set("attribute."+key, value)
		}
		v = url.Values(filterOf(v))
		if diff := cmp.Diff(v, parseSearch(searchOf(v))); diff != "" {
			t.Errorf("%q: %s", searchOf(v), diff)
		}
		v = parseSearch(search)
		for name, values := range v {
			if len(values) > 1 || values[0] == "" && !strings.HasPrefix(name, "attribute.") {
				return
			}
		}
		if again := parseSearch(searchOf(v)); !cmp.Equal(v, again) {
			t.Errorf("%q is %v, and as %q %v", search, v, searchOf(v), again)
		}
		_, _ = inbox.ParseQuery(v, time.Now())
	})
}
