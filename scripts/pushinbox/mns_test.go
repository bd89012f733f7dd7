package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/inbox"
)

// must runs pushinbox mns on the stand-in of r, which prints want.
func (r *running) must(t *testing.T, want string, args ...string) string {
	t.Helper()
	args = append(args[:1:1], append([]string{"--endpoint", r.base + stack.MNSPath}, args[1:]...)...)
	out, errs, code := run(t, "", append([]string{"mns"}, args...)...)
	if code != 0 || !strings.Contains(out, want) {
		t.Fatalf("mns %v: exit %d, %s%s", args, code, out, errs)
	}
	return out
}

// taken waits until n pushes of MNS were taken.
func (r *running) taken(t *testing.T, n int) {
	t.Helper()
	for range n {
		r.line(t, func(s string) bool { return strings.HasPrefix(s, "<-- 201") })
	}
}

func (r *running) messagesOf(t *testing.T, source string) []inbox.Message {
	t.Helper()
	var page struct{ Messages []inbox.Message }
	if err := json.Unmarshal(r.get(t, "/messages?source="+source), &page); err != nil {
		t.Fatal(err)
	}
	return page.Messages
}

// TestWalkthrough does what Alibaba's sample does: make the topic, start the
// endpoint, subscribe, publish three messages, look at what arrived and at the
// logs, delete the topic.
func TestWalkthrough(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"", "XML", "JSON", "SIMPLIFIED"} {
		t.Run("format_"+strings.ToLower(format), func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			r := start(t, data)
			r.must(t, "Create Topic Succeed! TopicName:MySampleTopic\n", "create-topic")
			subscribe := []string{"subscribe", r.base + "/mns"}
			if format != "" {
				subscribe = append(subscribe, "--content-format", format)
			}
			r.must(t, "Create Subscription Succeed! TopicName:MySampleTopic SubName:MySampleTopic-Sub Endpoint:"+r.base+"/mns\n", subscribe...)
			out := r.must(t, "==========Publish Message To Topic==========\nTopicName:MySampleTopic\nMessageCount:3\n\n", "publish")
			r.taken(t, 3)
			want := map[string]string{}
			for i, line := range strings.Split(strings.TrimSpace(out), "\n")[4:] {
				body, id, _ := strings.Cut(strings.TrimPrefix(line, "Publish Message Succeed. MessageBody:"), " MessageID:")
				if want[id] = body; body != fmt.Sprintf("I am test message %d.", i) || !regexp.MustCompile(`^[0-9A-F]{16}-1-[0-9A-F]{11}-2[0-9A-F]{8}$`).MatchString(id) {
					t.Errorf("printed %q", line)
				}
			}
			if len(want) != 3 {
				t.Errorf("printed %s", out)
			}
			got := map[string]string{}
			for _, m := range r.messagesOf(t, "mns") {
				got[m.MessageID] = string(m.Data)
				if m.Subscription != "accounts/1000000000000000/topics/MySampleTopic/subscriptions/MySampleTopic-Sub" ||
					m.Verified.Subject != "1000000000000000" || m.PublishTime.IsZero() || time.Since(m.PublishTime) > time.Minute {
					t.Errorf("stored %+v", m)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			r.must(t, "Delete Topic Succeed! TopicName:MySampleTopic\n", "delete-topic")

			logs, errs, code := run(t, "", "logs", filepath.Join(data, stack.MNSLog))
			if code != 0 || strings.Count(logs, "Notify Message Succeed!\n") != 3 || strings.Count(logs, `]"POST" "201" "/mns" "HTTP/1.1" "`) != 3 ||
				strings.Contains(logs, "test message") {
				t.Errorf("the logs are %s%s", logs, errs)
			}
		})
	}
}

