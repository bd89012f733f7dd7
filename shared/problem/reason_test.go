package problem

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
)

func TestReason(t *testing.T) {
	t.Parallel()
	named := Named("audience", http.StatusForbidden, "not for us")
	for want, err := range map[string]error{
		"audience":               fmt.Errorf("refused: %w", errors.Join(named, errors.New("aud is b"))),
		"malformed":              New(http.StatusBadRequest, "no"),
		"too_large":              New(http.StatusRequestEntityTooLarge, "no"),
		"unsupported_media_type": New(http.StatusUnsupportedMediaType, "no"),
		"unavailable":            New(http.StatusServiceUnavailable, "no"),
		"timeout":                &Error{Status: http.StatusServiceUnavailable, Cause: context.DeadlineExceeded},
		"internal":               errors.New("a fault of ours"),
	} {
		if got := Reason(err); got != want {
			t.Errorf("Reason(%v) = %q, want %q", err, got, want)
		}
	}
	if got := Reason(&Error{Status: http.StatusForbidden, Detail: "outside", Cause: named}); got != "audience" {
		t.Errorf("the reason of what is wrapped is %q", got)
	}
}
