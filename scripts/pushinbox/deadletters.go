package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/operations"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/shell"
)

const (
	// maxListed is the most dead letters that are listed, and defaultListed how many are
	// by default.
	maxListed, defaultListed = 10_000, 100
	// maxNamed is how many subscriptions of a topic are named.
	maxNamed = 10
	// listingTimeout bounds the listing of the subscriptions of a project.
	listingTimeout = 15 * time.Second
	// lookups is how many dead letters are looked up in the inbox at a time.
	lookups = 8
	// maxOriginals is how many messages are searched for the one that died, and
	// shownOriginals how many are named.
	maxOriginals, shownOriginals = 500, 3
	// originalWithin is how long after it was given up its original may have arrived:
	// an attempt whose answer came too late.
	originalWithin = 10 * time.Minute
)

func newDeadLetters() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "List, redrive and purge dead letters, the messages that Pub/Sub gave up",
		Long: `List, redrive and purge dead letters: messages that were not acknowledged in any of their
attempts. They wait in a subscription of their own for 31 days.

` + operateHelp,
		Example: `  pushinbox dead-letters list
  pushinbox dead-letters redrive
  pushinbox dead-letters purge
  pushinbox dead-letters redrive --terraform terraform`,
	}
	cmd.AddCommand(newDeadLettersList(), newDeadLettersRedrive(), newDeadLettersPurge())
	return cmd
}

// deadLetterFlags adds the flags that say which dead letters are meant.
func (o *operate) deadLetterFlags(cmd *cobra.Command) {
	o.flags(cmd.Flags())
	cmd.Flags().StringVar(&o.deadLetters, "dead-letter-subscription", "", "the subscription that keeps the dead letters, by its full or its short `NAME`; by default that of the dead-letter topic of --subscription")
	formatFlag(cmd)
}

// allFlag adds the flag of those commands that change what others gave up only when told.
func (o *operate) allFlag(flags *pflag.FlagSet) {
	flags.BoolVar(&o.all, "all", false, "with --subscription: also what other subscriptions gave up; with --dead-letter-subscription: also where no subscription has its topic as a dead-letter topic")
}

// openDeadLetters is open for a command about dead letters. By default they are those of
// d's subscription, by its dead-letter policy; a subscription that is named as the one that
// keeps them may keep those of others.
func (o *operate) openDeadLetters(ctx context.Context) (*operated, error) {
	d, err := o.open(ctx, new(pushToken))
	if err != nil {
		return nil, err
	}
	if d.deadLetters, err = d.findDeadLetters(ctx); errors.Is(err, operations.ErrRefused) && o.deadLetters != "" && (o.subscription == "" || o.all) {
		err = o.findSource(ctx, d, err)
	}
	if err != nil {
		d.Close()
		return nil, interrupted(err)
	}
	return d, nil
}

// openNamed is openDeadLetters for a command that needs to know no more than the name
// where one is given: what is there now may not show any more whose dead letters it keeps.
func (o *operate) openNamed(ctx context.Context) (*operated, error) {
	if o.deadLetters != "" && o.subscription == "" {
		return o.open(ctx, new(pushToken))
	}
	return o.openDeadLetters(ctx)
}

// findSource accepts a subscription that keeps dead letters of others than d's, which is
// what refusal says. Without --subscription, d's becomes the one that gives them up, or
// empty if there are several or none.
func (o *operate) findSource(ctx context.Context, d *operated, refusal error) (err error) {
	if d.deadLetterTopic, err = d.Topic(ctx, d.deadLetters); err != nil {
		return err
	}
	if d.sources, err = d.feeding(ctx); err != nil {
		return fmt.Errorf("%w; whose dead letters it keeps instead cannot be seen: %w", refusal, err)
	}
	if len(d.sources) == 0 && !stack.KeepsDeadLetters(d.deadLetters, d.deadLetterTopic) && !o.all {
		return fmt.Errorf("%s is no subscription's dead-letter topic; if %s keeps dead letters all the same, give --all: %w", d.deadLetterTopic, d.deadLetters, refusal)
	}
	if o.subscription == "" {
		if d.subscription = ""; len(d.sources) == 1 {
			d.subscription = d.sources[0]
		}
	}
	return nil
}

