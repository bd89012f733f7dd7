// Package checkup finds what is wrong with a pushinbox local on this machine, as the
// package doctor does with a deployed inbox, and says it in the same form: it collects
// facts from the run, from its data directory and from this process's environment, and
// then compares them. The run writes and deletes a file of 64 KiB in its data directory;
// nothing else is changed.
//
// It knows what the run has seen since it began, and nothing of a program's own code.
package checkup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/local/pubsubserver/rest"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/shell"

	"golang.org/x/oauth2"
)

const (
	// maxTime is how long Examine takes at most, and patience how long each question.
	maxTime  = 12 * time.Second
	patience = 5 * time.Second
	// maxFacts is the largest answer that is read, in bytes.
	maxFacts = 4 << 20
)

// Options are what Examine looks at.
type Options struct {
	// Data is the directory of the run; empty is the one that is found from the working
	// directory upwards.
	Data string
	// Getenv returns the environment of the programs that publish: this process's.
	Getenv func(string) string
	// DefaultURL is where a run listens that was not told.
	DefaultURL string
	Now        func() time.Time
}

// examination are the facts, and what was found.
type examination struct {
	Options
	now       time.Time
	run       *stack.Run
	facts     *stack.Facts
	factsErr  error
	report    *delivery.Report
	reportErr error
	pubsub    error // why the Pub/Sub is not the run's
	findings  []doctor.Finding
}

// Examine checks the run.
func Examine(ctx context.Context, o Options) *doctor.Report {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	x := &examination{Options: o, now: o.Now()}
	r := &doctor.Report{At: x.now.UTC(), Project: "pushinbox local", Subscriptions: []string{}}
	if x.find(ctx) {
		r.Project = "pushinbox local in " + x.run.Data
		x.collect(ctx)
		x.check()
	}
	if x.report != nil {
		for _, s := range x.report.Subscriptions {
			r.Subscriptions = append(r.Subscriptions, s.Name)
		}
	}
	doctor.Sort(x.findings)
	r.Findings = x.findings
	return r
}

// check compares what was collected.
func (x *examination) check() {
	x.checkData()
	x.checkPubSub()
	x.checkEmulators()
	x.checkClock()
	x.checkInbox() // before what it explains
	x.checkSubscriptions()
	x.checkSenders()
	x.checkTopics()
	x.checkShell()
}

func (x *examination) ok(check, on, what string) {
	x.findings = append(x.findings, doctor.Finding{Check: check, On: on, Result: doctor.OK, What: what})
}

func (x *examination) bad(f doctor.Finding) {
	f.Result = doctor.Bad
	x.findings = append(x.findings, f)
}

func (x *examination) unknown(f doctor.Finding) {
	f.Result = doctor.Unknown
	x.findings = append(x.findings, f)
}

// isBad reports whether something is wrong with what a check is about.
func (x *examination) isBad(check string) bool {
	return slices.ContainsFunc(x.findings, func(f doctor.Finding) bool { return f.Check == check && f.Result == doctor.Bad })
}

// find finds the run, or says why there is none.
func (x *examination) find(ctx context.Context) bool {
	run, err := stack.Find(ctx, x.Data)
	if err == nil {
		x.run = run
		x.ok("run", "", "the run of process "+fmt.Sprint(run.PID)+" answers at "+run.URL)
		return true
	}
	start := "pushinbox local"
	if x.Data != "" {
		start += " --data " + shell.Quote(x.Data)
	}
	data := cmp.Or(x.Data, stack.DefaultData)
	switch {
	case errors.Is(err, stack.ErrNotFound):
		f := doctor.Finding{Check: "run", What: "no pushinbox local runs here", Evidence: err.Error(), Consequence: "nothing receives, pushes or stores messages", Command: start}
		if x.Data == "" {
			f.What = "no pushinbox local is found from this directory"
			f.Consequence = "one that has its data elsewhere is not seen; without one nothing receives, pushes or stores messages"
			f.Command += "   # or, for one that runs elsewhere: pushinbox doctor --local --data DIRECTORY"
			f.Evidence = "there is no " + stack.DefaultData + " with a local.json in this directory or above it"
			if stack.IsRun(ctx, x.DefaultURL) {
				f.What = "a pushinbox local runs at " + x.DefaultURL + ", with its data in another directory"
				f.Consequence, f.Command = "it is not the one of this directory", "pushinbox doctor --local --data DIRECTORY   # the --data that it was started with"
			}
		}
		x.bad(f)
		if !stack.IsRun(ctx, x.DefaultURL) {
			x.checkPort(ctx, "port", x.DefaultURL, start+" --port 0")
		}
	case errors.Is(err, stack.ErrSuspended):
		f := doctor.Finding{Check: "run", What: "the run that began here is suspended", Evidence: err.Error(), Consequence: "nothing receives, pushes or stores messages; what was accepted is kept"}
		if run := stack.Left(cmp.Or(x.Data, stack.NearestData())); run != nil {
			f.Command = fmt.Sprintf("kill -CONT %d   # or, in its terminal: fg", run.PID)
		}
		x.bad(f)
		return false
	case errors.Is(err, stack.ErrStale):
		f := doctor.Finding{
			Check: "run", What: "the run that began here does not answer", Evidence: err.Error(),
			Consequence: "nothing receives, pushes or stores messages; what was accepted is kept",
		}
		if run := stack.Left(cmp.Or(x.Data, stack.NearestData())); run != nil {
			start += ports(run, x.DefaultURL)
			if len(run.Pushes) > 0 {
				f.Consequence += "; a start without its --push deletes subscriptions that it pushes to"
			}
		}
		// Its flags are not known, and a start without them changes its subscriptions: this
		// is no command to paste.
		f.Command = "# start it again, with the other flags that it had, such as --push: " + start
		x.bad(f)
	default:
		x.bad(doctor.Finding{Check: "data_directory", On: data, What: "the data directory cannot be used", Evidence: err.Error(), Consequence: "pushinbox local does not start with it, and no command finds its run", Command: mendData(data, err)})
		return false
	}
	if err := datadir.Check(data, x.Data != ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.bad(doctor.Finding{Check: "data_directory", On: data, What: "the data directory cannot be used", Evidence: err.Error(), Consequence: "pushinbox local does not start with it", Command: mendData(data, err)})
	} else if err == nil {
		x.checkLock(data)
	}
	return false
}

