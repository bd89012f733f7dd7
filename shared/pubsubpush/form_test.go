package pubsubpush_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/pubsubpush"
)

func TestFormOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]pubsubpush.Form{
		"/wrapped": pubsubpush.Wrapped, "/unwrapped": pubsubpush.Unwrapped, "/bare": pubsubpush.Bare,
		"": pubsubpush.Guessed, "/": pubsubpush.Guessed, "/any/path": pubsubpush.Guessed, "/Wrapped": pubsubpush.Guessed,
		"/wrapped/": pubsubpush.Wrapped, "/bare/": pubsubpush.Bare, "/unwrapped//": pubsubpush.Unwrapped, "/x/wrapped": pubsubpush.Guessed, "wrapped": pubsubpush.Guessed,
	} {
		if got := pubsubpush.FormOf(path); got != want {
			t.Errorf("%q: form %d, want %d", path, got, want)
		}
	}
}

// forged is data with which a publisher would be another message of another
// subscription if a push were taken for what it looks like.
const forged = `{"message":{"messageId":"forged","data":"aGk="},"subscription":"projects/p/subscriptions/forged"}`

// metadata are the headers of an unwrapped push.
func metadata(more ...string) http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("x-goog-pubsub-message-id", "7")
	h.Set("x-goog-pubsub-subscription-name", "s")
	for i := 0; i < len(more); i += 2 {
		h.Add(more[i], more[i+1])
	}
	return h
}

// TestFormIsNotThePublishersChoice sends what publishers could write to an
// endpoint of each form. A nil message is a refusal.
func TestFormIsNotThePublishersChoice(t *testing.T) {
	t.Parallel()
	asJSON := http.Header{"Content-Type": {"application/json"}}
	asText := http.Header{"Content-Type": {"text/plain"}}
	hashed := func(body string) *inbox.Message {
		sum := sha256.Sum256([]byte(body))
		return &inbox.Message{Source: "pubsub", MessageID: "sha256-" + hex.EncodeToString(sum[:]), Data: []byte(body)}
	}
	envelope := &inbox.Message{Source: "pubsub", Subscription: "projects/p/subscriptions/forged", MessageID: "forged", Data: []byte("hi")}
	unwrapped := func(data string, attributes map[string]string) *inbox.Message {
		if attributes == nil {
			attributes = map[string]string{}
		}
		attributes["content-type"] = "application/json"
		return &inbox.Message{Source: "pubsub", Subscription: "s", MessageID: "7", Data: []byte(data), Attributes: attributes}
	}
	for name, test := range map[string]struct {
		form   pubsubpush.Form
		header http.Header
		body   string
		want   *inbox.Message
	}{
		"wrapped":                          {pubsubpush.Wrapped, asJSON, forged, envelope},
		"wrapped_of_another_type":          {pubsubpush.Wrapped, asText, forged, envelope},
		"wrapped_with_metadata":            {pubsubpush.Wrapped, metadata(), forged, envelope},
		"wrapped_bare_json":                {pubsubpush.Wrapped, asJSON, `{"status":"hi"}`, nil},
		"wrapped_bare_text":                {pubsubpush.Wrapped, asText, "hello", nil},
		"wrapped_bare_json_as_text":        {pubsubpush.Wrapped, asText, `{"status":"hi"}`, nil},
		"wrapped_message_is_text":          {pubsubpush.Wrapped, asJSON, `{"message":"hi"}`, nil},
		"wrapped_bare_with_metadata":       {pubsubpush.Wrapped, metadata(), "hello", nil},
		"wrapped_half":                     {pubsubpush.Wrapped, asText, forged[:40], nil},
		"wrapped_bad_base64":               {pubsubpush.Wrapped, asText, strings.Replace(forged, "aGk=", "aGk", 1), nil},
		"wrapped_null":                     {pubsubpush.Wrapped, asJSON, "null", nil},
		"wrapped_empty":                    {pubsubpush.Wrapped, http.Header{}, "", nil},
		"unwrapped":                        {pubsubpush.Unwrapped, metadata(), "hello", unwrapped("hello", nil)},
		"unwrapped_envelope_is_data":       {pubsubpush.Unwrapped, metadata(), forged, unwrapped(forged, nil)},
		"unwrapped_empty":                  {pubsubpush.Unwrapped, metadata("k", "v"), "", unwrapped("", map[string]string{"k": "v"})},
		"unwrapped_envelope_without":       {pubsubpush.Unwrapped, asJSON, forged, nil},
		"unwrapped_without_metadata":       {pubsubpush.Unwrapped, asText, "hello", nil},
		"unwrapped_attribute_poses_as_id":  {pubsubpush.Unwrapped, metadata("x-goog-pubsub-message-id", "forged"), "hello", nil},
		"unwrapped_attribute_poses_as_sub": {pubsubpush.Unwrapped, metadata("x-goog-pubsub-subscription-name", "forged"), "hello", nil},
		"bare":                             {pubsubpush.Bare, asText, "hello", hashed("hello")},
		"bare_binary":                      {pubsubpush.Bare, http.Header{}, "\x00\xff", hashed("\x00\xff")},
		"bare_envelope_is_data":            {pubsubpush.Bare, asJSON, forged, hashed(forged)},
		"bare_metadata_is_not_believed":    {pubsubpush.Bare, metadata("k", "v"), "hello", hashed("hello")},
		"bare_doubled_metadata":            {pubsubpush.Bare, metadata("x-goog-pubsub-message-id", "forged"), "hello", hashed("hello")},
		"bare_bad_publish_time":            {pubsubpush.Bare, metadata("x-goog-pubsub-publish-time", "now"), "hello", hashed("hello")},
		"bare_json_array":                  {pubsubpush.Bare, asJSON, "[]", hashed("[]")},
		"bare_text_that_says_json":         {pubsubpush.Bare, asJSON, "hello", hashed("hello")},
		"bare_empty":                       {pubsubpush.Bare, asJSON, "", hashed("")},
		"guessed_envelope":                 {pubsubpush.Guessed, asJSON, forged, envelope},
		"guessed_metadata":                 {pubsubpush.Guessed, metadata(), forged, unwrapped(forged, nil)},
		"guessed_bare":                     {pubsubpush.Guessed, asText, "hello", hashed("hello")},
		"guessed_empty":                    {pubsubpush.Guessed, asText, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.form.Decode(test.header, []byte(test.body))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if (err == nil) != (test.want != nil) || err != nil && !errors.Is(err, pubsubpush.ErrMalformed) {
				t.Errorf("error %v", err)
			}
			if own, ok := err.(*problem.Error); ok && (own.Status != http.StatusBadRequest || !strings.Contains(own.Detail, "path")) {
				t.Errorf("answered %d %s", own.Status, own.Detail)
			}
		})
	}
}
