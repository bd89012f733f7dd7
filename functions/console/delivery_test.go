package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/asleep"
)

// told is a source that tells what it is given.
type told func(ctx context.Context) (*delivery.Report, error)

func (t told) Report(ctx context.Context) (*delivery.Report, error) { return t(ctx) }

func ptr[T any](v T) *T { return &v }

// inTrouble is a report of all that can be told, with a shared token in it.
func inTrouble() *delivery.Report {
	at := time.Now().UTC().Truncate(time.Second)
	window := delivery.Window{
		Pushes: ptr[int64](100), AckedShare: ptr(0.88), P50Millis: ptr(12.5), P99Millis: ptr(180.0), DeadLettered: ptr[int64](3),
		Points: []delivery.Point{{At: at.Add(-time.Minute), Acked: 88, Refused: 2, Backlog: ptr[int64](4)}, {At: at, Refused: 10}},
	}
	return &delivery.Report{
		At: at,
		Subscriptions: []delivery.Subscription{
			{Name: "projects/p/subscriptions/inbox-push", Topic: "projects/p/topics/inbox", State: delivery.Delivering,
				Endpoint: "https://r.example/wrapped?token=MARKER", Backlog: ptr[int64](12), OldestSeconds: ptr(754.0), LastHour: window, LastDay: window},
			{Name: "projects/p/subscriptions/other", Topic: "projects/p/topics/other", State: delivery.Paused, Backlog: ptr[int64](0),
				Operation: &delivery.Operation{Kind: delivery.Pause, Subscription: "projects/p/subscriptions/other", Principal: "colleague@example.com",
					At: at.Add(-time.Hour), LostFrom: at.Add(6 * 24 * time.Hour), PushConfig: []byte("MARKER")}},
			{Name: "projects/p/subscriptions/dead", DeadLetters: true, State: delivery.Waiting, Backlog: ptr[int64](7)},
		},
		Refusals: []delivery.Refusal{
			{Last: at.Add(-time.Minute), Status: 403, Reason: "audience", Detail: "the token's audience (aud) is not this service", Count: 30, LastHour: 12},
			{Last: at.Add(-2 * time.Hour), Status: 503, Reason: "inbox_unavailable", Subscription: "projects/p/subscriptions/inbox-push", Count: 5},
		},
		RefusalsFrom: at.Add(-24 * time.Hour),
		Unknown:      []delivery.Unknown{{What: "numbers", Why: "no permission monitoring.timeSeries.list on projects/p"}},
	}
}

func TestDelivery(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	resp, b := s.do(t, s.request(t, http.MethodGet, "/delivery", ""))
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(b), "DELIVERY_SUBSCRIPTIONS") {
		t.Errorf("switched off: answered %d %s", resp.StatusCode, b)
	}
	want := inTrouble()
	s.handler.reports = newReports(told(func(context.Context) (*delivery.Report, error) { return want, nil }), slog.New(slog.DiscardHandler))
	resp, b = s.do(t, s.request(t, http.MethodGet, "/delivery", ""))
	var got delivery.Report
	if err := json.Unmarshal(b, &got); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("answered %d %s", resp.StatusCode, b)
	}
	if strings.Contains(string(b), "MARKER") {
		t.Errorf("the shared token is told: %s", b)
	}
	want.Subscriptions[0].Endpoint, want.Subscriptions[1].Operation.PushConfig = "https://r.example/wrapped?token=…", nil
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Error(diff)
	}
	if resp, b := s.do(t, s.request(t, http.MethodGet, "/delivery?x=1", "")); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a parameter: answered %d %s", resp.StatusCode, b)
	}
	if resp, b := s.do(t, s.request(t, http.MethodPost, "/delivery", "")); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET" {
		t.Errorf("POST: answered %d %s", resp.StatusCode, b)
	}
}

// TestReports asks sources that are slow, that fail and that panic, on a clock of the
// test.
func TestReports(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		source told
		within time.Duration
		why    string
	}{
		"at_once":          {func(context.Context) (*delivery.Report, error) { return &delivery.Report{}, nil }, 0, ""},
		"in_its_time":      {func(ctx context.Context) (*delivery.Report, error) { <-ctx.Done(); return &delivery.Report{}, nil }, reportBudget, ""},
		"never":            {func(ctx context.Context) (*delivery.Report, error) { time.Sleep(time.Hour); return nil, nil }, reportBudget + reportPatience, "there was no answer within 2s"},
		"fails":            {func(context.Context) (*delivery.Report, error) { return nil, errors.New("secret") }, 0, "an internal error; the log has the cause"},
		"takes_too_long":   {func(ctx context.Context) (*delivery.Report, error) { <-ctx.Done(); return nil, ctx.Err() }, reportBudget, "the request took too long; try again"},
		"panics":           {func(context.Context) (*delivery.Report, error) { panic("secret") }, 0, "an internal error; the log has the cause"},
		"answers_with_nil": {func(context.Context) (*delivery.Report, error) { return nil, nil }, 0, "an internal error; the log has the cause"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				k := newReports(test.source, slog.New(slog.DiscardHandler))
				// Whoever only looks does not wait.
				began := time.Now()
				if r := k.peek(); r != nil || time.Since(began) > 0 {
					t.Errorf("a look took %v and showed %v", time.Since(began), r)
				}
				r, err := k.get(t.Context())
				if err != nil || time.Since(began) != test.within {
					t.Fatalf("%v after %v, want %v", err, time.Since(began), test.within)
				}
				why := ""
				if len(r.Unknown) > 0 {
					why = r.Unknown[0].Why
				}
				if why != test.why || r.Subscriptions == nil || r.Refusals == nil {
					t.Errorf("got %+v, want %q", r, test.why)
				}
				time.Sleep(2 * time.Hour) // let the source end
			})
		})
	}
}

