// Package recordstest is the conformance suite of delivery.Records. Every driver runs
// it from its own tests.
package recordstest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"example.com/pushinbox/shared/delivery"
)

// Run tests that the records of a driver fulfil the contract. place returns what
// opens records on a place that is empty at first, each time anew.
func Run(t *testing.T, place func(t *testing.T) (open func() delivery.Records)) {
	for name, run := range map[string]func(*testing.T, func() delivery.Records){
		"as_it_was_put": asItWasPut, "replaced": replaced, "apart": apart, "deleted": deleted, "at_once": atOnce, "context_ended": contextEnded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, place(t))
		})
	}
}

const subscription = "projects/p/subscriptions/inbox-push"

var at = time.Date(2026, 11, 26, 3, 4, 5, 678901000, time.UTC)

func operation() *delivery.Operation {
	config := make([]byte, 256) // every byte comes back
	for i := range config {
		config[i] = byte(i)
	}
	return &delivery.Operation{
		Kind: delivery.Pause, Subscription: subscription, Principal: "operator@example.com",
		At: at, LostFrom: at.Add(7 * 24 * time.Hour), PushConfig: config,
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, r delivery.Records, name string, want *delivery.Operation) {
	t.Helper()
	got, err := r.Get(t.Context(), name)
	check(t, err)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the record of %s (-want +got):\n%s", name, diff)
	}
}

func asItWasPut(t *testing.T, open func() delivery.Records) {
	want(t, open(), subscription, nil)
	check(t, open().Put(t.Context(), operation()))
	want(t, open(), subscription, operation()) // whoever opens it next has it
}

func replaced(t *testing.T, open func() delivery.Records) {
	r := open()
	check(t, r.Put(t.Context(), operation()))
	// Nothing of the earlier record shines through.
	second := &delivery.Operation{Kind: delivery.Redrive, Subscription: subscription, Principal: "other@example.com", At: at.Add(time.Hour)}
	check(t, r.Put(t.Context(), second))
	want(t, r, subscription, second)
}

func apart(t *testing.T, open func() delivery.Records) {
	r := open()
	check(t, r.Put(t.Context(), operation()))
	want(t, r, subscription+"2", nil)
	check(t, r.Delete(t.Context(), subscription+"2"))
	want(t, r, subscription, operation())
}

func deleted(t *testing.T, open func() delivery.Records) {
	r := open()
	check(t, r.Delete(t.Context(), subscription)) // there is none
	check(t, r.Put(t.Context(), operation()))
	check(t, r.Delete(t.Context(), subscription))
	want(t, open(), subscription, nil)
}

// atOnce has several write the same record: whoever reads it finds a whole one.
func atOnce(t *testing.T, open func() delivery.Records) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			r := open()
			o := operation()
			o.Principal = fmt.Sprintf("operator-%d@example.com", i)
			if err := r.Put(t.Context(), o); err != nil {
				t.Error(err)
			}
			if got, err := r.Get(t.Context(), subscription); err != nil || got == nil || len(got.PushConfig) != len(o.PushConfig) {
				t.Errorf("while others write: %+v, %v", got, err)
			}
		})
	}
	all.Wait()
}

func contextEnded(t *testing.T, open func() delivery.Records) {
	r := open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Get(ctx, subscription); err == nil {
		t.Error("Get goes on after its context ended")
	}
	if err := r.Put(ctx, operation()); err == nil {
		t.Error("Put goes on after its context ended")
	}
	if err := r.Delete(ctx, subscription); err == nil {
		t.Error("Delete goes on after its context ended")
	}
}
