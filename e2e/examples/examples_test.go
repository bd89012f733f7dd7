//go:build unix

// Package examples runs the endpoints in examples/ under pushinbox run, as users do:
// signed pushes of the local Pub/Sub reach them, and forged ones are refused by each
// language's own library.
package examples

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
	"example.com/pushinbox/testkit/pushattack"
)

const (
	root     = "../.."
	audience = "https://example.com/push"
)

// machine is one that has a pushinbox.
type machine struct {
	command string
	// data is the directory of the pushinbox local for which programs run.
	data string
	// environment is what all processes get beside this one's.
	environment []string
}

// The machine of all tests, and its pushinbox local.
var (
	thisMachine machine
	local       stack.Addresses
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "examples")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		thisMachine = machine{command: filepath.Join(dir, "pushinbox"), data: filepath.Join(dir, "data")}
		if err := build(thisMachine.command, root+"/scripts/pushinbox"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd, in, at, err := thisMachine.startLocal("--port=0", "--pubsub-port=0", "--data", thisMachine.data, "--retry-backoff=0s,1s")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _, _ = in.Close(), cmd.Wait() }()
		local = at
		return m.Run()
	}())
}

func build(file, dir string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-ldflags=-w", "-o", file}, flags...), ".")...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// pushinbox is the command with these arguments.
func (m machine) pushinbox(args ...string) *exec.Cmd {
	cmd := exec.Command(m.command, args...)
	cmd.Env = append(os.Environ(), m.environment...)
	return cmd
}

// startLocal starts a pushinbox local with more arguments, and returns where everything
// is. It ends when in is closed.
func (m machine) startLocal(args ...string) (cmd *exec.Cmd, in io.Closer, at stack.Addresses, err error) {
	cmd = m.pushinbox(append([]string{"local", "--format=json", "--exit-with-stdin", "--quiet"}, args...)...)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return nil, nil, at, err
	}
	if err := json.NewDecoder(out).Decode(&at); err != nil {
		_, _ = in.Close(), cmd.Wait()
		return nil, nil, at, fmt.Errorf("the first line of pushinbox local: %w", err)
	}
	return cmd, in, at, nil
}

// program is one that runs under pushinbox run.
type program struct {
	url   string
	group int // of its processes

	mu     sync.Mutex
	output bytes.Buffer
}

// Write gets what the program prints.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *program) printed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// run runs a program in a directory until the test ends. It gets a PORT, and
// variables in which PORT stands for it.
func (m machine) run(t *testing.T, dir string, variables []string, args ...string) *program {
	t.Helper()
	at := port.Reserve(t)
	p := &program{url: "http://127.0.0.1:" + at}
	cmd := m.pushinbox(append([]string{"run", "--data", m.data, "--"}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, p, p
	cmd.Env = append(cmd.Env, "PORT="+at)
	for _, v := range variables {
		cmd.Env = append(cmd.Env, strings.ReplaceAll(v, "PORT", at))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // some start others
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.group = cmd.Process.Pid
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-p.group, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Log(p.printed())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := port.Listening(ctx, at); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return p
}

// call sends a request of Pub/Sub's REST.
func call(t *testing.T, method, path string, body any) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+local.PubSubEmulatorHost+"/v1/projects/"+local.Project+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, answer)
	}
}

// push has what is published to a topic pushed to an endpoint, and publishes.
func push(t *testing.T, topic, endpoint, audience, message string) {
	t.Helper()
	call(t, http.MethodPut, "/topics/"+topic, struct{}{})
	call(t, http.MethodPut, "/subscriptions/"+topic, map[string]any{
		"topic": "projects/" + local.Project + "/topics/" + topic,
		"pushConfig": map[string]any{
			"pushEndpoint": endpoint,
			"oidcToken":    map[string]string{"serviceAccountEmail": stack.PushAccount, "audience": audience},
		},
	})
	call(t, http.MethodPost, "/topics/"+topic+":publish", map[string]any{"messages": []map[string][]byte{{"data": []byte(message)}}})
}

// mint returns a token of the local issuer at an address.
func mint(t *testing.T, at string) func(claims map[string]any) (string, error) {
	return func(claims map[string]any) (string, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
		if err != nil {
			return "", err
		}
		query := r.URL.Query()
		query.Set("aud", audience)
		for name, value := range claims {
			b, err := json.Marshal(value)
			if err != nil {
				return "", err
			}
			text := string(b)
			if value == nil {
				text = ""
			}
			query.Set(name, text)
		}
		r.URL.RawQuery = query.Encode()
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		token, err := bufio.NewReader(resp.Body).ReadString('\n')
		return strings.TrimSpace(token), err
	}
}

