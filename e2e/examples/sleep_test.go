//go:build unix

package examples

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
	"example.com/pushinbox/testkit/relay"
)

// clockVariable names the file that has the seconds by which a process's clock on the
// wall is ahead.
const clockVariable = "PUSHINBOX_TEST_CLOCK"

// wallClock is added to Go's package time in what the machines of TestSleep run. The
// monotonic clock stays as it is: on Linux it stands still while the machine sleeps.
const wallClock = `package time

import (
	"syscall"
	"unsafe"
)

var ahead = func() *int64 {
	name, _ := syscall.Getenv("` + clockVariable + `")
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return new(int64)
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}()
`

// overlay returns a file for go build -overlay.
func overlay(t *testing.T) string {
	dir := t.TempDir()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	b, err := os.ReadFile(filepath.Join(source, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const reads = "sec, nsec, mono := runtimeNow()"
	now, found := strings.CutPrefix(string(b[strings.Index(string(b), "\nfunc Now() Time {"):]), "\nfunc Now() Time {\n\t"+reads)
	if !found {
		t.Fatalf("the function Now of this Go's package time does not begin with %s", reads)
	}
	before := string(b[:len(b)-len(now)])
	replace := map[string]string{
		filepath.Join(source, "time.go"):       before + "\n\tsec += *ahead" + now,
		filepath.Join(source, "wall_clock.go"): wallClock,
	}
	for file, text := range replace {
		replace[file] = filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(replace[file], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err = json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// clock is what a machine's clock on the wall is ahead.
type clock struct{ file *os.File }

func newClock(t *testing.T) clock {
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "clock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	c := clock{f}
	c.set(t, 0)
	return c
}

func (c clock) set(t *testing.T, ahead time.Duration) {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], uint64(ahead/time.Second))
	if _, err := c.file.WriteAt(b[:], 0); err != nil {
		t.Fatal(err)
	}
}

// TestSleep has the machine on which somebody listens sleep for an hour: its processes
// stand still, its clock on the wall then goes on an hour later, and its connections
// lead nowhere. What was stored meanwhile is posted once and in the order of the feed to
// an unmodified program with its token check on.
func TestSleep(t *testing.T) {
	t.Parallel()
	if !measure.Full() {
		need.Skip(t, "TestSleep builds Go's own library and all that uses it anew: run it with -full")
	}
	const (
		n     = 5000
		sleep = time.Hour
	)
	dir, clocks := t.TempDir(), "-overlay="+overlay(t)
	command, endpoint := filepath.Join(dir, "pushinbox"), filepath.Join(dir, "endpoint")
	for file, of := range map[string]string{command: "scripts/pushinbox", endpoint: "examples/pushgo"} {
		if err := build(file, filepath.Join(root, of), clocks); err != nil {
			t.Fatal(err)
		}
	}
	there, laptop := newClock(t), newClock(t)
	from := startSource(t, machine{command: command, environment: []string{clockVariable + "=" + there.file.Name()}})
	between := relay.New(t, "127.0.0.1:"+from.at)

	m := machine{command: command, data: filepath.Join(dir, "data"), environment: []string{clockVariable + "=" + laptop.file.Name()}}
	local, in, _, err := m.startLocal("--port=0", "--pubsub-port="+port.Reserve(t), "--data", m.data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = in.Close(), local.Wait() })
	l := newListener(t, m, between.Host(), endpoint)
	listen := l.listen("--since", "beginning")
	from.publish(0, 100)
	l.until(100, time.Minute)

	stopped := func(signal syscall.Signal) {
		for _, cmd := range []*exec.Cmd{listen, local} {
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Kill(-l.group, signal); err != nil {
			t.Fatal(err)
		}
	}
	stopped(syscall.SIGSTOP)
	between.Lose()
	const pieces = 49
	for i := range pieces {
		from.publish(100*(i+1), 100*(i+2))
		there.set(t, sleep*time.Duration(i+1)/pieces)
	}
	laptop.set(t, sleep)
	stopped(syscall.SIGCONT)

	woke := time.Now()
	for !strings.Contains(l.printed(), "the connection to the inbox was lost") {
		if time.Since(woke) > 30*time.Second {
			t.Fatal("nobody is told that the connection was lost")
		}
		time.Sleep(20 * time.Millisecond)
	}
	told := time.Since(woke)
	l.until(n, 10*time.Minute)
	t.Logf("told after %v; %d messages in %v", told, n, time.Since(woke))
	if told > 11*time.Second {
		t.Errorf("that the connection was lost is told after %v", told)
	}
	l.end(listen)
	l.holds(from, n)
	if refused := regexp.MustCompile("(?m)^<-- 401 .*$").FindString(l.printed()); refused != "" {
		t.Errorf("a token was refused: %s", refused)
	}
}
