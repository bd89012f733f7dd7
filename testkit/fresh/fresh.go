// Package fresh runs a test in a process of its own: what a process creates only once, such
// as a Cloud Function, is then new in each run of the test, and has the environment of that
// run.
package fresh

import (
	"os"
	"os/exec"
	"testing"
)

// variable tells a process that it is the one of its test.
const variable = "PUSHINBOX_FRESH"

// Process runs the test once more, in a process of its own, and reports whether it is called
// there. A test that calls it begins with
//
//	if !fresh.Process(t) {
//		return
//	}
func Process(tb testing.TB) bool {
	tb.Helper()
	if os.Getenv(variable) != "" {
		return true
	}
	cmd := exec.CommandContext(tb.Context(), os.Args[0], "-test.run", "^"+tb.Name()+"$", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), variable+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Errorf("in a process of its own: %v\n%s", err, out)
	}
	return false
}
