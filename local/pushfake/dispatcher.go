package pushfake

import (
	"bytes"
	"cmp"
	"container/heap"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/pubsubserver"
)

const (
	// DefaultMaxOutstanding is how many requests are under way at most when
	// Options name no number. It is past the 3,000 from which Pub/Sub's own
	// window grows slowly.
	DefaultMaxOutstanding = 4000

	defaultAckDeadline = 10 * time.Second
	// tokenMargin is how long before it expires a token is no longer sent.
	tokenMargin = time.Minute
	// maxAnswer is how much of an answer is read to keep its connection, and maxQuoted
	// how much of a refusal is told.
	maxAnswer = 64 << 10
	maxQuoted = 1 << 10
)

// Clock is the time that an Issuer and a Dispatcher go by.
type Clock = pubsubserver.Clock

// Options holds what is optional for New and NewDispatchers.
type Options struct {
	// Issuer signs the tokens. It is required when the push configuration has
	// an OIDC token.
	Issuer *Issuer
	// Push takes the place of the subscription's own push configuration in New.
	// Where the backend would push itself, or lets nobody pull from a
	// subscription that has an endpoint, create the subscription without one and
	// set it here.
	Push *pubsubpb.PushConfig
	// UserAgent is what requests say of themselves; empty means
	// CloudPubSub-Google. Cloud Run sees AgentOfCloudRun.
	UserAgent string
	// Transport sends the pushes; nil means one of this Dispatcher's own, which
	// uses no proxy.
	Transport http.RoundTripper
	// Clock times everything but the waiting for the backend; nil means the
	// system's.
	Clock Clock
	// MaxOutstanding caps the push window; 0 or less means
	// DefaultMaxOutstanding. Pub/Sub has no such cap.
	MaxOutstanding int
	// OnDelivery is told of every finished attempt, those of a subscription one
	// at a time and in the order in which they finished. Delivery waits for it,
	// so it must not close the Dispatcher.
	OnDelivery func(Delivery)
	// OnDial is told of every connection to an endpoint before it is used, by several
	// goroutines; nil means that nobody wants to know. It is not for a Transport that
	// is given.
	OnDial func(net.Conn)
	// OnError is told of every failed call to the backend, one at a time. Such
	// calls are repeated, with a backoff of 100 ms to 10 s.
	OnError func(error)
	// Faults decides, before each attempt, what is to go wrong with it. The
	// zero Fault is nothing.
	Faults func(m *pubsubpb.PubsubMessage, attempt int) Fault
	// Poll makes the Dispatcher ask for messages and, when there are none, ask
	// again after this time, in place of waiting in Pull. It is for pstest,
	// whose Pull looks for messages twice in 500 ms and not in between. 0 means
	// to wait in Pull.
	Poll time.Duration
}

// Fault is what goes wrong with one attempt.
type Fault struct {
	// Delay holds the request back. Others go ahead, but for those of the same
	// ordering key.
	Delay time.Duration
	// Header replaces the request's headers of the same names; a nil value
	// removes one.
	Header http.Header
	// Status, if not 0, is taken for the endpoint's answer. Nothing is sent.
	Status int
	// Duplicate sends the request twice at the same time. The answer to one of
	// them counts.
	Duplicate bool
	// LoseAck takes any answer for none: what the endpoint has acknowledged is
	// delivered again.
	LoseAck bool
}

// ErrAckLost is a Delivery's error when a Fault lost the acknowledgement.
var ErrAckLost = errors.New("pushfake: the acknowledgement was lost on request")

// maxInformed is how many answers with a status below 200 may come before the one that
// counts. The poster bounds their bytes.
const maxInformed = 1000

var errTooManyInformed = fmt.Errorf("pushfake: over %d answers with a status below 200", maxInformed)

