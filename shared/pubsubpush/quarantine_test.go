package pubsubpush_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pubsubpush"
)

func TestReasons(t *testing.T) {
	t.Parallel()
	asJSON := http.Header{"Content-Type": {"application/json"}}
	for name, test := range map[string]struct {
		form   pubsubpush.Form
		header http.Header
		body   string
		want   inbox.Reason
	}{
		"empty":                 {pubsubpush.Wrapped, asJSON, "", inbox.ReasonEnvelope},
		"not_json":              {pubsubpush.Wrapped, asJSON, "hello", inbox.ReasonEnvelope},
		"half":                  {pubsubpush.Guessed, asJSON, forged[:40], inbox.ReasonEnvelope},
		"data_of_another_form":  {pubsubpush.Wrapped, asJSON, `{"status":"hi"}`, inbox.ReasonEnvelope},
		"message_in_capitals":   {pubsubpush.Wrapped, asJSON, strings.Replace(forged, "message", "Message", 1), inbox.ReasonEnvelope},
		"guessed_blank":         {pubsubpush.Guessed, asJSON, " ", inbox.ReasonUnknownForm},
		"guessed_array":         {pubsubpush.Guessed, asJSON, "[]", inbox.ReasonUnknownForm},
		"no_message_id":         {pubsubpush.Wrapped, asJSON, `{"message":{"data":"aGk="}}`, inbox.ReasonMessageID},
		"message_id_number":     {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":1}}`, inbox.ReasonMessageID},
		"message_id_in_case":    {pubsubpush.Wrapped, asJSON, `{"message":{"MessageID":"1"}}`, inbox.ReasonMessageID},
		"data_not_base64":       {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1","data":"a$"}}`, inbox.ReasonData},
		"data_array":            {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1","data":[1]}}`, inbox.ReasonData},
		"attribute_number":      {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1","attributes":{"k":1}}}`, inbox.ReasonAttributes},
		"publish_time":          {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1","publishTime":"now"}}`, inbox.ReasonField},
		"subscription_number":   {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1"},"subscription":1}`, inbox.ReasonField},
		"delivery_attempt":      {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1"},"deliveryAttempt":-1}`, inbox.ReasonField},
		"long_message_id":       {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"` + strings.Repeat("1", 2049) + `"}}`, inbox.ReasonLimits},
		"long_subscription":     {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1","data":"aGk="},"subscription":"` + strings.Repeat("1", 2049) + `"}`, inbox.ReasonLimits},
		"many_attributes":       {pubsubpush.Wrapped, asJSON, `{"message":{"messageId":"1","attributes":{"k":"` + strings.Repeat("v", 256<<10) + `"}}}`, inbox.ReasonLimits},
		"bare_of_10_000_001":    {pubsubpush.Bare, asJSON, strings.Repeat("x", inbox.MaxDataSize+1), inbox.ReasonLimits},
		"unwrapped_without":     {pubsubpush.Unwrapped, asJSON, forged, inbox.ReasonMetadata},
		"doubled_message_id":    {pubsubpush.Unwrapped, metadata("x-goog-pubsub-message-id", "8"), "hi", inbox.ReasonMetadata},
		"guessed_message_alone": {pubsubpush.Guessed, http.Header{"X-Goog-Pubsub-Message-Id": {"7"}}, "hi", inbox.ReasonMetadata},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := []byte(test.body)
			decoded, err := test.form.Decode(test.header, body)
			if err == nil {
				t.Fatalf("decoded %.200v", decoded)
			}
			m := pubsubpush.Quarantine(test.header, body, err)
			if m.Quarantined != test.want || string(m.Data) != test.body || m.Validate() != nil {
				t.Errorf("quarantined %q with %d of %d bytes: %v, want %q", m.Quarantined, len(m.Data), len(test.body), m.Validate(), test.want)
			}
		})
	}
}

// TestQuarantineHasTheHeaders holds that nothing of a push whose headers describe
// the message is lost, and that no credential is stored.
func TestQuarantineHasTheHeaders(t *testing.T) {
	t.Parallel()
	h := metadata("x-goog-pubsub-message-id", "8", "k", "v", "authorization", "Bearer x")
	_, err := pubsubpush.Unwrapped.Decode(h, nil)
	want := map[string]string{"x-goog-pubsub-message-id": "7, 8", "x-goog-pubsub-subscription-name": "s", "content-type": "application/json", "k": "v"}
	if diff := cmp.Diff(want, pubsubpush.Quarantine(h, nil, err).Attributes); diff != "" {
		t.Error(diff)
	}
	h.Set("k", strings.Repeat("v", 256<<10))
	if m := pubsubpush.Quarantine(h, nil, err); m.Validate() != nil {
		t.Errorf("with large headers: %v", m.Validate())
	}
}

// TestNamesMatchExactly writes each name of a push in another case, before and
// after the real one, with a value that would show.
func TestNamesMatchExactly(t *testing.T) {
	t.Parallel()
	members := map[string]string{
		"data": `"aGk="`, "attributes": `{"k":"v"}`, "messageId": `"1"`, "message_id": `"1"`, "publishTime": `"2026-11-01T10:00:00Z"`,
		"publish_time": `"2026-11-01T10:00:00Z"`, "orderingKey": `"o"`,
	}
	others := map[string]string{
		"data": `"eA=="`, "attributes": `{"x":"x"}`, "messageId": `"x"`, "message_id": `"x"`, "publishTime": `"x"`, "publish_time": `"x"`, "orderingKey": `"x"`,
	}
	var body []string
	for name, value := range members {
		body = append(body, `"`+name+`":`+value)
	}
	decode := func(body string) *inbox.Message {
		m, err := pubsubpush.Wrapped.Decode(http.Header{}, []byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return m
	}
	message := strings.Join(body, ",")
	want := decode(`{"message":{` + message + `},"subscription":"s","deliveryAttempt":2}`)
	for name, value := range others {
		for _, other := range []string{strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:], strings.Replace(name, "s", "\u017f", 1)} {
			if other == name {
				continue
			}
			extra := `"` + other + `":` + value
			for _, m := range []string{extra + "," + message, message + "," + extra} {
				if diff := cmp.Diff(want, decode(`{"message":{`+m+`},"subscription":"s","deliveryAttempt":2}`)); diff != "" {
					t.Errorf("%s: %s", other, diff)
				}
			}
		}
	}
	for _, extra := range []string{`"MESSAGE":{"messageId":"x"}`, `"Message":null`, `"Subscription":"x"`, `"SUBSCRIPTION":1`, `"\u017fubscription":"x"`, `"DeliveryAttempt":-1`} {
		envelope := `"message":{` + message + `},"subscription":"s","deliveryAttempt":2`
		for _, e := range []string{extra + "," + envelope, envelope + "," + extra} {
			if diff := cmp.Diff(want, decode("{"+e+"}")); diff != "" {
				t.Errorf("%s: %s", extra, diff)
			}
		}
	}
	// Of two values of one name the last counts, whole objects included.
	last := decode(`{"message":{"messageId":"x","attributes":{"x":"x"}},"message":{"messageId":"x",` + message + `},"subscription":"x","subscription":"s","deliveryAttempt":2}`)
	if diff := cmp.Diff(want, last); diff != "" {
		t.Errorf("doubled names: %s", diff)
	}
}
