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
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// namespace is the XML namespace of every answer. Some SDKs leave it out of what
// they send.
const namespace = "http://mns.aliyuncs.com/doc/v1/"

// maxPageSize is the largest number of items in one page of a list.
const maxPageSize = 1000

// refusal is an error as the service answers it.
type refusal struct {
	XMLName   xml.Name `xml:"http://mns.aliyuncs.com/doc/v1/ Error"`
	Code      string
	Message   string
	RequestID string `xml:"RequestId"`
	HostID    string `xml:"HostId"`
	status    int
}

func (e *refusal) Error() string { return e.Code + ": " + e.Message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{Code: code, Message: fmt.Sprintf(format, args...), status: status}
}

func invalid(format string, args ...any) error {
	return refuse(http.StatusBadRequest, "InvalidArgument", format, args...)
}

// answer is a success: a document, or none when body is nil.
type answer struct {
	status   int
	location string
	body     any
}

// call is one call of the API. It runs with s.mu held.
type call func(*http.Request, []byte) (answer, error)

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	for pattern, c := range map[string]call{
		"PUT /topics/{topic}":                                 s.createTopic,
		"GET /topics/{topic}":                                 s.topicAttributes,
		"DELETE /topics/{topic}":                              s.deleteTopic,
		"GET /topics":                                         s.listTopics,
		"POST /topics/{topic}/messages":                       s.publishMessage,
		"GET /topics/{topic}/subscriptions":                   s.listSubscriptions,
		"PUT /topics/{topic}/subscriptions/{subscription}":    s.subscribe,
		"GET /topics/{topic}/subscriptions/{subscription}":    s.subscriptionAttributes,
		"DELETE /topics/{topic}/subscriptions/{subscription}": s.unsubscribe,
		"/": absent,
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, c) })
	}
	s.mux.HandleFunc("GET "+CertificatePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", certificateType)
		_, _ = w.Write(s.signer.key.Certificate) // fails when the caller has gone away
	})
}

// overrides reports whether a PUT changes the attributes of what exists.
func overrides(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.RawQuery == "metaoverride=true"
}

// absent names what the service has and the stand-in does not.
func absent(r *http.Request, _ []byte) (answer, error) {
	what := "no such call"
	switch {
	case strings.HasPrefix(r.URL.Path, "/queues"):
		what = "topics and no queues"
	case r.URL.Path == "/" && r.URL.Query().Has("accountmeta"):
		what = "no attributes of an account"
	}
	return answer{}, refuse(http.StatusBadRequest, "InvalidRequestURL", "this stand-in has %s: %s %s is not there", what, r.Method, r.URL.RequestURI())
}

// ServeHTTP answers a call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if path.Clean(r.URL.Path) != r.URL.Path { // which the mux would redirect
		s.serve(w, r, absent)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, c call) {
	requestID := newRequestID()
	h := w.Header()
	h.Set("Content-Type", "text/xml;charset=utf-8")
	h.Set("X-Mns-Request-Id", requestID)
	h.Set("X-Mns-Version", apiVersion)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4*maxMessageSize))
	if err != nil {
		err = invalid("the body is over %d bytes, or ended early", 4*maxMessageSize)
	} else {
		err = s.authenticate(r, body)
	}
	var a answer
	if r.URL.RawQuery != "" && !overrides(r) {
		c = absent
	}
	if err == nil {
		s.mu.Lock()
		a, err = c(r, body)
		s.mu.Unlock()
	}
	var e *refusal
	if errors.As(err, &e) {
		e.RequestID, e.HostID = requestID, "http://"+r.Host
		a = answer{status: e.status, body: e}
	}
	if a.location != "" {
		h.Set("Location", a.location)
	}
	w.WriteHeader(a.status)
	if a.body != nil {
		_, _ = io.WriteString(w, xml.Header) // fails when the caller has gone away
		_ = xml.NewEncoder(w).Encode(a.body)
	}
}