// TestReportsAfterSleep has the machine sleep for an hour after a report was collected,
// which neither shows it as a new one nor answers with it.
func TestReportsAfterSleep(t *testing.T) {
	t.Parallel()
	old := &delivery.Report{}
	after := func(slept time.Duration) *reports {
		k := newReports(told(func(context.Context) (*delivery.Report, error) { return &delivery.Report{}, nil }), slog.New(slog.DiscardHandler))
		k.fresh = time.Minute
		k.last.Store(&collected{old, asleep.After(-slept)})
		return k
	}
	if after(0).peek() != old {
		t.Error("the list does not show a new report")
	}
	if after(time.Hour).peek() == old {
		t.Error("the list shows the report of before")
	}
	if r, err := after(time.Hour).get(t.Context()); err != nil || r == old {
		t.Errorf("the report of before is the answer, %v", err)
	}
}

// TestReportsAreShared has many readers ask at once, and again: the source is asked
// once a second at most.
func TestReportsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		k := newReports(told(func(context.Context) (*delivery.Report, error) {
			asked.Add(1)
			time.Sleep(500 * time.Millisecond)
			return &delivery.Report{RefusalsFrom: time.Now()}, nil
		}), slog.New(slog.DiscardHandler))
		for range 10 {
			go func() { _, _ = k.get(t.Context()) }()
		}
		synctest.Wait()
		first, _ := k.get(t.Context())
		if again, _ := k.get(t.Context()); asked.Load() != 1 || again != first || k.peek() != first {
			t.Errorf("asked %d times for the first", asked.Load())
		}
		time.Sleep(freshReport)
		if next, _ := k.get(t.Context()); asked.Load() != 2 || next == first {
			t.Errorf("asked %d times, after a second", asked.Load())
		}
		// What is too old is not shown, and brings about what the next one sees.
		time.Sleep(shownReport + time.Second)
		if old := k.peek(); old != nil {
			t.Errorf("shown is one of %v", old.RefusalsFrom)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		if k.peek() == nil || asked.Load() != 3 {
			t.Errorf("nothing is shown after it was asked %d times", asked.Load())
		}
		time.Sleep(time.Minute)
	})
}

// deadAttributes are what Pub/Sub adds to a message when it moves it to a dead-letter
// topic.
var deadAttributes = map[string]string{
	"CloudPubSubDeadLetterSourceDeliveryCount": "5", "CloudPubSubDeadLetterSourceSubscription": "inbox-push",
	"CloudPubSubDeadLetterSourceSubscriptionProject": "other", "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-25T02:10:00.123+00:00",
}

