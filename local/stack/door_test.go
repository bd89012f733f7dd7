package stack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"example.com/pushinbox/local/pushfake"
)

// rawStatus sends a request as it is to an address and returns the status, without
// waiting for the body.
func rawStatus(t *testing.T, address, request string) int {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%v after %q", err, request)
	}
	return resp.StatusCode
}

// route is an address of a local run. Each test of all of them must name those that
// are new.
type route struct {
	method, path string
	console      bool // its pages send requests with an Origin
	json         bool // a body of it is JSON
}

var routes = []route{
	{"GET", "/", true, false},
	{"GET", "/assets/console.js", true, false},
	{"GET", "/rows", true, false},
	{"GET", "/messages", true, false},
	{"POST", "/messages", true, false},
	{"GET", "/messages/x", true, false},
	{"GET", "/messages/x/data", true, false},
	{"POST", "/messages/x:replay", true, false},
	{"GET", "/events", true, false},
	{"GET", "/nowhere", true, false},
	{"GET", "//messages", true, false},
	{"OPTIONS", "/messages", true, false},
	{"OPTIONS", "*", true, false},
	{"POST", "/publish", false, false},
	{"POST", "/publish/v1/projects/local/topics/inbox:publish", false, false},
	{"POST", "/receive", false, false},
	{"POST", "/receive/wrapped", false, false},
	{"POST", "/calendar/watch", false, false},
	{"POST", "/calendar/sync", false, false},
	{"POST", "/calendar/notifications", false, false},
	{"GET", "/calendar/channels", false, false},
	{"POST", "/mns", false, false},
	{"POST", "/mns/secret", false, false},
	{"GET", "/local/token", false, false},
	{"GET", "/local/certs", false, false},
	{"GET", "/local/oauth2/v1/certs", false, false},
	{"GET", "/local/oauth2/v3/certs", false, false},
	{"GET", "/local/.well-known/openid-configuration", false, false},
	{"POST", "/local/sign", false, true},
	{"GET", "/local/mns/topics", false, false},
	{"PUT", "/local/mns/topics/x", false, false},
	{"GET", "/local/calendar/events", false, true},
	{"POST", "/local/calendar/events", false, true},
	{"PATCH", "/local/calendar/events/x", false, true},
	{"POST", "/local/calendar/calendars/x/events", false, true},
	{"POST", "/local/calendar/channels/stop", false, true},
}