// TestSecretAndBase64 has the endpoint ask for a secret, and decode.
func TestSecretAndBase64(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef0123456789abcdef"
	data := t.TempDir()
	r := start(t, data, "MNS_SECRET="+secret, "MNS_BODY=base64")
	r.must(t, "Create Topic Succeed!", "create-topic", "T")
	r.must(t, "Create Subscription Succeed! TopicName:T SubName:with ", "subscribe", "T", r.base+"/mns/"+secret, "with")
	r.must(t, "Create Subscription Succeed! TopicName:T SubName:without ", "subscribe", "--name", "without", "--tag", "red", "T", r.base+"/mns")
	r.must(t, "Publish Message Succeed.", "publish", "--base64", "T", "\xff binary")
	r.taken(t, 1)
	if got := r.messagesOf(t, "mns"); len(got) != 1 || string(got[0].Data) != "\xff binary" {
		t.Errorf("stored %+v", got)
	}
	r.must(t, "Publish Message Succeed.", "publish", "--base64", "--tag", "red", "T", "forbidden")
	r.line(t, func(s string) bool {
		return strings.HasPrefix(s, "<-- 403 ") && strings.Contains(s, "attempt 1, again in 1")
	})
	r.must(t, "Delete Topic Succeed!", "delete-topic", "T")
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-r.done
	logged, err := os.ReadFile(filepath.Join(data, stack.MNSLog))
	if err != nil {
		t.Fatal(err)
	}
	if text := r.errs.String(); !strings.Contains(text, `msg="POST 403" in=mns`) || !strings.Contains(text, `error="the endpoint's secret is missing or wrong`) {
		t.Errorf("the terminal does not say why the push was refused: %s", text)
	}
	for where, text := range map[string]string{"the terminal": r.errs.String(), "the log": string(logged)} {
		if strings.Contains(text, secret) {
			t.Errorf("%s has the secret: %s", where, text)
		}
	}
	if !strings.Contains(string(logged), `"requestUrl":"/mns/***"`) {
		t.Errorf("the log has %s", logged)
	}
}

// TestCtrlCUnderMNSLoad stops a run in the middle of its pushes: those under way
// are answered, and none is shown as failed.
func TestCtrlCUnderMNSLoad(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	r.must(t, "Create Topic Succeed!", "create-topic", "T")
	r.must(t, "Create Subscription Succeed!", "subscribe", "T", r.base+"/mns")
	publish := []string{"publish", "T"}
	for i := range 300 {
		publish = append(publish, fmt.Sprint("message ", i))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Fails once the run has ended.
		_ = exec.CommandContext(t.Context(), command, append([]string{"mns", publish[0], "--endpoint", r.base + stack.MNSPath}, publish[1:]...)...).Run()
	}()
	r.taken(t, 20)
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-r.done
	<-done
	if code := r.cmd.ProcessState.ExitCode(); code != 0 || r.errs.Len() > 0 {
		t.Errorf("exit %d, %.500s", code, r.errs.String())
	}
	for len(r.lines) > 0 {
		if line := <-r.lines; strings.HasPrefix(line, "<--") && !strings.HasPrefix(line, "<-- 201") {
			t.Fatalf("a push failed: %s", line)
		}
	}
}

