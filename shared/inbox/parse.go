package inbox

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/pushinbox/shared/problem"
)

// filters are the names of the parameters that leave messages out, beside attribute.KEY.
var filters = []string{"source", "subscription", "messageId", "orderingKey", "since", "until", "text", "quarantined"}

// The names that ParseQuery, ParsePoll and ParseFeed know, beside attribute.KEY.
var (
	Parameters     = slices.Concat(filters, []string{"order", "pageSize", "pageToken"})
	pollParameters = slices.Concat(filters, []string{"pageSize", "after"})
	feedParameters = slices.Concat(filters, []string{"pageToken"})
)

const (
	attributePrefix = "attribute."
	// maxQueryAttributes is how many attributes a query compares at most.
	maxQueryAttributes = 20
	// maxAgo is the longest duration back from now: a hundred years.
	maxAgo = 100 * 365 * 24 * time.Hour
)

// ParseQuery returns the query that the parameters of a URL describe; more are the
// names of parameters that the caller reads itself. An empty value is as none,
// except for an attribute. since and until are RFC 3339 times or durations back from
// now, such as 90m or 7d. With a page token, such a duration means the time that it
// meant for the token's page. Every error is a *problem.Error with the status 400
// that names the parameter.
func ParseQuery(values url.Values, now time.Time, more ...string) (Query, error) {
	return parse(values, now, Parameters, more)
}

// ParsePoll is ParseQuery for a poll, whose page token is the parameter after and which
// has no order.
func ParsePoll(values url.Values, now time.Time, more ...string) (Query, error) {
	return parse(values, now, pollParameters, more)
}

// ParseFeed is ParseQuery for a feed, which has neither an order nor a page size.
func ParseFeed(values url.Values, now time.Time, more ...string) (Query, error) {
	return parse(values, now, feedParameters, more)
}

// parse is ParseQuery for the parameters with the given names.
func parse(values url.Values, now time.Time, names, more []string) (Query, error) {
	var q Query
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if slices.Contains(more, name) {
			continue
		}
		key, isAttribute := strings.CutPrefix(name, attributePrefix)
		known := slices.Contains(names, name) || isAttribute && key != ""
		value := values.Get(name)
		switch all := values[name]; {
		case !known:
			return Query{}, badQuery("the parameter %s does not exist; the parameters are %s", quote(name),
				strings.Join(slices.Concat(names, []string{"attribute.KEY"}, more), ", "))
		case len(all) > 1:
			return Query{}, badQuery("the parameter %s is there %d times; send it once", quote(name), len(all))
		case len(value) > maxStringSize || !utf8.ValidString(name) || !utf8.ValidString(value):
			return Query{}, badQuery("the parameter %s is longer than %d bytes or not UTF-8", quote(name), maxStringSize)
		case isAttribute:
			if q.Attributes == nil {
				q.Attributes = map[string]string{}
			}
			if q.Attributes[key] = value; len(q.Attributes) > maxQueryAttributes {
				return Query{}, badQuery("there are more than %d parameters attribute.KEY", maxQueryAttributes)
			}
		case value == "":
		default:
			if err := q.set(name, value, now); err != nil {
				return Query{}, err
			}
		}
	}
	return q, q.resolve()
}

// Values returns the parameters that ParseQuery reads as q, without PageBytes.
func (q *Query) Values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("source", q.Source)
	set("subscription", q.Subscription)
	set("messageId", q.MessageID)
	set("orderingKey", q.OrderingKey)
	set("since", timeText(q.Since, q.sinceAgo))
	set("until", timeText(q.Until, q.untilAgo))
	set("text", q.Text)
	set("pageToken", q.PageToken)
	for key, value := range q.Attributes {
		v.Set(attributePrefix+key, value)
	}
	if q.Quarantined {
		v.Set("quarantined", "true")
	}
	if q.Ascending {
		v.Set("order", "asc")
	}
	if q.PageSize > 0 {
		v.Set("pageSize", strconv.Itoa(q.PageSize))
	}
	return v
}

