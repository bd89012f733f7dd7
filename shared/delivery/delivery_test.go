package delivery

import "testing"

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
