package pubsubserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/testkit/localpubsub"
)

// TestTerraform makes the calls that Terraform's provider hashicorp/google makes for
// topics, subscriptions and their IAM, as its public source has them (7.46): method,
// address, body and update mask. The provider itself is not run. want is what it reads
// back: anything else would be a change in the next plan.
func TestTerraform(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pubsub.db")
	base, stop := serve(t, path)
	call := func(method, address, body string) (int, map[string]any) {
		t.Helper()
		separator := "?"
		if strings.Contains(address, "?") {
			separator = "&"
		}
		r, err := http.NewRequestWithContext(t.Context(), method, base+"/v1/projects/p/"+address+separator+"alt=json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer x")
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("User-Agent", "Terraform/1.11.4 (+https://www.terraform.io) Terraform-Plugin-SDK/2.38.1 terraform-provider-google/7.46.0")
		r.Header.Set("X-Goog-User-Project", "p")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer map[string]any
		b, err := io.ReadAll(resp.Body)
		if err == nil {
			err = json.Unmarshal(b, &answer)
		}
		if err != nil {
			t.Fatalf("%s %s: %d %q, %v", method, address, resp.StatusCode, b, err)
		}
		return resp.StatusCode, answer
	}
	reads := func(address, want string) {
		t.Helper()
		status, got := call(http.MethodGet, address, "")
		var wanted map[string]any
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		delete(got, "etag")
		if diff := cmp.Diff(wanted, got); status != http.StatusOK || diff != "" {
			t.Errorf("GET %s: %d (-want +got)\n%s", address, status, diff)
		}
	}
	does := func(method, address, body string) {
		t.Helper()
		if status, answer := call(method, address, body); status != http.StatusOK {
			t.Errorf("%s %s: %d %v", method, address, status, answer)
		}
	}
	missing := func(address string) {
		t.Helper()
		if status, answer := call(http.MethodGet, address, ""); status != http.StatusNotFound {
			t.Errorf("GET %s: %d %v", address, status, answer)
		}
	}
	const (
		topic, dead = `"name":"projects/p/topics/orders"`, `"name":"projects/p/topics/orders-dead"`
		defaults    = `"ackDeadlineSeconds":10,"messageRetentionDuration":"604800s","expirationPolicy":{"ttl":"2678400s"},"pushConfig":{},"state":"ACTIVE"`
		push        = `"pushConfig":{"oidcToken":{"audience":"https://receive.example.com","serviceAccountEmail":"push@p.iam.gserviceaccount.com"},"pushEndpoint":"https://receive.example.com/wrapped"`
	)
	// Create: each is asked for until it is there.
	missing("topics/orders")
	does("PUT", "topics/orders", `{"labels":{"goog-terraform-provisioned":"true"},"messageRetentionDuration":"86400s"}`)
	reads("topics/orders", `{`+topic+`,"labels":{"goog-terraform-provisioned":"true"},"messageRetentionDuration":"86400s","state":"ACTIVE"}`)
	does("PUT", "topics/orders-dead", `{"labels":{"goog-terraform-provisioned":"true"}}`)
	reads("topics/orders-dead", `{`+dead+`,"labels":{"goog-terraform-provisioned":"true"},"state":"ACTIVE"}`)
	does("PUT", "subscriptions/orders-dead", `{"deadLetterPolicy":null,"expirationPolicy":null,"labels":{},"topic":"projects/p/topics/orders-dead"}`)
	reads("subscriptions/orders-dead", `{"name":"projects/p/subscriptions/orders-dead","topic":"projects/p/topics/orders-dead",`+defaults+`}`)
	does("PUT", "subscriptions/orders-push", `{"ackDeadlineSeconds":60,"deadLetterPolicy":{"deadLetterTopic":"projects/p/topics/orders-dead","maxDeliveryAttempts":100},"enableMessageOrdering":true,`+
		`"expirationPolicy":{},"filter":"attributes.kind = \"a\"","labels":{"a":"b"},"messageRetentionDuration":"604800s",`+push+`,"noWrapper":{"writeMetadata":true}},`+
		`"retryPolicy":{"maximumBackoff":"600s","minimumBackoff":"10s"},"topic":"projects/p/topics/orders"}`)
	reads("subscriptions/orders-push", `{"name":"projects/p/subscriptions/orders-push","topic":"projects/p/topics/orders","topicMessageRetentionDuration":"86400s","ackDeadlineSeconds":60,`+
		`"deadLetterPolicy":{"deadLetterTopic":"projects/p/topics/orders-dead","maxDeliveryAttempts":100},"enableMessageOrdering":true,"expirationPolicy":{},"filter":"attributes.kind = \"a\"",`+
		`"labels":{"a":"b"},"messageRetentionDuration":"604800s",`+push+`,"noWrapper":{"writeMetadata":true}},`+
		`"retryPolicy":{"maximumBackoff":"600s","minimumBackoff":"10s"},"state":"ACTIVE"}`)

	// A member is added to the policy that is there, under its etag.
	for _, resource := range []string{"topics/orders-dead", "subscriptions/orders-push"} {
		status, policy := call("GET", resource+":getIamPolicy", "")
		if status != http.StatusOK || policy["etag"] == nil {
			t.Fatalf("%s: %d %v", resource, status, policy)
		}
		binding := `{"members":["serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com"],"role":"roles/pubsub.publisher"}`
		set := `{"policy":{"bindings":[` + binding + `],"etag":"` + policy["etag"].(string) + `","version":3}}`
		does("POST", resource+":setIamPolicy", set)
		if status, answer := call("POST", resource+":setIamPolicy", set); status != http.StatusConflict {
			t.Errorf("%s: an old etag is answered %d %v", resource, status, answer)
		}
		reads(resource+":getIamPolicy", `{"bindings":[`+binding+`],"version":3}`)
		// The next plan may come after a restart.
		stop()
		base, stop = serve(t, path)
		reads(resource+":getIamPolicy", `{"bindings":[`+binding+`],"version":3}`)
	}

	// Update: the body has every setting, and the mask what changes, in camelCase.
	does("PATCH", "topics/orders?updateMask=labels%2CmessageRetentionDuration", `{"topic":{"labels":{"goog-terraform-provisioned":"true","x":"y"}}}`)
	reads("topics/orders", `{`+topic+`,"labels":{"goog-terraform-provisioned":"true","x":"y"},"state":"ACTIVE"}`)
	does("PATCH", "subscriptions/orders-push?updateMask=pushConfig%2CackDeadlineSeconds%2CdeadLetterPolicy%2CretryPolicy",
		`{"subscription":{"ackDeadlineSeconds":30,"deadLetterPolicy":null,"expirationPolicy":{},"labels":{"a":"b"},"messageRetentionDuration":"604800s"}}`)
	reads("subscriptions/orders-push", `{"name":"projects/p/subscriptions/orders-push","topic":"projects/p/topics/orders","ackDeadlineSeconds":30,"enableMessageOrdering":true,`+
		`"expirationPolicy":{},"filter":"attributes.kind = \"a\"","labels":{"a":"b"},"messageRetentionDuration":"604800s","pushConfig":{},"state":"ACTIVE"}`)

	// Destroy.
	for _, address := range []string{"subscriptions/orders-push", "subscriptions/orders-dead", "topics/orders", "topics/orders-dead"} {
		does("DELETE", address, "")
		missing(address)
	}
}

// serve serves the Pub/Sub in a file until stop is called.
func serve(t *testing.T, path string) (base string, stop func()) {
	t.Helper()
	_, address, stop := localpubsub.Serve(t, pubsubserver.Options{Path: path, NoSync: true}, nil)
	return "http://" + address, stop
}
