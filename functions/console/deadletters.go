package console

import (
	"context"
	"iter"
	"net/http"

	"example.com/pushinbox/shared/delivery"
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

// deadLettersData is what the page of the dead letters shows.
type deadLettersData struct {
	principal
	IsLocal bool
	// Subscription is the full name of the one that has them; empty is not known.
	Subscription string
	// Card is what is known of it.
	Card     *card
	Commands []command
	// Rows are those in the inbox, and All leads to them in the list.
	Rows    []row
	Columns []string
	All     string
	More    bool
}

// deadLetters is the page of the dead letters: how many wait, which ones are in the
// inbox, and what to do. It changes nothing.
func (h *handler) deadLetters(w http.ResponseWriter, r *http.Request) error {
	if err := noParameters(r); err != nil {
		return err
	}
	p := deadLettersData{principal: principalOf(r), IsLocal: h.isLocal, Subscription: h.dead, Columns: h.columns}
	if h.dead == "" {
		return render(w, http.StatusOK, deadLettersPage, p)
	}
	ctx, cancel := context.WithTimeout(r.Context(), readBudget)
	defer cancel()
	q := inbox.Query{Subscription: h.dead}
	page, err := h.page(ctx, q)
	if err != nil {
		return err
	}
	form := rowForm{filter: filter{"subscription": {h.dead}}, columns: h.columns, usual: usualSender(page.Events)}
	for _, e := range page.Events {
		p.Rows = append(p.Rows, form.row(e))
	}
	p.All, p.More = filter{}.at("/", "subscription", h.dead), page.NextPageToken != ""
	if h.reports != nil {
		report, err := h.reports.get(ctx)
		if err != nil {
			return err
		}
		p.Card = h.cardOf(report, h.dead)
	}
	var told *delivery.Subscription
	if p.Card != nil {
		told = &p.Card.Subscription
	}
	p.Commands = h.deadLetterCommands(told)
	return render(w, http.StatusOK, deadLettersPage, p)
}

// cardOf returns the card of a subscription, or nil if nothing is known of it.
func (h *handler) cardOf(report *delivery.Report, name string) *card {
	for i, s := range report.Subscriptions {
		if s.Name == name {
			c := h.card(s, i)
			return &c
		}
	}
	return nil
}

// deadLetterCommands are what an operator can do with the dead letters.
func (h *handler) deadLetterCommands(s *delivery.Subscription) []command {
	at := h.where()
	if s != nil && s.State == delivery.Redriving {
		return []command{
			{"pushinbox dead-letters redrive --stop" + at, "ends the redrive; what was not pushed waits on"},
			{"pushinbox dead-letters redrive" + at, "goes on with one that was left, with the present push configuration, and ends it when none waits"},
		}
	}
	return []command{
		{"pushinbox dead-letters list" + at, "shows which messages wait, and leaves them there"},
		{"pushinbox dead-letters redrive" + at, "has Pub/Sub push them to receive until none is left, and nowhere else"},
		{"pushinbox dead-letters purge" + at, "deletes them, after a question and a snapshot"},
	}
}
