package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/testkit/google"
	"example.com/pushinbox/testkit/roundtrip"
)

// googleFor returns the variables by which a program finds a Google that creates ID
// tokens of the running pushinbox local for its developer, and for nobody else.
func googleFor(t *testing.T, l *running) []string {
	t.Helper()
	answer := func(status int, body string) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}
	}
	internet := google.NewInternet(t, map[string]http.RoundTripper{
		"oauth2.googleapis.com": roundtrip.Func(func(*http.Request) (*http.Response, error) {
			return answer(200, `{"access_token":"mine","token_type":"Bearer","expires_in":3600}`), nil
		}),
		"iamcredentials.googleapis.com": roundtrip.Func(func(r *http.Request) (*http.Response, error) {
			var asked struct {
				Audience     string
				IncludeEmail bool
			}
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
				return nil, err
			}
			account := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v1/projects/-/serviceAccounts/"), ":generateIdToken")
			if account != stack.Developer || !asked.IncludeEmail || r.Header.Get("Authorization") != "Bearer mine" {
				return answer(403, `{"error":{"code":403,"message":"no permission for `+account+`"}}`), nil
			}
			token := l.get(t, "/local/token?"+url.Values{"for": {"console"}, "aud": {asked.Audience + "/"}, "email": {account}}.Encode())
			return answer(200, fmt.Sprintf(`{"token":%q}`, strings.TrimSpace(string(token)))), nil
		}),
	})
	credentials := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(credentials, []byte(`{"type":"authorized_user","client_id":"i","client_secret":"s","refresh_token":"r"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return append(internet.Environment, "GOOGLE_APPLICATION_CREDENTIALS="+credentials)
}

// TestDeployedConsoleInABrowser puts pushinbox console in front of a console
// that wants an ID token of Google's.
func TestDeployedConsoleInABrowser(t *testing.T) {
	t.Parallel()
	l := start(t, t.TempDir())
	environment := append(os.Environ(), googleFor(t, l)...)
	console := func(account string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), command, "console", "--url", l.base, "--account", account, "--port", "0")
		cmd.Env = environment
		return cmd
	}
	if out, err := console("stranger@p").CombinedOutput(); err == nil || !strings.Contains(string(out), "no permission for stranger@p; you need the role") {
		t.Errorf("without a token: %v %s", err, out)
	}

	cmd := console(stack.Developer)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, login, _ := strings.Cut(strings.TrimSpace(line), " is at ")
	if line, err = lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	file := regexp.MustCompile(`curl -H @(\S+) `).FindStringSubmatch(line)[1]
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	header, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := url.Parse(login)
	if err != nil || !strings.HasSuffix(opened.Hostname(), ".localhost") {
		t.Fatal(login, err)
	}
	base, origin := "http://127.0.0.1:"+opened.Port(), "http://"+opened.Host
	answer := func(method, path, body string, header ...string) *http.Response {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		t.Cleanup(cancel)
		r, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = opened.Host // as a browser that resolves it to loopback
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Host" {
				r.Host = header[i+1]
			}
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	in := answer(http.MethodGet, opened.RequestURI(), "", "Sec-Fetch-Site", "none")
	cookies := in.Cookies()
	if in.StatusCode != http.StatusSeeOther || in.Header.Get("Location") != "/" || in.Header.Get("Referrer-Policy") != "no-referrer" ||
		len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || cookies[0].Domain != "" ||
		strings.Contains(login, cookies[0].Value) {
		t.Fatalf("signing in: %d %v", in.StatusCode, in.Header)
	}
	cookie := cookies[0].Name + "=" + cookies[0].Value
	ask := func(method, path, body string, header ...string) (int, string) {
		resp := answer(method, path, body, append([]string{"Cookie", cookie}, header...)...)
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if status, body := ask(http.MethodGet, "/", "", "Accept", "text/html"); status != 200 || !strings.Contains(body, "Signed in as</span> <bdi>"+stack.Developer) {
		t.Errorf("the page: %d %s", status, body)
	}
	if status, body := ask(http.MethodPost, "/messages", "payload=hi", "Content-Type", "application/x-www-form-urlencoded", "Origin", origin, "Sec-Fetch-Site", "same-origin"); status != 200 {
		t.Errorf("publishing from the page: %d %s", status, body)
	}
	for name, test := range map[string]struct {
		path, cookie string
		header       []string
		want         int
	}{
		"another_site":            {"/messages", cookie, []string{"Origin", "https://evil.example"}, 403},
		"another_port":            {"/messages", cookie, []string{"Origin", "http://" + opened.Hostname() + ":1"}, 403},
		"cross_site":              {"/messages", cookie, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"rebound_name":            {"/messages", cookie, []string{"Host", "evil.example"}, 403},
		"another_localhost":       {"/messages", cookie, []string{"Host", "evil.localhost"}, 403},
		"nothing":                 {"/messages", "", nil, 401},
		"nothing_by_address":      {"/messages", "", []string{"Host", "127.0.0.1"}, 401},
		"wrong_cookie":            {"/messages", cookie + "0", nil, 401},
		"key_as_cookie":           {"/messages", cookies[0].Name + "=" + opened.Query().Get("key"), nil, 401},
		"cookie_by_address":       {"/messages", cookie, []string{"Host", "127.0.0.1"}, 401},
		"cookie_by_localhost":     {"/messages", cookie, []string{"Host", "localhost"}, 401},
		"key_in_query":            {"/messages?" + opened.RawQuery, "", nil, 401},
		"wrong_header":            {"/messages", "", []string{"Authorization", "Bearer x"}, 401},
		"wrong_key":               {"/login?key=x", "", nil, 401},
		"no_key":                  {"/login", "", nil, 401},
		"login_by_address":        {opened.RequestURI(), "", []string{"Host", "127.0.0.1"}, 403},
		"login_from_another_site": {opened.RequestURI(), "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"header":                  {"/messages", "", []string{"Authorization", strings.TrimSpace(strings.TrimPrefix(string(header), "Authorization: ")), "Host", "localhost"}, 200},
	} {
		resp := answer(http.MethodGet, test.path, "", append([]string{"Cookie", test.cookie}, test.header...)...)
		if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != test.want || strings.Contains(string(b), opened.Query().Get("key")) {
			t.Errorf("%s: %d %s, %v", name, resp.StatusCode, b, err)
		}
	}
	resp := answer(http.MethodGet, "/events", "", "Cookie", cookie)
	defer resp.Body.Close()
	if _, err := io.ReadAtLeast(resp.Body, make([]byte, 20), 20); err != nil {
		t.Errorf("the live feed: %v", err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the key's file after the end: %v", err)
	}
}
