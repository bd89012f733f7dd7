package pubsubtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
)

var pushRows = []Row{
	{
		Name: "push_endpoints", Behaviour: "push endpoints that are not URLs", Documented: "INVALID_ARGUMENT", Want: "ftp INVALID_ARGUMENT, no_host INVALID_ARGUMENT, words INVALID_ARGUMENT",
		observe: func(w *world) string {
			topic, all := w.topic(), make([]string, 0, 3)
			for _, c := range []struct{ name, url string }{{"ftp", "ftp://push.invalid/"}, {"no_host", "https:///push"}, {"words", "not a URL"}} {
				_, err := w.trySubscribe(topic, pushTo(c.url))
				all = append(all, c.name+" "+codeOf(err))
			}
			return strings.Join(all, ", ")
		},
	},
	{
		Name: "push_http_endpoint", Behaviour: "a push endpoint with http://", Documented: "refused: HTTPS with a certificate of a known authority is needed; a local one takes it", Want: "OK",
		observe: func(w *world) string {
			_, err := w.trySubscribe(w.topic(), pushTo("http://push.invalid/"))
			return codeOf(err)
		},
	},
	{
		Name: "push_version", Behaviour: "the attribute x-goog-version of a push subscription", Documented: "always returned, says the reference; Terraform's provider, which is tested against Pub/Sub, expects that it is not", Want: "not returned",
		observe: func(w *world) string {
			s := w.get(w.subscribe(w.topic(), pushTo("http://push.invalid/")))
			return yes(s.PushConfig.Attributes["x-goog-version"] != "", s.PushConfig.Attributes["x-goog-version"], "not returned")
		},
	},
	{
		Name: "push_wrapped", Behaviour: "fields of a wrapped push", Documented: "message with data, attributes, orderingKey, messageId and message_id, publishTime and publish_time; subscription",
		Want: "message: attributes data messageId message_id orderingKey publishTime publish_time; subscription",
		observe: func(w *world) string {
			r := w.pushed(&pubsubpb.PubsubMessage{Data: []byte("a/b"), Attributes: map[string]string{"k": "v"}, OrderingKey: "key"}, ordering)
			return r.fields()
		},
	},
	{
		Name: "push_attributes_only", Behaviour: "a push of a message without data", Documented: "has no data", Want: "message: attributes messageId message_id publishTime publish_time; subscription",
		observe: func(w *world) string {
			return w.pushed(&pubsubpb.PubsubMessage{Attributes: map[string]string{"k": "v"}}).fields()
		},
	},
	{
		Name: "push_publish_time", Behaviour: "publishTime of a push", Documented: "has three digits after the second, as all published samples", Want: "at most 3 digits",
		observe: func(w *world) string {
			at, _ := w.pushed(text("a")).message()["publishTime"].(string)
			_, fraction, _ := strings.Cut(strings.TrimSuffix(at, "Z"), ".")
			return yes(len(fraction) <= 3, "at most 3 digits", fmt.Sprintf("%d digits", len(fraction)))
		},
	},
	{
		Name: "push_headers", Behaviour: "headers of a push", Documented: "as captured from production in public: From, Accept, Accept-Encoding, User-Agent",
		Want: "From noreply@google.com; Accept application/json; Accept-Encoding gzip, deflate, br; User-Agent CloudPubSub-Google; Content-Type application/json",
		observe: func(w *world) string {
			h, all := w.pushed(text("a")).header, []string{}
			for _, name := range []string{"From", "Accept", "Accept-Encoding", "User-Agent", "Content-Type"} {
				value, _, _ := strings.Cut(h.Get(name), "/1") // of Java, without its version
				all = append(all, name+" "+yes(value != "", value, "none"))
			}
			return strings.Join(all, "; ")
		},
	},
	{
		Name: "push_token", Behaviour: "the token of a push with oidc_token", Documented: "RS256, iss https://accounts.google.com, the given email and audience, email_verified, azp equal to sub, an hour long",
		Want: "RS256, iss https://accounts.google.com, aud own, email as given, verified true, azp equal to sub, 3600 s",
		observe: func(w *world) string {
			return w.pushed(text("a"), token("own")).token()
		},
	},
	{
		Name: "push_audience", Behaviour: "the audience without one in oidc_token", Documented: "is the whole endpoint, its query too", Want: "RS256, iss https://accounts.google.com, aud the endpoint, email as given, verified true, azp equal to sub, 3600 s",
		observe: func(w *world) string { return w.pushed(text("a"), token("")).token() },
	},
	{
		Name: "push_without_token", Behaviour: "a push without oidc_token", Documented: "has no Authorization", Want: "no Authorization",
		observe: func(w *world) string { return w.pushed(text("a")).token() },
	},
	{
		Name: "push_attempt", Behaviour: "deliveryAttempt of a push", Documented: "beside the message, with a dead-letter policy", Want: "1 2 3, without a policy none",
		observe: func(w *world) string {
			dead := w.topic()
			e := w.endpoint(func(n int, _ *request) int { return yes(n < 3, 500, 204) })
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL), func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 10) })
			w.texts(topic, "a")
			return e.attempts(w, 3) + ", without a policy " + yes(w.pushed(text("a")).body["deliveryAttempt"] == nil, "none", "one")
		},
	},
	{
		Name: "push_attempts_apart", Behaviour: "deliveryAttempt in two push subscriptions of a topic", Documented: "is counted for each", Want: "1 2 3, other 1 2 3",
		observe: func(w *world) string {
			dead, topic := w.topic(), w.topic()
			refuse := func(n int, _ *request) int { return yes(n < 3, 500, 204) }
			e, other := w.endpoint(refuse), w.endpoint(refuse)
			for _, e := range []*endpoint{e, other} {
				w.subscribe(topic, pushTo(e.URL), func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 10) })
			}
			w.texts(topic, "a")
			return e.attempts(w, 3) + ", other " + other.attempts(w, 3)
		},
	},
	{
		Name: "push_ack_codes", Behaviour: "statuses that acknowledge a push", Documented: "102, 200, 201, 202 and 204, no other", Want: "102 200 201 202 204",
		observe: func(w *world) string {
			statuses := []int{102, 200, 201, 202, 203, 204, 205, 206, 301, 304, 400, 401, 404, 429, 500, 503}
			endpoints := make([]*endpoint, len(statuses))
			for i, status := range statuses {
				endpoints[i] = w.endpoint(func(n int, _ *request) int { return yes(n == 1, status, 200) })
				topic := w.topic()
				w.subscribe(topic, pushTo(endpoints[i].URL))
				w.texts(topic, "a")
			}
			for _, e := range endpoints {
				w.until(patience, func() bool { return e.count() > 0 })
			}
			w.until(4*time.Second, func() bool { return false }) // for the second deliveries
			var acked []string
			for i, e := range endpoints {
				if e.count() == 1 {
					acked = append(acked, fmt.Sprint(statuses[i]))
				}
			}
			return strings.Join(acked, " ")
		},
	},
	{
		Name: "push_redirect", Behaviour: "a redirect as answer to a push", Documented: "refuses the message, nobody follows it", Want: "301 not followed, 307 not followed",
		observe: func(w *world) string {
			all := make([]string, 0, 2)
			for _, status := range []int{301, 307} {
				followed := w.endpoint(func(int, *request) int { return 204 })
				e := w.endpoint(func(n int, r *request) int {
					r.location = followed.URL
					return yes(n < 3, status, 204)
				})
				topic := w.topic()
				w.subscribe(topic, pushTo(e.URL))
				w.texts(topic, "a")
				w.until(5*time.Second, func() bool { return e.count() >= 3 || followed.count() > 0 })
				how := yes(e.count() >= 3, "not followed", "never answered")
				if followed.count() > 0 {
					how = "followed by " + followed.at(0).method
				}
				all = append(all, fmt.Sprintf("%d %s", status, how))
			}
			return strings.Join(all, ", ")
		},
	},
	{
		Name: "push_unwrapped", Behaviour: "an unwrapped push with metadata", Documented: "the data as the body; the attributes as headers, and x-goog-pubsub- subscription-name, message-id, publish-time, ordering-key",
		Want: "body a; k v; subscription-name message-id publish-time ordering-key",
		observe: func(w *world) string {
			r := w.pushed(&pubsubpb.PubsubMessage{Data: []byte("a"), Attributes: map[string]string{"k": "v"}, OrderingKey: "key"}, ordering, unwrapped(true))
			var names []string
			for _, name := range []string{"subscription-name", "message-id", "publish-time", "ordering-key"} {
				if r.header.Get("x-goog-pubsub-"+name) != "" {
					names = append(names, name)
				}
			}
			return fmt.Sprintf("body %s; k %s; %s", r.raw, r.header.Get("k"), strings.Join(names, " "))
		},
	},
	{
		Name: "push_unwrapped_bare", Behaviour: "an unwrapped push without metadata", Documented: "the data as the body, nothing of the message in the headers", Want: "body a; nothing in headers",
		observe: func(w *world) string {
			r := w.pushed(&pubsubpb.PubsubMessage{Data: []byte("a"), Attributes: map[string]string{"k": "v"}}, unwrapped(false))
			told := r.header.Get("k") != "" || slices.ContainsFunc(slices.Collect(maps.Keys(r.header)), func(name string) bool { return strings.HasPrefix(name, "X-Goog-Pubsub-") })
			return fmt.Sprintf("body %s; %s", r.raw, yes(told, "metadata in headers", "nothing in headers"))
		},
	},
	{
		Name: "push_timeout", Behaviour: "an endpoint that does not answer", Documented: "is cut off after the acknowledgement deadline, and the message comes again", Want: "again after 10 s, the first cut off",
		observe: func(w *world) string {
			e := w.endpoint(func(n int, r *request) int {
				if n == 1 {
					<-r.done // when the connection is closed, at the latest by the endpoint's own end
				}
				return 204
			})
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL))
			w.texts(topic, "a")
			e.wait(w, 2)
			after := e.at(1).at.Sub(e.at(0).at)
			cut := w.until(time.Second, func() bool {
				select {
				case <-e.at(0).done:
					return true
				default:
					return false
				}
			})
			return yes(after > 9500*time.Millisecond && after < 14*time.Second, "again after 10 s", "again after "+after.Round(time.Second).String()) +
				", the first " + yes(cut, "cut off", "not cut off")
		},
	},
	{
		Name: "push_backoff", Behaviour: "times between pushes of one message that is always refused", Documented: "grow from 100 ms to 60 s", Want: "grow",
		observe: func(w *world) string {
			e := w.endpoint(func(int, *request) int { return 500 })
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL))
			w.texts(topic, "a")
			w.until(15*time.Second, func() bool { return e.count() >= 7 }) // 0.1+0.2+…+3.2 s
			if e.count() < 7 {
				return fmt.Sprintf("%d pushes in 15 s", e.count())
			}
			early, late := e.at(2).at.Sub(e.at(1).at), e.at(6).at.Sub(e.at(5).at)
			return yes(late > 3*early && late > time.Second, "grow", "do not grow")
		},
	},
	{
		Name: "push_backoff_of_subscription", Behaviour: "other messages while every push is refused", Documented: "wait too: the backoff is the subscription's", Want: "under 30 pushes in 8 s",
		observe: func(w *world) string {
			e := w.endpoint(func(int, *request) int { return 500 })
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL))
			for i := range 40 {
				w.texts(topic, fmt.Sprint(i))
				w.until(200*time.Millisecond, func() bool { return false })
			}
			e.wait(w, 1)
			return yes(e.count() < 30, "under 30 pushes in 8 s", "a push of each at least")
		},
	},
	{
		Name: "push_backoff_example", Behaviour: "5 messages a second, one of them refused once", Documented: "about one delivery in 500 ms", Want: "one in 300 to 800 ms",
		observe: func(w *world) string {
			e := w.endpoint(func(_ int, r *request) int {
				return yes(strings.HasSuffix(r.data(), "of five") && r.nth == 1, 500, 204)
			})
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL))
			const half = 75 // messages in 15 s
			counted := 0    // in the second half, when the backoff is what it stays
			for i := range 2 * half {
				if i == half {
					counted = e.count()
				}
				w.texts(topic, fmt.Sprintf("%d%s", i, yes(i%5 == 0, " of five", "")))
				w.pass(200 * time.Millisecond)
			}
			counted = e.count() - counted
			if counted == 0 {
				return "none in 15 s"
			}
			each := 15 * time.Second / time.Duration(counted)
			switch {
			case each < 300*time.Millisecond:
				return "one in less than 300 ms"
			case each > 800*time.Millisecond:
				return "one in more than 800 ms"
			}
			return "one in 300 to 800 ms"
		},
	},
	{
		Name: "push_retry_policy", Behaviour: "a refused push with a retry policy of 3 seconds", Documented: "comes again after the larger of that and the push backoff", Want: "not before 3 s",
		observe: func(w *world) string {
			e := w.endpoint(func(n int, _ *request) int { return yes(n < 2, 500, 204) })
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL), func(s *pubsubpb.Subscription) {
				s.RetryPolicy = &pubsubpb.RetryPolicy{MinimumBackoff: seconds(3), MaximumBackoff: seconds(10)}
			})
			w.texts(topic, "a")
			e.wait(w, 2)
			return yes(e.at(1).at.Sub(e.at(0).at) > 2900*time.Millisecond, "not before 3 s", "before 3 s")
		},
	},
	{
		Name: "push_detach", Behaviour: "DetachSubscription of a push subscription", Documented: "stops the pushes", Want: "OK, no push of b",
		observe: func(w *world) string {
			e := w.endpoint(func(int, *request) int { return 204 })
			topic := w.topic()
			sub := w.subscribe(topic, pushTo(e.URL))
			w.texts(topic, "a")
			e.wait(w, 1)
			_, err := w.publisher.DetachSubscription(w.ctx, &pubsubpb.DetachSubscriptionRequest{Subscription: sub})
			w.until(300*time.Millisecond, func() bool { return false })
			w.texts(topic, "b")
			pushed := w.until(pause, func() bool { return e.count() > 1 })
			return codeOf(err) + yes(pushed, ", a push of b", ", no push of b")
		},
	},
	{
		Name: "push_down_for_days", Behaviour: "an endpoint that refuses everything for six days", Documented: "gets its messages when it is up again", Want: "a b c", NeedsClock: true,
		observe: func(w *world) string {
			up := make(chan struct{})
			e := w.endpoint(func(int, *request) int {
				select {
				case <-up:
					return 204
				default:
					return 500
				}
			})
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL))
			w.texts(topic, "a", "b", "c")
			e.wait(w, 2)
			for range 6 {
				w.advance(day)
				w.until(300*time.Millisecond, func() bool { return false })
			}
			close(up)
			n := e.count()
			arrived := func() []string {
				var all []string
				for i := n; i < e.count(); i++ {
					all = append(all, e.at(i).data())
				}
				slices.Sort(all)
				return slices.Compact(all)
			}
			w.until(patience, func() bool {
				w.advance(10 * time.Second)
				return len(arrived()) == 3
			})
			return strings.Join(arrived(), " ")
		},
	},
	{
		Name: "push_window", Behaviour: "pushes at a time", Documented: "few at first, more while they are acknowledged", Want: "at most 9 at first, over 10 later",
		observe: func(w *world) string {
			var mu sync.Mutex
			running, early, peak := 0, 0, 0
			e := w.endpoint(func(n int, _ *request) int {
				mu.Lock()
				running++
				peak = max(peak, running)
				mu.Unlock()
				w.until(150*time.Millisecond, func() bool { return false })
				mu.Lock()
				defer mu.Unlock()
				if early == 0 {
					early = peak
				}
				running--
				return 204
			})
			topic := w.topic()
			w.texts(topic, "before") // so that nothing is pushed yet
			w.subscribe(topic, pushTo(e.URL))
			w.publish(topic, slices.Repeat([]*pubsubpb.PubsubMessage{text("x")}, 100)...)
			w.until(patience, func() bool { return e.count() >= 100 })
			mu.Lock()
			defer mu.Unlock()
			if peak <= 2 {
				return "2 at most"
			}
			return fmt.Sprintf("%s at first, %s", yes(early <= 9, "at most 9", fmt.Sprint(early)), yes(peak > 10, "over 10 later", fmt.Sprintf("%d later", peak)))
		},
	},
	{
		Name: "push_dead_letter", Behaviour: "a message whose push is refused maxDeliveryAttempts times", Documented: "is published to the dead-letter topic", Want: "5 pushes, then on the dead-letter topic",
		observe: func(w *world) string {
			e := w.endpoint(func(int, *request) int { return 500 })
			topic, dead := w.topic(), w.topic()
			graveyard := w.subscribe(dead)
			w.subscribe(topic, pushTo(e.URL), func(s *pubsubpb.Subscription) { s.DeadLetterPolicy = deadLetters(dead, 5) })
			w.texts(topic, "a")
			w.one(graveyard)
			return fmt.Sprintf("%d pushes, then on the dead-letter topic", e.count())
		},
	},
	{
		Name: "push_pause", Behaviour: "ModifyPushConfig without an endpoint, and with one again", Documented: "stops the pushes, the messages can be pulled; pushes them again", Want: "paused, pulled b, resumed c",
		observe: func(w *world) string {
			e := w.endpoint(func(int, *request) int { return 204 })
			topic := w.topic()
			sub := w.subscribe(topic, pushTo(e.URL))
			w.texts(topic, "a")
			e.wait(w, 1)
			modify := func(url string) {
				_, err := w.subscriber.ModifyPushConfig(w.ctx, &pubsubpb.ModifyPushConfigRequest{Subscription: sub, PushConfig: &pubsubpb.PushConfig{PushEndpoint: url}})
				must("ModifyPushConfig", err)
			}
			modify("")
			w.until(300*time.Millisecond, func() bool { return false })
			w.texts(topic, "b")
			pulled := w.pull(sub, 1, patience)
			paused := yes(e.count() == 1, "paused", "pushed")
			w.ack(sub, pulled...)
			modify(e.URL)
			w.texts(topic, "c")
			e.wait(w, 2)
			return fmt.Sprintf("%s, pulled %s, resumed %s", paused, dataOf(pulled), e.at(1).data())
		},
	},
	{
		Name: "push_change_endpoint", Behaviour: "UpdateSubscription of push_config", Documented: "pushes go to the new endpoint", Want: "new b",
		observe: func(w *world) string {
			before, after := w.endpoint(func(int, *request) int { return 204 }), w.endpoint(func(int, *request) int { return 204 })
			topic := w.topic()
			sub := w.subscribe(topic, pushTo(before.URL))
			w.texts(topic, "a")
			before.wait(w, 1)
			_, err := w.updateSubscription(&pubsubpb.Subscription{Name: sub, PushConfig: &pubsubpb.PushConfig{PushEndpoint: after.URL}}, "push_config")
			must("UpdateSubscription", err)
			w.until(300*time.Millisecond, func() bool { return false })
			w.texts(topic, "b")
			w.until(patience, func() bool { return before.count() > 1 || after.count() > 0 })
			if after.count() == 0 {
				return "old " + before.at(1).data()
			}
			return "new " + after.at(0).data()
		},
	},
	{
		Name: "push_of_pull_backlog", Behaviour: "a push endpoint for a subscription with a backlog", Documented: "gets the backlog: so dead letters are pushed again", Want: "a b c",
		observe: func(w *world) string {
			e := w.endpoint(func(int, *request) int { return 204 })
			topic := w.topic()
			sub := w.subscribe(topic)
			w.texts(topic, "a", "b", "c")
			_, err := w.subscriber.ModifyPushConfig(w.ctx, &pubsubpb.ModifyPushConfigRequest{Subscription: sub, PushConfig: &pubsubpb.PushConfig{PushEndpoint: e.URL}})
			must("ModifyPushConfig", err)
			e.wait(w, 3)
			all := []string{e.at(0).data(), e.at(1).data(), e.at(2).data()}
			slices.Sort(all)
			return strings.Join(all, " ")
		},
	},
	{
		Name: "push_ordering", Behaviour: "pushes of one ordering key", Documented: "one at a time, in order; a refused one holds the later ones of its key and not those of other keys", Want: "a1 a2 a2 a3, one at a time, b1 meanwhile",
		observe: func(w *world) string {
			var mu sync.Mutex
			running, peak := 0, 0
			e := w.endpoint(func(n int, r *request) int {
				if r.data()[0] != 'a' {
					return 204
				}
				mu.Lock()
				running++
				peak = max(peak, running)
				mu.Unlock()
				w.until(50*time.Millisecond, func() bool { return false })
				mu.Lock()
				defer mu.Unlock()
				running--
				if r.data() == "a2" && r.nth == 1 {
					return 500
				}
				return 204
			})
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL), ordering)
			w.publish(topic, keyed("a", "a1"), keyed("a", "a2"), keyed("a", "a3"))
			w.publish(topic, keyed("b", "b1"))
			e.wait(w, 5)
			var as []string
			bs := "b1 missing"
			for i := range e.count() {
				if d := e.at(i).data(); d == "b1" {
					bs = "b1 meanwhile"
				} else {
					as = append(as, d)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprintf("%s, %s, %s", strings.Join(as, " "), yes(peak == 1, "one at a time", "several at a time"), bs)
		},
	},
	{
		Name: "push_hostile_attributes", Behaviour: "an unwrapped push of attributes that are no headers, or Authorization", Documented: "not documented; the token must win and the message must arrive", Want: "arrived, Authorization of Pub/Sub",
		observe: func(w *world) string {
			e := w.endpoint(func(int, *request) int { return 204 })
			topic := w.topic()
			w.subscribe(topic, pushTo(e.URL), unwrapped(true), token("own"))
			w.publish(topic, &pubsubpb.PubsubMessage{Data: []byte("a"), Attributes: map[string]string{"authorization": "Bearer forged", "a b": "1", "c": "d\r\nX-Evil: 1"}})
			if !w.until(5*time.Second, func() bool { return e.count() > 0 }) {
				return "never arrived"
			}
			h := e.at(0).header
			return "arrived, Authorization " + yes(h.Get("Authorization") != "Bearer forged" && h.Get("X-Evil") == "", "of Pub/Sub", "of the publisher")
		},
	},
}

