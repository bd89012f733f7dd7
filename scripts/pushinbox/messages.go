package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
)

func newMessages() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "messages",
		Short: "List, get, follow, export, publish and replay messages",
		Long: `List, get, follow, export, publish and replay the messages of an inbox.

` + serverHelp + `

Times are given in RFC 3339 or as a duration back from now (90m, 2h, 7d). On a terminal
lists are tables, with times in the local time zone, or in UTC with --utc. Elsewhere
columns are separated by tabs, without a header, and times are RFC 3339 in UTC. --format
json prints one object a line. Control characters in messages are printed as escapes.

Exit codes: 0 done; 1 failed or refused, in whole or in part; 2 wrong call; 4 no message
has this ID.`,
		Example: `  pushinbox messages list --since 2h
  pushinbox messages get 1795420345123456
  pushinbox messages tail --attribute kind=greeting
  pushinbox messages export --since 7d --output week.ndjson --resume week.state
  echo Hello | pushinbox messages publish --wait
  pushinbox messages replay --since 2h --subscription inbox-push --dry-run`,
	}
	cmd.AddCommand(newMessagesList(), newMessagesGet(), newMessagesTail(), newMessagesExport(), newMessagesPublish(), newMessagesReplay())
	return cmd
}

// filter has the flags that select messages, the same for every command.
type filter struct {
	source, subscription, messageID, orderingKey, since, until, text string
	attributes                                                       []string
	quarantined                                                      bool
}

func (f *filter) flags(flags *pflag.FlagSet) {
	oneOf(flags, &f.source, "source", "only messages from pubsub, calendar or mns", inbox.Sources...)
	flags.StringVar(&f.subscription, "subscription", "", "only messages of this subscription, by its full or its short name")
	flags.StringVar(&f.messageID, "message-id", "", "only messages with this ID of the provider")
	flags.StringVar(&f.orderingKey, "ordering-key", "", "only messages with this ordering key")
	flags.StringVar(&f.since, "since", "", "only messages received at this `TIME` or later, such as 2h or 2026-11-26T02:00:00Z")
	flags.StringVar(&f.until, "until", "", "only messages received before this `TIME`")
	flags.StringArrayVar(&f.attributes, "attribute", nil, "only messages with this attribute, as `KEY=VALUE`; can be repeated, and all must be met")
	flags.StringVar(&f.text, "text", "", "only messages with this text in their data (its first 4 KiB) or attributes, in upper or lower case")
	flags.BoolVar(&f.quarantined, "quarantined", false, "only quarantined messages")
}

// values returns the filter as the parameters of the API.
func (f *filter) values() (url.Values, error) {
	v := make(url.Values)
	for name, value := range map[string]string{
		"source": f.source, "subscription": f.subscription, "messageId": f.messageID, "orderingKey": f.orderingKey,
		"since": f.since, "until": f.until, "text": f.text,
	} {
		if value != "" {
			v.Set(name, value)
		}
	}
	attributes, err := pairs("attribute", f.attributes)
	for key, value := range attributes {
		v.Set("attribute."+key, value)
	}
	if f.quarantined {
		v.Set("quarantined", "true")
	}
	return v, err
}

// query returns what the flags select, with the times as they are now.
func (f *filter) query() (inbox.Query, error) {
	v, err := f.values()
	if err != nil {
		return inbox.Query{}, err
	}
	q, err := inbox.ParseQuery(v, time.Now())
	if err != nil {
		return q, usageError{err}
	}
	return q, nil
}

// pairs reads values of a flag that are KEY=VALUE.
func pairs(flag string, values []string) (map[string]string, error) {
	read := make(map[string]string, len(values))
	for _, s := range values {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, usageError{fmt.Errorf("--%s %q is not KEY=VALUE", flag, s)}
		}
		if _, twice := read[key]; twice {
			return nil, usageError{fmt.Errorf("--%s gives the key %s twice", flag, key)}
		}
		read[key] = value
	}
	return read, nil
}

// clock writes times for people.
type clock struct{ utc bool }

func (c *clock) flag(flags *pflag.FlagSet) {
	flags.BoolVar(&c.utc, "utc", false, "print times in UTC, not in the local time zone")
}

func (c *clock) in(t time.Time) time.Time {
	if c.utc {
		return t.UTC()
	}
	return t.Local()
}

