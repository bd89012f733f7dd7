package inbox_test

import (
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
)

// TestTokensStayValid holds tokens that were issued in November 2026 to what they
// meant then: page tokens and event IDs are kept by programs. Change no token here.
func TestTokensStayValid(t *testing.T) {
	t.Parallel()
	received := time.Date(2026, 11, 2, 10, 0, 0, 123456000, time.UTC)
	commit := received.Add(111111 * time.Microsecond)
	for name, test := range map[string]struct {
		token string
		want  inbox.Position
	}{
		"after_a_message": {
			"AQAGX0g1f-pAAAZfSDWBnEeAOHAlvKsoH9_VvVj-M6gV1KTCWQ",
			inbox.Position{ReceivedAt: received, Commit: commit, ID: inbox.ID("pubsub", "projects/p/subscriptions/s", "1")},
		},
		"after_a_time": {"AQAGX0g1f-pAAAZfSDWBnEc", inbox.Position{ReceivedAt: received, Commit: commit}},
	} {
		got, err := inbox.ParseToken(test.token)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, test.want)
		}
		if token := test.want.Token(); token != test.token {
			t.Errorf("%s: the position's token is %s now, was %s", name, token, test.token)
		}
	}
}
