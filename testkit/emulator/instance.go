package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"example.com/pushinbox/testkit/relay"
)

// Instance is an emulator of one test's own, behind a relay that the test can cut.
// Its methods fail the test on trouble and must be called from the test's goroutine.
//
// One of StartFirestore keeps its data. What it can show, and what it cannot: the
// emulator keeps its data in memory, so Stop first cuts every connection, then exports,
// then kills. A write whose acknowledgement reached its client is therefore always in
// the export; a write that was under way may be in it or not, as with a real outage.
// The import gives every document a new create and update time.
type Instance struct {
	tb      testing.TB
	kind    kind
	project string // whose data is kept; empty: none
	data    string // folder of exports
	relay   *relay.Relay

	process *process
	exports int
}

// StartFirestore starts an emulator for one test, whose data of one project
// and its default database survives Stop and Start. It ends with the test. It
// skips or fails the test as Firestore does, and does not look at
// FIRESTORE_EMULATOR_HOST.
func StartFirestore(tb testing.TB, project string) *Instance {
	tb.Helper()
	data := tb.TempDir() // which is deleted after the emulator has ended
	i := ForgetfulFirestore(tb)
	i.project, i.data = project, data
	return i
}

// ForgetfulPubSub starts an emulator of Pub/Sub, and ForgetfulFirestore one of
// Firestore, that loses everything when it is stopped, as Google's do. They end with the
// test. They skip or fail the test as PubSub and Firestore do, and do not look at the
// environment.
func ForgetfulPubSub(tb testing.TB) *Instance {
	tb.Helper()
	return forgetful(tb, pubsub)
}

// ForgetfulFirestore is described with ForgetfulPubSub.
func ForgetfulFirestore(tb testing.TB) *Instance {
	tb.Helper()
	return forgetful(tb, firestore)
}

func forgetful(tb testing.TB, k kind) *Instance {
	tb.Helper()
	p, err := k.start("")
	if err != nil {
		missing(tb, k, err)
	}
	i := &Instance{tb: tb, kind: k, process: p, relay: relay.New(tb, p.host)}
	tb.Cleanup(func() { i.process.stop() })
	return i
}

// Host returns host:port of the emulator, the same for the instance's life.
func (i *Instance) Host() string { return i.relay.Host() }

// Cut closes every connection and refuses new ones, while the emulator runs on.
func (i *Instance) Cut() { i.relay.Cut() }

// Restore ends a Cut.
func (i *Instance) Restore() {
	i.tb.Helper()
	i.relay.Restore(i.process.host)
}

// Drop closes every connection once; new ones are welcome.
func (i *Instance) Drop() { i.relay.Drop() }

// Stop cuts every connection, exports the data that is kept, and kills the emulator.
func (i *Instance) Stop() {
	i.tb.Helper()
	i.relay.Cut()
	if i.project != "" {
		i.exports++
		if err := i.export(); err != nil {
			i.tb.Fatal(err)
		}
	}
	i.process.stop()
}

// Start starts a stopped emulator with the data that is kept, on the same host and port.
func (i *Instance) Start() {
	i.tb.Helper()
	p, err := i.kind.start(i.exported())
	if err != nil {
		i.tb.Fatal(err)
	}
	i.process = p
	i.Restore()
}

func (i *Instance) exportName() string { return fmt.Sprintf("export-%d", i.exports) }

// exported returns the file with the data that is kept, or nothing.
func (i *Instance) exported() string {
	if i.project == "" {
		return ""
	}
	return filepath.Join(i.data, i.exportName(), i.exportName()+".overall_export_metadata")
}

func (i *Instance) export() error {
	body, err := json.Marshal(map[string]string{
		"database":         "projects/" + i.project + "/databases/(default)",
		"export_directory": i.data,
		"export_name":      i.exportName(),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	url := "http://" + i.process.host + "/emulator/v1/projects/" + i.project + ":export"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // only to show
		return fmt.Errorf("export: %s: %s", res.Status, text)
	}
	if _, err := os.Stat(i.exported()); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}
