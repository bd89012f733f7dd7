package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

func (x *examination) serviceName() string { return cmp.Or(x.target.Service, "receive") }

func checkService(x *examination) {
	on := x.serviceName()
	f := Finding{On: on, Consequence: "there is nobody to take a push"}
	switch {
	case x.target.Service == "":
		if x.have(on, &x.all) {
			x.because(on, "endpoint", noService)
		}
		return
	case x.function.state == absent && x.service.state == absent:
		f.What, f.Evidence = "receive is not deployed", "there is no function "+on+" in "+x.target.Region
		f.Command = x.deploy(x.gcloud("functions", "list", "--v2"))
		x.bad(f)
		return
	case x.service.state == absent:
		f.What, f.Evidence = "the service of the function receive does not exist", "Cloud Run answers 404 for "+on+" in "+x.target.Region
		f.Command = x.deploy(x.gcloud("functions", "describe", on, "--v2", "--region="+x.target.Region))
		x.bad(f)
		return
	}
	// What was deployed as a service, not as a function, is as good.
	if x.function.state != absent {
		if !x.have(on, &x.function) {
			return
		}
		if s := x.function.value.State; s != "ACTIVE" && s != "DEPLOYING" {
			f.What, f.Evidence = "the function receive is not active", "its state is "+told(s)
			for _, m := range x.function.value.StateMessages {
				f.Evidence += "; " + told(m.Message)
			}
			f.Consequence = "the last deployment failed: what runs, if anything, is older"
			f.Command = x.deploy(x.gcloud("functions", "describe", on, "--v2", "--region="+x.target.Region))
			x.bad(f)
			return
		}
	}
	if x.have(on, &x.service) {
		x.ok(on, "it is deployed in %s", x.target.Region)
	}
}

func checkReady(x *examination) {
	on := x.serviceName()
	if !x.have(on, &x.service) {
		return
	}
	s := &x.service.value
	c := s.TerminalCondition
	evidence := ""
	switch {
	case c.State != "" && c.State != "CONDITION_SUCCEEDED":
		evidence = "Cloud Run says " + told(c.State+" "+c.Reason+": "+c.Message)
	case s.LatestReadyRevision != s.LatestCreatedRevision:
		evidence = "the newest revision, " + told(short(s.LatestCreatedRevision)) + ", did not become ready"
	default:
		x.ok(on, "its newest revision is ready")
		return
	}
	x.bad(Finding{On: on, What: "the service receive is not ready", Evidence: evidence,
		Consequence: "the newest revision does not serve; an older one does, or none. Its log says why it does not start",
		Command:     x.run("logs read")})
}

func checkTraffic(x *examination) {
	on := x.serviceName()
	if !x.have(on, &x.service) {
		return
	}
	s := &x.service.value
	for _, t := range s.Traffic {
		if t.Percent > 0 && t.Type == "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION" && short(t.Revision) != short(s.LatestReadyRevision) {
			x.bad(Finding{On: on, What: "requests go to an old revision",
				Evidence:    fmt.Sprintf("%d %% go to %s, and the newest is %s", t.Percent, told(short(t.Revision)), told(short(s.LatestReadyRevision))),
				Consequence: "it has the environment and the code of then, which may be older than the subscription",
				Command:     x.run("update-traffic", "--to-latest")})
			return
		}
	}
	x.ok(on, "requests go to the newest revision")
}

// shownEnvironment are the variables whose values are told; the others are named.
var shownEnvironment = []string{"FIRESTORE_DATABASE", "INBOX_COLLECTION", "INBOX_SHARDS", "INBOX_TTL", "PUSH_ACK_DEADLINE", "PUSH_AUDIENCE", "PUSH_SERVICE_ACCOUNT"}