// feeding returns the subscriptions of the project whose dead letters go to d's topic.
func (d *operated) feeding(ctx context.Context) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listingTimeout)
	defer cancel()
	project, _, _ := strings.Cut(d.deadLetters, "/subscriptions/")
	for sub, err := range d.pubsub.SubscriptionAdminClient.ListSubscriptions(ctx, &pubsubpb.ListSubscriptionsRequest{Project: project}).All() {
		if err != nil {
			return nil, err
		}
		if sub.GetDeadLetterPolicy().GetDeadLetterTopic() == d.deadLetterTopic {
			names = append(names, sub.Name)
		}
	}
	return names, nil
}

// hasSource returns an error unless it is known to whose endpoint dead letters are pushed.
func (d *operated) hasSource() error {
	whose := "no subscription has " + d.deadLetterTopic + " as its dead-letter topic any more"
	switch {
	case d.subscription != "":
		return nil
	case len(d.sources) > 0:
		whose = d.deadLetters + " keeps the dead letters of " + strings.Join(d.sources[:min(len(d.sources), maxNamed)], ", ")
	}
	return usageError{errors.New(whose + ": name the one to whose endpoint all of them are to be pushed with --subscription, and give --all")}
}

// findDeadLetters returns the subscription that keeps the dead letters of d's. One that
// is named already has to be on the topic that they go to.
func (d *operated) findDeadLetters(ctx context.Context) (string, error) {
	topic, err := d.DeadLetterTopic(ctx, d.subscription)
	if err != nil {
		return d.deadLetters, err
	}
	d.deadLetterTopic = topic
	if d.deadLetters != "" {
		return d.deadLetters, d.Keeps(ctx, d.deadLetters, topic, d.subscription)
	}
	var names []string
	for name, err := range d.pubsub.TopicAdminClient.ListTopicSubscriptions(ctx, &pubsubpb.ListTopicSubscriptionsRequest{Topic: topic}).All() {
		if err != nil {
			return "", fmt.Errorf("cannot list the subscriptions of %s; name the one that keeps the dead letters with --dead-letter-subscription: %w", topic, err)
		}
		if d.isLocal && name == pushfake.DeadLetterSubscription(topic) {
			return name, nil // which the run has created
		}
		if names = append(names, name); len(names) == maxNamed {
			break
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("the dead letters of %s are lost: %s has no subscription", d.subscription, topic)
	case 1:
		return names[0], nil
	}
	return "", usageError{fmt.Errorf("%s has several subscriptions; name the one that keeps the dead letters with --dead-letter-subscription: %s", topic, strings.Join(names, ", "))}
}

// apart returns an error unless what waits is of d's subscription alone, as far as can
// be known: other subscriptions may have the same dead-letter topic. Where --subscription
// names none, it is the dead letters of all that are meant.
func (o *operate) apart(ctx context.Context, d *operated) error {
	if o.subscription == "" || o.all {
		return nil
	}
	if sources, err := d.feeding(ctx); err == nil && len(sources) == 1 && sources[0] == d.subscription {
		return nil // it is alone
	}
	letters, more, err := d.List(ctx, d.deadLetters, maxListed/10)
	if err != nil {
		return interrupted(err)
	}
	const instead = "with --all it is done with all of them, whoever gave them up"
	for _, l := range letters {
		if l.Subscription != "" && l.Subscription != d.subscription {
			return fmt.Errorf("%s keeps dead letters of %s too, not of %s alone; nothing was changed; %s", d.deadLetters, l.Subscription, d.subscription, instead)
		}
	}
	if more {
		return fmt.Errorf("%s may keep dead letters of others than %s, and has too many to see; nothing was changed; pubsub.subscriptions.list shows who has the same dead-letter topic; %s", d.deadLetters, d.subscription, instead)
	}
	return nil
}

// its returns those of letters that d's subscription gave up, where it was named, and
// how many others there are.
func (o *operate) its(d *operated, letters []operations.DeadLetter) (its []operations.DeadLetter, others int) {
	if o.subscription == "" || o.all {
		return letters, 0
	}
	its = slices.DeleteFunc(slices.Clone(letters), func(l operations.DeadLetter) bool { return l.Subscription != "" && l.Subscription != d.subscription })
	return its, len(letters) - len(its)
}

// listedLetter is a dead letter with what else is known of it.
type listedLetter struct {
	operations.DeadLetter
	// InInbox is the inbox's ID of this dead letter where it is there; null is not known,
	// empty that it is not.
	InInbox *string `json:"inInbox"`
	// Originals are messages of the inbox that it may have been.
	Originals []string `json:"originals,omitempty"`
	// Refusals are why it may have been given up.
	Refusals []string `json:"refusals,omitempty"`
}

func newDeadLettersList() *cobra.Command {
	var o operate
	var times clock
	limit := defaultListed
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the dead letters that wait, and why, as far as is known",
		Long: `List the dead letters that wait, the oldest first. They go on waiting: they are pulled, and
released at once.

For each: its message ID, when it was given up, after how many attempts, by which
subscription, and what receive refused at that time. "in the inbox" says whether this
dead letter is there, from a redrive. A dead letter has another ID than the original
message, so nothing proves whether the original is in the inbox; "may be" names messages
of the same subscription, publish time and data. Attempts and subscription come from the
attributes of the dead letter, which everybody can set who may publish to its topic.

` + operateHelp + `

Without a terminal the columns are separated by tabs: message ID, time given up,
attempts, subscription, bytes, whether it is in the inbox, messages it may be, refusals.`,
		Example: `  pushinbox dead-letters list
  pushinbox dead-letters list --limit 1000 --format json | jq -r .messageId
  pushinbox dead-letters list --terraform terraform`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > maxListed {
				return usageError{fmt.Errorf("--limit must be 1 to %d", maxListed)}
			}
			d, err := o.openDeadLetters(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			letters, more, err := d.List(cmd.Context(), d.deadLetters, limit)
			if err != nil {
				return interrupted(err)
			}
			letters, others := o.its(d, letters)
			if others > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), visible(fmt.Sprintf("%s of other subscriptions in %s not shown", many(others, "dead letter"), d.deadLetters)))
			}
			return printLetters(cmd, d, &times, letters, more)
		},
	}
	o.deadLetterFlags(cmd)
	o.allFlag(cmd.Flags())
	times.flag(cmd.Flags())
	cmd.Flags().IntVar(&limit, "limit", limit, "how many to list at most")
	return cmd
}

