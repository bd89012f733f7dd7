package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/mnsclient"
	"example.com/pushinbox/shared/mns"
)

// The variables that hold an AccessKey, as Alibaba Cloud's own tools read them.
const (
	envKeyID     = "ALIBABA_CLOUD_ACCESS_KEY_ID"
	envKeySecret = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"
	envToken     = "ALIBABA_CLOUD_SECURITY_TOKEN"
)

// mnsCaller makes the calls of one command.
type mnsCaller struct {
	endpoint, config string
	at               target
	client           *mnsclient.Client
	cmd              *cobra.Command
}

func newMNS() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mns",
		Short: "Create topics of Alibaba MNS, subscribe an endpoint, publish",
		Long: `Create topics of Alibaba MNS (SMQ), subscribe an endpoint, publish.

Without --endpoint it is the stand-in of the running "pushinbox local" that is
called. Neither it nor anything else on this machine is shown the AccessKey in
the environment. MNS itself is called with
--endpoint https://ACCOUNT.mns.REGION.aliyuncs.com and an AccessKey, from
  ALIBABA_CLOUD_ACCESS_KEY_ID, ALIBABA_CLOUD_ACCESS_KEY_SECRET and, for
  temporary ones, ALIBABA_CLOUD_SECURITY_TOKEN,
or from a file, --config FILE, that nobody else may read:
  AccessKeyId = ...
  AccessKeySecret = ...
  SecurityToken = ...
  Endpoint = https://ACCOUNT.mns.REGION.aliyuncs.com

Exit codes: 0 done, or it exists with the same attributes; 1 failed or refused;
2 wrong call; 3 the topic or subscription exists with other attributes; 4 there
is no such topic or subscription.`,
		Example: `  pushinbox mns create-topic MySampleTopic
  pushinbox mns subscribe MySampleTopic http://127.0.0.1:8080/mns
  pushinbox mns publish MySampleTopic "I am test message 0."
  pushinbox mns delete-topic MySampleTopic`,
	}
	cmd.AddCommand(newCreateTopic(), newDeleteTopic(), newSubscribe(), newUnsubscribe(), newList(), newPublish())
	return cmd
}

// newMNSCall returns a command that makes calls.
func newMNSCall(use, short, example string, run func(context.Context, *mnsCaller, []string) error) *cobra.Command {
	var c mnsCaller
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.cmd = cmd
			if err := c.connect(cmd.Context()); err != nil {
				return err
			}
			err := c.explain(run(cmd.Context(), &c, args), args[:min(len(args), 1)])
			if err != nil {
				return explained{visible(err.Error()), err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&c.endpoint, "endpoint", "", "the address of MNS; the stand-in of the running pushinbox local if neither this nor --config has one")
	c.at.dataFlag(cmd.Flags())
	cmd.Flags().StringVar(&c.config, "config", "", "a file with the AccessKey, in place of the environment")
	formatFlag(cmd)
	return cmd
}

func newCreateTopic() *cobra.Command {
	var a mnsclient.TopicAttributes
	cmd := newMNSCall("create-topic TOPIC", "Create a topic", `  pushinbox mns create-topic MySampleTopic`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			created, err := c.client.CreateTopic(ctx, args[0], a)
			return c.created(err, "topic", args[0], created)
		})
	cmd.Flags().IntVar(&a.MaxMessageSize, "max-size", 0, "the largest message, in bytes; 0 is MNS's default")
	cmd.Flags().BoolVar(&a.Logging, "logging", false, "have MNS log the topic's messages")
	return cmd
}

func newDeleteTopic() *cobra.Command {
	return newMNSCall("delete-topic TOPIC", "Delete a topic and its subscriptions", `  pushinbox mns delete-topic MySampleTopic`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			return c.show(c.client.DeleteTopic(ctx, args[0]), map[string]string{"deleted": args[0]}, "topic %s is deleted\n", args[0])
		})
}

