package doctor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/pushinbox/shared/calendar/firestorestate"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
)

// facts is all that Google was asked, and what there should be.
type facts struct {
	at     time.Time
	target *Target

	project fact[project]
	apis    fact[apiStates]
	policy  fact[policy]
	roles   map[string]*fact[role]
	// troubleshot has what the policy troubleshooter says of grants that are found
	// neither on the resource nor on the project.
	troubleshot map[grant]*fact[troubleshooting]

	subs    map[string]*subscriptionFacts
	records map[string]*fact[document]
	dead    fact[subscription]
	topics  map[string]*deadTopic

	account       fact[serviceAccount]
	accountPolicy fact[policy]

	all           fact[functions] // only asked where the service has to be looked for
	function      fact[function]
	service       fact[service]
	servicePolicy fact[policy]
	probe         fact[answered]
	constraints   map[string]*fact[orgPolicy]

	database   fact[database]
	indexes    map[string]*fact[indexes]
	fields     map[fieldName]*fact[field]
	declared   []declaredIndex
	declaredOf []declaredField

	backlog, oldest, latency fact[map[string]float64]
	pushes                   fact[map[string]map[string]float64]
	refusals                 fact[logEntries]

	versions map[string]*fact[secretVersion]
	token    fact[[sha256.Size]byte] // of the secret that receive compares with

	jobs     map[string]*fact[job]
	channels fact[documents]

	mu sync.Mutex
	// skew is what Google's answers tell of this machine's clock, and answered whether
	// any of them was one that says something.
	skew     []time.Duration
	answered bool
	// refused is how many questions VPC Service Controls refused, and violations has
	// their unique IDs.
	refused    int
	violations map[string]bool
}

type subscriptionFacts struct {
	sub    fact[subscription]
	policy fact[policy]
	// project is the one that the subscription is in.
	project fact[project]
}

// deadTopic is a dead-letter topic.
type deadTopic struct {
	policy        fact[policy]
	subscriptions fact[topicSubscriptions]
}

// fieldName is a field of a collection group.
type fieldName struct{ collection, field string }

// answered is what a request without a token was answered.
type answered struct {
	status int
	html   bool
	// ours is whether it is the answer of a program of this project.
	ours bool
}

type declaredIndex struct {
	CollectionGroup string       `json:"collectionGroup"`
	Fields          []indexField `json:"fields"`
}

type declaredField struct {
	CollectionGroup string       `json:"collectionGroup"`
	FieldPath       string       `json:"fieldPath"`
	TTL             bool         `json:"ttl"`
	Indexes         []indexField `json:"indexes"`
}

// The organisation's policies that may stand in the way of receive.
const (
	oldMembers     = "iam.allowedPolicyMemberDomains"
	newMembers     = "iam.managed.allowedPolicyMembers"
	requireInvoker = "run.managed.requireInvokerIam"
	allowedIngress = "run.allowedIngress"
)

// scanned is how far back logs and metrics are looked at.
const scanned = time.Hour

// asker asks many questions at once.
type asker struct {
	context.Context
	*google
	wait sync.WaitGroup
}

// now answers a question in the background.
func now[T any](a *asker, into *fact[T], question func() fact[T]) {
	a.wait.Go(func() { *into = question() })
}

// read is now for what is only read.
func read[T any](a *asker, into *fact[T], by, permission, url string) {
	now(a, into, func() fact[T] { return get[T](a.Context, a.google, by, permission, url) })
}

// post is now for what is asked with a body.
func post[T any](a *asker, into *fact[T], by, permission, url string, body any) {
	now(a, into, func() fact[T] { return ask[T](a.Context, a.google, by, permission, http.MethodPost, url, body) })
}

