package rest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/local/handover"
	"example.com/pushinbox/local/pubsubserver"
)

// start serves s until the test ends and returns host:port.
func start(t *testing.T, s Services, o *Options) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, s, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve returned %v, want nil", err)
		}
	})
	return l.Addr().String()
}

// real returns the services of a pubsubserver.
func real(t *testing.T) Services {
	t.Helper()
	server, err := pubsubserver.Open(pubsubserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return Services{server, server, server}
}

// do sends a request and returns the status and the body.
func do(t *testing.T, verb, url, content string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), verb, url, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(got)
}

type googleError struct {
	Error struct {
		Code            int
		Message, Status string
	}
}

// wantError checks an answer against Google's form.
func wantError(t *testing.T, gotStatus int, got string, wantStatus int, wantCode, part string) {
	t.Helper()
	var e googleError
	if err := json.Unmarshal([]byte(got), &e); err != nil {
		t.Fatalf("the answer %d %q is not JSON: %v", gotStatus, got, err)
	}
	if gotStatus != wantStatus || e.Error.Code != wantStatus || e.Error.Status != wantCode || !strings.Contains(e.Error.Message, part) {
		t.Errorf("answered %d %s, want %d %s with %q", gotStatus, got, wantStatus, wantCode, part)
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	host := start(t, Services{
		Publisher:  pubsubpb.UnimplementedPublisherServer{},
		Subscriber: pubsubpb.UnimplementedSubscriberServer{},
		Policies:   noPolicies{},
	}, nil)
	if len(routes) < 43 {
		t.Errorf("there are %d routes, want at least 43", len(routes))
	}
	for _, r := range routes {
		t.Run(r.verb+" "+r.pattern, func(t *testing.T) {
			path := r.pattern
			for from, to := range map[string]string{"{": "", "}": "", "/*": "/some-1"} {
				path = strings.ReplaceAll(path, from, to)
			}
			before, after, _ := strings.Cut(path, "=")
			path = before[:strings.LastIndex(before, "/")+1] + after
			// The last segment of a name may hold every character that names have.
			path = strings.Replace(path, "some-1", "some.1~%25+_", 1)
			gotStatus, got := do(t, r.verb, "http://"+host+path, "{}")
			method := r.method[strings.LastIndex(r.method, ".")+1:]
			switch {
			case strings.HasPrefix(method, "TestIam"): // not found is an empty answer
				if gotStatus != http.StatusOK || got != "{}" {
					t.Errorf("answered %d %s, want 200 {}", gotStatus, got)
				}
			case strings.HasSuffix(method, "IamPolicy"):
				part := "resource projects/some.1~%+_/"
				if method == "SetIamPolicy" {
					gotStatus, got = do(t, r.verb, "http://"+host+path, `{"policy":{}}`)
				}
				wantError(t, gotStatus, got, http.StatusNotFound, "NOT_FOUND", part)
			default:
				wantError(t, gotStatus, got, http.StatusBadRequest, "UNIMPLEMENTED", "method "+method+" not implemented")
			}
		})
	}
}

// noPolicies has no resource.
type noPolicies struct {
	iampb.UnimplementedIAMPolicyServer
}

func (noPolicies) GetIamPolicy(_ context.Context, r *iampb.GetIamPolicyRequest) (*iampb.Policy, error) {
	return nil, status.Errorf(codes.NotFound, "resource %s", r.Resource)
}

func (noPolicies) SetIamPolicy(_ context.Context, r *iampb.SetIamPolicyRequest) (*iampb.Policy, error) {
	return nil, status.Errorf(codes.NotFound, "resource %s", r.Resource)
}

func (noPolicies) TestIamPermissions(context.Context, *iampb.TestIamPermissionsRequest) (*iampb.TestIamPermissionsResponse, error) {
	return &iampb.TestIamPermissionsResponse{}, nil
}

func TestErrors(t *testing.T) {
	t.Parallel()
	host := start(t, real(t), &Options{Hosts: []string{"pubsub.test"}})
	topic := "/v1/projects/p/topics/there"
	if gotStatus, got := do(t, http.MethodPut, "http://"+host+topic, `{"labels":{"a":"b"}}`, "Content-Type", "application/json; charset=utf-8"); gotStatus != http.StatusOK {
		t.Fatalf("creating a topic: %d %s", gotStatus, got)
	}
	const publishable = `{"messages":[{"data":"aGk="}]}`
	for _, test := range []struct {
		name, verb, path, body string
		header                 []string
		status                 int
		code, part             string // of the error; the status is enough when 200
	}{
		{name: "root", verb: "GET", path: "/", status: 200},
		{name: "get", verb: "GET", path: topic, status: 200},
		{name: "not_there", verb: "GET", path: topic + "2", status: 404, code: "NOT_FOUND"},
		{name: "there_already", verb: "PUT", path: topic, body: "{}", status: 409, code: "ALREADY_EXISTS"},
		{name: "unknown_path", verb: "GET", path: "/v2/x", status: 404, code: "NOT_FOUND", part: "no method at /v2/x"},
		{name: "unknown_verb", verb: "POST", path: topic + ":nonsense", body: "{}", status: 404, code: "NOT_FOUND"},
		{name: "slash_at_the_end", verb: "GET", path: topic + "/", status: 404, code: "NOT_FOUND"},
		{name: "wrong_method", verb: "POST", path: topic, body: "{}", status: 405, code: "UNIMPLEMENTED", part: "POST is not allowed on " + topic},
		{name: "wrong_method_of_verb", verb: "GET", path: "/v1/projects/p/subscriptions/s:pull", status: 405, code: "UNIMPLEMENTED"},
		{name: "method_override", verb: "POST", path: topic, header: []string{"X-HTTP-Method-Override", "DELETE"}, status: 405, code: "UNIMPLEMENTED"},
		{name: "publish", verb: "POST", path: topic + ":publish", body: publishable, status: 200},
		{name: "no_content_type", verb: "POST", path: topic + ":publish", body: publishable, status: 200},
		{name: "gzip", verb: "POST", path: topic + ":publish", body: zip(publishable), header: []string{"Content-Encoding", "gzip"}, status: 200},
		{name: "not_gzip", verb: "POST", path: topic + ":publish", body: publishable, header: []string{"Content-Encoding", "gzip"}, status: 400, code: "INVALID_ARGUMENT", part: "gzip"},
		{name: "brotli", verb: "POST", path: topic + ":publish", body: publishable, header: []string{"Content-Encoding", "br"}, status: 415, code: "INVALID_ARGUMENT", part: `"br"`},
		{name: "bad_json", verb: "POST", path: topic + ":publish", body: "{\"messages\":\n [}", status: 400, code: "INVALID_ARGUMENT", part: "line 2:3"},
		{name: "cut_json", verb: "POST", path: topic + ":publish", body: `{"messages":[`, status: 400, code: "INVALID_ARGUMENT", part: "unexpected EOF"},
		{name: "two_values", verb: "POST", path: topic + ":publish", body: publishable + "{}", status: 400, code: "INVALID_ARGUMENT", part: "line 1:31"},
		{name: "unknown_field", verb: "POST", path: topic + ":publish", body: `{"mesages":[]}`, status: 400, code: "INVALID_ARGUMENT", part: `"mesages"`},
		{name: "bad_base64", verb: "POST", path: topic + ":publish", body: `{"messages":[{"data":"*"}]}`, status: 400, code: "INVALID_ARGUMENT", part: "line 1:22"},
		{name: "nine_megabytes", verb: "POST", path: topic + ":publish", body: `{"messages":[{"data":"` + strings.Repeat("aGlo", 9<<18) + `"}]}`, status: 200},
		{name: "too_large", verb: "POST", path: topic + ":publish", body: strings.Repeat(" ", MaxSize+1), status: 400, code: "INVALID_ARGUMENT", part: "20971520 bytes"},
		{name: "too_large_unzipped", verb: "POST", path: topic + ":publish", body: zip(strings.Repeat(" ", MaxSize+1)), header: []string{"Content-Encoding", "gzip"}, status: 400, code: "INVALID_ARGUMENT", part: "20971520 bytes"},
		{name: "curl_d", verb: "POST", path: topic + ":publish", body: publishable, header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 200},
		{name: "form", verb: "POST", path: topic + ":publish", body: "messages=a", header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 400, code: "INVALID_ARGUMENT", part: "line 1:1"},
		{name: "form_of_a_page", verb: "POST", path: topic + ":publish", body: publishable, header: []string{"Content-Type", "application/x-www-form-urlencoded", "Origin", "http://evil.test"}, status: 403, code: "PERMISSION_DENIED"},
		{name: "plain_text", verb: "POST", path: topic + ":publish", body: publishable, header: []string{"Content-Type", "text/plain"}, status: 415, code: "INVALID_ARGUMENT"},
		{name: "plain_text_without_body", verb: "POST", path: "/v1/projects/p/subscriptions/s:detach", header: []string{"Content-Type", "text/plain"}, status: 415, code: "INVALID_ARGUMENT"},
		{name: "delete_with_body", verb: "DELETE", path: topic + "2", body: "{}", status: 404, code: "NOT_FOUND"},

		{name: "system_parameters", verb: "GET", path: topic + "?alt=json&key=k&prettyPrint=false&fields=name&$.xgafv=2&$alt=json&access_token=x&oauth_token=x&quotaUser=q&uploadType=u&upload_protocol=r", status: 200},
		{name: "alt_media", verb: "GET", path: topic + "?alt=media", status: 400, code: "INVALID_ARGUMENT", part: `alt="media"`},
		{name: "dollar_alt_proto", verb: "GET", path: topic + "?$alt=proto", status: 400, code: "INVALID_ARGUMENT", part: "proto"},
		{name: "callback", verb: "GET", path: topic + "?callback=f", status: 400, code: "INVALID_ARGUMENT", part: "JSONP"},
		{name: "dollar_callback", verb: "GET", path: topic + "?$callback=f", status: 400, code: "INVALID_ARGUMENT", part: "JSONP"},
		{name: "bad_query", verb: "GET", path: topic + "?%zz", status: 400, code: "INVALID_ARGUMENT", part: "query"},
		{name: "page_size", verb: "GET", path: "/v1/projects/p/topics?pageSize=1&page_token=", status: 200},
		{name: "bad_page_size", verb: "GET", path: "/v1/projects/p/topics?pageSize=one", status: 400, code: "INVALID_ARGUMENT", part: "one"},
		{name: "unknown_parameter_of_list", verb: "GET", path: "/v1/projects/p/topics?pagesize=1", status: 400, code: "INVALID_ARGUMENT", part: `"pagesize"`},
		{name: "unknown_parameter_of_get", verb: "GET", path: topic + "?force=1", status: 400, code: "INVALID_ARGUMENT", part: `"force"`},
		{name: "unknown_parameter_of_publish", verb: "POST", path: topic + ":publish?ordering=1", body: publishable, status: 400, code: "INVALID_ARGUMENT", part: `"ordering"`},
		{name: "field_that_is_in_the_path", verb: "GET", path: topic + "?topic=x", status: 400, code: "INVALID_ARGUMENT", part: `"topic"`},
		{name: "mask_in_query", verb: "PATCH", path: topic + "?updateMask=labels", body: `{"topic":{"labels":{"c":"d"}}}`, status: 200},
		{name: "bad_mask_in_query", verb: "PATCH", path: topic + "?updateMask=message_labels", body: `{"topic":{}}`, status: 400, code: "INVALID_ARGUMENT", part: `the query parameter updateMask="message_labels" is not valid`},
		{name: "masks_in_both", verb: "PATCH", path: topic + "?updateMask=labels", body: `{"topic":{},"updateMask":"labels"}`, status: 400, code: "INVALID_ARGUMENT", part: "send one"},
		{name: "two_masks", verb: "PATCH", path: topic + "?updateMask=labels&updateMask=labels", body: `{"topic":{}}`, status: 400, code: "INVALID_ARGUMENT", part: `"updateMask"`},
		{name: "mask_of_publish", verb: "POST", path: topic + ":publish?updateMask=labels", body: publishable, status: 400, code: "INVALID_ARGUMENT", part: `"updateMask"`},
		{name: "policy_version", verb: "GET", path: topic + ":getIamPolicy?options.requestedPolicyVersion=3", status: 200},
		{name: "schema_id", verb: "POST", path: "/v1/projects/p/schemas?schemaId=s", body: "{}", status: 400, code: "UNIMPLEMENTED", part: "CreateSchema"},

		{name: "localhost", verb: "GET", path: topic, header: []string{"Host", "LocalHost.:8085"}, status: 200},
		{name: "name_below_localhost", verb: "GET", path: topic, header: []string{"Host", "pubsub.localhost:1"}, status: 403, code: "PERMISSION_DENIED", part: "--host-name"},
		{name: "ipv6", verb: "GET", path: topic, header: []string{"Host", "[::1]:8085"}, status: 200},
		{name: "given_host", verb: "GET", path: topic, header: []string{"Host", "PubSub.test:8085"}, status: 200},
		{name: "foreign_host", verb: "GET", path: topic, header: []string{"Host", "evil.test:8085"}, status: 403, code: "PERMISSION_DENIED", part: "evil.test:8085"},
		{name: "foreign_host_at_root", verb: "GET", path: "/", header: []string{"Host", "evil.test"}, status: 403, code: "PERMISSION_DENIED"},
		{name: "host_that_ends_like_localhost", verb: "GET", path: topic, header: []string{"Host", "evillocalhost"}, status: 403, code: "PERMISSION_DENIED"},
		{name: "other_address", verb: "GET", path: topic, header: []string{"Host", "10.0.0.1"}, status: 403, code: "PERMISSION_DENIED"},
		{name: "origin", verb: "GET", path: topic, header: []string{"Origin", "http://" + host}, status: 403, code: "PERMISSION_DENIED", part: "Origin"},
		{name: "origin_null", verb: "POST", path: topic + ":publish", body: publishable, header: []string{"Origin", "null"}, status: 403, code: "PERMISSION_DENIED", part: "null"},
		{name: "preflight", verb: "OPTIONS", path: topic, header: []string{"Origin", "http://evil.test"}, status: 403, code: "PERMISSION_DENIED"},
		{name: "cross_site", verb: "GET", path: topic, header: []string{"Sec-Fetch-Site", "cross-site"}, status: 403, code: "PERMISSION_DENIED", part: "cross-site"},
		{name: "other_port_of_this_machine", verb: "GET", path: topic, header: []string{"Sec-Fetch-Site", "same-site"}, status: 403, code: "PERMISSION_DENIED"},
		{name: "typed_address", verb: "GET", path: topic, header: []string{"Sec-Fetch-Site", "none"}, status: 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			gotStatus, got := do(t, test.verb, "http://"+host+test.path, test.body, test.header...)
			if test.status != http.StatusOK {
				wantError(t, gotStatus, got, test.status, test.code, test.part)
			} else if gotStatus != http.StatusOK {
				t.Errorf("answered %d %s, want 200", gotStatus, got)
			}
		})
	}
}

