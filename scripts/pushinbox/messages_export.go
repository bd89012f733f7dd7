package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
)

func newMessagesExport() *cobra.Command {
	var from server
	var which filter
	e := new(export)
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
			case e.output != "" && e.directory != "":
				return usageError{errors.New("give one of --output and --directory")}
			case e.resume != "" && e.output == "" && e.directory == "":
				return usageError{errors.New("--resume needs --output or --directory: what was written to standard output cannot be found again")}
			}
			if e.filter, err = which.values(); err != nil {
				return err
			}
			if _, err := which.query(); err != nil { // refused before anything else
				return err
			}
			e.p = newProgress(cmd.ErrOrStderr())
			if e.c, err = from.client(cmd.Context(), retrying(e.p)); err != nil {
				return err
			}
			e.out = terminalOf(cmd.OutOrStdout())
			return e.run(cmd.Context())
		},
	}
	from.flags(cmd.Flags())
	which.flags(cmd.Flags())
	cmd.Flags().StringVarP(&e.output, "output", "o", "", "the `FILE` to write to; it must not exist, except with --resume")
	cmd.Flags().StringVar(&e.directory, "directory", "", "write each message to a file of its own in this `DIRECTORY`")
	cmd.Flags().StringVar(&e.resume, "resume", "", "store in this `FILE` how far the export is, and go on from there")
	return cmd
}

// export writes messages to files.
type export struct {
	output, directory, resume string
	filter                    url.Values
	c                         *inboxclient.Client
	p                         *progress
	out                       *terminal
	state                     exportState
	isNew                     bool     // nothing of it was written before
	file                      *os.File // of --output
	gone                      int      // messages that expired between the list and their turn
}

// exportState is how far an export is: all before PageToken is written, which ends
// at Offset.
type exportState struct {
	Console string `json:"console"`
	Output  string `json:"output"`
	inboxclient.Selection
	PageToken string `json:"pageToken,omitempty"`
	Offset    int64  `json:"offset"`
	Messages  int    `json:"messages"`
	Done      bool   `json:"done,omitempty"`
}

// run exports what was not exported yet.
func (e *export) run(ctx context.Context) error {
	if err := e.begin(ctx); err != nil {
		return err
	}
	defer e.p.clear()
	if e.state.Done {
		e.p.say("this export is complete: %s in %s", many(e.state.Messages, "message"), e.state.Output)
		return nil
	}
	q, err := e.state.Query(e.state.PageToken)
	if err != nil {
		return err
	}
	var out io.Writer = e.out.w
	if e.output != "" {
		if err := e.open(); err != nil {
			return err
		}
		defer e.file.Close()
		out = e.file
	}
	if e.directory != "" {
		if err := os.MkdirAll(e.directory, 0o777); err != nil {
			return err
		}
	}
	buffered := bufio.NewWriterSize(out, 256<<10)
	for page, err := range e.c.Pages(ctx, q) {
		if err != nil {
			return e.interrupted(explain(e.c, err))
		}
		if err := e.write(ctx, buffered, page); err != nil {
			return e.interrupted(err)
		}
		e.state.PageToken, e.state.Done = page.NextPageToken, page.NextPageToken == ""
		if err := e.save(); err != nil {
			return err
		}
		at := ""
		if n := len(page.Messages); n > 0 {
			at = ", at " + page.Messages[n-1].ReceivedAt.Local().Format(time.DateTime)
		} else if !page.ExaminedUntil.IsZero() {
			at = ", at " + page.ExaminedUntil.Local().Format(time.DateTime)
		}
		e.p.at("%s exported%s", many(e.state.Messages, "message"), at)
	}
	if e.gone > 0 {
		e.p.say("%s expired meanwhile", many(e.gone, "message"))
	}
	if e.output != "" || e.directory != "" {
		e.p.say("%s exported", many(e.state.Messages, "message"))
	}
	return nil
}