// The APIs.
const (
	crmAPI       = "https://cloudresourcemanager.googleapis.com/v3/"
	usageAPI     = "https://serviceusage.googleapis.com/v1/"
	pubsubAPI    = "https://pubsub.googleapis.com/v1/"
	iamAPI       = "https://iam.googleapis.com/v1/"
	runAPI       = "https://run.googleapis.com/v2/"
	functionsAPI = "https://cloudfunctions.googleapis.com/v2/"
	orgAPI       = "https://orgpolicy.googleapis.com/v2/"
	firestoreAPI = "https://firestore.googleapis.com/v1/"
	metricsAPI   = "https://monitoring.googleapis.com/v3/"
	loggingAPI   = "https://logging.googleapis.com/v2/"
	secretsAPI   = "https://secretmanager.googleapis.com/v1/"
	jobsAPI      = "https://cloudscheduler.googleapis.com/v1/"
	troubleAPI   = "https://policytroubleshooter.googleapis.com/v1/"
)

// conditions asks for policies with their conditions, and withConditions does where they
// are asked for with a body.
const conditions = "?options.requestedPolicyVersion=3"

var withConditions = map[string]any{"options": map[string]int{"requestedPolicyVersion": 3}}

// collect asks all. What depends on an answer is asked after it.
func collect(ctx context.Context, o Options, t *Target) *facts {
	target := *t // discover and derive add to it
	f := &facts{
		at: o.Now(), target: &target, roles: map[string]*fact[role]{}, troubleshot: map[grant]*fact[troubleshooting]{},
		subs: map[string]*subscriptionFacts{}, records: map[string]*fact[document]{}, topics: map[string]*deadTopic{},
		constraints: map[string]*fact[orgPolicy]{}, indexes: map[string]*fact[indexes]{}, fields: map[fieldName]*fact[field]{},
		versions: map[string]*fact[secretVersion]{}, jobs: map[string]*fact[job]{}, violations: map[string]bool{},
	}
	// A redirect would take the credential elsewhere: the client adds it to every request.
	client := *o.Google
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	g := &google{
		client: &client, heard: func(sent, received time.Time, date string) { f.heard(o.Now, sent, received, date) },
		understood: f.understood, keptOut: f.keptOut,
	}
	a := &asker{Context: ctx, google: g}
	f.begin(a)
	a.wait.Wait()
	f.discover()
	f.goOn(a, o)
	a.wait.Wait()
	f.derive(a)
	a.wait.Wait()
	f.troubleshoot(a)
	a.wait.Wait()
	return f
}

// begin asks what a target always tells, and what it takes to find the rest.
func (f *facts) begin(a *asker) {
	t := f.target
	p := "projects/" + t.Project
	read(a, &f.project, "project", "resourcemanager.projects.get", crmAPI+p)
	names := url.Values{}
	for _, api := range t.APIs {
		names.Add("names", p+"/services/"+api)
	}
	read(a, &f.apis, "apis", "serviceusage.services.get", usageAPI+p+"/services:batchGet?"+names.Encode())
	for i := range t.Subscriptions {
		s := &subscriptionFacts{}
		name := t.Subscriptions[i].Name
		f.subs[name] = s
		read(a, &s.sub, "subscription", "pubsub.subscriptions.get", pubsubAPI+inPath(name))
		if other := projectOf(name); other != t.Project {
			read(a, &s.project, "project", "resourcemanager.projects.get", crmAPI+"projects/"+other)
		}
	}
	if t.Service == "" {
		read(a, &f.all, "service", "cloudfunctions.functions.list", functionsAPI+p+"/locations/-/functions?pageSize=1000")
	}
}

