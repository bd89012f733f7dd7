package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/port"
	"example.com/pushinbox/testkit/pushattack"
)

// command is the built pushinbox.
var command string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "pushinbox")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		command = filepath.Join(dir, "pushinbox")
		for _, name := range []string{envKeyID, envKeySecret, envToken, envIDToken, envKeyFile, envURL} {
			_ = os.Unsetenv(name) // whose ever it is
		}
		if out, err := exec.Command("go", "build", "-ldflags=-w", "-o", command, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %s", err, out)
			return 1
		}
		// They wait for other processes more than they work.
		if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// running is a pushinbox local that was started as a user starts it.
type running struct {
	base  string
	cmd   *exec.Cmd
	lines chan string
	// pushes is the banner's line about them.
	pushes string
	pubsub string        // the host:port of Pub/Sub
	errs   bytes.Buffer  // to be read after done
	said   chan string   // what it writes to errs
	done   chan struct{} // closed when the process has ended
}

// start runs pushinbox local on data and a free port, and returns once it
// answers. more are flags, which begin with "--", and variables.
func start(t *testing.T, data string, more ...string) *running {
	t.Helper()
	return startAt(t, port.Reserve(t), data, more...)
}

// startAt is start on a given port.
func startAt(t *testing.T, at, data string, more ...string) *running {
	t.Helper()
	giveKey(t, data)
	r := &running{base: "http://127.0.0.1:" + at, lines: make(chan string, 10_000), said: make(chan string, 10_000), done: make(chan struct{})}
	r.cmd = exec.Command(command, "local", "--port", at, "--pubsub-port=0", "--data", data)
	r.cmd.Env = os.Environ()
	for _, s := range more {
		if strings.HasPrefix(s, "--") {
			r.cmd.Args = append(r.cmd.Args, s)
		} else {
			r.cmd.Env = append(r.cmd.Env, s)
		}
	}
	r.cmd.Stderr = io.MultiWriter(&r.errs, saying(r.said))
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
		_ = r.cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Log(r.errs.String())
		}
	})
	r.line(t, func(s string) bool { return strings.HasPrefix(s, "Try it") })
	return r
}

// giveKey puts the key of tokens into a new data directory. To create one for each takes as
// long as all the rest of a start.
func giveKey(t *testing.T, data string) {
	t.Helper()
	key, err := tokensKey()
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(data); err != nil || len(files) > 0 {
		return
	}
	if err := os.WriteFile(filepath.Join(data, "tokens.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tokensKey returns a file as pushinbox local creates it.
var tokensKey = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "pushinbox")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	issuer, err := pushfake.NewIssuer(&pushfake.IssuerOptions{Dir: dir})
	if err != nil {
		return nil, err
	}
	if _, err := issuer.IDToken(nil); err != nil { // which waits for the key
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "tokens.key"))
})

// saying passes on what is written, which is whole lines.
type saying chan string

func (s saying) Write(b []byte) (int, error) {
	s <- string(b)
	return len(b), nil
}

// soon is how long a user may be left without a word, on a machine that has much
// else to do.
const soon = 10 * time.Second

// says waits until something is written to standard error.
func (r *running) says(t *testing.T, within time.Duration, want string) {
	t.Helper()
	timeout := time.After(within)
	for {
		select {
		case s := <-r.said:
			if strings.Contains(s, want) {
				return
			}
		case <-timeout:
			t.Fatalf("pushinbox local did not say %q within %v", want, within)
		}
	}
}

// line waits for a line of output.
func (r *running) line(t *testing.T, want func(string) bool) string {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case s := <-r.lines:
			if strings.HasPrefix(s, "  pushes ") {
				r.pushes = s
			}
			if host, ok := strings.CutPrefix(s, "  export PUBSUB_EMULATOR_HOST="); ok {
				r.pubsub = host
			}
			if want(s) {
				return s
			}
		case <-r.done:
			t.Fatal("pushinbox local ended")
		case <-timeout:
			t.Fatal("pushinbox local printed no such line for 30 s")
		}
	}
}

