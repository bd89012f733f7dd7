package mns

import (
	"net/http"
	"net/url"
	"strings"

	"example.com/pushinbox/shared/verify"
)

// Endpoint checks that the request's address holds the endpoint's secret, as the
// last segment of its path or as ?token=, or fails with ErrSecret. It returns the path
// without that segment, for logs and for the inbox. An empty secret means that none
// is required. The time that it takes does not depend on the secret.
func Endpoint(r *http.Request, secret string) (path string, err error) {
	path = r.URL.EscapedPath()
	if secret == "" {
		return path, nil
	}
	before, last := path[:strings.LastIndexByte(path, '/')+1], path[strings.LastIndexByte(path, '/')+1:]
	if last, err := url.PathUnescape(last); err == nil && verify.SameSecret(last, secret) {
		if before != "/" {
			before = strings.TrimSuffix(before, "/")
		}
		return before, nil
	}
	if verify.Secret(r, secret) != nil {
		return path, ErrSecret
	}
	return path, nil
}
