package calendar

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/pushinbox/shared/inbox"
	gcal "google.golang.org/api/calendar/v3"
)

// The kinds of a change.
const (
	Added   = "added"
	Updated = "updated"
	Deleted = "deleted"
)

const (
	// maxEventJSON is how much of an event is stored, in bytes of JSON.
	maxEventJSON = 400 << 10
	// maxVersion is how long the part of a message ID after the event's ID can
	// be. Google's etags have 18 characters.
	maxVersion = 100
	cancelled  = "cancelled"
	// tombstoneTTL is how long a deleted event stays in the state: longer than
	// Google lists it, so that an old answer does not bring it back.
	tombstoneTTL = 90 * 24 * time.Hour
)

// listed is an event as Google listed it.
type listed struct {
	id, etag, master string
	updated          time.Time
	sequence         int64
	cancelled        bool
	series           bool // it has a recurrence
	json             json.RawMessage
	omitted          []string
}

func newListed(event *gcal.Event) (listed, error) {
	l := listed{
		id: event.Id, etag: event.Etag, master: event.RecurringEventId, sequence: event.Sequence,
		cancelled: event.Status == cancelled, series: len(event.Recurrence) > 0,
	}
	// A time that cannot be parsed counts as absent.
	if t, err := time.Parse(time.RFC3339, event.Updated); err == nil && t.Year() > 0 {
		l.updated = t.UTC()
	}
	var err error
	if l.json, err = json.Marshal(event); err == nil && len(l.json) > maxEventJSON {
		l.json, l.omitted, err = shorten(l.json)
	}
	if l.etag == "" && !l.cancelled {
		sum := sha256.Sum256(l.json)
		l.etag = hex.EncodeToString(sum[:]) // Google always sends one
	}
	return l, err
}

// shorten drops the largest fields until the rest fits.
func shorten(event []byte) (short []byte, omitted []string, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(event, &fields); err != nil {
		return nil, nil, err
	}
	names := slices.SortedFunc(maps.Keys(fields), func(a, b string) int { return len(fields[b]) - len(fields[a]) })
	size := len(event)
	for _, name := range names {
		if size <= maxEventJSON {
			break
		}
		size -= len(fields[name])
		delete(fields, name)
		omitted = append(omitted, name)
	}
	slices.Sort(omitted)
	short, err = json.Marshal(fields)
	return short, omitted, err
}

// next returns the event to store when Google lists l: with a pending change or
// without one, or false when l brings nothing new. old is the stored event, nil
// when there is none.
func next(old *Event, l listed) (Event, bool) {
	change := &Change{Kind: Added, MessageID: messageID(l.id, l.etag), Time: l.updated, Omitted: l.omitted}
	e := Event{
		ID: l.id, Etag: l.etag, Updated: l.updated, Sequence: l.sequence, Master: l.master,
		Series: l.series, JSON: l.json, Pending: change,
	}
	if old == nil {
		if l.cancelled {
			return Event{}, false // it came and went; for exceptions see pass.reportOrphans
		}
		return e, true
	}
	if older(l, old) {
		return Event{}, false
	}
	e.Revived, e.Series = old.Revived, e.Series || old.Series
	e.Master = cmp.Or(e.Master, old.Master)
	switch {
	case l.cancelled && old.Deleted:
		// Only that Google confirms what was inferred is new.
		e.Deleted, e.Expires, e.Pending = true, old.Expires, nil
		e.Updated = latest(e.Updated, old.Updated)
		e.Etag = cmp.Or(e.Etag, old.Etag)
		return e, old.Inferred
	case l.cancelled:
		return deleted(old, l, false), true
	case old.Deleted && old.Inferred && l.etag == old.Etag:
		e.Revived++
		change.MessageID = messageID(l.id, fmt.Sprintf("%s-%d", version(l.etag), e.Revived))
	case old.Deleted:
	case bytes.Equal(l.json, old.JSON):
		return Event{}, false
	default:
		change.Kind, change.Before, change.Fields = Updated, old.JSON, differing(old.JSON, l.json)
	}
	return e, true
}

