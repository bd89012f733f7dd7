package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/doctor/doctortest"
)

// TestDoctor runs the command against a world in memory, by Terraform's outputs and by
// the subscription's name.
func TestDoctor(t *testing.T) {
	for _, test := range []struct {
		name   string
		broken func(w *doctortest.World)
		code   int
		// want are in the text, in this order; first is the check of the first finding.
		want  []string
		first string
	}{
		{name: "healthy", code: 0, want: []string{"ok    project", "demo-project: 0 findings, 0 unknown"}},
		{
			name: "a_slash", code: 1, first: "audience",
			broken: func(w *doctortest.World) {
				w.Push()["oidcToken"].(map[string]any)["audience"] = "https://receive-" + doctortest.Number + ".europe-west1.run.app/"
			},
			want: []string{"BAD   audience, inbox-push: the audience", "seen", "a slash at the end", "follows", "403, audience", "run", "terraform -chdir=", "apply", "1 finding, 0 unknown"},
		},
		{
			name: "no_right", code: 3, first: "probe",
			broken: func(w *doctortest.World) { w.Denied["monitoring.timeSeries.list"] = true },
			want:   []string{"?     ", "the permission monitoring.timeSeries.list is missing", "0 findings"},
		},
		{
			name: "hostile_names", code: 1, first: "topic",
			broken: func(w *doctortest.World) { w.Subscription()["topic"] = "\x1b]0;owned\x07\u202e" },
			want:   []string{`\x1b]0;owned\a\u202e`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := doctortest.New(t, `verification_token = "`+doctortest.Marker+`"`)
			if test.broken != nil {
				test.broken(w)
			}
			// What `terraform output -json` prints, without a state.
			bin := t.TempDir()
			outputs := filepath.Join(bin, "outputs.json")
			if err := os.WriteFile(outputs, w.Outputs, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(bin, "terraform"), []byte("#!/bin/sh\ncat '"+outputs+"'\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			ask := func(args ...string) (string, int) {
				cmd := doctorCommand(func(context.Context) (*http.Client, *http.Client, error) { return w.Client(), w.Client(), nil })
				cmd.SilenceErrors, cmd.SilenceUsage = true, true
				var out bytes.Buffer
				cmd.SetOut(&out)
				cmd.SetArgs(args)
				err := cmd.ExecuteContext(t.Context())
				code := programExit(0)
				if err != nil && !errors.As(err, &code) {
					t.Fatal(err)
				}
				if strings.Contains(out.String(), doctortest.Marker) || strings.ContainsAny(out.String(), "\x1b\x07\u202e") {
					t.Errorf("the token or raw characters are in %q", out.String())
				}
				return out.String(), int(code)
			}
			text, code := ask("--terraform", t.TempDir())
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			rest := text
			for _, want := range test.want {
				var ok bool
				if _, rest, ok = strings.Cut(rest, want); !ok {
					t.Fatalf("%q is missing, or comes too early, in\n%s", want, text)
				}
			}
			printed, code := ask("--terraform", t.TempDir(), "--format", "json")
			var r doctor.Report
			if err := json.Unmarshal([]byte(printed), &r); err != nil || code != test.code {
				t.Fatalf("exit code %d, %v in %s", code, err, printed)
			}
			if test.first != "" && r.Findings[0].Check != test.first {
				t.Errorf("the first finding is %+v, want %s", r.Findings[0], test.first)
			}
			if _, code := ask("--project", doctortest.Project, "--subscription", "inbox-push"); code != test.code && test.first != "topic" {
				t.Errorf("by the subscription's name: exit code %d, want %d", code, test.code)
			}
		})
	}
}

func TestDoctorRefusesTheCall(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--terraform", "x", "--project", "p", "--subscription", "s"},
		{"--project", "p"},
		{"--subscription", "s"},
		{"--project", "a/b", "--subscription", "s"},
		{"--project", "p", "--subscription", "projects/p/topics/t"},
		{}, // there is no ./terraform here
	} {
		cmd := doctorCommand(func(context.Context) (*http.Client, *http.Client, error) {
			t.Error("Google was asked")
			return nil, nil, errors.New("no")
		})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); !errors.As(err, new(usageError)) {
			t.Errorf("%v: %v, want a wrong call", args, err)
		} else if len(args) == 0 && !strings.Contains(err.Error(), "--local") {
			t.Errorf("%v: people who mean pushinbox local are not told of --local", err)
		}
	}
}