// acknowledged waits until n deliveries were acknowledged.
func (r *running) acknowledged(t *testing.T, n int) {
	t.Helper()
	for range n {
		r.line(t, func(s string) bool { return strings.HasPrefix(s, "<-- 204") })
	}
}

func do(t *testing.T, r *http.Request) (int, []byte) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func (r *running) get(t *testing.T, path string) []byte {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	status, b := do(t, req)
	if status != http.StatusOK {
		t.Fatalf("%s: answered %d %s", path, status, b)
	}
	return b
}

func (r *running) token(t *testing.T, query string) string {
	t.Helper()
	return strings.TrimSpace(string(r.get(t, "/local/token?"+query)))
}

func (r *running) messages(t *testing.T) []inbox.Message {
	t.Helper()
	var page struct{ Messages []inbox.Message }
	if err := json.Unmarshal(r.get(t, "/messages?pageSize=500"), &page); err != nil {
		t.Fatal(err)
	}
	return page.Messages
}

func (r *running) publish(t *testing.T, query, contentType, body string) []string {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.base+"/publish"+query, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token(t, "for=publish"))
	req.Header.Set("Content-Type", contentType)
	status, b := do(t, req)
	var reply publisher.Reply
	if err := json.Unmarshal(b, &reply); err != nil || status != http.StatusOK {
		t.Fatalf("publish: answered %d %s", status, b)
	}
	return reply.MessageIDs
}

// sent is what a message must come back as.
type sent struct {
	data       string
	attributes map[string]string
	key        string
}

// mainPath publishes in three ways, waits for the pushes, reads all back, and
// reads again after a kill -9. The emulator's pushes lack the ordering key
// only where the emulator itself pushes; here ours does.
func mainPath(t *testing.T, more ...string) {
	data := t.TempDir()
	r := start(t, data, more...)
	binary := "\x00\xff\r\n<b>" + strings.Repeat("x", 10_000)
	want := map[string]sent{}
	ids := r.publish(t, "", "application/json", fmt.Sprintf(
		`{"messages":[{"data":%q,"attributes":{"way":"json","odd ☃":"\u0000=&"},"orderingKey":"k"},{"attributes":{"empty":""},"orderingKey":"k"}]}`,
		base64.StdEncoding.EncodeToString([]byte(binary))))
	want[ids[0]] = sent{binary, map[string]string{"way": "json", "odd ☃": "\x00=&"}, "k"}
	want[ids[1]] = sent{"", map[string]string{"empty": ""}, "k"}
	ids = r.publish(t, "", "application/x-www-form-urlencoded", url.Values{"payload": {"Größe: 1\n2"}, "attributes": {"way=form"}}.Encode())
	want[ids[0]] = sent{"Größe: 1\n2", map[string]string{"way": "form"}, ""}
	ids = r.publish(t, "?attribute.way=raw", "image/png", "\x89PNG")
	want[ids[0]] = sent{"\x89PNG", map[string]string{"way": "raw", "content-type": "image/png"}, ""}
	r.acknowledged(t, len(want))

	check := func(r *running) []inbox.Message {
		all := r.messages(t)
		if len(all) != len(want) {
			t.Errorf("%d messages, want %d", len(all), len(want))
		}
		for _, m := range all {
			w, ok := want[m.MessageID]
			if !ok {
				t.Errorf("message %s was not published here", m.MessageID)
			}
			whole := string(r.get(t, "/messages/"+m.ID+"/data"))
			if whole != w.data || m.Size != len(w.data) {
				t.Errorf("%s: data differs: %d bytes of %d", m.MessageID, len(whole), len(w.data))
			}
			if diff := cmp.Diff(w.attributes, m.Attributes); diff != "" || m.OrderingKey != w.key {
				t.Errorf("%s: ordering key %q, attributes %s", m.MessageID, m.OrderingKey, diff)
			}
			if m.Verified.Email != stack.PushAccount || m.Verified.Audience == "" || !m.Verified.EmailVerified ||
				m.Verified.Issuer != "https://accounts.google.com" || m.Verified.ExpiresAt.Sub(m.Verified.IssuedAt) != time.Hour {
				t.Errorf("%s: claims %+v", m.MessageID, m.Verified)
			}
			if m.DeliveryAttempt < 1 || m.PublishTime.IsZero() || m.ReceivedAt.IsZero() || m.Source != "pubsub" {
				t.Errorf("%s: stored as %+v", m.MessageID, m)
			}
		}
		return all
	}
	before := check(r)
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.done
	r = start(t, data, more...)
	if diff := cmp.Diff(before, check(r)); diff != "" {
		t.Errorf("after kill -9: %s", diff)
	}
	// A new run must not take its messages for the old ones.
	ids = r.publish(t, "", "text/plain", "after the restart")
	want[ids[0]] = sent{"after the restart", map[string]string{"content-type": "text/plain"}, ""}
	// What was acknowledged just before the kill may be pushed again first.
	r.line(t, func(s string) bool { return strings.HasPrefix(s, "--> "+ids[0]) })
	r.acknowledged(t, 1)
	check(r)
}

