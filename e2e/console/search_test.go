package console

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"example.com/pushinbox/shared/inbox"
)

// slash presses the key for the search. Its character comes with the key, as from a
// keyboard, or the page could not keep it out of the box.
func (w *window) slash() {
	w.t.Helper()
	key := input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: "/", Code: "Slash", Text: "/", WindowsVirtualKeyCode: 191}
	up := key
	up.Type, up.Text = input.DispatchKeyEventTypeKeyUp, ""
	w.do(call(input.DispatchKeyEvent, key), call(input.DispatchKeyEvent, up))
}

// search types a search as a person does, and waits for its list.
func (w *window) search(typed string) {
	w.t.Helper()
	w.do(chromedp.Evaluate[chromedp.Void](`document.body.dataset.before = "1"`))
	w.slash()
	w.keys(typed, kb.Enter)
	w.until(`!document.body.dataset.before && document.readyState === "complete" && document.querySelector("#search")`)
}

// data are the data of the rows, from the top.
func (w *window) data() []string {
	w.t.Helper()
	return eval[[]string](w, `[...document.querySelectorAll("#rows td.c-data bdi:last-child")].map(e => e.innerText)`)
}

// TestSearch types what people search for.
func TestSearch(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.publish(t, message{Data: []byte("order A is paid"), Attributes: map[string]string{"kind": "order", "customer": "Ada Lovelace"}})[0]
	for i, m := range []message{
		{Data: []byte("order B is open"), Attributes: map[string]string{"kind": "order"}, OrderingKey: "k1"},
		{Data: []byte("invoice C is Paid"), Attributes: map[string]string{"kind": "invoice"}},
	} {
		s.stored(t, i+1)
		s.publish(t, m)
	}
	s.stored(t, 3)
	s.push(t, "projects/p/subscriptions/other", "1", "from elsewhere")
	first := s.stored(t, 4)[3]
	a, b, c, other := "order A is paid", "order B is open", "invoice C is Paid", "from elsewhere"
	w := s.open(t, desk)
	w.live()
	for _, test := range []struct {
		typed, query string
		want         []string
	}{
		{id, "?messageId=" + id, []string{a}},
		{"kind=order", "?attribute.kind=order", []string{b, a}},
		{`customer="Ada Lovelace"`, "?attribute.customer=Ada+Lovelace", []string{a}},
		{"since:2h", "?since=2h", []string{other, c, b, a}},
		{"until:2h", "?until=2h", nil},
		{"subscription:other", "?subscription=other", []string{other}},
		{"source:pubsub key:k1", "?orderingKey=k1&source=pubsub", []string{b}},
		{"paid", "?text=paid", []string{c, a}},
		{"is paid kind=order since:2h", "?attribute.kind=order&since=2h&text=is+paid", []string{a}},
		{"order:asc kind=order", "?attribute.kind=order&order=asc", []string{a, b}},
	} {
		w.search(test.typed)
		if query, rows := eval[string](w, `location.search`), w.data(); query != test.query || !slices.Equal(rows, test.want) {
			t.Errorf("%s: %s shows %q, want %s and %q", test.typed, query, rows, test.query, test.want)
		}
		// What was found is not a coincidence: the box and the fields say what it is.
		if eval[string](w, `document.querySelector("#search").value`) == "" {
			t.Errorf("%s: the box is empty", test.typed)
		}
	}
	w.search("since:yesterday")
	if got := eval[string](w, `document.querySelector("#search-problem")?.innerText + document.querySelector("#search").value`); !strings.Contains(got, "yesterday") || !strings.Contains(got, "7d") || !strings.HasSuffix(got, "since:yesterday") {
		t.Errorf("a bad search shows %q", got)
	}
	// An ID of the inbox opens its message.
	w.slash()
	w.keys(first.ID, kb.Enter)
	w.until(`location.pathname === "/messages/` + first.ID + `"`)

	// Down to the second one that was found, open it, go on to the older one and
	// no further, and back to where it stands.
	w.visit("/")
	w.search("is")
	w.keys("j", "j")
	w.until(`document.activeElement.innerText.includes("order B")`)
	w.keys("j", "k", kb.Enter)
	shows := func(data string) {
		t.Helper()
		w.until(fmt.Sprintf(`location.pathname.startsWith("/messages/") && document.readyState === "complete" && document.querySelector("pre")?.innerText === %q`, data))
	}
	shows(b)
	w.keys("j")
	shows(a)
	w.keys("j")
	w.until(`document.querySelector("#end")?.innerText === "Nothing older is in this search." && document.readyState === "complete"`)
	w.keys("k")
	shows(b)
	w.keys(kb.Escape)
	w.until(`location.pathname === "/" && document.querySelector("tr.current")?.innerText.includes("order B")`)
	if got := w.data(); !slices.Equal(got, []string{c, b, a}) {
		t.Errorf("back in the search: %q", got)
	}
	// Links in a row narrow the search.
	w.do(chromedp.Click("#rows .c-from a.same"))
	w.until(`location.search.includes("subscription=projects") && location.search.includes("text=is")`)
}

// TestBackToWhereItWas opens a message of the live list, lets a hundred more arrive,
// and goes back to it.
func TestBackToWhereItWas(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, data := range []string{"before", "it", "after"} {
		s.publish(t, message{Data: []byte(data)})
		s.stored(t, 1)
	}
	s.stored(t, 3)
	w := s.open(t, desk)
	w.do(chromedp.Click("#rows tr:nth-child(2) a"))
	w.until(`document.querySelector("#back") && document.readyState === "complete"`)
	messages := make([]message, 100)
	for i := range messages {
		messages[i] = message{Data: fmt.Append(nil, i)}
	}
	s.publish(t, messages...)
	all := idsOf(s.stored(t, 103))
	id := strings.TrimPrefix(eval[string](w, `location.pathname`), "/messages/")
	w.keys(kb.Escape)
	w.until(`document.querySelector("tr.current")?.id === "m-` + id + `" && document.readyState === "complete"`)
	if got, at := w.rows(), slices.Index(all, id); !slices.Equal(got, all[at-4:]) {
		t.Errorf("around message %d of %d the list has %d rows", at, len(all), len(got))
	}
	if eval[bool](w, `document.querySelector("#live") !== null`) {
		t.Error("an older page claims to be live")
	}
}

