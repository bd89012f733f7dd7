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

// writePage answers with a page as JSON, one message after the other. A failed write
// means that the reader left, which is not an error.
func writePage(w http.ResponseWriter, page *inbox.Page) error {
	jsonHeader(w)
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(`{"messages":[`)
	for i, e := range page.Events {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		b, err := json.Marshal(&e.Message)
		if err != nil {
			return err
		}
		if _, err := out.Write(b); err != nil {
			return nil
		}
	}
	// A token has nothing that JSON escapes.
	_ = out.WriteByte(']')
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
