package deploy

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/need"
)

// greet is the settings (HCL) of the function in testdata/greet.
const greet = `  functions = { greet = {
    ack_deadline_seconds = 120
    environment          = { GREETING = "hello, \"you\"" }
    secrets              = { GREETING_KEY = { secret = "greeting-key" } }
    size                 = { memory = "1Gi" }
  } }`

// TestDeployOwn deploys a function of a user's own with the real gcloud.
func TestDeployOwn(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	functions, file := outputs(t, "demo-project", greet)
	c := newCloud(t)
	env := c.environment(t) // with a home of its own, where Go has nothing
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
		dir, err := output(t.Context(), root, nil, "go", "env", name)
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+strings.TrimSpace(dir))
	}
	out, ok := deploy(t, env, "--outputs", file, "--function", own["greet"])
	if !ok || !strings.Contains(out, "greet: deployed, https://greet-123456789012.europe-west1.run.app") {
		t.Fatalf("success %v, it prints %s\nunknown to the stub: %v", ok, out, c.unknown)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if diff := cmp.Diff([]string{"create greet"}, c.mutations); diff != "" {
		t.Errorf("what was done (-want +got):\n%s", diff)
	}
	got := c.created["greet"]
	build, service := got["buildConfig"].(map[string]any), got["serviceConfig"].(map[string]any)
	environment := map[string]any{}
	for k, v := range functions["greet"].Environment {
		environment[k] = v
	}
	if environment["GREETING"] != `hello, "you"` {
		t.Errorf("Terraform has the environment %v", environment)
	}
	for _, field := range []struct {
		name      string
		want, got any
	}{
		{"the entry point", "greet", build["entryPoint"]},
		{"the environment", environment, service["environmentVariables"]},
		{"the secrets", []any{map[string]any{"key": "GREETING_KEY", "projectId": "123456789012", "secret": "greeting-key", "version": "latest"}}, service["secretEnvironmentVariables"]},
		{"the account", functions["greet"].ServiceAccount, service["serviceAccountEmail"]},
		{"the memory", "1Gi", service["availableMemory"]},
		{"the time limit", 120.0, service["timeoutSeconds"]},
		{"the ingress", "ALLOW_INTERNAL_ONLY", service["ingressSettings"]},
		{"the labels", map[string]any{"deployment-tool": "cli-gcloud", "managed-by": "push-inbox"}, got["labels"]},
		{"who may invoke it", []string{"roles/run.invoker allUsers"}, c.invokers["greet"]},
	} {
		if diff := cmp.Diff(field.want, field.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", field.name, diff)
		}
	}
	dir, err := staged()
	if err != nil {
		t.Fatal(err)
	}
	object := build["source"].(map[string]any)["storageSource"].(map[string]any)["object"].(string)
	if diff := cmp.Diff(files(t, filepath.Join(dir, "greet")), files(t, unzip(t, c.uploads[object]))); diff != "" {
		t.Errorf("the upload is not what is staged (-want +got):\n%s", diff)
	}
}

// TestDeployOwnNames asks for a user's function in every other way.
func TestDeployOwnNames(t *testing.T) {
	t.Parallel()
	_, file := outputs(t, "demo-project", greet)
	env := []string{"CLOUDSDK_CONFIG=" + t.TempDir()}
	for _, test := range []struct {
		name   string
		args   []string
		ok     bool
		want   []string
		absent string
	}{
		{"dry_run", []string{"--function", own["greet"]}, true, []string{"./function.go\n", "./shared/process/process.go\n", "gcloud functions deploy greet ", "--entry-point=greet", "--set-secrets=GREETING_KEY=greeting-key:latest"}, "_test.go"},
		{"all", []string{"--all"}, true, []string{"greet: not deployed, its source is yours: scripts/deploy --function FOLDER greet", "gcloud functions deploy receive "}, "gcloud functions deploy greet"},
		{"without_folder", []string{"greet"}, false, []string{"greet is a function of your own: name its folder, scripts/deploy --function FOLDER greet"}, "gcloud"},
		{"of_this_project", []string{"--function", own["greet"], "receive"}, false, []string{"receive is a function of this project"}, "gcloud"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			out, ok := deploy(t, env, append([]string{"--outputs", file, "--dry-run"}, test.args...)...)
			if ok != test.ok || strings.Contains(out, test.absent) {
				t.Errorf("success %v, it prints %s", ok, out)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("it prints %s, want %q in it", out, want)
				}
			}
		})
	}
}

// TestOwnFunctionAnswers pushes to a user's function as it is deployed: staged by
// scripts/deploy, built as the buildpack does, with the environment that Terraform gives
// it. The message and what the function made of it are in the database then, once.
func TestOwnFunctionAnswers(t *testing.T) {
	t.Parallel()
	project := emulator.Project()
	functions, _ := outputs(t, project, greet)
	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		t.Fatal(err)
	}
	firestore := emulator.Firestore(t)
	net := google.NewInternet(t, map[string]http.RoundTripper{"www.googleapis.com": issuer.Transport()})
	environment := functions["greet"].Environment
	url := start(t, "greet", environment, append(net.Environment, "GREETING_KEY=k", "FIRESTORE_EMULATOR_HOST="+firestore)...)
	token := google.Token(t, issuer, environment["PUSH_AUDIENCE"], environment["PUSH_SERVICE_ACCOUNT"])
	const push = `{"message":{"messageId":"1","data":"aGVsbG8="},"subscription":"projects/p/subscriptions/inbox-greet"}`
	for _, test := range []struct {
		token string
		want  int
	}{{"", http.StatusUnauthorized}, {token, http.StatusNoContent}, {token, http.StatusNoContent}} {
		if got := ask(t, http.MethodPost, url+"/wrapped", test.token, "application/json", push); got.status != test.want {
			t.Errorf("answered %d, want %d: %s", got.status, test.want, got.body)
		}
	}
	for _, collection := range []string{"messages", "greetings"} {
		got := ask(t, http.MethodGet, "http://"+firestore+"/v1/projects/"+project+"/databases/(default)/documents/"+collection, "owner", "", "")
		if n := strings.Count(got.body, `"createTime"`); got.status != http.StatusOK || n != 1 {
			t.Errorf("%s: %d documents, want one: %s", collection, n, got.body)
		}
	}
}