// authenticate refuses a call that is not signed with the access key, or not at
// this time.
func (s *Server) authenticate(r *http.Request, body []byte) error {
	h := r.Header
	date, err := http.ParseTime(h.Get("Date"))
	authorization, isMNS := strings.CutPrefix(h.Get("Authorization"), "MNS ")
	id, signature, ok := strings.Cut(authorization, ":")
	switch {
	case h.Get("X-Mns-Version") != apiVersion:
		return refuse(http.StatusBadRequest, "InvalidVersionHeader", "x-mns-version must be %s", apiVersion)
	case err != nil:
		return refuse(http.StatusBadRequest, "InvalidDateHeader", "Date is missing or not a valid HTTP date")
	case date.Sub(s.o.Now()).Abs() > maxSkew:
		return refuse(http.StatusBadRequest, "TimeExpired", "Date is more than %v from now", maxSkew)
	case !ok || !isMNS:
		return refuse(http.StatusBadRequest, "InvalidAuthorizationHeader", "Authorization is not MNS ID:SIGNATURE")
	case id != AccessKeyID:
		return refuse(http.StatusForbidden, "InvalidAccessKeyId", "the access key does not exist")
	case h.Get("Security-Token") != s.o.SecurityToken:
		return refuse(http.StatusForbidden, "InvalidSecurityToken", "the security token is missing or wrong")
	}
	mac := hmac.New(sha1.New, []byte(AccessKeySecret))
	mac.Write([]byte(signedText(h, r.Method, r.RequestURI)))
	if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); !hmac.Equal([]byte(signature), []byte(want)) {
		return refuse(http.StatusForbidden, "SignatureDoesNotMatch", "the signature is not that of the request and the access key")
	}
	sum := md5.Sum(body)
	if digest := h.Get("Content-Md5"); digest != "" && digest != base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:]))) {
		return refuse(http.StatusBadRequest, "InvalidDigest", "Content-MD5 is not the base64 of the body's MD5 in hex")
	}
	return nil
}

// topic is a topic, as it is shown.
type topic struct {
	XMLName                xml.Name `xml:"Topic"`
	Namespace              string   `xml:"xmlns,attr,omitempty"` // not in lists, which have it themselves
	TopicURL               string   `xml:",omitempty"`           // in lists only
	TopicName              string
	CreateTime             int64
	LastModifyTime         int64
	MessageRetentionPeriod int
	topicAttributes
	MessageCount  int
	subscriptions map[string]*subscription
}

