// Package delivery says how Pub/Sub's pushes to the inbox go: the state of each
// subscription, what waits, what was acknowledged and how fast, and what receive
// refused. It holds what the page, the API and the command line show, in the one form
// that all of them have. It changes nothing.
package delivery

import (
	"context"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// Source tells how delivery goes. It answers within the time of ctx, and what it could
// not find out it names in Report.Unknown; an error means that it knows nothing.
type Source interface {
	Report(ctx context.Context) (*Report, error)
}

// Report is how delivery goes at one time. Numbers that are nil are not known; 0 means
// that there was nothing.
type Report struct {
	// At is when it was collected.
	At            time.Time      `json:"at"`
	Subscriptions []Subscription `json:"subscriptions"`
	// Refusals are the last requests that receive did not acknowledge, the latest
	// first, equal ones in one line; MaxRefusals at most.
	Refusals []Refusal `json:"refusals"`
	// RefusalsFrom is since when refusals are counted: a day before At, or later where
	// not all of them are kept.
	RefusalsFrom time.Time `json:"refusalsFrom,omitzero"`
	// Unknown says what could not be found out, and why.
	Unknown []Unknown `json:"unknown"`
}

// MaxRefusals is how many lines of refusals a Report has at most.
const MaxRefusals = 50

// State is what a subscription does.
type State string

// The states of a subscription.
const (
	Delivering State = "delivering" // it is pushed to its endpoint
	Paused     State = "paused"     // it has no push endpoint
	Waiting    State = "waiting"    // it keeps dead letters until somebody reads them
	Redriving  State = "redriving"  // its dead letters are being pushed
	Detached   State = "detached"   // its topic does not feed it any more
	TopicGone  State = "topicDeleted"
	Missing    State = "missing"
	NotKnown   State = "unknown"
)

// DeletedTopic is what Pub/Sub says in place of a topic that was deleted.
const DeletedTopic = "_deleted-topic_"

// Subscription is how the delivery of one subscription goes.
type Subscription struct {
	// Name and Topic are full names.
	Name  string `json:"name"`
	Topic string `json:"topic,omitempty"`
	// DeadLetters says that the subscription keeps what others gave up.
	DeadLetters bool  `json:"deadLetters"`
	State       State `json:"state"`
	// Endpoint is where it is pushed to, without the value of a shared token.
	Endpoint string `json:"endpoint,omitempty"`
	// Backlog is how many messages are not acknowledged, and OldestSeconds the age of
	// the oldest of them.
	Backlog       *int64   `json:"backlog"`
	OldestSeconds *float64 `json:"oldestSeconds"`
	LastHour      Window   `json:"lastHour"`
	LastDay       Window   `json:"lastDay"`
	// Operation is what an operator has under way, a pause or a redrive.
	Operation *Operation `json:"operation,omitempty"`
}

// Window is what happened in a time that ended at Report.At.
type Window struct {
	// Pushes is how many requests ended, and AckedShare the share of them, 0 to 1,
	// that was acknowledged.
	Pushes     *int64   `json:"pushes"`
	AckedShare *float64 `json:"ackedShare"`
	// P50Millis and P99Millis are how long requests took.
	P50Millis *float64 `json:"p50Millis"`
	P99Millis *float64 `json:"p99Millis"`
	// DeadLettered is how many messages were given up.
	DeadLettered *int64 `json:"deadLettered"`
	// Points are the course of it, the oldest first, at equal distances; none if it is
	// not known.
	Points []Point `json:"points,omitempty"`
}

// Point is a part of a Window.
type Point struct {
	// At is the end of the part.
	At      time.Time `json:"at"`
	Acked   int64     `json:"acked"`
	Refused int64     `json:"refused"`
	// Backlog is what waited at the end; nil is not known.
	Backlog *int64 `json:"backlog,omitempty"`
}

// Refusal is one kind of refusal, and how often there was one.
type Refusal struct {
	// Last is when the latest was.
	Last time.Time `json:"last"`
	// Status is the answer, 0 where there was none.
	Status int `json:"status"`
	// Reason is the short name, see problem.Reason, and Detail the sentence.
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Subscription is the full name, where it is known: what is not verified is not
	// read so far.
	Subscription string `json:"subscription,omitempty"`
	// Count is how many there were since Report.RefusalsFrom, and LastHour how many of
	// them in the hour before Report.At.
	Count    int64 `json:"count"`
	LastHour int64 `json:"lastHour"`
}

// Unknown is something that could not be found out.
type Unknown struct {
	// What is "subscriptions", "numbers", "refusals" or "operations".
	What string `json:"what"`
	// Why says why, and what would help, such as the permission that is missing.
	Why string `json:"why"`
}

// HideToken returns a push endpoint without the value of its shared token, which is
// shown nowhere, nor of any other parameter whose name is one of a secret's, nor a user
// and a password before the host.
func HideToken(endpoint string) string {
	base, query, found := strings.Cut(endpoint, "?")
	base = userinfo.ReplaceAllString(base, "$1"+hidden+"@")
	if !found {
		return base
	}
	var shown strings.Builder
	for rest := query; ; {
		end := strings.IndexAny(rest, "&;")
		part := rest
		if end >= 0 {
			part = rest[:end]
		}
		shown.WriteString(hideValue(part))
		if end < 0 {
			return base + "?" + shown.String()
		}
		shown.WriteByte(rest[end])
		rest = rest[end+1:]
	}
}

var (
	// userinfo finds what stands before the host of an address.
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/?#@\s"'<>]*@`)
	// parameter finds the parameters of addresses in a text.
	parameter = regexp.MustCompile(`([?&;])([^=&;\s"'<>]+=[^&;\s"'<>]*)`)
	// secretName finds the names of parameters that hold secrets.
	secretName = regexp.MustCompile(`(?i)token|secret|passw|key|signature|^sig$|auth|credential`)
)

// hideValue returns a parameter, NAME=VALUE, without the value of a secret.
func hideValue(part string) string {
	name, _, _ := strings.Cut(part, "=")
	plain, err := url.QueryUnescape(name)
	switch {
	case err != nil || plain == "token":
		return "token=" + hidden
	case secretName.MatchString(plain):
		return name + "=" + hidden
	}
	return part
}

// HideTokens returns a text, such as an error that quotes a push endpoint, without what
// HideToken leaves out of one.
func HideTokens(text string) string {
	text = userinfo.ReplaceAllString(text, "$1"+hidden+"@")
	return parameter.ReplaceAllStringFunc(text, func(p string) string { return p[:1] + hideValue(p[1:]) })
}

// hidden is shown in place of a token.
const hidden = "…"

// OneLine returns the beginning of a text that somebody else wrote in one line, without
// what cannot be seen.
func OneLine(text string) string {
	const most = 300
	var b strings.Builder
	n := 0
	for _, c := range text {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(c) {
			c = ' '
		}
		b.WriteRune(c)
	}
	return b.String()
}
