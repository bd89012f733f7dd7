package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
)

const certificateHost = "mns-cert.oss-cn-local.aliyuncs.com"

// start runs a built function with this environment and nothing else, as Cloud
// Run does, and returns its address.
func start(t *testing.T, name string, environment map[string]string, more ...string) string {
	t.Helper()
	reserved := port.Reserve(t)
	cmd := exec.Command(program(t, name))
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{
		"FUNCTION_TARGET=" + name,
		"K_SERVICE=" + name,
		"K_REVISION=" + name + "-00001-abc",
		"PORT=" + reserved,
	}, more...)
	for k, v := range environment {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }() // killed, so it has an error
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s:\n%s", name, log.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := port.Listening(ctx, reserved); err != nil {
		t.Fatalf("%s does not listen: %v", name, err)
	}
	return "http://127.0.0.1:" + reserved
}

// answer is what a function says to a request.
type answer struct {
	status int
	body   string
}

func ask(t *testing.T, method, url, token, contentType, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, string(b)}
}

// TestDeployedFunctionsAnswer runs each function as it is deployed: staged by
// scripts/deploy, built as the buildpack does, with the environment that
// Terraform's outputs give it. Behind it are Google's emulators.
func TestDeployedFunctionsAnswer(t *testing.T) {
	t.Parallel()
	project := emulator.Project()
	functions, file := outputs(t, project, everything)
	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := mnsfake.NewSigner(512)
	if err != nil {
		t.Fatal(err)
	}
	net := google.NewInternet(t, map[string]http.RoundTripper{
		"www.googleapis.com": issuer.Transport(),
		"www.gstatic.com":    issuer.Transport(),
		certificateHost:      signer.Transport(),
	})
	pubsubHost, firestoreHost := emulator.PubSub(t), emulator.Firestore(t)
	way := []string{
		"PUBSUB_EMULATOR_HOST=" + pubsubHost,
		"FIRESTORE_EMULATOR_HOST=" + firestoreHost,
		"GOOGLE_APPLICATION_CREDENTIALS=" + google.AccountKey(t),
	}
	way = append(way, net.Environment...)
	receive, publish, console := functions["receive"].Environment, functions["publish"].Environment, functions["console"].Environment
	calendar := functions["calendar"].Environment
	receiveURL := start(t, "receive", receive, way...)
	publishURL := start(t, "publish", publish, way...)
	consoleURL := start(t, "console", console, way...)
	calendarURL := start(t, "calendar", calendar, way...)
	mnsURL := start(t, "mns", functions["mns"].Environment, append(way, "MNS_SECRET="+mnsSecret)...)

	// Pub/Sub, pushing to receive as the subscription in pubsub.tf says.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	client, err := pubsub.NewClient(ctx, project, option.WithEndpoint(pubsubHost), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	delivered := make(chan pushfake.Delivery, 100)
	server, err := pushfake.Start(ctx, receiveURL, &pushfake.ServerOptions{
		Client: client,
		Subscription: &pubsubpb.Subscription{
			Topic: "projects/" + project + "/topics/" + publish["PUBSUB_TOPIC"],
			PushConfig: &pubsubpb.PushConfig{
				PushEndpoint: receiveURL + "/",
				AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{
					ServiceAccountEmail: receive["PUSH_SERVICE_ACCOUNT"],
					Audience:            receive["PUSH_AUDIENCE"],
				}},
			},
		},
		Dispatcher: pushfake.Options{Issuer: issuer, OnDelivery: func(d pushfake.Delivery) { delivered <- d }},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })

	token := func(audience, email string) string { return google.Token(t, issuer, audience, email) }
	tester := "inbox-tester@" + project + ".iam.gserviceaccount.com"
	operators := strings.Split(calendar["CALENDAR_OPERATORS"], ",") // Scheduler's account comes first
	push, err := os.ReadFile(filepath.Join(root, "testdata", "pubsub", "sample_message.json"))
	if err != nil {
		t.Fatal(err)
	}
	signed := token(receive["PUSH_AUDIENCE"], receive["PUSH_SERVICE_ACCOUNT"])
	for _, test := range []struct {
		name, method, url, token, contentType, body string
		want                                        int
	}{
		{"receive_signed", "POST", receiveURL, signed, "application/json", string(push), 204},
		{"receive_signed_again", "POST", receiveURL, signed, "application/json", string(push), 204},
		{"receive_unsigned", "POST", receiveURL, "", "application/json", string(push), 401},
		{"receive_signature_cut_off", "POST", receiveURL, signed[:strings.LastIndexByte(signed, '.')] + ".SIGNATURE_REMOVED_BY_GOOGLE", "application/json", string(push), 401},
		{"receive_other_audience", "POST", receiveURL, token(publish["PUBLISH_AUDIENCE"], receive["PUSH_SERVICE_ACCOUNT"]), "application/json", string(push), 403},
		{"receive_other_account", "POST", receiveURL, token(receive["PUSH_AUDIENCE"], tester), "application/json", string(push), 403},
		{"receive_quarantines", "POST", receiveURL, signed, "application/json", "{}", 204},
		{"publish_signed", "POST", publishURL, token(publish["PUBLISH_AUDIENCE"], tester), "text/plain", "Hello from a deployed function", 200},
		{"publish_unsigned", "POST", publishURL, "", "text/plain", "Hello", 401},
		{"publish_other_account", "POST", publishURL, token(publish["PUBLISH_AUDIENCE"], receive["PUSH_SERVICE_ACCOUNT"]), "text/plain", "Hello", 403},
		{"console_signed", "GET", consoleURL + "/messages", token(console["CONSOLE_AUDIENCE"], tester), "", "", 200},
		{"console_unsigned", "GET", consoleURL + "/messages", "", "", "", 401},
		{"console_other_account", "GET", consoleURL + "/messages", token(console["CONSOLE_AUDIENCE"], receive["PUSH_SERVICE_ACCOUNT"]), "", "", 403},
		{"calendar_scheduler_syncs", "POST", calendarURL + "/sync", token(calendar["CALENDAR_AUDIENCE"], operators[0]), "", "", 200},
		{"calendar_push_syncs", "POST", calendarURL + "/sync", token(calendar["CALENDAR_AUDIENCE"], receive["PUSH_SERVICE_ACCOUNT"]), "application/json", `{"message":{"attributes":{"calendar":"stopped@example.com"},"messageId":"1"},"subscription":"s"}`, 204},
		{"calendar_tester_lists", "GET", calendarURL + "/channels", token(calendar["CALENDAR_AUDIENCE"], tester), "", "", 200},
		{"calendar_unsigned", "POST", calendarURL + "/sync", "", "", "", 401},
		{"calendar_other_account", "POST", calendarURL + "/sync", token(calendar["CALENDAR_AUDIENCE"], "inbox-console@"+project+".iam.gserviceaccount.com"), "", "", 403},
		{"calendar_other_audience", "POST", calendarURL + "/sync", token(receive["PUSH_AUDIENCE"], receive["PUSH_SERVICE_ACCOUNT"]), "", "", 403},
		{"calendar_notification_without_headers", "POST", calendarURL + "/notifications", "", "", "", 400},
		{"calendar_robots", "GET", calendarURL + "/robots.txt", "", "", "", 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ask(t, test.method, test.url, test.token, test.contentType, test.body)
			// A fresh emulator on a busy machine may be too slow at first, which
			// is answered as promised. Pub/Sub sends again then.
			for got.status == http.StatusServiceUnavailable && ctx.Err() == nil {
				got = ask(t, test.method, test.url, test.token, test.contentType, test.body)
			}
			if got.status != test.want {
				t.Errorf("%d %s, want %d", got.status, got.body, test.want)
			}
		})
	}

	// What publish published came to receive, and console shows both.
	select {
	case d := <-delivered:
		if d.Status != http.StatusNoContent {
			t.Fatalf("the push of what was published was answered %d, %v", d.Status, d.Err)
		}
	case <-ctx.Done():
		t.Fatal("what was published is not pushed")
	}
	var page struct {
		Messages []struct {
			Data     []byte `json:"data"`
			Verified struct {
				Email string `json:"email"`
			} `json:"verified"`
		} `json:"messages"`
	}
	list := ask(t, "GET", consoleURL+"/messages", token(console["CONSOLE_AUDIENCE"], tester), "", "")
	if err := json.Unmarshal([]byte(list.body), &page); err != nil {
		t.Fatalf("%v: %s", err, list.body)
	}
	if len(page.Messages) != 3 || string(page.Messages[0].Data) != "Hello from a deployed function" {
		t.Errorf("the list is %s, want what was published, the sample and what is in quarantine", list.body)
	}
	for _, m := range page.Messages {
		if m.Verified.Email != receive["PUSH_SERVICE_ACCOUNT"] {
			t.Errorf("verified as %q, want the push account", m.Verified.Email)
		}
	}

	t.Run("mns", func(t *testing.T) {
		pushByMNS(t, signer, mnsURL)
		list := ask(t, "GET", consoleURL+"/messages?source=mns", token(console["CONSOLE_AUDIENCE"], tester), "", "")
		if strings.Count(list.body, `"messageId"`) != 1 || !strings.Contains(list.body, `"accounts/`+mnsfake.Owner+`/topics/orders/subscriptions/orders-Sub"`) {
			t.Errorf("the list is %s, want the one good push", list.body)
		}
	})

	t.Run("check", func(t *testing.T) {
		here := map[string]string{"receive": receiveURL, "publish": publishURL, "console": consoleURL}
		checkDeployment(t, file, here, functions, token)
	})

	if refused := net.Refused(); len(refused) > 0 {
		t.Errorf("the functions asked for %v, want Google's keys and MNS's certificate only", refused)
	}
}

