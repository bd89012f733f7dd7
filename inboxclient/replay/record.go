package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"example.com/pushinbox/local/datadir"
)

// Record is the file that tells how far a run is. Its first line has the settings
// of the run, each other one an entry. What is about to be sent is in it before it is
// sent. A line that a kill cut is not counted. For a preview the settings alone are
// needed.
type Record struct {
	Settings Settings
	Name     string
	isOwn    bool // nobody named it: it goes when the run is complete
	isDone   bool

	mu        sync.Mutex
	f         *os.File
	pageToken string // all before it is done
	// fates has what became of the messages since the page token, and of all that
	// are doubtful.
	fates   map[string]fate
	refused []string
	sent    int
}

type fate int

const (
	fateBegun    fate = iota + 1 // being sent, or interrupted then
	fateDone                     // not to be sent again
	fateDoubtful                 // may have been sent, or not
)

// entry is a line of the record. One field has the ID of a message, or the rest is.
type entry struct {
	Begun     []string `json:"begun,omitempty"`     // about to be sent
	Sent      string   `json:"sent,omitempty"`      // is published, or acknowledged
	MessageID string   `json:"messageId,omitempty"` // of what was published
	Refused   string   `json:"refused,omitempty"`   // answered, and not sent
	Gone      string   `json:"gone,omitempty"`      // not in the inbox any more
	NotSent   string   `json:"notSent,omitempty"`   // to be sent yet, after all
	Doubtful  string   `json:"doubtful,omitempty"`  // may have been sent, or not
	Final     bool     `json:"final,omitempty"`     // and was looked for
	Why       string   `json:"why,omitempty"`
	Page      string   `json:"page,omitempty"` // all before this page token is done
	Done      bool     `json:"done,omitempty"`
}

// Create creates the record of a new run. One that nobody named is removed when the run is
// complete.
func Create(name string, isNamed bool, s Settings) (*Record, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_ = f.Close() // nothing was written
	if f, err = datadir.Lock(name); err != nil {
		return nil, err
	}
	r := &Record{Settings: s, Name: name, isOwn: !isNamed, f: f, fates: make(map[string]fate)}
	return r, r.write(s)
}

// Open opens the record of an earlier run. It fails with fs.ErrNotExist where there is
// none.
func Open(name string) (*Record, error) {
	f, err := datadir.Lock(name)
	if errors.Is(err, datadir.ErrLocked) {
		return nil, fmt.Errorf("%s is in use by another process, which replays: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	r := &Record{Name: name, f: f}
	if err := r.read(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not the record of a replay: %w", name, err)
	}
	return r, nil
}

// Sent returns how many messages were sent.
func (r *Record) Sent() int { return r.sent }

// IsDone reports whether the run is complete.
func (r *Record) IsDone() bool { return r.isDone }

// Close closes the file.
func (r *Record) Close() error { return r.f.Close() }

// remove removes the file.
func (r *Record) remove() error { return os.Remove(r.Name) }

// read takes in the file, and cuts what a kill left of a line.
func (r *Record) read() error {
	r.fates = make(map[string]fate)
	lines := bufio.NewReader(r.f)
	var whole int64
	for first := true; ; first = false {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if first {
				return errors.New("it has no whole line")
			}
			break
		}
		if err != nil {
			return err
		}
		whole += int64(len(line))
		if first {
			if err := json.Unmarshal(line, &r.Settings); err != nil || r.Settings.Run == "" {
				return errors.Join(errors.New("it does not begin with the settings of a run"), err)
			}
			continue
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		r.take(e)
	}
	if err := r.f.Truncate(whole); err != nil {
		return err
	}
	_, err := r.f.Seek(whole, io.SeekStart)
	return err
}

// add adds entries.
func (r *Record) add(entries ...entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := make([]any, len(entries))
	for i, e := range entries {
		r.take(e)
		lines[i] = e
	}
	return r.write(lines...)
}

// write writes lines, and returns when they would survive a crash.
func (r *Record) write(lines ...any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	for _, line := range lines {
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	if _, err := r.f.Write(b.Bytes()); err != nil {
		return err
	}
	return r.f.Sync()
}

// take takes an entry into account.
func (r *Record) take(e entry) {
	for _, id := range e.Begun {
		r.fates[id] = fateBegun
	}
	switch {
	case e.Sent != "":
		r.fates[e.Sent] = fateDone
		r.sent++
	case e.Refused != "":
		r.fates[e.Refused] = fateDone
		r.refused = append(r.refused, e.Refused)
	case e.Gone != "":
		r.fates[e.Gone] = fateDone
	case e.NotSent != "":
		delete(r.fates, e.NotSent)
	case e.Doubtful != "" && e.Final:
		r.fates[e.Doubtful] = fateDoubtful
	case e.Page != "":
		r.pageToken = e.Page
		maps.DeleteFunc(r.fates, func(_ string, f fate) bool { return f == fateDone })
	case e.Done:
		r.isDone = true
	}
}

// isKnown reports whether a message is not to be sent.
func (r *Record) isKnown(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fates[id] != 0
}

// isUntouched reports whether nothing was begun.
func (r *Record) isUntouched() bool { return r.pageToken == "" && len(r.fates) == 0 }

func (r *Record) with(f fate) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, is := range r.fates {
		if is == f {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// open returns the messages that were begun and of which nothing is known.
func (r *Record) open() []string { return r.with(fateBegun) }

// doubtful returns the messages that may have been sent, or not.
func (r *Record) doubtful() []string { return r.with(fateDoubtful) }
