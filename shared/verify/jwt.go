package verify

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// removedSignature stands where the signature was after Cloud Run has checked
// a token on behalf of a private service.
const removedSignature = "SIGNATURE_REMOVED_BY_GOOGLE"

// segments is strict about trailing bits; every segment has one spelling.
var segments = base64.RawURLEncoding.Strict()

// headerNames and claimNames are the fields that are read, here or by idtoken.
var (
	headerNames = append([]string{"alg", "kid", "typ"}, refusedNames...)
	claimNames  = [...]string{"iss", "aud", "sub", "email", "email_verified", "iat", "exp", "nbf"}
	// refusedNames are the header fields of RFC 7515, 7516, 7518 and 7797 by which a
	// token brings or names its own key (jwk and those with x5), demands that
	// other fields be understood (crit), or says that its payload is not the plain
	// JSON that it is read as. Google sends none of them. Fields that no standard
	// gives a meaning are ignored, as RFC 7515 says.
	refusedNames = []string{
		"crit", "jwk", "jku", "x5c", "x5u", "x5t", "x5t#S256",
		"b64", "cty", "zip", "enc", "epk", "apu", "apv", "iv", "tag", "p2s", "p2c",
	}
)

// bearer returns the token of the one Authorization header there must be.
func bearer(headers []string) (string, error) {
	switch {
	case len(headers) == 0 || len(headers) == 1 && headers[0] == "":
		return "", ErrNoToken
	case len(headers) > 1:
		return "", ErrRepeated
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", ErrScheme
	}
	if token = strings.TrimLeft(token, " "); token == "" {
		return "", ErrNoToken
	}
	return token, nil
}

// inspected is what inspect has seen of a token. None of it is proven.
type inspected struct {
	header    string // as it stands in the token
	keyID     string
	payload   []byte
	signature []byte
}

// inspect refuses, before any signature work, every token that idtoken must
// not see: those signed in another way than the route's, those that bring or
// name keys of their own, and those that would make it panic.
func inspect(rt *route, token string) (inspected, error) {
	// The decoder skips line breaks, so they would be a second spelling.
	if strings.Count(token, ".") != 2 || strings.ContainsAny(token, "\r\n") {
		return inspected{}, fmt.Errorf("%w: not three segments on one line", ErrMalformed)
	}
	header64, rest, _ := strings.Cut(token, ".")
	payload64, signature64, _ := strings.Cut(rest, ".")
	if header64 == "" || payload64 == "" || signature64 == "" {
		return inspected{}, fmt.Errorf("%w: an empty segment", ErrMalformed)
	}
	keyID, err := inspectHeader(rt, header64)
	if err != nil {
		return inspected{}, err
	}
	if signature64 == removedSignature {
		return inspected{}, ErrSignatureRemoved
	}
	if n := segments.DecodedLen(len(signature64)); n < rt.minSignature || n > rt.maxSignature {
		return inspected{}, fmt.Errorf("%w: it is %d bytes long", ErrSignature, n)
	}
	signature, err := segments.DecodeString(signature64)
	if err != nil {
		return inspected{}, fmt.Errorf("%w: signature: %w", ErrMalformed, err)
	}
	payload, err := segments.DecodeString(payload64)
	if err != nil {
		return inspected{}, fmt.Errorf("%w: payload: %w", ErrMalformed, err)
	}
	if payload[0] != '{' {
		return inspected{}, fmt.Errorf("%w: the payload is not a JSON object", ErrMalformed)
	}
	return inspected{header: header64, keyID: keyID, payload: payload, signature: signature}, nil
}

// passedHeader is a header that inspectHeader let pass, on a token that was
// then proven. All tokens signed with one key have the same.
type passedHeader struct{ segment, keyID string }

// inspectHeader returns the key ID that the header names.
func inspectHeader(rt *route, segment string) (keyID string, err error) {
	if passed := rt.header.Load(); passed != nil && passed.segment == segment {
		return passed.keyID, nil
	}
	header, err := segments.DecodeString(segment)
	if err != nil {
		return "", fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	var fields map[string]any
	if header[0] != '{' {
		return "", fmt.Errorf("%w: the header is not a JSON object", ErrMalformed)
	}
	if err := json.Unmarshal(header, &fields); err != nil {
		return "", fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	if members(header) != len(fields) {
		return "", fmt.Errorf("%w: a header field occurs twice", ErrMalformed)
	}
	if lookAlike(fields, headerNames) {
		return "", fmt.Errorf("%w: a header field has other upper and lower case", ErrMalformed)
	}
	for _, name := range refusedNames {
		if _, ok := fields[name]; ok {
			return "", fmt.Errorf("%w: the header holds %s", ErrMalformed, name)
		}
	}
	if typ, ok := fields["typ"]; ok {
		// Google signs other kinds of tokens with the same keys.
		if name, _ := typ.(string); !strings.EqualFold(name, "JWT") {
			return "", fmt.Errorf("%w: typ is not JWT", ErrMalformed)
		}
	}
	if algorithm, _ := fields["alg"].(string); algorithm != rt.algorithm {
		return "", ErrAlgorithm
	}
	if keyID, _ = fields["kid"].(string); keyID == "" {
		return "", fmt.Errorf("%w: the header names no key", ErrKeyID)
	}
	return keyID, nil
}

// lookAlike reports whether a name differs from one of known only in case.
// Go's JSON decoder, and so idtoken, reads both as the same field: a token
// could state two values at once.
func lookAlike(fields map[string]any, known []string) bool {
	for name := range fields {
		for _, k := range known {
			if name != k && strings.EqualFold(name, k) {
				return true
			}
		}
	}
	return false
}

// members counts the members of a JSON object, which must be valid. A decoded
// map with fewer entries has lost some that had the same name.
func members(object []byte) int {
	count, depth, quoted := 0, 0, false
	for i := 0; i < len(object); i++ {
		switch c := object[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ':' && depth == 1:
			count++
		}
	}
	return count
}
