// Package firestorestate stores the state of watched calendars in Firestore: the
// state of production.
//
// COLLECTION has a record for each calendar, which notifications and the sync
// write, COLLECTION-channels the channels, and COLLECTION-events, below each
// record, a document for each event as it was last reported, with its pending
// change. A document's name is the hash of its ID, so that IDs of any form fit and
// spread over the key space.
//
// Events are written 200 or 2 MiB at a time, in a transaction that reads the
// record, so that a runner without the lease writes nothing.
// firestore.indexes.json in this folder declares which fields need no index and
// the TTL of deleted events, in the form that Firebase's tools read.
package firestorestate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/firestore"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/firestoredial"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config is where a state is, each field with the environment variable that the
// functions read it from.
type Config struct {
	// Project is the Google Cloud project of Firestore.
	Project string `env:"GOOGLE_CLOUD_PROJECT,required,notEmpty"`
	// Database is the Firestore database.
	Database string `env:"FIRESTORE_DATABASE,notEmpty" envDefault:"(default)"`
	// Collection is the Firestore collection of the calendars.
	Collection string `env:"CALENDAR_COLLECTION,notEmpty" envDefault:"calendars"`
	// EmulatorHost is host:port of Google's emulator, which then replaces
	// Firestore.
	EmulatorHost string `env:"FIRESTORE_EMULATOR_HOST"`
}

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	if c.Collection == "" || len(c.Collection) > 500 || strings.ContainsAny(c.Collection, "/.\x00") ||
		strings.HasPrefix(c.Collection, "__") {
		return fmt.Errorf("CALENDAR_COLLECTION %q is not a valid collection name, such as calendars", c.Collection)
	}
	return nil
}

// The fields of documents. A document that no query should find lacks the query's
// field.
const (
	fieldID       = "id"
	fieldCalendar = "calendarId" // of a channel
	fieldWanted   = "wanted"

	fieldLive    = "live"     // true, or left out
	fieldOwed    = "owed"     // true while there is a change
	fieldMaster  = "master"   // left out of what is no exception
	fieldEvent   = "event"    // JSON
	fieldChange  = "change"   // JSON
	fieldExpires = "expireAt" // left out of what is not deleted
)

// callTimeout bounds the attempts of one call whose caller set no deadline.
const callTimeout = time.Minute

// State is a calendar.State in a Firestore database. Open returns one.
type State struct {
	client     *firestore.Client
	collection string
}

var _ calendar.State = (*State)(nil)

// Open returns the state in Firestore, or in its emulator, that c describes. The
// connection is created on first use, with the application default credentials
// unless options say otherwise.
func Open(ctx context.Context, c Config, options ...option.ClientOption) (*State, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	client, err := firestoredial.Client(ctx, c.Project, c.Database, c.EmulatorHost, nil, options...)
	if err != nil {
		return nil, fmt.Errorf("firestorestate: %w", err)
	}
	return &State{client, c.Collection}, nil
}

// Close closes the connection.
func (s *State) Close() error { return s.client.Close() }

// name returns the ID of the document of something with this ID.
func name(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:20])
}

func (s *State) calendar(id string) *firestore.DocumentRef {
	return s.client.Collection(s.collection).Doc(name(id))
}

func (s *State) channels() *firestore.CollectionRef {
	return s.client.Collection(s.collection + "-channels")
}

func (s *State) events(calendarID string) *firestore.CollectionRef {
	return s.calendar(calendarID).Collection(s.collection + "-events")
}

// call runs work within callTimeout, again when a concurrent transaction aborted
// it, and returns its error as callers may see it.
func call(ctx context.Context, work func(ctx context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pause := gax.Backoff{Initial: 20 * time.Millisecond, Max: time.Second, Multiplier: 2}
	err := work(within)
	for status.Code(err) == codes.Aborted && gax.Sleep(within, pause.Pause()) == nil {
		err = work(within)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(own)):
		return errors.Unwrap(err)
	}
	return fmt.Errorf("%w: %w", calendar.ErrState, err)
}

// transaction runs work as one transaction, once: call retries sooner than the
// client would.
func (s *State) transaction(ctx context.Context, work func(*firestore.Transaction) error) error {
	return call(ctx, func(ctx context.Context) error {
		return s.client.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) error {
			return work(tx)
		}, firestore.MaxAttempts(1))
	})
}

// own marks an error that is not Firestore's.
type own struct{ cause error }

