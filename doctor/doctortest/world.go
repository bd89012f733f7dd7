// Package doctortest has a Google Cloud project with an inbox in it, in memory, for
// tests of what looks at one. It is not written by hand: it is what an apply of the
// Terraform module leaves in the state and what scripts/deploy would run, in the form of
// Google's REST APIs. It is healthy until a test changes it.
//
// Of the functions it has publish and receive.
//
// It answers what doctor asks and nothing else, checks the permission of each call, and
// changes nothing by itself: metrics stay as they are whatever is broken.
package doctortest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/testkit/tfmodule"
)

// World is a project. Its fields may be changed before it is asked.
type World struct {
	// Outputs is what `terraform output -json` prints.
	Outputs []byte
	// Objects are Google's resources, by API and name, such as
	// pubsub/projects/demo-project/topics/inbox.
	Objects map[string]map[string]any
	// Policies are who may do what, by the same names.
	Policies map[string][]Binding
	// Roles are the permissions of each role.
	Roles map[string][]string
	// Denied are the permissions that the caller lacks.
	Denied map[string]bool
	// Perimeter are the APIs that VPC Service Controls refuse, each with the unique ID.
	Perimeter map[string]string
	// Skew is how far Google's clock is ahead of this machine's.
	Skew time.Duration
	// Undelivered, Oldest (seconds), Latency (99th percentile, microseconds) and Pushes
	// (by response class) are Monitoring's, by subscription ID.
	Undelivered, Oldest, Latency map[string]float64
	Pushes                       map[string]map[string]float64
	// Refusals are the lines of receive.
	Refusals []Refusal
	// Secrets are payloads by version.
	Secrets map[string]string
	// Documents are Firestore's, by path below the database.
	Documents map[string]map[string]any
	// Answer is what receive answers to a stranger; 0 is as it is deployed.
	Answer int

	mu sync.Mutex
	// asked are the permissions that were needed, unknown the requests that nobody
	// expects.
	asked   map[string]bool
	unknown []string
}

// Binding is one of a policy.
type Binding struct {
	Role      string            `json:"role"`
	Members   []string          `json:"members"`
	Condition map[string]string `json:"condition,omitempty"`
}

// Refusal is a line of a request that was refused.
type Refusal struct {
	Reason, Error string
	Status        int
}

// New returns a healthy world, as the module with these settings (HCL) makes it.
func New(tb testing.TB, settings string) *World {
	tb.Helper()
	a := apply(tb, settings)
	w := &World{
		Outputs: slices.Clone(a.Outputs), Objects: map[string]map[string]any{}, Policies: map[string][]Binding{},
		Roles: maps.Clone(predefined), Denied: map[string]bool{}, Perimeter: map[string]string{},
		Undelivered: map[string]float64{}, Oldest: map[string]float64{}, Latency: map[string]float64{}, Pushes: map[string]map[string]float64{},
		Secrets: map[string]string{}, Documents: map[string]map[string]any{}, asked: map[string]bool{},
	}
	w.Objects["cloudresourcemanager/projects/"+Project] = map[string]any{"name": "projects/" + Number, "projectId": Project, "state": "ACTIVE", "parent": "organizations/1"}
	for _, r := range a.Resources {
		if r.Mode == "managed" {
			w.add(r)
		}
	}
	w.deploy(tb, a.deployment)
	return w
}

// predefined are those of Google's roles that Terraform grants, with the permissions
// that matter here.
var predefined = map[string][]string{
	"roles/iam.serviceAccountTokenCreator": {"iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken"},
	"roles/pubsub.publisher":               {"pubsub.topics.publish"},
	"roles/pubsub.subscriber":              {"pubsub.subscriptions.consume", "pubsub.topics.attachSubscription"},
	"roles/pubsub.serviceAgent":            {"iam.serviceAccounts.getOpenIdToken", "pubsub.topics.publish", "pubsub.subscriptions.consume"},
	"roles/datastore.viewer":               {"datastore.entities.get", "datastore.entities.list"},
	"roles/datastore.user":                 {"datastore.entities.create", "datastore.entities.get", "datastore.entities.update", "datastore.entities.delete", "datastore.entities.list"},
	"roles/logging.logWriter":              {"logging.logEntries.create"},
	"roles/storage.objectAdmin":            {"storage.objects.get"},
}

// text returns a value of the state that is a text, and block the one block of a name.
func text(v map[string]any, name string) string { s, _ := v[name].(string); return s }

func block(v map[string]any, name string) map[string]any {
	if list, ok := v[name].([]any); ok && len(list) > 0 {
		m, _ := list[0].(map[string]any)
		if m == nil {
			m = map[string]any{}
		}
		return m
	}
	return nil
}