// yes returns one of two values.
func yes[T any](b bool, then, otherwise T) T {
	if b {
		return then
	}
	return otherwise
}

// pushTo makes a subscription push to a URL.
func pushTo(url string) func(*pubsubpb.Subscription) {
	return func(s *pubsubpb.Subscription) { s.PushConfig = &pubsubpb.PushConfig{PushEndpoint: url} }
}

func ordering(s *pubsubpb.Subscription) { s.EnableMessageOrdering = true }

func unwrapped(metadata bool) func(*pubsubpb.Subscription) {
	return func(s *pubsubpb.Subscription) {
		s.PushConfig.Wrapper = &pubsubpb.PushConfig_NoWrapper_{NoWrapper: &pubsubpb.PushConfig_NoWrapper{WriteMetadata: metadata}}
	}
}

const pusher = "push@project.iam.gserviceaccount.com"

func token(audience string) func(*pubsubpb.Subscription) {
	return func(s *pubsubpb.Subscription) {
		s.PushConfig.AuthenticationMethod = &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: pusher, Audience: audience}}
	}
}

// endpoint is a push endpoint that remembers what it was sent.
type endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*request
}

// request is one push.
type request struct {
	at       time.Time
	method   string
	url      string
	header   http.Header
	raw      string
	body     map[string]any
	nth      int // of the requests with this body's data
	done     <-chan struct{}
	location string // of a redirect
}

