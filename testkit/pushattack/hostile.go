// Package pushattack holds requests that a Pub/Sub push endpoint must refuse with
// nothing stored, each one change away from a push that it takes, and requests of
// the right sender that it must quarantine. Tests send them to a handler, to a
// function or to a running server.
package pushattack

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Target is the endpoint to attack.
type Target struct {
	// URL is where a push is taken, with its ?token= when there is one.
	URL string
	// Mint returns a token that the endpoint takes, but for the claims given;
	// nil leaves a claim out.
	Mint func(claims map[string]any) (string, error)
	// Keys is the JSON Web Key Set that holds the key of such tokens.
	Keys []byte
}

// Case is a request with the status it must be answered with.
type Case struct {
	Name    string
	Status  int
	Request *http.Request
}

// Body is a push that the endpoint takes with a good token. Every other
// request of this package would store the same message if it were let in.
const Body = `{"message":{"data":"aG9zdGlsZQ==","messageId":"hostile","publishTime":"2026-11-01T10:00:00Z"},"subscription":"projects/p/subscriptions/hostile"}`

// MessageID and Subscription are what Body would be stored under.
const (
	MessageID    = "hostile"
	Subscription = "projects/p/subscriptions/hostile"
)

// Good returns the request that the others are made from. It must be answered
// with 204.
func Good(t Target) (*http.Request, error) {
	token, err := t.Mint(nil)
	if err != nil {
		return nil, err
	}
	return request(t.URL, []string{"Bearer " + token}, strings.NewReader(Body)), nil
}

// Cases returns all requests that must be refused.
func Cases(t Target) ([]Case, error) {
	token, err := t.Mint(nil)
	if err != nil {
		return nil, err
	}
	key, err := publicKey(t.Keys)
	if err != nil {
		return nil, err
	}
	cases, err := credentials(t.URL, token, key)
	if err != nil {
		return nil, err
	}
	claims, err := wrongClaims(t)
	if err != nil {
		return nil, err
	}
	return append(append(append(cases, claims...), secrets(t.URL, token)...), requests(t.URL, token)...), nil
}

func request(target string, authorization []string, body io.Reader) *http.Request {
	r, err := http.NewRequest(http.MethodPost, target, body)
	if err != nil {
		panic(err) // the tests' own URL
	}
	r.Header.Set("Content-Type", "application/json")
	if authorization != nil {
		r.Header["Authorization"] = authorization
	}
	return r
}

