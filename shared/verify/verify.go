// Package verify answers one question about a request: who sent it?
//
// It completes google.golang.org/api/idtoken. idtoken proves a Google ID token's
// signature and expiry; this package adds what must be refused before
// (several credentials, other algorithms, other people's keys), what must be
// compared after (issuer, lifetime, audience, e-mail), a transport for
// Google's keys that survives an outage, and a cache, because Google's clients
// send the same token for up to an hour. It verifies the assertions of
// Identity-Aware Proxy itself, since idtoken knows nothing of the 30 seconds of
// clock skew that Google documents for them.
//
// Keys that Google uses before the fetched set expires are fetched as soon as a
// token names one, at most once a minute.
//
// A bearer token is not bound to a request: whoever holds it can send it until
// it expires. Revoked keys are trusted until the fetched set expires (Google's
// max-age, about six hours), and four hours longer while Google's key endpoint
// cannot be reached; that a token was proven before makes it no longer.
package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"example.com/pushinbox/shared/expiry"
)

const (
	// MaxTokenSize is the length of the longest token that is read, in bytes. Google's are
	// about one thousand.
	MaxTokenSize = 8 << 10
	// ClockSkew is how far ahead of this clock the iat and nbf of a Google ID
	// token may be. Its expiry has no leeway.
	ClockSkew = 10 * time.Second
	// IAPSkew is how far the clock of Identity-Aware Proxy may be from this one:
	// for iat, nbf and exp, as Google documents it (IAP's "Securing your app with
	// signed headers").
	IAPSkew = 30 * time.Second
	// MaxLife is the longest life of a token, from iat to exp. Google's ID tokens
	// live an hour, IAP's assertions ten minutes.
	MaxLife = 25 * time.Hour
	// cacheSize is how many tokens are remembered for each route, about 1 KiB
	// each. A push subscription has one token at a time, a reader one an hour.
	cacheSize = 2048
	// provenFor is how long a token stays proven by keys that are to be fetched
	// again and cannot be, or that may not be kept.
	provenFor = time.Minute
	// maxTime is the end of the year 9999, the last second that RFC 3339 can
	// write: claims are stored and shown in that form.
	maxTime = 253402300799
)

// Options holds New's optional settings.
type Options struct {
	// Transport fetches the keys from Google's addresses; nil means a clone
	// of http.DefaultTransport with time-outs. A local issuer passes its own
	// keys here.
	Transport http.RoundTripper
	// Now is the clock for iat, nbf, exp and the age of keys; nil means
	// time.Now. idtoken's own check of exp reads the system's clock besides,
	// so a token has to be unexpired by both.
	Now func() time.Time
}

// Verifier verifies requests. It is safe for concurrent use. Build one and
// keep it: it holds the fetched keys and the known tokens.
type Verifier struct {
	validator atomic.Pointer[idtoken.Validator]
	keys      *keyTransport
	now       func() time.Time
	google    route
	iap       route
}

// Policy says whose tokens are accepted.
type Policy struct {
	// Audience must equal the token's audience, byte for byte. Required.
	Audience string
	// Emails are the accounts that may call; one must equal the token's
	// e-mail, byte for byte. Required.
	Emails []string
	// ShortIssuer accepts the issuer accounts.google.com besides
	// https://accounts.google.com. Google documents both for the tokens of people
	// and of their programs; Pub/Sub's pushes always have the long one.
	ShortIssuer bool
}

// Claims are what a verified token says.
type Claims struct {
	Issuer        string
	Audience      string
	Email         string
	EmailVerified bool
	Subject       string
	IssuedAt      time.Time
	ExpiresAt     time.Time
}

// route is one kind of token: who issues it, how it is signed and with which
// keys. Each has a cache of its own, so that a token that was proven to be of
// one kind cannot pass as the other.
type route struct {
	algorithm string
	issuer    string
	// shortIssuer is another spelling, for the policies that accept it.
	shortIssuer string
	keysURL     string
	// skew is how far ahead iat and nbf may be, leeway how long ago exp.
	skew, leeway time.Duration
	// minSignature and maxSignature are sizes in bytes.
	minSignature, maxSignature int
	// accounts says that the e-mail must be verified and one of the policy's.
	accounts bool
	// header is that of the last proven token. Decoding it for every new token
	// would be a good part of what this package costs on top of idtoken.
	header atomic.Pointer[passedHeader]
	// known are the tokens that were proven and allowed, by their SHA-256.
	known *lru.Cache[[sha256.Size]byte, proof]
}