func printLetters(cmd *cobra.Command, d *operated, times *clock, letters []operations.DeadLetter, more bool) error {
	listed, err := d.lookUp(cmd.Context(), letters)
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), visible("whether they are in the inbox is not known: "+err.Error()))
	}
	d.sayWhereOthersWait(cmd)
	if more {
		defer fmt.Fprintln(cmd.ErrOrStderr(), "there are more; see --limit")
	}
	if wantsJSON(cmd) {
		for _, l := range listed {
			if err := show(cmd, l, ""); err != nil {
				return err
			}
		}
		return nil
	}
	t := terminalOf(cmd.OutOrStdout())
	if len(listed) == 0 && t.isTerminal {
		return say(cmd, "no dead letters wait in "+d.deadLetters)
	}
	var rows [][]string
	for _, l := range listed {
		rows = append(rows, l.row(times, t.isTerminal))
	}
	return table(cmd, "MESSAGE ID\tGIVEN UP\tATTEMPTS\tBY\tBYTES\tIN THE INBOX\tMAY BE\tITS SUBSCRIPTION WAS REFUSED", rows)
}

// sayWhereOthersWait names the subscriptions of a local run that keep other dead letters.
func (d *operated) sayWhereOthersWait(cmd *cobra.Command) {
	if !d.isLocal {
		return
	}
	report := d.report(cmd.Context())
	if report == nil {
		return
	}
	for _, s := range report.Subscriptions {
		if s.DeadLetters && s.Name != d.deadLetters && s.Backlog != nil && *s.Backlog > 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), visible(fmt.Sprintf("%s in %s; see --dead-letter-subscription", many(*s.Backlog, "dead letter"), inbox.ShortName(s.Name))))
		}
	}
}

