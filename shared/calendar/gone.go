package calendar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
)

// Gone is the change that tells that a calendar is gone, in a message of its own.
const Gone = "gone"

// goneAfter is how long Google must show no such calendar, at every call, until it
// counts as gone. Less could be a slip of the owner's, or of Google's.
const goneAfter = 24 * time.Hour

// ErrGone is returned for a watched calendar that is gone: deleted, or no longer
// shared, for a day.
var ErrGone = problem.New(http.StatusGone, "this calendar is gone: for a day Google has shown no such calendar to this function, so it is not tried any more; share it again and watch it again, or stop it")

// errNotShown is wrapped by the refusal of a call because Google shows no such
// calendar.
var errNotShown = errors.New("calendar: Google shows no such calendar")

// missing records why a call to Google about a watched calendar failed, and returns
// the error for the caller: ErrGone once the calendar is gone. That is told in a
// message before it is recorded, and the message's ID is that of the first failed
// call, so that it is told once.
func (e *Engine) missing(ctx context.Context, calendarID string, failed error) error {
	if !errors.Is(failed, errNotShown) {
		return failed
	}
	now := e.o.Now().UTC().Truncate(time.Microsecond)
	var record Calendar
	err := e.o.State.UpdateCalendar(ctx, calendarID, func(c *Calendar) (*Calendar, error) {
		if c == nil {
			return nil, ErrNotWatched
		}
		if c.MissingSince.IsZero() {
			c.MissingSince = now
		}
		record = *c
		return c, nil
	})
	if err != nil {
		return errors.Join(failed, err)
	}
	if record.Gone == "" && now.Sub(record.MissingSince) < goneAfter {
		return failed
	}
	if record.Gone == "" {
		_, reason := problem.Of(failed)
		if err := e.tellGone(ctx, &record, reason); err != nil {
			return err
		}
		err = e.o.State.UpdateCalendar(ctx, calendarID, func(c *Calendar) (*Calendar, error) {
			if c != nil && c.MissingSince.Equal(record.MissingSince) { // else it is back
				c.Gone = reason
			}
			return c, nil
		})
		if err != nil {
			return err
		}
		e.o.Log.LogAttrs(ctx, slog.LevelError, "a calendar is gone, and not tried any more", calendarAttr(calendarID), errorAttr(failed))
	}
	return fmt.Errorf("%w: %w", ErrGone, failed)
}

// tellGone puts the message that a calendar is gone into the inbox.
func (e *Engine) tellGone(ctx context.Context, c *Calendar, reason string) error {
	data, err := json.Marshal(struct {
		Change string    `json:"change"`
		Event  *struct{} `json:"event"`
		Before *struct{} `json:"before"`
		Fields []string  `json:"fields"`
		Reason string    `json:"reason"`
		Since  time.Time `json:"since"`
	}{Change: Gone, Fields: []string{}, Reason: reason, Since: c.MissingSince.UTC()})
	if err != nil {
		return err
	}
	_, err = e.o.Inbox.Put(ctx, &inbox.Message{
		Source:       inbox.SourceCalendar,
		Subscription: c.ID,
		// An event's ID has at least five characters, so none is called gone.
		MessageID:   fmt.Sprintf("%s@%d", Gone, c.MissingSince.UnixMicro()),
		PublishTime: c.MissingSince.Add(goneAfter).UTC(),
		Data:        data,
		Attributes:  map[string]string{"change": Gone, "calendarId": c.ID},
	})
	return err
}
