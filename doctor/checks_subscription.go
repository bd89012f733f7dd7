package doctor

import (
	"crypto/sha256"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"example.com/pushinbox/shared/delivery"
)

// each runs a check of every subscription that is known, by its full name and by the short
// one, which findings are on.
func (x *examination) each(check func(name, on string, s *subscription, want *Wanted)) {
	for _, one := range x.target.Subscriptions {
		from := len(x.findings)
		if f := &x.subs[one.Name].sub; x.have(short(one.Name), f) {
			check(one.Name, short(one.Name), &f.value, one.Wanted)
		}
		for i := from; i < len(x.findings); i++ {
			x.findings[i].scope = one.Name
		}
	}
}

// eachPushed is each for subscriptions that have an endpoint.
func (x *examination) eachPushed(check func(name, on string, s *subscription, want *Wanted)) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		if s.PushConfig.PushEndpoint == "" {
			x.because(on, "paused", "cannot be known: the subscription has no push endpoint")
			return
		}
		check(name, on, s, want)
	})
}

func checkSubscription(x *examination) {
	for _, one := range x.target.Subscriptions {
		f := &x.subs[one.Name].sub
		switch on := short(one.Name); {
		case f.state == absent:
			x.bad(Finding{On: on, scope: one.Name, What: "the subscription does not exist",
				Evidence:    "Pub/Sub answers 404 for " + one.Name + ": it was deleted, or expired after a time without activity",
				Consequence: "what is published is not kept for the inbox, and is lost",
				Command:     x.mend("pubsub", "subscriptions", "list")})
		case x.have(on, f):
			x.add(Finding{On: on, scope: one.Name, Result: OK, What: "it exists"})
		default:
			x.findings[len(x.findings)-1].scope = one.Name
		}
	}
}

func checkTopic(x *examination) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		switch {
		case s.Topic == delivery.DeletedTopic:
			x.bad(Finding{On: on, What: "the topic of the subscription was deleted",
				Evidence:    "its topic is " + delivery.DeletedTopic + "; a new topic of the same name does not feed it",
				Consequence: "nothing that is published arrives any more; what waits is still pushed",
				Command:     x.mend("pubsub", "topics", "list")})
		case want != nil && want.Topic != "" && want.Topic != s.Topic:
			x.bad(Finding{On: on, What: "the subscription is of another topic than Terraform wants",
				Evidence: fmt.Sprintf("it is of %s, Terraform wants %s", told(s.Topic), told(want.Topic)), Consequence: "what is published to the topic that is meant does not arrive",
				Command: x.apply()})
		default:
			x.ok(on, "its topic is %s", told(s.Topic))
		}
	})
}

func checkDetached(x *examination) {
	x.each(func(name, on string, s *subscription, _ *Wanted) {
		if !s.Detached {
			x.ok(on, "it is attached to its topic")
			return
		}
		f := Finding{On: on, What: "the subscription was detached from its topic", Evidence: "Pub/Sub says detached",
			Consequence: "it gets nothing and has lost what waited; it cannot be attached again, only be replaced",
			Command:     x.gcloud("pubsub", "subscriptions", "delete", name)}
		for _, one := range x.target.Subscriptions {
			if one.Name == name && x.target.Terraform != "" {
				f.Command = x.apply(`-replace=google_pubsub_subscription.push["` + one.Key + `"]`)
			}
		}
		x.bad(f)
	})
}

func checkPaused(x *examination) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		if s.PushConfig.PushEndpoint != "" {
			x.ok(on, "it pushes")
			return
		}
		f := Finding{On: on, What: "the subscription is paused", Evidence: "it has no push endpoint",
			Consequence: "nothing is pushed; what waits is lost once it is older than the subscription keeps it",
			Command:     x.own(name, "delivery", "resume")}
		if want != nil && want.Paused {
			f.Evidence += ", as Terraform's variable paused wants it"
		}
		if r := x.records[name]; r != nil && r.state == known && r.value.text("kind") == string(delivery.Pause) {
			f.Evidence += "; " + began(r.value)
			if lost := r.value.at("lostFrom"); !lost.IsZero() {
				f.Consequence = "nothing is pushed; what waits begins to be lost at " + lost.Format(time.RFC3339)
			}
		} else if r != nil && r.state == denied {
			f.Evidence += "; who paused it cannot be known without " + r.permission
		}
		x.bad(f)
	})
}

