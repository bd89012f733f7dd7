package pubsubserver_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/local/pubsubserver"
)

// TestFileTakenAway takes the file away under a running server: nothing that is
// published after that is acknowledged.
func TestFileTakenAway(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(path string) error{
		"deleted":  os.Remove,
		"moved":    func(path string) error { return os.Rename(path, path+".old") },
		"replaced": func(path string) error { _ = os.Remove(path); return os.WriteFile(path, []byte("other"), 0o600) },
		"cut":      func(path string) error { return os.Truncate(path, 0) },
		"directory_deleted": func(path string) error {
			return os.RemoveAll(filepath.Dir(path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "data", "pubsub.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			s, err := pubsubserver.Open(pubsubserver.Options{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			publish := func() error {
				_, err := s.Publish(context.Background(), &pubsubpb.PublishRequest{Topic: "projects/p/topics/topic", Messages: []*pubsubpb.PubsubMessage{{Data: []byte("x")}}})
				return err
			}
			if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/topic"}); err != nil {
				t.Fatal(err)
			}
			if err := publish(); err != nil {
				t.Fatal(err)
			}
			if err := take(path); err != nil {
				t.Fatal(err)
			}
			if err := publish(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), "no longer at its path") {
				t.Errorf("publishing is answered %v", err)
			}
		})
	}
}

// TestOpenRefuses opens files that are damaged or are not the server's to follow.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "pubsub.db")
	s, err := pubsubserver.Open(pubsubserver.Options{Path: good})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/topic"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"link":     func(path string) error { return os.Symlink(good, path) },
		"garbage":  func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("garbage ", 4096)), 0o600) },
		"cut":      func(path string) error { return os.WriteFile(path, b[:3*4096], 0o600) },
		"one_page": func(path string) error { return os.WriteFile(path, b[:4096], 0o600) },
		"pages_of_zeros": func(path string) error {
			c := append([]byte(nil), b...)
			clear(c[2*4096:])
			return os.WriteFile(path, c, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "pubsub.db")
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			s, err := pubsubserver.Open(pubsubserver.Options{Path: path})
			if err == nil {
				_ = s.Close()
				t.Fatal("it is opened")
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%v does not name the file", err)
			}
		})
	}
}
