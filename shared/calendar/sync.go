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
	// leaseTime is how long a lease lasts unless it is renewed, and so how long a
	// calendar waits after its instance died.
	leaseTime = time.Minute
	// maxStarts is how often one sync starts over when Google no longer knows its
	// page token or sync token.
	maxStarts = 5
	// putConcurrency is how many changes are put into the inbox at once.
	putConcurrency = 32

	warn = slog.LevelWarn
)

func calendarAttr(id string) slog.Attr { return slog.String("calendar", id) }
func errorAttr(err error) slog.Attr    { return slog.String("error", err.Error()) }

// Result is what a sync did.
type Result struct {
	CalendarID string `json:"calendarId"`
	// Runs is how often the calendar was listed: 0 when no sync was due, more
	// than 1 when notifications arrived meanwhile.
	Runs int `json:"runs"`
	// Full says that one of the runs listed the whole calendar.
	Full bool `json:"full"`
	// Added, Updated and Deleted count the changes that went to the inbox.
	Added   int `json:"added"`
	Updated int `json:"updated"`
	Deleted int `json:"deleted"`
}

// Sync brings the inbox up to date with a calendar. It fails with ErrNotWatched,
// with ErrGone, and with ErrBusy when another sync is under way, which then runs once more.
func (e *Engine) Sync(ctx context.Context, calendarID string) (Result, error) {
	return e.sync(ctx, calendarID, request)
}

// CatchUp syncs a calendar if a sync was requested that no run has served since.
// Call it for each notification, and again when it fails: also after ErrBusy the
// sync is still due, since whoever has the lease may die. It does nothing for a
// calendar that is not watched, or is gone.
func (e *Engine) CatchUp(ctx context.Context, calendarID string) (Result, error) {
	result, err := e.SyncRequested(ctx, calendarID)
	if errors.Is(err, ErrNotWatched) || errors.Is(err, ErrGone) {
		err = nil
	}
	return result, err
}

// SyncRequested is Sync for one that was requested before, and does nothing where a run
// has served it since. Call it after ErrBusy: each Sync would have the other run again.
func (e *Engine) SyncRequested(ctx context.Context, calendarID string) (Result, error) {
	result, err := e.sync(ctx, calendarID, ifRequested)
	if errors.Is(err, errNotRequested) {
		err = nil
	}
	return result, err
}

