package inbox

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
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

const (
	positionHead = 1 + 8 + 8
	positionSize = positionHead + 20
	// positionVersion is the first byte of every token. A later format gets
	// another one, so that tokens are never misread.
	positionVersion = 1
)

// Token returns p in the opaque form that page tokens and event IDs have.
func (p Position) Token() string {
	b := make([]byte, positionHead, positionSize)
	b[0] = positionVersion
	binary.BigEndian.PutUint64(b[1:], uint64(p.ReceivedAt.UnixMicro()))
	binary.BigEndian.PutUint64(b[9:], uint64(p.Commit.UnixMicro()))
	if id, err := hex.DecodeString(p.ID); err == nil {
		b = append(b, id...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken returns the position of a token that Token returned, or fails with
// ErrPageToken.
func ParseToken(token string) (Position, error) {
	// The decoder skips line breaks, which no token has.
	if len(token) > base64.RawURLEncoding.EncodedLen(positionSize) || strings.ContainsAny(token, "\r\n") {
		return Position{}, ErrPageToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || (len(b) != positionHead && len(b) != positionSize) || b[0] != positionVersion {
		return Position{}, ErrPageToken
	}
	received, commit := int64(binary.BigEndian.Uint64(b[1:])), int64(binary.BigEndian.Uint64(b[9:]))
	if received < 0 || commit < 0 || received > maxMicros || commit > maxMicros {
		return Position{}, ErrPageToken
	}
	return Position{
		ReceivedAt: time.UnixMicro(received).UTC(),
		Commit:     time.UnixMicro(commit).UTC(),
		ID:         hex.EncodeToString(b[positionHead:]),
	}, nil
}

// maxMicros is the last microsecond of the year 9999, the last time that
// Firestore and RFC 3339 can hold.
const maxMicros = 253402300799999999
