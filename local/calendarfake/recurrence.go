package calendarfake

import (
	"fmt"
	"strings"
	"time"

	"github.com/teambition/rrule-go"
)

const (
	// horizon is how far into the future series without an end are expanded, in
	// years, from now or from timeMin.
	horizon = 2
	// maxInstances is the largest number of instances of one series in a list.
	maxInstances = 10_000
)

// form is how a start or an end is written, and how in the ID of an instance.
type form struct{ field, layout, suffix string }

var forms = []form{{"date", time.DateOnly, "20060102"}, {"dateTime", time.RFC3339, "20060102T150405Z"}}

// when returns the time of a start or an end, in its zone, and how it is written.
// A date is midnight in UTC.
func when(t any) (time.Time, form) {
	fields, _ := t.(map[string]any)
	for _, f := range forms {
		text, _ := fields[f.field].(string)
		at, err := time.Parse(f.layout, text)
		if err != nil {
			continue
		}
		_, offset := at.Zone()
		zone, err := zoneOf(fields)
		if err != nil || zone == nil || f.field == "date" {
			zone = time.FixedZone("", offset) // time.Parse may choose that of the machine
		}
		return at.In(zone), f
	}
	return time.Time{}, forms[0]
}

// span returns when an event begins and ends.
func (e *event) span() (begin, end time.Time) {
	begin, _ = when(e.Body["start"])
	end, _ = when(e.Body["end"])
	return begin, end
}

// lastStart is when series without an end end here, so that a rule which no day fits
// is not searched for ever.
var lastStart = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// series returns the starts of a recurring event, or nil for another event.
func (e *event) series() (*rrule.Set, error) {
	lines, ok := e.Body["recurrence"].([]any)
	if e.Body["recurrence"] != nil && !ok {
		return nil, invalid("Invalid value for recurrence: it must be a list.")
	}
	if len(lines) == 0 {
		return nil, nil
	}
	begin, _ := when(e.Body["start"])
	texts := make([]string, len(lines))
	rules := 0
	for i, line := range lines {
		texts[i] = fmt.Sprint(line)
		switch name := texts[i][:strings.IndexAny(texts[i]+":", ":;")]; strings.ToUpper(name) {
		case "RRULE":
			rules++
		case "RDATE", "EXDATE":
		default:
			return nil, invalid("Invalid recurrence rule: this stand-in knows RRULE, RDATE and EXDATE.")
		}
	}
	set, err := rrule.StrSliceToRRuleSetInLoc(texts, begin.Location())
	switch {
	case err != nil:
		return nil, invalid("Invalid recurrence rule.")
	case rules > 1:
		return nil, invalid("Invalid recurrence rule: this stand-in knows one RRULE in a series.")
	}
	if rule := set.GetRRule(); rule != nil {
		if rule.OrigOptions.Freq > rrule.DAILY {
			return nil, invalid("Invalid recurrence rule: FREQ must be YEARLY, MONTHLY, WEEKLY or DAILY.")
		}
		if until := rule.OrigOptions.Until; until.IsZero() || until.After(lastStart) {
			rule.Until(lastStart)
		}
	}
	set.DTStart(begin)
	return set, nil
}

// starts returns when the instances of a series start that end after from and start
// before to, up to a number. A zero from or to is no bound.
func (e *event) starts(from, to time.Time, most int) (all []time.Time) {
	set, err := e.series()
	if err != nil || set == nil {
		return nil
	}
	begin, end := e.span()
	for next := set.Iterator(); len(all) < most; {
		at, ok := next()
		if !ok || !to.IsZero() && !at.Before(to) {
			break
		}
		if at.Add(end.Sub(begin)).After(from) {
			all = append(all, at)
		}
	}
	return all
}

// instances returns the instances that starts says, without those that are events of
// their own.
func (c *calendar) instances(e *event, from, to time.Time, most int) []*event {
	var all []*event
	for _, at := range e.starts(from, to, most) {
		if c.Events[e.instanceID(at)] == nil {
			all = append(all, e.at(at))
		}
	}
	return all
}

// instance returns the instance of a series with this ID, as an event that is not
// stored yet, or nil when there is none.
func (e *event) instance(suffix string) *event {
	set, err := e.series()
	if err != nil || set == nil {
		return nil
	}
	_, f := when(e.Body["start"])
	at, err := time.Parse(f.suffix, suffix)
	if err != nil || len(set.Between(at, at, true)) == 0 {
		return nil
	}
	return e.at(at)
}

func (e *event) instanceID(start time.Time) string {
	_, f := when(e.Body["start"])
	return e.Body["id"].(string) + "_" + start.UTC().Format(f.suffix)
}

// at returns the instance of a series that starts at a time.
func (e *event) at(start time.Time) *event {
	begin, f := when(e.Body["start"])
	_, end := e.span()
	shift := func(t any, to time.Time) map[string]any {
		moved := map[string]any{f.field: to.In(begin.Location()).Format(f.layout)}
		if zone := t.(map[string]any)["timeZone"]; zone != nil {
			moved["timeZone"] = zone
		}
		return moved
	}
	body := make(Event, len(e.Body)+2)
	for name, value := range e.Body {
		if name != "recurrence" {
			body[name] = value
		}
	}
	body["id"], body["recurringEventId"] = e.instanceID(start), e.Body["id"]
	body["originalStartTime"] = shift(e.Body["start"], start)
	body["start"], body["end"] = shift(e.Body["start"], start), shift(e.Body["end"], start.Add(end.Sub(begin)))
	return &event{Body: body, Version: e.Version}
}
