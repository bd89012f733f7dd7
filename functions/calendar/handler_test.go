package calendar

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/option"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/boltstate"
	"example.com/pushinbox/local/calendarfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/pushattack"
)

const (
	audience = "https://calendar-1.europe-west1.run.app"
	operator = "scheduler@p.iam.gserviceaccount.com"
	demo     = "demo@example.com"
)

var quiet = slog.New(slog.DiscardHandler)

func config() Config {
	return Config{
		Project: "p", Address: audience + pathNotifications, Audience: audience, Operators: []string{"other@example.com", operator},
		SyncTopic: "calendar-sync", SiteVerification: "google0123456789abcdef.html",
	}
}

// site is the handler with real verification, a real engine, state and inbox,
// and a stand-in for Google.
type site struct {
	http.Handler
	google *calendarfake.Server
	engine *calendar.Engine
	state  *state
	store  *boltinbox.Inbox
	topic  *topic
	issuer *pushfake.Issuer
	// fault is what Google does wrong; nil is nothing.
	fault func(calendarfake.Call) calendarfake.Fault

	mu       sync.Mutex
	now      time.Time
	calls    []string        // to Google
	notified []*http.Request // what Google sent, so that it can be forged
}

// topic keeps what is published, and fails when it is told to.
type topic struct {
	mu        sync.Mutex
	err       error
	published []string
}

func (t *topic) Publish(_ context.Context, messages []*pubsubpb.PubsubMessage) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return nil, t.err
	}
	for _, m := range messages {
		t.published = append(t.published, m.Attributes[attributeCalendar])
	}
	return make([]string, len(messages)), nil
}

func (t *topic) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.published
	t.published = nil
	return p
}

// state is a State that cannot be reached when it is told so.
type state struct {
	calendar.State
	err error
}

func (s *state) Channel(ctx context.Context, id string) (*calendar.Channel, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.State.Channel(ctx, id)
}

func (s *state) Want(ctx context.Context, id string) error {
	if s.err != nil {
		return s.err
	}
	return s.State.Want(ctx, id)
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	dir := tb.TempDir()
	s := &site{topic: &topic{}, now: time.Now().Truncate(time.Second)}
	clock := func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.now
	}
	s.google = calendarfake.New(&calendarfake.Options{
		Now: clock, Transport: s, ChannelTTL: 24 * time.Hour,
		Fault: func(c calendarfake.Call) calendarfake.Fault {
			s.mu.Lock()
			s.calls = append(s.calls, c.Method)
			fault := s.fault
			s.mu.Unlock()
			if fault == nil {
				return calendarfake.Fault{}
			}
			return fault(c)
		},
	})
	s.google.AddCalendar(demo)
	s.google.AddCalendar("second@example.com")
	api := httptest.NewServer(s.google)
	tb.Cleanup(api.Close)
	service, err := gcal.NewService(context.Background(), option.WithEndpoint(api.URL), option.WithHTTPClient(api.Client()))
	if err != nil {
		tb.Fatal(err)
	}
	kept, err := boltstate.Open(filepath.Join(dir, "calendar.db"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = kept.Close() })
	s.state = &state{State: kept}
	s.store, err = boltinbox.Open(filepath.Join(dir, "inbox.db"), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.store.Close() })
	s.engine, err = calendar.New(calendar.Options{
		Service: service, State: s.state, Inbox: s.store, Address: config().Address, Now: clock,
		Sleep: func(context.Context, time.Duration) error { return nil }, Log: quiet,
	})
	if err != nil {
		tb.Fatal(err)
	}
	var verifier *verify.Verifier
	s.issuer, verifier = google.Issuer(tb)
	if s.Handler, err = New(config(), verifier, s.engine, s.topic, quiet); err != nil {
		tb.Fatal(err)
	}
	return s
}

// RoundTrip carries a notification from Google to the function.
func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.notified = append(s.notified, r)
	s.mu.Unlock()
	return s.serve(r.Clone(r.Context())).Result(), nil
}

func (s *site) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// operate sends an operator's request.
func (s *site) operate(tb testing.TB, method, target, body string) *httptest.ResponseRecorder {
	tb.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+s.token(tb, nil))
	return s.serve(r)
}