// TestDeadLetters shows a message that came by the subscription of the dead letters as
// what it is, everywhere, and one that only says so as any other.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	cfg := both
	cfg.DeadLetters = "projects/p/subscriptions/dead"
	s := newSite(t, cfg)
	resp, page := s.page(t, "/dead-letters")
	if resp.StatusCode != http.StatusOK || !strings.Contains(page, "No dead letter was redriven") || !strings.Contains(page, "How many wait is not known") {
		t.Errorf("none: answered %d %s", resp.StatusCode, page)
	}
	var start struct{ WatchToken string }
	_, b := s.do(t, s.request(t, http.MethodGet, "/messages", ""))
	if err := json.Unmarshal(b, &start); err != nil || start.WatchToken == "" {
		t.Fatalf("%v: %s", err, b)
	}
	ids := map[string]string{}
	for _, subscription := range []string{cfg.DeadLetters, "projects/p/subscriptions/liar"} {
		m := &inbox.Message{Source: "pubsub", Subscription: subscription, MessageID: "1", Data: []byte("x"), Attributes: deadAttributes}
		if _, err := s.store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		ids[subscription] = inbox.ID(m.Source, m.Subscription, m.MessageID)
	}
	want := &inbox.DeadLetter{Subscription: "projects/other/subscriptions/inbox-push", Attempts: 5, PublishTime: time.Date(2026, 11, 25, 2, 10, 0, 123e6, time.UTC)}
	_, b = s.do(t, s.request(t, http.MethodGet, "/messages", ""))
	var list struct{ Messages []inbox.Message }
	if err := json.Unmarshal(b, &list); err != nil || len(list.Messages) != 2 {
		t.Fatalf("%v: %s", err, b)
	}
	// A feed that begins before them, the page's feed, and the poll have it, too.
	for _, path := range []string{"/events", "/rows", "/messages:poll"} {
		u := path
		if path != "/messages:poll" {
			u += "?pageToken=" + start.WatchToken
		}
		resp, err := http.DefaultClient.Do(s.request(t, http.MethodGet, u, ""))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for lines := bufio.NewScanner(resp.Body); !found && lines.Scan() && !strings.HasPrefix(lines.Text(), ": still here"); {
			found = strings.Contains(lines.Text(), `"deadLetter":{"subscription":"projects/other/subscriptions/inbox-push","attempts":5,`) || strings.Contains(lines.Text(), "dead letter of <bdi>inbox-push</bdi>")
		}
		_ = resp.Body.Close()
		if !found {
			t.Errorf("%s does not say what the dead letter was", path)
		}
	}
	for subscription, id := range ids {
		isDead := subscription == cfg.DeadLetters
		_, b := s.do(t, s.request(t, http.MethodGet, "/messages/"+id, ""))
		var m inbox.Message
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		all := append([]inbox.Message{m}, list.Messages...)
		for _, m := range all {
			if m.ID != id {
				continue
			}
			if got := m.DeadLetter; (got != nil) != isDead || isDead && !cmp.Equal(got, want) {
				t.Errorf("%s: %+v", subscription, got)
			}
		}
		_, page := s.page(t, "/messages/"+id)
		for _, mark := range []string{`id="dead-letter"`, "<bdi>projects/other/subscriptions/inbox-push</bdi>, after 5 attempts", "2026-11-25T02:10:00.123Z"} {
			if strings.Contains(page, mark) != isDead {
				t.Errorf("the page of what came by %s and %q: %s", subscription, mark, page)
			}
		}
		_, page = s.page(t, "/?subscription="+subscription)
		if strings.Contains(page, "dead letter of <bdi>inbox-push</bdi>") != isDead {
			t.Errorf("the row of what came by %s: %s", subscription, page)
		}
	}
	report := inTrouble()
	s.handler.reports = newReports(told(func(context.Context) (*delivery.Report, error) { return report, nil }), slog.New(slog.DiscardHandler))
	_, page = s.page(t, "/dead-letters")
	for _, want := range []string{
		"<dt>Waiting</dt><dd>7</dd>", "dead letter of <bdi>inbox-push</bdi>", `href="/?subscription=projects%2Fp%2Fsubscriptions%2Fdead"`,
		"pushinbox dead-letters redrive --terraform terraform<",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q: %s", want, page)
		}
	}
	if n := strings.Count(page, `<tr role="row" id=`); n != 1 {
		t.Errorf("the page has %d dead letters", n)
	}
}

// TestDeadLettersWithoutTheStore shows what waits and why while the store is down, and
// answers with the error where it is not the store that is down.
func TestDeadLettersWithoutTheStore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		store  failing
		status int
		words  string
	}{
		"down":     {failing{err: inbox.ErrUnavailable}, http.StatusOK, "Those that are stored cannot be read now: the inbox cannot be reached."},
		"too_slow": {failing{err: context.DeadlineExceeded}, http.StatusOK, "Those that are stored cannot be read now: the request took too long"},
		"a_fault":  {failing{err: errors.New("secret")}, http.StatusInternalServerError, "The log of this function has the cause"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := both
			cfg.DeadLetters = "projects/p/subscriptions/dead"
			s := newSite(t, cfg)
			s.handler.store = test.store
			report := inTrouble()
			s.handler.reports = newReports(told(func(context.Context) (*delivery.Report, error) { return report, nil }), slog.New(slog.DiscardHandler))
			resp, page := s.page(t, "/dead-letters")
			if resp.StatusCode != test.status || !strings.Contains(page, test.words) || strings.Contains(page, "secret") {
				t.Errorf("answered %d %s", resp.StatusCode, page)
			}
			for _, known := range []string{"<dt>Waiting</dt><dd>7</dd>", "Why: receive refused 12 pushes in the last hour: audience. ", "dead-letters redrive"} {
				if strings.Contains(page, known) != (test.status == http.StatusOK) {
					t.Errorf("%q: %s", known, page)
				}
			}
			if strings.Contains(page, "No dead letter was redriven") {
				t.Errorf("what is not known is told as nothing: %s", page)
			}
		})
	}
}

