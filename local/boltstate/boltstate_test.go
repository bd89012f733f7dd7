package boltstate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/testkit/statetest"
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
	if _, err := Open(path); !errors.Is(err, ErrLocked) {
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