// Delivery is one finished attempt to deliver a message.
type Delivery struct {
	// Subscription is the full name.
	Subscription string
	// Endpoint is where it was pushed to. It may hold a secret.
	Endpoint    string
	MessageID   string
	OrderingKey string
	// Attempt counts from 1, whether or not the request says so.
	Attempt int
	// Status is the endpoint's answer, or 0 when there was none.
	Status int
	// Answer is the beginning of the body of an answer that does not acknowledge, at
	// most 1 KiB. It is the endpoint's, and may hold any bytes.
	Answer []byte
	// Err says why there was no answer: context.DeadlineExceeded when the ack
	// deadline passed.
	Err error
	// Acked says that the endpoint acknowledged the message.
	Acked bool
	// DeadLettered says that this was the last attempt: the message goes to
	// the dead-letter topic.
	DeadLettered bool
	// AckDeadline is how long the endpoint had to answer. Duration is how long the
	// request took, which is longer where the machine was suspended.
	AckDeadline time.Duration
	Duration    time.Duration
	// RetryIn is how long the next attempt is away at least; 0 when there is
	// none.
	RetryIn time.Duration
}

// Dispatcher pushes the messages of one subscription, until it is closed.
type Dispatcher struct {
	encoding
	source      source
	issuer      *Issuer
	oidc        *pubsubpb.PushConfig_OidcToken
	audience    string
	endpoint    string
	request     *http.Request // what all requests have in common
	transport   http.RoundTripper
	poster      *poster // for small bodies, or nil
	ownIdle     func()  // closes the idle connections that are our own
	clock       Clock
	onDelivery  func(Delivery)
	onError     func(error)
	faults      func(*pubsubpb.PubsubMessage, int) Fault
	ackDeadline time.Duration

	// events are what happened elsewhere and is to be dealt with in run, the
	// only goroutine that uses the fields below them.
	mu     sync.Mutex
	events []func()
	spare  []func()
	wake   chan struct{}
	done   chan struct{}
	err    error // of the shutdown; read after done

	delayed  waiting   // by a Fault
	flights  list.List // of *flight, by deadline
	window   window
	ramp     ramp
	backoff  pushBackoff
	common   common
	renewAt  time.Time
	stopping bool
	cut      bool // requests under way have been cancelled
	alarm    time.Time
	disarm   func() bool
}

// source is where a Dispatcher takes messages from. It is called by run alone.
type source interface {
	// work does what is due, such as calls to a backend.
	work(now time.Time)
	// next returns a message that is due, or nil; n is how many are wanted.
	next(n int) *message
	acked(m *message)
	// refused says what becomes of a message whose delivery failed, and when it
	// is due again.
	refused(m *message, now time.Time) (deadLettered bool, again time.Time)
	// released takes back a message that was not delivered.
	released(m *message)
	// due calls at with the times at which there is something to do.
	due(now time.Time, at func(time.Time))
	// stop ends the waiting for more messages.
	stop()
	// busy says whether calls are under way, for which close has to wait.
	busy() bool
	close() error
}

// message is one that is ours for the time being.
type message struct {
	*pubsubpb.PubsubMessage
	attempt int // the next one, or the one under way
	fault   *Fault
	at      time.Time // when it is due, while it waits

	lease  *pubsubserver.Lease // of a queue
	pulled pulledState         // of a backend
}

// flight is one request under way.
type flight struct {
	*message
	fault    Fault
	stops    int
	start    time.Time
	deadline time.Time
	cancel   context.CancelFunc
	expired  bool
	element  *list.Element // in flights
}

