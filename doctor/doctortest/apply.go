package doctortest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/testkit/need"
)

// Project is the project of every world, Number its number and Region where its
// functions are.
const (
	Project = "demo-project"
	Number  = "123456789012"
	Region  = "europe-west1"
)

// Marker is the shared token of every world that has one. Nothing that is printed may
// have it.
const Marker = "MARKER-of-the-shared-token-0123456789"

// applied is what an apply and a deployment leave.
type applied struct {
	// outputs is as `terraform output -json` prints them.
	outputs   json.RawMessage
	resources []resource
	// deployment is what scripts/deploy --dry-run prints.
	deployment string
}

// resource is one of Terraform's state.
type resource struct {
	Address string         `json:"address"`
	Type    string         `json:"type"`
	Mode    string         `json:"mode"`
	Index   any            `json:"index"`
	Values  map[string]any `json:"values"`
}

var errNoProvider = errors.New("there is no provider hashicorp/google for Terraform: let it reach its registry, or set TF_CLI_CONFIG_FILE to a file that says where the provider is")

// applications has one apply for each settings.
var applications sync.Map

// apply applies the module with these settings (HCL), once for all tests of a process.
// The provider is mocked, so that nothing is created anywhere; the state is in the form
// of `terraform show -json`.
func apply(tb testing.TB, settings string) *applied {
	tb.Helper()
	need.Program(tb, "terraform")
	need.Program(tb, "jq")
	once, _ := applications.LoadOrStore(settings, sync.OnceValues(func() (*applied, error) { return applyOnce(settings) }))
	a, err := once.(func() (*applied, error))()
	if errors.Is(err, errNoProvider) {
		tb.Log(err)
		need.Missing(tb, errNoProvider.Error())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

func applyOnce(settings string) (*applied, error) {
	scratch, err := os.MkdirTemp("", "doctortest")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	// The module alone, without anybody's state and settings.
	for _, pattern := range []string{
		"terraform/*.tf", "terraform/*.sh", "terraform/tests/mocks/*", "terraform/.terraform.lock.hcl", "docs/alerts/*.md",
		"shared/inbox/firestoreinbox/*.json", "shared/calendar/firestorestate/*.json",
	} {
		files, err := filepath.Glob(filepath.Join(root(), pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			name, err := filepath.Rel(root(), file)
			if err != nil {
				return nil, err
			}
			b, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			to := filepath.Join(scratch, name)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return nil, err
			}
			if err := os.WriteFile(to, b, 0o644); err != nil {
				return nil, err
			}
		}
	}
	dir := filepath.Join(scratch, "terraform")
	if err := os.MkdirAll(filepath.Join(dir, "world"), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "world", "world.tftest.hcl"), []byte(test(settings)), 0o644); err != nil {
		return nil, err
	}
	if _, err := run(dir, "terraform", "validate", "-no-color"); err != nil {
		if !strings.Contains(err.Error(), "terraform init") {
			return nil, err
		}
		if _, err := run(dir, "terraform", "init", "-backend=false", "-input=false", "-no-color"); err != nil {
			return nil, fmt.Errorf("%w, now %q\n%w", errNoProvider, os.Getenv("TF_CLI_CONFIG_FILE"), err)
		}
	}
	events, err := run(dir, "terraform", "test", "-no-color", "-json", "-verbose", "-test-directory=world")
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, events)
	}
	a := &applied{}
	for line := range bytes.Lines(events) {
		var event struct {
			State struct {
				Outputs json.RawMessage `json:"outputs"`
				Root    struct {
					Resources []resource `json:"resources"`
				} `json:"root_module"`
			} `json:"test_state"`
		}
		if json.Unmarshal(line, &event) == nil && event.State.Outputs != nil {
			a.outputs, a.resources = event.State.Outputs, event.State.Root.Resources
		}
	}
	if a.outputs == nil {
		return nil, fmt.Errorf("no state in %s", events)
	}
	file := filepath.Join(scratch, "outputs.json")
	if err := os.WriteFile(file, a.outputs, 0o644); err != nil {
		return nil, err
	}
	printed, err := run(root(), "scripts/deploy", "--dry-run", "--outputs", file, "publish", "receive")
	a.deployment = string(printed)
	return a, err
}

// test is a test of Terraform's that applies the module. What Google makes up is given
// the form that Google gives it.
func test(settings string) string {
	var b strings.Builder
	b.WriteString("mock_provider \"google\" {\n  source = \"./tests/mocks\"\n}\n")
	override := func(target string, values map[string]string) {
		fmt.Fprintf(&b, "override_resource {\n  target = %s\n  values = {\n", target)
		for k, v := range values {
			fmt.Fprintf(&b, "    %s = %q\n", k, v)
		}
		b.WriteString("  }\n}\n")
	}
	account := func(target, name string) {
		email := "inbox-" + name + "@" + Project + ".iam.gserviceaccount.com"
		override("google_service_account."+target, map[string]string{
			"email": email, "member": "serviceAccount:" + email, "name": "projects/" + Project + "/serviceAccounts/" + email,
		})
	}
	for _, name := range []string{"publish", "receive", "console", "calendar", "mns"} {
		account(fmt.Sprintf("function[%q]", name), name)
	}
	for _, name := range []string{"push", "build", "tester", "scheduler"} {
		account(name, name)
	}
	for target, name := range map[string]string{"inbox": "inbox", "dead_letter": "inbox-dead-letter", "calendar_sync": "inbox-calendar-sync"} {
		override("google_pubsub_topic."+target, map[string]string{"id": "projects/" + Project + "/topics/" + name})
	}
	override("google_project_iam_custom_role.calendar_sync", map[string]string{"name": "projects/" + Project + "/roles/pushInboxCalendar"})
	fmt.Fprintf(&b, "variables {\n  project_id = %q\n  testers = [\"user:you@example.com\"]\n%s\n}\nrun \"world\" {}\n", Project, settings)
	return b.String()
}

func run(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return out, err
}
