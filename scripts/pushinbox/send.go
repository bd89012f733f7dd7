package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/local/stack"
)

// errRefused is a push that was answered, but not acknowledged.
var errRefused = errors.New("not acknowledged")

func newSend() *cobra.Command {
	var at target
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "send FILE",
		Short: "Post a recorded push, signed, and print the answer",
		Long: `Post a recorded push, signed, and print the answer.

FILE holds the JSON body of a push, or a whole HTTP request: headers, an empty
line, the body. "-" reads it from standard input. The token comes from the
"pushinbox local" that the URL points at; for any other URL give --token-file, or set
PUSHINBOX_TOKEN.

A request with the header x-mns-version is a push of Alibaba MNS. That has a
signature in place of a token, which is renewed by the "pushinbox local" that the URL
points at; to any other URL it goes as it was recorded.`,
		Example: `  pushinbox send testdata/pubsub/sample_message.json
  pushinbox send testdata/mns/xml.http
  PUSHINBOX_TOKEN="$(pushinbox token --claim aud=wrong)" pushinbox send push.json
  pushinbox send --url https://receive-123.europe-west1.run.app/ --token-file token.txt push.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			push, err := readPush(args[0])
			if err != nil {
				return err
			}
			fromMNS := push.header.Get("X-Mns-Version") != ""
			if fromMNS && tokenFile != "" {
				return usageError{errors.New("a push of MNS has a signature, not a --token-file")}
			}
			c, err := at.client(cmd.Context())
			switch {
			case err != nil:
				return err
			case at.url != "":
			case fromMNS:
				c = c.below(stack.MNSFunction)
			default:
				c = c.below("/receive")
			}
			if fromMNS {
				err = push.sign(cmd.Context(), c)
			} else {
				err = c.authorize(cmd.Context(), tokenFile, "receive", "PUSH_ACCOUNT", "AUDIENCE")
			}
			if err != nil {
				return err
			}
			a, err := c.call(cmd.Context(), http.MethodPost, "", push.header, push.body)
			if err != nil {
				return err
			}
			err = show(cmd, sendResult{push.name, c.base.String(), a.status, a.took.Milliseconds(), a.detail()},
				"--> %s\n<-- %s %s\n", visible(push.name), a, a.took.Round(time.Millisecond))
			if err == nil && !a.ok() {
				err = errRefused
			}
			return err
		},
	}
	at.urlFlag(cmd.Flags(), "url", "where to post it, by default /receive of the running pushinbox local, and /mns for a push of MNS")
	at.dataFlag(cmd.Flags())
	tokenFlags(cmd.Flags(), &tokenFile, "a file with the token to send, instead of "+envIDToken+" or one from pushinbox local")
	formatFlag(cmd)
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
	b, err := readInput(file)
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

// sign has the pushinbox local that c calls sign a push of MNS. For any other
// address the push stays as it was recorded.
func (p *recordedPush) sign(ctx context.Context, c *client) error {
	if !c.isLocal() {
		return nil
	}
	b, err := json.Marshal(stack.PushToSign{Target: c.base.RequestURI(), Header: p.header, Body: p.body})
	if err != nil {
		return err
	}
	local := c.local()
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
