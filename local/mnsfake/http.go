package mnsfake

import (
	"cmp"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// namespace is that of every document, in both directions.
const namespace = "http://mns.aliyuncs.com/doc/v1/"

// maxPageSize is the most that one list returns.
const maxPageSize = 1000

// Error is an error as the service answers it.
type Error struct {
	XMLName   xml.Name `xml:"http://mns.aliyuncs.com/doc/v1/ Error"`
	Code      string
	Message   string
	RequestID string `xml:"RequestId"`
	HostID    string `xml:"HostId"`
	status    int
}

// Error returns the code and the message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

func refuse(status int, code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), status: status}
}

// answer is a success: a document, or none when body is nil.
type answer struct {
	status   int
	location string
	body     any
}

// ServeHTTP answers a call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requestID := newID(24)
	h := w.Header()
	h.Set("Content-Type", "text/xml;charset=utf-8")
	h.Set("X-Mns-Request-Id", requestID)
	h.Set("X-Mns-Version", apiVersion)
	a, err := s.serve(w, r)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			e = refuse(http.StatusInternalServerError, "InternalError", "%v", err)
		}
		e.RequestID, e.HostID = requestID, "http://"+r.Host
		a = answer{status: e.status, body: e}
	}
	if a.location != "" {
		h.Set("Location", a.location)
	}
	var body []byte
	if a.body != nil {
		if body, err = xml.Marshal(a.body); err != nil {
			panic(err) // a document of ours
		}
		body = append([]byte(xml.Header), body...)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a caller who went away
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) (answer, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4*maxMessageSize))
	if err != nil {
		return answer{}, refuse(http.StatusBadRequest, "InvalidArgument", "the body cannot be read, or is too large")
	}
	if err := s.authenticate(r, body); err != nil {
		return answer{}, err
	}
	call, run := s.call(r)
	if run == nil {
		return answer{}, refuse(http.StatusBadRequest, "InvalidRequestURL", "%s %s is no call", r.Method, r.URL.Path)
	}
	fault := s.o.Fault(call)
	if fault.Status != 0 && !fault.Lost {
		return answer{}, refuse(fault.Status, fault.Code, "as was asked for")
	}
	s.mu.Lock()
	a, err := run(r, body)
	s.mu.Unlock()
	if fault.Status != 0 {
		return answer{}, refuse(fault.Status, fault.Code, "as was asked for, after the call was carried out")
	}
	return a, err
}

// authenticate refuses a call that is not signed with the access key, or not
// now.
func (s *Server) authenticate(r *http.Request, body []byte) error {
	h := r.Header
	date, err := http.ParseTime(h.Get("Date"))
	id, signature, ok := strings.Cut(strings.TrimPrefix(h.Get("Authorization"), "MNS "), ":")
	switch {
	case h.Get("X-Mns-Version") != apiVersion:
		return refuse(http.StatusBadRequest, "InvalidVersionHeader", "x-mns-version must be %s", apiVersion)
	case err != nil:
		return refuse(http.StatusBadRequest, "InvalidDateHeader", "Date is missing, or no HTTP date")
	case date.Sub(s.o.Now()).Abs() > maxSkew:
		return refuse(http.StatusBadRequest, "TimeExpired", "Date is more than %v off", maxSkew)
	case !ok || !strings.HasPrefix(h.Get("Authorization"), "MNS "):
		return refuse(http.StatusBadRequest, "InvalidAuthorizationHeader", "Authorization is not MNS ID:SIGNATURE")
	case id != s.o.AccessKeyID:
		return refuse(http.StatusForbidden, "InvalidAccessKeyId", "there is no such access key here")
	case h.Get("Security-Token") != s.o.SecurityToken:
		return refuse(http.StatusForbidden, "InvalidSecurityToken", "the security token is missing, or another")
	}
	mac := hmac.New(sha1.New, []byte(s.o.AccessKeySecret))
	mac.Write([]byte(signedText(h, r.Method, r.RequestURI)))
	if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); !hmac.Equal([]byte(signature), []byte(want)) {
		return refuse(http.StatusForbidden, "SignatureDoesNotMatch", "the signature is not that of the request and the access key")
	}
	sum := md5.Sum(body)
	if digest := h.Get("Content-Md5"); digest != "" && digest != base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:]))) {
		return refuse(http.StatusBadRequest, "InvalidDigest", "Content-MD5 is not the base64 of the body's digest in hex")
	}
	return nil
}

