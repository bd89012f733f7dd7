// Package mnsclient calls Alibaba Cloud's MNS (SMQ) to create and delete topics
// and subscriptions, to list them and to publish. Only the command line uses it:
// no function calls MNS.
package mnsclient

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/pushinbox/shared/mns"
)

const (
	// callTimeout is the longest that one call may take, with its answer.
	callTimeout = 30 * time.Second
	// maxAnswer is the largest answer, in bytes. A page of topics has about 50 KB.
	maxAnswer = 1 << 20
	// pageSize is the number of topics or subscriptions in one page of a list.
	pageSize = 100
	// namespace is the XML namespace of every document of MNS.
	namespace   = "http://mns.aliyuncs.com/doc/v1/"
	contentType = "text/xml;charset=UTF-8"
)

// Refusals that a caller may treat as a success; tell them apart with errors.Is. The
// error itself is an *APIError.
var (
	ErrTopicExists         = errors.New("mnsclient: the topic exists with other attributes")
	ErrTopicMissing        = errors.New("mnsclient: the topic does not exist")
	ErrSubscriptionExists  = errors.New("mnsclient: the subscription exists with other attributes")
	ErrSubscriptionMissing = errors.New("mnsclient: the subscription does not exist")
)

// APIError is an error that MNS answered.
type APIError struct {
	// Status is the answer's HTTP status.
	Status int
	// Code is MNS's name of the reason, such as AccessDenied. It is empty when the
	// answer does not come from MNS.
	Code string
	// Message is MNS's explanation, and RequestID its ID of the call.
	Message   string
	RequestID string
}

// Error returns all fields in one line.
func (e *APIError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("mnsclient: the endpoint answered %d without an error of MNS; check that it is an MNS endpoint", e.Status)
	}
	return fmt.Sprintf("mnsclient: %s: %q (status %d, request %s)", e.Code, e.Message, e.Status, e.RequestID)
}

// Is reports whether target is the Err variable of e's code.
func (e *APIError) Is(target error) bool {
	switch e.Code {
	case "TopicAlreadyExist":
		return target == ErrTopicExists
	case "TopicNotExist":
		return target == ErrTopicMissing
	case "SubscriptionAlreadyExist":
		return target == ErrSubscriptionExists
	case "SubscriptionNotExist":
		return target == ErrSubscriptionMissing
	}
	return false
}

// Credentials is an AccessKey of Alibaba Cloud.
type Credentials struct {
	ID     string
	Secret string
	// Token is the security token of temporary credentials (STS), or empty.
	Token string
}

// String returns the ID without the secret and the token, so that no log has them.
func (c Credentials) String() string { return "mnsclient.Credentials(" + c.ID + ")" }

// GoString does the same for %#v.
func (c Credentials) GoString() string { return c.String() }

// ClientOptions holds NewClient's optional settings.
type ClientOptions struct {
	// Transport sends the calls; nil means http.DefaultTransport.
	Transport http.RoundTripper
	// Now is the clock of the signatures, which are valid for 15 minutes; nil means
	// time.Now.
	Now func() time.Time
}

// Client sends MNS's calls for topics. A call is sent once, follows no redirect and
// ends within 30 seconds. A Client is safe for concurrent use.
type Client struct {
	endpoint    *url.URL
	credentials Credentials
	transport   http.RoundTripper
	now         func() time.Time
}

