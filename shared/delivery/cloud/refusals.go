package cloud

import (
	"context"
	"errors"
	"net/http"
	"time"

	"example.com/pushinbox/shared/delivery"
)

// maxEntries is how many lines are read at most; refusals are counted as far back as
// they reach.
const maxEntries = 500

// maxPages is how many pages of them are asked for at most.
const maxPages = 3

// refusals are the lines of a report, and since when they are counted.
type refusals struct {
	lines []delivery.Refusal
	from  time.Time
}

// entry is a line of receive's log.
type entry struct {
	Timestamp   time.Time
	HTTPRequest struct{ Status int } `json:"httpRequest"`
	JSONPayload struct {
		Refusal, Error, Subscription string
		HTTPRequest                  struct{ Status int } `json:"httpRequest"`
	} `json:"jsonPayload"`
}

// fetchRefusals reads the refusals of the last day, the latest first.
func (s *Source) fetchRefusals(ctx context.Context) (refusals, error) {
	if s.cfg.LogView == "" {
		return refusals{}, errors.New("no log view of receive's lines is configured (DELIVERY_LOG_VIEW)")
	}
	now := time.Now().UTC()
	from := now.Add(-24 * time.Hour)
	var entries []entry
	token := ""
	// A page may be empty, and the search go on nevertheless.
	for range maxPages {
		var answer struct {
			Entries       []entry
			NextPageToken string
		}
		err := s.rest.call(ctx, http.MethodPost, "https://logging.googleapis.com/v2/entries:list", map[string]any{
			"resourceNames": []string{s.cfg.LogView},
			"filter":        `jsonPayload.refusal:* AND timestamp>="` + from.Format(time.RFC3339) + `"`,
			"orderBy":       "timestamp desc",
			"pageSize":      maxEntries,
			"pageToken":     token,
		}, &answer)
		if err != nil {
			return refusals{}, asked("Cloud Logging", s.cfg.LogView, "logging.views.access", "roles/logging.viewAccessor", err)
		}
		entries, token = append(entries, answer.Entries...), answer.NextPageToken
		if token == "" || len(entries) >= maxEntries {
			break
		}
	}
	switch n := len(entries); {
	case token == "":
	case n == 0:
		return refusals{}, errors.New("the lines of a day were not searched in time; look again")
	default:
		from = entries[n-1].Timestamp.UTC()
	}
	return refusals{counted(entries, now), from}, nil
}

// counted returns entries, the latest first, as lines: equal ones in one.
func counted(entries []entry, now time.Time) []delivery.Refusal {
	type kind struct {
		status               int
		reason, subscription string
	}
	at := make(map[kind]int)
	var lines []delivery.Refusal
	for _, e := range entries {
		p := &e.JSONPayload
		status := e.HTTPRequest.Status
		if status == 0 {
			status = p.HTTPRequest.Status
		}
		if p.Refusal == "" || status < 0 || status > 599 {
			continue
		}
		k := kind{status, delivery.OneLine(p.Refusal), delivery.OneLine(p.Subscription)}
		i, ok := at[k]
		if !ok {
			if len(lines) == delivery.MaxRefusals {
				continue
			}
			i = len(lines)
			at[k] = i
			lines = append(lines, delivery.Refusal{
				Last: e.Timestamp.UTC(), Status: status, Reason: k.reason, Subscription: k.subscription, Detail: delivery.OneLine(delivery.HideTokens(p.Error)),
			})
		}
		lines[i].Count++
		if now.Sub(e.Timestamp) <= time.Hour {
			lines[i].LastHour++
		}
	}
	return lines
}
