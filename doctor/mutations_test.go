package doctor_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/doctor/doctortest"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/testkit/measure"
)

// mutation is one thing that is wrong.
type mutation struct {
	name string
	do   func(w *doctortest.World)
	// check is the one finding that it gives, command what mends it where Terraform made
	// the inbox, and byName where that is not known; empty if it gives no finding there.
	check, command, byName string
}

const (
	apply   = "terraform -chdir=terraform apply"
	deploy  = "scripts/deploy receive"
	receive = "https://receive-" + doctortest.Number + ".europe-west1.run.app"
	push    = "gcloud pubsub subscriptions modify-push-config inbox-push --project=demo-project --push-endpoint="
	token   = `?token='"$(gcloud secrets versions access 3 --secret=inbox-verification-token --project=demo-project)"`
	signed  = " --push-auth-service-account=inbox-push@demo-project.iam.gserviceaccount.com --push-auth-token-audience=" + receive
	whole   = push + "'" + receive + "/wrapped" + token + signed
	service = "receive --region=europe-west1"
	pushing = "inbox-push@demo-project.iam.gserviceaccount.com"
	agent   = doctortest.Agent
	update  = "gcloud pubsub subscriptions update inbox-push --project=demo-project "
	refused = `gcloud logging read 'resource.type="cloud_run_revision" AND resource.labels.service_name="receive" AND jsonPayload.refusal:*' --freshness=1h --limit=20 --project=demo-project`
)

// refuse has receive refuse some pushes of the last hour.
func refuse(reason string, status int) func(*doctortest.World) {
	return func(w *doctortest.World) {
		for range 12 {
			w.Refusals = append(w.Refusals, doctortest.Refusal{Reason: reason, Error: "the error of " + reason, Status: status})
		}
	}
}

// record has a record of an operation there.
func record(w *doctortest.World, subscription, kind string) {
	w.Documents["messages-operations/"+delivery.RecordID("projects/demo-project/subscriptions/"+subscription)] = map[string]any{
		"kind": map[string]any{"stringValue": kind}, "principal": map[string]any{"stringValue": "ann@example.com"},
		"at": map[string]any{"timestampValue": "2026-11-26T02:00:00Z"}, "lostFrom": map[string]any{"timestampValue": "2026-12-03T02:00:00Z"},
	}
}

func policyOf(w *doctortest.World, constraint string, rule map[string]any) {
	w.Objects["orgpolicy/projects/demo-project/policies/"+constraint] = map[string]any{"spec": map[string]any{"rules": []any{rule}}}
}

