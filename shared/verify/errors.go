package verify

import (
	"net/http"

	"example.com/pushinbox/shared/problem"
)

// The reasons with status 401: there is no credential, or one that proves
// nothing. What a Verifier returns may wrap one of them together with its
// cause, which is for the log only; tell them apart with errors.Is.
var (
	// ErrNoToken: there is no Authorization header, or no token in it.
	ErrNoToken = problem.Named("no_token", http.StatusUnauthorized,
		`the request carries no token; send a Google ID token as "Authorization: Bearer TOKEN"`)
	// ErrNoAssertion: there is no x-goog-iap-jwt-assertion header, or it is empty.
	ErrNoAssertion = problem.Named("no_assertion", http.StatusUnauthorized,
		"the request did not come through Identity-Aware Proxy: it carries no x-goog-iap-jwt-assertion; use the address that IAP protects")
	// ErrRepeated: the header with the credential occurs more than once.
	ErrRepeated = problem.Named("repeated_credential", http.StatusUnauthorized,
		"the request carries more than one credential; send the header exactly once")
	// ErrScheme: the Authorization header's scheme is not Bearer.
	ErrScheme = problem.Named("scheme", http.StatusUnauthorized,
		`the authorization scheme is not Bearer; send a Google ID token as "Authorization: Bearer TOKEN"`)
	// ErrTooLarge: the token is longer than MaxTokenSize.
	ErrTooLarge = problem.Named("token_too_large", http.StatusUnauthorized,
		"the token is larger than 8 KiB, and no Google token is; send the ID token and nothing else")
	// ErrMalformed: the credential is not a JWT as Google writes them.
	ErrMalformed = problem.Named("malformed_token", http.StatusUnauthorized,
		"the token is not a well-formed JWT; send the ID token exactly as Google gave it")
	// ErrAlgorithm: the header names another algorithm than the route's.
	ErrAlgorithm = problem.Named("algorithm", http.StatusUnauthorized,
		"the token is not signed with the one algorithm allowed here: RS256 for a Google ID token, ES256 for an IAP assertion; send a token signed by Google")
	// ErrKeyID: the token's header names no key, or one that is not in Google's set.
	ErrKeyID = problem.Named("key_id", http.StatusUnauthorized,
		"the token names no key, or one that is not among Google's current keys; get a new token from Google")
	// ErrSignature: the signature is not one of the named key over this token.
	ErrSignature = problem.Named("signature", http.StatusUnauthorized,
		"the token's signature is not valid; send the ID token exactly as Google gave it")
	// ErrSignatureRemoved: the platform in front of the function cut the
	// signature off. Cloud Run does so once it has checked the token itself.
	ErrSignatureRemoved = problem.Named("signature_removed", http.StatusUnauthorized,
		"the token's signature reads SIGNATURE_REMOVED_BY_GOOGLE: the platform checked the token and cut the signature off, because the function is deployed private; this function verifies for itself, so deploy it to be invoked by anyone (--allow-unauthenticated)")
	// ErrExpired: the token's exp has passed. Only IAP's has a leeway, IAPSkew.
	ErrExpired = problem.Named("expired", http.StatusUnauthorized,
		"the token has expired; get a new one")
	// ErrNoExpiry: the token has no exp.
	ErrNoExpiry = problem.Named("no_expiry", http.StatusUnauthorized,
		"the token has no expiry (exp), so it proves nothing; get a new one from Google")
	// ErrLife: the token's exp is not after its iat and its nbf, or more than
	// MaxLife after its iat.
	ErrLife = problem.Named("token_life", http.StatusUnauthorized,
		"the token's life, from its issue time (iat) to its expiry (exp), is negative or longer than 25 hours, and no Google token's is; get a new one from Google")
	// ErrNotYetValid: the token's iat is missing or further ahead than
	// ClockSkew or IAPSkew, or its nbf is.
	ErrNotYetValid = problem.Named("not_yet_valid", http.StatusUnauthorized,
		"the token's issue time (iat) is missing, or it or nbf is more than 10 seconds (IAP: 30) ahead of this service's clock; check the sender's clock and get a new token")
)

// The reasons with status 403: a genuine credential of the wrong party.
var (
	// ErrIssuer: another party issued the token.
	ErrIssuer = problem.Named("issuer", http.StatusForbidden,
		"the token's issuer (iss) is not one that is trusted here: https://accounts.google.com for a Google ID token (accounts.google.com too, except for pushes), https://cloud.google.com/iap for an IAP assertion")
	// ErrAudience: the token is for somebody else, or its audience is not one
	// non-empty string. idtoken cannot read a token whose audience is a list,
	// so that one is refused before its signature is proven.
	ErrAudience = problem.Named("audience", http.StatusForbidden,
		"the token's audience (aud) is not this service; get a token for exactly the audience that the service is configured with")
	// ErrEmail: the token is of an account that the policy does not name.
	ErrEmail = problem.Named("email", http.StatusForbidden,
		"the token's account (email) is not one that may call this service; use an allowed account, or ask who runs this service to add this one")
	// ErrEmailNotVerified: Google does not vouch for the e-mail address.
	ErrEmailNotVerified = problem.Named("email_not_verified", http.StatusForbidden,
		"the token's email is not verified (email_verified is not true); ask for a token that includes the verified email")
	// ErrSecret: the query's token is missing, repeated or wrong.
	ErrSecret = problem.Named("shared_token", http.StatusForbidden,
		"the shared token is missing or wrong; send it exactly once, as ?token=SECRET")
)

// The reasons that are not the sender's fault.
var (
	// ErrKeysUnavailable: Google's keys cannot be fetched and there are no
	// earlier ones left to fall back on. The request may be fine; it should
	// be sent again.
	ErrKeysUnavailable = problem.Named("keys_unavailable", http.StatusServiceUnavailable,
		"the keys to verify the token with cannot be fetched at the moment; try again")
	// ErrPolicy: the caller of this package required nothing: no audience, no
	// e-mail or no secret to compare with. Everything is refused then.
	ErrPolicy = problem.Named("policy", http.StatusInternalServerError,
		"the service is not configured to trust anyone, so it refuses everyone; set its audience and its e-mail addresses")
)
