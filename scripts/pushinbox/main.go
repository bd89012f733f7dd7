// Command pushinbox runs Push Inbox on one machine and talks to it.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/mnsclient"
)

// The exit codes of the command.
const (
	exitFailed = 1 // it was tried and failed, or the answer was a refusal
	exitUsage  = 2 // the call itself was wrong
	exitExists = 3 // MNS has it with other attributes
	exitAbsent = 4 // MNS does not have it, or the inbox has no such message
)

// maxErrors is how many lines of an error are printed.
const maxErrors = 100

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := execute(ctx, newRoot())
	interrupted := ctx.Err() != nil
	stop()
	if code := programExit(0); errors.As(err, &code) {
		os.Exit(int(code))
	}
	if err != nil {
		text := err.Error()
		if interrupted { // by a signal, which is nothing that failed
			text = strings.ReplaceAll(text, context.Canceled.Error(), "interrupted")
		}
		lines := strings.Split(text, "\n")
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

// ranByGo matches where go run has what it runs: a build of its own, or its cache.
var ranByGo = regexp.MustCompile(`/go-build|/[0-9a-f]{64}-d/`)

// self is how this command was called: installed, or by go run in its clone.
func self() string {
	if path, err := os.Executable(); err == nil && ranByGo.MatchString(filepath.ToSlash(path)) {
		return "go run ./scripts/pushinbox"
	}
	return "pushinbox"
}

func exitCode(err error) int {
	switch {
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, mnsclient.ErrTopicExists), errors.Is(err, mnsclient.ErrSubscriptionExists):
		return exitExists
	case errors.Is(err, mnsclient.ErrTopicMissing), errors.Is(err, mnsclient.ErrSubscriptionMissing), errors.Is(err, inboxclient.ErrNoMessage):
		return exitAbsent
	}
	return exitFailed
}

// execute runs a command. Cobra answers --help whatever stands before it, and cannot
// fail doing so; a command that does not exist is an error all the same, and so is a help
// that cannot be printed.
func execute(ctx context.Context, root *cobra.Command) error {
	var failed error
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if given := cmd.Flags().Args(); cmd.HasSubCommands() && len(given) > 0 {
			failed = positional(cmd, given)
			return
		}
		out, text := cmd.OutOrStdout(), new(bytes.Buffer)
		cmd.SetOut(text)
		help(cmd, args)
		cmd.SetOut(out)
		_, failed = text.WriteTo(out)
	})
	return errors.Join(root.ExecuteContext(ctx), failed)
}

// newHelp is "pushinbox help COMMAND".
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Print the help of a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			switch {
			case err != nil:
				return usageError{err}
			case len(rest) > 0:
				return positional(cmd, rest)
			}
			return cmd.Help()
		},
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pushinbox",
		Short: "Receive Pub/Sub pushes, verify them, store every message exactly once",
		Long: `Receive Pub/Sub pushes, verify them, store every message exactly once.

Exit codes: 0 done, 1 failed or refused, 2 wrong call. "doctor", "messages", "mns" and
"run" have more; their --help lists them. "go run" turns all but 0 into 1.`,
		Example: `  pushinbox local
  pushinbox run -- python3 main.py
  pushinbox messages list --since 2h
  pushinbox doctor --local
  pushinbox send testdata/pubsub/sample_message.json
  pushinbox token --for publish --claim email=somebody@example.com
  pushinbox calendar watch --local demo
  pushinbox mns publish MySampleTopic "Hello"`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(flagError)
	info, _ := debug.ReadBuildInfo()
	root.Version = versionOf(info).Version
	root.SetVersionTemplate(versionOf(info).String())
	root.SetHelpCommand(newHelp(root))
	root.AddCommand(newLocal(), newRun(), newSend(), newToken(), newConsole(), newMessages(), newDelivery(), newDeadLetters(), newCalendar(), newMNS(), newDoctor(), newListen(), newLogs(), newVersion())
	complete(root)
	return root
}

// complete has cmd and the commands below it refuse wrong arguments, and print
// their help where they do nothing themselves.
func complete(cmd *cobra.Command) {
	cmd.Args = positional
	cmd.SuggestionsMinimumDistance = 2
	if cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, sub := range cmd.Commands() {
		complete(sub)
	}
}
