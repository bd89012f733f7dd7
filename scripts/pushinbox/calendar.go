package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/shared/calendar"
)

// syncTimeout bounds a call that syncs: the function itself gives up after ten
// minutes.
const syncTimeout = 10 * time.Minute

// operator calls the function calendar.
type operator struct {
	url, tokenFile string
	local          bool
	port           int // 0: of the one that is found
	at             target
}

func newCalendar() *cobra.Command {
	var o operator
	cmd := &cobra.Command{
		Use:   "calendar",
		Short: "Watch Google calendars, and see what is watched",
		Long: `Watch Google calendars, and see what is watched.

Every event that is added, changed or deleted in a watched calendar becomes a
message in the inbox. Name a calendar by its ID, which Google Calendar shows in its
settings; the ID of a person's main calendar is their e-mail address.

--local calls the running "pushinbox local", which has a stand-in for Google with the
calendar "demo". --url calls the deployed function; it requires a token of an account that
is among its operators.`,
		Example: `  pushinbox calendar watch --local demo
  pushinbox calendar list --local
  pushinbox calendar watch --url https://calendar-123.europe-west1.run.app --token-file token.txt rooms@example.com`,
	}
	flags := cmd.PersistentFlags()
	flags.BoolVar(&o.local, "local", false, "call the running pushinbox local")
	portFlag(flags, "port", &o.port, "the port of the running pushinbox local, unless it is found")
	o.at.dataFlag(flags)
	flags.StringVar(&o.url, "url", "", "call the function deployed here")
	tokenFlags(flags, &o.tokenFile, "a file with an operator's Google ID token, for --url; "+envIDToken+" by default")
	cmd.AddCommand(
		operation(&o, "watch CALENDAR", "Watch a calendar, and report what is in it",
			`  pushinbox calendar watch --local demo
  pushinbox calendar watch --local --format json demo | jq -r .expiration`,
			http.MethodPost, "/watch", syncTimeout, func(cmd *cobra.Command, c calendar.Channel) error {
				return say(cmd, fmt.Sprintf("%s is watched; its channel %s ends %s", c.CalendarID, c.ID, moment(c.Expiration)))
			}),
		operation(&o, "stop CALENDAR", "Stop watching a calendar, and forget its events",
			`  pushinbox calendar stop --local demo`,
			http.MethodPost, "/stop", syncTimeout, func(cmd *cobra.Command, s struct{ Stopped string }) error {
				return say(cmd, s.Stopped+" is no longer watched")
			}),
		operation(&o, "renew", "Open new channels for calendars whose channel is past half of its life",
			`  pushinbox calendar renew --local`,
			http.MethodPost, "/renew", syncTimeout, func(cmd *cobra.Command, l channelList) error {
				return sayEach(cmd, l.Channels, "no channel had to be renewed", func(c calendar.Channel) string {
					return fmt.Sprintf("%s has a new channel %s, which ends %s", c.CalendarID, c.ID, moment(c.Expiration))
				})
			}),
		operation(&o, "sync [CALENDAR]", "Report now what has changed, in one watched calendar or in all",
			`  pushinbox calendar sync --local
  pushinbox calendar sync --local demo`,
			http.MethodPost, "/sync", syncTimeout, func(cmd *cobra.Command, l struct{ Calendars []calendar.Result }) error {
				return sayEach(cmd, l.Calendars, "no calendar was synced: none is watched, or others are syncing them", func(r calendar.Result) string {
					return fmt.Sprintf("%s: %d added, %d updated, %d deleted", r.CalendarID, r.Added, r.Updated, r.Deleted)
				})
			}),
		operation(&o, "list", "List what is watched: when it was last synced, and its channels",
			`  pushinbox calendar list --local
  pushinbox calendar list --local --format json | jq -r '.channels[].calendarId'`,
			http.MethodGet, "/channels", callTimeout, printChannels),
	)
	return cmd
}

