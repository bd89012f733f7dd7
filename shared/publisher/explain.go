package publisher

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// explain says what is wrong with the body of topics.publish that protojson has
// refused, and where: "messages[3].data, at byte 120, is not base64". protojson
// decides, since it reads as Google does, but its errors name neither. What
// explain does not find it calls unreadable.
func explain(body []byte) string {
	switch {
	case bytes.HasPrefix(body, []byte("\xef\xbb\xbf")):
		return "it begins with a byte order mark (BOM), at byte 0"
	case bytes.HasPrefix(body, []byte("\xfe\xff")), bytes.HasPrefix(body, []byte("\xff\xfe")):
		return "it begins with the byte order mark (BOM) of UTF-16, at byte 0, and only UTF-8 is read"
	case len(bytes.TrimSpace(body)) == 0:
		return "it is empty"
	}
	e := explainer{body: body, json: json.NewDecoder(bytes.NewReader(body))}
	e.json.UseNumber() // 1e999 is a number, too
	err := e.object("the body", false, func(name string) (string, func(string) error) {
		return "messages", pick(name == "messages", e.messages)
	})
	if err == nil {
		if at := e.next(); at < len(body) {
			err = fmt.Errorf("something follows its end, at byte %d", at)
		}
	}
	if err == nil {
		return "it cannot be read"
	}
	return err.Error()
}

// explainer reads a body token by token until something is wrong.
type explainer struct {
	body []byte
	json *json.Decoder
}

// next is where the next token begins, in bytes from the body's start.
func (e *explainer) next() int {
	at := int(e.json.InputOffset())
	return at + len(e.body[at:]) - len(bytes.TrimLeft(e.body[at:], " \t\r\n,:"))
}

// token returns the token at path, and where it begins.
func (e *explainer) token(path string) (token json.Token, at int, err error) {
	at = e.next()
	token, err = e.json.Token()
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, at, fmt.Errorf("it ends early, in %s, at byte %d", path, len(e.body))
	case errors.As(err, &syntax):
		return nil, at, fmt.Errorf("it is not JSON: %w, in %s, at byte %d", err, path, at)
	case err != nil:
		return nil, at, fmt.Errorf("it is not JSON, in %s, at byte %d", path, at)
	}
	if s, ok := token.(string); ok {
		raw := e.body[at:e.json.InputOffset()]
		if !utf8.Valid(raw) {
			return nil, at, fmt.Errorf("%s, at byte %d, is not UTF-8", path, at)
		}
		if strings.ContainsRune(s, utf8.RuneError) && bytes.Contains(bytes.ToLower(raw), []byte(`\ud`)) {
			return nil, at, fmt.Errorf("%s, at byte %d, has half of a surrogate pair", path, at)
		}
	}
	return token, at, nil
}

// wrongType says that a value is not what it must be.
func wrongType(path string, at int, token json.Token, want string) error {
	got := "a number"
	switch t := token.(type) {
	case nil:
		got = "null"
	case bool:
		got = "a boolean"
	case string:
		got = "a string"
	case json.Delim:
		got = "an object"
		if t == '[' {
			got = "an array"
		}
	}
	return fmt.Errorf("%s, at byte %d, is %s and must be %s", path, at, got, want)
}

// pick returns read if the field is known.
func pick(known bool, read func(string) error) func(string) error {
	if known {
		return read
	}
	return nil
}

// object reads the object at path. field returns the names that may stand in it,
// for the message, and what reads the value of the field with this name, nil for
// an unknown one.
func (e *explainer) object(path string, nullable bool, field func(name string) (names string, read func(path string) error)) error {
	token, at, err := e.token(path)
	if err != nil || token == nil && nullable {
		return err
	}
	if token != json.Delim('{') {
		return wrongType(path, at, token, "an object")
	}
	seen := map[string]bool{}
	for e.json.More() {
		token, at, err := e.token(path)
		if err != nil {
			return err
		}
		name, ok := token.(string)
		if !ok {
			return wrongType(path, at, token, "an object with quoted names")
		}
		names, read := field(name)
		if read == nil {
			return fmt.Errorf("%s has the unknown field %.64q, at byte %d; its fields are %s", path, name, at, names)
		}
		if seen[camelCase(name)] {
			return fmt.Errorf("%s has the field %.64q twice, at byte %d", path, name, at)
		}
		seen[camelCase(name)] = true
		member := name
		if names == "" {
			member = fmt.Sprintf("[%.64q]", name)
		} else if path != "the body" {
			member = "." + name
		}
		if err := read(strings.TrimPrefix(path, "the body") + member); err != nil {
			return err
		}
	}
	_, _, err = e.token(path)
	return err
}

// camelCase returns the name by which Google's JSON knows a field.
func camelCase(name string) string {
	switch name {
	case "message_id":
		return "messageId"
	case "publish_time":
		return "publishTime"
	case "ordering_key":
		return "orderingKey"
	}
	return name
}

func (e *explainer) messages(path string) error {
	token, at, err := e.token(path)
	if err != nil || token == nil {
		return err
	}
	if token != json.Delim('[') {
		return wrongType(path, at, token, "an array")
	}
	for i := 0; e.json.More(); i++ {
		if err := e.object(fmt.Sprintf("%s[%d]", path, i), false, e.messageField); err != nil {
			return err
		}
	}
	_, _, err = e.token(path)
	return err
}

func (e *explainer) messageField(name string) (names string, read func(string) error) {
	names = "data, attributes, orderingKey, messageId, publishTime"
	switch camelCase(name) {
	case "data":
		read = e.text(true, "base64", isBase64)
	case "attributes":
		read = func(path string) error {
			return e.object(path, true, func(string) (string, func(string) error) { return "", e.text(false, "", nil) })
		}
	case "orderingKey", "messageId":
		read = e.text(true, "", nil)
	case "publishTime":
		read = e.text(true, "a time in RFC 3339", func(s string) bool {
			_, err := time.Parse(time.RFC3339Nano, s)
			return err == nil
		})
	}
	return names, read
}

// text returns what reads a string that must satisfy is.
func (e *explainer) text(nullable bool, want string, is func(string) bool) func(path string) error {
	return func(path string) error {
		token, at, err := e.token(path)
		if err != nil || token == nil && nullable {
			return err
		}
		s, ok := token.(string)
		if !ok {
			return wrongType(path, at, token, "a string")
		}
		if is != nil && !is(s) {
			return fmt.Errorf("%s, at byte %d, is not %s", path, at, want)
		}
		return nil
	}
}

// isBase64 accepts both alphabets, padded or not, as protojson does.
func isBase64(s string) bool {
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		encoding = base64.RawURLEncoding
	}
	if len(s)%4 == 0 {
		encoding = encoding.WithPadding(base64.StdPadding)
	}
	_, err := encoding.DecodeString(s)
	return err == nil
}
