package receive

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/measure"
)

// memoryLimit is what one push of Pub/Sub's largest message may make a process
// need at its peak, all of it counted: code, runtime, connections.
const memoryLimit = 64 << 20

// TestMemoryOfTheLargestPush pushes 10 MB to a process of its own, which does
// nothing else, and reads from the system how large it has been.
func TestMemoryOfTheLargestPush(t *testing.T) {
	measure.SkipRace(t, "the race detector takes several times the memory")
	if kind := measure.ChildOf(); kind != "" {
		serveForMemory(t, kind)
		return
	}
	for _, kind := range []string{"bolt", "firestore"} {
		t.Run(kind, func(t *testing.T) {
			var environment []string
			if kind == "firestore" {
				environment = append(environment, "FIRESTORE_EMULATOR_HOST="+emulator.Firestore(t))
			}
			pid, address, words := measure.Child(t, "TestMemoryOfTheLargestPush", kind, environment...)
			token := words[0]
			body := fmt.Sprintf(`{"message":{"messageId":"large","data":%q},"subscription":"projects/p/subscriptions/%s"}`,
				base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("0123456789"), 999_800)), kind)
			push := func() int {
				r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+token)
				r.Header.Set("Content-Type", "application/json")
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				return resp.StatusCode
			}
			// A cold emulator may need longer than a push has; Pub/Sub would
			// deliver again, and so does this.
			status := push()
			for tries := 1; status == http.StatusServiceUnavailable && tries < 5; tries++ {
				status = push()
			}
			if again := push(); status != http.StatusNoContent || again != http.StatusNoContent {
				t.Fatalf("answered %d, and %d to a redelivery", status, again)
			}
			peak, err := measure.PeakMemory(pid)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("peak memory of the process: %d MiB", peak>>20)
			if peak > memoryLimit {
				t.Errorf("peak memory %d MiB, want at most %d", peak>>20, memoryLimit>>20)
			}
		})
	}
}

func serveForMemory(t *testing.T, kind string) {
	issuer, verifier := google.Issuer(t)
	var store inbox.Inbox
	var err error
	if kind == "bolt" {
		store, err = boltinbox.Open(filepath.Join(t.TempDir(), "inbox.db"), nil)
	} else {
		store, err = firestoreinbox.Open(t.Context(), firestoreinbox.Config{
			Project: "memory", Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour,
			EmulatorHost: os.Getenv("FIRESTORE_EMULATOR_HOST"),
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	h, err := pushendpoint.New(pushendpoint.Config{Audience: audience, ServiceAccount: pushAccount}, verifier, store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	measure.Serve(t, h, google.Token(t, issuer, audience, pushAccount))
	_ = store.Close()
}