// row returns the cells of a dead letter.
func (l *listedLetter) row(times *clock, isTerminal bool) []string {
	at, by, attempts, in := l.GivenUp.UTC().Format(time.RFC3339Nano), l.Subscription, "", "unknown"
	if isTerminal {
		at, by = times.short(l.GivenUp), inbox.ShortName(by)
	}
	if l.Attempts > 0 {
		attempts = strconv.Itoa(l.Attempts)
	}
	if l.InInbox != nil {
		if in = "no"; *l.InInbox != "" {
			in = "yes"
		}
	}
	return []string{l.MessageID, at, attempts, by, strconv.Itoa(l.Size), in, strings.Join(l.Originals, " "), strings.Join(l.Refusals, "; ")}
}

// lookUp asks the inbox and the console for what else is known of dead letters. Where
// they cannot be asked the rest is returned with the error.
func (d *operated) lookUp(ctx context.Context, letters []operations.DeadLetter) ([]listedLetter, error) {
	listed := make([]listedLetter, len(letters))
	for i, l := range letters {
		listed[i] = listedLetter{DeadLetter: l}
	}
	if len(letters) == 0 {
		return listed, nil
	}
	if d.inbox == nil {
		if d.findInbox == nil {
			return listed, nil
		}
		c, err := d.findInbox(ctx)
		if err != nil {
			return listed, err
		}
		d.inbox = c
	}
	report := d.report(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookups)
	for i := range listed {
		l := &listed[i]
		l.Refusals = refusalsOf(&l.DeadLetter, report)
		group.Go(func() error { return d.lookUpOne(ctx, l) })
	}
	return listed, group.Wait()
}

func (d *operated) lookUpOne(ctx context.Context, l *listedLetter) error {
	id := inbox.ID(inbox.SourcePubSub, d.deadLetters, l.MessageID)
	page, err := d.inbox.Page(ctx, inbox.Query{Source: inbox.SourcePubSub, Subscription: d.deadLetters, MessageID: l.MessageID, PageSize: 1})
	if err != nil {
		return err
	}
	there := ""
	if len(page.Messages) > 0 && page.Messages[0].ID == id {
		there = id
	}
	l.InInbox = &there
	l.Originals, err = originals(ctx, d.inbox, &l.DeadLetter)
	return err
}

