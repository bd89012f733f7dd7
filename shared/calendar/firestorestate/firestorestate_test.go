package firestorestate

import (
	"testing"

	"example.com/pushinbox/shared/calendar"
	"example.com/pushinbox/shared/calendar/statetest"
	"example.com/pushinbox/shared/emulator"
)

func open(t *testing.T, host, project string) *State {
	t.Helper()
	s, err := Open(t.Context(), Config{Project: project, Database: "(default)", Collection: "calendars", EmulatorHost: host})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestState(t *testing.T) {
	t.Parallel()
	host := emulator.Firestore(t)
	statetest.Run(t, func(t *testing.T) statetest.Place {
		project := emulator.Project()
		return statetest.Place{Open: func(t *testing.T) calendar.State { return open(t, host, project) }}
	})
}
