package calendar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"example.com/pushinbox/shared/inbox"
	"golang.org/x/sync/errgroup"
	gcal "google.golang.org/api/calendar/v3"
)

const (
	// leaseTime is how long a lease lasts without being renewed: how long a
	// calendar waits after an instance died.
	leaseTime = time.Minute
	// maxStarts is how often one sync begins anew when Google does not know its
	// page or sync token any more.
	maxStarts = 5
	// putting is how many changes are on their way to the inbox at once.
	putting = 32

	warn = slog.LevelWarn
)

func calendarAttr(id string) slog.Attr { return slog.String("calendar", id) }
func errorAttr(err error) slog.Attr    { return slog.String("error", err.Error()) }

// Result is what a sync did.
type Result struct {
	CalendarID string `json:"calendarId"`
	// Runs is how often the calendar was listed: 0 when no sync was owed, more
	// than 1 when notifications came meanwhile.
	Runs int `json:"runs"`
	// Full says that one of them was a full one.
	Full bool `json:"full"`
	// Added, Updated and Deleted count the changes that went to the inbox.
	Added   int `json:"added"`
	Updated int `json:"updated"`
	Deleted int `json:"deleted"`
}

// Sync brings the inbox up to date with a calendar. It fails with ErrNotWatched
// and with ErrBusy: then the sync that is under way runs once more.
func (e *Engine) Sync(ctx context.Context, calendarID string) (Result, error) {
	return e.sync(ctx, calendarID, ask)
}

// CatchUp syncs a calendar if a notification asked for a sync that no run has
// served since: what to do for each notification. Call it again when it fails.
// ErrBusy, too, means that the sync is still owed; whoever has the lease may
// die. A calendar that is not watched is owed nothing.
func (e *Engine) CatchUp(ctx context.Context, calendarID string) (Result, error) {
	result, err := e.sync(ctx, calendarID, ifAsked)
	if errors.Is(err, ErrNotWatched) || errors.Is(err, errNothingAsked) {
		err = nil
	}
	return result, err
}

// SyncAll syncs every watched calendar: the safety net under notifications that
// were dropped. One that another instance is syncing is left to it. A calendar
// that fails does not keep the others from theirs, nor does one that takes its
// time: each has its share of what is left until ctx ends. The error joins a
// CalendarError for each that failed.
func (e *Engine) SyncAll(ctx context.Context) ([]Result, error) {
	calendars, err := e.state.Calendars(ctx)
	if err != nil {
		return nil, err
	}
	var results []Result
	var errs []error
	for i, c := range calendars {
		within, cancel := share(ctx, len(calendars)-i)
		result, err := e.Sync(within, c.ID)
		cancel()
		if err == nil {
			results = append(results, result)
		} else if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotWatched) {
			errs = append(errs, &CalendarError{c.ID, err})
		}
	}
	return results, errors.Join(errs...)
}

// share returns ctx with the nth part of the time that it has left.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

func (e *Engine) sync(ctx context.Context, calendarID string, w why) (result Result, err error) {
	result.CalendarID = calendarID
	r, err := e.begin(ctx, calendarID, w)
	if err != nil {
		return result, err
	}
	r.result = &result
	defer func() { r.release(ctx, err) }()
	for owed := true; owed; {
		// What is asked for from here on may not be in what Google lists.
		wanted := r.calendar.Wanted
		result.Runs++
		token, err := r.list(ctx)
		if err != nil {
			return result, err
		}
		if err := r.update(ctx, func(c *Calendar) {
			c.SyncToken, c.SyncedAt, c.Done = token, e.now().UTC(), wanted
			if owed = c.Wanted != c.Done; !owed {
				c.LeaseUntil = time.Time{}
			}
		}); err != nil {
			return result, err
		}
	}
	if err := e.retire(ctx, calendarID); err != nil {
		// The next sync tries again.
		e.log.LogAttrs(ctx, warn, "a replaced channel could not be stopped", calendarAttr(calendarID), errorAttr(err))
	}
	return result, nil
}

// run is the work of one holder of a calendar's lease.
type run struct {
	*Engine
	lease    Lease
	calendar Calendar // as it was when it was last written
	result   *Result
}

// why says for what a lease is taken.
type why int

const (
	ask     why = iota // for a sync that is asked for by this
	ifAsked            // for one that was asked for
	always             // for something else
)

// errNothingAsked ends begin when no sync is owed.
var errNothingAsked = errors.New("calendar: no sync is owed")