func TestBadLocalSecret(t *testing.T) {
	t.Parallel()
	_, errs, code := runIn(t, []string{"MNS_SECRET=short"}, "", "local", "--port", "0", "--data", t.TempDir())
	if code != exitUsage || !strings.Contains(errs, "MNS_SECRET is not 16 to 128") || strings.Count(errs, "\n") != 1 {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// TestTopicCommands holds what is there already, or not, to messages and exit
// codes.
func TestTopicCommands(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	endpoint := r.base + stack.MNSPath
	const heading = "==========Publish Message To Topic==========\nTopicName:T\nMessageCount:1\n\n"
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"list"}, 0, "there is no topic\n", ""},
		{[]string{"list", "--format", "json"}, 0, `{"topics":[]}` + "\n", ""},
		{[]string{"delete-topic", "T"}, exitAbsent, "", "there is no topic T"},
		{[]string{"publish", "T", "x"}, exitAbsent, heading, "there is no topic T"},
		{[]string{"subscribe", "T", r.base + "/mns"}, exitAbsent, "", "there is no topic T"},
		{[]string{"unsubscribe", "T"}, exitAbsent, "", "there is no topic T"},
		{[]string{"list", "T"}, exitAbsent, "", "there is no topic T"},
		{[]string{"create-topic", "--format", "json", "T"}, 0, `{"created":true,"topic":"T"}` + "\n", ""},
		{[]string{"create-topic", "--format", "json", "T"}, 0, `{"created":false,"topic":"T"}` + "\n", ""},
		{[]string{"create-topic", "T"}, 0, "topic T exists already, with the same attributes\n", ""},
		{[]string{"create-topic", "--max-size", "2048", "T"}, exitExists, "", "topic T exists already, with other attributes"},
		{[]string{"create-topic", "--max-size", "1", "U"}, exitFailed, "", "InvalidArgument"},
		{[]string{"create-topic", "a/b"}, exitFailed, "", "is not a valid topic name"},
		{[]string{"list", "T"}, 0, "T has no subscription\n", ""},
		{[]string{"unsubscribe", "T"}, exitAbsent, "", "T has no subscription T-Sub"},
		{[]string{"subscribe", "--content-format", "JSON", "--strategy", "EXPONENTIAL_DECAY_RETRY", "--tag", "red", "T", r.base + "/mns"}, 0, "Create Subscription Succeed! TopicName:T SubName:T-Sub Endpoint:" + r.base + "/mns\n", ""},
		{[]string{"subscribe", "--content-format", "JSON", "--strategy", "EXPONENTIAL_DECAY_RETRY", "--tag", "red", "T", r.base + "/mns"}, 0, "subscription T-Sub exists already, with the same attributes\n", ""},
		{[]string{"subscribe", "T", r.base + "/mns"}, exitExists, "", "T has a subscription T-Sub already, with other attributes; remove it with: pushinbox mns unsubscribe T T-Sub"},
		{[]string{"subscribe", "--name", "other", "T", r.base + "/mns"}, 0, "Create Subscription Succeed! TopicName:T SubName:other Endpoint:" + r.base + "/mns\n", ""},
		{[]string{"subscribe", "--name", "a", "T", r.base + "/mns", "b"}, exitUsage, "", "give the subscription's name once"},
		{[]string{"subscribe", r.base + "/mns", "T", "b", "c"}, exitUsage, "", `is one argument too many`},
		{[]string{"subscribe", r.base + "/mns"}, exitAbsent, "", "there is no topic MySampleTopic"},
		{[]string{"subscribe"}, exitUsage, "", "URL is missing"},
		{[]string{"list"}, 0, "T\t0\t65536\n", ""},
		{[]string{"list", "T"}, 0, "T-Sub\t" + r.base + "/mns\tred\tEXPONENTIAL_DECAY_RETRY\tJSON\nother\t" + r.base + "/mns\t-\tBACKOFF_RETRY\tXML\n", ""},
		{[]string{"list", "--format", "json"}, 0, `{"topics":[{"name":"T","messages":0,"maxMessageSize":65536}]}` + "\n", ""},
		{[]string{"list", "--format", "json", "T"}, 0, `{"subscriptions":[{"name":"T-Sub","endpoint":"` + r.base + `/mns","filterTag":"red","strategy":"EXPONENTIAL_DECAY_RETRY","contentFormat":"JSON"},` +
			`{"name":"other","endpoint":"` + r.base + `/mns","filterTag":"","strategy":"BACKOFF_RETRY","contentFormat":"XML"}]}` + "\n", ""},
		{[]string{"unsubscribe", "T", "other"}, 0, "subscription other is deleted\n", ""},
		{[]string{"unsubscribe", "--format", "json", "T"}, 0, `{"deleted":"T-Sub"}` + "\n", ""},
		{[]string{"publish", "T", "\xff"}, exitFailed, heading, "publish it in base64"},
		{[]string{"publish"}, exitAbsent, "==========Publish Message To Topic==========\nTopicName:MySampleTopic\nMessageCount:3\n\n",
			"message 1 of 3, I am test message 0., was not published, and none after it: there is no topic MySampleTopic"},
		{[]string{"publish", "T", "-", "x", "-"}, exitUsage, "", `a second "-" would have nothing to read`},
		{[]string{"publish", "T", "-", "-"}, exitUsage, "", `a second "-" would have nothing to read`},
		{[]string{"create-topic", "a_b"}, exitFailed, "", "is not a valid topic name, which is 1 to 256 letters, digits and hyphens"},
		{[]string{"subscribe", "T"}, exitUsage, "", "URL is missing"},
		{[]string{"unsubscribe"}, exitAbsent, "", "there is no topic MySampleTopic"},
		{[]string{"delete-topic"}, exitAbsent, "", "there is no topic MySampleTopic"},
		{[]string{"unsubscribe", "T", "a", "b"}, exitUsage, "", `"b" is one argument too many`},
		{[]string{"list", "T", "a"}, exitUsage, "", `"a" is one argument too many`},
		{[]string{"subscribe", "T", "acs:mns:cn-hangzhou:1:queues/Q"}, exitUsage, "", "is not an http or https address"},
		{[]string{"subscribe", "--content-format", "xml", "T", r.base}, exitUsage, "", `--content-format is "xml"; it must be XML, JSON or SIMPLIFIED`},
		{[]string{"subscribe", "--strategy", "NEVER", "T", r.base}, exitUsage, "", `--strategy is "NEVER"; it must be`},
		{[]string{"list", "--format", "yaml"}, exitUsage, "", `--format is "yaml"`},
	} {
		args := append([]string{"mns", c.args[0], "--endpoint", endpoint}, c.args[1:]...)
		out, errs, code := run(t, "", args...)
		if code != c.code || out != c.stdout || !strings.Contains(errs, c.stderr) || strings.Count(errs, "\n") > 1 || (errs == "") != (c.stderr == "") {
			t.Errorf("%v: exit %d, stdout %q, stderr %q; want %d, %q, %q", c.args, code, out, errs, c.code, c.stdout, c.stderr)
		}
	}
	if out := onTerminal(t, 80, nil, "mns", "list", "--endpoint", endpoint); !strings.HasPrefix(out, "TOPIC  MESSAGES  MAX SIZE\r\nT      ") {
		t.Errorf("on a terminal: %q", out)
	}
	r.must(t, `{"bodyMd5":"9DD4E461268C8034F5C8564E155C67A6","messageId":"`, "publish", "--format", "json", "T", "x")
}