// TestDoor sends what net/http's client does not.
func TestDoor(t *testing.T) {
	t.Parallel()
	host := start(t, real(t), nil)
	ask := func(request string) string {
		t.Helper()
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")+"\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(answer), "\r\n")
		return line
	}
	const get, forbidden = "GET /v1/projects/p/topics HTTP/1.1\nHost: localhost", "HTTP/1.1 403 Forbidden"
	for name, c := range map[string]struct{ request, want string }{
		"good":           {get, "HTTP/1.1 200 OK"},
		"empty_origin":   {get + "\nOrigin:", forbidden},
		"second_origin":  {get + "\nOrigin:\nOrigin: http://evil.test", forbidden},
		"empty_site":     {get + "\nSec-Fetch-Site:", forbidden},
		"second_site":    {get + "\nSec-Fetch-Site: none\nSec-Fetch-Site: cross-site", forbidden},
		"for_a_proxy":    {"GET http://localhost/v1/projects/p/topics HTTP/1.1\nHost: localhost", forbidden},
		"connect":        {"CONNECT localhost:443 HTTP/1.1\nHost: localhost:443", forbidden},
		"host_port":      {"GET /v1/projects/p/topics HTTP/1.1\nHost: localhost:x", forbidden},
		"options":        {"OPTIONS * HTTP/1.1\nHost: localhost", "HTTP/1.1 400 Bad Request"},
		"foreign_option": {"OPTIONS * HTTP/1.1\nHost: evil.test", forbidden},
	} {
		if got := ask(c.request); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestOwnAddress lets requests in that name the address they came to, by both
// protocols, where the port is open to other machines.
func TestOwnAddress(t *testing.T) {
	t.Parallel()
	for own, want := range map[bool]codes.Code{true: codes.OK, false: codes.PermissionDenied} {
		g := guard{OwnAddress: own}
		local := &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 8085}
		if err := g.check(asked{host: "10.1.2.3:8085", local: local}); status.Code(err) != want {
			t.Errorf("%t: %v, want %v", own, err, want)
		}
		if err := g.check(asked{host: "10.1.2.4:8085", local: local}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("another address: %v", err)
		}
	}
}

