package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/measure"
)

// memoryLimit is the memory of a deployed instance.
const memoryLimit = 512 << 20

// TestMemoryOfLargeAnswers asks a process of its own for the largest answers there
// are, as many at once as an instance has requests: each is whole, or 503.
func TestMemoryOfLargeAnswers(t *testing.T) {
	measure.SkipRace(t, "the race detector takes several times the memory")
	if measure.ChildOf() != "" {
		serveForMemory(t)
		return
	}
	pid, address, words := measure.Child(t, "TestMemoryOfLargeAnswers", "console", "GOMEMLIMIT=450MiB")
	token, id := words[0], words[1]
	ask := func(path, accept string) (status, size int, err error) {
		r, err := http.NewRequest(http.MethodGet, address+path, nil)
		if err != nil {
			return 0, 0, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, 0, err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			err = errors.Join(err, errors.New("no Retry-After"))
		}
		return resp.StatusCode, int(n), err
	}
	for _, test := range []struct{ path, accept string }{
		{"messages/" + id + "/data", ""},
		{"messages/" + id, ""},
		{"messages/" + id, "text/html"},
		{"messages?pageSize=500", ""},
		{"?pageSize=500", "text/html"},
	} {
		status, want, err := ask(test.path, test.accept)
		if status != http.StatusOK || err != nil {
			t.Fatalf("%s: alone it is answered %d, %v", test.path, status, err)
		}
		var mu sync.Mutex
		counts := map[int]int{}
		var wg sync.WaitGroup
		for range measure.Size(24, 80) {
			wg.Go(func() {
				status, size, err := ask(test.path, test.accept)
				if err != nil || status == http.StatusOK && size != want || status != http.StatusOK && status != http.StatusServiceUnavailable {
					t.Errorf("%s: answered %d with %d bytes, %v, want %d bytes", test.path, status, size, err, want)
				}
				mu.Lock()
				counts[status]++
				mu.Unlock()
			})
		}
		wg.Wait()
		peak, err := measure.PeakMemory(pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s (%s): %d bytes each, statuses %v, peak so far %d MiB", test.path, test.accept, want, counts, peak>>20)
		if counts[http.StatusOK] == 0 || peak > memoryLimit {
			t.Errorf("%s: %d answers, peak memory %d MiB, want at most %d", test.path, counts[http.StatusOK], peak>>20, memoryLimit>>20)
		}
	}
}

func serveForMemory(t *testing.T) {
	issuer, verifier := google.Issuer(t)
	store, err := boltinbox.Open(filepath.Join(t.TempDir(), "inbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	large := &inbox.Message{Source: "pubsub", MessageID: "large", Data: bytes.Repeat([]byte("0123456789"), inbox.MaxDataSize/10)}
	messages := []*inbox.Message{large}
	attributes := map[string]string{}
	for i := range 100 {
		attributes[fmt.Sprintf("%0256d", i)] = strings.Repeat("v", 1024)
	}
	for i := range 100 {
		messages = append(messages, &inbox.Message{Source: "pubsub", MessageID: fmt.Sprint(i), Data: make([]byte, 100), Attributes: attributes})
	}
	for _, m := range messages {
		if _, err := store.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	h, err := New(both, verifier, store, &topic{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	measure.Serve(t, h, google.Token(t, issuer, audience, reader), inbox.ID("pubsub", "", "large"))
	_ = store.Close()
}
