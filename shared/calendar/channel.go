package calendar

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
)

const (
	// openTime is longer than the opening of a channel takes.
	openTime = 10 * time.Minute
	// forgetAfter is how long an expired channel stays known, and one that Google
	// never confirmed.
	forgetAfter = 24 * time.Hour
	// maxCalendarID is longer than any ID of Google's, which are e-mail addresses.
	maxCalendarID = 1000
)

// checkID refuses what is not a valid calendar ID. The alias primary means another
// calendar for every caller, so that nothing can be stored under it.
func checkID(id string) error {
	if id == "" || id == "primary" || len(id) > maxCalendarID || !utf8.ValidString(id) {
		return ErrCalendarID
	}
	return nil
}

// confirmed reports whether Google has confirmed the channel.
func (c *Channel) confirmed() bool { return c.ResourceID != "" }

func (c *Channel) expired(now time.Time) bool {
	return !c.Expiration.IsZero() && !now.Before(c.Expiration)
}

// serves reports whether a channel needs no successor yet: less than half of
// its life is over, so that a renewal that fails can be tried many times.
func (e *Engine) serves(c *Channel) bool {
	if !c.confirmed() || c.Address != e.o.Address {
		return false
	}
	return c.Expiration.IsZero() || c.Expiration.Sub(e.o.Now()) > c.Expiration.Sub(c.Created)/2
}

// Watch opens a channel for a calendar and requests its first sync. A calendar
// that is watched already keeps its channel, which is returned, unless that is
// due for renewal or the calendar is gone. When Google refuses, the error says what to do.
func (e *Engine) Watch(ctx context.Context, calendarID string) (Channel, error) {
	if err := checkID(calendarID); err != nil {
		return Channel{}, err
	}
	before, err := e.o.State.Calendar(ctx, calendarID)
	if err != nil {
		return Channel{}, err
	}
	var channel Channel
	var reused bool
	switch {
	case before != nil && before.Stopping:
		return Channel{}, ErrStopping
	case before != nil && before.Gone != "":
		// A channel from before it was gone says nothing about now.
		channel, err = e.open(ctx, calendarID)
	default:
		channel, reused, err = e.servingChannel(ctx, calendarID)
	}
	if err != nil {
		return Channel{}, err
	}
	// The record is written last: a calendar that Google refuses leaves none, and
	// without a record nothing is synced or renewed.
	record := func(c *Calendar) (*Calendar, error) {
		switch {
		case c == nil && reused:
			return nil, errNoRecord
		case c == nil:
			// A lease from before a Stop never becomes valid again.
			return &Calendar{ID: calendarID, Wanted: 1, Fence: e.o.Now().UnixMicro()}, nil
		case c.Stopping:
			return nil, ErrStopping
		case c.SyncedAt.IsZero(), c.Gone != "":
			c.Wanted++
			c.MissingSince, c.Gone = time.Time{}, ""
		}
		return c, nil
	}
	err = e.o.State.UpdateCalendar(ctx, calendarID, record)
	if errors.Is(err, errNoRecord) {
		// Either a Stop has ended the channel meanwhile, or a Watch died before it
		// wrote the record and left a good channel.
		reused = false
		var existing *Channel
		if existing, err = e.o.State.Channel(ctx, channel.ID); err == nil && existing == nil {
			channel, err = e.open(ctx, calendarID)
		}
		if err == nil {
			err = e.o.State.UpdateCalendar(ctx, calendarID, record)
		}
	}
	return channel, err
}

// errNoRecord ends Watch's first attempt when a channel exists for a calendar that
// is not watched.
var errNoRecord = errors.New("calendar: a channel exists without its calendar's record")

// servingChannel returns a channel of a calendar that needs no successor yet: an
// existing one, or a new one.
func (e *Engine) servingChannel(ctx context.Context, calendarID string) (channel Channel, reused bool, err error) {
	channels, err := e.o.State.Channels(ctx, calendarID)
	if err != nil {
		return Channel{}, false, err
	}
	if i := slices.IndexFunc(channels, func(c Channel) bool { return e.serves(&c) }); i >= 0 {
		return channels[i], true, nil
	}
	channel, err = e.open(ctx, calendarID)
	return channel, false, err
}

