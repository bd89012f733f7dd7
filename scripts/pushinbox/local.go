package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/settings"
)

// gcSlack is memory of a local run that is allocated and never touched, so that it
// takes none of the machine's: the garbage collector counts it as used, and lets as
// much garbage again gather before it runs. What a run keeps is so little that it
// would take a quarter of the processor time of a message.
const gcSlack = 32 << 20

func newLocal() *cobra.Command {
	o := stack.Options{Port: 8080, PubSubPort: stack.PubSubPort, Data: stack.DefaultData, Pushes: stack.TerraformDefaults()}
	var quiet, exitWithStdin bool
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Run everything on this machine: Pub/Sub, signed push, the functions, the inbox",
		Long: `Run everything on this machine, in one process: a Pub/Sub with the topic, the push
subscription and the dead-letter topic that Terraform creates, an issuer of tokens, and
the functions as in production, with the issuer's keys in place of Google's.

Pub/Sub's port is open to every client, by gRPC and REST: set PUBSUB_EMULATOR_HOST as the
banner says. Every subscription with a push endpoint is pushed to, with a signed token if
it has an oidc_token.

--push TOPIC=URL pushes the messages of a topic to any program, with tokens for the URL or
for audience=A. The n-th --push of a topic uses the subscription TOPIC-push-n; the next
start updates it. Without that --push it is deleted, or, if messages wait in it, it stays
and is not pushed until the --push is given again.

Pushes are retried, ordered and become dead letters as Terraform's defaults have it;
--max-attempts, --retry-backoff, --ack-deadline and --ordering change that for all of them.
A subscription that is paused stays paused at the next start, until "pushinbox delivery
resume".

Messages are stored in --data and survive a restart and a kill -9, also those that were
published and not yet delivered. A directory that somebody else owns or can write to is
refused. The files are checked at the start; if inbox.db is damaged, --repair moves the
messages that can be read to a new one.

The ports are open to every account of this machine, as emulators are, and to no web page
and no other machine. --host opens them to other machines; the console and /local/token
then require a key, which is printed. --host-name allows another name for this machine
than localhost.

A stand-in for Alibaba MNS is at /local/mns and, for Alibaba's SDKs, at the root of
--mns-port; its AccessKey is "local", with the secret "local", and it pushes to /mns. What
it has is in memory. See "pushinbox mns --help". MNS_SECRET and MNS_BODY are those of the
function mns, whose log is mns.log in --data, for "pushinbox logs".

A stand-in for Google Calendar is at /local/calendar and, for Google's client libraries, at
the root of --calendar-port.

PUBSUB_EMULATOR_HOST and FIRESTORE_EMULATOR_HOST name Google's emulators, which are then
used in place of the Pub/Sub in this process and of the files in --data. A subscription
that exists in Pub/Sub's emulator stays as it is. If nothing listens at
PUBSUB_EMULATOR_HOST and it is the address of --pubsub-port, this process takes it.

With --format json the first line has every address, and each later line is a delivery.
{"leftOut": N} stands for N deliveries that nobody read in time.`,
		Example: `  pushinbox local
  pushinbox local --port 9000 --data "$HOME/inbox"
  pushinbox local --host 0.0.0.0 --host-name host.docker.internal
  pushinbox local --max-attempts 5 --retry-backoff 1s,5s
  pushinbox local --push orders=http://127.0.0.1:3000/push
  pushinbox local --pubsub-port 0
  pushinbox local --format json | jq .status
  pushinbox local --port 0 --pubsub-port 0 --data "$(mktemp -d)" --format json --exit-with-stdin`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Settings, err = settings.Parse[stack.Settings](nil); err != nil {
				return usageError{err}
			}
			p := newPrinter(cmd.OutOrStdout(), wantsJSON(cmd))
			defer p.out.close()
			if !quiet {
				o.OnDelivery, o.OnSent = p.delivered, p.sent
			}
			p.inbox, o.PubSubPortOnly = o.Settings.Subscription(), cmd.Flags().Changed("pubsub-port")
			log, closeLog := logFrom()
			defer closeLog()
			o.Log = log
			o.DataByDefault = !cmd.Flags().Changed("data")
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			if exitWithStdin {
				go func() {
					_, _ = io.Copy(io.Discard, cmd.InOrStdin()) // an error is an end too
					cancel()
				}()
			}
			slack := make([]byte, gcSlack)
			defer runtime.KeepAlive(slack)
			s, err := stack.Start(cmd.Context(), o)
			if err != nil {
				return err
			}
			if s.Key != nil {
				warnOpen(s, o.Host)
			}
			if p.json {
				p.addresses(s)
			} else {
				p.banner(s, o.Settings)
			}
			err = errors.Join(s.Wait(ctx), s.Close())
			tellUndelivered(s, o.Data)
			return err
		},
	}
	portFlag(cmd.Flags(), "port", &o.Port, "the port to listen on, on 127.0.0.1 and [::1]; 0 takes a free one")
	portFlag(cmd.Flags(), "pubsub-port", &o.PubSubPort, "the port of Pub/Sub; 0 takes a free one, and so does the default if it is taken")
	portFlag(cmd.Flags(), "mns-port", &o.MNSPort, "the port at whose root Alibaba's SDKs find MNS; 0 takes a free one")
	portFlag(cmd.Flags(), "calendar-port", &o.CalendarPort, "the port at whose root Google's libraries find Calendar v3; 0 takes a free one")
	checked(cmd.Flags(), "mns-key-bits", "512", "BITS", "the size of the key that signs MNS's pushes: 512 as MNS's own, 1024 or 2048 for verifiers that refuse that", func(s string) (err error) {
		if o.MNSKeyBits, err = strconv.Atoi(s); err != nil || !slices.Contains([]int{512, 1024, 2048}, o.MNSKeyBits) {
			return errors.New("it must be 512, 1024 or 2048")
		}
		return nil
	})
	portFlag(cmd.Flags(), "proxy-port", &o.ProxyPort, "the port of the proxy for pushinbox run; 0 takes the one that it had before, else a free one")
	hostFlags(cmd.Flags(), &o)
	checked(cmd.Flags(), "data", o.Data, "DIRECTORY", "the directory that stores the messages", func(s string) error {
		if o.Data = s; s == "" {
			return errors.New("it must name a directory")
		}
		return nil
	})
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "first move what can be read of a damaged inbox to a new file, and keep the damaged one")
	pushFlags(cmd.Flags(), o.Pushes)
	endpointFlags(cmd.Flags(), &o)
	cmd.Flags().BoolVar(&exitWithStdin, "exit-with-stdin", false, "end when standard input is closed, and so with the program that started it")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print no line for each delivery; warnings, errors and what a function refuses are printed")
	formatFlag(cmd)
	return cmd
}

