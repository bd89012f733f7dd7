// Command pushinbox runs Push Inbox on one machine and talks to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"example.com/pushinbox/mnsclient"
)

// The exit codes of the command.
const (
	exitFailed = 1 // it was tried and failed, or the answer was a refusal
	exitUsage  = 2 // the call itself was wrong
	exitExists = 3 // MNS has it with other attributes
	exitAbsent = 4 // MNS does not have it
)

// maxErrors is how many lines of an error are printed.
const maxErrors = 100

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		lines := strings.Split(err.Error(), "\n")
		if more := len(lines) - maxErrors; more > 0 {
			lines = append(lines[:maxErrors], fmt.Sprintf("... (%d errors more)", more))
		}
		for i, line := range lines {
			lines[i] = visible(line)
		}
		fmt.Fprintln(os.Stderr, "pushinbox:", strings.Join(lines, "\n"))
		os.Exit(exitCode(err))
	}
}

func exitCode(err error) int {
	switch {
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, mnsclient.ErrTopicExists), errors.Is(err, mnsclient.ErrSubscriptionExists):
		return exitExists
	case errors.Is(err, mnsclient.ErrTopicMissing), errors.Is(err, mnsclient.ErrSubscriptionMissing):
		return exitAbsent
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pushinbox",
		Short: "Receive Pub/Sub pushes, verify them, store every message exactly once",
		Long: `Receive Pub/Sub pushes, verify them, store every message exactly once.

Exit codes: 0 done, 1 failed or refused, 2 wrong call; see "pushinbox mns --help"
for two more.`,
		Example: `  pushinbox local
  pushinbox send testdata/pubsub/sample_message.json
  pushinbox token --for publish --claim email=somebody@example.com
  pushinbox calendar watch --local demo
  pushinbox mns publish MySampleTopic "Hello"`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newLocal(), newSend(), newToken(), newConsole(), newCalendar(), newMNS(), newLogs(), newVersion())
	complete(root)
	return root
}

// complete has cmd and the commands below it refuse wrong arguments, and print
// their help where they do nothing themselves.
func complete(cmd *cobra.Command) {
	cmd.Args = positional
	if cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, sub := range cmd.Commands() {
		complete(sub)
	}
}
