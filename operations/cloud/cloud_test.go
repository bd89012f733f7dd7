package cloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/api/option"

	"example.com/pushinbox/operations"
)

// google answers as Google's APIs document it. It is a stand-in: the clients are
// real, the service is not.
func google(t *testing.T, answers map[string]string) (*Cloud, *[]string) {
	t.Helper()
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery+" "+string(b))
		w.Header().Set("Content-Type", "application/json")
		answer, ok := answers[r.URL.Path]
		if m := r.URL.Query().Get("filter"); !ok && m != "" {
			for key, a := range answers {
				if strings.Contains(m, key) {
					answer, ok = a, true
				}
			}
		}
		if !ok {
			w.WriteHeader(http.StatusForbidden)
			answer = `{"error": {"code": 403, "message": "The caller does not have permission", "status": "PERMISSION_DENIED"}}`
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	return &Cloud{Options: []option.ClientOption{option.WithEndpoint(server.URL), option.WithoutAuthentication()}}, &bodies
}

func TestActAs(t *testing.T) {
	t.Parallel()
	const path = "/v1/projects/-/serviceAccounts/push@p.iam.gserviceaccount.com:testIamPermissions"
	for test, c := range map[string]struct {
		answers map[string]string
		want    string
	}{
		"may":       {map[string]string{path: `{"permissions": ["iam.serviceAccounts.actAs"]}`}, ""},
		"may_not":   {map[string]string{path: `{}`}, "you need iam.serviceAccounts.actAs on push@p.iam.gserviceaccount.com"},
		"not_asked": {nil, "403 The caller does not have permission"},
	} {
		cloud, _ := google(t, c.answers)
		err := cloud.ActAs(t.Context(), "push@p.iam.gserviceaccount.com")
		if c.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", test, err)
		}
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	const version = "projects/p/secrets/s/versions/3"
	cloud, _ := google(t, map[string]string{"/v1/" + version + ":access": `{"payload": {"data": "c2VjcmV0LXZhbHVl"}}`})
	if got, err := cloud.Secret(t.Context(), version); got != "secret-value" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := cloud.Secret(t.Context(), version+"0"); err == nil || !strings.Contains(err.Error(), "secretmanager.versions.access") {
		t.Errorf("refused: %v", err)
	}
}

func TestPrincipal(t *testing.T) {
	t.Parallel()
	cloud, _ := google(t, map[string]string{"/userinfo/v2/me": `{"email": "operator@example.com"}`})
	if got, err := cloud.Principal(t.Context()); got != "operator@example.com" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNow has this machine's clock be wrong by an hour, whether Google tells who calls or
// refuses to.
func TestNow(t *testing.T) {
	t.Parallel()
	var asked url.Values
	for name, c := range map[string]struct {
		status     int
		ahead, off time.Duration
	}{
		"behind":     {http.StatusOK, time.Hour, 2 * time.Second},
		"ahead":      {http.StatusOK, -time.Hour, 2 * time.Second},
		"refused":    {http.StatusForbidden, -time.Hour, 2 * time.Second},
		"as_it_is":   {http.StatusOK, 2 * time.Second, 0},
		"never_told": {0, 0, 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = r.URL.Query()
			w.Header().Set("Date", time.Now().Add(c.ahead).UTC().Format(http.TimeFormat))
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, `{"email": "operator@example.com"}`)
		}))
		t.Cleanup(server.Close)
		cloud := &Cloud{Options: []option.ClientOption{option.WithEndpoint(server.URL), option.WithoutAuthentication()}}
		want := time.Duration(0)
		if c.status != 0 {
			if _, err := cloud.Principal(t.Context()); (err == nil) != (c.status == http.StatusOK) {
				t.Errorf("%s: %v", name, err)
			}
			if c.off != 0 {
				want = c.ahead
			}
		}
		if ahead := time.Until(cloud.Now()); (ahead - want).Abs() > c.off+time.Second {
			t.Errorf("%s: it is %v, want %v", name, ahead, want)
		}
		if c.status != http.StatusOK {
			continue
		}
		if _, err := cloud.Backlog(t.Context(), "projects/p/subscriptions/dead"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if end, err := time.Parse(time.RFC3339, asked.Get("interval.endTime")); err != nil || (time.Until(end)-want).Abs() > c.off+2*time.Second {
			t.Errorf("%s: the backlog is asked for until %v, %v", name, end, err)
		}
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	entry := operations.Entry{Time: time.Now(), Principal: "operator@example.com", Action: "delivery.pause", Target: "projects/p/subscriptions/s", Outcome: "begun"}
	cloud, bodies := google(t, map[string]string{"/v2/entries:write": `{}`})
	if err := (&Log{cloud, "projects/p/logs/pushinbox-operations"}).Write(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut((*bodies)[0], "{")
	var sent struct {
		Entries []struct {
			LogName     string
			JSONPayload map[string]string
		}
	}
	if err := json.Unmarshal([]byte("{"+body), &sent); err != nil || len(sent.Entries) != 1 {
		t.Fatal(err, body)
	}
	e := sent.Entries[0]
	if e.LogName != "projects/p/logs/pushinbox-operations" || e.JSONPayload["principal"] != entry.Principal || e.JSONPayload["action"] != entry.Action ||
		e.JSONPayload["target"] != entry.Target || e.JSONPayload["outcome"] != "begun" {
		t.Errorf("the line is %+v", e)
	}
	denied, _ := google(t, nil)
	if err := (&Log{denied, "projects/p/logs/l"}).Write(t.Context(), entry); err == nil || !strings.Contains(err.Error(), "logging.logEntries.create") {
		t.Errorf("refused: %v", err)
	}
}

func TestBacklog(t *testing.T) {
	t.Parallel()
	point := func(at string, value int) string {
		return fmt.Sprintf(`{"interval": {"startTime": %q, "endTime": %[1]q}, "value": {"int64Value": "%d"}}`, at, value)
	}
	series := func(points ...string) string {
		return `{"timeSeries": [{"points": [` + strings.Join(points, ", ") + `]}]}`
	}
	cloud, asked := google(t, map[string]string{
		"num_undelivered_messages":   series(point("2026-11-26T03:02:00Z", 7), point("2026-11-26T03:01:00Z", 9)),
		"oldest_unacked_message_age": series(point("2026-11-26T03:02:00Z", 90)),
	})
	b, err := cloud.Backlog(t.Context(), "projects/p/subscriptions/dead")
	if err != nil || b.Messages != 7 || b.Oldest != 90*time.Second || b.At.Format(time.TimeOnly) != "03:02:00" {
		t.Errorf("%+v, %v", b, err)
	}
	if !strings.HasPrefix((*asked)[0], "GET /v3/projects/p/timeSeries?") || !strings.Contains((*asked)[0], "dead") {
		t.Errorf("asked %s", (*asked)[0])
	}
	// No data is not zero.
	empty, _ := google(t, map[string]string{"num_undelivered_messages": `{}`})
	if b, err := empty.Backlog(t.Context(), "projects/p/subscriptions/dead"); b != nil || err != nil {
		t.Errorf("without data: %+v, %v", b, err)
	}
	denied, _ := google(t, nil)
	if _, err := denied.Backlog(t.Context(), "projects/p/subscriptions/dead"); err == nil || !strings.Contains(err.Error(), "monitoring.timeSeries.list") {
		t.Errorf("refused: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cloud.Backlog(ended, "projects/p/subscriptions/dead"); err == nil {
		t.Error("it goes on after its context ended")
	}
}