// endpoint starts one that answers with what respond returns for the n-th
// request, from 1.
func (w *world) endpoint(respond func(n int, r *request) int) *endpoint {
	e := new(endpoint)
	e.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		got := &request{at: time.Now(), method: r.Method, url: "http://" + r.Host + r.URL.String(), header: r.Header, raw: string(raw), done: r.Context().Done()}
		_ = json.Unmarshal(raw, &got.body) // an unwrapped one is no JSON
		e.mu.Lock()
		for _, other := range e.requests {
			if other.data() == got.data() {
				got.nth++
			}
		}
		got.nth++
		e.requests = append(e.requests, got)
		n := len(e.requests)
		e.mu.Unlock()
		status := respond(n, got)
		if got.location != "" {
			rw.Header().Set("Location", got.location)
		}
		if status == http.StatusProcessing { // net/http goes on to 200 after it
			if conn, _, err := http.NewResponseController(rw).Hijack(); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 102 Processing\r\n\r\n")
				_ = conn.Close()
			}
			return
		}
		rw.WriteHeader(status)
	}))
	w.cleanups = append(w.cleanups, e.CloseClientConnections, func() { go e.Close() })
	return e
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.requests)
}

func (e *endpoint) at(i int) *request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests[i]
}

// wait ends the row when n requests do not come.
func (e *endpoint) wait(w *world, n int) {
	if !w.until(patience, func() bool { return e.count() >= n }) {
		panic(broken(fmt.Sprintf("%d of %d pushes came", e.count(), n)))
	}
}