func (s *site) token(tb testing.TB, claims map[string]any) string {
	tb.Helper()
	all := map[string]any{"aud": audience, "email": operator}
	for name, value := range claims {
		all[name] = value
	}
	token, err := s.issuer.IDToken(all)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// watch watches a calendar and lets Google send its sync notification, which it
// returns.
func (s *site) watch(tb testing.TB, id string) *http.Request {
	tb.Helper()
	if w := s.operate(tb, http.MethodPost, "/watch?calendar="+url.QueryEscape(id), ""); w.Code != http.StatusOK {
		tb.Fatalf("watch answered %d %s", w.Code, w.Body)
	}
	s.google.Deliver(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notified[len(s.notified)-1]
}

func (s *site) add(tb testing.TB, summary string) string {
	tb.Helper()
	e, err := s.google.Insert(demo, calendarfake.Event{
		"summary": summary, "start": map[string]any{"date": "2026-12-01"}, "end": map[string]any{"date": "2026-12-02"},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return e["id"].(string)
}

// effects is all that a request could have changed.
type effects struct {
	Calendars []calendar.Calendar
	Channels  []calendar.Channel
	Messages  []inbox.Message
	Published []string
	Calls     []string
}

func (s *site) effects(tb testing.TB) effects {
	tb.Helper()
	var e effects
	var err error
	if e.Calendars, err = s.engine.Calendars(context.Background()); err != nil {
		tb.Fatal(err)
	}
	if e.Channels, err = s.engine.Channels(context.Background()); err != nil {
		tb.Fatal(err)
	}
	page, err := s.store.List(context.Background(), inbox.Query{})
	if err != nil {
		tb.Fatal(err)
	}
	e.Messages = page.Messages()
	s.topic.mu.Lock()
	e.Published = slices.Clone(s.topic.published)
	s.topic.mu.Unlock()
	s.mu.Lock()
	e.Calls = slices.Clone(s.calls)
	s.mu.Unlock()
	return e
}

// forge copies a genuine notification.
func forge(genuine *http.Request) *http.Request {
	r := httptest.NewRequest(http.MethodPost, pathNotifications, http.NoBody)
	r.Header = genuine.Header.Clone()
	return r
}

// TestForgedNotifications changes one thing in a genuine notification at a
// time. None has an effect, whatever its status is.
func TestForgedNotifications(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	expired := s.watch(t, "second@example.com")
	s.mu.Lock()
	s.now = s.now.Add(24 * time.Hour)
	s.mu.Unlock()
	genuine := s.watch(t, demo)
	if genuine.Header.Get("X-Goog-Channel-Token") == "" {
		t.Fatal("the channel has no token")
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	type test struct {
		change func(*http.Request)
		status int
	}
	tests := map[string]test{
		"unknown_channel":         {set("X-Goog-Channel-ID", "123e4567-e89b-42d3-a456-426614174000"), 204},
		"channel_of_another_kind": {set("X-Goog-Channel-ID", "channel/../of another"), 204},
		"long_channel":            {set("X-Goog-Channel-ID", strings.Repeat("a", 100_000)), 204},
		"expired_channel":         {func(r *http.Request) { r.Header = expired.Header.Clone() }, 204},
		"wrong_token":             {set("X-Goog-Channel-Token", "guess"), 403},
		"long_token":              {set("X-Goog-Channel-Token", strings.Repeat("a", 100_000)), 403},
		"token_of_another":        {set("X-Goog-Channel-Token", expired.Header.Get("X-Goog-Channel-Token")), 403},
		"token_cut":               {set("X-Goog-Channel-Token", genuine.Header.Get("X-Goog-Channel-Token")[1:]), 403},
		"no_token":                {func(r *http.Request) { r.Header.Del("X-Goog-Channel-Token") }, 403},
		"wrong_resource":          {set("X-Goog-Resource-ID", "guess"), 403},
		"resource_of_another":     {set("X-Goog-Resource-ID", expired.Header.Get("X-Goog-Resource-ID")), 403},
		"channel_of_another":      {set("X-Goog-Channel-ID", expired.Header.Get("X-Goog-Channel-ID")), 403},
		"number_zero":             {set("X-Goog-Message-Number", "0"), 400},
		"number_negative":         {set("X-Goog-Message-Number", "-1"), 400},
		"number_text":             {set("X-Goog-Message-Number", "one"), 400},
		"number_huge":             {set("X-Goog-Message-Number", "9999999999999999999999"), 400},
		"expiration_no_date":      {set("X-Goog-Channel-Expiration", "tomorrow"), 400},
		"no_headers":              {func(r *http.Request) { r.Header = http.Header{} }, 400},
		"pubsub_push":             {func(r *http.Request) { r.Header = http.Header{"X-Goog-Pubsub-Message-Id": {"1"}} }, 400},
		"body": {func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2
		}, 413},
		"body_of_no_length": {func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), -1
		}, 413},
		"other_path": {func(r *http.Request) { r.URL.Path = "/notifications/" }, 404},
	}
	for _, name := range []string{
		"X-Goog-Channel-ID", "X-Goog-Message-Number", "X-Goog-Resource-ID", "X-Goog-Resource-State", "X-Goog-Resource-URI",
	} {
		tests["without_"+name] = test{func(r *http.Request) { r.Header.Del(name) }, 400}
		tests["empty_"+name] = test{set(name, ""), 400}
		tests["twice_"+name] = test{func(r *http.Request) { r.Header.Add(name, r.Header.Get(name)) }, 400}
	}
	tests["twice_X-Goog-Channel-Token"] = test{func(r *http.Request) { r.Header.Add("X-Goog-Channel-Token", "guess") }, 400}
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		tests["method_"+method] = test{func(r *http.Request) { r.Method = method }, 405}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := s.effects(t)
			r := forge(genuine)
			test.change(r)
			w := s.serve(r)
			if w.Code != test.status {
				t.Errorf("answered %d, want %d: %s", w.Code, test.status, w.Body)
			}
			if diff := cmp.Diff(before, s.effects(t)); diff != "" {
				t.Errorf("it had an effect:\n%s", diff)
			}
			if token := genuine.Header.Get("X-Goog-Channel-Token"); strings.Contains(w.Body.String(), token) {
				t.Errorf("the token is in the answer: %s", w.Body)
			}
		})
	}
	before := s.effects(t)
	if w := s.serve(forge(genuine)); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
		t.Errorf("the genuine one was answered %d %s", w.Code, w.Body)
	}
	after := s.effects(t)
	if cmp.Equal(before.Calendars, after.Calendars) || len(after.Published) != len(before.Published)+1 {
		t.Errorf("the genuine one had no effect")
	}
	if !slices.Equal(before.Calls, after.Calls) {
		t.Errorf("it led to calls of Google: %v", after.Calls)
	}
}

