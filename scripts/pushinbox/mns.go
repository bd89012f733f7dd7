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

// sampleTopic is the topic of Alibaba's samples, and sampleMessages what those
// publish to it.
const sampleTopic = "MySampleTopic"

var sampleMessages = []string{"I am test message 0.", "I am test message 1.", "I am test message 2."}

// mnsCaller makes the calls of one command.
type mnsCaller struct {
	endpoint, config string
	at               target
	topic            string // that the command is about
	client           *mnsclient.Client
	cmd              *cobra.Command
}

func newMNS() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mns",
		Short: "Create topics of Alibaba MNS, subscribe an endpoint, publish",
		Long: `Create topics of Alibaba MNS (SMQ), subscribe an endpoint, publish.

Without --endpoint the commands call the stand-in of the running "pushinbox local".
The AccessKey in the environment is never sent to an address of this machine. For MNS
itself give --endpoint https://ACCOUNT.mns.REGION.aliyuncs.com and an AccessKey, from
  ALIBABA_CLOUD_ACCESS_KEY_ID, ALIBABA_CLOUD_ACCESS_KEY_SECRET and, for
  temporary ones, ALIBABA_CLOUD_SECURITY_TOKEN,
or from a file, --config FILE, that nobody else may read:
  AccessKeyId = ...
  AccessKeySecret = ...
  SecurityToken = ...
  Endpoint = https://ACCOUNT.mns.REGION.aliyuncs.com

TOPIC is MySampleTopic by default, and a subscription is TOPIC-Sub by default.

Exit codes: 0 done, or it exists with the same attributes; 1 failed or refused;
2 wrong call; 3 the topic or subscription exists with other attributes; 4 there
is no such topic or subscription.`,
		Example: `  pushinbox mns create-topic MyTopic1
  pushinbox mns subscribe MyTopic1 http://127.0.0.1:8080/mns MyTopic1-Sub1
  pushinbox mns publish MyTopic1 "I am test message 0."
  pushinbox mns delete-topic MyTopic1`,
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
			err := c.explain(run(cmd.Context(), &c, args))
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

// topicOf is the topic that the arguments begin with, or the sample's.
func (c *mnsCaller) topicOf(args []string) string {
	c.topic = sampleTopic
	if len(args) > 0 {
		c.topic = args[0]
	}
	return c.topic
}

func newCreateTopic() *cobra.Command {
	var a mnsclient.TopicAttributes
	cmd := newMNSCall("create-topic [TOPIC]", "Create a topic", `  pushinbox mns create-topic MyTopic1`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			created, err := c.client.CreateTopic(ctx, c.topicOf(args), a)
			return c.created(err, "topic", c.topic, created, "Create Topic Succeed! TopicName:%s\n", c.topic)
		})
	cmd.Flags().IntVar(&a.MaxMessageSize, "max-size", 0, "the largest message, in bytes; 0 is MNS's default")
	cmd.Flags().BoolVar(&a.Logging, "logging", false, "have MNS log the topic's messages")
	return cmd
}

func newDeleteTopic() *cobra.Command {
	return newMNSCall("delete-topic [TOPIC]", "Delete a topic and its subscriptions", `  pushinbox mns delete-topic MyTopic1`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			err := c.client.DeleteTopic(ctx, c.topicOf(args))
			return c.show(err, map[string]string{"deleted": c.topic}, "Delete Topic Succeed! TopicName:%s\n", c.topic)
		})
}

func newSubscribe() *cobra.Command {
	var s mnsclient.Subscription
	cmd := newMNSCall("subscribe [TOPIC] URL [SUBSCRIPTION]", "Have a topic's messages pushed to an address",
		`  pushinbox mns subscribe MyTopic1 http://127.0.0.1:8080/mns MyTopic1-Sub1
  pushinbox mns subscribe --content-format JSON --tag red MyTopic1 https://mns-123.europe-west1.run.app/SECRET`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			if len(args) > 0 && isAddress(args[0]) { // which no name of a topic is
				args = append([]string{sampleTopic}, args...)
			}
			switch {
			case len(args) < 2:
				return usageError{errors.New("URL is missing; see pushinbox mns subscribe --help")}
			case !isAddress(args[1]):
				return usageError{fmt.Errorf("%q is not an http or https address to push to", args[1])}
			case len(args) > 3:
				return usageError{fmt.Errorf("%q is one argument too many; see pushinbox mns subscribe --help", args[3])}
			case len(args) == 3 && s.Name != "":
				return usageError{errors.New("give the subscription's name once, as SUBSCRIPTION or with --name")}
			case len(args) == 3:
				s.Name = args[2]
			}
			s.Name, s.Endpoint = cmp.Or(s.Name, c.topicOf(args)+"-Sub"), args[1]
			created, err := c.client.Subscribe(ctx, c.topicOf(args), s)
			if errors.Is(err, mnsclient.ErrSubscriptionExists) {
				return explained{fmt.Sprintf("%s has a subscription %s already, with other attributes; remove it with: pushinbox mns unsubscribe %[1]s %[2]s", c.topic, s.Name), err}
			}
			return c.created(err, "subscription", s.Name, created, "Create Subscription Succeed! TopicName:%s SubName:%s Endpoint:%s\n", c.topic, s.Name, s.Endpoint)
		})
	cmd.Flags().StringVar(&s.Name, "name", "", "the subscription's name, as SUBSCRIPTION")
	cmd.Flags().StringVar(&s.FilterTag, "tag", "", "push only messages with this tag")
	oneOf(cmd.Flags(), &s.Strategy, "strategy", "how pushes are repeated: BACKOFF_RETRY (MNS's default) or EXPONENTIAL_DECAY_RETRY",
		mnsclient.BackoffRetry, mnsclient.ExponentialDecayRetry)
	oneOf(cmd.Flags(), &s.Format, "content-format", "the form of pushes: XML (MNS's default), JSON or SIMPLIFIED", mns.XML, mns.JSON, mns.Simplified)
	return cmd
}

func isAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

func newUnsubscribe() *cobra.Command {
	return newMNSCall("unsubscribe [TOPIC [SUBSCRIPTION]]", "End a subscription, TOPIC-Sub by default",
		`  pushinbox mns unsubscribe MyTopic1
  pushinbox mns unsubscribe MyTopic1 MyTopic1-Sub1`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			name := c.topicOf(args) + "-Sub"
			if len(args) > 1 {
				name = args[1]
			}
			err := c.client.Unsubscribe(ctx, c.topic, name)
			if errors.Is(err, mnsclient.ErrSubscriptionMissing) {
				return explained{fmt.Sprintf("%s has no subscription %s; see pushinbox mns list %[1]s", c.topic, name), err}
			}
			return c.show(err, map[string]string{"deleted": name}, "subscription %s is deleted\n", name)
		})
}

func newList() *cobra.Command {
	return newMNSCall("list [TOPIC]", "List the topics, or a topic's subscriptions",
		`  pushinbox mns list
  pushinbox mns list --format json MyTopic1 | jq -r '.subscriptions[].endpoint'`,
		func(ctx context.Context, c *mnsCaller, args []string) error {
			if len(args) > 0 {
				return list(c, c.client.ListSubscriptions(ctx, c.topicOf(args)), "subscriptions", visible(args[0])+" has no subscription",
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
	cmd := newMNSCall("publish [TOPIC [MESSAGE...]]", `Publish messages, three samples by default; "-" reads one from standard input`,
		`  pushinbox mns publish MyTopic1 "I am test message 0." "I am test message 1."
  pushinbox mns publish --tag red --base64 MyTopic1 - < picture.png`,
		func(ctx context.Context, c *mnsCaller, args []string) (err error) {
			c.topicOf(args)
			messages := sampleMessages
			if len(args) > 1 {
				messages = args[1:]
			}
			if first := slices.Index(messages, "-"); first >= 0 && slices.Contains(messages[first+1:], "-") {
				return usageError{errors.New(`a second "-" would have nothing to read; standard input is one message`)}
			}
			if encode {
				m.Encoding = mns.Base64
			}
			for i, text := range messages {
				m.Body = []byte(text)
				if text == "-" {
					if m.Body, err = readInput(text); err != nil {
						return err
					}
				}
				if i == 0 && !wantsJSON(c.cmd) {
					const line = "=========="
					if err := c.show(nil, nil, "%sPublish Message To Topic%[1]s\nTopicName:%s\nMessageCount:%d\n\n", line, c.topic, len(messages)); err != nil {
						return err
					}
				}
				p, err := c.client.Publish(ctx, c.topic, m)
				if err != nil && len(messages) > 1 {
					return fmt.Errorf("message %d of %d, %s, was not published, and none after it: %w", i+1, len(messages), beginning(m.Body), c.explain(err))
				}
				if err := c.show(err, map[string]string{"messageId": p.MessageID, "bodyMd5": p.BodyMD5},
					"Publish Message Succeed. MessageBody:%s MessageID:%s\n", beginning(m.Body), visible(p.MessageID)); err != nil {
					return err
				}
			}
			return nil
		})
	cmd.Flags().StringVar(&m.Tag, "tag", "", "the messages' tag, 16 characters at most")
	cmd.Flags().BoolVar(&encode, "base64", false, "encode the messages, for an endpoint with MNS_BODY=base64")
	return cmd
}

// beginning returns what is shown of a message.
func beginning(body []byte) string {
	const most = 200
	if len(body) > most {
		return visible(string(body[:most])) + "..."
	}
	return visible(string(body))
}

// show prints what was done unless it failed, which it returns.
func (c *mnsCaller) show(err error, v any, text string, args ...any) error {
	if err != nil {
		return err
	}
	return show(c.cmd, v, text, args...)
}

// created prints that something exists now, and text where it is new, unless
// creating it failed.
func (c *mnsCaller) created(err error, kind, name string, created bool, text string, args ...any) error {
	if !created {
		text, args = "%s %s exists already, with the same attributes\n", []any{kind, name}
	}
	return c.show(err, map[string]any{kind: name, "created": created}, text, args...)
}

// explain says what to do about what can be expected to go wrong.
func (c *mnsCaller) explain(err error) error {
	var refused *mnsclient.APIError
	switch {
	case errors.As(err, new(explained)):
		return err
	case errors.Is(err, mnsclient.ErrTopicExists) && c.topic != "":
		return explained{fmt.Sprintf("topic %s exists already, with other attributes", c.topic), err}
	case errors.Is(err, mnsclient.ErrTopicMissing) && c.topic != "":
		return explained{fmt.Sprintf("there is no topic %s; pushinbox mns list shows those that exist", c.topic), err}
	case errors.As(err, &refused) && (refused.Code == "InvalidAccessKeyId" || refused.Code == "SignatureDoesNotMatch"):
		return explained{fmt.Sprintf("%s does not know the AccessKey: %v", c.endpoint, err), err}
	case errors.As(err, &refused) && refused.Code == "TimeExpired":
		return explained{fmt.Sprintf("this machine's clock is more than 15 minutes off: %v", err), err}
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
