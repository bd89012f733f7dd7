// Package failingstore is a store of messages that is down, and how an endpoint
// that stores what is pushed to it must answer then: never with success, and
// without the cause.
package failingstore

import (
	"context"
	"errors"
	"fmt"

	"example.com/pushinbox/shared/inbox"
)

// Store fails each Put with Err.
type Store struct{ Err error }

func (s Store) Put(context.Context, *inbox.Message) (bool, error) { return false, s.Err }

// Secret is in the text of some errors of Cases, and must be in no answer.
const Secret = "secret"

// Case is an error of a store with the status of the answer.
type Case struct {
	Err    error
	Status int
}

// Cases has an error for each way in which a store fails, by name.
var Cases = map[string]Case{
	"unavailable": {fmt.Errorf("%w: %s", inbox.ErrUnavailable, Secret), 503},
	"deadline":    {context.DeadlineExceeded, 503},
	"invalid":     {inbox.ErrInvalid, 400},
	"unknown":     {errors.New(Secret), 500},
}
