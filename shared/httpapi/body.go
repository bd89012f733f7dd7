package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"example.com/pushinbox/shared/problem"
)

const (
	// bodyTime is how long a body may take to arrive, unless the request's context
	// ends sooner.
	bodyTime = 30 * time.Second
	// smallSize is the size of what never waits behind something large, in bytes
	// of a body or an answer.
	smallSize = 256 << 10
	// reserveTime is how long a request waits for memory.
	reserveTime = 10 * time.Second
)

// CheckSize returns a 413 when r announces a body of more than limit bytes, so
// that an oversized request costs nothing before its sender is known.
func CheckSize(r *http.Request, limit int64) error {
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	return nil
}

// ReadBody reads the whole body of r, once, within 30 seconds or the time that
// r's context leaves. More than limit bytes is a 413, a body that ends early a
// 400, and so is one that does not arrive in time. weight is how many bytes of
// memory the request needs for each byte of its body while it is handled: they are
// reserved until the handler returns, and a request that finds no room is a 503.
func ReadBody(w http.ResponseWriter, r *http.Request, limit, weight int64) ([]byte, error) {
	if err := CheckSize(r, limit); err != nil {
		return nil, err
	}
	conn := http.NewResponseController(w)
	deadline := time.Now().Add(bodyTime)
	if d, ok := r.Context().Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	// A writer without deadlines is a test's, whose body is all there.
	_ = conn.SetReadDeadline(deadline)
	b, err := readBody(r.Context(), http.MaxBytesReader(w, r.Body, limit), r.ContentLength, limit, weight)
	if tooMany := (*http.MaxBytesError)(nil); errors.As(err, &tooMany) {
		return nil, tooLarge(limit)
	}
	var own *problem.Error
	switch timeout := (interface{ Timeout() bool })(nil); {
	case err == nil:
		// With the deadline left as it is, the sender would seem to have gone away
		// when it passes.
		_ = conn.SetReadDeadline(time.Time{})
		return b, nil
	case errors.As(err, &own):
		return nil, err
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, &problem.Error{Status: http.StatusBadRequest, Reason: "body_late", Detail: "the request body did not arrive in time; send it again, faster", Cause: err}
	}
	return nil, &problem.Error{Status: http.StatusBadRequest, Reason: "body_cut_off", Detail: "the request body ended early", Cause: err}
}

// readBody reserves memory for a body and reads it. One of unknown size is small
// until it proves to be large.
func readBody(ctx context.Context, body io.Reader, size, limit, weight int64) ([]byte, error) {
	if size >= 0 {
		if err := Reserve(ctx, size, weight); err != nil {
			return nil, err
		}
		b := make([]byte, size)
		_, err := io.ReadFull(body, b)
		return b, err
	}
	if err := Reserve(ctx, min(smallSize-1, limit), weight); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(body, smallSize))
	if err != nil || len(b) < smallSize {
		return b, err
	}
	// io.ReadAll grows its buffer by copying it: twice the size at the worst.
	if err := Reserve(ctx, 2*limit, weight); err != nil {
		return nil, err
	}
	rest, err := io.ReadAll(body)
	return append(b, rest...), err
}

func tooLarge(limit int64) error {
	return &problem.Error{
		Status: http.StatusRequestEntityTooLarge,
		Detail: fmt.Sprintf("the body is larger than %d bytes", limit),
	}
}

type budgetKey struct{}

// WithBudget returns a context whose requests reserve from b in place of the
// process's budget.
func WithBudget(ctx context.Context, b *Budget) context.Context {
	return context.WithValue(ctx, budgetKey{}, b)
}

// Reserve reserves memory of this instance for size bytes of a body or an answer,
// each of which takes weight bytes while the request is handled, until its
// handler returns. When there is no room within ten seconds, or the time that ctx
// leaves, its error is a 503. Less than 256 KiB has room of its own and never
// waits for what is larger. Outside of a request that Handle serves it does nothing.
func Reserve(ctx context.Context, size, weight int64) error {
	l, ok := ctx.Value(lineKey{}).(*line)
	if !ok {
		return nil
	}
	b, ok := ctx.Value(budgetKey{}).(*Budget)
	if !ok {
		b = memory()
	}
	release, err := b.reserve(ctx, size, weight)
	if err != nil {
		return &problem.Error{Status: http.StatusServiceUnavailable, Reason: "memory", Detail: "the service handles too many requests at the moment; try again", Cause: err}
	}
	l.reserved = append(l.reserved, release)
	return nil
}

// Budget is the memory for bodies and answers of one instance. What is large
// waits in line, first come, first served; what is small has a third of it to
// itself.
type Budget struct {
	small, large         *semaphore.Weighted
	smallBytes, allBytes int64
}

// memory is the budget of this process. Two thirds of what Go may use are for
// bodies and answers, the rest is for the clients, their buffers and garbage.
var memory = sync.OnceValue(func() *Budget {
	limit := debug.SetMemoryLimit(-1) // GOMEMLIMIT, which Terraform sets from the size of an instance
	if limit == math.MaxInt64 {
		limit = 448 << 20 // as for an instance of 512 MiB
	}
	return NewBudget(limit / 3 * 2)
})

// NewBudget returns a Budget of this many bytes.
func NewBudget(bytes int64) *Budget {
	small := bytes / 3
	return &Budget{
		small: semaphore.NewWeighted(small), smallBytes: small,
		large: semaphore.NewWeighted(bytes - small), allBytes: bytes,
	}
}

func (b *Budget) reserve(ctx context.Context, size, weight int64) (release func(), err error) {
	pool, room := b.large, b.allBytes-b.smallBytes
	if size < smallSize {
		pool, room = b.small, b.smallBytes
	}
	// Whatever a request needs, alone it may go on.
	n := min(max(size, 1<<10)*weight, room)
	ctx, cancel := context.WithTimeout(ctx, reserveTime)
	defer cancel()
	if err := pool.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { pool.Release(n) }, nil
}
