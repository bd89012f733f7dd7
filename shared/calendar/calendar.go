// Package calendar turns Google Calendar's "something changed" into what
// changed: for every watched calendar each event that was added, updated or
// deleted becomes one message in the inbox.
//
// # Exactly once
//
// A sync runs under a lease, one at a time for each calendar. It stores every
// change as pending, in one transaction with the event it leads to, puts it into
// the inbox, and clears it. It stores the sync token when all of that is done. So
// a process may die between any two steps: the next sync first puts what is
// pending, under the same message ID, then lists again from the old token and
// reports what was not yet reported. A runner that lost its lease cannot write.
//
// # Nothing missed
//
// A notification only raises a durable count of wanted syncs. A sync compares the
// count before it ends, and runs once more when it grew. A caller that finds the
// lease taken gets ErrBusy, a 503, so that Pub/Sub pushes the notification's
// message again until its sync is done, also when the holder has died. Google
// drops a small share of notifications, and nobody repeats an operator's request
// whose instance died: call SyncAll now and then.
//
// After Google answers 410 the whole calendar is listed and compared with the
// stored events, so that what was deleted in between is reported too.
//
// # What is reported
//
// The first sync of a calendar reports every event as added, so that the changes
// of a calendar, applied in order, give the calendar. The field before of a change
// is the event of the previous change. An update in which only etag, updated and
// sequence differ is reported with no fields: it may be in a field that the client
// library does not know.
//
// Recurring events are not expanded. An exception (a moved or cancelled
// instance) is an event of its own; a cancelled one is reported as deleted, with
// no before when it was never moved. When a series is deleted, so are its
// exceptions. An event that came and went between two syncs is not reported.
//
// A calendar that Google has not shown for a day, since it was deleted or is no
// longer shared, is gone: that is reported once, as a change of its own, and the
// calendar is neither synced nor renewed until it is watched again.
//
// An event larger than 400 KiB is stored and reported without its largest fields,
// which the change names as omitted.
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

// Options configure an Engine. All but the last four are required.
type Options struct {
	// Service is Google Calendar, with the right to read the calendars:
	// calendar.CalendarEventsReadonlyScope is enough for all that an Engine does.
	Service *gcal.Service
	State   State
	Inbox   Putter
	// Address is the https URL that notifications go to.
	Address string

	// PageSize is how many events to request at once. Zero means 2500, Google's
	// limit.
	PageSize int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Sleep waits between two attempts of a call to Google; nil means gax.Sleep.
	Sleep func(ctx context.Context, d time.Duration) error
	// Log gets failures that no caller sees; nil means slog.Default.
	Log *slog.Logger
}

const maxPageSize = 2500

// Engine watches and syncs calendars. Any number of them may share a State.
// Its methods are safe for concurrent use.
type Engine struct{ o Options }

// New returns an engine, or an error that names every option that is missing or
// wrong.
func New(o Options) (*Engine, error) {
	var errs []error
	if o.Service == nil {
		errs = append(errs, errors.New("calendar: Service is missing"))
	}
	if o.State == nil {
		errs = append(errs, errors.New("calendar: State is missing"))
	}
	if o.Inbox == nil {
		errs = append(errs, errors.New("calendar: Inbox is missing"))
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
	if o.PageSize == 0 {
		o.PageSize = maxPageSize
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = gax.Sleep
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Engine{o}, nil
}
