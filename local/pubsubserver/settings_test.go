package pubsubserver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func open(t *testing.T) *Server {
	t.Helper()
	s, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// refused checks an error's code and that it says why.
func refused(t *testing.T, err error, code codes.Code, why string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), why) {
		t.Errorf("got %v, want %v with %q", err, code, why)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	s := open(t)
	for name, test := range map[string]struct {
		name string
		ok   bool
	}{
		"shortest":            {"projects/p/topics/abc", true},
		"longest":             {"projects/p/topics/a" + strings.Repeat("b", 254), true},
		"every_character":     {"projects/p/topics/aZ09-_.~+%", true},
		"google":              {"projects/p/topics/google-events", false},
		"goog_later":          {"projects/p/topics/a-goog", true},
		"too_short":           {"projects/p/topics/ab", false},
		"too_long":            {"projects/p/topics/a" + strings.Repeat("b", 255), false},
		"digit_first":         {"projects/p/topics/1abc", false},
		"space":               {"projects/p/topics/a b c", false},
		"newline_at_the_end":  {"projects/p/topics/abc\n", false},
		"umlaut":              {"projects/p/topics/äbc", false},
		"slash":               {"projects/p/topics/abc/d", false},
		"no_project":          {"projects//topics/abc", false},
		"another_kind":        {"projects/p/subscriptions/abc", false},
		"short":               {"abc", false},
		"empty":               {"", false},
		"deleted_topic":       {"_deleted-topic_", false},
		"no_such_thing_first": {"project/p/topics/abc", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: test.name})
			if test.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, codes.InvalidArgument, "(name="+test.name+")")
			_, err = s.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: test.name})
			refused(t, err, codes.InvalidArgument, "(name="+test.name+")")
		})
	}
}

func TestTopicSettings(t *testing.T) {
	t.Parallel()
	s := open(t)
	for name, test := range map[string]struct {
		set  func(*pubsubpb.Topic)
		code codes.Code
		why  string
	}{
		"shortest_retention": {func(t *pubsubpb.Topic) { t.MessageRetentionDuration = duration(10 * time.Minute) }, codes.OK, ""},
		"longest_retention":  {func(t *pubsubpb.Topic) { t.MessageRetentionDuration = duration(31 * day) }, codes.OK, ""},
		"region": {func(t *pubsubpb.Topic) {
			t.MessageStoragePolicy = &pubsubpb.MessageStoragePolicy{AllowedPersistenceRegions: []string{"europe-west1"}}
		}, codes.OK, ""},
		"short_retention": {func(t *pubsubpb.Topic) { t.MessageRetentionDuration = duration(599 * time.Second) }, codes.InvalidArgument, "message_retention_duration given (value=9m59s)"},
		"long_retention":  {func(t *pubsubpb.Topic) { t.MessageRetentionDuration = duration(31*day + 1) }, codes.InvalidArgument, "message_retention_duration"},
		"no_region":       {func(t *pubsubpb.Topic) { t.MessageStoragePolicy = &pubsubpb.MessageStoragePolicy{} }, codes.InvalidArgument, "message_storage_policy"},
		"label":           {func(t *pubsubpb.Topic) { t.Labels = map[string]string{"Key": "v"} }, codes.InvalidArgument, `"Key"`},
		"schema":          {func(t *pubsubpb.Topic) { t.SchemaSettings = &pubsubpb.SchemaSettings{} }, codes.Unimplemented, "schema_settings"},
		"ingestion":       {func(t *pubsubpb.Topic) { t.IngestionDataSourceSettings = &pubsubpb.IngestionDataSourceSettings{} }, codes.Unimplemented, "ingestion_data_source_settings"},
		"transforms":      {func(t *pubsubpb.Topic) { t.MessageTransforms = []*pubsubpb.MessageTransform{{}} }, codes.Unimplemented, "message_transforms"},
		"key":             {func(t *pubsubpb.Topic) { t.KmsKeyName = "k" }, codes.Unimplemented, "kms_key_name"},
		"tags":            {func(t *pubsubpb.Topic) { t.Tags = map[string]string{"a": "b"} }, codes.Unimplemented, "tags"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topic := &pubsubpb.Topic{Name: "projects/p/topics/" + name}
			test.set(topic)
			want := proto.CloneOf(topic)
			want.State = pubsubpb.Topic_ACTIVE
			_, err := s.CreateTopic(t.Context(), topic)
			got, getErr := s.GetTopic(t.Context(), &pubsubpb.GetTopicRequest{Topic: topic.Name})
			if test.code != codes.OK {
				refused(t, err, test.code, test.why)
				refused(t, getErr, codes.NotFound, topic.Name)
				return
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%v, (-want +got):\n%s", err, diff)
			}
			_, err = s.CreateTopic(t.Context(), topic)
			refused(t, err, codes.AlreadyExists, topic.Name)
		})
	}
}