// credentials are requests whose credential proves nothing.
func credentials(target, token string, key *rsa.PublicKey) ([]Case, error) {
	var cases []Case
	add := func(name string, authorization ...string) {
		cases = append(cases, Case{name, http.StatusUnauthorized, request(target, authorization, strings.NewReader(Body))})
	}
	header, payload, signature := split(token)
	good := "Bearer " + token
	bearer := func(parts ...string) string { return "Bearer " + strings.Join(parts, ".") }

	add("no_authorization")
	add("empty_authorization", "")
	add("no_token_after_scheme", "Bearer ")
	add("doubled_authorization", good, good)
	add("two_tokens", good+", "+good)
	add("basic_scheme", "Basic "+token)
	add("no_scheme", token)
	add("garbage", "Bearer garbage")
	add("not_base64", "Bearer ~.~.~")
	add("two_segments", bearer(header, payload))
	add("four_segments", bearer(header, payload, signature, signature))
	add("empty_segments", "Bearer ..")
	add("no_signature", bearer(header, payload, ""))
	add("signature_removed", bearer(header, payload, "SIGNATURE_REMOVED_BY_GOOGLE"))
	add("signature_altered", bearer(header, payload, Flip(signature)))
	add("signature_cut", bearer(header, payload, signature[:len(signature)/2]))
	add("payload_null", bearer(header, encode("null"), signature))
	add("payload_array", bearer(header, encode("[]"), signature))
	add("payload_empty", bearer(header, "", signature))
	add("200_kb", bearer(header, strings.Repeat("A", 200_000), signature))

	changedPayload, err := edit(payload, func(m map[string]any) { m["email"] = "somebody@else.example" })
	if err != nil {
		return nil, err
	}
	add("payload_altered", bearer(header, changedPayload, signature))
	headers := map[string]func(map[string]any){
		"header_altered":     func(m map[string]any) { m["typ"] = "jwt" },
		"alg_none":           func(m map[string]any) { m["alg"] = "none" },
		"alg_missing":        func(m map[string]any) { delete(m, "alg") },
		"alg_rs384":          func(m map[string]any) { m["alg"] = "RS384" },
		"alg_hs256":          func(m map[string]any) { m["alg"] = "HS256" },
		"alg_es256":          func(m map[string]any) { m["alg"] = "ES256" },
		"key_id_unknown":     func(m map[string]any) { m["kid"] = "unknown" },
		"key_id_missing":     func(m map[string]any) { delete(m, "kid") },
		"key_id_number":      func(m map[string]any) { m["kid"] = 1 },
		"embedded_jwk":       func(m map[string]any) { m["jwk"] = map[string]string{"kty": "RSA"} },
		"embedded_jku":       func(m map[string]any) { m["jku"] = "https://keys.example/jwks" },
		"critical_extension": func(m map[string]any) { m["crit"] = []string{"exp"} },
		"payload_not_base64": func(m map[string]any) { m["b64"] = false },
		"compressed":         func(m map[string]any) { m["zip"] = "DEF" },
	}
	for name, change := range headers {
		changed, err := edit(header, change)
		if err != nil {
			return nil, err
		}
		add(name, bearer(changed, payload, signature))
		if name == "alg_none" {
			add("alg_none_unsigned", bearer(changed, payload, ""))
		}
	}

	// A public key is no secret, so nobody may use it as one.
	hs256, err := edit(header, headers["alg_hs256"])
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	for name, secret := range map[string][]byte{
		"alg_hs256_keyed_with_pem":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"alg_hs256_keyed_with_der":     der,
		"alg_hs256_keyed_with_modulus": key.N.Bytes(),
		"alg_hs256_keyed_with_nothing": nil,
	} {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(hs256 + "." + payload))
		add(name, bearer(hs256, payload, encode(string(mac.Sum(nil)))))
	}

	// idtoken takes ES256 by the token's word and slices its signature.
	es256, err := edit(header, headers["alg_es256"])
	if err != nil {
		return nil, err
	}
	for _, n := range []int{0, 1, 31, 63, 64, 65} {
		add(fmt.Sprintf("alg_es256_signature_of_%d", n), bearer(es256, payload, encode(strings.Repeat("s", n))))
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(es256 + "." + payload))
	r, s, err := ecdsa.Sign(rand.Reader, ecKey, digest[:])
	if err != nil {
		return nil, err
	}
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	add("alg_es256_own_key", bearer(es256, payload, encode(string(raw))))

	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	digest = sha256.Sum256([]byte(header + "." + payload))
	signed, err := rsa.SignPKCS1v15(rand.Reader, foreign, crypto.SHA256, digest[:])
	if err != nil {
		return nil, err
	}
	add("signed_by_a_foreign_key", bearer(header, payload, encode(string(signed))))
	return cases, nil
}

// wrongClaims are requests with a genuine token of the wrong party or time.
func wrongClaims(t Target) ([]Case, error) {
	good, err := t.Mint(nil)
	if err != nil {
		return nil, err
	}
	_, payload, _ := split(good)
	var claims struct {
		Audience string `json:"aud"`
		Email    string `json:"email"`
	}
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err == nil {
		err = json.Unmarshal(b, &claims)
	}
	if err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	var cases []Case
	for _, c := range []struct {
		name   string
		status int
		claims map[string]any
	}{
		{"expired", 401, map[string]any{"iat": now - 7200, "exp": now - 3600}},
		{"no_exp", 401, map[string]any{"exp": nil}},
		{"iat_in_the_future", 401, map[string]any{"iat": now + 600}},
		{"no_iat", 401, map[string]any{"iat": nil}},
		{"nbf_a_string", 401, map[string]any{"nbf": "1"}},
		{"life_of_a_week", 401, map[string]any{"exp": now + 7*24*3600}},
		{"audience_wrong", 403, map[string]any{"aud": "https://example.com"}},
		{"audience_empty", 403, map[string]any{"aud": ""}},
		{"audience_absent", 403, map[string]any{"aud": nil}},
		{"audience_array", 403, map[string]any{"aud": []string{claims.Audience}}},
		{"audience_one_more", 403, map[string]any{"aud": claims.Audience + "/"}},
		{"audience_one_less", 403, map[string]any{"aud": claims.Audience[:len(claims.Audience)-1]}},
		{"audience_other_case", 403, map[string]any{"aud": strings.ToUpper(claims.Audience)}},
		{"email_wrong", 403, map[string]any{"email": "somebody@else.example"}},
		{"email_other_case", 403, map[string]any{"email": strings.ToUpper(claims.Email)}},
		{"email_with_suffix", 403, map[string]any{"email": claims.Email + ".evil.example"}},
		{"email_empty", 403, map[string]any{"email": ""}},
		{"email_absent", 403, map[string]any{"email": nil}},
		{"email_not_verified", 403, map[string]any{"email_verified": false}},
		{"email_verified_absent", 403, map[string]any{"email_verified": nil}},
		{"issuer_foreign", 403, map[string]any{"iss": "https://securetoken.google.com/p"}},
		{"issuer_iap", 403, map[string]any{"iss": "https://cloud.google.com/iap"}},
		{"issuer_look_alike", 403, map[string]any{"iss": "https://accounts.google.com.evil.example"}},
		{"issuer_http", 403, map[string]any{"iss": "http://accounts.google.com"}},
		{"issuer_with_slash", 403, map[string]any{"iss": "https://accounts.google.com/"}},
		{"issuer_of_people", 403, map[string]any{"iss": "accounts.google.com"}},
		{"issuer_absent", 403, map[string]any{"iss": nil}},
	} {
		token, err := t.Mint(c.claims)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		cases = append(cases, Case{c.name, c.status, request(t.URL, []string{"Bearer " + token}, strings.NewReader(Body))})
	}
	return cases, nil
}