func TestMainPath(t *testing.T) {
	t.Parallel()
	mainPath(t)
}

func TestMainPathOnGooglesEmulators(t *testing.T) {
	t.Parallel()
	// The emulator keeps for an ack deadline what the killed run was about to
	// pull.
	mainPath(t, "PUBSUB_EMULATOR_HOST="+emulator.PubSub(t), "FIRESTORE_EMULATOR_HOST="+emulator.Firestore(t),
		"GOOGLE_CLOUD_PROJECT=main-path", "--ack-deadline=10s")
}

func TestHostileRequestsOverHTTP(t *testing.T) {
	t.Parallel()
	const secret = "s3cr&t+/ %"
	r := start(t, t.TempDir(), "PUBSUB_VERIFICATION_TOKEN="+secret)
	to := pushattack.Target{
		URL:  r.base + "/receive?" + url.Values{"token": {secret}}.Encode(),
		Keys: r.get(t, "/local/certs"),
		Mint: func(claims map[string]any) (string, error) {
			query := url.Values{}
			for name, value := range claims {
				text := ""
				if value != nil {
					b, err := json.Marshal(value)
					if err != nil {
						return "", err
					}
					text = string(b)
				}
				query.Set(name, text)
			}
			return r.token(t, query.Encode()), nil
		},
	}
	cases, err := pushattack.Cases(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			if status, b := do(t, c.Request); status != c.Status {
				t.Errorf("answered %d, want %d: %s", status, c.Status, b)
			}
		})
	}
	if n := len(r.messages(t)); n != 0 {
		t.Fatalf("%d messages were stored", n)
	}
	good, err := pushattack.Good(to)
	if err != nil {
		t.Fatal(err)
	}
	if status, b := do(t, good); status != http.StatusNoContent || len(r.messages(t)) != 1 {
		t.Errorf("a good push: answered %d %s", status, b)
	}
}

// run runs pushinbox to its end.
func run(t *testing.T, input string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return runIn(t, nil, input, args...)
}

// runIn is run with more in the environment.
func runIn(t *testing.T, environment []string, input string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	// A call that should be refused and runs instead must not hang the tests.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestSend(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	samples, err := filepath.Glob("../../testdata/pubsub/*.*")
	if err != nil {
		t.Fatal(err)
	}
	samples = slices.DeleteFunc(samples, func(s string) bool { return strings.HasSuffix(s, ".md") })
	for _, sample := range samples {
		for range 2 {
			out, errs, code := run(t, "", "send", "--url", r.base+"/receive", sample)
			if code != 0 || !strings.HasPrefix(out, "--> "+filepath.Base(sample)+"\n<-- 204 No Content ") {
				t.Errorf("%s: exit %d, %s%s", sample, code, out, errs)
			}
		}
	}
	if got := r.messages(t); len(got) != len(samples) {
		t.Errorf("%d messages, want %d", len(got), len(samples))
	}
	token, _, _ := run(t, "", "token", "--address", r.base, "--claim", "email_verified=false")
	unverified := []string{envIDToken + "=" + strings.TrimSpace(token)}
	out, _, code := runIn(t, unverified, `{"message":{"messageId":"1"}}`, "send", "--url", r.base+"/receive", "--format", "json", "-")
	var result sendResult
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != exitFailed || result.Status != 403 || result.Detail == "" {
		t.Errorf("a refusal: exit %d, %s", code, out)
	}
	out, errs, code := runIn(t, unverified, "", "send", "--url", r.base+"/receive", samples[0])
	if code != exitFailed || !strings.Contains(out, "<-- 403 Forbidden: ") || !strings.Contains(errs, "not acknowledged") {
		t.Errorf("an unverified e-mail: exit %d, %s%s", code, out, errs)
	}
}

