// Package cloud is what operations take from Google Cloud besides Pub/Sub and
// Firestore: whether a principal may act as an account, the shared token, the log of
// operations, what waits in a subscription, and who the principal is. It calls
// Google's REST APIs with the operator's own credentials.
package cloud

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/api/googleapi"
	"google.golang.org/api/iam/v1"
	"google.golang.org/api/logging/v2"
	"google.golang.org/api/monitoring/v3"
	"google.golang.org/api/oauth2/v2"
	"google.golang.org/api/option"
	"google.golang.org/api/secretmanager/v1"

	"example.com/pushinbox/operations"
)

const (
	// callTimeout bounds one call.
	callTimeout = 20 * time.Second
	// numbersFrom is how far back a number of Monitoring may be: they lag by minutes.
	numbersFrom = 10 * time.Minute
	// actAs is the permission to have Google sign as a service account.
	actAs = "iam.serviceAccounts.actAs"
)

// Cloud is Google Cloud. The zero value has the application default credentials.
type Cloud struct {
	// Options are those of every client, such as other credentials.
	Options []option.ClientOption

	ahead atomic.Int64 // of this machine's clock, Google's
}

// leastSkew is how far two clocks differ at least that are not taken for one.
const leastSkew = 5 * time.Second

// Now returns the time at Google, as far as the answer of Principal told. A purge
// discards what was published until then, which must not be later than its snapshot.
func (c *Cloud) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// heard takes the time from an answer.
func (c *Cloud) heard(answer http.Header) {
	at, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return
	}
	if ahead := time.Until(at); ahead.Abs() >= leastSkew {
		c.ahead.Store(int64(ahead))
	}
}

// options returns the options of a client that has these scopes.
func (c *Cloud) options() []option.ClientOption {
	return append([]option.ClientOption{option.WithScopes("https://www.googleapis.com/auth/cloud-platform", oauth2.UserinfoEmailScope)}, c.Options...)
}

// explain says what a refused call needs.
func explain(err error, tried, permission string) error {
	if err == nil {
		return nil
	}
	if refused := (*googleapi.Error)(nil); errors.As(err, &refused) {
		said := refused.Message
		if said == "" {
			said = http.StatusText(refused.Code)
		}
		if refused.Code == http.StatusForbidden && permission != "" {
			return fmt.Errorf("cannot %s: you need %s: %d %s", tried, permission, refused.Code, said)
		}
		return fmt.Errorf("cannot %s: %d %s", tried, refused.Code, said)
	}
	return fmt.Errorf("cannot %s: %w", tried, err)
}

// ActAs returns an error unless the principal may have Google sign as a service
// account.
func (c *Cloud) ActAs(ctx context.Context, account string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	tried := "ask whether you may act as " + account
	service, err := iam.NewService(ctx, c.options()...)
	if err != nil {
		return explain(err, tried, "")
	}
	request := &iam.TestIamPermissionsRequest{Permissions: []string{actAs}}
	answer, err := service.Projects.ServiceAccounts.TestIamPermissions("projects/-/serviceAccounts/"+account, request).Context(ctx).Do()
	if err != nil {
		return explain(err, tried, "")
	}
	if !slices.Contains(answer.Permissions, actAs) {
		return fmt.Errorf("you need %s on %s, which roles/iam.serviceAccountUser has, or there is no such account", actAs, account)
	}
	return nil
}

// Secret returns the text of a secret version, projects/P/secrets/S/versions/V.
func (c *Cloud) Secret(ctx context.Context, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	tried := "read " + version
	service, err := secretmanager.NewService(ctx, c.options()...)
	if err != nil {
		return "", explain(err, tried, "")
	}
	answer, err := service.Projects.Secrets.Versions.Access(version).Context(ctx).Do()
	if err != nil {
		return "", explain(err, tried, "secretmanager.versions.access on it")
	}
	secret, err := base64.StdEncoding.DecodeString(answer.Payload.Data)
	if err != nil {
		return "", errors.New("the answer to " + tried + " is not base64")
	}
	return string(secret), nil
}

