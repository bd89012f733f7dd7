package inbox

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Query selects messages: those that meet all conditions that are set. The zero
// Query is the first page of everything, newest first.
type Query struct {
	// Source must be equal to the message's.
	Source string
	// Subscription must be equal to the message's or, when it has no slash, to the
	// part after the last slash of it.
	Subscription string
	// MessageID and OrderingKey must be equal to the message's.
	MessageID   string
	OrderingKey string
	// Since is the first time of ReceivedAt, and Until the first one after it.
	Since time.Time
	Until time.Time
	// Attributes must all be among the message's, with these values.
	Attributes map[string]string
	// Text must be contained, in upper or lower case, in the first PreviewSize
	// bytes of the data, read as UTF-8, or in the key or the value of an attribute.
	Text string
	// Quarantined, when true, selects only quarantined messages.
	Quarantined bool

	// Ascending lists the oldest first. Watch ignores it.
	Ascending bool
	// PageSize is how many messages to return: 0 means DefaultPageSize, more
	// than MaxPageSize means MaxPageSize. Watch ignores it.
	PageSize int
	// PageBytes is how much memory the messages of a page may take together, in
	// bytes: 0 means MaxPageBytes. A page of one message may take more. Watch
	// ignores it.
	PageBytes int
	// PageToken continues after an earlier page, message or event of the same
	// filter.
	PageToken string
	// Progress has Watch also yield events without a message, whose Message.ID is
	// empty, each time that nothing more is there: everything before such a token was
	// yielded, or is not selected. List ignores it.
	Progress bool

	// sinceAgo and untilAgo are Since and Until where they were given as durations
	// back from now: the filter of the next request has the same durations.
	sinceAgo, untilAgo time.Duration
}

// Limit returns the page size that q asks for, within the bounds.
func (q *Query) Limit() int {
	if q.PageSize <= 0 {
		return DefaultPageSize
	}
	return min(q.PageSize, MaxPageSize)
}

// Position returns the position of q's page token, or nil when it has none. It
// fails with ErrPageToken, and with ErrPageFilter when the token belongs to another
// filter.
func (q *Query) Position() (*Position, error) {
	t, err := q.token()
	if err != nil || t == nil {
		return nil, err
	}
	return &t.Position, nil
}

// token reads q's page token; it returns nil when q has none. It fails as Position
// does.
func (q *Query) token() (*token, error) {
	if q.PageToken == "" {
		return nil, nil
	}
	t, err := parseToken(q.PageToken)
	if err != nil {
		return nil, err
	}
	if t.hasFilter && t.filter != q.filter() {
		return nil, ErrPageFilter
	}
	return &t, nil
}

// filterSize is how many bytes stand for a filter in a token.
const filterSize = 8

// filter returns what stands for the conditions of q in tokens: zero when there
// are none.
func (q *Query) filter() (sum [filterSize]byte) {
	if q.IsEverything() {
		return sum
	}
	var b []byte
	add := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, s := range [...]string{q.Source, q.Subscription, q.MessageID, q.OrderingKey, q.Text} {
		add(s)
	}
	for _, t := range [...]struct {
		at  time.Time
		ago time.Duration
	}{{q.Since, q.sinceAgo}, {q.Until, q.untilAgo}} {
		at := micros(t.at)
		if t.ago != 0 {
			at = noMicros
		}
		b = binary.BigEndian.AppendUint64(b, uint64(at))
		b = binary.BigEndian.AppendUint64(b, uint64(t.ago))
	}
	if q.Quarantined {
		add("quarantined")
	}
	for _, k := range slices.Sorted(maps.Keys(q.Attributes)) {
		add(k)
		add(q.Attributes[k])
	}
	hash := sha256.Sum256(b)
	copy(sum[:], hash[:])
	sum[0] |= 1 // never zero
	return sum
}

// IsEverything reports whether q has no conditions, so that it selects every message.
func (q *Query) IsEverything() bool {
	return q.Source == "" && q.Subscription == "" && q.MessageID == "" && q.OrderingKey == "" && q.Text == "" &&
		!q.Quarantined && len(q.Attributes) == 0 && q.Since.IsZero() && q.Until.IsZero()
}

// Bounds returns Since and Until in whole microseconds, as ReceivedAt is. They
// select the same messages.
func (q *Query) Bounds() (since, until time.Time) { return ceil(q.Since), ceil(q.Until) }

// Matches reports whether m meets all conditions of q. It is what every inbox
// answers, by whatever index. m may have its data cut to PreviewSize.
func (q *Query) Matches(m *Message) bool {
	switch {
	case q.Source != "" && q.Source != m.Source,
		q.Subscription != "" && q.Subscription != m.Subscription && q.Subscription != ShortName(m.Subscription),
		q.MessageID != "" && q.MessageID != m.MessageID,
		q.OrderingKey != "" && q.OrderingKey != m.OrderingKey,
		q.Quarantined && m.Quarantined == "",
		!q.Since.IsZero() && m.ReceivedAt.Before(q.Since),
		!q.Until.IsZero() && !m.ReceivedAt.Before(q.Until):
		return false
	}
	for k, want := range q.Attributes {
		if v, ok := m.Attributes[k]; !ok || v != want {
			return false
		}
	}
	return q.Text == "" || containsText(m, fold(q.Text))
}

