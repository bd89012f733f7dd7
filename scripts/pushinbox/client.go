package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/oauth2"

	"example.com/pushinbox/local/stack"
)

const (
	// defaultAddress is where `pushinbox local` listens when it is not told.
	defaultAddress = "http://127.0.0.1:8080"
	// callTimeout bounds one call.
	callTimeout = 30 * time.Second
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 16 << 20
	// maxSecret is the size of the largest file with a token or a key, in bytes.
	maxSecret = 64 << 10
)

// The variables that hold the address to call, a token, and the name of the file
// with the key that "pushinbox local --host" printed.
const (
	envURL     = "PUSHINBOX_URL"
	envIDToken = "PUSHINBOX_TOKEN"
	envKeyFile = "PUSHINBOX_KEY_FILE"
)

// client calls the running pushinbox local or a deployed function. It follows no
// redirect, which would take the token elsewhere.
type client struct {
	base    *url.URL
	token   string // sent as a bearer token unless it is empty
	keyFile string // has the key of the pushinbox local at base, or is empty
	timeout time.Duration
}

// newClient returns a client for the address that a flag or a variable names.
func newClient(flag, address string) (*client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		if flag != envURL {
			flag = "--" + flag
		}
		return nil, usageError{fmt.Errorf("%s %q is not a URL such as %s", flag, address, defaultAddress)}
	}
	return &client{base: u, timeout: callTimeout}, nil
}

// target says which pushinbox local, or which deployed inbox, a command calls.
type target struct{ url, data string }

// urlFlag adds --url, or what it was called before.
func (t *target) urlFlag(flags *pflag.FlagSet, name, usage string) {
	checked(flags, name, "", "URL", usage, func(s string) error {
		if t.url = s; s == "" {
			return errors.New("it must be a URL such as " + defaultAddress)
		}
		return nil
	})
}

// dataFlag adds --data.
func (t *target) dataFlag(flags *pflag.FlagSet) {
	checked(flags, "data", "", "DIRECTORY", "call the pushinbox local that has its --data here; by default "+envURL+", else the nearest "+stack.DefaultData+" from here upwards, else port 8080", func(s string) error {
		if t.data = s; s == "" {
			return errors.New("it must name the directory of a pushinbox local")
		}
		return nil
	})
}

// client returns the client of what the flags name, of PUSHINBOX_URL, of the
// pushinbox local that is found, or of the default address.
func (t *target) client(ctx context.Context) (*client, error) {
	given := os.Getenv(envURL)
	switch {
	case t.url != "" && t.data != "":
		return nil, usageError{errors.New("give one of --url, --port and --data: each says what to call")}
	case t.url != "":
		return newClient("url", t.url)
	case t.data == "" && given != "":
		return newClient(envURL, given)
	}
	c, err := t.find(ctx)
	if t.data == "" && errors.Is(err, stack.ErrNotFound) {
		return newClient("url", defaultAddress)
	}
	return c, err
}

// local is client for what only a pushinbox local does. That never has an https
// address: such a PUSHINBOX_URL is a deployed console's.
func (t *target) local(ctx context.Context) (*client, error) {
	if t.url == "" && t.data == "" && strings.HasPrefix(os.Getenv(envURL), "https:") {
		c, err := t.find(ctx)
		if errors.Is(err, stack.ErrNotFound) {
			return newClient("url", defaultAddress)
		}
		return c, err
	}
	return t.client(ctx)
}

// find returns the client of the pushinbox local that is found by its data.
func (t *target) find(ctx context.Context) (*client, error) {
	run, err := stack.Find(ctx, t.data)
	if err != nil {
		return nil, err
	}
	c, err := newClient("url", run.URL)
	if err == nil {
		c.keyFile = run.KeyFile
	}
	return c, err
}

// below returns the client of a path of what c calls.
func (c *client) below(path string) *client {
	part := *c
	part.base = &url.URL{Scheme: c.base.Scheme, Host: c.base.Host, Path: strings.TrimSuffix(c.base.Path, "/") + path}
	return &part
}

// isLocal reports whether c calls this machine.
func (c *client) isLocal() bool { return stack.IsLoopback(c.base.Host) }

// local returns the client of the pushinbox local that c calls a part of.
func (c *client) local() *client {
	return &client{base: &url.URL{Scheme: c.base.Scheme, Host: c.base.Host}, keyFile: c.keyFile, timeout: callTimeout}
}

// answer is what was answered to a call.
type answer struct {
	status int
	body   []byte
	took   time.Duration
}

