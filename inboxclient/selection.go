package inboxclient

import (
	"context"
	"net/url"
	"time"

	"example.com/pushinbox/shared/inbox"
)

// Selection is what a filter selected when long work on it began. It is stored with the
// work, which goes on with the same messages.
type Selection struct {
	// Filter has the parameters of the API, as a query of a URL.
	Filter string `json:"filter,omitempty"`
	// Since and Until are the times that they meant.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until"`
}

// Select returns the Selection that the API parameters describe at the console's current
// time. What is received later is left out.
func (c *Client) Select(ctx context.Context, filter url.Values) (Selection, error) {
	// The first answer tells what time it is there.
	if _, err := c.Page(ctx, inbox.Query{PageSize: 1}); err != nil {
		return Selection{}, err
	}
	now := c.Now().UTC().Truncate(time.Microsecond)
	q, err := inbox.ParseQuery(filter, now)
	if q.Until.IsZero() || q.Until.After(now) {
		q.Until = now
	}
	return Selection{filter.Encode(), q.Since, q.Until}, err
}

// Query returns the query for those messages of s that come after a page token, the
// oldest first.
func (s *Selection) Query(pageToken string) (inbox.Query, error) {
	v, err := url.ParseQuery(s.Filter)
	if err != nil {
		return inbox.Query{}, err
	}
	v.Del("since")
	v.Del("until")
	q, err := inbox.ParseQuery(v, time.Now())
	q.Since, q.Until, q.PageToken = s.Since, s.Until, pageToken
	q.Ascending, q.PageSize = true, inbox.MaxPageSize
	return q, err
}