// Principal returns the e-mail address of who calls.
func (c *Cloud) Principal(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	const tried = "ask Google who you are"
	service, err := oauth2.NewService(ctx, c.options()...)
	if err != nil {
		return "", explain(err, tried, "")
	}
	info, err := service.Userinfo.V2.Me.Get().Context(ctx).Do()
	if err != nil {
		if refused := (*googleapi.Error)(nil); errors.As(err, &refused) {
			c.heard(refused.Header)
		}
		return "", explain(err, tried, "")
	}
	c.heard(info.Header)
	if info.Email == "" {
		return "", errors.New("cannot " + tried + ": the credentials have no e-mail address")
	}
	return info.Email, nil
}

// Log is the log of operations in Cloud Logging.
type Log struct {
	Cloud *Cloud
	// Name is its full name, projects/P/logs/L.
	Name string
}

var _ operations.Log = (*Log)(nil)

// Write implements operations.Log.
func (l *Log) Write(ctx context.Context, e operations.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	tried := "write to the log " + l.Name
	service, err := logging.NewService(ctx, l.Cloud.options()...)
	if err != nil {
		return explain(err, tried, "")
	}
	payload, err := json.Marshal(e)
	if err != nil {
		return err
	}
	severity := "NOTICE"
	if e.Outcome == "failed" {
		severity = "ERROR"
	}
	project, _, _ := strings.Cut(strings.TrimPrefix(l.Name, "projects/"), "/")
	_, err = service.Entries.Write(&logging.WriteLogEntriesRequest{Entries: []*logging.LogEntry{{
		LogName: l.Name, Timestamp: e.Time.Format(time.RFC3339Nano), Severity: severity, JsonPayload: payload,
		Resource: &logging.MonitoredResource{Type: "global", Labels: map[string]string{"project_id": project}},
	}}}).Context(ctx).Do()
	return explain(err, tried, "logging.logEntries.create")
}

// Backlog returns what waits in a subscription, as Monitoring last saw it; nil where
// it has seen nothing of late.
func (c *Cloud) Backlog(ctx context.Context, subscription string) (*operations.Backlog, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	service, err := monitoring.NewService(ctx, c.options()...)
	if err != nil {
		return nil, explain(err, "read Monitoring", "")
	}
	at, messages, err := c.latest(ctx, service, subscription, "num_undelivered_messages")
	if err != nil || at.IsZero() {
		return nil, err
	}
	b := &operations.Backlog{At: at, Messages: messages}
	if _, seconds, err := c.latest(ctx, service, subscription, "oldest_unacked_message_age"); err == nil {
		b.Oldest = time.Duration(seconds) * time.Second
	}
	return b, nil
}

// latest returns the latest value of a gauge of a subscription, and when it was so.
func (c *Cloud) latest(ctx context.Context, service *monitoring.Service, subscription, metric string) (at time.Time, value int64, err error) {
	project, id, _ := strings.Cut(subscription, "/subscriptions/")
	now := c.Now().UTC()
	answer, err := service.Projects.TimeSeries.List(project).
		Filter(fmt.Sprintf("metric.type=%q AND resource.labels.subscription_id=%q", "pubsub.googleapis.com/subscription/"+metric, id)).
		IntervalStartTime(now.Add(-numbersFrom).Format(time.RFC3339)).IntervalEndTime(now.Format(time.RFC3339)).
		PageSize(100).Context(ctx).Do()
	if err != nil {
		return at, 0, explain(err, "read "+metric+" of "+id, "monitoring.timeSeries.list")
	}
	for _, series := range answer.TimeSeries {
		for _, p := range series.Points {
			if p.Interval == nil || p.Value == nil || p.Value.Int64Value == nil {
				continue
			}
			if end, err := time.Parse(time.RFC3339Nano, p.Interval.EndTime); err == nil && end.After(at) {
				at, value = end, *p.Value.Int64Value
			}
		}
	}
	return at, value, nil
}