// mutations are all that can be wrong, one each. The numbers are the rows of the table
// that this is made from, in the facts about operations.
var mutations = []mutation{
	// 1, 2
	{"project_deleted", func(w *doctortest.World) {
		w.Objects["cloudresourcemanager/projects/demo-project"]["state"] = "DELETE_REQUESTED"
	},
		"project", "gcloud projects undelete demo-project", "gcloud projects undelete demo-project"},
	{"another_number", func(w *doctortest.World) {
		w.Outputs = []byte(strings.Replace(string(w.Outputs), `"project_number":"123456789012"`, `"project_number":"999"`, 1))
	}, "project", apply, ""},
	{"api_off", func(w *doctortest.World) {
		w.Objects["serviceusage/projects/demo-project/services/monitoring.googleapis.com"]["state"] = "DISABLED"
	}, "apis", "gcloud services enable monitoring.googleapis.com --project=demo-project", "gcloud services enable monitoring.googleapis.com --project=demo-project"},
	{"pubsub_off", func(w *doctortest.World) {
		w.Objects["serviceusage/projects/demo-project/services/pubsub.googleapis.com"]["state"] = "DISABLED"
	}, "apis", "gcloud services enable pubsub.googleapis.com --project=demo-project", "gcloud services enable pubsub.googleapis.com --project=demo-project"},

	// 3 to 6
	{"subscription_missing", func(w *doctortest.World) { delete(w.Objects, doctortest.InboxSubscription) },
		"subscription", apply, "gcloud pubsub subscriptions list --project=demo-project"},
	{"topic_deleted", func(w *doctortest.World) { w.Subscription()["topic"] = "_deleted-topic_" },
		"topic", apply, "gcloud pubsub topics list --project=demo-project"},
	{"another_topic", func(w *doctortest.World) { w.Subscription()["topic"] = "projects/demo-project/topics/old" }, "topic", apply, ""},
	{"detached", func(w *doctortest.World) { w.Subscription()["detached"] = true },
		"detached", apply + ` '-replace=google_pubsub_subscription.push["main"]'`, "gcloud pubsub subscriptions delete projects/demo-project/subscriptions/inbox-push --project=demo-project"},
	{"paused", func(w *doctortest.World) {
		w.Subscription()["pushConfig"] = map[string]any{}
		record(w, "inbox-push", "pause")
	},
		"paused", "pushinbox delivery resume --terraform terraform", "pushinbox delivery resume --project demo-project --subscription inbox-push"},

	// 7 to 10
	{"endpoint_elsewhere", func(w *doctortest.World) {
		w.SetEndpoint(func(u *url.URL) { u.Host = "other-" + doctortest.Number + ".europe-west1.run.app" })
	}, "endpoint", apply, whole},
	{"address_gone", func(w *doctortest.World) { w.Service("receive")["urls"] = []any{} }, "endpoint", apply, whole},
	{"cloudfunctions_net", func(w *doctortest.World) {
		w.SetEndpoint(func(u *url.URL) { u.Host, u.Path = "europe-west1-demo-project.cloudfunctions.net", "/receive"+u.Path })
	}, "cloudfunctions", apply, whole},
	{"another_token", func(w *doctortest.World) {
		w.SetEndpoint(func(u *url.URL) { u.RawQuery = "token=" + doctortest.Marker + "x" })
	}, "token", apply, whole},
	{"no_token", func(w *doctortest.World) { w.SetEndpoint(func(u *url.URL) { u.RawQuery = "" }) }, "token", apply, whole},
	{"a_slash", func(w *doctortest.World) { w.Push()["oidcToken"].(map[string]any)["audience"] = receive + "/" }, "audience", apply, whole},
	{"no_audience", func(w *doctortest.World) { w.Push()["oidcToken"].(map[string]any)["audience"] = "" }, "audience", apply, whole},

	// 11 to 14
	{"unsigned", func(w *doctortest.World) { delete(w.Push(), "oidcToken") }, "oidc", apply, whole},
	{"another_account", func(w *doctortest.World) {
		w.Push()["oidcToken"].(map[string]any)["serviceAccountEmail"] = "default@demo-project.iam.gserviceaccount.com"
	}, "account", apply, whole},
	{"account_of_another_project", func(w *doctortest.World) {
		w.Push()["oidcToken"].(map[string]any)["serviceAccountEmail"] = "inbox-push@staging-project.iam.gserviceaccount.com"
	}, "account-project", apply, whole},
	{"account_disabled", func(w *doctortest.World) { w.Objects[doctortest.PushAccount]["disabled"] = true },
		"account-disabled", "gcloud iam service-accounts enable " + pushing + " --project=demo-project", "gcloud iam service-accounts enable " + pushing + " --project=demo-project"},
	{"account_deleted", func(w *doctortest.World) { delete(w.Objects, doctortest.PushAccount) },
		"account-disabled", apply, "gcloud iam service-accounts list --project=demo-project"},

	// 15
	{"may_not_sign", func(w *doctortest.World) { w.Revoke("roles/iam.serviceAccountTokenCreator", agent) },
		"token-creator", "gcloud iam service-accounts add-iam-policy-binding " + pushing + " --member=" + agent + " --role=roles/iam.serviceAccountTokenCreator --project=demo-project",
		"gcloud iam service-accounts add-iam-policy-binding " + pushing + " --member=" + agent + " --role=roles/iam.serviceAccountTokenCreator --project=demo-project"},
	{"granted_to_itself", func(w *doctortest.World) { // an often copied mistake
		w.Revoke("roles/iam.serviceAccountTokenCreator", agent)
		w.Grant(doctortest.PushAccount, "roles/iam.serviceAccountTokenCreator", "serviceAccount:"+pushing, nil)
	}, "token-creator", "gcloud iam service-accounts add-iam-policy-binding " + pushing + " --member=" + agent + " --role=roles/iam.serviceAccountTokenCreator --project=demo-project", ""},

	// 16 to 18
	{"not_deployed", func(w *doctortest.World) {
		delete(w.Objects, "run/projects/demo-project/locations/europe-west1/services/receive")
		delete(w.Objects, "cloudfunctions/projects/demo-project/locations/europe-west1/functions/receive")
	}, "service", deploy, ""},
	{"deployment_failed", func(w *doctortest.World) {
		w.Function("receive")["state"] = "FAILED"
		w.Function("receive")["stateMessages"] = []any{map[string]any{"severity": "ERROR", "type": "CloudRunServiceError", "message": "the container failed to start"}}
	}, "service", deploy, "gcloud functions describe receive --v2 --region=europe-west1 --project=demo-project"},
	{"not_ready", func(w *doctortest.World) {
		w.Service("receive")["terminalCondition"] = map[string]any{"type": "Ready", "state": "CONDITION_FAILED", "message": "The user-provided container failed to start"}
	}, "ready", "gcloud run services logs read " + service + " --project=demo-project", "gcloud run services logs read " + service + " --project=demo-project"},
	{"newest_not_ready", func(w *doctortest.World) { w.Service("receive")["latestCreatedRevision"] = "x/receive-00003-def" },
		"ready", "gcloud run services logs read " + service + " --project=demo-project", ""},
	{"pinned_traffic", func(w *doctortest.World) {
		w.Service("receive")["traffic"] = []any{map[string]any{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": "receive-00001-old", "percent": 100}}
	}, "traffic", "gcloud run services update-traffic " + service + " --to-latest --project=demo-project", "gcloud run services update-traffic " + service + " --to-latest --project=demo-project"},
	{"old_environment", func(w *doctortest.World) { w.SetEnv("PUSH_AUDIENCE", "https://receive-old.example.com") }, "environment", deploy, ""},
	{"old_database", func(w *doctortest.World) { w.SetEnv("FIRESTORE_DATABASE", "old") }, "environment", deploy, ""},

	// 19
	{"private", func(w *doctortest.World) {
		w.Policies["run/projects/demo-project/locations/europe-west1/services/receive"] = nil
	},
		"invoker", deploy, "gcloud run services update " + service + " --no-invoker-iam-check --project=demo-project"},
	{"ingress_open", func(w *doctortest.World) { w.Service("receive")["ingress"] = "INGRESS_TRAFFIC_ALL" }, "ingress", deploy, ""},

	// 20
	{"members_restricted", func(w *doctortest.World) {
		policyOf(w, "iam.allowedPolicyMemberDomains", map[string]any{"values": map[string]any{"allowedValues": []any{"C0123"}}})
	}, "organisation", "gcloud run services update " + service + " --no-invoker-iam-check --project=demo-project", "gcloud run services update " + service + " --no-invoker-iam-check --project=demo-project"},
	{"members_restricted_managed", func(w *doctortest.World) {
		policyOf(w, "iam.managed.allowedPolicyMembers", map[string]any{"enforce": true})
	},
		"organisation", "gcloud run services update " + service + " --no-invoker-iam-check --project=demo-project", ""},
	{"ingress_forbidden", func(w *doctortest.World) {
		policyOf(w, "run.allowedIngress", map[string]any{"values": map[string]any{"allowedValues": []any{"internal-and-cloud-load-balancing"}}})
	}, "organisation", "gcloud org-policies describe run.allowedIngress --effective --project=demo-project", ""},

	// 21
	{"keys_out_of_reach", func(w *doctortest.World) {
		w.Service("receive")["template"].(map[string]any)["vpcAccess"] = map[string]any{"egress": "ALL_TRAFFIC", "connector": "c"}
		refuse("keys_unavailable", 503)(w)
	}, "keys", "gcloud run services update " + service + " --vpc-egress=private-ranges-only --project=demo-project", "gcloud run services update " + service + " --vpc-egress=private-ranges-only --project=demo-project"},

	// 22 to 25
	{"no_database", func(w *doctortest.World) { delete(w.Objects, doctortest.Database) },
		"database", apply, "gcloud firestore databases list --project=demo-project"},
	{"datastore_mode", func(w *doctortest.World) { w.Objects[doctortest.Database]["type"] = "DATASTORE_MODE" },
		"database-mode", "gcloud firestore databases update --database='(default)' --type=firestore-native --project=demo-project", ""},
	{"index_missing", func(w *doctortest.World) { delete(w.Objects, w.Indexes()[0]) }, "indexes", apply, "gcloud firestore indexes composite create "},
	{"index_building", func(w *doctortest.World) { w.Objects[w.Indexes()[0]]["state"] = "CREATING" },
		"indexes", "gcloud firestore operations list --database='(default)' --project=demo-project", ""},
	{"index_broken", func(w *doctortest.World) { w.Objects[w.Indexes()[3]]["state"] = "NEEDS_REPAIR" },
		"indexes", "gcloud firestore indexes composite list --database='(default)' --project=demo-project", ""},
	{"no_ttl", func(w *doctortest.World) { delete(w.Field("messages", "expireAt"), "ttlConfig") },
		"ttl", apply, "gcloud firestore fields ttls update expireAt --collection-group=messages --database='(default)' --enable-ttl --project=demo-project"},
	{"no_ttl_of_chunks", func(w *doctortest.World) {
		w.Field("messages-chunks", "expireAt")["ttlConfig"] = map[string]any{"state": "NEEDS_REPAIR"}
	}, "ttl", apply, "gcloud firestore fields ttls update expireAt --collection-group=messages-chunks --database='(default)' --enable-ttl --project=demo-project"},
	{"indexed_time", func(w *doctortest.World) {
		delete(w.Objects, doctortest.Database+"/collectionGroups/messages/fields/receivedAt")
	},
		"exemptions", apply, "gcloud firestore indexes fields update receivedAt --collection-group=messages --database='(default)' --disable-indexes --project=demo-project"},

	// 26
	{"may_not_write", func(w *doctortest.World) {
		w.Revoke("projects/demo-project/roles/pushInboxWriter", "serviceAccount:inbox-receive@demo-project.iam.gserviceaccount.com")
	}, "writer", apply, "gcloud projects add-iam-policy-binding demo-project --member=serviceAccount:inbox-receive@demo-project.iam.gserviceaccount.com --role=projects/demo-project/roles/pushInboxWriter --condition=None"},
	{"may_write_elsewhere", func(w *doctortest.World) {
		const receiver = "serviceAccount:inbox-receive@demo-project.iam.gserviceaccount.com"
		w.Revoke("projects/demo-project/roles/pushInboxWriter", receiver)
		w.Grant("cloudresourcemanager/projects/demo-project", "projects/demo-project/roles/pushInboxWriter", receiver,
			map[string]string{"expression": `resource.name == "projects/demo-project/databases/other"`})
	}, "writer", apply, ""},
	{"role_lacks_update", func(w *doctortest.World) { // only large messages fail
		w.Roles["projects/demo-project/roles/pushInboxWriter"] = []string{"datastore.entities.create", "datastore.entities.get"}
	}, "writer", apply, ""},

	// 27 to 29
	{"no_dead_letter_topic", func(w *doctortest.World) {
		delete(w.Objects, doctortest.DeadTopic)
		w.Objects[doctortest.DeadSubscription]["topic"] = "_deleted-topic_"
	}, "dead-letter-topic", apply, "gcloud pubsub topics create inbox-dead-letter --project=demo-project"},
	{"may_not_publish_dead_letters", func(w *doctortest.World) { w.Revoke("roles/pubsub.publisher", agent) },
		"dead-letter-publisher", "gcloud pubsub topics add-iam-policy-binding inbox-dead-letter --project=demo-project --member=" + agent + " --role=roles/pubsub.publisher",
		"gcloud pubsub topics add-iam-policy-binding inbox-dead-letter --project=demo-project --member=" + agent + " --role=roles/pubsub.publisher"},
	{"may_not_take_dead_letters", func(w *doctortest.World) { w.Revoke("roles/pubsub.subscriber", agent) },
		"dead-letter-subscriber", "gcloud pubsub subscriptions add-iam-policy-binding inbox-push --project=demo-project --member=" + agent + " --role=roles/pubsub.subscriber",
		"gcloud pubsub subscriptions add-iam-policy-binding inbox-push --project=demo-project --member=" + agent + " --role=roles/pubsub.subscriber"},
	{"dead_letters_kept_by_nobody", func(w *doctortest.World) { delete(w.Objects, doctortest.DeadSubscription) },
		"dead-letter-subscription", apply, "gcloud pubsub subscriptions create inbox-dead-letter --topic=inbox-dead-letter --expiration-period=never --message-retention-duration=31d --project=demo-project"},
	{"no_dead_letter_policy", func(w *doctortest.World) { delete(w.Subscription(), "deadLetterPolicy") }, "dead-letter-policy", apply, ""},
	{"another_number_of_attempts", func(w *doctortest.World) {
		w.Subscription()["deadLetterPolicy"].(map[string]any)["maxDeliveryAttempts"] = 5
	}, "dead-letter-policy", apply, ""},

	// 30 to 33
	{"deadline_too_short", func(w *doctortest.World) { w.Subscription()["ackDeadlineSeconds"] = 5 }, "ack-deadline", apply, update + "--ack-deadline=60"},
	{"deadline_over_the_limit", func(w *doctortest.World) { w.Service("receive")["template"].(map[string]any)["timeout"] = "30s" },
		"ack-deadline", deploy, "gcloud run services update " + service + " --timeout=60 --project=demo-project"},
	{"filter", func(w *doctortest.World) { w.Subscription()["filter"] = `attributes.kind = "a"` }, "filter", apply, ""},
	{"transforms", func(w *doctortest.World) {
		w.Subscription()["messageTransforms"] = []any{map[string]any{"javascriptUdf": map[string]any{"functionName": "f"}}}
	}, "transforms", apply, update + "--clear-message-transforms"},
	{"expires", func(w *doctortest.World) { w.Subscription()["expirationPolicy"] = map[string]any{"ttl": "2678400s"} }, "expiry", apply, update + "--expiration-period=never"},
	{"expires_by_default", func(w *doctortest.World) { delete(w.Subscription(), "expirationPolicy") }, "expiry", apply, update + "--expiration-period=never"},
	{"exactly_once", func(w *doctortest.World) { w.Subscription()["enableExactlyOnceDelivery"] = true }, "exactly-once", apply, update + "--no-enable-exactly-once-delivery"},
	{"without_metadata", func(w *doctortest.World) { w.Push()["noWrapper"] = map[string]any{} }, "form", apply, whole},
	{"unwrapped", func(w *doctortest.World) { w.Push()["noWrapper"] = map[string]any{"writeMetadata": true} }, "form", apply, whole},
	{"no_retry_policy", func(w *doctortest.World) { delete(w.Subscription(), "retryPolicy") }, "retry", apply, update + "--min-retry-delay=10s --max-retry-delay=600s"},
	{"another_backoff", func(w *doctortest.World) { w.Subscription()["retryPolicy"].(map[string]any)["minimumBackoff"] = "1s" }, "retry", apply, ""},

	// 34 to 36
	{"old_backlog", func(w *doctortest.World) { w.Oldest["inbox-push"], w.Undelivered["inbox-push"] = 7200, 4000 }, "backlog", refused, refused},
	{"refused", func(w *doctortest.World) {
		w.Pushes["inbox-push"] = map[string]float64{"ack": 700, "server_error": 290, "remote_server_4xx": 10}
		refuse("unavailable", 503)(w)
	}, "acknowledged", refused, refused},
	{"slow", func(w *doctortest.World) { w.Latency["inbox-push"] = 59.9e6 },
		"latency", "gcloud run services logs read " + service + " --project=demo-project", "gcloud run services logs read " + service + " --project=demo-project"},
	{"dead_letters", func(w *doctortest.World) { w.Undelivered["inbox-dead-letter"] = 3 },
		"dead-letters", "pushinbox dead-letters list --terraform terraform", "pushinbox dead-letters list --project demo-project --subscription inbox-push"},

	// 37
	{"clock_behind", func(w *doctortest.World) { w.Skew = 5 * time.Minute }, "clock", "timedatectl set-ntp true", "timedatectl set-ntp true"},
	{"clock_of_receive", refuse("not_yet_valid", 401), "receive-clock", refused, refused},

	// 38
	{"perimeter", func(w *doctortest.World) { w.Perimeter["firestore"] = "Qx_unique-ID" },
		"perimeter", `gcloud logging read 'protoPayload.metadata.vpcServiceControlsUniqueId="Qx_unique-ID"' --project=demo-project`,
		`gcloud logging read 'protoPayload.metadata.vpcServiceControlsUniqueId="Qx_unique-ID"' --project=demo-project`},

	// 39
	{"scheduler_paused", func(w *doctortest.World) {
		w.Objects["cloudscheduler/projects/demo-project/locations/europe-west1/jobs/inbox-calendar-renew"]["state"] = "PAUSED"
	}, "scheduler", "gcloud scheduler jobs resume inbox-calendar-renew --location=europe-west1 --project=demo-project", ""},
	{"schedule_fails", func(w *doctortest.World) {
		w.Objects["cloudscheduler/projects/demo-project/locations/europe-west1/jobs/inbox-calendar-sync"]["status"] = map[string]any{"code": 7}
	}, "scheduler", "gcloud scheduler jobs run inbox-calendar-sync --location=europe-west1 --project=demo-project", ""},
	{"channel_ends", func(w *doctortest.World) {
		w.Documents["calendars-channels/c1"]["expiration"] = map[string]any{"timestampValue": time.Now().Add(3 * time.Hour).Format(time.RFC3339)}
	}, "channels", "gcloud scheduler jobs run inbox-calendar-renew --location=europe-west1 --project=demo-project", ""},
	{"secret_disabled", func(w *doctortest.World) {
		w.Objects["secretmanager/projects/demo-project/secrets/inbox-mns-secret/versions/3"]["state"] = "DISABLED"
	}, "secret", "gcloud secrets versions enable 3 --secret=inbox-mns-secret --project=demo-project", ""},
	{"secret_destroyed", func(w *doctortest.World) {
		w.Objects["secretmanager/projects/demo-project/secrets/inbox-mns-secret/versions/3"]["state"] = "DESTROYED"
	}, "secret", apply, ""},

	{"redrive_left_attached", func(w *doctortest.World) {
		w.Objects[doctortest.DeadSubscription]["pushConfig"] = map[string]any{"pushEndpoint": receive + "/wrapped?token=" + doctortest.Marker}
		record(w, "inbox-dead-letter", "redrive")
	}, "redrive", "pushinbox dead-letters redrive --terraform terraform", "pushinbox dead-letters redrive --project demo-project --subscription inbox-push"},
	{"redrive_not_ended", func(w *doctortest.World) { record(w, "inbox-dead-letter", "redrive") },
		"redrive", "pushinbox dead-letters redrive --terraform terraform", ""},
}

// world is one with everything in it that a mutation changes.
func world(t *testing.T) *doctortest.World {
	w := doctortest.New(t, everything)
	w.Documents["calendars-channels/c1"] = map[string]any{
		"calendarId": map[string]any{"stringValue": "team@example.com"},
		"expiration": map[string]any{"timestampValue": time.Now().Add(6 * 24 * time.Hour).Format(time.RFC3339)},
	}
	return w
}

// TestMutations changes one thing at a time: it gives its one finding, with the command
// that mends it, and no other.
func TestMutations(t *testing.T) {
	t.Parallel()
	if len(mutations) < 39 {
		t.Errorf("only %d mutations", len(mutations))
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := world(t)
			m.do(w)
			r := examine(t, w)
			bad, unknown := not(r)
			if len(bad) != 1 || bad[0].Check != m.check || bad[0].Command != m.command {
				t.Fatalf("want one finding of %s with\n%s\ngot %s", m.check, m.command, told(bad))
			}
			if f := bad[0]; f.On == "" || f.What == "" || f.Evidence == "" || f.Consequence == "" {
				t.Errorf("the finding does not say all: %+v", f)
			}
			for _, f := range unknown {
				if f.Because == "" {
					t.Errorf("an unknown that nothing explains: %+v", f)
				}
			}
			printed.Store(bad[0].Command, true)

			if m.byName == "" {
				return
			}
			w = world(t)
			m.do(w)
			bad, _ = not(byName(t, w))
			if len(bad) != 1 || bad[0].Check != m.check || !strings.HasPrefix(bad[0].Command, m.byName) {
				t.Fatalf("by name: want one finding of %s with\n%s\ngot %s", m.check, m.byName, told(bad))
			}
			printed.Store(bad[0].Command, true)
		})
	}
}

