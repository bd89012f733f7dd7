package calendarfake

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// token is the content of a sync token or a page token. It belongs to one calendar and
// one set of parameters.
type token struct {
	Calendar   string `json:"c"`
	Parameters string `json:"p"`
	// Filters are the parameters that choose and order events.
	Filters string `json:"f,omitempty"`
	// Since is the version after which an incremental list starts; 0 means a full
	// list.
	Since int64 `json:"s,omitempty"`
	// Seen is the version of the newest change that the list includes, and at least
	// the time at which the list began, in Unix milliseconds.
	Seen int64 `json:"v"`
	// After is the place after which a page starts, and Page its number; both are
	// zero in a sync token.
	After string `json:"a,omitempty"`
	Page  int    `json:"n,omitempty"`
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

// choice is what a list is asked for.
type choice struct {
	single, deleted, byStart  bool
	min, max, updated         time.Time
	words, types              []string
	uid                       string
	privateProps, sharedProps []string
}

func readChoice(query url.Values) (c choice, err error) {
	for name, target := range map[string]*bool{"showDeleted": &c.deleted, "singleEvents": &c.single, "showHiddenInvitations": new(bool)} {
		if *target, err = strconv.ParseBool(cmp.Or(query.Get(name), "false")); err != nil {
			return c, invalid("Invalid value '%s'. %s must be a boolean.", query.Get(name), name)
		}
	}
	for name, target := range map[string]*time.Time{"timeMin": &c.min, "timeMax": &c.max, "updatedMin": &c.updated} {
		if !query.Has(name) {
			continue
		}
		if *target, err = time.Parse(time.RFC3339, query.Get(name)); err != nil {
			return c, invalid("Invalid value '%s' for %s: it must be a time with an offset, such as 2026-12-01T00:00:00Z.", query.Get(name), name)
		}
	}
	if !c.min.IsZero() && !c.max.IsZero() && !c.min.Before(c.max) {
		return c, apiError(http.StatusBadRequest, "timeRangeEmpty", "The specified time range is empty.")
	}
	switch order := query.Get("orderBy"); {
	case order == "startTime" && !c.single:
		return c, invalid("The requested ordering is not available for the particular query.")
	case order == "startTime":
		c.byStart = true
	case order != "" && order != "updated":
		return c, invalid("Invalid value '%s' for orderBy: it must be startTime or updated.", order)
	}
	for _, property := range slices.Concat(query["privateExtendedProperty"], query["sharedExtendedProperty"]) {
		if !strings.Contains(property, "=") {
			return c, invalid("Invalid value '%s': a property must be name=value.", property)
		}
	}
	c.privateProps, c.sharedProps = query["privateExtendedProperty"], query["sharedExtendedProperty"]
	c.words, c.types, c.uid = strings.Fields(strings.ToLower(query.Get("q"))), query["eventTypes"], query.Get("iCalUID")
	return c, nil
}

// syncs reports whether a list has a sync token.
func (c *choice) syncs(query url.Values) bool {
	return !slices.ContainsFunc(filters, func(name string) bool { return name != "timeMin" && name != "timeMax" && query.Has(name) })
}

// picks reports whether an event is chosen by what it says.
func (c *choice) picks(e *event) bool {
	has := func(scope string, wanted []string) bool {
		all, _ := e.Body["extendedProperties"].(map[string]any)
		properties, _ := all[scope].(map[string]any)
		return !slices.ContainsFunc(wanted, func(property string) bool {
			name, value, _ := strings.Cut(property, "=")
			return properties[name] != value
		})
	}
	text := ""
	if c.words != nil {
		text = strings.ToLower(fmt.Sprint(e.Body["summary"], " ", e.Body["description"], " ", e.Body["location"], " ", e.Body["attendees"]))
	}
	return (c.uid == "" || e.Body["iCalUID"] == c.uid) && has("private", c.privateProps) && has("shared", c.sharedProps) &&
		(c.types == nil || slices.Contains(c.types, fmt.Sprint(e.Body["eventType"]))) &&
		!slices.ContainsFunc(c.words, func(word string) bool { return !strings.Contains(text, word) }) &&
		(c.updated.IsZero() || !time.UnixMilli(e.Version).Before(c.updated))
}

// overlaps reports whether an event, or an instance of a series, is in the time that
// is asked for.
func (c *choice) overlaps(e *event) bool {
	if c.min.IsZero() && c.max.IsZero() {
		return true
	}
	if e.Body["recurrence"] != nil {
		return len(e.starts(c.min, c.max, 1)) > 0
	}
	begin, end := e.span()
	return end.After(c.min) && (c.max.IsZero() || begin.Before(c.max))
}

// found is an event in a list, and its place there.
type found struct {
	*event
	place string
}

func (c *choice) place(e *event) string {
	id := e.Body["id"].(string) // instances of a series have one version, and IDs in the order of time
	if !c.byStart {
		return fmt.Sprintf("%020d %s", e.Version, id)
	}
	begin, _ := e.span()
	if e.Body["start"] == nil {
		begin, _ = when(e.Body["originalStartTime"])
	}
	return begin.UTC().Format("2006-01-02T15:04:05 ") + id
}

// find returns the events of a calendar that are chosen, in their order, and changed
// after since, which is 0 in a full list.
func (c *choice) find(in *calendar, since, now int64) []found {
	var all []found
	until := c.max
	if until.IsZero() {
		until = time.UnixMilli(now).AddDate(horizon, 0, 0)
		if c.min.After(time.UnixMilli(now)) {
			until = c.min.AddDate(horizon, 0, 0)
		}
	}
	add := func(e *event, timed bool) {
		kept := c.deleted || since > 0 || !c.updated.IsZero() || !c.single && in.inSeries(e)
		// What left the time that is asked for has changed all the same.
		timed = timed || since > 0 || c.overlaps(e)
		if e.Version > since && (!e.cancelled() || kept) && timed && c.picks(e) {
			all = append(all, found{e, c.place(e)})
		}
	}
	for _, e := range in.Events {
		switch {
		case !c.single || e.Body["recurrence"] == nil:
			add(e, false)
		case e.Version > since:
			for _, i := range in.instances(e, c.min, until, maxInstances) {
				add(i, true)
			}
		}
		for _, lost := range e.Lost {
			if c.single && since > 0 {
				add(lost, true)
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.place, b.place) })
	return all
}

// list answers events.list.
func (s *Server) list(r *http.Request, f Fault) (any, error) {
	query := r.URL.Query()
	syncToken, pageToken := query.Get("syncToken"), query.Get("pageToken")
	for _, name := range filters {
		if query.Has(name) && syncToken != "" {
			return nil, invalid("Sync token cannot be used with %s.", name)
		}
	}
	if shows, err := strconv.ParseBool(query.Get("showDeleted")); syncToken != "" && err == nil && !shows {
		return nil, invalid("Sync token cannot be used with showDeleted=false.")
	}
	size, err := pageSize(query, defaultPage, maxPage)
	if err != nil {
		return nil, err
	}
	if f.Limit != 0 {
		size = min(size, max(f.Limit, 0))
	}
	c, err := s.calendar(r.PathValue("calendar"))
	if err != nil {
		return nil, err
	}
	t := token{Calendar: c.ID, Parameters: only(query, fixed), Filters: only(query, filters), Seen: max(c.Version, s.now().UnixMilli()), Page: 1}
	c.Version = t.Seen
	if syncToken != "" {
		st, ok := decodeToken(syncToken)
		switch {
		case !ok || st.Page != 0 || st.Calendar != c.ID || st.Seen < c.Oldest || st.Seen > c.Version:
			return nil, apiError(http.StatusGone, "fullSyncRequired", "Sync token is no longer valid, a full sync is required.")
		case st.Parameters != t.Parameters:
			return nil, invalid("The parameters are not those of the list that gave the sync token.")
		}
		t.Since, t.Filters = st.Seen, st.Filters
	}
	if pageToken != "" {
		pt, ok := decodeToken(pageToken)
		if !ok || pt.Page < 2 || pt.Calendar != c.ID || pt.Parameters != t.Parameters || pt.Filters != t.Filters || pt.Since != t.Since ||
			pt.Seen < c.Oldest || pt.Seen > c.Version {
			return nil, invalid("Invalid page token value.")
		}
		t = pt
	}
	// An incremental list is of the time that the first one was of.
	kept, err := url.ParseQuery(t.Filters)
	if err != nil {
		return nil, invalid("Invalid page token value.")
	}
	maps.Copy(query, kept)
	chosen, err := readChoice(query)
	if err != nil {
		return nil, err
	}
	page, err := s.page(r, c, t, size, chosen.find(c, t.Since, t.Seen))
	if err == nil && page["nextPageToken"] == nil && chosen.syncs(query) {
		page["nextSyncToken"] = token{Calendar: t.Calendar, Parameters: t.Parameters, Filters: t.Filters, Seen: t.Seen}.String()
	}
	return page, err
}

// only returns those of the parameters that have these names.
func only(query url.Values, names []string) string {
	part := maps.Clone(query)
	maps.DeleteFunc(part, func(name string, _ []string) bool { return !slices.Contains(names, name) })
	return part.Encode()
}

// page returns the page of a list that t says.
func (s *Server) page(r *http.Request, c *calendar, t token, size int, all []found) (map[string]any, error) {
	all = slices.DeleteFunc(all, func(e found) bool { return e.place <= t.After })
	more := len(all) > size
	items := make([]Event, min(len(all), size))
	zone := r.URL.Query().Get("timeZone")
	for i := range items {
		item, err := shown(all[i].event, zone)
		if err != nil {
			return nil, err
		}
		items[i], t.After = item, all[i].place
	}
	page := map[string]any{
		"kind": "calendar#events", "etag": etag(c.Version), "summary": c.ID, "timeZone": cmp.Or(zone, "UTC"),
		"accessRole": "owner", "defaultReminders": []any{}, "items": items,
	}
	if more {
		t.Page++
		page["nextPageToken"] = t.String()
	}
	return page, nil
}

// listInstances answers events.instances.
func (s *Server) listInstances(r *http.Request, _ Fault) (any, error) {
	query := r.URL.Query()
	size, err := pageSize(query, defaultPage, maxPage)
	if err != nil {
		return nil, err
	}
	c, e, err := s.find(r.PathValue("calendar"), r.PathValue("event"))
	if err != nil {
		return nil, err
	}
	if e.Body["recurrence"] == nil {
		return nil, invalid("The event has no instances: it does not recur.")
	}
	t := token{Calendar: c.ID, Parameters: "instances " + e.Body["id"].(string), Filters: only(query, append(filters, "originalStart", "showDeleted")), Seen: s.now().UnixMilli(), Page: 1}
	if text := query.Get("pageToken"); text != "" {
		pt, ok := decodeToken(text)
		if !ok || pt.Page < 2 || pt.Calendar != t.Calendar || pt.Parameters != t.Parameters || pt.Filters != t.Filters {
			return nil, invalid("Invalid page token value.")
		}
		t = pt
	}
	query.Set("singleEvents", "true")
	query.Set("orderBy", "startTime")
	chosen, err := readChoice(query)
	if err != nil {
		return nil, err
	}
	one := &calendar{ID: c.ID, Events: make(map[string]*event)}
	for id, other := range c.Events {
		if other == e || other.master() == e.Body["id"] {
			one.Events[id] = other
		}
	}
	all := slices.DeleteFunc(chosen.find(one, 0, t.Seen), func(i found) bool {
		original, _ := i.Body["originalStartTime"].(map[string]any)
		return query.Has("originalStart") && !sameTime(query.Get("originalStart"), original)
	})
	return s.page(r, c, t, size, all)
}

// sameTime reports whether text, a date or a time, is a start.
func sameTime(text string, start map[string]any) bool {
	at, f := when(start)
	given, err := time.Parse(f.layout, text)
	return err == nil && given.Equal(at)
}

// shown returns what the API shows of an event, in the time zone of this name.
func shown(e *event, name string) (Event, error) {
	item := e.item()
	if name == "" {
		return item, nil
	}
	zone, err := zoneOf(map[string]any{"timeZone": name})
	if err != nil {
		return nil, invalid("Invalid time zone '%s'.", name)
	}
	for _, field := range []string{"start", "end", "originalStartTime"} {
		if at, f := when(item[field]); f.field == "dateTime" {
			t := maps.Clone(item[field].(map[string]any))
			t["dateTime"] = at.In(zone).Format(f.layout)
			item[field] = t
		}
	}
	return item, nil
}
