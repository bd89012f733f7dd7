package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/testkit/roundtrip"
)

const (
	audience    = "https://receive-1234.europe-west1.run.app"
	email       = "pusher@project.iam.gserviceaccount.com"
	iapAudience = "/projects/1234/global/backendServices/5678"
	subject     = "112233445566778899001"
	rsaKeyID    = "d9740a70b0972dccf75fa88bc529bd16a30573bd"
	ecKeyID     = "2nMJtw"
)

var policy = Policy{Audience: audience, Emails: []string{"other@example.com", email}}

// Keys are generated once for all tests: one that Google publishes, one that
// it does not, and IAP's.
var (
	googleKey  = sync.OnceValue(func() *rsa.PrivateKey { return newRSAKey(2048) })
	foreignKey = sync.OnceValue(func() *rsa.PrivateKey { return newRSAKey(2048) })
	iapKey     = sync.OnceValue(func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	})
)

func newRSAKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

func answer(status int, header http.Header, body string) (*http.Response, error) {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// serveKeys answers as Google's two addresses do.
var serveKeys = roundtrip.Func(func(r *http.Request) (*http.Response, error) {
	fresh := http.Header{"Cache-Control": {"public, max-age=21600, must-revalidate, no-transform"}}
	switch r.URL.String() {
	case "https://www.googleapis.com/oauth2/v3/certs":
		return answer(http.StatusOK, fresh, keySetOf(rsaKeyID, googleKey()))
	case "https://www.gstatic.com/iap/verify/public_key-jwk":
		return answer(http.StatusOK, fresh, iapKeySet())
	}
	return nil, fmt.Errorf("unexpected key address %s", r.URL)
})

func keySetOf(keyID string, key *rsa.PrivateKey) string {
	return marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": keyID,
		"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
	}}})
}

func iapKeySet() string {
	point, err := iapKey().PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "use": "sig", "alg": "ES256", "crv": "P-256", "kid": ecKeyID,
		"x": base64.RawURLEncoding.EncodeToString(point[1:33]),
		"y": base64.RawURLEncoding.EncodeToString(point[33:]),
	}}})
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// draft is a token in the making. Every case of a test starts from a valid
// one and changes one thing.
type draft struct {
	header, claims map[string]any
	// rawHeader and rawPayload, when set, stand for the JSON of the above.
	rawHeader, rawPayload string
	// sign returns the signature over the first two segments.
	sign func(signed string) []byte
	// alter changes the finished token.
	alter func(token string) string
}

func (d *draft) token() string {
	header, payload := d.rawHeader, d.rawPayload
	if header == "" {
		header = marshal(d.header)
	}
	if payload == "" {
		payload = marshal(d.claims)
	}
	signed := segment(header) + "." + segment(payload)
	token := signed + "." + segment(string(d.sign(signed)))
	if d.alter != nil {
		token = d.alter(token)
	}
	return token
}