func newSubscribe() *cobra.Command {
	var s mnsclient.Subscription
	cmd := newMNSCall("subscribe TOPIC URL", "Have a topic's messages pushed to an address",
		`  pushinbox mns subscribe MySampleTopic http://127.0.0.1:8080/mns
  pushinbox mns subscribe --content-format JSON --tag red MySampleTopic https://mns-123.europe-west1.run.app/SECRET`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			s.Name, s.Endpoint = cmp.Or(s.Name, args[0]+"-Sub"), args[1]
			if u, err := url.Parse(s.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return usageError{fmt.Errorf("%q is not an http or https address to push to", s.Endpoint)}
			}
			created, err := c.client.Subscribe(ctx, args[0], s)
			if errors.Is(err, mnsclient.ErrSubscriptionExists) {
				return explained{fmt.Sprintf("%s has a subscription %s already, with other attributes; remove it with: pushinbox mns unsubscribe %[1]s %[2]s", args[0], s.Name), err}
			}
			return c.created(err, "subscription", s.Name, created)
		})
	cmd.Flags().StringVar(&s.Name, "name", "", "the subscription's name; TOPIC-Sub by default")
	cmd.Flags().StringVar(&s.FilterTag, "tag", "", "push only messages with this tag")
	oneOf(cmd.Flags(), &s.Strategy, "strategy", "how pushes are repeated: BACKOFF_RETRY (MNS's default) or EXPONENTIAL_DECAY_RETRY",
		mnsclient.BackoffRetry, mnsclient.ExponentialDecayRetry)
	oneOf(cmd.Flags(), &s.Format, "content-format", "the form of pushes: XML (MNS's default), JSON or SIMPLIFIED", mns.XML, mns.JSON, mns.Simplified)
	return cmd
}

func newUnsubscribe() *cobra.Command {
	return newMNSCall("unsubscribe TOPIC [SUBSCRIPTION]", "End a subscription, TOPIC-Sub by default",
		`  pushinbox mns unsubscribe MySampleTopic
  pushinbox mns unsubscribe MySampleTopic another`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			name := args[0] + "-Sub"
			if len(args) > 1 {
				name = args[1]
			}
			err := c.client.Unsubscribe(ctx, args[0], name)
			if errors.Is(err, mnsclient.ErrSubscriptionMissing) {
				return explained{fmt.Sprintf("%s has no subscription %s; see pushinbox mns list %[1]s", args[0], name), err}
			}
			return c.show(err, map[string]string{"deleted": name}, "subscription %s is deleted\n", name)
		})
}

func newList() *cobra.Command {
	return newMNSCall("list [TOPIC]", "List the topics, or a topic's subscriptions",
		`  pushinbox mns list
  pushinbox mns list --format json MySampleTopic | jq -r '.subscriptions[].endpoint'`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			if len(args) > 0 {
				return list(c, c.client.ListSubscriptions(ctx, args[0]), "subscriptions", visible(args[0])+" has no subscription",
					"SUBSCRIPTION\tENDPOINT\tTAG\tSTRATEGY\tCONTENT", func(s mnsclient.Subscription) (any, []string) {
						return struct {
							Name          string             `json:"name"`
							Endpoint      string             `json:"endpoint"`
							FilterTag     string             `json:"filterTag"`
							Strategy      mnsclient.Strategy `json:"strategy"`
							ContentFormat mns.Format         `json:"contentFormat"`
						}{s.Name, s.Endpoint, s.FilterTag, s.Strategy, s.Format}, []string{s.Name, s.Endpoint, cmp.Or(s.FilterTag, "-"), string(s.Strategy), string(s.Format)}
					})
			}
			return list(c, c.client.ListTopics(ctx, ""), "topics", "there is no topic", "TOPIC\tMESSAGES\tMAX SIZE", func(t mnsclient.Topic) (any, []string) {
				return struct {
					Name           string `json:"name"`
					Messages       int    `json:"messages"`
					MaxMessageSize int    `json:"maxMessageSize"`
				}{t.Name, t.Messages, t.MaxMessageSize}, []string{t.Name, strconv.Itoa(t.Messages), strconv.Itoa(t.MaxMessageSize)}
			})
		})
}

// list prints what a call lists, each with its JSON and its row below header, or
// none.
func list[T any](c *mnsCaller, listed iter.Seq2[T, error], name, none, header string, line func(T) (any, []string)) error {
	all, rows := []any{}, [][]string{}
	for v, err := range listed {
		if err != nil {
			return err
		}
		object, row := line(v)
		all, rows = append(all, object), append(rows, row)
	}
	if wantsJSON(c.cmd) || len(rows) == 0 {
		return show(c.cmd, map[string]any{name: all}, "%s\n", none)
	}
	return table(c.cmd, header, rows)
}

func newPublish() *cobra.Command {
	var m mnsclient.Message
	var encode bool
	cmd := newMNSCall("publish TOPIC MESSAGE...", `Publish messages; "-" reads one from standard input`,
		`  pushinbox mns publish MySampleTopic "I am test message 0." "I am test message 1."
  pushinbox mns publish --tag red --base64 MySampleTopic - < picture.png`,
		func(ctx context.Context, c *mnsCaller, args []string) (err error) {
			if first := slices.Index(args[1:], "-"); first >= 0 && slices.Contains(args[first+2:], "-") {
				return usageError{errors.New(`a second "-" would have nothing to read; standard input is one message`)}
			}
			if encode {
				m.Encoding = mns.Base64
			}
			for _, text := range args[1:] {
				m.Body = []byte(text)
				if text == "-" {
					if m.Body, err = readInput(text); err != nil {
						return err
					}
				}
				p, err := c.client.Publish(ctx, args[0], m)
				if err := c.show(err, map[string]string{"messageId": p.MessageID, "bodyMd5": p.BodyMD5},
					"published %s, MD5 %s\n", visible(p.MessageID), visible(p.BodyMD5)); err != nil {
					return err
				}
			}
			return nil
		})
	cmd.Flags().StringVar(&m.Tag, "tag", "", "the messages' tag, 16 characters at most")
	cmd.Flags().BoolVar(&encode, "base64", false, "encode the messages, for an endpoint with MNS_BODY=base64")
	return cmd
}

