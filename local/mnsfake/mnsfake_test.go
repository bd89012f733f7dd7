package mnsfake_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/testkit/roundtrip"
)

// start is what the clock of a test stands at.
var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// service is a stand-in with a clock that only moves by hand, and an endpoint
// that answers with status and keeps what comes.
type service struct {
	*mnsfake.Server
	signer *mnsfake.Signer
	now    time.Time

	mu     sync.Mutex
	status int
	got    []*http.Request
	bodies []string
}

func newService(t *testing.T, o mnsfake.Options) *service {
	t.Helper()
	s := &service{now: start, status: http.StatusCreated}
	var err error
	if s.signer, err = mnsfake.NewSigner(512); err != nil {
		t.Fatal(err)
	}
	o.Now, o.Transport = func() time.Time { return s.now }, s
	if s.Server, err = mnsfake.New(s.signer, &o); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := r.Header
	r = r.Clone(r.Context())
	r.Header = make(http.Header)
	for name, values := range sent {
		r.Header[http.CanonicalHeaderKey(name)] = values // as a server reads them
	}
	s.got, s.bodies = append(s.got, r), append(s.bodies, string(body))
	return &http.Response{StatusCode: s.status, Body: http.NoBody}, nil
}

// edit changes a call before it is signed, or after.
type edit struct{ before, after func(*http.Request) }

