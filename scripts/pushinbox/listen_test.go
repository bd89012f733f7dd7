package main

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/oauth2"
)

// tokenSource makes a function an oauth2.TokenSource.
type tokenSource func() (*oauth2.Token, error)

func (f tokenSource) Token() (*oauth2.Token, error) { return f() }

// TestBearerKeepsNoToken holds that a token that its source has renewed is sent at once:
// the source returns one until it ends, which may be soon.
func TestBearerKeepsNoToken(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	n := 0
	header := bearer(tokenSource(func() (*oauth2.Token, error) {
		if n++; n > 2 {
			return nil, refused
		}
		return &oauth2.Token{AccessToken: fmt.Sprint("token-", n)}, nil
	}))
	for _, want := range []string{"Bearer token-1", "Bearer token-2"} {
		if got, err := header(t.Context()); err != nil || got != want {
			t.Errorf("the header is %q, %v, want %q", got, err, want)
		}
	}
	if got, err := header(t.Context()); !errors.Is(err, refused) || got != "" {
		t.Errorf("without a token the header is %q, %v", got, err)
	}
}
