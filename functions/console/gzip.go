package console

import (
	"compress/gzip"
	"net/http"
	"strings"

	"example.com/pushinbox/shared/httpapi"
)

// maxCompressors is how many answers are compressed at once, each with about 0.8 MB
// of memory. Further ones are sent as they are.
const maxCompressors = 8

// compressors has those that are free.
var compressors = func() chan *gzip.Writer {
	free := make(chan *gzip.Writer, maxCompressors)
	for range maxCompressors {
		free <- nil // built on first use
	}
	return free
}()

// compressed returns next with its answers compressed for clients that accept gzip.
// They are not buffered: what next writes is sent on as it is compressed. Errors that
// next returns are answered by its caller, as they are.
func compressed(next httpapi.HandlerFunc) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != http.MethodGet {
			return next(w, r)
		}
		c := &compressing{ResponseWriter: w, isWanted: acceptsGzip(r)}
		defer c.end()
		return next(c, r)
	}
}

// acceptsGzip reports whether r names gzip among its encodings, and not with the
// weight 0.
func acceptsGzip(r *http.Request) bool {
	for _, values := range r.Header["Accept-Encoding"] {
		for encoding := range strings.SplitSeq(values, ",") {
			name, weight, _ := strings.Cut(encoding, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				return strings.Trim(strings.TrimPrefix(strings.TrimSpace(weight), "q="), "0.") != "" || weight == ""
			}
		}
	}
	return false
}

// compressing is a writer that compresses what is written.
type compressing struct {
	http.ResponseWriter
	isWanted, begun bool
	out             *gzip.Writer
}

// WriteHeader begins the answer.
func (c *compressing) WriteHeader(status int) {
	if !c.begun && status >= http.StatusOK {
		c.begun = true
		h := c.Header()
		h.Add("Vary", "Accept-Encoding")
		hasBody := status != http.StatusNoContent && status != http.StatusNotModified && status != http.StatusSeeOther
		if c.isWanted && hasBody && h.Get("Content-Encoding") == "" {
			select {
			case c.out = <-compressors:
				if c.out == nil {
					c.out, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed)
				}
				c.out.Reset(c.ResponseWriter)
				h.Set("Content-Encoding", "gzip")
				h.Del("Content-Length")
			default:
			}
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *compressing) Write(b []byte) (int, error) {
	if !c.begun {
		c.WriteHeader(http.StatusOK)
	}
	if c.out == nil {
		return c.ResponseWriter.Write(b)
	}
	return c.out.Write(b)
}

// Unwrap lets http.ResponseController reach the real writer.
func (c *compressing) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// end ends the answer, if any has begun.
func (c *compressing) end() {
	if c.out != nil {
		_ = c.out.Close() // it fails when the reader has left
		compressors <- c.out
		c.out = nil
	}
}