func checkEnvironment(x *examination) {
	on := x.serviceName()
	if !x.have(on, &x.service) {
		return
	}
	s := &x.service.value
	if x.target.Environment == nil {
		var lacks []string
		for _, name := range []string{"PUSH_AUDIENCE", "PUSH_SERVICE_ACCOUNT"} {
			if e, ok := s.env(name); !ok || e.Value == "" {
				lacks = append(lacks, name)
			}
		}
		if len(lacks) > 0 {
			x.bad(Finding{On: on, What: "receive lacks a variable that it needs", Evidence: "it has no " + strings.Join(lacks, " and no "),
				Consequence: "it does not start", Command: x.gcloud("functions", "describe", on, "--v2", "--region="+x.target.Region)})
			return
		}
		x.ok(on, "it has the variables that it needs")
		return
	}
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(x.target.Environment)) {
		e, ok := s.env(name)
		switch want := x.target.Environment[name]; {
		case !ok:
			differ = append(differ, name+" is not set")
		case e.Value == want:
		case slices.Contains(shownEnvironment, name):
			differ = append(differ, name+" is "+shown(e.Value)+", not "+shown(want))
		default:
			differ = append(differ, name+" differs")
		}
	}
	for name := range x.target.Secrets["receive"] {
		if _, ok := s.env(name); !ok {
			differ = append(differ, name+" is not set")
		}
	}
	if _, ok := s.env(tokenVariable); ok && x.target.Secrets["receive"][tokenVariable] == "" {
		differ = append(differ, tokenVariable+" is set, and Terraform wants none")
	}
	if len(differ) == 0 {
		x.ok(on, "its environment is the one that Terraform wants")
		return
	}
	x.bad(Finding{On: on, What: "receive was not deployed after the last apply", Evidence: strings.Join(differ, "; "),
		Consequence: "it refuses what the subscriptions push now, or stores it elsewhere", Command: "scripts/deploy receive"})
}

const internalOnly = "INGRESS_TRAFFIC_INTERNAL_ONLY"

func checkIngress(x *examination) {
	on := x.serviceName()
	if !x.have(on, &x.service) {
		return
	}
	is := x.service.value.Ingress
	f := Finding{On: on, Evidence: "its ingress is " + told(is)}
	for name := range x.subs {
		if is != "INGRESS_TRAFFIC_ALL" && projectOf(name) != x.target.Project {
			f.What = "receive is out of the reach of a subscription of another project"
			f.Evidence += ", and " + name + " is not of " + x.target.Project
			f.Consequence = "every push is answered 404 by Google's front end"
			f.Command = x.run("update", "--ingress=all")
			x.bad(f)
			return
		}
	}
	want := map[string]string{"all": "INGRESS_TRAFFIC_ALL", "internal-only": internalOnly}[x.target.Ingress]
	if want != "" && want != is {
		f.What = "the ingress of receive is not the one that Terraform wants"
		f.Evidence += ", Terraform wants " + x.target.Ingress
		f.Consequence = "strangers reach it, whom it refuses by their token only"
		if want != internalOnly {
			f.Consequence = "who is not of this project's Google products does not reach it"
		}
		f.Command = "scripts/deploy receive"
		x.bad(f)
		return
	}
	x.ok(on, "its ingress is %s", told(is))
}

// isOpen reports whether anyone may invoke the service.
func (x *examination) isOpen() bool {
	return x.service.value.InvokerIAMDisabled || slices.ContainsFunc(x.servicePolicy.value.Bindings, func(b binding) bool {
		return b.Role == "roles/run.invoker" && b.Condition == nil && slices.Contains(b.Members, "allUsers")
	})
}

func checkInvoker(x *examination) {
	on := x.serviceName()
	if !x.have(on, &x.service) || !x.service.value.InvokerIAMDisabled && !x.have(on, &x.servicePolicy) {
		return
	}
	if x.isOpen() {
		x.ok(on, "Cloud Run lets requests through, and receive verifies each itself")
		return
	}
	x.bad(Finding{On: on, What: "receive is private", Evidence: "Cloud Run's invoker check is on, and allUsers are not granted roles/run.invoker",
		Consequence: "Cloud Run cuts the signature off the tokens that it checks, so that receive refuses every push: 401, signature_removed",
		Command:     x.deploy(x.run("update", "--no-invoker-iam-check"))})
}

