// Package boltstate stores the state of watched calendars in one file of one
// machine, with bbolt. It is the default of a local run; one process at a time can
// have the file open.
//
// It finds the live events and the exceptions of a series by reading all events of
// the calendar, in about a tenth of a second for ten thousand. It does not delete
// deleted events when they expire.
package boltstate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/calendar"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

var (
	calendars = []byte("calendars") // ID: calendar.Calendar
	channels  = []byte("channels")  // ID: channel
	// events and pending hold a bucket for each calendar.
	events  = []byte("events")  // ID: calendar.Event without its pending change
	pending = []byte("pending") // ID: calendar.Change
)

// State is a calendar.State in a file. Open returns one.
type State struct {
	db   *bbolt.DB
	file *os.File
	path string
}

var _ calendar.State = (*State)(nil)

// Open opens the state in the file at path, and creates a missing file. The
// directory must exist. It reads the whole file, and fails with datadir.ErrLocked when it
// is open already, and with an error that names the path when it is damaged or
// something else.
func Open(path string) (*State, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("boltstate: %w", err)
	}
	return s, nil
}

func open(path string) (*State, error) {
	db, file, err := datadir.OpenChecked(path, 0, func(key, value []byte) error {
		_, err := unseal(key, value)
		return err
	}, "move it away, then the calendars can be watched again")
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{calendars, channels, events, pending} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &State{db, file, path}, nil
}

// Close finishes the calls under way and closes the file.
func (s *State) Close() error { return s.db.Close() }

// update runs change in a transaction, which is durable when update returns, in a
// file that is at its path. An error of change undoes the transaction and is
// returned as it is.
func (s *State) update(ctx context.Context, change func(*bbolt.Tx) error) error {
	var size int64
	return s.do(ctx, func(work func(*bbolt.Tx) error) error {
		err := s.db.Update(func(tx *bbolt.Tx) error {
			size = tx.Size()
			// Cut, it would be filled up with nothing.
			if err := datadir.CheckPlace(s.file, s.path, size); err != nil {
				return err
			}
			return work(tx)
		})
		if err == nil {
			err = datadir.CheckPlace(s.file, s.path, size)
		}
		return err
	}, change)
}

func (s *State) view(ctx context.Context, read func(*bbolt.Tx) error) error {
	return s.do(ctx, s.db.View, read)
}

func (s *State) do(ctx context.Context, transact func(func(*bbolt.Tx) error) error, work func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var own error
	err := transact(func(tx *bbolt.Tx) error {
		own = work(tx)
		return own
	})
	if err != nil && own == nil {
		return fmt.Errorf("%w: %w", calendar.ErrState, err)
	}
	return err
}

// failed returns the error for a failure of the file in a transaction.
func failed(err error) error { return fmt.Errorf("%w: %w", calendar.ErrState, err) }

// get reads the value of a key, nil when there is none.
func get[T any](b *bbolt.Bucket, key []byte) (*T, error) {
	var raw []byte
	if b != nil && len(key) > 0 {
		raw = b.Get(key)
	}
	if raw == nil {
		return nil, nil
	}
	raw, err := unseal(key, raw)
	if err != nil {
		return nil, failed(err)
	}
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, failed(err)
	}
	return v, nil
}

// Every value ends with a checksum of its key and itself, as hex digits behind a
// mark. What an earlier version stored has none, and ends as JSON does.
const (
	mark    = '#'
	sumSize = 9
)

func seal(key, value []byte) []byte {
	return fmt.Appendf(value, "%c%08x", mark, datadir.Checksum(key, value))
}

// unseal returns the JSON of a value.
func unseal(key, sealed []byte) ([]byte, error) {
	n := len(sealed) - sumSize
	if n > 0 && string(seal(key, sealed[:n:n])) == string(sealed) {
		return sealed[:n], nil
	}
	if n > 0 && sealed[n] == mark || !json.Valid(sealed) {
		return nil, fmt.Errorf("the record %.80q is damaged", key)
	}
	return sealed, nil
}