// TestWebPagesGetNothing sends what a web page can have a browser send to every
// route, at both addresses of loopback.
func TestWebPagesGetNothing(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.HostNames = []string{"host.docker.internal"}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	here := "127.0.0.1:" + port
	attacks := map[string]struct{ host, header string }{
		"rebound_name":           {"evil.example:" + port, ""},
		"begins_like_localhost":  {"localhost.evil:" + port, ""},
		"ends_like_localhost":    {"evillocalhost:" + port, ""},
		"below_localhost":        {"evil.localhost:" + port, ""},
		"begins_like_an_address": {"127.0.0.1.evil:" + port, ""},
		"user_before_name":       {"localhost@evil.example", ""},
		"name_before_user":       {"evil.example@localhost", ""},
		"two_dots":               {"localhost..:" + port, ""},
		"empty":                  {"", ""},
		"only_a_port":            {":" + port, ""},
		"only_a_dot":             {".", ""},
		"any_address":            {"0.0.0.0:" + port, ""},
		"any_address_6":          {"[::]:" + port, ""},
		"other_address":          {"192.0.2.1:" + port, ""},
		"short_address":          {"127.1:" + port, ""},
		"number":                 {"2130706433:" + port, ""},
		"octal":                  {"0177.0.0.1:" + port, ""},
		"zone":                   {"[::1%25lo]:" + port, ""},
		"raw_zone":               {"[::1%lo]:" + port, ""},
		"no_brackets":            {"::1", ""},
		"name_in_brackets":       {"[localhost]:" + port, ""},
		"address_in_brackets":    {"[127.0.0.1]:" + port, ""},
		"rest_after_brackets":    {"[::1].evil:" + port, ""},
		"port_is_a_name":         {"localhost:evil", ""},
		"port_too_large":         {"localhost:65536", ""},
		"two_ports":              {"localhost:1:2", ""},
		"like_the_given_name":    {"host.docker.internal.evil", ""},
		"origin":                 {here, "Origin: https://evil.example\r\n"},
		"origin_of_another_port": {here, "Origin: http://127.0.0.1:1\r\n"},
		"origin_without_port":    {here, "Origin: http://127.0.0.1\r\n"},
		"origin_of_another_name": {here, "Origin: http://localhost:" + port + "\r\n"},
		"origin_by_https":        {here, "Origin: https://" + here + "\r\n"},
		"opaque_origin":          {here, "Origin: null\r\n"},
		"empty_origin":           {here, "Origin:\r\n"},
		"two_origins":            {here, "Origin: http://" + here + "\r\nOrigin: https://evil.example\r\n"},
		"origins_in_one":         {here, "Origin: http://" + here + " https://evil.example\r\n"},
		"extension":              {here, "Origin: chrome-extension://abc\r\n"},
		"cross_site":             {here, "Sec-Fetch-Site: cross-site\r\n"},
		"same_site":              {here, "Sec-Fetch-Site: same-site\r\n"},
		"unknown_site":           {here, "Sec-Fetch-Site: Same-Origin\r\n"},
		"two_sites":              {here, "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n"},
	}
	for _, address := range []string{here, "[::1]:" + port} {
		for _, r := range routes {
			send := func(target, host, header string) int {
				return rawStatus(t, address, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", r.method, target, host, header))
			}
			for name, attack := range attacks {
				// net/http refuses some by itself, with 400.
				if status := send(r.path, attack.host, attack.header); status != http.StatusForbidden && status != http.StatusBadRequest {
					t.Errorf("%s %s with %s at %s: %d", r.method, r.path, name, address, status)
				}
			}
			for _, target := range []string{"http://evil.example" + r.path, "http://" + here + r.path, "https://" + here + r.path, "x:" + r.path} {
				if status := send(target, here, ""); r.path != "*" && status != http.StatusForbidden && status != http.StatusBadRequest {
					t.Errorf("%s %s: %d", r.method, target, status)
				}
			}
			if status := rawStatus(t, address, r.method+" "+r.path+" HTTP/1.0\r\n\r\n"); status != http.StatusForbidden && status != http.StatusBadRequest {
				t.Errorf("%s %s without a Host: %d", r.method, r.path, status)
			}
			if own := send(r.path, here, "Origin: http://"+here+"\r\nSec-Fetch-Site: same-origin\r\n"); (own == http.StatusForbidden) == r.console {
				t.Errorf("%s %s from the console's page: %d", r.method, r.path, own)
			}
			for _, kind := range []string{"", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: application/jsonp\r\n", "Content-Type: text/plain; application/json\r\n"} {
				if status := send(r.path, here, kind+"Content-Length: 2\r\n\r\n{}"); r.json != (status == http.StatusUnsupportedMediaType) && r.path != "/messages" {
					t.Errorf("%s %s with a body and %q: %d", r.method, r.path, kind, status)
				}
			}
			for _, host := range []string{here, "localhost:" + port, "LocalHost.:" + port, "localhost", "127.1.2.3", "[::1]:" + port, "[::1]", "host.docker.internal:9", "Host.Docker.Internal."} {
				// The function mns has a 403 of its own, for pushes without a signature.
				if status := send(r.path, host, "Sec-Fetch-Site: none\r\n"); status == http.StatusForbidden && !strings.HasPrefix(r.path, MNSFunction) {
					t.Errorf("%s %s of %s: refused", r.method, r.path, host)
				}
			}
		}
	}
	if status := rawStatus(t, here, "CONNECT "+here+" HTTP/1.1\r\nHost: "+here+"\r\n\r\n"); status != http.StatusForbidden {
		t.Errorf("CONNECT: %d", status)
	}
}

// TestOpenHostWantsTheKey is a run that other machines can reach.
func TestOpenHostWantsTheKey(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Host = netip.IPv4Unspecified()
	// What stands in the file's place is replaced, not followed.
	victim := t.TempDir() + "/victim"
	if err := os.Symlink(victim, o.Data+"/"+keyFile); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if info, err := os.Lstat(s.Key.File); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	if _, err := os.Stat(victim); err == nil {
		t.Error("the symbolic link was followed")
	}
	file, err := os.ReadFile(s.Key.File)
	if err != nil {
		t.Fatal(err)
	}
	header := strings.TrimSpace(string(file)) + "\r\n"
	login, err := url.Parse(s.Login())
	if err != nil {
		t.Fatal(err)
	}
	here := strings.TrimPrefix(s.URL, "http://")
	send := func(method, target, host, header string) int {
		return rawStatus(t, here, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, target, host, header))
	}
	if status := send("GET", login.RequestURI(), login.Host, ""); status != http.StatusSeeOther {
		t.Errorf("signing in: %d", status)
	}
	if status := send("GET", login.RequestURI(), "127.0.0.1", ""); status != http.StatusForbidden {
		t.Errorf("signing in where the cookie would reach other ports: %d", status)
	}
	for _, r := range routes {
		want := r.console || r.path == "/local/token" || r.path == SignPath || strings.HasPrefix(r.path, googlePath)
		if strings.HasPrefix(r.path, "//") || r.path == "*" {
			continue // answered by the mux
		}
		if status := send(r.method, r.path, here, ""); want != (status == http.StatusUnauthorized) && !(strings.HasPrefix(r.path, "/publish") || strings.HasPrefix(r.path, "/receive") || strings.HasPrefix(r.path, "/calendar")) {
			t.Errorf("%s %s without the key: %d", r.method, r.path, status)
		}
		if status := send(r.method, r.path, here, header); want && (status == http.StatusUnauthorized || status == http.StatusForbidden) {
			t.Errorf("%s %s with the key: %d", r.method, r.path, status)
		}
		if status := send(r.method, r.path, login.Host, "Cookie: "+sessionCookie+"="+s.Key.session+"\r\n"); want && (status == http.StatusUnauthorized || status == http.StatusForbidden) {
			t.Errorf("%s %s with the cookie: %d", r.method, r.path, status)
		}
		if status := send(r.method, r.path, here, "Cookie: "+sessionCookie+"="+s.Key.session+"\r\n"); want && status != http.StatusUnauthorized {
			t.Errorf("%s %s with the cookie of another name: %d", r.method, r.path, status)
		}
		for _, host := range []string{"0.0.0.0", "192.0.2.1", "evil.example", "evil.localhost"} {
			if status := send(r.method, r.path, host, header); status != http.StatusForbidden {
				t.Errorf("%s %s of %s: %d", r.method, r.path, host, status)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Key.File); !os.IsNotExist(err) {
		t.Errorf("the key's file after the end: %v", err)
	}
}

// TestOpenHostSignsForNobodyElse asks a run that other machines can reach for pushes with the
// tokens that open its own console, as whoever reaches Pub/Sub's port can.
func TestOpenHostSignsForNobodyElse(t *testing.T) {
	t.Parallel()
	const trusted = "billing@demo.iam.gserviceaccount.com"
	o := options(t)
	o.Host = netip.IPv4Unspecified()
	o.Endpoints = []Endpoint{{Topic: "orders", URL: "http://127.0.0.1:1/", Email: trusted}}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	key := "Bearer " + s.Key.secret
	client, err := pushfake.Dial(t.Context(), s.PubSubAddr, o.Project)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	project := "projects/" + o.Project
	topic, inbox, own := project+"/topics/evil", project+"/subscriptions/"+o.Topic+"-push", project+"/subscriptions/own"
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	push := func(account string) *pubsubpb.PushConfig {
		c := signedPush("http://127.0.0.1:1/", s.URL+"/")
		c.GetOidcToken().ServiceAccountEmail = account
		return c
	}
	admin := client.SubscriptionAdminClient
	if _, err := admin.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: own, Topic: topic, PushConfig: push("me@demo.iam.gserviceaccount.com")}); err != nil {
		t.Errorf("a push in another name: %v", err)
	}
	update := func(sub string, c *pubsubpb.PushConfig, path string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := admin.UpdateSubscription(ctx, &pubsubpb.UpdateSubscriptionRequest{
				Subscription: &pubsubpb.Subscription{Name: sub, PushConfig: c}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}},
			})
			return err
		}
	}
	modify := func(sub string, c *pubsubpb.PushConfig) func(context.Context) error {
		return func(ctx context.Context) error {
			return admin.ModifyPushConfig(ctx, &pubsubpb.ModifyPushConfigRequest{Subscription: sub, PushConfig: c})
		}
	}
	calls := map[string]func(context.Context) error{
		"the inbox's endpoint":        update(inbox, push(""), "push_config.push_endpoint"),
		"the inbox's audience":        update(inbox, push(""), "push_config.oidc_token.audience"),
		"the inbox's configuration":   modify(inbox, push(PushAccount)),
		"a configuration by its path": update(own, push(Developer), "push_config.oidc_token.service_account_email"),
	}
	for _, account := range []string{Developer, "Developer@LocalHost", PushAccount, publishCaller, trusted} {
		calls["create as "+account] = func(ctx context.Context) error {
			_, err := admin.CreateSubscription(ctx, &pubsubpb.Subscription{Topic: topic, PushConfig: push(account)})
			return err
		}
		calls["update to "+account] = update(own, push(account), "push_config")
		calls["modify to "+account] = modify(own, push(account))
	}
	for name, call := range calls {
		if err := call(t.Context()); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PERMISSION_DENIED", name, err)
		}
		if err := call(metadata.AppendToOutgoingContext(t.Context(), "authorization", key+"0")); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s with a wrong key: %v, want PERMISSION_DENIED", name, err)
		}
	}
	resume := update(own, push(PushAccount), "push_config")
	for _, step := range []struct {
		name string
		call func(context.Context) error
	}{
		{"the end of the pushing", modify(own, &pubsubpb.PushConfig{})},
		{"the start with the key", func(ctx context.Context) error {
			return resume(metadata.AppendToOutgoingContext(ctx, "authorization", key))
		}},
		{"what is so already", resume},
		{"another setting", func(ctx context.Context) error {
			_, err := admin.UpdateSubscription(ctx, &pubsubpb.UpdateSubscriptionRequest{
				Subscription: &pubsubpb.Subscription{Name: inbox, AckDeadlineSeconds: 20}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"ack_deadline_seconds"}},
			})
			return err
		}},
	} {
		if err := step.call(t.Context()); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	// REST is another way to the same.
	body := fmt.Sprintf(`{"topic":%q,"pushConfig":{"pushEndpoint":"http://127.0.0.1:1/","oidcToken":{"serviceAccountEmail":%q}}}`, topic, Developer)
	for header, want := range map[string]int{"": http.StatusForbidden, "Authorization: " + key + "\r\n": http.StatusOK} {
		request := fmt.Sprintf("PUT /v1/%s/subscriptions/rest HTTP/1.1\r\nHost: %s\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", project, s.PubSubAddr, header, len(body), body)
		if got := rawStatus(t, s.PubSubAddr, request); got != want {
			t.Errorf("by REST with %q: %d, want %d", header, got, want)
		}
	}
}

