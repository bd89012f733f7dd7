package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxHandedOver is how much is kept for a reader that does not read, in bytes.
	maxHandedOver = 1 << 20
	// closePatience is how long close waits for such a reader.
	closePatience = time.Second
)

// handOver is a writer that does not wait for whoever reads: a terminal that stands
// still must not stop the pushing. What it has no room for is left out, and how often
// is written once there is room again.
type handOver struct {
	out io.Writer
	// leftOut returns what to write in place of n writes.
	leftOut func(n int) string

	mu      sync.Mutex
	kept    bytes.Buffer
	missing int // writes that were left out after what is kept
	begun   bool
	ended   bool
	changed chan struct{} // has room for one
	done    chan struct{}
}

// newHandOver returns a handOver that keeps what is written until begin.
func newHandOver(out io.Writer, leftOut func(n int) string) *handOver {
	return &handOver{out: out, leftOut: leftOut, changed: make(chan struct{}, 1), done: make(chan struct{})}
}

// Write keeps b for the reader, or counts it.
func (h *handOver) Write(b []byte) (int, error) {
	h.mu.Lock()
	if h.kept.Len()+len(b) > maxHandedOver {
		h.missing++
	} else {
		h.tellMissing()
		h.kept.Write(b)
	}
	h.mu.Unlock()
	h.signal()
	return len(b), nil
}

func (h *handOver) tellMissing() {
	if h.missing > 0 {
		h.kept.WriteString(h.leftOut(h.missing))
		h.missing = 0
	}
}

func (h *handOver) signal() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// begin writes what comes first, and then what was written before and is from now on.
func (h *handOver) begin(first string) {
	fmt.Fprint(h.out, first)
	h.mu.Lock()
	h.begun = true
	h.mu.Unlock()
	go h.run()
}

func (h *handOver) run() {
	defer close(h.done)
	var piece bytes.Buffer
	for range h.changed {
		h.mu.Lock()
		h.tellMissing()
		piece, h.kept = h.kept, piece
		ended := h.ended
		h.mu.Unlock()
		_, _ = piece.WriteTo(h.out) // as where nobody looks at what Fprintf returns
		piece.Reset()
		if ended {
			return
		}
	}
}

// close has what is kept written, if it is read, and ends it. Nothing may be written
// any more.
func (h *handOver) close() {
	h.mu.Lock()
	begun := h.begun
	h.ended = true
	h.mu.Unlock()
	if !begun {
		return
	}
	h.signal()
	select {
	case <-h.done:
	case <-time.After(closePatience):
	}
}
