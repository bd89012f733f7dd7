package keyproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/proxy"

	"example.com/pushinbox/local/handover"
)

// join copies between two connections until both have ended, either is broken,
// neither says anything for idleTime, or ctx ends. It closes both.
func join(ctx context.Context, a, b net.Conn) {
	closeBoth := func() { _, _ = a.Close(), b.Close() }
	defer context.AfterFunc(ctx, closeBoth)()
	defer closeBoth()
	alive := func() {
		end := time.Now().Add(idleTime)
		_, _ = a.SetDeadline(end), b.SetDeadline(end)
	}
	var both sync.WaitGroup
	both.Go(func() { forward(a, b, alive, closeBoth) })
	both.Go(func() { forward(b, a, alive, closeBoth) })
	both.Wait()
}

// forward copies from one connection to another, and calls broken on an error.
func forward(to, from net.Conn, alive, broken func()) {
	buffer := make([]byte, 32<<10)
	for {
		alive()
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				broken()
				return
			}
		}
		switch {
		case err == io.EOF:
			if handover.CloseWrite(to) != nil {
				broken()
			}
			return
		case err != nil:
			broken()
			return
		}
	}
}

// dial connects to port 443 of a host, through the former proxy if there was one.
func (p *Proxy) dial(ctx context.Context, host string) (net.Conn, error) {
	address := net.JoinHostPort(host, "443")
	via, err := p.options.Former(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{}
	switch {
	case via == nil:
		return dialer.DialContext(ctx, "tcp", address)
	case strings.HasPrefix(via.Scheme, "socks5"):
		through, err := proxy.FromURL(via, dialer)
		if err != nil {
			return nil, err
		}
		return through.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
	case via.Scheme != "http" && via.Scheme != "https":
		return nil, fmt.Errorf("the scheme %q of the proxy %s is not http, https or socks5", via.Scheme, via.Host)
	}
	port := via.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[via.Scheme]
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(via.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("the proxy %s: %w", via.Host, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if via.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: via.Hostname(), RootCAs: p.options.Roots})
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("the proxy %s: %w", via.Host, err)
		}
		conn = secure
	}
	if conn, err = connect(conn, via, address); err != nil {
		return nil, fmt.Errorf("the proxy %s: %w", via.Host, err)
	}
	return conn, nil
}

// connect asks the proxy at the other end of conn for a connection to address.
func connect(conn net.Conn, via *url.URL, address string) (net.Conn, error) {
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: make(http.Header)}
	if user := via.User; user != nil {
		password, _ := user.Password()
		r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	err := r.Write(conn)
	if err == nil {
		answers := bufio.NewReader(io.LimitReader(conn, maxHeader))
		var answer *http.Response
		if answer, err = http.ReadResponse(answers, r); err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("it answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
		}
		if err == nil {
			ahead, _ := answers.Peek(answers.Buffered())
			return handover.WithAhead(conn, ahead), nil
		}
	}
	_ = conn.Close()
	return nil, err
}

// keyConn is a connection to a host of the keys.
type keyConn struct {
	net.Conn
	host    string
	release func()
}

// Close closes the connection and frees its place.
func (c *keyConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
