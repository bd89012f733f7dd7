// Package console drives the console in a real browser, as a person would:
// the built command serves it, Chromium shows it.
package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
)

var (
	// command is the built pushinbox.
	command string
	// chrome is the one browser of all tests; each has a profile of its own in it. It is
	// Chromium's headless shell where that is installed: the same engine, without the
	// windows around it, for half of the processor time.
	chrome context.Context
	// whole returns a whole Chromium, which also has a clipboard that a click may write.
	whole func() (context.Context, error)
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		path, err := exec.LookPath("chromium")
		if err != nil {
			return m.Run() // the tests say what is missing
		}
		dir, err := os.MkdirTemp("", "consoletest")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		command = filepath.Join(dir, "pushinbox")
		if out, err := exec.Command("go", "build", "-ldflags=-w", "-o", command, "../../scripts/pushinbox").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %s", err, out)
			return 1
		}
		var stops []func()
		defer func() {
			for _, stop := range stops {
				stop()
			}
		}()
		launch := func(path, profile string) (context.Context, error) {
			ctx, stop, err := launch(path, filepath.Join(dir, profile))
			stops = append(stops, stop)
			return ctx, err
		}
		whole = sync.OnceValues(func() (context.Context, error) { return launch(path, "whole") })
		if shell, none := exec.LookPath("chromium-headless-shell"); none == nil {
			chrome, err = launch(shell, "shell")
		} else {
			chrome, err = whole()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "chromium does not start:", err)
			return 1
		}
		return m.Run()
	}())
}

// launch starts a browser.
func launch(path, profile string) (_ context.Context, stop func(), _ error) {
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(profile),
		// Debian's builds run as root in CI, where Chromium's own
		// sandbox cannot; and nothing may go out to the network.
		chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))...)
	browser, leave := chromedp.NewContext(allocator)
	return browser, func() { leave(); end() }, chromedp.Do(browser)
}

// server is a running pushinbox local.
type server struct {
	base, port, data string
	cmd              *exec.Cmd
	done             chan struct{}
	errs             bytes.Buffer
	env              []string // further variables, NAME=value
}

// start runs pushinbox local on an empty inbox, with further variables.
func start(t testing.TB, env ...string) *server {
	t.Helper()
	need.Program(t, "chromium")
	reserved := port.Reserve(t)
	s := &server{base: "http://127.0.0.1:" + reserved, port: reserved, data: t.TempDir(), env: env}
	s.run(t)
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Log(s.errs.String())
		}
	})
	return s
}

// run starts the process, and returns once it answers.
func (s *server) run(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(command, "local", "--port", s.port, "--data", s.data, "--quiet")
	s.cmd.Stderr = &s.errs
	s.cmd.Env = append(os.Environ(), s.env...)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan struct{})
	s.done = done
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "Try it") {
				close(ready)
			}
		}
		_ = s.cmd.Wait()
		close(done)
	}()
	select {
	case <-ready:
	case <-done:
		t.Fatal("pushinbox local ended: ", s.errs.String())
	case <-time.After(time.Minute):
		t.Fatal("pushinbox local did not start in a minute")
	}
}

