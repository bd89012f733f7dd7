// Package inboxclient calls the HTTP API of a console: it lists, gets, follows,
// publishes and replays messages. The API is described in docs/api.md. The command
// line uses this package; no function does.
//
// A call that only reads is repeated for a while when the console cannot be reached
// or answers 503. A call that publishes is sent once, unless it did not reach the
// console at all.
package inboxclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/googleapis/gax-go/v2"
	"golang.org/x/oauth2"
)

const (
	// callTimeout bounds one call with its answer, but for the live tail. A console
	// itself ends a read after 30 seconds; the largest answer has 20 MB.
	callTimeout = 2 * time.Minute
	// headerTimeout bounds the wait for the beginning of an answer. An instance may
	// have to start.
	headerTimeout = time.Minute
	// maxAnswer is the largest answer, in bytes: a quarantined body in base64.
	maxAnswer = 24 << 20
	// maxPause is the longest pause before a call is repeated.
	maxPause = 15 * time.Second
)

// Options holds New's optional settings.
type Options struct {
	// Tokens returns the bearer token of each call; nil sends none. They are sent
	// to the address of New only: no redirect is followed.
	Tokens oauth2.TokenSource
	// Transport sends the calls; nil means one that notices a dead connection
	// within 10 seconds.
	Transport http.RoundTripper
	// Patience is how long a call that only reads is repeated; 0 means 30 seconds.
	// A console that has never answered is not waited for.
	Patience time.Duration
	// OnRetry is called before a call is repeated, with the reason and the pause.
	OnRetry func(err error, pause time.Duration)
}

// Client calls a console. It is safe for concurrent use.
type Client struct {
	base     *url.URL
	http     *http.Client
	tokens   oauth2.TokenSource
	patience time.Duration
	onRetry  func(error, time.Duration)
	answered atomic.Bool
	skew     atomic.Int64
}

// New returns a client of the console at address, such as http://127.0.0.1:8080.
func New(address string, o *Options) (*Client, error) {
	if o == nil {
		o = new(Options)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("inboxclient: %q is not the address of a console, such as http://127.0.0.1:8080", address)
	}
	transport := o.Transport
	if transport == nil {
		transport = watchful()
	}
	return &Client{
		base: u, tokens: o.Tokens, patience: cmp.Or(o.Patience, 30*time.Second), onRetry: o.OnRetry,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// watchful returns a transport that has the system, and HTTP/2, ask the other side
// for a sign of life: the far end of a connection that was lost says nothing.
func watchful() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{
		Timeout:         10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: 2 * time.Second, Count: 2},
	}).DialContext
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 4 * time.Second, PingTimeout: 4 * time.Second}
	t.ResponseHeaderTimeout = headerTimeout
	return t
}

// Address returns the address of the console.
func (c *Client) Address() string { return c.base.String() }

// Error is an answer that is not a success.
type Error struct {
	Status int
	// Detail says what is wrong: that of the problem+json, or the beginning of
	// another body. It comes from the server and may hold any character.
	Detail string
	// RetryAfter is how long the server asks to be left alone.
	RetryAfter time.Duration
}

// Error returns the status and the detail, in one line.
func (e *Error) Error() string {
	text := strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status)))
	if e.Detail != "" {
		text += ": " + lineEnds.Replace(e.Detail)
	}
	return text
}

// lineEnds writes out the ends of lines: what a server says must not look like more
// than one error.
var lineEnds = strings.NewReplacer("\r", `\r`, "\n", `\n`)

