package doctor

import (
	"fmt"
	"slices"

	"example.com/pushinbox/shared/delivery"
)

func checkDeadLetterPolicy(x *examination) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		p := s.DeadLetterPolicy
		switch {
		case p == nil && want == nil:
			x.ok(on, "it has none: what is refused for ever is tried until it is lost by its age")
		case p == nil:
			x.bad(Finding{On: on, What: "the subscription has no dead-letter policy", Evidence: "Terraform wants one",
				Consequence: "what is refused for ever is tried until it is lost by its age", Command: x.apply()})
		case want != nil && (p.DeadLetterTopic != x.target.DeadLetterTopic || float64(p.MaxDeliveryAttempts) != want.MaxDeliveryAttempts):
			x.bad(Finding{On: on, What: "the dead-letter policy is not the one that Terraform wants",
				Evidence:    fmt.Sprintf("it is %s after %d attempts, Terraform wants %s after %g", told(p.DeadLetterTopic), p.MaxDeliveryAttempts, x.target.DeadLetterTopic, want.MaxDeliveryAttempts),
				Consequence: "dead letters go elsewhere, or sooner or later than meant", Command: x.apply()})
		default:
			x.ok(on, "dead letters go to %s after %d attempts", told(short(p.DeadLetterTopic)), p.MaxDeliveryAttempts)
		}
	})
}

// noDeadLetters is what checks of dead letters are of where there is nothing to name.
const noDeadLetters = "dead letters"

// hasDeadLetters reports whether there is a dead-letter topic to look at.
func (x *examination) hasDeadLetters() bool {
	if x.target.DeadLetterTopic != "" {
		return true
	}
	for _, one := range x.target.Subscriptions {
		if !x.have(short(one.Name), &x.subs[one.Name].sub) {
			return false
		}
	}
	x.ok(noDeadLetters, "no subscription has a dead-letter policy")
	return false
}

// keepsDeadLetters reports whether there is a dead-letter subscription to look at.
func (x *examination) keepsDeadLetters() bool {
	if !x.hasDeadLetters() {
		return false
	}
	if x.target.DeadLetterSubscription == "" {
		x.because(noDeadLetters, "dead-letter-subscription", "there is no dead-letter subscription")
		return false
	}
	return true
}

func checkDeadLetterTopic(x *examination) {
	if !x.hasDeadLetters() {
		return
	}
	name := x.target.DeadLetterTopic
	on, topic := short(name), x.topics[name]
	if topic.subscriptions.state == absent {
		x.bad(Finding{On: on, What: "the dead-letter topic does not exist", Evidence: "Pub/Sub answers 404 for " + told(name),
			Consequence: "what is refused for ever is tried until it is lost by its age", Command: x.mend("pubsub", "topics", "create", on)})
		return
	}
	if x.have(on, &topic.subscriptions) {
		x.ok(on, "it exists")
	}
}

func checkDeadLetterPublisher(x *examination) {
	x.eachDead(func(name, on, agent string, s *subscription) {
		dead := s.DeadLetterPolicy.DeadLetterTopic
		if x.topics[dead].policy.state == absent {
			x.because(on, "dead-letter-topic", "the dead-letter topic does not exist")
			return
		}
		x.agentMay(on, name, publishing(agent, dead), Finding{
			What:        "Pub/Sub may not publish dead letters",
			Consequence: "a message that has used up its attempts goes nowhere, and is tried until it is lost by its age",
			Command: command("gcloud", "pubsub", "topics", "add-iam-policy-binding", short(dead), "--project="+projectOf(dead),
				"--member=serviceAccount:"+agent, "--role=roles/pubsub.publisher"),
		})
	})
}

func checkDeadLetterSubscriber(x *examination) {
	x.eachDead(func(name, on, agent string, s *subscription) {
		x.agentMay(on, name, taking(agent, name), Finding{
			What:        "Pub/Sub may not take dead letters off the subscription",
			Consequence: "a message that has used up its attempts goes nowhere, and is tried until it is lost by its age",
			Command: command("gcloud", "pubsub", "subscriptions", "add-iam-policy-binding", on, "--project="+projectOf(name),
				"--member=serviceAccount:"+agent, "--role=roles/pubsub.subscriber"),
		})
	})
}

// eachDead is each for subscriptions with a dead-letter policy, with Pub/Sub's agent of
// their project.
func (x *examination) eachDead(check func(name, on, agent string, s *subscription)) {
	x.each(func(name, on string, s *subscription, want *Wanted) {
		if s.DeadLetterPolicy == nil && want != nil {
			x.because(on, "dead-letter-policy", "cannot be known: the subscription has no dead-letter policy")
			return
		}
		if s.DeadLetterPolicy == nil {
			x.ok(on, "it has no dead letters")
			return
		}
		if of := &x.subs[name].project; x.have(on, of) {
			check(name, on, agentOf(of.value.number()), s)
		}
	})
}

func checkDeadLetterSubscription(x *examination) {
	if !x.hasDeadLetters() {
		return
	}
	topic := x.topics[x.target.DeadLetterTopic]
	on := short(x.target.DeadLetterTopic)
	if !x.have(on, &topic.subscriptions) {
		return
	}
	live := slices.DeleteFunc(slices.Clone(topic.subscriptions.value.Subscriptions), func(s string) bool { return s == delivery.DeletedTopic })
	switch {
	case len(live) == 0:
		name := short(x.target.DeadLetterTopic)
		x.bad(Finding{On: on, What: "the dead-letter topic has no subscription", Evidence: "Pub/Sub lists none",
			Consequence: "every dead letter is lost at once", Command: x.mend("pubsub", "subscriptions", "create", name, "--topic="+name, "--expiration-period=never", "--message-retention-duration=31d")})
	case x.target.DeadLetterSubscription != "" && !slices.Contains(live, x.target.DeadLetterSubscription):
		x.bad(Finding{On: on, What: "the dead-letter subscription is not on the dead-letter topic",
			Evidence: "on it are " + told(some(live)), Consequence: "dead letters are kept elsewhere than where they are looked for", Command: x.mend("pubsub", "subscriptions", "list")})
	default:
		x.ok(on, "dead letters are kept by %s", told(short(live[0])))
	}
}

func checkRedrive(x *examination) {
	if !x.keepsDeadLetters() {
		return
	}
	on := short(x.target.DeadLetterSubscription)
	if !x.have(on, &x.dead) {
		return
	}
	r := x.records[x.target.DeadLetterSubscription]
	isRecorded := r != nil && r.state == known && r.value.text("kind") == string(delivery.Redrive)
	f := Finding{On: on, What: "a redrive of dead letters was left attached", Command: x.own("", "dead-letters", "redrive"),
		Consequence: "what is refused goes round: it is pushed again and again until it is lost by its age"}
	switch endpoint := x.dead.value.PushConfig.PushEndpoint; {
	case endpoint != "":
		f.Evidence = "the dead-letter subscription pushes to " + shown(endpoint)
		if isRecorded {
			f.Evidence += "; " + began(r.value)
		}
		x.bad(f)
	case isRecorded:
		f.What, f.Consequence = "a redrive of dead letters was not ended", "dead letters wait; the command goes on where it was"
		f.Evidence = "its record is there; " + began(r.value)
		x.bad(f)
	case r == nil:
		x.ok(on, "no redrive is attached")
	case r.state == absent && x.database.state == absent:
		x.because(on, "database", "none is attached; whether one is recorded cannot be known without the database")
	case r.state == absent || r.state == known:
		x.ok(on, "no redrive is under way")
	case x.have(on, r):
	}
}