type topicAttributes struct {
	MaximumMessageSize int
	LoggingEnabled     capitalBool
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

// subscription is a subscription, as it is shown.
type subscription struct {
	XMLName          xml.Name `xml:"Subscription"`
	Namespace        string   `xml:"xmlns,attr,omitempty"` // not in lists, which have it themselves
	SubscriptionURL  string   `xml:",omitempty"`           // in lists only
	SubscriptionName string
	Subscriber       string
	TopicOwner       string
	TopicName        string
	subscriptionAttributes
	CreateTime     int64
	LastModifyTime int64
	deleted        bool
}

type subscriptionAttributes struct {
	Endpoint            string
	NotifyStrategy      string
	NotifyContentFormat string
	FilterTag           string `xml:",omitempty"`
}

// messageBody is a message as it is published, and the answer to that.
type messageBody struct {
	XMLName        xml.Name
	MessageBody    string `xml:",omitempty"`
	MessageTag     string `xml:",omitempty"`
	MessageID      string `xml:"MessageId,omitempty"`
	MessageBodyMD5 string `xml:",omitempty"`
	// MessageAttributes is for subscribers by mail.
	MessageAttributes *struct{} `xml:",omitempty"`
}

// read decodes a document with this root into v; root points to v's XMLName. An
// empty body is a document without elements.
func read(body []byte, v any, root *xml.Name, want string) error {
	if len(body) == 0 {
		return nil
	}
	if err := xml.Unmarshal(body, v); err != nil {
		return refuse(http.StatusBadRequest, "MalformedXML", "the body is not valid XML: %v", err)
	}
	if root.Space != namespace && root.Space != "" || root.Local != want {
		return refuse(http.StatusBadRequest, "MalformedXML", "the document is not a %s, in the namespace %s or in none", want, namespace)
	}
	return nil
}

func (s *Server) topic(r *http.Request) (*topic, error) {
	if t := s.topics[r.PathValue("topic")]; t != nil {
		return t, nil
	}
	return nil, refuse(http.StatusNotFound, "TopicNotExist", "The topic name you provided is not exist.")
}

func (s *Server) subscription(r *http.Request) (*topic, *subscription, error) {
	t, err := s.topic(r)
	if err != nil {
		return nil, nil, err
	}
	if sub := t.subscriptions[r.PathValue("subscription")]; sub != nil {
		return t, sub, nil
	}
	return nil, nil, refuse(http.StatusNotFound, "SubscriptionNotExist", "The subscription name you provided is not exist.")
}

// created returns the answer for what exists now.
func created(r *http.Request, status int) (answer, error) {
	return answer{status: status, location: "http://" + r.Host + r.RequestURI}, nil
}

func checkName(code, name string) error {
	if len(name) > maxNameSize || !validName(name) {
		return refuse(http.StatusBadRequest, code, "a name is 1 to %d letters, digits and hyphens", maxNameSize)
	}
	return nil
}

func (s *Server) createTopic(r *http.Request, body []byte) (answer, error) {
	name, now := r.PathValue("topic"), s.o.Now().Unix()
	if err := checkName("TopicNameInvalid", name); err != nil {
		return answer{}, err
	}
	t := s.topics[name]
	asked := struct {
		XMLName xml.Name
		topicAttributes
	}{topicAttributes: topicAttributes{MaximumMessageSize: maxMessageSize}}
	if overrides(r) {
		var err error
		if t, err = s.topic(r); err != nil {
			return answer{}, err
		}
		asked.topicAttributes = t.topicAttributes
	}
	if err := read(body, &asked, &asked.XMLName, "Topic"); err != nil {
		return answer{}, err
	}
	if asked.MaximumMessageSize < minMessageSize || asked.MaximumMessageSize > maxMessageSize {
		return answer{}, invalid("MaximumMessageSize must be %d to %d", minMessageSize, maxMessageSize)
	}
	switch {
	case t == nil:
		s.topics[name] = &topic{
			TopicName: name, CreateTime: now, LastModifyTime: now, MessageRetentionPeriod: retention,
			topicAttributes: asked.topicAttributes, subscriptions: make(map[string]*subscription),
		}
		return created(r, http.StatusCreated)
	case overrides(r):
		t.topicAttributes, t.LastModifyTime = asked.topicAttributes, now
		return answer{status: http.StatusNoContent}, nil
	case t.topicAttributes != asked.topicAttributes:
		return answer{}, refuse(http.StatusConflict, "TopicAlreadyExist", "The topic you want to create is already exist.")
	}
	return created(r, http.StatusNoContent)
}

func (s *Server) topicAttributes(r *http.Request, _ []byte) (answer, error) {
	t, err := s.topic(r)
	if err != nil {
		return answer{}, err
	}
	alone := *t
	alone.Namespace = namespace
	return answer{status: http.StatusOK, body: alone}, nil
}

func (s *Server) deleteTopic(r *http.Request, _ []byte) (answer, error) {
	t, err := s.topic(r)
	if err != nil {
		return answer{}, err
	}
	for _, sub := range t.subscriptions {
		s.end(sub)
	}
	delete(s.topics, t.TopicName)
	return answer{status: http.StatusNoContent}, nil
}

// end ends the pushes of a deleted subscription.
func (s *Server) end(sub *subscription) {
	sub.deleted = true
	s.queue.Remove(func(p *pending) bool { return p.sub == sub })
}

func (s *Server) listTopics(r *http.Request, _ []byte) (answer, error) {
	list := struct {
		XMLName    xml.Name `xml:"http://mns.aliyuncs.com/doc/v1/ Topics"`
		Topics     []any    `xml:"Topic"`
		NextMarker string   `xml:",omitempty"`
	}{}
	var err error
	list.Topics, list.NextMarker, err = page(r, s.topics, func(t topic, address string) any {
		t.TopicURL = address
		return t
	}, func(address string) any { return struct{ TopicURL string }{address} })
	return answer{status: http.StatusOK, body: list}, err
}

func (s *Server) listSubscriptions(r *http.Request, _ []byte) (answer, error) {
	t, err := s.topic(r)
	if err != nil {
		return answer{}, err
	}
	list := struct {
		XMLName       xml.Name `xml:"http://mns.aliyuncs.com/doc/v1/ Subscriptions"`
		Subscriptions []any    `xml:"Subscription"`
		NextMarker    string   `xml:",omitempty"`
	}{}
	list.Subscriptions, list.NextMarker, err = page(r, t.subscriptions, func(sub subscription, address string) any {
		sub.SubscriptionURL = address
		return sub
	}, func(address string) any { return struct{ SubscriptionURL string }{address} })
	return answer{status: http.StatusOK, body: list}, err
}

// page returns the items that a list is asked for, each whole or only as its
// address, and the name with which the next page begins.
func page[T any](r *http.Request, all map[string]*T, whole func(T, string) any, short func(string) any) (items []any, next string, err error) {
	number := maxPageSize
	if n := r.Header.Get("X-Mns-Ret-Number"); n != "" {
		if number, err = strconv.Atoi(n); err != nil || number < 1 || number > maxPageSize {
			return nil, "", invalid("x-mns-ret-number must be 1 to %d", maxPageSize)
		}
	}
	prefix, marker := r.Header.Get("X-Mns-Prefix"), r.Header.Get("X-Mns-Marker")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(name, prefix) || name < marker {
			continue
		}
		if len(items) == number {
			return items, name, nil
		}
		address := "http://" + r.Host + strings.TrimSuffix(r.RequestURI, "/") + "/" + name
		if r.Header.Get("X-Mns-With-Meta") == "true" {
			items = append(items, whole(*all[name], address))
		} else {
			items = append(items, short(address))
		}
	}
	return items, "", nil
}

