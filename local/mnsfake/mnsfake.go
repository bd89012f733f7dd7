// Package mnsfake is a stand-in for Alibaba Cloud MNS (SMQ), for local runs and
// tests only: topics, subscriptions and messages over the REST paths of the
// service, and pushes signed by a certificate of its own, with what goes wrong
// in production on request.
//
// A Server is an http.Handler with the paths from where a client's endpoint
// ends: /topics, /topics/{topic}, /topics/{topic}/messages,
// /topics/{topic}/subscriptions and /topics/{topic}/subscriptions/{name}. It
// keeps everything in memory.
//
// # What it does as documented
//
// Request signatures, and their refusal when they are wrong or when Date is
// more than 15 minutes off; 201 for what is made, 204 for what was there with
// the same attributes, 409 for what was there with others; lists by prefix,
// marker and number; errors as XML. Pushes as XML, JSON or SIMPLIFIED, to the
// endpoint's own path or to /notifications, for exact filter tags, within 5
// seconds, at least once and in no order, retried by the subscription's
// strategy until the answer is 2xx.
//
// # What is decided here, the documentation being silent or of two minds
//
//   - Only 2xx is success; a redirect is not followed and is none.
//   - JSON pushes are application/json.
//   - Deleting what is not there is 404.
//   - Unsubscribing and deleting a topic also end its pushes under way.
//   - There is no back-off of a whole subscription and no dead-letter queue.
//
// # Limits
//
// Endpoints are http and https addresses; queues and mail are refused.
package mnsfake

import (
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Who is who, unless Options say otherwise. Nobody's account has this number,
// and the key is no secret.
const (
	Owner           = "1000000000000000"
	AccessKeyID     = "local"
	AccessKeySecret = "local"
)

// The strategies by which a subscription's pushes are retried.
const (
	// BackoffRetry is 3 retries, each after 10 to 20 seconds: the default.
	BackoffRetry = "BACKOFF_RETRY"
	// DecayRetry is 176 retries, after 1 s, 2 s, 4 s up to 256 s and then every
	// 512 s: about a day.
	DecayRetry = "EXPONENTIAL_DECAY_RETRY"
)

// The forms of a push.
const (
	FormatXML        = "XML" // the default
	FormatJSON       = "JSON"
	FormatSimplified = "SIMPLIFIED"
)

// Limits of the service.
const (
	maxNameSize    = 256
	maxTagSize     = 16
	maxMessageSize = 64 << 10
	minMessageSize = 1 << 10
	// maxSkew is how far off the Date of a call may be.
	maxSkew = 15 * time.Minute
	// answerTimeout is how long an endpoint has to answer.
	answerTimeout = 5 * time.Second
)

// Options holds what is optional for New.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Transport sends the pushes; nil means one that uses no proxy. It may call
	// the Server.
	Transport http.RoundTripper
	// Owner is the account that owns everything; empty means Owner.
	Owner string
	// AccessKeyID and AccessKeySecret are what calls must be signed with; empty
	// means AccessKeyID and AccessKeySecret.
	AccessKeyID, AccessKeySecret string
	// SecurityToken, when set, must come with every call, as with keys of STS.
	SecurityToken string
	// Fault decides, before each call, what is to go wrong with it. The zero
	// Fault is nothing.
	Fault func(Call) Fault
	// Disturb decides, for each message to each subscription, what is to go
	// wrong with it. The zero Disturbance is nothing.
	Disturb func(Notification) Disturbance
	// OnPush is told of every push after its answer.
	OnPush func(Push)
}

// Call is a call that is about to be carried out: it is signed, and there is
// such a method.
type Call struct {
	// Method is as in the documentation: CreateTopic, SetTopicAttributes,
	// GetTopicAttributes, DeleteTopic, ListTopic, Subscribe,
	// SetSubscriptionAttributes, GetSubscriptionAttributes, Unsubscribe,
	// ListSubscriptionByTopic or PublishMessage.
	Method       string
	Topic        string
	Subscription string
}