// call signs a call as the documentation says, and returns the answer.
func (s *service) call(method, target, body string, e edit) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://mns.example"+target, strings.NewReader(body))
	r.RequestURI = target
	r.Header.Set("Date", s.now.Format(http.TimeFormat))
	r.Header.Set("x-mns-version", "2015-06-06")
	if body != "" {
		r.Header.Set("Content-Type", "text/xml;charset=UTF-8")
		r.Header.Set("Content-MD5", base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%x", md5.Sum([]byte(body)))))
	}
	if e.before != nil {
		e.before(r)
	}
	text := method + "\n" + r.Header.Get("Content-MD5") + "\n" + r.Header.Get("Content-Type") + "\n" + r.Header.Get("Date") + "\n"
	// In order, as a test has few of them.
	for _, name := range []string{"x-mns-marker", "x-mns-prefix", "x-mns-ret-number", "x-mns-version", "x-mns-with-meta"} {
		if v := r.Header.Get(name); v != "" {
			text += name + ":" + v + "\n"
		}
	}
	mac := hmac.New(sha1.New, []byte(mnsfake.AccessKeySecret))
	mac.Write([]byte(text + target))
	r.Header.Set("Authorization", "MNS "+mnsfake.AccessKeyID+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	if e.after != nil {
		e.after(r)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// must is call with a check of the status.
func (s *service) must(t *testing.T, status int, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := s.call(method, target, body, edit{})
	if w.Code != status {
		t.Fatalf("%s %s: answered %d %s, want %d", method, target, w.Code, w.Body, status)
	}
	return w
}

func element(name, inner string) string {
	return "<" + name + ` xmlns="http://mns.aliyuncs.com/doc/v1/">` + inner + "</" + name + ">"
}

// subscribe makes topic T with subscription S.
func (s *service) subscribe(t *testing.T, inner string) {
	t.Helper()
	s.must(t, 201, "PUT", "/topics/T", element("Topic", ""))
	s.must(t, 201, "PUT", "/topics/T/subscriptions/S", element("Subscription", inner))
}

func (s *service) publish(t *testing.T, body string) {
	t.Helper()
	s.must(t, 201, "POST", "/topics/T/messages", element("Message", "<MessageBody>"+body+"</MessageBody>"))
}

func TestCalls(t *testing.T) {
	t.Parallel()
	s := newService(t, mnsfake.Options{})
	const endpoint = "<Endpoint>http://inbox.example/mns</Endpoint>"
	for _, c := range []struct {
		name, method, target, body string
		status                     int
		code                       string
	}{
		{"create", "PUT", "/topics/T", element("Topic", ""), 201, ""},
		{"create_again", "PUT", "/topics/T", element("Topic", "<MaximumMessageSize>65536</MaximumMessageSize><LoggingEnabled>False</LoggingEnabled>"), 204, ""},
		{"create_without_body", "PUT", "/topics/T", "", 204, ""},
		{"create_with_other_attributes", "PUT", "/topics/T", element("Topic", "<LoggingEnabled>True</LoggingEnabled>"), 409, "TopicAlreadyExist"},
		{"create_with_bad_size", "PUT", "/topics/U", element("Topic", "<MaximumMessageSize>1</MaximumMessageSize>"), 400, "InvalidArgument"},
		{"create_with_bad_name", "PUT", "/topics/a_b", element("Topic", ""), 400, "TopicNameInvalid"},
		{"create_with_long_name", "PUT", "/topics/" + strings.Repeat("a", 257), element("Topic", ""), 400, "TopicNameInvalid"},
		{"create_with_other_namespace", "PUT", "/topics/U", `<Topic xmlns="http://other.example/"/>`, 400, "MalformedXML"},
		{"create_something_else", "PUT", "/topics/U", "<Queue/>", 400, "MalformedXML"},
		{"create_without_namespace", "PUT", "/topics/V", "<Topic></Topic>", 201, ""},
		{"create_with_garbage", "PUT", "/topics/U", "<Topic", 400, "MalformedXML"},
		{"change", "PUT", "/topics/T?metaoverride=true", element("Topic", "<LoggingEnabled>True</LoggingEnabled>"), 204, ""},
		{"change_back", "PUT", "/topics/T?metaoverride=true", "<Topic><LoggingEnabled>false</LoggingEnabled></Topic>", 204, ""},
		{"create_after_the_change", "PUT", "/topics/T", element("Topic", ""), 204, ""},
		{"change_badly", "PUT", "/topics/T?metaoverride=true", element("Topic", "<MaximumMessageSize>1</MaximumMessageSize>"), 400, "InvalidArgument"},
		{"change_missing", "PUT", "/topics/U?metaoverride=true", element("Topic", ""), 404, "TopicNotExist"},
		{"describe", "GET", "/topics/T", "", 200, ""},
		{"describe_missing", "GET", "/topics/U", "", 404, "TopicNotExist"},
		{"unknown_query", "PUT", "/topics/T?metaoverride=yes", element("Topic", ""), 400, "InvalidRequestURL"},
		{"query_of_another_call", "GET", "/topics/T?metaoverride=true", "", 400, "InvalidRequestURL"},
		{"subscribe", "PUT", "/topics/T/subscriptions/S", element("Subscription", endpoint), 201, ""},
		{"subscribe_again", "PUT", "/topics/T/subscriptions/S", element("Subscription", endpoint+"<NotifyStrategy>BACKOFF_RETRY</NotifyStrategy><NotifyContentFormat>XML</NotifyContentFormat>"), 204, ""},
		{"subscribe_with_other_attributes", "PUT", "/topics/T/subscriptions/S", element("Subscription", endpoint+"<FilterTag>x</FilterTag>"), 409, "SubscriptionAlreadyExist"},
		{"subscribe_missing_topic", "PUT", "/topics/U/subscriptions/S", element("Subscription", endpoint), 404, "TopicNotExist"},
		{"subscribe_queue", "PUT", "/topics/T/subscriptions/Q", element("Subscription", "<Endpoint>acs:mns:cn-hangzhou:1:queues/Q</Endpoint>"), 400, "EndpointInvalid"},
		{"subscribe_without_endpoint", "PUT", "/topics/T/subscriptions/Q", element("Subscription", ""), 400, "EndpointInvalid"},
		{"subscribe_bad_strategy", "PUT", "/topics/T/subscriptions/Q", element("Subscription", endpoint+"<NotifyStrategy>NEVER</NotifyStrategy>"), 400, "InvalidArgument"},
		{"subscribe_bad_format", "PUT", "/topics/T/subscriptions/Q", element("Subscription", endpoint+"<NotifyContentFormat>YAML</NotifyContentFormat>"), 400, "InvalidArgument"},
		{"subscribe_long_tag", "PUT", "/topics/T/subscriptions/Q", element("Subscription", endpoint+"<FilterTag>12345678901234567</FilterTag>"), 400, "InvalidArgument"},
		{"describe_subscription", "GET", "/topics/T/subscriptions/S", "", 200, ""},
		{"describe_missing_subscription", "GET", "/topics/T/subscriptions/Q", "", 404, "SubscriptionNotExist"},
		{"change_subscription", "PUT", "/topics/T/subscriptions/S?metaoverride=true", "<Subscription><NotifyStrategy>EXPONENTIAL_DECAY_RETRY</NotifyStrategy></Subscription>", 204, ""},
		{"subscribe_after_the_change", "PUT", "/topics/T/subscriptions/S", element("Subscription", endpoint), 409, "SubscriptionAlreadyExist"},
		{"change_endpoint", "PUT", "/topics/T/subscriptions/S?metaoverride=true", element("Subscription", "<Endpoint>http://other.example/</Endpoint>"), 400, "InvalidArgument"},
		{"change_strategy_badly", "PUT", "/topics/T/subscriptions/S?metaoverride=true", element("Subscription", "<NotifyStrategy>NEVER</NotifyStrategy>"), 400, "InvalidArgument"},
		{"change_missing_subscription", "PUT", "/topics/T/subscriptions/Q?metaoverride=true", element("Subscription", ""), 404, "SubscriptionNotExist"},
		{"publish_mail", "POST", "/topics/T/messages", element("Message", "<MessageBody>x</MessageBody><MessageAttributes><DirectMail>{}</DirectMail></MessageAttributes>"), 400, "InvalidArgument"},
		{"publish", "POST", "/topics/T/messages", element("Message", "<MessageBody>I am test message 0.</MessageBody>"), 201, ""},
		{"publish_nothing", "POST", "/topics/T/messages", element("Message", ""), 400, "InvalidArgument"},
		{"publish_too_much", "POST", "/topics/T/messages", element("Message", "<MessageBody>"+strings.Repeat("x", 64<<10+1)+"</MessageBody>"), 400, "InvalidArgument"},
		{"publish_long_tag", "POST", "/topics/T/messages", element("Message", "<MessageBody>x</MessageBody><MessageTag>12345678901234567</MessageTag>"), 400, "InvalidArgument"},
		{"publish_to_missing_topic", "POST", "/topics/U/messages", element("Message", "<MessageBody>x</MessageBody>"), 404, "TopicNotExist"},
		{"unsubscribe", "DELETE", "/topics/T/subscriptions/S", "", 204, ""},
		{"unsubscribe_again", "DELETE", "/topics/T/subscriptions/S", "", 404, "SubscriptionNotExist"},
		{"delete", "DELETE", "/topics/T", "", 204, ""},
		{"delete_again", "DELETE", "/topics/T", "", 404, "TopicNotExist"},
		{"no_call", "POST", "/topics/T", "", 400, "InvalidRequestURL"},
		{"queues", "GET", "/queues/Q", "", 400, "InvalidRequestURL"},
		{"receive", "GET", "/queues/Q/messages?waitseconds=5", "", 400, "InvalidRequestURL"},
		{"account", "GET", "/?accountmeta=true", "", 400, "InvalidRequestURL"},
		{"two_slashes", "PUT", "//topics/T", element("Topic", ""), 400, "InvalidRequestURL"},
	} {
		w := s.call(c.method, c.target, c.body, edit{})
		var e struct{ Code, Message, RequestId, HostId string }
		if w.Code >= 400 {
			if err := xml.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Message == "" || e.RequestId == "" || e.HostId == "" {
				t.Errorf("%s: %v: %s", c.name, err, w.Body)
			}
		}
		if e.Code == "InvalidRequestURL" && !strings.Contains(e.Message, c.method+" "+c.target+" is not there") {
			t.Errorf("%s: not named: %s", c.name, e.Message)
		}
		if w.Code != c.status || e.Code != c.code {
			t.Errorf("%s: answered %d %s, want %d %s", c.name, w.Code, w.Body, c.status, c.code)
		}
		if location := w.Header().Get("Location"); (w.Code == 201 && c.method == "PUT") && location != "http://mns.example"+c.target {
			t.Errorf("%s: Location %q", c.name, location)
		}
		if c.name == "publish" && !strings.Contains(w.Body.String(), "<MessageBodyMD5>075C3D4AEB2D2F2D6A4C17C9D6DBBEBB</MessageBodyMD5>") {
			t.Errorf("published as %s", w.Body)
		}
	}
}

// TestAttributes looks for every attribute that Alibaba's SDK for Python requires.
func TestAttributes(t *testing.T) {
	t.Parallel()
	s := newService(t, mnsfake.Options{})
	s.subscribe(t, "<Endpoint>http://inbox.example/</Endpoint>")
	s.publish(t, "x")
	s.now = s.now.Add(time.Minute)
	s.must(t, 204, "PUT", "/topics/T?metaoverride=true", element("Topic", "<MaximumMessageSize>2048</MaximumMessageSize>"))
	s.must(t, 204, "PUT", "/topics/T/subscriptions/S?metaoverride=true", element("Subscription", "<NotifyStrategy>EXPONENTIAL_DECAY_RETRY</NotifyStrategy>"))
	for target, want := range map[string]string{
		"/topics/T": element("Topic", "<TopicName>T</TopicName><CreateTime>1795435200</CreateTime><LastModifyTime>1795435260</LastModifyTime>"+
			"<MessageRetentionPeriod>86400</MessageRetentionPeriod><MaximumMessageSize>2048</MaximumMessageSize><LoggingEnabled>False</LoggingEnabled><MessageCount>1</MessageCount>"),
		"/topics/T/subscriptions/S": element("Subscription", "<SubscriptionName>S</SubscriptionName><Subscriber>1000000000000000</Subscriber><TopicOwner>1000000000000000</TopicOwner><TopicName>T</TopicName>"+
			"<Endpoint>http://inbox.example/</Endpoint><NotifyStrategy>EXPONENTIAL_DECAY_RETRY</NotifyStrategy><NotifyContentFormat>XML</NotifyContentFormat><CreateTime>1795435200</CreateTime><LastModifyTime>1795435260</LastModifyTime>"),
	} {
		if diff := cmp.Diff(xml.Header+want, s.must(t, 200, "GET", target, "").Body.String()); diff != "" {
			t.Errorf("%s: %s", target, diff)
		}
	}
}

// TestCertificate gets it as a program does that verifies pushes.
func TestCertificate(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{512, 1024, 2048} {
		signer, err := mnsfake.NewSigner(bits)
		if err != nil {
			t.Fatal(err)
		}
		s, err := mnsfake.New(signer, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", mnsfake.CertificatePath, nil))
		block, _ := pem.Decode(w.Body.Bytes())
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil || certificate.PublicKey.(*rsa.PublicKey).N.BitLen() != bits {
			t.Fatalf("%d bits: answered %d %s: %v", bits, w.Code, w.Body, err)
		}
		r, err := signer.Push(&url.URL{Scheme: "http", Host: "inbox.example", Path: "/"}, mnsfake.FormatXML, &mnsfake.Notification{Message: "x"}, start)
		if err != nil {
			t.Fatal(err)
		}
		checkSignature(t, signer, r, bits)
		signature, _ := base64.StdEncoding.DecodeString(r.Header.Get("Authorization"))
		h := r.Header
		digest := sha1.Sum([]byte(strings.Join([]string{
			"POST", h.Get("Content-MD5"), h.Get("Content-Type"), h.Get("Date"), "x-mns-request-id:" + h.Get("x-mns-request-id"),
			"x-mns-signing-cert-url:" + h.Get("x-mns-signing-cert-url"), "x-mns-version:2015-06-06", "/",
		}, "\n")))
		if err := rsa.VerifyPKCS1v15(certificate.PublicKey.(*rsa.PublicKey), crypto.SHA1, digest[:], signature); (err == nil) != (bits > 512) {
			t.Errorf("%d bits: Go's verifier says %v", bits, err)
		}
	}
}

// TestHeaderCase reads a push as it is sent: recorded ones have most names of
// headers in lower case, and do not accept compressed answers.
func TestHeaderCase(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	signer, err := mnsfake.NewSigner(512)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{now: time.Now(), signer: signer}
	if s.Server, err = mnsfake.New(signer, nil); err != nil {
		t.Fatal(err)
	}
	s.subscribe(t, "<Endpoint>http://"+l.Addr().String()+"/</Endpoint><NotifyContentFormat>SIMPLIFIED</NotifyContentFormat>")
	s.publish(t, "x")
	go s.Deliver(t.Context())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var names []string
	for lines := bufio.NewScanner(conn); lines.Scan() && lines.Text() != ""; {
		name, _, _ := strings.Cut(lines.Text(), ":")
		names = append(names, name)
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
	slices.Sort(names[1:])
	want := []string{
		"Accept", "Authorization", "Content-Length", "Content-Type", "Content-md5", "Date", "Host", "User-Agent",
		"x-mns-message-id", "x-mns-publish-time", "x-mns-request-id", "x-mns-signing-cert-url", "x-mns-subscriber", "x-mns-subscription-name",
		"x-mns-topic-name", "x-mns-topic-owner", "x-mns-version",
	}
	if diff := cmp.Diff(want, names[1:]); diff != "" {
		t.Error(diff)
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	s := newService(t, mnsfake.Options{})
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	s.must(t, 201, "PUT", "/topics/T", element("Topic", ""))
	at := func(d time.Duration) edit { return edit{before: set("Date", start.Add(d).Format(http.TimeFormat))} }
	for name, c := range map[string]struct {
		edit   edit
		status int
		code   string
	}{
		"good":            {edit{}, 204, ""},
		"14_minutes_old":  {at(-14 * time.Minute), 204, ""},
		"16_minutes_old":  {at(-16 * time.Minute), 400, "TimeExpired"},
		"16_minutes_on":   {at(16 * time.Minute), 400, "TimeExpired"},
		"no_date":         {edit{before: func(r *http.Request) { r.Header.Del("Date") }}, 400, "InvalidDateHeader"},
		"no_version":      {edit{before: func(r *http.Request) { r.Header.Del("x-mns-version") }}, 400, "InvalidVersionHeader"},
		"not_signed":      {edit{after: func(r *http.Request) { r.Header.Del("Authorization") }}, 400, "InvalidAuthorizationHeader"},
		"other_scheme":    {edit{after: set("Authorization", "Basic local:x")}, 400, "InvalidAuthorizationHeader"},
		"other_key":       {edit{after: set("Authorization", "MNS other:x")}, 403, "InvalidAccessKeyId"},
		"other_signature": {edit{after: set("Authorization", "MNS local:x")}, 403, "SignatureDoesNotMatch"},
		"date_altered":    {edit{after: set("Date", start.Add(time.Second).Format(http.TimeFormat))}, 403, "SignatureDoesNotMatch"},
		"header_added":    {edit{after: set("x-mns-prefix", "T")}, 403, "SignatureDoesNotMatch"},
		"type_altered":    {edit{after: set("Content-Type", "text/plain")}, 403, "SignatureDoesNotMatch"},
		"query_altered":   {edit{after: func(r *http.Request) { r.RequestURI += "?metaoverride=true" }}, 403, "SignatureDoesNotMatch"},
		"body_swapped":    {edit{after: func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("<Topic/>")) }}, 400, "InvalidDigest"},
		"raw_digest":      {edit{before: set("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==")}, 400, "InvalidDigest"},
		"unasked_token":   {edit{before: set("security-token", "x")}, 403, "InvalidSecurityToken"},
	} {
		w := s.call("PUT", "/topics/T", element("Topic", ""), c.edit)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.code) {
			t.Errorf("%s: answered %d %s, want %d %s", name, w.Code, w.Body, c.status, c.code)
		}
	}
	sts := newService(t, mnsfake.Options{SecurityToken: "token"})
	if w := sts.call("GET", "/topics", "", edit{}); w.Code != 403 {
		t.Errorf("without the token: answered %d %s", w.Code, w.Body)
	}
	if w := sts.call("GET", "/topics", "", edit{before: set("security-token", "token")}); w.Code != 200 {
		t.Errorf("with the token: answered %d %s", w.Code, w.Body)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	s := newService(t, mnsfake.Options{})
	for _, name := range []string{"b", "c", "a3", "a1", "a2"} {
		s.must(t, 201, "PUT", "/topics/"+name, element("Topic", ""))
		s.must(t, 201, "PUT", "/topics/b/subscriptions/"+name, element("Subscription", "<Endpoint>http://inbox.example/</Endpoint>"))
	}
	type list struct {
		Topic        []struct{ TopicURL, TopicName string }
		Subscription []struct{ SubscriptionURL, Endpoint string }
		NextMarker   string
	}
	read := func(target string, headers ...string) list {
		t.Helper()
		w := s.call("GET", target, "", edit{before: func(r *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				if headers[i+1] != "" {
					r.Header.Set(headers[i], headers[i+1])
				}
			}
		}})
		var l list
		if err := xml.Unmarshal(w.Body.Bytes(), &l); err != nil || w.Code != 200 {
			t.Fatalf("%s: answered %d %s", target, w.Code, w.Body)
		}
		return l
	}
	for _, target := range []string{"/topics", "/topics/b/subscriptions"} {
		var got []string
		pages := 0
		for marker := ""; ; pages++ {
			l := read(target, "x-mns-ret-number", "2", "x-mns-prefix", "a", "x-mns-marker", marker)
			for _, item := range l.Topic {
				got = append(got, item.TopicURL)
			}
			for _, item := range l.Subscription {
				got = append(got, item.SubscriptionURL)
			}
			if marker = l.NextMarker; marker == "" {
				break
			}
		}
		base := "http://mns.example" + target + "/"
		if diff := cmp.Diff([]string{base + "a1", base + "a2", base + "a3"}, got); diff != "" || pages != 1 {
			t.Errorf("%s, %d further pages: %s", target, pages, diff)
		}
	}
	if l := read("/topics"); len(l.Topic) != 5 || l.Topic[0].TopicName != "" {
		t.Errorf("all topics are %v", l)
	}
	// SDKs that make an object of each element stumble over attributes within.
	if text := s.call("GET", "/topics", "", edit{before: func(r *http.Request) { r.Header.Set("x-mns-with-meta", "true") }}).Body.String(); strings.Count(text, "xmlns") != 1 {
		t.Errorf("not one namespace: %s", text)
	}
	if l := read("/topics", "x-mns-with-meta", "true"); l.Topic[0].TopicName != "a1" {
		t.Errorf("with meta: %v", l)
	}
	if l := read("/topics/b/subscriptions", "x-mns-with-meta", "true"); l.Subscription[0].Endpoint != "http://inbox.example/" {
		t.Errorf("with meta: %v", l)
	}
	for _, number := range []string{"0", "1001", "x"} {
		if w := s.call("GET", "/topics", "", edit{before: func(r *http.Request) { r.Header.Set("x-mns-ret-number", number) }}); w.Code != 400 {
			t.Errorf("number %s: answered %d", number, w.Code)
		}
	}
}

// checkSignature verifies a push as the documentation says, with nothing of the
// package but its certificate.
func checkSignature(t *testing.T, signer *mnsfake.Signer, r *http.Request, bits int) {
	t.Helper()
	address, err := base64.StdEncoding.DecodeString(r.Header.Get("x-mns-signing-cert-url"))
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("GET", string(address), nil)
	resp, err := signer.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := certificate.PublicKey.(*rsa.PublicKey)
	if key.N.BitLen() != bits {
		t.Fatalf("a key of %d bits", key.N.BitLen())
	}
	var names []string
	for name := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-mns-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	signed := r.Method + "\n" + r.Header.Get("Content-MD5") + "\n" + r.Header.Get("Content-Type") + "\n" + r.Header.Get("Date")
	for _, name := range names {
		signed += "\n" + name + ":" + r.Header.Get(name)
	}
	digest := sha1.Sum([]byte(signed + "\n" + r.URL.RequestURI()))
	signature, err := base64.StdEncoding.DecodeString(r.Header.Get("Authorization"))
	if err != nil || len(signature) != bits/8 {
		t.Fatalf("a signature of %d bytes: %v", len(signature), err)
	}
	m := new(big.Int).SetBytes(signature)
	got := m.Exp(m, big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, bits/8))
	tail := append([]byte("\x00\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14"), digest[:]...)
	want := append(append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, bits/8-2-len(tail))...), tail...)
	if !bytes.Equal(got, want) {
		t.Errorf("the signature is of %x, want %x", got, want)
	}
}

