package cloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/api/logging/v2"
	"google.golang.org/api/monitoring/v3"
	"google.golang.org/api/pubsub/v1"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/testkit/asleep"
)

const (
	mainSub  = "projects/p/subscriptions/inbox-push"
	otherSub = "projects/q/subscriptions/other"
	deadSub  = "projects/p/subscriptions/dead"
	logView  = "projects/p/locations/l/buckets/b/views/v"
)

var everything = Config{Subscriptions: []string{mainSub, otherSub}, DeadLetters: deadSub, LogView: logView}

// sample is a value that Pub/Sub wrote: of a gauge, of a delta, or, for latencies, one
// request.
type sample struct {
	metric, subscription, class string
	at                          time.Time
	value                       float64
}

// world stands in for the three services. It answers in the types of Google's own
// clients, and adds samples up by Monitoring's documented rules.
type world struct {
	mu            sync.Mutex
	subscriptions map[string]*pubsub.Subscription
	samples       []sample
	entries       []*logging.LogEntry // the latest first
	// fail answers in place of a service, by the start of a path.
	fail  map[string]func(http.ResponseWriter)
	asked []string
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked = append(w.asked, r.Method+" "+r.URL.Path)
	var fail func(http.ResponseWriter)
	for path, f := range w.fail {
		if strings.HasPrefix(r.URL.Path, path) {
			fail = f
		}
	}
	w.mu.Unlock()
	if fail != nil {
		fail(rw)
		return
	}
	answer, err := w.answer(r)
	if err != nil {
		googleError(400, err.Error(), "")(rw)
		return
	}
	if answer == nil {
		googleError(404, "Resource not found (resource=x).", "")(rw)
		return
	}
	_ = json.NewEncoder(rw).Encode(answer)
}

func (w *world) answer(r *http.Request) (any, error) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		if s := w.subscriptions[strings.TrimPrefix(r.URL.Path, "/v1/")]; s != nil {
			return s, nil
		}
		return nil, nil
	case r.URL.Path == "/v2/entries:list":
		var q logging.ListLogEntriesRequest
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			return nil, err
		}
		m := regexp.MustCompile(`^jsonPayload\.refusal:\* AND timestamp>="([^"]+)"$`).FindStringSubmatch(q.Filter)
		if m == nil || q.OrderBy != "timestamp desc" || q.PageSize < 1 || q.PageSize > 1000 || !slices.Equal(q.ResourceNames, []string{logView}) {
			return nil, fmt.Errorf("%+v", q)
		}
		from := 0
		if q.PageToken != "" {
			_, _ = fmt.Sscan(q.PageToken, &from)
		}
		answer := &logging.ListLogEntriesResponse{}
		for i, e := range w.entries[from:] {
			if e.Timestamp < m[1] {
				break
			}
			if int64(len(answer.Entries)) == q.PageSize {
				answer.NextPageToken = fmt.Sprint(from + i)
				break
			}
			answer.Entries = append(answer.Entries, e)
		}
		return answer, nil
	case strings.HasSuffix(r.URL.Path, "/timeSeries"):
		return w.timeSeries(strings.Split(r.URL.Path, "/")[3], r.URL.Query())
	}
	return nil, nil
}

