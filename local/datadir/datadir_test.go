//go:build unix

package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCreate holds which directories are refused. What belongs to another user can
// only be tried as root.
func TestCreate(t *testing.T) {
	t.Parallel()
	const other = 12345
	for name, test := range map[string]struct {
		// prepare gets a directory of this user's only, and returns the one to use.
		prepare   func(t *testing.T, base string) string
		byDefault bool
		asRoot    bool
		want      string // empty: it is accepted
	}{
		"missing":          {prepare: in("data")},
		"missing_parents":  {prepare: in("a/b/data")},
		"own":              {prepare: mode("data", 0o700)},
		"others_read":      {prepare: mode("data", 0o755)},
		"group_writes":     {prepare: mode("data", 0o770), want: "can be written to by others"},
		"everybody_writes": {prepare: mode("data", 0o777), want: "can be written to by others"},
		"sticky_itself":    {prepare: mode("data", 0o777|os.ModeSticky), want: "can be written to by others"},
		"only_they_write":  {prepare: mode("data", 0o702), want: "can be written to by others"},
		"in_sticky":        {prepare: mode("shared/data", 0o777|os.ModeSticky)},
		"in_sticky_by_default": {prepare: mode("shared/data", 0o777|os.ModeSticky), byDefault: true,
			want: "in which others can create files"},
		"deep_in_sticky_by_default": {prepare: mode("shared/a/data", 0o777|os.ModeSticky), byDefault: true},
		"in_writable":               {prepare: mode("shared/data", 0o777), want: "in which others can replace it"},
		"deep_in_writable":          {prepare: mode("shared/a/b/data", 0o777), want: "in which others can replace it"},
		"in_group_of_own":           {prepare: mode("shared/data", 0o775)},
		"own_link": {prepare: func(t *testing.T, base string) string {
			must(t, os.Mkdir(filepath.Join(base, "real"), 0o700), os.Symlink("real", filepath.Join(base, "data")))
			return filepath.Join(base, "data")
		}},
		"own_link_to_writable": {prepare: func(t *testing.T, base string) string {
			real := mode("real", 0o777)(t, base)
			must(t, os.Symlink(real, filepath.Join(base, "data")))
			return filepath.Join(base, "data")
		}, want: "can be written to by others"},
		"of_somebody_else": {prepare: func(t *testing.T, base string) string {
			dir := mode("data", 0o700)(t, base)
			must(t, os.Chown(dir, other, other))
			return dir
		}, asRoot: true, want: "belongs to user 12345 and you are user 0"},
		"link_of_somebody_else": {prepare: func(t *testing.T, base string) string {
			link := filepath.Join(base, "data")
			must(t, os.Mkdir(filepath.Join(base, "real"), 0o700), os.Symlink("real", link), os.Lchown(link, other, other))
			return link
		}, asRoot: true, want: "a symbolic link of another user"},
		"in_other_group": {prepare: func(t *testing.T, base string) string {
			dir := in("shared/data")(t, base)
			must(t, os.MkdirAll(dir, 0o700), os.Chown(filepath.Dir(dir), 0, other), os.Chmod(filepath.Dir(dir), 0o775))
			return dir
		}, asRoot: true, want: "in which others can replace it"},
		"a_file": {prepare: func(t *testing.T, base string) string {
			path := filepath.Join(base, "data")
			must(t, os.WriteFile(path, nil, 0o600))
			return path
		}, want: "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.asRoot && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			dir := test.prepare(t, t.TempDir())
			err := Create(dir, !test.byDefault)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir)) {
				t.Errorf("Create = %v, want %q", err, test.want)
			}
			if info, statErr := os.Stat(dir); err == nil && (statErr != nil || strings.HasPrefix(name, "missing") && info.Mode().Perm() != 0o700) {
				t.Errorf("the directory: %v, %v", info, statErr)
			}
		})
	}
}

// in returns a directory that does not exist.
func in(path string) func(*testing.T, string) string {
	return func(_ *testing.T, base string) string { return filepath.Join(base, path) }
}

// mode gives the first part of path this mode.
func mode(path string, mode os.FileMode) func(*testing.T, string) string {
	return func(t *testing.T, base string) string {
		first, _, _ := strings.Cut(path, "/")
		must(t, os.MkdirAll(filepath.Join(base, path), 0o700), os.Chmod(filepath.Join(base, first), mode))
		return filepath.Join(base, path)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestOpenFile opens what others may have prepared: nothing else is read, written
// or cut.
func TestOpenFile(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(t *testing.T, path, victim string)
		asRoot  bool
		want    string
	}{
		"missing":       {prepare: func(*testing.T, string, string) {}},
		"own":           {prepare: func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, []byte("x"), 0o600)) }},
		"readable":      {prepare: func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o666)) }},
		"link":          {prepare: func(t *testing.T, path, victim string) { must(t, os.Symlink(victim, path)) }, want: "symbolic link"},
		"dangling_link": {prepare: func(t *testing.T, path, victim string) { must(t, os.Symlink(victim+"2", path)) }, want: "symbolic link"},
		"directory":     {prepare: func(t *testing.T, path, _ string) { must(t, os.Mkdir(path, 0o700)) }, want: "directory"},
		"pipe":          {prepare: func(t *testing.T, path, _ string) { must(t, syscall.Mkfifo(path, 0o600)) }, want: path0},
		"of_somebody_else": {prepare: func(t *testing.T, path, _ string) {
			must(t, os.WriteFile(path, nil, 0o600), os.Chown(path, 12345, 12345))
		}, asRoot: true, want: "belongs to another user"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.asRoot && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			dir := t.TempDir()
			path, victim := filepath.Join(dir, path0), filepath.Join(dir, "victim.txt")
			must(t, os.WriteFile(victim, []byte("precious"), 0o600))
			test.prepare(t, path, victim)
			file, err := OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
			if test.want == "" {
				must(t, err)
				info, err := file.Stat()
				if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 0 {
					t.Errorf("the file: %v, %v", info, err)
				}
				must(t, file.Close())
			} else if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("OpenFile = %v, want %q", err, test.want)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
				t.Errorf("another file: %q, %v", b, err)
			}
			if _, err := os.Lstat(victim + "2"); err == nil {
				t.Error("another file was created")
			}
		})
	}
}

const path0 = "mns.log"