// TestMessagePage folds, finds, wraps and copies.
func TestMessagePage(t *testing.T) {
	t.Parallel()
	s := start(t)
	attributes := map[string]string{}
	for i := range 98 {
		attributes[fmt.Sprintf("a%02d", i)] = "v"
	}
	attributes["it's"] = "`$(touch x)`\u202e"
	data := `{"name": "Zo\u00eb", "items": [{"sku": "mug"}, {"sku": "tea"}], "long": "` + strings.Repeat("tea ", 200) + `"}`
	s.publish(t, message{Data: []byte(data), Attributes: attributes})
	m := s.stored(t, 1)[0]
	w := openCopying(t, s.base, desk)
	w.visit("/messages/" + m.ID)
	selected := func() string {
		return eval[string](w, `getSelection().selectAllChildren(document.querySelector("pre")), getSelection().toString()`)
	}
	if got := selected(); !strings.HasPrefix(got, "{\n  \"name\": \"Zoë\",\n  \"items\": [\n    {\n") {
		t.Errorf("the JSON is shown as %.100s", got)
	}
	w.do(chromedp.Click("#fold"))
	if got := eval[string](w, `document.querySelector("pre").innerText`); strings.Contains(got, "mug") || !strings.Contains(got, `"items": [`) || eval[float64](w, `document.querySelector("details details summary").offsetHeight`) > 30 {
		t.Errorf("folded: %.100q", got)
	}
	w.slash()
	w.keys("MUG", kb.Enter)
	w.until(`document.querySelector("#found").innerText === "1 of 1" && CSS.highlights.get("found").size === 1`)
	if got := eval[string](w, `document.querySelector("pre").innerText`); !strings.Contains(got, "mug") {
		t.Errorf("what was found stays folded: %.100s", got)
	}
	w.keys(kb.Escape)
	w.slash()
	w.keys(`"sku": "tea`, kb.Enter)
	w.until(`document.querySelector("#found").innerText === "1 of 1"`)
	w.do(chromedp.Click("#wrap"))
	if !eval[bool](w, `document.querySelector("pre").scrollWidth > document.querySelector("pre").clientWidth + 1000`) {
		t.Error("lines wrap that should not")
	}
	copied := func(kind string) string {
		t.Helper()
		w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#copied").textContent = ""`), chromedp.Click(`[data-copy="`+kind+`"]`))
		w.until(`document.querySelector("#copied").textContent.startsWith("Copied ")`)
		return eval[string](w, `navigator.clipboard.readText()`)
	}
	if got := copied("id"); got != m.MessageID {
		t.Errorf("the copied ID is %s", got)
	}
	if got := copied("data"); got != data {
		t.Errorf("the copied data are %.100s", got)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(copied("attributes")), &got); err != nil || len(got) != 99 || got["it's"] != attributes["it's"] {
		t.Errorf("the copied attributes: %d, %v", len(got), err)
	}
	command := copied("curl")
	body, end, _ := strings.Cut(strings.TrimPrefix(command, "curl -H 'Content-Type: application/json' -d '"), `' "${URL:-http://localhost:8080/}"`)
	var push struct {
		Message struct {
			Data       []byte
			Attributes map[string]string
		}
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(body, `'\''`, "'")), &push); err != nil || end != "" || string(push.Message.Data) != data || push.Message.Attributes["it's"] != attributes["it's"] ||
		strings.Contains(strings.ReplaceAll(body, `'\''`, ""), "'") || strings.ContainsFunc(command, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Errorf("the copied command is %.300s, %v", command, err)
	}
	if n := eval[[]int](w, `[document.querySelectorAll("dl.attributes dt").length, [...document.querySelectorAll("dl.attributes dt")].filter(e => e.checkVisibility()).length]`); !slices.Equal(n, []int{99, 12}) {
		t.Errorf("of the attributes are there and seen %v", n)
	}

	// A replay leads to its original, and that to the replay.
	w.do(chromedp.Click("#replay"))
	w.until(`document.querySelector("dialog").open`)
	w.keys(kb.Enter)
	w.until(`document.querySelector("#replay-result a")`)
	again := s.stored(t, 2)[0].ID
	w.do(chromedp.Click("#replay-result a"))
	w.until(`location.search.startsWith("?messageId=") && document.querySelector("#m-` + again + ` a")`)
	w.visit("/messages/" + m.ID)
	w.do(chromedp.Click("a.replayed"))
	w.until(`location.pathname === "/messages/` + again + `"`)

	// A time of another year has its year.
	s.pushBody(t, fmt.Sprintf(`{"subscription": "projects/p/subscriptions/s", "message": {"messageId": "9", "publishTime": "2024-12-31T12:00:00Z", "data": %q}}`,
		base64.StdEncoding.EncodeToString([]byte("old"))))
	s.stored(t, 3)
	w.visit("/messages/" + inbox.ID("pubsub", "projects/p/subscriptions/s", "9"))
	if text := w.state(); !strings.Contains(text, "2024") || strings.Contains(text, "Delay") {
		t.Errorf("a message that was published years ago: %s", text)
	}
}
