package keyproxy

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// hostKey is the key in a request's context of the host that its connection is for.
type hostKey struct{}

// keyHost returns the handler of the hosts of the keys.
func (p *Proxy) keyHost() http.Handler {
	onward := p.onward()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _ := r.Context().Value(hostKey{}).(string)
		if strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(r.Host), ":443"), ".") != host {
			httpapi.WriteError(w, problem.New(http.StatusMisdirectedRequest, "this connection is for "+host))
			return
		}
		if answer := p.options.Answers[host+r.URL.EscapedPath()]; answer != nil {
			answer.ServeHTTP(w, r)
			return
		}
		end := time.Now().Add(requestTime)
		control := http.NewResponseController(w)
		_, _ = control.SetReadDeadline(end), control.SetWriteDeadline(end)
		ctx, cancel := context.WithDeadline(r.Context(), end)
		defer cancel()
		onward.ServeHTTP(w, r.WithContext(ctx))
	})
}

// onward passes a request on to the real host, unchanged.
func (p *Proxy) onward() http.Handler {
	return &httputil.ReverseProxy{
		Transport: &http.Transport{
			Proxy:                  func(r *http.Request) (*url.URL, error) { return p.options.Former(r.URL) },
			TLSClientConfig:        &tls.Config{RootCAs: p.options.Roots},
			DialContext:            (&net.Dialer{Timeout: dialTime}).DialContext,
			TLSHandshakeTimeout:    headerTime,
			IdleConnTimeout:        keptTime,
			MaxConnsPerHost:        maxTunnels,
			MaxIdleConnsPerHost:    16,
			MaxResponseHeaderBytes: 4 * maxHeader,
			ExpectContinueTimeout:  time.Second,
			DisableCompression:     true, // nothing is added
			ForceAttemptHTTP2:      true,
		},
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			host, _ := r.In.Context().Value(hostKey{}).(string)
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "https", host, host
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			// These are taken away from what comes to a reverse proxy.
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := r.In.Header[name]; ok {
					maps.Copy(r.Out.Header, http.Header{name: values})
				}
			}
		},
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			httpapi.WriteError(w, &problem.Error{Status: http.StatusBadGateway, Detail: r.Host + " cannot be reached: " + err.Error(), Cause: err})
		},
	}
}
