// Package load occupies, floods and starves each function as it is deployed, in
// the memory that it is deployed with, and tells what the honest requests see.
// The functions are the real ones behind their own server; Firestore is Google's
// emulator where they read, and a stand-in that only accepts where they write,
// which no emulator could hold. It also measures "pushinbox local": how fast a
// message passes, and what a run takes that has nothing to do. The sizes are a tenth
// by default:
//
//	go test ./e2e/load -v -full
package load

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/port"
)

const (
	// An instance as Terraform's defaults give it.
	instanceMemory = 512 << 20
	goMemory       = "448MiB"
	slots          = 80

	audience    = "https://function.example.com"
	account     = "caller@project.iam.gserviceaccount.com"
	certificate = "mns-cert.oss-cn-local.aliyuncs.com"
	owner       = "1234567890123456"
)

// programs is the directory of what was built.
var programs string

// build returns what builds a program, once, and returns its file.
func build(name, source string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(programs, name)
		out, err := exec.Command("go", "build", "-ldflags=-w", "-o", file, source).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return file, nil
	})
}

var (
	program   = build("functions", "../../functions/cmd") // serves the functions
	pushinbox = build("pushinbox", "../../scripts/pushinbox")
)

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "load"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// instance is one process of a function.
type instance struct {
	url    string
	pid    int
	issuer *pushfake.Issuer
	signer *mnsfake.Signer
	token  string
}

// start runs a function as one instance, whose stores are at these addresses.
func start(t *testing.T, name string, store ...string) *instance {
	t.Helper()
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := mnsfake.NewSigner(512)
	if err != nil {
		t.Fatal(err)
	}
	internet := google.NewInternet(t, map[string]http.RoundTripper{
		"www.googleapis.com": issuer.Transport(), certificate: signer.Transport(),
	})
	reserved := port.Reserve(t)
	cmd := exec.Command(file)
	cmd.Env = slices.Concat([]string{
		"FUNCTION_TARGET=" + name, "K_SERVICE=" + name, "PORT=" + reserved, "GOMEMLIMIT=" + goMemory, "GOMAXPROCS=1",
		"GOOGLE_CLOUD_PROJECT=" + emulator.Project(), "PUBSUB_TOPIC=inbox",
		"GOOGLE_APPLICATION_CREDENTIALS=" + google.AccountKey(t),
		"PUSH_AUDIENCE=" + audience, "PUSH_SERVICE_ACCOUNT=" + account,
		"PUBLISH_AUDIENCE=" + audience, "PUBLISH_CALLERS=" + account,
		"CONSOLE_AUDIENCE=" + audience, "CONSOLE_READERS=" + account,
		"CALENDAR_ADDRESS=https://calendar.example.com/notifications", "CALENDAR_AUDIENCE=" + audience,
		"CALENDAR_OPERATORS=" + account, "CALENDAR_SYNC_TOPIC=sync",
		"MNS_TOPIC_OWNERS=" + owner,
	}, internet.Environment, store)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }() // killed, so it has an error
	t.Cleanup(func() {
		select {
		case <-exited:
			t.Errorf("%s ended by itself:\n%s", name, tail(log.String()))
		default:
		}
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s:\n%s", name, tail(log.String()))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := port.Listening(ctx, reserved); err != nil {
		t.Fatalf("%s does not listen: %v\n%s", name, err, tail(log.String()))
	}
	return &instance{"http://127.0.0.1:" + reserved, cmd.Process.Pid, issuer, signer, google.Token(t, issuer, audience, account)}
}

func tail(s string) string { return s[max(0, len(s)-1500):] }

// memory fails the test if the process has ever had more than its instance.
func (in *instance) memory(t *testing.T) {
	t.Helper()
	peak, err := measure.PeakMemory(in.pid)
	if err != nil {
		t.Skip("the system does not say how much memory a process has had")
	}
	t.Logf("peak memory: %d MiB of %d", peak>>20, instanceMemory>>20)
	if peak > instanceMemory {
		t.Errorf("peak memory is %d MiB, more than the %d of an instance", peak>>20, instanceMemory>>20)
	}
}

// request is what an honest caller sends. The body is written anew each time.
type request struct {
	method, path, contentType, body string
	header                          func(http.Header)
	begun                           func() // runs when the header was sent
}

// answers counts statuses, and has the time of each answer.
type answers struct {
	mu    sync.Mutex
	count map[int]int
	times []time.Duration
	bytes int64
}

