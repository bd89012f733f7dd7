package boltinbox

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
)

// The test binary runs itself as a child that does something that ends badly.
const (
	childPath = "BOLTINBOX_TEST_CHILD_PATH"
	childTask = "BOLTINBOX_TEST_CHILD_TASK"
)

// childTasks are what the child can do with an inbox beside putting until it
// is killed, and beforeOpen what it can do first.
var (
	childTasks = map[string]func(*Inbox){"large": large}
	beforeOpen = map[string]func(){}
)

// child opens the inbox at path and does its task.
func child(task, path string) {
	if before := beforeOpen[task]; before != nil {
		before()
	}
	in, err := Open(path, nil)
	check(err)
	if do := childTasks[task]; do != nil {
		do(in)
		return
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				m := crashMessage(fmt.Sprintf("%s-%d-%d", task, w, i))
				// Every third is delivered twice at once.
				for range 1 + i%3/2 {
					wg.Go(func() {
						stored, err := in.Put(context.Background(), m)
						if err != nil {
							panic(err)
						}
						mu.Lock()
						defer mu.Unlock()
						// One write a line, so that a line is whole or absent.
						fmt.Printf("%s %v\n", m.MessageID, stored)
					})
				}
				if _, err := in.Put(context.Background(), m); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
}

// check ends the child with an error.
func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// crashMessage returns the message with this ID, whose data follow from it.
func crashMessage(id string) *inbox.Message {
	sum := sha256.Sum256([]byte(id))
	return message(id, []int{10, 1000, 5000, 100_000}[sum[0]%4]+int(sum[1]))
}

// TestKill kills a process that puts, again and again at any moment: what it
// acknowledged is there, whole and once.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds, longest, random := measure.Size(6, 60), 400, measure.Rand()
	if testing.Short() && !measure.Full() {
		rounds, longest = 3, 200
	}
	path := filepath.Join(t.TempDir(), "inbox.db")
	acknowledged := map[string]bool{}
	for round := range rounds {
		lines := killedAfter(t, path, fmt.Sprint("round", round), 1+random.IntN(longest))
		told := map[string]int{}
		for _, line := range lines {
			id, stored, ok := strings.Cut(line, " ")
			if !ok {
				t.Fatalf("the child said %q", line)
			}
			acknowledged[id] = true
			if stored == "true" {
				told[id]++
			}
		}
		for id, n := range told {
			if n > 1 {
				t.Errorf("%d deliveries of %q were told that they stored it", n, id)
			}
		}

		in := mustOpen(t, path, nil)
		listed := map[string]bool{}
		for _, m := range list(t, in) {
			if listed[m.MessageID] {
				t.Errorf("%q is listed twice", m.MessageID)
			}
			listed[m.MessageID] = true
			got, err := in.Get(t.Context(), m.ID)
			if err != nil {
				t.Fatalf("Get(%q): %v", m.MessageID, err)
			}
			if string(got.Data) != string(crashMessage(m.MessageID).Data) {
				t.Errorf("%q came back with other data", m.MessageID)
			}
		}
		for id := range acknowledged {
			if !listed[id] {
				t.Errorf("%q was acknowledged and is missing", id)
			}
		}
		t.Logf("round %d: %d lines, %d messages are kept", round, len(lines), len(listed))
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killedAfter runs a child, kills it after it has said n lines, and returns
// all that it said until it died.
func killedAfter(t *testing.T, path, task string, n int) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childPath+"="+path, childTask+"="+task)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		lines = append(lines, scanner.Text())
		if len(lines) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(lines) < n {
		t.Fatalf("the child ended by itself (%v) after %d lines: %q", err, len(lines), lines)
	}
	return lines
}

// TestMemoryOfLargeMessage puts one message of the largest size and reads it
// back in a process of its own, whose memory must stay small.
func TestMemoryOfLargeMessage(t *testing.T) {
	measure.SkipRace(t, "the race detector takes several times the memory")
	t.Parallel()
	if _, err := os.Stat(procStatus); err != nil {
		t.Skip("reading a process's peak memory needs Linux's /proc")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childPath+"="+filepath.Join(t.TempDir(), "inbox.db"), childTask+"=large")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the child: %v\n%s", err, out)
	}
	var before, put, got int
	if _, err := fmt.Sscan(string(out), &before, &put, &got); err != nil {
		t.Fatalf("the child said %q", out)
	}
	t.Logf("peak memory: %d MB with the message at hand, %d MB after Put, %d MB after Get", before>>10, put>>10, got>>10)
	if put > 64<<10 {
		t.Errorf("Put of %d bytes took %d MB of memory, want at most 64", inbox.MaxDataSize, put>>10)
	}
}

const procStatus = "/proc/self/status"

// large is TestMemoryOfLargeMessage's child.
func large(in *Inbox) {
	m := message("m", 0)
	m.Data = make([]byte, inbox.MaxDataSize)
	for i := range m.Data {
		m.Data[i] = byte(i)
	}
	fmt.Println(peakMemory())
	if stored, err := in.Put(context.Background(), m); err != nil || !stored {
		panic(err)
	}
	fmt.Println(peakMemory())
	got, err := in.Get(context.Background(), inbox.ID(m.Source, m.Subscription, m.MessageID))
	if err != nil || !bytes.Equal(got.Data, m.Data) {
		panic(err)
	}
	fmt.Println(peakMemory())
}

// peakMemory returns the most memory that this process has had, in KiB.
func peakMemory() int {
	peak, err := measure.PeakMemory(os.Getpid())
	if err != nil {
		panic(err)
	}
	return peak >> 10
}
