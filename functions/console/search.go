package console

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"example.com/pushinbox/shared/inbox"
)

// The search box of the page takes what people have at hand: an ID, key=value,
// since:2h, plain words. It becomes the parameters of the API, which the address bar
// then shows, and back.

// words are the names that stand before a colon in the search box, each with the
// parameter it sets.
var words = map[string]string{
	"id": "messageId", "messageid": "messageId",
	"key": "orderingKey", "orderingkey": "orderingKey",
	"order": "order", "quarantined": "quarantined", "since": "since", "source": "source",
	"sub": "subscription", "subscription": "subscription", "text": "text", "until": "until",
}

// messageIDs is what the IDs of messages look like: those of Pub/Sub, the hashes
// of bare and quarantined pushes, and those of MNS.
var messageIDs = regexp.MustCompile(`^([0-9]{10,20}|sha256-[0-9a-f]{64}|[0-9a-f]{64}|[0-9A-F]{32}|[0-9A-F]{16}(-[0-9A-F]{1,16}){2,4})$`)

// parseSearch returns the parameters of the API that a search stands for.
func parseSearch(search string) url.Values {
	v := url.Values{}
	var text []string
	terms := termsOf(search)
	for _, t := range terms {
		name, isWord := words[strings.ToLower(t.before)]
		switch {
		case t.mark == ':' && isWord && t.after != "":
			// Twice the same is for the API to refuse.
			v.Add(name, t.after)
		case t.mark == '=' && t.before != "":
			v.Add("attribute."+t.before, t.after)
		case len(terms) == 1 && !t.quoted && messageIDs.MatchString(t.all):
			v.Set("messageId", t.all)
		default:
			text = append(text, t.all)
		}
	}
	if len(text) > 0 {
		v.Add("text", strings.Join(text, " "))
	}
	return v
}

// searchOf returns the search that stands for parameters of the API. What it
// returns, parseSearch turns into the same parameters.
func searchOf(v url.Values) string {
	var terms []string
	for _, name := range []string{"messageId", "source", "subscription", "orderingKey", "since", "until", "order", "quarantined"} {
		if value := v.Get(name); value != "" {
			short := map[string]string{"messageId": "id", "orderingKey": "key"}[name]
			if short == "" {
				short = name
			}
			terms = append(terms, short+":"+quoted(value, ""))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if key, ok := strings.CutPrefix(name, "attribute."); ok {
			terms = append(terms, quoted(key, ":=")+"="+quoted(v.Get(name), ""))
		}
	}
	if text := v.Get("text"); text != "" {
		isPlain := strings.Join(strings.Fields(text), " ") == text && !strings.ContainsAny(text, `":=\`) && !messageIDs.MatchString(text) && !inbox.ValidID(text)
		if !isPlain {
			text = quoted(text, ":=") // as one term
			if text[0] != '"' {
				text = `"` + text + `"`
			}
		}
		terms = append(terms, text)
	}
	return strings.Join(terms, " ")
}

// quoted returns s as a part of a term, in quotes where it has white space, quotes
// or one of the marks.
func quoted(s, marks string) string {
	if s != "" && !strings.ContainsAny(s, `"\`+marks) && strings.IndexFunc(s, unicode.IsSpace) < 0 {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// term is a part of a search between white space.
type term struct {
	all string // without quotes
	// mark is the first : or = outside of quotes, or 0, between before and after.
	mark          rune
	before, after string
	quoted        bool
}

// termsOf divides a search at white space outside of quotes. Within quotes, a
// backslash takes the next character as it is; quotes need not end.
func termsOf(search string) []term {
	var terms []term
	var all strings.Builder
	var t term
	begun, inQuotes, isEscaped, at := false, false, false, 0
	end := func() {
		if begun {
			if t.all = all.String(); t.mark != 0 {
				t.before, t.after = t.all[:at], t.all[at+1:]
			}
			terms = append(terms, t)
		}
		all.Reset()
		t, begun = term{}, false
	}
	for _, c := range search {
		switch {
		case isEscaped:
			all.WriteRune(c)
			isEscaped = false
		case inQuotes && c == '\\':
			isEscaped = true
		case c == '"':
			inQuotes, begun, t.quoted = !inQuotes, true, true
		case !inQuotes && unicode.IsSpace(c):
			end()
		default:
			if !inQuotes && t.mark == 0 && (c == ':' || c == '=') {
				t.mark, at = c, all.Len()
			}
			all.WriteRune(c)
			begun = true
		}
	}
	end()
	return terms
}

// filter is the parameters of a list without its place in it.
type filter url.Values

// filterOf returns those of v that are set. An attribute's value may be empty.
func filterOf(v url.Values) filter {
	f := filter{}
	for name, values := range v {
		isAttribute := strings.HasPrefix(name, "attribute.")
		if isAttribute || values[0] != "" && name != "pageToken" && slices.Contains(inbox.Parameters, name) {
			f[name] = values[:1]
		}
	}
	return f
}

// isSet reports whether f leaves messages out.
func (f filter) isSet() bool {
	for name := range f {
		if name != "pageSize" && name != "order" {
			return true
		}
	}
	return false
}

// at returns the address of path with f and further parameters, each a name and a
// value, in place of those in f; one without a value is left out.
func (f filter) at(path string, pairs ...string) string {
	v := url.Values(maps.Clone(f))
	for i := 0; i < len(pairs); i += 2 {
		if v[pairs[i]] = []string{pairs[i+1]}; pairs[i+1] == "" && !strings.HasPrefix(pairs[i], "attribute.") {
			delete(v, pairs[i])
		}
	}
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}
