package console

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"example.com/pushinbox/testkit/need"
	"example.com/pushinbox/testkit/port"
)

// TestSignInWithAKey opens the printed address of a run that other machines can
// reach, whose name the browser resolves by itself.
func TestSignInWithAKey(t *testing.T) {
	t.Parallel()
	need.Program(t, "chromium")
	cmd := exec.CommandContext(t.Context(), command, "local", "--port", port.Reserve(t), "--data", t.TempDir(), "--quiet", "--host", "0.0.0.0")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	login := ""
	for lines := bufio.NewScanner(said); login == "" && lines.Scan(); {
		_, login, _ = strings.Cut(lines.Text(), "browsers: ")
	}
	base, path, found := strings.Cut(login, "/login")
	if !found {
		t.Fatalf("the address is %q", login)
	}
	w := openAt(t, base, desk) // refused
	w.visit("/login" + path)
	w.live()
	if at := eval[string](w, `location.href + " from " + document.referrer`); at != base+"/ from " {
		t.Errorf("after signing in the page is at %s", at)
	}
	if cookies := eval[string](w, `document.cookie`); cookies != "" {
		t.Errorf("scripts can read %q", cookies)
	}
	w.do(
		chromedp.Click("#publish summary"),
		chromedp.SendKeys("#payload", "Hello with a key"),
		chromedp.Click("#publish-form button"),
	)
	w.until(`document.querySelector("#rows tr")?.innerText.includes("Hello with a key")`)
}
