package receive

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
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
	if kind := os.Getenv("RECEIVE_MEMORY_CHILD"); kind != "" {
		serveForMemory(t, kind)
		return
	}
	for _, kind := range []string{"bolt", "firestore"} {
		t.Run(kind, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run", "^TestMemoryOfTheLargestPush$", "-test.v")
			cmd.Env = append(os.Environ(), "RECEIVE_MEMORY_CHILD="+kind)
			if kind == "firestore" {
				cmd.Env = append(cmd.Env, "FIRESTORE_EMULATOR_HOST="+emulator.Firestore(t))
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = stdin.Close()
				_ = cmd.Wait()
			}()
			var address, token string
			for s := bufio.NewScanner(out); s.Scan(); {
				if _, err := fmt.Sscanf(s.Text(), "SERVING %s %s", &address, &token); err == nil {
					break
				}
			}
			if address == "" {
				t.Fatal("the process does not serve")
			}
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
			peak, err := measure.PeakMemory(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("peak memory of the process: %d MiB", peak>>20)
			if peak > memoryLimit && !measure.RaceDetector() {
				t.Errorf("peak memory %d MiB, want at most %d", peak>>20, memoryLimit>>20)
			}
		})
	}
}

func serveForMemory(t *testing.T, kind string) {
	issuer, verifier := google.NewIssuer(t)
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
	h, err := New(Config{Audience: audience, ServiceAccount: pushAccount}, verifier, store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	token := google.Token(t, issuer, audience, pushAccount)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(listener, h) }()
	fmt.Printf("SERVING http://%s/ %s\n", listener.Addr(), token)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is done
	_ = store.Close()
}
