package deploy

import (
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/testkit/need"
)

// own has the folders of functions of a user's own, by their names: the smallest, and
// the example.
var own = func() map[string]string {
	folders := map[string]string{"greet": "e2e/deploy/testdata/greet"}
	if _, err := os.Stat(filepath.Join(root, "examples/orders")); err == nil {
		folders["orders"] = "examples/orders"
	}
	return folders
}()

// staged is a folder with the source of every function, and of those in own, as
// scripts/deploy uploads it.
var staged = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "staged")
	_, err := output(context.Background(), root, nil, "scripts/deploy", "--stage-only", dir, "--all")
	for _, folder := range own {
		if err == nil {
			_, err = output(context.Background(), root, nil, "scripts/deploy", "--stage-only", dir, "--function", folder)
		}
	}
	return dir, err
})

// framework is the main that the buildpack generates for a function that
// imports the framework's package functions.
const framework = `package main

import (
	"log"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	_ "%s"
)

func main() {
	port := "8080"
	if p := os.Getenv("PORT"); p != "" {
		port = p
	}
	if err := funcframework.Start(port); err != nil {
		log.Fatal(err)
	}
}
`

// buildpack builds the source in dir as the Go buildpack does, which it changes,
// and returns the program.
func buildpack(ctx context.Context, dir string) (string, error) {
	module, err := output(ctx, dir, nil, "go", "list", "-m")
	if err != nil {
		return "", err
	}
	app := filepath.Join(dir, "functions.local", "app")
	if err := os.MkdirAll(app, 0o755); err != nil {
		return "", err
	}
	main := fmt.Sprintf(framework, strings.TrimSpace(module))
	if err := os.WriteFile(filepath.Join(app, "main.go"), []byte(main), 0o644); err != nil {
		return "", err
	}
	if _, err := output(ctx, dir, nil, "go", "mod", "tidy"); err != nil {
		return "", err
	}
	program := filepath.Join(dir, "main")
	_, err = output(ctx, dir, nil, "go", "build", "-ldflags=-w", "-o", program, "./functions.local/app")
	return program, err
}

// programs has one build for each function.
var programs sync.Map

// program returns the built function. It belongs to all tests.
func program(tb testing.TB, name string) string {
	tb.Helper()
	build, _ := programs.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		dir, err := staged()
		if err != nil {
			return "", err
		}
		// Others read the staged source, the build changes it.
		built := filepath.Join(scratch, "built", name)
		if err := os.CopyFS(built, os.DirFS(filepath.Join(dir, name))); err != nil {
			return "", err
		}
		return buildpack(context.Background(), built)
	}))
	path, err := build.(func() (string, error))()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// problems returns what the Go buildpack, or this project, would not have in an
// uploaded source.
func problems(dir string) ([]string, error) {
	var found []string
	// The buildpack reads every file at the root, tests and excluded ones too,
	// and takes one package only, which must import the framework.
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	packages := map[string]bool{}
	imports := false
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return nil, err
		}
		packages[f.Name.Name] = true
		for _, i := range f.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return nil, err
			}
			imports = imports || path == "github.com/GoogleCloudPlatform/functions-framework-go/functions"
		}
	}
	if len(packages) != 1 {
		found = append(found, fmt.Sprintf("%d packages at the root, want one", len(packages)))
	}
	if !imports {
		found = append(found, "the root package does not import functions-framework-go/functions")
	}
	for _, name := range []string{"go.mod", "go.sum", "shared"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			found = append(found, name+" is missing")
		}
	}
	for _, name := range []string{"cmd", "go.work", "e2e", "functions", "local", "scripts", "terraform", "testdata", "testkit", "vendor"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			found = append(found, name+" is there")
		}
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, "_test.go") || d.Name() == "testdata" || d.Name()[0] == '.') {
			found = append(found, path+" is there")
		}
		return err
	})
	return found, err
}

// TestStagedSource holds what is uploaded to what the buildpack wants, and the
// program that comes of it to what may be deployed.
func TestStagedSource(t *testing.T) {
	t.Parallel()
	need.Program(t, "tar")
	dir, err := staged()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.AppendSeq(functionNames(t), maps.Keys(own)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := filepath.Join(dir, name)
			found, err := problems(source)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range found {
				t.Error(p)
			}
			module, err := output(t.Context(), source, nil, "go", "list", "-m")
			if err != nil {
				t.Fatal(err)
			}
			module = strings.TrimSpace(module)
			if first, _, _ := strings.Cut(module, "/"); !strings.Contains(first, ".") {
				t.Errorf("module %s: the first element has no dot", module)
			}
			built := filepath.Dir(program(t, name))
			deps, err := output(t.Context(), built, nil, "go", "list", "-deps", "./functions.local/app")
			if err != nil {
				t.Fatal(err)
			}
			for _, dep := range strings.Fields(deps) {
				if own, ok := strings.CutPrefix(dep, module+"/"); ok && !strings.HasPrefix(own, "shared/") && own != "functions.local/app" {
					t.Errorf("the program links %s", own)
				}
			}
			// All of shared/ is uploaded, so all of it must stand alone.
			if _, err := output(t.Context(), source, nil, "go", "vet", "./..."); err != nil {
				t.Error(err)
			}
		})
	}
}