// AttributeReplayOf is the attribute of a message that was published again: the ID
// of the one that it was published from.
const AttributeReplayOf = "replay-of"

// AttributeTraceparent is the attribute in which Google's clients of Pub/Sub write down
// the publisher's trace, as W3C's traceparent.
const AttributeTraceparent = "googclient_traceparent"

// IndexedAttributes returns the names of the attributes that inboxes have an index
// of, sorted: the declared ones and AttributeReplayOf.
func IndexedAttributes(declared []string) []string {
	all := append(slices.Clone(declared), AttributeReplayOf)
	all = slices.DeleteFunc(all, func(name string) bool { return name == "" })
	slices.Sort(all)
	return slices.Compact(all)
}

// ShortName returns the part of a subscription's full name after the last slash.
func ShortName(subscription string) string {
	return subscription[strings.LastIndexByte(subscription, '/')+1:]
}

// containsText reports whether the data's start or an attribute of m contains
// folded, a text that fold returned.
func containsText(m *Message, folded string) bool {
	for k, v := range m.Attributes {
		if strings.Contains(fold(k), folded) || strings.Contains(fold(v), folded) {
			return true
		}
	}
	return strings.Contains(fold(string(m.Data[:min(len(m.Data), PreviewSize)])), folded)
}

// fold returns s, read as UTF-8, with one letter for all that differ in case alone.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		case r < 0x80 && r != 'k' && r != 's':
			return r
		}
		lowest := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			lowest = min(lowest, next)
		}
		if 'A' <= lowest && lowest <= 'Z' {
			return lowest + 'a' - 'A'
		}
		return lowest
	}, s)
}

const (
	// MaxExamined is how many messages one List examines at most where no index
	// answers all of the query.
	MaxExamined = 5000
	// MaxExamineTime is how long one List examines messages.
	MaxExamineTime = 10 * time.Second
)

// Page is one page of a list.
type Page struct {
	// Events are the messages in the query's order, each with the token that
	// continues right after it: List goes on with the next in its order, Watch with
	// what was stored later.
	Events []Event
	// NextPageToken leads to the next page; empty on the last. Where no index
	// answers all of the query, the next page may be empty, and the last.
	NextPageToken string
	// WatchToken starts a Watch that yields exactly what was stored after
	// this page was read: no gap and no duplicate.
	WatchToken string
	// Examined is how many messages were looked at where no index answers all of
	// the query; zero where one does.
	Examined int
	// ExaminedUntil is the ReceivedAt of the last message that was looked at, where
	// the page ended at MaxExamined or MaxExamineTime; zero where it did not.
	ExaminedUntil time.Time

	bytes int // of the messages in memory
}

// Add appends e, the next event that q selects, and returns true. When the page is
// full, by its number of messages or by their bytes, Add lets NextPageToken lead to
// e and returns false.
func (p *Page) Add(q *Query, e Event) bool {
	bytes := p.bytes + e.Message.Footprint()
	if n := len(p.Events); n == q.Limit() || n > 0 && bytes > cmp.Or(q.PageBytes, MaxPageBytes) {
		p.NextPageToken = p.Events[n-1].Token
		return false
	}
	p.Events, p.bytes = append(p.Events, e), bytes
	return true
}

// Messages returns the page's messages in their order; never nil.
func (p *Page) Messages() []Message {
	messages := make([]Message, len(p.Events))
	for i, e := range p.Events {
		messages[i] = e.Message
	}
	return messages
}

// Filling is a page that an inbox fills with what it reads for a query.
type Filling struct {
	Page
	q       *Query
	isExact bool
	last    Position
	start   time.Time
	now     func() time.Time
}

// Fill returns an empty page for q. isExact says that the inbox reads only what q
// selects, since an index answers all of it: such a page has no bound on what is
// examined.
func (q *Query) Fill(isExact bool) *Filling {
	return &Filling{q: q, isExact: isExact, start: time.Now(), now: time.Now}
}

// Add examines the next message of the list, which stands at a position, and reports
// whether the page wants more. A nil message is one that cannot be listed, such as
// one that has expired.
func (f *Filling) Add(at Position, m *Message) (more bool) {
	switch {
	case f.isExact:
	case len(f.Events) == f.q.Limit():
		// The next page finds out whether it has a message.
		f.NextPageToken = f.Events[len(f.Events)-1].Token
		return false
	case f.Examined == MaxExamined, f.Examined > 0 && f.now().Sub(f.start) > MaxExamineTime:
		f.NextPageToken, f.ExaminedUntil = f.q.Token(f.last), f.last.ReceivedAt
		return false
	}
	if m != nil && f.q.Matches(m) && !f.Page.Add(f.q, Event{Token: f.q.Token(at), Message: *m}) {
		return false
	}
	if f.last = at; !f.isExact {
		f.Examined++
	}
	return true
}
