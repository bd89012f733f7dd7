package verify

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/url"
)

// Secret checks that the request's query holds exactly one token parameter
// and that it equals want. It fails with ErrSecret, or with ErrPolicy when
// want is empty. The time it takes says nothing about want, its length
// included, because digests are compared.
//
// A secret in an address ends up in the logs of everything on its way: it is
// an addition to IDToken and no replacement for it.
func Secret(r *http.Request, want string) error {
	if want == "" {
		return fmt.Errorf("%w: the shared secret to compare with is empty", ErrPolicy)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		// The cause would quote a piece of the query, perhaps of the secret.
		return fmt.Errorf("%w: the query cannot be parsed", ErrSecret)
	}
	tokens := query["token"]
	if len(tokens) != 1 {
		return fmt.Errorf("%w: %d token parameters", ErrSecret, len(tokens))
	}
	got, expected := sha256.Sum256([]byte(tokens[0])), sha256.Sum256([]byte(want))
	if subtle.ConstantTimeCompare(got[:], expected[:]) != 1 {
		return ErrSecret
	}
	return nil
}
