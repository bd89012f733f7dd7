package checkup

import (
	"cmp"
	"fmt"
	"path"
	"strings"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/shell"
)

const (
	// littleRoom is what a disk has at least, in bytes, so that large messages fit.
	littleRoom = 256 << 20
	// recent is how long ago a refusal is still what happens now, where nothing waits.
	recent = 5 * time.Minute
	// lately is how long ago a publisher was refused that may be there still.
	lately = time.Hour
	// stuck is how long the oldest message may wait that nobody refuses.
	stuck = 5 * time.Minute
)

// trimKey returns the key in a file that has it as a header.
func trimKey(file string) string {
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(file), "Authorization: Bearer"))
}

func short(name string) string { return path.Base(name) }

// many writes a number of things, and the verb that goes with it.
func many(n int64, thing, verb string) string {
	switch {
	case n == 1:
		return "1 " + thing + " " + verb
	case verb == "was":
		verb = "were"
	case verb == "waits":
		verb = "wait"
	}
	plural := thing + "s"
	if strings.HasSuffix(thing, "sh") {
		plural = thing + "es"
	}
	return fmt.Sprintf("%d %s %s", n, plural, verb)
}

// data is the flag that has another command find the run, where it was given.
func (x *examination) data() string {
	if x.Data == "" {
		return ""
	}
	return " --data " + shell.Quote(x.run.Data)
}

// status is the command that tells how a subscription's pushes go.
func (x *examination) status(subscription string) string {
	return "pushinbox delivery status --subscription " + short(subscription) + x.data()
}

// restart is the command that has the run begin again; what it keeps stays.
func (x *examination) restart(flags string) string {
	with := "with the flags that it had"
	if flags != "" {
		with += " and " + flags
	}
	return fmt.Sprintf("kill %d   # and start pushinbox local again, %s", x.run.PID, with)
}

// checkData looks at the directory of the run's files.
func (x *examination) checkData() {
	if x.facts == nil {
		x.unknown(doctor.Finding{Check: "data_directory", On: x.run.Data, What: "whether it can be written to is not known", Evidence: x.factsErr.Error(), Command: x.restart("")})
		return
	}
	consequence := "messages cannot be stored: receive answers 503, and they are pushed again until they are dead letters"
	switch free := x.facts.FreeBytes; {
	case x.facts.WriteError != "":
		x.bad(doctor.Finding{Check: "data_directory", On: x.run.Data, What: "nothing can be written there", Evidence: x.facts.WriteError, Consequence: consequence, Command: "df -h " + shell.Quote(x.run.Data) + "; ls -ld " + shell.Quote(x.run.Data)})
	case free != nil && *free < littleRoom:
		x.bad(doctor.Finding{Check: "disk", On: x.run.Data, What: "the disk is nearly full", Evidence: fmt.Sprintf("%d MiB are free", *free>>20), Consequence: "large messages fail first: " + consequence, Command: "df -h " + shell.Quote(x.run.Data)})
	default:
		x.ok("data_directory", x.run.Data, "it can be written to")
	}
}

// checkPubSub looks at the port where clients are told to publish.
func (x *examination) checkPubSub() {
	host := x.run.PubSubEmulatorHost
	switch {
	case x.facts != nil && x.uses("PUBSUB_EMULATOR_HOST"):
	case x.pubsub != nil:
		x.bad(doctor.Finding{Check: "pubsub_port", On: host, What: "the run's Pub/Sub does not answer", Evidence: x.pubsub.Error(), Consequence: "no client can publish", Command: x.restart("")})
	default:
		x.ok("pubsub_port", host, "the run's Pub/Sub answers")
	}
}

// uses reports whether the run uses an emulator of Google's.
func (x *examination) uses(variable string) bool {
	for _, e := range x.facts.Emulators {
		if e.Variable == variable {
			return true
		}
	}
	return false
}

func (x *examination) checkEmulators() {
	if x.facts == nil {
		return
	}
	for _, e := range x.facts.Emulators {
		if e.Error != "" {
			x.bad(doctor.Finding{
				Check: "emulator", On: e.Variable, What: "the emulator at " + e.Host + " does not answer", Evidence: e.Error,
				Consequence: "nothing can be stored or pushed that needs it", Command: "start it at " + e.Host + " again, or: env -u " + e.Variable + " pushinbox local --data " + shell.Quote(x.run.Data),
			})
		} else {
			x.ok("emulator", e.Variable, "it answers at "+e.Host)
		}
	}
}