func zip(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// TestOnePort creates by one protocol what the other reads.
func TestOnePort(t *testing.T) {
	t.Parallel()
	host := start(t, real(t), nil)
	conn := dial(t, host)
	ctx := t.Context()
	publisher, subscriber := pubsubpb.NewPublisherClient(conn), pubsubpb.NewSubscriberClient(conn)
	if _, err := publisher.CreateTopic(ctx, &pubsubpb.Topic{Name: "projects/p/topics/there"}); err != nil {
		t.Fatal(err)
	}
	if gotStatus, got := do(t, http.MethodPut, "http://"+host+"/v1/projects/p/subscriptions/sub", `{"topic":"projects/p/topics/there","ackDeadlineSeconds":20}`); gotStatus != http.StatusOK {
		t.Fatalf("creating a subscription: %d %s", gotStatus, got)
	}
	stream, err := subscriber.StreamingPull(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pubsubpb.StreamingPullRequest{Subscription: "projects/p/subscriptions/sub", StreamAckDeadlineSeconds: 10}); err != nil {
		t.Fatal(err)
	}
	if gotStatus, got := do(t, http.MethodPost, "http://"+host+"/v1/projects/p/topics/there:publish", `{"messages":[{"data":"aGk=","attributes":{"k":"v"}}]}`); gotStatus != http.StatusOK || !strings.Contains(got, `"messageIds":["`) {
		t.Fatalf("publishing: %d %s", gotStatus, got)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(answer.ReceivedMessages[0].Message.Data); got != "hi" {
		t.Errorf("received %q, want hi", got)
	}
	_, err = pubsubpb.NewSchemaServiceClient(conn).GetSchema(ctx, &pubsubpb.GetSchemaRequest{Name: "projects/p/schemas/s"})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "GetSchema") {
		t.Errorf("GetSchema: %v, want UNIMPLEMENTED by name", err)
	}
	large := []*pubsubpb.PubsubMessage{{Data: make([]byte, 9_000_000)}}
	if _, err := publisher.Publish(ctx, &pubsubpb.PublishRequest{Topic: "projects/p/topics/there", Messages: large}); err != nil {
		t.Errorf("publishing 9 MB: %v", err)
	}
	foreign := dial(t, host, grpc.WithAuthority("evil.test"))
	_, err = pubsubpb.NewPublisherClient(foreign).GetTopic(ctx, &pubsubpb.GetTopicRequest{Topic: "projects/p/topics/there"})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a unary call for evil.test: %v, want PERMISSION_DENIED", err)
	}
	stream, err = pubsubpb.NewSubscriberClient(foreign).StreamingPull(ctx)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stream for evil.test: %v, want PERMISSION_DENIED", err)
	}
}

