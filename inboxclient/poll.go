package inboxclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/googleapis/gax-go/v2"

	"example.com/pushinbox/shared/inbox"
)

const (
	// pollWait is how long one call of Follow waits: less than three calls a minute.
	pollWait = 25 * time.Second
	// leastPause is the time from a call that was answered without a message to the next.
	leastPause = time.Second
)

// Poll returns the messages that q selects and that were stored after q's page token,
// the oldest first: as soon as there is one, or none after wait, which is 50 seconds at
// most. Without a page token it begins with the oldest message that is kept. next is the
// token after them, or after all that was looked at. Their data is cut to
// inbox.PreviewSize; Get returns all of it. Quarantined messages are among them.
func (c *Client) Poll(ctx context.Context, q inbox.Query, wait time.Duration) (events []Event, next string, err error) {
	v := feedValues(q)
	if q.PageSize > 0 {
		v.Set("pageSize", strconv.Itoa(q.PageSize))
	}
	if q.PageToken != "" {
		v.Set("after", q.PageToken)
	}
	if wait > 0 {
		v.Set("wait", min(wait, headerTimeout-10*time.Second).String())
	}
	var answer struct {
		Messages []polled
		Next     string
	}
	if err := c.readJSON(ctx, request{path: "messages:poll", query: v}, &answer); err != nil {
		return nil, "", err
	}
	for _, m := range answer.Messages {
		if m.Token == "" {
			return nil, "", fmt.Errorf("%w: a message has no token", errAnswer)
		}
		if !q.Matches(&m.Message.Message) {
			return nil, "", ErrFilter
		}
		events = append(events, Event(m))
	}
	if answer.Next == "" {
		return nil, "", fmt.Errorf("%w: it has no next token", errAnswer)
	}
	if len(events) > 0 && answer.Next == q.PageToken {
		return nil, "", fmt.Errorf("%w: the next token is the one before these messages", errAnswer)
	}
	return events, answer.Next, nil
}

// polled is an Event as the console answers it: the token among the message's members.
type polled Event

func (p *polled) UnmarshalJSON(b []byte) error {
	var of struct{ Token string }
	p.Message = new(Message)
	if err := errors.Join(json.Unmarshal(b, &of), p.Message.UnmarshalJSON(b)); err != nil {
		return err
	}
	p.Token = of.Token
	return nil
}

// Follow yields the messages that q selects, the oldest first: those that were stored
// after q's page token, or all that are kept, and then each as it is stored. Whoever
// stores an event's token together with its effects, and begins with that token again,
// processes each message once. Their data is cut to inbox.PreviewSize; Get returns all of
// it. Quarantined messages are among them. It ends without an error when ctx does, or by
// yielding one error.
func (c *Client) Follow(ctx context.Context, q inbox.Query) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			asked := time.Now()
			events, next, err := c.Poll(ctx, q, pollWait)
			if ctx.Err() != nil {
				return
			}
			// What stands between may not wait.
			if early := leastPause - time.Since(asked); err == nil && len(events) == 0 && early > 0 && gax.Sleep(ctx, early) != nil {
				return
			}
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range events {
				if !yield(e, nil) || ctx.Err() != nil {
					return
				}
			}
			q.PageToken = next
		}
	}
}