// begin reads the state that there is, or makes one.
func (e *export) begin(ctx context.Context) error {
	what := e.output
	if e.directory != "" {
		what = e.directory
	}
	if e.resume != "" {
		b, err := os.ReadFile(e.resume)
		switch {
		case err == nil:
			if err := json.Unmarshal(b, &e.state); err != nil {
				return fmt.Errorf("%s is not the state of an export: %w", e.resume, err)
			}
			if s := e.state; s.Console != e.c.Address() || s.Filter != e.filter.Encode() || s.Output != what {
				return usageError{fmt.Errorf("%s is of another export: of %s with the filter %q to %s; give the same flags, or another --resume", e.resume, s.Console, s.Filter, s.Output)}
			}
			return nil
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if e.output != "" {
		if _, err := os.Lstat(e.output); !errors.Is(err, fs.ErrNotExist) {
			return usageError{fmt.Errorf("%s exists; delete it, or name another --output", e.output)}
		}
	}
	selected, err := e.c.Select(ctx, e.filter)
	if err != nil {
		return explain(e.c, err)
	}
	e.state, e.isNew = exportState{Console: e.c.Address(), Output: what, Selection: selected}, true
	return e.save()
}

// open opens the file of --output and cuts what is after the last page that the state
// counts.
func (e *export) open() (err error) {
	flags := os.O_CREATE | os.O_WRONLY
	if e.isNew { // begin has seen no file
		flags |= os.O_EXCL
	}
	if e.file, err = os.OpenFile(e.output, flags, 0o666); err != nil {
		return err
	}
	info, err := e.file.Stat()
	if err == nil && info.Size() < e.state.Offset {
		err = fmt.Errorf("%s has %d bytes, and the export had written %d; delete it and %s, and export again", e.output, info.Size(), e.state.Offset, e.resume)
	}
	if err == nil {
		err = e.file.Truncate(e.state.Offset)
	}
	if err == nil {
		_, err = e.file.Seek(e.state.Offset, io.SeekStart)
	}
	if err != nil {
		_ = e.file.Close()
	}
	return err
}

// write writes the messages of a page.
func (e *export) write(ctx context.Context, out *bufio.Writer, page *inboxclient.Page) error {
	for _, m := range page.Messages {
		line := m.JSON
		if m.Truncated {
			var err error
			if line, err = e.c.JSON(ctx, m.ID, m.Size); inboxclient.IsNotFound(err) {
				e.gone++
				continue
			} else if err != nil {
				return err
			}
		}
		if e.directory != "" {
			if !inbox.ValidID(m.ID) {
				return fmt.Errorf("the console answered a message whose ID is not one of an inbox: %q", m.ID)
			}
			if err := replaceFile(filepath.Join(e.directory, m.ID+".json"), append(slices.Clip(line), '\n')); err != nil {
				return err
			}
			e.state.Messages++
			continue
		}
		if e.output == "" {
			line = oneLine(e.out, line)
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
		if err := out.WriteByte('\n'); err != nil {
			return err
		}
		e.state.Messages++
		e.state.Offset += int64(len(line)) + 1
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if e.file != nil {
		return e.file.Sync()
	}
	return nil
}

// save writes the state, after what it counts.
func (e *export) save() error {
	if e.resume == "" {
		return nil
	}
	b, err := json.MarshalIndent(e.state, "", "  ")
	if err != nil {
		return err
	}
	return datadir.ReplaceDurably(e.resume, append(b, '\n'))
}

// interrupted says how to go on.
func (e *export) interrupted(err error) error {
	next := "with --output and --resume it could go on"
	if e.resume != "" {
		next = "the same command goes on from here"
	}
	return fmt.Errorf("%w\n%s were exported; %s", err, many(e.state.Messages, "message"), next)
}

// replaceFile writes a file that others may read, whole or not at all. In a directory that
// others can write to, a link of theirs is not followed.
func replaceFile(name string, content []byte) error {
	part := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".part")
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(part, name)
}