func dial(t *testing.T, host string, o ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(host, append(o, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// slow is a subscriber that waits for the contexts of its calls.
type slow struct {
	pubsubpb.UnimplementedSubscriberServer
	began chan struct{}
}

func (s slow) StreamingPull(stream pubsubpb.Subscriber_StreamingPullServer) error {
	s.began <- struct{}{}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (s slow) Pull(ctx context.Context, _ *pubsubpb.PullRequest) (*pubsubpb.PullResponse, error) {
	s.began <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestServeEndsWithCallsInFlight(t *testing.T) {
	t.Parallel()
	s := slow{began: make(chan struct{}, 3)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, Services{Publisher: pubsubpb.UnimplementedPublisherServer{}, Subscriber: s, Policies: noPolicies{}}, nil)
	}()
	host := l.Addr().String()
	client := pubsubpb.NewSubscriberClient(dial(t, host))
	codesOf := make(chan codes.Code, 2)
	go func() {
		_, err := client.Pull(context.Background(), &pubsubpb.PullRequest{Subscription: "projects/p/subscriptions/s"})
		codesOf <- status.Code(err)
	}()
	go func() {
		stream, err := client.StreamingPull(context.Background())
		if err == nil {
			_, err = stream.Recv()
		}
		codesOf <- status.Code(err)
	}()
	go http.Post("http://"+host+"/v1/projects/p/subscriptions/s:pull", "application/json", strings.NewReader("{}"))
	for range 3 {
		<-s.began
	}
	begun := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve returned %v, want nil", err)
	}
	if took := time.Since(begun); took >= grace {
		t.Errorf("pulls held up the end for %s", took)
	}
	for range 2 {
		if c := <-codesOf; c != codes.Unavailable {
			t.Errorf("a pull ended with %v, want UNAVAILABLE", c)
		}
	}
	if conn, err := net.DialTimeout("tcp", host, time.Second); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}

func TestServeFails(t *testing.T) {
	t.Parallel()
	if err := Serve(t.Context(), &pipes{}, Services{}, nil); err == nil {
		t.Error("Serve accepted no services")
	}
	broken := errors.New("broken")
	l := &pipes{err: broken}
	err := Serve(t.Context(), l, Services{Publisher: pubsubpb.UnimplementedPublisherServer{}, Subscriber: pubsubpb.UnimplementedSubscriberServer{}, Policies: noPolicies{}}, nil)
	if !errors.Is(err, broken) {
		t.Errorf("Serve on a broken listener: %v, want its error", err)
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	err   error
}

func (p *pipes) Accept() (net.Conn, error) {
	if p.err != nil {
		return nil, p.err
	}
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	if p.done != nil {
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		writes []string // a second apart
		grpc   bool
		http   bool
	}{
		{name: "http", writes: []string{"GET / HTTP/1.1\r\n"}, http: true},
		{name: "grpc", writes: []string{preface + "\r\n\r\nSM\r\n\r\n"}, grpc: true},
		{name: "too_short", writes: strings.Split("PRI", "")},
		{name: "slow_but_in_time", writes: []string{"PRI ", "* HTTP", "/2.0\r\n"}, grpc: true},
		{name: "method_that_begins_alike", writes: []string{"P", "ROPFIND"}, http: true},
		{name: "silent"},
		{name: "too_slow", writes: strings.Split("PRI * HTTP/2.0", "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				s := newSplitter(l)
				go s.run()
				defer s.close()
				got := make(chan string, 1)
				for name, b := range map[string]*handover.Listener{"grpc": s.grpc, "http": s.http} {
					go func() {
						conn, err := b.Accept()
						if err != nil {
							return
						}
						defer conn.Close()
						time.Sleep(time.Hour) // a deadline that was left would have passed
						content := make([]byte, 100)
						n, err := io.ReadAtLeast(conn, content, len(strings.Join(test.writes, "")))
						got <- fmt.Sprintf("%s %q %v", name, content[:n], err)
					}()
				}
				conn := l.dial()
				defer conn.Close()
				wrote := make(chan struct{})
				go func() {
					defer close(wrote)
					for _, w := range test.writes {
						if _, err := io.WriteString(conn, w); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				}()
				defer func() { <-wrote }()
				want := ""
				switch content := strings.Join(test.writes, ""); {
				case test.grpc:
					want = fmt.Sprintf("grpc %q <nil>", content)
				case test.http:
					want = fmt.Sprintf("http %q <nil>", content)
				}
				if want != "" {
					if got := <-got; got != want {
						t.Errorf("got %s, want %s", got, want)
					}
					return
				}
				begun := time.Now()
				if _, err := io.ReadAll(conn); err != nil {
					t.Error(err)
				}
				if took := time.Since(begun); took > prefaceTimeout {
					t.Errorf("the connection was closed after %s, want %s", took, prefaceTimeout)
				}
			})
		})
	}
}

// TestSplitBounded fills the splitter with silent connections.
func TestSplitBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		s := newSplitter(l)
		go s.run()
		defer s.close()
		for range maxUndecided {
			defer l.dial().Close()
		}
		begun := time.Now()
		if _, err := io.ReadAll(l.dial()); err != nil || time.Since(begun) > 0 {
			t.Errorf("one more was closed after %s, %v; want at once", time.Since(begun), err)
		}
		time.Sleep(prefaceTimeout + time.Second)
		conn := l.dial()
		defer conn.Close()
		go io.WriteString(conn, "GET /")
		accepted, err := s.http.Accept()
		if err != nil {
			t.Fatal(err)
		}
		accepted.Close()
	})
}

