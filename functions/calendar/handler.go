package calendar

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"

	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/pubsubpush"
	"example.com/pushinbox/shared/verify"
)

// Verifier verifies who signed a request.
type Verifier interface {
	IDToken(r *http.Request, p verify.Policy) (verify.Claims, error)
}

// Publisher publishes to the topic whose messages are pushed to /sync.
type Publisher interface {
	Publish(ctx context.Context, messages []*pubsubpb.PubsubMessage) (ids []string, err error)
}

const (
	pathNotifications = "/notifications"
	// attributeCalendar of a message names the calendar to sync.
	attributeCalendar = "calendar"
	// maxPushSize bounds a push to /sync, whose message has no data.
	maxPushSize = 64 << 10
	// notifyBudget bounds the storing of a notification. Google does not document
	// how long it waits for the answer.
	notifyBudget = 8 * time.Second
	// syncBudget ends a sync before the platform ends its request, ten minutes
	// by Terraform's settings.
	syncBudget = 9*time.Minute + 30*time.Second
	// operatorPatience is how long an operator's request waits for a sync that is
	// under way, and pushPatience a push; busyPause is how long they wait between two
	// looks. Most syncs end sooner, and a push that waited is no refused one.
	operatorPatience = 15 * time.Second
	pushPatience     = 2 * time.Second
	busyPause        = 200 * time.Millisecond
)

// New returns the handler of Google's notifications and of what operators do.
func New(cfg Config, v Verifier, e *calendar.Engine, p Publisher, log *slog.Logger) (http.Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if v == nil || e == nil || p == nil || log == nil {
		return nil, errors.New("calendar: a verifier, an engine, a publisher and a logger are required")
	}
	h := &handler{
		policy:  verify.Policy{Audience: cfg.Audience, Emails: cfg.Operators, ShortIssuer: true},
		site:    cfg.SiteVerification,
		verify:  v,
		engine:  e,
		publish: p,
	}
	return httpapi.Handle(log, cfg.Project, h.route), nil
}

type handler struct {
	policy  verify.Policy
	site    string
	verify  Verifier
	engine  *calendar.Engine
	publish Publisher
}

// route is not an http.ServeMux, which redirects unclean paths: for Google a
// redirect is a failed notification.
func (h *handler) route(w http.ResponseWriter, r *http.Request) error {
	switch r.URL.Path {
	case pathNotifications:
		return h.notify(w, r)
	case "/watch":
		return h.operate(w, r, http.MethodPost, h.watch, paramCalendar)
	case "/stop":
		return h.operate(w, r, http.MethodPost, h.stop, paramCalendar)
	case "/renew":
		return h.operate(w, r, http.MethodPost, h.renew)
	case "/sync":
		return h.operate(w, r, http.MethodPost, h.sync, paramCalendar)
	case "/channels":
		return h.operate(w, r, http.MethodGet, h.channels)
	case "/robots.txt":
		// Google reads it before it delivers.
		return text(w, r, "User-agent: *\nDisallow:\n")
	}
	if h.site != "" && r.URL.Path == "/"+h.site {
		return text(w, r, "google-site-verification: "+h.site)
	}
	return problem.New(http.StatusNotFound, "this address does not exist; notifications go to "+pathNotifications)
}