func told(findings []doctor.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "\n%s, %s: %s\n  %s\n  %s", f.Check, f.On, f.What, f.Evidence, f.Command)
	}
	return b.String()
}

// TestEveryCheckFinds fails for a check that no mutation is found by, apart from the
// probe, which has its own test.
func TestEveryCheckFinds(t *testing.T) {
	t.Parallel()
	for _, name := range doctor.Checks() {
		if name != "probe" && !slices.ContainsFunc(mutations, func(m mutation) bool { return m.check == name }) {
			t.Errorf("no mutation is found by %s", name)
		}
	}
}

// permissions are all that the examination of a healthy world takes.
func permissions(t *testing.T) []string {
	w := world(t)
	examine(t, w)
	byName(t, w)
	return w.Asked()
}

// deny takes a permission away, and what would stand in for it.
func deny(w *doctortest.World, permission string) {
	w.Denied[permission] = true
	if permission == "logging.logEntries.list" {
		w.Denied["logging.views.access"] = true
	}
}

// TestPermissions takes each permission away: what it was needed for is unknown and
// names it, nothing is bad, and nothing that is wrong is then said to be ok.
func TestPermissions(t *testing.T) {
	t.Parallel()
	all := permissions(t)
	if len(all) < 20 {
		t.Fatalf("only %v are asked for", all)
	}
	for nth, permission := range all {
		t.Run(permission, func(t *testing.T) {
			t.Parallel()
			for how, examine := range map[string]func(*testing.T, *doctortest.World) *doctor.Report{"terraform": examine, "name": byName} {
				w := world(t)
				deny(w, permission)
				bad, unknown := not(examine(t, w))
				if len(bad) > 0 {
					t.Errorf("by %s: without the permission there are findings: %s", how, told(bad))
				}
				if !slices.Contains(w.Asked(), permission) {
					continue // the other way needs it
				}
				if !slices.ContainsFunc(unknown, func(f doctor.Finding) bool { return f.Permission == permission }) {
					t.Errorf("by %s: no unknown names it: %+v", how, unknown)
				}
			}
			for i, m := range mutations {
				if i%measure.Size(5, 1) != nth%measure.Size(5, 1) {
					continue // by default each permission is tried with a fifth of them
				}
				w := world(t)
				m.do(w)
				deny(w, permission)
				seen := false
				for _, f := range examine(t, w).Findings {
					if f.Check == m.check {
						seen = seen || f.Result != doctor.OK
					}
				}
				if !seen {
					t.Errorf("%s is said to be ok", m.name)
				}
			}
		})
	}
}