// messageID matches IDs such as F6EA56633844DBFC-1-154BDFB8059-200000004.
var messageID = regexp.MustCompile(`^[0-9A-F]{16}-1-[0-9A-F]{11}-2[0-9A-F]{8}$`).MatchString

func TestPushes(t *testing.T) {
	t.Parallel()
	const body = "I am test message 0. <&>"
	sum := md5.Sum([]byte(body))
	hexSum := fmt.Sprintf("%X", sum)
	for _, c := range []struct {
		format, contentType, digest string
		decode                      func(string, any) error
	}{
		{"XML", "text/xml;charset=utf-8", "hex64", func(s string, v any) error { return xml.Unmarshal([]byte(s), v) }},
		{"JSON", "application/json", "hex64", func(s string, v any) error { return json.Unmarshal([]byte(s), v) }},
		{"SIMPLIFIED", "text/plain;charset=utf-8", "hex", nil},
	} {
		s := newService(t, mnsfake.Options{})
		s.subscribe(t, "<Endpoint>http://inbox.example/mns/a%2Fb?token=1</Endpoint><NotifyContentFormat>"+c.format+"</NotifyContentFormat>")
		s.must(t, 201, "POST", "/topics/T/messages", element("Message", "<MessageBody>I am test message 0. &lt;&amp;&gt;</MessageBody><MessageTag>red</MessageTag>"))
		if _, more := s.Deliver(t.Context()); more || len(s.got) != 1 {
			t.Fatalf("%d pushes, more to come: %v", len(s.got), more)
		}
		r := s.got[0]
		checkSignature(t, s.signer, r, 512)
		pushed := md5.Sum([]byte(s.bodies[0]))
		digest := map[string]string{
			"hex":   fmt.Sprintf("%X", pushed),
			"hex64": base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%x", pushed)),
		}[c.digest]
		for name, want := range map[string]string{
			"User-Agent": "Aliyun Notification Service Agent", "x-mns-version": "2015-06-06",
			"Date": start.Format(http.TimeFormat), "Content-Type": c.contentType, "Content-MD5": digest,
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", c.format, name, got, want)
			}
		}
		if r.Method != "POST" || r.URL.RequestURI() != "/mns/a%2Fb?token=1" || r.Header.Get("x-mns-request-id") == "" {
			t.Errorf("%s: pushed as %s %s %v", c.format, r.Method, r.URL, r.Header)
		}
		got := map[string]string{}
		if c.format == "SIMPLIFIED" {
			for element, name := range map[string]string{
				"TopicOwner": "x-mns-topic-owner", "TopicName": "x-mns-topic-name", "Subscriber": "x-mns-subscriber",
				"SubscriptionName": "x-mns-subscription-name", "MessageId": "x-mns-message-id", "MessageTag": "x-mns-message-tag",
				"PublishTime": "x-mns-publish-time",
			} {
				got[element] = r.Header.Get(name)
			}
			got["MessageMD5"], got["Message"] = hexSum, s.bodies[0]
		} else {
			var n struct {
				TopicOwner, TopicName, Subscriber, SubscriptionName, MessageId, MessageMD5, MessageTag, Message, PublishTime string
			}
			if err := c.decode(s.bodies[0], &n); err != nil {
				t.Fatal(err)
			}
			got = map[string]string{
				"TopicOwner": n.TopicOwner, "TopicName": n.TopicName, "Subscriber": n.Subscriber, "SubscriptionName": n.SubscriptionName,
				"MessageId": n.MessageId, "MessageMD5": n.MessageMD5, "MessageTag": n.MessageTag, "Message": n.Message, "PublishTime": n.PublishTime,
			}
		}
		if !messageID(got["MessageId"]) {
			t.Errorf("%s: message ID %q", c.format, got["MessageId"])
		}
		delete(got, "MessageId")
		if diff := cmp.Diff(map[string]string{
			"TopicOwner": mnsfake.Owner, "TopicName": "T", "Subscriber": mnsfake.Owner, "SubscriptionName": "S",
			"MessageMD5": hexSum, "MessageTag": "red", "Message": body, "PublishTime": fmt.Sprint(start.UnixMilli()),
		}, got); diff != "" {
			t.Errorf("%s: %s", c.format, diff)
		}
	}
}

