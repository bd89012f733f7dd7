package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/forward"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
)

// Who signs what listen sends.
const (
	signLocal  = "local"
	signGoogle = "google"
	signNone   = "none"
)

// listening is what the flags of listen say.
type listening struct {
	from                                   server
	which                                  filter
	signer                                 target
	to, form, sign, audience, email, begin string
	concurrency                            int
	timeout                                time.Duration
	force, isJSON                          bool
}

func newListen() *cobra.Command {
	l := &listening{form: "wrapped", sign: signLocal, concurrency: forward.DefaultConcurrency, timeout: forward.DefaultTimeout}
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Post each message to a program on this machine, as the push that it was",
		Long: `Post each message of an inbox to a program on this machine, as the push that it
was: with its own message ID, attributes, ordering key and subscription.

It goes on where the last listen with the same inbox, filter and --forward-to ended, so
messages that arrive while this machine sleeps are sent afterwards. The first time it
begins with messages that are stored from now on. --since begins elsewhere: at a time (2h,
2026-11-26T02:00:00Z), at a token of the inbox, or at "beginning", "now" or "last". Two that
run at the same time with the same --forward-to do not share the messages: each posts all
of them.

A message that the program does not acknowledge (with 102, 200, 201, 202 or 204) is sent
again, after pauses of up to 10 seconds. Order is kept within an ordering key. Quarantined
messages, and those that did not come by Pub/Sub, are skipped. After a kill, messages of
the last second can come again, with the same message ID; so can those past 10,000 that came
after one that is never acknowledged.

Who signs the requests: the running "pushinbox local" (--sign local), whose keys the
program trusts if it was started with "pushinbox run"; Google, as the push account (--sign
google), for which you need the role roles/iam.serviceAccountOpenIdTokenCreator on that
account; or nobody (--sign none).

On a terminal, r and Enter send the last message again. Ctrl-C waits for the answer to that,
a second Ctrl-C does not.

` + serverHelp,
		Example: `  pushinbox listen --forward-to http://127.0.0.1:3000/push
  pushinbox listen --forward-to http://127.0.0.1:3000/push --since 2h --subscription orders-push
  pushinbox listen --terraform terraform --forward-to http://127.0.0.1:3000/push --audience https://orders.example.com
  pushinbox listen --forward-to http://127.0.0.1:3000/push --sign none --format json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.isJSON = wantsJSON(cmd)
			return l.run(cmd)
		},
	}
	flags := cmd.Flags()
	l.from.flags(flags)
	flags.StringVar(&l.to, "forward-to", "", "post the messages to this `URL` of this machine")
	flags.StringVar(&l.begin, "since", "last", "where to begin: a `TIME` or duration, a token, last, now or beginning")
	oneOf(flags, &l.form, "form", "the form of the requests: wrapped, unwrapped (with metadata) or bare", "wrapped", "unwrapped", "bare")
	oneOf(flags, &l.sign, "sign", "who signs the requests: local, google or none", signLocal, signGoogle, signNone)
	flags.StringVar(&l.audience, "audience", "", "the audience of the tokens; --forward-to by default")
	flags.StringVar(&l.email, "email", "", "the account of the tokens; "+stack.PushAccount+" by default, and needed with --sign google")
	checked(flags, "concurrency", fmt.Sprint(l.concurrency), "N", "how many messages are sent at a time, 1 to 1000; with 1 all come in the order of the inbox", func(s string) error {
		_, err := fmt.Sscan(s, &l.concurrency)
		if err != nil || l.concurrency < 1 || l.concurrency > 1000 {
			return errors.New("it must be 1 to 1000")
		}
		return nil
	})
	checked(flags, "ack-deadline", l.timeout.String(), "DURATION", "how long the program may take to answer, 1s to 600s", func(s string) (err error) {
		if l.timeout, err = time.ParseDuration(s); err != nil || l.timeout < time.Second || l.timeout > 600*time.Second {
			return errors.New("it must be 1s to 600s")
		}
		return nil
	})
	flags.BoolVar(&l.force, "force", false, "post to other machines, too")
	f := &l.which
	flags.StringVar(&f.subscription, "subscription", "", "only messages of this subscription, by its full or its short name")
	flags.StringVar(&f.orderingKey, "ordering-key", "", "only messages with this ordering key")
	flags.StringArrayVar(&f.attributes, "attribute", nil, "only messages with this attribute, as `KEY=VALUE`; can be repeated, and all must be met")
	flags.StringVar(&f.text, "text", "", "only messages with this text in their data (its first 4 KiB) or attributes, in upper or lower case")
	l.signer.dataFlag(flags)
	flags.Lookup("data").Usage = "the directory of the pushinbox local that signs, and that has the inbox unless another is named; by default the nearest " + stack.DefaultData + " from here upwards"
	formatFlag(cmd)
	return cmd
}

// target reads --forward-to.
func (l *listening) target() (*url.URL, error) {
	u, err := url.Parse(l.to)
	switch {
	case l.to == "":
		return nil, usageError{errors.New("say where to post with --forward-to, such as http://127.0.0.1:3000/push")}
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "":
		return nil, usageError{errors.New("--forward-to is not a URL such as http://127.0.0.1:3000/push")}
	case !validPort(u.Port()):
		return nil, usageError{fmt.Errorf("--forward-to has the port %s; it must be 1 to 65535", u.Port())}
	case !l.force && !stack.IsLoopback(u.Hostname()):
		return nil, usageError{fmt.Errorf("%s is not this machine; to send it the messages all the same, give --force", u.Hostname())}
	}
	return u, nil
}

// validPort reports whether a URL's port can be one; it may have none.
func validPort(port string) bool {
	n, err := strconv.Atoi(port)
	return port == "" || err == nil && n >= 1 && n <= 65535
}

func (l *listening) run(cmd *cobra.Command) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	to, err := l.target()
	if err != nil {
		return err
	}
	l.which.source = inbox.SourcePubSub
	q, err := l.which.query()
	if err != nil {
		return err
	}
	tokens, err := l.tokens(ctx)
	if err != nil {
		return err
	}
	p := newProgress(cmd.ErrOrStderr())
	if l.from.at.url == "" && l.from.terraform == "" && os.Getenv(envURL) == "" {
		l.from.at.data = l.signer.data
	}
	c, err := l.from.client(ctx, lasting(p))
	if err != nil {
		return err
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return fmt.Errorf("this user has no directory in which to remember the place: %w", err)
	}
	place, err := forward.OpenPlace(filepath.Join(config, "pushinbox", "listen"), c.Address(), to.String(), q.Values().Encode())
	if err != nil {
		return err
	}
	begins, err := l.beginning(c, &q, place)
	if err != nil {
		return err
	}
	out := newPrinter(cmd.OutOrStdout(), l.isJSON)
	out.asked = true
	var f *forward.Forwarder
	note := func(save func(func() (string, []string)) error) {
		if err := save(f.Done); err != nil {
			p.say("the place cannot be remembered: %v", err)
		}
	}
	f, err = forward.New(forward.Options{
		Endpoint: forward.Endpoint{Target: to, Unwrapped: l.form == "unwrapped", Bare: l.form == "bare"}, Tokens: tokens, Concurrency: l.concurrency, Timeout: l.timeout,
		OnResult: func(r forward.Result) {
			out.delivered(pushfake.Delivery{
				Subscription: r.Message.Subscription, MessageID: r.Message.MessageID, Attempt: r.Attempt, Status: r.Status, Err: r.Err, Acked: r.Acked,
				Duration: r.Duration, RetryIn: r.RetryIn,
			})
		},
		OnDone: func() { note(place.Note) },
	})
	if err != nil {
		return err
	}
	if saved, _ := place.Token(); q.PageToken != saved {
		place.Forget() // what is to come again
	}
	out.begin("")
	defer out.out.close()
	p.say("Posting what is stored in %s to %s, %s. Ctrl-C stops it.", c.Address(), delivery.HideToken(to.String()), begins)
	go l.keys(ctx, cmd, f, p)
	o := reconnecting(p, "the connection to the inbox", clock{})
	o.OnBegin = func(token string) {
		f.Begin(token)
		note(place.Save)
	}
	err = l.follow(ctx, c, c.Tail(ctx, q, o), place, f, p)
	cancel()
	signal.Reset(os.Interrupt) // a second Ctrl-C does not wait for what was sent again
	f.Wait()
	return errors.Join(err, place.Save(f.Done))
}

// lasting are the options of a client that goes on after any time without a network, as
// its live tail does.
func lasting(p *progress) inboxclient.Options {
	o := retrying(p)
	o.Patience = 365 * 24 * time.Hour
	return o
}

// follow forwards messages until ctx ends, but those that were done before.
func (l *listening) follow(ctx context.Context, c *inboxclient.Client, events iter.Seq2[inboxclient.Event, error], place *forward.Place, f *forward.Forwarder, p *progress) error {
	for e, err := range events {
		if err != nil {
			return explain(c, err)
		}
		m := &e.Message.Message
		if place.WasDone(e.Token) {
			f.Skip(e.Token)
			continue
		}
		if m.Quarantined != "" {
			p.say("message %s is quarantined (%s) and not posted", m.MessageID, m.Quarantined)
			f.Skip(e.Token)
			continue
		}
		if m.Truncated {
			var data bytes.Buffer
			switch err := c.Data(ctx, m.ID, &data); {
			case ctx.Err() != nil:
				return nil
			case inboxclient.IsNotFound(err):
				p.say("message %s has expired, and is not posted", m.MessageID)
				f.Skip(e.Token)
				continue
			case err != nil:
				return explain(c, err)
			}
			m.Data = data.Bytes()
		}
		if err := f.Forward(ctx, e.Token, m); err != nil {
			return nil // ctx has ended
		}
	}
	return nil
}

// beginning sets the token at which to begin, and says which one that is.
func (l *listening) beginning(c *inboxclient.Client, q *inbox.Query, place *forward.Place) (string, error) {
	switch l.begin {
	case "last":
		if token, at := place.Token(); token != "" {
			q.PageToken = token
			return "from where it was on " + at.Local().Format("2006-01-02 15:04:05"), nil
		}
		return "from now on", nil
	case "now":
		return "from now on", nil
	case "beginning":
		q.PageToken = q.Token(inbox.Position{ReceivedAt: time.Unix(0, 0), Commit: time.Unix(0, 0)})
		return "from the oldest message on", nil
	}
	if at, err := inbox.ParseQuery(url.Values{"since": {l.begin}}, c.Now()); err == nil {
		q.PageToken = q.Token(inbox.Position{ReceivedAt: at.Since, Commit: at.Since})
		return "from " + at.Since.Local().Format("2006-01-02 15:04:05") + " on", nil
	}
	if _, err := inbox.ParseToken(l.begin); err != nil {
		return "", usageError{errors.New("--since is not a time, a duration, a token, last, now or beginning")}
	}
	q.PageToken = l.begin
	return "from that token on", nil
}

// keys has r and Enter send the last message again, where a person types.
func (l *listening) keys(ctx context.Context, cmd *cobra.Command, f *forward.Forwarder, p *progress) {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok {
		return
	}
	if info, err := in.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return
	}
	for s := bufio.NewScanner(in); s.Scan() && ctx.Err() == nil; {
		if strings.TrimSpace(s.Text()) == "r" && !f.Again(ctx) {
			p.say("nothing was sent yet")
		}
	}
}

// tokens returns the tokens of the requests, or nil for none. The first one is got at
// once, so that a refusal is told before anything else.
func (l *listening) tokens(ctx context.Context) (oauth2.TokenSource, error) {
	audience := cmp.Or(l.audience, l.to)
	switch l.sign {
	case signLocal:
		local, err := l.signer.local(ctx)
		if err != nil {
			return nil, err
		}
		tokens := local.pushTokens(ctx, cmp.Or(l.email, stack.PushAccount), audience)
		if _, err := tokens.Token(); err != nil {
			return nil, fmt.Errorf("there is no pushinbox local to sign the requests: %w; start it, or give --sign none", err)
		}
		return tokens, nil
	case signGoogle:
		if !accountName.MatchString(l.email) {
			return nil, usageError{errors.New("--sign google needs --email, the push account's e-mail address")}
		}
		return impersonated(ctx, l.email, audience)
	}
	if l.audience != "" || l.email != "" {
		return nil, usageError{errors.New("--audience and --email do not go with --sign none")}
	}
	return nil, nil
}