// TestWrongCalls holds every failure to one line that says what to do, and an
// exit code.
func TestWrongCalls(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data)
	port := r.base[strings.LastIndex(r.base, ":")+1:]
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	_, foreign, _ := net.SplitHostPort(other.Listener.Addr().String())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("not a push"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "inbox.db"), bytes.Repeat([]byte("garbage "), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"taken_port":                  {[]string{"local", "--port", foreign, "--data", t.TempDir()}, exitFailed, "is taken; stop what listens there, or choose another with --port"},
		"taken_by_another":            {[]string{"local", "--port", port, "--data", t.TempDir()}, exitFailed, ", whose data is in " + data + "; stop it, or choose another with --port"},
		"second_on_data":              {[]string{"local", "--port", "0", "--data", data}, exitFailed, "another pushinbox local uses " + data},
		"data_is_a_file":              {[]string{"local", "--port", "0", "--data", file}, exitFailed, "choose another directory with --data"},
		"data_is_damaged":             {[]string{"local", "--port", "0", "--data", broken}, exitFailed, "is damaged or not an inbox"},
		"port_out_of_range":           {[]string{"local", "--port", "70000", "--data", data}, exitUsage, `--port is "70000"; it must be 0 to 65535`},
		"port_hex":                    {[]string{"local", "--port", "0x", "--data", data}, exitUsage, `--port is "0x"; it must be 0 to 65535; see pushinbox local --help`},
		"data_empty":                  {[]string{"local", "--data="}, exitUsage, `--data is ""; it must name a directory`},
		"host_is_a_name":              {[]string{"local", "--host", "localhost"}, exitUsage, "it must be an IP address of this machine"},
		"host_with_port":              {[]string{"local", "--host", "0.0.0.0:80"}, exitUsage, "it must be an IP address of this machine"},
		"host_with_zone":              {[]string{"local", "--host", "[::1%lo]"}, exitUsage, "it must be an IP address of this machine"},
		"host_elsewhere":              {[]string{"local", "--host", "192.0.2.1", "--port", "0", "--data", t.TempDir()}, exitFailed, "192.0.2.1 is not an address of this machine"},
		"host_name_is_url":            {[]string{"local", "--host-name", "http://x"}, exitUsage, "without a port, such as host.docker.internal"},
		"host_name_port":              {[]string{"local", "--host-name", "x:80"}, exitUsage, "without a port, such as host.docker.internal"},
		"token_argument":              {[]string{"send", "--token", "s3cret", file}, exitUsage, "--token is not taken: every account of this machine"},
		"token_is_empty":              {[]string{"send", "--token", "", file}, exitUsage, "--token is not taken: every account of this machine"},
		"token_at_the_end":            {[]string{"send", file, "--token"}, exitUsage, "--token is not taken: every account of this machine"},
		"token_with_equals":           {[]string{"send", "--token=s3cret", file}, exitUsage, "--token is not taken: every account of this machine"},
		"no_token_file":               {[]string{"send", "--url", r.base, "--token-file", filepath.Join(data, "no"), "../../testdata/pubsub/sample_message.json"}, exitFailed, "no such file"},
		"token_file_empty":            {[]string{"send", "--url", r.base, "--token-file", empty, "../../testdata/pubsub/sample_message.json"}, exitFailed, "does not have a token in one line"},
		"ordering_text":               {[]string{"local", "--ordering=maybe"}, exitUsage, `--ordering is "maybe"; it must be true or false`},
		"unknown_command":             {[]string{"lokal"}, exitUsage, `there is no command "lokal"; did you mean "local"? see pushinbox --help`},
		"unknown_help":                {[]string{"lokal", "--help"}, exitUsage, `there is no command "lokal"; did you mean "local"? see pushinbox --help`},
		"unknown_sub_help":            {[]string{"mns", "publisch", "-h"}, exitUsage, `there is no command "publisch"; did you mean "publish"? see pushinbox mns --help`},
		"help_unknown":                {[]string{"help", "lokal"}, exitUsage, `there is no command "lokal"; did you mean "local"?`},
		"help_sub_unknown":            {[]string{"help", "mns", "x"}, exitUsage, `there is no command "x"; see pushinbox mns --help`},
		"unknown_flag":                {[]string{"local", "--prot", "1"}, exitUsage, "unknown flag: --prot; see pushinbox local --help"},
		"unknown_command_with_a_flag": {[]string{"delivery", "frob", "--data", "."}, exitUsage, `there is no command "frob"`},
		"attempts_low":                {[]string{"local", "--max-attempts", "4"}, exitUsage, "5 to 100"},
		"attempts_high":               {[]string{"local", "--max-attempts", "101"}, exitUsage, "5 to 100"},
		"attempts_text":               {[]string{"local", "--max-attempts", "many"}, exitUsage, "5 to 100"},
		"backoff_alone":               {[]string{"local", "--retry-backoff", "10s"}, exitUsage, "two durations of 0s to 600s"},
		"backoff_swapped":             {[]string{"local", "--retry-backoff", "5s,1s"}, exitUsage, "the lower one first"},
		"backoff_high":                {[]string{"local", "--retry-backoff", "0s,601s"}, exitUsage, "two durations of 0s to 600s"},
		"backoff_negative":            {[]string{"local", "--retry-backoff", "-1s,5s"}, exitUsage, "two durations of 0s to 600s"},
		"backoff_three":               {[]string{"local", "--retry-backoff", "1s,5s,9s"}, exitUsage, "two durations of 0s to 600s"},
		"deadline_low":                {[]string{"local", "--ack-deadline", "9s"}, exitUsage, "10s to 600s"},
		"deadline_high":               {[]string{"local", "--ack-deadline", "601s"}, exitUsage, "10s to 600s"},
		"deadline_fraction":           {[]string{"local", "--ack-deadline", "10500ms"}, exitUsage, "10s to 600s"},
		"push_without_url":            {[]string{"local", "--push", "orders"}, exitUsage, `--push is "orders"; it must be TOPIC=URL`},
		"push_no_url":                 {[]string{"local", "--push", "orders=localhost:1"}, exitUsage, "is not an http or https URL"},
		"push_full_topic":             {[]string{"local", "--push", "projects/p/topics/t=http://a"}, exitUsage, "the name of a topic alone"},
		"push_option":                 {[]string{"local", "--push", "orders=http://a,signed"}, exitUsage, `"signed" is not an option`},
		"push_no_audience":            {[]string{"local", "--push", "orders=http://a,audience="}, exitUsage, `"audience=" is not an option`},
		"push_contradicts":            {[]string{"local", "--push", "orders=http://a,unsigned,audience=b"}, exitUsage, "an unsigned push has no audience"},
		"push_bad_topic":              {[]string{"local", "--port=0", "--pubsub-port=0", "--data", t.TempDir(), "--push", "a=http://a"}, exitUsage, `--push is "a=http://a"; "a" is not the ID of a topic`},
		"bad_topic":                   {[]string{"local", "--port=0", "--pubsub-port=0", "--data", t.TempDir(), "--topic", "googlish"}, exitUsage, `--topic is "googlish"; "googlish" is not the ID of a topic`},
		"console_nothing_runs":        {[]string{"console", "--url", "http://127.0.0.1:1"}, exitFailed, "nothing answers at http://127.0.0.1:1; start it with"},
		"console_local":               {[]string{"console", "--url", r.base}, exitUsage, r.base + " wants no token: open it in a browser as it is"},
		"topic_empty":                 {[]string{"local", "--topic", ""}, exitUsage, "the name of a topic alone"},
		"unknown_format":              {[]string{"send", "--format", "xml", file}, exitUsage, `--format is "xml"; it must be text or json`},
		"empty_id":                    {[]string{"messages", "get", ""}, exitUsage, "ID is empty; see pushinbox messages get --help"},
		"empty_ids":                   {[]string{"messages", "replay", "1", ""}, exitUsage, "ID is empty; see pushinbox messages replay --help"},
		"empty_message_id":            {[]string{"messages", "replay", "--since", "2h", "--message-id", "", "--dry-run"}, exitUsage, "--message-id is empty; give it a value or leave it out; see pushinbox messages replay --help"},
		"empty_text":                  {[]string{"messages", "list", "--text="}, exitUsage, "--text is empty"},
		"empty_since":                 {[]string{"listen", "--forward-to", "http://127.0.0.1:1", "--since", ""}, exitUsage, "--since is empty"},
		"empty_terraform":             {[]string{"delivery", "pause", "--terraform", ""}, exitUsage, "--terraform is empty"},
		"empty_name":                  {[]string{"delivery", "status", "--subscription", ""}, exitUsage, "--subscription is empty"},
		"empty_calendar":              {[]string{"calendar", "stop", "--local", ""}, exitUsage, "is empty; see pushinbox calendar stop --help"},
		"empty_topic":                 {[]string{"mns", "subscribe", ""}, exitUsage, "TOPIC is empty; see pushinbox mns subscribe --help"},
		"empty_program":               {[]string{"run", "--", "", "x"}, exitUsage, "CMD is empty; see pushinbox run --help"},
		"empty_command":               {[]string{""}, exitUsage, `there is no command ""`},
		"no_file":                     {[]string{"send"}, exitUsage, "FILE is missing; see pushinbox send --help"},
		"missing_file":                {[]string{"send", "--url", r.base, filepath.Join(data, "no")}, exitFailed, "no such file"},
		"file_is_no_push":             {[]string{"send", "--url", r.base, file}, exitFailed, `file is not a push: it begins with "not a push", and must be`},
		"audience_given":              {[]string{"send", "--token-file", file, "--audience", "a", "../../testdata/pubsub/sample_message.json"}, exitUsage, "--audience is of a token that pushinbox local signs"},
		"send_to_no_url":              {[]string{"send", "--url", "localhost:1", "../../testdata/pubsub/sample_message.json"}, exitUsage, `--url "localhost:1" is not a URL`},
		"nothing_runs":                {[]string{"token", "--address", "http://127.0.0.1:1"}, exitFailed, "nothing answers at http://127.0.0.1:1; start it with"},
		"bad_claim":                   {[]string{"token", "--address", r.base, "--claim", "x"}, exitUsage, `--claim "x" is not name=value`},
		"unknown_audience":            {[]string{"token", "--address", r.base, "--for", "x"}, exitFailed, "for must be receive, publish, console or calendar"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := run(t, "", test.args...)
			if code != test.code || !strings.Contains(errs, test.want) || strings.Count(errs, "\n") != 1 || out != "" || strings.Contains(errs, "s3cret") {
				t.Errorf("exit %d, want %d; stdout %q, stderr %q", code, test.code, out, errs)
			}
		})
	}
}

