package deploy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/pushinbox/testkit/need"
)

// TestCheck runs scripts/deploy --check where receive answers one thing, Google
// says another of its ingress, and Terraform wants a third.
func TestCheck(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	_, file := outputs(t, "demo-project", "")
	const page = "text/html; charset=UTF-8"
	for _, test := range []struct {
		name    string
		wanted  string // ingress
		is      string // what gcloud says: an ingress, or an error
		status  int
		kind    string
		noAPI   bool // the console is behind the proxy, and there is no api
		withAPI bool
		ok      bool
		want    string
	}{
		{name: "out_of_reach", wanted: "internal-only", is: "ALLOW_INTERNAL_ONLY", status: 404, kind: page, ok: true, want: "receive: out of the internet's reach, http"},
		{name: "not_deployed", wanted: "internal-only", is: "NOT_FOUND", status: 404, kind: page, want: "receive is not deployed"},
		{name: "gcloud_may_not_look", wanted: "internal-only", is: "PERMISSION_DENIED", status: 404, kind: page, ok: true, want: "or not deployed, which gcloud cannot tell"},
		{name: "still_all", wanted: "internal-only", is: "ALLOW_ALL", status: 401, kind: "application/json", want: "its ingress is still all, but Terraform wants internal-only; deploy it again: scripts/deploy receive"},
		{name: "checked_from_inside", wanted: "internal-only", is: "ALLOW_INTERNAL_ONLY", status: 401, kind: "application/json", ok: true, want: "this machine is inside"},
		{name: "not_the_front_end", wanted: "internal-only", is: "ALLOW_INTERNAL_ONLY", status: 404, kind: "application/json", want: "not the page of Cloud Run's front end"},
		{name: "other_address", wanted: "internal-only", is: "ALLOW_ALL", status: 404, kind: page, want: "nothing answers at"},
		{name: "all", wanted: "all", status: 401, kind: "application/json", ok: true, want: "receive: refuses a push without a token"},
		{name: "all_not_deployed", wanted: "all", status: 404, kind: page, want: "receive is not deployed at"},
		{name: "private", wanted: "all", status: 403, kind: page, want: "it is private"},
		{name: "older_outputs", status: 401, kind: "application/json", ok: true, want: "console: has it"},
		{name: "api", wanted: "all", status: 401, kind: "application/json", withAPI: true, ok: true, want: "api: has it"},
		{name: "no_api", wanted: "all", status: 401, kind: "application/json", noAPI: true, ok: true, want: "nothing can be checked past publishing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasPrefix(r.URL.Path, "/receive"):
					w.Header().Set("Content-Type", test.kind)
					w.WriteHeader(test.status)
				case strings.HasPrefix(r.URL.Path, "/publish"):
					_, _ = io.WriteString(w, `{"messageIds": ["1"]}`)
				case strings.HasPrefix(r.URL.Path, "/api"), strings.HasPrefix(r.URL.Path, "/console") && !test.withAPI && !test.noAPI:
					_, _ = io.WriteString(w, `{"messages": [{"messageId": "1"}]}`)
				default:
					http.Error(w, "the proxy stops this", http.StatusFound)
				}
			}))
			t.Cleanup(server.Close)
			file := amend(t, file, func(all, functions map[string]any) {
				for _, name := range []string{"receive", "publish", "console"} {
					functions[name].(map[string]any)["url"] = server.URL + "/" + name
				}
				delete(all, "api_url")
				delete(functions["receive"].(map[string]any), "ingress")
				if test.wanted != "" {
					functions["receive"].(map[string]any)["ingress"] = test.wanted
				}
				if test.withAPI || test.noAPI {
					functions["console"].(map[string]any)["iap_members"] = []any{"user:a@example.com"}
				}
				if test.withAPI {
					all["api_url"] = map[string]any{"value": server.URL + "/api"}
				}
			})
			dir := t.TempDir()
			gcloud := "#!/bin/sh\ncase $1 in functions) case '" + test.is + "' in ALLOW*) echo " + test.is + " ;; *) echo 'ERROR: " + test.is + "' >&2; exit 1 ;; esac ;; *) echo token ;; esac\n"
			if err := os.WriteFile(filepath.Join(dir, "gcloud"), []byte(gcloud), 0o755); err != nil {
				t.Fatal(err)
			}
			out, ok := deploy(t, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, "--outputs", file, "--check")
			if ok != test.ok || !strings.Contains(out, test.want) {
				t.Errorf("success %v, it prints %s, want %q in it", ok, out, test.want)
			}
		})
	}
}
