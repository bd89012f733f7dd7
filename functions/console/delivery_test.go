package console

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/delivery"
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

// TestReportsAreShared has many readers ask at once, and again: the source is asked
// once a second at most.
func TestReportsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		k := newReports(told(func(context.Context) (*delivery.Report, error) {
			asked++
			time.Sleep(500 * time.Millisecond)
			return &delivery.Report{RefusalsFrom: time.Now()}, nil
		}), slog.New(slog.DiscardHandler))
		for range 10 {
			go func() { _, _ = k.get(t.Context()) }()
		}
		synctest.Wait()
		first, _ := k.get(t.Context())
		if again, _ := k.get(t.Context()); asked != 1 || again != first || k.peek() != first {
			t.Errorf("asked %d times for the first", asked)
		}
		time.Sleep(freshReport)
		if next, _ := k.get(t.Context()); asked != 2 || next == first {
			t.Errorf("asked %d times, after a second", asked)
		}
		// What is too old is not shown, and brings about what the next one sees.
		time.Sleep(shownReport + time.Second)
		if old := k.peek(); old != nil {
			t.Errorf("shown is one of %v", old.RefusalsFrom)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		if k.peek() == nil || asked != 3 {
			t.Errorf("nothing is shown after it was asked %d times", asked)
		}
		time.Sleep(time.Minute)
	})
}
