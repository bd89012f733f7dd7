// Package export writes messages of an inbox to files, whole, the oldest first. An
// interrupted export goes on where it was, and ends with the same bytes as one that was not.
package export

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

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
)

// Export is one export.
type Export struct {
	Client *inboxclient.Client
	// Filter has the parameters of the API.
	Filter url.Values
	// Output is the file to write to, and Directory the one in which each message gets a
	// file of its own. Without both of them Print gets each message, as JSON in one line.
	Output, Directory string
	Print             func(line []byte) error
	// Resume is the file that tells how far the export is, if any.
	Resume string
	// OnProgress is called with how many messages were exported, and the time at which the
	// last one was received that was looked at.
	OnProgress func(n int, at time.Time)
	// Gone is how many messages expired between the list and their turn.
	Gone int

	state state
	isNew bool     // nothing of it was written before
	file  *os.File // of Output
	out   *bufio.Writer
}

// state is how far an export is: all before PageToken is written, which ends at Offset.
type state struct {
	Console string `json:"console"`
	Output  string `json:"output"`
	inboxclient.Selection
	PageToken string `json:"pageToken,omitempty"`
	Offset    int64  `json:"offset"`
	Messages  int    `json:"messages"`
	Done      bool   `json:"done,omitempty"`
}

// Refused is the error of an export that was not begun, since it would not do what was
// asked for.
type Refused struct{ error }

// Messages returns how many messages were exported.
func (e *Export) Messages() int { return e.state.Messages }

// IsDone reports whether the export is complete.
func (e *Export) IsDone() bool { return e.state.Done }

// Begin reads how far the export is, or begins a new one.
func (e *Export) Begin(ctx context.Context) error {
	what := e.Output
	if e.Directory != "" {
		what = e.Directory
	}
	if e.Resume != "" {
		b, err := os.ReadFile(e.Resume)
		switch {
		case err == nil:
			if err := json.Unmarshal(b, &e.state); err != nil {
				return fmt.Errorf("%s is not the state of an export: %w", e.Resume, err)
			}
			if s := e.state; s.Console != e.Client.Address() || s.Filter != e.Filter.Encode() || s.Output != what {
				return Refused{fmt.Errorf("%s is of another export: of %s with the filter %q to %s; give the same flags, or another --resume", e.Resume, s.Console, s.Filter, s.Output)}
			}
			return e.checkOutput()
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if e.Output != "" {
		if _, err := os.Lstat(e.Output); !errors.Is(err, fs.ErrNotExist) {
			return Refused{fmt.Errorf("%s exists; delete it, or name another --output", e.Output)}
		}
	}
	selected, err := e.Client.Select(ctx, e.Filter)
	if err != nil {
		return err
	}
	e.state, e.isNew = state{Console: e.Client.Address(), Output: what, Selection: selected}, true
	return e.save()
}

// checkOutput returns an error unless what the state counts is there.
func (e *Export) checkOutput() error {
	if e.Directory != "" {
		if _, err := os.Stat(e.Directory); e.state.Messages == 0 || !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("%s does not exist, and %d messages were exported to it; delete %s to export again", e.Directory, e.state.Messages, e.Resume)
	}
	var size int64
	info, err := os.Stat(e.Output)
	switch {
	case err == nil:
		size = info.Size()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if size < e.state.Offset || e.state.Done && size > e.state.Offset {
		return fmt.Errorf("%s has %d bytes, and the export had written %d; it and %s belong together: delete both to export again", e.Output, size, e.state.Offset, e.Resume)
	}
	return nil
}

// Run exports what was not exported yet.
func (e *Export) Run(ctx context.Context) error {
	q, err := e.state.Query(e.state.PageToken)
	if err != nil {
		return err
	}
	if e.Output != "" {
		if err := e.open(); err != nil {
			return err
		}
		defer e.file.Close()
	}
	if e.Directory != "" {
		if err := os.MkdirAll(e.Directory, 0o777); err != nil {
			return err
		}
	}
	for page, err := range e.Client.Pages(ctx, q) {
		if err != nil {
			return err
		}
		if err := e.write(ctx, page); err != nil {
			return err
		}
		e.state.PageToken, e.state.Done = page.NextPageToken, page.NextPageToken == ""
		if err := e.save(); err != nil {
			return err
		}
		at := page.ExaminedUntil
		if n := len(page.Messages); n > 0 {
			at = page.Messages[n-1].ReceivedAt
		}
		e.OnProgress(e.state.Messages, at)
	}
	return nil
}

// open opens the file of --output and cuts what is after the last page that the state
// counts.
func (e *Export) open() (err error) {
	flags := os.O_CREATE | os.O_WRONLY
	if e.isNew { // Begin has seen no file
		flags |= os.O_EXCL
	}
	if e.file, err = os.OpenFile(e.Output, flags, 0o666); err != nil {
		return err
	}
	if err = e.file.Truncate(e.state.Offset); err == nil { // see checkOutput
		_, err = e.file.Seek(e.state.Offset, io.SeekStart)
	}
	e.out = bufio.NewWriterSize(e.file, 256<<10)
	if err != nil {
		_ = e.file.Close()
	}
	return err
}

// write writes the messages of a page. To a file they are written when all of them are.
func (e *Export) write(ctx context.Context, page *inboxclient.Page) error {
	before := e.state.Messages
	err := e.writeEach(ctx, page)
	if e.file == nil {
		return err
	}
	if err == nil {
		err = e.out.Flush()
	}
	if err == nil {
		err = e.file.Sync()
	}
	if err != nil {
		e.state.Messages = before
	}
	return err
}

func (e *Export) writeEach(ctx context.Context, page *inboxclient.Page) error {
	for _, m := range page.Messages {
		line := m.JSON
		if m.Truncated {
			var err error
			if line, err = e.Client.JSON(ctx, m.ID, m.Size); inboxclient.IsNotFound(err) {
				e.Gone++
				continue
			} else if err != nil {
				return err
			}
		}
		if err := e.writeOne(m.ID, line); err != nil {
			return err
		}
		e.state.Messages++
	}
	return nil
}

// writeOne writes a message where the export goes.
func (e *Export) writeOne(id string, line []byte) error {
	if e.Directory == "" && e.Output == "" {
		return e.Print(line)
	}
	line = append(slices.Clip(line), '\n')
	switch {
	case e.Directory == "":
		n, err := e.out.Write(line)
		e.state.Offset += int64(n)
		return err
	case !inbox.ValidID(id):
		return fmt.Errorf("the console answered a message whose ID is not one of an inbox: %q", id)
	}
	return replaceFile(filepath.Join(e.Directory, id+".json"), line)
}

// save writes the state, after what it counts.
func (e *Export) save() error {
	if e.Resume == "" {
		return nil
	}
	b, err := json.MarshalIndent(e.state, "", "  ")
	if err != nil {
		return err
	}
	return datadir.ReplaceDurably(e.Resume, append(b, '\n'))
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
