package calendarfake

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/api/googleapi"
)

const (
	defaultPage = 250
	maxPage     = 2500
	maxBody     = 1 << 20
)

// ServeHTTP answers a call of the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// neutral are the parameters of every call that change nothing here: nobody is sent
// mail, and no quota is counted.
var neutral = []string{
	"access_token", "alt", "alwaysIncludeEmail", "fields", "key", "oauth_token", "prettyPrint", "quotaUser",
	"sendNotifications", "sendUpdates", "supportsAttachments", "userIp",
}

// call is one call of the API. It runs with s.mu held.
type call func(*http.Request, Fault) (any, error)

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	const events, event = "/calendars/{calendar}/events", "/calendars/{calendar}/events/{event}"
	s.handle("GET "+events, "events.list", s.list, append([]string{"maxResults", "pageToken", "syncToken", "timeZone", "conferenceDataVersion"}, append(filters, fixed...)...)...)
	s.handle("POST "+events, "events.insert", withBody(func(r *http.Request, e Event) (any, error) {
		return s.inCalendar(r, func(c *calendar) (any, error) { return s.insert(c, e, "iCalUID") })
	}), "conferenceDataVersion")
	s.handle("POST "+events+"/import", "events.import", withBody(func(r *http.Request, e Event) (any, error) {
		return s.inCalendar(r, func(c *calendar) (any, error) { return s.imports(c, e) })
	}), "conferenceDataVersion")
	s.handle("POST "+events+"/quickAdd", "events.quickAdd", s.quickAdd, "text")
	s.handle("GET "+event, "events.get", func(r *http.Request, _ Fault) (any, error) {
		_, e, err := s.find(r.PathValue("calendar"), r.PathValue("event"))
		if err != nil {
			return nil, err
		}
		return shown(e, r.URL.Query().Get("timeZone"))
	}, "timeZone")
	s.handle("PATCH "+event, "events.patch", withBody(func(r *http.Request, e Event) (any, error) {
		return s.editAs(r, func(old Event) (Event, error) { return patched(old, e) })
	}), "conferenceDataVersion")
	s.handle("PUT "+event, "events.update", withBody(func(r *http.Request, e Event) (any, error) {
		return s.editAs(r, func(old Event) (Event, error) { return replaced(old, e) })
	}), "conferenceDataVersion")
	s.handle("DELETE "+event, "events.delete", func(r *http.Request, _ Fault) (any, error) {
		_, err := s.editAs(r, func(old Event) (Event, error) { return patched(old, Event{"status": cancelled}) })
		return nil, err
	})
	s.handle("POST "+event+"/move", "events.move", func(r *http.Request, _ Fault) (any, error) {
		if !r.URL.Query().Has("destination") {
			return nil, required("destination")
		}
		return s.move(r.PathValue("calendar"), r.PathValue("event"), r.URL.Query().Get("destination"))
	}, "destination")
	s.handle("GET "+event+"/instances", "events.instances", s.listInstances,
		"maxResults", "originalStart", "pageToken", "showDeleted", "timeMax", "timeMin", "timeZone")
	s.handle("POST "+events+"/watch", "events.watch", withBody(func(r *http.Request, b channelBody) (any, error) {
		return s.inCalendar(r, func(c *calendar) (any, error) { return s.watch(c.ID, b) })
	}), fixed...)
	s.handle("POST /channels/stop", "channels.stop", withBody(func(_ *http.Request, b channelBody) (any, error) { return nil, s.stop(b) }))
	s.handle("GET /calendars/{calendar}", "calendars.get", func(r *http.Request, _ Fault) (any, error) {
		return s.inCalendar(r, func(c *calendar) (any, error) {
			return map[string]any{"kind": "calendar#calendar", "etag": etag(c.Version), "id": c.ID, "summary": c.ID, "timeZone": "UTC"}, nil
		})
	})
	s.handle("GET /users/me/calendarList", "calendarList.list", s.listCalendars, "maxResults", "minAccessRole", "pageToken", "showDeleted", "showHidden")
	s.handle("GET /users/me/calendarList/{calendar}", "calendarList.get", func(r *http.Request, _ Fault) (any, error) {
		return s.inCalendar(r, func(c *calendar) (any, error) { return s.listEntry(c), nil })
	})
	s.handle("POST /users/me/calendarList/watch", "calendarList.watch", withBody(func(_ *http.Request, b channelBody) (any, error) {
		return s.watch("", b)
	}), "maxResults", "minAccessRole", "showDeleted", "showHidden")
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, apiError(http.StatusNotFound, "notImplemented", fmt.Sprintf("This stand-in does not have %s %s.", r.Method, r.URL.Path)))
	})
}

