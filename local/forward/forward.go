// Package forward posts the messages of an inbox to a program of a developer's, each as
// the push that it was. It keeps the order within an ordering key, sends a message again
// until the program acknowledges it, and says how far all before it are done, and which
// after that, so that whoever goes on from there misses nothing and repeats nothing.
package forward

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"golang.org/x/oauth2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox"
)

const (
	// DefaultConcurrency is how many requests are under way at most.
	DefaultConcurrency = 8
	// DefaultTimeout is how long the program may take to answer: Pub/Sub's default ack
	// deadline.
	DefaultTimeout = 10 * time.Second
	// maxPause is the longest pause before a message is sent again.
	maxPause = 10 * time.Second
	// maxWaiting is how many messages wait for others of their ordering key at most.
	maxWaiting = 1000
	// maxAhead is how many messages are remembered that were acknowledged while one before
	// them was not. Those past it are sent again by whoever goes on.
	maxAhead = 10_000
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 64 << 10
)

// Endpoint is where a program wants its pushes, and in which form.
type Endpoint struct {
	// Target is an http or https URL.
	Target *url.URL
	// Unwrapped sends the data alone, with the rest in headers, and Bare without.
	Unwrapped, Bare bool
}

// Options say where messages go, and how.
type Options struct {
	Endpoint
	// Tokens are the bearer tokens of the requests; nil sends none.
	Tokens oauth2.TokenSource
	// Concurrency is how many messages are sent at a time, until each is acknowledged; 0
	// means DefaultConcurrency. With 1 the order is that of the inbox.
	Concurrency int
	// Timeout is how long the program may take to answer; 0 means DefaultTimeout.
	Timeout time.Duration
	// OnResult is called, by several goroutines, after each request.
	OnResult func(Result)
	// OnDone is called, by several goroutines, after a message was acknowledged or skipped.
	// Done tells how far that is.
	OnDone func()
}

// Result is one finished request.
type Result struct {
	Message *inbox.Message
	// Attempt counts from 1, and Again says that somebody asked for it.
	Attempt int
	Again   bool
	// Status is the answer, or 0 with the reason in Err.
	Status   int
	Err      error
	Acked    bool
	Duration time.Duration
	// RetryIn is when the message is sent again; 0 when it is not.
	RetryIn time.Duration
}

// Forwarder forwards messages. New returns one.
type Forwarder struct {
	o      Options
	client *http.Client
	slots  chan struct{} // of messages that are sent
	room   chan struct{} // of messages that were taken and are not done

	mu    sync.Mutex
	all   list.List // of *taken, in the order in which they came; it begins with one that is not done
	keys  map[string][]*taken
	token string // up to it everything is done
	ahead int    // how many tokens of what is done there are after it
	last  *inbox.Message
	wait  sync.WaitGroup
	again sync.Mutex // held by Again and Wait
}

// taken is a message that is ours until the program has acknowledged it, or a run of
// messages that are done: then it has the token of the last one, and in done all of them.
type taken struct {
	token   string
	message *inbox.Message // nil when it is done
	done    []string
	place   *list.Element
}

// New returns a Forwarder.
func New(o Options) (*Forwarder, error) {
	if o.Target == nil || o.Target.Host == "" || o.Target.Scheme != "http" && o.Target.Scheme != "https" {
		return nil, errors.New("forward: the target is not an http or https URL")
	}
	if o.Concurrency <= 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	return &Forwarder{
		o: o,
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: o.Concurrency, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		slots: make(chan struct{}, o.Concurrency),
		room:  make(chan struct{}, o.Concurrency+maxWaiting),
		keys:  make(map[string][]*taken),
	}, nil
}

// Begin says after which token the messages come: all before it count as done.
func (f *Forwarder) Begin(token string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token = token
}

