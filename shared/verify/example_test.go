package verify_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/verify"
)

// A push endpoint that lets nobody in but one subscription's service account.
// The request here carries no token.
func ExampleVerifier_IDToken() {
	verifier, err := verify.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	policy := verify.Policy{
		Audience: "https://receive-1234.europe-west1.run.app",
		Emails:   []string{"push@my-project.iam.gserviceaccount.com"},
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		claims, err := verifier.IDToken(r, policy)
		if err != nil {
			status, detail := problem.Of(err)
			http.Error(w, detail, status) // err itself is for the log only
			return
		}
		fmt.Fprintln(w, "pushed by", claims.Email)
	}

	w := httptest.NewRecorder()
	handler(w, httptest.NewRequest(http.MethodPost, "/", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output:
	// 401 the request carries no token; send a Google ID token as "Authorization: Bearer TOKEN"
}

// A secret in the endpoint's address, in addition to the token.
func ExampleSecret() {
	right := httptest.NewRequest(http.MethodPost, "/?token=s3cret", nil)
	wrong := httptest.NewRequest(http.MethodPost, "/?token=guess", nil)
	fmt.Println(verify.Secret(right, "s3cret"))
	fmt.Println(errors.Is(verify.Secret(wrong, "s3cret"), verify.ErrSecret))
	// Output:
	// <nil>
	// true
}
