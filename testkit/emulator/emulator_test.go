package emulator_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/testkit/emulator"
)

func TestShared(t *testing.T) {
	for name, host := range map[string]func(testing.TB) string{
		"firestore": emulator.Firestore,
		"pubsub":    emulator.PubSub,
	} {
		t.Run(name, func(t *testing.T) {
			first := host(t)
			if second := host(t); second != first {
				t.Errorf("a second call returned %s, want the same %s", second, first)
			}
			if status := get(t, "http://"+first+"/"); status != http.StatusOK {
				t.Errorf("the emulator answered %d, want 200", status)
			}
		})
	}
}

func TestHostFromEnvironment(t *testing.T) {
	t.Setenv("FIRESTORE_EMULATOR_HOST", "firestore.test:1")
	t.Setenv("PUBSUB_EMULATOR_HOST", "pubsub.test:2")
	if got := emulator.Firestore(t); got != "firestore.test:1" {
		t.Errorf("Firestore() = %q", got)
	}
	if got := emulator.PubSub(t); got != "pubsub.test:2" {
		t.Errorf("PubSub() = %q", got)
	}
}

func TestProjectsDiffer(t *testing.T) {
	if a, b := emulator.Project(), emulator.Project(); a == b {
		t.Errorf("Project() returned %q twice", a)
	}
}

const documents = "/v1/projects/demo/databases/(default)/documents/c"

func TestInstanceKeepsData(t *testing.T) {
	i := emulator.StartFirestore(t, "demo")
	host := i.Host()
	res, err := create("http://" + host + documents + "?documentId=a")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("creating a document: %s", res.Status)
	}

	i.Cut()
	if _, err := net.DialTimeout("tcp", host, time.Second); err == nil {
		t.Error("a cut emulator accepted a connection")
	}
	i.Restore()
	if status := get(t, "http://"+host+documents+"/a"); status != http.StatusOK {
		t.Errorf("after Cut and Restore the document answers %d, want 200", status)
	}
	for range 2 { // a second export must not meet the first
		i.Stop()
		if _, err := net.DialTimeout("tcp", host, time.Second); err == nil {
			t.Error("a stopped emulator accepted a connection")
		}
		i.Start()
		if status := get(t, "http://"+host+documents+"/a"); status != http.StatusOK {
			t.Errorf("after Stop and Start the document answers %d, want 200", status)
		}
	}
	i.Drop()
	if status := get(t, "http://"+host+documents+"/a"); status != http.StatusOK {
		t.Errorf("after Drop the document answers %d, want 200", status)
	}
}

// TestEndsWithProcess runs this test binary again, kills it with -9, and waits
// for its emulator to go.
func TestEndsWithProcess(t *testing.T) {
	if os.Getenv("EMULATOR_TEST_CHILD") != "" {
		os.Stdout.WriteString("host " + emulator.PubSub(t) + "\n")
		select {}
	}
	t.Setenv("PUBSUB_EMULATOR_HOST", "")
	emulator.PubSub(t) // skips here, where it is seen
	cmd := exec.Command(os.Args[0], "-test.run=^TestEndsWithProcess$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), "EMULATOR_TEST_CHILD=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	host, ok := strings.CutPrefix(strings.TrimSpace(line), "host ")
	if err != nil || !ok {
		cmd.Process.Kill()
		t.Fatalf("the child said %q, %v", line, err)
	}
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cmd.Process.Kill()
	cmd.Wait()
	// An open connection ends when the emulator does.
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the emulator outlived its process by 30 seconds")
	}
}

func get(t *testing.T, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer owner")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	return res.StatusCode
}

func create(url string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(`{"fields":{}}`))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer owner")
	req.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(req)
}

// TestStartsOnceMore puts a Java in front that loses its port the first time, as an
// emulator does whose port another took.
func TestStartsOnceMore(t *testing.T) {
	emulator.Firestore(t) // skips here, where it is seen
	sdk, err := emulator.SDKRoot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(sdk, "platform", "cloud-firestore-emulator", "cloud-firestore-emulator.jar")); err != nil {
		t.Skip("gcloud starts Java here, which is not given the ports")
	}
	java, err := exec.LookPath("java")
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java, err = filepath.Join(home, "bin", "java"), nil
	}
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/sh
echo "$*" >>` + home + `/calls
[ -e ` + home + `/second ] && exec ` + java + ` "$@"
touch ` + home + `/second
printf 'java.net.BindException: Address already in use\n\tat java.lang.Thread.run\n'
exit 1
`
	if err := os.WriteFile(filepath.Join(home, "bin", "java"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JAVA_HOME", home)
	instance := emulator.StartFirestore(t, "demo")
	if status := get(t, "http://"+instance.Host()+"/"); status != http.StatusOK {
		t.Errorf("the emulator answered %d, want 200", status)
	}
	calls, err := os.ReadFile(filepath.Join(home, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(calls)), "\n")
	if len(lines) != 2 {
		t.Errorf("Java was called %d times, want 2: %s", len(lines), calls)
	}
	for _, line := range lines {
		ports := regexp.MustCompile(`port=\d+`).FindAllString(line, -1)
		slices.Sort(ports)
		if len(slices.Compact(ports)) != 3 {
			t.Errorf("Java was called with %s, want three ports", line)
		}
	}
}
