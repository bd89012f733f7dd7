package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/inboxclient/replay"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

// shownFirst is how many messages --dry-run prints.
const shownFirst = 10

// replaying is what the flags of replay say.
type replaying struct {
	from     server
	settings replay.Settings
	filter   url.Values
	resume   string
	dryRun   bool
	run      replay.Run
	cmd      *cobra.Command
	p        *progress
	out      *listing
}

func newMessagesReplay() *cobra.Command {
	r := &replaying{run: replay.Run{Rate: 100}}
	s := &r.settings
	s.To = replay.ToTopic
	var which filter
	var show clock
	var set []string
	cmd := &cobra.Command{
		Use:   "replay [ID...]",
		Short: "Publish stored messages again, or push them to an address",
		Long: `Publish stored messages again, or push them to an address: those with the IDs, the
inbox's or their provider's, or all that the filter selects, the oldest first. Messages
of one ordering key are sent in their order.

--to topic publishes them to the inbox's topic. Every subscription of the topic gets them,
not only the inbox's; for the running "pushinbox local", and with --terraform, the command
prints how many others there are. A replayed message has the attributes replay-of, the ID
of the message it repeats, and replay-run, the ID of the run. A message to which they are
too much, with 99 attributes already or of nearly 10 MB, goes without replay-of, or without
both. Messages that are received after the start, or that have this replay-run, are left
out, so that a replay into the inbox does not repeat itself.

--to URL posts each, once, as the push it was, signed by the running "pushinbox local":
wrapped, or unwrapped if the URL ends in /unwrapped or /bare. The token has the sender's
account, and the URL as its audience (--audience sets another); for receive of that
pushinbox local it has what receive expects. An answer that does not acknowledge counts as
refused. Only messages that came by Pub/Sub can be posted. An address of another machine
needs --force.

Quarantined messages are left out unless --quarantined is given; then the body is sent as
it came.

A record of the run is kept in --resume FILE, or until the run is complete in the cache
directory. After an interruption, "pushinbox messages replay --resume FILE" goes on: nothing
is sent twice. It looks in the inbox for what was being sent at that moment. What it does
not find there may have been sent all the same: it is named as doubtful, and not sent
again. The exit code is 1 if anything is doubtful or refused.`,
		Example: `  pushinbox messages replay 1795420345123456
  pushinbox messages replay --since 2h --subscription inbox-push --dry-run
  pushinbox messages replay --since 2h --attribute kind=order --set retry=1 --rate 20 --resume orders.replay
  pushinbox messages replay --since 10m --to http://127.0.0.1:3000/push`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if s.Set, err = pairs("set", set); err != nil {
				return err
			}
			if r.filter, err = which.values(); err != nil {
				return err
			}
			s.IDs = args
			r.cmd, r.p, r.out = cmd, newProgress(cmd.ErrOrStderr()), newListing(cmd, show)
			return r.replay(cmd.Context())
		},
	}
	r.from.flags(cmd.Flags())
	which.flags(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVar(&s.To, "to", s.To, "where to send them: topic, or the `URL` to push them to")
	flags.StringVar(&s.Audience, "audience", "", "the audience of the pushes' tokens, with --to URL")
	flags.BoolVar(&s.Force, "force", false, "push to another machine, too, with --to URL")
	flags.StringArrayVar(&set, "set", nil, "set this attribute, as `KEY=VALUE`; can be repeated")
	flags.Float64Var(&r.run.Rate, "rate", r.run.Rate, "how many messages to send in a second at most; 0 for as many as can be")
	flags.BoolVar(&r.dryRun, "dry-run", false, "send nothing; print how many messages there are and the first ten")
	flags.StringVar(&r.resume, "resume", "", "keep the record of the run in this `FILE`, and go on from it")
	show.flag(flags)
	formatFlag(cmd)
	return cmd
}

