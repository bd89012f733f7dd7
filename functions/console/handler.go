package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/verify"
)

// Verifier verifies who signed a request.
type Verifier interface {
	IDToken(r *http.Request, p verify.Policy) (verify.Claims, error)
	IAP(r *http.Request, audience string) (verify.Claims, error)
}

// Store is the read methods of an inbox.
type Store interface {
	Peek(ctx context.Context, id string) (*inbox.Message, error)
	Get(ctx context.Context, id string) (*inbox.Message, error)
	List(ctx context.Context, q inbox.Query) (*inbox.Page, error)
	Watch(ctx context.Context, q inbox.Query) iter.Seq2[inbox.Event, error]
}

// Topic publishes messages, all of them or none, and returns their IDs.
type Topic interface {
	Publish(ctx context.Context, messages []*pubsubpb.PubsubMessage) ([]string, error)
}

const (
	// replayOf is the attribute of a replayed message that names the ID of
	// the message it repeats.
	replayOf = inbox.AttributeReplayOf
	// readBudget and publishBudget bound the time of one request, except for
	// the live tail.
	readBudget    = 30 * time.Second
	publishBudget = 20 * time.Second
	// smallPage is the memory of a page that is listed without waiting for room, in
	// bytes.
	smallPage = 256<<10 - 1
	// What is read takes these multiples of its size in memory until it is
	// answered: a page's messages with what they were decoded from, data with the
	// last part that was read of it, and a replay's data with its request.
	pageWeight, dataWeight, replayWeight = 3, 2, 3
	// maxScans is how many lists that no index answers are read at once.
	maxScans = 2
	// patience, heartbeat and lookEvery are the defaults of the handler's fields.
	patience  = 2500 * time.Millisecond
	heartbeat = 4 * time.Second
	lookEvery = 1500 * time.Millisecond
	// iapHeader carries the assertion of the Identity-Aware Proxy.
	iapHeader = "X-Goog-Iap-Jwt-Assertion"
	// googleAccount is the prefix of an assertion's subject when Google itself
	// signed the visitor in. The e-mail has no such prefix (Google's page
	// "Securing your app with signed headers"), and when another identity
	// provider signed the visitor in, Google has not verified it.
	googleAccount = "accounts.google.com:"
)

// New returns the console. Without a source, which is then nil, it tells nothing of the
// delivery.
func New(cfg Config, v Verifier, s Store, t Topic, d delivery.Source, log *slog.Logger) (http.Handler, error) {
	h, err := newHandler(cfg, v, s, t, d, log)
	if err != nil {
		return nil, err
	}
	return h.routes(log), nil
}

func newHandler(cfg Config, v Verifier, s Store, t Topic, d delivery.Source, log *slog.Logger) (*handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if v == nil || s == nil || t == nil || log == nil {
		return nil, errors.New("console: a verifier, a store, a topic and a logger are required")
	}
	// An empty variable may be read as one empty name.
	columns := slices.DeleteFunc(slices.Clone(cfg.SearchAttributes), func(name string) bool { return name == "" })
	h := &handler{
		policy:      verify.Policy{Audience: cfg.Audience, Emails: cfg.Readers, ShortIssuer: true},
		iapAudience: cfg.IAPAudience,
		publishers:  cfg.Publishers,
		topicName:   cfg.Topic,
		project:     cfg.Project,
		isLocal:     cfg.IsLocal,
		localData:   cfg.LocalData,
		indexed:     inbox.IndexedAttributes(cfg.SearchAttributes),
		columns:     columns[:min(len(columns), maxColumns)],
		scans:       make(chan struct{}, maxScans),
		verify:      v,
		store:       withDeadLetters{s, cfg.DeadLetters},
		topic:       t,
		deliveries:  cfg.Deliveries,
		dead:        cfg.DeadLetters,
		reports:     newReports(d, log),
		patience:    patience,
		heartbeat:   heartbeat,
		lookEvery:   lookEvery,
	}
	if cfg.IsLocal && h.reports != nil {
		h.reports.fresh = 0
	}
	return h, nil
}

// routes returns h as the handler of all paths.
func (h *handler) routes(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range h.patterns() {
		if pattern != "GET /events" && pattern != "GET /rows" && !strings.HasSuffix(pattern, "/data") {
			serve = compressed(serve)
		}
		mux.Handle(pattern, httpapi.HandleWith(log, h.project, h.signedIn(serve), writeError))
	}
	mux.Handle("/", httpapi.HandleWith(log, h.project, h.signedIn(unknown), writeError))
	return httpapi.AtOnce(mux) // it redirects, too, before anything of ours runs
}