// SyncAll syncs every watched calendar, which makes up for notifications that were
// dropped. It skips calendars that another instance is syncing and those that are
// gone. A calendar that
// fails or is slow does not stop the others: each has its share of the time until
// ctx ends. The error joins a CalendarError for each that failed.
func (e *Engine) SyncAll(ctx context.Context) ([]Result, error) {
	calendars, err := e.o.State.Calendars(ctx)
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
		} else if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotWatched) && !errors.Is(err, ErrGone) {
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

func (e *Engine) sync(ctx context.Context, calendarID string, purpose leasePurpose) (result Result, err error) {
	result.CalendarID = calendarID
	r, err := e.begin(ctx, calendarID, purpose)
	if err != nil {
		return result, err
	}
	r.result = &result
	defer func() { r.release(ctx, err) }()
	for due := true; due; {
		// What is requested from here on may be missing from Google's list.
		wanted := r.calendar.Wanted
		token, err := r.list(ctx)
		if err != nil {
			return result, e.missing(ctx, calendarID, err)
		}
		result.Runs++
		if err := r.update(ctx, func(c *Calendar) {
			c.SyncToken, c.SyncedAt, c.Done = token, e.o.Now().UTC(), wanted
			c.MissingSince, c.Gone = time.Time{}, ""
			if due = c.Wanted != c.Done; !due {
				c.LeaseUntil = time.Time{}
			}
		}); err != nil {
			return result, err
		}
	}
	if err := e.retire(ctx, calendarID); err != nil {
		// The next sync repeats it.
		e.o.Log.LogAttrs(ctx, warn, "a replaced channel could not be stopped", calendarAttr(calendarID), errorAttr(err))
	}
	return result, nil
}

// run is the work of one holder of a calendar's lease.
type run struct {
	*Engine
	lease    Lease
	calendar Calendar // as it was last written
	result   *Result
}

// leasePurpose is what a lease is taken for.
type leasePurpose int

const (
	request     leasePurpose = iota // to request a sync and run it
	ifRequested                     // to run a sync that was requested
	exclusive                       // to keep syncs away
)

// errNotRequested ends begin when no sync is due.
var errNotRequested = errors.New("calendar: no sync is due")

// begin takes a calendar's lease.
func (e *Engine) begin(ctx context.Context, calendarID string, purpose leasePurpose) (*run, error) {
	r := &run{Engine: e, result: &Result{}}
	var busy bool
	err := e.o.State.UpdateCalendar(ctx, calendarID, func(c *Calendar) (*Calendar, error) {
		if c == nil || c.Stopping && purpose != exclusive {
			return nil, ErrNotWatched
		}
		if c.Gone != "" && purpose != exclusive {
			return nil, ErrGone
		}
		if purpose == ifRequested && c.Wanted == c.Done {
			return nil, errNotRequested
		}
		if purpose == request {
			c.Wanted++
		}
		now := e.o.Now()
		if busy = now.Before(c.LeaseUntil); busy {
			if purpose != request {
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

// update changes the record while the run has the lease, and renews the lease.
func (r *run) update(ctx context.Context, change func(*Calendar)) error {
	return r.o.State.UpdateCalendar(ctx, r.lease.CalendarID, func(c *Calendar) (*Calendar, error) {
		if c == nil || c.Fence != r.lease.Fence {
			return nil, ErrLeaseLost
		}
		c.LeaseUntil = r.o.Now().Add(leaseTime).UTC()
		change(c)
		r.calendar = *c
		return c, nil
	})
}

// renewLease renews the lease when half of it is over.
func (r *run) renewLease(ctx context.Context) error {
	if r.calendar.LeaseUntil.Sub(r.o.Now()) > leaseTime/2 {
		return nil
	}
	return r.update(ctx, func(*Calendar) {})
}

// release gives up the lease after a failure, so that the next attempt need not
// wait for its end.
func (r *run) release(ctx context.Context, failed error) {
	if failed == nil || errors.Is(failed, ErrLeaseLost) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	// If this fails too, the lease ends by itself.
	_ = r.update(ctx, func(c *Calendar) { c.LeaseUntil = time.Time{} })
}

// list reports what Google lists as changed since the last sync, and returns the
// sync token of the next.
func (r *run) list(ctx context.Context) (token string, err error) {
	if err := r.drain(ctx); err != nil {
		return "", err
	}
	full := r.calendar.SyncToken == ""
	for range maxStarts {
		p := pass{run: r, full: full, seen: map[string]bool{}, endedSeries: map[string]bool{}}
		token, err = p.do(ctx)
		switch {
		case err == nil:
			return token, nil
		case hasCode(err, http.StatusGone):
			full = true
		case hasCode(err, http.StatusBadRequest) && p.page == "":
			// The sync token is the only parameter that Google gave.
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

// pass is one list from its first page to its last. What it reported stays
// reported when it fails; the next pass finds the rest.
type pass struct {
	*run
	full bool
	page string // the token of the page that was requested last
	// seen has every event that was listed, and whether it exists.
	seen map[string]bool
	// endedSeries has the series that were listed as deleted.
	endedSeries map[string]bool
	// orphanExceptions are cancelled exceptions of which nothing is stored.
	orphanExceptions []listed
}

func (p *pass) do(ctx context.Context) (token string, err error) {
	p.result.Full = p.result.Full || p.full
	for {
		var events *gcal.Events
		err := p.retry(ctx, p.renewLease, func(ctx context.Context) (err error) {
			// Google requires the same parameters with a sync token as without.
			call := p.o.Service.Events.List(p.lease.CalendarID).
				ShowDeleted(true).SingleEvents(false).MaxResults(p.o.PageSize).Context(ctx)
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
		if err := p.reportPage(ctx, events.Items); err != nil {
			return "", err
		}
		if events.NextPageToken == "" {
			if events.NextSyncToken == "" {
				return "", fmt.Errorf("%w: the last page has no sync token", ErrUnavailable)
			}
			return events.NextSyncToken, p.reportRest(ctx)
		}
		p.page = events.NextPageToken
	}
}

// reportPage reports what is new on a page.
func (p *pass) reportPage(ctx context.Context, events []*gcal.Event) error {
	// Of an event that is listed twice the newer version counts.
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
	return p.reportEach(ctx, ids, func(id string, old *Event) (e Event, changed bool, err error) {
		l := newest[id]
		switch {
		case !l.cancelled:
		case old != nil && old.Series:
			p.endedSeries[id] = true
		case old == nil && l.master != "":
			p.orphanExceptions = append(p.orphanExceptions, l)
		}
		e, changed = next(old, l)
		if e.Deleted && e.Master == "" {
			e.Expires = p.tombstoneEnd()
		}
		return e, changed, nil
	})
}

// reportEach reports the events that change returns for the stored ones, nil for
// an ID of which nothing is stored.
func (p *pass) reportEach(ctx context.Context, ids []string, change func(id string, old *Event) (Event, bool, error)) error {
	for ids := range slices.Chunk(ids, MaxBatch) {
		stored, err := p.o.State.Events(ctx, p.lease.CalendarID, ids)
		if err != nil {
			return err
		}
		var changes []Event
		for _, id := range ids {
			var old *Event
			if e, ok := stored[id]; ok {
				old = &e
			}
			e, changed, err := change(id, old)
			if err != nil {
				return err
			}
			if changed {
				changes = append(changes, e)
			}
		}
		if err := p.report(ctx, changes); err != nil {
			return err
		}
	}
	return nil
}

// reportRest reports what is known only when every page is listed.
func (p *pass) reportRest(ctx context.Context) error {
	if err := p.reportOrphans(ctx); err != nil {
		return err
	}
	if p.full {
		live, err := p.o.State.Live(ctx, p.lease.CalendarID)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(live, func(id string) bool { _, ok := p.seen[id]; return ok })
		if err := p.infer(ctx, missing); err != nil {
			return err
		}
	}
	for _, master := range slices.Sorted(maps.Keys(p.endedSeries)) {
		exceptions, err := p.o.State.Exceptions(ctx, p.lease.CalendarID, master)
		if err != nil {
			return err
		}
		// An exception can outlive its series, when a guest remains in it alone.
		exceptions = slices.DeleteFunc(exceptions, func(id string) bool { return p.seen[id] })
		if err := p.infer(ctx, exceptions); err != nil {
			return err
		}
	}
	return nil
}

// reportOrphans reports the cancelled instances of series that exist.
func (p *pass) reportOrphans(ctx context.Context) error {
	for orphans := range slices.Chunk(p.orphanExceptions, MaxBatch/2) {
		var ids []string
		for _, l := range orphans {
			ids = append(ids, l.id, l.master)
		}
		slices.Sort(ids)
		stored, err := p.o.State.Events(ctx, p.lease.CalendarID, slices.Compact(ids))
		if err != nil {
			return err
		}
		var changed []Event
		for _, l := range orphans {
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

// infer reports events as deleted that Google no longer mentions. Those reported
// as deleted before may expire: the series of these exceptions is deleted.
func (p *pass) infer(ctx context.Context, ids []string) error {
	return p.reportEach(ctx, ids, func(_ string, old *Event) (e Event, changed bool, err error) {
		switch {
		case old == nil:
			return e, false, nil
		case !old.Deleted:
			l, err := tombstoneOf(old)
			if err != nil {
				return e, false, err
			}
			e, changed = deleted(old, l, true), true
		default:
			e, changed = *old, old.Expires.IsZero()
		}
		e.Expires = p.tombstoneEnd()
		return e, changed, nil
	})
}

// tombstoneEnd is when the state may drop what is deleted now. The cancelled
// instances of a series stay as long as the series.
func (r *run) tombstoneEnd() time.Time { return r.o.Now().Add(tombstoneTTL).UTC() }

// report stores events and puts their changes into the inbox.
func (r *run) report(ctx context.Context, events []Event) error {
	for len(events) > 0 {
		n, size := 0, 0
		for n < min(len(events), MaxBatch) && (n == 0 || size+events[n].Size() <= MaxBatchBytes) {
			size += events[n].Size()
			n++
		}
		if err := r.renewLease(ctx); err != nil {
			return err
		}
		if err := r.o.State.Save(ctx, r.lease, events[:n]); err != nil {
			return err
		}
		if err := r.deliver(ctx, events[:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// drain puts into the inbox what an earlier run stored before it died.
func (r *run) drain(ctx context.Context) error {
	for {
		events, err := r.o.State.Pending(ctx, r.lease.CalendarID)
		if err != nil || len(events) == 0 {
			return err
		}
		if err := r.renewLease(ctx); err != nil {
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
	group.SetLimit(putConcurrency)
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
	if err := r.o.State.Delivered(ctx, r.lease, ids); err != nil {
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
		_, err = r.o.Inbox.Put(ctx, m)
	}
	if errors.Is(err, inbox.ErrInvalid) {
		// It would fail every time, and must not hold up the others.
		r.o.Log.LogAttrs(ctx, slog.LevelError, "the inbox cannot store a change, which is dropped", calendarAttr(r.lease.CalendarID),
			slog.String("event", event.ID), errorAttr(err))
		return nil
	}
	return err
}
