package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the root of the checkout.
const module = "../.."

// stage lays out the source of a function as it is uploaded: the function's
// files at the root, shared/ and the module files beside them, no tests.
func stage(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	copyTree(t, filepath.Join(module, "functions", name), dir)
	copyTree(t, filepath.Join(module, "shared"), filepath.Join(dir, "shared"))
	for _, file := range []string{"go.mod", "go.sum"} {
		copyFile(t, filepath.Join(module, file), filepath.Join(dir, file))
	}
	return dir
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "testdata" {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !strings.HasSuffix(path, "_test.go") {
			copyFile(t, path, filepath.Join(to, rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestStagedFunctionsBuild holds the source of each function to what the Go
// buildpack wants of it, and builds it with a main as the buildpack writes it.
func TestStagedFunctionsBuild(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join(module, "functions"))
	if err != nil {
		t.Fatal(err)
	}
	staged := 0
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "cmd" {
			continue
		}
		staged++
		t.Run(e.Name(), func(t *testing.T) {
			t.Parallel()
			dir := stage(t, e.Name())
			// The buildpack reads every file at the root, tests and excluded
			// ones too, and takes one package only.
			files, err := filepath.Glob(filepath.Join(dir, "*.go"))
			if err != nil {
				t.Fatal(err)
			}
			packages := map[string]bool{}
			imports := false
			for _, file := range files {
				f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
				if err != nil {
					t.Fatal(err)
				}
				packages[f.Name.Name] = true
				for _, i := range f.Imports {
					path, err := strconv.Unquote(i.Path.Value)
					if err != nil {
						t.Fatal(err)
					}
					imports = imports || path == "github.com/GoogleCloudPlatform/functions-framework-go/functions"
				}
			}
			if len(packages) != 1 {
				t.Errorf("packages at the root: %v, want one", packages)
			}
			if !imports {
				t.Error("the root package does not import functions-framework-go/functions")
			}
			name := strings.TrimSpace(run(t, dir, "go", "list", "-m"))
			if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
				t.Errorf("module %s: the first element has no dot", name)
			}

			app := filepath.Join(dir, "functions.local", "app")
			if err := os.MkdirAll(app, 0o755); err != nil {
				t.Fatal(err)
			}
			main := `package main

import (
	"log"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	_ "` + name + `"
)

func main() {
	if err := funcframework.Start("8080"); err != nil {
		log.Fatal(err)
	}
}
`
			if err := os.WriteFile(filepath.Join(app, "main.go"), []byte(main), 0o644); err != nil {
				t.Fatal(err)
			}
			run(t, dir, "go", "mod", "tidy")
			run(t, dir, "go", "build", "-o", filepath.Join(dir, "main"), "./functions.local/app")
			deps := strings.Fields(run(t, dir, "go", "list", "-deps", "./functions.local/app"))
			for _, unwanted := range []string{"shared/pushfake", "shared/inbox/boltinbox", "shared/emulator", "shared/inbox/inboxtest"} {
				if slices.Contains(deps, name+"/"+unwanted) {
					t.Errorf("the binary links %s", unwanted)
				}
			}
		})
	}
	if staged < 3 {
		t.Errorf("%d functions were staged", staged)
	}
}