func TestCtrlCStopsCleanly(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data)
	// An open live tail must not hold the end up.
	tail, err := http.Get(r.base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Body.Close()
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(10 * time.Second):
		t.Fatal("still running 10 s after Ctrl-C")
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
	start(t, data)
}

// TestTopicOfTheEnvironment names the variable whose topic cannot be one.
func TestTopicOfTheEnvironment(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"local --port=0 --pubsub-port=0", "run"} {
		args := append(strings.Fields(command), "--data", t.TempDir())
		if command == "run" {
			args = append(args, "--", "true")
		}
		_, errs, code := runIn(t, []string{"PUBSUB_TOPIC=x"}, "", args...)
		if code != exitUsage || !strings.Contains(errs, `PUBSUB_TOPIC is "x"; "x" is not the ID of a topic`) || strings.Contains(errs, "rpc error") {
			t.Errorf("%s: exit %d, %s", command, code, errs)
		}
	}
}

// TestRefusalIsExplained holds the terminal to what somebody needs who tries
// to find out why a push is refused.
func TestRefusalIsExplained(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	_, _, _ = runIn(t, []string{envIDToken + "=" + r.token(t, "aud=wrong")}, "", "send", "--url", r.base+"/receive", "../../testdata/pubsub/sample_message.json")
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if line := r.errs.String(); !strings.Contains(line, `msg="POST 403" in=receive`) || !strings.Contains(line, "audience") {
		t.Errorf("the terminal shows %q", line)
	}
}

