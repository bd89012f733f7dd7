package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/need"
)

// amend returns a file with changed outputs of Terraform. The change sees
// functions.value.
func amend(t *testing.T, file string, change func(all, functions map[string]any)) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	change(all, all["functions"].(map[string]any)["value"].(map[string]any))
	if b, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	amended := filepath.Join(t.TempDir(), "outputs.json")
	if err := os.WriteFile(amended, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return amended
}

// ours is a function that scripts/deploy deployed.
func ours(name string) map[string]any {
	return map[string]any{
		"buildConfig":   map[string]any{"runtime": "go126", "entryPoint": name},
		"labels":        map[string]any{"managed-by": "push-inbox"},
		"serviceConfig": map[string]any{"serviceAccountEmail": "inbox-" + name + "@demo-project.iam.gserviceaccount.com"},
	}
}

// TestDeployAccess deploys receive and looks who may call it, by what an
// organisation's policies allow, and whether it was closed in between.
func TestDeployAccess(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	const forbidden = "receive: your organisation forbids allUsers, so Cloud Run's own check is off; the function verifies every request itself\n"
	for _, test := range []struct {
		name        string
		more        bool // takes long and differs little from another: with -full
		off         bool // invoker_check_off
		there       bool
		invokers    []string
		annotations map[string]string
		closed      bool
		checked     bool
		fails       bool
		changes     []string
		prints      []string
		printsNot   string
	}{
		{
			name: "new", changes: []string{"create receive", "policy receive"}, printsNot: "organisation",
		},
		{
			name: "again", more: true, there: true, invokers: []string{"roles/run.invoker allUsers"},
			changes: []string{"update receive", "policy receive"}, printsNot: "organisation",
		},
		{
			name: "everyone_forbidden", closed: true,
			changes: []string{"create receive", "service receive check=false proxy=false"}, prints: []string{forbidden, "receive: deployed, "},
		},
		{
			name: "everyone_forbidden_again", more: true, closed: true, there: true, annotations: map[string]string{checkOff: "true"},
			changes: []string{"update receive", "service receive check=false proxy=false"}, prints: []string{"receive: deployed, "},
		},
		{
			name: "both_forbidden", closed: true, checked: true, fails: true, changes: []string{"create receive"},
			prints: []string{"receive: FAILED", "constraints/run.managed.requireInvokerIam", "project demo-project"},
		},
		{
			name: "off_new", more: true, off: true, changes: []string{"create receive", "service receive check=false proxy=false"}, printsNot: "organisation",
		},
		{
			// To take allUsers away first would close it for as long as the rest takes.
			name: "off_after_everyone", off: true, there: true, invokers: []string{"roles/run.invoker allUsers"},
			changes: []string{"update receive", "service receive check=false proxy=false"}, printsNot: "organisation",
		},
		{
			name: "off_again", more: true, off: true, there: true, annotations: map[string]string{checkOff: "true"},
			changes: []string{"update receive", "service receive check=false proxy=false"},
		},
	} {
		if test.more && !measure.Full() {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			c.closed, c.checked = test.closed, test.checked
			if test.there {
				c.created["receive"] = ours("receive")
				c.invokers["receive"], c.annotations["receive"] = test.invokers, test.annotations
			}
			file := amend(t, file, func(all, _ map[string]any) {
				all["deployment"].(map[string]any)["value"].(map[string]any)["invoker_check_off"] = test.off
			})
			out, ok := deploy(t, c.environment(t), "--outputs", file, "receive")
			if ok == test.fails || len(c.unknown) > 0 {
				t.Errorf("success %v, unknown %v: %s", ok, c.unknown, out)
			}
			for _, want := range test.prints {
				if !strings.Contains(out, want) {
					t.Errorf("it prints %s, want %q in it", out, want)
				}
			}
			if test.printsNot != "" && strings.Contains(out, test.printsNot) {
				t.Errorf("it prints %s, want no %q in it", out, test.printsNot)
			}
			if diff := cmp.Diff(test.changes, c.changes); diff != "" {
				t.Errorf("what it changed (-want +got):\n%s", diff)
			}
			if c.open("receive") == test.fails {
				t.Errorf("open: %v", c.open("receive"))
			}
			if len(c.shut) > 0 {
				t.Errorf("it is closed in between, by %v", c.shut)
			}
		})
	}
}

// TestDeployRightMissing deploys as somebody who may not say who may call it:
// that is no policy of an organisation, and nothing is to be worked around.
func TestDeployRightMissing(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	c := newCloud(t)
	c.powerless = true
	out, ok := deploy(t, c.environment(t), "--outputs", file, "receive")
	if ok || !strings.Contains(out, "which roles/run.admin has") || strings.Contains(out, "your organisation") {
		t.Errorf("success %v, it prints %s", ok, out)
	}
	if diff := cmp.Diff([]string{"create receive"}, c.changes); diff != "" {
		t.Errorf("what it changed (-want +got):\n%s", diff)
	}
}
