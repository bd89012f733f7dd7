package groupcommit_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"example.com/pushinbox/shared/inbox/groupcommit"
)

// A hundred writers share commits, at most two of them at the same time. How
// many commits there are depends on how long each lasts.
func Example() {
	var mu sync.Mutex
	durable := map[int]bool{}
	commit := func(_ context.Context, items []int) []error {
		mu.Lock()
		defer mu.Unlock()
		for _, item := range items {
			durable[item] = true
		}
		return nil // no item failed
	}
	group, err := groupcommit.New(commit, groupcommit.Options{MaxItems: 500, MaxBytes: 9 << 20, InFlight: 2})
	if err != nil {
		log.Fatal(err)
	}

	var writers sync.WaitGroup
	for n := range 100 {
		writers.Go(func() {
			// Do returns once this item is durable.
			if err := group.Do(context.Background(), n, 8); err != nil {
				log.Print(err)
			}
		})
	}
	writers.Wait()
	group.Close()
	fmt.Println(len(durable))
	// Output: 100
}
