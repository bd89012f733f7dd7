// Package replay publishes stored messages of an inbox again, or has them pushed to an
// address, each once: a record of the run tells what was sent, also after a kill, and what
// may have been sent or not.
package replay

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"golang.org/x/time/rate"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/publisher"
)

const (
	// AttributeOf and AttributeRun are the attributes of a replayed message that name the
	// message it repeats, which the console sets, and the run.
	AttributeOf  = inbox.AttributeReplayOf
	AttributeRun = "replay-run"
	// ToTopic is where messages are published.
	ToTopic = "topic"
	// AtOnce is how many messages are sent at the same time.
	AtOnce = 8
	// settleTime is how long a replayed message that may have been published is
	// looked for in the inbox.
	settleTime = 5 * time.Second
	// maxUnclear is after how many groups in a row, of which a message may have been
	// sent or not, a run ends.
	maxUnclear = 3
)

var (
	// ErrRefused is the error of a push that was answered and not acknowledged.
	ErrRefused = errors.New("not acknowledged")
	// ErrNotSent is the error of a push that certainly did not arrive.
	ErrNotSent = errors.New("not sent")
)

// Settings are what a run was started with; its record begins with them.
type Settings struct {
	Run     string   `json:"run"`
	Console string   `json:"console"`
	Account string   `json:"account,omitempty"`
	IDs     []string `json:"ids,omitempty"`
	inboxclient.Selection
	To          string            `json:"to"` // ToTopic, or the URL
	Audience    string            `json:"audience,omitempty"`
	Force       bool              `json:"force,omitempty"`
	Set         map[string]string `json:"set,omitempty"`
	Quarantined bool              `json:"quarantined,omitempty"`
}

// Begin fills in the settings of a new run of what the filter selects, or the IDs.
func (s *Settings) Begin(ctx context.Context, c *inboxclient.Client, filter url.Values) (err error) {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	s.Selection, err = c.Select(ctx, filter)
	s.Run = c.Now().UTC().Format(runTime) + "-" + hex.EncodeToString(b)
	s.Console, s.Quarantined = c.Address(), filter.Get("quarantined") == "true"
	return err
}

// runTime is the form of the time with which the ID of a run begins.
const runTime = "20060102T150405"

// started returns when the run began, by the clock of the inbox.
func (s *Settings) started() time.Time {
	t, err := time.Parse(runTime, s.Run[:min(len(s.Run), len(runTime))])
	if err != nil {
		return time.Time{}
	}
	return t
}

// Run is one run. The fields are to be set.
type Run struct {
	Client *inboxclient.Client
	Record *Record
	// Push posts a message to To, and is not needed for ToTopic. Its error is ErrRefused,
	// ErrNotSent, or one of which is not known whether the message arrived.
	Push func(context.Context, *inbox.Message) error
	// Rate is how many messages are sent in a second at most; 0 is as many as can be.
	Rate float64
	// OnProgress is called with how many messages were sent, or counted, and the time at
	// which the last one was received that was looked at.
	OnProgress func(n int, at time.Time)
	// OnUnclear is called when it is not known whether a message arrived, with the cause,
	// and OnLooking when so many of those are looked for in the inbox.
	OnUnclear func(error)
	OnLooking func(n int)

	limit    *rate.Limiter
	left     map[string]int // left out, by reason
	firstBad string         // the first refusal
	unclear  int            // groups in a row whose answer says nothing
}

// Outcome is what became of a run.
type Outcome struct {
	Run      string         `json:"run"`
	Sent     int            `json:"sent"`
	Refused  []string       `json:"refused,omitempty"`
	Doubtful []string       `json:"doubtful,omitempty"`
	LeftOut  map[string]int `json:"leftOut,omitempty"`
	Record   string         `json:"record,omitempty"`
	// FirstRefusal is the first message that this process saw refused, and why.
	FirstRefusal string `json:"-"`
}

// Do sends what was not sent yet. With an error the run is not complete, and goes on when
// it is done again; the outcome is nil where nothing was begun and no record is left.
func (r *Run) Do(ctx context.Context) (*Outcome, error) {
	r.left = make(map[string]int)
	limit := rate.Inf
	if r.Rate > 0 {
		limit = rate.Limit(r.Rate)
	}
	r.limit = rate.NewLimiter(limit, 1)
	var err error
	if !r.Record.IsDone() {
		err = r.send(ctx)
	}
	if err != nil && r.Record.isOwn && r.Record.isUntouched() {
		return nil, errors.Join(err, r.Record.remove())
	}
	o := &Outcome{
		Run: r.Record.Settings.Run, Sent: r.Record.sent, Refused: r.Record.refused, Doubtful: r.Record.doubtful(), LeftOut: r.left,
		Record: r.Record.Name, FirstRefusal: r.firstBad,
	}
	isClean := err == nil && len(o.Refused) == 0 && len(o.Doubtful) == 0
	if isClean && r.Record.isOwn && r.Record.remove() == nil {
		o.Record = ""
	}
	return o, err
}

