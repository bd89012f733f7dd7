package main

import (
	"bufio"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/inboxclient/export"
)

func newMessagesExport() *cobra.Command {
	var from server
	var which filter
	e := new(export.Export)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write messages to files, whole, the oldest first",
		Long: `Write messages to files, whole, the oldest first: as JSON, one object a line
(NDJSON), to standard output or to --output, or each to a file of its own in
--directory, named by the inbox's ID. The JSON is that of the API; data is base64.

Messages that are received after the start are left out. --resume FILE stores in FILE how
far the export is: after an interruption the same command goes on, and the output has the
same bytes as without it. Progress is printed on standard error.`,
		Example: `  pushinbox messages export --since 7d > week.ndjson
  pushinbox messages export --since 7d --output week.ndjson --resume week.state
  pushinbox messages export --attribute kind=order --directory orders`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case e.Output != "" && e.Directory != "":
				return usageError{errors.New("give one of --output and --directory")}
			case e.Resume != "" && e.Output == "" && e.Directory == "":
				return usageError{errors.New("--resume needs --output or --directory: what was written to standard output cannot be found again")}
			}
			if e.Filter, err = which.values(); err != nil {
				return err
			}
			if _, err := which.query(); err != nil { // refused before anything else
				return err
			}
			p := newProgress(cmd.ErrOrStderr())
			if e.Client, err = from.client(cmd.Context(), retrying(p)); err != nil {
				return err
			}
			return runExport(cmd, e, p)
		},
	}
	from.flags(cmd.Flags())
	which.flags(cmd.Flags())
	cmd.Flags().StringVarP(&e.Output, "output", "o", "", "the `FILE` to write to; it must not exist, except with --resume")
	cmd.Flags().StringVar(&e.Directory, "directory", "", "write each message to a file of its own in this `DIRECTORY`")
	cmd.Flags().StringVar(&e.Resume, "resume", "", "store in this `FILE` how far the export is, and go on from there")
	return cmd
}

// runExport exports what was not exported yet, and tells how far it is.
func runExport(cmd *cobra.Command, e *export.Export, p *progress) error {
	ctx := cmd.Context()
	out := terminalOf(cmd.OutOrStdout())
	printed := bufio.NewWriterSize(out.w, 256<<10)
	e.Print = func(line []byte) error {
		if out.isTerminal {
			line = visibleJSON(line)
		}
		_, err := fmt.Fprintf(printed, "%s\n", line)
		return err
	}
	defer p.clear()
	e.OnProgress = func(n int, at time.Time) {
		_ = printed.Flush() // the next write fails, too
		text := ""
		if !at.IsZero() {
			text = ", at " + at.Local().Format(time.DateTime)
		}
		p.at("%s exported%s", many(n, "message"), text)
	}
	if err := e.Begin(ctx); errors.As(err, new(export.Refused)) {
		return usageError{err}
	} else if err != nil {
		return explain(e.Client, err)
	}
	if e.IsDone() {
		p.say("this export is complete: %s in %s; for a new one delete it and %s, or name others", many(e.Messages(), "message"), e.Output+e.Directory, e.Resume)
		return nil
	}
	err := e.Run(ctx)
	if unprinted := printed.Flush(); unprinted != nil { // err may be the same
		return unprinted
	}
	if err != nil {
		next := "with --output and --resume it could go on"
		if e.Resume != "" {
			next = "the same command goes on from here"
		}
		return fmt.Errorf("%w\n%s were exported; %s", explain(e.Client, err), many(e.Messages(), "message"), next)
	}
	if e.Gone > 0 {
		p.say("%s expired meanwhile", many(e.Gone, "message"))
	}
	if e.Output != "" || e.Directory != "" {
		p.say("%s exported", many(e.Messages(), "message"))
	}
	return nil
}