// timeSeries aligns and reduces samples as the reference of Aggregation says.
func (w *world) timeSeries(project string, v url.Values) (any, error) {
	m := regexp.MustCompile(`^metric\.type="pubsub\.googleapis\.com/subscription/(\w+)" AND resource\.type="pubsub_subscription" AND resource\.labels\.subscription_id=one_of\(("[^)]+")\)$`).FindStringSubmatch(v.Get("filter"))
	if m == nil {
		return nil, errors.New("the filter is " + v.Get("filter"))
	}
	start, err1 := time.Parse(time.RFC3339, v.Get("interval.startTime"))
	end, err2 := time.Parse(time.RFC3339, v.Get("interval.endTime"))
	period, err3 := time.ParseDuration(v.Get("aggregation.alignmentPeriod"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	byClass := slices.Contains(v["aggregation.groupByFields"], "metric.labels.response_class")
	if !slices.Contains(v["aggregation.groupByFields"], "resource.labels.subscription_id") {
		return nil, errors.New("not by subscription")
	}
	type key struct{ subscription, class string }
	values := map[key]map[int][]float64{}
	for _, s := range w.samples {
		parts := strings.Split(s.subscription, "/")
		if s.metric != m[1] || parts[1] != project || !strings.Contains(m[2], `"`+parts[3]+`"`) || !s.at.After(start) || s.at.After(end) {
			continue
		}
		k := key{subscription: parts[3]}
		if byClass {
			k.class = s.class
		}
		if values[k] == nil {
			values[k] = map[int][]float64{}
		}
		part := int(end.Sub(s.at) / period) // counted back from the end
		values[k][part] = append(values[k][part], s.value)
	}
	answer := &monitoring.ListTimeSeriesResponse{}
	for k, parts := range values {
		series := &monitoring.TimeSeries{
			Metric:   &monitoring.Metric{Type: m[1], Labels: map[string]string{}},
			Resource: &monitoring.MonitoredResource{Labels: map[string]string{"subscription_id": k.subscription, "project_id": project}},
		}
		if byClass {
			series.Metric.Labels["response_class"] = k.class
		}
		for part, of := range parts {
			value := &monitoring.TypedValue{}
			whole := func(f float64) { n := int64(f); value.Int64Value = &n }
			switch v.Get("aggregation.perSeriesAligner") + " " + v.Get("aggregation.crossSeriesReducer") {
			case "ALIGN_DELTA REDUCE_SUM":
				sum := 0.0
				for _, f := range of {
					sum += f
				}
				whole(sum)
			case "ALIGN_MAX REDUCE_SUM", "ALIGN_MAX REDUCE_MAX":
				whole(slices.Max(of))
			case "ALIGN_DELTA REDUCE_PERCENTILE_50":
				f := percentile(of, 0.5)
				value.DoubleValue = &f
			case "ALIGN_DELTA REDUCE_PERCENTILE_99":
				f := percentile(of, 0.99)
				value.DoubleValue = &f
			default:
				return nil, errors.New("another aggregation")
			}
			at := end.Add(-period * time.Duration(part))
			series.Points = append(series.Points, &monitoring.Point{
				Interval: &monitoring.TimeInterval{StartTime: at.Add(-period).Format(time.RFC3339), EndTime: at.Format(time.RFC3339)}, Value: value,
			})
		}
		answer.TimeSeries = append(answer.TimeSeries, series)
	}
	return answer, nil
}

func percentile(of []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[int(math.Ceil(share*float64(len(sorted))))-1]
}

// googleError answers with an error in Google's form.
func googleError(status int, message, reason string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		details := []map[string]any{}
		switch reason {
		case "":
		case "VPC_SERVICE_CONTROLS":
			details = append(details, map[string]any{"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": []map[string]string{{"type": reason}}})
		default:
			details = append(details, map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": status, "message": message, "details": details}})
	}
}

// handlerClient is a client whose requests a handler answers, in the same bubble.
func handlerClient(h http.Handler) *http.Client { return &http.Client{Transport: transport{h}} }

type transport struct{ http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.ServeHTTP(rec, r)
	}()
	select {
	case <-done:
		return rec.Result(), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// memory is the records of a test.
type memory map[string]*delivery.Operation

func (m memory) Get(_ context.Context, subscription string) (*delivery.Operation, error) {
	return m[subscription], nil
}
func (m memory) Put(context.Context, *delivery.Operation) error { return errors.New("it is read only") }
func (m memory) Delete(context.Context, string) error           { return errors.New("it is read only") }

// busy is a world in which the main subscription works, with some refusals, the other
// one is paused, and dead letters wait. Its want is the report.
func busy(now time.Time) (w *world, records memory, want *delivery.Report) {
	end := now.Truncate(time.Minute)
	w = &world{subscriptions: map[string]*pubsub.Subscription{
		mainSub:  {Name: mainSub, Topic: "projects/p/topics/inbox", PushConfig: &pubsub.PushConfig{PushEndpoint: "https://r.example/wrapped?token=MARKER"}},
		otherSub: {Name: otherSub, Topic: "projects/q/topics/other", PushConfig: &pubsub.PushConfig{}},
		deadSub:  {Name: deadSub, Topic: "projects/p/topics/dead", PushConfig: &pubsub.PushConfig{}},
	}}
	hour, day := &delivery.Window{}, &delivery.Window{}
	for _, part := range []struct {
		w     *delivery.Window
		step  time.Duration
		parts int
	}{{hour, time.Minute, 60}, {day, 15 * time.Minute, 96}} {
		for i := range part.parts {
			part.w.Points = append(part.w.Points, delivery.Point{At: end.Add(-part.step * time.Duration(part.parts-1-i))})
		}
		part.w.Pushes, part.w.DeadLettered = new(int64), new(int64)
	}
	var latencies [2][]float64
	var acked [2]int64
	// A sample each minute of more than a day; the last three minutes lag.
	for i := 3; i < 1500; i++ {
		at := end.Add(-time.Duration(i)*time.Minute - 7*time.Second)
		n, bad, waits := float64(i%11), float64(i%4), float64(i%90)
		w.samples = append(w.samples,
			sample{metricPushes, mainSub, "ack", at, n}, sample{metricPushes, mainSub, "remote_server_4xx", at, bad},
			sample{metricPushes, mainSub, "deadline_exceeded", at, 1}, sample{metricBacklog, mainSub, "", at, waits},
			sample{metricOldest, mainSub, "", at, 100 + float64(i)}, sample{metricLatencies, mainSub, "", at, 1000 * n},
			sample{metricBacklog, deadSub, "", at, 7}, sample{metricOldest, deadSub, "", at, 3600},
			// Another's numbers, of the same short name in another project.
			sample{metricBacklog, "projects/q/subscriptions/inbox-push", "", at, 99},
		)
		if i%100 == 0 {
			w.samples = append(w.samples, sample{metricDead, mainSub, "", at, 2})
		}
		for k, part := range []struct {
			w    *delivery.Window
			step time.Duration
		}{{hour, time.Minute}, {day, 15 * time.Minute}} {
			back := int(end.Sub(at) / part.step)
			if back >= len(part.w.Points) {
				continue
			}
			p := &part.w.Points[len(part.w.Points)-1-back]
			p.Acked += int64(n)
			p.Refused += int64(bad) + 1
			if most := int64(waits); p.Backlog == nil || *p.Backlog < most {
				p.Backlog = &most
			}
			acked[k] += int64(n)
			*part.w.Pushes += int64(n) + int64(bad) + 1
			latencies[k] = append(latencies[k], n)
			if i%100 == 0 {
				*part.w.DeadLettered += 2
			}
		}
	}
	for k, part := range []*delivery.Window{hour, day} {
		share, p50, p99 := float64(acked[k])/float64(*part.Pushes), percentile(latencies[k], 0.5), percentile(latencies[k], 0.99)
		part.AckedShare, part.P50Millis, part.P99Millis = &share, &p50, &p99
	}
	entry := func(ago time.Duration, status int64, reason, text, subscription string) {
		payload, _ := json.Marshal(map[string]any{"refusal": reason, "error": text, "subscription": subscription})
		w.entries = append(w.entries, &logging.LogEntry{Timestamp: now.Add(-ago).Format(time.RFC3339Nano), HttpRequest: &logging.HttpRequest{Status: status}, JsonPayload: payload})
	}
	entry(time.Second, 403, "audience", "the latest\u202e sentence", "")
	entry(2*time.Second, 503, "inbox_unavailable", "away: Post https://x/?token=MARKER", mainSub)
	entry(time.Minute, 403, "audience", "an earlier sentence", "")
	entry(2*time.Hour, 403, "audience", "", "")
	entry(25*time.Hour, 401, "no_token", "too long ago", "")

	paused := &delivery.Operation{Kind: delivery.Pause, Subscription: otherSub, Principal: "me@example.com", At: now.Add(-time.Hour)}
	number := func(n int64) *int64 { return &n }
	seconds := func(f float64) *float64 { return &f }
	return w, memory{otherSub: paused}, &delivery.Report{
		At: now,
		Subscriptions: []delivery.Subscription{
			{Name: mainSub, Topic: "projects/p/topics/inbox", State: delivery.Delivering, Endpoint: "https://r.example/wrapped?token=…",
				Backlog: number(3), OldestSeconds: seconds(103), LastHour: *hour, LastDay: *day},
			{Name: otherSub, Topic: "projects/q/topics/other", State: delivery.Paused, Operation: paused},
			{Name: deadSub, Topic: "projects/p/topics/dead", DeadLetters: true, State: delivery.Waiting, Backlog: number(7), OldestSeconds: seconds(3600)},
		},
		Refusals: []delivery.Refusal{
			{Last: now.Add(-time.Second), Status: 403, Reason: "audience", Detail: "the latest  sentence", Count: 3, LastHour: 2},
			{Last: now.Add(-2 * time.Second), Status: 503, Reason: "inbox_unavailable", Detail: "away: Post https://x/?token=…", Subscription: mainSub, Count: 1, LastHour: 1},
		},
		RefusalsFrom: now.Add(-24 * time.Hour),
		Unknown:      []delivery.Unknown{},
	}
}

func newSource(t *testing.T, h http.Handler, records delivery.Records) *Source {
	t.Helper()
	s, err := New(everything, records, handlerClient(h))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestReport holds the numbers of a report against an injected series of a day.
func TestReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(1234567 * time.Second)
		w, records, want := busy(time.Now().UTC())
		got, err := newSource(t, w, records).Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// Of the dead letters only what waits is compared.
		got.Subscriptions[2].LastHour, got.Subscriptions[2].LastDay = delivery.Window{}, delivery.Window{}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNoDataIsNotZero tells a subscription that Monitoring does not know from one
// without pushes.
func TestNoDataIsNotZero(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _, _ := busy(time.Now().UTC())
		w.samples = []sample{{metricBacklog, mainSub, "", time.Now().Add(-5 * time.Minute), 0}, {metricBacklog, deadSub, "", time.Now().Add(-20 * time.Minute), 5}}
		r, err := newSource(t, w, nil).Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		known, unknown, old := r.Subscriptions[0], r.Subscriptions[1], r.Subscriptions[2]
		if known.Backlog == nil || *known.Backlog != 0 || known.OldestSeconds == nil || *known.OldestSeconds != 0 ||
			known.LastHour.Pushes == nil || *known.LastHour.Pushes != 0 || known.LastHour.AckedShare != nil || known.LastHour.DeadLettered == nil || len(known.LastHour.Points) != 60 {
			t.Errorf("nothing was pushed: %+v", known)
		}
		if unknown.Backlog != nil || unknown.OldestSeconds != nil || unknown.LastHour.Pushes != nil || unknown.LastHour.DeadLettered != nil || unknown.LastHour.Points != nil {
			t.Errorf("Monitoring does not know it: %+v", unknown)
		}
		if old.Backlog != nil || old.OldestSeconds != nil {
			t.Errorf("what waited 20 minutes ago is told as what waits: %+v", old)
		}
	})
}

// TestUnknown takes one service away at a time: what it knows is unknown, with what
// would help, and the rest is told.
func TestUnknown(t *testing.T) {
	t.Parallel()
	hang := func(w http.ResponseWriter) { time.Sleep(time.Hour) }
	for name, test := range map[string]struct {
		path string
		fail func(http.ResponseWriter)
		what string
		why  string
	}{
		"pubsub_denied":     {"/v1/" + mainSub, googleError(403, "User not authorized to perform this action.", ""), "subscriptions", "no permission pubsub.subscriptions.get on " + mainSub + " (roles/pubsub.viewer)"},
		"pubsub_slow":       {"/v1/", hang, "subscriptions", "there was no answer in time"},
		"monitoring_denied": {"/v3/projects/p/", googleError(403, "Permission monitoring.timeSeries.list denied.", ""), "numbers", "no permission monitoring.timeSeries.list on projects/p (roles/monitoring.viewer)"},
		"monitoring_off":    {"/v3/projects/p/", googleError(403, "Cloud Monitoring API has not been used", "SERVICE_DISABLED"), "numbers", "the API of Cloud Monitoring is disabled"},
		"monitoring_slow":   {"/v3/projects/p/", hang, "numbers", "there was no answer in time"},
		"monitoring_broken": {"/v3/projects/p/", func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }, "numbers", "Cloud Monitoring cannot be reached"},
		"monitoring_endless": {"/v3/projects/p/", func(w http.ResponseWriter) {
			for range 9 {
				_, _ = w.Write(make([]byte, 1<<20))
			}
		}, "numbers", "Cloud Monitoring cannot be reached"},
		"logging_denied":  {"/v2/", googleError(403, "Permission denied", ""), "refusals", "no permission logging.views.access on " + logView + " (roles/logging.viewAccessor)"},
		"logging_fenced":  {"/v2/", googleError(403, "Request is prohibited by organization's policy.", "VPC_SERVICE_CONTROLS"), "refusals", "VPC Service Controls keep the console from Cloud Logging"},
		"logging_busy":    {"/v2/", googleError(429, "Quota exceeded", "RATE_LIMIT_EXCEEDED"), "refusals", "Cloud Logging is asked too often"},
		"logging_missing": {"/v2/", googleError(404, "no such view", ""), "refusals", logView + " does not exist"},
		"logging_slow":    {"/v2/", hang, "refusals", "there was no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w, records, want := busy(time.Now().UTC())
				w.fail = map[string]func(http.ResponseWriter){test.path: test.fail}
				s := newSource(t, w, records)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				began := time.Now()
				got, err := s.Report(ctx)
				if err != nil || time.Since(began) > 2*time.Second {
					t.Fatalf("%v after %v", err, time.Since(began))
				}
				if len(got.Unknown) != 1 || got.Unknown[0].What != test.what || !strings.HasPrefix(got.Unknown[0].Why, test.why) {
					t.Errorf("unknown is %q, want %s: %s", got.Unknown, test.what, test.why)
				}
				// The parts that do not come from there are as ever.
				if test.what != "refusals" && (len(got.Refusals) != 2 || got.RefusalsFrom.IsZero()) || test.what == "refusals" && !got.RefusalsFrom.IsZero() {
					t.Errorf("refusals since %v: %+v", got.RefusalsFrom, got.Refusals)
				}
				for i := range got.Subscriptions {
					wantState := want.Subscriptions[i].State
					if test.path == "/v1/" || test.path == "/v1/"+got.Subscriptions[i].Name {
						wantState = delivery.NotKnown
					}
					if got.Subscriptions[i].State != wantState {
						t.Errorf("%s is %s, want %s", got.Subscriptions[i].Name, got.Subscriptions[i].State, wantState)
					}
				}
				if isKnown := got.Subscriptions[0].LastHour.Pushes != nil; isKnown == (test.what == "numbers") {
					t.Errorf("numbers are known: %v", isKnown)
				}
				time.Sleep(2 * time.Hour) // let what hangs end
			})
		})
	}
}