// discover sets in the target what the first answers tell.
func (f *facts) discover() {
	t := f.target
	for _, s := range f.subs {
		if s.project.state == unasked {
			s.project = f.project
		}
		if d := s.sub.value.DeadLetterPolicy; d != nil {
			f.topics[d.DeadLetterTopic] = &deadTopic{}
			if t.DeadLetterTopic == "" {
				t.DeadLetterTopic = d.DeadLetterTopic
			}
		}
	}
	if t.DeadLetterTopic != "" {
		f.topics[t.DeadLetterTopic] = &deadTopic{}
	}
	if t.Service != "" || f.all.state != known {
		return
	}
	found := f.receiver()
	if found == nil {
		return
	}
	parts := strings.Split(found.Name, "/")
	if len(parts) != 6 {
		return
	}
	env := found.ServiceConfig.EnvironmentVariables
	t.Region, t.Service = parts[3], parts[5]
	t.Account, t.PushAccount = found.ServiceConfig.ServiceAccountEmail, env["PUSH_SERVICE_ACCOUNT"]
	t.Database = "projects/" + t.Project + "/databases/" + cmp.Or(env["FIRESTORE_DATABASE"], "(default)")
	t.Collection = cmp.Or(env["INBOX_COLLECTION"], "messages")
}

// receiver returns the function that the subscription pushes to, or, where it pushes
// nowhere, the only one that receives pushes.
func (f *facts) receiver() *function {
	var receivers []*function
	for i := range f.all.value.Functions {
		one := &f.all.value.Functions[i]
		if one.ServiceConfig.EnvironmentVariables["PUSH_AUDIENCE"] != "" {
			receivers = append(receivers, one)
		}
		for _, s := range f.subs {
			endpoint := s.sub.value.PushConfig.PushEndpoint
			if isBelow(endpoint, one.URL) || isBelow(endpoint, one.ServiceConfig.URI) {
				return one
			}
		}
	}
	if len(receivers) == 1 {
		return receivers[0]
	}
	return nil
}

