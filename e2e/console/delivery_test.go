package console

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"example.com/pushinbox/functions/console"
	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

// teller is a source that tells what a test sets.
type teller struct {
	mu     sync.Mutex
	report *delivery.Report
	store  *boltinbox.Inbox
}

func (s *teller) Report(context.Context) (*delivery.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := *s.report
	r.At = time.Now().UTC()
	return &r, nil
}

func (s *teller) tell(r *delivery.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = r
}

const (
	mainSub   = "projects/shop/subscriptions/inbox-push"
	secondSub = "projects/shop/subscriptions/inbox-push-orders"
	deadSub   = "projects/shop/subscriptions/inbox-dead-letters"
)

// telling starts a console of which the delivery is told by the returned source, with
// a message and a dead letter in its inbox.
func telling(t *testing.T, cfg console.Config, first *delivery.Report) (base string, s *teller) {
	t.Helper()
	store, err := boltinbox.Open(filepath.Join(t.TempDir(), "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s = &teller{report: first, store: store}
	s.put(t, 1795420345123456, &inbox.Message{Subscription: mainSub, Data: []byte(`{"order":"A-10441","total":"31.80"}`)})
	s.put(t, 1795420345123457, deadLetter(`{"invoice":"2026-1180","state":"paid"}`))
	cfg.Project, cfg.Topic, cfg.Audience, cfg.Readers, cfg.Deliveries, cfg.DeadLetters = "shop", "inbox", "a", []string{"r@example.com"}, []string{mainSub, secondSub}, deadSub
	h, err := console.New(cfg, anyone{}, store, anyone{}, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL, s
}

// put stores a message as one that Pub/Sub pushed.
func (s *teller) put(t *testing.T, id int, m *inbox.Message) {
	t.Helper()
	m.Source, m.MessageID = inbox.SourcePubSub, fmt.Sprint(id)
	m.Verified = inbox.Verified{Issuer: "https://accounts.google.com", Email: "push@shop.iam.gserviceaccount.com", EmailVerified: true}
	if _, err := s.store.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// deadLetter is a message that came by the subscription of the dead letters.
func deadLetter(data string) *inbox.Message {
	return &inbox.Message{Subscription: deadSub, Data: []byte(data), Attributes: map[string]string{
		"CloudPubSubDeadLetterSourceDeliveryCount": "100", "CloudPubSubDeadLetterSourceSubscription": "inbox-push-orders",
		"CloudPubSubDeadLetterSourceSubscriptionProject": "shop", "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-26T02:10:00.123+00:00",
	}}
}

func ptr[T any](v T) *T { return &v }

// course returns a window of n parts, of which the parts from bad on are refused.
func course(n, bad int, step time.Duration) delivery.Window {
	now := time.Now().UTC().Truncate(time.Minute)
	var w delivery.Window
	var acked, refused, waiting int64
	for i := range n {
		p := delivery.Point{At: now.Add(step * time.Duration(i-n+1))}
		pushes := int64(20 + 14*math.Sin(float64(i)/5) + 5*math.Sin(float64(i)*1.7))
		if i < bad {
			p.Acked = pushes
		} else {
			p.Acked, p.Refused = pushes/4, pushes/2
			waiting += pushes / 2
		}
		p.Backlog = ptr(waiting)
		acked, refused = acked+p.Acked, refused+p.Refused
		w.Points = append(w.Points, p)
	}
	w.Pushes, w.AckedShare = ptr(acked+refused), ptr(float64(acked)/float64(acked+refused))
	w.P50Millis, w.P99Millis, w.DeadLettered = ptr(7.4), ptr(182.0), ptr[int64](0)
	return w
}

func healthy() *delivery.Report {
	return &delivery.Report{
		Subscriptions: []delivery.Subscription{
			{Name: mainSub, Topic: "projects/shop/topics/inbox", State: delivery.Delivering, Endpoint: "https://receive-x.run.app/wrapped?token=MARKER",
				Backlog: ptr[int64](0), OldestSeconds: ptr(0.0), LastHour: course(60, 60, time.Minute), LastDay: course(96, 96, 15*time.Minute)},
			{Name: deadSub, Topic: "projects/shop/topics/inbox-dead-letters", DeadLetters: true, State: delivery.Waiting, Backlog: ptr[int64](0), OldestSeconds: ptr(0.0)},
		},
		RefusalsFrom: time.Now().UTC().Add(-24 * time.Hour),
	}
}

// wrong is healthy with a wrong audience, a paused subscription, dead letters, and
// numbers that are not known.
func wrong() *delivery.Report {
	now := time.Now().UTC()
	r := healthy()
	main := &r.Subscriptions[0]
	main.Backlog, main.OldestSeconds = ptr[int64](214), ptr(1510.0)
	main.LastHour, main.LastDay = course(60, 35, time.Minute), course(96, 94, 15*time.Minute)
	main.LastHour.DeadLettered, main.LastDay.DeadLettered = ptr[int64](3), ptr[int64](3)
	dead := &r.Subscriptions[1]
	dead.Backlog, dead.OldestSeconds = ptr[int64](3), ptr(912.0)
	r.Subscriptions = append(r.Subscriptions[:1], delivery.Subscription{
		Name: secondSub, Topic: "projects/shop/topics/orders", State: delivery.Paused, Backlog: ptr[int64](1204), OldestSeconds: ptr(8130.0),
		Operation: &delivery.Operation{Kind: delivery.Pause, Subscription: secondSub, Principal: "colleague@example.com", At: now.Add(-2 * time.Hour), LostFrom: now.Add(167 * time.Hour), PushConfig: []byte("MARKER")},
	}, *dead)
	r.Refusals = []delivery.Refusal{
		{Last: now.Add(-20 * time.Second), Status: 403, Reason: "audience", Detail: "the token's audience (aud) is not this service", Count: 240, LastHour: 12},
		{Last: now.Add(-3 * time.Minute), Status: 503, Reason: "inbox_unavailable", Detail: `the inbox cannot be reached: Post "https://x.example/?token=MARKER": no route to host`, Subscription: mainSub, Count: 31, LastHour: 2},
		{Last: now.Add(-9 * time.Hour), Status: 0, Reason: "timeout", Subscription: secondSub, Count: 1},
	}
	r.Unknown = []delivery.Unknown{{What: "numbers", Why: "Cloud Monitoring does not answer for " + secondSub + "; without roles/monitoring.viewer on projects/shop it never does"}}
	return r
}

// hasLine is whether the list has the line about refusals, and hasBanner whether it has
// the banner of a paused subscription.
const (
	hasLine   = `document.querySelector("#trouble [data-kind=trouble]")?.innerText.includes("receive refused 14 pushes in the last hour: audience 12, inbox_unavailable 2")`
	hasBanner = `document.querySelector("#trouble [data-kind=paused]")?.innerText.includes("The delivery of inbox-push-orders is paused")`
)

// TestTroubleComesByItself leaves the list and the page of the delivery open while
// something goes wrong, and while it is mended.
func TestTroubleComesByItself(t *testing.T) {
	t.Parallel()
	base, s := telling(t, console.Config{IsLocal: true}, healthy())
	list, page := openAt(t, base, desk), openAt(t, base, desk)
	list.live()
	page.visit("/delivery")
	page.until(`document.querySelectorAll(".card").length === 3 && document.querySelector("#renewed")`)
	if eval[bool](list, `!!document.querySelector(".banner")`) || eval[bool](page, `!!document.querySelector(".banner")`) {
		t.Error("all is well, and there is a banner")
	}
	began := time.Now()
	s.tell(wrong())
	list.until(hasLine + " && " + hasBanner)
	page.until(hasLine + " && " + hasBanner + ` && document.querySelectorAll(".card").length === 4`)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	// The pause is of two hours ago, which may be of yesterday.
	if eval[bool](list, `!document.querySelector("#trouble time").textContent.match(/^(\w{3} \d{1,2}, (\d{4}, )?)?\d\d:\d\d/)`) {
		t.Error("a time is not in the reader's zone:", list.state())
	}
	s.tell(healthy())
	page.until(`!document.querySelector(".banner") && document.querySelectorAll(".card").length === 3`)
	list.until(`!document.querySelector(".banner")`)
	s.tell(wrong())
	list.until(hasBanner)
	list.do(chromedp.Click("#trouble a"))
	list.until(`location.pathname === "/delivery" && document.readyState === "complete"`)
}

// TestTroubleIsShort has seven subscriptions of other programs fail: the list says so in a
// few lines, the same when it is loaded and by its feed, and /delivery names all of them.
func TestTroubleIsShort(t *testing.T) {
	t.Parallel()
	report := healthy()
	for i := range 7 {
		name := fmt.Sprintf("projects/shop/subscriptions/orders-of-region-%d-push", i)
		report.Subscriptions = append(report.Subscriptions, delivery.Subscription{Name: name, State: delivery.Delivering, LastHour: delivery.Window{DeadLettered: ptr[int64](3)}})
		report.Refusals = append(report.Refusals, delivery.Refusal{Last: time.Now(), Reason: "internal", Subscription: name, Count: 15, LastHour: 15})
	}
	const want = "15 pushes of orders-of-region-0-push not acknowledged in the last hour: internal · 15 pushes of orders-of-region-1-push not acknowledged in the last hour: internal · and 12 more: see delivery"
	const text = `document.querySelector("#trouble[role=status] [data-kind=trouble] > span:last-child")?.innerText`
	base, s := telling(t, console.Config{IsLocal: true}, healthy())
	off := call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	for _, width := range []int64{320, 400} {
		s.tell(healthy())
		w := openAt(t, base, size{width, 740})
		w.live()
		w.until(`!document.querySelector(".banner")`)
		s.tell(report)
		w.until(text)
		if got := eval[string](w, text); got != want {
			t.Errorf("%d px, by the feed: %q", width, got)
		}
		if top := eval[float64](w, `document.querySelector("table.messages").getBoundingClientRect().top`); top > 600 {
			t.Errorf("%d px: the list begins at %v px", width, top)
		}
		plain := openAt(t, base, size{width, 740}, off)
		if got := plain.text(); !strings.Contains(got, want) {
			t.Errorf("%d px, without a script: %s", width, got)
		}
		w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#pause").focus()`))
		w.keys(kb.Tab, kb.Enter)
		w.until(`location.pathname === "/delivery" && document.readyState === "complete"`)
		if n := eval[int](w, text+`.split(" · ").length`); n != 14 {
			t.Errorf("/delivery names %d things: %s", n, w.state())
		}
	}
}

// TestDeadLettersRenew leaves the page of the dead letters open while they are redriven:
// what has the focus keeps it, and the page stays where it was scrolled to.
func TestDeadLettersRenew(t *testing.T) {
	t.Parallel()
	base, s := telling(t, console.Config{IsLocal: true}, wrong())
	w := openAt(t, base, size{400, 500})
	w.visit("/dead-letters")
	w.until(`document.querySelector("#renewed .heading").innerText.includes("again every 2 seconds")`)
	for left, focus := range []string{`#rows tr:last-child td.c-from a.same`, `[data-text$=purge]`} {
		before := eval[float64](w, `document.querySelector("`+focus+`").focus({ preventScroll: true }), scrollTo(0, 150), scrollY`)
		name := w.focused()
		s.put(t, left, deadLetter("redriven"))
		report := wrong()
		report.Subscriptions[2].Backlog = ptr(int64(left))
		s.tell(report)
		w.until(fmt.Sprintf(`document.querySelector("dl.numbers dd").innerText === "%d" && document.querySelectorAll("#rows tr").length === %d`, left, left+2))
		if got, at := w.focused(), eval[float64](w, `scrollY`); got != name || at != before || before < 100 {
			t.Errorf("the focus is on %q, before on %q; the page is at %v px, before at %v", got, name, at, before)
		}
		if !eval[bool](w, `document.activeElement.matches("`+focus+`")`) {
			t.Error("the focus is on another of the same name")
		}
	}
}

// TestLocalTrouble runs pushinbox local as it is: a push for another audience is on the
// open list and on the page within five seconds, a pause by the command line is, too,
// and messages arrive again after resume.
func TestLocalTrouble(t *testing.T) {
	t.Parallel()
	s := start(t, "PUBSUB_VERIFICATION_TOKEN=MARKER-of-the-token")
	list, page := s.open(t, desk), s.open(t, desk)
	list.live()
	page.visit("/delivery")
	within := func(what string, began time.Time, expression string) {
		t.Helper()
		for name, w := range map[string]*window{"list": list, "page": page} {
			w.until(expression)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s: it took %v until the %s said so", what, took, name)
			}
		}
	}
	began := time.Now()
	r, err := http.NewRequest(http.MethodPost, s.base+"/receive/wrapped?token=MARKER-of-the-token", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(s.get(t, "/local/token?for=publish"))))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Fatalf("a push for another audience was answered %s", resp.Status)
	}
	within("a wrong audience", began, `document.querySelector("#trouble")?.innerText.includes("receive refused 1 push in the last hour: audience")`)

	operate := func(verb string) {
		t.Helper()
		cmd := exec.Command(command, "delivery", verb, "--data", s.data, "--yes")
		cmd.Env = append(os.Environ(), s.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("delivery %s: %v %s", verb, err, out)
		}
	}
	began = time.Now()
	operate("pause")
	within("a pause", began, `document.querySelector("#trouble [data-kind=paused]")?.innerText.includes("The delivery of inbox-push is paused since ")`)
	s.publish(t, message{Data: []byte("it waits")})
	page.until(`document.querySelector("#trouble").innerText.includes("1 wait")`)
	text := eval[string](page, `document.body.innerText`) + eval[string](list, `document.documentElement.outerHTML`) + eval[string](page, `document.documentElement.outerHTML`) + string(s.get(t, "/delivery"))
	if strings.Contains(text, "MARKER") {
		t.Error("the shared token is shown")
	}
	if !strings.Contains(text, "pushinbox delivery resume") {
		t.Errorf("the page does not say how to go on: %s", text)
	}
	operate("resume")
	for _, w := range []*window{list, page} {
		w.until(`!document.querySelector("#trouble [data-kind=paused]")`)
	}
	list.until(`document.querySelector("#rows tr td.c-data")?.innerText === "it waits"`)
}

// TestNumbersOfThePage holds what the page shows against the series it was told.
func TestNumbersOfThePage(t *testing.T) {
	t.Parallel()
	report := wrong()
	base, _ := telling(t, console.Config{}, report)
	w := openAt(t, base, desk)
	w.visit("/delivery")
	main := report.Subscriptions[0]
	for i, window := range []delivery.Window{main.LastHour, main.LastDay} {
		var acked, refused int
		for _, p := range window.Points {
			if p.Acked > 0 {
				acked++
			}
			if p.Refused > 0 {
				refused++
			}
		}
		at := fmt.Sprintf(`document.querySelectorAll(".window")[%d]`, i)
		if got, want := eval[[]int](w, at+`.querySelectorAll("rect").length ? ["acked", "refused"].map(c => `+at+`.querySelectorAll("rect." + c).length) : []`), []int{acked, refused}; !slices.Equal(got, want) {
			t.Errorf("the chart has %v bars, want %v", got, want)
		}
		// The sum of what the bars are high, in pushes, is that of the series.
		most := int64(0)
		for _, p := range window.Points {
			most = max(most, p.Acked+p.Refused)
		}
		want := float64(*window.Pushes)
		got := eval[float64](w, fmt.Sprintf(`[...%s.querySelectorAll("rect")].reduce((sum, r) => sum + Number(r.getAttribute("height")) / 38 * %d, 0)`, at, most))
		if math.Abs(got-want) > want*0.1 {
			t.Errorf("the bars stand for %v pushes, the series has %v", got, want)
		}
		text := eval[string](w, at+`.innerText`)
		for _, want := range []string{fmt.Sprintf("%d,%03d", *window.Pushes/1000, *window.Pushes%1000), "7.4 ms / 182 ms"} {
			if !strings.Contains(text, want) {
				t.Errorf("the window does not show %q: %s", want, text)
			}
		}
	}
	if text := w.state(); strings.Contains(text, "MARKER") {
		t.Error("the token is shown")
	}
}

// TestDeliveryWithoutScript has all of it for a browser without JavaScript, and on a
// phone nothing is wider than the page.
func TestDeliveryWithoutScript(t *testing.T) {
	t.Parallel()
	base, _ := telling(t, console.Config{}, wrong())
	off := call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	for _, size := range []size{desk, phone} {
		w := openAt(t, base, size, off)
		for path, words := range map[string][]string{
			"/":             {"receive refused 14 pushes in the last hour", "The delivery of inbox-push-orders is paused"},
			"/delivery":     {"receive refused 14 pushes", "77.4 %", "25 min 10 s", "PUSH_AUDIENCE", "pushinbox delivery resume --terraform terraform --subscription inbox-push-orders", "colleague@example.com"},
			"/dead-letters": {"3", "pushinbox dead-letters redrive --terraform terraform", "dead letter of inbox-push-orders"},
		} {
			w.visit(path)
			text := w.text()
			for _, word := range words {
				if !strings.Contains(text, word) {
					t.Errorf("%d px: %s does not say %q: %s", size.width, path, word, text)
				}
			}
			if strings.Contains(text, "Copy") || strings.Contains(text, "again every") {
				t.Errorf("%s offers what needs a script: %s", path, text)
			}
		}
	}
	w := openAt(t, base, phone)
	for _, path := range []string{"/", "/delivery", "/dead-letters"} {
		w.visit(path)
		if wide := eval[int](w, `document.documentElement.scrollWidth`); wide > int(phone.width) {
			t.Errorf("%s is %d px wide", path, wide)
		}
		if cut := eval[[]string](w, `[...document.querySelectorAll(".card *, .banner *")].filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 100))`); len(cut) > 0 {
			t.Errorf("%s: wider than the phone: %q", path, cut)
		}
	}
}

// text is what a window without JavaScript shows.
func (w *window) text() string {
	w.t.Helper()
	text, err := chromedp.Run(w.Context, chromedp.Text("body"))
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// TestCopyACommand puts a command of the page on the clipboard, also after the page has
// renewed itself.
func TestCopyACommand(t *testing.T) {
	t.Parallel()
	base, s := telling(t, console.Config{IsLocal: true}, healthy())
	w := openCopying(t, base, desk)
	w.visit("/delivery")
	s.tell(wrong())
	w.until(`document.querySelectorAll(".card").length === 4`)
	w.do(chromedp.Click(`.card:nth-of-type(2) [data-copy]`))
	w.until(`document.querySelector(".command .result:not(:empty)")?.innerText === "Copied the command."`)
	if got, want := eval[string](w, `navigator.clipboard.readText()`), "pushinbox delivery resume --subscription inbox-push-orders"; got != want {
		t.Errorf("copied %q, want %q", got, want)
	}
}

// TestDeliveryAccessible runs axe-core on the pages of the delivery.
func TestDeliveryAccessible(t *testing.T) {
	t.Parallel()
	script := axe(t)
	bad, _ := telling(t, console.Config{}, wrong())
	good, _ := telling(t, console.Config{IsLocal: true}, healthy())
	unknown, _ := telling(t, console.Config{}, &delivery.Report{Unknown: []delivery.Unknown{{What: "numbers", Why: "no permission"}}})
	ran := 0
	for _, look := range looks() {
		for _, base := range []string{bad, good, unknown} {
			w := openAt(t, base, look.size, theme(look.theme))
			for _, path := range []string{"/", "/delivery", "/dead-letters"} {
				w.visit(path)
				if path == "/" {
					w.live()
					w.until(fmt.Sprintf(`document.querySelectorAll(".banner").length === %d`, map[string]int{bad: 2}[base]))
				}
				w.axe(script, fmt.Sprintf("%s, %s, %d px", path, look.theme, look.size.width))
				ran++
			}
		}
	}
	if ran != 9*len(looks()) {
		t.Errorf("axe ran %d times", ran)
	}
}

// TestDeliveryShots takes the pictures of docs/console.md.
func TestDeliveryShots(t *testing.T) {
	base, _ := telling(t, console.Config{}, wrong())
	for _, name := range []string{"light", "dark"} {
		w := openAt(t, base, size{1200, 1900}, theme(name))
		w.visit("/delivery")
		w.shoot("delivery-" + name)
	}
	w := openAt(t, base, size{1200, 720}, theme("light"))
	w.visit("/dead-letters")
	w.shoot("dead-letters")
	w.do(w.resize(size{1200, 610}))
	w.visit("/")
	w.live()
	w.until(hasLine + " && " + hasBanner)
	w.shoot("trouble")
	w = openAt(t, base, size{360, 1300}, theme("light"))
	w.visit("/delivery")
	w.shoot("delivery-phone")
}
