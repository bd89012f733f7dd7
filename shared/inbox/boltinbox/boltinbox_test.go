package boltinbox

import (
	"path/filepath"
	"testing"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/inboxtest"
)

func TestInbox(t *testing.T) {
	t.Parallel()
	inboxtest.Run(t, func(t *testing.T) inboxtest.Place {
		path := filepath.Join(t.TempDir(), "inbox.db")
		return inboxtest.Place{
			Open: func(t *testing.T) inbox.Inbox {
				in, err := Open(path, nil)
				if err != nil {
					t.Fatal(err)
				}
				return in
			},
			Exclusive: true,
		}
	})
}