// check refuses flags that do not go together.
func (r *replaying) check() error {
	s := &r.settings
	q, err := inbox.ParseQuery(r.filter, time.Now())
	switch {
	case err != nil:
		return usageError{err}
	case !(r.run.Rate >= 0 && r.run.Rate <= math.MaxInt32): // nor NaN
		return usageError{errors.New("--rate must be 0 or more messages a second")}
	case len(s.IDs) > 0 && len(r.filter) > 0 && !(len(r.filter) == 1 && q.Quarantined):
		return usageError{errors.New("give either IDs or a filter")}
	case r.dryRun && r.resume != "":
		return usageError{errors.New("--dry-run and --resume cannot be combined")}
	}
	for _, key := range []string{replay.AttributeOf, replay.AttributeRun} {
		if _, ok := s.Set[key]; ok {
			return usageError{fmt.Errorf("--set %s: the replay sets it itself", key)}
		}
	}
	if s.To == replay.ToTopic {
		if s.Audience != "" || s.Force {
			return usageError{errors.New("--audience and --force go with --to URL")}
		}
		return nil
	}
	return checkPushURL(s.To, s.Force)
}

// goOn has the run be the one of its record. Flags that say otherwise are refused.
func (r *replaying) goOn() (err error) {
	given, s := &r.settings, &r.run.Record.Settings
	filter := r.filter.Encode()
	for _, c := range []struct {
		isGiven, isSame bool
		name            string
	}{
		{len(given.IDs) > 0, slices.Equal(given.IDs, s.IDs), "IDs"},
		{filter != "" && !(filter == "quarantined=true" && s.Quarantined), filter == s.Filter, "filter"},
		{r.cmd.Flags().Changed("to"), given.To == s.To, "--to"},
		{given.Audience != "", given.Audience == s.Audience, "--audience"},
		{len(given.Set) > 0, maps.Equal(given.Set, s.Set), "--set"},
	} {
		if c.isGiven && !c.isSame {
			return usageError{fmt.Errorf("%s belongs to a run with different %s; to continue that run, give --resume alone", r.resume, c.name)}
		}
	}
	if r.filter, err = url.ParseQuery(s.Filter); err != nil {
		return err
	}
	r.settings = *s
	if r.from.at.url == "" && r.from.terraform == "" {
		r.from.at.url = s.Console
	}
	if r.from.account == "" && r.from.tokenFile == "" && r.from.terraform == "" {
		r.from.account = s.Account
	}
	return r.check()
}

// replay replays what was not replayed yet.
func (r *replaying) replay(ctx context.Context) (err error) {
	if err := r.check(); err != nil {
		return err
	}
	if r.resume != "" {
		r.run.Record, err = replay.Open(r.resume)
	}
	switch {
	case r.run.Record != nil:
		defer r.run.Record.Close()
		err = r.goOn()
	case err != nil && !errors.Is(err, fs.ErrNotExist):
	case len(r.settings.IDs) == 0 && len(r.filter) == 0:
		err = usageError{errors.New("say which messages: give IDs, or a filter such as --since 2h; see pushinbox messages replay --help")}
	default:
		err = nil
	}
	if err != nil {
		return err
	}
	o := retrying(r.p)
	o.Patience = time.Minute
	if r.run.Client, err = r.from.client(ctx, o); err != nil {
		return err
	}
	defer r.p.clear()
	r.run.OnProgress = func(n int, at time.Time) { r.p.at("%s so far, at %s", many(n, "message"), r.out.exact(at)) }
	r.run.OnUnclear = func(err error) { r.p.say("%v; going on, and looking for the message later", err) }
	r.run.OnLooking = func(n int) { r.p.say("looking in the inbox for %s that may have been sent", many(n, "message")) }
	if r.settings.To == replay.ToTopic {
		r.p.say("%s", others(ctx, &r.from, r.run.Client.Address()))
	} else {
		pusher, err := newPusher(ctx, &r.from, r.settings.To, r.settings.Audience)
		if err != nil {
			return err
		}
		r.run.Push = pusher.push
	}
	switch record := r.run.Record; {
	case record == nil:
		return r.begin(ctx)
	case record.IsDone():
		r.p.say("this run is complete")
	default:
		r.p.say("going on with run %s: %s were sent", record.Settings.Run, many(record.Sent(), "message"))
	}
	return r.report(r.run.Do(ctx))
}

