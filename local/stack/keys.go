package stack

import (
	"fmt"
	"io"
	"net/http"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/verify"
)

// openIssuer opens the issuer, whose keys are in the data directory: programs that
// have read them need not do so again after a restart.
func (s *Stack) openIssuer() (err error) {
	if s.issuer, err = pushfake.NewIssuer(&pushfake.IssuerOptions{Dir: s.options.Data}); err != nil {
		return dataError(s.options.Data, err)
	}
	keys := s.issuer.Transport()
	if s.options.keys != nil {
		keys = s.options.keys(keys)
	}
	s.verifier, err = verify.New(&verify.Options{Transport: keys})
	// A new key is on its way to its file.
	s.onClose("the keys of the tokens", func() error {
		if _, err := s.issuer.IDToken(nil); err != nil {
			return dataError(s.options.Data, err)
		}
		return nil
	})
	return err
}

// serveKeys serves the issuer's public keys, for code in other languages that
// verifies its tokens: below /local where Google has them, in Google's two forms,
// with a discovery document.
func (s *Stack) serveKeys() {
	keys := s.issuer.Transport()
	s.handle("GET /local/certs", answerOf(keys, pushfake.CertsV3))
	s.handle("GET /local/oauth2/v3/certs", answerOf(keys, pushfake.CertsV3))
	s.handle("GET /local/oauth2/v1/certs", answerOf(keys, pushfake.CertsV1))
	s.handle("GET /local/.well-known/openid-configuration", http.HandlerFunc(discovery))
}

// answerOf serves what a transport answers for an address.
func answerOf(transport http.RoundTripper, address string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := httpapi.AllowMethods(w, r, http.MethodGet, http.MethodHead); err != nil {
			httpapi.WriteError(w, err)
			return
		}
		get, err := http.NewRequestWithContext(r.Context(), http.MethodGet, address, nil)
		var answer *http.Response
		if err == nil {
			answer, err = transport.RoundTrip(get)
		}
		if err != nil {
			httpapi.WriteError(w, &problem.Error{Status: http.StatusServiceUnavailable, Detail: "the key cannot be read; restart pushinbox local, which says why", Cause: err})
			return
		}
		for _, name := range []string{"Cache-Control", "Content-Type"} {
			w.Header().Set(name, answer.Header.Get(name))
		}
		w.Header().Set("Content-Length", fmt.Sprint(answer.ContentLength))
		_, _ = io.Copy(w, answer.Body)
	})
}

// discovery serves what an OpenID provider says of itself. The issuer is Google's,
// as in the tokens. The keys are at the address by which this one was asked, since a
// container calls this machine by another name.
func discovery(w http.ResponseWriter, r *http.Request) {
	httpapi.WriteJSON(w, http.StatusOK, map[string]any{
		"issuer":                                "https://accounts.google.com",
		"jwks_uri":                              "http://" + r.Host + "/local/oauth2/v3/certs",
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"claims_supported":                      []string{"aud", "azp", "email", "email_verified", "exp", "iat", "iss", "sub"},
	})
}