// isBelow reports whether an endpoint is an address of what has a base address.
func isBelow(endpoint, base string) bool {
	e, err := url.Parse(endpoint)
	b, bad := url.Parse(base)
	if err != nil || bad != nil || e.Host == "" || !strings.EqualFold(e.Host, b.Host) {
		return false
	}
	path := strings.TrimSuffix(b.Path, "/") + "/"
	return strings.HasPrefix(strings.TrimSuffix(e.Path, "/")+"/", path)
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// goOn asks all that names are known of.
func (f *facts) goOn(a *asker, o Options) {
	t := f.target
	p := "projects/" + t.Project
	post(a, &f.policy, "project", "resourcemanager.projects.getIamPolicy", crmAPI+p+":getIamPolicy", withConditions)
	for name, s := range f.subs {
		read(a, &s.policy, "subscription", "pubsub.subscriptions.getIamPolicy", pubsubAPI+inPath(name)+":getIamPolicy"+conditions)
	}
	for name, topic := range f.topics {
		read(a, &topic.policy, "dead-letter-topic", "pubsub.topics.getIamPolicy", pubsubAPI+inPath(name)+":getIamPolicy"+conditions)
		read(a, &topic.subscriptions, "dead-letter-topic", "pubsub.topics.get", pubsubAPI+inPath(name)+"/subscriptions")
	}
	if t.DeadLetterSubscription != "" {
		f.askMetrics(a)
	}
	f.askService(a, o)
	f.askStore(a)
	f.askCalendar(a)
}

// noService is why nothing is known of a service that was not found.
const noService = "no function is found that the subscription pushes to"

func (f *facts) askService(a *asker, o Options) {
	t := f.target
	p := "projects/" + t.Project
	for _, name := range []string{oldMembers, newMembers, requireInvoker, allowedIngress} {
		f.constraints[name] = &fact[orgPolicy]{}
		read(a, f.constraints[name], "organisation", "orgpolicy.policy.get", orgAPI+p+"/policies/"+name+":getEffectivePolicy")
	}
	if t.Service == "" {
		f.function, f.service, f.servicePolicy = as[function](&f.all), as[service](&f.all), as[policy](&f.all)
		f.account, f.accountPolicy, f.refusals = as[serviceAccount](&f.all), as[policy](&f.all), as[logEntries](&f.all)
		f.probe = as[answered](&f.all)
		if f.all.state == known {
			f.function = fact[function]{state: absent, why: noService, by: "service"}
			f.service, f.servicePolicy, f.probe = as[service](&f.function), as[policy](&f.function), as[answered](&f.function)
			f.account, f.accountPolicy, f.refusals = as[serviceAccount](&f.function), as[policy](&f.function), as[logEntries](&f.function)
		}
		return
	}
	at := p + "/locations/" + t.Region
	read(a, &f.function, "service", "cloudfunctions.functions.get", functionsAPI+at+"/functions/"+t.Service)
	read(a, &f.service, "service", "run.services.get", runAPI+at+"/services/"+t.Service)
	read(a, &f.servicePolicy, "service", "run.services.getIamPolicy", runAPI+at+"/services/"+t.Service+":getIamPolicy"+conditions)
	if account := p + "/serviceAccounts/" + t.PushAccount; t.PushAccount == "" {
		f.account = fact[serviceAccount]{why: "which account receive expects is not known"}
		f.accountPolicy = as[policy](&f.account)
	} else {
		read(a, &f.account, "account", "iam.serviceAccounts.get", iamAPI+account)
		post(a, &f.accountPolicy, "account", "iam.serviceAccounts.getIamPolicy", iamAPI+account+":getIamPolicy", withConditions)
	}
	now(a, &f.refusals, func() fact[logEntries] {
		got := f.askLog(a, p)
		if got.state == denied && t.LogView != "" {
			// Who may not read the project's log may read the lines of receive.
			if view := f.askLog(a, t.LogView); view.state == known {
				return view
			}
		}
		return got
	})
	now(a, &f.probe, func() fact[answered] { return probe(a.Context, o.Probe, f.address()) })
}

// askLog asks for what receive refused, in the log of a project or in a view of it.
func (f *facts) askLog(a *asker, resource string) fact[logEntries] {
	permission := "logging.logEntries.list"
	if resource == f.target.LogView {
		permission = "logging.views.access"
	}
	return ask[logEntries](a.Context, a.google, "", permission, http.MethodPost, loggingAPI+"entries:list", map[string]any{
		"resourceNames": []string{resource},
		"filter":        f.refusalFilter() + ` AND timestamp>="` + f.at.Add(-scanned).UTC().Format(time.RFC3339) + `"`,
		"orderBy":       "timestamp desc", "pageSize": 500,
	})
}

// refusalFilter selects the lines of requests that receive refused.
func (f *facts) refusalFilter() string {
	return `resource.type="cloud_run_revision" AND resource.labels.service_name="` + f.target.Service + `" AND jsonPayload.refusal:*`
}

// address is where receive is reached, as its subscriptions have it, or else by its
// name.
func (f *facts) address() string {
	for _, s := range f.target.Subscriptions {
		if s.Wanted != nil {
			if u, err := url.Parse(s.Wanted.Endpoint); err == nil {
				return "https://" + u.Host + "/"
			}
		}
	}
	number := f.target.Number
	if f.project.state == known {
		number = f.project.value.number()
	}
	return "https://" + f.target.Service + "-" + number + "." + f.target.Region + ".run.app/"
}

// probe asks receive as a stranger would.
func probe(ctx context.Context, client *http.Client, address string) (f fact[answered]) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, http.NoBody)
	if err != nil {
		return fact[answered]{state: failed, why: told(err.Error())}
	}
	r.Header.Set("User-Agent", "pushinbox-doctor")
	resp, err := client.Do(r)
	if err != nil {
		return fact[answered]{state: failed, why: told(address + " does not answer: " + reasonOf(err))}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	kind := resp.Header.Get("Content-Type")
	return fact[answered]{state: known, value: answered{
		status: resp.StatusCode, html: strings.HasPrefix(kind, "text/html"), ours: strings.HasPrefix(kind, "application/problem+json"),
	}}
}

