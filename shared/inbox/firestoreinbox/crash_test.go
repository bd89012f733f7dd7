package firestoreinbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/port"
)

// A test that needs other processes runs this binary again, with these
// variables saying where the inbox is.
const (
	childHost    = "FIRESTOREINBOX_TEST_HOST"
	childProject = "FIRESTOREINBOX_TEST_PROJECT"
)

// child returns a command that runs the named test as a child.
func child(t *testing.T, host, project string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), childHost+"="+host, childProject+"="+project)
	cmd.Stderr = os.Stderr
	return cmd
}

// numbered returns message i of the crash tests: mostly about 1 KiB, some past
// the preview, and a few in chunks.
func numbered(i int) *inbox.Message {
	size := 1 << 10
	switch {
	case i%500 == 3:
		size = 1_200_000
	case i%20 == 7:
		size = 10_000
	}
	return &inbox.Message{
		Source: inbox.SourcePubSub, Subscription: "projects/p/subscriptions/s",
		MessageID: fmt.Sprint(2070443601311540 + i), Data: payload(size + i%100), Attributes: map[string]string{"i": fmt.Sprint(i)},
	}
}

// verify asks that the inbox holds exactly n messages, those of numbered, and
// each whole.
func verify(t *testing.T, in *Inbox, n int) {
	t.Helper()
	listed := map[string]int{}
	for q := (inbox.Query{PageSize: inbox.MaxPageSize}); ; {
		page, err := in.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Messages() {
			listed[m.ID]++
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			break
		}
	}
	if len(listed) != n {
		t.Errorf("%d messages are listed, want exactly %d", len(listed), n)
	}
	work := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range work {
				want := numbered(i)
				id := inbox.ID(want.Source, want.Subscription, want.MessageID)
				got, err := in.Get(t.Context(), id)
				if err != nil {
					t.Errorf("message %d: %v", i, err)
				} else if !bytes.Equal(got.Data, want.Data) || got.Attributes["i"] != fmt.Sprint(i) {
					t.Errorf("message %d came back as another", i)
				}
				if listed[id] != 1 {
					t.Errorf("message %d is listed %d times", i, listed[id])
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}

// TestKilledWriters delivers each message one to eight times at once to several
// processes, which are killed with -9 while they write, and also right after a
// write and before its acknowledgement. What was not acknowledged is delivered
// again. With -full it is 10,000 messages.
func TestKilledWriters(t *testing.T) {
	if host := os.Getenv(childHost); host != "" {
		acknowledge(t, open(t, host, os.Getenv(childProject)))
		return
	}
	host, project := emulator.Firestore(t), emulator.Project()
	messages, processes, window := measure.Size(400, 10_000), measure.Size(3, 4), measure.Size(40, 80)
	random := measure.Rand()
	var deliveries []int
	for i := range messages {
		for range 1 + random.IntN(8) {
			deliveries = append(deliveries, i)
		}
	}
	queue := make(chan int, len(deliveries)) // holds all, so that none waits to be delivered again
	for _, i := range deliveries {
		queue <- i
	}
	var left, kills atomic.Int64
	left.Store(int64(len(deliveries)))
	stored := make([]atomic.Int64, messages)
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			for left.Load() > 0 {
				w := startWriter(t, host, project)
				w.deliver(queue, window, func(i int, new bool) {
					if new {
						stored[i].Add(1)
					}
					if left.Add(-1) == 0 {
						close(queue)
					}
					if random.IntN(messages) == 0 {
						w.kill()
					}
				})
				kills.Add(1)
			}
		})
	}
	wg.Wait()
	kills.Add(int64(-processes)) // that ended in peace
	t.Logf("%d messages, %d deliveries, %d processes killed", messages, len(deliveries), kills.Load())
	if kills.Load() < 3 {
		t.Error("hardly any process was killed")
	}
	for i := range stored {
		if n := stored[i].Load(); n > 1 {
			t.Errorf("message %d was stored %d times", i, n)
		}
	}
	in := open(t, host, project)
	defer in.Close()
	verify(t, in, messages)
}

// acknowledge is the child: it stores the messages whose numbers it reads and
// says so, unless it dies before.
func acknowledge(t *testing.T, in *Inbox) {
	var wg sync.WaitGroup
	for numbers := bufio.NewScanner(os.Stdin); numbers.Scan(); {
		var i int
		if _, err := fmt.Sscan(numbers.Text(), &i); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			new, err := in.Put(t.Context(), numbered(i))
			if err != nil {
				t.Error(err)
				return
			}
			if rand.IntN(400) == 0 {
				if p, err := os.FindProcess(os.Getpid()); err == nil {
					_ = p.Kill()
				}
				select {}
			}
			os.Stdout.WriteString(fmt.Sprintln("ack", i, new))
		})
	}
	wg.Wait()
}

// writer is a child that stores.
type writer struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	pending map[int]int // delivered and not acknowledged
	mu      sync.Mutex
}

func startWriter(t *testing.T, host, project string) *writer {
	w := &writer{t: t, cmd: child(t, host, project), pending: map[int]int{}}
	out, err := w.cmd.StdoutPipe()
	if err == nil {
		w.out = bufio.NewScanner(out)
		w.in, err = w.cmd.StdinPipe()
	}
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		t.Error(err)
		panic(err)
	}
	return w
}

func (w *writer) kill() { _ = w.cmd.Process.Kill() }

