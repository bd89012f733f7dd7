package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/pushinbox/testkit/need"
)

// openTerminal returns the two ends of a terminal: that of the person, and that of programs.
func openTerminal(t *testing.T, columns int) (person, programs *os.File) {
	t.Helper()
	if runtime.GOOS != "linux" {
		need.Skip(t, "terminals are made for tests on Linux only")
	}
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	fd := int(person.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: uint16(columns)})
	}
	if err != nil {
		t.Fatal(err)
	}
	programs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = programs.Close() })
	return person, programs
}

// onTerminal runs pushinbox on a terminal and returns what it prints there.
func onTerminal(t *testing.T, columns int, variables []string, args ...string) string {
	t.Helper()
	terminal, other := openTerminal(t, columns)
	cmd := exec.CommandContext(t.Context(), command, args...)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = other, &errs
	cmd.Env = append([]string{"TERM=xterm", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, variables...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = other.Close()
	var out bytes.Buffer
	if _, err := io.Copy(&out, terminal); err != nil && !errors.Is(err, syscall.EIO) { // the other side was closed
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %v %s", args, err, errs.String())
	}
	return out.String()
}

func TestCells(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		s     string
		cells int
		fit   string // to four
	}{
		{"", 0, ""}, {"abcd", 4, "abcd"}, {"abcde", 5, "abc…"}, {"日本", 4, "日本"}, {"日本語", 6, "日…"}, {"e\u0301tat", 4, "e\u0301tat"}, {"\U0001F600\U0001F600\U0001F600", 6, "\U0001F600…"},
	} {
		if n, s := cellsOf(test.s), fit(test.s, 4); n != test.cells || s != test.fit {
			t.Errorf("%q: %d cells, %q", test.s, n, s)
		}
	}
}
