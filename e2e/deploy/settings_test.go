package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTerraformVariables holds the table of docs/settings.md against
// terraform/variables.tf: the names, in its order, and the defaults. Where the
// default is not null, null means the default: nothing there expects null.
func TestTerraformVariables(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var want, got [][2]string
	variable := regexp.MustCompile(`(?ms)^variable "(\w+)" \{\n(.*?)^\}`)
	null := regexp.MustCompile(`(?m)^  default += null$`)
	notNull := regexp.MustCompile(`(?m)^  nullable += false$`)
	standard := regexp.MustCompile(`(?m)^  default +=(.*)$`)
	for _, m := range variable.FindAllStringSubmatch(read("terraform/variables.tf"), -1) {
		value := "required"
		if d := standard.FindStringSubmatch(m[2]); d != nil {
			switch value = strings.TrimSpace(d[1]); value {
			case "null", "[]", "{}", `""`:
				value = "none"
			default:
				value = "`" + strings.Trim(value, `"`) + "`"
			}
		}
		want = append(want, [2]string{m[1], value})
		if null.MatchString(m[2]) == notNull.MatchString(m[2]) {
			t.Errorf("%s must have either default = null or nullable = false", m[1])
		}
	}
	if len(want) < 40 {
		t.Fatalf("terraform/variables.tf has %d variables", len(want))
	}
	_, section, _ := strings.Cut(read("docs/settings.md"), "\n## Terraform variables\n")
	section, _, _ = strings.Cut(section, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.+?) \\| .+ \\|$")
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		got = append(got, [2]string{m[1], m[2]})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("terraform/variables.tf and the table of docs/settings.md (-want +got):\n%s", diff)
	}
}