func TestEndpointWithoutPath(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"http://inbox.example":      "/notifications",
		"http://inbox.example?a=b":  "/notifications?a=b",
		"http://inbox.example/":     "/",
		"https://inbox.example/a/b": "/a/b",
	} {
		s := newService(t, mnsfake.Options{})
		s.subscribe(t, "<Endpoint>"+endpoint+"</Endpoint>")
		s.publish(t, "x")
		s.Deliver(t.Context())
		if len(s.got) != 1 || s.got[0].URL.RequestURI() != want {
			t.Errorf("%s: pushed %v, want to %s", endpoint, s.got, want)
			continue
		}
		checkSignature(t, s.signer, s.got[0], 512)
	}
}

func TestFilterTag(t *testing.T) {
	t.Parallel()
	s := newService(t, mnsfake.Options{})
	s.subscribe(t, "<Endpoint>http://inbox.example/</Endpoint><FilterTag>red</FilterTag>")
	for _, tag := range []string{"red", "Red", "redder", ""} {
		s.must(t, 201, "POST", "/topics/T/messages", element("Message", "<MessageBody>"+tag+"!</MessageBody><MessageTag>"+tag+"</MessageTag>"))
	}
	s.Deliver(t.Context())
	if len(s.got) != 1 || !strings.Contains(s.bodies[0], "<Message>red!</Message>") {
		t.Errorf("pushed %q", s.bodies)
	}
}

