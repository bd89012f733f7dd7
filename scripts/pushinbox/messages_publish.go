package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/googleapis/gax-go/v2"
	"github.com/spf13/cobra"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/inbox"
)

// published is what publishing prints.
type published struct {
	MessageID string `json:"messageId"`
	// IDs are the messages in the inbox, one for each subscription that has brought
	// it; with --wait.
	IDs []string `json:"ids,omitempty"`
}

func newMessagesPublish() *cobra.Command {
	var from server
	var attributes []string
	var orderingKey string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "publish [FILE]",
		Short: "Publish a message to the inbox's topic",
		Long: `Publish a message to the inbox's topic, and print the message ID.

The data is read from FILE, or from standard input if FILE is "-" or left out. With --wait
the command ends when the message is in the inbox, and prints its ID there, too; it fails
if that takes longer.`,
		Example: `  echo Hello | pushinbox messages publish
  pushinbox messages publish order.json --attribute kind=order --ordering-key 1234
  pushinbox messages publish order.json --wait=10s --format json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := pairs("attribute", attributes)
			if err != nil {
				return err
			}
			if wait < 0 {
				return usageError{errors.New("--wait must be a positive duration, such as 30s")}
			}
			file := "-"
			if len(args) > 0 {
				file = args[0]
			}
			p := newProgress(cmd.ErrOrStderr())
			if file == "-" && stdinIsTerminal() {
				p.say("type the message; Ctrl-D ends it")
			}
			data, err := readInput(file)
			if _, no := time.ParseDuration(file); errors.Is(err, fs.ErrNotExist) && no == nil && wait == time.Minute { // as of --wait alone
				return usageError{fmt.Errorf("--wait takes its duration with an equals sign: --wait=%s", file)}
			}
			if err != nil {
				return err
			}
			c, err := from.client(cmd.Context(), retrying(p))
			if err != nil {
				return err
			}
			ids, err := c.Publish(cmd.Context(), inboxclient.Publication{Data: data, Attributes: set, OrderingKey: orderingKey})
			if err != nil {
				return explain(c, err)
			}
			answer := published{MessageID: ids[0]}
			text := visible(answer.MessageID) + "\n"
			if wait > 0 {
				answer.IDs, err = arrival(cmd.Context(), c, answer.MessageID, wait)
				text = visible(answer.MessageID)
				for _, id := range answer.IDs {
					text += "\t" + visible(id)
				}
				text += "\n"
			}
			return errors.Join(show(cmd, answer, "%s", text), err)
		},
	}
	from.flags(cmd.Flags())
	flags := cmd.Flags()
	flags.StringArrayVar(&attributes, "attribute", nil, "an attribute of the message, as `KEY=VALUE`; can be repeated")
	flags.StringVar(&orderingKey, "ordering-key", "", "the message's ordering key")
	flags.DurationVar(&wait, "wait", 0, "wait until the message is in the inbox, at most this long (a minute where no duration is given)")
	flags.Lookup("wait").NoOptDefVal = "1m"
	formatFlag(cmd)
	return cmd
}

// arrival waits until a message with this ID of the provider is in the inbox, and
// returns the IDs that it has there.
func arrival(ctx context.Context, c *inboxclient.Client, messageID string, most time.Duration) ([]string, error) {
	until := time.Now().Add(most)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		page, err := c.Page(ctx, inbox.Query{MessageID: messageID})
		if err != nil {
			return nil, explain(c, err)
		}
		if len(page.Messages) > 0 {
			ids := make([]string, len(page.Messages))
			for i, m := range page.Messages {
				ids[i] = m.ID
			}
			return ids, nil
		}
		left := time.Until(until)
		if left <= 0 {
			return nil, fmt.Errorf("the message was published, and was not in the inbox after %v; look later with: pushinbox messages get %s", most, messageID)
		}
		if err := gax.Sleep(ctx, min(pause, left)); err != nil {
			return nil, err
		}
	}
}
