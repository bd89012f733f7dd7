package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/delivery"
)

// troubled is a report of an inbox in every kind of trouble, with what strangers have
// written.
func troubled() *delivery.Report {
	at := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	hour := delivery.Window{Pushes: new(int64(1200)), AckedShare: new(0.9999), P50Millis: new(3.5), P99Millis: new(120.0), DeadLettered: new(int64(2))}
	nothing := delivery.Window{Pushes: new(int64(0)), DeadLettered: new(int64(0))}
	return &delivery.Report{
		At: at,
		Subscriptions: []delivery.Subscription{
			{
				Name: "projects/p/subscriptions/inbox-push", State: delivery.Delivering, Endpoint: "https://receive.example/wrapped?token=…",
				Backlog: new(int64(12)), OldestSeconds: new(7260.0), LastHour: hour, LastDay: delivery.Window{},
			},
			{
				Name: "projects/p/subscriptions/late", State: delivery.Paused, LastHour: nothing, LastDay: nothing,
				Operation: &delivery.Operation{Kind: delivery.Pause, Principal: "eve\x1b[2J@example.com", At: at.Add(-time.Hour), LostFrom: at.Add(48 * time.Hour)},
			},
			{Name: "projects/p/subscriptions/dead", State: delivery.Waiting, DeadLetters: true, Backlog: new(int64(3)), OldestSeconds: new(30.0), LastHour: nothing, LastDay: nothing},
			{Name: "projects/p/subscriptions/dead2", State: delivery.Redriving, DeadLetters: true, Backlog: new(int64(0)), OldestSeconds: new(0.0), LastHour: hour, LastDay: hour},
		},
		Refusals: []delivery.Refusal{
			{Last: at, Status: 403, Reason: "audience", Detail: "not\x1b]0;x\x07 this service", Subscription: "projects/p/subscriptions/inbox-push", Count: 1200, LastHour: 12},
			{Last: at, Reason: "timeout", Count: 1},
			{Last: at, Reason: "no_answer", Detail: "EOF", Count: 2},
		},
		RefusalsFrom: at.Add(-24 * time.Hour),
		Unknown:      []delivery.Unknown{{What: "numbers", Why: "the permission monitoring.timeSeries.list is missing"}},
	}
}

