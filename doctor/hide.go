package doctor

import "slices"

// symptoms are what follows from almost everything that keeps pushes from being
// acknowledged.
var symptoms = []string{"acknowledged", "backlog", "latency"}

// ofPush are the checks of what a subscription pushes, and how.
var ofPush = []string{"endpoint", "cloudfunctions", "form", "token", "audience", "oidc", "account-project", "account"}

// hides says which checks cannot be relied on, or are explained, as long as another
// one's finding is there. What is hidden is unknown because of that one. A finding of
// one subscription hides nothing of another.
var hides = map[string][]string{
	"subscription":     slices.Concat(symptoms, ofPush),
	"topic":            symptoms,
	"detached":         slices.Concat(symptoms, []string{"topic"}),
	"paused":           slices.Concat(symptoms, ofPush),
	"endpoint":         symptoms,
	"cloudfunctions":   symptoms,
	"form":             symptoms,
	"token":            symptoms,
	"audience":         symptoms,
	"oidc":             slices.Concat(symptoms, []string{"audience", "account", "account-project"}),
	"account-project":  slices.Concat(symptoms, []string{"account"}),
	"account":          symptoms,
	"account-disabled": symptoms,
	"token-creator":    symptoms,
	"secret":           slices.Concat(symptoms, []string{"token"}),
	"service":          slices.Concat(symptoms, []string{"ready", "probe"}),
	"ready":            slices.Concat(symptoms, []string{"probe"}),
	"traffic":          slices.Concat(symptoms, []string{"environment"}),
	"environment":      symptoms,
	"invoker":          slices.Concat(symptoms, []string{"probe"}),
	"ingress":          slices.Concat(symptoms, []string{"probe"}),
	"probe":            symptoms,
	"keys":             symptoms,
	"database":         slices.Concat(symptoms, []string{"database-mode", "indexes", "exemptions", "ttl"}),
	"database-mode":    slices.Concat(symptoms, []string{"indexes", "exemptions", "ttl"}),
	"writer":           symptoms,
	"dead-letter-topic": {
		"dead-letter-publisher", "dead-letter-subscription", "redrive",
	},
	"dead-letter-subscription": {"redrive", "dead-letters"},
	"redrive":                  {"dead-letters"},
	"scheduler":                {"channels"},
	"acknowledged":             {"backlog"},
	"latency":                  {"backlog"},
}

// hide has the findings that others explain say so.
func hide(findings []Finding) []Finding {
	out := slices.Clone(findings)
	for i := range out {
		f := &out[i]
		if f.Result != Bad && (f.Result != Unknown || f.Permission != "" || f.Because != "") {
			continue
		}
		for _, other := range findings {
			if other.Result == Bad && doesHide(other.Check, f) && (other.scope == "" || f.scope == "" || other.scope == f.scope) {
				f.Result, f.Because = Unknown, other.Check
				f.Consequence, f.Command = "", ""
				break
			}
		}
	}
	return out
}

// doesHide reports whether a check's finding hides another finding. Where only pushes
// that were acknowledged could show that receive is reached, what keeps them from being
// acknowledged explains that.
func doesHide(check string, f *Finding) bool {
	if f.Check == "probe" && f.Result == Unknown {
		return check == "acknowledged" || slices.Contains(hides[check], "acknowledged")
	}
	return slices.Contains(hides[check], f.Check)
}