func TestSubscriptionSettings(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, name := range []string{topicT, topicDead} {
		if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: name, MessageRetentionDuration: duration(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	push := func(endpoint string) *pubsubpb.PushConfig { return &pubsubpb.PushConfig{PushEndpoint: endpoint} }
	type set = func(*pubsubpb.Subscription)
	retry := func(least, most time.Duration) set {
		return func(s *pubsubpb.Subscription) {
			s.RetryPolicy = &pubsubpb.RetryPolicy{MinimumBackoff: duration(least), MaximumBackoff: duration(most)}
		}
	}
	dead := func(topic string, n int32) set {
		return func(s *pubsubpb.Subscription) {
			s.DeadLetterPolicy = &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topic, MaxDeliveryAttempts: n}
		}
	}
	for name, test := range map[string]struct {
		set  set
		code codes.Code
		why  string
		want set // beyond the defaults
	}{
		"defaults":        {set: func(*pubsubpb.Subscription) {}},
		"deadline_least":  {set: func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds = 10 }},
		"deadline_most":   {set: func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds = 600 }},
		"deadline_short":  {func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds = 9 }, codes.InvalidArgument, "ack_deadline_seconds given (value=9)", nil},
		"deadline_long":   {func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds = 601 }, codes.InvalidArgument, "between 10 and 600", nil},
		"deadline_minus":  {func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds = -1 }, codes.InvalidArgument, "ack_deadline_seconds", nil},
		"retention_least": {set: func(s *pubsubpb.Subscription) { s.MessageRetentionDuration = duration(10 * time.Minute) }},
		"retention_most":  {set: func(s *pubsubpb.Subscription) { s.MessageRetentionDuration = duration(31 * day) }},
		"retention_short": {func(s *pubsubpb.Subscription) { s.MessageRetentionDuration = duration(0) }, codes.InvalidArgument, "message_retention_duration", nil},
		"retention_long":  {func(s *pubsubpb.Subscription) { s.MessageRetentionDuration = duration(32 * day) }, codes.InvalidArgument, "message_retention_duration", nil},
		"never_expires":   {set: func(s *pubsubpb.Subscription) { s.ExpirationPolicy = &pubsubpb.ExpirationPolicy{} }},
		"expires_soon":    {set: func(s *pubsubpb.Subscription) { s.ExpirationPolicy = &pubsubpb.ExpirationPolicy{Ttl: duration(day)} }},
		"expires_too_soon": {func(s *pubsubpb.Subscription) {
			s.ExpirationPolicy = &pubsubpb.ExpirationPolicy{Ttl: duration(day - 1)}
		}, codes.InvalidArgument, "expiration_policy.ttl", nil},
		"retry": {set: func(s *pubsubpb.Subscription) { s.RetryPolicy = &pubsubpb.RetryPolicy{} },
			want: retry(10*time.Second, 600*time.Second)},
		"retry_most":    {set: retry(0, 600*time.Second)},
		"retry_long":    {retry(0, 601*time.Second), codes.InvalidArgument, "retry_policy.maximum_backoff", nil},
		"retry_minus":   {retry(-1, 0), codes.InvalidArgument, "retry_policy.minimum_backoff", nil},
		"retry_turned":  {retry(20*time.Second, 10*time.Second), codes.InvalidArgument, "minimum_backoff 20s is greater than maximum_backoff 10s", nil},
		"dead":          {set: dead(topicDead, 0), want: dead(topicDead, 5)},
		"dead_most":     {set: dead(topicDead, 100)},
		"dead_few":      {dead(topicDead, 4), codes.InvalidArgument, "max_delivery_attempts given (value=4)", nil},
		"dead_many":     {dead(topicDead, 101), codes.InvalidArgument, "max_delivery_attempts", nil},
		"dead_missing":  {dead("projects/p/topics/missing", 5), codes.NotFound, "projects/p/topics/missing", nil},
		"dead_name":     {dead("missing", 5), codes.InvalidArgument, "(name=missing)", nil},
		"topic_missing": {func(s *pubsubpb.Subscription) { s.Topic = "projects/p/topics/missing" }, codes.NotFound, "projects/p/topics/missing", nil},
		"filter":        {func(s *pubsubpb.Subscription) { s.Filter = "attributes" }, codes.InvalidArgument, "filter", nil},
		"filter_long":   {func(s *pubsubpb.Subscription) { s.Filter = "attributes:" + strings.Repeat("k", 246) }, codes.InvalidArgument, "257 bytes; the limit is 256", nil},
		"labels":        {func(s *pubsubpb.Subscription) { s.Labels = map[string]string{"k": "V"} }, codes.InvalidArgument, `"V"`, nil},
		"push":          {set: func(s *pubsubpb.Subscription) { s.PushConfig = push("https://example.com/push?token=a") }},
		"push_version": {set: func(s *pubsubpb.Subscription) {
			s.PushConfig = push("https://a/")
			s.PushConfig.Attributes = map[string]string{"x-goog-version": "v1beta2"}
		}},
		"push_http":    {set: func(s *pubsubpb.Subscription) { s.PushConfig = push("http://127.0.0.1:8080") }},
		"push_ftp":     {func(s *pubsubpb.Subscription) { s.PushConfig = push("ftp://example.com/") }, codes.InvalidArgument, "(endpoint=ftp://example.com/)", nil},
		"push_word":    {func(s *pubsubpb.Subscription) { s.PushConfig = push("nonsense") }, codes.InvalidArgument, "(endpoint=nonsense)", nil},
		"push_no_host": {func(s *pubsubpb.Subscription) { s.PushConfig = push("https:///path") }, codes.InvalidArgument, "(endpoint=https:///path)", nil},
		"push_port":    {func(s *pubsubpb.Subscription) { s.PushConfig = push("https://:80/") }, codes.InvalidArgument, "endpoint", nil},
		"push_old_form": {func(s *pubsubpb.Subscription) {
			s.PushConfig = push("https://a/")
			s.PushConfig.Attributes = map[string]string{"x-goog-version": "v1beta1"}
		}, codes.Unimplemented, "v1beta1", nil},
		"push_attribute": {func(s *pubsubpb.Subscription) {
			s.PushConfig = push("https://a/")
			s.PushConfig.Attributes = map[string]string{"x": "y"}
		},
			codes.InvalidArgument, "(key=x)", nil},
		"push_email": {func(s *pubsubpb.Subscription) {
			s.PushConfig = push("https://a/")
			s.PushConfig.AuthenticationMethod = &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{}}
		}, codes.InvalidArgument, "service_account_email", nil},
		"bigquery":      {func(s *pubsubpb.Subscription) { s.BigqueryConfig = &pubsubpb.BigQueryConfig{} }, codes.Unimplemented, "bigquery_config", nil},
		"bigtable":      {func(s *pubsubpb.Subscription) { s.BigtableConfig = &pubsubpb.BigtableConfig{} }, codes.Unimplemented, "bigtable_config", nil},
		"cloud_storage": {func(s *pubsubpb.Subscription) { s.CloudStorageConfig = &pubsubpb.CloudStorageConfig{} }, codes.Unimplemented, "cloud_storage_config", nil},
		"exactly_once":  {func(s *pubsubpb.Subscription) { s.EnableExactlyOnceDelivery = true }, codes.Unimplemented, "enable_exactly_once_delivery", nil},
		"transforms":    {func(s *pubsubpb.Subscription) { s.MessageTransforms = []*pubsubpb.MessageTransform{{}} }, codes.Unimplemented, "message_transforms", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := &pubsubpb.Subscription{Name: "projects/p/subscriptions/" + name, Topic: topicT}
			want := &pubsubpb.Subscription{
				Name: sub.Name, Topic: topicT, PushConfig: &pubsubpb.PushConfig{}, AckDeadlineSeconds: 10,
				MessageRetentionDuration: duration(7 * day), ExpirationPolicy: &pubsubpb.ExpirationPolicy{Ttl: duration(31 * day)},
				TopicMessageRetentionDuration: duration(time.Hour), State: pubsubpb.Subscription_ACTIVE,
			}
			test.set(sub)
			test.set(want)
			if test.want != nil {
				test.want(want)
			}
			created, err := s.CreateSubscription(t.Context(), sub)
			got, getErr := s.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: sub.Name})
			if test.code != codes.OK {
				refused(t, err, test.code, test.why)
				refused(t, getErr, codes.NotFound, sub.Name)
				return
			}
			if diff := cmp.Diff([]*pubsubpb.Subscription{want, want}, []*pubsubpb.Subscription{created, got}, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%v, (-want +got):\n%s", err, diff)
			}
			_, err = s.CreateSubscription(t.Context(), sub)
			refused(t, err, codes.AlreadyExists, sub.Name)
		})
	}
}