func checkProbe(x *examination) {
	on := x.serviceName()
	if x.service.state == absent {
		x.because(on, "service", "receive is not deployed")
		return
	}
	if !x.have(on, &x.service) {
		return
	}
	if x.probe.state == failed {
		x.bad(Finding{On: on, What: "receive cannot be reached from here", Evidence: x.probe.why,
			Consequence: "pushes may not get there either; or this machine has no way out", Command: x.run("describe")})
		return
	}
	if !x.have(on, &x.probe) {
		return
	}
	a := x.probe.value
	f := Finding{On: on, Evidence: fmt.Sprintf("a request without a token is answered %d", a.status), Command: x.run("describe")}
	switch {
	case a.status == http.StatusUnauthorized && a.ours:
		x.ok(on, "it refuses a request without a token, as it should")
	case a.status == http.StatusNotFound && a.html && x.service.value.Ingress != "INGRESS_TRAFFIC_ALL":
		x.proveByPushes(on)
	case a.status == http.StatusNotFound && a.html:
		f.What, f.Consequence = "Google's front end finds nothing at receive's address", "pushes to this address are lost in the same way"
		f.Evidence += " by a page of Google's, though its ingress is all: its default address may be off"
		f.Command = x.deploy(command("gcloud", "beta", "run", "services", "update", on, "--region="+x.target.Region, "--default-url", "--project="+x.target.Project))
		x.bad(f)
	case a.status == http.StatusForbidden && a.html:
		f.What, f.Consequence = "Cloud Run keeps strangers from receive", "it cuts the signature off the tokens that it checks, so that receive refuses every push"
		f.Evidence += " by a page of Google's"
		f.Command = x.deploy(x.run("update", "--no-invoker-iam-check"))
		x.bad(f)
	default:
		f.What, f.Consequence = "receive does not answer as receive does", "what answers may be another program, or one that does not start; its log says more"
		f.Evidence += ", and 401 was expected"
		f.Command = x.run("logs read")
		x.bad(f)
	}
}

// proveByPushes is for a service that is out of this machine's reach: only pushes show
// that it works.
func (x *examination) proveByPushes(on string) {
	const outside = "Google's front end keeps strangers out, as its ingress says; "
	if !x.have(on, &x.pushes) {
		last := &x.findings[len(x.findings)-1]
		last.What = outside + "that pushes get through " + last.What
		return
	}
	var acked float64
	for name := range x.subs {
		acked += x.pushes.value[short(name)]["ack"]
	}
	if acked > 0 {
		x.ok(on, outside+"pushes get through: %g were acknowledged in the last hour", acked)
		return
	}
	x.unknown(on, outside+"whether pushes get through is not known: none was acknowledged in the last hour")
}

func checkOrganisation(x *examination) {
	on := x.target.Project
	for _, name := range []string{oldMembers, newMembers, requireInvoker, allowedIngress} {
		c := x.constraints[name]
		if c.state == disabled && x.project.state == known && x.project.value.Parent == "" {
			continue // policies are an organisation's
		}
		if c.state == absent {
			continue
		}
		if c.state == disabled {
			x.add(Finding{On: on, Result: Unknown, What: "the organisation's policies cannot be asked: " + c.why,
				Command: x.gcloud("services", "enable", "orgpolicy.googleapis.com")})
			return
		}
		if !x.have(on, c) || !x.have(on, &x.service) {
			return
		}
		if f, bad := x.forbids(name, c.value); bad {
			f.On = on
			x.bad(f)
			return
		}
	}
	x.ok(on, "no policy of the organisation stands in the way")
}

// forbids reports whether a policy stands in the way of receive.
func (x *examination) forbids(name string, p orgPolicy) (Finding, bool) {
	f := Finding{Evidence: "constraints/" + name + " holds for the project",
		Command: x.gcloud("org-policies", "describe", name, "--effective")}
	for _, r := range p.Spec.Rules {
		allows := func(value string) bool {
			if r.DenyAll {
				return false
			}
			return r.Values == nil || !slices.Contains(r.Values.DeniedValues, value) && (len(r.Values.AllowedValues) == 0 || slices.Contains(r.Values.AllowedValues, value))
		}
		switch name {
		case oldMembers, newMembers:
			restricts := r.Enforce || r.DenyAll || !r.AllowAll && r.Values != nil && len(r.Values.AllowedValues) > 0
			if restricts && !x.service.value.InvokerIAMDisabled {
				f.What, f.Consequence = "the organisation does not let allUsers be granted", "receive works only as long as an old grant is there, and the next deployment loses it"
				f.Command = x.run("update", "--no-invoker-iam-check")
				return f, true
			}
		case requireInvoker:
			if r.Enforce && x.service.value.InvokerIAMDisabled {
				f.What, f.Consequence = "the organisation does not let Cloud Run's invoker check be off", "the next deployment of receive fails; ask who administers the organisation for an exception, from this policy or from the one about allUsers"
				return f, true
			}
		case allowedIngress:
			word := map[string]string{"INGRESS_TRAFFIC_ALL": "all", internalOnly: "internal"}[x.service.value.Ingress]
			if word != "" && !allows(word) && !allows("is:"+word) {
				f.What, f.Consequence = "the organisation does not let receive have its ingress", "the next deployment of receive fails; ask who administers the organisation for an exception"
				f.Evidence += ", and the ingress of receive is " + word
				return f, true
			}
		}
	}
	return f, false
}

