package doctor_test

import (
	"strings"
	"testing"

	"example.com/pushinbox/doctor/doctortest"
)

// TestStories begins with what a person says at three in the morning: the cause is the
// first finding, and what follows from it is told as that.
func TestStories(t *testing.T) {
	t.Parallel()
	// refusing is what an hour looks like in which receive refuses everything.
	refusing := func(w *doctortest.World, reason string, status int) {
		refuse(reason, status)(w)
		w.Pushes["inbox-push"] = map[string]float64{"remote_server_4xx": 400}
		w.Oldest["inbox-push"], w.Undelivered["inbox-push"] = 3600, 1200
	}
	for _, test := range []struct {
		said string
		do   func(w *doctortest.World)
		// check is the finding that names the cause, says what it must say.
		check, says string
	}{
		{"messages stopped an hour ago", func(w *doctortest.World) {
			w.Push()["oidcToken"].(map[string]any)["audience"] = receive + "/"
			refusing(w, "audience", 403)
		}, "audience", "slash"},
		{"only large ones fail", func(w *doctortest.World) {
			w.Roles["projects/demo-project/roles/pushInboxWriter"] = []string{"datastore.entities.create", "datastore.entities.get"}
			w.Pushes["inbox-push"] = map[string]float64{"ack": 380, "server_error": 20}
			refuse("unavailable", 503)(w)
		}, "writer", "datastore.entities.update"},
		{"nothing since the deployment, and nothing is refused either", func(w *doctortest.World) {
			w.Subscription()["pushConfig"] = map[string]any{}
			record(w, "inbox-push", "pause")
			w.Pushes["inbox-push"], w.Latency["inbox-push"] = nil, 0
			w.Oldest["inbox-push"], w.Undelivered["inbox-push"] = 5000, 300
		}, "paused", "ann@example.com"},
		{"three of a hundred are missing", func(w *doctortest.World) { w.Undelivered["inbox-dead-letter"] = 3 }, "dead-letters", "3 messages were given up"},
		{"the same hundred come again and again", func(w *doctortest.World) {
			w.Objects[doctortest.DeadSubscription]["pushConfig"] = map[string]any{"pushEndpoint": receive + "/wrapped"}
			record(w, "inbox-dead-letter", "redrive")
			w.Undelivered["inbox-dead-letter"] = 100
		}, "redrive", "ann@example.com"},
		{"everything is slow since noon", func(w *doctortest.World) {
			w.Latency["inbox-push"] = 60e6
			w.Oldest["inbox-push"], w.Undelivered["inbox-push"] = 1800, 900
		}, "latency", "1m0s"},
		{"we applied Terraform and since then everything is refused", func(w *doctortest.World) {
			w.SetEnv("PUSH_SERVICE_ACCOUNT", "inbox-old@demo-project.iam.gserviceaccount.com")
			refusing(w, "email", 403)
		}, "environment", "PUSH_SERVICE_ACCOUNT"},
		{"dead letters go nowhere", func(w *doctortest.World) { w.Revoke("roles/pubsub.publisher", agent) },
			"dead-letter-publisher", "pubsub.topics.publish"},
		{"dead letters go nowhere, for nobody listens", func(w *doctortest.World) { delete(w.Objects, doctortest.DeadSubscription) },
			"dead-letter-subscription", "none"},
		{"nothing, since we made everything private", func(w *doctortest.World) {
			w.Policies["run/projects/demo-project/locations/europe-west1/services/receive"] = nil
			refusing(w, "signature_removed", 401)
		}, "invoker", "invoker check is on"},
	} {
		t.Run(strings.ReplaceAll(test.said, " ", "_"), func(t *testing.T) {
			t.Parallel()
			w := world(t)
			test.do(w)
			bad, unknown := not(examine(t, w))
			if len(bad) != 1 || bad[0].Check != test.check {
				t.Fatalf("want %s alone, got %s", test.check, told(bad))
			}
			if !strings.Contains(bad[0].Evidence, test.says) {
				t.Errorf("what was seen does not say %q: %s", test.says, bad[0].Evidence)
			}
			for _, f := range unknown {
				if f.Because == "" {
					t.Errorf("nothing explains %+v", f)
				}
			}
		})
	}
}