// logFrom returns the log of a local run, for people in front of a terminal, and what
// writes the rest of it.
func logFrom() (log *slog.Logger, end func()) {
	h := newHandOver(os.Stderr, func(n int) string {
		return fmt.Sprintf("... lines that are not printed, since nobody read what was: %s\n", delivery.Count(n))
	})
	h.begin("")
	return slog.New(slog.NewTextHandler(h, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: shorten})), h.close
}

// tellUndelivered says, of a local run that was closed, what the next one delivers.
func tellUndelivered(s *stack.Stack, data string) {
	if s.Undelivered > 0 {
		fmt.Fprintf(os.Stderr, "%s not delivered; kept in %s for the next run\n", many(s.Undelivered, "message"), data)
	}
}

// hostFlags adds --host and --host-name.
func hostFlags(flags *pflag.FlagSet, o *stack.Options) {
	checked(flags, "host", "", "ADDRESS", "listen at this address of the machine too, such as 0.0.0.0 in a container", func(s string) (err error) {
		o.Host, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
		if err != nil || o.Host.Zone() != "" {
			return errors.New("it must be an IP address of this machine, such as 0.0.0.0 for all of them")
		}
		o.Host = o.Host.Unmap()
		return nil
	})
	checked(flags, "host-name", "", "NAME", "also answer requests for this host name, such as host.docker.internal; can be repeated", func(s string) error {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-._", r)
		}) {
			return errors.New("it must be a host name or an IPv4 address, without a port, such as host.docker.internal")
		}
		o.HostNames = append(o.HostNames, strings.TrimSuffix(s, "."))
		return nil
	})
}

