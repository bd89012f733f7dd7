// Package emulator starts Google's Firestore and Pub/Sub emulators for tests.
//
// Firestore and PubSub give each test process one emulator of each kind, shared
// by all of its tests: tests keep apart by using projects of their own, see
// Project. StartFirestore gives one test an emulator that it can cut off, stop
// and start again.
//
// The emulators come with gcloud (its components cloud-firestore-emulator and
// pubsub-emulator) and need Java 17 or later. Where they are missing tests
// skip, and fail when CI is set. Every emulator ends with the test process,
// however that ends.
package emulator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
)

// startTimeout is how long an emulator may take until it answers: about two
// seconds on an idle machine, a lot more on one that runs every package's
// tests at once.
const startTimeout = 90 * time.Second

// kind is one of Google's emulators.
type kind struct {
	name      string // as gcloud calls it: gcloud beta emulators NAME start
	env       string // names a running one
	component string // what to install
	jar       string // below the SDK's platform folder, a glob
	main      string // the class to run
	// Flags for the other ports it listens on. Left alone, it asks the system for
	// free ones and takes them a second later, when another may have them.
	ports []string
}

var (
	firestore = kind{
		name:      "firestore",
		env:       "FIRESTORE_EMULATOR_HOST",
		component: "cloud-firestore-emulator",
		jar:       "cloud-firestore-emulator/cloud-firestore-emulator.jar",
		main:      "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
		ports:     []string{"--websocket_port", "--webchannel_port"},
	}
	pubsub = kind{
		name:      "pubsub",
		env:       "PUBSUB_EMULATOR_HOST",
		component: "pubsub-emulator",
		jar:       "pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar",
		main:      "com.google.cloud.pubsub.testing.v1.Main",
	}
)

// Firestore returns host:port of a Firestore emulator: the one that
// FIRESTORE_EMULATOR_HOST names, or one that runs until this process ends. It
// skips the test when there is none to run, or fails it when CI is set.
func Firestore(tb testing.TB) string {
	tb.Helper()
	return shared(tb, firestore, sharedFirestore)
}

// PubSub is the same for Pub/Sub and PUBSUB_EMULATOR_HOST.
func PubSub(tb testing.TB) string {
	tb.Helper()
	return shared(tb, pubsub, sharedPubSub)
}

var (
	sharedFirestore = sync.OnceValues(func() (*process, error) { return firestore.start("") })
	sharedPubSub    = sync.OnceValues(func() (*process, error) { return pubsub.start("") })
	projects        atomic.Int64
)

// Project returns a project ID that no other test of this or another process
// uses, so that tests can share an emulator.
func Project() string {
	return fmt.Sprintf("test-%d-%d-%d", os.Getpid(), time.Now().Unix(), projects.Add(1))
}

func shared(tb testing.TB, k kind, start func() (*process, error)) string {
	tb.Helper()
	if host := os.Getenv(k.env); host != "" {
		return host
	}
	p, err := start()
	if err != nil {
		missing(tb, k, err)
	}
	return p.host
}

// missing ends a test that has no emulator.
func missing(tb testing.TB, k kind, err error) {
	tb.Helper()
	tb.Log(err)
	need.Missing(tb, fmt.Sprintf("Google's %s emulator does not run: install Java 17 or newer and gcloud's component %s, or set %s", k.name, k.component, k.env))
}

// process is a running emulator.
type process struct {
	host string
	stop func() // kills it and returns when it is gone
}

// start runs an emulator on free ports and returns when it answers. data, if
// not empty, is an export of Firestore's to begin with. An emulator that exits
// is given other ports, twice: not every system can keep a port from others
// until the emulator listens on it.
func (k kind) start(data string) (p *process, err error) {
	for range 3 {
		if p, err = k.startOnce(data); !errors.Is(err, errExited) {
			break
		}
	}
	return p, err
}

var errExited = errors.New("it exited before it answered")

