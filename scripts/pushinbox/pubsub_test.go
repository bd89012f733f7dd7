package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/pubsubpush"
	"example.com/pushinbox/shared/verify"
	"example.com/pushinbox/testkit/port"
)

// clients returns clients of Pub/Sub at an address, as any program has them.
func clients(t *testing.T, host string) (pubsubpb.PublisherClient, pubsubpb.SubscriberClient) {
	t.Helper()
	conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return pubsubpb.NewPublisherClient(conn), pubsubpb.NewSubscriberClient(conn)
}

// TestUndeliveredIsKept has a program's own endpoint refuse a message until the run
// is killed, and until another one is stopped. The third delivers it.
func TestUndeliveredIsKept(t *testing.T) {
	t.Parallel()
	const topic, sub = "projects/mine/topics/orders", "projects/mine/subscriptions/orders-push"
	var up atomic.Bool
	pushes := make(chan *http.Request, 1000)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			r.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		pushes <- r
	}))
	t.Cleanup(endpoint.Close)
	next := func() *http.Request {
		t.Helper()
		select {
		case r := <-pushes:
			return r
		case <-time.After(30 * time.Second):
			t.Fatal("nothing was pushed")
			return nil
		}
	}
	data := t.TempDir()
	r := start(t, data)
	publisher, subscriber := clients(t, r.pubsub)
	if _, err := publisher.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	_, err := subscriber.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: sub, Topic: topic, PushConfig: &pubsubpb.PushConfig{
		PushEndpoint: endpoint.URL + "/orders",
		AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{
			ServiceAccountEmail: "orders@mine.iam.gserviceaccount.com",
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	published, err := publisher.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topic, Messages: []*pubsubpb.PubsubMessage{{Data: []byte("a"), Attributes: map[string]string{"k": "v"}}}})
	if err != nil {
		t.Fatal(err)
	}
	next()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.done
	r = start(t, data)
	next()
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if want := "1 message not delivered; kept in " + data; !strings.Contains(r.errs.String(), want) {
		t.Errorf("the terminal shows %q, not %q", r.errs.String(), want)
	}
	for len(pushes) > 0 {
		<-pushes
	}
	up.Store(true)
	r = start(t, data)
	push := next()
	body, err := io.ReadAll(push.Body)
	if err != nil {
		t.Fatal(err)
	}
	m, err := pubsubpush.Decode(push.Header, body)
	if err != nil || m.MessageID != published.MessageIds[0] || string(m.Data) != "a" || m.Attributes["k"] != "v" || m.Subscription != sub {
		t.Errorf("%v: %+v", err, m)
	}
	verifier, err := verify.New(&verify.Options{Transport: keyTransport(r.base + "/local/certs")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.IDToken(push.WithContext(t.Context()), verify.Policy{Audience: endpoint.URL + "/orders", Emails: []string{"orders@mine.iam.gserviceaccount.com"}}); err != nil {
		t.Error(err)
	}
	r.line(t, func(s string) bool { return s == "--> "+published.MessageIds[0]+" of "+sub })
	if line := r.line(t, func(s string) bool { return strings.HasPrefix(s, "<-- ") }); !strings.HasPrefix(line, "<-- 200 ") {
		t.Error(line)
	}
}

// keyTransport answers with the keys at an address, whatever is asked.
type keyTransport string

func (k keyTransport) RoundTrip(*http.Request) (*http.Response, error) { return http.Get(string(k)) }

// TestTakenPubSubPort refuses to take another port than the one asked for.
func TestTakenPubSubPort(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	_, taken, _ := net.SplitHostPort(listener.Addr().String())
	_, stderr, code := run(t, "", "local", "--port=0", "--data", t.TempDir(), "--pubsub-port", taken)
	if want := fmt.Sprintf("port %s is taken; stop what listens there, or choose another with --pubsub-port", taken); code == 0 || !strings.Contains(stderr, want) {
		t.Errorf("exit %d, %q", code, stderr)
	}
	if _, stderr, code := run(t, "", "local", "--pubsub-port", "65536"); code != 2 || !strings.Contains(stderr, "0 to 65535") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

// TestFormerAddressInTheShell has the variable that an earlier run told the shell
// to set name nothing but this run's own port.
func TestFormerAddressInTheShell(t *testing.T) {
	t.Parallel()
	at := port.Reserve(t)
	r := start(t, t.TempDir(), "--pubsub-port="+at, "PUBSUB_EMULATOR_HOST=127.0.0.1:"+at)
	r.publish(t, "", "text/plain", "a")
	r.acknowledged(t, 1)
	if r.pubsub != "127.0.0.1:"+at {
		t.Errorf("Pub/Sub is at %s", r.pubsub)
	}
}

// TestAddressOfARunInTheShell has the variable name another run, which is not
// Google's emulator and pushes all messages by itself.
func TestAddressOfARunInTheShell(t *testing.T) {
	t.Parallel()
	first := start(t, t.TempDir())
	for _, args := range [][]string{{"--pubsub-port=0"}, {"--pubsub-port=" + first.pubsub[strings.LastIndex(first.pubsub, ":")+1:]}} {
		_, errs, code := runIn(t, []string{"PUBSUB_EMULATOR_HOST=" + first.pubsub}, "", append(args, "local", "--port=0", "--data", t.TempDir())...)
		if want := "is another pushinbox local, not Google's emulator; unset it"; code != exitFailed || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: exit %d, %q", args, code, errs)
		}
	}
}

// TestPubSubOfAnOpenRun reaches Pub/Sub by another address of this machine, as other
// machines do, by both protocols.
func TestPubSubOfAnOpenRun(t *testing.T) {
	t.Parallel()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(addresses, func(a net.Addr) bool {
		network, ok := a.(*net.IPNet)
		return ok && network.IP.To4() != nil && !network.IP.IsLoopback()
	})
	if i < 0 {
		t.Skip("this machine has no address but those of loopback")
	}
	open, closed := start(t, t.TempDir(), "--host=0.0.0.0"), start(t, t.TempDir())
	at := func(r *running) string {
		_, port, _ := net.SplitHostPort(r.pubsub)
		return net.JoinHostPort(addresses[i].(*net.IPNet).IP.String(), port)
	}
	publisher, _ := clients(t, at(open))
	if _, err := publisher.GetTopic(t.Context(), &pubsubpb.GetTopicRequest{Topic: "projects/local/topics/inbox"}); err != nil {
		t.Error(err)
	}
	resp, err := http.Get("http://" + at(open) + "/v1/projects/local/topics")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("answered %s", resp.Status)
	}
	if conn, err := net.Dial("tcp", at(closed)); err == nil {
		_ = conn.Close()
		t.Error("a run without --host is open")
	}
}

