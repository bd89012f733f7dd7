package firestoreinbox

import (
	"testing"

	"example.com/pushinbox/shared/emulator"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/inboxtest"
	"google.golang.org/api/option"
)

// open opens an inbox on the emulator.
func open(t testing.TB, host, project string, o *Options, opts ...option.ClientOption) *Inbox {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	o.EmulatorHost = host
	in, err := New(t.Context(), project, "", o, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestInbox(t *testing.T) {
	host := emulator.Firestore(t)
	inboxtest.Run(t, func(t *testing.T) inboxtest.Place {
		project := emulator.Project()
		return inboxtest.Place{Open: func(t *testing.T) inbox.Inbox { return open(t, host, project, nil) }}
	})
}
