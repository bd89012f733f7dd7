//go:build unix

package examples

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
)

// poller is an example that polls an inbox.
type poller struct {
	args, environment []string
	together          bool                           // whether several processes do no harm
	effects           func() (map[string]int, error) // how often each message had its effect
}

// pollers are the examples that poll.
var pollers = map[string]func(*testing.T) poller{
	"pollpython": pollPython, "pollnode": pollNode, "pollgo": pollGo, "pollfirestore": pollFirestore,
}

// TestPollers kills each of the pollers again and again while it catches up, and has two
// processes of some at the same time: each message has its effect, once. Then nothing comes, and it asks three times a minute
// at most.
func TestPollers(t *testing.T) {
	t.Parallel()
	for name, prepare := range pollers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := prepare(t)
			n, kills := measure.Size(300, 10_000), measure.Size(5, 50)
			from := startSource(t, thisMachine)
			u, err := url.Parse("http://127.0.0.1:" + from.at)
			if err != nil {
				t.Fatal(err)
			}
			var polls atomic.Int64
			proxy := httputil.NewSingleHostReverseProxy(u)
			proxy.ErrorLog = log.New(io.Discard, "", 0) // of programs that were killed
			between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/messages:poll" {
					polls.Add(1)
				}
				proxy.ServeHTTP(w, r)
			}))
			t.Cleanup(func() { between.CloseClientConnections(); between.Close() })
			p.environment = append(p.environment, "INBOX_URL="+between.URL)

			random := rand.New(rand.NewPCG(measure.Seed(), 0))
			var first time.Duration // from the start to the first message
			for i := range kills {
				from.publish(n*i/(kills+1), n*(i+1)/(kills+1))
				began := time.Now()
				cmd, processed := p.start(t)
				if i%2 == 0 {
					select {
					case <-processed:
					case <-time.After(time.Minute):
						t.Fatal("nothing is processed")
					}
					first = time.Since(began)
					time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
				} else {
					time.Sleep(time.Duration(random.Int64N(int64(first + 20*time.Millisecond))))
				}
				kill(cmd)
			}
			from.publish(n*kills/(kills+1), n)
			p.start(t)
			var second *exec.Cmd
			if p.together {
				second, _ = p.start(t)
			}
			var effects map[string]int
			for over := time.Now().Add(measure.Size(time.Minute, 10*time.Minute)); total(effects) < n; time.Sleep(200 * time.Millisecond) {
				if effects, err = p.effects(); err != nil {
					t.Fatal(err)
				}
				if time.Now().After(over) {
					t.Fatalf("%d effects of %d messages", total(effects), n)
				}
			}

			if p.together {
				kill(second)
			}
			for before := int64(-1); polls.Load() != before; time.Sleep(2 * time.Second) { // one may still ask again
				before = polls.Load()
			}
			began := polls.Load()
			window := measure.Size(3*time.Second, time.Minute)
			time.Sleep(window)
			if asked, most := polls.Load()-began, measure.Size[int64](1, 3); asked > most {
				t.Errorf("an idle poller asks %d times in %v", asked, window)
			}
			if effects, err = p.effects(); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if got := effects[fmt.Sprintf("number %d.", i)]; got != 1 {
					t.Errorf("message %d has %d effects", i, got)
				}
			}
			t.Logf("%d messages, killed %d times: %d effects; %d polls in %v without a message", n, kills, total(effects), polls.Load()-began, window)
		})
	}
}

// TestPollersHaveWholeMessages has each poller process messages larger than what a page
// has of them, up to nearly Pub/Sub's largest, and one without data. It skips a push that
// could not be decoded, and says so.
func TestPollersHaveWholeMessages(t *testing.T) {
	t.Parallel()
	for name, prepare := range pollers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := prepare(t)
			from := startSource(t, thisMachine)
			p.environment = append(p.environment, "INBOX_URL="+from.URL)
			const malformed = "this is not a push"
			token, err := mint(t, from.Token)(map[string]any{"aud": from.Receive})
			if err != nil {
				t.Fatal(err)
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, from.Receive+"/wrapped", strings.NewReader(malformed))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+token)
			answered(t, "a malformed push", r, http.StatusNoContent)
			want := map[string]int{strings.Repeat("large ", 20_000/6): 1, strings.Repeat("huge ", 1_990_000): 1, "": 1}
			for data := range want {
				from.post(data)
			}
			from.post("last")
			want["last"] = 1

			cmd, out := p.command()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { kill(cmd) })
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			if err := port.Until(ctx, func() error {
				if n := strings.Count(out.printed(), "processed "); n < len(want) {
					return fmt.Errorf("%d messages are processed:\n%s", n, out.printed())
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			kill(cmd)
			effects, err := p.effects()
			if err != nil {
				t.Fatal(err)
			}
			for data, n := range effects {
				if n != want[data] {
					t.Errorf("%d effects of %d bytes that begin with %.10q", n, len(data), data)
				}
			}
			if len(effects) != len(want) {
				t.Errorf("%d effects, want %d", len(effects), len(want))
			}
			if skipped := "skipped " + inbox.ContentID([]byte(malformed)) + " quarantined: malformed-envelope\n"; strings.Count(out.printed(), skipped) != 1 {
				t.Errorf("it does not say once that it skipped the malformed push:\n%s", out.printed())
			}
		})
	}
}