// secrets are requests whose ?token= is not the endpoint's; none where it has
// none.
func secrets(target, token string) []Case {
	u, err := url.Parse(target)
	if err != nil || !u.Query().Has("token") {
		return nil
	}
	secret := u.Query().Get("token")
	var cases []Case
	for name, query := range map[string]url.Values{
		"secret_wrong":    {"token": {"wrong"}},
		"secret_empty":    {"token": {""}},
		"secret_absent":   {},
		"secret_prefix":   {"token": {secret[:len(secret)-1]}},
		"secret_suffixed": {"token": {secret + "x"}},
		"secret_twice":    {"token": {secret, secret}},
	} {
		u.RawQuery = query.Encode()
		cases = append(cases, Case{name, http.StatusForbidden, request(u.String(), []string{"Bearer " + token}, strings.NewReader(Body))})
	}
	return cases
}

// Undecodable returns requests of the right sender whose body is not a push. Each
// must be acknowledged, and stored as it came and as nothing else.
func Undecodable(t Target) ([]Case, error) {
	token, err := t.Mint(nil)
	if err != nil {
		return nil, err
	}
	var cases []Case
	for name, body := range map[string]string{
		"body_empty":         "",
		"body_not_json":      "hello",
		"body_null":          "null",
		"body_array":         "[]",
		"body_empty_object":  "{}",
		"body_bad_base64":    strings.Replace(Body, "aG9zdGlsZQ==", "aG9zdGlsZQ", 1),
		"body_no_message_id": strings.Replace(Body, "messageId", "other", 1),
		"body_trailing_data": Body + "x",
		"body_cut":           Body[:len(Body)-1],
		"body_deep_array":    strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000),
		"body_deep_field":    `{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "," + Body[1:],
	} {
		cases = append(cases, Case{name, http.StatusNoContent, request(t.URL, []string{"Bearer " + token}, strings.NewReader(body))})
	}
	return cases, nil
}

// requests are requests of the right sender that are too large, or not a POST.
func requests(target, token string) []Case {
	var cases []Case
	large := request(target, []string{"Bearer " + token}, io.MultiReader(strings.NewReader(Body), io.LimitReader(Spaces{}, 40_000_000)))
	large.ContentLength = int64(len(Body)) + 40_000_000
	// Without this a client may see the connection end before the answer.
	large.Header.Set("Expect", "100-continue")
	cases = append(cases, Case{"body_40_mb", http.StatusRequestEntityTooLarge, large})
	get := request(target, []string{"Bearer " + token}, nil)
	get.Method = http.MethodGet
	return append(cases, Case{"method_get", http.StatusMethodNotAllowed, get})
}

// Spaces is a body without an end.
type Spaces struct{}

// Read reads spaces.
func (Spaces) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte(" "), len(p))), nil
}

func split(token string) (header, payload, signature string) {
	parts := strings.Split(token, ".")
	return parts[0], parts[1], parts[2]
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// Flip changes one character in the middle, where all of its bits count.
func Flip(s string) string {
	b := []byte(s)
	if b[len(b)/2] == 'A' {
		b[len(b)/2] = 'B'
	} else {
		b[len(b)/2] = 'A'
	}
	return string(b)
}

// edit changes the JSON object in a token's segment.
func edit(segment string, change func(map[string]any)) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		return "", err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return "", err
	}
	change(m)
	b, err = json.Marshal(m)
	return encode(string(b)), err
}

func publicKey(keys []byte) (*rsa.PublicKey, error) {
	var set struct {
		Keys []struct{ N, E string }
	}
	if err := json.Unmarshal(keys, &set); err != nil || len(set.Keys) == 0 {
		return nil, fmt.Errorf("hostile: no key set: %v", err)
	}
	n, err := base64.RawURLEncoding.DecodeString(set.Keys[0].N)
	if err != nil {
		return nil, err
	}
	e, err := base64.RawURLEncoding.DecodeString(set.Keys[0].E)
	if err != nil {
		return nil, err
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
}
