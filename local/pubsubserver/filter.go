package pubsubserver

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filter says whether a message with these attributes is wanted; nil wants all.
type filter func(attributes map[string]string) bool

const maxFilterSize = 256 // bytes

// parseFilter parses a filter of Pub/Sub's language:
//
//	expression = term { "AND" term } | term { "OR" term }
//	term       = [ "NOT" | "-" ] ( "(" expression ")" | condition )
//	condition  = "attributes" ":" key | "attributes" "." key ( "=" | "!=" ) string
//	           | "hasPrefix" "(" "attributes" "." key "," string ")"
//	key        = letters, digits, "_", "-" | string
func parseFilter(text string) (f filter, err error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > maxFilterSize {
		return nil, fmt.Errorf("it has %d bytes; the limit is %d", len(text), maxFilterSize)
	}
	p := &filterParser{rest: text}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(filterError)
			if !ok {
				panic(r)
			}
			f, err = nil, fmt.Errorf("at byte %d: %s", len(text)-len(p.rest), string(e))
		}
	}()
	p.advance()
	f = p.expression()
	if p.token != "" {
		p.fail("%q is not expected here", p.token)
	}
	return f, nil
}

type filterError string

type filterParser struct {
	rest  string // after token
	token string // empty at the end
}

func (p *filterParser) fail(format string, args ...any) {
	panic(filterError(fmt.Sprintf(format, args...)))
}

func isWord(r rune) bool {
	return r == '_' || r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// advance goes on to the next token: a word, a string with its quotes, "!=", or
// one character.
func (p *filterParser) advance() {
	p.rest = strings.TrimLeftFunc(p.rest, unicode.IsSpace)
	n := 0
	first, size := utf8.DecodeRuneInString(p.rest)
	switch {
	case p.rest == "":
	case first == '"':
		quoted, err := strconv.QuotedPrefix(p.rest)
		if err != nil {
			p.fail("the string does not end, or has an escape that is not known")
		}
		n = len(quoted)
	case strings.HasPrefix(p.rest, "!="):
		n = 2
	case first != '-' && isWord(first):
		if n = strings.IndexFunc(p.rest, func(r rune) bool { return !isWord(r) }); n < 0 {
			n = len(p.rest)
		}
	default:
		n = size
	}
	p.token, p.rest = p.rest[:n], p.rest[n:]
}

// accept goes past a token if it is there.
func (p *filterParser) accept(token string) bool {
	if p.token != token {
		return false
	}
	p.advance()
	return true
}

func (p *filterParser) expect(token string) {
	if !p.accept(token) {
		p.fail("%q is expected, not %q", token, p.token)
	}
}

func (p *filterParser) expression() filter {
	f := p.term()
	for operator := p.token; operator == "AND" || operator == "OR"; {
		p.advance()
		left, right := f, p.term()
		if operator == "AND" {
			f = func(a map[string]string) bool { return left(a) && right(a) }
		} else {
			f = func(a map[string]string) bool { return left(a) || right(a) }
		}
		if p.token != operator {
			if p.token == "AND" || p.token == "OR" {
				p.fail("AND and OR are combined without parentheses")
			}
			break
		}
	}
	return f
}

func (p *filterParser) term() filter {
	switch {
	case p.accept("NOT"), p.accept("-"):
		f := p.operand()
		return func(a map[string]string) bool { return !f(a) }
	}
	return p.operand()
}

func (p *filterParser) operand() filter {
	switch {
	case p.accept("("):
		f := p.expression()
		p.expect(")")
		return f
	case p.accept("hasPrefix"):
		p.expect("(")
		p.expect("attributes")
		p.expect(".")
		key := p.key()
		p.expect(",")
		prefix := p.text()
		p.expect(")")
		return func(a map[string]string) bool {
			v, ok := a[key]
			return ok && strings.HasPrefix(v, prefix)
		}
	case p.accept("attributes"):
	default:
		p.fail("a condition on attributes is expected, not %q", p.token)
	}
	if p.accept(":") {
		key := p.key()
		return func(a map[string]string) bool {
			_, ok := a[key]
			return ok
		}
	}
	p.expect(".")
	key := p.key()
	not := p.accept("!=")
	if !not {
		p.expect("=")
	}
	value := p.text()
	return func(a map[string]string) bool {
		v, ok := a[key]
		return (ok && v == value) != not
	}
}

func (p *filterParser) key() string {
	if strings.HasPrefix(p.token, `"`) {
		return p.text()
	}
	key := p.token
	if r, _ := utf8.DecodeRuneInString(key); key == "" || !isWord(r) {
		p.fail("an attribute key is expected, not %q", key)
	}
	p.advance()
	return key
}

func (p *filterParser) text() string {
	if !strings.HasPrefix(p.token, `"`) {
		p.fail("a string in double quotes is expected, not %q", p.token)
	}
	s, err := strconv.Unquote(p.token)
	if err != nil {
		p.fail("%s is not a valid string", p.token)
	}
	p.advance()
	return s
}