// TestPollersEnd has an inbox answer each poller with what passes and then with what does
// not: it asks again until then, says what is wrong, and fails.
func TestPollersEnd(t *testing.T) {
	t.Parallel()
	for name, prepare := range pollers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := prepare(t)
			// 200 is a page with one large message, which has expired when its data are asked for.
			for _, answers := range [][]int{{429, 500, 503, 400}, {401}, {403}, {404}, {200, 401}} {
				var asked atomic.Int64
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					status := http.StatusNotFound
					if r.URL.Path == "/messages:poll" {
						status = answers[min(int(asked.Add(1)), len(answers))-1]
					}
					if status == http.StatusOK {
						w.Header().Set("Content-Type", "application/json")
						fmt.Fprintf(w, `{"messages":[{"id":%q,"source":"pubsub","subscription":"s","messageId":"large-one","data":"","size":20000,"truncated":true,"token":%q}],"next":%[2]q}`,
							inbox.ID("pubsub", "s", "large-one"), inbox.Position{ReceivedAt: time.Unix(1, 0), Commit: time.Unix(1, 0)}.Token())
						return
					}
					w.Header().Set("Content-Type", "application/problem+json")
					w.WriteHeader(status)
					fmt.Fprintf(w, `{"status":%d,"detail":"the reason of %d"}`, status, status)
				}))
				cmd, out := p.command("INBOX_URL=" + server.URL)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				over := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
				err := cmd.Wait()
				over.Stop()
				server.Close()
				if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || int(asked.Load()) != len(answers) {
					t.Fatalf("after %d it ends with %v, and has asked %d times:\n%s", answers, err, asked.Load(), out.printed())
				}
				if want := fmt.Sprintf("the reason of %d", answers[len(answers)-1]); !strings.Contains(out.printed(), want) {
					t.Errorf("%q is not printed:\n%s", want, out.printed())
				}
				if answers[0] == http.StatusOK && !strings.Contains(out.printed(), "skipped large-one expired") {
					t.Errorf("what has expired is not named:\n%s", out.printed())
				}
			}
		})
	}
}

// command returns the program with more environment, and what it will have printed.
func (p *poller) command(environment ...string) (*exec.Cmd, *program) {
	cmd, out := exec.Command(p.args[0], p.args[1:]...), new(program)
	cmd.Env = slices.Concat(os.Environ(), p.environment, environment)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// start starts the program. processed gets something when it has processed a message.
func (p *poller) start(t *testing.T) (_ *exec.Cmd, processed <-chan struct{}) {
	t.Helper()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = append(os.Environ(), p.environment...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	some := make(chan struct{}, 1)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			if strings.HasPrefix(s.Text(), "processed ") {
				select {
				case some <- struct{}{}:
				default:
				}
			}
		}
	}()
	return cmd, some
}

// kill kills a program, once.
func kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func total(effects map[string]int) (all int) {
	for _, n := range effects {
		all += n
	}
	return all
}

func pollPython(t *testing.T) poller {
	need.Program(t, "python3")
	file := filepath.Join(t.TempDir(), "messages.db")
	const read = `import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30)
print(json.dumps({data.decode(): n for data, n in db.execute("SELECT data, count(*) FROM effects GROUP BY data")}))`
	return poller{
		args: []string{"python3", filepath.Join(root, "examples", "pollpython", "main.py")}, environment: []string{"DATABASE=" + file},
		effects: func() (effects map[string]int, err error) {
			out, err := exec.CommandContext(t.Context(), "python3", "-c", read, file).Output()
			if err != nil {
				return nil, err
			}
			return effects, json.Unmarshal(out, &effects)
		},
	}
}

