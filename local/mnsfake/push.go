package mnsfake

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// userAgent is what MNS calls itself.
const userAgent = "Aliyun Notification Service Agent"

// apiVersion is the version of the API, which every call and push names.
const apiVersion = "2015-06-06"

// maxPushes is how many pushes Run has under way at the same time.
const maxPushes = 32

// pending is a push to be made.
type pending struct {
	Notification
	sub      *subscription
	due      time.Time
	attempts int
}

// publish queues a message for every subscription that wants it. s.mu is held.
func (s *Server) publish(t *topic, body, tag, md5 string) (id string) {
	t.messages++
	id = newID(32)
	now := s.o.Now()
	for _, sub := range t.subscriptions {
		if sub.tag != "" && sub.tag != tag {
			continue
		}
		n := Notification{
			TopicOwner: s.o.Owner, TopicName: t.name, Subscriber: s.o.Owner, SubscriptionName: sub.name,
			MessageID: id, MessageMD5: md5, MessageTag: tag, Message: body, PublishTime: now,
		}
		d := s.o.Disturb(n)
		s.enqueue(&pending{Notification: n, sub: sub, due: now.Add(d.Delay)})
		if d.Double {
			s.enqueue(&pending{Notification: n, sub: sub, due: now.Add(d.Delay)})
		}
	}
	return id
}

// enqueue queues p behind what is due no later. s.mu is held.
func (s *Server) enqueue(p *pending) {
	at, _ := slices.BinarySearchFunc(s.queue, p.due, func(q *pending, due time.Time) int {
		if q.due.After(due) {
			return 1
		}
		return -1
	})
	s.queue = slices.Insert(s.queue, at, p)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns a push that is due, or when the next one will be; both are zero
// when there is none.
func (s *Server) take() (*pending, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = slices.DeleteFunc(s.queue, func(p *pending) bool { return p.sub.gone })
	if len(s.queue) == 0 {
		return nil, time.Time{}
	}
	p := s.queue[0]
	if p.due.After(s.o.Now()) {
		return nil, p.due
	}
	s.queue = slices.Delete(s.queue, 0, 1)
	return p, time.Time{}
}

// Deliver makes the pushes that are due, one after another, also those that
// become due meanwhile, and returns when the next one will be, if there is one.
// A simulation with a clock of its own calls it; Run does so by itself.
func (s *Server) Deliver(ctx context.Context) (next time.Time, ok bool) {
	for ctx.Err() == nil {
		p, next := s.take()
		if p == nil {
			return next, !next.IsZero()
		}
		s.attempt(p)
	}
	return time.Time{}, false
}

// Run makes pushes as they become due, several at a time, until ctx ends. Those
// under way then get their answer, for which they wait five seconds at most,
// before Run returns.
func (s *Server) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxPushes)
	for {
		p, next := s.take()
		if p == nil {
			var alarm <-chan time.Time // its timer is collected once it is out of use
			if !next.IsZero() {
				alarm = time.After(next.Sub(s.o.Now()))
			}
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
			case <-alarm:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		running.Go(func() {
			s.attempt(p)
			<-slots
		})
	}
}

// attempt pushes once and queues p again if it was not taken.
func (s *Server) attempt(p *pending) {
	s.mu.Lock()
	attributes := p.sub.subscriptionAttributes
	s.mu.Unlock()
	p.attempts++
	push := Push{Notification: p.Notification, Attempt: p.attempts}
	start := s.o.Now()
	push.Status, push.Err = s.post(attributes, &p.Notification)
	push.Duration = s.o.Now().Sub(start)
	if !push.Done() {
		push.RetryIn = retryIn(attributes.strategy, p.attempts)
	}
	if push.RetryIn > 0 {
		s.mu.Lock()
		p.due = s.o.Now().Add(push.RetryIn)
		s.enqueue(p)
		s.mu.Unlock()
	}
	s.o.OnPush(push)
}

// retryIn returns how long after this many attempts the next one follows; 0 for
// never.
func retryIn(strategy string, attempts int) time.Duration {
	switch {
	case strategy == DecayRetry && attempts <= 9:
		return time.Second << (attempts - 1)
	case strategy == DecayRetry && attempts <= 176:
		return 512 * time.Second
	case strategy == BackoffRetry && attempts <= 3:
		return between(10*time.Second, 20*time.Second)
	}
	return 0
}

// post makes one push and returns the status of the answer.
func (s *Server) post(a subscriptionAttributes, n *Notification) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	address, ok := pushAddress(a.endpoint)
	if !ok {
		return 0, fmt.Errorf("%q is no address to push to", a.endpoint)
	}
	r, err := s.signer.Push(address, a.format, n, s.o.Now())
	if err != nil {
		return 0, err
	}
	resp, err := s.o.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	// An answer without its end is none.
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close()
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

// Push returns the push of a notification to an address in one of the formats,
// signed at this time.
func (s *Signer) Push(address *url.URL, format string, n *Notification, at time.Time) (*http.Request, error) {
	body, contentType, err := encode(format, n)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, address.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	h := r.Header
	h.Set("Content-Type", contentType)
	h.Set("User-Agent", userAgent)
	h.Set("X-Mns-Version", apiVersion)
	h.Set("X-Mns-Request-Id", newID(24))
	if format == FormatSimplified {
		for name, value := range map[string]string{
			"X-Mns-Message-Id":        n.MessageID,
			"X-Mns-Message-Tag":       n.MessageTag,
			"X-Mns-Publish-Time":      milliseconds(n.PublishTime),
			"X-Mns-Subscriber":        n.Subscriber,
			"X-Mns-Subscription-Name": n.SubscriptionName,
			"X-Mns-Topic-Name":        n.TopicName,
			"X-Mns-Topic-Owner":       n.TopicOwner,
		} {
			if value != "" {
				h.Set(name, value)
			}
		}
	}
	s.Sign(h, r.Method, r.URL.RequestURI(), body, at)
	return r, nil
}

// wire is a notification as XML and JSON have it.
type wire struct {
	XMLName          xml.Name `xml:"http://mns.aliyuncs.com/doc/v1/ Notification" json:"-"`
	TopicOwner       string
	TopicName        string
	Subscriber       string
	SubscriptionName string
	MessageID        string `xml:"MessageId" json:"MessageId"`
	MessageMD5       string
	MessageTag       string `xml:",omitempty" json:",omitempty"`
	Message          string
	PublishTime      string // milliseconds
}

// encode returns the body of a push and its type.
func encode(format string, n *Notification) (body []byte, contentType string, err error) {
	w := wire{
		TopicOwner: n.TopicOwner, TopicName: n.TopicName, Subscriber: n.Subscriber, SubscriptionName: n.SubscriptionName,
		MessageID: n.MessageID, MessageMD5: n.MessageMD5, MessageTag: n.MessageTag, Message: n.Message,
		PublishTime: milliseconds(n.PublishTime),
	}
	switch format {
	case FormatXML:
		body, err = xml.Marshal(w)
		return append([]byte(xml.Header), body...), "text/xml;charset=utf-8", err
	case FormatJSON:
		body, err = json.Marshal(w)
		return body, "application/json", err
	case FormatSimplified:
		return []byte(n.Message), "text/plain;charset=utf-8", nil
	}
	return nil, "", fmt.Errorf("mnsfake: %q is no format", format)
}

func milliseconds(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
