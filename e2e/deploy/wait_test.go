package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWaitForAPIs runs the script that Terraform waits with, with a curl and a
// sleep that write down what they are asked for.
func TestWaitForAPIs(t *testing.T) {
	t.Parallel()
	const disabled = `{"error": {"code": 403, "details": [{"reason": "SERVICE_DISABLED"}]}}`
	for _, test := range []struct {
		name  string
		token string
		// curl is the body of a shell script; $url is what is asked.
		curl string
		args []string
		// want are what the log must have, in this order; never is what it must not.
		want, never []string
	}{
		{
			name: "no_credentials", curl: "exit 7", args: []string{"pubsub.googleapis.com"},
			want: []string{"sleep 90"}, never: []string{"sleep 5"},
		},
		{
			name: "no_way_out", token: "secret-token", curl: "exit 7", args: []string{"pubsub.googleapis.com"},
			want: []string{"sleep 90"}, never: []string{"sleep 5"},
		},
		{
			name: "enabled_already", token: "secret-token", curl: `echo '{"state": "ENABLED"}'`,
			args: []string{"firestore.googleapis.com", "pubsub.googleapis.com"},
			want: []string{
				"GET https://firestore.googleapis.com/v1/projects/demo/databases", "GET https://pubsub.googleapis.com/v1/projects/demo/topics?pageSize=1",
				"POST https://serviceusage.googleapis.com/v1beta1/projects/demo/services/pubsub.googleapis.com:generateServiceIdentity",
			},
			never: []string{"sleep"},
		},
		{
			name: "answers_after_a_while", token: "secret-token",
			curl: `case $url in *serviceusage*) echo '{"state": "ENABLED"}' ;; *) [ "$(grep -c "$url" "$LOG")" -gt 7 ] && echo '{}' || echo '` + disabled + `' ;; esac`,
			args: []string{"secretmanager.googleapis.com"},
			want: []string{"sleep 5", "sleep 5", "sleep 5", "GET https://secretmanager.googleapis.com/v1/projects/demo/secrets?pageSize=1"},
			// Only Pub/Sub's agent is asked for.
			never: []string{"sleep 90", "generateServiceIdentity"},
		},
		{
			name: "an_api_that_nothing_here_uses", token: "secret-token", curl: `echo '{"state": "ENABLED"}'`,
			args: []string{"calendar-json.googleapis.com"}, never: []string{"sleep", "https://calendar-json"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			log := filepath.Join(dir, "log")
			for name, script := range map[string]string{
				"curl":   "cat >/dev/null\nmethod='' url=''\nwhile [ $# -gt 0 ]; do case $1 in -X) method=$2 ;; https:*) url=$1 ;; esac; echo \"arg $1\" >>\"$LOG\"; shift; done\necho \"$method $url\" >>\"$LOG\"\n" + test.curl,
				"sleep":  `echo "sleep $1" >>"$LOG"`,
				"gcloud": "exit 1",
			} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			env := []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "LOG=" + log, "GOOGLE_OAUTH_ACCESS_TOKEN=" + test.token}
			if _, err := output(t.Context(), root, env, append([]string{"sh", "terraform/wait-for-apis.sh", "demo"}, test.args...)...); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			text := string(b)
			if strings.Contains(text, "secret-token") {
				t.Error("the token is in the list of processes")
			}
			for _, never := range test.never {
				if strings.Contains(text, never) {
					t.Errorf("%q is in\n%s", never, text)
				}
			}
			for _, want := range test.want {
				_, rest, ok := strings.Cut(text, want)
				if !ok {
					t.Fatalf("%q is missing, or comes too early, in\n%s", want, b)
				}
				text = rest
			}
		})
	}
}