func text(w http.ResponseWriter, r *http.Request, s string) error {
	if err := httpapi.AllowMethods(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := io.WriteString(w, s)
	return err
}

// notify stores that a calendar has changed and requests its sync, which is the
// work of another request: Google expects a quick answer, and after the answer a
// function has no CPU.
func (h *handler) notify(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowMethods(w, r, http.MethodPost); err != nil {
		return err
	}
	// A notification has no body, so none is waited for: nobody has proven anything.
	if r.ContentLength != 0 {
		return problem.New(http.StatusRequestEntityTooLarge, "a notification has no body")
	}
	n, err := notification(r.Header)
	if err != nil {
		return err
	}
	httpapi.Log(r.Context(), slog.String("channel", n.ChannelID))
	ctx, cancel := context.WithTimeout(r.Context(), notifyBudget)
	defer cancel()
	id, changed, err := h.engine.Notify(ctx, n)
	switch {
	case errors.Is(err, calendar.ErrUnknownChannel):
		// A refusal would not stop Google, which ends a channel when it expires.
		httpapi.Outcome(r.Context(), "notification over an unknown channel")
	case err != nil:
		return err
	case !changed:
		httpapi.Outcome(r.Context(), "notification over an expired channel")
	default:
		httpapi.Outcome(r.Context(), "notification")
		if err := h.requestSync(ctx, id); err != nil {
			return err
		}
	}
	if id != "" {
		httpapi.Log(r.Context(), slog.String("calendar", id))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// notification reads Google's headers. Those that it always sends are required, and
// each may occur once.
func notification(h http.Header) (calendar.Notification, error) {
	var bad error
	header := func(name string, required bool) string {
		values := h[http.CanonicalHeaderKey(name)]
		switch {
		case len(values) > 1:
			bad = problem.New(http.StatusBadRequest, "there is more than one header "+name)
		case required && (len(values) == 0 || values[0] == ""):
			bad = problem.New(http.StatusBadRequest, "the header "+name+" is missing, which Google always sends")
		case len(values) == 1:
			return values[0]
		}
		return ""
	}
	n := calendar.Notification{
		ChannelID:  header("X-Goog-Channel-ID", true),
		ResourceID: header("X-Goog-Resource-ID", true),
		Token:      header("X-Goog-Channel-Token", false),
	}
	header("X-Goog-Resource-State", true)
	header("X-Goog-Resource-URI", true)
	number := header("X-Goog-Message-Number", true)
	expiration := header("X-Goog-Channel-Expiration", false)
	if bad != nil {
		return n, bad
	}
	if i, err := strconv.ParseInt(number, 10, 64); err != nil || i < 1 {
		return n, problem.New(http.StatusBadRequest, "the header X-Goog-Message-Number is not a number of at least 1")
	}
	if expiration != "" {
		var err error
		if n.Expiration, err = http.ParseTime(expiration); err != nil {
			return n, problem.New(http.StatusBadRequest, "the header X-Goog-Channel-Expiration is not an HTTP date")
		}
	}
	return n, nil
}

// requestSync publishes the request to sync a calendar.
func (h *handler) requestSync(ctx context.Context, calendarID string) error {
	_, err := h.publish.Publish(ctx, []*pubsubpb.PubsubMessage{{Attributes: map[string]string{attributeCalendar: calendarID}}})
	if errors.Is(err, publisher.ErrNoTopic) {
		// A 404 would be about the calendar, and the end of Google's attempts.
		return &problem.Error{Status: http.StatusServiceUnavailable, Detail: "the topic of CALENDAR_SYNC_TOPIC does not exist in Pub/Sub; create it, or correct the setting", Cause: err}
	}
	return err
}

// paramCalendar is the parameter that names a calendar.
const paramCalendar = "calendar"

// operate runs next if the request is an operator's and has no parameters but these.
func (h *handler) operate(w http.ResponseWriter, r *http.Request, method string, next httpapi.HandlerFunc, parameters ...string) error {
	if err := httpapi.AllowMethods(w, r, method); err != nil {
		return err
	}
	if err := httpapi.CheckSize(r, maxPushSize); err != nil {
		return err
	}
	claims, err := h.verify.IDToken(r, h.policy)
	if err != nil {
		return err
	}
	httpapi.Log(r.Context(), slog.String("principal", claims.Email))
	if err := httpapi.AllowParameters(r, parameters...); err != nil {
		return err
	}
	return next(w, r)
}

// calendarOf returns the calendar that the query names, "" when it names none.
func calendarOf(r *http.Request, required bool) (string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	ids := query[paramCalendar]
	switch {
	case err != nil || len(ids) > 1 || len(ids) == 1 && ids[0] == "" || len(ids) == 0 && required:
		return "", problem.New(http.StatusBadRequest, "name one calendar, as ?calendar=ID")
	case len(ids) == 0:
		return "", nil
	}
	httpapi.Log(r.Context(), slog.String("calendar", ids[0]))
	return ids[0], nil
}

func (h *handler) watch(w http.ResponseWriter, r *http.Request) error {
	id, err := calendarOf(r, true)
	if err != nil {
		return err
	}
	channel, err := h.engine.Watch(r.Context(), id)
	if err != nil {
		return err
	}
	// The first sync reports what the calendar contains already.
	if err := h.requestSync(r.Context(), id); err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, channel)
	return nil
}

func (h *handler) stop(w http.ResponseWriter, r *http.Request) error {
	id, err := calendarOf(r, true)
	if err != nil {
		return err
	}
	err = h.engine.Stop(r.Context(), id)
	for deadline := time.Now().Add(operatorPatience); waitWhileBusy(r.Context(), err, deadline); {
		err = h.engine.Stop(r.Context(), id)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// waitWhileBusy waits if err says that a sync is under way, and reports whether to try
// again.
func waitWhileBusy(ctx context.Context, err error, deadline time.Time) bool {
	return errors.Is(err, calendar.ErrBusy) && time.Now().Before(deadline) && gax.Sleep(ctx, busyPause) == nil
}

func (h *handler) renew(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), syncBudget)
	defer cancel()
	renewed, err := h.engine.Renew(ctx)
	return writeResults(w, "channels", append([]calendar.Channel{}, renewed...), err)
}

// writeResults answers with what was done for several calendars and, as a 503,
// with those that failed.
func writeResults(w http.ResponseWriter, name string, done any, err error) error {
	type failure struct {
		CalendarID string `json:"calendarId"`
		Status     int    `json:"status"`
		Detail     string `json:"detail"`
	}
	if err == nil {
		httpapi.WriteJSON(w, http.StatusOK, map[string]any{name: done})
		return nil
	}
	var failed []failure
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range all.Unwrap() {
			if c := (*calendar.CalendarError)(nil); errors.As(one, &c) {
				status, detail := problem.Of(c.Err)
				failed = append(failed, failure{c.CalendarID, status, detail})
			}
		}
	}
	if len(failed) == 0 {
		return err
	}
	httpapi.SetErrorHeaders(w.Header(), http.StatusServiceUnavailable)
	httpapi.WriteJSON(w, http.StatusServiceUnavailable, map[string]any{name: done, "failed": failed})
	return err
}

func (h *handler) channels(w http.ResponseWriter, r *http.Request) error {
	channels, err := h.engine.Channels(r.Context())
	if err != nil {
		return err
	}
	records, err := h.engine.Calendars(r.Context())
	if err != nil {
		return err
	}
	// A calendar without a channel gets no notifications.
	calendars := make([]watched, 0, len(records))
	for _, c := range records {
		w := watched{CalendarID: c.ID, SyncedAt: c.SyncedAt, SyncOwed: c.Wanted != c.Done, MissingSince: c.MissingSince}
		if c.Gone != "" {
			w.SyncOwed, w.Gone = false, &gone{c.Gone}
		}
		calendars = append(calendars, w)
	}
	httpapi.WriteJSON(w, http.StatusOK, struct {
		Channels  []calendar.Channel `json:"channels"`
		Calendars []watched          `json:"calendars"`
	}{append([]calendar.Channel{}, channels...), calendars})
	return nil
}

// watched is how far a calendar is synced.
type watched struct {
	CalendarID string `json:"calendarId"`
	// SyncedAt is when the last sync ended; absent before the first.
	SyncedAt time.Time `json:"syncedAt,omitzero"`
	// SyncOwed says that a sync was requested and has not ended.
	SyncOwed bool `json:"syncOwed"`
	// MissingSince is since when Google has shown no such calendar; absent while
	// it does.
	MissingSince time.Time `json:"missingSince,omitzero"`
	// Gone is there when the calendar is not tried any more until it is watched
	// again.
	Gone *gone `json:"gone,omitempty"`
}

type gone struct {
	Reason string `json:"reason"`
}

// sync syncs the calendar that the query or Pub/Sub's message names, or all.
func (h *handler) sync(w http.ResponseWriter, r *http.Request) error {
	id, err := calendarOf(r, false)
	if err != nil {
		return err
	}
	body, err := httpapi.ReadBody(w, r, maxPushSize, 3)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), syncBudget)
	defer cancel()
	if id == "" && len(body) > 0 {
		return h.pushed(ctx, w, r, body)
	}
	if id == "" {
		results, err := h.engine.SyncAll(ctx)
		return writeResults(w, "calendars", append([]calendar.Result{}, results...), err)
	}
	result, err := h.engine.Sync(ctx, id)
	for deadline := time.Now().Add(operatorPatience); waitWhileBusy(ctx, err, deadline); {
		result, err = h.engine.SyncRequested(ctx, id)
	}
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, map[string]any{"calendars": []calendar.Result{result}})
	return nil
}