// exact writes a time with its date and zone; "-" where there is none.
func (c *clock) exact(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return c.in(t).Format("2006-01-02 15:04:05.000 MST")
}

// short writes a time without what is the same today.
func (c *clock) short(t time.Time) string {
	t, now := c.in(t), c.in(time.Now())
	switch {
	case t.Year() != now.Year():
		return t.Format("2006-01-02 15:04:05.000")
	case t.YearDay() != now.YearDay():
		return t.Format("Jan _2 15:04:05.000")
	}
	return t.Format("15:04:05.000")
}

// retrying returns options that tell on standard error what is repeated.
func retrying(p *progress) inboxclient.Options {
	return inboxclient.Options{OnRetry: func(err error, pause time.Duration) {
		p.say("%v; again in %v", err, pause.Round(100*time.Millisecond))
	}}
}

// reconnecting returns options that tell on standard error what becomes of a connection.
func reconnecting(p *progress, connection string, c clock) *inboxclient.TailOptions {
	var lost time.Time
	return &inboxclient.TailOptions{
		OnLost: func(err error) {
			lost = time.Now()
			p.say("%s was lost at %s (%v); trying again", connection, c.in(lost).Format(time.TimeOnly), err)
		},
		OnBack: func() { p.say("connected again after %v; nothing was missed", time.Since(lost).Round(time.Second)) },
	}
}

// listing prints messages, on a terminal as a table.
type listing struct {
	t    *terminal
	json bool
	clock
	widths []int // of the table's columns, once there is one
}

func newListing(cmd *cobra.Command, c clock) *listing {
	return &listing{t: terminalOf(cmd.OutOrStdout()), json: wantsJSON(cmd), clock: c}
}

// print prints some messages. The widths of the columns are those of the first ones.
func (l *listing) print(messages []*inboxclient.Message) error {
	var b strings.Builder
	switch {
	case l.json:
		for _, m := range messages {
			b.Write(visibleJSON(m.JSON))
			b.WriteByte('\n')
		}
	case l.t.isTerminal:
		l.table(&b, messages)
	default:
		for _, m := range messages {
			b.WriteString(strings.Join([]string{
				visible(m.ID), m.ReceivedAt.UTC().Format(time.RFC3339Nano), visible(m.Source), visible(m.Subscription), visible(m.MessageID),
				visible(m.OrderingKey), fmt.Sprint(m.Size), attributesOf(m), previewOf(m),
			}, "\t"))
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(l.t.w, b.String())
	return err
}

// table writes rows that fit the terminal, the first time below a header.
func (l *listing) table(b *strings.Builder, messages []*inboxclient.Message) {
	header := []string{"RECEIVED " + l.in(time.Now()).Format("MST"), "SUBSCRIPTION", "MESSAGE ID", "SIZE"}
	most := []int{23, max(12, l.t.width/6), max(16, l.t.width/5), 8}
	rows := make([][]string, 0, len(messages))
	for _, m := range messages {
		rows = append(rows, []string{l.short(m.ReceivedAt), visible(inbox.ShortName(m.Subscription)), visible(m.MessageID), fmt.Sprint(m.Size)})
	}
	if l.widths == nil {
		line := ""
		for i, name := range header {
			w := cellsOf(name)
			for _, row := range rows {
				w = max(w, cellsOf(row[i]))
			}
			l.widths = append(l.widths, min(w, most[i]))
			line += pad(name, l.widths[i]) + "  "
		}
		b.WriteString(l.t.paint(dim, fit(line+"CONTENT", l.t.width)) + "\n")
	}
	for i, row := range rows {
		line := ""
		for j, cell := range row {
			if j > 0 { // a time is never cut
				cell = fit(cell, l.widths[j])
			}
			line += pad(cell, l.widths[j]) + "  "
		}
		b.WriteString(l.content(fit(line, l.t.width), messages[i]) + "\n")
	}
}

// content returns a line with what a message is about after its beginning, which
// may fill the line already.
func (l *listing) content(line string, m *inboxclient.Message) string {
	room := l.t.width - cellsOf(line)
	add := func(color, s string) {
		if s = fit(s, room); room > 0 {
			if room -= cellsOf(s); color != "" {
				s = l.t.paint(color, s)
			}
			line += s
		}
	}
	if m.Quarantined != "" {
		add(red, "quarantined: "+visible(string(m.Quarantined))+" ")
	}
	if a := attributesOf(m); a != "" {
		add(cyan, a+" ")
	}
	add("", previewOf(m))
	return strings.TrimRight(line, " ")
}

// attributesOf writes a message's attributes in one line.
func attributesOf(m *inboxclient.Message) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m.Attributes)) {
		all = append(all, visible(k)+"="+visible(m.Attributes[k]))
	}
	return strings.Join(all, " ")
}

