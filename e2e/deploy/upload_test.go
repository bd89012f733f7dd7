package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpload stages a module of a few files, with what cannot be uploaded.
func TestUpload(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join(root, "scripts", "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	const mod = "module example.com/m\n\ngo 1.26\n"
	for _, test := range []struct {
		name  string
		mod   string
		files []string
		want  string // empty: it is staged
	}{
		{name: "plain", mod: mod},
		{name: "vendor", mod: mod, files: []string{"vendor/modules.txt"}, want: "vendor/ would not be uploaded"},
		{name: "outside", mod: mod + "replace example.com/x => ../x // near\n", want: "replaces example.com/x with ../x"},
		{name: "outside_with_version", mod: mod + "replace example.com/x v1.2.3 => ../x\n", want: "replaces example.com/x with ../x"},
		{name: "absolute", mod: mod + "replace example.com/x => /src/x\n", want: "replaces example.com/x with /src/x"},
		{name: "block", mod: mod + "replace (\n\texample.com/y => example.com/z v1.0.0\n\texample.com/x => \"../x\"\n)\n", want: "replaces example.com/x with ../x"},
		{name: "in_a_folder_left_behind", mod: mod + "replace example.com/x => ./functions/x\n", files: []string{"functions/x/go.mod"}, want: "with ./functions/x"},
		{name: "by_a_detour", mod: mod + "replace example.com/x => ./shared/../../x\n", files: []string{"shared/a.go"}, want: "with ./shared/../../x"},
		{name: "inside", mod: mod + "replace example.com/x => ./shared/x\n", files: []string{"shared/x/go.mod"}},
		{name: "by_a_version", mod: mod + "replace example.com/x => example.com/z v1.0.0\n"},
		{name: "commented_out", mod: mod + "// replace example.com/x => ../x\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write := func(name, text string, mode os.FileMode) {
				file := filepath.Join(dir, "m", name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), mode); err != nil {
					t.Fatal(err)
				}
			}
			write("scripts/deploy", string(script), 0o755)
			write("functions/publish/function.go", "package publish\n", 0o644)
			write("shared/shared.go", "package shared\n", 0o644)
			write("go.mod", test.mod, 0o644)
			write("go.sum", "", 0o644)
			write("../x/go.mod", "module example.com/x\n", 0o644)
			for _, name := range test.files {
				write(name, "module example.com/x\n", 0o644)
			}
			out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "m", "scripts", "deploy"), "--stage-only", filepath.Join(dir, "staged"), "publish").CombinedOutput()
			if (err == nil) != (test.want == "") || !strings.Contains(string(out), test.want) {
				t.Errorf("%v, it prints %s, want %q", err, out, test.want)
			}
		})
	}
}