// warnOpen says who can reach what, of a run that other machines can reach.
func warnOpen(s *stack.Stack, host netip.Addr) {
	fmt.Fprintf(os.Stderr, `warning: --host %s opens this run to every machine that reaches that address; the console and /local/token want a key
  browsers: %s
  programs: curl -H @%[3]s %[4]s/messages; the commands of pushinbox: export PUSHINBOX_KEY_FILE=%[3]s
  Pub/Sub's port, --mns-port and /local/mns cannot want the key, since their clients have nowhere to put one: who reaches them can publish and pull; for --calendar-port it is the access token
`, host, s.Login(), s.Key.File, s.URL)
}

// endpointFlags adds --push and --topic.
func endpointFlags(flags *pflag.FlagSet, o *stack.Options) {
	checked(flags, "push", "", "TOPIC=URL[,OPTION...]", "push the topic's messages to this URL of any program; options are audience=A, email=E, unwrapped, unsigned; can be repeated", func(s string) error {
		e, err := parseEndpoint(s)
		o.Endpoints = append(o.Endpoints, e)
		return err
	})
	checked(flags, "topic", "", "NAME", "create this topic; can be repeated", func(s string) error {
		o.Topics = append(o.Topics, s)
		return checkTopic(s)
	})
}

func checkTopic(name string) error {
	if name == "" || strings.Contains(name, "/") {
		return errors.New("it must be the name of a topic alone, such as orders; its project is that of GOOGLE_CLOUD_PROJECT")
	}
	return stack.CheckTopic(name)
}

// parseEndpoint reads TOPIC=URL with options.
func parseEndpoint(s string) (e stack.Endpoint, err error) {
	topic, rest, ok := strings.Cut(s, "=")
	if !ok {
		return e, errors.New("it must be TOPIC=URL, such as orders=http://127.0.0.1:3000/push")
	}
	options := strings.Split(rest, ",")
	e.Topic, e.URL = topic, options[0]
	if err := checkTopic(topic); err != nil {
		return e, err
	}
	if u, err := url.Parse(e.URL); err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.Fragment != "" {
		return e, fmt.Errorf("%q is not an http or https URL to push to", e.URL)
	}
	for _, option := range options[1:] {
		name, value, hasValue := strings.Cut(option, "=")
		switch {
		case name == "audience" && value != "":
			e.Audience = value
		case name == "email" && strings.Contains(value, "@"):
			e.Email = value
		case name == "unwrapped" && !hasValue:
			e.Unwrapped = true
		case name == "unsigned" && !hasValue:
			e.Unsigned = true
		default:
			return e, fmt.Errorf("%q is not an option: they are audience=A, email=NAME@HOST, unwrapped and unsigned (a comma in a URL is written %%2C)", option)
		}
	}
	if e.Unsigned && e.Audience+e.Email != "" {
		return e, errors.New("an unsigned push has no audience and no email")
	}
	return e, nil
}