func segment(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// idToken is what Pub/Sub sends.
func idToken() *draft {
	now := time.Now()
	return &draft{
		header: map[string]any{"alg": "RS256", "kid": rsaKeyID, "typ": "JWT"},
		claims: map[string]any{
			"iss": "https://accounts.google.com", "aud": audience,
			"azp": subject, "sub": subject,
			"email": email, "email_verified": true,
			"iat": now.Unix() - 60, "exp": now.Unix() + 3540,
		},
		sign: signRS256(googleKey()),
	}
}

// assertion is what IAP adds.
func assertion() *draft {
	now := time.Now()
	return &draft{
		header: map[string]any{"alg": "ES256", "kid": ecKeyID, "typ": "JWT"},
		claims: map[string]any{
			"iss": "https://cloud.google.com/iap", "aud": iapAudience,
			"sub": "accounts.google.com:1234567890", "email": "dev@example.com",
			"iat": now.Unix() - 5, "exp": now.Unix() + 600,
		},
		sign: signES256(iapKey()),
	}
}

func signRS256(key *rsa.PrivateKey) func(string) []byte {
	return func(signed string) []byte {
		digest := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
		if err != nil {
			panic(err)
		}
		return signature
	}
}

func signES256(key *ecdsa.PrivateKey) func(string) []byte {
	return func(signed string) []byte {
		digest := sha256.Sum256([]byte(signed))
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			panic(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
}

func signHS256(secret []byte) func(string) []byte {
	return func(signed string) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		return mac.Sum(nil)
	}
}

func fixed(signature []byte) func(string) []byte {
	return func(string) []byte { return signature }
}

func push(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header["Authorization"] = authorization
	return r
}

func throughIAP(assertions ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["X-Goog-Iap-Jwt-Assertion"] = assertions
	return r
}

func newVerifier(t testing.TB, o *Options) *Verifier {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	if o.Transport == nil {
		o.Transport = serveKeys
	}
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantRefusal checks the sentinel, its status, and that nothing of the
// credential comes back in what the sender or the log sees.
func wantRefusal(t *testing.T, got Claims, err, want error, status int) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
	if s, detail := problem.Of(err); s != status || detail == "" {
		t.Errorf("%v is %d %q, want status %d and a detail", err, s, detail, status)
	}
	if diff := cmp.Diff(Claims{}, got); diff != "" {
		t.Errorf("claims of a refused token came back:\n%s", diff)
	}
}

func TestIDToken_accepts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, mutate := range map[string]func(d *draft){
		"as_pubsub_sends_it":           func(*draft) {},
		"no_typ":                       func(d *draft) { delete(d.header, "typ") },
		"issued_within_the_clock_skew": func(d *draft) { d.claims["iat"] = now.Unix() + 8 },
		"nbf_within_the_clock_skew":    func(d *draft) { d.claims["nbf"] = now.Unix() + 8 },
		"nbf_zero":                     func(d *draft) { d.claims["nbf"] = 0 },
		"longest_life":                 func(d *draft) { d.claims["exp"] = d.claims["iat"].(int64) + 25*3600 },
		"typ_in_lower_case":            func(d *draft) { d.header["typ"] = "jwt" },
		"unknown_claims_and_fields": func(d *draft) {
			d.claims["google"] = map[string]any{"aud": "x", "AUD": []any{"y:z", `"`, `\`}}
			d.claims["text"] = `{"aud":"\\"`
			d.header["x"] = 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := idToken()
			mutate(d)
			token := d.token()
			v := newVerifier(t, nil)
			for _, authorization := range []string{"Bearer " + token, "bearer " + token, "BEARER  " + token} {
				got, err := v.IDToken(push(authorization), policy)
				if err != nil {
					t.Fatal(err)
				}
				want := Claims{
					Issuer: "https://accounts.google.com", Audience: audience,
					Email: email, EmailVerified: true, Subject: subject,
					IssuedAt:  time.Unix(d.claims["iat"].(int64), 0).UTC(),
					ExpiresAt: time.Unix(d.claims["exp"].(int64), 0).UTC(),
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("claims (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestIDToken_accepts_larger_keys(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{3072, 4096} {
		key := newRSAKey(bits)
		v := newVerifier(t, &Options{Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) {
			return answer(http.StatusOK, nil, keySetOf(rsaKeyID, key))
		})})
		d := idToken()
		d.sign = signRS256(key)
		if _, err := v.IDToken(push("Bearer "+d.token()), policy); err != nil {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

func TestIDToken_refuses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	publicDER, err := x509.MarshalPKIXPublicKey(&googleKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	claim := func(name string, value any) func(*draft) {
		return func(d *draft) { d.claims[name] = value }
	}
	noClaim := func(name string) func(*draft) {
		return func(d *draft) { delete(d.claims, name) }
	}
	field := func(name string, value any) func(*draft) {
		return func(d *draft) { d.header[name] = value }
	}
	signed := func(algorithm string, sign func(string) []byte) func(*draft) {
		return func(d *draft) { d.header["alg"], d.sign = algorithm, sign }
	}
	alter := func(f func(string) string) func(*draft) {
		return func(d *draft) { d.alter = f }
	}
	// another replaces the n-th segment, so that the signature is over
	// something else.
	another := func(n int, with string) func(*draft) {
		return alter(func(token string) string {
			parts := strings.Split(token, ".")
			parts[n] = with
			return strings.Join(parts, ".")
		})
	}
	payload := func(json string) func(*draft) {
		return func(d *draft) { d.rawPayload = json }
	}
	// spelt adds raw members to the valid claims.
	spelt := func(members string) func(*draft) {
		return func(d *draft) { d.rawPayload = strings.TrimSuffix(marshal(d.claims), "}") + "," + members + "}" }
	}
	rs384 := func(signed string) []byte {
		digest := sha512.Sum384([]byte(signed))
		signature, err := rsa.SignPKCS1v15(nil, googleKey(), crypto.SHA384, digest[:])
		if err != nil {
			panic(err)
		}
		return signature
	}
	for name, tt := range map[string]struct {
		mutate func(*draft)
		want   error
		status int
	}{
		"two_segments":     {alter(func(s string) string { return s[:strings.LastIndex(s, ".")] }), ErrMalformed, 401},
		"four_segments":    {alter(func(s string) string { return s + ".e30" }), ErrMalformed, 401},
		"empty_header":     {another(0, ""), ErrMalformed, 401},
		"empty_payload":    {another(1, ""), ErrMalformed, 401},
		"empty_signature":  {another(2, ""), ErrMalformed, 401},
		"only_dots":        {alter(func(string) string { return ".." }), ErrMalformed, 401},
		"not_base64":       {another(0, "!!!!"), ErrMalformed, 401},
		"payload_padded":   {alter(func(s string) string { return strings.Replace(s, ".", "=.", 1) }), ErrMalformed, 401},
		"line_break":       {alter(func(s string) string { return s[:len(s)-4] + "\n" + s[len(s)-4:] }), ErrMalformed, 401},
		"trailing_space":   {alter(func(s string) string { return s + " " }), ErrMalformed, 401},
		"two_in_one_value": {alter(func(s string) string { return s + ", Bearer " + s }), ErrMalformed, 401},
		"200_kilobytes":    {claim("padding", strings.Repeat("x", 150_000)), ErrTooLarge, 401},

		"header_null":              {func(d *draft) { d.rawHeader = "null" }, ErrMalformed, 401},
		"header_list":              {func(d *draft) { d.rawHeader = "[]" }, ErrMalformed, 401},
		"header_not_json":          {func(d *draft) { d.rawHeader = "{" }, ErrMalformed, 401},
		"header_empty_object":      {func(d *draft) { d.rawHeader = "{}" }, ErrAlgorithm, 401},
		"header_field_twice":       {func(d *draft) { d.rawHeader = `{"alg":"none","alg":"RS256","kid":"` + rsaKeyID + `"}` }, ErrMalformed, 401},
		"header_field_in_capitals": {func(d *draft) { d.rawHeader = `{"alg":"RS256","ALG":"ES256","kid":"` + rsaKeyID + `"}` }, ErrMalformed, 401},
		"typ_not_a_string":         {field("typ", 5), ErrMalformed, 401},
		"embedded_jwk":             {field("jwk", map[string]any{"kty": "RSA"}), ErrMalformed, 401},
		"jku":                      {field("jku", "https://evil.example/keys"), ErrMalformed, 401},
		"x5u":                      {field("x5u", "https://evil.example/cert"), ErrMalformed, 401},
		"x5c":                      {field("x5c", []string{"MII"}), ErrMalformed, 401},
		"crit":                     {field("crit", []string{"exp"}), ErrMalformed, 401},
		"crit_null":                {field("crit", nil), ErrMalformed, 401},
		"crit_empty":               {field("crit", []string{}), ErrMalformed, 401},
		"crit_in_capitals":         {field("Crit", []string{"exp"}), ErrMalformed, 401},
		"b64_false":                {field("b64", false), ErrMalformed, 401},
		"b64_true":                 {field("b64", true), ErrMalformed, 401},
		"b64_in_capitals":          {field("B64", true), ErrMalformed, 401},
		"b64_and_crit":             {func(d *draft) { d.header["b64"], d.header["crit"] = false, []string{"b64"} }, ErrMalformed, 401},
		"zip":                      {field("zip", "DEF"), ErrMalformed, 401},
		"enc":                      {field("enc", "A256GCM"), ErrMalformed, 401},
		"cty":                      {field("cty", "JWT"), ErrMalformed, 401},
		"epk":                      {field("epk", map[string]any{"kty": "EC"}), ErrMalformed, 401},
		"p2c":                      {field("p2c", 1_000_000_000), ErrMalformed, 401},
		"x5t":                      {field("x5t", "AAAA"), ErrMalformed, 401},
		"x5t_s256":                 {field("x5t#S256", "AAAA"), ErrMalformed, 401},
		"typ_of_another_token":     {field("typ", "secevent+jwt"), ErrMalformed, 401},
		"typ_null":                 {field("typ", nil), ErrMalformed, 401},

		"alg_none":                    {signed("none", fixed(nil)), ErrMalformed, 401},
		"alg_none_with_signature":     {field("alg", "none"), ErrAlgorithm, 401},
		"alg_missing":                 {func(d *draft) { delete(d.header, "alg") }, ErrAlgorithm, 401},
		"alg_null":                    {field("alg", nil), ErrAlgorithm, 401},
		"alg_lower_case":              {field("alg", "rs256"), ErrAlgorithm, 401},
		"alg_hs256_public_key_pem":    {signed("HS256", signHS256(publicPEM)), ErrAlgorithm, 401},
		"alg_hs256_public_key_der":    {signed("HS256", signHS256(publicDER)), ErrAlgorithm, 401},
		"alg_hs256_modulus":           {signed("HS256", signHS256(googleKey().N.Bytes())), ErrAlgorithm, 401},
		"alg_rs384":                   {signed("RS384", rs384), ErrAlgorithm, 401},
		"alg_es256_empty":             {signed("ES256", fixed(nil)), ErrMalformed, 401},
		"alg_es256_short":             {signed("ES256", fixed(make([]byte, 31))), ErrAlgorithm, 401},
		"alg_es256_right_size":        {signed("ES256", fixed(make([]byte, 64))), ErrAlgorithm, 401},
		"alg_es256_iap_key_id_short":  {func(d *draft) { d.header["alg"], d.header["kid"], d.sign = "ES256", ecKeyID, fixed([]byte{1}) }, ErrAlgorithm, 401},
		"genuine_iap_assertion":       {func(d *draft) { *d = *assertion() }, ErrAlgorithm, 401},
		"iap_assertion_with_our_aud":  {func(d *draft) { *d = *assertion(); d.claims["aud"] = audience }, ErrAlgorithm, 401},
		"iap_assertion_called_rs256":  {func(d *draft) { *d = *assertion(); d.header["alg"] = "RS256" }, ErrSignature, 401},
		"hs256_signature_called_rs":   {func(d *draft) { d.sign = signHS256(publicPEM) }, ErrSignature, 401},
		"rs384_signature_called_rs":   {func(d *draft) { d.sign = rs384 }, ErrSignature, 401},
		"key_id_unknown":              {field("kid", "rsa-2"), ErrKeyID, 401},
		"key_id_missing":              {func(d *draft) { delete(d.header, "kid") }, ErrKeyID, 401},
		"key_id_empty":                {field("kid", ""), ErrKeyID, 401},
		"key_id_not_a_string":         {field("kid", 1), ErrKeyID, 401},
		"key_id_of_iap":               {field("kid", ecKeyID), ErrKeyID, 401},
		"key_id_in_capitals":          {field("kid", strings.ToUpper(rsaKeyID)), ErrKeyID, 401},
		"foreign_key":                 {func(d *draft) { d.sign = signRS256(foreignKey()) }, ErrSignature, 401},
		"foreign_key_and_key_id":      {func(d *draft) { d.sign = signRS256(foreignKey()); d.header["kid"] = "mine" }, ErrKeyID, 401},
		"altered_header":              {another(0, segment(`{"alg":"RS256","kid":"`+rsaKeyID+`"}`)), ErrSignature, 401},
		"altered_payload":             {func(d *draft) { d.alter = rewriteClaim(d, "sub", "1") }, ErrSignature, 401},
		"altered_signature_first":     {alterSignature(0), ErrSignature, 401},
		"altered_signature_last":      {alterSignature(255), ErrSignature, 401},
		"altered_unused_bits":         {alter(respell), ErrMalformed, 401},
		"signature_zero":              {func(d *draft) { d.sign = fixed(make([]byte, 256)) }, ErrSignature, 401},
		"signature_one_byte_short":    {func(d *draft) { d.sign = fixed(make([]byte, 255)) }, ErrSignature, 401},
		"signature_longer_than_4096":  {func(d *draft) { d.sign = fixed(make([]byte, 513)) }, ErrSignature, 401},
		"signature_of_a_4096_bit_key": {func(d *draft) { d.sign = fixed(make([]byte, 512)) }, ErrSignature, 401},
		"signature_removed_by_google": {another(2, "SIGNATURE_REMOVED_BY_GOOGLE"), ErrSignatureRemoved, 401},

		"payload_null":             {payload("null"), ErrMalformed, 401},
		"payload_list":             {payload("[]"), ErrMalformed, 401},
		"payload_string":           {payload(`"{}"`), ErrMalformed, 401},
		"payload_not_json":         {payload("{"), ErrMalformed, 401},
		"payload_trailing_data":    {func(d *draft) { d.rawPayload = marshal(d.claims) + "{}" }, ErrMalformed, 401},
		"payload_empty_object":     {payload("{}"), ErrNoExpiry, 401},
		"payload_deep":             {payload(`{"a":` + strings.Repeat("[", 5000)), ErrMalformed, 401},
		"expired":                  {claim("exp", now.Unix()-1), ErrExpired, 401},
		"expired_long_ago":         {claim("exp", 1), ErrExpired, 401},
		"exp_zero":                 {claim("exp", 0), ErrExpired, 401},
		"exp_negative":             {claim("exp", -now.Unix()), ErrExpired, 401},
		"exp_missing":              {noClaim("exp"), ErrNoExpiry, 401},
		"exp_null":                 {claim("exp", nil), ErrNoExpiry, 401},
		"exp_string":               {claim("exp", fmt.Sprint(now.Unix()+3000)), ErrMalformed, 401},
		"exp_fraction":             {claim("exp", 4102444800.5), ErrMalformed, 401},
		"exp_beyond_all_calendars": {claim("exp", int64(1)<<62), ErrMalformed, 401},
		"iat_in_the_future":        {claim("iat", now.Unix()+3600), ErrNotYetValid, 401},
		"iat_far_in_the_future":    {claim("iat", int64(1)<<62), ErrNotYetValid, 401},
		"iat_missing":              {noClaim("iat"), ErrNotYetValid, 401},
		"iat_zero":                 {claim("iat", 0), ErrNotYetValid, 401},
		"iat_string":               {claim("iat", "1"), ErrMalformed, 401},
		"nbf_in_the_future":        {claim("nbf", now.Unix()+3600), ErrNotYetValid, 401},
		"nbf_string":               {claim("nbf", "1"), ErrMalformed, 401},
		"nbf_null":                 {claim("nbf", nil), ErrMalformed, 401},
		"nbf_bool":                 {claim("nbf", true), ErrMalformed, 401},
		"nbf_list":                 {claim("nbf", []int{1}), ErrMalformed, 401},
		"nbf_object":               {claim("nbf", map[string]any{}), ErrMalformed, 401},
		"nbf_in_capitals":          {claim("NBF", now.Unix()+60), ErrMalformed, 401},
		"nbf_twice":                {spelt(`"nbf":1,"nbf":2`), ErrMalformed, 401},
		"nbf_huge":                 {spelt(`"nbf":1e300`), ErrNotYetValid, 401},
		"iat_null":                 {claim("iat", nil), ErrNotYetValid, 401},
		"life_too_long":            {func(d *draft) { d.claims["exp"] = d.claims["iat"].(int64) + 25*3600 + 1 }, ErrLife, 401},
		"life_of_years":            {claim("iat", 1), ErrLife, 401},

		"issuer_without_scheme":  {claim("iss", "accounts.google.com"), ErrIssuer, 403},
		"issuer_http":            {claim("iss", "http://accounts.google.com"), ErrIssuer, 403},
		"issuer_slash":           {claim("iss", "https://accounts.google.com/"), ErrIssuer, 403},
		"issuer_look_alike":      {claim("iss", "https://accounts.google.com.evil.example"), ErrIssuer, 403},
		"issuer_homograph":       {claim("iss", "https://accоunts.google.com"), ErrIssuer, 403},
		"issuer_capitals":        {claim("iss", "https://Accounts.Google.com"), ErrIssuer, 403},
		"issuer_iap":             {claim("iss", "https://cloud.google.com/iap"), ErrIssuer, 403},
		"issuer_firebase":        {claim("iss", "https://securetoken.google.com/project"), ErrIssuer, 403},
		"issuer_empty":           {claim("iss", ""), ErrIssuer, 403},
		"issuer_missing":         {noClaim("iss"), ErrIssuer, 403},
		"issuer_list":            {claim("iss", []string{"https://accounts.google.com"}), ErrMalformed, 401},
		"audience_wrong":         {claim("aud", "https://other.example"), ErrAudience, 403},
		"audience_empty":         {claim("aud", ""), ErrAudience, 403},
		"audience_missing":       {noClaim("aud"), ErrAudience, 403},
		"audience_null":          {claim("aud", nil), ErrAudience, 403},
		"audience_list":          {claim("aud", []string{audience}), ErrAudience, 403},
		"audience_list_of_many":  {claim("aud", []string{"x", audience}), ErrAudience, 403},
		"audience_number":        {claim("aud", 1), ErrAudience, 403},
		"audience_char_more":     {claim("aud", audience+"/"), ErrAudience, 403},
		"audience_char_less":     {claim("aud", audience[:len(audience)-1]), ErrAudience, 403},
		"audience_other_case":    {claim("aud", strings.ToUpper(audience)), ErrAudience, 403},
		"audience_prefix":        {claim("aud", "x"+audience), ErrAudience, 403},
		"audience_space":         {claim("aud", audience+" "), ErrAudience, 403},
		"audience_twice":         {spelt(`"aud":"` + audience + `"`), ErrMalformed, 401},
		"audience_twice_escaped": {spelt(`"a\u0075d":"` + audience + `"`), ErrMalformed, 401},
		"audience_in_capitals":   {spelt(`"AUD":"evil"`), ErrMalformed, 401},
		"issuer_folded":          {spelt(`"iſs":"https://accounts.google.com"`), ErrMalformed, 401},
		"exp_in_capitals_only": {func(d *draft) {
			d.claims["Exp"] = d.claims["exp"]
			delete(d.claims, "exp")
		}, ErrMalformed, 401},
		"email_wrong":              {claim("email", "pusher@other.iam.gserviceaccount.com"), ErrEmail, 403},
		"email_empty":              {claim("email", ""), ErrEmail, 403},
		"email_missing":            {noClaim("email"), ErrEmail, 403},
		"email_other_case":         {claim("email", strings.ToUpper(email)), ErrEmail, 403},
		"email_space":              {claim("email", email+" "), ErrEmail, 403},
		"email_list":               {claim("email", []string{email}), ErrEmail, 403},
		"email_in_capitals":        {spelt(`"EMAIL":"` + email + `"`), ErrMalformed, 401},
		"email_not_verified":       {claim("email_verified", false), ErrEmailNotVerified, 403},
		"email_verified_a_string":  {claim("email_verified", "true"), ErrEmailNotVerified, 403},
		"email_verified_a_number":  {claim("email_verified", 1), ErrEmailNotVerified, 403},
		"email_verified_missing":   {noClaim("email_verified"), ErrEmailNotVerified, 403},
		"email_verified_twice":     {spelt(`"email_verified":true`), ErrMalformed, 401},
		"wrong_party_and_forged":   {func(d *draft) { d.claims["aud"], d.sign = "x", signRS256(foreignKey()) }, ErrSignature, 401},
		"wrong_issuer_and_expired": {func(d *draft) { d.claims["iss"], d.claims["exp"] = "x", now.Unix()-1 }, ErrExpired, 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := idToken()
			tt.mutate(d)
			authorization := "Bearer " + d.token()
			v := newVerifier(t, nil)
			// Twice: a refused token must not be remembered as a good one, and
			// a good one before it must not help it.
			for range 2 {
				got, err := v.IDToken(push(authorization), policy)
				wantRefusal(t, got, err, tt.want, tt.status)
				if strings.Contains(err.Error(), strings.TrimPrefix(authorization, "Bearer ")) {
					t.Error("the error quotes the token")
				}
				if _, err := v.IDToken(push("Bearer "+idToken().token()), policy); err != nil {
					t.Errorf("a valid token after it: %v", err)
				}
			}
		})
	}
}

// rewriteClaim replaces a claim after signing.
func rewriteClaim(d *draft, name string, value any) func(string) string {
	return func(token string) string {
		claims := maps.Clone(d.claims)
		claims[name] = value
		parts := strings.Split(token, ".")
		parts[1] = segment(marshal(claims))
		return strings.Join(parts, ".")
	}
}

// alterSignature flips one bit of one byte.
func alterSignature(n int) func(*draft) {
	return func(d *draft) {
		sign := d.sign
		d.sign = func(signed string) []byte {
			signature := sign(signed)
			signature[n] ^= 1
			return signature
		}
	}
}

// respell changes bits of the last character that no byte is made of.
func respell(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	return token[:last] + string(alphabet[strings.IndexByte(alphabet, token[last])^1])
}

func TestIDToken_refuses_the_header(t *testing.T) {
	t.Parallel()
	token := idToken().token()
	for name, tt := range map[string]struct {
		values []string
		want   error
	}{
		"none":              {nil, ErrNoToken},
		"empty":             {[]string{""}, ErrNoToken},
		"scheme_only":       {[]string{"Bearer"}, ErrNoToken},
		"scheme_and_space":  {[]string{"Bearer "}, ErrNoToken},
		"scheme_and_spaces": {[]string{"Bearer   "}, ErrNoToken},
		"twice_the_same":    {[]string{"Bearer " + token, "Bearer " + token}, ErrRepeated},
		"twice_empty_first": {[]string{"", "Bearer " + token}, ErrRepeated},
		"twice_basic_first": {[]string{"Basic eDp5", "Bearer " + token}, ErrRepeated},
		"basic":             {[]string{"Basic " + token}, ErrScheme},
		"no_scheme":         {[]string{token}, ErrScheme},
		"longer_scheme":     {[]string{"Bearers " + token}, ErrScheme},
		"leading_space":     {[]string{" Bearer " + token}, ErrScheme},
		"tab":               {[]string{"Bearer\t" + token}, ErrScheme},
		"no_space":          {[]string{"Bearer" + token}, ErrScheme},
		"not_a_token":       {[]string{"Bearer x"}, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newVerifier(t, nil).IDToken(push(tt.values...), policy)
			wantRefusal(t, got, err, tt.want, 401)
		})
	}
}

// A request that proves nothing before any signature work must not make the
// function fetch keys either.
func TestIDToken_fetches_nothing_for_hopeless_tokens(t *testing.T) {
	t.Parallel()
	var fetches atomic.Int32
	v := newVerifier(t, &Options{Transport: roundtrip.Func(func(*http.Request) (*http.Response, error) {
		fetches.Add(1)
		return nil, errors.New("no")
	})})
	otherAlgorithm, noKeyID, shortSignature := idToken(), idToken(), idToken()
	otherAlgorithm.header["alg"] = "ES256"
	delete(noKeyID.header, "kid")
	shortSignature.sign = fixed(make([]byte, 255))
	for _, authorization := range []string{
		"", "Bearer x.y.z",
		"Bearer " + otherAlgorithm.token(), "Bearer " + noKeyID.token(), "Bearer " + shortSignature.token(),
	} {
		if _, err := v.IDToken(push(authorization), policy); err == nil {
			t.Errorf("%q was accepted", authorization)
		}
	}
	if n := fetches.Load(); n != 0 {
		t.Errorf("%d fetches", n)
	}
}

func TestIDToken_refuses_an_empty_policy(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, nil)
	for name, tt := range map[string]struct {
		policy Policy
		want   error
		status int
	}{
		"nothing":      {Policy{}, ErrPolicy, 500},
		"no_audience":  {Policy{Emails: []string{email}}, ErrPolicy, 500},
		"no_emails":    {Policy{Audience: audience}, ErrPolicy, 500},
		"empty_emails": {Policy{Audience: audience, Emails: []string{}}, ErrPolicy, 500},
		"empty_email":  {Policy{Audience: audience, Emails: []string{""}}, ErrEmail, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := idToken()
			delete(d.claims, "email")
			got, err := v.IDToken(push("Bearer "+d.token()), tt.policy)
			wantRefusal(t, got, err, tt.want, tt.status)
		})
	}
}

// Google documents two spellings of its issuer, and pushes have the first.
func TestIDToken_issuer(t *testing.T) {
	t.Parallel()
	short := policy
	short.ShortIssuer = true
	for _, issuer := range []string{"https://accounts.google.com", "accounts.google.com"} {
		v := newVerifier(t, nil)
		d := idToken()
		d.claims["iss"] = issuer
		r := push("Bearer " + d.token())
		// Twice: a token that is known meets every policy.
		for range 2 {
			if got, err := v.IDToken(r, short); err != nil || got.Issuer != issuer {
				t.Errorf("%s: %+v, %v", issuer, got, err)
			}
			if _, err := v.IDToken(r, policy); errors.Is(err, ErrIssuer) != (issuer == "accounts.google.com") {
				t.Errorf("%s on a push: %v", issuer, err)
			}
		}
	}
	for _, issuer := range []string{"accounts.google.com/", "http://accounts.google.com", "ACCOUNTS.google.com", "https://cloud.google.com/iap", ""} {
		d := idToken()
		d.claims["iss"] = issuer
		got, err := newVerifier(t, nil).IDToken(push("Bearer "+d.token()), short)
		wantRefusal(t, got, err, ErrIssuer, 403)
	}
}

// What the clock allows, to the second. In a bubble, where it stands still.
func TestClock(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		iat, nbf, exp      int64 // seconds from now
		wantToken, wantIAP error
	}{
		"ten_seconds_ahead":       {10, 10, 3600, nil, nil},
		"eleven_seconds_ahead":    {11, 0, 3600, ErrNotYetValid, nil},
		"nbf_eleven_ahead":        {0, 11, 3600, ErrNotYetValid, nil},
		"thirty_seconds_ahead":    {30, 30, 3600, ErrNotYetValid, nil},
		"thirty_one_ahead":        {31, 0, 3600, ErrNotYetValid, ErrNotYetValid},
		"nbf_thirty_one_ahead":    {0, 31, 3600, ErrNotYetValid, ErrNotYetValid},
		"expires_in_a_second":     {-600, -600, 1, nil, nil},
		"expires_now":             {-600, -600, 0, ErrExpired, nil},
		"expired_for_29_seconds":  {-600, -600, -29, ErrExpired, nil},
		"expired_for_30_seconds":  {-600, -600, -30, ErrExpired, ErrExpired},
		"life_of_a_second":        {0, 0, 1, nil, nil},
		"life_of_25_hours":        {-3600, -3600, 24 * 3600, nil, nil},
		"life_of_25_hours_and_1s": {-3600, -3600, 24*3600 + 1, ErrLife, ErrLife},
		"issued_at_expiry":        {5, 0, 5, ErrLife, ErrLife},
		"issued_after_expiry":     {8, 0, 5, ErrLife, ErrLife},
		"valid_from_expiry_on":    {0, 5, 5, ErrLife, ErrLife},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			googleKey() // outside of the bubble, as all bubbles share it
			synctest.Test(t, func(t *testing.T) {
				v := newVerifier(t, nil)
				token, iap := idToken(), assertion()
				for _, d := range []*draft{token, iap} {
					now := time.Now().Unix()
					d.claims["iat"], d.claims["nbf"], d.claims["exp"] = now+tt.iat, now+tt.nbf, now+tt.exp
				}
				for range 2 { // proven, then known
					if _, err := v.IDToken(push("Bearer "+token.token()), policy); !errors.Is(err, tt.wantToken) {
						t.Errorf("ID token: %v, want %v", err, tt.wantToken)
					}
					if _, err := v.IAP(throughIAP(iap.token()), iapAudience); !errors.Is(err, tt.wantIAP) {
						t.Errorf("IAP: %v, want %v", err, tt.wantIAP)
					}
				}
			})
		})
	}
}

func TestIAP(t *testing.T) {
	t.Parallel()
	d := assertion()
	got, err := newVerifier(t, nil).IAP(throughIAP(d.token()), iapAudience)
	if err != nil {
		t.Fatal(err)
	}
	want := Claims{
		Issuer: "https://cloud.google.com/iap", Audience: iapAudience,
		Email: "dev@example.com", Subject: "accounts.google.com:1234567890",
		IssuedAt:  time.Unix(d.claims["iat"].(int64), 0).UTC(),
		ExpiresAt: time.Unix(d.claims["exp"].(int64), 0).UTC(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func TestIAP_refuses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(mutate func(*draft)) []string {
		d := assertion()
		mutate(d)
		return []string{d.token()}
	}
	claim := func(name string, value any) []string {
		return changed(func(d *draft) { d.claims[name] = value })
	}
	signature := func(size int) []string {
		return changed(func(d *draft) { d.sign = fixed(make([]byte, size)) })
	}
	valid := assertion().token()
	for name, tt := range map[string]struct {
		values   []string
		audience string
		want     error
		status   int
	}{
		"no_header":             {nil, iapAudience, ErrNoAssertion, 401},
		"empty_header":          {[]string{""}, iapAudience, ErrNoAssertion, 401},
		"twice":                 {[]string{valid, valid}, iapAudience, ErrRepeated, 401},
		"with_a_scheme":         {[]string{"Bearer " + valid}, iapAudience, ErrMalformed, 401},
		"too_large":             {claim("x", strings.Repeat("x", 9000)), iapAudience, ErrTooLarge, 401},
		"no_audience_to_check":  {[]string{valid}, "", ErrPolicy, 500},
		"genuine_id_token":      {[]string{idToken().token()}, audience, ErrAlgorithm, 401},
		"id_token_called_es256": {changed(func(d *draft) { *d = *idToken(); d.header["alg"] = "ES256" }), audience, ErrSignature, 401},
		"signature_of_1_byte":   {signature(1), iapAudience, ErrSignature, 401},
		"signature_of_31_bytes": {signature(31), iapAudience, ErrSignature, 401},
		"signature_of_32_bytes": {signature(32), iapAudience, ErrSignature, 401},
		"signature_of_63_bytes": {signature(63), iapAudience, ErrSignature, 401},
		"signature_of_65_bytes": {signature(65), iapAudience, ErrSignature, 401},
		"signature_zero":        {signature(64), iapAudience, ErrSignature, 401},
		"signature_ones": {changed(func(d *draft) {
			d.sign = fixed([]byte(strings.Repeat("\xff", 64)))
		}), iapAudience, ErrSignature, 401},
		"signature_in_asn1": {changed(func(d *draft) {
			d.sign = func(signed string) []byte {
				digest := sha256.Sum256([]byte(signed))
				der, err := ecdsa.SignASN1(rand.Reader, iapKey(), digest[:])
				if err != nil {
					panic(err)
				}
				return der
			}
		}), iapAudience, ErrSignature, 401},
		"foreign_key":        {changed(func(d *draft) { d.sign = signES256(otherKey) }), iapAudience, ErrSignature, 401},
		"altered_signature":  {changed(alterSignature(40)), iapAudience, ErrSignature, 401},
		"altered_payload":    {changed(func(d *draft) { d.alter = rewriteClaim(d, "email", "root@example.com") }), iapAudience, ErrSignature, 401},
		"key_id_unknown":     {changed(func(d *draft) { d.header["kid"] = "ec-2" }), iapAudience, ErrKeyID, 401},
		"key_id_of_google":   {changed(func(d *draft) { d.header["kid"] = rsaKeyID }), iapAudience, ErrKeyID, 401},
		"alg_none":           {changed(func(d *draft) { d.header["alg"] = "none" }), iapAudience, ErrAlgorithm, 401},
		"embedded_jwk":       {changed(func(d *draft) { d.header["jwk"] = map[string]any{} }), iapAudience, ErrMalformed, 401},
		"expired":            {claim("exp", now.Unix()-31), iapAudience, ErrExpired, 401},
		"forged":             {changed(func(d *draft) { d.claims["exp"], d.sign = now.Unix()+3600, signES256(otherKey) }), iapAudience, ErrSignature, 401},
		"no_exp":             {changed(func(d *draft) { delete(d.claims, "exp") }), iapAudience, ErrNoExpiry, 401},
		"iat_in_the_future":  {claim("iat", now.Unix()+3600), iapAudience, ErrNotYetValid, 401},
		"nbf_in_the_future":  {claim("nbf", now.Unix()+3600), iapAudience, ErrNotYetValid, 401},
		"nbf_string":         {claim("nbf", "1"), iapAudience, ErrMalformed, 401},
		"life_too_long":      {changed(func(d *draft) { d.claims["exp"] = d.claims["iat"].(int64) + 25*3600 + 1 }), iapAudience, ErrLife, 401},
		"b64":                {changed(func(d *draft) { d.header["b64"] = false }), iapAudience, ErrMalformed, 401},
		"zip":                {changed(func(d *draft) { d.header["zip"] = "DEF" }), iapAudience, ErrMalformed, 401},
		"issuer_empty":       {claim("iss", ""), iapAudience, ErrIssuer, 403},
		"issuer_of_google":   {claim("iss", "https://accounts.google.com"), iapAudience, ErrIssuer, 403},
		"audience_wrong":     {[]string{valid}, iapAudience + "9", ErrAudience, 403},
		"audience_list":      {claim("aud", []string{iapAudience}), iapAudience, ErrAudience, 403},
		"audience_missing":   {claim("aud", nil), iapAudience, ErrAudience, 403},
		"audience_two_cases": {changed(func(d *draft) { d.claims["Aud"] = "x" }), iapAudience, ErrMalformed, 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newVerifier(t, nil).IAP(throughIAP(tt.values...), tt.audience)
			wantRefusal(t, got, err, tt.want, tt.status)
		})
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		query, want string
		err         error
		status      int
	}{
		"equal":               {"token=s3cret", "s3cret", nil, 0},
		"equal_among_others":  {"a=b&token=s3cret&Token=x", "s3cret", nil, 0},
		"equal_escaped":       {"token=%733cret%26", "s3cret&", nil, 0},
		"wrong":               {"token=s3creT", "s3cret", ErrSecret, 403},
		"prefix":              {"token=s3cre", "s3cret", ErrSecret, 403},
		"longer":              {"token=s3crett", "s3cret", ErrSecret, 403},
		"missing":             {"", "s3cret", ErrSecret, 403},
		"empty":               {"token=", "s3cret", ErrSecret, 403},
		"other_case":          {"TOKEN=s3cret", "s3cret", ErrSecret, 403},
		"twice":               {"token=s3cret&token=s3cret", "s3cret", ErrSecret, 403},
		"twice_wrong_first":   {"token=x&token=s3cret", "s3cret", ErrSecret, 403},
		"unparsable":          {"token=%s3cret", "s3cret", ErrSecret, 403},
		"semicolon":           {"token=s3cret;token=x", "s3cret", ErrSecret, 403},
		"nothing_to_compare":  {"token=", "", ErrPolicy, 500},
		"nothing_and_missing": {"", "", ErrPolicy, 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodPost, "/?"+tt.query, nil)
			err := Secret(r, tt.want)
			if tt.err == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantRefusal(t, Claims{}, err, tt.err, tt.status)
			if strings.Contains(err.Error(), "s3") {
				t.Errorf("%q quotes the secret", err)
			}
		})
	}
}