// began says who began an operation, and when.
func began(d document) string {
	return told(d.text("principal")) + " did that at " + d.at("at").Format(time.RFC3339)
}

func checkFilter(x *examination) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		switch {
		case want != nil && want.Filter != s.Filter:
			x.bad(Finding{On: on, What: "the filter is not the one that Terraform wants",
				Evidence:    fmt.Sprintf("it is %q, Terraform wants %q", told(s.Filter), told(want.Filter)),
				Consequence: "messages that the filter does not let through are lost to the inbox; a filter cannot be changed, so that an apply replaces the subscription and loses what waits",
				Command:     x.apply()})
		case s.Filter != "":
			x.ok(on, "only what %q lets through is pushed", told(s.Filter))
		default:
			x.ok(on, "it has no filter")
		}
	})
}

func checkTransforms(x *examination) {
	x.each(func(name, on string, s *subscription, _ *Wanted) {
		n := 0
		for _, t := range s.MessageTransforms {
			if !t.Disabled {
				n++
			}
		}
		if n == 0 {
			x.ok(on, "nothing changes messages on their way")
			return
		}
		x.bad(Finding{On: on, What: "messages are changed before they are pushed", Evidence: fmt.Sprintf("the subscription has %d message transforms", n),
			Consequence: "the inbox keeps what a transform made of a message, and misses what one filters out",
			Command:     x.update(name, "--clear-message-transforms")})
	})
}

func checkExpiry(x *examination) {
	x.each(func(name, on string, s *subscription, _ *Wanted) {
		if s.ExpirationPolicy != nil && s.ExpirationPolicy.TTL == "" {
			x.ok(on, "it never expires")
			return
		}
		after := "31 days"
		if s.ExpirationPolicy != nil {
			after = told(s.ExpirationPolicy.TTL)
		}
		x.bad(Finding{On: on, What: "the subscription expires", Evidence: "it is deleted after " + after + " without activity",
			Consequence: "a quiet inbox, or a paused one, vanishes with what waits in it", Command: x.update(name, "--expiration-period=never")})
	})
}

func checkExactlyOnce(x *examination) {
	x.each(func(name, on string, s *subscription, _ *Wanted) {
		if !s.ExactlyOnce {
			x.ok(on, "it is off, as it must be for pushes")
			return
		}
		x.bad(Finding{On: on, What: "exactly-once delivery is on", Evidence: "Pub/Sub has it for pull only",
			Consequence: "pushes are slower and no more exact: the inbox stores every message once by itself", Command: x.update(name, "--no-enable-exactly-once-delivery")})
	})
}

func checkAckDeadline(x *examination) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		deadline := s.AckDeadlineSeconds
		mended := "60"
		if want != nil {
			mended = fmt.Sprint(want.AckDeadlineSeconds)
		}
		f := Finding{On: on, Consequence: "pushes end without an answer and come again", Command: x.update(name, "--ack-deadline="+mended)}
		switch {
		case deadline < 10:
			f.What, f.Evidence = "the ack deadline is under 10 seconds", fmt.Sprintf("it is %d s", deadline)
			x.bad(f)
			return
		case want != nil && float64(deadline) != want.AckDeadlineSeconds:
			f.What, f.Evidence = "the ack deadline is not the one that Terraform wants", fmt.Sprintf("it is %d s, Terraform wants %g s", deadline, want.AckDeadlineSeconds)
			f.Consequence = "receive gives up at another time than Pub/Sub"
			x.bad(f)
			return
		}
		if !x.have(on, &x.service) {
			return
		}
		limit := seconds(x.service.value.Template.Timeout)
		if limit > 0 && float64(deadline) > limit {
			f.What, f.Evidence = "Pub/Sub waits longer for an answer than receive may take", fmt.Sprintf("the ack deadline is %d s, and a request to receive is cut off after %g s", deadline, limit)
			f.Consequence = "what takes longer is cut off by Cloud Run, and looks like an error of receive"
			f.Command = x.deploy(x.run("update", fmt.Sprintf("--timeout=%d", deadline)))
			x.bad(f)
			return
		}
		x.ok(on, "it is %d s", deadline)
	})
}