// originals returns IDs of messages in the inbox that a dead letter may have been.
func originals(ctx context.Context, c *inboxclient.Client, l *operations.DeadLetter) (ids []string, err error) {
	if l.Subscription == "" || l.PublishTime.IsZero() {
		return nil, nil
	}
	q := inbox.Query{
		Source: inbox.SourcePubSub, Subscription: l.Subscription, Ascending: true, PageSize: maxOriginals,
		Since: l.PublishTime.Add(-time.Minute), Until: l.GivenUp.Add(originalWithin),
	}
	page, err := c.Page(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, m := range page.Messages {
		// The attribute has milliseconds.
		if m.PublishTime.Truncate(time.Millisecond).Equal(l.PublishTime.Truncate(time.Millisecond)) && m.Size == l.Size && string(m.Data) == string(l.Data) {
			if ids = append(ids, m.ID); len(ids) == shownOriginals {
				break
			}
		}
	}
	return ids, nil
}

// refusalsOf returns what was refused in the time in which a message was given up.
func refusalsOf(l *operations.DeadLetter, report *delivery.Report) (all []string) {
	if report == nil || l.PublishTime.IsZero() {
		return nil
	}
	for _, r := range report.Refusals {
		// A refusal without subscription was before the push was read. One that went on
		// after it was given up is counted under its last time.
		if r.Subscription != "" && r.Subscription != l.Subscription || r.Last.Before(l.PublishTime) {
			continue
		}
		all = append(all, describeRefusal(r))
	}
	return all
}

func describeRefusal(r delivery.Refusal) string {
	return answerOf(r) + ", " + timesOf(r.Count)
}

func timesOf(n int64) string {
	if n == 1 {
		return "once"
	}
	return delivery.Count(n) + " times"
}

// redriveAnswer is what redrive prints as JSON.
type redriveAnswer struct {
	Subscription string                  `json:"subscription"`
	Endpoint     string                  `json:"endpoint,omitempty"`
	Began        *int64                  `json:"began"`
	Continued    bool                    `json:"continued"`
	Stalled      bool                    `json:"stalled"`
	Left         []operations.DeadLetter `json:"left"`
	More         bool                    `json:"more"`
}

func newDeadLettersRedrive() *cobra.Command {
	var o operate
	var times clock
	var patience time.Duration
	var stop bool
	cmd := &cobra.Command{
		Use:   "redrive",
		Short: "Have Pub/Sub push the dead letters again, until none waits",
		Long: `Have Pub/Sub push the dead letters again until none waits, or until nothing moves any
more. Then the pushing ends, and what failed again is named.

No message is copied: for this time, the dead-letter subscription gets the push
configuration of --subscription, by default the inbox's. Other subscriptions of the topic
get nothing. Without --subscription all that wait are pushed to the inbox. With it nothing
is done where dead letters of others wait, which would go to the wrong endpoint, unless
--all is given.
Message IDs stay the same, so each dead letter is stored once, however often it is pushed.
But a dead letter has another ID than the original message, and a program that processed
the original processes it again: give effects a key of your own, such as the order number.

Ctrl-C, or closing the terminal, ends the pushing; the next redrive goes on. If the command
is killed, Pub/Sub goes on pushing, which "pushinbox delivery status" shows: run redrive
again, or redrive --stop. "terraform apply" ends the pushing, too.

` + operateHelp + `

Exit codes: 0 none waits any more; 1 some are left, or it failed.`,
		Example: `  pushinbox dead-letters redrive
  pushinbox dead-letters redrive --terraform terraform
  pushinbox dead-letters redrive --stop
  pushinbox dead-letters redrive --dead-letter-subscription orders-dead-letter
  pushinbox dead-letters redrive --subscription orders --all`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("patience") && patience <= 0 {
				return usageError{errors.New("--patience must be more than 0")}
			}
			open := o.openDeadLetters
			if stop {
				open = o.openNamed
			}
			d, err := open(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			if stop {
				return stopRedrive(cmd, d, &o, &times)
			}
			if err := d.hasSource(); err != nil {
				return err
			}
			if err := o.apart(cmd.Context(), d); err != nil {
				return err
			}
			// A terminal that is closed, and a pipe that nobody reads any more, must not
			// leave the dead letters being pushed.
			closed := []os.Signal{syscall.SIGPIPE}
			if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
				closed = append(closed, syscall.SIGHUP)
			}
			ctx, stopped := signal.NotifyContext(cmd.Context(), closed...)
			defer stopped()
			cmd.SetContext(ctx)
			return redrive(cmd, d, &o, &times, patience)
		},
	}
	o.deadLetterFlags(cmd)
	o.yesFlag(cmd.Flags(), withoutLog)
	times.flag(cmd.Flags())
	cmd.Flags().DurationVar(&patience, "patience", 0, "end when nothing has moved for this long; by default 3m, and 15m in the cloud, whose numbers are minutes old")
	o.allFlag(cmd.Flags())
	cmd.Flags().BoolVar(&stop, "stop", false, "only end a redrive that was left running")
	return cmd
}

func redrive(cmd *cobra.Command, d *operated, o *operate, times *clock, patience time.Duration) error {
	options := operations.RedriveOptions{Source: d.subscription, Patience: patience}
	if d.isCloud {
		options.Interval, options.Probe = 15*time.Second, 8*time.Minute
		options.Patience = cmp.Or(patience, 15*time.Minute)
	}
	p := newProgress(cmd.ErrOrStderr())
	p.last = time.Time{} // the first line comes at once
	options.OnProgress = func(at operations.Progress) { p.at("%s", bar(at)) }
	options.OnContinue = func(o *delivery.Operation) {
		p.say("going on with the redrive of %s since %s", o.Principal, times.exact(o.At))
	}
	var r *operations.Redriven
	err := d.audited(cmd, o, "dead-letters.redrive", d.deadLetters, func(ctx context.Context) (detail string, err error) {
		r, err = d.Redrive(ctx, d.deadLetters, options)
		if r != nil && err == nil {
			detail = fmt.Sprintf("%d left, more: %t, stalled: %t", len(r.Left), r.More, r.Stalled)
		}
		return detail, err
	})
	p.clear()
	if err != nil {
		if errors.Is(err, errInterrupted) && !errors.Is(err, operations.ErrAttached) {
			return fmt.Errorf("%w: nothing is pushed any more, and what was not pushed waits on; go on with the same command", errInterrupted)
		}
		if errors.Is(err, operations.ErrEnded) {
			return fmt.Errorf("%w: the pushing of %s is no longer this command's, and what was not pushed waits on; see pushinbox delivery status", err, d.deadLetters)
		}
		return err
	}
	return printRedriven(cmd, d, r)
}