// newDispatcher returns a Dispatcher for a subscription with these settings. It
// is still to be given its source, and started.
func newDispatcher(s *pubsubpb.Subscription, o *Options) (*Dispatcher, error) {
	push := s.PushConfig
	limit := o.MaxOutstanding
	if limit <= 0 {
		limit = DefaultMaxOutstanding
	}
	endpoint, err := url.Parse(push.GetPushEndpoint())
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" {
		return nil, fmt.Errorf("pushfake: %s has no push endpoint that is an http or https URL", s.Name)
	}
	oidc := push.GetOidcToken()
	if oidc != nil && o.Issuer == nil {
		return nil, fmt.Errorf("pushfake: %s pushes with an OIDC token, and no issuer is given", s.Name)
	}
	d := &Dispatcher{
		encoding: encoding{
			subscription: s.Name,
			userAgent:    cmp.Or(o.UserAgent, defaultAgent),
			unwrapped:    push.GetNoWrapper() != nil,
			metadata:     push.GetNoWrapper().GetWriteMetadata(),
			attempts:     s.DeadLetterPolicy != nil,
		},
		issuer:      o.Issuer,
		oidc:        oidc,
		audience:    cmp.Or(oidc.GetAudience(), push.GetPushEndpoint()),
		endpoint:    push.GetPushEndpoint(),
		transport:   o.Transport,
		ownIdle:     func() {},
		clock:       o.Clock,
		onDelivery:  o.OnDelivery,
		onError:     o.OnError,
		faults:      o.Faults,
		ackDeadline: cmp.Or(time.Duration(s.AckDeadlineSeconds)*time.Second, defaultAckDeadline),
		wake:        make(chan struct{}, 1),
		done:        make(chan struct{}),
		window:      window{size: float64(min(startWindow, limit)), limit: float64(limit)},
		disarm:      func() bool { return false },
	}
	d.request = &http.Request{
		Method: http.MethodPost, URL: endpoint, Host: endpoint.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if d.clock == nil {
		d.clock = pubsubserver.SystemClock{}
	}
	d.setAuthorization("")
	if d.transport == nil {
		dial := dialer(o.OnDial)
		t := &http.Transport{
			DialContext:         dial,
			MaxIdleConnsPerHost: limit,
			IdleConnTimeout:     90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
			DisableCompression:  true,
		}
		d.transport, d.ownIdle = t, t.CloseIdleConnections
		if d.poster = newPoster(endpoint, dial, limit); d.poster != nil {
			d.ownIdle = func() { t.CloseIdleConnections(); d.poster.closeIdle() }
		}
	}
	return d, nil
}

// Close cancels the requests under way and hands back every message that the
// endpoint has not acknowledged. It fails when a backend could not be told
// all of it; it will then deliver those messages again in its own time.
func (d *Dispatcher) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return d.Shutdown(ctx)
}

// Shutdown is Close that starts no more requests and gives those under way
// until ctx ends.
func (d *Dispatcher) Shutdown(ctx context.Context) error {
	d.finish()
	select {
	case <-d.done:
	case <-ctx.Done():
		d.post(d.cancelFlights)
		<-d.done
	}
	return d.err
}

// finish has no more requests started, and returns when that is so.
func (d *Dispatcher) finish() {
	stopped := make(chan struct{})
	d.post(func() {
		d.stopping = true
		d.source.stop()
		close(stopped)
	})
	select {
	case <-stopped:
	case <-d.done:
	}
}

func (d *Dispatcher) cancelFlights() {
	d.cut = true
	for e := d.flights.Front(); e != nil; e = e.Next() {
		e.Value.(*flight).cancel()
	}
}

// post has run call f.
func (d *Dispatcher) post(f func()) {
	d.mu.Lock()
	d.events = append(d.events, f)
	d.mu.Unlock()
	d.signal()
}

func (d *Dispatcher) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *Dispatcher) run() {
	defer close(d.done)
	for {
		d.mu.Lock()
		events := d.events
		d.events = d.spare[:0]
		d.mu.Unlock()
		for i, f := range events {
			f()
			events[i] = nil
		}
		d.spare = events

		now := d.clock.Now()
		d.expire(now)
		d.source.work(now)
		d.launch(now)
		if d.stopping && d.flights.Len() == 0 && !d.source.busy() {
			for _, m := range d.delayed {
				d.source.released(m)
			}
			d.err = d.source.close()
			d.disarm()
			d.ownIdle()
			return
		}
		d.sleep(now)
	}
}

// sleep waits until something happens or is due.
func (d *Dispatcher) sleep(now time.Time) {
	var next time.Time
	due := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if len(d.delayed) > 0 && now.Before(d.delayed[0].at) {
		due(d.delayed[0].at)
	}
	if start := d.backoff.start(now); now.Before(start) {
		due(start)
	}
	for e := d.flights.Front(); e != nil; e = e.Next() {
		if f := e.Value.(*flight); !f.expired {
			due(f.deadline)
			break
		}
	}
	d.source.due(now, due)
	// An alarm that goes off too early does no harm, and leaving it alone is
	// cheaper than setting it with each request.
	if !next.IsZero() && (d.alarm.IsZero() || next.Before(d.alarm)) {
		d.disarm()
		d.alarm = next
		d.disarm = d.clock.At(next, d.signal)
	}
	<-d.wake
	if !d.alarm.IsZero() && !d.clock.Now().Before(d.alarm) {
		d.alarm = time.Time{}
	}
}

