package console

import (
	"context"
	"iter"

	"example.com/pushinbox/shared/inbox"
)

// withDeadLetters is a store whose messages say of which message they are the dead
// letter, where they came by the subscription that has the dead letters.
type withDeadLetters struct {
	Store
	subscription string
}

func (s withDeadLetters) Peek(ctx context.Context, id string) (*inbox.Message, error) {
	return s.mark(s.Store.Peek(ctx, id))
}

func (s withDeadLetters) Get(ctx context.Context, id string) (*inbox.Message, error) {
	return s.mark(s.Store.Get(ctx, id))
}

func (s withDeadLetters) mark(m *inbox.Message, err error) (*inbox.Message, error) {
	if err == nil {
		m.DeadLetter = inbox.DeadLetterOf(m, s.subscription)
	}
	return m, err
}

func (s withDeadLetters) List(ctx context.Context, q inbox.Query) (*inbox.Page, error) {
	page, err := s.Store.List(ctx, q)
	if err == nil {
		for i := range page.Events {
			m := &page.Events[i].Message
			m.DeadLetter = inbox.DeadLetterOf(m, s.subscription)
		}
	}
	return page, err
}

func (s withDeadLetters) Watch(ctx context.Context, q inbox.Query) iter.Seq2[inbox.Event, error] {
	return func(yield func(inbox.Event, error) bool) {
		for e, err := range s.Store.Watch(ctx, q) {
			if err == nil {
				e.Message.DeadLetter = inbox.DeadLetterOf(&e.Message, s.subscription)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