// TestRetries moves the clock from one attempt to the next.
func TestRetries(t *testing.T) {
	t.Parallel()
	for strategy, check := range map[string]func(t *testing.T, waits []time.Duration){
		"": func(t *testing.T, waits []time.Duration) {
			if len(waits) != 3 || slices.Min(waits) < 10*time.Second || slices.Max(waits) > 20*time.Second {
				t.Errorf("retried after %v", waits)
			}
		},
		"EXPONENTIAL_DECAY_RETRY": func(t *testing.T, waits []time.Duration) {
			var want []time.Duration
			for i := range 176 {
				want = append(want, min(time.Second<<min(i, 10), 512*time.Second))
			}
			if diff := cmp.Diff(want, waits); diff != "" {
				t.Error(diff)
			}
		},
	} {
		t.Run("strategy_"+strategy, func(t *testing.T) {
			t.Parallel()
			var pushes []mnsfake.Push
			s := newService(t, mnsfake.Options{OnPush: func(p mnsfake.Push) { pushes = append(pushes, p) }})
			s.subscribe(t, "<Endpoint>http://inbox.example/</Endpoint><NotifyStrategy>"+strategy+"</NotifyStrategy>")
			s.publish(t, "x")
			s.status = http.StatusFound
			var waits []time.Duration
			for {
				next, ok := s.Deliver(t.Context())
				if !ok {
					break
				}
				waits = append(waits, next.Sub(s.now))
				s.now = next
			}
			check(t, waits)
			if len(s.got) != len(waits)+1 || len(pushes) != len(s.got) {
				t.Errorf("%d pushes, %d told of", len(s.got), len(pushes))
			}
			first, last := pushes[0], pushes[len(pushes)-1]
			if first.MessageID != last.MessageID || first.Attempt != 1 || last.Attempt != len(pushes) || last.RetryIn != 0 || last.Done() {
				t.Errorf("the first push is %+v, the last %+v", first, last)
			}
			if a, b := s.got[0].Header, s.got[len(s.got)-1].Header; a.Get("x-mns-request-id") == b.Get("x-mns-request-id") || a.Get("Date") == b.Get("Date") {
				t.Error("a retry is the same request")
			}
		})
	}
}

