// Package cloud tells how delivery goes in Google Cloud: the subscriptions from
// Pub/Sub, numbers from Cloud Monitoring, refusals from a log view of receive's lines,
// and operations under way from their records. It only reads.
//
// It speaks REST with a few small types of its own, since Google's clients of these
// services would be most of the function that serves the console. What one service does
// not answer is unknown, and the rest is told. Answers are kept for a minute: Cloud
// Logging allows about one list a second for a project, and Monitoring's numbers are
// minutes old anyway.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2/google"
	"golang.org/x/sync/singleflight"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/expiry"
)

const (
	// keep is how long an answer is kept, and keepError how long one that failed.
	keep      = time.Minute
	keepError = 10 * time.Second
	// fetchTimeout is how long one answer may take; who asked for a report may have
	// gone by then.
	fetchTimeout = 15 * time.Second
)

// Config says what there is to tell of.
type Config struct {
	// Subscriptions are the full names of the push subscriptions, and DeadLetters that
	// of the subscription with their dead letters, or empty.
	Subscriptions []string
	DeadLetters   string
	// LogView is the full name of the log view of receive's lines, or empty.
	LogView string
}

// Source tells of the delivery in Google Cloud. Its method is safe for concurrent use.
type Source struct {
	cfg     Config
	records delivery.Records
	rest    rest
	// names are all subscriptions, that of the dead letters last.
	names []string

	subscriptions kept[[]subscription]
	operations    kept[map[string]*delivery.Operation]
	refusals      kept[refusals]
	// numbers has those of each project that has a subscription.
	numbers map[string]*kept[numbers]
}

// New returns the source for c. records, if any, has the operations under way. A nil
// client means one with the application default credentials, which are looked for on
// first use.
func New(c Config, records delivery.Records, client *http.Client) (*Source, error) {
	s := &Source{cfg: c, records: records, numbers: make(map[string]*kept[numbers])}
	for _, name := range append(append([]string{}, c.Subscriptions...), c.DeadLetters) {
		if name == "" {
			continue
		}
		if parts := strings.Split(name, "/"); len(parts) != 4 || parts[0] != "projects" || parts[2] != "subscriptions" {
			return nil, fmt.Errorf("cloud: %q is not the full name of a subscription", name)
		}
		s.names = append(s.names, name)
		s.numbers[projectOf(name)] = &kept[numbers]{}
	}
	if len(s.names) == 0 {
		return nil, errors.New("cloud: no subscription is named")
	}
	s.rest.client = defaultClient()
	if client != nil {
		client = direct(client)
		s.rest.client = func() (*http.Client, error) { return client, nil }
	}
	return s, nil
}

// defaultClient returns a function that looks for the application default credentials
// until it has found them.
func defaultClient() func() (*http.Client, error) {
	var mu sync.Mutex
	var client *http.Client
	return func() (*http.Client, error) {
		mu.Lock()
		defer mu.Unlock()
		if client != nil {
			return client, nil
		}
		found, err := google.DefaultClient(context.Background(), "https://www.googleapis.com/auth/cloud-platform")
		if err != nil {
			return nil, &failure{"there are no Google credentials", err}
		}
		client = direct(found)
		return client, nil
	}
}

// direct returns a client that follows no redirect: it would take the credential elsewhere,
// which c adds to every request.
func direct(c *http.Client) *http.Client {
	d := *c
	d.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &d
}

// projectOf returns the project of a full name.
func projectOf(name string) string { return strings.Split(name, "/")[1] }

// Report returns what is known within the time of ctx, and names what is not. It
// returns no error.
func (s *Source) Report(ctx context.Context) (*delivery.Report, error) {
	r := &delivery.Report{At: time.Now().UTC(), Subscriptions: []delivery.Subscription{}, Refusals: []delivery.Refusal{}, Unknown: []delivery.Unknown{}}
	var subs []subscription
	var operations map[string]*delivery.Operation
	var refused refusals
	byProject := make(map[string]numbers)
	var mu sync.Mutex // of Unknown and byProject
	unknown := func(what string, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			r.Unknown = append(r.Unknown, delivery.Unknown{What: what, Why: why(err)})
		}
	}
	var all sync.WaitGroup
	all.Go(func() {
		got, err := s.subscriptions.get(ctx, s.fetchSubscriptions)
		unknown("subscriptions", err)
		subs = got
	})
	all.Go(func() {
		got, err := s.operations.get(ctx, s.fetchOperations)
		unknown("operations", err)
		operations = got
	})
	all.Go(func() {
		got, err := s.refusals.get(ctx, s.fetchRefusals)
		unknown("refusals", err)
		refused = got
	})
	for project, k := range s.numbers {
		all.Go(func() {
			got, err := k.get(ctx, func(ctx context.Context) (numbers, error) { return s.fetchNumbers(ctx, project) })
			unknown("numbers", err)
			mu.Lock()
			defer mu.Unlock()
			byProject[project] = got
		})
	}
	all.Wait()

	for i, name := range s.names {
		sub := delivery.Subscription{Name: name, DeadLetters: name == s.cfg.DeadLetters, State: delivery.NotKnown, Operation: operations[name]}
		if i < len(subs) {
			subs[i].describe(&sub)
			unknown("subscriptions", subs[i].err)
		}
		byProject[projectOf(name)].describe(&sub)
		r.Subscriptions = append(r.Subscriptions, sub)
	}
	r.Refusals = append(r.Refusals, refused.lines...)
	r.RefusalsFrom = refused.from
	return r, nil
}

// fetchOperations reads the records of all subscriptions.
func (s *Source) fetchOperations(ctx context.Context) (map[string]*delivery.Operation, error) {
	found := make(map[string]*delivery.Operation)
	if s.records == nil {
		return found, nil
	}
	for _, name := range s.names {
		o, err := s.records.Get(ctx, name)
		if err != nil {
			return nil, &failure{"the records of operations under way cannot be read", err}
		}
		if o != nil {
			found[name] = o
		}
	}
	return found, nil
}

// kept is an answer that is fetched once for all who ask for it, and kept for a while.
type kept[T any] struct {
	flight singleflight.Group
	// Only a flight reads and writes the others.
	value T
	err   error
	until time.Time
}

// get returns the answer, or an error once ctx has ended. What was fetched in vain for
// one who did not wait is there for the next.
func (k *kept[T]) get(ctx context.Context, fetch func(context.Context) (T, error)) (value T, err error) {
	done := k.flight.DoChan("", func() (any, error) {
		if !expiry.IsOver(time.Now(), k.until) {
			return k.value, k.err
		}
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		defer cancel()
		k.value, k.err = fetch(ctx)
		k.until = time.Now().Add(keep)
		if k.err != nil {
			k.until = time.Now().Add(keepError)
		}
		return k.value, k.err
	})
	select {
	case r := <-done:
		return r.Val.(T), r.Err
	case <-ctx.Done():
		return value, errSlow
	}
}