func (a *answers) add(status int, d time.Duration, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count == nil {
		a.count = map[int]int{}
	}
	a.count[status]++
	a.times = append(a.times, d)
	a.bytes += n
}

func (a *answers) p99() time.Duration {
	slices.Sort(a.times)
	if len(a.times) == 0 {
		return 0
	}
	return a.times[(len(a.times)-1)*99/100].Round(time.Millisecond)
}

func (a *answers) String() string {
	return fmt.Sprintf("%v, p99 %v, %d MB", a.count, a.p99(), a.bytes/1e6)
}

// send sends r and reads the answer. A broken connection has status 0.
func (in *instance) send(client *http.Client, url string, r request, into *answers) {
	begin := time.Now()
	req, err := http.NewRequest(r.method, url+r.path, strings.NewReader(r.body))
	if err != nil {
		panic(err) // the tests' own
	}
	if r.begun != nil {
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{WroteHeaders: r.begun}))
	}
	req.Header.Set("Authorization", "Bearer "+in.token)
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.header != nil {
		r.header(req.Header)
	}
	resp, err := client.Do(req)
	if err != nil {
		into.add(0, time.Since(begin), 0)
		return
	}
	n, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	switch {
	case err != nil:
		into.add(0, time.Since(begin), n)
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "":
		into.add(-resp.StatusCode, time.Since(begin), n)
	default:
		into.add(resp.StatusCode, time.Since(begin), n)
	}
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: slots}, Timeout: 2 * time.Minute}
}

// flood sends r n times, all at once, and holds that each is answered rightly, or
// 503 with Retry-After, and at least one rightly.
func (in *instance) flood(t *testing.T, n, want int, r request) {
	t.Helper()
	client := newClient()
	defer client.CloseIdleConnections()
	var got answers
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() { in.send(client, in.url, r, &got) })
	}
	wait.Wait()
	t.Logf("%d × %.1f MB at once: %v", n, float64(len(r.body))/1e6, &got)
	if got.count[want] == 0 || got.count[want]+got.count[http.StatusServiceUnavailable] != n {
		t.Errorf("answered %v, want %d or 503 with Retry-After", got.count, want)
	}
	in.memory(t)
}

// frontEnd returns the address of a proxy that lets as many requests through at a
// time as an instance takes, as Cloud Run's does, until the test ends.
func (in *instance) frontEnd(t *testing.T) string {
	target, err := url.Parse(in.url)
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan struct{}, slots)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: slots}
	server := httptest.NewServer(httpapi.AtOnce(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case free <- struct{}{}:
			defer func() { <-free }()
		case <-time.After(5 * time.Second):
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		proxy.ServeHTTP(w, r)
	})))
	t.Cleanup(server.Close)
	return server.URL
}

// occupy opens 80 connections of each form that withholds something, and holds
// that an honest request is answered meanwhile, directly and through a front end.
func (in *instance) occupy(t *testing.T, path string, honest request, want int) {
	t.Helper()
	heads := []string{
		"POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
		"GET " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
		"POST //x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
		"POST " + path + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
	}
	client := newClient()
	defer client.CloseIdleConnections()
	for name, address := range map[string]string{"direct": in.url, "front_end": in.frontEnd(t)} {
		var open []net.Conn
		var answered atomic.Int64
		var refusals answers
		var wait sync.WaitGroup
		host := strings.TrimPrefix(address, "http://")
		for i := range measure.Size(slots, 5*slots) {
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, conn)
			wait.Go(func() {
				begin := time.Now()
				_ = conn.SetDeadline(begin.Add(20 * time.Second))
				_, _ = io.WriteString(conn, heads[i%len(heads)])
				if n, _ := conn.Read(make([]byte, 1)); n == 1 {
					refusals.add(1, time.Since(begin), 0)
					answered.Add(1)
				}
				_, _ = io.Copy(io.Discard, conn)
			})
		}
		var got answers
		for range 20 {
			in.send(client, address, honest, &got)
		}
		for _, conn := range open {
			defer func() { _ = conn.Close() }()
		}
		wait.Wait()
		t.Logf("%s: %d of %d idle connections answered, p99 %v; honest requests beside them: %v", name, answered.Load(), len(open), refusals.p99(), &got)
		if int(answered.Load()) != len(open) || got.count[want] != 20 {
			t.Errorf("%s: %d of %d idle connections were answered, honest requests %v", name, answered.Load(), len(open), got.count)
		}
	}
}