func TestUpdateMask(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicT}); err != nil {
		t.Fatal(err)
	}
	changed := &pubsubpb.Subscription{
		Topic: topicDead, AckDeadlineSeconds: 600, Filter: "attributes:a", EnableMessageOrdering: true, EnableExactlyOnceDelivery: true,
		Labels: map[string]string{"a": "b"}, PushConfig: &pubsubpb.PushConfig{PushEndpoint: "https://a/"},
		RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(time.Second)},
	}
	for name, test := range map[string]struct {
		mask []string
		code codes.Code
		why  string
		want func(*pubsubpb.Subscription)
	}{
		"one":  {[]string{"ack_deadline_seconds"}, codes.OK, "", func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds = 600 }},
		"two":  {[]string{"ack_deadline_seconds", "labels"}, codes.OK, "", func(s *pubsubpb.Subscription) { s.AckDeadlineSeconds, s.Labels = 600, changed.Labels }},
		"back": {[]string{"message_retention_duration", "dead_letter_policy"}, codes.OK, "", func(*pubsubpb.Subscription) {}},
		"nested": {[]string{"retry_policy.minimum_backoff"}, codes.OK, "", func(s *pubsubpb.Subscription) {
			s.RetryPolicy = &pubsubpb.RetryPolicy{MinimumBackoff: duration(time.Second), MaximumBackoff: duration(600 * time.Second)}
		}},
		"endpoint": {[]string{"push_config.push_endpoint"}, codes.OK, "", func(s *pubsubpb.Subscription) {
			s.PushConfig = &pubsubpb.PushConfig{PushEndpoint: "https://a/"}
		}},
		"none":         {nil, codes.InvalidArgument, "UpdateSubscriptionRequest must be set", nil},
		"unknown":      {[]string{"labels", "nonsense"}, codes.InvalidArgument, "'nonsense' is not a known Subscription field", nil},
		"camel_case":   {[]string{"ackDeadlineSeconds"}, codes.InvalidArgument, "'ackDeadlineSeconds' is not a known", nil},
		"deeper":       {[]string{"labels.a"}, codes.InvalidArgument, "'labels.a' is not a known", nil},
		"topic":        {[]string{"topic"}, codes.InvalidArgument, "'topic' field in the Subscription is not mutable", nil},
		"filter":       {[]string{"filter"}, codes.InvalidArgument, "'filter' field in the Subscription is not mutable", nil},
		"ordering":     {[]string{"enable_message_ordering"}, codes.InvalidArgument, "is not mutable", nil},
		"name":         {[]string{"name"}, codes.InvalidArgument, "is not mutable", nil},
		"exactly_once": {[]string{"enable_exactly_once_delivery"}, codes.Unimplemented, "enable_exactly_once_delivery", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := s.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: "projects/p/subscriptions/" + name, Topic: topicT})
			if err != nil {
				t.Fatal(err)
			}
			r := &pubsubpb.UpdateSubscriptionRequest{Subscription: proto.CloneOf(changed), UpdateMask: &fieldmaskpb.FieldMask{Paths: test.mask}}
			r.Subscription.Name = want.Name
			_, err = s.UpdateSubscription(t.Context(), r)
			if test.code != codes.OK {
				refused(t, err, test.code, test.why)
			} else if err != nil {
				t.Fatal(err)
			} else {
				test.want(want)
			}
			got, err := s.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: want.Name})
			if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%v, (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestPublishLimits(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topicT}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: subS, Topic: topicT}); err != nil {
		t.Fatal(err)
	}
	data := func(n int) []*pubsubpb.PubsubMessage { return []*pubsubpb.PubsubMessage{{Data: make([]byte, n)}} }
	attribute := func(k, v string) []*pubsubpb.PubsubMessage {
		return []*pubsubpb.PubsubMessage{{Data: []byte("good")}, {Attributes: map[string]string{k: v}}}
	}
	attributes := func(n int) []*pubsubpb.PubsubMessage {
		m := &pubsubpb.PubsubMessage{Attributes: map[string]string{}}
		for i := range n {
			m.Attributes[fmt.Sprint(i)] = ""
		}
		return []*pubsubpb.PubsubMessage{m}
	}
	for name, test := range map[string]struct {
		messages []*pubsubpb.PubsubMessage
		why      string // empty: published
	}{
		"large":           {data(9_999_000), ""},
		"too_large":       {data(10_000_000), "the limit is 10000000"},
		"empty":           {[]*pubsubpb.PubsubMessage{{OrderingKey: "k"}}, "message 0 has neither data nor attributes; it needs"},
		"none":            {nil, "0 messages"},
		"many":            {slicesRepeat(data(1), 1000), ""},
		"too_many":        {slicesRepeat(data(1), 1001), "1001 messages; the limit is 1 to 1000"},
		"attributes":      {attributes(100), ""},
		"many_attributes": {attributes(101), "101 attributes; the limit is 100"},
		"key":             {attribute(strings.Repeat("k", 256), ""), ""},
		"long_key":        {attribute(strings.Repeat("k", 257), ""), "message 1 has an attribute key of 257 bytes; the limit is 256"},
		"value":           {attribute("k", strings.Repeat("v", 1024)), ""},
		"long_value":      {attribute("k", strings.Repeat("v", 1025)), "message 1 has an attribute value of 1025 bytes; the limit is 1024"},
		"goog":            {attribute("goog-x", ""), `message 1 has an attribute key that starts with "goog"`},
		"googclient":      {attribute("googclient_traceparent", "00-1"), ""},
		"ordering":        {[]*pubsubpb.PubsubMessage{{Data: []byte("m"), OrderingKey: strings.Repeat("k", 1024)}}, ""},
		"long_ordering":   {[]*pubsubpb.PubsubMessage{{Data: []byte("m"), OrderingKey: strings.Repeat("k", 1025)}}, "ordering key of 1025 bytes; the limit is 1024"},
		"two_keys":        {[]*pubsubpb.PubsubMessage{{Data: []byte("m"), OrderingKey: "a"}, {Data: []byte("m"), OrderingKey: "b"}}, "message 1 has another ordering key"},
	} {
		t.Run(name, func(t *testing.T) {
			before, _, err := s.Backlog(subS)
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicT, Messages: test.messages})
			after, _, _ := s.Backlog(subS)
			if test.why != "" {
				refused(t, err, codes.InvalidArgument, test.why)
				if after != before {
					t.Errorf("%d messages of a refused request were published", after-before)
				}
				return
			}
			if err != nil || len(r.MessageIds) != len(test.messages) || after-before != len(test.messages) {
				t.Errorf("%d IDs and %d messages for %d: %v", len(r.GetMessageIds()), after-before, len(test.messages), err)
			}
		})
	}
	_, err := s.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: topicDead, Messages: data(1)})
	refused(t, err, codes.NotFound, topicDead)
}

