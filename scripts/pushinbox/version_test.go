package main

import (
	"encoding/json"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersionOf(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for name, tt := range map[string]struct {
		info *debug.BuildInfo
		want version
		text string
	}{
		"no_build_info": {nil, version{Version: unknown, Revision: unknown, Time: unknown}, "modified  unknown\n"},
		"go_run": {
			&debug.BuildInfo{Main: debug.Module{Version: "(devel)"}},
			version{Version: unknown, Revision: unknown, Time: unknown}, "pushinbox unknown\n",
		},
		"empty_stamps": {
			&debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision"}, {Key: "vcs.time"}, {Key: "vcs.modified"}}},
			version{Version: unknown, Revision: unknown, Time: unknown}, "revision  unknown\n",
		},
		"release": {stamped("v1.2.3", "false"),
			version{Version: "v1.2.3", Revision: "abc", Time: "2026-11-26T07:00:00Z", Modified: &no}, "modified  no\n"},
		"changed": {stamped("v1.2.4-0.20261126070000-abc+dirty", "true"),
			version{Version: "v1.2.4-0.20261126070000-abc+dirty", Revision: "abc", Time: "2026-11-26T07:00:00Z", Modified: &yes},
			"modified  yes\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.want.Go, tt.want.OS, tt.want.Arch = runtime.Version(), runtime.GOOS, runtime.GOARCH
			got := versionOf(tt.info)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if text := got.String(); !strings.Contains(text, tt.text) {
				t.Errorf("printed %s", text)
			}
		})
	}
}

// stamped is what Go records in a build of a checkout.
func stamped(version, modified string) *debug.BuildInfo {
	return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: []debug.BuildSetting{
		{Key: "GOOS", Value: "plan9"}, {Key: "vcs.revision", Value: "abc"},
		{Key: "vcs.time", Value: "2026-11-26T07:00:00Z"}, {Key: "vcs.modified", Value: modified},
	}}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	out, errs, code := run(t, "", "version")
	for _, want := range []string{"pushinbox ", "\nrevision  ", "\nmodified  ", "\ngo        " + runtime.Version() + "\n",
		"\nplatform  " + runtime.GOOS + "/" + runtime.GOARCH + "\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if code != 0 || errs != "" {
		t.Errorf("exit %d, %s", code, errs)
	}
	if flag, errs, code := run(t, "", "--version"); code != 0 || errs != "" || flag != out {
		t.Errorf("--version: exit %d, %q, %s", code, flag, errs)
	}

	out, errs, code = run(t, "", "version", "--format", "json")
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || strings.Count(out, "\n") != 1 {
		t.Fatalf("exit %d, %v: %s%s", code, err, out, errs)
	}
	for _, field := range []string{"version", "revision", "time", "modified", "go", "os", "arch"} {
		if value, ok := got[field]; !ok || value == "" {
			t.Errorf("%s is %v in %s", field, value, out)
		}
	}

	for _, args := range [][]string{{"version", "--format", "yaml"}, {"version", "now"}} {
		if _, errs, code := run(t, "", args...); code != exitUsage || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, %s", args, code, errs)
		}
	}
}