func (f *facts) askStore(a *asker) {
	t := f.target
	if t.Database == "" {
		f.database = as[database](&f.service)
		return
	}
	read(a, &f.database, "database", "datastore.databases.getMetadata", firestoreAPI+t.Database)
	for name := range f.subs {
		f.askRecord(a, name)
	}
	if t.DeadLetterSubscription != "" {
		f.askRecord(a, t.DeadLetterSubscription)
	}
	f.declared, f.declaredOf = declarations(t)
	for _, d := range f.declared {
		if f.indexes[d.CollectionGroup] == nil {
			f.indexes[d.CollectionGroup] = &fact[indexes]{}
			read(a, f.indexes[d.CollectionGroup], "database", "datastore.indexes.list", firestoreAPI+t.Database+"/collectionGroups/"+d.CollectionGroup+"/indexes?pageSize=1000")
		}
	}
	for _, d := range f.declaredOf {
		name := fieldName{d.CollectionGroup, d.FieldPath}
		f.fields[name] = &fact[field]{}
		read(a, f.fields[name], "database", "datastore.indexes.get", firestoreAPI+t.Database+"/collectionGroups/"+d.CollectionGroup+"/fields/"+url.PathEscape(d.FieldPath))
	}
}

func (f *facts) askRecord(a *asker, name string) {
	f.records[name] = &fact[document]{}
	read(a, f.records[name], "", "datastore.entities.get", firestoreAPI+f.target.Database+"/documents/"+f.target.Collection+"-operations/"+delivery.RecordID(name))
}

// declarations returns the indexes that the inbox's queries need, and the fields that
// are not to be indexed or that expire, for the target's collections.
func declarations(t *Target) ([]declaredIndex, []declaredField) {
	var all, calendars struct {
		Indexes        []declaredIndex `json:"indexes"`
		FieldOverrides []declaredField `json:"fieldOverrides"`
	}
	// Both files are part of this program.
	if json.Unmarshal(firestoreinbox.Indexes, &all) != nil || json.Unmarshal(firestorestate.Indexes, &calendars) != nil {
		return nil, nil
	}
	form := firestoreinbox.AttributePath(inbox.AttributeReplayOf)
	for _, d := range slices.Clone(all.Indexes) {
		for _, name := range t.SearchAttributes {
			if name == inbox.AttributeReplayOf || !slices.ContainsFunc(d.Fields, func(f indexField) bool { return f.FieldPath == form }) {
				continue
			}
			one := declaredIndex{d.CollectionGroup, slices.Clone(d.Fields)}
			for i := range one.Fields {
				if one.Fields[i].FieldPath == form {
					one.Fields[i].FieldPath = firestoreinbox.AttributePath(name)
				}
			}
			all.Indexes = append(all.Indexes, one)
		}
	}
	for i := range all.Indexes {
		all.Indexes[i].CollectionGroup = renamed(all.Indexes[i].CollectionGroup, "messages", t.Collection)
	}
	for i := range all.FieldOverrides {
		all.FieldOverrides[i].CollectionGroup = renamed(all.FieldOverrides[i].CollectionGroup, "messages", t.Collection)
	}
	if t.Calendar {
		all.FieldOverrides = append(all.FieldOverrides, calendars.FieldOverrides...)
	}
	return all.Indexes, all.FieldOverrides
}

func renamed(name, from, to string) string {
	if rest, ok := strings.CutPrefix(name, from); ok {
		return to + rest
	}
	return name
}

