package console

import (
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxTreeDepth is how deep JSON may nest to be shown indented: each level
	// indents what is in it.
	maxTreeDepth = 64
	// maxFolds is how many objects and lists of one message can be folded. Each is
	// an element of the page; the rest are lines of text.
	maxFolds = 1000
	// foldSize is about how many bytes of HTML a fold takes, and keySize a name.
	foldSize, keySize = 64, 32
)

// outline is what is known of JSON before it is shown.
type outline struct {
	// size is about how many bytes it takes as HTML.
	size int
	// items are how many members each of the first maxFolds objects and lists
	// has, in the order in which they begin.
	items []int
}

// outlineOf returns the outline of a JSON object or list, or false when data are
// neither, or nest too deep. It does not check the syntax.
func outlineOf(data []byte) (o outline, ok bool) {
	if s := strings.TrimLeft(string(data[:min(len(data), 64)]), " \t\r\n"); s == "" || s[0] != '{' && s[0] != '[' {
		return o, false
	}
	var open [maxTreeDepth]int // the index in items of each level, or -1
	depth, quoted := 0, false
	o.size = len(data)
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted:
			switch c {
			case '\\':
				i++
			case '"':
				quoted = false
			}
			continue
		case c == '"':
			quoted = true
		case c == '{', c == '[':
			if depth == maxTreeDepth {
				return o, false
			}
			open[depth] = -1
			if len(o.items) < maxFolds {
				open[depth] = len(o.items)
				o.items = append(o.items, 1)
				o.size += foldSize
			}
			depth++
			o.size += 2 * depth
		case c == ',':
			o.size += 2 * depth
			if depth > 0 && open[depth-1] >= 0 {
				o.items[open[depth-1]]++
			}
		case c == ':':
			o.size += keySize
		case c == '}', c == ']':
			o.size += 2 * depth
			depth = max(depth-1, 0)
		}
	}
	return o, true
}

// treeOf shows JSON, which must be valid and UTF-8, as lines that fold. Names and
// texts stand as they are meant: \u00eb as ë, and hidden characters written out.
func treeOf(data []byte, o outline) view {
	w := tree{src: data, items: o.items}
	w.member(0)
	return view{Kind: jsonView, Tree: template.HTML(w.out.String()), Cut: w.text > maxTextView, Escaped: w.escaped}
}

// tree writes JSON as HTML.
type tree struct {
	src     []byte
	at      int // where the rest of src begins
	items   []int
	folds   int // that have begun
	out     strings.Builder
	text    int // the length of the text in out, in bytes
	escaped bool
}

// write adds text to the line, unless enough is shown.
func (w *tree) write(text string) {
	if w.text > maxTextView {
		return
	}
	if room := maxTextView - w.text; len(text) > room {
		text, w.text = strings.ToValidUTF8(text[:room], ""), maxTextView+1
	} else {
		w.text += len(text)
	}
	w.out.WriteString(template.HTMLEscapeString(text))
}

// tag adds markup.
func (w *tree) tag(markup string) { w.out.WriteString(markup) }

