package mnsclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/mnsclient"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/testkit/roundtrip"
)

// service answers one call and remembers it.
type service struct {
	status int
	body   string
	got    *http.Request
	sent   string
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	s.got = r
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		s.sent = string(b)
	}
	return &http.Response{StatusCode: s.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(s.body))}, nil
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error is %v, want %v", what, got, want)
	}
}

var called = time.Date(2016, 5, 17, 9, 10, 56, 0, time.UTC)

func newClient(t *testing.T, transport http.RoundTripper, token string) *mnsclient.Client {
	t.Helper()
	c, err := mnsclient.NewClient("https://1000000000000000.mns.cn-hangzhou.aliyuncs.com",
		mnsclient.Credentials{ID: "testid", Secret: "testsecret", Token: token},
		&mnsclient.ClientOptions{Transport: transport, Now: func() time.Time { return called }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The signatures were computed with openssl from the text to sign:
//
//	printf '%b' TEXT | openssl dgst -sha1 -hmac testsecret -binary | base64
func TestClientSignature(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		token  string
		call   func(*mnsclient.Client) error
		answer service
		target string
		want   http.Header
		sent   string
	}{
		"without_body": {
			call:   func(c *mnsclient.Client) error { return c.DeleteTopic(context.Background(), "MySampleTopic") },
			answer: service{status: 204},
			target: "/topics/MySampleTopic",
			want: http.Header{
				"Authorization": {"MNS testid:szt/yg3s4s0t9tTtzHdwbHoulME="},
				"Date":          {"Tue, 17 May 2016 09:10:56 GMT"},
				"X-Mns-Version": {"2015-06-06"},
			},
		},
		"with_token": {
			token:  "sts-token",
			call:   func(c *mnsclient.Client) error { return c.DeleteTopic(context.Background(), "MySampleTopic") },
			answer: service{status: 204},
			target: "/topics/MySampleTopic",
			want: http.Header{
				"Authorization":  {"MNS testid:szt/yg3s4s0t9tTtzHdwbHoulME="},
				"Date":           {"Tue, 17 May 2016 09:10:56 GMT"},
				"Security-Token": {"sts-token"},
				"X-Mns-Version":  {"2015-06-06"},
			},
		},
		"with_body": {
			call: func(c *mnsclient.Client) error {
				_, err := c.CreateTopic(context.Background(), "MySampleTopic", mnsclient.TopicAttributes{MaxMessageSize: 1024, Logging: true})
				return err
			},
			answer: service{status: 201},
			target: "/topics/MySampleTopic",
			want: http.Header{
				"Authorization": {"MNS testid:1kIB9l563qWigFvDLU/C8M5ZKo4="},
				"Content-Md5":   {"Mzg1YjRlYjZiM2IzYTQwNjgwNjQzNjhmYjk2MzU0OGE="},
				"Content-Type":  {"text/xml;charset=UTF-8"},
				"Date":          {"Tue, 17 May 2016 09:10:56 GMT"},
				"X-Mns-Version": {"2015-06-06"},
			},
			sent: `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<Topic xmlns="http://mns.aliyuncs.com/doc/v1/"><MaximumMessageSize>1024</MaximumMessageSize><LoggingEnabled>True</LoggingEnabled></Topic>`,
		},
		"with_headers_to_sort": {
			call: func(c *mnsclient.Client) error {
				for _, err := range c.ListTopics(context.Background(), "My") {
					return err
				}
				return nil
			},
			answer: service{status: 200, body: "<Topics/>"},
			target: "/topics",
			want: http.Header{
				"Authorization":    {"MNS testid:8xtfPohPIukM8UajWWtuwQgfWlM="},
				"Date":             {"Tue, 17 May 2016 09:10:56 GMT"},
				"X-Mns-Prefix":     {"My"},
				"X-Mns-Ret-Number": {"100"},
				"X-Mns-Version":    {"2015-06-06"},
				"X-Mns-With-Meta":  {"true"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := tt.call(newClient(t, &tt.answer, tt.token)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.answer.got.Header); diff != "" {
				t.Error(diff)
			}
			if got := tt.answer.got.URL.RequestURI(); got != tt.target {
				t.Errorf("called %s, want %s", got, tt.target)
			}
			if tt.answer.sent != tt.sent {
				t.Errorf("sent %s", tt.answer.sent)
			}
		})
	}
}

// call is each call once, with the answer that it is a success with.
var calls = map[string]struct {
	run    func(context.Context, *mnsclient.Client) error
	status int
	body   string
}{
	"create_topic": {func(ctx context.Context, c *mnsclient.Client) error {
		_, err := c.CreateTopic(ctx, "T", mnsclient.TopicAttributes{})
		return err
	}, 201, ""},
	"delete_topic": {func(ctx context.Context, c *mnsclient.Client) error { return c.DeleteTopic(ctx, "T") }, 204, ""},
	"list_topics": {func(ctx context.Context, c *mnsclient.Client) error {
		for _, err := range c.ListTopics(ctx, "") {
			return err
		}
		return nil
	}, 200, "<Topics/>"},
	"subscribe": {func(ctx context.Context, c *mnsclient.Client) error {
		_, err := c.Subscribe(ctx, "T", mnsclient.Subscription{Name: "S"})
		return err
	}, 201, ""},
	"unsubscribe": {func(ctx context.Context, c *mnsclient.Client) error { return c.Unsubscribe(ctx, "T", "S") }, 204, ""},
	"list_subscriptions": {func(ctx context.Context, c *mnsclient.Client) error {
		for _, err := range c.ListSubscriptions(ctx, "T") {
			return err
		}
		return nil
	}, 200, "<Subscriptions/>"},
	"publish": {func(ctx context.Context, c *mnsclient.Client) error {
		_, err := c.Publish(ctx, "T", mnsclient.Message{Body: []byte("I am test message 0.")})
		return err
	}, 201, "<Message><MessageId>1</MessageId><MessageBodyMD5>075C3D4AEB2D2F2D6A4C17C9D6DBBEBB</MessageBodyMD5></Message>"},
}

// Every call is answered with success, with each documented error, and with what
// no service of MNS says.
func TestClientAnswers(t *testing.T) {
	t.Parallel()
	refusal := func(code string) string {
		return `<?xml version="1.0"?><Error xmlns="http://mns.aliyuncs.com/doc/v1/"><Code>` + code + `</Code><Message>why</Message><RequestId>R</RequestId><HostId>h</HostId></Error>`
	}
	known := map[string]error{
		"TopicAlreadyExist":        mnsclient.ErrTopicExists,
		"TopicNotExist":            mnsclient.ErrTopicMissing,
		"SubscriptionAlreadyExist": mnsclient.ErrSubscriptionExists,
		"SubscriptionNotExist":     mnsclient.ErrSubscriptionMissing,
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			if err := call.run(ctx, newClient(t, &service{status: call.status, body: call.body}, "")); err != nil {
				t.Errorf("success: %v", err)
			}
			for code, status := range map[string]int{
				"TopicAlreadyExist": 409, "TopicNotExist": 404, "SubscriptionAlreadyExist": 409, "SubscriptionNotExist": 404,
				"AccessDenied": 403, "InvalidAccessKeyId": 403, "SignatureDoesNotMatch": 403, "TimeExpired": 400, "InvalidArgument": 400,
				"QpsLimitExceeded": 400, "InternalError": 500,
			} {
				err := call.run(ctx, newClient(t, &service{status: status, body: refusal(code)}, ""))
				var got *mnsclient.APIError
				if !errors.As(err, &got) {
					t.Errorf("%s: %v", code, err)
					continue
				}
				if diff := cmp.Diff(&mnsclient.APIError{Status: status, Code: code, Message: "why", RequestID: "R"}, got); diff != "" {
					t.Errorf("%s: %s", code, diff)
				}
				for _, is := range known {
					if errors.Is(err, is) != (known[code] == is) {
						t.Errorf("%s: errors.Is(%v) is %v", code, is, errors.Is(err, is))
					}
				}
			}
			for what, s := range map[string]*service{
				"html":     {status: 502, body: "<html><p>Bad gateway"},
				"nothing":  {status: 500},
				"redirect": {status: 307, body: "<Error/>"},
			} {
				var got *mnsclient.APIError
				if err := call.run(ctx, newClient(t, s, "")); !errors.As(err, &got) || got.Status != s.status {
					t.Errorf("%s: %v", what, err)
				}
			}
			if call.body != "" {
				for what, body := range map[string]string{
					"nothing": "", "html": "<html/>", "cut": call.body[:len(call.body)-1],
					"large": call.body + strings.Repeat(" ", 1<<20), "doctype": `<!DOCTYPE x [<!ENTITY a "a">]><Topics>&a;</Topics>`,
				} {
					if err := call.run(ctx, newClient(t, &service{status: call.status, body: body}, "")); err == nil {
						t.Errorf("a success with %s as its body was taken", what)
					}
				}
			}
		})
	}
}

func TestClientEndsEveryCall(t *testing.T) {
	t.Parallel()
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				c := newClient(t, roundtrip.Hangs, "")
				if err := call.run(t.Context(), c); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := call.run(ctx, c); !errors.Is(err, context.Canceled) {
					t.Errorf("with an ended context: %v", err)
				}
			})
		})
	}
}

