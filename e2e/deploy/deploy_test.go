package deploy

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/testkit/need"
)

// cloud is a stub of what `gcloud functions deploy` talks to: the APIs of Cloud
// Functions, Cloud Run, Service Usage and Resource Manager, and the address that
// sources are uploaded to.
type cloud struct {
	server *httptest.Server
	// broken has the functions whose creation fails, with the reason.
	broken map[string]string
	// closed makes granting allUsers fail, as under an organisation's policy.
	closed bool
	// checked makes switching Cloud Run's check off fail, as under another one.
	checked bool
	// powerless makes changing who may invoke a service fail, for want of the right to.
	powerless bool
	// unlisted makes listing functions fail, for want of the right to.
	unlisted bool

	mu          sync.Mutex
	created     map[string]map[string]any    // by function: the request
	uploads     map[string][]byte            // by object: the archive
	invokers    map[string][]string          // by service: who may invoke it
	annotations map[string]map[string]string // by service: those that are set
	visitors    []string                     // whom the proxy in front of the console lets through
	identities  []string                     // services whose account was made
	unknown     []string                     // requests that nobody expects
	mutations   []string                     // all that changed functions
	changes     []string                     // all that changed functions or services, in order
	shut        []string                     // changes after which a function that was open is closed
}

// open is whether anyone may invoke the service.
func (c *cloud) open(name string) bool {
	return slices.Contains(c.invokers[name], "roles/run.invoker allUsers") || c.annotations[name][checkOff] == "true"
}

// change takes a note of what changes a function, and of a function that it closes.
func (c *cloud) change(name, what string, do func()) {
	before := c.open(name)
	do()
	c.changes = append(c.changes, what)
	if before && !c.open(name) {
		c.shut = append(c.shut, what)
	}
}

