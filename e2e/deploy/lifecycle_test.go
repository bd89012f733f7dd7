package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/pushinbox/testkit/tfmodule"
)

// TestGrantsNameTheirResource looks at each grant on a resource. The grant is
// deleted with the resource, and where it refers to a name from the settings,
// nothing else than replace_triggered_by creates it again. An ID is computed, so
// that Terraform sees it change; TestReplacedSubscription shows that.
func TestGrantsNameTheirResource(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root, "terraform", "*.tf"))
	if err != nil {
		t.Fatal(err)
	}
	grant := regexp.MustCompile(`(?ms)^resource "(google_\w+_iam_member)" "(\w+)" \{\n(.*?)^\}\n`)
	target := regexp.MustCompile(`(?m)^  (\w+) += (.+)$`)
	resource := regexp.MustCompile(`^google_\w+\.\w+(\[[^\]]+\])?`)
	trigger := regexp.MustCompile(`replace_triggered_by = \[([^\n]*)\]\n`)
	found := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range grant.FindAllStringSubmatch(string(b), -1) {
			name, body := match[1]+"."+match[2], match[3]
			want := ""
			for _, argument := range target.FindAllStringSubmatch(body, -1) {
				if slices.Contains([]string{"for_each", "count", "project", "location", "role", "member", "depends_on"}, argument[1]) {
					continue
				}
				switch on := resource.FindString(argument[2]); {
				case on != "" && argument[2] == on+".id":
					found++
				case on != "":
					want = on + ".id"
				case argument[1] != "service_account_id" && !strings.HasPrefix(argument[2], "var."):
					// An account's name is computed, so that Terraform sees it change.
					t.Errorf("%s: %s = %s does not name the resource itself, so that its replacement cannot renew the grant", name, argument[1], argument[2])
				}
			}
			if want == "" {
				continue // on the project, or on something of somebody else
			}
			found++
			got := ""
			if match := trigger.FindStringSubmatch(body); match != nil {
				got = match[1]
			}
			if got != want {
				t.Errorf("%s: replace_triggered_by is [%s], want [%s]", name, got, want)
			}
		}
	}
	if found < 12 {
		t.Errorf("found %d grants on resources, want 12 at least", found)
	}
}

// settled is the state after an apply with the settings of TestReplacedSubscription,
// as far as its plans look at it.
const settled = `{
  "version": 4,
  "serial": 1,
  "lineage": "5b0f3a0c-63c5-4f0a-a2b4-8b6f3c8d8d0a",
  "resources": [
    {
      "mode": "managed", "type": "google_pubsub_subscription", "name": "push",
      "provider": "provider[\"registry.terraform.io/hashicorp/google\"]",
      "instances": [{"index_key": "main", "schema_version": 0, "attributes": {
        "id": "projects/demo-project/subscriptions/inbox-push",
        "name": "inbox-push", "project": "demo-project", "topic": "projects/other-project/topics/theirs",
        "enable_message_ordering": false, "ack_deadline_seconds": 60
      }}]
    },
    {
      "mode": "managed", "type": "google_pubsub_subscription_iam_member", "name": "dead_letter_subscriber",
      "provider": "provider[\"registry.terraform.io/hashicorp/google\"]",
      "instances": [{"index_key": "main", "schema_version": 0, "attributes": {
        "id": "projects/demo-project/subscriptions/inbox-push/roles/pubsub.subscriber/serviceAccount:agent@example.com",
        "subscription": "inbox-push", "project": "demo-project", "role": "roles/pubsub.subscriber",
        "member": "serviceAccount:agent@example.com", "condition": []
      }}]
    },
    {
      "mode": "managed", "type": "google_service_account", "name": "function",
      "provider": "provider[\"registry.terraform.io/hashicorp/google\"]",
      "instances": [{"index_key": "console", "schema_version": 0, "attributes": {
        "id": "projects/demo-project/serviceAccounts/inbox-console@demo-project.iam.gserviceaccount.com",
        "account_id": "inbox-console", "project": "demo-project", "display_name": "Push Inbox: the function console",
        "member": "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com"
      }}]
    },
    {
      "mode": "managed", "type": "google_pubsub_subscription_iam_member", "name": "console",
      "provider": "provider[\"registry.terraform.io/hashicorp/google\"]",
      "instances": [{"index_key": "console main", "schema_version": 0, "attributes": {
        "id": "projects/demo-project/subscriptions/inbox-push/roles/pubsub.viewer/serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com",
        "subscription": "projects/demo-project/subscriptions/inbox-push", "project": "demo-project", "role": "roles/pubsub.viewer",
        "member": "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com", "condition": []
      }}]
    }
  ]
}`