func (s *Server) subscribe(r *http.Request, body []byte) (answer, error) {
	name, now := r.PathValue("subscription"), s.o.Now().Unix()
	t, err := s.topic(r)
	if err != nil {
		return answer{}, err
	}
	if err := checkName("SubscriptionNameInvalid", name); err != nil {
		return answer{}, err
	}
	var asked struct {
		XMLName xml.Name
		subscriptionAttributes
	}
	sub := t.subscriptions[name]
	if overrides(r) {
		if _, sub, err = s.subscription(r); err != nil {
			return answer{}, err
		}
		asked.subscriptionAttributes = sub.subscriptionAttributes
	}
	if err := read(body, &asked, &asked.XMLName, "Subscription"); err != nil {
		return answer{}, err
	}
	a := asked.subscriptionAttributes
	a.NotifyStrategy = cmp.Or(a.NotifyStrategy, BackoffRetry)
	a.NotifyContentFormat = cmp.Or(a.NotifyContentFormat, FormatXML)
	_, ok := pushAddress(a.Endpoint)
	switch {
	case a.NotifyStrategy != BackoffRetry && a.NotifyStrategy != DecayRetry:
		return answer{}, invalid("NotifyStrategy must be %s or %s", BackoffRetry, DecayRetry)
	case !slices.Contains([]string{FormatXML, FormatJSON, FormatSimplified}, a.NotifyContentFormat):
		return answer{}, invalid("NotifyContentFormat must be %s, %s or %s", FormatXML, FormatJSON, FormatSimplified)
	case utf8.RuneCountInString(a.FilterTag) > maxTagSize:
		return answer{}, invalid("FilterTag is over %d characters", maxTagSize)
	case !ok:
		return answer{}, refuse(http.StatusBadRequest, "EndpointInvalid", "the stand-in pushes to http and https addresses only")
	}
	switch {
	case sub == nil:
		t.subscriptions[name] = &subscription{
			SubscriptionName: name, Subscriber: Owner, TopicOwner: Owner, TopicName: t.TopicName,
			subscriptionAttributes: a, CreateTime: now, LastModifyTime: now,
		}
		return created(r, http.StatusCreated)
	case overrides(r):
		before := sub.subscriptionAttributes
		if before.NotifyStrategy = a.NotifyStrategy; before != a {
			return answer{}, invalid("only NotifyStrategy can be changed; to change more, unsubscribe and subscribe again")
		}
		sub.NotifyStrategy, sub.LastModifyTime = a.NotifyStrategy, now
		return answer{status: http.StatusNoContent}, nil
	case sub.subscriptionAttributes != a:
		return answer{}, refuse(http.StatusConflict, "SubscriptionAlreadyExist", "The subscription you want to create is already exist.")
	}
	return created(r, http.StatusNoContent)
}

func (s *Server) subscriptionAttributes(r *http.Request, _ []byte) (answer, error) {
	_, sub, err := s.subscription(r)
	if err != nil {
		return answer{}, err
	}
	alone := *sub
	alone.Namespace = namespace
	return answer{status: http.StatusOK, body: alone}, nil
}

func (s *Server) unsubscribe(r *http.Request, _ []byte) (answer, error) {
	t, sub, err := s.subscription(r)
	if err != nil {
		return answer{}, err
	}
	s.end(sub)
	delete(t.subscriptions, sub.SubscriptionName)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Server) publishMessage(r *http.Request, body []byte) (answer, error) {
	t, err := s.topic(r)
	if err != nil {
		return answer{}, err
	}
	var m messageBody
	if err := read(body, &m, &m.XMLName, "Message"); err != nil {
		return answer{}, err
	}
	switch {
	case m.MessageAttributes != nil:
		return answer{}, invalid("MessageAttributes are for subscribers by mail, which this stand-in does not have")
	case m.MessageBody == "":
		return answer{}, invalid("MessageBody is missing or empty")
	case len(m.MessageBody) > t.MaximumMessageSize:
		return answer{}, invalid("MessageBody is over the topic's %d bytes", t.MaximumMessageSize)
	case utf8.RuneCountInString(m.MessageTag) > maxTagSize:
		return answer{}, invalid("MessageTag is over %d characters", maxTagSize)
	}
	sum := md5.Sum([]byte(m.MessageBody))
	digest := strings.ToUpper(hex.EncodeToString(sum[:]))
	return answer{status: http.StatusCreated, body: messageBody{
		XMLName:   xml.Name{Space: namespace, Local: "Message"},
		MessageID: s.publish(t, m.MessageBody, m.MessageTag, digest), MessageBodyMD5: digest,
	}}, nil
}
