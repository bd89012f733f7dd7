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
)

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

// check ends the child with an error.
func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}