// TestStates has every state that Pub/Sub can tell.
func TestStates(t *testing.T) {
	t.Parallel()
	push := &pubsub.PushConfig{PushEndpoint: "https://r.example/"}
	for name, test := range map[string]struct {
		sub  *pubsub.Subscription
		name string
		want delivery.State
	}{
		"delivering": {&pubsub.Subscription{Topic: "t", PushConfig: push}, mainSub, delivery.Delivering},
		"paused":     {&pubsub.Subscription{Topic: "t"}, mainSub, delivery.Paused},
		"waiting":    {&pubsub.Subscription{Topic: "t"}, deadSub, delivery.Waiting},
		"redriving":  {&pubsub.Subscription{Topic: "t", PushConfig: push}, deadSub, delivery.Redriving},
		"detached":   {&pubsub.Subscription{Topic: "t", Detached: true}, mainSub, delivery.Detached},
		"topic_gone": {&pubsub.Subscription{Topic: "_deleted-topic_", PushConfig: push}, mainSub, delivery.TopicGone},
		"missing":    {nil, mainSub, delivery.Missing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w, _, _ := busy(time.Now().UTC())
				w.subscriptions[test.name] = test.sub
				r, err := newSource(t, w, nil).Report(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range r.Subscriptions {
					if s.Name == test.name && (s.State != test.want || s.Topic == "_deleted-topic_") {
						t.Errorf("%+v, want %s", s, test.want)
					}
				}
				if len(r.Unknown) != 0 {
					t.Error(r.Unknown)
				}
			})
		})
	}
}

