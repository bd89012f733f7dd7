package doctor

import (
	"net/url"
	"strings"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/shell"
)

// apply is the command that makes everything as Terraform wants it.
func (x *examination) apply(more ...string) string {
	return command(append([]string{"terraform", "-chdir=" + x.target.Terraform, "apply"}, more...)...)
}

// mend returns Terraform's command where Terraform made the inbox, or else gcloud's.
func (x *examination) mend(gcloud ...string) string {
	if x.target.Terraform != "" {
		return x.apply()
	}
	return x.gcloud(gcloud...)
}

// gcloud is a command of gcloud in the target's project.
func (x *examination) gcloud(args ...string) string {
	return command(append(append([]string{"gcloud"}, args...), "--project="+x.target.Project)...)
}

// run is a command of gcloud for the service.
func (x *examination) run(verb string, args ...string) string {
	words := append(append([]string{"run", "services"}, strings.Fields(verb)...), x.target.Service, "--region="+x.target.Region)
	return x.gcloud(append(words, args...)...)
}

// deploy is the command that deploys receive as it is meant to be, or else what gcloud
// has in place of it.
func (x *examination) deploy(gcloud string) string {
	if x.target.Terraform != "" {
		return "scripts/deploy receive"
	}
	return gcloud
}

// own is a command of pushinbox for one subscription.
func (x *examination) own(name string, args ...string) string {
	args = append([]string{"pushinbox"}, args...)
	if x.target.Terraform != "" {
		args = append(args, "--terraform", x.target.Terraform)
		if name != "" && len(x.target.Subscriptions) > 1 {
			args = append(args, "--subscription", short(name))
		}
		return command(args...)
	}
	if name == "" {
		name = x.target.Subscriptions[0].Name
	}
	args = append(args, "--project", x.target.Project, "--subscription", short(name))
	if d := x.target.Database; d != "" && short(d) != "(default)" {
		args = append(args, "--database", short(d))
	}
	if c := x.target.Collection; c != "" && c != "messages" {
		args = append(args, "--collection", c)
	}
	return command(args...)
}

// update is the command that changes a subscription's settings.
func (x *examination) update(name string, flags ...string) string {
	if x.target.Terraform != "" {
		return x.apply()
	}
	return command(append([]string{"gcloud", "pubsub", "subscriptions", "update", short(name), "--project=" + projectOf(name)}, flags...)...)
}

// push is the command that sets all of a subscription's push configuration: gcloud sets
// what is left out to nothing. change has what differs from what there is.
func (x *examination) push(name string, change map[string]string) string {
	if x.target.Terraform != "" {
		return x.apply()
	}
	c := x.subs[name].sub.value.PushConfig
	set := map[string]string{"endpoint": c.PushEndpoint, "account": x.target.PushAccount, "audience": x.wantedAudience(name)}
	if c.OIDCToken != nil {
		if set["account"] == "" {
			set["account"] = c.OIDCToken.ServiceAccountEmail
		}
		if set["audience"] == "" {
			set["audience"] = c.OIDCToken.Audience
		}
	}
	for k, v := range change {
		set[k] = v
	}
	args := []string{"gcloud", "pubsub", "subscriptions", "modify-push-config", short(name), "--project=" + projectOf(name)}
	endpoint := " --push-endpoint=" + x.endpointArgument(set["endpoint"])
	rest := []string{"--push-auth-service-account=" + set["account"], "--push-auth-token-audience=" + set["audience"]}
	if c.NoWrapper != nil && change["form"] != "wrapped" || strings.Contains(change["form"], "unwrapped") {
		rest = append(rest, "--push-no-wrapper")
		if c.NoWrapper == nil || c.NoWrapper.WriteMetadata || change["form"] == "unwrapped" {
			rest = append(rest, "--push-no-wrapper-write-metadata")
		}
	}
	return command(args...) + endpoint + " " + command(rest...)
}

// endpointArgument returns an endpoint for a shell, which reads the shared token, if
// there is one, out of Secret Manager: it is shown nowhere.
func (x *examination) endpointArgument(endpoint string) string {
	base, query, _ := strings.Cut(endpoint, "?")
	values, _ := url.ParseQuery(query)
	e, ok := x.service.value.env(tokenVariable)
	if !ok && !values.Has("token") {
		return shell.Quote(endpoint)
	}
	values.Del("token")
	if rest := values.Encode(); rest != "" {
		base += "?" + rest + "&token="
	} else {
		base += "?token="
	}
	if !ok || e.ValueSource == nil {
		return shell.Quote(base + "TOKEN")
	}
	ref := e.ValueSource.SecretKeyRef
	return shell.Quote(base) + `"$(` + x.gcloud("secrets", "versions", "access", ref.Version, "--secret="+short(ref.Secret)) + `)"`
}

// shown is an address without the shared token.
func shown(address string) string { return `"` + told(delivery.HideToken(address)) + `"` }
