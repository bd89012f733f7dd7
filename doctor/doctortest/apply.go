package doctortest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/tfmodule"
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
	*tfmodule.State
	// deployment is what scripts/deploy --dry-run prints.
	deployment string
}

// applications has one apply for each settings.
var applications sync.Map

// apply applies the module with these settings (HCL), once for all tests of a process.
func apply(tb testing.TB, settings string) *applied {
	tb.Helper()
	need.Program(tb, "terraform")
	need.Program(tb, "jq")
	once, _ := applications.LoadOrStore(settings, sync.OnceValues(func() (*applied, error) { return applyOnce(settings) }))
	a, err := once.(func() (*applied, error))()
	tfmodule.Check(tb, err)
	return a
}

func applyOnce(settings string) (*applied, error) {
	scratch, err := os.MkdirTemp("", "doctortest")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	dir, err := tfmodule.Copy(scratch)
	if err != nil {
		return nil, err
	}
	state, err := tfmodule.Apply(dir, Project, settings)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(scratch, "outputs.json")
	if err := os.WriteFile(file, state.Outputs, 0o644); err != nil {
		return nil, err
	}
	deploy := exec.Command("scripts/deploy", "--dry-run", "--outputs", file, "publish", "receive")
	deploy.Dir = tfmodule.Root
	var errs bytes.Buffer
	deploy.Stderr = &errs
	printed, err := deploy.Output()
	if err != nil {
		return nil, fmt.Errorf("scripts/deploy: %w\n%s%s", err, printed, errs.Bytes())
	}
	return &applied{state, string(printed)}, nil
}