// pushFlags adds the flags that choose the settings of sub, which has the defaults.
// Each refusal says what is allowed.
func pushFlags(flags *pflag.FlagSet, sub *pubsubpb.Subscription) {
	checked(flags, "max-attempts", fmt.Sprint(sub.DeadLetterPolicy.MaxDeliveryAttempts), "N", "after how many failed pushes a message is a dead letter, 5 to 100", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 5 || n > 100 {
			return errors.New("it must be 5 to 100, Pub/Sub's limits")
		}
		sub.DeadLetterPolicy.MaxDeliveryAttempts = int32(n)
		return nil
	})
	backoff := fmt.Sprintf("%v,%v", sub.RetryPolicy.MinimumBackoff.AsDuration(), sub.RetryPolicy.MaximumBackoff.AsDuration())
	checked(flags, "retry-backoff", backoff, "MIN,MAX", "how long a message waits after a failed push, at first and at most, 0s to 600s; while pushes fail, Pub/Sub also slows the subscription down, up to a push a minute", func(s string) error {
		first, second, _ := strings.Cut(s, ",")
		least, err := time.ParseDuration(first)
		most, err2 := time.ParseDuration(second)
		if errors.Join(err, err2) != nil || least < 0 || most > 600*time.Second || least > most {
			return errors.New("it must be two durations of 0s to 600s, Pub/Sub's limits, the lower one first, such as 1s,5s")
		}
		sub.RetryPolicy = stack.RetryPolicy(least, most)
		return nil
	})
	checked(flags, "ack-deadline", fmt.Sprintf("%ds", sub.AckDeadlineSeconds), "DURATION", "how long a program may take to answer a push, 10s to 600s", func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d < 10*time.Second || d > 600*time.Second || d%time.Second != 0 {
			return errors.New("it must be 10s to 600s in whole seconds, Pub/Sub's limits")
		}
		sub.AckDeadlineSeconds = int32(d / time.Second)
		return nil
	})
	flags.BoolVar(&sub.EnableMessageOrdering, "ordering", false, "push the messages of an ordering key one at a time and in order")
}

// shorten leaves out what a person in front of a terminal knows already, and what
// would not be fit for it. It
// leaves something of each group, since slog loses what follows an empty one.
func shorten(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey || len(groups) == 1 && a.Key != "requestUrl" && a.Key != "requestId" {
		return slog.Attr{}
	}
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(visible(v))
	case error:
		a.Value = slog.StringValue(visible(v.Error()))
	}
	return a
}

// printer prints a local run, one whole piece of output at a time. It waits for nobody
// who reads it, once it has begun.
type printer struct {
	out   *handOver
	json  bool
	inbox string // its push subscription
	asked bool   // what is not sent again was sent because somebody asked for it
}

func newPrinter(out io.Writer, json bool) *printer {
	return &printer{json: json, out: newHandOver(out, func(n int) string {
		if json {
			return fmt.Sprintf("{\"leftOut\":%d}\n", n)
		}
		return fmt.Sprintf("... deliveries that are not printed, since nobody read what was: %s\n", delivery.Count(n))
	})}
}

// begin prints what comes first, although deliveries may have come before it.
func (p *printer) begin(format string, args ...any) { p.out.begin(fmt.Sprintf(format, args...)) }

func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p.out, format, args...) }

func (p *printer) banner(s *stack.Stack, o stack.Settings) {
	curl, page, pushes := "curl", s.URL+"/          ", stack.Describe(s.Pushes)
	if s.IsPaused(s.Pushes) {
		pushes = "PAUSED: nothing is pushed; go on with: pushinbox delivery resume" + visible(s.DataFlag())
	}
	if s.Key != nil {
		curl, page = "curl -H @"+s.Key.File, "at the address above, where"
	}
	p.begin(`Push Inbox runs on this machine. Ctrl-C stops it.

  console  %[10]s you are signed in as %[2]s
  publish  %[1]s/publish    POST with a token of /local/token?for=publish
  receive  %[1]s/receive    where pushes arrive, signed as %[3]s
  calendar %[1]s/calendar   watches calendars; a stand-in for Google's is at %[15]s
  mns      %[1]s/mns        where MNS pushes arrive; a stand-in for it is at %[14]s
  Pub/Sub  %[4]s, topic projects/%[5]s/topics/%[6]s
  pushes   %[8]s
  inbox    %[7]s
  proxy    %[13]s, for programs that check tokens: pushinbox run -- CMD
%[12]s
Every client of Pub/Sub, in another terminal:
  export PUBSUB_EMULATOR_HOST=%[11]s

Try it:
  %[9]s -d 'payload=Hello, World!' %[1]s/messages
  %[9]s %[1]s/messages
  curl -H "Authorization: Bearer $(%[9]s -s '%[1]s/local/token?for=publish')" \
    -H 'Content-Type: text/plain' -d 'Hello again' '%[1]s/publish?attribute.kind=greeting'
  %[16]s messages get MESSAGE_ID    # that was printed; or "messages list"

`, s.URL, stack.Developer, stack.PushAccount, s.PubSub, o.Project, o.Topic, s.Inbox, pushes, curl, page, s.PubSubAddr, pushLines(s), s.ProxyURL,
		s.MNSEndpoint, s.CalendarEndpoint, self())
}

