package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/googleapis/gax-go/v2"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
)

const (
	// The attributes of a replayed message that name the message it repeats, which
	// the console sets, and the run.
	replayOf  = inbox.AttributeReplayOf
	replayRun = "replay-run"
	// maxAttributes is Pub/Sub's limit.
	maxAttributes = 100
	// atOnce is how many messages are sent at the same time.
	atOnce = 8
	// settleTime is how long a replayed message that may have been published is
	// looked for in the inbox.
	settleTime = 5 * time.Second
	// maxUnclear is after how many groups in a row, of which a message may have been
	// sent or not, a run ends.
	maxUnclear = 3
	// shownFirst is how many messages --dry-run prints.
	shownFirst = 10
)

func newMessagesReplay() *cobra.Command {
	var from server
	var which filter
	var show clock
	var set []string
	r := &replay{to: "topic", rate: 100}
	cmd := &cobra.Command{
		Use:   "replay [ID...]",
		Short: "Publish stored messages again, or push them to an address",
		Long: `Publish stored messages again, or push them to an address: those with the IDs, the
inbox's or their provider's, or all that the filter selects, the oldest first. Messages
of one ordering key are sent in their order.

--to topic publishes them to the inbox's topic. Every subscription of the topic gets them,
not only the inbox's; for the running "pushinbox local", and with --terraform, the command
prints how many others there are. A replayed message has the attributes replay-of, the ID
of the message it repeats, and replay-run, the ID of the run; a message that has 100
attributes already gets neither. Messages that are received after the start, or that have
this replay-run, are left out, so that a replay into the inbox does not repeat itself.

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
			if r.set, err = pairs("set", set); err != nil {
				return err
			}
			if r.filter, err = which.values(); err != nil {
				return err
			}
			r.ids, r.clock, r.json = args, show, wantsJSON(cmd)
			if err := r.check(); err != nil {
				return err
			}
			r.p, r.out = newProgress(cmd.ErrOrStderr()), newListing(cmd, show)
			if r.record, err = openRecord(r.resume); err != nil {
				return err
			}
			if r.record != nil {
				defer r.record.Close()
				if err := r.goOn(cmd, &from); err != nil {
					return err
				}
			} else if len(r.ids) == 0 && len(r.filter) == 0 {
				return usageError{errors.New("say which messages: give IDs, or a filter such as --since 2h; see pushinbox messages replay --help")}
			}
			r.from = from
			place, err := from.find(cmd.Context())
			if err != nil {
				return err
			}
			o := retrying(r.p)
			o.Tokens, o.Patience = place.tokens, time.Minute
			if r.c, err = inboxclient.New(place.address, &o); err != nil {
				return err
			}
			return r.run(cmd.Context(), cmd)
		},
	}
	from.flags(cmd.Flags())
	which.flags(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVar(&r.to, "to", r.to, "where to send them: topic, or the `URL` to push them to")
	flags.StringVar(&r.audience, "audience", "", "the audience of the pushes' tokens, with --to URL")
	flags.BoolVar(&r.force, "force", false, "push to another machine, too, with --to URL")
	flags.StringArrayVar(&set, "set", nil, "set this attribute, as `KEY=VALUE`; can be repeated")
	flags.Float64Var(&r.rate, "rate", r.rate, "how many messages to send in a second at most; 0 for as many as can be")
	flags.BoolVar(&r.dryRun, "dry-run", false, "send nothing; print how many messages there are and the first ten")
	flags.StringVar(&r.resume, "resume", "", "keep the record of the run in this `FILE`, and go on from it")
	show.flag(flags)
	formatFlag(cmd)
	return cmd
}

// replay is one run.
type replay struct {
	to, audience, resume string
	force, dryRun        bool
	rate                 float64
	set                  map[string]string
	ids                  []string
	filter               url.Values
	clock                clock
	json                 bool

	from   server
	c      *inboxclient.Client
	p      *progress
	out    *listing
	record *record
	pusher *pusher // of --to URL
	limit  *rate.Limiter

	left     map[string]int // left out, by reason
	firstBad string         // the first refusal
	unclear  int            // groups in a row whose answer says nothing
}

// check refuses flags that do not go together.
func (r *replay) check() error {
	q, err := inbox.ParseQuery(r.filter, time.Now())
	switch {
	case err != nil:
		return usageError{err}
	case r.rate < 0:
		return usageError{errors.New("--rate must be 0 or more")}
	case len(r.ids) > 0 && len(r.filter) > 0 && !(len(r.filter) == 1 && q.Quarantined):
		return usageError{errors.New("give either IDs or a filter")}
	case r.dryRun && r.resume != "":
		return usageError{errors.New("--dry-run sends nothing, and has no --resume")}
	}
	for _, key := range []string{replayOf, replayRun} {
		if _, ok := r.set[key]; ok {
			return usageError{fmt.Errorf("--set %s: the replay sets it itself", key)}
		}
	}
	if r.to == "topic" {
		if r.audience != "" || r.force {
			return usageError{errors.New("--audience and --force go with --to URL")}
		}
		return nil
	}
	return checkPushURL(r.to, r.force)
}

// runSettings are what a run was started with; its record begins with them.
type runSettings struct {
	Run     string   `json:"run"`
	Console string   `json:"console"`
	Account string   `json:"account,omitempty"`
	IDs     []string `json:"ids,omitempty"`
	inboxclient.Selection
	To          string            `json:"to"`
	Audience    string            `json:"audience,omitempty"`
	Force       bool              `json:"force,omitempty"`
	Set         map[string]string `json:"set,omitempty"`
	Quarantined bool              `json:"quarantined,omitempty"`
}

// goOn has the run be the one of the record. Flags that say otherwise are refused.
func (r *replay) goOn(cmd *cobra.Command, from *server) error {
	s := &r.record.settings
	filter := r.filter.Encode()
	for _, c := range []struct {
		isGiven, isSame bool
		name            string
	}{
		{len(r.ids) > 0, slices.Equal(r.ids, s.IDs), "IDs"},
		{filter != "" && !(filter == "quarantined=true" && s.Quarantined), filter == s.Filter, "filter"},
		{cmd.Flags().Changed("to"), r.to == s.To, "--to"},
		{r.audience != "", r.audience == s.Audience, "--audience"},
		{len(r.set) > 0, maps.Equal(r.set, s.Set), "--set"},
	} {
		if c.isGiven && !c.isSame {
			return usageError{fmt.Errorf("%s is of a run with other %s; to go on with it give --resume alone", r.resume, c.name)}
		}
	}
	r.ids, r.to, r.audience, r.force, r.set = s.IDs, s.To, s.Audience, s.Force, s.Set
	v, err := url.ParseQuery(s.Filter)
	if err != nil {
		return err
	}
	r.filter = v
	if from.at.url == "" && from.terraform == "" {
		from.at.url = s.Console
	}
	if from.account == "" && from.tokenFile == "" && from.terraform == "" {
		from.account = s.Account
	}
	return r.check()
}

// begin makes the record of a new run.
func (r *replay) begin(ctx context.Context) error {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	selected, err := r.c.Select(ctx, r.filter)
	if err != nil {
		return explain(r.c, err)
	}
	s := runSettings{
		Run: r.c.Now().UTC().Format("20060102T150405-") + hex.EncodeToString(b), Console: r.c.Address(), Account: r.from.account,
		IDs: r.ids, Selection: selected, To: r.to, Audience: r.audience, Force: r.force, Set: r.set, Quarantined: r.filter.Get("quarantined") == "true",
	}
	if r.dryRun {
		r.record = &record{settings: s}
		return nil
	}
	name, isOwn := r.resume, false
	if name == "" {
		if name, err = recordName(s.Run); err != nil {
			return err
		}
		isOwn = true
	}
	r.record, err = newRecord(name, s)
	if err == nil {
		r.record.isOwn = isOwn
	}
	return err
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

// run replays what was not replayed yet.
func (r *replay) run(ctx context.Context, cmd *cobra.Command) (err error) {
	isNew := r.record == nil
	if isNew {
		if err := r.begin(ctx); err != nil {
			return err
		}
		defer r.record.Close()
	}
	s := &r.record.settings
	r.left = make(map[string]int)
	defer r.p.clear()
	if r.to == "topic" {
		r.p.say("%s", others(ctx, &r.from, s.Console))
	} else if r.pusher, err = newPusher(ctx, &r.from, r.to, r.audience); err != nil {
		return err
	}
	if r.dryRun {
		return r.tryRun(ctx)
	}
	switch {
	case r.record.isDone:
		r.p.say("this run is complete")
		return r.report(nil)
	case !isNew:
		r.p.say("going on with run %s: %s were sent", s.Run, many(r.record.sent, "message"))
		if err := r.settle(ctx); err != nil {
			return err
		}
	case len(r.ids) != 1:
		r.p.say("run %s; after an interruption go on with: pushinbox messages replay --resume %s", s.Run, r.record.name)
	}
	limit := rate.Inf
	if r.rate > 0 {
		limit = rate.Limit(r.rate)
	}
	r.limit = rate.NewLimiter(limit, 1)
	err = r.all(ctx)
	if err == nil {
		err = r.settle(ctx)
	}
	if err == nil {
		err = r.record.add(entry{Done: true})
	}
	return r.report(err)
}

// all sends what is selected, a page at a time.
func (r *replay) all(ctx context.Context) error {
	for page, err := range r.pages(ctx) {
		if err != nil {
			return err
		}
		if err := r.page(ctx, page.Messages); err != nil {
			return err
		}
		if page.NextPageToken != "" {
			if err := r.record.add(entry{Page: page.NextPageToken}); err != nil {
				return err
			}
		}
	}
	return nil
}

// pages yields what is selected.
func (r *replay) pages(ctx context.Context) func(func(*inboxclient.Page, error) bool) {
	return func(yield func(*inboxclient.Page, error) bool) {
		if len(r.ids) > 0 {
			page := new(inboxclient.Page)
			for _, id := range r.ids {
				m, err := find(ctx, r.c, id, inbox.Query{Until: r.record.settings.Until})
				if err != nil {
					yield(nil, err)
					return
				}
				page.Messages = append(page.Messages, m)
			}
			yield(page, nil)
			return
		}
		q, err := r.record.settings.Query(r.record.pageToken)
		if err != nil {
			yield(nil, err)
			return
		}
		for page, err := range r.c.Pages(ctx, q) {
			if err != nil {
				err = explain(r.c, err)
			}
			if !yield(page, err) || err != nil {
				return
			}
			if len(page.Messages) == 0 && !page.ExaminedUntil.IsZero() {
				r.p.at("looking for messages, at %s", r.clock.exact(page.ExaminedUntil))
			}
		}
	}
}

// leaveOut returns why a message is not replayed, or "".
func (r *replay) leaveOut(m *inboxclient.Message) string {
	s := &r.record.settings
	switch {
	case m.Attributes[replayRun] == s.Run:
		return "of this run"
	case m.Quarantined != "" && !s.Quarantined:
		return "quarantined"
	case r.to != "topic" && m.Source != inbox.SourcePubSub:
		return "not pushed by Pub/Sub"
	}
	return ""
}

// page sends the messages of a page, some at once, those of an ordering key one by
// one.
func (r *replay) page(ctx context.Context, messages []*inboxclient.Message) error {
	var group []*inboxclient.Message
	keys := make(map[string]bool)
	flush := func() error {
		err := r.group(ctx, group)
		group = nil
		clear(keys)
		return err
	}
	for _, m := range messages {
		if r.record.isKnown(m.ID) {
			continue
		}
		if why := r.leaveOut(m); why != "" {
			r.left[why]++
			continue
		}
		if len(group) == atOnce || m.OrderingKey != "" && keys[m.OrderingKey] {
			if err := flush(); err != nil {
				return err
			}
		}
		if err := r.limit.Wait(ctx); err != nil {
			return errors.Join(flush(), ctx.Err())
		}
		group = append(group, m)
		if keys[m.OrderingKey] = true; r.rate > 0 && r.rate < 2*atOnce { // a slow rate waits for no group
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// group sends messages at once. What it is about to send is in the record before, and
// what became of it after.
func (r *replay) group(ctx context.Context, messages []*inboxclient.Message) error {
	if len(messages) == 0 {
		return nil
	}
	begun := entry{}
	for _, m := range messages {
		begun.Begun = append(begun.Begun, m.ID)
	}
	if err := r.record.add(begun); err != nil {
		return err
	}
	entries := make([]entry, len(messages))
	stop := make([]error, len(messages))
	var wait sync.WaitGroup
	for i, m := range messages {
		wait.Go(func() { entries[i], stop[i] = r.one(ctx, m) })
	}
	wait.Wait()
	if err := r.record.add(entries...); err != nil {
		return err
	}
	for _, e := range entries {
		switch {
		case e.Refused != "" && r.firstBad == "":
			r.firstBad = e.Refused + ": " + e.Why
		case e.Gone != "":
			r.left["expired"]++
		}
	}
	r.p.at("%s sent, at %s", many(r.record.sent, "message"), r.clock.exact(messages[len(messages)-1].ReceivedAt))
	err := cmp.Or(stop...) // the first of those that are alike
	if r.unclear++; !slices.ContainsFunc(entries, func(e entry) bool { return e.Doubtful != "" }) {
		r.unclear = 0
	}
	if isOver := slices.ContainsFunc(entries, func(e entry) bool { return e.NotSent != "" }); isOver || r.unclear == maxUnclear {
		return err
	}
	if err != nil {
		r.p.say("%v; going on, and looking for the message later", err)
		return gax.Sleep(ctx, time.Second)
	}
	return ctx.Err()
}

// one sends a message and returns what became of it. An error ends the run.
func (r *replay) one(ctx context.Context, m *inboxclient.Message) (entry, error) {
	var answer string
	var err error
	// What has begun ends, so that an interruption leaves nothing doubtful.
	sending := context.WithoutCancel(ctx)
	for tries := 0; ; tries++ {
		if r.pusher != nil {
			answer, err = r.pusher.push(sending, r, m)
		} else {
			answer, err = r.c.Replay(sending, m.ID, r.attributes(m), r.record.settings.Quarantined)
		}
		status := (*inboxclient.Error)(nil)
		errors.As(err, &status)
		switch {
		case err == nil:
			return entry{Sent: m.ID, MessageID: answer}, nil
		case inboxclient.IsNotFound(err):
			return entry{Gone: m.ID}, nil
		case errors.Is(err, errNotAcknowledged):
			return entry{Refused: m.ID, Why: err.Error()}, nil
		case !inboxclient.NotSent(err):
			// It may have arrived all the same: it is looked for at the end.
			return entry{Doubtful: m.ID, Why: err.Error()}, err
		case status != nil && (status.Status == 401 || status.Status == 403):
			return entry{NotSent: m.ID}, err
		case status != nil && status.Status != 429:
			return entry{Refused: m.ID, Why: err.Error()}, nil
		case tries == 5 || ctx.Err() != nil:
			return entry{NotSent: m.ID}, err
		}
		_ = gax.Sleep(ctx, 250*time.Millisecond<<tries) // where ctx has ended, it is tried once more
	}
}

// attributes returns those that a message gets on its way.
func (r *replay) attributes(m *inboxclient.Message) map[string]string {
	set := maps.Clone(r.set)
	if set == nil {
		set = make(map[string]string)
	}
	n := len(set)
	for k := range m.Attributes {
		if _, isSet := set[k]; !isSet && k != replayOf && k != replayRun {
			n++
		}
	}
	if n < maxAttributes {
		set[replayRun] = r.record.settings.Run
	}
	return set
}

// settle looks in the inbox for what may have been published, and calls doubtful what
// is not there.
func (r *replay) settle(ctx context.Context) error {
	open := r.record.open()
	if len(open) == 0 {
		return nil
	}
	if r.to == "topic" {
		r.p.say("looking in the inbox for %s that may have been sent", many(len(open), "message"))
	}
	until := time.Now().Add(settleTime)
	for pause := 100 * time.Millisecond; r.to == "topic"; pause = min(2*pause, 2*time.Second) {
		for _, id := range open {
			since := r.record.settings.started().Add(-time.Minute)
			page, err := r.c.Page(ctx, inbox.Query{Since: since, Attributes: map[string]string{replayOf: id, replayRun: r.record.settings.Run}})
			if err != nil {
				return explain(r.c, err)
			}
			if len(page.Messages) > 0 {
				if err := r.record.add(entry{Sent: id, MessageID: page.Messages[0].MessageID}); err != nil {
					return err
				}
			}
		}
		if open = r.record.open(); len(open) == 0 || time.Now().After(until) {
			break
		}
		if err := gax.Sleep(ctx, pause); err != nil {
			return err
		}
	}
	for _, id := range open {
		if err := r.record.add(entry{Doubtful: id, Why: "interrupted while it was sent", Final: true}); err != nil {
			return err
		}
	}
	return nil
}

// outcome is what a run prints.
type outcome struct {
	Run      string         `json:"run"`
	Sent     int            `json:"sent"`
	Refused  []string       `json:"refused,omitempty"`
	Doubtful []string       `json:"doubtful,omitempty"`
	LeftOut  map[string]int `json:"leftOut,omitempty"`
	Record   string         `json:"record,omitempty"`
}

// report prints what became of the run. failed is why it ended early.
func (r *replay) report(failed error) error {
	r.p.clear()
	if failed != nil && r.record.isOwn && r.record.isUntouched() {
		return errors.Join(failed, r.record.remove())
	}
	o := outcome{Run: r.record.settings.Run, Sent: r.record.sent, Refused: r.record.refused, Doubtful: r.record.doubtful(), LeftOut: r.left}
	isClean := failed == nil && len(o.Refused) == 0 && len(o.Doubtful) == 0
	if !isClean || !r.record.isOwn {
		o.Record = r.record.name
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s sent, run %s\n", many(o.Sent, "message"), o.Run)
	for _, why := range slices.Sorted(maps.Keys(o.LeftOut)) {
		fmt.Fprintf(&b, "%s left out: %s\n", many(o.LeftOut[why], "message"), why)
	}
	named := func(what string, ids []string) {
		for i, id := range ids {
			if i == shownFirst {
				fmt.Fprintf(&b, "%s: %s more, see %s\n", what, count(len(ids)-i), r.record.name)
				break
			}
			fmt.Fprintf(&b, "%s: %s\n", what, visible(id))
		}
	}
	named("refused", o.Refused)
	named("doubtful", o.Doubtful)
	err := r.out.show(o, b.String())
	if isClean && r.record.isOwn {
		err = errors.Join(err, r.record.remove())
	}
	switch {
	case failed != nil:
		return errors.Join(fmt.Errorf("%w\nthe replay is not complete; go on with: pushinbox messages replay --resume %s", failed, r.record.name), err)
	case len(o.Refused) > 0:
		if r.firstBad != "" {
			return fmt.Errorf("%s refused, the first one: %s", many(len(o.Refused), "message"), r.firstBad)
		}
		return fmt.Errorf("%s refused", many(len(o.Refused), "message"))
	case len(o.Doubtful) > 0:
		return fmt.Errorf("%s may have been sent or not; look for them where they should have arrived, and replay by ID those that have not", many(len(o.Doubtful), "message"))
	}
	return err
}

// show prints v as JSON, or the text.
func (l *listing) show(v any, text string) error {
	if !l.json {
		_, err := fmt.Fprint(l.t.w, text)
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(l.t.w, "%s\n", visibleJSON(b))
	return err
}

// tryRun counts what a run would send.
func (r *replay) tryRun(ctx context.Context) error {
	n := 0
	var first []*inboxclient.Message
	for page, err := range r.pages(ctx) {
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if why := r.leaveOut(m); why != "" {
				r.left[why]++
				continue
			}
			if n++; len(first) < shownFirst {
				first = append(first, m)
			}
		}
		r.p.at("%s so far", many(n, "message"))
	}
	r.p.clear()
	if r.json {
		return r.out.show(struct {
			Count   int                    `json:"count"`
			First   []*inboxclient.Message `json:"first"`
			LeftOut map[string]int         `json:"leftOut,omitempty"`
		}{n, first, r.left}, "")
	}
	if err := r.out.print(first); err != nil {
		return err
	}
	text := fmt.Sprintf("%s would be sent to %s\n", many(n, "message"), r.to)
	if n > len(first) {
		text = fmt.Sprintf("the first %d of ", len(first)) + text
	}
	for _, why := range slices.Sorted(maps.Keys(r.left)) {
		text += fmt.Sprintf("%s left out: %s\n", many(r.left[why], "message"), why)
	}
	_, err := fmt.Fprint(r.out.t.w, text)
	return err
}

// started returns when the run began, by the clock of the inbox.
func (s *runSettings) started() time.Time {
	t, err := time.Parse("20060102T150405", s.Run[:min(len(s.Run), 15)])
	if err != nil {
		return time.Time{}
	}
	return t
}

// openRecord opens the record of an earlier run, or returns nil where there is none.
func openRecord(name string) (*record, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &record{name: name, f: f}
	if err := lock(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by another process, which replays: %w", name, err)
	}
	if err := r.read(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not the record of a replay: %w", name, err)
	}
	return r, nil
}
