package measure

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// childVariable tells a process of a test binary that it is a Child.
const childVariable = "PUSHINBOX_MEASURED"

// ChildOf returns what the process is to serve when it is a Child, and "" otherwise.
func ChildOf() string { return os.Getenv(childVariable) }

// Child runs the test with this name in a process of its own, which does nothing
// else, and in which ChildOf returns what. It returns its ID and what it passed to
// Serve: the address and words. The process ends with the test.
func Child(tb testing.TB, test, what string, environment ...string) (pid int, address string, words []string) {
	tb.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^"+test+"$", "-test.v")
	cmd.Env = append(append(os.Environ(), childVariable+"="+what), environment...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	for s := bufio.NewScanner(out); s.Scan(); {
		if words := strings.Fields(s.Text()); len(words) > 1 && words[0] == "SERVING" {
			return cmd.Process.Pid, words[1], words[2:]
		}
	}
	tb.Fatal("the process does not serve")
	return 0, "", nil
}

// Killed runs the test with this name in a process of its own, in which ChildOf
// returns what, kills it with SIGKILL when it has printed n lines, and returns all
// of its lines.
func Killed(tb testing.TB, test, what string, n int) (lines []string) {
	tb.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^"+test+"$")
	cmd.Env = append(os.Environ(), childVariable+"="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		if lines = append(lines, s.Text()); len(lines) == n {
			if err := cmd.Process.Kill(); err != nil {
				tb.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(lines) < n {
		tb.Fatalf("the process ended by itself: %v; its last lines: %q", err, lines[max(0, len(lines)-5):])
	}
	return lines
}

// Serve serves h in a Child, tells its parent where and these words, which have no
// spaces, and returns when the parent's test has ended.
func Serve(tb testing.TB, h http.Handler, words ...string) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	go func() { _ = http.Serve(listener, h) }()
	fmt.Printf("SERVING http://%s/ %s\n", listener.Addr(), strings.Join(words, " "))
	_, _ = io.Copy(io.Discard, os.Stdin)
}
