package delivery

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestHideTokens(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"the inbox cannot be reached":                                          "the inbox cannot be reached",
		`Post "http://r.example/wrapped?a=b&token=s3cret": connection refused`: `Post "http://r.example/wrapped?a=b&token=…": connection refused`,
		`http://r/?t%6Fken=s3cret and http://r/?token=s3cret&x=1`:              `http://r/?token=… and http://r/?token=…&x=1`,
		"?%zz=s3cret": "?token=…",
		"?token=":     "?token=…",
	} {
		if got := HideTokens(text); got != want {
			t.Errorf("HideTokens(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestHideToken(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"https://r.example/wrapped":                        "https://r.example/wrapped",
		"https://r.example/wrapped?token=s3cret":           "https://r.example/wrapped?token=…",
		"https://r.example/?a=b&token=s3cret&token=other":  "https://r.example/?a=b&token=…&token=…",
		"https://r.example/?t%6Fken=s3cret":                "https://r.example/?token=…",
		"https://r.example/?%zz=s3cret&a=1":                "https://r.example/?token=…&a=1",
		"https://r.example/?TOKEN=s3cret&a=1;token=s3cret": "https://r.example/?TOKEN=…&a=1;token=…",
		"https://r.example/?api_key=s3cret&sig=s3cret&x=1": "https://r.example/?api_key=…&sig=…&x=1",
		"https://user:s3cret@r.example/p?x=1":              "https://…@r.example/p?x=1",
		"https://s3cret@r.example":                         "https://…@r.example",
		"https://r.example/?token":                         "https://r.example/?token=…",
	} {
		if got := HideToken(endpoint); got != want {
			t.Errorf("HideToken(%q) = %q, want %q", endpoint, got, want)
		}
	}
}

// FuzzHideToken has any address, alone and in a text, show nothing of its shared token.
func FuzzHideToken(f *testing.F) {
	f.Add("https://receive.example/wrapped", "a=b&token=%s#x", "marker-token")
	f.Add("https://user:pass@receive.example", "%%74oken=%s;token=%s&TOKEN=", "a+b/c==")
	f.Fuzz(func(t *testing.T, base, query, token string) {
		secret := url.QueryEscape(token)
		if len(secret) < 8 || strings.Contains(strings.ReplaceAll(base+query, "%s", ""), secret) {
			return
		}
		address := base + "?" + strings.ReplaceAll(query, "%s", secret)
		u, err := url.Parse(address)
		if err != nil || !u.Query().Has("token") || !slices.Contains(u.Query()["token"], token) {
			return
		}
		// What else the address has of it is no parameter's value.
		if n := strings.Count(address, secret); n != len(u.Query()["token"]) {
			return
		}
		for _, shown := range []string{HideToken(address), HideTokens("cannot reach " + address + ": refused")} {
			if strings.Contains(shown, secret) {
				t.Fatalf("%q is shown as %q", address, shown)
			}
		}
	})
}
