package console

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/testkit/relay"
)

func TestPublishedMessageArrivesInAnotherWindow(t *testing.T) {
	t.Parallel()
	s := start(t)
	w, other := s.open(t, desk), s.open(t, desk)
	w.live()
	other.live()
	if !eval[bool](other, `document.querySelector("table").hidden && document.querySelector("#empty").innerText.includes("No message has arrived yet")`) {
		t.Error("an empty inbox does not say so")
	}
	w.do(
		chromedp.Click("#publish summary"),
		chromedp.SendKeys("#payload", "Hello from a form"),
		chromedp.SendKeys("#attributes", "kind=greeting\nlang=en"),
		chromedp.SendKeys("#ordering-key", "k1"),
		chromedp.Click("#publish-form button"),
	)
	w.until(`document.querySelector("#publish-result").textContent.startsWith("Published as message ")`)
	for _, w := range []*window{other, w} {
		w.until(`document.querySelectorAll("#rows tr").length === 1`)
		row := eval[string](w, `document.querySelector("#rows tr").innerText`)
		for _, want := range []string{"Hello from a form", "Pub/Sub", "inbox-push", "17 B"} {
			if !strings.Contains(row, want) {
				t.Errorf("the row %q does not show %q", row, want)
			}
		}
	}
	if cut := eval[[]string](w, `["td.c-time", "td.c-id", "td.c-from", "td.c-size"].filter(s => { const e = document.querySelector(s); return e.scrollWidth > e.clientWidth; })`); len(cut) > 0 {
		t.Errorf("not all of %q is to be seen", cut)
	}
	if !eval[bool](w, `document.querySelector("#publish-result").textContent.includes(document.querySelector("td.c-id").innerText)`) {
		t.Error("the form names another message ID than the row")
	}

	// The form leads to the message that arrived.
	w.until(`document.querySelector("#publish-result a").href === document.querySelector("#rows a").href`)

	// A refusal is told where the form is, and what was typed stays.
	w.do(chromedp.SendKeys("#attributes", "\nnot a pair"), chromedp.Click("#publish-form button"))
	w.until(`document.querySelector("#publish-result.bad")?.textContent === "Refused (400): line 3 of attributes is not key=value."`)
	if got := eval[string](w, `document.querySelector("#payload").value`); got != "Hello from a form" {
		t.Errorf("after a refusal the payload is %q", got)
	}
}

func TestFilterAndPages(t *testing.T) {
	t.Parallel()
	s := start(t)
	for i := range 120 {
		s.push(t, fmt.Sprintf("projects/p/subscriptions/sub-%d", i%3), fmt.Sprint(i), fmt.Sprintf("message %d", i))
	}
	all := s.stored(t, 120)
	ids := func(part []stored) (ids []string) {
		for _, m := range part {
			ids = append(ids, m.ID)
		}
		return ids
	}
	w := s.open(t, desk)
	w.live()
	if diff := cmp.Diff(ids(all[:50]), w.rows()); diff != "" {
		t.Error("first page:", diff)
	}
	follow := func(id string) {
		before := eval[string](w, `location.href`)
		w.do(chromedp.Click(id))
		w.until(fmt.Sprintf(`location.href !== %q && document.readyState === "complete"`, before))
	}
	follow("#older")
	if diff := cmp.Diff(ids(all[50:100]), w.rows()); diff != "" {
		t.Error("second page:", diff)
	}
	if eval[bool](w, `document.querySelector("#live") !== null`) {
		t.Error("an older page claims to be live")
	}
	follow("#older")
	if diff := cmp.Diff(ids(all[100:]), w.rows()); diff != "" {
		t.Error("last page:", diff)
	}
	if eval[bool](w, `!document.querySelector("#older").hidden`) {
		t.Error("the last page leads further")
	}
	follow(`a[href="/"]:not(.brand)`)

	w.do(chromedp.Click("#fields summary"), chromedp.SendKeys("#subscription", "sub-1"))
	follow("#filters button")
	w.live()
	var of1 []string
	for i, m := range all {
		if (119-i)%3 == 1 {
			of1 = append(of1, m.ID)
		}
	}
	if diff := cmp.Diff(of1, w.rows()); diff != "" {
		t.Error("filtered:", diff)
	}
	// What arrives is filtered as well.
	s.push(t, "projects/p/subscriptions/sub-2", "other", "not here")
	s.push(t, "projects/p/subscriptions/sub-1", "mine", "here")
	w.until(fmt.Sprintf(`document.querySelectorAll("#rows tr").length === %d`, len(of1)+1))
	if got := eval[string](w, `document.querySelector("#rows tr td.c-data").innerText`); got != "here" {
		t.Errorf("the newest row is %q", got)
	}
	w.visit("/?source=mns")
	if text := eval[string](w, `document.querySelector("#empty").innerText`); !strings.Contains(text, "No message matches yet") {
		t.Errorf("nothing matches, and the page says %q", text)
	}
	w.visit("/?pageToken=x")
	if text := w.state(); !strings.Contains(text, "400") || !strings.Contains(text, "All messages") {
		t.Errorf("a bad page token shows %s", text)
	}
}

