package deploy

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/testkit/need"
)

// leftovers has functions that are wanted, that are left over, and that are
// somebody else's.
func leftovers(c *cloud) {
	c.created["receive"], c.created["mns"] = ours("receive"), ours("mns")
	// From before there was a label.
	c.created["calendar"] = ours("calendar")
	delete(c.created["calendar"], "labels")
	// Under another region than Terraform's now.
	c.created["publish"] = ours("publish")
	c.created["publish"]["region"] = "us-central1"

	account := func(f map[string]any, email string) {
		f["serviceConfig"] = map[string]any{"serviceAccountEmail": email}
	}
	c.created["stranger"] = ours("stranger")
	delete(c.created["stranger"], "labels")
	account(c.created["stranger"], "inbox-mns@demo-project.iam.gserviceaccount.com")
	c.created["labelled"] = ours("labelled")
	c.created["labelled"]["labels"] = map[string]any{"managed-by": "another-tool"}
	c.created["elsewhere"] = ours("elsewhere")
	delete(c.created["elsewhere"], "labels")
	account(c.created["elsewhere"], "inbox-elsewhere@other-project.iam.gserviceaccount.com")
	c.created["first"] = ours("first")
	c.created["first"]["environment"] = "GEN_1"
}

func TestPrune(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	file = amend(t, file, func(all, functions map[string]any) {
		maps.DeleteFunc(functions, func(name string, _ any) bool { return name == "mns" || name == "calendar" })
	})
	deleted := []string{"delete calendar", "delete mns", "delete publish in us-central1"}
	for _, test := range []struct {
		name  string
		args  []string
		ok    bool
		want  []string // of what was done
		says  string
		empty bool
		blind bool
	}{
		{name: "yes", args: []string{"--yes"}, ok: true, want: deleted, says: "+ gcloud functions delete mns "},
		{name: "dry_run", args: []string{"--dry-run"}, ok: true, says: "+ gcloud functions delete calendar --gen2 --project=demo-project --region=europe-west1 --quiet"},
		{name: "not_answered", says: "nothing is deleted"},
		{name: "nothing_left", args: []string{"--yes"}, ok: true, empty: true, says: "nothing to delete"},
		{name: "may_not_list", args: []string{"--yes"}, blind: true, says: "cannot be listed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			c.unlisted = test.blind
			if !test.empty {
				leftovers(c)
			}
			out, ok := deploy(t, c.environment(t), append([]string{"--prune", "--outputs", file}, test.args...)...)
			if ok != test.ok || !strings.Contains(out, test.says) || len(c.unknown) > 0 {
				t.Errorf("success %v, unknown %v, it prints %s, want %q in it", ok, c.unknown, out, test.says)
			}
			if diff := cmp.Diff(test.want, c.mutations); diff != "" {
				t.Errorf("what it did (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeployAllNamesLeftovers deploys all, which is receive alone.
func TestDeployAllNamesLeftovers(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	file = amend(t, file, func(_, functions map[string]any) {
		maps.DeleteFunc(functions, func(name string, _ any) bool { return name != "receive" })
	})
	c := newCloud(t)
	leftovers(c)
	out, ok := deploy(t, c.environment(t), "--all", "--outputs", file)
	for name, region := range map[string]string{"mns": "europe-west1", "calendar": "europe-west1", "publish": "us-central1"} {
		want := name + ": deployed in " + region + ", but in Terraform's outputs no more; to delete it: gcloud functions delete " + name +
			" --gen2 --project=demo-project --region=" + region + " --quiet"
		if !ok || !strings.Contains(out, want) {
			t.Errorf("success %v, it prints %s, want %q in it", ok, out, want)
		}
	}
	if n := strings.Count(out, "to delete it"); n != 3 || len(c.mutations) != 1 {
		t.Errorf("it names %d, and did %v: %s", n, c.mutations, out)
	}
}

// TestDeployAllSaysWhyItCannotList deploys all without the right to see what else is
// deployed: it says why, in gcloud's words.
func TestDeployAllSaysWhyItCannotList(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	file = amend(t, file, func(_, functions map[string]any) {
		maps.DeleteFunc(functions, func(name string, _ any) bool { return name != "receive" })
	})
	c := newCloud(t)
	c.unlisted = true
	out, ok := deploy(t, c.environment(t), "--all", "--outputs", file)
	if _, why, said := strings.Cut(out, "what else is deployed cannot be listed: "); !ok || !said || !strings.HasPrefix(why, "ERROR") {
		t.Errorf("success %v, it prints %s", ok, out)
	}
}
