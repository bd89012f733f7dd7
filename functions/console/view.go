package console

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
)

// A payload is untrusted: only a bounded part of it is shown, with its invisible
// characters written out.
const (
	// previewRunes is how much of its data a message shows in the list.
	previewRunes = 200
	// maxTextView and maxHexView are how many bytes of data a message's own
	// page shows.
	maxTextView = 64 << 10
	maxHexView  = 4 << 10
	// viewWeight is the memory that a page takes for each byte that it shows: a
	// hidden character is written out, twice.
	viewWeight = 8
)

// preview is the start of a payload in one line.
type preview struct {
	Text string
	// Note says that Text describes the data instead of showing it.
	Note bool
}

func previewOf(m *inbox.Message) preview {
	if m.Size == 0 {
		return preview{"no data", true}
	}
	text, ok := inbox.Text(m.Data, m.Truncated)
	if !ok {
		start := m.Data[:min(len(m.Data), 16)]
		return preview{fmt.Sprintf("binary: % x", start), true}
	}
	if change := changeText(m); change != "" {
		text = change
	}
	var b strings.Builder
	n := 0
	for field := range strings.FieldsSeq(text) {
		if n > 0 {
			b.WriteByte(' ')
		}
		for _, r := range field {
			if n++; n > previewRunes {
				b.WriteString("…")
				return preview{Text: b.String()}
			}
			writeVisible(&b, r)
		}
		n++
	}
	switch {
	case b.Len() == 0 && m.Truncated:
		return preview{"begins with white space", true}
	case b.Len() == 0:
		return preview{"only white space", true}
	case m.Truncated:
		b.WriteString("…")
	}
	return preview{Text: b.String()}
}

// changeText summarizes a message of the function calendar in one line; empty for
// other messages, and when the JSON is longer than its preview.
func changeText(m *inbox.Message) string {
	if m.Source != inbox.SourceCalendar {
		return ""
	}
	var c struct {
		Change        string
		Event, Before struct{ Summary string }
		Fields        []string
		Reason        string
	}
	if json.Unmarshal(m.Data, &c) != nil || c.Change == "" {
		return ""
	}
	if c.Reason != "" {
		return c.Change + ": " + c.Reason
	}
	text := c.Change + ": " + cmp.Or(c.Event.Summary, c.Before.Summary, "an event without a title")
	if len(c.Fields) > 0 {
		text += " (" + strings.Join(c.Fields, ", ") + ")"
	}
	return text
}

// hidden reports whether r is invisible or changes how the text around it is shown:
// controls, direction marks, spaces without width. The two joiners are not hidden,
// since words of some languages and many emoji contain them.
func hidden(r rune) bool {
	switch r {
	case '\n', '\t', '\u200c', '\u200d':
		return false
	}
	return r < ' ' || r >= 0x7f && (r == '\u2800' ||
		unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point))
}

func writeVisible(b *strings.Builder, r rune) {
	if hidden(r) {
		fmt.Fprintf(b, `\u{%X}`, r)
	} else {
		b.WriteRune(r)
	}
}

// visible returns s with its hidden characters written out.
func visible(s string) string {
	if strings.IndexFunc(s, hidden) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		writeVisible(&b, r)
	}
	return b.String()
}

// The forms that data is shown in, as they stand in a page's address.
const (
	jsonView = "json"
	textView = "text"
	hexView  = "hex"
)

// view is the data of a message as its page shows it.
type view struct {
	Kind string
	// Text is the data as text, and Tree as HTML, where they are JSON.
	Text string
	Tree template.HTML
	// Cut says that only the start is shown, Escaped that hidden characters
	// are written out.
	Cut     bool
	Escaped bool
}

// payload is data with what is known of them before they are shown.
type payload struct {
	data    []byte
	outline outline
	isJSON  bool // an object or a list that the outline is of
}

// payloadOf looks at data, which it does not copy.
func payloadOf(data []byte) payload {
	o, ok := outlineOf(data)
	return payload{data: data, outline: o, isJSON: ok && validJSON(data)}
}

// shownSize returns about how many bytes view writes.
func (p payload) shownSize() int {
	size := min(len(p.data), maxTextView)
	if p.isJSON {
		size = max(size, min(p.outline.size, maxTextView+maxFolds*foldSize))
	}
	return size
}

// text returns as much of the data as is shown as text, and whether there is more and
// whether it is text.
func (p payload) text() (text string, cut, ok bool) {
	start := p.data[:min(len(p.data), maxTextView)]
	cut = len(start) < len(p.data)
	text, ok = inbox.Text(start, cut)
	return text, cut, ok
}

// kind is the form that suits the data best.
func (p payload) kind() string {
	if p.isJSON {
		return jsonView
	}
	if _, _, ok := p.text(); ok {
		return textView
	}
	return hexView
}

