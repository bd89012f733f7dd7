package deploytest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/shared/emulator"
)

// beside is what pubsub.tf leans on that has no emulator.
const beside = `
provider "google" {
  project                = var.project_id
  access_token           = "not-a-token"
  pubsub_custom_endpoint = "http://%HOST%/v1/"
}

locals {
  token_wanted  = false
  push_audience = "https://receive-1.example.run.app"
}
`

// TestApplyToEmulator applies pubsub.tf to Google's emulator, and plans again:
// nothing may be left to do. It takes the real provider; a stand-in for it asks
// no API and only shows that the file can be applied.
func TestApplyToEmulator(t *testing.T) {
	t.Parallel()
	from := moduleDir(t)
	host := emulator.PubSub(t)
	project := emulator.Project()
	dir := t.TempDir()
	// The lock and the providers of `terraform init`, where that was run.
	for _, name := range []string{".terraform", ".terraform.lock.hcl"} {
		if link, err := filepath.Abs(filepath.Join(from, name)); err == nil {
			if _, err := os.Stat(link); err == nil {
				if err := os.Symlink(link, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	topics := regexp.MustCompile(`(?s)\n\n?( +#[^\n]*\n)* *depends_on = \[.*?\]`).ReplaceAllString(read("pubsub.tf"), "")
	topics = regexp.MustCompile(`google_service_account\.push\.email`).ReplaceAllString(topics, `"push@example.com"`)
	versions := regexp.MustCompile(`(?s)\nprovider "google" \{.*?\n\}`).ReplaceAllString(read("versions.tf"), "")
	used := regexp.MustCompile(`var\.(\w+)`).FindAllStringSubmatch(topics+beside, -1)
	variables := ""
	for _, v := range used {
		variables += regexp.MustCompile(`(?s)variable "`+v[1]+`" \{.*?\n\}\n`).FindString(read("variables.tf")) + "\n"
	}
	for name, text := range map[string]string{
		"pubsub.tf":    topics,
		"versions.tf":  versions,
		"variables.tf": dedupe(variables),
		"beside.tf":    regexp.MustCompile(`%HOST%`).ReplaceAllString(beside, host),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	terraform := func(args ...string) {
		t.Helper()
		if _, err := output(t.Context(), dir, nil, append(append([]string{"terraform"}, args...), "-input=false", "-no-color", "-var=project_id="+project)...); err != nil {
			t.Fatal(err)
		}
	}
	terraform("apply", "-auto-approve")

	client, err := pubsub.NewClient(t.Context(), project, option.WithEndpoint(host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	got, err := client.SubscriptionAdminClient.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{
		Subscription: "projects/" + project + "/subscriptions/inbox-push",
	})
	if status.Code(err) == codes.NotFound {
		t.Skip("the provider is a stand-in and made nothing: run this with the real one")
	}
	if err != nil {
		t.Fatal(err)
	}
	if audience := got.GetPushConfig().GetOidcToken().GetAudience(); audience != "https://receive-1.example.run.app" {
		t.Errorf("audience %q", audience)
	}
	if topic := got.GetDeadLetterPolicy().GetDeadLetterTopic(); topic != "projects/"+project+"/topics/inbox-dead-letter" {
		t.Errorf("dead-letter topic %q", topic)
	}
	terraform("plan", "-detailed-exitcode") // fails when it is not empty
}

// dedupe returns variable blocks with each once.
func dedupe(blocks string) string {
	seen := map[string]bool{}
	return regexp.MustCompile(`(?s)variable "(\w+)" \{.*?\n\}\n`).ReplaceAllStringFunc(blocks, func(block string) string {
		if seen[block] {
			return ""
		}
		seen[block] = true
		return block
	})
}