// TestOtherDeadLetters names the subscriptions of other programs in which dead letters
// wait, with the command that lists them.
func TestOtherDeadLetters(t *testing.T) {
	t.Parallel()
	cfg := both
	cfg.IsLocal, cfg.LocalData, cfg.DeadLetters = true, "/my data", "projects/p/subscriptions/dead"
	s := newSite(t, cfg)
	keeps := func(name string, state delivery.State, backlog *int64) delivery.Subscription {
		return delivery.Subscription{Name: "projects/p/subscriptions/" + name, DeadLetters: true, State: state, Backlog: backlog}
	}
	report := &delivery.Report{At: time.Now(), Subscriptions: []delivery.Subscription{
		keeps("dead", delivery.Waiting, ptr[int64](1)),
		keeps("empty", delivery.Waiting, ptr[int64](0)),
		keeps("not-known", delivery.Waiting, nil),
		keeps("moving", delivery.Redriving, ptr[int64](4)),
		{Name: "projects/p/subscriptions/late", State: delivery.Delivering, Backlog: ptr[int64](5)},
	}}
	s.handler.reports = newReports(told(func(context.Context) (*delivery.Report, error) { return report, nil }), slog.New(slog.DiscardHandler))
	s.handler.reports.fresh = 0
	if _, page := s.page(t, "/dead-letters"); strings.Contains(page, "Other dead letters wait") {
		t.Errorf("none waits elsewhere: %s", page)
	}
	report.Subscriptions = append(report.Subscriptions, keeps("orders-dead-letter", delivery.Waiting, ptr[int64](1204)), keeps("b", delivery.Waiting, ptr[int64](2)))
	_, page := s.page(t, "/dead-letters")
	for _, want := range []string{
		`Other dead letters wait: 1,204 in <bdi title="projects/p/subscriptions/orders-dead-letter">orders-dead-letter</bdi>, 2 in <bdi title="projects/p/subscriptions/b">b</bdi>.`,
		"<code>pushinbox dead-letters list --data &#39;/my data&#39; --dead-letter-subscription orders-dead-letter</code>", "--dead-letter-subscription b</code>",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q: %s", want, page)
		}
	}
}

// TestDeliveryPage reads the page of a delivery in trouble, of a healthy one, and of
// one that is not told.
func TestDeliveryPage(t *testing.T) {
	t.Parallel()
	cfg := both
	cfg.DeadLetters = "projects/p/subscriptions/dead"
	s := newSite(t, cfg)
	has := func(path string, is bool, marks ...string) {
		t.Helper()
		resp, page := s.page(t, path)
		if resp.StatusCode != http.StatusOK || strings.Contains(page, "MARKER") {
			t.Errorf("%s: answered %d %s", path, resp.StatusCode, page)
		}
		for _, mark := range marks {
			if strings.Contains(page, mark) != is {
				t.Errorf("%s and %q: %s", path, mark, page)
			}
		}
	}
	has("/delivery", true, "console_delivery = true", "DELIVERY_SUBSCRIPTIONS")

	tell := func(report *delivery.Report) {
		s.handler.reports = newReports(told(func(context.Context) (*delivery.Report, error) { return report, nil }), slog.New(slog.DiscardHandler))
	}
	report := inTrouble()
	report.Refusals[1].Detail = "the inbox cannot be reached: Post https://x/?token=MARKER"
	report.Unknown[0].Why = "<b>&no permission</b>"
	tell(report)
	has("/delivery", true,
		"The delivery of <bdi title=\"projects/p/subscriptions/other\">other</bdi> is paused", "colleague@example.com",
		"receive refused 12 pushes in the last hour: audience · ", "the oldest message of inbox-push waits for 12 min 34 s", "3 messages of inbox-push given up in the last hour", "7 dead letters wait",
		"numbers: <bdi>&lt;b&gt;&amp;no permission&lt;/b&gt;</bdi>",
		"<dt>Waiting</dt><dd>12</dd>", "<dt>Acknowledged</dt><dd class=\"bad\">88 %</dd>", "<dt>p50 / p99</dt><dd>12 ms / 180 ms</dd>", "<dt>Given up</dt><dd>3</dd>",
		`aria-label="88 acknowledged, 12 not; at most 90 pushes in a minute, at most 4 waiting"`,
		"<bdi>https://r.example/wrapped?token=…</bdi>", "PUSH_AUDIENCE. They are compared to the letter",
		"pushinbox delivery pause --terraform terraform --subscription inbox-push", "pushinbox delivery resume --terraform terraform --subscription other",
		"pushinbox doctor --terraform terraform")
	// The list has what was collected before it was asked for.
	has("/", true, "receive refused 12 pushes in the last hour: audience", ` · <a href="/delivery">and 3 more: see delivery</a>`, `data-kind="paused"`)
	has("/", false, "the oldest message", "given up", "dead letters wait")

	tell(&delivery.Report{At: report.At, RefusalsFrom: report.At, Subscriptions: []delivery.Subscription{{Name: "s", State: delivery.Delivering, Backlog: ptr[int64](0), OldestSeconds: ptr(0.0)}}})
	has("/delivery", true, "Nothing.", "<dt>Oldest</dt><dd><span class=\"hint\">none</span></dd>")
	has("/delivery", false, "banner")
	has("/", false, "banner")

	// What is not known is not told as nothing.
	tell(&delivery.Report{At: report.At, Subscriptions: []delivery.Subscription{{Name: "s", State: "of the future"}}})
	has("/delivery", true, "That is not known.", `<dt>Waiting</dt><dd><span class="hint">unknown</span>`, `<dt>Acknowledged</dt><dd><span class="hint">unknown</span>`, ">unknown</span></p>")
	has("/delivery", false, "Nothing.")
}

