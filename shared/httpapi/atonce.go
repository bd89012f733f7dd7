package httpapi

import (
	"io"
	"net/http"
	"time"
)

const (
	// withheldTime is how long an answer waits for the rest of its request's body.
	// What has been sent by then keeps the connection open for the next request.
	withheldTime = 50 * time.Millisecond
	// answerTime is how long a client may take to read an answer that is not a
	// stream, from its first byte on.
	answerTime = time.Minute
)

// AtOnce returns next as a handler whose answers no client can delay. net/http
// reads the rest of a request's body before it sends the answer, so a client that
// announces a body and withholds it would occupy its connection, and one of the
// requests that an instance serves at a time, for ever. Here the answer is sent
// within 100 ms, and the connection of a body that did not come is closed. An
// answer is read within a minute, unless it is flushed as a stream, whose every
// piece has a minute of its own. Within a handler that AtOnce has returned it adds
// nothing.
func AtOnce(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, guarded := w.(*guard); guarded {
			next.ServeHTTP(w, r)
			return
		}
		g := &guard{ResponseWriter: w, conn: http.NewResponseController(w)}
		if r.Body != nil && r.Body != http.NoBody {
			g.body = &watchedBody{ReadCloser: r.Body, end: func() { _ = g.conn.SetReadDeadline(time.Time{}) }}
			r = r.WithContext(r.Context()) // the server goes on reading its own request's Body
			r.Body = g.body
		} else {
			// A server's time for a request is over when the request is: a stream
			// would end with it.
			_ = g.conn.SetReadDeadline(time.Time{})
		}
		_ = g.conn.SetWriteDeadline(time.Time{}) // the last answer's
		// A handler that writes nothing answers 200, after it has returned.
		defer g.answering()
		next.ServeHTTP(g, r)
	})
}

// watchedBody knows whether a body was read to its end, at which the time for
// reading a request is over: a handler that takes longer would seem to have lost its
// client.
type watchedBody struct {
	io.ReadCloser
	ended bool
	end   func()
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && !b.ended {
		b.ended = true
		b.end()
	}
	return n, err
}

// guard sets the deadlines of an answer before its first byte.
type guard struct {
	http.ResponseWriter
	conn     *http.ResponseController
	body     *watchedBody
	answered bool
}

// answering runs before the first byte of an answer. A server without deadlines
// (a test's recorder) has no client that could withhold anything.
func (g *guard) answering() {
	if g.answered {
		return
	}
	g.answered = true
	now := time.Now()
	if g.body != nil && !g.body.ended {
		_ = g.conn.SetReadDeadline(now.Add(withheldTime))
	}
	_ = g.conn.SetWriteDeadline(now.Add(answerTime))
}

func (g *guard) WriteHeader(status int) {
	if status >= 200 {
		g.answering()
	}
	g.ResponseWriter.WriteHeader(status)
}

func (g *guard) Write(b []byte) (int, error) {
	g.answering()
	return g.ResponseWriter.Write(b)
}

// FlushError sends what was written of a stream.
func (g *guard) FlushError() error {
	g.answering()
	_ = g.conn.SetWriteDeadline(time.Now().Add(answerTime))
	return g.conn.Flush()
}

// Unwrap lets http.ResponseController reach the real writer.
func (g *guard) Unwrap() http.ResponseWriter { return g.ResponseWriter }
