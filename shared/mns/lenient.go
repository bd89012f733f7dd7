package mns

import (
	"bytes"
	"iter"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/net/html/charset"
)

// readLenient reads a push that readXML and readJSON cannot read, or whose Message
// they read as another text than its MessageMD5 is of: text that has no place in
// XML or JSON, escaped as if it had, or not escaped, in whatever encoding. Message
// is taken out of the body and read in several ways; ok says that the MD5 proves
// one of them. What is left of the body must be a notification to the strict
// reader, so that leniency moves no field.
func readLenient(format Format, h http.Header, body []byte) (fields map[string]string, message string, ok bool) {
	for _, body := range encodings(format, h, body) {
		start, end := jsonMessage(body)
		meanings, read := jsonTexts, readJSON
		if format == XML {
			start, end = xmlMessage(body)
			meanings, read = xmlTexts, readXML
		}
		if start < 0 {
			continue
		}
		rest := append(bytes.Clone(body[:start]), body[end:]...)
		fields, err := read(harmless(format, rest))
		if placeholder, there := fields["Message"]; err != nil || !there || placeholder != "" {
			continue
		}
		for text := range meanings(body[start:end]) {
			if strings.EqualFold(fields["MessageMD5"], md5Hex(string(text))) {
				return fields, string(text), true
			}
		}
	}
	return nil, "", false
}

// declaration is the encoding in an XML declaration.
var declaration = regexp.MustCompile(`^\s*<\?xml\s[^<>]*?(\sencoding\s*=\s*["']([^"'<>]*)["'])`)

// encodings returns the body as UTF-8, without saying that it is something else:
// as it came and, where it says that it is in another encoding, converted.
func encodings(format Format, h http.Header, body []byte) [][]byte {
	var labels []string
	if _, parameters, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil {
		labels = append(labels, parameters["charset"])
	}
	if m := declaration.FindSubmatchIndex(body); format == XML && m != nil {
		labels = append(labels, string(body[m[4]:m[5]]))
		body = append(bytes.Clone(body[:m[2]]), body[m[3]:]...)
	}
	all := [][]byte{body}
	for _, label := range labels {
		e, name := charset.Lookup(label)
		if e == nil || name == "utf-8" || strings.HasPrefix(name, "utf-16") {
			continue // UTF-16 has been converted, or is not what this is
		}
		if converted, err := e.NewDecoder().Bytes(body); err == nil {
			all = append(all, converted)
		}
	}
	return all
}

// withoutMark returns the body without a byte order mark, as UTF-8 if the mark says
// that it is UTF-16.
func withoutMark(body []byte) []byte {
	for mark, name := range map[string]string{"\xff\xfe": "utf-16le", "\xfe\xff": "utf-16be", "\xef\xbb\xbf": ""} {
		rest, marked := bytes.CutPrefix(body, []byte(mark))
		if !marked {
			continue
		}
		if e, _ := charset.Lookup(name); e != nil {
			if converted, err := e.NewDecoder().Bytes(rest); err == nil {
				return converted
			}
		}
		return rest
	}
	return body
}

// harmless replaces what has no place in XML or JSON, which a publisher's tag can
// hold too, by U+FFFD.
func harmless(format Format, body []byte) []byte {
	body = bytes.Map(func(r rune) rune {
		if hasNoPlace(r) {
			return utf8.RuneError
		}
		return r
	}, body) // which does the same with what is not UTF-8
	if format != XML {
		return body
	}
	return numeric.ReplaceAllFunc(body, func(reference []byte) []byte {
		r, n := xmlReference(reference)
		if n == 0 || hasNoPlace(r) {
			return []byte("\ufffd")
		}
		return reference
	})
}

// hasNoPlace finds the characters that XML does not have.
func hasNoPlace(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff || utf16.IsSurrogate(r)
}

var (
	numeric = regexp.MustCompile(`&#[0-9A-Za-z]*;`)
	// A quotation mark within a JSON string is escaped, so this is no text.
	jsonStart = regexp.MustCompile(`"Message"\s*:\s*"`)
)

// xmlMessage returns where the content of Message is: from the first start tag to
// the last end tag, since the message itself may hold both. start is -1 if it is
// nowhere.
func xmlMessage(body []byte) (start, end int) {
	start, end = -1, -1
	for at := 0; ; {
		i := bytes.Index(body[at:], element)
		if i < 0 {
			break
		}
		name := at + i
		at = name + len(element)
		switch begin := beforeName(body[:name]); {
		case bytes.HasSuffix(begin, []byte("</")):
			if rest := bytes.TrimLeft(body[at:], space); start >= 0 && len(rest) > 0 && rest[0] == '>' {
				end = len(begin) - len("</")
			}
		case bytes.HasSuffix(begin, []byte("<")) && start < 0:
			if i := bytes.IndexAny(body[at:], "<>"); i >= 0 && body[at+i] == '>' && (i == 0 || strings.IndexByte(space, body[at]) >= 0) {
				start = at + i + 1
			}
		}
	}
	if end < 0 {
		return -1, -1
	}
	return start, end
}

// element is the local name of the element, and space what may follow it in its tags.
var element = []byte("Message")

const space = " \t\n\f\r"

// beforeName returns b without a namespace's prefix at its end.
func beforeName(b []byte) []byte {
	qualified, ok := bytes.CutSuffix(b, []byte(":"))
	if !ok {
		return b
	}
	return bytes.TrimRightFunc(qualified, func(r rune) bool {
		return r == '_' || r == '.' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	})
}