// TestFailedMessageIsNamed has the second of three messages fail.
func TestFailedMessageIsNamed(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	r.must(t, "Create Topic Succeed!", "create-topic", "T")
	out, errs, code := run(t, "", "mns", "publish", "--endpoint", r.base+stack.MNSPath, "T", "first", strings.Repeat("second", 20_000), "third")
	if code != exitFailed || strings.Count(out, "Publish Message Succeed. MessageBody:first MessageID:") != 1 || strings.Contains(out, "second") ||
		!strings.HasPrefix(errs, "pushinbox: message 2 of 3, second") || !strings.Contains(errs, "was not published, and none after it: mnsclient: InvalidArgument") {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
}

// TestAccessKeys gives the key in each of the ways.
func TestAccessKeys(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	endpoint := r.base + stack.MNSPath
	dir := t.TempDir()
	file := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := "[Base]\n# the stand-in's\nAccessKeyId = local\nAccessKeySecret=local\nEndpoint = " + endpoint + "\n"
	ofMNS := []string{"--endpoint", "https://1.mns.cn-hangzhou.aliyuncs.com"}
	for name, c := range map[string]struct {
		args        []string
		environment []string
		code        int
		stderr      string
	}{
		"none_for_the_stand_in":   {[]string{"--endpoint", endpoint}, nil, 0, ""},
		"other_key":               {[]string{"--endpoint", endpoint, "--config", file("other-key", "AccessKeyId=LTAI-other\nAccessKeySecret=hush-hush", 0o600)}, nil, exitFailed, "does not know the AccessKey: mnsclient: InvalidAccessKeyId"},
		"other_secret":            {[]string{"--endpoint", endpoint, "--config", file("other-secret", "AccessKeyId=local\nAccessKeySecret=hush-hush", 0o400)}, nil, exitFailed, "does not know the AccessKey: mnsclient: SignatureDoesNotMatch"},
		"unasked_token":           {[]string{"--config", file("token", good+"SecurityToken = hush-hush", 0o600)}, nil, exitFailed, "InvalidSecurityToken"},
		"secret_missing":          {ofMNS, []string{envKeyID + "=local"}, exitUsage, "the AccessKey is missing: set " + envKeyID},
		"none_for_mns":            {ofMNS, nil, exitUsage, "the AccessKey is missing: set " + envKeyID},
		"config":                  {[]string{"--config", file("good", good, 0o600)}, []string{envKeyID + "=LTAI-other", envKeySecret + "=hush-hush"}, 0, ""},
		"config_for_all_to_read":  {[]string{"--config", file("readable", good, 0o644)}, nil, exitFailed, "others may read or change it (644); run: chmod 600"},
		"config_for_the_group":    {[]string{"--config", file("group", good, 0o640)}, nil, exitFailed, "others may read or change it"},
		"config_without_a_secret": {[]string{"--endpoint", endpoint, "--config", file("no-secret", "AccessKeyId = local", 0o600)}, nil, exitUsage, "must have AccessKeyId and AccessKeySecret"},
		"config_of_garbage":       {[]string{"--config", file("garbage", "hush-hush", 0o600)}, nil, exitFailed, "line 1 is not NAME = VALUE"},
		"config_missing":          {[]string{"--config", filepath.Join(dir, "missing")}, nil, exitFailed, "no such file"},
		"plain_http":              {[]string{"--endpoint", "http://1.mns.cn-hangzhou.aliyuncs.com"}, []string{envKeyID + "=local", envKeySecret + "=local"}, exitUsage, "the endpoint must be https"},
		"no_url":                  {[]string{"--endpoint", "::"}, nil, exitUsage, `--endpoint "::" is not a URL`},
		"nothing_runs":            {[]string{"--endpoint", "http://127.0.0.1:1/local/mns"}, nil, exitFailed, "nothing answers at http://127.0.0.1:1/local/mns; start it with"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := runIn(t, c.environment, "", append([]string{"mns", "list"}, c.args...)...)
			if code != c.code || !strings.Contains(errs, c.stderr) || strings.Contains(out+errs, "hush-hush") || strings.Count(errs, "\n") > 1 {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q", code, out, errs, c.code, c.stderr)
			}
		})
	}
}