// accepting is a Firestore and a Pub/Sub that accept everything and keep nothing.
type accepting struct {
	firestorepb.UnimplementedFirestoreServer
	pubsubpb.UnimplementedPublisherServer
}

func (accepting) BatchWrite(_ context.Context, r *firestorepb.BatchWriteRequest) (*firestorepb.BatchWriteResponse, error) {
	resp := new(firestorepb.BatchWriteResponse)
	for range r.Writes {
		resp.WriteResults = append(resp.WriteResults, &firestorepb.WriteResult{UpdateTime: timestamppb.Now()})
		resp.Status = append(resp.Status, new(status.Status))
	}
	return resp, nil
}

func (accepting) BatchGetDocuments(r *firestorepb.BatchGetDocumentsRequest, out firestorepb.Firestore_BatchGetDocumentsServer) error {
	for _, name := range r.Documents {
		missing := &firestorepb.BatchGetDocumentsResponse_Missing{Missing: name}
		if err := out.Send(&firestorepb.BatchGetDocumentsResponse{Result: missing, ReadTime: timestamppb.Now()}); err != nil {
			return err
		}
	}
	return nil
}

func (accepting) Commit(_ context.Context, r *firestorepb.CommitRequest) (*firestorepb.CommitResponse, error) {
	resp := &firestorepb.CommitResponse{CommitTime: timestamppb.Now()}
	for range r.Writes {
		resp.WriteResults = append(resp.WriteResults, &firestorepb.WriteResult{UpdateTime: timestamppb.Now()})
	}
	return resp, nil
}

func (accepting) Publish(_ context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
	resp := new(pubsubpb.PublishResponse)
	for i := range r.Messages {
		resp.MessageIds = append(resp.MessageIds, fmt.Sprint(i))
	}
	return resp, nil
}

// accept serves an accepting, and returns the variables that lead there.
func accept(t *testing.T) []string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(32 << 20))
	firestorepb.RegisterFirestoreServer(server, accepting{})
	pubsubpb.RegisterPublisherServer(server, accepting{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return []string{"FIRESTORE_EMULATOR_HOST=" + listener.Addr().String(), "PUBSUB_EMULATOR_HOST=" + listener.Addr().String()}
}

// push returns a push of a message of n bytes.
func push(id string, n int) request {
	data := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("0123456789"), n/10))
	return request{method: "POST", path: "/wrapped", contentType: "application/json",
		body: fmt.Sprintf(`{"message":{"messageId":%q,"data":%q},"subscription":"projects/p/subscriptions/s"}`, id, data)}
}

func TestReceive(t *testing.T) {
	in := start(t, "receive", append(accept(t), "PUSH_ACK_DEADLINE=60s")...) // as Terraform sets it
	t.Run("idle", func(t *testing.T) { in.occupy(t, "/", push("1", 100), http.StatusNoContent) })
	t.Run("largest", func(t *testing.T) {
		in.flood(t, measure.Size(slots/2, slots), http.StatusNoContent, push("large", 9_999_000))
	})
	t.Run("small_beside_large", func(t *testing.T) {
		client := newClient()
		defer client.CloseIdleConnections()
		var large, small, alone answers
		for range 100 {
			in.send(client, in.url, push("small", 1000), &alone)
		}
		var wait, ahead sync.WaitGroup
		ahead.Add(20)
		r := push("large", 9_999_000)
		r.begun = ahead.Done
		for range 20 {
			wait.Go(func() { in.send(client, in.url, r, &large) })
		}
		ahead.Wait()
		for range 10 {
			wait.Go(func() {
				for range measure.Size(10, 100) {
					in.send(client, in.url, push("small", 1000), &small)
				}
			})
		}
		wait.Wait()
		t.Logf("small alone: %v; small beside 20 large: %v; the large: %v", &alone, &small, &large)
		if len(small.count) != 1 || small.count[http.StatusNoContent] == 0 {
			t.Errorf("small pushes beside large ones: %v", small.count)
		}
		if large.count[http.StatusNoContent] == 0 || large.count[http.StatusNoContent]+large.count[http.StatusServiceUnavailable] != 20 {
			t.Errorf("large pushes: %v", large.count)
		}
		in.memory(t)
	})
}

