package publish

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/testkit/fresh"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/port"
)

// TestRegisteredFunction publishes through the function as it is registered, wired
// from the environment: as the functions framework serves it beside others, and
// as it is deployed. Only Google's keys and Pub/Sub are not the real ones.
func TestRegisteredFunction(t *testing.T) {
	if !fresh.Process(t) {
		return
	}
	pubsub := pstest.NewServer()
	t.Cleanup(func() { _ = pubsub.Close() })
	t.Setenv("PUBSUB_EMULATOR_HOST", pubsub.Addr)
	t.Setenv("GOOGLE_CLOUD_PROJECT", "p")
	t.Setenv("PUBSUB_TOPIC", "t")
	t.Setenv("PUBLISH_AUDIENCE", audience)
	t.Setenv("PUBLISH_CALLERS", caller)
	issuer, _ := google.Issuer(t)
	google.Serve(t, google.Relay(issuer.Transport()))

	reserved := port.Reserve(t)
	go func() { _ = funcframework.StartHostPort("127.0.0.1", reserved) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := port.Listening(ctx, reserved); err != nil {
		t.Fatal(err)
	}
	framework := "http://127.0.0.1:" + reserved + "/publish"
	deployed := httptest.NewServer(httpapi.Functions()["publish"])
	t.Cleanup(deployed.Close)
	method := deployed.URL + "/v1/projects/p/topics/t:publish"

	post := func(url, issuedBy, contentType, body string) (status int, answer string) {
		t.Helper()
		token, err := issuer.IDToken(map[string]any{"aud": audience, "email": caller, "iss": issuedBy})
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	const google, json = "https://accounts.google.com", "application/json"
	const body = `{"messages":[{"data":"aGk=","attributes":{"googclient_x":"y"}}]}`
	status, answer := post(method, google, json, body)
	if status != 404 || !strings.Contains(answer, `"status":"NOT_FOUND"`) || !strings.Contains(answer, "does not exist") {
		t.Errorf("without a topic: %d %s", status, answer)
	}
	if _, err := pubsub.GServer.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/t"}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		url, issuer, contentType, body string
		status                         int
		answer                         string
	}{
		{method, google, json, body, 200, `{"messageIds":["`},
		{method + "?alt=json", "accounts.google.com", json, body, 200, `{"messageIds":["`},
		{framework + "?attribute.k=v", google, "text/plain", "hi", 200, `{"messageIds":["`},
		{deployed.URL, google, "application/x-www-form-urlencoded", "payload=hi", 200, `{"messageIds":["`},
		{deployed.URL + "/v1/projects/p/topics/other:publish", google, json, body, 404, `"code":404`},
		{method + "?attr.k=v", google, json, body, 400, `"code":400`},
		{framework + "?attr.k=v", google, "text/plain", "hi", 400, "allowed is attribute.KEY=VALUE"},
		{method, google, json, `{"messages":[{"data":"aGk="},{"data":"%"}]}`, 400, "messages[1].data, at byte 37, is not base64"},
		{method, "accounts.google.com.evil.example", json, body, 403, "PERMISSION_DENIED"},
	} {
		status, answer := post(test.url, test.issuer, test.contentType, test.body)
		if status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s answered %d %s, want %d %q", test.url, status, answer, test.status, test.answer)
		}
	}
	if n := len(pubsub.Messages()); n != 4 {
		t.Errorf("%d messages were published, want 4", n)
	}
}
