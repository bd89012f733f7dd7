package publish

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
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
	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	pubsubrest "google.golang.org/api/pubsub/v1"
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
	issuer, verifier := google.Issuer(t)
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
			if diff := gocmp.Diff(test.want, to.sent, protocmp.Transform()); diff != "" {
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
		"gzip":              {change: func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, status: 415},
		"unknown_parameter": {change: func(r *http.Request) { r.URL.RawQuery = "attr.k=v" }, status: 400, detail: `the query has the unknown parameter "attr.k"; a JSON body has no parameters: attributes belong into its messages`},
		"not_json":          {body: "{", status: 400},
		"no_messages":       {body: "{}", status: 400, detail: "the request has 0 messages; the limit is 1 to 1000"},
		"bad_second": {
			body: `{"messages":[{"data":"aGk="},{"data":""}]}`, status: 400,
			detail: "message 1 has neither data nor attributes; it needs at least one byte of data or one attribute",
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

// googleError is an error in the form of Google's APIs.
type googleError struct {
	Error struct {
		Code            int
		Message, Status string
	}
}

// Only the topic's own method publishes below /v1/, and all that it refuses it
// refuses as Google does.
func TestRESTErrors(t *testing.T) {
	t.Parallel()
	const body = `{"messages":[{"data":"aGk="}]}`
	for name, test := range map[string]struct {
		path, body string
		change     func(*http.Request)
		topicErr   error
		code       int
		status     string
		message    string
	}{
		"another_topic":      {path: "/v1/projects/p/topics/other:publish", code: 404, status: "NOT_FOUND", message: "POST to /v1/projects/p/topics/t:publish"},
		"another_project":    {path: "/v1/projects/q/topics/t:publish", code: 404, status: "NOT_FOUND"},
		"longer_topic":       {path: "/v1/projects/p/topics/t2:publish", code: 404, status: "NOT_FOUND"},
		"topic_in_capitals":  {path: "/v1/projects/p/topics/T:publish", code: 404, status: "NOT_FOUND"},
		"a_slash_more":       {path: "/v1/projects/p/topics/t:publish/", code: 404, status: "NOT_FOUND"},
		"no_method":          {path: "/v1/projects/p/topics/t", code: 404, status: "NOT_FOUND"},
		"another_method":     {path: "/v1/projects/p/topics/t:detach", code: 404, status: "NOT_FOUND"},
		"a_subscription":     {path: "/v1/projects/p/subscriptions/t:pull", code: 404, status: "NOT_FOUND"},
		"no_token":           {change: func(r *http.Request) { r.Header.Del("Authorization") }, code: 401, status: "UNAUTHENTICATED"},
		"no_token_elsewhere": {path: "/v1/x", change: func(r *http.Request) { r.Header.Del("Authorization") }, code: 401, status: "UNAUTHENTICATED"},
		"get":                {change: func(r *http.Request) { r.Method = http.MethodGet }, code: 405, status: "UNIMPLEMENTED", message: "use POST"},
		"too_large":          {change: func(r *http.Request) { r.ContentLength = 40_000_000 }, code: 413, status: "INVALID_ARGUMENT"},
		"gzip":               {change: func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, code: 415, status: "INVALID_ARGUMENT"},
		"form":               {change: func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, code: 415, status: "INVALID_ARGUMENT"},
		"bad_base64":         {body: `{"messages":[{"data":"$"}]}`, code: 400, status: "INVALID_ARGUMENT", message: "messages[0].data, at byte 21, is not base64"},
		"bad_parameter":      {change: func(r *http.Request) { r.URL.RawQuery = "attr.k=v" }, code: 400, status: "INVALID_ARGUMENT", message: `"attr.k"`},
		"no_messages":        {body: `{"messages":[]}`, code: 400, status: "INVALID_ARGUMENT", message: "0 messages"},
		"no_topic":           {topicErr: publisher.ErrNoTopic, code: 404, status: "NOT_FOUND", message: "does not exist in Pub/Sub"},
		"down":               {topicErr: publisher.ErrUnavailable, code: 503, status: "UNAVAILABLE", message: "try again"},
		"bug":                {topicErr: errors.New("secret"), code: 500, status: "INTERNAL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := topic{err: test.topicErr}
			h, issuer := newHandler(t, &to)
			r := request(t, issuer, nil, cmp.Or(test.path, "/v1/projects/p/topics/t:publish"), "application/json", cmp.Or(test.body, body))
			if test.change != nil {
				test.change(r)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			var reply googleError
			if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Code != test.code || w.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("answered %d %v %s", w.Code, w.Header(), w.Body)
			}
			if e := reply.Error; e.Code != test.code || e.Status != test.status || e.Message == "" || !strings.Contains(e.Message, test.message) || strings.Contains(e.Message, "secret") {
				t.Errorf("answered %s", w.Body)
			}
			if (w.Header().Get("Retry-After") != "") != (test.code == 503) {
				t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
			}
			if len(to.sent) != 0 {
				t.Errorf("published %v", to.sent)
			}
		})
	}
}

// Elsewhere there is nothing but /, and errors are problem+json.
func TestOtherPaths(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/x", "/publish/x", "//v1/projects/p/topics/t:publish", "/v1", "/v2/projects/p/topics/t:publish", "/projects/p/topics/t:publish", "/index.html"} {
		var to topic
		h, issuer := newHandler(t, &to)
		w := httptest.NewRecorder()
		r := request(t, issuer, nil, "/", "text/plain", "hi")
		r.URL.Path = path
		h.ServeHTTP(w, r)
		if w.Code != http.StatusNotFound || w.Header().Get("Content-Type") != "application/problem+json" || len(to.sent) != 0 {
			t.Errorf("%s answered %d %v %s", path, w.Code, w.Header(), w.Body)
		}
	}
}