func TestRetryIsTakenOnce(t *testing.T) {
	t.Parallel()
	s := newService(t, mnsfake.Options{})
	s.subscribe(t, "<Endpoint>http://inbox.example/</Endpoint>")
	s.publish(t, "x")
	s.status = http.StatusServiceUnavailable
	s.now, _ = s.Deliver(t.Context())
	s.status = http.StatusNoContent
	if _, more := s.Deliver(t.Context()); more || len(s.got) != 2 {
		t.Errorf("%d pushes, more to come: %v", len(s.got), more)
	}
}

func TestNothingIsPushedAfterTheEnd(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/topics/T", "/topics/T/subscriptions/S"} {
		s := newService(t, mnsfake.Options{})
		s.subscribe(t, "<Endpoint>http://inbox.example/</Endpoint>")
		s.publish(t, "x")
		s.must(t, 204, "DELETE", target, "")
		if _, more := s.Deliver(t.Context()); more || len(s.got) != 0 {
			t.Errorf("after DELETE %s: %d pushes, more to come: %v", target, len(s.got), more)
		}
	}
}

// TestRun pushes by itself: to an endpoint that answers while another one
// hangs, and nothing is left behind when it ends. The bubble fails if a
// goroutine is.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		signer, err := mnsfake.NewSigner(512)
		if err != nil {
			t.Fatal(err)
		}
		pushes := make(chan mnsfake.Push, 10)
		server, err := mnsfake.New(signer, &mnsfake.Options{
			Transport: roundtrip.Func(func(r *http.Request) (*http.Response, error) {
				if r.URL.Host == "hangs.example" {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
			}),
			OnPush: func(p mnsfake.Push) { pushes <- p },
		})
		if err != nil {
			t.Fatal(err)
		}
		s := &service{Server: server, now: time.Now()}
		s.subscribe(t, "<Endpoint>http://hangs.example/</Endpoint>")
		s.must(t, 201, "PUT", "/topics/T/subscriptions/T", element("Subscription", "<Endpoint>http://inbox.example/</Endpoint>"))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		synctest.Wait() // it waits for something to do
		s.publish(t, "x")
		began := time.Now()
		if p := <-pushes; !p.Done() || p.SubscriptionName != "T" || time.Since(began) != 0 {
			t.Errorf("the first answer is %+v after %v", p, time.Since(began))
		}
		if p := <-pushes; p.Status != 0 || !errors.Is(p.Err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second || p.RetryIn == 0 {
			t.Errorf("an endpoint that hangs: %+v after %v", p, time.Since(began))
		}
		if p := <-pushes; p.Attempt != 2 || time.Since(began) < 15*time.Second {
			t.Errorf("the retry is %+v after %v", p, time.Since(began))
		}
		time.Sleep(16 * time.Second) // in the middle of the third attempt, or before
		cancel()
		<-ended
	})
}

func TestSigner(t *testing.T) {
	t.Parallel()
	if _, err := mnsfake.New(nil, nil); err == nil {
		t.Error("made a server that cannot sign")
	}
	signer, err := mnsfake.NewSigner(512)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"http" + strings.TrimPrefix(mnsfake.CertificateURL, "https"), mnsfake.CertificateURL + "x", "https://example.com/"} {
		r, _ := http.NewRequest("GET", address, nil)
		if resp, err := signer.Transport().RoundTrip(r); err == nil {
			t.Errorf("%s: answered %d", address, resp.StatusCode)
		}
	}
}