// pushed syncs the calendar that a message from Pub/Sub names. Pub/Sub repeats the
// message until the answer is a success.
func (h *handler) pushed(ctx context.Context, w http.ResponseWriter, r *http.Request, body []byte) error {
	// Operators have tokens of either issuer, Pub/Sub has not.
	pushes := h.policy
	pushes.ShortIssuer = false
	if _, err := h.verify.IDToken(r, pushes); err != nil {
		return err
	}
	m, err := pubsubpush.Decode(r.Header, body)
	if err != nil {
		return err
	}
	id := m.Attributes[attributeCalendar]
	if id == "" {
		return problem.New(http.StatusBadRequest, "the message has no attribute "+attributeCalendar)
	}
	httpapi.Log(ctx, slog.String("calendar", id), slog.String("messageId", m.MessageID))
	result, err := h.engine.CatchUp(ctx, id)
	for deadline := time.Now().Add(pushPatience); waitWhileBusy(ctx, err, deadline); {
		result, err = h.engine.CatchUp(ctx, id)
	}
	if errors.Is(err, calendar.ErrBusy) {
		// Nothing is wrong, so it is no 5xx.
		httpapi.Outcome(ctx, "another sync is under way, Pub/Sub repeats this message")
		return problem.New(http.StatusTooManyRequests, "another sync of this calendar is under way; push again")
	}
	if err != nil {
		return err
	}
	httpapi.Outcome(ctx, "synced")
	httpapi.Log(ctx, slog.Any("result", result))
	w.WriteHeader(http.StatusNoContent)
	return nil
}