func TestClientRefusesNames(t *testing.T) {
	t.Parallel()
	c := newClient(t, roundtrip.Func(func(*http.Request) (*http.Response, error) {
		t.Error("a call was sent")
		return nil, io.EOF
	}), "")
	ctx := context.Background()
	for _, name := range []string{"", "..", "a/b", "a?b", "a#b", "a%2fb", "a b", "a_b", "ü", "a\n", strings.Repeat("a", 257)} {
		_, created := c.CreateTopic(ctx, name, mnsclient.TopicAttributes{})
		_, subscribed := c.Subscribe(ctx, name, mnsclient.Subscription{Name: "S"})
		_, named := c.Subscribe(ctx, "T", mnsclient.Subscription{Name: name})
		_, published := c.Publish(ctx, name, mnsclient.Message{})
		var listed error
		for _, err := range c.ListSubscriptions(ctx, name) {
			listed = err
		}
		for i, err := range []error{
			created, subscribed, named, published, listed, c.DeleteTopic(ctx, name),
			c.Unsubscribe(ctx, name, "S"), c.Unsubscribe(ctx, "T", name),
		} {
			if err == nil {
				t.Errorf("%q was taken by call %d", name, i)
			}
		}
	}
}

func TestPublishRefusesWhatIsNotText(t *testing.T) {
	t.Parallel()
	for _, m := range []mnsclient.Message{
		{Body: []byte("\xff")}, {Body: []byte("\x00")}, {Body: []byte("\x0b")}, {Body: []byte("\uffff")}, {Body: []byte("x"), Tag: "\x01"},
	} {
		s := &service{status: 201}
		if _, err := newClient(t, s, "").Publish(context.Background(), "T", m); err == nil || s.got != nil {
			t.Errorf("%q was published", m.Body)
		}
	}
}

