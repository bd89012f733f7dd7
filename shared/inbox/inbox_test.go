package inbox

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/problem"
	"github.com/google/go-cmp/cmp"
)

func TestID(t *testing.T) {
	t.Parallel()
	// The answers were computed apart from this code: the first 20 bytes of
	// SHA-256 over each part behind its length. They must never change, or
	// redeliveries would be stored again.
	for _, test := range []struct{ source, subscription, messageID, want string }{
		{"pubsub", "projects/p/subscriptions/s", "2070443601311540", "40168406f1d9f4d43bde8f798742292e4f91b8f3"},
		{"", "", "", "709e80c88487a2411e1ee4dfb9f22a861492d20c"},
		{"calendar", "", "ü", "ca1421269b05a4838f851ba5486a8ecf5edc5175"},
		{"pubsub", strings.Repeat("s", 300), "1", "de040a3f2c3a2caae3beebbc152a94da6d8ff436"},
	} {
		if got := ID(test.source, test.subscription, test.messageID); got != test.want {
			t.Errorf("ID(%q, %.20q, %q) = %s, want %s", test.source, test.subscription, test.messageID, got, test.want)
		}
	}
}

func TestIDTellsIdentitiesApart(t *testing.T) {
	t.Parallel()
	seen := map[string][3]string{}
	for _, parts := range [][3]string{
		{"ab", "c", "d"}, {"a", "bc", "d"}, {"a", "b", "cd"}, {"abcd", "", ""}, {"", "abcd", ""}, {"", "", "abcd"},
		{"a", "", "bcd"}, {"", "a", "bcd"}, {"\x01a", "b", "c"}, {"a\x01", "b", "c"}, {"a", "\x01b", "c"}, {"a", "b\x01", "c"},
		{"A", "bc", "d"}, {"a ", "bc", "d"}, {"a", "bc", "d\x00"}, {"a", "b", "\x02cd"},
		{strings.Repeat("a", 127), strings.Repeat("a", 128), "a"}, {strings.Repeat("a", 128), strings.Repeat("a", 127), "a"},
	} {
		id := ID(parts[0], parts[1], parts[2])
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q have the same ID", parts, other)
		}
		if raw, err := hex.DecodeString(id); err != nil || len(raw) != 20 {
			t.Errorf("ID of %q is %q, want 40 hex digits", parts, id)
		}
		seen[id] = parts
	}
}

