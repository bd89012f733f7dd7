// Package pushendpoint is the endpoint of a push subscription over HTTP: it verifies
// that Pub/Sub sent the push, decodes it, hands the message to a store and
// acknowledges what that has made durable. The function receive is this with the
// inbox as its store, a user's own function is this with package process.
package pushendpoint

import (
	"cmp"
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

// Verifier returns who signed a request.
type Verifier interface {
	IDToken(r *http.Request, p verify.Policy) (verify.Claims, error)
}

// Store stores a message, once.
type Store interface {
	Put(ctx context.Context, m *inbox.Message) (stored bool, err error)
}

// AnswerTime is the part of the ack deadline for everything but storing. An answer
// after the deadline has no effect: Pub/Sub has begun to push the message again.
const AnswerTime = 2 * time.Second

// bodyWeight is the memory that a push takes for each byte of its body: the body,
// in whose place the data is decoded, and the requests to Firestore.
const bodyWeight = 3

// New returns the push endpoint. It answers 204 once the message is durable,
// or was before, and nothing else acknowledges. A body that the verified sender
// pushed and that cannot be decoded is stored as it came, marked with the reason:
// refused, it would be pushed again and again, slow its subscription down and be
// lost. The path says which form the pushes have, see pubsubpush.FormOf. An
// AckDeadline of 0 is DefaultAckDeadline.
func New(cfg Config, v Verifier, s Store, log *slog.Logger) (http.Handler, error) {
	cfg.AckDeadline = cmp.Or(cfg.AckDeadline, DefaultAckDeadline)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if v == nil || s == nil || log == nil {
		return nil, errors.New("pushendpoint: a verifier, a store and a logger are required")
	}
	h := &handler{
		project: cfg.Project,
		policy:  verify.Policy{Audience: cfg.Audience, Emails: []string{cfg.ServiceAccount}},
		token:   cfg.VerificationToken,
		verify:  v,
		store:   s,
		budget:  cfg.AckDeadline - AnswerTime,
	}
	return httpapi.Handle(log, cfg.Project, h.push), nil
}

type handler struct {
	project string
	policy  verify.Policy
	token   string
	verify  Verifier
	store   Store
	// budget bounds the storing of one message.
	budget time.Duration
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
	httpapi.Log(r.Context(), slog.String("principal", claims.Email))
	if h.token != "" {
		if err := verify.Secret(r, h.token); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.budget)
	defer cancel()
	body, err := httpapi.ReadBody(w, r.WithContext(ctx), pubsubpush.MaxBodySize, bodyWeight)
	if err != nil {
		return err
	}
	m, err := pubsubpush.FormOf(r.URL.Path).Decode(r.Header, body)
	if err != nil {
		m = pubsubpush.Quarantine(r.Header, body, err)
		httpapi.Log(r.Context(), slog.String("reason", string(m.Quarantined)), slog.String("cause", err.Error()))
	}
	m.Verified = inbox.Verified(claims)
	httpapi.Log(r.Context(), slog.String("messageId", m.MessageID), slog.String("subscription", m.Subscription))
	if trace, _, _, ok := httpapi.Traceparent(m.Attributes[inbox.AttributeTraceparent]); ok && h.project != "" {
		httpapi.Log(r.Context(), slog.String("publisherTrace", httpapi.TraceName(h.project, trace)))
	}

	stored, err := h.store.Put(ctx, m)
	if err != nil {
		return err
	}
	httpapi.Outcome(r.Context(), m.Outcome(stored))
	w.WriteHeader(http.StatusNoContent)
	return nil
}
