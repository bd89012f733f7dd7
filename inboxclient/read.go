package inboxclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"example.com/pushinbox/shared/inbox"
)

// Message is a message as the console answered it.
type Message struct {
	inbox.Message
	// JSON is the answer, an object in one line.
	JSON json.RawMessage
}

// UnmarshalJSON reads what a console answers.
func (m *Message) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &m.Message); err != nil {
		return err
	}
	if m.JSON = json.RawMessage(bytes.Clone(b)); bytes.ContainsAny(b, "\n\r") {
		var line bytes.Buffer
		if err := json.Compact(&line, b); err != nil {
			return err
		}
		m.JSON = line.Bytes()
	}
	return nil
}

// MarshalJSON returns m.JSON, or that of the message where there is none.
func (m Message) MarshalJSON() ([]byte, error) {
	if m.JSON != nil {
		return m.JSON, nil
	}
	return json.Marshal(m.Message)
}

// Page is one page of a list.
type Page struct {
	Messages []*Message `json:"messages"`
	// NextPageToken leads to the next page; empty on the last. A page without
	// messages can have one.
	NextPageToken string `json:"nextPageToken"`
	// WatchToken starts a Tail of what was stored after this page was read.
	WatchToken string `json:"watchToken"`
	// Examined is how many messages the console looked at, where no index answers
	// the query; ExaminedUntil is the time of the last one, where there are more.
	Examined      int       `json:"examined"`
	ExaminedUntil time.Time `json:"examinedUntil"`
	// CompleteSince is the time from which on the answer is complete, where the
	// index that gave it was declared later than the inbox began.
	CompleteSince time.Time `json:"completeSince"`
}

// ErrFilter is the error of a console that answers messages that were not asked for,
// as one does that is older than the filter.
var ErrFilter = errors.New("the console answered a message that the filter does not select; it is older than this program: deploy it again")

// feedValues returns the parameters of q where a feed is asked for it.
func feedValues(q inbox.Query) url.Values {
	q = q.Fixed()
	q.PageToken, q.PageSize, q.Ascending = "", 0, false
	return q.Values()
}

// Page returns one page of the messages that q selects. Their data is cut to
// inbox.PreviewSize; Get returns all of it.
func (c *Client) Page(ctx context.Context, q inbox.Query) (*Page, error) {
	q = q.Fixed()
	page := new(Page)
	if err := c.readJSON(ctx, request{path: "messages", query: q.Values()}, page); err != nil {
		return nil, err
	}
	for _, m := range page.Messages {
		if m == nil || !q.Matches(&m.Message) {
			return nil, ErrFilter
		}
	}
	if page.NextPageToken != "" && page.NextPageToken == q.PageToken {
		return nil, fmt.Errorf("%w: the next page is the same page", errAnswer)
	}
	return page, nil
}

// Pages yields all pages from q's page token on, or one error at the end.
func (c *Client) Pages(ctx context.Context, q inbox.Query) iter.Seq2[*Page, error] {
	return func(yield func(*Page, error) bool) {
		for {
			page, err := c.Page(ctx, q)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(page, nil) || page.NextPageToken == "" {
				return
			}
			q.PageToken = page.NextPageToken
		}
	}
}

// List yields the messages that q selects, or one error at the end. Their data is
// cut to inbox.PreviewSize; Get returns all of it.
func (c *Client) List(ctx context.Context, q inbox.Query) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for page, err := range c.Pages(ctx, q) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range page.Messages {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// Get returns the message with an ID of the inbox, its data whole. IsNotFound tells
// that there is none.
func (c *Client) Get(ctx context.Context, id string) (*Message, error) {
	m := new(Message)
	b, err := c.JSON(ctx, id, 0)
	if err == nil {
		err = decode(b, m)
	}
	return m, err
}

// ErrNoMessage is the answer that no message has an ID.
var ErrNoMessage = errors.New("no message in the inbox has this ID, neither as the inbox's own nor as its provider's; it has not arrived, or has expired")

// SeveralError is the answer that an ID does not name one message.
type SeveralError struct {
	ID       string
	Messages []*Message // some of them
}

// Error returns a sentence without what a server has said.
func (s *SeveralError) Error() string {
	return fmt.Sprintf("%d messages have the ID %q; name one of them by its ID in the inbox", len(s.Messages), s.ID)
}

// Find returns the one message, of those that q selects, with an ID that is the inbox's or
// its provider's. No message has an empty one.
func (c *Client) Find(ctx context.Context, id string, q inbox.Query) (*Message, error) {
	if id == "" { // a query without a message ID selects all
		return nil, fmt.Errorf("%q: %w", id, ErrNoMessage)
	}
	if inbox.ValidID(id) {
		m, err := c.Get(ctx, id)
		if err == nil || !IsNotFound(err) {
			return m, err
		}
	}
	q.MessageID = id
	var found []*Message
	for m, err := range c.List(ctx, q) {
		if err != nil {
			return nil, err
		}
		if found = append(found, m); len(found) == 20 {
			break
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%q: %w", id, ErrNoMessage)
	case 1:
		return found[0], nil
	}
	return nil, &SeveralError{id, found}
}

// JSON returns the message with an ID of the inbox, its data whole, as an object in
// one line. Its data has about so many bytes.
func (c *Client) JSON(ctx context.Context, id string, size int) (json.RawMessage, error) {
	if !inbox.ValidID(id) {
		return nil, fmt.Errorf("inboxclient: %q is not an ID of the inbox", id)
	}
	var answer []byte
	err := c.read(ctx, request{path: "messages/" + id}, func(resp *http.Response) error {
		b, err := all(resp, size/3*4+32<<10)
		if answer = bytes.TrimSpace(b); err == nil && (!json.Valid(answer) || bytes.ContainsAny(answer, "\n\r")) {
			err = fmt.Errorf("%w: it is not a message in one line", errAnswer)
		}
		return err
	})
	return answer, err
}

// Data writes the data of the message with an ID of the inbox. What was written
// before a failure is not written again.
func (c *Client) Data(ctx context.Context, id string, w io.Writer) error {
	if !inbox.ValidID(id) {
		return fmt.Errorf("inboxclient: %q is not an ID of the inbox", id)
	}
	var written int64
	return c.read(ctx, request{path: "messages/" + id + "/data"}, func(resp *http.Response) error {
		if _, err := io.CopyN(io.Discard, resp.Body, written); err != nil {
			return err
		}
		n, err := io.Copy(output{w}, io.LimitReader(resp.Body, maxAnswer))
		written += n
		return err
	})
}

// output is where a caller wants an answer. That it cannot be written is no failure of
// the console, which would be asked again.
type output struct{ io.Writer }

type outputError struct{ error }

func (e outputError) Unwrap() error { return e.error }

// Write returns errors as outputError.
func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		err = outputError{err}
	}
	return n, err
}