// show prints what was done unless it failed, which it returns.
func (c *mnsCaller) show(err error, v any, text string, args ...any) error {
	if err != nil {
		return err
	}
	return show(c.cmd, v, text, args...)
}

// created prints that something exists now, unless creating it failed.
func (c *mnsCaller) created(err error, kind, name string, created bool) error {
	text := "%s %s exists already, with the same attributes\n"
	if created {
		text = "%s %s is created\n"
	}
	return c.show(err, map[string]any{kind: name, "created": created}, text, kind, name)
}

// explain says what to do about what can be expected to go wrong.
func (c *mnsCaller) explain(err error, topic []string) error {
	var refused *mnsclient.APIError
	switch {
	case errors.Is(err, mnsclient.ErrTopicExists) && len(topic) > 0:
		return explained{fmt.Sprintf("topic %s exists already, with other attributes", topic[0]), err}
	case errors.Is(err, mnsclient.ErrTopicMissing) && len(topic) > 0:
		return explained{fmt.Sprintf("there is no topic %s; pushinbox mns list shows those that exist", topic[0]), err}
	case errors.As(err, &refused) && (refused.Code == "InvalidAccessKeyId" || refused.Code == "SignatureDoesNotMatch"):
		return fmt.Errorf("%s does not know the AccessKey: %w", c.endpoint, err)
	case errors.As(err, &refused) && refused.Code == "TimeExpired":
		return fmt.Errorf("this machine's clock is more than 15 minutes off: %w", err)
	}
	if u, _ := url.Parse(c.endpoint); stack.IsLoopback(u.Host) {
		return notRunning(c.endpoint, err)
	}
	return err
}

// explained is an error in words for people.
type explained struct {
	text string
	error
}

func (e explained) Error() string { return e.text }
func (e explained) Unwrap() error { return e.error }

// connect finds the endpoint and the AccessKey.
func (c *mnsCaller) connect(ctx context.Context) error {
	key := mnsclient.Credentials{ID: os.Getenv(envKeyID), Secret: os.Getenv(envKeySecret), Token: os.Getenv(envToken)}
	endpoint := ""
	from := "set " + envKeyID + " and " + envKeySecret + ", or give --config FILE"
	if c.config != "" {
		values, err := readConfig(c.config)
		if err != nil {
			return err
		}
		key = mnsclient.Credentials{ID: values["AccessKeyId"], Secret: values["AccessKeySecret"], Token: values["SecurityToken"]}
		endpoint, from = values["Endpoint"], c.config+" must have AccessKeyId and AccessKeySecret"
	}
	c.endpoint = cmp.Or(c.endpoint, endpoint)
	switch {
	case c.endpoint != "" && c.at.data != "":
		return usageError{errors.New("give either an endpoint or --data: both say what to call")}
	case c.endpoint == "":
		local, err := c.at.local(ctx)
		if err != nil {
			return err
		}
		c.endpoint = local.below(stack.MNSPath).base.String()
	}
	u, err := url.Parse(c.endpoint)
	if err != nil {
		return usageError{fmt.Errorf("--endpoint %q is not a URL", c.endpoint)}
	}
	// The stand-in's key is not a secret, and a real one is not sent to it unasked.
	if c.config == "" && stack.IsLoopback(u.Host) {
		key = mnsclient.Credentials{ID: mnsfake.AccessKeyID, Secret: mnsfake.AccessKeySecret}
	}
	if key.ID == "" || key.Secret == "" {
		return usageError{fmt.Errorf("the AccessKey is missing: %s", from)}
	}
	if c.client, err = mnsclient.NewClient(c.endpoint, key, nil); err != nil {
		return usageError{err}
	}
	return nil
}

// readConfig reads lines such as AccessKeyId = VALUE. Sections, as the sample
// configuration of Alibaba's SDKs has one, and comments are skipped.
func readConfig(file string) (map[string]string, error) {
	f, err := openSecret(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	values := make(map[string]string)
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.ContainsRune("#;[", rune(line[0])) {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%s: line %d is not NAME = VALUE", file, n)
		}
		values[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return values, lines.Err()
}
