package inboxclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/googleapis/gax-go/v2"

	"example.com/pushinbox/shared/inbox"
)

const (
	// maxSilence is how long a live tail may say nothing. A console says first how
	// often it gives a sign of life (": heartbeat 4s"), unless it is an old one: then it
	// is twice that and a second.
	maxSilence = 20 * time.Second
	// maxEvent is the longest line of a live tail, in bytes. A message in a list has
	// 4 KiB of data, 256 KiB of attributes, and what JSON escapes of them.
	maxEvent = 4 << 20
)

// Event is a message that was stored, and the token that continues after it.
type Event struct {
	Token   string
	Message *Message
}

// TailOptions holds Tail's optional settings.
type TailOptions struct {
	// OnBegin is called once, with the token after which the events come, before them.
	OnBegin func(token string)
	// OnLost is called when the connection was lost, with the reason, and OnBack
	// when there is one again. Nothing is missed in between.
	OnLost func(error)
	OnBack func()
}

// Tail yields the messages that q selects as they are stored: from now on, or after
// q's page token, which may be an event's or a page's WatchToken. Their data is cut to
// inbox.PreviewSize; Get returns all of it. A lost connection is made anew, without a gap
// and without a repetition. It ends without an error when ctx does, or by yielding one
// error, such as a refusal.
func (c *Client) Tail(ctx context.Context, q inbox.Query, o *TailOptions) iter.Seq2[Event, error] {
	t := tail{c: c, q: q, token: q.PageToken, patience: maxSilence}
	if o != nil {
		t.o = *o
	}
	return func(yield func(Event, error) bool) {
		for tries := 0; ; tries++ {
			err := t.follow(ctx, yield)
			switch {
			case t.stopped || ctx.Err() != nil:
				return
			case !isPassing(err), !t.began && !c.answered.Load():
				yield(Event{}, err)
				return
			}
			if !t.lost {
				t.lost, tries = true, 0
				if t.o.OnLost != nil {
					t.o.OnLost(err)
				}
			}
			if gax.Sleep(ctx, pauseAfter(err, tries+1)) != nil {
				return
			}
		}
	}
}

type tail struct {
	c        *Client
	q        inbox.Query
	o        TailOptions
	token    string        // to go on after
	patience time.Duration // with silence
	began    bool
	lost     bool
	stopped  bool // by whom the events are for
}

// errSilence ends a connection that says nothing.
var errSilence = errors.New("nothing was heard from the console")

// follow yields what one connection brings, and returns why it ended.
func (t *tail) follow(ctx context.Context, yield func(Event, error) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := make(http.Header)
	if t.token != "" {
		header.Set("Last-Event-ID", t.token)
	}
	resp, err := t.c.send(ctx, request{method: http.MethodGet, path: "events", query: feedValues(t.q), header: header})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return fmt.Errorf("%w: the live tail has the type %q", errAnswer, kind)
	}
	watchdog := time.AfterFunc(t.patience, func() { cancel(errSilence) })
	defer watchdog.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	var id, data string
	for lines.Scan() {
		line := lines.Text()
		if every, ok := strings.CutPrefix(line, ": heartbeat "); ok {
			if d, err := time.ParseDuration(every); err == nil && d > 0 && d < maxSilence/2 {
				t.patience = 2*d + time.Second
			}
		}
		watchdog.Reset(t.patience)
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case name == "id":
			id = value
		case name == "data":
			data = value
		case line == "":
			if err := t.event(id, data, watchdog, yield); err != nil || t.stopped {
				return err
			}
			id, data = "", ""
			watchdog.Reset(t.patience)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%w: an event has over %d bytes", errAnswer, maxEvent)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the console ended the connection: %w", io.EOF)
}

// event takes in one event: a message, or the token of the start.
func (t *tail) event(id, data string, watchdog *time.Timer, yield func(Event, error) bool) error {
	if id == "" {
		return nil // a comment
	}
	if !t.began && t.o.OnBegin != nil {
		t.o.OnBegin(id)
	}
	t.token, t.began = id, true
	if t.lost {
		t.lost = false
		if t.o.OnBack != nil {
			t.o.OnBack()
		}
	}
	if data == "" {
		return nil
	}
	m := new(Message)
	if err := decode([]byte(data), m); err != nil {
		return err
	}
	if !t.q.Matches(&m.Message) {
		return ErrFilter
	}
	watchdog.Stop() // the reader's time is not the console's
	t.stopped = !yield(Event{id, m}, nil)
	return nil
}
