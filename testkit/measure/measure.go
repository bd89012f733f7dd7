// Package measure is what tests that measure, or that kill processes at random,
// have in common: the flags -full and -seed, and what the system says of a
// process.
//
// By default such a test runs at about a tenth of its size with the seed 1, so
// that every run of the tests is short and makes the same choices.
package measure

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	full = flag.Bool("full", false, "run at full size, which takes minutes, in place of about a tenth")
	seed = flag.Uint64("seed", 0, "make random choices with this seed `N`, in place of 1")
)

// Full is whether -full was given.
func Full() bool { return *full }

// Size returns the size to run at: all with -full, and tenth without.
func Size[T any](tenth, all T) T {
	if *full {
		return all
	}
	return tenth
}

// Seed returns the seed of random choices.
func Seed() uint64 { return max(*seed, 1) }

// Seeds returns the seeds to run with: the one of -seed, or else 1, and with
// -full 1 to n.
func Seeds(n uint64) []uint64 {
	if *seed != 0 || !*full {
		return []uint64{Seed()}
	}
	var all []uint64
	for s := range n {
		all = append(all, s+1)
	}
	return all
}

// Rand returns a source of random choices that begins with Seed. It may be used
// by several goroutines at once, whose order is then the system's.
func Rand() *rand.Rand { return rand.New(&locked{source: rand.NewPCG(Seed(), 0)}) }

type locked struct {
	mu     sync.Mutex
	source rand.Source
}

func (l *locked) Uint64() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.source.Uint64()
}

// PeakMemory returns the largest resident size, in bytes, that the process has
// had. The error wraps [os.ErrNotExist] where the system is not Linux.
func PeakMemory(pid int) (int, error) { return memory(pid, "VmHWM:") }

// AnonMemory returns the memory, in bytes, that the process has now and that is not
// part of a file. Its error is that of PeakMemory.
func AnonMemory(pid int) (int, error) { return memory(pid, "RssAnon:") }

func memory(pid int, field string) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, value, _ := strings.Cut(string(status), field)
	var kib int
	_, err = fmt.Sscan(value, &kib)
	return kib << 10, err
}

// CPU returns the processor time that the threads of the process have used. Its
// error is that of PeakMemory.
func CPU(pid int) (used time.Duration, err error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, thread.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return 0, err
		}
		var ns int64
		if _, err := fmt.Sscan(string(stat), &ns); err != nil {
			return 0, err
		}
		used += time.Duration(ns)
	}
	return used, nil
}

// SkipRace skips a test under the race detector, which makes a test slower and takes several
// times the memory, for the reason that why gives. It belongs in the first two lines of the
// test, where the last step of .ci/run looks for what to run without.
func SkipRace(tb testing.TB, why string) {
	tb.Helper()
	info, ok := debug.ReadBuildInfo()
	if ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		tb.Skip(why + ": .ci/run runs it without the race detector")
	}
}
