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
// want is empty. SameSecret compares them.
//
// A secret in an address ends up in the logs of everything on its way: use it
// in addition to IDToken and never alone.
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
		return fmt.Errorf("%w: the query has %d token parameters, not one", ErrSecret, len(tokens))
	}
	if !SameSecret(tokens[0], want) {
		return ErrSecret
	}
	return nil
}

// SameSecret reports whether two secrets are equal. The time it takes says
// nothing about either, their lengths included, because digests are compared.
func SameSecret(got, want string) bool {
	g, w := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(g[:], w[:]) == 1
}