// IsNotFound reports whether err is the answer that there is no such message.
func IsNotFound(err error) bool {
	e := (*Error)(nil)
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// NotSent reports whether err means that a request did not reach the console: it
// changed nothing.
func NotSent(err error) bool {
	op, refused := (*net.OpError)(nil), (*Error)(nil)
	switch {
	case errors.As(err, &refused):
		return refused.Status/100 == 4
	case errors.As(err, &op):
		return op.Op == "dial"
	}
	return errors.Is(err, errNoToken)
}

// isPassing reports whether the same call may succeed later.
func isPassing(err error) bool {
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		return !errors.Is(err, context.Canceled) && !errors.Is(err, errAnswer) && !errors.Is(err, ErrFilter) && !errors.As(err, new(outputError))
	}
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

var (
	errNoToken = errors.New("there is no token")
	errAnswer  = errors.New("this is not an answer of a console")
)

// request is one call.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         []byte
}

// send sends a request once and returns a successful answer.
func (c *Client) send(ctx context.Context, call request) (*http.Response, error) {
	u := c.base.JoinPath(call.path)
	u.RawQuery = call.query.Encode()
	r, err := http.NewRequestWithContext(ctx, call.method, u.String(), bytes.NewReader(call.body))
	if err != nil {
		return nil, err
	}
	if call.header != nil {
		r.Header = call.header.Clone()
	}
	if c.tokens != nil {
		token, err := c.tokens.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNoToken, err)
		}
		r.Header.Set("Authorization", "Bearer "+token.AccessToken)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // the address has what the caller knows, and can be long
		}
		return nil, fmt.Errorf("%s cannot be reached: %w", c.base.Host, err)
	}
	c.answered.Store(true)
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.skew.Store(int64(time.Until(at)))
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // the status alone says enough
	e := &Error{Status: resp.StatusCode, Detail: strings.TrimSpace(string(b[:min(len(b), 200)]))}
	var problem struct{ Detail string }
	if json.Unmarshal(b, &problem) == nil && problem.Detail != "" {
		e.Detail = problem.Detail
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return nil, e
}

// Now returns the time at the console, as far as its answers tell. The two clocks
// are taken for one unless they differ by more than 2 seconds.
func (c *Client) Now() time.Time {
	if skew := time.Duration(c.skew.Load()); skew.Abs() > 2*time.Second {
		return time.Now().Add(skew)
	}
	return time.Now()
}

// read sends a request that changes nothing, and gives the answer's body to read.
// All of it is repeated while that may help.
func (c *Client) read(ctx context.Context, call request, read func(*http.Response) error) error {
	call.method = http.MethodGet
	once := func() error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resp, err := c.send(ctx, call)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return read(resp)
	}
	until := time.Now().Add(c.patience)
	for tries := 0; ; tries++ {
		err := once()
		if err == nil || ctx.Err() != nil || !isPassing(err) || !c.answered.Load() {
			return cmp.Or(ctx.Err(), err)
		}
		pause := pauseAfter(err, tries)
		if time.Now().Add(pause).After(until) {
			return err
		}
		if c.onRetry != nil {
			c.onRetry(err, pause)
		}
		if err := gax.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// readJSON is read for an answer in JSON, which is decoded once: read does not repeat a
// call whose answer is none of a console.
func (c *Client) readJSON(ctx context.Context, call request, answer any) error {
	return c.read(ctx, call, func(resp *http.Response) error {
		b, err := all(resp, 0)
		if err != nil {
			return err
		}
		return decode(b, answer)
	})
}

// pauseAfter returns how long to wait after a failure that was preceded by so many.
func pauseAfter(err error, tries int) time.Duration {
	if e := (*Error)(nil); errors.As(err, &e) && e.RetryAfter > 0 {
		return min(e.RetryAfter, maxPause)
	}
	d := min(maxPause, 250*time.Millisecond<<min(tries, 10))
	return d/2 + rand.N(d/2)
}

// all reads an answer's body, which has about size bytes.
func all(resp *http.Response, size int) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(max(0, min(size, maxAnswer)) + bytes.MinRead) // the server may have said the size
	n, err := b.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && n > maxAnswer {
		err = fmt.Errorf("%w: it has over %d bytes", errAnswer, maxAnswer)
	}
	return b.Bytes(), err
}

// decode reads JSON.
func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	return nil
}