func TestOneMessage(t *testing.T) {
	t.Parallel()
	s := start(t)
	binary := []byte("\x00\xff\xfe<script>alert(1)</script>\r\n")
	s.publish(t, message{Data: []byte(`{"b":1,"a":[true,null]}`), Attributes: map[string]string{"kind": "order", "lang": "en"}, OrderingKey: "customer-1"})
	id := s.stored(t, 1)[0].ID
	w := s.open(t, desk)
	w.do(chromedp.Click("#rows a"))
	w.until(`document.querySelector("pre")`)
	if got := eval[string](w, `getSelection().selectAllChildren(document.querySelector("pre")), getSelection().toString()`); got != "{\n  \"b\": 1,\n  \"a\": [\n    true,\n    null\n  ]\n}" {
		t.Errorf("the JSON is shown as %s", got)
	}
	text := w.state()
	for _, want := range []string{
		"The issuer of pushinbox local, in place of Google, signed this push as push@local.iam.gserviceaccount.com, for " + s.base + "/receive.",
		"https://accounts.google.com", "E-mail verified", "customer-1", "order", "lang", "projects/local/subscriptions/inbox-push", "Delay", "23 bytes", id,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not show %q:\n%s", want, text)
		}
	}
	if !eval[bool](w, `[...document.querySelectorAll("time")].length >= 4 && [...document.querySelectorAll("time")].every(t => t.title.includes(t.dateTime))`) {
		t.Error("a time does not tell the exact one")
	}
	w.visit("/messages/" + id + "?view=text")
	if got := eval[string](w, `document.querySelector("pre").innerText`); got != `{"b":1,"a":[true,null]}` {
		t.Errorf("as text: %s", got)
	}
	w.visit("/messages/" + id + "?view=hex")
	if got := eval[string](w, `document.querySelector("pre").innerText`); !strings.HasPrefix(got, "00000000  7b 22 62 22") {
		t.Errorf("as hex: %s", got)
	}

	s.publish(t, message{Data: binary})
	id = s.stored(t, 2)[0].ID
	w.visit("/messages/" + id)
	if got := eval[string](w, `document.querySelector("pre").innerText`); !strings.HasPrefix(got, "00000000  00 ff fe 3c") {
		t.Errorf("binary data is shown as %s", got)
	}
	w.visit("/messages/" + strings.Repeat("0", 40))
	if text := w.state(); !strings.Contains(text, "404") || !strings.Contains(text, "Messages are deleted after the retention period") {
		t.Errorf("an unknown message shows %s", text)
	}
}