// proof is what a proven token says, and how long that is taken for granted: as long
// as the set of keys that proved it is the current one, and no longer than until.
type proof struct {
	Claims
	set   uint64
	until time.Time
}

// New returns a Verifier. It fetches no keys until it needs them.
func New(o *Options) (*Verifier, error) {
	if o == nil {
		o = &Options{}
	}
	v := &Verifier{now: o.Now}
	if v.now == nil {
		v.now = time.Now
	}
	v.keys = newKeyTransport(o.Transport, v.now, v.newValidator)
	if err := v.newValidator(); err != nil {
		return nil, err
	}
	v.google = route{
		algorithm:   "RS256",
		issuer:      "https://accounts.google.com",
		shortIssuer: "accounts.google.com",
		keysURL:     "https://www.googleapis.com/oauth2/v3/certs",
		skew:        ClockSkew,
		// RSA keys of 2,048 to 4,096 bits.
		minSignature: 256, maxSignature: 512,
		accounts: true,
	}
	v.iap = route{
		algorithm:    "ES256",
		issuer:       "https://cloud.google.com/iap",
		keysURL:      "https://www.gstatic.com/iap/verify/public_key-jwk",
		skew:         IAPSkew,
		leeway:       IAPSkew,
		minSignature: 64, maxSignature: 64,
	}
	for _, rt := range []*route{&v.google, &v.iap} {
		var err error
		if rt.known, err = lru.New[[sha256.Size]byte, proof](cacheSize); err != nil {
			return nil, fmt.Errorf("verify: cannot create the token cache: %w", err)
		}
	}
	return v, nil
}

// newValidator begins with a validator of idtoken that has no keys yet: there is
// no other way to make idtoken forget those that it has.
func (v *Verifier) newValidator() error {
	validator, err := idtoken.NewValidator(context.Background(),
		option.WithHTTPClient(&http.Client{Transport: v.keys}))
	if err != nil {
		return fmt.Errorf("verify: cannot create the validator: %w", err)
	}
	v.validator.Store(validator)
	return nil
}

// IDToken verifies the Google ID token in the request's Authorization header
// and returns its claims. The token must be issued by
// https://accounts.google.com (see Policy.ShortIssuer), signed with RS256 by one
// of Google's keys, current, and satisfy p, its e-mail verified.
//
// Errors are those of this package; a refused token's claims are not returned.
func (v *Verifier) IDToken(r *http.Request, p Policy) (Claims, error) {
	if p.Audience == "" || len(p.Emails) == 0 {
		return Claims{}, fmt.Errorf("%w: the audience or the list of e-mails is empty", ErrPolicy)
	}
	// The server has made header names canonical; reading the map as it is
	// costs no allocation and shows repeated headers.
	token, err := bearer(r.Header["Authorization"])
	if err != nil {
		return Claims{}, err
	}
	return v.verify(r.Context(), &v.google, token, p)
}

// IAP verifies the assertion that Identity-Aware Proxy adds to a request in
// its x-goog-iap-jwt-assertion header and returns its claims. The audience is
// the one IAP shows for the backend, such as
// /projects/NUMBER/global/backendServices/ID; it is required. Who may pass is
// IAP's decision, so no e-mail is compared, and assertions do not say whether
// it is verified.
//
// Errors are those of this package.
func (v *Verifier) IAP(r *http.Request, audience string) (Claims, error) {
	if audience == "" {
		return Claims{}, fmt.Errorf("%w: the audience is empty", ErrPolicy)
	}
	values := r.Header["X-Goog-Iap-Jwt-Assertion"]
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return Claims{}, ErrNoAssertion
	case len(values) > 1:
		return Claims{}, ErrRepeated
	}
	return v.verify(r.Context(), &v.iap, values[0], Policy{Audience: audience})
}