// kill ends the process at once.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// message is what a test publishes.
type message struct {
	Data        []byte            `json:"data"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	OrderingKey string            `json:"orderingKey,omitempty"`
}

// publish publishes messages over the API and returns their message IDs.
func (s *server) publish(t testing.TB, messages ...message) []string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"messages": messages})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.base+"/messages", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply struct {
		MessageIDs []string `json:"messageIds"`
		Detail     string
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("publishing answered %d %s %v", resp.StatusCode, reply.Detail, err)
	}
	return reply.MessageIDs
}

// push delivers one message to the push endpoint, signed, as the named
// subscription would.
func (s *server) push(t testing.TB, subscription, messageID, data string) {
	t.Helper()
	body := fmt.Sprintf(`{"subscription": %q, "message": {"messageId": %q, "publishTime": "2026-11-01T10:00:00Z", "data": %q}}`,
		subscription, messageID, base64.StdEncoding.EncodeToString([]byte(data)))
	s.pushBody(t, body)
}

// pushBody is push of any body, which need not be a push.
func (s *server) pushBody(t testing.TB, body string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.base+"/receive", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(s.get(t, "/local/token"))))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("the push was answered %s", resp.Status)
	}
}

func (s *server) get(t testing.TB, path string) []byte {
	t.Helper()
	resp, err := http.Get(s.base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s answered %s %s %v", path, resp.Status, b, err)
	}
	return b
}

// stored is a message as the API lists it.
type stored struct {
	ID, MessageID string
	Attributes    map[string]string
}

// stored waits until the inbox holds n messages, and returns them newest first.
func (s *server) stored(t testing.TB, n int) []stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var list struct{ Messages []stored }
	if err := port.Until(ctx, func() error {
		if err := json.Unmarshal(s.get(t, "/messages?pageSize=500"), &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Messages) < n {
			return fmt.Errorf("%d messages are stored, not %d", len(list.Messages), n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list.Messages
}

// action is something to do in a window.
type action = chromedp.Action[chromedp.Void]

// call is one command of the browser's protocol.
func call[P, R any](command cdp.Command[P, R], params P) action {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

// window is a browser window with a profile of its own.
type window struct {
	context.Context
	t    testing.TB
	base string

	mu       sync.Mutex
	problems []string // exceptions, refused scripts, requests to elsewhere
}

// size is the inside of a window, in CSS pixels.
type size struct{ width, height int64 }

var (
	desk  = size{1280, 900}
	phone = size{360, 740}
)

// open opens a window on the server. What goes wrong in it fails the test.
func (s *server) open(t testing.TB, size size, options ...action) *window {
	t.Helper()
	return openAt(t, s.base, size, options...)
}

func openAt(t testing.TB, base string, size size, options ...action) *window {
	t.Helper()
	need.Program(t, "chromium")
	return openIn(t, chrome, base, size, options...)
}

// openCopying opens a window that may read what it copied; to write, a click is enough.
func openCopying(t testing.TB, base string, size size) *window {
	t.Helper()
	need.Program(t, "chromium")
	in, err := whole()
	if err != nil {
		t.Fatal(err)
	}
	w := openIn(t, in, base, size)
	w.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.CallBrowser(ctx, browser.SetPermission, browser.SetPermissionParams{
			Permission: &browser.PermissionDescriptor{Name: "clipboard-read"}, Setting: browser.PermissionSettingGranted,
			BrowserContextID: chromedp.FromContext(ctx).BrowserContextID,
		})
		return err
	}))
	return w
}

func openIn(t testing.TB, in context.Context, base string, size size, options ...action) *window {
	t.Helper()
	ctx, cancel := chromedp.NewContext(in, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(stop)
	w := &window{Context: ctx, t: t, base: base}
	if err := chromedp.Listen(ctx, w.watch); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.check)
	w.do(append([]action{
		call(network.Enable, network.EnableParams{}), call(log.Enable, cdp.Empty{}), w.resize(size),
	}, options...)...)
	w.visit("/")
	return w
}

func (w *window) resize(size size) action {
	return call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: size.width, Height: size.height, DeviceScaleFactor: 1, Mobile: size.width < 500,
	})
}

// watch notes what a page does that none of ours should.
func (w *window) watch(event any) {
	note := func(problem string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.problems = append(w.problems, problem)
	}
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		note(fmt.Sprintf("exception: %+v", e.ExceptionDetails))
	case *page.EventJavascriptDialogOpening:
		note("a dialog opened: " + e.Message)
		go func() {
			_ = chromedp.Do(w.Context, call(page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true}))
		}()
	case *log.EventEntryAdded:
		// Refusals of the content policy are logged here; so are requests that
		// fail, which tests bring about.
		if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			note("logged: " + e.Entry.Text)
		}
	case *network.EventRequestWillBeSent:
		if !strings.HasPrefix(e.Request.URL, w.base+"/") {
			note("request to " + e.Request.URL)
		}
	}
}

// check fails the test for each problem so far.
func (w *window) check() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.problems {
		w.t.Error(p)
	}
	w.problems = nil
}

// do runs actions in the window.
func (w *window) do(actions ...action) {
	w.t.Helper()
	if err := chromedp.Do(w.Context, actions...); err != nil {
		w.t.Fatalf("%v\n%s", err, w.state())
	}
}

// state is what the window shows, for whoever reads a failed test.
func (w *window) state() string {
	ctx, cancel := context.WithTimeout(w.Context, 5*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText.slice(0, 2000)`))
	return text
}

func (w *window) visit(path string) {
	w.t.Helper()
	w.do(chromedp.Navigate(w.base + path))
}

// eval returns what an expression is in the window.
func eval[T any](w *window, expression string) T {
	w.t.Helper()
	v, err := chromedp.Run(w.Context, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", expression, err, w.state())
	}
	return v
}

// until waits until an expression is true in the window, whatever page it is on
// by then.
func (w *window) until(expression string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.Context, 30*time.Second)
	defer cancel()
	if err := port.Until(ctx, func() error {
		// While a page is on its way, there is nothing to evaluate in.
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if is {
			return nil
		}
		return errors.Join(errors.New("it is false"), err)
	}); err != nil {
		w.t.Fatalf("never came true: %s: %v\n%s", expression, err, w.state())
	}
}

// live waits until the window follows the feed.
func (w *window) live() {
	w.t.Helper()
	w.until(`document.querySelector("#live")?.dataset.state === "live"`)
}

// rows are the IDs of the messages in the list, from the top.
func (w *window) rows() []string {
	w.t.Helper()
	return eval[[]string](w, `[...document.querySelectorAll("#rows tr")].map(r => r.id.slice(2))`)
}

// keys presses keys as a person does.
func (w *window) keys(keys ...string) {
	w.t.Helper()
	for _, k := range keys {
		w.do(chromedp.KeyEvent(k))
	}
}

// focused is the text, the label or the ID of what has the focus.
func (w *window) focused() string {
	w.t.Helper()
	return eval[string](w, `(e => e.id || e.getAttribute("aria-label") || e.textContent.trim().replace(/\s+/g, " ").slice(0, 60) || e.tagName)(document.activeElement)`)
}

// theme shows pages in the light or the dark theme.
func theme(name string) action {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
}
