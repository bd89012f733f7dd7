package cloud

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

// The windows of a report, in parts.
const (
	hourStep, hourParts = time.Minute, 60
	dayStep, dayParts   = 15 * time.Minute, 96
	// recent is how old the latest value of a gauge may be: Monitoring lags by
	// minutes, and has gaps.
	recent = 15 * time.Minute
)

// The metrics, without what all of them begin with.
const (
	metricPushes    = "push_request_count"
	metricLatencies = "push_request_latencies"
	metricBacklog   = "num_undelivered_messages"
	metricOldest    = "oldest_unacked_message_age"
	metricDead      = "dead_letter_message_count"
)

// query is one list of time series: a metric in parts of step up to the end, one series
// for each subscription and for each value of by, if any.
type query struct {
	metric          string
	step            time.Duration
	parts           int
	aligner, reduce string
	by              string
}

// The queries of a report.
var (
	pushesOfHour  = query{metricPushes, hourStep, hourParts, "ALIGN_DELTA", "REDUCE_SUM", "metric.labels.response_class"}
	pushesOfDay   = query{metricPushes, dayStep, dayParts, "ALIGN_DELTA", "REDUCE_SUM", "metric.labels.response_class"}
	backlogOfHour = query{metricBacklog, hourStep, hourParts, "ALIGN_MAX", "REDUCE_SUM", ""}
	backlogOfDay  = query{metricBacklog, dayStep, dayParts, "ALIGN_MAX", "REDUCE_SUM", ""}
	oldest        = query{metricOldest, hourStep, hourParts, "ALIGN_MAX", "REDUCE_MAX", ""}
	deadOfHour    = query{metricDead, time.Hour, 1, "ALIGN_DELTA", "REDUCE_SUM", ""}
	deadOfDay     = query{metricDead, 24 * time.Hour, 1, "ALIGN_DELTA", "REDUCE_SUM", ""}
	p50OfHour     = query{metricLatencies, time.Hour, 1, "ALIGN_DELTA", "REDUCE_PERCENTILE_50", ""}
	p99OfHour     = query{metricLatencies, time.Hour, 1, "ALIGN_DELTA", "REDUCE_PERCENTILE_99", ""}
	p50OfDay      = query{metricLatencies, 24 * time.Hour, 1, "ALIGN_DELTA", "REDUCE_PERCENTILE_50", ""}
	p99OfDay      = query{metricLatencies, 24 * time.Hour, 1, "ALIGN_DELTA", "REDUCE_PERCENTILE_99", ""}

	queries = []query{pushesOfHour, pushesOfDay, backlogOfHour, backlogOfDay, oldest, deadOfHour, deadOfDay, p50OfHour, p99OfHour, p50OfDay, p99OfDay}
)

// series is a time series of a subscription, its points the latest first.
type series struct {
	subscription, label string
	points              []point
}

type point struct {
	end   time.Time
	value float64
}

// numbers are the answers to all queries for one project; the zero value knows nothing.
type numbers struct {
	end    time.Time
	series map[query][]series
}

