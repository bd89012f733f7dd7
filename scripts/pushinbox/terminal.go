package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/text/width"

	"example.com/pushinbox/shared/delivery"
)

// terminal is where a command prints, and what may be printed there.
type terminal struct {
	w io.Writer
	// isTerminal says that a person reads it, width how many cells a line has, and
	// hasColor whether it may be coloured.
	isTerminal bool
	width      int
	hasColor   bool
}

// terminalOf returns what w is.
func terminalOf(w io.Writer) *terminal {
	t := &terminal{w: w, width: 80}
	f, ok := w.(*os.File)
	if !ok {
		return t
	}
	columns, ok := columnsOf(f)
	if !ok {
		return t
	}
	t.isTerminal = true
	t.hasColor = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		columns = n
	}
	if columns > 0 {
		t.width = max(columns, 20)
	}
	return t
}

// The colours in use, as the terminal's own palette has them.
const (
	dim  = "2"
	red  = "31"
	cyan = "36"
)

// paint returns s in a colour, where there is colour.
func (t *terminal) paint(color, s string) string {
	if !t.hasColor || s == "" {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// cells returns how many cells of a terminal r takes.
func cells(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r < 0x1100:
		return 1
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// cellsOf returns how many cells s takes.
func cellsOf(s string) (n int) {
	for _, r := range s {
		n += cells(r)
	}
	return n
}

// fit returns s cut to so many cells, the last one an ellipsis where it was cut.
func fit(s string, most int) string {
	if cellsOf(s) <= most {
		return s
	}
	n := 0
	for i, r := range s {
		if n += cells(r); n > most-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// pad returns s with spaces to so many cells.
func pad(s string, to int) string { return s + strings.Repeat(" ", max(0, to-cellsOf(s))) }

// progress tells on standard error how far long work is: on a terminal in one line
// that changes, elsewhere in a line now and then. Several goroutines may use it.
type progress struct {
	t    *terminal
	mu   sync.Mutex
	last time.Time
	open bool // there is a line that can change
}

func newProgress(w io.Writer) *progress { return &progress{t: terminalOf(w), last: time.Now()} }

// at says how far it is, unless it did so a moment ago.
func (p *progress) at(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	every := 10 * time.Second
	if p.t.isTerminal {
		every = 200 * time.Millisecond
	}
	if time.Since(p.last) < every {
		return
	}
	p.last = time.Now()
	line := visible(fmt.Sprintf(format, args...))
	if !p.t.isTerminal {
		fmt.Fprintln(p.t.w, line)
		return
	}
	fmt.Fprint(p.t.w, "\r\x1b[K"+fit(line, p.t.width-1))
	p.open = true
}

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	fmt.Fprintln(p.t.w, visible(fmt.Sprintf(format, args...)))
}

// clear takes the line away that can change.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}

func (p *progress) wipe() {
	if p.open {
		fmt.Fprint(p.t.w, "\r\x1b[K")
		p.open = false
	}
}

// many writes a number of things.
func many[N int | int64](n N, thing string) string { return delivery.Plural(n, thing, thing+"s") }
