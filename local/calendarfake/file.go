package calendarfake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// kept is what the file of a Server holds.
type kept struct {
	Calendars map[string]*calendar
	Channels  map[string]*channel
}

// Open is New for a Server that keeps its calendars and channels in a file, and
// finds them there when it is opened again. Every change rewrites the file, so
// it is not for calendars with many events. Notifications that were not sent
// yet are lost, as some of Google's are.
func Open(file string, o *Options) (*Server, error) {
	s := New(o)
	s.file = file
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("calendarfake: %w", err)
	}
	if err := json.Unmarshal(b, &kept{s.calendars, s.channels}); err != nil {
		return nil, fmt.Errorf("calendarfake: %s is damaged; delete it: %w", file, err)
	}
	return s, nil
}

// save writes the file, if there is one. A process that dies leaves the old one
// or the new one. s.mu is held.
func (s *Server) save() error {
	if s.file == "" {
		return nil
	}
	b, err := json.Marshal(kept{s.calendars, s.channels})
	if err != nil {
		return fmt.Errorf("calendarfake: %w", err)
	}
	if err := os.WriteFile(s.file+".new", b, 0o600); err != nil {
		return fmt.Errorf("calendarfake: %w", err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		return fmt.Errorf("calendarfake: %w", err)
	}
	return nil
}
