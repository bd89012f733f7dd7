//go:build unix

package examples

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/port"
	"example.com/pushinbox/testkit/relay"
)

// source is a pushinbox local whose inbox is followed, as a deployed one is. It is
// killed and started again at the same ports.
type source struct {
	machine
	t    *testing.T
	args []string
	at   string
	cmd  *exec.Cmd
	in   io.Closer
	stack.Addresses
}

func startSource(t *testing.T, m machine) *source {
	s := &source{machine: m, t: t, at: port.Reserve(t)}
	s.args = []string{"--port=" + s.at, "--pubsub-port=" + port.Reserve(t), "--data", filepath.Join(t.TempDir(), "data")}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *source) start() {
	cmd, in, here, err := s.startLocal(s.args...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd, s.in, s.Addresses = cmd, in, here
}

func (s *source) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = s.in.Close()
}

// publish publishes messages with these numbers, in one request each hundred.
func (s *source) publish(from, to int) {
	s.t.Helper()
	for chunk := range slices.Chunk(numbers(from, to), 100) {
		var all []string
		for _, n := range chunk {
			all = append(all, fmt.Sprintf("number %d.", n))
		}
		s.post(all...)
	}
}

// post publishes messages with these data, in one request.
func (s *source) post(data ...string) {
	s.t.Helper()
	type message struct {
		Data       []byte            `json:"data"`
		Attributes map[string]string `json:"attributes"`
	}
	var body struct {
		Messages []message `json:"messages"`
	}
	for _, d := range data {
		body.Messages = append(body.Messages, message{[]byte(d), map[string]string{"of": "a test"}}) // Pub/Sub refuses a message that has neither
	}
	b, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.Post("http://127.0.0.1:"+s.at+"/messages", "application/json", bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatal(resp.Status)
	}
}

func numbers(from, to int) (all []int) {
	for n := from; n < to; n++ {
		all = append(all, n)
	}
	return all
}

// TestListen follows an inbox whose console is killed and whose connections are cut,
// and posts what was stored meanwhile to an unmodified program with its token check on:
// all of it once, in the order of the feed.
func TestListen(t *testing.T) {
	t.Parallel()
	n := measure.Size(500, 5000)
	from := startSource(t, thisMachine)
	between := relay.New(t, "127.0.0.1:"+from.at)
	l := newListener(t, thisMachine, between.Host())
	until := func(count int) { t.Helper(); l.until(count, measure.Size(2*time.Minute, 20*time.Minute)) }

	// It begins once, is stopped, and catches up on what was stored while it slept.
	cmd := l.listen("--since", "beginning")
	from.publish(0, n/5)
	until(n / 5)
	l.end(cmd)
	from.publish(n/5, n/2)
	cmd = l.listen()
	until(n / 2)
	random := rand.New(rand.NewPCG(measure.Seed(), 0))
	done := n / 2
	for done < n {
		switch random.IntN(3) {
		case 0:
			between.Drop()
		case 1:
			between.Cut()
			time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
			between.Restore("127.0.0.1:" + from.at)
		case 2:
			from.kill()
			from.start()
		}
		next := min(n, done+n/20)
		from.publish(done, next)
		done = next
	}
	until(n)
	l.end(cmd)
	l.holds(from, n)
	t.Logf("%d messages posted", n)
}

// listener is a machine on which pushinbox listen forwards to an unmodified program with
// its token check on.
type listener struct {
	*program
	t       *testing.T
	machine machine
	args    []string
	config  string
}

// newListener starts the program. The inbox to follow is at host.
func newListener(t *testing.T, m machine, host string, program ...string) *listener {
	if len(program) == 0 {
		program = []string{"go", "run", "."}
	}
	p := m.run(t, filepath.Join(root, "examples", "pushgo"), []string{"PUSH_AUDIENCE=" + audience, "PUSH_SERVICE_ACCOUNT=" + stack.PushAccount}, program...)
	return &listener{
		program: p, t: t, machine: m, config: "XDG_CONFIG_HOME=" + t.TempDir(),
		args: []string{"listen", "--url", "http://" + host, "--data", m.data, "--forward-to", p.url + "/", "--audience", audience, "--concurrency=1"},
	}
}

// listen starts pushinbox listen.
func (l *listener) listen(more ...string) *exec.Cmd {
	cmd := l.machine.pushinbox(append(slices.Clone(l.args), more...)...)
	cmd.Env = append(cmd.Env, l.config)
	cmd.Stdout, cmd.Stderr = l, l // whose output is printed when the test fails
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	return cmd
}

// end stops pushinbox listen as Ctrl-C does.
func (l *listener) end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		l.t.Errorf("listen ends with %v", err)
	}
}

// got returns the numbers of the messages that the program has taken.
func (l *listener) got() (all []int) {
	for line := range strings.Lines(l.printed()) {
		if _, data, ok := strings.Cut(line, " number "); ok {
			var i int
			if _, err := fmt.Sscanf(data, "%d.", &i); err == nil {
				all = append(all, i)
			}
		}
	}
	return all
}

// until waits until the program has taken this many.
func (l *listener) until(count int, patience time.Duration) {
	l.t.Helper()
	over := time.Now().Add(patience)
	for len(l.got()) < count {
		if time.Now().After(over) {
			l.t.Fatalf("%d of %d messages were posted in time", len(l.got()), count)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// holds checks that the program has taken the messages 0 to n, each once and in the
// order of the feed.
func (l *listener) holds(from *source, n int) {
	l.t.Helper()
	all := l.got()
	sorted := slices.Clone(all)
	slices.Sort(sorted)
	if !slices.Equal(sorted, numbers(0, n)) {
		l.t.Errorf("%d messages were posted of %d, or some twice", len(all), n)
	}
	if want := from.feed(n); !slices.Equal(all, want) {
		l.t.Error("the order is not that of the feed")
	}
}

// feed returns the numbers in the order of the feed.
func (s *source) feed(n int) (all []int) {
	after := ""
	for len(all) < n {
		resp, err := http.Get("http://127.0.0.1:" + s.at + "/messages:poll?pageSize=500&after=" + after)
		if err != nil {
			s.t.Fatal(err)
		}
		var page struct {
			Messages []struct{ Data []byte }
			Next     string
		}
		err = json.NewDecoder(resp.Body).Decode(&page)
		_ = resp.Body.Close()
		if err != nil || len(page.Messages) == 0 {
			s.t.Fatalf("%d of %d messages are in the feed: %v", len(all), n, err)
		}
		for _, m := range page.Messages {
			var i int
			if _, err := fmt.Sscanf(string(m.Data), "number %d.", &i); err != nil {
				s.t.Fatal(err)
			}
			all = append(all, i)
		}
		after = page.Next
	}
	return all
}
