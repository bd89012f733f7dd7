package calendarfake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"example.com/pushinbox/local/datadir"
)

// contents is the content of a Server's file.
type contents struct {
	Calendars map[string]*calendar
	Channels  map[string]*channel
}

// maxFile is the size of the largest file that is read, in bytes.
const maxFile = 1 << 30

// Open returns a Server that stores its calendars and channels in a file and starts
// with those that the file has. Every change rewrites the file, so it is not for
// calendars with many events. Notifications that wait to be sent are not stored, and a
// restart loses them, as Google loses some.
func Open(file string, o *Options) (*Server, error) {
	s := New(o)
	s.file = file
	b, err := datadir.ReadFile(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("calendarfake: %w", err)
	}
	if err := json.Unmarshal(b, &contents{s.calendars, s.channels}); err != nil {
		return nil, fmt.Errorf("calendarfake: %s is damaged; delete it to start without calendars: %w", file, err)
	}
	return s, nil
}

// save writes the file, if there is one. A process that dies leaves either the old
// or the new content. The caller holds s.mu.
func (s *Server) save() error {
	if s.file == "" {
		return nil
	}
	b, err := json.Marshal(contents{s.calendars, s.channels})
	if err != nil {
		return fmt.Errorf("calendarfake: %w", err)
	}
	if err := datadir.Replace(s.file, b); err != nil {
		return fmt.Errorf("calendarfake: %w", err)
	}
	return nil
}