// asked keeps a plan from asking Google for the project's number.
const asked = `
provider "google" {
  access_token = "not-a-token"
}

locals {
  project_number = "1"
  pubsub_agent   = "serviceAccount:agent@example.com"
}
`

// TestReplacedSubscription plans changes of the push subscription. Where one
// replaces it, the grants on it have to be created again in the same apply, and
// stay where the change is in place. A mocked provider replaces nothing, so
// that `terraform test` cannot see this; both the real one and the stand-in plan
// from a state without asking an API.
func TestReplacedSubscription(t *testing.T) {
	t.Parallel()
	from := moduleDir(t)
	dir := filepath.Join(t.TempDir(), "terraform")
	files, err := filepath.Glob(filepath.Join(from, "*.tf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, filepath.Base(file)), string(b))
	}
	if err := os.CopyFS(filepath.Join(dir, "..", "shared"), os.DirFS(filepath.Join(from, "..", "shared"))); err != nil {
		t.Fatal(err)
	}
	linkProviders(t, from, dir)
	write(t, filepath.Join(dir, "asked_override.tf"), asked)
	write(t, filepath.Join(dir, "terraform.tfstate"), settled)

	const subscription = `google_pubsub_subscription.push["main"]`
	grants := []string{
		`google_pubsub_subscription_iam_member.dead_letter_subscriber["main"]`, // by replace_triggered_by
		`google_pubsub_subscription_iam_member.console["console main"]`,        // by the subscription's ID
	}
	// actions returns what a plan with a setting does to a resource.
	actions := func(t *testing.T, setting string) map[string]string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "plan")
		if _, err := tfmodule.Terraform(dir, "plan", "-no-color", "-input=false", "-lock=false", "-refresh=false", "-out="+file,
			"-target=google_pubsub_subscription_iam_member.dead_letter_subscriber", "-target=google_pubsub_subscription_iam_member.console", "-var=project_id=demo-project",
			`-var=testers=["user:you@example.com"]`, "-var=existing_topic=projects/other-project/topics/theirs", "-var="+setting,
		); err != nil {
			t.Fatal(err)
		}
		text, err := tfmodule.Terraform(dir, "show", "-json", file)
		if err != nil {
			t.Fatal(err)
		}
		var plan struct {
			Changes []struct {
				Address string `json:"address"`
				Change  struct {
					Actions []string `json:"actions"`
				} `json:"change"`
			} `json:"resource_changes"`
		}
		if err := json.Unmarshal(text, &plan); err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, c := range plan.Changes {
			found[c.Address] = strings.Join(c.Change.Actions, " ")
		}
		return found
	}
	const replaced, updated, unchanged = "delete create", "update", "no-op"
	for _, test := range []struct{ name, setting, subscription, grant string }{
		{"filter", `filter=attributes.kind = "a"`, replaced, replaced},
		{"ordering", "enable_message_ordering=true", replaced, replaced},
		{"topic", "existing_topic=projects/other-project/topics/another", replaced, replaced},
		{"ack_deadline", "ack_deadline_seconds=90", updated, unchanged},
		{"attempts", "max_delivery_attempts=50", updated, unchanged},
		{"paused", `paused=["main"]`, updated, unchanged},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := actions(t, test.setting)
			if got[subscription] != test.subscription {
				t.Errorf("subscription: %s, want %s", got[subscription], test.subscription)
			}
			for _, grant := range grants {
				if got[grant] != test.grant {
					t.Errorf("%s: %s, want %s", grant, got[grant], test.grant)
				}
			}
		})
	}
}

// write creates a file and its folder.
func write(tb testing.TB, file, text string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// linkProviders hands the lock and the providers of `terraform init`, where that
// was run, on to another folder.
func linkProviders(tb testing.TB, from, to string) {
	tb.Helper()
	for _, name := range []string{".terraform", ".terraform.lock.hcl"} {
		link, err := filepath.Abs(filepath.Join(from, name))
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := os.Stat(link); err != nil {
			continue
		}
		if err := os.Symlink(link, filepath.Join(to, name)); err != nil {
			tb.Fatal(err)
		}
	}
}
