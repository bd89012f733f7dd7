package console

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"example.com/pushinbox/shared/delivery"
)

// oldAge is from when on a message that waits is worth a word, as for the alert
// "oldest".
const oldAge = 10 * time.Minute

// trouble is what is wrong with the delivery, as far as it concerns whoever reads the
// list. Its zero value is that nothing is known to be wrong.
type trouble struct {
	// Paused are the subscriptions that somebody paused.
	Paused []pausedSubscription
	// Line has the rest, the worst first.
	Line []remark
	// More is how many things are wrong besides those.
	More int
}

type pausedSubscription struct {
	Name      string
	Operation *delivery.Operation
	// Waiting is how many messages wait, for people; empty is unknown.
	Waiting string
}

// lostFrom is when its messages begin to be lost; far away where that is not known.
func (p *pausedSubscription) lostFrom() time.Time {
	if p.Operation == nil || p.Operation.LostFrom.IsZero() {
		return time.Unix(1<<40, 0)
	}
	return p.Operation.LostFrom
}

// remark is one thing that is wrong, and the page that has more.
type remark struct {
	Words, Href string
	// Subscription is the full name; empty where it is receive that refuses.
	Subscription string
	Weight       weight
}

// weight is how bad a remark is: the lower, the worse.
type weight int

const (
	nothingArrives weight = iota
	receiveRefuses
	pushesFail
	messagesGivenUp
	messagesLate
	deadLettersWait // or move
)

// briefly is how many things that are wrong the list names.
const briefly = 2

// Any reports whether something is wrong.
func (t trouble) Any() bool { return len(t.Paused) > 0 || len(t.Line) > 0 }

// brief returns what the list shows of t: the worst, at most one thing for each
// subscription. It names at most one pause, since that is deliberate and must not hide
// what is not: the one of which messages are lost first.
func (t trouble) brief() trouble {
	var b trouble
	if len(t.Paused) > 0 {
		b.Paused = []pausedSubscription{slices.MinFunc(t.Paused, func(p, q pausedSubscription) int { return p.lostFrom().Compare(q.lostFrom()) })}
	}
	named := make(map[string]bool)
	for _, p := range t.Paused {
		named[p.Name] = true
	}
	for _, r := range t.Line {
		if !named[r.Subscription] && len(b.Paused)+len(b.Line) < briefly {
			b.Line = append(b.Line, r)
			named[r.Subscription] = true
		}
	}
	b.More = len(t.Paused) + len(t.Line) - len(b.Paused) - len(b.Line)
	return b
}

// troubleOf returns what a report says is wrong.
func (h *handler) troubleOf(r *delivery.Report) trouble {
	var t trouble
	if r == nil {
		return t
	}
	t.Line = h.sayRefused(r)
	isRefused := len(t.Line) > 0
	for i := range r.Subscriptions {
		s := &r.Subscriptions[i]
		say := func(w weight, href, format string, args ...any) {
			t.Line = append(t.Line, remark{fmt.Sprintf(format, args...), href, s.Name, w})
		}
		short := shortName(s.Name)
		dead := "/dead-letters"
		if s.DeadLetters && !h.hasPage(s) || h.isLocal && !s.DeadLetters && !slices.Contains(h.deliveries, s.Name) { // of another program
			dead = "/delivery"
		}
		switch s.State {
		case delivery.Paused:
			p := pausedSubscription{Name: s.Name, Operation: s.Operation}
			if s.Backlog != nil {
				p.Waiting = delivery.Count(*s.Backlog)
			}
			t.Paused = append(t.Paused, p)
		case delivery.Redriving:
			who := ""
			if s.Operation != nil {
				who = " by " + visible(s.Operation.Principal)
			}
			say(deadLettersWait, dead, "dead letters are being redriven%s", who)
		case delivery.Detached, delivery.TopicGone, delivery.Missing:
			say(nothingArrives, "/delivery", "%s delivers nothing: %s", short, labels[s.State][0])
		}
		switch lost := notAcked(&s.LastHour); {
		case s.DeadLetters && !h.hasPage(s) && s.Backlog != nil && *s.Backlog > 0:
			say(deadLettersWait, dead, "%s in %s", delivery.Plural(*s.Backlog, "dead letter waits", "dead letters wait"), short)
		case s.DeadLetters && s.Backlog != nil && *s.Backlog > 0:
			say(deadLettersWait, dead, "%s", delivery.Plural(*s.Backlog, "dead letter waits", "dead letters wait"))
		case s.DeadLetters:
		case lost > 0 && !isRefused:
			say(pushesFail, "/delivery", "%s of %s not acknowledged in the last hour", delivery.Plural(lost, "push", "pushes"), short)
		case s.State == delivery.Delivering && s.OldestSeconds != nil && *s.OldestSeconds > oldAge.Seconds() && (s.Backlog == nil || *s.Backlog > 0):
			say(messagesLate, "/delivery", "the oldest message of %s waits for %s", short, ageText(*s.OldestSeconds))
		}
		if n := s.LastHour.DeadLettered; n != nil && *n > 0 && !s.DeadLetters {
			say(messagesGivenUp, dead, "%s of %s given up in the last hour", delivery.Plural(*n, "message", "messages"), short)
		}
	}
	slices.SortStableFunc(t.Line, func(a, b remark) int { return cmp.Compare(a.Weight, b.Weight) })
	return t
}