const mnsSecret = "0123456789abcdef"

// pushByMNS sends mns what MNS would send, and what others would.
func pushByMNS(t *testing.T, signer *mnsfake.Signer, mnsURL string) {
	stranger, err := mnsfake.NewSigner(512)
	if err != nil {
		t.Fatal(err)
	}
	n := mnsfake.Notification{
		TopicOwner: mnsfake.Owner, TopicName: "orders", Subscriber: mnsfake.Owner, SubscriptionName: "orders-Sub",
		MessageID: "1", MessageMD5: "075C3D4AEB2D2F2D6A4C17C9D6DBBEBB", Message: "I am test message 0.", PublishTime: time.Now(),
	}
	foreign := n
	foreign.TopicOwner = "2"
	for _, test := range []struct {
		name   string
		signer *mnsfake.Signer
		path   string
		n      mnsfake.Notification
		want   int
	}{
		{"signed", signer, "/" + mnsSecret, n, 201},
		{"signed_again", signer, "/any?token=" + mnsSecret, n, 201},
		{"without_secret", signer, "/", n, 403},
		{"other_key", stranger, "/" + mnsSecret, n, 403},
		{"other_owner", signer, "/" + mnsSecret, foreign, 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, err := url.Parse(mnsURL + test.path)
			if err != nil {
				t.Fatal(err)
			}
			status := http.StatusServiceUnavailable
			for status == http.StatusServiceUnavailable && t.Context().Err() == nil { // as above
				r, err := test.signer.Push(address, mnsfake.FormatXML, &test.n, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				status = res.StatusCode
			}
			if status != test.want {
				t.Errorf("answered %d, want %d", status, test.want)
			}
		})
	}
}

