package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"example.com/pushinbox/shared/shell"
)

// Target is the inbox to be examined: what there should be, as far as it is known.
type Target struct {
	// Terraform is the folder of the module that made it, empty where it is not known.
	// With it, what is wrong is mended by an apply.
	Terraform string
	Project   string
	// Number is the project's number by Terraform, empty where it is not known.
	Number string
	Region string
	// Service is the name of receive, empty where it has to be looked for.
	Service       string
	Subscriptions []Subscription
	// DeadLetterTopic and DeadLetterSubscription are full names, empty where they have
	// to be looked for.
	DeadLetterTopic        string
	DeadLetterSubscription string
	// Database is projects/P/databases/D, and Collection where messages are.
	Database         string
	Collection       string
	SearchAttributes []string
	// LogView is the full name of a log view with receive's lines, or empty.
	LogView string
	// Account is the one that receive runs as, PushAccount the one that signs.
	Account     string
	PushAccount string
	// Ingress is as gcloud has it: all or internal-only.
	Ingress string
	// Environment is what receive is to be deployed with; nil where it is not known.
	Environment map[string]string
	// Secrets are the variables that come from Secret Manager, of each function, as
	// SECRET:VERSION.
	Secrets map[string]map[string]string
	// APIs are those that have to be on.
	APIs []string
	// Calendar is whether there is the function calendar, SchedulerRegion where its
	// jobs are, CalendarCollection where its state is.
	Calendar           bool
	SchedulerRegion    string
	CalendarCollection string
}

// Subscription is one that pushes to receive.
type Subscription struct {
	// Name is the full name.
	Name string
	// Wanted is how it is meant to be, nil where that is not known.
	Wanted *Wanted
	// Key is Terraform's name for it.
	Key string
}

// Wanted is how a subscription is meant to be.
type Wanted struct {
	Topic               string  `json:"topic"`
	Endpoint            string  `json:"endpoint"`
	Audience            string  `json:"audience"`
	Form                string  `json:"form"`
	Filter              string  `json:"filter"`
	AckDeadlineSeconds  float64 `json:"ack_deadline_seconds"`
	MinimumBackoff      float64 `json:"minimum_backoff_seconds"`
	MaximumBackoff      float64 `json:"maximum_backoff_seconds"`
	MaxDeliveryAttempts float64 `json:"max_delivery_attempts"`
	Paused              bool    `json:"paused"`
}

// baseAPIs are those that the way of a message takes.
var baseAPIs = []string{
	"cloudfunctions.googleapis.com", "firestore.googleapis.com", "iam.googleapis.com", "logging.googleapis.com",
	"monitoring.googleapis.com", "pubsub.googleapis.com", "run.googleapis.com",
}

// FromTerraform returns the target that the outputs of the module in a folder tell, as
// `terraform output -json` prints them.
func FromTerraform(dir string, output []byte) (*Target, error) {
	o, err := ReadOutputs(output)
	if err != nil {
		return nil, err
	}
	d := o.Delivery.Value
	receive, ok := o.Functions.Value["receive"]
	if d == nil || !ok || len(d.Subscriptions) == 0 {
		return nil, errors.New("the outputs of Terraform have no delivery, or no function receive: apply the module of this version with `" + command("terraform", "-chdir="+dir, "apply") + "`")
	}
	t := &Target{
		Terraform: dir, Project: d.Project, Number: d.ProjectNumber, Region: d.Region, Service: "receive",
		DeadLetterTopic: d.DeadLetterTopic, DeadLetterSubscription: d.DeadLetterSubscription,
		Database: d.Database, Collection: d.Collection, SearchAttributes: d.SearchAttributes, LogView: d.LogView,
		Account: receive.ServiceAccount, PushAccount: d.PushAccount, Ingress: receive.Ingress,
		Environment: receive.Environment, Secrets: map[string]map[string]string{}, APIs: slices.Clone(baseAPIs),
		SchedulerRegion: d.SchedulerRegion,
	}
	for name, f := range o.Functions.Value {
		if len(f.Secrets) > 0 {
			t.Secrets[name] = f.Secrets
		}
		if name == "calendar" {
			t.Calendar = true
			t.CalendarCollection = f.Environment["CALENDAR_COLLECTION"]
			t.APIs = append(t.APIs, "calendar-json.googleapis.com", "cloudscheduler.googleapis.com")
		}
	}
	if len(t.Secrets) > 0 {
		t.APIs = append(t.APIs, "secretmanager.googleapis.com")
	}
	for _, key := range slices.Sorted(maps.Keys(d.Subscriptions)) {
		s := d.Subscriptions[key]
		if s.Function != "" && s.Function != t.Service {
			continue // a function of the user's own; --subscription examines it
		}
		t.Subscriptions = append(t.Subscriptions, Subscription{Name: s.Name, Wanted: &s.Wanted, Key: key})
	}
	return t, nil
}

// Named returns the target that a project and a subscription tell, whose name may be
// full or short. What else there is Examine looks for.
func Named(project, subscription string) (*Target, error) {
	if project == "" || strings.ContainsAny(project, "/ ?#%") {
		return nil, fmt.Errorf("%q is not a valid project ID", project)
	}
	name := subscription
	if !strings.Contains(name, "/") {
		name = "projects/" + project + "/subscriptions/" + name
	}
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[0] != "projects" || parts[2] != "subscriptions" || parts[1] == "" || parts[3] == "" || strings.ContainsAny(name, " ?#") {
		return nil, fmt.Errorf("%q is not a valid subscription name, such as inbox-push or projects/PROJECT/subscriptions/inbox-push", subscription)
	}
	return &Target{
		Project: project, Subscriptions: []Subscription{{Name: name}},
		APIs: slices.Clone(baseAPIs),
	}, nil
}

// projectOf returns the project of a full name.
func projectOf(name string) string {
	if parts := strings.Split(name, "/"); len(parts) > 1 {
		return parts[1]
	}
	return ""
}

// schedulerRegion is where the jobs of the calendar are.
func (t *Target) schedulerRegion() string { return cmp.Or(t.SchedulerRegion, t.Region) }

// command returns a command line with its arguments quoted for a shell.
func command(args ...string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = shell.Quote(a)
	}
	return strings.Join(quoted, " ")
}
