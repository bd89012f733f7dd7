package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/shared/calendar"
)

// syncTimeout bounds a call that syncs: the function itself gives up after ten
// minutes.
const syncTimeout = 10 * time.Minute

// operator calls the function calendar.
type operator struct {
	url, token, format string
	local              bool
	port               int
}

func newCalendar() *cobra.Command {
	var o operator
	cmd := &cobra.Command{
		Use:   "calendar",
		Short: "Watch Google calendars, and see what is watched",
		Long: `Watch Google calendars, and see what is watched.

Every event that is added, changed or deleted in a watched calendar becomes a
message in the inbox. A calendar is named by its ID, which Google Calendar shows
in its settings; that of a person's own is their e-mail address.

--local means the running "pushinbox local", which has a stand-in for Google
with the calendar "demo". --url means the deployed function; give it a token of
an account that is among its operators.`,
		Example: `  pushinbox calendar watch --local demo
  pushinbox calendar list --local
  pushinbox calendar watch --url https://calendar-123.europe-west1.run.app --token "$TOKEN" rooms@example.com`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().BoolVar(&o.local, "local", false, "call the running pushinbox local")
	cmd.PersistentFlags().IntVar(&o.port, "port", 8080, "the port of the running pushinbox local")
	cmd.PersistentFlags().StringVar(&o.url, "url", "", "call the function deployed here")
	cmd.PersistentFlags().StringVar(&o.token, "token", "", "an operator's Google ID token, for --url")
	cmd.AddCommand(
		o.command("watch CALENDAR", "Watch a calendar, and report what is in it",
			`  pushinbox calendar watch --local demo
  pushinbox calendar watch --local --format json demo | jq -r .expiration`,
			exactly("CALENDAR"), o.watch),
		o.command("stop CALENDAR", "Stop watching a calendar, and forget its events",
			`  pushinbox calendar stop --local demo`,
			exactly("CALENDAR"), o.stop),
		o.command("renew", "Open new channels for calendars whose channel is past half of its life",
			`  pushinbox calendar renew --local`,
			exactly(), o.renew),
		o.command("sync [CALENDAR]", "Report now what has changed, in one watched calendar or in all",
			`  pushinbox calendar sync --local
  pushinbox calendar sync --local demo`,
			func(cmd *cobra.Command, args []string) error {
				return exactly([]string{"CALENDAR"}[:min(len(args), 1)]...)(cmd, args)
			}, o.sync),
		o.command("list", "List what is watched: when it was last synced, and its channels",
			`  pushinbox calendar list --local
  pushinbox calendar list --local --format json | jq -r '.channels[].calendarId'`,
			exactly(), o.list),
	)
	return cmd
}

// command returns the command of one thing that an operator does.
func (o *operator) command(use, short, example string, args cobra.PositionalArgs, do func(context.Context, io.Writer, []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.find(cmd.Context()); err != nil {
				return err
			}
			return do(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	formatFlag(cmd, &o.format)
	return cmd
}

// find sets the address and the token to call with.
func (o *operator) find(ctx context.Context) error {
	if o.local == (o.url != "") {
		return usageError{errors.New("say which function to call: either --local or --url URL")}
	}
	if o.local {
		o.url = fmt.Sprintf("http://127.0.0.1:%d/calendar", o.port)
	}
	u, err := url.Parse(o.url)
	if err != nil || u.Host == "" {
		return usageError{fmt.Errorf("--url %q is not a URL", o.url)}
	}
	if o.token != "" {
		return nil
	}
	if !isLoopback(u.Host) {
		return usageError{fmt.Errorf("no token for %s: give one with --token, such as $(gcloud auth print-identity-token --impersonate-service-account=OPERATOR --include-email --audiences=%s)", u.Host, o.url)}
	}
	o.token, err = localToken(ctx, u.Scheme+"://"+u.Host, url.Values{"for": {"calendar"}})
	return err
}

// call returns what the function answers, with an error beside it when it could
// not do all.
func (o *operator) call(ctx context.Context, timeout time.Duration, method, path, calendarID string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	target := strings.TrimSuffix(o.url, "/") + path
	if calendarID != "" {
		target += "?" + url.Values{"calendar": {calendarID}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, usageError{err}
	}
	req.Header.Set("Authorization", "Bearer "+o.token)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// A calendar of thousands of events takes its time.
	patience := time.AfterFunc(2*time.Second, func() {
		fmt.Fprintf(os.Stderr, "waiting for %s, at most %v\n", target, timeout)
	})
	defer patience.Stop()
	resp, err := client.Do(req)
	if err != nil {
		return nil, notRunning(o.url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	var partly struct {
		Failed []struct {
			CalendarID, Detail string
			Status             int
		}
	}
	switch {
	case resp.StatusCode/100 == 2:
		return body, nil
	case json.Unmarshal(body, &partly) == nil && len(partly.Failed) > 0:
		var each []string
		for _, f := range partly.Failed {
			each = append(each, fmt.Sprintf("%s: %d %s", f.CalendarID, f.Status, f.Detail))
		}
		return body, errors.New(strings.Join(each, "\n"))
	}
	return nil, errors.New(explain(resp.StatusCode, body))
}

// answer calls the function and prints what it answers as it is, or as text
// does after decoding it.
func answer[T any](ctx context.Context, o *operator, out io.Writer, timeout time.Duration, method, path, calendarID string, text func(T) error) error {
	body, failed := o.call(ctx, timeout, method, path, calendarID)
	if body == nil {
		return failed
	}
	if o.format == "json" {
		_, err := out.Write(body)
		return errors.Join(failed, err)
	}
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("%s does not answer as the function calendar does: %w", o.url, err)
	}
	return errors.Join(failed, text(v))
}

type channelList struct {
	Channels  []calendar.Channel `json:"channels"`
	Calendars []struct {
		CalendarID string    `json:"calendarId"`
		SyncedAt   time.Time `json:"syncedAt"`
		SyncOwed   bool      `json:"syncOwed"`
	} `json:"calendars"`
}

type resultList struct {
	Calendars []calendar.Result `json:"calendars"`
}

func (o *operator) watch(ctx context.Context, out io.Writer, args []string) error {
	return answer(ctx, o, out, syncTimeout, http.MethodPost, "/watch", args[0], func(c calendar.Channel) error {
		_, err := fmt.Fprintf(out, "%s is watched; its channel %s ends %s\n", c.CalendarID, c.ID, moment(c.Expiration))
		return err
	})
}

func (o *operator) stop(ctx context.Context, out io.Writer, args []string) error {
	if _, err := o.call(ctx, syncTimeout, http.MethodPost, "/stop", args[0]); err != nil {
		return err
	}
	if o.format == "json" {
		return json.NewEncoder(out).Encode(map[string]string{"stopped": args[0]})
	}
	_, err := fmt.Fprintf(out, "%s is no longer watched\n", args[0])
	return err
}

func (o *operator) renew(ctx context.Context, out io.Writer, _ []string) error {
	return answer(ctx, o, out, syncTimeout, http.MethodPost, "/renew", "", func(l channelList) error {
		if len(l.Channels) == 0 {
			_, err := fmt.Fprintln(out, "no channel had to be renewed")
			return err
		}
		for _, c := range l.Channels {
			if _, err := fmt.Fprintf(out, "%s has a new channel %s, which ends %s\n", c.CalendarID, c.ID, moment(c.Expiration)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (o *operator) sync(ctx context.Context, out io.Writer, args []string) error {
	id := ""
	if len(args) > 0 {
		id = args[0]
	}
	return answer(ctx, o, out, syncTimeout, http.MethodPost, "/sync", id, func(l resultList) error {
		if len(l.Calendars) == 0 {
			_, err := fmt.Fprintln(out, "no calendar was synced: none is watched, or others are syncing them")
			return err
		}
		for _, r := range l.Calendars {
			if _, err := fmt.Fprintf(out, "%s: %d added, %d updated, %d deleted\n", r.CalendarID, r.Added, r.Updated, r.Deleted); err != nil {
				return err
			}
		}
		return nil
	})
}

func (o *operator) list(ctx context.Context, out io.Writer, _ []string) error {
	return answer(ctx, o, out, callTimeout, http.MethodGet, "/channels", "", func(l channelList) error {
		if len(l.Calendars) == 0 {
			_, err := fmt.Fprintln(out, "no calendar is watched")
			return err
		}
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "CALENDAR\tSYNCED\tCHANNEL\tENDS\tNOTIFIED")
		for _, c := range l.Calendars {
			synced := "not yet"
			if !c.SyncedAt.IsZero() {
				synced = c.SyncedAt.UTC().Format(time.RFC3339)
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
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%t\n", c.CalendarID, synced, ch.ID, ends, ch.Notified)
			}
			if open == 0 {
				fmt.Fprintf(table, "%s\t%s\tnone: watch it again\t-\t-\n", c.CalendarID, synced)
			}
		}
		return table.Flush()
	})
}

// moment writes the end of a channel, which may have none.
func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