// call finds out what is called. What it returns is run with s.mu held.
func (s *Server) call(r *http.Request) (Call, func(*http.Request, []byte) (answer, error)) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts[0] != "topics" || len(parts) > 4 {
		return Call{}, nil
	}
	var c Call
	if len(parts) > 1 {
		c.Topic = parts[1]
	}
	kind := ""
	if len(parts) > 2 {
		kind = "/" + parts[2]
	}
	if len(parts) > 3 {
		c.Subscription = parts[3]
		kind += "/"
	}
	over := ""
	if r.URL.Query().Get("metaoverride") == "true" {
		over = "!"
	}
	var run func(c Call, r *http.Request, body []byte) (answer, error)
	switch r.Method + over + " " + fmt.Sprint(len(parts)) + kind {
	case "PUT 2":
		c.Method, run = "CreateTopic", s.createTopic
	case "PUT! 2":
		c.Method, run = "SetTopicAttributes", s.setTopic
	case "GET 2":
		c.Method, run = "GetTopicAttributes", s.getTopic
	case "DELETE 2":
		c.Method, run = "DeleteTopic", s.deleteTopic
	case "GET 1":
		c.Method, run = "ListTopic", s.listTopics
	case "POST 3/messages":
		c.Method, run = "PublishMessage", s.publishMessage
	case "GET 3/subscriptions":
		c.Method, run = "ListSubscriptionByTopic", s.listSubscriptions
	case "PUT 4/subscriptions/":
		c.Method, run = "Subscribe", s.subscribe
	case "PUT! 4/subscriptions/":
		c.Method, run = "SetSubscriptionAttributes", s.setSubscription
	case "GET 4/subscriptions/":
		c.Method, run = "GetSubscriptionAttributes", s.getSubscription
	case "DELETE 4/subscriptions/":
		c.Method, run = "Unsubscribe", s.unsubscribe
	default:
		return Call{}, nil
	}
	return c, func(r *http.Request, body []byte) (answer, error) { return run(c, r, body) }
}

// topicBody is a topic as XML has it.
type topicBody struct {
	XMLName        xml.Name
	TopicURL       string `xml:",omitempty"`
	TopicName      string `xml:",omitempty"`
	CreateTime     int64  `xml:",omitempty"`
	LastModifyTime int64  `xml:",omitempty"`
	MaxMessageSize *int   `xml:"MaximumMessageSize"`
	MessageCount   *int
	LoggingEnabled *capitalBool
}

// capitalBool is written True or False, as the service does.
type capitalBool bool

func (b capitalBool) MarshalText() ([]byte, error) {
	if b {
		return []byte("True"), nil
	}
	return []byte("False"), nil
}

func (b *capitalBool) UnmarshalText(text []byte) error {
	v, err := strconv.ParseBool(strings.ToLower(string(text)))
	*b = capitalBool(v)
	return err
}

// subscriptionBody is a subscription as XML has it.
type subscriptionBody struct {
	XMLName             xml.Name
	SubscriptionURL     string `xml:",omitempty"`
	SubscriptionName    string `xml:",omitempty"`
	Subscriber          string `xml:",omitempty"`
	TopicOwner          string `xml:",omitempty"`
	TopicName           string `xml:",omitempty"`
	Endpoint            string `xml:",omitempty"`
	NotifyStrategy      string `xml:",omitempty"`
	NotifyContentFormat string `xml:",omitempty"`
	FilterTag           string `xml:",omitempty"`
	CreateTime          int64  `xml:",omitempty"`
	LastModifyTime      int64  `xml:",omitempty"`
}

// messageBody is a message as it is published, and the answer to that.
type messageBody struct {
	XMLName        xml.Name
	MessageBody    string `xml:",omitempty"`
	MessageTag     string `xml:",omitempty"`
	MessageID      string `xml:"MessageId,omitempty"`
	MessageBodyMD5 string `xml:",omitempty"`
}

