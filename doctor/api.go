package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/googleapis/gax-go/v2"

	"example.com/pushinbox/shared/googleerror"
)

// state is what became of a question.
type state int

const (
	unasked   state = iota // why says why not
	known                  // it was answered
	absent                 // there is no such thing
	denied                 // a permission lacks
	disabled               // the API is off
	perimeter              // VPC Service Controls refused it
	failed                 // no answer, or one that says nothing
)

// fact is the answer to one question.
type fact[T any] struct {
	value T
	state state
	// why says what happened, where it is not known.
	why string
	// permission is what the question takes; api the API that is off.
	permission, api string
	// by is the check that says so where the thing is absent.
	by string
}

// question is a fact of any type.
type question interface {
	missing() (unknown Finding, ok bool)
}

// missing returns what to say where the fact is not known.
func (f *fact[T]) missing() (Finding, bool) {
	switch f.state {
	case known:
		return Finding{}, true
	case absent:
		return Finding{What: "cannot be known: " + f.why, Because: f.by}, false
	case disabled:
		return Finding{What: "cannot be known: " + f.why, Because: "apis", api: f.api}, false
	case perimeter:
		return Finding{What: "cannot be known: VPC Service Controls refused to answer", Because: "perimeter"}, false
	case denied:
		return Finding{What: "cannot be known: the permission " + f.permission + " is missing", Evidence: f.why, Permission: f.permission}, false
	}
	return Finding{What: "cannot be known: " + f.why, Because: f.by}, false
}

// as returns f as a fact that another one stands for: not known, for the same reason.
func as[T, U any](f *fact[U]) fact[T] {
	return fact[T]{state: f.state, why: f.why, permission: f.permission, api: f.api, by: f.by}
}

const (
	// callTimeout bounds one question.
	callTimeout = 6 * time.Second
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 8 << 20
	// maxTold is how much of an error of Google's is told, in bytes.
	maxTold = 300
)

// google asks Google's APIs.
type google struct {
	client *http.Client
	// heard is called with each answer, for the clock, understood with each that says
	// something, and keptOut with the unique ID of each that VPC Service Controls refused.
	heard      func(sent, received time.Time, date string)
	understood func()
	keptOut    func(violation string)
}

// ask asks one question, which takes a permission. by is the check that says that the
// thing is absent. Answers that may pass are asked for once more.
func ask[T any](ctx context.Context, g *google, by, permission, method, url string, body any) fact[T] {
	var f fact[T]
	for range 2 {
		var again bool
		if f, again = try[T](ctx, g, permission, method, url, body); !again {
			break
		}
		_ = gax.Sleep(ctx, time.Second) // where ctx has ended, asking tells it
	}
	f.by = by
	return f
}

// get is ask for what is only read.
func get[T any](ctx context.Context, g *google, by, permission, url string) fact[T] {
	return ask[T](ctx, g, by, permission, http.MethodGet, url, nil)
}

func try[T any](ctx context.Context, g *google, permission, method, url string, body any) (f fact[T], again bool) {
	f.permission = permission
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			f.state, f.why = failed, err.Error()
			return f, false
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, in)
	if err != nil {
		f.state, f.why = failed, err.Error()
		return f, false
	}
	r.Header.Set("Content-Type", "application/json")
	sent := time.Now()
	resp, err := g.client.Do(r)
	if err != nil {
		f.state, f.why = failed, told(host(r)+" does not answer: "+reasonOf(err))
		return f, ctx.Err() == nil
	}
	defer resp.Body.Close()
	g.heard(sent, time.Now(), resp.Header.Get("Date"))
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("it is over %d bytes", maxAnswer)
	}
	if err != nil {
		f.state, f.why = failed, told("the answer of "+host(r)+" cannot be read: "+reasonOf(err))
		return f, ctx.Err() == nil
	}
	if resp.StatusCode/100 != 2 {
		e := googleerror.Of(resp.StatusCode, b)
		if f.refused(r, e); f.state == perimeter {
			g.keptOut(told(e.Violation))
		}
		return f, resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
	}
	if err := json.Unmarshal(b, &f.value); err != nil {
		f.state, f.why = failed, host(r)+" answers what is not the JSON that it should be"
		return f, false
	}
	f.state = known
	g.understood()
	return f, false
}

// refused sets what an answer that is no success says.
func (f *fact[T]) refused(r *http.Request, e *googleerror.Error) {
	f.state, f.why = failed, told(fmt.Sprintf("%s answers %d: %s", host(r), e.Status, e.Message))
	switch {
	case e.Cause == googleerror.Disabled:
		f.state, f.api, f.why = disabled, e.Service, "the API "+told(e.Service)+" is not enabled"
		if e.Consumer != "" { // perhaps another one that pays for the call
			f.why += " for " + told(e.Consumer)
		}
	case e.Cause == googleerror.Perimeter:
		f.state = perimeter
	case e.Status == http.StatusNotFound:
		f.state, f.why = absent, "there is no "+short(r.URL.Path)
	case e.Status == http.StatusForbidden:
		f.state = denied
		// Another one than was expected may lack, such as the right to use the project
		// that is billed for the call.
		if e.Permission != "" {
			f.permission = told(e.Permission)
		}
	}
}

func host(r *http.Request) string { return r.URL.Host }

// reasonOf returns what went wrong without the address, which the caller knows.
func reasonOf(err error) string {
	var e interface{ Unwrap() error }
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		return "it took too long"
	}
	if errors.As(err, &e) && e.Unwrap() != nil {
		text = e.Unwrap().Error()
	}
	return text
}

// told returns the beginning of a text that somebody else wrote, in one line.
func told(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > maxTold {
		s = strings.ToValidUTF8(s[:maxTold], "") + "…"
	}
	return s
}