// TestTroubleLine says what is wrong in one line.
func TestTroubleLine(t *testing.T) {
	t.Parallel()
	at := time.Now()
	day := at.Add(-24 * time.Hour)
	sub := func(change func(*delivery.Subscription)) *delivery.Report {
		s := delivery.Subscription{Name: "projects/p/subscriptions/100%25", State: delivery.Delivering, Backlog: ptr[int64](0), OldestSeconds: ptr(0.0)}
		change(&s)
		return &delivery.Report{At: at, RefusalsFrom: day, Subscriptions: []delivery.Subscription{s}}
	}
	refused := func(from time.Time, refusals ...delivery.Refusal) *delivery.Report {
		return &delivery.Report{At: at, RefusalsFrom: from, Refusals: refusals}
	}
	for name, test := range map[string]struct {
		report *delivery.Report
		want   string
	}{
		"none_yet":         {nil, ""},
		"healthy":          {sub(func(*delivery.Subscription) {}), ""},
		"one":              {refused(day, delivery.Refusal{Reason: "audience", Count: 9, LastHour: 1}), "receive refused 1 push in the last hour: audience"},
		"of_before":        {refused(day, delivery.Refusal{Reason: "audience", Count: 9}), ""},
		"not_all_counted":  {refused(at.Add(-time.Minute), delivery.Refusal{Reason: "audience", Count: 1000, LastHour: 1000}), "receive refused at least 1,000 pushes in the last hour: audience"},
		"one_in_two_lines": {refused(day, delivery.Refusal{Reason: "email", LastHour: 1}, delivery.Refusal{Reason: "email", Subscription: "s", LastHour: 2}), "receive refused 3 pushes in the last hour: email"},
		"many_reasons":     {refused(day, delivery.Refusal{Reason: "a", LastHour: 1}, delivery.Refusal{Reason: "b", LastHour: 5}, delivery.Refusal{Reason: "c", LastHour: 1}, delivery.Refusal{Reason: "d", LastHour: 1}, delivery.Refusal{Reason: "e", LastHour: 2}), "receive refused 10 pushes in the last hour: b 5, e 2, a 1, 2 other reasons"},
		"of_another":       {refused(day, delivery.Refusal{Reason: "email", Subscription: "projects/x/subscriptions/unknown", LastHour: 2}), "receive refused 2 pushes in the last hour: email"},
		"local_other_programs": {refused(at, delivery.Refusal{Reason: "audience", LastHour: 1}, delivery.Refusal{Reason: "unreachable", Subscription: "projects/p/subscriptions/orders", LastHour: 2},
			delivery.Refusal{Reason: "inbox_unavailable", Subscription: "projects/p/subscriptions/inbox-push", LastHour: 3}),
			"receive refused 4 pushes in the last hour: inbox_unavailable 3, audience 1|2 pushes of orders not acknowledged in the last hour: unreachable"},
		"hidden_characters": {refused(day, delivery.Refusal{Reason: "\u202e", LastHour: 1}), `receive refused 1 push in the last hour: \u{202E}`},
		"no_answer":         {sub(func(s *delivery.Subscription) { s.LastHour.Pushes, s.LastHour.AckedShare = ptr[int64](50), ptr(0.9) }), "5 pushes of 100%25 not acknowledged in the last hour"},
		"old":               {sub(func(s *delivery.Subscription) { s.OldestSeconds, s.Backlog = ptr(601.0), ptr[int64](2) }), "the oldest message of 100%25 waits for 10 min 1 s"},
		"old_but_none":      {sub(func(s *delivery.Subscription) { s.OldestSeconds = ptr(601.0) }), ""},
		"detached":          {sub(func(s *delivery.Subscription) { s.State = delivery.Detached }), "100%25 delivers nothing: detached"},
		"gone":              {sub(func(s *delivery.Subscription) { s.State = delivery.Missing }), "100%25 delivers nothing: missing"},
		"dead_letters": {sub(func(s *delivery.Subscription) {
			s.DeadLetters, s.State, s.Backlog = true, delivery.Waiting, ptr[int64](1)
		}), "1 dead letter waits"},
		"no_dead_letters": {sub(func(s *delivery.Subscription) {
			s.DeadLetters, s.State, s.OldestSeconds = true, delivery.Waiting, ptr(9e9)
		}), ""},
		"redriving": {sub(func(s *delivery.Subscription) {
			s.DeadLetters, s.State, s.Operation = true, delivery.Redriving, &delivery.Operation{Principal: "me"}
		}), "dead letters are being redriven by me"},
		"given_up": {sub(func(s *delivery.Subscription) { s.LastHour.DeadLettered = ptr[int64](2) }), "2 messages of 100%25 given up in the last hour"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &handler{deliveries: []string{"projects/p/subscriptions/inbox-push"}, isLocal: strings.HasPrefix(name, "local_")}
			trouble := h.troubleOf(test.report)
			var words []string
			for _, r := range trouble.Line {
				words = append(words, r.Words)
			}
			if got := strings.Join(words, "|"); got != test.want || trouble.Any() != (got != "") {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestBriefTrouble shortens what is wrong for the list: the worst first, each subscription
// once, and how many more there are.
func TestBriefTrouble(t *testing.T) {
	t.Parallel()
	sub := func(name string, change func(*delivery.Subscription)) delivery.Subscription {
		s := delivery.Subscription{Name: "projects/p/subscriptions/" + name, State: delivery.Delivering}
		change(&s)
		return s
	}
	failing := func(name string) delivery.Subscription {
		return sub(name, func(s *delivery.Subscription) {
			s.LastHour.Pushes, s.LastHour.AckedShare, s.LastHour.DeadLettered = ptr[int64](5), ptr(0.0), ptr[int64](1)
		})
	}
	late := sub("late", func(s *delivery.Subscription) { s.OldestSeconds = ptr(601.0) })
	dead := sub("dead", func(s *delivery.Subscription) {
		s.DeadLetters, s.State, s.Backlog = true, delivery.Waiting, ptr[int64](2)
	})
	paused := func(name string) delivery.Subscription {
		return sub(name, func(s *delivery.Subscription) { s.State, s.LastHour.DeadLettered = delivery.Paused, ptr[int64](1) })
	}
	lostAt := func(name string, hours time.Duration) delivery.Subscription {
		s := paused(name)
		s.Operation = &delivery.Operation{LostFrom: time.Now().Add(hours * time.Hour)}
		return s
	}
	missing := sub("missing", func(s *delivery.Subscription) { s.State = delivery.Missing })
	refusal := delivery.Refusal{Reason: "audience", LastHour: 3}
	for name, test := range map[string]struct {
		subscriptions []delivery.Subscription
		refusals      []delivery.Refusal
		paused, line  string
		more          int
	}{
		"nothing":           {},
		"one":               {subscriptions: []delivery.Subscription{late}, line: "the oldest message of late waits for 10 min 1 s"},
		"once_each":         {subscriptions: []delivery.Subscription{failing("a")}, line: "5 pushes of a not acknowledged in the last hour", more: 1},
		"the_worst_of_many": {subscriptions: []delivery.Subscription{dead, late, failing("a"), failing("b"), failing("c"), missing}, line: "missing delivers nothing: missing|5 pushes of a not acknowledged in the last hour", more: 7},
		"refused":           {subscriptions: []delivery.Subscription{dead, late, missing}, refusals: []delivery.Refusal{refusal}, line: "missing delivers nothing: missing|receive refused 3 pushes in the last hour: audience", more: 2},
		"paused":            {subscriptions: []delivery.Subscription{paused("p")}, paused: "p", more: 1},
		"lost_soon":         {subscriptions: []delivery.Subscription{paused("p"), lostAt("q", 100), lostAt("r", 1)}, paused: "r", more: 5},
		"two_paused":        {subscriptions: []delivery.Subscription{paused("p"), paused("q")}, paused: "p", more: 3},
		"paused_and_worse":  {subscriptions: []delivery.Subscription{dead, paused("p"), paused("q"), failing("a")}, refusals: []delivery.Refusal{refusal}, paused: "p", line: "receive refused 3 pushes in the last hour: audience", more: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &handler{dead: dead.Name, deliveries: []string{"projects/p/subscriptions/inbox-push"}}
			all := h.troubleOf(&delivery.Report{At: time.Now(), RefusalsFrom: time.Now().Add(-24 * time.Hour), Subscriptions: test.subscriptions, Refusals: test.refusals})
			brief := all.brief()
			var names, words []string
			for _, p := range brief.Paused {
				names = append(names, shortName(p.Name))
			}
			for _, r := range brief.Line {
				words = append(words, r.Words)
			}
			if got := strings.Join(names, "|"); got != test.paused {
				t.Errorf("paused: %q, want %q", got, test.paused)
			}
			if got := strings.Join(words, "|"); got != test.line {
				t.Errorf("got %q, want %q", got, test.line)
			}
			if brief.More != test.more || all.More != 0 {
				t.Errorf("%d more, want %d; of all %d more", brief.More, test.more, all.More)
			}
		})
	}
}

// TestChart holds what is drawn against the numbers of an injected series.
func TestChart(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC)
	series := func(n int, step time.Duration, of func(i int) delivery.Point) (points []delivery.Point) {
		for i := range n {
			p := of(i)
			p.At = at.Add(step * time.Duration(i))
			points = append(points, p)
		}
		return points
	}
	for name, test := range map[string]struct {
		points             []delivery.Point
		window             time.Duration
		words, scale, ago  string
		bars, lines, parts int
	}{
		"unknown": {nil, time.Hour, "", "", "", 0, 0, 0},
		"nothing": {series(60, time.Minute, func(int) delivery.Point { return delivery.Point{} }), time.Hour, "0 acknowledged, 0 not", "no pushes", "an hour", 0, 0, 60},
		"an_hour": {series(60, time.Minute, func(i int) delivery.Point {
			return delivery.Point{Acked: int64(i), Refused: int64(i % 2), Backlog: ptr(int64(i % 7))}
		}), time.Hour, "1,770 acknowledged, 30 not", "at most 60 pushes in a minute, at most 6 waiting", "an hour", 89, 1, 60},
		"gaps": {series(5, 15*time.Minute, func(i int) delivery.Point {
			p := delivery.Point{Acked: 1}
			if i == 1 || i == 4 {
				p.Backlog = ptr[int64](3)
			}
			return p
		}), 2 * time.Hour, "5 acknowledged, 0 not", "at most 1 push in 15 minutes, at most 3 waiting", "2 hours", 5, 2, 8},
		"just_started": {series(1, time.Minute, func(int) delivery.Point { return delivery.Point{Acked: 1, Refused: 2, Backlog: ptr[int64](4)} }), time.Hour,
			"1 acknowledged, 2 not", "at most 3 pushes in a minute, at most 4 waiting", "an hour", 2, 1, 60},
		"a_day_of_minutes": {series(1440, time.Minute, func(i int) delivery.Point { return delivery.Point{Acked: 1, Backlog: ptr(int64(i))} }),
			24 * time.Hour, "1,440 acknowledged, 0 not", "at most 15 pushes in 15 minutes, at most 1,439 waiting", "24 hours", 96, 1, 96},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := chartOf(test.points, test.window, time.Minute)
			if c.Words != test.words || c.Scale != test.scale || c.Ago != test.ago || len(c.Bars) != test.bars || len(c.Lines) != test.lines || c.Width != test.parts {
				t.Errorf("%q, %q, %q, %d bars, %d lines, %d parts", c.Words, c.Scale, c.Ago, len(c.Bars), len(c.Lines), c.Width)
			}
			for _, b := range c.Bars {
				y, _ := strconv.ParseFloat(b.Y, 64)
				height, _ := strconv.ParseFloat(b.Height, 64)
				if y < 0 || height <= 0 || y+height > chartHeight+1e-3 {
					t.Errorf("%+v leaves the chart", b)
				}
			}
		})
	}
}