// TestIDSpread holds IDs of messages that are numbered as Pub/Sub numbers them
// to an even spread, which is what keeps them off one range of keys.
func TestIDSpread(t *testing.T) {
	t.Parallel()
	const messages, buckets = 100_000, 16
	for _, test := range []struct {
		name string
		step int
	}{{"counting_up", 1}, {"with_gaps", 16}, {"by_256", 256}} {
		shard, leading := make([]int, buckets), make([]int, buckets)
		for i := range messages {
			id := ID(SourcePubSub, "projects/p/subscriptions/s", strconv.FormatInt(2070443601311540+int64(i*test.step), 10))
			n, err := strconv.ParseUint(id[:8], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			shard[n%buckets]++
			leading[n>>28]++
		}
		for name, counts := range map[string][]int{"leading 4 bytes mod 16": shard, "first digit": leading} {
			if chi := chiSquare(counts); chi > chiSquare15 {
				t.Errorf("%s: %s: chi-square = %.1f, want at most %.2f (p > 0.01): %d", test.name, name, chi, chiSquare15, counts)
			}
		}
	}
}

// chiSquare15 is the value that chi-square with 15 degrees of freedom exceeds
// with p = 0.01.
const chiSquare15 = 30.58

// chiSquare returns how far counts are from even.
func chiSquare(counts []int) float64 {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	expected, chi := float64(sum)/float64(len(counts)), 0.0
	for _, n := range counts {
		chi += (float64(n) - expected) * (float64(n) - expected) / expected
	}
	return chi
}

func valid() *Message {
	return &Message{Source: SourcePubSub, Subscription: "projects/p/subscriptions/s", MessageID: "1", Data: []byte("x")}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*Message)
		ok     bool
	}{
		{"as_it_is", func(*Message) {}, true},
		{"no_subscription", func(m *Message) { m.Subscription = "" }, true},
		{"no_data", func(m *Message) { m.Data = nil }, true},
		{"most_data", func(m *Message) { m.Data = make([]byte, MaxDataSize) }, true},
		{"longest_message_id", func(m *Message) { m.MessageID = strings.Repeat("x", maxStringSize) }, true},
		{"most_attributes", func(m *Message) { m.Attributes = map[string]string{"k": strings.Repeat("v", maxAttributesSize-1)} }, true},
		{"first_time", func(m *Message) { m.PublishTime = time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC) }, true},
		{"last_time", func(m *Message) { m.PublishTime = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC) }, true},
		{"pubsub_limits", func(m *Message) {
			m.OrderingKey = strings.Repeat("o", 1024)
			m.Attributes = map[string]string{}
			for i := range 100 {
				m.Attributes[fmt.Sprintf("%0256d", i)] = strings.Repeat("v", 1024)
			}
		}, true},

		{"no_source", func(m *Message) { m.Source = "" }, false},
		{"no_message_id", func(m *Message) { m.MessageID = "" }, false},
		{"too_much_data", func(m *Message) { m.Data = make([]byte, MaxDataSize+1) }, false},
		{"source_not_utf8", func(m *Message) { m.Source = "\xff" }, false},
		{"subscription_not_utf8", func(m *Message) { m.Subscription = "\xff" }, false},
		{"message_id_not_utf8", func(m *Message) { m.MessageID = "a\xc3" }, false},
		{"message_id_too_long", func(m *Message) { m.MessageID = strings.Repeat("x", maxStringSize+1) }, false},
		{"ordering_key_not_utf8", func(m *Message) { m.OrderingKey = "\xed\xa0\x80" }, false},
		{"audience_not_utf8", func(m *Message) { m.Verified.Audience = "\xff" }, false},
		{"subject_too_long", func(m *Message) { m.Verified.Subject = strings.Repeat("x", maxStringSize+1) }, false},
		{"attribute_key_not_utf8", func(m *Message) { m.Attributes = map[string]string{"\xff": ""} }, false},
		{"attribute_value_not_utf8", func(m *Message) { m.Attributes = map[string]string{"": "\xff"} }, false},
		{"too_many_attributes", func(m *Message) { m.Attributes = map[string]string{"k": strings.Repeat("v", maxAttributesSize)} }, false},
		{"year_0", func(m *Message) { m.PublishTime = time.Date(0, 12, 31, 23, 59, 59, 0, time.UTC) }, false},
		{"year_0_by_zone", func(m *Message) { m.PublishTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.FixedZone("", 1)) }, false},
		{"year_10000_by_zone", func(m *Message) {
			m.PublishTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -1))
		}, false},
		{"issued_at_overflows", func(m *Message) { m.Verified.IssuedAt = time.Unix(math.MaxInt64, 0) }, false},
		{"expires_at_overflows", func(m *Message) { m.Verified.ExpiresAt = time.Unix(1<<55, 0) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := valid()
			test.change(m)
			err := m.Validate()
			if test.ok && err != nil || !test.ok && !errors.Is(err, ErrInvalid) {
				t.Errorf("Validate = %v, want valid: %v", err, test.ok)
			}
			if _, jsonErr := json.Marshal(m); err == nil && jsonErr != nil {
				t.Errorf("a valid message has no JSON: %v", jsonErr)
			}
		})
	}
}

func TestQueryLimit(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]int{
		math.MinInt: DefaultPageSize, -1: DefaultPageSize, 0: DefaultPageSize,
		1: 1, MaxPageSize: MaxPageSize, MaxPageSize + 1: MaxPageSize, math.MaxInt: MaxPageSize,
	} {
		q := Query{PageSize: size}
		if got := q.Limit(); got != want {
			t.Errorf("Limit of %d = %d, want %d", size, got, want)
		}
	}
}

