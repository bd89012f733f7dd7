package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/pubsubpush"
)

// reportTimeout bounds what is only for people in front of the other terminal.
const reportTimeout = 2 * time.Second

// errRefused is a push that was answered, but not acknowledged.
var errRefused = errors.New("not acknowledged")

// sending is what the flags of send say.
type sending struct {
	url                 string // where to post
	at                  target // the pushinbox local that signs
	audience, tokenFile string
}

func newSend() *cobra.Command {
	var s sending
	cmd := &cobra.Command{
		Use:   "send FILE",
		Short: "Post a recorded push, signed, and print the answer",
		Long: `Post a recorded push, signed, and print the answer.

FILE holds the JSON body of a push, or a whole HTTP request: headers, an empty
line, the body. "-" reads it from standard input.

The running "pushinbox local" signs it, for any URL: the audience of the token is the URL,
as in Pub/Sub's tokens, and its terminal shows the answer. A deployed function accepts
only Google's tokens: give --token-file, or set PUSHINBOX_TOKEN.

A request with the header x-mns-version is a push of Alibaba MNS. It has a signature in
place of a token, which the running "pushinbox local" renews. To a program on another
machine it is sent as it was recorded.`,
		Example: `  pushinbox send testdata/pubsub/sample_message.json
  pushinbox send testdata/mns/xml.http
  pushinbox send --url http://127.0.0.1:3000/push testdata/pubsub/sample_message.json
  PUSHINBOX_TOKEN="$(pushinbox token --claim aud=wrong)" pushinbox send push.json
  pushinbox send --url https://receive-123.europe-west1.run.app/ --token-file token.txt push.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			push, err := readPush(args[0])
			if err != nil {
				return err
			}
			return s.run(cmd, push)
		},
	}
	flags := cmd.Flags()
	checked(flags, "url", "", "URL", "where to post it, by default /receive of the running pushinbox local, and /mns for a push of MNS", func(value string) error {
		if s.url = value; value == "" {
			return errors.New("it must be a URL such as " + defaultAddress + "/receive")
		}
		return nil
	})
	s.at.dataFlag(flags)
	flags.StringVar(&s.audience, "audience", "", "the audience of the token; by default the URL, and for a pushinbox local what it expects")
	tokenFlags(flags, &s.tokenFile, "a file with the token to send, instead of "+envIDToken+" or one from pushinbox local")
	formatFlag(cmd)
	return cmd
}

// run posts the push, and tells the answer here and in the terminal of the running
// pushinbox local.
func (s *sending) run(cmd *cobra.Command, push *recordedPush) error {
	ctx := cmd.Context()
	given := s.tokenFile != "" || os.Getenv(envIDToken) != ""
	switch {
	case push.fromMNS() && s.tokenFile+s.audience != "":
		return usageError{errors.New("a push of MNS has a signature, not a --token-file and no --audience")}
	case given && s.audience != "":
		return usageError{errors.New("--audience is of a token that pushinbox local signs, and one is given by --token-file or " + envIDToken)}
	}
	to, local, err := s.find(ctx, push, given)
	if err != nil {
		return err
	}
	if push.fromMNS() {
		err = push.sign(ctx, to, local)
	} else {
		err = s.authorize(ctx, to, local)
	}
	if err != nil {
		return err
	}
	a, err := to.call(ctx, http.MethodPost, "", push.header, push.body)
	switch op := (*net.OpError)(nil); {
	case err != nil && (local == nil || !to.sameOrigin(local)) && errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("nothing answers at %s (%v); start the program that the push is for", to.base, op.Err)
	case err != nil:
		return err
	}
	if local != nil {
		local.report(ctx, stack.Sent{Name: push.name, URL: to.base.String(), Status: a.status, Acked: a.ok(), DurationMS: a.took.Milliseconds()})
	}
	err = show(cmd, sendResult{push.name, to.base.String(), a.status, a.took.Milliseconds(), a.detail()},
		"--> %s\n<-- %s %s\n", visible(push.name), a, a.took.Round(time.Millisecond))
	switch {
	case err != nil || a.ok():
		return err
	case a.status == http.StatusUnauthorized && !given && !push.fromMNS() && !to.sameOrigin(local):
		return fmt.Errorf("%w: its token is of the pushinbox local at %s; a program trusts that under pushinbox run, and a deployed function wants Google's: --token-file", errRefused, local.base)
	}
	return errRefused
}

// find returns where to post, and the pushinbox local, or nil where none is found
// and nothing is to be signed by it.
func (s *sending) find(ctx context.Context, push *recordedPush, given bool) (to, local *client, err error) {
	if s.url != "" {
		if to, err = newClient("url", s.url); err != nil {
			return nil, nil, err
		}
	}
	needed := to == nil || push.fromMNS() && to.isLocal() || !push.fromMNS() && !given
	chosen := s.at.data != "" || os.Getenv(envURL) != ""
	if chosen {
		local, err = s.at.local(ctx)
	} else {
		local, err = s.at.find(ctx)
	}
	missing := errors.Is(err, stack.ErrNotFound) || errors.Is(err, stack.ErrStale) || errors.Is(err, stack.ErrSuspended)
	switch {
	case err == nil:
	case !missing:
		return nil, nil, err
	case !needed:
		return to, nil, nil
	case !chosen && to != nil && to.maybeOwn() && stack.IsRun(ctx, to.local().base.String()):
		local = to.local()
	case !chosen && errors.Is(err, stack.ErrNotFound):
		if local, err = newClient("url", defaultAddress); err != nil {
			return nil, nil, err
		}
	default:
		return nil, nil, err
	}
	switch {
	case to != nil:
	case push.fromMNS():
		to = local.below(stack.MNSFunction)
	default:
		to = local.below("/receive")
	}
	return to, local, nil
}

// maybeOwn reports whether c calls what a pushinbox local has. Other programs are
// asked for nothing but what they are sent.
func (c *client) maybeOwn() bool {
	return c.isLocal() && (strings.HasPrefix(c.base.Path, "/receive") || strings.HasPrefix(c.base.Path, stack.MNSFunction))
}

// authorize sets the token to post with.
func (s *sending) authorize(ctx context.Context, to, local *client) (err error) {
	if to.token, err = givenToken(s.tokenFile); err != nil || to.token != "" {
		return err
	}
	claims := url.Values{"for": {"receive"}}
	if audience := s.audience; audience != "" || !to.sameOrigin(local) {
		quoted, err := json.Marshal(cmp.Or(audience, to.base.String())) // as JSON, so that a number is text
		if err != nil {
			return err
		}
		claims.Set("aud", string(quoted))
	}
	to.token, err = local.local().localToken(ctx, claims)
	if err != nil && s.url != "" {
		err = fmt.Errorf("%w; it signs what is sent, unless a token is given with --token-file", err)
	}
	return err
}

// sameOrigin reports whether both call the same server, by any name of loopback.
func (c *client) sameOrigin(other *client) bool {
	return c.base.Scheme == other.base.Scheme && c.base.Port() == other.base.Port() &&
		(c.base.Hostname() == other.base.Hostname() || c.isLocal() && other.isLocal())
}

// report tells a pushinbox local what was sent. Nothing depends on it.
func (c *client) report(ctx context.Context, sent stack.Sent) {
	local := c.local()
	local.timeout = reportTimeout
	if b, err := json.Marshal(sent); err == nil && local.useKey() == nil {
		_, _ = local.call(ctx, http.MethodPost, stack.SentPath, http.Header{"Content-Type": {"application/json"}}, b)
	}
}

// headerEnd is the empty line before a body.
var headerEnd = regexp.MustCompile(`\n\r?\n`)

// recordedPush is a push as it was recorded.
type recordedPush struct {
	name   string
	header http.Header
	body   []byte
}

func (p *recordedPush) fromMNS() bool { return p.header.Get("X-Mns-Version") != "" }

func readPush(file string) (*recordedPush, error) {
	b, err := readInput(file)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(file)
	text := bytes.TrimSpace(b)
	switch {
	case len(text) == 0:
		return nil, fmt.Errorf("%s is empty; it must have the JSON body of a push, or an HTTP request", name)
	case text[0] == '{' || text[0] == '[':
		if err := checkBody(text); err != nil {
			return nil, fmt.Errorf("%s is not a push: %w", name, err)
		}
		return &recordedPush{name, http.Header{"Content-Type": {"application/json"}}, b}, nil
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("%s is not a push: it begins with %.40q, and must be the JSON body of a push, or an HTTP request (%w)", name, text, plainRequestError(err))
	}
	if r.Method != http.MethodPost {
		return nil, fmt.Errorf("%s is not a push: its method is %s, and pushes are POST", name, r.Method)
	}
	// The body is all that follows the empty line, whatever a Content-Length
	// says, so that people can edit their recordings.
	body := b[len(b):]
	if end := headerEnd.FindIndex(b); end != nil {
		body = b[end[1]:]
	}
	r.Header.Del("Content-Length")
	return &recordedPush{name, r.Header, body}, nil
}

// plainRequestError returns an error of http.ReadRequest without what it repeats of
// the request.
func plainRequestError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("no empty line ends the headers")
	}
	text, _, _ := strings.Cut(err.Error(), " \"")
	return errors.New(text)
}

// checkBody says what is wrong with the JSON body of a push.
func checkBody(body []byte) error {
	var envelope map[string]json.RawMessage
	err := json.Unmarshal(body, &envelope)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		line := 1 + bytes.Count(body[:min(int(syntax.Offset), len(body))], []byte("\n"))
		return fmt.Errorf("it is not valid JSON, in line %d: %w", line, err)
	}
	if err != nil {
		return errors.New(`it is a list; send the pushes one by one, each as {"message": {...}, "subscription": "..."}`)
	}
	has := func(name string) bool { return envelope[name] != nil }
	switch {
	case has("message"):
	case has("messages"):
		return errors.New("it is the body of a publish request; publish it, and it comes as a push")
	case has("data"), has("attributes"), has("messageId"):
		return errors.New(`it is a message without its push; write {"message": ..., "subscription": "..."} around it`)
	default:
		return errors.New(`it has no "message"; a push is {"message": {"messageId": "...", "data": "<base64>"}, "subscription": "..."}`)
	}
	_, err = pubsubpush.Decode(http.Header{"Content-Type": {"application/json"}}, bytes.Clone(body))
	if errors.As(err, new(base64.CorruptInputError)) {
		return errors.New(`"data" is not base64`)
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), pubsubpush.ErrMalformed.Error()+": "))
	}
	return nil
}

// sign has a pushinbox local sign a push of MNS. For another machine the push stays
// as it was recorded.
func (p *recordedPush) sign(ctx context.Context, to, signer *client) error {
	if !to.isLocal() {
		return nil
	}
	b, err := json.Marshal(stack.PushToSign{Target: to.base.RequestURI(), Header: p.header, Body: p.body})
	if err != nil {
		return err
	}
	local := signer.local()
	if err := local.useKey(); err != nil {
		return err
	}
	a, err := local.call(ctx, http.MethodPost, stack.SignPath, http.Header{"Content-Type": {"application/json"}}, b)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("%s gave no signature: %s", local.base, a)
	}
	p.header = nil
	return json.Unmarshal(a.body, &p.header)
}

type sendResult struct {
	File       string `json:"file"`
	URL        string `json:"url"`
	Status     int    `json:"status"`
	DurationMS int64  `json:"durationMs"`
	Detail     string `json:"detail,omitempty"`
}