func TestWordsOfDelivery(t *testing.T) {
	t.Parallel()
	for share, want := range map[float64]string{0: "0 %", 0.0004: "under 0.1 %", 0.1236: "12.4 %", 0.99996: "99.9 %", 1: "100 %"} {
		w := windowOf("", &delivery.Window{AckedShare: &share}, time.Hour, time.Minute)
		if w.Share != want || w.IsBad != (share < 1) {
			t.Errorf("a share of %v is %q, bad: %t, want %q", share, w.Share, w.IsBad, want)
		}
	}
	for seconds, want := range map[float64]string{-1: "0 s", 59.9: "59 s", 61: "1 min 1 s", 3900: "1 h 5 min", 90_000: "1 d 1 h", math.Inf(1): "11574 d 1 h"} {
		if got := ageText(seconds); got != want {
			t.Errorf("ageText(%v) = %q, want %q", seconds, got, want)
		}
	}
	for ms, want := range map[float64]string{0.44: "0.4 ms", 12.5: "12 ms", 999: "999 ms", 1540: "1.5 s"} {
		if got := millisText(ms); got != want {
			t.Errorf("millisText(%v) = %q, want %q", ms, got, want)
		}
	}
	for data, want := range map[string]string{"data": "data", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "~": "'~'", "a\x1b": `'a\u{1B}'`} {
		h := &handler{isLocal: true, localData: data}
		if got := h.where(); got != " --data "+want {
			t.Errorf("the flag of the directory %q is %q, want %s", data, got, want)
		}
	}
}

