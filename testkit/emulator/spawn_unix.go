//go:build unix

package emulator

import (
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// guard runs its arguments in the background and kills its whole process group
// when they end, or when its standard input does. This process holds the other end of that pipe,
// so the emulator goes when this process goes: returned, panicked, or killed
// with -9. (Linux's parent-death signal would do for Java alone, but it fires
// when the thread ends that started it, and gcloud starts Java as a
// grandchild.)
const guard = `{ "$@" </dev/null; kill -9 0; } &
read _
kill -9 0`

// spawn runs argv. stop kills it with all its children and returns when they
// are gone; exited is closed when it is gone, for whatever reason.
func spawn(argv []string, output io.Writer) (stop func(), exited <-chan struct{}, err error) {
	cmd := exec.Command("/bin/sh", append([]string{"-c", guard, "guard"}, argv...)...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the tests
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is always killed; its output says the rest
	}()
	return sync.OnceFunc(func() {
		_ = pipe.Close()
		<-done
	}), done, nil
}