// sayRefused says what was refused in the last hour, by reason: first what receive
// refused, then the endpoints of other programs, by subscription. It is empty where that
// is nothing, or not known.
func (h *handler) sayRefused(r *delivery.Report) (all []remark) {
	// Of the endpoints of other programs only a local run knows.
	bySubscription := make(map[string][]delivery.Refusal)
	for _, f := range r.Refusals {
		of := ""
		if h.isLocal && f.Subscription != "" && !slices.Contains(h.deliveries, f.Subscription) {
			of = f.Subscription
		}
		if f.LastHour > 0 {
			bySubscription[of] = append(bySubscription[of], f)
		}
	}
	atLeast := ""
	if !h.isLocal && r.RefusalsFrom.After(r.At.Add(-time.Hour)) { // not all could be read
		atLeast = "at least "
	}
	for _, of := range slices.Sorted(maps.Keys(bySubscription)) {
		total, reasons := reasonsOf(bySubscription[of])
		if of == "" {
			all = append(all, remark{"receive refused " + atLeast + delivery.Plural(total, "push", "pushes") + " in the last hour: " + reasons, "/delivery", "", receiveRefuses})
		} else {
			all = append(all, remark{delivery.Plural(total, "push", "pushes") + " of " + shortName(of) + " not acknowledged in the last hour: " + reasons, "/delivery", of, pushesFail})
		}
	}
	return all
}

// reasonsOf returns how many refusals there were in the last hour, and the most frequent
// reasons.
func reasonsOf(refusals []delivery.Refusal) (total int64, words string) {
	byReason := make(map[string]int64)
	for _, f := range refusals {
		byReason[f.Reason] += f.LastHour
		total += f.LastHour
	}
	names := slices.SortedFunc(maps.Keys(byReason), func(a, b string) int {
		return cmp.Or(cmp.Compare(byReason[b], byReason[a]), cmp.Compare(a, b))
	})
	if len(names) == 1 {
		return total, visible(names[0])
	}
	const named = 3
	var parts []string
	for _, name := range names[:min(named, len(names))] {
		parts = append(parts, visible(name)+" "+delivery.Count(byReason[name]))
	}
	if more := len(names) - named; more > 0 {
		parts = append(parts, delivery.Plural(more, "other reason", "other reasons"))
	}
	return total, strings.Join(parts, ", ")
}

// notAcked returns how many pushes of a window were not acknowledged; 0 where that is
// not known.
func notAcked(w *delivery.Window) int64 {
	if w.Pushes == nil || w.AckedShare == nil {
		return 0
	}
	return int64(math.Round(float64(*w.Pushes) * (1 - *w.AckedShare)))
}

// troubleEvents returns a function whose result is an event of the page's feed, what is
// wrong with the delivery in the HTML of the page itself, where that has changed since
// the call before, and nil otherwise.
func (h *handler) troubleEvents() func() []byte {
	var last []byte
	return func() []byte {
		report := h.reports.peek()
		if report == nil {
			return nil
		}
		var html bytes.Buffer
		if err := listPage.ExecuteTemplate(&html, "trouble", h.troubleOf(report).brief()); err != nil {
			return nil
		}
		// A line break would end the field; none of them is needed.
		event := fmt.Appendf(nil, "event: trouble\ndata:%s\n\n", bytes.Join(bytes.Fields(html.Bytes()), []byte(" ")))
		if bytes.Equal(event, last) {
			return nil
		}
		last = event
		return event
	}
}
