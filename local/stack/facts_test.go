package stack

import (
	"context"
	"errors"
	"testing"

	"example.com/pushinbox/shared/inbox"
)

// small is a store that has no room for what is large.
type small struct{ room int }

func (s *small) Put(_ context.Context, m *inbox.Message) (bool, error) {
	if len(m.Data) > s.room {
		return false, errors.New("no space left on device")
	}
	return true, nil
}

// TestOnlyLargeOnesFail tells what fails from what is stored meanwhile, and not from
// what was stored before.
func TestOnlyLargeOnesFail(t *testing.T) {
	t.Parallel()
	store := &small{room: 1000}
	w := &watchedStore{Store: store}
	for i, size := range []int{900, 1, 500, 300, 20, 400} {
		if i == 2 {
			store.room = 100
		}
		_, _ = w.Put(t.Context(), &inbox.Message{Data: make([]byte, size)})
	}
	got := w.facts()
	if got.Stored != 3 || got.Failed != 3 || got.SmallestFailed != 300 || got.LargestStored != 20 || got.LastError != "no space left on device" || !got.LastFailed.After(got.LastStored) {
		t.Errorf("%+v", got)
	}
}