// read decodes a document of this root into v, whose own XMLName root is; no
// document at all is an empty one.
func read(body []byte, v any, root *xml.Name, want string) error {
	if len(body) == 0 {
		return nil
	}
	if err := xml.Unmarshal(body, v); err != nil {
		return refuse(http.StatusBadRequest, "MalformedXML", "the body is no XML: %v", err)
	}
	if root.Space != namespace || root.Local != want {
		return refuse(http.StatusBadRequest, "MalformedXML", "the document is no %s in the namespace %s", want, namespace)
	}
	return nil
}

func (s *Server) topic(name string) (*topic, error) {
	if t := s.topics[name]; t != nil {
		return t, nil
	}
	return nil, refuse(http.StatusNotFound, "TopicNotExist", "The topic name you provided is not exist.")
}

func (s *Server) subscription(c Call) (*subscription, error) {
	t, err := s.topic(c.Topic)
	if err != nil {
		return nil, err
	}
	if sub := t.subscriptions[c.Subscription]; sub != nil {
		return sub, nil
	}
	return nil, refuse(http.StatusNotFound, "SubscriptionNotExist", "The subscription name you provided is not exist.")
}

// readTopic returns the attributes that a body gives, on top of those there are.
func readTopic(body []byte, a topicAttributes) (topicAttributes, error) {
	var b topicBody
	if err := read(body, &b, &b.XMLName, "Topic"); err != nil {
		return a, err
	}
	if b.MaxMessageSize != nil {
		a.maxMessageSize = *b.MaxMessageSize
	}
	if b.LoggingEnabled != nil {
		a.logging = bool(*b.LoggingEnabled)
	}
	if a.maxMessageSize < minMessageSize || a.maxMessageSize > maxMessageSize {
		return a, refuse(http.StatusBadRequest, "InvalidArgument", "MaximumMessageSize must be %d to %d", minMessageSize, maxMessageSize)
	}
	return a, nil
}

func (s *Server) createTopic(c Call, r *http.Request, body []byte) (answer, error) {
	if !validName(c.Topic) {
		return answer{}, refuse(http.StatusBadRequest, "TopicNameInvalid", "a topic's name is 1 to %d letters, digits and hyphens", maxNameSize)
	}
	a, err := readTopic(body, topicAttributes{maxMessageSize: maxMessageSize})
	if err != nil {
		return answer{}, err
	}
	location := base(r) + "/topics/" + c.Topic
	if t := s.topics[c.Topic]; t != nil {
		if t.topicAttributes != a {
			return answer{}, refuse(http.StatusConflict, "TopicAlreadyExist", "The topic you want to create is already exist.")
		}
		return answer{status: http.StatusNoContent, location: location}, nil
	}
	now := s.o.Now()
	s.topics[c.Topic] = &topic{topicAttributes: a, name: c.Topic, created: now, modified: now, subscriptions: make(map[string]*subscription)}
	return answer{status: http.StatusCreated, location: location}, nil
}

func (s *Server) setTopic(c Call, _ *http.Request, body []byte) (answer, error) {
	t, err := s.topic(c.Topic)
	if err != nil {
		return answer{}, err
	}
	a, err := readTopic(body, t.topicAttributes)
	if err != nil {
		return answer{}, err
	}
	t.topicAttributes, t.modified = a, s.o.Now()
	return answer{status: http.StatusNoContent}, nil
}

func (s *Server) getTopic(c Call, _ *http.Request, _ []byte) (answer, error) {
	t, err := s.topic(c.Topic)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: t.body("")}, nil
}

// body returns the topic as the service shows it, with its address in lists.
func (t *topic) body(address string) topicBody {
	logging := capitalBool(t.logging)
	return topicBody{
		XMLName:  xml.Name{Space: namespace, Local: "Topic"},
		TopicURL: address, TopicName: t.name, CreateTime: t.created.Unix(), LastModifyTime: t.modified.Unix(),
		MaxMessageSize: &t.maxMessageSize, MessageCount: &t.messages, LoggingEnabled: &logging,
	}
}