// maxPreview is how much of a message's data a list shows, in characters.
const maxPreview = 200

// previewOf writes the beginning of a message's data in one line.
func previewOf(m *inboxclient.Message) string {
	text, ok := inbox.Text(m.Data, true)
	if !ok {
		return fmt.Sprintf("(binary: % x)", m.Data[:min(len(m.Data), 16)])
	}
	n := 0
	for i := range text {
		if n++; n > maxPreview {
			text = text[:i] + "…"
			break
		}
	}
	return visible(strings.Join(strings.Fields(text), " "))
}

func newMessagesList() *cobra.Command {
	var from server
	var which filter
	var show clock
	limit := 50
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List messages, the newest first",
		Long: `List messages, the newest first.

Without a terminal the columns are: the inbox's ID, the time of receipt, source,
subscription, message ID, ordering key, size in bytes, attributes, and the beginning
of the data.`,
		Example: `  pushinbox messages list
  pushinbox messages list --since 2h --text "order 1234"
  pushinbox messages list --message-id 1795420345123456 --format json | jq -r .id
  pushinbox messages list --terraform terraform --attribute kind=greeting --limit 0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := which.query()
			if err != nil {
				return err
			}
			p := newProgress(cmd.ErrOrStderr())
			c, err := from.client(cmd.Context(), retrying(p))
			if err != nil {
				return err
			}
			return listMessages(cmd.Context(), c, q, limit, newListing(cmd, show), p)
		},
	}
	from.flags(cmd.Flags())
	which.flags(cmd.Flags())
	cmd.Flags().IntVar(&limit, "limit", limit, "how many to print at most; 0 prints all")
	show.flag(cmd.Flags())
	formatFlag(cmd)
	return cmd
}

// listMessages prints the messages that q selects.
func listMessages(ctx context.Context, c *inboxclient.Client, q inbox.Query, limit int, out *listing, p *progress) error {
	if limit < 0 {
		return usageError{errors.New("--limit must be 0 or more")}
	}
	printed, examined := 0, 0
	q.PageSize = inbox.MaxPageSize
	if limit > 0 {
		q.PageSize = min(limit, inbox.MaxPageSize)
	}
	for page, err := range c.Pages(ctx, q) {
		if err != nil {
			return explain(c, err)
		}
		messages := page.Messages
		if limit > 0 {
			messages = messages[:min(len(messages), limit-printed)]
		}
		p.clear()
		if err := out.print(messages); err != nil {
			return err
		}
		if !page.CompleteSince.IsZero() {
			p.say("complete since %s; older ones may be missing", out.exact(page.CompleteSince))
		}
		printed, examined = printed+len(messages), examined+page.Examined
		if limit > 0 && printed == limit {
			if page.NextPageToken != "" && out.t.isTerminal {
				p.say("%s are shown, and there may be more: --limit N", many(printed, "message"))
			}
			return nil
		}
		if !page.ExaminedUntil.IsZero() {
			p.at("examined %s, back to %s", many(examined, "message"), out.exact(page.ExaminedUntil))
		}
	}
	p.clear()
	if printed == 0 && out.t.isTerminal {
		p.say("no messages")
	}
	return nil
}

// explain says what to do where a pushinbox local does not run, or an ID names several
// messages.
func explain(c *inboxclient.Client, err error) error {
	if several := (*inboxclient.SeveralError)(nil); errors.As(err, &several) {
		text := fmt.Sprintf("%d messages have the ID %s; name one of them by its ID in the inbox:", len(several.Messages), visible(several.ID))
		for _, m := range several.Messages {
			text += fmt.Sprintf("\n  %s  of %s", visible(m.ID), visible(cmp.Or(m.Subscription, "an unknown subscription")))
		}
		return errors.New(text)
	}
	if notRunning(c.Address(), err) == err {
		return err
	}
	return fmt.Errorf("nothing answers at %s; start it with: %s local, or say which one to call with --url or %s", c.Address(), self(), envURL)
}

func newMessagesGet() *cobra.Command {
	var from server
	var show clock
	var onlyData bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Print a message",
		Long: `Print a message, by the inbox's ID or by the message ID that publishing returned.

--data writes the data alone, decoded, to standard output. On a terminal control
characters are written out; elsewhere the bytes are as they came.`,
		Example: `  pushinbox messages get 1795420345123456
  pushinbox messages get f74e1a392a184a159ae8154a2b0fadd4bb2399e7 --data > message.bin
  pushinbox messages get 1795420345123456 --format json | jq .attributes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if onlyData && wantsJSON(cmd) {
				return usageError{errors.New("give one of --data and --format json: the JSON has the data in base64")}
			}
			c, err := from.client(ctx, retrying(newProgress(cmd.ErrOrStderr())))
			if err != nil {
				return err
			}
			m, err := c.Find(ctx, args[0], inbox.Query{})
			if err != nil {
				return explain(c, err)
			}
			out := terminalOf(cmd.OutOrStdout())
			if onlyData && !out.isTerminal {
				return c.Data(ctx, m.ID, out.w)
			}
			if m.Truncated {
				if m, err = c.Get(ctx, m.ID); err != nil {
					return err
				}
			}
			switch {
			case wantsJSON(cmd):
				_, err = fmt.Fprintf(out.w, "%s\n", visibleJSON(m.JSON))
			case onlyData:
				_, err = io.WriteString(out.w, visibleLines(string(m.Data)))
			default:
				err = printMessage(out, &show, m)
			}
			return err
		},
	}
	from.flags(cmd.Flags())
	cmd.Flags().BoolVar(&onlyData, "data", false, "write the data alone, decoded")
	show.flag(cmd.Flags())
	formatFlag(cmd)
	return cmd
}