// attack sends an endpoint a good token, which it must take, and forged ones, which
// it must refuse.
func attack(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Get(local.Certs)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	keys, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	target := pushattack.Target{URL: url, Mint: mint(t, local.Token), Keys: keys}
	good, err := pushattack.Good(target)
	if err != nil {
		t.Fatal(err)
	}
	answered(t, "a good token", good, http.StatusNoContent)
	cases, err := pushattack.Cases(target)
	if err != nil {
		t.Fatal(err)
	}
	forged := map[string]bool{
		"signature_altered": true, "signed_by_a_foreign_key": true, "payload_altered": true, "alg_none_unsigned": true,
		"alg_hs256_keyed_with_pem": true, "audience_wrong": true, "expired": true, "email_wrong": true, "issuer_foreign": true, "no_authorization": true,
	}
	for _, c := range cases {
		if forged[c.Name] {
			answered(t, c.Name, c.Request, http.StatusUnauthorized)
			delete(forged, c.Name)
		}
	}
	if len(forged) > 0 {
		t.Errorf("not tried: %v", forged)
	}
}

func answered(t *testing.T, name string, r *http.Request, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	resp, err := http.DefaultClient.Do(r.WithContext(ctx))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	_ = resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("%s: answered %s, want %d", name, resp.Status, want)
	}
}

// prints waits until a program has printed something.
func (p *program) prints(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := port.Until(ctx, func() error {
		if !strings.Contains(p.printed(), want) {
			return fmt.Errorf("%q is not in %q", want, p.printed())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// python returns the variables with which python3 has Google's library: as it is
// installed, or gcloud's own copy.
func python(t *testing.T) []string {
	t.Helper()
	need.Program(t, "python3")
	variables := []string{}
	gcloud, _ := exec.LookPath("gcloud")
	if resolved, err := filepath.EvalSymlinks(gcloud); err == nil {
		variables = append(variables, "PYTHONPATH="+filepath.Join(filepath.Dir(filepath.Dir(resolved)), "lib", "third_party"))
	}
	for _, v := range append([]string{"PUSHINBOX_TEST=1"}, variables...) {
		try := exec.CommandContext(t.Context(), "python3", "-c", "import requests, google.oauth2.id_token")
		try.Env = append(os.Environ(), v)
		if try.Run() == nil {
			return []string{v}
		}
	}
	need.Missing(t, "python3 has no google-auth: pip install google-auth requests, or install gcloud, which has it")
	return nil
}

// node returns a directory with the example for Node and its library.
func node(t *testing.T) string {
	t.Helper()
	need.Program(t, "npm")
	need.Program(t, "node")
	dir := t.TempDir()
	for _, name := range []string{"main.js", "package.json"} {
		b, err := os.ReadFile(filepath.Join(root, "examples", "pushnode", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	install := exec.CommandContext(t.Context(), "npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Logf("npm install: %v\n%s", err, out)
		need.Missing(t, "npm cannot get google-auth-library: let it reach its registry")
	}
	return dir
}

// TestEndpoints runs each example.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T) (dir string, variables, args []string){
		"python": func(t *testing.T) (string, []string, []string) {
			return filepath.Join(root, "examples", "pushpython"), python(t), []string{"python3", "main.py"}
		},
		"node": func(t *testing.T) (string, []string, []string) { return node(t), nil, []string{"node", "main.js"} },
		"go": func(*testing.T) (string, []string, []string) {
			return filepath.Join(root, "examples", "pushgo"), nil, []string{"go", "run", "."}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, variables, args := prepare(t)
			p := thisMachine.run(t, dir, append(variables, "PUSH_AUDIENCE="+audience, "PUSH_SERVICE_ACCOUNT="+stack.PushAccount), args...)
			push(t, "example-"+name, p.url+"/", audience, "hello from "+name)
			p.prints(t, "hello from "+name)
			attack(t, p.url+"/")
		})
	}
}

// TestJava reads the keys with both clients of Java, whose verifiers use them.
func TestJava(t *testing.T) {
	t.Parallel()
	need.Program(t, "java")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, thisMachine.command, "run", "--data", thisMachine.data, "--", "java", "testdata/Keys.java").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"keys"`) || !strings.Contains(string(out), "BEGIN CERTIFICATE") {
		t.Errorf("%v: %s", err, out)
	}
}