// NewClient returns a client for an endpoint such as
// https://ACCOUNT.mns.cn-hangzhou.aliyuncs.com. The endpoint of a
// stand-in on this machine may be http and have a path. A nil o means no options.
func NewClient(endpoint string, c Credentials, o *ClientOptions) (*Client, error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("mnsclient: the endpoint is not a valid URL such as https://ACCOUNT.mns.REGION.aliyuncs.com")
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		return nil, errors.New("mnsclient: the endpoint must be https, except on this machine")
	case c.ID == "" || c.Secret == "":
		return nil, errors.New("mnsclient: the AccessKey ID and its secret are required")
	case strings.ContainsFunc(c.ID+c.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, errors.New("mnsclient: the AccessKey ID or the security token has spaces or non-ASCII characters; remove them")
	}
	if o == nil {
		o = &ClientOptions{}
	}
	client := &Client{u.JoinPath("/"), c, o.Transport, o.Now}
	if client.transport == nil {
		client.transport = http.DefaultTransport
	}
	if client.now == nil {
		client.now = time.Now
	}
	return client, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// TopicAttributes are the attributes of a topic that a caller chooses.
type TopicAttributes struct {
	// MaxMessageSize is the largest message, in bytes; 0 means MNS's default.
	MaxMessageSize int
	// Logging makes MNS write a log of the topic's messages.
	Logging bool
}

// Topic is a topic in a list.
type Topic struct {
	Name string
	// Messages is the number of messages that MNS holds at the moment.
	Messages int
	// MaxMessageSize is the largest message, in bytes.
	MaxMessageSize int
}

// nameOf returns name or, where a list has no attributes, the last part of the
// address.
func nameOf(name, address string) string {
	if name == "" {
		name = address[strings.LastIndexByte(address, '/')+1:]
	}
	return name
}

// CreateTopic creates a topic and reports whether it is new. It is not when a
// topic with the same name and attributes exists; one with other attributes is
// ErrTopicExists.
func (c *Client) CreateTopic(ctx context.Context, topic string, a TopicAttributes) (created bool, err error) {
	path, err := topicPath(topic)
	if err != nil {
		return false, err
	}
	logging := "False"
	if a.Logging {
		logging = "True"
	}
	status, err := c.call(ctx, call{method: http.MethodPut, path: path, body: struct {
		XMLName            xml.Name `xml:"Topic"`
		Namespace          string   `xml:"xmlns,attr"`
		MaximumMessageSize int      `xml:",omitempty"`
		LoggingEnabled     string
	}{Namespace: namespace, MaximumMessageSize: a.MaxMessageSize, LoggingEnabled: logging}})
	return status == http.StatusCreated, err
}

// DeleteTopic deletes a topic with its subscriptions, or fails with
// ErrTopicMissing.
func (c *Client) DeleteTopic(ctx context.Context, topic string) error {
	path, err := topicPath(topic)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, call{method: http.MethodDelete, path: path})
	return err
}

// ListTopics yields the topics whose names begin with prefix, by name. When a call
// fails, it yields that error last.
func (c *Client) ListTopics(ctx context.Context, prefix string) iter.Seq2[Topic, error] {
	return func(yield func(Topic, error) bool) {
		page := func(marker string) ([]Topic, string, error) {
			var list struct {
				XMLName xml.Name `xml:"Topics"`
				Topics  []struct {
					TopicURL, TopicName              string
					MessageCount, MaximumMessageSize int
				} `xml:"Topic"`
				NextMarker string
			}
			_, err := c.call(ctx, call{method: http.MethodGet, path: "topics", header: paging(marker, prefix), answer: &list})
			var topics []Topic
			for _, t := range list.Topics {
				topics = append(topics, Topic{nameOf(t.TopicName, t.TopicURL), t.MessageCount, t.MaximumMessageSize})
			}
			return topics, list.NextMarker, err
		}
		pages(page, yield)
	}
}

// Strategy is how MNS retries a push that was not acknowledged.
type Strategy string

const (
	// BackoffRetry retries three times, each after 10 to 20 seconds. It is MNS's
	// default.
	BackoffRetry Strategy = "BACKOFF_RETRY"
	// ExponentialDecayRetry retries 176 times, which takes about a day.
	ExponentialDecayRetry Strategy = "EXPONENTIAL_DECAY_RETRY"
)

// Subscription pushes a topic's messages to an endpoint.
type Subscription struct {
	Name string
	// Endpoint is the address to push to, such as https://HOST/PATH. Without a path
	// MNS pushes to /notifications.
	Endpoint string
	// FilterTag, when set, is the tag that messages must have. It has at most 16
	// characters.
	FilterTag string
	// Strategy and Format are MNS's defaults when empty: BackoffRetry and XML.
	Strategy Strategy
	Format   mns.Format
}

type subscriptionXML struct {
	XMLName             xml.Name   `xml:"Subscription"`
	Namespace           string     `xml:"xmlns,attr,omitempty"`
	SubscriptionURL     string     `xml:",omitempty"`
	SubscriptionName    string     `xml:",omitempty"`
	Endpoint            string     `xml:",omitempty"`
	FilterTag           string     `xml:",omitempty"`
	NotifyStrategy      Strategy   `xml:",omitempty"`
	NotifyContentFormat mns.Format `xml:",omitempty"`
}