// fetchNumbers asks Monitoring for the numbers of a project's subscriptions. One answer
// that lacks makes all of them unknown, since their numbers would not fit.
func (s *Source) fetchNumbers(ctx context.Context, project string) (numbers, error) {
	var ids []string
	for _, name := range s.names {
		if projectOf(name) == project {
			ids = append(ids, `"`+inbox.ShortName(name)+`"`)
		}
	}
	// Points end at the end of a query, so that all of them fit at whole minutes.
	n := numbers{end: time.Now().UTC().Truncate(time.Minute), series: make(map[query][]series)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var first error
	var all sync.WaitGroup
	for _, q := range queries {
		all.Go(func() {
			found, err := s.fetchSeries(ctx, project, ids, q, n.end)
			mu.Lock()
			defer mu.Unlock()
			n.series[q] = found
			if err != nil && first == nil {
				first = err
				cancel() // the others are in vain
			}
		})
	}
	all.Wait()
	if first != nil {
		return numbers{}, asked("Cloud Monitoring", "projects/"+project, "monitoring.timeSeries.list", "roles/monitoring.viewer", first)
	}
	return n, nil
}

// fetchSeries asks for one query.
func (s *Source) fetchSeries(ctx context.Context, project string, ids []string, q query, end time.Time) ([]series, error) {
	v := url.Values{
		"filter": {`metric.type="pubsub.googleapis.com/subscription/` + q.metric + `" AND resource.type="pubsub_subscription" AND resource.labels.subscription_id=one_of(` + strings.Join(ids, ",") + `)`},
		// The start is not part of the interval.
		"interval.startTime":             {end.Add(-q.step * time.Duration(q.parts)).Format(time.RFC3339)},
		"interval.endTime":               {end.Format(time.RFC3339)},
		"aggregation.alignmentPeriod":    {strconv.Itoa(int(q.step.Seconds())) + "s"},
		"aggregation.perSeriesAligner":   {q.aligner},
		"aggregation.crossSeriesReducer": {q.reduce},
		"aggregation.groupByFields":      {"resource.labels.subscription_id"},
	}
	if q.by != "" {
		v.Add("aggregation.groupByFields", q.by)
	}
	var found []series
	for pages := 0; ; pages++ {
		var answer struct {
			TimeSeries []struct {
				Metric   struct{ Labels map[string]string }
				Resource struct{ Labels map[string]string }
				Points   []struct {
					Interval struct{ EndTime time.Time }
					Value    struct {
						Int64Value  *integer
						DoubleValue *float64
					}
				}
			}
			NextPageToken string
			// ExecutionErrors say what is not in the answer.
			ExecutionErrors []struct{ Message string }
		}
		if err := s.rest.call(ctx, http.MethodGet, "https://monitoring.googleapis.com/v3/projects/"+url.PathEscape(project)+"/timeSeries?"+v.Encode(), nil, &answer); err != nil {
			return nil, err
		}
		if len(answer.ExecutionErrors) > 0 {
			return nil, errors.New("part of the answer is missing: " + answer.ExecutionErrors[0].Message)
		}
		for _, t := range answer.TimeSeries {
			one := series{subscription: t.Resource.Labels["subscription_id"], label: t.Metric.Labels["response_class"]}
			for _, p := range t.Points {
				value := 0.0
				switch {
				case p.Value.Int64Value != nil:
					value = float64(*p.Value.Int64Value)
				case p.Value.DoubleValue != nil:
					value = *p.Value.DoubleValue
				}
				if !math.IsInf(value, 0) && !math.IsNaN(value) && value >= 0 {
					one.points = append(one.points, point{p.Interval.EndTime.UTC(), value})
				}
			}
			slices.SortFunc(one.points, func(a, b point) int { return b.end.Compare(a.end) })
			found = append(found, one)
		}
		if answer.NextPageToken == "" {
			return found, nil
		}
		if pages == 5 {
			return nil, errors.New("there are too many time series")
		}
		v.Set("pageToken", answer.NextPageToken)
	}
}

// of returns the series of one subscription.
func (n numbers) of(q query, subscription string) []series {
	var found []series
	for _, s := range n.series[q] {
		if s.subscription == subscription {
			found = append(found, s)
		}
	}
	return found
}

// latest returns the last value of a gauge, if it is recent.
func (n numbers) latest(q query, subscription string) *float64 {
	for _, s := range n.of(q, subscription) {
		if len(s.points) > 0 && n.end.Sub(s.points[0].end) <= recent {
			return &s.points[0].value
		}
	}
	return nil
}

// total returns the sum of a delta's values.
func (n numbers) total(q query, subscription string) (sum float64) {
	for _, s := range n.of(q, subscription) {
		for _, p := range s.points {
			sum += p.value
		}
	}
	return sum
}

// describe sets the numbers of d.
func (n numbers) describe(d *delivery.Subscription) {
	id := inbox.ShortName(d.Name)
	if backlog := n.latest(backlogOfHour, id); backlog != nil {
		waits := int64(*backlog)
		d.Backlog = &waits
		if waits == 0 {
			d.OldestSeconds = new(float64)
		}
	}
	if age := n.latest(oldest, id); age != nil && (d.Backlog == nil || *d.Backlog > 0) {
		d.OldestSeconds = age
	}
	n.window(&d.LastHour, id, pushesOfHour, backlogOfHour, deadOfHour, p50OfHour, p99OfHour)
	n.window(&d.LastDay, id, pushesOfDay, backlogOfDay, deadOfDay, p50OfDay, p99OfDay)
}

// window sets the numbers of w. Monitoring has no series of what did not happen, so
// that one that lacks is zero where it has the backlog of the subscription, which it
// always writes, and unknown elsewhere.
func (n numbers) window(w *delivery.Window, id string, pushes, backlog, dead, p50, p99 query) {
	if len(n.of(backlog, id)) == 0 && len(n.of(pushes, id)) == 0 {
		return
	}
	step := pushes.step
	w.Points = make([]delivery.Point, pushes.parts)
	begin := n.end.Add(-step * time.Duration(pushes.parts))
	// at returns the part in which a point is.
	at := func(p point) *delivery.Point {
		i := int((p.end.Sub(begin) - 1) / step)
		if p.end.Sub(begin) <= 0 || i >= len(w.Points) {
			return &delivery.Point{}
		}
		return &w.Points[i]
	}
	for i := range w.Points {
		w.Points[i].At = begin.Add(step * time.Duration(i+1))
	}
	var acked, refused int64
	for _, s := range n.of(pushes, id) {
		for _, p := range s.points {
			if s.label == "ack" {
				at(p).Acked += int64(p.value)
				acked += int64(p.value)
			} else {
				at(p).Refused += int64(p.value)
				refused += int64(p.value)
			}
		}
	}
	for _, s := range n.of(backlog, id) {
		for _, p := range s.points {
			waits := int64(p.value)
			at(p).Backlog = &waits
		}
	}
	all := acked + refused
	w.Pushes = &all
	if all > 0 {
		share := float64(acked) / float64(all)
		w.AckedShare = &share
	}
	gaveUp := int64(n.total(dead, id))
	w.DeadLettered = &gaveUp
	w.P50Millis, w.P99Millis = n.millis(p50, id), n.millis(p99, id)
}

// millis returns a percentile of the latencies, which Pub/Sub measures in
// microseconds; nil where there were none.
func (n numbers) millis(q query, id string) *float64 {
	for _, s := range n.of(q, id) {
		if len(s.points) > 0 {
			ms := s.points[0].value / 1000
			return &ms
		}
	}
	return nil
}

// integer is an int64 as Google's JSON writes it, a string.
type integer int64

// UnmarshalJSON reads a string or a number.
func (n *integer) UnmarshalJSON(b []byte) error {
	text := string(b)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	v, err := strconv.ParseInt(text, 10, 64)
	*n = integer(v)
	return err
}