// Fault is what goes wrong with one call.
type Fault struct {
	// Status, if not 0, is the answer's, with this Code, such as 500 and
	// InternalError. The call has no effect.
	Status int
	Code   string
	// Lost carries the call out before it answers Status.
	Lost bool
}

// Notification is a message as it is pushed to one subscription.
type Notification struct {
	TopicOwner       string
	TopicName        string
	Subscriber       string
	SubscriptionName string
	MessageID        string
	MessageMD5       string // upper-case hex
	MessageTag       string
	Message          string
	PublishTime      time.Time
}

// Disturbance is what goes wrong with the pushes of one message to one
// subscription.
type Disturbance struct {
	// Double pushes it twice, whatever is answered.
	Double bool
	// Delay holds it back, so that later ones overtake it.
	Delay time.Duration
}

// Push is one push and its answer.
type Push struct {
	Notification
	// Attempt counts from 1.
	Attempt int
	// Status is the answer's; 0 when there was none, with the reason in Err.
	Status   int
	Err      error
	Duration time.Duration
	// RetryIn is when the next attempt is due; 0 when there is none.
	RetryIn time.Duration
}

// Done reports whether the push was taken.
func (p Push) Done() bool { return p.Status/100 == 2 }

// Server is the stand-in. It is safe for concurrent use.
type Server struct {
	o      Options
	signer *Signer
	wake   chan struct{}

	mu     sync.Mutex
	topics map[string]*topic
	queue  []*pending // in the order of being due
}

type topic struct {
	topicAttributes
	name          string
	created       time.Time
	modified      time.Time
	messages      int
	subscriptions map[string]*subscription
}

type topicAttributes struct {
	maxMessageSize int
	logging        bool
}

type subscription struct {
	subscriptionAttributes
	name     string
	topic    *topic
	created  time.Time
	modified time.Time
	gone     bool
}

type subscriptionAttributes struct {
	endpoint, tag, strategy, format string
}

// New returns a Server without topics, whose pushes are signed by signer.
// Nothing is pushed before Run or Deliver is called.
func New(signer *Signer, o *Options) (*Server, error) {
	if signer == nil {
		return nil, errors.New("mnsfake: a signer is required")
	}
	s := &Server{signer: signer, wake: make(chan struct{}, 1), topics: make(map[string]*topic)}
	if o != nil {
		s.o = *o
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	if s.o.Transport == nil {
		s.o.Transport = &http.Transport{}
	}
	if s.o.Owner == "" {
		s.o.Owner = Owner
	}
	if s.o.AccessKeyID == "" {
		s.o.AccessKeyID = AccessKeyID
	}
	if s.o.AccessKeySecret == "" {
		s.o.AccessKeySecret = AccessKeySecret
	}
	if s.o.Fault == nil {
		s.o.Fault = func(Call) Fault { return Fault{} }
	}
	if s.o.Disturb == nil {
		s.o.Disturb = func(Notification) Disturbance { return Disturbance{} }
	}
	if s.o.OnPush == nil {
		s.o.OnPush = func(Push) {}
	}
	return s, nil
}

// newID returns an ID in the form of the service's newer ones.
func newID(length int) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, length)
	_, _ = rand.Read(b) // never fails
	for i := range b {
		b[i] = digits[b[i]%16]
	}
	return string(b)
}

// between returns a random duration of at least low and below high.
func between(low, high time.Duration) time.Duration {
	return low + mathrand.N(high-low)
}

// pushAddress returns where the pushes to an endpoint go, or false for one that
// is no http or https address.
func pushAddress(endpoint string) (*url.URL, bool) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil, false
	}
	if u.Path == "" {
		u.Path = "/notifications"
	}
	return u, true
}

func validName(name string) bool {
	return len(name) > 0 && len(name) <= maxNameSize && strings.Trim(name, nameCharacters) == ""
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