// need skips the test without a program, or fails it when CI is set.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
}

// TestGcloud runs Google's command line, unmodified, where it is installed.
func TestGcloud(t *testing.T) {
	t.Parallel()
	need(t, "gcloud")
	services := real(t)
	host := start(t, services, nil)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "gcloud", append([]string{"pubsub", "--format=json", "--quiet"}, args...)...)
		cmd.Env = append(os.Environ(), "CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB=http://"+host+"/",
			"CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true", "CLOUDSDK_CORE_PROJECT=p", "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=true",
			"CLOUDSDK_CONFIG="+t.TempDir())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, test := range []struct {
		args string
		want string // in the output
		fail bool
	}{
		{args: "topics create there", want: "projects/p/topics/there"},
		{args: "subscriptions create sub --topic=there --ack-deadline=20", want: "ackDeadlineSeconds"},
		{args: "topics publish there --message=hi --attribute=k=v", want: "messageIds"},
		{args: "subscriptions pull sub --auto-ack", want: `"data": "aGk="`},
		{args: "topics add-iam-policy-binding there --member=user:a@example.com --role=roles/pubsub.publisher", want: "user:a@example.com"},
		{args: "topics get-iam-policy there", want: "roles/pubsub.publisher"},
		{args: "topics describe nothing", want: "NOT_FOUND", fail: true},
		{args: "schemas list", want: "ListSchemas not implemented", fail: true},
	} {
		begun := time.Now()
		out, err := run(strings.Fields(test.args)...)
		if (err != nil) != test.fail || !strings.Contains(out, test.want) {
			t.Errorf("gcloud pubsub %s: %v\n%s\nwant %q", test.args, err, out, test.want)
		}
		if took := time.Since(begun); test.fail && took > 25*time.Second {
			t.Errorf("gcloud pubsub %s took %s, it repeats the request", test.args, took)
		}
	}
}

