package pushfake

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	jsonType = "application/json"
	agent    = "CloudPubSub-Google"
)

// ours returns the headers that every push has, and more.
func ours(more http.Header) http.Header {
	h := http.Header{"Accept": {jsonType}, "Accept-Encoding": {"gzip, deflate, br"}, "From": {"noreply@google.com"}, "User-Agent": {agent}}
	maps.Copy(h, more)
	return h
}

func sample(change func(*pubsubpb.PubsubMessage)) *pubsubpb.PubsubMessage {
	m := &pubsubpb.PubsubMessage{
		Data: []byte("Hello, World!"), MessageId: "2070443601311540",
		PublishTime: timestamppb.New(time.Date(2021, 2, 26, 19, 13, 55, 749e6, time.UTC)),
	}
	change(m)
	return m
}

func TestWrapped(t *testing.T) {
	t.Parallel()
	const ids = `"messageId":"2070443601311540","message_id":"2070443601311540"`
	times := func(s string) string { return `"publishTime":"` + s + `","publish_time":"` + s + `"` }
	usual := times("2021-02-26T19:13:55.749Z")
	const data = `"data":"SGVsbG8sIFdvcmxkIQ==",`
	const sub = `"subscription":"projects/p/subscriptions/s"`
	at := func(ns int) func(*pubsubpb.PubsubMessage) {
		return func(m *pubsubpb.PubsubMessage) {
			m.PublishTime = timestamppb.New(time.Date(2021, 2, 26, 19, 13, 55, ns, time.UTC))
		}
	}
	for name, tc := range map[string]struct {
		change   func(*pubsubpb.PubsubMessage)
		attempts bool
		want     string
	}{
		"data":         {func(*pubsubpb.PubsubMessage) {}, false, `{"message":{` + data + ids + `,` + usual + `},` + sub + `}`},
		"dead_letters": {func(*pubsubpb.PubsubMessage) {}, true, `{"message":{` + data + ids + `,` + usual + `},` + sub + `,"deliveryAttempt":3}`},
		"attributes_only": {func(m *pubsubpb.PubsubMessage) { m.Data, m.Attributes = nil, map[string]string{"b": "2", "a": "1"} }, false,
			`{"message":{"attributes":{"a":"1","b":"2"},` + ids + `,` + usual + `},` + sub + `}`},
		"ordering_key": {func(m *pubsubpb.PubsubMessage) { m.OrderingKey = "k" }, false,
			`{"message":{` + data + ids + `,"orderingKey":"k",` + usual + `},` + sub + `}`},
		"whole_second": {at(0), false, `{"message":{` + data + ids + `,` + times("2021-02-26T19:13:55.000Z") + `},` + sub + `}`},
		"microseconds": {at(1000), false, `{"message":{` + data + ids + `,` + times("2021-02-26T19:13:55.000Z") + `},` + sub + `}`},
		"nanoseconds":  {at(1), false, `{"message":{` + data + ids + `,` + times("2021-02-26T19:13:55.000Z") + `},` + sub + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := encoding{subscription: "projects/p/subscriptions/s", userAgent: agent, attempts: tc.attempts}
			m := sample(tc.change)
			h, body := e.header(m, ""), e.body(m, 3)
			if diff := cmp.Diff(tc.want, string(body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(ours(http.Header{"Content-Type": {jsonType}}), h); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStrings has strings of every kind come back as they were.
func TestStrings(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "plain", `"`, `\`, "/", "\x00", "\x1f", "\x7f", "\r\n\t", "<script>&", "größer 世界 \U0001F600", "\u2028\u2029", strings.Repeat("x", 1024)} {
		m := sample(func(m *pubsubpb.PubsubMessage) {
			m.OrderingKey, m.Attributes, m.Data = s, map[string]string{"k" + s: s}, []byte(s)
		})
		e := encoding{subscription: "projects/p/subscriptions/s"}
		body := e.body(m, 1)
		var got struct {
			Message struct {
				Data        []byte
				Attributes  map[string]string
				OrderingKey string
			}
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Errorf("%q: %v\n%s", s, err, body)
			continue
		}
		if got.Message.OrderingKey != s || got.Message.Attributes["k"+s] != s || string(got.Message.Data) != s {
			t.Errorf("%q came back as %+v", s, got.Message)
		}
	}
}

func TestUnwrapped(t *testing.T) {
	t.Parallel()
	metadata := func(more ...string) http.Header {
		h := ours(http.Header{
			"X-Goog-Pubsub-Message-Id":        {"2070443601311540"},
			"X-Goog-Pubsub-Publish-Time":      {"2021-02-26T19:13:55.749Z"},
			"X-Goog-Pubsub-Subscription-Name": {"projects/p/subscriptions/s"},
		})
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	attributes := func(pairs ...string) func(*pubsubpb.PubsubMessage) {
		return func(m *pubsubpb.PubsubMessage) {
			m.Attributes = make(map[string]string)
			for i := 0; i < len(pairs); i += 2 {
				m.Attributes[pairs[i]] = pairs[i+1]
			}
		}
	}
	for name, tc := range map[string]struct {
		change   func(*pubsubpb.PubsubMessage)
		metadata bool
		want     http.Header
	}{
		"bare":                    {attributes("a", "b", "content-type", "text/plain"), false, ours(nil)},
		"metadata":                {attributes(), true, metadata()},
		"ordering_key":            {func(m *pubsubpb.PubsubMessage) { m.OrderingKey = "k" }, true, metadata("X-Goog-Pubsub-Ordering-Key", "k")},
		"attributes":              {attributes("a", "b", "X-Two", ""), true, metadata("a", "b", "X-Two", "")},
		"content_type":            {attributes("content-type", "text/plain"), true, metadata("Content-Type", "text/plain")},
		"same_in_another_case":    {attributes("Key", "first", "key", "second"), true, metadata("Key", "first")},
		"poses_as_metadata":       {attributes("x-goog-pubsub-message-id", "1", "X-Goog-Pubsub-Ordering-Key", "k"), true, metadata()},
		"poses_as_pubsub":         {attributes("user-agent", "curl", "from", "evil@example.com", "accept-encoding", "identity"), true, metadata()},
		"changes_framing":         {attributes("Content-Length", "1", "host", "evil.test", "transfer-encoding", "chunked", "connection", "close", "expect", "100-continue"), true, metadata()},
		"no_header_name":          {attributes("a b", "1", "", "2", "größe", "3", "a:b", "4", "a\r\nb", "5"), true, metadata()},
		"no_header_value":         {attributes("a", "1\r\nX-Injected: yes", "b", "\x00", "c", "ok"), true, metadata("c", "ok")},
		"ordering_key_no_header":  {func(m *pubsubpb.PubsubMessage) { m.OrderingKey = "a\nb" }, true, metadata()},
		"authorization_attribute": {attributes("authorization", "Bearer x"), true, metadata("Authorization", "Bearer x")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := encoding{subscription: "projects/p/subscriptions/s", userAgent: agent, unwrapped: true, metadata: tc.metadata, attempts: true}
			m := sample(tc.change)
			h, body := e.header(m, ""), e.body(m, 3)
			if string(body) != "Hello, World!" {
				t.Errorf("body: %q", body)
			}
			if diff := cmp.Diff(tc.want, h); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	run := func(w *window, n int, latency time.Duration, failed bool) {
		for range n {
			if failed {
				w.failed(latency)
			} else {
				w.acked(latency)
			}
		}
	}
	for name, tc := range map[string]struct {
		size float64
		do   func(*window)
		want int
	}{
		"grows_by_each_ack":             {4, func(w *window) { run(w, 4, 0, false) }, 8},
		"grows_to_3000_when_slow":       {4, func(w *window) { run(w, 3200, 2*time.Second, false) }, 3000},
		"linear_past_3000":              {3000, func(w *window) { run(w, 3001, 0, false) }, 3001},
		"no_more_than_the_limit":        {49_999, func(w *window) { run(w, 60_000, 0, false) }, 50_000},
		"halved_by_a_failure":           {8, func(w *window) { run(w, 1, 0, true) }, 4},
		"never_closed":                  {8, func(w *window) { run(w, 90, 0, true) }, 1},
		"stops_at_3000_on_its_way":      {5000, func(w *window) { run(w, 1, 0, true) }, 3000},
		"goes_below_3000_if_it_fails":   {5000, func(w *window) { run(w, 2, 0, true) }, 1500},
		"large_one_falls_if_slow":       {20_000, func(w *window) { run(w, 100, time.Second+1, false) }, 3000},
		"large_one_stays_at_one_second": {20_000, func(w *window) { run(w, 100, time.Second, false) }, 20_000},
		"large_one_stays_at_99_percent": {20_000, func(w *window) { run(w, 1, 0, true); run(w, 99, 0, false) }, 10_000},
		"large_one_falls_below_that":    {20_000, func(w *window) { run(w, 2, 0, true); run(w, 98, 0, false) }, 3000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &window{size: tc.size, limit: 50_000}
			tc.do(w)
			if got := w.open(); got != tc.want {
				t.Errorf("window of %d, want %d", got, tc.want)
			}
		})
	}
}
