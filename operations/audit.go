package operations

import (
	"context"
	"errors"
	"time"
)

// Entry is one line of the log of operations: who does what, to what, and what
// became of it.
type Entry struct {
	Time      time.Time `json:"time"`
	Principal string    `json:"principal"`
	Action    string    `json:"action"`
	Target    string    `json:"target"`
	// Outcome is "begun", and then "done", "interrupted", "refused" or "failed".
	Outcome string `json:"outcome"`
	// Detail says more, and never has a secret or a payload.
	Detail string `json:"detail,omitempty"`
}

// Log keeps entries where they outlive the operator's terminal.
type Log interface {
	Write(ctx context.Context, e Entry) error
}

// Audited acts, and writes a line before and one after. Where the first cannot be
// written nothing is done, unless unlogged returns nil for the reason. The second
// error is one of the last line, which does not change what was done.
func Audited(ctx context.Context, log Log, e Entry, unlogged func(error) error, act func(context.Context) (detail string, err error)) (err, logged error) {
	e.Outcome = "begun"
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	if logged = log.Write(ctx, e); logged != nil {
		if err := unlogged(logged); err != nil {
			return err, nil
		}
	}
	e.Detail, err = act(ctx)
	switch e.Time = time.Now().UTC(); {
	case err == nil:
		e.Outcome = "done"
	case errors.Is(err, ErrRefused):
		e.Outcome = "refused"
	case ctx.Err() != nil:
		e.Outcome = "interrupted"
	default:
		e.Outcome = "failed"
	}
	if err != nil {
		e.Detail = err.Error()
	}
	if logged != nil {
		return err, nil // it was said already
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return err, log.Write(last, e)
}
