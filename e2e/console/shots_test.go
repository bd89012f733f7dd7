package console

import (
	"bytes"
	"flag"
	"image/png"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

var screenshots = flag.String("screenshots", "", "the directory to write the README's screenshots to")

// TestScreenshots takes the README's pictures. They are written only when asked
// for, since pictures of the same page differ between machines.
func TestScreenshots(t *testing.T) {
	s := start(t, "INBOX_SEARCH_ATTRIBUTES=kind,schema")
	run := func(args ...string) {
		if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v %s", args, err, out)
		}
	}
	run("calendar", "watch", "--local", "--port", s.port, "demo")
	resp, err := http.Post(s.base+"/local/calendar/events", "application/json",
		strings.NewReader(`{"summary": "Quarterly review", "start": {"date": "2026-12-01"}, "end": {"date": "2026-12-02"}}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	s.stored(t, 1)
	run("mns", "create-topic", "--endpoint", s.base+"/local/mns", "shipments")
	run("mns", "subscribe", "--endpoint", s.base+"/local/mns", "shipments", s.base+"/mns")
	run("mns", "publish", "--endpoint", s.base+"/local/mns", "shipments", `{"parcel":"HZ-20418","state":"customs"}`)
	s.stored(t, 2)
	for i, body := range []string{
		`{"invoice":"2026-1180","state":"paid","amount":{"value":"129.00","currency":"EUR"}}`,
		`{"device":"thermostat-14","celsius":21.5,"battery":0.81}`,
		`Backup of orders-db finished: 41,233 rows in 12.4 s`,
		`{"user":"u-7731","event":"signed-in","from":"Lisbon"}`,
		"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00",
		`{"order":"A-10441","items":[{"sku":"mug-blue","quantity":2},{"sku":"tea-earl-grey","quantity":1}],"total":{"value":"31.80","currency":"EUR"},"gift":true}`,
	} {
		s.publish(t, message{Data: []byte(body), Attributes: map[string]string{"kind": []string{"billing", "telemetry", "backup", "audit", "image", "order"}[i], "schema": "v2"}, OrderingKey: "customer-88"})
		s.stored(t, i+3)
	}
	for _, name := range []string{"light", "dark"} {
		w := s.open(t, size{1200, 640}, theme(name))
		w.live()
		w.shoot("list-" + name)
		w.visit("/messages/" + w.rows()[0])
		w.shoot("message-" + name)
		if name == "light" {
			w.visit("/")
			w.search("since:2h customs")
			w.do(chromedp.Click("#fields summary"))
			w.shoot("search")
		}
	}
	w := s.open(t, phone, theme("light"))
	w.live()
	w.shoot("phone")
}

// shoot takes a picture of the window, without new rows' highlight.
func (w *window) shoot(name string) {
	w.t.Helper()
	w.until(`document.getAnimations().length === 0`)
	picture, err := chromedp.Run(w.Context, chromedp.CaptureScreenshot())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(picture)); err != nil {
		w.t.Fatal(err)
	}
	if *screenshots != "" {
		if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), picture, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}