// TestNotificationIsKeptOrRefused: what could not be kept, or of which nobody
// would hear, is answered 503, so that Google sends it again.
func TestNotificationIsKeptOrRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	genuine := s.watch(t, demo)
	s.topic.take()
	s.state.err = problem.New(http.StatusServiceUnavailable, "the state is down; try again")
	if w := s.serve(forge(genuine)); w.Code != http.StatusServiceUnavailable || len(s.topic.take()) != 0 {
		t.Errorf("with the state down it answered %d %s", w.Code, w.Body)
	}
	s.state.err = nil
	s.topic.err = publisher.ErrUnavailable
	if w := s.serve(forge(genuine)); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("with the topic down it answered %d %s", w.Code, w.Body)
	}
	s.topic.err = nil
	if w := s.serve(forge(genuine)); w.Code != http.StatusNoContent {
		t.Errorf("when all is well it answered %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff([]string{demo}, s.topic.take()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Google may send the sync notification before it answers the watch.
func TestNotificationBeforeTheWatchIsAnswered(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fault = func(calendarfake.Call) calendarfake.Fault { return calendarfake.Fault{SyncFirst: true} }
	if w := s.operate(t, http.MethodPost, "/watch?calendar="+demo, ""); w.Code != http.StatusOK {
		t.Fatalf("watch answered %d %s", w.Code, w.Body)
	}
	if len(s.notified) != 1 {
		t.Fatalf("%d notifications", len(s.notified))
	}
	channels := func() (list struct {
		Channels  []calendar.Channel
		Calendars []watched
	}) {
		t.Helper()
		w := s.operate(t, http.MethodGet, "/channels", "")
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Channels) != 1 || len(list.Calendars) != 1 {
			t.Fatalf("channels: %s %v", w.Body, err)
		}
		return list
	}
	if list := channels(); !list.Channels[0].Notified || list.Channels[0].ResourceID == "" || !list.Calendars[0].SyncOwed || !list.Calendars[0].SyncedAt.IsZero() {
		t.Errorf("before the first sync: %+v", list)
	}
	if w := s.operate(t, http.MethodPost, "/sync", ""); w.Code != http.StatusOK {
		t.Fatalf("sync answered %d %s", w.Code, w.Body)
	}
	if list := channels(); list.Calendars[0].CalendarID != demo || list.Calendars[0].SyncOwed || list.Calendars[0].SyncedAt.IsZero() {
		t.Errorf("after the first sync: %+v", list)
	}
}

// One calendar that fails is named, beside what was done for the others.
func TestSomeCalendarsFail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.watch(t, demo)
	s.watch(t, "second@example.com")
	s.fault = func(c calendarfake.Call) (f calendarfake.Fault) {
		if c.CalendarID == "second@example.com" {
			f = calendarfake.Fault{Status: http.StatusNotFound, Reason: "notFound"}
		}
		return f
	}
	w := s.operate(t, http.MethodPost, "/sync", "")
	var answer struct {
		Calendars []calendar.Result
		Failed    []struct {
			CalendarID, Detail string
			Status             int
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusServiceUnavailable {
		t.Fatalf("answered %d %s", w.Code, w.Body)
	}
	if len(answer.Calendars) != 1 || answer.Calendars[0].CalendarID != demo || len(answer.Failed) != 1 ||
		answer.Failed[0].CalendarID != "second@example.com" || answer.Failed[0].Status != 404 || !strings.Contains(answer.Failed[0].Detail, "share") {
		t.Errorf("answered %s", w.Body)
	}
}

// The first sync does not depend on Google's first notification, and an answer
// of 200 means that it will come.
func TestWatchAsksForTheFirstSync(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.topic.err = publisher.ErrUnavailable
	if w := s.operate(t, http.MethodPost, "/watch?calendar="+demo, ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("with the topic down it answered %d %s", w.Code, w.Body)
	}
	s.topic.err = nil
	if w := s.operate(t, http.MethodPost, "/watch?calendar="+demo, ""); w.Code != http.StatusOK {
		t.Errorf("when all is well it answered %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff([]string{demo}, s.topic.take()); diff != "" {
		t.Errorf("syncs asked for (-want +got)\n%s", diff)
	}
	if channels := s.google.Channels(demo); len(channels) != 1 {
		t.Errorf("two tries opened the channels %+v", channels)
	}
}

// push is a message as Pub/Sub pushes it.
func push(attributes map[string]string) string {
	b, err := json.Marshal(map[string]any{
		"message":      map[string]any{"attributes": attributes, "messageId": "1", "publishTime": "2026-11-23T09:00:00Z"},
		"subscription": "projects/p/subscriptions/calendar-sync",
	})
	if err != nil {
		panic(err) // strings always have a JSON form
	}
	return string(b)
}

// changes returns what the inbox has, oldest first.
func (s *site) changes(tb testing.TB) []string {
	tb.Helper()
	page, err := s.store.List(context.Background(), inbox.Query{Source: inbox.SourceCalendar, Subscription: demo})
	if err != nil {
		tb.Fatal(err)
	}
	var changes []string
	for _, m := range slices.Backward(page.Messages()) {
		var data struct {
			Change        string
			Event, Before map[string]any
			Fields        []string
		}
		if err := json.Unmarshal(m.Data, &data); err != nil {
			tb.Fatal(err)
		}
		changes = append(changes, fmt.Sprintf("%s %v %v %v", data.Change, data.Before["summary"], data.Event["summary"], data.Fields))
	}
	return changes
}

// TestWatchEditSync goes the whole way, Pub/Sub's part played by the test.
func TestWatchEditSync(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := s.add(t, "Lunch")
	s.watch(t, demo)
	syncAsked := func() {
		t.Helper()
		asked := s.topic.take()
		if len(asked) == 0 {
			t.Fatal("no sync was asked for")
		}
		for _, id := range asked {
			if w := s.operate(t, http.MethodPost, "/sync", push(map[string]string{attributeCalendar: id})); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
				t.Fatalf("sync answered %d %s", w.Code, w.Body)
			}
		}
	}
	syncAsked()
	if _, err := s.google.Patch(demo, id, calendarfake.Event{"summary": "Late lunch"}); err != nil {
		t.Fatal(err)
	}
	s.google.Deliver(context.Background())
	syncAsked()
	if err := s.google.Delete(demo, id); err != nil {
		t.Fatal(err)
	}
	s.google.Deliver(context.Background())
	syncAsked()
	got := s.changes(t)
	if len(got) != 3 || got[0] != "added <nil> Lunch []" || got[1] != "updated Lunch Late lunch [summary]" || !strings.HasPrefix(got[2], "deleted Late lunch ") {
		t.Errorf("the inbox has %q", got)
	}

	w := s.operate(t, http.MethodPost, "/stop?calendar="+demo, "")
	if w.Code != http.StatusNoContent || len(s.google.Channels(demo)) != 0 {
		t.Errorf("stop answered %d %s, channels %v", w.Code, w.Body, s.google.Channels(demo))
	}
	// What Pub/Sub still pushes for it ends there.
	if w := s.operate(t, http.MethodPost, "/sync", push(map[string]string{attributeCalendar: demo})); w.Code != http.StatusNoContent {
		t.Errorf("a sync of a stopped calendar answered %d %s", w.Code, w.Body)
	}
}

func TestOperatorsAnswers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.watch(t, demo)
	second := url.QueryEscape("second@example.com")
	for _, test := range []struct {
		name, method, target, body string
		status                     int
		want                       string
	}{
		{"watch_again", "POST", "/watch?calendar=" + demo, "", 200, `"calendarId":"demo@example.com"`},
		{"watch_unknown", "POST", "/watch?calendar=nobody@example.com", "", 404, "share"},
		{"watch_none", "POST", "/watch", "", 400, "?calendar=ID"},
		{"watch_empty", "POST", "/watch?calendar=", "", 400, "?calendar=ID"},
		{"watch_mistyped", "POST", "/watch?calender=" + demo, "", 400, `"calender\" does not exist here; the parameters are: calendar`},
		{"sync_mistyped", "POST", "/sync?calender=" + demo, "", 400, "the parameters are: calendar"},
		{"renew_one", "POST", "/renew?calendar=" + demo, "", 400, "the parameters are: none"},
		{"watch_two", "POST", "/watch?calendar=a&calendar=b", "", 400, "?calendar=ID"},
		{"watch_bad_query", "POST", "/watch?calendar=%zz", "", 400, "?calendar=ID"},
		{"watch_primary", "POST", "/watch?calendar=primary", "", 400, "calendar ID"},
		{"watch_get", "GET", "/watch?calendar=" + demo, "", 405, ""},
		{"stop_none", "POST", "/stop", "", 400, "?calendar=ID"},
		{"stop_not_watched", "POST", "/stop?calendar=" + second, "", 404, "not watched"},
		{"renew", "POST", "/renew", "", 200, `{"channels":[]}`},
		{"renew_get", "GET", "/renew", "", 405, ""},
		{"sync_one", "POST", "/sync?calendar=" + demo, "", 200, `{"calendars":[{"calendarId":"demo@example.com","runs":1`},
		{"sync_not_watched", "POST", "/sync?calendar=" + second, "", 404, "not watched"},
		{"sync_all", "POST", "/sync", "", 200, `{"calendars":[{"calendarId":"demo@example.com"`},
		{"sync_two", "POST", "/sync?calendar=a&calendar=b", "", 400, "?calendar=ID"},
		{"sync_push", "POST", "/sync", push(map[string]string{attributeCalendar: demo}), 204, ""},
		{"sync_push_not_watched", "POST", "/sync", push(map[string]string{attributeCalendar: "nobody"}), 204, ""},
		{"sync_push_without_calendar", "POST", "/sync", push(nil), 400, "attribute"},
		{"sync_push_malformed", "POST", "/sync", `{"message":`, 400, ""},
		{"sync_push_too_large", "POST", "/sync", push(map[string]string{attributeCalendar: strings.Repeat("a", maxPushSize)}), 413, ""},
		{"sync_get", "GET", "/sync", "", 405, ""},
		{"channels", "GET", "/channels", "", 200, `{"channels":[{"id":`},
		{"channels_post", "POST", "/channels", "", 405, ""},
		{"nothing", "GET", "/", "", 404, "/notifications"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := s.operate(t, test.method, test.target, test.body)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Errorf("answered %d %s, want %d with %q", w.Code, w.Body, test.status, test.want)
			}
		})
	}
	token := s.notified[0].Header.Get("X-Goog-Channel-Token")
	if w := s.operate(t, http.MethodGet, "/channels", ""); strings.Contains(w.Body.String(), token) || strings.Contains(strings.ToLower(w.Body.String()), "token") {
		t.Errorf("the channels tell of tokens: %s", w.Body)
	}
}

