package console

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	// maxJSONView is the largest data that is indented, in bytes, and
	// maxJSONDepth how deep it may nest: indenting multiplies the two.
	maxJSONView  = 256 << 10
	maxJSONDepth = 64
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
	text, ok := textOf(m.Data, m.Truncated)
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

// textOf returns data as text, and whether it is text. A character that the
// end of cut data divides is left out.
func textOf(data []byte, cut bool) (string, bool) {
	if cut {
		for i := 1; i < utf8.UTFMax && i <= len(data); i++ {
			if last := data[len(data)-i:]; utf8.RuneStart(last[0]) {
				if !utf8.FullRune(last) {
					data = data[:len(data)-i]
				}
				break
			}
		}
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return "", false
	}
	return string(data), true
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
	Text string
	// Cut says that Text is only the start, Escaped that hidden characters
	// are written out.
	Cut     bool
	Escaped bool
}

// viewOf shows data as kind, or, where that cannot be, as what suits it best.
func viewOf(data []byte, kind string) view {
	if kind == hexView {
		return hexOf(data)
	}
	if kind != textView && indentedSize(data) > 0 {
		var b bytes.Buffer
		if json.Indent(&b, data, "", "  ") == nil && utf8.Valid(data) {
			return cutText(jsonView, bytes.TrimSpace(b.Bytes()), false)
		}
	}
	if len(data) > maxTextView {
		return cutText(textView, data[:maxTextView], true)
	}
	return cutText(textView, data, false)
}

func cutText(kind string, data []byte, cut bool) view {
	if len(data) > maxTextView {
		data, cut = data[:maxTextView], true
	}
	text, ok := textOf(data, cut)
	if !ok {
		return hexOf(data)
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	shown := visible(text)
	return view{Kind: kind, Text: shown, Cut: cut, Escaped: shown != text}
}

func hexOf(data []byte) view {
	cut := len(data) > maxHexView
	if cut {
		data = data[:maxHexView]
	}
	return view{Kind: hexView, Text: hex.Dump(data), Cut: cut}
}

// indentedSize returns about how many bytes data takes when it is indented, or 0
// when it is not a JSON object or list, or one that is too large or nests too deep to
// be indented.
func indentedSize(data []byte) int {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(data) > maxJSONView || len(trimmed) == 0 || trimmed[0] != '{' && trimmed[0] != '[' {
		return 0
	}
	size, depth, quoted := len(data), 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted:
			switch c {
			case '\\':
				i++
			case '"':
				quoted = false
			}
		case c == '"':
			quoted = true
		case c == '{', c == '[':
			depth++
			size += 1 + 2*depth
		case c == ',':
			size += 1 + 2*depth
		case c == '}', c == ']':
			depth--
			size += 1 + 2*depth
		}
		if depth > maxJSONDepth {
			return 0
		}
	}
	return size
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

func verdictOf(m *inbox.Message) verdict {
	v := m.Verified
	if v == (inbox.Verified{}) {
		if m.Source == inbox.SourceCalendar {
			return verdict{Words: "Nobody pushed this: the inbox read it from Google Calendar itself."}
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
	words := "Signed by " + visible(v.Issuer)
	switch m.Source {
	case inbox.SourcePubSub:
		words = "Google signed this push as " + visible(v.Email) + ", for " + visible(v.Audience)
	case inbox.SourceMNS:
		words = "Alibaba MNS signed this push"
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
// page's script converts it to the reader's time zone.
func exact(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func clock(t time.Time) string { return t.UTC().Format("Jan 2, 15:04:05 UTC") }

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
// since two machines' clocks measured it.
func delayText(m *inbox.Message) string {
	if m.PublishTime.IsZero() {
		return ""
	}
	d := m.ReceivedAt.Sub(m.PublishTime)
	if d.Abs() < time.Minute {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