// TestNode runs Google's libraries for Node, unmodified, where npm can bring
// them: googleapis over REST, @google-cloud/pubsub over gRPC.
func TestNode(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("npm takes half a minute")
	}
	need(t, "npm")
	dir := t.TempDir()
	npm := exec.CommandContext(t.Context(), "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", "googleapis@188.0.0", "@google-cloud/pubsub@5.3.1")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Skipf("npm cannot bring Google's libraries: %v\n%s", err, out)
	}
	host := start(t, real(t), nil)
	for name, script := range map[string]string{
		"googleapis": `
const assert = require('node:assert');
const {google} = require('googleapis');
(async () => {
  const {topics, subscriptions, schemas} = google.pubsub({version: 'v1', rootUrl: 'http://' + process.argv[1] + '/'}).projects;
  const topic = 'projects/p/topics/rest', subscription = 'projects/p/subscriptions/rest';
  await topics.create({name: topic, requestBody: {labels: {a: 'b'}}});
  await subscriptions.create({name: subscription, requestBody: {topic}});
  await topics.publish({topic, requestBody: {messages: [{data: 'aGk='}]}});
  const pulled = (await subscriptions.pull({subscription, requestBody: {maxMessages: 1}})).data.receivedMessages;
  assert.equal(pulled[0].message.data, 'aGk=');
  await subscriptions.acknowledge({subscription, requestBody: {ackIds: [pulled[0].ackId]}});
  assert.equal((await topics.list({project: 'projects/p', pageSize: 10})).data.topics.find(t => t.name === topic).labels.a, 'b');
  assert.equal((await topics.getIamPolicy({resource: topic, 'options.requestedPolicyVersion': 3})).data.etag, 'ACAB');
  await assert.rejects(topics.get({topic: topic + '2'}), {code: 404});
  await assert.rejects(schemas.list({parent: 'projects/p'}), /ListSchemas not implemented/);
})();`,
		"pubsub": `
const assert = require('node:assert');
const {PubSub} = require('@google-cloud/pubsub');
(async () => {
  const pubsub = new PubSub({projectId: 'p'});
  const [topic] = await pubsub.createTopic('grpc');
  const [subscription] = await topic.createSubscription('grpc');
  const got = new Promise(resolve => subscription.on('message', m => { m.ack(); resolve(m.data.toString()); }));
  await topic.publishMessage({data: Buffer.from('hello')});
  assert.equal(await got, 'hello');
  await subscription.close();
  await pubsub.close();
})();`,
	} {
		node := exec.CommandContext(t.Context(), "node", "-e", script, host)
		node.Dir = dir
		node.Env = append(os.Environ(), "PUBSUB_EMULATOR_HOST="+host)
		if out, err := node.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