// maxDataShown is how much data a message is printed with, in bytes.
const maxDataShown = 64 << 10

// printMessage prints a message for people.
func printMessage(out *terminal, c *clock, m *inboxclient.Message) error {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s  %s\n", out.paint(dim, pad(name, 13)), value)
		}
	}
	line("id", visible(m.ID))
	line("message ID", visible(m.MessageID))
	line("source", visible(m.Source))
	line("subscription", visible(m.Subscription))
	if !m.PublishTime.IsZero() {
		line("published", c.exact(m.PublishTime))
	}
	line("received", c.exact(m.ReceivedAt))
	line("ordering key", visible(m.OrderingKey))
	if m.DeliveryAttempt > 0 {
		line("attempt", fmt.Sprint(m.DeliveryAttempt))
	}
	if v := m.Verified; v.Email != "" || v.Issuer != "" {
		line("sender", visible(strings.TrimSpace(v.Email+" for "+v.Audience)))
		line("signed by", visible(v.Issuer))
	}
	if m.Quarantined != "" {
		line("quarantined", out.paint(red, visible(string(m.Quarantined))+": "+m.Quarantined.Words()))
	}
	for _, k := range slices.Sorted(maps.Keys(m.Attributes)) {
		line("attribute", out.paint(cyan, visible(k))+" = "+visible(m.Attributes[k]))
	}
	line("size", many(m.Size, "byte"))
	data := m.Data[:min(len(m.Data), maxDataShown)]
	text, ok := inbox.Text(data, true)
	switch {
	case len(data) == 0:
	case !ok:
		fmt.Fprintf(&b, "\n(binary; --data writes it)\n")
	default:
		b.WriteString("\n" + strings.TrimSuffix(visibleLines(text), "\n") + "\n")
	}
	if len(data) < len(m.Data) && ok {
		fmt.Fprintf(&b, "(cut at %s; --data writes all)\n", many(len(data), "byte"))
	}
	_, err := io.WriteString(out.w, b.String())
	return err
}

// visibleLines returns s with its hidden characters written out, but for the ends of
// lines and tabs.
func visibleLines(s string) string {
	var b strings.Builder
	for _, r := range strings.ReplaceAll(s, "\r\n", "\n") {
		if r == '\n' || r == '\t' {
			b.WriteRune(r)
		} else {
			writeVisible(&b, r)
		}
	}
	return b.String()
}

// stdinIsTerminal reports whether a person types what is read.
func stdinIsTerminal() bool {
	_, ok := columnsOf(os.Stdin)
	return ok
}