// deliver sends numbers from the queue, up to window at once, until there are
// no more or the child is dead, and puts back what was not acknowledged.
func (w *writer) deliver(queue chan int, window int, acknowledged func(i int, stored bool)) {
	slots := make(chan struct{}, window)
	dead := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		defer w.in.Close()
		for {
			select {
			case slots <- struct{}{}:
			case <-dead:
				return
			}
			select {
			case i, ok := <-queue:
				if !ok {
					return
				}
				w.mu.Lock()
				w.pending[i]++
				w.mu.Unlock()
				fmt.Fprintln(w.in, i) // when it fails the child is dead, and says so below
			case <-dead:
				return
			}
		}
	})
	for w.out.Scan() {
		var i int
		var stored bool
		if n, _ := fmt.Sscanf(w.out.Text(), "ack %d %t", &i, &stored); n != 2 {
			continue
		}
		w.mu.Lock()
		w.pending[i]--
		w.mu.Unlock()
		<-slots
		acknowledged(i, stored)
	}
	close(dead)
	sender.Wait()
	_ = w.cmd.Wait() // killed, as it should be
	for i, n := range w.pending {
		for range n {
			queue <- i
		}
	}
}

// TestOutage stops the emulator under load and starts it again with its data.
// Nothing that was acknowledged is missing, and callers saw ErrUnavailable or
// their own deadline. With -full it is down for 10 seconds.
func TestOutage(t *testing.T) {
	project := emulator.Project()
	instance := emulator.StartFirestore(t, project)
	in := open(t, instance.Host(), project)
	defer in.Close()
	outage := measure.Size(2*time.Second, 10*time.Second)
	random := measure.Rand()
	var next, acknowledged, unavailable, late atomic.Int64
	var seen sync.Map // of errors that nobody should see
	kept := make([]atomic.Bool, 1<<20)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				put, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond+time.Duration(random.Int64N(int64(outage))))
				_, err := in.Put(put, numbered(i))
				cancel()
				switch {
				case err == nil:
					kept[i].Store(true)
					acknowledged.Add(1)
				case errors.Is(err, inbox.ErrUnavailable):
					unavailable.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					late.Add(1)
				default:
					seen.Store(err.Error(), i)
				}
			}
		})
	}
	// until returns when that many more are acknowledged.
	until := func(more int64) {
		want := acknowledged.Load() + more
		if err := port.Until(t.Context(), func() error {
			if acknowledged.Load() < want {
				return errors.New("fewer are acknowledged")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	until(300)
	instance.Stop()
	before := acknowledged.Load()
	<-time.After(outage)
	if n := acknowledged.Load(); n != before {
		t.Errorf("%d messages were acknowledged while the emulator was down", n-before)
	}
	instance.Start()
	began := time.Now()
	until(300)
	recovery := time.Since(began)
	stop()
	wg.Wait()
	t.Logf("down for %v: %d acknowledged, %d ErrUnavailable, %d own deadlines; the first 300 after it took %v",
		outage, acknowledged.Load(), unavailable.Load(), late.Load(), recovery)
	if unavailable.Load() == 0 {
		t.Error("no caller saw ErrUnavailable")
	}
	seen.Range(func(err, i any) bool {
		t.Errorf("Put of message %v: %v", i, err)
		return true
	})
	for i := range int(next.Load()) {
		want := numbered(i)
		got, err := in.Get(t.Context(), inbox.ID(want.Source, want.Subscription, want.MessageID))
		switch {
		case err == nil && !bytes.Equal(got.Data, want.Data):
			t.Errorf("message %d came back as another", i)
		case err != nil && (kept[i].Load() || !errors.Is(err, inbox.ErrNotFound)):
			t.Errorf("message %d, acknowledged %v: %v", i, kept[i].Load(), err)
		}
	}
}

// TestMemoryOfLargePut stores the largest message in a process of its own and
// asks the system for that process's peak.
func TestMemoryOfLargePut(t *testing.T) {
	measure.SkipRace(t, "the race detector takes several times the memory")
	if host := os.Getenv(childHost); host != "" {
		in := open(t, host, os.Getenv(childProject))
		defer in.Close()
		idle := peak(t)
		if stored, err := in.Put(t.Context(), &inbox.Message{Source: "s", MessageID: "m", Data: payload(inbox.MaxDataSize)}); !stored || err != nil {
			t.Fatal(stored, err)
		}
		put := peak(t)
		if m, err := in.Get(t.Context(), inbox.ID("s", "", "m")); err != nil || m.Size != inbox.MaxDataSize {
			t.Fatal(err)
		}
		fmt.Println("peak", idle, put, peak(t))
		return
	}
	peak(t)
	out, err := child(t, emulator.Firestore(t), emulator.Project()).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var idle, put, get int
	_, report, _ := strings.Cut(string(out), "peak ")
	if _, err := fmt.Sscan(report, &idle, &put, &get); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("peak of the process: idle %d kB, after a Put of 10 MB %d kB, after its Get %d kB", idle, put, get)
	if put >= 64_000 {
		t.Errorf("the Put took the process to %d kB, want below 64 MB", put)
	}
}

// peak returns the largest resident size of this process so far, in kB.
func peak(t *testing.T) int {
	t.Helper()
	peak, err := measure.PeakMemory(os.Getpid())
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("only Linux tells a process's peak of memory in /proc")
	}
	if err != nil {
		t.Fatal(err)
	}
	return peak >> 10
}