// attempts returns the delivery attempts of the first n pushes.
func (e *endpoint) attempts(w *world, n int) string {
	e.wait(w, n)
	all := make([]string, n)
	for i := range n {
		all[i] = yes(e.at(i).body["deliveryAttempt"] != nil, fmt.Sprint(e.at(i).body["deliveryAttempt"]), "none")
	}
	return strings.Join(all, " ")
}

// pushed publishes a message to a push subscription and returns its push.
func (w *world) pushed(m *pubsubpb.PubsubMessage, with ...func(*pubsubpb.Subscription)) *request {
	e := w.endpoint(func(int, *request) int { return 204 })
	topic := w.topic()
	w.subscribe(topic, append([]func(*pubsubpb.Subscription){pushTo(e.URL + "/push?key=1")}, with...)...)
	w.publish(topic, m)
	e.wait(w, 1)
	return e.at(0)
}

func (r *request) message() map[string]any {
	m, _ := r.body["message"].(map[string]any)
	return m
}

// data returns the data of a wrapped push, or the body.
func (r *request) data() string {
	if r.body == nil {
		return r.raw
	}
	encoded, _ := r.message()["data"].(string)
	data, err := base64.StdEncoding.DecodeString(encoded)
	return yes(err == nil && len(data) > 0, string(data), "?")
}

