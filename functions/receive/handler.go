package receive

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pubsubpush"
	"example.com/pushinbox/shared/verify"
)

// Verifier says who signed a request.
type Verifier interface {
	IDToken(r *http.Request, p verify.Policy) (verify.Claims, error)
}

// Store keeps a message, once.
type Store interface {
	Put(ctx context.Context, m *inbox.Message) (stored bool, err error)
}

// storeBudget bounds the storing of one message. Pub/Sub gives up on a push
// after its ack deadline, ten seconds by default; an answer after that would
// count for nothing.
const storeBudget = 8 * time.Second

// New returns the push endpoint. It answers 204 once the message is durable,
// or was before, and nothing else acknowledges.
func New(cfg Config, v Verifier, s Store, log *slog.Logger) (http.Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if v == nil || s == nil || log == nil {
		return nil, errors.New("receive: a verifier, a store and a logger are required")
	}
	h := &handler{
		policy: verify.Policy{Audience: cfg.Audience, Emails: []string{cfg.ServiceAccount}},
		token:  cfg.VerificationToken,
		verify: v,
		store:  s,
	}
	return httpapi.Handle(log, cfg.Project, h.push), nil
}

type handler struct {
	policy verify.Policy
	token  string
	verify Verifier
	store  Store
}

func (h *handler) push(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowMethods(w, r, http.MethodPost); err != nil {
		return err
	}
	if err := httpapi.CheckSize(r, pubsubpush.MaxBodySize); err != nil {
		return err
	}
	claims, err := h.verify.IDToken(r, h.policy)
	if err != nil {
		return err
	}
	if h.token != "" {
		if err := verify.Secret(r, h.token); err != nil {
			return err
		}
	}
	body, err := httpapi.ReadBody(w, r, pubsubpush.MaxBodySize)
	if err != nil {
		return err
	}
	m, err := pubsubpush.Decode(r.Header, body)
	if err != nil {
		return err
	}
	m.Verified = inbox.Verified(claims)
	httpapi.Log(r.Context(), slog.String("messageId", m.MessageID), slog.String("subscription", m.Subscription))

	ctx, cancel := context.WithTimeout(r.Context(), storeBudget)
	defer cancel()
	stored, err := h.store.Put(ctx, m)
	if err != nil {
		return err
	}
	if stored {
		httpapi.Outcome(r.Context(), "stored")
	} else {
		httpapi.Outcome(r.Context(), "stored before")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