// handle serves one method of the API, which knows these parameters, and injects its
// faults. A call without a result is answered 204.
func (s *Server) handle(pattern, method string, c call, parameters ...string) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		described := Call{Method: method, CalendarID: r.PathValue("calendar")}
		if method == "events.list" {
			described.Incremental = query.Get("syncToken") != ""
			described.Page = 1
			if t, ok := decodeToken(query.Get("pageToken")); ok {
				described.Page = t.Page
			}
		}
		f := s.fault(described)
		if f.Status != 0 && !f.Lost {
			answer(w, nil, apiError(f.Status, f.Reason, http.StatusText(f.Status)))
			return
		}
		result, err := any(nil), checkParameters(query, parameters)
		if err == nil {
			err = buffer(w, r)
		}
		if err == nil {
			result, err = s.locked(c, r, f)
		}
		if opened, ok := result.(*channelBody); ok && f.SyncFirst && err == nil {
			s.deliverSync(r.Context(), opened.ID)
		}
		if f.Status != 0 && err == nil {
			err = apiError(f.Status, f.Reason, http.StatusText(f.Status))
		}
		if err == nil && result != nil && query.Has("fields") {
			result, err = partial(result, query.Get("fields"))
		}
		answer(w, result, err)
	})
}

func (s *Server) locked(c call, r *http.Request, f Fault) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // also where the call panics
	return c(r, f)
}

// buffer reads the body of a request, which a client can withhold for as long as it
// likes: nothing may wait for that with s.mu held.
func buffer(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return apiError(http.StatusBadRequest, "parseError", "Parse Error")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

func checkParameters(query url.Values, known []string) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case name == "alt" && query.Get(name) != "json":
			return invalid("This stand-in does not know alt=%s.", query.Get(name))
		case name == "conferenceDataVersion" && query.Get(name) != "0":
			return invalid("This stand-in does not make conferences.")
		case !slices.Contains(neutral, name) && !slices.Contains(known, name):
			return invalid("This stand-in does not know %s.", name)
		}
	}
	return nil
}

// withBody returns a call that reads its body.
func withBody[T any](c func(*http.Request, T) (any, error)) call {
	return func(r *http.Request, _ Fault) (any, error) {
		var v T
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
			return nil, apiError(http.StatusBadRequest, "parseError", "Parse Error")
		}
		return c(r, v)
	}
}

func (s *Server) inCalendar(r *http.Request, f func(*calendar) (any, error)) (any, error) {
	c, err := s.calendar(r.PathValue("calendar"))
	if err != nil {
		return nil, err
	}
	return f(c)
}

// editAs edits the event that a request names.
func (s *Server) editAs(r *http.Request, change func(Event) (Event, error)) (any, error) {
	return s.edit(r.PathValue("calendar"), r.PathValue("event"), r.Header.Get("If-Match"), change)
}

func (s *Server) quickAdd(r *http.Request, _ Fault) (any, error) {
	text := r.URL.Query().Get("text")
	if text == "" {
		return nil, required("text")
	}
	begin := s.now().UTC().Truncate(time.Hour).Add(time.Hour)
	at := func(t time.Time) map[string]any { return map[string]any{"dateTime": t.Format(time.RFC3339)} }
	return s.inCalendar(r, func(c *calendar) (any, error) {
		return s.insert(c, Event{"summary": text, "start": at(begin), "end": at(begin.Add(time.Hour))})
	})
}

// listEntry is a calendar as it is in the list of calendars.
func (s *Server) listEntry(c *calendar) map[string]any {
	entry := map[string]any{
		"kind": "calendar#calendarListEntry", "etag": etag(c.Version), "id": c.ID, "summary": c.ID, "timeZone": "UTC",
		"accessRole": "owner", "selected": true, "defaultReminders": []any{},
	}
	if c.ID == s.primary {
		entry["primary"] = true
	}
	return entry
}