// allows compares proven claims with a policy.
func (rt *route) allows(c *Claims, p *Policy) error {
	switch {
	case c.Issuer != rt.issuer && !p.ShortIssuer:
		return ErrIssuer
	case c.Audience != p.Audience:
		return ErrAudience
	case !rt.accounts:
		return nil
	case c.Email == "" || !slices.Contains(p.Emails, c.Email):
		return ErrEmail
	case !c.EmailVerified:
		return ErrEmailNotVerified
	}
	return nil
}

// verify returns the claims of a token of this route that satisfies p. A token
// that was proven by the current keys is only compared with the clock and p.
func (v *Verifier) verify(ctx context.Context, rt *route, token string, p Policy) (Claims, error) {
	if len(token) > MaxTokenSize {
		return Claims{}, ErrTooLarge
	}
	id := digest(token)
	c, known := rt.known.Get(id)
	known = known && c.set == v.keys.number(rt.keysURL) && !expiry.IsOver(v.now(), c.until)
	if !known {
		var err error
		if c, err = v.prove(ctx, rt, token); err != nil {
			return Claims{}, err
		}
	}
	if !v.now().Before(c.ExpiresAt.Add(rt.leeway)) {
		return Claims{}, ErrExpired
	}
	if err := rt.allows(&c.Claims, &p); err != nil {
		return Claims{}, err
	}
	if !known && !c.until.IsZero() {
		// Only now: anyone can have Google sign tokens for other audiences,
		// and these must not evict the tokens that are used here.
		rt.known.Add(id, c)
	}
	return c.Claims, nil
}

// digest is the token's SHA-256. Converting the whole string would allocate.
func digest(token string) (sum [sha256.Size]byte) {
	var buf [1 << 10]byte
	h := sha256.New()
	for len(token) > 0 {
		n := copy(buf[:], token)
		h.Write(buf[:n])
		token = token[n:]
	}
	h.Sum(sum[:0])
	return sum
}

// prove verifies a token except for whom it is from and for.
func (v *Verifier) prove(ctx context.Context, rt *route, token string) (proof, error) {
	t, err := inspect(rt, token)
	if err != nil {
		return proof{}, err
	}
	if err := v.keys.wake(rt.keysURL); err != nil {
		return proof{}, err
	}
	before := v.keys.set(rt.keysURL)
	if err := v.keys.lookAgain(ctx, rt.keysURL, t.keyID); err != nil {
		return proof{}, err
	}
	var payload *idtoken.Payload
	if rt == &v.iap {
		payload, err = v.validateIAP(ctx, t, token)
	} else {
		payload, err = v.validateGoogle(ctx, t, token)
	}
	if err != nil {
		return proof{}, err
	}
	if passed := rt.header.Load(); passed == nil || passed.segment != t.header {
		// A copy, or the whole token would be kept.
		rt.header.Store(&passedHeader{strings.Clone(t.header), t.keyID})
	}
	c, err := v.claims(rt, t, payload)
	if err != nil {
		return proof{}, err
	}
	p := proof{Claims: c}
	p.set, p.until = provenBy(before, v.keys.set(rt.keysURL), t.keyID, v.now())
	return p, nil
}

// provenBy returns the number of the set whose key has proven a token, and until when
// that counts. before and after are the sets as they were then: where another set
// came meanwhile that has no such key, or another one of that ID, it is not known
// which of them it was, and until is zero.
func provenBy(before, after keySet, keyID string, now time.Time) (set uint64, until time.Time) {
	was, had := before.find(keyID)
	is, has := after.find(keyID)
	if !has || had && was != is {
		return 0, time.Time{}
	}
	if !expiry.IsOver(now, after.freshUntil) {
		return after.number, after.freshUntil
	}
	until = now.Add(provenFor)
	if until.After(after.staleUntil) {
		until = after.staleUntil
	}
	return after.number, until
}

// validateGoogle proves the signature and the expiry of a Google ID token.
func (v *Verifier) validateGoogle(ctx context.Context, t inspected, token string) (*idtoken.Payload, error) {
	// No audience for idtoken: it would compare it before it has proven the
	// signature, and an empty one means any to it.
	payload, err := v.validator.Load().Validate(ctx, token, "")
	if err != nil {
		return nil, v.refusal(&v.google, t, token, err)
	}
	return payload, nil
}