func (r *Run) send(ctx context.Context) error {
	if err := r.settle(ctx); err != nil { // of an earlier process
		return err
	}
	for page, err := range r.pages(ctx) {
		if err != nil {
			return err
		}
		if err := r.page(ctx, page.Messages); err != nil {
			return err
		}
		if page.NextPageToken != "" {
			if err := r.Record.add(entry{Page: page.NextPageToken}); err != nil {
				return err
			}
		}
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	return r.Record.add(entry{Done: true})
}

// Preview is what a run would send.
type Preview struct {
	Count   int                    `json:"count"`
	First   []*inboxclient.Message `json:"first"`
	LeftOut map[string]int         `json:"leftOut,omitempty"`
}

// Preview counts what a run would send, and returns the first messages of it.
func (r *Run) Preview(ctx context.Context, first int) (*Preview, error) {
	p := &Preview{First: []*inboxclient.Message{}, LeftOut: make(map[string]int)}
	for page, err := range r.pages(ctx) {
		if err != nil {
			return nil, err
		}
		for _, m := range page.Messages {
			if why := r.leaveOut(m); why != "" {
				p.LeftOut[why]++
				continue
			}
			if p.Count++; len(p.First) < first {
				p.First = append(p.First, m)
			}
			r.OnProgress(p.Count, m.ReceivedAt)
		}
	}
	return p, nil
}

// pages yields what is selected.
func (r *Run) pages(ctx context.Context) iter.Seq2[*inboxclient.Page, error] {
	return func(yield func(*inboxclient.Page, error) bool) {
		if len(r.Record.Settings.IDs) > 0 {
			page := new(inboxclient.Page)
			for _, id := range r.Record.Settings.IDs {
				m, err := r.Client.Find(ctx, id, inbox.Query{Until: r.Record.Settings.Until})
				if err != nil {
					yield(nil, err)
					return
				}
				page.Messages = append(page.Messages, m)
			}
			yield(page, nil)
			return
		}
		q, err := r.Record.Settings.Query(r.Record.pageToken)
		if err != nil {
			yield(nil, err)
			return
		}
		for page, err := range r.Client.Pages(ctx, q) {
			if !yield(page, err) || err != nil {
				return
			}
			if len(page.Messages) == 0 && !page.ExaminedUntil.IsZero() {
				r.OnProgress(r.Record.sent, page.ExaminedUntil)
			}
		}
	}
}

// leaveOut returns why a message is not replayed, or "".
func (r *Run) leaveOut(m *inboxclient.Message) string {
	s := &r.Record.Settings
	switch {
	case m.Attributes[AttributeRun] == s.Run:
		return "of this run"
	case m.Quarantined != "" && !s.Quarantined:
		return "quarantined"
	case r.Push != nil && m.Source != inbox.SourcePubSub:
		return "not pushed by Pub/Sub"
	}
	return ""
}

// page sends the messages of a page, some at once, those of an ordering key one by
// one.
func (r *Run) page(ctx context.Context, messages []*inboxclient.Message) error {
	var group []*inboxclient.Message
	keys := make(map[string]bool)
	flush := func() error {
		err := r.group(ctx, group)
		group = nil
		clear(keys)
		return err
	}
	for _, m := range messages {
		if r.Record.isKnown(m.ID) {
			continue
		}
		if why := r.leaveOut(m); why != "" {
			r.left[why]++
			continue
		}
		if len(group) == AtOnce || m.OrderingKey != "" && keys[m.OrderingKey] {
			if err := flush(); err != nil {
				return err
			}
		}
		if err := r.limit.Wait(ctx); err != nil {
			return errors.Join(flush(), ctx.Err())
		}
		group = append(group, m)
		if keys[m.OrderingKey] = true; r.Rate > 0 && r.Rate < 2*AtOnce { // a slow rate waits for no group
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// group sends messages at once. What it is about to send is in the record before, and
// what became of it after.
func (r *Run) group(ctx context.Context, messages []*inboxclient.Message) error {
	if len(messages) == 0 {
		return nil
	}
	begun := entry{}
	for _, m := range messages {
		begun.Begun = append(begun.Begun, m.ID)
	}
	if err := r.Record.add(begun); err != nil {
		return err
	}
	entries := make([]entry, len(messages))
	stop := make([]error, len(messages))
	var wait sync.WaitGroup
	for i, m := range messages {
		wait.Go(func() { entries[i], stop[i] = r.one(ctx, m) })
	}
	wait.Wait()
	if err := r.Record.add(entries...); err != nil {
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
	r.OnProgress(r.Record.sent, messages[len(messages)-1].ReceivedAt)
	err := cmp.Or(stop...) // the first of those that are alike
	if r.unclear++; !slices.ContainsFunc(entries, func(e entry) bool { return e.Doubtful != "" }) {
		r.unclear = 0
	}
	if isOver := slices.ContainsFunc(entries, func(e entry) bool { return e.NotSent != "" }); isOver || r.unclear == maxUnclear {
		return err
	}
	if err != nil {
		r.OnUnclear(err)
		return gax.Sleep(ctx, time.Second)
	}
	return ctx.Err()
}

// one sends a message and returns what became of it. An error ends the run.
func (r *Run) one(ctx context.Context, m *inboxclient.Message) (entry, error) {
	var answer string
	var err error
	// What has begun ends, so that an interruption leaves nothing doubtful.
	sending := context.WithoutCancel(ctx)
	for tries := 0; ; tries++ {
		if r.Push != nil {
			answer, err = m.MessageID, r.push(sending, m)
		} else {
			answer, err = r.Client.Replay(sending, m.ID, r.attributes(m), r.Record.Settings.Quarantined)
		}
		status := (*inboxclient.Error)(nil)
		errors.As(err, &status)
		switch {
		case err == nil:
			return entry{Sent: m.ID, MessageID: answer}, nil
		case inboxclient.IsNotFound(err):
			return entry{Gone: m.ID}, nil
		case errors.Is(err, ErrRefused):
			return entry{Refused: m.ID, Why: err.Error()}, nil
		case !errors.Is(err, ErrNotSent) && !inboxclient.NotSent(err):
			// It may have arrived all the same: it is looked for at the end.
			return entry{Doubtful: m.ID, Why: err.Error()}, err
		case status != nil && (status.Status == 401 || status.Status == 403):
			return entry{NotSent: m.ID}, err
		case status != nil && status.Status/100 == 4 && status.Status != 429:
			return entry{Refused: m.ID, Why: err.Error()}, nil
		case tries == 5 || ctx.Err() != nil:
			return entry{NotSent: m.ID}, err
		}
		_ = gax.Sleep(ctx, 250*time.Millisecond<<tries) // where ctx has ended, it is tried once more
	}
}

// push pushes a message, whole, with the attributes that are set.
func (r *Run) push(ctx context.Context, m *inboxclient.Message) error {
	if m.Truncated {
		whole, err := r.Client.Get(ctx, m.ID)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		m = whole
	}
	pushed := m.Message
	pushed.Attributes = make(map[string]string)
	maps.Copy(pushed.Attributes, m.Attributes)
	maps.Copy(pushed.Attributes, r.Record.Settings.Set)
	return r.Push(ctx, &pushed)
}

// dataOverhead is by how many bytes, at most, data makes a request larger than by itself.
const dataOverhead = 10

// attributes returns those that a message gets on its way to the topic: that of the run
// where Pub/Sub accepts the message with it.
func (r *Run) attributes(m *inboxclient.Message) map[string]string {
	set := make(map[string]string)
	maps.Copy(set, r.Record.Settings.Set)
	all := publisher.Repeatable(&m.Message)
	maps.Copy(all, set)
	delete(all, AttributeOf)
	all[AttributeRun] = r.Record.Settings.Run
	left := publisher.MaxRequestSize - dataOverhead - publisher.RequestSize([]*pubsubpb.PubsubMessage{{Attributes: all, OrderingKey: m.OrderingKey}})
	if len(all) <= publisher.MaxAttributes && m.Size <= left {
		set[AttributeRun] = r.Record.Settings.Run
	}
	return set
}

// settle looks in the inbox for what may have been published, and calls doubtful what
// is not there.
func (r *Run) settle(ctx context.Context) error {
	open := r.Record.open()
	if len(open) == 0 {
		return nil
	}
	if r.Push == nil {
		r.OnLooking(len(open))
	}
	until := time.Now().Add(settleTime)
	for pause := 100 * time.Millisecond; r.Push == nil; pause = min(2*pause, 2*time.Second) {
		for _, id := range open {
			since := r.Record.Settings.started().Add(-time.Minute)
			page, err := r.Client.Page(ctx, inbox.Query{Since: since, Attributes: map[string]string{AttributeOf: id, AttributeRun: r.Record.Settings.Run}})
			if err != nil {
				return err
			}
			if len(page.Messages) > 0 {
				if err := r.Record.add(entry{Sent: id, MessageID: page.Messages[0].MessageID}); err != nil {
					return err
				}
			}
		}
		if open = r.Record.open(); len(open) == 0 || time.Now().After(until) {
			break
		}
		if err := gax.Sleep(ctx, pause); err != nil {
			return err
		}
	}
	for _, id := range open {
		if err := r.Record.add(entry{Doubtful: id, Why: "interrupted while it was sent", Final: true}); err != nil {
			return err
		}
	}
	return nil
}