// call makes one request to path below the client's address, the address itself
// when path is empty.
func (c *client) call(ctx context.Context, method, path string, header http.Header, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	target := c.base.String()
	if path != "" {
		target = strings.TrimSuffix(target, "/") + path
	}
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, usageError{err}
	}
	if header != nil {
		r.Header = header
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.timeout > callTimeout {
		patience := time.AfterFunc(2*time.Second, func() {
			fmt.Fprintf(os.Stderr, "waiting for %s, at most %v\n", target, c.timeout)
		})
		defer patience.Stop()
	}
	start := time.Now()
	noRedirects := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := noRedirects.Do(r)
	if err != nil {
		return nil, notRunning(c.base.String(), err)
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(a.body) > maxAnswer {
		err = fmt.Errorf("it is over %d bytes", maxAnswer)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", target, err)
	}
	a.took = time.Since(start)
	return a, nil
}

// localToken returns a token that the pushinbox local at c's address signs, with
// the given claims.
func (c *client) localToken(ctx context.Context, claims url.Values) (string, error) {
	if err := c.useKey(); err != nil {
		return "", err
	}
	a, err := c.call(ctx, http.MethodGet, "/local/token?"+claims.Encode(), nil, nil)
	if err != nil {
		return "", err
	}
	if a.status != http.StatusOK {
		return "", fmt.Errorf("%s gave no token: %s", c.base, a)
	}
	token := strings.TrimSpace(string(a.body))
	if len(token) > maxSecret || strings.ContainsFunc(token, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.=", r))
	}) {
		return "", fmt.Errorf("%s gave no token: %s", c.base, a)
	}
	return token, nil
}

// pushTokens are tokens such as those of Pub/Sub's pushes that a pushinbox local signs.
type pushTokens struct {
	ctx      context.Context
	local    client
	email    string
	audience string // "" is the one of its function receive
}

// pushTokens returns tokens with an e-mail address, which c signs. Each is used for as long as
// it lives.
func (c *client) pushTokens(ctx context.Context, email, audience string) oauth2.TokenSource {
	return oauth2.ReuseTokenSource(nil, &pushTokens{ctx, *c, email, audience})
}

// Token makes pushTokens an oauth2.TokenSource.
func (p *pushTokens) Token() (*oauth2.Token, error) {
	claims := url.Values{"for": {"receive"}, "email": {p.email}}
	if p.audience != "" {
		claims.Set("aud", p.audience)
	}
	token, err := p.local.localToken(p.ctx, claims)
	return &oauth2.Token{AccessToken: token, Expiry: time.Now().Add(50 * time.Minute)}, err // of an hour
}

// useKey has calls to a pushinbox local carry its key, where there is one.
func (c *client) useKey() (err error) {
	if file := cmp.Or(os.Getenv(envKeyFile), c.keyFile); file != "" {
		c.token, err = readSecret(file)
	}
	return err
}

// readSecret reads a token from a file that nobody else may read. The file may
// have it as a header, as those do that pushinbox writes.
func readSecret(file string) (string, error) {
	f, err := openSecret(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(strings.TrimPrefix(string(b), "Authorization: Bearer "))
	if len(b) > maxSecret || secret == "" || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s does not have a token in one line", file)
	}
	return secret, nil
}

// openSecret opens a file with a secret, unless others may read or change it.
func openSecret(file string) (*os.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s has a secret, and others may read or change it (%o); run: chmod 600 %[1]s", file, info.Mode().Perm())
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// authorize sets the token to call with: that of the file or of the environment,
// or one of pushinbox local for the function. account and audience are what a
// deployed function expects in it, for the error.
func (c *client) authorize(ctx context.Context, file, function, account, audience string) (err error) {
	if c.token, err = givenToken(file); err != nil || c.token != "" {
		return err
	}
	if !c.isLocal() {
		return usageError{fmt.Errorf("no token for %s: give one with --token-file, such as <(gcloud auth print-identity-token --impersonate-service-account=%s --include-email --audiences=%s), or set %s", c.base.Host, account, audience, envIDToken)}
	}
	c.token, err = c.local().localToken(ctx, url.Values{"for": {function}})
	return err
}

// givenToken returns the token of the file or else of the environment, empty where
// neither is given.
func givenToken(file string) (string, error) {
	if file != "" {
		return readSecret(file)
	}
	return os.Getenv(envIDToken), nil
}

// ok reports whether the answer is a success.
func (a *answer) ok() bool { return a.status/100 == 2 }

// String returns the status with the detail, fit for a terminal.
func (a *answer) String() string {
	text := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	if d := a.detail(); d != "" {
		text += ": " + d
	}
	return text
}

// detail returns the detail of a problem+json body, or the beginning of another
// one, fit for a terminal.
func (a *answer) detail() string {
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(a.body, &problem) != nil {
		problem.Detail = strings.TrimSpace(strings.ToValidUTF8(string(a.body[:min(len(a.body), 200)]), "?"))
	}
	return visible(problem.Detail)
}

// notRunning explains that nothing listens on this machine, the common case.
func notRunning(address string, err error) error {
	op := (*net.OpError)(nil)
	if u, bad := url.Parse(address); bad == nil && stack.IsLoopback(u.Host) && errors.As(err, &op) && op.Op == "dial" {
		return explained{fmt.Sprintf("nothing answers at %s; start it with: %s local, or say which one to call with --data or %s", address, self(), envURL), err}
	}
	return err
}
