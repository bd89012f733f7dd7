package pubsubtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

const day = 24 * time.Hour

// badNames are what no topic, subscription or snapshot may be called.
var badNames = []struct{ name, id string }{
	{"two_characters", "ab"},
	{"256_characters", strings.Repeat("a", 256)},
	{"first_is_a_digit", "1abc"},
	{"first_is_a_dash", "-abc"},
	{"first_is_goog", "goog-abc"},
	{"space", "a%20 bc"},
	{"colon", "abc:d"},
	{"not_ascii", "abcä"},
	{"slash", "abc/def"},
}

var resourceRows = []Row{
	{
		Name: "topic_names_accepted", Behaviour: "names of topics that are valid", Want: "all OK",
		Documented: "3 to 255 characters, the first a letter, of letters, digits and -_.~+%",
		observe: func(w *world) string {
			o := &outcomes{want: codes.OK}
			for name, id := range map[string]string{"three": "abc", "255": strings.Repeat("a", 255), "punctuation": "A-_.~+%9"} {
				_, err := w.publisher.CreateTopic(w.ctx, &pubsubpb.Topic{Name: w.named("topics", id)})
				o.add(name, err)
				_, _ = w.publisher.DeleteTopic(w.ctx, &pubsubpb.DeleteTopicRequest{Topic: w.named("topics", id)})
			}
			return o.String()
		},
	},
	{
		Name: "topic_names_refused", Behaviour: "names of topics that are not valid", Want: "all INVALID_ARGUMENT",
		Documented: "refused with INVALID_ARGUMENT; also what begins with goog",
		observe: func(w *world) string {
			o := &outcomes{want: codes.InvalidArgument}
			for _, bad := range badNames {
				_, err := w.publisher.CreateTopic(w.ctx, &pubsubpb.Topic{Name: w.named("topics", bad.id)})
				o.add(bad.name, err)
			}
			return o.String()
		},
	},
	{
		Name: "subscription_names_refused", Behaviour: "names of subscriptions that are not valid", Want: "all INVALID_ARGUMENT",
		Documented: "refused with INVALID_ARGUMENT, as for topics",
		observe: func(w *world) string {
			o, topic := &outcomes{want: codes.InvalidArgument}, w.topic()
			for _, bad := range badNames {
				_, err := w.subscriber.CreateSubscription(w.ctx, &pubsubpb.Subscription{Name: w.named("subscriptions", bad.id), Topic: topic})
				o.add(bad.name, err)
			}
			return o.String()
		},
	},
	{
		Name: "snapshot_names_refused", Behaviour: "names of snapshots that are not valid", Want: "all INVALID_ARGUMENT",
		Documented: "refused with INVALID_ARGUMENT, as for topics",
		observe: func(w *world) string {
			o, sub := &outcomes{want: codes.InvalidArgument}, w.subscribe(w.topic())
			for _, bad := range badNames {
				_, err := w.subscriber.CreateSnapshot(w.ctx, &pubsubpb.CreateSnapshotRequest{Name: w.named("snapshots", bad.id), Subscription: sub})
				o.add(bad.name, err)
			}
			return o.String()
		},
	},
	{
		Name: "topic_codes", Behaviour: "errors about topics",
		Documented: "NOT_FOUND for what does not exist, ALREADY_EXISTS for a second one",
		Want:       "get NOT_FOUND, delete NOT_FOUND, publish NOT_FOUND, list subscriptions NOT_FOUND, update NOT_FOUND, create again ALREADY_EXISTS",
		observe: func(w *world) string {
			none := w.name("topics")
			_, get := w.publisher.GetTopic(w.ctx, &pubsubpb.GetTopicRequest{Topic: none})
			_, del := w.publisher.DeleteTopic(w.ctx, &pubsubpb.DeleteTopicRequest{Topic: none})
			_, publish := w.tryPublish(none, text("x"))
			_, list := w.publisher.ListTopicSubscriptions(w.ctx, &pubsubpb.ListTopicSubscriptionsRequest{Topic: none})
			_, update := w.updateTopic(&pubsubpb.Topic{Name: none, Labels: map[string]string{"a": "b"}}, "labels")
			_, again := w.publisher.CreateTopic(w.ctx, &pubsubpb.Topic{Name: w.topic()})
			return fmt.Sprintf("get %s, delete %s, publish %s, list subscriptions %s, update %s, create again %s",
				codeOf(get), codeOf(del), codeOf(publish), codeOf(list), codeOf(update), codeOf(again))
		},
	},
	{
		Name: "subscription_codes", Behaviour: "errors about subscriptions",
		Documented: "NOT_FOUND for what does not exist, its topic too; ALREADY_EXISTS for a second one",
		Want:       "get NOT_FOUND, delete NOT_FOUND, pull NOT_FOUND, acknowledge NOT_FOUND, modify deadline NOT_FOUND, modify push NOT_FOUND, seek NOT_FOUND, topic NOT_FOUND, create again ALREADY_EXISTS",
		observe: func(w *world) string {
			none := w.name("subscriptions")
			_, get := w.subscriber.GetSubscription(w.ctx, &pubsubpb.GetSubscriptionRequest{Subscription: none})
			_, del := w.subscriber.DeleteSubscription(w.ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: none})
			_, pull := w.poll(none, 1)
			_, ack := w.subscriber.Acknowledge(w.ctx, &pubsubpb.AcknowledgeRequest{Subscription: none, AckIds: []string{"x"}})
			modify := w.modify(none, 10, "x")
			_, push := w.subscriber.ModifyPushConfig(w.ctx, &pubsubpb.ModifyPushConfigRequest{Subscription: none, PushConfig: &pubsubpb.PushConfig{}})
			_, seek := w.subscriber.Seek(w.ctx, seekTo(none, time.Now()))
			_, topic := w.trySubscribe(w.name("topics"))
			there := w.subscribe(w.topic())
			_, again := w.trySubscribe(w.get(there).Topic, func(s *pubsubpb.Subscription) { s.Name = there })
			return fmt.Sprintf("get %s, delete %s, pull %s, acknowledge %s, modify deadline %s, modify push %s, seek %s, topic %s, create again %s",
				codeOf(get), codeOf(del), codeOf(pull), codeOf(ack), codeOf(modify), codeOf(push), codeOf(seek), codeOf(topic), codeOf(again))
		},
	},
	{
		Name: "labels_limits", Behaviour: "labels that are not valid", Want: "all INVALID_ARGUMENT",
		Documented: "at most 64; keys of 1 to 63 and values of at most 63 characters, lower case, digits, - and _, keys begin with a letter",
		observe: func(w *world) string {
			o := &outcomes{want: codes.InvalidArgument}
			many := make(map[string]string)
			for i := range 65 {
				many[fmt.Sprintf("k%d", i)] = ""
			}
			long := strings.Repeat("a", 64)
			for _, c := range []struct {
				name   string
				labels map[string]string
			}{
				{"65", many}, {"upper_case", map[string]string{"Key": "v"}}, {"long_key", map[string]string{long: "v"}},
				{"long_value", map[string]string{"k": long}}, {"digit_first", map[string]string{"1k": "v"}}, {"value_with_space", map[string]string{"k": "a b"}},
			} {
				_, err := w.tryTopic(func(t *pubsubpb.Topic) { t.Labels = c.labels })
				o.add(c.name, err)
			}
			return o.String()
		},
	},
	{
		Name: "update_topic", Behaviour: "UpdateTopic and its update mask",
		Documented: "changes what the mask names; a mask is required and may name what can be changed only",
		Want:       "labels b=c, no mask INVALID_ARGUMENT, unknown path INVALID_ARGUMENT, name INVALID_ARGUMENT",
		observe: func(w *world) string {
			topic := w.topic(func(t *pubsubpb.Topic) { t.Labels = map[string]string{"a": "b"} })
			change := &pubsubpb.Topic{Name: topic, Labels: map[string]string{"b": "c"}, MessageRetentionDuration: durationpb.New(time.Hour)}
			changed, err := w.updateTopic(change, "labels")
			labels := yes(err == nil, sorted(changed.GetLabels()), codeOf(err))
			_, none := w.updateTopic(change)
			_, unknown := w.updateTopic(change, "colour")
			_, name := w.updateTopic(change, "name")
			return fmt.Sprintf("labels %s%s, no mask %s, unknown path %s, name %s", labels,
				yes(changed.GetMessageRetentionDuration() == nil, "", " and the retention"), codeOf(none), codeOf(unknown), codeOf(name))
		},
	},
	{
		Name: "update_subscription", Behaviour: "UpdateSubscription and its update mask",
		Documented: "changes what the mask names; topic, filter and message ordering cannot be changed",
		Want:       "deadline 20, no mask INVALID_ARGUMENT, unknown path INVALID_ARGUMENT, topic INVALID_ARGUMENT, filter INVALID_ARGUMENT, ordering INVALID_ARGUMENT",
		observe: func(w *world) string {
			sub := w.subscribe(w.topic(), func(s *pubsubpb.Subscription) { s.Labels = map[string]string{"a": "b"} })
			change := &pubsubpb.Subscription{Name: sub, Topic: w.topic(), AckDeadlineSeconds: 20, Filter: "attributes:a", EnableMessageOrdering: true}
			changed, err := w.updateSubscription(change, "ack_deadline_seconds")
			must("UpdateSubscription", err)
			_, none := w.updateSubscription(change)
			_, unknown := w.updateSubscription(change, "colour")
			_, topic := w.updateSubscription(change, "topic")
			_, filter := w.updateSubscription(change, "filter")
			_, ordering := w.updateSubscription(change, "enable_message_ordering")
			return fmt.Sprintf("deadline %d%s, no mask %s, unknown path %s, topic %s, filter %s, ordering %s", changed.AckDeadlineSeconds,
				yes(len(changed.Labels) == 1, "", " and the labels"), codeOf(none), codeOf(unknown), codeOf(topic), codeOf(filter), codeOf(ordering))
		},
	},
	{
		Name: "update_clears", Behaviour: "a mask that names what the request leaves out", Documented: "sets it back to its default", Want: "retry policy none, dead-letter policy none, retention 168h0m0s",
		observe: func(w *world) string {
			dead := w.topic()
			sub := w.subscribe(w.topic(), func(s *pubsubpb.Subscription) {
				s.RetryPolicy = &pubsubpb.RetryPolicy{MinimumBackoff: seconds(1)}
				s.DeadLetterPolicy = deadLetters(dead, 7)
				s.MessageRetentionDuration = seconds(600)
			})
			_, err := w.updateSubscription(&pubsubpb.Subscription{Name: sub}, "retry_policy", "dead_letter_policy", "message_retention_duration")
			must("UpdateSubscription", err)
			s := w.get(sub)
			return fmt.Sprintf("retry policy %s, dead-letter policy %s, retention %s", yes(s.RetryPolicy == nil, "none", "kept"),
				yes(s.DeadLetterPolicy == nil, "none", "kept"), s.MessageRetentionDuration.AsDuration())
		},
	},
	{
		Name: "list_pages", Behaviour: "lists in pages", Want: "2+2+1, all of them, bad token INVALID_ARGUMENT",
		Documented: "page_size at a time, next_page_token until the last page",
		observe: func(w *world) string {
			topic := w.topic()
			var want, got, sizes []string
			for range 5 {
				want = append(want, w.subscribe(topic))
			}
			request := &pubsubpb.ListTopicSubscriptionsRequest{Topic: topic, PageSize: 2}
			for {
				page, err := w.publisher.ListTopicSubscriptions(w.ctx, request)
				must("ListTopicSubscriptions", err)
				got = append(got, page.Subscriptions...)
				sizes = append(sizes, fmt.Sprint(len(page.Subscriptions)))
				if request.PageToken = page.NextPageToken; request.PageToken == "" || len(sizes) > 5 {
					break
				}
			}
			slices.Sort(got)
			_, bad := w.publisher.ListTopics(w.ctx, &pubsubpb.ListTopicsRequest{Project: "projects/" + w.Project, PageToken: "?"})
			return fmt.Sprintf("%s, %s, bad token %s", strings.Join(sizes, "+"), yes(slices.Equal(got, want), "all of them", "not all"), codeOf(bad))
		},
	},
	{
		Name: "deleted_topic", Behaviour: "a subscription whose topic was deleted", Want: "topic _deleted-topic_, still pulls kept",
		Documented: "its topic is _deleted-topic_; it keeps its backlog",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "kept")
			_, err := w.publisher.DeleteTopic(w.ctx, &pubsubpb.DeleteTopicRequest{Topic: topic})
			must("DeleteTopic", err)
			return fmt.Sprintf("topic %s, still pulls %s", w.get(sub).Topic, dataOf(w.pull(sub, 1, pause)))
		},
	},
	{
		Name: "subscription_defaults", Behaviour: "what a subscription has that was created with a name and a topic",
		Documented: "10 s to acknowledge, 7 days of retention, expires after 31 days without activity, active",
		Want:       "deadline 10, retention 168h0m0s, expires 744h0m0s, state ACTIVE",
		observe: func(w *world) string {
			s := w.get(w.subscribe(w.topic()))
			return fmt.Sprintf("deadline %d, retention %s, expires %s, state %s", s.AckDeadlineSeconds,
				s.MessageRetentionDuration.AsDuration(), s.ExpirationPolicy.GetTtl().AsDuration(), s.State)
		},
	},
	{
		Name: "ack_deadline_limits", Behaviour: "acknowledgement deadlines of subscriptions", Documented: "10 to 600 seconds, 0 is 10",
		Want: "5 INVALID_ARGUMENT, 9 INVALID_ARGUMENT, 10 OK, 600 OK, 601 INVALID_ARGUMENT, -1 INVALID_ARGUMENT",
		observe: func(w *world) string {
			return w.subscriptions([]int32{5, 9, 10, 600, 601, -1}, func(s *pubsubpb.Subscription, n int32) { s.AckDeadlineSeconds = n })
		},
	},
	{
		Name: "retention_limits", Behaviour: "retention of subscriptions, in seconds", Documented: "10 minutes to 31 days",
		Want: "599 INVALID_ARGUMENT, 600 OK, 604800 OK, 2678400 OK, 2678401 INVALID_ARGUMENT",
		observe: func(w *world) string {
			return w.subscriptions([]int32{599, 600, 7 * 86400, 31 * 86400, 31*86400 + 1}, func(s *pubsubpb.Subscription, n int32) {
				s.MessageRetentionDuration = seconds(n)
			})
		},
	},
	{
		Name: "topic_retention_limits", Behaviour: "retention of topics, in seconds", Documented: "10 minutes to 31 days",
		Want: "all INVALID_ARGUMENT; 31 days OK",
		observe: func(w *world) string {
			o := &outcomes{want: codes.InvalidArgument}
			try := func(n int32) error {
				_, err := w.tryTopic(func(t *pubsubpb.Topic) { t.MessageRetentionDuration = seconds(n) })
				return err
			}
			for _, n := range []int32{599, 31*86400 + 1, -600} {
				o.add(fmt.Sprint(n), try(n))
			}
			return o.String() + "; 31 days " + codeOf(try(31*86400))
		},
	},
	{
		Name: "topic_retention_shown", Behaviour: "topic_message_retention_duration of a subscription", Documented: "is that of the topic", Want: "1h0m0s",
		observe: func(w *world) string {
			topic := w.topic(func(t *pubsubpb.Topic) { t.MessageRetentionDuration = durationpb.New(time.Hour) })
			return w.get(w.subscribe(topic)).TopicMessageRetentionDuration.AsDuration().String()
		},
	},
	{
		Name: "expiration_limits", Behaviour: "expiry of subscriptions, in seconds", Documented: "at least 1 day; no ttl means never",
		Want: "3600 INVALID_ARGUMENT, 86399 INVALID_ARGUMENT, 86400 OK, never OK and kept so",
		observe: func(w *world) string {
			got := w.subscriptions([]int32{3600, 86399, 86400}, func(s *pubsubpb.Subscription, n int32) {
				s.ExpirationPolicy = &pubsubpb.ExpirationPolicy{Ttl: seconds(n)}
				s.MessageRetentionDuration = seconds(600)
			})
			never, err := w.trySubscribe(w.topic(), func(s *pubsubpb.Subscription) { s.ExpirationPolicy = &pubsubpb.ExpirationPolicy{} })
			return got + ", never " + codeOf(err) + yes(never.GetExpirationPolicy() != nil && never.GetExpirationPolicy().Ttl == nil, " and kept so", " and changed")
		},
	},
	{
		Name: "retry_policy_limits", Behaviour: "retry policies", Documented: "each backoff 0 to 600 seconds, default 10 and 600, the maximum at least the minimum",
		Want: "all INVALID_ARGUMENT; default 10s to 10m0s",
		observe: func(w *world) string {
			o, topic := &outcomes{want: codes.InvalidArgument}, w.topic()
			try := func(p *pubsubpb.RetryPolicy) (*pubsubpb.Subscription, error) {
				return w.trySubscribe(topic, func(s *pubsubpb.Subscription) { s.RetryPolicy = p })
			}
			for _, c := range []struct {
				name   string
				policy *pubsubpb.RetryPolicy
			}{
				{"minimum_601", &pubsubpb.RetryPolicy{MinimumBackoff: seconds(601)}},
				{"maximum_601", &pubsubpb.RetryPolicy{MaximumBackoff: seconds(601)}},
				{"negative", &pubsubpb.RetryPolicy{MinimumBackoff: seconds(-1)}},
				{"minimum_over_maximum", &pubsubpb.RetryPolicy{MinimumBackoff: seconds(20), MaximumBackoff: seconds(10)}},
			} {
				_, err := try(c.policy)
				o.add(c.name, err)
			}
			s, err := try(&pubsubpb.RetryPolicy{})
			must("CreateSubscription", err)
			p := w.get(s.Name).RetryPolicy
			return fmt.Sprintf("%s; default %s to %s", o, p.GetMinimumBackoff().AsDuration(), p.GetMaximumBackoff().AsDuration())
		},
	},
	{
		Name: "dead_letter_limits", Behaviour: "maximum delivery attempts of dead-letter policies", Documented: "5 to 100, 0 is 5; the topic must exist",
		Want: "4 INVALID_ARGUMENT, 5 OK, 100 OK, 101 INVALID_ARGUMENT, 0 is 5, missing topic NOT_FOUND",
		observe: func(w *world) string {
			dead := w.topic()
			got := w.subscriptions([]int32{4, 5, 100, 101}, func(s *pubsubpb.Subscription, n int32) { s.DeadLetterPolicy = deadLetters(dead, n) })
			zero := w.subscribe(w.topic(), func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 0) })
			_, missing := w.trySubscribe(w.topic(), func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(w.name("topics"), 5) })
			return fmt.Sprintf("%s, 0 is %d, missing topic %s", got, w.get(zero).DeadLetterPolicy.GetMaxDeliveryAttempts(), codeOf(missing))
		},
	},
	{
		Name: "filters_accepted", Behaviour: "filters that are valid", Documented: "the grammar of the filter page: has, =, !=, hasPrefix, NOT, -, AND, OR, parentheses, quoted keys", Want: "all OK",
		observe: func(w *world) string {
			return w.filters(codes.OK, `attributes:domain`, `attributes:"iana.org/tag"`, `attributes.domain = "com"`, `attributes.domain="com"`,
				`attributes.domain != "com"`, `hasPrefix(attributes.domain, "co")`, `NOT attributes:domain`, `-attributes:domain`,
				`attributes:a AND attributes:b AND NOT attributes:c`, `attributes:a OR attributes:b`, `(attributes:a AND attributes:b) OR attributes:c`,
				`attributes.a = "say \"hi\""`, `attributes."ключ" = "значение"`, `((attributes:a))`,
				`attributes.a = "`+strings.Repeat("x", 256-len(`attributes.a = ""`))+`"`)
		},
	},
	{
		Name: "filters_refused", Behaviour: "filters that are not valid", Documented: "INVALID_ARGUMENT; AND and OR need parentheses to be mixed; at most 256 bytes", Want: "all INVALID_ARGUMENT",
		observe: func(w *world) string {
			return w.filters(codes.InvalidArgument, `attributes.a`, `attributes.a = 1`, `attributes.a = com x`, `attributes.a > "b"`, `data = "x"`, `a:b`,
				`attributes:a and attributes:b`, `attributes:a AND attributes:b OR attributes:c`, `(attributes:a`, `attributes:a)`, `NOT`, `attributes:a AND`,
				`hasPrefix(attributes.a)`, `hasSuffix(attributes.a, "b")`, `attributes.a = "open`, `attributes:a attributes:b`,
				`attributes.a = "`+strings.Repeat("x", 257-len(`attributes.a = ""`))+`"`)
		},
	},
	{
		Name: "filters_match", Behaviour: "which messages a filter lets through", Documented: "those whose attributes match; the others are acknowledged by Pub/Sub",
		Want: "has ab; equal a; not_equal b; prefix ab; not cd; and a; or abc; nested ac; case none; quoted_key d",
		observe: func(w *world) string {
			cases := []struct{ name, filter string }{
				{"has", `attributes:tld`}, {"equal", `attributes.tld = "com"`}, {"not_equal", `attributes:tld AND attributes.tld != "com"`},
				{"prefix", `hasPrefix(attributes.tld, "co")`}, {"not", `NOT attributes:tld`}, {"and", `attributes:tld AND attributes.lang = "en"`},
				{"or", `attributes:tld OR attributes.lang = "en"`}, {"nested", `attributes.lang = "en" AND (attributes.tld = "com" OR NOT attributes:tld)`},
				{"case", `attributes.tld = "COM"`}, {"quoted_key", `attributes."x/y" = "1"`},
			}
			topic := w.topic()
			subs := make([]string, len(cases))
			for i, c := range cases {
				subs[i] = w.subscribe(topic, func(s *pubsubpb.Subscription) { s.Filter = c.filter })
			}
			for data, attributes := range map[string]map[string]string{
				"a": {"tld": "com", "lang": "en"}, "b": {"tld": "co", "lang": "de"}, "c": {"lang": "en"}, "d": {"x/y": "1"},
			} {
				w.publish(topic, &pubsubpb.PubsubMessage{Data: []byte(data), Attributes: attributes})
			}
			w.until(pause, func() bool { return false }) // for those that must not come
			for i, c := range cases {
				got := strings.Fields(dataOf(w.pull(subs[i], 4, 300*time.Millisecond)))
				slices.Sort(got)
				cases[i].name = c.name + " " + yes(len(got) > 0, strings.Join(got, ""), "none")
			}
			all := make([]string, len(cases))
			for i, c := range cases {
				all[i] = c.name
			}
			return strings.Join(all, "; ")
		},
	},
	{
		Name: "detach", Behaviour: "DetachSubscription", Documented: "detached is set; Pull is FAILED_PRECONDITION; the backlog is dropped",
		Want: "detached true, pull FAILED_PRECONDITION, of none NOT_FOUND",
		observe: func(w *world) string {
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "gone")
			detach := func(name string) error {
				_, err := w.publisher.DetachSubscription(w.ctx, &pubsubpb.DetachSubscriptionRequest{Subscription: name})
				return err
			}
			if err := detach(sub); err != nil {
				return codeOf(err)
			}
			_, pull := w.poll(sub, 1)
			return fmt.Sprintf("detached %t, pull %s, of none %s", w.get(sub).Detached, codeOf(pull), codeOf(detach(w.name("subscriptions"))))
		},
	},
	{
		Name: "iam_policies", Behaviour: "IAMPolicy get, set and test", Documented: "set needs the present etag, or none; test returns what the caller may do",
		Want: "get OK, set OK, read back roles/pubsub.publisher, old etag ABORTED, test 1, of none NOT_FOUND",
		observe: func(w *world) string {
			topic := w.topic()
			get := func(resource string) (*iampb.Policy, error) {
				return w.policies.GetIamPolicy(w.ctx, &iampb.GetIamPolicyRequest{Resource: resource})
			}
			first, err := get(topic)
			if err != nil {
				return "get " + codeOf(err)
			}
			set := func(p *iampb.Policy) error {
				_, err := w.policies.SetIamPolicy(w.ctx, &iampb.SetIamPolicyRequest{Resource: topic, Policy: p})
				return err
			}
			ok := set(&iampb.Policy{Etag: first.Etag, Bindings: []*iampb.Binding{{Role: "roles/pubsub.publisher", Members: []string{"allUsers"}}}})
			back, err := get(topic)
			must("GetIamPolicy", err)
			old := set(&iampb.Policy{Etag: first.Etag})
			test, err := w.policies.TestIamPermissions(w.ctx, &iampb.TestIamPermissionsRequest{Resource: topic, Permissions: []string{"pubsub.topics.publish"}})
			must("TestIamPermissions", err)
			_, none := get(w.name("topics"))
			role := "nothing"
			if len(back.Bindings) > 0 {
				role = back.Bindings[0].Role
			}
			return fmt.Sprintf("get OK, set %s, read back %s, old etag %s, test %d, of none %s", codeOf(ok), role, codeOf(old), len(test.Permissions), codeOf(none))
		},
	},
	{
		Name: "subscription_expires", Behaviour: "a subscription without activity", Documented: "is deleted after its ttl", Want: "OK, later NOT_FOUND", NeedsClock: true,
		observe: func(w *world) string {
			sub := w.subscribe(w.topic(), func(s *pubsubpb.Subscription) {
				s.ExpirationPolicy = &pubsubpb.ExpirationPolicy{Ttl: durationpb.New(day)}
				s.MessageRetentionDuration = durationpb.New(time.Hour)
			})
			list := func() string {
				answer, err := w.subscriber.ListSubscriptions(w.ctx, &pubsubpb.ListSubscriptionsRequest{Project: "projects/" + w.Project})
				must("ListSubscriptions", err) // a list is no activity of a subscription
				there := slices.ContainsFunc(answer.Subscriptions, func(s *pubsubpb.Subscription) bool { return s.Name == sub })
				return yes(there, "OK", "NOT_FOUND")
			}
			before := list()
			w.advance(day + time.Hour)
			w.until(patience, func() bool { return list() == "NOT_FOUND" })
			return before + ", later " + list()
		},
	},
}