// patterns are all routes. Whoever is signed in may use those of GET; the others ask
// for more themselves, see operation.
func (h *handler) patterns() map[string]httpapi.HandlerFunc {
	return map[string]httpapi.HandlerFunc{
		"GET /{$}":                  h.index,
		"GET /assets/{name}":        h.asset,
		"GET /rows":                 h.rows,
		"GET /delivery":             h.delivery,
		"GET /dead-letters":         h.deadLetters,
		"GET /openapi.yaml":         h.openAPI,
		"GET /messages":             h.list,
		"GET /messages:poll":        h.poll,
		"POST /messages":            h.publish,
		"GET /messages/{id}":        h.message,
		"GET /messages/{id}/data":   h.data,
		"GET /messages/{id}/newer":  h.newer,
		"GET /messages/{id}/older":  h.older,
		"POST /messages/{idReplay}": h.replay,
		"GET /events":               h.events,
	}
}

type handler struct {
	policy      verify.Policy
	iapAudience string
	publishers  []string
	topicName   string
	project     string
	isLocal     bool
	localData   string
	// indexed are the attributes that have an index, and columns those of them
	// that have a column in the list.
	indexed, columns []string
	// scans has one element for each list under way that no index answers.
	scans  chan struct{}
	verify Verifier
	store  Store
	topic  Topic
	// deliveries are the full names of the subscriptions that are pushed to receive.
	deliveries []string
	// dead is the full name of the subscription that has the dead letters, if any.
	dead string
	// reports tell how delivery goes; nil is that it is not told.
	reports *reports
	// patience is how long a page for a browser waits for a store that fails: a person is
	// told soon, and can try again. A store that is slow has all of readBudget, since its
	// first answer may take seconds, and a search 10.
	patience time.Duration
	// heartbeat is how often an idle live tail sends a comment, so that proxies
	// keep it open and a broken connection is noticed. The feed says it first.
	heartbeat time.Duration
	// lookEvery is how often a page's feed looks at the delivery.
	lookEvery time.Duration
}

// principal is who sent a request. All of them may read.
type principal struct {
	// Name is the e-mail address, or the subject of an assertion without one.
	Name       string
	MayPublish bool
}

// signedIn lets only principals through, and what is not a link only from the same
// origin: behind IAP the credential is a cookie, which other sites can make a browser
// send.
func (h *handler) signedIn(next httpapi.HandlerFunc) httpapi.HandlerFunc {
	sameOrigin := http.NewCrossOriginProtection()
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := h.authenticate(r)
		if err != nil {
			return err
		}
		httpapi.Log(r.Context(), slog.String("principal", who.Name))
		// What another site lets a browser load tells it something by its size or its
		// time, and a search would tell it what messages say. A link is fine.
		isLink := r.Header.Get("Sec-Fetch-Mode") == "navigate" && slices.Contains([]string{"", "document"}, r.Header.Get("Sec-Fetch-Dest"))
		isLoaded := r.Header.Get("Sec-Fetch-Site") == "cross-site" && !isLink
		if err := sameOrigin.Check(r); err != nil || isLoaded {
			return &problem.Error{Status: http.StatusForbidden, Detail: errOtherSite.Detail, Cause: errors.Join(errOtherSite, err)}
		}
		ctx := context.WithValue(r.Context(), principalKey{}, who)
		if wantsPage(r) {
			ctx = inbox.WithPatience(ctx, h.patience)
		}
		return next(w, r.WithContext(ctx))
	}
}

// errOtherSite is the error of a request that another site made a browser send.
var errOtherSite = problem.New(http.StatusForbidden, "the request comes from another site")

type principalKey struct{}

// principalOf returns who sent r: nobody, where signedIn let nobody through.
func principalOf(r *http.Request) principal {
	who, _ := r.Context().Value(principalKey{}).(principal)
	return who
}

// authenticate returns who may read, and whether they may publish, too.
func (h *handler) authenticate(r *http.Request) (principal, error) {
	if h.policy.Audience == "" || h.iapAudience != "" && len(r.Header[iapHeader]) > 0 {
		claims, err := h.verify.IAP(r, h.iapAudience)
		ofGoogle := strings.HasPrefix(claims.Subject, googleAccount)
		return principal{cmp.Or(claims.Email, claims.Subject), ofGoogle && slices.Contains(h.publishers, claims.Email)}, err
	}
	claims, err := h.verify.IDToken(r, h.policy)
	return principal{claims.Email, len(h.publishers) == 0 || slices.Contains(h.publishers, claims.Email)}, err
}

