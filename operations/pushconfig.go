package operations

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/delivery"
)

// escapedMarker stands for a token that is written with escapes, and is written so
// itself.
const escapedMarker = "TOKEN%2DIS%2DNOT%2DRECORDED"

// guarded is the length from which on a token is searched for in everything that is
// written down. A shorter one is in many a word.
const guarded = 8

// replaceTokens returns an address with each value of its parameter token replaced.
func replaceTokens(address string, replace func(raw string) (string, error)) (string, error) {
	base, query, found := strings.Cut(address, "?")
	if !found {
		return address, nil
	}
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, raw, hasValue := strings.Cut(part, "=")
		plain, err := url.QueryUnescape(name)
		if err != nil {
			return "", fmt.Errorf("the address %s has a parameter that cannot be read", delivery.HideToken(address))
		}
		if plain != "token" || !hasValue {
			continue
		}
		value, err := replace(raw)
		if err != nil {
			return "", err
		}
		parts[i] = name + "=" + value
	}
	return base + "?" + strings.Join(parts, "&"), nil
}

// replaceAll is replaceTokens for every part of a push configuration that can have
// the token: the audience of a signed push is the endpoint, unless told otherwise.
func replaceAll(c *pubsubpb.PushConfig, replace func(raw string) (string, error)) (*pubsubpb.PushConfig, error) {
	changed := proto.CloneOf(c)
	var err error
	if changed.PushEndpoint, err = replaceTokens(c.PushEndpoint, replace); err != nil {
		return nil, err
	}
	if oidc := changed.GetOidcToken(); oidc != nil {
		if oidc.Audience, err = replaceTokens(oidc.Audience, replace); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

var errEscapes = errors.New("the token in the push endpoint is written with escapes in a way that cannot be restored")

// Conceal returns a push configuration as a record has it, serialized, with markers in
// place of the shared token, and the token; empty where there is none. What could not be
// restored from that is an error.
func Conceal(c *pubsubpb.PushConfig) (recorded []byte, token string, err error) {
	concealed, err := replaceAll(c, func(raw string) (string, error) {
		plain, err := url.QueryUnescape(raw)
		if err != nil {
			return "", errEscapes
		}
		if token != "" && token != plain {
			return "", errors.New("the push endpoint has two tokens")
		}
		switch token = plain; raw {
		case "":
			return "", nil
		case plain:
			return delivery.TokenMarker, nil
		case url.QueryEscape(plain):
			return escapedMarker, nil
		}
		return "", errEscapes
	})
	if err != nil {
		return nil, "", err
	}
	if recorded, err = (proto.MarshalOptions{Deterministic: true}).Marshal(concealed); err != nil {
		return nil, "", err
	}
	if len(token) >= guarded && bytes.Contains(recorded, []byte(token)) {
		return nil, "", errors.New("the token in the push endpoint is in another part of the push configuration too, which must not be written down")
	}
	return recorded, token, nil
}

// recordedConfig returns the push configuration of a record, with its markers, and
// whether it has any.
func recordedConfig(recorded []byte) (c *pubsubpb.PushConfig, hasToken bool, err error) {
	c = new(pubsubpb.PushConfig)
	if err := proto.Unmarshal(recorded, c); err != nil {
		return nil, false, fmt.Errorf("the recorded push configuration cannot be read: %w", err)
	}
	if c.PushEndpoint == "" {
		return nil, false, errors.New("the recorded push configuration has no endpoint")
	}
	_, err = replaceAll(c, func(raw string) (string, error) {
		hasToken = hasToken || raw == delivery.TokenMarker || raw == escapedMarker
		return raw, nil
	})
	return c, hasToken, err
}

// reveal returns a recorded push configuration as it was.
func reveal(c *pubsubpb.PushConfig, token string) (*pubsubpb.PushConfig, error) {
	return replaceAll(c, func(raw string) (string, error) {
		switch raw {
		case delivery.TokenMarker:
			return token, nil
		case escapedMarker:
			return url.QueryEscape(token), nil
		}
		return raw, nil
	})
}

// withoutTokens returns err without the shared token of c: Pub/Sub repeats an endpoint
// that it refuses.
func withoutTokens(err error, c *pubsubpb.PushConfig) error {
	text := err.Error()
	_, _ = replaceAll(c, func(raw string) (string, error) {
		for _, secret := range []string{raw, unescaped(raw)} {
			if secret != "" {
				text = strings.ReplaceAll(text, secret, "…")
			}
		}
		return raw, nil
	})
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

func unescaped(raw string) string {
	plain, err := url.QueryUnescape(raw)
	if err != nil {
		return raw
	}
	return plain
}

// token returns the shared token from where Options says that it is.
func (op *Operator) token(ctx context.Context) (string, error) {
	if op.o.Token == nil {
		return "", errors.New("the push endpoint has a shared token, ?token=, and nothing says where to read it: give --token-file FILE, or --terraform DIR where Terraform keeps it")
	}
	token, err := op.o.Token(ctx)
	if err == nil && token == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", fmt.Errorf("the push endpoint has a shared token, ?token=, which cannot be read from %s: %w", op.o.TokenSource, err)
	}
	return token, nil
}

// checkToken returns an error unless the shared token can be read again, as it is.
func (op *Operator) checkToken(ctx context.Context, inForce string) error {
	token, err := op.token(ctx)
	if err == nil && sha256.Sum256([]byte(token)) != sha256.Sum256([]byte(inForce)) {
		err = fmt.Errorf("the shared token in the push endpoint is not the one in %s", op.o.TokenSource)
	}
	return err
}