func (w *world) updateTopic(topic *pubsubpb.Topic, paths ...string) (*pubsubpb.Topic, error) {
	return w.publisher.UpdateTopic(w.ctx, &pubsubpb.UpdateTopicRequest{Topic: topic, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
}

func (w *world) updateSubscription(s *pubsubpb.Subscription, paths ...string) (*pubsubpb.Subscription, error) {
	return w.subscriber.UpdateSubscription(w.ctx, &pubsubpb.UpdateSubscriptionRequest{Subscription: s, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
}

// subscriptions creates one for each value and returns the codes.
func (w *world) subscriptions(values []int32, with func(*pubsubpb.Subscription, int32)) string {
	topic, all := w.topic(), make([]string, len(values))
	for i, n := range values {
		_, err := w.trySubscribe(topic, func(s *pubsubpb.Subscription) { with(s, n) })
		all[i] = fmt.Sprintf("%d %s", n, codeOf(err))
	}
	return strings.Join(all, ", ")
}

// filters creates a subscription with each filter.
func (w *world) filters(want codes.Code, filters ...string) string {
	o, topic := &outcomes{want: want}, w.topic()
	for _, filter := range filters {
		_, err := w.trySubscribe(topic, func(s *pubsubpb.Subscription) { s.Filter = filter })
		name := filter
		if len(name) > 60 {
			name = fmt.Sprintf("%d bytes", len(filter))
		}
		o.add("`"+name+"`", err)
	}
	return o.String()
}

func deadLetters(topic string, attempts int32) *pubsubpb.DeadLetterPolicy {
	return &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topic, MaxDeliveryAttempts: attempts}
}

func seconds(n int32) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

// sorted returns a map as k=v, by key, with commas.
func sorted(m map[string]string) string {
	all := make([]string, 0, len(m))
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}