// TestEnvironmentStaysFromLoopback gives the key of an account to commands that
// call this machine, where anything may listen.
func TestEnvironmentStaysFromLoopback(t *testing.T) {
	t.Parallel()
	asked := make(chan http.Header, 10)
	listener := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header }))
	t.Cleanup(listener.Close)
	for name, environment := range map[string][]string{
		"key":       {envKeyID + "=LTAI-other", envKeySecret + "=hush-hush"},
		"temporary": {envKeyID + "=LTAI-other", envKeySecret + "=hush-hush", envToken + "=hush-token"},
		"half":      {envKeyID + "=LTAI-other"},
	} {
		_, errs, _ := runIn(t, environment, "", "mns", "list", "--endpoint", listener.URL+stack.MNSPath)
		select {
		case h := <-asked:
			if !strings.HasPrefix(h.Get("Authorization"), "MNS local:") || h.Get("Security-Token") != "" {
				t.Errorf("%s: sent %v", name, h)
			}
		default:
			t.Errorf("%s: nothing was sent; stderr %q", name, errs)
		}
	}
}

// TestAnswersThatFitNoCall has an endpoint answer a list of topics with that
// there is no such topic.
func TestAnswersThatFitNoCall(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"TopicNotExist", "TopicAlreadyExist"} {
		endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", reason)
		}))
		t.Cleanup(endpoint.Close)
		_, errs, code := run(t, "", "mns", "list", "--endpoint", endpoint.URL)
		if code == 0 || !strings.Contains(errs, reason) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: exit %d, stderr %q", reason, code, errs)
		}
	}
}