func TestDownload(t *testing.T) {
	t.Parallel()
	s := start(t)
	data := append([]byte("\x00\xff<html><script>document.title='run'</script>"), bytes.Repeat([]byte("x"), 300_000)...)
	s.publish(t, message{Data: data})
	id := s.stored(t, 1)[0].ID
	w := s.open(t, desk)
	dir := t.TempDir()
	yes := true
	finished := make(chan struct{}, 1)
	if err := chromedp.ListenBrowser(w.Context, func(event any) {
		if e, ok := event.(*browser.EventDownloadProgress); ok && e.State == browser.DownloadProgressStateCompleted {
			select {
			case finished <- struct{}{}:
			default:
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	w.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.CallBrowser(ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
			Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, EventsEnabled: &yes,
			BrowserContextID: chromedp.FromContext(ctx).BrowserContextID,
		})
		return err
	}))
	w.visit("/messages/" + id)
	w.do(chromedp.Click("a[download]"))
	select {
	case <-finished:
	case <-time.After(30 * time.Second):
		t.Fatal("no download in 30 s")
	}
	got, err := os.ReadFile(filepath.Join(dir, id+".bin"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("downloaded %d of %d bytes, %v", len(got), len(data), err)
	}
	// Opened instead of followed, it is a download as well, and no page.
	_ = chromedp.Do(w.Context, chromedp.Navigate(s.base+"/messages/"+id+"/data"))
	if title := eval[string](w, `document.title`); title == "run" {
		t.Error("the data ran as a page")
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.publish(t, message{Data: []byte("again"), Attributes: map[string]string{"k": "v"}})
	first := s.stored(t, 1)[0]
	w := s.open(t, desk)
	w.visit("/messages/" + first.ID)
	w.do(chromedp.Click("#replay"))
	w.until(`document.querySelector("dialog").open`)
	w.do(chromedp.Click(`dialog button[value="cancel"]`))
	w.until(`!document.querySelector("dialog").open`)
	if got := eval[string](w, `new Promise(done => setTimeout(() => done(document.querySelector("#replay-result").textContent)))`); got != "" {
		t.Errorf("after Cancel: %s", got)
	}
	w.do(chromedp.Click("#replay"))
	w.until(`document.querySelector("dialog").open`)
	w.do(chromedp.Click(`dialog button[value="replay"]`))
	w.until(`document.querySelector("#replay-result").textContent.startsWith("Published again as message ")`)
	if got, want := eval[string](w, `document.querySelector("#replays").innerText`), eval[string](w, `document.querySelector("#replay-result a").innerText`); got != want {
		t.Errorf("after a replay the page has the replays %q, want %q", got, want)
	}
	all := s.stored(t, 2)
	if len(all) != 2 || all[0].Attributes["replay-of"] != first.ID || all[0].Attributes["k"] != "v" {
		t.Fatalf("after one cancelled and one confirmed replay: %+v", all)
	}
	w.visit("/messages/" + all[0].ID)
	w.do(chromedp.Click(`dd a[href="/messages/` + first.ID + `"]`))
	w.until(fmt.Sprintf(`location.pathname === "/messages/%s"`, first.ID))
}

// TestLostConnection cuts the line while messages go on arriving, again and
// again: the window says so, comes back by itself, and has every message once.
// TestQuarantine finds the one message that could not be decoded and replays it, with
// the keyboard.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.push(t, "projects/p/subscriptions/s", "1", "good")
	s.pushBody(t, "which cannot be decoded {")
	s.stored(t, 2)
	w := s.open(t, phone)
	w.live()
	w.do(chromedp.Click("#fields summary"), chromedp.Focus("input[name=quarantined]"), chromedp.KeyEvent(" "), chromedp.KeyEvent(kb.Enter))
	w.until(`location.search.includes("quarantined=true")`)
	w.live()
	w.until(`document.querySelectorAll("#rows tr").length === 1`)
	// The filtered feed leaves other messages out.
	s.push(t, "projects/p/subscriptions/s", "2", "good")
	s.pushBody(t, "another that cannot be decoded {")
	w.until(`document.querySelectorAll("#rows .tag.quarantined").length === 2 && document.querySelectorAll("#rows tr").length === 2`)
	w.do(chromedp.Click("#rows tr:last-child a"))
	w.until(`document.querySelector("#quarantined")?.textContent.includes("unknown-form")`)
	w.do(chromedp.Click("#replay"))
	w.until(`document.querySelector("dialog").open`)
	w.do(chromedp.KeyEvent(kb.Enter))
	w.until(`document.querySelector("#replay-result").textContent.startsWith("Published again")`)
	s.stored(t, 5)
}

func TestLostConnection(t *testing.T) {
	t.Parallel()
	s := start(t)
	target := strings.TrimPrefix(s.base, "http://")
	line := relay.New(t, target)
	w := openAt(t, "http://"+line.Host(), desk)
	w.live()
	n := 0
	arrive := func() {
		for range 10 {
			s.publish(t, message{Data: fmt.Appendf(nil, "message %d", n)}, message{Data: fmt.Appendf(nil, "message %d", n+1)})
			n += 2
		}
	}
	for range 3 {
		arrive()
		line.Cut()
		w.until(`document.querySelector("#live").dataset.state === "lost" && document.querySelector("#live-text").innerText === "Connection lost, trying again…"`)
		arrive()
		s.stored(t, n)
		line.Restore(target)
		w.live()
		arrive()
	}
	want := s.stored(t, n)
	w.until(fmt.Sprintf(`document.querySelectorAll("#rows tr").length === %d`, n))
	if diff := cmp.Diff(idsOf(want), w.rows()); diff != "" {
		t.Error(diff)
	}
}

func idsOf(messages []stored) (ids []string) {
	for _, m := range messages {
		ids = append(ids, m.ID)
	}
	return ids
}

// TestLostServer kills the server and starts it again.
func TestLostServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := s.open(t, desk)
	w.live()
	s.publish(t, message{Data: []byte("before")})
	w.until(`document.querySelectorAll("#rows tr").length === 1`)
	s.kill()
	w.until(`document.querySelector("#live").dataset.state === "lost"`)
	w.do(chromedp.Click("#publish summary"), chromedp.SendKeys("#payload", "while it is gone"), chromedp.Click("#publish-form button"))
	w.until(`document.querySelector("#publish-result.bad")?.textContent === "The console cannot be reached. Check the connection and try again."`)
	s.run(t)
	var messages []message
	for i := range 30 {
		messages = append(messages, message{Data: fmt.Appendf(nil, "after %d", i)})
	}
	s.publish(t, messages...)
	want := s.stored(t, 31)
	w.until(`document.querySelectorAll("#rows tr").length === 31`)
	w.live()
	if diff := cmp.Diff(idsOf(want), w.rows()); diff != "" {
		t.Error(diff)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := s.open(t, desk)
	w.live()
	w.do(chromedp.Click("#pause"))
	w.until(`document.querySelector("#live-text").innerText === "Paused"`)
	s.publish(t, message{Data: []byte("1")}, message{Data: []byte("2")})
	want := s.stored(t, 2)
	w.until(`document.querySelector("#live-text").innerText === "Paused, 2 new"`)
	if rows := w.rows(); len(rows) > 0 {
		t.Errorf("a paused list shows %v", rows)
	}
	w.do(chromedp.Click("#pause"))
	w.until(`document.querySelectorAll("#rows tr").length === 2`)
	if diff := cmp.Diff(idsOf(want), w.rows()); diff != "" {
		t.Error(diff)
	}
}

// TestListIsBounded lets more arrive than a window keeps: what it drops is on
// the next page, without a gap or a repetition.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := s.open(t, desk)
	w.live()
	// A row that has the focus is dropped like the others, and the focus stays
	// in the list.
	s.publish(t, message{Data: []byte("first")})
	w.until(`document.querySelector("#rows a")`)
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#rows a").focus()`))
	var messages []message
	for i := range 419 {
		messages = append(messages, message{Data: fmt.Appendf(nil, "%d", i)})
	}
	s.publish(t, messages...)
	want := idsOf(s.stored(t, 420))
	w.until(fmt.Sprintf(`document.querySelector("#rows tr")?.id === "m-%s"`, want[0]))
	first := w.rows()
	if len(first) != 300 {
		t.Errorf("the window keeps %d rows, want 300", len(first))
	}
	if !eval[bool](w, `document.querySelector("#rows").contains(document.activeElement)`) {
		t.Errorf("the focus is on %s", w.focused())
	}
	w.do(chromedp.Click("#older"))
	w.until(`location.search.includes("pageToken") && document.readyState === "complete"`)
	if diff := cmp.Diff(want[:350], append(first, w.rows()...)); diff != "" {
		t.Error(diff)
	}
}

func TestKeyboardAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := s.open(t, desk)
	w.live()
	tabTo := func(want string) {
		t.Helper()
		var passed []string
		for range 40 {
			w.keys(kb.Tab)
			got := w.focused()
			if !eval[bool](w, `document.activeElement === document.body || document.activeElement.matches(":focus-visible") && getComputedStyle(document.activeElement).outlineStyle !== "none"`) {
				t.Errorf("nothing shows that %q has the focus", got)
			}
			if got == want {
				return
			}
			passed = append(passed, got)
		}
		t.Fatalf("Tab never came to %q, but to %q", want, passed)
	}
	w.keys(kb.Tab)
	if got := w.focused(); got != "Skip to the content" {
		t.Errorf("the first stop is %q", got)
	}
	w.keys(kb.Enter)
	tabTo("pause")
	tabTo("search")
	tabTo("Fields")
	tabTo("Publish a message")
	w.keys(kb.Enter)
	tabTo("payload")
	w.keys("typed by hand")
	tabTo("attributes")
	w.keys("a=b")
	tabTo("ordering-key")
	tabTo("Publish")
	w.keys(kb.Enter)
	w.until(`document.querySelectorAll("#rows tr").length === 1`)
	tabTo("typed by hand")
	w.keys(kb.Enter)
	w.until(`location.pathname.startsWith("/messages/") && document.readyState === "complete"`)
	tabTo("replay")
	w.keys(kb.Enter)
	w.until(`document.querySelector("dialog").open`)
	w.keys(kb.Escape)
	w.until(`!document.querySelector("dialog").open && document.activeElement.id === "replay"`)
	w.keys(kb.Enter)
	w.until(`document.querySelector("dialog").open && document.activeElement.value === "replay"`)
	w.keys(kb.Enter)
	w.until(`document.querySelector("#replay-result").textContent.startsWith("Published again")`)
	tabTo("Hex")
	s.stored(t, 2)
}

