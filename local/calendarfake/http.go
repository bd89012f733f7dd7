package calendarfake

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/api/googleapi"
)

const (
	defaultPage = 250
	maxPage     = 2500
	maxBody     = 1 << 20
)

// ServeHTTP answers a call of the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	s.handle("GET /calendars/{calendar}/events", "events.list", func(r *http.Request, f Fault) (any, error) {
		return s.list(r.PathValue("calendar"), r.URL.Query(), f)
	})
	s.handle("POST /calendars/{calendar}/events", "events.insert", func(r *http.Request, _ Fault) (any, error) {
		var e Event
		if err := read(r, &e); err != nil {
			return nil, err
		}
		return s.Insert(r.PathValue("calendar"), e)
	})
	s.handle("GET /calendars/{calendar}/events/{event}", "events.get", func(r *http.Request, _ Fault) (any, error) {
		return s.Event(r.PathValue("calendar"), r.PathValue("event"))
	})
	s.handle("PATCH /calendars/{calendar}/events/{event}", "events.patch", func(r *http.Request, _ Fault) (any, error) {
		var e Event
		if err := read(r, &e); err != nil {
			return nil, err
		}
		return s.Patch(r.PathValue("calendar"), r.PathValue("event"), e)
	})
	s.handle("DELETE /calendars/{calendar}/events/{event}", "events.delete", func(r *http.Request, _ Fault) (any, error) {
		return nil, s.Delete(r.PathValue("calendar"), r.PathValue("event"))
	})
	s.handle("POST /calendars/{calendar}/events/watch", "events.watch", func(r *http.Request, f Fault) (any, error) {
		var b channelBody
		if err := read(r, &b); err != nil {
			return nil, err
		}
		opened, err := s.watch(r.PathValue("calendar"), b)
		if err != nil {
			return nil, err
		}
		if f.SyncFirst {
			s.deliverSync(r.Context(), b.ID)
		}
		return opened, nil
	})
	s.handle("POST /channels/stop", "channels.stop", func(r *http.Request, _ Fault) (any, error) {
		var b channelBody
		if err := read(r, &b); err != nil {
			return nil, err
		}
		return nil, s.stop(b)
	})
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, errNotFound()) })
}

// handle serves one method of the API and injects its faults. A call without a result
// is answered 204.
func (s *Server) handle(pattern, method string, call func(*http.Request, Fault) (any, error)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c := Call{Method: method, CalendarID: r.PathValue("calendar")}
		if method == "events.list" {
			query := r.URL.Query()
			c.Incremental = query.Get("syncToken") != ""
			c.Page = 1
			if t, ok := decodeToken(query.Get("pageToken")); ok {
				c.Page = t.Page
			}
		}
		f := s.fault(c)
		if f.Status != 0 && !f.Lost {
			answer(w, nil, apiError(f.Status, f.Reason, http.StatusText(f.Status)))
			return
		}
		result, err := call(r, f)
		if f.Status != 0 && err == nil {
			err = apiError(f.Status, f.Reason, http.StatusText(f.Status))
		}
		answer(w, result, err)
	})
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

func read(r *http.Request, v any) error {
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody)).Decode(v); err != nil {
		return apiError(http.StatusBadRequest, "parseError", "Parse Error")
	}
	return nil
}

// token is the content of a sync token or a page token. It belongs to one calendar and
// one set of parameters.
type token struct {
	Calendar   string `json:"c"`
	Parameters string `json:"p"`
	// Since is the version after which an incremental list starts; 0 means a full
	// list.
	Since int64 `json:"s,omitempty"`
	// Seen is the version of the newest change that the list includes.
	Seen int64 `json:"v"`
	// After is the version after which a page starts, and Page its number; both are
	// 0 in a sync token.
	After int64 `json:"a,omitempty"`
	Page  int   `json:"n,omitempty"`
}