// Subscribe creates the subscription s of a topic and reports whether it is new. It
// is not when a subscription with the same name and attributes exists; one with
// other attributes is ErrSubscriptionExists. Without the topic it fails with
// ErrTopicMissing.
func (c *Client) Subscribe(ctx context.Context, topic string, s Subscription) (created bool, err error) {
	path, err := subscriptionPath(topic, s.Name)
	if err != nil {
		return false, err
	}
	status, err := c.call(ctx, call{method: http.MethodPut, path: path, body: subscriptionXML{
		Namespace: namespace, Endpoint: s.Endpoint, FilterTag: s.FilterTag,
		NotifyStrategy: s.Strategy, NotifyContentFormat: s.Format,
	}})
	return status == http.StatusCreated, err
}

// Unsubscribe deletes a subscription, or fails with ErrSubscriptionMissing or
// ErrTopicMissing.
func (c *Client) Unsubscribe(ctx context.Context, topic, subscription string) error {
	path, err := subscriptionPath(topic, subscription)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, call{method: http.MethodDelete, path: path})
	return err
}

// ListSubscriptions yields the subscriptions of a topic, by name. MNS may leave out
// everything but their names. When a call fails, it yields that error last, such as
// ErrTopicMissing.
func (c *Client) ListSubscriptions(ctx context.Context, topic string) iter.Seq2[Subscription, error] {
	return func(yield func(Subscription, error) bool) {
		path, err := topicPath(topic)
		if err != nil {
			yield(Subscription{}, err)
			return
		}
		page := func(marker string) ([]Subscription, string, error) {
			var list struct {
				XMLName       xml.Name          `xml:"Subscriptions"`
				Subscriptions []subscriptionXML `xml:"Subscription"`
				NextMarker    string
			}
			_, err := c.call(ctx, call{method: http.MethodGet, path: path + "/subscriptions", header: paging(marker, ""), answer: &list})
			var subscriptions []Subscription
			for _, s := range list.Subscriptions {
				subscriptions = append(subscriptions, Subscription{
					nameOf(s.SubscriptionName, s.SubscriptionURL), s.Endpoint, s.FilterTag, s.NotifyStrategy, s.NotifyContentFormat,
				})
			}
			return subscriptions, list.NextMarker, err
		}
		pages(page, yield)
	}
}

// Message is a message to publish.
type Message struct {
	Body []byte
	// Tag, when set, is compared with the subscriptions' FilterTag.
	Tag string
	// Encoding is how the body is sent. A Raw body must be text without characters
	// that XML cannot hold; a Base64 body may be any bytes.
	Encoding mns.Encoding
}

// Published is MNS's receipt of a message.
type Published struct {
	MessageID string
	// BodyMD5 is the MD5 of the encoded body, in upper-case hex.
	BodyMD5 string
}

// Publish publishes m to a topic, or fails with ErrTopicMissing. It also fails when
// the MD5 in MNS's answer is not that of m. After that, or after a timeout, the
// message may have been published, and publishing it again may publish it twice.
func (c *Client) Publish(ctx context.Context, topic string, m Message) (Published, error) {
	path, err := topicPath(topic)
	if err != nil {
		return Published{}, err
	}
	body := string(m.Body)
	if m.Encoding == mns.Base64 {
		body = base64.StdEncoding.EncodeToString(m.Body)
	}
	if !isXMLText(body) || !isXMLText(m.Tag) {
		return Published{}, errors.New("mnsclient: the message has bytes that XML cannot hold; publish it in base64")
	}
	var receipt struct {
		XMLName        xml.Name `xml:"Message"`
		MessageId      string
		MessageBodyMD5 string
	}
	_, err = c.call(ctx, call{method: http.MethodPost, path: path + "/messages", body: struct {
		XMLName     xml.Name `xml:"Message"`
		Namespace   string   `xml:"xmlns,attr"`
		MessageBody string
		MessageTag  string `xml:",omitempty"`
	}{Namespace: namespace, MessageBody: body, MessageTag: m.Tag}, answer: &receipt})
	if err == nil && !strings.EqualFold(receipt.MessageBodyMD5, md5Hex([]byte(body))) {
		err = errors.New("mnsclient: the MD5 in MNS's answer is not that of the message; publishing again may publish it twice")
	}
	return Published{receipt.MessageId, receipt.MessageBodyMD5}, err
}

