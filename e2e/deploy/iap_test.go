package deploy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/testkit/need"
)

const (
	agent   = "serviceAccount:service-123456789012@gcp-sa-iap.iam.gserviceaccount.com"
	visitor = "roles/iap.httpsResourceAccessor "
)

// TestDeployProxy deploys the console with Identity-Aware Proxy in front of it,
// and without again, and api, which is the console once more.
func TestDeployProxy(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	for _, test := range []struct {
		name        string
		members     []any
		there       bool
		invokers    []string
		annotations map[string]string
		visitors    []string
		changes     []string // of the console
		wantVisit   []string
		wantInvoke  []string
		says        []string
	}{
		{
			name: "new", members: []any{"user:a@example.com", "group:b@example.com"},
			changes:    []string{"create console", "policy console", "service console check=true proxy=true", "policy console"},
			wantVisit:  []string{visitor + "group:b@example.com", visitor + "user:a@example.com"},
			wantInvoke: []string{"roles/run.invoker " + agent},
			says:       []string{"console: putting Identity-Aware Proxy in front of it", "console: lets user:a@example.com through"},
		},
		{
			name: "after_everyone", members: []any{"user:a@example.com"}, there: true, invokers: []string{"roles/run.invoker allUsers"},
			changes:   []string{"update console", "policy console", "policy console", "service console check=true proxy=true", "policy console"},
			wantVisit: []string{visitor + "user:a@example.com"}, wantInvoke: []string{"roles/run.invoker " + agent},
		},
		{
			// Without the check the agent's grant would be worth nothing.
			name: "after_check_off", members: []any{"user:a@example.com"}, there: true, annotations: map[string]string{checkOff: "true"},
			changes:   []string{"update console", "policy console", "policy console", "service console check=true proxy=true", "policy console"},
			wantVisit: []string{visitor + "user:a@example.com"}, wantInvoke: []string{"roles/run.invoker " + agent},
		},
		{
			name: "others", members: []any{"user:A@example.com", "user:new@example.com"}, there: true,
			invokers: []string{"roles/run.invoker " + agent}, annotations: map[string]string{proxied: "true"},
			visitors:   []string{visitor + "user:a@example.com", visitor + "user:gone@example.com", visitor + "domain:example.com", "roles/viewer user:gone@example.com"},
			changes:    []string{"update console", "policy console", "policy console", "service console check=true proxy=true", "policy console"},
			wantVisit:  []string{visitor + "domain:example.com", visitor + "user:a@example.com", visitor + "user:new@example.com", "roles/viewer user:gone@example.com"},
			wantInvoke: []string{"roles/run.invoker " + agent},
			says:       []string{"console: lets user:gone@example.com through no more", "console: domain:example.com is let through too"},
		},
		{
			name: "no_more", there: true, invokers: []string{"roles/run.invoker " + agent}, annotations: map[string]string{proxied: "true"},
			changes:    []string{"update console", "policy console", "service console check=true proxy=false", "policy console"},
			wantInvoke: []string{"roles/run.invoker allUsers"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newCloud(t)
			c.visitors = test.visitors
			if test.there {
				c.created["console"] = ours("console")
				c.invokers["console"], c.annotations["console"] = test.invokers, test.annotations
			}
			file := amend(t, file, func(_, functions map[string]any) {
				console := functions["console"].(map[string]any)
				console["iap_members"] = test.members
				console["environment"].(map[string]any)["IAP_AUDIENCE"] = "/projects/123456789012/locations/europe-west1/services/console"
			})
			out, ok := deploy(t, c.environment(t), "--outputs", file, "console")
			if !ok || len(c.unknown) > 0 {
				t.Errorf("success %v, unknown %v: %s", ok, c.unknown, out)
			}
			for _, want := range test.says {
				if !strings.Contains(out, want) {
					t.Errorf("it prints %s, want %q in it", out, want)
				}
			}
			if diff := cmp.Diff(test.changes, c.changes); diff != "" {
				t.Errorf("what it changed (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.wantVisit, c.visitors); diff != "" {
				t.Errorf("whom the proxy lets through (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.wantInvoke, c.invokers["console"]); diff != "" {
				t.Errorf("who may invoke it (-want +got):\n%s", diff)
			}
			if want := len(test.members) > 0; want != (len(c.identities) == 1) {
				t.Errorf("accounts made: %v", c.identities)
			}
		})
	}
}

func TestDeployAPI(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	file = amend(t, file, func(_, functions map[string]any) {
		api := map[string]any{}
		for k, v := range functions["console"].(map[string]any) {
			api[k] = v
		}
		api["source"], api["ingress"] = "console", "internal-only"
		clear(functions)
		functions["api"] = api
	})
	c := newCloud(t)
	out, ok := deploy(t, c.environment(t), "--outputs", file, "--all")
	if !ok || c.created["api"] == nil {
		t.Fatalf("success %v, created %v: %s", ok, c.created, out)
	}
	if entry := c.created["api"]["buildConfig"].(map[string]any)["entryPoint"]; entry != "console" {
		t.Errorf("entry point %v, want console", entry)
	}
	if ingress := c.created["api"]["serviceConfig"].(map[string]any)["ingressSettings"]; ingress != "ALLOW_INTERNAL_ONLY" {
		t.Errorf("ingress %v", ingress)
	}
}