// operation runs an action other than reading if the principal may do it, and adds
// action, target and outcome to the request's log line.
func operation(r *http.Request, action, target string, run func() error) (err error) {
	outcome := "failed" // also when run panics
	defer func() {
		httpapi.Log(r.Context(), slog.String("action", action), slog.String("target", target), slog.String("outcome", outcome))
	}()
	if who := principalOf(r); who.MayPublish {
		err = run()
	} else {
		err = &problem.Error{Status: http.StatusForbidden, Detail: fmt.Sprintf(
			"you may read, but not publish or replay; ask the owner of this inbox to add %s to CONSOLE_PUBLISHERS (console_publishers in Terraform)", who.Name)}
	}
	if err == nil {
		outcome = "published"
	} else if status, _ := problem.Of(err); status < http.StatusInternalServerError {
		outcome = "refused"
	}
	return err
}

func unknown(w http.ResponseWriter, r *http.Request) error {
	switch r.URL.Path {
	case "/", "/events", "/messages:poll", "/rows", "/delivery", "/dead-letters", "/openapi.yaml":
		return httpapi.AllowMethods(w, r, http.MethodGet)
	case "/messages":
		return httpapi.AllowMethods(w, r, http.MethodGet, http.MethodPost)
	}
	if id, ok := strings.CutPrefix(r.URL.Path, "/messages/"); ok && id != "" {
		base, last, _ := strings.Cut(id, "/")
		switch {
		case base != "" && slices.Contains([]string{"data", newer, older}, last):
			return httpapi.AllowMethods(w, r, http.MethodGet)
		case !strings.Contains(id, "/") && r.Method != http.MethodPost:
			return httpapi.AllowMethods(w, r, http.MethodGet, http.MethodPost)
		}
	}
	return problem.New(http.StatusNotFound, "this address does not exist; try /messages")
}

func (h *handler) list(w http.ResponseWriter, r *http.Request) error {
	q, err := inbox.ParseQuery(r.URL.Query(), time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readBudget)
	defer cancel()
	page, err := h.page(ctx, q)
	if err != nil {
		return err
	}
	return writePage(w, page)
}

// page lists messages, with memory reserved for them. Most pages are small; one that
// is not is listed again, as far as a page goes.
func (h *handler) page(ctx context.Context, q inbox.Query) (*inbox.Page, error) {
	if h.isScan(&q) {
		select {
		case h.scans <- struct{}{}:
			defer func() { <-h.scans }()
		default:
			return nil, errScans
		}
	}
	q.PageBytes = smallPage
	if err := httpapi.Reserve(ctx, smallPage, pageWeight); err != nil {
		return nil, err
	}
	page, err := h.store.List(ctx, q)
	if err != nil || page.NextPageToken == "" || len(page.Events) == q.Limit() || !page.ExaminedUntil.IsZero() {
		return page, err
	}
	if err := httpapi.Reserve(ctx, inbox.MaxPageBytes, pageWeight); err != nil {
		return nil, err
	}
	q.PageBytes = inbox.MaxPageBytes
	return h.store.List(ctx, q)
}

var errScans = problem.New(http.StatusServiceUnavailable, "two searches that no index answers are under way; try again, or leave out text and the attributes that have no index")

// isScan reports whether no index answers q.
func (h *handler) isScan(q *inbox.Query) bool {
	for k := range q.Attributes {
		if !slices.Contains(h.indexed, k) {
			return true
		}
	}
	return q.Text != ""
}

// peek returns the message with this ID, its data cut.
func (h *handler) peek(ctx context.Context, id string) (*inbox.Message, error) {
	m, err := h.store.Peek(ctx, id)
	if errors.Is(err, inbox.ErrNotFound) {
		err = &problem.Error{Status: http.StatusNotFound, Detail: inbox.ErrNotFound.Detail + "; look a provider's message ID up with /messages?messageId=", Cause: err}
	}
	return m, err
}

// get returns the message with this ID, its data whole, with weight bytes of memory
// reserved for each byte of them. check, if any, may refuse the message before.
func (h *handler) get(r *http.Request, id string, weight int64, check func(*inbox.Message) error) (*inbox.Message, error) {
	ctx, cancel := context.WithTimeout(r.Context(), readBudget)
	defer cancel()
	m, err := h.peek(ctx, id)
	if err == nil && check != nil {
		err = check(m)
	}
	if err != nil || !m.Truncated {
		return m, err
	}
	if err := httpapi.Reserve(ctx, int64(m.Size), weight); err != nil {
		return nil, err
	}
	return h.store.Get(ctx, id)
}