// isXMLText reports whether XML can hold s as it is (XML 1.0, section 2.2).
func isXMLText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
	})
}

func paging(marker, prefix string) http.Header {
	h := http.Header{"X-Mns-Ret-Number": {strconv.Itoa(pageSize)}, "X-Mns-With-Meta": {"true"}}
	if marker != "" {
		h.Set("X-Mns-Marker", marker)
	}
	if prefix != "" {
		h.Set("X-Mns-Prefix", prefix)
	}
	return h
}

// pages yields the items of all pages.
func pages[T any](page func(marker string) ([]T, string, error), yield func(T, error) bool) {
	for marker := ""; ; {
		items, next, err := page(marker)
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
		// A page that names itself as the next one would never end.
		if next == "" || next == marker {
			return
		}
		marker = next
	}
}

func topicPath(topic string) (string, error) {
	if !isName(topic) {
		return "", fmt.Errorf("mnsclient: %q is not a valid topic name, which is 1 to 256 letters, digits and hyphens", topic)
	}
	return "topics/" + topic, nil
}

func subscriptionPath(topic, subscription string) (string, error) {
	path, err := topicPath(topic)
	if err == nil && !isName(subscription) {
		err = fmt.Errorf("mnsclient: %q is not a valid subscription name, which is 1 to 256 letters, digits and hyphens", subscription)
	}
	return path + "/subscriptions/" + subscription, err
}

// isName matches the names of topics and subscriptions, which need no escaping in a
// path.
var isName = regexp.MustCompile(`^[A-Za-z0-9-]{1,256}$`).MatchString

// call is one request. path is relative to the endpoint. body and answer are XML,
// or nil.
type call struct {
	method, path string
	header       http.Header
	body, answer any
}

// call sends a call and returns the status of a successful answer. Any other answer
// is an *APIError.
func (c *Client) call(ctx context.Context, a call) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.request(ctx, a)
	if err != nil {
		return 0, err
	}
	resp, err := c.transport.RoundTrip(r) // follows no redirects
	if err != nil {
		return 0, fmt.Errorf("mnsclient: %s %s: %w", a.method, a.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, fmt.Errorf("mnsclient: the answer ended early: %w", err)
	}
	if len(body) > maxAnswer {
		return 0, fmt.Errorf("mnsclient: the answer is over %d bytes", maxAnswer)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return 0, refusal(resp.StatusCode, body)
	}
	if a.answer != nil {
		if err := xml.Unmarshal(body, a.answer); err != nil {
			return 0, fmt.Errorf("mnsclient: the answer is not the expected XML: %w", err)
		}
	}
	return resp.StatusCode, nil
}

func refusal(status int, body []byte) error {
	var e struct {
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		RequestId string
	}
	if err := xml.Unmarshal(body, &e); err != nil {
		return &APIError{Status: status}
	}
	return &APIError{status, e.Code, e.Message, e.RequestId}
}

// request returns the signed request of a call.
func (c *Client) request(ctx context.Context, a call) (*http.Request, error) {
	var body []byte
	if a.body != nil {
		var err error
		if body, err = xml.Marshal(a.body); err != nil {
			return nil, fmt.Errorf("mnsclient: %w", err)
		}
		body = append([]byte(xml.Header), body...)
	}
	r, err := http.NewRequestWithContext(ctx, a.method, c.endpoint.String()+a.path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("mnsclient: %w", err)
	}
	for name, values := range a.header {
		r.Header[name] = values
	}
	r.Header.Set("Date", c.now().UTC().Format(http.TimeFormat))
	r.Header.Set("X-Mns-Version", mns.APIVersion)
	if body != nil {
		// In calls, Content-MD5 is the base64 of the hex digits, not of the 16 bytes.
		r.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString([]byte(md5Hex(body))))
		r.Header.Set("Content-Type", contentType)
	}
	if c.credentials.Token != "" {
		r.Header.Set("Security-Token", c.credentials.Token)
	}
	mac := hmac.New(sha1.New, []byte(c.credentials.Secret))
	mac.Write([]byte(mns.SignedText(r.Method, r.Header, r.URL.RequestURI())))
	r.Header.Set("Authorization", "MNS "+c.credentials.ID+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return r, nil
}

func md5Hex(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}
