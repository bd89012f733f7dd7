package publisher_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/testing/protocmp"

	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/publisher"
)

// topic returns a publisher to a topic of an in-process Pub/Sub.
func topic(t *testing.T, opts ...pstest.ServerReactorOption) (*pstest.Server, *publisher.Publisher) {
	t.Helper()
	server := pstest.NewServer(opts...)
	t.Cleanup(func() { _ = server.Close() })
	conn, err := grpc.NewClient(server.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client, err := pubsub.NewClient(t.Context(), "p", option.WithGRPCConn(conn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/t"}); err != nil {
		t.Fatal(err)
	}
	p, err := publisher.New(client, "t")
	if err != nil {
		t.Fatal(err)
	}
	return server, p
}

func TestPublishKeepsOrderAndContent(t *testing.T) {
	t.Parallel()
	server, p := topic(t)
	ids, err := p.Publish(t.Context(), []*pubsubpb.PubsubMessage{
		{Data: []byte("a"), OrderingKey: "k"},
		{Attributes: map[string]string{"k": "v"}, OrderingKey: "k"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 2 || ids[0] == ids[1] {
		t.Fatalf("IDs %v", ids)
	}
	if m := server.Message(ids[0]); string(m.Data) != "a" || m.OrderingKey != "k" {
		t.Errorf("first: %+v", m)
	}
	if m := server.Message(ids[1]); len(m.Data) != 0 || m.Attributes["k"] != "v" {
		t.Errorf("second: %+v", m)
	}
}

func TestPublishErrors(t *testing.T) {
	t.Parallel()
	one := []*pubsubpb.PubsubMessage{{Data: []byte("a")}}
	t.Run("no_topic_is_503", func(t *testing.T) {
		t.Parallel()
		_, p := topic(t, pstest.WithErrorInjection("Publish", codes.NotFound, "no such topic"))
		if _, err := p.Publish(t.Context(), one); !errors.Is(err, publisher.ErrUnavailable) || !strings.Contains(err.Error(), "no such topic") {
			t.Errorf("got %v, want ErrUnavailable with its cause", err)
		}
	})
	t.Run("refused_by_pubsub_is_400", func(t *testing.T) {
		t.Parallel()
		_, p := topic(t, pstest.WithErrorInjection("Publish", codes.InvalidArgument, "bad"))
		_, err := p.Publish(t.Context(), one)
		if status, _ := problem.Of(err); status != http.StatusBadRequest {
			t.Errorf("status %d for %v", status, err)
		}
	})
	t.Run("context_ends_while_unavailable", func(t *testing.T) {
		t.Parallel()
		_, p := topic(t, pstest.WithErrorInjection("Publish", codes.Unavailable, "down"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Publish(ctx, one); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	attributes := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[fmt.Sprint("k", i)] = "v"
		}
		return m
	}
	message := func(change func(*pubsubpb.PubsubMessage)) []*pubsubpb.PubsubMessage {
		m := &pubsubpb.PubsubMessage{Data: []byte("a")}
		change(m)
		return []*pubsubpb.PubsubMessage{{Data: []byte("good"), OrderingKey: m.OrderingKey}, m}
	}
	many := func(n int) []*pubsubpb.PubsubMessage {
		all := make([]*pubsubpb.PubsubMessage, n)
		for i := range all {
			all[i] = &pubsubpb.PubsubMessage{Data: []byte("a")}
		}
		return all
	}
	key := strings.Repeat("k", 1024)
	for name, test := range map[string]struct {
		messages []*pubsubpb.PubsubMessage
		want     string
	}{
		"none":                        {nil, "the request has 0 messages; the limit is 1 to 1000"},
		"thousand":                    {many(1000), ""},
		"thousand_and_one":            {many(1001), "the request has 1001 messages; the limit is 1 to 1000"},
		"neither_data_nor_attributes": {message(func(m *pubsubpb.PubsubMessage) { m.Data = nil }), "message 1 has neither; the limit is at least one byte of data or one attribute"},
		"attributes_only":             {message(func(m *pubsubpb.PubsubMessage) { m.Data, m.Attributes = nil, attributes(1) }), ""},
		"hundred_attributes":          {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = attributes(100) }), ""},
		"too_many_attributes":         {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = attributes(101) }), "message 1 has 101 attributes; the limit is 100"},
		"longest_key":                 {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{key[:256]: "v"} }), ""},
		"key_too_long":                {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{key[:257]: "v"} }), "message 1 has an attribute key of 257 bytes; the limit is 256"},
		"key_empty":                   {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"": "v"} }), "message 1 has an attribute key of 0 bytes; the limit is at least one byte"},
		"key_reserved":                {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"googclient": "v"} }), `message 1 has an attribute key that starts with "goog"; the limit is any prefix but "goog"`},
		"longest_value":               {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"k": key} }), ""},
		"value_too_long":              {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"k": key + "v"} }), "message 1 has an attribute value of 1025 bytes; the limit is 1024"},
		"value_not_utf8":              {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"k": "\xff"} }), "message 1 has an attribute that is not UTF-8; the limit is UTF-8"},
		"longest_ordering_key":        {message(func(m *pubsubpb.PubsubMessage) { m.OrderingKey = key }), ""},
		"ordering_key_too_long":       {message(func(m *pubsubpb.PubsubMessage) { m.OrderingKey = key + "k" }), "message 0 has an ordering key of 1025 bytes; the limit is 1024"},
		"two_ordering_keys":           {[]*pubsubpb.PubsubMessage{{Data: []byte("a"), OrderingKey: "k"}, {Data: []byte("b")}}, "message 1 has another ordering key than message 0; the limit is one ordering key for each request"},
		"largest_message":             {[]*pubsubpb.PubsubMessage{{Data: make([]byte, 9_999_980)}}, ""},
		"too_large":                   {[]*pubsubpb.PubsubMessage{{Data: []byte("a")}, {Data: make([]byte, 10_000_000)}}, "the request has 10000015 bytes, 10000000 of them in message 1; the limit is 10000000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := publisher.Check(test.messages)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || err.Error() != test.want {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
			if status, detail := problem.Of(err); status != http.StatusBadRequest || detail != test.want {
				t.Errorf("answered %d %q", status, detail)
			}
		})
	}
}