// refusedFor returns how many of the lines that were looked at have a reason.
func (x *examination) refusedFor(reason string) (n int) {
	for _, e := range x.refusals.value.Entries {
		if e.JSONPayload.Refusal == reason {
			n++
		}
	}
	return n
}

// readLog is the command that shows what receive refused.
func (x *examination) readLog() string {
	return x.gcloud("logging", "read", x.refusalFilter(), "--freshness=1h", "--limit=20")
}

func checkReceiveClock(x *examination) {
	on := x.serviceName()
	if !x.have(on, &x.refusals) {
		return
	}
	n := x.refusedFor("not_yet_valid")
	if n == 0 {
		x.ok(on, "it refused no token for being issued in the future")
		return
	}
	x.bad(Finding{On: on, What: "receive gets tokens whose issue time is in the future",
		Evidence: fmt.Sprintf("it refused %d requests of the last hour for that", n), Consequence: "either its instances' clocks are behind, or somebody makes tokens by a wrong clock",
		Command: x.readLog()})
}

func checkKeys(x *examination) {
	on := x.serviceName()
	if !x.have(on, &x.refusals) {
		return
	}
	n := x.refusedFor("keys_unavailable")
	if n == 0 {
		x.ok(on, "it gets Google's keys")
		return
	}
	if !x.have(on, &x.service) {
		return
	}
	f := Finding{On: on, What: "receive cannot get Google's keys", Evidence: fmt.Sprintf("it refused %d requests of the last hour for that", n),
		Consequence: "it can verify no token and answers 503", Command: x.readLog()}
	if v := x.service.value.Template.VPCAccess; v != nil && v.Egress == "ALL_TRAFFIC" {
		f.Evidence += ", and all that it sends goes through a VPC, which may have no way out to the internet"
		f.Command = x.run("update", "--vpc-egress=private-ranges-only")
	}
	x.bad(f)
}

func checkSecrets(x *examination) {
	if len(x.versions) == 0 {
		if x.target.Terraform == "" && !x.have(x.target.Project, &x.service) {
			return
		}
		x.ok(x.target.Project, "no function reads a secret")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(x.versions)) {
		v := x.versions[name]
		parts := strings.Split(name, "/")
		if len(parts) != 6 {
			x.unknown(told(name), "it is not the name of a secret's version")
			continue
		}
		on := parts[3] + ":" + parts[5]
		f := Finding{On: on, Consequence: "a function that reads it does not start any more, or works with an old value"}
		switch {
		case v.state == absent:
			f.What, f.Evidence = "a secret's version that a function reads does not exist", "Secret Manager answers 404"
			f.Command = x.mend("secrets", "versions", "list", parts[3])
			x.bad(f)
		case !x.have(on, v):
		case v.value.State == "DISABLED":
			f.What, f.Evidence = "a secret's version that a function reads is disabled", "Secret Manager says DISABLED"
			f.Command = x.gcloud("secrets", "versions", "enable", parts[5], "--secret="+parts[3])
			x.bad(f)
		case v.value.State != "ENABLED":
			f.What, f.Evidence = "a secret's version that a function reads is gone", "Secret Manager says "+told(v.value.State)
			f.Command = x.mend("secrets", "versions", "list", parts[3])
			x.bad(f)
		default:
			x.ok(on, "it is enabled")
		}
	}
}