func (h *handler) message(w http.ResponseWriter, r *http.Request) error {
	if !wantsPage(r) {
		if err := httpapi.AllowParameters(r); err != nil {
			return err
		}
	}
	m, err := h.get(r, r.PathValue("id"), dataWeight, nil)
	if err != nil {
		return err
	}
	if wantsPage(r) {
		return h.messagePage(w, r, m)
	}
	w.Header().Set("Vary", "Accept")
	return writeMessage(w, m)
}

// data serves the payload as a download of a neutral type: it is untrusted, and a
// browser must not show it as a page.
func (h *handler) data(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowParameters(r); err != nil {
		return err
	}
	m, err := h.get(r, r.PathValue("id"), dataWeight, nil)
	if err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", "application/octet-stream")
	hd.Set("Content-Disposition", `attachment; filename="`+m.ID+`.bin"`)
	hd.Set("Content-Length", strconv.Itoa(len(m.Data)))
	hd.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	hd.Set("X-Content-Type-Options", "nosniff")
	hd.Set("Cache-Control", "no-store")
	// A failed write means that the reader left, which is not an error.
	_, _ = w.Write(m.Data)
	return nil
}

func (h *handler) publish(w http.ResponseWriter, r *http.Request) error {
	return operation(r, "publish", h.topicName, func() error { return h.publishBody(w, r) })
}

func (h *handler) publishBody(w http.ResponseWriter, r *http.Request) error {
	body, err := httpapi.ReadBody(w, r, publisher.MaxBodySize, publisher.BodyWeight)
	if err != nil {
		return err
	}
	if wantsPage(r) {
		return h.publishForm(w, r, body)
	}
	messages, err := publisher.Parse(r.Header, r.URL.RawQuery, body)
	if err != nil {
		return err
	}
	return h.send(w, r, messages)
}

// replay publishes a stored message again, with the attributes that the query sets.
func (h *handler) replay(w http.ResponseWriter, r *http.Request) error {
	id, ok := strings.CutSuffix(r.PathValue("idReplay"), ":replay")
	if !ok {
		w.Header().Set("Allow", "GET")
		return problem.New(http.StatusMethodNotAllowed, "use GET, or POST to /messages/{id}:replay")
	}
	return operation(r, "replay", id, func() error { return h.publishAgain(w, r, id) })
}

// replayAttributes returns the attributes that the query of a replay sets, with
// attribute.KEY. It fails where the query has something else.
func replayAttributes(r *http.Request) (map[string]string, error) {
	set := make(map[string]string)
	query := r.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		key, isAttribute := strings.CutPrefix(name, "attribute.")
		switch {
		case len(query[name]) > 1:
			return nil, problem.New(http.StatusBadRequest, fmt.Sprintf("the parameter %.100q is there %d times; send it once", name, len(query[name])))
		case isAttribute && key != "" && key != replayOf:
			set[key] = query.Get(name)
		case name != "quarantined":
			return nil, problem.New(http.StatusBadRequest, fmt.Sprintf("the parameter %.100q does not exist here; the parameters are: quarantined, attribute.KEY (not %s)", name, replayOf))
		}
	}
	return set, nil
}

func (h *handler) publishAgain(w http.ResponseWriter, r *http.Request, id string) error {
	set, err := replayAttributes(r)
	if err != nil {
		return err
	}
	isNamed := r.URL.Query().Get("quarantined") == "true"
	m, err := h.get(r, id, replayWeight, func(m *inbox.Message) error {
		if m.Quarantined != "" && !isNamed {
			return problem.New(http.StatusConflict, "this message is quarantined, its body could not be decoded; add ?quarantined=true to publish the body, as it came, as the data of a message")
		}
		return nil
	})
	if err != nil {
		return err
	}
	attributes := publisher.Repeatable(m)
	maps.Copy(attributes, set)
	again := []*pubsubpb.PubsubMessage{{Data: m.Data, Attributes: attributes, OrderingKey: m.OrderingKey}}
	attributes[replayOf] = m.ID
	if publisher.Check(again) != nil { // what Pub/Sub has delivered fits without it
		delete(attributes, replayOf)
	}
	if n := publisher.RequestSize(again); n > publisher.MaxRequestSize {
		advice := "get the data at /messages/" + m.ID + "/data"
		for k := range set {
			delete(attributes, k)
		}
		if publisher.RequestSize(again) <= publisher.MaxRequestSize {
			advice = "set fewer attributes"
		}
		return problem.New(http.StatusBadRequest, fmt.Sprintf("this message cannot be published again: with its attributes it has %d bytes, over Pub/Sub's limit of %d for a request; %s", n, publisher.MaxRequestSize, advice))
	}
	return h.send(w, r, again)
}