func (f *facts) askMetrics(a *asker) {
	byProject := map[string][]string{}
	for name := range f.subs {
		byProject[projectOf(name)] = append(byProject[projectOf(name)], short(name))
	}
	// Alike subscriptions of two projects are looked at in one project only.
	home := f.target.Project
	ids := byProject[home]
	if len(ids) == 0 {
		home = slices.Sorted(maps.Keys(byProject))[0]
		ids = byProject[home]
	}
	if d := f.target.DeadLetterSubscription; d != "" && projectOf(d) == home {
		ids = append(ids, short(d))
	}
	slices.Sort(ids)
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = `"` + id + `"`
	}
	query := func(metric string, back time.Duration, more url.Values) string {
		v := url.Values{
			"filter": {fmt.Sprintf(`metric.type="pubsub.googleapis.com/subscription/%s" AND resource.type="pubsub_subscription" AND resource.labels.subscription_id=one_of(%s)`,
				metric, strings.Join(quoted, ","))},
			"interval.startTime": {f.at.Add(-back).UTC().Format(time.RFC3339)},
			"interval.endTime":   {f.at.UTC().Format(time.RFC3339)},
		}
		maps.Copy(v, more)
		return metricsAPI + "projects/" + home + "/timeSeries?" + v.Encode()
	}
	latest := func(into *fact[map[string]float64], address string) {
		now(a, into, func() fact[map[string]float64] {
			got := get[timeSeries](a.Context, a.google, "", "monitoring.timeSeries.list", address)
			out := as[map[string]float64](&got)
			out.value = map[string]float64{}
			for _, s := range got.value.TimeSeries {
				if len(s.Points) > 0 { // the latest comes first
					out.value[s.Resource.Labels["subscription_id"]] = number(s.Points[0].Value.Int64Value, s.Points[0].Value.DoubleValue)
				}
			}
			return out
		})
	}
	latest(&f.backlog, query("num_undelivered_messages", 15*time.Minute, nil))
	latest(&f.oldest, query("oldest_unacked_message_age", 15*time.Minute, nil))
	hour := url.Values{"aggregation.alignmentPeriod": {"3600s"}, "aggregation.perSeriesAligner": {"ALIGN_DELTA"}}
	p99 := maps.Clone(hour)
	p99["aggregation.crossSeriesReducer"] = []string{"REDUCE_PERCENTILE_99"}
	p99["aggregation.groupByFields"] = []string{"resource.labels.subscription_id"}
	latest(&f.latency, query("push_request_latencies", scanned, p99))
	sum := maps.Clone(hour)
	sum["aggregation.crossSeriesReducer"] = []string{"REDUCE_SUM"}
	sum["aggregation.groupByFields"] = []string{"resource.labels.subscription_id", "metric.labels.response_class"}
	now(a, &f.pushes, func() fact[map[string]map[string]float64] {
		got := get[timeSeries](a.Context, a.google, "", "monitoring.timeSeries.list", query("push_request_count", scanned, sum))
		out := as[map[string]map[string]float64](&got)
		out.value = map[string]map[string]float64{}
		for _, s := range got.value.TimeSeries {
			id := s.Resource.Labels["subscription_id"]
			if out.value[id] == nil {
				out.value[id] = map[string]float64{}
			}
			for _, p := range s.Points {
				out.value[id][s.Metric.Labels["response_class"]] += number(p.Value.Int64Value, p.Value.DoubleValue)
			}
		}
		return out
	})
}

func number(whole string, fraction *float64) float64 {
	if fraction != nil {
		return *fraction
	}
	var n float64
	_, _ = fmt.Sscanf(whole, "%g", &n)
	return n
}

func (f *facts) askCalendar(a *asker) {
	t := f.target
	if !t.Calendar {
		return
	}
	for _, name := range []string{"inbox-calendar-renew", "inbox-calendar-sync"} {
		f.jobs[name] = &fact[job]{}
		read(a, f.jobs[name], "scheduler", "cloudscheduler.jobs.get", jobsAPI+"projects/"+t.Project+"/locations/"+t.schedulerRegion()+"/jobs/"+name)
	}
	collection := cmp.Or(t.CalendarCollection, "calendars")
	read(a, &f.channels, "database", "datastore.entities.list", firestoreAPI+t.Database+"/documents/"+collection+"-channels?pageSize=300")
}