// TestKept asks often: each service is asked once a minute, and once every ten seconds
// while it fails. What came too late for one is there for the next.
func TestKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, records, _ := busy(time.Now().UTC())
		s := newSource(t, w, records)
		count := func(prefix string) (n int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, a := range w.asked {
				if strings.Contains(a, prefix) {
					n++
				}
			}
			return n
		}
		ask := func() *delivery.Report {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			r, err := s.Report(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { ask() })
		}
		all.Wait()
		time.Sleep(keep - time.Second)
		ask()
		if a, b, c := count("entries:list"), count(mainSub), count("/v3/projects/p/"); a != 1 || b != 1 || c != len(queries) {
			t.Errorf("in a minute: %d, %d, %d requests", a, b, c)
		}
		time.Sleep(time.Second)
		w.mu.Lock()
		w.fail = map[string]func(http.ResponseWriter){"/v2/": googleError(503, "away", "")}
		w.mu.Unlock()
		if r := ask(); count("entries:list") != 2 || len(r.Refusals) != 0 || len(r.Unknown) != 1 {
			t.Errorf("after a minute: %d requests, %+v", count("entries:list"), r)
		}
		time.Sleep(keepError)
		w.mu.Lock()
		w.fail = map[string]func(http.ResponseWriter){"/v2/": func(rw http.ResponseWriter) {
			time.Sleep(5 * time.Second)
			_, _ = rw.Write([]byte(`{}`))
		}}
		w.mu.Unlock()
		if r := ask(); len(r.Unknown) != 1 {
			t.Errorf("too slow, and %+v", r.Unknown)
		}
		time.Sleep(3 * time.Second)
		if r := ask(); len(r.Unknown) != 0 || count("entries:list") != 3 {
			t.Errorf("in time for the next: %d requests, %+v", count("entries:list"), r.Unknown)
		}
	})
}