// begin takes a calendar's lease.
func (e *Engine) begin(ctx context.Context, calendarID string, w why) (*run, error) {
	r := &run{Engine: e, result: &Result{}}
	var busy bool
	err := e.state.UpdateCalendar(ctx, calendarID, func(c *Calendar) (*Calendar, error) {
		if c == nil || c.Stopping && w != always {
			return nil, ErrNotWatched
		}
		if w == ifAsked && c.Wanted == c.Done {
			return nil, errNothingAsked
		}
		if w == ask {
			c.Wanted++
		}
		now := e.now()
		if busy = now.Before(c.LeaseUntil); busy {
			if w != ask {
				return nil, ErrBusy
			}
			return c, nil
		}
		c.Fence++
		c.LeaseUntil = now.Add(leaseTime).UTC()
		r.calendar, r.lease = *c, Lease{CalendarID: c.ID, Fence: c.Fence}
		return c, nil
	})
	if err == nil && busy {
		err = ErrBusy
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// update changes the record while the lease is held, and renews that.
func (r *run) update(ctx context.Context, change func(*Calendar)) error {
	return r.state.UpdateCalendar(ctx, r.lease.CalendarID, func(c *Calendar) (*Calendar, error) {
		if c == nil || c.Fence != r.lease.Fence {
			return nil, ErrLeaseLost
		}
		c.LeaseUntil = r.now().Add(leaseTime).UTC()
		change(c)
		r.calendar = *c
		return c, nil
	})
}

// keep renews the lease when half of it is over.
func (r *run) keep(ctx context.Context) error {
	if r.calendar.LeaseUntil.Sub(r.now()) > leaseTime/2 {
		return nil
	}
	return r.update(ctx, func(*Calendar) {})
}

// release lets go of the lease after a failure, so that the next try need not
// wait for its end.
func (r *run) release(ctx context.Context, failed error) {
	if failed == nil || errors.Is(failed, ErrLeaseLost) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	// If this fails, too, the lease ends by itself.
	_ = r.update(ctx, func(c *Calendar) { c.LeaseUntil = time.Time{} })
}

// list reports what Google lists as changed since the last sync, and returns
// the token of the next.
func (r *run) list(ctx context.Context) (token string, err error) {
	if err := r.drain(ctx); err != nil {
		return "", err
	}
	full := r.calendar.SyncToken == ""
	for range maxStarts {
		p := pass{run: r, full: full, seen: map[string]bool{}, over: map[string]bool{}}
		token, err = p.do(ctx)
		switch {
		case err == nil:
			return token, nil
		case hasCode(err, http.StatusGone):
			full = true
		case hasCode(err, http.StatusBadRequest) && p.page == "":
			// Of two parameters only one comes from Google.
			if full {
				return "", err
			}
			full = true
		case !hasCode(err, http.StatusBadRequest):
			return "", err
		}
	}
	return "", err
}

// pass is one list from its first page to its last. What it reported stays so
// when it fails; the next finds the rest.
type pass struct {
	*run
	full bool
	page string // the token of the page that was asked for last
	// seen has every event that was listed, and whether it was there.
	seen map[string]bool
	// over has the series that were listed as deleted.
	over map[string]bool
	// stray are cancelled exceptions of which nothing is stored.
	stray []listed
}

func (p *pass) do(ctx context.Context) (token string, err error) {
	p.result.Full = p.result.Full || p.full
	for {
		var events *gcal.Events
		err := p.try(ctx, p.keep, func(ctx context.Context) (err error) {
			// Google wants the same parameters with a sync token as without.
			call := p.service.Events.List(p.lease.CalendarID).
				ShowDeleted(true).SingleEvents(false).MaxResults(p.pageSize).Context(ctx)
			if !p.full {
				call.SyncToken(p.calendar.SyncToken)
			}
			if p.page != "" {
				call.PageToken(p.page)
			}
			events, err = call.Do()
			return err
		})
		if err != nil {
			return "", err
		}
		if err := p.take(ctx, events.Items); err != nil {
			return "", err
		}
		if events.NextPageToken == "" {
			if events.NextSyncToken == "" {
				return "", fmt.Errorf("%w: the last page has no sync token", ErrUnavailable)
			}
			return events.NextSyncToken, p.settle(ctx)
		}
		p.page = events.NextPageToken
	}
}

// take reports what is new on a page.
func (p *pass) take(ctx context.Context, events []*gcal.Event) error {
	// Of an event that is there twice the newer counts.
	newest := make(map[string]listed, len(events))
	var ids []string
	for _, event := range events {
		if event == nil || event.Id == "" {
			continue
		}
		l, err := newListed(event)
		if err != nil {
			return err
		}
		if before, ok := newest[l.id]; !ok {
			ids = append(ids, l.id)
		} else if !l.updated.IsZero() && l.updated.Before(before.updated) {
			continue
		}
		newest[l.id] = l
		p.seen[l.id] = !l.cancelled
	}
	for ids := range slices.Chunk(ids, MaxBatch) {
		stored, err := p.state.Events(ctx, p.lease.CalendarID, ids)
		if err != nil {
			return err
		}
		var changed []Event
		for _, id := range ids {
			var old *Event
			if e, ok := stored[id]; ok {
				old = &e
			}
			l := newest[id]
			switch {
			case !l.cancelled:
			case old != nil && old.Series:
				p.over[id] = true
			case old == nil && l.master != "":
				p.stray = append(p.stray, l)
			}
			if e, ok := next(old, l); ok {
				if e.Deleted && e.Master == "" {
					e.Expires = p.tombstoneEnd()
				}
				changed = append(changed, e)
			}
		}
		if err := p.report(ctx, changed); err != nil {
			return err
		}
	}
	return nil
}

// settle reports what can be told only when all is listed.
func (p *pass) settle(ctx context.Context) error {
	if err := p.settleStray(ctx); err != nil {
		return err
	}
	if p.full {
		live, err := p.state.Live(ctx, p.lease.CalendarID)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(live, func(id string) bool { _, ok := p.seen[id]; return ok })
		if err := p.infer(ctx, missing); err != nil {
			return err
		}
	}
	for _, master := range slices.Sorted(maps.Keys(p.over)) {
		exceptions, err := p.state.Exceptions(ctx, p.lease.CalendarID, master)
		if err != nil {
			return err
		}
		// An exception can outlive its series, when a guest is left in it alone.
		exceptions = slices.DeleteFunc(exceptions, func(id string) bool { return p.seen[id] })
		if err := p.infer(ctx, exceptions); err != nil {
			return err
		}
	}
	return nil
}

// settleStray reports the cancelled instances of series that are there.
func (p *pass) settleStray(ctx context.Context) error {
	for stray := range slices.Chunk(p.stray, MaxBatch/2) {
		var ids []string
		for _, l := range stray {
			ids = append(ids, l.id, l.master)
		}
		slices.Sort(ids)
		stored, err := p.state.Events(ctx, p.lease.CalendarID, slices.Compact(ids))
		if err != nil {
			return err
		}
		var changed []Event
		for _, l := range stray {
			master, ok := stored[l.master]
			if _, known := stored[l.id]; known || !ok || master.Deleted {
				continue
			}
			changed = append(changed, deleted(&Event{ID: l.id}, l, false))
			stored[l.id] = Event{} // once, on however many pages it is
		}
		if err := p.report(ctx, changed); err != nil {
			return err
		}
	}
	return nil
}

// infer reports events as deleted of which Google says nothing. Those that were
// reported before are no longer needed: what they were exceptions of is gone.
func (p *pass) infer(ctx context.Context, ids []string) error {
	for ids := range slices.Chunk(ids, MaxBatch) {
		stored, err := p.state.Events(ctx, p.lease.CalendarID, ids)
		if err != nil {
			return err
		}
		var changed []Event
		for _, id := range ids {
			old, ok := stored[id]
			switch {
			case !ok:
			case !old.Deleted:
				l, err := gone(&old)
				if err != nil {
					return err
				}
				e := deleted(&old, l, true)
				e.Expires = p.tombstoneEnd()
				changed = append(changed, e)
			case old.Expires.IsZero():
				old.Expires = p.tombstoneEnd()
				changed = append(changed, old)
			}
		}
		if err := p.report(ctx, changed); err != nil {
			return err
		}
	}
	return nil
}

// tombstoneEnd is when what is deleted now may be forgotten. The cancelled
// instances of a series are remembered as long as the series.
func (r *run) tombstoneEnd() time.Time { return r.now().Add(tombstoneTTL).UTC() }

// report stores events and puts their changes into the inbox.
func (r *run) report(ctx context.Context, events []Event) error {
	for len(events) > 0 {
		n, size := 0, 0
		for n < min(len(events), MaxBatch) && (n == 0 || size+events[n].Size() <= MaxBatchBytes) {
			size += events[n].Size()
			n++
		}
		if err := r.keep(ctx); err != nil {
			return err
		}
		if err := r.state.Save(ctx, r.lease, events[:n]); err != nil {
			return err
		}
		if err := r.deliver(ctx, events[:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// drain puts into the inbox what an earlier run stored and did not live to put.
func (r *run) drain(ctx context.Context) error {
	for {
		events, err := r.state.Pending(ctx, r.lease.CalendarID)
		if err != nil || len(events) == 0 {
			return err
		}
		if err := r.keep(ctx); err != nil {
			return err
		}
		if err := r.deliver(ctx, events); err != nil {
			return err
		}
	}
}

// deliver puts the pending changes of events into the inbox.
func (r *run) deliver(ctx context.Context, events []Event) error {
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(putting)
	var ids []string
	counts := map[string]int{}
	for i := range events {
		event := &events[i]
		if event.Pending == nil {
			continue
		}
		ids = append(ids, event.ID)
		counts[event.Pending.Kind]++
		group.Go(func() error { return r.put(within, event) })
	}
	if err := group.Wait(); err != nil || len(ids) == 0 {
		return err
	}
	if err := r.state.Delivered(ctx, r.lease, ids); err != nil {
		return err
	}
	r.result.Added += counts[Added]
	r.result.Updated += counts[Updated]
	r.result.Deleted += counts[Deleted]
	return nil
}

func (r *run) put(ctx context.Context, event *Event) error {
	m, err := message(r.lease.CalendarID, event)
	if err == nil {
		_, err = r.inbox.Put(ctx, m)
	}
	if errors.Is(err, inbox.ErrInvalid) {
		// No later try would fare better, and it must not hold up the others.
		r.log.LogAttrs(ctx, slog.LevelError, "a change could not be kept", calendarAttr(r.lease.CalendarID),
			slog.String("event", event.ID), errorAttr(err))
		return nil
	}
	return err
}