// TestCtrlCUnderLoad stops a run in the middle of its pushes: those under way
// are answered, and none is shown as failed.
func TestCtrlCUnderLoad(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	batch := `{"messages":[` + strings.Repeat(`{"data":"eA=="},`, 999) + `{"data":"eA=="}]}`
	for range 4 {
		r.publish(t, "", "application/json", batch)
	}
	r.acknowledged(t, 1)
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if code, told := r.cmd.ProcessState.ExitCode(), r.errs.String(); code != 0 || strings.Count(told, "\n") > 1 || !strings.Contains(told, " not delivered; kept in ") {
		t.Errorf("exit %d, %.500s", code, told)
	}
	for len(r.lines) > 0 {
		if line := <-r.lines; strings.HasPrefix(line, "<--") && !strings.HasPrefix(line, "<-- 204") {
			t.Fatalf("a push failed: %s", line)
		}
	}
}

func TestOtherSitesGetNothing(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	for name, change := range map[string]func(*http.Request){
		"rebound_host":  func(req *http.Request) { req.Host = "evil.example" },
		"cross_site":    func(req *http.Request) { req.Header.Set("Sec-Fetch-Site", "cross-site") },
		"same_site":     func(req *http.Request) { req.Header.Set("Sec-Fetch-Site", "same-site") },
		"other_origin":  func(req *http.Request) { req.Header.Set("Origin", "http://127.0.0.1:1") },
		"opaque_origin": func(req *http.Request) { req.Header.Set("Origin", "null") },
	} {
		for _, path := range []string{"/messages", "/local/token", "/events"} {
			req, err := http.NewRequest(http.MethodGet, r.base+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			change(req)
			if status, b := do(t, req); status != http.StatusForbidden {
				t.Errorf("%s %s: answered %d %s", name, path, status, b)
			}
		}
	}
	// A forged assertion is not passed on.
	req, err := http.NewRequest(http.MethodGet, r.base+"/messages", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-goog-iap-jwt-assertion", "x.y.z")
	req.Header.Set("Authorization", "Bearer "+r.token(t, "for=receive"))
	if status, b := do(t, req); status != http.StatusForbidden {
		t.Errorf("another function's token: answered %d %s", status, b)
	}
}

// BenchmarkStart is the time from the start of the process to its first
// answer to GET /messages.
func BenchmarkStart(b *testing.B) {
	data, reserved := b.TempDir(), port.Reserve(b)
	for b.Loop() {
		cmd := exec.Command(command, "local", "--quiet", "--port", reserved, "--data", data)
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		banner := bufio.NewScanner(out)
		for banner.Scan() && !strings.HasPrefix(banner.Text(), "Try it") {
		}
		go func() { _, _ = io.Copy(io.Discard, out) }()
		resp, err := http.Get("http://127.0.0.1:" + reserved + "/messages")
		if err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status)
		}
		b.StopTimer()
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/start")
}

// TestCtrlCWithSilentConnection stops a run to which something has connected
// without asking for anything, as browsers do ahead of use.
func TestCtrlCWithSilentConnection(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The connection was accepted before this request's.
	r.get(t, "/messages")
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if code := r.cmd.ProcessState.ExitCode(); code != 0 || r.errs.Len() > 0 {
		t.Errorf("exit %d, %s", code, r.errs.String())
	}
}
