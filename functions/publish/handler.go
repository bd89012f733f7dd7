package publish

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
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

// pathREST is where Pub/Sub's REST API begins. Below it a request is read, and its
// errors are written, as Google does, so that Google's clients show them.
const pathREST = "/v1/"

// New returns the publish endpoint, at / and, for Pub/Sub's REST clients, at
// /v1/projects/PROJECT/topics/TOPIC:publish of the configured topic. It answers 200
// with the message IDs once Pub/Sub has stored the messages.
func New(cfg Config, v Verifier, t Topic, log *slog.Logger) (http.Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if v == nil || t == nil || log == nil {
		return nil, errors.New("publish: a verifier, a topic and a logger are required")
	}
	h := &handler{policy: verify.Policy{Audience: cfg.Audience, Emails: cfg.Callers, ShortIssuer: true}, verify: v, topic: t}
	h.pathOfTopic = pathREST + publisher.FullName(cfg.Project, cfg.Topic) + ":publish"
	return httpapi.HandleWith(log, cfg.Project, h.publish, writeError), nil
}

type handler struct {
	policy verify.Policy
	verify Verifier
	topic  Topic
	// pathOfTopic is the REST method publish of the topic.
	pathOfTopic string
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
	parse := publisher.Parse
	switch path := r.URL.Path; {
	case path == h.pathOfTopic:
		parse = publisher.ParseREST
	case strings.HasPrefix(path, pathREST):
		return problem.New(http.StatusNotFound, "this service publishes to one topic, and this is not its publish method; POST to "+h.pathOfTopic)
	case path != "/" && path != "" && path != "/publish": // the last in a process that serves other functions, too
		return problem.New(http.StatusNotFound, "this address does not exist; POST to / or to "+h.pathOfTopic)
	}
	body, err := httpapi.ReadBody(w, r, publisher.MaxBodySize, publisher.BodyWeight)
	if err != nil {
		return err
	}
	messages, err := parse(r.Header, r.URL.RawQuery, body)
	if err != nil {
		return err
	}
	publisher.SetTrace(messages, r.Header)
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

// writeError answers with err in Google's form below pathREST, and as problem+json
// elsewhere.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	if !strings.HasPrefix(r.URL.Path, pathREST) {
		httpapi.WriteError(w, err)
		return
	}
	var reply struct {
		Error struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
			Status  string `json:"status"`
		} `json:"error"`
	}
	reply.Error.Code, reply.Error.Message = problem.Of(err)
	reply.Error.Status = googleStatus(reply.Error.Code)
	httpapi.SetErrorHeaders(w.Header(), reply.Error.Code)
	httpapi.WriteJSON(w, reply.Error.Code, reply)
}

// googleStatus returns Google's name (google.rpc.Code) of an error with this HTTP
// status.
func googleStatus(code int) string {
	switch code {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusMethodNotAllowed:
		return "UNIMPLEMENTED"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	}
	if code < http.StatusInternalServerError {
		return "INVALID_ARGUMENT"
	}
	return "INTERNAL"
}