func (o own) Error() string { return o.cause.Error() }
func (o own) Unwrap() error { return o.cause }

func missing(err error) bool { return status.Code(err) == codes.NotFound }

// change stores what fn returns for a document; nil deletes it.
func change[T any](ctx context.Context, s *State, ref *firestore.DocumentRef, fn func(*T) (*T, error)) error {
	return s.transaction(ctx, func(tx *firestore.Transaction) error {
		old, err := found[T](tx.Get(ref))
		if err != nil {
			return err
		}
		existed := old != nil
		v, err := fn(old)
		switch {
		case err != nil:
			return own{err}
		case v != nil:
			return tx.Set(ref, v)
		case existed:
			return tx.Delete(ref)
		}
		return nil
	})
}

// decode returns the calendar or channel that a document holds.
func decode[T any](d *firestore.DocumentSnapshot) (*T, error) {
	v := new(T)
	return v, d.DataTo(v)
}

// found decodes the answer to the reading of a document, nil when there is none.
func found[T any](d *firestore.DocumentSnapshot, err error) (*T, error) {
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decode[T](d)
}

// get reads a document.
func get[T any](ctx context.Context, ref *firestore.DocumentRef) (v *T, err error) {
	err = call(ctx, func(ctx context.Context) error {
		v, err = found[T](ref.Get(ctx))
		return err
	})
	return v, err
}

// UpdateCalendar implements calendar.State.
func (s *State) UpdateCalendar(ctx context.Context, id string, fn func(*calendar.Calendar) (*calendar.Calendar, error)) error {
	return change(ctx, s, s.calendar(id), fn)
}

// Want implements calendar.State.
func (s *State) Want(ctx context.Context, id string) error {
	return call(ctx, func(ctx context.Context) error {
		_, err := s.calendar(id).Update(ctx, []firestore.Update{{Path: fieldWanted, Value: firestore.Increment(1)}})
		if missing(err) {
			return nil
		}
		return err
	})
}

// Calendar implements calendar.State.
func (s *State) Calendar(ctx context.Context, id string) (*calendar.Calendar, error) {
	return get[calendar.Calendar](ctx, s.calendar(id))
}

// Calendars implements calendar.State.
func (s *State) Calendars(ctx context.Context) ([]calendar.Calendar, error) {
	all, err := read(ctx, s.client.Collection(s.collection).Query, decode[calendar.Calendar])
	slices.SortFunc(all, func(a, b calendar.Calendar) int { return strings.Compare(a.ID, b.ID) })
	return all, err
}

// read returns what a query finds.
func read[T any](ctx context.Context, q firestore.Query, decode func(*firestore.DocumentSnapshot) (*T, error)) (all []T, err error) {
	err = call(ctx, func(ctx context.Context) error {
		all = nil // from an earlier attempt
		documents, err := q.Documents(ctx).GetAll()
		if err != nil {
			return err
		}
		for _, d := range documents {
			v, err := decode(d)
			if err != nil {
				return err
			}
			all = append(all, *v)
		}
		return nil
	})
	return all, err
}

// UpdateChannel implements calendar.State.
func (s *State) UpdateChannel(ctx context.Context, id string, fn func(*calendar.Channel) (*calendar.Channel, error)) error {
	return change(ctx, s, s.channels().Doc(name(id)), fn)
}

// Channel implements calendar.State.
func (s *State) Channel(ctx context.Context, id string) (*calendar.Channel, error) {
	return get[calendar.Channel](ctx, s.channels().Doc(name(id)))
}