func (s *Server) deleteTopic(c Call, _ *http.Request, _ []byte) (answer, error) {
	t, err := s.topic(c.Topic)
	if err != nil {
		return answer{}, err
	}
	for _, sub := range t.subscriptions {
		sub.gone = true
	}
	delete(s.topics, c.Topic)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Server) listTopics(_ Call, r *http.Request, _ []byte) (answer, error) {
	names, next, err := page(r, slices.Sorted(maps.Keys(s.topics)))
	if err != nil {
		return answer{}, err
	}
	list := struct {
		XMLName    xml.Name    `xml:"http://mns.aliyuncs.com/doc/v1/ Topics"`
		Topics     []topicBody `xml:"Topic"`
		NextMarker string      `xml:",omitempty"`
	}{NextMarker: next}
	for _, name := range names {
		address := base(r) + "/topics/" + name
		item := topicBody{TopicURL: address}
		if r.Header.Get("X-Mns-With-Meta") == "true" {
			item = s.topics[name].body(address)
		}
		list.Topics = append(list.Topics, item)
	}
	return answer{status: http.StatusOK, body: list}, nil
}

func (s *Server) listSubscriptions(c Call, r *http.Request, _ []byte) (answer, error) {
	t, err := s.topic(c.Topic)
	if err != nil {
		return answer{}, err
	}
	names, next, err := page(r, slices.Sorted(maps.Keys(t.subscriptions)))
	if err != nil {
		return answer{}, err
	}
	list := struct {
		XMLName       xml.Name           `xml:"http://mns.aliyuncs.com/doc/v1/ Subscriptions"`
		Subscriptions []subscriptionBody `xml:"Subscription"`
		NextMarker    string             `xml:",omitempty"`
	}{NextMarker: next}
	for _, name := range names {
		item := subscriptionBody{}
		if r.Header.Get("X-Mns-With-Meta") == "true" {
			item = s.body(t.subscriptions[name])
		}
		item.SubscriptionURL = base(r) + "/topics/" + t.name + "/subscriptions/" + name
		list.Subscriptions = append(list.Subscriptions, item)
	}
	return answer{status: http.StatusOK, body: list}, nil
}

// page returns the names that a list is asked for, and where the next one
// begins.
func page(r *http.Request, names []string) (_ []string, next string, err error) {
	number := maxPageSize
	if n := r.Header.Get("X-Mns-Ret-Number"); n != "" {
		if number, err = strconv.Atoi(n); err != nil || number < 1 || number > maxPageSize {
			return nil, "", refuse(http.StatusBadRequest, "InvalidArgument", "x-mns-ret-number must be 1 to %d", maxPageSize)
		}
	}
	prefix, marker := r.Header.Get("X-Mns-Prefix"), r.Header.Get("X-Mns-Marker")
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) || name < marker })
	if len(names) > number {
		names, next = names[:number], names[number]
	}
	return names, next, nil
}

// readSubscription returns the attributes that a body gives, with the service's
// defaults.
func readSubscription(body []byte) (subscriptionAttributes, error) {
	var b subscriptionBody
	if err := read(body, &b, &b.XMLName, "Subscription"); err != nil {
		return subscriptionAttributes{}, err
	}
	a := subscriptionAttributes{
		endpoint: b.Endpoint, tag: b.FilterTag,
		strategy: cmp.Or(b.NotifyStrategy, BackoffRetry), format: cmp.Or(b.NotifyContentFormat, FormatXML),
	}
	switch {
	case a.strategy != BackoffRetry && a.strategy != DecayRetry:
		return a, refuse(http.StatusBadRequest, "InvalidArgument", "NotifyStrategy must be %s or %s", BackoffRetry, DecayRetry)
	case a.format != FormatXML && a.format != FormatJSON && a.format != FormatSimplified:
		return a, refuse(http.StatusBadRequest, "InvalidArgument", "NotifyContentFormat must be %s, %s or %s", FormatXML, FormatJSON, FormatSimplified)
	case utf8.RuneCountInString(a.tag) > maxTagSize:
		return a, refuse(http.StatusBadRequest, "InvalidArgument", "FilterTag is over %d characters", maxTagSize)
	}
	return a, nil
}

