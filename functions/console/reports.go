package console

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/expiry"
	"example.com/pushinbox/shared/problem"
)

const (
	// reportBudget is how long a source may collect a report, and reportPatience how
	// long after that a reader waits for one that does not keep to it.
	reportBudget   = 2 * time.Second
	reportPatience = 500 * time.Millisecond
	// freshReport is how old a report may be that is answered without asking the
	// source again, but on one machine, where asking costs nothing, and shownReport how
	// old one is that the list still shows.
	freshReport = time.Second
	shownReport = 2 * time.Minute
)

// reports has the last report of a source. The source is asked by one request at a
// time, and the others wait for its answer.
type reports struct {
	source delivery.Source
	log    *slog.Logger
	fresh  time.Duration // how old a report may be that is answered
	flight singleflight.Group
	last   atomic.Pointer[collected]
}

// collected is a report, and when it was asked for.
type collected struct {
	*delivery.Report
	asked time.Time
}

// isOlder reports whether the report was asked for so long ago, or before.
func (c *collected) isOlder(age time.Duration) bool {
	return expiry.IsOver(time.Now(), c.asked.Add(age))
}

// newReports returns the reports of d, or nil without one.
func newReports(d delivery.Source, log *slog.Logger) *reports {
	if d == nil {
		return nil
	}
	return &reports{source: d, log: log, fresh: freshReport}
}

// get returns a report that is fresh, or, where the source does not answer, one that
// says so.
func (k *reports) get(ctx context.Context) (*delivery.Report, error) {
	done := k.refresh()
	patience := time.NewTimer(reportBudget + reportPatience)
	defer patience.Stop()
	select {
	case <-done:
		return k.last.Load().Report, nil
	case <-patience.C:
		return nothingKnown("there was no answer within " + reportBudget.String()), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// peek returns the last report, or nil if it is too old, without waiting. A fresh one
// is then collected, for whoever looks next.
func (k *reports) peek() *delivery.Report {
	if k == nil {
		return nil
	}
	k.refresh()
	last := k.last.Load()
	if last == nil || last.isOlder(shownReport) {
		return nil
	}
	return last.Report
}

// refresh returns a channel that has something to receive once the last report is fresh.
func (k *reports) refresh() <-chan singleflight.Result {
	return k.flight.DoChan("", func() (any, error) {
		if last := k.last.Load(); last == nil || last.isOlder(k.fresh) {
			asked := time.Now()
			k.last.Store(&collected{k.collect(), asked})
		}
		return nil, nil
	})
}

// collect asks the source. What a panic leaves is that nothing is known.
func (k *reports) collect() (r *delivery.Report) {
	ctx, cancel := context.WithTimeout(context.Background(), reportBudget)
	defer cancel()
	r = nothingKnown("an internal error; the log has the cause")
	defer func() {
		if p := recover(); p != nil {
			k.log.Error("the delivery could not be told", slog.Any("panic", p))
		}
	}()
	told, err := k.source.Report(ctx)
	switch {
	case err != nil:
		k.log.Error("the delivery could not be told", slog.Any("error", err))
		_, why := problem.Of(err)
		r = nothingKnown(why)
	case told != nil:
		r = safe(told)
	}
	return r
}

// nothingKnown is a report that says why nothing is known.
func nothingKnown(why string) *delivery.Report {
	r := &delivery.Report{At: time.Now().UTC(), Subscriptions: []delivery.Subscription{}, Refusals: []delivery.Refusal{}}
	for _, what := range []string{"subscriptions", "numbers", "refusals", "operations"} {
		r.Unknown = append(r.Unknown, delivery.Unknown{What: what, Why: why})
	}
	return r
}

// safe returns a copy of r without the value of a shared token, whatever the source
// does, and with lists that are empty in place of absent.
func safe(r *delivery.Report) *delivery.Report {
	c := *r
	c.Subscriptions = append([]delivery.Subscription{}, r.Subscriptions...)
	c.Refusals = append([]delivery.Refusal{}, r.Refusals...)
	c.Unknown = append([]delivery.Unknown{}, r.Unknown...)
	for i := range c.Refusals {
		c.Refusals[i].Detail = delivery.HideTokens(c.Refusals[i].Detail)
	}
	for i := range c.Unknown {
		c.Unknown[i].Why = delivery.HideTokens(c.Unknown[i].Why)
	}
	for i := range c.Subscriptions {
		c.Subscriptions[i].Endpoint = delivery.HideToken(c.Subscriptions[i].Endpoint)
	}
	return &c
}
