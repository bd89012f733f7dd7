package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

func TestErrorBecomesProblem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    error
		status int
		detail string
		reason string
		header map[string]string
	}{
		"own_status_with_cause_hidden": {
			&problem.Error{Status: 400, Detail: "bad", Cause: errors.New("secret")}, 400, "bad", "malformed", nil,
		},
		"wrapped_status": {
			fmt.Errorf("around: %w", problem.Named("audience", 403, "no")), 403, "no", "audience", nil,
		},
		"unauthorized_says_how": {
			problem.New(401, "who?"), 401, "who?", "unauthorized", map[string]string{"Www-Authenticate": "Bearer"},
		},
		"unavailable_says_when": {
			problem.New(503, "down"), 503, "down", "unavailable", map[string]string{"Retry-After": "5"},
		},
		"deadline": {
			fmt.Errorf("secret: %w", context.DeadlineExceeded), 503, "the request took too long; try again", "timeout", nil,
		},
		"anything_else": {
			errors.New("secret"), 500, "an internal error; the log has the cause", "internal", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			httpapi.WriteError(w, test.err)
			var got struct {
				Title, Detail, Reason string
				Status                int
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if w.Code != test.status || got.Status != test.status || got.Detail != test.detail || got.Reason != test.reason || got.Title != http.StatusText(test.status) {
				t.Errorf("got %d %+v", w.Code, got)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type = %q", ct)
			}
			for k, v := range test.header {
				if w.Header().Get(k) != v {
					t.Errorf("%s = %q, want %q", k, w.Header().Get(k), v)
				}
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("the cause is in the answer: %s", w.Body)
			}
		})
	}
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body    string
		chunked bool
		claimed int64
		status  int
	}{
		"exact_limit":           {"12345678", false, 8, 0},
		"exact_limit_chunked":   {"12345678", true, 0, 0},
		"empty":                 {"", false, 0, 0},
		"announced_too_large":   {"123456789", false, 9, 413},
		"one_too_many_unsaid":   {"123456789", true, 0, 413},
		"shorter_than_promised": {"123", false, 5, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodPost, "/", io.NopCloser(strings.NewReader(test.body)))
			r.ContentLength = test.claimed
			if test.chunked {
				r.ContentLength = -1
			}
			var got []byte
			var err error
			httpapi.Handle(slog.New(slog.DiscardHandler), "", func(w http.ResponseWriter, r *http.Request) error {
				got, err = httpapi.ReadBody(w, r, 8, 1)
				return err
			}).ServeHTTP(httptest.NewRecorder(), r)
			if test.status == 0 {
				if err != nil || string(got) != test.body {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			if status, _ := problem.Of(err); err == nil || status != test.status {
				t.Errorf("got %v, want status %d", err, test.status)
			}
		})
	}
}

// logged returns the one line that a request leaves in the log.
func logged(t *testing.T, h httpapi.HandlerFunc, r *http.Request) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	var buf bytes.Buffer
	w := httptest.NewRecorder()
	httpapi.Handle(httpapi.NewLogger(&buf), "p", h).ServeHTTP(w, r)
	if n := strings.Count(buf.String(), "\n"); n != 1 {
		t.Fatalf("%d log lines, want one: %s", n, buf.String())
	}
	var line map[string]any
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	return w, line
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodPost, "/push?token=hush", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	r.Header.Set("Authorization", "Bearer hush")
	_, line := logged(t, func(w http.ResponseWriter, r *http.Request) error {
		httpapi.Outcome(r.Context(), "stored")
		httpapi.Log(r.Context(), slog.String("messageId", "7"))
		w.WriteHeader(http.StatusNoContent)
		return nil
	}, r)
	want := map[string]any{
		"severity": "INFO", "message": "stored", "messageId": "7",
		"logging.googleapis.com/trace":         "projects/p/traces/0af7651916cd43dd8448eb211c80319c",
		"logging.googleapis.com/spanId":        "b7ad6b7169203331",
		"logging.googleapis.com/trace_sampled": true,
	}
	request, _ := line["httpRequest"].(map[string]any)
	delete(line, "time")
	delete(line, "httpRequest")
	if diff := cmp.Diff(want, line); diff != "" {
		t.Error(diff)
	}
	if request["status"] != 204.0 || request["requestUrl"] != "/push" {
		t.Errorf("httpRequest = %v", request)
	}
	if strings.Contains(fmt.Sprint(request), "hush") {
		t.Errorf("a secret is in the log: %v", request)
	}
}