// TestStrangersCannotOperate sends what proves nothing, or another's, to every
// route but the public ones.
func TestStrangersCannotOperate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.watch(t, demo)
	before := s.effects(t)
	target := pushattack.Target{URL: "http://calendar/sync", Keys: google.Keys(t, s.issuer), Mint: func(claims map[string]any) (string, error) {
		return s.token(t, claims), nil
	}}
	cases, err := pushattack.Cases(target)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, c := range cases {
		if c.Status != http.StatusUnauthorized && c.Status != http.StatusForbidden || c.Request.URL.RawQuery != "" {
			continue // about the body or the ?token= of Pub/Sub's pushes
		}
		tried++
		t.Run(c.Name, func(t *testing.T) {
			if w := s.serve(c.Request); w.Code != c.Status {
				t.Errorf("answered %d, want %d: %s", w.Code, c.Status, w.Body)
			}
		})
	}
	if tried < 20 {
		t.Errorf("only %d cases were tried", tried)
	}
	for _, path := range []string{"/watch?calendar=second@example.com", "/stop?calendar=" + demo, "/renew", "/sync", "/sync?calendar=" + demo, "/channels"} {
		method := http.MethodPost
		if path == "/channels" {
			method = http.MethodGet
		}
		for name, test := range map[string]struct {
			token  string
			status int
		}{
			"no_token":      {"", 401},
			"other_account": {s.token(t, map[string]any{"email": "stranger@example.com"}), 403},
			"other_service": {s.token(t, map[string]any{"aud": "https://receive-1.europe-west1.run.app"}), 403},
		} {
			t.Run(name+path, func(t *testing.T) {
				r := httptest.NewRequest(method, path, http.NoBody)
				// A genuine notification's headers open nothing either.
				r.Header = s.notified[0].Header.Clone()
				if test.token != "" {
					r.Header.Set("Authorization", "Bearer "+test.token)
				}
				if w := s.serve(r); w.Code != test.status {
					t.Errorf("answered %d, want %d: %s", w.Code, test.status, w.Body)
				}
			})
		}
	}
	if diff := cmp.Diff(before, s.effects(t)); diff != "" {
		t.Errorf("strangers had an effect:\n%s", diff)
	}
}

