package deploy

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/tfmodule"
)

// module is a copy of the Terraform module, so that nothing is left in the checkout.
var module = sync.OnceValues(func() (string, error) { return tfmodule.Copy(filepath.Join(scratch, "module")) })

// moduleDir returns the module's copy, or skips the test.
func moduleDir(tb testing.TB) string {
	tb.Helper()
	need.Program(tb, "terraform")
	dir, err := module()
	tfmodule.Check(tb, err)
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

// applications has one apply for each project and settings.
var applications sync.Map

// outputs applies the module with a mocked provider and these settings (HCL), once for
// all tests, and returns the functions in its outputs and a file with these as
// `terraform output -json` prints them. Both belong to all tests.
func outputs(tb testing.TB, project, settings string) (functions map[string]function, file string) {
	tb.Helper()
	dir := moduleDir(tb)
	apply, _ := applications.LoadOrStore([2]string{project, settings}, sync.OnceValues(func() (applied, error) {
		return apply(dir, project, settings)
	}))
	a, err := apply.(func() (applied, error))()
	if err != nil {
		tb.Fatal(err)
	}
	return a.functions, a.file
}

func apply(dir, project, settings string) (applied, error) {
	state, err := tfmodule.Apply(dir, project, settings)
	if err != nil {
		return applied{}, err
	}
	var values struct {
		Functions struct {
			Value map[string]function `json:"value"`
		} `json:"functions"`
	}
	if err := json.Unmarshal(state.Outputs, &values); err != nil {
		return applied{}, err
	}
	file, err := os.CreateTemp(scratch, "outputs*.json")
	if err != nil {
		return applied{}, err
	}
	_, err = file.Write(state.Outputs)
	return applied{values.Functions.Value, file.Name()}, errors.Join(err, file.Close())
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
			if _, err := tfmodule.Terraform(dir, test.args...); err != nil {
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
