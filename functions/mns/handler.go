package mns

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/mns"
)

// Verifier verifies who signed a push.
type Verifier interface {
	Verify(r *http.Request) (mns.Signer, error)
}

// Store stores a message once.
type Store interface {
	Put(ctx context.Context, m *inbox.Message) (stored bool, err error)
}

// budget is the longest that one request may take, with its body. MNS waits five
// seconds for an answer, and then pushes again.
const budget = 4500 * time.Millisecond

// bodyWeight is the memory that a push takes for each byte of its body: the body,
// the copies of it that are read one way and another, and what is stored.
const bodyWeight = 10

// New returns the endpoint. It answers 201 once the message is durable, or was
// before, and nothing else acknowledges.
func New(cfg Config, v Verifier, s Store, log *slog.Logger) (http.Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if v == nil || s == nil || log == nil {
		return nil, errors.New("mns: a verifier, a store and a logger are required")
	}
	return &handler{
		project: cfg.Project,
		secret:  cfg.Secret,
		policy: mns.Policy{
			Owners: cfg.Owners, Topics: cfg.Topics, Subscriptions: cfg.Subscriptions, Unnamed: cfg.Secret != "",
		},
		encodings: cfg.Body,
		verify:    v,
		store:     s,
		log:       log,
	}, nil
}

type handler struct {
	project   string
	secret    string
	policy    mns.Policy
	encodings mns.Encodings
	verify    Verifier
	store     Store
	log       *slog.Logger
}

// ServeHTTP removes the secret from the URL before the request is logged. The
// signature covers the request target as sent (r.RequestURI), which does not change.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), budget)
	defer cancel()
	path, secretErr := mns.Endpoint(r, h.secret)
	logged := path
	switch {
	case secretErr != nil:
		logged = "/" + mask // a wrong address may have the secret anywhere
	case path != r.URL.EscapedPath():
		logged = strings.TrimSuffix(path, "/") + "/" + mask
	}
	r = r.WithContext(ctx)
	r.URL = &url.URL{Path: logged}
	httpapi.Handle(h.log, h.project, func(w http.ResponseWriter, r *http.Request) error {
		httpapi.Log(r.Context(), access(r))
		return h.push(w, r, path, secretErr)
	}).ServeHTTP(w, r)
}

const mask = "***"

// access returns the fields that only MNS's access log has.
func access(r *http.Request) slog.Attr {
	length := slog.Int64("length", r.ContentLength)
	if r.ContentLength < 0 {
		length = slog.Attr{}
	}
	return slog.Group("access",
		slog.String("protocol", r.Proto),
		length,
		slog.String("host", short(r.Host)),
		slog.String("requestId", short(r.Header.Get("X-Mns-Request-Id"))),
		slog.String("version", short(r.Header.Get("X-Mns-Version"))),
	)
}

// short cuts a string that anyone may send, so that it does not fill the log.
func short(s string) string { return s[:min(len(s), 256)] }

func (h *handler) push(w http.ResponseWriter, r *http.Request, path string, secretErr error) error {
	if err := httpapi.AllowMethods(w, r, http.MethodPost); err != nil {
		return err
	}
	if err := httpapi.CheckSize(r, mns.MaxBodySize); err != nil {
		return err
	}
	if secretErr != nil {
		return secretErr
	}
	// Before the body, which only a sender for whom MNS has signed may keep us
	// waiting for.
	signer, err := h.verify.Verify(r)
	if err != nil {
		return err
	}
	body, err := httpapi.ReadBody(w, r, mns.MaxBodySize, bodyWeight)
	if err != nil {
		return err
	}
	if err := mns.CheckBody(r, body); err != nil {
		return err
	}
	var m *inbox.Message
	n, err := mns.Decode(r.Header, body, h.encodings)
	switch {
	case err == nil:
		if err := h.policy.Check(n); err != nil {
			return err
		}
		m = n.Message(signer, path)
		httpapi.Log(r.Context(), slog.String("principal", n.TopicOwner))
	case h.secret != "" && errors.Is(err, mns.ErrMalformed):
		// MNS would push it four times and drop it. The secret says that it is meant
		// for this inbox; without one it can be any customer's of Alibaba.
		m = mns.Quarantine(signer, path, body)
		httpapi.Log(r.Context(), slog.String("reason", err.Error()))
	default:
		return err
	}
	httpapi.Log(r.Context(), slog.String("messageId", m.MessageID), slog.String("subscription", m.Subscription))
	stored, err := h.store.Put(r.Context(), m)
	if err != nil {
		return err
	}
	outcome := m.Outcome(stored)
	httpapi.Outcome(r.Context(), outcome)
	if n != nil {
		h.record(r.Context(), n, outcome)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// record logs a notification on a line of its own, without its body.
func (h *handler) record(ctx context.Context, n *mns.Notification, outcome string) {
	var published slog.Attr
	if !n.PublishTime.IsZero() {
		published = slog.Time("publishTime", n.PublishTime)
	}
	h.log.LogAttrs(ctx, slog.LevelInfo, "notification "+outcome, slog.Group("notification",
		slog.String("topicOwner", n.TopicOwner),
		slog.String("topicName", n.TopicName),
		slog.String("subscriptionName", n.SubscriptionName),
		slog.String("subscriber", n.Subscriber),
		slog.String("messageId", n.MessageID),
		slog.String("messageMd5", n.MessageMD5),
		slog.String("messageTag", n.MessageTag),
		published,
	))
}