// Google's own REST client is pointed at the function and shows its errors.
func TestGooglesRESTClient(t *testing.T) {
	t.Parallel()
	var to topic
	h, issuer := newHandler(t, &to)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	token := google.Token(t, issuer, audience, caller)
	service, err := pubsubrest.NewService(t.Context(), option.WithEndpoint(server.URL),
		option.WithTokenSource(oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})))
	if err != nil {
		t.Fatal(err)
	}
	request := &pubsubrest.PublishRequest{Messages: []*pubsubrest.PubsubMessage{{
		Data:       base64.StdEncoding.EncodeToString([]byte("hi")),
		Attributes: map[string]string{"googclient_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, OrderingKey: "o",
	}, {Data: "aG8=", OrderingKey: "o"}}}
	reply, err := service.Projects.Topics.Publish("projects/p/topics/t", request).Context(t.Context()).Do()
	if err != nil || len(reply.MessageIds) != 2 {
		t.Fatalf("answered %+v, %v", reply, err)
	}
	if len(to.sent) != 2 || string(to.sent[1].Data) != "ho" || len(to.sent[0].Attributes) != 1 {
		t.Errorf("published %v", to.sent)
	}
	_, err = service.Projects.Topics.Publish("projects/p/topics/other", request).Context(t.Context()).Do()
	wantGoogleError(t, err, 404, "this service publishes to one topic")
	request.Messages[1].Data = "$"
	_, err = service.Projects.Topics.Publish("projects/p/topics/t", request).Context(t.Context()).Do()
	wantGoogleError(t, err, 400, "messages[1].data")
	to.err = publisher.ErrNoTopic
	request.Messages[1].Data = "aG8="
	_, err = service.Projects.Topics.Publish("projects/p/topics/t", request).Context(t.Context()).Do()
	wantGoogleError(t, err, 404, "does not exist in Pub/Sub")
}

func wantGoogleError(t *testing.T, err error, code int, message string) {
	t.Helper()
	var e *googleapi.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, message) {
		t.Errorf("the client says %v, want %d %q", err, code, message)
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
