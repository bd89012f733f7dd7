package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// errRefused is a push that was answered, but not acknowledged.
var errRefused = errors.New("not acknowledged")

func newSend() *cobra.Command {
	var target, token, format string
	cmd := &cobra.Command{
		Use:   "send FILE",
		Short: "Post a recorded push, signed, and print the answer",
		Long: `Post a recorded push, signed, and print the answer.

FILE holds the JSON body of a push, or a whole HTTP request: headers, an empty
line, the body. "-" reads it from standard input. The token comes from the
"pushinbox local" that the URL points at; for any other URL give --token.

A request with the header x-mns-version is a push of Alibaba MNS. That has a
signature in place of a token, made anew by the "pushinbox local" that the URL
points at; to any other URL it goes as it was recorded.`,
		Example: `  pushinbox send testdata/pubsub/sample_message.json
  pushinbox send testdata/mns/xml.http
  pushinbox send --token "$(pushinbox token --claim aud=wrong)" push.json
  pushinbox send --url https://receive-123.europe-west1.run.app/ --token "$TOKEN" push.json`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			push, err := readPush(args[0])
			if err != nil {
				return err
			}
			if push.fromMNS() {
				if token != "" {
					return usageError{errors.New("a push of MNS has a signature, not a --token")}
				}
				if !cmd.Flags().Changed("url") {
					target = defaultAddress + mnsFunction
				}
				if err := push.sign(cmd.Context(), target); err != nil {
					return err
				}
				return push.send(cmd, target, format)
			}
			if token == "" {
				if token, err = tokenFor(cmd.Context(), target); err != nil {
					return err
				}
			}
			push.header.Set("Authorization", "Bearer "+token)
			return push.send(cmd, target, format)
		},
	}
	cmd.Flags().StringVar(&target, "url", defaultAddress+"/receive", "where to post it; a push of MNS goes to /mns by default")
	cmd.Flags().StringVar(&token, "token", "", "the token to send, instead of one from pushinbox local")
	formatFlag(cmd, &format)
	return cmd
}

// headerEnd is the empty line before a body.
var headerEnd = regexp.MustCompile(`\n\r?\n`)

// recordedPush is a push as it was recorded.
type recordedPush struct {
	name   string
	header http.Header
	body   []byte
}

func readPush(file string) (*recordedPush, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(os.Stdin)
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	name := filepath.Base(file)
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return &recordedPush{name, http.Header{"Content-Type": {"application/json"}}, b}, nil
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("%s is neither a JSON body nor an HTTP request: %w", name, err)
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

// tokenFor asks the pushinbox local that target belongs to for a token.
func tokenFor(ctx context.Context, target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return "", usageError{fmt.Errorf("--url %q is not a URL", target)}
	}
	if !isLoopback(u.Host) {
		return "", usageError{fmt.Errorf("no token for %s: give one with --token, such as $(gcloud auth print-identity-token --impersonate-service-account=PUSH_ACCOUNT --include-email --audiences=AUDIENCE)", u.Host)}
	}
	return localToken(ctx, u.Scheme+"://"+u.Host, url.Values{"for": {"receive"}})
}

// fromMNS reports whether p was recorded from MNS.
func (p *recordedPush) fromMNS() bool { return p.header.Get("X-Mns-Version") != "" }

// sign has the pushinbox local that target belongs to sign a push of MNS.
func (p *recordedPush) sign(ctx context.Context, target string) error {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return usageError{fmt.Errorf("--url %q is not a URL", target)}
	}
	if !isLoopback(u.Host) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := json.Marshal(pushToSign{u.RequestURI(), p.header, p.body})
	if err != nil {
		return err
	}
	address := u.Scheme + "://" + u.Host
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+signPath, bytes.NewReader(b))
	if err != nil {
		return usageError{err}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return notRunning(address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s gave no signature: %s", address, explain(resp.StatusCode, body))
	}
	p.header = nil
	return json.Unmarshal(body, &p.header)
}

func (p *recordedPush) send(cmd *cobra.Command, target, format string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(p.body))
	if err != nil {
		return usageError{err}
	}
	req.Header = p.header
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return notRunning(target, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	took := time.Since(start)
	out := cmd.OutOrStdout()
	if format == "json" {
		err = json.NewEncoder(out).Encode(sendResult{p.name, target, resp.StatusCode, took.Milliseconds(), detail(body)})
	} else {
		_, err = fmt.Fprintf(out, "--> %s\n<-- %s %s\n", p.name, explain(resp.StatusCode, body), took.Round(time.Millisecond))
	}
	if err == nil && resp.StatusCode/100 != 2 {
		err = errRefused
	}
	return err
}

type sendResult struct {
	File       string `json:"file"`
	URL        string `json:"url"`
	Status     int    `json:"status"`
	DurationMS int64  `json:"durationMs"`
	Detail     string `json:"detail,omitempty"`
}

// explain returns a status with the detail of a problem+json body.
func explain(status int, body []byte) string {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if d := detail(body); d != "" {
		text += ": " + d
	}
	return text
}

func detail(body []byte) string {
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &problem) != nil {
		return strings.TrimSpace(strings.ToValidUTF8(string(body[:min(len(body), 200)]), "?"))
	}
	return problem.Detail
}
