package inbox

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDeadLetterOf(t *testing.T) {
	t.Parallel()
	const dead = "projects/p/subscriptions/dead"
	published := time.Date(2026, 11, 26, 2, 10, 0, 123e6, time.UTC)
	whole := DeadLetter{Subscription: "projects/other/subscriptions/inbox-push", Attempts: 5, PublishTime: published}
	for name, test := range map[string]struct {
		change func(m *Message)
		by     string
		want   *DeadLetter
	}{
		"believed":             {func(*Message) {}, dead, &whole},
		"by_another":           {func(m *Message) { m.Subscription = "projects/p/subscriptions/inbox-push" }, dead, nil},
		"by_its_short_name":    {func(m *Message) { m.Subscription = "dead" }, dead, nil},
		"none_is_known":        {func(m *Message) { m.Subscription = "" }, "", nil},
		"from_elsewhere":       {func(m *Message) { m.Source = SourceMNS }, dead, nil},
		"no_attributes":        {func(m *Message) { m.Attributes = nil }, dead, nil},
		"no_subscription":      {func(m *Message) { delete(m.Attributes, DeadLetterSource+"Subscription") }, dead, nil},
		"not_a_name":           {func(m *Message) { m.Attributes[DeadLetterSource+"Subscription"] = "x\u202e" }, dead, nil},
		"another_path":         {func(m *Message) { m.Attributes[DeadLetterSource+"Subscription"] = "a/b" }, dead, nil},
		"a_long_name":          {func(m *Message) { m.Attributes[DeadLetterSource+"Subscription"] = strings.Repeat("x", 256) }, dead, nil},
		"attempts_not_counted": {func(m *Message) { m.Attributes[DeadLetterSource+"DeliveryCount"] = "-5" }, dead, &DeadLetter{whole.Subscription, 0, published}},
		"attempts_too_many":    {func(m *Message) { m.Attributes[DeadLetterSource+"DeliveryCount"] = "99999999999" }, dead, &DeadLetter{whole.Subscription, 0, published}},
		"time_unknown":         {func(m *Message) { m.Attributes[DeadLetterSource+"TopicPublishTime"] = "yesterday" }, dead, &DeadLetter{whole.Subscription, 5, time.Time{}}},
		"time_without_a_form":  {func(m *Message) { m.Attributes[DeadLetterSource+"TopicPublishTime"] = "9999-12-31T23:59:59-12:00" }, dead, &DeadLetter{whole.Subscription, 5, time.Time{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := Message{Source: SourcePubSub, Subscription: dead, Attributes: map[string]string{
				DeadLetterSource + "DeliveryCount": "5", DeadLetterSource + "Subscription": "inbox-push",
				DeadLetterSource + "SubscriptionProject": "other", DeadLetterSource + "TopicPublishTime": "2026-11-26T02:10:00.123+00:00",
			}}
			test.change(&m)
			m.DeadLetter = DeadLetterOf(&m, test.by)
			if diff := cmp.Diff(test.want, m.DeadLetter); diff != "" {
				t.Error(diff)
			}
			b, err := json.Marshal(m)
			if err != nil || strings.Contains(string(b), `"deadLetter"`) != (test.want != nil) {
				t.Errorf("as JSON: %s, %v", b, err)
			}
		})
	}
}