// put stores the value of a key; nil deletes it.
func put[T any](b *bbolt.Bucket, key []byte, v *T) error {
	var err error
	if v == nil {
		if len(key) > 0 {
			err = b.Delete(key)
		}
	} else {
		var raw []byte
		if raw, err = json.Marshal(v); err == nil {
			err = b.Put(key, seal(key, raw))
		}
	}
	if err != nil {
		return failed(err)
	}
	return nil
}

// change stores what fn returns for the value of a key.
func change[T any](b *bbolt.Bucket, id string, fn func(*T) (*T, error)) error {
	old, err := get[T](b, []byte(id))
	if err != nil {
		return err
	}
	v, err := fn(old)
	if err != nil {
		return err
	}
	return put(b, []byte(id), v)
}

// UpdateCalendar implements calendar.State.
func (s *State) UpdateCalendar(ctx context.Context, id string, fn func(*calendar.Calendar) (*calendar.Calendar, error)) error {
	return s.update(ctx, func(tx *bbolt.Tx) error { return change(tx.Bucket(calendars), id, fn) })
}

// Want implements calendar.State.
func (s *State) Want(ctx context.Context, id string) error {
	return s.UpdateCalendar(ctx, id, func(c *calendar.Calendar) (*calendar.Calendar, error) {
		if c != nil {
			c.Wanted++
		}
		return c, nil
	})
}

// Calendar implements calendar.State.
func (s *State) Calendar(ctx context.Context, id string) (found *calendar.Calendar, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		found, err = get[calendar.Calendar](tx.Bucket(calendars), []byte(id))
		return err
	})
	return found, err
}

// Calendars implements calendar.State.
func (s *State) Calendars(ctx context.Context) (all []calendar.Calendar, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		all, err = values[calendar.Calendar](tx.Bucket(calendars))
		return err
	})
	return all, err
}

func values[T any](b *bbolt.Bucket) (all []T, err error) {
	err = b.ForEach(func(k, _ []byte) error {
		v, err := get[T](b, k)
		if err == nil {
			all = append(all, *v)
		}
		return err
	})
	return all, err
}

// channel is a calendar.Channel with the hash that its own JSON omits.
type channel struct {
	calendar.Channel
	Hash []byte
}

func (c *channel) whole() *calendar.Channel {
	if c == nil {
		return nil
	}
	c.TokenHash = c.Hash
	return &c.Channel
}

// UpdateChannel implements calendar.State.
func (s *State) UpdateChannel(ctx context.Context, id string, fn func(*calendar.Channel) (*calendar.Channel, error)) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		return change(tx.Bucket(channels), id, func(c *channel) (*channel, error) {
			v, err := fn(c.whole())
			if v == nil {
				return nil, err
			}
			return &channel{*v, v.TokenHash}, err
		})
	})
}

// Channel implements calendar.State.
func (s *State) Channel(ctx context.Context, id string) (found *calendar.Channel, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c, err := get[channel](tx.Bucket(channels), []byte(id))
		found = c.whole()
		return err
	})
	return found, err
}

// Channels implements calendar.State.
func (s *State) Channels(ctx context.Context, calendarID string) (found []calendar.Channel, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		all, err := values[channel](tx.Bucket(channels))
		for _, c := range all {
			if calendarID == "" || c.CalendarID == calendarID {
				found = append(found, *c.whole())
			}
		}
		return err
	})
	slices.SortFunc(found, func(a, b calendar.Channel) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return found, err
}

// of returns the bucket of a calendar, nil when there is none.
func of(tx *bbolt.Tx, name []byte, calendarID string) *bbolt.Bucket {
	return tx.Bucket(name).Bucket([]byte(calendarID))
}