// checkDeployment runs scripts/deploy --check on functions that run here, with a
// gcloud that gets its tokens from the issuer.
func checkDeployment(t *testing.T, file string, here map[string]string, functions map[string]function, token func(audience, email string) string) {
	need.Program(t, "jq")
	need.Program(t, "curl")
	var all map[string]any
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	moved := all["functions"].(map[string]any)["value"].(map[string]any)
	audiences := map[string]string{}
	for name, url := range here {
		moved[name].(map[string]any)["url"] = url
		audiences[url] = functions[name].URL
	}
	// From here receive can be reached.
	moved["receive"].(map[string]any)["ingress"] = "all"
	all["api_url"] = map[string]any{"value": here["console"]}
	if b, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	local := filepath.Join(dir, "outputs.json")
	if err := os.WriteFile(local, b, 0o644); err != nil {
		t.Fatal(err)
	}
	mint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, token(audiences[r.FormValue("audience")], r.FormValue("account")))
	}))
	t.Cleanup(mint.Close)
	gcloud := `#!/bin/sh
for a; do case $a in
--impersonate-service-account=*) account=${a#*=} ;;
--audiences=*) audience=${a#*=} ;;
esac; done
exec curl -sS --get --data-urlencode "account=$account" --data-urlencode "audience=$audience" ` + mint.URL + "\n"
	if err := os.WriteFile(filepath.Join(dir, "gcloud"), []byte(gcloud), 0o755); err != nil {
		t.Fatal(err)
	}
	out, ok := deploy(t, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, "--outputs", local, "--check")
	for _, want := range []string{"receive: refuses a push without a token", "publish: published ", "console: has it"} {
		if !ok || !strings.Contains(out, want) {
			t.Errorf("success %v, it prints %s, want %q in it", ok, out, want)
		}
	}

	// Nobody may be told that all is well when the wrong thing answers.
	moved["receive"].(map[string]any)["url"] = mint.URL
	if b, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(local, b, 0o644); err != nil {
		t.Fatal(err)
	}
	out, ok = deploy(t, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, "--outputs", local, "--check")
	if ok || !strings.Contains(out, "receive answers 200") {
		t.Errorf("success %v, it prints %s, want that receive answers 200", ok, out)
	}
}

// TestFunctionsNeedTheirEnvironment starts each function without what Terraform
// gives it: the deployment must fail, not the first message.
func TestFunctionsNeedTheirEnvironment(t *testing.T) {
	t.Parallel()
	for _, name := range functionNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := program(t, name)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, file)
			cmd.Env = []string{"FUNCTION_TARGET=" + name, "PORT=0"}
			out, err := cmd.CombinedOutput()
			if err == nil || ctx.Err() != nil {
				t.Fatalf("it starts: %s", out)
			}
			if !strings.Contains(string(out), "is not set") {
				t.Errorf("it says %s, want the variables that are missing", out)
			}
		})
	}
}
