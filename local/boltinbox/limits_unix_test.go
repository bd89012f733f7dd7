//go:build unix

package boltinbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/measure"
)

func init() {
	childTasks["fill"] = fill
	beforeOpen["as_nobody"] = becomeNobody
	beforeOpen["little_room"] = littleRoom
}

// TestNoPermission opens what another user may not read or write.
func TestNoPermission(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// The child is another user and has to get here.
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "secret.db")
	readable := filepath.Join(dir, "readable.db")
	for path, mode := range map[string]os.FileMode{secret: 0, readable: 0o444} {
		in := mustOpen(t, path, nil)
		if err := errors.Join(in.Close(), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	directory := filepath.Join(dir, "directory")
	if err := os.Mkdir(directory, 0o555); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{secret, readable, filepath.Join(directory, "inbox.db")} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childPath+"="+path, childTask+"=as_nobody")
		out, err := cmd.CombinedOutput()
		want := "error: boltinbox: open " + path + ": permission denied\n"
		if err == nil || string(out) != want {
			t.Errorf("Open without permission: %v, %q, want %q", err, out, want)
		}
	}
}

// becomeNobody gives up root's right to read and write everything.
func becomeNobody() {
	if os.Geteuid() == 0 {
		const nobody = 65534
		check(syscall.Setgroups(nil))
		check(syscall.Setgid(nobody))
		check(syscall.Setuid(nobody))
	}
}

// TestDiskFull has a child run into a limit on the size of its files, as on a
// full disk: Put says so, and goes on when there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inbox.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childPath+"="+path, childTask+"=fill")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "ok\n") {
		t.Fatalf("the child: %v\n%s", err, out)
	}
	in := mustOpen(t, path, nil)
	defer in.Close()
	var n int
	if _, err := fmt.Sscan(string(out), &n); err != nil || n == 0 {
		t.Fatalf("the child said %q", out)
	}
	if all := list(t, in); len(all) != n {
		t.Errorf("%d messages are listed, %d were acknowledged", len(all), n)
	}
}

// fill is TestDiskFull's child. It prints how many Puts were acknowledged.
func fill(in *Inbox) {
	signal.Ignore(syscall.SIGXFSZ)
	var room syscall.Rlimit
	check(syscall.Getrlimit(syscall.RLIMIT_FSIZE, &room))
	info, err := in.file.Stat()
	check(err)
	full := room
	full.Cur = uint64(info.Size()) + 2_000_000
	check(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full))

	ctx, acknowledged, refused := context.Background(), 0, 0
	for i := 0; refused < 5; i++ {
		stored, err := in.Put(ctx, message(fmt.Sprint("m", i), 1_000_000))
		switch {
		case err == nil && stored:
			acknowledged++
		case errors.Is(err, inbox.ErrUnavailable):
			refused++
		default:
			check(fmt.Errorf("Put = %v, %w, want ErrUnavailable", stored, err))
		}
		if i > 1000 {
			check(errors.New("the limit has no effect"))
		}
	}
	all, err := listAll(ctx, in)
	check(err)
	if len(all) != acknowledged {
		check(fmt.Errorf("%d messages are listed, %d were acknowledged", len(all), acknowledged))
	}
	check(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &room))
	for i := range 5 {
		stored, err := in.Put(ctx, message(fmt.Sprint("later", i), 100_000))
		check(err)
		if stored {
			acknowledged++
		}
	}
	check(in.Close())
	fmt.Println(acknowledged)
	fmt.Println("ok")
}

// TestUpgradeDiskFull has a child run into a limit during an upgrade: the old file
// stays as it was, and what is begun is gone.
func TestUpgradeDiskFull(t *testing.T) {
	measure.SkipRace(t, "nothing in it is concurrent")
	t.Parallel()
	path, want := version1(t)
	before := readFile(t, path)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childPath+"="+path, childTask+"=little_room")
	out, err := cmd.CombinedOutput()
	if says := string(out); err == nil || !strings.Contains(says, path+" cannot be upgraded from format 1 to 3, and is as it was") || strings.Count(says, "\n") != 1 {
		t.Errorf("the child: %v, %s", err, says)
	}
	if found, err := filepath.Glob(path + "*"); err != nil || len(found) != 1 {
		t.Errorf("the files are %v, %v, want the old one", found, err)
	}
	if string(readFile(t, path)) != string(before) {
		t.Error("the old file is not as it was")
	}
	in := mustOpen(t, path, nil)
	defer in.Close()
	sameAs(t, in, want)
}

// littleRoom limits the size of the files that this process writes.
func littleRoom() {
	signal.Ignore(syscall.SIGXFSZ)
	check(syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 200_000, Max: 200_000}))
}
