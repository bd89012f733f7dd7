package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/testkit/need"
)

// TestTeardown runs it with the real gcloud and a terraform that only takes
// notes.
func TestTeardown(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	need.Program(t, "jq")
	_, file := outputs(t, "demo-project", "")
	for _, test := range []struct {
		name     string
		args     []string
		deployed []string
		ok       bool
		deleted  []string
		want     []string // of terraform
	}{
		{
			name: "all", args: []string{"--yes"}, deployed: []string{"publish", "receive", "console"}, ok: true,
			deleted: []string{"delete console", "delete publish", "delete receive"},
			want:    []string{"terraform state rm google_firestore_field.inbox", "terraform destroy"},
		},
		{
			name: "some_not_deployed", args: []string{"--yes"}, deployed: []string{"receive", "other"}, ok: true,
			deleted: []string{"delete receive"},
			want:    []string{"terraform state rm google_firestore_field.inbox", "terraform destroy"},
		},
		{
			name: "no_longer_wanted", args: []string{"--yes"}, deployed: []string{"receive", "mns"}, ok: true,
			deleted: []string{"delete mns", "delete receive"},
			want:    []string{"terraform state rm google_firestore_field.inbox", "terraform destroy"},
		},
		{name: "dry_run", args: []string{"--dry-run"}, deployed: []string{"publish", "receive"}, ok: true},
		{name: "not_confirmed", deployed: []string{"publish", "receive"}},
		{name: "unknown_option", args: []string{"--force"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			notes := filepath.Join(dir, "notes")
			terraform := fmt.Sprintf(`#!/bin/sh
shift # -chdir
case "$*" in
"output -json") cat %q ;;
"state list") printf '%%s\n' 'google_firestore_database.inbox[0]' 'google_firestore_field.inbox["messages expireAt"]' ;;
"state rm"*) echo "terraform $*" >>%q ;;
*) echo "terraform $1" >>%[2]q ;;
esac
`, file, notes)
			if err := os.WriteFile(filepath.Join(dir, "terraform"), []byte(terraform), 0o755); err != nil {
				t.Fatal(err)
			}
			c := newCloud(t)
			for _, name := range test.deployed {
				c.created[name] = ours(name)
				if name == "other" { // somebody else's
					c.created[name] = map[string]any{"serviceConfig": map[string]any{"serviceAccountEmail": "other@demo-project.iam.gserviceaccount.com"}}
				}
			}
			cmd := exec.CommandContext(t.Context(), "scripts/teardown", test.args...)
			cmd.Dir, cmd.Env = root, append(append(os.Environ(), c.environment(t)...), "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if (err == nil) != test.ok {
				t.Errorf("%v: %s", err, out)
			}
			var got []string
			if b, err := os.ReadFile(notes); err == nil {
				got = strings.Split(strings.TrimSpace(string(b)), "\n")
			}
			if diff := cmp.Diff(test.deleted, c.mutations); diff != "" || len(c.unknown) > 0 {
				t.Errorf("what it deleted (-want +got):\n%s%v", diff, c.unknown)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("what it did (-want +got):\n%s", diff)
			}
			if test.ok && !strings.Contains(string(out), "Kept: projects/demo-project/databases/(default)") {
				t.Errorf("it prints %s, want what is kept in it", out)
			}
		})
	}
}
