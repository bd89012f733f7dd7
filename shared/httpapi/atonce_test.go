package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// TestAnswersAtOnce announces bodies and withholds them. Whatever was decided is
// answered at once, and the connection closes.
func TestAnswersAtOnce(t *testing.T) {
	t.Parallel()
	refuse := func(http.ResponseWriter, *http.Request) error { return problem.New(http.StatusUnauthorized, "who?") }
	succeed := func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	silent := func(http.ResponseWriter, *http.Request) error { return nil }
	stream := func(w http.ResponseWriter, _ *http.Request) error {
		if _, err := io.WriteString(w, "data: 1\n\n"); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}
	half := func(w http.ResponseWriter, r *http.Request) error {
		if _, err := io.ReadFull(r.Body, make([]byte, 3)); err != nil {
			return err
		}
		return problem.New(http.StatusBadRequest, "what?")
	}
	panics := func(http.ResponseWriter, *http.Request) error { panic("a bug") }
	for name, test := range map[string]struct {
		handler httpapi.HandlerFunc
		head    string
		status  int
	}{
		"refused":                {refuse, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", 401},
		"refused_after_a_part":   {refuse, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", 401},
		"refused_large":          {refuse, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nabc", 401},
		"refused_chunked":        {refuse, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 401},
		"refused_half_a_chunk":   {refuse, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 401},
		"refused_no_trailer":     {refuse, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", 401},
		"refused_expecting":      {refuse, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n", 401},
		"refused_get":            {refuse, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", 401},
		"refused_http_1_0":       {refuse, "POST / HTTP/1.0\r\nContent-Length: 10\r\n\r\n", 401},
		"refused_keep_alive":     {refuse, "POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 10\r\n\r\n", 401},
		"succeeded_unread":       {succeed, "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", 204},
		"succeeded_in_silence":   {silent, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", 200},
		"stream":                 {stream, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", 200},
		"refused_after_reading":  {half, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", 400},
		"refused_expecting_half": {half, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\nabc", 400},
		"panic":                  {panics, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(httpapi.Handle(slog.New(slog.DiscardHandler), "", test.handler))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			// Far less than for ever, and enough for a busy machine.
			if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, test.head); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(conn)
			answer, err := http.ReadResponse(in, nil)
			if err == nil && answer.StatusCode == http.StatusContinue {
				answer, err = http.ReadResponse(in, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != test.status {
				t.Errorf("answered %d, want %d", answer.StatusCode, test.status)
			}
			if _, err := io.Copy(io.Discard, answer.Body); err != nil {
				t.Error(err)
			}
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("the connection stays open: %v", err)
			}
		})
	}
}

// TestKeepsHonestConnections refuses a request whose body is all there, and
// answers the next one on the same connection.
func TestKeepsHonestConnections(t *testing.T) {
	t.Parallel()
	n := 0
	server := httptest.NewServer(httpapi.Handle(slog.New(slog.DiscardHandler), "", func(http.ResponseWriter, *http.Request) error {
		n++
		return problem.New(http.StatusForbidden, fmt.Sprint("no ", n))
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	for i := range 3 {
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil || !strings.Contains(string(body), fmt.Sprint("no ", i+1)) {
			t.Errorf("answered %s, %v", body, err)
		}
	}
}

// TestLogIsBounded has a stranger fill every field of a request's log line.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\xff", 900_000)
	var out strings.Builder
	h := httpapi.Handle(httpapi.NewLogger(&out), "p", func(_ http.ResponseWriter, r *http.Request) error {
		httpapi.Log(r.Context(), slog.String("messageId", long), slog.Group("access", slog.String("host", long)),
			slog.Any("cause", fmt.Errorf("no %s", long)), slog.String(long, "v"))
		return fmt.Errorf("%w: %s", problem.New(http.StatusBadRequest, "no"), long)
	})
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Method, r.URL.Path = long, "/"+long
	for _, name := range []string{"User-Agent", "Traceparent", "X-Cloud-Trace-Context"} {
		r.Header.Set(name, long)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	if n := out.Len(); n == 0 || n > 64<<10 {
		t.Errorf("%d bytes were logged", n)
	}
}