// Channels implements calendar.State.
func (s *State) Channels(ctx context.Context, calendarID string) ([]calendar.Channel, error) {
	q := s.channels().Query
	if calendarID != "" {
		q = q.Where(fieldCalendar, "==", calendarID)
	}
	all, err := read(ctx, q, decode[calendar.Channel])
	slices.SortFunc(all, func(a, b calendar.Channel) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

func encodeEvent(e calendar.Event) (map[string]any, error) {
	fields := map[string]any{fieldID: e.ID}
	if !e.Deleted {
		fields[fieldLive] = true
	}
	if e.Master != "" {
		fields[fieldMaster] = e.Master
	}
	if !e.Expires.IsZero() {
		fields[fieldExpires] = e.Expires
	}
	if e.Pending != nil {
		b, err := json.Marshal(e.Pending)
		if err != nil {
			return nil, err
		}
		fields[fieldOwed], fields[fieldChange] = true, b
	}
	e.Pending = nil
	b, err := json.Marshal(e)
	fields[fieldEvent] = b
	return fields, err
}

func decodeEvent(d *firestore.DocumentSnapshot) (*calendar.Event, error) {
	var fields struct {
		Event  []byte `firestore:"event"`
		Change []byte `firestore:"change"`
	}
	if err := d.DataTo(&fields); err != nil {
		return nil, err
	}
	e := new(calendar.Event)
	if err := json.Unmarshal(fields.Event, e); err != nil {
		return nil, err
	}
	if fields.Change != nil {
		return e, json.Unmarshal(fields.Change, &e.Pending)
	}
	return e, nil
}

// Events implements calendar.State.
func (s *State) Events(ctx context.Context, calendarID string, ids []string) (map[string]calendar.Event, error) {
	found := make(map[string]calendar.Event, len(ids))
	refs := make([]*firestore.DocumentRef, len(ids))
	for i, id := range ids {
		refs[i] = s.events(calendarID).Doc(name(id))
	}
	err := call(ctx, func(ctx context.Context) error {
		documents, err := s.client.GetAll(ctx, refs)
		if err != nil {
			return err
		}
		for _, d := range documents {
			if !d.Exists() {
				continue
			}
			e, err := decodeEvent(d)
			if err != nil {
				return err
			}
			found[e.ID] = *e
		}
		return nil
	})
	return found, err
}

// Live implements calendar.State.
func (s *State) Live(ctx context.Context, calendarID string) ([]string, error) {
	return read(ctx, s.events(calendarID).Where(fieldLive, "==", true).Select(fieldID), decodeID)
}

// Exceptions implements calendar.State.
func (s *State) Exceptions(ctx context.Context, calendarID, master string) ([]string, error) {
	return read(ctx, s.events(calendarID).Where(fieldMaster, "==", master).Select(fieldID), decodeID)
}

func decodeID(d *firestore.DocumentSnapshot) (*string, error) {
	v, err := d.DataAt(fieldID)
	id, _ := v.(string)
	return &id, err
}

// Pending implements calendar.State.
func (s *State) Pending(ctx context.Context, calendarID string) ([]calendar.Event, error) {
	return read(ctx, s.events(calendarID).Where(fieldOwed, "==", true).Limit(calendar.MaxBatch), decodeEvent)
}

// write runs writes in a transaction that fails with ErrLeaseLost unless l is the
// current lease.
func (s *State) write(ctx context.Context, l calendar.Lease, writes func(tx *firestore.Transaction) error) error {
	return s.transaction(ctx, func(tx *firestore.Transaction) error {
		c, err := found[calendar.Calendar](tx.Get(s.calendar(l.CalendarID)))
		if err != nil {
			return err
		}
		if c == nil || c.Fence != l.Fence {
			return own{calendar.ErrLeaseLost}
		}
		return writes(tx)
	})
}

// Save implements calendar.State.
func (s *State) Save(ctx context.Context, l calendar.Lease, events []calendar.Event) error {
	return s.write(ctx, l, func(tx *firestore.Transaction) error {
		for _, e := range events {
			fields, err := encodeEvent(e)
			if err != nil {
				return err
			}
			if err := tx.Set(s.events(l.CalendarID).Doc(name(e.ID)), fields); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delivered implements calendar.State.
func (s *State) Delivered(ctx context.Context, l calendar.Lease, ids []string) error {
	refs := make([]*firestore.DocumentRef, len(ids))
	for i, id := range ids {
		refs[i] = s.events(l.CalendarID).Doc(name(id))
	}
	return s.write(ctx, l, func(tx *firestore.Transaction) error {
		for _, ref := range refs {
			if err := tx.Update(ref, []firestore.Update{
				{Path: fieldOwed, Value: firestore.Delete}, {Path: fieldChange, Value: firestore.Delete},
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Forget implements calendar.State.
func (s *State) Forget(ctx context.Context, l calendar.Lease) error {
	q := s.events(l.CalendarID).Select().Limit(calendar.MaxBatch)
	for {
		refs, err := read(ctx, q, func(d *firestore.DocumentSnapshot) (*firestore.DocumentRef, error) { return d.Ref, nil })
		if err != nil || len(refs) == 0 {
			return err
		}
		err = s.write(ctx, l, func(tx *firestore.Transaction) error {
			for i := range refs {
				if err := tx.Delete(&refs[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