// TestTroubleInTheFeed follows the feed of the page: what is wrong comes when it is
// known, once, in one event, and goes when it is mended.
func TestTroubleInTheFeed(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	var mu sync.Mutex
	report := inTrouble()
	report.Subscriptions[1].Operation.Principal = "two\nlines\r\n\r\nevent: row"
	s.handler.reports = newReports(told(func(context.Context) (*delivery.Report, error) {
		mu.Lock()
		defer mu.Unlock()
		return report, nil
	}), slog.New(slog.DiscardHandler))
	s.handler.reports.fresh = 0
	s.handler.lookEvery, s.handler.heartbeat = 20*time.Millisecond, 200*time.Millisecond
	r := s.request(t, http.MethodGet, "/rows", "")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	// next returns the lines of the next event that is not a comment.
	next := func() (event []string) {
		for lines.Scan() {
			switch line := lines.Text(); {
			case line == "" && len(event) > 0:
				return event
			case line != "" && !strings.HasPrefix(line, ":"):
				event = append(event, line)
			}
		}
		t.Fatal(lines.Err())
		return nil
	}
	if first := next(); !strings.HasPrefix(first[0], "retry:") {
		t.Fatalf("it begins with %q", first)
	}
	event := next()
	if len(event) != 2 || event[0] != "event: trouble" || !strings.Contains(event[1], "receive refused 12 pushes") || !strings.Contains(event[1], "two") {
		t.Errorf("the event is %q", event)
	}
	mu.Lock()
	report = &delivery.Report{}
	mu.Unlock()
	if event = next(); len(event) != 2 || event[0] != "event: trouble" || event[1] != "data:" {
		t.Errorf("after it was mended: %q", event)
	}
	// The feed for programs has messages and nothing else.
	mu.Lock()
	report = inTrouble()
	mu.Unlock()
	if _, err := s.handler.reports.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	resp2, err := http.DefaultClient.Do(s.request(t, http.MethodGet, "/events", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp2.Body.Close()
	for feed := bufio.NewScanner(resp2.Body); feed.Scan() && !strings.HasPrefix(feed.Text(), ": still here"); {
		if strings.Contains(feed.Text(), "trouble") {
			t.Errorf("it has %q", feed.Text())
		}
	}
}

// TestLocalCommands are such that they work as they are copied.
func TestLocalCommands(t *testing.T) {
	t.Parallel()
	h := &handler{isLocal: true, dead: "projects/p/subscriptions/dead"}
	for want, s := range map[string]delivery.Subscription{
		"pushinbox delivery pause --subscription a":                   {Name: "projects/p/subscriptions/a", State: delivery.Delivering, Endpoint: "http://a/"},
		"pushinbox dead-letters list --dead-letter-subscription b":    {Name: "projects/p/subscriptions/b", State: delivery.Waiting, DeadLetters: true},
		"pushinbox delivery pause --subscription a --token-file FILE": {Name: "projects/p/subscriptions/a", State: delivery.Delivering, Endpoint: "http://a/?token=…"},
	} {
		if got := h.commands(&s); len(got) == 0 || got[0].Text != want {
			t.Errorf("%+v, want %s", got, want)
		}
		// Only the inbox's own dead letters have a page, and those of others all commands.
		if c := h.card(s, 0); c.HasPage || s.DeadLetters && len(c.Commands) != 3 {
			t.Errorf("the card of %s: %+v", s.Name, c)
		}
	}
	if c := h.card(delivery.Subscription{Name: h.dead, State: delivery.Waiting, DeadLetters: true}, 0); !c.HasPage || len(c.Commands) != 0 {
		t.Errorf("the card of the inbox's dead letters: %+v", c)
	}
	if c := h.deadLetterCommands(&delivery.Subscription{State: delivery.Redriving}); c[0].Text != "pushinbox dead-letters redrive --stop" {
		t.Errorf("while one is attached: %+v", c)
	}
	foreign := h.troubleOf(&delivery.Report{Subscriptions: []delivery.Subscription{{Name: "projects/p/subscriptions/b", State: delivery.Waiting, DeadLetters: true, Backlog: ptr[int64](2)}}})
	if want := (remark{"2 dead letters wait in b", "/delivery", "projects/p/subscriptions/b", deadLettersWait}); len(foreign.Line) != 1 || foreign.Line[0] != want {
		t.Errorf("dead letters of a program: %+v", foreign.Line)
	}
	h.localData = "/my data"
	for _, c := range append(h.deadLetterCommands(nil), h.doctor()) {
		if !strings.HasSuffix(c.Text, " --data '/my data'") {
			t.Errorf("it does not say where the run is: %s", c.Text)
		}
	}
}
