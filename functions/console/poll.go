package console

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
)

const (
	// maxWait is the longest that a poll waits for a message.
	maxWait = time.Minute
	// pollBytes is the memory after which a poll answers with what it has, in bytes.
	pollBytes = smallPage
	// catchUpTime is how long a poll that waits for nothing may take to look.
	catchUpTime = 10 * time.Second
)

// poll answers with the messages that were stored after a token, the oldest first: as
// soon as there is one, or with none when the time to wait is over. It keeps nothing
// for its caller, who stores the token with the effects of what it answers.
func (h *handler) poll(w http.ResponseWriter, r *http.Request) error {
	v := r.URL.Query()
	for _, name := range []string{"order", "pageToken"} {
		if v.Has(name) {
			return problem.New(http.StatusBadRequest, "a poll has no "+name+": it answers with the oldest messages after the token in the parameter after")
		}
	}
	if n := len(v["wait"]); n > 1 {
		return problem.New(http.StatusBadRequest, fmt.Sprintf("the parameter \"wait\" is there %d times; send it once", n))
	}
	wait, err := parseWait(v.Get("wait"))
	if err != nil {
		return err
	}
	// With a token, since and until mean the times that they meant before.
	q, err := inbox.ParsePoll(v, time.Now(), "wait")
	if err != nil {
		return err
	}
	if q.PageToken == "" {
		beginning := time.Unix(0, 0)
		q.PageToken = q.Token(inbox.Position{ReceivedAt: beginning, Commit: beginning})
	}
	events, next, err := h.await(r.Context(), q, wait)
	switch {
	case r.Context().Err() != nil:
		return nil // the reader left, which is not an error
	case err != nil:
		return err
	}
	return writePoll(w, events, next)
}

// parseWait reads how long a poll waits.
func parseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxWait {
		return 0, problem.New(http.StatusBadRequest, fmt.Sprintf("wait is %.100q; it is a duration of at most %v, such as 20s", s, maxWait))
	}
	return d, nil
}

// await returns the next messages of a feed, and the token after them. Once it has one,
// it waits for no other.
func (h *handler) await(ctx context.Context, q inbox.Query, wait time.Duration) (events []inbox.Event, next string, err error) {
	within, stop := context.WithTimeout(ctx, wait+catchUpTime)
	defer stop()
	over := time.Now().Add(wait)
	var caughtUp atomic.Bool
	defer time.AfterFunc(wait, func() {
		if caughtUp.Load() {
			stop()
		}
	}).Stop()
	q.Progress = true
	size := 0
	for e, err := range h.store.Watch(within, q) {
		if err != nil {
			return nil, "", err
		}
		next = e.Token
		if e.Message.ID == "" { // nothing more is there
			caughtUp.Store(true)
			if len(events) > 0 || !time.Now().Before(over) {
				return events, next, nil
			}
			continue
		}
		if len(events) == 0 {
			if err := httpapi.Reserve(ctx, pollBytes, pageWeight); err != nil {
				return nil, "", err
			}
		}
		events = append(events, e)
		if size += e.Message.Footprint(); size >= pollBytes || len(events) == q.Limit() {
			return events, next, nil
		}
	}
	if next == "" {
		return nil, "", errSlow
	}
	return events, next, nil
}

var errSlow = problem.Named("inbox_unavailable", http.StatusServiceUnavailable, "the inbox did not answer in time; try again")

// writePoll answers with messages, each with the token after it.
func writePoll(w http.ResponseWriter, events []inbox.Event, next string) error {
	out, err := writeMessages(w, events, true)
	if err != nil {
		return err
	}
	_, _ = out.WriteString(`,"next":"` + next + `"}` + "\n")
	_ = out.Flush()
	return nil
}