func checkRetry(x *examination) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		if s.RetryPolicy == nil {
			x.bad(Finding{On: on, What: "the subscription has no retry policy", Evidence: "a push that fails is tried again at once",
				Consequence: "a failure of a minute uses up the delivery attempts of a message, which then becomes a dead letter", Command: x.update(name, "--min-retry-delay=10s", "--max-retry-delay=600s")})
			return
		}
		least, most := seconds(s.RetryPolicy.MinimumBackoff), seconds(s.RetryPolicy.MaximumBackoff)
		if want != nil && (least != want.MinimumBackoff || most != want.MaximumBackoff) {
			x.bad(Finding{On: on, What: "the retry policy is not the one that Terraform wants",
				Evidence:    fmt.Sprintf("it is %g s to %g s, Terraform wants %g s to %g s", least, most, want.MinimumBackoff, want.MaximumBackoff),
				Consequence: "delivery attempts are used up sooner or later than meant", Command: x.apply()})
			return
		}
		x.ok(on, "it waits %g s to %g s", least, most)
	})
}

func checkEndpoint(x *examination) {
	x.eachPushed(func(name, on string, s *subscription, want *Wanted) {
		endpoint := s.PushConfig.PushEndpoint
		base, _, _ := strings.Cut(endpoint, "?")
		u, err := url.Parse(endpoint)
		switch {
		case err == nil && isCloudFunctions(u):
			x.because(on, "cloudfunctions", "the endpoint is an address of cloudfunctions.net")
			return
		case want != nil && base != want.Endpoint:
			x.bad(Finding{On: on, What: "the push endpoint is not the one that Terraform wants",
				Evidence:    "it is " + shown(endpoint) + ", Terraform wants " + shown(want.Endpoint),
				Consequence: "pushes go elsewhere, or are refused", Command: x.apply()})
			return
		}
		if x.service.state == absent && x.target.Service == "" {
			x.bad(Finding{On: on, What: "the push endpoint is not an address of a function of this project",
				Evidence: "it is " + shown(endpoint) + ", and no function of " + x.target.Project + " has this address", Consequence: "pushes go elsewhere, or nowhere",
				Command: x.gcloud("functions", "list", "--v2")})
			return
		}
		if !x.have(on, &x.service) {
			return
		}
		for _, address := range append([]string{x.service.value.URI}, x.service.value.URLs...) {
			if err == nil && u.Scheme == "https" && hostOf(address) == strings.ToLower(u.Host) {
				x.ok(on, "it is an address of %s: %s", x.target.Service, shown(endpoint))
				return
			}
		}
		x.bad(Finding{On: on, What: "the push endpoint is not an address of " + x.target.Service,
			Evidence:    "it is " + shown(endpoint) + ", and the service has " + told(strings.Join(append([]string{x.service.value.URI}, x.service.value.URLs...), " and ")),
			Consequence: "pushes go elsewhere, or nowhere", Command: x.push(name, map[string]string{"endpoint": x.address() + s.form()})})
	})
}

// form is the path for what the subscription pushes.
func (s *subscription) form() string {
	switch {
	case s.PushConfig.NoWrapper == nil:
		return "wrapped"
	case s.PushConfig.NoWrapper.WriteMetadata:
		return "unwrapped"
	}
	return "bare"
}

func isCloudFunctions(u *url.URL) bool {
	return strings.HasSuffix(strings.ToLower(u.Hostname()), ".cloudfunctions.net")
}

func checkCloudFunctions(x *examination) {
	x.eachPushed(func(name, on string, s *subscription, want *Wanted) {
		if u, err := url.Parse(s.PushConfig.PushEndpoint); err != nil || !isCloudFunctions(u) {
			x.ok(on, "the endpoint is not of cloudfunctions.net")
			return
		}
		x.bad(Finding{On: on, What: "the push endpoint is an address of cloudfunctions.net",
			Evidence:    "it is " + shown(s.PushConfig.PushEndpoint),
			Consequence: "that address cuts the first segment off the path, so that receive does not see which form is pushed, and it is not receive's audience",
			Command:     x.push(name, map[string]string{"endpoint": x.address() + s.form()})})
	})
}