// Fixed returns q with since and until as the times that they are now, where they were
// given as durations back from now: whoever reads its Values may have another clock.
func (q *Query) Fixed() Query {
	fixed := *q
	fixed.sinceAgo, fixed.untilAgo = 0, 0
	return fixed
}

// timeText returns a time, or the duration as which it was given, as parseTime reads
// it.
func timeText(t time.Time, ago time.Duration) string {
	switch {
	case ago != 0:
		return ago.String()
	case t.IsZero():
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// set sets what a parameter with one value describes.
func (q *Query) set(name, value string, now time.Time) (err error) {
	switch name {
	case "source":
		if q.Source = value; !slices.Contains(Sources, value) {
			return badQuery("source is %s; it is one of %s", quote(value), strings.Join(Sources, ", "))
		}
	case "subscription":
		q.Subscription = value
	case "messageId":
		q.MessageID = value
	case "orderingKey":
		q.OrderingKey = value
	case "text":
		q.Text = value
	case "pageToken", "after":
		q.PageToken = value
	case "since":
		q.Since, q.sinceAgo, err = parseTime(name, value, now)
	case "until":
		q.Until, q.untilAgo, err = parseTime(name, value, now)
	case "quarantined":
		if q.Quarantined = value == "true"; !q.Quarantined {
			return badQuery("quarantined is not true; leave it out to list all messages")
		}
	case "order":
		if q.Ascending = value == "asc"; !q.Ascending && value != "desc" {
			return badQuery("order is %s; it is asc or desc", quote(value))
		}
	case "pageSize":
		if q.PageSize, err = strconv.Atoi(value); err != nil || q.PageSize < 0 {
			return badQuery("pageSize is not a valid number of messages, such as 50")
		}
	}
	return err
}

// resolve gives since and until the times that they had for the page token's page.
func (q *Query) resolve() error {
	t, err := q.token()
	if err != nil {
		return err
	}
	if t != nil && t.hasFilter {
		q.Since, q.Until = t.since, t.until
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return badQuery("since (%s) is not before until (%s)", q.Since.Format(time.RFC3339Nano), q.Until.Format(time.RFC3339Nano))
	}
	return nil
}

// parseTime reads an RFC 3339 time, or a duration back from now, which it returns
// too.
func parseTime(name, value string, now time.Time) (at time.Time, ago time.Duration, err error) {
	if at, err := time.Parse(time.RFC3339, value); err == nil {
		if at = ceil(at.UTC()); at.IsZero() || at.Year() < 1 || at.Year() > 9999 {
			return at, 0, badQuery("%s is not in the years 1 to 9999", name)
		}
		return at, 0, nil
	}
	ago, ok := parseAgo(value)
	if !ok {
		return at, 0, badQuery("%s is %s; it is a time such as 2026-11-26T02:10:00Z or a duration back from now such as 90m, 2h or 7d", name, quote(value))
	}
	return ceil(now.Add(-ago).UTC()), ago, nil
}

// parseAgo reads a positive duration, whose days come first.
func parseAgo(s string) (ago time.Duration, ok bool) {
	if days, rest, found := strings.Cut(s, "d"); found {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > uint64(maxAgo/(24*time.Hour)) {
			return 0, false
		}
		if ago, s = time.Duration(n)*24*time.Hour, rest; s == "" {
			return ago, ago > 0
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || strings.HasPrefix(s, "+") || d < 0 || d > maxAgo {
		return 0, false
	}
	ago += d
	return ago, ago > 0 && ago <= maxAgo
}

// badQuery returns an error that says what is wrong with a parameter.
func badQuery(format string, args ...any) error {
	return problem.New(http.StatusBadRequest, fmt.Sprintf(format, args...))
}

// quote returns the start of s as it may be shown.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.Quote(s)
}
