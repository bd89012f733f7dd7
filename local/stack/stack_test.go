package stack

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/shared/settings"
)

// options are those of a run of its own on a free port.
func options(t *testing.T) Options {
	t.Helper()
	s, err := settings.Parse[Settings](map[string]string{"GOOGLE_CLOUD_PROJECT": "p"})
	if err != nil {
		t.Fatal(err)
	}
	return Options{Settings: s, Data: t.TempDir(), Pushes: TerraformDefaults(), Log: slog.New(slog.DiscardHandler)}
}

func TestStartAfterClose(t *testing.T) {
	t.Parallel()
	o := options(t)
	for range 2 {
		s, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get(s.URL + "/messages")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
		}
		_ = resp.Body.Close()
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		if resp, err := http.Get(s.URL + "/messages"); err == nil {
			t.Errorf("answered %d after Close", resp.StatusCode)
		}
	}
}

// TestFailedStartLeavesNothing holds what was started before the failure to be
// closed again.
func TestFailedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	o := options(t)
	// The log of the function mns, which is opened last, is a directory.
	blocked := filepath.Join(o.Data, MNSLog)
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), o); err == nil {
		t.Fatal(s.Close())
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), o) // fails where the inbox is still locked
	if err != nil {
		t.Fatal(err)
	}
	o.Data = t.TempDir()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if o.Port, err = net.LookupPort("tcp", port); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "choose another with --port") {
		t.Errorf("on a taken port: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsEveryPart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &Stack{}
		broken := errors.New("broken")
		release := make(chan struct{})
		var ended []string
		s.onClose("first", func() error { ended = append(ended, "first"); return nil })
		s.onClose("second", func() error { ended = append(ended, "second"); return broken })
		s.onClose("hanging", func() error { <-release; return nil })
		s.onClose("last", func() error { ended = append(ended, "last"); return nil })
		start := time.Now()
		err := s.Close()
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "hanging did not end within 10s") {
			t.Errorf("the error is %v", err)
		}
		if took := time.Since(start); took != closeLimit {
			t.Errorf("took %v", took)
		}
		if !slices.Equal(ended, []string{"last", "second", "first"}) {
			t.Errorf("ended %v", ended)
		}
		close(release)
	})
}

// TestPubSub has another port in place of a taken one, and the settings of the
// inbox's subscription changed by the next run on the same data.
func TestPubSub(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	o := options(t)
	o.PubSubPort = listener.Addr().(*net.TCPAddr).Port
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if s.PubSubAddr == listener.Addr().String() {
		t.Errorf("Pub/Sub is at %s, which is taken", s.PubSubAddr)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.Pushes.AckDeadlineSeconds, o.Pushes.DeadLetterPolicy.MaxDeliveryAttempts = 77, 7
	o.Pushes.EnableMessageOrdering = true // nothing is undelivered
	before := s.URL
	if s, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	got := s.Pushes
	if got.AckDeadlineSeconds != 77 || got.DeadLetterPolicy.MaxDeliveryAttempts != 7 || !got.EnableMessageOrdering ||
		got.PushConfig.PushEndpoint != s.URL+"/receive/wrapped" || s.URL == before {
		t.Errorf("at %s: %v", s.URL, got)
	}
}