func slicesRepeat(m []*pubsubpb.PubsubMessage, n int) (all []*pubsubpb.PubsubMessage) {
	for range n {
		all = append(all, m...)
	}
	return all
}

func TestFilter(t *testing.T) {
	t.Parallel()
	attributes := map[string]string{"domain": "com", "iana.org/language_tag": "en", "x-y_1": "a\"b\\", "empty": "", "NOT": "1"}
	for text, want := range map[string]bool{
		``:                                                            true,
		`attributes:domain`:                                           true,
		`attributes : domain`:                                         true,
		"\tattributes:domain\n":                                       true,
		`attributes:other`:                                            false,
		`attributes:"domain"`:                                         true,
		`attributes:"iana.org/language_tag"`:                          true,
		`attributes:x-y_1`:                                            true,
		`attributes:NOT`:                                              true,
		`attributes.domain = "com"`:                                   true,
		`attributes.domain="com"`:                                     true,
		`attributes.domain = "COM"`:                                   false,
		`attributes.Domain = "com"`:                                   false,
		`attributes.domain = "co"`:                                    false,
		`attributes.domain != "com"`:                                  false,
		`attributes.domain != "org"`:                                  true,
		`attributes.other != "org"`:                                   true,
		`attributes.other = ""`:                                       false,
		`attributes.empty = ""`:                                       true,
		`attributes.x-y_1 = "a\"b\\"`:                                 true,
		`attributes.domain = "\x63\157\u006d"`:                        true,
		`hasPrefix(attributes.domain, "co")`:                          true,
		`hasPrefix(attributes.domain, "om")`:                          false,
		`hasPrefix(attributes.other, "")`:                             false,
		`hasPrefix(attributes.empty, "")`:                             true,
		`NOT attributes:other`:                                        true,
		`-attributes:domain`:                                          false,
		`- hasPrefix(attributes.domain, "co")`:                        false,
		`NOT (attributes:domain AND attributes:other)`:                true,
		`attributes:domain AND attributes:other`:                      false,
		`attributes:domain AND NOT attributes:other`:                  true,
		`attributes:domain AND attributes:empty AND attributes:x-y_1`: true,
		`attributes:other OR attributes:none OR attributes:domain`:    true,
		`NOT attributes:domain OR attributes:domain`:                  true,
		`(attributes:domain OR attributes:other) AND attributes:none`: false,
		`attributes:domain OR (attributes:other AND attributes:none)`: true,
		`((attributes:domain))`:                                       true,
	} {
		f, err := parseFilter(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := f == nil || f(attributes); got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
	for text, why := range map[string]string{
		`attributes`:                                    `"." is expected, not ""`,
		`attributes:`:                                   `key is expected, not ""`,
		`attribute:domain`:                              `not "attribute"`,
		`data:domain`:                                   `not "data"`,
		`attributes:iana.org`:                           `"." is not expected`,
		`attributes.domain`:                             `"=" is expected`,
		`attributes.domain = com`:                       `double quotes is expected, not "com"`,
		`attributes.domain = 'com'`:                     `double quotes is expected`,
		`attributes.domain = "com`:                      `does not end`,
		`attributes.domain = "\q"`:                      `escape`,
		`attributes.domain > "com"`:                     `"=" is expected, not ">"`,
		`attributes.domain == "com"`:                    `double quotes is expected, not "="`,
		`attributes:a and attributes:b`:                 `"and" is not expected`,
		`attributes:a attributes:b`:                     `"attributes" is not expected`,
		`attributes:a AND`:                              `condition on attributes is expected, not ""`,
		`AND attributes:a`:                              `not "AND"`,
		`attributes:a AND attributes:b OR attributes:c`: `without parentheses`,
		`attributes:a OR attributes:b AND attributes:c`: `without parentheses`,
		`(attributes:a`:                                 `")" is expected`,
		`attributes:a)`:                                 `")" is not expected`,
		`()`:                                            `not ")"`,
		`NOT`:                                           `not ""`,
		`hasPrefix(attributes:a, "x")`:                  `"." is expected`,
		`hasPrefix(attributes.a)`:                       `"," is expected`,
		`hasprefix(attributes.a, "x")`:                  `not "hasprefix"`,
		`attributes:` + strings.Repeat("k", 246):        `257 bytes`,
		"attributes:\xff":                               `key is expected`,
	} {
		if _, err := parseFilter(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", text, err, why)
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, name := range []string{"ccc", "aaa", "bbb", "ddd"} {
		for _, project := range []string{"p", "pp"} {
			if _, err := s.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/" + project + "/topics/" + name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	r := &pubsubpb.ListTopicsRequest{Project: "projects/p", PageSize: 3}
	for {
		answer, err := s.ListTopics(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, topic := range answer.Topics {
			got = append(got, strings.TrimPrefix(topic.Name, "projects/p/topics/"))
		}
		if r.PageToken = answer.NextPageToken; r.PageToken == "" {
			break
		}
		got = append(got, "|")
	}
	if list := fmt.Sprint(got); list != "[aaa bbb ccc | ddd]" {
		t.Errorf("listed %s", list)
	}
	_, err := s.ListTopics(t.Context(), &pubsubpb.ListTopicsRequest{Project: "projects/p", PageToken: "?"})
	refused(t, err, codes.InvalidArgument, "page_token")
	_, err = s.ListTopics(t.Context(), &pubsubpb.ListTopicsRequest{Project: "p"})
	refused(t, err, codes.InvalidArgument, "(name=p)")
}
