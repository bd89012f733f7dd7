// Package doctor finds what is wrong with a deployed inbox. It asks Google, with the
// caller's own credentials, how everything is that a message passes, and compares it
// with what Terraform wants or with each other. It changes nothing: besides reading it
// sends receive one request without a token.
//
// Examine collects facts, at once as far as they do not need each other, and then runs
// the checks, which only look at facts. A check whose facts could not be had says
// unknown and what lacked, never ok. What another finding explains is unknown because of
// that one.
//
// It finds misconfiguration, not errors in a handler's code, and it believes what
// Google answers: metrics are some minutes old.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Result is what a check comes to.
type Result string

// The results of a check.
const (
	OK      Result = "ok"
	Bad     Result = "bad"
	Unknown Result = "unknown"
)

// Finding is what one check says of one thing.
type Finding struct {
	// Check is the short name of what was checked, and On what it was checked of: a
	// subscription, an account, a database.
	Check string `json:"check"`
	On    string `json:"on,omitempty"`
	// Result is ok, bad or unknown, What says it in a sentence.
	Result Result `json:"result"`
	What   string `json:"what"`
	// Evidence is what was seen, Consequence what follows from it, Command what mends
	// it, or shows more where no command mends it.
	Evidence    string `json:"evidence,omitempty"`
	Consequence string `json:"consequence,omitempty"`
	Command     string `json:"command,omitempty"`
	// Permission is the one that lacked, of an unknown.
	Permission string `json:"permission,omitempty"`
	// Because is the check whose finding explains or hides this unknown.
	Because string `json:"because,omitempty"`

	// scope is the subscription that it is about, empty for what all have in common.
	scope string
	// api is the API that is off, of an unknown.
	api string
}

// Report is what all checks say.
type Report struct {
	At      time.Time `json:"at"`
	Project string    `json:"project"`
	// Subscriptions are the full names of those that were checked.
	Subscriptions []string `json:"subscriptions"`
	// Findings has first what is bad, then what is unknown, then what is ok.
	Findings []Finding `json:"findings"`
}

// Count returns how many findings have a result.
func (r *Report) Count(of Result) (n int) {
	for _, f := range r.Findings {
		if f.Result == of {
			n++
		}
	}
	return n
}

// MaxTime is how long Examine takes at most.
const MaxTime = 14 * time.Second

// Options are what Examine asks with.
type Options struct {
	// Google has the caller's credentials.
	Google *http.Client
	// Probe has none; receive is asked with it as a stranger would.
	Probe *http.Client
	// Now is the clock of this machine.
	Now func() time.Time
}

// Examine checks all of a target, within MaxTime. Its only errors are of the call:
// what cannot be found out is in the report.
func Examine(ctx context.Context, o Options, t *Target) (*Report, error) {
	if o.Google == nil || o.Probe == nil || o.Now == nil {
		return nil, fmt.Errorf("doctor: Options need Google, Probe and Now")
	}
	if t.Project == "" || len(t.Subscriptions) == 0 {
		return nil, fmt.Errorf("doctor: a target needs a project and a subscription")
	}
	ctx, cancel := context.WithTimeout(ctx, MaxTime)
	defer cancel()
	f := collect(ctx, o, t)
	x := &examination{facts: f}
	for _, c := range checks {
		x.check = c.name
		c.run(x)
	}
	r := &Report{At: f.at.UTC(), Project: t.Project, Findings: hide(x.findings)}
	for _, s := range f.target.Subscriptions {
		r.Subscriptions = append(r.Subscriptions, s.Name)
	}
	Sort(r.Findings)
	return r, nil
}

// Sort puts first what is bad, then what is unknown, then what is ok, each in the order
// in which it was found.
func Sort(findings []Finding) {
	order := []Result{Bad, Unknown, OK}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Result), slices.Index(order, b.Result))
	})
}

// check is one thing to be checked; run adds a finding for each thing it is checked of.
type check struct {
	name string
	run  func(*examination)
}

// examination is where checks find facts and leave findings.
type examination struct {
	*facts
	check    string
	findings []Finding
}

func (x *examination) add(f Finding) {
	f.Check = x.check
	x.findings = append(x.findings, f)
}

// ok says that something is as it should be.
func (x *examination) ok(on, what string, args ...any) {
	x.add(Finding{On: on, Result: OK, What: fmt.Sprintf(what, args...)})
}

// bad says that something is not.
func (x *examination) bad(f Finding) { f.Result = Bad; x.add(f) }

// have reports whether all facts are known; the first that is not becomes an unknown.
func (x *examination) have(on string, facts ...question) bool {
	for _, q := range facts {
		if u, ok := q.missing(); !ok {
			u.On, u.Result = on, Unknown
			if u.api != "" && !slices.Contains(x.target.APIs, u.api) {
				// Only the doctor needs it.
				u.Because, u.Command = "", x.gcloud("services", "enable", u.api)
			}
			x.add(u)
			return false
		}
	}
	return true
}

// unknown says that something could not be found out.
func (x *examination) unknown(on, why string, args ...any) {
	x.add(Finding{On: on, Result: Unknown, What: fmt.Sprintf(why, args...)})
}

// because says that something cannot be known as long as another check's finding is
// there.
func (x *examination) because(on, check, why string) {
	x.add(Finding{On: on, Result: Unknown, What: why, Because: check})
}

// short returns the last part of a name with slashes.
func short(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