// Forward takes a message, whose data is whole, and returns while it is sent. It waits
// while too many are. token is the one that goes on after the message. The error is
// ctx's, which also ends the sending.
func (f *Forwarder) Forward(ctx context.Context, token string, m *inbox.Message) error {
	select {
	case f.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	t := &taken{token: token, message: m}
	f.mu.Lock()
	t.place = f.all.PushBack(t)
	// One of a key at a time, as Pub/Sub does.
	alone := true
	if m.OrderingKey != "" {
		key := m.Subscription + "\x00" + m.OrderingKey
		f.keys[key] = append(f.keys[key], t)
		alone = len(f.keys[key]) == 1
	}
	f.mu.Unlock()
	if !alone {
		return nil
	}
	// Here, and not in the goroutine, so that messages begin in the order in which they
	// came.
	select {
	case f.slots <- struct{}{}:
		f.start(ctx, t)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Skip passes over a message that is not to be sent.
func (f *Forwarder) Skip(token string) {
	f.mu.Lock()
	t := &taken{token: token}
	t.place = f.all.PushBack(t)
	f.settle(t)
	f.mu.Unlock()
	f.tell()
}

// Done returns the token up to which everything is done, empty where nothing is, and those
// of the messages after it that are done too, at most 10,000.
func (f *Forwarder) Done() (token string, ahead []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for e := f.all.Front(); e != nil; e = e.Next() {
		ahead = append(ahead, e.Value.(*taken).done...)
	}
	return f.token, ahead
}

func (f *Forwarder) tell() {
	if f.o.OnDone != nil {
		f.o.OnDone()
	}
}

// Wait waits until nothing is under way, and Again begins nothing meanwhile.
func (f *Forwarder) Wait() {
	f.again.Lock()
	defer f.again.Unlock()
	f.wait.Wait()
}

// Again sends the last message once more, whatever became of it. It reports whether
// there is one. After the end of ctx it begins nothing; what it began before, it finishes.
func (f *Forwarder) Again(ctx context.Context) bool {
	f.again.Lock()
	defer f.again.Unlock()
	f.mu.Lock()
	m := f.last
	f.mu.Unlock()
	if m != nil && ctx.Err() == nil {
		f.wait.Go(func() { f.send(context.WithoutCancel(ctx), m, Result{Message: m, Attempt: 1, Again: true}) })
	}
	return m != nil
}

// start sends a message until it is acknowledged, and then what waited for it. It has a
// slot, and frees it.
func (f *Forwarder) start(ctx context.Context, t *taken) {
	f.wait.Go(func() {
		defer func() { <-f.slots }()
		for next := t; next != nil; {
			if !f.deliver(ctx, next.message) {
				return // ctx has ended
			}
			next = f.finish(next)
			f.tell()
		}
	})
}

// finish notes that a message is done, and returns the next one of its key.
func (f *Forwarder) finish(t *taken) (next *taken) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := t.message
	if m.OrderingKey != "" {
		key := m.Subscription + "\x00" + m.OrderingKey
		if f.keys[key] = slices.Delete(f.keys[key], 0, 1); len(f.keys[key]) == 0 {
			delete(f.keys, key)
		} else {
			next = f.keys[key][0]
		}
	}
	<-f.room
	f.settle(t)
	return next
}

// settle notes that a message is done. Runs of what is done become one, so that a message
// that is never acknowledged keeps little of what comes after it. f.mu must be held.
func (f *Forwarder) settle(t *taken) {
	t.message = nil
	if f.ahead < maxAhead {
		t.done = append(t.done, t.token)
		f.ahead++
	}
	for _, e := range []*list.Element{t.place.Prev(), t.place.Next()} {
		if e == nil || e.Value.(*taken).message != nil {
			continue
		}
		before, after := e.Value.(*taken), t
		if e == t.place.Next() {
			before, after = after, before
		}
		before.token, before.done = after.token, append(before.done, after.done...)
		f.all.Remove(after.place)
		t = before
	}
	if f.all.Front() == t.place {
		f.token = t.token
		f.ahead -= len(t.done)
		f.all.Remove(t.place)
	}
}

// deliver sends a message until it is acknowledged, and reports false when ctx ends
// before.
func (f *Forwarder) deliver(ctx context.Context, m *inbox.Message) bool {
	pause := gax.Backoff{Initial: 200 * time.Millisecond, Max: maxPause, Multiplier: 2}
	for attempt := 1; ; attempt++ {
		r := Result{Message: m, Attempt: attempt}
		r.RetryIn = pause.Pause()
		if f.send(ctx, m, r) {
			return true
		}
		if gax.Sleep(ctx, r.RetryIn) != nil {
			return false
		}
	}
}

// send sends a message once, tells what came of it, and reports whether the program has
// acknowledged it.
func (f *Forwarder) send(ctx context.Context, m *inbox.Message, r Result) bool {
	f.mu.Lock()
	f.last = m
	f.mu.Unlock()
	start := time.Now()
	r.Status, r.Err = f.post(ctx, m)
	r.Duration = time.Since(start)
	if r.Acked = pushfake.Acknowledges(r.Status); r.Acked || r.Again {
		r.RetryIn = 0
	}
	if ctx.Err() == nil && f.o.OnResult != nil {
		f.o.OnResult(r)
	}
	return r.Acked
}

func (f *Forwarder) post(ctx context.Context, m *inbox.Message) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.Timeout)
	defer cancel()
	var token *oauth2.Token
	if f.o.Tokens != nil {
		if token, err = f.o.Tokens.Token(); err != nil {
			return 0, fmt.Errorf("no token: %w", err)
		}
	}
	status, err = f.o.Post(ctx, f.client, token, m)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("none within the ack deadline of %v: %w", f.o.Timeout, context.DeadlineExceeded)
	}
	return status, err
}

// Post posts a message once, as the push that it was, and returns the status of the
// answer. A quarantined message's body is posted as it came. token may be nil.
func (e *Endpoint) Post(ctx context.Context, client *http.Client, token *oauth2.Token, m *inbox.Message) (int, error) {
	header, body := e.request(m)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.Target.String(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header = header
	if token != nil {
		token.SetAuthHeader(r)
	}
	resp, err := client.Do(r)
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		err = failed.Err // which does not repeat the address: it may hold a token
	}
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)
	return resp.StatusCode, nil
}

func (e *Endpoint) request(m *inbox.Message) (http.Header, []byte) {
	if m.Quarantined != "" { // the data is the body, whatever it is
		return http.Header{"Content-Type": {"application/json"}, "User-Agent": {"CloudPubSub-Google"}}, m.Data
	}
	message := &pubsubpb.PubsubMessage{MessageId: m.MessageID, Data: m.Data, Attributes: m.Attributes, OrderingKey: m.OrderingKey}
	if !m.PublishTime.IsZero() {
		message.PublishTime = timestamppb.New(m.PublishTime)
	}
	return pushfake.Push{
		Message: message, Subscription: m.Subscription, Attempt: m.DeliveryAttempt, Unwrapped: e.Unwrapped || e.Bare, Metadata: e.Unwrapped,
	}.Request()
}