func (s *Server) listCalendars(r *http.Request, _ Fault) (any, error) {
	query := r.URL.Query()
	size, err := pageSize(query, 100, 250)
	if err != nil {
		return nil, err
	}
	if role := query.Get("minAccessRole"); !slices.Contains([]string{"", "freeBusyReader", "reader", "writer", "owner"}, role) {
		return nil, invalid("Invalid value '%s' for minAccessRole.", role)
	}
	list := map[string]any{"kind": "calendar#calendarList", "etag": etag(int64(len(s.calendars)))}
	items := []any{}
	for _, id := range slices.Sorted(maps.Keys(s.calendars)) {
		if id < query.Get("pageToken") {
			continue
		}
		if len(items) == size {
			list["nextPageToken"] = id
			break
		}
		items = append(items, s.listEntry(s.calendars[id]))
	}
	list["items"] = items
	return list, nil
}

func answer(w http.ResponseWriter, result any, err error) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	status := http.StatusOK
	e := (*googleapi.Error)(nil)
	if err != nil && !errors.As(err, &e) {
		e = apiError(http.StatusInternalServerError, "backendError", err.Error())
	}
	if e != nil {
		domain := "global"
		if status = e.Code; status == http.StatusForbidden || status == http.StatusTooManyRequests {
			domain = "usageLimits"
		}
		result = map[string]any{"error": map[string]any{
			"code":    e.Code,
			"message": e.Message,
			"errors":  []map[string]string{{"domain": domain, "reason": e.Errors[0].Reason, "message": e.Message}},
		}}
	}
	if result == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result)
}

func invalid(format string, args ...any) *googleapi.Error {
	return apiError(http.StatusBadRequest, "invalid", fmt.Sprintf(format, args...))
}

func required(parameter string) *googleapi.Error {
	return apiError(http.StatusBadRequest, "required", "Required parameter: "+parameter)
}

func etag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }

func pageSize(query url.Values, usual, most int) (int, error) {
	size, err := strconv.Atoi(cmp.Or(query.Get("maxResults"), strconv.Itoa(usual)))
	if err != nil || size < 1 {
		return 0, invalid("Invalid value for maxResults.")
	}
	return min(size, most), nil
}

// partial returns the part of a result that the parameter fields names, such as
// nextPageToken,items(id,start/dateTime).
func partial(result any, fields string) (any, error) {
	wanted, rest, ok := parseFields(fields, 0)
	if !ok || rest != "" {
		return nil, apiError(http.StatusBadRequest, "invalidParameter", "Invalid field selection "+fields)
	}
	b, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	return wanted.of(v), nil
}

// selection has the names of fields with what is wanted of each; empty means all.
type selection map[string]selection

func (s selection) of(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = s.of(v[i])
		}
	case map[string]any:
		maps.DeleteFunc(v, func(name string, value any) bool {
			part, ok := s[name]
			if !ok {
				part, ok = s["*"]
			}
			if ok {
				v[name] = part.of(value)
			}
			return !ok && len(s) > 0
		})
	}
	return v
}

// parseFields reads names up to the end or to a closing bracket, and returns what
// follows.
func parseFields(text string, depth int) (s selection, rest string, ok bool) {
	s = selection{}
	for ; ; text = text[1:] {
		if text, ok = s.parse(text, depth); !ok {
			return nil, "", false
		}
		if !strings.HasPrefix(text, ",") {
			return s, text, true
		}
	}
}

// parse adds the name that text begins with, and returns what follows.
func (s selection) parse(text string, depth int) (rest string, ok bool) {
	end := strings.IndexAny(text+",", ",/()")
	name, rest := text[:end], text[end:]
	if name == "" || depth > 20 {
		return "", false
	}
	if s[name] == nil {
		s[name] = selection{}
	}
	switch {
	case strings.HasPrefix(rest, "/"):
		return s[name].parse(rest[1:], depth+1)
	case strings.HasPrefix(rest, "("):
		if s[name], rest, ok = parseFields(rest[1:], depth+1); !ok || !strings.HasPrefix(rest, ")") {
			return "", false
		}
		rest = rest[1:]
	}
	return rest, true
}