func TestNarrow(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.publish(t,
		message{Data: []byte(strings.Repeat("W", 5000)), OrderingKey: strings.Repeat("k", 500), Attributes: map[string]string{strings.Repeat("n", 200): strings.Repeat("v", 900)}})
	s.publish(t, message{Data: []byte(`{"deep": {"deeper": "` + strings.Repeat("long ", 50) + `"}}`)})
	all := s.stored(t, 2)
	w := s.open(t, phone)
	for _, path := range []string{"/", "/messages/" + all[0].ID, "/messages/" + all[1].ID, "/messages/" + all[0].ID + "?view=hex", "/messages/unknown", "/?pageToken=x"} {
		w.visit(path)
		w.fits()
		if eval[bool](w, `[...document.querySelectorAll("pre")].some(e => e.scrollWidth > e.clientWidth + 1)`) {
			t.Errorf("%s: data must be scrolled sideways", path)
		}
		if small := eval[[]string](w, `[...document.querySelectorAll("button, .button, input, select, summary, textarea")]
			.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 24).map(e => e.outerHTML.slice(0, 80))`); len(small) > 0 {
			t.Errorf("%s: too small for a finger: %q", path, small)
		}
	}
	w.visit("/")
	w.live()
	if top := eval[float64](w, `document.querySelector("#rows tr").getBoundingClientRect().top`); top > 300 {
		t.Errorf("the first message stands %v px below the start of the page", top)
	}
	w.do(chromedp.Click("#publish summary"), chromedp.SendKeys("#payload", "from a phone"), chromedp.Click("#publish-form button"))
	w.until(`document.querySelectorAll("#rows tr").length === 3`)
	w.fits()
}

