package calendar

import (
	"context"
	"encoding/json"
	"time"
)

// State stores which calendars are watched, how far each is synced, their
// channels, and every event as it was last reported. All methods are safe for
// concurrent use by any number of processes, return once what they wrote is
// durable, and honour their context. An error other than those named is ErrState,
// or the context's own. Package statetest is the conformance suite.
type State interface {
	// UpdateCalendar calls change with the record of a calendar, nil when there
	// is none, and stores the record that it returns, in one transaction; nil
	// deletes the record. change may be called several times and must have no
	// other effect. When it fails nothing is stored, and UpdateCalendar returns
	// its error.
	UpdateCalendar(ctx context.Context, id string, change func(*Calendar) (*Calendar, error)) error
	// Want raises the count of wanted syncs of a calendar by one. It never waits
	// for a sync, and does nothing for a calendar without a record.
	Want(ctx context.Context, id string) error
	// Calendar returns the record of a calendar, or nil when there is none.
	Calendar(ctx context.Context, id string) (*Calendar, error)
	// Calendars returns all records, ordered by ID.
	Calendars(ctx context.Context) ([]Calendar, error)

	// UpdateChannel is UpdateCalendar for a channel.
	UpdateChannel(ctx context.Context, id string, change func(*Channel) (*Channel, error)) error
	// Channel returns a channel, or nil when there is none with this ID.
	Channel(ctx context.Context, id string) (*Channel, error)
	// Channels returns the channels of a calendar, or of all for the empty ID,
	// oldest first.
	Channels(ctx context.Context, calendarID string) ([]Channel, error)

	// Events returns the events that the state has, by ID. At most MaxBatch are
	// requested at once.
	Events(ctx context.Context, calendarID string, ids []string) (map[string]Event, error)
	// Live returns the IDs of all events of a calendar that are not deleted, in
	// any order.
	Live(ctx context.Context, calendarID string) ([]string, error)
	// Exceptions returns the IDs of all events, deleted ones too, whose Master is
	// this event, in any order.
	Exceptions(ctx context.Context, calendarID, master string) ([]string, error)
	// Pending returns at most MaxBatch events that have a Pending change, in any
	// order.
	Pending(ctx context.Context, calendarID string) ([]Event, error)
	// Save stores events, replacing those with the same ID: all or none. It fails
	// with ErrLeaseLost when the lease has been taken over or the calendar has no
	// record any more. At most MaxBatch events of at most MaxBatchBytes in total
	// are saved at once.
	Save(ctx context.Context, l Lease, events []Event) error
	// Delivered clears the pending changes of at most MaxBatch events, all of which
	// were saved, under the conditions of Save.
	Delivered(ctx context.Context, l Lease, ids []string) error
	// Forget deletes all events of a calendar, under the conditions of Save.
	Forget(ctx context.Context, l Lease) error

	// Close releases what the state holds.
	Close() error
}

const (
	// MaxBatch is the most events that a State returns or saves at once.
	MaxBatch = 200
	// MaxBatchBytes is the most that the events saved at once hold, counted by
	// Event.Size: a fifth of the 10 MiB that Firestore allows for a commit.
	MaxBatchBytes = 2 << 20
	// MaxEventSize is the most that Event.Size can be: two versions of an event,
	// and room below the 1 MiB of a Firestore document.
	MaxEventSize = 2*maxEventJSON + 64<<10
)

// Calendar is the record of a watched calendar. Its tags, and those of Channel,
// name the fields of the documents in Firestore.
type Calendar struct {
	// ID is Google's ID of the calendar.
	ID string `firestore:"id"`
	// SyncToken leads to what changed after the last sync; empty before the first.
	SyncToken string `firestore:"syncToken"`
	// SyncedAt is when the last sync ended; zero before the first.
	SyncedAt time.Time `firestore:"syncedAt"`
	// Wanted counts the syncs that were requested, and Done is its value when the
	// last sync began: where they differ a sync is due.
	Wanted int64 `firestore:"wanted"`
	Done   int64 `firestore:"done"`
	// Fence counts the leases that were given. A State accepts events only from
	// the holder of the last one.
	Fence int64 `firestore:"fence"`
	// LeaseUntil is when the lease ends; zero when nobody has it.
	LeaseUntil time.Time `firestore:"leaseUntil"`
	// Stopping says that the calendar is about to be forgotten.
	Stopping bool `firestore:"stopping"`
	// MissingSince is since when Google has shown no such calendar, at every call;
	// zero while it does.
	MissingSince time.Time `firestore:"missingSince"`
	// Gone is why the calendar is not tried any more; empty while it is.
	Gone string `firestore:"gone"`
}

// Lease is the right to write the events of a calendar.
type Lease struct {
	CalendarID string
	Fence      int64
}

// Event is an event as it was last reported.
type Event struct {
	ID string
	// Etag, Updated and Sequence are the event's newest known.
	Etag     string
	Updated  time.Time
	Sequence int64
	// Master is the event whose recurrence this one is an exception of, or empty.
	Master string
	// Series says that the event recurs, or did.
	Series bool
	// Deleted says that the event is deleted, and Inferred that Google did not say
	// so: a full list lacked the event, or its master is deleted.
	Deleted, Inferred bool
	// Revived counts how often the event came back unchanged after an inferred
	// deletion.
	Revived int
	// JSON is the event as it was last reported.
	JSON json.RawMessage
	// Expires is when the state may drop the event; zero is never.
	Expires time.Time
	// Pending is the change that leads to this version while it may not be in the
	// inbox yet.
	Pending *Change
}

// Size returns the size in bytes of the fields that have no fixed length.
func (e *Event) Size() int {
	n := len(e.ID) + len(e.Etag) + len(e.Master) + len(e.JSON)
	if e.Pending != nil {
		n += len(e.Pending.Before) + len(e.Pending.MessageID)
	}
	return n
}

// Change is the difference between two versions of an event.
type Change struct {
	// Kind is Added, Updated or Deleted.
	Kind string
	// MessageID is the change's message ID in the inbox.
	MessageID string
	// Time is when the event changed, by Google's clock; zero when unknown.
	Time time.Time
	// Before is the event as it was reported before; nil for the first time.
	Before json.RawMessage `json:",omitempty"`
	// Fields are the top-level fields that differ, sorted.
	Fields []string
	// Omitted are the fields that were left out of the event for its size.
	Omitted []string
}

// Channel is a notification channel of a calendar.
type Channel struct {
	ID         string `json:"id" firestore:"id"`
	CalendarID string `json:"calendarId" firestore:"calendarId"`
	// ResourceID is Google's name for what is watched; empty until Google
	// confirms the channel.
	ResourceID string `json:"resourceId,omitempty" firestore:"resourceId"`
	// Address is where notifications go.
	Address string `json:"address" firestore:"address"`
	// TokenHash is the SHA-256 of the token that notifications must carry. The
	// token itself is not stored.
	TokenHash []byte `json:"-" firestore:"tokenHash"`
	// Created is when the channel was requested.
	Created time.Time `json:"created" firestore:"created"`
	// Expiration is when Google ends the channel; zero until Google confirms the
	// channel, or when the channel does not end.
	Expiration time.Time `json:"expiration,omitzero" firestore:"expiration"`
	// Notified says that a notification has arrived over the channel.
	Notified bool `json:"notified" firestore:"notified"`
}
