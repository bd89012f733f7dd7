package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/inbox"
)

// TestAddressesComeFirst delivers what an earlier run kept before this one has said
// where it is.
func TestAddressesComeFirst(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newPrinter(&out, false)
	p.delivered(pushfake.Delivery{MessageID: "early", Status: 204, Acked: true})
	p.begin("the addresses\n")
	p.delivered(pushfake.Delivery{MessageID: "late", Status: 204, Acked: true})
	p.out.close()
	first, early, late := strings.Index(out.String(), "the addresses"), strings.Index(out.String(), "early"), strings.Index(out.String(), "late")
	if first != 0 || early < 0 || late < early {
		t.Errorf("printed %q", out.String())
	}
}

// stopped is a terminal that stands still until it is let go on.
type stopped struct {
	goOn chan struct{}
	got  bytes.Buffer
}

func (s *stopped) Write(b []byte) (int, error) {
	if s.got.Len() > 0 {
		<-s.goOn
	}
	return s.got.Write(b)
}

// TestWhatNobodyReads has a terminal stand still: what does not fit is counted, in its
// place.
func TestWhatNobodyReads(t *testing.T) {
	t.Parallel()
	terminal := &stopped{goOn: make(chan struct{})}
	h := newHandOver(terminal, func(n int) string { return fmt.Sprintf("(%d)\n", n) })
	h.begin("first\n")
	const wrote = 4 * maxHandedOver / 1024
	for n := range wrote {
		fmt.Fprintf(h, "%-1023d\n", n)
	}
	close(terminal.goOn)
	h.close()
	first, rest, _ := strings.Cut(terminal.got.String(), "\n")
	got, next := 0, 0
	for line := range strings.Lines(rest) {
		left := 0
		if _, err := fmt.Sscanf(line, "(%d)", &left); err == nil {
			next += left // more than once, where there was room in between
			continue
		}
		if want := fmt.Sprintf("%-1023d\n", next); line != want {
			t.Fatalf("%.20q where %.20q comes next", line, want)
		}
		next++
		got++
	}
	if first != "first" || next != wrote || got < wrote/4 || got > wrote/2 {
		t.Errorf("after %q, of %d lines %d are there, and with those counted %d", first, wrote, got, next)
	}
}

// TestPushingDoesNotWaitForTheTerminal reads nothing of what pushinbox local prints
// after its addresses: more messages than the pipe has room for arrive.
func TestPushingDoesNotWaitForTheTerminal(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(command, "local", "--port", "0", "--pubsub-port", "0", "--data", t.TempDir(), "--format", "json")
	out, err1 := cmd.StdoutPipe()
	_, err2 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	first, err := bufio.NewReaderSize(out, 16<<10).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var at stack.Addresses
	if err := json.Unmarshal([]byte(first), &at); err != nil {
		t.Fatal(err)
	}
	c, err := inboxclient.New(at.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	const batches, batch = 20, 100 // lines of about 100 bytes, of which the pipe takes 64 KiB
	for range batches {
		if _, err := c.Publish(t.Context(), slices.Repeat([]inboxclient.Publication{{Data: []byte("x")}}, batch)...); err != nil {
			t.Fatal(err)
		}
	}
	stored := 0
	for deadline := time.Now().Add(60 * time.Second); stored < batches*batch; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d messages arrived", stored, batches*batch)
		}
		stored = 0
		for _, err := range c.List(t.Context(), inbox.Query{PageSize: inbox.MaxPageSize}) {
			if err != nil {
				t.Fatal(err)
			}
			stored++
		}
	}
}