// expire cancels the requests whose ack deadline has passed.
func (d *Dispatcher) expire(now time.Time) {
	for e := d.flights.Front(); e != nil; e = e.Next() {
		f := e.Value.(*flight)
		if now.Before(f.deadline) {
			return
		}
		f.expired = true
		f.cancel()
	}
}

// next returns a message to start a request for, or nil; n is how many there may
// be.
func (d *Dispatcher) next(now time.Time, n int) *message {
	if m := d.delayed.popDue(now); m != nil {
		return m
	}
	for {
		m := d.source.next(n)
		if m == nil || d.faults == nil {
			return m
		}
		fault := d.faults(m.PubsubMessage, m.attempt)
		m.fault = &fault
		if fault.Delay == 0 {
			return m
		}
		m.at = now.Add(fault.Delay)
		heap.Push(&d.delayed, m)
	}
}

// launch starts as many requests as there may be.
func (d *Dispatcher) launch(now time.Time) {
	for !d.stopping && !now.Before(d.backoff.start(now)) {
		n := min(d.window.open(), d.ramp.open(d.flights.Len(), now)) - d.flights.Len()
		if n <= 0 {
			return
		}
		m := d.next(now, n)
		if m == nil {
			return
		}
		var fault Fault
		if m.fault != nil {
			fault, m.fault = *m.fault, nil
		}
		d.backoff.started = now
		err := d.renewToken(now)
		common := d.common
		ctx, cancel := context.WithCancel(context.Background())
		f := &flight{
			message: m, fault: fault, stops: d.backoff.stops,
			start: now, deadline: now.Add(d.ackDeadline), cancel: cancel,
		}
		f.element = d.flights.PushBack(f)
		go func() {
			var a answer
			if err == nil {
				a, err = d.send(ctx, f, common)
			}
			d.post(func() { d.landed(f, a, err) })
		}()
	}
}

// common is what the requests of a subscription have in common while its token lasts.
type common struct {
	authorization string // the header, or ""
	// wrapped is all headers of a wrapped push, as they are sent.
	wrapped []byte
}

// renewToken provides for a request that starts now.
func (d *Dispatcher) renewToken(now time.Time) error {
	if d.oidc == nil || now.Before(d.renewAt) {
		return nil
	}
	token, err := d.issuer.IDToken(map[string]any{
		"aud":   d.audience,
		"email": d.oidc.ServiceAccountEmail,
		"iat":   now.Unix(),
		"exp":   now.Add(time.Hour).Unix(),
	})
	if err != nil {
		return err
	}
	d.renewAt = time.Unix(now.Unix(), 0).Add(time.Hour - tokenMargin)
	d.setAuthorization("Bearer " + token)
	return nil
}

func (d *Dispatcher) setAuthorization(authorization string) {
	d.common.authorization = authorization
	if !d.unwrapped {
		d.common.wrapped = headerLines(d.header(nil, authorization))
	}
}

// answer is what an endpoint answered: its status, and the beginning of the body
// where that does not acknowledge.
type answer struct {
	status int
	quoted []byte
}

// readAnswer reads an answer with its body, up to maxAnswer bytes, and reports whether
// that was all of it.
func readAnswer(r *http.Response) (a answer, whole bool, err error) {
	a.status = r.StatusCode
	body := &io.LimitedReader{R: r.Body, N: maxAnswer}
	if !Acknowledges(a.status) {
		if a.quoted, err = io.ReadAll(io.LimitReader(body, maxQuoted)); err != nil {
			return answer{}, false, err
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return answer{}, false, err
	}
	return a, body.N > 0, nil
}

// dialer returns what connects to endpoints, and tells onDial, if not nil.
func dialer(onDial func(net.Conn)) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err == nil && onDial != nil {
			onDial(conn)
		}
		return conn, err
	}
}

// send makes the request and returns its answer. The transport is used without a
// client, and so follows no redirects.
func (d *Dispatcher) send(ctx context.Context, f *flight, common common) (answer, error) {
	if f.fault.Status != 0 {
		return answer{status: f.fault.Status}, nil
	}
	body := d.body(f.PubsubMessage, f.attempt)
	if d.posts(body) && common.wrapped != nil && f.fault.Header == nil && !f.fault.Duplicate {
		return d.postTo(ctx, common.wrapped, body)
	}
	header := d.header(f.PubsubMessage, common.authorization)
	for name, values := range f.fault.Header {
		name = http.CanonicalHeaderKey(name)
		if values == nil {
			delete(header, name)
		} else {
			header[name] = values
		}
	}
	if f.fault.Duplicate {
		twin := make(chan struct{})
		go func() {
			defer close(twin)
			d.roundTrip(ctx, header.Clone(), body)
		}()
		defer func() { <-twin }()
	}
	return d.roundTrip(ctx, header, body)
}

