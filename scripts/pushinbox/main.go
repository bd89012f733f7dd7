// Command pushinbox runs Push Inbox on one machine and talks to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"example.com/pushinbox/shared/mns"
)

// The exit codes of the command.
const (
	exitFailed = 1 // it was tried and failed, or the answer was a refusal
	exitUsage  = 2 // the call itself was wrong
	exitExists = 3 // MNS has it already, and it is another
	exitAbsent = 4 // MNS does not have it
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pushinbox:", err)
		os.Exit(exitCode(err))
	}
}

// usageError is an error in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func exitCode(err error) int {
	switch {
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, mns.ErrTopicExists), errors.Is(err, mns.ErrSubscriptionExists):
		return exitExists
	case errors.Is(err, mns.ErrTopicMissing), errors.Is(err, mns.ErrSubscriptionMissing):
		return exitAbsent
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pushinbox",
		Short: "Receive Pub/Sub pushes, verify them, keep every message exactly once",
		Long: `Receive Pub/Sub pushes, verify them, keep every message exactly once.

Exit codes: 0 done, 1 failed or refused, 2 wrong call; see "pushinbox mns --help"
for two more.`,
		Example: `  pushinbox local
  pushinbox send testdata/pubsub/sample_message.json
  pushinbox token --for publish --claim email=somebody@example.com
  pushinbox calendar watch --local demo
  pushinbox mns publish MySampleTopic "Hello"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("there is no command %q; see pushinbox --help", args[0])}
			}
			return nil
		},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(newLocal(), newSend(), newToken(), newConsole(), newCalendar(), newMNS(), newLogs(), newVersion())
	return root
}

// exactly refuses any other number of arguments than names has, naming what is
// missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError{fmt.Errorf("%s is missing; see %s --help", names[len(args)], cmd.CommandPath())}
		case len(args) > len(names):
			return usageError{fmt.Errorf("%q is one argument too many; see %s --help", args[len(names)], cmd.CommandPath())}
		}
		return nil
	}
}

// formatFlag adds --format to cmd and checks its value before cmd runs.
func formatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVar(format, "format", "text", "how to print: text or json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *format != "text" && *format != "json" {
			return usageError{fmt.Errorf("--format is %q; it must be text or json", *format)}
		}
		return nil
	}
}