const (
	checkOff = "run.googleapis.com/invoker-iam-disabled"
	proxied  = "run.googleapis.com/iap-enabled"
)

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{
		created:     map[string]map[string]any{},
		uploads:     map[string][]byte{},
		invokers:    map[string][]string{},
		annotations: map[string]map[string]string{},
	}
	const parent = "/v2/projects/{project}/locations/{region}"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+parent+"/runtimes", func(w http.ResponseWriter, r *http.Request) {
		say(w, 200, map[string]any{"runtimes": []any{map[string]any{"name": "go126", "environment": "GEN_2"}}})
	})
	mux.HandleFunc("GET "+parent+"/functions/{name}", func(w http.ResponseWriter, r *http.Request) {
		if f, ok := c.created[r.PathValue("name")]; ok {
			say(w, 200, c.function(r, r.PathValue("name"), f))
			return
		}
		refuse(w, 404, "NOT_FOUND", "there is no such function")
	})
	mux.HandleFunc("GET "+parent+"/functions", func(w http.ResponseWriter, r *http.Request) {
		if c.unlisted {
			refuse(w, 403, "PERMISSION_DENIED", "Permission 'cloudfunctions.functions.list' denied")
			return
		}
		all := []any{}
		for name, f := range c.created {
			all = append(all, c.function(r, name, f))
		}
		say(w, 200, map[string]any{"functions": all})
	})
	mux.HandleFunc("DELETE "+parent+"/functions/{name}", func(w http.ResponseWriter, r *http.Request) {
		delete(c.created, r.PathValue("name"))
		c.mutations = append(c.mutations, "delete "+r.PathValue("name"))
		if region := r.PathValue("region"); region != "europe-west1" {
			c.mutations[len(c.mutations)-1] += " in " + region
		}
		say(w, 200, operation("projects/"+r.PathValue("project")+"/locations/"+r.PathValue("region")+"/operations/"+r.PathValue("name")))
	})
	mux.HandleFunc("POST "+parent+"/functions:generateUploadUrl", func(w http.ResponseWriter, r *http.Request) {
		object := fmt.Sprintf("upload-%d.zip", len(c.uploads))
		c.uploads[object] = nil
		say(w, 200, map[string]any{
			"uploadUrl":     c.server.URL + "/upload/" + object,
			"storageSource": map[string]any{"bucket": "gcf-v2-uploads", "object": object},
		})
	})
	mux.HandleFunc("PUT /upload/{object}", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.uploads[r.PathValue("object")] = b
	})
	mux.HandleFunc("POST "+parent+"/functions", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("functionId")
		if reason, ok := c.broken[name]; ok {
			refuse(w, 403, "PERMISSION_DENIED", reason)
			return
		}
		var f map[string]any
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
			t.Error(err)
		}
		c.created[name] = f
		c.mutations = append(c.mutations, "create "+name)
		c.changes = append(c.changes, "create "+name)
		say(w, 200, operation("projects/"+r.PathValue("project")+"/locations/"+r.PathValue("region")+"/operations/"+name))
	})
	mux.HandleFunc("PATCH "+parent+"/functions/{name}", func(w http.ResponseWriter, r *http.Request) {
		var f map[string]any
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
			t.Error(err)
		}
		name := r.PathValue("name")
		c.created[name] = f
		c.mutations = append(c.mutations, "update "+name+" "+r.URL.Query().Get("updateMask"))
		c.changes = append(c.changes, "update "+name)
		say(w, 200, operation("projects/"+r.PathValue("project")+"/locations/"+r.PathValue("region")+"/operations/"+name))
	})
	mux.HandleFunc("GET "+parent+"/operations/{name}", func(w http.ResponseWriter, r *http.Request) {
		done := operation(strings.TrimPrefix(r.URL.Path, "/v2/"))
		done["done"], done["response"] = true, map[string]any{"@type": "type.googleapis.com/google.cloud.functions.v2.Function"}
		say(w, 200, done)
	})
	mux.HandleFunc("GET /v1/projects/{project}/services/{service}", func(w http.ResponseWriter, r *http.Request) {
		say(w, 200, map[string]any{"name": strings.TrimPrefix(r.URL.Path, "/v1/"), "state": "ENABLED"})
	})
	mux.HandleFunc("GET /v1/projects/{project}", func(w http.ResponseWriter, r *http.Request) {
		say(w, 200, map[string]any{"projectId": r.PathValue("project"), "projectNumber": "123456789012"})
	})
	mux.HandleFunc("GET /v1/projects/{project}/locations/{region}/services/{verb}", func(w http.ResponseWriter, r *http.Request) {
		service, _, _ := strings.Cut(r.PathValue("verb"), ":")
		say(w, 200, policy(c.invokers[service]))
	})
	mux.HandleFunc("POST /v1/projects/{project}/locations/{region}/services/{verb}", func(w http.ResponseWriter, r *http.Request) {
		granted := grants(t, r)
		if c.powerless {
			refuse(w, 403, "PERMISSION_DENIED", "Permission 'run.services.setIamPolicy' denied on resource")
			return
		}
		if c.closed && slices.Contains(granted, "roles/run.invoker allUsers") {
			refuse(w, 400, "FAILED_PRECONDITION", "One or more users named in the policy do not belong to a permitted customer.")
			return
		}
		service, _, _ := strings.Cut(r.PathValue("verb"), ":")
		c.change(service, "policy "+service, func() { c.invokers[service] = granted })
		say(w, 200, policy(granted))
	})
	const knative = "/apis/serving.knative.dev/v1/namespaces/{project}/services/{service}"
	mux.HandleFunc("GET "+knative, func(w http.ResponseWriter, r *http.Request) {
		if _, ok := c.created[r.PathValue("service")]; !ok {
			refuse(w, 404, "NOT_FOUND", "there is no such service")
			return
		}
		say(w, 200, c.service(r.PathValue("service")))
	})
	mux.HandleFunc("PUT "+knative, func(w http.ResponseWriter, r *http.Request) {
		var s struct {
			Metadata struct{ Annotations map[string]string }
		}
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			t.Error(err)
		}
		service, set := r.PathValue("service"), map[string]string{}
		for _, key := range []string{checkOff, proxied} {
			if strings.EqualFold(s.Metadata.Annotations[key], "true") {
				set[key] = "true"
			}
		}
		if c.checked && set[checkOff] == "true" {
			refuse(w, 400, "FAILED_PRECONDITION", "Operation denied by org policy: constraints/run.managed.requireInvokerIam")
			return
		}
		c.change(service, fmt.Sprintf("service %s check=%v proxy=%v", service, set[checkOff] == "", set[proxied] != ""), func() { c.annotations[service] = set })
		say(w, 200, c.service(service))
	})
	mux.HandleFunc("POST /v1beta1/projects/{project}/services/{verb}", func(w http.ResponseWriter, r *http.Request) {
		service, _, _ := strings.Cut(r.PathValue("verb"), ":")
		c.identities = append(c.identities, service)
		say(w, 200, map[string]any{"name": "operations/identity", "done": true, "response": map[string]any{
			"@type": "type.googleapis.com/google.api.serviceusage.v1beta1.ServiceIdentity",
			"email": "service-123456789012@gcp-sa-iap.iam.gserviceaccount.com", "uniqueId": "1",
		}})
	})
	mux.HandleFunc("POST /{version}/projects/123456789012/iap_web/cloud_run-europe-west1/services/{verb}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("verb") == "console:setIamPolicy" {
			c.visitors = grants(t, r)
		}
		say(w, 200, policy(c.visitors))
	})
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, pattern := mux.Handler(r); pattern == "" {
			c.unknown = append(c.unknown, r.Method+" "+r.Host+r.URL.Path)
			refuse(w, 404, "NOT_FOUND", "the stub does not know this")
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(c.server.Close)
	return c
}

