//go:build unix

package examples

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
)

// readme returns the scripts of an example's README.md, which people paste into a
// terminal each.
func readme(t *testing.T, example string) (scripts []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "examples", example, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)\n```").FindAllStringSubmatch(string(text), -1) {
		scripts = append(scripts, block[1])
	}
	return scripts
}

// TestOrders walks through the README of examples/orders.
func TestOrders(t *testing.T) {
	t.Parallel()
	need.Program(t, "curl")
	scripts := readme(t, "orders")
	if len(scripts) != 4 {
		t.Fatalf("the README has %d scripts", len(scripts))
	}
	at := port.Reserve(t)
	w := &walk{project: emulator.Project(), credentials: google.AccountKey(t)}
	replace := []string{"127.0.0.1:8090", emulator.Firestore(t), "go run ./scripts/pushinbox local", thisMachine.command + " local --port 0 --pubsub-port 0 --format json --quiet --data " + filepath.Join(t.TempDir(), "data"),
		"projects/local/", "projects/" + w.project + "/", "PROJECT=local", "PROJECT=" + w.project, ":8087", ":" + at, "PORT=8087", "PORT=" + at}
	w.here = strings.NewReplacer(replace...)
	running := w.background(t, scripts[0])
	running.prints(t, "\n")
	var here stack.Addresses
	if err := json.Unmarshal([]byte(strings.SplitN(running.printed(), "\n", 2)[0]), &here); err != nil {
		t.Fatal(err)
	}
	w.here = strings.NewReplacer(append(replace, "127.0.0.1:8085", here.PubSubEmulatorHost,
		"go run ./scripts/pushinbox run", thisMachine.command+" run --data "+here.Data)...)
	w.background(t, scripts[1])
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := port.Listening(ctx, at); err != nil {
		t.Fatal(err)
	}
	// publish runs a script, and waits until the customer has so many orders: the last one
	// that was published is then the last one.
	publish := func(script string, orders, cents int) {
		t.Helper()
		if out, err := w.script(t, script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var customer struct {
			Fields struct {
				Orders, Cents struct{ IntegerValue string }
				Last          struct{ StringValue string }
			}
		}
		if err := port.Until(ctx, func() error {
			out, err := w.script(t, scripts[3]).CombinedOutput()
			if err == nil {
				err = json.Unmarshal(out, &customer)
			}
			if err != nil || customer.Fields.Orders.IntegerValue != strconv.Itoa(orders) {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := customer.Fields; got.Cents.IntegerValue != strconv.Itoa(cents) || got.Last.StringValue != fmt.Sprintf("o-%d", orders) {
			t.Errorf("the customer's %d orders are %+v, want %d cents", orders, got, cents)
		}
	}
	publish(scripts[2], 2, 2000)
	var burst []string
	for i := 3; i <= 30; i++ {
		order := fmt.Sprintf(`{"number": "o-%d", "cents": 1}`, i)
		burst = append(burst, fmt.Sprintf(`{"orderingKey": "c-1", "data": %q}`, base64.StdEncoding.EncodeToString([]byte(order))))
	}
	publish(`curl -H 'Content-Type: application/json' -d '{"messages": [`+strings.Join(burst, ",")+`]}' http://127.0.0.1:8085/v1/projects/local/topics/orders:publish`, 30, 2028)
}

// TestListenReadme walks through the README of examples/listen.
func TestListenReadme(t *testing.T) {
	t.Parallel()
	scripts := readme(t, "listen")
	if len(scripts) != 2 {
		t.Fatalf("the README has %d scripts", len(scripts))
	}
	push(t, "listen-readme", local.Receive+"/wrapped", local.Receive, "said before it listened")
	at := port.Reserve(t)
	w := &walk{project: local.Project, credentials: google.AccountKey(t), here: strings.NewReplacer(":3000", ":"+at, "PORT=3000", "PORT="+at,
		"go run ./scripts/pushinbox run", thisMachine.command+" run --data "+thisMachine.data,
		"go run ./scripts/pushinbox listen", "XDG_CONFIG_HOME="+t.TempDir()+" "+thisMachine.command+" listen --data "+thisMachine.data+" --url "+local.URL)}
	program := w.background(t, scripts[0])
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := port.Listening(ctx, at); err != nil {
		t.Fatal(err)
	}
	w.background(t, scripts[1])
	program.prints(t, "said before it listened")
}
