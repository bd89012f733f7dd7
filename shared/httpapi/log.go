package httpapi

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"example.com/pushinbox/shared/problem"
)

// What is logged of one text, in characters. Much of it is a stranger's, and JSON
// writes some of their bytes as six.
const (
	maxField = 256
	maxError = 4096 // of an error, whose stack is worth more, or a message
)

// NewLogger returns a logger that writes JSON lines with the keys that Cloud
// Logging reads: severity, message and time. No text in them is longer than 256
// characters, no error and no message longer than 4,096: the rest is cut off.
func NewLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: cloudKeys}))
}

func cloudKeys(groups []string, a slog.Attr) slog.Attr {
	limit := maxField
	if a.Value.Kind() == slog.KindAny {
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(err.Error())
		}
	}
	if len(groups) == 0 && (a.Key == slog.MessageKey || a.Key == "error") {
		limit = maxError
	}
	a.Key = cut(a.Key, maxField)
	if a.Value.Kind() == slog.KindString {
		a.Value = slog.StringValue(cut(a.Value.String(), limit))
	}
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.LevelKey:
		a.Key = "severity"
		if level, ok := a.Value.Any().(slog.Level); ok && level == slog.LevelWarn {
			a.Value = slog.StringValue("WARNING")
		}
	case slog.MessageKey:
		a.Key = "message"
	}
	return a
}

// Handle returns next as an http.Handler: its errors are answered with
// WriteError, its panics with 500, and each request is logged in one line, 4xx
// as a warning and 5xx as an error, or as a warning where the client has left.
// The query is not logged, since it may hold a secret. project is the Google Cloud project of the traces.
func Handle(log *slog.Logger, project string, next HandlerFunc) http.Handler {
	return HandleWith(log, project, next, func(w http.ResponseWriter, _ *http.Request, err error) { WriteError(w, err) })
}

// HandleWith is Handle with another form of errors: writeError answers with an
// error of next unless next has begun an answer.
func HandleWith(log *slog.Logger, project string, next HandlerFunc, writeError func(w http.ResponseWriter, r *http.Request, err error)) http.Handler {
	return AtOnce(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		var line line
		defer line.release()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		r = r.WithContext(context.WithValue(r.Context(), lineKey{}, &line))
		err := call(next, rec, r)
		if err != nil && !rec.wrote {
			writeError(rec, r, err)
		}
		level := slog.LevelInfo
		switch {
		case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
			level = slog.LevelWarn // the client has left: nobody gets the answer
		case rec.status >= 500 || err != nil && rec.status < 400:
			level = slog.LevelError
		case rec.status >= 400:
			level = slog.LevelWarn
		}
		if !log.Enabled(r.Context(), level) {
			return
		}
		attrs := append(line.attrs[:line.n],
			slog.Group("httpRequest",
				slog.String("requestMethod", r.Method),
				slog.String("requestUrl", cmp.Or(r.URL.Path, "/")),
				slog.Int("status", rec.status),
				slog.String("userAgent", r.UserAgent()),
				slog.String("latency", strconv.FormatFloat(time.Since(start).Seconds(), 'f', 6, 64)+"s"),
			))
		if err != nil {
			attrs = append(attrs, slog.String("error", err.Error()), slog.String("refusal", problem.Reason(err)))
		}
		attrs = appendTrace(attrs, project, r.Header)
		message := line.outcome
		if message == "" {
			message = r.Method + " " + strconv.Itoa(rec.status)
		}
		log.LogAttrs(r.Context(), level, message, attrs...)
	}))
}

// line is what a handler adds to its request's log line, and the memory that
// the request has reserved.
type line struct {
	outcome  string
	attrs    [8]slog.Attr
	n        int
	reserved []func()
}

// release gives back what the request has reserved.
func (l *line) release() {
	for _, f := range l.reserved {
		f()
	}
}

type lineKey struct{}

// Outcome sets the message of the request's log line, such as "stored".
func Outcome(ctx context.Context, outcome string) {
	if l, ok := ctx.Value(lineKey{}).(*line); ok {
		l.outcome = outcome
	}
}

// Log adds attributes to the request's log line; it holds at most eight.
// Never pass a payload or a secret.
func Log(ctx context.Context, attrs ...slog.Attr) {
	if l, ok := ctx.Value(lineKey{}).(*line); ok {
		l.n += copy(l.attrs[l.n:], attrs)
	}
}

// appendTrace adds Cloud Logging's trace keys from the W3C traceparent header
// or, without one, from X-Cloud-Trace-Context. A malformed header is ignored.
func appendTrace(attrs []slog.Attr, project string, h http.Header) []slog.Attr {
	trace, span, sampled, ok := Traceparent(h.Get("Traceparent"))
	if id, rest, found := strings.Cut(h.Get("X-Cloud-Trace-Context"), "/"); !ok && found {
		decimal, options, _ := strings.Cut(rest, ";")
		if n, err := strconv.ParseUint(decimal, 10, 64); err == nil {
			trace, sampled = id, options == "o=1"
			span = strconv.FormatUint(n, 16)
			span = strings.Repeat("0", 16-len(span)) + span
		}
	}
	if project == "" || !isHex(trace, 32) || !isHex(span, 16) {
		return attrs
	}
	return append(attrs,
		slog.String("logging.googleapis.com/trace", TraceName(project, trace)),
		slog.String("logging.googleapis.com/spanId", span),
		slog.Bool("logging.googleapis.com/trace_sampled", sampled))
}

// TraceName returns the name of a trace as Cloud Logging and Cloud Trace know it.
func TraceName(project, trace string) string { return "projects/" + project + "/traces/" + trace }

// Traceparent reads the value of a traceparent, as W3C's Trace Context defines its
// version 00 and what later versions keep of it. ok is false where it is malformed.
func Traceparent(s string) (trace, span string, sampled, ok bool) {
	parts := strings.Split(s, "-")
	if len(parts) < 4 || len(s) > maxField || parts[0] == "00" && len(parts) > 4 || parts[0] == "ff" ||
		!isHex(parts[0], 2) || !isHex(parts[1], 32) || !isHex(parts[2], 16) || !isHex(parts[3], 2) ||
		strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" || s != strings.ToLower(s) {
		return "", "", false, false
	}
	flags, _ := strconv.ParseUint(parts[3], 16, 8)
	return parts[1], parts[2], flags&1 == 1, true
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// recorder records the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote {
		r.status, r.wrote = status, status >= 200
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the real writer.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// cut returns the first n characters of s, and a mark if there are more.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range s {
		if n--; n < 0 {
			return s[:i] + "…"
		}
	}
	return s
}