// function is a function as the API shows it. Where it is (region) and what it is
// (environment) may be said in what is kept of it.
func (c *cloud) function(r *http.Request, name string, f map[string]any) map[string]any {
	out := maps.Clone(f)
	region, ok := f["region"].(string)
	if !ok {
		region = "europe-west1"
	}
	delete(out, "region")
	if out["environment"] == nil {
		out["environment"] = "GEN_2"
	}
	place := "projects/" + r.PathValue("project") + "/locations/" + region
	out["state"], out["name"] = "ACTIVE", place+"/functions/"+name
	service := maps.Clone(f["serviceConfig"].(map[string]any))
	service["service"] = place + "/services/" + name
	out["serviceConfig"] = service
	return out
}

// service is the Cloud Run service of a function.
func (c *cloud) service(name string) map[string]any {
	ready := map[string]any{"observedGeneration": 1, "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}
	return map[string]any{
		"apiVersion": "serving.knative.dev/v1", "kind": "Service",
		"metadata": map[string]any{
			"name": name, "namespace": "123456789012", "generation": 1, "annotations": c.annotations[name],
			"labels": map[string]any{"cloud.googleapis.com/location": "europe-west1"},
		},
		"spec":   map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": "image"}}}}},
		"status": ready,
	}
}

// policy is one that grants these, each "ROLE MEMBER".
func policy(granted []string) map[string]any {
	bindings := []any{}
	for _, g := range granted {
		role, member, _ := strings.Cut(g, " ")
		bindings = append(bindings, map[string]any{"role": role, "members": []any{member}})
	}
	return map[string]any{"etag": "BwX=", "bindings": bindings}
}

// grants returns what a request for a policy grants, sorted.
func grants(t *testing.T, r *http.Request) []string {
	var body struct {
		Policy struct {
			Bindings []struct {
				Role    string
				Members []string
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil && err != io.EOF {
		t.Error(err)
	}
	var granted []string
	for _, b := range body.Policy.Bindings {
		for _, m := range b.Members {
			granted = append(granted, b.Role+" "+m)
		}
	}
	slices.Sort(granted)
	return granted
}

func operation(name string) map[string]any {
	return map[string]any{"name": name, "metadata": map[string]any{
		"@type": "type.googleapis.com/google.cloud.functions.v2.OperationMetadata", "verb": "create",
	}}
}

func say(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client sees what is missing
}

func refuse(w http.ResponseWriter, code int, status, message string) {
	say(w, code, map[string]any{"error": map[string]any{"code": code, "status": status, "message": message}})
}

// environment is gcloud's: a configuration of its own, a token that is worth
// nothing, every API at the stub, and no other way out.
func (c *cloud) environment(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("not-a-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"HOME=" + dir,
		"CLOUDSDK_CONFIG=" + dir,
		"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=" + token,
		"CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=true",
		"CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK=true",
		"CLOUDSDK_CORE_SHOW_STRUCTURED_LOGS=never",
		"HTTPS_PROXY=" + c.server.URL,
		"https_proxy=" + c.server.URL,
		// gcloud sets a region before the host of Cloud Run's address, which so has
		// to be a name; the proxy finds it.
		"HTTP_PROXY=" + c.server.URL,
		"http_proxy=" + c.server.URL,
		"CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN=http://run.test/",
		"NO_PROXY=127.0.0.1",
		"no_proxy=127.0.0.1",
	}
	for _, api := range []string{"CLOUDFUNCTIONS", "SERVICEUSAGE", "CLOUDRESOURCEMANAGER", "IAP"} {
		env = append(env, "CLOUDSDK_API_ENDPOINT_OVERRIDES_"+api+"="+c.server.URL+"/")
	}
	return append(env, oneGcloud()...)
}

// deploy runs scripts/deploy and returns what it prints, and whether it succeeds.
func deploy(t *testing.T, env []string, args ...string) (string, bool) {
	t.Helper()
	need.Program(t, "jq")
	cmd := exec.CommandContext(t.Context(), "scripts/deploy", args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), err == nil
}

// unzip lays an uploaded archive out in a folder.
func unzip(t *testing.T, archive []byte) string {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, r); err != nil {
		t.Fatal(err)
	}
	return dir
}

// files returns all files below dir with what is in them.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		found[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDeploy runs the real gcloud.
func TestDeploy(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	functions, file := outputs(t, "demo-project", `  verification_token = "0123456789abcdef0123456789abcdef"
  mns_secret         = "0123456789abcdef"
`+everything)
	c := newCloud(t)
	out, ok := deploy(t, c.environment(t), "--outputs", file, "--all")
	if !ok {
		t.Fatalf("it fails: %s\nunknown to the stub: %v", out, c.unknown)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unknown) > 0 {
		t.Errorf("gcloud asked for %v", c.unknown)
	}
	dir, err := staged()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range functionNames(t) {
		t.Run(name, func(t *testing.T) {
			f := functions[name]
			if want := name + ": deployed, " + f.URL; !strings.Contains(out, want) {
				t.Errorf("it prints %s, want a line %q", out, want)
			}
			got := c.created[name]
			build, _ := got["buildConfig"].(map[string]any)
			source, _ := build["source"].(map[string]any)
			storage, _ := source["storageSource"].(map[string]any)
			object, _ := storage["object"].(string)
			environment := map[string]any{}
			for k, v := range f.Environment {
				environment[k] = v
			}
			service := map[string]any{
				"serviceAccountEmail":           "inbox-" + name + "@demo-project.iam.gserviceaccount.com",
				"availableMemory":               "512Mi",
				"availableCpu":                  "1",
				"maxInstanceRequestConcurrency": 80.0,
				"minInstanceCount":              0.0,
				"maxInstanceCount":              20.0,
				"timeoutSeconds":                float64(f.TimeoutSeconds),
				"ingressSettings":               map[string]string{"": "ALLOW_ALL", "all": "ALLOW_ALL", "internal-only": "ALLOW_INTERNAL_ONLY"}[f.Ingress],
				"allTrafficOnLatestRevision":    true,
				"environmentVariables":          environment,
			}
			if secret, ok := map[string][2]string{
				"receive": {"PUBSUB_VERIFICATION_TOKEN", "inbox-verification-token"},
				"mns":     {"MNS_SECRET", "inbox-mns-secret"},
			}[name]; ok {
				service["secretEnvironmentVariables"] = []any{map[string]any{
					"key": secret[0], "projectId": "123456789012", "secret": secret[1], "version": "3",
				}}
			}
			want := map[string]any{
				"name": "projects/demo-project/locations/europe-west1/functions/" + name,
				"buildConfig": map[string]any{
					"runtime":          "go126",
					"entryPoint":       name,
					"serviceAccount":   "projects/demo-project/serviceAccounts/inbox-build@demo-project.iam.gserviceaccount.com",
					"dockerRepository": "projects/demo-project/locations/europe-west1/repositories/inbox-functions",
					// Nothing is set for the build, and gcloud says so.
					"environmentVariables": map[string]any{},
					"source":               map[string]any{"storageSource": map[string]any{"bucket": "gcf-v2-uploads", "object": object}},
				},
				"serviceConfig": service,
				"labels":        map[string]any{"deployment-tool": "cli-gcloud", "managed-by": "push-inbox"},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the request (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"roles/run.invoker allUsers"}, c.invokers[name]); diff != "" {
				t.Errorf("who may invoke it (-want +got):\n%s", diff)
			}

			// TestStagedSource builds what is staged.
			uploaded := unzip(t, c.uploads[object])
			if diff := cmp.Diff(files(t, filepath.Join(dir, name)), files(t, uploaded)); diff != "" {
				t.Errorf("the upload is not what is staged (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeployAgain deploys a function that is there, with settings that are gone.
func TestDeployAgain(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	functions, file := outputs(t, "demo-project", "")
	c := newCloud(t)
	c.created["receive"] = map[string]any{
		"buildConfig": map[string]any{"runtime": "go125", "entryPoint": "receive"},
		"serviceConfig": map[string]any{
			"environmentVariables": map[string]any{"PUSH_AUDIENCE": "https://old.example.com", "LEFT_OVER": "1"},
			"secretEnvironmentVariables": []any{map[string]any{
				"key": "PUBSUB_VERIFICATION_TOKEN", "projectId": "123456789012", "secret": "inbox-verification-token", "version": "2",
			}},
		},
	}
	if out, ok := deploy(t, c.environment(t), "--outputs", file, "receive"); !ok {
		t.Fatalf("it fails: %s", out)
	}
	service := c.created["receive"]["serviceConfig"].(map[string]any)
	want := map[string]any{}
	for k, v := range functions["receive"].Environment {
		want[k] = v
	}
	if diff := cmp.Diff(want, service["environmentVariables"]); diff != "" {
		t.Errorf("the environment (-want +got):\n%s", diff)
	}
	if secrets, ok := service["secretEnvironmentVariables"]; ok {
		t.Errorf("the secrets %v are still there", secrets)
	}
	for _, field := range []string{"service_config.environment_variables", "service_config.secret_environment_variables", "build_config.runtime", "build_config.source"} {
		if len(c.mutations) != 1 || !strings.Contains(c.mutations[0], field) {
			t.Errorf("%v, want one update of %s", c.mutations, field)
		}
	}
}

// TestDeployFailure breaks one of two functions.
func TestDeployFailure(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	_, file := outputs(t, "demo-project", "")
	c := newCloud(t)
	c.broken = map[string]string{"publish": "the caller may not create this one"}
	out, ok := deploy(t, c.environment(t), "--outputs", file, "publish", "console")
	if ok {
		t.Errorf("it succeeds: %s", out)
	}
	for _, want := range []string{"publish: FAILED", "the caller may not create this one", "console: deployed", "1 of 2 failed: publish"} {
		if !strings.Contains(out, want) {
			t.Errorf("it prints %s, want %q in it", out, want)
		}
	}
	if diff := cmp.Diff([]string{"create console"}, c.mutations); diff != "" {
		t.Errorf("what was done (-want +got):\n%s", diff)
	}
}

func TestDeployDryRun(t *testing.T) {
	t.Parallel()
	_, file := outputs(t, "demo-project", "  invoker_check_off = true")
	out, ok := deploy(t, []string{"CLOUDSDK_CONFIG=" + t.TempDir()}, "--outputs", file, "--dry-run", "receive", "console")
	if !ok {
		t.Fatalf("it fails: %s", out)
	}
	for _, want := range []string{
		"./function.go\n", "./go.mod\n", "./shared/verify/verify.go\n",
		"gcloud functions deploy receive ", "gcloud functions deploy console ",
		"--no-allow-unauthenticated ", "gcloud run services update receive --project=demo-project --region=europe-west1 --quiet --no-invoker-iam-check",
		"--clear-secrets", `"PUSH_SERVICE_ACCOUNT": "inbox-push@demo-project.iam.gserviceaccount.com"`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it prints %s, want %q in it", out, want)
		}
	}
	if strings.Contains(out, "_test.go") || strings.Contains(out, "deploy publish") {
		t.Errorf("it prints %s", out)
	}
}

// TestDeployAllLeavesOut deploys all where Terraform was not asked for one.
func TestDeployAllLeavesOut(t *testing.T) {
	t.Parallel()
	_, file := outputs(t, "demo-project", "")
	out, ok := deploy(t, []string{"CLOUDSDK_CONFIG=" + t.TempDir()}, "--outputs", file, "--dry-run", "--all")
	if !ok || !strings.Contains(out, "gcloud functions deploy console ") {
		t.Errorf("success %v, it prints %s", ok, out)
	}
	for _, name := range []string{"calendar", "mns"} {
		if strings.Contains(out, "deploy "+name) || !strings.Contains(out, name+": not deployed, it is not in Terraform's outputs") {
			t.Errorf("%s: it prints %s", name, out)
		}
	}
}

func TestDeployRefuses(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "outputs.json")
	if err := os.WriteFile(empty, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	taken := t.TempDir()
	if err := os.Mkdir(filepath.Join(taken, "publish"), 0o755); err != nil {
		t.Fatal(err)
	}
	const greet = "e2e/deploy/testdata/greet"
	module, broken := filepath.Join(t.TempDir(), "module"), filepath.Join(t.TempDir(), "broken")
	write(t, filepath.Join(module, "go.mod"), "module example.com/own\n")
	write(t, filepath.Join(broken, "function.go"), `package broken

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"example.com/pushinbox/e2e/deploy/testdata/greet/nonesuch"
)

func init() { functions.HTTP("broken", nonesuch.Handle) }
`)
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "Usage:"},
		{"unknown_option", []string{"--force", "publish"}, "unknown option --force"},
		{"unknown_function", []string{"--dry-run", "--outputs", empty, "nonesuch"}, "there is no function nonesuch"},
		{"unknown_function_to_stage", []string{"--stage-only", taken, "nonesuch"}, "there is no function nonesuch in functions/"},
		{"the_local_main", []string{"cmd"}, "there is no function cmd"},
		{"a_path", []string{"../shared"}, "there is no function ../shared"},
		{"all_and_a_name", []string{"--all", "publish"}, "--all takes no names"},
		{"no_value", []string{"--outputs"}, "--outputs needs a value"},
		{"no_outputs_file", []string{"--dry-run", "--outputs", "nonesuch.json", "publish"}, "nonesuch.json cannot be read"},
		{"none_in_outputs", []string{"--dry-run", "--outputs", empty, "--all"}, "Terraform's outputs have no functions"},
		{"not_in_outputs", []string{"--dry-run", "--outputs", empty, "publish"}, "Terraform's outputs have no function publish"},
		{"check_and_a_name", []string{"--check", "publish"}, "--check goes with --outputs only"},
		{"check_without_outputs", []string{"--outputs", empty, "--check"}, "lack an address"},
		{"prune_and_a_name", []string{"--prune", "publish"}, "--prune goes with"},
		{"yes_without_prune", []string{"--yes", "publish"}, "--yes goes with --prune only"},
		{"prune_without_functions", []string{"--prune", "--dry-run", "--outputs", empty}, "Terraform's outputs have no functions"},
		{"stage_taken", []string{"--stage-only", taken, "publish"}, "exists already"},
		{"own_and_all", []string{"--function", greet, "--all"}, "--function deploys one function"},
		{"own_twice", []string{"--function", greet, "--function", greet}, "--function is given twice"},
		{"own_with_two_names", []string{"--function", greet, "a", "b"}, "--function takes one name"},
		{"own_and_check", []string{"--check", "--function", greet}, "--check goes with --outputs only"},
		{"own_folder_missing", []string{"--function", "nonesuch"}, "there is no folder nonesuch"},
		{"own_not_in_outputs", []string{"--dry-run", "--outputs", empty, "--function", greet}, "Terraform's outputs have no function greet; is it in the variable functions"},
		{"own_of_another_name", []string{"--stage-only", taken, "--function", greet, "hello"}, "registers greet and not hello"},
		{"own_program", []string{"--stage-only", taken, "--function", greet + "/cmd", "greet"}, "is of package main"},
		{"own_without_source", []string{"--stage-only", taken, "--function", "docs"}, "has no Go files"},
		{"own_without_framework", []string{"--stage-only", taken, "--function", "shared/problem"}, "does not import github.com/GoogleCloudPlatform/functions-framework-go/functions"},
		{"own_module", []string{"--stage-only", taken, "--function", module}, "has a go.mod"},
		{"own_that_does_not_build", []string{"--stage-only", taken, "--function", broken}, "a package in a folder of it is example.com/pushinbox/FOLDER there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			out, ok := deploy(t, nil, test.args...)
			if ok || !strings.Contains(out, test.want) {
				t.Errorf("success %v, it prints %s, want %q in it", ok, out, test.want)
			}
		})
	}
}

// TestCloudBuild has gcloud read cloudbuild.yaml, which knows a build's fields,
// and shellcheck read the scripts in it.
func TestCloudBuild(t *testing.T) {
	t.Parallel()
	need.Program(t, "gcloud")
	need.Program(t, "shellcheck")
	type step struct {
		ID, Entrypoint string
		Args, Env      []string
		WaitFor        []string
	}
	var build struct {
		Steps         []step
		Substitutions map[string]string
	}
	submitted := make(chan struct{}, 1)
	c := newCloud(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			refuse(w, 404, "NOT_FOUND", "the stub does not know this")
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&build); err != nil {
			t.Error(err)
		}
		submitted <- struct{}{}
		say(w, 200, map[string]any{"name": "operations/build/demo-project/1", "metadata": map[string]any{
			"@type": "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata",
			"build": map[string]any{"id": "1", "status": "QUEUED", "projectId": "demo-project"},
		}})
	}))
	t.Cleanup(server.Close)
	env := append(c.environment(t), "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBUILD="+server.URL+"/")
	if _, err := output(t.Context(), root, env, "gcloud", "builds", "submit", "--project=demo-project", "--no-source", "--async",
		"--config=cloudbuild.yaml", "--substitutions=_STATE_BUCKET=demo-state"); err != nil {
		t.Fatal(err)
	}
	<-submitted
	order := map[string][]string{}
	for _, s := range build.Steps {
		order[s.ID] = s.WaitFor
		if len(s.Args) != 2 || s.Args[0] != "-euc" {
			t.Errorf("%s runs %v, want a script that ends with its first error", s.ID, s.Args)
			continue
		}
		script := filepath.Join(t.TempDir(), s.ID)
		if err := os.WriteFile(script, []byte(strings.ReplaceAll(s.Args[1], "$$", "$")), 0o644); err != nil {
			t.Fatal(err)
		}
		// Names from Cloud Build come in upper case. SC2086 is asked for: FUNCTIONS holds words.
		if out, err := output(t.Context(), root, nil, "shellcheck", "--shell="+s.Entrypoint, "--exclude=SC2086", script); err != nil {
			t.Errorf("%s: %v%s", s.ID, err, out)
		}
	}
	if sum := build.Substitutions["_GO_SHA256"]; !regexp.MustCompile("^[0-9a-f]{64}$").MatchString(sum) {
		t.Errorf("_GO_SHA256 %q is no SHA-256", sum)
	}
	want := map[string][]string{"test": {"-"}, "terraform": {"-"}, "outputs": {"terraform"}, "plan": {"outputs"}, "deploy": {"test", "plan"}}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("what waits for what (-want +got):\n%s", diff)
	}
}

func TestShellcheck(t *testing.T) {
	t.Parallel()
	need.Program(t, "shellcheck")
	if out, err := output(t.Context(), root, nil, "shellcheck", "scripts/deploy", "scripts/teardown"); err != nil {
		t.Errorf("%v%s", err, out)
	}
}