// A calendar that Google has not shown for a day fails no more calls: it is listed
// with its reason, told once, and not tried until it is watched again.
func TestGoneCalendar(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.watch(t, demo)
	s.watch(t, "second@example.com")
	type answer struct {
		Calendars []struct {
			CalendarID   string
			SyncOwed     bool
			MissingSince time.Time
			Gone         *struct{ Reason string }
		}
	}
	later := func(d time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now = s.now.Add(d)
	}
	sync := func(target string, status int) {
		t.Helper()
		if w := s.operate(t, http.MethodPost, target, ""); w.Code != status {
			t.Errorf("%s answered %d %s, want %d", target, w.Code, w.Body, status)
		}
	}
	show := func(fault calendarfake.Fault) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fault = func(c calendarfake.Call) calendarfake.Fault {
			if c.CalendarID == demo {
				return fault
			}
			return calendarfake.Fault{}
		}
	}
	list := func() (a answer) {
		t.Helper()
		w := s.operate(t, http.MethodGet, "/channels", "")
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusOK || len(a.Calendars) != 2 {
			t.Fatalf("answered %d %s", w.Code, w.Body)
		}
		return a
	}
	since := s.now
	show(calendarfake.Fault{Status: 404, Reason: "notFound"})
	sync("/sync", 503)
	if c := list().Calendars[0]; c.Gone != nil || !c.MissingSince.Equal(since) {
		t.Errorf("listed as %+v", c)
	}
	later(24 * time.Hour)
	sync("/sync", 200)
	for range 3 {
		later(30 * time.Minute)
		sync("/sync", 200)
		sync("/renew", 200)
		sync("/sync?calendar="+url.QueryEscape(demo), 410)
		push := httptest.NewRequest(http.MethodPost, "/sync", strings.NewReader(`{"message":{"attributes":{"calendar":"`+demo+`"},"messageId":"1"},"subscription":"projects/p/subscriptions/s"}`))
		push.Header.Set("Authorization", "Bearer "+s.token(t, nil))
		if w := s.serve(push); w.Code != http.StatusNoContent {
			t.Errorf("a push answered %d %s", w.Code, w.Body)
		}
	}
	if c := list().Calendars[0]; c.Gone == nil || !strings.Contains(c.Gone.Reason, "share it") || c.SyncOwed || !c.MissingSince.Equal(since) {
		t.Errorf("listed as %+v", c)
	}
	if c := list().Calendars[1]; c.Gone != nil || !c.MissingSince.IsZero() {
		t.Errorf("the other is listed as %+v", c)
	}
	told := 0
	for _, m := range s.effects(t).Messages {
		if m.Attributes["change"] == calendar.Gone {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	sync("/watch?calendar="+url.QueryEscape(demo), 404)
	show(calendarfake.Fault{})
	sync("/watch?calendar="+url.QueryEscape(demo), 200)
	sync("/sync?calendar="+url.QueryEscape(demo), 200)
	if c := list().Calendars[0]; c.Gone != nil || !c.MissingSince.IsZero() {
		t.Errorf("listed as %+v", c)
	}
}

// Without its topic no sync can be requested, and Google must go on trying.
func TestMissingTopicIs503(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	genuine := s.watch(t, demo)
	s.topic.err = fmt.Errorf("%w: secret", publisher.ErrNoTopic)
	for name, w := range map[string]*httptest.ResponseRecorder{
		"notification": s.serve(forge(genuine)),
		"watch":        s.operate(t, http.MethodPost, "/watch?calendar="+url.QueryEscape(demo), ""),
	} {
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "CALENDAR_SYNC_TOPIC does not exist") || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s answered %d %s", name, w.Code, w.Body)
		}
	}
}

