package doctor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/doctor/doctortest"
	"example.com/pushinbox/testkit/roundtrip"
)

// find returns what a check says.
func find(t *testing.T, r *doctor.Report, check string) doctor.Finding {
	t.Helper()
	i := slices.IndexFunc(r.Findings, func(f doctor.Finding) bool { return f.Check == check })
	if i < 0 {
		t.Fatalf("%s says nothing", check)
	}
	return r.Findings[i]
}

// TestProbe has receive answer a stranger in each way.
func TestProbe(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, settings string
		do             func(w *doctortest.World)
		want           doctor.Result
		command        string
	}{
		{"refused_by_receive", open, func(*doctortest.World) {}, doctor.OK, ""},
		{"out_of_reach_and_acknowledged", "", func(*doctortest.World) {}, doctor.OK, ""},
		{"out_of_reach_and_nothing_pushed", "", func(w *doctortest.World) { w.Pushes = nil }, doctor.Unknown, ""},
		{"out_of_reach_and_all_refused", "", func(w *doctortest.World) { w.Pushes["inbox-push"] = map[string]float64{"server_error": 10} }, doctor.Unknown, ""},
		{"out_of_reach_and_no_numbers", "", func(w *doctortest.World) { w.Denied["monitoring.timeSeries.list"] = true }, doctor.Unknown, ""},
		{"default_address_off", open, func(w *doctortest.World) { w.Service("receive")["defaultUriDisabled"] = true }, doctor.Bad, "scripts/deploy receive"},
		{"another_program", open, func(w *doctortest.World) { w.Answer = 200 }, doctor.Bad, "gcloud run services logs read " + service + " --project=demo-project"},
		{"does_not_start", open, func(w *doctortest.World) { w.Answer = 503 }, doctor.Bad, "gcloud run services logs read " + service + " --project=demo-project"},
		// By an IAM that has it open, and a front end that does not.
		{"forbidden", open, func(w *doctortest.World) { w.Answer = 403 }, doctor.Bad, "scripts/deploy receive"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := doctortest.New(t, test.settings)
			test.do(w)
			f := find(t, examine(t, w), "probe")
			if f.Result != test.want || f.Command != test.command {
				t.Errorf("got %+v, want %s and %q", f, test.want, test.command)
			}
			if f.Command != "" {
				printed.Store(f.Command, true)
			}
		})
	}
}

// TestProbeUnreachable: no answer at all is bad, and not a missing permission.
func TestProbeUnreachable(t *testing.T) {
	t.Parallel()
	w := doctortest.New(t, open)
	target, err := doctor.FromTerraform("terraform", w.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	gone := &http.Client{Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) { return nil, errors.New("no such host") })}
	r, err := doctor.Examine(t.Context(), doctor.Options{Google: w.Client(), Probe: gone, Now: time.Now}, target)
	if err != nil {
		t.Fatal(err)
	}
	if f := find(t, r, "probe"); f.Result != doctor.Bad || !strings.Contains(f.Evidence, "no such host") {
		t.Errorf("got %+v", f)
	}
}