// checkClock compares the clock with itself: tokens and messages have its times.
func (x *examination) checkClock() {
	if x.facts == nil {
		return
	}
	if ahead := x.facts.StartedAt.Sub(x.now); ahead > time.Minute {
		x.bad(doctor.Finding{
			Check: "clock", What: "the clock was set back while the run was there", Evidence: fmt.Sprintf("the run began %v after now", ahead.Round(time.Second)),
			Consequence: "tokens that were signed before are not valid yet", Command: x.restart(""),
		})
		return
	}
	if x.report != nil {
		for _, r := range x.report.Refusals {
			// Others than this run's subscriptions may send what they like: see checkSenders.
			if r.Subscription != "" && r.Reason == "not_yet_valid" && x.now.Sub(r.Last) < recent {
				x.bad(doctor.Finding{Check: "clock", What: "tokens are refused because they are not valid yet", Evidence: r.Detail, Consequence: "pushes are refused until they are", Command: x.restart("")})
				return
			}
		}
	}
	x.ok("clock", "", "it goes on")
}

// checkInbox looks at what was stored, and what could not be.
func (x *examination) checkInbox() {
	if x.facts == nil {
		return
	}
	in := x.facts.Inbox
	// Where nothing waits, what failed was stored since, or is a dead letter.
	isPast := in.LastStored.After(in.LastFailed) && !x.waits(x.run.Subscription)
	sawAll := x.report != nil && in.LargestStored >= in.SmallestFailed
	if in.Failed == 0 || isPast && (sawAll || x.now.Sub(in.LastFailed) > recent) {
		x.ok("inbox", "", many(in.Stored, "push", "was")+" stored, or known from before")
		return
	}
	f := doctor.Finding{
		Check: "inbox", What: many(in.Failed, "push", "was") + " not stored", Evidence: fmt.Sprintf("at %s: %s", in.LastFailed.Format(time.TimeOnly), in.LastError),
		Consequence: "they are pushed again until they are stored, or dead letters", Command: "df -h " + shell.Quote(x.run.Data) + "; ls -l " + shell.Quote(x.run.Data),
	}
	if in.LargestStored > 0 && in.LargestStored < in.SmallestFailed {
		f.What += fmt.Sprintf(", and only large ones: the smallest of them has %d bytes, and the largest that was stored since %d", in.SmallestFailed, in.LargestStored)
	}
	if strings.Contains(in.LastError, "deleted, moved, replaced or cut") {
		f.Command = x.restart("")
	}
	x.bad(f)
}

// waits reports whether messages of a subscription wait.
func (x *examination) waits(name string) bool {
	if x.report == nil {
		return false
	}
	for _, s := range x.report.Subscriptions {
		if s.Name == name {
			return s.Backlog == nil || *s.Backlog > 0
		}
	}
	return false
}

// checkSubscriptions looks at each subscription that is pushed, or should be.
func (x *examination) checkSubscriptions() {
	if x.report == nil {
		x.unknown(doctor.Finding{Check: "delivery", What: "how the pushes go is not known", Evidence: x.reportErr.Error(), Command: "pushinbox delivery status --url " + x.run.URL})
		return
	}
	for _, u := range x.report.Unknown {
		x.unknown(doctor.Finding{Check: "delivery", On: u.What, What: u.Why})
	}
	own := false
	for i := range x.report.Subscriptions {
		own = own || x.report.Subscriptions[i].Name == x.run.Subscription
		x.checkSubscription(&x.report.Subscriptions[i])
	}
	if !own && len(x.report.Subscriptions) > 0 {
		x.bad(doctor.Finding{Check: "subscription", On: short(x.run.Subscription), What: "the inbox's push subscription was deleted", Consequence: "what is published does not reach the inbox, and is lost", Command: x.restart("")})
	}
}