// barWidth is how many cells the bar of progress has.
const barWidth = 24

// bar draws how far a redrive is.
func bar(p operations.Progress) string {
	if p.Waiting != nil && *p.Waiting == 0 {
		return "redriving; none waits, to be seen once more"
	}
	if p.Waiting == nil || p.Began == nil || *p.Began == 0 {
		return fmt.Sprintf("redriving; how many wait is not known, for %v", p.Still.Round(time.Second))
	}
	done := *p.Began - *p.Waiting
	full := int(done * barWidth / *p.Began)
	text := fmt.Sprintf("redriving [%s%s] %s of %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), delivery.Count(done), delivery.Count(*p.Began))
	if p.Still >= 5*time.Second {
		text += fmt.Sprintf(", nothing moved for %v", p.Still.Round(time.Second))
	}
	return text
}

// errLeft is the error of a redrive after which some are left.
var errLeft = errors.New("some dead letters are left")

func printRedriven(cmd *cobra.Command, d *operated, r *operations.Redriven) error {
	listed, _ := d.lookUp(cmd.Context(), r.Left) // for the refusals
	var failed error
	if r.Stalled || len(r.Left) > 0 {
		failed = errLeft
	}
	if wantsJSON(cmd) {
		return errors.Join(show(cmd, redriveAnswer{
			Subscription: d.deadLetters, Endpoint: r.Endpoint, Began: r.Began, Continued: r.Continued, Stalled: r.Stalled, Left: append([]operations.DeadLetter{}, r.Left...), More: r.More,
		}, ""), failed)
	}
	var lines []string
	switch {
	case r.Stalled && len(r.Left) == 0:
		lines = append(lines, "nothing moved any more; which are left is not known, since they are leased: see pushinbox dead-letters list")
	case failed == nil && r.Began != nil && *r.Began == 0:
		lines = append(lines, "no dead letter waits in "+d.deadLetters)
	case failed == nil:
		lines = append(lines, "no dead letter waits in "+d.deadLetters+" any more; they were pushed to "+r.Endpoint)
	default:
		why := "left"
		if r.Stalled {
			why = "left, and nothing moved any more"
		}
		lines = append(lines, fmt.Sprintf("%s %s", many(len(r.Left), "dead letter"), why))
		if r.More {
			lines = append(lines, "and there are more")
		}
	}
	for _, l := range listed {
		line := "  " + l.MessageID
		if len(l.Refusals) > 0 {
			line += "  " + strings.Join(l.Refusals, "; ")
		}
		lines = append(lines, line)
	}
	if err := say(cmd, lines...); err != nil {
		return err
	}
	return failed
}

func stopRedrive(cmd *cobra.Command, d *operated, o *operate, times *clock) error {
	var record *delivery.Operation
	err := d.audited(cmd, o, "dead-letters.stop", d.deadLetters, func(ctx context.Context) (_ string, err error) {
		record, err = d.StopRedrive(ctx, d.deadLetters)
		return "", err
	})
	switch {
	case err != nil:
		return err
	case wantsJSON(cmd):
		return show(cmd, struct {
			Subscription string `json:"subscription"`
			Changed      bool   `json:"changed"`
		}{d.deadLetters, record != nil}, "")
	case record == nil:
		return say(cmd, "the dead letters of "+d.deadLetters+" are not being redriven")
	}
	return say(cmd, fmt.Sprintf("the redrive of %s by %s since %s is ended; what was not pushed waits on", d.deadLetters, record.Principal, times.exact(record.At)))
}

func newDeadLettersPurge() *cobra.Command {
	var o operate
	var times clock
	undo := ""
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Discard the dead letters that wait; a snapshot can bring them back",
		Long: `Discard all dead letters that wait. It asks, takes a snapshot, and prints the command that
brings them back from it; without a snapshot nothing is discarded. Pub/Sub keeps a snapshot
for 7 days, less the age of the oldest message. It takes a while until all of them are gone.

` + operateHelp,
		Example: `  pushinbox dead-letters purge
  pushinbox dead-letters purge --terraform terraform --yes
  pushinbox dead-letters purge --undo projects/my-project/snapshots/inbox-dead-letter-purge-20261126t030405`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			open := o.openDeadLetters
			if undo != "" {
				open = o.openNamed
			}
			d, err := open(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			if undo != "" {
				return undoPurge(cmd, d, &o, undo)
			}
			if err := o.apart(cmd.Context(), d); err != nil {
				return err
			}
			return purge(cmd, d, &o, &times)
		},
	}
	o.deadLetterFlags(cmd)
	o.yesFlag(cmd.Flags(), "do not ask")
	times.flag(cmd.Flags())
	o.allFlag(cmd.Flags())
	cmd.Flags().StringVar(&undo, "undo", "", "bring back what an earlier purge discarded, from its `SNAPSHOT`")
	return cmd
}

