package doctor

import (
	"slices"
	"strings"
)

// agentOf returns the account by which Pub/Sub acts in a project.
func agentOf(number string) string {
	return "service-" + number + "@gcp-sa-pubsub.iam.gserviceaccount.com"
}

// grant is a right of somebody on something, by its full resource name.
type grant struct{ member, permission, resource string }

// holding is what policies say of a grant.
type holding struct {
	// yes is whether it holds without a condition, and by which role.
	yes  bool
	role string
	// conditional are the bindings that give it under a condition.
	conditional []binding
	// unsure is what is not known and could change a no, nil if there is nothing.
	unsure question
}

// holds looks for a grant in policies: that of the resource, and the project's.
func (f *facts) holds(member, permission string, policies ...*fact[policy]) (h holding) {
	for _, p := range policies {
		if _, ok := p.missing(); !ok {
			h.unsure = p
			continue
		}
		for _, b := range p.value.Bindings {
			if !slices.Contains(b.Members, member) {
				continue
			}
			r := f.roles[b.Role]
			if r == nil {
				continue
			}
			if _, ok := r.missing(); !ok {
				if r.state != absent {
					h.unsure = r
				}
				continue
			}
			if r.value.Deleted || !slices.Contains(r.value.IncludedPermissions, permission) {
				continue
			}
			if b.Condition == nil {
				h.yes, h.role = true, b.Role
				return h
			}
			h.conditional = append(h.conditional, b)
		}
	}
	return h
}

// wantedGrants are the rights of Pub/Sub's agent that are looked for, each with the
// policies that may give it.
func (f *facts) wantedGrants() map[grant][]*fact[policy] {
	all := map[grant][]*fact[policy]{}
	for name, s := range f.subs {
		if s.project.state != known {
			continue
		}
		agent := agentOf(s.project.value.number())
		all[f.signing(agent)] = []*fact[policy]{&f.accountPolicy, &f.policy}
		if s.sub.value.DeadLetterPolicy == nil {
			continue
		}
		all[taking(agent, name)] = []*fact[policy]{&s.policy, f.policyOf(name)}
		dead := s.sub.value.DeadLetterPolicy.DeadLetterTopic
		if topic := f.topics[dead]; topic != nil {
			all[publishing(agent, dead)] = []*fact[policy]{&topic.policy, f.policyOf(dead)}
		}
	}
	return all
}

// signing is the right to sign as the push account.
func (f *facts) signing(agent string) grant {
	return grant{agent, "iam.serviceAccounts.getOpenIdToken", "//iam.googleapis.com/projects/" + f.target.Project + "/serviceAccounts/" + f.target.PushAccount}
}

// taking is the right to take messages off a subscription, and publishing that to publish
// to a topic.
func taking(agent, subscription string) grant {
	return grant{agent, "pubsub.subscriptions.consume", "//pubsub.googleapis.com/" + subscription}
}

func publishing(agent, topic string) grant {
	return grant{agent, "pubsub.topics.publish", "//pubsub.googleapis.com/" + topic}
}

// policyOf returns the policy of the project that something is in, which is only asked
// of the target's.
func (f *facts) policyOf(name string) *fact[policy] {
	if projectOf(name) == f.target.Project {
		return &f.policy
	}
	return &fact[policy]{state: known}
}

// troubleshoot asks, of what is not granted on the resource nor on the project, whether
// a folder or the organisation grants it.
func (f *facts) troubleshoot(a *asker) {
	if f.project.value.Parent == "" {
		return
	}
	for g, policies := range f.wantedGrants() {
		if h := f.holds("serviceAccount:"+g.member, g.permission, policies...); h.yes || h.unsure != nil {
			continue
		}
		f.troubleshot[g] = &fact[troubleshooting]{}
		post(a, f.troubleshot[g], "", "roles/iam.securityReviewer", troubleAPI+"iam:troubleshoot", map[string]any{
			"accessTuple": map[string]string{"principal": g.member, "fullResourceName": g.resource, "permission": g.permission},
		})
	}
}

// agentMay checks that Pub/Sub's agent has a right.
func (x *examination) agentMay(on, scope string, g grant, why Finding) {
	h := x.holds("serviceAccount:"+g.member, g.permission, x.wantedGrants()[g]...)
	why.On, why.scope = on, scope
	why.Evidence = "neither the resource nor the project grants " + g.permission + " to " + g.member
	t := x.troubleshot[g]
	switch {
	case h.yes:
		x.add(Finding{On: on, scope: scope, Result: OK, What: "Pub/Sub's agent may, by " + h.role})
	case h.unsure != nil:
		u, _ := h.unsure.missing()
		u.On, u.scope, u.Result = on, scope, Unknown
		x.add(u)
	case len(h.conditional) > 0 && (t == nil || t.state != known):
		x.add(Finding{On: on, scope: scope, Result: Unknown, What: "the grant has a condition that cannot be evaluated here: " + told(h.conditional[0].Condition.Expression), Command: why.Command})
	case t != nil && t.state == known && t.value.Access == "GRANTED":
		x.add(Finding{On: on, scope: scope, Result: OK, What: "Pub/Sub's agent may, as the policy troubleshooter says"})
	case t != nil && (t.state != known || !strings.HasPrefix(t.value.Access, "NOT_GRANTED")):
		u := Finding{On: on, scope: scope, Result: Unknown, Command: why.Command, Evidence: why.Evidence,
			What: "no grant is found on the resource or the project, and whether a folder or the organisation grants it cannot be asked; to grant it does no harm"}
		if t.state == denied {
			u.Permission = t.permission
		}
		x.add(u)
	default:
		x.bad(why)
	}
}
