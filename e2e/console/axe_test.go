package console

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"example.com/pushinbox/testkit/measure"
	"example.com/pushinbox/testkit/need"
)

// axeVersion is the version of axe-core, which npm brings when this test runs;
// nothing of it is shipped.
const axeVersion = "4.14.1"

// axe returns axe-core's script.
func axe(t *testing.T) string {
	t.Helper()
	need.Program(t, "npm")
	dir := t.TempDir()
	pack := exec.Command("npm", "pack", "--silent", "axe-core@"+axeVersion)
	pack.Dir = dir
	if out, err := pack.CombinedOutput(); err != nil {
		t.Logf("npm pack: %v\n%s", err, out)
		need.Missing(t, "npm cannot get axe-core: let it reach its registry")
	}
	f, err := os.Open(filepath.Join(dir, "axe-core-"+axeVersion+".tgz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(unzipped); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			t.Fatal("axe.min.js is not in the package")
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "package/axe.min.js" {
			script, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			return string(script)
		}
	}
}

// look is how a page is shown.
type look struct {
	theme string
	size  size
}

// looks are both themes on a desk and on a phone: each with each with -full, and without
// each once.
func looks() []look {
	return measure.Size([]look{{"light", desk}, {"dark", phone}}, []look{{"light", desk}, {"dark", phone}, {"light", phone}, {"dark", desk}})
}

// TestAccessible runs axe-core on every page, in both themes, on a desk and on a
// phone.
func TestAccessible(t *testing.T) {
	t.Parallel()
	script := axe(t)
	s := start(t)
	empty := start(t)
	attributes := map[string]string{}
	for i := range 15 {
		attributes[fmt.Sprint("k", i)] = "v"
	}
	s.publish(t, message{Data: []byte(`{"a":[1,{"b":null}]}`), Attributes: attributes, OrderingKey: "o"})
	s.stored(t, 1)
	s.pushBody(t, `{"message": "which cannot be decoded"`)
	all := s.stored(t, 2)
	for _, look := range looks() {
		w := s.open(t, look.size, theme(look.theme))
		ran := 0
		run := func(what string) {
			t.Helper()
			w.axe(script, fmt.Sprintf("%s, %s, %d px", what, look.theme, look.size.width))
			ran++
		}
		w.live()
		w.do(chromedp.Click("#publish summary"), chromedp.SendKeys("#attributes", "x"), chromedp.Click("#publish-form button"))
		w.until(`document.querySelector("#publish-result.bad")?.textContent.startsWith("Refused")`)
		run("list")
		w.search("since:yesterday")
		w.do(chromedp.Click("#fields summary"))
		run("refused search")
		for i, m := range all {
			w.visit("/messages/" + m.ID + "?end=older")
			w.slash()
			w.keys("a")
			run(fmt.Sprint("message ", i))
		}
		w.do(chromedp.Click("#replay"))
		w.until(`document.querySelector("dialog").open`)
		run("replay dialog")
		w.visit("/messages/none")
		run("error")
		e := empty.open(t, look.size, theme(look.theme))
		e.live()
		w = e
		run("empty list")
		if ran != 7 {
			t.Errorf("axe ran %d times", ran)
		}
	}
}

// axe runs axe-core on what the window shows.
func (w *window) axe(script, what string) {
	w.t.Helper()
	w.until(`document.getAnimations().length === 0`)
	w.do(chromedp.Evaluate[chromedp.Void](script))
	found := eval[[]string](w, `axe.run(document).then(r => {
		if (r.passes.length < 10) throw new Error("axe checked only " + r.passes.length + " rules");
		return r.violations.filter(v => v.impact === "serious" || v.impact === "critical")
			.flatMap(v => v.nodes.map(n => v.impact + " " + v.id + ": " + n.html.slice(0, 120) + ": " + n.failureSummary));
	})`)
	for _, f := range found {
		w.t.Errorf("%s: %s", what, strings.ReplaceAll(f, "\n", " "))
	}
}