func TestNothingIsPublishedWhenOneIsBad(t *testing.T) {
	t.Parallel()
	server, p := topic(t)
	if _, err := p.Publish(t.Context(), []*pubsubpb.PubsubMessage{{Data: []byte("good")}, {}}); err == nil {
		t.Fatal("no error")
	}
	if n := len(server.Messages()); n != 0 {
		t.Errorf("%d messages were published", n)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	data := base64.StdEncoding.EncodeToString([]byte("hi"))
	for name, test := range map[string]struct {
		contentType, query, body string
		want                     []*pubsubpb.PubsubMessage
	}{
		"json": {
			"application/json", "", `{"messages":[{"data":"` + data + `","attributes":{"k":"v"},"orderingKey":"o"},{"attributes":{"a":"b"}}]}`,
			[]*pubsubpb.PubsubMessage{{Data: []byte("hi"), Attributes: map[string]string{"k": "v"}, OrderingKey: "o"}, {Attributes: map[string]string{"a": "b"}}},
		},
		"json_server_set_fields_dropped": {
			"application/json", "", `{"messages":[{"data":"` + data + `","messageId":"7","publishTime":"2026-01-01T00:00:00Z"}]}`,
			[]*pubsubpb.PubsubMessage{{Data: []byte("hi")}},
		},
		"form": {
			"application/x-www-form-urlencoded", "", url.Values{"payload": {"a\nb"}, "attributes": {"k=v\r\n e = =f \n\n"}, "orderingKey": {"o"}}.Encode(),
			[]*pubsubpb.PubsubMessage{{Data: []byte("a\nb"), Attributes: map[string]string{"k": "v", "e": "=f"}, OrderingKey: "o"}},
		},
		"raw": {
			"text/plain; charset=utf-8", "attribute.k=v&attribute.x.y=&other=1", "\x00\xff",
			[]*pubsubpb.PubsubMessage{{Data: []byte("\x00\xff"), Attributes: map[string]string{"k": "v", "x.y": "", "content-type": "text/plain; charset=utf-8"}}},
		},
		"raw_own_content_type": {
			"text/plain", "attribute.content-type=image/png", "x",
			[]*pubsubpb.PubsubMessage{{Data: []byte("x"), Attributes: map[string]string{"content-type": "image/png"}}},
		},
		"raw_without_type": {"", "", "x", []*pubsubpb.PubsubMessage{{Data: []byte("x")}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query, err := url.ParseQuery(test.query)
			if err != nil {
				t.Fatal(err)
			}
			got, err := publisher.Parse(http.Header{"Content-Type": {test.contentType}}, query, []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ contentType, query, body string }{
		"json_empty":             {"application/json", "", ""},
		"json_null":              {"application/json", "", "null"},
		"json_array":             {"application/json", "", "[]"},
		"json_unknown_field":     {"application/json", "", `{"messages":[{"data":"","atributes":{}}]}`},
		"json_bad_base64":        {"application/json", "", `{"messages":[{"data":"$"}]}`},
		"json_trailing":          {"application/json", "", `{"messages":[]} x`},
		"json_deep":              {"application/json", "", `{"messages":` + strings.Repeat("[", 20_000)},
		"form_line_without_sign": {"application/x-www-form-urlencoded", "", "payload=a&attributes=k"},
		"form_key_twice":         {"application/x-www-form-urlencoded", "", "payload=a&attributes=k%3D1%0Ak%3D2"},
		"form_bad_escape":        {"application/x-www-form-urlencoded", "", "payload=%zz"},
		"raw_key_twice":          {"text/plain", "attribute.k=1&attribute.k=2", "x"},
		"bad_content_type":       {"text/", "", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query, err := url.ParseQuery(test.query)
			if err != nil {
				t.Fatal(err)
			}
			got, err := publisher.Parse(http.Header{"Content-Type": {test.contentType}}, query, []byte(test.body))
			if status, _ := problem.Of(err); status != http.StatusBadRequest {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	if p, err := publisher.New(nil, "t"); err == nil {
		t.Errorf("without a client: made %v", p)
	}
	if p, err := publisher.New(&pubsub.Client{}, ""); err == nil {
		t.Errorf("without a topic: made %v", p)
	}
}
