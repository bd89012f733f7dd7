package pushfake

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	// maxPosted is the size of the largest body that a poster sends: the system
	// takes it whole, also where the endpoint answers without reading.
	maxPosted = 32 << 10
	// maxPosterHead is how much of an answer is read besides its body.
	maxPosterHead = 1 << 20
	// keepIdle is how long a poster's connection stays open without a request.
	keepIdle = 90 * time.Second
	// dialTimeout bounds the making of a connection, besides the ack deadline.
	dialTimeout = 10 * time.Second
)

// poster posts small bodies to one http endpoint. It does in one goroutine, and in
// two thirds of the processor time, what http.Transport does in three.
type poster struct {
	address string // to dial
	head    []byte // the request line and the Host header
	request *http.Request
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	most    int // idle connections

	mu   sync.Mutex
	idle []*kept // the one used last at the end
}

// kept is a connection that a poster keeps.
type kept struct {
	net.Conn
	limit io.LimitedReader
	r     *bufio.Reader
	out   bytes.Buffer
	since time.Time // when it became idle
}

// newPoster returns a poster for an http endpoint, or nil for one that it cannot
// post to.
func newPoster(endpoint *url.URL, dial func(ctx context.Context, network, address string) (net.Conn, error), most int) *poster {
	host, err := httpguts.PunycodeHostPort(endpoint.Host)
	if err != nil || endpoint.Scheme != "http" || !knowsClosed || !httpguts.ValidHostHeader(host) {
		return nil
	}
	address := host
	if endpoint.Port() == "" {
		address = net.JoinHostPort(endpoint.Hostname(), "80")
	}
	return &poster{
		address: address,
		head:    fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\n", endpoint.RequestURI(), host),
		request: &http.Request{Method: http.MethodPost},
		dial:    dial,
		most:    most,
	}
}

// post sends one request, with the headers as headerLines gives them, and returns its
// answer. processing says that 102 came before it, or came and nothing after.
func (p *poster) post(ctx context.Context, header, body []byte) (a answer, processing bool, err error) {
	c, err := p.connection(ctx)
	if err != nil {
		return answer{}, false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	a, processing, reusable, err := c.exchange(p, header, body)
	if !stop() || err != nil || !reusable {
		_ = c.Close()
	} else {
		p.keep(c)
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return a, processing, err
}

// exchange sends a request and reads its answer.
func (c *kept) exchange(p *poster, header, body []byte) (a answer, processing, reusable bool, err error) {
	c.out.Reset()
	c.out.Write(p.head)
	c.out.Write(header)
	c.out.WriteString("Content-Length: ")
	c.out.Write(strconv.AppendInt(c.out.AvailableBuffer(), int64(len(body)), 10))
	c.out.WriteString("\r\n\r\n")
	c.out.Write(body)
	// An endpoint that does not read all of it may have answered all the same.
	_, sendErr := c.Write(c.out.Bytes())
	c.limit.N = maxPosterHead + maxAnswer
	for {
		response, err := http.ReadResponse(c.r, p.request)
		if err != nil {
			if sendErr != nil {
				err = sendErr
			}
			return answer{}, processing, false, err
		}
		if response.StatusCode == http.StatusProcessing {
			processing = true
		}
		if response.StatusCode < 200 && response.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		a, whole, err := readAnswer(response)
		if err != nil {
			return answer{}, processing, false, err
		}
		return a, processing, whole && sendErr == nil && !response.Close && c.r.Buffered() == 0, nil
	}
}

// headerLines returns headers as they are sent.
func headerLines(header http.Header) []byte {
	var lines bytes.Buffer
	_ = header.Write(&lines) // which a buffer does not refuse
	return lines.Bytes()
}

// connection returns an idle connection that the endpoint has not closed, or a new
// one.
func (p *poster) connection(ctx context.Context) (*kept, error) {
	for {
		p.mu.Lock()
		last := len(p.idle) - 1
		if last < 0 {
			p.mu.Unlock()
			break
		}
		c := p.idle[last]
		p.idle[last] = nil
		p.idle = p.idle[:last]
		p.mu.Unlock()
		if !closedByPeer(c.Conn) {
			return c, nil
		}
		_ = c.Close()
	}
	conn, err := p.dial(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	c := &kept{Conn: conn, limit: io.LimitedReader{R: conn}}
	c.r = bufio.NewReader(&c.limit)
	return c, nil
}

// keep keeps a connection for another request.
func (p *poster) keep(c *kept) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) >= p.most {
		_ = c.Close()
		return
	}
	if p.idle = append(p.idle, c); len(p.idle) == 1 {
		time.AfterFunc(keepIdle, p.prune)
	}
}

// prune closes the connections that were idle too long.
func (p *poster) prune() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].since) >= keepIdle {
		_ = p.idle[n].Close()
		n++
	}
	clear(p.idle[copy(p.idle, p.idle[n:]):])
	if p.idle = p.idle[:len(p.idle)-n]; len(p.idle) > 0 {
		time.AfterFunc(time.Until(p.idle[0].since.Add(keepIdle)), p.prune)
	}
}

// closeIdle closes all idle connections.
func (p *poster) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		_ = c.Close()
	}
	p.idle = nil
}