// jsonMessage returns where the content of Message is, without its quotation
// marks. start is -1 if it is nowhere.
func jsonMessage(body []byte) (start, end int) {
	first := jsonStart.FindIndex(body)
	if first == nil {
		return -1, -1
	}
	for i := first[1]; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case '"':
			return first[1], i
		}
	}
	return -1, -1
}

// writer appends the character that a reference stands for. pairs says that the two
// halves of a surrogate pair are one character.
type writer struct {
	pairs bool
	write func(b []byte, r rune) []byte
}

// writers are the ways that senders mean a reference. They differ in half a
// surrogate pair, which no encoding has, and in what is a byte.
var writers = []writer{
	{true, utf8.AppendRune},                              // U+FFFD for half a pair, as Go writes
	{true, surrogates(func(rune) string { return "?" })}, // as Java writes
	{true, surrogates(threeBytes)},                       // as Python writes on demand
	{false, surrogates(threeBytes)},                      // as databases write what they call utf8
	{true, func(b []byte, r rune) []byte { // as bytes that were taken for characters
		if r < 0x100 {
			return append(b, byte(r))
		}
		return utf8.AppendRune(b, r)
	}},
}

func surrogates(text func(rune) string) func([]byte, rune) []byte {
	return func(b []byte, r rune) []byte {
		if utf16.IsSurrogate(r) {
			return append(b, text(r)...)
		}
		return utf8.AppendRune(b, r)
	}
}

func threeBytes(r rune) string {
	return string([]byte{0xe0 | byte(r>>12), 0x80 | byte(r>>6)&0x3f, 0x80 | byte(r)&0x3f})
}

// xmlTexts yields what the content of an element can mean, one at a time.
func xmlTexts(content []byte) iter.Seq[[]byte] {
	return texts(content, "&#", func(w writer) []byte {
		text := make([]byte, 0, len(content))
		for rest := content; len(rest) > 0; {
			before, markup, found := bytes.Cut(rest, []byte("<"))
			text, rest = resolve(text, before, xmlReference, w), nil
			if section, ok := bytes.CutPrefix(markup, []byte("![CDATA[")); ok {
				before, rest, _ = bytes.Cut(section, []byte("]]>"))
				text = append(text, before...)
			} else if comment, ok := bytes.CutPrefix(markup, []byte("!--")); ok {
				_, rest, _ = bytes.Cut(comment, []byte("-->"))
			} else if instruction, ok := bytes.CutPrefix(markup, []byte("?")); ok {
				_, rest, _ = bytes.Cut(instruction, []byte("?>"))
			} else if found {
				text, rest = append(text, '<'), markup
			}
		}
		return text
	})
}

// jsonTexts yields what the content of a string can mean, one at a time.
func jsonTexts(content []byte) iter.Seq[[]byte] {
	return texts(content, `\u`, func(w writer) []byte {
		return resolve(make([]byte, 0, len(content)), content, jsonReference, w)
	})
}

// texts yields the content as it is and as each writer makes it: the first one alone
// where there are no numeric references, which begin like this.
func texts(content []byte, numeric string, read func(writer) []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if !yield(content) {
			return
		}
		for _, w := range writers {
			if !yield(read(w)) || !bytes.Contains(content, []byte(numeric)) {
				return
			}
		}
	}
}

// resolve appends content to text with its references written. reference returns
// the character of the reference that a text begins with and its length, 0 if it
// begins with none.
func resolve(text, content []byte, reference func([]byte) (rune, int), w writer) []byte {
	for len(content) > 0 {
		r, n := reference(content)
		if n == 0 {
			text, content = append(text, content[0]), content[1:]
			continue
		}
		content = content[n:]
		if w.pairs && utf16.IsSurrogate(r) {
			low, n := reference(content)
			if pair := utf16.DecodeRune(r, low); n > 0 && pair != utf8.RuneError {
				r, content = pair, content[n:]
			}
		}
		text = w.write(text, r)
	}
	return text
}

var named = map[string]rune{"lt": '<', "gt": '>', "amp": '&', "quot": '"', "apos": '\''}

// maxReference is how much of a text is read for a reference, in bytes: leading
// zeros make one longer.
const maxReference = 16

// xmlReference returns the character of the reference that b begins with, one that
// XML does not allow too, and its length.
func xmlReference(b []byte) (rune, int) {
	if len(b) == 0 || b[0] != '&' {
		return 0, 0
	}
	end := bytes.IndexByte(b[:min(len(b), maxReference)], ';')
	if end < 0 {
		return 0, 0
	}
	name := string(b[1:end])
	if r, ok := named[name]; ok {
		return r, end + 1
	}
	digits, ok := strings.CutPrefix(name, "#")
	if !ok {
		return 0, 0
	}
	base := 10
	if strings.HasPrefix(digits, "x") || strings.HasPrefix(digits, "X") {
		digits, base = digits[1:], 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n > utf8.MaxRune {
		return 0, 0
	}
	return rune(n), end + 1
}

// escapes are the characters of JSON's short escapes.
var escapes = map[byte]rune{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// jsonReference returns the character of the escape that b begins with, half a
// surrogate pair too, and its length.
func jsonReference(b []byte) (rune, int) {
	if len(b) < 2 || b[0] != '\\' {
		return 0, 0
	}
	if r, ok := escapes[b[1]]; ok {
		return r, 2
	}
	if b[1] != 'u' || len(b) < 6 {
		return 0, 0
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return 0, 0
	}
	return rune(n), 6
}