func (h *handler) send(w http.ResponseWriter, r *http.Request, messages []*pubsubpb.PubsubMessage) error {
	ids, err := h.publishAll(r.Context(), messages)
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, publisher.Reply{MessageIDs: ids})
	return nil
}

func (h *handler) publishAll(ctx context.Context, messages []*pubsubpb.PubsubMessage) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, publishBudget)
	defer cancel()
	return h.topic.Publish(ctx, messages)
}

// events is the live tail for programs, and rows the one that the page follows.
func (h *handler) events(w http.ResponseWriter, r *http.Request) error {
	return h.tail(w, r, jsonEvent, nil)
}

func (h *handler) rows(w http.ResponseWriter, r *http.Request) error {
	v := r.URL.Query()
	f := rowForm{filter: filterOf(v), columns: h.columns, usual: v.Get("usual")}
	var look func() []byte
	if h.reports != nil {
		look = h.troubleEvents()
	}
	return h.tail(w, r, f.event, look, "usual")
}

// tail sends what is stored as it is stored, as server-sent events. Each event's
// ID is the token to resume after it; a first event without data carries the
// token of the start, so that a client whose connection breaks before anything
// arrived misses nothing either. look, if any, returns an event that is not a message,
// or nil, now and then.
func (h *handler) tail(w http.ResponseWriter, r *http.Request, form func(inbox.Event) ([]byte, error), look func() []byte, more ...string) error {
	// The pattern of a GET matches a HEAD too, which would never end.
	if err := httpapi.AllowMethods(w, r, http.MethodGet); err != nil {
		return err
	}
	v := r.URL.Query()
	for _, name := range []string{"order", "pageSize"} {
		if v.Has(name) {
			return problem.New(http.StatusBadRequest, "a feed has no "+name+": it sends each message as it is stored; leave it out")
		}
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		if _, err := inbox.ParseToken(last); err != nil {
			return err
		}
		v.Set("pageToken", last)
	}
	q, err := inbox.ParseFeed(v, time.Now(), more...)
	if err != nil {
		return err
	}
	if q.PageToken == "" {
		page, err := h.store.List(r.Context(), inbox.Query{PageSize: 1})
		if err != nil {
			return err
		}
		now, err := inbox.ParseToken(page.WatchToken)
		if err != nil {
			return err
		}
		q.PageToken = q.Token(now)
	}

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	type result struct {
		event inbox.Event
		err   error
	}
	results := make(chan result)
	go func() {
		defer close(results)
		for event, err := range h.store.Watch(ctx, q) {
			select {
			case results <- result{event, err}:
			case <-ctx.Done():
				return
			}
		}
	}()

	hd := w.Header()
	hd.Set("Content-Type", "text/event-stream")
	hd.Set("Cache-Control", "no-store")
	hd.Set("X-Content-Type-Options", "nosniff")
	hd.Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	// From here on a failed write means that the reader left, which is not an
	// error.
	if _, err := fmt.Fprintf(w, ": heartbeat %v\nretry: 1000\nid: %s\n\n", h.heartbeat, q.PageToken); err != nil {
		return nil
	}
	beat := time.NewTicker(h.heartbeat)
	defer beat.Stop()
	var looks <-chan time.Time
	if look != nil {
		ticker := time.NewTicker(h.lookEvery)
		defer ticker.Stop()
		looks = ticker.C
	}
	for {
		if err := out.Flush(); err != nil {
			return nil
		}
		select {
		case res, ok := <-results:
			switch {
			case !ok, errors.Is(res.err, context.Canceled):
				return nil
			case res.err != nil:
				// The status is sent already; the client reconnects and resumes.
				return res.err
			}
			event, err := form(res.event)
			if err != nil {
				return err
			}
			if _, err := w.Write(event); err != nil {
				return nil
			}
		case <-looks:
			if _, err := w.Write(look()); err != nil {
				return nil
			}
		case <-beat.C:
			if _, err := w.Write([]byte(": still here\n\n")); err != nil {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func jsonEvent(e inbox.Event) ([]byte, error) {
	data, err := json.Marshal(e.Message)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "id: %s\nevent: message\ndata: %s\n\n", e.Token, data), nil
}
