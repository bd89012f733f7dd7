package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Instance is a Firestore emulator of one test's own, behind a relay that the
// test can cut. Make one with StartFirestore. Its methods fail the test on
// trouble and must be called from the test's goroutine.
//
// What it can show, and what it cannot: the emulator keeps its data in memory,
// so Stop first cuts every connection, then exports, then kills. A write whose
// acknowledgement reached its client is therefore always in the export; a
// write that was under way may be in it or not, as with a real outage. The
// import gives every document a new create and update time.
type Instance struct {
	tb      testing.TB
	project string
	data    string // folder of exports
	relay   *relay

	process *process
	exports int
}

// StartFirestore starts an emulator for one test, whose data of one project
// and its default database survives Stop and Start. It ends with the test. It
// skips or fails the test as Firestore does, and does not look at
// FIRESTORE_EMULATOR_HOST.
func StartFirestore(tb testing.TB, project string) *Instance {
	tb.Helper()
	p, err := firestore.start("")
	if err != nil {
		missing(tb, firestore, err)
	}
	i := &Instance{tb: tb, project: project, data: tb.TempDir(), process: p}
	tb.Cleanup(func() {
		i.process.stop()
		if i.relay != nil {
			i.relay.cut()
		}
	})
	if i.relay, err = newRelay(p.host); err != nil {
		tb.Fatal(err)
	}
	return i
}

// Host returns host:port of the emulator, the same for the instance's life.
func (i *Instance) Host() string { return i.relay.host }

// Cut closes every connection and refuses new ones, while the emulator runs on.
func (i *Instance) Cut() { i.relay.cut() }

// Restore ends a Cut.
func (i *Instance) Restore() {
	i.tb.Helper()
	if err := i.relay.restore(i.process.host); err != nil {
		i.tb.Fatal(err)
	}
}

// Drop closes every connection once; new ones are welcome.
func (i *Instance) Drop() { i.relay.drop() }

// Stop cuts every connection, exports the data and kills the emulator.
func (i *Instance) Stop() {
	i.tb.Helper()
	i.relay.cut()
	i.exports++
	if err := i.export(); err != nil {
		i.tb.Fatal(err)
	}
	i.process.stop()
}

// Start starts a stopped emulator with its data, on the same host and port.
func (i *Instance) Start() {
	i.tb.Helper()
	p, err := firestore.start(i.exported())
	if err != nil {
		i.tb.Fatal(err)
	}
	i.process = p
	i.Restore()
}

func (i *Instance) exportName() string { return fmt.Sprintf("export-%d", i.exports) }

func (i *Instance) exported() string {
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

// relay passes TCP connections on, until it is cut.
type relay struct {
	host string

	mu       sync.Mutex
	target   string
	listener net.Listener
	conns    map[net.Conn]struct{}
}

func newRelay(target string) (*relay, error) {
	host, err := freeHost()
	if err != nil {
		return nil, err
	}
	r := &relay{host: host, conns: make(map[net.Conn]struct{})}
	return r, r.restore(target)
}

func (r *relay) restore(target string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		return errors.New("the emulator is not cut off")
	}
	l, err := net.Listen("tcp", r.host)
	if err != nil {
		return err
	}
	r.target, r.listener = target, l
	go r.accept(l)
	return nil
}

func (r *relay) cut() {
	r.mu.Lock()
	if r.listener != nil {
		_ = r.listener.Close()
		r.listener = nil
	}
	r.mu.Unlock()
	r.drop()
}

// drop resets connections instead of closing them in order, as a dying server
// does, and leaves no socket behind that would keep the port busy.
func (r *relay) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(r.conns)
}

func (r *relay) accept(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go r.pass(l, in)
	}
}

func (r *relay) pass(l net.Listener, in net.Conn) {
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	out, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		_ = in.Close()
		return
	}
	r.mu.Lock()
	if r.listener != l { // cut while dialling
		r.mu.Unlock()
		_, _ = in.Close(), out.Close()
		return
	}
	r.conns[in], r.conns[out] = struct{}{}, struct{}{}
	r.mu.Unlock()
	var once sync.Once
	end := func() {
		_, _ = in.Close(), out.Close()
		r.mu.Lock()
		delete(r.conns, in)
		delete(r.conns, out)
		r.mu.Unlock()
	}
	go func() { defer once.Do(end); _, _ = io.Copy(out, in) }()
	go func() { defer once.Do(end); _, _ = io.Copy(in, out) }()
}
