package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/httpapi"
)

const (
	// DefaultData is the data directory of a local run that is told no other.
	DefaultData = ".local"
	// runFile is the file in the data directory that tells where the run is, and
	// maxRunFile the size of the largest that is read, in bytes.
	runFile    = "local.json"
	maxRunFile = 64 << 10
	// runPath answers which run this is.
	runPath = "/local/run"
	// findTimeout is how long a run may take to say that it is there.
	findTimeout = 2 * time.Second
)

// Addresses are where the parts of a local run are: the first line of JSON, and in
// local.json.
type Addresses struct {
	URL                string `json:"url"` // of the functions, without a path
	Console            string `json:"console"`
	Publish            string `json:"publish"`
	Receive            string `json:"receive"`
	Calendar           string `json:"calendar"`
	MNS                string `json:"mns"`
	GoogleCalendar     string `json:"googleCalendar"` // the stand-in
	AlibabaMNS         string `json:"alibabaMns"`     // the stand-in
	Token              string `json:"token"`
	Certs              string `json:"certs"`
	MNSEndpoint        string `json:"mnsEndpoint"`      // the stand-in, for SDKs
	CalendarEndpoint   string `json:"calendarEndpoint"` // the stand-in, for SDKs
	PubSubEmulatorHost string `json:"pubsubEmulatorHost"`
	Proxy              string `json:"proxy"` // see Program
	Project            string `json:"project"`
	Topic              string `json:"topic"`
	Subscription       string `json:"subscription"`
	// Pushes are the subscriptions of --push.
	Pushes  []PushAddress `json:"pushes,omitempty"`
	Data    string        `json:"data"`              // the absolute path
	KeyFile string        `json:"keyFile,omitempty"` // where a key is wanted, see Key
}

// PushAddress is a subscription that pushes to a program.
type PushAddress struct {
	Topic        string `json:"topic"`
	Subscription string `json:"subscription"`
	Endpoint     string `json:"endpoint"` // without the value of a shared token
}

// Addresses returns where everything is.
func (s *Stack) Addresses() Addresses {
	a := Addresses{
		URL: s.URL, Console: s.URL + "/", Publish: s.URL + "/publish", Receive: s.URL + "/receive", Calendar: s.URL + "/calendar", MNS: s.URL + MNSFunction,
		GoogleCalendar: s.URL + googlePath, AlibabaMNS: s.URL + MNSPath, Token: s.URL + "/local/token", Certs: s.URL + "/local/certs",
		MNSEndpoint: s.MNSEndpoint, CalendarEndpoint: s.CalendarEndpoint,
		PubSubEmulatorHost: s.PubSubAddr, Proxy: s.ProxyURL, Project: s.options.Project, Topic: s.Pushes.Topic, Subscription: s.Pushes.Name, Data: absolute(s.options.Data),
	}
	for _, sub := range s.Endpoints {
		a.Pushes = append(a.Pushes, PushAddress{sub.Topic, sub.Name, delivery.HideToken(sub.PushConfig.PushEndpoint)})
	}
	if s.Key != nil {
		a.KeyFile = absolute(s.Key.File)
	}
	return a
}

// absolute returns the absolute form of a path, or the path where there is none:
// the working directory was deleted.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Run is a local run as it tells other processes about itself, in local.json in
// its data directory.
type Run struct {
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	Addresses
	Program Program `json:"program"`
}

// is reports whether both are the same run.
func (r *Run) is(other *Run) bool { return r.PID == other.PID && r.StartedAt.Equal(other.StartedAt) }

var (
	// ErrNotFound is returned by Find when no local.json is found.
	ErrNotFound = errors.New("no pushinbox local was found")
	// ErrStale is returned by Find when a local.json is of a run that has ended
	// without removing it, or that does not answer. The error names the file.
	ErrStale = errors.New("local.json is stale")
	// ErrSuspended is returned by Find when the process of a local.json is stopped, by
	// Ctrl-Z or kill -STOP, and so answers nobody. It goes on where it was.
	ErrSuspended = errors.New("pushinbox local is suspended")
)

