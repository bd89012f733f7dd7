package publish

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/verify"
)

// Verifier returns who signed a request.
type Verifier interface {
	IDToken(r *http.Request, p verify.Policy) (verify.Claims, error)
}

// Topic publishes messages, all of them or none, and returns their IDs.
type Topic interface {
	Publish(ctx context.Context, messages []*pubsubpb.PubsubMessage) ([]string, error)
}

// publishBudget bounds one publish request, the client's retries included.
const publishBudget = 20 * time.Second

// New returns the publish endpoint. It answers 200 with the message IDs once
// Pub/Sub has stored the messages.
func New(cfg Config, v Verifier, t Topic, log *slog.Logger) (http.Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if v == nil || t == nil || log == nil {
		return nil, errors.New("publish: a verifier, a topic and a logger are required")
	}
	h := &handler{policy: verify.Policy{Audience: cfg.Audience, Emails: cfg.Callers, ShortIssuer: true}, verify: v, topic: t}
	return httpapi.Handle(log, cfg.Project, h.publish), nil
}

type handler struct {
	policy verify.Policy
	verify Verifier
	topic  Topic
}

func (h *handler) publish(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowMethods(w, r, http.MethodPost); err != nil {
		return err
	}
	if err := httpapi.CheckSize(r, publisher.MaxBodySize); err != nil {
		return err
	}
	claims, err := h.verify.IDToken(r, h.policy)
	if err != nil {
		return err
	}
	httpapi.Log(r.Context(), slog.String("principal", claims.Email))
	body, err := httpapi.ReadBody(w, r, publisher.MaxBodySize, publisher.BodyWeight)
	if err != nil {
		return err
	}
	messages, err := publisher.Parse(r.Header, r.URL.Query(), body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), publishBudget)
	defer cancel()
	ids, err := h.topic.Publish(ctx, messages)
	if err != nil {
		return err
	}
	httpapi.Log(r.Context(), slog.Int("messages", len(ids)))
	httpapi.Outcome(r.Context(), "published")
	httpapi.WriteJSON(w, http.StatusOK, publisher.Reply{MessageIDs: ids})
	return nil
}
