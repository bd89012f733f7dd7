// Package tfmodule lays the project's Terraform module out for tests and runs Terraform on
// it. It applies it with a mocked provider, so that nothing is created anywhere.
package tfmodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/pushinbox/testkit/need"
)

// ErrNoProvider is returned by Copy where Terraform finds no provider.
var ErrNoProvider = errors.New("there is no provider hashicorp/google for Terraform: let it reach its registry, or set TF_CLI_CONFIG_FILE to a file that says where the provider is")

// Check ends the test when err is not nil: where it is ErrNoProvider, as need.Missing
// does.
func Check(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, ErrNoProvider) {
		tb.Log(err)
		need.Missing(tb, ErrNoProvider.Error())
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// Root is the root of the checkout, above the folder of the test.
var Root = func() string {
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	return ""
}()

// Functions returns the folders of functions/ that are functions.
func Functions() (names []string, err error) {
	entries, err := os.ReadDir(filepath.Join(Root, "functions"))
	for _, e := range entries {
		if e.IsDir() && e.Name() != "cmd" {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Copy copies the module and the files that it reads to a folder, without anybody's
// state and settings, and returns where the module is, ready to be planned. A
// development override in Terraform's settings is a provider without `terraform init`.
func Copy(to string) (dir string, err error) {
	for _, pattern := range []string{
		"terraform/*.tf", "terraform/*.sh", "terraform/*.example", "terraform/.terraform.lock.hcl",
		"terraform/tests/*.hcl", "terraform/tests/mocks/*.hcl", "docs/alerts/*.md",
		"shared/inbox/firestoreinbox/*.json", "shared/calendar/firestorestate/*.json",
	} {
		files, err := filepath.Glob(filepath.Join(Root, pattern))
		if err != nil {
			return "", err
		}
		if len(files) == 0 && !strings.HasSuffix(pattern, ".lock.hcl") { // there only after an init
			return "", fmt.Errorf("nothing is at %s", filepath.Join(Root, pattern))
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			name := filepath.Join(to, strings.TrimPrefix(file, Root))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return "", err
			}
			if err := os.WriteFile(name, b, 0o644); err != nil {
				return "", err
			}
		}
	}
	dir = filepath.Join(to, "terraform")
	_, err = Terraform(dir, "validate", "-no-color")
	if err == nil || !strings.Contains(err.Error(), "terraform init") {
		return dir, err
	}
	if _, err := Terraform(dir, "init", "-backend=false", "-input=false", "-no-color"); err != nil {
		return "", fmt.Errorf("%w, now %q\n%w", ErrNoProvider, os.Getenv("TF_CLI_CONFIG_FILE"), err)
	}
	return dir, nil
}

// Terraform runs Terraform in a folder and returns what it prints to its standard
// output. The error holds all that it prints.
func Terraform(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("terraform", args...)
	cmd.Dir = dir
	// Collecting its garbage less often takes a quarter off its processor time.
	cmd.Env = append(os.Environ(), "GOGC=400")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("terraform %s: %w\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return out, err
}

// State is what an apply leaves.
type State struct {
	// Outputs is as `terraform output -json` prints them.
	Outputs   json.RawMessage
	Resources []Resource
}

// Resource is one of State, in the form of `terraform show -json`.
type Resource struct {
	Address string         `json:"address"`
	Type    string         `json:"type"`
	Mode    string         `json:"mode"`
	Index   any            `json:"index"`
	Values  map[string]any `json:"values"`
}

// Apply applies the module that Copy copied to dir with these settings (HCL). What
// Google makes up is given the form that Google gives it.
func Apply(dir, project, settings string) (*State, error) {
	functions, err := Functions()
	if err != nil {
		return nil, err
	}
	// In a folder of its own, which is not among the tests of others.
	tests, err := os.MkdirTemp(dir, "apply")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tests, "apply.tftest.hcl"), []byte(test(project, settings, functions)), 0o644); err != nil {
		return nil, err
	}
	events, err := Terraform(dir, "test", "-no-color", "-json", "-verbose", "-test-directory="+filepath.Base(tests))
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(events) {
		var event struct {
			State struct {
				Outputs json.RawMessage `json:"outputs"`
				Root    struct {
					Resources []Resource `json:"resources"`
				} `json:"root_module"`
			} `json:"test_state"`
		}
		if json.Unmarshal(line, &event) == nil && event.State.Outputs != nil {
			return &State{event.State.Outputs, event.State.Root.Resources}, nil
		}
	}
	return nil, fmt.Errorf("no state in %s", events)
}

// test is a test of Terraform's that applies the module.
func test(project, settings string, functions []string) string {
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
		email := "inbox-" + name + "@" + project + ".iam.gserviceaccount.com"
		override("google_service_account."+target, map[string]string{
			"email": email, "member": "serviceAccount:" + email, "name": "projects/" + project + "/serviceAccounts/" + email,
		})
	}
	for _, name := range functions {
		account(fmt.Sprintf("function[%q]", name), name)
	}
	for _, name := range []string{"push", "build", "tester", "scheduler"} {
		account(name, name)
	}
	for target, name := range map[string]string{"inbox": "inbox", "dead_letter": "inbox-dead-letter", "calendar_sync": "inbox-calendar-sync"} {
		override("google_pubsub_topic."+target, map[string]string{"id": "projects/" + project + "/topics/" + name})
	}
	override("google_project_iam_custom_role.calendar_sync", map[string]string{"name": "projects/" + project + "/roles/pushInboxCalendar"})
	fmt.Fprintf(&b, "variables {\n  project_id = %q\n  testers = [\"user:you@example.com\"]\n%s\n}\nrun \"world\" {}\n", project, settings)
	return b.String()
}