// TestSendWholeBody sends a body that has the other kind of empty line in it.
func TestSendWholeBody(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	const header = `POST /notifications HTTP/1.1
Host: inbox.example
Content-Type: text/plain;charset=utf-8
x-mns-version: 2015-06-06
x-mns-message-id: ID
x-mns-topic-owner: 1000000000000000
x-mns-topic-name: T
x-mns-subscription-name: S

`
	want := map[string]string{"of-lf": "a\r\n\r\nb\r\n\r\nc", "of-crlf": "a\n\nb\r\n\r\nc"}
	for id, body := range want {
		recorded := strings.Replace(header, ": ID\n", ": "+id+"\n", 1)
		if id == "of-crlf" {
			recorded = strings.ReplaceAll(recorded, "\n", "\r\n")
		}
		if out, errs, code := run(t, recorded+body, "send", "--url", r.base+"/mns", "-"); code != 0 {
			t.Errorf("%s: exit %d, %s%s", id, code, out, errs)
		}
	}
	got := map[string]string{}
	for _, m := range r.messagesOf(t, "mns") {
		got[m.MessageID] = string(m.Data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSendMNS(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	samples, err := filepath.Glob("../../testdata/mns/*.http")
	if err != nil || len(samples) < 3 {
		t.Fatal(samples, err)
	}
	for _, sample := range samples {
		for range 2 {
			out, errs, code := run(t, "", "send", "--url", r.base+"/mns/any?x=y", sample)
			if code != 0 || !strings.HasPrefix(out, "--> "+filepath.Base(sample)+"\n<-- 201 Created ") {
				t.Errorf("%s: exit %d, %s%s", sample, code, out, errs)
			}
		}
	}
	got := r.messagesOf(t, "mns")
	if len(got) != len(samples) {
		t.Errorf("%d messages, want %d", len(got), len(samples))
	}
	for _, m := range got {
		if string(m.Data) != "I am test message 0." || m.MessageID != "F6EA56633844DBFC-1-154BDFB8059-200000004" {
			t.Errorf("stored %+v", m)
		}
	}
	xml, err := os.ReadFile(samples[len(samples)-1])
	if err != nil {
		t.Fatal(err)
	}
	foreign := strings.Replace(string(xml), "<TopicOwner>1000000000000000<", "<TopicOwner>2000000000000000<", 1)
	out, _, code := run(t, foreign, "send", "--url", r.base+"/mns", "-")
	if code != exitFailed || !strings.Contains(out, "<-- 403 Forbidden: this topic or subscription may not push here") {
		t.Errorf("a foreign topic: exit %d, %s", code, out)
	}
	_, errs, code := run(t, "", "send", "--token-file", "x", samples[0])
	if code != exitUsage || !strings.Contains(errs, "has a signature, not a --token-file and no --audience") {
		t.Errorf("with a token: exit %d, %s", code, errs)
	}
	_, errs, code = runIn(t, []string{envURL + "=http://127.0.0.1:1"}, "", "send", samples[0])
	if code != exitFailed || !strings.Contains(errs, "nothing answers at http://127.0.0.1:1; start it with") {
		t.Errorf("nothing runs: exit %d, %s", code, errs)
	}
}

// TestOtherSitesGetNothingOfMNS holds the stand-in to what OtherSites tells.
func TestOtherSitesGetNothingOfMNS(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	for _, path := range []string{stack.MNSPath + "/topics", stack.SignPath} {
		for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:1"} {
			req, err := http.NewRequest(http.MethodPost, r.base+path, strings.NewReader(`{"target":"/mns","header":{},"body":""}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(name, value)
			if status, b := do(t, req); status != http.StatusForbidden {
				t.Errorf("%s with %s: answered %d %s", path, name, status, b)
			}
		}
	}
	for _, body := range []string{"", "{}", `{"target":"mns","header":{}}`, `{"target":"/mns"}`} {
		req, err := http.NewRequest(http.MethodPost, r.base+stack.SignPath, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if status, b := do(t, req); status != http.StatusBadRequest {
			t.Errorf("%q: answered %d %s", body, status, b)
		}
	}
}

// TestClassicLogs prints what Alibaba's sample endpoint printed on 17 May 2016,
// from lines as the function writes them and as Cloud Logging gives them back.
func TestClassicLogs(t *testing.T) {
	t.Parallel()
	const notification = `"notification":{"topicOwner":"1000000000000000","topicName":"MySampleTopic","subscriptionName":"MySampleTopic-Sub","subscriber":"2000000000000000","messageId":"F6EA56633844DBFC-1-154BDFB8059-200000004","messageMd5":"075C3D4AEB2D2F2D6A4C17C9D6DBBEBB","messageTag":"","publishTime":"2016-05-17T17:10:56.345+08:00"}`
	const access = `"access":{"protocol":"HTTP/1.1","length":495,"host":"10.101.161.37:8080","requestId":"573AE020B2B71CFC6801A6EF","version":"2015-06-06"}`
	const request = `"httpRequest":{"requestMethod":"POST","requestUrl":"/notifications","status":201,"userAgent":"Aliyun Notification Service Agent","latency":"0.01s"}`
	lines := `{"time":"2016-05-17T17:10:56Z","severity":"INFO","message":"notification stored",` + notification + `}
Serving function...
{"time":"2016-05-17T17:10:56Z","severity":"INFO","message":"something else"}

{"time":"2016-05-17T17:10:56Z","severity":"INFO","message":"stored",` + request + `,` + access + `}
{"time":"2016-05-17T17:10:57Z","severity":"WARNING","message":"GET 405","httpRequest":{"requestMethod":"GET","requestUrl":"/","status":405,"userAgent":"a\"b\nc"},"access":{"protocol":"HTTP/1.0"}}
`
	cloud := ` [ {"timestamp":"2016-05-17T17:10:56Z","severity":"INFO","jsonPayload":{"message":"notification stored",` + notification + `}},
  {"timestamp":"2016-05-17T17:10:56Z","textPayload":"x"},
  {"timestamp":"2016-05-17T17:10:56Z",` + request + `,"jsonPayload":{` + strings.Replace(access, "495", "495.0", 1) + `}},
  {"timestamp":"2016-05-17T17:10:57Z","httpRequest":{"requestMethod":"GET","requestUrl":"/","status":405,"userAgent":"a\"b\nc"},"jsonPayload":{"access":{"protocol":"HTTP/1.0"}}}]`
	const want = `[2016-05-17 17:10:56] [root] [INFO] [mns:0] [0] Notify Message Succeed!
MessageMD5                    : 075C3D4AEB2D2F2D6A4C17C9D6DBBEBB
TopicOwner                    : 1000000000000000
PublishTime                   : 1463476256345
Subscriber                    : 2000000000000000
MessageTag                    : 
SubscriptionName              : MySampleTopic-Sub
MessageId                     : F6EA56633844DBFC-1-154BDFB8059-200000004
Message                       : -
TopicName                     : MySampleTopic
[17/May/2016 17:10:56]"POST" "201" "/notifications" "HTTP/1.1" "495" "10.101.161.37:8080" "Aliyun Notification Service Agent" "573AE020B2B71CFC6801A6EF" "2015-06-06"
[17/May/2016 17:10:57]"GET" "405" "/" "HTTP/1.0" "-" "-" "a'b?c" "-" "-"
`
	for name, in := range map[string]string{"lines": lines, "cloud_logging": cloud} {
		out, errs, code := run(t, in, "logs")
		if diff := cmp.Diff(want, out); diff != "" || code != 0 {
			t.Errorf("%s: exit %d, %s%s", name, code, errs, diff)
		}
	}
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, code := run(t, "", "logs", file, file); code != 0 || out != want+want {
		t.Errorf("two files: exit %d, %s", code, out)
	}
	all := strings.Split(lines, "\n")
	if out, _, code := run(t, lines, "logs", "--format", "json"); code != 0 || out != all[0]+"\n"+all[4]+"\n"+all[5]+"\n" {
		t.Errorf("as json: exit %d, %s", code, out)
	}
	for _, c := range []struct {
		in     string
		args   []string
		code   int
		stderr string
	}{
		{"", []string{"--format", "text"}, exitUsage, `--format is "text"; it must be classic or json`},
		{"", []string{file + "x"}, exitFailed, "no such file"},
		{"[{", nil, exitFailed, "not a list of log entries"},
		{"", nil, 0, ""},
	} {
		out, errs, code := run(t, c.in, append([]string{"logs"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.stderr) || out != "" {
			t.Errorf("%v: exit %d, %s%s", c.args, code, out, errs)
		}
	}
}
