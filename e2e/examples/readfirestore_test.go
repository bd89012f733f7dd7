//go:build unix

package examples

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/firestore"

	"example.com/pushinbox/shared/firestoredial"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/testkit/emulator"
)

// TestReadFirestore runs the example while messages are stored: it prints each once, a
// large one too, and many that arrive in one snapshot of its listener.
func TestReadFirestore(t *testing.T) {
	t.Parallel()
	host, project := emulator.Firestore(t), emulator.Project()
	command := filepath.Join(t.TempDir(), "readfirestore")
	if err := build(command, filepath.Join(root, "examples", "readfirestore")); err != nil {
		t.Fatal(err)
	}
	in, err := firestoreinbox.Open(t.Context(), firestoreinbox.Config{
		Project: project, Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour, EmulatorHost: host,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	client, err := firestoredial.Client(t.Context(), project, "", host, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var want []string
	// store stores messages in one transaction.
	store := func(n int, data string) {
		t.Helper()
		if err := client.RunTransaction(t.Context(), func(ctx context.Context, tx *firestore.Transaction) error {
			for range n {
				m := &inbox.Message{Source: inbox.SourcePubSub, Subscription: "projects/p/subscriptions/s", MessageID: fmt.Sprint(len(want)), Data: []byte(data)}
				id, fields, _, err := in.Draft(ctx, m)
				if err != nil {
					return err
				}
				if err := tx.Create(client.Collection("messages").Doc(id), fields); err != nil {
					return err
				}
				want = append(want, fmt.Sprintf("%s %s %d bytes\n", id, m.MessageID, len(data)))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}

	out := new(program)
	cmd := exec.Command(command)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "FIRESTORE_EMULATOR_HOST="+host, "GOOGLE_CLOUD_PROJECT="+project), out, out
	store(10, "hello")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	for _, more := range []struct {
		n    int
		data string
	}{{0, ""}, {25, "a burst"}, {1, strings.Repeat("large ", 400_000)}, {60, ""}} {
		store(more.n, more.data)
		out.prints(t, want[len(want)-1])
	}
	printed := out.printed()
	for _, line := range want {
		if n := strings.Count(printed, line); n != 1 {
			t.Errorf("%d times it prints %s", n, line)
		}
	}
}