// fields lists the fields of a wrapped push.
func (r *request) fields() string {
	outer := slices.DeleteFunc(slices.Sorted(maps.Keys(r.body)), func(name string) bool { return name == "message" })
	return fmt.Sprintf("message: %s; %s", strings.Join(slices.Sorted(maps.Keys(r.message())), " "), strings.Join(outer, " "))
}

// token describes the token of a push. It checks no signature.
func (r *request) token() string {
	credential := r.header.Get("Authorization")
	if credential == "" {
		return "no Authorization"
	}
	parts := strings.Split(strings.TrimPrefix(credential, "Bearer "), ".")
	var header struct{ Alg string }
	var claims struct {
		Iss, Aud, Azp, Sub, Email string
		EmailVerified             bool `json:"email_verified"`
		Iat, Exp                  int64
	}
	for i, into := range []any{&header, &claims} {
		if len(parts) != 3 {
			return "no JWT"
		}
		decoded, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(decoded, into) != nil {
			return "no JWT"
		}
	}
	if claims.Aud == r.url {
		claims.Aud = "the endpoint"
	}
	return fmt.Sprintf("%s, iss %s, aud %s, email %s, verified %t, azp %s, %d s", header.Alg, claims.Iss, claims.Aud,
		yes(claims.Email == pusher, "as given", claims.Email), claims.EmailVerified, yes(claims.Azp == claims.Sub && claims.Sub != "", "equal to sub", "other than sub"), claims.Exp-claims.Iat)
}