// findWide is a script that finds what stands outside of the window.
const findWide = `(() => {
		const width = document.documentElement.clientWidth, bad = [];
		if (document.documentElement.scrollWidth > width) bad.push("the page is " + document.documentElement.scrollWidth + " wide, the window " + width);
		for (const e of document.querySelectorAll("main *")) {
			const box = e.getBoundingClientRect();
			if (box.right > width + 1 && e.checkVisibility() && !e.closest("pre, td, dd, dt, .unseen, thead")) bad.push(e.outerHTML.slice(0, 100));
		}
		return bad;
	})()`

// fits fails the test when the page is wider than its window, or something
// stands outside of it.
func (w *window) fits() {
	w.t.Helper()
	w.report(eval[[]string](w, findWide))
}

func TestWithoutJavaScript(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := s.open(t, desk, call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	text := func() string {
		t.Helper()
		text, err := chromedp.Run(w.Context, chromedp.Text("body"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if strings.Contains(text(), "by itself") {
		t.Error("the page promises what needs JavaScript")
	}
	w.do(
		chromedp.Click("#publish summary"),
		chromedp.SendKeys("#payload", "no script"),
		chromedp.SendKeys("#attributes", "broken"),
	)
	submit := func(done string) {
		t.Helper()
		w.do(chromedp.Click("#publish-form button"), chromedp.WaitVisible(done))
	}
	submit("#publish-result.bad")
	if got := text(); !strings.Contains(got, "Refused (400): line 1 of attributes is not key=value.") {
		t.Errorf("a refusal shows %s", got)
	}
	payload, err := chromedp.Run(w.Context, chromedp.Value("#payload"))
	if err != nil || !strings.Contains(payload, "no script") {
		t.Errorf("after a refusal the payload is %q %v", payload, err)
	}
	w.do(chromedp.SetValue("#attributes", "a=b"))
	submit("#publish-result:not(.bad):not(:empty)")
	if got := text(); !strings.Contains(got, "Published as message ") {
		t.Errorf("after publishing: %s", got)
	}
	id := s.stored(t, 1)[0].ID
	w.visit("/")
	if got := text(); !strings.Contains(got, "no script") || !strings.Contains(got, "UTC") {
		t.Errorf("the list shows %s", got)
	}
	w.do(chromedp.SendKeys("#search", "a=b script"), chromedp.Click("#search-form button"), chromedp.WaitVisible("#clear"))
	if got := text(); !strings.Contains(got, "no script") {
		t.Errorf("a search shows %s", got)
	}
	w.do(chromedp.Click("#rows a"), chromedp.WaitVisible("pre"))
	if got := text(); !strings.Contains(got, "in place of Google, signed this push") || strings.Contains(got, "Replay…") || !strings.Contains(got, id) {
		t.Errorf("the message shows %s", got)
	}
	// Words that a link puts into the page are not repeated.
	w.visit("/?published=Your+password+has+expired")
	if strings.Contains(text(), "password") {
		t.Error("the page says what its address says")
	}
}

func TestReaderListens(t *testing.T) {
	t.Parallel()
	s := start(t)
	w := s.open(t, desk)
	w.live()
	s.publish(t, message{Data: []byte("1")}, message{Data: []byte("2")}, message{Data: []byte("3")})
	w.until(`document.querySelector("#news").textContent === "3 new messages"`)
	roles := eval[[]string](w, `[...document.querySelectorAll('[role="status"]')].map(e => e.id)`)
	for _, id := range []string{"news", "live-text", "publish-result"} {
		if !slices.Contains(roles, id) {
			t.Errorf("#%s is not announced", id)
		}
	}
}