// view shows the data as kind, or, where that cannot be, as what suits them best.
func (p payload) view(kind string) view {
	if kind == hexView {
		return hexOf(p.data)
	}
	if kind != textView && p.isJSON {
		return treeOf(p.data, p.outline)
	}
	text, cut, ok := p.text()
	if !ok {
		return hexOf(p.data)
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	shown := visible(text)
	return view{Kind: textView, Text: shown, Cut: cut, Escaped: shown != text}
}

func hexOf(data []byte) view {
	cut := len(data) > maxHexView
	if cut {
		data = data[:maxHexView]
	}
	return view{Kind: hexView, Text: hex.Dump(data), Cut: cut}
}

// verdict is what is known about a message's sender, as a sentence and as claims.
type verdict struct {
	Proven bool
	Words  string
	Claims []claim
}

// claim is a name with a text or a time.
type claim struct {
	Name  string
	Value string
	Time  time.Time
}

// isGoogle reports whether issuer is that of Google's ID tokens.
func isGoogle(issuer string) bool {
	return issuer == "https://accounts.google.com" || issuer == "accounts.google.com"
}

// verdictOf returns what is known about the sender of m. isLocal says that all
// messages of this inbox were signed by the issuer of one machine.
func verdictOf(m *inbox.Message, isLocal bool) verdict {
	v := m.Verified
	if v == (inbox.Verified{}) {
		if m.Source == inbox.SourceCalendar {
			calendar := "Google Calendar"
			if isLocal {
				calendar = "the stand-in for Google Calendar"
			}
			return verdict{Words: "Nobody pushed this: the inbox read it from " + calendar + " itself."}
		}
		return verdict{Words: "The sender of this message is not recorded."}
	}
	var claims []claim
	for _, c := range []claim{
		{Name: "Issuer", Value: v.Issuer},
		{Name: "Audience", Value: v.Audience},
		{Name: "E-mail", Value: v.Email},
		{Name: "Subject", Value: v.Subject},
		{Name: "Issued", Time: v.IssuedAt},
		{Name: "Expires", Time: v.ExpiresAt},
	} {
		if c.Value != "" || !c.Time.IsZero() {
			claims = append(claims, c)
		}
		if c.Name == "E-mail" && c.Value != "" {
			claims = append(claims, claim{Name: "E-mail verified", Value: yesNo(v.EmailVerified)})
		}
	}
	signer := func(real string) string {
		if isLocal {
			return "The issuer of pushinbox local, in place of " + real + ","
		}
		return real
	}
	words := "Signed by " + visible(v.Issuer)
	switch {
	case m.Source == inbox.SourcePubSub && isGoogle(v.Issuer):
		words = signer("Google") + " signed this push as " + visible(v.Email) + ", for " + visible(v.Audience)
	case m.Source == inbox.SourceMNS:
		words = signer("Alibaba MNS") + " signed this push"
		if v.Subject != "" {
			words += " of a topic of account " + visible(v.Subject)
		}
	}
	return verdict{Proven: true, Words: words + ".", Claims: claims}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// shortName returns the short name of a subscription for people.
func shortName(subscription string) string { return visible(inbox.ShortName(subscription)) }

// sourceName is a source as people write it.
func sourceName(source string) string {
	switch source {
	case inbox.SourcePubSub:
		return "Pub/Sub"
	case inbox.SourceCalendar:
		return "Calendar"
	case inbox.SourceMNS:
		return "MNS"
	}
	return visible(source)
}

// exact is a time as the API writes it, and clock the same for people, until the
// page's script converts it to the reader's time zone. Of another year than this one
// it has the date with the year.
func exact(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func clock(t time.Time) string { return clockAt(t.UTC(), time.Now().UTC()) }

func clockAt(t, now time.Time) string {
	if t.Year() != now.Year() {
		return t.Format("2006-01-02 15:04:05 UTC")
	}
	return t.Format("Jan 2, 15:04:05.000 UTC")
}

// sizeText is a number of bytes for people.
func sizeText(n int) string {
	switch {
	case n == 1:
		return "1 byte"
	case n < 1000:
		return strconv.Itoa(n) + " bytes"
	case n < 1_000_000:
		return strconv.FormatFloat(float64(n)/1e3, 'f', 1, 64) + " kB"
	}
	return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB"
}

// delayText is the time from publishing to storing, for people. It can be negative,
// since two machines' clocks measured it. Of a day and more it is empty: the time of
// publishing then has a date, which says more.
func delayText(m *inbox.Message) string {
	d := m.ReceivedAt.Sub(m.PublishTime)
	switch {
	case m.PublishTime.IsZero() || d.Abs() >= 24*time.Hour:
		return ""
	case d.Abs() < time.Minute:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// traceOf returns the ID of the trace that the publisher's client wrote down for m,
// as W3C's traceparent, or "".
func traceOf(m *inbox.Message) string {
	trace, _, _, _ := httpapi.Traceparent(m.Attributes[inbox.AttributeTraceparent])
	return trace
}
