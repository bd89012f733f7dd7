package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/localpubsub"
	"example.com/pushinbox/testkit/need"
)

// beside is what pubsub.tf leans on that has no emulator.
const beside = `
provider "google" {
  project                = var.project_id
  access_token           = "not-a-token"
  pubsub_custom_endpoint = "http://%HOST%/v1/"
}

locals {
  token_wanted      = false
  own_subscriptions = {}
  url               = "https://%s-1.example.run.app"
}

output "id" {
  value = google_pubsub_subscription.dead_letter.id
}
`

// week keeps dead letters for as long as the emulator allows, which is less than
// Pub/Sub does.
const week = `
resource "google_pubsub_topic" "dead_letter" {
  message_retention_duration = "604800s"
}

resource "google_pubsub_subscription" "dead_letter" {
  message_retention_duration = "604800s"
}
`

// TestApplyToEmulator applies pubsub.tf to Google's emulator, and plans again:
// nothing may be left to do. It takes the real provider; a stand-in for it asks
// no API and only shows that the file can be applied.
func TestApplyToEmulator(t *testing.T) {
	t.Parallel()
	host := emulator.PubSub(t)
	project := emulator.Project()
	terraform := applyPubSub(t, host, project)

	client, err := pubsub.NewClient(t.Context(), project, option.WithEndpoint(host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	const receive = "https://receive-1.example.run.app"
	for _, test := range []struct {
		name, endpoint, filter string
		deadline               int32
		unwrapped              bool
	}{
		{name: "inbox-push", endpoint: receive + "/wrapped", deadline: 60},
		{name: "inbox-bare", endpoint: receive + "/bare", filter: `attributes.kind = "a"`, deadline: 30, unwrapped: true},
	} {
		got, err := client.SubscriptionAdminClient.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{
			Subscription: "projects/" + project + "/subscriptions/" + test.name,
		})
		if err != nil {
			t.Fatal(err)
		}
		push := got.GetPushConfig()
		if push.GetPushEndpoint() != test.endpoint || push.GetOidcToken().GetAudience() != receive {
			t.Errorf("%s: endpoint %q and audience %q, want %q and %q", test.name,
				push.GetPushEndpoint(), push.GetOidcToken().GetAudience(), test.endpoint, receive)
		}
		if unwrapped := push.GetNoWrapper() != nil; unwrapped != test.unwrapped {
			t.Errorf("%s: unwrapped %t, want %t", test.name, unwrapped, test.unwrapped)
		}
		if topic := got.GetDeadLetterPolicy().GetDeadLetterTopic(); topic != "projects/"+project+"/topics/inbox-dead-letter" {
			t.Errorf("%s: dead-letter topic %q", test.name, topic)
		}
		if got.GetFilter() != test.filter || got.GetAckDeadlineSeconds() != test.deadline {
			t.Errorf("%s: filter %q and ack deadline %d s, want %q and %d s", test.name,
				got.GetFilter(), got.GetAckDeadlineSeconds(), test.filter, test.deadline)
		}
	}
	terraform("plan", "-detailed-exitcode") // fails when it is not empty
}

// applyPubSub applies pubsub.tf to a Pub/Sub at an address, or skips the test where
// the provider is a stand-in. It returns what runs Terraform again, with the same
// settings and more arguments.
func applyPubSub(t *testing.T, host, project string) func(command string, args ...string) string {
	t.Helper()
	from, dir := moduleDir(t), t.TempDir()
	linkProviders(t, from, dir)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	topics := regexp.MustCompile(`(?s)\n\n?( +#[^\n]*\n)* *depends_on = \[.*?\]`).ReplaceAllString(read("pubsub.tf"), "")
	topics = strings.ReplaceAll(topics, "google_service_account.push.email", `"push@example.com"`)
	for name, text := range map[string]string{
		"pubsub.tf":        topics,
		"versions.tf":      regexp.MustCompile(`(?s)\nprovider "google" \{.*?\n\}`).ReplaceAllString(read("versions.tf"), ""),
		"variables.tf":     variables(read("variables.tf"), topics+beside),
		"limits.tf":        read("limits.tf"),
		"beside.tf":        strings.ReplaceAll(beside, "%HOST%", host),
		"week_override.tf": week,
	} {
		write(t, filepath.Join(dir, name), text)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := output(t.Context(), dir, nil, append([]string{"terraform"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	terraform := func(command string, args ...string) string {
		t.Helper()
		return run(append([]string{
			command, "-no-color", "-input=false", "-var=project_id=" + project,
			// One more subscription than the module has by itself, and of the other form.
			`-var=more_subscriptions={ inbox-bare = { form = "bare", filter = "attributes.kind = \"a\"", ack_deadline_seconds = 30 } }`,
		}, args...)...)
	}
	terraform("apply", "-auto-approve")
	if id := run("output", "-no-color", "-raw", "id"); id != "projects/"+project+"/subscriptions/inbox-dead-letter" {
		need.Skip(t, "Terraform's provider hashicorp/google is a stand-in, which asks no API: use the real one")
	}
	return terraform
}

// TestOperatedBesideTerraform pauses and redrives as operators do, with Terraform
// applied before, during and after. It takes the real provider, and our own Pub/Sub:
// Google's emulator refuses every change in place that Terraform sends.
func TestOperatedBesideTerraform(t *testing.T) {
	t.Parallel()
	server, address, _ := localpubsub.Serve(t, pubsubserver.Options{}, nil)
	const project = "demo-project"
	terraform := applyPubSub(t, address, project)
	apply := func(more ...string) { t.Helper(); terraform("apply", append(more, "-auto-approve")...) }
	// push gives a subscription a push configuration, and pushed returns it.
	push := func(id string, c *pubsubpb.PushConfig) {
		t.Helper()
		_, err := server.UpdateSubscription(t.Context(), &pubsubpb.UpdateSubscriptionRequest{
			Subscription: &pubsubpb.Subscription{Name: "projects/" + project + "/subscriptions/" + id, PushConfig: c},
			UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"push_config"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	pushed := func(id string) *pubsubpb.PushConfig {
		t.Helper()
		got, err := server.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: "projects/" + project + "/subscriptions/" + id})
		if err != nil {
			t.Fatal(err)
		}
		return got.GetPushConfig()
	}
	original := pushed("inbox-push")
	if original.GetPushEndpoint() == "" {
		t.Fatal("it is not pushed at first")
	}

	// Paused by an operator, it stays so where Terraform is told, and an apply that is
	// not told resumes it.
	const paused = `-var=paused=["main"]`
	push("inbox-push", &pubsubpb.PushConfig{})
	apply(paused)
	if got := pushed("inbox-push").GetPushEndpoint(); got != "" {
		t.Errorf("paused by an operator, an apply that is told has it pushed to %q", got)
	}
	apply()
	if got := pushed("inbox-push"); !proto.Equal(got, original) {
		t.Errorf("resumed by an apply: %v, want %v", got, original)
	}
	// Paused by Terraform, alone of the two.
	apply(paused)
	if got := pushed("inbox-push").GetPushEndpoint(); got != "" {
		t.Errorf("paused by Terraform, it is pushed to %q", got)
	}
	if pushed("inbox-bare").GetPushEndpoint() == "" {
		t.Error("the other subscription is paused, too")
	}
	apply()
	if got := pushed("inbox-push"); !proto.Equal(got, original) {
		t.Errorf("resumed by Terraform: %v, want %v", got, original)
	}

	// An apply ends a redrive.
	push("inbox-dead-letter", original)
	apply()
	if got := pushed("inbox-dead-letter").GetPushEndpoint(); got != "" {
		t.Errorf("after an apply dead letters are still pushed, to %q", got)
	}
}

// variables returns the blocks of variables.tf that a text uses, and those that
// these use in turn.
func variables(from, text string) string {
	blocks := map[string]string{}
	for _, block := range regexp.MustCompile(`(?ms)^variable "(\w+)" \{.*?^\}\n`).FindAllStringSubmatch(from, -1) {
		blocks[block[1]] = block[0]
	}
	used := ""
	for todo := text; todo != ""; {
		next := ""
		for _, use := range regexp.MustCompile(`var\.(\w+)`).FindAllStringSubmatch(todo, -1) {
			next += blocks[use[1]]
			delete(blocks, use[1])
		}
		used, todo = used+next, next
	}
	return used
}
