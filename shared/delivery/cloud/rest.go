package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/googleerror"
)

// maxAnswer is the largest answer that is read, in bytes.
const maxAnswer = 8 << 20

// rest calls Google's services.
type rest struct {
	client func() (*http.Client, error)
}

// call sends a request, with body as JSON if there is one, and decodes the answer. The
// error of another answer than 200 is a *googleerror.Error.
func (r *rest) call(ctx context.Context, method, url string, body, answer any) error {
	client, err := r.client()
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
		return googleerror.Of(resp.StatusCode, b)
	}
	return json.Unmarshal(b, answer)
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
	var e *googleerror.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &e):
		return &failure{service + " cannot be reached", err}
	case e.Cause == googleerror.Perimeter:
		return &failure{"VPC Service Controls keep the console from " + service, err}
	case e.Cause == googleerror.Disabled:
		return &failure{"the API of " + service + " is disabled in the project", err}
	case e.Status == http.StatusForbidden:
		return &failure{"no permission " + permission + " on " + resource + " (" + role + ")", err}
	case e.Status == http.StatusNotFound:
		return &failure{resource + " does not exist", err}
	case e.Status == http.StatusTooManyRequests:
		return &failure{service + " is asked too often; look again in a minute", err}
	default:
		return &failure{fmt.Sprintf("%s answered %d", service, e.Status), err}
	}
}

// why is an error for people: its words, and the start of a service's own.
func why(err error) string {
	var f *failure
	if !errors.As(err, &f) {
		return delivery.OneLine(err.Error())
	}
	var e *googleerror.Error
	if errors.As(err, &e) && e.Message != "" {
		return delivery.OneLine(f.words + ": " + e.Message)
	}
	return delivery.OneLine(f.words)
}