// begin begins a new run, or says what it would do.
func (r *replaying) begin(ctx context.Context) (err error) {
	r.settings.Account = r.from.account
	if err := r.settings.Begin(ctx, r.run.Client, r.filter); err != nil {
		return explain(r.run.Client, err)
	}
	if r.dryRun {
		r.run.Record = &replay.Record{Settings: r.settings}
		preview, err := r.run.Preview(ctx, shownFirst)
		if err != nil {
			return explain(r.run.Client, err)
		}
		return r.print(preview)
	}
	name := r.resume
	if name == "" {
		if name, err = recordName(r.settings.Run); err != nil {
			return err
		}
	}
	if r.run.Record, err = replay.Create(name, r.resume != "", r.settings); err != nil {
		return err
	}
	defer r.run.Record.Close()
	if len(r.settings.IDs) != 1 {
		r.p.say("run %s; after an interruption go on with: pushinbox messages replay --resume %s", r.settings.Run, r.run.Record.Name)
	}
	return r.report(r.run.Do(ctx))
}

// recordName returns where the record of a run is that nobody named.
func recordName(run string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no place for the record of the run: %w; name one with --resume FILE", err)
	}
	dir = filepath.Join(dir, "pushinbox")
	return filepath.Join(dir, "replay-"+run+".ndjson"), os.MkdirAll(dir, 0o700)
}

// print prints what a run would send.
func (r *replaying) print(p *replay.Preview) error {
	r.p.clear()
	if r.out.json {
		return show(r.cmd, p, "")
	}
	if err := r.out.print(p.First); err != nil {
		return err
	}
	text := fmt.Sprintf("%s would be sent to %s\n", many(p.Count, "message"), r.settings.To)
	if p.Count > len(p.First) {
		text = fmt.Sprintf("the first %d of ", len(p.First)) + text
	}
	return show(r.cmd, nil, "%s", text+leftOut(p.LeftOut))
}

// leftOut writes how many messages were left out, by reason.
func leftOut(all map[string]int) (text string) {
	for _, why := range slices.Sorted(maps.Keys(all)) {
		text += fmt.Sprintf("%s left out: %s\n", many(all[why], "message"), why)
	}
	return text
}

// report prints what became of the run. failed is why it ended early.
func (r *replaying) report(o *replay.Outcome, failed error) error {
	r.p.clear()
	if failed != nil {
		failed = explain(r.run.Client, failed)
	}
	if o == nil {
		return failed
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s sent, run %s\n%s", many(o.Sent, "message"), o.Run, leftOut(o.LeftOut))
	named := func(what string, ids []string) {
		for i, id := range ids {
			if i == shownFirst {
				fmt.Fprintf(&b, "%s: %s more, see %s\n", what, delivery.Count(len(ids)-i), o.Record)
				break
			}
			fmt.Fprintf(&b, "%s: %s\n", what, visible(id))
		}
	}
	named("refused", o.Refused)
	named("doubtful", o.Doubtful)
	err := show(r.cmd, o, "%s", b.String())
	switch {
	case failed != nil:
		return errors.Join(fmt.Errorf("%w\nthe replay is not complete; go on with: pushinbox messages replay --resume %s", failed, o.Record), err)
	case len(o.Refused) > 0 && o.FirstRefusal != "":
		return fmt.Errorf("%s refused, the first one: %s", many(len(o.Refused), "message"), o.FirstRefusal)
	case len(o.Refused) > 0:
		return fmt.Errorf("%s refused", many(len(o.Refused), "message"))
	case len(o.Doubtful) > 0:
		return fmt.Errorf("%s may have been sent or not; look for them where they should have arrived, and replay by ID those that have not", many(len(o.Doubtful), "message"))
	}
	return err
}
