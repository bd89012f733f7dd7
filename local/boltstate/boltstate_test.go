package boltstate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/testkit/statetest"
	"github.com/google/go-cmp/cmp"
)

func TestState(t *testing.T) {
	t.Parallel()
	statetest.Run(t, func(t *testing.T) statetest.Place {
		path := filepath.Join(t.TempDir(), "calendar.db")
		return statetest.Place{
			Open: func(t *testing.T) calendar.State {
				s, err := Open(path)
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Exclusive: true,
		}
	})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "calendar.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, datadir.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other); err == nil {
		t.Error("opened a file that is something else")
	}
}

// TestFileGone deletes the file in use: nothing is acknowledged any more.
func TestFileGone(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(string) error{
		"deleted": os.Remove,
		"emptied_other": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600))
		},
		"directory_deleted": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "data", "calendar.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := take(path); err != nil {
				t.Fatal(err)
			}
			err = s.UpdateCalendar(t.Context(), "c", func(*calendar.Calendar) (*calendar.Calendar, error) { return &calendar.Calendar{ID: "c"}, nil })
			if !errors.Is(err, calendar.ErrState) {
				t.Errorf("UpdateCalendar = %v, want ErrState", err)
			}
		})
	}
}

// TestFlippedBits turns over bits of a file one at a time: it is refused, or what
// it has is as it was.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "calendar.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		if err := s.UpdateCalendar(t.Context(), id, func(*calendar.Calendar) (*calendar.Calendar, error) { return &calendar.Calendar{ID: id}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	want, err := s.Calendars(t.Context())
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for bit := 0; bit < len(file)*8; bit += 1013 {
		file[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		file[bit/8] ^= 1 << (bit % 8)
		s, err := Open(path)
		if err != nil {
			refused++
			continue
		}
		got, err := s.Calendars(t.Context())
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("bit %d (-want +got):\n%s", bit, diff)
		}
	}
	t.Logf("%d refused", refused)
}