// derive asks what answers have named: roles, secrets, the dead-letter subscription.
func (f *facts) derive(a *asker) {
	t := f.target
	members := []string{"serviceAccount:" + t.Account}
	for _, s := range f.subs {
		members = append(members, "serviceAccount:"+agentOf(s.project.value.number()))
	}
	policies := []*fact[policy]{&f.policy, &f.accountPolicy}
	for _, s := range f.subs {
		policies = append(policies, &s.policy)
	}
	for _, topic := range f.topics {
		policies = append(policies, &topic.policy)
	}
	for _, p := range policies {
		for _, b := range p.value.Bindings {
			if f.roles[b.Role] == nil && slices.ContainsFunc(b.Members, func(m string) bool { return slices.Contains(members, m) }) {
				f.roles[b.Role] = &fact[role]{}
				read(a, f.roles[b.Role], "role", "iam.roles.get", iamAPI+b.Role)
			}
		}
	}
	if t.DeadLetterSubscription == "" && f.topics[t.DeadLetterTopic] != nil {
		if named := f.topics[t.DeadLetterTopic].subscriptions.value.Subscriptions; len(named) > 0 {
			t.DeadLetterSubscription = named[0]
		}
	}
	if f.backlog.state == unasked {
		f.askMetrics(a)
	}
	if name := t.DeadLetterSubscription; name != "" {
		read(a, &f.dead, "dead-letter-subscription", "pubsub.subscriptions.get", pubsubAPI+inPath(name))
		if f.records[name] == nil && t.Database != "" {
			f.askRecord(a, name)
		}
	}
	for _, secrets := range t.Secrets {
		for _, version := range secrets {
			f.askVersion(a, t.Project, version)
		}
	}
	if e, ok := f.service.value.env(tokenVariable); ok {
		if e.ValueSource == nil {
			f.token = fact[[sha256.Size]byte]{state: known, value: sha256.Sum256([]byte(e.Value))}
			return
		}
		secret := e.ValueSource.SecretKeyRef
		name := secretName(t.Project, secret.Secret+":"+secret.Version)
		now(a, &f.token, func() fact[[sha256.Size]byte] {
			got := get[secretPayload](a.Context, a.google, "secret", "secretmanager.versions.access", secretsAPI+name+":access")
			out := as[[sha256.Size]byte](&got)
			out.value = sha256.Sum256(got.value.Payload.Data)
			return out
		})
		f.askVersion(a, t.Project, secret.Secret+":"+secret.Version)
	}
}

// tokenVariable has the shared token of receive.
const tokenVariable = "PUBSUB_VERIFICATION_TOKEN"

func (f *facts) askVersion(a *asker, project, version string) {
	name := secretName(project, version)
	if f.versions[name] != nil {
		return
	}
	f.versions[name] = &fact[secretVersion]{}
	read(a, f.versions[name], "secret", "secretmanager.versions.get", secretsAPI+name)
}

// secretName returns the full name of a version that is given as SECRET:VERSION.
func secretName(project, version string) string {
	secret, number, _ := strings.Cut(version, ":")
	if !strings.Contains(secret, "/") {
		secret = "projects/" + project + "/secrets/" + secret
	}
	return secret + "/versions/" + number
}

// understood says that Google has answered a question.
func (f *facts) understood() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answered = true
}

// keptOut says that VPC Service Controls refused a question.
func (f *facts) keptOut(violation string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused++
	if violation != "" {
		f.violations[violation] = true
	}
}

// heard compares this machine's clock with Google's, whose Date is whole seconds.
func (f *facts) heard(clock func() time.Time, sent, received time.Time, date string) {
	at, err := http.ParseTime(date)
	if err != nil {
		return
	}
	skew := clock().Add(-received.Sub(sent) / 2).Sub(at.Add(500 * time.Millisecond))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.skew = append(f.skew, skew)
}

// inPath returns the name of a topic or a subscription as a path has it: of all that it
// may have, only % means something there.
func inPath(name string) string { return strings.ReplaceAll(name, "%", "%25") }