// pushLines has a line for each subscription of --push.
func pushLines(s *stack.Stack) string {
	var lines strings.Builder
	for _, sub := range s.Endpoints {
		if s.IsPaused(sub) {
			fmt.Fprintf(&lines, "  --push   %s PAUSED; go on with: pushinbox delivery resume --subscription %s%s\n", visible(path.Base(sub.Topic)), visible(path.Base(sub.Name)), visible(s.DataFlag()))
			continue
		}
		signed := "unsigned"
		if oidc := sub.PushConfig.GetOidcToken(); oidc != nil {
			signed = "signed for " + cmp.Or(oidc.Audience, "it")
		}
		fmt.Fprintf(&lines, "  --push   %s to %s, %s\n", visible(path.Base(sub.Topic)), visible(delivery.HideToken(sub.PushConfig.PushEndpoint)), visible(signed))
	}
	return lines.String()
}

// addresses prints where everything is, as JSON.
func (p *printer) addresses(s *stack.Stack) {
	if b, err := json.Marshal(s.Addresses()); err == nil {
		p.begin("%s\n", b)
	}
}

// delivered prints a delivery.
func (p *printer) delivered(d pushfake.Delivery) {
	took := d.Duration.Round(time.Millisecond)
	other := ""
	if d.Subscription != p.inbox {
		other = d.Subscription // "" is MNS
	}
	if p.json {
		line := deliveryLine{other, d.MessageID, d.Attempt, d.Status, d.Acked, d.DeadLettered, d.Duration.Milliseconds(), d.RetryIn.Milliseconds(), ""}
		if d.Err != nil {
			line.Error = visible(d.Err.Error())
		}
		if b, err := json.Marshal(line); err == nil {
			p.printf("%s\n", visibleJSON(b))
		}
		return
	}
	answer := fmt.Sprintf("%d %s", d.Status, took)
	if d.Err != nil {
		answer = fmt.Sprintf("no answer (%s) %s", visible(d.Err.Error()), took)
	}
	switch {
	case d.DeadLettered:
		answer += fmt.Sprintf(", attempt %d was the last: sent to the dead-letter topic", d.Attempt)
	case !d.Acked && d.RetryIn == 0 && !p.asked:
		answer += fmt.Sprintf(", attempt %d was the last: dropped", d.Attempt)
	case !d.Acked && d.RetryIn == 0: // somebody had it sent again
	case !d.Acked:
		answer += fmt.Sprintf(", attempt %d, again in %s", d.Attempt, d.RetryIn.Round(time.Millisecond))
	}
	if other != "" {
		other = " of " + visible(other)
	}
	p.printf("--> %s%s\n<-- %s\n", visible(d.MessageID), other, answer)
}

// sent prints what pushinbox send has posted to any program.
func (p *printer) sent(s stack.Sent) {
	if p.json {
		if b, err := json.Marshal(s); err == nil {
			p.printf("%s\n", visibleJSON(b))
		}
		return
	}
	p.printf("--> %s, sent to %s\n<-- %d %dms\n", visible(s.Name), visible(s.URL), s.Status, s.DurationMS)
}

type deliveryLine struct {
	// Subscription is empty for the inbox's own.
	Subscription string `json:"subscription,omitempty"`
	MessageID    string `json:"messageId"`
	Attempt      int    `json:"attempt"`
	Status       int    `json:"status"`
	Acked        bool   `json:"acked"`
	DeadLettered bool   `json:"deadLettered"`
	DurationMS   int64  `json:"durationMs"`
	RetryInMS    int64  `json:"retryInMs"`
	Error        string `json:"error,omitempty"`
}
