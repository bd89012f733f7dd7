package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMissingTools has each script say in one line which of the tools that it would use
// are not there, before it does anything.
func TestMissingTools(t *testing.T) {
	t.Parallel()
	const greet = "e2e/deploy/testdata/greet"
	dir := t.TempDir()
	file := filepath.Join(dir, "outputs.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	stage := filepath.Join(dir, "stage")
	for name, test := range map[string]struct {
		command string
		has     string // besides bash and what every system has
		want    string
	}{
		"stage":           {"deploy --stage-only " + stage + " receive", "", "awk, find, tar"},
		"stage_one":       {"deploy --stage-only " + stage + " receive", "find tar jq", "awk"},
		"stage_own":       {"deploy --stage-only " + stage + " --function " + greet, "find tar awk", "go, grep, sed, xargs"},
		"deploy":          {"deploy receive", "", "awk, find, gcloud, grep, jq, sed, tar, terraform"},
		"deploy_own":      {"deploy --function " + greet, "awk find tar jq", "gcloud, go, grep, sed, terraform, xargs"},
		"deploy_outputs":  {"deploy --outputs " + file + " receive", "find tar jq grep sed", "awk, gcloud"},
		"dry_run":         {"deploy --dry-run --outputs " + file + " receive", "", "awk, find, jq, tar"},
		"check":           {"deploy --check", "", "curl, gcloud, grep, jq, sed, terraform"},
		"check_outputs":   {"deploy --check --outputs " + file, "jq grep sed", "curl, gcloud"},
		"prune":           {"deploy --prune", "", "gcloud, grep, jq, sed, terraform"},
		"prune_dry_run":   {"deploy --prune --dry-run --outputs " + file, "jq grep sed", "gcloud"},
		"teardown":        {"teardown --yes", "", "gcloud, grep, jq, sed, terraform"},
		"teardown_dry":    {"teardown --dry-run", "jq grep sed gcloud", "terraform"},
		"wrong_call_goes": {"deploy --prune --all", "", "goes with --outputs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bin := t.TempDir()
			for _, tool := range append(strings.Fields("bash basename cat chmod cp cut dirname head ls mkdir mktemp mv rm sleep sort tail tr uniq"), strings.Fields(test.has)...) {
				path, err := exec.LookPath(tool)
				if err != nil { // it is not reached
					err = os.WriteFile(filepath.Join(bin, tool), nil, 0o755)
				} else {
					err = os.Symlink(path, filepath.Join(bin, tool))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			args := strings.Fields(test.command)
			cmd := exec.CommandContext(t.Context(), "scripts/"+args[0], args[1:]...)
			cmd.Dir, cmd.Env = root, append(os.Environ(), "PATH="+bin)
			out, err := cmd.CombinedOutput()
			if strings.Contains(name, "wrong") {
				if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), test.want) {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if want := args[0] + ": not installed, and needed for this: " + test.want + "\n"; err == nil || string(out) != want {
				t.Errorf("%v:\n%swant %s", err, out, want)
			}
		})
	}
	if _, err := os.Stat(stage); err == nil {
		t.Error("something was laid out")
	}
}
