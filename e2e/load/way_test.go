package load

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/port"
)

var before = flag.String("before", "", "measure the pushinbox of this `file` beside the one of this source")

// local is a running "pushinbox local".
type local struct {
	testing.TB
	url    string
	pid    int
	acked  atomic.Int64 // pushes that it says were answered 204
	client *http.Client
	// publishToken and receiveToken are the credentials of a publisher and of Pub/Sub.
	publishToken, receiveToken string
	next                       atomic.Int64
	first                      chan string   // gets the first line
	started                    time.Duration // until it answered
	stop                       func()
}

// startLocal runs a pushinbox until the test ends.
func startLocal(tb testing.TB, file string, args ...string) *local {
	tb.Helper()
	number := port.Reserve(tb)
	cmd := exec.Command(file, append([]string{"local", "--port", number, "--data", tb.TempDir()}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	l := &local{TB: tb, url: "http://127.0.0.1:" + number, pid: cmd.Process.Pid, first: make(chan string, 1), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		l.count(out)
	}()
	l.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-read
		_ = cmd.Wait()
	})
	tb.Cleanup(l.stop)
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	for err = errors.New("not tried"); err != nil && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		_, err = l.get("/")
	}
	l.started = time.Since(begun)
	if err == nil {
		l.publishToken, err = l.get("/local/token?for=publish")
	}
	if err == nil {
		l.receiveToken, err = l.get("/local/token?for=receive")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// cpu returns the processor time that the process has used.
func (l *local) cpu() time.Duration {
	used, err := measure.CPU(l.pid)
	if err != nil {
		l.Skip(err)
	}
	return used
}

// count reads the lines of the pushes.
func (l *local) count(out io.Reader) {
	buffer := make([]byte, 64<<10)
	const line = "\n<-- 204"
	kept, lines := 0, 0
	for {
		n, err := out.Read(buffer[kept:])
		n += kept
		if first, _, ok := bytes.Cut(buffer[:n], []byte("\n")); ok && lines == 0 {
			l.first <- string(first)
			lines++
		}
		l.acked.Add(int64(bytes.Count(buffer[:n], []byte(line))))
		if err != nil {
			return
		}
		// A line that is cut in two is counted with its other half.
		kept = min(n, len(line)-1)
		copy(buffer, buffer[n-kept:n])
	}
}

func (l *local) get(path string) (string, error) {
	answer, err := l.client.Get(l.url + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

func (l *local) post(path, token string, body []byte, want int) {
	r, err := http.NewRequest(http.MethodPost, l.url+path, bytes.NewReader(body))
	if err != nil {
		l.Error(err)
		return
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	answer, err := l.client.Do(r)
	if err != nil {
		l.Error(err)
		return
	}
	said, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	if answer.StatusCode != want {
		l.Errorf("%s: %s %s", path, answer.Status, said)
	}
}

// each calls f n times, callers at a time, and returns how many times a second.
func each(callers, n int, f func()) float64 {
	begun := time.Now()
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				f()
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(begun).Seconds()
}

var kilobyte = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("0123456789abcdef"), 64))

// receive returns how many pushes a second the function receive stores that 64
// callers send.
func (l *local) receive(n int) float64 {
	return each(64, n, func() {
		body := fmt.Appendf(nil, `{"message":{"data":"%s","messageId":"direct-%d","publishTime":"2026-01-02T03:04:05.678Z"},"subscription":"projects/local/subscriptions/inbox-push"}`,
			kilobyte, l.next.Add(1))
		l.post("/receive/wrapped", l.receiveToken, body, http.StatusNoContent)
	})
}

// way returns how many messages a second go the whole way, published in requests of
// so many by so many callers.
func (l *local) way(n, batch, callers int) float64 {
	begun, want := time.Now(), l.acked.Load()+int64(n)
	message := `{"data":"` + kilobyte + `"}`
	body := []byte(`{"messages":[` + strings.Repeat(message+",", batch-1) + message + `]}`)
	each(callers, n/batch, func() { l.post("/publish", l.publishToken, body, http.StatusOK) })
	for l.acked.Load() < want && !l.Failed() {
		time.Sleep(time.Millisecond)
		if time.Since(begun) > 3*time.Minute {
			l.Fatalf("%d of %d messages did not arrive", want-l.acked.Load(), n)
		}
	}
	return float64(n) / time.Since(begun).Seconds()
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// BenchmarkWholeWay sends messages of 1 KiB the whole way: publish, topic, signed
// push, verification, boltinbox, 204. Beside it are the pushinbox of -before, what the
// receive of each stores that 64 callers send it, and, where gcloud is installed, Google's
// emulators. All take turns, and ratios are medians of the ratios of neighbours, since the
// machine may be busy with more.
func BenchmarkWholeWay(b *testing.B) {
	file, err := pushinbox()
	if err != nil {
		b.Fatal(err)
	}
	now := startLocal(b, file)
	then := now
	if *before != "" {
		then = startLocal(b, *before)
	}
	var google *emulators
	if _, err := exec.LookPath("gcloud"); err == nil {
		google = startEmulators(b)
	}
	n := measure.Size(2_000, 20_000)
	figures := make(map[string][]float64)
	add := func(name string, figure float64) { figures[name] = append(figures[name], figure) }
	// run returns how many messages a second f does, and the server's processor time
	// for each.
	run := func(name string, l *local, f func() float64) (rate, used float64) {
		begun := l.cpu()
		rate = f()
		used = float64((l.cpu() - begun).Microseconds()) / float64(n)
		add(name+"/s", rate)
		add(name+"-µs", used)
		return rate, used
	}
	now.way(1000, 100, 4)
	then.way(1000, 100, 4)
	if google != nil {
		google.way(n, 100, 4)
	}
	for b.Loop() {
		for range 5 {
			for name, size := range map[string]int{"single": 1, "hundred": 100} {
				rate, used := run(name, now, func() float64 { return now.way(n, size, 100/size+3) })
				rateBefore, usedBefore := run(name+"-before", then, func() float64 { return then.way(n, size, 100/size+3) })
				add(name+"-ratio", rate/rateBefore)
				add(name+"-µs-ratio", used/usedBefore)
				received, usedReceiving := run("receive", now, func() float64 { return now.receive(n) })
				stored, usedStoring := run("receive-before", then, func() float64 { return then.receive(n) })
				add("receive-ratio", received/stored)
				add("receive-µs-ratio", usedReceiving/usedStoring)
				add(name+"-of-receive", rate/stored)
				if google != nil {
					theirs := google.way(n, size, 100/size+3)
					add(name+"-emulators/s", theirs)
					add(name+"-of-emulators", rate/theirs)
				}
			}
		}
	}
	for name, all := range figures {
		b.ReportMetric(median(all), name)
	}
}
