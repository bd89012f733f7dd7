package problem_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"example.com/pushinbox/shared/problem"
)

func TestOf(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk full of secrets")
	sentinel := problem.New(404, "no such message")
	special := &problem.Error{Status: 400, Detail: "the path says another form", Cause: fmt.Errorf("%w: byte 7", sentinel)}
	for name, test := range map[string]struct {
		err    error
		status int
		detail string
	}{
		"its_own":        {sentinel, 404, "no such message"},
		"wrapped":        {fmt.Errorf("reading: %w: %w", sentinel, cause), 404, "no such message"},
		"outermost_wins": {special, 400, "the path says another form"},
		"canceled":       {fmt.Errorf("reading: %w", context.Canceled), 503, "the request took too long; try again"},
		"deadline":       {context.DeadlineExceeded, 503, "the request took too long; try again"},
		"anything_else":  {cause, 500, "an internal error; the log has the cause"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if status, detail := problem.Of(test.err); status != test.status || detail != test.detail {
				t.Errorf("%v is %d %q", test.err, status, detail)
			}
		})
	}
	if !errors.Is(special, sentinel) || special.Error() != "the path says another form: no such message: byte 7" {
		t.Errorf("%v hides its cause", special)
	}
}