func pollNode(t *testing.T) poller {
	need.Program(t, "node")
	file := filepath.Join(t.TempDir(), "state.json")
	return poller{
		args: []string{"node", filepath.Join(root, "examples", "pollnode", "main.js")}, environment: []string{"STATE=" + file},
		effects: func() (map[string]int, error) {
			b, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			var state struct{ Seen map[string]int }
			return state.Seen, errors.Join(err, json.Unmarshal(b, &state))
		},
	}
}

func pollGo(t *testing.T) poller {
	psql, address := postgres(t)
	program := filepath.Join(t.TempDir(), "pollgo")
	if err := build(program, filepath.Join(root, "examples", "pollgo")); err != nil {
		t.Logf("go build: %v", err)
		need.Missing(t, "go cannot build examples/pollgo: let it reach its module proxy for PostgreSQL's driver")
	}
	return poller{
		args: []string{program}, environment: []string{"DATABASE_URL=" + address}, together: true,
		effects: func() (map[string]int, error) {
			out, err := exec.CommandContext(t.Context(), psql, address, "-AtF=", "-c", "SELECT convert_from(data, 'UTF8'), count(*) FROM effects GROUP BY data").Output()
			effects := map[string]int{}
			for line := range strings.Lines(string(out)) {
				data, count, _ := strings.Cut(strings.TrimSpace(line), "=")
				if effects[data], err = strconv.Atoi(count); err != nil {
					return nil, err
				}
			}
			return effects, err
		},
	}
}

// guard runs a program that ends when its standard input does, and so with the test.
const guard = `{ "$@" </dev/null; kill -9 0; } &
read _
kill -9 0`

// postgres starts a PostgreSQL for one test, and returns its client and its address.
// It does not run as root: PostgreSQL refuses to.
func postgres(t *testing.T) (psql, address string) {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // Debian's
	slices.Sort(found)
	bin := ""
	if len(found) > 0 {
		bin = filepath.Dir(found[len(found)-1])
	} else if initdb, err := exec.LookPath("initdb"); err == nil {
		bin = filepath.Dir(initdb)
	} else {
		need.Missing(t, "PostgreSQL's server is not installed: apt-get install postgresql")
	}
	dir, err := os.MkdirTemp("/tmp", "postgres") // which another user can reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	attributes := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, err1 := strconv.Atoi(nobody.Uid)
		gid, err2 := strconv.Atoi(nobody.Gid)
		if err := errors.Join(err1, err2, os.Chown(dir, uid, gid)); err != nil {
			t.Fatal(err)
		}
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(dir, "data")
	create := exec.CommandContext(t.Context(), filepath.Join(bin, "initdb"), "-D", data, "-U", "test", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
	create.SysProcAttr, create.Dir = attributes, dir
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	at := port.Reserve(t)
	cmd := exec.Command("/bin/sh", "-c", guard, "guard", filepath.Join(bin, "postgres"), "-D", data, "-p", at, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off")
	cmd.SysProcAttr, cmd.Dir = attributes, dir
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	address = "postgres://test@127.0.0.1:" + at + "/postgres"
	psql = filepath.Join(bin, "psql")
	if err := port.Until(t.Context(), func() error { return exec.CommandContext(t.Context(), psql, address, "-c", "SELECT 1").Run() }); err != nil {
		t.Fatal(err)
	}
	return psql, address
}

func pollFirestore(t *testing.T) poller {
	host, project := emulator.Firestore(t), emulator.Project()
	program := filepath.Join(t.TempDir(), "pollfirestore")
	if err := build(program, filepath.Join(root, "examples", "pollfirestore")); err != nil {
		t.Fatal(err)
	}
	client, err := firestore.NewClient(t.Context(), project, option.WithEndpoint(host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return poller{
		args: []string{program}, environment: []string{"FIRESTORE_EMULATOR_HOST=" + host, "GOOGLE_CLOUD_PROJECT=" + project}, together: true,
		effects: func() (map[string]int, error) {
			docs, err := client.Collection("effects").Documents(t.Context()).GetAll()
			effects := map[string]int{}
			for _, d := range docs {
				var effect struct {
					Message string `firestore:"message"`
					Parts   int    `firestore:"parts"`
					Data    []byte `firestore:"data"`
				}
				if err := d.DataTo(&effect); err != nil {
					return nil, err
				}
				whole := ""
				for i := range effect.Parts {
					part, err := client.Doc(fmt.Sprintf("parts/%s-%d", effect.Message, i)).Get(t.Context())
					if err != nil {
						return nil, err
					}
					data, _ := part.Data()["data"].([]byte)
					whole += string(data)
				}
				effects[whole+string(effect.Data)]++
			}
			return effects, err
		},
	}
}