func (k kind) startOnce(data string) (*process, error) {
	var ports []string
	release := func() {}
	for range 1 + len(k.ports) {
		number, one, err := port.Hold()
		if err != nil {
			release()
			return nil, err
		}
		before := release
		release = func() { one(); before() }
		ports = append(ports, strconv.Itoa(number))
	}
	argv, err := k.command(ports, data)
	if err != nil {
		release()
		return nil, err
	}
	var output tail
	kill, exited, err := spawn(argv, &output)
	if err != nil {
		release()
		return nil, err
	}
	stop := sync.OnceFunc(func() { kill(); release() })
	host := "127.0.0.1:" + ports[0]
	if err := ready(host, exited); err != nil {
		stop()
		return nil, fmt.Errorf("%w: %s", err, output.said())
	}
	return &process{host: host, stop: stop}, nil
}

// command returns what to run: Java on the emulator's jar, which starts about
// two seconds sooner than gcloud, or gcloud when the jar is not where it was.
//
// ports are the one it serves on and one for each of k.ports, which gcloud does
// not take.
func (k kind) command(ports []string, data string) ([]string, error) {
	sdk, err := SDKRoot()
	if err != nil {
		return nil, err
	}
	jars, _ := filepath.Glob(filepath.Join(sdk, "platform", k.jar)) // the pattern is constant and right
	if len(jars) == 0 {
		gcloud, err := exec.LookPath("gcloud")
		if err != nil {
			return nil, fmt.Errorf("%s is not below %s", k.jar, sdk)
		}
		argv := []string{gcloud, "beta", "emulators", k.name, "start", "--quiet", "--host-port=127.0.0.1:" + ports[0]}
		if data != "" {
			argv = append(argv, "--import-data="+data)
		}
		return argv, nil
	}
	java := filepath.Join(os.Getenv("JAVA_HOME"), "bin", "java")
	if os.Getenv("JAVA_HOME") == "" {
		if java, err = exec.LookPath("java"); err != nil {
			return nil, errors.New("java is not installed")
		}
	}
	argv := []string{java, "-Xmx1g", "-XX:+UseSerialGC", "-Duser.language=en"}
	if !measure.Full() {
		// The second compiler takes two fifths of the CPU of an emulator that ends soon.
		argv = append(argv, "-XX:TieredStopAtLevel=1")
	}
	argv = append(argv, "-cp", jars[len(jars)-1], k.main, "--host=127.0.0.1", "--port="+ports[0])
	for i, flag := range k.ports {
		argv = append(argv, flag+"="+ports[1+i])
	}
	if data != "" {
		argv = append(argv, "--import-data="+data)
	}
	return argv, nil
}

// SDKRoot returns the folder of the gcloud SDK. Following gcloud's own link costs nothing;
// asking gcloud costs a second, so it comes last.
var SDKRoot = sync.OnceValues(func() (string, error) {
	if root := os.Getenv("CLOUDSDK_ROOT_DIR"); root != "" {
		return root, nil
	}
	gcloud, err := exec.LookPath("gcloud")
	if err != nil {
		return "", errors.New("gcloud is not installed")
	}
	if path, err := filepath.EvalSymlinks(gcloud); err == nil {
		root := filepath.Dir(filepath.Dir(path))
		if info, err := os.Stat(filepath.Join(root, "platform")); err == nil && info.IsDir() {
			return root, nil
		}
	}
	out, err := exec.Command(gcloud, "info", "--format=value(installation.sdk_root)").Output()
	if err != nil {
		return "", fmt.Errorf("gcloud info: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// ready returns when the emulator at host answers, or the process exited.
func ready(host string, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), startTimeout, fmt.Errorf("it did not answer within %s", startTimeout))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	err := port.Until(ctx, func() error {
		select {
		case <-exited:
			return nil
		default:
		}
		resp, err := client.Get("http://" + host + "/")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	select {
	case <-exited:
		return errExited
	default:
		return err
	}
}

// tail keeps the last of an emulator's output, to say why it failed.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > tailSize {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailSize:]...)
	}
	return len(p), nil
}

// said returns the last lines that are not those of a Java stack.
func (t *tail) said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "\tat ") })
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