func TestDeliveryStatusForPeople(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	s := &statusPrinter{
		t: &terminal{w: &b, isTerminal: true, width: 80}, clock: clock{utc: true},
		where: func(string) string { return " --terraform tf" },
	}
	report := troubled()
	// The time of day alone is shown on the day itself.
	for i := range report.Refusals {
		report.Refusals[i].Last = time.Date(2020, 11, 26, 3, 0, 0, 0, time.UTC)
	}
	if err := s.print(report); err != nil {
		t.Fatal(err)
	}
	const want = `inbox-push: delivering to https://receive.example/wrapped?token=…
  waiting    12 messages, the oldest for 2h1m
  last hour  1,200 pushes, 99.9 % acknowledged, p50 3.5 ms, p99 120 ms, 2 dead letters
  last day   unknown
late: paused
  It is paused since 2026-11-26 02:00:00.000 UTC by eve\x1b[2J@example.com: nothing is pushed. What waits is lost from 2026-11-28 03:00:00.000 UTC on. Go on with: pushinbox delivery resume --terraform tf --subscription late
  waiting    unknown
  last hour  0 pushes
  last day   0 pushes
dead: waiting
  Its messages were given up after the last attempt. Look at them with: pushinbox dead-letters list --terraform tf --dead-letter-subscription dead
  waiting    3 messages, the oldest for 30s
dead2: redriving
  Its dead letters are pushed, and nothing says by whom; what fails comes again and again. End it with: pushinbox dead-letters redrive --stop --terraform tf --dead-letter-subscription dead2
  waiting    0 messages
  last hour  1,200 pushes, 99.9 % acknowledged, p50 3.5 ms, p99 120 ms, 2 dead letters
  last day   1,200 pushes, 99.9 % acknowledged, p50 3.5 ms, p99 120 ms, 2 dead letters

Not acknowledged since 2026-11-25 03:00:00.000 UTC, the latest first:
  2020-11-26 03:00:00.000  403 audience, 1,200 pushes of inbox-push, 12 in the last hour
      not\x1b]0;x\a this service
  2020-11-26 03:00:00.000  no answer timeout, 1 push from an unknown sender, 0 in the last hour
  2020-11-26 03:00:00.000  no answer, 2 pushes from an unknown sender, 0 in the last hour
      EOF
Unknown: numbers: the permission monitoring.timeSeries.list is missing.
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// TestDeliveryStatus runs the command as scripts do, on a console that is not local.
func TestDeliveryStatus(t *testing.T) {
	t.Parallel()
	report, err := json.Marshal(troubled())
	if err != nil {
		t.Fatal(err)
	}
	console := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/delivery" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(report)
	}))
	t.Cleanup(console.Close)
	out, errs, code := run(t, "", "delivery", "status", "--url", console.URL)
	const want = "subscription\tprojects/p/subscriptions/inbox-push\tdelivering\thttps://receive.example/wrapped?token=…\t12\t7260\t1200\t0.9999\t3.5\t120\t2\t\t\t\t\t\n" +
		"subscription\tprojects/p/subscriptions/late\tpaused\t\t\t\t0\t\t\t\t0\t0\t\t\t\t0\n" +
		"subscription\tprojects/p/subscriptions/dead\twaiting\t\t3\t30\t0\t\t\t\t0\t0\t\t\t\t0\n" +
		"subscription\tprojects/p/subscriptions/dead2\tredriving\t\t0\t0\t1200\t0.9999\t3.5\t120\t2\t1200\t0.9999\t3.5\t120\t2\n" +
		"refusal\t2026-11-26T03:00:00Z\t403\taudience\t12\t1200\tprojects/p/subscriptions/inbox-push\tnot\\x1b]0;x\\a this service\n" +
		"refusal\t2026-11-26T03:00:00Z\t0\ttimeout\t0\t1\t\t\n" +
		"refusal\t2026-11-26T03:00:00Z\t0\tno_answer\t0\t2\t\tEOF\n" +
		"unknown\tnumbers\tthe permission monitoring.timeSeries.list is missing\n"
	if diff := cmp.Diff(want, out); diff != "" || code != 0 || errs != "" {
		t.Errorf("exit %d, %s, %s", code, errs, diff)
	}
	var got delivery.Report
	out, errs, code = run(t, "", "delivery", "status", "--url", console.URL, "--format", "json", "--subscription", "inbox-push")
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || strings.Count(out, "\n") != 1 || len(got.Subscriptions) != 1 || len(got.Refusals) != 1 {
		t.Errorf("exit %d, %v, %s, %s", code, err, out, errs)
	}
	if _, errs, code := run(t, "", "delivery", "status", "--url", console.URL, "--subscription", "nothing"); code != 1 || !strings.Contains(errs, `no subscription "nothing"`) {
		t.Errorf("no such subscription: exit %d, %s", code, errs)
	}
}

// TestCommandsOfHostileNames has a console name subscriptions so that a command that is
// copied would run another one.
func TestCommandsOfHostileNames(t *testing.T) {
	t.Parallel()
	const evil = "x; touch evil #"
	name := "projects/" + evil + "/subscriptions/" + evil
	c, err := inboxclient.New("https://console.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	for where, from := range map[string]*server{"--project": {}, "--terraform": {terraform: evil}} {
		for _, state := range []delivery.State{delivery.Paused, delivery.Redriving, delivery.Waiting} {
			s := &statusPrinter{where: from.where(c), several: true}
			advice := s.trouble(delivery.Subscription{Name: name, State: state, Backlog: new(int64(1))})
			if !strings.Contains(advice, where+" '"+evil+"'") || strings.Count(advice, evil) != strings.Count(advice, "'"+evil+"'") {
				t.Errorf("%s: %s", state, advice)
			}
		}
	}
}

// TestShares: the page of the delivery writes them alike.
func TestShares(t *testing.T) {
	t.Parallel()
	n := int64(1234)
	for share, want := range map[float64]string{0: "0 %", 0.0004: "under 0.1 %", 0.1236: "12.4 %", 0.99996: "99.9 %", 1: "100 %"} {
		if got, want := windowOf(delivery.Window{Pushes: &n, AckedShare: &share}), "1,234 pushes, "+want+" acknowledged"; got != want {
			t.Errorf("a share of %v is %q, want %q", share, got, want)
		}
	}
}