// TestHealthyInAnotherWay has what is not as Terraform makes it and works all the same.
func TestHealthyInAnotherWay(t *testing.T) {
	t.Parallel()
	const creator = "roles/iam.serviceAccountTokenCreator"
	for _, test := range []struct {
		name, check string
		do          func(w *doctortest.World)
	}{
		{"signs_by_the_service_agents_role", "token-creator", func(w *doctortest.World) {
			w.Revoke(creator, agent)
			w.Grant("cloudresourcemanager/projects/demo-project", "roles/pubsub.serviceAgent", agent, nil)
		}},
		{"signs_by_a_grant_on_the_project", "token-creator", func(w *doctortest.World) {
			w.Revoke(creator, agent)
			w.Grant("cloudresourcemanager/projects/demo-project", creator, agent, nil)
		}},
		{"dead_letters_by_grants_on_the_project", "dead-letter-publisher", func(w *doctortest.World) {
			w.Revoke("roles/pubsub.publisher", agent)
			w.Grant("cloudresourcemanager/projects/demo-project", "roles/pubsub.publisher", agent, nil)
		}},
		{"dead_letters_by_a_role_of_their_own", "dead-letter-subscriber", func(w *doctortest.World) {
			w.Revoke("roles/pubsub.subscriber", agent)
			w.Roles["organizations/1/roles/dead"] = []string{"pubsub.subscriptions.consume"}
			w.Roles["projects/demo-project/roles/dead"] = []string{"pubsub.subscriptions.consume"}
			w.Grant("cloudresourcemanager/projects/demo-project", "projects/demo-project/roles/dead", agent, nil)
		}},
		{"writes_by_a_wider_role", "writer", func(w *doctortest.World) {
			w.Grant("cloudresourcemanager/projects/demo-project", "roles/datastore.user", "serviceAccount:inbox-receive@demo-project.iam.gserviceaccount.com", nil)
			w.Roles["projects/demo-project/roles/pushInboxWriter"] = nil
		}},
		{"invoker_check_off", "invoker", func(w *doctortest.World) {
			w.Policies["run/projects/demo-project/locations/europe-west1/services/receive"] = nil
			w.Service("receive")["invokerIamDisabled"] = true
		}},
		{"traffic_pinned_to_the_newest", "traffic", func(w *doctortest.World) {
			w.Service("receive")["traffic"] = []any{map[string]any{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": "receive-00002-abc", "percent": 100}}
		}},
		{"a_tag_on_an_old_revision", "traffic", func(w *doctortest.World) {
			w.Service("receive")["traffic"] = append(w.Service("receive")["traffic"].([]any),
				map[string]any{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": "receive-00001-old", "tag": "old"})
		}},
		{"log_read_by_a_view", "keys", func(w *doctortest.World) { w.Denied["logging.logEntries.list"] = true }},
		{"quiet", "acknowledged", func(w *doctortest.World) { w.Pushes["inbox-push"], w.Latency = nil, nil }},
		{"no_organisation", "organisation", func(w *doctortest.World) {
			w.Objects["serviceusage/projects/demo-project/services/orgpolicy.googleapis.com"] = map[string]any{"state": "DISABLED"}
			w.Objects["cloudresourcemanager/projects/demo-project"]["parent"] = ""
		}},
		{"egress_with_a_way_out", "keys", func(w *doctortest.World) {
			w.Service("receive")["template"].(map[string]any)["vpcAccess"] = map[string]any{"egress": "ALL_TRAFFIC"}
		}},
		{"attribute_with_a_backtick_and_a_backslash", "indexes", func(w *doctortest.World) {
			w.Outputs = bytes.ReplaceAll(w.Outputs, []byte(`"tenant"`), []byte("\"q`\\\\\""))
			for _, name := range w.Indexes() {
				for _, f := range w.Objects[name]["fields"].([]any) {
					if field := f.(map[string]any); field["fieldPath"] == "attributes.tenant" {
						field["fieldPath"] = "attributes.`q\\`\\\\`" // as firestoreinbox asks for it
					}
				}
			}
		}},
		{"old_channel_beside_a_new_one", "channels", func(w *doctortest.World) {
			w.Documents["calendars-channels/c0"] = map[string]any{
				"calendarId": map[string]any{"stringValue": "team@example.com"}, "expiration": map[string]any{"timestampValue": time.Now().Add(-time.Hour).Format(time.RFC3339)},
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := world(t)
			// Which would answer in place of what is looked for here.
			w.Objects["serviceusage/projects/demo-project/services/policytroubleshooter.googleapis.com"] = map[string]any{"state": "DISABLED"}
			test.do(w)
			r := examine(t, w)
			if f := find(t, r, test.check); f.Result != doctor.OK {
				t.Errorf("got %+v", f)
			}
			if bad, _ := not(r); len(bad) > 0 {
				t.Errorf("findings: %s", told(bad))
			}
		})
	}
}

// TestUnsure has what cannot be told here: it is unknown, and says what would tell it.
func TestUnsure(t *testing.T) {
	t.Parallel()
	const creator = "roles/iam.serviceAccountTokenCreator"
	for _, test := range []struct {
		name, check, says string
		do                func(w *doctortest.World)
	}{
		{"grants_above_the_project", "token-creator", "folder or the organisation", func(w *doctortest.World) {
			w.Revoke(creator, agent)
			w.Objects["serviceusage/projects/demo-project/services/policytroubleshooter.googleapis.com"] = map[string]any{"state": "DISABLED"}
		}},
		{"grant_with_a_condition", "writer", "condition", func(w *doctortest.World) {
			const receiver = "serviceAccount:inbox-receive@demo-project.iam.gserviceaccount.com"
			w.Revoke("projects/demo-project/roles/pushInboxWriter", receiver)
			w.Grant("cloudresourcemanager/projects/demo-project", "projects/demo-project/roles/pushInboxWriter", receiver,
				map[string]string{"expression": `resource.name.startsWith("projects/demo-project/databases/")`})
		}},
		{"policies_not_asked", "organisation", "orgpolicy.googleapis.com is not enabled", func(w *doctortest.World) {
			w.Objects["serviceusage/projects/demo-project/services/orgpolicy.googleapis.com"] = map[string]any{"state": "DISABLED"}
		}},
		{"an_api_that_only_doctor_needs", "project", "cloudresourcemanager.googleapis.com is not enabled for projects/123456789012", func(w *doctortest.World) {
			w.Objects["serviceusage/projects/demo-project/services/cloudresourcemanager.googleapis.com"] = map[string]any{"state": "DISABLED"}
		}},
		{"no_numbers", "acknowledged", "no data", func(w *doctortest.World) { w.Pushes, w.Undelivered = nil, nil }},
		{"no_backlog", "backlog", "no data", func(w *doctortest.World) { w.Undelivered, w.Oldest = nil, nil }},
		{"no_count_of_dead_letters", "dead-letters", "no data", func(w *doctortest.World) { w.Undelivered = nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := world(t)
			test.do(w)
			f := find(t, examine(t, w), test.check)
			if f.Result != doctor.Unknown || f.Because != "" || !strings.Contains(f.What, test.says) {
				t.Errorf("got %+v, want an unknown that says %q", f, test.says)
			}
			if f.Command != "" {
				printed.Store(f.Command, true)
			}
		})
	}
}

// TestInvokerCheckRequired: an organisation may forbid the other way to be open, too.
func TestInvokerCheckRequired(t *testing.T) {
	t.Parallel()
	w := doctortest.New(t, open)
	policyOf(w, "run.managed.requireInvokerIam", map[string]any{"enforce": true})
	bad, _ := not(examine(t, w))
	if len(bad) != 1 || bad[0].Check != "organisation" || bad[0].Command != "gcloud org-policies describe run.managed.requireInvokerIam --effective --project=demo-project" {
		t.Errorf("findings: %s", told(bad))
	}
}

// TestSeveralSubscriptions: what is wrong with one hides nothing of another.
func TestSeveralSubscriptions(t *testing.T) {
	t.Parallel()
	w := doctortest.New(t, open)
	w.Subscription()["pushConfig"] = map[string]any{}
	added := "pubsub/projects/demo-project/subscriptions/inbox-new"
	delete(w.Objects[added]["pushConfig"].(map[string]any), "oidcToken")
	w.Pushes["inbox-new"] = map[string]float64{"ack": 0, "remote_server_4xx": 50}
	w.Oldest["inbox-push"] = 9000
	r := examine(t, w)
	bad, unknown := not(r)
	if len(bad) != 2 || bad[0].Check != "paused" || bad[0].On != "inbox-push" || bad[1].Check != "oidc" || bad[1].On != "inbox-new" {
		t.Errorf("findings: %s", told(bad))
	}
	if got := bad[0].Command; got != "pushinbox delivery resume --terraform terraform --subscription inbox-push" {
		t.Errorf("the command is %s", got)
	}
	for _, want := range []struct{ check, on, because string }{
		{"acknowledged", "inbox-new", "oidc"}, {"backlog", "inbox-push", "paused"}, {"audience", "inbox-push", "paused"},
	} {
		if !slices.ContainsFunc(unknown, func(f doctor.Finding) bool {
			return f.Check == want.check && f.On == want.on && f.Because == want.because
		}) {
			t.Errorf("no unknown %v in %+v", want, unknown)
		}
	}
}

// TestSubscriptionOfAnotherProject: its own project's agent pushes, and receive must be
// in its reach.
func TestSubscriptionOfAnotherProject(t *testing.T) {
	t.Parallel()
	const name = "projects/other-project/subscriptions/theirs"
	const theirs = "serviceAccount:service-777@gcp-sa-pubsub.iam.gserviceaccount.com"
	w := doctortest.New(t, open)
	s := w.Subscription()
	s["name"] = name
	delete(s, "deadLetterPolicy")
	w.Objects["pubsub/"+name] = s
	w.Objects["cloudresourcemanager/projects/other-project"] = map[string]any{"name": "projects/777", "state": "ACTIVE"}
	w.Push()["oidcToken"].(map[string]any)["serviceAccountEmail"] = "inbox-push@demo-project.iam.gserviceaccount.com"
	for id := range w.Pushes {
		delete(w.Pushes, id)
	}
	w.Pushes["theirs"], w.Latency["theirs"], w.Oldest["theirs"], w.Undelivered["theirs"] = map[string]float64{"ack": 5}, 1000, 0, 0
	target, err := doctor.Named(doctortest.Project, name)
	if err != nil {
		t.Fatal(err)
	}
	if f := find(t, report(t, w, target), "token-creator"); f.Result != doctor.Bad || !strings.Contains(f.Command, theirs) {
		t.Errorf("the agent of their project is not asked for: %+v", f)
	}
	if f := find(t, report(t, w, target), "account-project"); f.Result != doctor.Bad {
		t.Errorf("an account of another project than the subscription's: %+v", f)
	}
	w.Service("receive")["ingress"] = "INGRESS_TRAFFIC_INTERNAL_ONLY"
	if f := find(t, report(t, w, target), "ingress"); f.Result != doctor.Bad || !strings.Contains(f.Command, "--ingress=all") {
		t.Errorf("receive is out of reach of another project's subscription: %+v", f)
	}
}

// TestPerimeter: VPC Service Controls are never told as a missing permission, whichever
// service they keep.
func TestPerimeter(t *testing.T) {
	t.Parallel()
	for _, api := range []string{"pubsub", "run", "firestore", "monitoring", "logging", "iam", "cloudresourcemanager", "secretmanager", "cloudfunctions"} {
		w := world(t)
		w.Perimeter[api] = "unique-1"
		bad, unknown := not(examine(t, w))
		if len(bad) != 1 || bad[0].Check != "perimeter" || !strings.Contains(bad[0].Evidence, "unique-1") {
			t.Errorf("%s: findings %s", api, told(bad))
		}
		for _, f := range unknown {
			if f.Permission != "" {
				t.Errorf("%s is told as a missing permission: %+v", api, f)
			}
		}
	}
}

// TestPerimeterOfWhatIsAskedLast: a question that only a finding leads to counts, and
// those that were not asked do not.
func TestPerimeterOfWhatIsAskedLast(t *testing.T) {
	t.Parallel()
	w := world(t)
	w.Revoke("roles/iam.serviceAccountTokenCreator", agent)
	w.Perimeter["policytroubleshooter"] = "unique-1"
	if f := find(t, examine(t, w), "perimeter"); f.Result != doctor.Bad || !strings.HasPrefix(f.Evidence, "a service perimeter refused 1 of the questions, with the unique ID unique-1") {
		t.Errorf("the troubleshooter in a perimeter: %+v", f)
	}
	w = world(t)
	w.Perimeter["cloudfunctions"] = "unique-1"
	if f := find(t, byName(t, w), "perimeter"); f.Result != doctor.Bad || !strings.HasPrefix(f.Evidence, "a service perimeter refused 1 of the questions, with the unique ID unique-1") {
		t.Errorf("the list of functions in a perimeter: %+v", f)
	}
}

// TestTime has Google answer nothing, or without end: it takes less than 15 seconds.
func TestTime(t *testing.T) {
	t.Parallel()
	outputs := doctortest.New(t, everything).Outputs
	for name, answer := range map[string]roundtrip.Func{
		"no_answer": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
		"always_later": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 503, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"error":{"code":503}}`))}, nil
		},
		"body_without_end": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: endless{r.Context()}}, nil
		},
		"not_google": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>a proxy's page"))}, nil
		},
		"too_large": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(make([]byte, 9<<20)))}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, how := range []string{"terraform", "name"} {
					target, err := doctor.FromTerraform("terraform", outputs)
					if how == "name" {
						target, err = doctor.Named("demo-project", "inbox-push")
					}
					if err != nil {
						t.Fatal(err)
					}
					client := &http.Client{Transport: answer}
					start := time.Now()
					r, err := doctor.Examine(t.Context(), doctor.Options{Google: client, Probe: client, Now: time.Now}, target)
					if err != nil {
						t.Fatal(err)
					}
					if took := time.Since(start); took >= 15*time.Second {
						t.Errorf("by %s it took %v", how, took)
					}
					for _, f := range r.Findings {
						if f.Result == doctor.OK || f.Result == doctor.Bad && f.Check != "probe" {
							t.Errorf("by %s: %+v", how, f)
						}
					}
				}
			})
		})
	}
}

// endless is a body that goes on until the request is given up.
type endless struct{ ctx context.Context }

func (e endless) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}

func (endless) Close() error { return nil }

func TestOptions(t *testing.T) {
	t.Parallel()
	target, err := doctor.Named("p", "s")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []doctor.Options{{}, {Google: http.DefaultClient}, {Google: http.DefaultClient, Probe: http.DefaultClient}} {
		if _, err := doctor.Examine(t.Context(), o, target); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	own := `{"functions":{"value":{"receive":{},"orders":{}}},"delivery":{"value":{"subscriptions":{
		"main":{"name":"projects/p/subscriptions/inbox-push","function":"receive"},"orders":{"name":"projects/p/subscriptions/inbox-orders","function":"orders"}}}}}`
	if target, err = doctor.FromTerraform("terraform", []byte(own)); err != nil || len(target.Subscriptions) != 1 || target.Subscriptions[0].Key != "main" {
		t.Errorf("of receive and a function of the user's own: %+v, %v; want receive's subscription", target, err)
	}
	for _, output := range []string{"", "[]", "{}", `{"delivery":{"value":null}}`, `{"delivery":{"value":{"project":"p","subscriptions":{}}}}`} {
		if _, err := doctor.FromTerraform("terraform", []byte(output)); err == nil {
			t.Errorf("%q is taken for Terraform's outputs", output)
		}
	}
}
