package pubsubserver

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/testkit/measure"
)

// TestMillion has messages of 1 KiB wait, 1,000,000 of them with -full, opens the
// file again, and lets them through: memory stays bounded, and the file is used
// again. A process of its own does each half, so that its memory is its own.
func TestMillion(t *testing.T) {
	measure.SkipRace(t, "the race detector takes several times the memory")
	n := measure.Size(100_000, 1_000_000)
	if what := measure.ChildOf(); what != "" {
		half, size, _ := strings.Cut(what, " ")
		n, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		path := os.Getenv(millionPath)
		var figures []string
		if half == "publish" {
			figures = publishMillion(t, path, n)
		} else {
			figures = consumeMillion(t, path, n)
		}
		measure.Serve(t, http.NotFoundHandler(), figures...)
		return
	}
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pubsub.db")
	for _, half := range []string{"publish", "consume"} {
		t.Run(half, func(t *testing.T) {
			_, _, figures := measure.Child(t, "TestMillion", fmt.Sprint(half, " ", n), millionPath+"="+path)
			t.Log(half, figures)
			for _, figure := range figures {
				name, text, _ := strings.Cut(figure, "=")
				value, err := strconv.ParseFloat(text, 64)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case strings.HasPrefix(name, "MB") && value > float64(measure.Size(100, 200)):
					t.Errorf("%s: %.0f MB of anonymous memory", name, value)
				case name == "fileGrowth" && value > 1.1:
					t.Errorf("the file is %.2f times as large after as many messages again", value)
				case name == "gone" && value != 0:
					t.Errorf("%.0f messages are gone", value)
				}
			}
		})
	}
}

const millionPath = "PUBSUBSERVER_TEST_MILLION_PATH"

// anon says how much memory this process has.
func anon(t *testing.T, when string) string {
	n, err := measure.AnonMemory(os.Getpid())
	if err != nil {
		t.Skip(err)
	}
	return fmt.Sprintf("MB-%s=%d", when, n/1e6)
}

func openFile(t testing.TB, path string) *Server {
	t.Helper()
	s, err := Open(Options{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	_, err1 := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicT})
	_, err2 := s.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: subS, Topic: topicT})
	if (err1 == nil) != (err2 == nil) { // there already or not
		t.Fatal(err1, err2)
	}
	return s
}

func publishThousands(t testing.TB, s *Server, n int) {
	t.Helper()
	batch := slicesRepeat([]*pubsubpb.PubsubMessage{{Data: make([]byte, 1024)}}, 1000)
	for range n / len(batch) {
		if _, err := s.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicT, Messages: batch}); err != nil {
			t.Fatal(err)
		}
	}
}

// consume acknowledges all messages and returns how many there were.
func consume(t testing.TB, s *Server) (n int) {
	t.Helper()
	for {
		r, err := s.Pull(t.Context(), pullNow(subS, 1000))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.ReceivedMessages) == 0 {
			return n
		}
		n += len(r.ReceivedMessages)
		if _, err := s.Acknowledge(t.Context(), &pubsubpb.AcknowledgeRequest{Subscription: subS, AckIds: ackIDs(r.ReceivedMessages)}); err != nil {
			t.Fatal(err)
		}
	}
}

func publishMillion(t *testing.T, path string, n int) []string {
	s := openFile(t, path)
	publishThousands(t, s, n)
	return []string{anon(t, "published")}
}

func consumeMillion(t *testing.T, path string, n int) []string {
	s := openFile(t, path)
	figures := []string{anon(t, "opened")}
	before := fileSize(t, path)
	figures = append(figures, fmt.Sprintf("gone=%d", n-consume(t, s)), anon(t, "consumed"))
	publishThousands(t, s, n)
	return append(figures, anon(t, "published-again"), fmt.Sprintf("fileGrowth=%.2f", fileSize(t, path)/before))
}

func fileSize(t *testing.T, path string) float64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return float64(info.Size())
}

// BenchmarkCommitInUsedFile compares the publishing of one message, durably, in a
// file through which 100,000 messages (1,000,000 with -full) went with that in a
// new one. Both take turns.
func BenchmarkCommitInUsedFile(b *testing.B) {
	open := func(name string) *Server {
		s := openFile(b, filepath.Join(b.TempDir(), name))
		s.db.NoSync = false
		return s
	}
	used, fresh := open("used"), open("fresh")
	publishThousands(b, used, measure.Size(100_000, 1_000_000))
	consume(b, used)
	message := []*pubsubpb.PubsubMessage{{Data: make([]byte, 1024)}}
	one := func(s *Server) float64 {
		begun := time.Now()
		if _, err := s.Publish(b.Context(), &pubsubpb.PublishRequest{Topic: topicT, Messages: message}); err != nil {
			b.Fatal(err)
		}
		return time.Since(begun).Seconds()
	}
	var ratios []float64
	for b.Loop() {
		ratios = append(ratios, one(used)/one(fresh))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
}