// older reports whether a listed event is a version before the stored one, or the
// same. Only a deletion may have the time of what it deletes, and only an event
// whose deletion was inferred may come back with its old time.
func older(l listed, old *Event) bool {
	switch {
	case l.etag != "" && l.etag == old.Etag && l.cancelled == old.Deleted:
		return !old.Inferred
	case l.updated.IsZero() || old.Updated.IsZero():
		return false
	case !l.updated.Equal(old.Updated):
		return l.updated.Before(old.Updated)
	case l.cancelled != old.Deleted:
		return old.Deleted && !old.Inferred
	}
	return !l.cancelled && l.sequence < old.Sequence
}

// deleted returns the event that replaces old once it is deleted. For an inferred
// deletion l is its tombstone.
func deleted(old *Event, l listed, inferred bool) Event {
	e := Event{
		ID: old.ID, Etag: cmp.Or(l.etag, old.Etag), Updated: latest(l.updated, old.Updated),
		Sequence: max(l.sequence, old.Sequence), Master: cmp.Or(l.master, old.Master),
		Series: old.Series, Deleted: true, Inferred: inferred, Revived: old.Revived, JSON: l.json,
	}
	e.Pending = &Change{Kind: Deleted, MessageID: messageID(l.id, l.etag), Time: l.updated, Omitted: l.omitted}
	if !old.Deleted {
		e.Pending.Before = old.JSON
	}
	if l.etag == "" || l.etag == old.Etag {
		v := version(old.Etag) + "-deleted"
		if old.Revived > 0 {
			v = fmt.Sprintf("%s-%d", v, old.Revived)
		}
		e.Pending.MessageID = messageID(l.id, v)
	}
	return e
}

// tombstoneOf returns what Google would list for a stored event that is deleted.
func tombstoneOf(old *Event) (listed, error) {
	stub := struct {
		ID                string          `json:"id"`
		OriginalStartTime json.RawMessage `json:"originalStartTime,omitempty"`
		RecurringEventID  string          `json:"recurringEventId,omitempty"`
		Status            string          `json:"status"`
	}{ID: old.ID, RecurringEventID: old.Master, Status: cancelled}
	var was struct {
		OriginalStartTime json.RawMessage `json:"originalStartTime"`
	}
	if err := json.Unmarshal(old.JSON, &was); err != nil {
		return listed{}, err
	}
	stub.OriginalStartTime = was.OriginalStartTime
	b, err := json.Marshal(stub)
	return listed{id: old.ID, cancelled: true, json: b}, err
}

// differing returns the names of the top-level fields that differ, sorted, without
// those that Google changes with every change.
func differing(a, b json.RawMessage) []string {
	var before, after map[string]json.RawMessage
	// Both were encoded here.
	_ = json.Unmarshal(a, &before)
	_ = json.Unmarshal(b, &after)
	differ := map[string]bool{}
	for _, fields := range []map[string]json.RawMessage{before, after} {
		for name := range fields {
			if !bytes.Equal(before[name], after[name]) {
				differ[name] = true
			}
		}
	}
	for _, name := range []string{"etag", "updated", "sequence"} {
		delete(differ, name)
	}
	return slices.Sorted(maps.Keys(differ))
}

// messageID names a version of an event.
func messageID(id, etag string) string {
	return id + "@" + version(etag)
}

// version returns an etag without its quotes, hashed when it is longer than
// Google's.
func version(etag string) string {
	v := strings.Trim(etag, `"`)
	if len(v) > maxVersion {
		sum := sha256.Sum256([]byte(v))
		return hex.EncodeToString(sum[:])
	}
	return v
}

// message returns the pending change of an event as it goes to the inbox.
func message(calendarID string, e *Event) (*inbox.Message, error) {
	fields := e.Pending.Fields
	if fields == nil {
		fields = []string{}
	}
	data, err := json.Marshal(struct {
		Change  string          `json:"change"`
		Event   json.RawMessage `json:"event"`
		Before  json.RawMessage `json:"before"`
		Fields  []string        `json:"fields"`
		Omitted []string        `json:"omitted,omitempty"`
	}{e.Pending.Kind, e.JSON, e.Pending.Before, fields, e.Pending.Omitted})
	return &inbox.Message{
		Source:       inbox.SourceCalendar,
		Subscription: calendarID,
		MessageID:    e.Pending.MessageID,
		PublishTime:  e.Pending.Time,
		Data:         data,
		Attributes:   map[string]string{"change": e.Pending.Kind, "eventId": e.ID, "calendarId": calendarID},
	}, err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
