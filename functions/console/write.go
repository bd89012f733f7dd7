package console

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"example.com/pushinbox/shared/inbox"
)

// jsonHeader begins an answer in JSON that is written piece by piece, so that no
// second copy of it is in memory.
func jsonHeader(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
}

// writeMessages begins an answer in JSON with messages, one after the other, and with the
// token after each if the reader is to have it; the caller ends it. A failed write means
// that the reader left, which is not an error.
func writeMessages(w http.ResponseWriter, events []inbox.Event, withTokens bool) (*bufio.Writer, error) {
	jsonHeader(w)
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(`{"messages":[`)
	for i := range events {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		b, err := json.Marshal(&events[i].Message)
		if err != nil {
			return nil, err
		}
		// A message is an object with members, and a token has nothing that JSON escapes.
		if withTokens {
			_, _ = out.WriteString(`{"token":"` + events[i].Token + `",`)
			b = b[1:]
		}
		if _, err := out.Write(b); err != nil {
			break // all writes after it fail, too
		}
	}
	_ = out.WriteByte(']')
	return out, nil
}

// writePage answers with a page as JSON.
func writePage(w http.ResponseWriter, page *inbox.Page) error {
	out, err := writeMessages(w, page.Events, false)
	if err != nil {
		return err
	}
	if page.NextPageToken != "" {
		_, _ = out.WriteString(`,"nextPageToken":"` + page.NextPageToken + `"`)
	}
	if page.WatchToken != "" {
		_, _ = out.WriteString(`,"watchToken":"` + page.WatchToken + `"`)
	}
	if page.Examined > 0 {
		_, _ = fmt.Fprintf(out, `,"examined":%d`, page.Examined)
	}
	if t := page.ExaminedUntil; !t.IsZero() {
		_, _ = out.WriteString(`,"examinedUntil":"` + exact(t) + `"`)
	}
	_, _ = out.WriteString("}\n")
	_ = out.Flush()
	return nil
}

// writeMessage answers with a message as JSON, its data encoded as they are sent.
func writeMessage(w http.ResponseWriter, m *inbox.Message) error {
	const noData = `"data":""`
	bare := *m
	bare.Data = nil
	b, err := json.Marshal(&bare)
	if err != nil {
		return err
	}
	// Quotes within a text are escaped, so that this is the member itself.
	before, after, _ := bytes.Cut(b, []byte(noData))
	jsonHeader(w)
	out := bufio.NewWriterSize(w, 32<<10)
	_, _ = out.Write(before)
	_, _ = out.WriteString(noData[:len(noData)-1])
	encoder := base64.NewEncoder(base64.StdEncoding, out)
	_, _ = encoder.Write(m.Data)
	_ = encoder.Close()
	_ = out.WriteByte('"')
	_, _ = out.Write(after)
	_ = out.WriteByte('\n')
	_ = out.Flush()
	return nil
}