func checkForm(x *examination) {
	x.eachPushed(func(name, on string, s *subscription, want *Wanted) {
		is := s.form()
		meant := ""
		if want != nil {
			meant = want.Form
		} else if u, err := url.Parse(s.PushConfig.PushEndpoint); err == nil {
			meant = u.Path[strings.LastIndexByte(u.Path, '/')+1:]
		}
		switch {
		case meant == is:
			x.ok(on, "it pushes %s, as the path says", is)
		case slices.Contains([]string{"wrapped", "unwrapped", "bare"}, meant):
			f := Finding{On: on, What: "the subscription pushes another form than its path says",
				Evidence: "it pushes " + is + ", and the path is to say " + meant, Consequence: "receive refuses a form that the path does not say: 400, malformed",
				Command: x.push(name, map[string]string{"form": meant})}
			if is == "bare" {
				f.What, f.Consequence = "the subscription pushes without metadata", "no push has a message ID, so that a redelivery cannot be told from a new message"
			}
			x.bad(f)
		case is == "bare":
			x.bad(Finding{On: on, What: "the subscription pushes without metadata", Evidence: "it is unwrapped, and metadata is off",
				Consequence: "no push has a message ID, so that a redelivery cannot be told from a new message", Command: x.push(name, map[string]string{"form": "unwrapped"})})
		default:
			x.ok(on, "it pushes %s, and the path says nothing of it", is)
		}
	})
}

func checkToken(x *examination) {
	x.eachPushed(func(name, on string, s *subscription, _ *Wanted) {
		if !x.have(on, &x.service) {
			return
		}
		u, err := url.Parse(s.PushConfig.PushEndpoint)
		if err != nil {
			x.because(on, "endpoint", "the endpoint is not a URL")
			return
		}
		given := u.Query()["token"]
		if _, wants := x.service.value.env(tokenVariable); !wants {
			x.ok(on, "receive asks for no shared token")
			return
		}
		f := Finding{On: on, Consequence: "receive refuses every push: 403, shared_token", Command: x.push(name, nil)}
		if len(given) == 0 {
			f.What, f.Evidence = "the endpoint has no shared token, and receive asks for one", "it is "+shown(s.PushConfig.PushEndpoint)+", and receive has "+tokenVariable
			x.bad(f)
			return
		}
		if !x.have(on, &x.token) {
			return
		}
		if len(given) == 1 && sha256.Sum256([]byte(given[0])) == x.token.value {
			x.ok(on, "its shared token is the one that receive has")
			return
		}
		f.What, f.Evidence = "the shared token of the endpoint is not the one that receive has", "their SHA-256 differ"
		x.bad(f)
	})
}

func checkOIDC(x *examination) {
	x.eachPushed(func(name, on string, s *subscription, _ *Wanted) {
		if s.PushConfig.OIDCToken != nil && s.PushConfig.OIDCToken.ServiceAccountEmail != "" {
			x.ok(on, "its pushes are signed")
			return
		}
		x.bad(Finding{On: on, What: "the pushes of the subscription are not signed", Evidence: "it has no OIDC token",
			Consequence: "receive refuses every push: 401, no_token", Command: x.push(name, nil)})
	})
}

// eachSigned is eachPushed for subscriptions whose pushes are signed.
func (x *examination) eachSigned(check func(name, on string, s *subscription, want *Wanted)) {
	x.eachPushed(func(name, on string, s *subscription, want *Wanted) {
		if s.PushConfig.OIDCToken == nil || s.PushConfig.OIDCToken.ServiceAccountEmail == "" {
			x.because(on, "oidc", "cannot be known: the pushes are not signed")
			return
		}
		check(name, on, s, want)
	})
}

// isForeign reports whether a service account is of another project.
func isForeign(account, project string) bool {
	_, domain, _ := strings.Cut(account, "@")
	of, ok := strings.CutSuffix(domain, ".iam.gserviceaccount.com")
	if !ok || strings.HasPrefix(of, "gcp-sa-") {
		return false
	}
	// The ID of a project with a domain, example.com:p, is written p.example.com there.
	if prefix, id, scoped := strings.Cut(project, ":"); scoped {
		project = id + "." + prefix
	}
	return of != project
}

func checkAccountProject(x *examination) {
	x.eachSigned(func(name, on string, s *subscription, _ *Wanted) {
		account := s.PushConfig.OIDCToken.ServiceAccountEmail
		if !isForeign(account, projectOf(name)) {
			x.ok(on, "its account is of its project")
			return
		}
		x.bad(Finding{On: on, What: "the account that signs the pushes is of another project",
			Evidence: told(account) + " is not of " + projectOf(name), Consequence: "Pub/Sub does not sign as an account of another project, and receive expects another one",
			Command: x.push(name, nil)})
	})
}

