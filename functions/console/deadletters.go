package console

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
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
	// Refused says what receive refused in the last hour, and why; empty is nothing.
	Refused string
	// Others are those of other programs, where some wait.
	Others []otherDeadLetters
	// Unread says why those in the inbox cannot be read; empty is that they can.
	Unread string
	// Rows are those in the inbox, and All leads to them in the list.
	Rows    []row
	Columns []string
	All     string
	More    bool
	renewal
}

// otherDeadLetters is a subscription in which dead letters of another program wait.
type otherDeadLetters struct {
	Name, Waiting string
	// List is the command that lists them.
	List command
}

// storedBudget is how long the page waits for the dead letters in the inbox: what Pub/Sub
// has of them is shown without.
const storedBudget = 3 * time.Second

// deadLetters is the page of the dead letters: how many wait, which ones are in the
// inbox, and what to do. It changes nothing.
func (h *handler) deadLetters(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowParameters(r); err != nil {
		return err
	}
	p := deadLettersData{
		principal: principalOf(r), IsLocal: h.isLocal, Subscription: h.dead, Columns: h.columns,
		renewal: renewal{time.Now().UTC(), h.refreshSeconds()},
	}
	if !h.isLocal {
		p.Every = 60 // each time reads a page of Firestore
	}
	if h.dead == "" {
		return render(w, http.StatusOK, deadLettersPage, p)
	}
	if err := h.storedDeadLetters(r, &p); err != nil {
		return err
	}
	if h.reports != nil {
		report, err := h.reports.get(r.Context())
		if err != nil {
			return err
		}
		h.waitingDeadLetters(report, &p)
	}
	var told *delivery.Subscription
	if p.Card != nil {
		told = &p.Card.Subscription
	}
	p.Commands = h.deadLetterCommands(told)
	return render(w, http.StatusOK, deadLettersPage, p)
}

// storedDeadLetters adds the dead letters in the inbox, or why they cannot be read now.
func (h *handler) storedDeadLetters(r *http.Request, p *deadLettersData) error {
	ctx, cancel := context.WithTimeout(r.Context(), storedBudget)
	defer cancel()
	page, err := h.page(ctx, inbox.Query{Subscription: h.dead})
	if status, why := problem.Of(err); err != nil && status == http.StatusServiceUnavailable && r.Context().Err() == nil {
		httpapi.Log(r.Context(), slog.String("unread", err.Error()))
		p.Unread = why
		return nil
	}
	if err != nil {
		return err
	}
	form := rowForm{filter: filter{"subscription": {h.dead}}, columns: h.columns, usual: usualSender(page.Events)}
	for _, e := range page.Events {
		p.Rows = append(p.Rows, form.row(e))
	}
	p.All, p.More = filter{}.at("/", "subscription", h.dead), page.NextPageToken != ""
	return nil
}

// waitingDeadLetters adds what a report says: what waits, and why it was given up.
func (h *handler) waitingDeadLetters(report *delivery.Report, p *deadLettersData) {
	p.At, p.Card = report.At, h.cardOf(report, h.dead)
	for _, r := range h.sayRefused(report) {
		if r.Subscription == "" {
			p.Refused = r.Words
		}
	}
	for _, s := range report.Subscriptions {
		if s.DeadLetters && s.Name != h.dead && s.State == delivery.Waiting && s.Backlog != nil && *s.Backlog > 0 {
			p.Others = append(p.Others, otherDeadLetters{s.Name, delivery.Count(*s.Backlog), command{Text: "pushinbox dead-letters list" + h.whereDead(s.Name)}})
		}
	}
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