// People's tokens may have Google's short issuer, pushes may not.
func TestIssuer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.watch(t, demo)
	push := `{"message":{"attributes":{"calendar":"` + demo + `"},"messageId":"1"},"subscription":"projects/p/subscriptions/s"}`
	for name, test := range map[string]struct {
		method, target, body, issuer string
		status                       int
	}{
		"list":             {"GET", "/channels", "", "accounts.google.com", 200},
		"sync_one":         {"POST", "/sync?calendar=" + url.QueryEscape(demo), "", "accounts.google.com", 200},
		"sync_all":         {"POST", "/sync", "", "accounts.google.com", 200},
		"push":             {"POST", "/sync", push, "https://accounts.google.com", 204},
		"push_with_short":  {"POST", "/sync", push, "accounts.google.com", 403},
		"list_with_a_fake": {"GET", "/channels", "", "accounts.google.co", 403},
	} {
		r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
		r.Header.Set("Authorization", "Bearer "+s.token(t, map[string]any{"iss": test.issuer}))
		if w := s.serve(r); w.Code != test.status {
			t.Errorf("%s answered %d %s, want %d", name, w.Code, w.Body, test.status)
		}
	}
}

func TestPublicFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, test := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/google0123456789abcdef.html", 200, "google-site-verification: google0123456789abcdef.html"},
		{"GET", "/google0123456789abcdee.html", 404, ""},
		{"POST", "/google0123456789abcdef.html", 405, ""},
		{"GET", "/robots.txt", 200, "User-agent: *\nDisallow:\n"},
		{"HEAD", "/robots.txt", 200, ""},
		{"POST", "/robots.txt", 405, ""},
		{"GET", "//notifications", 404, ""},
		{"POST", "/a/../notifications", 404, ""},
	} {
		r := httptest.NewRequest(test.method, "/", http.NoBody)
		r.URL.Path = test.path
		w := s.serve(r)
		if w.Code != test.status || test.status == 200 && test.method == "GET" && w.Body.String() != test.want {
			t.Errorf("%s %s answered %d %q", test.method, test.path, w.Code, w.Body)
		}
	}
}