// event reads an event with its pending change.
func event(tx *bbolt.Tx, calendarID string, id []byte) (*calendar.Event, error) {
	e, err := get[calendar.Event](of(tx, events, calendarID), id)
	if err == nil && e != nil {
		e.Pending, err = get[calendar.Change](of(tx, pending, calendarID), id)
	}
	return e, err
}

// Events implements calendar.State.
func (s *State) Events(ctx context.Context, calendarID string, ids []string) (map[string]calendar.Event, error) {
	found := make(map[string]calendar.Event, len(ids))
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		for _, id := range ids {
			e, err := event(tx, calendarID, []byte(id))
			if err != nil {
				return err
			}
			if e != nil {
				found[id] = *e
			}
		}
		return nil
	})
	return found, err
}

// Live implements calendar.State.
func (s *State) Live(ctx context.Context, calendarID string) ([]string, error) {
	return s.find(ctx, calendarID, func(e *calendar.Event) bool { return !e.Deleted })
}

// Exceptions implements calendar.State.
func (s *State) Exceptions(ctx context.Context, calendarID, master string) ([]string, error) {
	return s.find(ctx, calendarID, func(e *calendar.Event) bool { return e.Master == master })
}

func (s *State) find(ctx context.Context, calendarID string, match func(*calendar.Event) bool) (ids []string, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := of(tx, events, calendarID)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, _ []byte) error {
			e, err := get[calendar.Event](b, k)
			if err == nil && match(e) {
				ids = append(ids, string(k))
			}
			return err
		})
	})
	return ids, err
}

// Pending implements calendar.State.
func (s *State) Pending(ctx context.Context, calendarID string) (found []calendar.Event, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := of(tx, pending, calendarID)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, _ := c.First(); k != nil && len(found) < calendar.MaxBatch; k, _ = c.Next() {
			e, err := event(tx, calendarID, k)
			if err != nil {
				return err
			}
			found = append(found, *e)
		}
		return nil
	})
	return found, err
}

// checkLease fails with ErrLeaseLost unless l is the current lease.
func checkLease(tx *bbolt.Tx, l calendar.Lease) error {
	c, err := get[calendar.Calendar](tx.Bucket(calendars), []byte(l.CalendarID))
	if err == nil && (c == nil || c.Fence != l.Fence) {
		err = calendar.ErrLeaseLost
	}
	return err
}

// write runs change with the buckets of a calendar, if l is the current lease.
func (s *State) write(ctx context.Context, l calendar.Lease, change func(events, pending *bbolt.Bucket) error) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		if err := checkLease(tx, l); err != nil {
			return err
		}
		mine, err := tx.Bucket(events).CreateBucketIfNotExists([]byte(l.CalendarID))
		if err != nil {
			return failed(err)
		}
		owed, err := tx.Bucket(pending).CreateBucketIfNotExists([]byte(l.CalendarID))
		if err != nil {
			return failed(err)
		}
		return change(mine, owed)
	})
}

// Save implements calendar.State.
func (s *State) Save(ctx context.Context, l calendar.Lease, list []calendar.Event) error {
	return s.write(ctx, l, func(events, pending *bbolt.Bucket) error {
		for _, e := range list {
			if err := put(pending, []byte(e.ID), e.Pending); err != nil {
				return err
			}
			e.Pending = nil
			if err := put(events, []byte(e.ID), &e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delivered implements calendar.State.
func (s *State) Delivered(ctx context.Context, l calendar.Lease, ids []string) error {
	return s.write(ctx, l, func(_, pending *bbolt.Bucket) error {
		for _, id := range ids {
			if err := put[calendar.Change](pending, []byte(id), nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// Forget implements calendar.State.
func (s *State) Forget(ctx context.Context, l calendar.Lease) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		if err := checkLease(tx, l); err != nil {
			return err
		}
		for _, name := range [][]byte{events, pending} {
			err := tx.Bucket(name).DeleteBucket([]byte(l.CalendarID))
			if err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
				return failed(err)
			}
		}
		return nil
	})
}