// Find returns the local run whose data directory is data. Where data is empty, it
// is the nearest .local with a local.json of this user, from the working directory
// upwards. The run was asked and answers.
//
// A local.json may have come with somebody's files, such as a repository: it leads to no
// other machine, and to no files outside its directory.
func Find(ctx context.Context, data string) (*Run, error) {
	if data == "" {
		if data = NearestData(); data == "" {
			return nil, ErrNotFound
		}
	}
	path := filepath.Join(data, runFile)
	if err := datadir.Check(data, true); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b, err := datadir.ReadFile(path, maxRunFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s; start it with: pushinbox local --data %s", ErrNotFound, path, data)
	}
	if err != nil {
		return nil, err
	}
	r := new(Run)
	if err := json.Unmarshal(b, r); err != nil || r.URL == "" {
		return nil, fmt.Errorf("%w: %s does not say where a pushinbox local is; delete it", ErrStale, path)
	}
	if u, err := url.Parse(r.URL); err != nil || u.Scheme != "http" || !IsLoopback(u.Host) {
		return nil, fmt.Errorf("%w: %s names %q, which is not this machine; no pushinbox local wrote that, so delete it", ErrStale, path, r.URL)
	}
	r.Data = absolute(data)
	if r.KeyFile != "" {
		r.KeyFile = filepath.Join(r.Data, filepath.Base(r.KeyFile))
	}
	if err := r.ask(ctx); err != nil {
		switch state := processState(r.PID); {
		case gone(r.PID) || strings.ContainsAny(state, "ZX"):
			return nil, fmt.Errorf("%w: %s is of a pushinbox local that has ended (process %d, started %s); start it again, or delete the file",
				ErrStale, path, r.PID, r.StartedAt.Format(time.RFC3339))
		case state == "T":
			return nil, fmt.Errorf("%w: %s is of process %d, which was stopped by Ctrl-Z or kill -STOP; continue it with fg in its terminal, or with: kill -CONT %[3]d", ErrSuspended, path, r.PID)
		}
		return nil, fmt.Errorf("%w: %s is of a pushinbox local at %s (process %d) that does not answer: %w; if that process is it still, wait for it or stop it; then start it again",
			ErrStale, path, r.URL, r.PID, err)
	}
	return r, nil
}

// NearestData returns the nearest .local with a local.json of this user, from the
// working directory upwards, or "" where there is none. One that somebody else made
// is not for this user.
func NearestData() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for ; ; dir = filepath.Dir(dir) {
		data := filepath.Join(dir, DefaultData)
		if info, err := os.Lstat(filepath.Join(data, runFile)); err == nil && info.Mode().IsRegular() && datadir.Check(data, true) == nil {
			return data
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// ask asks the address which run is there.
func (r *Run) ask(ctx context.Context) error {
	there, err := ask(ctx, r.URL)
	if err == nil && !r.is(there) {
		err = fmt.Errorf("process %d is there, started %s", there.PID, there.StartedAt.Format(time.RFC3339))
	}
	return err
}

// where says where the run at an address has its data, if it tells.
func (r *Run) where() string {
	if r.Data == "" {
		return ""
	}
	return ", whose data is in " + r.Data
}

// ask returns the run at an address, with its process and start time alone, and with its
// data directory where no other machine reaches it.
func ask(ctx context.Context, address string) (*Run, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	response, err := Get(ctx, address+runPath, "")
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		return nil, failed.Err // which does not repeat the address
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	there := new(Run)
	err = json.NewDecoder(http.MaxBytesReader(nil, response.Body, maxRunFile)).Decode(there)
	if response.StatusCode != http.StatusOK || err != nil || there.StartedAt.IsZero() {
		return nil, errors.New("another program answers there")
	}
	return there, nil
}

// Get asks a local run, or what may be one, once, with its key where that is not empty. It
// follows no redirect.
func Get(ctx context.Context, address, key string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return client.Do(r)
}

// IsRun reports whether a local run answers at an address, http://HOST:PORT.
func IsRun(ctx context.Context, address string) bool {
	_, err := ask(ctx, address)
	return err == nil
}

// Left returns what a run wrote into its data directory that did not remove it, or nil.
func Left(data string) *Run {
	run := new(Run)
	b, err := datadir.ReadFile(filepath.Join(data, runFile), maxRunFile)
	if err != nil || json.Unmarshal(b, run) != nil {
		return nil
	}
	return run
}

// gone reports whether there is no such process.
func gone(pid int) bool {
	process, err := os.FindProcess(pid)
	if err != nil {
		return true
	}
	return errors.Is(process.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// processState returns the state of a process, such as "T" for one that is stopped and "Z" for
// one that has ended and whose parent has not asked, or "" where the system does not tell.
func processState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // of Linux
	if err != nil {
		return ""
	}
	rest := b[bytes.LastIndexByte(b, ')')+1:] // after the name, which may have anything
	state, _, _ := strings.Cut(strings.TrimSpace(string(rest)), " ")
	return state
}

// announce has other processes find this run, until Close.
func (s *Stack) announce() error {
	run := &Run{PID: os.Getpid(), StartedAt: s.started, Addresses: s.Addresses(), Program: s.program}
	content, err := json.MarshalIndent(run, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(s.options.Data, runFile)
	if err := datadir.Replace(path, append(content, '\n')); err != nil {
		return dataError(s.options.Data, err)
	}
	s.onClose(runFile, func() error {
		// With both of Google's emulators, two runs can have the same directory.
		there := new(Run)
		if b, err := datadir.ReadFile(path, maxRunFile); err == nil && json.Unmarshal(b, there) == nil && !there.is(run) {
			return nil
		}
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return nil
}

// which serves GET /local/run: which run this is. With --host other machines may ask, who
// are not told where the data are.
func (s *Stack) which() http.Handler {
	data := ""
	if s.Key == nil {
		data = absolute(s.options.Data)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, http.StatusOK, struct {
			PID       int       `json:"pid"`
			StartedAt time.Time `json:"startedAt"`
			Data      string    `json:"data,omitempty"`
		}{os.Getpid(), s.started, data})
	})
}