// holdListing holds up the next list that Google is asked for: listing is closed when it
// is asked, and it answers when goOn is closed.
func (s *site) holdListing() (listing, goOn chan struct{}) {
	listing, goOn = make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = func(c calendarfake.Call) calendarfake.Fault {
		if c.Method == "events.list" {
			once.Do(func() { close(listing); <-goOn })
		}
		return calendarfake.Fault{}
	}
	return listing, goOn
}

// TestNotificationDoesNotWaitForASync holds a sync up in Google's answer. A
// notification is answered meanwhile and leads to one more run.
func TestNotificationDoesNotWaitForASync(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	genuine := s.watch(t, demo)
	listing, goOn := s.holdListing()
	synced := make(chan *httptest.ResponseRecorder)
	go func() { synced <- s.operate(t, http.MethodPost, "/sync?calendar="+demo, "") }()
	<-listing
	if w := s.serve(forge(genuine)); w.Code != http.StatusNoContent {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	// The message it published meets the running sync, and comes again.
	if w := s.operate(t, http.MethodPost, "/sync", push(map[string]string{attributeCalendar: demo})); w.Code != http.StatusTooManyRequests {
		t.Errorf("a second sync answered %d %s", w.Code, w.Body)
	}
	close(goOn)
	w := <-synced
	var result struct{ Calendars []calendar.Result }
	if err := json.Unmarshal(w.Body.Bytes(), &result); err != nil || len(result.Calendars) != 1 || result.Calendars[0].Runs != 2 {
		t.Errorf("the sync answered %d %s, want two runs", w.Code, w.Body)
	}
	lists := len(s.effects(t).Calls)
	if w := s.operate(t, http.MethodPost, "/sync", push(map[string]string{attributeCalendar: demo})); w.Code != http.StatusNoContent {
		t.Errorf("the push that came again answered %d %s", w.Code, w.Body)
	}
	if got := s.effects(t).Calls[lists:]; len(got) != 0 {
		t.Errorf("nothing was owed any more, but Google was asked %v", got)
	}
}

// TestWaitForASync holds a sync up in Google's answer. A sync and a stop that an operator
// asks for meanwhile, and a push that asks for what is being done, end when it has, and are
// no error.
func TestWaitForASync(t *testing.T) {
	t.Parallel()
	for name, call := range map[string][2]string{"sync": {"/sync?calendar=" + demo}, "stop": {"/stop?calendar=" + demo}, "push": {"/sync", push(map[string]string{attributeCalendar: demo})}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.watch(t, demo)
			listing, goOn := s.holdListing()
			synced, operated := make(chan *httptest.ResponseRecorder, 1), make(chan *httptest.ResponseRecorder, 1)
			go func() { synced <- s.operate(t, http.MethodPost, "/sync?calendar="+demo, "") }()
			<-listing
			go func() { operated <- s.operate(t, http.MethodPost, call[0], call[1]) }()
			select {
			case w := <-operated:
				t.Errorf("answered %d %s while a sync was under way", w.Code, w.Body)
				operated <- w
			case <-time.After(2 * busyPause):
			}
			close(goOn)
			if w := <-synced; w.Code != http.StatusOK {
				t.Errorf("the sync answered %d %s", w.Code, w.Body)
			}
			if w := <-operated; w.Code/100 != 2 {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
		})
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	verifier, err := verify.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, build := range map[string]func() (http.Handler, error){
		"no_config":    func() (http.Handler, error) { return New(Config{}, verifier, s.engine, s.topic, quiet) },
		"no_verifier":  func() (http.Handler, error) { return New(config(), nil, s.engine, s.topic, quiet) },
		"no_engine":    func() (http.Handler, error) { return New(config(), verifier, nil, s.topic, quiet) },
		"no_publisher": func() (http.Handler, error) { return New(config(), verifier, s.engine, nil, quiet) },
		"no_logger":    func() (http.Handler, error) { return New(config(), verifier, s.engine, s.topic, nil) },
	} {
		if h, err := build(); err == nil {
			t.Errorf("%s: made %v", name, h)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	good := func() map[string]string {
		return map[string]string{
			"GOOGLE_CLOUD_PROJECT": "p", "CALENDAR_ADDRESS": audience + "/notifications", "CALENDAR_AUDIENCE": audience,
			"CALENDAR_OPERATORS": "a@example.com,b@example.com", "CALENDAR_SYNC_TOPIC": "calendar-sync",
		}
	}
	e, err := settings.Parse[environment](good())
	if err != nil || len(e.Calendar.Operators) != 2 || e.Collection != "messages" {
		t.Fatalf("%+v %v", e, err)
	}
	_, err = settings.Parse[environment](map[string]string{})
	for name := range good() {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
	for name, value := range map[string]string{
		"CALENDAR_ADDRESS":           "http://calendar/notifications",
		"CALENDAR_OPERATORS":         "a@example.com,everyone",
		"CALENDAR_SUBJECT":           "rooms",
		"CALENDAR_SITE_VERIFICATION": "../secret.html",
		"INBOX_SHARDS":               "31",
	} {
		vars := good()
		vars[name] = value
		if _, err := settings.Parse[environment](vars); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	vars := good()
	vars["CALENDAR_ADDRESS"] = audience
	if _, err := settings.Parse[environment](vars); err == nil {
		t.Error("an address that notifications would not be taken at is let through")
	}
	for variable, value := range good() {
		for _, bad := range []string{" " + value, value + " ", value + "\n", `"` + value + `"`, "'" + value + "'"} {
			vars := maps.Clone(good())
			vars[variable] = bad
			if _, err := settings.Parse[environment](vars); err == nil || strings.Count(err.Error(), variable+" ") != 1 {
				t.Errorf("%s=%q: %v", variable, bad, err)
			}
		}
	}

	for _, variable := range []string{"CALENDAR_OPERATORS", "CALENDAR_SUBJECT"} {
		for _, address := range []string{"user:a@example.com", "A@example.com", "a@example.com,", "a@b@example.com"} {
			vars := good()
			vars[variable] = address
			if _, err := settings.Parse[environment](vars); err == nil || !strings.HasPrefix(err.Error(), variable+" ") {
				t.Errorf("%s=%s: %v", variable, address, err)
			}
		}
	}
}

// BenchmarkNotification sends genuine notifications to the function over HTTP
// and reports the 95th percentile of the time to the answer: alone, and while
// full syncs of five thousand events run one after another over the same state
// and inbox.
func BenchmarkNotification(b *testing.B) {
	for _, syncing := range []bool{false, true} {
		b.Run("syncing="+strconv.FormatBool(syncing), func(b *testing.B) {
			s := newSite(b)
			genuine := s.watch(b, demo)
			var running sync.WaitGroup
			ctx, cancel := context.WithCancel(context.Background())
			syncs := 0
			if syncing {
				for i := range 5000 {
					s.add(b, strconv.Itoa(i))
				}
				started := make(chan struct{})
				running.Go(func() {
					for ; ctx.Err() == nil; syncs++ {
						s.google.Invalidate(demo)
						if _, err := s.engine.Sync(ctx, demo); err != nil && ctx.Err() == nil {
							b.Error(err)
							return
						}
						if syncs == 0 {
							close(started)
						}
					}
				})
				<-started
			}
			server := httptest.NewServer(s)
			defer server.Close()
			var took []time.Duration
			for b.Loop() {
				r := forge(genuine)
				r.URL, _ = url.Parse(server.URL + pathNotifications)
				r.RequestURI = ""
				start := time.Now()
				resp, err := server.Client().Do(r)
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusNoContent {
					b.Fatalf("answered %d", resp.StatusCode)
				}
			}
			cancel()
			running.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
			b.ReportMetric(float64(syncs), "syncs")
		})
	}
}