// TestAddressesAsJSON has the addresses of the first line answer.
func TestAddressesAsJSON(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	cmd := exec.Command(command, "local", "--port=0", "--pubsub-port=0", "--data", data, "--format=json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Scan()
	var a stack.Addresses
	if err := json.Unmarshal(lines.Bytes(), &a); err != nil || a.Data != data || a.Topic != "projects/local/topics/inbox" {
		t.Fatalf("%v: %s", err, lines.Bytes())
	}
	for _, address := range []string{a.Console, a.Certs, a.Token, "http://" + a.PubSubEmulatorHost + "/v1/" + a.Subscription, a.GoogleCalendar + "/calendars/demo/events",
		a.CalendarEndpoint + "/calendar/v3/calendars/demo/events", a.MNSEndpoint + mnsfake.CertificatePath} {
		resp, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answered %s", address, resp.Status)
		}
	}
	publisher, _ := clients(t, a.PubSubEmulatorHost)
	published, err := publisher.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: a.Topic, Messages: []*pubsubpb.PubsubMessage{{Data: []byte("a")}}})
	if err != nil {
		t.Fatal(err)
	}
	lines.Scan()
	if want := `{"messageId":"` + published.MessageIds[0] + `","attempt":1,"status":204,`; !strings.HasPrefix(lines.Text(), want) {
		t.Errorf("the second line is %s", lines.Text())
	}
}