// open opens a channel at Google. The channel is stored before the call, since the
// first notification may arrive before the call's answer, or after an answer that
// got lost. Each attempt has its own ID, since Google refuses one it has seen.
func (e *Engine) open(ctx context.Context, calendarID string) (Channel, error) {
	var channel Channel
	var stateErr error
	err := e.retry(ctx, nil, func(ctx context.Context) error {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // never fails
		token := base64.RawURLEncoding.EncodeToString(secret)
		channel = Channel{
			ID: uuid.NewString(), CalendarID: calendarID, Address: e.o.Address,
			TokenHash: hash(token), Created: e.o.Now().UTC().Truncate(time.Microsecond),
		}
		stateErr = e.o.State.UpdateChannel(ctx, channel.ID, func(*Channel) (*Channel, error) { return &channel, nil })
		if stateErr != nil {
			return nil
		}
		answer, err := e.o.Service.Events.Watch(calendarID, &gcal.Channel{
			Id: channel.ID, Type: "web_hook", Address: e.o.Address, Token: token,
		}).Context(ctx).Do()
		if err == nil && answer.ResourceId == "" {
			err = errors.New("calendar: Google answered without a resource ID")
		}
		if err != nil {
			if errors.As(err, new(*googleapi.Error)) && !hasServerCode(err) {
				// Google has not opened the channel, so it need not be known.
				stateErr = e.deleteChannel(ctx, channel.ID)
			}
			return err
		}
		stateErr = e.o.State.UpdateChannel(ctx, channel.ID, func(c *Channel) (*Channel, error) {
			if c != nil {
				channel = *c // a notification may have arrived already
			}
			channel.ResourceID = answer.ResourceId
			channel.Expiration = time.Time{}
			if answer.Expiration > 0 {
				channel.Expiration = time.UnixMilli(answer.Expiration).UTC()
			}
			stored := channel
			return &stored, nil
		})
		return nil
	})
	return channel, cmp.Or(err, stateErr)
}

func hash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func hasServerCode(err error) bool {
	var g *googleapi.Error
	return errors.As(err, &g) && g.Code >= http.StatusInternalServerError
}

func (e *Engine) deleteChannel(ctx context.Context, id string) error {
	return e.o.State.UpdateChannel(ctx, id, func(*Channel) (*Channel, error) { return nil, nil })
}

// Channels returns all known channels, oldest first. They include those that are
// being replaced and those that expired within the last day.
func (e *Engine) Channels(ctx context.Context) ([]Channel, error) {
	return e.o.State.Channels(ctx, "")
}

// Calendars returns the records of all watched calendars.
func (e *Engine) Calendars(ctx context.Context) ([]Calendar, error) {
	return e.o.State.Calendars(ctx)
}

// Renew opens a new channel for every calendar whose newest channel is past half
// of its lifetime, as Google stated it, and returns the new channels. It skips
// calendars that are gone. It deletes
// channels that ended. A calendar that fails or is slow does not stop the others;
// the error joins a CalendarError for each that failed.
func (e *Engine) Renew(ctx context.Context) (renewed []Channel, err error) {
	calendars, err := e.o.State.Calendars(ctx)
	if err != nil {
		return nil, err
	}
	channels, err := e.o.State.Channels(ctx, "")
	if err != nil {
		return nil, err
	}
	var errs []error
	watched := map[string]bool{}
	for i, c := range calendars {
		watched[c.ID] = true
		if c.Stopping || c.Gone != "" || slices.ContainsFunc(channels, func(ch Channel) bool { return ch.CalendarID == c.ID && e.serves(&ch) }) {
			continue
		}
		within, cancel := share(ctx, len(calendars)-i)
		channel, err := e.open(within, c.ID)
		cancel()
		if err = e.missing(ctx, c.ID, err); errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			errs = append(errs, &CalendarError{c.ID, err})
			continue
		}
		renewed = append(renewed, channel)
	}
	now := e.o.Now()
	for _, c := range channels {
		switch {
		case c.expired(now.Add(-forgetAfter)), !c.confirmed() && now.Sub(c.Created) > forgetAfter:
			err = e.deleteChannel(ctx, c.ID)
		case !watched[c.CalendarID] && c.confirmed() && now.Sub(c.Created) > openTime:
			// A Watch died before it wrote the record, and nobody repeated it.
			err = e.end(ctx, &c)
		default:
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("delete channel %s: %w", c.ID, err))
		}
	}
	return renewed, errors.Join(errs...)
}

// retire ends the channels of a calendar that a newer one has replaced: one over
// which a notification has arrived.
func (e *Engine) retire(ctx context.Context, calendarID string) error {
	channels, err := e.o.State.Channels(ctx, calendarID)
	if err != nil {
		return err
	}
	now := e.o.Now()
	newest := len(channels) - 1
	for newest >= 0 {
		if c := &channels[newest]; c.Notified && c.confirmed() && !c.expired(now) {
			break
		}
		newest--
	}
	var errs []error
	for _, c := range channels[:max(newest, 0)] {
		if !c.confirmed() {
			if now.Sub(c.Created) < openTime {
				continue
			}
			// Google may still have opened it, with the resource of the others.
			c.ResourceID = channels[newest].ResourceID
		}
		errs = append(errs, e.end(ctx, &c))
	}
	return errors.Join(errs...)
}