func TestPositionToken(t *testing.T) {
	t.Parallel()
	id := ID("a", "b", "c")
	last := time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
	for _, p := range []Position{
		{ReceivedAt: time.UnixMicro(0).UTC(), Commit: time.UnixMicro(0).UTC()},
		{ReceivedAt: time.UnixMicro(1).UTC(), Commit: time.UnixMicro(2).UTC(), ID: id},
		{ReceivedAt: last, Commit: last, ID: strings.Repeat("ff", 20)},
		{ReceivedAt: time.Date(2026, 11, 23, 7, 8, 9, 123456000, time.UTC), Commit: last, ID: strings.Repeat("00", 20)},
	} {
		token := p.Token()
		got, err := ParseToken(token)
		if err != nil {
			t.Errorf("ParseToken(%q): %v", token, err)
		}
		if diff := cmp.Diff(p, got); diff != "" {
			t.Errorf("token of %v (-want +got):\n%s", p, diff)
		}
		if strings.ContainsAny(token, "+/=\r\n ") {
			t.Errorf("token %q cannot stand in a URL or a Last-Event-ID header as it is", token)
		}
	}
}

// TestIssuedToken reads tokens of earlier releases, which programs have stored.
func TestIssuedToken(t *testing.T) {
	t.Parallel()
	for issued, want := range map[string]Position{
		"AQAGRHoPB6qAAAZEeg8H0ZCsZ42pnm6evxjqzc6Ck4NuMzt0Rw": {
			ReceivedAt: time.UnixMicro(1764140889123456).UTC(), Commit: time.UnixMicro(1764140889133456).UTC(), ID: ID("a", "b", "c"),
		},
		"AQAGX0g1f-pAAAZfSDWBnEeAOHAlvKsoH9_VvVj-M6gV1KTCWQ": {
			ReceivedAt: time.UnixMicro(1793613600123456).UTC(), Commit: time.UnixMicro(1793613600234567).UTC(), ID: ID("pubsub", "projects/p/subscriptions/s", "1"),
		},
		"AQAGX0g1f-pAAAZfSDWBnEc": { // of a page without messages
			ReceivedAt: time.UnixMicro(1793613600123456).UTC(), Commit: time.UnixMicro(1793613600234567).UTC(),
		},
	} {
		got, err := ParseToken(issued)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("ParseToken: %v (-want +got):\n%s", err, diff)
		}
		if want.Token() != issued {
			t.Errorf("Token() = %q, want %q", want.Token(), issued)
		}
	}
}

func TestParseTokenRefuses(t *testing.T) {
	t.Parallel()
	raw := func(version byte, received, commit uint64, id string) string {
		b := []byte{version}
		for _, n := range []uint64{received, commit} {
			for shift := 56; shift >= 0; shift -= 8 {
				b = append(b, byte(n>>shift))
			}
		}
		return base64.RawURLEncoding.EncodeToString(append(b, id...))
	}
	id := strings.Repeat("i", 20)
	good := raw(1, 1, 1, id)
	if _, err := ParseToken(good); err != nil {
		t.Fatalf("the token that the others are made from is refused: %v", err)
	}
	for name, token := range map[string]string{
		"empty":             "",
		"not_base64":        "!!!",
		"padded":            good + "=",
		"standard_alphabet": strings.Repeat("/", len(good)),
		"cut":               good[:len(good)-1],
		"longer":            good + "AA",
		"line_feed_inside":  good[:5] + "\n" + good[5:],
		"trailing_bits":     raw(1, 1, 1, "")[:22] + "B",
		"version_0":         raw(0, 1, 1, id),
		"version_2":         raw(2, 1, 1, id),
		"received_negative": raw(1, 1<<63, 1, id),
		"commit_negative":   raw(1, 1, math.MaxUint64, id),
		"received_too_late": raw(1, 253402300800000000, 1, id),
		"commit_too_late":   raw(1, 1, math.MaxInt64, id),
		"short_id":          raw(1, 1, 1, id[:19]),
		"long_id":           raw(1, 1, 1, id+"i"),
		"huge":              strings.Repeat("A", 1<<20),
		"nul":               "\x00",
	} {
		if p, err := ParseToken(token); !errors.Is(err, ErrPageToken) {
			t.Errorf("%s: ParseToken = %v, %v, want ErrPageToken", name, p, err)
		}
	}
}

func TestErrorStatus(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{ErrInvalid: 400, ErrPageToken: 400, ErrPageFilter: 400, ErrNotFound: 404, ErrUnavailable: 503} {
		if got, detail := problem.Of(fmt.Errorf("cause: %w", err)); got != want || detail == "" {
			t.Errorf("%v: status %d %q, want %d", err, got, detail, want)
		}
	}
}
