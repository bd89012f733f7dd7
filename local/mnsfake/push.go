package mnsfake

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// userAgent is the User-Agent header of MNS's pushes.
const userAgent = "Aliyun Notification Service Agent"

// apiVersion is the version of the API in the headers of every call and push.
const apiVersion = "2015-06-06"

// maxPushes is the number of pushes that Run sends at the same time.
const maxPushes = 32

// pending is a notification that waits for its next push.
type pending struct {
	Notification
	sub      *subscription
	attempts int
}

// publish queues a message for every subscription whose filter tag it has, and
// returns the message's ID. s.mu is held.
func (s *Server) publish(t *topic, body, tag, md5 string) (id string) {
	t.MessageCount++
	s.published++
	now := s.o.Now()
	id = messageID(t.TopicName, now, s.published)
	for name, sub := range t.subscriptions {
		if sub.FilterTag != "" && sub.FilterTag != tag {
			continue
		}
		s.queue.Add(&pending{sub: sub, Notification: Notification{
			TopicOwner: Owner, TopicName: t.TopicName, Subscriber: Owner, SubscriptionName: name,
			MessageID: id, MessageMD5: md5, MessageTag: tag, Message: body, PublishTime: now,
		}}, now)
	}
	return id
}

// Deliver pushes what is due, one push after another, including what becomes due
// meanwhile. It returns when the next push is due; ok is false when there is none.
// A simulation with a clock of its own calls it in place of Run.
func (s *Server) Deliver(ctx context.Context) (next time.Time, ok bool) {
	return s.queue.Deliver(ctx, s.attempt)
}

// Run pushes what is due, several pushes at the same time, until ctx ends. It
// returns when the last push is answered, which takes at most five seconds.
func (s *Server) Run(ctx context.Context) { s.queue.Run(ctx, maxPushes, s.attempt) }

// attempt pushes once and queues p again when the answer is not a success.
func (s *Server) attempt(p *pending) {
	p.attempts++
	push := Push{Notification: p.Notification, Attempt: p.attempts}
	start := s.o.Now()
	push.Status, push.Err = s.post(p.sub, &p.Notification)
	now := s.o.Now()
	push.Duration = now.Sub(start)
	if !push.Done() {
		s.mu.Lock()
		push.RetryIn = retryIn(p.sub.NotifyStrategy, p.attempts)
		if push.RetryIn > 0 && !p.sub.deleted {
			s.queue.Add(p, now.Add(push.RetryIn))
		}
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
		return 10*time.Second + rand.N(10*time.Second)
	}
	return 0
}

// post pushes once and returns the status of the answer.
func (s *Server) post(sub *subscription, n *Notification) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	address, ok := pushAddress(sub.Endpoint)
	if !ok {
		return 0, fmt.Errorf("mnsfake: the endpoint %q is not a valid http or https address", sub.Endpoint)
	}
	r, err := s.signer.Push(address, sub.NotifyContentFormat, n, s.o.Now())
	if err != nil {
		return 0, err
	}
	r.Header = wire(r.Header)
	resp, err := s.o.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	// An answer that ends early is not an answer.
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close()
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

// wire returns h with the names in the case in which recorded pushes have them.
func wire(h http.Header) http.Header {
	sent := make(http.Header, len(h)+1)
	for name, values := range h {
		if strings.HasPrefix(name, "X-Mns-") {
			name = strings.ToLower(name)
		}
		sent[name] = values
	}
	delete(sent, "Content-Md5")
	sent["Content-md5"], sent["Accept"] = h["Content-Md5"], []string{"*/*"}
	return sent
}

// Push returns the push of a notification to an address, in one of the formats and
// signed at a time.
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
	h.Set("X-Mns-Request-Id", newRequestID())
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

// encode returns the body of a push and its type.
func encode(format string, n *Notification) (body []byte, contentType string, err error) {
	document := struct {
		XMLName xml.Name `xml:"http://mns.aliyuncs.com/doc/v1/ Notification" json:"-"`
		*Notification
		PublishTime string // takes the place of Notification's
	}{Notification: n, PublishTime: milliseconds(n.PublishTime)}
	switch format {
	case FormatXML:
		body, err = xml.Marshal(document)
		return append([]byte(xml.Header), body...), "text/xml;charset=utf-8", err
	case FormatJSON:
		body, err = json.Marshal(document)
		return body, "application/json", err
	case FormatSimplified:
		return []byte(n.Message), "text/plain;charset=utf-8", nil
	}
	return nil, "", fmt.Errorf("mnsfake: %q is not a valid push format", format)
}

func milliseconds(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