// ports are the flags that give a run the ports of an earlier one, where they are not
// those that it has by itself.
func ports(run *stack.Run, defaultURL string) (flags string) {
	if u, err := url.Parse(run.URL); err == nil && run.URL != defaultURL && u.Port() != "" {
		flags = " --port " + u.Port()
	}
	_, port, err := net.SplitHostPort(run.PubSubEmulatorHost)
	if n, isNumber := strconv.Atoi(port); err == nil && isNumber == nil && n != stack.PubSubPort { // the file may be anybody's
		flags += " --pubsub-port " + strconv.Itoa(n)
	}
	return flags
}

// mendData is the command that gives a data directory back to its owner alone.
func mendData(data string, err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "ls -ld " + shell.Quote(data)
	}
	return "chmod go-w " + shell.Quote(data)
}

// checkLock says whether a process without a local.json has the inbox open.
func (x *examination) checkLock(data string) {
	path := filepath.Join(data, "inbox.db")
	if _, err := os.Lstat(path); err != nil {
		return
	}
	file, err := datadir.Lock(path)
	if errors.Is(err, datadir.ErrLocked) {
		x.bad(doctor.Finding{
			Check: "data_directory", On: data, What: "another process has the inbox open", Evidence: path + " is locked",
			Consequence: "pushinbox local does not start with it", Command: "fuser " + shell.Quote(path) + "   # says which process it is; end it",
		})
		return
	}
	if err == nil {
		_ = file.Close()
	}
}

// checkPort says whether another program has a port that a run would take.
func (x *examination) checkPort(ctx context.Context, check, address, command string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	response, err := stack.Get(ctx, address+"/", "")
	if err != nil {
		x.ok(check, "", "nothing listens at "+address)
		return
	}
	_ = response.Body.Close()
	x.bad(doctor.Finding{
		Check: check, What: "another program listens at " + address,
		Evidence: fmt.Sprintf("it answers %d, Server %q", response.StatusCode, response.Header.Get("Server")), Consequence: "pushinbox local does not start with that port", Command: command,
	})
}

// collect asks the run, all at once.
func (x *examination) collect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var key string
	if x.run.KeyFile != "" {
		if b, err := datadir.ReadFile(x.run.KeyFile, 4096); err == nil {
			key = string(b)
		}
	}
	key = trimKey(key)
	var all sync.WaitGroup
	all.Go(func() { x.facts, x.factsErr = askFacts(ctx, x.run.URL, key) })
	all.Go(func() {
		o := &inboxclient.Options{Patience: time.Millisecond}
		if key != "" {
			o.Tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: key})
		}
		c, err := inboxclient.New(x.run.URL, o)
		if err == nil {
			x.report, err = c.Delivery(ctx)
		}
		x.reportErr = err
	})
	all.Go(func() {
		response, err := stack.Get(ctx, "http://"+x.run.PubSubEmulatorHost+"/", "")
		if err != nil {
			x.pubsub = err
			return
		}
		_ = response.Body.Close()
		if server := response.Header.Get("Server"); server != rest.Server {
			x.pubsub = fmt.Errorf("another program answers there, Server %q", server)
		}
	})
	all.Wait()
}

// askFacts returns what the run tells of itself.
func askFacts(ctx context.Context, address, key string) (*stack.Facts, error) {
	response, err := stack.Get(ctx, address+stack.FactsPath, key)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, maxFacts))
	facts := new(stack.Facts)
	switch {
	case response.StatusCode == http.StatusNotFound:
		return nil, errors.New("the run is of an earlier version; start it again")
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %d", response.StatusCode)
	case err != nil:
		return nil, err
	}
	return facts, json.Unmarshal(b, facts)
}
