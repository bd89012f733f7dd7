// Package calendar turns Google Calendar's "something changed" into what
// changed: for every watched calendar each event that was added, updated or
// deleted becomes one message in the inbox.
//
// # Exactly once
//
// A sync runs under a lease, one at a time for each calendar. Every change is
// kept, in one transaction with the event it leads to, as pending; then it is
// put into the inbox; then it is no longer pending. The sync token is kept when
// all of that is done. So a process may die between any two steps: the next
// sync first puts what is pending, under the same message ID, then lists again
// from the old token and finds, of what it lists, those changed that were not
// yet reported. A runner whose lease was taken over cannot write any more.
//
// # Nothing missed
//
// A notification only raises a durable count of wanted syncs, which a sync
// compares before it ends and runs once more where it grew. Who finds the lease
// taken gets ErrBusy, a 503: the notification's own message comes again until
// its sync is done, also when the holder has died. Since Google drops a small
// share of notifications, and nobody repeats a request of an operator whose
// instance died, SyncAll must be called now and then.
//
// When Google answers 410 the next list is a full one, and compared with the
// stored events, so that what was deleted in between is reported, too.
//
// # What is reported
//
// The first sync of a calendar reports every event as added, so that the
// changes of a calendar, applied in order, are the calendar. Each change's
// before is the event of the change before it. An update of which no field
// differs, etag, updated and sequence aside, is reported with no fields:
// Google calls it a change, and it may be one in a field that the client does
// not know.
//
// Recurring events are not expanded. An exception (a moved or cancelled
// instance) is an event of its own; a cancelled one is reported as deleted, with
// no before when it was never moved. When a series is deleted, so are its
// exceptions. An event that came and went between two syncs is not reported.
//
// What is larger than 400 KiB is kept and reported without its largest fields,
// which the change then names as omitted.
package calendar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"example.com/pushinbox/shared/inbox"
	"github.com/googleapis/gax-go/v2"
	gcal "google.golang.org/api/calendar/v3"
)

// Putter is the inbox that changes go to.
type Putter interface {
	Put(ctx context.Context, m *inbox.Message) (stored bool, err error)
}

// Options are what an Engine needs. All but the last four are required.
type Options struct {
	// Service is Google Calendar, with the right to read the calendars:
	// calendar.CalendarEventsReadonlyScope is enough for all that an Engine does.
	Service *gcal.Service
	State   State
	Inbox   Putter
	// Address is the https URL that notifications go to.
	Address string

	// PageSize is how many events to ask for at once. Zero means 2500, the most
	// that Google gives.
	PageSize int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Sleep waits between two tries of a call to Google; nil means gax.Sleep.
	Sleep func(ctx context.Context, d time.Duration) error
	// Log gets what no caller is told; nil means slog.Default.
	Log *slog.Logger
}

const maxPageSize = 2500

// Engine watches and syncs calendars. Any number of them may share a State.
// Its methods are safe for concurrent use.
type Engine struct {
	service  *gcal.Service
	state    State
	inbox    Putter
	address  string
	pageSize int64
	now      func() time.Time
	sleep    func(ctx context.Context, d time.Duration) error
	log      *slog.Logger
}

// New returns an engine, or an error that names every option that is missing or
// wrong.
func New(o Options) (*Engine, error) {
	var errs []error
	if o.Service == nil {
		errs = append(errs, errors.New("calendar: no Service"))
	}
	if o.State == nil {
		errs = append(errs, errors.New("calendar: no State"))
	}
	if o.Inbox == nil {
		errs = append(errs, errors.New("calendar: no Inbox"))
	}
	if u, err := url.Parse(o.Address); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("calendar: the address %q is not an https URL", o.Address))
	}
	if o.PageSize < 0 || o.PageSize > maxPageSize {
		errs = append(errs, fmt.Errorf("calendar: the page size %d is not 0 to %d", o.PageSize, maxPageSize))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	e := &Engine{
		service: o.Service, state: o.State, inbox: o.Inbox, address: o.Address,
		pageSize: o.PageSize, now: o.Now, sleep: o.Sleep, log: o.Log,
	}
	if e.pageSize == 0 {
		e.pageSize = maxPageSize
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.sleep == nil {
		e.sleep = gax.Sleep
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	return e, nil
}