// end stops a channel at Google and deletes it. A channel that Google does not
// stop expires by itself; until then its notifications are those of an unknown
// channel.
func (e *Engine) end(ctx context.Context, c *Channel) error {
	if c.confirmed() && !c.expired(e.o.Now()) {
		err := e.retry(ctx, nil, func(ctx context.Context) error {
			return e.o.Service.Channels.Stop(&gcal.Channel{Id: c.ID, ResourceId: c.ResourceID}).Context(ctx).Do()
		})
		if err != nil && !hasCode(err, http.StatusNotFound) {
			if !errors.Is(err, ErrRefused) {
				return err
			}
			e.o.Log.LogAttrs(ctx, warn, "a channel could not be stopped", calendarAttr(c.CalendarID), errorAttr(err))
		}
	}
	return e.deleteChannel(ctx, c.ID)
}

// Stop puts pending changes into the inbox, ends all channels of a calendar, and
// deletes the calendar's record and events: when it is watched again, every event
// is reported as added, each of its versions once. It fails with ErrBusy while a
// sync is under way. When it fails half-way, the calendar is no longer synced or
// renewed, and another Stop continues.
func (e *Engine) Stop(ctx context.Context, calendarID string) (err error) {
	r, err := e.begin(ctx, calendarID, exclusive)
	if err != nil {
		return err
	}
	defer func() { r.release(ctx, err) }()
	if err := r.drain(ctx); err != nil {
		return err
	}
	if err := r.update(ctx, func(c *Calendar) { c.Stopping = true }); err != nil {
		return err
	}
	channels, err := e.o.State.Channels(ctx, calendarID)
	if err != nil {
		return err
	}
	for _, c := range channels {
		if err := r.renewLease(ctx); err != nil {
			return err
		}
		if err := e.end(ctx, &c); err != nil {
			return err
		}
	}
	if err := e.o.State.Forget(ctx, r.lease); err != nil {
		return err
	}
	return e.o.State.UpdateCalendar(ctx, calendarID, func(c *Calendar) (*Calendar, error) {
		if c != nil && c.Fence != r.lease.Fence {
			return nil, ErrLeaseLost
		}
		return nil, nil
	})
}

// Notification is what Google sends to a channel's address.
type Notification struct {
	ChannelID  string // X-Goog-Channel-ID
	ResourceID string // X-Goog-Resource-ID
	Token      string // X-Goog-Channel-Token
	// Expiration is X-Goog-Channel-Expiration; zero when absent.
	Expiration time.Time
}

// Notify verifies a notification and counts a wanted sync, which is durable when
// Notify returns. It returns the calendar and whether CatchUp should be called for
// it; changed is false for a channel that has expired. It never calls Google. A
// notification that arrives twice is counted twice: the second may be the retry of
// one that got no further than here.
//
// It fails with ErrUnknownChannel or ErrForged, without any effect, and with
// ErrState.
func (e *Engine) Notify(ctx context.Context, n Notification) (calendarID string, changed bool, err error) {
	if _, err := uuid.Parse(n.ChannelID); err != nil || len(n.ChannelID) != 36 {
		return "", false, ErrUnknownChannel
	}
	c, err := e.o.State.Channel(ctx, n.ChannelID)
	if err != nil {
		return "", false, err
	}
	if c == nil {
		return "", false, ErrUnknownChannel
	}
	if subtle.ConstantTimeCompare(hash(n.Token), c.TokenHash) != 1 ||
		n.ResourceID == "" || len(n.ResourceID) > maxCalendarID || c.confirmed() && n.ResourceID != c.ResourceID {
		return "", false, ErrForged
	}
	if c.expired(e.o.Now()) {
		return c.CalendarID, false, nil
	}
	if !c.Notified || !c.confirmed() {
		err := e.o.State.UpdateChannel(ctx, c.ID, func(c *Channel) (*Channel, error) {
			if c == nil {
				return nil, nil
			}
			c.Notified = true
			if !c.confirmed() {
				c.ResourceID, c.Expiration = n.ResourceID, n.Expiration
			}
			return c, nil
		})
		if err != nil {
			return "", false, err
		}
	}
	return c.CalendarID, true, e.o.State.Want(ctx, c.CalendarID)
}