// TestKeptAfterSleep has the machine sleep for an hour after an answer was kept.
func TestKeptAfterSleep(t *testing.T) {
	t.Parallel()
	k := kept[int]{value: 1, until: asleep.After(-time.Hour).Add(keep)}
	got, err := k.get(t.Context(), func(context.Context) (int, error) { return 2, nil })
	if got != 2 || err != nil {
		t.Errorf("got %d, %v, want what is fetched now", got, err)
	}
}

// TestManyRefusals has more than are read: they are counted as far as that goes, and
// the report says how far.
func TestManyRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC()
		w, _, _ := busy(now)
		w.entries = nil
		for i := range 5000 {
			payload, _ := json.Marshal(map[string]any{"refusal": fmt.Sprint("r", i%70), "error": strings.Repeat("x", 4096)})
			w.entries = append(w.entries, &logging.LogEntry{Timestamp: now.Add(-time.Duration(i+1) * time.Second).Format(time.RFC3339Nano), JsonPayload: payload, HttpRequest: &logging.HttpRequest{Status: 403}})
		}
		r, err := newSource(t, w, nil).Report(t.Context())
		if err != nil || len(r.Unknown) > 0 {
			t.Fatal(err, r.Unknown)
		}
		if got := cmp.Compare(len(r.Refusals), delivery.MaxRefusals); got != 0 || !r.RefusalsFrom.Equal(now.Add(-500*time.Second)) || len(r.Refusals[0].Detail) > 400 || r.Refusals[0].Count != 8 {
			t.Errorf("%d lines since %v, the first %.100v", len(r.Refusals), now.Sub(r.RefusalsFrom), r.Refusals[0])
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{}, {Subscriptions: []string{""}}, {Subscriptions: []string{"inbox-push"}}, {DeadLetters: "projects/p/topics/t"}, {Subscriptions: []string{"projects/p/subscriptions/a/b"}}} {
		if _, err := New(c, nil, nil); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	if _, err := New(Config{DeadLetters: deadSub}, nil, nil); err != nil {
		t.Error(err)
	}
}

// TestNoRedirect has a service send the console elsewhere.
func TestNoRedirect(t *testing.T) {
	t.Parallel()
	s := newSource(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host == "elsewhere.example" {
			t.Errorf("%s was followed", r.URL)
		}
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
	}), nil)
	r, err := s.Report(t.Context())
	if err != nil || len(r.Unknown) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