func TestAccessLogSeverity(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{400: "WARNING", 403: "WARNING", 500: "ERROR", 503: "ERROR"} {
		w, line := logged(t, func(http.ResponseWriter, *http.Request) error {
			return &problem.Error{Status: status, Detail: "d", Cause: errors.New("why")}
		}, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != status || line["severity"] != want || line["error"] != "d: why" {
			t.Errorf("%d: answered %d, logged %v", status, w.Code, line)
		}
	}
}

// TestAccessLogOfAClientThatLeft has a client go away, which is no fault of the server; a
// request whose own time is over is.
func TestAccessLogOfAClientThatLeft(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		left bool
		err  error
		want string
	}{
		"left":             {true, fmt.Errorf("reading: %w", context.Canceled), "WARNING"},
		"left_and_a_fault": {true, errors.New("a bug"), "ERROR"},
		"stays":            {false, fmt.Errorf("reading: %w", context.Canceled), "ERROR"},
		"too_slow":         {false, context.DeadlineExceeded, "ERROR"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		_, line := logged(t, func(http.ResponseWriter, *http.Request) error {
			if test.left {
				cancel()
			}
			return test.err
		}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		cancel()
		if line["severity"] != test.want {
			t.Errorf("%s: logged %v", name, line)
		}
	}
}

func TestCloudTraceHeader(t *testing.T) {
	t.Parallel()
	for header, span := range map[string]any{
		"105445aa7843bc8bf206b12000100000/255;o=1": "00000000000000ff",
		"105445aa7843bc8bf206b12000100000/x;o=1":   nil,
		"short/1;o=1":                              nil,
		"":                                         nil,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Cloud-Trace-Context", header)
		_, line := logged(t, func(http.ResponseWriter, *http.Request) error { return nil }, r)
		if line["logging.googleapis.com/spanId"] != span {
			t.Errorf("%q: span %v, want %v", header, line["logging.googleapis.com/spanId"], span)
		}
	}
}

func TestPanicIs500(t *testing.T) {
	t.Parallel()
	w, line := logged(t, func(http.ResponseWriter, *http.Request) error {
		panic("a bug with a secret")
	}, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	if cause, _ := line["error"].(string); !strings.Contains(cause, "httpapi_test.go") {
		t.Errorf("no stack in the log: %v", line)
	}
}

func TestFunctionStartsOnFirstUse(t *testing.T) {
	t.Parallel()
	opened := 0
	serve := httpapi.Function("receive", "publish", slog.New(slog.DiscardHandler), func(context.Context) (http.Handler, error) {
		opened++
		return http.NotFoundHandler(), nil
	})
	if opened != 0 {
		t.Error("opened before it was used")
	}
	for range 2 {
		serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}
	if opened != 1 {
		t.Errorf("opened %d times, want once", opened)
	}
}

func TestFunctionWithBadSettings(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	serve := httpapi.Function("receive", "", httpapi.NewLogger(&buf), func(context.Context) (http.Handler, error) {
		return nil, errors.New("PUSH_AUDIENCE is empty")
	})
	w := httptest.NewRecorder()
	serve(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != 503 || strings.Contains(w.Body.String(), "PUSH_AUDIENCE") || !strings.Contains(buf.String(), "PUSH_AUDIENCE") {
		t.Errorf("answered %d %s, logged %s", w.Code, w.Body, buf.String())
	}
}