// posts reports whether the poster takes a body.
func (d *Dispatcher) posts(body []byte) bool { return d.poster != nil && len(body) <= maxPosted }

// postTo has the poster post, with the headers as they are sent.
func (d *Dispatcher) postTo(ctx context.Context, header, body []byte) (answer, error) {
	a, processing, err := d.poster.post(ctx, header, body)
	if err != nil && processing {
		return answer{status: http.StatusProcessing}, nil
	}
	return a, err
}

func (d *Dispatcher) roundTrip(ctx context.Context, header http.Header, body []byte) (answer, error) {
	if d.posts(body) {
		return d.postTo(ctx, headerLines(header), body)
	}
	var processing atomic.Bool
	var informed atomic.Int64
	r := d.request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// With it, the transport leaves it to us how many there may be.
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			if code == http.StatusProcessing {
				processing.Store(true)
			}
			if informed.Add(1) > maxInformed {
				return errTooManyInformed
			}
			return nil
		},
	}))
	r.Header = header
	r.ContentLength = int64(len(body))
	r.Body = http.NoBody
	if len(body) > 0 {
		// GetBody lets the transport begin anew when a kept connection turns
		// out to be closed.
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.Body, _ = r.GetBody()
	}
	var a answer
	response, err := d.transport.RoundTrip(r)
	if err == nil {
		a, _, err = readAnswer(response)
		response.Body.Close()
	}
	switch {
	case err == nil:
		return a, nil
	case processing.Load():
		return answer{status: http.StatusProcessing}, nil
	}
	return answer{}, err
}

// Acknowledges says whether a status is an acknowledgement.
func Acknowledges(status int) bool {
	switch status {
	case http.StatusProcessing, http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
		return true
	}
	return false
}

// landed deals with the end of a request.
func (d *Dispatcher) landed(f *flight, a answer, err error) {
	f.cancel()
	d.flights.Remove(f.element)
	now := d.clock.Now()
	took := now.Sub(f.start)
	m := f.message
	switch {
	case f.expired && a.status != http.StatusProcessing: // which may be all that comes
		a, err = answer{}, fmt.Errorf("pushfake: no answer within the ack deadline of %s: %w", d.ackDeadline, context.DeadlineExceeded)
	case err != nil && d.cut: // it was our doing
		d.source.released(m)
		return
	}
	if f.fault.LoseAck && err == nil {
		err = ErrAckLost
	}
	v := Delivery{
		Subscription: d.subscription, Endpoint: d.endpoint, MessageID: m.MessageId, OrderingKey: m.OrderingKey, Attempt: m.attempt,
		Status: a.status, Answer: a.quoted, Err: err, AckDeadline: d.ackDeadline, Duration: took,
		Acked: err == nil && Acknowledges(a.status),
	}
	if v.Acked {
		d.window.acked(took)
		d.backoff.acked(f.stops, now)
		d.ramp.acks++
		d.source.acked(m)
	} else {
		d.window.failed(took)
		d.backoff.failed(f.stops, now)
		var again time.Time
		if v.DeadLettered, again = d.source.refused(m, now); !again.IsZero() {
			if again.Before(d.backoff.until) {
				again = d.backoff.until
			}
			v.RetryIn = max(0, again.Sub(now))
		}
	}
	if d.onDelivery != nil {
		d.onDelivery(v)
	}
}

// waiting is a heap of messages by when they are due.
type waiting []*message

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w waiting) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(x any)        { *w = append(*w, x.(*message)) }
func (w *waiting) Pop() any {
	last := len(*w) - 1
	m := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	return m
}

// popDue removes and returns a message that is due, or nil.
func (w *waiting) popDue(now time.Time) *message {
	if len(*w) == 0 || now.Before((*w)[0].at) {
		return nil
	}
	return heap.Pop(w).(*message)
}
