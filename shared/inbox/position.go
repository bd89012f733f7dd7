package inbox

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"
	"time"
)

// Position is where a message stands in an inbox. Lists are ordered by ReceivedAt
// and then ID, descending; feeds by Commit and then ID, ascending.
type Position struct {
	// ReceivedAt is that of the message, in microseconds.
	ReceivedAt time.Time
	// Commit is when the message became visible, in microseconds of the inbox's
	// clock and not the writers', so that a feed in this order has no gaps.
	Commit time.Time
	// ID is the message's ID; empty stands before all messages of that time.
	ID string
}

// A token is a position and, from version 2 on, the filter that it belongs to.
const (
	// The first byte of every token is its version, so that tokens are never
	// misread. Version 1 had the position alone: it fits every filter.
	versionPosition = 1
	versionFilter   = 2
	positionHead    = 1 + 8 + 8
	filterHead      = positionHead + filterSize + 8 + 8
	idSize          = 20
)

// Token returns p in the opaque form that page tokens and event IDs have, without a
// filter: it fits every query. See Query.Token.
func (p Position) Token() string { return p.encode(versionPosition, nil) }

// encode returns the token of a version with what follows the times.
func (p Position) encode(version byte, more []byte) string {
	b := make([]byte, 0, filterHead+idSize)
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(p.ReceivedAt.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(p.Commit.UnixMicro()))
	b = append(b, more...)
	if id, err := hex.DecodeString(p.ID); err == nil {
		b = append(b, id...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// Token returns p in the opaque form that page tokens and event IDs have. It carries
// q's filter, with Since and Until as they were resolved.
func (q *Query) Token(p Position) string {
	filter := q.filter()
	more := binary.BigEndian.AppendUint64(filter[:], uint64(micros(q.Since)))
	return p.encode(versionFilter, binary.BigEndian.AppendUint64(more, uint64(micros(q.Until))))
}

// token is a token that was read.
type token struct {
	Position
	hasFilter    bool
	filter       [filterSize]byte
	since, until time.Time
}

// ParseToken returns the position of a token, or fails with ErrPageToken.
func ParseToken(s string) (Position, error) {
	t, err := parseToken(s)
	return t.Position, err
}

func parseToken(s string) (token, error) {
	// The decoder skips line breaks, which no token has.
	if len(s) > base64.RawURLEncoding.EncodedLen(filterHead+idSize) || strings.ContainsAny(s, "\r\n") {
		return token{}, ErrPageToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 {
		return token{}, ErrPageToken
	}
	head := positionHead
	if b[0] == versionFilter {
		head = filterHead
	}
	if len(b) != head && len(b) != head+idSize || b[0] != versionPosition && b[0] != versionFilter {
		return token{}, ErrPageToken
	}
	received, commit := int64(binary.BigEndian.Uint64(b[1:])), int64(binary.BigEndian.Uint64(b[9:]))
	if received < 0 || commit < 0 || received > maxMicros || commit > maxMicros {
		return token{}, ErrPageToken
	}
	t := token{Position: Position{
		ReceivedAt: time.UnixMicro(received).UTC(),
		Commit:     time.UnixMicro(commit).UTC(),
		ID:         hex.EncodeToString(b[head:]),
	}}
	if t.hasFilter = b[0] == versionFilter; t.hasFilter {
		more := b[positionHead:]
		copy(t.filter[:], more)
		since, until := int64(binary.BigEndian.Uint64(more[filterSize:])), int64(binary.BigEndian.Uint64(more[filterSize+8:]))
		if !validMicros(since) || !validMicros(until) {
			return token{}, ErrPageToken
		}
		t.since, t.until = timeOfMicros(since), timeOfMicros(until)
	}
	return t, nil
}

const (
	// maxMicros is the last microsecond of the year 9999, the last time that
	// Firestore and RFC 3339 can hold, and minMicros the first of the year 1.
	maxMicros = 253402300799999999
	minMicros = -62135596800000000
	// noMicros stands for no time.
	noMicros = math.MinInt64
)

func validMicros(n int64) bool { return n == noMicros || n >= minMicros && n <= maxMicros }

// micros returns t in microseconds, rounded up, or noMicros for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return noMicros
	}
	return ceil(t).UnixMicro()
}

func timeOfMicros(n int64) time.Time {
	if n == noMicros {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// ceil rounds t up to a whole microsecond. What was received, in microseconds, is
// before t if it is before that.
func ceil(t time.Time) time.Time {
	if whole := t.Truncate(time.Microsecond); whole.Before(t) {
		return whole.Add(time.Microsecond)
	}
	return t
}