// operation returns the command of one thing that an operator does: it calls the
// function and prints the answer as it is, or with text.
func operation[T any](o *operator, use, short, example, method, path string, timeout time.Duration, text func(*cobra.Command, T) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			c.timeout = timeout
			target := path
			if len(args) > 0 {
				target += "?" + url.Values{"calendar": args}.Encode()
			}
			a, err := c.call(cmd.Context(), method, target, nil, nil)
			if err != nil {
				return err
			}
			var partly struct{ Failed failedCalendars }
			var failed error
			switch {
			case a.ok():
			case json.Unmarshal(a.body, &partly) == nil && len(partly.Failed) > 0:
				failed = partly.Failed
			default:
				return errors.New(a.String())
			}
			if a.status == http.StatusNoContent && len(args) > 0 {
				a.body, _ = json.Marshal(map[string]string{"stopped": args[0]}) // cannot fail
			}
			var v T
			if err := json.Unmarshal(a.body, &v); err != nil {
				return fmt.Errorf("%s does not answer as the function calendar does: %w", c.base, err)
			}
			if wantsJSON(cmd) {
				err = show(cmd, json.RawMessage(a.body), "")
			} else {
				err = text(cmd, v)
			}
			return errors.Join(failed, err)
		},
	}
	formatFlag(cmd)
	return cmd
}

// client returns the client of the function that the flags name.
func (o *operator) client(ctx context.Context) (*client, error) {
	if o.local == (o.url != "") {
		return nil, usageError{errors.New("say which function to call: either --local or --url URL")}
	}
	at := target{o.url, o.at.data}
	if o.local && o.port != 0 {
		at.url = fmt.Sprintf("http://127.0.0.1:%d", o.port)
	}
	find := at.client
	if o.local {
		find = at.local
	}
	c, err := find(ctx)
	if err != nil {
		return nil, err
	}
	if o.local {
		c = c.below("/calendar")
	}
	if o.local && o.tokenFile == "" {
		c.token, err = c.local().localToken(ctx, url.Values{"for": {"calendar"}})
	} else {
		err = c.authorize(ctx, o.tokenFile, "calendar", "OPERATOR", c.base.String())
	}
	return c, err
}

// failedCalendars are those for which the function could not do its work.
type failedCalendars []struct {
	CalendarID, Detail string
	Status             int
}

// Error has a line for each calendar.
func (f failedCalendars) Error() string {
	var lines []string
	for _, c := range f {
		lines = append(lines, visible(fmt.Sprintf("%s: %d %s", c.CalendarID, c.Status, c.Detail)))
	}
	return strings.Join(lines, "\n")
}

type channelList struct {
	Channels  []calendar.Channel
	Calendars []struct {
		CalendarID string
		SyncedAt   time.Time
		SyncOwed   bool
		Gone       *struct{ Reason string }
	}
}

func printChannels(cmd *cobra.Command, l channelList) error {
	if len(l.Calendars) == 0 {
		return say(cmd, "no calendar is watched")
	}
	var rows [][]string
	for _, c := range l.Calendars {
		if c.Gone != nil {
			rows = append(rows, []string{c.CalendarID, "gone", "none: " + c.Gone.Reason, "-", "-"})
			continue
		}
		synced := "not yet"
		if !c.SyncedAt.IsZero() {
			synced = moment(c.SyncedAt)
		}
		if c.SyncOwed {
			synced += ", owed"
		}
		open := 0
		for _, ch := range l.Channels {
			if ch.CalendarID != c.CalendarID {
				continue
			}
			ends := moment(ch.Expiration)
			switch {
			case ch.ResourceID == "":
				ends = "not confirmed by Google"
			case !ch.Expiration.IsZero() && time.Now().After(ch.Expiration):
				ends = "ended " + ends
			default:
				open++
			}
			rows = append(rows, []string{c.CalendarID, synced, ch.ID, ends, strconv.FormatBool(ch.Notified)})
		}
		if open == 0 {
			rows = append(rows, []string{c.CalendarID, synced, "none: watch it again", "-", "-"})
		}
	}
	return table(cmd, "CALENDAR\tSYNCED\tCHANNEL\tENDS\tNOTIFIED", rows)
}

// moment writes the end of a channel, which may have none.
func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