func (x *examination) checkSubscription(s *delivery.Subscription) {
	name := short(s.Name)
	since := ""
	if o := s.Operation; o != nil {
		since = fmt.Sprintf("since %s by %s", o.At.Local().Format(time.DateTime), o.Principal)
		if !o.LostFrom.IsZero() {
			since += "; what waits is lost from " + o.LostFrom.Local().Format(time.DateTime) + " on"
		}
	}
	switch s.State {
	case delivery.Paused:
		x.bad(doctor.Finding{Check: "paused", On: name, What: "it is paused: it has no push endpoint", Evidence: since, Consequence: "its messages wait", Command: "pushinbox delivery resume --subscription " + name + x.data()})
	case delivery.Redriving:
		x.checkRedrive(s, strings.TrimSpace(s.Endpoint+" "+since))
	case delivery.Waiting:
		if s.Backlog != nil && *s.Backlog > 0 {
			x.bad(doctor.Finding{
				Check: "dead_letters", On: name, What: many(*s.Backlog, "message", "was") + " given up after the last attempt", Evidence: since,
				Consequence: "they are not in the inbox, unless it stored one and its answer was lost", Command: "pushinbox dead-letters list" + x.deadLetters(s),
			})
		} else {
			x.ok("dead_letters", name, "none wait")
		}
	case delivery.TopicGone:
		gone := doctor.Finding{
			Check: "subscription", On: name, What: "its topic was deleted", Consequence: "what is published to one of the same name does not reach it",
			Command: x.gcloud("subscriptions delete", s.Name, "") + "   # and create topic and subscription anew",
		}
		if s.Backlog != nil && *s.Backlog > 0 {
			gone.Evidence = many(*s.Backlog, "message", "waits") + " in it, pushed as before"
			gone.Command = "pushinbox delivery status --subscription " + name + x.data() + "   # until none waits: whoever deletes the subscription loses them"
		}
		x.bad(gone)
		x.checkEndpoint(s)
	case delivery.Detached:
		x.bad(doctor.Finding{
			Check: "subscription", On: name, What: "it gets nothing from its topic any more (" + string(s.State) + ")", Consequence: "what is published does not reach it",
			Command: x.gcloud("subscriptions delete", s.Name, "") + "   # and create it anew",
		})
	case delivery.Delivering:
		x.checkEndpoint(s)
		if push := x.pushOf(s.Name); push != nil && push.NoDeadLetterTopic {
			x.bad(doctor.Finding{
				Check: "dead_letters", On: name, What: "its dead-letter topic does not exist: " + push.DeadLetterTopic, Consequence: "what fails is pushed again after its last attempt, too, without end",
				Command: x.gcloud("topics create", push.DeadLetterTopic, "") + "   # with a subscription that keeps what is published to it",
			})
		}
	}
}

// checkRedrive says how the redrive of dead letters goes, which is bad in any case: it may
// be one that was left.
func (x *examination) checkRedrive(s *delivery.Subscription, evidence string) {
	stop := "pushinbox dead-letters redrive --stop" + x.deadLetters(s)
	f := doctor.Finding{
		Check: "redrive", On: short(s.Name), What: "its dead letters are being pushed", Evidence: evidence,
		Consequence: "what fails comes again and again, until this ends", Command: stop,
	}
	copied := x.pushOf(s.Name)
	for _, r := range x.report.Refusals {
		if r.Subscription != s.Name || r.LastHour == 0 || copied != nil && copied.LastAcked.After(r.Last) {
			continue
		}
		f.What += ", and refused: " + answerOf(&r)
		f.Evidence = seen(s.Endpoint, r.Detail)
		if source := x.sourceOf(s); copied != nil && source != nil && (copied.Endpoint != source.Endpoint || copied.Audience != source.Audience || copied.Account != source.Account) {
			f.Evidence = fmt.Sprintf("they are pushed with an old copy of the configuration of %s: %s; it is now: %s", short(source.Name), describe(copied), describe(source))
			f.Command = "pushinbox dead-letters redrive" + x.deadLetters(s) + "   # copies the configuration afresh, and goes on"
		} else {
			f.Command += "   # and, once what refuses them is mended, the same without --stop: it copies the configuration afresh"
		}
		break // the latest
	}
	x.bad(f)
}

// describe says how a subscription pushes.
func describe(push *stack.PushFacts) string {
	return fmt.Sprintf("endpoint %s, audience %q, account %q", push.Endpoint, push.Audience, push.Account)
}

// sourceOf returns a subscription whose dead letters s keeps, the inbox's before others.
func (x *examination) sourceOf(s *delivery.Subscription) (found *stack.PushFacts) {
	if x.facts == nil {
		return nil
	}
	for i := range x.facts.Pushes {
		if push := &x.facts.Pushes[i]; push.DeadLetterTopic != "" && push.DeadLetterTopic == s.Topic && (found == nil || push.Name == x.run.Subscription) {
			found = push
		}
	}
	return found
}

// seen is where pushes went and what was said of them, if anything.
func seen(endpoint, detail string) string {
	if endpoint == "" || detail == "" {
		return endpoint + detail
	}
	return endpoint + ": " + detail
}