// validateIAP is the same for an assertion of IAP.
func (v *Verifier) validateIAP(ctx context.Context, t inspected, token string) (*idtoken.Payload, error) {
	payload, err := idtoken.ParsePayload(token)
	if err != nil {
		return nil, v.refusal(&v.iap, t, token, err)
	}
	if _, ok := payload.Claims["exp"].(float64); !ok {
		return nil, ErrNoExpiry
	}
	if !v.now().Before(time.Unix(payload.Expires, 0).Add(v.iap.leeway)) {
		return nil, ErrExpired
	}
	set, err := v.keys.current(ctx, v.iap.keysURL)
	if err != nil {
		return nil, err
	}
	k, ok := set.find(t.keyID)
	if !ok {
		return nil, fmt.Errorf("%w: IAP has no key with this ID", ErrKeyID)
	}
	public, err := k.ecdsa()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyID, err)
	}
	sum := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')]))
	half := len(t.signature) / 2
	r, s := new(big.Int).SetBytes(t.signature[:half]), new(big.Int).SetBytes(t.signature[half:])
	if !ecdsa.Verify(public, sum[:], r, s) {
		return nil, ErrSignature
	}
	return payload, nil
}

// claims checks what a proven payload says about itself.
func (v *Verifier) claims(rt *route, t inspected, p *idtoken.Payload) (Claims, error) {
	if members(t.payload) != len(p.Claims) || lookAlike(p.Claims, claimNames[:]) {
		return Claims{}, fmt.Errorf("%w: a claim occurs twice, or has other upper and lower case", ErrMalformed)
	}
	issuedAt, hasIssuedAt := p.Claims["iat"].(float64)
	notBefore, isNumber := p.Claims["nbf"].(float64)
	if _, ok := p.Claims["nbf"]; ok && !isNumber {
		return Claims{}, fmt.Errorf("%w: nbf is not a number", ErrMalformed)
	}
	audience, _ := p.Claims["aud"].(string)
	email, _ := p.Claims["email"].(string)
	emailVerified, _ := p.Claims["email_verified"].(bool)
	latest := v.now().Add(rt.skew).Unix()
	switch {
	case p.Issuer != rt.issuer && (rt.shortIssuer == "" || p.Issuer != rt.shortIssuer):
		return Claims{}, ErrIssuer
	case !hasIssuedAt || issuedAt <= 0 || p.IssuedAt > latest || notBefore > float64(latest):
		return Claims{}, ErrNotYetValid
	case p.Expires > maxTime:
		return Claims{}, fmt.Errorf("%w: exp is after the year 9999", ErrMalformed)
	case p.Expires <= p.IssuedAt || p.Expires-p.IssuedAt > int64(MaxLife/time.Second) || notBefore >= float64(p.Expires):
		return Claims{}, ErrLife
	case audience == "" || audience != p.Audience: // idtoken reads it in any letter case
		return Claims{}, ErrAudience
	}
	return Claims{
		Issuer:        p.Issuer,
		Audience:      audience,
		Email:         email,
		EmailVerified: emailVerified,
		Subject:       p.Subject,
		IssuedAt:      time.Unix(p.IssuedAt, 0).UTC(),
		ExpiresAt:     time.Unix(p.Expires, 0).UTC(),
	}, nil
}

// refusal returns the error of this package for one of idtoken. idtoken's own
// errors differ only in their text, so the token is read again.
func (v *Verifier) refusal(rt *route, t inspected, token string, err error) error {
	switch {
	case errors.Is(err, ErrKeysUnavailable):
		return err
	case errors.Is(err, rsa.ErrVerification):
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	p, parseErr := idtoken.ParsePayload(token)
	if parseErr != nil {
		var claims struct {
			Audience any `json:"aud"`
		}
		if json.Unmarshal(t.payload, &claims) == nil && claims.Audience != nil {
			if _, ok := claims.Audience.(string); !ok {
				return fmt.Errorf("%w: aud is not a string", ErrAudience)
			}
		}
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	reason := ErrSignature
	if _, ok := p.Claims["exp"].(float64); !ok {
		reason = ErrNoExpiry
	} else if p.Expires < time.Now().Unix() {
		reason = ErrExpired
	} else if !v.keys.set(rt.keysURL).has(t.keyID) {
		reason = ErrKeyID
	}
	return fmt.Errorf("%w: %w", reason, err)
}
