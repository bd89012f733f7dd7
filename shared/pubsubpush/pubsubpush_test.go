package pubsubpush_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/pubsubpush"
)

const samples = "../../testdata/pubsub"

// recorded reads a sample: a JSON body, or a whole request.
func recorded(tb testing.TB, name string) (http.Header, []byte) {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(samples, name))
	if err != nil {
		tb.Fatal(err)
	}
	if !strings.HasSuffix(name, ".http") {
		return http.Header{"Content-Type": {"application/json"}}, b
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		tb.Fatal(err)
	}
	// net/http reads no body without a length; the samples have none, so that
	// people can edit them.
	_, body, _ := bytes.Cut(b, []byte("\r\n\r\n"))
	return r.Header, body
}

func TestDecodeRecorded(t *testing.T) {
	t.Parallel()
	published := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	for name, want := range map[string]*inbox.Message{
		"sample_message.json": {
			Source: "pubsub", Subscription: "projects/myproject/subscriptions/mysubscription",
			MessageID: "2070443601311540", PublishTime: time.Date(2021, 2, 26, 19, 13, 55, 749e6, time.UTC),
			Data: []byte("Hello, World!"),
		},
		"twin_fields.json": {
			Source: "pubsub", Subscription: "projects/p/subscriptions/s",
			MessageID: "11", PublishTime: published.Add(123456789), Data: []byte{0, 1, 255, 251},
			Attributes:  map[string]string{"kind": "order", "odd key ☃": "=&\n"},
			OrderingKey: "customer-1", DeliveryAttempt: 3,
		},
		"snake_case_only.json": {
			Source: "pubsub", Subscription: "projects/p/subscriptions/s",
			MessageID: "12", PublishTime: published, Data: []byte("hi"),
		},
		"attributes_only.json": {
			Source: "pubsub", Subscription: "projects/p/subscriptions/s",
			MessageID: "13", PublishTime: published, Attributes: map[string]string{"k": "v"},
		},
		"unwrapped_metadata.http": {
			Source: "pubsub", Subscription: "projects/p/subscriptions/s",
			MessageID: "14", PublishTime: published.Add(500 * time.Millisecond), Data: []byte(`{"status": "Hello there"}`),
			Attributes: map[string]string{"kind": "greeting", "content-type": "application/json"}, OrderingKey: "some-key",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := pubsubpush.Decode(recorded(t, name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeVariants(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		contentType string
		body        string
		data        string
	}{
		"camel_case_wins":            {"application/json", `{"message":{"messageId":"1","message_id":"2","data":"aGk="}}`, "hi"},
		"data_empty":                 {"application/json", `{"message":{"messageId":"1","data":"","attributes":{"k":"v"}}}`, ""},
		"data_twice_last_wins":       {"application/json", `{"message":{"messageId":"1","data":"eA==","data":"aGk="}}`, "hi"},
		"data_text_stands_elsewhere": {"application/json", `{"x":"aGk=","message":{"messageId":"1","data":"aGk="},"subscription":"aGk="}`, "hi"},
		"data_null":                  {"application/json", `{"message":{"messageId":"1","data":null,"attributes":{"k":"v"}}}`, ""},
		"escaped_slash_in_base64":    {"application/json", `{"message":{"messageId":"1","data":"\/\/\/\/"}}`, "\xff\xff\xff"},
		"unknown_fields_tolerated":   {"application/json", `{"new":[1],"message":{"messageId":"1","data":"aGk=","new":{}}}`, "hi"},
		"envelope_of_another_type":   {"application/x-www-form-urlencoded", `{"message":{"messageId":"1","data":"aGk="}}`, "hi"},
		"envelope_without_type":      {"", `{"message":{"messageId":"1","data":"aGk="}}`, "hi"},
		"json_with_a_charset":        {"application/json; charset=utf-8", `{"message":{"messageId":"1","data":"aGk="}}`, "hi"},
		"white_space_around":         {"application/json", "\r\n\t " + `{"message":{"messageId":"1","data":"aGk="}}` + "\n", "hi"},
		"bare_bytes":                 {"application/octet-stream", "\x00\xff", "\x00\xff"},
		"bare_text_without_type":     {"", "hello", "hello"},
		"bare_json_object":           {"application/json", `{"status":"hi"}`, `{"status":"hi"}`},
		"bare_json_with_message":     {"application/json", `{"message":"hi","level":"info"}`, `{"message":"hi","level":"info"}`},
		"bare_text_like_json":        {"text/plain", `{"status":`, `{"status":`},
		"bare_array_that_is_no_json": {"text/csv", `[]`, `[]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := http.Header{}
			if test.contentType != "" {
				h.Set("Content-Type", test.contentType)
			}
			m, err := pubsubpush.Decode(h, []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if string(m.Data) != test.data || m.MessageID == "" {
				t.Errorf("data %q of message %q, want %q", m.Data, m.MessageID, test.data)
			}
			if strings.Contains(name, "wins") && m.MessageID != "1" {
				t.Errorf("message ID %q, want camelCase's", m.MessageID)
			}
		})
	}
}

// TestLargeDataInPlace covers the sizes around which data is decoded where it
// stands, and a body that holds the same text more than once.
func TestLargeDataInPlace(t *testing.T) {
	t.Parallel()
	for _, n := range []int{48 << 10, 48<<10 - 3, 48<<10 + 1, 1 << 20, 9_998_000} {
		data := bytes.Repeat([]byte("\x00\xff0123456789"), n/12+1)[:n]
		text := base64.StdEncoding.EncodeToString(data)
		for name, body := range map[string]string{
			"once":    `{"message":{"messageId":"1","data":"` + text + `"},"subscription":"s"}`,
			"twice":   `{"other":"` + text + `","message":{"messageId":"1","data":"` + text + `"},"subscription":"s"}`,
			"escaped": `{"message":{"messageId":"1","data":"` + strings.ReplaceAll(text, "/", `\/`) + `"},"subscription":"s"}`,
		} {
			m, err := pubsubpush.Decode(http.Header{"Content-Type": {"application/json"}}, []byte(body))
			if err != nil || !bytes.Equal(m.Data, data) || m.Subscription != "s" || m.MessageID != "1" {
				t.Errorf("%d bytes, %s: %v", n, name, err)
			}
		}
		_, err := pubsubpush.Decode(http.Header{}, []byte(`{"message":{"messageId":"1","data":"`+text[:len(text)-5]+`*****"}}`))
		if !errors.Is(err, pubsubpush.ErrMalformed) {
			t.Errorf("%d bytes of bad base64: %v", n, err)
		}
	}
}

func TestWithoutMetadataTheBodyIsTheIdentity(t *testing.T) {
	t.Parallel()
	id := func(body string) string {
		m, err := pubsubpush.Decode(http.Header{}, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return inbox.ID(m.Source, m.Subscription, m.MessageID)
	}
	first := id("a")
	if again := id("a"); again != first {
		t.Error("a redelivery is another message")
	}
	if first == id("b") {
		t.Error("two messages are one")
	}
}

// Refused is every body that must not be stored, as application/json.
var refused = map[string]string{
	"empty":                 "",
	"blank":                 " \n",
	"not_json":              "hello",
	"null":                  "null",
	"array":                 "[]",
	"number":                "1",
	"string":                `"x"`,
	"empty_object":          "{}",
	"half":                  `{"message":{"messageId":"1"`,
	"trailing_data":         `{"message":{"messageId":"1","data":"aGk="}} x`,
	"trailing_object":       `{"message":{"messageId":"1","data":"aGk="}}{}`,
	"no_message_id":         `{"message":{"data":"aGk="},"subscription":"s"}`,
	"empty_message":         `{"message":{}}`,
	"message_id_number":     `{"message":{"messageId":1,"data":"aGk="}}`,
	"bad_base64":            `{"message":{"messageId":"1","data":"a$=="}}`,
	"unpadded_base64":       `{"message":{"messageId":"1","data":"aGk"}}`,
	"url_base64":            `{"message":{"messageId":"1","data":"__-_"}}`,
	"data_array":            `{"message":{"messageId":"1","data":[104,105]}}`,
	"attribute_number":      `{"message":{"messageId":"1","attributes":{"k":1}}}`,
	"attributes_array":      `{"message":{"messageId":"1","attributes":[]}}`,
	"bad_publish_time":      `{"message":{"messageId":"1","publishTime":"yesterday"}}`,
	"subscription_number":   `{"message":{"messageId":"1"},"subscription":1}`,
	"delivery_attempt_text": `{"message":{"messageId":"1"},"deliveryAttempt":"1"}`,
	"delivery_attempt_low":  `{"message":{"messageId":"1"},"deliveryAttempt":-1}`,
	"deep_arrays":           strings.Repeat("[", 20_000),
	"deep_objects":          strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000),
	"deep_in_message":       `{"message":{"messageId":"1","x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}}",
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, body := range refused {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := pubsubpush.Decode(http.Header{"Content-Type": {"application/json"}}, []byte(body))
			if m != nil || !errors.Is(err, pubsubpush.ErrMalformed) {
				t.Errorf("got %v, %v, want ErrMalformed", m, err)
			}
		})
	}
}

func TestDecodeRefusesAmbiguousMetadata(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(http.Header){
		"doubled_message_id": func(h http.Header) { h.Add("x-goog-pubsub-message-id", "15") },
		"empty_message_id":   func(h http.Header) { h.Set("x-goog-pubsub-message-id", "") },
		"no_message_id":      func(h http.Header) { h.Del("x-goog-pubsub-message-id") },
		"no_subscription":    func(h http.Header) { h.Del("x-goog-pubsub-subscription-name") },
		"doubled_ordering_key": func(h http.Header) {
			h.Add("x-goog-pubsub-ordering-key", "a")
			h.Add("x-goog-pubsub-ordering-key", "b")
		},
		"doubled_publish_time": func(h http.Header) {
			h["X-Goog-Pubsub-Publish-Time"] = []string{"2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"}
		},
		"doubled_subscription": func(h http.Header) { h.Add("x-goog-pubsub-subscription-name", "projects/p/subscriptions/other") },
		"bad_publish_time":     func(h http.Header) { h.Set("x-goog-pubsub-publish-time", "now") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, body := recorded(t, "unwrapped_metadata.http")
			change(h)
			if m, err := pubsubpush.Decode(h, body); !errors.Is(err, pubsubpush.ErrMalformed) {
				t.Errorf("got %v, %v, want ErrMalformed", m, err)
			}
		})
	}
}

func TestMetadataKeepsCredentialsOut(t *testing.T) {
	t.Parallel()
	h, body := recorded(t, "unwrapped_metadata.http")
	h.Set("Authorization", "Bearer secret")
	h.Set("Cookie", "secret")
	h.Set("X-Cloud-Trace-Context", "1/2")
	h.Set("Latin", "caf\xe9")
	m, err := pubsubpush.Decode(h, body)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"kind": "greeting", "content-type": "application/json", "latin": "caf\uFFFD"}
	if diff := cmp.Diff(want, m.Attributes); diff != "" {
		t.Error(diff)
	}
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzWrapped(f *testing.F) {
	for _, name := range []string{"sample_message.json", "twin_fields.json", "snake_case_only.json", "attributes_only.json"} {
		_, body := recorded(f, name)
		f.Add(body)
	}
	for _, body := range refused {
		f.Add([]byte(body[:min(len(body), 200)]))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		check(t, http.Header{"Content-Type": {"application/json"}}, body)
	})
}

func FuzzUnwrapped(f *testing.F) {
	h, body := recorded(f, "unwrapped_metadata.http")
	id, sub, at := h.Get("x-goog-pubsub-message-id"), h.Get("x-goog-pubsub-subscription-name"), h.Get("x-goog-pubsub-publish-time")
	f.Add("application/json", id, sub, at, "kind", "greeting", body)
	f.Add("", "", "", "", "authorization", "Bearer x", []byte("bare"))
	f.Add("text/plain; charset=\xff", "1", "s", "", "x-goog-pubsub-message-id", "2", []byte{})
	f.Fuzz(func(t *testing.T, contentType, id, sub, at, key, value string, body []byte) {
		h := http.Header{}
		for k, v := range map[string]string{
			"Content-Type": contentType, "x-goog-pubsub-message-id": id,
			"x-goog-pubsub-subscription-name": sub, "x-goog-pubsub-publish-time": at,
		} {
			if v != "" {
				h.Set(k, v)
			}
		}
		if key != "" {
			h.Add(key, value)
		}
		check(t, h, body)
	})
}

// check holds a decoded message to what every store relies on: either an
// error with status 400, or a source and an ID that a second decoding gives
// again.
func check(t *testing.T, h http.Header, body []byte) {
	redelivered := bytes.Clone(body)
	m, err := pubsubpush.Decode(h, body)
	if err != nil {
		if status, _ := problem.Of(err); m != nil || status != http.StatusBadRequest {
			t.Fatalf("got %v, status %d for %v", m, status, err)
		}
		return
	}
	if m.Source != inbox.SourcePubSub || m.MessageID == "" || m.DeliveryAttempt < 0 {
		t.Fatalf("decoded %+v", m)
	}
	again, err := pubsubpush.Decode(h, redelivered)
	if err != nil || again.MessageID != m.MessageID || again.Subscription != m.Subscription {
		t.Fatalf("a redelivery is another message: %v, %v, %v", m, again, err)
	}
}

func BenchmarkDecode(b *testing.B) {
	h, _ := recorded(b, "sample_message.json")
	body := []byte(`{"message":{"attributes":{"k":"v"},"data":"` + strings.Repeat("QUJD", 1024/3) +
		`","messageId":"1","message_id":"1","publishTime":"2026-11-01T10:00:00Z","publish_time":"2026-11-01T10:00:00Z"},"subscription":"projects/p/subscriptions/s"}`)
	fresh := make([]byte, len(body))
	b.ReportAllocs()
	for b.Loop() {
		copy(fresh, body)
		if _, err := pubsubpush.Decode(h, fresh); err != nil {
			b.Fatal(err)
		}
	}
}