// same are mutations of one and the same setting.
var same = []string{"another_account", "account_of_another_project"}

// TestPairs makes two things wrong at a time: both are found, or one of them and the
// other is unknown because of it.
func TestPairs(t *testing.T) {
	t.Parallel()
	from := measure.Seed()
	random := rand.New(rand.NewPCG(from, 1))
	for range measure.Size(150, 5000) {
		a, b := mutations[random.IntN(len(mutations))], mutations[random.IntN(len(mutations))]
		if a.check == b.check || slices.Contains(same, a.name) && slices.Contains(same, b.name) {
			continue // they may undo each other
		}
		w := world(t)
		if !both(w, a, b) {
			continue
		}
		bad, unknown := not(examine(t, w))
		has := func(check string) bool {
			return slices.ContainsFunc(bad, func(f doctor.Finding) bool { return f.Check == check })
		}
		hidden := func(check string) bool {
			return slices.ContainsFunc(unknown, func(f doctor.Finding) bool { return f.Check == check && f.Because != "" })
		}
		okA, okB := has(a.check) || hidden(a.check), has(b.check) || hidden(b.check)
		if !okA || !okB || !has(a.check) && !has(b.check) || len(bad) > 2 {
			t.Errorf("seed %d: %s and %s give %s\nunknown %+v", from, a.name, b.name, told(bad), unknown)
		}
	}
}

// both makes two things wrong, and reports whether that is possible: what one takes away
// the other cannot change.
func both(w *doctortest.World, a, b mutation) (possible bool) {
	defer func() {
		if recover() != nil {
			possible = false
		}
	}()
	a.do(w)
	b.do(w)
	return true
}
