package shell_test

import (
	"testing"

	"example.com/pushinbox/shared/shell"
)

func TestQuote(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"inbox-push": "inbox-push", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "~/data": "'~/data'", "a\nb": "'a\nb'",
		"ann@example.com": "ann@example.com", "https://a.example/x?y": "'https://a.example/x?y'",
		"--filter=a b": "--filter='a b'", "--filter=": "--filter=", "--a b=c": "'--a b=c'", "a=b c": "'a=b c'",
	} {
		if got := shell.Quote(arg); got != want {
			t.Errorf("Quote(%q) = %s, want %s", arg, got, want)
		}
	}
}
