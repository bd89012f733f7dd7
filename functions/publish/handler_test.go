package publish

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
	"example.com/pushinbox/testkit/google"
)

const (
	audience = "https://publish-1.europe-west1.run.app"
	caller   = "caller@p.iam.gserviceaccount.com"
)

var quiet = slog.New(slog.DiscardHandler)

// topic remembers what was published, after Pub/Sub's own checks.
type topic struct {
	err  error
	sent []*pubsubpb.PubsubMessage
}

func (t *topic) Publish(_ context.Context, messages []*pubsubpb.PubsubMessage) ([]string, error) {
	if err := publisher.Check(messages); err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	ids := make([]string, len(messages))
	for i := range ids {
		ids[i] = fmt.Sprint(len(t.sent) + i)
	}
	t.sent = append(t.sent, messages...)
	return ids, nil
}

func newHandler(t *testing.T, to Topic) (http.Handler, *pushfake.Issuer) {
	t.Helper()
	issuer, verifier := google.NewIssuer(t)
	h, err := New(Config{Project: "p", Topic: "t", Audience: audience, Callers: []string{"other@p", caller}}, verifier, to, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return h, issuer
}

func request(t *testing.T, issuer *pushfake.Issuer, claims map[string]any, target, contentType, body string) *http.Request {
	t.Helper()
	all := map[string]any{"aud": audience, "email": caller}
	for k, v := range claims {
		all[k] = v
	}
	token, err := issuer.IDToken(all)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

func TestPublishesInThreeWays(t *testing.T) {
	t.Parallel()
	data := base64.StdEncoding.EncodeToString([]byte("hi"))
	for name, test := range map[string]struct {
		target, contentType, body string
		want                      []*pubsubpb.PubsubMessage
	}{
		"rest_body_at_the_rest_path": {
			"/v1/projects/p/topics/t:publish", "application/json", `{"messages":[{"data":"` + data + `"},{"data":"` + data + `","attributes":{"k":"v"}}]}`,
			[]*pubsubpb.PubsubMessage{{Data: []byte("hi")}, {Data: []byte("hi"), Attributes: map[string]string{"k": "v"}}},
		},
		"form": {
			"/", "application/x-www-form-urlencoded", url.Values{"payload": {"hi"}, "attributes": {"k=v"}, "orderingKey": {"o"}}.Encode(),
			[]*pubsubpb.PubsubMessage{{Data: []byte("hi"), Attributes: map[string]string{"k": "v"}, OrderingKey: "o"}},
		},
		"raw": {
			"/?attribute.k=v", "text/plain", "hi",
			[]*pubsubpb.PubsubMessage{{Data: []byte("hi"), Attributes: map[string]string{"k": "v", "content-type": "text/plain"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var to topic
			h, issuer := newHandler(t, &to)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, request(t, issuer, nil, test.target, test.contentType, test.body))
			var reply publisher.Reply
			if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Code != http.StatusOK {
				t.Fatalf("answered %d %s", w.Code, w.Body)
			}
			if len(reply.MessageIDs) != len(test.want) {
				t.Errorf("message IDs %v", reply.MessageIDs)
			}
			if diff := cmp.Diff(test.want, to.sent, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAcceptsGooglesShortIssuer(t *testing.T) {
	t.Parallel()
	var to topic
	h, issuer := newHandler(t, &to)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request(t, issuer, map[string]any{"iss": "accounts.google.com"}, "/", "text/plain", "hi"))
	if w.Code != http.StatusOK || len(to.sent) != 1 {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}

func TestRefusesWithNothingPublished(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*http.Request)
		claims map[string]any
		body   string
		status int
		detail string
	}{
		"no_token":          {change: func(r *http.Request) { r.Header.Del("Authorization") }, status: 401},
		"expired":           {claims: map[string]any{"iat": 1, "exp": 2}, status: 401},
		"another_audience":  {claims: map[string]any{"aud": "https://receive"}, status: 403},
		"another_caller":    {claims: map[string]any{"email": "somebody@else.example"}, status: 403},
		"another_issuer":    {claims: map[string]any{"iss": "accounts.google.com.evil.example"}, status: 403},
		"life_of_a_week":    {claims: map[string]any{"exp": time.Now().Unix() + 7*24*3600}, status: 401},
		"nbf_a_string":      {claims: map[string]any{"nbf": "1"}, status: 401},
		"unverified_caller": {claims: map[string]any{"email_verified": false}, status: 403},
		"get":               {change: func(r *http.Request) { r.Method = http.MethodGet }, status: 405},
		"not_json":          {body: "{", status: 400},
		"no_messages":       {body: "{}", status: 400, detail: "the request has 0 messages; the limit is 1 to 1000"},
		"bad_second": {
			body: `{"messages":[{"data":"aGk="},{"data":""}]}`, status: 400,
			detail: "message 1 has neither; the limit is at least one byte of data or one attribute",
		},
		"too_large": {change: func(r *http.Request) { r.ContentLength = 40_000_000 }, status: 413},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var to topic
			h, issuer := newHandler(t, &to)
			body := test.body
			if body == "" {
				body = `{"messages":[{"data":"aGk="}]}`
			}
			r := request(t, issuer, test.claims, "/", "application/json", body)
			if test.change != nil {
				test.change(r)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			var problem struct{ Detail string }
			if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || w.Code != test.status {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			if test.detail != "" && problem.Detail != test.detail {
				t.Errorf("detail %q, want %q", problem.Detail, test.detail)
			}
			if len(to.sent) != 0 {
				t.Errorf("published %v", to.sent)
			}
		})
	}
}

func TestTopicDownIs503(t *testing.T) {
	t.Parallel()
	h, issuer := newHandler(t, &topic{err: fmt.Errorf("%w: secret", publisher.ErrUnavailable)})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request(t, issuer, nil, "/", "text/plain", "x"))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	verifier, err := verify.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := Config{Audience: audience, Callers: []string{caller}}
	for name, build := range map[string]func() (http.Handler, error){
		"no_audience": func() (http.Handler, error) { return New(Config{Callers: good.Callers}, verifier, &topic{}, quiet) },
		"no_callers":  func() (http.Handler, error) { return New(Config{Audience: audience}, verifier, &topic{}, quiet) },
		"no_verifier": func() (http.Handler, error) { return New(good, nil, &topic{}, quiet) },
		"no_topic":    func() (http.Handler, error) { return New(good, verifier, nil, quiet) },
		"no_logger":   func() (http.Handler, error) { return New(good, verifier, &topic{}, nil) },
	} {
		if h, err := build(); err == nil {
			t.Errorf("%s: made %v", name, h)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"GOOGLE_CLOUD_PROJECT": "p", "PUBSUB_TOPIC": "t", "PUBLISH_AUDIENCE": audience, "PUBLISH_CALLERS": "a@p,b@p",
	}
	c, err := settings.Parse[environment](good)
	if err != nil || len(c.Callers) != 2 {
		t.Errorf("got %+v, %v", c, err)
	}
	_, err = settings.Parse[environment](map[string]string{"PUBLISH_AUDIENCE": ""})
	for _, name := range []string{"GOOGLE_CLOUD_PROJECT", "PUBSUB_TOPIC", "PUBLISH_AUDIENCE", "PUBLISH_CALLERS"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
	for variable, value := range good {
		for _, bad := range []string{" " + value, value + " ", value + "\n", `"` + value + `"`, "'" + value + "'"} {
			vars := maps.Clone(good)
			vars[variable] = bad
			if _, err := settings.Parse[environment](vars); err == nil || strings.Count(err.Error(), variable+" ") != 1 {
				t.Errorf("%s=%q: %v", variable, bad, err)
			}
		}
	}

	for _, caller := range []string{"serviceAccount:a@p", "user:a@p", "A@p", "a@p,", "a@b@p", "anyone"} {
		good["PUBLISH_CALLERS"] = caller
		if _, err := settings.Parse[environment](good); err == nil || !strings.HasPrefix(err.Error(), "PUBLISH_CALLERS ") {
			t.Errorf("PUBLISH_CALLERS=%s: %v", caller, err)
		}
	}
}
