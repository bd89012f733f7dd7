// Package need ends a test that needs a program, or something else, that this
// machine lacks.
//
// The test is skipped, and fails where CI is set, so that a check that did not
// run never looks like one that passed. What was skipped is added to the file
// that PUSHINBOX_SKIPPED names, if any, which `make test` and .ci/run print at
// their end.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// install says how to install a program.
var install = map[string]string{
	"chromium":   "install Debian's package chromium",
	"curl":       "apt-get install curl",
	"gcloud":     "see cloud.google.com/sdk/docs/install",
	"java":       "install Java 17 or newer",
	"jq":         "apt-get install jq",
	"node":       "install Node.js",
	"npm":        "install Node.js, which has it",
	"python3":    "apt-get install python3",
	"shellcheck": "apt-get install shellcheck",
	"tar":        "apt-get install tar",
	"terraform":  "see developer.hashicorp.com/terraform/install",
}

// Program ends the test unless a program of this name is in PATH.
func Program(tb testing.TB, name string) {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Missing(tb, name+" is not installed: "+install[name])
	}
}

// Missing ends the test: it is skipped, or fails where CI is set. why says what
// is missing and how to get it.
func Missing(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal(why)
	}
	Skip(tb, why)
}

// Skip skips the test, with CI too: for what no installation changes.
func Skip(tb testing.TB, why string) {
	tb.Helper()
	if name := os.Getenv("PUSHINBOX_SKIPPED"); name != "" {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			tb.Fatal(err)
		}
		// One write a line, since packages are tested at the same time.
		if _, err := f.WriteString(why + "\n"); err != nil {
			tb.Fatal(err)
		}
		_ = f.Close()
	}
	tb.Skip(why)
}