// set sets a value unless it is empty, as Google leaves those out.
func set(m map[string]any, name string, v any) {
	switch v {
	case nil, "", false, 0.0:
	default:
		m[name] = v
	}
}

// add translates a resource of Terraform's state.
func (w *World) add(r tfmodule.Resource) {
	v := r.Values
	p := "projects/" + Project
	condition := func() map[string]string {
		c := block(v, "condition")
		if c == nil {
			return nil
		}
		return map[string]string{"title": text(c, "title"), "expression": text(c, "expression")}
	}
	grant := func(on string) { w.Grant(on, text(v, "role"), text(v, "member"), condition()) }
	switch r.Type {
	case "google_project_service":
		name := p + "/services/" + text(v, "service")
		w.Objects["serviceusage/"+name] = map[string]any{"name": "projects/" + Number + "/services/" + text(v, "service"), "state": "ENABLED"}
	case "google_pubsub_topic":
		name := p + "/topics/" + text(v, "name")
		w.Objects["pubsub/"+name] = map[string]any{"name": name, "messageRetentionDuration": v["message_retention_duration"]}
	case "google_pubsub_subscription":
		w.subscription(v)
	case "google_pubsub_topic_iam_member":
		grant("pubsub/" + p + "/topics/" + text(v, "topic"))
	case "google_pubsub_subscription_iam_member":
		grant("pubsub/" + p + "/subscriptions/" + text(v, "subscription"))
	case "google_service_account":
		w.Objects["iam/"+text(v, "name")] = map[string]any{"name": text(v, "name"), "email": text(v, "email"), "uniqueId": "1"}
	case "google_service_account_iam_member":
		grant("iam/" + text(v, "service_account_id"))
	case "google_project_iam_member":
		grant("cloudresourcemanager/" + p)
	case "google_project_iam_custom_role":
		var permissions []string
		list, _ := v["permissions"].([]any)
		for _, one := range list {
			permissions = append(permissions, fmt.Sprint(one))
		}
		w.Roles[text(v, "name")] = permissions
	case "google_firestore_database":
		name := p + "/databases/" + text(v, "name")
		w.Objects["firestore/"+name] = map[string]any{"name": name, "type": text(v, "type"), "locationId": text(v, "location_id")}
	case "google_firestore_index":
		w.index(v)
	case "google_firestore_field":
		name := p + "/databases/" + text(v, "database") + "/collectionGroups/" + text(v, "collection") + "/fields/" + text(v, "field")
		f := map[string]any{"name": name, "indexConfig": map[string]any{}}
		if block(v, "ttl_config") != nil {
			f["ttlConfig"] = map[string]any{"state": "ACTIVE"}
		}
		w.Objects["firestore/"+name] = f
	case "google_secret_manager_secret_version":
		secret := map[string]string{"receive": "inbox-verification-token", "mns": "inbox-mns-secret"}[fmt.Sprint(r.Index)]
		name := p + "/secrets/" + secret + "/versions/" + text(v, "version")
		w.Objects["secretmanager/"+name] = map[string]any{"name": name, "state": "ENABLED"}
		w.Secrets[name] = Marker
	case "google_cloud_scheduler_job":
		name := p + "/locations/" + text(v, "region") + "/jobs/" + text(v, "name")
		w.Objects["cloudscheduler/"+name] = map[string]any{"name": name, "state": "ENABLED"}
	}
}

func (w *World) subscription(v map[string]any) {
	name := "projects/" + Project + "/subscriptions/" + text(v, "name")
	s := map[string]any{"name": name, "topic": text(v, "topic"), "state": "ACTIVE", "pushConfig": map[string]any{}}
	for ours, theirs := range map[string]string{
		"ackDeadlineSeconds": "ack_deadline_seconds", "messageRetentionDuration": "message_retention_duration", "filter": "filter",
		"enableMessageOrdering": "enable_message_ordering", "enableExactlyOnceDelivery": "enable_exactly_once_delivery",
	} {
		set(s, ours, v[theirs])
	}
	if e := block(v, "expiration_policy"); e != nil {
		s["expirationPolicy"] = map[string]any{}
		set(s["expirationPolicy"].(map[string]any), "ttl", e["ttl"])
	}
	if r := block(v, "retry_policy"); r != nil {
		s["retryPolicy"] = map[string]any{"minimumBackoff": r["minimum_backoff"], "maximumBackoff": r["maximum_backoff"]}
	}
	if d := block(v, "dead_letter_policy"); d != nil {
		s["deadLetterPolicy"] = map[string]any{"deadLetterTopic": d["dead_letter_topic"], "maxDeliveryAttempts": d["max_delivery_attempts"]}
	}
	if p := block(v, "push_config"); p != nil {
		push := map[string]any{"pushEndpoint": p["push_endpoint"], "attributes": map[string]any{"x-goog-version": "v1"}}
		if o := block(p, "oidc_token"); o != nil {
			push["oidcToken"] = map[string]any{"serviceAccountEmail": o["service_account_email"], "audience": o["audience"]}
		}
		if n := block(p, "no_wrapper"); n != nil {
			push["noWrapper"] = map[string]any{}
			set(push["noWrapper"].(map[string]any), "writeMetadata", n["write_metadata"])
		}
		s["pushConfig"] = push
	}
	w.Objects["pubsub/"+name] = s
	id := text(v, "name")
	w.Undelivered[id], w.Oldest[id] = 0, 0
	if block(v, "push_config") != nil {
		w.Pushes[id] = map[string]float64{"ack": 1000}
		w.Latency[id] = 25000
	}
}

