package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/forward"
	"example.com/pushinbox/shared/inbox"
)

// awayFor is a console that answers the data of its one message, which has expired, only
// after some time without a network.
type awayFor struct {
	event string
	until time.Time
}

func (a awayFor) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}}
	switch {
	case strings.HasSuffix(r.URL.Path, "/events"):
		in, out := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = out.CloseWithError(r.Context().Err()) })
		go func() { _, _ = io.WriteString(out, a.event) }()
		answer.Body = in
		return answer, nil
	case time.Now().Before(a.until):
		return nil, errors.New("the network is unreachable")
	}
	answer.StatusCode, answer.Body = http.StatusNotFound, http.NoBody
	return answer, nil
}

// TestListenOutlastsTheNetwork has the network away for an hour, as after a night's sleep,
// while the data of a large message is read, and the message expire meanwhile.
func TestListenOutlastsTheNetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m, err := json.Marshal(inbox.Message{ID: inbox.ID("pubsub", "s", "1"), Source: "pubsub", Subscription: "s", MessageID: "1", Size: 1 << 20, Truncated: true})
		if err != nil {
			t.Fatal(err)
		}
		p := newProgress(io.Discard)
		o := lasting(p)
		o.Transport = awayFor{fmt.Sprintf("id: behind\ndata: %s\n\n", m), time.Now().Add(time.Hour)}
		c, err := inboxclient.New("http://console.example", &o)
		if err != nil {
			t.Fatal(err)
		}
		f, err := forward.New(forward.Options{Endpoint: forward.Endpoint{Target: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}}, OnDone: cancel})
		if err != nil {
			t.Fatal(err)
		}
		err = new(listening).follow(ctx, c, c.Tail(ctx, inbox.Query{}, nil), new(forward.Place), f, p)
		if done, _ := f.Done(); err != nil || done != "behind" {
			t.Errorf("it is done up to %q, %v", done, err)
		}
	})
}

// TestListenGoesOn stops listen before any message came, and while one is refused that
// others came after: the next listen has what was stored meanwhile, and nothing twice.
func TestListenGoesOn(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data)
	var mu sync.Mutex
	var got []string
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if string(data) == "refused" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(data))
	}))
	t.Cleanup(program.Close)
	config := t.TempDir()
	environment := []string{"XDG_CONFIG_HOME=" + config, "HOME=" + config, "AppData=" + config}
	// listen runs until the program has so many messages in all.
	listen := func(want int) {
		t.Helper()
		cmd := exec.Command(command, "listen", "--data", data, "--forward-to", program.URL, "--form", "bare", "--sign", "none")
		cmd.Env = append(os.Environ(), environment...)
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewScanner(out)
		said.Scan()
		go func() { _, _ = io.Copy(io.Discard, out) }()
		// has reports whether it has, and has begun, which it remembers in a file.
		has := func() bool {
			var files []string
			_ = filepath.WalkDir(config, func(path string, _ fs.DirEntry, _ error) error {
				if strings.HasSuffix(path, ".json") {
					files = append(files, path)
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			return len(got) >= want && len(files) == 1
		}
		for begun := time.Now(); !has() && time.Since(begun) < soon; {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(500 * time.Millisecond) // for what should not come
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("listen ends with %v: %s", err, said.Text())
		}
	}
	publish := func(messages ...string) {
		for _, m := range messages {
			r.publish(t, "", "text/plain", m)
			r.acknowledged(t, 1)
		}
	}
	publish("before")
	listen(0)
	publish("meanwhile")
	listen(1)
	publish("refused", "one", "two", "three")
	listen(4)
	publish("four")
	listen(5)
	listen(5)
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(got)
	if want := []string{"four", "meanwhile", "one", "three", "two"}; !slices.Equal(got, want) {
		t.Errorf("the program got %q, want %q", got, want)
	}
}

// TestListenSendsAgain has a person send a message again, and press Ctrl-C before the
// program has answered: listen waits for the answer, and after a second Ctrl-C for nothing.
func TestListenSendsAgain(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := start(t, data)
	r.publish(t, "", "text/plain", "hello")
	r.acknowledged(t, 1)
	for name, isPatient := range map[string]bool{"once": true, "twice": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			person, programs := openTerminal(t, 80)
			requests, goOn := make(chan *http.Request), make(chan bool)
			program := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // from then on the server notices that the client is gone
				requests <- r
				select {
				case <-goOn:
				case <-r.Context().Done():
				}
			}))
			t.Cleanup(program.Close)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, command, "listen", "--data", data, "--forward-to", program.URL, "--sign", "none", "--since", "1h", "--ack-deadline", "600s", "--format", "json")
			config := t.TempDir()
			cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+config, "HOME="+config)
			cmd.Stdin = programs
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			<-requests
			goOn <- true
			lines.Scan()
			_, _ = person.WriteString("r\n")
			again := <-requests
			_ = cmd.Process.Signal(os.Interrupt)
			select {
			case <-again.Context().Done():
				t.Error("Ctrl-C cuts the request off")
			case <-time.After(500 * time.Millisecond):
			}
			if isPatient {
				close(goOn)
			} else {
				go func() {
					for cmd.Process.Signal(os.Interrupt) == nil { // the first may come before listen waits
						time.Sleep(100 * time.Millisecond)
					}
				}()
			}
			if lines.Scan() != isPatient {
				t.Errorf("after Ctrl-C it prints %q", lines.Text())
			}
			if err := cmd.Wait(); (err == nil) != isPatient || ctx.Err() != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
