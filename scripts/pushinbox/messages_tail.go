package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
)

func newMessagesTail() *cobra.Command {
	var from server
	var which filter
	var show clock
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow messages as they are stored",
		Long: `Follow messages as they are stored, until Ctrl-C.

With --since it begins with messages that were stored since then. A lost connection is
reported on standard error within 10 seconds, and opened again; what was stored meanwhile
follows, without a gap and without a repetition.`,
		Example: `  pushinbox messages tail
  pushinbox messages tail --since 10m --subscription inbox-push
  pushinbox messages tail --format json | jq -r .messageId`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := which.query()
			switch {
			case err != nil:
				return err
			case !q.Until.IsZero():
				return usageError{errors.New("--until does not go with tail, which has no end; use messages list")}
			}
			p := newProgress(cmd.ErrOrStderr())
			c, err := from.client(cmd.Context(), retrying(p))
			if err != nil {
				return err
			}
			return tailMessages(cmd.Context(), c, q, newListing(cmd, show), p)
		},
	}
	from.flags(cmd.Flags())
	which.flags(cmd.Flags())
	show.flag(cmd.Flags())
	formatFlag(cmd)
	return cmd
}

// overlap is how much of what was stored before a tail begins is remembered, so that
// it is not printed twice: clocks of instances differ.
const overlap = time.Minute

// tailMessages prints messages as they are stored, after those that were stored since
// q.Since.
func tailMessages(ctx context.Context, c *inboxclient.Client, q inbox.Query, out *listing, p *progress) error {
	seen := make(map[string]bool)
	since := q.Since
	q.Since = time.Time{}
	if !since.IsZero() {
		newest := q
		newest.PageSize = 1
		page, err := c.Page(ctx, newest)
		if err != nil {
			return explain(c, err)
		}
		begin := c.Now().Add(-overlap)
		before := q
		before.Since, before.Ascending, before.PageSize = since, true, inbox.MaxPageSize
		for page, err := range c.Pages(ctx, before) {
			if err != nil {
				return explain(c, err)
			}
			if err := out.print(page.Messages); err != nil {
				return err
			}
			for _, m := range page.Messages {
				if m.ReceivedAt.After(begin) {
					seen[m.ID] = true
				}
			}
		}
		q.PageToken = page.WatchToken
	}
	for e, err := range c.Tail(ctx, q, reconnecting(p, "the connection", out.clock)) {
		if err != nil {
			return explain(c, err)
		}
		if seen[e.Message.ID] {
			continue
		}
		if err := out.print([]*inboxclient.Message{e.Message}); err != nil {
			return err
		}
	}
	return nil
}
