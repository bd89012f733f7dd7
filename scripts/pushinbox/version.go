package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// unknown is printed for what the build did not record.
const unknown = "unknown"

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print which build this is",
		Long: `Print which build this is: the module's version, the commit it was built from,
whether the source had changes that were not committed, Go's version and the
platform.

Go records the commit only in a program that "go build" or "go install" builds in
a checkout. "go run" records none; the answer is then "unknown".`,
		Example: `  pushinbox version
  pushinbox version --format json | jq -r .revision`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := debug.ReadBuildInfo()
			v := versionOf(info)
			return show(cmd, v, "%s", v)
		},
	}
	formatFlag(cmd)
	return cmd
}

// version says which build this is. Every string that the build did not record
// is "unknown".
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	// Time is the time of the commit, RFC 3339 UTC.
	Time string `json:"time"`
	// Modified says whether the source had changes that were not committed; nil
	// (null in JSON) when the build did not record it.
	Modified *bool  `json:"modified"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

// versionOf reads info, which is nil in a program that was built without modules.
func versionOf(info *debug.BuildInfo) version {
	v := version{
		Version: unknown, Revision: unknown, Time: unknown,
		Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
	}
	if info == nil {
		return v
	}
	// "(devel)" is what Go writes when it does not know the version.
	if m := info.Main.Version; m != "" && m != "(devel)" {
		v.Version = m
	}
	for _, s := range info.Settings {
		switch {
		case s.Value == "":
		case s.Key == "vcs.revision":
			v.Revision = s.Value
		case s.Key == "vcs.time":
			v.Time = s.Value
		case s.Key == "vcs.modified":
			modified := s.Value == "true"
			v.Modified = &modified
		}
	}
	return v
}

// String returns all of it, in lines.
func (v version) String() string {
	modified := unknown
	if v.Modified != nil {
		modified = map[bool]string{true: "yes", false: "no"}[*v.Modified]
	}
	return fmt.Sprintf("pushinbox %s\nrevision  %s\ntime      %s\nmodified  %s\ngo        %s\nplatform  %s/%s\n",
		v.Version, v.Revision, v.Time, modified, v.Go, v.OS, v.Arch)
}
