// Package mnsfake is a stand-in for Alibaba Cloud MNS (SMQ), for local runs and
// tests only: topics, subscriptions and messages over the REST paths of the
// service, and pushes signed with a certificate of its own.
//
// A Server is an http.Handler with the paths that follow a client's endpoint:
// /topics, /topics/{topic}, /topics/{topic}/messages,
// /topics/{topic}/subscriptions and /topics/{topic}/subscriptions/{name}. It
// keeps everything in memory. Alibaba's SDKs sign the path without that of their
// endpoint, so a Server that they call is at the root of its port.
//
// # What it does as documented
//
// It refuses calls with a wrong signature or with a Date more than 15 minutes from
// now. It answers 201 for what it created, 204 for what existed with the same
// attributes or was changed, and 409 for what existed with others. It lists by
// prefix, marker and number, and answers errors in XML. It pushes in XML, JSON or
// SIMPLIFIED form, to the endpoint's own path or to /notifications, for exact filter
// tags, at least once and in no order; it waits 5 seconds for an answer and retries
// by the subscription's strategy until the answer is 2xx.
//
// # What is decided here, because the documentation is silent or contradicts itself
//
//   - Only 2xx is a success. A redirect is not followed and is a failure.
//   - JSON pushes are application/json.
//   - Deleting a topic or subscription that does not exist is 404.
//   - Deleting a subscription or its topic also ends the retries of its pushes.
//   - Of a subscription only NotifyStrategy can be changed.
//   - There is no back-off of a whole subscription and no dead-letter queue.
//   - MessageCount counts all messages that were published.
//
// # Limits
//
// Endpoints are http and https addresses; queues and mail are refused, and calls of
// queues are refused by name.
package mnsfake

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"example.com/pushinbox/local/timedqueue"
)

// The account that owns everything, and the access key that calls are signed with.
// Nobody's account has this number, and the key is not a secret.
const (
	Owner           = "1000000000000000"
	AccessKeyID     = "local"
	AccessKeySecret = "local"
)

// The strategies by which a subscription's pushes are retried.
const (
	// BackoffRetry retries 3 times, each after 10 to 20 seconds. It is the default.
	BackoffRetry = "BACKOFF_RETRY"
	// DecayRetry retries 176 times, after 1 s, 2 s, 4 s up to 256 s and then every
	// 512 s, which takes about a day.
	DecayRetry = "EXPONENTIAL_DECAY_RETRY"
)

// The formats of a push.
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
	// retention is how long the service keeps a message, in seconds.
	retention = 24 * 60 * 60
	// maxSkew is how far the Date of a call may be from now.
	maxSkew = 15 * time.Minute
	// answerTimeout is how long an endpoint has to answer.
	answerTimeout = 5 * time.Second
)

// Options holds New's optional settings.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Transport sends the pushes; nil means one that uses no proxy. It may call
	// the Server.
	Transport http.RoundTripper
	// SecurityToken, when set, must come with every call, as with temporary
	// credentials (STS).
	SecurityToken string
	// OnPush is called after every push, with its answer.
	OnPush func(Push)
}

// Notification is a message as it is pushed to one subscription.
type Notification struct {
	TopicOwner       string
	TopicName        string
	Subscriber       string
	SubscriptionName string
	MessageID        string `xml:"MessageId" json:"MessageId"`
	MessageMD5       string // upper-case hex
	MessageTag       string `xml:",omitempty" json:",omitempty"`
	Message          string
	PublishTime      time.Time
}

// Push is one push and its answer.
type Push struct {
	Notification
	// Attempt counts from 1.
	Attempt int
	// Status is the answer's; 0 when no answer came, with the reason in Err.
	Status   int
	Err      error
	Duration time.Duration
	// RetryIn is the time until the next attempt; 0 means none.
	RetryIn time.Duration
}

// Done reports whether the endpoint acknowledged the push.
func (p Push) Done() bool { return p.Status/100 == 2 }

// Server is the stand-in. It is safe for concurrent use.
type Server struct {
	o      Options
	signer *Signer
	mux    *http.ServeMux
	queue  *timedqueue.Queue[*pending]

	mu        sync.Mutex
	topics    map[string]*topic
	published int // number of messages
}

// New returns a Server without topics, whose pushes are signed by signer.
// Nothing is pushed before Run or Deliver is called.
func New(signer *Signer, o *Options) (*Server, error) {
	if signer == nil {
		return nil, errors.New("mnsfake: a signer is required")
	}
	s := &Server{signer: signer, topics: make(map[string]*topic)}
	if o != nil {
		s.o = *o
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	if s.o.Transport == nil {
		s.o.Transport = &http.Transport{DisableCompression: true} // which a push does not ask for
	}
	if s.o.OnPush == nil {
		s.o.OnPush = func(Push) {}
	}
	s.queue = timedqueue.New[*pending](s.o.Now)
	s.routes()
	return s, nil
}

// newRequestID returns a random ID in the form of the service's.
func newRequestID() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("%X", b)
}

// messageID returns the ID of the n-th message, in the form of the service's:
// F6EA56633844DBFC-1-154BDFB8059-200000004, of which the third part is the time.
func messageID(topic string, now time.Time, n int) string {
	sum := sha256.Sum256([]byte(topic))
	return fmt.Sprintf("%X-1-%X-%X", sum[:8], now.UnixMilli(), 0x200000000+n)
}

// pushAddress returns the address that pushes to an endpoint are sent to, or false
// when it is not a valid http or https address.
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

// validName matches the names of topics and subscriptions, up to maxNameSize.
var validName = regexp.MustCompile(`^[A-Za-z0-9-]+$`).MatchString
