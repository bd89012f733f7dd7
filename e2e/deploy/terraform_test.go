package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/testkit/need"
)

// indexes are the files that the Terraform module reads.
var indexes = []string{
	"shared/inbox/firestoreinbox/firestore.indexes.json", "shared/calendar/firestorestate/firestore.indexes.json",
}

// module is a copy of the Terraform module, so that nothing is left in the
// checkout, that is ready to be planned. A development override in Terraform's
// settings is a provider without `terraform init`.
var module = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "module", "terraform")
	files, err := filepath.Glob(filepath.Join(root, "terraform", "*"))
	if err != nil {
		return "", err
	}
	for _, pattern := range []string{"terraform/tests/*.hcl", "terraform/tests/mocks/*.hcl", "docs/alerts/*.md"} {
		more, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return "", err
		}
		files = append(files, more...)
	}
	for _, file := range indexes {
		files = append(files, filepath.Join(root, file))
	}
	for _, file := range files {
		to := filepath.Join(scratch, "module", strings.TrimPrefix(file, filepath.Clean(root)))
		switch filepath.Ext(file) {
		case ".tf", ".hcl", ".json", ".example", ".md", ".sh":
		default:
			continue // folders, somebody's state and settings
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return "", err
		}
	}
	terraform := func(args ...string) error {
		_, err := output(context.Background(), dir, nil, append([]string{"terraform"}, args...)...)
		return err
	}
	err = terraform("validate", "-no-color")
	if err == nil || !strings.Contains(err.Error(), "terraform init") {
		return dir, err
	}
	if err := terraform("init", "-backend=false", "-input=false", "-no-color"); err != nil {
		return "", fmt.Errorf("%w, now %q\n%w", errNoProvider, os.Getenv("TF_CLI_CONFIG_FILE"), err)
	}
	return dir, nil
})

var errNoProvider = errors.New("there is no provider hashicorp/google for Terraform: let it reach its registry, or set TF_CLI_CONFIG_FILE to a file that says where the provider is")

// moduleDir returns the module's copy, or skips the test.
func moduleDir(tb testing.TB) string {
	tb.Helper()
	need.Program(tb, "terraform")
	dir, err := module()
	if errors.Is(err, errNoProvider) {
		tb.Log(err)
		need.Missing(tb, errNoProvider.Error())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// function is a function in Terraform's outputs.
type function struct {
	URL            string            `json:"url"`
	ServiceAccount string            `json:"service_account"`
	Environment    map[string]string `json:"environment"`
	Secrets        map[string]string `json:"secrets"`
	TimeoutSeconds int               `json:"timeout_seconds"`
	Ingress        string            `json:"ingress"`
}

// applied is what the module gives with some settings.
type applied struct {
	functions map[string]function
	file      string // its outputs, as `terraform output -json` prints them
}

// rarelyCollected is the environment of a Terraform that leaves its garbage alone for
// longer: that takes a quarter off its processor time.
var rarelyCollected = []string{"GOGC=400"}

// applications has one apply for each project and settings.
var applications sync.Map

// outputs plans and applies the module with a mocked provider and these settings
// (HCL), once for all tests, and returns the functions in its outputs and a file
// with these as `terraform output -json` prints them. Both belong to all tests.
func outputs(tb testing.TB, project, settings string) (functions map[string]function, file string) {
	tb.Helper()
	dir := moduleDir(tb)
	names := functionNames(tb)
	apply, _ := applications.LoadOrStore([2]string{project, settings}, sync.OnceValues(func() (applied, error) {
		return apply(dir, names, project, settings)
	}))
	a, err := apply.(func() (applied, error))()
	if err != nil {
		tb.Fatal(err)
	}
	return a.functions, a.file
}

func apply(dir string, names []string, project, settings string) (applied, error) {
	// In a folder of its own, which is not among the tests of others.
	tests, err := os.MkdirTemp(dir, "outputs")
	if err != nil {
		return applied{}, err
	}
	accounts := ""
	for _, name := range append(names, "push", "build", "tester") {
		target := "google_service_account." + name
		if !slices.Contains([]string{"push", "build", "tester"}, name) {
			target = fmt.Sprintf("google_service_account.function[%q]", name)
		}
		email := "inbox-" + name + "@" + project + ".iam.gserviceaccount.com"
		accounts += fmt.Sprintf(`
override_resource {
  target = %[1]s
  values = {
    email  = %[2]q
    member = "serviceAccount:%[3]s"
    name   = "projects/%[4]s/serviceAccounts/%[3]s"
  }
}
`, target, email, email, project)
	}
	test := fmt.Sprintf(`
mock_provider "google" {
  source = "./tests/mocks"
}
%s
variables {
  project_id = %q
  testers    = ["user:you@example.com"]
%s
}

run "outputs" {}
`, accounts, project, settings)
	if err := os.WriteFile(filepath.Join(tests, "outputs.tftest.hcl"), []byte(test), 0o644); err != nil {
		return applied{}, err
	}
	text, err := output(context.Background(), dir, rarelyCollected, "terraform", "test", "-no-color", "-json", "-verbose", "-test-directory="+filepath.Base(tests))
	if err != nil {
		return applied{}, err
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var event struct {
			State struct {
				Outputs json.RawMessage `json:"outputs"`
			} `json:"test_state"`
		}
		if json.Unmarshal(lines.Bytes(), &event) != nil || event.State.Outputs == nil {
			continue
		}
		var values struct {
			Functions struct {
				Value map[string]function `json:"value"`
			} `json:"functions"`
		}
		if err := json.Unmarshal(event.State.Outputs, &values); err != nil {
			return applied{}, err
		}
		file := filepath.Join(tests, "outputs.json")
		if err := os.WriteFile(file, event.State.Outputs, 0o644); err != nil {
			return applied{}, err
		}
		return applied{values.Functions.Value, file}, nil
	}
	return applied{}, fmt.Errorf("no outputs in %s", text)
}

func TestTerraform(t *testing.T) {
	t.Parallel()
	dir := moduleDir(t)
	for _, test := range []struct {
		name string
		args []string
	}{
		// Other tests have folders of their own in this one.
		{"fmt", []string{"fmt", "-check", "-diff", "-no-color", ".", "tests", "tests/mocks"}},
		{"validate", []string{"validate", "-no-color"}},
		{"test", []string{"test", "-no-color"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if _, err := output(t.Context(), dir, rarelyCollected, append([]string{"terraform"}, test.args...)...); err != nil {
				t.Error(err)
			}
		})
	}
}

// everything is the settings (HCL) with which no function is off.
const everything = `  calendar = {}
  mns = { topic_owners = ["` + mnsfake.Owner + `"] }`

// TestTerraformKnowsEveryFunction fails for a function that has no entry in
// terraform/functions.tf, and could not be deployed.
func TestTerraformKnowsEveryFunction(t *testing.T) {
	t.Parallel()
	functions, _ := outputs(t, "demo-project", everything)
	for _, name := range functionNames(t) {
		if _, ok := functions[name]; !ok {
			t.Errorf("terraform/functions.tf has no entry for %s", name)
		}
	}
	if len(functions) != len(functionNames(t)) {
		t.Errorf("Terraform has the functions %v, functions/ has %v", functions, functionNames(t))
	}
}