func (s *Server) subscribe(c Call, r *http.Request, body []byte) (answer, error) {
	t, err := s.topic(c.Topic)
	if err != nil {
		return answer{}, err
	}
	if !validName(c.Subscription) {
		return answer{}, refuse(http.StatusBadRequest, "SubscriptionNameInvalid", "a subscription's name is 1 to %d letters, digits and hyphens", maxNameSize)
	}
	a, err := readSubscription(body)
	if err != nil {
		return answer{}, err
	}
	if _, ok := pushAddress(a.endpoint); !ok {
		return answer{}, refuse(http.StatusBadRequest, "EndpointInvalid", "the stand-in pushes to http and https addresses only")
	}
	location := base(r) + "/topics/" + c.Topic + "/subscriptions/" + c.Subscription
	if sub := t.subscriptions[c.Subscription]; sub != nil {
		if sub.subscriptionAttributes != a {
			return answer{}, refuse(http.StatusConflict, "SubscriptionAlreadyExist", "The subscription you want to create is already exist.")
		}
		return answer{status: http.StatusNoContent, location: location}, nil
	}
	now := s.o.Now()
	t.subscriptions[c.Subscription] = &subscription{subscriptionAttributes: a, name: c.Subscription, topic: t, created: now, modified: now}
	return answer{status: http.StatusCreated, location: location}, nil
}

func (s *Server) setSubscription(c Call, _ *http.Request, body []byte) (answer, error) {
	sub, err := s.subscription(c)
	if err != nil {
		return answer{}, err
	}
	a, err := readSubscription(body)
	if err != nil {
		return answer{}, err
	}
	sub.strategy, sub.modified = a.strategy, s.o.Now()
	return answer{status: http.StatusNoContent}, nil
}

func (s *Server) getSubscription(c Call, _ *http.Request, _ []byte) (answer, error) {
	sub, err := s.subscription(c)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: s.body(sub)}, nil
}

// body returns the subscription as the service shows it.
func (s *Server) body(sub *subscription) subscriptionBody {
	return subscriptionBody{
		XMLName:          xml.Name{Space: namespace, Local: "Subscription"},
		SubscriptionName: sub.name, Subscriber: s.o.Owner, TopicOwner: s.o.Owner, TopicName: sub.topic.name,
		Endpoint: sub.endpoint, NotifyStrategy: sub.strategy, NotifyContentFormat: sub.format, FilterTag: sub.tag,
		CreateTime: sub.created.Unix(), LastModifyTime: sub.modified.Unix(),
	}
}

func (s *Server) unsubscribe(c Call, _ *http.Request, _ []byte) (answer, error) {
	sub, err := s.subscription(c)
	if err != nil {
		return answer{}, err
	}
	sub.gone = true
	delete(sub.topic.subscriptions, c.Subscription)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Server) publishMessage(c Call, _ *http.Request, body []byte) (answer, error) {
	t, err := s.topic(c.Topic)
	if err != nil {
		return answer{}, err
	}
	var m messageBody
	if err := read(body, &m, &m.XMLName, "Message"); err != nil {
		return answer{}, err
	}
	switch {
	case m.MessageBody == "":
		return answer{}, refuse(http.StatusBadRequest, "InvalidArgument", "MessageBody is missing or empty")
	case len(m.MessageBody) > t.maxMessageSize:
		return answer{}, refuse(http.StatusBadRequest, "InvalidArgument", "MessageBody is over the topic's %d bytes", t.maxMessageSize)
	case utf8.RuneCountInString(m.MessageTag) > maxTagSize:
		return answer{}, refuse(http.StatusBadRequest, "InvalidArgument", "MessageTag is over %d characters", maxTagSize)
	}
	sum := md5.Sum([]byte(m.MessageBody))
	digest := strings.ToUpper(hex.EncodeToString(sum[:]))
	return answer{status: http.StatusCreated, body: messageBody{
		XMLName:   xml.Name{Space: namespace, Local: "Message"},
		MessageID: s.publish(t, m.MessageBody, m.MessageTag, digest), MessageBodyMD5: digest,
	}}, nil
}

// base returns the address that the client uses as its endpoint.
func base(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return "http://" + r.Host + strings.TrimSuffix(path, r.URL.Path)
}