// TestOpenHostEndsForeignPushes starts a run that other machines can reach with what an
// earlier one let anybody create.
func TestOpenHostEndsForeignPushes(t *testing.T) {
	t.Parallel()
	const trusted = "billing@demo.iam.gserviceaccount.com"
	o := options(t)
	before, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	store := before.own.store
	project := "projects/" + o.Project
	if _, err := store.CreateTopic(t.Context(), &pubsubpb.Topic{Name: project + "/topics/evil"}); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{o.Topic + "-push": true, syncTopic: true, "orders-push-1": true} // is pushed
	for name, account := range map[string]string{"developer": Developer, "trusted": trusted, "other": "me@demo.iam.gserviceaccount.com", "unsigned": ""} {
		push := &pubsubpb.PushConfig{PushEndpoint: "http://127.0.0.1:1/"}
		if account != "" {
			push.AuthenticationMethod = &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: account}}
		}
		if _, err := store.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: project + "/subscriptions/" + name, Topic: project + "/topics/evil", PushConfig: push}); err != nil {
			t.Fatal(err)
		}
		want[name] = account == "" || name == "other"
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	o.Log = slog.New(slog.NewTextHandler(&said, nil))
	o.Host = netip.IPv4Unspecified()
	o.Endpoints = []Endpoint{{Topic: "orders", URL: "http://127.0.0.1:1/", Email: trusted}}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	pushed := make(map[string]bool)
	for _, there := range s.own.store.Statuses() {
		pushed[there.Subscription.Name[strings.LastIndex(there.Subscription.Name, "/")+1:]] = there.Subscription.PushConfig.GetPushEndpoint() != ""
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for name := range want {
		if pushed[name] != want[name] {
			t.Errorf("%s is pushed: %v, want %v", name, pushed[name], want[name])
		}
	}
	for _, name := range []string{"developer", "trusted"} {
		if !strings.Contains(said.String(), "/subscriptions/"+name+" is not pushed any more") {
			t.Errorf("%s is not named in %s", name, &said)
		}
	}
}