func checkAccount(x *examination) {
	x.eachSigned(func(name, on string, s *subscription, _ *Wanted) {
		account := s.PushConfig.OIDCToken.ServiceAccountEmail
		if isForeign(account, projectOf(name)) && account != x.target.PushAccount {
			x.because(on, "account-project", "the account is of another project")
			return
		}
		want := x.target.PushAccount
		if x.target.Terraform == "" {
			if !x.have(on, &x.service) {
				return
			}
			e, _ := x.service.value.env("PUSH_SERVICE_ACCOUNT")
			want = e.Value
		}
		if account == want {
			x.ok(on, "its pushes are signed as %s", told(account))
			return
		}
		x.bad(Finding{On: on, What: "the pushes are signed as another account than receive expects",
			Evidence: "they are signed as " + told(account) + ", and receive expects " + told(want), Consequence: "receive refuses every push: 403, email",
			Command: x.push(name, map[string]string{"account": want})})
	})
}

// wantedAudience is the audience that receive takes, as far as it is known.
func (x *examination) wantedAudience(name string) string {
	for _, one := range x.target.Subscriptions {
		if one.Name == name && one.Wanted != nil {
			return one.Wanted.Audience
		}
	}
	e, _ := x.service.value.env("PUSH_AUDIENCE")
	return e.Value
}

func checkAudience(x *examination) {
	x.eachSigned(func(name, on string, s *subscription, want *Wanted) {
		if want == nil && !x.have(on, &x.service) {
			return
		}
		is, meant := s.PushConfig.OIDCToken.Audience, x.wantedAudience(name)
		evidence := "it is " + shown(is)
		if is == "" {
			is = s.PushConfig.PushEndpoint // what Pub/Sub takes then, with its query
			evidence = "it is not set, so that it is the whole endpoint, " + shown(is)
		}
		if is == meant {
			x.ok(on, "it is %s", shown(is))
			return
		}
		evidence += ", and receive takes " + shown(meant)
		if strings.TrimSuffix(is, "/") == strings.TrimSuffix(meant, "/") {
			evidence += ": a slash at the end makes another audience"
		}
		x.bad(Finding{On: on, What: "the audience of the pushes is not the one that receive takes", Evidence: evidence,
			Consequence: "receive refuses every push: 403, audience", Command: x.push(name, map[string]string{"audience": meant})})
	})
}

func checkAccountDisabled(x *examination) {
	on := x.target.PushAccount
	f := Finding{On: on, Consequence: "Pub/Sub cannot sign as it, and pushes nothing that receive accepts"}
	switch {
	case x.account.state == absent && x.target.Service != "":
		f.What, f.Evidence = "the account that signs the pushes does not exist", "IAM answers 404: it was deleted, and can be undeleted within 30 days"
		f.Command = x.mend("iam", "service-accounts", "list")
		x.bad(f)
	case !x.have(on, &x.account):
	case x.account.value.Disabled:
		f.What, f.Evidence = "the account that signs the pushes is disabled", "IAM says disabled"
		f.Command = x.gcloud("iam", "service-accounts", "enable", on)
		x.bad(f)
	default:
		x.ok(on, "it is enabled")
	}
}

func checkTokenCreator(x *examination) {
	done := map[string]bool{}
	for _, one := range x.target.Subscriptions {
		s := x.subs[one.Name]
		if !x.have(x.target.PushAccount, &s.project) {
			continue
		}
		agent := agentOf(s.project.value.number())
		if done[agent] {
			continue
		}
		done[agent] = true
		if x.account.state == absent {
			x.because(x.target.PushAccount, "account-disabled", "the account does not exist")
			continue
		}
		scope := one.Name
		if len(x.target.Subscriptions) > 1 {
			scope = ""
		}
		x.agentMay(x.target.PushAccount, scope, x.signing(agent), Finding{
			What:        "Pub/Sub may not sign as the push account",
			Consequence: "pushes are not signed, and receive refuses them",
			Command: x.gcloud("iam", "service-accounts", "add-iam-policy-binding", x.target.PushAccount,
				"--member=serviceAccount:"+agent, "--role=roles/iam.serviceAccountTokenCreator"),
		})
	}
}