func TestPublishComparesTheDigest(t *testing.T) {
	t.Parallel()
	s := &service{status: 201, body: "<Message><MessageId>1</MessageId><MessageBodyMD5>8356BC7FFBD22CC971BE7FF7427202B6</MessageBodyMD5></Message>"}
	if _, err := newClient(t, s, "").Publish(context.Background(), "T", mnsclient.Message{Body: []byte("I am test message 0.")}); err == nil {
		t.Error("a receipt for another message was taken")
	}
}

// A list that always leads on to itself ends, too.
func TestListEnds(t *testing.T) {
	t.Parallel()
	s := &service{status: 200, body: "<Topics><Topic><TopicURL>https://h/topics/T</TopicURL></Topic><NextMarker>T</NextMarker></Topics>"}
	n := 0
	for topic, err := range newClient(t, s, "").ListTopics(context.Background(), "") {
		if err != nil || topic.Name != "T" {
			t.Fatal(topic, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d topics", n)
	}
}

func TestNewClient(t *testing.T) {
	t.Parallel()
	good := mnsclient.Credentials{ID: "id", Secret: "secret", Token: "token"}
	for name, tt := range map[string]struct {
		endpoint string
		c        mnsclient.Credentials
		ok       bool
	}{
		"https":              {"https://1.mns.cn-hangzhou.aliyuncs.com", good, true},
		"https_with_slash":   {"https://1.mns.cn-hangzhou.aliyuncs.com/", good, true},
		"http_on_loopback":   {"http://127.0.0.1:8080/local/mns", good, true},
		"http_on_localhost":  {"http://localhost:8080", good, true},
		"http_on_ipv6":       {"http://[::1]:8080", good, true},
		"http":               {"http://1.mns.cn-hangzhou.aliyuncs.com", good, false},
		"http_look_alike":    {"http://127.0.0.1.evil.example", good, false},
		"empty":              {"", good, false},
		"host_only":          {"1.mns.cn-hangzhou.aliyuncs.com", good, false},
		"userinfo":           {"https://user:password@h", good, false},
		"query":              {"https://h?x", good, false},
		"fragment":           {"https://h#x", good, false},
		"other_scheme":       {"ftp://h", good, false},
		"no_id":              {"https://h", mnsclient.Credentials{Secret: "s"}, false},
		"no_secret":          {"https://h", mnsclient.Credentials{ID: "i"}, false},
		"line_feed_in_id":    {"https://h", mnsclient.Credentials{ID: "i\n", Secret: "s"}, false},
		"line_feed_in_token": {"https://h", mnsclient.Credentials{ID: "i", Secret: "s", Token: "t\n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := mnsclient.NewClient(tt.endpoint, tt.c, nil)
			if (err == nil) != tt.ok {
				t.Errorf("error is %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "password") {
				t.Errorf("a password is in %q", err)
			}
		})
	}
}

func TestCredentialsAreNotPrinted(t *testing.T) {
	t.Parallel()
	c := mnsclient.Credentials{ID: "id", Secret: "hush", Token: "hush"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, c) + fmt.Sprintf(format, struct{ C mnsclient.Credentials }{c}); strings.Contains(s, "hush") {
			t.Errorf("%s prints %s", format, s)
		}
	}
}

// handler is a server that is called without a connection.
type handler struct{ http.Handler }

func (h handler) RoundTrip(r *http.Request) (*http.Response, error) {
	// Through HTTP's own writer and reader, so that the headers and the target are
	// those that a server sees.
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		return nil, err
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, got.WithContext(r.Context()))
	return w.Result(), nil
}

// The stand-in and the client are two readings of the same documentation.
func TestClientWithStandIn(t *testing.T) {
	t.Parallel()
	signer, err := mnsfake.NewSigner(512)
	if err != nil {
		t.Fatal(err)
	}
	fake, err := mnsfake.New(signer, &mnsfake.Options{SecurityToken: "sts-token"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := mnsclient.NewClient("http://127.0.0.1:8080/local/mns",
		mnsclient.Credentials{ID: mnsfake.AccessKeyID, Secret: mnsfake.AccessKeySecret, Token: "sts-token"},
		&mnsclient.ClientOptions{Transport: handler{http.StripPrefix("/local/mns", fake)}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	is := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}

	want(t, "deleting what is not there", c.DeleteTopic(ctx, "T"), mnsclient.ErrTopicMissing)
	_, err = c.Publish(ctx, "T", mnsclient.Message{Body: []byte("x")})
	want(t, "publishing to what is not there", err, mnsclient.ErrTopicMissing)
	_, err = c.Subscribe(ctx, "T", mnsclient.Subscription{Name: "S", Endpoint: "http://127.0.0.1/x"})
	want(t, "subscribing to what is not there", err, mnsclient.ErrTopicMissing)
	for _, err := range c.ListSubscriptions(ctx, "T") {
		want(t, "listing the subscriptions of what is not there", err, mnsclient.ErrTopicMissing)
	}

	created, err := c.CreateTopic(ctx, "T", mnsclient.TopicAttributes{MaxMessageSize: 2048, Logging: true})
	want(t, "creating", err, nil)
	is("created", created, true)
	created, err = c.CreateTopic(ctx, "T", mnsclient.TopicAttributes{MaxMessageSize: 2048, Logging: true})
	want(t, "creating again", err, nil)
	is("created again", created, false)
	_, err = c.CreateTopic(ctx, "T", mnsclient.TopicAttributes{MaxMessageSize: 4096})
	want(t, "creating another", err, mnsclient.ErrTopicExists)
	for topic, err := range c.ListTopics(ctx, "") {
		want(t, "listing one", err, nil)
		is("topic", topic, mnsclient.Topic{Name: "T", MaxMessageSize: 2048})
	}

	s := mnsclient.Subscription{Name: "S", Endpoint: "http://127.0.0.1/x", FilterTag: "important", Strategy: mnsclient.ExponentialDecayRetry, Format: mns.Simplified}
	created, err = c.Subscribe(ctx, "T", s)
	want(t, "subscribing", err, nil)
	is("subscribed", created, true)
	created, err = c.Subscribe(ctx, "T", s)
	want(t, "subscribing again", err, nil)
	is("subscribed again", created, false)
	s.Format = mns.XML
	_, err = c.Subscribe(ctx, "T", s)
	want(t, "subscribing another", err, mnsclient.ErrSubscriptionExists)

	for _, m := range []mnsclient.Message{
		{Body: []byte("I am test message 0.")},
		{Body: []byte("<&>\"'ü\t\r\n "), Tag: "important"},
		{Body: []byte("\x00\xff"), Encoding: mns.Base64},
	} {
		got, err := c.Publish(ctx, "T", m)
		want(t, "publishing", err, nil)
		if got.MessageID == "" {
			t.Error("a message has no ID")
		}
	}

	var all []string
	for i := range 205 {
		all = append(all, fmt.Sprintf("many-%03d", i))
		_, err := c.CreateTopic(ctx, all[i], mnsclient.TopicAttributes{})
		want(t, "creating many", err, nil)
		_, err = c.Subscribe(ctx, "T", mnsclient.Subscription{Name: all[i], Endpoint: "http://127.0.0.1/x"})
		want(t, "subscribing many", err, nil)
	}
	var topics, subscriptions []string
	for topic, err := range c.ListTopics(ctx, "many-") {
		want(t, "listing topics", err, nil)
		topics = append(topics, topic.Name)
	}
	is("topics", topics, all)
	for s, err := range c.ListSubscriptions(ctx, "T") {
		want(t, "listing subscriptions", err, nil)
		subscriptions = append(subscriptions, s.Name)
	}
	is("subscriptions", subscriptions, append([]string{"S"}, all...))
	for range c.ListTopics(ctx, "") {
		break // stops asking
	}

	want(t, "unsubscribing", c.Unsubscribe(ctx, "T", "S"), nil)
	want(t, "unsubscribing again", c.Unsubscribe(ctx, "T", "S"), mnsclient.ErrSubscriptionMissing)
	want(t, "deleting", c.DeleteTopic(ctx, "T"), nil)
	want(t, "unsubscribing from nothing", c.Unsubscribe(ctx, "T", "S"), mnsclient.ErrTopicMissing)

	for name, wrong := range map[string]mnsclient.Credentials{
		"id":     {ID: "x", Secret: mnsfake.AccessKeySecret, Token: "sts-token"},
		"secret": {ID: mnsfake.AccessKeyID, Secret: "x", Token: "sts-token"},
		"token":  {ID: mnsfake.AccessKeyID, Secret: mnsfake.AccessKeySecret},
	} {
		c, err := mnsclient.NewClient("http://127.0.0.1:8080", wrong, &mnsclient.ClientOptions{Transport: handler{fake}})
		if err != nil {
			t.Fatal(err)
		}
		var refused *mnsclient.APIError
		if _, err := c.CreateTopic(ctx, "U", mnsclient.TopicAttributes{}); !errors.As(err, &refused) || refused.Status != http.StatusForbidden {
			t.Errorf("with another %s: %v", name, err)
		}
	}
}