// answerOf is what a refusal answered, in words.
func answerOf(r *delivery.Refusal) string {
	if r.Status == 0 {
		return r.Reason
	}
	return fmt.Sprintf("%d %s", r.Status, r.Reason)
}

// deadLetters returns the flags that say to a command which dead letters are meant,
// where they are not the inbox's, and where the run is.
func (x *examination) deadLetters(s *delivery.Subscription) string {
	var sources []string
	if x.facts != nil {
		for _, push := range x.facts.Pushes {
			if push.DeadLetterTopic != "" && push.DeadLetterTopic == s.Topic {
				sources = append(sources, push.Name)
			}
		}
	}
	switch {
	case s.Topic == x.run.Topic+"-dead-letter":
		return x.data()
	case len(sources) == 1:
		return " --subscription " + short(sources[0]) + x.data()
	}
	return " --dead-letter-subscription " + short(s.Name) + x.data()
}

// gcloud returns a call of gcloud's that changes something of this run's Pub/Sub.
func (x *examination) gcloud(do, name, flags string) string {
	project := strings.Split(name, "/")
	return fmt.Sprintf("CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB=http://%s/ gcloud pubsub %s %s --project=%s%s",
		x.run.PubSubEmulatorHost, do, short(name), project[min(1, len(project)-1)], flags)
}

// checkEndpoint looks at what the endpoint of a subscription answers.
func (x *examination) checkEndpoint(s *delivery.Subscription) {
	name := short(s.Name)
	var now *delivery.Refusal
	for i := range x.report.Refusals {
		r := &x.report.Refusals[i]
		if r.Subscription == s.Name && r.LastHour > 0 && (x.now.Sub(r.Last) < recent || x.waits(s.Name)) {
			now = r
			break // the latest
		}
	}
	if now == nil {
		if s.Backlog != nil && *s.Backlog > 0 && s.OldestSeconds != nil && *s.OldestSeconds > stuck.Seconds() {
			x.unknown(doctor.Finding{
				Check: "endpoint", On: name, What: fmt.Sprintf("%s, the oldest for %v, and nothing refuses it", many(*s.Backlog, "message", "waits"), time.Duration(*s.OldestSeconds)*time.Second),
				Evidence: s.Endpoint, Command: x.status(s.Name),
			})
			return
		}
		x.checkPace(s)
		return
	}
	answer := answerOf(now)
	f := doctor.Finding{
		Check: "endpoint", On: name, What: fmt.Sprintf("its pushes are not acknowledged: %s, %d in the last hour", answer, now.LastHour),
		Evidence: seen(s.Endpoint, now.Detail), Consequence: "they are pushed again, more and more slowly", Command: x.status(s.Name),
	}
	push := x.pushOf(s.Name)
	if x.isPast(s, now, push, answer) {
		return
	}
	if push != nil && push.MaxAttempts > 0 {
		f.Consequence += fmt.Sprintf(", and are dead letters after %d attempts", push.MaxAttempts)
	}
	switch now.Reason {
	case "inbox_unavailable", "internal":
		if push != nil && push.IsOurs && (x.isBad("inbox") || x.isBad("data_directory") || x.isBad("emulator")) {
			f.Because, f.Evidence, f.Command = "inbox", "", ""
			x.unknown(f)
			return
		}
	case "unreachable":
		f.Command = "# start the program that listens at " + s.Endpoint
	case "timeout":
		f.Command = x.restart("--ack-deadline 600s; or have the endpoint answer sooner")
	}
	if push != nil && push.IsOurs {
		x.explainToken(&f, now.Reason, push)
	}
	x.bad(f)
}

// isPast says what is left of a refusal that is not how it is now: pushes were
// acknowledged after it, or the setting that it was about is right by now. Otherwise it
// says nothing.
func (x *examination) isPast(s *delivery.Subscription, last *delivery.Refusal, push *stack.PushFacts, answer string) bool {
	if push == nil {
		return false
	}
	set := x.isSetRight(last.Reason, push)
	before := fmt.Sprintf("the last that was not was at %s: %s", last.Last.Local().Format(time.TimeOnly), answer)
	look := x.status(s.Name)
	switch {
	case push.LastAcked.After(last.Last) && (set || last.Status == 0 || !x.waits(s.Name)):
		x.ok("endpoint", short(s.Name), "its pushes are acknowledged; "+before)
	case push.LastAcked.After(last.Last):
		x.unknown(doctor.Finding{
			Check: "endpoint", On: short(s.Name), What: fmt.Sprintf("its last push was acknowledged; %s, and %s", before, many(*cmp.Or(s.Backlog, new(int64(0))), "message", "waits")),
			Evidence: seen(s.Endpoint, last.Detail), Consequence: "whether those that wait are refused again is seen when they are pushed again", Command: look,
		})
	case set:
		x.unknown(doctor.Finding{
			Check: "endpoint", On: short(s.Name), What: "its configuration is right by now, and no push was acknowledged since; " + before, Evidence: s.Endpoint,
			Consequence: "what waits is pushed again by itself; until then it is not seen whether that is all", Command: look,
		})
	default:
		return false
	}
	return true
}