func (w *World) index(v map[string]any) {
	group := "firestore/projects/" + Project + "/databases/" + text(v, "database") + "/collectionGroups/" + text(v, "collection") + "/indexes/"
	var fields []any
	list, _ := v["fields"].([]any)
	for _, one := range list {
		f, _ := one.(map[string]any)
		field := map[string]any{"fieldPath": f["field_path"]}
		set(field, "order", f["order"])
		set(field, "arrayConfig", f["array_config"])
		fields = append(fields, field)
	}
	fields = append(fields, map[string]any{"fieldPath": "__name__", "order": "ASCENDING"})
	id := fmt.Sprintf("%s%03d", group, len(w.Objects))
	w.Objects[id] = map[string]any{"name": strings.TrimPrefix(id, "firestore/"), "queryScope": text(v, "query_scope"), "state": "READY", "fields": fields}
}

// deploy makes the functions that scripts/deploy would.
func (w *World) deploy(tb testing.TB, printed string) {
	tb.Helper()
	environment := map[string]map[string]string{}
	for _, part := range strings.Split(printed, "\n# ")[1:] {
		head, rest, _ := strings.Cut(part, "\n")
		name, what, _ := strings.Cut(head, ": ")
		switch {
		case strings.HasSuffix(what, ".env.yaml"):
			env := map[string]string{}
			if err := json.Unmarshal([]byte(rest), &env); err != nil {
				tb.Fatalf("the environment of %s in scripts/deploy --dry-run: %v", name, err)
			}
			environment[name] = env
		case strings.HasPrefix(what, "the commands"):
			for line := range strings.Lines(rest) {
				w.command(strings.Fields(strings.ReplaceAll(line, `\`, "")), environment)
			}
		}
	}
	if len(environment) == 0 {
		tb.Fatalf("scripts/deploy --dry-run prints no function:\n%s", printed)
	}
}

// command does what a command of gcloud's does.
func (w *World) command(words []string, environment map[string]map[string]string) {
	flags := map[string]string{}
	var args []string
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		if strings.HasPrefix(name, "--") {
			flags[name] = value
		} else {
			args = append(args, word)
		}
	}
	if len(args) < 4 {
		return
	}
	switch strings.Join(args[:3], " ") {
	case "gcloud functions deploy":
		w.function(args[3], flags, environment[args[3]])
	case "gcloud run services":
		if _, off := flags["--no-invoker-iam-check"]; off {
			w.Service(args[4])["invokerIamDisabled"] = true
		}
	}
}

func (w *World) function(name string, flags, env map[string]string) {
	at := "projects/" + Project + "/locations/" + Region
	url := "https://" + name + "-" + Number + "." + Region + ".run.app"
	old := "https://" + name + "-abcdefghij-ew.a.run.app"
	variables := []any{}
	plain := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		variables = append(variables, map[string]any{"name": k, "value": env[k]})
		plain[k] = env[k]
	}
	for _, pair := range strings.Split(flags["--set-secrets"], ",") {
		if variable, secret, ok := strings.Cut(pair, "="); ok {
			id, version, _ := strings.Cut(secret, ":")
			variables = append(variables, map[string]any{"name": variable, "valueSource": map[string]any{"secretKeyRef": map[string]any{"secret": id, "version": version}}})
		}
	}
	ingress := map[string]string{"all": "ALL", "internal-only": "INTERNAL_ONLY"}[flags["--ingress-settings"]]
	w.Objects["cloudfunctions/"+at+"/functions/"+name] = map[string]any{
		"name": at + "/functions/" + name, "state": "ACTIVE", "environment": "GEN_2", "url": "https://" + Region + "-" + Project + ".cloudfunctions.net/" + name,
		"serviceConfig": map[string]any{
			"uri": old, "service": at + "/services/" + name, "serviceAccountEmail": flags["--service-account"],
			"ingressSettings": "ALLOW_" + ingress, "environmentVariables": plain,
		},
	}
	revision := at + "/services/" + name + "/revisions/" + name + "-00002-abc"
	w.Objects["run/"+at+"/services/"+name] = map[string]any{
		"name": at + "/services/" + name, "uri": old, "urls": []any{url, old}, "ingress": "INGRESS_TRAFFIC_" + ingress,
		"latestReadyRevision": revision, "latestCreatedRevision": revision,
		"terminalCondition": map[string]any{"type": "Ready", "state": "CONDITION_SUCCEEDED"},
		"template": map[string]any{
			"timeout": flags["--timeout"], "serviceAccount": flags["--service-account"], "containers": []any{map[string]any{"env": variables}},
		},
		"traffic": []any{map[string]any{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100.0}},
	}
	if _, open := flags["--allow-unauthenticated"]; open {
		w.Grant("run/"+at+"/services/"+name, "roles/run.invoker", "allUsers", nil)
	}
}

// Grant adds a member to a policy.
func (w *World) Grant(on, role, member string, condition map[string]string) {
	w.Policies[on] = append(w.Policies[on], Binding{role, []string{member}, condition})
}

// Revoke takes a role of a member away wherever it is granted.
func (w *World) Revoke(role, member string) {
	for on, bindings := range w.Policies {
		w.Policies[on] = slices.DeleteFunc(slices.Clone(bindings), func(b Binding) bool { return b.Role == role && b.Members[0] == member })
	}
}

// Agent is Pub/Sub's.
const Agent = "serviceAccount:service-" + Number + "@gcp-sa-pubsub.iam.gserviceaccount.com"

// Names of what most tests change.
const (
	InboxSubscription = "pubsub/projects/" + Project + "/subscriptions/inbox-push"
	DeadSubscription  = "pubsub/projects/" + Project + "/subscriptions/inbox-dead-letter"
	DeadTopic         = "pubsub/projects/" + Project + "/topics/inbox-dead-letter"
	PushAccount       = "iam/projects/" + Project + "/serviceAccounts/inbox-push@" + Project + ".iam.gserviceaccount.com"
	Database          = "firestore/projects/" + Project + "/databases/(default)"
)

// Subscription is the main one.
func (w *World) Subscription() map[string]any { return w.Objects[InboxSubscription] }

// Push is the push configuration of the main subscription.
func (w *World) Push() map[string]any { return w.Subscription()["pushConfig"].(map[string]any) }

// SetEndpoint changes the push endpoint of the main subscription.
func (w *World) SetEndpoint(change func(*url.URL)) {
	u, err := url.Parse(w.Push()["pushEndpoint"].(string))
	if err != nil {
		panic(err)
	}
	change(u)
	w.Push()["pushEndpoint"] = u.String()
}

// Service is a function's service.
func (w *World) Service(name string) map[string]any {
	return w.Objects["run/projects/"+Project+"/locations/"+Region+"/services/"+name]
}

// Function is a function.
func (w *World) Function(name string) map[string]any {
	return w.Objects["cloudfunctions/projects/"+Project+"/locations/"+Region+"/functions/"+name]
}

// SetEnv changes a variable of receive.
func (w *World) SetEnv(name, value string) {
	containers := w.Service("receive")["template"].(map[string]any)["containers"].([]any)
	for _, e := range containers[0].(map[string]any)["env"].([]any) {
		if v := e.(map[string]any); v["name"] == name {
			v["value"] = value
		}
	}
}

// Field is a field of Firestore's.
func (w *World) Field(collection, name string) map[string]any {
	return w.Objects[Database+"/collectionGroups/"+collection+"/fields/"+name]
}

// Indexes are the names of the composite indexes.
func (w *World) Indexes() []string {
	var names []string
	for name := range w.Objects {
		if strings.Contains(name, "/indexes/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Asked returns the permissions that were needed so far.
func (w *World) Asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.asked))
}

// Unknown returns the requests that nobody expects.
func (w *World) Unknown() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.unknown)
}

// Client returns a client of the world, which no request leaves.
func (w *World) Client() *http.Client { return &http.Client{Transport: transport{w}} }

type transport struct{ http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	in := r.Clone(r.Context())
	in.Host = r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	t.ServeHTTP(rec, in)
	return rec.Result(), nil
}