func (t token) String() string {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings and numbers always have a JSON form
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodeToken(s string) (t token, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return t, err == nil && json.Unmarshal(b, &t) == nil
}

// filters are the parameters of events.list that cannot go with a sync token.
var filters = []string{
	"iCalUID", "orderBy", "privateExtendedProperty", "q", "sharedExtendedProperty", "timeMin", "timeMax", "updatedMin",
}

// fixed are those that must be the same in every list of one sync.
var fixed = []string{"eventTypes", "showDeleted", "showHiddenInvitations", "singleEvents"}

func invalid(format string, args ...any) error {
	return apiError(http.StatusBadRequest, "invalid", fmt.Sprintf(format, args...))
}

// list answers events.list.
func (s *Server) list(calendarID string, query url.Values, f Fault) (any, error) {
	syncToken, pageToken := query.Get("syncToken"), query.Get("pageToken")
	for _, name := range filters {
		if query.Has(name) && syncToken != "" {
			return nil, invalid("Sync token cannot be used with %s.", name)
		}
		if query.Has(name) {
			return nil, invalid("This stand-in does not know %s.", name)
		}
	}
	flags := make(map[string]bool)
	for _, name := range []string{"showDeleted", "singleEvents"} {
		v := query.Get(name)
		b, err := strconv.ParseBool(cmp.Or(v, "false"))
		if err != nil {
			return nil, invalid("Invalid value '%s'. %s must be a boolean.", v, name)
		}
		flags[name] = b
	}
	switch {
	case flags["singleEvents"]:
		return nil, invalid("This stand-in does not expand recurrences.")
	case syncToken != "" && query.Has("showDeleted") && !flags["showDeleted"]:
		return nil, invalid("Sync token cannot be used with showDeleted=false.")
	}
	size, err := strconv.Atoi(cmp.Or(query.Get("maxResults"), strconv.Itoa(defaultPage)))
	if err != nil || size < 1 {
		return nil, invalid("Invalid value for maxResults.")
	}
	size = min(size, maxPage)
	if f.Limit != 0 {
		size = min(size, max(f.Limit, 0))
	}
	var parameters []string
	for _, name := range fixed {
		parameters = append(parameters, strings.Join(query[name], ","))
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.calendar(calendarID)
	if err != nil {
		return nil, err
	}
	t := token{Calendar: calendarID, Parameters: strings.Join(parameters, "&"), Seen: max(c.Version, s.now().UnixMilli()), Page: 1}
	c.Version = t.Seen
	if syncToken != "" {
		st, ok := decodeToken(syncToken)
		switch {
		case !ok || st.Page != 0 || st.Calendar != calendarID || st.Seen < c.Oldest || st.Seen > c.Version:
			return nil, apiError(http.StatusGone, "fullSyncRequired", "Sync token is no longer valid, a full sync is required.")
		case st.Parameters != t.Parameters:
			return nil, invalid("The parameters are not those of the list that gave the sync token.")
		}
		t.Since, t.After = st.Seen, st.Seen
	}
	if pageToken != "" {
		pt, ok := decodeToken(pageToken)
		if !ok || pt.Page < 2 || pt.Calendar != calendarID || pt.Parameters != t.Parameters || pt.Since != t.Since ||
			pt.Seen < c.Oldest || pt.Seen > c.Version {
			return nil, invalid("Invalid page token value.")
		}
		t = pt
	}

	var found []*event
	for _, e := range c.Events {
		if e.Version > t.After && (!e.cancelled() || flags["showDeleted"] || syncToken != "" || c.inSeries(e)) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *event) int { return cmp.Compare(a.Version, b.Version) })
	more := len(found) > size
	found = found[:min(len(found), size)]
	items := make([]Event, len(found))
	for i, e := range found {
		items[i] = e.item()
		t.After = e.Version
	}
	page := map[string]any{
		"kind": "calendar#events", "etag": fmt.Sprintf("%q", fmt.Sprint(c.Version)), "summary": calendarID,
		"timeZone": "UTC", "accessRole": "owner", "defaultReminders": []any{}, "items": items,
	}
	if more {
		t.Page++
		page["nextPageToken"] = t.String()
	} else {
		page["nextSyncToken"] = token{Calendar: t.Calendar, Parameters: t.Parameters, Seen: t.Seen}.String()
	}
	return page, nil
}
