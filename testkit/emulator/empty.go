package emulator

import (
	"testing"

	"example.com/pushinbox/testkit/relay"
)

// Forgetful is an emulator of one test's own that loses everything when it is
// stopped, as Google's do. Its methods fail the test on trouble and must be called
// from the test's goroutine.
type Forgetful struct {
	tb      testing.TB
	kind    kind
	relay   *relay.Relay
	process *process
}

// ForgetfulPubSub starts one of Pub/Sub, and ForgetfulFirestore one of Firestore.
// They end with the test. They skip or fail the test as PubSub and Firestore do,
// and do not look at the environment.
func ForgetfulPubSub(tb testing.TB) *Forgetful { return forgetful(tb, pubsub) }

// ForgetfulFirestore is described with ForgetfulPubSub.
func ForgetfulFirestore(tb testing.TB) *Forgetful { return forgetful(tb, firestore) }

func forgetful(tb testing.TB, k kind) *Forgetful {
	tb.Helper()
	p, err := k.start("")
	if err != nil {
		missing(tb, k, err)
	}
	f := &Forgetful{tb: tb, kind: k, process: p, relay: relay.New(tb, p.host)}
	tb.Cleanup(func() { f.process.stop() })
	return f
}

// Host returns host:port of the emulator, the same for its life.
func (f *Forgetful) Host() string { return f.relay.Host() }

// Stop cuts every connection and kills the emulator.
func (f *Forgetful) Stop() {
	f.relay.Cut()
	f.process.stop()
}

// Start starts a stopped emulator, empty, at the same address.
func (f *Forgetful) Start() {
	f.tb.Helper()
	p, err := f.kind.start("")
	if err != nil {
		f.tb.Fatal(err)
	}
	f.process = p
	f.relay.Restore(p.host)
}