func purge(cmd *cobra.Command, d *operated, o *operate, times *clock) error {
	waiting := "All dead letters"
	if b, err := d.waiting(cmd.Context()); err == nil && b != nil {
		if waiting = many(b.Messages, "dead letter"); b.Messages == 0 { // the number may be old
			switch letters, _, err := d.List(cmd.Context(), d.deadLetters, 1); {
			case err != nil:
				return interrupted(err)
			case len(letters) == 0:
				return nothingPurged(cmd, d)
			}
			waiting = "All dead letters"
		}
	}
	if err := confirm(cmd, o.yes, waiting+" of "+d.deadLetters+" will be discarded.", "Discard"); err != nil {
		return err
	}
	var p *operations.Purged
	err := d.audited(cmd, o, "dead-letters.purge", d.deadLetters, func(ctx context.Context) (detail string, err error) {
		if p, err = d.Purge(ctx, d.deadLetters); p != nil {
			detail = p.Snapshot
		}
		return detail, err
	})
	if err != nil {
		return err
	}
	undo := "pushinbox dead-letters purge --undo " + shell.Quote(p.Snapshot) + sameFlags(cmd)
	if wantsJSON(cmd) {
		return show(cmd, struct {
			Subscription string `json:"subscription"`
			operations.Purged
			Undo string `json:"undo"`
		}{d.deadLetters, *p, undo}, "")
	}
	lines := []string{"the dead letters of " + d.deadLetters + " are discarded"}
	until := ""
	if !p.Expires.IsZero() {
		until = ", until " + times.exact(p.Expires)
	}
	lines = append(lines, "bring them back"+until+" with:", "  "+undo)
	if d.isCloud {
		lines = append(lines, "or: gcloud pubsub subscriptions seek "+shell.Quote(d.deadLetters)+" --snapshot="+shell.Quote(p.Snapshot))
	}
	return say(cmd, lines...)
}

// purgeAnswer is what purge prints as JSON where nothing waited, and what --undo prints.
type purgeAnswer struct {
	Subscription string `json:"subscription"`
	Snapshot     string `json:"snapshot"`
}

// nothingPurged says that there is nothing to discard.
func nothingPurged(cmd *cobra.Command, d *operated) error {
	if wantsJSON(cmd) {
		return show(cmd, purgeAnswer{d.deadLetters, ""}, "")
	}
	return say(cmd, "no dead letter waits in "+d.deadLetters+"; nothing was done")
}

// waiting returns how many dead letters wait, as far as is known.
func (d *operated) waiting(ctx context.Context) (*operations.Backlog, error) {
	if d.backlog == nil {
		return nil, nil
	}
	return d.backlog(ctx, d.deadLetters)
}

func undoPurge(cmd *cobra.Command, d *operated, o *operate, snapshot string) error {
	err := d.audited(cmd, o, "dead-letters.purge.undo", d.deadLetters, func(ctx context.Context) (string, error) {
		return snapshot, d.UndoPurge(ctx, d.deadLetters, snapshot)
	})
	if err != nil {
		return err
	}
	if wantsJSON(cmd) {
		return show(cmd, purgeAnswer{d.deadLetters, snapshot}, "")
	}
	return say(cmd, "what "+snapshot+" has waits again in "+d.deadLetters)
}
