package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"
)

// maxAnswer is the largest answer that is read, in bytes.
const maxAnswer = 8 << 20

// rest calls Google's services.
type rest struct {
	client                      func(ctx context.Context) (*http.Client, error)
	pubsub, monitoring, logging string
}

// call sends a request, with body as JSON if there is one, and decodes the answer. The
// error of another answer than 200 is a *refused.
func (r *rest) call(ctx context.Context, method, url string, body, answer any) error {
	client, err := r.client(ctx)
	if err != nil {
		return err
	}
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		return refusedOf(resp.StatusCode, b)
	}
	return json.Unmarshal(b, answer)
}

// refused is an answer of a service that is an error.
type refused struct {
	status  int
	message string
	// reason is that of the error's details, such as SERVICE_DISABLED.
	reason string
}

func (e *refused) Error() string { return fmt.Sprintf("%d %s %s", e.status, e.reason, e.message) }

// refusedOf reads an error in the form that Google's services share.
func refusedOf(status int, body []byte) *refused {
	var answer struct {
		Error struct {
			Message string
			Details []struct {
				Reason     string
				Violations []struct{ Type string }
			}
		}
	}
	_ = json.Unmarshal(body, &answer) // another form says less
	e := &refused{status: status, message: answer.Error.Message}
	for _, d := range answer.Error.Details {
		if d.Reason != "" {
			e.reason = d.Reason
		}
		for _, v := range d.Violations {
			if v.Type == "VPC_SERVICE_CONTROLS" {
				e.reason = v.Type
			}
		}
	}
	return e
}

// failure is an error with words for people.
type failure struct {
	words string
	cause error
}

func (e *failure) Error() string { return e.words + ": " + e.cause.Error() }

func (e *failure) Unwrap() error { return e.cause }

var errSlow = errors.New("there was no answer in time; look again")

// asked returns the error of a call to a service on a resource with words for people:
// what it takes, where it lacks.
func asked(service, resource, permission, role string, err error) error {
	var r *refused
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &r):
		return &failure{service + " cannot be reached", err}
	case r.reason == "VPC_SERVICE_CONTROLS" || r.reason == "SECURITY_POLICY_VIOLATED":
		return &failure{"VPC Service Controls keep the console from " + service, err}
	case r.reason == "SERVICE_DISABLED":
		return &failure{"the API of " + service + " is disabled in the project", err}
	case r.status == http.StatusForbidden:
		return &failure{"no permission " + permission + " on " + resource + " (" + role + ")", err}
	case r.status == http.StatusNotFound:
		return &failure{resource + " does not exist", err}
	case r.status == http.StatusTooManyRequests:
		return &failure{service + " is asked too often; look again in a minute", err}
	default:
		return &failure{fmt.Sprintf("%s answered %d", service, r.status), err}
	}
}

// why is an error for people: its words, and the start of a service's own.
func why(err error) string {
	var f *failure
	if !errors.As(err, &f) {
		return printable(err.Error())
	}
	var r *refused
	if errors.As(err, &r) && r.message != "" {
		return printable(f.words + ": " + r.message)
	}
	return printable(f.words)
}

// printable returns the start of a text of others, without what cannot be seen.
func printable(s string) string {
	const most = 300
	var b strings.Builder
	n := 0
	for _, c := range s {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(c) {
			c = ' '
		}
		b.WriteRune(c)
	}
	return b.String()
}
