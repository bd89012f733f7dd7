package delivery

import "testing"

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
		"https://r.example/wrapped":                       "https://r.example/wrapped",
		"https://r.example/wrapped?token=s3cret":          "https://r.example/wrapped?token=…",
		"https://r.example/?a=b&token=s3cret&token=other": "https://r.example/?a=b&token=…&token=…",
		"https://r.example/?t%6Fken=s3cret":               "https://r.example/?token=…",
		"https://r.example/?%zz=s3cret&tokens=1":          "https://r.example/?token=…&tokens=1",
		"https://r.example/?token":                        "https://r.example/?token=…",
	} {
		if got := HideToken(endpoint); got != want {
			t.Errorf("HideToken(%q) = %q, want %q", endpoint, got, want)
		}
	}
}
