package stack

import (
	"encoding/json"
	"net/http"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// SentPath is where `pushinbox send` tells what it sent, so that it is shown beside
// the deliveries.
const SentPath = "/local/sent"

// maxSent is the size of the largest report of a sent push, in bytes.
const maxSent = 64 << 10

// Sent is a recorded push that `pushinbox send` posted, to any program.
type Sent struct {
	Name       string `json:"sent"` // of the file
	URL        string `json:"url"`
	Status     int    `json:"status"`
	Acked      bool   `json:"acked"`
	DurationMS int64  `json:"durationMs"`
}

// sent passes on what programs of this machine report.
func (s *Stack) sent(w http.ResponseWriter, r *http.Request) {
	b, err := httpapi.ReadBody(w, r, maxSent, 1)
	if err != nil {
		httpapi.WriteError(w, err)
		return
	}
	var sent Sent
	if err := json.Unmarshal(b, &sent); err != nil || sent.Name == "" {
		httpapi.WriteError(w, &problem.Error{Status: http.StatusBadRequest, Detail: "this is not a report of a sent push", Cause: err})
		return
	}
	if s.options.OnSent != nil {
		s.options.OnSent(sent)
	}
	w.WriteHeader(http.StatusNoContent)
}