// isSetRight reports whether a subscription that pushes to receive has by now what a
// refusal missed in it.
func (x *examination) isSetRight(reason string, push *stack.PushFacts) bool {
	if !push.IsOurs || push.Account == "" {
		return false
	}
	switch reason {
	case "audience":
		return push.Audience == x.facts.Audience
	case "email":
		return push.Account == x.facts.Account
	}
	return reason == "no_token"
}

// checkPace looks at how long the pushes of a subscription take that are acknowledged.
func (x *examination) checkPace(s *delivery.Subscription) {
	push := x.pushOf(s.Name)
	if p99 := s.LastHour.P99Millis; push != nil && p99 != nil && *p99 > 500*float64(push.AckDeadlineSeconds) {
		x.bad(doctor.Finding{
			Check: "pace", On: short(s.Name), What: "its endpoint takes long to answer", Evidence: fmt.Sprintf("one push in a hundred takes %.0f ms or more, and half of them %.0f ms; the ack deadline is %d s", *p99, deref(s.LastHour.P50Millis), push.AckDeadlineSeconds),
			Consequence: "what is not answered within the ack deadline is pushed again, and the rate is lowered", Command: x.restart("--ack-deadline 600s; or have the endpoint answer sooner"),
		})
		return
	}
	x.ok("endpoint", short(s.Name), "its pushes are acknowledged, as far as there were any")
}

func deref(f *float64) float64 {
	if f == nil {
		return 0
	}
	return *f
}

func (x *examination) pushOf(name string) *stack.PushFacts {
	if x.facts != nil {
		for i := range x.facts.Pushes {
			if x.facts.Pushes[i].Name == name {
				return &x.facts.Pushes[i]
			}
		}
	}
	return nil
}

// explainToken says which setting of a subscription that pushes to receive is off.
func (x *examination) explainToken(f *doctor.Finding, reason string, push *stack.PushFacts) {
	if !strings.Contains(push.Endpoint, "/receive") {
		return
	}
	// The value of a token is not known here.
	endpoint := push.Endpoint
	switch reason {
	case "audience":
		f.Evidence = fmt.Sprintf("its token is for the audience %q, and receive expects %q", push.Audience, x.facts.Audience)
	case "email":
		f.Evidence = fmt.Sprintf("its token is of the account %q, and receive expects %q", push.Account, x.facts.Account)
	case "no_token":
		f.Evidence = "it has no OIDC token (oidc_token), and receive wants one of " + x.facts.Account
	case "shared_token":
		f.Evidence = "the ?token= of its endpoint is not the PUBSUB_VERIFICATION_TOKEN of the run"
		endpoint = x.run.Receive + "/wrapped?token=…"
	default:
		return
	}
	endpoint = strings.ReplaceAll(shell.Quote(endpoint), "token=…", `token='"$PUBSUB_VERIFICATION_TOKEN"'`)
	f.Command = x.gcloud("subscriptions update", push.Name, fmt.Sprintf(" --push-endpoint=%s --push-auth-service-account=%s --push-auth-token-audience=%s", endpoint, x.facts.Account, x.facts.Audience))
	if push.Name == x.run.Subscription {
		f.Command = x.restart("") // which sets it anew
	}
}

// checkSenders looks at what receive refused that no subscription pushed.
func (x *examination) checkSenders() {
	if x.report == nil {
		return
	}
	for _, r := range x.report.Refusals {
		if r.Subscription == "" && r.LastHour > 0 {
			x.unknown(doctor.Finding{
				Check: "sender", On: r.Reason, What: fmt.Sprintf("in the last hour %s refused by receive that no subscription of this run pushed: %d", many(r.LastHour, "request", "was"), r.Status), Evidence: r.Detail,
				Consequence: "if a program meant them to be stored, they are not", Command: "pushinbox token --for receive" + x.data() + "   # is a token that receive takes",
			})
		}
	}
}

