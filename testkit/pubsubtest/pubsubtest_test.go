package pubsubtest_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/pubsubtest"
)

func TestEmulator(t *testing.T) {
	t.Parallel()
	conn, err := grpc.NewClient(emulator.PubSub(t), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	target := pubsubtest.Target{Conn: conn, Project: emulator.Project(), Differences: pubsubtest.Emulator}
	pubsubtest.Run(t, func(*testing.T) pubsubtest.Target { return target })
}

var update = flag.Bool("update", false, "write the suite's table in docs/fidelity.md")

// TestFidelityPage holds the page's table against the rows.
func TestFidelityPage(t *testing.T) {
	t.Parallel()
	const page, begin, end = "../../docs/fidelity.md", "<!-- rows: begin -->\n", "<!-- rows: end -->"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(content), begin)
	got, after, found := strings.Cut(rest, end)
	if !ok || !found {
		t.Fatalf("%s has no place for the rows", page)
	}
	if want := table(); got != want {
		if !*update {
			t.Fatalf("%s is not of these rows; run this test with -update\n%s", page, cmp.Diff(want, got))
		}
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func table() string {
	var b strings.Builder
	b.WriteString("| Behaviour | As documented | Ours | Google's emulator |\n| --- | --- | --- | --- |\n")
	for _, row := range pubsubtest.Rows() {
		theirs, differs := pubsubtest.Emulator[row.Name]
		switch {
		case row.NeedsClock:
			theirs = "not tried: its clock cannot be moved"
		case !differs:
			theirs = "as ours"
		}
		fmt.Fprintf(&b, "| %s | %s | suite: %s | %s |\n", row.Behaviour, row.Documented, row.Name, theirs)
	}
	return b.String()
}

func TestRows(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, row := range pubsubtest.Rows() {
		if !regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(row.Name) || names[row.Name] {
			t.Errorf("%q is not a name in snake_case, or not the only row of it", row.Name)
		}
		names[row.Name] = true
		if row.Behaviour == "" || row.Documented == "" || row.Want == "" {
			t.Errorf("%s is not complete", row.Name)
		}
	}
	for name := range pubsubtest.Emulator {
		if !names[name] {
			t.Errorf("%s is a difference of the emulator and no row", name)
		}
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c pubsubtest.Clock
		begun := c.Now()
		rang := make(chan string, 9)
		c.At(begun.Add(time.Hour), func() { rang <- "hour" })
		c.At(begun.Add(time.Second), func() { rang <- "second" })
		stop := c.At(begun.Add(time.Minute), func() { rang <- "stopped" })
		if !stop() || stop() {
			t.Error("stop reports that it cancelled at the second time, or not at the first")
		}
		if got := <-rang; got != "second" || c.Now().Sub(begun) != time.Second {
			t.Errorf("%s rang at %s", got, c.Now().Sub(begun))
		}
		real := time.Now()
		c.Advance(2 * time.Hour)
		if got := <-rang; got != "hour" || time.Since(real) != 0 || c.Now().Sub(begun) != 2*time.Hour+time.Second {
			t.Errorf("%s rang %s later, at %s", got, time.Since(real), c.Now().Sub(begun))
		}
		synctest.Wait()
		if len(rang) > 0 {
			t.Errorf("%s rang too", <-rang)
		}
	})
}