// peek returns the next byte that is not white space, and 0 at the end.
func (w *tree) peek() byte {
	for ; w.at < len(w.src); w.at++ {
		switch c := w.src[w.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// token returns the string, number or word that begins at w.at, and leaves it behind.
func (w *tree) token() string {
	start := w.at
	if w.src[start] == '"' {
		for w.at++; w.src[w.at] != '"'; w.at++ {
			if w.src[w.at] == '\\' {
				w.at++
			}
		}
		w.at++
		return w.meant(w.start(start))
	}
	for w.at < len(w.src) && !strings.ContainsRune(",]} \t\r\n", rune(w.src[w.at])) {
		w.at++
	}
	return w.start(start)
}

// start returns what stands between from and w.at, or as much of it as is shown at
// most. Escapes are longer than what they stand for.
func (w *tree) start(from int) string {
	const most = 6 * (maxTextView + 2)
	if w.at-from <= most {
		return string(w.src[from:w.at])
	}
	return strings.ToValidUTF8(string(w.src[from:from+most]), "")
}

// meant returns a string of JSON, in its quotes, with those characters that need no
// escape in place of their escapes.
func (w *tree) meant(s string) string {
	if strings.Contains(s, `\u`) || strings.Contains(s, `\/`) {
		var b strings.Builder
		for len(s) > 0 {
			i := strings.IndexByte(s, '\\')
			if i < 0 {
				i = len(s)
			}
			b.WriteString(s[:i])
			if s = s[i:]; s == "" {
				break
			}
			c, n := unescape(s)
			if n == 0 {
				n = min(2, len(s))
				b.WriteString(s[:n])
			} else {
				b.WriteRune(c)
			}
			s = s[n:]
		}
		s = b.String()
	}
	shown := visible(s)
	w.escaped = w.escaped || shown != s
	return shown
}

// unescape returns the character that the escape at the start of s stands for, and
// the escape's length: 0 where it has to stay.
func unescape(s string) (rune, int) {
	if strings.HasPrefix(s, `\/`) {
		return '/', 2
	}
	unit := func(s string) rune {
		if len(s) < 6 || s[:2] != `\u` {
			return utf8.RuneError
		}
		n, err := strconv.ParseUint(s[2:6], 16, 16)
		if err != nil {
			return utf8.RuneError
		}
		return rune(n)
	}
	c, n := unit(s), 6
	if utf16.IsSurrogate(c) {
		c, n = utf16.DecodeRune(c, unit(s[6:])), 12
	}
	if c == utf8.RuneError || c < ' ' || c == '"' || c == '\\' || hidden(c) {
		return 0, 0
	}
	return c, n
}

// member writes a value, with its name in an object, on lines of its own.
func (w *tree) member(depth int) {
	if w.text > maxTextView {
		return
	}
	indent := strings.Repeat("  ", depth)
	name := ""
	if c := w.peek(); depth > 0 && c == '"' {
		token := w.token()
		if w.peek() == ':' {
			w.at++
			name = token
		} else {
			w.line(indent, "", token)
			return
		}
	}
	switch c := w.peek(); c {
	case '{', '[':
		w.at++
		end := byte('}')
		if c == '[' {
			end = ']'
		}
		fold := w.folds
		w.folds++
		if w.peek() == end {
			w.at++
			w.line(indent, name, string(c)+string(end))
			return
		}
		folds := fold < len(w.items)
		if folds {
			w.tag(fmt.Sprintf(`<details open><summary data-rest=" … %d %c">`, w.items[fold], end))
		}
		w.begin(indent, name)
		w.write(string(c))
		if folds {
			w.tag("<i>") // what folds away has the end of this line with it
		}
		w.write("\n")
		if folds {
			w.tag("</i></summary>")
		}
		for w.text <= maxTextView {
			w.member(depth + 1)
			if c := w.peek(); c != ',' {
				break
			}
			w.at++
		}
		if w.text <= maxTextView {
			w.at++
			w.line(indent, "", string(end))
		}
		if folds {
			w.tag("</details>")
		}
	default:
		w.line(indent, name, w.token())
	}
}

// begin writes the start of a line.
func (w *tree) begin(indent, name string) {
	w.write(indent)
	if name != "" {
		w.tag("<b>")
		w.write(name)
		w.tag("</b>")
		w.write(": ")
	}
}

// line writes a line, with the comma that follows.
func (w *tree) line(indent, name, value string) {
	w.begin(indent, name)
	w.write(value)
	if w.peek() == ',' {
		w.write(",")
	}
	w.write("\n")
}

// validJSON reports whether data is one JSON text in UTF-8.
func validJSON(data []byte) bool { return utf8.Valid(data) && json.Valid(data) }