// checkTopics looks at where programs publish.
func (x *examination) checkTopics() {
	if x.facts == nil || x.uses("PUBSUB_EMULATOR_HOST") {
		return
	}
	export := fmt.Sprintf("export PUBSUB_EMULATOR_HOST=%s GOOGLE_CLOUD_PROJECT=%s   # where the program runs; it publishes to the topic %s", x.run.PubSubEmulatorHost, x.run.Project, short(x.run.Topic))
	arrived, elsewhere, astray := false, false, false
	for _, t := range x.facts.Topics {
		arrived = arrived || t.Name == x.run.Topic && t.Published > 0
		elsewhere = elsewhere || t.Published > t.ToNobody
		refused := t.Refused > 0 && x.now.Sub(t.LastRefused) < lately
		what := many(t.Refused, "request", "was") + " refused that would publish to it"
		why := "the last at " + t.LastRefused.Local().Format(time.TimeOnly) + ": " + t.Why
		switch {
		case refused && !strings.Contains(t.Why, "not found"): // it is the right place
			astray = true
			f := doctor.Finding{
				Check: "topic", On: t.Name, What: what, Evidence: why,
				Consequence: "their messages are not published, unless the program tries again", Command: "# the evidence says what is wrong with them; mend the program that publishes",
			}
			for _, cause := range []string{"data_directory", "disk", "inbox"} {
				if x.isBad(cause) {
					f.Because, f.Command = cause, ""
				}
			}
			if f.Because != "" {
				x.unknown(f)
			} else {
				x.bad(f)
			}
		case refused && t.IsMissing:
			astray = true
			x.bad(doctor.Finding{
				Check: "topic", On: t.Name, What: what, Evidence: why,
				Consequence: "their messages are not published; the inbox's topic is " + x.run.Topic, Command: export,
			})
		case t.Name == x.run.Topic && x.isBad("subscription"): // which explains it
		case t.ToNobody > 0 && t.Subscriptions == 0:
			astray = true
			x.bad(doctor.Finding{
				Check: "topic", On: t.Name, What: many(t.ToNobody, "message", "was") + " published to it, and it has no subscription", Evidence: "the last at " + t.Last.Local().Format(time.TimeOnly),
				Consequence: "they reach nobody; the inbox's topic is " + x.run.Topic, Command: export,
			})
		}
	}
	switch {
	case arrived && !astray:
		x.ok("topic", x.run.Topic, "messages are published to it")
	case elsewhere && !astray: // by programs of their own, as with --push
		x.ok("topic", x.run.Topic, "nothing was published to it, and messages to other topics of this run")
	case !astray:
		x.unknown(doctor.Finding{
			Check: "topic", On: x.run.Topic, What: "nothing was published to it since the run began at " + x.facts.StartedAt.Local().Format(time.DateTime),
			Evidence: "the run's Pub/Sub is at " + x.run.PubSubEmulatorHost + ", its project is " + x.run.Project, Consequence: "a program that publishes to another port, project or topic is not seen here", Command: export,
		})
	}
}

// checkShell looks at what programs that are started here publish to.
func (x *examination) checkShell() {
	host, project := x.Getenv("PUBSUB_EMULATOR_HOST"), x.Getenv("GOOGLE_CLOUD_PROJECT")
	_, port, _ := strings.Cut(x.run.PubSubEmulatorHost, ":")
	same := host == x.run.PubSubEmulatorHost || strings.HasSuffix(host, ":"+port) && stack.IsLoopback(host)
	switch {
	case host != "" && !same:
		x.bad(doctor.Finding{
			Check: "shell", On: "PUBSUB_EMULATOR_HOST", What: "it names another Pub/Sub than this run's", Evidence: fmt.Sprintf("it is %q here, and the run's is at %s", host, x.run.PubSubEmulatorHost),
			Consequence: "programs that are started in this shell publish elsewhere", Command: "export PUBSUB_EMULATOR_HOST=" + x.run.PubSubEmulatorHost,
		})
	case same && project != "" && project != x.run.Project:
		x.bad(doctor.Finding{
			Check: "shell", On: "GOOGLE_CLOUD_PROJECT", What: "it names another project than this run's", Evidence: fmt.Sprintf("it is %q here, and the run's is %q", project, x.run.Project),
			Consequence: "programs that are started in this shell publish to topics of that project", Command: "export GOOGLE_CLOUD_PROJECT=" + x.run.Project,
		})
	default:
		x.ok("shell", "", "its variables do not lead elsewhere")
	}
}