func TestPublish(t *testing.T) {
	in := start(t, "publish", accept(t)...)
	small := request{method: "POST", path: "/", contentType: "text/plain", body: "hello"}
	t.Run("idle", func(t *testing.T) { in.occupy(t, "/", small, http.StatusOK) })
	for name, r := range map[string]request{
		"largest_json": {method: "POST", path: "/", contentType: "application/json",
			body: fmt.Sprintf(`{"messages":[{"data":%q}]}`, base64.StdEncoding.EncodeToString(make([]byte, 9_900_000)))},
		"largest_text": {method: "POST", path: "/", contentType: "text/plain", body: strings.Repeat("x", 9_900_000)},
		"largest_form": {method: "POST", path: "/", contentType: "application/x-www-form-urlencoded", body: "payload=" + strings.Repeat("%41", 5_000_000)},
	} {
		t.Run(name, func(t *testing.T) { in.flood(t, measure.Size(slots/4, slots), http.StatusOK, r) })
	}
}

func TestCalendar(t *testing.T) {
	in := start(t, "calendar", accept(t)...)
	robots := request{method: "GET", path: "/robots.txt"}
	t.Run("idle", func(t *testing.T) { in.occupy(t, "/notifications", robots, http.StatusOK) })
}

func TestMNS(t *testing.T) {
	in := start(t, "mns", accept(t)...)
	body := strings.Repeat("0123456789abcdef", 4<<10) // 64 KiB, the largest message
	r := request{method: "POST", path: "/", contentType: "text/plain", body: body}
	r.header = func(h http.Header) {
		h.Set("X-Mns-Message-Id", "5F290C926D472878-2-14D9529A8FA-200000001")
		h.Set("X-Mns-Request-Id", "57A1B2C3D4E5F60718293A4B")
		h.Set("X-Mns-Version", "2015-06-06")
		h.Set("X-Mns-Topic-Owner", owner)
		h.Set("X-Mns-Topic-Name", "load")
		h.Set("X-Mns-Subscription-Name", "load-Sub")
		h.Set("Authorization", "") // the signer's
		in.signer.Sign(h, "POST", r.path, []byte(body), time.Now())
	}
	t.Run("idle", func(t *testing.T) { in.occupy(t, "/", r, http.StatusCreated) })
	t.Run("largest", func(t *testing.T) { in.flood(t, slots, http.StatusCreated, r) })
}

func TestConsole(t *testing.T) {
	host := emulator.Firestore(t)
	project := emulator.Project()
	store, err := firestoreinbox.Open(t.Context(), firestoreinbox.Config{
		Project: project, Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour, EmulatorHost: host,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	attributes := map[string]string{}
	for i := range 100 {
		attributes[fmt.Sprintf("attribute-%03d", i)] = strings.Repeat("v", 1024)
	}
	large := &inbox.Message{Source: "pubsub", Subscription: "s", MessageID: "large", Data: bytes.Repeat([]byte("0123456789"), 999_900)}
	if _, err := store.Put(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range measure.Size(100, 500) {
		wait.Go(func() {
			m := &inbox.Message{Source: "pubsub", Subscription: "s", MessageID: fmt.Sprint(i), Data: []byte("data"), Attributes: attributes}
			if _, err := store.Put(t.Context(), m); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	in := start(t, "console", append(accept(t)[1:], "FIRESTORE_EMULATOR_HOST="+host, "GOOGLE_CLOUD_PROJECT="+project)...)
	id := inbox.ID("pubsub", "s", "large")
	t.Run("idle", func(t *testing.T) {
		in.occupy(t, "/messages", request{method: "GET", path: "/messages/none"}, http.StatusNotFound)
	})
	for name, path := range map[string]string{
		"largest_page":     "/messages?pageSize=500",
		"largest_message":  "/messages/" + id,
		"largest_download": "/messages/" + id + "/data",
	} {
		t.Run(name, func(t *testing.T) {
			n := measure.Size(slots/4, slots)
			if name == "largest_page" {
				n = slots / 4 // Google's emulator does not get over more, and answers nothing after that
			}
			in.flood(t, n, http.StatusOK, request{method: "GET", path: path})
		})
	}
	t.Run("largest_html", func(t *testing.T) {
		in.flood(t, measure.Size(slots/4, slots), http.StatusOK, request{method: "GET", path: "/?pageSize=500", header: func(h http.Header) { h.Set("Accept", "text/html") }})
	})
}
