package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/shell"
)

func newDelivery() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delivery",
		Short: "See how Pub/Sub's pushes go; pause and resume them",
		Long: `See how Pub/Sub's pushes to an inbox go; pause and resume them.

"status" asks the console of the inbox. "pause" and "resume" change a subscription, with
your own Google credentials. Without flags all three work on the running "pushinbox
local"; the --help of each says how to name a deployed inbox.`,
		Example: `  pushinbox delivery status
  pushinbox delivery status --terraform terraform
  pushinbox delivery pause
  pushinbox delivery resume`,
	}
	cmd.AddCommand(newDeliveryStatus(), newPause(), newResume())
	return cmd
}

func newDeliveryStatus() *cobra.Command {
	var from server
	var times clock
	var subscription string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print the state of each subscription, what waits in it, and what was refused",
		Long: `Print the state of each subscription, what waits in it, how its pushes went in the
last hour and the last day, and the last pushes that were not acknowledged, with the
reason and how often. "unknown" is not 0: the last lines say why.

For "pushinbox local" it shows every push subscription, those of other programs too,
since its start. For a deployed inbox the numbers are Cloud Monitoring's, which are some
minutes old.

Without a terminal the columns are separated by tabs. After "subscription": name,
state, endpoint, messages that wait, age of the oldest of them in seconds, and then for
the last hour and again for the last day: pushes, share acknowledged, p50 and p99 in
milliseconds, dead letters. After "refusal": time of the last, status, reason, number in
the last hour, number in all, subscription, detail. After "unknown": what, and why. What
is not known is empty. --format json prints what GET /delivery answers.`,
		Example: `  pushinbox delivery status
  pushinbox delivery status --subscription inbox-push
  pushinbox delivery status --format json | jq '.subscriptions[] | {name, state, backlog}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newProgress(cmd.ErrOrStderr())
			c, err := from.client(cmd.Context(), retrying(p))
			if err != nil {
				return err
			}
			report, err := deliveryOf(cmd.Context(), c, subscription)
			if err != nil {
				return err
			}
			if wantsJSON(cmd) {
				return show(cmd, report, "")
			}
			s := &statusPrinter{t: terminalOf(cmd.OutOrStdout()), clock: times, where: from.where(c)}
			return s.print(report)
		},
	}
	from.flags(cmd.Flags())
	from.at.dataFlag(cmd.Flags())
	cmd.Flags().StringVar(&subscription, "subscription", "", "only this subscription, by its full or its short `NAME`")
	times.flag(cmd.Flags())
	formatFlag(cmd)
	return cmd
}

// deliveryOf returns how delivery goes, of one subscription where it is named.
func deliveryOf(ctx context.Context, c *inboxclient.Client, subscription string) (*delivery.Report, error) {
	report, err := c.Delivery(ctx)
	if err != nil {
		return nil, explain(c, err)
	}
	if subscription == "" {
		return report, nil
	}
	is := func(name string) bool { return name == subscription || inbox.ShortName(name) == subscription }
	report.Subscriptions = slices.DeleteFunc(report.Subscriptions, func(s delivery.Subscription) bool { return !is(s.Name) })
	report.Refusals = slices.DeleteFunc(report.Refusals, func(r delivery.Refusal) bool { return !is(r.Subscription) })
	if len(report.Subscriptions) == 0 {
		return nil, fmt.Errorf("%s has no subscription %q; run the command without --subscription to list all", c.Address(), subscription)
	}
	return report, nil
}

// where returns the flags that have a command act on the subscriptions of the inbox
// that c calls, besides the name of one.
func (s *server) where(c *inboxclient.Client) func(subscription string) string {
	return func(subscription string) string {
		parts := strings.Split(subscription, "/")
		switch here, err := newClient("url", c.Address()); {
		case s.terraform != "":
			return " --terraform " + shell.Quote(s.terraform)
		case s.at.data != "":
			return " --data " + shell.Quote(s.at.data)
		case err == nil && here.isLocal() || len(parts) != 4:
			return ""
		}
		return " --project " + shell.Quote(parts[1])
	}
}

// statusPrinter prints a report: on a terminal for people, else in columns.
type statusPrinter struct {
	t *terminal
	clock
	where func(subscription string) string
	// several says that more than one subscription keeps dead letters.
	several bool
	b       strings.Builder
}

func (s *statusPrinter) print(r *delivery.Report) error {
	keepers := 0
	for _, sub := range r.Subscriptions {
		if sub.DeadLetters {
			keepers++
		}
	}
	s.several = keepers > 1
	if !s.t.isTerminal {
		s.columns(r)
	} else {
		for _, sub := range r.Subscriptions {
			s.subscription(sub)
		}
		s.refusals(r)
		for _, u := range r.Unknown {
			s.line("", "Unknown: %s: %s.", u.What, strings.TrimSuffix(u.Why, "."))
		}
	}
	_, err := io.WriteString(s.t.w, s.b.String())
	return err
}

// line writes a line, in a colour.
func (s *statusPrinter) line(color, format string, args ...any) {
	line := visible(fmt.Sprintf(format, args...))
	if color != "" {
		line = s.t.paint(color, line)
	}
	s.b.WriteString(line + "\n")
}

// subscription writes what is told of one subscription, what is wrong with it first.
func (s *statusPrinter) subscription(sub delivery.Subscription) {
	name, to := inbox.ShortName(sub.Name), ""
	if sub.Endpoint != "" {
		to = " to " + sub.Endpoint
	}
	s.line("", "%s: %s%s", name, sub.State, to)
	if why := s.trouble(sub); why != "" {
		s.line(red, "  %s", why)
	}
	waits := "unknown"
	if sub.Backlog != nil {
		waits = many(*sub.Backlog, "message")
		if *sub.Backlog > 0 && sub.OldestSeconds != nil {
			waits += ", the oldest for " + age(*sub.OldestSeconds)
		}
	}
	s.line("", "  waiting    %s", waits)
	if sub.DeadLetters && sub.LastDay.Pushes != nil && *sub.LastDay.Pushes == 0 {
		return // it is not pushed
	}
	color := ""
	if share := sub.LastHour.AckedShare; share != nil && *share < 1 {
		color = red
	}
	s.line(color, "  last hour  %s", windowOf(sub.LastHour))
	s.line("", "  last day   %s", windowOf(sub.LastDay))
}

// trouble says what is wrong with a subscription by its state, and the command that
// mends it.
func (s *statusPrinter) trouble(sub delivery.Subscription) string {
	flags := s.where(sub.Name) + " --subscription " + shell.Quote(inbox.ShortName(sub.Name))
	by := ""
	if o := sub.Operation; o != nil {
		by = fmt.Sprintf(" since %s by %s", s.exact(o.At), o.Principal)
	}
	switch sub.State {
	case delivery.Paused:
		lost := ""
		if o := sub.Operation; o != nil && !o.LostFrom.IsZero() {
			lost = fmt.Sprintf(" What waits is lost from %s on.", s.exact(o.LostFrom))
		}
		return fmt.Sprintf("It is paused%s: nothing is pushed.%s Go on with: pushinbox delivery resume%s", by, lost, flags)
	case delivery.Redriving:
		if sub.Operation == nil {
			by = ", and nothing says by whom"
		}
		return fmt.Sprintf("Its dead letters are pushed%s; what fails comes again and again. End it with: pushinbox dead-letters redrive --stop%s", by, s.where(sub.Name)+s.deadLetters(sub))
	case delivery.Waiting:
		if sub.Backlog != nil && *sub.Backlog > 0 {
			return fmt.Sprintf("Its messages were given up after the last attempt. Look at them with: pushinbox dead-letters list%s", s.where(sub.Name)+s.deadLetters(sub))
		}
	case delivery.Detached:
		return "It is detached: it gets nothing from its topic any more, and cannot again. Create it anew."
	case delivery.TopicGone:
		return "Its topic was deleted: nothing is published to it any more. Create both anew."
	case delivery.Missing:
		return "There is no such subscription: what is published is not kept for the inbox. Create it."
	}
	return ""
}

// deadLetters returns the flag that says which dead letters are meant.
func (s *statusPrinter) deadLetters(sub delivery.Subscription) string {
	if !s.several {
		return ""
	}
	return " --dead-letter-subscription " + shell.Quote(inbox.ShortName(sub.Name))
}

// answerOf says how pushes were refused.
func answerOf(r delivery.Refusal) string {
	switch {
	case r.Status != 0:
		return fmt.Sprintf("%d %s", r.Status, cmp.Or(r.Reason, "unknown"))
	case r.Reason == "no_answer": // Detail says why
		return "no answer"
	}
	return "no answer " + r.Reason
}

// refusals writes what was not acknowledged.
func (s *statusPrinter) refusals(r *delivery.Report) {
	since := ""
	if !r.RefusalsFrom.IsZero() {
		since = " since " + s.exact(r.RefusalsFrom)
	}
	if len(r.Refusals) == 0 {
		if !slices.ContainsFunc(r.Unknown, func(u delivery.Unknown) bool { return u.What == "refusals" }) {
			s.b.WriteByte('\n')
			s.line("", "Nothing was refused%s.", since)
		}
		return
	}
	s.b.WriteByte('\n')
	s.line("", "Not acknowledged%s, the latest first:", since)
	for _, refusal := range r.Refusals {
		of := "from an unknown sender"
		if refusal.Subscription != "" {
			of = "of " + inbox.ShortName(refusal.Subscription)
		}
		s.line("", "  %s  %s, %s %s, %s in the last hour", s.short(refusal.Last), answerOf(refusal), delivery.Plural(refusal.Count, "push", "pushes"), of, delivery.Count(refusal.LastHour))
		if refusal.Detail != "" {
			s.line(dim, "      %s", refusal.Detail)
		}
	}
}

// windowOf writes what happened in a time.
func windowOf(w delivery.Window) string {
	if w.Pushes == nil {
		return "unknown"
	}
	parts := []string{delivery.Plural(*w.Pushes, "push", "pushes")}
	if w.AckedShare != nil {
		parts = append(parts, delivery.Percent(*w.AckedShare)+" acknowledged")
	}
	if w.P50Millis != nil && w.P99Millis != nil {
		parts = append(parts, fmt.Sprintf("p50 %s ms, p99 %s ms", number(w.P50Millis), number(w.P99Millis)))
	}
	if w.DeadLettered != nil && *w.DeadLettered > 0 {
		parts = append(parts, many(*w.DeadLettered, "dead letter"))
	}
	return strings.Join(parts, ", ")
}

// number writes a number, or nothing where it is not known.
func number[T int64 | float64](n *T) string {
	if n == nil {
		return ""
	}
	return strconv.FormatFloat(float64(*n), 'f', -1, 64)
}

// age writes so many seconds.
func age(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= 48*time.Hour:
		return many(int(d.Hours()/24), "day")
	case d >= time.Minute:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return d.Truncate(time.Second).String()
}

// columns writes a report for other programs.
func (s *statusPrinter) columns(r *delivery.Report) {
	row := func(cells ...string) {
		for i, cell := range cells {
			cells[i] = visible(cell)
		}
		s.b.WriteString(strings.Join(cells, "\t") + "\n")
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	for _, sub := range r.Subscriptions {
		cells := []string{"subscription", sub.Name, string(sub.State), sub.Endpoint, number(sub.Backlog), number(sub.OldestSeconds)}
		for _, w := range []delivery.Window{sub.LastHour, sub.LastDay} {
			cells = append(cells, number(w.Pushes), number(w.AckedShare), number(w.P50Millis), number(w.P99Millis), number(w.DeadLettered))
		}
		row(cells...)
	}
	for _, f := range r.Refusals {
		row("refusal", at(f.Last), strconv.Itoa(f.Status), f.Reason, number(&f.LastHour), number(&f.Count), f.Subscription, f.Detail)
	}
	for _, u := range r.Unknown {
		row("unknown", u.What, u.Why)
	}
}
